//! `[sources]`: what is fetched for jobs, and with which credentials. An entry is for the addresses that its `match` covers; of several that
//! are for one address the narrowest is taken, and none is taken for any other address.

use super::ConfigError;
use super::check::misshapen;
use serde::Deserialize;
use shared_proto::address::Address;
use shared_proto::sources::{Pattern, Place, Scheme};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The most entries.
const ENTRIES_MAX: usize = 256;
/// The most that may be kept of what was fetched, MiB.
const CACHE_MIB_MAX: u64 = 1 << 20;
const CACHE_MIB_DEFAULT: u64 = 2048;
/// As whom a token is shown: what GitHub takes, and most others take anything.
const USER_DEFAULT: &str = "x-access-token";
/// Where GitHub's API is. <https://docs.github.com/en/rest>
const GITHUB_API: &str = "https://api.github.com";
/// The longest user, id or name of a variable, bytes.
const TEXT_MAX: usize = 256;

/// What is fetched for jobs, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Whether a job's Git source may be a folder of this machine.
    pub allow_file: bool,
    /// How much is kept of what was fetched, bytes; 0: nothing.
    pub cache: u64,
    /// Credentials, by their names.
    pub entries: BTreeMap<String, SourceEntry>,
}

/// Credentials for some addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceEntry {
    /// The addresses.
    pub pattern: Pattern,
    /// As they are written.
    pub written: String,
    /// The credentials.
    pub access: Access,
    /// Certificate authorities in the place of the machine's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Whether modules that a source names get them too, where they are at these addresses.
    pub modules: bool,
    /// Who has to have signed the commits.
    pub signature: Option<Signature>,
}

/// How an entry shows who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Not at all.
    None,
    /// By a token.
    Token {
        /// As whom.
        user: String,
        /// The token.
        from: TokenFrom,
    },
    /// By a key of SSH.
    Ssh {
        /// The private key.
        key_file: PathBuf,
        /// The only hosts that are known.
        known_hosts_file: PathBuf,
    },
    /// By a token that GitHub gives an installation of an app.
    GithubApp {
        /// The app's id, or its client's.
        app_id: String,
        /// The installation's.
        installation_id: u64,
        /// The app's private key.
        private_key_file: PathBuf,
        /// Where the API is.
        api_url: String,
    },
}

/// Where a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenFrom {
    /// In that file.
    File(PathBuf),
    /// In that variable of the supervisor's environment.
    Variable(String),
}

/// Who has to have signed a source's commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// One of those, by a key of SSH.
    AllowedSigners(PathBuf),
    /// One of those, by an OpenPGP key.
    Keyring(PathBuf),
}

#[derive(Deserialize)]
#[serde(default)]
pub(super) struct FileSources {
    pub(super) allow_file: bool,
    pub(super) cache_mib: u64,
    /// Each is read by itself: what is flattened does not tell where it is wrong.
    #[serde(flatten)]
    pub(super) entries: BTreeMap<String, toml::Value>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSource {
    #[serde(rename = "match")]
    pattern: String,
    kind: String,
    user: Option<String>,
    token_file: Option<PathBuf>,
    token_variable: Option<String>,
    key_file: Option<PathBuf>,
    known_hosts_file: Option<PathBuf>,
    app_id: Option<Id>,
    installation_id: Option<u64>,
    private_key_file: Option<PathBuf>,
    api_url: Option<String>,
    ca_file: Option<PathBuf>,
    modules: Option<bool>,
    require_signature: Option<FileSignature>,
}
/// GitHub shows an app's id as a number, and its client's as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Number(u64),
    Text(String),
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSignature {
    ssh_allowed_signers: Option<PathBuf>,
    gpg_keyring: Option<PathBuf>,
}

// === impl Sources ===

impl Sources {
    /// The entry that is for that place, with its name: the narrowest of those that are.
    pub fn entry(&self, place: &Place) -> Option<(&str, &SourceEntry)> {
        let covering = self.entries.iter().filter(|(_, entry)| entry.pattern.covers(place));
        covering.max_by_key(|(_, entry)| entry.pattern.narrowness()).map(|(name, entry)| (name.as_str(), entry))
    }

