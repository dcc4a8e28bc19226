//! The runner as a container's first process: everything in the container ends with it, so it must not end before it has to, and asks
//! jobs to stop when it has to. The container is a pid namespace of its own; its volume, the state directory, is the test's.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::control_plane::User;
use runner_tests::engine::{EngineKind, quick_module, slow_module};
use runner_tests::process::Mark;
use runner_tests::procfs::{self, Stat, gone};
use runner_tests::runner::{Setup, signal};
use runner_tests::{Component, ControlPlane, Engine, Runner, Suite, eventually};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const SECONDS: Duration = Duration::from_secs(30);
const JOB: Duration = Duration::from_secs(120);
/// What the file has that says how many numbers are taken before the runner starts.
const TAKEN: &str = "taken";
/// Takes numbers from 2 on, each by a process that does nothing, and becomes the runner.
const FIRST: &str = "i=1; n=$(cat taken); while [ $i -lt $n ]; do sleep 1000 & i=$!; done; exec \"$@\"";

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .needs(&[])
        .test("a_first_process_reaps_relays_and_starts_again", first_process)
        .test("a_first_process_with_nothing_left_ends", nothing_left)
        .needs(&[Component::Tofu])
        .test("supervisor_killed_in_mid_apply_of_a_container", supervisor_killed)
        .test("upgraded_in_mid_apply_its_processes_are_still_known", upgraded)
        .test("no_job_ends_with_a_configuration_that_became_wrong", wrong_configuration)
        .test("stopped_in_mid_apply_the_engine_is_asked_once", stopped)
        .test("stopped_while_a_plan_waits_it_goes_on_with_it", plan_waits)
        .test("what_does_not_stop_in_its_grace_is_lost_and_its_number_is_anothers", || lost(Ends::Stopped))
        .test("a_container_killed_in_mid_apply_is_lost_and_its_number_is_anothers", || lost(Ends::Killed))
        .test("without_a_volume_the_control_plane_says_that_it_is_lost", no_volume)
        .test("on_a_machine_jobs_are_stopped_where_it_is_said", stopped_on_a_machine)
        .run()
}

struct Set {
    runner: Runner,
    control_plane: ControlPlane,
    engine: Option<Engine>,
}

async fn set(how: impl FnOnce(Setup) -> Setup) -> Result<Set> {
    set_with(&[], |setup| how(contained(setup))).await
}

async fn set_with(arguments: &[&str], how: impl FnOnce(Setup) -> Setup) -> Result<Set> {
    let control_plane = ControlPlane::with_arguments(arguments).await?;
    let engine = Engine::new(EngineKind::OpenTofu).ok();
    let setup = how(Setup::new()?.cold()).engines(&engine.iter().collect::<Vec<_>>());
    setup.folder().write(TAKEN, "1")?;
    let runner = setup.start(control_plane.admin(), "runner-1").await?;
    control_plane.admin().post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    Ok(Set { runner, control_plane, engine })
}

/// As the first process of a pid namespace.
fn contained(setup: Setup) -> Setup {
    let outside = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    setup.under(outside.into_iter().chain(["sh", "-c", FIRST, "sh"]))
}

/// The launcher: the process of the container whose number there is 1.
fn launcher(runner: &Runner) -> Result<Stat> {
    let below = procfs::descendants(runner.process().pid());
    let first = below.into_iter().find(|p| procfs::numbers(p.pid).last() == Some(&1));
    let first = first.context("a first process")?;
    ensure!(procfs::command_line(first.pid).get(1).is_some_and(|word| word == "run"), "{first:?}");
    Ok(first)
}

/// A job in mid-apply; its id and its worker.
async fn applying(set: &Set, stack: &str, seconds: u32) -> Result<(String, Stat)> {
    let id = set.control_plane.admin().applying(stack, seconds, (JOB, SECONDS)).await?;
    Ok((id, set.runner.job_worker(SECONDS).await?))
}

/// The engine's own plan says the same of the state as a job of [`applying`] does.
async fn engine_agrees(set: &Set, id: &str, seconds: u32) -> Result<()> {
    let engine = set.engine.as_ref().context("an engine")?;
    engine.agrees(&set.runner, set.control_plane.admin(), id, &slow_module(seconds)).await
}

