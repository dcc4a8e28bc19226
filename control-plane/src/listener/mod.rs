//! The one port that runners dial: tunnel and execution service, kept apart by ALPN after mutual TLS.
//!
//! Everyone may come back at once. So handshakes in progress are bounded, what exceeds the bound is turned away before the costly
//! part, and a handshake that does not get on is cut. This module must never decide who a peer is: it hands the chain on that TLS
//! verified.

#[cfg(test)]
mod tests;

use crate::execution::Execution;
use crate::pki::accept;
use crate::sessions::Sessions;
use rustls_pki_types::CertificateDer;
use shared_proto::ahead::ReadAhead;
use shared_proto::bounds::CONNECT_DEADLINE;
use shared_proto::{EXECUTION_ALPN, TUNNEL_ALPN};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// Connections between their first byte and their welcome, at once.
const HANDSHAKES_MAX: usize = 128;
/// Connections of the execution service at once; those of the tunnel are bounded by its sessions.
const EXECUTION_MAX: usize = 10_000;
/// How long sent bytes may stay unacknowledged before the kernel gives the peer up, milliseconds.
const USER_TIMEOUT_MS: u32 = 10_000;
/// The pause after a failed accept: it mostly means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the port leads to.
#[derive(Clone)]
pub struct Listener {
    tls: TlsAcceptor,
    sessions: Sessions,
    execution: Execution,
    handshakes: Arc<Semaphore>,
    executions: Arc<Semaphore>,
}

// === impl Listener ===

impl Listener {
    /// A port that leads to these two.
    pub fn new(tls: Arc<rustls::ServerConfig>, sessions: Sessions, execution: Execution) -> Self {
        Self {
            tls: TlsAcceptor::from(tls),
            sessions,
            execution,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            executions: Arc::new(Semaphore::new(EXECUTION_MAX)),
        }
    }

    /// Accepts until `stop`. Connections that are open then go on: the sessions' drain and the program's end see to them.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a runner's connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = self.handshakes.clone().try_acquire_owned() else {
                tracing::debug!(%peer, "turned away: {HANDSHAKES_MAX} handshakes in progress");
                continue;
            };
            let (this, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move { this.connection(stream, peer, permit, stop).await });
        }
    }

    async fn connection(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        stop: CancellationToken,
    ) {
        if let Err(error) = prepare(&stream) {
            return tracing::info!(%peer, %error, "a runner's connection ended at once");
        }
        let stream = match tokio::time::timeout(CONNECT_DEADLINE, accept(&self.tls, ReadAhead::new(stream))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(failure)) => {
                return tracing::warn!(
                    %peer, code = failure.code.as_str(), detail = failure.message, next_step = failure.next_step,
                    "a runner's TLS handshake failed"
                );
            }
            Err(_) => return tracing::info!(%peer, "TLS handshake not done within the deadline"),
        };
        let chain = chain(&stream);
        match stream.get_ref().1.alpn_protocol() {
            Some(alpn) if alpn == TUNNEL_ALPN => {
                self.sessions.serve(stream, chain, &peer.to_string(), permit).await;
            }
            Some(alpn) if alpn == EXECUTION_ALPN => {
                drop(permit);
                let Ok(_place) = self.executions.clone().try_acquire_owned() else {
                    return tracing::warn!(%peer, "turned away: {EXECUTION_MAX} connections of the execution service");
                };
                self.execution.serve(stream, chain, &peer.to_string(), stop).await;
            }
            _ => tracing::info!(%peer, "TLS client asked for neither the tunnel nor the execution service"),
        }
    }
}

/// Small messages go out at once, and a peer that is gone is found.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::TcpUserTimeout, &USER_TIMEOUT_MS)?;
    Ok(())
}

fn chain(stream: &TlsStream<ReadAhead<TcpStream>>) -> Vec<CertificateDer<'static>> {
    let presented = stream.get_ref().1.peer_certificates().unwrap_or_default();
    presented.iter().map(|c| c.clone().into_owned()).collect()
}
