//! The control plane's API as a client sees it: JSON requests, streams, server-sent events and WebSockets, each over a connection
//! of its own, so that dropping one cancels it; what is passed on to AWS shares connections, one at a time. TLS trusts the configured CA
//! and nothing else; plain HTTP goes to loopback only. The token travels in one header and appears nowhere else.

mod connect;
pub(crate) mod job_events;
pub(crate) mod sse;
mod status;
#[cfg(test)]
pub(crate) mod tests;
mod websocket;

pub(crate) use connect::Endpoint;
pub(crate) use status::failure as status_failure;
pub(crate) use websocket::Socket;

use crate::config::Context;
use crate::stop::Done;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use serde_json::Value;
use shared_proto::aws;
use shared_proto::failure::{Code, Failure};
use shared_proto::lines::Cutter;
use shared_proto::secret::Secret;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::io::ReaderStream;

/// How long what takes effect once is sent again where its answer was lost: a control plane that is started again is back by then.
const AGAIN: Duration = Duration::from_secs(30);
/// Between two tries of that.
const PAUSE: Duration = Duration::from_millis(500);
/// How long an answer's head may take: the API's own deadline for one document is 30 s.
const ANSWER: Duration = Duration::from_secs(60);
/// Connections that are kept while nobody sends on them.
const KEPT: usize = 16;
/// How long each; the control plane closes them after 30 s.
const IDLE: Duration = Duration::from_secs(20);
/// The largest document that is read, bytes.
const DOCUMENT_MAX: usize = 128 * 1024 * 1024;
/// The largest error that is read, bytes.
const ERROR_MAX: usize = 256 * 1024;

/// The header with an operation's id, of each answer to one.
const OPERATION_HEADER: &str = "runner-operation";
/// The one that tells a failure as its body does, for answers that have none.
const ERROR_HEADER: &str = "runner-error";

/// What is sent along.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// Connections for requests that are passed on, one after the other: clients of AWS send many, and each connection costs a TLS handshake.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<Idle>>>);
/// One of them, and since when nobody has sent on it.
type Idle = (SendRequest<Body>, Instant);

/// A control plane and a user.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    endpoint: Endpoint,
    token: Secret,
}

// === impl Client ===

