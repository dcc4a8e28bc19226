//! What a source asks of a server by HTTPS without git: one request a connection, whom the machine or the entry trusts, by way of the runner's
//! proxy where it has one. No address of this machine's clouds is asked, whatever a server sends to, and who asks is told to the one
//! host that it is for.

use super::access::Access;
use crate::net;
use crate::process::Environment;
use crate::stop::{Stop, io_failure};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use runner_sandbox::addresses;
use rustls_pki_types::ServerName;
use sha2::{Digest as _, Sha256};
use shared_proto::address::{host_and_port, host_port};
use shared_proto::bounds::CONNECT_DEADLINE;
use shared_proto::failure::{Code, Failure};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How often one address may send to another one.
const REDIRECTS_MAX: usize = 5;
/// How long nothing may come.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The longest address, bytes.
const ADDRESS_MAX: usize = 8 * 1024;

/// Asks.
#[derive(Debug)]
pub(super) struct Web<'a> {
    access: &'a Access,
    environment: &'a Environment,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Where it came from at last.
    pub(super) from: Uri,
    body: Incoming,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted<'a> {
    /// The value of Accept; empty: none.
    pub(super) accept: &'a str,
    /// The value of Authorization: for the host that is asked first, and for no other.
    pub(super) authorization: Option<&'a str>,
}

// === impl Web ===

impl<'a> Web<'a> {
    pub(super) const fn new(access: &'a Access, environment: &'a Environment) -> Self {
        Self { access, environment }
    }

    /// Asks, and goes where it is sent, without what is for the first host alone.
    ///
    /// # Errors
    /// `source_unavailable`; `source_refused`: it is sent where nobody is to ask.
    pub(super) async fn get(&self, address: &str, wanted: Wanted<'_>) -> Result<Reply, Failure> {
        let mut uri = checked(address)?;
        let first = uri.authority().cloned();
        for _ in 0..=REDIRECTS_MAX {
            let authorization = wanted.authorization.filter(|_| uri.authority() == first.as_ref());
            let reply = self.ask(&uri, Wanted { authorization, ..wanted }).await?;
            if !reply.status.is_redirection() {
                return Ok(reply);
            }
            let to = reply.headers.get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
            uri = checked(&relative(&uri, to))?;
        }
        let message = format!("{}: it sends to another address more than {REDIRECTS_MAX} times", shown(&uri));
        Err(Code::SourceUnavailable.on(message))
    }

