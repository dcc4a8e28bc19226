//! One seed: a runner and a control plane, what happens to them, and what must hold in the end.
//!
//! Every event that a worker wrote arrives once and in order, and the result of a job is what its spool says (but for what a control plane that was
//! put back to an older state never hears of again, since it was let go before); no worker is told twice to do a
//! step; every operation has one end, in its time, and none is served twice; the tunnel comes back; at most one session of an instance takes
//! anything; nothing of a job is left on the runner.

use super::chance::Chance;
use super::plane::{self, DEADLINE, ORGANIZATION, RUNNER};
use super::runner::{self, Cut};
use super::worker::Workers;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use runner_control_plane::store::{Phase, Store};
use runner_supervisor::config::Config;
use runner_supervisor::tunnel::Settings;
use runner_tests::pki::{Authority, Forgery, new_key};
use shared_proto::bounds::PEER_DEAD;
use shared_proto::chance::{Simulated, simulate};
use shared_proto::credentials::{CredentialsFile, VERSION};
use shared_proto::secret::Secret;
use shared_proto::v1::Event;
use shared_proto::v1::event::Body;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use turmoil::Sim;
use turmoil::net::TcpStream;

/// Simulated time goes in such steps; a process dies between two of them.
const STEP: Duration = Duration::from_millis(50);
/// Faults come within this.
const TROUBLED: (u64, u64) = (15_000, 45_000);
/// After them all must have ended within this.
const SETTLES: Duration = Duration::from_secs(240);
/// After them the tunnel must be back, and serve, within this.
const COMES_BACK: Duration = Duration::from_secs(60);
/// After so long users cancel what a restored control plane knows of and nobody has.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Jobs of one seed, each of a stack of its own or of one before.
const JOBS: u64 = 4;
const STACKS: usize = 3;
/// A year, in milliseconds.
const YEAR_MS: i64 = 365 * 24 * 60 * 60 * 1000;

/// What all seeds begin with.
pub(crate) struct Template {
    folder: tempfile::TempDir,
    begin_ms: i64,
}

/// What both hosts and the one who drives them see.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<World>>);

/// The world of one seed.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) chance: Chance,
    pub(crate) now: Duration,
    pub(crate) workers: Workers,
    pub(crate) wires: Vec<Weak<Cut>>,
    /// Connections whose other end was told nothing of their end.
    pub(crate) ghosts: Vec<TcpStream>,
    pub(crate) jobs: Vec<Plan>,
    pub(crate) rows: Vec<Row>,
    pub(crate) wants_events: bool,
    pub(crate) has_events: bool,
    pub(crate) operations: Vec<Operation>,
    /// How often the runner served each operation, by its id.
    pub(crate) served: BTreeMap<String, u32>,
    /// Jobs whose folders the runner has let go.
    pub(crate) released: BTreeSet<String>,
    /// Where the control plane keeps what it keeps.
    pub(crate) data: PathBuf,
    /// Whose jobs were made.
    pub(crate) made: BTreeSet<String>,
    /// When users cancel what a restored control plane knows of and no instance has shown.
    pub(crate) give_up: Option<Duration>,
    /// Of the control plane.
    pub(crate) lives: u64,
    broken: Option<String>,
}

/// A job that a user is to make.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) at: Duration,
    pub(crate) by: String,
    pub(crate) stack: String,
    pub(crate) preview: bool,
    pub(crate) automatic: bool,
    pub(crate) cancel_at: Option<Duration>,
}

/// A job as the control plane has it.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) by: String,
    pub(crate) ended: bool,
    pub(crate) reported: bool,
    pub(crate) phase: Phase,
    pub(crate) canceled: bool,
    pub(crate) last: i64,
    pub(crate) events: Vec<Event>,
}

/// An operation as its caller saw it.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    /// Of the control plane.
    pub(crate) life: u64,
    pub(crate) begun: Duration,
    pub(crate) ended: Option<(Duration, String)>,
}

/// What happens.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Reset,
    ResetUnheard,
    Partition,
    HalfOpenToPlane,
    HalfOpenToRunner,
    Hold,
    Slow,
    RunnerDies,
    PlaneDies,
    ClockSteps,
}

const FAULTS: [Fault; 10] = [
    Fault::Reset,
    Fault::ResetUnheard,
    Fault::Partition,
    Fault::HalfOpenToPlane,
    Fault::HalfOpenToRunner,
    Fault::Hold,
    Fault::Slow,
    Fault::RunnerDies,
    Fault::PlaneDies,
    Fault::ClockSteps,
];

