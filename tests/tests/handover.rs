//! A runner hands over to the program that is installed now: what is asked for all along is answered, what was begun before goes on, and where
//! the new one does not come up, or dies on the way, a runner is in charge that has lost nothing.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::cluster::ADMIN;
use runner_tests::control_plane::{Executed, User};
use runner_tests::engine::{EngineKind, quick_module, slow_module};
use runner_tests::process::Mark;
use runner_tests::procfs::{self, Stat};
use runner_tests::runner::{Setup, signal};
use runner_tests::world::{Shared, usual_cluster};
use runner_tests::{Cluster, Component, ControlPlane, Engine, Runner, Suite, eventually, tools};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const SECONDS: Duration = Duration::from_secs(60);
const JOB: Duration = Duration::from_secs(120);
const NAMESPACES: &str = "/connections/cluster/k8s/namespaces";
/// Operations at once, all along.
const CALLERS: usize = 3;

static CLUSTER: Shared<Cluster> = Shared::new();

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .needs(&[Component::Cluster])
        .test("operations_do_not_notice_and_the_launcher_stays", operations_do_not_notice)
        .test("what_does_not_come_up_changes_nothing", what_does_not_come_up)
        .test("one_that_never_comes_up_is_given_up", one_that_never_comes_up)
        .test("a_supervisor_that_is_killed_as_it_hands_over", || killed(Victim::OldSupervisor))
        .test("a_supervisor_that_is_killed_as_it_takes_over", || killed(Victim::NewSupervisor))
        .test("a_spawner_that_is_killed_as_it_hands_over", || killed(Victim::OldSpawner))
        .test("a_spawner_that_is_killed_as_it_takes_over", || killed(Victim::NewSpawner))
        .test("told_to_end_as_it_hands_over_it_ends", told_to_end)
        .test("one_that_does_not_leave_is_killed", does_not_leave)
        .test("a_launcher_that_is_killed_at_a_hand_over", || killed(Victim::Launcher))
        .needs(&[Component::Cluster, Component::Tofu])
        .test("a_job_in_mid_apply_goes_on", job_goes_on)
        .run()
}

/// A control plane, and a runner whose program can be replaced.
struct Set {
    runner: Runner,
    control_plane: ControlPlane,
    engine: Option<Engine>,
}

async fn set() -> Result<Set> {
    set_with(|setup| setup).await
}

async fn set_with(how: impl FnOnce(Setup) -> Setup) -> Result<Set> {
    let cluster = CLUSTER.get(usual_cluster).await?;
    let control_plane = ControlPlane::start().await?;
    let engine = Engine::new(EngineKind::OpenTofu).ok();
    let user = control_plane.admin();
    let setup = Setup::new()?;
    let program = setup.folder().join("runner");
    install(&tools::binary("runner")?, &program)?;
    let [ops, iac] = [tools::binary("runner-worker-ops")?, tools::binary("runner-worker-iac")?];
    let runner = how(setup.cold())
        .program(&program)
        .table("workers", &format!("ops = {ops:?}\niac = {iac:?}"))
        .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?
        .engines(&engine.iter().collect::<Vec<_>>())
        .start(user, "runner-1")
        .await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.connection("cluster", "kubernetes", None).await?;
    Ok(Set { runner, control_plane, engine })
}

