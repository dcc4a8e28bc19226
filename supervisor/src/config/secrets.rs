//! The stores of secrets that variables of jobs may refer to, `[secrets.NAME]`: where each is, and which of its paths may be asked for.
//! Nothing else is ever asked for, whatever the control plane sends.

use super::check::{nested, real};
use super::{Config, ConfigError, Connection};
use serde::Deserialize;
use shared_proto::address::Address;
use shared_proto::aws::is_region;
use shared_proto::azure::is_vault;
use shared_proto::failure::{Code, Failure};
use shared_proto::glob::{Glob, PATTERNS_MAX};
use shared_proto::inventory::gcp::is_project;
use shared_proto::secrets::is_store;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The most stores.
pub const STORES_MAX: usize = 64;
/// The longest name of a mount or a namespace of Vault's, bytes.
const MOUNT_MAX: usize = 128;

/// A store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// What it is.
    pub kind: StoreKind,
    /// Of paths, those that may be asked for.
    pub allow: Vec<Glob>,
}

/// What a store is, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKind {
    /// Files below that folder.
    File(PathBuf),
    /// Variables that the runner was started with.
    Environment,
    /// Secrets of that connection's cluster.
    Kubernetes(String),
    /// AWS Secrets Manager.
    AwsSecretsManager(InCloud),
    /// Parameters of AWS Systems Manager.
    AwsSsm(InCloud),
    /// Google Secret Manager.
    Gcp(InCloud),
    /// An Azure Key Vault.
    Azure {
        /// With whose credentials.
        connection: String,
        /// Its name.
        vault: String,
    },
    /// The KV engine of a Vault.
    Vault(Vault),
}

/// A service of a cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InCloud {
    /// With whose credentials.
    pub connection: String,
    /// The region or the project; empty: the connection's own.
    pub place: String,
}

/// A mount of a Vault's KV engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vault {
    /// Where it is.
    pub address: String,
    /// The file with the token, read whenever a secret is.
    pub token_file: PathBuf,
    /// Whom to trust as the Vault, PEM; `None`: who the machine trusts.
    pub ca_file: Option<PathBuf>,
    /// Where the engine is mounted.
    pub mount: String,
    /// Of the engine.
    pub version: u32,
    /// Of the Vault's own; empty: none.
    pub namespace: String,
}

/// As the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileStore {
    kind: String,
    allow: Vec<String>,
    directory: Option<PathBuf>,
    connection: Option<String>,
    region: Option<String>,
    project: Option<String>,
    vault: Option<String>,
    address: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    mount: Option<String>,
    version: Option<u32>,
    namespace: Option<String>,
}

// === impl Store ===

