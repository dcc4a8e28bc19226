//! Cloud operations: the first message is decoded and decided on, everything after it passes through.
//!
//! ```text
//!   Run ─▶ first message ─▶ ours? known? room? ─▶ credentials ─▶ a worker has its request ─▶ pass ─▶ one Outcome
//!                                                                                                └─ connect it to its target
//! ```
//! It must never decode what a worker sends beyond its frames' headers and its outcome, never hold more of it than was granted, and never
//! let one operation's end be another's business.

mod body;
pub(crate) mod dial;
mod given;
mod input;
mod inventory;
mod output;
mod permission;
mod ready;
mod request;

use crate::audit::recording::Header;
use crate::audit::{self, Record};
use crate::config::{Asker, Config, Connection};
use crate::credentials::{Resolver, Tested};
use crate::policy::What;
use crate::recorder::{self, Moved, Recorder};
use crate::recordings::Recording;
use crate::tunnel::Settings;
use crate::workers::{Exit, Mortal, Warm, Workers};
use body::{Item, RunBody};
use given::Given;
use http::{Request, Response};
use hyper::body::Incoming;
use permission::Permission;
use ready::{For, Ready};
use request::Decided;
use shared_proto::bounds::FIRST_MESSAGE_MAX;
use shared_proto::failure::{Code, Failure};
use shared_proto::flow::{Budget, Credit, SendShare, Shares};
use shared_proto::v1::{self, operation_input, operation_request};
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tonic::Streaming;
use tonic::codec::Codec as _;
use tracing::Instrument as _;

/// The path of the one method.
pub const RUN_PATH: &str = "/runner.v1.Operations/Run";
/// How long an operation waits for the welcome that came before it.
const WELCOME_GRACE: Duration = Duration::from_secs(1);
/// How long the first message may take once the stream is open.
const FIRST_MESSAGE_DEADLINE: Duration = Duration::from_secs(10);
/// Workers that start at once, for each processor: starting one is the costly part, and hundreds at once would leave the supervisor no time to
/// answer a ping. The others wait their turn, within their deadlines.
const STARTING_PER_PROCESSOR: usize = 4;
/// How long after an operation's reader has gone its session may still turn out to be over: the two are noticed by tasks of their own.
const OVER_GRACE: Duration = Duration::from_millis(100);
/// The words of AWS for credentials that are good no more: they are resolved again for the next request.
const EXPIRED: [&str; 3] = ["ExpiredToken", "ExpiredTokenException", "RequestExpired"];
/// Messages between an operation and HTTP/2. Their bytes are paid for with credit before they are read.
const OUTGOING: usize = 4;

/// Serves operations. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Operations {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: watch::Receiver<Arc<Settings>>,
    workers: Workers,
    warm: Warm,
    ready: Ready,
    resolver: Resolver,
    recorder: Recorder,
    /// Whether nothing new is taken.
    draining: watch::Receiver<bool>,
    /// How their workers are isolated.
    isolation: &'static str,
    starting: Arc<Semaphore>,
    running: AtomicU32,
    served: AtomicU64,
    started_warm: AtomicU64,
    fewer: Notify,
}

/// The operations of one session: its flow control, and whether it takes any.
#[derive(Debug, Clone)]
pub struct SessionOperations {
    operations: Operations,
    receive: Budget,
    send: SendShare,
    gate: Arc<watch::Sender<Gate>>,
}

/// Counts of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Running now.
    pub running: u32,
    /// Ended since the start.
    pub served: u64,
    /// Those of them, and of the running ones, whose worker was there before them.
    pub started_warm: u64,
    /// Workers that wait for one.
    pub waiting: usize,
}

/// Whether a session takes operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Before,
    Open,
    Closed,
    /// Its connection is gone.
    Over,
}

/// An operation that was accepted: the log has one line of its end, whatever ends it.
#[derive(Debug)]
struct Accepted {
    span: tracing::Span,
    started: Instant,
    operation: String,
    moved: Moved,
    recorder: Recorder,
    /// Whether its decision is in the audit log, and so its end belongs there.
    allowed: AtomicBool,
}

