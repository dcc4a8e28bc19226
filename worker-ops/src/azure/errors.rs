//! What Azure's refusals mean here. Its own words and its own code stay as they are.
//!
//! <https://github.com/microsoft/api-guidelines/blob/vNext/azure/Guidelines.md#handling-errors>

use http::StatusCode;
use serde_json::Value;
use shared_proto::failure::Code;

use crate::fault::{Fault, words};

/// How deep an error within an error is looked for.
const DEPTH_MAX: usize = 8;

/// An answer that is no success.
pub(super) fn refusal(service: &str, status: StatusCode, body: &[u8]) -> Fault {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &answer["error"];
    let code = error["code"].as_str().unwrap_or_default();
    let mut said = vec![error["message"].as_str().unwrap_or_default()];
    // of a query: which word of it is wrong stands innermost
    let mut inner = error;
    for _ in 0..DEPTH_MAX {
        inner = &inner["innererror"];
        match inner["message"].as_str() {
            Some(text) if !said.contains(&text) => said.push(text),
            Some(_) => {}
            None => break,
        }
    }
    let said = words(&said.join(" "));
    let reason = if code.is_empty() { status.canonical_reason().unwrap_or("refused") } else { code };
    let message = match (code, said.as_str()) {
        ("", "") => format!("{service} answered {status}"),
        ("", said) => format!("{service}: {said}"),
        (code, "") => format!("{service}: {code}"),
        (code, said) => format!("{service}: {code}: {said}"),
    };
    let fault = Fault::new(meaning(status, code), message).said(status.as_u16(), words(reason));
    match (fault.code(), code) {
        (Code::TargetNotFound, "SubscriptionNotFound") => {
            fault.next("Name a subscription that the connection's identity sees; it has to have a role in it.")
        }
        (Code::TargetForbidden, _) => fault.next(
            "Give the connection's identity a role with that right, such as Reader; a new one takes some minutes.",
        ),
        _ => fault,
    }
}

/// Whether Resource Graph is what cannot be asked, so that Resource Manager is to be asked itself.
pub(super) fn is_without_graph(fault: &Fault) -> bool {
    let unregistered = matches!(
        fault.reason.as_str(),
        "MissingSubscriptionRegistration"
            | "NoRegisteredProviderFound"
            | "InvalidResourceNamespace"
            | "SubscriptionNotRegistered"
    );
    fault.code() == Code::TargetForbidden || fault.code() == Code::TargetNotFound || unregistered
}

fn meaning(status: StatusCode, code: &str) -> Code {
    match (status.as_u16(), code) {
        (401, _)
        | (_, "ExpiredAuthenticationToken" | "InvalidAuthenticationToken" | "InvalidAuthenticationTokenTenant") => {
            Code::CredentialsExpired
        }
        (429, _) | (_, "RateLimiting" | "TooManyRequests") => Code::TargetThrottled,
        (403, _) => Code::TargetForbidden,
        (404, _) => Code::TargetNotFound,
        (500.., _) => Code::TargetFailed,
        _ => Code::TargetRefused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn codes_of_both_services() {
        for (status, reason, code) in [
            (401, "ExpiredAuthenticationToken", Code::CredentialsExpired),
            (401, "InvalidAuthenticationTokenTenant", Code::CredentialsExpired),
            (403, "AuthorizationFailed", Code::TargetForbidden),
            (403, "InsufficientAccessError", Code::TargetForbidden),
            (404, "SubscriptionNotFound", Code::TargetNotFound),
            (404, "ResourceNotFound", Code::TargetNotFound),
            (429, "TooManyRequests", Code::TargetThrottled),
            (400, "InvalidApiVersionParameter", Code::TargetRefused),
            (409, "MissingSubscriptionRegistration", Code::TargetRefused),
            (500, "InternalServerError", Code::TargetFailed),
            (503, "ServerTimeout", Code::TargetFailed),
        ] {
            let body = json!({"error": {"code": reason, "message": "its words"}}).to_string();
            let fault = refusal("Azure", StatusCode::from_u16(status).expect("a status"), body.as_bytes());
            assert_eq!((fault.code(), fault.status, fault.reason.as_str()), (code, u32::from(status), reason));
            assert_eq!(fault.failure.message, format!("Azure: {reason}: its words"));
            assert!(!fault.failure.next_step.is_empty());
        }
    }

    #[test]
    fn words_of_a_query_stand_innermost_and_other_answers_are_told_by_their_status() {
        let body = json!({"error": {"code": "BadArgumentError", "message": "The request had some invalid properties",
            "innererror": {"code": "SyntaxError", "message": "A recognition error occurred", "line": 1, "pos": 4,
                "innererror": {"code": "SYN0002", "message": "Query could not be parsed at '|'"}}}});
        let fault = refusal("Log Analytics", StatusCode::BAD_REQUEST, body.to_string().as_bytes());
        assert!(fault.failure.message.ends_with("occurred Query could not be parsed at '|'"), "{}", fault.failure);
        for (body, status) in [("<html>", 502), ("", 302), ("[]", 200)] {
            let fault = refusal("Azure", StatusCode::from_u16(status).expect("a status"), body.as_bytes());
            assert!(fault.failure.message.contains(&status.to_string()), "{}", fault.failure);
        }
        let mut deep = json!({"message": "m"});
        for n in 0..100 {
            deep = json!({"message": n.to_string(), "innererror": deep});
        }
        refusal("Azure", StatusCode::BAD_REQUEST, json!({"error": deep}).to_string().as_bytes());
    }

    #[test]
    fn where_resource_graph_cannot_be_asked() {
        let refused = |status: u16, code: &str| {
            let body = json!({"error": {"code": code, "message": "m"}}).to_string();
            is_without_graph(&refusal("Azure", StatusCode::from_u16(status).expect("a status"), body.as_bytes()))
        };
        for (status, code) in
            [(403, "AuthorizationFailed"), (409, "MissingSubscriptionRegistration"), (404, "InvalidResourceNamespace")]
        {
            assert!(refused(status, code), "{code}");
        }
        for (status, code) in
            [(401, "ExpiredAuthenticationToken"), (429, "RateLimiting"), (400, "BadRequest"), (500, "x")]
        {
            assert!(!refused(status, code), "{code}");
        }
    }
}
