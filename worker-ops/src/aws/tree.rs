//! What stands where in an answer, whether it came as JSON or as XML.

use serde_json::Value;
use std::collections::BTreeMap;

/// Whatever is at a path of names; lists on the way are gone through, and what is not there is not found. An empty path: the value itself.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = members(value);
    for name in path.split('/').filter(|name| !name.is_empty()) {
        found = found.into_iter().filter_map(|v| v.get(name)).flat_map(members).collect();
    }
    found
}

fn members(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Null => Vec::new(),
        one => vec![one],
    }
}

/// The first text or number there; empty: none.
pub(crate) fn text(value: &Value, path: &str) -> String {
    match at(value, path).first() {
        Some(Value::String(text)) => text.clone(),
        Some(number @ Value::Number(_)) => number.to_string(),
        _ => String::new(),
    }
}

/// Tags at a path, in whichever of the forms services write them: a list of keys and values, or one object.
pub(crate) fn tags(value: &Value, path: &str) -> BTreeMap<String, String> {
    let first = |tag: &Value, names: [&str; 4]| names.iter().find_map(|n| tag.get(n)?.as_str()).map(str::to_owned);
    let mut tags = BTreeMap::new();
    for tag in at(value, path) {
        match first(tag, ["Key", "key", "TagKey", "tagKey"]) {
            Some(key) => {
                let value = first(tag, ["Value", "value", "TagValue", "tagValue"]).unwrap_or_default();
                tags.insert(key, value);
            }
            None => tags.extend(crate::found::texts(Some(tag))),
        }
    }
    tags
}

/// A time as services write it, a text or seconds since 1970, as RFC 3339.
pub(crate) fn time(value: &Value, path: &str) -> Option<String> {
    match at(value, path).first()? {
        Value::String(text) => Some(text.clone()).filter(|t| !t.is_empty()),
        Value::Number(seconds) => seconds.as_f64().map(|s| moment((s * 1000.0).round() as i64)),
        _ => None,
    }
}

/// Unix milliseconds as RFC 3339, in UTC.
pub(crate) fn moment(ms: i64) -> String {
    let seconds = shared_proto::identity::rfc3339(ms.div_euclid(1000));
    match seconds.strip_suffix('Z') {
        Some(whole) => format!("{whole}.{:03}Z", ms.rem_euclid(1000)),
        // no date that a calendar has
        None => seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_on_the_way_are_gone_through() {
        let value = json!({"a": [{"b": {"c": 1}}, {"b": {"c": "2"}}, {"b": ""}], "n": null, "l": ["x", "y"]});
        assert_eq!(at(&value, "a/b/c"), [&json!(1), &json!("2")]);
        assert_eq!(at(&value, "l"), [&json!("x"), &json!("y")]);
        assert!(at(&value, "n").is_empty() && at(&value, "a/x").is_empty());
        assert_eq!(at(&value, ""), [&value]);
        assert_eq!((text(&value, "a/b/c"), text(&value, "none")), ("1".to_owned(), String::new()));
    }

    #[test]
    fn tags_of_each_form() {
        let expected = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        for value in [
            json!({"t": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}]}),
            json!({"t": [{"key": "a", "value": "1"}, {"key": "b"}]}),
            json!({"t": {"a": "1", "b": ""}}),
        ] {
            assert_eq!(tags(&value, "t"), expected, "{value}");
        }
        assert_eq!(tags(&json!({"t": {"Key": "a", "Value": "1"}}), "t").len(), 1);
        assert!(tags(&json!({"t": ""}), "t").is_empty() && tags(&json!({}), "t").is_empty());
    }

    #[test]
    fn times_of_each_form() {
        let of = |value: Value| time(&json!({ "t": value }), "t");
        assert_eq!(of(json!("2026-01-02T03:04:05Z")).as_deref(), Some("2026-01-02T03:04:05Z"));
        assert_eq!(of(json!(1_767_323_045.25)).as_deref(), Some("2026-01-02T03:04:05.250Z"));
        assert_eq!((of(json!("")), of(json!(null))), (None, None));
        assert_eq!(moment(-1), "1969-12-31T23:59:59.999Z");
    }
}
