//! What a user may say of a stack's source, variables and connections. Which hosts and schemes are allowed is the runner's own
//! decision; refused here is what could never be meant well, or would be another program's option.

use super::{ApiState, Caller, checked};
use crate::execution::ArchiveHash;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared_proto::exact;
use shared_proto::failure::{Code, Failure};
use shared_proto::sources::{OciReference, RegistryAddress};
use shared_proto::v1;
use shared_proto::version::Constraint;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use utoipa::ToSchema;

/// A URL, characters.
const URL_MAX: usize = 2048;
/// A reference, characters.
const REFERENCE_MAX: usize = 255;
/// A folder, characters.
const PATH_MAX: usize = 1024;
/// Variables of one stack.
const VARIABLES_MAX: usize = 256;
/// Names and values of all of them, bytes.
const VARIABLES_BYTES_MAX: usize = 512 * 1024;
/// Folders of a sparse source: what a runner takes.
const SPARSE_MAX: usize = 63;
/// Connections of one stack.
const CONNECTIONS_MAX: usize = 16;

/// Where the code comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Source {
    /// A Git repository that the runner fetches.
    Git(Git),
    /// An uploaded archive.
    Archive(Archive),
    /// An artifact of an OCI registry that the runner fetches.
    Oci(Oci),
    /// A module of a registry of modules that the runner fetches.
    Registry(Registry),
}
/// A Git repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Git {
    url: String,
    /// A commit, tag or branch; HEAD where empty.
    #[serde(default)]
    reference: String,
    /// With its submodules.
    #[serde(default, skip_serializing_if = "is_off")]
    submodules: bool,
    /// With what Git LFS keeps of it.
    #[serde(default, skip_serializing_if = "is_off")]
    lfs: bool,
    /// Only the root module's folder and these; all of it where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sparse: Vec<String>,
}
/// An uploaded archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Archive {
    sha256: String,
    /// Bytes; the control plane knows it itself.
    size: Option<u64>,
}

/// An artifact of an OCI registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Oci {
    /// HOST/REPOSITORY with :TAG or @sha256:DIGEST.
    reference: String,
}
/// A module of a registry of modules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Registry {
    /// HOST/NAMESPACE/NAME/PROVIDER.
    address: String,
    /// A version or a constraint; the newest where empty.
    #[serde(default)]
    version: String,
}

/// The engine's variables, as exactly as they are said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = HashMap<String, serde_json::Value>)]
pub(super) struct Variables(BTreeMap<String, serde_json::Value>);

// === impl Source ===

