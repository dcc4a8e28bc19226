//! What Google's refusals mean here. Its own words stay as they are. <https://cloud.google.com/apis/design/errors>

use http::StatusCode;
use serde_json::Value;
use shared_proto::failure::Code;

use crate::fault::Fault;
use crate::found::text;

/// What is not enabled in the project: of `google.rpc.ErrorInfo`, and as services of old say it.
const DISABLED: [&str; 2] = ["SERVICE_DISABLED", "accessNotConfigured"];
/// What asks to slow down with the status of a refusal.
const SLOW_DOWN: [&str; 5] =
    ["rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "RATE_LIMIT_EXCEEDED", "RESOURCE_QUOTA_EXCEEDED"];

/// An answer that is no success.
pub(super) fn refusal(service: &str, status: StatusCode, body: &[u8]) -> Fault {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let (word, message) = match body.get("error") {
        // as OAuth 2.0's own services say it
        Some(Value::String(word)) => (word.clone(), text(&body, "/error_description")),
        Some(_) => (text(&body, "/error/status"), text(&body, "/error/message")),
        None => (String::new(), String::new()),
    };
    let details = body.pointer("/error/details").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let info = details.iter().find(|d| text(d, "/@type").ends_with("google.rpc.ErrorInfo"));
    let reason = match info.map(|i| text(i, "/reason")) {
        Some(reason) => reason,
        None => text(&body, "/error/errors/0/reason"),
    };
    let words = match (word.as_str(), message.as_str()) {
        ("", "") => format!("{service} answered {status}"),
        (word, "") => format!("{service}: {word}"),
        ("", message) => format!("{service}: {message}"),
        (word, message) => format!("{service}: {word}: {message}"),
    };
    let said = match (reason.as_str(), word.as_str()) {
        ("", "") => status.canonical_reason().unwrap_or_default(),
        ("", word) => word,
        (reason, _) => reason,
    };
    let fault = Fault::new(meaning(status, &word, &reason), words).said(status.as_u16(), said);
    match reason.as_str() {
        disabled if DISABLED.contains(&disabled) => {
            let api = info.map(|i| text(i, "/metadata/service")).filter(|s| !s.is_empty());
            let api = api.unwrap_or_else(|| format!("{service}.googleapis.com"));
            fault.next(format!(
                "Enable the API in the project: `gcloud services enable {api}`; it takes some minutes. If it is the project that is billed, see to quota_project."
            ))
        }
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT" => {
            fault.next("Give the connection's entry the scope cloud-platform; on a virtual machine, its service account's access scopes.")
        }
        "USER_PROJECT_DENIED" => fault.next(
            "Give the connection's identity roles/serviceusage.serviceUsageConsumer on the entry's quota_project, or name another one.",
        ),
        _ => fault,
    }
}

fn meaning(status: StatusCode, word: &str, reason: &str) -> Code {
    if word == "invalid_token" {
        return Code::CredentialsExpired;
    }
    match status.as_u16() {
        401 => Code::CredentialsExpired,
        403 if SLOW_DOWN.contains(&reason) => Code::TargetThrottled,
        403 => Code::TargetForbidden,
        404 => Code::TargetNotFound,
        429 => Code::TargetThrottled,
        500.. => Code::TargetFailed,
        // 3xx too: no service of Google's leads elsewhere, and where it leads nobody would follow with a token
        _ => Code::TargetRefused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(status: u16, body: &Value) -> Fault {
        refusal("compute", StatusCode::from_u16(status).expect("a status"), body.to_string().as_bytes())
    }

    #[test]
    fn refusals() {
        let error = |word: &str| json!({"error": {"code": 0, "status": word, "message": "in words"}});
        for (status, word, code) in [
            (401, "UNAUTHENTICATED", Code::CredentialsExpired),
            (403, "PERMISSION_DENIED", Code::TargetForbidden),
            (404, "NOT_FOUND", Code::TargetNotFound),
            (429, "RESOURCE_EXHAUSTED", Code::TargetThrottled),
            (400, "INVALID_ARGUMENT", Code::TargetRefused),
            (302, "", Code::TargetRefused),
            (503, "UNAVAILABLE", Code::TargetFailed),
        ] {
            let fault = refused(status, &error(word));
            assert_eq!((fault.code(), fault.status), (code, u32::from(status)), "{word}");
            assert!(fault.failure.message.starts_with("compute: ") && fault.failure.message.ends_with("in words"));
        }
    }

    #[test]
    fn what_is_not_enabled_says_what_to_enable() {
        let info = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED",
            "domain": "googleapis.com", "metadata": {"service": "run.googleapis.com", "consumer": "projects/1"}});
        let body = json!({"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "m", "details": [info]}});
        let fault = refused(403, &body);
        assert_eq!((fault.code(), fault.reason.as_str()), (Code::TargetForbidden, "SERVICE_DISABLED"));
        assert!(fault.failure.next_step.contains("gcloud services enable run.googleapis.com"), "{fault:?}");
        let old = json!({"error": {"code": 403, "message": "m", "errors": [{"reason": "accessNotConfigured"}]}});
        assert!(refused(403, &old).failure.next_step.contains("enable compute.googleapis.com"));
        let slow = json!({"error": {"code": 403, "message": "m", "errors": [{"reason": "rateLimitExceeded"}]}});
        assert_eq!(refused(403, &slow).code(), Code::TargetThrottled);
    }

    #[test]
    fn answers_that_are_none_of_googles() {
        let fault = refusal("compute", StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!((fault.code(), fault.reason.as_str()), (Code::TargetFailed, "Bad Gateway"));
        let fault = refused(400, &json!({"error": "invalid_token", "error_description": "Invalid Value"}));
        assert_eq!(fault.code(), Code::CredentialsExpired);
    }
}
