//! Light sessions: the tunnel's real handshakes and conversation, of runners that serve nothing, thousands in one process. They come back
//! as runners do, by the supervisor's own backoff.

use crate::control_plane::{ControlPlane, User};
use crate::https;
use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use runner_supervisor::tunnel::backoff::{self, Backoff, Limits};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use shared_proto::credentials::CredentialsFile;
use shared_proto::v1::control_message::Kind as Control;
use shared_proto::v1::runner_message::Kind as Said;
use shared_proto::v1::session_server::{Session, SessionServer};
use shared_proto::{PROTOCOL, TUNNEL_ALPN, VERSION, v1};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tower::Service as _;

/// Runners of one organization: the control plane takes a thousand.
const OF_ONE: usize = 900;
/// Credentials that are asked for at once.
const AT_ONCE: usize = 8;
/// As `runner.toml` has them where it says nothing.
const LIMITS: Limits =
    Limits { first: Duration::from_millis(500), early_max: Duration::from_secs(5), max: Duration::from_secs(30) };
const LASTED: Duration = Duration::from_secs(10);
/// Connecting, the handshake and the session's beginning.
const DEADLINE: Duration = Duration::from_secs(5);
/// HTTP/2's windows: there is nothing but the conversation.
const WINDOW: u32 = 64 * 1024;

/// Light runners. Dropping it cuts them all.
pub struct Fleet {
    tasks: Vec<JoinHandle<Infallible>>,
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    /// Sessions that are welcome now.
    open: watch::Sender<usize>,
    /// When each session was welcome, since the last look.
    opened: Mutex<Vec<Instant>>,
}

/// One runner.
struct Light {
    tls: tokio_rustls::TlsConnector,
    hello: v1::Hello,
    shared: Arc<Shared>,
}

/// Credentials of so many runners, made through the API, in as many organizations as that takes.
///
/// # Errors
/// The API refuses.
pub async fn credentials(control_plane: &ControlPlane, count: usize) -> Result<Vec<CredentialsFile>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let user = control_plane.organization(&format!("fleet-{}", all.len() / OF_ONE)).await?;
        let end = (all.len() + OF_ONE).min(count);
        let mut numbers = all.len()..end;
        let make = |n: usize, user: User| async move {
            let id = user.register(&format!("light-{n}")).await?;
            user.credentials(&id).await
        };
        let mut making: FuturesUnordered<_> = numbers.by_ref().take(AT_ONCE).map(|n| make(n, user.clone())).collect();
        while let Some(made) = making.next().await {
            all.push(made?);
            making.extend(numbers.next().map(|n| make(n, user.clone())));
        }
    }
    Ok(all)
}

// === impl Fleet ===

