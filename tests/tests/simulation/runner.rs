//! A supervisor's tunnel and jobs on a simulated host.

use super::chance::Chance;
use super::world::Shared;
use futures_util::task::AtomicWaker;
use runner_sandbox::{PidFd, channel};
use runner_supervisor::config::{Asker, Config};
use runner_supervisor::credentials::Resolver;
use runner_supervisor::domains::Domains;
use runner_supervisor::engines::{Engine, Engines};
use runner_supervisor::jobs::{self, Connection, DiskLimits, RENEW_EVERY, SILENCE_MAX, Surroundings};
use runner_supervisor::operations::Operations;
use runner_supervisor::recorder::Recorder;
use runner_supervisor::spawner::wire::Mechanisms;
use runner_supervisor::tunnel::dial::{Dial, Dialled, PeerClock};
use runner_supervisor::tunnel::leaf::Leaves;
use runner_supervisor::tunnel::succession::Succession;
use runner_supervisor::tunnel::{self, About, Settings, TunnelStatus};
use runner_supervisor::workers::{Ends, Reaches, Started, Workers};
use shared_proto::bounds::CONNECT_DEADLINE;
use shared_proto::credentials::Endpoint;
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use shared_proto::v1::{JobFirst, JobRequest, JobTarget, Source, SourceAccess, StatePlace, Target};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use turmoil::net::TcpStream;

/// What a host needs that is this instance.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) shared: Shared,
    pub(crate) settings: Arc<Settings>,
    pub(crate) incarnations: Arc<AtomicU64>,
}

/// Jobs at once.
const AT_ONCE: u32 = 2;

/// The instance.
pub(crate) const INSTANCE: &str = "9f3c6d1e-0000-4000-8000-000000000001";

/// One life of the supervisor: as long as nobody kills it.
pub(crate) async fn live(setup: Setup) -> turmoil::Result {
    let incarnation = setup.incarnations.fetch_add(1, Ordering::Relaxed);
    let incarnation: Arc<str> = format!("incarnation-{incarnation}").into();
    let settings = setup.settings.clone();
    let config = &settings.config;
    let (_replace, current) = watch::channel(settings.clone());
    let ((spawner, _its), (launcher, _its_too)) = (channel::pair()?, channel::pair()?);
    let state: OwnedFd = std::fs::File::open(&config.state_dir)?.into();
    let (_domains, domains) = watch::channel(Domains::new(config, &Mechanisms::default())?);
    let (workers, _orders) = Workers::start_task(Ends { spawner, launcher, state }, config.workers.clone(), domains)?;
    let resolver = Resolver::start(current.clone(), workers.clone());
    let (_intake, draining) = watch::channel(false);
    let operations = Operations::new(current.clone(), workers, resolver, Recorder::off(), draining.clone(), "confined");
    let clock = PeerClock::default();
    let leaves = Leaves::open(&config.state_dir, INSTANCE.into(), &settings.credentials, clock.clone());
    let (status, _status) = watch::channel(TunnelStatus::default());
    let jobs = jobs::start(
        job_settings(&setup, &incarnation),
        Arc::new(Around(setup.shared.clone(), setup.settings.clone())),
        draining.clone(),
    )?;
    tunnel::run(tunnel::Parts {
        settings: current,
        dialer: Way(setup.shared.clone()),
        clock,
        leaves,
        operations,
        instance: INSTANCE.into(),
        incarnation,
        about: About {
            isolation_level: String::new(),
            isolation_missing: Vec::new(),
            hostname: String::new(),
            engines: engines(config),
            seal_key: Vec::new(),
        },
        status,
        draining,
        seals: Recorder::off().seals(),
        drain: CancellationToken::new(),
        succession: Succession::default(),
        hurry: CancellationToken::new(),
        token: None,
    })
    .await;
    drop(jobs);
    Err("the tunnel ended by itself".into())
}

fn engines(config: &Config) -> Engines {
    Engines::new([(Engine::OpenTofu, "/bin/true".into())], &config.engines.directory)
}

fn job_settings(setup: &Setup, incarnation: &str) -> jobs::Settings {
    let config = &setup.settings.config;
    jobs::Settings {
        state_dir: config.state_dir.clone(),
        state_key_file: None,
        instance_id: INSTANCE.to_owned(),
        incarnation: incarnation.to_owned(),
        at_once: AT_ONCE,
        hostname: "simulated".to_owned(),
        isolation: "confined",
        engines: engines(config),
        git: "/bin/true".into(),
        backoff: (config.tunnel.backoff_first, config.tunnel.backoff_max),
        take_over: true,
        job_cgroup: false,
        disk: DiskLimits { bytes: u64::MAX, files: u64::MAX },
        source_cache: 0,
        silence_max: SILENCE_MAX,
        limits: config.jobs.limits,
        plan_retries: 0,
        renew_every: RENEW_EVERY,
    }
}

