//! TLS of the two listeners, and what a failed handshake means in the table of failure codes.

use super::{Authority, PkiError};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use shared_proto::failure::{Code, Failure};
use shared_proto::identity::CertificateFacts;
use std::cell::OnceCell;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The server certificate in use; replaced in one step.
#[derive(Debug)]
pub(super) struct ServerIdentity(RwLock<Arc<CertifiedKey>>);

/// rustls' own verdict on a runner's certificate, with a line in the log that says what was presented.
#[derive(Debug)]
struct Witness(Arc<dyn ClientCertVerifier>);

// === impl ServerIdentity ===

impl ServerIdentity {
    pub(super) fn new(key: CertifiedKey) -> Self {
        Self(RwLock::new(Arc::new(key)))
    }
    pub(super) fn set(&self, key: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

// === impl Authority ===

impl Authority {
    /// TLS of the port that runners dial: TLS 1.3 only, a client certificate under the root is mandatory, tunnel and execution
    /// service are kept apart by ALPN.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn runner_tls_config(&self) -> Result<ServerConfig, PkiError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.root().clone())?;
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Witness(inner)))
            .with_cert_resolver(self.server.clone());
        config.alpn_protocols = vec![shared_proto::TUNNEL_ALPN.to_vec(), shared_proto::EXECUTION_ALPN.to_vec()];
        // every handshake shows and proves the certificate anew
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    /// TLS of the API: no client certificate.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn api_tls_config(&self) -> Result<ServerConfig, PkiError> {
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(self.server.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

// === impl Witness ===

impl ClientCertVerifier for Witness {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verdict = self.0.verify_client_cert(end_entity, intermediates, now);
        if let Err(error) = &verdict {
            let failure = refusal(error, CertificateFacts::read(end_entity).ok().as_ref());
            // outside of `accept` nobody asks
            let _ = REFUSED.try_with(|refused| refused.set(failure));
        }
        verdict
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

tokio::task_local! {
    /// Why the certificate was refused in the handshake that this task is at, with the certificate's facts.
    static REFUSED: OnceCell<Failure>;
}

/// Shakes hands on the runners' port.
///
/// # Errors
/// Why not: of a certificate that was refused, with what it says.
pub async fn accept<T: AsyncRead + AsyncWrite + Unpin>(
    acceptor: &TlsAcceptor,
    stream: T,
) -> Result<TlsStream<T>, Failure> {
    let shake = async {
        acceptor.accept(stream).await.map_err(|error| {
            let refused = REFUSED.with(|refused| refused.get().cloned());
            refused.unwrap_or_else(|| handshake_failure(&error))
        })
    };
    REFUSED.scope(OnceCell::new(), shake).await
}

/// What a failed handshake means where no certificate was refused.
fn handshake_failure(error: &std::io::Error) -> Failure {
    match error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        Some(error) => refusal(error, None),
        None => Code::DialFailed.on(format!("the connection ended in the TLS handshake: {error}")),
    }
}

fn refusal(error: &Error, presented: Option<&CertificateFacts>) -> Failure {
    let what = match presented {
        Some(facts) => format!(
            "certificate {} of {}, issued by {}, valid from {} to {}",
            facts.serial,
            facts.uris.first().unwrap_or(&facts.subject),
            facts.issuer,
            shared_proto::identity::rfc3339(facts.not_before),
            shared_proto::identity::rfc3339(facts.not_after),
        ),
        None => "the runner's certificate".to_owned(),
    };
    match error {
        Error::NoCertificatesPresented => Code::CertificateMissing.on("the TLS client presented no certificate"),
        Error::InvalidCertificate(reason) => {
            let code = match reason {
                CertificateError::UnknownIssuer => Code::UnknownCa,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Code::CertificateExpired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Code::CertificateNotYetValid
                }
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                    Code::CertificatePurpose
                }
                CertificateError::Revoked => Code::CertificateRevoked,
                _ => Code::CertificateInvalid,
            };
            match code {
                Code::CertificateInvalid => code.on(format!("{what}: {reason}")),
                _ => code.on(what),
            }
        }
        Error::AlertReceived(alert) => Code::ServerUntrusted
            .on(format!("the TLS client refused this control plane's certificate with the alert {alert:?}"))
            .next(match alert {
                AlertDescription::UnknownCA => "Use a credentials file of this control plane on the runner.",
                _ => "Look at the runner's own log: it says why.",
            }),
        Error::NoApplicationProtocol | Error::PeerIncompatible(_) => Code::UnsupportedVersion
            .on(format!("the TLS client and this control plane have nothing in common: {error}")),
        other => Code::InvalidArgument.on(format!("not a runner's TLS handshake: {other}")),
    }
}
