//! `policy-tests.toml`: requests and what the policy is to say to them. A policy is changed by people in a hurry; the cases are what they
//! meant before.
//!
//! ```toml
//! [[case]]
//! name = "developers cannot open a shell"
//! person = "ann"
//! groups = ["developers"]
//! connection = "prod"
//! at = 2026-01-05T12:00:00Z
//! kubernetes = "GET /api/v1/namespaces/web/pods/a/exec?command=sh"
//! expect = "deny"
//! rule = "no-shell"
//! ```

use super::decision::{Effect, Secrets};
use super::kubernetes::Attributes;
use super::reader::{self, Keys, Place, PolicyError};
use super::request::{CloudCall, JobCall, JobSource, Request, What, tame};
use super::{ENGINES, KINDS, Policy, target::TargetError};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use toml::Spanned;
use toml::de::DeValue;
use toml::value::{Datetime, Offset};

/// The most cases in a file.
pub const CASES_MAX: usize = 4096;
/// When a case is asked that does not say: Monday, 5 January 2026, noon, UTC.
const NOON: u64 = 1_767_614_400;

/// The cases of a file.
#[derive(Debug, Clone)]
pub struct Cases {
    cases: Vec<Case>,
}
/// One request and what is expected of it.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Its line in the file.
    pub line: usize,
    /// What is asked; or why that can be asked of nobody, which is a denial too.
    pub request: Result<Request, TargetError>,
    /// When.
    pub at: SystemTime,
    /// What is expected.
    pub effect: Effect,
    /// What has to decide, as [`super::By::name`] has it, or `(invalid target)`; `None`: whatever.
    pub rule: Option<String>,
    /// What has to become of Secrets; `None`: whatever.
    pub secrets: Option<String>,
    /// Whether it has to be recorded; `None`: whatever.
    pub record: Option<bool>,
}
/// How one came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// Its line in the file.
    pub line: usize,
    /// Whether it is as expected.
    pub passed: bool,
    /// What was expected and what came, in one line.
    pub shown: String,
}

// === impl Cases ===

impl Cases {
    /// From the text of a file.
    ///
    /// # Errors
    /// The line, the case and the key that are wrong.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let document = reader::parse(text)?;
        let top = Keys::new(Place::top(text), document.get_ref(), 0..0, &["case"])?;
        let tables = top.tables("case")?;
        if tables.len() > CASES_MAX {
            return Err(top.wrong("case", format!("the file has {} cases, the most is {CASES_MAX}", tables.len())));
        }
        let cases = tables.into_iter().map(|value| Case::parse(&top, value)).collect::<Result<_, _>>()?;
        Ok(Self { cases })
    }

    /// From a file.
    ///
    /// # Errors
    /// That it is not there or cannot be read, or what is wrong in it.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let text =
            reader::read(path)?.ok_or_else(|| PolicyError::Unreadable { path: path.to_owned(), source: missing() })?;
        Self::parse(&text).map_err(|e| e.of(path))
    }

    /// Asks the policy each of them.
    pub fn run(&self, policy: &Policy) -> Vec<CaseResult> {
        self.cases.iter().map(|case| case.run(policy)).collect()
    }

    /// The cases, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter()
    }
}

// === impl Case ===

const KEYS: &[&str] = &[
    "name",
    "person",
    "groups",
    "connection",
    "connections",
    "at",
    "kubernetes",
    "aws",
    "gcp",
    "azure",
    "job",
    "connection_test",
    "expect",
    "rule",
    "secrets",
    "record",
];

