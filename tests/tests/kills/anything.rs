//! Any process of the product killed at random moments, the control plane's included, while jobs of several stacks and operations of both
//! kinds go on. What the API has acknowledged is there and has ended, once and as it was; no engine is started twice; a lock stays only
//! where the engine was killed that held it; and nothing is left.

use crate::CLUSTER;
use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use nix::sys::signal::Signal;
use runner_tests::cluster::ADMIN;
use runner_tests::control_plane::{Executed, Job, User};
use runner_tests::dice::Dice;
use runner_tests::engine::EngineKind;
use runner_tests::https::Answer;
use runner_tests::procfs::{self, Counts, Stat};
use runner_tests::runner::{Setup, signal};
use runner_tests::suite::scaled;
use runner_tests::world::usual_cluster;
use runner_tests::{ControlPlane, Engine, Runner, eventually, tools};
use serde_json::{Value, json};
use shared_proto::states::{Held, LOCK};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const SECONDS: Duration = Duration::from_secs(60);
/// A job whose processes, runner and control plane die all the time takes its time.
const JOB: Duration = Duration::from_secs(300);
const KILLS: u64 = 1000;
/// Whatever the scale.
const KILLS_LEAST: u64 = 100;
/// The most between two kills, milliseconds.
const PAUSE_MAX_MS: u64 = 500;
/// The most for which the control plane is away, milliseconds.
const AWAY_MAX_MS: u64 = 300;
const STACKS: u64 = 4;
/// Callers of operations: every fourth keeps a stream open.
const CALLERS: u64 = 8;
/// One job in so many waits for a person, and one in so many is canceled within that time.
const BY_HAND_ONE_IN: u64 = 4;
const CANCEL_ONE_IN: u64 = 6;
const CANCEL_WITHIN_MS: u64 = 8000;
const NAMESPACES: &str = "/connections/cluster/k8s/namespaces";

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    /// With supervisor and spawner; another one is started, as a service manager does.
    Launcher,
    Supervisor,
    Spawner,
    ControlPlane,
    /// An operation's worker.
    Operation,
    /// A resolver of credentials.
    Resolver,
    /// A job's first process, with which everything of that job ends where it is killed; it is deaf to most signals.
    First,
    /// A job's worker.
    Worker,
    Engine,
    /// What an engine has started.
    PlugIn,
}

/// How often each is the next one.
const WEIGHTS: [(Victim, u64); 10] = [
    (Victim::Launcher, 3),
    (Victim::Supervisor, 5),
    (Victim::Spawner, 5),
    (Victim::ControlPlane, 4),
    (Victim::Operation, 45),
    (Victim::Resolver, 3),
    (Victim::First, 4),
    (Victim::Worker, 19),
    (Victim::Engine, 7),
    (Victim::PlugIn, 5),
];

/// What is sent to whom takes one request and ends; the others are killed.
const SIGNALS: [Signal; 12] = [
    Signal::SIGKILL,
    Signal::SIGKILL,
    Signal::SIGKILL,
    Signal::SIGKILL,
    Signal::SIGSEGV,
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
];

/// Who was hit.
#[derive(Default)]
struct Struck {
    kills: BTreeMap<Victim, u64>,
    jobs: HashMap<String, BTreeSet<(Victim, Signal)>>,
    /// When launcher, supervisor or spawner were: nobody saw then how a job's first process ended. Milliseconds, as the control plane has them.
    above: Vec<i64>,
}

/// A stack, and where its state is.
#[derive(Clone)]
struct Stack {
    name: String,
    folder: PathBuf,
}

/// A job whose creation the API has acknowledged.
struct Asked {
    id: String,
    greeting: String,
    /// So was its cancel.
    canceled: bool,
}

/// What one stack's user was told.
struct Told {
    stack: Stack,
    asked: Vec<Asked>,
    /// Requests whose answer never came: what they asked for may be there or not.
    unanswered: u64,
}

/// What those share who keep the runner at work.
#[derive(Clone)]
struct Load {
    user: User,
    over: Arc<AtomicBool>,
    struck: Arc<Mutex<Struck>>,
}

/// What there is of the runner where nothing is to do.
#[derive(Debug, PartialEq, Eq)]
struct Things {
    sockets: BTreeSet<PathBuf>,
    in_state: BTreeSet<PathBuf>,
    mounts: usize,
}

