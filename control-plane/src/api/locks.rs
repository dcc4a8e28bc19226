//! Who holds the lock of a stack's state, as far as that can be proven: by what jobs of that stack were at work when it was made.
//!
//! A state's lock is one at a time. So one that was made while an engine of ours had it can be that engine's alone; whether that engine is still there
//! its runner has told. What was made at another time is somebody's of whom nothing is known here: never said to be dead. Of a lock in a
//! runner's own store that runner says it itself: it gives out each one, and serves one job of a stack at a time.

use super::{ApiError, ApiState, Caller, Named, Routes};
use crate::store::{Job, JobEnd, JobKind, KnownLock, Phase, Stack};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use shared_proto::failure::{Code, Failure};
use utoipa::{OpenApi, ToSchema};

/// Jobs of a stack that are looked through.
const JOBS_LOOKED_AT: u32 = 50;

#[derive(OpenApi)]
#[openapi(paths(lock))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new().add("get", "/stacks/{stack}/lock", lock)
}

/// The lock of a stack's state.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LockView {
    /// None: the newest job that needed it has had it.
    lock: Option<KnownLock>,
    /// The job that could not have it.
    found_by: Option<String>,
    /// Absent where there is no lock.
    holder: Option<Holder>,
}
/// Who holds it.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Holder {
    verdict: Verdict,
    /// What that is concluded from.
    evidence: String,
    /// The job of this stack that made it.
    job: Option<String>,
}
/// Whether somebody holds it still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// Its holder is at work.
    Live,
    /// Its holder has ended, and left it.
    Dead,
    /// Nothing that is known here tells.
    CannotTell,
}

#[utoipa::path(get, path = "/api/v1/stacks/{stack}/lock", tag = "stacks",
    params(("stack" = String, Path, description = "Id or name")), responses((status = 200, body = LockView)))]
async fn lock(
    State(state): State<ApiState>,
    caller: Caller,
    Named(stack): Named<String>,
) -> Result<Json<LockView>, ApiError> {
    let stack = state.store.stack(caller.org(), &stack).await?;
    Ok(Json(known(&state, &stack).await?))
}

/// Whether the lock of that id may be removed without force: only one whose holder is known to have ended.
///
/// # Errors
/// `conflict`, with what is known of it.
pub(super) async fn may_go(state: &ApiState, stack: &Stack, id: &str) -> Result<(), Failure> {
    let known = known(state, stack).await?;
    let what = match (&known.lock, &known.holder) {
        (Some(lock), Some(holder)) if lock.id == id => match holder.verdict {
            Verdict::Dead => return Ok(()),
            Verdict::Live => format!("its holder is at work: {}", holder.evidence),
            Verdict::CannotTell => format!("nothing proves that its holder has ended: {}", holder.evidence),
        },
        (Some(lock), _) => format!("the lock that is known is {}", lock.id),
        (None, _) => "no job has found the state locked since one had the lock".to_owned(),
    };
    Err(Code::Conflict
        .on(format!("the lock {id} is not removed: {what}"))
        .next("Make sure that nobody is at work on the state, then say so: --force, with the reason."))
}

/// What the stack's jobs tell of its lock.
async fn known(state: &ApiState, stack: &Stack) -> Result<LockView, Failure> {
    let none = LockView { lock: None, found_by: None, holder: None };
    let jobs = state.store.jobs(&stack.organization, Some(&stack.id), JOBS_LOOKED_AT).await?;
    // the newest first: that which could have it, or could not
    let Some(at) = jobs.iter().position(|job| lock_of(job).is_some() || had_it(job)) else { return Ok(none) };
    let Some(lock) = lock_of(&jobs[at]) else { return Ok(none) };
    let holder = holder(state, &jobs[at + 1..], &lock).await?;
    Ok(LockView { lock: Some(lock), found_by: Some(jobs[at].id.clone()), holder: Some(holder) })
}

fn end_of(job: &Job) -> Option<JobEnd> {
    serde_json::from_str(job.result.as_deref()?).ok()
}
/// The lock that a job could not have.
fn lock_of(job: &Job) -> Option<KnownLock> {
    end_of(job)?.lock
}
/// Whether a job's engine has had the lock, or has removed it. What only reads a state asks for none.
fn had_it(job: &Job) -> bool {
    let reads = matches!(job.kind, JobKind::Outputs | JobKind::State | JobKind::Versions);
    job.accepted && !reads && (job.has_applied() || job.phase == Phase::NoChanges)
}

async fn holder(state: &ApiState, before: &[Job], lock: &KnownLock) -> Result<Holder, Failure> {
    let cannot_tell = |evidence: String| Holder { verdict: Verdict::CannotTell, evidence, job: None };
    if lock.holder_gone {
        let evidence = format!(
            "the runner's own store gave it to the engine of job {}, and nobody serves that job any more",
            lock.job
        );
        return Ok(Holder { verdict: Verdict::Dead, evidence, job: Some(lock.job.clone()) });
    }
    if lock.created_ms == 0 {
        return Ok(cannot_tell("the engine did not say when it was made".into()));
    }
    for job in before.iter().filter(|job| job.accepted && lock_of(job).is_none()) {
        let Some((begun, last)) = at_work(state, job).await? else { continue };
        if lock.created_ms < begun {
            continue;
        }
        if job.ended() && lock.created_ms > last {
            // whatever came before it had ended by then
            break;
        }
        let who = format!("job {} of this stack was at work when it was made", job.id);
        let (verdict, evidence) = judged(job, &who);
        return Ok(Holder { verdict, evidence, job: Some(job.id.clone()) });
    }
    let by = if lock.who.is_empty() { String::new() } else { format!(" It says that it is of {}.", lock.who) };
    Ok(cannot_tell(format!("no job of this stack was at work when it was made ({}).{by}", lock.created)))
}

fn judged(job: &Job, who: &str) -> (Verdict, String) {
    let phase = job.phase.as_str();
    if !job.ended() {
        return (Verdict::Live, format!("{who}, and still is ({phase})"));
    }
    let code = end_of(job).map(|end| end.code).unwrap_or_default();
    let unseen = [Code::JobLost, Code::SpoolDamaged, Code::WorkerCrashed].iter().any(|c| c.as_str() == code);
    if job.phase == Phase::Lost || !job.reported || unseen {
        return (Verdict::CannotTell, format!("{who}, and nobody has seen how its engine ended ({phase}, {code})"));
    }
    (Verdict::Dead, format!("{who}; its runner has told that it ended ({phase}) and that nothing of it is left"))
}

/// From when to when a job told of itself, by its runner's own clock: the one that the lock's holder had, if it was that.
async fn at_work(state: &ApiState, job: &Job) -> Result<Option<(i64, i64)>, Failure> {
    let last = u64::try_from(job.last_sequence).unwrap_or(0);
    let one = |after: u64| state.store.job_events(&job.organization, &job.id, after, 1);
    let (Some(first), Some(last)) = (one(0).await?.pop(), one(last.saturating_sub(1)).await?.pop()) else {
        return Ok(None);
    };
    Ok(Some((first.time_ms, last.time_ms)))
}
