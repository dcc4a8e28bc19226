//! A runner for tests: a real HTTP/2 server with the generated services, over a pipe in memory. What an operation does is named by its
//! connection.

use super::registry::{Claim, Parting, Registry, Renewal, Verified};
use super::seals::Seal;
use super::{Rhythm, Sessions, Settings};
use crate::pki::IssuedCertificate;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use shared_proto::failure::{Code, Failure};
use shared_proto::flow::{self, Credit};
use shared_proto::v1::operation_input::Kind as In;
use shared_proto::v1::operation_output::Kind as Out;
use shared_proto::v1::operations_server::{Operations, OperationsServer};
use shared_proto::v1::session_server::{Session, SessionServer};
use shared_proto::v1::{self, control_message::Kind as FromControl, runner_message::Kind as ToControl};
use shared_proto::{PROTOCOL, VERSION, bounds};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Knows every runner whose API key is not `bad`; remembers what it was told.
#[derive(Default)]
pub(crate) struct ListRegistry {
    pub(crate) revoked: Mutex<HashSet<String>>,
    pub(crate) seen: Mutex<Vec<(String, Parting)>>,
    pub(crate) renewed: AtomicUsize,
}

/// One instance.
pub(crate) struct FakeRunner {
    pub(crate) state: Arc<FakeState>,
    server: JoinHandle<()>,
    session: Option<JoinHandle<()>>,
}

pub(crate) struct FakeState {
    hello: v1::Hello,
    /// Whether pings are answered.
    pub(crate) answers: AtomicBool,
    /// Operations that run on this end.
    pub(crate) running: watch::Sender<usize>,
    pub(crate) started: AtomicUsize,
    /// What the control plane said, beside pings.
    pub(crate) heard: watch::Sender<Vec<FromControl>>,
    say: mpsc::Sender<ToControl>,
    to_say: Mutex<Option<mpsc::Receiver<ToControl>>>,
    /// Cancelled when it leaves.
    leaves: CancellationToken,
}

#[derive(Clone)]
struct Serves(Arc<FakeState>);

/// Counts one running operation down, however it ends.
struct Runs(Arc<FakeState>);

pub(crate) const SHORT: Rhythm =
    Rhythm { interval: Duration::from_millis(20), missed: Duration::from_millis(100), dead: Duration::from_secs(600) };

pub(crate) fn sessions(registry: Arc<ListRegistry>) -> Sessions {
    Sessions::new(registry, Settings::default())
}

pub(crate) fn hello(runner: &str, instance: &str) -> v1::Hello {
    v1::Hello {
        protocol: PROTOCOL,
        version: VERSION.into(),
        organization_id: "org_a".into(),
        runner_id: runner.into(),
        instance_id: instance.into(),
        api_key: "good".into(),
        max_operations: 1024,
        hostname: "test".into(),
        ..Default::default()
    }
}

/// Waits for a condition that some event makes true; a minute says that it never will.
pub(crate) async fn until<T>(receiver: &mut watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) {
    tokio::time::timeout(Duration::from_secs(60), receiver.wait_for(wanted)).await.expect("in time").expect("alive");
}

/// The same for what has no event of its own.
pub(crate) async fn poll_until(mut wanted: impl FnMut() -> bool) {
    let look = async {
        while !wanted() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.expect("in time");
}

// === impl ListRegistry ===

impl Registry for ListRegistry {
    fn verify(&self, claim: Claim) -> BoxFuture<'_, Result<Verified, Failure>> {
        Box::pin(async move {
            if claim.api_key.expose() == "bad" {
                return Err(Code::ApiKeyInvalid.on("not known"));
            }
            let (organization, runner) = claim.session_for.expect("a session says who it is for");
            Ok(Verified { organization, runner, serial: "1".into(), ..Verified::default() })
        })
    }
    fn standing<'a>(&'a self, who: &'a Verified) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            match self.revoked.lock().expect("whole").contains(&who.runner) {
                true => Err(Code::CertificateRevoked.on("revoked")),
                false => Ok(()),
            }
        })
    }
    fn renew<'a>(&'a self, who: &'a Verified, renewal: Renewal) -> BoxFuture<'a, Result<IssuedCertificate, Failure>> {
        Box::pin(async move {
            self.standing(who).await?;
            let count = self.renewed.fetch_add(1, Ordering::AcqRel) + 1;
            Ok(IssuedCertificate {
                chain: format!("{} after {} of {}", renewal.request, renewal.serial, renewal.instance),
                serial: format!("renewed-{count}"),
                not_after_ms: 1_000,
                life_s: 20,
                public_key_sha256: String::new(),
            })
        })
    }
    fn sealed<'a>(&'a self, _: &'a Verified, _: &'a str, _: Seal) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
    fn seen<'a>(&'a self, who: &'a Verified, parting: Parting) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.seen.lock().expect("whole").push((who.runner.clone(), parting));
        })
    }
    fn last_seen<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Option<i64>> {
        Box::pin(async { Some(1_700_000_000_000) })
    }
}