async fn first_process() -> Result<()> {
    let set = set(|setup| setup).await?;
    let runner = &set.runner;
    let first = launcher(runner)?;
    // an orphan of the container is reaped, whoever started it
    let inside = format!("--target={}", first.pid);
    let orphan = runner_tests::process::Program::new("nsenter")
        .args([&inside, "--pid", "--mount", "--", "sh", "-c", "sleep 0.1 & echo $!"])
        .run(SECONDS)
        .await?
        .success()?;
    let orphan: i32 = orphan.trim().parse()?;
    eventually(SECONDS, "the orphan to be gone", || async {
        let left = procfs::descendants(first.pid).into_iter().any(|p| procfs::numbers(p.pid).last() == Some(&orphan));
        Ok((!left).then_some(()))
    })
    .await?;
    let mark = runner.mark();
    signal(first.pid, Signal::SIGHUP)?;
    runner.message(mark, SECONDS, "configuration and credentials read again").await?;
    // again and again, the wait grows, and neither session nor container is lost for good
    let mut waits = Vec::new();
    for _ in 0..5 {
        let (mark, start) = (runner.mark(), Instant::now());
        signal(runner.supervisor()?, Signal::SIGKILL)?;
        runner.session(mark, SECONDS).await?;
        waits.push(start.elapsed());
    }
    // 0.1 s doubles four times: 1.6 s at least
    ensure!(waits[4] >= Duration::from_millis(1_600), "{waits:?}");
    let mark = runner.mark();
    signal(runner.processes().spawner.context("a spawner")?.pid, Signal::SIGKILL)?;
    eventually(SECONDS, "another spawner", || async { Ok(runner.processes().spawner.map(drop)) }).await?;
    runner
        .process()
        .stderr()
        .line(mark, SECONDS, "another spawner", |l| l.contains("the spawner was ended by SIGKILL"))
        .await?;
    ensure!(!gone(&first), "the launcher ended");
    signal(first.pid, Signal::SIGTERM)?;
    ensure!(runner.process().ended(SECONDS).await?.code() == Some(0));
    Ok(())
}

/// A configuration that is wrong ends a container that has no job, by its own code.
async fn nothing_left() -> Result<()> {
    let set = set(|setup| setup).await?;
    std::fs::write(set.runner.folder().join("runner.toml"), "nonsense = 1")?;
    signal(set.runner.supervisor()?, Signal::SIGKILL)?;
    ensure!(set.runner.process().ended(SECONDS).await?.code() == Some(78));
    Ok(())
}

async fn supervisor_killed() -> Result<()> {
    let set = set(|setup| setup).await?;
    let user = set.control_plane.admin();
    let (id, worker) = applying(&set, "survives", 15).await?;
    for _ in 0..3 {
        let mark = set.runner.mark();
        signal(set.runner.supervisor()?, Signal::SIGKILL)?;
        set.runner.session(mark, SECONDS).await?;
    }
    signal(set.runner.processes().spawner.context("a spawner")?.pid, Signal::SIGKILL)?;
    ensure!(!gone(&worker), "the job died with them");
    let job = user.job_in(&id, &["applied"], JOB).await?;
    ensure!(job.code() == "ok", "{}", job.0);
    user.started_once(&id, "apply").await?;
    user.whole(&id).await?;
    engine_agrees(&set, &id, 15).await
}

/// The launcher executes the new program in its place: it is the same life of the container, and so are its jobs' processes.
async fn upgraded() -> Result<()> {
    let set = set(|setup| setup).await?;
    let user = set.control_plane.admin();
    let (id, worker) = applying(&set, "upgraded", 15).await?;
    let first = launcher(&set.runner)?;
    let said = set.runner.upgrade(SECONDS).await?;
    ensure!(said.code() == 0, "{said:?}");
    eventually(SECONDS, "the launcher to be the new program", || async {
        Ok(procfs::command_line(first.pid).get(1).is_some_and(|word| word == "resume").then_some(()))
    })
    .await?;
    let mark = set.runner.mark();
    signal(set.runner.supervisor()?, Signal::SIGKILL)?;
    set.runner.session(mark, SECONDS).await?;
    ensure!(!gone(&worker), "the job died with them");
    let job = user.job_in(&id, &["applied"], JOB).await?;
    ensure!(job.code() == "ok", "{}", job.0);
    user.started_once(&id, "apply").await?;
    user.whole(&id).await?;
    engine_agrees(&set, &id, 15).await
}

