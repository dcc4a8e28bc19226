//! Where the states of stacks without a backend are, `[jobs.states]`: in the state directory, in a bucket that speaks S3, or in Secrets of a
//! Kubernetes namespace. Only this file says it: nothing that the control plane or a source sends does.

use super::{ConfigError, Connection};
use serde::Deserialize;
use shared_proto::address::Address;
use shared_proto::aws::is_region;
use shared_proto::states::{is_bucket, is_namespace, is_prefix};
use shared_proto::v1::{StateBucket, StatePlace, StateSecrets, state_place};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The longest file of certificate authorities that is read, bytes.
const CA_MAX: u64 = 1024 * 1024;

/// Where they are, and what they are sealed with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct States {
    /// Where.
    pub place: StatesPlace,
    /// The file with the runner's key of states; `None`: the one that is made in the state directory.
    pub key_file: Option<PathBuf>,
}

/// Where they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum StatesPlace {
    /// In the folders of the stacks, in the state directory.
    #[default]
    Directory,
    /// In a bucket.
    Bucket(Bucket),
    /// In Secrets.
    Secrets {
        /// With whose credentials.
        connection: String,
        /// In which namespace.
        namespace: String,
    },
}

/// A bucket that speaks S3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// With whose credentials.
    pub connection: String,
    /// Its name.
    pub name: String,
    /// Of every object's key; empty: none.
    pub prefix: String,
    /// That requests are signed for; empty: the connection's.
    pub region: String,
    /// Where it is; empty: the connection's, else AWS' own.
    pub endpoint: String,
    /// Whom to trust there; `None`: whom the machine does.
    pub ca: Option<Authorities>,
}

/// Certificate authorities, as they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities {
    /// From where.
    pub file: PathBuf,
    /// PEM.
    pub pem: String,
}

/// As the file has it.
#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileStates {
    place: Option<String>,
    key_file: Option<PathBuf>,
    connection: Option<String>,
    bucket: Option<String>,
    prefix: Option<String>,
    region: Option<String>,
    endpoint: Option<String>,
    ca_file: Option<PathBuf>,
    namespace: Option<String>,
}

// === impl States ===

