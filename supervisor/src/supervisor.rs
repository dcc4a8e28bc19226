//! The supervisor: reads who it is, joins the rooms, and leaves in good order.

use crate::admin::{Answering, Refusal, Upgraded};
use crate::cli::Flags;
use crate::config::{Asker, Config, ConfigError, GOODBYE};
use crate::credentials::{Resolver, of_source};
use crate::domains::Domains;
use crate::engines::Engines;
use crate::hand_over::{Following, Given, Heard, Predecessor, Successor};
use crate::intake::Intake;
use crate::isolation::Guarantees;
use crate::jobs::{self, Jobs, RENEW_EVERY, SILENCE_MAX, Surroundings};
use crate::launcher::hand_over::Kept;
use crate::operations::Operations;
use crate::own::Own;
use crate::policy::{self, Permit};
use crate::recorder::{self, Recorder};
use crate::spawner::wire::Mechanisms;
use crate::state::State;
use crate::tunnel::dial::{Dialer, PeerClock};
use crate::tunnel::leaf::Leaves;
use crate::tunnel::succession::Succession;
use crate::tunnel::{self, Settings, TunnelStatus};
use crate::workers::{Ends, Order, Program, Reaches, Started, Workers};
use crate::{admin, audit, hand_over, job_network, logging, secrets, state};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use runner_sandbox::PidFd;
use shared_proto::EXECUTION_ALPN;
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use shared_proto::v1::{JobFirst, JobRequest, JobTarget, Source, SourceAccess, StatePlace, StatePlaceRefused, Target};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How long one that is not given its predecessor's place after all may take to finish what was routed to it.
const NOT_GIVEN_WITHIN: Duration = Duration::from_secs(10);

/// Why it ends, other than by being told.
#[derive(Debug)]
enum Fatal {
    Config(ConfigError),
    Failure(Failure),
    /// It was to follow another one, and was not given its place: the next may come as at any start.
    NotGiven(Failure),
    System(String),
}

/// Runs until the launcher says that it is over; returns the exit code.
pub fn run(flags: &Flags) -> i32 {
    // what the launcher left us, before anything else takes these numbers
    let predecessor = Predecessor::inherited();
    let (code, why) = match prepare(flags, predecessor.as_ref()).and_then(|p| live(p, predecessor.as_ref())) {
        Ok(()) => return 0,
        Err(Fatal::Config(e)) => (crate::exit::CONFIG, e.to_string()),
        Err(Fatal::Failure(f)) => (f.code.exit(), f.to_string()),
        Err(Fatal::NotGiven(f)) => (crate::exit::TEMPFAIL, f.to_string()),
        Err(Fatal::System(e)) => (crate::exit::OS_ERROR, e),
    };
    crate::say!("runner: {why}");
    if let Some(predecessor) = predecessor {
        predecessor.failed(&why);
    }
    code
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
fn prepare(flags: &Flags, predecessor: Option<&Predecessor>) -> Result<Prepared, Fatal> {
    let system = |what: &'static str| move |e: std::io::Error| Fatal::System(format!("{what}: {e}"));
    // 1. nobody of our uid may look into this process from here on
    runner_sandbox::process::forbid_dumps().map_err(system("not dumpable"))?;
    // 2. what we create is ours alone
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // an operation holds two descriptors, and a third while it is connected: as many as the system allows. Workers' limits are their own
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    // 3. the rest of what the launcher left us
    let by_hand = system("the launcher (`runner run`) starts the supervisor");
    let spawner = runner_sandbox::inherited_descriptor(3).map_err(&by_hand)?;
    let launcher = runner_sandbox::inherited_descriptor(4).map_err(&by_hand)?;
    // 4. what we are told
    let config = flags.load().map_err(Fatal::Config)?;
    logging::start(config.log_format, &config.log_level).map_err(Fatal::Config)?;
    config.check_programs().map_err(Fatal::Config)?;
    // 5. whether workers would be confined as required
    let state = nearest(&config.state_dir).map_err(system("the state directory"))?;
    let ends = Ends { spawner, launcher, state };
    let mechanisms = Workers::mechanisms(&ends).map_err(system("the spawner"))?;
    let mut guarantees = Guarantees::with(&mechanisms);
    guarantees.suffice(config.isolation_require).map_err(Fatal::Failure)?;
    // 6. the state directory, which may take root's rights to make; another process's as long as that is in charge
    let state = if predecessor.is_some() { State::follow } else { State::take };
    let state = state(&config.state_dir).map_err(Fatal::Failure)?;
    // 7. from here on we are no more than we must be, and then who we are is read
    let own = Own::confine(&config, &mechanisms).map_err(system("giving up privileges"))?;
    guarantees.missing.extend(own.missing.iter().cloned());
    State::is_ours(&config.state_dir).map_err(Fatal::Failure)?;
    let settings = match predecessor {
        Some(_) => Settings::whole(config).map_err(|e| Fatal::Config(ConfigError(e)))?,
        None => Settings::load(config).map_err(Fatal::Failure)?,
    };
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| Fatal::System("another TLS provider is installed".to_owned()))?;
    let domains = Domains::new(&settings.config, &mechanisms).map_err(system("domains for workers"))?;
    Ok(Prepared { flags: flags.clone(), settings, mechanisms, guarantees, own, domains, state, ends })
}

