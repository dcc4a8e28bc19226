//! What dies in mid-work takes nothing with it: workers by any signal, the supervisor, the spawner, the launcher; a deployment
//! goes on while everything above it is gone.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::cluster::ADMIN;
use runner_tests::control_plane::{Executed, User};
use runner_tests::ctl::Ctl;
use runner_tests::engine::{EngineKind, quick_module, slow_module};
use runner_tests::procfs::{self, Stat, gone};
use runner_tests::runner::{Setup, signal};
use runner_tests::world::{Shared, usual_cluster};
use runner_tests::{Cluster, Component, ControlPlane, Cutter, Engine, Runner, Suite, Wire, eventually};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const SECONDS: Duration = Duration::from_secs(30);
const JOB: Duration = Duration::from_secs(120);

static CLUSTER: Shared<Cluster> = Shared::new();

/// A control plane, a runner, and the API server behind a wire.
struct Set {
    runner: Runner,
    to_cluster: Cutter,
    control_plane: ControlPlane,
    engine: Option<Engine>,
}

async fn set() -> Result<Set> {
    set_with(|setup| setup).await
}

async fn set_with(how: impl FnOnce(Setup) -> Setup) -> Result<Set> {
    let cluster = CLUSTER.get(usual_cluster).await?;
    let control_plane = ControlPlane::start().await?;
    let to_cluster = Cutter::new(cluster.address()).await?;
    let engine = Engine::new(EngineKind::OpenTofu).ok();
    let user = control_plane.admin();
    let runner = how(Setup::new()?)
        .cold()
        .kubernetes("cluster", &cluster.kubeconfig(to_cluster.address(), ADMIN))?
        .engines(&engine.iter().collect::<Vec<_>>())
        .start(user, "runner-1")
        .await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.connection("cluster", "kubernetes", None).await?;
    Ok(Set { runner, to_cluster, control_plane, engine })
}

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .needs(&[])
        .test("the_service_manager_is_told_how_it_is", service_manager)
        .needs(&[Component::Cluster])
        .test("an_operations_worker_killed", operation_worker_killed)
        .test("an_operations_worker_stopped_meets_its_deadline", operation_worker_stopped)
        .test("supervisor_killed_with_operations_in_flight", supervisor_killed)
        .test("spawner_killed", spawner_killed)
        .needs(&[Component::Cluster, Component::Tofu])
        .test("a_jobs_worker_killed", job_worker_killed)
        .test("a_jobs_worker_killed_and_not_followed", job_worker_killed_and_not_followed)
        .test("workers_and_supervisors_killed_together", workers_and_supervisors_killed)
        .test("a_jobs_worker_stopped_can_be_cancelled", job_worker_stopped)
        .test("a_jobs_first_process_killed_or_stopped", first_process_killed_or_stopped)
        .test("a_jobs_first_process_killed_under_another_supervisor", first_process_killed_after_adoption)
        .test("supervisor_killed_in_mid_apply", || survives(Death::Supervisor))
        .test("spawner_killed_in_mid_apply", || survives(Death::Spawner))
        .test("everything_above_the_job_killed_in_mid_apply", || survives(Death::All))
        .test("everything_killed_in_mid_apply", everything_killed)
        .test("runner_left_in_mid_apply", || survives(Death::Leaves))
        .test("supervisor_killed_while_a_plan_waits", killed_while_waiting)
        .test("drained_it_takes_nothing_new_and_what_runs_goes_on", drained)
        .run()
}

/// A service manager's socket.
struct Manager(tokio::net::UnixDatagram);

impl Manager {
    /// The next that is told, within the time.
    async fn told(&self, within: Duration) -> Result<Option<String>> {
        let mut buffer = [0; 512];
        match tokio::time::timeout(within, self.0.recv(&mut buffer)).await {
            Ok(length) => Ok(Some(String::from_utf8(buffer[..length?].to_vec())?)),
            Err(_) => Ok(None),
        }
    }
    /// Waits until that is told, whatever is told before.
    async fn until(&self, what: &str) -> Result<String> {
        loop {
            let told = self.told(SECONDS).await?.with_context(|| format!("{what} is not told"))?;
            if told.starts_with(what) {
                return Ok(told);
            }
        }
    }
}

