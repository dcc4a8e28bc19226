//! How a target's certificate is checked, and what is shown to it.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::sync::{Arc, OnceLock};

/// Whom to trust as the target.
pub(crate) enum Trust<'a> {
    /// Who one of these certificates, in PEM, has issued or is.
    Pem(&'a str),
    /// Who the machine trusts.
    System,
    /// Anyone: only where the runner's own configuration names a kubeconfig that says so.
    Anyone,
}

/// Builds a client's configuration; the identity is a certificate chain and its key, in PEM.
///
/// # Errors
/// Which part is not usable, without the part.
pub(crate) fn client(trust: &Trust<'_>, identity: Option<(&str, &str)>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match trust {
        Trust::Anyone => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptsAnyone { provider: provider.clone() }))
        }
        Trust::System => builder.with_webpki_verifier(verifier(system_roots()?, provider)?),
        Trust::Pem(pem) => builder.with_webpki_verifier(verifier(roots(pem)?, provider)?),
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificates, key)) => {
            let chain = certificates_of(certificates).map_err(|e| format!("the client certificate {e}"))?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|_| "the client key holds no key in PEM".to_owned())?;
            builder.with_client_auth_cert(chain, key).map_err(|e| format!("the client certificate and key: {e}"))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// To whom the machine trusts, showing nothing. The machine's certificates are read once, however many services an operation asks.
///
/// # Errors
/// Which part is not usable, without the part.
pub(crate) fn system() -> Result<Arc<ClientConfig>, String> {
    static SYSTEM: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    SYSTEM.get_or_init(|| client(&Trust::System, None)).clone()
}

/// The name that must stand in the certificate.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} cannot be the name in a certificate"))
}

fn verifier(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|e| e.to_string())
}

fn certificates_of(pem: &str) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err("holds no certificate in PEM"),
    }
}

fn roots(pem: &str) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let found = certificates_of(pem).map_err(|e| format!("the certificate authority {e}"))?;
    let (added, _) = store.add_parsable_certificates(found);
    if added == 0 { Err("the certificate authority is no usable certificate".to_owned()) } else { Ok(store) }
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err("this machine has no certificate authorities (install ca-certificates)".to_owned());
    }
    Ok(store)
}

/// What `insecure-skip-tls-verify` asks for: the certificate may be anyone's, the handshake must still be signed with its key.
#[derive(Debug)]
struct AcceptsAnyone {
    provider: Arc<CryptoProvider>,
}

// === impl AcceptsAnyone ===

impl ServerCertVerifier for AcceptsAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
