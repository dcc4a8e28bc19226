//! A small HTTP/1.1 client over TLS (or, to loopback, without): what the tests ask the control plane and the API server with. Its own
//! code, so that it shares no mistake with the programs under test.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// An answer, a connection or a handshake that takes longer fails.
const DEADLINE: Duration = Duration::from_secs(60);

trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}
type AnyTransport = Box<dyn Transport>;

/// A client of one server. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    tls: Option<Arc<rustls::ClientConfig>>,
    token: Option<String>,
    idle: Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: HeaderMap,
}

/// An answer whose body comes as it is read.
#[derive(Debug)]
pub struct Streaming {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    body: Incoming,
    trailers: HeaderMap,
}

/// A WebSocket.
pub struct Socket {
    inner: tokio_tungstenite::WebSocketStream<AnyTransport>,
    /// The subprotocol that the server chose.
    pub protocol: Option<String>,
    /// The headers of the server's answer.
    pub headers: HeaderMap,
}

/// The rustls provider, named wherever a configuration is made.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Roots out of PEM text.
///
/// # Errors
/// It holds none.
pub fn roots(pem: &str) -> Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.context("PEM")?)?;
    }
    ensure!(!roots.is_empty(), "no certificate in the PEM");
    Ok(roots)
}

// === impl Client ===

impl Client {
    /// One that trusts that CA and nothing else.
    ///
    /// # Errors
    /// The PEM holds no certificate.
    pub fn new(address: SocketAddr, ca_pem: &str) -> Result<Self> {
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(ca_pem)?)
            .with_no_client_auth();
        Ok(Self { address, tls: Some(Arc::new(config)), token: None, idle: Arc::default() })
    }
    /// One without TLS.
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None, token: None, idle: Arc::default() }
    }
    /// The same server with another token, on connections of its own.
    #[must_use]
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), idle: Arc::default(), ..self.clone() }
    }
    /// The same server without a token.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { token: None, idle: Arc::default(), ..self.clone() }
    }
    /// Where the server is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// Closes what is kept open.
    pub fn forget_connections(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn transport(&self) -> Result<AnyTransport> {
        let connect = async {
            let stream =
                TcpStream::connect(self.address).await.with_context(|| format!("dialling {}", self.address))?;
            stream.set_nodelay(true)?;
            Ok::<AnyTransport, anyhow::Error>(match &self.tls {
                None => Box::new(stream),
                Some(config) => Box::new(
                    tokio_rustls::TlsConnector::from(Arc::clone(config))
                        .connect(ServerName::IpAddress(self.address.ip().into()), stream)
                        .await
                        .with_context(|| format!("TLS with {}", self.address))?,
                ),
            })
        };
        tokio::time::timeout(DEADLINE, connect).await.context("connecting took too long")?
    }

    async fn connection(&self) -> Result<(SendRequest<Full<Bytes>>, bool)> {
        while let Some(kept) = { self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() } {
            if kept.is_ready() {
                return Ok((kept, true));
            }
        }
        let (sender, connection) = handshake(TokioIo::new(self.transport().await?)).await?;
        tokio::spawn(async move {
            // its failure shows at the request
            let _ = connection.await;
        });
        Ok((sender, false))
    }

    fn build(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.address.to_string());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes())?);
        }
        Ok(request.body(Full::new(body))?)
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Bytes,
    ) -> Result<(hyper::Response<Incoming>, SendRequest<Full<Bytes>>)> {
        loop {
            let (mut sender, kept) = self.connection().await?;
            let answer = sender.send_request(self.build(method, path, headers, body.clone())?).await;
            match answer {
                Ok(answer) => return Ok((answer, sender)),
                // the server closed a kept connection at that moment
                Err(_) if kept => {}
                Err(e) => return Err(e).with_context(|| format!("{method} {path}")),
            }
        }
    }

    /// Asks, and reads the whole answer.
    ///
    /// # Errors
    /// No answer; an answer of any status is none.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let body = body.into();
        let exchange = async {
            let (answer, sender) = self.send(&method, path, headers, &body).await?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.with_context(|| format!("{method} {path}: the body"))?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
            Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
        };
        tokio::time::timeout(DEADLINE, exchange).await.with_context(|| format!("{method} {path} took too long"))?
    }

    /// GET.
    ///
    /// # Errors
    /// No answer.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.request(Method::GET, path, &[], Bytes::new()).await
    }
    /// POST of JSON.
    ///
    /// # Errors
    /// No answer.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.request(Method::POST, path, &[(CONTENT_TYPE.as_str(), "application/json")], body.to_string()).await
    }
    /// PUT of JSON.
    ///
    /// # Errors
    /// No answer.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.request(Method::PUT, path, &[(CONTENT_TYPE.as_str(), "application/json")], body.to_string()).await
    }
    /// DELETE.
    ///
    /// # Errors
    /// No answer.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.request(Method::DELETE, path, &[], Bytes::new()).await
    }

    /// GET, with the body to be read piece by piece on a connection of its own; dropping it closes that.
    ///
    /// # Errors
    /// No answer.
    pub async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Result<Streaming> {
        // hop-by-hop: says that trailers are understood
        let mut all = vec![("te", "trailers")];
        all.extend_from_slice(headers);
        let (mut sender, connection) = handshake(TokioIo::new(self.transport().await?)).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let request = self.build(&Method::GET, path, &all, Bytes::new())?;
        let answer = tokio::time::timeout(DEADLINE, sender.send_request(request))
            .await
            .with_context(|| format!("GET {path} took too long"))?
            .with_context(|| format!("GET {path}"))?;
        let (parts, body) = answer.into_parts();
        Ok(Streaming { status: parts.status, headers: parts.headers, body, trailers: HeaderMap::new() })
    }

    /// Opens a WebSocket.
    ///
    /// # Errors
    /// It was refused: the message has the server's answer.
    pub async fn socket(&self, path: &str, protocol: &str) -> Result<Socket> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request()?;
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}"))?);
        }
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_str(protocol)?);
        let transport = self.transport().await?;
        match tokio::time::timeout(DEADLINE, tokio_tungstenite::client_async(request, transport)).await? {
            Ok((inner, answer)) => {
                let protocol = answer.headers().get("sec-websocket-protocol").and_then(|v| v.to_str().ok());
                Ok(Socket { inner, protocol: protocol.map(str::to_owned), headers: answer.headers().clone() })
            }
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => bail!(
                "{} {}",
                answer.status(),
                answer.body().as_ref().map_or(String::new(), |b| String::from_utf8_lossy(b).into_owned())
            ),
            Err(e) => Err(e).with_context(|| format!("the WebSocket {path}")),
        }
    }
}