async fn wrong_configuration() -> Result<()> {
    let set = set(|setup| setup).await?;
    let user = set.control_plane.admin();
    let (id, worker) = applying(&set, "wrong", 600).await?;
    let (path, mark) = (set.runner.folder().join("runner.toml"), set.runner.mark());
    let right = std::fs::read(&path)?;
    std::fs::write(&path, "nonsense = 1")?;
    signal(set.runner.supervisor()?, Signal::SIGKILL)?;
    let says = |mark: Mark| {
        let log = set.runner.process().stderr();
        log.line(mark, SECONDS, "it is said", |l| l.contains("because jobs would end with this container"))
    };
    says(mark).await?;
    ensure!(!gone(&worker), "the job ended");
    // told to stop meanwhile, it asks as soon as there is somebody who can
    signal(launcher(&set.runner)?.pid, Signal::SIGTERM)?;
    says(set.runner.mark()).await?;
    ensure!(!gone(&worker), "the job ended");
    std::fs::write(&path, right)?;
    ensure!(set.runner.process().ended(SECONDS).await?.code() == Some(0));
    let job = user.job_in(&id, &["canceled"], SECONDS).await?;
    ensure!(job.code() == "cancelled", "{}", job.0);
    ensure_asked_once(user, &id).await?;
    engine_agrees(&set, &id, 600).await
}

async fn ensure_asked_once(user: &User, id: &str) -> Result<()> {
    let asked = user.events_of(id, "cancel_progress").await?;
    let once = matches!(&asked[..], [one] if one["step"] == "asked");
    ensure!(once && asked[0]["by"] == "the runner, because it is being stopped", "{asked:?}");
    Ok(())
}

async fn stopped() -> Result<()> {
    let mut set = set(|setup| setup).await?;
    let user = set.control_plane.admin().clone();
    let (id, worker) = applying(&set, "stopped", 600).await?;
    let start = Instant::now();
    signal(launcher(&set.runner)?.pid, Signal::SIGTERM)?;
    ensure!(set.runner.process().ended(SECONDS).await?.code() == Some(0));
    // it did not wait for the whole of its grace, and all was told before it ended
    ensure!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    ensure!(gone(&worker) && set.runner.job_processes().is_empty());
    let job = user.job(&id).await?;
    ensure!(job.phase() == "canceled" && job.code() == "cancelled", "{}", job.0);
    ensure_asked_once(&user, &id).await?;
    user.whole(&id).await?;
    engine_agrees(&set, &id, 600).await?;
    // neither a lock nor a state that only lived in memory is left
    let stack = PathBuf::from(format!("stacks/{}", job.0["stack"]["id"].as_str().context("a stack")?));
    let folder = set.runner.state().join(stack);
    ensure!(!folder.join(shared_proto::states::LOCK).exists());
    set.runner.start_again().await?;
    user.stack("next", "opentofu", quick_module()).await?;
    let next = user.start_job("next", &json!({ "kind": "update", "approve_automatically": true })).await?;
    user.job_in(&next, &["applied"], JOB).await?;
    let again = user.start_job("stopped", &json!({ "kind": "preview" })).await?;
    user.job_in(&again, &["planned"], JOB).await?;
    Ok(())
}

async fn plan_waits() -> Result<()> {
    let mut set = set(|setup| setup).await?;
    let user = set.control_plane.admin().clone();
    user.stack("waits", "opentofu", quick_module()).await?;
    let id = user.start_job("waits", &json!({ "kind": "update" })).await?;
    user.job_in(&id, &["awaiting_approval"], JOB).await?;
    signal(launcher(&set.runner)?.pid, Signal::SIGTERM)?;
    ensure!(set.runner.process().ended(SECONDS).await?.code() == Some(0));
    ensure!(user.job(&id).await?.phase() == "awaiting_approval");
    set.runner.start_again().await?;
    user.post(&format!("/jobs/{id}/approve"), &json!({})).await?;
    user.job_in(&id, &["applied"], JOB).await?;
    user.started_once(&id, "apply").await?;
    user.whole(&id).await
}

/// How a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// It is asked to, and what runs in it does not listen.
    Stopped,
    /// It is killed.
    Killed,
}

