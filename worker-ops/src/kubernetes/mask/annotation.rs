//! Annotations. Most say something about a Secret; some hold the Secret itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::MASK;
use super::edit::{Edit, NotJson, fields, is_object, string};
use super::object::{Place, Walk};
use super::table::Columns;
use super::text;

/// Where `kubectl apply` keeps what it applied, for the next time: the whole manifest.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Others that are known to hold a value, or an object in a packed form.
const HOLD_A_VALUE: [&str; 4] = [
    "openshift.io/token-secret.value",
    "objectset.rio.cattle.io/applied",
    "banzaicloud.com/last-applied",
    "kapp.k14s.io/original",
];
/// Shorter texts are no packed object.
const PACKED_MIN: usize = 16;

/// Masks the annotations that hold an object, of a Secret whose values are not shown.
pub(super) fn annotations<'t>(edit: &mut Edit<'t, '_>, value: &'t str, place: Place) -> Result<(), NotJson> {
    if !is_object(value) {
        return edit.mask(value);
    }
    fields(value, |key, value| {
        if value == "null" {
            return Ok(());
        }
        let Some(text) = string(value) else { return edit.mask(value) };
        if key == LAST_APPLIED {
            // one inside another is not what kubectl writes: as a whole, so that depth is bounded
            let inside = if place == Place::Annotation { None } else { applied(&text) };
            edit.string(value, inside.as_deref().unwrap_or(MASK))
        } else if HOLD_A_VALUE.contains(&key) || holds_an_object(&text) {
            edit.mask(value)
        } else {
            Ok(())
        }
    })
}

/// What was applied, masked inside; `None`: it is not an object in JSON.
fn applied(text: &str) -> Option<String> {
    let object = text.trim();
    if !is_object(object) {
        return None;
    }
    let mut out = Vec::with_capacity(object.len());
    let mut edit = Edit::new(object, &mut out);
    // a manifest can say any type: what counts is the type that the Secret has
    let mut columns = Columns::default();
    let mut walk = Walk { shown_types: &[], write: false, columns: &mut columns };
    walk.object(&mut edit, object, Place::Annotation).ok()?;
    edit.finish().ok()?;
    // kubectl ends it with a line feed
    out.extend_from_slice(text.trim_start().get(object.len()..)?.as_bytes());
    String::from_utf8(out).ok()
}

/// Whether a text may have an object with `data` or `stringData` in it: as JSON or YAML, escaped or not, in base64, or packed. In doubt it
/// has: an annotation that is masked without need is no harm.
fn holds_an_object(text: &str) -> bool {
    if text::levels(text.as_bytes()).any(|level| names_data(&level)) {
        return true;
    }
    let mut packed = text.as_bytes().to_vec();
    packed.retain(|b| !b.is_ascii_whitespace());
    if packed.len() < PACKED_MIN {
        return false;
    }
    // gzip in base64, cut short or not
    if packed.starts_with(b"H4sI") {
        return true;
    }
    // an object, or the head of a token
    packed.starts_with(b"eyJ") || STANDARD.decode(&packed).is_ok_and(|plain| names_data(&plain))
}

/// Whether a text has `data` or `stringData` as a key: the word, then nothing but quotes, escapes and white space before a colon.
fn names_data(text: &[u8]) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/');
    let mut before = None;
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        if !before.is_some_and(word)
            && let Some(after) = rest.strip_prefix(b"data").or_else(|| rest.strip_prefix(b"stringData"))
        {
            // such a run has no other word in it, so no text is read over and over
            let close = after.iter().find(|b| !matches!(b, b'"' | b'\'' | b'\\' | b' ' | b'\t' | b'\n' | b'\r'));
            if close == Some(&b':') {
                return true;
            }
        }
        before = Some(*first);
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_an_object() {
        for text in [
            r#"{"data":{"a":"b"}}"#,
            r#"{"kind":"Secret","stringData" : {"a":"b"}}"#,
            r#"[{"d\u0061ta":{}}]"#,
            r#"{"object":"{\"data\":{}}"}"#,
            "kind: Secret\ndata:\n  a: b\n",
            "'data' : {a: b}",
            "H4sIAAAAAAAA/6tWSklUslIqSyxKLUotVrJSqgUAq0uYzBUAAAA=",
            "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln",
            "IHsgImRhdGEiOiB7ImEiOiAiYiJ9fQ==",
        ] {
            assert!(holds_an_object(text), "{text}");
        }
        for text in [
            "",
            "the data of the shop",
            "metadata: none",
            "meta-data: none",
            r#"{"metadata":{"name":"x"}}"#,
            "https://example.org/data/1",
            "true",
            "external-application-name-here",
            "0123456789abcdef0123456789abcdef",
        ] {
            assert!(!holds_an_object(text), "{text}");
        }
    }

    #[test]
    fn what_was_applied_is_masked_inside() {
        let text = "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"c2VjcmV0\"},\"kind\":\"Secret\",\"metadata\":{\"annotations\":{\"kubectl.kubernetes.io/last-applied-configuration\":\"x\"},\"name\":\"n\"},\"stringData\":{\"b\":\"plain\"},\"type\":\"helm.sh/release.v1\"}\n";
        let want = "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"W21hc2tlZCBieSB0aGUgcnVubmVyXQ==\"},\"kind\":\"Secret\",\"metadata\":{\"annotations\":{\"kubectl.kubernetes.io/last-applied-configuration\":\"[masked by the runner]\"},\"name\":\"n\"},\"stringData\":{\"b\":\"[masked by the runner]\"},\"type\":\"helm.sh/release.v1\"}\n";
        assert_eq!(applied(text).as_deref(), Some(want));
        for text in ["", "[]", "{", "{\"data\":{}} x", "c2VjcmV0"] {
            assert_eq!(applied(text), None, "{text}");
        }
    }
}
