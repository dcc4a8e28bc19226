//! The credentials file: one versioned JSON file, mode 0600, with all that a runner needs to be itself. Its JSON Schema is
//! `docs/credentials.schema.json`. Only the supervisor reads it. Beside it, in an instance's state directory and written by that instance:
//! the certificate that it has renewed.

use crate::api_key::{self, Purpose};
use crate::failure::{Code, Failure};
use crate::identity::CertificateFacts;
use crate::secret::Secret;
use aws_lc_rs::signature::KeyPair as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The version that this build reads and writes.
pub const VERSION: u32 = 1;
/// The largest file that is read, bytes.
pub const FILE_MAX: u64 = 256 * 1024;

/// The file's content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialsFile {
    /// [`VERSION`].
    pub version: u32,
    /// The organization's id.
    pub organization: String,
    /// The runner's id.
    pub runner: String,
    /// `https://host:port` of the tunnel.
    pub tunnel_endpoint: String,
    /// `https://host:port` of the execution service; may be the same.
    pub execution_endpoint: String,
    /// The CA by which the control plane is known, PEM.
    pub ca: String,
    /// The runner's certificate and its issuing CA, PEM, leaf first.
    pub certificate: String,
    /// The certificate's private key, PKCS#8 PEM.
    pub private_key: Secret,
    /// The runner's API key.
    pub api_key: Secret,
}

/// The same, checked.
#[derive(Debug)]
pub struct Credentials {
    /// The organization's id, as in the certificate.
    pub organization: String,
    /// The runner's id, as in the certificate.
    pub runner: String,
    /// Where the tunnel goes.
    pub tunnel: Endpoint,
    /// Where the execution service is.
    pub execution: Endpoint,
    /// The CA by which the control plane is known.
    pub ca: CertificateDer<'static>,
    /// The file's own certificate; an instance may have a newer one.
    pub leaf: Arc<Leaf>,
    /// Authenticates the runner beside its certificate.
    pub api_key: Secret,
    /// Where it was read from.
    pub path: PathBuf,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Leaf {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// What the leaf says.
    pub facts: CertificateFacts,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// Whether the instance has renewed it by itself; else it is the credentials file's.
    pub renewed: bool,
}

/// A certificate that an instance has renewed, as its state directory keeps it. It is of no use to another instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewedFile {
    /// [`VERSION`].
    pub version: u32,
    /// The organization's id.
    pub organization: String,
    /// The runner's id.
    pub runner: String,
    /// The instance that it belongs to.
    pub instance: String,
    /// The certificate and its issuing CA, PEM, leaf first.
    pub certificate: String,
    /// The certificate's private key, PKCS#8 PEM.
    pub private_key: Secret,
}

/// `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A DNS name or an address, an IPv6 one without its brackets.
    pub host: String,
    /// The port; 443 where the text has none.
    pub port: u16,
}

// === impl Endpoint ===

