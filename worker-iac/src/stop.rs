//! Why a step ends before its end.

use shared_proto::failure::{Code, Failure};
use shared_proto::v1::StateLock;
use std::io;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody saw it.
    Unknown,
}

/// Why a step stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Something failed; the program's exit, where one ran.
    Failed(Failure, Option<Exit>),
    /// The engine could not have the lock of the state, and ended; or was not started for that.
    Locked(Failure, Box<StateLock>, Option<Exit>),
    /// It was cancelled, before or while a program ran.
    Canceled {
        /// Whether it had to be killed.
        forced: bool,
        /// The program's exit, where one ran.
        exit: Option<Exit>,
    },
    /// A hook of the stack failed, or was cancelled while it ran.
    Hook(Stopped),
}

/// What a hook has ended a step with.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// Why, with what was changed.
    pub(crate) failure: Failure,
    /// Whether somebody wanted it to stop.
    pub(crate) canceled: bool,
    /// Whether the plan was applied before it.
    pub(crate) applied: bool,
}

// === impl Exit ===

impl Exit {
    /// In words.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Code(code) => format!("exit code {code}"),
            Self::Signal(_) => self.signal_name(),
            Self::Unknown => "an end that nobody saw".to_owned(),
        }
    }
    /// The signal's name; empty where it ended by itself.
    pub(crate) fn signal_name(self) -> String {
        match self {
            Self::Code(_) | Self::Unknown => String::new(),
            Self::Signal(number) => nix::sys::signal::Signal::try_from(number)
                .map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned()),
        }
    }
}

impl From<std::process::ExitStatus> for Exit {
    fn from(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        status.signal().map_or_else(|| Self::Code(status.code().unwrap_or(-1)), Self::Signal)
    }
}

// === impl Stop ===

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure, None)
    }
}

/// A failure of the file system: `disk_full` where that is what it is, else the code given.
pub(crate) fn io_failure(otherwise: Code, what: impl std::fmt::Display, error: &io::Error) -> Failure {
    if is_disk_full(error) {
        Code::DiskFull.on(format!("{what}: {error}"))
    } else {
        otherwise.on(format!("{what}: {error}"))
    }
}

/// Whether the disk, or this user's share of it, is full.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
