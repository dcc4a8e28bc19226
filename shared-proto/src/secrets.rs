//! References to secrets: what a name of one may look like, and what is taken of a value. Where a store is and which of its paths may be
//! asked for, the runner's own configuration says and nothing else.

use crate::failure::{Code, Failure};
use crate::v1::SecretReference;
use serde_json::Value;

/// Variables of one job that are referred to.
pub const REFERENCES_MAX: usize = 64;
/// One value, bytes.
pub const VALUE_MAX: usize = 64 * 1024;
/// All values of a job, bytes: each is looked for in everything that is recorded.
pub const VALUES_MAX: usize = 256 * 1024;
/// A path, bytes.
pub const PATH_MAX: usize = 512;
/// A store's name and a key, bytes.
pub const NAME_MAX: usize = 128;

/// Checks the form of a reference: that of its path depends on the store, which is not known here.
///
/// # Errors
/// `invalid_argument`, with the variable's name.
pub fn check(variable: &str, reference: &SecretReference) -> Result<(), Failure> {
    let SecretReference { from, path, key } = reference;
    let bad = |what: &str| Err(Code::InvalidArgument.on(format!("the secret of variable {variable} {what}")));
    if !is_store(from) {
        return bad("names no store: letters, digits, '-', '.' and '_', at most 128");
    }
    if path.is_empty() || path.len() > PATH_MAX || path.trim() != path || path.chars().any(char::is_control) {
        return bad("has no path of 1 to 512 bytes without control characters");
    }
    // whatever a pattern allows, it is meant of what is below it
    if path.split('/').any(|part| part == "." || part == "..") {
        return bad("has a path with `.` or `..` in it");
    }
    if key.len() > 2 * NAME_MAX || key.chars().any(char::is_control) {
        return bad("has a key that is longer than 256 bytes or has control characters");
    }
    Ok(())
}

/// Whether a text may be a store's name.
pub fn is_store(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// What is meant of a value: all of it, or a field of the JSON object that it is.
///
/// # Errors
/// `too_large`, `target_not_found`: there is no such field, `target_refused`: it is no text, or no object; never with the value.
pub fn field(value: &[u8], key: &str) -> Result<String, Failure> {
    let whole = std::str::from_utf8(value).map_err(|_| Code::TargetRefused.on("the value is no text in UTF-8"))?;
    let text = if key.is_empty() {
        whole.to_owned()
    } else {
        match serde_json::from_str::<Value>(whole) {
            Ok(Value::Object(mut fields)) => match fields.remove(key) {
                Some(found) => text_of(found),
                None => return Err(missing(key)),
            },
            _ => {
                return Err(
                    Code::TargetRefused.on(format!("the value is no JSON object that could have a field {key:?}"))
                );
            }
        }
    };
    checked(text)
}

/// A text as it is, anything else as JSON.
pub fn text_of(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// There is no such field.
pub fn missing(key: &str) -> Failure {
    Code::TargetNotFound.on(format!("the value has no field {key:?}")).next("Check the reference's key.")
}

/// A value that a variable may have.
///
/// # Errors
/// `too_large`, `target_refused`.
pub fn checked(text: String) -> Result<String, Failure> {
    if text.len() > VALUE_MAX {
        return Err(Code::TooLarge.on(format!("the value has {} bytes, the limit is {VALUE_MAX}", text.len())));
    }
    if text.contains('\0') {
        return Err(Code::TargetRefused.on("the value has a NUL in it, which no variable can have"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(from: &str, path: &str, key: &str) -> SecretReference {
        SecretReference { from: from.into(), path: path.into(), key: key.into() }
    }

    #[test]
    fn references_are_names_and_lead_nowhere_else() {
        let longest = "a".repeat(PATH_MAX);
        for (from, path, key) in
            [("vault", "apps/shop", "password"), ("s.1_a", "/prod/db", ""), ("a", "a...b/c", "ü"), ("a", &longest, "")]
        {
            assert_eq!(check("v", &reference(from, path, key)), Ok(()), "{from} {path} {key}");
        }
        let (name, path, key) = ("a".repeat(NAME_MAX + 1), "a".repeat(PATH_MAX + 1), "a".repeat(2 * NAME_MAX + 1));
        for (from, path, key) in [
            ("", "a", ""),
            ("a/b", "a", ""),
            (&name, "a", ""),
            ("a", "", ""),
            ("a", &path, ""),
            ("a", " a", ""),
            ("a", "a\nb", ""),
            ("a", "../a", ""),
            ("a", "a/../b", ""),
            ("a", "a/.", ""),
            ("a", "a", &key),
            ("a", "a", "\0"),
        ] {
            let failure = check("v", &reference(from, path, key)).expect_err(path);
            assert!(failure.code == Code::InvalidArgument && failure.message.contains("variable v"), "{failure}");
        }
    }

    #[test]
    fn fields_are_taken_of_objects_alone() {
        let object = br#"{"user": "bob", "port": 5432, "of": {"a": [1]}}"#;
        assert_eq!(field(b"plain", "").as_deref(), Ok("plain"));
        assert_eq!(field(object, "user").as_deref(), Ok("bob"));
        assert_eq!(field(object, "port").as_deref(), Ok("5432"));
        assert_eq!(field(object, "of").as_deref(), Ok(r#"{"a":[1]}"#));
        for (value, key, code) in [
            (&object[..], "nothing", Code::TargetNotFound),
            (b"s3cr3t", "user", Code::TargetRefused),
            (b"[\"s3cr3t\"]", "user", Code::TargetRefused),
            (b"\xffs3cr3t", "", Code::TargetRefused),
            (b"s3cr3t\0", "", Code::TargetRefused),
        ] {
            let failure = field(value, key).expect_err(key);
            assert!(failure.code == code && !failure.to_string().contains("s3cr3t"), "{failure}");
        }
        assert!(field(&vec![b'x'; VALUE_MAX], "").is_ok());
        assert_eq!(field(&vec![b'x'; VALUE_MAX + 1], "").expect_err("too long").code, Code::TooLarge);
    }
}
