//! HTTP/2 on the connection that a runner dialled, with this end as the client: what the generated gRPC clients run on.
//!
//! The settings here are the ones that keep flow control out of HTTP/2's hands: the stream's window is larger than any window that
//! `shared_proto::flow` grants, the connection's is the whole budget, so neither ever binds.

use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use shared_proto::{bounds, flow};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

/// HTTP/2's own PING, the second net under the session's round trips.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long an answer to it may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(8);
/// What one stream may have in the send buffer, bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// The largest list of headers that is taken, bytes: a few names and one message.
const HEADERS_MAX: u32 = 16 * 1024;
/// Cancelled streams that are remembered, so that what was on its way is recognised as theirs.
const RESETS_REMEMBERED: usize = 1024;
/// Beyond the largest window that is granted: message headers, grants and the outcome cost no credit.
const WINDOW_SLACK: u64 = 512 * 1024;

/// The origin that requests name; it is nobody's address, the connection is what routes them.
pub(crate) fn origin() -> http::Uri {
    http::Uri::from_static("http://runner.tunnel")
}

/// One connection's client end. Clones share the connection.
#[derive(Clone)]
pub(crate) struct Channel {
    inner: SendRequest<tonic::body::Body>,
}

/// Drives the connection. Dropping it cuts the connection and everything on it.
pub(crate) struct Driver {
    task: JoinHandle<Option<hyper::Error>>,
}

/// Starts HTTP/2 as its client.
///
/// # Errors
/// HTTP/2's own, where the peer does not speak it.
pub(crate) async fn handshake<T>(io: T, budget: u64, operations: u32) -> Result<(Channel, Driver), hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let window = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX).min(i32::MAX as u32);
    let (inner, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_frame_size(bounds::FRAME_MAX)
        .initial_stream_window_size(window(flow::WINDOW_MAX + WINDOW_SLACK))
        .initial_connection_window_size(window(budget.max(flow::WINDOW_MAX + WINDOW_SLACK)))
        .initial_max_send_streams(operations as usize + 1)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADERS_MAX)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        // output that was on its way when an operation was cancelled is an error of nobody's: counting it would end
        // the whole tunnel after a thousand cancelled operations
        .max_local_error_reset_streams(None)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(io))
        .await?;
    let task = tokio::spawn(async move { connection.await.err() });
    Ok((Channel { inner }, Driver { task }))
}

// === impl Channel ===

impl Channel {
    /// Whether nothing new can be sent: the connection is gone, or the runner said GOAWAY.
    pub(crate) fn closed(&self) -> bool {
        self.inner.is_closed()
    }
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.inner.send_request(request))
    }
}

// === impl Driver ===

impl Driver {
    /// Waits until the connection is gone; says why, in words.
    pub(crate) async fn gone(&mut self) -> String {
        match (&mut self.task).await {
            Ok(None) => "the runner closed the connection".to_owned(),
            Ok(Some(e)) => {
                use std::error::Error as _;
                match e.source() {
                    Some(source) => format!("{e}: {source}"),
                    None => e.to_string(),
                }
            }
            Err(e) => format!("the connection's task ended: {e}"),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}
