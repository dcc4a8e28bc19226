//! One connection: an HTTP/2 server, though we dialled it. Session first, operations after; nothing else is answered.

use super::dial::Dialled;
use super::session::{Conversation, Ended, SessionService};
use crate::operations::SessionOperations;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use shared_proto::bounds::FRAME_MAX;
use shared_proto::failure::{Code, Failure};
use shared_proto::flow::WINDOW_MAX;
use shared_proto::v1::session_server::SessionServer;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

/// What HTTP/2's stream window has beside the largest credit: credit binds, never the window. Framing, and one message.
const SLACK: u64 = 128 * 1024;
/// Streams beside the operations: the session, and what is turned away.
const STREAMS_SPARE: u32 = 16;
/// What is buffered for one stream before we stop making more. All streams together are held by the send share.
const SEND_BUFFER: usize = 256 * 1024;
/// HTTP/2's own PING, as a second net under the session's round trips.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(8);
/// Decoded request headers, bytes.
const HEADERS_MAX: u32 = 16 * 1024;
/// What the connection gets to close in good order once all is said.
const CLOSING: Duration = Duration::from_secs(2);

/// Chooses the service by path.
#[derive(Clone)]
struct Routes {
    session: SessionServer<SessionService>,
    operations: SessionOperations,
}

// === impl Routes ===

impl hyper::service::Service<Request<Incoming>> for Routes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let path = request.uri().path();
        if path == crate::operations::RUN_PATH {
            let operations = self.operations.clone();
            Box::pin(async move { Ok(operations.run(request).await) })
        } else if path.starts_with("/runner.v1.Session/") {
            let mut session = self.session.clone();
            Box::pin(async move { session.call(request).await })
        } else {
            Box::pin(async move { Ok(tonic::Status::unimplemented("the runner has no such service").into_http()) })
        }
    }
}

/// Serves until the connection or the session is over.
pub(super) async fn serve<S>(
    connected: Dialled<S>,
    conversation: Conversation,
    operations: SessionOperations,
    budget: u64,
    max_operations: u32,
    drain: CancellationToken,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Dialled { stream, refusal, .. } = connected;
    let over = operations.clone();
    let (session, opened) = SessionService::new();
    let routes =
        Routes { session: SessionServer::new(session).max_decoding_message_size(SESSION_MESSAGE_MAX), operations };
    let window = u32::try_from(WINDOW_MAX + SLACK).unwrap_or(u32::MAX / 2);
    let streams = max_operations.saturating_add(STREAMS_SPARE);
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_frame_size(FRAME_MAX)
        .initial_stream_window_size(window)
        // unread bytes of one stream must never hold up another: credit bounds what all may send
        .initial_connection_window_size(u32::try_from(budget).unwrap_or(u32::MAX / 2).max(window))
        .max_concurrent_streams(streams)
        // a cancel may come together with its request; the default of 20 would end the tunnel over Ctrl-C
        .max_pending_accept_reset_streams(streams as usize)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADERS_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), routes);
    tokio::pin!(connection);
    let mut conversation = Talking(tokio::spawn(conversation.run(opened)));
    let mut leaving = false;
    let ended = loop {
        tokio::select! {
            result = connection.as_mut() => {
                over.over();
                let why = match result {
                    Ok(()) => "the control plane closed the connection".to_owned(),
                    Err(e) => format!("the connection ended: {}", causes(&e)),
                };
                // the session may know better why, and does so at once
                let said = tokio::time::timeout(Duration::from_millis(100), &mut conversation.0).await;
                return match (refusal(), said) {
                    (Some(refused), _) => Ended::Refused(refused, None),
                    (None, Ok(Ok(Ended::Failed(f)))) if f.code == Code::ConnectionLost => Ended::Failed(lost(why)),
                    (None, Ok(Ok(ended))) => ended,
                    (None, _) => Ended::Failed(lost(why)),
                };
            }
            ended = &mut conversation.0 => {
                break ended.unwrap_or_else(|_| Ended::Failed(Code::Internal.on("the session's task failed")));
            }
            () = drain.cancelled(), if !leaving => {
                leaving = true;
                // GOAWAY: streams in flight go on, new ones are refused by HTTP/2 itself
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    // over: what is still in flight has had its grace, or its connection is of no use
    if matches!(ended, Ended::Drained | Ended::Refused(..)) {
        // or it would keep the connection open for all of its time
        over.over();
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(CLOSING, connection.as_mut()).await;
    }
    ended
}

/// A message of the session's conversation, bytes.
const SESSION_MESSAGE_MAX: usize = 64 * 1024;

/// The conversation's task, which ends with the connection.
struct Talking(tokio::task::JoinHandle<Ended>);

impl Drop for Talking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn lost(why: String) -> Failure {
    Code::ConnectionLost.on(why).next("Nothing to do: the runner dials again.")
}

/// An error with its causes, on one line.
fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
