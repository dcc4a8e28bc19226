//! What of a value an engine says is sensitive: beside the value it gives a second one of the same form, in which `true` stands for what is
//! (<https://opentofu.org/docs/internals/json-format/#values-representation>). What of it is of a form that nobody knows hides all.

use crate::secrets::{Secrets, Sensitive};
use serde_json::Value;

/// What stands for a sensitive value.
pub(crate) const SENSITIVE: &str = "(sensitive)";

/// What of a value is sensitive.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mask<'a> {
    /// None of it.
    Nothing,
    /// All of it.
    All,
    /// What that says.
    Parts(&'a Value),
}

// === impl Mask ===

impl<'a> Mask<'a> {
    /// What is of a form that nobody knows hides all.
    pub(crate) fn of(mask: &'a Value) -> Self {
        match mask {
            Value::Null | Value::Bool(false) => Self::Nothing,
            Value::Object(_) | Value::Array(_) if !any(mask) => Self::Nothing,
            Value::Object(_) | Value::Array(_) => Self::Parts(mask),
            _ => Self::All,
        }
    }
    /// Of a field.
    pub(crate) fn key(self, key: &str) -> Self {
        match self {
            Self::Parts(Value::Object(parts)) => parts.get(key).map_or(Self::Nothing, Self::of),
            Self::Parts(_) => Self::All,
            whole => whole,
        }
    }
    /// Of an element.
    pub(crate) fn index(self, index: usize) -> Self {
        match self {
            Self::Parts(Value::Array(parts)) => parts.get(index).map_or(Self::Nothing, Self::of),
            Self::Parts(_) => Self::All,
            whole => whole,
        }
    }
    /// As it is of a value of that form: of one without parts it cannot be a part that is hidden.
    pub(crate) fn on(self, value: &Value) -> Self {
        match (self, value) {
            (Self::Parts(_), Value::Null) => Self::Nothing,
            (Self::Parts(Value::Object(_)), Value::Object(_)) | (Self::Parts(Value::Array(_)), Value::Array(_)) => self,
            (Self::Parts(_), _) => Self::All,
            (whole, _) => whole,
        }
    }
    /// Whether it is all.
    pub(crate) fn is_all(self) -> bool {
        matches!(self, Self::All)
    }
    /// Whether two say the same.
    pub(crate) fn same(self, other: Self) -> bool {
        match (self, other) {
            (Self::Nothing, Self::Nothing) | (Self::All, Self::All) => true,
            (Self::Parts(a), Self::Parts(b)) => a == b,
            _ => false,
        }
    }
}

/// Whether anything in it is but nothing, `false` and what has no parts.
pub(crate) fn any(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => items.iter().any(any),
        Value::Object(map) => map.values().any(any),
        _ => true,
    }
}

/// Takes down what is sensitive of a value: a provider may have copied it to where the engine does not know of it.
pub(crate) fn note(value: &Value, mask: Mask<'_>, found: &mut Sensitive) {
    match (mask.on(value), value) {
        (Mask::Nothing, _) => {}
        (mask, Value::Array(items)) => {
            items.iter().enumerate().for_each(|(at, item)| note(item, mask.index(at), found));
        }
        (mask, Value::Object(map)) => map.iter().for_each(|(key, value)| note(value, mask.key(key), found)),
        (_, Value::String(text)) => found.take(text),
        (_, Value::Number(number)) => found.take(&number.to_string()),
        _ => {}
    }
}

/// A value without what is sensitive of it, and without secrets, in names of fields and numbers too.
pub(crate) fn clean(value: &Value, mask: Mask<'_>, secrets: &Secrets) -> Value {
    let without = |text: &str| {
        let mut text = text.to_owned();
        secrets.apply(&mut text);
        text
    };
    match (mask.on(value), value) {
        (Mask::All, Value::Null) => Value::Null,
        (Mask::All, _) => SENSITIVE.into(),
        (_, Value::String(text)) => without(text).into(),
        // a secret may be a number
        (_, Value::Number(number)) => {
            let text = number.to_string();
            let clean = without(&text);
            if clean == text { value.clone() } else { clean.into() }
        }
        (mask, Value::Array(items)) => {
            items.iter().enumerate().map(|(at, item)| clean(item, mask.index(at), secrets)).collect()
        }
        (mask, Value::Object(map)) => {
            map.iter().map(|(key, value)| (without(key), clean(value, mask.key(key), secrets))).collect()
        }
        (_, plain) => plain.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runner_worker_iac::redaction::Redaction;
    use serde_json::json;

    fn plainly(value: &Value, mask: &Value) -> Value {
        clean(value, Mask::of(mask), &Secrets::default())
    }

    #[test]
    fn what_is_marked_is_taken_out_wherever_it_is() {
        let value = json!({ "a": 1, "b": { "c": "s", "d": [1, { "e": "s" }, 3] }, "f": ["s", "s"], "g": null });
        let marks = json!({ "b": { "c": true, "d": [false, { "e": true }] }, "f": true, "g": true, "h": true });
        let expected = json!({
            "a": 1, "b": { "c": SENSITIVE, "d": [1, { "e": SENSITIVE }, 3] }, "f": SENSITIVE, "g": null
        });
        assert_eq!(plainly(&value, &marks), expected);
        assert_eq!(plainly(&value, &json!(true)), json!(SENSITIVE));
        for none in [json!({}), json!([]), json!(false), Value::Null, json!({ "a": false, "b": { "d": [] } })] {
            assert_eq!(plainly(&value, &none), value, "{none}");
        }
    }

    #[test]
    fn a_mask_of_another_form_hides_all() {
        for mask in [json!("yes"), json!(1), json!([true])] {
            assert_eq!(plainly(&json!({ "a": "b" }), &mask), json!(SENSITIVE), "{mask}");
        }
        assert_eq!(plainly(&json!("a"), &json!({ "b": true })), json!(SENSITIVE));
    }

    #[test]
    fn what_is_sensitive_in_one_place_is_hidden_in_every_other() {
        let mut found = Sensitive::default();
        let value = json!({ "input": { "of": ["a-sensitive-text"], "n": 1 }, "plain": "a-plain-text" });
        note(&value, Mask::of(&json!({ "input": true })), &mut found);
        note(&json!({ "a": ["x", "another-one-of-them"] }), Mask::of(&json!({ "a": [false, true] })), &mut found);
        let secrets = Secrets::new(Redaction::new(["of-the-job-itself"]), &found);
        let copied = json!({
            "output": { "of": ["a-sensitive-text"], "n": 1 }, "another-one-of-them": true,
            "url": "https://x/of-the-job-itself", "plain": "a-plain-text"
        });
        let expected = json!({
            "output": { "of": ["[redacted]"], "n": 1 }, "[redacted]": true,
            "url": "https://x/[redacted]", "plain": "a-plain-text"
        });
        assert_eq!(clean(&copied, Mask::Nothing, &secrets), expected);
    }
}