/// What a run of seeds had in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    faults: u64,
    restored: u64,
    jobs: u64,
    events: u64,
    operations: u64,
    answered: u64,
    lost: u64,
    simulated: Duration,
}

// === impl Told ===

impl Told {
    /// Adds another one.
    pub(crate) fn add(&mut self, other: &Self) {
        self.faults += other.faults;
        self.restored += other.restored;
        self.jobs += other.jobs;
        self.events += other.events;
        self.operations += other.operations;
        self.answered += other.answered;
        self.lost += other.lost;
        self.simulated += other.simulated;
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} faults, {} restores, {} jobs with {} events, {} operations, {} of them answered by the runner and {} lost with a connection, {:.0} simulated hours",
            self.faults,
            self.restored,
            self.jobs,
            self.events,
            self.operations,
            self.answered,
            self.lost,
            self.simulated.as_secs_f64() / 3600.0
        )
    }
}

// === impl Template ===

/// The runner's API key, which is none of a real one's.
pub(crate) fn api_key() -> &'static str {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| {
        let key = shared_proto::api_key::generate(shared_proto::api_key::Purpose::Runner);
        key.map(|key| key.expose().to_owned()).unwrap_or_default()
    })
}

impl Template {
    /// A database and a credentials file.
    pub(crate) fn new() -> Result<Self> {
        // nothing here is to outlive a power cut
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        let begin_ms = shared_proto::now_ms();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(plane::prepare(folder.path(), STACKS))?;
        let issuer = Authority::new("simulated", Some(&format!("spiffe://simulated/org/{ORGANIZATION}")))?;
        let key = new_key()?;
        let mut leaf = Forgery::runner(&format!("spiffe://simulated/org/{ORGANIZATION}/runner/{RUNNER}"));
        (leaf.since, leaf.until) = (3 * YEAR_MS / 1000, 9 * YEAR_MS / 1000);
        let credentials = CredentialsFile {
            version: VERSION,
            organization: ORGANIZATION.into(),
            runner: RUNNER.into(),
            tunnel_endpoint: "https://plane:1".into(),
            execution_endpoint: "https://plane:2".into(),
            ca: issuer.pem().to_owned(),
            certificate: issuer.issue(&key, &leaf)?,
            private_key: Secret::new(key.serialize_pem()),
            api_key: Secret::new(api_key()),
        };
        credentials.write(&folder.path().join("credentials.json"))?;
        std::fs::write(folder.path().join("runner.toml"), "[workers]\nwarm = 0\n[isolation]\nrequire = \"minimal\"\n")?;
        Ok(Self { folder, begin_ms })
    }

    fn settings(&self, state_dir: &Path) -> Result<Arc<Settings>> {
        let flags = BTreeMap::from([
            ("credentials".to_owned(), self.folder.path().join("credentials.json").display().to_string()),
            ("state_dir".to_owned(), state_dir.display().to_string()),
        ]);
        let config = Config::load(Some(&self.folder.path().join("runner.toml")), &flags, &BTreeMap::new());
        Settings::load(config.map_err(|e| anyhow!("{e}"))?).map_err(|e| anyhow!("{e}"))
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Something does not hold; the first is told.
    pub(crate) fn broken(&self, what: String) {
        self.lock().broken.get_or_insert(what);
    }
}

/// Runs one seed.
pub(crate) fn run(template: &Template, seed: u64) -> Result<Told> {
    let place = tempfile::tempdir_in(template.folder.path())?;
    let (state, data) = (place.path().join("state"), place.path().join("data"));
    std::fs::create_dir(&state)?;
    std::fs::create_dir(&data)?;
    std::fs::copy(template.folder.path().join("store.db"), data.join("store.db"))?;
    let mut chance = Chance::new(seed, 1);
    let shared = Shared(Arc::new(Mutex::new(World {
        seed,
        chance: Chance::new(seed, 2),
        now: Duration::ZERO,
        workers: Workers::default(),
        wires: Vec::new(),
        ghosts: Vec::new(),
        jobs: plans(&mut chance),
        rows: Vec::new(),
        wants_events: false,
        has_events: false,
        operations: Vec::new(),
        served: BTreeMap::new(),
        released: BTreeSet::new(),
        data: data.clone(),
        made: BTreeSet::new(),
        give_up: None,
        lives: 0,
        broken: None,
    })));
    let mut driver = Driver {
        clock: Simulated { wall_ms: template.begin_ms, since_boot: Duration::from_secs(1000), seed },
        sim: simulation(seed, &shared, template.settings(&state)?),
        shared,
        state,
        place: place.path().to_owned(),
        backup: None,
        restored: false,
        chance,
        told: Told::default(),
    };
    let seen = super::log::Served(driver.shared.clone());
    let done = super::log::within(seen, || driver.drive());
    // hosts end in their world
    drop(driver.sim);
    simulate(None);
    done.map(|()| driver.told)
}

fn plans(chance: &mut Chance) -> Vec<Plan> {
    (0..JOBS)
        .map(|n| {
            let at = chance.time(200, 25_000);
            Plan {
                at,
                by: format!("user-{n}"),
                stack: format!("stack-{}", chance.below(STACKS as u64)),
                preview: chance.once_in(5),
                automatic: chance.once_in(2),
                cancel_at: chance.once_in(6).then(|| at + chance.time(0, 20_000)),
            }
        })
        .collect()
}

fn simulation(seed: u64, shared: &Shared, settings: Arc<Settings>) -> Sim<'static> {
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(STEP)
        .simulation_duration(Duration::from_secs(3600))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(40))
        .tcp_capacity(4096)
        .enable_tokio_io()
        .build();
    let plane = shared.clone();
    sim.host("plane", move || plane::live(plane.clone()));
    let setup = runner::Setup { shared: shared.clone(), settings, incarnations: Arc::default() };
    sim.host("runner", move || runner::live(setup.clone()));
    sim
}