impl Client {
    /// For this context.
    ///
    /// # Errors
    /// The endpoint or its CA is not well formed.
    pub(crate) fn new(context: &Context) -> Result<Self, Failure> {
        Ok(Self { endpoint: Endpoint::new(&context.endpoint, context.ca.as_deref())?, token: context.token.clone() })
    }
    /// Where it is: `host:port`.
    pub(crate) fn shown(&self) -> String {
        self.endpoint.authority()
    }
    /// A document.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json(Method::GET, path, None).await
    }
    /// A document, or nothing where the API says `not_found`.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<Value>, Failure> {
        match self.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(failure) if failure.code == Code::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }
    /// Sends a document, gives the answer.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json(Method::POST, path, Some(body)).await
    }
    /// Sends a document that makes something, under a key of its own by which the API knows it again: where the connection ends before the
    /// answer it is sent again, and what it made is made once.
    pub(crate) async fn post_once(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let random = || getrandom::u64().map_err(|e| Code::Internal.on(format!("no randomness: {e}")));
        let key = format!("{:016x}{:016x}", random()?, random()?);
        let start = tokio::time::Instant::now();
        let mut told = false;
        loop {
            match self.json_with(Method::POST, path, Some(body), Some(&key)).await {
                Err(failure) if failure.code == Code::DialFailed && start.elapsed() < AGAIN => {
                    if !std::mem::replace(&mut told, true) {
                        eprintln!("· the control plane's answer was lost ({}), asking again", failure.message);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }
    /// Replaces a document.
    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json(Method::PUT, path, Some(body)).await
    }
    /// Removes one.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.json(Method::DELETE, path, None).await
    }
    /// Removes one, as the document says.
    pub(crate) async fn delete_with(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json(Method::DELETE, path, Some(body)).await
    }
    /// Whether there is something at this path.
    pub(crate) async fn exists(&self, path: &str) -> Result<bool, Failure> {
        let response = self.send(self.request(Method::HEAD, path), empty()).await?;
        match response.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => Err(by_status(status, "the control plane refused")),
        }
    }
    /// Sends bytes of a known length.
    pub(crate) async fn upload(&self, path: &str, size: u64, body: Body) -> Result<(), Failure> {
        let request = self
            .request(Method::PUT, path)
            .header(header::CONTENT_TYPE, "application/gzip")
            .header(header::CONTENT_LENGTH, size);
        let response = self.send_within(request, body, Duration::from_secs(3600)).await?;
        accepted(response).await.map(|_| ())
    }
    /// A stream; the answer's head has come and is a success.
    pub(crate) async fn stream(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = self.request(Method::GET, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        accepted(self.send(request, empty()).await?).await
    }

    /// Passes a request to AWS on, whose headers stand among these under names of their own. How long it takes is its client's affair.
    ///
    /// # Errors
    /// Whatever came before an answer of AWS.
    pub(crate) async fn pass(
        &self,
        kept: &Kept,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = self.request(method, path);
        if let Some(own) = request.headers_mut() {
            *own = headers;
        }
        let mut request = self.whole(request, body)?;
        let response = loop {
            let (mut sender, is_new) = match kept.take() {
                Some(sender) => (sender, false),
                None => (self.open().await?, true),
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    kept.back(sender);
                    break response;
                }
                // it was closed while nobody used it, and nothing of this was sent
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(cut(&self.endpoint, error.error())),
                },
            }
        };
        let of_aws = response.headers().get(aws::headers::ANSWER).is_some_and(|v| v == aws::headers::OF_AWS);
        if of_aws {
            return Ok(response);
        }
        let status = response.status();
        let failed = accepted(response).await.err();
        Err(failed.unwrap_or_else(|| by_status(status, "the control plane gave no answer of AWS")))
    }

    async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        self.json_with(method, path, body, None).await
    }
    async fn json_with(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Value, Failure> {
        // an empty name in it would be another path
        let named = path.split('?').next().unwrap_or_default();
        if named.ends_with('/') || named.contains("//") {
            return Err(Code::InvalidArgument.on("a name is empty").next("Give the name of what is meant."));
        }
        let mut headers = vec![("accept", "application/json")];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        let text = match body {
            Some(value) => {
                headers.push(("content-type", "application/json"));
                Some(serde_json::to_vec(value).map_err(|e| Code::Internal.on(e.to_string()))?)
            }
            None => None,
        };
        self.document(method, path, &headers, text).await
    }
    /// A request with these headers and this body, answered with a document.
    pub(crate) async fn document(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Value, Failure> {
        let mut request = self.request(method, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(empty, full);
        let response = accepted(self.send(request, body).await?).await?;
        let status = response.status();
        let read = Limited::new(response.into_body(), DOCUMENT_MAX).collect();
        let bytes = tokio::time::timeout(ANSWER, read)
            .await
            .map_err(|_| late())?
            .map_err(|e| cut(&self.endpoint, e.as_ref()))?
            .to_bytes();
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| {
            Code::Internal
                .on(format!("the control plane's answer ({status}) to {path} is not JSON"))
                .next("Check that the endpoint is a control plane's API, and not something between.")
        })
    }
    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("/api/v1{path}"))
    }
    async fn send(&self, request: http::request::Builder, body: Body) -> Result<Response<Incoming>, Failure> {
        self.send_within(request, body, ANSWER).await
    }
    async fn send_within(
        &self,
        request: http::request::Builder,
        body: Body,
        limit: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let request = self.whole(request, body)?;
        let mut sender = self.open().await?;
        let lost = |e: hyper::Error| cut(&self.endpoint, &e);
        tokio::time::timeout(limit, sender.send_request(request)).await.map_err(|_| late())?.map_err(lost)
    }
    /// With the headers that every request has.
    fn whole(&self, request: http::request::Builder, body: Body) -> Result<Request<Body>, Failure> {
        // `Bearer` and a token of checked form: always a header's value, and marked so that nothing prints it
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", self.token.expose()))
            .map_err(|_| Code::InvalidArgument.on("the token is not a header's value"))?;
        bearer.set_sensitive(true);
        request
            .header(header::HOST, self.endpoint.authority())
            .header(header::USER_AGENT, concat!("runnerctl/", env!("CARGO_PKG_VERSION")))
            // without this no trailers come, and a log's outcome is in them
            .header(header::TE, "trailers")
            .header(header::AUTHORIZATION, bearer)
            .body(body)
            .map_err(|e| Code::InvalidArgument.on(format!("not a request: {e}")))
    }
    /// A new connection, which ends when its last answer's body was read or dropped and nobody will send on it.
    async fn open(&self) -> Result<SendRequest<Body>, Failure> {
        let io = hyper_util::rt::TokioIo::new(self.endpoint.connect().await?);
        let lost = |e: hyper::Error| cut(&self.endpoint, &e);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(lost)?;
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }
}

// === impl Kept ===

impl Kept {
    fn take(&self) -> Option<SendRequest<Body>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE);
        kept.pop().map(|(sender, _)| sender)
    }
    /// Once its answer was read to the end; one whose answer is dropped is closed.
    fn back(&self, mut sender: SendRequest<Body>) {
        let kept = self.0.clone();
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() < KEPT {
                    kept.push((sender, Instant::now()));
                }
            }
        });
    }
}

