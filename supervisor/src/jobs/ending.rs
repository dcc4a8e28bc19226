//! Ends what is left of a step, so that an engine still writes its state: one SIGINT to each engine (a second one would make it drop the
//! state), a bounded wait, then SIGKILL to all of the session. The spawner sends them: jobs are of other users where the runner is root. The job's first process does that, once its worker is dead; only where that
//! process is dead itself is it done here.

use super::folder::Folder;
use super::identity::ProcessIdentity;
use super::surroundings::Surroundings;
use nix::sys::signal::Signal;
use runner_sandbox::PidFd;
use shared_proto::ended::Left;
use std::time::Duration;

/// The most that an engine whose worker is gone gets to end by itself.
const GRACE_MAX: Duration = Duration::from_secs(30);
/// What an engine's own children get once it is gone: its plug-ins end with it, a provisioner's command may not.
const CHILDREN_MAX: Duration = Duration::from_secs(1);
/// What the first process of a job gets beyond that, to say what it has done.
const SLACK: Duration = Duration::from_secs(2);
/// Tells a job's first process that no worker is to follow.
const LAST: Signal = Signal::SIGUSR1;
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Ends what is left of the step whose first process that is. Its worker is killed first where it still lives: it may be stopped, and could
/// not pass anything on.
pub(super) async fn end_session(
    around: &dyn Surroundings,
    first: &ProcessIdentity,
    folder: &Folder,
    grace: Duration,
) -> Left {
    let work = folder.work();
    if first.alive() {
        signal(around, first.pid, LAST, || first.alive()).await;
        if let Some(worker) = first.worker() {
            signal(around, worker, Signal::SIGKILL, || first.worker() == Some(worker)).await;
        }
        let ends = tokio::time::timeout(grace.min(GRACE_MAX) + CHILDREN_MAX + SLACK, until(|| !first.alive()));
        if first.stopped() || ends.await.is_err() {
            signal(around, first.pid, Signal::SIGKILL, || first.alive()).await;
        }
        // a process in uninterruptible sleep cannot be waited for
        let _ = tokio::time::timeout(Duration::from_secs(5), until(|| !first.alive())).await;
    }
    if first.session(&work).is_empty() {
        return folder.worker_ended().map_or(Left::Nothing, |ended| ended.left);
    }
    let engines = first.engines(&work);
    for engine in &engines {
        signal(around, *engine, Signal::SIGINT, || first.engines(&work).contains(engine)).await;
    }
    let asked = !engines.is_empty() && {
        let ended = until(|| first.engines(&work).is_empty());
        tokio::time::timeout(grace.min(GRACE_MAX), ended).await.is_ok()
    };
    if asked {
        let empty = until(|| first.session(&work).is_empty());
        if tokio::time::timeout(CHILDREN_MAX, empty).await.is_ok() {
            return Left::Asked;
        }
    }
    for _ in 0..20 {
        let rest = first.session(&work);
        if rest.is_empty() {
            break;
        }
        for pid in rest {
            signal(around, pid, Signal::SIGKILL, || first.session(&work).contains(&pid)).await;
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

/// One process, once; that it is gone already is as good. `still`: whether the number means what it meant, asked while it cannot change hands.
pub(super) async fn signal(around: &dyn Surroundings, pid: i32, signal: Signal, still: impl Fn() -> bool + Send) {
    // 1 is nobody's job
    if let Ok(process) = PidFd::open(pid)
        && pid > 1
        && still()
    {
        around.signal(process, signal).await;
    }
}
