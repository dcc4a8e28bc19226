//! One version gives way to another, forward and back, by restart and by hand-over, while a deployment is in mid-apply and logs are followed:
//! the deployment goes on, operations are served again at once, and what cannot go back says so.
//!
//! `RUNNER_TEST_OLD` names a folder with an earlier version's programs, built from its commit (`runner`, `runner-worker-ops`, `runner-worker-iac`,
//! `runner-control-plane`, `runnerctl`). `RUNNER_TEST_SPOOLS` names a folder into which the spools of that version, else of this one, are
//! written instead of all else: see docs/spool.md.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::cluster::ADMIN;
use runner_tests::control_plane::{User, shown};
use runner_tests::ctl::Ctl;
use runner_tests::engine::{EngineKind, quick_module};
use runner_tests::https::Streaming;
use runner_tests::process::Program;
use runner_tests::procfs;
use runner_tests::runner::{Setup, signal};
use runner_tests::tools::OLD;
use runner_tests::world::{Shared, usual_cluster};
use runner_tests::{Cluster, Component, ControlPlane, Engine, Runner, Suite, eventually, tools};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const SECONDS: Duration = Duration::from_secs(60);
const JOB: Duration = Duration::from_secs(120);
/// How long operations may not be served where a runner is restarted.
const GAP: Duration = Duration::from_secs(2);
/// An apply takes so many seconds: it must not be over before the next version has it.
const APPLY: u32 = 12;
const NAMESPACES: &str = "/connections/cluster/k8s/namespaces";
const OF_RUNNER: [&str; 3] = ["runner", "runner-worker-ops", "runner-worker-iac"];
const SPOOLS: &str = "RUNNER_TEST_SPOOLS";

static CLUSTER: Shared<Cluster> = Shared::new();

fn main() -> ExitCode {
    let suite = Suite::new().serial().limit(400);
    if let Some(into) = std::env::var_os(SPOOLS) {
        let version = if std::env::var_os(OLD).is_some() { Version::Old } else { Version::New };
        let needs = [Component::Cluster, Component::Tofu];
        return suite.needs(&needs).test("spools_are_written", move || spools(version, into.into())).run();
    }
    suite
        .needs(&[Component::Cluster, Component::Tofu])
        .test("by_restart_a_job_in_mid_apply_goes_on", by_restart)
        .test("by_hand_over_neither_a_job_nor_a_followed_log_notices", by_hand_over)
        .needs(&[Component::Old, Component::Cluster, Component::Tofu])
        .test("a_runner_goes_forward_and_back_and_forward", runner_forward_and_back)
        .test("a_control_plane_goes_forward_and_is_refused_its_way_back", control_plane_forward_and_back)
        .test("an_earlier_runner_goes_on_with_a_new_control_plane", earlier_runner)
        .test("a_new_runner_works_with_an_earlier_control_plane", earlier_control_plane)
        .run()
}

/// Which programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Old,
    New,
}

/// A control plane, and a runner whose programs can be replaced.
struct Set {
    runner: Runner,
    control_plane: ControlPlane,
    _engine: Engine,
}

