//! The execution service: hands out jobs and takes their events. Ordinary gRPC over mutual TLS, with the runner as its client and
//! an API key in the metadata.
//!
//! It must never act on what a call says of itself: organization and runner are those of the connection's certificate, and a job
//! is touched only under its newest fencing token by the instance that has it.

mod archives;
mod jobs;
#[cfg(test)]
mod model;
mod service;
mod streams;
#[cfg(test)]
mod tests;
mod waiting;
mod work;

pub use archives::{ArchiveHash, Archives};
pub use jobs::{Change, Jobs};
pub use waiting::WaitsFor;

use crate::sessions::{Registry, Sessions, Verified};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use service::Service;
use shared_proto::api_key::KeyDigest;
use shared_proto::v1::execution_server::ExecutionServer;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// The largest request of a runner, bytes: a job that it presents, or a report with its events and their tags.
const REQUEST_MAX: usize = shared_proto::bounds::JOB_REQUEST_MAX + 64 * 1024;
/// Calls of one connection at once.
const CALLS_MAX: u32 = 128;
/// HTTP/2's PING, so that a runner that is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long an answer to it may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(8);
/// What one call may have in the send buffer, bytes.
const SEND_BUFFER: usize = 512 * 1024;
/// The largest list of headers that is taken, bytes.
const HEADERS_MAX: u32 = 16 * 1024;
/// How long a connection may take to prove who it is: a certificate alone, which may be a revoked one, holds none.
const PROOF: Duration = Duration::from_secs(15);
/// How long calls may take to end once the connection is told to close.
const CLOSING: Duration = Duration::from_secs(1);

/// The service. Cloning is cheap.
#[derive(Clone)]
pub struct Execution {
    jobs: Jobs,
    registry: Arc<dyn Registry>,
    server: ExecutionServer<Service>,
}

/// Who is at the other end of one connection.
pub(crate) struct Peer {
    chain: Vec<CertificateDer<'static>>,
    address: String,
    /// Who it proved to be, and with which API key. The five steps are done once for a connection, and again after a revocation.
    known: Mutex<Option<(KeyDigest, Verified)>>,
    /// Cancelled when the connection is to end.
    closing: CancellationToken,
}

// === impl Execution ===

impl Execution {
    /// A service for these jobs. An instance whose session another process has gets no work.
    pub fn new(jobs: Jobs, sessions: Sessions, registry: Arc<dyn Registry>) -> Self {
        let server = ExecutionServer::new(Service::new(jobs.clone(), sessions, registry.clone()))
            .max_decoding_message_size(REQUEST_MAX);
        Self { jobs, registry, server }
    }

    /// Serves one connection until it ends or `stop`.
    pub async fn serve<T>(&self, io: T, chain: Vec<CertificateDer<'static>>, peer: &str, stop: CancellationToken)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let closing = stop.child_token();
        let peer =
            Arc::new(Peer { chain, address: peer.to_owned(), known: Mutex::new(None), closing: closing.clone() });
        let mut revoked = self.jobs.store().revocations();
        let (server, caller) = (self.server.clone(), peer.clone());
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(CALLS_MAX)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEADERS_MAX)
            .serve_connection(
                TokioIo::new(io),
                service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                    request.extensions_mut().insert(caller.clone());
                    tower_service::Service::call(&mut server.clone(), request)
                }),
            );
        tokio::pin!(connection);
        let proof = tokio::time::sleep(PROOF);
        tokio::pin!(proof);
        let mut proven = false;
        loop {
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(peer = peer.address, %error, "a connection of the execution service broke off");
                    }
                    return;
                }
                () = closing.cancelled() => break,
                () = &mut proof, if !proven => {
                    proven = peer.known.lock().await.is_some();
                    if !proven {
                        tracing::info!(peer = peer.address, "a connection of the execution service proved no runner");
                        closing.cancel();
                        break;
                    }
                }
                runner = revoked.recv() => match runner {
                    Ok(runner) => self.check_again(&peer, Some(&runner)).await,
                    Err(RecvError::Lagged(_)) => self.check_again(&peer, None).await,
                    Err(RecvError::Closed) => break,
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(CLOSING, connection).await;
    }

    /// Ends the connection where its runner does not stand any more.
    async fn check_again(&self, peer: &Peer, runner: Option<&str>) {
        let mut known = peer.known.lock().await;
        if let Some((_, who)) = &*known
            && runner.is_none_or(|runner| runner == who.runner)
            && self.registry.standing(who).await.is_err()
        {
            *known = None;
            peer.closing.cancel();
        }
    }
}
