//! Writes of Secrets, looked at before they go out.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use shared_proto::failure::Code;
use thiserror::Error;

use super::BODY_MAX;
use super::headers::clear;
use super::patch;
use super::text;

/// Looks at the body of one write of Secrets: POST, PUT, PATCH of every kind, DELETE.
///
/// The body is held whole, at most [`BODY_MAX`] bytes, and goes out as it came or not at all. Refused is what has the mask anywhere: the
/// mask itself is what no honest value is. So a false alarm costs a sentence, and a miss would cost a value. A manifest that was
/// applied over a masked object has the new value, not the mask, and passes.
pub(crate) struct Writes {
    form: Form,
    held: Vec<u8>,
}

/// Why a write does not go out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum WriteRefused {
    /// It would put the mask in the place of a value.
    #[error("the write would replace a secret's value by the mask that the runner shows for it")]
    Mask,
    /// A JSON patch reads a masked value, to test it or to put it where it is shown.
    #[error("the JSON patch reads a masked value: `{operation}` from `{path}`")]
    Reads {
        /// `test`, `copy` or `move`.
        operation: &'static str,
        /// What it reads.
        path: String,
    },
    /// The body is longer than what an API server takes.
    #[error("the write is longer than {max} bytes")]
    TooLarge {
        /// The bound.
        max: usize,
    },
    /// The body is in a form that cannot be looked at.
    #[error("a write of secrets is not taken as `{found}` here, because nothing can be found in it")]
    Form {
        /// Its Content-Type or Content-Encoding.
        found: String,
    },
    /// The body is not what its Content-Type says.
    #[error("the write is not {expected}")]
    Malformed {
        /// What it has to be.
        expected: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// JSON, or a patch that merges.
    Json,
    JsonPatch,
    /// YAML, as server-side apply has it.
    Yaml,
    /// In which values are raw bytes.
    Protobuf,
}

// === impl WriteRefused ===

impl WriteRefused {
    /// The failure's code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Mask => Code::MaskedWrite,
            Self::Reads { .. } => Code::MaskedRead,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Form { .. } | Self::Malformed { .. } => Code::InvalidArgument,
        }
    }

    /// What to do next.
    pub(crate) fn next_step(&self) -> &'static str {
        match self {
            Self::Mask => {
                "Write only the keys that change, with `kubectl patch` or from a manifest with the real values; what was read through the runner has none."
            }
            Self::Reads { .. } => {
                "Test `/metadata/resourceVersion` instead, and write values rather than copy them; or ask whoever owns the runner's policy to show the values of secrets."
            }
            Self::TooLarge { .. } => "Write less at once; a secret has at most 1 MiB.",
            Self::Form { .. } => "Send JSON, YAML or protobuf of Kubernetes, without compression.",
            Self::Malformed { .. } => "Correct the body, or its Content-Type.",
        }
    }
}

// === impl Writes ===

impl Writes {
    /// For a write with these headers.
    ///
    /// # Errors
    /// A form that cannot be looked at, or a length beyond the bound.
    pub(crate) fn new(headers: &HeaderMap) -> Result<Self, WriteRefused> {
        let refuse = |value: &HeaderValue| WriteRefused::Form { found: clear(value.as_bytes()) };
        if let Some(coding) =
            headers.get_all(CONTENT_ENCODING).iter().find(|c| !c.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return Err(refuse(coding));
        }
        let length = headers.get(CONTENT_LENGTH).and_then(|l| l.to_str().ok()).and_then(|l| l.parse::<u64>().ok());
        if length.is_some_and(|length| length > BODY_MAX as u64) {
            return Err(WriteRefused::TooLarge { max: BODY_MAX });
        }
        let mut types = headers.get_all(CONTENT_TYPE).iter();
        let form = match (types.next(), types.next()) {
            // as an API server takes it
            (None, _) => Form::Json,
            (Some(only), None) => Form::of(only).ok_or_else(|| refuse(only))?,
            (Some(_), Some(second)) => return Err(refuse(second)),
        };
        Ok(Self { form, held: Vec::new() })
    }