impl Source {
    /// Checks it; an archive must be the organization's own.
    ///
    /// # Errors
    /// `invalid_argument`, `not_found`.
    pub(super) async fn checked(self, state: &ApiState, caller: &Caller) -> Result<Self, Failure> {
        match self {
            Self::Git(git) => Ok(Self::Git(Git {
                url: checked_url(git.url)?,
                reference: checked_reference(git.reference)?,
                sparse: checked_folders(git.sparse)?,
                ..git
            })),
            Self::Oci(oci) => match OciReference::parse(&oci.reference) {
                Ok(_) => Ok(Self::Oci(oci)),
                Err(why) => Err(wrong("oci reference", &oci.reference, why)),
            },
            Self::Registry(module) => {
                RegistryAddress::parse(&module.address)
                    .map_err(|why| wrong("registry address", &module.address, why))?;
                if !module.version.is_empty() {
                    Constraint::parse(&module.version).map_err(|why| wrong("version", &module.version, &why))?;
                }
                Ok(Self::Registry(module))
            }
            Self::Archive(archive) => {
                let hash = ArchiveHash::parse(&archive.sha256)?;
                let size = state.jobs.archives().size(caller.org(), &hash).await.ok_or_else(|| {
                    Code::NotFound
                        .on(format!("there is no archive {}", archive.sha256))
                        .next("Upload it with PUT /archives/SHA256.")
                })?;
                Ok(Self::Archive(Archive { sha256: archive.sha256, size: Some(size) }))
            }
        }
    }
    /// From what a runner was told.
    fn of_wire(kind: &v1::source::Kind) -> Self {
        match kind.clone() {
            v1::source::Kind::Git(git) => Self::Git(Git {
                url: git.url,
                reference: git.reference,
                submodules: git.submodules,
                lfs: git.lfs,
                sparse: git.sparse.map(|sparse| sparse.folders).unwrap_or_default(),
            }),
            v1::source::Kind::Archive(archive) => {
                Self::Archive(Archive { sha256: archive.sha256, size: Some(archive.size) })
            }
            v1::source::Kind::Oci(oci) => Self::Oci(Oci { reference: oci.reference }),
            v1::source::Kind::Registry(module) => {
                Self::Registry(Registry { address: module.address, version: module.version })
            }
        }
    }
    /// Its address and reference, where it is a Git repository.
    pub(super) fn git(&self) -> Option<(&str, &str)> {
        match self {
            Self::Git(git) => Some((&git.url, &git.reference)),
            Self::Archive(_) | Self::Oci(_) | Self::Registry(_) => None,
        }
    }
    /// The same repository at that reference, with what else is said of it; what is none has none.
    pub(super) fn at(&self, reference: &str) -> Option<Self> {
        match self {
            Self::Git(git) => Some(Self::Git(Git { reference: reference.to_owned(), ..git.clone() })),
            Self::Archive(_) | Self::Oci(_) | Self::Registry(_) => None,
        }
    }
    /// As a runner is told.
    pub(super) fn wire(self, path: String) -> v1::Source {
        let kind = match self {
            Self::Git(git) => v1::source::Kind::Git(v1::GitSource {
                url: git.url,
                reference: git.reference,
                submodules: git.submodules,
                lfs: git.lfs,
                sparse: (!git.sparse.is_empty()).then_some(v1::SparseFolders { folders: git.sparse }),
            }),
            Self::Oci(oci) => v1::source::Kind::Oci(v1::OciSource { reference: oci.reference }),
            Self::Registry(module) => {
                v1::source::Kind::Registry(v1::RegistrySource { address: module.address, version: module.version })
            }
            Self::Archive(archive) => v1::source::Kind::Archive(v1::ArchiveSource {
                sha256: archive.sha256,
                size: archive.size.unwrap_or_default(),
            }),
        };
        v1::Source { kind: Some(kind), path }
    }
}

// === impl Variables ===

impl<'de> Deserialize<'de> for Variables {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        let all = exact::object(raw.get()).map_err(|e| serde::de::Error::custom(format!("variables: {e}")))?;
        Ok(Self(all.into_iter().collect()))
    }
}

impl Variables {
    pub(super) fn of(values: BTreeMap<String, serde_json::Value>) -> Self {
        Self(values)
    }
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| is_wanted(name));
    }
    /// These, with others over them.
    pub(super) fn over(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
    /// Checks names, number and size.
    ///
    /// # Errors
    /// `invalid_argument`, `too_large`.
    pub(super) fn checked(self) -> Result<Self, Failure> {
        if self.0.len() > VARIABLES_MAX {
            return Err(
                Code::TooLarge.on(format!("there are {} variables, the limit is {VARIABLES_MAX}", self.0.len()))
            );
        }
        if let Some(name) = self.0.keys().find(|name| !is_identifier(name)) {
            return Err(Code::InvalidArgument.on(format!("the variable's name {:?} is not a letter or underscore with letters, digits, underscores or dashes after it", short(name))));
        }
        let bytes: usize = self.0.iter().map(|(name, value)| name.len() + text_of(value).len()).sum();
        if bytes > VARIABLES_BYTES_MAX {
            return Err(
                Code::TooLarge.on(format!("the variables take {bytes} bytes, the limit is {VARIABLES_BYTES_MAX}"))
            );
        }
        // it becomes a variable of the engine's environment
        if let Some((name, _)) = self.0.iter().find(|(_, value)| text_of(value).contains('\0')) {
            return Err(Code::InvalidArgument.on(format!("the value of variable {name} has a NUL character")));
        }
        Ok(self)
    }
    /// Their names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }
    /// Those that are JSON and no texts.
    pub(super) fn typed(&self) -> Vec<String> {
        self.0.iter().filter(|(_, value)| !value.is_string()).map(|(name, _)| name.clone()).collect()
    }
    /// As a runner is told.
    pub(super) fn wire(&self) -> HashMap<String, String> {
        self.0.iter().map(|(name, value)| (name.clone(), text_of(value))).collect()
    }
}

