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
mod control;
mod ending;
mod folder;
mod identity;
mod job;
mod launch;
mod owner;
mod service;
mod source;
mod spool;
mod surroundings;
mod upload;

#[cfg(test)]
mod tests;

pub use surroundings::{Connection, Refusal, SILENCE_MAX, Settings, Surroundings};

use shared_proto::failure::{Code, Failure};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The jobs of this instance. Cheap to clone; the jobs go on without it.
#[derive(Debug, Clone)]
pub struct Jobs {
    asks: mpsc::Sender<owner::Ask>,
}

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
}

/// Adopts what is in the jobs folder, then takes new jobs until the returned handle and all its clones are gone.
///
/// # Errors
/// The state directory cannot be used.
pub fn start(settings: Settings, surroundings: Arc<dyn Surroundings>) -> Result<Jobs, Failure> {
    let (asks, asked) = mpsc::channel(64);
    owner::start(settings, surroundings, asked)?;
    Ok(Jobs { asks })
}

// === impl Jobs ===

impl Jobs {
    /// What there is now.
    ///
    /// # Errors
    /// The jobs' task is gone.
    pub async fn summary(&self) -> Result<Vec<JobSummary>, Failure> {
        let (reply, answer) = oneshot::channel();
        let gone = || Code::Internal.on("the jobs' task has ended");
        self.asks.send(owner::Ask::Summary(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}
