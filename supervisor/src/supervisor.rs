//! The supervisor: reads who it is, joins the rooms, and leaves in good order.

use crate::cli::Flags;
use crate::config::{Config, ConfigError};
use crate::credentials::Resolver;
use crate::domains::Domains;
use crate::isolation::Guarantees;
use crate::jobs::{self, SILENCE_MAX, Surroundings};
use crate::operations::Operations;
use crate::own::Own;
use crate::spawner::wire::Mechanisms;
use crate::state::State;
use crate::tunnel::dial::{Dialer, PeerClock};
use crate::tunnel::{self, Settings, TunnelStatus};
use crate::workers::{Ends, Order, Program, Reaches, Started, Workers};
use crate::{admin, job_network, logging};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shared_proto::EXECUTION_ALPN;
use shared_proto::failure::Failure;
use shared_proto::secret::Secret;
use shared_proto::v1::{JobFirst, JobTarget, Target};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What the tunnel gets beyond the operations' grace to say goodbye.
const GOODBYE: Duration = Duration::from_secs(4);

/// Why it ends, other than by being told.
#[derive(Debug)]
enum Fatal {
    Config(ConfigError),
    Failure(Failure),
    System(String),
}

/// Runs until the launcher says that it is over; returns the exit code.
pub fn run(flags: &Flags) -> i32 {
    match prepare(flags).and_then(live) {
        Ok(()) => 0,
        Err(Fatal::Config(e)) => {
            eprintln!("runner: {e}");
            crate::exit::CONFIG
        }
        Err(Fatal::Failure(f)) => {
            eprintln!("runner: {f}");
            f.code.exit()
        }
        Err(Fatal::System(e)) => {
            eprintln!("runner: {e}");
            crate::exit::OS_ERROR
        }
    }
}

struct Prepared {
    flags: Flags,
    settings: Arc<Settings>,
    mechanisms: Mechanisms,
    guarantees: Guarantees,
    own: Own,
    domains: Domains,
    state: State,
    ends: Ends,
}

/// Everything that can be wrong from the start, in the order in which nothing is opened or read before what protects it.
fn prepare(flags: &Flags) -> Result<Prepared, Fatal> {
    let system = |what: &'static str| move |e: std::io::Error| Fatal::System(format!("{what}: {e}"));
    // 1. nobody of our uid may look into this process from here on
    runner_sandbox::process::forbid_dumps().map_err(system("not dumpable"))?;
    // 2. what we create is ours alone
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // an operation holds two descriptors, and a third while it is connected: as many as the system allows. Workers' limits are their own
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    // 3. what the launcher left us, before anything else takes these numbers
    let by_hand = system("the launcher (`runner run`) starts the supervisor");
    let spawner = runner_sandbox::inherited_descriptor(3).map_err(&by_hand)?;
    let launcher = runner_sandbox::inherited_descriptor(4).map_err(&by_hand)?;
    // 4. what we are told
    let config = flags.load().map_err(Fatal::Config)?;
    logging::start(config.log_format, &config.log_level).map_err(Fatal::Config)?;
    config.check_programs().map_err(Fatal::Config)?;
    // 5. whether workers would be confined as required
    let mechanisms = Workers::mechanisms(&spawner).map_err(system("the spawner"))?;
    let mut guarantees = Guarantees::with(&mechanisms);
    guarantees.suffice(config.isolation_require).map_err(Fatal::Failure)?;
    // 6. the state directory, which may take root's rights to make
    let state = State::take(&config.state_dir).map_err(Fatal::Failure)?;
    // 7. from here on we are no more than we must be, and then who we are is read
    let own = Own::confine(&config, &mechanisms).map_err(system("giving up privileges"))?;
    guarantees.missing.extend(own.missing.iter().cloned());
    State::is_ours(&config.state_dir).map_err(Fatal::Failure)?;
    let settings = Settings::load(config).map_err(Fatal::Failure)?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| Fatal::System("another TLS provider is installed".to_owned()))?;
    let domains = Domains::new(&settings.config, &mechanisms).map_err(system("domains for workers"))?;
    Ok(Prepared {
        flags: flags.clone(),
        settings,
        mechanisms,
        guarantees,
        own,
        domains,
        state,
        ends: Ends { spawner, launcher },
    })
}

fn live(prepared: Prepared) -> Result<(), Fatal> {
    let failed = |e: std::io::Error| Fatal::System(format!("the runtime: {e}"));
    // one thread: several wake each other for every piece that comes, which on two processors made a byte's way longer and moved no more of
    // them. What may block is done on threads for that
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    // and so are jobs: they wait for their disk, and no ping waits for it with them
    let disk = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("jobs")
        .enable_all()
        .build()
        .map_err(failed)?;
    let result = runtime.block_on(join(prepared, disk.handle()));
    // what still runs is in nobody's way: the process ends
    disk.shutdown_background();
    runtime.shutdown_background();
    result
}

