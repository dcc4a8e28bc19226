//! Clocks that are stepped and machines that are suspended: neither ends what goes on, nor keeps it alive.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::clock::{Clock, YEAR_MS};
use runner_tests::control_plane::ControlPlane;
use runner_tests::process::Mark;
use runner_tests::runner::{Setup, signal};
use runner_tests::{Component, Cutter, Runner, Suite, Wire};
use serde_json::Value;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const SECONDS: Duration = Duration::from_secs(60);
/// A session that is not heard of for this long is over at both ends: one that lasts longer than that is alive.
const SILENCE: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .test("a_step_of_the_runners_clock_ends_no_session", runner_steps)
        .test("a_step_of_the_control_planes_clock_ends_no_session", control_plane_steps)
        .test("a_clock_that_is_wrong_is_named_with_both_clocks", skew)
        .test("a_suspended_machine_is_back_at_once", suspended)
        .test("a_supervisor_that_stood_still_is_back_at_once", stood_still)
        .test("a_dead_peer_is_found_by_both_ends", || dead_peer(Wire::Silence))
        .test("a_path_that_is_half_open_towards_the_control_plane_is_found_by_both_ends", || dead_peer(Wire::SilenceUp))
        .test("a_path_that_is_half_open_towards_the_runner_is_found_by_both_ends", || dead_peer(Wire::SilenceDown))
        .needs(&[Component::NetworkNamespace])
        .test("clocks_that_began_elsewhere_make_no_difference", namespaces)
        .run()
}

/// Round trips go on over the session that there was, for longer than silence would be borne.
async fn goes_on(runner: &Runner, mark: Mark) -> Result<()> {
    let (start, mut answered, mut changes) = (Instant::now(), Value::Null, 0);
    while start.elapsed() < SILENCE {
        let (code, status) = runner.status().await?;
        ensure!(code == 0 && status["ready"] == true, "not ready: {status}");
        let now = status["tunnel"]["answered_ms"].clone();
        changes += usize::from(now != answered);
        answered = now;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    ensure!(changes >= 3, "the control plane answered {changes} times");
    let lines = runner.process().stderr().since(mark);
    ensure!(!lines.iter().any(|l| l.contains("session ended") || l.contains("certificate renewed")), "{lines:?}");
    Ok(())
}

async fn runner_steps() -> Result<()> {
    let clock = Clock::new()?;
    let control_plane = ControlPlane::start().await?;
    let runner = Setup::new()?.by_clock(&clock).start(control_plane.admin(), "runner-1").await?;
    let mark = runner.mark();
    for step in [YEAR_MS, -YEAR_MS, 0] {
        clock.wall(step)?;
        goes_on(&runner, mark).await?;
    }
    Ok(())
}

async fn control_plane_steps() -> Result<()> {
    let clock = Clock::new()?;
    let control_plane = ControlPlane::by_clock(&clock).await?;
    let user = control_plane.admin();
    let runner = Runner::start(&control_plane, "runner-1").await?;
    let mark = runner.mark();
    for step in [YEAR_MS, -YEAR_MS, 0] {
        clock.wall(step)?;
        goes_on(&runner, mark).await?;
        let shown = user.get(&format!("/runners/{}", runner.id)).await?;
        ensure!(shown["state"] == "connected", "{shown}");
    }
    Ok(())
}

async fn skew() -> Result<()> {
    let clock = Clock::new()?;
    let control_plane = ControlPlane::start().await?;
    let user = control_plane.admin();
    let wire = Cutter::new(control_plane.runner_address()).await?;
    let runner = Setup::new()?.by_clock(&clock).tunnel_through(&wire).start(user, "runner-1").await?;
    for step in [YEAR_MS, -YEAR_MS] {
        let mark = runner.mark();
        clock.wall(step)?;
        wire.set(Wire::Reset);
        runner.message(mark, SECONDS, "session ended").await?;
        wire.set(Wire::Pass);
        let failed = runner.failed_with(mark, SECONDS, "clock_skew").await?;
        let detail = failed["detail"].as_str().context("a detail")?;
        ensure!(
            detail.contains("this machine's clock says") && detail.contains("the control plane's clock said"),
            "{detail}"
        );
        ensure!(failed["next_step"].as_str().is_some_and(|s| s.contains("clock")), "{failed}");
        clock.wall(0)?;
        runner.session(mark, SECONDS).await?;
    }
    // who has never heard of it knows when it made its certificate
    for step in [YEAR_MS, -YEAR_MS] {
        clock.wall(step)?;
        let id = user.register(&format!("new-{}", step.signum() + 1)).await?;
        let runner = Setup::new()?.by_clock(&clock).launch(user, &id).await?;
        let failed = runner.message(Mark::default(), SECONDS, "attempt failed").await?;
        let detail = failed["detail"].as_str().context("a detail")?;
        ensure!(
            detail.contains("this machine's clock says") && detail.contains("the control plane's clock said"),
            "{detail}"
        );
        ensure!(failed["next_step"].as_str().is_some_and(|s| s.contains("clock")), "{failed}");
    }
    Ok(())
}

async fn suspended() -> Result<()> {
    let clock = Clock::new()?;
    let control_plane = ControlPlane::start().await?;
    let wire = Cutter::new(control_plane.runner_address()).await?;
    let runner = Setup::new()?.by_clock(&clock).tunnel_through(&wire).start(control_plane.admin(), "runner-1").await?;
    // no packet says that the session is over: an hour away does
    let (mark, start) = (runner.mark(), Instant::now());
    clock.suspended(3_600_000)?;
    let ended = runner.message(mark, SECONDS, "session ended").await?;
    ensure!(ended["suspended_s"].as_u64().is_some_and(|s| (3599..=3601).contains(&s)), "{ended}");
    runner.session(mark, SECONDS).await?;
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(4), "back only after {took:?}");

    // and who waits out a backoff when the machine is suspended does not go on waiting
    let mark = runner.mark();
    wire.set(Wire::Reset);
    // far into the backoff, where waits are long
    for _ in 0..4 {
        let failed = runner.mark();
        runner.message(failed, SECONDS, "attempt failed").await?;
    }
    clock.suspended(7_200_000)?;
    runner.message(mark, SECONDS, "this machine was suspended, trying at once").await?;
    wire.set(Wire::Pass);
    runner.session(mark, SECONDS).await?;
    Ok(())
}