/// Has time pass, and things happen.
struct Driver {
    sim: Sim<'static>,
    shared: Shared,
    clock: Simulated,
    state: PathBuf,
    place: PathBuf,
    /// A copy of the database as it once was.
    backup: Option<PathBuf>,
    restored: bool,
    chance: Chance,
    told: Told,
}

// === impl Driver ===

impl Driver {
    fn drive(&mut self) -> Result<()> {
        let end = self.chance.time(TROUBLED.0, TROUBLED.1);
        let mut next = self.chance.time(500, 8000);
        // what is over when
        let mut until: Vec<(Duration, Fault)> = Vec::new();
        while self.now() < end {
            self.step()?;
            let now = self.now();
            while let Some(over) = until.iter().position(|(at, _)| *at <= now) {
                let (_, fault) = until.swap_remove(over);
                self.over(fault);
            }
            if now >= next {
                next = now + self.chance.time(100, 9000);
                let fault = FAULTS[self.chance.below(FAULTS.len() as u64) as usize];
                self.told.faults += 1;
                tracing::info!(?fault, at_ms = now.as_millis() as u64, "simulated fault");
                if let Some(lasts) = self.begin(fault)? {
                    until.push((now + lasts, fault));
                }
            }
        }
        for (_, fault) in until {
            self.over(fault);
        }
        tracing::info!(at_ms = self.now().as_millis() as u64, "simulated faults are over");
        self.settle(end)
    }

    fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    fn step(&mut self) -> Result<()> {
        self.clock.since_boot += STEP;
        self.clock.wall_ms += STEP.as_millis() as i64;
        simulate(Some(self.clock));
        self.sim.step().map_err(|e| anyhow!("a host ended: {e}"))?;
        // what was drawn is drawn
        if let Some(now) = shared_proto::chance::simulated() {
            self.clock.seed = now.seed;
        }
        let now = self.now();
        let mut world = self.shared.lock();
        world.now = now;
        world.workers.go_on(now)?;
        match world.broken.take() {
            Some(what) => bail!("after {now:?}: {what}"),
            None => Ok(()),
        }
    }

