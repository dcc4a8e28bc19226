//! Both sides of a change, in every form that engines give them, and in some that they do not.

use super::*;
use proptest::prelude::*;
use runner_worker_iac::redaction::Redaction;
use serde_json::json;

fn delta(of: Value) -> Delta {
    serde_json::from_value(of).expect("a change")
}
fn found(of: Value) -> Vec<AttributeChange> {
    delta(of).attributes(&Secrets::default()).0
}
/// Each in a line: path, before, after, and what is said of it.
fn lines(of: Value) -> Vec<String> {
    let side = |value: Option<Value>| value.map_or_else(|| "-".to_owned(), |v| v.to_string());
    let said = |a: &AttributeChange| {
        let words = [
            (a.unknown, "unknown"),
            (a.sensitive, "sensitive"),
            (a.only_sensitivity, "only"),
            (a.forces_replacement, "forces"),
        ];
        words.iter().filter(|(is, _)| *is).map(|(_, word)| format!(" {word}")).collect::<String>()
    };
    found(of)
        .into_iter()
        .map(|a| format!("{} {} {}{}", a.path, side(a.before.clone()), side(a.after.clone()), said(&a)))
        .collect()
}

#[test]
fn what_stays_is_not_said_and_what_changes_is_said_where_it_does() {
    let before = json!({
        "same": 1, "text": "a", "null": null, "gone": true, "deep": {"list": [1, 2, 3], "odd key": "x", "same": {}},
        "typed": [1], "empty": [], "number": 1.0,
    });
    let after = json!({
        "same": 1, "text": "b", "null": null, "new": {"a": [false]}, "deep": {"list": [1, 9, 3], "odd key": "y", "same": {}},
        "typed": {"k": 1}, "empty": null, "number": 2.5,
    });
    assert_eq!(
        lines(json!({"before": before, "after": after})),
        [
            "deep.list[1] 2 9",
            "deep[\"odd key\"] \"x\" \"y\"",
            "empty [] -",
            "gone true -",
            "new.a[0] - false",
            "number 1.0 2.5",
            "text \"a\" \"b\"",
            "typed[0] 1 -",
            "typed.k - 1",
        ]
    );
    assert!(lines(json!({"before": {"a": [1, {"b": 2}]}, "after": {"a": [1, {"b": 2}]}})).is_empty());
    assert_eq!(lines(json!({"before": null, "after": "x"})), [" - \"x\""], "an output as a whole");
    assert_eq!(lines(json!({"before": null, "after": {"a": null, "b": {}, "c": []}})), ["b - {}", "c - []"]);
}

#[test]
fn lists_lose_and_get_what_is_in_the_middle() {
    let lists = |before: Value, after: Value| lines(json!({"before": {"l": before}, "after": {"l": after}}));
    assert_eq!(lists(json!([1, 2, 3, 4]), json!([1, 3, 4])), ["l[1] 2 -"]);
    assert_eq!(lists(json!([1, 3]), json!([1, 2, 2, 3])), ["l[1] - 2", "l[2] - 2"]);
    assert_eq!(lists(json!([{"a": 1}, {"a": 2}]), json!([{"a": 1}, {"a": 3}])), ["l[1].a 2 3"]);
    assert_eq!(lists(json!([1, 1]), json!([1, 1, 1])), ["l[2] - 1"]);
    assert_eq!(lists(json!([1]), Value::Null), ["l[0] 1 -"]);
}

#[test]
fn what_is_unknown_is_said_at_every_depth() {
    let of = json!({
        "before": {"id": "i-1", "tags": {"a": 1, "b": 2}, "list": [1, 2], "whole": {"x": 1}, "stays": 1},
        "after": {"tags": {"a": 1}, "list": [1, null], "stays": 1},
        "after_unknown": {"id": true, "tags": {"b": true}, "list": [false, true], "whole": true, "new": {"deep": [true]}},
    });
    assert_eq!(
        lines(of),
        [
            "id \"i-1\" - unknown",
            "list[1] 2 - unknown",
            "new.deep - - unknown",
            "tags.b 2 - unknown",
            "whole {\"x\":1} - unknown",
        ]
    );
    assert_eq!(lines(json!({"before": null, "after": {}, "after_unknown": {"id": true}})), ["id - - unknown"]);
    assert_eq!(lines(json!({"before": null, "after": null, "after_unknown": true})), [" - - unknown"]);
    // of a form that nobody knows: then nothing is known
    assert_eq!(lines(json!({"before": 1, "after": 1, "after_unknown": "odd"})), [" 1 - unknown"]);
}