async fn stood_still() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    let wire = Cutter::new(control_plane.runner_address()).await?;
    let runner = Setup::new()?.tunnel_through(&wire).start(control_plane.admin(), "runner-1").await?;
    let (supervisor, mark) = (runner.supervisor()?, runner.mark());
    let log = control_plane.process().stderr();
    let before = log.mark();
    signal(supervisor, Signal::SIGSTOP)?;
    log.message(before, SECONDS, "session ended", |_| true).await?;
    signal(supervisor, Signal::SIGCONT)?;
    let start = Instant::now();
    runner.session(mark, SECONDS).await?;
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(5), "back only after {took:?}");
    Ok(())
}

/// No FIN, no RST: only silence says it.
async fn dead_peer(wire_is: Wire) -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    let wire = Cutter::new(control_plane.runner_address()).await?;
    let runner = Setup::new()?.tunnel_through(&wire).start(control_plane.admin(), "runner-1").await?;
    let log = control_plane.process().stderr();
    let (here, there) = (runner.mark(), log.mark());
    wire.set(wire_is);
    let start = Instant::now();
    let found_here = async { runner.message(here, SECONDS, "session ended").await.map(|_| start.elapsed()) };
    let found_there = async { log.message(there, SECONDS, "session ended", |_| true).await.map(|_| start.elapsed()) };
    let (by_runner, by_control_plane) = tokio::try_join!(found_here, found_there)?;
    println!("{wire_is:?}: the runner after {by_runner:?}, the control plane after {by_control_plane:?}");
    ensure!(by_runner <= SILENCE, "the runner only after {by_runner:?}");
    ensure!(by_control_plane <= SILENCE, "the control plane only after {by_control_plane:?}");
    wire.set(Wire::Pass);
    runner.session(here, SECONDS).await?;
    Ok(())
}

async fn namespaces() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    let year = (YEAR_MS / 1000).to_string();
    let setup = Setup::new()?.under(["unshare", "--time", "--fork", "--monotonic", &year, "--boottime", &year]);
    let runner = setup.start(control_plane.admin(), "runner-1").await?;
    goes_on(&runner, runner.mark()).await
}
