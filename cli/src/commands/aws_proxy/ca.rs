//! A throw-away CA, which the clients of one run trust for AWS' hosts: its key never leaves memory, and its certificate's file goes with it.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use shared_proto::failure::{Code, Failure};
use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::NamedTempFile;
use time::{Duration, OffsetDateTime};

/// How long it is good: longer than a shell stays open.
const LIFE: Duration = Duration::days(30);
/// For clients whose clocks are behind.
const BEFORE: Duration = Duration::hours(24);
/// Hosts whose certificates are kept; a client of more has them made again.
const KEPT: usize = 256;

/// The CA.
pub(super) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// One for all hosts: it is as short-lived as the CA's.
    key: KeyPair,
    made: Mutex<HashMap<String, Arc<ServerConfig>>>,
}

// === impl Ca ===

impl Ca {
    /// A new one, and the file with its certificate, which is the user's alone and goes when it is dropped.
    ///
    /// # Errors
    /// `internal`: no file, or no key.
    pub(super) fn new() -> Result<(Self, NamedTempFile), Failure> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named("runnerctl aws, for this run alone");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        live(&mut params);
        let pair = KeyPair::generate().map_err(unmade)?;
        let certificate = params.self_signed(&pair).map_err(unmade)?;
        let unwritten = |e: std::io::Error| {
            Code::Internal
                .on(format!("a certificate's file in {} cannot be written: {e}", std::env::temp_dir().display()))
                .next("Name a folder that can be written in TMPDIR.")
        };
        // for its owner alone from the beginning
        let mut file =
            tempfile::Builder::new().prefix("runnerctl-aws-").suffix(".pem").tempfile().map_err(unwritten)?;
        file.write_all(certificate.pem().as_bytes()).and_then(|()| file.flush()).map_err(unwritten)?;
        let key = KeyPair::generate().map_err(unmade)?;
        Ok((Self { issuer: Issuer::new(params, pair), key, made: Mutex::default() }, file))
    }

    /// TLS as that host.
    ///
    /// # Errors
    /// `internal`.
    pub(super) fn host(&self, name: &str) -> Result<Arc<ServerConfig>, Failure> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(name) {
            return Ok(config.clone());
        }
        let config = Arc::new(self.make(name)?);
        if made.len() >= KEPT {
            made.clear();
        }
        made.insert(name.to_owned(), config.clone());
        Ok(config)
    }

    fn make(&self, name: &str) -> Result<ServerConfig, Failure> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(unmade)?;
        params.distinguished_name = named("AWS through a runner");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        live(&mut params);
        let certificate = params.signed_by(&self.key, &self.issuer).map_err(unmade)?;
        let chain = vec![CertificateDer::from(certificate)];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|e| Code::Internal.on(format!("TLS as {name}: {e}")))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn live(params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BEFORE;
    params.not_after = now + LIFE;
}

fn unmade(error: rcgen::Error) -> Failure {
    Code::Internal.on(format!("a certificate cannot be made: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn its_file_is_the_users_alone_and_goes_with_it() {
        let (_ca, file) = Ca::new().expect("a CA");
        let path = file.path().to_owned();
        assert_eq!(path.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).expect("reads");
        assert!(text.starts_with("-----BEGIN CERTIFICATE-----") && !text.contains("PRIVATE"));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn hosts_are_kept_up_to_a_bound() {
        let (ca, _file) = Ca::new().expect("a CA");
        let first = ca.host("h0.s3.eu-west-1.amazonaws.com").expect("a host");
        assert!(Arc::ptr_eq(&first, &ca.host("h0.s3.eu-west-1.amazonaws.com").expect("kept")));
        for n in 0..=KEPT {
            ca.host(&format!("h{n}.s3.eu-west-1.amazonaws.com")).expect("a host");
            assert!(ca.made.lock().expect("whole").len() <= KEPT);
        }
    }
}
