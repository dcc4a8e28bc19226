//! Why a job has not begun: what its runner's instances and its stack are busy with. It is a look from outside, for people; what is given
//! out the store decides.

use super::Jobs;
use crate::store::{Job, Phase};
use shared_proto::failure::Failure;
use std::collections::HashMap;

/// What a job waits for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum WaitsFor {
    /// A stack has one job at a time.
    Job {
        /// The one that is before it.
        job: String,
        /// Where that one stands.
        phase: &'static str,
        /// Since when it waits for its approval, where it does.
        #[serde(skip_serializing_if = "Option::is_none")]
        since_ms: Option<i64>,
    },
    /// All of its runner's instances do as many jobs as they do at once.
    Slot {
        /// How many that is, all instances together.
        slots: u32,
    },
    /// No instance of its runner takes jobs.
    Instance,
    /// The instance that may have its stack's state is at work, or was not there a moment ago.
    State {
        /// Which.
        instance: String,
    },
    /// It was restored from an older back-up: an instance may have it, and says so when it comes; else it ends as lost.
    Restored,
}

impl Jobs {
    /// What those of an organization's jobs wait for that nobody has yet, by their ids; one that is about to be given out has nothing.
    ///
    /// # Errors
    /// `internal`.
    pub async fn waiting(&self, organization: &str, jobs: &[Job]) -> Result<HashMap<String, WaitsFor>, Failure> {
        let pending: Vec<_> = jobs.iter().filter(|job| job.phase == Phase::Pending).collect();
        if pending.is_empty() {
            return Ok(HashMap::new());
        }
        let open = self.store().open_jobs(organization).await?;
        let mut waits = HashMap::new();
        for job in pending {
            // given out since it was looked at
            if open.iter().any(|now| now.id == job.id && now.phase != Phase::Pending) {
                continue;
            }
            let instances = self.streams().slots(&job.runner);
            let why = match waits_for(job, &open, &instances) {
                None => self.waits_for_state(job, &open, &instances).await?,
                why => why,
            };
            let Some(mut why) = why else { continue };
            if let WaitsFor::Job { job: before, since_ms, .. } = &mut why
                && let Some(before) = open.iter().find(|other| other.id == *before)
            {
                *since_ms = self.awaits_since(before).await?;
            }
            waits.insert(job.id.clone(), why);
        }
        Ok(waits)
    }

    /// Whether it goes to one instance alone, of several.
    async fn waits_for_state(
        &self,
        job: &Job,
        open: &[Job],
        instances: &[(String, u32)],
    ) -> Result<Option<WaitsFor>, Failure> {
        let present: Vec<_> = instances.iter().map(|(id, _)| id.clone()).collect();
        let last = self.store().preferred_instance(job, &present).await?;
        let has_room = |last: &String| {
            let at = instances.iter().find(|(id, _)| id == last);
            at.is_some_and(|(id, slots)| busy(open, &job.runner, id) < *slots as usize)
        };
        Ok(last.filter(|last| !has_room(last)).map(|instance| WaitsFor::State { instance }))
    }

    /// Since when a job waits for its approval: its newest event says that it does.
    async fn awaits_since(&self, job: &Job) -> Result<Option<i64>, Failure> {
        if job.phase != Phase::AwaitingApproval {
            return Ok(None);
        }
        let before = u64::try_from(job.last_sequence - 1).unwrap_or(0);
        let newest = self.store().job_events(&job.organization, &job.id, before, 1).await?;
        Ok(newest.first().map(|event| event.time_ms))
    }
}

/// What a pending job waits for, where `open` are those that have not ended, and `instances` its runner's with their slots.
fn waits_for(job: &Job, open: &[Job], instances: &[(String, u32)]) -> Option<WaitsFor> {
    if job.restored_at_ms.is_some() {
        return Some(WaitsFor::Restored);
    }
    let of_stack = open.iter().filter(|other| other.stack == job.stack && other.id != job.id);
    let before = of_stack.filter(|other| other.phase != Phase::Pending || other.id < job.id);
    // the one that is at work, else the one whose turn comes first
    if let Some(other) = before.min_by_key(|other| (other.phase == Phase::Pending, &other.id)) {
        return Some(WaitsFor::Job { job: other.id.clone(), phase: other.phase.as_str(), since_ms: None });
    }
    let slots: u32 = instances.iter().map(|(_, slots)| slots).sum();
    if slots == 0 {
        return Some(WaitsFor::Instance);
    }
    let full = instances.iter().all(|(instance, slots)| busy(open, &job.runner, instance) >= *slots as usize);
    full.then_some(WaitsFor::Slot { slots })
}

/// How many jobs an instance is busy with.
fn busy(open: &[Job], runner: &str, instance: &str) -> usize {
    let own = open.iter().filter(|o| o.runner == runner && o.instance.as_deref() == Some(instance));
    // a plan that waits for its approval keeps nobody busy
    own.filter(|o| !matches!(o.phase, Phase::Pending | Phase::AwaitingApproval)).count()
}