struct Set {
    control_plane: ControlPlane,
    runner: Runner,
    engine: Engine,
    stacks: Vec<Stack>,
}

pub(crate) async fn random_kills() -> Result<()> {
    let mut dice = Dice::seeded()?;
    let mut set = Set::new().await?;
    let user = set.control_plane.admin().clone();
    for stack in &set.stacks {
        set.goes_well(stack, "first").await?;
    }
    set.runner.no_workers(SECONDS).await?;
    let (before, things) = (set.runner.counts()?, Things::of(&set.runner)?);

    let load = Load { user: user.clone(), over: Arc::default(), struck: Arc::default() };
    let mut calling = JoinSet::new();
    for n in 0..CALLERS {
        calling.spawn(load.clone().call(n % 4 == 0, dice.apart()));
    }
    let mut deploying = JoinSet::new();
    for stack in &set.stacks {
        deploying.spawn(load.clone().deploy(stack.clone(), dice.apart()));
    }
    let longest = set.kill(&load, &mut dice, scaled(KILLS).max(KILLS_LEAST)).await?;
    load.over.store(true, Ordering::Relaxed);

    let mut codes: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(ended) = tokio::time::timeout(SECONDS, calling.join_next()).await.context("an operation hangs")? {
        for (code, count) in ended?? {
            *codes.entry(code).or_default() += count;
        }
    }
    let mut told = Vec::new();
    while let Some(ended) = tokio::time::timeout(JOB, deploying.join_next()).await.context("a job hangs")? {
        told.push(ended??);
    }
    let (kills, hit) = {
        let struck = load.struck();
        (struck.kills.clone(), struck.jobs.len())
    };
    eprintln!("killed {kills:?}, and of {hit} jobs; longest until it works again {longest:?}");
    eprintln!("operations {codes:?}");
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    for told in &told {
        for end in load.checked(told).await? {
            *ends.entry(end).or_default() += 1;
        }
    }
    let unanswered: u64 = told.iter().map(|t| t.unanswered).sum();
    eprintln!("jobs {ends:?}; {unanswered} were not acknowledged");

    let fair = ["ok", "worker_crashed", "connection_lost", "runner_unavailable", "no answer"];
    ensure!(codes.keys().all(|code| fair.contains(&code.as_str())), "{codes:?}");
    for code in &fair[..3] {
        ensure!(codes.contains_key(*code), "there is no {code} among {codes:?}");
    }
    ensure!(ends.keys().any(|end| end.starts_with("applied")), "no job was applied: {ends:?}");
    every_operation_has_ended(&user).await?;
    set.nothing_is_left(before, &things).await?;
    for told in &told {
        set.agrees(told).await?;
    }
    for stack in &set.stacks {
        set.goes_well(stack, "last").await?;
    }
    set.nothing_is_left(before, &things).await
}

/// Of which every job makes all anew, and writes down that it does.
fn module(greeting: &str, ledger: &Path) -> String {
    let ledger = ledger.display();
    format!(
        r#"terraform {{
  required_providers {{
    time = {{
      source  = "hashicorp/time"
      version = "0.14.2"
    }}
  }}
}}
variable "greeting" {{
  default = "{greeting}"
}}
variable "ledger" {{
  default = "{ledger}"
}}
resource "terraform_data" "begun" {{
  triggers_replace = var.greeting
  provisioner "local-exec" {{
    command = "echo '${{var.greeting}}' >> '${{var.ledger}}'"
  }}
}}
resource "time_sleep" "wait" {{
  triggers        = {{ greeting = var.greeting }}
  create_duration = "2s"
}}
resource "terraform_data" "after" {{
  input      = var.greeting
  depends_on = [time_sleep.wait]
}}
output "greeting" {{
  value = terraform_data.after.output
}}
"#
    )
}

// === impl Set ===

impl Set {
    async fn new() -> Result<Self> {
        let cluster = CLUSTER.get(usual_cluster).await?;
        let control_plane = ControlPlane::start().await?;
        let user = control_plane.admin();
        let engine = Engine::new(EngineKind::OpenTofu)?;
        let runner = Setup::new()?
            .cold()
            .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?
            .setting(&format!("jobs_at_once = {STACKS}"))
            .engines(&[&engine])
            .start(user, "runner-1")
            .await?;
        user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
        user.connection("cluster", "kubernetes", None).await?;
        user.get(NAMESPACES).await?;
        let mut stacks = Vec::new();
        for n in 1..=STACKS {
            let name = format!("stack-{n}");
            let made = user.stack(&name, "opentofu", &module("", Path::new(""))).await?;
            let folder = runner.state().join("stacks").join(made["id"].as_str().context("an id")?);
            stacks.push(Stack { name, folder });
        }
        Ok(Self { control_plane, runner, engine, stacks })
    }