    /// Takes a piece of the body.
    ///
    /// # Errors
    /// It is longer than the bound.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), WriteRefused> {
        if self.held.len().saturating_add(piece.len()) > BODY_MAX {
            return Err(WriteRefused::TooLarge { max: BODY_MAX });
        }
        self.held.extend_from_slice(piece);
        Ok(())
    }

    /// Gives the whole body, to be sent on as it is.
    ///
    /// # Errors
    /// It has the mask in it, reads a masked value, or is not what it says it is.
    pub(crate) fn finish(self) -> Result<Bytes, WriteRefused> {
        let Self { form, held } = self;
        // readers of YAML take UTF-16 too, in which nothing would be found; a NUL gives away the one that has no mark
        let readable = |expected| {
            let text = std::str::from_utf8(&held).ok().filter(|text| !text.contains('\0'));
            text.ok_or(WriteRefused::Malformed { expected })
        };
        match form {
            Form::Json => readable("JSON in UTF-8").map(|_| ())?,
            Form::Yaml => readable("YAML in UTF-8").map(|_| ())?,
            Form::Protobuf => {}
            Form::JsonPatch => patch::check(readable("a JSON patch")?).map_err(|wrong| match wrong {
                patch::Wrong::NotPatch => WriteRefused::Malformed { expected: "a JSON patch" },
                patch::Wrong::Reads { operation, path } => {
                    WriteRefused::Reads { operation, path: clear(path.as_bytes()) }
                }
            })?,
        }
        if text::has_mask(&held) { Err(WriteRefused::Mask) } else { Ok(held.into()) }
    }
}

// === impl Form ===

impl Form {
    fn of(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media.as_str() {
            "application/json" | "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
                Some(Self::Json)
            }
            "application/json-patch+json" => Some(Self::JsonPatch),
            "application/yaml" | "application/apply-patch+yaml" => Some(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Self::Protobuf),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MASK, MASK_BASE64};
    use super::*;

    const JSON: &str = "application/json";
    const PATCH: &str = "application/json-patch+json";
    const MERGE: &str = "application/merge-patch+json";
    const STRATEGIC: &str = "application/strategic-merge-patch+json; charset=utf-8";
    const APPLY: &str = "application/apply-patch+yaml";
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

