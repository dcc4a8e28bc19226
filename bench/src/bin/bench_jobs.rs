//! What a job costs beside the same engine by hand: an empty configuration and an apply of thirty seconds, in turns; how soon the first words come;
//! and twenty stacks at once, one of them of a thousand resources: their order, and what the supervisor has resident. Build with `--release`.
//!
//! ```text
//! bench-jobs [ROUNDS]     5 unless given. Needs OpenTofu
//! ```
//! By hand is what a careful person types: `init`, `plan -out`, and `apply` of that plan where it changes anything. A job's time is the control plane's
//! own, from its making to its end.
#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, ensure};
use runner_bench::median;
use runner_tests::control_plane::body_of;
use runner_tests::engine::EngineKind;
use runner_tests::runner::Setup;
use runner_tests::scratch::Scratch;
use runner_tests::{ControlPlane, Engine, Runner, tools};
use serde_json::{Value, json};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const EMPTY: &str = "terraform {}\n";
const LONG: &str = r#"
resource "terraform_data" "long" {
  provisioner "local-exec" { command = "sleep 30" }
}
"#;
/// What many stacks have that are at work at once.
const SMALL: &str = r#"
resource "terraform_data" "some" {
  count = 10
  input = count.index
}
"#;
const LARGE: &str = r#"
resource "terraform_data" "many" {
  count = 1000
  input = count.index
}
"#;
const STACKS: usize = 20;
const JOBS_OF_STACK: usize = 2;
const JOB: Duration = Duration::from_secs(900);
/// What is promised.
const EMPTY_MS: f64 = 400.0;
const LONG_RATIO: f64 = 1.05;
const FIRST_WORDS_MS: f64 = 500.0;

fn main() -> ExitCode {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(5);
    runner_bench::to_end(run(rounds))
}

struct Bench {
    control_plane: ControlPlane,
    runner: Runner,
    _engine: Engine,
}

