//! The API's port: accept, TLS, HTTP/1.1 and HTTP/2. It must never hold more connections than the configuration says.

use axum::Router;
use axum::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use nix::sys::socket::{setsockopt, sockopt};
use shared_proto::ahead::ReadAhead;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// The TLS handshake's deadline.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// TLS handshakes at once: the costly part. The next ones wait, as connections that are counted already, no longer than a handshake may
/// take; a script that opens hundreds at once is served.
const HANDSHAKES_MAX: usize = 64;
/// How long a request's head may take, and how long an idle connection stays.
const HEAD: Duration = Duration::from_secs(30);
/// All headers of a request together with its path, bytes: a command of exec is in the path.
const HEADERS_MAX: usize = 128 * 1024;
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 1024;
/// What one HTTP/2 stream may have in the send buffer, bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// Between two HTTP/2 pings, and the answer's deadline.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long sent bytes may stay unacknowledged until the client counts as gone, milliseconds. A client that does not read
/// acknowledges all the same.
const USER_TIMEOUT_MS: u32 = 30_000;
/// What the kernel takes of a connection before it can send it, bytes: more would only hide from flow control that a client does not read.
const NOT_SENT_MAX: u32 = 128 * 1024;
/// The pause after a failed accept: it mostly means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The API's port, bound.
pub struct ApiListener {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

// === impl ApiListener ===

impl ApiListener {
    /// Serves `router` on a bound port; without `tls` in plain HTTP.
    pub fn new(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        router: Router,
        connections: usize,
    ) -> Self {
        Self {
            listener,
            tls: tls.map(TlsAcceptor::from),
            router,
            connections: Arc::new(Semaphore::new(connections)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        }
    }

    /// Serves until `stop`, then waits until the requests in progress are done. Streams end when what they show ends.
    pub async fn serve(self, stop: CancellationToken) {
        let graceful = GracefulShutdown::new();
        loop {
            let (stream, peer) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "accepting an API connection failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let Ok(place) = self.connections.clone().try_acquire_owned() else {
                tracing::debug!(%peer, "turned away: as many API connections as allowed");
                continue;
            };
            let place = ConnectionPlace { _permit: Arc::new(place) };
            let watcher = graceful.watcher();
            let router = self.router.clone();
            match &self.tls {
                None => {
                    tokio::spawn(async move {
                        if prepare(&stream, peer) {
                            connection(stream, false, router, watcher, place, peer).await;
                        }
                    });
                }
                Some(tls) => {
                    let (tls, handshakes) = (tls.clone(), self.handshakes.clone());
                    tokio::spawn(async move {
                        let Ok(Ok(handshake)) = tokio::time::timeout(HANDSHAKE, handshakes.acquire_owned()).await
                        else {
                            return tracing::debug!(%peer, "turned away: {HANDSHAKES_MAX} TLS handshakes in progress");
                        };
                        if prepare(&stream, peer) {
                            match tokio::time::timeout(HANDSHAKE, tls.accept(ReadAhead::new(stream))).await {
                                Ok(Ok(stream)) => {
                                    drop(handshake);
                                    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                                    connection(stream, http2, router, watcher, place, peer).await;
                                }
                                Ok(Err(error)) => {
                                    tracing::debug!(%peer, %error, "TLS handshake of an API client failed")
                                }
                                Err(_) => tracing::debug!(%peer, "TLS handshake of an API client not done in time"),
                            }
                        }
                    });
                }
            }
        }
        drop(self.listener);
        graceful.shutdown().await;
    }
}

/// The place of a connection among those that are allowed; in every request's extensions, for what outlives HTTP: WebSockets.
#[derive(Clone)]
pub(super) struct ConnectionPlace {
    _permit: Arc<OwnedSemaphorePermit>,
}

async fn connection<S>(
    stream: S,
    http2: bool,
    router: Router,
    watcher: Watcher,
    place: ConnectionPlace,
    peer: SocketAddr,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEADERS_MAX).max_headers(64);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADERS_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE)
        // no extended CONNECT: WebSockets come over HTTP/1.1, as browsers then do by themselves
        .keep_alive_timeout(KEEP_ALIVE);
    let began = CancellationToken::new();
    let service = service_fn({
        let began = began.clone();
        move |mut request: http::Request<hyper::body::Incoming>| {
            began.cancel();
            request.extensions_mut().insert(place.clone());
            router.clone().oneshot(request.map(Body::new))
        }
    });
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    let serving = watcher.watch(serving);
    tokio::pin!(serving);
    // the timers of HTTP begin with its first byte
    let ended = tokio::select! {
        ended = &mut serving => ended,
        beginning = tokio::time::timeout(HEAD, began.cancelled()) => match beginning {
            Ok(()) => serving.await,
            Err(_) => return tracing::debug!(%peer, "API connection without a request"),
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "API connection ended");
    }
}

/// Small messages go out at once, a client that is gone is found, and one that does not read is known by its socket soon.
fn prepare(stream: &TcpStream, peer: SocketAddr) -> bool {
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| setsockopt(stream, sockopt::KeepAlive, &true).map_err(Into::into))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepIdle, &20).map_err(Into::into))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepInterval, &5).map_err(Into::into))
        .and_then(|()| setsockopt(stream, sockopt::TcpUserTimeout, &USER_TIMEOUT_MS).map_err(Into::into))
        .and_then(|()| socket2::SockRef::from(stream).set_tcp_notsent_lowat(NOT_SENT_MAX));
    if let Err(error) = &prepared {
        tracing::debug!(%peer, %error, "API connection ended at once");
    }
    prepared.is_ok()
}
