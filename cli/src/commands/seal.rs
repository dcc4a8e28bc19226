//! Variables that are sealed to a runner before they are sent: the control plane keeps what it cannot open.
//!
//! Whoever has the control plane could name a key of their own in the place of the runner's. So a key that is seen for the first time is told,
//! and remembered; any other one later is refused until somebody has compared it with what `runner seal-key` says on the runner's host. That the
//! control plane's CA has signed for a runner proves nothing here: it is the control plane's own.

use super::Session;
use crate::client::path;
use crate::config::ConfigFile;
use crate::output::{escape, table};
use crate::stop::{self, Done};
use crate::terminal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use shared_proto::sealed::{Place, RECIPIENTS_MAX, SealKey};
use shared_proto::secret::Secret;
use shared_proto::secrets::VALUE_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Read};
use std::path::{Path, PathBuf};

/// The file beside the configuration that remembers keys.
const FILE: &str = "seal-keys.json";
/// The longest such file, bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// A variable that is to be sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealing {
    name: String,
    /// Where its value is; none: standard input.
    file: Option<PathBuf>,
}

/// What is to be sealed, and whom to.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Seals {
    /// A variable that is sealed to the stack's runner, so that the control plane cannot read it: its value from the file, else from standard
    /// input; those that were sealed before stay
    #[arg(long = "sealed", value_parser = sealing, value_name = "NAME[=FILE]")]
    sealed: Vec<Sealing>,
    /// The fingerprint that `runner seal-key` says on the runner's host: seal to this key and no other
    #[arg(long = "seal-key", value_name = "FINGERPRINT")]
    keys: Vec<String>,
}

/// Variables with their values.
pub(crate) type Values = Vec<(String, Secret)>;

/// Fingerprints that were seen, by control plane and runner.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known(BTreeMap<String, BTreeSet<String>>);

/// `NAME` or `NAME=FILE`.
fn sealing(text: &str) -> Result<Sealing, String> {
    match text.split_once('=') {
        None if !text.is_empty() => Ok(Sealing { name: text.to_owned(), file: None }),
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok(Sealing { name: name.to_owned(), file: Some(file.into()) })
        }
        _ => Err("it is neither NAME nor NAME=FILE; a value is never given on the command line".to_owned()),
    }
}

// === impl Seals ===

impl Seals {
    /// One variable of `stack seal`.
    pub(crate) fn one(name: String, file: Option<PathBuf>, keys: Vec<String>) -> Self {
        Self { sealed: vec![Sealing { name, file }], keys }
    }

    /// Reads the values, before anything is sent.
    ///
    /// # Errors
    /// `invalid_argument`: more than one from standard input, or nothing; `too_large`; a file.
    pub(crate) fn values(&self) -> Result<Values, Failure> {
        if self.sealed.iter().filter(|sealing| sealing.file.is_none()).count() > 1 {
            return Err(Code::InvalidArgument
                .on("standard input has the value of one variable")
                .next("Give the others as files: --sealed NAME=FILE."));
        }
        self.sealed.iter().map(|sealing| Ok((sealing.name.clone(), sealing.value()?))).collect()
    }

    /// Seals them for a stack as it was read, and gives what is to be written into it or into a job: a form for each key.
    ///
    /// # Errors
    /// `runner_unavailable`: nobody tells a key; `seal_key_unknown`; those of the API.
    pub(crate) async fn seal(&self, session: &Session, stack: &Value, values: &Values) -> Result<Value, Failure> {
        if values.is_empty() {
            return Ok(json!({}));
        }
        let client = &session.client;
        let organization = table::text(&client.get("/whoami").await?, "/organization/id");
        let (runner, told) = keys_of(session, stack).await?;
        let path = ConfigFile::path()?.with_file_name(FILE);
        let whose = format!("{} {runner}", client.shown());
        let mut known = Known::load(&path)?;
        let keys = known.trust(&whose, &runner, &told, &self.keys)?;
        known.save(&path)?;
        let stack_id = table::text(stack, "/id");
        let mut all = serde_json::Map::new();
        for (name, value) in values {
            let place = Place { organization: &organization, stack: &stack_id, variable: name };
            let forms: Vec<Value> =
                keys.iter().map(|key| Ok(form(&key.seal(&place, value)?))).collect::<Result<_, Failure>>()?;
            all.insert(name.clone(), forms.into());
        }
        Ok(Value::Object(all))
    }
}

