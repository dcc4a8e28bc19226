//! What holds for any Secret, in any form, however it is cut.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::{Answer, MASK, MASK_BASE64, Masker};
use super::{DOCUMENT, HELM, helm, mask};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A Secret as it is stored.
#[derive(Debug, Clone)]
struct Secret {
    data: Vec<(String, Vec<u8>)>,
    /// Of the manifest that was applied.
    string_data: Option<Vec<(String, String)>>,
    annotations: Vec<(String, String)>,
    type_: &'static str,
    /// A field that nobody knows, with a value in it.
    other: Option<(String, String)>,
}

fn key() -> impl Strategy<Value = String> {
    "[a-z]{1,8}"
}

/// Text that is nowhere else in an answer.
fn text() -> impl Strategy<Value = String> {
    "Q[A-Z0-9ÄÖ\"\\\\\n\u{1}<]{3,20}Q"
}

fn secret() -> impl Strategy<Value = Secret> {
    (
        prop::collection::vec((key(), prop::collection::vec(any::<u8>(), 4..40)), 0..4),
        prop::option::of(prop::collection::vec((key(), text()), 0..3)),
        prop::collection::vec((key(), "[a-z ,/]{0,12}"), 0..3),
        prop::sample::select(vec!["Opaque", "kubernetes.io/tls", "", "helm.sh/release.v1"]),
        prop::option::of(("[a-z]{10,12}", text())),
    )
        .prop_map(|(data, string_data, annotations, type_, other)| Secret {
            data,
            string_data,
            annotations,
            type_,
            other,
        })
}

// === impl Secret ===

impl Secret {
    fn shown(&self) -> bool {
        HELM.contains(&self.type_)
    }

    fn metadata(&self, masked: bool) -> Value {
        let mut annotations: Map<_, _> = self.annotations.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        if let Some(applied) = &self.string_data {
            let values =
                |mask: &str| applied.iter().map(|(k, v)| (k.clone(), json!(if masked { mask } else { v }))).collect();
            let (string_data, data): (Map<_, _>, Map<_, _>) = (values(MASK), values(MASK_BASE64));
            let manifest = json!({"kind": "Secret", "stringData": string_data, "data": data, "type": self.type_});
            annotations.insert(LAST_APPLIED.to_owned(), json!(format!("{manifest}\n")));
        }
        json!({"name": "n", "labels": {"app": "shop"}, "generation": 1.5, "annotations": annotations})
    }

    /// As an API server has it, or as it should be shown.
    fn object(&self, masked: bool) -> Value {
        let hidden = masked && !self.shown();
        let data: Map<_, _> = self
            .data
            .iter()
            .map(|(k, v)| (k.clone(), if hidden { json!(MASK_BASE64) } else { json!(STANDARD.encode(v)) }))
            .collect();
        let mut object = json!({"kind": "Secret", "data": data, "metadata": self.metadata(hidden), "type": self.type_});
        if let Some((key, value)) = &self.other {
            object[key] = if masked { json!(MASK) } else { json!({"value": value}) };
        }
        object
    }

    /// Whether an answer has one of the values that are not shown.
    fn is_in(&self, answer: &[u8], metadata_only: bool) -> bool {
        let mut values: Vec<Vec<u8>> = Vec::new();
        if let Some((_, value)) = &self.other {
            values.push(value.clone().into_bytes());
        }
        if !self.shown() || metadata_only {
            values.extend(self.data.iter().map(|(_, value)| value.clone()));
            values.extend(self.string_data.iter().flatten().map(|(_, value)| value.clone().into_bytes()));
        }
        values.iter().any(|value| {
            let escaped = json!(String::from_utf8_lossy(value)).to_string();
            let twice = json!(escaped).to_string();
            let base64 = STANDARD.encode(value);
            let forms = [
                value.as_slice(),
                base64.trim_end_matches('=').as_bytes(),
                escaped.trim_matches('"').as_bytes(),
                twice.trim_matches(['"', '\\']).as_bytes(),
            ];
            forms.iter().any(|form| form.len() >= 4 && answer.windows(form.len()).any(|window| window == *form))
        })
    }
}

/// The forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    One,
    List,
    Rows,
    Metadata,
    Watch,
    WatchRows,
    WatchMetadata,
}

const COLUMNS: [&str; 4] = ["Name", "Type", "Data", "Age"];

// === impl Form ===

impl Form {
    fn answer(self) -> Answer {
        match self {
            Self::One | Self::List | Self::Rows | Self::Metadata => DOCUMENT,
            Self::Watch | Self::WatchRows | Self::WatchMetadata => Answer::Watch,
        }
    }

    fn metadata_only(self) -> bool {
        matches!(self, Self::Metadata | Self::WatchMetadata)
    }