// === impl FakeRunner ===

impl FakeRunner {
    /// Connects and says its Hello; does not wait for the answer.
    pub(crate) fn dial(sessions: &Sessions, hello: v1::Hello) -> Self {
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        let sessions = sessions.clone();
        let session = tokio::spawn(async move { sessions.serve(ours, Vec::new(), "pipe", ()).await });
        let mut runner = Self::over(theirs, hello);
        runner.session = Some(session);
        runner
    }

    /// The same over a connection that is there.
    pub(crate) fn over<T>(io: T, hello: v1::Hello) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (say, to_say) = mpsc::channel(16);
        let state = Arc::new(FakeState {
            hello,
            answers: AtomicBool::new(true),
            running: watch::Sender::new(0),
            started: AtomicUsize::new(0),
            heard: watch::Sender::new(Vec::new()),
            say,
            to_say: Mutex::new(Some(to_say)),
            leaves: CancellationToken::new(),
        });
        let session = SessionServer::new(Serves(state.clone()));
        let operations = OperationsServer::new(Serves(state.clone()));
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            use tower_service::Service as _;
            if request.uri().path().starts_with("/runner.v1.Session/") {
                session.clone().call(request)
            } else {
                operations.clone().call(request)
            }
        });
        let leaves = state.leaves.clone();
        let server = tokio::spawn(async move {
            let window = u32::try_from(flow::WINDOW_MAX).expect("fits") * 2;
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_frame_size(bounds::FRAME_MAX)
                .initial_stream_window_size(window)
                .initial_connection_window_size(window * 4)
                .max_concurrent_streams(2048)
                .max_pending_accept_reset_streams(20_000)
                .max_local_error_reset_streams(None)
                .serve_connection(TokioIo::new(io), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                () = leaves.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
        Self { state, server, session: None }
    }

    /// Waits until it is welcome.
    pub(crate) async fn welcome(self) -> Self {
        let mut heard = self.state.heard.subscribe();
        until(&mut heard, |heard| heard.iter().any(|k| matches!(k, FromControl::Welcome(_)))).await;
        self
    }

    /// Connects and waits until it is welcome.
    pub(crate) async fn connect(sessions: &Sessions, hello: v1::Hello) -> Self {
        Self::dial(sessions, hello).welcome().await
    }

    /// The refusal, when it comes.
    pub(crate) async fn refused(&self) -> String {
        let mut heard = self.state.heard.subscribe();
        let refusal = |heard: &Vec<FromControl>| {
            heard.iter().find_map(|k| match k {
                FromControl::Refusal(refusal) => Some(refusal.code.clone()),
                _ => None,
            })
        };
        until(&mut heard, |heard| refusal(heard).is_some()).await;
        let code = refusal(&heard.borrow());
        code.expect("just seen")
    }

    pub(crate) async fn say(&self, kind: ToControl) {
        self.state.say.send(kind).await.expect("the session is open");
    }

    /// Ends its conversation once all is said, and its connection with it, in good order.
    pub(crate) async fn leave(&self) {
        self.state.leaves.cancel();
        poll_until(|| self.server.is_finished()).await;
    }

    /// The connection breaks.
    pub(crate) fn cut(&self) {
        self.server.abort();
    }

    pub(crate) async fn idle(&self) {
        until(&mut self.state.running.subscribe(), |running| *running == 0).await;
    }
}

impl Drop for FakeRunner {
    fn drop(&mut self) {
        self.server.abort();
        if let Some(session) = &self.session {
            session.abort();
        }
    }
}

// === impl Serves ===

#[tonic::async_trait]
impl Session for Serves {
    type OpenStream = ReceiverStream<Result<v1::RunnerMessage, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<v1::ControlMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let (to, out) = mpsc::channel(16);
        let state = self.0.clone();
        let mut from = request.into_inner();
        let mut to_say = state.to_say.lock().expect("whole").take().expect("opened once");
        let message = |kind| Ok(v1::RunnerMessage { kind: Some(kind) });
        to.send(message(ToControl::Hello(state.hello.clone()))).await.expect("room");
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    Some(kind) = to_say.recv() => {
                        let _ = to.send(message(kind)).await;
                    }
                    () = state.leaves.cancelled() => return,
                    said = from.message() => match said {
                        Ok(Some(v1::ControlMessage { kind: Some(FromControl::Ping(v1::Ping { nonce })) })) => {
                            if state.answers.load(Ordering::Acquire) {
                                let _ = to.send(message(ToControl::Pong(v1::Pong { nonce }))).await;
                            }
                        }
                        Ok(Some(v1::ControlMessage { kind: Some(kind) })) => state.heard.send_modify(|h| h.push(kind)),
                        Ok(_) | Err(_) => return,
                    },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }
}

