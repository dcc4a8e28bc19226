//! TLS to the control plane: 1.3 only, one named provider, one trusted CA, our certificate. Names what it was shown when that is refused,
//! and translates what the other end refuses, which with TLS 1.3 arrives on the first read after the handshake.

use super::dial::{Connected, PeerClock};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{AlertDescription, CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use shared_proto::ahead::ReadAhead;
use shared_proto::credentials::{Credentials, Endpoint, Leaf};
use shared_proto::failure::{Code, Failure};
use shared_proto::identity::CertificateFacts;
use std::error::Error as StdError;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection on which TLS is up at our end. Notes why it failed.
#[derive(Debug)]
pub struct Stream {
    inner: tokio_rustls::client::TlsStream<ReadAhead<TcpStream>>,
    verdict: Verdict,
}

/// Why the other end refused, once it has.
#[derive(Debug, Clone)]
pub struct Verdict {
    told: Arc<OnceLock<Failure>>,
    ours: Arc<CertificateFacts>,
    /// From when on the other end's own certificate is valid, Unix seconds.
    theirs_since: Option<i64>,
    clock: PeerClock,
}

/// rustls' own verifier, which keeps what it was shown.
#[derive(Debug)]
struct Remembering {
    inner: Arc<WebPkiServerVerifier>,
    shown: OnceLock<CertificateDer<'static>>,
}

// === impl Remembering ===

impl ServerCertVerifier for Remembering {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let _ = self.shown.set(end_entity.clone().into_owned());
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The one provider of this process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Shakes hands on a connected stream.
///
/// # Errors
/// `server_untrusted` and its kin with what was shown; what the other end's alert says.
pub(super) async fn handshake(
    stream: TcpStream,
    endpoint: &Endpoint,
    credentials: &Credentials,
    leaf: &Leaf,
    alpn: &'static [u8],
    clock: PeerClock,
) -> Result<Connected, Failure> {
    let (config, verifier) = configuration(credentials, leaf, alpn)?;
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| Code::ServerUntrusted.on(format!("{:?} is neither a DNS name nor an address", endpoint.host)))?;
    let ours = Arc::new(leaf.facts.clone());
    let mut verdict = Verdict { told: Arc::default(), ours, theirs_since: None, clock };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let result = connector.connect(name, ReadAhead::new(stream)).await;
    verdict.theirs_since = verifier.shown.get().and_then(|c| CertificateFacts::read(c).ok()).map(|f| f.not_before);
    match result {
        Ok(inner) => {
            if inner.get_ref().1.alpn_protocol() != Some(alpn) {
                return Err(Code::DialFailed.on(format!(
                    "{} does not speak {}",
                    endpoint.authority(),
                    String::from_utf8_lossy(alpn)
                )));
            }
            Ok(Connected { stream: Stream { inner, verdict: verdict.clone() }, verdict })
        }
        Err(e) => Err(match rustls_error(&e) {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                refused(reason, verifier.shown.get(), endpoint, &verdict.clock)
            }
            Some(rustls::Error::AlertReceived(alert)) => verdict.of_alert(*alert),
            Some(rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. }) => {
                Code::DialFailed.on(format!("{} does not speak TLS 1.3: {e}", endpoint.authority()))
            }
            _ => Code::DialFailed.on(format!("{}: the TLS handshake failed: {e}", endpoint.authority())),
        }),
    }
}

fn configuration(
    credentials: &Credentials,
    leaf: &Leaf,
    alpn: &'static [u8],
) -> Result<(rustls::ClientConfig, Arc<Remembering>), Failure> {
    let unusable = |what: &str, e: &dyn StdError| {
        Code::CredentialsMalformed.on(format!("{}: {what}: {e}", credentials.path.display()))
    };
    let mut roots = RootCertStore::empty();
    roots.add(credentials.ca.clone()).map_err(|e| unusable("its CA", &e))?;
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|e| unusable("its CA", &e))?;
    let verifier = Arc::new(Remembering { inner, shown: OnceLock::new() });
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| unusable("TLS 1.3", &e))?
        .dangerous() // not weaker: it asks rustls' own verifier and returns its verdict
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_auth_cert(leaf.chain.clone(), leaf.key.clone_key())
        .map_err(|e| unusable("its certificate", &e))?;
    config.alpn_protocols = vec![alpn.to_vec()];
    // every connection proves everything anew: a revoked or renewed certificate must not live on in a ticket
    config.resumption = rustls::client::Resumption::disabled();
    Ok((config, verifier))
}

