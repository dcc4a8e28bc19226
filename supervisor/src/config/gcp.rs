//! The keys of a connection to Google Cloud, each checked at the start.

use super::ConfigError;
use serde::Deserialize;
use shared_proto::address::Address;
use shared_proto::inventory::gcp::{is_project, is_service_account};
use std::path::PathBuf;
use std::time::Duration;

/// Service accounts from the first to the one whose token workers get.
const IMPERSONATE_MAX: usize = 8;
/// How long a token of a service account lasts, seconds: what federation takes. Beyond an hour only where the organization's policy allows it.
/// <https://cloud.google.com/iam/docs/create-short-lived-credentials-direct>
const IMPERSONATION_SECONDS: std::ops::RangeInclusive<u64> = 600..=43_200;
const IMPERSONATION_SECONDS_DEFAULT: u64 = 3600;
const SCOPES_MAX: usize = 16;
const HOSTS_MAX: usize = 8;
/// The longest scope or host, bytes.
const TEXT_MAX: usize = 256;
/// What every scope of Google Cloud begins with.
const SCOPE: &str = "https://www.googleapis.com/auth/";

/// A connection to Google Cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gcp {
    /// Where credentials come from.
    pub source: GcpSource,
    /// The default project; empty: the source's own.
    pub project: String,
    /// The project that is billed and whose quota is used; empty: the source's own, or the one that is asked.
    pub quota_project: String,
    /// The service accounts that are acted as, one by way of the other: workers get a token of the last, and nothing of the source's own.
    pub impersonate: Vec<String>,
    /// How long that token lasts.
    pub impersonation: Duration,
    /// What tokens are good for; none: all that the account's roles allow.
    pub scopes: Vec<String>,
    /// Hosts, perhaps with ports, from which an external_account file may have its subject token fetched.
    pub subject_token_hosts: Vec<String>,
    /// A stand-in or a private endpoint, for every service; empty: Google's own.
    pub endpoint_url: String,
}

/// Where credentials of Google Cloud come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GcpSource {
    /// A file: a service account's key, a user's, or how another identity is exchanged (external_account).
    File(PathBuf),
    /// The metadata server of the machine, the pod or the service that the runner runs in.
    Metadata,
}

/// What `source` says.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FileSource {
    File,
    Metadata,
}

/// The keys.
#[derive(Default)]
#[cfg_attr(test, derive(Deserialize), serde(default, deny_unknown_fields))]
pub(super) struct FileGcp {
    pub(super) credentials_file: Option<PathBuf>,
    pub(super) project: Option<String>,
    pub(super) quota_project: Option<String>,
    pub(super) impersonate_service_account: Option<Vec<String>>,
    pub(super) impersonation_seconds: Option<u64>,
    pub(super) scopes: Option<Vec<String>>,
    pub(super) subject_token_hosts: Option<Vec<String>>,
}

// === impl Gcp ===

impl Gcp {
    /// The credentials file.
    pub const fn file(&self) -> Option<&PathBuf> {
        match &self.source {
            GcpSource::File(path) => Some(path),
            GcpSource::Metadata => None,
        }
    }

    /// As `config show` shows it.
    pub(super) fn shown(&self) -> String {
        let file = self.file().map_or_else(|| self.source.as_str().to_owned(), |path| path.display().to_string());
        let account = self.impersonate.last().map(|a| format!("as {a}")).unwrap_or_default();
        format!("gcp {file} {} {} {account}", self.project, self.endpoint_url)
    }
}

// === impl GcpSource ===

impl GcpSource {
    /// As it is written and sent.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Metadata => "metadata",
        }
    }
}

// === impl FileGcp ===

impl FileGcp {
    pub(super) const fn is_given(&self) -> bool {
        self.credentials_file.is_some()
            || self.project.is_some()
            || self.quota_project.is_some()
            || self.impersonate_service_account.is_some()
            || self.impersonation_seconds.is_some()
            || self.scopes.is_some()
            || self.subject_token_hosts.is_some()
    }

