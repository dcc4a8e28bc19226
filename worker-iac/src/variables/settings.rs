//! The job's variables as values of a Pulumi project's configuration, each set by a command of its own that reads the value from its standard
//! input: <https://www.pulumi.com/docs/concepts/config/>. What a list or an object has in it is set piece by piece, by its path.

use super::{Declarations, Given, Variables, check};
use serde_json::Value;
use shared_proto::failure::{Code, Failure};

/// The most commands that set a job's values: each takes the engine half a second.
const SETTINGS_MAX: usize = 256;

/// One value.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Its key, or a path from one.
    pub(crate) key: String,
    /// Whether the key is a path.
    pub(crate) is_path: bool,
    /// How it is kept.
    pub(crate) kept: Kept,
    /// What the engine reads.
    pub(crate) value: String,
}

/// How a value is kept in the stack's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Encrypted.
    Secret,
    /// As it is.
    Plain,
    /// As one of that type.
    As(&'static str),
}

// === impl Variables ===

impl Variables {
    /// Those of a project. A secret that is too short to be taken out of what is recorded must be marked as one that stays.
    ///
    /// # Errors
    /// A variable that no engine can have; `secret_too_short`; `too_large`: more values than can be set.
    pub(crate) fn of_project(given: &Given<'_>, project: &Declarations) -> Result<Self, Failure> {
        let mut variables = Self::default();
        for (name, value, secret) in given.sorted() {
            check(name, value)?;
            let Some(declared) = project.known.get(name) else {
                if secret {
                    variables.hide(name, value, true, given.is_marked(name))?;
                } else {
                    // better too little shown than too much; a short one cannot be hidden, and nobody called it a secret
                    variables.secrets.push(value.to_owned());
                    variables.taken_for_secret.push(name.to_owned());
                }
                variables.settings.push(Setting::whole(name, value, Kept::Secret));
                continue;
            };
            let declared = given.declared(name, value, secret, declared);
            let plain = declared.plain.unwrap_or(true);
            if declared.sensitive {
                variables.hide(name, value, plain, given.is_marked(name))?;
            }
            let secret = declared.sensitive.then_some(Kept::Secret);
            if plain {
                variables.settings.push(Setting::whole(name, value, secret.unwrap_or(Kept::Plain)));
            } else {
                variables.settings.extend(pieces(name, value, secret)?);
            }
        }
        if variables.settings.len() > SETTINGS_MAX {
            let message = format!(
                "the variables have {} values to set, counting what is in lists and objects; the limit is {SETTINGS_MAX}",
                variables.settings.len()
            );
            return Err(Code::TooLarge.on(message));
        }
        Ok(variables)
    }
}

// === impl Setting ===

impl Setting {
    fn whole(name: &str, value: &str, kept: Kept) -> Self {
        Self { key: name.to_owned(), is_path: false, kept, value: value.to_owned() }
    }
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Setting({}, {:?})", self.key, self.kept)
    }
}

/// What a list or an object has in it.
fn pieces(name: &str, value: &str, secret: Option<Kept>) -> Result<Vec<Setting>, Failure> {
    let refused = |what: &str| Code::InvalidArgument.on(format!("the variable {name} {what}"));
    let parsed: Value =
        serde_json::from_str(value).map_err(|_| refused("is declared as a list or an object, and is no JSON"))?;
    let mut found = Vec::new();
    // whoever reads JSON bounds its depth
    walk(name.to_owned(), &parsed, secret, &mut found).map_err(refused)?;
    Ok(found)
}