impl Case {
    fn parse(top: &Keys<'_, '_>, value: &Spanned<DeValue<'_>>) -> Result<Self, PolicyError> {
        let named = value.get_ref().as_table().and_then(|table| table.get("name")).and_then(|v| v.get_ref().as_str());
        let place = top.place.within(&named.map_or("a case".to_owned(), |name| format!("case {:?}", tame(name, 128))));
        let keys = Keys::of(place, "case", value, KEYS)?;
        let name = keys.text("name")?.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| keys.wrong("name", "the case has no name"))?;
        let effect = match keys.text("expect")? {
            Some("allow") => Effect::Allow,
            Some("deny") => Effect::Deny,
            Some(_) | None => return Err(keys.wrong("expect", "it must be \"allow\" or \"deny\"")),
        };
        let texts = |key| -> Result<Option<Vec<String>>, PolicyError> {
            let list = keys.texts(key)?;
            Ok(list.map(|list| list.into_iter().map(|(text, _)| text.to_owned()).collect()))
        };
        let mut connections = texts("connections")?.unwrap_or_default();
        connections.extend(keys.text("connection")?.map(str::to_owned));
        let person = keys.text("person")?.map(str::to_owned);
        let groups = texts("groups")?;
        let request = asked(&keys)?.map(|what| Request { person, groups, connections, what });
        Ok(Self {
            name: tame(name, 128),
            line: keys.line(),
            request,
            at: time(&keys)?,
            effect,
            rule: keys.text("rule")?.map(str::to_owned),
            secrets: keys.text("secrets")?.map(str::to_owned),
            record: keys.flag("record")?,
        })
    }

    fn run(&self, policy: &Policy) -> CaseResult {
        let (effect, by, secrets, record, sentence) = match &self.request {
            Ok(request) => {
                let decision = policy.decide(request, self.at);
                (decision.effect, decision.by.name(), decision.secrets, decision.record, decision.sentence)
            }
            Err(e) => (Effect::Deny, "(invalid target)".to_owned(), Secrets::Masked, false, e.to_string()),
        };
        let secrets = secrets.written();
        let passed = effect == self.effect
            && self.rule.as_ref().is_none_or(|rule| *rule == by)
            && self.secrets.as_ref().is_none_or(|wanted| *wanted == secrets)
            && self.record.is_none_or(|wanted| wanted == record);
        let shown = if passed {
            format!("ok    {}: {} by {by}", self.name, effect.as_str())
        } else {
            let by_wanted = self.rule.as_ref().map(|rule| format!(" by {rule}")).unwrap_or_default();
            let secrets_wanted = self.secrets.as_ref().map(|s| format!(" with secrets {s}")).unwrap_or_default();
            let secrets_got = if self.secrets.is_some() { format!(" with secrets {secrets}") } else { String::new() };
            let recorded = |record: bool| if record { " recorded" } else { " not recorded" };
            let (record_wanted, record_got) = match self.record {
                Some(wanted) => (recorded(wanted), recorded(record)),
                None => ("", ""),
            };
            format!(
                "FAIL  {} (line {}): expected {}{by_wanted}{secrets_wanted}{record_wanted}, got {} by {by}{secrets_got}{record_got}: {sentence}",
                self.name,
                self.line,
                self.effect.as_str(),
                effect.as_str()
            )
        };
        CaseResult { name: self.name.clone(), line: self.line, passed, shown }
    }
}

fn asked(keys: &Keys<'_, '_>) -> Result<Result<What, TargetError>, PolicyError> {
    const WHATS: [&str; 6] = ["kubernetes", "aws", "gcp", "azure", "job", "connection_test"];
    let mut there = WHATS.into_iter().filter(|key| keys.get(key).is_some());
    let (Some(key), None) = (there.next(), there.next()) else {
        return Err(keys.wrong("", format!("the case needs one of {}, and only one", WHATS.join(", "))));
    };
    match key {
        "kubernetes" => {
            let text = keys.text(key)?.unwrap_or_default();
            let Some((method, target)) = text.split_once(' ') else {
                return Err(keys.wrong(key, "it must be a method, a space and a target: \"GET /api/v1/pods\""));
            };
            Ok(Attributes::parse(method, target.as_bytes()).map(|it| What::Kubernetes(Box::new(it))))
        }
        "job" => job(keys).map(Ok),
        "connection_test" => Ok(Ok(What::ConnectionTest { provider: keys.text(key)?.unwrap_or_default().to_owned() })),
        key => cloud(keys, key).map(Ok),
    }
}