impl Store {
    /// For `config show`.
    pub(super) fn shown(&self) -> String {
        let at = match &self.kind {
            StoreKind::File(folder) => folder.display().to_string(),
            StoreKind::Environment => String::new(),
            StoreKind::Kubernetes(connection) => connection.clone(),
            StoreKind::AwsSecretsManager(at) | StoreKind::AwsSsm(at) | StoreKind::Gcp(at) => {
                format!("{} {}", at.connection, at.place)
            }
            StoreKind::Azure { connection, vault } => format!("{connection} {vault}"),
            StoreKind::Vault(vault) => format!("{} {}", vault.address, vault.mount),
        };
        let allow: Vec<_> = self.allow.iter().map(Glob::as_str).collect();
        let text = format!("{} {at} allows {}", self.kind.as_str(), allow.join(" "));
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Whether that path may be asked for.
    ///
    /// # Errors
    /// `invalid_argument`: no path of such a store looks like that; `secret_denied`.
    pub fn admits(&self, name: &str, path: &str) -> Result<(), Failure> {
        if let Err(looks) = self.kind.form(path) {
            let message = format!("{path:?} is no path in the store {name}, in which one looks like {looks}");
            return Err(Code::InvalidArgument.on(message));
        }
        if self.allow.iter().any(|glob| glob.matches(path)) {
            return Ok(());
        }
        Err(Code::SecretDenied.on(format!("the store {name} of the runner's configuration does not allow {path:?}")))
    }
}

// === impl StoreKind ===

impl StoreKind {
    /// As it is written and sent.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Environment => "environment",
            Self::Kubernetes(_) => "kubernetes",
            Self::AwsSecretsManager(_) => "aws-secrets-manager",
            Self::AwsSsm(_) => "aws-ssm",
            Self::Gcp(_) => "gcp",
            Self::Azure { .. } => "azure",
            Self::Vault(_) => "vault",
        }
    }
    /// With whose credentials it is asked.
    pub fn connection(&self) -> Option<&str> {
        match self {
            Self::Kubernetes(connection) | Self::Azure { connection, .. } => Some(connection),
            Self::AwsSecretsManager(at) | Self::AwsSsm(at) | Self::Gcp(at) => Some(&at.connection),
            Self::File(_) | Self::Environment | Self::Vault(_) => None,
        }
    }
    /// The provider that its connection is of.
    const fn provider(&self) -> &'static str {
        match self {
            Self::Kubernetes(_) => "kubernetes",
            Self::AwsSecretsManager(_) | Self::AwsSsm(_) => "aws",
            Self::Gcp(_) => "gcp",
            Self::Azure { .. } => "azure",
            Self::File(_) | Self::Environment | Self::Vault(_) => "",
        }
    }
    /// Whether a path looks like one of such a store. What has `.` or `..` between slashes never came so far.
    ///
    /// # Errors
    /// How one does.
    fn form(&self, path: &str) -> Result<(), &'static str> {
        let of = |extra: &str| path.bytes().all(|b| b.is_ascii_alphanumeric() || extra.as_bytes().contains(&b));
        let parts = || path.split('/').all(|part| !part.is_empty());
        // NAME, or with a version of it
        let versioned = |extra: &str, between: &str| {
            let (name, version) = path.split_once(between).unwrap_or((path, "latest"));
            let fits = |text: &str| {
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.as_bytes().contains(&b))
            };
            fits(name) && fits(version)
        };
        let (fits, looks) = match self {
            Self::File(_) => (parts(), "folder/file"),
            Self::Environment => (of("_") && !path.starts_with(|c: char| c.is_ascii_digit()), "NAME"),
            Self::Kubernetes(_) => (of("-./") && parts() && path.split('/').count() == 2, "namespace/name"),
            Self::AwsSecretsManager(_) => (of("/_+=.@:-"), "prod/database, or an ARN"),
            Self::AwsSsm(_) => (of("/_.:-"), "/prod/database/password"),
            Self::Gcp(_) => (versioned("_-", "/versions/"), "name or name/versions/3"),
            Self::Azure { .. } => (versioned("-", "/"), "name or name/version"),
            Self::Vault(_) => (parts(), "apps/shop"),
        };
        if fits { Ok(()) } else { Err(looks) }
    }
    /// Files that are the runner's own, beside those of a [`Self::File`].
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let vault = if let Self::Vault(vault) = self { Some(vault) } else { None };
        vault.into_iter().flat_map(|vault| std::iter::once(&vault.token_file).chain(&vault.ca_file))
    }
    /// The folder that it is.
    pub fn directory(&self) -> Option<&PathBuf> {
        if let Self::File(folder) = self { Some(folder) } else { None }
    }
}

// === impl FileStore ===

