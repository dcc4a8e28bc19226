//! What users do with jobs, and how everyone who waits is told: the store's decisions, each followed by word to the instance's stream
//! and to whoever follows the job.

use super::archives::Archives;
use super::streams::Streams;
use crate::clock::steady_ms;
use crate::store::{Cancelled, Job, NewJob, PRESENT_MS, Store};
use shared_proto::failure::Failure;
use shared_proto::now_ms;
use std::time::Duration;
use tokio::sync::broadcast;

/// Changes that a slow follower may lag behind; one that lags more looks at everything again.
const CHANGES: usize = 4096;

/// How often restored jobs, and those whose instance is away, are looked at.
const SETTLE_EVERY: Duration = Duration::from_secs(30);
/// The same in parts of the lease, where that is shorter.
const SETTLE_PARTS: u32 = 4;
/// How often it is looked for events that are too old.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// Something about a job is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its runner.
    pub runner: String,
    /// Its id.
    pub job: String,
}

/// The jobs of all organizations. Cloning is cheap.
#[derive(Clone)]
pub struct Jobs {
    store: Store,
    archives: Archives,
    streams: Streams,
    changes: broadcast::Sender<Change>,
}

// === impl Jobs ===

impl Jobs {
    /// On this store, with these archives.
    pub fn new(store: Store, archives: Archives) -> Self {
        Self { store, archives, streams: Streams::default(), changes: broadcast::channel(CHANGES).0 }
    }
    /// The archives that jobs are made from.
    pub fn archives(&self) -> &Archives {
        &self.archives
    }
    pub(super) fn store(&self) -> &Store {
        &self.store
    }
    pub(super) fn streams(&self) -> &Streams {
        &self.streams
    }
    /// What is new from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
    /// Tells everyone who waits.
    pub(crate) fn changed(&self, runner: &str, job: &str) {
        // an error only says that nobody waits
        let _ = self.changes.send(Change { runner: runner.to_owned(), job: job.to_owned() });
    }

    /// Whether that instance of a runner asks for work now: what becomes of its jobs it tells.
    pub(crate) fn hears(&self, runner: &str, instance: &str) -> bool {
        self.streams.present(runner).iter().any(|present| present == instance)
    }

    /// Makes a job; it is given out as soon as an instance takes it.
    ///
    /// # Errors
    /// Those of [`Store::create_job`].
    pub async fn create(&self, new: NewJob) -> Result<Job, Failure> {
        let job = self.store.create_job(new).await?;
        self.changed(&job.runner, &job.id);
        Ok(job)
    }

    /// Approves a job's plan.
    ///
    /// # Errors
    /// Those of [`Store::approve_job`].
    pub async fn approve(&self, organization: &str, id: &str, by: &str, plan: Option<&str>) -> Result<Job, Failure> {
        let job = self.store.approve_job(organization, id, by, plan).await?;
        self.changed(&job.runner, &job.id);
        Ok(job)
    }

    /// Refuses a job's plan.
    ///
    /// # Errors
    /// Those of [`Store::discard_job`].
    pub async fn discard(&self, organization: &str, id: &str, by: &str) -> Result<Job, Failure> {
        let job = self.store.discard_job(organization, id, by).await?;
        self.changed(&job.runner, &job.id);
        Ok(job)
    }

    /// Cancels a job.
    ///
    /// # Errors
    /// Those of [`Store::cancel_job`].
    pub async fn cancel(&self, organization: &str, id: &str, by: &str, force: bool) -> Result<Job, Failure> {
        let runner = self.store.job(organization, id).await?.runner;
        let gone = |instance: &str| !self.hears(&runner, instance);
        let (Cancelled::Ended(job) | Cancelled::Asked(job)) =
            self.store.cancel_job(organization, id, by, force, gone).await?;
        self.changed(&job.runner, &job.id);
        Ok(job)
    }

    /// Ends what was restored from an older back-up and no instance has presented in its time, and what is an instance's that has not asked for
    /// work during `lease`; looks again and again.
    pub(crate) async fn settle(self, lease: Duration) {
        let mut look = tokio::time::interval(SETTLE_EVERY.min(lease / SETTLE_PARTS));
        loop {
            look.tick().await;
            self.lapse(lease, steady_ms()).await;
            // the store has logged it; the next look tries again
            for job in self.store.give_up_restored(now_ms() - PRESENT_MS).await.unwrap_or_default() {
                tracing::warn!(job = job.id, "restored job given up: no instance has it");
                self.changed(&job.runner, &job.id);
            }
        }
    }

    /// Removes the events of jobs that ended longer ago than they are kept, and the archives that nothing refers to any more and that nobody has asked
    /// for as long; looks again and again.
    pub(crate) async fn forget(self, kept: Duration) {
        let mut look = tokio::time::interval(FORGET_EVERY);
        loop {
            look.tick().await;
            let before_ms = now_ms().saturating_sub(i64::try_from(kept.as_millis()).unwrap_or(i64::MAX));
            // the store has logged what fails; the next look tries again
            while let Ok(jobs @ 1..) = self.store.forget_events(before_ms).await {
                tracing::info!(jobs, days = kept.as_secs() / 86_400, "events of old jobs removed");
            }
            if let Ok(used) = self.store.archives_in_use().await
                && let archives @ 1.. = self.archives.forget(&used, kept).await
            {
                tracing::info!(archives, days = kept.as_secs() / 86_400, "archives that nothing refers to removed");
            }
        }
    }

    /// Ends the jobs as lost whose instances are away for so long: a container without a volume, a machine that is gone. One that comes back with
    /// its job all the same tells what became of it, which counts.
    pub(super) async fn lapse(&self, lease: Duration, now_ms: i64) {
        // the store has logged it; the next look tries again
        let Ok(holders) = self.store.instances_at_work().await else { return };
        let before_ms = now_ms.saturating_sub(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX));
        for (runner, instance) in self.streams.away_since(&holders, before_ms, now_ms) {
            for job in self.store.lapse_jobs(&runner, &instance, lease.as_secs()).await.unwrap_or_default() {
                tracing::warn!(
                    job = job.id,
                    instance,
                    away_s = lease.as_secs(),
                    "job lost: its instance is away for too long"
                );
                self.changed(&job.runner, &job.id);
            }
        }
    }
}
