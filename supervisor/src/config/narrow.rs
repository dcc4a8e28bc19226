//! What a connection's credentials are narrowed to before a worker gets them: an STS session for AWS, a bound token of a service account
//! for Kubernetes. All that STS and the API server would refuse by form is refused here, at the start.

use super::{AwsRole, AwsSession, ConfigError, ServiceAccount, Template};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What STS takes as session policies, inline and managed together, characters.
const POLICY_MAX: usize = 2048;
/// What is read of a policy's file, bytes: it may be written with room between.
const POLICY_FILE_MAX: u64 = 64 * 1024;
/// Managed policies of one session.
const POLICY_ARNS_MAX: usize = 10;
/// The shortest and the longest ARN.
const ARN: std::ops::RangeInclusive<usize> = 20..=2048;
const EXTERNAL_ID: std::ops::RangeInclusive<usize> = 2..=1224;
/// The longest name of a session, which source identities share, and the longest key and value of a tag.
const SESSION_NAME_MAX: usize = 64;
const TAG_KEY_MAX: usize = 128;
const TAG_VALUE_MAX: usize = 256;
/// Tags of one session.
const TAGS_MAX: usize = 50;
/// Roles before the one that is used: each costs a call to STS.
const CHAIN_MAX: usize = 4;
/// How long a session lasts whose role another role assumes, seconds.
const CHAINED_SECONDS_MAX: u64 = 3600;
/// How long a session lasts, seconds; a role may allow less, and one that another role assumes an hour.
const SESSION_SECONDS: std::ops::RangeInclusive<u64> = 900..=43_200;
const SESSION_SECONDS_DEFAULT: u64 = 3600;
/// How long a bound token lasts, seconds: the API server takes no fewer, and gives no more than it is set to.
const TOKEN_SECONDS: std::ops::RangeInclusive<u64> = 600..=86_400;
const TOKEN_SECONDS_DEFAULT: u64 = 3600;
const AUDIENCES_MAX: usize = 8;
/// A namespace is a DNS label, a service account's name a DNS subdomain.
const NAMESPACE_MAX: usize = 63;
const ACCOUNT_MAX: usize = 253;

/// The keys of an AWS connection.
#[derive(Default)]
#[cfg_attr(test, derive(serde::Deserialize), serde(default))]
pub(super) struct FileSession {
    pub(super) assume_role_arn: Option<String>,
    pub(super) external_id: Option<String>,
    pub(super) role_chain: Option<Vec<AwsRole>>,
    pub(super) session_name: Option<String>,
    pub(super) session_tags: Option<BTreeMap<String, String>>,
    pub(super) source_identity: Option<String>,
    pub(super) session_seconds: Option<u64>,
    pub(super) session_policy: Option<String>,
    pub(super) session_policy_file: Option<PathBuf>,
    pub(super) session_policy_arns: Option<Vec<String>>,
}

/// The keys of a Kubernetes connection.
#[derive(Default)]
#[cfg_attr(test, derive(serde::Deserialize), serde(default))]
pub(super) struct FileAccount {
    pub(super) service_account: Option<String>,
    pub(super) token_seconds: Option<u64>,
    pub(super) token_audiences: Option<Vec<String>>,
}

// === impl FileSession ===

impl FileSession {
    pub(super) fn is_given(&self) -> bool {
        self.assume_role_arn.is_some() || self.without_role().is_some()
    }