fn cloud(keys: &Keys<'_, '_>, key: &str) -> Result<What, PolicyError> {
    let (between, name) = match key {
        "aws" => (':', "action"),
        "azure" => ('/', "method"),
        _ => ('.', "method"),
    };
    let Some(value) = keys.get(key) else { return Err(keys.wrong(key, "it is missing")) };
    let inner = Keys::of(keys.place.within(key), key, value, &["service", name, "region", "read_only"])?;
    let (service, region) = (inner.text("service")?, inner.text("region")?);
    let (service, operation) = match (service, inner.text(name)?) {
        (None, Some(whole)) => whole.split_once(between).map(|(service, operation)| (service, Some(operation))),
        (Some(service), None) => Some((service, None)),
        _ => None,
    }
    .ok_or_else(|| {
        keys.wrong(
            key,
            format!(
                "it needs {name} as SERVICE{between}OPERATION; or service alone, for one that the runner cannot tell"
            ),
        )
    })?;
    let mut call = CloudCall::aws(service, operation, region);
    if key != "aws" {
        call.read_only = inner.flag("read_only")?.unwrap_or(false);
    } else if inner.get("read_only").is_some() {
        return Err(inner.wrong("read_only", "of AWS it follows from the action: leave it out"));
    }
    Ok(match key {
        "aws" => What::Aws(call),
        "gcp" => What::Gcp(call),
        _ => What::Azure(call),
    })
}

fn job(keys: &Keys<'_, '_>) -> Result<What, PolicyError> {
    let Some(value) = keys.get("job") else { return Err(keys.wrong("job", "it is missing")) };
    let inner =
        Keys::of(keys.place.within("job"), "job", value, &["kind", "engine", "stack", "source", "secret_stores"])?;
    let text = |key| inner.text(key)?.map(str::to_owned).ok_or_else(|| inner.wrong(key, "the job needs it"));
    let source = match text("source")?.as_str() {
        "@upload" => JobSource::Upload,
        "@file" => JobSource::File,
        host => JobSource::Host(host.to_owned()),
    };
    let one_of = |key, known: &[&str]| {
        let found = text(key)?;
        match known.contains(&found.as_str()) {
            true => Ok(found),
            false => Err(inner.wrong(key, format!("{found:?} is none: there are {}", known.join(", ")))),
        }
    };
    let stores = inner.texts("secret_stores")?.unwrap_or_default();
    let secret_stores = stores.into_iter().map(|(text, _)| text.to_owned()).collect();
    Ok(What::Job(JobCall {
        kind: one_of("kind", &KINDS)?,
        engine: one_of("engine", &ENGINES)?,
        stack: text("stack")?,
        source,
        secret_stores,
    }))
}

fn time(keys: &Keys<'_, '_>) -> Result<SystemTime, PolicyError> {
    let Some(value) = keys.get("at") else { return Ok(UNIX_EPOCH + Duration::from_secs(NOON)) };
    let wanted = "a date with time and offset: 2026-01-05T12:00:00Z";
    let at = value.get_ref().as_datetime().ok_or_else(|| keys.misshapen("at", value, wanted))?;
    let seconds = seconds(at).ok_or_else(|| keys.wrong("at", format!("it must be {wanted}, since 1970")))?;
    Ok(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Seconds since 1970 of a whole date.
fn seconds(at: &Datetime) -> Option<u64> {
    let (date, time) = (at.date?, at.time?);
    let offset = match at.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes) * 60,
    };
    // days from the first of March of the year 0, so that a leap day is a year's last
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = i64::from(date.year) - i64::from(month <= 2);
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_day = i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second);
    u64::try_from((days - 719_468) * 86_400 + of_day - offset).ok()
}