/// What the policy has of an operation that it allows.
#[derive(Debug)]
struct Told {
    masking: Option<v1::Masking>,
    impersonation: Option<v1::Impersonation>,
    /// Whether its terminal is recorded.
    record: bool,
}

/// Why an operation failed, and how its worker died where that is why.
#[derive(Debug)]
struct Failed {
    failure: Failure,
    exit: Option<Exit>,
}

/// One place among those that may run at once.
struct Place(Arc<Inner>);

// === impl Operations ===

impl Operations {
    /// Serves with these. `draining`: whether nothing new is taken. `isolation`: the name for how workers of operations are isolated here.
    pub fn new(
        settings: watch::Receiver<Arc<Settings>>,
        workers: Workers,
        resolver: Resolver,
        recorder: Recorder,
        draining: watch::Receiver<bool>,
        isolation: &'static str,
    ) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let starting = Arc::new(Semaphore::new(STARTING_PER_PROCESSOR * processors));
        let warm = Warm::start_task(workers.clone(), settings.clone(), starting.clone());
        let inner = Inner {
            settings,
            workers,
            warm,
            ready: Ready::start_task(),
            resolver,
            recorder,
            draining,
            isolation,
            starting,
            running: AtomicU32::new(0),
            served: AtomicU64::new(0),
            started_warm: AtomicU64::new(0),
            fewer: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// For a new session, with its own budget: the old one's ends with its connection.
    pub fn session(&self, budget: u64, max_operations: u32) -> SessionOperations {
        let shares = Shares::runner(budget);
        SessionOperations {
            operations: self.clone(),
            receive: Budget::new(shares.receive, max_operations),
            send: SendShare::new(shares.send),
            gate: Arc::new(watch::Sender::new(Gate::Before)),
        }
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        Counts {
            running: self.inner.running.load(Ordering::Relaxed),
            served: self.inner.served.load(Ordering::Relaxed),
            started_warm: self.inner.started_warm.load(Ordering::Relaxed),
            waiting: self.inner.warm.waiting(),
        }
    }

    fn place(&self) -> Result<Place, Failure> {
        let most = self.inner.settings.borrow().config.max_operations;
        let taken =
            self.inner.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < most).then_some(n + 1));
        match taken {
            Ok(_) => Ok(Place(self.inner.clone())),
            Err(_) => Err(Code::Busy.on(format!("{most} operations are running on this runner, as many as it takes"))),
        }
    }
}

// === impl Accepted ===

impl Accepted {
    /// Writes the line.
    fn ended(&self, code: &str, status: i32, exit: Option<Exit>, lasted: Duration) {
        let signal = exit.and_then(|e| e.signal_name()).map(tracing::field::display);
        let exit_code = exit.and_then(|e| e.code);
        let duration_ms = lasted.as_millis() as u64;
        self.span.in_scope(|| tracing::info!(code, signal, exit_code, duration_ms, "operation ended"));
        if self.allowed.load(Ordering::Relaxed) {
            self.recorder.note(Record {
                kind: audit::Kind::End,
                operation: Some(self.operation.clone()),
                code: Some(code.to_owned()),
                status: Some(status).filter(|status| *status != 0),
                bytes_in: Some(self.moved.bytes_in.load(Ordering::Relaxed)),
                bytes_out: Some(self.moved.bytes_out.load(Ordering::Relaxed)),
                ms: Some(duration_ms),
                ..Record::default()
            });
        }
    }
}

// === impl Failed ===

impl Failed {
    /// Of an operation whose worker's socket has ended; `what` is said where nobody tells how the worker did.
    async fn crashed(worker: &mut Mortal, what: String) -> Self {
        match worker.exit().await {
            Some(exit) => Self { failure: exit.failure(), exit: Some(exit) },
            None => Code::WorkerCrashed.on(what).into(),
        }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, exit: None }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        self.0.served.fetch_add(1, Ordering::Relaxed);
        self.0.fewer.notify_waiters();
    }
}