    /// A key that is there and only says how a role is assumed.
    fn without_role(&self) -> Option<&'static str> {
        [
            ("session_policy", self.session_policy.is_some()),
            ("session_policy_file", self.session_policy_file.is_some()),
            ("session_policy_arns", self.session_policy_arns.is_some()),
            ("external_id", self.external_id.is_some()),
            ("role_chain", self.role_chain.is_some()),
            ("session_name", self.session_name.is_some()),
            ("session_tags", self.session_tags.is_some()),
            ("source_identity", self.source_identity.is_some()),
            ("session_seconds", self.session_seconds.is_some()),
        ]
        .into_iter()
        .find_map(|(key, given)| given.then_some(key))
    }

    /// The session of the connection `name`, if its entry asks for one.
    pub(super) fn check(self, name: &str) -> Result<Option<AwsSession>, ConfigError> {
        let bad = |what: String| ConfigError(format!("connections.{name}: {what}"));
        let without_role = self.without_role();
        let Some(role_arn) = self.assume_role_arn else {
            return match without_role {
                None => Ok(None),
                Some(key) => Err(bad(format!(
                    "{key} needs assume_role_arn: STS narrows a session when a role is assumed; its other way, GetFederationToken, cannot \
                     be called with the credentials of a role"
                ))),
            };
        };
        let external_id = self.external_id.unwrap_or_default();
        check_role("assume_role_arn", &role_arn, &external_id).map_err(bad)?;
        let chain = self.role_chain.unwrap_or_default();
        if chain.len() > CHAIN_MAX {
            return Err(bad(format!("role_chain has {} roles, at most {CHAIN_MAX} are assumed before", chain.len())));
        }
        for role in &chain {
            check_role("role_chain", &role.role_arn, &role.external_id).map_err(bad)?;
        }
        let session_name = self.session_name.unwrap_or_else(|| {
            // what cannot be in one cannot be in a connection's name either
            format!("runner-{name}").chars().take(SESSION_NAME_MAX).collect()
        });
        let template = |key: &str, text: &str, most| Template::parse(text, most).map_err(|e| bad(format!("{key} {e}")));
        let session_name = template("session_name", &session_name, SESSION_NAME_MAX)?;
        let source_identity = self.source_identity.map(|text| template("source_identity", &text, SESSION_NAME_MAX));
        let source_identity = source_identity.transpose()?;
        let given = self.session_tags.unwrap_or_default();
        if given.len() > TAGS_MAX {
            return Err(bad(format!("session_tags has {}, STS takes {TAGS_MAX}", given.len())));
        }
        let mut tags = BTreeMap::new();
        for (key, text) in given {
            if !fits(&key, &(1..=TAG_KEY_MAX), b" _.:/=+-@") || key.to_ascii_lowercase().starts_with("aws:") {
                return Err(bad(format!("session_tags: {key:?} is no key of a tag")));
            }
            let value = template(&format!("session_tags.{key}"), &text, TAG_VALUE_MAX)?;
            tags.insert(key, value);
        }
        let seconds = self.session_seconds.unwrap_or(SESSION_SECONDS_DEFAULT);
        let duration = within("session_seconds", seconds, &SESSION_SECONDS).map_err(bad)?;
        if !chain.is_empty() && seconds > CHAINED_SECONDS_MAX {
            return Err(bad(format!(
                "session_seconds is {seconds}: with a role_chain STS gives sessions of at most {CHAINED_SECONDS_MAX}"
            )));
        }
        let policy_arns = self.session_policy_arns.unwrap_or_default();
        if policy_arns.len() > POLICY_ARNS_MAX {
            return Err(bad(format!("session_policy_arns has {}, STS takes {POLICY_ARNS_MAX}", policy_arns.len())));
        }
        if let Some(arn) = policy_arns.iter().find(|arn| !is_arn(arn, "policy/")) {
            return Err(bad(format!("session_policy_arns: {arn:?} is not arn:PARTITION:iam::ACCOUNT:policy/NAME")));
        }
        let (policy, policy_file) = match (self.session_policy, self.session_policy_file) {
            (None, None) => (String::new(), None),
            (Some(_), Some(_)) => {
                return Err(bad("session_policy and session_policy_file are two places of one thing: keep one".into()));
            }
            (Some(text), None) => (packed(&text).map_err(|e| bad(format!("session_policy {e}")))?, None),
            (None, Some(path)) => {
                if !path.is_absolute() {
                    let shown = path.display().to_string();
                    return Err(bad(format!("session_policy_file: {shown:?} is not an absolute path")));
                }
                let wrong = |e: String| bad(format!("session_policy_file: {} {e}", path.display()));
                let text = read(&path).map_err(&wrong)?;
                (packed(&text).map_err(&wrong)?, Some(path))
            }
        };
        let characters = policy.chars().count() + policy_arns.iter().map(|a| a.chars().count()).sum::<usize>();
        if characters > POLICY_MAX {
            return Err(bad(format!(
                "the session's policies have {characters} characters without the room between, STS takes {POLICY_MAX} of all together"
            )));
        }
        Ok(Some(AwsSession {
            role_arn,
            external_id,
            chain,
            session_name,
            tags,
            source_identity,
            duration,
            policy,
            policy_file,
            policy_arns,
        }))
    }
}

// === impl FileAccount ===

impl FileAccount {
    pub(super) fn is_given(&self) -> bool {
        self.service_account.is_some() || self.token_seconds.is_some() || self.token_audiences.is_some()
    }

