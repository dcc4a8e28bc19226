//! The job's variables on their way to the engine: by files that only this user can read, named on the command line, because those
//! alone win over a `terraform.tfvars` of the source; to Pulumi one by one, by its standard input. A value never goes into argv, and only the values of variables that the module
//! calls sensitive are taken out of what is recorded: a plan without its names would say nothing.

mod declared;
mod settings;

use crate::configuration::tokens;
use crate::engine::environment::private_file;
use runner_worker_iac::redaction::SHORTEST;
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{JobRequest, JobStart};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

pub(crate) use declared::{Declarations, Declared};
pub(crate) use settings::{Kept, Setting};

/// The longest variable that can go by the environment, name and value: what the kernel takes, with `TF_VAR_`, its `=` and its end.
const IN_ENVIRONMENT_MAX: usize = 128 * 1024 - 16;
/// The most names of variables in one note.
const NAMED_MAX: usize = 50;

/// What a job's variables are given as.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    /// Values as whoever made the job wrote them.
    pub(crate) values: &'a HashMap<String, String>,
    /// Of these, those that are JSON and no texts, whatever declares them.
    pub(crate) typed: &'a [String],
    /// Those that were referred to or sealed: never to be shown, whatever declares them.
    pub(crate) secrets: &'a HashMap<String, String>,
    /// Secret ones that may be too short to be taken out of what is recorded.
    pub(crate) marked: &'a [String],
}

/// A job's variables as one root module takes them.
#[derive(Default)]
pub(crate) struct Variables {
    /// Of a JSON file: `"name": value`.
    json: Vec<String>,
    /// Of a file in the engine's language, for what is no JSON: `name = (value)`.
    native: Vec<String>,
    /// By the environment: those of which nobody knows how they are declared.
    pub(crate) environment: Vec<(String, String)>,
    /// What is never to be recorded.
    pub(crate) secrets: Vec<String>,
    /// Those of which something is secret and too short to be taken out of what is recorded.
    pub(crate) not_redacted: Vec<String>,
    /// For an engine that takes them one by one.
    pub(crate) settings: Vec<Setting>,
    undeclared: Vec<String>,
    /// Taken for secrets, because nobody says what they are.
    taken_for_secret: Vec<String>,
}

// === impl Given ===

impl<'a> Given<'a> {
    /// Of a job.
    pub(crate) fn of(start: &'a JobStart, request: &'a JobRequest) -> Self {
        let JobRequest { variables: values, typed, not_redacted: marked, .. } = request;
        Self { values, typed, secrets: &start.secrets, marked }
    }
    /// All of them by name, with whether each is a secret by where it came from.
    fn sorted(&self) -> Vec<(&'a str, &'a str, bool)> {
        let of = |map: &'a HashMap<String, String>, secret| {
            map.iter().map(move |(name, value)| (name.as_str(), value.as_str(), secret))
        };
        let mut all: Vec<_> = of(self.values, false).chain(of(self.secrets, true)).collect();
        all.sort_unstable();
        all
    }
    /// How one is declared: its own form, and where it came from, are minded.
    fn declared(&self, name: &str, value: &str, secret: bool, declared: &Declared) -> Declared {
        let typed = !secret && self.typed.iter().any(|typed| typed == name) && is_json(value);
        let plain = match declared.plain {
            // a text that looks like JSON is a text still, unless whoever gave it said otherwise
            None if typed => Some(false),
            plain => plain,
        };
        Declared { plain, sensitive: declared.sensitive || secret }
    }
    fn is_marked(&self, name: &str) -> bool {
        self.marked.iter().any(|marked| marked == name)
    }
}

// === impl Variables ===

impl Variables {
    /// Sorts the values by how the module declares them. A secret that is too short to be taken out of what is recorded must be
    /// marked as one that stays.
    ///
    /// # Errors
    /// A variable that no engine can have; `secret_too_short`.
    pub(crate) fn new(given: &Given<'_>, module: &Declarations) -> Result<Self, Failure> {
        let mut variables = Self::default();
        for (name, value, secret) in given.sorted() {
            check(name, value)?;
            match module.known.get(name) {
                Some(declared) => {
                    variables.pass(
                        name,
                        value,
                        given.declared(name, value, secret, declared),
                        given.is_marked(name),
                    )?;
                }
                // the engine reads its language better: it knows the type, and takes no offence at what it does not know
                None if module.doubtful => {
                    if name.len() + value.len() > IN_ENVIRONMENT_MAX {
                        let message = format!("the variable {name} is longer than {IN_ENVIRONMENT_MAX} bytes");
                        return Err(Code::TooLarge.on(message));
                    }
                    variables.environment.push((format!("TF_VAR_{name}"), value.to_owned()));
                    variables.secrets.push(value.to_owned());
                }
                None => {
                    variables.undeclared.push(name.to_owned());
                    if secret {
                        variables.secrets.push(value.to_owned());
                    }
                }
            }
        }
        Ok(variables)
    }

