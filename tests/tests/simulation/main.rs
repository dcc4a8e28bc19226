//! Tunnel, uploader and control plane under simulated time and network: the real code of both ends, between them turmoil's TCP, and a seed that
//! decides what is cut, held, delayed, half-open, killed, started again, and which way the wall clock is set. What must hold is in `world`.
//!
//! `RUNNER_SEED=N` runs that seed alone, with the log of both ends; `RUNNER_SEEDS=N` runs the seeds 0 to N - 1 instead of those that
//! RUNNER_TEST_SCALE says.

mod chance;
mod log;
mod plane;
mod runner;
mod worker;
mod world;

use anyhow::{Context as _, Result, bail};
use runner_tests::Suite;
use runner_tests::suite::scale;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// At the full scale, from CI's on, and for each hundredth of the scale below that.
const SEEDS: (u64, u64, u64) = (10_000, 1000, 200);
/// Failed seeds that are told of one run.
const TOLD: usize = 5;

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .limit(3600)
        .needs(&[])
        .test("every_seed_keeps_what_is_promised", || async { tokio::task::spawn_blocking(all).await? })
        .run()
}

pub(crate) fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// All seeds, on as many threads as there are processors.
fn all() -> Result<()> {
    let (first, last) = match (variable("RUNNER_SEED"), variable("RUNNER_SEEDS")) {
        (Some(seed), _) => (seed, seed + 1),
        (None, Some(seeds)) => (0, seeds),
        (None, None) if scale() == 100 => (0, SEEDS.0),
        (None, None) => (0, SEEDS.1.min(SEEDS.2 * scale())),
    };
    let (next, start) = (AtomicU64::new(first), Instant::now());
    let template = world::Template::new()?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let work = || {
        let (mut sum, mut failed) = (world::Told::default(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= last || failed.len() >= TOLD {
                return (sum, failed);
            }
            match world::run(&template, seed) {
                Ok(told) => sum.add(&told),
                Err(e) => failed.push((seed, e)),
            }
        }
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().ok().context("a simulation's thread panicked")).collect()
    });
    let (mut sum, mut failed) = (world::Told::default(), Vec::new());
    for result in results {
        let (told, more) = result?;
        sum.add(&told);
        failed.extend(more);
    }
    println!("{} seeds in {:.0} s: {sum}", last - first, start.elapsed().as_secs_f64());
    if failed.is_empty() {
        return Ok(());
    }
    for (seed, error) in &failed {
        println!(
            "seed {seed}: {error:#}\n  RUNNER_SEED={seed} cargo test --workspace --test simulation -- --nocapture"
        );
    }
    bail!("{} seeds failed, the first is {}: {:#}", failed.len(), failed[0].0, failed[0].1)
}
