//! How an operation ended, as JSON: in the trailer of a plain stream, in the last event of an event stream, in the last message
//! of a WebSocket.

use http::HeaderValue;
use serde::Serialize;
use shared_proto::v1::Outcome;
use utoipa::ToSchema;

/// The longest text of an outcome that is passed on, characters: it travels in a header.
const TEXT_MAX: usize = 2048;

/// How an operation ended.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct OutcomeBody {
    /// `ok` or one of the failure codes.
    code: String,
    /// What failed, on what.
    message: String,
    /// What to do next.
    next_step: String,
    /// The remote command's own exit code.
    exit_code: i32,
    /// The target's own HTTP status, where the target refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_status: Option<u32>,
    /// The target's own word, where the target refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_reason: Option<String>,
    /// Whether output was cut at a limit.
    truncated: bool,
}

// === impl OutcomeBody ===

impl From<&Outcome> for OutcomeBody {
    fn from(outcome: &Outcome) -> Self {
        let cut = |text: &str| text.chars().take(TEXT_MAX).collect::<String>();
        Self {
            code: outcome.code.clone(),
            message: cut(&outcome.message),
            next_step: cut(&outcome.next_step),
            exit_code: outcome.exit_code,
            target_status: (outcome.target_status != 0).then_some(outcome.target_status),
            target_reason: (!outcome.target_reason.is_empty()).then(|| cut(&outcome.target_reason)),
            truncated: outcome.truncated,
        }
    }
}

impl OutcomeBody {
    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        // text, numbers and a flag: nothing that can fail
        serde_json::to_string(self).unwrap_or_default()
    }
    /// The same in ASCII, for a header.
    pub(crate) fn header(&self) -> HeaderValue {
        ascii(&self.json()).unwrap_or(HeaderValue::from_static("{}"))
    }
}

/// JSON in ASCII, for a header; what is too long for one is cut, and is none then.
pub(super) fn ascii(json: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    use std::fmt::Write as _;
    let mut text = String::new();
    for unit in json.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if (b' '..=b'~').contains(&byte) => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    HeaderValue::from_str(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_carries_any_text() {
        let outcome =
            Outcome { code: "target_failed".into(), message: "ü \u{1F600} \n \"x\"".into(), ..Default::default() };
        let header = OutcomeBody::from(&outcome).header();
        let back: serde_json::Value = serde_json::from_slice(header.as_bytes()).expect("JSON");
        assert_eq!(back["message"], outcome.message);
    }
}