impl FileStore {
    /// The store `name`.
    pub(super) fn check(self, name: &str, connections: &BTreeMap<String, Connection>) -> Result<Store, ConfigError> {
        let bad = |what: String| ConfigError(format!("secrets.{name}: {what}"));
        if !is_store(name) {
            return Err(bad("a name has letters, digits, '-', '.' and '_', at most 128".into()));
        }
        if self.allow.is_empty() || self.allow.len() > PATTERNS_MAX {
            return Err(bad(format!(
                "allow names the paths that may be asked for: 1 to {PATTERNS_MAX} patterns with *"
            )));
        }
        let allow = self.allow.iter().map(|text| Glob::parse(text)).collect::<Result<_, _>>();
        let allow = allow.map_err(|e| bad(format!("allow: {e}")))?;
        let takes: &[&str] = match self.kind.as_str() {
            "file" => &["directory"],
            "environment" => &[],
            "kubernetes" => &["connection"],
            "aws-secrets-manager" | "aws-ssm" => &["connection", "region"],
            "gcp" => &["connection", "project"],
            "azure" => &["connection", "vault"],
            "vault" => &["address", "token_file", "ca_file", "mount", "version", "namespace"],
            other => {
                let kinds = "file, environment, kubernetes, aws-secrets-manager, aws-ssm, gcp, azure, vault";
                return Err(bad(format!("kind {other:?} is not one: {kinds}")));
            }
        };
        let given = [
            ("directory", self.directory.is_some()),
            ("connection", self.connection.is_some()),
            ("region", self.region.is_some()),
            ("project", self.project.is_some()),
            ("vault", self.vault.is_some()),
            ("address", self.address.is_some()),
            ("token_file", self.token_file.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("mount", self.mount.is_some()),
            ("version", self.version.is_some()),
            ("namespace", self.namespace.is_some()),
        ];
        if let Some((key, _)) = given.iter().find(|(key, given)| *given && !takes.contains(key)) {
            return Err(bad(format!("{key} does not belong to kind {:?}", self.kind)));
        }
        let absolute = |key: &str, path: Option<PathBuf>| match path {
            Some(path) if path.is_absolute() => Ok(path),
            Some(path) => Err(bad(format!("{key}: {} is not an absolute path", path.display()))),
            None => Err(bad(format!("needs {key} = \"/path\""))),
        };
        let connection = self.connection.unwrap_or_default();
        let kind = match self.kind.as_str() {
            "file" => StoreKind::File(absolute("directory", self.directory)?),
            "environment" => StoreKind::Environment,
            "kubernetes" => StoreKind::Kubernetes(connection),
            kind @ ("aws-secrets-manager" | "aws-ssm") => {
                let place = self.region.unwrap_or_default();
                if !place.is_empty() && !is_region(&place) {
                    return Err(bad(format!("region {place:?} cannot be one")));
                }
                let at = InCloud { connection, place };
                if kind == "aws-ssm" { StoreKind::AwsSsm(at) } else { StoreKind::AwsSecretsManager(at) }
            }
            "gcp" => {
                let place = self.project.unwrap_or_default();
                if !place.is_empty() && !is_project(&place) {
                    return Err(bad(format!("project {place:?} is no project's id or number")));
                }
                StoreKind::Gcp(InCloud { connection, place })
            }
            "azure" => {
                let vault = self.vault.unwrap_or_default();
                if !is_vault(&vault) {
                    return Err(bad(
                        "needs vault = \"NAME\", the Key Vault's name: 3 to 24 letters, digits and dashes".into(),
                    ));
                }
                StoreKind::Azure { connection, vault }
            }
            _ => {
                let address = self.address.unwrap_or_default();
                let at = Address::parse(&address).map_err(|e| bad(format!("address: {e}")))?;
                // the token goes over it
                if !at.https && !["localhost", "127.0.0.1", "::1"].contains(&at.host.as_str()) {
                    return Err(bad("address: it has to be https://, unless it is this machine's own".into()));
                }
                let mount = self.mount.unwrap_or_else(|| "secret".into());
                let namespace = self.namespace.unwrap_or_default();
                for (key, text) in [("mount", &mount), ("namespace", &namespace)] {
                    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
                    let parts = text.split('/').all(|part| !matches!(part, "" | "." | ".."));
                    if text.len() > MOUNT_MAX || !plain || !(parts || (key == "namespace" && text.is_empty())) {
                        return Err(bad(format!(
                            "{key} {text:?} cannot be one: names between slashes, none first or last"
                        )));
                    }
                }
                let version = self.version.unwrap_or(2);
                if !(1..=2).contains(&version) {
                    return Err(bad(format!("version is {version}, and the KV engine has 1 and 2")));
                }
                let token_file = absolute("token_file", self.token_file)?;
                let ca_file = self.ca_file.map(|path| absolute("ca_file", Some(path))).transpose()?;
                StoreKind::Vault(Vault { address, token_file, ca_file, mount, version, namespace })
            }
        };
        if let Some(named) = kind.connection() {
            let of = connections.get(named);
            match of.map(Connection::provider) {
                Some(provider) if provider == kind.provider() => {}
                Some(provider) => {
                    return Err(bad(format!(
                        "connection {named:?} is of {provider}, it must be of {}",
                        kind.provider()
                    )));
                }
                None => return Err(bad(format!("connection {named:?} is none of [connections]"))),
            }
            if of.is_some_and(|of| of.impersonate().is_some()) {
                let what = "acts as whoever asks, and a job goes on when nobody does: name one without `impersonate`";
                return Err(bad(format!("connection {named:?} {what}")));
            }
        }
        Ok(Store { kind, allow })
    }
}

// === impl Config ===

impl Config {
    /// What stores have of this machine that only the supervisor reads: folders, and files of theirs.
    pub fn of_secrets(&self) -> (Vec<&PathBuf>, Vec<&PathBuf>) {
        let kinds = || self.secrets.values().map(|store| &store.kind);
        (kinds().filter_map(StoreKind::directory).collect(), kinds().flat_map(StoreKind::files).collect())
    }