#[tonic::async_trait]
impl Operations for Serves {
    type RunStream = ReceiverStream<Result<v1::OperationOutput, Status>>;

    async fn run(&self, request: Request<Streaming<v1::OperationInput>>) -> Result<Response<Self::RunStream>, Status> {
        self.0.started.fetch_add(1, Ordering::AcqRel);
        self.0.running.send_modify(|n| *n += 1);
        let runs = Runs(self.0.clone());
        let mut inputs = request.into_inner();
        let Some(v1::OperationInput { kind: Some(In::Request(request)) }) = inputs.message().await? else {
            return Err(Status::invalid_argument("no request"));
        };
        let (to, out) = mpsc::channel(4);
        tokio::spawn(async move {
            let gone = to.clone();
            tokio::select! {
                () = behave(&request, inputs, to) => {}
                () = gone.closed() => {}
            }
            drop(runs);
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.running.send_modify(|n| *n -= 1);
    }
}

type To = mpsc::Sender<Result<v1::OperationOutput, Status>>;

async fn put(to: &To, kind: Out) {
    let _ = to.send(Ok(v1::OperationOutput { kind: Some(kind), isolation_level: "confined".into() })).await;
}

fn ok() -> Out {
    Out::Outcome(v1::Outcome { code: "ok".into(), ..Default::default() })
}

/// Grants as they come; everything else apart from them, so that neither waits for the other.
fn kept_apart(
    mut inputs: Streaming<v1::OperationInput>,
    credit: Credit,
) -> (JoinHandle<()>, mpsc::UnboundedReceiver<In>) {
    let (rest, out) = mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        while let Ok(Some(input)) = inputs.message().await {
            match input.kind {
                Some(In::Flow(v1::Flow { credit: granted })) => credit.grant(granted),
                Some(kind) => {
                    let _ = rest.send(kind);
                }
                None => {}
            }
        }
    });
    (reading, out)
}

/// `flood:N` sends N bytes as credit allows, `overrun` sends without looking, `echo` gives stdin back, `hang` does nothing, `denied` fails
/// with a typed status, `silent` ends without an outcome, anything else says its request and ends.
async fn behave(request: &v1::OperationRequest, inputs: Streaming<v1::OperationInput>, to: To) {
    let credit = Credit::new(request.output_credit, None);
    match request.connection.split_once(':').unwrap_or((&request.connection, "")) {
        ("flood", bytes) => {
            let (kept, _inputs) = kept_apart(inputs, credit.clone());
            let writes = async {
                let mut left: usize = bytes.parse().expect("a number");
                while left > 0 {
                    let Some(payload) = credit.take(left.min(bounds::DATA_MAX)).await else { return };
                    put(&to, Out::Data(Bytes::from(vec![b'x'; payload]))).await;
                    left -= payload;
                }
                put(&to, ok()).await;
            };
            writes.await;
            kept.abort();
        }
        ("overrun", _) => loop {
            if to.is_closed() {
                return;
            }
            put(&to, Out::Data(Bytes::from(vec![b'x'; 60_000]))).await;
        },
        ("echo", granted) => {
            put(&to, Out::Flow(v1::Flow { credit: granted.parse().unwrap_or(64 * 1024) })).await;
            let (kept, mut inputs) = kept_apart(inputs, credit.clone());
            let mut sizes = Vec::new();
            while let Some(input) = inputs.recv().await {
                match input {
                    In::Stdin(mut bytes) => {
                        let cost = flow::cost(bytes.len());
                        while !bytes.is_empty() {
                            let Some(payload) = credit.take(bytes.len()).await else { return };
                            put(&to, Out::Stderr(bytes.split_to(payload))).await;
                        }
                        put(&to, Out::Flow(v1::Flow { credit: cost })).await;
                    }
                    In::Resize(size) => sizes.push(format!("{}x{}", size.columns, size.rows)),
                    In::StdinClosed(_) => {
                        put(&to, Out::Data(Bytes::from(sizes.join(",")))).await;
                        let outcome = v1::Outcome { code: "ok".into(), exit_code: 7, ..Default::default() };
                        put(&to, Out::Outcome(outcome)).await;
                        break;
                    }
                    _ => {}
                }
            }
            kept.abort();
        }
        ("hang", _) => {
            let _inputs = inputs;
            std::future::pending().await
        }
        ("denied", _) => {
            let _ = to.send(Err(Code::PolicyDenied.on("rule 3").into())).await;
        }
        ("silent", _) => {}
        _ => {
            put(&to, Out::Data(Bytes::from(format!("{}/{}", request.organization_id, request.connection)))).await;
            put(&to, ok()).await;
        }
    }
}