/// We refused the server's certificate: say what was shown.
fn refused(
    reason: &CertificateError,
    shown: Option<&CertificateDer<'_>>,
    endpoint: &Endpoint,
    clock: &PeerClock,
) -> Failure {
    let facts = shown.and_then(|c| CertificateFacts::read(c).ok());
    let (subject, issuer) = facts.as_ref().map_or(("?", "?"), |f| (f.subject.as_str(), f.issuer.as_str()));
    let shown = format!("{} showed a certificate of \"{subject}\", issued by \"{issuer}\"", endpoint.authority());
    match reason {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            let made = clock_of(clock, facts.as_ref().map(|f| f.not_before));
            let judged = facts.and_then(|f| f.check_dates(shared_proto::now_ms(), clock.now_ms()).err());
            let judged = judged.unwrap_or_else(|| Code::ServerUntrusted.on(reason.to_string()));
            judged
                .code
                .on(format!("{shown}; {}{made}", judged.message))
                .next("Check this machine's clock; otherwise renew the control plane's server certificate.")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            Code::CertificatePurpose.on(format!("{shown}, which is not a server's"))
        }
        CertificateError::UnknownIssuer => {
            Code::ServerUntrusted.on(format!("{shown}, which is not the CA of the credentials file"))
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Code::ServerUntrusted.on(format!("{shown}, which is not for {}", endpoint.host))
        }
        other => Code::ServerUntrusted.on(format!("{shown}: {other}")),
    }
}

/// What is known of the other end's clock where it has not said its time: it makes its certificate anew at each start and each day, valid from
/// five minutes before.
fn clock_of(clock: &PeerClock, since: Option<i64>) -> String {
    match (clock.now_ms(), since) {
        (None, Some(since)) => {
            let made = shared_proto::identity::rfc3339(since.saturating_add(300));
            format!(", the control plane's clock said {made} when it made its own")
        }
        _ => String::new(),
    }
}

/// The rustls error in an error's chain of causes.
fn rustls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            let inner: &(dyn StdError + 'static) = inner;
            if let Some(found) = rustls_error(inner) {
                return Some(found);
            }
        }
        next = error.source();
    }
    None
}

// === impl Verdict ===

impl Verdict {
    /// Why the other end refused, if it has said so in TLS.
    pub fn told(&self) -> Option<Failure> {
        self.told.get().cloned()
    }

    fn note(&self, error: &io::Error) {
        if let Some(rustls::Error::AlertReceived(alert)) = rustls_error(error) {
            let _ = self.told.set(self.of_alert(*alert));
        }
    }

    /// The other end's alert, judged by what we know of our own certificate.
    fn of_alert(&self, alert: AlertDescription) -> Failure {
        let refused = || {
            format!(
                "the control plane refused this runner's certificate \"{}\", issued by \"{}\" (TLS alert {alert:?})",
                self.ours.uris.first().unwrap_or(&self.ours.subject),
                self.ours.issuer
            )
        };
        // with TLS 1.3 a server whose clock differs from ours says "expired" of one that is not valid yet, too
        let by_dates = || self.ours.check_dates(shared_proto::now_ms(), self.clock.now_ms()).err();
        match alert {
            AlertDescription::UnknownCA => Code::UnknownCa.on(refused()),
            AlertDescription::CertificateExpired => by_dates().unwrap_or_else(|| {
                Code::ClockSkew.on(format!(
                    "{}; this machine's clock says {}, the certificate is valid until {}{}",
                    refused(),
                    shared_proto::identity::rfc3339(shared_proto::now_ms() / 1000),
                    shared_proto::identity::rfc3339(self.ours.not_after),
                    clock_of(&self.clock, self.theirs_since)
                ))
            }),
            AlertDescription::CertificateRequired => {
                Code::CertificateMissing.on("the control plane was shown no client certificate")
            }
            AlertDescription::UnsupportedCertificate => Code::CertificatePurpose.on(refused()),
            AlertDescription::CertificateRevoked => Code::CertificateRevoked.on(refused()),
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => {
                // purpose and dates have no alert of their own with every server
                match (self.ours.client_auth, by_dates()) {
                    (false, _) => Code::CertificatePurpose.on(refused()),
                    (true, Some(dates)) => dates,
                    (true, None) => Code::CertificateInvalid.on(refused()),
                }
            }
            AlertDescription::NoApplicationProtocol => Code::DialFailed
                .on("the other end is no control plane of this version: it does not speak this protocol (ALPN)"),
            AlertDescription::ProtocolVersion => Code::DialFailed.on("the other end does not speak TLS 1.3"),
            AlertDescription::UnrecognisedName => {
                Code::ServerUntrusted.on("the other end does not know the endpoint's name")
            }
            other => Code::DialFailed.on(format!("the other end ended TLS with the alert {other:?}")),
        }
    }
}

// === impl Stream ===

impl Stream {
    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        self.inner.get_ref().0.get_ref()
    }
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|e| self.verdict.note(e))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        Poll::Ready(self.note(result))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.inner).poll_write(cx, buf));
        Poll::Ready(self.note(result))
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs));
        Poll::Ready(self.note(result))
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