    /// Whether a store is asked with that connection's credentials as one of Key Vault.
    pub fn opens_a_vault(&self, connection: &str) -> bool {
        self.secrets
            .values()
            .any(|store| matches!(&store.kind, StoreKind::Azure { connection: c, .. } if c == connection))
    }

    /// No store may have the runner's own files in it, nor those of connections and of other stores.
    pub(super) fn keep_from_secrets(&self) -> Result<(), ConfigError> {
        let (folders, files) = self.of_secrets();
        let of_connections = self.connections.values().filter_map(Connection::credentials_file);
        let own = [&self.credentials, &self.state_dir].into_iter().chain(&self.proxy.password_file);
        let own = own.chain(&self.jobs.states.key_file);
        let own: Vec<_> = own.chain(of_connections).chain(files).map(|path| (path, real(path))).collect();
        for folder in folders {
            let shown = real(folder);
            if let Some((path, _)) = own.iter().find(|(_, kept)| nested(kept, &shown)) {
                return Err(ConfigError(format!(
                    "secrets: the directory {} would give variables {}: name one that does not have it",
                    folder.display(),
                    path.display()
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTIONS: &str = r#"
        [connections.k]
        provider = "kubernetes"
        kubeconfig = "/k"
        [connections.as]
        provider = "kubernetes"
        in_cluster = true
        impersonate = true
        [connections.a]
        provider = "aws"
        source = "environment"
        [connections.g]
        provider = "gcp"
        source = "metadata"
        [connections.z]
        provider = "azure"
        source = "managed_identity"
    "#;

    fn load(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runner.toml");
        std::fs::write(&path, format!("{text}\n{CONNECTIONS}")).expect("writes");
        Config::load(Some(&path), &BTreeMap::new(), &BTreeMap::new()).map_err(|e| e.0)
    }
    fn store(keys: &str) -> Result<Store, String> {
        load(&format!("[secrets.s]\n{keys}")).map(|config| config.secrets["s"].clone())
    }

    #[test]
    fn stores_are_read() {
        for (keys, kind, connection) in [
            ("kind = \"file\"\ndirectory = \"/etc/shop\"", "file", None),
            ("kind = \"environment\"", "environment", None),
            ("kind = \"kubernetes\"\nconnection = \"k\"", "kubernetes", Some("k")),
            (
                "kind = \"aws-secrets-manager\"\nconnection = \"a\"\nregion = \"eu-west-1\"",
                "aws-secrets-manager",
                Some("a"),
            ),
            ("kind = \"aws-ssm\"\nconnection = \"a\"", "aws-ssm", Some("a")),
            ("kind = \"gcp\"\nconnection = \"g\"\nproject = \"shop-1\"", "gcp", Some("g")),
            ("kind = \"azure\"\nconnection = \"z\"\nvault = \"shop\"", "azure", Some("z")),
            ("kind = \"vault\"\naddress = \"https://v:8200\"\ntoken_file = \"/t\"", "vault", None),
        ] {
            let store = store(&format!("{keys}\nallow = [\"*\"]")).expect(keys);
            assert_eq!((store.kind.as_str(), store.kind.connection()), (kind, connection));
        }
        let keys = "kind = \"vault\"\nallow = [\"*\"]\naddress = \"https://v\"\ntoken_file = \"/t\"\nmount = \"a/b\"\nversion = 1";
        let StoreKind::Vault(vault) = store(keys).expect("a vault").kind else { panic!("another") };
        assert_eq!((vault.mount.as_str(), vault.version, vault.namespace.as_str()), ("a/b", 1, ""));
    }

    #[test]
    fn what_cannot_be_a_store_is_refused() {
        let allow = "allow = [\"*\"]";
        for (keys, said) in [
            ("kind = \"file\"\ndirectory = \"/etc/shop\"\nallow = []", "allow names the paths"),
            ("kind = \"file\"\ndirectory = \"/etc/shop\"\nallow = [\"\"]", "allow: a pattern is empty"),
            ("kind = \"file\"\nallow = [\"*\"]", "needs directory"),
            (&format!("kind = \"file\"\ndirectory = \"shop\"\n{allow}"), "is not an absolute path"),
            (&format!("kind = \"other\"\n{allow}"), "is not one: file, environment"),
            (&format!("kind = \"environment\"\ndirectory = \"/x\"\n{allow}"), "directory does not belong"),
            (&format!("kind = \"kubernetes\"\n{allow}"), "is none of [connections]"),
            (&format!("kind = \"kubernetes\"\nconnection = \"a\"\n{allow}"), "is of aws, it must be of kubernetes"),
            (&format!("kind = \"kubernetes\"\nconnection = \"as\"\n{allow}"), "acts as whoever asks"),
            (&format!("kind = \"aws-ssm\"\nconnection = \"a\"\nregion = \"EU\"\n{allow}"), "cannot be one"),
            (&format!("kind = \"azure\"\nconnection = \"z\"\nvault = \"a/b\"\n{allow}"), "needs vault"),
            (&format!("kind = \"vault\"\naddress = \"nonsense\"\ntoken_file = \"/t\"\n{allow}"), "address:"),
            (
                &format!("kind = \"vault\"\naddress = \"http://v:8200\"\ntoken_file = \"/t\"\n{allow}"),
                "has to be https://",
            ),
            (&format!("kind = \"vault\"\naddress = \"https://v\"\n{allow}"), "needs token_file"),
            (
                &format!("kind = \"vault\"\naddress = \"https://v\"\ntoken_file = \"/t\"\nmount = \"/a\"\n{allow}"),
                "mount",
            ),
            (
                &format!("kind = \"vault\"\naddress = \"https://v\"\ntoken_file = \"/t\"\nversion = 3\n{allow}"),
                "version is 3",
            ),
        ] {
            let refused = store(keys).expect_err(keys);
            assert!(refused.contains("secrets.s: ") && refused.contains(said), "{refused}");
        }
        let many = |n: usize| {
            let one = |i| format!("[secrets.s{i}]\nkind = \"environment\"\nallow = [\"*\"]\n");
            load(&(0..n).map(one).collect::<String>()).map(|config| config.secrets.len())
        };
        assert_eq!(many(STORES_MAX), Ok(STORES_MAX));
        assert!(many(STORES_MAX + 1).expect_err("too many").contains("64 stores"));
    }

    #[test]
    fn the_runners_own_files_are_in_no_store() {
        let of = |directory: &str, more: &str| {
            let keys = format!("[secrets.s]\nkind = \"file\"\nallow = [\"*\"]\ndirectory = \"{directory}\"");
            load(&format!("state_dir = \"/var/lib/r\"\ncredentials = \"/etc/r/c.json\"\n{keys}\n{more}")).err()
        };
        assert_eq!(of("/etc/r/secrets", ""), None);
        for directory in ["/", "/etc", "/etc/r", "/var/lib/r", "/var/lib/r/jobs", "/var", "/k"] {
            assert!(of(directory, "").expect(directory).contains("would give variables"), "{directory}");
        }
        let vault = "[secrets.v]\nkind = \"vault\"\nallow = [\"*\"]\naddress = \"https://v\"\ntoken_file = \"/etc/r/secrets/token\"";
        assert!(of("/etc/r/secrets", vault).expect("refused").contains("/etc/r/secrets/token"));
    }

    #[test]
    fn paths_have_the_form_of_their_store_and_are_allowed() {
        let admits = |kind: StoreKind, allow: &str, path: &str| {
            let store = Store { kind, allow: vec![Glob::parse(allow).expect("a pattern")] };
            store.admits("s", path).map_err(|f| f.code)
        };
        let at = || InCloud { connection: "c".into(), place: String::new() };
        let file = || StoreKind::File("/x".into());
        for (kind, allow, path, expected) in [
            (file(), "apps/*", "apps/shop/password", Ok(())),
            (file(), "apps/*", "other/password", Err(Code::SecretDenied)),
            (file(), "*", "/etc/passwd", Err(Code::InvalidArgument)),
            (file(), "*", "a//b", Err(Code::InvalidArgument)),
            (StoreKind::Environment, "SHOP_*", "SHOP_TOKEN", Ok(())),
            (StoreKind::Environment, "SHOP_*", "AWS_SECRET_ACCESS_KEY", Err(Code::SecretDenied)),
            (StoreKind::Environment, "*", "A=B", Err(Code::InvalidArgument)),
            (StoreKind::Kubernetes("k".into()), "shop/*", "shop/db", Ok(())),
            (StoreKind::Kubernetes("k".into()), "shop/*", "kube-system/db", Err(Code::SecretDenied)),
            (StoreKind::Kubernetes("k".into()), "*", "shop", Err(Code::InvalidArgument)),
            (StoreKind::Kubernetes("k".into()), "*", "shop/db/x", Err(Code::InvalidArgument)),
            (StoreKind::AwsSecretsManager(at()), "prod/*", "prod/db", Ok(())),
            (StoreKind::AwsSecretsManager(at()), "*", "prod db", Err(Code::InvalidArgument)),
            (StoreKind::AwsSsm(at()), "/prod/*", "/prod/db/password", Ok(())),
            (StoreKind::Gcp(at()), "db", "db", Ok(())),
            (StoreKind::Gcp(at()), "db*", "db/versions/3", Ok(())),
            (StoreKind::Gcp(at()), "*", "projects/p/secrets/db", Err(Code::InvalidArgument)),
            (StoreKind::Azure { connection: "z".into(), vault: "v".into() }, "*", "db/0a", Ok(())),
            (
                StoreKind::Azure { connection: "z".into(), vault: "v".into() },
                "*",
                "db/0a/x",
                Err(Code::InvalidArgument),
            ),
        ] {
            assert_eq!(admits(kind, allow, path), expected, "{allow} {path}");
        }
    }
}