/// A folder, or the nearest one to it that is there.
///
/// # Errors
/// The system's.
pub(crate) fn nearest(path: &Path) -> std::io::Result<OwnedFd> {
    use nix::fcntl::{OFlag, open};
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let path = std::path::absolute(path)?;
    for folder in path.ancestors() {
        match open(folder, flags, nix::sys::stat::Mode::empty()) {
            Err(Errno::ENOENT) => {}
            found => return Ok(found?),
        }
    }
    Err(std::io::ErrorKind::NotFound.into())
}

fn live(prepared: Prepared, predecessor: Option<&Predecessor>) -> Result<(), Fatal> {
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
    let recorder = {
        let _within = runtime.enter();
        let (config, runner) = (&prepared.settings.config, &prepared.settings.credentials.runner);
        Recorder::start(
            &config.state_dir,
            audit_options(config, runner, &prepared.state.instance),
            predecessor.is_some(),
        )
    };
    let result = runtime.block_on(join(prepared, predecessor, disk.handle(), &recorder));
    // sealed at its end, behind what still belongs there; a disk that hangs does not keep it
    let _ = runtime.block_on(async { tokio::time::timeout(GOODBYE, recorder.written()).await });
    let _ = runtime.block_on(async { tokio::time::timeout(GOODBYE, recorder.give()).await });
    // what still runs is in nobody's way: the process ends
    disk.shutdown_background();
    runtime.shutdown_background();
    result
}

