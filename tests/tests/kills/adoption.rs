//! Many jobs in mid-apply, and the supervisor killed again and again: how long it takes until the session is open and all of them are
//! adopted. No engine notices, and each is asked once where its job is canceled.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::control_plane::User;
use runner_tests::engine::{EngineKind, slow_module};
use runner_tests::procfs::{self, Stat, gone};
use runner_tests::runner::{Setup, signal};
use runner_tests::suite::scaled;
use runner_tests::{ControlPlane, Engine, Runner, archive, eventually};
use serde_json::json;
use std::time::{Duration, Instant};

const SECONDS: Duration = Duration::from_secs(60);
/// For all jobs together, on two processors.
const JOBS_DONE: Duration = Duration::from_secs(900);
const JOBS: u64 = 100;
const KILLS: u64 = 100;
/// Of both, whatever the scale.
const LEAST: u64 = 5;
/// What is promised of 99 in 100.
const PROMISED: Duration = Duration::from_secs(3);
/// Whoever dies sooner is started again after a wait that grows, which is the launcher's way with what cannot live. So the supervisor lives
/// for that long after so many deaths in a row, each as soon as all is back.
const LIVES: Duration = Duration::from_millis(10_500);
const IN_A_ROW: u64 = 2;
/// Longer than all of it.
const APPLY: u32 = 36_000;

pub(crate) async fn again_and_again() -> Result<()> {
    let (jobs, kills) = (scaled(JOBS).max(LEAST), scaled(KILLS).max(LEAST));
    let control_plane = ControlPlane::start().await?;
    let user = control_plane.admin();
    let engine = Engine::new(EngineKind::OpenTofu)?;
    let setup = Setup::new()?.cold().setting(&format!("jobs_at_once = {jobs}")).engines(&[&engine]);
    let runner = setup.start(user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    let ids = in_mid_apply(user, jobs).await?;
    let engines = engines(&runner);
    ensure!(engines.len() == ids.len(), "{} engines of {} jobs: {engines:?}", engines.len(), ids.len());

    eprintln!("{jobs} jobs, {kills} kills of the supervisor; the session is open, and all jobs are adopted, after:");
    let (mut sessions, mut adoptions) = (Vec::new(), Vec::new());
    let mut born = Instant::now();
    for n in 0..kills {
        if n % IN_A_ROW == 0 {
            tokio::time::sleep_until((born + LIVES).into()).await;
        }
        let mark = runner.mark();
        let killed = Instant::now();
        signal(runner.supervisor()?, Signal::SIGKILL)?;
        let session = async {
            runner.session(mark, SECONDS).await?;
            Ok::<_, anyhow::Error>(killed.elapsed())
        };
        let adopted = async {
            for id in &ids {
                let log = runner.process().stderr();
                log.message(mark, SECONDS, "job adopted", |line| line["job"] == json!(id)).await?;
            }
            runner.message(mark, SECONDS, "execution service reached").await?;
            Ok::<_, anyhow::Error>(killed.elapsed())
        };
        let (session, adopted) = tokio::try_join!(session, adopted)?;
        born = Instant::now();
        let adopted = adopted.max(session);
        eprintln!("{} ms, {} ms", session.as_millis(), adopted.as_millis());
        sessions.push(session);
        adoptions.push(adopted);
        ensure!(!engines.iter().any(gone), "an engine has noticed");
    }
    let back = figures("the session is open", sessions);
    let all = figures("it is, and all jobs are adopted", adoptions);
    ensure!(back.max(all) <= PROMISED, "{PROMISED:?} were promised");

    for id in &ids {
        user.post(&format!("/jobs/{id}/cancel"), &json!({})).await?;
    }
    for id in &ids {
        let job = user.job_in(id, &["canceled"], JOBS_DONE).await?;
        ensure!(job.code() == "cancelled", "{}", job.0);
        user.whole(id).await?;
        user.started_once(id, "apply").await?;
        let told = user.events_of(id, "cancel_progress").await?;
        ensure!(told.len() == 1 && told[0]["step"] == "asked", "{told:?}");
    }
    eventually(SECONDS, "nothing of a job to be left", || async {
        let left = runner.job_processes();
        let folders: Vec<_> = std::fs::read_dir(runner.state().join("jobs"))?.flatten().map(|e| e.path()).collect();
        ensure!(left.is_empty() && folders.is_empty(), "{left:?} {folders:?}");
        Ok(Some(()))
    })
    .await?;
    for stack in std::fs::read_dir(runner.state().join("stacks"))? {
        ensure!(!stack?.path().join(shared_proto::states::LOCK).exists(), "a lock is left");
    }
    Ok(())
}

/// Starts so many jobs, each of a stack of its own, and waits until each of them is in the middle of its apply.
async fn in_mid_apply(user: &User, jobs: u64) -> Result<Vec<String>> {
    let source = user.upload(archive::module(&slow_module(APPLY))?).await?;
    let mut ids = Vec::new();
    for n in 1..=jobs {
        let name = format!("stack-{n}");
        user.post("/stacks", &json!({ "name": name, "engine": "opentofu", "source": source })).await?;
        ids.push(user.start_job(&name, &json!({ "kind": "update", "approve_automatically": true })).await?);
    }
    for id in &ids {
        user.job_in(id, &["applying"], JOBS_DONE).await?;
        eventually(JOBS_DONE, "the slow resource to be in the making", || async {
            let progress = user.events_of(id, "resource_progress").await?;
            Ok(progress.iter().any(|p| p["state"] == "started").then_some(()))
        })
        .await?;
    }
    Ok(ids)
}

fn engines(runner: &Runner) -> Vec<Stat> {
    let is_engine = |p: &Stat| procfs::command_line(p.pid).first().is_some_and(|word| word.ends_with("/tofu"));
    runner.job_processes().into_iter().filter(is_engine).collect()
}

/// Prints them; gives what 99 in 100 are below.
fn figures(what: &str, mut took: Vec<Duration>) -> Duration {
    took.sort();
    let at =
        |percent: usize| took.get((took.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
    eprintln!("{what}: p50 {:?}, p99 {:?}, most {:?}", at(50), at(99), took.last().copied().unwrap_or_default());
    at(99)
}
