//! `runner status`: asks the supervisor on this machine.

use super::{SOCKET, Status};
use crate::cli::out;
use crate::config::{Config, DEFAULT_FILE};
use std::io::{ErrorKind, Read as _, Write as _};
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
            eprintln!("runner: no runner answers at {}: {e}\nnext: {}", path.display(), next_step(config, e.kind()));
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

/// What to do where nobody answers: mostly the wrong place was asked.
fn next_step(config: &Config, kind: ErrorKind) -> String {
    if kind == ErrorKind::PermissionDenied {
        return "Ask as the user that the runner runs as, or as root.".to_owned();
    }
    let file = match &config.file {
        Some(file) => format!("The configuration is {}", file.display()),
        None => format!("No configuration was named, and {DEFAULT_FILE} is not there"),
    };
    format!(
        "{file}; its state_dir is {}. Start the runner with `runner run`; where it runs with another configuration, name that \
         with --config or RUNNERD_CONFIG, or its folder with --state-dir.",
        config.state_dir.display()
    )
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

/// So many of something.
fn counted(n: impl std::fmt::Display, what: &str) -> String {
    let n = n.to_string();
    if n == "1" { format!("{n} {what}") } else { format!("{n} {what}s") }
}

fn table(s: &Status) -> String {
    let yes = |b: bool| if b { "yes" } else { "no" };
    let mut rows = vec![
        ("runner", format!("{} of organization {}", s.runner, s.organization)),
        ("instance", s.instance.clone()),
        ("version", s.version.clone()),
        ("live / ready / healthy", format!("{} / {} / {}", yes(s.live), yes(s.ready), yes(s.healthy))),
        ("tunnel", format!("{} to {}, {}", s.tunnel.state, s.tunnel.endpoint, counted(s.tunnel.attempts, "attempt"))),
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
    rows.push((
        "certificate",
        format!("until {} ({})", s.certificate.not_after, counted(s.certificate.days_left, "day")),
    ));
    rows.push(("isolation", format!("{} (required: {})", s.isolation.level, s.isolation.require)));
    rows.push(("  not enforced", s.isolation.missing.join(", ")));
    rows.push((
        "operations",
        format!(
            "{} of {}, {} served, {} waiting",
            s.operations.running,
            s.operations.max,
            s.operations.served,
            counted(s.operations.waiting, "worker")
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_no_runner_is_told_where_it_looked_and_what_to_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("runner.toml");
        std::fs::write(&file, "state_dir = \"/var/lib/elsewhere\"\n").expect("writes");
        let mut config = Config::load(Some(&file), &Default::default(), &Default::default()).expect("loads");
        let named = next_step(&config, ErrorKind::NotFound);
        config.file = None;
        let unnamed = next_step(&config, ErrorKind::ConnectionRefused);
        assert!(named.contains(&file.display().to_string()) && unnamed.contains(DEFAULT_FILE), "{named}\n{unnamed}");
        for part in ["/var/lib/elsewhere", "--config", "RUNNERD_CONFIG", "--state-dir", "`runner run`"] {
            assert!(named.contains(part) && unnamed.contains(part), "{part}: {named}\n{unnamed}");
        }
        assert!(next_step(&config, ErrorKind::PermissionDenied).contains("user"));
    }
}