    fn write(media: &str, body: &[u8]) -> Result<Bytes, WriteRefused> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(media).expect("a type"));
        let mut writes = Writes::new(&headers)?;
        for piece in body.chunks(5) {
            writes.push(piece)?;
        }
        writes.finish()
    }

    #[test]
    fn a_mask_is_not_put_back() {
        let secret = |data: &str| format!(r#"{{"kind":"Secret","apiVersion":"v1","data":{{"a":"{data}"}}}}"#);
        let applied = format!(
            r#"{{"metadata":{{"annotations":{{"kubectl.kubernetes.io/last-applied-configuration":"{{\"data\":{{\"a\":\"{MASK_BASE64}\"}}}}\n"}}}}}}"#
        );
        for (media, body) in [
            (JSON, secret(MASK_BASE64)),
            (JSON, secret(MASK_BASE64.trim_end_matches('='))),
            (JSON, secret("W21hc2tlZCBieSB0\\r\\naGUgcnVubmVyXQ==")),
            (JSON, secret("\\u005721hc2tlZCBieSB0aGUgcnVubmVyXQ==")),
            // as an editor leaves it, with a line feed
            (JSON, secret("W21hc2tlZCBieSB0aGUgcnVubmVyXQo=")),
            (JSON, format!(r#"{{"stringData":{{"a":"{MASK}"}}}}"#)),
            (JSON, r#"{"stringData":{"a":"\u005bmasked by the runner\u005D"}}"#.to_owned()),
            (JSON, applied.clone()),
            (MERGE, applied),
            (MERGE, secret(MASK_BASE64)),
            (STRATEGIC, secret(MASK_BASE64)),
            (PATCH, format!(r#"[{{"op":"replace","path":"/data/a","value":"{MASK_BASE64}"}}]"#)),
            (PATCH, format!(r#"[{{"op":"add","path":"/data","value":{{"b":"{MASK_BASE64}"}}}}]"#)),
            (APPLY, secret(MASK_BASE64)),
            (APPLY, format!("data:\n  a: {MASK_BASE64}\n")),
            (APPLY, format!("stringData:\n  a: '{MASK}'\n")),
            (APPLY, "stringData: {a: \"\\x5bmasked by\n     the runner]\"}".to_owned()),
            (APPLY, "data:\n  a: >-\n    W21hc2tlZCBieSB0\n    aGUgcnVubmVyXQ==\n".to_owned()),
            (APPLY, "data:\n  a: !!binary |\n    W21hc2tl\n    ZCBieSB0aGUgcnVubmVyXQ==\n".to_owned()),
            ("application/yaml", format!("data:\n  a: \"{MASK_BASE64}\"\n")),
            (PROTOBUF, format!("k8s\0\n\u{c}\n\u{2}v1\u{12}\u{6}Secret\u{12}\u{1a}\n\u{1}a\u{12}\u{16}{MASK}")),
        ] {
            assert_eq!(write(media, body.as_bytes()), Err(WriteRefused::Mask), "{media}: {body}");
        }
    }

    #[test]
    fn other_writes_go_out_as_they_came() {
        for (media, body) in [
            (JSON, r#"{ "kind":"Secret","data":{"a":"bmV3"}, "data":null}"#),
            (JSON, ""),
            (JSON, r#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}"#),
            (STRATEGIC, r#"{"data":{"a":"bmV3","b":null}}"#),
            (PATCH, r#"[{"op":"replace","path":"/data/a","value":"bmV3"}]"#),
            (APPLY, "kind: Secret\nstringData:\n  a: |\n    masked by\n    nobody\n"),
            (PROTOBUF, "k8s\0\n\u{c}"),
        ] {
            assert_eq!(write(media, body.as_bytes()).as_deref(), Ok(body.as_bytes()), "{media}: {body}");
        }
    }

    #[test]
    fn what_cannot_be_looked_at_is_refused() {
        for media in ["application/cbor", "application/apply-patch+cbor", "text/plain", "application/jsonx", ""] {
            assert!(matches!(write(media, b"{}"), Err(WriteRefused::Form { .. })), "{media}");
        }
        let utf16: Vec<u8> = "\u{feff}stringData".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for body in [utf16.as_slice(), &utf16[2..]] {
            assert_eq!(write(APPLY, body), Err(WriteRefused::Malformed { expected: "YAML in UTF-8" }));
        }
        let reads = write(PATCH, br#"[{"op":"test","path":"/data/a","value":"eA=="}]"#).expect_err("reads");
        assert_eq!(reads.code(), Code::MaskedRead);
        assert_eq!(write(PATCH, b"{}"), Err(WriteRefused::Malformed { expected: "a JSON patch" }));

        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(matches!(Writes::new(&headers), Err(WriteRefused::Form { .. })));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(BODY_MAX + 1));
        assert!(matches!(Writes::new(&headers), Err(WriteRefused::TooLarge { .. })));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(BODY_MAX));
        headers.append(CONTENT_TYPE, HeaderValue::from_static(JSON));
        headers.append(CONTENT_TYPE, HeaderValue::from_static(APPLY));
        assert!(matches!(Writes::new(&headers), Err(WriteRefused::Form { .. })));
    }

    #[test]
    fn a_write_is_bounded() {
        let mut writes = Writes::new(&HeaderMap::new()).expect("JSON");
        let mebibyte = vec![b' '; 1 << 20];
        for _ in 0..4 {
            writes.push(&mebibyte).expect("within");
        }
        assert_eq!(writes.push(b" "), Err(WriteRefused::TooLarge { max: BODY_MAX }));
        // a body of nothing but escapes takes no longer than others
        let mut writes = Writes::new(&HeaderMap::new()).expect("JSON");
        writes.push(&b"\\u005c".repeat(BODY_MAX / 6)).expect("within");
        writes.finish().expect("no mask");
    }
}
