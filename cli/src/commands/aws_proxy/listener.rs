//! The proxy: CONNECT to hosts of AWS, TLS as that host, and each request on it passed on. On loopback, for whoever has its password.
//!
//! ```text
//!   client ─ CONNECT host:443, password ─▶ a host of AWS? ─▶ TLS, throw-away CA ─ request ─▶ `request` ─▶ the control plane's API
//!                                             └─ no: 403, and why
//! ```

use super::ca::Ca;
use super::keys::Keys;
use super::request::Passing;
use crate::client::{Body, empty, full};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use shared_proto::aws::Host;
use shared_proto::failure::{Code, Failure};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// Connections of clients at once; the next ones wait. Clients of S3 open some ten each.
const CONNECTIONS: usize = 256;
/// How long a client may take for the head of a request, and may stay idle.
const HEAD: Duration = Duration::from_secs(120);
/// How long a client's TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What is read of a request before its head is whole, bytes.
const HEAD_MAX: usize = 128 * 1024;
/// The pause after a failed accept: it mostly means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The proxy; dropping it ends it and what goes through it.
pub(super) struct Proxy {
    /// Where it listens.
    pub(super) address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

/// What every connection needs.
struct Shared {
    ca: Arc<Ca>,
    keys: Arc<Keys>,
    passing: Arc<Passing>,
}

// === impl Proxy ===

impl Proxy {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// `internal`: the system gives no port.
    pub(super) async fn start(ca: Arc<Ca>, keys: Arc<Keys>, passing: Passing) -> Result<Self, Failure> {
        let unbound = |e: std::io::Error| Code::Internal.on(format!("no port on 127.0.0.1: {e}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(unbound)?;
        let address = listener.local_addr().map_err(unbound)?;
        let shared = Arc::new(Shared { ca, keys, passing: Arc::new(passing) });
        let task = tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(CONNECTIONS));
            // dropped with this task, and so are the connections
            let mut connections = tokio::task::JoinSet::new();
            loop {
                // never closed
                let place = places.clone().acquire_owned().await;
                while connections.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let shared = shared.clone();
                        connections.spawn(async move {
                            serve(stream, shared).await;
                            drop(place);
                        });
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        Ok(Self { address, _task: AbortOnDropHandle::new(task) })
    }
}

/// One connection: a CONNECT, and what goes through it.
async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let (told, mut asked) = tokio::sync::mpsc::channel(1);
    let service = service_fn(|request: Request<Incoming>| {
        let (shared, told) = (shared.clone(), told.clone());
        async move { Ok::<_, Infallible>(connect(&shared, request, &told)) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // how a client's connection ends is the client's affair
    let _ = connection.await;
    if let Ok((host, upgrade)) = asked.try_recv() {
        through(&host, upgrade, &shared).await;
    }
}

type Connected = (String, hyper::upgrade::OnUpgrade);

/// Answers a request to the proxy itself.
fn connect(
    shared: &Shared,
    mut request: Request<Incoming>,
    told: &tokio::sync::mpsc::Sender<Connected>,
) -> Response<Body> {
    if !shared.keys.admits(request.headers().get(header::PROXY_AUTHORIZATION).map(HeaderValue::as_bytes)) {
        let mut response =
            said(StatusCode::PROXY_AUTHENTICATION_REQUIRED, "this proxy is for another program's clients\n");
        response
            .headers_mut()
            .insert(header::PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"runnerctl aws\""));
        return response;
    }
    if request.method() != Method::CONNECT {
        return said(
            StatusCode::FORBIDDEN,
            "runnerctl aws: only CONNECT to hosts of AWS is served here, and nothing without TLS\n",
        );
    }
    let authority = request.uri().authority().map(|a| a.as_str().to_ascii_lowercase()).unwrap_or_default();
    let (host, port) = authority.rsplit_once(':').unwrap_or((&authority, "443"));
    let refused = match Host::parse(host) {
        Ok(_) if port == "443" => None,
        Ok(_) => Some("only the port 443 of AWS' hosts is served".to_owned()),
        Err(failure) => Some(format!("{} ({})", failure.message, failure.next_step)),
    };
    if let Some(why) = refused {
        // clients show nothing of a proxy's answer
        crate::output::remark(&format!("{host}: {why}"));
        return said(StatusCode::FORBIDDEN, &format!("runnerctl aws: {why}\n"));
    }
    if told.try_send((host.to_owned(), hyper::upgrade::on(&mut request))).is_err() {
        return said(StatusCode::BAD_REQUEST, "runnerctl aws: one CONNECT on a connection\n");
    }
    Response::new(empty())
}

/// What goes through a CONNECT: TLS as that host, and requests to it.
async fn through(host: &str, upgrade: hyper::upgrade::OnUpgrade, shared: &Shared) {
    let Ok(upgraded) = upgrade.await else { return };
    let config = match shared.ca.host(host) {
        Ok(config) => config,
        Err(failure) => {
            eprintln!("· {failure}");
            return;
        }
    };
    let handshake = TlsAcceptor::from(config).accept(TokioIo::new(upgraded));
    // a client that does not trust the CA says so itself
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, handshake).await else { return };
    let service = service_fn(|request: Request<Incoming>| async move {
        Ok::<_, Infallible>(shared.passing.pass(host, request).await)
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn said(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(full(why.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