/// Joins the rooms, and waits for the end. `disk`: where jobs run.
async fn join(
    prepared: Prepared,
    predecessor: Option<&Predecessor>,
    disk: &Handle,
    recorder: &Recorder,
) -> Result<(), Fatal> {
    let Prepared { flags, settings, mechanisms, guarantees, own, domains, mut state, ends } = prepared;
    let (reach, domains) = watch::channel(domains);
    let (replace, current) = watch::channel(settings.clone());
    let (workers, mut orders) = Workers::start_task(ends, settings.config.workers.clone(), domains)
        .map_err(|e| Fatal::System(format!("the launcher's sockets: {e}")))?;
    let resolver = Resolver::start(current.clone(), workers.clone());
    let intake = Intake::of(&settings.config.state_dir);
    let closing = intake.clone();
    let operations = Operations::new(
        current.clone(),
        workers.clone(),
        resolver.clone(),
        recorder.clone(),
        intake.follow(),
        guarantees.operations.as_str(),
    );
    let clock = PeerClock::default();
    let leaves = Leaves::open(&settings.config.state_dir, state.instance.clone(), &settings.credentials, clock.clone());
    let dialer = Dialer::new(current.clone(), clock.clone(), leaves.clone());
    let hostname = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default();
    let engines = Engines::of(&settings.config);

    let around = Around {
        settings: current.clone(),
        dialer: dialer.clone(),
        resolver,
        workers: workers.clone(),
        recorder: recorder.clone(),
    };
    let around: Arc<dyn Surroundings> = Arc::new(around);
    let isolation = guarantees.jobs.as_str();
    let job_settings = job_settings(&settings.config, &mechanisms, &state, &hostname, &engines, isolation);

    let floor = guarantees.clone();
    let (status, tunnel_status) = watch::channel(TunnelStatus::default());
    let (drain, hurry) = (CancellationToken::new(), CancellationToken::new());
    let succession = Succession::default();
    let following = match predecessor.map(Predecessor::follow) {
        None => None,
        Some(Ok(following)) => Some(following),
        Some(Err(e)) => return Err(Fatal::System(format!("the socket of the process before: {e}"))),
    };
    let mut token = None;
    if let Some(following) = &following {
        let (shown, whose) = following.token().await.map_err(Fatal::NotGiven)?;
        // before anything is asked of it: what it would be given is another directory's
        if whose != state.whose(&settings.config.state_dir).map_err(Fatal::NotGiven)? {
            let failure = Code::InstanceConflict.on("state_dir is another one than that of the process before");
            return Err(Fatal::NotGiven(failure.next("Restart the runner to have it use another state directory.")));
        }
        token = Some(shown);
    }
    let about = tunnel::About {
        isolation_level: guarantees.level.as_str().to_owned(),
        isolation_missing: guarantees.missing.clone(),
        hostname,
        engines,
        seal_key: seal_key(&settings.config.state_dir),
    };
    tracing::info!(
        version = shared_proto::VERSION,
        instance = &*state.instance,
        runner = settings.credentials.runner,
        isolation = guarantees.level.as_str(),
        draining = intake.draining(),
        not_enforced = guarantees.missing.join(", "),
        "runner started"
    );
    let mut tunnel = tokio::spawn(tunnel::run(tunnel::Parts {
        settings: current.clone(),
        dialer,
        clock,
        leaves: leaves.clone(),
        operations: operations.clone(),
        instance: state.instance.clone(),
        incarnation: state.incarnation.clone(),
        about,
        status,
        draining: intake.follow(),
        seals: recorder.seals(),
        drain: drain.clone(),
        succession: succession.clone(),
        hurry: hurry.clone(),
        token,
    }));
    let given = match &following {
        None => None,
        Some(following) => tokio::select! {
            given = follow(following, tunnel_status.clone(), &settings.config.state_dir) => Some(given),
            () = second_order(&mut orders) => {
                // told to end as it comes: in good order, since it may serve already
                drain.cancel();
                tokio::select! {
                    _ = tokio::time::timeout(settings.config.tunnel.drain_grace + GOODBYE, &mut tunnel) => {}
                    () = second_order(&mut orders) => {}
                }
                return Ok(());
            }
        },
    };
    let mut socket = None;
    let taken = given.transpose().and_then(|given| {
        if let Some(Given { lock, admin }) = given {
            state.take_over(&settings.config.state_dir, lock)?;
            intake.look();
            socket = admin;
        }
        let _on_its_own = disk.enter();
        jobs::start(job_settings, around, intake.follow())
    });
    let jobs = match (taken, predecessor) {
        (Ok(jobs), _) => jobs,
        (Err(failure), None) => return Err(Fatal::Failure(failure)),
        (Err(failure), Some(predecessor)) => {
            predecessor.failed(&failure.to_string());
            // what was routed here meanwhile is finished first; all else is the one before's again
            tokio::select! {
                () = succession.handed_over() => {}
                () = no_session(tunnel_status) => {}
                () = tokio::time::sleep(NOT_GIVEN_WITHIN) => hurry.cancel(),
                () = second_order(&mut orders) => hurry.cancel(),
            }
            drain.cancel();
            let _ = tokio::time::timeout(GOODBYE, &mut tunnel).await;
            return Err(Fatal::NotGiven(failure));
        }
    };
    let (ask_upgrade, mut upgrades) = mpsc::channel(1);
    let (refuse_reload, reload_refused) = watch::channel(None);
    let facts = admin::Facts {
        settings: current,
        reload_refused,
        tunnel: tunnel_status.clone(),
        leaves,
        operations: operations.clone(),
        recorder: recorder.clone(),
        jobs: jobs.clone(),
        guarantees,
        instance: state.instance.clone(),
        intake,
        drain: drain.clone(),
        upgrades: ask_upgrade,
    };
    // without the socket operations and jobs go on all the same
    let admin = match socket {
        Some(socket) => admin::serve_on(socket, &settings.config.state_dir, facts),
        None => admin::serve(&settings.config.state_dir, facts),
    };
    let admin = admin.inspect_err(
        |f| tracing::error!(code = %f.code, detail = f.message, next_step = f.next_step, "no admin socket"),
    );
    let mut admin = admin.ok();
    if following.is_some() {
        tracing::info!("the instance is taken over from the process before");
    }

    workers.ready().await;
    let reloading = Reloading {
        flags,
        replace: &replace,
        workers: &workers,
        reach,
        mechanisms,
        guarantees: &floor,
        own,
        recorder,
        refused: refuse_reload,
    };
    let handing = HandingOver {
        succession: &succession,
        workers: &workers,
        jobs: &jobs,
        recorder,
        disk,
        state: &state,
        state_dir: &settings.config.state_dir,
        tunnel: tunnel_status.clone(),
        settings: &replace,
    };
    let end = tokio::select! {
        end = orders_until_the_end(&mut orders, &reloading, &mut upgrades, &handing, &mut admin) => end,
        ended = &mut tunnel => {
            return Err(Fatal::System(format!("the tunnel's task ended: {ended:?}")));
        }
    };
    let drain_grace = replace.borrow().config.drain_grace();
    match end {
        End::Now => return Ok(()),
        End::Drain => {}
        End::Given => {
            // a supervisor that follows the next one finds the lock free once that one is gone
            drop(state);
            if let Some(admin) = admin.take() {
                admin.hand_on().await;
            }
            tracing::info!(operations = operations.counts().running, "another process is in charge, leaving");
            tokio::select! {
                // what the control plane has routed here counts, whether it has arrived or not
                () = succession.handed_over() => {}
                () = no_session(tunnel_status) => {}
                () = tokio::time::sleep(drain_grace) => hurry.cancel(),
                () = second_order(&mut orders) => return Ok(()),
            }
            drain.cancel();
            tokio::select! {
                _ = tokio::time::timeout(GOODBYE, &mut tunnel) => {}
                () = second_order(&mut orders) => {}
            }
            return Ok(());
        }
    }
    let left = jobs.summary().await.map_or(0, |jobs| jobs.len());
    tracing::info!(operations = operations.counts().running, jobs = left, "leaving");
    drain.cancel();
    let (grace, within, end_with_us) = {
        let config = &replace.borrow().config;
        (config.drain_grace() + GOODBYE, config.jobs_stop_within(), config.jobs.end_with_runner)
    };
    let left = async {
        tokio::join!(tokio::time::timeout(grace, &mut tunnel), async {
            if let Some(within) = within {
                stop_jobs(&jobs, &closing, within).await;
            }
        })
    };
    tokio::select! {
        _ = left => {}
        () = second_order(&mut orders) => tracing::warn!("told again, ending at once"),
    }
    for job in jobs.summary().await.unwrap_or_default().into_iter().filter(|job| !job.done) {
        match end_with_us {
            false => tracing::info!(
                job = job.job_id,
                phase = job.phase,
                stop = format!("runnerctl job cancel {}, once a runner is there again", job.job_id),
                "job goes on without the supervisor"
            ),
            true => tracing::warn!(job = job.job_id, phase = job.phase, "what runs of the job ends with the container"),
        }
    }
    // the socket goes while the state directory is still ours
    drop(admin);
    drop(state);
    Ok(())
}

