//! What is done when a schedule's time has come: a job, made as a user's request makes one, for the user who has set the schedule.
//!
//! ```text
//!  due ─┬─ missed, and not to be made up for ─▶ said
//!       ├─ a job of the stack is under way ───▶ said
//!       ├─ five have failed, one after the other ─▶ paused, said
//!       └─ else ─▶ a job, by the idempotency key of its time ─▶ the next time
//! ```
//! The key of a time makes one job, however often it is looked at: a control plane that is killed between job and note finds the job again. It must
//! never make up for more than one time that was missed.

use super::new_job::{NewJobBody, make_job};
use super::{ApiState, Caller};
use crate::cron::{Cron, Offset};
use crate::store::{Does, Idempotency, Job, JobKind, Phase, Schedule, Turn, User};
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use std::time::Duration;

/// How often it is looked at the latest: the wall clock may be set, and schedules change.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Between two looks at the least: what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Turns of one look.
const DUE_MAX: u32 = 100;
/// One that is later than so much was missed, milliseconds.
const LATE_MS: i64 = 5 * 60 * 1000;
/// So many failures, one after the other, pause a schedule.
const FAILURES_MAX: i64 = 5;
/// The longest that is said of a turn, bytes.
const SAID_MAX: usize = 1024;

/// Does what is due, again and again.
pub(crate) async fn follow(state: ApiState) {
    loop {
        look(&state, now_ms()).await;
        // the store has logged it; the next look tries again
        let next = state.store.next_schedule().await.ok().flatten();
        let wait = next.map_or(LOOK_EVERY, |next| {
            let left = u64::try_from(next.saturating_sub(now_ms())).unwrap_or(0);
            LOOK_EVERY.min(Duration::from_millis(left)).max(AGAIN)
        });
        tokio::time::sleep(wait).await;
    }
}

/// Does what is due at that moment.
pub(super) async fn look(state: &ApiState, now: i64) {
    let due = state.store.due_schedules(now, FAILURES_MAX - 1, DUE_MAX).await.unwrap_or_default();
    for schedule in due {
        let turn = match turn(state, &schedule, now).await {
            Ok(turn) => turn,
            Err(failure) => {
                tracing::error!(
                    schedule = schedule.id,
                    code = failure.code.as_str(),
                    detail = failure.message,
                    "a schedule's turn failed"
                );
                continue;
            }
        };
        if let Some(said) = &turn.said {
            tracing::info!(schedule = schedule.id, stack = schedule.stack_name, said, "a schedule made no job");
        }
        let _ = state.store.had_turn(&schedule, &turn).await;
    }
}

async fn turn(state: &ApiState, schedule: &Schedule, now: i64) -> Result<Turn, Failure> {
    let failures = failures_so_far(state, schedule).await?;
    let without = |said: String, failures, pauses| {
        let next = next_of(schedule, now)?;
        Ok(Turn { at_ms: now, next, job: None, said: Some(cut(said)), failures, pauses })
    };
    let pauses = |failures| format!("{failures} jobs, one after the other, have failed");
    if failures >= FAILURES_MAX {
        let why = pauses(failures);
        return without(format!("it is paused: {why}"), failures, Some(why));
    }
    let late = now.saturating_sub(schedule.due_ms);
    if late > LATE_MS && !schedule.late {
        return without(format!("it was missed by {} s, and is not made up for", late / 1000), failures, None);
    }
    let Some(caller) = acting(state, &schedule.organization, &schedule.user_id).await? else {
        let said = format!("the user {} who has set it is gone: set it anew", schedule.user_name);
        return without(said.clone(), failures, Some(said));
    };
    match make(state, &caller, schedule, Some(schedule.slot_ms)).await {
        Ok(job) => {
            let next = next_of(schedule, now)?;
            Ok(Turn { at_ms: now, next, job: Some(job.id), said: None, failures, pauses: None })
        }
        // a stack has one job at a time, and what is under way looks at it too
        Err(failure) if failure.code == Code::Conflict => without(failure.message, failures, None),
        // it is nobody's fault but the control plane's, and is tried again
        Err(failure) if failure.code == Code::Internal || failure.code == Code::DiskFull => Err(failure),
        Err(failure) => {
            let failures = failures + 1;
            let why = (failures >= FAILURES_MAX).then(|| pauses(failures));
            without(format!("{}: {}", failure.code, failure.message), failures, why)
        }
    }
}

/// How many have failed, one after the other, the last job included, which has its end by now or does not count.
async fn failures_so_far(state: &ApiState, schedule: &Schedule) -> Result<i64, Failure> {
    let Some(id) = &schedule.last_job else { return Ok(schedule.failures) };
    match state.store.job(&schedule.organization, id).await {
        Ok(job) if matches!(job.phase, Phase::Failed | Phase::Lost) => Ok(schedule.failures + 1),
        Ok(job) if job.ended() => Ok(0),
        Ok(_) => Ok(schedule.failures),
        Err(failure) if failure.code == Code::NotFound => Ok(0),
        Err(failure) => Err(failure),
    }
}