fn form(sealed: &shared_proto::v1::SealedVariable) -> Value {
    json!({
        "key": sealed.key, "encapsulated": STANDARD.encode(&sealed.encapsulated), "ciphertext": STANDARD.encode(&sealed.ciphertext)
    })
}

// === impl Sealing ===

impl Sealing {
    fn value(&self) -> Result<Secret, Failure> {
        let stdin = std::io::stdin();
        let text = match &self.file {
            Some(path) => read(std::fs::File::open(path).map_err(|e| stop::file(path, &e))?, &self.name)?,
            None if stdin.is_terminal() => {
                let question = format!("Value of {}:", escape::line(&self.name));
                Secret::new(terminal::ask_secret(&question).map_err(|e| no_input(&e))?)
            }
            None => read(stdin.lock(), &self.name)?,
        };
        if text.is_empty() {
            return Err(Code::InvalidArgument.on(format!("there is no value for {}", self.name)));
        }
        Ok(text)
    }
}

fn no_input(error: &std::io::Error) -> Failure {
    Code::InvalidArgument.on(format!("standard input: {error}"))
}

/// All of it, without the line's end that whoever writes a file ends it with.
fn read(from: impl Read, name: &str) -> Result<Secret, Failure> {
    let mut bytes = Vec::new();
    from.take(VALUE_MAX as u64 + 3).read_to_end(&mut bytes).map_err(|e| no_input(&e))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Code::InvalidArgument.on(format!("the value of {name} is no text in UTF-8")))?;
    let whole = Secret::new(text);
    let line = whole.expose().strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let value = Secret::new(line.unwrap_or(whole.expose()));
    if value.expose().len() > VALUE_MAX {
        return Err(Code::TooLarge.on(format!("the value of {name} has more than {VALUE_MAX} bytes")));
    }
    if value.expose().contains('\0') {
        return Err(Code::InvalidArgument.on(format!("the value of {name} has a NUL in it")));
    }
    Ok(value)
}

/// The stack's runner, by name, with the keys of its instances that are connected.
async fn keys_of(session: &Session, stack: &Value) -> Result<(String, Vec<(String, SealKey)>), Failure> {
    let client = &session.client;
    let runner = match table::text(stack, "/runner") {
        name if !name.is_empty() => client.get(&path(&["runners", &name], &[])).await?,
        _ => {
            let all = client.get("/runners").await?;
            let default = table::items(&all).iter().find(|runner| runner["default"] == true);
            default.cloned().ok_or_else(|| Code::NoRunner.on("the stack names no runner, and there is no default"))?
        }
    };
    let name = table::text(&runner, "/name");
    let instances = runner["instances"].as_array().map_or(&[][..], Vec::as_slice);
    let mut keys: Vec<(String, SealKey)> = Vec::new();
    for instance in instances {
        if let Some(key) = SealKey::from_text(&table::text(instance, "/seal_key/key"))
            && !keys.iter().any(|(_, known)| *known == key)
        {
            keys.push((table::text(instance, "/instance_id"), key));
        }
    }
    if keys.is_empty() {
        let why = if instances.is_empty() { "no instance of it is connected" } else { "its instances tell no key" };
        let next = "Start the runner, of this version or a later one; its key is told when it connects.";
        return Err(Code::RunnerUnavailable.on(format!("nothing can be sealed to runner {name}: {why}")).next(next));
    }
    Ok((name, keys))
}

