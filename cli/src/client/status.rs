//! What a `Status` of the Kubernetes API means: the API server's own words with the code that they have elsewhere in this product, or one
//! that the control plane made of a failure of its own, which keeps its code.

use serde_json::Value;
use shared_proto::failure::{Code, Failure};

/// Of what is no document so much is shown, characters.
const WORDS_MAX: usize = 300;

/// The failure that a `Status` tells; none where the document is something else. `http`: the answer's status, where the document has none.
pub(crate) fn failure(document: &Value, http: u16) -> Option<Failure> {
    if document["kind"] != "Status" || document["apiVersion"] != "v1" {
        return None;
    }
    let message = document["message"].as_str().unwrap_or_default().trim();
    if let Some(own) = own(message) {
        return Some(own);
    }
    let number = document["code"].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(http);
    let message = match message {
        "" => format!("the API server answered {number}"),
        // "Unauthorized" alone tells nobody anything
        "Unauthorized" => "the API server does not accept the connection's credentials: Unauthorized".to_owned(),
        words => words.to_owned(),
    };
    Some(meaning(number).on(message))
}

/// What an API server refuses in plain words, as for a path that it does not have.
pub(super) fn in_words(http: u16, body: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(body);
    let words: String = text.trim().chars().take(WORDS_MAX).collect();
    let said = if words.is_empty() { String::new() } else { format!(": {words}") };
    meaning(http).on(format!("the API server answered {http}{said}"))
}

/// The code of an API server's refusal.
fn meaning(number: u16) -> Code {
    match number {
        401 => Code::CredentialsExpired,
        403 => Code::TargetForbidden,
        404 => Code::TargetNotFound,
        429 => Code::TargetThrottled,
        400..500 => Code::TargetRefused,
        _ => Code::TargetFailed,
    }
}

/// `CODE: MESSAGE (NEXT STEP)`, as the control plane writes its own failures.
fn own(message: &str) -> Option<Failure> {
    let (name, rest) = message.split_once(": ")?;
    let code = Code::from_name(name)?;
    let usual = format!(" ({})", code.next_step());
    if let Some(message) = rest.strip_suffix(&usual) {
        return Some(code.on(message));
    }
    match rest.strip_suffix(')').and_then(|rest| rest.rsplit_once(" (")) {
        Some((message, next)) => Some(code.on(message).next(next)),
        None => Some(code.on(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(code: u16, message: &str) -> Failure {
        let status = json!({"kind": "Status", "apiVersion": "v1", "message": message, "code": code});
        failure(&status, 500).expect("a status")
    }

    #[test]
    fn the_api_servers_words_get_their_code() {
        for (number, code) in [
            (401, Code::CredentialsExpired),
            (403, Code::TargetForbidden),
            (404, Code::TargetNotFound),
            (409, Code::TargetRefused),
            (422, Code::TargetRefused),
            (429, Code::TargetThrottled),
            (503, Code::TargetFailed),
        ] {
            assert_eq!(of(number, "pods \"web\": no"), code.on("pods \"web\": no"), "{number}");
        }
        assert!(of(401, "Unauthorized").message.contains("credentials"));
        assert_eq!(
            in_words(404, b"404 page not found\n"),
            Code::TargetNotFound.on("the API server answered 404: 404 page not found")
        );
        assert_eq!(failure(&json!({"kind": "Pod", "apiVersion": "v1"}), 404), None);
        assert_eq!(failure(&json!({"error": {}}), 404), None);
    }

    #[test]
    fn a_failure_of_the_control_plane_keeps_its_code() {
        let plain = Code::RunnerUnavailable.on("runner r was last seen 5 s ago (by its clock)");
        let text = format!("{}: {} ({})", plain.code, plain.message, plain.next_step);
        assert_eq!(of(503, &text), plain);
        let other = Code::PolicyDenied.on("rule x (y)").next("Ask.");
        assert_eq!(of(403, "policy_denied: rule x (y) (Ask.)"), other);
        assert_eq!(of(403, "policy_denied: x"), Code::PolicyDenied.on("x"));
        assert_eq!(of(404, "not_a_code: x").code, Code::TargetNotFound);
    }
}
