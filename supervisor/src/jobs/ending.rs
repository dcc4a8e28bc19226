//! Ends what a worker left behind, so that an engine still writes its state: one SIGINT to each engine (a second one would make it drop
//! the state), a bounded wait, then SIGKILL to all of the session.

use super::folder::Folder;
use super::identity::ProcessIdentity;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

/// The most that an engine whose worker is gone gets to end by itself.
const GRACE_MAX: Duration = Duration::from_secs(30);
/// What an engine's own children get once it is gone: its plug-ins end with it, a provisioner's command may not.
const CHILDREN_MAX: Duration = Duration::from_secs(1);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing was left.
    Nothing,
    /// Its engine ended by itself when asked.
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

/// Ends what is left of the session: engines have their grace, what they leave has none. The worker itself is gone, or is killed first: it may be stopped, and could not pass anything on.
pub(super) async fn end_session(worker: &ProcessIdentity, folder: &Folder, grace: Duration) -> Left {
    let work = folder.work();
    if worker.alive() {
        signal(worker.pid, Signal::SIGKILL);
    }
    // a process in uninterruptible sleep cannot be waited for
    let _ = tokio::time::timeout(Duration::from_secs(5), until(|| !worker.alive())).await;
    if worker.session(&work).is_empty() {
        return Left::Nothing;
    }
    let engines = worker.engines(&work);
    for engine in &engines {
        signal(*engine, Signal::SIGINT);
    }
    let asked = !engines.is_empty() && {
        let ended = until(|| worker.engines(&work).is_empty());
        tokio::time::timeout(grace.min(GRACE_MAX), ended).await.is_ok()
    };
    if asked {
        let empty = until(|| worker.session(&work).is_empty());
        if tokio::time::timeout(CHILDREN_MAX, empty).await.is_ok() {
            return Left::Asked;
        }
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
    if asked { Left::Asked } else { Left::Killed }
}

async fn until(is: impl Fn() -> bool) {
    while !is() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// One process, once; that it is gone already is as good.
pub(super) fn signal(pid: i32, signal: Signal) {
    // 0, 1 and negative numbers mean others than one process of ours
    if pid > 1 {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