/// As a package does it: another file of that name.
fn install(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let new = to.with_extension("new");
    std::fs::copy(from, &new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
    Ok(std::fs::rename(&new, to)?)
}

/// Operations one after the other, until they are stopped.
struct Callers {
    over: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Callers {
    fn begin(user: &User) -> Self {
        let (over, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tasks = (0..CALLERS)
            .map(|_| {
                let (user, over, served) = (user.clone(), over.clone(), served.clone());
                tokio::spawn(async move {
                    while !over.load(Ordering::Acquire) {
                        user.get(NAMESPACES).await?;
                        served.fetch_add(1, Ordering::AcqRel);
                    }
                    Ok(())
                })
            })
            .collect();
        Self { over, served, tasks }
    }
    /// Waits until so many more were served.
    async fn more(&self, count: u64) -> Result<()> {
        let wanted = self.served.load(Ordering::Acquire) + count;
        eventually(SECONDS, "more operations", || async {
            // one that failed has ended its caller
            ensure!(self.tasks.iter().all(|task| !task.is_finished()), "an operation failed");
            Ok((self.served.load(Ordering::Acquire) >= wanted).then_some(()))
        })
        .await
    }
    /// None of them failed.
    async fn end(self) -> Result<u64> {
        self.over.store(true, Ordering::Release);
        for task in self.tasks {
            task.await?.context("an operation all along")?;
        }
        Ok(self.served.load(Ordering::Acquire))
    }
}

/// Waits until there is one pair, none of these processes in it.
async fn one_pair(runner: &Runner, before: &[Stat]) -> Result<()> {
    eventually(SECONDS, "one pair, of the new processes", || async {
        let (supervisors, spawners) = runner.pairs();
        let all: Vec<_> = supervisors.iter().chain(&spawners).collect();
        let gone = before.iter().all(|old| all.iter().all(|new| new.pid != old.pid));
        Ok((gone && (supervisors.len(), spawners.len()) == (1, 1)).then_some(()))
    })
    .await
}

/// How often the launcher's process has executed its program: as it was started, and anew.
fn is_resumed(runner: &Runner) -> bool {
    procfs::command_line(runner.process().pid()).get(1).is_some_and(|word| word == "resume")
}

async fn operations_do_not_notice() -> Result<()> {
    let set = set().await?;
    let (runner, user) = (&set.runner, set.control_plane.admin());
    user.get(NAMESPACES).await?;
    runner.no_workers(SECONDS).await?;
    let launcher = procfs::stat(runner.process().pid()).context("a launcher")?;
    let before = procfs::counts(launcher.pid)?;
    let callers = Callers::begin(user);
    for round in 0..3 {
        let mut terminal = user.exec("cluster", "seen", "web-1", &["cat"], "container=app&stdin=true").await?;
        terminal.send(0, b"before").await?;
        ensure!(terminal.next().await?.context("an answer")?.1 == b"before"[..]);
        let (supervisors, spawners) = runner.pairs();
        let old = runner.status().await?.1;
        let upgraded = runner.upgrade(SECONDS).await?;
        ensure!(upgraded.code() == 0, "{round}: {upgraded:?}");
        // the new one answers, and what was begun before it goes on to its end
        let (code, new) = runner.status().await?;
        ensure!(code == 0 && new["pid"] != old["pid"] && new["instance"] == old["instance"], "{round}: {code} {new}");
        ensure!(new["tunnel"]["session"] != old["tunnel"]["session"], "{round}: {new}");
        callers.more(20).await?;
        ensure!(supervisors.iter().all(|s| procfs::stat(s.pid).is_some()), "{round}: the old one left before its end");
        // while one is under way there is no other one
        let another = runner.upgrade(SECONDS).await?;
        ensure!(another.code() == 75 && another.stderr.contains("under way"), "{round}: {another:?}");
        terminal.send(0, b"after").await?;
        ensure!(terminal.next().await?.context("an answer")?.1 == b"after"[..]);
        terminal.send(5, b"").await?;
        ensure!(Executed::read(&mut terminal).await?.outcome["exit_code"] == json!(0));
        let all: Vec<_> = supervisors.into_iter().chain(spawners).collect();
        one_pair(runner, &all).await?;
        eventually(SECONDS, "the launcher to be the new program", || async { Ok(is_resumed(runner).then_some(())) })
            .await?;
        callers.more(20).await?;
    }
    let served = callers.end().await?;
    println!("{served} operations over three hand-overs");
    // a drained runner stays drained
    runner.drain(&[], SECONDS).await?;
    let (supervisors, spawners) = runner.pairs();
    let upgraded = runner.upgrade(SECONDS).await?;
    ensure!(upgraded.code() == 0, "{upgraded:?}");
    ensure!(runner.status().await?.1["draining"] == json!(true));
    runner.drain(&["--undo"], SECONDS).await?;
    one_pair(runner, &supervisors.into_iter().chain(spawners).collect::<Vec<_>>()).await?;
    user.get(NAMESPACES).await?;

    let now = procfs::stat(launcher.pid).context("a launcher")?;
    ensure!((now.pid, now.started) == (launcher.pid, launcher.started), "{now:?}");
    runner.no_workers(SECONDS).await?;
    eventually(SECONDS, "the launcher's counts to be back", || async {
        let now = procfs::counts(launcher.pid)?;
        Ok((now.descriptors == before.descriptors && now.children == before.children).then_some(()))
    })
    .await?;
    let shown = user.get(&format!("/runners/{}", runner.id)).await?;
    ensure!(shown["instances"].as_array().is_some_and(|all| all.len() == 1), "{shown}");
    // and it ends as any other
    runner.process().signal(Signal::SIGTERM)?;
    ensure!(runner.process().ended(SECONDS).await?.code() == Some(0));
    // whoever wrote it, each operation was written down
    runner.audit_verifies().await?;
    let log = std::fs::read_to_string(runner.state().join("audit/audit-000001.jsonl"))?;
    let written = log.lines().filter(|line| line.contains("\"decision\":\"allow\"")).count() as u64;
    ensure!(written >= served, "{written} of {served} are in the audit log");
    Ok(())
}

/// What is in charge, and what it has.
async fn session(set: &Set) -> Result<(i32, Value)> {
    let status = set.runner.status().await?.1;
    Ok((set.runner.supervisor()?, status["tunnel"]["session"].clone()))
}

async fn what_does_not_come_up() -> Result<()> {
    let set = set().await?;
    let (runner, user) = (&set.runner, set.control_plane.admin());
    let before = session(&set).await?;
    let program = runner.folder().join("runner");
    let callers = Callers::begin(user);
    let mut terminal = user.exec("cluster", "seen", "web-1", &["cat"], "container=app&stdin=true").await?;
    terminal.send(0, b"before").await?;
    ensure!(terminal.next().await?.context("an answer")?.1 == b"before"[..]);

    let garbage = runner.folder().write("garbage", "this is no program")?;
    let ends = |role: &str| format!("#!/bin/sh\n[ \"$1\" = {role} ] && exit 3\nexec sleep 1000\n");
    let supervisor = runner.folder().write("supervisor-ends", ends("supervisor"))?;
    let spawner = runner.folder().write("spawner-ends", ends("spawner"))?;
    for (what, code, said) in [
        (&garbage, 75, "cannot be started"),
        (&supervisor, 3, "supervisor exited with code 3"),
        (&spawner, 75, "spawner ended"),
    ] {
        install(what, &program)?;
        let refused = runner.upgrade(SECONDS).await?;
        ensure!(refused.code() == code && refused.stderr.contains(said), "{refused:?}");
        callers.more(10).await?;
    }
    install(&tools::binary("runner")?, &program)?;
    // credentials that cannot be read by it: the one in charge has read them
    let credentials = runner.folder().join("credentials.json");
    let good = std::fs::read(&credentials)?;
    std::fs::write(&credentials, "{")?;
    let refused = runner.upgrade(SECONDS).await?;
    ensure!(refused.code() == 78 && refused.stderr.contains("credentials"), "{refused:?}");
    std::fs::write(&credentials, &good)?;
    // and those that the control plane does not take
    let mut other: Value = serde_json::from_slice(&good)?;
    let id = user.register("runner-2").await?;
    other["api_key"] = json!(user.credentials(&id).await?.api_key.expose());
    std::fs::write(&credentials, other.to_string())?;
    let refused = runner.upgrade(SECONDS).await?;
    ensure!(refused.code() == 75 && refused.stderr.contains("API key"), "{refused:?}");
    std::fs::write(&credentials, &good)?;
    callers.more(10).await?;
    // a configuration that does not load: whoever asks says so, and so would the new one
    let config = runner.folder().join("runner.toml");
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, format!("nonsense = 1\n{text}"))?;
    let refused = runner.upgrade(SECONDS).await?;
    ensure!(refused.code() == 78 && refused.stderr.contains("nonsense"), "{refused:?}");
    let said = ask(runner, "upgrade").await?;
    ensure!(said["exit"] == json!(78) && said["error"].as_str().is_some_and(|e| e.contains("nonsense")), "{said}");
    // another state directory is another instance's
    let elsewhere = runner.folder().join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    std::fs::copy(runner.state().join("instance"), elsewhere.join("instance"))?;
    std::fs::write(elsewhere.join("lock"), "")?;
    let state = format!("{:?}", runner.state().display().to_string());
    std::fs::write(&config, text.replace(&state, &format!("{:?}", elsewhere.display().to_string())))?;
    let said = ask(runner, "upgrade").await?;
    ensure!(said["error"].as_str().is_some_and(|e| e.contains("state_dir")), "{said}");
    std::fs::write(&config, &text)?;

    callers.more(20).await?;
    ensure!(session(&set).await? == before, "another one is in charge");
    terminal.send(5, b"").await?;
    ensure!(Executed::read(&mut terminal).await?.outcome["exit_code"] == json!(0));
    one_pair(runner, &[]).await?;
    // all of that undone, it works
    let upgraded = runner.upgrade(SECONDS).await?;
    ensure!(upgraded.code() == 0, "{upgraded:?}");
    callers.more(10).await?;
    callers.end().await?;
    ensure!(session(&set).await? != before);
    Ok(())
}

/// One question on the admin socket.
async fn ask(runner: &Runner, question: &str) -> Result<Value> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::UnixStream::connect(runner.state().join("admin.sock")).await?;
    socket.write_all(question.as_bytes()).await?;
    socket.shutdown().await?;
    let mut answer = Vec::new();
    tokio::time::timeout(SECONDS, socket.read_to_end(&mut answer)).await??;
    Ok(serde_json::from_slice(&answer)?)
}

async fn one_that_never_comes_up() -> Result<()> {
    let set = set().await?;
    let (runner, user) = (&set.runner, set.control_plane.admin());
    let before = session(&set).await?;
    let hangs = runner.folder().write("hangs", "#!/bin/sh\nexec sleep 1000\n")?;
    install(&hangs, &runner.folder().join("runner"))?;
    let callers = Callers::begin(user);
    let refused = runner.upgrade(SECONDS).await?;
    ensure!(refused.code() == 75 && refused.stderr.contains("not up in time"), "{refused:?}");
    callers.more(10).await?;
    callers.end().await?;
    one_pair(runner, &[]).await?;
    ensure!(session(&set).await? == before, "another one is in charge");
    install(&tools::binary("runner")?, &runner.folder().join("runner"))?;
    let upgraded = runner.upgrade(SECONDS).await?;
    ensure!(upgraded.code() == 0, "{upgraded:?}");
    user.get(NAMESPACES).await.map(|_| ())
}

/// A supervisor that is stopped as it is to leave would be in the way of the next hand-over for ever.
async fn does_not_leave() -> Result<()> {
    const GRACE: Duration = Duration::from_secs(2);
    // what it says for the operations, the goodbye, and what the launcher gives it beyond
    const KILLED_AFTER: Duration = Duration::from_secs(2 + 4 + 1 + 5);
    let set = set_with(|setup| setup.table("tunnel", &format!("drain_grace_s = {}", GRACE.as_secs()))).await?;
    let (runner, user) = (&set.runner, set.control_plane.admin());
    let mut terminal = user.exec("cluster", "seen", "web-1", &["cat"], "container=app&stdin=true").await?;
    terminal.send(0, b"before").await?;
    ensure!(terminal.next().await?.context("an answer")?.1 == b"before"[..]);
    let (supervisors, spawners) = runner.pairs();
    let before = [supervisors.clone(), spawners].concat();
    let mark = runner.mark();
    let upgraded = runner.upgrade(SECONDS).await?;
    ensure!(upgraded.code() == 0, "{upgraded:?}");
    let start = Instant::now();
    signal(supervisors[0].pid, Signal::SIGSTOP)?;
    let another = runner.upgrade(SECONDS).await?;
    ensure!(another.code() == 75 && another.stderr.contains("under way"), "{another:?}");
    one_pair(runner, &before).await?;
    let took = start.elapsed();
    ensure!(took > KILLED_AFTER / 2 && took < KILLED_AFTER + Duration::from_secs(5), "{took:?}");
    runner
        .process()
        .stderr()
        .line(mark, SECONDS, "it is said", |l| l.contains("the supervisor that was to leave does not, and is killed"))
        .await?;
    let ended = Executed::read(&mut terminal).await?;
    ensure!(ended.outcome["code"] == "connection_lost", "{}", ended.outcome);
    user.get(NAMESPACES).await?;
    let again = runner.upgrade(SECONDS).await?;
    ensure!(again.code() == 0, "{again:?}");
    user.get(NAMESPACES).await.map(|_| ())
}

async fn applying(set: &Set, stack: &str, seconds: u32) -> Result<String> {
    set.control_plane.admin().applying(stack, seconds, (JOB, SECONDS)).await
}

/// It was applied, by one engine, each event is there once, and the engine's own plan of its module says the same.
async fn ensure_applied(set: &Set, id: &str, module: &str) -> Result<()> {
    let user = set.control_plane.admin();
    let job = user.job_in(id, &["applied", "failed", "lost"], JOB).await?;
    ensure!(job.phase() == "applied" && job.code() == "ok", "{}", job.0);
    user.whole(id).await?;
    user.started_once(id, "apply").await?;
    set.engine.as_ref().context("an engine")?.agrees(&set.runner, user, id, module).await?;
    eventually(SECONDS, "no process of the job to be left, nor its folder", || async {
        let folder = set.runner.state().join("jobs").join(id);
        Ok((set.runner.job_processes().is_empty() && !folder.exists()).then_some(()))
    })
    .await
}

async fn job_goes_on() -> Result<()> {
    let set = set().await?;
    let (runner, user) = (&set.runner, set.control_plane.admin());
    let id = applying(&set, "handed-over", 10).await?;
    let worker = runner.job_worker(SECONDS).await?;
    for round in 0..2 {
        let (supervisors, spawners) = runner.pairs();
        let mark = runner.mark();
        let upgraded = runner.upgrade(SECONDS).await?;
        ensure!(upgraded.code() == 0, "{round}: {upgraded:?}");
        runner.message(mark, SECONDS, "job adopted").await?;
        ensure!(runner.job_worker(SECONDS).await?.pid == worker.pid, "{round}: the job has another worker");
        one_pair(runner, &supervisors.into_iter().chain(spawners).collect::<Vec<_>>()).await?;
    }
    ensure!(user.job(&id).await?.phase() == "applying", "it was over before");
    ensure_applied(&set, &id, &slow_module(10)).await?;
    // a plan that waits is decided on by whoever is in charge by then
    user.stack("waits", "opentofu", quick_module()).await?;
    let id = user.start_job("waits", &json!({ "kind": "update" })).await?;
    user.job_in(&id, &["awaiting_approval"], JOB).await?;
    let upgraded = runner.upgrade(SECONDS).await?;
    ensure!(upgraded.code() == 0, "{upgraded:?}");
    user.post(&format!("/jobs/{id}/approve"), &json!({})).await?;
    ensure_applied(&set, &id, quick_module()).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    OldSupervisor,
    NewSupervisor,
    OldSpawner,
    NewSpawner,
    Launcher,
}

/// When it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// So many milliseconds after the new pair is there: before, or after it is in charge.
    Ms(u64),
    /// When the control plane has given the new one the place, and all the rest is still to pass.
    Welcome,
}

