//! A control plane that remembers what it was told, and a host on which supervisors come and go.

use crate::config::Asker;
use crate::engines::{Engine, Engines};
use crate::jobs::{Connection, JobSummary, Jobs, Settings, Surroundings};
use crate::workers::{Exit, Reaches, Started};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use prost::Message as _;
use runner_sandbox::PidFd;
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use shared_proto::v1::event::Body;
use shared_proto::v1::execution_server::{Execution, ExecutionServer};
use shared_proto::v1::work_item::Kind;
use shared_proto::v1::{self, JobKind, JobRequest, JobResult, TimeLimits};
use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

pub(super) fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the control plane knows, and how it misbehaves.
#[derive(Default)]
pub(super) struct Known {
    events: HashMap<String, Vec<v1::Event>>,
    stream: Option<mpsc::Sender<Result<v1::WorkItem, Status>>>,
    held: Vec<v1::HeldJob>,
    archives: HashMap<String, Vec<u8>>,
    refused: usize,
    reports: usize,
    pub(super) cut_source_after: Option<usize>,
    pub(super) lose_replies: bool,
    /// Workers are asked for in vain.
    pub(super) no_worker: bool,
    /// So often the spawner dies as it is asked for one.
    pub(super) spawner_dies: usize,
    pub(super) unreachable: bool,
    /// The runner's own set.
    pub(super) plan_rules: String,
    pub(super) state_place: Option<v1::StatePlace>,
    /// In each token that is resolved, and of which connections some were.
    pub(super) token: u32,
    pub(super) resolved: Vec<String>,
    /// What a job's variables refer to, by the variables' names.
    pub(super) secrets: HashMap<String, String>,
    /// What workers' programs get by the configuration.
    pub(super) environment: HashMap<String, String>,
    /// Whether the policy lets what reconciles be applied without asking.
    pub(super) reconciles: bool,
    pub(super) refuse_accept: bool,
    /// Jobs that it does not know: it was restored from an older back-up.
    unknown: Vec<String>,
    presented: Vec<v1::PresentRequest>,
}

impl Known {
    /// No event was ever reported.
    pub(super) fn forget(&mut self) {
        self.events.clear();
    }
}

#[derive(Clone, Default)]
pub(super) struct Plane(Arc<Mutex<Known>>);

impl Plane {
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.0.lock().expect("no panic while locked"))
    }
    pub(super) fn assign(&self, request: JobRequest) {
        self.assign_with(request, "");
    }
    /// With what is known of where the stack's state is.
    pub(super) fn assign_with(&self, request: JobRequest, state_instance: &str) {
        let job_id = request.job_id.clone();
        let request = request.encode_to_vec();
        let request_sha256 = Sha256::digest(&request).to_vec();
        let state_instance = state_instance.to_owned();
        let assignment = v1::Assignment {
            job_id,
            fencing_token: 1,
            request,
            request_sha256,
            state_instance,
            seal: b"seal".to_vec(),
        };
        self.tell_when_open(Kind::Assignment(assignment));
    }
    pub(super) fn tell(&self, kind: Kind) {
        let stream = self.update(|p| p.stream.clone()).expect("a stream of work");
        stream.try_send(Ok(v1::WorkItem { kind: Some(kind) })).expect("is taken");
    }
    pub(super) fn tell_when_open(&self, kind: Kind) {
        wait_for("a stream of work", || self.update(|p| p.stream.as_ref().is_some_and(|s| !s.is_closed())));
        self.tell(kind);
    }
    pub(super) fn events(&self, id: &str) -> Vec<v1::Event> {
        self.update(|p| p.events.get(id).cloned().unwrap_or_default())
    }
    pub(super) fn text(&self, id: &str) -> String {
        format!("{:?}", self.events(id))
    }
    pub(super) fn phase(&self, id: &str) -> String {
        let mut phases = self.events(id).into_iter().filter_map(|e| match e.body {
            Some(Body::PhaseChanged(changed)) => Some(changed.phase),
            _ => None,
        });
        phases.next_back().unwrap_or_default()
    }
    pub(super) fn result(&self, id: &str) -> Option<JobResult> {
        match self.events(id).last()?.body.clone() {
            Some(Body::Result(result)) => Some(result),
            _ => None,
        }
    }
    /// Who had its engine asked to stop, each time that somebody did.
    pub(super) fn asked(&self, id: &str) -> Vec<String> {
        let events = self.events(id).into_iter();
        let asked = events.filter_map(|e| match e.body {
            Some(Body::CancelProgress(progress)) if progress.step == "asked" => Some(progress.by),
            _ => None,
        });
        asked.collect()
    }
    /// How often plan and apply were started.
    pub(super) fn starts(&self, id: &str) -> (usize, usize) {
        let events = self.events(id);
        let count = |command| {
            events.iter().filter(|e| matches!(&e.body, Some(Body::EngineStarted(s)) if s.command == command)).count()
        };
        (count("plan"), count("apply"))
    }
    /// Is an older copy of itself from now on, with that many of a job's events; none: without the job.
    pub(super) fn restore(&self, id: &str, events: Option<usize>) {
        self.update(|p| {
            let had = p.events.entry(id.into()).or_default();
            match events {
                Some(count) => had.truncate(count),
                None => {
                    had.clear();
                    p.unknown.push(id.into());
                }
            }
        });
    }
    /// What was presented to it.
    pub(super) fn presented(&self) -> Vec<v1::PresentRequest> {
        self.update(|p| p.presented.clone())
    }
    pub(super) fn held(&self) -> Vec<v1::HeldJob> {
        self.update(|p| p.held.clone())
    }
    pub(super) fn refused(&self) -> usize {
        self.update(|p| p.refused)
    }
}

