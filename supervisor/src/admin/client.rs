//! `runner status`, `runner drain` and `runner upgrade`: ask the supervisor on this machine.

use super::{SOCKET, Status, Upgraded};
use crate::cli::{failed, out};
use crate::config::{Config, DEFAULT_FILE};
use shared_proto::failure::{Code, Failure};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What the whole question may take, reading and writing each.
const DEADLINE: Duration = Duration::from_secs(5);
/// What a hand-over may take: the supervisor answers before.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(70);
/// The longest answer, bytes.
const ANSWER_MAX: u64 = 4 << 20;

/// How often it is looked whether what runs has ended.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a supervisor may be away while one waits for it: the launcher starts another one.
const AWAY_MAX: Duration = Duration::from_secs(15);

/// What is wished of the intake of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Nothing new.
    Drain,
    /// Nothing new, and to be told when what runs has ended; for so long at most.
    DrainAndWait(Option<Duration>),
    /// New work again.
    Resume,
}

/// Why there is no answer.
enum Silent {
    /// Nobody is there.
    Away(std::io::Error),
    /// What came is none.
    Nonsense(String),
}

/// Prints the status; returns the exit code: 0 ready, 75 not ready, 69 not running.
pub fn status(config: &Config, json: bool) -> i32 {
    let (text, status) = match ask(config, "status") {
        Ok(answer) => answer,
        Err(silent) => return silent.told(config),
    };
    if json {
        out(&text);
    } else {
        out(&table(&status));
    }
    if status.ready { 0 } else { crate::exit::TEMPFAIL }
}

/// Has new work refused or taken again, and says what runs; returns the exit code: 0 done, 75 not within the time, 69 not running.
pub fn drain(config: &Config, wish: &Wish, json: bool) -> i32 {
    let question = if *wish == Wish::Resume { "resume" } else { "drain" };
    let first = match ask(config, question) {
        // asking twice changes nothing
        Err(Silent::Away(e)) if died(e.kind()) => ask_again(config, question),
        answer => answer,
    };
    let (mut text, mut status) = match first {
        Ok(answer) => answer,
        Err(silent) => return silent.told(config),
    };
    let mut code = 0;
    if let Wish::DrainAndWait(most) = wish {
        let start = Instant::now();
        loop {
            if !status.draining {
                eprintln!("runner: new work is taken again: somebody else undid it, or the runner was started anew");
                code = crate::exit::TEMPFAIL;
                break;
            }
            if status.at_work() == (0, 0) {
                break;
            }
            if most.is_some_and(|most| start.elapsed() >= most) {
                code = crate::exit::TEMPFAIL;
                break;
            }
            std::thread::sleep(LOOK_EVERY);
            match ask_again(config, "status") {
                Ok(answer) => (text, status) = answer,
                Err(silent) => return silent.told(config),
            }
        }
    }
    let (operations, jobs) = status.at_work();
    if json {
        out(&text);
    } else {
        let takes = if status.draining { "takes no new work" } else { "takes new work" };
        out(&format!("{takes}; at work: {}, {}", counted(operations, "operation"), counted(jobs, "job")));
    }
    code
}

/// Has another process, of the program that is installed now, take the supervisor's place; returns the exit code: 0 done, 69 not running, else
/// what the new one exited with, or 75.
pub fn upgrade(config: &Config, json: bool) -> i32 {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Answer {
        Done {
            upgraded: Upgraded,
        },
        Refused {
            error: String,
            #[serde(default)]
            next_step: String,
            #[serde(default)]
            exit: Option<i32>,
        },
    }
    let text = match exchange(&config.state_dir.join(SOCKET), "upgrade", UPGRADE_DEADLINE) {
        Ok(text) if text.is_empty() => Err(ErrorKind::UnexpectedEof.into()),
        answer => answer,
    };
    let text = match text {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
            let what = "the supervisor ended before it had answered; another hand-over may have been quicker";
            return failed(&Code::Busy.on(what).next("See which process and version `runner status` says."));
        }
        Err(e) => return Silent::Away(e).told(config),
    };
    match serde_json::from_str(&text) {
        Ok(Answer::Done { upgraded }) => {
            let (from, pid) = (&upgraded.from, upgraded.from_pid);
            let done = format!(
                "another process is in charge; the one before ({from}, process {pid}) finishes what it has in flight"
            );
            out(if json { &text } else { &done })
        }
        Ok(Answer::Refused { error, next_step, exit }) => {
            eprintln!("runner: not upgraded: {error}");
            if !next_step.is_empty() {
                eprintln!("next: {next_step}");
            }
            exit.filter(|code| (1..=255).contains(code)).unwrap_or(crate::exit::TEMPFAIL)
        }
        Err(e) => Silent::Nonsense(format!("none: {e}")).told(config),
    }
}