async fn run(rounds: usize) -> Result<bool> {
    let control_plane = ControlPlane::start().await?;
    let engine = Engine::new(EngineKind::OpenTofu)?;
    let user = control_plane.admin();
    let runner = Setup::new()?.engines(&[&engine]).setting("jobs_at_once = 4").start(user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    let bench = Bench { control_plane, runner, _engine: engine };
    let empty = bench.side_by_side("empty", EMPTY, rounds * 4).await?;
    let long = bench.side_by_side("long", LONG, rounds.div_ceil(2)).await?;
    let mut held = empty.held("the empty one: what a job takes longer, ms", empty.job - empty.hand, EMPTY_MS);
    held &= empty.held("the empty one: the first words after, ms", empty.words, FIRST_WORDS_MS);
    held &= long.held("thirty seconds: a job's time by that of the same by hand", long.job / long.hand, LONG_RATIO);
    bench.many().await?;
    Ok(held)
}

/// Medians, milliseconds.
struct Figures {
    hand: f64,
    job: f64,
    words: f64,
}

impl Figures {
    fn held(&self, what: &str, measured: f64, limit: f64) -> bool {
        let holds = measured <= limit;
        println!("{what}: {measured:.2}, {limit} promised: {}", if holds { "holds" } else { "DOES NOT HOLD" });
        holds
    }
}

impl Bench {
    async fn side_by_side(&self, name: &str, main_tf: &str, rounds: usize) -> Result<Figures> {
        let user = self.control_plane.admin();
        let (mut hand, mut job, mut words) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            hand.push(by_hand(main_tf)?);
            // each has a state of its own, as by hand
            let stack = format!("{name}-{round}");
            user.stack(&stack, "opentofu", main_tf).await?;
            let id = user.start_job(&stack, &json!({ "kind": "update", "approve_automatically": true })).await?;
            let ended = user.job_in(&id, &["applied", "no_changes"], JOB).await?;
            let at = |field: &str| ended.0[field].as_i64().map(|ms| ms as f64).context("a moment");
            job.push(at("ended_at_ms")? - at("created_at_ms")?);
            let events = user.events(&id).await?;
            let first = events.iter().find(|event| says_something(event)).context("words")?;
            words.push(first["time_ms"].as_i64().context("a time")? as f64 - at("created_at_ms")?);
        }
        println!("{name}, by hand, ms: {hand:.0?}\n{name}, a job, ms: {job:.0?}\n{name}, first words, ms: {words:.0?}");
        Ok(Figures { hand: median(hand), job: median(job), words: median(words) })
    }

    /// Twenty stacks with two jobs each, all at once.
    async fn many(&self) -> Result<()> {
        let user = self.control_plane.admin();
        let mut ids = Vec::new();
        for n in 0..STACKS {
            let stack = format!("many-{n}");
            user.stack(&stack, "opentofu", if n == 0 { LARGE } else { SMALL }).await?;
            for kind in ["update", "destroy"] {
                let job = json!({ "kind": kind, "approve_automatically": true });
                ids.push((n, kind, user.start_job(&stack, &job).await?));
            }
        }
        let (before, start) = (self.runner.resident()?, Instant::now());
        let mut times = vec![Vec::new(); STACKS];
        let mut peak = before;
        for (n, kind, id) in &ids {
            let job = loop {
                let job = user.job(id).await?;
                peak = peak.max(self.runner.resident()?);
                if job.ended() {
                    break job;
                }
                ensure!(start.elapsed() < JOB, "job {id} of stack {n} has not ended: {}", job.0);
                tokio::time::sleep(Duration::from_millis(100)).await;
            };
            ensure!(job.phase() == "applied", "{kind} of stack {n}: {}", job.0);
            let at = |field: &str| job.0[field].as_i64().context("a moment");
            times[*n].push((at("started_at_ms")?, at("ended_at_ms")?));
        }
        for (n, of_stack) in times.iter().enumerate() {
            ensure!(of_stack.len() == JOBS_OF_STACK, "stack {n}: {of_stack:?}");
            ensure!(of_stack.windows(2).all(|pair| pair[0].1 <= pair[1].0), "two of stack {n} at once: {of_stack:?}");
        }
        let all: Vec<_> = times.iter().flatten().collect();
        let at_once = |moment: i64| all.iter().filter(|(from, to)| (*from..*to).contains(&moment)).count();
        let most = all.iter().map(|(from, _)| at_once(*from)).max().unwrap_or_default();
        println!(
            "{STACKS} stacks, {JOBS_OF_STACK} jobs each, one of 1000 resources: {:.1} s; each stack's jobs one after the other, in their order; {most} at \
             once at most (4 allowed); the supervisor has {:.1} MiB resident before, {:.1} MiB at its most",
            start.elapsed().as_secs_f64(),
            before as f64 / f64::from(1 << 20),
            peak as f64 / f64::from(1 << 20)
        );
        ensure!(most <= 4);
        Ok(())
    }
}

/// Whether that event is the first that somebody who follows sees of the engine, or of the source that was fetched.
fn says_something(event: &Value) -> bool {
    ["engine_started", "source_resolved", "output_line", "resource_progress"]
        .iter()
        .any(|kind| body_of(event, kind).is_some())
}

/// What the same takes by hand, milliseconds.
fn by_hand(main_tf: &str) -> Result<f64> {
    let folder = Scratch::new("by-hand")?;
    std::fs::write(folder.path().join("main.tf"), main_tf)?;
    // a job does not have this machine's either
    let settings = folder.write("settings.tfrc", "")?;
    let tofu = tools::find("tofu").context("tofu")?;
    let run = |arguments: &[&str]| -> Result<i32> {
        let status = Command::new(&tofu)
            .args(arguments)
            .current_dir(folder.path())
            .env("CHECKPOINT_DISABLE", "1")
            .env("TF_CLI_CONFIG_FILE", &settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        status.code().context("it was killed")
    };
    let start = Instant::now();
    ensure!(run(&["init", "-input=false"])? == 0, "init");
    match run(&["plan", "-input=false", "-detailed-exitcode", "-out=plan"])? {
        0 => {}
        2 => ensure!(run(&["apply", "-input=false", "plan"])? == 0, "apply"),
        other => anyhow::bail!("plan ends with {other}"),
    }
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}