/// Asks jobs to stop, and waits until the control plane has their ends: what ends after that time is told by the next supervisor, where the state
/// directory is still there.
async fn stop_jobs(jobs: &jobs::Jobs, intake: &Intake, within: Duration) {
    intake.close();
    if tokio::time::timeout(within, jobs.stop()).await.is_err() {
        tracing::warn!(within_s = within.as_secs(), "not all jobs have stopped and are told in the time that there is");
    }
}

/// Waits for a session that is welcome, then for what the process before has. One that has died has let go of it.
async fn follow(
    following: &Following,
    mut tunnel: watch::Receiver<TunnelStatus>,
    state_dir: &Path,
) -> Result<Given, Failure> {
    let gone = || Code::Internal.on("the tunnel's task has ended");
    {
        let known = tunnel.wait_for(|s| !s.session.is_empty() || s.last_failure.is_some()).await.map_err(|_| gone())?;
        // one attempt: the token is good once, and the process before goes on
        if let Some(failure) = known.last_failure.as_ref().filter(|_| known.session.is_empty()) {
            return Err(Failure::from_wire(&failure.code, &failure.message, ""));
        }
    }
    let not_given = match following.take().await {
        Ok(given) => return Ok(given),
        Err(failure) => failure,
    };
    let state_dir = state_dir.to_owned();
    let lock = tokio::task::spawn_blocking(move || state::lock(&state_dir)).await.map_err(|_| gone())?;
    lock.map(|lock| Given { lock, admin: None }).map_err(|_| not_given)
}

/// Resolves once there is no session.
async fn no_session(mut tunnel: watch::Receiver<TunnelStatus>) {
    let _ = tunnel.wait_for(|s| s.session.is_empty()).await;
}

/// How it ends.
enum End {
    /// At once.
    Now,
    /// What is in flight finishes.
    Drain,
    /// The same, and another process is in charge.
    Given,
}

/// Acts on orders, and hands over where that is asked for, until it is to leave. A signal that somebody sends to the supervisor itself counts
/// as an order to drain.
async fn orders_until_the_end(
    orders: &mut mpsc::Receiver<Order>,
    reloading: &Reloading<'_>,
    upgrades: &mut mpsc::Receiver<admin::Upgrade>,
    handing: &HandingOver<'_>,
    admin: &mut Option<Answering>,
) -> End {
    let mut terminate = signal(SignalKind::terminate()).ok();
    let mut interrupt = signal(SignalKind::interrupt()).ok();
    let mut hangup = signal(SignalKind::hangup()).ok();
    let (verdict, verdicts) = watch::channel(None);
    let hands = hand_over_whenever_asked(upgrades, handing, admin, verdicts);
    tokio::pin!(hands);
    loop {
        let order = tokio::select! {
            biased;
            // a verdict is acted on before the next order
            () = &mut hands => return End::Given,
            order = orders.recv() => order.unwrap_or(Order::Now),
            () = received(&mut terminate) => Order::Drain,
            () = received(&mut interrupt) => Order::Drain,
            () = received(&mut hangup) => Order::Reload,
        };
        match order {
            Order::Drain => return End::Drain,
            Order::Now => return End::Now,
            Order::Reload => {
                reloading.reload().await;
                reloading.workers.ready().await;
            }
            Order::Given => drop(verdict.send_replace(Some(Ok(())))),
            Order::Kept(why) => drop(verdict.send_replace(Some(Err(why)))),
        }
    }
}

