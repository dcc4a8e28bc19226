//! The control plane dies, is away, is restored from an older back-up, has no room: what it acknowledged is there, what runs goes on, and
//! nothing is run twice.

use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use runner_tests::control_plane::User;
use runner_tests::engine::{EngineKind, quick_module, slow_module};
use runner_tests::runner::Setup;
use runner_tests::suite::scaled;
use runner_tests::{Component, ControlPlane, Engine, Runner, Suite, eventually};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const SECONDS: Duration = Duration::from_secs(60);
const JOB: Duration = Duration::from_secs(120);
/// How often the control plane is killed.
const KILLS: u64 = 100;
/// The least of it, whatever the scale.
const KILLS_LEAST: u64 = 10;
/// The most between its start and its end, milliseconds.
const LIFE_MAX_MS: u64 = 700;
/// How long it is away, seconds; the jobs end meanwhile.
const AWAY: u64 = 600;
/// How long an apply takes, seconds: the control plane is gone before.
const APPLY: u32 = 8;

fn main() -> ExitCode {
    Suite::new()
        .limit(900)
        .test("only_a_whole_back_up_is_restored_and_only_where_nothing_is", back_up_refusals)
        .needs(&[Component::Tofu])
        .test("jobs_that_end_while_it_is_away_arrive_whole", || away(Back::AsItWas))
        .test("restored_from_before_they_were_assigned_jobs_are_known_and_not_run_again", || away(Back::Older))
        .test("a_full_disk_refuses_with_its_code_and_running_work_goes_on", full_disk)
        .test("killed_at_random_moments_it_loses_nothing_that_it_acknowledged", random_kills)
        .run()
}

/// How the control plane comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    AsItWas,
    /// From a back-up that was taken before the jobs were assigned, and before one of them was made.
    Older,
}

fn automatic() -> Value {
    json!({ "kind": "update", "approve_automatically": true })
}

/// The runner's folder of jobs holds nothing any more: all was taken, and released.
async fn released(runner: &Runner) -> Result<()> {
    eventually(SECONDS, "the jobs' folders to be gone", || async {
        let left: Vec<_> = std::fs::read_dir(runner.state().join("jobs"))?.flatten().map(|e| e.path()).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .await
}

/// It was applied once, and every event is there.
async fn applied_once(user: &User, id: &str) -> Result<()> {
    let job = user.job_in(id, &["applied"], JOB).await?;
    ensure!(job.code() == "ok" && job.0["outputs"]["greeting"]["value"] == "hello", "{}", job.0);
    user.whole(id).await?;
    user.started_once(id, "plan").await?;
    user.started_once(id, "apply").await
}

async fn away(back: Back) -> Result<()> {
    let mut control_plane = ControlPlane::start().await?;
    let user = control_plane.admin().clone();
    let engine = Engine::new(EngineKind::OpenTofu)?;
    let id = user.register("runner-1").await?;
    let credentials = user.credentials(&id).await?;
    user.post(&format!("/runners/{id}/default"), &json!({})).await?;
    for stack in ["one", "two"] {
        user.stack(stack, "opentofu", &slow_module(APPLY)).await?;
    }
    // pending as yet: there is no instance
    let mut jobs = vec![user.start_job("one", &automatic()).await?];
    let copy = control_plane.beside("back-up");
    let copy = copy.to_str().context("a path")?;
    control_plane.command(&["backup", "--to", copy]).await?.success()?;
    user.stack("three", "opentofu", &slow_module(APPLY)).await?;
    for stack in ["two", "three"] {
        jobs.push(user.start_job(stack, &automatic()).await?);
    }
    let runner = Setup::new()?
        .cold()
        .setting("jobs_at_once = 3")
        .engines(&[&engine])
        .credentials(credentials)
        .start_as(&user, &id)
        .await?;
    for job in &jobs {
        user.job_in(job, &["applying"], JOB).await?;
    }
    control_plane.kill();
    let since = Instant::now();
    runner.no_workers(JOB).await?;
    tokio::time::sleep_until(since + Duration::from_secs(scaled(AWAY))).await;
    if back == Back::Older {
        let data = control_plane.data();
        std::fs::rename(&data, control_plane.beside("lost"))?;
        control_plane.command(&["restore", "--from", copy]).await?.success()?;
    }
    control_plane.start_again().await?;
    for job in &jobs {
        eventually(SECONDS, "the job to be known", || async { user.job(job).await.map(Some) }).await?;
        applied_once(&user, job).await?;
    }
    released(&runner).await?;
    // the stacks are as they were left: nothing is to be done
    for stack in ["one", "two", "three"] {
        let again = user.start_job(stack, &json!({ "kind": "update" })).await?;
        user.job_in(&again, &["no_changes"], JOB).await?;
    }
    Ok(())
}

async fn back_up_refusals() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    let copy = control_plane.beside("back-up");
    let copy = copy.to_str().context("a path")?;
    let said = control_plane.command(&["backup", "--to", copy]).await?.success()?;
    ensure!(said.contains("backed up to") && said.contains("files"), "{said}");
    let data = control_plane.data();
    for (arguments, why) in [
        (["backup", "--to", copy], "is there already"),
        (["restore", "--from", copy], "is there already"),
        (["restore", "--from", data.to_str().context("a path")?], "is there already"),
    ] {
        let ended = control_plane.command(&arguments).await?;
        ensure!(ended.code() == 69 && ended.stderr.contains(why), "{arguments:?}: {ended:?}");
    }
    control_plane.admin().get("/whoami").await?;
    Ok(())
}

async fn full_disk() -> Result<()> {
    let control_plane = ControlPlane::on_small_disk(24).await?;
    let user = control_plane.admin();
    let engine = Engine::new(EngineKind::OpenTofu)?;
    let runner = Setup::new()?.cold().engines(&[&engine]).start(user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.stack("slow", "opentofu", &slow_module(APPLY)).await?;
    let id = user.start_job("slow", &automatic()).await?;
    user.job_in(&id, &["applying"], JOB).await?;
    let fill = control_plane.data().join("fill");
    fill_up(&fill)?;
    // the journal may have a little room left that it made before
    let refused = eventually(SECONDS, "it to be refused", || async {
        let body = json!({ "name": format!("con-{}", random(1 << 40)), "provider": "kubernetes" });
        let answer = user.ask(Method::POST, "/connections", &body).await?;
        Ok((!answer.status.is_success()).then(|| (answer.status.as_u16(), answer.code())))
    })
    .await?;
    ensure!(refused == (507, "disk_full".into()), "{refused:?}");
    let archive = user.upload(vec![0; 4 << 20]).await.map(|_| ()).expect_err("there is no room");
    ensure!(format!("{archive:?}").contains("disk_full"), "{archive:?}");
    // it reads on, and the job goes on to its end
    user.get("/runners").await?;
    runner.no_workers(JOB).await?;
    ensure!(!user.job(&id).await?.ended(), "where was that written?");
    std::fs::remove_file(&fill)?;
    applied_once(user, &id).await?;
    released(&runner).await?;
    user.connection("after", "kubernetes", None).await.map(drop)
}

/// Writes until there is no room, down to the last byte.
fn fill_up(path: &std::path::Path) -> Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path)?;
    for size in [1 << 20, 4096, 1] {
        let chunk = vec![0; size];
        while match file.write_all(&chunk) {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull => false,
            Err(e) => return Err(e.into()),
        } {}
    }
    Ok(())
}

