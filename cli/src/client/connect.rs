//! A connection to the control plane: TCP, and TLS with the configured CA alone.

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use shared_proto::ahead::ReadAhead;
use shared_proto::bounds::CONNECT_DEADLINE;
use shared_proto::failure::{Code, Failure};
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where the API is and how it is known.
#[derive(Clone)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A connection, encrypted or on loopback.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Plain, loopback only.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<ReadAhead<TcpStream>>>),
}

// === impl Endpoint ===

impl Endpoint {
    /// `https://host[:port]` with a CA in PEM, or `http://` on loopback.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(url: &str, ca: Option<&str>) -> Result<Self, Failure> {
        let wrong = |what: &str| {
            Code::InvalidArgument.on(format!("{url:?} {what}")).next("Give the endpoint as https://HOST:PORT.")
        };
        let uri: http::Uri = url.parse().map_err(|_| wrong("is not a URL"))?;
        let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("carries a user"));
        }
        if !matches!(uri.path_and_query().map(http::uri::PathAndQuery::as_str), None | Some("/")) {
            return Err(wrong("has a path"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        match uri.scheme_str() {
            Some("https") => {
                let ca = ca.ok_or_else(|| {
                    Code::ServerUntrusted
                        .on(format!("the CA of {url} is not known"))
                        .next("Give the control plane's ca.pem with --ca, or in RUNNERCTL_CA_FILE.")
                })?;
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong("has no valid host name"))?;
                Ok(Self { tls: Some((connector(ca)?, name)), port: authority.port_u16().unwrap_or(443), host })
            }
            Some("http") if is_loopback(&host) => {
                Ok(Self { tls: None, port: authority.port_u16().unwrap_or(80), host })
            }
            Some("http") => Err(wrong("is plain HTTP, which is for this machine's loopback only")),
            _ => Err(wrong("does not start with https://")),
        }
    }
    /// `host:port`, as the Host header has it.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
    /// A new connection.
    ///
    /// # Errors
    /// `dial_failed`, `server_untrusted`.
    pub(crate) async fn connect(&self) -> Result<Stream, Failure> {
        tokio::time::timeout(CONNECT_DEADLINE, self.dial()).await.unwrap_or_else(|_| {
            Err(Code::DialFailed
                .on(format!("the control plane at {self} did not answer within {} s", CONNECT_DEADLINE.as_secs())))
        })
    }
    async fn dial(&self) -> Result<Stream, Failure> {
        let unreachable =
            |e: std::io::Error| Code::DialFailed.on(format!("the control plane at {self} could not be reached: {e}"));
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let Some((connector, name)) = &self.tls else { return Ok(Stream::Plain(tcp)) };
        match connector.connect(name.clone(), ReadAhead::new(tcp)).await {
            Ok(tls) => Ok(Stream::Tls(Box::new(tls))),
            Err(e) if e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => Err(Code::ServerUntrusted
                .on(format!("the control plane's certificate at {self} was not accepted: {e}"))
                .next("Check the endpoint, and that the CA file is this control plane's ca.pem.")),
            Err(e) => Err(unreachable(e)),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// Trusts this CA and no other; TLS 1.3 only.
fn connector(ca: &str) -> Result<TlsConnector, Failure> {
    let bad = |what: String| {
        Code::InvalidArgument.on(format!("the CA is not usable: {what}")).next("Give the control plane's ca.pem.")
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.map_err(|_| bad("it is not PEM".into()))?).map_err(|e| bad(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("it holds no certificate".into()));
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| bad(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

// === impl Stream ===

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let code = |url: &str, ca: Option<&str>| Endpoint::new(url, ca).err().map(|f| f.code);
        assert_eq!(code("http://127.0.0.1:8080", None), None);
        assert_eq!(code("http://[::1]:8080/", None), None);
        assert_eq!(code("http://localhost", None), None);
        assert_eq!(code("https://a:1", None), Some(Code::ServerUntrusted));
        for bad in [
            "http://example.org",
            "http://10.0.0.1:1",
            "ftp://localhost",
            "localhost:1",
            "http://u@localhost",
            "http://localhost/x",
            "",
        ] {
            assert_eq!(code(bad, None), Some(Code::InvalidArgument), "{bad}");
        }
        assert_eq!(code("https://a:1", Some("no pem")), Some(Code::InvalidArgument));
    }
}