    fn pass(&mut self, name: &str, value: &str, declared: Declared, marked: bool) -> Result<(), Failure> {
        let plain = declared.plain.unwrap_or(true);
        let quoted = |text: &str| Value::from(text).to_string();
        if plain {
            self.json.push(format!("{}: {}", quoted(name), quoted(value)));
        } else if is_json(value) {
            // as it stands: a number keeps all its digits
            self.json.push(format!("{}: {value}", quoted(name)));
        } else {
            // the parentheses let it go over several lines, and end in a comment
            self.native.push(format!("{name} = (\n{value}\n)\n"));
        }
        if declared.sensitive {
            self.hide(name, value, plain, marked)?;
        }
        Ok(())
    }

    /// Sees to it that a value is never recorded.
    fn hide(&mut self, name: &str, value: &str, plain: bool, marked: bool) -> Result<(), Failure> {
        let parts = if plain { Vec::new() } else { parts(value) };
        // an empty text, list or object has nothing to hide
        let empty = if plain { value.is_empty() } else { parts.is_empty() };
        let short = value.len() < SHORTEST && !empty;
        if short && !marked {
            return Err(too_short(name, value.len()));
        }
        if short || parts.iter().any(|part| (1..SHORTEST).contains(&part.len())) {
            self.not_redacted.push(name.to_owned());
        }
        self.secrets.push(value.to_owned());
        self.secrets.extend(parts);
        Ok(())
    }

    /// Writes the files into the job's temporary folder. The arguments that name them.
    ///
    /// # Errors
    /// The file system.
    pub(crate) fn write(&self, tmp: &Path) -> Result<Vec<String>, Failure> {
        let mut arguments = Vec::new();
        for (file, content) in [
            ("variables.tfvars.json", (!self.json.is_empty()).then(|| format!("{{{}}}\n", self.json.join(",\n")))),
            ("variables.tfvars", (!self.native.is_empty()).then(|| self.native.concat())),
        ] {
            if let Some(content) = content {
                let path = tmp.join(file);
                private_file(&path, content.as_bytes())?;
                arguments.push(format!("-var-file={}", path.display()));
            }
        }
        Ok(arguments)
    }

    /// What a user is to know about variables that are not passed, or not as they are written.
    pub(crate) fn notes(&self) -> impl Iterator<Item = String> {
        let note = |what: &str, names: &[String]| {
            let shown = match names.len() {
                0 => return None,
                n if n > NAMED_MAX => format!("{} and {} more", names[..NAMED_MAX].join(", "), n - NAMED_MAX),
                _ => names.join(", "),
            };
            Some(format!("{what}: {shown}"))
        };
        let undeclared = "Not passed to the engine, because the root module declares no such variable";
        let secret = "Set as secret, because the project does not declare what they are (`config` in Pulumi.yaml)";
        [note(undeclared, &self.undeclared), note(secret, &self.taken_for_secret)].into_iter().flatten()
    }
}

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files = self.json.len() + self.native.len();
        write!(f, "Variables({} values)", files + self.environment.len() + self.settings.len())
    }
}

fn too_short(name: &str, length: usize) -> Failure {
    let has = if length == 1 { "1 byte".to_owned() } else { format!("{length} bytes") };
    Code::SecretTooShort
        .on(format!("the secret variable {name} has {has}: fewer than {SHORTEST} cannot be taken out of what the job records"))
        .next(format!(
            "Give it at least {SHORTEST} bytes. Or let it stay in what is recorded: `runnerctl stack update STACK --not-redacted {name}`."
        ))
}

fn check(name: &str, value: &str) -> Result<(), Failure> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        let shown: String = name.chars().take(100).collect();
        return Err(Code::InvalidArgument.on(format!("{shown:?} is no name of a variable")));
    }
    if value.contains('\0') {
        return Err(Code::InvalidArgument.on(format!("the variable {name} holds a NUL")));
    }
    Ok(())
}