/// Hands over as often as it is asked for; ends once another process is in charge.
async fn hand_over_whenever_asked(
    upgrades: &mut mpsc::Receiver<admin::Upgrade>,
    handing: &HandingOver<'_>,
    admin: &mut Option<Answering>,
    verdicts: watch::Receiver<Option<Result<(), Kept>>>,
) {
    while let Some(asked) = upgrades.recv().await {
        let came_of_it = handing.hand_over(admin.as_mut(), verdicts.clone()).await;
        let is_given = came_of_it.is_ok();
        if let Err(refusal) = &came_of_it {
            let (failure, exit) = (&refusal.failure, refusal.exit);
            let (detail, next_step) = (&failure.message, &failure.next_step);
            tracing::error!(code = %failure.code, detail, next_step, exit, "not handed over, this process goes on");
        }
        // whoever has asked may be gone
        let _ = asked.send(came_of_it);
        if is_given {
            return;
        }
    }
    std::future::pending().await
}

/// What handing over needs.
struct HandingOver<'a> {
    succession: &'a Succession,
    workers: &'a Workers,
    jobs: &'a Jobs,
    recorder: &'a Recorder,
    disk: &'a Handle,
    state: &'a State,
    state_dir: &'a Path,
    tunnel: watch::Receiver<TunnelStatus>,
    settings: &'a watch::Sender<Arc<Settings>>,
}

async fn hear(successor: Option<&Successor>) -> Heard {
    match successor {
        Some(successor) => successor.hear().await,
        None => std::future::pending().await,
    }
}

/// How long a launcher may take to answer beyond what it gives a new process, or one that may know nothing of it.
const VERDICT_WITHIN: Duration = Duration::from_secs(40);
const OLD_LAUNCHER: Duration = Duration::from_secs(5);

