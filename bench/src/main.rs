//! Side by side in one run: one stream's throughput, the round trip of one byte, a new operation's first byte, and what a runner
//! has resident; raw TCP and `ssh -R` beside it. The caller is in the control plane's process; control plane, tunnel and supervisor
//! are the real ones, and the worker is the benchmark's own, which connects the operation's stream to a local TCP service.
//!
//! Three rounds in turns; figures are the medians of the rounds, and all raw figures are kept. Build with `--release`.
#![forbid(unsafe_code)]

mod measure;
mod service;
mod ways;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use measure::{Way, median_ms};
use runner_bench::median;
use runner_tests::{procfs, tools};
use serde::Serialize;
use serde_json::{Value, json};
use service::{Kind, Services};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use ways::{Ours, Raw, Ssh};

const MIB: f64 = (1 << 20) as f64;

/// Benchmarks beside raw TCP and ssh -R.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Rounds, each way in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Streams whose readers have stopped, beside the measured one
    #[arg(long, default_value_t = 100)]
    stalled: usize,
    /// The long path's round trip, milliseconds: half of it each way
    #[arg(long, default_value_t = 50)]
    round_trip_ms: u64,
    /// Round trips of one byte in a round
    #[arg(long, default_value_t = 1000)]
    trips: usize,
    /// New operations in a round
    #[arg(long, default_value_t = 100)]
    opens: usize,
    /// Where the figures are kept
    #[arg(long, default_value = "docs/results/bench.json")]
    out: PathBuf,
    /// Exit 1 where a promised ratio does not hold
    #[arg(long)]
    check: bool,
}

/// A promise and what was measured.
#[derive(Debug, Serialize)]
struct Promise {
    what: String,
    measured: f64,
    limit: f64,
    /// Whether more is better.
    at_least: bool,
    holds: bool,
}

/// Raw figures by scenario and way.
#[derive(Debug, Default)]
struct Figures(BTreeMap<String, BTreeMap<&'static str, Vec<f64>>>);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(&arguments));
    runner_tests::process::end_all();
    runner_tests::scratch::remove_root();
    match ended {
        Ok(all_hold) if all_hold || !arguments.check => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:?}\n{}", runner_tests::process::recent_logs());
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<bool> {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures say little");
    }
    ensure!(tools::find("sshd").is_some(), "sshd is not here: install openssh-server");
    let services = Services::start().await?;
    let mut figures = Figures::default();
    let mut promises = Vec::new();

    let near = ways_of(services, Duration::ZERO).await?;
    let (resident, launcher_and_spawner) = idle(&near)?;
    promises.push(Promise::at_most("supervisor resident, idle, MiB", resident, 12.0));
    promises.push(Promise::at_most("launcher and spawner, PSS, MiB", launcher_and_spawner, 2.0));
    throughput(arguments, &near, "near", &mut figures).await?;
    latency(arguments, &near, &mut figures).await?;
    let resident_after = idle(&near)?.0;
    drop(near);
    let far = ways_of(services, Duration::from_millis(arguments.round_trip_ms) / 2).await?;
    throughput(arguments, &far, "far", &mut figures).await?;
    drop(far);

    for (scenario, limit) in [
        ("throughput near alone", 1.0),
        ("throughput near beside stalled", 1.0),
        ("throughput far alone", 0.8),
        ("throughput far beside stalled", 0.8),
    ] {
        let ratio = figures.median(scenario, "runner") / figures.median(scenario, "ssh");
        promises.push(Promise::at_least(&format!("{scenario}, of ssh -R's"), ratio, limit));
    }
    let ratio = figures.median("round trip ms", "runner") / figures.median("round trip ms", "ssh");
    promises.push(Promise::at_most("round trip of one byte, of ssh -R's", ratio, 1.5));
    let more = figures.median("first byte ms", "runner") - figures.median("first byte ms", "exec");
    promises.push(Promise::at_most("new operation to first byte, more than plain exec, ms", more, 3.0));

    figures.print();
    println!("supervisor resident: {resident:.1} MiB idle, {resident_after:.1} MiB after all of it");
    for promise in &promises {
        let sign = if promise.at_least { "≥" } else { "≤" };
        let verdict = if promise.holds { "holds" } else { "DOES NOT HOLD" };
        println!("{:<58} {:>8.2} {sign} {:<5} {verdict}", promise.what, promise.measured, promise.limit);
    }
    keep(arguments, &figures, &promises, resident_after)?;
    Ok(promises.iter().all(|p| p.holds))
}