async fn service_manager() -> Result<()> {
    const WATCHDOG: Duration = Duration::from_secs(2);
    let control_plane = ControlPlane::start().await?;
    let setup = Setup::new()?.cold();
    let socket = setup.folder().join("notify");
    let manager = Manager(tokio::net::UnixDatagram::bind(&socket)?);
    let runner = setup
        .env("NOTIFY_SOCKET", socket.display().to_string())
        .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
        .start(control_plane.admin(), "runner-1")
        .await?;
    // told by the one that is up: it answers at once
    manager.until("READY=1").await?;
    ensure!(runner.status().await?.1["live"] == json!(true));
    // what is for the launcher is nobody else's
    let processes = runner.processes();
    for process in [&processes.supervisor, &processes.spawner] {
        let process = process.as_ref().context("a process")?;
        let environment = std::fs::read(format!("/proc/{}/environ", process.pid))?;
        let environment = String::from_utf8_lossy(&environment).into_owned();
        ensure!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG"), "{environment:?}");
    }
    for _ in 0..3 {
        manager.until("WATCHDOG=1").await?;
    }
    runner.process().signal(Signal::SIGHUP)?;
    manager.until("RELOADING=1\nMONOTONIC_USEC=").await?;
    manager.until("READY=1").await?;
    // a hand-over is one reload, and whoever is in charge then is asked as before, by the launcher of before and by the one in its place
    let supervisors = runner.pairs().0;
    let upgraded = runner.upgrade(SECONDS).await?;
    ensure!(upgraded.code() == 0, "{upgraded:?}");
    manager.until("RELOADING=1\nMONOTONIC_USEC=").await?;
    manager.until("READY=1").await?;
    eventually(SECONDS, "the launcher to be the new program", || async {
        let resumed = procfs::command_line(runner.process().pid()).get(1).is_some_and(|word| word == "resume");
        Ok((resumed && supervisors.iter().all(gone)).then_some(()))
    })
    .await?;
    for _ in 0..8 {
        manager.until("WATCHDOG=1").await?;
    }

    // neither of the two may be silent
    for pid in [runner.supervisor()?, runner.processes().spawner.context("a spawner")?.pid] {
        signal(pid, Signal::SIGSTOP)?;
        // what it told before nobody has read yet where this process had no turn
        while manager.told(Duration::from_millis(1)).await?.is_some() {}
        // one may be under way still
        let mut signs = 0;
        while let Some(told) = manager.told(WATCHDOG).await? {
            ensure!(told == "WATCHDOG=1", "{told}");
            signs += 1;
            ensure!(signs < 3, "signs of life of one that is stopped");
        }
        signal(pid, Signal::SIGCONT)?;
        manager.until("WATCHDOG=1").await?;
    }
    // one that is started again is up again, and lives
    signal(runner.supervisor()?, Signal::SIGKILL)?;
    manager.until("STATUS=the supervisor is started again").await?;
    manager.until("READY=1").await?;
    manager.until("WATCHDOG=1").await?;
    runner.process().signal(Signal::SIGTERM)?;
    manager.until("STOPPING=1").await?;
    ensure!(runner.process().ended(SECONDS).await?.code() == Some(0));
    while let Some(told) = manager.told(Duration::from_millis(10)).await? {
        ensure!(!told.starts_with("READY"), "{told}");
    }
    Ok(())
}

async fn session_of(user: &User, runner: &Runner) -> Result<Value> {
    Ok(user.get(&format!("/runners/{}", runner.id)).await?["instances"][0]["session_id"].clone())
}