/// Has the supervisor make another key for its audit log: the public half, in PEM, or why there is none. `None`: no runner answers.
pub fn rotate_audit_key(config: &Config) -> Option<Result<String, Failure>> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Answer {
        Done {
            key: String,
        },
        Refused {
            error: String,
            #[serde(default)]
            next_step: String,
        },
    }
    let text = match exchange(&config.state_dir.join(SOCKET), "rotate_audit_key", DEADLINE) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return None,
        Err(e) => return Some(Err(Code::RunnerUnavailable.on(format!("the runner does not answer: {e}")))),
        Ok(text) => text,
    };
    Some(match serde_json::from_str(&text) {
        Ok(Answer::Done { key }) => Ok(key),
        Ok(Answer::Refused { error, next_step }) => Err(Code::AuditUnavailable.on(error).next(next_step)),
        Err(e) => Err(Code::Internal.on(format!("the runner's answer is none: {e}"))),
    })
}

// === impl Silent ===

impl Silent {
    /// Says so; the exit code.
    fn told(&self, config: &Config) -> i32 {
        let path = config.state_dir.join(SOCKET);
        match self {
            // a read that waited for its time
            Self::Away(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let what = format!("the supervisor is there and does not answer (asked at {})", path.display());
                failed(&Code::RunnerUnavailable.on(what).next(
                    "See whether its process is stopped, or the machine short of memory or processors. Killed, it is started again by its \
                     launcher, and jobs go on.",
                ))
            }
            Self::Away(e) => {
                let what = format!("no runner answers at {}: {e}", path.display());
                failed(&Code::RunnerUnavailable.on(what).next(next_step(config, e.kind())))
            }
            Self::Nonsense(why) => failed(&Code::Internal.on(format!("the answer at {}: {why}", path.display()))),
        }
    }
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

/// The answer, as it came and as it is read.
fn ask(config: &Config, question: &str) -> Result<(String, Status), Silent> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Answer {
        Refused { error: String },
        Status(Box<Status>),
    }
    let text = exchange(&config.state_dir.join(SOCKET), question, DEADLINE).map_err(Silent::Away)?;
    match serde_json::from_str(&text) {
        Ok(Answer::Status(status)) => Ok((text, *status)),
        Ok(Answer::Refused { error }) => Err(Silent::Nonsense(error)),
        // one that went while it was asked says nothing
        Err(_) if text.is_empty() => Err(Silent::Away(ErrorKind::UnexpectedEof.into())),
        Err(e) => Err(Silent::Nonsense(format!("none: {e}"))),
    }
}

/// The answer of a supervisor that was there a moment ago, or of the one that follows it.
fn ask_again(config: &Config, question: &str) -> Result<(String, Status), Silent> {
    let start = Instant::now();
    loop {
        match ask(config, question) {
            Err(Silent::Away(_)) if start.elapsed() < AWAY_MAX => std::thread::sleep(LOOK_EVERY),
            answer => return answer,
        }
    }
}

/// Whether it died, and its launcher may start another one: it was reached, or has left its socket behind. One that leaves removes that.
fn died(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof};
    matches!(kind, ConnectionRefused | ConnectionReset | BrokenPipe | UnexpectedEof)
}

fn exchange(path: &std::path::Path, question: &str, within: Duration) -> std::io::Result<String> {
    let mut socket = UnixStream::connect(path)?;
    socket.set_read_timeout(Some(within))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    socket.write_all(format!("{question}\n").as_bytes())?;
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
        ("new work", (if s.draining { "refused: `runner drain`" } else { "taken" }).to_owned()),
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
    if let Some(refused) = &s.reload_refused {
        let at = shared_proto::identity::rfc3339(refused.at_ms / 1000);
        rows.push(("configuration", format!("NOT READ AGAIN at {at}, as before: {}", refused.reason)));
    }
    rows.push((
        "certificate",
        format!(
            "{} until {} ({}), renewed from {} on",
            s.certificate.serial,
            s.certificate.not_after,
            if s.certificate.days_left < 0 { "over".to_owned() } else { counted(s.certificate.days_left, "day") },
            s.certificate.renews_at
        ),
    ));
    rows.push(("  from", s.certificate.file.clone()));
    if !s.certificate.trouble.is_empty() {
        rows.push(("  trouble", s.certificate.trouble.clone()));
    }
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
    rows.push((
        "policy",
        match (s.policy.trouble.as_str(), s.policy.there) {
            ("", true) => s.policy.file.clone(),
            ("", false) => format!("none: {} is not there", s.policy.file),
            (trouble, _) => format!("NOTHING IS ALLOWED: {trouble}"),
        },
    ));
    rows.push((
        "audit log",
        match s.audit.trouble.as_str() {
            "" => format!("{}, {} lost", s.audit.state, counted(s.audit.lost, "record")),
            trouble => format!("{}, {} lost: {trouble}", s.audit.state, counted(s.audit.lost, "record")),
        },
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
    // one of another version does not say it
    if !s.states.is_empty() {
        rows.push(("states of stacks", s.states.clone()));
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