impl Fleet {
    /// Starts a runner for each of these credentials.
    ///
    /// # Errors
    /// One of them is none.
    pub fn start(address: SocketAddr, credentials: Vec<CredentialsFile>) -> Result<Self> {
        let shared = Arc::new(Shared { address, open: watch::Sender::new(0), opened: Mutex::default() });
        let roots = https::roots(&credentials.first().context("at least one")?.ca)?;
        let roots = Arc::new(roots);
        let mut tasks = Vec::with_capacity(credentials.len());
        for (n, file) in credentials.into_iter().enumerate() {
            let light = Light::new(n, &file, roots.clone(), shared.clone())?;
            tasks.push(tokio::spawn(light.keep()));
        }
        Ok(Self { tasks, shared })
    }
    /// Waits until all are welcome.
    ///
    /// # Errors
    /// They are not in time; how many are.
    pub async fn all_open(&self, deadline: Duration) -> Result<()> {
        let (all, mut open) = (self.tasks.len(), self.shared.open.subscribe());
        let waited = tokio::time::timeout(deadline, open.wait_for(|open| *open == all)).await;
        ensure!(waited.is_ok(), "{} of {all} sessions after {deadline:?}", *self.shared.open.borrow());
        Ok(())
    }
    /// Waits until none is.
    ///
    /// # Errors
    /// Some are.
    pub async fn none_open(&self, deadline: Duration) -> Result<()> {
        let mut open = self.shared.open.subscribe();
        let waited = tokio::time::timeout(deadline, open.wait_for(|open| *open == 0)).await;
        ensure!(waited.is_ok(), "{} sessions after {deadline:?}", *self.shared.open.borrow());
        Ok(())
    }
    /// When sessions were welcome since the last time that this was asked, in order.
    pub fn opened(&self) -> Vec<Instant> {
        let mut opened = std::mem::take(&mut *self.shared.opened.lock().unwrap_or_else(PoisonError::into_inner));
        opened.sort_unstable();
        opened
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

// === impl Light ===

impl Light {
    fn new(n: usize, file: &CredentialsFile, roots: Arc<rustls::RootCertStore>, shared: Arc<Shared>) -> Result<Self> {
        let chain = CertificateDer::pem_slice_iter(file.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(file.private_key.expose().as_bytes())?;
        let mut config = rustls::ClientConfig::builder_with_provider(https::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![TUNNEL_ALPN.to_vec()];
        // as the supervisor: each connection proves everything anew
        config.resumption = rustls::client::Resumption::disabled();
        let hello = v1::Hello {
            protocol: PROTOCOL,
            version: VERSION.to_owned(),
            organization_id: file.organization.clone(),
            runner_id: file.runner.clone(),
            instance_id: format!("light-{n}"),
            incarnation: format!("light-{n}"),
            api_key: file.api_key.expose().to_owned(),
            runner_time_ms: shared_proto::now_ms(),
            max_operations: 1,
            budget_bytes: 1 << 20,
            hostname: "light".to_owned(),
            ..Default::default()
        };
        Ok(Self { tls: tokio_rustls::TlsConnector::from(Arc::new(config)), hello, shared })
    }

    /// A session after the other, as the supervisor keeps them.
    async fn keep(self) -> Infallible {
        let mut backoff = Backoff::new(LIMITS);
        loop {
            let started = Instant::now();
            let (welcomed, retry_after) = self.attempt().await;
            let lasted = welcomed.is_some_and(|since| since.elapsed() >= LASTED);
            if lasted {
                backoff.reset();
            }
            let from = if lasted { Instant::now() } else { started };
            let next = backoff.after(from.into(), Instant::now().into(), backoff::random(), retry_after);
            tokio::time::sleep_until(next).await;
        }
    }

    /// One attempt, and the session if it comes to one: since when it was welcome, and when the control plane wants it back.
    async fn attempt(&self) -> (Option<Instant>, Option<Duration>) {
        let connect = async {
            let stream = TcpStream::connect(self.shared.address).await.ok()?;
            stream.set_nodelay(true).ok()?;
            let name = ServerName::IpAddress(self.shared.address.ip().into());
            self.tls.connect(name, stream).await.ok()
        };
        let Ok(Some(stream)) = tokio::time::timeout(DEADLINE, connect).await else { return (None, None) };
        let (state, mut seen) = watch::channel(Seen::default());
        let talk = Talk { hello: self.hello.clone(), state: Arc::new(state) };
        let service = SessionServer::new(talk);
        let serve = hyper::service::service_fn(move |request| service.clone().call(request));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .serve_connection(TokioIo::new(stream), serve);
        tokio::pin!(connection);
        let mut open = None;
        let begun = tokio::time::sleep(DEADLINE);
        tokio::pin!(begun);
        loop {
            tokio::select! {
                _ = connection.as_mut() => break,
                Ok(()) = seen.changed() => {
                    let now = *seen.borrow_and_update();
                    if now.welcome && open.is_none() {
                        open = Some(Open::new(self.shared.clone()));
                    }
                    if now.over {
                        break;
                    }
                }
                () = &mut begun, if open.is_none() => break,
            }
        }
        let retry_after = seen.borrow().retry_after_ms;
        (open.map(|open| open.since), (retry_after > 0).then(|| Duration::from_millis(retry_after.into())))
    }
}

/// A session that counts as open as long as this lives.
struct Open {
    since: Instant,
    shared: Arc<Shared>,
}

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        let since = Instant::now();
        shared.opened.lock().unwrap_or_else(PoisonError::into_inner).push(since);
        shared.open.send_modify(|open| *open += 1);
        Self { since, shared }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.open.send_modify(|open| *open -= 1);
    }
}

/// What the conversation has come to.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    welcome: bool,
    over: bool,
    retry_after_ms: u32,
}

/// The conversation.
#[derive(Clone)]
struct Talk {
    hello: v1::Hello,
    state: Arc<watch::Sender<Seen>>,
}

#[tonic::async_trait]
impl Session for Talk {
    type OpenStream = ReceiverStream<Result<v1::RunnerMessage, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<v1::ControlMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let (say, out) = mpsc::channel(4);
        let message = |kind| Ok(v1::RunnerMessage { kind: Some(kind) });
        let _ = say.try_send(message(Said::Hello(self.hello.clone())));
        let (mut heard, state) = (request.into_inner(), self.state.clone());
        tokio::spawn(async move {
            while let Ok(Some(control)) = heard.message().await {
                match control.kind {
                    Some(Control::Welcome(_)) => state.send_modify(|s| s.welcome = true),
                    Some(Control::Ping(ping)) => {
                        // an answer that finds no one ends with the reading
                        let _ = say.send(message(Said::Pong(v1::Pong { nonce: ping.nonce }))).await;
                    }
                    Some(Control::Refusal(v1::Refusal { retry_after_ms, .. })) => {
                        state.send_modify(|s| s.retry_after_ms = retry_after_ms);
                        break;
                    }
                    Some(Control::Leaving(leaving)) => {
                        state.send_modify(|s| s.retry_after_ms = leaving.retry_after_ms);
                    }
                    _ => {}
                }
            }
            state.send_modify(|s| s.over = true);
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }
}
