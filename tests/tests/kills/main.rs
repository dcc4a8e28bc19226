//! Workers, engines and the spawner killed by random signals at random moments, while operations and a job go on: the session is the same
//! one at the end, every operation has ended once with a code that tells the truth, and nothing is left. `anything` kills whatever the
//! product consists of, `adoption` the supervisor alone, and measures. `RUNNER_TEST_SCALE` (a percentage) makes the figures smaller; the
//! seed is printed, and `RUNNER_TEST_SEED` repeats it.

mod adoption;
mod anything;

use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use nix::sys::signal::Signal;
use runner_tests::cluster::ADMIN;
use runner_tests::control_plane::{Executed, User};
use runner_tests::dice::Dice;
use runner_tests::engine::{EngineKind, slow_module};
use runner_tests::runner::{Processes, Setup, signal};
use runner_tests::suite::scaled;
use runner_tests::world::{Shared, usual_cluster};
use runner_tests::{Cluster, Component, ControlPlane, Engine, Runner, Suite, eventually};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(60);
const JOB: Duration = Duration::from_secs(120);
/// Kills, and operations at once.
const KILLS: u64 = 1000;
const OPERATIONS: u64 = 200;
/// One kill in so many is the spawner's, and one in so many hits a process of the job.
const SPAWNER_ONE_IN: u64 = 50;
const JOB_ONE_IN: u64 = 8;
/// The most between two kills, milliseconds.
const PAUSE_MAX_MS: u64 = 20;
const SIGNALS: [Signal; 9] = [
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

static CLUSTER: Shared<Cluster> = Shared::new();

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .limit(900)
        .needs(&[Component::Cluster, Component::Tofu])
        .test("random_kills_take_nothing_with_them", random_kills)
        .limit(3600)
        .test("random_kills_of_anything_lose_nothing", anything::random_kills)
        .needs(&[Component::Tofu])
        .test("adoption_with_a_hundred_jobs", adoption::again_and_again)
        .run()
}