/// Operations one after the other, and when each was served.
struct Served {
    times: Arc<Mutex<Vec<Instant>>>,
    failed: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

// === impl Version ===

impl Version {
    fn program(self, name: &str) -> Result<PathBuf> {
        match self {
            Self::New => tools::binary(name),
            Self::Old => Ok(PathBuf::from(std::env::var_os(OLD).context("no earlier version")?).join(name)),
        }
    }
    /// As a package does it: other files of those names.
    fn install(self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        for name in OF_RUNNER {
            let (new, path) = (folder.join(format!("{name}.new")), folder.join(name));
            std::fs::copy(self.program(name)?, &new)?;
            std::fs::rename(new, path)?;
        }
        Ok(())
    }
    /// What it says of itself.
    async fn says(self) -> Result<String> {
        let said = Program::new(self.program("runner")?).arg("--version").run(SECONDS).await?.success()?;
        Ok(said.split_whitespace().next_back().context("a version")?.to_owned())
    }
}

// === impl Served ===

impl Served {
    fn begin(user: &User) -> Self {
        let (times, failed) = (Arc::<Mutex<Vec<Instant>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let over = Arc::<AtomicBool>::default();
        let task = tokio::spawn({
            let (user, times, failed, over) = (user.clone(), times.clone(), failed.clone(), over.clone());
            async move {
                while !over.load(Ordering::Acquire) {
                    match user.get(NAMESPACES).await {
                        Ok(_) => times.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now()),
                        Err(e) => {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{e:#}"));
                            // refused at once: not to take the machine from who starts
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                }
            }
        });
        Self { times, failed, over, task }
    }
    fn times(&self) -> Vec<Instant> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Waits until so many more were served.
    async fn more(&self, count: usize) -> Result<()> {
        let wanted = self.times().len() + count;
        eventually(SECONDS, "more operations", || async { Ok((self.times().len() >= wanted).then_some(())) }).await
    }
    /// The longest time between two that were served; how many were not.
    async fn end(self) -> Result<(Duration, Vec<String>)> {
        self.over.store(true, Ordering::Release);
        let times = Arc::clone(&self.times);
        self.task.await?;
        let times = times.lock().unwrap_or_else(PoisonError::into_inner);
        let gap = times.windows(2).map(|two| two[1] - two[0]).max().context("two operations")?;
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok((gap, failed))
    }
}

// === impl Set ===

impl Set {
    async fn new(of_control_plane: Version, of_runner: Version, more: impl FnOnce(Setup) -> Setup) -> Result<Self> {
        let cluster = CLUSTER.get(usual_cluster).await?;
        let control_plane = ControlPlane::by_program(&of_control_plane.program("runner-control-plane")?).await?;
        let engine = Engine::new(EngineKind::OpenTofu)?;
        let user = control_plane.admin();
        let setup = Setup::new()?;
        let programs = setup.folder().join("programs");
        of_runner.install(&programs)?;
        let setup = setup
            .cold()
            .program(programs.join("runner"))
            .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?
            .engines(&[&engine]);
        let runner = more(setup).start(user, "runner-1").await?;
        user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
        user.connection("cluster", "kubernetes", None).await?;
        user.get(NAMESPACES).await?;
        Ok(Self { runner, control_plane, _engine: engine })
    }
    fn user(&self) -> &User {
        self.control_plane.admin()
    }
    fn programs(&self) -> PathBuf {
        self.runner.folder().join("programs")
    }
    async fn applying(&self, stack: &str) -> Result<String> {
        self.user().applying(stack, APPLY, (JOB, SECONDS)).await
    }
    /// A plan that waits.
    async fn waiting(&self, stack: &str) -> Result<String> {
        self.user().stack(stack, "opentofu", quick_module()).await?;
        let id = self.user().start_job(stack, &json!({ "kind": "update" })).await?;
        self.user().job_in(&id, &["awaiting_approval"], JOB).await?;
        Ok(id)
    }
    async fn approve(&self, id: &str) -> Result<()> {
        self.user().post(&format!("/jobs/{id}/approve"), &json!({})).await.map(drop)
    }
    /// It was applied, by one engine, and each event is there once.
    async fn applied(&self, id: &str) -> Result<()> {
        let user = self.user();
        let job = user.job_in(id, &["applied", "failed", "lost"], JOB).await?;
        ensure!(job.phase() == "applied" && job.code() == "ok", "{}", job.0);
        user.whole(id).await?;
        user.started_once(id, "plan").await?;
        user.started_once(id, "apply").await?;
        eventually(SECONDS, "the job's folder to be gone", || async {
            Ok((!self.runner.state().join("jobs").join(id).exists()).then_some(()))
        })
        .await
    }

    /// Stops the runner as a service manager does, starts what is installed by then, and says for how long nothing was served.
    async fn restart(&mut self, from: Version, to: Version) -> Result<()> {
        let served = Served::begin(self.control_plane.admin());
        served.more(3).await?;
        to.install(&self.programs())?;
        self.runner.process().signal(Signal::SIGTERM)?;
        let status = self.runner.process().ended(SECONDS).await?;
        ensure!(status.code() == Some(0), "{status:?}");
        let stopped = Instant::now();
        self.runner.start_again().await?;
        served.more(3).await?;
        let again = served.times().into_iter().find(|t| *t > stopped).context("served again")? - stopped;
        let (gap, failed) = served.end().await?;
        println!(
            "from the {from:?} to the {to:?}: served again {again:.1?} after the stop, {gap:.1?} after the last one; {} refused",
            failed.len()
        );
        // the first versions let followed logs hold up their end for two seconds
        let promised = if from == Version::Old { again } else { gap };
        ensure!(promised < GAP, "nothing was served for {promised:?}");
        Ok(())
    }
}

/// Follows two logs, which have begun.
async fn follows(user: &User) -> Result<[Streaming; 2]> {
    let cluster = CLUSTER.get(usual_cluster).await?;
    let mut both = Vec::new();
    for container in ["app", "side"] {
        Cluster::append_log(&cluster.log_file("seen", "web-1", container), "a line")?;
        let query = format!("container={container}&follow=true&tail=1");
        let mut stream = user.follow("cluster", "seen", "web-1", &query).await?;
        stream.at_least(7).await?;
        both.push(stream);
    }
    both.try_into().ok().context("two")
}

/// They end, with an outcome that says why.
async fn follows_end(follows: [Streaming; 2]) -> Result<()> {
    for mut stream in follows {
        tokio::time::timeout(SECONDS, stream.rest()).await.context("a follow ends")??;
        let outcome = stream.outcome()?;
        ensure!(outcome["code"] == "connection_lost" || outcome["code"] == "cancelled", "{outcome}");
    }
    Ok(())
}

/// A job in mid-apply and two followed logs, and the runner is restarted as another version, or the same.
async fn leg(set: &mut Set, from: Version, to: Version, stack: &str) -> Result<String> {
    let id = set.applying(stack).await?;
    let worker = set.runner.job_worker(SECONDS).await?;
    let logs = follows(set.user()).await?;
    set.restart(from, to).await?;
    let now = procfs::stat(worker.pid).context("the job's worker")?;
    ensure!(now.started == worker.started, "the job has another worker");
    follows_end(logs).await?;
    // who follows a log follows it again
    let _logs = follows(set.user()).await?;
    ensure!(set.user().job(&id).await?.phase() == "applying", "it was over before");
    set.applied(&id).await?;
    Ok(id)
}

/// What is in flight at the stop is a part of the gap: here it gets no time.
fn at_once(setup: Setup) -> Setup {
    setup.table("tunnel", "drain_grace_s = 0")
}

async fn by_restart() -> Result<()> {
    let mut set = Set::new(Version::New, Version::New, at_once).await?;
    leg(&mut set, Version::New, Version::New, "restarted").await.map(drop)
}

async fn by_hand_over() -> Result<()> {
    // what is followed goes on for this long in the one that has handed over
    let set = Set::new(Version::New, Version::New, |setup| setup.table("tunnel", "drain_grace_s = 120")).await?;
    let cluster = CLUSTER.get(usual_cluster).await?;
    let id = set.applying("handed-over").await?;
    let worker = set.runner.job_worker(SECONDS).await?;
    let mut logs = follows(set.user()).await?;
    // not while one is started: a worker whose program is replaced between its domain and its start cannot be
    Version::New.install(&set.programs())?;
    let served = Served::begin(set.control_plane.admin());
    served.more(3).await?;
    let mark = set.runner.mark();
    let upgraded = set.runner.upgrade(SECONDS).await?;
    ensure!(upgraded.code() == 0, "{upgraded:?}");
    set.runner.message(mark, SECONDS, "job adopted").await?;
    served.more(10).await?;
    for (stream, container) in logs.iter_mut().zip(["app", "side"]) {
        Cluster::append_log(&cluster.log_file("seen", "web-1", container), "after it")?;
        let line = tokio::time::timeout(SECONDS, stream.at_least(9)).await.context("a followed line")??;
        ensure!(line == b"after it\n", "{:?}", String::from_utf8_lossy(&line));
    }
    let (gap, failed) = served.end().await?;
    println!("by hand-over: at most {gap:.1?} between two that were served; {} refused", failed.len());
    ensure!(failed.is_empty(), "{failed:?}");
    ensure!(set.runner.job_worker(SECONDS).await?.pid == worker.pid, "the job has another worker");
    ensure!(set.user().job(&id).await?.phase() == "applying", "it was over before");
    set.applied(&id).await
}

async fn runner_forward_and_back() -> Result<()> {
    let mut set = Set::new(Version::New, Version::Old, at_once).await?;
    // plans that one version has made are approved under the other one
    let by_old = set.waiting("waits-for-the-new").await?;
    leg(&mut set, Version::Old, Version::New, "forward").await?;
    set.approve(&by_old).await?;
    set.applied(&by_old).await?;
    let by_new = set.waiting("waits-for-the-old").await?;
    let id = leg(&mut set, Version::New, Version::Old, "back").await?;
    let empty = set.user().events(&id).await?.into_iter().filter(|event| event["body"].is_null()).count();
    println!("told by the old one: {empty} events of a kind that it does not know, by number and time only");
    set.approve(&by_new).await?;
    set.applied(&by_new).await?;
    leg(&mut set, Version::Old, Version::New, "forward-again").await?;
    set.runner.no_workers(SECONDS).await
}

/// It refuses to start, by name, and changes nothing.
async fn refused(set: &Set) -> Result<()> {
    let data = set.control_plane.data();
    let digest = |data: &Path| -> Result<Vec<u8>> { Ok(std::fs::read(data.join("control-plane.db"))?) };
    let before = digest(&data)?;
    let ended = Program::new(Version::Old.program("runner-control-plane")?)
        .args(["--data", &shown(&data), "--api-listen", "127.0.0.1:0", "--runner-listen", "127.0.0.1:0"])
        .args(["--name", "127.0.0.1"])
        .run(SECONDS)
        .await?;
    println!("the old one on the new one's database: exit code {}, {}", ended.code(), ended.stderr.trim());
    ensure!(ended.code() == 69 || ended.code() == 78, "{ended:?}");
    ensure!(ended.stderr.contains("previously applied but is missing") || ended.stderr.contains("newer"), "{ended:?}");
    ensure!(digest(&data)? == before, "the database was changed");
    Ok(())
}

/// Replaced as that version, with a job in mid-apply; the runner is back by itself.
async fn replaced(set: &mut Set, to: Version) -> Result<()> {
    set.control_plane.stop().await?;
    set.control_plane.replace(&to.program("runner-control-plane")?);
    let mark = set.runner.mark();
    set.control_plane.start_again().await?;
    set.runner.session(mark, SECONDS).await?;
    set.user().get(NAMESPACES).await.map(drop)
}

async fn control_plane_forward_and_back() -> Result<()> {
    let mut set = Set::new(Version::Old, Version::Old, |setup| setup).await?;
    let waits = set.waiting("waits").await?;
    let id = set.applying("forward").await?;
    set.control_plane.stop().await?;
    let kept = set.control_plane.beside("before");
    copy(&set.control_plane.data(), &kept)?;
    replaced(&mut set, Version::New).await?;
    set.applied(&id).await?;
    set.approve(&waits).await?;
    set.applied(&waits).await?;
    // the way back: not with a database that the new one has brought to its form …
    let id = set.applying("back").await?;
    set.control_plane.stop().await?;
    refused(&set).await?;
    replaced(&mut set, Version::New).await?;
    set.applied(&id).await?;
    // … but with the copy of before
    set.control_plane.stop().await?;
    let data = set.control_plane.data();
    std::fs::rename(&data, set.control_plane.beside("of-the-new"))?;
    copy(&kept, &data)?;
    replaced(&mut set, Version::Old).await?;
    let id = set.applying("back-with-the-copy").await?;
    set.applied(&id).await
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            std::fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

/// Whether one version is of an earlier minor than the other.
fn is_earlier(one: &str, other: &str) -> bool {
    let parts = |v: &str| v.split('.').take(2).map(|p| p.parse().unwrap_or(0)).collect::<Vec<u32>>();
    parts(one) < parts(other)
}

async fn earlier_runner() -> Result<()> {
    let set = Set::new(Version::New, Version::Old, |setup| setup).await?;
    let (old, new) = (Version::Old.says().await?, Version::New.says().await?);
    let user = set.user();
    let listed = user.get(&format!("/runners/{}", set.runner.id)).await?;
    ensure!(listed["instances"][0]["version"] == json!(old), "{listed}");
    // it is told by its number, and goes on working
    let told = |line: &str| line.contains("notice from the control plane") && line.contains("upgrade the runner");
    let lines = set.runner.process().stderr().text();
    ensure!(lines.lines().any(told) == is_earlier(&old, &new), "{old} beside {new}");
    println!("a runner {old} beside a control plane {new}: told {}", is_earlier(&old, &new));
    let id = set.applying("of-the-earlier").await?;
    let logs = follows(user).await?;
    set.applied(&id).await?;
    drop(logs);
    // and its command line, at the new one
    let ctl = Ctl::new(&set.control_plane, user)?;
    let listed = ctl
        .program(&["runner", "list", "-o", "json"])?
        .replaced(Version::Old.program("runnerctl")?)
        .run(SECONDS)
        .await?;
    ensure!(listed.success()?.contains(&set.runner.id));
    Ok(())
}

async fn earlier_control_plane() -> Result<()> {
    let mut set = Set::new(Version::Old, Version::New, at_once).await?;
    leg(&mut set, Version::New, Version::New, "of-the-new").await?;
    // it knows no hand-over: said, and nothing changes
    let upgraded = set.runner.upgrade(SECONDS).await?;
    println!("a hand-over below an earlier control plane: exit code {}, {}", upgraded.code(), upgraded.stderr.trim());
    ensure!(upgraded.code() != 0 && upgraded.stderr.contains("hand-over"), "{upgraded:?}");
    let waits = set.waiting("waits").await?;
    set.approve(&waits).await?;
    set.applied(&waits).await
}

/// Three jobs' folders as a version writes them: one waits for its approval, all of another one's apply is dead, a third has ended and the
/// control plane does not know. What only an engine would read is left out.
async fn spools(version: Version, into: PathBuf) -> Result<()> {
    let mut set = Set::new(Version::New, version, |setup| setup).await?;
    let user = set.user().clone();
    let waits = set.waiting("waits").await?;
    let dies = user.applying("dies", 600, (JOB, SECONDS)).await?;
    let ends = user.applying("ends", 5, (JOB, SECONDS)).await?;
    set.control_plane.kill();
    let jobs = set.runner.state().join("jobs");
    eventually(SECONDS, "the end in the spool", || async {
        Ok(has_result(&jobs.join(&ends).join("work/events"))?.then_some(()))
    })
    .await?;
    set.runner.kill_all_but_jobs().await?;
    eventually(SECONDS, "no process of a job to be left", || async {
        let left = set.runner.job_processes();
        for process in &left {
            // it may have ended by itself
            let _ = signal(process.pid, Signal::SIGKILL);
        }
        Ok(left.is_empty().then_some(()))
    })
    .await?;
    for id in [waits, dies, ends] {
        for part in ["own", "work"] {
            let (from, to) = (jobs.join(&id).join(part), into.join(&id).join(part));
            std::fs::create_dir_all(&to)?;
            for entry in std::fs::read_dir(&from)?.flatten() {
                let name = entry.file_name();
                let is_spool = !["source.", "engine."].iter().any(|start| name.to_string_lossy().starts_with(start));
                if entry.file_type()?.is_file() && is_spool {
                    std::fs::write(to.join(&name), std::fs::read(entry.path())?)?;
                }
            }
        }
    }
    Ok(())
}

fn has_result(events: &Path) -> Result<bool> {
    use prost::Message as _;
    let mut reader = shared_proto::spool::Reader::new(std::fs::File::open(events)?)?;
    let mut last = None;
    while let Some(record) = reader.read()? {
        last = shared_proto::v1::Event::decode(record.content.as_slice())?.body;
    }
    Ok(matches!(last, Some(shared_proto::v1::event::Body::Result(_))))
}