/// The texts and numbers inside of a list or an object: the engine shows them one by one.
fn parts(value: &str) -> Vec<String> {
    fn walk(value: Value, parts: &mut Vec<String>) {
        match value {
            Value::String(text) => parts.push(text),
            Value::Number(number) => parts.push(number.to_string()),
            Value::Array(items) => items.into_iter().for_each(|item| walk(item, parts)),
            Value::Object(items) => items.into_iter().for_each(|(_, item)| walk(item, parts)),
            Value::Null | Value::Bool(_) => {}
        }
    }
    match serde_json::from_str(value) {
        Ok(value) => {
            let mut parts = Vec::new();
            walk(value, &mut parts);
            parts
        }
        Err(_) => tokens::texts(value),
    }
}

fn is_json(value: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok()
}

/// What is secret as long as nobody knows how the variables are declared: all of them.
pub(crate) fn all<'a>(start: &'a JobStart, request: &'a JobRequest) -> impl Iterator<Item = &'a str> {
    request.variables.values().chain(start.secrets.values()).map(String::as_str)
}

/// The variables of which a module says that they are given: its declarations, by name.
type Known = BTreeMap<String, Declared>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn declared(plain: Option<bool>, sensitive: bool) -> Declared {
        Declared { plain, sensitive }
    }
    fn given(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }
    /// Values that somebody wrote, and of which some may stay.
    fn sorted(
        values: &HashMap<String, String>,
        marked: &[String],
        module: &Declarations,
    ) -> Result<Variables, Failure> {
        Variables::new(&Given { values, typed: &[], secrets: &HashMap::new(), marked }, module)
    }

    #[test]
    fn values_go_as_their_variables_are_declared() {
        let known = [
            ("text", declared(Some(true), false)),
            ("untyped", declared(None, false)),
            ("list", declared(Some(false), false)),
            ("native", declared(Some(false), false)),
            ("secret", declared(None, true)),
            ("secrets", declared(Some(false), true)),
        ];
        let known = known.into_iter().map(|(name, d)| (name.to_owned(), d)).collect();
        let module = Declarations { known, doubtful: false };
        let values = given(&[
            ("text", "[1]"),
            ("untyped", "a \"quoted\" ${thing}"),
            ("list", "[12345678901234567890123]"),
            ("native", "{ a = 1 } # so"),
            ("secret", "hunter2-hunter2"),
            ("secrets", "{\"a\": [\"password-1\", 12345678]}"),
            ("typo", "a-value-of-nothing"),
        ]);
        let variables = sorted(&values, &[], &module).expect("fine");
        let folder = tempfile::tempdir().expect("a folder");
        let arguments = variables.write(folder.path()).expect("writes");
        assert_eq!(arguments.len(), 2);
        let path = folder.path().join("variables.tfvars.json");
        assert_eq!(std::fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(path).expect("reads");
        assert!(text.contains("\"list\": [12345678901234567890123]"), "{text}");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&json["text"], &json["untyped"]), (&"[1]".into(), &"a \"quoted\" ${thing}".into()));
        assert_eq!(json["secrets"]["a"][0], "password-1");
        assert_eq!(json.get("typo"), None);
        let native = std::fs::read_to_string(folder.path().join("variables.tfvars")).expect("reads");
        assert_eq!(native, "native = (\n{ a = 1 } # so\n)\n");
        assert_eq!(
            variables.secrets,
            ["hunter2-hunter2", "{\"a\": [\"password-1\", 12345678]}", "password-1", "12345678"]
        );
        assert!(variables.environment.is_empty());
        let note = variables.notes().next().expect("a note");
        assert!(note.ends_with(": typo") && !note.contains("a-value"), "{note}");
    }

    #[test]
    fn a_short_secret_is_refused_unless_it_is_marked() {
        let known = [
            ("secret", declared(Some(true), true)),
            ("shown", declared(Some(true), false)),
            ("untyped", declared(None, true)),
            ("secrets", declared(Some(false), true)),
        ];
        let known = known.into_iter().map(|(name, d)| (name.to_owned(), d)).collect();
        let module = Declarations { known, doubtful: false };
        let of = |name: &str, value: &str, marked: &[&str]| {
            let marked: Vec<_> = marked.iter().map(|m| (*m).to_owned()).collect();
            sorted(&given(&[(name, value)]), &marked, &module).map(|v| v.not_redacted)
        };
        let none = Ok(Vec::new());
        for (name, value) in [("secret", "seven-7"), ("untyped", "seven-7"), ("secrets", "[\"a\"]"), ("secret", "ä")] {
            let failure = of(name, value, &["shown"]).expect_err(value);
            assert_eq!(failure.code, Code::SecretTooShort);
            let said = format!("{} {}", failure.message, failure.next_step);
            assert!(said.contains(&format!("{name} has {} bytes", value.len())), "{said}");
            assert!(said.contains(&format!("--not-redacted {name}")) && !said.contains(value), "{said}");
            assert_eq!(of(name, value, &["other", name]), Ok(vec![name.to_owned()]));
        }
        let one = of("secret", "x", &[]).expect_err("too short");
        assert!(one.message.contains("secret has 1 byte: "), "{one}");
        for (name, value) in [("secret", "eight-88"), ("shown", "seven-7"), ("secret", ""), ("secrets", "[]")] {
            assert_eq!(of(name, value, &[]), none, "{value}");
            // long enough: taken out, whatever is marked
            assert_eq!(of(name, value, &[name]), none, "{value}");
        }
        // a part of something longer is not refused, and said
        assert_eq!(
            of("secrets", "{\"user\": \"bob\", \"password\": \"long-enough\"}", &[]),
            Ok(vec!["secrets".to_owned()])
        );
        assert_eq!(of("secrets", "{\"password\": \"long-enough\"}", &[]), none);
    }

    #[test]
    fn what_was_referred_to_is_a_secret_whatever_declares_it_and_json_is_no_text_where_that_is_said() {
        let known = [
            ("text", declared(Some(true), false)),
            ("untyped", declared(None, false)),
            ("list", declared(Some(false), false)),
            ("port", declared(None, false)),
            ("zip", declared(None, false)),
            ("name", declared(Some(true), false)),
        ];
        let known = known.into_iter().map(|(name, d)| (name.to_owned(), d)).collect();
        let module = Declarations { known, doubtful: false };
        let secrets = given(&[
            ("text", "hunter2-hunter2"),
            ("untyped", "[\"is-a-text\"]"),
            ("list", "[\"password-1\"]"),
            ("nobodys", "hunter3-hunter3"),
        ]);
        let values = given(&[("port", "5432"), ("zip", "01234"), ("name", "5")]);
        let typed = ["port".to_owned(), "name".to_owned()];
        let all = Given { values: &values, typed: &typed, secrets: &secrets, marked: &[] };
        let variables = Variables::new(&all, &module).expect("fine");
        let json: Value = serde_json::from_str(&format!("{{{}}}", variables.json.join(","))).expect("JSON");
        let expected = serde_json::json!({
            "text": "hunter2-hunter2", "untyped": "[\"is-a-text\"]", "list": ["password-1"],
            "port": 5432, "zip": "01234", "name": "5"
        });
        assert_eq!(json, expected);
        for secret in ["hunter2-hunter2", "[\"is-a-text\"]", "password-1", "hunter3-hunter3"] {
            assert!(variables.secrets.iter().any(|known| known == secret), "{secret}");
        }
        assert!(!variables.secrets.iter().any(|known| known == "5432"));
        let short = given(&[("text", "seven-7")]);
        let refused = |marked: &[String]| {
            let all = Given { values: &HashMap::new(), typed: &[], secrets: &short, marked };
            Variables::new(&all, &module).map(|v| v.not_redacted).map_err(|f| f.code)
        };
        assert_eq!(refused(&[]), Err(Code::SecretTooShort));
        assert_eq!(refused(&["text".to_owned()]), Ok(vec!["text".to_owned()]));
    }

    #[test]
    fn in_doubt_the_engine_decides_and_all_is_secret() {
        let module = Declarations { doubtful: true, ..Declarations::default() };
        let variables = sorted(&given(&[("a", "some-value")]), &[], &module).expect("fine");
        assert_eq!(variables.environment, [("TF_VAR_a".to_owned(), "some-value".to_owned())]);
        assert_eq!(
            (variables.secrets.as_slice(), variables.notes().next()),
            (["some-value".to_owned()].as_slice(), None)
        );
        let long = given(&[("a", &"x".repeat(IN_ENVIRONMENT_MAX))]);
        assert_eq!(sorted(&long, &[], &module).expect_err("too long").code, Code::TooLarge);
        assert_eq!(format!("{variables:?}"), "Variables(1 values)");
    }

    #[test]
    fn variables_that_no_engine_can_have_are_refused() {
        for (name, value) in [("", "v"), ("1a", "v"), ("a=b", "v"), ("a b", "v"), ("a\"", "v"), ("a", "nul\0")] {
            assert_eq!(check(name, value).expect_err(name).code, Code::InvalidArgument, "{name}");
        }
        assert!(check("_a-B1", "any\n\"thing\"").is_ok());
    }

    #[test]
    fn secrets_inside_of_native_values_are_found() {
        assert_eq!(parts("{ a = \"password-1\", b = [\"password-2\"] }"), ["password-1", "password-2"]);
        assert!(parts("not \" closed").is_empty());
    }
}
