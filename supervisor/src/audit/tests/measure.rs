//! How fast it is. `cargo test --release -- --ignored --nocapture measure`

use super::*;
use std::time::{Duration, Instant};

const MILLION: u64 = 1_000_000;

#[test]
#[ignore = "writes half a gigabyte and takes seconds"]
fn a_million_records_verify_in_five_seconds() {
    let folder = tempfile::tempdir().expect("a folder");
    let audit = open(folder.path(), options());
    let start = Instant::now();
    for n in 0..MILLION {
        while audit.health().waiting > QUEUE_MAX / 2 {
            std::thread::yield_now();
        }
        audit.note(decision(n));
    }
    close(&audit);
    let written = start.elapsed();
    assert_eq!(audit.health().lost, 0);
    let start = Instant::now();
    let report = good(folder.path());
    let verified = start.elapsed();
    println!(
        "{} records, {} bytes each: written and sealed in {written:?}, verified in {verified:?} ({} signatures)",
        report.records,
        report.bytes / report.records,
        report.signatures
    );
    if cfg!(debug_assertions) {
        return;
    }
    assert!(verified < Duration::from_secs(5), "{verified:?}");
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 1000];
    format!("p50 {:?}, p90 {:?}, p99 {:?}, max {:?}", at(500), at(900), at(990), at(1000))
}

#[test]
#[ignore = "measures"]
fn recording() {
    let folder = tempfile::tempdir().expect("a folder");
    let audit = open(folder.path(), options());
    for (how, threads, count) in
        [(Wait::Written, 1, 20_000), (Wait::Disk, 1, 300), (Wait::Disk, 16, 100), (Wait::Written, 16, 2000)]
    {
        let start = Instant::now();
        let times = std::thread::scope(|scope| {
            let one = || {
                let mut times = Vec::new();
                for n in 0..count {
                    let start = Instant::now();
                    audit.record_blocking(decision(n), how).expect("records");
                    times.push(start.elapsed());
                }
                times
            };
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            all.into_iter().flat_map(|t| t.join().expect("ends")).collect::<Vec<_>>()
        });
        let rate = times.len() as f64 / start.elapsed().as_secs_f64();
        println!("{how:?}, {threads} at once: {}; {rate:.0}/s", percentiles(times));
    }
    close(&audit);
    let start = Instant::now();
    let audit = open(folder.path(), options());
    println!("opened again in {:?}", start.elapsed());
    close(&audit);
}