// === impl Answer ===

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{} {}", self.status, self.text()))
    }
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    /// The body as JSON, where the status is a good one.
    ///
    /// # Errors
    /// It is not; the message has the body.
    pub fn ok(&self) -> Result<Value> {
        ensure!(self.status.is_success(), "{} {}", self.status, self.text());
        if self.body.is_empty() { Ok(Value::Null) } else { self.json() }
    }
    /// The failure code of an API's error; empty where there is none.
    pub fn code(&self) -> String {
        self.json().ok().and_then(|v| v["error"]["code"].as_str().map(str::to_owned)).unwrap_or_default()
    }
}

// === impl Streaming ===

impl Streaming {
    /// The next piece; `None` after the last.
    ///
    /// # Errors
    /// The connection failed before the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            match frame.context("the body")?.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.trailers = trailers;
                    }
                }
            }
        }
        Ok(None)
    }
    /// The rest.
    ///
    /// # Errors
    /// The connection failed before the end.
    pub async fn rest(&mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
    /// Reads until that many bytes have come, or the end.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn at_least(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < bytes {
            match self.next().await? {
                Some(piece) => all.extend_from_slice(&piece),
                None => break,
            }
        }
        Ok(all)
    }
    /// After the last piece: the outcome that the trailer carries.
    ///
    /// # Errors
    /// There is none.
    pub fn outcome(&self) -> Result<Value> {
        let text = self.trailers.get("runner-outcome").context("the answer has no trailer runner-outcome")?;
        Ok(serde_json::from_slice(text.as_bytes())?)
    }
}

// === impl Socket ===

impl Socket {
    /// Sends a binary message.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send(&mut self, first: u8, rest: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(rest.len() + 1);
        message.push(first);
        message.extend_from_slice(rest);
        Ok(self.inner.send(Message::Binary(message.into())).await?)
    }
    /// Sends any message.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send_message(&mut self, message: Message) -> Result<()> {
        Ok(self.inner.send(message).await?)
    }
    /// The next binary message: its first byte and the rest; `None` after the close.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn next(&mut self) -> Result<Option<(u8, Bytes)>> {
        loop {
            match self.inner.next().await {
                None | Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Ok(Message::Binary(message))) => {
                    ensure!(!message.is_empty(), "an empty binary message");
                    return Ok(Some((message[0], message.slice(1..))));
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(e.into()),
            }
        }
    }
    /// Closes it.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn close(&mut self) -> Result<()> {
        Ok(self.inner.close(None).await?)
    }
}