/// A text as it is, anything else as JSON.
fn text_of(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The folder of the root module, inside the source.
///
/// # Errors
/// `invalid_argument`.
pub(super) fn checked_path(path: String) -> Result<String, Failure> {
    let trimmed = path.trim_end_matches('/');
    let bad = |why: &str| Err(Code::InvalidArgument.on(format!("path {:?} {why}", short(&path))));
    if trimmed.is_empty() && !path.starts_with('/') {
        return Ok(String::new());
    }
    if path.len() > PATH_MAX {
        return bad("is too long");
    }
    if path.starts_with('/') || path.starts_with('-') || path.contains('\\') || path.chars().any(char::is_control) {
        return bad("is not a relative path of plain names");
    }
    if trimmed.split('/').any(|part| part.is_empty() || part == "..") {
        return bad("has an empty part or `..`");
    }
    Ok(trimmed.to_owned())
}

/// Entries of a runner's configuration.
///
/// # Errors
/// `invalid_argument`, `too_large`.
pub(super) fn checked_connections(names: Vec<String>) -> Result<Vec<String>, Failure> {
    if names.len() > CONNECTIONS_MAX {
        return Err(Code::TooLarge.on(format!("there are {} connections, the limit is {CONNECTIONS_MAX}", names.len())));
    }
    let mut seen = Vec::with_capacity(names.len());
    for name in names {
        let name = checked::entry("connections", &name)?;
        if seen.contains(&name) {
            return Err(Code::InvalidArgument.on(format!("connections names {name} twice")));
        }
        seen.push(name);
    }
    Ok(seen)
}

/// A version or a constraint, as the engines have them.
///
/// # Errors
/// `invalid_argument`.
pub(super) fn checked_version(text: String) -> Result<String, Failure> {
    match Constraint::parse(&text) {
        Ok(constraint) => Ok(constraint.to_string()),
        Err(what) => Err(Code::InvalidArgument.on(format!("engine_version: {what}"))),
    }
}

/// Names of variables, each once.
///
/// # Errors
/// `invalid_argument`, `too_large`.
pub(super) fn checked_names(names: Vec<String>) -> Result<Vec<String>, Failure> {
    if names.len() > VARIABLES_MAX {
        return Err(Code::TooLarge.on(format!("not_redacted has {} names, the limit is {VARIABLES_MAX}", names.len())));
    }
    if let Some(name) = names.iter().find(|name| !is_identifier(name)) {
        return Err(
            Code::InvalidArgument.on(format!("not_redacted has {:?}, which is no variable's name", short(name)))
        );
    }
    let names: BTreeSet<_> = names.into_iter().collect();
    Ok(names.into_iter().collect())
}

/// A source as a stack has it, from what a runner was told.
pub(crate) fn stored_source(kind: &v1::source::Kind) -> serde_json::Value {
    serde_json::to_value(Source::of_wire(kind)).unwrap_or_default()
}

fn is_off(switch: &bool) -> bool {
    !switch
}

fn wrong(what: &str, text: &str, why: &str) -> Failure {
    Code::InvalidArgument.on(format!("the {what} {:?} {why}", short(text)))
}

/// Folders inside of the source.
fn checked_folders(folders: Vec<String>) -> Result<Vec<String>, Failure> {
    if folders.len() > SPARSE_MAX {
        return Err(Code::TooLarge.on(format!("sparse has {} folders, the limit is {SPARSE_MAX}", folders.len())));
    }
    if folders.iter().any(|folder| folder.trim_end_matches('/').is_empty()) {
        return Err(Code::InvalidArgument.on("sparse has an empty folder"));
    }
    folders.into_iter().map(checked_path).collect()
}

fn checked_url(url: String) -> Result<String, Failure> {
    let bad = |why: &str| Err(Code::InvalidArgument.on(format!("git url {:?} {why}", short(&url))));
    if url.is_empty() {
        return Err(Code::InvalidArgument.on("git url is empty"));
    }
    if url.len() > URL_MAX {
        return bad("is longer than 2048 characters");
    }
    if url.starts_with('-') {
        return bad("starts with a dash");
    }
    if url.chars().any(char::is_control) {
        return bad("has control characters");
    }
    if url.chars().any(char::is_whitespace) {
        return bad("has spaces");
    }
    // `ext::COMMAND` and its like have Git run a program
    if url.contains("::") && !is_bracketed(&url) {
        return bad("names a remote helper (`::`)");
    }
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    let known = match scheme {
        Some(scheme) => matches!(scheme, "https" | "ssh" | "file"),
        None => is_scp(&url),
    };
    if !known {
        return bad("is not https://, ssh:// or USER@HOST:PATH");
    }
    if let Some((user, _)) =
        url.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next()?.rsplit_once('@'))
        && user.contains(':')
    {
        return Err(Code::InvalidArgument
            .on("the git url carries a password")
            .next("Leave it out; the runner's own configuration has the credentials."));
    }
    let host = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    if scheme != Some("file") && host.rsplit_once('@').map_or(host, |(_, h)| h).starts_with('-') {
        return bad("has a host that starts with a dash");
    }
    Ok(url)
}