    /// The variables of the supervisor's environment that entries name.
    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        self.entries.values().filter_map(|entry| match &entry.access {
            Access::Token { from: TokenFrom::Variable(name), .. } => Some(name.as_str()),
            _ => None,
        })
    }

    /// The files that entries name: secret, or what decides whom they are shown to.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.entries.values().flat_map(SourceEntry::files)
    }
}

// === impl SourceEntry ===

impl SourceEntry {
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let of_access = match &self.access {
            Access::None | Access::Token { from: TokenFrom::Variable(_), .. } => [None, None],
            Access::Token { from: TokenFrom::File(file), .. } => [Some(file), None],
            Access::Ssh { key_file, known_hosts_file } => [Some(key_file), Some(known_hosts_file)],
            Access::GithubApp { private_key_file, .. } => [Some(private_key_file), None],
        };
        let of_signature = self.signature.as_ref().map(|signature| match signature {
            Signature::AllowedSigners(file) | Signature::Keyring(file) => file,
        });
        of_access.into_iter().flatten().chain(&self.ca_file).chain(of_signature)
    }

    /// As `config show` shows it.
    pub(super) fn shown(&self) -> String {
        let signed = if self.signature.is_some() { " signed" } else { "" };
        format!("{} {}{signed}", self.written, self.access.as_str())
    }
}

// === impl Access ===

impl Access {
    /// As it is written and sent.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token { .. } => "token",
            Self::Ssh { .. } => "ssh",
            Self::GithubApp { .. } => "github-app",
        }
    }
}

// === impl FileSources ===

impl Default for FileSources {
    fn default() -> Self {
        Self { allow_file: false, cache_mib: CACHE_MIB_DEFAULT, entries: BTreeMap::new() }
    }
}

impl FileSources {
    pub(super) fn check(self) -> Result<Sources, ConfigError> {
        if self.cache_mib > CACHE_MIB_MAX {
            let message = format!("sources.cache_mib is {}, it must be from 0 to {CACHE_MIB_MAX}", self.cache_mib);
            return Err(ConfigError(message));
        }
        if self.entries.len() > ENTRIES_MAX {
            return Err(ConfigError(format!("more than {ENTRIES_MAX} entries of sources")));
        }
        let mut entries = BTreeMap::<String, SourceEntry>::new();
        for (name, entry) in self.entries {
            let entry: FileSource =
                entry.try_into().map_err(|e| ConfigError(format!("sources.{name}: {}", misshapen(&e))))?;
            let entry = entry.check(&name)?;
            // which of the two is taken would be chance
            if let Some((other, _)) = entries.iter().find(|(_, other)| other.pattern == entry.pattern) {
                return Err(ConfigError(format!("sources.{name}: match is that of sources.{other}, too")));
            }
            entries.insert(name, entry);
        }
        Ok(Sources { allow_file: self.allow_file, cache: self.cache_mib << 20, entries })
    }
}

// === impl FileSource ===