// === impl SessionOperations ===

impl SessionOperations {
    /// The session is welcome.
    pub fn open(&self) {
        self.gate.send_if_modified(|gate| {
            let opens = *gate == Gate::Before;
            if opens {
                *gate = Gate::Open;
            }
            opens
        });
    }
    /// Nothing new comes in.
    pub fn close(&self) {
        self.gate.send_replace(Gate::Closed);
    }
    /// The session's connection is gone, or about to be, and with it all that came over it: it ends.
    pub fn over(&self) {
        self.gate.send_replace(Gate::Over);
    }
    /// The session's newest round trip.
    pub fn set_round_trip(&self, round_trip: Duration) {
        self.receive.set_round_trip(round_trip);
    }
    /// Resolves when no operation is running.
    pub async fn idle(&self) {
        loop {
            let fewer = self.operations.inner.fewer.notified();
            if self.operations.counts().running == 0 {
                return;
            }
            fewer.await;
        }
    }

    async fn is_over(&self) {
        // never closed: we have the other end
        let _ = self.gate.subscribe().wait_for(|gate| *gate == Gate::Over).await;
    }

    async fn admitted(&self) -> Result<(), Failure> {
        // welcome and the first operation travel on streams of their own, and the later one may be looked at first
        let mut gate = self.gate.subscribe();
        let decided = tokio::time::timeout(WELCOME_GRACE, gate.wait_for(|gate| *gate != Gate::Before)).await;
        let gate = decided.ok().and_then(Result::ok).map_or(Gate::Before, |gate| *gate);
        match gate {
            Gate::Open if *self.operations.inner.draining.borrow() => Err(Code::RunnerLeaving
                .on("this runner is being drained")
                .next("Name another runner, or run `runner drain --undo` on the runner's machine.")),
            Gate::Open => Ok(()),
            Gate::Before => Err(Code::Conflict.on("an operation was sent before the session was welcome")),
            Gate::Closed | Gate::Over => Err(Code::RunnerLeaving.on("this runner is stopping")),
        }
    }

    /// Answers `Run`. What goes wrong is an outcome, never a status: the stream always ends the same way.
    pub async fn run(&self, request: Request<Incoming>) -> Response<tonic::body::Body> {
        let (items, received) = mpsc::channel(OUTGOING);
        let decoder = tonic_prost::ProstCodec::<v1::OperationOutput, v1::OperationInput>::default().decoder();
        let input = Streaming::new_request(decoder, request.into_body(), None, Some(FIRST_MESSAGE_MAX));
        let session = self.clone();
        tokio::spawn(async move {
            let accepted = OnceLock::new();
            let outcome = tokio::select! {
                // the other end reset the stream, or its connection is gone
                () = items.closed() => {
                    if let Some(accepted) = accepted.get() {
                        session.left(accepted).await;
                    }
                    return;
                }
                outcome = session.operate(input, &items, &accepted) => outcome,
            };
            let _ = items.send(Item::Last(body::outcome(&outcome))).await;
        });
        body::response(RunBody::new(received))
    }

    /// Its reader has gone: by itself, or with the session.
    async fn left(&self, accepted: &Accepted) {
        let lasted = accepted.started.elapsed();
        let mut gate = self.gate.subscribe();
        let over = tokio::time::timeout(OVER_GRACE, gate.wait_for(|gate| *gate == Gate::Over)).await.is_ok();
        let code = if over { Code::ConnectionLost } else { Code::Cancelled };
        accepted.ended(code.as_str(), 0, None, lasted);
    }