impl States {
    /// For `config show`; none: nobody said anything.
    pub(super) fn shown(&self) -> Option<String> {
        let key = self.key_file.as_ref().map(|file| format!("sealed with {}", file.display()));
        let place = self.word().map(|place| format!("{} by {}", shared_proto::states::shown(&place), self.by()));
        if place.is_none() && key.is_none() {
            return None;
        }
        let place = place.unwrap_or_else(|| "the state directory".to_owned());
        Some([Some(place), key].into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
    /// What it is called to people.
    pub fn called(&self) -> String {
        self.word().map_or_else(|| "the state directory".to_owned(), |place| shared_proto::states::shown(&place))
    }
    /// With whose credentials; empty: with none.
    pub fn by(&self) -> &str {
        match &self.place {
            StatesPlace::Directory => "",
            StatesPlace::Bucket(bucket) => &bucket.connection,
            StatesPlace::Secrets { connection, .. } => connection,
        }
    }
    /// As a worker is told, without credentials; none: they are in the state directory.
    pub fn word(&self) -> Option<StatePlace> {
        let kind = match &self.place {
            StatesPlace::Directory => return None,
            StatesPlace::Bucket(bucket) => state_place::Kind::Bucket(StateBucket {
                name: bucket.name.clone(),
                prefix: bucket.prefix.clone(),
                region: bucket.region.clone(),
                endpoint_url: bucket.endpoint.clone(),
                ca_pem: bucket.ca.as_ref().map(|ca| ca.pem.clone()).unwrap_or_default(),
            }),
            StatesPlace::Secrets { namespace, .. } => {
                state_place::Kind::Secrets(StateSecrets { namespace: namespace.clone() })
            }
        };
        let target = shared_proto::v1::JobTarget { connection: self.by().to_owned(), ..Default::default() };
        Some(StatePlace { kind: Some(kind), target: Some(target), refused: None })
    }
    /// Files that only the supervisor reads.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let ca = if let StatesPlace::Bucket(bucket) = &self.place { bucket.ca.as_ref() } else { None };
        self.key_file.iter().chain(ca.map(|ca| &ca.file))
    }
}

// === impl FileStates ===

impl FileStates {
    pub(super) fn check(self, connections: &BTreeMap<String, Connection>) -> Result<States, ConfigError> {
        let bad = |what: String| ConfigError(format!("jobs.states.{what}"));
        let place = self.place.as_deref().unwrap_or("directory");
        let (provider, takes): (&str, &[&str]) = match place {
            "directory" => ("", &[]),
            "s3" => ("aws", &["connection", "bucket", "prefix", "region", "endpoint", "ca_file"]),
            "kubernetes" => ("kubernetes", &["connection", "namespace"]),
            other => return Err(bad(format!("place: {other:?} is not one: directory, s3, kubernetes"))),
        };
        let given = [
            ("connection", self.connection.is_some()),
            ("bucket", self.bucket.is_some()),
            ("prefix", self.prefix.is_some()),
            ("region", self.region.is_some()),
            ("endpoint", self.endpoint.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("namespace", self.namespace.is_some()),
        ];
        if let Some((key, _)) = given.iter().find(|(key, given)| *given && !takes.contains(key)) {
            return Err(bad(format!("{key} does not belong to place = {place:?}")));
        }
        let absolute = |key: &str, path: PathBuf| match path.is_absolute() {
            true => Ok(path),
            false => Err(bad(format!("{key}: {} is not an absolute path", path.display()))),
        };
        let key_file = self.key_file.map(|path| absolute("key_file", path)).transpose()?;
        let connection = self.connection.unwrap_or_default();
        if !provider.is_empty() {
            let of = connections.get(&connection);
            match of.map(Connection::provider) {
                Some(found) if found == provider => {}
                Some(found) => {
                    return Err(bad(format!("connection: {connection:?} is of {found}, it must be of {provider}")));
                }
                None => return Err(bad(format!("connection: {connection:?} is none of [connections]"))),
            }
            if of.is_some_and(|of| of.impersonate().is_some()) {
                let what = "acts as whoever asks, and states are the runner's own: name one without `impersonate`";
                return Err(bad(format!("connection: {connection:?} {what}")));
            }
        }
        let place = match place {
            "s3" => {
                let name = self.bucket.unwrap_or_default();
                if !is_bucket(&name) {
                    return Err(bad(format!(
                        "bucket: {name:?} is no bucket's name: 3 to 63 lower case letters, digits, dots and dashes"
                    )));
                }
                let prefix = self.prefix.unwrap_or_default();
                if !is_prefix(&prefix) {
                    return Err(bad(format!(
                        "prefix: {prefix:?} cannot be one: letters, digits, '-', '_' and '.' between slashes, none first or last"
                    )));
                }
                let region = self.region.unwrap_or_default();
                if !region.is_empty() && !is_region(&region) {
                    return Err(bad(format!("region: {region:?} cannot be one")));
                }
                let endpoint = self.endpoint.unwrap_or_default();
                if !endpoint.is_empty() {
                    Address::parse(&endpoint).map_err(|e| bad(format!("endpoint: {e}")))?;
                }
                let ca = self.ca_file.map(|path| absolute("ca_file", path).and_then(|path| authorities(&path)));
                let ca = ca.transpose()?;
                StatesPlace::Bucket(Bucket { connection, name, prefix, region, endpoint, ca })
            }
            "kubernetes" => {
                let namespace = self.namespace.unwrap_or_default();
                if !is_namespace(&namespace) {
                    return Err(bad(format!("namespace: {namespace:?} is no namespace's name")));
                }
                StatesPlace::Secrets { connection, namespace }
            }
            _ => StatesPlace::Directory,
        };
        Ok(States { place, key_file })
    }
}

fn authorities(path: &Path) -> Result<Authorities, ConfigError> {
    let bad = |what: &dyn std::fmt::Display| ConfigError(format!("jobs.states.ca_file: {}: {what}", path.display()));
    let mut pem = String::new();
    let file = std::fs::File::open(path).map_err(|e| bad(&e))?;
    file.take(CA_MAX + 1).read_to_string(&mut pem).map_err(|e| bad(&e))?;
    if pem.len() as u64 > CA_MAX {
        return Err(bad(&format!("it is longer than {CA_MAX} bytes")));
    }
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err(bad(&"there is no certificate in it, as PEM"));
    }
    Ok(Authorities { file: path.to_owned(), pem })
}

#[cfg(test)]
mod tests {
    use super::super::Config;
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
    "#;

    fn load(keys: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runner.toml");
        std::fs::write(&path, format!("[jobs.states]\n{keys}\n{CONNECTIONS}")).expect("writes");
        Config::load(Some(&path), &BTreeMap::new(), &BTreeMap::new()).map_err(|e| e.0)
    }
    fn shown(config: &Config) -> Option<String> {
        config.shown.iter().find(|s| s.key == "jobs.states").map(|s| s.value.clone())
    }