fn walk(path: String, value: &Value, secret: Option<Kept>, found: &mut Vec<Setting>) -> Result<(), &'static str> {
    let (kept, value) = match value {
        Value::Array(items) if !items.is_empty() => {
            return items
                .iter()
                .enumerate()
                .try_for_each(|(at, item)| walk(format!("{path}[{at}]"), item, secret, found));
        }
        Value::Object(items) if !items.is_empty() => {
            return items.iter().try_for_each(|(key, item)| {
                // https://www.pulumi.com/docs/concepts/config/#structured-configuration
                let quoted = key.replace('\\', "\\\\").replace('"', "\\\"");
                walk(format!("{path}[\"{quoted}\"]"), item, secret, found)
            });
        }
        Value::Array(_) | Value::Object(_) => {
            return Err("has an empty list or object, which Pulumi's command cannot set");
        }
        Value::Null => return Err("has a null in it, which Pulumi's command cannot set"),
        Value::String(text) => (Kept::As("string"), text.clone()),
        Value::Bool(is) => (Kept::As("bool"), is.to_string()),
        Value::Number(number) if number.is_f64() => (Kept::As("float"), number.to_string()),
        Value::Number(number) => (Kept::As("int"), number.to_string()),
    };
    found.push(Setting { key: path, is_path: true, kept: secret.unwrap_or(kept), value });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Declared;
    use super::*;
    use std::collections::HashMap;

    fn of(given: &[(&str, &str)], marked: &[&str]) -> Result<Variables, Failure> {
        let known = [
            ("text", Declared { plain: Some(true), sensitive: false }),
            ("secret", Declared { plain: None, sensitive: true }),
            ("list", Declared { plain: Some(false), sensitive: false }),
            ("secrets", Declared { plain: Some(false), sensitive: true }),
        ];
        let known = known.into_iter().map(|(name, declared)| (name.to_owned(), declared)).collect();
        let given: HashMap<_, _> =
            given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let marked: Vec<_> = marked.iter().map(|name| (*name).to_owned()).collect();
        let given = Given { values: &given, typed: &[], secrets: &HashMap::new(), marked: &marked };
        Variables::of_project(&given, &Declarations { known, doubtful: false })
    }
    fn shown(variables: &Variables) -> Vec<String> {
        variables.settings.iter().map(|s| format!("{} {:?} {}", s.key, s.kept, s.value)).collect()
    }

    #[test]
    fn values_are_set_as_the_project_declares_them() {
        let variables = of(
            &[
                ("text", "[1]\n"),
                ("secret", "hunter2-hunter2"),
                ("list", r#"[{"a.b": "3", "c\"": true}, 1.5, 12]"#),
                ("secrets", r#"{"user": "somebody", "port": 12345678}"#),
                ("other", "a-value-of-nothing"),
            ],
            &[],
        )
        .expect("fine");
        assert_eq!(
            shown(&variables),
            [
                "list[0][\"a.b\"] As(\"string\") 3",
                "list[0][\"c\\\"\"] As(\"bool\") true",
                "list[1] As(\"float\") 1.5",
                "list[2] As(\"int\") 12",
                "other Secret a-value-of-nothing",
                "secret Secret hunter2-hunter2",
                "secrets[\"port\"] Secret 12345678",
                "secrets[\"user\"] Secret somebody",
                "text Plain [1]\n",
            ]
        );
        for secret in ["a-value-of-nothing", "hunter2-hunter2", "somebody", "12345678"] {
            assert!(variables.secrets.iter().any(|known| known == secret), "{secret}");
        }
        assert!(!variables.secrets.iter().any(|known| known == "[1]\n"));
        let note = variables.notes().next().expect("a note");
        assert!(note.starts_with("Set as secret") && note.ends_with(": other"), "{note}");
        let debug = format!("{variables:?} {:?}", variables.settings);
        assert!(!debug.contains("hunter2"), "{debug}");
    }

    #[test]
    fn what_cannot_be_set_is_refused() {
        for (name, value) in [("list", "x"), ("list", "[]"), ("list", "[{}]"), ("list", "[null]"), ("a:b:c", "x")] {
            let failure = of(&[(name, value)], &[]).expect_err(value);
            assert_eq!(failure.code, Code::InvalidArgument, "{name} {value}");
        }
        assert_eq!(of(&[("secret", "short")], &[]).expect_err("short").code, Code::SecretTooShort);
        assert_eq!(of(&[("secret", "short")], &["secret"]).expect("marked").not_redacted, ["secret"]);
        let many = |count: usize| {
            let list: Vec<_> = (0..count).collect();
            of(&[("list", &Value::from(list).to_string())], &[]).map(|variables| variables.settings.len())
        };
        assert_eq!(many(SETTINGS_MAX), Ok(SETTINGS_MAX));
        assert_eq!(many(SETTINGS_MAX + 1).expect_err("many").code, Code::TooLarge);
    }
}