    /// One job to its good end; the state is as it says, and nobody holds its lock.
    async fn goes_well(&self, stack: &Stack, greeting: &str) -> Result<()> {
        let user = self.control_plane.admin();
        if let Some(lock) = stack.lock() {
            let id = user.start_job(&stack.name, &unlock(&lock)).await?;
            user.job_in(&id, &["applied"], JOB).await?;
        }
        let id = user.start_job(&stack.name, &stack.job(greeting, true)).await?;
        let job = user.job_in(&id, &["applied"], JOB).await?;
        ensure!(job.0["outputs"]["greeting"]["value"] == greeting, "{}", job.0);
        ensure!(stack.lock().is_none(), "the lock of {} is left", stack.name);
        self.engine.agrees(&self.runner, user, &id, &module(greeting, &stack.ledger())).await
    }

    /// Whether the stack's state is what its last job says.
    async fn agrees(&self, told: &Told) -> Result<()> {
        let user = self.control_plane.admin();
        let newest = jobs_of(user, &told.stack).await?.into_iter().find(|job| job.0["kind"] == "update");
        // nobody knows what one was that was not acknowledged
        let Some(last) = told.asked.last().filter(|last| newest.is_some_and(|job| job.0["id"] == last.id)) else {
            return Ok(());
        };
        let module = module(&last.greeting, &told.stack.ledger());
        self.engine.agrees(&self.runner, user, &last.id, &module).await
    }

    /// Kills so many; the longest that it took until the runner served again after each of those that it cannot do without.
    async fn kill(&mut self, load: &Load, dice: &mut Dice, kills: u64) -> Result<BTreeMap<Victim, Duration>> {
        let mut longest = BTreeMap::new();
        let mut killed = 0;
        while killed < kills {
            tokio::time::sleep(Duration::from_millis(dice.below(PAUSE_MAX_MS))).await;
            let victim = drawn(dice);
            if !self.hit(victim, load, dice).await? {
                continue;
            }
            killed += 1;
            if victim <= Victim::Spawner {
                load.struck().above.push(shared_proto::now_ms());
            }
            *load.struck().kills.entry(victim).or_default() += 1;
            let since = Instant::now();
            // mostly; the next one may be hit before
            if victim <= Victim::ControlPlane && dice.below(4) > 0 {
                eventually(SECONDS, &format!("the runner to serve again after {victim:?}"), || async {
                    load.user.get(NAMESPACES).await.map(Some)
                })
                .await?;
                let took: &mut Duration = longest.entry(victim).or_default();
                *took = since.elapsed().max(*took);
            }
        }
        Ok(longest)
    }

    /// Whether there was one.
    async fn hit(&mut self, victim: Victim, load: &Load, dice: &mut Dice) -> Result<bool> {
        let sent = dice.of(&SIGNALS).context("a signal")?;
        let one = |dice: &mut Dice, of: &[Stat]| dice.of(of).is_some_and(|p| signal(p.pid, sent).is_ok());
        let killed = |process: Option<Stat>| process.is_some_and(|p| signal(p.pid, Signal::SIGKILL).is_ok());
        match victim {
            Victim::Launcher => {
                self.runner.kill_all_but_jobs().await?;
                self.runner.launch_again()?;
                Ok(true)
            }
            Victim::Supervisor => Ok(killed(self.runner.processes().supervisor)),
            Victim::Spawner => Ok(killed(self.runner.processes().spawner)),
            Victim::ControlPlane => {
                self.control_plane.kill();
                tokio::time::sleep(Duration::from_millis(dice.below(AWAY_MAX_MS))).await;
                self.control_plane.start_again().await?;
                Ok(true)
            }
            Victim::Operation => Ok(one(dice, &self.runner.processes().operations)),
            Victim::Resolver => Ok(one(dice, &self.runner.processes().resolvers)),
            Victim::First | Victim::Worker | Victim::Engine | Victim::PlugIn => {
                let all = processes_of_jobs(&self.runner);
                let such: Vec<_> = all.into_iter().filter(|(_, is, _)| *is == victim).collect();
                let Some((job, _, process)) = dice.of(&such) else { return Ok(false) };
                // before it: whoever looks at the job's end is to know
                let new = load.struck().jobs.entry(job.clone()).or_default().insert((victim, sent));
                let hit = signal(process.pid, sent).is_ok();
                if new && !hit {
                    load.struck().jobs.entry(job).or_default().remove(&(victim, sent));
                }
                Ok(hit)
            }
        }
    }