impl Endpoint {
    /// Parses `https://host[:port]`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: http::Uri = text.parse().map_err(|e| format!("{text:?} is not a URL: {e}"))?;
        if uri.scheme_str() != Some("https") {
            return Err(format!("{text:?} does not start with https://"));
        }
        if !matches!(uri.path_and_query().map(http::uri::PathAndQuery::as_str), None | Some("/")) {
            return Err(format!("{text:?} has a path"));
        }
        let authority = uri.authority().ok_or_else(|| format!("{text:?} has no host"))?;
        if authority.as_str().contains('@') {
            return Err(format!("{text:?} carries a user"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(format!("{text:?} has no host"));
        }
        Ok(Self { host: host.to_owned(), port: authority.port_u16().unwrap_or(443) })
    }
    /// `host:port`, an IPv6 address in brackets: as CONNECT and resolvers take it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

// === impl CredentialsFile ===

impl CredentialsFile {
    /// Writes it with mode 0600, whole or not at all.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        write_private(self, path)
    }
}

/// As JSON with mode 0600, whole or not at all.
fn write_private(content: &impl Serialize, path: &Path) -> std::io::Result<()> {
    let mut text = serde_json::to_vec_pretty(content)?;
    text.push(b'\n');
    let written = crate::file::write_whole(path, &text, 0o600);
    zeroize::Zeroize::zeroize(&mut text);
    written
}

// === impl Credentials ===

impl Credentials {
    /// Reads and checks the file: its mode before anything else, then its form, its version, and that its parts belong together.
    /// The certificate's dates are not judged here: a clock may be set while the runner waits.
    ///
    /// # Errors
    /// `credentials_unreadable`, `credentials_permissions`, `credentials_malformed`, `credentials_version`, `credentials_mismatch`.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let unreadable = |e: std::io::Error| {
            let failure = Code::CredentialsUnreadable.on(format!("{shown}: {e}"));
            if e.kind() != std::io::ErrorKind::PermissionDenied {
                return failure;
            }
            // it may have none of root's rights, and have given up every folder but those that it was started with
            failure.next(format!(
                "{shown} must belong to the user that the runner runs as, also where that is root. Restart the runner if its folder \
                 is another one than when it started."
            ))
        };
        Self::parse(read_private(path, unreadable)?.expose(), path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        let file: CredentialsFile = versioned(text, path)?;
        let malformed = |what: String| Code::CredentialsMalformed.on(format!("{}: {what}", path.display()));
        let ca = pem("ca", &file.ca).map_err(malformed)?.swap_remove(0);
        let whose = (file.organization.as_str(), file.runner.as_str());
        let leaf = Leaf::of(&file.certificate, &file.private_key, whose, false)
            .map_err(|f| f.code.on(format!("{}: {}", path.display(), f.message)))?;
        let endpoint = |what: &str, text: &str| Endpoint::parse(text).map_err(|e| malformed(format!("{what}: {e}")));
        api_key::parse(Purpose::Runner, file.api_key.expose()).map_err(|e| malformed(format!("api_key: {e}")))?;
        Ok(Self {
            tunnel: endpoint("tunnel_endpoint", &file.tunnel_endpoint)?,
            execution: endpoint("execution_endpoint", &file.execution_endpoint)?,
            organization: file.organization,
            runner: file.runner,
            ca,
            leaf: Arc::new(leaf),
            api_key: file.api_key,
            path: path.to_owned(),
        })
    }
}

// === impl Leaf ===