// === impl Known ===

impl Known {
    fn load(path: &Path) -> Result<Self, Failure> {
        let mut text = String::new();
        match std::fs::File::open(path) {
            Ok(file) => file.take(FILE_MAX).read_to_string(&mut text).map_err(|e| stop::file(path, &e))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(stop::file(path, &e)),
        };
        serde_json::from_str(&text).map_err(|e| {
            Code::InvalidArgument
                .on(format!("{} is no list of keys: {e}", path.display()))
                .next("Correct it; removed, every key is taken for one that is seen for the first time.")
        })
    }

    fn save(&self, path: &Path) -> Result<(), Failure> {
        use std::os::unix::fs::DirBuilderExt as _;
        let failed = |e: std::io::Error| stop::file(path, &e);
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| failed(e.into()))?;
        text.push(b'\n');
        shared_proto::file::write_whole(path, &text, 0o600).map_err(failed)
    }

    /// Which of the keys that are told are sealed to: those that were named, else all, where each was seen before or none ever was.
    fn trust(
        &mut self,
        whose: &str,
        runner: &str,
        told: &[(String, SealKey)],
        named: &[String],
    ) -> Result<Vec<SealKey>, Failure> {
        let named: BTreeSet<String> = named.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
        let fingerprints: BTreeSet<String> = told.iter().map(|(_, key)| key.fingerprint()).collect();
        if let Some(missing) = named.difference(&fingerprints).next() {
            let is = fingerprints.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Code::SealKeyUnknown
                .on(format!("runner {runner} has no key {} now; the control plane tells {is}", escape::line(missing)))
                .next("See what `runner seal-key` says on the runner's host, and that the runner was started since."));
        }
        let before = self.0.get(whose);
        let mut keys = Vec::new();
        for (instance, key) in told {
            let fingerprint = key.fingerprint();
            if !named.is_empty() {
                if named.contains(&fingerprint) {
                    keys.push(*key);
                } else {
                    eprintln!("· not sealed to instance {}, whose key is {fingerprint}", escape::line(instance));
                }
                continue;
            }
            match before {
                Some(before) if !before.contains(&fingerprint) => {
                    return Err(Code::SealKeyUnknown.on(format!(
                        "the control plane tells a key of runner {runner} that was never seen here: {fingerprint}, of instance {}",
                        escape::line(instance)
                    )));
                }
                Some(_) => {}
                None => eprintln!(
                    "· sealed to the key {fingerprint} of instance {}, seen for the first time: compare it with `runner seal-key` on that host",
                    escape::line(instance)
                ),
            }
            keys.push(*key);
        }
        if keys.len() > RECIPIENTS_MAX {
            let message = format!(
                "runner {runner} has {} instances, and at most {RECIPIENTS_MAX} keys are sealed to",
                keys.len()
            );
            return Err(Code::TooLarge.on(message).next("Name the keys that are to open it with --seal-key."));
        }
        let seen = self.0.entry(whose.to_owned()).or_default();
        seen.extend(keys.iter().map(SealKey::fingerprint));
        Ok(keys)
    }
}