    /// Of what was at work: the runner, with one session, is as it was before.
    async fn nothing_is_left(&self, before: Counts, things: &Things) -> Result<()> {
        eventually(SECONDS, "nothing of a job to be left", || async {
            let left = self.runner.job_processes();
            let folders: Vec<_> =
                std::fs::read_dir(self.runner.state().join("jobs"))?.flatten().map(|e| e.path()).collect();
            ensure!(left.is_empty() && folders.is_empty(), "{left:?} {folders:?}");
            Ok(Some(()))
        })
        .await?;
        self.runner.no_workers(SECONDS).await?;
        eventually(SECONDS, "nobody to be left who has lost his own", || async {
            let left = orphans()?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(Some(()))
        })
        .await?;
        let shown = self.control_plane.admin().get(&format!("/runners/{}", self.runner.id)).await?;
        let instances = shown["instances"].as_array().map_or(0, Vec::len);
        ensure!(shown["state"] == "connected" && instances == 1, "{shown}");
        let now = Things::of(&self.runner)?;
        ensure!(now == *things, "there was {things:?}, and is {now:?}");
        self.runner.back_to(before, SECONDS).await
    }
}

fn drawn(dice: &mut Dice) -> Victim {
    let mut drawn = dice.below(WEIGHTS.iter().map(|(_, weight)| weight).sum());
    for (victim, weight) in WEIGHTS {
        match drawn.checked_sub(weight) {
            Some(left) => drawn = left,
            None => return victim,
        }
    }
    Victim::Operation
}

/// The processes of jobs, each with its job; whichever launcher's they are.
fn processes_of_jobs(runner: &Runner) -> Vec<(String, Victim, Stat)> {
    let jobs = runner.state().join("jobs");
    let job_of = |pid: i32| -> Option<String> {
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        Some(cwd.strip_prefix(&jobs).ok()?.iter().next()?.to_str()?.to_owned())
    };
    let found = runner.job_processes().into_iter().filter(|p| !p.ended()).filter_map(|process| {
        let words = procfs::command_line(process.pid);
        let program = words.first()?.rsplit('/').next()?;
        let is = match (program, words.get(1).map(String::as_str)) {
            ("runner-worker-iac", Some("step" | "follow")) => Victim::Worker,
            // or not executed yet
            ("runner-worker-iac" | "runner", _) => Victim::First,
            ("tofu", _) => Victim::Engine,
            _ => Victim::PlugIn,
        };
        Some((job_of(process.pid)?, is, process))
    });
    found.collect()
}

/// Processes of the product that no launcher or control plane has, its own ones aside.
fn orphans() -> Result<Vec<Stat>> {
    let programs: Vec<_> = ["runner", "runner-worker-ops", "runner-worker-iac", "runner-control-plane"]
        .into_iter()
        .map(tools::binary)
        .collect::<Result<_>>()?;
    let all: HashMap<i32, Stat> = procfs::all().into_iter().map(|p| (p.pid, p)).collect();
    let is_root = |pid: i32| {
        let words = procfs::command_line(pid);
        words.first().is_some_and(|w| w.ends_with("runner-control-plane"))
            || words.get(1).is_some_and(|w| w == "run" || w == "resume")
    };
    let has_root = |process: &Stat| {
        let mut at = Some(process);
        while let Some(process) = at {
            if is_root(process.pid) {
                return true;
            }
            at = all.get(&process.parent);
        }
        false
    };
    let ours = |p: &&Stat| procfs::executable(p.pid).is_some_and(|exe| programs.contains(&exe));
    Ok(all.values().filter(ours).filter(|p| !has_root(p)).cloned().collect())
}

// === impl Things ===

