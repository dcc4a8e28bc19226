//! How an operation's stream ended: the one outcome that comes last.

use serde_json::Value;
use shared_proto::failure::{Code, Failure};

/// Reads an outcome: the remote exit code (0 where there is none), or the failure.
pub(crate) fn read(json: &[u8]) -> Result<i32, Failure> {
    let value: Value = serde_json::from_slice(json)
        .map_err(|_| Code::ConnectionLost.on("the control plane's last word on the operation could not be read"))?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("code") {
        "ok" => {
            let code = value.get("exit_code").and_then(Value::as_i64).unwrap_or(0);
            Ok(i32::try_from(code).unwrap_or(1))
        }
        code => {
            let message = if text("message").is_empty() { "the operation failed" } else { text("message") };
            Err(Failure::from_wire(code, message, text("next_step")))
        }
    }
}

/// The stream ended without an outcome.
pub(crate) fn missing() -> Failure {
    Code::ConnectionLost.on("the stream ended without saying how")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes() {
        assert_eq!(read(br#"{"code":"ok","exit_code":3}"#), Ok(3));
        assert_eq!(read(br#"{"code":"ok"}"#), Ok(0));
        let failure = read(br#"{"code":"target_forbidden","message":"pods is forbidden","target_status":403}"#);
        assert_eq!(failure, Err(Code::TargetForbidden.on("pods is forbidden")));
        assert_eq!(read(b"").map_err(|f| f.code), Err(Code::ConnectionLost));
        assert_eq!(read(b"{}").map_err(|f| f.code), Err(Code::Internal));
    }
}