/// Joins the rooms, and waits for the end. `disk`: where jobs run.
async fn join(prepared: Prepared, disk: &Handle) -> Result<(), Fatal> {
    let Prepared { flags, settings, mechanisms, guarantees, own, domains, state, ends } = prepared;
    let (reach, domains) = watch::channel(domains);
    let (replace, current) = watch::channel(settings.clone());
    let (workers, mut orders) = Workers::start_task(ends, settings.config.workers.clone(), domains)
        .map_err(|e| Fatal::System(format!("the launcher's sockets: {e}")))?;
    let resolver = Resolver::start(current.clone(), workers.clone());
    let operations =
        Operations::new(current.clone(), workers.clone(), resolver.clone(), guarantees.operations.as_str());
    let clock = PeerClock::default();
    let dialer = Dialer::new(current.clone(), clock.clone());
    let hostname = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default();
    let engines = settings.config.engine_programs();

    let around = Around { settings: current.clone(), dialer: dialer.clone(), resolver, workers: workers.clone() };
    let jobs = {
        let _on_its_own = disk.enter();
        let isolation = guarantees.jobs.as_str();
        let settings = job_settings(&settings.config, &mechanisms, &state, &hostname, &engines, isolation);
        jobs::start(settings, Arc::new(around))
    };
    let jobs = jobs.map_err(Fatal::Failure)?;

    let floor = guarantees.clone();
    let (status, tunnel_status) = watch::channel(TunnelStatus::default());
    let drain = CancellationToken::new();
    let about = tunnel::About {
        isolation_level: guarantees.level.as_str().to_owned(),
        isolation_missing: guarantees.missing.clone(),
        hostname,
        engines: engines.keys().cloned().collect(),
    };
    tracing::info!(
        version = shared_proto::VERSION,
        instance = &*state.instance,
        runner = settings.credentials.runner,
        isolation = guarantees.level.as_str(),
        not_enforced = guarantees.missing.join(", "),
        "runner started"
    );
    let mut tunnel = tokio::spawn(tunnel::run(tunnel::Parts {
        settings: current.clone(),
        dialer,
        clock,
        operations: operations.clone(),
        instance: state.instance.clone(),
        incarnation: state.incarnation.clone(),
        about,
        status,
        drain: drain.clone(),
    }));
    let facts = admin::Facts {
        settings: current,
        tunnel: tunnel_status,
        operations: operations.clone(),
        jobs: jobs.clone(),
        guarantees,
        instance: state.instance.clone(),
        drain: drain.clone(),
    };
    // without the socket operations and jobs go on all the same
    let admin = admin::serve(&settings.config.state_dir, facts).inspect_err(
        |f| tracing::error!(code = %f.code, detail = f.message, next_step = f.next_step, "no admin socket"),
    );

    let reloading =
        Reloading { flags, replace: &replace, workers: &workers, reach, mechanisms, guarantees: &floor, own };
    let drained = tokio::select! {
        now = orders_until_drain(&mut orders, &reloading) => !now,
        ended = &mut tunnel => {
            return Err(Fatal::System(format!("the tunnel's task ended: {ended:?}")));
        }
    };
    if !drained {
        return Ok(());
    }
    let left = jobs.summary().await.map_or(0, |jobs| jobs.len());
    tracing::info!(operations = operations.counts().running, jobs = left, "leaving");
    drain.cancel();
    let grace = replace.borrow().config.tunnel.drain_grace + GOODBYE;
    tokio::select! {
        _ = tokio::time::timeout(grace, &mut tunnel) => {}
        () = second_order(&mut orders) => tracing::warn!("told again, ending at once"),
    }
    for job in jobs.summary().await.unwrap_or_default() {
        tracing::info!(job = job.job_id, phase = job.phase, "job goes on without the supervisor");
    }
    // the socket goes while the state directory is still ours
    drop(admin);
    drop(state);
    Ok(())
}

/// Acts on orders until it is to leave; `true`: at once. A signal that somebody sends to the supervisor itself counts as an order to drain.
async fn orders_until_drain(orders: &mut mpsc::Receiver<Order>, reloading: &Reloading<'_>) -> bool {
    let mut terminate = signal(SignalKind::terminate()).ok();
    let mut interrupt = signal(SignalKind::interrupt()).ok();
    let mut hangup = signal(SignalKind::hangup()).ok();
    loop {
        let order = tokio::select! {
            order = orders.recv() => order.unwrap_or(Order::Now),
            () = received(&mut terminate) => Order::Drain,
            () = received(&mut interrupt) => Order::Drain,
            () = received(&mut hangup) => Order::Reload,
        };
        match order {
            Order::Drain => return false,
            Order::Now => return true,
            Order::Reload => reloading.reload().await,
        }
    }
}