async fn operation_worker_killed() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let session = session_of(user, &set.runner).await?;
    let before = set.runner.counts_at_rest(user, NAMESPACES, SECONDS).await?;
    // a bystander, which must not notice
    let mut bystander = user.exec("cluster", "seen", "web-1", &["cat"], "container=app&stdin=true").await?;
    let bystanders = set.runner.operation_workers(1, SECONDS).await?;
    for (signal_sent, name) in [
        (Signal::SIGSEGV, "SIGSEGV"),
        (Signal::SIGKILL, "SIGKILL"),
        (Signal::SIGABRT, "SIGABRT"),
        (Signal::SIGBUS, "SIGBUS"),
        (Signal::SIGTERM, "SIGTERM"),
    ] {
        let command = ["sh", "-c", "echo up; sleep 1000"];
        let mut socket = user.exec("cluster", "seen", "web-1", &command, "container=app").await?;
        // in mid-work: the first process of a pid namespace takes no signal before it has handlers for them
        runner_tests::wait::within(SECONDS, "the command to be up", socket.next()).await??;
        let workers = set.runner.operation_workers(2, SECONDS).await?;
        let worker = workers.iter().find(|w| w.pid != bystanders[0].pid).context("the new worker")?;
        signal(worker.pid, signal_sent)?;
        let ended = runner_tests::wait::within(SECONDS, "the killed one's end", Executed::read(&mut socket)).await??;
        ensure!(ended.outcome["code"] == "worker_crashed", "{name}: {}", ended.outcome);
        ensure!(ended.outcome["message"].as_str().is_some_and(|m| m.contains(name)), "{name}: {}", ended.outcome);
        ensure!(gone(worker), "{name}: {worker:?} is still there");
        bystander.send(0, name.as_bytes()).await?;
        let mut back = Vec::new();
        while back.len() < name.len() {
            let (_, bytes) =
                tokio::time::timeout(SECONDS, bystander.next()).await??.context("the bystander goes on")?;
            back.extend_from_slice(&bytes);
        }
        ensure!(back == name.as_bytes());
    }
    bystander.send(5, b"").await?;
    ensure!(Executed::read(&mut bystander).await?.outcome["exit_code"] == json!(0));
    ensure!(session_of(user, &set.runner).await? == session, "the session was another one");
    set.runner.no_workers(SECONDS).await?;
    set.runner.back_to(before, SECONDS).await
}

async fn operation_worker_stopped() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    // warm: the credentials are resolved once
    user.get("/connections/cluster/k8s/namespaces").await?;
    let session = session_of(user, &set.runner).await?;

    // a stream has no deadline: its cancel must reach a stopped worker all the same
    Cluster::append_log(&CLUSTER.get(usual_cluster).await?.log_file("seen", "web-1", "app"), "a line")?;
    let mut stream = user.follow("cluster", "seen", "web-1", "container=app&follow=true&tail=1").await?;
    stream.at_least(1).await?;
    let worker = set.runner.operation_workers(1, SECONDS).await?.remove(0);
    signal(worker.pid, Signal::SIGSTOP)?;
    drop(stream);
    eventually(SECONDS, "the stopped worker to be gone", || async { Ok(gone(&worker).then_some(())) }).await?;

    // a unary operation has one: the target is silent, so that there is time to stop the worker
    set.to_cluster.set(Wire::Silence);
    let start = Instant::now();
    let asked = tokio::spawn({
        let user = user.clone();
        async move { user.refused("/connections/cluster/k8s/namespaces").await }
    });
    let worker = set.runner.operation_workers(1, SECONDS).await?.remove(0);
    signal(worker.pid, Signal::SIGSTOP)?;
    let (status, code) = tokio::time::timeout(Duration::from_secs(45), asked).await???;
    ensure!((status, code.as_str()) == (504, "deadline_exceeded"), "{status} {code}");
    ensure!((29..40).contains(&start.elapsed().as_secs()), "it took {:?}", start.elapsed());
    eventually(SECONDS, "the stopped worker to be gone", || async { Ok(gone(&worker).then_some(())) }).await?;
    set.to_cluster.set(Wire::Pass);
    user.get("/connections/cluster/k8s/namespaces").await?;
    ensure!(session_of(user, &set.runner).await? == session, "the session was another one");
    Ok(())
}

