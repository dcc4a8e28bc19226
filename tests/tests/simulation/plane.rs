//! The control plane on a simulated host: the real services on the real store, a registry that knows one API key, and its users.

use super::runner::INSTANCE;
use super::world::{Operation, Row, Shared};
use futures_util::future::BoxFuture;
use runner_control_plane::execution::{Archives, Execution, Jobs};
use runner_control_plane::operations::Output;
use runner_control_plane::pki::IssuedCertificate;
use runner_control_plane::sessions::{Claim, Parting, Registry, Renewal, Seal, Sessions, Settings, Verified};
use runner_control_plane::store::{JobKind, Manner, NewJob, Phase, Scope, Store};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{self, operation_request::What};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use turmoil::net::TcpListener;

pub(crate) const ORGANIZATION: &str = "org_a";
pub(crate) const RUNNER: &str = "run_1";
pub(crate) const TUNNEL: u16 = 1;
pub(crate) const EXECUTION: u16 = 2;

/// How often users look.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked which sessions are routed to.
const ROUTES: Duration = Duration::from_millis(100);
/// How long a query may wait: simulated time stands still meanwhile.
const WAIT: Duration = Duration::from_secs(3600);
/// What one operation may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Holds simulated time while the database works, which does so on a thread of its own.
#[derive(Clone, Default)]
struct Gate(Arc<Held>);

