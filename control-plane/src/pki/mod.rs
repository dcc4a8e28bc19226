//! The control plane's own CA: a root, and one issuing CA for each organization under it.
//!
//! ```text
//! root (ca.pem; signs servers and issuing CAs)
//!  ├── server certificate of both listeners, serverAuth
//!  ├── issuing CA of organization A, clientAuth only, carries spiffe://TRUST-DOMAIN/org/A
//!  │    └── runner certificates, clientAuth, spiffe://TRUST-DOMAIN/org/A/runner/R
//!  └── issuing CA of organization B …
//! ```
//! From a signing request it takes the public key and nothing else. It must never sign a name that a caller sent, and a private
//! key never leaves it.

mod issue;
mod tls;

pub use issue::{DAYS_DEFAULT, DAYS_MAX, IssuedCertificate};
pub use tls::accept;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use shared_proto::failure::{Code, Failure};
use shared_proto::identity::CertificateFacts;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The root's name in the data folder.
pub const ROOT_FILE: &str = "ca.pem";
const ROOT_KEY_FILE: &str = "ca-key.pem";
/// How long the root is good for.
const ROOT_DAYS: i64 = 20 * 365;

/// A name that the server certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerName {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// The CA, with the server certificate that both listeners show.
pub struct Authority {
    trust_domain: String,
    root: Issuer<'static, KeyPair>,
    root_der: CertificateDer<'static>,
    root_pem: String,
    names: Vec<ServerName>,
    server: Arc<tls::ServerIdentity>,
    /// How long a runner's certificate is good for whose request does not say, seconds.
    life_s: i64,
}

/// Why the CA cannot work.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// One of its files.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// One of its files does not hold what it should.
    #[error("{path}: {what}; put the control plane's own file back, or start with an empty data folder")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A certificate could not be made.
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS could not be set up.
    #[error("setting TLS up: {0}")]
    Tls(#[from] rustls::Error),
    /// No randomness.
    #[error("the system has no randomness: {0}")]
    Random(#[from] getrandom::Error),
    /// A certificate that was just made does not read back.
    #[error("{0}")]
    Read(Failure),
}

// === impl ServerName ===

impl std::str::FromStr for ServerName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(Self::Ip(ip));
        }
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if text.len() <= 253 && text.split('.').all(label) {
            Ok(Self::Dns(text.to_ascii_lowercase()))
        } else {
            Err(format!("{text:?} is neither a DNS name nor an address"))
        }
    }
}

// === impl Authority ===

impl Authority {
    /// Reads the root from the data folder, makes it where there is none, and makes a server certificate for these names.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn open(data: &Path, names: Vec<ServerName>) -> Result<Self, PkiError> {
        let (certificate, key) = (data.join(ROOT_FILE), data.join(ROOT_KEY_FILE));
        // the key is written first: a key without a certificate is a first start that did not end
        if !certificate.exists() {
            let (pem, pair) = make_root()?;
            write(&key, pair.serialize_pem().as_bytes(), 0o600)?;
            write(&certificate, pem.as_bytes(), 0o644)?;
        }
        let root_pem = read(&certificate)?;
        let content = |path: &Path, what: String| PkiError::Content { path: path.to_owned(), what };
        let mut key_pem = read(&key)?;
        let pair = KeyPair::from_pem(&key_pem).map_err(|e| content(&key, format!("not a private key: {e}")));
        zeroize(&mut key_pem);
        let pair = pair?;
        let root_der = CertificateDer::from_pem_slice(root_pem.as_bytes())
            .map_err(|e| content(&certificate, format!("not a certificate: {e}")))?;
        let facts = CertificateFacts::read(&root_der).map_err(|f| content(&certificate, f.message))?;
        if !facts.public_key.ends_with(pair.public_key_raw()) {
            return Err(content(&key, format!("not the key of {}", certificate.display())));
        }
        facts
            .check_dates(shared_proto::now_ms(), None)
            .map_err(|f| content(&certificate, format!("{}: {}", f.code, f.message)))?;
        let trust_domain = match &facts.uris[..] {
            [uri] => uri.strip_prefix("spiffe://").unwrap_or_default().to_owned(),
            _ => String::new(),
        };
        if !facts.is_ca || trust_domain.is_empty() || trust_domain.contains('/') {
            return Err(content(&certificate, "not the root of a control plane".into()));
        }
        let root = Issuer::from_ca_cert_der(&root_der, pair)?;
        let server = Arc::new(tls::ServerIdentity::new(issue::server(&root, &names)?));
        let life_s = i64::from(DAYS_DEFAULT) * 86_400;
        Ok(Self { trust_domain, root, root_der, root_pem, names, server, life_s })
    }
    /// The same, whose certificates for runners are good for so many seconds where a request does not say.
    #[must_use]
    pub fn with_certificate_life(self, seconds: u32) -> Self {
        Self { life_s: i64::from(seconds), ..self }
    }

    /// The trust domain: the control plane's own, in every identity that it gives.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }
    /// The root, by which runners and users know this control plane, PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }
    /// The same, DER.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root_der
    }
    /// Makes the server certificate again; connections from now on see the new one.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn renew_server_certificate(&self) -> Result<(), PkiError> {
        self.server.set(issue::server(&self.root, &self.names)?);
        Ok(())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        tracing::error!(%error, "the CA failed");
        Code::Internal.on("the control plane's CA failed")
    }
}

fn make_root() -> Result<(String, KeyPair), PkiError> {
    let key = KeyPair::generate()?;
    let mut random = [0; 6];
    getrandom::fill(&mut random)?;
    let id = shared_proto::hex::encode(random);
    let mut params = CertificateParams::default();
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, format!("Runner control plane {id} root"));
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{id}.runner.internal").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    issue::valid_for(&mut params, ROOT_DAYS * 86_400);
    params.serial_number = Some(issue::serial()?);
    Ok((params.self_signed(&key)?.pem(), key))
}

fn read(path: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

/// Whole or not at all.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    shared_proto::file::write_whole(path, content, mode)
        .map_err(|source| PkiError::File { path: path.to_owned(), source })
}

fn zeroize(text: &mut String) {
    drop(shared_proto::secret::Secret::new(std::mem::take(text)));
}

#[cfg(test)]
mod tests;
