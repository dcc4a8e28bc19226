//! Takes out of a value what the engine says is sensitive. It gives a second value of the same form with it, in which `true` stands for
//! what is: <https://opentofu.org/docs/internals/json-format/#values-representation>.

use crate::secrets::{Secrets, Sensitive};
use serde_json::Value;

/// What stands for it.
pub(super) const SENSITIVE: &str = "(sensitive)";

/// The value without what is sensitive of it. What the second value says of things that are not there is of no matter.
pub(super) fn masked(value: &Value, sensitive: &Value) -> Value {
    match (value, sensitive) {
        (_, Value::Bool(true)) => SENSITIVE.into(),
        (Value::Object(fields), Value::Object(marks)) => fields
            .iter()
            .map(|(name, field)| (name.clone(), marks.get(name).map_or_else(|| field.clone(), |m| masked(field, m))))
            .collect(),
        (Value::Array(items), Value::Array(marks)) => items
            .iter()
            .enumerate()
            .map(|(at, item)| marks.get(at).map_or_else(|| item.clone(), |m| masked(item, m)))
            .collect(),
        _ => value.clone(),
    }
}

/// Takes down the texts that are sensitive: a provider may have copied one to where the engine does not know of it.
pub(super) fn collect(value: &Value, sensitive: &Value, found: &mut Sensitive) {
    match (value, sensitive) {
        (Value::String(text), Value::Bool(true)) => found.take(text),
        (Value::Object(fields), Value::Bool(true)) => {
            fields.values().for_each(|field| collect(field, sensitive, found))
        }
        (Value::Array(items), Value::Bool(true)) => items.iter().for_each(|item| collect(item, sensitive, found)),
        (Value::Object(fields), Value::Object(marks)) => {
            fields.iter().filter_map(|(name, field)| Some((field, marks.get(name)?))).for_each(|(field, mark)| {
                collect(field, mark, found);
            });
        }
        (Value::Array(items), Value::Array(marks)) => {
            items.iter().zip(marks).for_each(|(item, mark)| collect(item, mark, found));
        }
        _ => {}
    }
}

/// Takes secrets out of every text of a value, names of fields included.
pub(super) fn hide(value: Value, secrets: &Secrets) -> Value {
    let hidden = |mut text: String| {
        secrets.apply(&mut text);
        text
    };
    match value {
        Value::String(text) => Value::String(hidden(text)),
        Value::Array(items) => items.into_iter().map(|item| hide(item, secrets)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, field)| (hidden(name), hide(field, secrets))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runner_worker_iac::redaction::Redaction;
    use serde_json::json;

    #[test]
    fn what_is_marked_is_taken_out_wherever_it_is() {
        let value = json!({ "a": 1, "b": { "c": "s", "d": [1, { "e": "s" }, 3] }, "f": ["s", "s"], "g": null });
        let marks = json!({ "b": { "c": true, "d": [false, { "e": true }] }, "f": true, "g": true, "h": true });
        let expected = json!({
            "a": 1, "b": { "c": SENSITIVE, "d": [1, { "e": SENSITIVE }, 3] }, "f": SENSITIVE, "g": SENSITIVE
        });
        assert_eq!(masked(&value, &marks), expected);
        assert_eq!(masked(&value, &json!(true)), json!(SENSITIVE));
        assert_eq!(masked(&value, &json!({})), value);
    }

    #[test]
    fn what_is_sensitive_in_one_place_is_hidden_in_every_other() {
        let mut found = Sensitive::default();
        let value = json!({ "input": { "of": ["a-sensitive-text"], "n": 1 }, "plain": "a-plain-text" });
        collect(&value, &json!({ "input": true }), &mut found);
        collect(&json!({ "a": ["x", "another-one-of-them"] }), &json!({ "a": [false, true] }), &mut found);
        let secrets = Secrets::new(Redaction::new(["of-the-job-itself"]), &found);
        let copied = json!({
            "output": { "of": ["a-sensitive-text"], "n": 1 }, "another-one-of-them": true,
            "url": "https://x/of-the-job-itself", "plain": "a-plain-text"
        });
        let expected = json!({
            "output": { "of": ["[redacted]"], "n": 1 }, "[redacted]": true,
            "url": "https://x/[redacted]", "plain": "a-plain-text"
        });
        assert_eq!(hide(copied, &secrets), expected);
    }
}