async fn ways_of(services: Services, one_way: Duration) -> Result<[Way; 3]> {
    Ok([
        Way::Raw(Box::new(Raw::new(services, one_way).await?)),
        Way::Ssh(Box::new(Ssh::new(services, one_way).await?)),
        Way::Ours(Box::new(Ours::new(services, one_way).await?)),
    ])
}

fn ours(ways: &[Way; 3]) -> Result<&Ours> {
    ways.iter().find_map(|w| if let Way::Ours(ours) = w { Some(&**ours) } else { None }).context("the runner's way")
}

/// What the supervisor has resident, and launcher and spawner together by PSS, MiB.
fn idle(ways: &[Way; 3]) -> Result<(f64, f64)> {
    let runner = &ours(ways)?.runner;
    let spawner = runner.processes().spawner.context("a spawner")?.pid;
    let pss = procfs::pss(runner.process().pid())? + procfs::pss(spawner)?;
    Ok((runner.resident()? as f64 / MIB, pss as f64 / MIB))
}

async fn throughput(arguments: &Arguments, ways: &[Way; 3], place: &str, figures: &mut Figures) -> Result<()> {
    for beside in [false, true] {
        let scenario = format!("throughput {place} {}", if beside { "beside stalled" } else { "alone" });
        for _ in 0..arguments.rounds {
            for way in ways {
                let stalled = if beside { way.stalled(arguments.stalled).await? } else { Vec::new() };
                let figure = way.throughput().await.with_context(|| format!("{scenario}, {}", way.name()))? / MIB;
                drop(stalled);
                figures.add(&scenario, way.name(), figure);
            }
        }
    }
    Ok(())
}

async fn latency(arguments: &Arguments, ways: &[Way; 3], figures: &mut Figures) -> Result<()> {
    let worker = tools::binary("bench-worker")?;
    let request = ours(ways)?.request(Kind::Hello);
    for _ in 0..arguments.rounds {
        for way in ways {
            figures.add("round trip ms", way.name(), median_ms(&way.round_trips(arguments.trips).await?));
            figures.add("first byte ms", way.name(), median_ms(&way.first_bytes(arguments.opens).await?));
        }
        let exec = measure::plain_exec(&worker, &request, arguments.opens).await?;
        figures.add("first byte ms", "exec", median_ms(&exec));
    }
    Ok(())
}

fn keep(arguments: &Arguments, figures: &Figures, promises: &[Promise], resident_after: f64) -> Result<()> {
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let document: Value = json!({
        "at": shared_proto::identity::rfc3339(shared_proto::now_ms() / 1000),
        "version": shared_proto::VERSION,
        "debug_build": cfg!(debug_assertions),
        "processors": processors,
        "kernel": kernel.trim(),
        "rounds": arguments.rounds,
        "stalled": arguments.stalled,
        "far_round_trip_ms": arguments.round_trip_ms,
        "promises": promises,
        "supervisor_resident_after_mib": resident_after,
        "figures": figures.0,
    });
    if let Some(folder) = arguments.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&arguments.out, serde_json::to_string_pretty(&document)? + "\n")
        .with_context(|| arguments.out.display().to_string())?;
    println!("kept in {}", arguments.out.display());
    Ok(())
}

// === impl Promise ===

impl Promise {
    fn at_most(what: &str, measured: f64, limit: f64) -> Self {
        Self { what: what.into(), measured, limit, at_least: false, holds: measured <= limit }
    }
    fn at_least(what: &str, measured: f64, limit: f64) -> Self {
        Self { what: what.into(), measured, limit, at_least: true, holds: measured >= limit }
    }
}

// === impl Figures ===

impl Figures {
    fn add(&mut self, scenario: &str, way: &'static str, figure: f64) {
        eprintln!("{scenario}, {way}: {figure:.3}");
        self.0.entry(scenario.to_owned()).or_default().entry(way).or_default().push(figure);
    }
    fn median(&self, scenario: &str, way: &str) -> f64 {
        self.0.get(scenario).and_then(|s| s.get(way)).map_or(f64::NAN, |f| median(f.clone()))
    }
    fn print(&self) {
        for (scenario, ways) in &self.0 {
            let unit = if scenario.ends_with("ms") { "ms" } else { "MiB/s" };
            for (way, figures) in ways {
                let raw: Vec<_> = figures.iter().map(|f| format!("{f:.3}")).collect();
                println!("{scenario:<32} {way:<7} {:>9.3} {unit}   of {}", median(figures.clone()), raw.join(", "));
            }
        }
    }
}