    async fn operate(
        &self,
        mut input: Streaming<v1::OperationInput>,
        items: &mpsc::Sender<Item>,
        accepted: &OnceLock<Accepted>,
    ) -> v1::Outcome {
        let first = match self.admitted().await {
            Ok(()) => first_message(&mut input).await,
            Err(failure) => Err(failure),
        };
        let request = match first {
            Ok(request) => request,
            Err(failure) => {
                tracing::info!(code = %failure.code, detail = failure.message, "operation refused");
                return failure.outcome();
            }
        };
        let span = tracing::info_span!(
            "operation",
            operation = request::shown(&request.operation_id),
            kind = request::kind(&request),
            connection = request::shown(&request.connection),
            asked = tracing::field::Empty
        );
        let accepted = accepted.get_or_init(|| Accepted {
            span: span.clone(),
            started: Instant::now(),
            operation: request.operation_id.clone(),
            moved: Moved::default(),
            recorder: self.operations.inner.recorder.clone(),
            allowed: AtomicBool::new(false),
        });
        let ended = tokio::select! {
            ended = self.decided(request, input, items, accepted).instrument(span) => ended,
            () = self.is_over() => Err(Code::ConnectionLost.on("this runner stopped while the operation ran").into()),
        };
        let (outcome, exit) = match ended {
            Ok(outcome) => (outcome, None),
            Err(Failed { failure, exit }) => (failure.outcome(), exit),
        };
        let status = if outcome.target_status > 0 { outcome.target_status as i32 } else { outcome.exit_code };
        accepted.ended(&outcome.code, status, exit, accepted.started.elapsed());
        outcome
    }

    async fn decided(
        &self,
        request: v1::OperationRequest,
        input: Streaming<v1::OperationInput>,
        items: &mpsc::Sender<Item>,
        accepted: &Accepted,
    ) -> Result<v1::Outcome, Failed> {
        let settings = self.operations.inner.settings.borrow().clone();
        let (decided, permission) = self.permitted(&request, &settings).await?;
        accepted.allowed.store(true, Ordering::Relaxed);
        let moved = &accepted.moved;
        let _place = self.operations.place()?;
        let of_entry = probe(&request, &settings.config);
        drop(settings);
        tracing::debug!(rule = permission.rule, "allowed");
        // given back when it has ended
        let _permits = permission.permits;
        let Decided { deadline, connection, asked } = decided;
        let request = match permission.narrowed.or(of_entry) {
            Some(list) => v1::OperationRequest { what: Some(list), ..request },
            None => request,
        };
        if let Some(asked) = asked {
            tracing::Span::current().record("asked", asked.shown());
        }
        let told =
            Told { masking: permission.masking, impersonation: permission.impersonation, record: permission.record };
        let serving = self.serve(request, &connection, told, moved, input, items);
        let serving = async {
            match deadline {
                None => serving.await,
                Some(deadline) => tokio::time::timeout(deadline, serving)
                    .await
                    .unwrap_or_else(|_| Err(Code::DeadlineExceeded.on(format!("not done within {deadline:?}")).into())),
            }
        };
        let Some((left, rule)) = permission.left else { return serving.await };
        tokio::time::timeout(left, serving).await.unwrap_or_else(|_| {
            let over =
                format!("the time window of rule {rule} of the runner's policy has ended, and with it what it allowed");
            Err(Code::PolicyDenied.on(over).into())
        })
    }

    /// Decides, and has that written down before anything is done.
    async fn permitted(
        &self,
        request: &v1::OperationRequest,
        settings: &Settings,
    ) -> Result<(Decided, Permission), Failure> {
        let recorder = &self.operations.inner.recorder;
        let provider = settings.config.connections.get(&request.connection).map_or("", |c| c.provider());
        let record = |asked: &[What]| recorder::of_operation(request, request::kind(request), provider, asked);
        let read =
            request::decide(request, settings).and_then(|decided| Ok((decided, permission::asked(request, settings)?)));
        let (decided, asked) = match read {
            Ok(read) => read,
            Err(failure) => {
                recorder.note(recorder::decided(record(&[]), "(not a request)", Some(&failure)));
                return Err(failure);
            }
        };
        let record = record(&asked.calls());
        match permission::decide(request, asked, settings) {
            Ok(permission) => {
                recorder.record(recorder::decided(record, &permission.rule, None)).await?;
                Ok((decided, permission))
            }
            Err(permission::Denied { failure, rule }) => {
                recorder.note(recorder::decided(record, &rule, Some(&failure)));
                Err(failure)
            }
        }
    }