/// What connects the tunnel.
struct Way(Shared);

impl Dial for Way {
    type Stream = Wire;

    async fn dial(&self, _: &Endpoint, _: &'static [u8]) -> Result<Dialled<Wire>, Failure> {
        let stream = connect(&self.0, super::plane::TUNNEL).await?;
        Ok(Dialled { stream, local: None, refusal: Arc::new(|| None) })
    }
}

async fn connect(shared: &Shared, port: u16) -> Result<Wire, Failure> {
    let connecting = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(("plane", port)));
    let stream = match connecting.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return Err(Code::DialFailed.on(e.to_string())),
        Err(_) => return Err(Code::DialFailed.on("not connected in time")),
    };
    let cut = Arc::new(Cut::default());
    shared.lock().wires.push(Arc::downgrade(&cut));
    Ok(Wire { stream: Some(stream), cut, shared: shared.clone() })
}

/// Whether a connection is reset.
#[derive(Default)]
pub(crate) struct Cut {
    is: AtomicBool,
    /// The other end is not told of it.
    silent: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

/// A connection that can be reset.
pub(crate) struct Wire {
    /// As long as this lives.
    stream: Option<TcpStream>,
    cut: Arc<Cut>,
    shared: Shared,
}

// === impl Cut ===

impl Cut {
    /// Resets it; silently where the other end is to hear nothing of that.
    pub(crate) fn now(&self, silent: bool) {
        self.silent.store(silent, Ordering::Release);
        self.is.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }
    fn look(&self, waker: &AtomicWaker, cx: &Context<'_>) -> io::Result<()> {
        waker.register(cx.waker());
        match self.is.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.cut.silent.load(Ordering::Acquire) {
            self.shared.lock().ghosts.extend(self.stream.take());
        }
    }
}

impl Wire {
    fn stream(&mut self) -> Pin<&mut TcpStream> {
        // taken in the drop alone
        Pin::new(self.stream.as_mut().expect("lives"))
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.cut.look(&self.cut.reader, cx)?;
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.cut.look(&self.cut.writer, cx)?;
        self.stream().poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

/// What jobs need.
struct Around(Shared, Arc<Settings>);

#[tonic::async_trait]
impl Surroundings for Around {
    fn environment(&self) -> HashMap<String, String> {
        HashMap::new()
    }
    fn plan_rules(&self) -> String {
        String::new()
    }
    fn reconciles(&self, _: &shared_proto::v1::JobRequest) -> bool {
        false
    }
    async fn connect(&self) -> Result<Connection, Failure> {
        let stream = connect(&self.0, super::plane::EXECUTION).await?;
        Ok(Connection { stream: Box::new(stream), refusal: Arc::new(|| None) })
    }
    fn api_key(&self) -> Secret {
        self.1.credentials.api_key.clone()
    }
    async fn resolve(&self, connection: &str, _: Asker<'_>) -> Result<Target, Failure> {
        Err(Code::UnknownConnection.on(connection))
    }
    fn plans_with(&self, _: &str) -> Option<String> {
        None
    }
    fn ended(&self, _: &str, _: &str) {}
    async fn secrets(&self, _: &JobRequest) -> Result<HashMap<String, String>, Failure> {
        Ok(HashMap::new())
    }
    async fn allows(
        &self,
        _: &shared_proto::v1::JobRequest,
        _: bool,
    ) -> Result<Option<runner_supervisor::policy::Permit>, Failure> {
        Ok(None)
    }
    async fn source_access(&self, _: &Source) -> Result<Option<SourceAccess>, Failure> {
        Ok(None)
    }
    fn states_at(&self) -> String {
        String::new()
    }
    async fn state_place(&self, _: Asker<'_>) -> Option<StatePlace> {
        None
    }
    async fn first_word(&self, _: &[JobTarget], _: Option<&SourceAccess>, _: Option<&StatePlace>) -> JobFirst {
        JobFirst::default()
    }
    async fn start_worker(&self, _: OwnedFd, reaches: Reaches) -> Result<Started, Failure> {
        let failed = |e: anyhow::Error| Code::Internal.on(format!("{e:#}"));
        let mut world = self.0.lock();
        let chance = Chance::new(world.seed, world.chance.next());
        let (pid, socket, exit) = world.workers.start(reaches.work, chance).map_err(failed)?;
        drop(world);
        let socket = tokio::net::UnixStream::from_std(socket).map_err(|e| failed(e.into()))?;
        Ok(Started { pid, socket, dial: None, exit })
    }
    async fn signal(&self, process: PidFd, signal: nix::sys::signal::Signal) {
        use nix::sys::signal::Signal;
        if let Some(pid) = process.pid() {
            match signal {
                Signal::SIGTERM => self.0.lock().workers.signal(pid, false),
                Signal::SIGKILL => self.0.lock().workers.signal(pid, true),
                _ => {}
            }
        }
    }
}