#[derive(Default)]
struct Held {
    /// Which holds this gate: let go of when the control plane is gone.
    pool: Mutex<Option<SqlitePool>>,
    /// Whether somebody holds it.
    is: Mutex<bool>,
    /// The control plane is gone.
    over: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets everybody go who waits at a gate.
struct Open(Gate);

// === impl Gate ===

impl Gate {
    /// Until the pool's only connection is back.
    fn hold(&self) {
        let mut held = lock(&self.0.is);
        if std::mem::replace(&mut *held, true) {
            return;
        }
        let gate = self.clone();
        // a task on a thread of its own holds a paused clock
        tokio::task::spawn_blocking(move || {
            loop {
                let mut held = lock(&gate.0.is);
                let back = lock(&gate.0.pool).as_ref().is_some_and(|pool| pool.num_idle() > 0);
                if back || gate.0.over.load(Ordering::Acquire) {
                    *held = false;
                    return;
                }
                drop(held);
                std::thread::sleep(Duration::from_micros(5));
            }
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.over.store(true, Ordering::Release);
        drop(lock(&self.0.0.pool).take());
    }
}

/// The database in that folder.
async fn store(folder: &Path, gate: &Gate) -> anyhow::Result<Store> {
    let path = folder.join("store.db");
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // a process dies here, and no machine
        .synchronous(SqliteSynchronous::Off)
        .foreign_keys(true);
    gate.hold();
    let held = gate.clone();
    let pool = SqlitePoolOptions::new()
        // one, so that queries have an order
        .max_connections(1)
        .acquire_timeout(WAIT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .before_acquire(move |_, _| {
            held.hold();
            Box::pin(async { Ok(true) })
        })
        .connect_with(options)
        .await?;
    *lock(&gate.0.pool) = Some(pool.clone());
    Ok(Store::on(pool, &path).await?)
}

/// A database with an organization, a runner and a stack for each job.
pub(crate) async fn prepare(folder: &Path, stacks: usize) -> anyhow::Result<()> {
    let path = folder.join("store.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    let store = Store::on(pool.clone(), &path).await?;
    sqlx::query("INSERT INTO organizations (id, name, created_at_ms) VALUES ($1, $1, 1)")
        .bind(ORGANIZATION)
        .execute(&pool)
        .await?;
    sqlx::query("INSERT INTO runners (id, organization, name, created_at_ms) VALUES ($1, $2, $1, 1)")
        .bind(RUNNER)
        .bind(ORGANIZATION)
        .execute(&pool)
        .await?;
    for n in 0..stacks {
        let new = runner_control_plane::store::NewStack {
            name: format!("stack-{n}"),
            engine: "opentofu".into(),
            runner: None,
            source: "{}".into(),
            variables: "{}".into(),
            not_redacted: "[]".into(),
            engine_version: None,
            limits: "{}".into(),
            hooks: "{}".into(),
            connections: "[]".into(),
            secrets: "{}".into(),
            sealed: "{}".into(),
            variable_sets: "[]".into(),
            inputs: "{}".into(),
            follows: false,
        };
        store.create_stack(ORGANIZATION, &new).await?;
    }
    store.close().await;
    Ok(())
}

/// One life of the control plane: as long as nobody kills it.
pub(crate) async fn live(shared: Shared) -> turmoil::Result {
    let folder = shared.lock().data.clone();
    let gate = Gate::default();
    let _open = Open(gate.clone());
    let store = store(&folder, &gate).await?;
    store.close_operations().await?;
    store.begin_leases().await?;
    store.await_presentations().await?;
    let registry: Arc<dyn Registry> = Arc::new(Keys);
    let sessions = Sessions::new(registry.clone(), Settings::default());
    let jobs = Jobs::new(store.clone(), Archives::open(&folder.join("archives")).await?);
    let execution = Execution::new(jobs.clone(), sessions.clone(), registry);
    let (tunnel, calls) =
        (TcpListener::bind(("0.0.0.0", TUNNEL)).await?, TcpListener::bind(("0.0.0.0", EXECUTION)).await?);
    tokio::task::spawn_local(operate(shared.clone(), sessions.clone()));
    let mut look = tokio::time::interval(LOOK);
    let mut routes = tokio::time::interval(ROUTES);
    loop {
        tokio::select! {
            stream = tunnel.accept() => {
                let (sessions, (stream, peer)) = (sessions.clone(), stream?);
                tokio::spawn(async move { sessions.serve(stream, Vec::new(), &peer.to_string(), ()).await });
            }
            stream = calls.accept() => {
                let (execution, (stream, peer)) = (execution.clone(), stream?);
                let stop = CancellationToken::new();
                tokio::spawn(async move { execution.serve(stream, Vec::new(), &peer.to_string(), stop).await });
            }
            _ = routes.tick() => routed(&shared, &sessions),
            _ = look.tick() => {
                if let Err(e) = use_it(&shared, &store, &jobs).await {
                    shared.broken(format!("a user was refused: {e}"));
                }
            }
        }
    }
}

/// What users do with jobs: make them, approve plans, cancel; and what they see.
async fn use_it(shared: &Shared, store: &Store, jobs: &Jobs) -> Result<(), Failure> {
    let known = store.jobs(ORGANIZATION, None, 100).await?;
    let (now, plans, made, give_up) = {
        let world = shared.lock();
        (world.now, world.jobs.clone(), world.made.clone(), world.give_up)
    };
    for plan in plans.iter().filter(|plan| plan.at <= now) {
        let Some(job) = known.iter().find(|job| job.created_by == plan.by) else {
            // a back-up may not have it: nobody makes it again, its instance may
            if made.contains(&plan.by) {
                continue;
            }
            let stack = store.stack(ORGANIZATION, &plan.stack).await?;
            let new = NewJob {
                limits: v1::TimeLimits::default(),
                hooks: None,
                manner: Manner::default(),
                scope: Scope::default(),
                stack,
                runner: RUNNER.into(),
                kind: if plan.preview { JobKind::Preview } else { JobKind::Update },
                approve_automatically: plan.automatic,
                source: v1::Source::default(),
                variables: Default::default(),
                typed: Vec::new(),
                secrets: Default::default(),
                sealed: Vec::new(),
                not_redacted: Vec::new(),
                left_out: Vec::new(),
                connections: Vec::new(),
                created_by: plan.by.clone(),
                groups: Vec::new(),
                idempotency: None,
            };
            jobs.create(new).await?;
            shared.lock().made.insert(plan.by.clone());
            continue;
        };
        shared.lock().made.insert(plan.by.clone());
        let nobody_has_it = job.restored_at_ms.is_some() && !job.accepted && give_up.is_some_and(|at| at <= now);
        let cancels = plan.cancel_at.is_some_and(|at| at <= now) || nobody_has_it;
        if cancels && !job.ended() && job.canceled_by.is_none() {
            // it may end at this very moment
            let _ = jobs.cancel(ORGANIZATION, &job.id, "ann", false).await;
        } else if job.phase == Phase::AwaitingApproval {
            let _ = jobs.approve(ORGANIZATION, &job.id, "ann", None).await;
        }
    }
    let mut rows = Vec::with_capacity(known.len());
    let wants = shared.lock().wants_events;
    for job in known {
        let events = if wants { store.job_events(ORGANIZATION, &job.id, 0, 10_000).await? } else { Vec::new() };
        rows.push(Row {
            id: job.id.clone(),
            by: job.created_by.clone(),
            ended: job.ended(),
            reported: job.reported,
            phase: job.phase,
            canceled: job.canceled_by.is_some(),
            last: job.last_sequence,
            events,
        });
    }
    let mut world = shared.lock();
    world.rows = rows;
    world.has_events = wants;
    Ok(())
}

/// At most one session of an instance takes anything.
fn routed(shared: &Shared, sessions: &Sessions) {
    let routed = sessions.instances(ORGANIZATION, RUNNER);
    if routed.iter().filter(|i| i.instance_id == INSTANCE && i.healthy).count() > 1 {
        let routed: Vec<_> = routed.iter().map(|i| &i.session_id).collect();
        shared.broken(format!("more than one session of an instance is routed to: {routed:?}"));
    }
}

/// Operations, one after another, each watched to its end.
async fn operate(shared: Shared, sessions: Sessions) {
    let life = {
        let mut world = shared.lock();
        world.lives += 1;
        world.lives
    };
    let mut every = tokio::time::interval(Duration::from_millis(900));
    loop {
        every.tick().await;
        let n = {
            let mut world = shared.lock();
            let begun = world.now;
            world.operations.push(Operation { life, begun, ended: None });
            world.operations.len() - 1
        };
        let request = v1::OperationRequest {
            operation_id: format!("op_{n}"),
            connection: "nobody".into(),
            deadline_ms: u32::try_from(DEADLINE.as_millis()).unwrap_or(u32::MAX),
            what: Some(What::ConnectionTest(v1::ConnectionTest {})),
            ..v1::OperationRequest::default()
        };
        let started = sessions.run(ORGANIZATION, RUNNER, request).await;
        let shared = shared.clone();
        tokio::task::spawn_local(async move {
            let code = match started {
                Err(failure) => failure.code.as_str().to_owned(),
                Ok(mut operation) => loop {
                    match operation.next().await {
                        Output::Outcome(outcome) => break outcome.code,
                        Output::Head(_) | Output::Data(_) | Output::Stderr(_) => {
                            shared.broken("an operation without a worker said something".to_owned())
                        }
                    }
                },
            };
            let mut world = shared.lock();
            let now = world.now;
            world.operations[n].ended = Some((now, code));
        });
    }
}

/// Knows the one runner.
struct Keys;

impl Registry for Keys {
    fn verify(&self, claim: Claim) -> BoxFuture<'_, Result<Verified, Failure>> {
        Box::pin(async move {
            if claim.api_key.expose() != super::world::api_key() {
                return Err(Code::ApiKeyInvalid.on("not known"));
            }
            Ok(Verified {
                organization: ORGANIZATION.into(),
                runner: RUNNER.into(),
                serial: "1".into(),
                ..Verified::default()
            })
        })
    }
    fn standing<'a>(&'a self, _: &'a Verified) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
    fn renew<'a>(&'a self, _: &'a Verified, _: Renewal) -> BoxFuture<'a, Result<IssuedCertificate, Failure>> {
        Box::pin(async { Err(Code::Internal.on("nobody renews here")) })
    }
    fn sealed<'a>(&'a self, _: &'a Verified, _: &'a str, _: Seal) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
    fn seen<'a>(&'a self, _: &'a Verified, _: Parting) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
    fn last_seen<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Option<i64>> {
        Box::pin(async { None })
    }
}
