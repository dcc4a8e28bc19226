//! What can go wrong with the log.

use shared_proto::failure::{Code, Failure};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why something was not done. Each says on what, and [`AuditError::next_step`] what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// Another process writes this log.
    #[error("the audit log {} is another process's", .0.display())]
    Held(PathBuf),
    /// A file or folder of the log cannot be opened, read, made or removed.
    #[error("audit log, {}: {}", .0.display(), .1)]
    File(PathBuf, Arc<io::Error>),
    /// A record could not be written. Nothing of it is in the log.
    #[error("a record could not be written to {}: {}", .0.display(), .1)]
    Write(PathBuf, Arc<io::Error>),
    /// Records were written, and the disk did not confirm that it has them.
    #[error("the disk did not confirm what was written to {}: {}", .0.display(), .1)]
    Sync(PathBuf, Arc<io::Error>),
    /// The key file holds no Ed25519 key.
    #[error("{} does not hold the log's key: {}", .0.display(), .1)]
    Key(PathBuf, &'static str),
    /// The key file can be read or written by others: its mode.
    #[error("others than its owner may use the log's key {}: its mode is {:04o}", .0.display(), .1)]
    KeyExposed(PathBuf, u32),
    /// A public key is none, or of another kind.
    #[error("it is no public key of an audit log: {0}")]
    PublicKey(&'static str),
    /// The runner's or instance's id has characters that ids do not have, or is too long.
    #[error("{0:?} is no id: letters, digits and -_.:/@ alone, at most 128")]
    Id(String),
    /// A setting that is outside its limits.
    #[error("{0}")]
    Setting(&'static str),
    /// So many records wait for the disk that no more are taken.
    #[error("the audit log takes no more records now: too many wait for the disk")]
    Busy,
    /// The log was closed.
    #[error("the audit log is closed")]
    Closed,
    /// There is no log there.
    #[error("{} holds no audit log", .0.display())]
    NoLog(PathBuf),
    /// The thread that writes could not be started.
    #[error("the audit log's thread could not be started: {0}")]
    Thread(Arc<io::Error>),
}

impl From<AuditError> for Failure {
    /// As whoever reads a log is told of it.
    fn from(e: AuditError) -> Self {
        let code = match &e {
            AuditError::NoLog(_) => Code::NotFound,
            AuditError::File(_, io) if io.kind() == io::ErrorKind::NotFound => {
                return Code::NotFound.on(e.to_string()).next("Check the path.");
            }
            AuditError::PublicKey(_) => Code::InvalidArgument,
            AuditError::File(_, e) if e.kind() == io::ErrorKind::PermissionDenied => Code::PermissionDenied,
            _ => Code::AuditUnavailable,
        };
        code.on(e.to_string()).next(e.next_step())
    }
}

// === impl AuditError ===

impl AuditError {
    /// What to do about it, in a sentence.
    pub const fn next_step(&self) -> &'static str {
        match self {
            Self::Held(_) => "Stop the other runner, or wait until it has handed over.",
            Self::File(..) => "See that the folder belongs to the runner's user, and that its disk works.",
            Self::Write(..) | Self::Sync(..) => {
                "See that the disk has room and works; the log goes on by itself when it does."
            }
            Self::Key(..) => {
                "Put the key back from a backup, or move the file away: a new key is made, and verification says so."
            }
            Self::KeyExposed(..) => "Set its mode to 0600, and change the key if others may have read it.",
            Self::PublicKey(_) => "Give what `runner audit key` prints.",
            Self::Id(_) => "Register the runner again.",
            Self::Setting(_) => "Correct the setting.",
            Self::Busy => "Try again; if it stays so, see that the disk works.",
            Self::Closed => "Try again when the runner has started.",
            Self::NoLog(_) => "Give the folder `audit` of the runner's state directory.",
            Self::Thread(_) => "See that the runner may have more threads.",
        }
    }

    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |e| Self::File(path, Arc::new(e))
    }
}