async fn supervisor_killed() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let mut socket = user.exec("cluster", "seen", "web-1", &["sleep", "1000"], "container=app").await?;
    let worker = set.runner.operation_workers(1, SECONDS).await?.remove(0);
    let supervisor = set.runner.supervisor()?;
    let mark = set.runner.mark();
    signal(supervisor, Signal::SIGKILL)?;
    let ended = tokio::time::timeout(Duration::from_secs(15), Executed::read(&mut socket)).await??;
    ensure!(ended.outcome["code"] == "connection_lost", "{}", ended.outcome);
    eventually(SECONDS, "its worker to be gone", || async { Ok(gone(&worker).then_some(())) }).await?;
    // the launcher brings a new one, and it works
    set.runner.session(mark, SECONDS).await?;
    ensure!(set.runner.supervisor()? != supervisor);
    user.get("/connections/cluster/k8s/namespaces").await?;
    Ok(())
}

async fn spawner_killed() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let session = session_of(user, &set.runner).await?;
    let supervisor = set.runner.supervisor()?;
    let spawner = set.runner.processes().spawner.context("a spawner")?;
    signal(spawner.pid, Signal::SIGKILL)?;
    eventually(SECONDS, "a new spawner, and operations to work", || async {
        ensure!(set.runner.processes().spawner.is_some_and(|s| s.pid != spawner.pid), "no new spawner");
        user.get("/connections/cluster/k8s/namespaces").await.map(Some)
    })
    .await?;
    // whether the supervisor goes with it is not promised, a working runner is
    if set.runner.supervisor()? == supervisor {
        ensure!(session_of(user, &set.runner).await? == session, "the session was another one");
    }
    Ok(())
}

/// The engine's own plan says the same of the state as a job of [`applying`] does.
async fn engine_agrees(set: &Set, id: &str, seconds: u32) -> Result<()> {
    let engine = set.engine.as_ref().context("an engine")?;
    engine.agrees(&set.runner, set.control_plane.admin(), id, &slow_module(seconds)).await
}

/// Starts a job whose apply takes a while, and waits until it is in the middle of it.
async fn applying(set: &Set, stack: &str, seconds: u32) -> Result<(String, Stat)> {
    let id = set.control_plane.admin().applying(stack, seconds, (JOB, SECONDS)).await?;
    let worker = set.runner.job_worker(SECONDS).await?;
    Ok((id, worker))
}

async fn job_worker_killed() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let session = session_of(user, &set.runner).await?;
    for (signal_sent, name) in
        [(Signal::SIGSEGV, "SIGSEGV"), (Signal::SIGKILL, "SIGKILL"), (Signal::SIGABRT, "SIGABRT")]
    {
        let (id, worker) = applying(&set, &format!("killed-{}", name.to_lowercase()), 20).await?;
        signal(worker.pid, signal_sent)?;
        // another one takes over, and the engine's own end decides
        let job = user.job_in(&id, &["applied", "failed", "lost"], JOB).await?;
        ensure!(job.phase() == "applied" && job.code() == "ok", "{name}: {}", job.0);
        ensure!(job.0["outputs"]["greeting"]["value"] == "hello", "{name}: {}", job.0);
        let notes = user.events_of(&id, "output_line").await?;
        let told = notes.iter().filter(|n| n["text"].as_str().is_some_and(|t| t.contains(name)));
        ensure!(told.count() == 1, "{name}: {notes:?}");
        ensure_applied_once(user, &id).await?;
        engine_agrees(&set, &id, 20).await?;
        user.events(&id).await?;
        eventually(SECONDS, "no process of the job to be left", || async {
            let left = set.runner.job_processes();
            ensure!(left.is_empty(), "{left:?}");
            Ok(Some(()))
        })
        .await?;
    }
    ensure!(session_of(user, &set.runner).await? == session, "the session was another one");
    Ok(())
}

