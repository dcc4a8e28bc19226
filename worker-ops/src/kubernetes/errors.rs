//! What an API server's refusal means here. Its own words stay as they are.

use http::{Response, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use shared_proto::failure::Code;

use crate::fault::Fault;
use crate::net::{Endpoint, read_all};

/// The longest refusal that is read, bytes.
const REFUSAL_MAX: usize = 64 * 1024;

/// An answer that is no success.
pub(crate) async fn refusal(endpoint: &Endpoint, answer: Response<Incoming>) -> Fault {
    let code = answer.status();
    // the status counts even where its words do not come through
    let body = read_all(endpoint, answer.into_body(), REFUSAL_MAX).await.ok().flatten().unwrap_or_default();
    from_parts(code, &body)
}

/// The token of a list that has grown too old carries another one to go on with.
pub(crate) fn continuation(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<Status>(body).ok()?.metadata.continue_.filter(|c| !c.is_empty())
}

fn from_parts(code: StatusCode, body: &[u8]) -> Fault {
    let (message, reason) = match serde_json::from_slice::<Status>(body) {
        Ok(status) => (status.message.unwrap_or_default(), status.reason.unwrap_or_default()),
        Err(_) => (String::from_utf8_lossy(body).into_owned(), String::new()),
    };
    let message = match message.trim() {
        "" => format!("the API server answered {code}"),
        // "Unauthorized" alone tells nobody anything
        "Unauthorized" => "the API server does not accept the connection's credentials: Unauthorized".to_owned(),
        words => words.to_owned(),
    };
    let reason = if reason.is_empty() { code.canonical_reason().unwrap_or_default().to_owned() } else { reason };
    let fault = Fault::new(meaning(code), message).said(code.as_u16(), reason);
    if code == StatusCode::TOO_MANY_REQUESTS {
        fault.next("The API server asks to slow down; try again.")
    } else {
        fault
    }
}

fn meaning(code: StatusCode) -> Code {
    match code.as_u16() {
        401 => Code::CredentialsExpired,
        403 => Code::TargetForbidden,
        404 => Code::TargetNotFound,
        429 => Code::TargetThrottled,
        400..500 => Code::TargetRefused,
        _ => Code::TargetFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let body = |reason: &str, message: &str| {
            format!(
                r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"{message}","reason":"{reason}"}}"#
            )
        };
        for (status, reason, message, code) in [
            (401, "Unauthorized", "Unauthorized", Code::CredentialsExpired),
            (403, "Forbidden", "pods is forbidden: User x cannot list", Code::TargetForbidden),
            (404, "NotFound", "pods web not found", Code::TargetNotFound),
            (400, "BadRequest", "container c in pod p is waiting to start", Code::TargetRefused),
            (409, "Conflict", "again", Code::TargetRefused),
            (410, "Expired", "too old", Code::TargetRefused),
            (422, "Invalid", "no", Code::TargetRefused),
            (429, "TooManyRequests", "slow", Code::TargetThrottled),
            (500, "InternalError", "oops", Code::TargetFailed),
            (503, "ServiceUnavailable", "later", Code::TargetFailed),
        ] {
            let code_of = StatusCode::from_u16(status).expect("a status");
            let fault = from_parts(code_of, body(reason, message).as_bytes());
            assert_eq!((fault.code(), fault.status, fault.reason.as_str()), (code, u32::from(status), reason));
            assert!(fault.failure.message.contains(message));
        }
    }

    #[test]
    fn what_is_no_status_is_shown_as_it_is() {
        let fault = from_parts(StatusCode::BAD_GATEWAY, b"<html>\nbad gateway</html>");
        assert_eq!(
            (fault.failure.message.as_str(), fault.reason.as_str()),
            ("<html> bad gateway</html>", "Bad Gateway")
        );
        assert!(from_parts(StatusCode::NOT_FOUND, b"").failure.message.contains("404"));
    }
}
