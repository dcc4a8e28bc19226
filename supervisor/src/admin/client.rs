//! `runner status`: asks the supervisor on this machine.

use super::{SOCKET, Status};
use crate::cli::out;
use crate::config::Config;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What the whole question may take, reading and writing each.
const DEADLINE: Duration = Duration::from_secs(5);
/// The longest answer, bytes.
const ANSWER_MAX: u64 = 4 << 20;

/// Prints the status; returns the exit code: 0 ready, 75 not ready, 69 not running.
pub fn status(config: &Config, json: bool) -> i32 {
    let path = config.state_dir.join(SOCKET);
    let answer = ask(&path);
    let text = match answer {
        Ok(text) => text,
        Err(e) => {
            eprintln!("runner: no runner answers at {}: {e}", path.display());
            return crate::exit::UNAVAILABLE;
        }
    };
    let status: Status = match serde_json::from_str(&text) {
        Ok(status) => status,
        Err(e) => {
            eprintln!("runner: the answer at {} is none: {e}", path.display());
            return crate::exit::SOFTWARE;
        }
    };
    if json {
        out(&text);
    } else {
        out(&table(&status));
    }
    if status.ready { 0 } else { crate::exit::TEMPFAIL }
}

fn ask(path: &std::path::Path) -> std::io::Result<String> {
    let mut socket = UnixStream::connect(path)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    socket.write_all(b"status\n")?;
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    socket.take(ANSWER_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn table(s: &Status) -> String {
    let yes = |b: bool| if b { "yes" } else { "no" };
    let mut rows = vec![
        ("runner", format!("{} of organization {}", s.runner, s.organization)),
        ("instance", s.instance.clone()),
        ("version", s.version.clone()),
        ("live / ready / healthy", format!("{} / {} / {}", yes(s.live), yes(s.ready), yes(s.healthy))),
        ("tunnel", format!("{} to {}, {} attempts", s.tunnel.state, s.tunnel.endpoint, s.tunnel.attempts)),
    ];
    if s.tunnel.session.is_empty() {
        if let Some(f) = &s.tunnel.last_failure {
            let at = shared_proto::identity::rfc3339(f.at_ms / 1000);
            rows.push(("last failure", format!("{}: {} ({at})", f.code, f.message)));
            rows.push(("next step", f.next_step.clone()));
        }
    } else {
        let since = shared_proto::identity::rfc3339(s.tunnel.since_ms / 1000);
        rows.push((
            "session",
            format!("{} since {since}, round trip {:.1} ms", s.tunnel.session, s.tunnel.round_trip_ms),
        ));
    }
    rows.push(("certificate", format!("until {} ({} days)", s.certificate.not_after, s.certificate.days_left)));
    rows.push(("isolation", format!("{} (required: {})", s.isolation.level, s.isolation.require)));
    rows.push(("  not enforced", s.isolation.missing.join(", ")));
    rows.push((
        "operations",
        format!("{} of {}, {} served", s.operations.running, s.operations.max, s.operations.served),
    ));
    let text = |job: &serde_json::Value, key: &str| job.get(key).and_then(|v| v.as_str()).unwrap_or("?").to_owned();
    for job in &s.jobs {
        rows.push((
            "job",
            format!("{} {} of {}: {}", text(job, "job_id"), text(job, "kind"), text(job, "stack"), text(job, "phase")),
        ));
    }
    for connection in &s.connections {
        rows.push(("connection", format!("{} ({})", connection.name, connection.provider)));
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect::<Vec<_>>().join("\n")
}