    #[test]
    fn places_are_read() {
        let none = load("").expect("loads");
        assert_eq!((none.jobs.states.clone(), shown(&none), none.jobs.states.word()), (States::default(), None, None));
        let named = load("place = \"directory\"\nkey_file = \"/etc/r/key\"").expect("loads");
        assert_eq!(shown(&named).as_deref(), Some("the state directory, sealed with /etc/r/key"));
        assert_eq!(named.jobs.states.files().collect::<Vec<_>>(), [&PathBuf::from("/etc/r/key")]);
        let bucket = load(
            "place = \"s3\"\nconnection = \"a\"\nbucket = \"states\"\nprefix = \"x/y\"\nregion = \"eu-west-1\"\nendpoint = \"https://s3.example\"",
        );
        let bucket = bucket.expect("loads");
        assert_eq!(shown(&bucket).as_deref(), Some("s3://states/x/y by a"));
        assert_eq!(bucket.jobs.states.called(), "s3://states/x/y");
        let Some(StatePlace { kind: Some(state_place::Kind::Bucket(word)), .. }) = bucket.jobs.states.word() else {
            panic!("no bucket")
        };
        assert_eq!((word.region.as_str(), word.endpoint_url.as_str()), ("eu-west-1", "https://s3.example"));
        let secrets = load("place = \"kubernetes\"\nconnection = \"k\"\nnamespace = \"states\"").expect("loads");
        assert_eq!(shown(&secrets).as_deref(), Some("secrets://k/states by k"));
    }

    #[test]
    fn what_cannot_be_a_place_is_refused() {
        let s3 = "place = \"s3\"\nconnection = \"a\"\nbucket = \"states\"";
        for (keys, said) in [
            ("place = \"other\"", "place: \"other\" is not one: directory, s3, kubernetes"),
            ("bucket = \"states\"", "bucket does not belong to place = \"directory\""),
            ("key_file = \"key\"", "key_file: key is not an absolute path"),
            ("place = \"s3\"\nbucket = \"states\"", "connection: \"\" is none of [connections]"),
            ("place = \"s3\"\nconnection = \"k\"\nbucket = \"states\"", "is of kubernetes, it must be of aws"),
            ("place = \"s3\"\nconnection = \"a\"", "bucket: \"\" is no bucket's name"),
            ("place = \"s3\"\nconnection = \"a\"\nbucket = \"A/b\"", "is no bucket's name"),
            (&format!("{s3}\nprefix = \"/x\""), "prefix: \"/x\" cannot be one"),
            (&format!("{s3}\nregion = \"EU\""), "region: \"EU\" cannot be one"),
            (&format!("{s3}\nendpoint = \"s3.example\""), "endpoint: it begins neither"),
            (&format!("{s3}\nca_file = \"ca.pem\""), "ca_file: ca.pem is not an absolute path"),
            (&format!("{s3}\nca_file = \"/nowhere/ca.pem\""), "ca_file: /nowhere/ca.pem"),
            (&format!("{s3}\nnamespace = \"x\""), "namespace does not belong to place = \"s3\""),
            ("place = \"kubernetes\"\nconnection = \"a\"\nnamespace = \"x\"", "is of aws, it must be of kubernetes"),
            ("place = \"kubernetes\"\nconnection = \"as\"\nnamespace = \"x\"", "acts as whoever asks"),
            ("place = \"kubernetes\"\nconnection = \"k\"", "namespace: \"\" is no namespace's name"),
            ("place = \"kubernetes\"\nconnection = \"k\"\nbucket = \"states\"", "bucket does not belong"),
            ("places = \"s3\"", "unknown field `places`"),
        ] {
            let refused = load(keys).expect_err(keys);
            assert!(refused.contains("jobs.states") && refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn authorities_are_read_when_the_configuration_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let with = || {
            let s3 = "place = \"s3\"\nconnection = \"a\"\nbucket = \"states\"";
            load(&format!("{s3}\nca_file = {:?}", path.display().to_string()))
        };
        std::fs::write(&path, "nonsense").expect("writes");
        assert!(with().expect_err("none").contains("there is no certificate"));
        let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        for (length, fits) in [(CA_MAX, true), (CA_MAX + 1, false)] {
            let padding = " ".repeat(length as usize - pem.len());
            std::fs::write(&path, format!("{pem}{padding}")).expect("writes");
            assert_eq!(with().is_ok(), fits, "{length}");
        }
        std::fs::write(&path, pem).expect("writes");
        let config = with().expect("loads");
        assert_eq!(config.jobs.states.files().collect::<Vec<_>>(), [&path]);
        let StatesPlace::Bucket(bucket) = config.jobs.states.place else { panic!("no bucket") };
        assert_eq!(bucket.ca.expect("read").pem, pem);
    }

    #[test]
    fn the_key_is_no_jobs_to_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runner.toml");
        let text = "[jobs]\nreads = \"/etc/r\"\n[jobs.states]\nkey_file = \"/etc/r/key\"";
        std::fs::write(&path, text).expect("writes");
        let refused = Config::load(Some(&path), &BTreeMap::new(), &BTreeMap::new()).expect_err("refused");
        assert!(refused.0.contains("/etc/r would show jobs /etc/r/key"), "{refused}");
    }
}