/// `stack seal`
pub(crate) async fn run(stack: &str, seals: Seals, session: &Session) -> Done {
    let values = seals.values()?;
    let at = path(&["stacks", stack], &[]);
    let work = async {
        let found = session.client.get(&at).await?;
        let sealed = seals.seal(session, &found, &values).await?;
        let mut body = super::stack::writable(&found);
        super::stack::put_over(&mut body, "sealed", &sealed);
        session.client.put(&at, &body).await
    };
    let changed = session.wait("sealing", work).await?;
    let names: Vec<_> = values.iter().map(|(name, _)| name.as_str()).collect();
    session.output.document(&changed, |_| format!("Sealed for stack {stack}: {}.\n", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::sealed::Keys;

    fn key() -> SealKey {
        Keys::make().expect("randomness").newest().expect("a key")
    }

    #[test]
    fn a_value_is_never_on_the_command_line() {
        assert_eq!(sealing("a"), Ok(Sealing { name: "a".into(), file: None }));
        assert_eq!(sealing("a=f"), Ok(Sealing { name: "a".into(), file: Some("f".into()) }));
        for bad in ["", "=f", "a="] {
            assert!(sealing(bad).is_err(), "{bad}");
        }
        let two = Seals { sealed: vec![sealing("a").expect("one"), sealing("b").expect("one")], keys: vec![] };
        assert_eq!(two.values().expect_err("one input").code, Code::InvalidArgument);
    }

    #[test]
    fn values_are_read_whole_but_for_a_last_line_end() {
        let of = |text: &str| read(text.as_bytes(), "v").map(|value| value.expose().to_owned()).map_err(|f| f.code);
        for (text, value) in [("a\n", "a"), ("a\r\n", "a"), ("a\nb", "a\nb"), (" a \n\n", " a \n"), ("", "")] {
            assert_eq!(of(text).as_deref(), Ok(value), "{text:?}");
        }
        assert!(of(&"x".repeat(VALUE_MAX)).is_ok() && of(&format!("{}\r\n", "x".repeat(VALUE_MAX))).is_ok());
        assert_eq!(of(&"x".repeat(VALUE_MAX + 1)), Err(Code::TooLarge));
        assert_eq!(of("a\0b"), Err(Code::InvalidArgument));
        assert_eq!(read(&b"\xff"[..], "v").err().map(|f| f.code), Some(Code::InvalidArgument));
    }

    #[test]
    fn a_key_is_trusted_at_first_and_another_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x/seal-keys.json");
        let (first, second, third) = (key(), key(), key());
        let told = |keys: &[SealKey]| keys.iter().map(|key| ("i".to_owned(), *key)).collect::<Vec<_>>();
        let mut known = Known::load(&path).expect("none is empty");
        assert_eq!(known.trust("cp r", "r", &told(&[first]), &[]).expect("the first"), [first]);
        known.save(&path).expect("saves");
        let mut known = Known::load(&path).expect("loads");
        assert_eq!(known.trust("cp r", "r", &told(&[first]), &[]).expect("the same"), [first]);
        for keys in [&[second][..], &[first, second]] {
            let failure = known.trust("cp r", "r", &told(keys), &[]).expect_err("another");
            assert!(
                failure.code == Code::SealKeyUnknown && failure.message.contains(&second.fingerprint()),
                "{failure}"
            );
            assert!(failure.next_step.contains("runner seal-key"), "{failure}");
        }
        // named, it is sealed to alone, and known from then on
        let named = [second.fingerprint().to_ascii_uppercase()];
        assert_eq!(known.trust("cp r", "r", &told(&[first, second]), &named).expect("named"), [second]);
        assert_eq!(known.trust("cp r", "r", &told(&[first, second]), &[]).expect("both"), [first, second]);
        let failure = known.trust("cp r", "r", &told(&[first]), &[third.fingerprint()]).expect_err("not told");
        assert!(
            failure.code == Code::SealKeyUnknown && failure.message.contains("now; the control plane tells"),
            "{failure}"
        );
        // of another runner, or of the same at another control plane, nothing is known
        assert_eq!(known.trust("cp other", "other", &told(&[third]), &[]).expect("the first"), [third]);
        let many: Vec<_> = (0..=RECIPIENTS_MAX).map(|_| key()).collect();
        assert!(known.trust("cp m", "m", &told(&many[1..]), &[]).is_ok());
        assert_eq!(known.trust("cp n", "n", &told(&many), &[]).expect_err("many").code, Code::TooLarge);
        std::fs::write(&path, "[").expect("writes");
        assert!(Known::load(&path).is_err());
    }
}