    /// The service account of the connection `name`, if its entry asks for one.
    pub(super) fn check(self, name: &str) -> Result<Option<ServiceAccount>, ConfigError> {
        let bad = |what: String| ConfigError(format!("connections.{name}: {what}"));
        let Some(text) = self.service_account else {
            return match (self.token_seconds, self.token_audiences) {
                (None, None) => Ok(None),
                _ => Err(bad("token_seconds and token_audiences need service_account".into())),
            };
        };
        let (namespace, account) = text
            .split_once('/')
            .filter(|(n, a)| is_name(n, NAMESPACE_MAX, b"-") && is_name(a, ACCOUNT_MAX, b"-."))
            .ok_or_else(|| bad(format!("service_account: {text:?} is not NAMESPACE/NAME")))?;
        let seconds = self.token_seconds.unwrap_or(TOKEN_SECONDS_DEFAULT);
        let audiences = self.token_audiences.unwrap_or_default();
        let plain = |a: &String| (1..=1024).contains(&a.len()) && !a.chars().any(char::is_control);
        if audiences.len() > AUDIENCES_MAX || !audiences.iter().all(plain) {
            return Err(bad(format!("token_audiences takes at most {AUDIENCES_MAX}, none of them empty")));
        }
        Ok(Some(ServiceAccount {
            namespace: namespace.to_owned(),
            name: account.to_owned(),
            duration: within("token_seconds", seconds, &TOKEN_SECONDS).map_err(bad)?,
            audiences,
        }))
    }
}

fn check_role(key: &str, role_arn: &str, external_id: &str) -> Result<(), String> {
    if !is_arn(role_arn, "role/") {
        return Err(format!("{key}: {role_arn:?} is not arn:PARTITION:iam::ACCOUNT:role/NAME"));
    }
    if !external_id.is_empty() && !fits(external_id, &EXTERNAL_ID, b"_+=,.@:/-") {
        let (least, most) = (EXTERNAL_ID.start(), EXTERNAL_ID.end());
        return Err(format!("external_id must have {least} to {most} letters, digits and _+=,.@:/-"));
    }
    Ok(())
}

fn within(key: &str, seconds: u64, range: &std::ops::RangeInclusive<u64>) -> Result<Duration, String> {
    if range.contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    Err(format!("{key} is {seconds}, it must be from {} to {}", range.start(), range.end()))
}

fn fits(text: &str, length: &std::ops::RangeInclusive<usize>, marks: &[u8]) -> bool {
    length.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || marks.contains(&b))
}

fn is_name(text: &str, most: usize, marks: &[u8]) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=most).contains(&text.len())
        && text.bytes().all(|b| inner(b) || marks.contains(&b))
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

/// `arn:PARTITION:iam::ACCOUNT:KIND…`; a managed policy of AWS' own has `aws` in the account's place.
fn is_arn(text: &str, kind: &str) -> bool {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    let [arn, partition, service, region, account, resource] = parts.as_slice() else { return false };
    let digits = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    ARN.contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic())
        && (*arn, *service, *region) == ("arn", "iam", "")
        && partition.starts_with("aws")
        && (digits || (*account == "aws" && kind == "policy/"))
        && resource.strip_prefix(kind).is_some_and(|name| !name.is_empty())
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| format!("cannot be read: {e}"))?;
    file.take(POLICY_FILE_MAX + 1).read_to_string(&mut text).map_err(|e| format!("cannot be read: {e}"))?;
    if text.len() as u64 > POLICY_FILE_MAX {
        return Err(format!("is longer than {POLICY_FILE_MAX} bytes"));
    }
    Ok(text)
}

