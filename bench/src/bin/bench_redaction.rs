//! How fast secrets are taken out of a job's output: a gibibyte of lines as engines write them, with 100 secrets in all their forms, beside
//! looking for each of the plain values with the standard library, which finds less. Build with `--release`.
//!
//! ```text
//! bench-redaction [MEBIBYTES]      1024 unless given; prints MiB/s of three alternating rounds, and what it found
//! ```
#![forbid(unsafe_code)]

use runner_worker_iac::redaction::Redaction;
use std::time::{Duration, Instant};

const SECRETS: usize = 100;
const ROUNDS: usize = 3;
/// A secret stands in one of so many lines.
const ONE_IN: usize = 50;

fn main() {
    let mebibytes: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1024);
    let secrets: Vec<String> = (0..SECRETS).map(secret).collect();
    let lines: Vec<String> = (0..1000).map(|n| line(n, &secrets)).collect();
    let bytes: usize = lines.iter().map(String::len).sum();
    let repeats = (mebibytes << 20).div_ceil(bytes);
    let start = Instant::now();
    let redaction = Redaction::new(secrets.iter().map(String::as_str));
    println!("made ready for {SECRETS} secrets in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let mib_s = |took: Duration, repeats: usize| (bytes * repeats) as f64 / (1 << 20) as f64 / took.as_secs_f64();
    let mut text = String::new();
    for _ in 0..ROUNDS {
        let (start, before) = (Instant::now(), redaction.found());
        for _ in 0..repeats {
            for line in &lines {
                text.clear();
                text.push_str(line);
                redaction.apply(&mut text);
            }
        }
        let speed = mib_s(start.elapsed(), repeats);
        println!("redaction: {speed:.0} MiB/s, {} found", redaction.found() - before);
        // the same lines, less of them: it is slow
        let (fewer, start, mut found) = (repeats.div_ceil(50), Instant::now(), 0_usize);
        for _ in 0..fewer {
            for line in &lines {
                found += secrets.iter().filter(|s| line.contains(s.as_str())).count();
            }
        }
        println!("plain values one by one: {:.0} MiB/s, {found} found", mib_s(start.elapsed(), fewer));
    }
}

/// Forty letters and digits, the same each time.
fn secret(n: usize) -> String {
    let mut state = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..40)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[(state % 64) as usize])
        })
        .collect()
}

/// As an engine's event stream has them.
fn line(n: usize, secrets: &[String]) -> String {
    let value =
        if n.is_multiple_of(ONE_IN) { secrets[n / ONE_IN % SECRETS].as_str() } else { "nothing that is secret" };
    format!(
        "{{\"@level\":\"info\",\"@message\":\"module.network[{n}].aws_instance.web: Still creating... [id=i-{n:017x}, {n}s elapsed]\",\
         \"@module\":\"terraform.ui\",\"@timestamp\":\"2026-01-01T00:00:{:02}.000000Z\",\"value\":\"{value}\",\"type\":\"apply_progress\"}}",
        n % 60
    )
}
