//! One apply, during which what is around it is killed or cut again and again, at moments and in an order that a seed decides: it is
//! applied once, every event arrives once, whoever watches it watches on, and nothing is left. `RUNNER_TEST_SCALE` (a percentage) makes
//! the figures smaller.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::ctl::Ctl;
use runner_tests::dice::Dice;
use runner_tests::engine::{EngineKind, slow_module};
use runner_tests::procfs::{self, Stat};
use runner_tests::runner::{Setup, signal};
use runner_tests::suite::scaled;
use runner_tests::{Component, ControlPlane, Cutter, Engine, Runner, Suite, Wire, eventually};
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;

const SECONDS: Duration = Duration::from_secs(60);
const JOB: Duration = Duration::from_secs(240);
/// How long the apply takes, seconds, and how often something is killed meanwhile.
const APPLY: u64 = 60;
const APPLY_LEAST: u64 = 12;
const KILLS: u64 = 20;
const KILLS_LEAST: u64 = 5;

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .needs(&[Component::Tofu])
        .test("the_supervisor_killed_again_and_again", || killed(&[Victim::Supervisor], 1))
        .test("the_jobs_worker_killed_again_and_again", || killed(&[Victim::Worker], 1))
        .test("the_spawner_killed_again_and_again", || killed(&[Victim::Spawner], 1))
        .test("the_control_plane_killed_again_and_again", || killed(&[Victim::ControlPlane], 1))
        .test("the_tunnel_cut_again_and_again", || killed(&[Victim::Tunnel], 1))
        .test("the_launcher_killed_again_and_again", || killed(&[Victim::Launcher], 1))
        .test("any_two_of_them_again_and_again", || killed(&Victim::ALL, 2))
        .run()
}

/// Who is killed, or cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Supervisor,
    Worker,
    Spawner,
    ControlPlane,
    /// Reset, on both of the runner's connections.
    Tunnel,
    /// With supervisor and spawner; another one is started, as a service manager does.
    Launcher,
}

impl Victim {
    const ALL: [Self; 6] =
        [Self::Supervisor, Self::Worker, Self::Spawner, Self::ControlPlane, Self::Tunnel, Self::Launcher];
}

struct Set {
    runner: Runner,
    control_plane: ControlPlane,
    wires: [Cutter; 2],
    engine: Engine,
}

impl Set {
    async fn new() -> Result<Self> {
        let control_plane = ControlPlane::start().await?;
        let wires =
            [Cutter::new(control_plane.runner_address()).await?, Cutter::new(control_plane.runner_address()).await?];
        let engine = Engine::new(EngineKind::OpenTofu)?;
        let user = control_plane.admin();
        let runner = Setup::new()?
            .cold()
            .tunnel_through(&wires[0])
            .execution_through(&wires[1])
            .engines(&[&engine])
            .start(user, "runner-1")
            .await?;
        user.post(&format!("/runners/{}/default", runner.id), &serde_json::json!({})).await?;
        Ok(Self { runner, control_plane, wires, engine })
    }

    /// Whether there was one to hit.
    async fn hit(&mut self, victim: Victim) -> Result<bool> {
        let process = match victim {
            Victim::Supervisor => self.runner.processes().supervisor,
            Victim::Spawner => self.runner.processes().spawner,
            Victim::Worker => self.worker(),
            Victim::ControlPlane => {
                self.control_plane.kill();
                self.control_plane.start_again().await?;
                return Ok(true);
            }
            Victim::Tunnel => {
                let connections: usize = self.wires.iter().map(Cutter::connections).sum();
                for wire in &self.wires {
                    wire.set(Wire::Reset);
                }
                eventually(SECONDS, "the connections to be cut", || async {
                    Ok(self.wires.iter().all(|w| w.connections() == 0).then_some(()))
                })
                .await?;
                for wire in &self.wires {
                    wire.set(Wire::Pass);
                }
                return Ok(connections > 0);
            }
            Victim::Launcher => {
                self.runner.kill_all_but_jobs().await?;
                self.runner.launch_again()?;
                return Ok(true);
            }
        };
        Ok(process.is_some_and(|p| signal(p.pid, Signal::SIGKILL).is_ok()))
    }

    fn worker(&self) -> Option<Stat> {
        self.runner.job_processes().into_iter().find(|process| {
            let words = procfs::command_line(process.pid);
            words.first().is_some_and(|w| w.ends_with("runner-worker-iac"))
                && words.get(1).is_some_and(|w| w == "step" || w == "follow")
        })
    }
}

/// `at_once` of the victims at each moment.
async fn killed(victims: &'static [Victim], at_once: usize) -> Result<()> {
    let mut dice = Dice::seeded()?;
    let mut set = Set::new().await?;
    let user = set.control_plane.admin().clone();
    let (seconds, kills) = (scaled(APPLY).max(APPLY_LEAST), scaled(KILLS).max(KILLS_LEAST));
    let module = u32::try_from(seconds)?;
    let id = user.applying("killed", module, (JOB, SECONDS)).await?;
    let since = Instant::now();
    let ctl = Ctl::new(&set.control_plane, &user)?;
    let watch = ctl.start(&["job", "watch", &id])?;

    // not in its last seconds: it is to end while all is well, as far as it is
    let span = Duration::from_secs(seconds.saturating_sub(3));
    let mut moments: Vec<_> =
        (0..kills).map(|_| Duration::from_millis(dice.below(u64::try_from(span.as_millis()).unwrap_or(0)))).collect();
    moments.sort();
    let mut hit = Vec::new();
    for moment in moments {
        tokio::time::sleep_until(since + moment).await;
        let mut left = victims.to_vec();
        for _ in 0..at_once {
            let victim = dice.of(&left).context("a victim")?;
            left.retain(|v| *v != victim);
            // one that is about to be started again is waited for
            while !set.hit(victim).await? {
                ensure!(since.elapsed() < JOB, "{victim:?} does not come back: {hit:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
                if since.elapsed() > span {
                    break;
                }
            }
            hit.push((victim, since.elapsed().as_millis()));
        }
    }
    eprintln!("{seconds} s, hit: {hit:?}");

    let job = user.job_in(&id, &["applied"], JOB).await?;
    ensure!(job.code() == "ok" && job.0["outputs"]["greeting"]["value"] == "hello", "{}", job.0);
    user.whole(&id).await?;
    for command in ["plan", "apply"] {
        user.started_once(&id, command).await?;
    }
    let watched = watch.ended(SECONDS).await?;
    watch.stdout().end(SECONDS).await?;
    ensure!(watched.code() == Some(0), "{watched:?}: {}", watch.stderr().text());
    let shown = watch.stdout().text();
    for address in ["time_sleep.wait", "terraform_data.after"] {
        let told = shown.matches(&format!("{address}: Creation complete")).count();
        ensure!(told == 1, "{address} is shown {told} times: {shown}");
    }
    set.engine.agrees(&set.runner, &user, &id, &slow_module(module)).await?;
    eventually(SECONDS, "nothing of the job to be left", || async {
        let left = set.runner.job_processes();
        let folders: Vec<_> = std::fs::read_dir(set.runner.state().join("jobs"))?.flatten().map(|e| e.path()).collect();
        ensure!(left.is_empty() && folders.is_empty(), "{left:?} {folders:?}");
        Ok(Some(()))
    })
    .await?;
    // and it works
    let again = user.start_job("killed", &serde_json::json!({ "kind": "update" })).await?;
    user.job_in(&again, &["no_changes"], JOB).await?;
    Ok(())
}