/// A policy without the room between its words, which counts too.
fn packed(text: &str) -> Result<String, String> {
    let policy: serde_json::Value =
        serde_json::from_str(text).map_err(|e| format!("is not JSON (line {}, column {})", e.line(), e.column()))?;
    if !policy.get("Statement").is_some_and(|s| s.is_array() || s.is_object()) {
        return Err("is no policy: it has no Statement".to_owned());
    }
    let packed = policy.to_string();
    if packed.chars().any(|c| u32::from(c) > 0xff) {
        return Err("has a character that STS does not take in a policy, none above U+00FF".to_owned());
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Asker;

    const ROLE: &str = "arn:aws:iam::123456789012:role/runner";

    fn session(keys: &str) -> Result<Option<AwsSession>, String> {
        toml::from_str::<FileSession>(keys).expect(keys).check("prod").map_err(|e| e.0)
    }
    fn with_role(keys: &str) -> Result<AwsSession, String> {
        session(&format!("assume_role_arn = {ROLE:?}\n{keys}")).map(|s| s.expect("a session"))
    }
    fn account(keys: &str) -> Result<Option<ServiceAccount>, String> {
        toml::from_str::<FileAccount>(keys).expect(keys).check("prod").map_err(|e| e.0)
    }

    #[test]
    fn a_session_is_what_sts_takes() {
        assert_eq!(session(""), Ok(None));
        let plain = with_role("").expect("fine");
        let asker = Asker { person: "jo", operation: "op-1" };
        let named = |session: &AwsSession| session.session_name.fill(asker).expect("a name");
        assert_eq!((named(&plain).as_str(), plain.duration), ("runner-prod", Duration::from_secs(3600)));
        for key in [
            "session_policy = '{}'",
            "session_policy_file = '/p'",
            "session_policy_arns = []",
            "external_id = 'x'",
            "session_name = 'x'",
            "session_seconds = 900",
        ] {
            let why = session(key).expect_err(key);
            let key = key.split(' ').next().expect("a key");
            assert!(
                why.contains(&format!("{key} needs assume_role_arn")) && why.contains("GetFederationToken"),
                "{why}"
            );
        }
        for good in [
            "session_seconds = 900",
            "session_seconds = 43200",
            "external_id = 'ab'",
            "session_name = 'ab'",
            "session_policy_arns = ['arn:aws:iam::aws:policy/ReadOnlyAccess', 'arn:aws-cn:iam::123456789012:policy/x/y']",
            "session_policy = '{\"Version\": \"2012-10-17\", \"Statement\": []}'",
        ] {
            assert!(with_role(good).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("session_seconds = 899", "from 900 to 43200"),
            ("session_seconds = 43201", "from 900 to 43200"),
            ("external_id = 'a'", "external_id"),
            ("external_id = 'a b'", "external_id"),
            ("session_name = 'a'", "session_name"),
            ("session_name = 'a/b'", "session_name"),
            ("session_policy_arns = ['arn:aws:iam::aws:role/x']", "session_policy_arns"),
            ("session_name = '{person}{operation}'", "comma"),
            ("source_identity = '{nobody}'", "source_identity has {nobody}"),
            ("session_tags = { 'aws:x' = 'yy' }", "no key of a tag"),
            ("session_tags = { a = 'b/c' }", "session_tags.a must have"),
            ("role_chain = [{ role_arn = 'x' }]", "role_chain"),
            ("role_chain = [{ role_arn = 'arn:aws:iam::123456789012:role/a', external_id = 'x' }]", "external_id"),
            (
                "role_chain = [{ role_arn = 'arn:aws:iam::123456789012:role/a' }]\nsession_seconds = 3601",
                "at most 3600",
            ),
            ("session_policy = '{'", "is not JSON"),
            ("session_policy = '{}'", "no Statement"),
            ("session_policy = '{\"Statement\": [\"\u{153}\"]}'", "U+00FF"),
            ("session_policy = '{\"Statement\": []}'\nsession_policy_file = '/p'", "keep one"),
            ("session_policy_file = 'p'", "absolute"),
            ("session_policy_file = '/no/such/file'", "/no/such/file"),
        ] {
            let why = with_role(bad).expect_err(bad);
            assert!(why.starts_with("connections.prod: ") && why.contains(word), "{why}");
        }
        for bad in
            ["", "arn:aws:iam::123456789012:user/x", "arn:aws:iam::aws:role/x", "arn:aws:sts::123456789012:role/x", "x"]
        {
            assert!(
                session(&format!("assume_role_arn = {bad:?}")).expect_err(bad).contains("assume_role_arn"),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_chain_of_roles_and_what_its_sessions_say() {
        let role = |n: usize| format!("{{ role_arn = 'arn:aws:iam::123456789012:role/r{n}', external_id = 'id-{n}' }}");
        let chain = |n: usize| format!("role_chain = [{}]", (0..n).map(role).collect::<Vec<_>>().join(", "));
        let keys = "session_name = 'runner,{person}'\nsource_identity = '{person}'\nsession_tags = { operation = '{operation}' }";
        let session = with_role(&format!("{}\n{keys}", chain(CHAIN_MAX))).expect("fine");
        assert_eq!((session.chain.len(), session.chain[1].external_id.as_str()), (CHAIN_MAX, "id-1"));
        assert!(session.session_name.has_person() && session.tags["operation"].has_operation());
        assert!(with_role(&chain(CHAIN_MAX + 1)).expect_err("too many").contains("at most 4"));
        let tags = |n: usize| {
            let pairs: Vec<_> = (0..n).map(|n| format!("t{n} = 'value'")).collect();
            format!("session_tags = {{ {} }}", pairs.join(", "))
        };
        assert!(with_role(&tags(TAGS_MAX)).is_ok() && with_role(&tags(TAGS_MAX + 1)).is_err());
    }

    #[test]
    fn sizes_are_those_of_sts_at_both_sides() {
        let policy = |characters: usize| {
            let empty = r#"{"Statement":[""]}"#;
            let filled = "ä".repeat(characters - empty.len());
            format!("session_policy = '''{{ \"Statement\": \n [ \"{filled}\" ] }}'''")
        };
        assert_eq!(with_role(&policy(2048)).expect("fits").policy.chars().count(), 2048);
        assert!(with_role(&policy(2049)).expect_err("too long").contains("2049 characters"));
        let arns = |n: usize| format!("session_policy_arns = {:?}", vec!["arn:aws:iam::aws:policy/Read"; n]);
        assert!(with_role(&arns(10)).is_ok());
        assert!(with_role(&arns(11)).expect_err("too many").contains("takes 10"));
        // both count together
        let both = |characters| format!("{}\n{}", arns(1), policy(characters));
        assert!(with_role(&both(2048 - 28)).is_ok());
        assert!(with_role(&both(2048 - 27)).is_err());
        for (length, fine) in [(64, true), (65, false)] {
            assert_eq!(with_role(&format!("session_name = {:?}", "a".repeat(length))).is_ok(), fine);
        }
        for (length, fine) in [(1224, true), (1225, false)] {
            assert_eq!(with_role(&format!("external_id = {:?}", "a".repeat(length))).is_ok(), fine);
        }
        // a connection's long name gives a session's name that fits
        let long = toml::from_str::<FileSession>(&format!("assume_role_arn = {ROLE:?}")).expect("parses");
        let session = long.check(&"n".repeat(128)).expect("fits").expect("a session");
        assert_eq!(session.session_name.fill(Asker { person: "", operation: "" }).expect("a name").len(), 64);
    }

    #[test]
    fn a_policy_is_read_from_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("policy.json");
        let keys = format!("session_policy_file = {:?}", path.display().to_string());
        std::fs::write(&path, "{\n \"Statement\": [ ]\n}\n").expect("writes");
        let session = with_role(&keys).expect("fits");
        assert_eq!((session.policy.as_str(), session.policy_file), (r#"{"Statement":[]}"#, Some(path.clone())));
        for (length, fine) in [(POLICY_FILE_MAX as usize, true), (POLICY_FILE_MAX as usize + 1, false)] {
            let policy = r#"{"Statement":[]}"#;
            let text = policy.to_owned() + &" ".repeat(length - policy.len());
            std::fs::write(&path, text).expect("writes");
            assert_eq!(with_role(&keys).is_ok(), fine);
        }
    }

    #[test]
    fn a_service_account_is_what_an_api_server_takes() {
        assert_eq!(account(""), Ok(None));
        let one = account("service_account = 'tools/runner.viewer'").expect("fine").expect("one");
        assert_eq!((one.namespace.as_str(), one.name.as_str()), ("tools", "runner.viewer"));
        assert_eq!((one.duration, one.audiences.len()), (Duration::from_secs(3600), 0));
        let with = |keys: &str| account(&format!("service_account = 'a/b'\n{keys}"));
        assert!(with("token_seconds = 600").is_ok() && with("token_seconds = 86400").is_ok());
        for bad in ["token_seconds = 599", "token_seconds = 86401"] {
            assert!(with(bad).expect_err(bad).contains("from 600 to 86400"));
        }
        let audiences = |n: usize| format!("token_audiences = {:?}", vec!["api"; n]);
        assert!(with(&audiences(8)).is_ok() && with(&audiences(9)).is_err() && with("token_audiences = ['']").is_err());
        for bad in ["token_seconds = 600", "token_audiences = ['x']"] {
            assert!(account(bad).expect_err(bad).contains("need service_account"));
        }
        let (label, subdomain) = ("n".repeat(63), "s".repeat(253));
        assert!(account(&format!("service_account = '{label}/{subdomain}'")).is_ok());
        for bad in [
            "",
            "a",
            "/b",
            "a/",
            "a/b/c",
            "A/b",
            "a.b/c",
            "../x",
            "-a/b",
            "a/b-",
            &format!("n{label}/a"),
            &format!("a/s{subdomain}"),
        ] {
            assert!(account(&format!("service_account = {bad:?}")).expect_err(bad).contains("NAMESPACE/NAME"), "{bad}");
        }
    }
}
