//! A connection to one target: TCP with keepalive, through a proxy where the configuration names one, and TLS.

use nix::sys::socket::{setsockopt, sockopt};
use rustls_pki_types::ServerName;
use shared_proto::bounds::CONNECT_DEADLINE;
use shared_proto::failure::Code;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::url::{self, Address, host_port};
use crate::fault::{Fault, chain};

/// Silence after which the kernel asks whether a target is still there, seconds. A followed log may be silent for days: this is what
/// tells a quiet target from a dead one, 60 s later.
const KEEPALIVE_IDLE: u32 = 30;
/// Between two such questions, seconds, and how many go unanswered.
const KEEPALIVE_INTERVAL: u32 = 10;
const KEEPALIVE_PROBES: u32 = 3;
/// The longest answer of a proxy to CONNECT, bytes.
const PROXY_ANSWER_MAX: usize = 8 * 1024;

/// A target, and all that is needed to reach it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    /// For https: how to check the certificate, and the name that must stand in it.
    pub(crate) tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
    pub(crate) proxy: Option<Proxy>,
}

/// An HTTP proxy that understands CONNECT, or a SOCKS 5 proxy.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    kind: ProxyKind,
    host: String,
    port: u16,
    /// User and password.
    login: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProxyKind {
    Http,
    Socks5,
}

/// A stream with or without TLS.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

// === impl Proxy ===

impl Proxy {
    /// From `http://[user:password@]host[:port]` or the same with socks5.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not repeat it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.trim().split_once("://").ok_or("it is no URL")?;
        let (kind, default_port) = match scheme {
            "http" => (ProxyKind::Http, 80),
            "socks5" | "socks5h" => (ProxyKind::Socks5, 1080),
            _ => return Err("only http:// and socks5:// proxies are supported"),
        };
        let (login, authority) = match rest.rsplit_once('@') {
            Some((login, authority)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                let decode = |part| url::decode(part).ok_or("its user or password is badly escaped");
                (Some((decode(user)?, decode(password)?)), authority)
            }
            None => (None, rest),
        };
        let authority: http::uri::Authority =
            authority.trim_end_matches('/').parse().map_err(|_| "it has no host or a bad port")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { kind, host, port: url::port(&authority, default_port)?, login })
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Connects, within [`CONNECT_DEADLINE`] for all of it.
    pub(crate) async fn connect(&self) -> Result<Stream, Fault> {
        match tokio::time::timeout(CONNECT_DEADLINE, self.connect_unbounded()).await {
            Ok(connected) => connected,
            Err(_) => Err(self.unreachable(&format!("no connection within {} s", CONNECT_DEADLINE.as_secs()))),
        }
    }

    async fn connect_unbounded(&self) -> Result<Stream, Fault> {
        let tcp = match &self.proxy {
            None => tcp(&self.address.host, self.address.port).await.map_err(|e| self.unreachable(&e.to_string()))?,
            Some(proxy) => {
                let through = format!("through the proxy {}", host_port(&proxy.host, proxy.port));
                let mut stream = tcp(&proxy.host, proxy.port)
                    .await
                    .map_err(|e| self.unreachable(&format!("{through}, which is not reachable: {e}")))?;
                match proxy.kind {
                    ProxyKind::Http => http_connect(&mut stream, &self.address, proxy.login.as_ref()).await,
                    ProxyKind::Socks5 => socks_connect(&mut stream, &self.address, proxy.login.as_ref()).await,
                }
                .map_err(|e| self.unreachable(&format!("{through}: {e}")))?;
                stream
            }
        };
        let Some((config, name)) = &self.tls else { return Ok(Stream::Plain(tcp)) };
        match TlsConnector::from(config.clone()).connect(name.clone(), tcp).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) => {
                let fault = self.unreachable(&format!("TLS: {}", chain(&error)));
                Err(if is_certificate(&error) {
                    fault.next(
                        "Check the certificate authority and the server name in the connection's entry, and whether something between re-signs TLS.",
                    )
                } else {
                    fault
                })
            }
        }
    }

    /// host:port.
    pub(crate) fn shown(&self) -> String {
        self.address.shown()
    }

    fn unreachable(&self, why: &str) -> Fault {
        Fault::new(Code::TargetUnreachable, format!("{}: {why}", self.shown()))
    }
}

fn is_certificate(error: &io::Error) -> bool {
    error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>())
        .is_some_and(|e| matches!(e, rustls::Error::InvalidCertificate(_)))
}