impl Leaf {
    /// A certificate with its key, both PEM, as that organization's and runner's.
    ///
    /// # Errors
    /// `credentials_malformed`, `credentials_mismatch`.
    pub fn of(
        certificate: &str,
        private_key: &Secret,
        (organization, runner): (&str, &str),
        renewed: bool,
    ) -> Result<Self, Failure> {
        let malformed = |what: String| Code::CredentialsMalformed.on(what);
        let chain = pem("certificate", certificate).map_err(malformed)?;
        let key = PrivateKeyDer::from_pem_slice(private_key.expose().as_bytes())
            .map_err(|_| malformed("private_key is not PEM".into()))?;
        let facts = CertificateFacts::read(&chain[0]).map_err(|f| malformed(f.message))?;
        let leaf = Self { chain, facts, key, renewed };
        if !key_fits(&leaf.key, &leaf.facts) {
            return Err(Code::CredentialsMismatch.on("the private key is not the certificate's"));
        }
        match leaf.facts.runner() {
            Ok(of) if of.organization != organization || of.runner != runner => {
                Err(Code::CredentialsMismatch.on(format!(
                    "it names runner {organization}/{runner}, its certificate is of {}/{}",
                    of.organization, of.runner
                )))
            }
            Err(why) if renewed => Err(malformed(why.message)),
            _ => Ok(leaf),
        }
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

// === impl RenewedFile ===

impl RenewedFile {
    /// Writes it with mode 0600, whole or not at all.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        write_private(self, path)
    }

    /// Reads and checks the one of an instance of the runner that these credentials are of; `None`: there is none.
    ///
    /// # Errors
    /// As [`Credentials::load`].
    pub fn load(path: &Path, credentials: &Credentials, instance: &str) -> Result<Option<Leaf>, Failure> {
        if matches!(path.symlink_metadata(), Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let shown = path.display();
        let text = read_private(path, |e| Code::CredentialsUnreadable.on(format!("{shown}: {e}")))?;
        let file: Self = versioned(text.expose(), path)?;
        if file.instance != instance {
            return Err(Code::CredentialsMismatch.on(format!(
                "{shown} belongs to instance {}, this is instance {instance}",
                file.instance.chars().filter(|c| !c.is_control()).take(100).collect::<String>()
            )));
        }
        let whose = (credentials.organization.as_str(), credentials.runner.as_str());
        let leaf = Leaf::of(&file.certificate, &file.private_key, whose, true);
        leaf.map(Some).map_err(|f| f.code.on(format!("{shown}: {}", f.message)))
    }
}

/// The content of a file of this version.
fn versioned<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T, Failure> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let shown = path.display();
    // of serde's messages only those that name a field: others quote values, which may be secret
    let malformed = |what: &str, e: &serde_json::Error| {
        Code::CredentialsMalformed.on(format!("{shown}: {what} (line {}, column {})", e.line(), e.column()))
    };
    let Version { version } = serde_json::from_str(text).map_err(|e| malformed("not a whole credentials file", &e))?;
    if version != VERSION {
        return Err(Code::CredentialsVersion
            .on(format!("{shown} is of version {version}, this runner knows version {VERSION}")));
    }
    serde_json::from_str(text).map_err(|e| malformed(&field_in(&e), &e))
}

/// The certificates of a PEM text, at least one.
fn pem(what: &str, text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| format!("{what} is not PEM"))?;
    if certificates.is_empty() { Err(format!("{what} holds no certificate")) } else { Ok(certificates) }
}

/// Who may have what rights to a file of ours: its user, who is us; or root, who then may let a group of ours read it (a volume of secrets, or a
/// file that a job, which is our user, cannot change the mode of). `None`: somebody else's.
const fn rights_allowed(owner: u32, me: u32) -> Option<u32> {
    if owner == me {
        Some(0o700)
    } else if owner == 0 {
        Some(0o740)
    } else {
        None
    }
}

/// A file that nobody else can read or change.
fn read_private(path: &Path, unreadable: impl Fn(std::io::Error) -> Failure) -> Result<Secret, Failure> {
    let shown = path.display();
    // O_NONBLOCK: a FIFO in the file's place must not hold the start
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path)
        .map_err(&unreadable)?;
    let meta = file.metadata().map_err(&unreadable)?;
    if !meta.is_file() {
        return Err(Code::CredentialsUnreadable.on(format!("{shown} is not a regular file")));
    }
    let me = nix::unistd::geteuid().as_raw();
    let Some(allowed) = rights_allowed(meta.uid(), me) else {
        return Err(
            Code::CredentialsPermissions.on(format!("{shown} belongs to user {}, the runner runs as {me}", meta.uid()))
        );
    };
    if meta.mode() & 0o777 & !allowed != 0 {
        return Err(Code::CredentialsPermissions
            .on(format!("{shown} has mode {:04o}, others can read or change it", meta.mode() & 0o7777))
            .next(format!("Run `chmod {:o} {shown}`.", meta.mode() & allowed & 0o640)));
    }
    if meta.len() > FILE_MAX {
        return Err(
            Code::CredentialsMalformed.on(format!("{shown} is {} bytes long, the limit is {FILE_MAX}", meta.len()))
        );
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(&unreadable)?;
    Ok(Secret::new(text))
}

