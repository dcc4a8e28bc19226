mod answers;
mod headers;
mod properties;
mod stream;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use shared_proto::glob::Glob;

use super::{Answer, MaskError, Masker, Refused, WriteRefused};

pub(super) const DOCUMENT: Answer = Answer::Document { write: false };
pub(super) const HELM: [&str; 1] = ["helm.sh/release.v1"];

/// The same as the masker takes them.
pub(super) fn helm() -> Vec<Glob> {
    HELM.iter().map(|shown| Glob::parse(shown).expect("a pattern")).collect()
}

/// Headers of one name.
pub(super) fn typed(value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(value).expect("a value"));
    headers
}

/// Masks a body that comes in pieces of some sizes, over and over.
pub(super) fn mask(answer: Answer, body: &[u8], sizes: &[usize]) -> Result<String, MaskError> {
    let mut masker = Masker::new(answer, helm());
    let (mut out, mut rest) = (Vec::new(), body);
    for size in sizes.iter().copied().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(size.clamp(1, rest.len()));
        out.extend_from_slice(&masker.push(piece)?);
        rest = after;
    }
    masker.finish()?;
    Ok(String::from_utf8(out).expect("text"))
}

#[test]
fn errors_say_what_to_do_next() {
    let text = || "x".to_owned();
    let mut said = Vec::new();
    for refused in [
        Refused::NotAcceptable { accept: text() },
        Refused::Unreadable { accept: text() },
        Refused::Upgrade { protocol: text() },
    ] {
        said.push((refused.to_string(), refused.next_step()));
    }
    for refused in [
        WriteRefused::Mask,
        WriteRefused::Reads { operation: "test", path: text() },
        WriteRefused::TooLarge { max: 1 },
        WriteRefused::Form { found: text() },
        WriteRefused::Malformed { expected: "JSON" },
    ] {
        assert!((400..500).contains(&refused.code().http()));
        said.push((refused.to_string(), refused.next_step()));
    }
    for failed in [
        MaskError::ContentType { found: text() },
        MaskError::ContentEncoding { found: text() },
        MaskError::Switched,
        MaskError::Body,
        MaskError::TooLarge { max: 1, at: 2 },
        MaskError::Malformed { at: 1 },
        MaskError::Truncated { at: 1 },
    ] {
        said.push((failed.to_string(), failed.next_step()));
    }
    for (message, step) in said {
        assert!(!message.contains(['\n', '{']) && message.len() > 20 && step.len() > 8, "{message}: {step}");
    }
}