    /// The connection `name`.
    pub(super) fn check(
        self,
        name: &str,
        source: Option<FileSource>,
        endpoint_url: String,
    ) -> Result<Gcp, ConfigError> {
        let bad = |what: String| ConfigError(format!("connections.{name}: {what}"));
        let source = source.ok_or_else(|| bad("needs source = \"file\" or \"metadata\"".into()))?;
        let from_file = source == FileSource::File;
        let source = match (from_file, self.credentials_file) {
            (true, Some(path)) if path.is_absolute() => GcpSource::File(path),
            (true, Some(path)) => {
                return Err(bad(format!("credentials_file: {:?} is not an absolute path", path.display().to_string())));
            }
            (false, None) => GcpSource::Metadata,
            _ => return Err(bad("credentials_file belongs to source = \"file\", which needs it".into())),
        };
        let project = |key: &str, given: Option<String>| match given.unwrap_or_default() {
            text if text.is_empty() || is_project(&text) => Ok(text),
            text => Err(bad(format!("{key}: {text:?} is no project's id or number"))),
        };
        let impersonate = self.impersonate_service_account.unwrap_or_default();
        if impersonate.len() > IMPERSONATE_MAX {
            return Err(bad(format!("impersonate_service_account takes at most {IMPERSONATE_MAX}")));
        }
        if let Some(account) = impersonate.iter().find(|a| !is_service_account(a)) {
            return Err(bad(format!("impersonate_service_account: {account:?} is not NAME@….gserviceaccount.com")));
        }
        let seconds = match self.impersonation_seconds {
            Some(_) if impersonate.is_empty() => {
                return Err(bad("impersonation_seconds needs impersonate_service_account".into()));
            }
            given => given.unwrap_or(IMPERSONATION_SECONDS_DEFAULT),
        };
        if !IMPERSONATION_SECONDS.contains(&seconds) {
            let (least, most) = (IMPERSONATION_SECONDS.start(), IMPERSONATION_SECONDS.end());
            return Err(bad(format!("impersonation_seconds is {seconds}, it must be from {least} to {most}")));
        }
        let scopes = self.scopes.unwrap_or_default();
        let is_scope = |s: &String| {
            s.len() <= TEXT_MAX
                && s.strip_prefix(SCOPE)
                    .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic()))
        };
        if scopes.len() > SCOPES_MAX || !scopes.iter().all(is_scope) {
            return Err(bad(format!("scopes takes at most {SCOPES_MAX}, each {SCOPE}…")));
        }
        let hosts = self.subject_token_hosts.unwrap_or_default();
        if !hosts.is_empty() && !from_file {
            return Err(bad("subject_token_hosts belongs to source = \"file\"".into()));
        }
        let is_host = |h: &String| {
            h.len() <= TEXT_MAX
                && Address::parse(&format!("https://{h}")).is_ok_and(|a| a.prefix.is_empty())
                && !h.ends_with('/')
        };
        if hosts.len() > HOSTS_MAX || !hosts.iter().all(is_host) {
            return Err(bad(format!("subject_token_hosts takes at most {HOSTS_MAX}, each HOST or HOST:PORT")));
        }
        if !endpoint_url.is_empty() {
            Address::parse(&endpoint_url).map_err(|e| bad(format!("endpoint_url: {e}")))?;
        }
        Ok(Gcp {
            source,
            project: project("project", self.project)?,
            quota_project: project("quota_project", self.quota_project)?,
            impersonate,
            impersonation: Duration::from_secs(seconds),
            scopes,
            subject_token_hosts: hosts,
            endpoint_url,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gcp(source: &str, keys: &str) -> Result<Gcp, String> {
        let keys: FileGcp = toml::from_str(keys).expect(keys);
        let source = if source == "file" { FileSource::File } else { FileSource::Metadata };
        keys.check("prod", Some(source), String::new()).map_err(|e| e.0)
    }
    fn file(keys: &str) -> Result<Gcp, String> {
        gcp("file", &format!("credentials_file = '/k.json'\n{keys}"))
    }

    #[test]
    fn what_is_there_is_what_google_takes() {
        let plain = file("").expect("fine");
        assert_eq!((plain.source.as_str(), plain.impersonation), ("file", Duration::from_secs(3600)));
        assert_eq!(gcp("metadata", "").expect("fine").source, GcpSource::Metadata);
        let account = "impersonate_service_account = ['a@p.iam.gserviceaccount.com']";
        for good in [
            "project = 'shop-prod-1'".to_owned(),
            "quota_project = '123456789012'".to_owned(),
            format!("{account}\nimpersonation_seconds = 600"),
            format!("{account}\nimpersonation_seconds = 43200"),
            "scopes = ['https://www.googleapis.com/auth/cloud-platform.read-only']".to_owned(),
            "subject_token_hosts = ['169.254.169.254', 'idp.example:8443']".to_owned(),
        ] {
            assert!(file(&good).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("project = 'a/b'".to_owned(), "project: \"a/b\""),
            ("quota_project = 'A'".to_owned(), "quota_project: \"A\""),
            (format!("{account}\nimpersonation_seconds = 599"), "from 600 to 43200"),
            (format!("{account}\nimpersonation_seconds = 43201"), "from 600 to 43200"),
            ("impersonation_seconds = 600".to_owned(), "needs impersonate_service_account"),
            ("impersonate_service_account = ['somebody@example.com']".to_owned(), "gserviceaccount.com"),
            ("scopes = ['cloud-platform']".to_owned(), "scopes"),
            ("scopes = ['https://www.googleapis.com/auth/a b']".to_owned(), "scopes"),
            ("subject_token_hosts = ['https://x']".to_owned(), "HOST or HOST:PORT"),
            ("subject_token_hosts = ['x/y']".to_owned(), "HOST or HOST:PORT"),
            ("subject_token_hosts = ['u@x']".to_owned(), "HOST or HOST:PORT"),
        ] {
            let why = file(&bad).expect_err(&bad);
            assert!(why.starts_with("connections.prod: ") && why.contains(word), "{why}");
        }
        for (source, keys, word) in [
            ("file", "", "needs it"),
            ("file", "credentials_file = 'k.json'", "absolute"),
            ("metadata", "credentials_file = '/k.json'", "belongs to source = \"file\""),
            ("metadata", "subject_token_hosts = ['x']", "belongs to source = \"file\""),
        ] {
            assert!(gcp(source, keys).expect_err(keys).contains(word), "{keys}");
        }
    }

    #[test]
    fn both_sides_of_how_many() {
        let many = |key: &str, text: &str, n: usize| file(&format!("{key} = {:?}", vec![text; n]));
        for (key, text, most) in [
            ("impersonate_service_account", "a@p.iam.gserviceaccount.com", IMPERSONATE_MAX),
            ("scopes", "https://www.googleapis.com/auth/pubsub", SCOPES_MAX),
            ("subject_token_hosts", "idp.example", HOSTS_MAX),
        ] {
            assert!(many(key, text, most).is_ok() && many(key, text, most + 1).is_err(), "{key}");
        }
    }
}