/// What serde says of a field that should not be there, or should; of all else nothing.
fn field_in(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let of_a_field = ["unknown field", "missing field", "duplicate field"].iter().any(|what| text.starts_with(what));
    if !of_a_field {
        return "not a credentials file".to_owned();
    }
    let end = text.find(", expected").or_else(|| text.rfind(" at line")).unwrap_or(text.len());
    text[..end].chars().filter(|c| !c.is_control()).take(100).collect()
}

/// Whether the key's public half is the one that the certificate carries. Keys are ECDSA P-256 or Ed25519; others count as not fitting.
fn key_fits(key: &PrivateKeyDer<'_>, facts: &CertificateFacts) -> bool {
    let PrivateKeyDer::Pkcs8(der) = key else { return false };
    let der = der.secret_pkcs8_der();
    // a SubjectPublicKeyInfo ends with the key's own bytes
    if let Ok(pair) =
        aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(&aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING, der)
    {
        return facts.public_key.ends_with(pair.public_key().as_ref());
    }
    if let Ok(pair) = aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8(der) {
        return facts.public_key.ends_with(pair.public_key().as_ref());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn sample(runner: &str) -> CredentialsFile {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names =
            vec![rcgen::SanType::URI(format!("spiffe://d/org/acme/runner/{runner}").try_into().expect("ascii"))];
        let certificate = params.self_signed(&key).expect("signs").pem();
        CredentialsFile {
            version: VERSION,
            organization: "acme".into(),
            runner: "r1".into(),
            tunnel_endpoint: "https://localhost:1".into(),
            execution_endpoint: "https://[::1]".into(),
            ca: certificate.clone(),
            certificate,
            private_key: Secret::new(key.serialize_pem()),
            api_key: api_key::generate(Purpose::Runner).expect("random"),
        }
    }
    fn code(path: &Path) -> Option<Code> {
        Credentials::load(path).err().map(|f| f.code)
    }

    #[test]
    fn a_file_is_ours_alone_or_roots_who_lets_our_group_read_it() {
        let may = |owner, me, mode: u32| rights_allowed(owner, me).is_some_and(|allowed| mode & !allowed == 0);
        for (owner, me, mode, good) in [
            (1000, 1000, 0o600, true),
            (1000, 1000, 0o640, false),
            (0, 0, 0o400, true),
            (0, 0, 0o640, false),
            (0, 1000, 0o640, true),
            (0, 1000, 0o440, true),
            (0, 1000, 0o660, false),
            (0, 1000, 0o644, false),
            (1001, 1000, 0o600, false),
            (1001, 0, 0o600, false),
        ] {
            assert_eq!(may(owner, me, mode), good, "{owner} {me} {mode:o}");
        }
    }

    #[test]
    fn a_good_file_loads_and_each_bad_one_has_its_code() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("credentials.json");
        let good = sample("r1");
        good.write(&path).expect("writes");
        let loaded = Credentials::load(&path).expect("loads");
        assert_eq!((loaded.execution.authority(), loaded.runner.as_str()), ("[::1]:443".to_owned(), "r1"));
        assert!(!format!("{loaded:?}").contains(good.api_key.expose()));

        for mode in [0o640, 0o604, 0o620, 0o644] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
            assert_eq!(code(&path), Some(Code::CredentialsPermissions));
        }
        let text = serde_json::to_string(&good).expect("json");
        let write = |text: &str| {
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, text).expect("writes");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        };
        for cut in (0..text.len()).step_by(37) {
            write(&text[..cut]);
            assert_eq!(code(&path), Some(Code::CredentialsMalformed), "cut at {cut}");
        }
        write(&text.replace("\"version\":1", "\"version\":2"));
        assert_eq!(code(&path), Some(Code::CredentialsVersion));
        for (from, to, named) in [
            ("\"version\":1", "\"version\":1,\"comment\":\"secret\"", "unknown field `comment` (line 1"),
            ("\"runner\":\"r1\",", "", "missing field `runner` (line 1"),
            ("\"version\":1", "\"version\":1,\"runner\":\"secret\"", "duplicate field `runner` (line 1"),
            ("\"api_key\":\"", "\"api_key\":[\"secret\"],\"x\":\"", "not a credentials file (line 1"),
        ] {
            write(&text.replace(from, to));
            let failure = Credentials::load(&path).expect_err(named);
            assert_eq!(failure.code, Code::CredentialsMalformed);
            assert!(failure.message.contains(named) && !failure.message.contains("secret"), "{}", failure.message);
        }
        write(
            &serde_json::to_string(&CredentialsFile { private_key: sample("r1").private_key, ..good.clone() })
                .expect("json"),
        );
        assert_eq!(code(&path), Some(Code::CredentialsMismatch));
        sample("another").write(&path).expect("writes");
        assert_eq!(code(&path), Some(Code::CredentialsMismatch));
        write(&" ".repeat(FILE_MAX as usize + 1));
        assert_eq!(code(&path), Some(Code::CredentialsMalformed));
        std::fs::remove_file(&path).expect("removes");
        assert_eq!(code(&path), Some(Code::CredentialsUnreadable));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("a fifo");
        assert_eq!(code(&path), Some(Code::CredentialsUnreadable));
    }

    #[test]
    fn a_renewed_certificate_is_its_instances_and_its_runners() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, own) = (dir.path().join("credentials.json"), dir.path().join("certificate.json"));
        let of = |runner: &str, instance: &str| {
            let file = sample(runner);
            RenewedFile {
                version: VERSION,
                organization: file.organization,
                runner: file.runner,
                instance: instance.into(),
                certificate: file.certificate,
                private_key: file.private_key,
            }
        };
        sample("r1").write(&path).expect("writes");
        let credentials = Credentials::load(&path).expect("loads");
        let load = || RenewedFile::load(&own, &credentials, "i-1");
        assert!(load().expect("there is none").is_none());
        let good = of("r1", "i-1");
        good.write(&own).expect("writes");
        assert_eq!(std::fs::metadata(&own).expect("a file").permissions().mode() & 0o7777, 0o600);
        let leaf = load().expect("loads").expect("there");
        assert!(leaf.renewed && leaf.facts.serial != credentials.leaf.facts.serial);
        assert!(!format!("{good:?}").contains("PRIVATE"));
        // one that was left of a write is no obstacle to the next
        std::fs::write(dir.path().join(format!(".certificate.json.{}", std::process::id())), "half").expect("writes");
        for (file, expected) in [
            (of("r1", "i-2"), Code::CredentialsMismatch),
            (of("r2", "i-1"), Code::CredentialsMismatch),
            (RenewedFile { private_key: sample("r1").private_key, ..good.clone() }, Code::CredentialsMismatch),
            (RenewedFile { version: 2, ..good.clone() }, Code::CredentialsVersion),
            (RenewedFile { certificate: "x".into(), ..good.clone() }, Code::CredentialsMalformed),
        ] {
            file.write(&own).expect("writes");
            assert_eq!(load().expect_err("refused").code, expected);
        }
        let text = serde_json::to_string(&good).expect("json");
        for cut in (0..text.len()).step_by(31) {
            std::fs::write(&own, &text[..cut]).expect("writes");
            let failure = load().expect_err("half a file");
            assert_eq!(failure.code, Code::CredentialsMalformed, "cut at {cut}");
            assert!(!failure.to_string().contains("PRIVATE"));
        }
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert_eq!(load().expect_err("open to others").code, Code::CredentialsPermissions);
    }

    #[test]
    fn endpoints() {
        assert_eq!(Endpoint::parse("https://a.example").expect("parses").authority(), "a.example:443");
        for bad in ["http://a", "https://", "https://a/b", "https://u@a", "a:1", "https://a?x"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }
}