    /// Begins a fault; how long it lasts, where it has an end.
    fn begin(&mut self, fault: Fault) -> Result<Option<Duration>> {
        let long = self.chance.time(200, 25_000);
        Ok(match fault {
            Fault::Reset | Fault::ResetUnheard => {
                for wire in std::mem::take(&mut self.shared.lock().wires) {
                    if let Some(wire) = wire.upgrade() {
                        wire.now(matches!(fault, Fault::ResetUnheard));
                    }
                }
                None
            }
            Fault::Partition => {
                self.sim.partition("runner", "plane");
                Some(long)
            }
            Fault::HalfOpenToPlane => {
                self.sim.partition_oneway("runner", "plane");
                Some(long)
            }
            Fault::HalfOpenToRunner => {
                self.sim.partition_oneway("plane", "runner");
                Some(long)
            }
            Fault::Hold => {
                self.sim.hold("runner", "plane");
                Some(long)
            }
            Fault::Slow => {
                let most = self.chance.time(50, 1500);
                self.sim.set_max_message_latency(most);
                Some(long)
            }
            Fault::RunnerDies => {
                self.sim.crash("runner");
                Some(self.chance.time(0, 6000))
            }
            Fault::PlaneDies => {
                self.sim.crash("plane");
                self.back_up_or_restore()?;
                Some(self.chance.time(0, 20_000))
            }
            Fault::ClockSteps => {
                let by = [YEAR_MS, -YEAR_MS, 3_600_000, -3_600_000, 60_000, -5_000];
                self.clock.wall_ms += by[self.chance.below(by.len() as u64) as usize];
                None
            }
        })
    }

    /// While the control plane is down: has its database copied, or put back as it was then, once.
    fn back_up_or_restore(&mut self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let data = self.shared.lock().data.clone();
        match self.backup.take() {
            None if self.restored => {}
            None => {
                let to = self.place.join("backup.db");
                let copied = runtime.block_on(Store::copy(&data.join("store.db"), &to));
                copied.map_err(|e| anyhow!("backing up: {e}"))?;
                self.backup = Some(to);
                tracing::info!("simulated back-up");
            }
            Some(backup) => {
                let again = self.place.join("restored");
                std::fs::create_dir(&again)?;
                let path = again.join("store.db");
                std::fs::rename(backup, &path)?;
                runtime.block_on(async {
                    let store = Store::open(&path).await?;
                    store.mark_restored().await.map_err(|e| anyhow!("restoring: {e}"))?;
                    store.close().await;
                    Ok::<_, anyhow::Error>(())
                })?;
                self.shared.lock().data = again;
                self.restored = true;
                self.told.restored += 1;
                tracing::info!("simulated restore");
            }
        }
        Ok(())
    }

    fn over(&mut self, fault: Fault) {
        match fault {
            Fault::Partition | Fault::HalfOpenToPlane | Fault::HalfOpenToRunner => self.sim.repair("runner", "plane"),
            Fault::Hold => self.sim.release("runner", "plane"),
            Fault::Slow => self.sim.set_max_message_latency(Duration::from_millis(40)),
            Fault::RunnerDies if !self.sim.is_host_running("runner") => self.sim.bounce("runner"),
            Fault::PlaneDies if !self.sim.is_host_running("plane") => self.sim.bounce("plane"),
            Fault::RunnerDies | Fault::PlaneDies | Fault::Reset | Fault::ResetUnheard | Fault::ClockSteps => {}
        }
    }

    /// Waits until all is as it must be in the end, and looks.
    fn settle(&mut self, from: Duration) -> Result<()> {
        let mut back = None;
        self.shared.lock().give_up = Some(from + GIVE_UP);
        loop {
            self.step()?;
            let now = self.now();
            let (answered, jobs, workers, has_events) = {
                let mut world = self.shared.lock();
                let answered = world
                    .operations
                    .iter()
                    .any(|o| o.begun > from && o.ended.as_ref().is_some_and(|(_, code)| code == "unknown_connection"));
                let over = world.made.len() as u64 == JOBS && world.rows.iter().all(|row| row.ended);
                world.wants_events = over;
                (answered, over, world.workers.count(), world.has_events)
            };
            if answered {
                back.get_or_insert(now);
            }
            ensure!(
                back.is_some() || now < from + COMES_BACK,
                "the tunnel is not back {COMES_BACK:?} after the last fault"
            );
            let left = self.left();
            if back.is_some() && jobs && has_events && workers == 0 && left.is_empty() {
                self.told.simulated = now;
                return self.verify();
            }
            if now >= from + SETTLES {
                let world = self.shared.lock();
                bail!(
                    "after {SETTLES:?} without faults: workers {workers}, folders {left:?}, jobs {:?}",
                    world.rows.iter().map(|row| (&row.id, row.phase, row.last, row.canceled)).collect::<Vec<_>>()
                );
            }
        }
    }