impl HandingOver<'_> {
    /// Has the launcher start another process, which takes all of this one's; or takes all of it back.
    async fn hand_over(
        &self,
        mut admin: Option<&mut Answering>,
        mut verdicts: watch::Receiver<Option<Result<(), Kept>>>,
    ) -> Result<Upgraded, Refusal> {
        let refused = |failure: Failure| Refusal { failure, exit: None };
        if self.tunnel.borrow().session.is_empty() {
            let failure =
                Code::RunnerUnavailable.on("the control plane is not connected, and a hand-over goes by its word");
            return Err(refused(failure.next("Try again once `runner status` says that it is ready, or restart it.")));
        }
        let system = |e: std::io::Error| refused(Code::Internal.on(format!("the hand-over: {e}")));
        let token = hand_over::token().map_err(system)?;
        let (successor, theirs) = hand_over::pair().map_err(system)?;
        verdicts.mark_unchanged();
        if let Err(failure) = self.succession.announce(hand_over::digest(&token)).await {
            self.succession.withdraw();
            return Err(refused(failure));
        }
        tracing::info!("handing over to another process");
        // and a second for all that is no wait
        let leaves_within = self.settings.borrow().config.drain_grace() + GOODBYE + Duration::from_secs(1);
        self.workers.upgrade(theirs, leaves_within).await;
        // one that is gone is told of by the launcher
        let whose = self.state.whose(self.state_dir).unwrap_or_default();
        let _ = successor.tell(&token, &whose);
        let mut let_go = false;
        let given = self.until_verdict(successor, &mut admin, &mut verdicts, &mut let_go).await;
        let Err((failure, exit)) = given else {
            return Ok(Upgraded { from: shared_proto::VERSION.to_owned(), from_pid: std::process::id() });
        };
        self.succession.withdraw();
        if let_go {
            self.take_back(admin);
        }
        Err(Refusal { failure, exit })
    }

    /// Goes on until the launcher has said which of the two processes it is. `let_go`: whether this one has let go of what it has.
    async fn until_verdict(
        &self,
        successor: Successor,
        admin: &mut Option<&mut Answering>,
        verdicts: &mut watch::Receiver<Option<Result<(), Kept>>>,
        let_go: &mut bool,
    ) -> Result<(), (Failure, Option<i32>)> {
        let (mut successor, mut within) = (Some(successor), VERDICT_WITHIN);
        let (mut said, mut own) = (None, None);
        loop {
            let heard = tokio::select! {
                verdict = tokio::time::timeout(within, verdicts.changed()) => {
                    let why = match verdict.map(|_| *verdicts.borrow_and_update()) {
                        Ok(Some(Ok(()))) => return Ok(()),
                        Ok(Some(Err(why))) => why,
                        Ok(None) | Err(_) => return Err((
                            Code::UnsupportedVersion
                                .on("the launcher has started no successor: it is older than this version")
                                .next("Restart the runner once; jobs go on all along."),
                            None,
                        )),
                    };
                    if let Some(own) = own {
                        return Err((own, None));
                    }
                    // its last word is there by now, if it had one
                    if let (Some(gone), None) = (&successor, &said)
                        && let Heard::Failed(last) = gone.hear().await
                    {
                        said = Some(last);
                    }
                    let exit = if let Kept::Exited(code) = why { Some(code) } else { None };
                    let next = "Mend it and try again; the process before goes on, and nothing was lost.";
                    return Err((Code::Busy.on(hand_over::kept(why, said)).next(next), exit));
                }
                heard = hear(successor.as_ref()) => heard,
            };
            match heard {
                Heard::Failed(why) => {
                    // what is new is ours again; the rest once it is gone
                    self.succession.withdraw();
                    said = Some(why);
                }
                Heard::Gone => (successor, within) = (None, OLD_LAUNCHER),
                Heard::Welcome if !*let_go => {
                    if let Err(failure) = self.jobs.let_go().await {
                        // by the end of its socket the other one knows, and the launcher by its end
                        self.succession.withdraw();
                        (own, successor) = (Some(failure), None);
                        continue;
                    }
                    *let_go = true;
                    self.recorder.give().await;
                    if let Some(admin) = admin {
                        admin.pause();
                    }
                    let socket = admin.as_ref().map(|admin| admin.socket());
                    if let (Some(successor), Some(lock)) = (&successor, self.state.lock()) {
                        // one that is gone is told of by the launcher
                        let _ = successor.give(lock, socket);
                    }
                }
                Heard::Welcome => {}
            }
        }
    }

    /// The other process is no more, and all of it is ours as before.
    fn take_back(&self, admin: Option<&mut Answering>) {
        self.recorder.take_back();
        let _on_its_own = self.disk.enter();
        if let Err(failure) = self.jobs.adopt_again() {
            tracing::error!(code = %failure.code, detail = failure.message, "the jobs cannot be taken back");
        }
        drop(_on_its_own);
        if let Some(Err(e)) = admin.map(Answering::go_on) {
            tracing::error!(error = %e, "the admin socket cannot be taken back");
        }
    }
}

async fn received(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// A second order to end: to reload is none, nor is what comes of a hand-over.
async fn second_order(orders: &mut mpsc::Receiver<Order>) {
    while let Some(Order::Reload | Order::Given | Order::Kept(_)) = orders.recv().await {}
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
    recorder: &'a Recorder,
    /// Why the last order to reload changed nothing; `None`: it did, or there was none.
    refused: watch::Sender<Option<admin::ReloadRefused>>,
}

impl Reloading<'_> {
    /// Whole or not at all.
    async fn reload(&self) {
        let loaded = self.flags.load().map_err(|e| e.to_string()).and_then(|config| {
            if config.state_dir != self.replace.borrow().config.state_dir {
                return Err("state_dir cannot be changed while it runs".to_owned());
            }
            if config.jobs.states.key_file != self.replace.borrow().config.jobs.states.key_file {
                return Err("jobs.states.key_file cannot be changed while it runs".to_owned());
            }
            if !config.audit.is_kept_as(&self.replace.borrow().config.audit) {
                let what = "on_failure, file_max, keep_files and sink of [audit] are read when a process begins to write the log";
                return Err(format!("{what}: change them back, or let `runner upgrade` begin another process with them"));
            }
            config.check_programs().map_err(|e| e.to_string())?;
            self.guarantees.suffice(config.isolation_require).map_err(|f| f.to_string())?;
            self.own.still_reads(&config)?;
            let domains = Domains::new(&config, &self.mechanisms).map_err(|e| format!("domains for workers: {e}"))?;
            Ok((self.replace.borrow().again(config)?, domains))
        });
        match loaded {
            Ok((settings, domains)) => {
                self.workers.use_programs(settings.config.workers.clone()).await;
                self.reach.send_replace(domains);
                let (policy, digest) = policy_digest(&settings);
                self.replace.send_replace(settings);
                self.recorder.reopen();
                self.recorder.note(audit::Record {
                    kind: audit::Kind::Change,
                    detail: Some(format!(
                        "configuration, credentials and policy were read again; the policy: {policy}"
                    )),
                    digest,
                    ..Default::default()
                });
                tracing::info!("configuration and credentials read again");
                self.refused.send_replace(None);
            }
            Err(reason) => {
                tracing::error!(reason, "not reloaded, nothing has changed");
                self.refused.send_replace(Some(admin::ReloadRefused { at_ms: shared_proto::now_ms(), reason }));
            }
        }
    }
}