/// Its engine was started once to apply, and each resource is done once.
async fn ensure_applied_once(user: &User, id: &str) -> Result<()> {
    user.started_once(id, "apply").await?;
    let progress = user.events_of(id, "resource_progress").await?;
    let mut done: Vec<_> =
        progress.iter().filter(|p| p["state"] == "complete").map(|p| p["address"].to_string()).collect();
    let all = done.len();
    done.sort();
    done.dedup();
    ensure!(all > 0 && done.len() == all, "{progress:?}");
    Ok(())
}

/// By setting: the engine is asked to stop, and the job says who died of what.
async fn job_worker_killed_and_not_followed() -> Result<()> {
    let set = set_with(|setup| setup.env("RUNNERD_JOBS_TAKE_OVER", "false")).await?;
    let user = set.control_plane.admin();
    let (id, worker) = applying(&set, "not-followed", 60).await?;
    signal(worker.pid, Signal::SIGKILL)?;
    let job = user.job_in(&id, &["applied", "failed", "lost"], JOB).await?;
    ensure!((job.phase(), job.code()) == ("failed", "worker_crashed"), "{}", job.0);
    let message = job.0["result"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("SIGKILL") && message.contains("was asked to stop, and did"), "{}", job.0);
    // nobody served its state any more
    let rescued = job.0["result"]["rescued_state"].as_str().unwrap_or_default();
    ensure!(rescued.contains("errored-") && std::path::Path::new(rescued).is_file(), "{}", job.0);
    engine_agrees(&set, &id, 60).await
}

/// Worker and supervisor, in either order; and one worker after the other.
async fn workers_and_supervisors_killed() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let (id, mut worker) = applying(&set, "both", 15).await?;
    for _ in 0..2 {
        let mark = set.runner.mark();
        signal(set.runner.supervisor()?, Signal::SIGKILL)?;
        signal(worker.pid, Signal::SIGKILL)?;
        set.runner.session(mark, SECONDS).await?;
        let before = worker.pid;
        worker = eventually(SECONDS, "another worker", || async {
            Ok(set.runner.processes().jobs.into_iter().find(|w| w.pid != before && !w.ended()))
        })
        .await?;
    }
    signal(worker.pid, Signal::SIGKILL)?;
    signal(set.runner.supervisor()?, Signal::SIGKILL)?;
    let job = user.job_in(&id, &["applied", "failed", "lost"], JOB).await?;
    ensure!(job.phase() == "applied" && job.code() == "ok", "{}", job.0);
    let events = user.events(&id).await?;
    ensure!(job.0["last_sequence"] == json!(events.len()), "{} of {}", events.len(), job.0["last_sequence"]);
    ensure_applied_once(user, &id).await?;
    engine_agrees(&set, &id, 15).await
}

async fn job_worker_stopped() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let session = session_of(user, &set.runner).await?;
    let (id, worker) = applying(&set, "stopped", 60).await?;
    signal(worker.pid, Signal::SIGSTOP)?;
    user.get("/connections/cluster/k8s/namespaces").await?;
    user.post(&format!("/jobs/{id}/cancel"), &json!({ "force": true })).await?;
    let job = user.job_in(&id, &["canceled", "failed", "lost"], JOB).await?;
    ensure!(!job.code().is_empty() && job.code() != "ok", "{}", job.0);
    eventually(SECONDS, "no process of the job to be left", || async {
        let left = set.runner.job_processes();
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .await?;
    engine_agrees(&set, &id, 60).await?;
    ensure!(session_of(user, &set.runner).await? == session, "the session was another one");
    Ok(())
}

async fn first_process_killed_or_stopped() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let session = session_of(user, &set.runner).await?;
    for signal_sent in [Signal::SIGKILL, Signal::SIGSTOP] {
        let (id, worker) = applying(&set, &format!("first-{}", signal_sent.as_str().to_lowercase()), 60).await?;
        let first = set.runner.processes().first.into_iter().find(|p| p.pid == worker.parent);
        signal(first.context("the first process")?.pid, signal_sent)?;
        if signal_sent == Signal::SIGSTOP {
            user.post(&format!("/jobs/{id}/cancel"), &json!({ "force": true })).await?;
        }
        let job = user.job_in(&id, &["canceled", "failed", "lost"], JOB).await?;
        ensure!(!job.code().is_empty() && job.code() != "ok", "{}", job.0);
        if signal_sent == Signal::SIGKILL {
            ensure!(job.0["result"]["message"].as_str().is_some_and(|m| m.contains("SIGKILL")), "{}", job.0);
        }
        eventually(SECONDS, "no process of the job to be left", || async {
            let left = set.runner.job_processes();
            ensure!(left.is_empty(), "{left:?}");
            Ok(Some(()))
        })
        .await?;
        engine_agrees(&set, &id, 60).await?;
    }
    ensure!(session_of(user, &set.runner).await? == session, "the session was another one");
    Ok(())
}