    /// The jobs' folders that are left on the runner.
    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.state.join("jobs")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn verify(&mut self) -> Result<()> {
        // what is still under way has its time
        let now = self.now();
        let late = DEADLINE + PEER_DEAD;
        while self.shared.lock().operations.iter().any(|o| o.ended.is_none() && o.begun <= now)
            && self.now() < now + late
        {
            self.step()?;
        }
        let world = self.shared.lock();
        let mut answered = 0;
        for (n, operation) in world.operations.iter().enumerate().filter(|(_, o)| o.begun <= now) {
            match &operation.ended {
                Some((ended, code)) => {
                    ensure!(*ended <= operation.begun + late, "operation {n} took {:?}", *ended - operation.begun);
                    answered += u64::from(code == "unknown_connection");
                    self.told.lost += u64::from(code == "connection_lost");
                    let known = [
                        "unknown_connection",
                        "connection_lost",
                        "runner_unavailable",
                        "deadline_exceeded",
                        "runner_leaving",
                    ];
                    ensure!(known.contains(&code.as_str()), "operation {n} ended as {code}");
                }
                // it ended with the control plane that it was asked of
                None => ensure!(operation.life < world.lives, "operation {n} has no end"),
            }
        }
        for (operation, times) in &world.served {
            ensure!(*times == 1, "{operation} was served {times} times");
        }
        ensure!(
            answered <= world.served.len() as u64,
            "{answered} operations were answered, {} served",
            world.served.len()
        );
        for ((job, step), times) in &world.workers.told {
            ensure!(*times == 1, "a worker was told {times} times to do {step} of {job}");
        }
        for job in world.workers.written.keys().filter(|job| !world.rows.iter().any(|row| row.id == **job)) {
            let gone = self.restored && world.released.contains(job);
            ensure!(gone, "job {job} ran and is not known, and was not released before a restore either");
        }
        for row in &world.rows {
            let written = world.workers.written.get(&row.id).map_or(&[][..], Vec::as_slice);
            if self.restored && !row.reported && world.released.contains(&row.id) {
                // it ended after the back-up, and was told then
                same(&row.events, written).with_context(|| format!("job {} of {}", row.id, row.by))?;
                continue;
            }
            let why = world.workers.died.contains(&row.id) || self.restored;
            check(row, written, why).with_context(|| format!("job {} of {}", row.id, row.by))?;
            self.told.events += row.events.len() as u64;
        }
        self.told.jobs += world.rows.len() as u64;
        self.told.operations += world.operations.len() as u64;
        self.told.answered += answered;
        Ok(())
    }
}

/// Each event that is here is the one that was written.
fn same(events: &[Event], written: &[Event]) -> Result<()> {
    let numbers: Vec<_> = events.iter().map(|e| e.sequence).collect();
    ensure!(numbers.iter().copied().eq(1..=numbers.len() as u64), "its events are {numbers:?}");
    for (here, there) in events.iter().zip(written) {
        ensure!(here == there, "event {} is {here:?} here, and {there:?} was written", here.sequence);
    }
    Ok(())
}

/// What the control plane has of a job is what was written, once and in order; then its end.
fn check(row: &Row, written: &[Event], died: bool) -> Result<()> {
    same(&row.events, written)?;
    ensure!(row.events.len() >= written.len(), "{} of {} events arrived", row.events.len(), written.len());
    ensure!(
        row.events.len() <= written.len() + 1,
        "{} events arrived, {} were written",
        row.events.len(),
        written.len()
    );
    let own = written.last().and_then(|e| match &e.body {
        Some(Body::Result(result)) => Some(result.phase.clone()),
        _ => None,
    });
    let end = row.events.last().and_then(|e| match &e.body {
        Some(Body::Result(result)) => Some(result.phase.clone()),
        _ => None,
    });
    match (own, end) {
        (Some(own), Some(end)) => {
            ensure!(
                own == end && row.events.len() == written.len(),
                "its worker ended it as {own}, and it ended as {end}"
            );
            ensure!(
                row.canceled || row.phase.as_str() == own,
                "its worker ended it as {own}, and it is {:?}",
                row.phase
            );
        }
        // nobody ever had it, or its user ended it while it waited
        (None, None) => ensure!(row.canceled && !row.reported, "it has no end of its own: {:?}", row.phase),
        (None, Some(end)) => {
            let why = died || row.canceled || end == "lost" && written.is_empty();
            ensure!(why, "its supervisor ended it as {end}, and neither did its worker die nor its user cancel");
        }
        (Some(own), None) => bail!("its worker ended it as {own}, which did not arrive"),
    }
    Ok(())
}