/// What jobs need from the rest.
struct Around {
    settings: watch::Receiver<Arc<Settings>>,
    dialer: Dialer,
    resolver: Resolver,
    workers: Workers,
    recorder: Recorder,
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
    async fn resolve(&self, connection: &str, asker: Asker<'_>) -> Result<Target, Failure> {
        let acts_as = self.settings.borrow().config.connections.get(connection).map(|c| c.impersonate().is_some());
        if acts_as == Some(true) {
            return Err(Code::WrongProvider
                .on(format!("the connection {connection:?} acts as whoever asks, and a job goes on when nobody does"))
                .next("Give the job a connection without `impersonate` in the runner's configuration."));
        }
        self.resolver.resolve(connection, asker).await.map(|target| (*target).clone())
    }
    fn plans_with(&self, connection: &str) -> Option<String> {
        self.settings.borrow().config.plan_with.get(connection).cloned()
    }
    async fn secrets(&self, request: &JobRequest) -> Result<HashMap<String, String>, Failure> {
        let settings = self.settings.borrow().clone();
        secrets::resolve(&settings.config, &self.resolver, &self.workers, request).await
    }
    async fn allows(&self, request: &JobRequest, takes: bool) -> Result<Option<Permit>, Failure> {
        let settings = self.settings.borrow().clone();
        let asked = jobs::asked_of_policy(request);
        let decision = settings.policy.decide(&asked, SystemTime::now());
        let record = match &asked.what {
            policy::What::Job(job) => recorder::of_job(request, job),
            _ => audit::Record::default(),
        };
        let detail: Vec<_> = record.detail.iter().cloned().chain(secrets::named(request)).collect();
        let record = audit::Record { detail: Some(detail.join("; ")).filter(|detail| !detail.is_empty()), ..record };
        let rule = decision.by.name();
        if !decision.is_allowed() {
            let failure = Code::PolicyDenied.on(decision.sentence);
            self.recorder.note(recorder::decided(record, &rule, Some(&failure)));
            return Err(failure);
        }
        if let Err(failure) = secrets::admit(&settings.config, request) {
            self.recorder.note(recorder::decided(record, "(secrets)", Some(&failure)));
            return Err(failure);
        }
        if let Err(failure) = jobs::admit_hooks(request, settings.config.jobs.hooks) {
            self.recorder.note(recorder::decided(record, "(hooks)", Some(&failure)));
            return Err(failure);
        }
        let permit = match &decision.limit {
            Some(limit) if takes => {
                // nothing is decided yet: it comes again
                let permit = settings.limits.take(limit, Instant::now()).map_err(|e| Code::Busy.on(e.to_string()))?;
                Some(permit)
            }
            _ => None,
        };
        self.recorder.record(recorder::decided(record, &rule, None)).await?;
        Ok(permit)
    }
    fn environment(&self) -> HashMap<String, String> {
        job_environment(&self.settings.borrow().config)
    }
    fn reconciles(&self, request: &JobRequest) -> bool {
        let decision = self.settings.borrow().policy.decide(&jobs::asked_of_policy(request), SystemTime::now());
        decision.is_allowed() && decision.reconcile
    }
    fn plan_rules(&self) -> String {
        self.settings.borrow().policy.plan_rules().to_owned()
    }
    fn ended(&self, job: &str, phase: &str) {
        self.recorder.note(audit::Record {
            kind: audit::Kind::End,
            job: Some(job.to_owned()),
            code: Some(phase.to_owned()),
            ..Default::default()
        });
    }
    async fn source_access(&self, source: &Source) -> Result<Option<SourceAccess>, Failure> {
        let settings = self.settings.borrow().clone();
        let Some(place) = jobs::place_of(source) else { return Ok(None) };
        let Some((name, entry)) = settings.config.sources.entry(&place) else { return Ok(None) };
        of_source(&self.workers, &settings.config.proxy, name, entry, &settings.config.environment).await.map(Some)
    }
    fn states_at(&self) -> String {
        let states = self.settings.borrow().config.jobs.states.word();
        states.as_ref().map(shared_proto::states::shown).unwrap_or_default()
    }
    async fn state_place(&self, asker: Asker<'_>) -> Option<StatePlace> {
        let mut place = self.settings.borrow().config.jobs.states.word()?;
        let target = place.target.get_or_insert_default();
        // who has a backend of his own has no need of them
        match self.resolve(&target.connection.clone(), asker).await {
            Ok(resolved) => target.target = Some(resolved),
            Err(failure) => {
                let (code, message, next_step) = (failure.code.to_string(), failure.message, failure.next_step);
                place.refused = Some(StatePlaceRefused { code, message, next_step });
            }
        }
        Some(place)
    }
    async fn first_word(
        &self,
        targets: &[JobTarget],
        source: Option<&SourceAccess>,
        states: Option<&StatePlace>,
    ) -> JobFirst {
        let settings = self.settings.borrow().clone();
        let credentials = &settings.credentials;
        let control_plane = [&credentials.tunnel, &credentials.execution];
        job_network::first_word(&settings.config, &control_plane, targets, source, states).await
    }
    async fn start_worker(&self, directory: OwnedFd, reaches: Reaches) -> Result<Started, Failure> {
        self.workers.start(Program::Job { directory, reaches }).await
    }
    async fn signal(&self, process: PidFd, signal: Signal) {
        self.workers.signal(process, signal).await;
    }
}