fn random(limit: u64) -> u64 {
    let mut bytes = [0; 8];
    // where there is no randomness the same moments will do
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes) % limit
}

/// What users were told is done.
#[derive(Default)]
struct Acknowledged {
    connections: Vec<String>,
    jobs: Vec<String>,
    cancelled: Vec<String>,
}

async fn random_kills() -> Result<()> {
    let mut control_plane = ControlPlane::start().await?;
    let user = control_plane.admin().clone();
    let engine = Engine::new(EngineKind::OpenTofu)?;
    let runner = Setup::new()?.cold().engines(&[&engine]).start(&user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    for stack in ["a", "b"] {
        user.stack(stack, "opentofu", quick_module()).await?;
    }
    let over = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn({
        let (user, over) = (user.clone(), Arc::clone(&over));
        async move { ask(&user, &over).await }
    });
    let kills = scaled(KILLS).max(KILLS_LEAST);
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(random(LIFE_MAX_MS))).await;
        control_plane.kill();
        control_plane.start_again().await?;
    }
    over.store(true, Ordering::Relaxed);
    let told = tokio::time::timeout(SECONDS, asking).await.context("the user hangs")??;
    eprintln!(
        "{kills} kills; acknowledged: {} connections, {} jobs, {} cancels",
        told.connections.len(),
        told.jobs.len(),
        told.cancelled.len()
    );
    ensure!(!told.connections.is_empty() && !told.jobs.is_empty(), "nothing was acknowledged");
    let listed = user.get("/connections").await?;
    let names: Vec<_> = listed["items"].as_array().context("a list")?.iter().map(|c| c["name"].clone()).collect();
    for name in &told.connections {
        ensure!(names.contains(&json!(name)), "the connection {name} was acknowledged, and is not there");
    }
    for id in &told.jobs {
        let ends = ["applied", "no_changes", "canceled"];
        let job = user.job_in(id, &ends, JOB).await?;
        let events = user.events(id).await?;
        ensure!(job.0["last_sequence"] == json!(events.len()), "{}", job.0);
        let started = user.events_of(id, "engine_started").await?;
        for command in ["plan", "apply"] {
            let times = started.iter().filter(|e| e["command"] == command).count();
            ensure!(times <= 1, "{command} of {id} was started {times} times");
        }
    }
    for id in &told.cancelled {
        let job = user.job(id).await?;
        ensure!(job.0["canceled_by"].is_string(), "the cancel of {id} was acknowledged, and is not there: {}", job.0);
    }
    released(&runner).await?;
    runner.no_workers(SECONDS).await
}

/// Makes connections and jobs and cancels some, and notes what was acknowledged; what was not may be there or not.
async fn ask(user: &User, over: &AtomicBool) -> Acknowledged {
    let mut told = Acknowledged::default();
    for n in 0_u64.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("c-{n}");
        let made = user.connection(&name, "kubernetes", None).await;
        if made.is_ok() {
            told.connections.push(name);
        } else {
            // it is away; no connection is kept that leads nowhere
            user.client().forget_connections();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if n % 50 == 0
            && let Ok(id) = user.start_job(if n % 100 == 0 { "a" } else { "b" }, &automatic()).await
        {
            told.jobs.push(id);
        }
        if n % 350 == 349
            && let Some(id) = told.jobs.last().cloned()
            && user.post(&format!("/jobs/{id}/cancel"), &json!({})).await.is_ok()
        {
            told.cancelled.push(id);
        }
    }
    told
}