/// The spawner that could have told how it ended is gone: the kernel tells, from Linux 6.15 on.
async fn first_process_killed_after_adoption() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let (id, worker) = applying(&set, "adopted", 60).await?;
    let mark = set.runner.mark();
    let processes = set.runner.processes();
    for process in [processes.spawner, processes.supervisor] {
        signal(process.context("a process")?.pid, Signal::SIGKILL)?;
    }
    set.runner.session(mark, SECONDS).await?;
    set.runner.message(mark, SECONDS, "job adopted").await?;
    signal(worker.parent, Signal::SIGKILL)?;
    let job = user.job_in(&id, &["failed", "lost"], JOB).await?;
    let expected = if kernel()? >= (6, 15) { ("failed", "worker_crashed") } else { ("lost", "job_lost") };
    ensure!((job.phase(), job.code()) == expected, "{}", job.0);
    let told = job.0["result"]["message"].as_str().is_some_and(|m| m.contains("was ended by SIGKILL"));
    ensure!(told == (expected.0 == "failed"), "{}", job.0);
    user.whole(&id).await?;
    engine_agrees(&set, &id, 60).await
}

fn kernel() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    Ok((numbers.next().context("a version")?, numbers.next().context("its second number")?))
}

/// Who dies in the middle of an apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Supervisor,
    Spawner,
    /// Launcher, supervisor and spawner; a new launcher finds the job.
    All,
    /// The runner is asked to leave, and started again.
    Leaves,
}

async fn survives(death: Death) -> Result<()> {
    let mut set = set().await?;
    let user = set.control_plane.admin().clone();
    let (id, worker) = applying(&set, "survives", 15).await?;
    let mark = set.runner.mark();
    match death {
        Death::Supervisor => {
            signal(set.runner.supervisor()?, Signal::SIGKILL)?;
            set.runner.session(mark, SECONDS).await?;
        }
        Death::Spawner => signal(set.runner.processes().spawner.context("a spawner")?.pid, Signal::SIGKILL)?,
        Death::All => {
            set.runner.kill_all_but_jobs().await?;
            ensure!(!gone(&worker), "the job died with the runner");
            set.runner.start_again().await?;
        }
        Death::Leaves => {
            set.runner.process().signal(Signal::SIGTERM)?;
            set.runner.process().ended(SECONDS).await?;
            ensure!(!gone(&worker), "the job died with the runner");
            set.runner.start_again().await?;
        }
    }
    ensure!(!gone(&worker), "{death:?} took the job with it");
    let job = user.job_in(&id, &["applied"], JOB).await?;
    ensure!(job.code() == "ok" && job.0["outputs"]["greeting"]["value"] == "hello", "{}", job.0);
    let events = user.events(&id).await?;
    ensure!(job.0["last_sequence"] == json!(events.len()), "{} of {}", events.len(), job.0["last_sequence"]);
    let applied = user.events_of(&id, "engine_started").await?;
    let applies = applied.iter().filter(|e| e["command"] == "apply").count();
    ensure!(applies == 1, "the engine applied {applies} times");
    engine_agrees(&set, &id, 15).await?;
    // the same stack, the same state: nothing is to be done
    let again = user.start_job("survives", &json!({ "kind": "update" })).await?;
    user.job_in(&again, &["no_changes"], JOB).await?;
    Ok(())
}