#[test]
fn what_is_sensitive_is_named_and_never_shown() {
    let of = json!({
        "before": {"password": "hidden-1", "list": [{"key": "hidden-2", "n": 1}], "map": {"a": "hidden-3", "b": 1}, "whole": {"x": "hidden-4"}, "plain": 1},
        "after": {"password": "hidden-5", "list": [{"key": "hidden-6", "n": 2}], "map": {"a": "hidden-3", "b": 2}, "whole": null, "plain": 1, "new": ["hidden-7"]},
        "after_unknown": {"whole": true},
        "before_sensitive": {"password": true, "list": [{"key": true}], "map": {"a": true}, "whole": {"x": true}},
        "after_sensitive": {"list": [{"key": true}], "map": {"a": true}, "new": [true], "plain": true},
    });
    assert_eq!(
        lines(of),
        [
            "list[0].key - - sensitive",
            "list[0].n 1 2",
            "map.b 1 2",
            "new[0] - - sensitive",
            "password - - sensitive",
            "plain - - sensitive only",
            "whole {\"x\":\"(sensitive)\"} - unknown",
        ]
    );
    for (mask, before, after) in [
        (json!(true), json!("hidden"), json!("hidden-too")),
        // of another form than the value, or of none that is known
        (json!({"x": true}), json!(["hidden"]), json!(["hidden-too"])),
        (json!([true]), json!({"x": "hidden"}), json!({"x": "hidden-too"})),
        (json!([{"x": true}]), json!("hidden"), Value::Null),
        (json!("odd"), json!("hidden"), json!("hidden-too")),
        (json!(1), json!(["hidden"]), Value::Null),
    ] {
        for side in ["before_sensitive", "after_sensitive"] {
            let mut of = json!({"before": before, "after": after});
            of[side] = mask.clone();
            // of a side without value a mask of parts hides nothing, and there is nothing to hide
            if side == "after_sensitive" && after.is_null() && mask.is_array() {
                continue;
            }
            assert_eq!(lines(of), [" - - sensitive"], "{side} {mask}");
        }
    }
}

#[test]
fn what_forces_a_replacement_is_said_there_and_above_and_below_it() {
    let of = json!({
        "before": {"a": 1, "b": {"c": 1, "d": 1}, "e": [1, 2], "f": 1}, "after": {"a": 2, "b": {"c": 2, "d": 2}, "f": 2},
        "after_unknown": {"e": true}, "replace_paths": [["a"], ["b", "c"], ["e", 0]],
    });
    assert_eq!(lines(of.clone()), ["a 1 2 forces", "b.c 1 2 forces", "b.d 1 2", "e [1,2] - unknown forces", "f 1 2"]);
    assert_eq!(delta(of).replace_paths(&Secrets::default()), ["a", "b.c", "e[0]"]);
}

#[test]
fn the_jobs_secrets_are_taken_out_of_values_keys_and_numbers() {
    let redaction = Redaction::new(["hunter2-hunter2", "4711471147", "secret.key"]);
    let secrets = Secrets::new(redaction, &Sensitive::default());
    let of = delta(json!({
        "before": null,
        "after": {
            "text": "x hunter2-hunter2 y", "n": 47114711471_u64, "list": ["hunter2-hunter2"], "hunter2-hunter2": 1,
            "secret": {"key": 1}, "long": format!("{}hunter2-hunter2", "x".repeat(VALUE_MAX - 5)),
        },
        "after_unknown": {"unknown": true}, "replace_paths": [["hunter2-hunter2"]],
    }));
    let (attributes, _) = of.attributes(&secrets);
    let text = serde_json::to_string(&attributes).expect("JSON");
    for secret in ["hunter2", "4711471147", "secret.key"] {
        assert!(!text.contains(secret), "{text}");
    }
    assert_eq!(attributes.len(), 7, "{text}");
    assert_eq!(of.replace_paths(&secrets), ["[\"[redacted]\"]"]);
    // of a part that is shown as a whole, too
    let of = delta(
        json!({"before": {"a": {"hunter2-hunter2": [4711471147_u64]}}, "after": {}, "after_unknown": {"a": true}}),
    );
    let (attributes, _) = of.attributes(&secrets);
    assert_eq!(attributes[0].before, Some(json!({"[redacted]": ["[redacted]"]})));
}

