//! What AWS' refusals mean here. Its own words and its own code stay as they are.

use http::{HeaderMap, StatusCode};
use shared_proto::failure::Code;

use super::xml;
use crate::fault::Fault;
use crate::found;

/// The error's code as JSON services put it into a header, if they do.
pub(crate) fn type_header(headers: &HeaderMap) -> Option<String> {
    headers.get("x-amzn-errortype").and_then(|v| v.to_str().ok()).map(str::to_owned)
}

/// An answer that is no success.
pub(crate) fn refusal(service: &str, status: StatusCode, type_header: Option<String>, body: &[u8]) -> Fault {
    let (code, message) = parts(type_header, body);
    let words = match (code.as_str(), message.as_str()) {
        ("", "") => format!("{service} answered {status}"),
        (code, "") => format!("{service}: {code}"),
        ("", message) => format!("{service}: {message}"),
        (code, message) => format!("{service}: {code}: {message}"),
    };
    let reason = if code.is_empty() { status.canonical_reason().unwrap_or_default() } else { &code };
    let meaning = meaning(status, &code);
    let fault = Fault::new(meaning, words).said(status.as_u16(), reason);
    match code.as_str() {
        "SignatureDoesNotMatch" | "RequestTimeTooSkewed" | "InvalidSignatureException" => {
            fault.next("Check the secret access key of the connection's entry, and the runner's clock.")
        }
        "InvalidClientTokenId" | "UnrecognizedClientException" | "InvalidAccessKeyId" | "AuthFailure" => {
            fault.next("The access key is not valid (any more): renew it on the runner's side.")
        }
        _ => fault,
    }
}

/// Code and message, from whichever of the protocols.
fn parts(type_header: Option<String>, body: &[u8]) -> (String, String) {
    if let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) {
        let text = |names: &[&str]| names.iter().find_map(|n| json.get(n)?.as_str()).unwrap_or_default().to_owned();
        let code = type_header.filter(|t| !t.is_empty()).unwrap_or_else(|| text(&["__type", "code", "Code"]));
        // namespace#Code:URL
        let code = code.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default().to_owned();
        return (code, text(&["message", "Message", "errorMessage"]));
    }
    match xml::tree(body) {
        // STS, S3 and EC2 put it in three places
        Ok(answer) => {
            let error = ["/Error", "/Errors/Error", ""]
                .iter()
                .find_map(|at| answer.pointer(at).filter(|e| e.get("Code").is_some()));
            let text = |name: &str| error.map(|e| found::text(e, name)).unwrap_or_default();
            (text("/Code"), text("/Message"))
        }
        Err(_) => (type_header.unwrap_or_default(), String::from_utf8_lossy(body).into_owned()),
    }
}

fn meaning(status: StatusCode, code: &str) -> Code {
    // services add "Exception" or not, as they like
    let bare = code.strip_suffix("Exception").unwrap_or(code);
    match bare {
        "AccessDenied"
        | "UnauthorizedOperation"
        | "Unauthorized"
        | "NotAuthorized"
        | "AuthorizationError"
        | "OptInRequired" => {
            return Code::TargetForbidden;
        }
        "ExpiredToken"
        | "TokenRefreshRequired"
        | "RequestExpired"
        | "InvalidClientTokenId"
        | "UnrecognizedClient"
        | "InvalidAccessKeyId"
        | "AuthFailure"
        | "InvalidToken" => return Code::CredentialsExpired,
        "SignatureDoesNotMatch"
        | "InvalidSignature"
        | "RequestTimeTooSkewed"
        | "IncompleteSignature"
        | "MissingAuthenticationToken" => return Code::CredentialsUnavailable,
        "Throttling"
        | "Throttled"
        | "RequestThrottled"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "SlowDown"
        | "ProvisionedThroughputExceeded"
        | "BandwidthLimitExceeded" => return Code::TargetThrottled,
        "TypeNotFound" => return Code::TargetRefused,
        _ => {}
    }
    match status.as_u16() {
        429 => Code::TargetThrottled,
        500.. => Code::TargetFailed,
        _ if bare.ends_with("NotFound") || bare.contains(".NotFound") || status == StatusCode::NOT_FOUND => {
            Code::TargetNotFound
        }
        401 | 403 => Code::TargetForbidden,
        _ => Code::TargetRefused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        let json = |code: &str| format!(r#"{{"__type":"com.amazon.coral.service#{code}","Message":"words"}}"#);
        let xml = |code: &str| {
            format!(
                "<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type><Code>{code}</Code><Message>words</Message></Error></ErrorResponse>"
            )
        };
        let ec2 = |code: &str| {
            format!("<Response><Errors><Error><Code>{code}</Code><Message>words</Message></Error></Errors></Response>")
        };
        for (status, body, code, reason) in [
            (400, json("AccessDeniedException"), Code::TargetForbidden, "AccessDeniedException"),
            (403, xml("AccessDenied"), Code::TargetForbidden, "AccessDenied"),
            (403, ec2("UnauthorizedOperation"), Code::TargetForbidden, "UnauthorizedOperation"),
            (403, xml("ExpiredToken"), Code::CredentialsExpired, "ExpiredToken"),
            (400, json("ExpiredTokenException"), Code::CredentialsExpired, "ExpiredTokenException"),
            (403, xml("InvalidClientTokenId"), Code::CredentialsExpired, "InvalidClientTokenId"),
            (400, json("UnrecognizedClientException"), Code::CredentialsExpired, "UnrecognizedClientException"),
            (401, ec2("AuthFailure"), Code::CredentialsExpired, "AuthFailure"),
            (403, xml("SignatureDoesNotMatch"), Code::CredentialsUnavailable, "SignatureDoesNotMatch"),
            (400, json("ThrottlingException"), Code::TargetThrottled, "ThrottlingException"),
            (503, ec2("RequestLimitExceeded"), Code::TargetThrottled, "RequestLimitExceeded"),
            (400, json("ResourceNotFoundException"), Code::TargetNotFound, "ResourceNotFoundException"),
            (400, ec2("InvalidInstanceID.NotFound"), Code::TargetNotFound, "InvalidInstanceID.NotFound"),
            (400, json("TypeNotFoundException"), Code::TargetRefused, "TypeNotFoundException"),
            (400, json("ValidationException"), Code::TargetRefused, "ValidationException"),
            (500, json("HandlerInternalFailureException"), Code::TargetFailed, "HandlerInternalFailureException"),
        ] {
            let fault = refusal("sts", StatusCode::from_u16(status).expect("a status"), None, body.as_bytes());
            assert_eq!((fault.code(), fault.status, fault.reason.as_str()), (code, u32::from(status), reason));
            assert_eq!(fault.failure.message, format!("sts: {reason}: words"));
        }
    }

    #[test]
    fn answers_that_are_none_of_aws() {
        let fault = refusal("sts", StatusCode::BAD_GATEWAY, None, b"<html>bad<br>gateway");
        assert_eq!((fault.code(), fault.reason.as_str()), (Code::TargetFailed, "Bad Gateway"));
        let fault = refusal("sts", StatusCode::FORBIDDEN, None, b"");
        assert_eq!(
            (fault.code(), fault.failure.message.as_str()),
            (Code::TargetForbidden, "sts answered 403 Forbidden")
        );
        let fault = refusal("x", StatusCode::BAD_REQUEST, Some("a.b#AccessDeniedException:http://x".into()), b"{}");
        assert_eq!((fault.code(), fault.reason.as_str()), (Code::TargetForbidden, "AccessDeniedException"));
    }
}