/// The runner, the job's processes and the engine at once: lost, with what is left to tell, and a state that was not saved is kept.
async fn everything_killed() -> Result<()> {
    let mut set = set().await?;
    let user = set.control_plane.admin().clone();
    let (id, _) = applying(&set, "all-gone", 600).await?;
    set.runner.kill_all_but_jobs().await?;
    eventually(SECONDS, "no process of the job to be left", || async {
        let left = set.runner.job_processes();
        for process in &left {
            // one that has just ended is as good
            let _ = signal(process.pid, Signal::SIGKILL);
        }
        Ok(left.is_empty().then_some(()))
    })
    .await?;
    let source = set.runner.state().join("jobs").join(&id).join("work/source");
    std::fs::write(source.join("errored.tfstate"), r#"{"serial":9}"#)?;
    set.runner.start_again().await?;
    let job = user.job_in(&id, &["lost"], JOB).await?;
    ensure!(job.code() == "job_lost", "{}", job.0);
    let message = job.0["result"]["message"].as_str().unwrap_or_default();
    for part in ["time_sleep.wait", "serial was none before", "has left the lock of the state (lock "] {
        ensure!(message.contains(part), "{part}: {message}");
    }
    user.started_once(&id, "apply").await?;
    engine_agrees(&set, &id, 600).await?;
    eventually(SECONDS, "the job's folder to go", || async { Ok((!source.exists()).then_some(())) }).await?;
    let ctl = Ctl::new(&set.control_plane, &user)?;
    let copy = ctl.home().join("rescued");
    let to = copy.display().to_string();
    ctl.program(&["job", "rescue", &id, "--to", &to])?.run(SECONDS).await?.success()?;
    ensure!(std::fs::read_to_string(&copy)? == r#"{"serial":9}"#);
    let said = ctl.program(&["job", "rescue", &id])?.run(SECONDS).await?.success()?;
    ensure!(said.contains("errored-") && said.contains("runner-1"), "{said}");
    Ok(())
}

async fn drained() -> Result<()> {
    let mut set = set().await?;
    let user = set.control_plane.admin().clone();
    let (id, _) = applying(&set, "drained", 15).await?;
    let mut socket = user.exec("cluster", "seen", "web-1", &["cat"], "container=app&stdin=true").await?;
    socket.send(0, b"begun").await?;
    ensure!(socket.next().await?.context("an answer")?.1 == b"begun"[..]);

    // whoever waits is told when somebody else undoes it
    let undone = {
        let (waits, undoes) = (set.runner.drain(&["--wait"], SECONDS), async {
            shown_as(&set, "draining").await?;
            set.runner.drain(&["--undo"], SECONDS).await
        });
        let (waited, undone) = tokio::join!(waits, undoes);
        ensure!(waited.as_ref().is_ok_and(|w| w.code() == 75 && w.stderr.contains("undid")), "{waited:?}");
        undone?
    };
    ensure!(
        undone.code() == 0 && undone.stdout.starts_with("takes new work; at work: 1 operation, 1 job"),
        "{undone:?}"
    );
    shown_as(&set, "connected").await?;
    user.get(NAMESPACES).await?;

    let told = set.runner.drain(&[], SECONDS).await?;
    ensure!(told.code() == 0 && told.stdout.starts_with("takes no new work; at work: 1 operation, 1 job"), "{told:?}");
    // both ends say so, and refuse
    shown_as(&set, "draining").await?;
    let (code, status) = set.runner.status().await?;
    ensure!(code == 75 && status["draining"] == json!(true) && status["tunnel"]["state"] == "open", "{code} {status}");
    let (status, code) = user.refused(NAMESPACES).await?;
    ensure!((status, code.as_str()) == (503, "runner_leaving"), "{status} {code}");
    user.stack("later", "opentofu", quick_module()).await?;
    let later = user.start_job("later", &json!({ "kind": "update", "approve_automatically": true })).await?;
    eventually(SECONDS, "a new job to wait for an instance", || async {
        let job = user.job(&later).await?;
        ensure!(job.phase() == "pending", "{}", job.0);
        Ok((job.0["waits_for"]["reason"] == "instance").then_some(()))
    })
    .await?;
    // what runs goes on, and is waited for no longer than wished
    let waited = set.runner.drain(&["--wait", "--timeout", "1"], SECONDS).await?;
    ensure!(waited.code() == 75, "{waited:?}");
    socket.send(0, b"still here").await?;
    ensure!(socket.next().await?.context("an answer")?.1 == b"still here"[..]);
    socket.send(5, b"").await?;
    ensure!(Executed::read(&mut socket).await?.outcome["exit_code"] == json!(0));

    // a supervisor that is started again takes nothing either, and goes on with the job; who waits does not mind
    let mark = set.runner.mark();
    let waits = set.runner.drain(&["--wait", "--timeout", "120"], JOB);
    let (waited, killed) = tokio::join!(waits, async {
        signal(set.runner.supervisor()?, Signal::SIGKILL)?;
        set.runner.session(mark, SECONDS).await?;
        shown_as(&set, "draining").await
    });
    killed?;
    let waited = waited?;
    ensure!(waited.code() == 0 && waited.stdout.contains("at work: 0 operations, 0 jobs"), "{waited:?}");
    // it is reported by then
    let job = user.job(&id).await?;
    ensure!(job.phase() == "applied" && job.code() == "ok", "{}", job.0);
    ensure_applied_once(&user, &id).await?;
    engine_agrees(&set, &id, 15).await?;
    let job = user.job(&later).await?;
    ensure!(job.phase() == "pending", "{}", job.0);

    let undone = set.runner.drain(&["--undo"], SECONDS).await?;
    ensure!(undone.code() == 0, "{undone:?}");
    user.job_in(&later, &["applied"], JOB).await?;
    user.get(NAMESPACES).await?;
    // a runner that is started anew takes work
    set.runner.drain(&[], SECONDS).await?;
    shown_as(&set, "draining").await?;
    set.runner.process().signal(Signal::SIGTERM)?;
    set.runner.process().ended(SECONDS).await?;
    let away = set.runner.drain(&[], SECONDS).await?;
    ensure!(away.code() == 69, "{away:?}");
    set.runner.start_again().await?;
    user.get(NAMESPACES).await.map(|_| ())
}

const NAMESPACES: &str = "/connections/cluster/k8s/namespaces";

async fn shown_as(set: &Set, state: &str) -> Result<()> {
    eventually(SECONDS, &format!("the runner to be shown as {state}"), || async {
        let shown = set.control_plane.admin().get(&format!("/runners/{}", set.runner.id)).await?;
        Ok((shown["state"] == state && shown["instances"][0]["draining"] == json!(state == "draining")).then_some(()))
    })
    .await
}

async fn killed_while_waiting() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    user.stack("waits", "opentofu", quick_module()).await?;
    let id = user.start_job("waits", &json!({ "kind": "update" })).await?;
    user.job_in(&id, &["awaiting_approval"], JOB).await?;
    // a plan that waits holds no process
    set.runner.no_workers(SECONDS).await?;
    let mark = set.runner.mark();
    signal(set.runner.supervisor()?, Signal::SIGKILL)?;
    set.runner.session(mark, SECONDS).await?;
    user.post(&format!("/jobs/{id}/approve"), &json!({})).await?;
    let job = user.job_in(&id, &["applied"], JOB).await?;
    let events = user.events(&id).await?;
    ensure!(job.0["last_sequence"] == json!(events.len()), "{}", job.0);
    Ok(())
}