impl Things {
    fn of(runner: &Runner) -> Result<Self> {
        let state = runner.state();
        let mut sockets = BTreeSet::new();
        find_sockets(&state, &mut sockets)?;
        let in_state = std::fs::read_dir(&state)?.flatten().map(|entry| entry.path()).collect();
        let mounts = std::fs::read_to_string("/proc/self/mounts")?.lines().count();
        Ok(Self { sockets, in_state, mounts })
    }
}

fn find_sockets(folder: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            find_sockets(&entry.path(), found)?;
        } else if kind.is_socket() {
            found.insert(entry.path());
        }
    }
    Ok(())
}

// === impl Stack ===

impl Stack {
    /// Where an apply writes down that it has begun.
    fn ledger(&self) -> PathBuf {
        self.folder.join("begun")
    }
    /// The lock's id, where there is one.
    fn lock(&self) -> Option<String> {
        let note = std::fs::read(self.folder.join(LOCK)).ok()?;
        serde_json::from_slice::<Held>(&note).ok().map(|held| held.id().to_owned())
    }
    fn job(&self, greeting: &str, automatic: bool) -> Value {
        let variables = json!({ "greeting": greeting, "ledger": self.ledger().display().to_string() });
        json!({ "kind": "update", "approve_automatically": automatic, "variables": variables })
    }
}

// === impl Struck ===

impl Struck {
    /// Whether the job's engine was killed, alone or with everything of the job: it could not let its lock go.
    fn engine_killed(&self, job: &str) -> bool {
        let asks = [Signal::SIGINT, Signal::SIGTERM];
        self.jobs.get(job).is_some_and(|hits| {
            hits.iter().any(|(victim, sent)| match victim {
                Victim::First => *sent == Signal::SIGKILL,
                Victim::Engine => !asks.contains(sent),
                _ => false,
            })
        })
    }
}

// === impl Load ===

impl Load {
    fn struck(&self) -> MutexGuard<'_, Struck> {
        self.struck.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The answer, or none where the control plane was away, or went; one that hangs is an error.
    async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Option<Answer>> {
        match self.user.ask(method, path, body).await {
            Ok(answer) => Ok(Some(answer)),
            Err(e) if format!("{e:?}").contains("too long") => Err(e),
            Err(_) => {
                self.user.client().forget_connections();
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(None)
            }
        }
    }

    /// One operation after the other; how often each end came.
    async fn call(self, streams: bool, mut dice: Dice) -> Result<BTreeMap<String, u64>> {
        let mut codes = BTreeMap::new();
        while !self.over() {
            let code = if streams {
                self.stream().await?
            } else {
                let answer = self.ask(Method::GET, NAMESPACES, &Value::Null).await?;
                answer.map_or("no answer".into(), |a| if a.status.is_success() { "ok".into() } else { a.code() })
            };
            *codes.entry(code).or_default() += 1;
            tokio::time::sleep(Duration::from_millis(dice.below(100))).await;
        }
        Ok(codes)
    }

    /// Lives until it is killed, or all is over.
    async fn stream(&self) -> Result<String> {
        let opened = self.user.exec("cluster", "seen", "web-1", &["cat"], "container=app&stdin=true").await;
        let Ok(mut socket) = opened else { return Ok("no answer".into()) };
        let reading = Executed::read(&mut socket);
        tokio::pin!(reading);
        loop {
            match tokio::time::timeout(Duration::from_millis(100), &mut reading).await {
                Ok(Ok(ended)) => return Ok(ended.outcome["code"].as_str().unwrap_or_default().to_owned()),
                // cut off from the control plane
                Ok(Err(_)) => return Ok("no answer".into()),
                // what lives to the end is left, and ends as cancelled; nobody is there to be told
                Err(_) if self.over() => return Ok("ok".into()),
                Err(_) => {}
            }
        }
    }

