//! Infrastructure jobs on this runner: taken from the execution service, written down, run by workers that outlive the supervisor,
//! and reported from their spools.
//!
//! ```text
//!  execution service ──Work──▶ owner ──one task a job──▶ job: accepted ▶ plan ▶ awaiting approval ▶ apply ▶ ended ▶ released
//!        ▲                                                │ starts, watches, adopts the worker
//!        └──────────Report────── upload ◀── spool ◀───────┘ (the worker appends)
//! ```
//! Each job is owned by one task, each folder by that job. Nothing here may start a step twice (its marker says that it was started),
//! believe what a worker wrote beyond what can be checked, or signal a process that is not the job's.

mod bounds;
mod cache;
mod control;
mod disk;
mod durable;
mod ending;
mod evidence;
mod folder;
mod forecast;
mod former;
mod identity;
mod job;
mod kept_states;
mod key;
mod launch;
mod owner;
mod permission;
mod removal;
mod renewal;
mod service;
mod source;
mod spool;
mod steady;
mod surroundings;
mod upload;

#[cfg(test)]
mod tests;

pub use disk::DiskLimits;
pub(crate) use kept_states::{Kept, KeptStates};
pub use permission::{admit_hooks, asked_of_policy, place_of};
pub use surroundings::{Connection, RENEW_EVERY, Refusal, SILENCE_MAX, Settings, Surroundings};

use shared_proto::failure::{Code, Failure};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How often it is looked whether jobs that were asked to stop have.
const STOP_LOOK: Duration = Duration::from_millis(50);

/// The jobs of this instance. Cheap to clone; the jobs go on without it.
#[derive(Clone)]
pub struct Jobs {
    /// To the task that has them now.
    asks: Arc<Mutex<mpsc::Sender<owner::Ask>>>,
    how: Arc<How>,
}

/// What they are started with.
struct How {
    settings: Settings,
    surroundings: Arc<dyn Surroundings>,
    draining: watch::Receiver<bool>,
}

/// How long what must not be left in the middle may take until its end, where another process is to have the jobs.
const LET_GO_WITHIN: Duration = Duration::from_secs(10);

/// A job as `runner status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct JobSummary {
    /// Its id.
    pub job_id: String,
    /// Its stack's name.
    pub stack: String,
    /// preview, update, refresh, destroy or outputs.
    pub kind: String,
    /// Its phase.
    pub phase: String,
    /// The newest event that the spool has.
    pub last_sequence: u64,
    /// The newest event that the control plane has.
    pub acknowledged: u64,
    /// It has ended, and the control plane has its result.
    pub done: bool,
}

/// Adopts what is in the jobs folder, then takes new jobs, but while `draining`, until the returned handle and all its clones are gone.
///
/// # Errors
/// The state directory cannot be used.
pub fn start(
    settings: Settings,
    surroundings: Arc<dyn Surroundings>,
    draining: watch::Receiver<bool>,
) -> Result<Jobs, Failure> {
    let how = Arc::new(How { settings, surroundings, draining });
    Ok(Jobs { asks: Arc::new(Mutex::new(how.start()?)), how })
}

impl How {
    fn start(&self) -> Result<mpsc::Sender<owner::Ask>, Failure> {
        let (asks, asked) = mpsc::channel(64);
        owner::start(self.settings.clone(), Arc::clone(&self.surroundings), self.draining.clone(), asked)?;
        Ok(asks)
    }
}

// === impl Jobs ===

impl Jobs {
    /// What there is now.
    ///
    /// # Errors
    /// The jobs' task is gone.
    pub async fn summary(&self) -> Result<Vec<JobSummary>, Failure> {
        self.ask(owner::Ask::Summary).await.ok_or_else(|| Code::Internal.on("the jobs' task has ended"))
    }

    /// An answer of the task that has the jobs now. None: it has ended.
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> owner::Ask) -> Option<T> {
        let (asks, (reply, answer)) = (self.asks(), oneshot::channel());
        asks.send(ask(reply)).await.ok()?;
        tokio::select! {
            biased;
            answer = answer => answer.ok(),
            // one that was sent as the task ended may lie there for ever
            () = asks.closed() => None,
        }
    }

    /// Has every job that is at work asked to stop, once, and takes no others; returns when the control plane has all of them, but for plans that
    /// wait for their approval: nothing of these runs.
    pub async fn stop(&self) {
        loop {
            match self.ask(owner::Ask::Stop).await {
                Some(0) | None => return,
                Some(_) => tokio::time::sleep(STOP_LOOK).await,
            }
        }
    }

    /// Lets go of all jobs for another process to adopt, once nothing is done that must not be left in the middle. From then on nothing of
    /// this process acts on them or speaks for them.
    ///
    /// # Errors
    /// Something takes too long; all goes on then.
    pub async fn let_go(&self) -> Result<(), Failure> {
        let (reply, done) = oneshot::channel();
        let asks = self.asks();
        let letting_go = async {
            asks.send(owner::Ask::LetGo(reply)).await.ok()?;
            done.await.ok()
        };
        match tokio::time::timeout(LET_GO_WITHIN, letting_go).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(Code::Internal.on("the jobs' task has ended")),
            Err(_) => Err(Code::Busy
                .on(format!("a job is at what must not be interrupted, for more than {LET_GO_WITHIN:?}"))
                .next("Try again once its engine has ended, or its folder is removed.")),
        }
    }

    /// Adopts them again, in the runtime that this is called in: nobody else has.
    ///
    /// # Errors
    /// The state directory cannot be used.
    pub fn adopt_again(&self) -> Result<(), Failure> {
        *self.asks.lock().unwrap_or_else(PoisonError::into_inner) = self.how.start()?;
        Ok(())
    }

    fn asks(&self) -> mpsc::Sender<owner::Ask> {
        // nothing panics while holding it
        self.asks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").finish_non_exhaustive()
    }
}
