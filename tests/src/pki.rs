//! Keys, requests and certificates, good ones and forged ones.

use crate::https;
use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// What a forged certificate says.
#[derive(Debug, Clone)]
pub struct Forgery {
    /// Its URI names.
    pub uris: Vec<String>,
    /// Its DNS names and addresses.
    pub names: Vec<String>,
    /// What it is for.
    pub usage: Vec<ExtendedKeyUsagePurpose>,
    /// Valid from so many seconds ago (negative: in the future).
    pub since: i64,
    /// Valid for so many seconds from now (negative: it has expired).
    pub until: i64,
}

/// A CA of the tests' own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A new key, ECDSA P-256.
///
/// # Errors
/// The system has no randomness to give.
pub fn new_key() -> Result<KeyPair> {
    KeyPair::generate().context("a key")
}

/// A request for a certificate, PEM, that names nothing: the control plane decides on names.
///
/// # Errors
/// The key does not sign.
pub fn request(key: &KeyPair) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.pem()?)
}

impl Forgery {
    /// One that says it is a runner's.
    pub fn runner(uri: &str) -> Self {
        Self {
            uris: vec![uri.to_owned()],
            names: Vec::new(),
            usage: vec![ExtendedKeyUsagePurpose::ClientAuth],
            since: 3600,
            until: 3600,
        }
    }
}

impl Authority {
    /// A root of its own, with that URI where it is to pass for an organization's issuer.
    ///
    /// # Errors
    /// The key does not sign.
    pub fn new(name: &str, uri: Option<&str>) -> Result<Self> {
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        if let Some(uri) = uri {
            params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        }
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }
    /// One whose certificate and key are known, PEM.
    ///
    /// # Errors
    /// They are not PEM.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self> {
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        Ok(Self { issuer, pem: certificate.to_owned() })
    }
    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }
    /// Issues a certificate for a key, PEM, with its own behind it.
    ///
    /// # Errors
    /// The key does not sign.
    pub fn issue(&self, key: &KeyPair, forgery: &Forgery) -> Result<String> {
        let mut params = CertificateParams::new(forgery.names.clone())?;
        params.distinguished_name = DistinguishedName::new();
        for uri in &forgery.uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        }
        params.extended_key_usages.clone_from(&forgery.usage);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = moment(-forgery.since).into();
        params.not_after = moment(forgery.until).into();
        Ok(params.signed_by(key, &self.issuer)?.pem() + &self.pem)
    }
}

/// TLS of a server on 127.0.0.1 and localhost, HTTP/1.1 spoken, and the PEM of an authority of its own that issued its certificate.
///
/// # Errors
/// The key does not sign.
pub fn server_tls() -> Result<(rustls::ServerConfig, String)> {
    // who looks for an issuer looks for its name first
    static MADE: AtomicU64 = AtomicU64::new(0);
    let authority = Authority::new(&format!("servers {}", MADE.fetch_add(1, Ordering::Relaxed)), None)?;
    let key = new_key()?;
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let usage = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let chain = authority.issue(&key, &Forgery { uris: Vec::new(), names, usage, since: 3600, until: 86_400 })?;
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let mut config = rustls::ServerConfig::builder_with_provider(https::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, authority.pem().to_owned()))
}

fn moment(seconds_from_now: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds_from_now.unsigned_abs());
    if seconds_from_now >= 0 { SystemTime::now() + distance } else { SystemTime::now() - distance }
}