fn authorized<T>(request: Request<T>) -> Result<T, Status> {
    let key = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
    if key == Some("Bearer the-key") { Ok(request.into_inner()) } else { Err(Status::unauthenticated("no key")) }
}

#[tonic::async_trait]
impl Execution for Plane {
    type WorkStream = ReceiverStream<Result<v1::WorkItem, Status>>;
    type SourceStream = ReceiverStream<Result<v1::SourceChunk, Status>>;

    async fn work(&self, request: Request<v1::WorkRequest>) -> Result<Response<Self::WorkStream>, Status> {
        let request = authorized(request)?;
        let (sender, receiver) = mpsc::channel(64);
        let beat = Kind::Heartbeat(v1::Heartbeat { control_plane_time_ms: 0 });
        let _ = sender.try_send(Ok(v1::WorkItem { kind: Some(beat.clone()) }));
        self.update(|p| (p.stream, p.held) = (Some(sender.clone()), request.held));
        tokio::spawn(async move {
            while sender.send(Ok(v1::WorkItem { kind: Some(beat.clone()) })).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn accept(&self, request: Request<v1::AcceptRequest>) -> Result<Response<v1::AcceptReply>, Status> {
        let request = authorized(request)?;
        assert_eq!(request.request_sha256.len(), 32);
        Ok(Response::new(self.update(|p| {
            if p.refuse_accept {
                p.refused += 1;
                return v1::AcceptReply { accepted: false, code: "fenced".into(), message: String::new() };
            }
            v1::AcceptReply { accepted: true, code: "ok".into(), message: String::new() }
        })))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportReply>, Status> {
        let request = authorized(request)?;
        self.update(|p| {
            if p.unreachable {
                return Err(Status::unavailable("away"));
            }
            p.reports += 1;
            if p.unknown.contains(&request.job_id) {
                let code = "not_found".into();
                return Ok(Response::new(v1::ReportReply { code, ..Default::default() }));
            }
            let events = p.events.entry(request.job_id).or_default();
            let mut code = "ok";
            for event in request.events {
                if event.sequence > events.len() as u64
                    && matches!(events.last(), Some(e) if matches!(e.body, Some(Body::Result(_))))
                {
                    code = "invalid_argument";
                    break;
                }
                // again is harmless; a gap is not
                match event.sequence.cmp(&(events.len() as u64 + 1)) {
                    std::cmp::Ordering::Less => assert_eq!(events[event.sequence as usize - 1], event),
                    std::cmp::Ordering::Equal => events.push(event),
                    std::cmp::Ordering::Greater => {
                        code = "invalid_argument";
                        break;
                    }
                }
            }
            let acknowledged = events.len() as u64;
            let has_result = matches!(events.last(), Some(e) if matches!(e.body, Some(Body::Result(_))));
            if p.lose_replies && p.reports % 2 == 1 {
                return Err(Status::unavailable("the answer is lost"));
            }
            Ok(Response::new(v1::ReportReply { acknowledged, code: code.into(), message: String::new(), has_result }))
        })
    }

    async fn present(&self, request: Request<v1::PresentRequest>) -> Result<Response<v1::PresentReply>, Status> {
        let request = authorized(request)?;
        self.update(|p| {
            p.unknown.retain(|id| *id != request.job_id);
            p.presented.push(request);
        });
        Ok(Response::new(v1::PresentReply { known: true, code: "ok".into(), message: String::new() }))
    }

    async fn source(&self, request: Request<v1::SourceRequest>) -> Result<Response<Self::SourceStream>, Status> {
        let request = authorized(request)?;
        let (bytes, cut) = self.update(|p| (p.archives.get(&request.sha256).cloned(), p.cut_source_after.take()));
        let bytes = bytes.ok_or_else(|| Status::from(Code::NotFound.on("the archive")))?;
        let rest = bytes[request.offset as usize..].to_vec();
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let data = rest[..cut.unwrap_or(rest.len()).min(rest.len())].to_vec();
            let _ = sender.send(Ok(v1::SourceChunk { data: data.into() })).await;
            if cut.is_some() {
                let _ = sender.send(Err(Status::unavailable("cut"))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// A job whose source is an archive of one file.
pub(super) fn job(plane: &Plane, id: &str, kind: JobKind, main: &str) -> JobRequest {
    let bytes = packed(main);
    let sha256 = shared_proto::hex::encode(Sha256::digest(&bytes));
    let size = bytes.len() as u64;
    plane.update(|p| p.archives.insert(sha256.clone(), bytes));
    JobRequest {
        format: 1,
        job_id: id.into(),
        stack_id: "s1".into(),
        stack_name: "stack".into(),
        kind: kind.into(),
        engine: "opentofu".into(),
        source: Some(archive_source(&sha256, size)),
        ..Default::default()
    }
}

pub(super) fn archive_source(sha256: &str, size: u64) -> v1::Source {
    let archive = v1::ArchiveSource { sha256: sha256.into(), size };
    v1::Source { kind: Some(v1::source::Kind::Archive(archive)), path: String::new() }
}

/// A tar.gz of `main.tf`, by the tar program.
fn packed(main: &str) -> Vec<u8> {
    let folder = Temporary::new();
    std::fs::write(folder.0.join("main.tf"), main).expect("writes");
    let packed =
        std::process::Command::new("tar").args(["-cz", "main.tf"]).current_dir(&folder.0).output().expect("tar");
    assert!(packed.status.success());
    packed.stdout
}

struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("jobs-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&path).expect("a folder");
        Self(path)
    }
}
impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A machine with a state directory.
pub(super) struct Host {
    state: Temporary,
    worker: PathBuf,
    engine: PathBuf,
    pub(super) instance: String,
    pub(super) silence_max: Duration,
    pub(super) limits: TimeLimits,
}

/// One supervisor's life: a runtime.
pub(super) struct Supervisor {
    runtime: Option<tokio::runtime::Runtime>,
    jobs: Jobs,
}

impl Host {
    pub(super) fn new() -> Option<Self> {
        let own = std::env::current_exe().expect("a path");
        let worker = own.parent()?.parent()?.join("runner-worker-iac");
        let cached = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/runner-test-tools/bin"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<_> = std::env::split_paths(&path).chain(cached).collect();
        let engine =
            ["tofu", "terraform"].iter().find_map(|name| folders.iter().map(|f| f.join(name)).find(|p| p.is_file()));
        match engine {
            Some(engine) if worker.is_file() => {
                let mut host = Self::bare();
                (host.worker, host.engine) = (worker, engine);
                Some(host)
            }
            _ => {
                println!("SKIPPED: {} or an engine is not here", worker.display());
                None
            }
        }
    }
    /// One without worker and engine.
    pub(super) fn bare() -> Self {
        let nowhere = PathBuf::from("/nonexistent");
        Self {
            state: Temporary::new(),
            worker: nowhere.clone(),
            engine: nowhere,
            instance: "i1".into(),
            silence_max: super::SILENCE_MAX,
            limits: TimeLimits::default(),
        }
    }
    pub(super) fn state_dir(&self) -> &Path {
        &self.state.0
    }
    pub(super) fn supervisor(&self, plane: &Plane) -> Supervisor {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let settings = Settings {
            state_dir: self.state.0.clone(),
            state_key_file: None,
            instance_id: self.instance.clone(),
            incarnation: "n1".into(),
            at_once: 4,
            hostname: "here".into(),
            isolation: "confined",
            engines: Engines::new([(Engine::OpenTofu, self.engine.clone())], &self.state.0.join("engines")),
            git: "/usr/bin/git".into(),
            backoff: (Duration::from_millis(50), Duration::from_millis(200)),
            take_over: false,
            job_cgroup: false,
            disk: super::DiskLimits::NONE,
            limits: self.limits,
            plan_retries: 0,
            renew_every: Duration::from_millis(100),
            source_cache: 0,
            silence_max: self.silence_max,
        };
        let around = Around { plane: plane.clone(), worker: self.worker.clone() };
        let guard = runtime.enter();
        let jobs = super::start(settings, Arc::new(around), tokio::sync::watch::channel(false).1).expect("starts");
        drop(guard);
        Supervisor { runtime: Some(runtime), jobs }
    }
    pub(super) fn folder(&self, id: &str) -> PathBuf {
        self.state.0.join("jobs").join(id)
    }
    pub(super) fn stack(&self, stack: &str) -> PathBuf {
        self.state.0.join("stacks").join(stack)
    }
    pub(super) fn state(&self, stack: &str) -> String {
        use shared_proto::states::{VERSIONS, file_name, number_of};
        let versions = self.stack(stack).join(VERSIONS);
        let names = std::fs::read_dir(&versions).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let Some(newest) = names.filter_map(|name| number_of(name.to_str()?)).max() else { return String::new() };
        let file = std::fs::read(versions.join(file_name(newest))).expect("a version");
        let key = super::key::of_stack(&self.state.0, None, stack).expect("a key");
        let (_, state) = key.open(stack, newest, file).expect("opens");
        String::from_utf8(state).expect("text")
    }
    /// The worker of a step whose first process that is.
    pub(super) fn inner(first: i32) -> i32 {
        let first = super::identity::ProcessIdentity::of(first).expect("lives");
        first.worker().expect("a worker")
    }
    /// The first process of a step, as its marker has it.
    pub(super) fn worker(&self, id: &str, marker: &str) -> Option<i32> {
        let text = std::fs::read(self.folder(id).join("own").join(marker)).ok()?;
        let value: serde_json::Value = serde_json::from_slice(&text).ok()?;
        i32::try_from(value["process"]["pid"].as_i64()?).ok()
    }
    /// Whether the spool has its result.
    pub(super) fn ended(&self, id: &str) -> bool {
        super::spool::tip(
            &super::folder::Store::open(&self.state.0)
                .expect("opens")
                .list()
                .expect("lists")
                .into_iter()
                .find(|f| f.name() == id)
                .expect("a folder"),
        )
        .is_ok_and(|tip| tip.ended)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // what a failed test leaves running ends with it
        for entry in std::fs::read_dir(self.state.0.join("jobs")).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            for marker in ["started-plan", "started-apply"] {
                if let Some(pid) = self.worker(&id, marker) {
                    runner_sandbox::sessions::kill(pid);
                }
            }
        }
    }
}

impl Supervisor {
    pub(super) fn summary(&self) -> Vec<JobSummary> {
        let runtime = self.runtime.as_ref().expect("lives");
        runtime.block_on(self.jobs.summary()).expect("answers")
    }
    /// As where another process is to have them.
    pub(super) fn let_go(&self) {
        let runtime = self.runtime.as_ref().expect("lives");
        runtime.block_on(self.jobs.let_go()).expect("lets go");
        assert!(runtime.block_on(self.jobs.summary()).is_err(), "it still has them");
    }
    /// Asks what there is as it lets go, and after that: each time there is an answer within that time.
    pub(super) fn asked_while_it_lets_go(&self, limit: Duration) {
        let runtime = self.runtime.as_ref().expect("lives");
        let asking = runtime.spawn({
            let jobs = self.jobs.clone();
            async move { while jobs.summary().await.is_ok() {} }
        });
        runtime.block_on(self.jobs.let_go()).expect("lets go");
        let all = async {
            assert!(self.jobs.summary().await.is_err(), "it still has them");
            asking.await.expect("asks");
        };
        runtime.block_on(async { tokio::time::timeout(limit, all).await }).expect("an answer");
    }
    pub(super) fn adopt_again(&self) {
        let _in = self.runtime.as_ref().expect("lives").enter();
        self.jobs.adopt_again().expect("adopts");
    }
    /// Has all jobs stopped, and waits for that.
    pub(super) fn stop(&self) {
        self.runtime.as_ref().expect("lives").block_on(self.jobs.stop());
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

struct Around {
    plane: Plane,
    worker: PathBuf,
}

#[tonic::async_trait]
impl Surroundings for Around {
    fn plan_rules(&self) -> String {
        self.plane.update(|p| p.plan_rules.clone())
    }
    fn environment(&self) -> HashMap<String, String> {
        self.plane.update(|p| p.environment.clone())
    }
    fn reconciles(&self, _: &v1::JobRequest) -> bool {
        self.plane.update(|p| p.reconciles)
    }
    async fn connect(&self) -> Result<Connection, Failure> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let server = ExecutionServer::new(self.plane.clone());
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(theirs), hyper_util::service::TowerToHyperService::new(server)),
        );
        Ok(Connection { stream: Box::new(ours), refusal: Arc::new(|| None) })
    }
    fn api_key(&self) -> Secret {
        Secret::new("the-key")
    }
    async fn resolve(&self, connection: &str, _: Asker<'_>) -> Result<v1::Target, Failure> {
        let with = |token: String| {
            let target = v1::KubernetesTarget { server: "https://k".into(), token, ..Default::default() };
            Ok(v1::Target { kind: Some(v1::target::Kind::Kubernetes(target)) })
        };
        match connection {
            "both" | "reading" => {
                let token = self.plane.update(|p| {
                    p.resolved.push(connection.to_owned());
                    p.token
                });
                with(format!("token-of-{connection}-{token}"))
            }
            "prod" => Ok(v1::Target { kind: Some(v1::target::Kind::Kubernetes(v1::KubernetesTarget::default())) }),
            other => Err(Code::UnknownConnection.on(other)),
        }
    }
    fn plans_with(&self, connection: &str) -> Option<String> {
        (connection == "both").then(|| "reading".to_owned())
    }
    fn ended(&self, _: &str, _: &str) {}
    async fn secrets(&self, _: &v1::JobRequest) -> Result<HashMap<String, String>, Failure> {
        Ok(self.plane.update(|p| p.secrets.clone()))
    }
    async fn allows(&self, _: &v1::JobRequest, _: bool) -> Result<Option<crate::policy::Permit>, Failure> {
        Ok(None)
    }
    async fn source_access(&self, _: &v1::Source) -> Result<Option<v1::SourceAccess>, Failure> {
        Ok(None)
    }
    fn states_at(&self) -> String {
        self.plane.update(|p| p.state_place.as_ref().map(shared_proto::states::shown).unwrap_or_default())
    }
    async fn state_place(&self, _: Asker<'_>) -> Option<v1::StatePlace> {
        self.plane.update(|p| p.state_place.clone())
    }
    async fn first_word(
        &self,
        _: &[v1::JobTarget],
        _: Option<&v1::SourceAccess>,
        _: Option<&v1::StatePlace>,
    ) -> v1::JobFirst {
        v1::JobFirst::default()
    }
    async fn start_worker(&self, folder: OwnedFd, _: Reaches) -> Result<Started, Failure> {
        if self.plane.update(|p| p.no_worker) {
            // as long as that supervisor lives
            std::future::pending::<()>().await;
        }
        let dies = self.plane.update(|p| {
            let left = p.spawner_dies.saturating_sub(1);
            std::mem::replace(&mut p.spawner_dies, left) > 0
        });
        if dies {
            return Err(Code::WorkerCrashed.on("the spawner ended while it started the worker"));
        }
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let work = std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).expect("a folder");
        let mut child = spawn(&self.worker, &work, theirs);
        let pid = i32::try_from(child.id().expect("runs")).expect("a pid");
        // it leads its session once the shell has become it
        while runner_sandbox::sessions::members(pid).is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (tell, exit) = oneshot::channel();
        tokio::spawn(async move {
            let status = child.wait().await.expect("ends");
            // as the spawner tells it of a first process
            let signal = status.code().filter(|code| (129..=192).contains(code)).map(|code| code - 128);
            let code = status.code().filter(|_| signal.is_none());
            let _ = tell.send(Exit { code, signal: signal.or(status.signal()), ..Exit::default() });
        });
        ours.set_nonblocking(true).expect("sets");
        Ok(Started { pid, socket: tokio::net::UnixStream::from_std(ours).expect("a stream"), dial: None, exit })
    }
    async fn signal(&self, process: PidFd, signal: Signal) {
        let _ = process.signal(signal as i32);
    }
}

/// As the spawner does it, by a shell: the socket on descriptor 3, a session of its own.
fn spawn(worker: &Path, work: &Path, socket: std::os::unix::net::UnixStream) -> tokio::process::Child {
    tokio::process::Command::new("sh")
        .args(["-c", "exec 3<&0 4<\"$0\" </dev/null; exec setsid \"$0\" job"])
        .arg(worker)
        .current_dir(work)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(std::process::Stdio::from(OwnedFd::from(socket)))
        .spawn()
        .expect("starts")
}
