//! Requests that are passed through to a target as their client made them: the body goes piece by piece, and the answer comes back as the
//! target gave it.
//!
//! It must never gather a body: the next piece is taken when the last one was.

use super::running::Running;
use super::{ApiError, StreamPlace};
use crate::operations::{Input, Output};
use axum::body::{Body, BodyDataStream};
use axum::response::Response;
use futures_util::StreamExt as _;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{HttpHead, HttpHeader, Outcome};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// All headers that are passed on, bytes: with the path they fit into an operation's first message.
const HEADERS_MAX: usize = 64 * 1024;

/// How long an outcome may take once the whole answer has come.
const OUTCOME: Duration = Duration::from_secs(10);

/// Passes a request's body on, as long as it is held.
pub(super) struct Feeding {
    _task: AbortOnDropHandle<()>,
}

// === impl Feeding ===

impl Feeding {
    /// Starts; `None` where there is no body.
    pub(super) fn start(body: Body, input: &Input) -> Option<Self> {
        if body.is_end_stream() {
            return None;
        }
        let task = tokio::spawn(feed(body.into_data_stream(), input.clone()));
        Some(Self { _task: AbortOnDropHandle::new(task) })
    }
}

/// Headers as a runner gets them.
///
/// # Errors
/// `too_large`.
pub(super) fn given<'a>(headers: impl Iterator<Item = (&'a str, &'a HeaderValue)>) -> Result<Vec<HttpHeader>, Failure> {
    let headers: Vec<_> =
        headers.map(|(name, value)| HttpHeader { name: name.to_owned(), value: value.as_bytes().to_vec() }).collect();
    let size: usize = headers.iter().map(|h| h.name.len() + h.value.len() + 8).sum();
    if size > HEADERS_MAX {
        return Err(Code::TooLarge.on(format!("the request's headers have {size} bytes, the limit is {HEADERS_MAX}")));
    }
    Ok(headers)
}

/// Waits for the head of the answer.
///
/// # Errors
/// What the operation ended with before there was one.
pub(super) async fn head(running: &mut Running) -> Result<HttpHead, ApiError> {
    loop {
        match running.next().await {
            Output::Head(head) => return Ok(head),
            Output::Outcome(outcome) if outcome.code != "ok" => {
                return Err(ApiError::from_outcome(&outcome).of_operation(running.id()));
            }
            Output::Outcome(_) => {
                let failure = Code::Internal.on("the runner ended the request without an answer");
                return Err(ApiError::from(failure).of_operation(running.id()));
            }
            // nothing comes before the head
            Output::Data(_) | Output::Stderr(_) => {}
        }
    }
}

/// The answer with its head, and no body yet.
///
/// # Errors
/// `target_failed`: a status that is none.
pub(super) fn begun(head: HttpHead, running: &Running) -> Result<Response, Failure> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(u16::try_from(head.status).unwrap_or(0))
        .map_err(|_| Code::TargetFailed.on(format!("the target answered with the status {}", head.status)))?;
    *response.headers_mut() = answered(head);
    response.headers_mut().insert(super::OPERATION_HEADER, running.header());
    Ok(response)
}

/// The answer's headers. What comes from a target must not act as a page of this host.
fn answered(head: HttpHead) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(head.headers.len() + 3);
    for HttpHeader { name, value } in head.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    headers.remove(header::SET_COOKIE);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    headers
}

/// Passes the request's body on. Where the client breaks off, so does the operation, with the answer that nobody reads.
async fn feed(mut body: BodyDataStream, input: Input) {
    while let Some(piece) = body.next().await {
        match piece {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => {
                if input.stdin(bytes).await.is_err() {
                    return;
                }
            }
            // half a body must not look like a whole one
            Err(_) => return,
        }
    }
    let _ = input.close_stdin().await;
}

/// The answer's body as it comes. One that does not end properly is one that the client sees break off.
pub(super) fn answer(running: Running, feeding: Option<Feeding>, place: StreamPlace, length: Option<u64>) -> Body {
    let state = Some((Answering { running: Some(running), left: length }, feeding, place));
    Body::from_stream(futures_util::stream::unfold(state, |state| async move {
        let (mut answering, feeding, place) = state?;
        loop {
            match answering.next().await {
                Output::Data(bytes) => return Some((Ok(bytes), Some((answering, feeding, place)))),
                Output::Head(_) | Output::Stderr(_) => {}
                Output::Outcome(outcome) if outcome.code == "ok" => return None,
                Output::Outcome(outcome) => return Some((Err(broken_off(&outcome)), None)),
            }
        }
    }))
}

/// How long the body is that an answer begins, where its head says it.
pub(super) fn length(response: &Response) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// An operation whose answer goes to a client. Once the client has all that the head has promised nobody asks for more, although the outcome is
/// yet to come: it is waited for behind the client's back, so that the record does not say that it was cancelled.
struct Answering {
    running: Option<Running>,
    /// Of the promised length what has not come; `None`: none was promised.
    left: Option<u64>,
}

// === impl Answering ===

impl Answering {
    async fn next(&mut self) -> Output {
        let Some(running) = &mut self.running else {
            return Output::Outcome(Code::Internal.on("the operation has ended").outcome());
        };
        let output = running.next().await;
        match &output {
            Output::Data(bytes) => self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64)),
            Output::Outcome(_) => self.left = None,
            Output::Head(_) | Output::Stderr(_) => {}
        }
        output
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let (Some(mut running), Some(0)) = (self.running.take(), self.left) {
            tokio::spawn(tokio::time::timeout(OUTCOME, async move {
                while !matches!(running.next().await, Output::Outcome(_)) {}
            }));
        }
    }
}

fn broken_off(outcome: &Outcome) -> std::io::Error {
    std::io::Error::other(format!("the operation ended with {}: {}", outcome.code, outcome.message))
}
