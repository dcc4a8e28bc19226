//! `aws -- …` and `aws shell`: AWS' own clients through a runner. They run behind a proxy of this process, with credentials that open
//! nothing but the proxy; the runner signs what they ask for with the connection's.
//!
//! It must never hold a real credential, and never outlive what it runs.

mod ca;
mod environment;
mod keys;
mod listener;
mod refusal;
mod request;

use self::ca::Ca;
use self::keys::Keys;
use self::listener::Proxy;
use self::request::Passing;
use super::Session;
use crate::client::path;
use crate::stop::{Done, Stop};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared_proto::failure::{Code, Failure};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

/// Runs a program behind the proxy; no words: a shell. Its exit code is ours.
pub(super) async fn run(session: &Session, connection: &str, region: Option<&str>, words: &[OsString]) -> Done {
    let code = ran(session, connection, region, words).await.map_err(|failure| Stop::from(failure).of_exec())?;
    if code == 0 { Ok(()) } else { Err(Stop::Exit(code)) }
}

/// The words of `aws -- …`: those of the AWS CLI, with or without its name.
pub(super) fn of_the_cli(words: &[OsString]) -> Vec<OsString> {
    let named = words.first().is_some_and(|first| first == "aws");
    let own = (!named).then(|| OsString::from("aws"));
    own.into_iter().chain(words.iter().cloned()).collect()
}

async fn ran(session: &Session, connection: &str, region: Option<&str>, words: &[OsString]) -> Result<i32, Failure> {
    let region = match region {
        Some(region) => Some(region.to_owned()),
        None => own_region(session, connection).await?,
    };
    let keys = Arc::new(Keys::new()?);
    // held here, and by no task: it is to go also where tasks are left behind
    let (ca, ca_file) = Ca::new()?;
    let route = path(&["connections", connection, "aws", "request"], &session.query([]));
    let passing = Passing::new(session.client.clone(), route, keys.clone());
    let proxy = Proxy::start(Arc::new(ca), keys.clone(), passing).await?;
    let shell = environment::shell();
    let (program, arguments) = words.split_first().unwrap_or((&shell, &[]));
    if words.is_empty() {
        eprintln!("· a shell with AWS through the connection {connection}; `exit` ends it");
    }
    let (away, set) =
        environment::changes(std::env::vars_os(), &keys, proxy.address, ca_file.path(), region.as_deref());
    let mut command = Command::new(program);
    command.args(arguments);
    for name in away {
        command.env_remove(name);
    }
    command.envs(set);
    // before the program is there: whoever ends us ends it
    let signals = Signals::listen()?;
    let child = command.spawn().map_err(|e| unstarted(program, &e))?;
    let status = ended(child, signals).await?;
    drop(proxy);
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// The region that the connection's entry names; one operation, which also tells early that the connection does not work. Where it is not to be
/// asked who it is, the user's own region is taken.
async fn own_region(session: &Session, connection: &str) -> Result<Option<String>, Failure> {
    match session.client.get(&path(&["connections", connection, "identity"], &session.query([]))).await {
        Ok(who) => Ok(who["place"].as_str().map(str::to_owned)),
        Err(failure) if matches!(failure.code, Code::PolicyDenied | Code::TargetForbidden) => {
            let own = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| std::env::var(name).ok());
            let taken = own.as_deref().unwrap_or("none");
            eprintln!(
                "· the connection's region cannot be asked for ({}): {taken} is taken, or name one with --region",
                failure.code
            );
            Ok(own)
        }
        Err(failure) => Err(failure),
    }
}

/// What would end this process.
struct Signals {
    int: SignalStream,
    quit: SignalStream,
    term: SignalStream,
    hup: SignalStream,
}

// === impl Signals ===

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let to = |kind| signal(kind).map_err(|e| Code::Internal.on(format!("signals cannot be listened to: {e}")));
        Ok(Self {
            int: to(SignalKind::interrupt())?,
            quit: to(SignalKind::quit())?,
            term: to(SignalKind::terminate())?,
            hup: to(SignalKind::hangup())?,
        })
    }
}

/// Waits. Signals of the terminal reach the program by themselves; those that come to this process alone go on to it.
async fn ended(mut child: Child, mut signals: Signals) -> Result<ExitStatus, Failure> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let pass = |signal| {
        if let Some(pid) = pid {
            let _ = kill(pid, signal);
        }
    };
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map_err(|e| Code::Internal.on(format!("the program's end is not known: {e}")));
            }
            _ = signals.int.recv() => {}
            _ = signals.quit.recv() => {}
            _ = signals.term.recv() => pass(Signal::SIGTERM),
            _ = signals.hup.recv() => pass(Signal::SIGHUP),
        }
    }
}

fn unstarted(program: &OsString, error: &std::io::Error) -> Failure {
    let name = program.to_string_lossy();
    let failure = Code::NotFound.on(format!("the program {name:?} cannot be started: {error}"));
    if error.kind() == std::io::ErrorKind::NotFound {
        let next = if name == "aws" { "Install the AWS CLI." } else { "Check the name, and PATH." };
        return failure.next(next);
    }
    failure.next("Check that it is a program that may be run.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clis_name_may_be_left_out() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(of_the_cli(&words("s3 ls")), words("aws s3 ls"));
        assert_eq!(of_the_cli(&words("aws s3 ls")), words("aws s3 ls"));
    }
}
