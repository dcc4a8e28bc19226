//! Takes out of a value what the engine says is sensitive. It gives a second value of the same form with it, in which `true` stands for
//! what is: <https://opentofu.org/docs/internals/json-format/#values-representation>.

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

#[cfg(test)]
mod tests {
    use super::*;
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
}