async fn random_kills() -> Result<()> {
    let mut dice = Dice::seeded()?;
    let cluster = CLUSTER.get(usual_cluster).await?;
    let control_plane = ControlPlane::start().await?;
    let user = control_plane.admin().clone();
    let engine = Engine::new(EngineKind::OpenTofu)?;
    let runner = Setup::new()?
        .cold()
        .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), ADMIN))?
        .engines(&[&engine])
        .start(&user, "runner-1")
        .await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    user.connection("cluster", "kubernetes", None).await?;
    user.stack("killed", "opentofu", &slow_module(2)).await?;
    user.get("/connections/cluster/k8s/namespaces").await?;
    runner.no_workers(SECONDS).await?;
    let (session, before, mounts) = (session_of(&user, &runner).await?, runner.counts()?, mounts()?);

    // operations of both kinds, and one job after the other
    let over = Arc::new(AtomicBool::new(false));
    let mut going = tokio::task::JoinSet::new();
    for n in 0..scaled(OPERATIONS) {
        let (user, over) = (user.clone(), Arc::clone(&over));
        going.spawn(async move {
            let mut codes = BTreeMap::new();
            while !over.load(Ordering::Relaxed) {
                let code = if n % 4 == 0 { stream(&user, &over).await? } else { unary(&user).await? };
                *codes.entry(code).or_insert(0_u32) += 1;
            }
            Ok::<_, anyhow::Error>(codes)
        });
    }
    let jobs = tokio::spawn({
        let (user, over) = (user.clone(), Arc::clone(&over));
        async move {
            let mut ends = BTreeMap::new();
            while !over.load(Ordering::Relaxed) {
                let body = json!({ "kind": "update", "approve_automatically": true });
                let id = user.start_job("killed", &body).await?;
                let job = loop {
                    let job = user.job(&id).await?;
                    if job.ended() {
                        break job;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                };
                *ends.entry(format!("{} {}", job.phase(), job.code())).or_insert(0_u32) += 1;
                user.events(&id).await?;
            }
            Ok::<_, anyhow::Error>(ends)
        }
    });

    let mut killed = BTreeMap::new();
    while killed.values().sum::<u64>() < scaled(KILLS) {
        tokio::time::sleep(Duration::from_millis(dice.below(PAUSE_MAX_MS))).await;
        let Some((what, pid)) = victim(&mut dice, &runner.processes()) else { continue };
        let sent = dice.of(&SIGNALS).context("a signal")?;
        // whoever is gone by itself was not killed
        if signal(pid, if what == "spawner" { Signal::SIGKILL } else { sent }).is_ok() {
            *killed.entry(what).or_default() += 1;
        }
    }
    over.store(true, Ordering::Relaxed);
    let mut codes: BTreeMap<String, u32> = BTreeMap::new();
    while let Some(ended) = tokio::time::timeout(SECONDS, going.join_next()).await.context("an operation hangs")? {
        for (code, count) in ended?? {
            *codes.entry(code).or_default() += count;
        }
    }
    let ends = tokio::time::timeout(JOB, jobs).await.context("the job hangs")???;
    eprintln!("killed {killed:?}; operations {codes:?}; jobs {ends:?}");

    ensure!(session_of(&user, &runner).await? == session, "the session is another one");
    let told = ["ok", "worker_crashed"];
    ensure!(codes.keys().all(|code| told.contains(&code.as_str())), "{codes:?}");
    ensure!(codes.contains_key("worker_crashed") || scaled(KILLS) < 20, "nothing was hit: {codes:?}");
    every_operation_has_ended(&user).await?;
    runner.no_workers(SECONDS).await?;
    runner.back_to(before, SECONDS).await?;
    eventually(SECONDS, "the jobs' folders to be gone", || async {
        let left: Vec<_> = std::fs::read_dir(runner.state().join("jobs"))?.flatten().map(|e| e.path()).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .await?;
    ensure!(self::mounts()? == mounts, "a mount is left");
    Ok(())
}

/// Whom the next signal hits.
fn victim(dice: &mut Dice, now: &Processes) -> Option<(&'static str, i32)> {
    if dice.below(SPAWNER_ONE_IN) == 0 {
        return now.spawner.as_ref().map(|s| ("spawner", s.pid));
    }
    if dice.below(JOB_ONE_IN) == 0 {
        let mut of_job: Vec<_> = now.first.iter().map(|p| ("first process of the job", p.pid)).collect();
        of_job.extend(now.jobs.iter().map(|p| ("job's worker", p.pid)));
        // plug-ins among them
        of_job.extend(now.others.iter().map(|p| ("engine", p.pid)));
        return dice.of(&of_job);
    }
    let workers: Vec<_> = now.operations.iter().map(|p| ("operation's worker", p.pid)).collect();
    dice.of(&workers)
}

async fn unary(user: &User) -> Result<String> {
    let answer = user.ask(Method::GET, "/connections/cluster/k8s/namespaces", &Value::Null).await?;
    Ok(if answer.status.is_success() { "ok".to_owned() } else { answer.code() })
}

/// Lives until it is killed, or all is over.
async fn stream(user: &User, over: &AtomicBool) -> Result<String> {
    let query = "container=app&stdin=true";
    let mut socket = user.exec("cluster", "seen", "web-1", &["cat"], query).await?;
    let reading = Executed::read(&mut socket);
    tokio::pin!(reading);
    let ended = loop {
        match tokio::time::timeout(Duration::from_millis(100), &mut reading).await {
            Ok(ended) => break Some(ended?),
            Err(_) if over.load(Ordering::Relaxed) => break None,
            Err(_) => {}
        }
    };
    // what lives to the end is left, and ends as cancelled; nobody is there to be told
    let Some(ended) = ended else { return Ok("ok".to_owned()) };
    Ok(ended.outcome["code"].as_str().unwrap_or_default().to_owned())
}

/// In the control plane's records: each has its end, and one code.
async fn every_operation_has_ended(user: &User) -> Result<()> {
    eventually(SECONDS, "every operation to have ended", || async {
        let list = user.get("/operations").await?;
        let items = list["items"].as_array().context("a list")?.clone();
        let open: Vec<_> = items.iter().filter(|o| !o["ended_at_ms"].is_i64() || !o["code"].is_string()).collect();
        ensure!(!items.is_empty() && open.is_empty(), "{open:?}");
        Ok(Some(()))
    })
    .await
}

async fn session_of(user: &User, runner: &Runner) -> Result<Value> {
    Ok(user.get(&format!("/runners/{}", runner.id)).await?["instances"][0]["session_id"].clone())
}

/// The mounts of this machine.
fn mounts() -> Result<usize> {
    Ok(std::fs::read_to_string("/proc/self/mounts")?.lines().count())
}