    fn documents(self, secrets: &[Secret], masked: bool) -> Vec<Value> {
        let row = |secret: &Secret| {
            let object = if self.metadata_only() {
                json!({"kind": "PartialObjectMetadata", "metadata": secret.metadata(masked)})
            } else {
                secret.object(masked)
            };
            json!({"cells": ["n", secret.type_, secret.data.len(), "3d"], "object": object})
        };
        let table = |rows: Vec<Value>| {
            let columns: Vec<_> = COLUMNS.iter().map(|name| json!({"name": name, "priority": 0})).collect();
            json!({"kind": "Table", "columnDefinitions": columns, "metadata": {}, "rows": rows})
        };
        let event = |object: Value| json!({"type": "ADDED", "object": object});
        let objects = || secrets.iter().map(|secret| secret.object(masked));
        match self {
            Self::One => objects().take(1).collect(),
            Self::List => vec![
                json!({"kind": "SecretList", "items": objects().collect::<Vec<_>>(), "metadata": {"continue": "c"}}),
            ],
            Self::Rows | Self::Metadata => vec![table(secrets.iter().map(row).collect())],
            Self::Watch => objects().map(event).collect(),
            Self::WatchRows | Self::WatchMetadata => secrets.iter().map(|s| event(table(vec![row(s)]))).collect(),
        }
    }
}

fn form() -> impl Strategy<Value = Form> {
    use Form::{List, Metadata, One, Rows, Watch, WatchMetadata, WatchRows};
    prop::sample::select(vec![One, List, Rows, Metadata, Watch, WatchRows, WatchMetadata])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_value_comes_through(
        secrets in prop::collection::vec(secret(), 1..4),
        form in form(),
        pretty in any::<bool>(),
        escaped in any::<bool>(),
        twice in any::<bool>(),
        sizes in prop::collection::vec(1..200_usize, 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let write = |value: &Value| if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        let mut body = String::new();
        for document in form.documents(&secrets, false) {
            body += &write(&document).expect("JSON");
            body.push('\n');
        }
        if twice {
            // the first of two equal keys, which most readers forget
            let first = STANDARD.encode([0xfe; 9]);
            body = body.replacen("\"data\":", &format!("\"data\":{{\"a\":\"{first}\"}},\"data\":"), 1);
        }
        if escaped {
            for (_, value) in secrets.iter().flat_map(|secret| &secret.data) {
                let value = STANDARD.encode(value);
                let escapes: String = value.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
                body = body.replace(&value, &escapes);
            }
        }
        let out = mask(form.answer(), body.as_bytes(), &sizes).expect("masked");
        prop_assert_eq!(&mask(form.answer(), body.as_bytes(), &[usize::MAX]).expect("masked"), &out);
        for secret in secrets.iter().take(if form == Form::One { 1 } else { usize::MAX }) {
            prop_assert!(!secret.is_in(out.as_bytes(), form.metadata_only()), "{out}");
        }
        let shown: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&out).into_iter().collect();
        prop_assert_eq!(shown.expect("JSON"), form.documents(&secrets, true));
        // all that is not masked is there byte for byte: what is shown is its own mask
        prop_assert_eq!(&mask(form.answer(), out.as_bytes(), &sizes).expect("masked"), &out);

        let cut = cut.index(body.trim_end().len());
        let mut masker = Masker::new(form.answer(), helm());
        let out = masker.push(&body.as_bytes()[..cut]).expect("nothing wrong as far as it goes");
        for secret in &secrets {
            prop_assert!(!secret.is_in(&out, form.metadata_only()), "{cut}");
        }
        if form.answer() == DOCUMENT {
            prop_assert!(masker.finish().is_err());
        }
    }

    /// Whatever comes, there is no panic, and what is passed on was JSON and is.
    #[test]
    fn what_is_passed_on_is_json(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "{", "{", "}", "}", "[", "]", ",", ":", "\"items\":[", "\"items\"", "\"rows\":[", "\"data\":", "\"object\":", "\"type\":",
                "\"kind\":\"Status\"", "\"metadata\":{", "\"annotations\":{", "\"a\":", "\"", "\\", "1", "null", "\"x\"", " ", "\n", "\u{c}", "é",
            ]),
            0..24,
        ),
        watch in any::<bool>(),
        sizes in prop::collection::vec(1..20_usize, 1..4),
    ) {
        let body = words.concat();
        let answer = if watch { Answer::Watch } else { DOCUMENT };
        let out = mask(answer, body.as_bytes(), &sizes);
        prop_assert_eq!(&mask(answer, body.as_bytes(), &[usize::MAX]).is_ok(), &out.is_ok());
        if let Ok(out) = out {
            for text in [&body, &out] {
                let read: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
                prop_assert!(read.is_ok(), "{text}");
            }
        } else if !watch {
            // what it refuses is no object, or has a key that is no text
            prop_assert!(serde_json::from_str::<Map<String, Value>>(&body).is_err(), "{body}");
        }
    }
}