impl Moment {
    async fn comes(self, set: &Set, mark: Mark) -> Result<()> {
        match self {
            // whatever it does then: this is when, and not what is waited for
            Self::Ms(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Self::Welcome => {
                let log = set.control_plane.process().stderr();
                log.message(mark, SECONDS, "a session gives its place to another process", |_| true).await?;
            }
        }
        Ok(())
    }
}

const MOMENTS: [Moment; 8] = [
    Moment::Welcome,
    Moment::Ms(0),
    Moment::Ms(50),
    Moment::Ms(100),
    Moment::Welcome,
    Moment::Ms(150),
    Moment::Ms(200),
    Moment::Ms(400),
];

async fn killed(victim: Victim) -> Result<()> {
    let mut set = set().await?;
    let user = set.control_plane.admin().clone();
    let id = match Component::Tofu.missing() {
        None => Some(applying(&set, "survives", 45).await?),
        Some(_) => None,
    };
    for moment in MOMENTS {
        let launcher = set.runner.process().pid();
        let (supervisors, spawners) = set.runner.pairs();
        let (old, old_spawner) = (supervisors[0].clone(), spawners[0].clone());
        let mark = set.control_plane.process().stderr().mark();
        let (upgrade, kill) = tokio::join!(set.runner.upgrade(SECONDS), async {
            let (new, new_spawner) = eventually(SECONDS, "the new pair", || async {
                let (supervisors, spawners) = set.runner.pairs();
                let new = supervisors.into_iter().find(|s| s.pid != old.pid);
                Ok(new.zip(spawners.into_iter().find(|s| s.pid != old_spawner.pid)))
            })
            .await?;
            moment.comes(&set, mark).await?;
            let pid = match victim {
                Victim::OldSupervisor => old.pid,
                Victim::NewSupervisor => new.pid,
                Victim::OldSpawner => old_spawner.pid,
                Victim::NewSpawner => new_spawner.pid,
                Victim::Launcher => launcher,
            };
            // it may have ended by itself
            let _ = signal(pid, Signal::SIGKILL);
            Ok::<_, anyhow::Error>(())
        });
        kill?;
        let upgrade = upgrade?;
        println!("{victim:?} at {moment:?}: exit code {}", upgrade.code());
        if victim == Victim::Launcher {
            set.runner.process().ended(SECONDS).await?;
            eventually(SECONDS, "its supervisors to be gone", || async {
                Ok((procfs::gone(&old) && procfs::gone(&old_spawner)).then_some(()))
            })
            .await?;
            set.runner.start_again().await?;
        }
        // a runner is there that works, with one pair, and its launcher is the same
        eventually(SECONDS, "a runner that is ready", || async {
            let Ok((code, status)) = set.runner.status().await else { return Ok(None) };
            Ok((code == 0 && status["pid"] == json!(set.runner.supervisor()?)).then_some(()))
        })
        .await?;
        one_pair(&set.runner, &[]).await?;
        ensure!(victim == Victim::Launcher || set.runner.process().pid() == launcher);
        eventually(SECONDS, "operations to work", || async { user.get(NAMESPACES).await.map(Some) }).await?;
        if let Some(id) = &id {
            eventually(SECONDS, "the job to be known to it", || async {
                let status = set.runner.status().await?.1;
                Ok(status["jobs"]
                    .as_array()
                    .is_some_and(|jobs| jobs.iter().any(|j| j["job_id"] == json!(id)))
                    .then_some(()))
            })
            .await?;
        }
    }
    if let Some(id) = &id {
        ensure_applied(&set, id, &slow_module(45)).await?;
    }
    set.runner.no_workers(SECONDS).await
}

/// By SIGTERM, at each of some moments: all of it ends, in good order, and nothing is left.
async fn told_to_end() -> Result<()> {
    for moment in MOMENTS {
        let set = set().await?;
        let mark = set.control_plane.process().stderr().mark();
        let runner = &set.runner;
        let (supervisors, spawners) = runner.pairs();
        let (upgrade, told) = tokio::join!(runner.upgrade(SECONDS), async {
            eventually(SECONDS, "the new pair", || async {
                // the old one may have left by then
                Ok(runner.pairs().0.iter().any(|s| s.pid != supervisors[0].pid).then_some(()))
            })
            .await?;
            moment.comes(&set, mark).await?;
            let (new_supervisors, new_spawners) = runner.pairs();
            runner.process().signal(Signal::SIGTERM)?;
            Ok::<_, anyhow::Error>([new_supervisors, new_spawners].concat())
        });
        let all = [told?, supervisors, spawners].concat();
        println!("SIGTERM at {moment:?}: exit code {}", upgrade?.code());
        let status = runner.process().ended(SECONDS).await?;
        ensure!(status.code() == Some(0), "at {moment:?}: {status:?}");
        let left: Vec<_> =
            all.iter().filter(|p| procfs::stat(p.pid).is_some_and(|now| now.started == p.started)).collect();
        ensure!(left.is_empty(), "at {moment:?}: {left:?}");
        eventually(SECONDS, "it to be seen as left", || async {
            let shown = set.control_plane.admin().get(&format!("/runners/{}", runner.id)).await?;
            Ok((shown["state"] == "left").then_some(()))
        })
        .await?;
    }
    Ok(())
}