/// One address after the other, until one takes the connection.
async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        // no thread for a look-up that is none
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => tokio::net::lookup_host((host, port)).await?.collect(),
    };
    // a dead first address must not use the whole deadline up
    let each = CONNECT_DEADLINE / u32::try_from(addresses.len().clamp(1, 4)).unwrap_or(1);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match tokio::time::timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                setsockopt(&stream, sockopt::KeepAlive, &true)?;
                setsockopt(&stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
                setsockopt(&stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
                setsockopt(&stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
    }
    Err(last)
}

fn other(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

async fn http_connect(stream: &mut TcpStream, to: &Address, login: Option<&(String, String)>) -> io::Result<()> {
    use base64::Engine as _;
    let target = to.shown();
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some((user, password)) = login {
        let value = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        request.push_str(&format!("Proxy-Authorization: Basic {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    // byte by byte: what follows the answer belongs to the target
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= PROXY_ANSWER_MAX {
            return Err(other("its answer to CONNECT has no end"));
        }
        answer.push(stream.read_u8().await.map_err(|_| other("it closed the connection before it answered CONNECT"))?);
    }
    let line = answer.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    match (words.next(), words.next()) {
        (Some(version), Some(status)) if version.starts_with("HTTP/1.") => {
            if status.len() == 3 && status.starts_with('2') {
                Ok(())
            } else {
                Err(other(format!("it answered {line}")))
            }
        }
        _ => Err(other("it does not answer as an HTTP proxy does")),
    }
}

/// RFC 1928, and RFC 1929 for user and password. The proxy looks the name up.
async fn socks_connect(stream: &mut TcpStream, to: &Address, login: Option<&(String, String)>) -> io::Result<()> {
    let method: u8 = if login.is_some() { 2 } else { 0 };
    stream.write_all(&[5, 1, method]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    if chosen != [5, method] {
        return Err(other("it does not take this way of logging in"));
    }
    if let Some((user, password)) = login {
        let mut message = vec![1];
        for part in [user, password] {
            message.push(u8::try_from(part.len()).map_err(|_| other("user or password is too long"))?);
            message.extend_from_slice(part.as_bytes());
        }
        stream.write_all(&message).await?;
        let mut verdict = [0; 2];
        stream.read_exact(&mut verdict).await?;
        if verdict[1] != 0 {
            return Err(other("it refused user and password"));
        }
    }
    let mut message = vec![5, 1, 0];
    match to.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            message.push(1);
            message.extend_from_slice(&ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            message.push(4);
            message.extend_from_slice(&ip.octets());
        }
        Err(_) => {
            message.extend_from_slice(&[3, u8::try_from(to.host.len()).map_err(|_| other("the name is too long"))?]);
            message.extend_from_slice(to.host.as_bytes());
        }
    }
    message.extend_from_slice(&to.port.to_be_bytes());
    stream.write_all(&message).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    if answer[1] != 0 {
        return Err(other(format!("it refused the connection (SOCKS reply {})", answer[1])));
    }
    let bound = match answer[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await?),
        _ => return Err(other("it does not answer as a SOCKS 5 proxy does")),
    };
    stream.read_exact(&mut vec![0; bound + 2]).await?;
    Ok(())
}

// === impl Stream ===

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn address(port: u16) -> Address {
        Address { https: false, host: "target.example".into(), port, prefix: String::new() }
    }

    #[test]
    fn proxies() {
        let p = Proxy::parse("http://u%40x:p%3Aw@proxy:3128/").expect("a proxy");
        assert_eq!((p.host.as_str(), p.port, p.login), ("proxy", 3128, Some(("u@x".into(), "p:w".into()))));
        assert_eq!(Proxy::parse("socks5://[::1]").map(|p| (p.host, p.port)).ok(), Some(("::1".into(), 1080)));
        for bad in ["", "proxy:3128", "https://proxy", "http://", "http://u:%zz@p", "http://p:99999"] {
            assert!(Proxy::parse(bad).is_err(), "{bad}");
        }
    }

    /// Gives the endpoint a proxy that answers with those bytes; returns what became of the connection and what the proxy read.
    async fn through(kind: &str, answer: &'static [u8]) -> (Result<Stream, Fault>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let proxy = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            stream.write_all(answer).await.expect("answers");
            let mut seen = vec![0; 4096];
            let n = stream.read(&mut seen).await.expect("reads");
            seen.truncate(n);
            (stream, seen)
        });
        let proxy_url = format!("{kind}://user:pw@127.0.0.1:{port}");
        let endpoint =
            Endpoint { address: address(6443), tls: None, proxy: Some(Proxy::parse(&proxy_url).expect("a proxy")) };
        let result = endpoint.connect().await;
        (result, proxy.await.expect("ends").1)
    }

    #[tokio::test]
    async fn connect_through_an_http_proxy_reads_the_answer_and_not_further() {
        let (stream, seen) = through("http", b"HTTP/1.1 200 Fine\r\nA: b\r\n\r\nhello").await;
        let mut stream = stream.expect("connects");
        let mut rest = [0; 5];
        stream.read_exact(&mut rest).await.expect("what follows is the target's");
        assert_eq!(&rest, b"hello");
        let seen = String::from_utf8(seen).expect("text");
        assert!(seen.starts_with("CONNECT target.example:6443 HTTP/1.1\r\n"), "{seen}");
        assert!(seen.contains("Proxy-Authorization: Basic dXNlcjpwdw==\r\n"), "{seen}");
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_is_named_with_its_words() {
        for (kind, answer, words) in [
            ("http", &b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..], "407 Proxy Authentication Required"),
            ("http", b"SSH-2.0-x\r\n\r\n", "does not answer as an HTTP proxy"),
            ("socks5", b"\x05\xff", "way of logging in"),
            ("socks5", b"\x05\x02\x01\x01", "refused user and password"),
        ] {
            let fault = through(kind, answer).await.0.err().expect("refused");
            assert_eq!(fault.code(), Code::TargetUnreachable);
            let message = &fault.failure.message;
            assert!(message.starts_with("target.example:6443: ") && message.contains(words), "{message}");
            assert!(!message.contains("pw"), "{message}");
        }
    }
}