async fn lost(ends: Ends) -> Result<()> {
    const GRACE: Duration = Duration::from_secs(8);
    let mut set = set(|setup| setup.env("RUNNERD_JOBS_STOP_GRACE_S", GRACE.as_secs().to_string())).await?;
    let user = set.control_plane.admin().clone();
    let (id, _) = applying(&set, "all-gone", 600).await?;
    let marker = std::fs::read(set.runner.state().join(format!("jobs/{id}/own/started-apply")))?;
    let marker: Value = serde_json::from_slice(&marker)?;
    let number = i32::try_from(marker["process"]["pid"].as_i64().context("a number")?)?;
    ensure!(marker["process"]["container"].as_str().is_some_and(|life| life.len() == 32), "{marker}");
    let first = launcher(&set.runner)?;
    if ends == Ends::Killed {
        signal(first.pid, Signal::SIGKILL)?;
        set.runner.process().ended(SECONDS).await?;
    } else {
        let engine = procfs::descendants(first.pid).into_iter().find(|p| p.comm == "tofu").context("an engine")?;
        signal(engine.pid, Signal::SIGSTOP)?;
        let (mark, start) = (set.runner.mark(), Instant::now());
        signal(first.pid, Signal::SIGTERM)?;
        set.runner.message(mark, SECONDS, "what runs of the job ends with the container").await?;
        ensure!(set.runner.process().ended(SECONDS).await?.code() == Some(0));
        // before the platform would kill it, and not long before
        let took = start.elapsed();
        ensure!((GRACE - Duration::from_millis(2_500)..GRACE).contains(&took), "{took:?}");
        ensure_asked_once(&user, &id).await?;
    }
    // as every process that was in it
    eventually(SECONDS, "no process of the job to be left", || async {
        Ok(set.runner.job_processes().is_empty().then_some(()))
    })
    .await?;
    ensure!(user.job(&id).await?.phase() == "applying", "nobody knows yet");
    // in the container's next life all numbers up to that one are others'
    set.runner.folder().write(TAKEN, number.to_string())?;
    set.runner.start_again().await?;
    let job = user.job_in(&id, &["lost"], JOB).await?;
    ensure!(job.code() == "job_lost", "{}", job.0);
    let message = job.0["result"]["message"].as_str().unwrap_or_default();
    for part in ["time_sleep.wait", "serial was none before", "has left the lock of the state (lock "] {
        ensure!(message.contains(part), "{part}: {message}");
    }
    let stranger = procfs::descendants(launcher(&set.runner)?.pid)
        .into_iter()
        .find(|p| procfs::numbers(p.pid).last() == Some(&number))
        .context("somebody else has the number")?;
    ensure!(stranger.comm == "sleep" && stranger.state == 'S', "{stranger:?}");
    user.started_once(&id, "apply").await?;
    user.whole(&id).await?;
    engine_agrees(&set, &id, 600).await
}

async fn no_volume() -> Result<()> {
    let lease = ["--job-lease-seconds", "4"];
    let mut set = set_with(&lease, contained).await?;
    let user = set.control_plane.admin().clone();
    let (id, _) = applying(&set, "no-volume", 600).await?;
    // shorter than that it may be away
    let mark = set.runner.mark();
    signal(set.runner.supervisor()?, Signal::SIGKILL)?;
    set.runner.session(mark, SECONDS).await?;
    ensure!(user.job(&id).await?.phase() == "applying");
    signal(launcher(&set.runner)?.pid, Signal::SIGKILL)?;
    set.runner.process().ended(SECONDS).await?;
    // nothing of it is in the next one, which is another instance
    std::fs::rename(set.runner.state(), set.runner.folder().join("gone"))?;
    set.runner.start_again().await?;
    let job = user.job_in(&id, &["lost"], JOB).await?;
    ensure!(job.code() == "job_lost", "{}", job.0);
    let message = job.0["result"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("has not been heard of for 4 s"), "{message}");
    user.started_once(&id, "apply").await?;
    user.stack("next", "opentofu", quick_module()).await?;
    let next = user.start_job("next", &json!({ "kind": "update", "approve_automatically": true })).await?;
    user.job_in(&next, &["applied"], JOB).await?;
    Ok(())
}

async fn stopped_on_a_machine() -> Result<()> {
    let set = set_with(&[], |setup| setup.env("RUNNERD_JOBS_AT_STOP", "stop")).await?;
    let user = set.control_plane.admin();
    let (id, _) = applying(&set, "on-a-machine", 600).await?;
    set.runner.process().signal(Signal::SIGTERM)?;
    ensure!(set.runner.process().ended(SECONDS).await?.code() == Some(0));
    let job = user.job(&id).await?;
    ensure!(job.phase() == "canceled", "{}", job.0);
    ensure_asked_once(user, &id).await?;
    engine_agrees(&set, &id, 600).await
}