    async fn ask(&self, uri: &Uri, wanted: Wanted<'_>) -> Result<Reply, Failure> {
        let failed = |what: &dyn std::fmt::Display| Code::SourceUnavailable.on(format!("{}: {what}", shown(uri)));
        let authority = uri.authority().ok_or_else(|| failed(&"it has no host"))?;
        let (host, port) = host_and_port(authority, 443).map_err(|e| failed(&e))?;
        let connecting = self.connect(&host, port);
        let stream = tokio::time::timeout(CONNECT_DEADLINE, connecting)
            .await
            .unwrap_or_else(|_| Err(failed(&format!("not connected within {CONNECT_DEADLINE:?}"))))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
        // it ends with the body, or with whoever reads it
        tokio::spawn(connection);
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut request = Request::get(path)
            .header(HOST, authority.as_str())
            .header(USER_AGENT, concat!("runner/", env!("CARGO_PKG_VERSION")));
        if !wanted.accept.is_empty() {
            request = request.header(ACCEPT, wanted.accept);
        }
        if let Some(value) = wanted.authorization {
            let mut value = HeaderValue::from_str(value).map_err(|_| failed(&"its credentials cannot be sent"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| failed(&e))?;
        let answer = tokio::time::timeout(SILENCE_MAX, sender.send_request(request))
            .await
            .map_err(|_| failed(&"it does not answer"))?
            .map_err(|e| failed(&e))?;
        let (head, body) = answer.into_parts();
        Ok(Reply { status: head.status, headers: head.headers, from: uri.clone(), body })
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TlsStream<TcpStream>, Failure> {
        let at = host_port(host, port);
        let failed = |what: &dyn std::fmt::Display| Code::SourceUnavailable.on(format!("{at}: {what}"));
        let caller = net::Caller { allowed: &|ip| allowed(ip, &at), failed: &failed };
        let stream = net::connect(host, port, net::proxy(self.environment, host).as_ref(), &caller).await?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| failed(&"its host cannot be in a certificate"))?;
        let tls = net::tls(self.access.authorities(host, port)).map_err(|what| failed(&what))?;
        TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(|e| failed(&format!("TLS: {e}")))
    }
}

/// Whether an address may be asked for a source: none that a machine's own cloud has for it.
fn allowed(ip: IpAddr, at: &str) -> Result<(), Failure> {
    match addresses::forbidden(ip) {
        Some(why) => Err(Code::SourceRefused.on(format!("{at} is not asked for a source: {why}"))),
        None => Ok(()),
    }
}

/// An address that may be asked.
fn checked(address: &str) -> Result<Uri, Failure> {
    let refuse = |what: &str| Code::SourceRefused.on(format!("the address of what is fetched {what}"));
    if address.len() > ADDRESS_MAX {
        return Err(refuse("is too long"));
    }
    let uri: Uri = address.parse().map_err(|_| refuse("is none"))?;
    if uri.scheme_str() != Some("https") {
        return Err(refuse("is not https://"));
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => Err(refuse("has a user in it")),
        Some(_) => Ok(uri),
        None => Err(refuse("has no host")),
    }
}

/// Where something that stands at an address leads to.
pub(super) fn relative(from: &Uri, to: &str) -> String {
    let authority = from.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    match to {
        to if to.starts_with("//") => format!("https:{to}"),
        to if to.starts_with('/') => format!("https://{authority}{to}"),
        to if to.contains("://") => to.to_owned(),
        to => {
            let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("https://{authority}{folder}/{}", to.trim_start_matches("./"))
        }
    }
}

/// An address without its query, which may be signed.
fn shown(uri: &Uri) -> String {
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    format!("https://{authority}{}", uri.path()).chars().take(300).collect()
}

// === impl Reply ===

impl Reply {
    /// A header as text; empty: it is not there, or none.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// # Errors
    /// `source_unavailable`: it is another status than 200.
    pub(super) fn ok(self) -> Result<Self, Failure> {
        if self.status == StatusCode::OK {
            return Ok(self);
        }
        let failure = Code::SourceUnavailable.on(format!("{} is answered with {}", shown(&self.from), self.status));
        Err(match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => failure.next(
                "Name an entry under [sources] in the runner's configuration that is for this address, or correct what it names.",
            ),
            _ => failure,
        })
    }

    /// The content, of at most so many bytes.
    ///
    /// # Errors
    /// `source_refused`: it is longer; `source_unavailable`: it breaks off.
    pub(super) async fn whole(mut self, most: usize) -> Result<Bytes, Failure> {
        let mut whole = Vec::new();
        while let Some(data) = self.next().await? {
            if whole.len() + data.len() > most {
                return Err(Code::SourceRefused.on(format!("{} is longer than {most} bytes", shown(&self.from))));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.into())
    }

    /// Writes the content, of at most so many bytes, to a new file; its length and its SHA-256 in hexadecimal.
    ///
    /// # Errors
    /// As of [`Self::whole`]; the file system.
    pub(super) async fn into_file(mut self, path: &Path, most: u64) -> Result<(u64, String), Stop> {
        let broken = |e: &std::io::Error| io_failure(Code::Internal, "what is fetched", e);
        let _ = std::fs::remove_file(path);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| broken(&e))?;
        let (mut hash, mut length) = (Sha256::new(), 0_u64);
        while let Some(data) = self.next().await? {
            length += data.len() as u64;
            if length > most {
                let message = format!("{} is longer than {most} bytes", shown(&self.from));
                return Err(Code::SourceRefused.on(message).into());
            }
            hash.update(&data);
            file.write_all(&data).map_err(|e| broken(&e))?;
        }
        Ok((length, shared_proto::hex::encode(hash.finalize())))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let failed =
            |what: &dyn std::fmt::Display| Code::SourceUnavailable.on(format!("{}: {what}", shown(&self.from)));
        loop {
            let next = tokio::time::timeout(SILENCE_MAX, self.body.frame())
                .await
                .map_err(|_| failed(&format!("nothing has come for {SILENCE_MAX:?}")))?;
            match next.transpose().map_err(|e| failed(&format!("it broke off: {e}")))? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_asked() {
        for good in ["https://h/x", "https://h:8443/x?y=z"] {
            assert!(checked(good).is_ok(), "{good}");
        }
        let long = format!("https://h/{}", "a".repeat(ADDRESS_MAX));
        for bad in ["http://h/x", "file:///etc/passwd", "ftp://h/x", "/x", "", "https:///x", "https://u:p@h/x", &long] {
            assert_eq!(checked(bad).expect_err(bad).code, Code::SourceRefused, "{bad}");
        }
    }

    #[test]
    fn where_addresses_lead() {
        let from: Uri = "https://h:8443/v1/a/b?x".parse().expect("an address");
        for (to, expected) in [
            ("https://other/x", "https://other/x"),
            ("http://other/x", "http://other/x"),
            ("file:///x", "file:///x"),
            ("/x", "https://h:8443/x"),
            ("//other/x", "https://other/x"),
            ("./x", "https://h:8443/v1/a/x"),
            ("x", "https://h:8443/v1/a/x"),
        ] {
            assert_eq!(relative(&from, to), expected, "{to}");
        }
    }

    #[test]
    fn addresses_of_clouds_are_not_asked() {
        for bad in ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254", "0.0.0.0", "224.0.0.1"] {
            let ip = bad.parse().expect("an address");
            assert_eq!(allowed(ip, bad).expect_err(bad).code, Code::SourceRefused, "{bad}");
        }
        assert!(allowed("10.1.2.3".parse().expect("an address"), "").is_ok());
    }
}