    /// One job of a stack after the other, each to its end.
    async fn deploy(self, stack: Stack, mut dice: Dice) -> Result<Told> {
        let mut told = Told { stack, asked: Vec::new(), unanswered: 0 };
        for n in 1_u64.. {
            if self.over() {
                break;
            }
            // of an engine that was killed
            if let Some(lock) = told.stack.lock() {
                let path = format!("/stacks/{}/jobs", told.stack.name);
                if let Some(answer) = self.ask(Method::POST, &path, &unlock(&lock)).await? {
                    let id = answer.ok()?["id"].as_str().context("a job has an id")?.to_owned();
                    self.to_its_end(&id, false, None).await?;
                }
                // its worker may have been killed: it is asked again
                continue;
            }
            let greeting = format!("{}-{n}", told.stack.name);
            let by_hand = dice.below(BY_HAND_ONE_IN) == 0;
            let path = format!("/stacks/{}/jobs", told.stack.name);
            let Some(answer) = self.ask(Method::POST, &path, &told.stack.job(&greeting, !by_hand)).await? else {
                told.unanswered += 1;
                self.settled(&told.stack).await?;
                continue;
            };
            let id = answer.ok()?["id"].as_str().context("a job has an id")?.to_owned();
            let cancel = (dice.below(CANCEL_ONE_IN) == 0).then(|| Duration::from_millis(dice.below(CANCEL_WITHIN_MS)));
            let canceled = self.to_its_end(&id, by_hand, cancel).await?;
            let lock = told.stack.lock();
            let excused = self.struck().engine_killed(&id);
            ensure!(lock.is_none() || excused, "the engine of {id} lived, and has left a lock: {lock:?}");
            told.asked.push(Asked { id, greeting, canceled });
        }
        Ok(told)
    }