    /// Begins to record an exec.
    async fn recording(&self, request: &v1::OperationRequest, exec: &v1::K8sExec) -> Result<Recording, Failure> {
        let inner = &self.operations.inner;
        let size = exec.size.unwrap_or(v1::TerminalSize { columns: 80, rows: 24 });
        let within = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
        let user = request.caller.as_ref().map_or("", |caller| caller.user_name.as_str());
        let header = Header {
            width: within(size.columns),
            height: within(size.rows),
            title: Some(format!("{user} in {} {}/{}", request.connection, exec.namespace, exec.pod)),
            command: Some(recorder::command(&exec.command)),
        };
        let settings = inner.settings.borrow().config.audit.clone();
        Recording::begin(&settings, &inner.recorder, &request.operation_id, header).await
    }

    async fn serve(
        &self,
        request: v1::OperationRequest,
        connection: &str,
        Told { masking, impersonation, record }: Told,
        moved: &Moved,
        mut input: Streaming<v1::OperationInput>,
        items: &mpsc::Sender<Item>,
    ) -> Result<v1::Outcome, Failed> {
        let inner = &self.operations.inner;
        let caller = request.caller.clone().unwrap_or_default();
        let operation = request.operation_id.clone();
        let asker = Asker { person: &caller.user_name, operation: &operation };
        let tests = matches!(request.what, Some(operation_request::What::ConnectionTest(_)));
        let credit = Credit::new(request.output_credit, Some(self.send.clone()));
        let (mut window, first) = self.receive.window();
        let mut again = request.what.as_ref().is_some_and(takes_no_input);
        let mut taken = Some(first);
        loop {
            let (resolved, steps) = if tests {
                let Tested { resolved, steps } = inner.resolver.test(connection, asker).await;
                let at_credentials = |mut failure: Failure| {
                    failure.message = format!("step credentials: {}", failure.message);
                    failure
                };
                (resolved.map_err(at_credentials)?, steps.to_vec())
            } else {
                (inner.resolver.resolve(connection, asker).await?, Vec::new())
            };
            let reach = Arc::new(dial::Reach::of(&resolved, request.what.as_ref())?);
            let recorded = match (record, &request.what) {
                (true, Some(operation_request::What::K8sExec(exec))) => Some(self.recording(&request, exec).await?),
                _ => None,
            };
            let whom = For::of(&request, &resolved, impersonation.as_ref(), &inner.settings);
            let message = v1::WorkerRequest {
                request: Some(request.clone()),
                target: Some(ready::of_worker(&resolved, impersonation.as_ref())),
                masking: masking.clone(),
                steps,
                again,
                ..Default::default()
            };
            let Given { mut worker, mut socket, starting, dialling: _dialling } =
                inner.given(message, reach.clone(), whom.as_ref()).await?;
            if let Some(first) = taken.take() {
                // dropped where the stream is gone already, which the caller notices
                let _ = items.send(Item::Data(body::taken(inner.isolation, first))).await;
            }
            let (reader, writer) = socket.split();
            let mut begun = false;
            let recording = recorded.as_ref();
            let around = output::Around { moved: &moved.bytes_out, recording, begun: &mut begun };
            let output = output::pass(reader, credit.clone(), items, starting, around);
            let around = input::Around { credit: &credit, items, moved: &moved.bytes_in, recording };
            let input = input::pass(&mut input, writer, &mut window, around);
            let ended = tokio::select! {
                ended = output => ended,
                failure = input => return Err(failure.into()),
                failure = failed(recording) => return Err(failure.into()),
            };
            if let Some(recording) = recorded {
                recording.finish().await?;
            }
            let outcome = match ended {
                Ok(outcome) => outcome,
                Err(output::Broken::Ended(what)) => return Err(Failed::crashed(&mut worker, what).await),
                Err(output::Broken::Malformed(what)) => return Err(Code::WorkerCrashed.on(what).into()),
            };
            // where the answer of AWS went on as it is, the outcome tells what it said
            if outcome.code != Code::CredentialsExpired.as_str() && !EXPIRED.contains(&outcome.target_reason.as_str()) {
                if let (Some(whom), "ok") = (whom, outcome.code.as_str()) {
                    self.operations.make_ready(whom, reach);
                }
                return Ok(outcome);
            }
            inner.resolver.forget(connection, asker, resolved).await;
            // a test tells what is so
            if !again || begun || tests {
                return Ok(outcome);
            }
            tracing::info!(said = outcome.target_reason, "credentials refused as expired: they are got once more");
            again = false;
        }
    }
}