/// Whom variables are sealed to; empty: what is there is no key, which is said, and all else goes on.
fn seal_key(state_dir: &Path) -> Vec<u8> {
    match secrets::public(state_dir) {
        Ok(key) => key.bytes().to_vec(),
        Err(failure) => {
            let (detail, next_step) = (failure.message, failure.next_step);
            tracing::error!(code = %failure.code, detail, next_step, "variables cannot be sealed to this instance");
            Vec::new()
        }
    }
}

/// How the audit log is kept.
pub(crate) fn audit_options(config: &Config, runner: &str, instance: &str) -> audit::Options {
    let settings = &config.audit;
    audit::Options {
        version: shared_proto::VERSION.to_owned(),
        file_max: settings.file_max,
        keep: audit::Keep { files: settings.keep_files, bytes: None },
        on_failure: settings.on_failure,
        sink: settings.sink.clone(),
        ..audit::Options::new(runner, instance)
    }
}

/// Where the policy is, and the SHA-256 of what stands there.
fn policy_digest(settings: &Settings) -> (String, Option<String>) {
    use sha2::Digest as _;
    let digest = |text: &[u8]| shared_proto::hex::encode(&sha2::Sha256::digest(text)[..]);
    let path = &settings.config.policy.path;
    let rules = match settings.policy.plan_rules() {
        "" => String::new(),
        set => format!("; with rules for plans, as JSON of the SHA-256 {}", digest(set.as_bytes())),
    };
    let digest = std::fs::read(path).ok().map(|text| digest(&text));
    let none = if digest.is_none() { " is not there: everything is allowed" } else { "" };
    (format!("{}{none}{rules}", path.display()), digest)
}

fn job_settings(
    config: &Config,
    mechanisms: &Mechanisms,
    state: &State,
    hostname: &str,
    engines: &Engines,
    isolation: &'static str,
) -> jobs::Settings {
    jobs::Settings {
        state_dir: config.state_dir.clone(),
        state_key_file: config.jobs.states.key_file.clone(),
        instance_id: state.instance.to_string(),
        incarnation: state.incarnation.to_string(),
        at_once: config.jobs_at_once,
        hostname: hostname.to_owned(),
        isolation,
        engines: engines.clone(),
        git: config.git_program(),
        backoff: (config.tunnel.backoff_first, config.tunnel.backoff_max),
        take_over: config.jobs.take_over,
        job_cgroup: mechanisms.job_cgroup,
        disk: jobs::DiskLimits {
            bytes: match config.jobs.disk_mib {
                0 => u64::MAX,
                mib => u64::from(mib) << 20,
            },
            files: match config.jobs.files {
                0 => u64::MAX,
                files => files.into(),
            },
        },
        source_cache: config.sources.cache,
        silence_max: SILENCE_MAX,
        limits: config.jobs.limits,
        plan_retries: config.jobs.plan_retries,
        renew_every: RENEW_EVERY,
    }
}

/// What the programs of a job's worker get of the configuration.
fn job_environment(config: &Config) -> HashMap<String, String> {
    let mut environment = HashMap::new();
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            environment.insert(name.to_owned(), value);
        }
    };
    set("PATH", config.environment.get("PATH").cloned());
    set("TF_CLI_CONFIG_FILE", config.engines.cli_config.as_ref().map(|p| p.display().to_string()));
    // what worker-iac knows these by
    set("RUNNER_PROVIDERS", Some(config.engines.providers.display().to_string()));
    set("RUNNER_ALLOW_FILE_SOURCES", config.sources.allow_file.then(|| "1".to_owned()));
    if let Some(url) = &config.proxy.url {
        set("HTTPS_PROXY", Some(url.url()));
        set("HTTP_PROXY", Some(url.url()));
        set("NO_PROXY", Some(config.proxy.no_proxy.clone()));
    }
    environment
}