impl FileSource {
    fn check(self, name: &str) -> Result<SourceEntry, ConfigError> {
        let bad = |what: String| ConfigError(format!("sources.{name}: {what}"));
        if name.is_empty()
            || name.len() > 128
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        {
            return Err(bad("a name has letters, digits, '-', '.' and '_', at most 128".into()));
        }
        let pattern = Pattern::parse(&self.pattern).map_err(|why| bad(format!("match {why}")))?;
        let whole = |key: &str, path: Option<PathBuf>| match path {
            Some(path) if !path.is_absolute() => Err(bad(format!("{key} is not an absolute path"))),
            path => Ok(path),
        };
        let needed = |key: &str, path: Option<PathBuf>| {
            whole(key, path)?.ok_or_else(|| bad(format!("kind = {:?} needs {key}", self.kind)))
        };
        let token = self.user.is_some() || self.token_file.is_some() || self.token_variable.is_some();
        let ssh = self.key_file.is_some() || self.known_hosts_file.is_some();
        let app = self.app_id.is_some()
            || self.installation_id.is_some()
            || self.private_key_file.is_some()
            || self.api_url.is_some();
        let scheme = pattern.place().scheme;
        let (access, foreign) = match self.kind.as_str() {
            "none" => (Access::None, token || ssh || app),
            "token" => {
                if scheme == Scheme::Ssh {
                    return Err(bad("kind = \"token\" is not for addresses of SSH".into()));
                }
                let user = self.user.unwrap_or_else(|| USER_DEFAULT.to_owned());
                if user.is_empty() || !is_word(&user) || user.contains(':') {
                    return Err(bad("user has no colon, no space and at most 256 characters".into()));
                }
                let from = match (whole("token_file", self.token_file)?, self.token_variable) {
                    (Some(file), None) => TokenFrom::File(file),
                    (None, Some(name)) if is_variable(&name) => TokenFrom::Variable(name),
                    (None, Some(_)) => return Err(bad("token_variable is no name of a variable".into())),
                    _ => return Err(bad("kind = \"token\" needs token_file or token_variable".into())),
                };
                (Access::Token { user, from }, ssh || app)
            }
            "ssh" => {
                if scheme != Scheme::Ssh {
                    return Err(bad("kind = \"ssh\" is for addresses of SSH: match = \"git@HOST:PATH/*\"".into()));
                }
                // what is asked at first sight is answered by whoever is in between
                let known_hosts_file = needed("known_hosts_file", self.known_hosts_file)?;
                let key_file = needed("key_file", self.key_file)?;
                (Access::Ssh { key_file, known_hosts_file }, token || app)
            }
            "github-app" => {
                if scheme != Scheme::Https {
                    return Err(bad("kind = \"github-app\" is for https:// addresses".into()));
                }
                let app_id = match self.app_id {
                    Some(Id::Number(number)) => number.to_string(),
                    Some(Id::Text(text)) if !text.is_empty() && is_word(&text) => text,
                    _ => return Err(bad("kind = \"github-app\" needs app_id".into())),
                };
                let installation_id = self
                    .installation_id
                    .ok_or_else(|| bad("kind = \"github-app\" needs installation_id, a number".into()))?;
                let api_url = self.api_url.unwrap_or_else(|| GITHUB_API.to_owned());
                Address::parse(&api_url).map_err(|why| bad(format!("api_url: {why}")))?;
                let private_key_file = needed("private_key_file", self.private_key_file)?;
                (Access::GithubApp { app_id, installation_id, private_key_file, api_url }, token || ssh)
            }
            other => return Err(bad(format!("kind {other:?} is not one: token, ssh, github-app, none"))),
        };
        if foreign {
            return Err(bad(format!("it has keys that do not belong to kind = {:?}", access.as_str())));
        }
        let signature =
            self.require_signature.map(|signature| match (signature.ssh_allowed_signers, signature.gpg_keyring) {
                (Some(file), None) if file.is_absolute() => Ok(Signature::AllowedSigners(file)),
                (None, Some(file)) if file.is_absolute() => Ok(Signature::Keyring(file)),
                _ => {
                    Err(bad("require_signature has either ssh_allowed_signers or gpg_keyring, an absolute path".into()))
                }
            });
        let signature = signature.transpose()?;
        if signature.is_some() && !matches!(scheme, Scheme::Https | Scheme::Ssh) {
            return Err(bad("require_signature is for commits of Git".into()));
        }
        Ok(SourceEntry {
            pattern,
            written: self.pattern,
            access,
            ca_file: whole("ca_file", self.ca_file)?,
            modules: self.modules.unwrap_or(true),
            signature,
        })
    }
}

fn is_word(text: &str) -> bool {
    text.len() <= TEXT_MAX && text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_variable(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TEXT_MAX).contains(&name.len()) && name.bytes().all(word) && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