#[test]
fn what_is_too_long_and_too_many_is_cut_and_counted() {
    for (length, left_out) in [(VALUE_MAX, 0), (VALUE_MAX + 1, 1), (VALUE_MAX + 1000, 1000)] {
        let of = found(json!({"before": null, "after": {"a": "x".repeat(length)}}));
        assert_eq!(of[0].cut, left_out);
        assert_eq!(of[0].after.as_ref().and_then(Value::as_str).map(str::len), Some(VALUE_MAX));
    }
    let cut = found(json!({"before": null, "after": {"a": "é".repeat(VALUE_MAX)}}));
    assert!(cut[0].after.as_ref().and_then(Value::as_str).is_some_and(|s| s.len() <= VALUE_MAX && s.starts_with('é')));
    // as a whole: an object that is unknown then
    let of = found(json!({"before": {"a": vec![1; VALUE_MAX]}, "after": {}, "after_unknown": {"a": true}}));
    assert!(of[0].before.is_none() && of[0].cut > u32::try_from(VALUE_MAX).expect("fits"));
    for (count, left_out) in [(ATTRIBUTES_MAX, 0), (ATTRIBUTES_MAX + 7, 7)] {
        let of = delta(json!({"before": [], "after": vec![1; count]}));
        let (attributes, more) = of.attributes(&Secrets::default());
        assert_eq!((attributes.len(), more), (ATTRIBUTES_MAX, left_out));
    }
    let mut after = serde_json::Map::new();
    after.insert("k".repeat(5000), 1.into());
    let of = found(json!({"before": null, "after": after}));
    assert!(of[0].path.len() <= NAME_MAX + 4 && of[0].path.ends_with('…'), "{}", of[0].path.len());
}

fn value(nothing: Value) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(nothing),
        proptest::bool::ANY.prop_map(Value::from),
        (0..4_i32).prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// The same with every text in it marked as hidden where the mask says so, by the rules of the format alone.
fn marked(value: &Value, mask: &Value, hidden: bool) -> Value {
    let hidden = hidden || *mask == Value::Bool(true);
    match value {
        Value::Array(items) => {
            items.iter().enumerate().map(|(n, v)| marked(v, mask.get(n).unwrap_or(NULL), hidden)).collect()
        }
        Value::Object(map) => {
            map.iter().map(|(k, v)| (k.clone(), marked(v, mask.get(k).unwrap_or(NULL), hidden))).collect()
        }
        Value::String(text) if hidden => format!("{text}HIDDEN").into(),
        other => other.clone(),
    }
}

proptest! {
    /// Whatever the forms of values, masks and what is unknown: it ends, and nothing that a mask hides is shown.
    #[test]
    fn nothing_that_is_masked_is_shown(
        sides in (value(Value::Null), value(Value::Null)), masks in (value(Value::Null), value(Value::Null)),
        unknown in value(Value::Null), replace in value(Value::Null)
    ) {
        let of = delta(json!({
            "before": marked(&sides.0, &masks.0, false), "after": marked(&sides.1, &masks.1, false), "after_unknown": unknown,
            "before_sensitive": masks.0, "after_sensitive": masks.1, "replace_paths": [[replace]],
        }));
        let (attributes, _) = of.attributes(&Secrets::default());
        let text = serde_json::to_string(&attributes).expect("JSON");
        prop_assert!(!text.contains("HIDDEN"), "{text} of {of:?}");
    }

    /// Without masks: what is the same is said nowhere, and where something differs something is said. (What is null is as if it were not there.)
    #[test]
    fn something_is_said_where_something_differs(before in value(true.into()), after in value(true.into())) {
        let attributes = found(json!({"before": before, "after": after}));
        prop_assert_eq!(before == after, attributes.is_empty(), "{} {}", before, after);
    }
}
