//! YAML of a JSON value: block style, strings quoted whenever another reading were possible. JSON's quoting is YAML's too.

use serde_json::Value;

/// The whole document.
pub(crate) fn to_string(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut out),
        Value::Array(items) if !items.is_empty() => block(value, 0, &mut out),
        other => {
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
    out
}

/// A non-empty object or list at this depth, each line with its indent.
fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                indent(depth, out);
                out.push_str(&string(key));
                out.push(':');
                nested(value, depth, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                indent(depth, out);
                out.push('-');
                match item {
                    Value::Object(map) if !map.is_empty() => {
                        // the first key stands on the dash's line
                        let mut inner = String::new();
                        block(item, depth + 1, &mut inner);
                        out.push(' ');
                        out.push_str(inner.trim_start_matches(' '));
                    }
                    other => nested(other, depth, out),
                }
            }
        }
        _ => {}
    }
}

/// What follows a key or a dash, with the end of the line.
fn nested(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, depth + 1, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, depth + 1, out);
        }
        Value::String(text) if is_literal(text) => {
            out.push_str(if text.ends_with('\n') { " |\n" } else { " |-\n" });
            for line in text.trim_end_matches('\n').split('\n') {
                if !line.is_empty() {
                    indent(depth + 1, out);
                    out.push_str(line);
                }
                out.push('\n');
            }
        }
        other => {
            out.push(' ');
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Object(_) => "{}".into(),
        Value::Array(_) => "[]".into(),
        other => other.to_string(),
    }
}

/// Several lines that a literal block keeps exactly.
fn is_literal(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && !text.ends_with("\n\n")
        && text
            .chars()
            .all(|c| c == '\n' || (!c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')))
}

fn string(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Letters first, nothing that YAML reads otherwise, no word that means something.
fn is_plain(text: &str) -> bool {
    const WORDS: &[&str] = &["true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_')
        && !text.ends_with([' ', ':'])
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " -_./:@+=,()".contains(c))
        && !text.contains(": ")
        && !text.contains(" #")
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::to_string;
    use serde_json::json;

    #[test]
    fn documents() {
        // keys in alphabetical order: with serde_json's `preserve_order`, which another crate may switch on, it stays the same
        let value = json!({
            "count": 3, "empty": {}, "escape": "\u{1b}[2J",
            "items": [{"labels": {"app": "web", "v": "1.0"}, "list": [], "name": "a"}, {"name": "true"}, "x", ["y", 1]],
            "none": null, "odd": " lead", "text": "a\nb\n", "url": "https://a:1/b",
        });
        let expected = "count: 3\nempty: {}\nescape: \"\\u001b[2J\"\nitems:\n  - labels:\n      app: web\n      v: \"1.0\"\n    list: []\n    name: a\n  - name: \"true\"\n  - x\n  -\n    - \"y\"\n    - 1\nnone: null\nodd: \" lead\"\ntext: |\n  a\n  b\nurl: https://a:1/b\n";
        assert_eq!(to_string(&value), expected);
        assert_eq!(to_string(&json!([])), "[]\n");
        assert_eq!(to_string(&json!("a: b")), "\"a: b\"\n");
        assert_eq!(to_string(&json!({"k": "a\n\n b"})), "k: |-\n  a\n\n   b\n");
    }
}