async fn received(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// A second order of any kind but to reload.
async fn second_order(orders: &mut mpsc::Receiver<Order>) {
    while let Some(Order::Reload) = orders.recv().await {}
}

/// What reading the configuration again needs and changes.
struct Reloading<'a> {
    flags: Flags,
    replace: &'a watch::Sender<Arc<Settings>>,
    workers: &'a Workers,
    reach: watch::Sender<Domains>,
    mechanisms: Mechanisms,
    guarantees: &'a Guarantees,
    own: Own,
}

impl Reloading<'_> {
    /// Whole or not at all.
    async fn reload(&self) {
        let loaded = self.flags.load().map_err(|e| e.to_string()).and_then(|config| {
            if config.state_dir != self.replace.borrow().config.state_dir {
                return Err("state_dir cannot be changed while it runs".to_owned());
            }
            config.check_programs().map_err(|e| e.to_string())?;
            self.guarantees.suffice(config.isolation_require).map_err(|f| f.to_string())?;
            self.own.still_reads(&config)?;
            let domains = Domains::new(&config, &self.mechanisms).map_err(|e| format!("domains for workers: {e}"))?;
            Ok((Settings::load(config).map_err(|f| f.to_string())?, domains))
        });
        match loaded {
            Ok((settings, domains)) => {
                self.workers.use_programs(settings.config.workers.clone()).await;
                self.reach.send_replace(domains);
                self.replace.send_replace(settings);
                tracing::info!("configuration and credentials read again");
            }
            Err(reason) => tracing::error!(reason, "not reloaded, nothing has changed"),
        }
    }
}

/// What jobs need from the rest.
struct Around {
    settings: watch::Receiver<Arc<Settings>>,
    dialer: Dialer,
    resolver: Resolver,
    workers: Workers,
}

#[tonic::async_trait]
impl Surroundings for Around {
    async fn connect(&self) -> Result<jobs::Connection, Failure> {
        let endpoint = self.settings.borrow().credentials.execution.clone();
        let connected = self.dialer.connect(&endpoint, EXECUTION_ALPN).await?;
        let verdict = connected.verdict;
        Ok(jobs::Connection { stream: Box::new(connected.stream), refusal: Arc::new(move || verdict.told()) })
    }
    fn api_key(&self) -> Secret {
        self.settings.borrow().credentials.api_key.clone()
    }
    async fn resolve(&self, connection: &str) -> Result<Target, Failure> {
        self.resolver.resolve(connection).await.map(|target| (*target).clone())
    }
    async fn first_word(&self, targets: &[JobTarget]) -> JobFirst {
        let settings = self.settings.borrow().clone();
        let credentials = &settings.credentials;
        job_network::first_word(&settings.config, &[&credentials.tunnel, &credentials.execution], targets).await
    }
    async fn start_worker(&self, directory: OwnedFd, reaches: Reaches) -> Result<Started, Failure> {
        self.workers.start(Program::Job { directory, reaches }).await
    }
}

fn job_settings(
    config: &Config,
    mechanisms: &Mechanisms,
    state: &State,
    hostname: &str,
    engines: &BTreeMap<String, PathBuf>,
    isolation: &'static str,
) -> jobs::Settings {
    let mut environment = BTreeMap::new();
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            environment.insert(name.to_owned(), value);
        }
    };
    set("PATH", config.environment.get("PATH").cloned());
    set("TF_CLI_CONFIG_FILE", config.engines.cli_config.as_ref().map(|p| p.display().to_string()));
    // what worker-iac knows it by
    set("RUNNER_ALLOW_FILE_SOURCES", config.allow_file_sources.then(|| "1".to_owned()));
    if let Some(url) = &config.proxy.url {
        let url = format!("http://{}", url.authority());
        set("HTTPS_PROXY", Some(url.clone()));
        set("HTTP_PROXY", Some(url));
        set("NO_PROXY", Some(config.proxy.no_proxy.clone()));
    }
    jobs::Settings {
        state_dir: config.state_dir.clone(),
        instance_id: state.instance.to_string(),
        incarnation: state.incarnation.to_string(),
        at_once: config.jobs_at_once,
        hostname: hostname.to_owned(),
        isolation,
        engines: engines.clone(),
        git: config.git_program(),
        environment,
        backoff: (config.tunnel.backoff_first, config.tunnel.backoff_max),
        job_cgroup: mechanisms.job_cgroup,
        silence_max: SILENCE_MAX,
    }
}