/// A question about permissions with what the connection's entry says of it.
fn probe(request: &v1::OperationRequest, config: &Config) -> Option<operation_request::What> {
    let Some(operation_request::What::ProbePermissions(asked)) = &request.what else { return None };
    let narrowed = match config.connections.get(&request.connection) {
        Some(Connection::Aws { session: Some(session), .. }) => {
            !session.policy.is_empty() || !session.policy_arns.is_empty()
        }
        _ => false,
    };
    let purpose = config.purpose(&request.connection).as_str().to_owned();
    Some(operation_request::What::ProbePermissions(v1::ProbePermissions {
        purpose,
        narrowed,
        place: asked.place.clone(),
    }))
}

/// Whether nothing comes after the request that a worker could have taken: then it can be given to another one. A request that is refused for
/// its credentials was not carried out, whatever it asks for.
fn takes_no_input(what: &operation_request::What) -> bool {
    use operation_request::What;
    match what {
        What::K8sExec(_) => false,
        What::K8sRequest(request) => !request.body,
        What::AwsRequest(request) => !request.body,
        _ => true,
    }
}

/// Resolves once the recording has failed, where there is one.
async fn failed(recording: Option<&Recording>) -> Failure {
    match recording {
        Some(recording) => recording.failed().await,
        None => std::future::pending().await,
    }
}

async fn first_message(input: &mut Streaming<v1::OperationInput>) -> Result<v1::OperationRequest, Failure> {
    let message = match tokio::time::timeout(FIRST_MESSAGE_DEADLINE, input.message()).await {
        Ok(Ok(Some(message))) => message,
        Ok(Ok(None)) => return Err(Code::InvalidArgument.on("the stream ended before its request")),
        Ok(Err(status)) => return Err(refused_message(&status)),
        Err(_) => return Err(Code::DeadlineExceeded.on(format!("no request came within {FIRST_MESSAGE_DEADLINE:?}"))),
    };
    match message.kind {
        Some(operation_input::Kind::Request(request)) => Ok(request),
        _ => Err(Code::InvalidArgument.on("the first message is not a request")),
    }
}

/// Whether no message was wrong, but the way broke on which it was to come: then there is a cause below. The caller reset the stream, or
/// the connection is gone.
fn broke_off(status: &tonic::Status) -> bool {
    status.source().is_some()
}

/// What tonic made of a message that it did not take.
fn refused_message(status: &tonic::Status) -> Failure {
    let first = status.message().lines().next().unwrap_or_default();
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => {
            Code::TooLarge.on(format!("a message exceeds {FIRST_MESSAGE_MAX} bytes"))
        }
        tonic::Code::Cancelled => Code::Cancelled.on("the caller cancelled it"),
        _ if broke_off(status) => Code::ConnectionLost.on("the stream broke off before its request had come"),
        _ => Code::InvalidArgument.on(format!("a message is malformed: {first}")),
    }
}