    /// Waits for a job's end, approves it where that is to be done, and asks for its cancel after that time; whether that was acknowledged.
    async fn to_its_end(&self, id: &str, by_hand: bool, mut cancel: Option<Duration>) -> Result<bool> {
        let (since, mut approved, mut canceled) = (Instant::now(), !by_hand, false);
        loop {
            let mut last = String::new();
            if let Some(answer) = self.ask(Method::GET, &format!("/jobs/{id}"), &Value::Null).await? {
                let job = Job(answer.ok().with_context(|| format!("{id} was acknowledged"))?);
                if job.ended() {
                    return Ok(canceled);
                }
                if !approved && job.phase() == "awaiting_approval" {
                    let answer = self.ask(Method::POST, &format!("/jobs/{id}/approve"), &json!({})).await?;
                    approved = answer.is_some_and(|a| a.status.is_success());
                }
                if cancel.is_some_and(|after| since.elapsed() >= after)
                    && let Some(answer) = self.ask(Method::POST, &format!("/jobs/{id}/cancel"), &json!({})).await?
                {
                    // it may have ended meanwhile
                    (canceled, cancel) = (answer.status.is_success(), None);
                }
                last = job.0.to_string();
            }
            ensure!(since.elapsed() < JOB, "{id} does not end: {last}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every job of a stack has ended, whoever was told of it.
    async fn settled(&self, stack: &Stack) -> Result<()> {
        eventually(JOB, &format!("the jobs of {} to have ended", stack.name), || async {
            let open: Vec<_> = jobs_of(&self.user, stack).await?.into_iter().filter(|job| !job.ended()).collect();
            for job in open.iter().filter(|job| job.phase() == "awaiting_approval") {
                self.user.post(&format!("/jobs/{}/approve", job.id()?), &json!({})).await?;
            }
            Ok(open.is_empty().then_some(()))
        })
        .await
    }

    /// How each job of a stack has ended, where that is true.
    async fn checked(&self, told: &Told) -> Result<Vec<String>> {
        self.settled(&told.stack).await?;
        let begun = std::fs::read_to_string(told.stack.ledger()).unwrap_or_default();
        let mut jobs = jobs_of(&self.user, &told.stack).await?;
        jobs.retain(|job| job.0["kind"] == "update");
        let known: BTreeMap<_, _> = told.asked.iter().map(|asked| (asked.id.as_str(), asked)).collect();
        for asked in &told.asked {
            ensure!(jobs.iter().any(|job| job.0["id"] == asked.id), "{} was acknowledged, and is not there", asked.id);
        }
        let extra = jobs.len().saturating_sub(told.asked.len() + 1);
        ensure!(u64::try_from(extra)? <= told.unanswered, "{extra} jobs that nobody asked for: {jobs:?}");
        let mut ends = Vec::new();
        for job in &jobs {
            let id = job.id()?;
            let asked = known.get(id.as_str()).copied();
            // a list has not all of it
            let job = self.user.job(&id).await?;
            self.is_true(&job, asked, &begun).await.with_context(|| format!("{} {:?}", job.0, self.hits(&id)))?;
            ends.push(format!("{} {}", job.phase(), job.code()));
        }
        Ok(ends)
    }

    /// Whether launcher, supervisor or spawner were killed in a job's life.
    fn unseen(&self, job: &Job) -> bool {
        let time = |name: &str| job.0[name].as_i64().unwrap_or_default();
        let (from, to) = (time("created_at_ms"), time("ended_at_ms"));
        self.struck().above.iter().any(|at| (from..=to).contains(at))
    }

    fn hits(&self, job: &str) -> BTreeSet<(Victim, Signal)> {
        self.struck().jobs.get(job).cloned().unwrap_or_default()
    }

    /// Whether what is told of a job's end is so.
    async fn is_true(&self, job: &Job, asked: Option<&Asked>, begun: &str) -> Result<()> {
        let (id, hits) = (job.id()?, self.hits(&job.id()?));
        self.user.whole(&id).await?;
        let started = self.user.events_of(&id, "engine_started").await?;
        for command in ["plan", "apply"] {
            let times = started.iter().filter(|e| e["command"] == command).count();
            ensure!(times <= 1, "{command} was started {times} times");
        }
        let results = self.user.events_of(&id, "result").await?;
        ensure!(results.len() <= 1, "it has ended more than once: {results:?}");
        let progress = self.user.events_of(&id, "resource_progress").await?;
        let done: Vec<_> = progress.iter().filter(|p| p["state"] == "complete" && p["action"] != "read").collect();
        let once: BTreeSet<_> = done.iter().map(|p| format!("{} {}", p["address"], p["action"])).collect();
        ensure!(once.len() == done.len(), "something was done twice: {done:?}");
        if let Some(asked) = asked {
            let times = begun.lines().filter(|line| *line == asked.greeting).count();
            let least = usize::from(job.phase() == "applied");
            ensure!((least..=1).contains(&times), "it was begun {times} times");
            ensure!(
                !asked.canceled || job.0["canceled_by"].is_string(),
                "its cancel was acknowledged, and is not there"
            );
        }
        match job.phase() {
            "applied" => {
                let greeting = &job.0["outputs"]["greeting"]["value"];
                ensure!(job.code() == "ok" && asked.is_none_or(|a| *greeting == a.greeting), "its outputs");
            }
            "failed" => ensure!(!hits.is_empty(), "nobody has touched it"),
            "lost" => {
                // before an engine changes anything a worker is not followed, and one that died with its supervisor was seen by nobody; nor
                // is a step started again that was about to be told what to do when its supervisor died
                let untouched = !started.iter().any(|e| e["command"] == "apply");
                let by_first = hits.contains(&(Victim::First, Signal::SIGKILL));
                ensure!(by_first || (untouched && self.unseen(job)), "nobody has killed all of it");
            }
            "canceled" => {
                let told = |sent: Signal| [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].contains(&sent);
                let asked = |victim: Victim| [Victim::First, Victim::Worker].contains(&victim);
                let by_signal = hits.iter().any(|(victim, sent)| asked(*victim) && told(*sent));
                ensure!(job.0["canceled_by"].is_string() || by_signal, "nobody has canceled it");
            }
            other => anyhow::bail!("it ended as {other}"),
        }
        Ok(())
    }
}

/// Removes a lock that an engine has left which was killed.
fn unlock(lock: &str) -> Value {
    json!({ "kind": "unlock", "lock": { "id": lock, "reason": "its engine was killed", "force": true } })
}

/// Newest first.
async fn jobs_of(user: &User, stack: &Stack) -> Result<Vec<Job>> {
    let list = user.get(&format!("/jobs?stack={}&limit=1000", stack.name)).await?;
    Ok(list["items"].as_array().context("a list")?.iter().cloned().map(Job).collect())
}

/// In the control plane's records, of as many as one list has: each has its end, and one code.
async fn every_operation_has_ended(user: &User) -> Result<()> {
    eventually(SECONDS, "every operation to have ended", || async {
        let list = user.get("/operations?limit=1000").await?;
        let items = list["items"].as_array().context("a list")?.clone();
        let open: Vec<_> = items.iter().filter(|o| !o["ended_at_ms"].is_i64() || !o["code"].is_string()).collect();
        ensure!(!items.is_empty() && open.is_empty(), "{open:?}");
        Ok(Some(()))
    })
    .await
}
