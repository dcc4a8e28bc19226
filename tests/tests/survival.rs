//! What dies in mid-work takes nothing with it: workers by any signal, the supervisor, the spawner, the launcher; a deployment
//! goes on while everything above it is gone.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::cluster::ADMIN;
use runner_tests::control_plane::{Executed, User};
use runner_tests::engine::{EngineKind, quick_module, slow_module};
use runner_tests::procfs::{self, Stat};
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
    _engine: Option<Engine>,
}

async fn set() -> Result<Set> {
    let cluster = CLUSTER.get(usual_cluster).await?;
    let control_plane = ControlPlane::start().await?;
    let to_cluster = Cutter::new(cluster.address()).await?;
    let engine = Engine::new(EngineKind::OpenTofu).ok();
    let user = control_plane.admin();
    let runner = Setup::new()?
        .cold()
        .kubernetes("cluster", &cluster.kubeconfig(to_cluster.address(), ADMIN))?
        .engines(&engine.iter().collect::<Vec<_>>())
        .start(user, "runner-1")
        .await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.connection("cluster", "kubernetes", None).await?;
    Ok(Set { runner, to_cluster, control_plane, _engine: engine })
}

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .needs(&[Component::Cluster])
        .test("an_operations_worker_killed", operation_worker_killed)
        .test("an_operations_worker_stopped_meets_its_deadline", operation_worker_stopped)
        .test("supervisor_killed_with_operations_in_flight", supervisor_killed)
        .test("spawner_killed", spawner_killed)
        .needs(&[Component::Cluster, Component::Tofu])
        .test("a_jobs_worker_killed", job_worker_killed)
        .test("a_jobs_worker_stopped_can_be_cancelled", job_worker_stopped)
        .test("a_jobs_first_process_killed_or_stopped", first_process_killed_or_stopped)
        .test("supervisor_killed_in_mid_apply", || survives(Death::Supervisor))
        .test("spawner_killed_in_mid_apply", || survives(Death::Spawner))
        .test("everything_above_the_job_killed_in_mid_apply", || survives(Death::All))
        .test("runner_left_in_mid_apply", || survives(Death::Leaves))
        .test("supervisor_killed_while_a_plan_waits", killed_while_waiting)
        .run()
}

fn gone(process: &Stat) -> bool {
    procfs::stat(process.pid).is_none_or(|s| s.started != process.started || s.state == 'Z')
}

async fn session_of(user: &User, runner: &Runner) -> Result<Value> {
    Ok(user.get(&format!("/runners/{}", runner.id)).await?["instances"][0]["session_id"].clone())
}

async fn operation_worker_killed() -> Result<()> {
    let set = set().await?;
    let user = set.control_plane.admin();
    let session = session_of(user, &set.runner).await?;
    let before = set.runner.counts()?;
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

/// Starts a job whose apply takes a while, and waits until it is in the middle of it.
async fn applying(set: &Set, stack: &str, seconds: u32) -> Result<(String, Stat)> {
    let user = set.control_plane.admin();
    user.stack(stack, "opentofu", &slow_module(seconds)).await?;
    let body = json!({ "kind": "update", "approve_automatically": true });
    let id = user.start_job(stack, &body).await?;
    user.job_in(&id, &["applying"], JOB).await?;
    eventually(SECONDS, "the slow resource to be in the making", || async {
        let progress = user.events_of(&id, "resource_progress").await?;
        Ok(progress.iter().any(|p| p["state"] == "started").then_some(()))
    })
    .await?;
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
        // the engine's own end decides where another worker takes over; else it is said who died of what
        let job = user.job_in(&id, &["applied", "failed", "lost"], JOB).await?;
        if job.phase() != "applied" {
            ensure!(["worker_crashed", "job_lost"].contains(&job.code()), "{name}: {}", job.0);
            ensure!(job.0["result"]["message"].as_str().is_some_and(|m| m.contains(name)), "{name}: {}", job.0);
        }
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
    }
    ensure!(session_of(user, &set.runner).await? == session, "the session was another one");
    Ok(())
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
    // the same stack, the same state: nothing is to be done
    let again = user.start_job("survives", &json!({ "kind": "update" })).await?;
    user.job_in(&again, &["no_changes"], JOB).await?;
    Ok(())
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