/// An IPv6 address in brackets may have `::`; nothing before it can then be a helper's name.
fn is_bracketed(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (Some(open), Some(close)) = (rest.find('['), rest.find(']')) else { return false };
    let outside = format!("{}{}", &rest[..open.min(close)], &rest[close..]);
    open < close && !outside.contains("::") && url.contains("://") && !url[..url.len() - rest.len()].contains("::")
}

/// `git@host:path`, as Git takes it for ssh.
fn is_scp(url: &str) -> bool {
    let Some((login, path)) = url.split_once(':') else { return false };
    let Some((user, host)) = login.split_once('@') else { return false };
    let plain = |s: &str| {
        !s.is_empty() && !s.starts_with('-') && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    plain(user) && plain(host) && !path.is_empty() && !path.starts_with('-')
}

/// Git's own rules for a reference's name, and no option.
fn checked_reference(reference: String) -> Result<String, Failure> {
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    let bad = reference.len() > REFERENCE_MAX
        || reference.starts_with(['-', '/', '.'])
        || reference.ends_with(['/', '.'])
        || reference.contains("..")
        || reference.contains("//")
        || reference.contains("@{")
        || reference == "@"
        || reference.contains(forbidden)
        || reference.split('/').any(|part| part.starts_with('.') || part.ends_with(".lock"));
    if bad {
        return Err(
            Code::InvalidArgument.on(format!("git reference {:?} is not a commit, tag or branch", short(&reference)))
        );
    }
    Ok(reference)
}

/// What the engine takes for a variable's name, within what an environment takes.
pub(super) fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 128
        && bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_could_run_something_or_carry_a_password_are_refused() {
        for good in [
            "https://example.com/a.git",
            "https://example.com:8443/a/b",
            "ssh://git@example.com/a.git",
            "ssh://git@example.com:2222/a.git",
            "git@example.com:a/b.git",
            "https://[::1]/a.git",
            "file:///srv/repo",
        ] {
            assert!(checked_url(good.into()).is_ok(), "{good}");
        }
        for bad in [
            "",
            "ext::sh -c id",
            "ext::sh",
            "https::https://example.com",
            "fd::17",
            "--upload-pack=id",
            "-u",
            "http://example.com/a.git",
            "git://example.com/a.git",
            "ftp://example.com/a",
            "/srv/repo",
            "../repo",
            "example.com/a.git",
            "https://user:secret@example.com/a.git",
            "ssh://-oProxyCommand=id/a",
            "ssh://git@-oProxyCommand=id/a",
            "-oProxyCommand=id@host:path",
            "git@-host:path",
            "git@host:-path",
            "https://example.com/a b",
            "https://example.com/\n",
            "ext::[::1]://x",
            &format!("https://example.com/{}", "a".repeat(URL_MAX)),
        ] {
            assert!(checked_url(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stored_source_reads_back_as_it_was_and_as_a_runner_is_told() {
        for text in [
            r#"{"git":{"url":"https://h/x","reference":""}}"#,
            r#"{"git":{"url":"https://h/x","reference":"v1","submodules":true,"lfs":true,"sparse":["a"]}}"#,
            r#"{"oci":{"reference":"h/a:v1"}}"#,
            r#"{"registry":{"address":"h/o/n/aws","version":"~> 1.0"}}"#,
            r#"{"archive":{"sha256":"00","size":1}}"#,
        ] {
            let source: Source = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&source).expect("writes"), text);
            let kind = source.clone().wire(String::new()).kind.expect("a kind");
            assert_eq!(Source::of_wire(&kind), source, "{text}");
        }
    }

    #[test]
    fn folders_of_a_sparse_source() {
        assert_eq!(checked_folders(vec!["a/b/".into()]), Ok(vec!["a/b".to_owned()]));
        for bad in ["", "/", "../a", "/a", "-a"] {
            assert!(checked_folders(vec![bad.into()]).is_err(), "{bad:?}");
        }
        assert!(checked_folders(vec!["a".into(); SPARSE_MAX]).is_ok());
        assert_eq!(checked_folders(vec!["a".into(); SPARSE_MAX + 1]).map_err(|f| f.code), Err(Code::TooLarge));
    }

    #[test]
    fn references_follow_gits_rules() {
        for good in ["", "main", "v1.2.3", "feature/x", &"a".repeat(40), "release-1", "a@b"] {
            assert!(checked_reference(good.into()).is_ok(), "{good}");
        }
        for bad in [
            "--upload-pack=id",
            "-b",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.",
            "@",
            "a@{1}",
            "a\n",
            "a\0",
        ] {
            assert!(checked_reference(bad.into()).is_err(), "{bad:?}");
        }
        assert!(checked_reference("a".repeat(256)).is_err());
    }

    #[test]
    fn paths_stay_inside() {
        for (good, kept) in [("", ""), ("a", "a"), ("a/b/", "a/b"), ("./a", "./a"), ("a.b/c-d", "a.b/c-d")] {
            assert_eq!(checked_path(good.into()).as_deref(), Ok(kept));
        }
        for bad in ["/", "/a", "..", "a/..", "a/../b", "a//b", "-a", "a\\b", "a\nb", &"a/".repeat(600)] {
            assert!(checked_path(bad.into()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn variables_are_identifiers_within_bounds() {
        let one = |name: &str, value: serde_json::Value| Variables([(name.to_owned(), value)].into()).checked();
        assert!(one("region", "eu".into()).is_ok());
        assert!(one("_a-b1", 1.into()).is_ok());
        for bad in ["", "1a", "a b", "a=b", "-a", "ä", "a.b", &"a".repeat(129)] {
            assert!(one(bad, "x".into()).is_err(), "{bad:?}");
        }
        assert!(one("a", "x\0y".into()).is_err());
        assert!(one("a", "x".repeat(VARIABLES_BYTES_MAX).into()).is_err());
        let many: BTreeMap<_, _> = (0..=VARIABLES_MAX).map(|i| (format!("a{i}"), serde_json::Value::Null)).collect();
        assert!(Variables(many).checked().is_err());
        let mixed = Variables([("a".into(), "text".into()), ("b".into(), serde_json::json!({"c": [1, true]}))].into());
        assert_eq!(mixed.typed(), ["b"]);
        assert_eq!(mixed.wire()["a"], "text");
        assert_eq!(mixed.wire()["b"], r#"{"c":[1,true]}"#);
    }

    #[test]
    fn variables_are_taken_as_they_are_said_or_not_at_all() {
        let read = |text: &str| serde_json::from_str::<Variables>(text);
        let exact = read(r#"{"a": 18446744073709551615, "b": [0.1, {"c": "x"}]}"#).expect("reads");
        assert_eq!(exact.wire()["a"], "18446744073709551615");
        assert_eq!(serde_json::from_value::<Variables>(serde_json::json!({"a": 1})).expect("reads").wire()["a"], "1");
        for (text, at) in [
            (r#"{"a": {"b": 18446744073709551616}}"#, "a.b"),
            (r#"{"a": 0.12345678901234567890}"#, "a"),
            (r#"{"a": 1, "a": 2}"#, "a"),
            ("[]", "object"),
        ] {
            let failure = read(text).expect_err(text).to_string();
            assert!(failure.starts_with("variables: ") && failure.contains(at), "{failure}");
        }
    }

    #[test]
    fn names_of_variables_are_few_and_each_once() {
        assert_eq!(checked_names(vec!["b".into(), "a".into(), "b".into()]), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(checked_names(vec!["a b".into()]).map_err(|f| f.code), Err(Code::InvalidArgument));
        let many = |n: usize| (0..n).map(|i| format!("a{i}")).collect::<Vec<_>>();
        assert!(checked_names(many(VARIABLES_MAX)).is_ok());
        assert_eq!(checked_names(many(VARIABLES_MAX + 1)).map_err(|f| f.code), Err(Code::TooLarge));
    }

    #[test]
    fn connections_are_few_and_each_once() {
        assert!(checked_connections(vec!["prod".into(), "dev".into()]).is_ok());
        assert!(checked_connections(vec!["prod".into(), "prod".into()]).is_err());
        assert!(checked_connections(vec!["../x".into()]).is_err());
        assert!(checked_connections((0..17).map(|i| format!("c{i}")).collect()).is_err());
    }
}
