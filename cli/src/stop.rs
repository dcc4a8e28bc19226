//! How a command ends when it does not end well: a failure with its code, or an exit code that means something by itself.
//! The exit codes: the failure table's (64 usage, 66 no input, 69 unavailable, 70 software, 75 try again, 77 denied,
//! 78 configuration), 2 for changes where `--exit-code` asks for it, 125 for failures of ours in `exec`, 130 when interrupted, and 75 for a job left awaiting approval.

use crate::output::escape;
use clap::error::ErrorKind;
use shared_proto::failure::{Code, Failure};

/// There are changes, or differences: of commands with `--exit-code`.
pub(crate) const CHANGES: i32 = 2;
/// Wrong usage.
pub(crate) const USAGE: i32 = 64;
/// A bug, or something that should not fail did.
pub(crate) const SOFTWARE: i32 = 70;
/// Not yet: a job waits for somebody's approval.
pub(crate) const AWAITING: i32 = 75;
/// `exec`: what failed is ours, not the remote command.
pub(crate) const EXEC_OURS: i32 = 125;
/// Ended by Ctrl-C or SIGTERM, as shells say it.
pub(crate) const INTERRUPTED: i32 = 130;

/// Why a command stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Something failed.
    Failure(Box<Failure>),
    /// The same in `exec`: reported alike, exits 125.
    Exec(Box<Failure>),
    /// All has been said; exit with this.
    Exit(i32),
    /// Ctrl-C; what was cancelled and what goes on.
    Interrupted(String),
    /// Whoever read standard output went away, which is no failure (`runnerctl … | head`).
    ReaderGone,
}

/// What commands give.
pub(crate) type Done<T = ()> = Result<T, Stop>;

// === impl Stop ===

impl Stop {
    /// Says it on standard error and gives the exit code.
    pub(crate) fn report(&self) -> i32 {
        crate::terminal::restore();
        match self {
            Self::Failure(failure) => {
                say(failure);
                failure.code.exit()
            }
            Self::Exec(failure) => {
                say(failure);
                EXEC_OURS
            }
            Self::Exit(code) => *code,
            Self::Interrupted(note) => {
                eprintln!("interrupted: {}", escape::line(note));
                INTERRUPTED
            }
            Self::ReaderGone => 0,
        }
    }
    /// The failure in it, if it is one.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failure(failure) | Self::Exec(failure) => Some(failure),
            _ => None,
        }
    }
    /// Marks a failure as one of ours while a remote command was to run.
    pub(crate) fn of_exec(self) -> Self {
        match self {
            Self::Failure(failure) => Self::Exec(failure),
            other => other,
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(Box::new(failure))
    }
}

/// Says what failed on standard error.
pub(crate) fn say(failure: &Failure) {
    eprintln!("error: {} [{}]", escape::line(&failure.message), failure.code);
    if !failure.next_step.is_empty() {
        eprintln!("next: {}", escape::line(&failure.next_step));
    }
}

/// Says what is wrong with a command line, with the code that it has as any other failure; or what it has asked for: help, the version.
pub(crate) fn usage(error: &clap::Error) -> i32 {
    if !error.use_stderr() {
        let _ = error.print();
        return 0;
    }
    let rendered = error.render();
    let text = if crate::output::colours_errors() { rendered.ansi().to_string() } else { rendered.to_string() };
    eprint!("{}", coded(error.kind(), &text));
    USAGE
}

/// An error of usage with its code behind its first line; one that is help alone stays as it is.
fn coded(kind: ErrorKind, text: &str) -> String {
    match text.split_once('\n') {
        Some((first, rest)) if kind != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            format!("{first} [{}]\n{rest}", Code::InvalidArgument)
        }
        _ => text.to_owned(),
    }
}

/// A failure of a local file.
pub(crate) fn file(path: &std::path::Path, error: &std::io::Error) -> Failure {
    let code = if error.kind() == std::io::ErrorKind::StorageFull { Code::DiskFull } else { Code::InvalidArgument };
    code.on(format!("{}: {error}", path.display())).next("Check the path and its permissions.")
}

/// A failure to write to standard output.
pub(crate) fn stdout(error: std::io::Error) -> Stop {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Stop::ReaderGone,
        _ => Code::Internal.on(format!("standard output: {error}")).next("Check where standard output goes.").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_usage_has_a_code() {
        use clap::Parser as _;
        let said = |words: &[&str]| {
            let words = std::iter::once("runnerctl").chain(words.iter().copied());
            let error = crate::args::Arguments::try_parse_from(words).expect_err("is wrong");
            (coded(error.kind(), &error.render().to_string()), usage(&error))
        };
        for words in [&["stack", "show", "a", "--nonsense"][..], &["deploy"], &["schedule", "set", "a", "b"]] {
            let (text, exit) = said(words);
            let first = text.lines().next().unwrap_or_default();
            assert!(first.starts_with("error: ") && first.ends_with(" [invalid_argument]"), "{words:?}: {text}");
            assert!(text.contains("--help") && exit == USAGE, "{text}");
        }
        let (help, exit) = said(&["stack"]);
        assert!(!help.contains("invalid_argument") && exit == USAGE, "{help}");
    }

    #[test]
    fn exit_codes_are_the_tables() {
        let exit = |code: Code| Stop::from(code.on("x")).report();
        assert_eq!(exit(Code::InvalidArgument), USAGE);
        assert_eq!(exit(Code::NotFound), 66);
        assert_eq!(exit(Code::RunnerUnavailable), 69);
        assert_eq!(exit(Code::DialFailed), 69);
        assert_eq!(exit(Code::Busy), 75);
        assert_eq!(exit(Code::TargetForbidden), 77);
        assert_eq!(exit(Code::NoRunner), 78);
        assert_eq!(Stop::from(Code::NotFound.on("x")).of_exec().report(), 125);
        assert_eq!(Stop::Interrupted("x".into()).report(), 130);
        assert_eq!(Stop::ReaderGone.report(), 0);
    }
}
