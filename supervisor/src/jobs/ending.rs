//! Ends what a worker left behind, so that an engine still writes its state: one SIGINT to each engine (a second one would make it drop
//! the state), a bounded wait, then SIGKILL to all of the session.

use super::folder::Folder;
use super::identity::ProcessIdentity;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

/// The most that an engine whose worker is gone gets to end by itself.
const GRACE_MAX: Duration = Duration::from_secs(30);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing was left.
    Nothing,
    /// It ended by itself when asked.
    Asked,
    /// It had to be killed.
    Killed,
}

// === impl Left ===

impl Left {
    /// In words, after what happened to the worker.
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::Nothing => "nothing of it was left running",
            Self::Asked => "its engine was asked to stop, and did",
            Self::Killed => "its engine was asked to stop, did not, and was killed",
        }
    }
}

/// Ends what is left of the session. The worker itself is gone, or is killed first: it may be stopped, and could not pass anything on.
pub(super) async fn end_session(worker: &ProcessIdentity, folder: &Folder, grace: Duration) -> Left {
    let work = folder.work();
    if worker.alive() {
        signal(worker.pid, Signal::SIGKILL);
    }
    let gone = async {
        while worker.alive() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    // a process in uninterruptible sleep cannot be waited for
    let _ = tokio::time::timeout(Duration::from_secs(5), gone).await;
    if worker.session(&work).is_empty() {
        return Left::Nothing;
    }
    let engines = worker.engines(&work);
    for engine in &engines {
        signal(*engine, Signal::SIGINT);
    }
    let empty = async {
        while !worker.session(&work).is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let grace = if engines.is_empty() { Duration::ZERO } else { grace.min(GRACE_MAX) };
    if tokio::time::timeout(grace, empty).await.is_ok() {
        return Left::Asked;
    }
    for _ in 0..20 {
        let rest = worker.session(&work);
        if rest.is_empty() {
            break;
        }
        for pid in rest {
            signal(pid, Signal::SIGKILL);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Left::Killed
}

/// One process, once; that it is gone already is as good.
pub(super) fn signal(pid: i32, signal: Signal) {
    // 0, 1 and negative numbers mean others than one process of ours
    if pid > 1 {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