/// Makes the job of a schedule, of one of its times or of now.
///
/// # Errors
/// `conflict` while a job of the stack is under way; those of any job.
pub(super) async fn make(
    state: &ApiState,
    caller: &Caller,
    schedule: &Schedule,
    slot: Option<i64>,
) -> Result<Job, Failure> {
    let idempotency = slot.map(|slot| {
        let key = format!("{}-{}", schedule.id, slot / 1000);
        let asked_sha256 = Sha256::digest(&key).to_vec();
        Idempotency { key, asked_sha256 }
    });
    // of this very time it was made, and nobody lived to note it
    if let Some(idempotency) = &idempotency
        && let Some(job) = state.store.job_made(caller.org(), &caller.user().name, idempotency).await?
    {
        return Ok(job);
    }
    let open = state.store.open_jobs(caller.org()).await?.into_iter().find(|job| job.stack == schedule.stack);
    if let Some(job) = open {
        let message = format!("skipped: job {} of stack {} is {}", job.id, schedule.stack_name, job.phase.as_str());
        return Err(Code::Conflict.on(message).next("Wait until it has ended, or cancel it."));
    }
    let body = match schedule.does {
        Does::Drift => NewJobBody { preview_only: true, ..NewJobBody::of(JobKind::Refresh) },
        Does::Preview => NewJobBody::of(JobKind::Preview),
        Does::Update => NewJobBody::of(JobKind::Update),
        Does::Reconcile => NewJobBody { reconcile: true, ..NewJobBody::of(JobKind::Update) },
    };
    let stack = state.store.stack(caller.org(), &schedule.stack).await?;
    make_job(state, caller, stack, body, idempotency, Some(format!("schedule {}", schedule.name))).await
}

/// The user for whom something is done that was set up before; `None`: there is none of that id any more.
///
/// # Errors
/// `internal`.
pub(super) async fn acting(state: &ApiState, organization: &str, user: &str) -> Result<Option<Caller>, Failure> {
    let user = state.store.user(organization, user).await?;
    acting_as(state, organization, user).await
}

/// That user, in that organization.
///
/// # Errors
/// `internal`.
pub(super) async fn acting_as(
    state: &ApiState,
    organization: &str,
    user: Option<User>,
) -> Result<Option<Caller>, Failure> {
    let Some(user) = user else { return Ok(None) };
    Ok(Some(Caller::acting(user, state.store.organization(organization).await?)))
}

/// The first time that comes after that moment: as the line has it, and with the stack's part of the jitter.
///
/// # Errors
/// `invalid_argument` where the calendar ends before.
pub(super) fn next(cron: &Cron, offset: Offset, stack: &str, jitter_s: i64, now: i64) -> Result<(i64, i64), Failure> {
    let part = part_of(stack, jitter_s);
    let slot = cron.after(now.saturating_sub(part), offset);
    slot.map(|slot| (slot, slot + part)).ok_or_else(|| Code::InvalidArgument.on("cron: there is no such time any more"))
}

/// The same of a schedule that is there.
///
/// # Errors
/// `internal` where it does not read back.
pub(super) fn next_of(schedule: &Schedule, now: i64) -> Result<(i64, i64), Failure> {
    let unreadable = |why: String| Code::Internal.on(format!("schedule {} does not read back: {why}", schedule.id));
    let cron: Cron = schedule.cron.parse().map_err(unreadable)?;
    let offset: Offset = schedule.utc_offset.parse().map_err(unreadable)?;
    next(&cron, offset, &schedule.stack, schedule.jitter_s, now)
}

/// A stack's part of a jitter, milliseconds: always the same, and another one for each stack.
fn part_of(stack: &str, jitter_s: i64) -> i64 {
    let digest = Sha256::digest(stack);
    let number = digest.iter().take(7).fold(0, |n: i64, byte| n << 8 | i64::from(*byte));
    number % (jitter_s.max(0) * 1000 + 1)
}

fn cut(mut text: String) -> String {
    let mut end = text.len().min(SAID_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_spread_and_each_keeps_its_part() {
        let parts: Vec<_> = (0..200).map(|n| part_of(&format!("stk_{n}"), 300)).collect();
        assert!(parts.iter().all(|part| (0..=300_000).contains(part)));
        for fifth in 0..5 {
            let within = parts.iter().filter(|part| (fifth * 60_000..(fifth + 1) * 60_000).contains(*part)).count();
            assert!(within > 15, "{fifth}: {within}");
        }
        assert_eq!(part_of("stk_1", 300), part_of("stk_1", 300));
        assert_eq!(part_of("stk_1", 0), 0);
    }

    #[test]
    fn each_time_of_a_line_comes_once_whatever_the_jitter() {
        let cron: Cron = "* * * * *".parse().expect("a line");
        for jitter in [0, 60, 300, 3600] {
            let mut now = 1_767_571_200_000;
            let mut last = None;
            for _ in 0..50 {
                let (slot, due) = next(&cron, Offset::default(), "stk_1", jitter, now).expect("a time");
                assert!(due > now && due - slot <= jitter * 1000, "{jitter}");
                assert!(last.is_none_or(|last| slot == last + 60_000), "{jitter}");
                (now, last) = (due, Some(slot));
            }
        }
    }
}