/// The longest line of JSON that is taken, bytes.
const LINE_MAX: usize = 4 * 1024 * 1024;

/// Reads an answer of one JSON object a line; gives the trailer with the outcome, where there is one.
///
/// # Errors
/// `connection_lost`, `internal`, and whatever `take` ends with.
pub(crate) async fn read_lines(
    answer: Response<Incoming>,
    mut take: impl FnMut(Value) -> Done,
) -> Done<Option<HeaderValue>> {
    let mut body = answer.into_body();
    let mut cutter = Cutter::new(LINE_MAX);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Code::ConnectionLost.on("the connection to the control plane was cut before the end of what it sent")
        })?;
        match frame.into_data() {
            Ok(data) => {
                let mut lines = Vec::new();
                cutter.add(&data, |line| lines.push(line));
                for line in lines.iter().filter(|line| !line.trim_ascii().is_empty()) {
                    let value = serde_json::from_slice(line)
                        .map_err(|_| Code::Internal.on("the control plane sent a line that is no JSON"))?;
                    take(value)?;
                }
            }
            Err(other) => {
                if let Ok(trailers) = other.into_trailers() {
                    return Ok(trailers.get("runner-outcome").cloned());
                }
            }
        }
    }
    Ok(None)
}

/// An answer that is a success, or the failure that it carries.
async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    let status = response.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    // what has no body, as an answer to HEAD
    let told = response.headers().get(ERROR_HEADER).and_then(|v| serde_json::from_slice::<Value>(v.as_bytes()).ok());
    // an operation has been carried out, and what answered is its target
    let is_targets = response.headers().contains_key(OPERATION_HEADER);
    let bytes = tokio::time::timeout(ANSWER, Limited::new(response.into_body(), ERROR_MAX).collect())
        .await
        .ok()
        .and_then(Result::ok)
        .map(|collected| collected.to_bytes())
        .unwrap_or_default();
    if let Some(error) = told.filter(|_| bytes.is_empty()) {
        return Err(told_error(&error));
    }
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
    Err(if is_targets && !is_json { status::in_words(status.as_u16(), &bytes) } else { error_of(status, &bytes) })
}

/// The failure in an error's body.
fn error_of(status: StatusCode, body: &[u8]) -> Failure {
    let document = serde_json::from_slice::<Value>(body).unwrap_or_default();
    if let Some(failure) = status::failure(&document, status.as_u16()) {
        return failure;
    }
    let Some(error) = document.get("error") else {
        return by_status(status, "the control plane answered without saying why");
    };
    told_error(error)
}

/// A failure as the control plane tells it.
fn told_error(error: &Value) -> Failure {
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let message = match text("message") {
        "" => "the control plane answered without saying why",
        message => message,
    };
    Failure::from_wire(text("code"), message, text("next_step"))
}

fn by_status(status: StatusCode, message: &str) -> Failure {
    let code = match status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::Conflict,
        413 => Code::TooLarge,
        429 => Code::Busy,
        400..=499 => Code::InvalidArgument,
        _ => Code::Internal,
    };
    code.on(format!("{message} ({status})"))
}

/// The connection to the control plane ended in the middle.
pub(crate) fn cut(endpoint: &Endpoint, error: &(dyn std::error::Error + 'static)) -> Failure {
    // the innermost cause says the most
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Code::DialFailed
        .on(format!("the connection to the control plane at {endpoint} ended early: {cause}"))
        .next("Check that the control plane runs, and try again.")
}

fn late() -> Failure {
    Code::DeadlineExceeded.on(format!("the control plane did not answer within {} s", ANSWER.as_secs()))
}

/// No body.
pub(crate) fn empty() -> Body {
    full(Vec::new())
}
/// A whole body.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A file from where it stands, in pieces; `sent` hears the length of each.
pub(crate) fn file_body(file: std::fs::File, sent: impl Fn(u64) + Send + Sync + 'static) -> Body {
    let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), 64 * 1024);
    let frames = pieces.map(move |piece| {
        piece.map(|bytes: Bytes| {
            sent(bytes.len() as u64);
            Frame::data(bytes)
        })
    });
    BodyExt::boxed(StreamBody::new(frames))
}

/// A path of segments and a query, percent-encoded.
pub(crate) fn path(segments: &[&str], query: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for segment in segments {
        out.push('/');
        encode(segment, &mut out);
    }
    for (i, (name, value)) in query.iter().enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        encode(name, &mut out);
        out.push('=');
        encode(value, &mut out);
    }
    out
}

fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        // a segment of dots only would be taken for a step in the path
        if byte.is_ascii_alphanumeric()
            || b"-_~".contains(&byte)
            || (byte == b'.' && !text.trim_matches('.').is_empty())
        {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}
