//! Events as runners report them: stored once by number, and what they say of the job, in one transaction.

use super::super::{Store, broken, not_found, notices};
use super::hand_out::fenced;
use super::{Job, JobEnd, KnownLock, Phase, Plan, drift, follow_ons, has_applied, may_have_applied, plans, read};
use crate::isolation;
use prost::Message as _;
use shared_proto::failure::{Code, Failure};
use shared_proto::rules::{BY_POLICY, Judgement};
use shared_proto::v1::event::Body;
use shared_proto::{bounds, now_ms, v1};

/// Events in one report.
const EVENTS_MAX: usize = 16_384;
/// What the events of one job may take, bytes. Beyond it the engine's words are kept by number only.
const JOB_EVENTS_MAX: i64 = 64 * 1024 * 1024;
/// What one text taken from events into the job may take, bytes.
const TEXT_MAX: usize = 512 * 1024;
/// Names of what a job could not take out of its events.
const NOT_REDACTED_MAX: usize = 512;
/// Of each part of what is told of a lock, bytes.
const LOCK_PART_MAX: usize = 1024;

/// What became of a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    /// The newest number that is stored.
    pub acknowledged: u64,
    /// Why not all of it was taken.
    pub refused: Option<Failure>,
    /// The job after it.
    pub job: Job,
    /// Whether something was stored.
    pub news: bool,
}

/// What events change of a job's row.
struct Story {
    job: Job,
    plan: Option<Plan>,
    /// Parts of the plan as a document.
    parts: Vec<v1::PlanPart>,
    /// The runner waits for someone's decision.
    waits: bool,
    /// It does not: its own policy lets the plan be applied.
    by_policy: bool,
    /// It has begun to apply.
    applies: bool,
    /// It ended without anybody knowing what it did last.
    unclear: bool,
    end: Option<(Phase, JobEnd)>,
}

impl Store {
    /// Stores what is new of a report.
    ///
    /// # Errors
    /// `not_found`, `fenced`, `too_large`.
    pub async fn report_events(
        &self,
        organization: &str,
        runner: &str,
        report: &v1::ReportRequest,
    ) -> Result<Reported, Failure> {
        let failed = broken("storing events");
        if report.events.len() > EVENTS_MAX {
            return Err(
                Code::TooLarge.on(format!("a report has {} events, the limit is {EVENTS_MAX}", report.events.len()))
            );
        }
        let mut transaction = self.writing().await.map_err(&failed)?;
        let job = read(&mut transaction, organization, &report.job_id).await?;
        if job.runner != runner {
            return Err(not_found("job", &report.job_id));
        }
        if !job.accepted {
            // it was after the back-up that this is a copy of, or nobody says the truth: its instance presents it
            return Err(Code::NotFound.on(format!("nobody accepted job {} here", job.id)));
        }
        let own = job.instance.as_deref() == Some(report.instance_id.as_str());
        if !own || job.token() != report.fencing_token {
            return Err(fenced(&job));
        }
        let before = u64::try_from(job.last_sequence).unwrap_or(0);
        let was = job.phase;
        let mut bytes = job.event_bytes;
        let mut story = Story::new(job);
        let (mut last, mut refused) = (before, None);
        for event in report.events.iter().filter(|e| e.sequence > before) {
            if let Err(why) = follows(last, event, story.job.reported) {
                refused = Some(why);
                break;
            }
            let mut encoded = without_part(event).encode_to_vec();
            if bytes > JOB_EVENTS_MAX && is_words(event) {
                encoded = v1::Event { sequence: event.sequence, time_ms: event.time_ms, ..Default::default() }
                    .encode_to_vec();
            }
            bytes += i64::try_from(encoded.len()).unwrap_or(0);
            sqlx::query("INSERT INTO job_events (job, sequence, event) VALUES ($1, $2, $3)")
                .bind(&story.job.id)
                .bind(i64::try_from(event.sequence).unwrap_or(i64::MAX))
                .bind(encoded)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
            last = event.sequence;
            if let Some(body) = &event.body {
                story.tell(body);
            }
        }
        if last == before {
            return Ok(Reported { acknowledged: last, refused, job: story.job, news: false });
        }
        if let Some(summary) = plans::take(&mut transaction, &story.job.id, std::mem::take(&mut story.parts)).await? {
            story.plan.get_or_insert_default().summary = Some(summary);
        }
        let (applies, unclear) = (story.applies, story.unclear);
        let (job, ended) = story.close();
        sqlx::query(
            "UPDATE jobs SET phase = $2, revision = $3, plan = $4, outputs = $5, result = $6, reported = $7, \
             last_sequence = $8, event_bytes = $9, approved_by = $10, ended_at_ms = COALESCE(ended_at_ms, $11), \
             plan_text = $12, isolation_level = $13, redacted = $14, not_redacted = $15, applied = $16, restored_at_ms = NULL WHERE id = $1",
        )
        .bind(&job.id)
        .bind(job.phase)
        .bind(&job.revision)
        .bind(&job.plan)
        .bind(&job.outputs)
        .bind(&job.result)
        .bind(job.reported)
        .bind(i64::try_from(last).unwrap_or(i64::MAX))
        .bind(bytes)
        .bind(&job.approved_by)
        .bind(ended.then(now_ms))
        .bind(&job.plan_text)
        .bind(&job.isolation_level)
        .bind(job.redacted)
        .bind(&job.not_redacted)
        .bind(job.applied)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        let job = read(&mut transaction, organization, &job.id).await?;
        if applies {
            has_applied(&mut transaction, &job).await?;
        } else if unclear {
            may_have_applied(&mut transaction, &job).await?;
        }
        let drifted = if ended { drift::look(&mut transaction, &job).await? } else { None };
        if ended {
            follow_ons::note(&mut transaction, &job).await?;
        }
        notices::write(&mut transaction, &job, was, drifted).await?;
        transaction.commit().await.map_err(&failed)?;
        Ok(Reported { acknowledged: last, refused, job, news: true })
    }
}

/// Whether an event is the next one, and may be stored at all.
fn follows(last: u64, event: &v1::Event, reported: bool) -> Result<(), Failure> {
    if event.sequence != last + 1 {
        return Err(Code::InvalidArgument.on(format!("event {} follows event {last}", event.sequence)));
    }
    if reported {
        return Err(Code::InvalidArgument.on(format!("event {} follows the job's result", event.sequence)));
    }
    // its tags and its number come on top
    if event.encoded_len() > bounds::EVENT_MAX + 1024 {
        return Err(Code::TooLarge.on(format!(
            "event {} takes {} bytes, the limit is {}",
            event.sequence,
            event.encoded_len(),
            bounds::EVENT_MAX
        )));
    }
    Ok(())
}

/// Whether an event only carries what the engine said: nothing else depends on it.
fn is_words(event: &v1::Event) -> bool {
    matches!(
        event.body,
        Some(Body::OutputLine(_) | Body::EngineMessage(_) | Body::ResourceProgress(_) | Body::PlannedChange(_))
    )
}

/// The event as it is kept: a part of a plan is kept with the plan.
fn without_part(event: &v1::Event) -> std::borrow::Cow<'_, v1::Event> {
    match &event.body {
        Some(Body::PlanPart(part)) => {
            let body = Some(Body::PlanPart(v1::PlanPart { json: String::new(), ..*part }));
            std::borrow::Cow::Owned(v1::Event { body, ..event.clone() })
        }
        _ => std::borrow::Cow::Borrowed(event),
    }
}

// === impl Story ===

impl Story {
    fn new(job: Job) -> Self {
        let plan = job.plan();
        Self { job, plan, parts: Vec::new(), waits: false, by_policy: false, applies: false, unclear: false, end: None }
    }

    fn phase(&mut self, name: &str, detail: &str) {
        match Phase::from_name(name) {
            Some(Phase::Applying) => {
                self.applies = true;
                self.forward(Phase::Applying);
            }
            Some(Phase::AwaitingApproval) => {
                self.waits = true;
                self.by_policy = detail == BY_POLICY;
                self.forward(Phase::Planned);
            }
            Some(phase @ (Phase::Preparing | Phase::Planning | Phase::Planned)) => self.forward(phase),
            // its ends come with the result
            _ => {}
        }
    }

    fn tell(&mut self, body: &Body) {
        match body {
            Body::PhaseChanged(changed) => {
                if let Some(level) = isolation::level(&changed.isolation_level) {
                    let weakest = isolation::weaker(self.job.isolation_level.as_deref(), level);
                    self.job.isolation_level = Some(weakest.to_owned());
                }
                self.phase(&changed.phase, &changed.detail);
            }
            Body::SourceResolved(source) => self.job.revision = Some(cut(&source.revision, 1024)),
            Body::PlanPart(part) => self.parts.push(part.clone()),
            Body::PlanSaved(saved) => {
                let plan = self.plan.get_or_insert_default();
                plan.sha256 = cut(&saved.sha256, 128);
                plan.has_changes = saved.has_changes;
                plan.text = cut(&saved.text, TEXT_MAX);
            }
            Body::PlanJudged(judged) => {
                let mut judgement: Judgement = serde_json::from_str(&judged.json).unwrap_or_default();
                judgement.cut();
                // what is decided by is the event's own
                (judgement.approvals, judgement.denied) = (judged.approvals, judged.denied);
                let plan = self.plan.get_or_insert_default();
                (plan.judgement, plan.approvers) = (Some(judgement), Vec::new());
            }
            Body::ChangeSummary(summary) if self.job.phase < Phase::Applying && summary.operation != "apply" => {
                let plan = self.plan.get_or_insert_default();
                (plan.add, plan.change, plan.remove) = (summary.add, summary.change, summary.remove);
            }
            Body::Outputs(outputs) => self.job.outputs = Some(cut(&outputs.json, TEXT_MAX)),
            Body::Redacted(redacted) => {
                let count = i64::try_from(redacted.count).unwrap_or(i64::MAX);
                self.job.redacted = Some(self.job.redacted.unwrap_or(0).saturating_add(count));
                let mut names = self.job.not_redacted();
                names.extend(redacted.not_redacted.iter().take(NOT_REDACTED_MAX).map(|name| cut(name, 256)));
                let names: Vec<_> = names.into_iter().take(NOT_REDACTED_MAX).collect();
                // what does not become JSON cannot be: they are texts
                self.job.not_redacted = serde_json::to_string(&names).ok();
            }
            Body::Result(result) => {
                self.job.reported = true;
                let code = Code::from_name(&result.code);
                self.unclear = matches!(code, Some(Code::JobLost | Code::SpoolDamaged | Code::WorkerCrashed));
                // a worker may say what it likes, and only what there is becomes a code
                let (name, message) = match code {
                    Some(code) => (code.as_str(), cut(&result.message, 16 * 1024)),
                    None if result.code == "ok" => ("ok", cut(&result.message, 16 * 1024)),
                    None => {
                        let known = Failure::from_wire(&cut(&result.code, 128), &result.message, "");
                        (known.code.as_str(), cut(&known.message, 16 * 1024))
                    }
                };
                let end = JobEnd {
                    code: name.to_owned(),
                    message,
                    next_step: cut(&result.next_step, 4 * 1024),
                    engine_exit_code: result.engine_exit_code,
                    engine_signal: cut(&result.engine_signal, 64),
                    rescued_state: cut(&result.rescued_state, 4 * 1024),
                    nothing_left: result.nothing_left,
                    lock: result.lock.as_ref().map(|lock| KnownLock {
                        id: cut(&lock.id, LOCK_PART_MAX),
                        path: cut(&lock.path, LOCK_PART_MAX),
                        operation: cut(&lock.operation, LOCK_PART_MAX),
                        who: cut(&lock.who, LOCK_PART_MAX),
                        version: cut(&lock.version, LOCK_PART_MAX),
                        created: cut(&lock.created, LOCK_PART_MAX),
                        created_ms: lock.created_ms,
                        job: cut(&lock.job, LOCK_PART_MAX),
                        holder_gone: lock.holder_gone,
                    }),
                    applied: result.applied,
                };
                let phase = match Phase::from_name(&result.phase) {
                    Some(phase) if phase >= Phase::Applied || phase == Phase::Planned => phase,
                    _ => Phase::Failed,
                };
                self.end = Some((phase, end));
            }
            _ => {}
        }
    }

    /// Phases only go forward: what a user decided is not undone by what was on its way.
    fn forward(&mut self, phase: Phase) {
        if !self.job.ended() && phase > self.job.phase {
            self.job.phase = phase;
        }
    }

    /// The row as it is to be; whether the job has ended.
    fn close(mut self) -> (Job, bool) {
        if let Some(plan) = &mut self.plan {
            self.job.plan_text = Some(std::mem::take(&mut plan.text));
            // what does not become JSON cannot be: the plan is made of numbers and texts
            self.job.plan = serde_json::to_string(plan).ok();
        }
        // one that ended here already (discarded, cancelled while it waited) stays what the user made it; where it was only thought to be
        // lost (a user who gives it up fences it off) its own result counts
        let thought_lost = self.job.phase == Phase::Lost && self.end.is_some();
        if self.job.ended() && !thought_lost {
            return (self.job, false);
        }
        if let Some((phase, end)) = self.end {
            self.job.phase = phase;
            self.job.applied = end.applied;
            self.job.result = serde_json::to_string(&end).ok();
            return (self.job, true);
        }
        let open = self.job.phase == Phase::Planned && self.job.approved_by.is_none();
        if self.waits && open && self.job.applies() {
            let wants_people = self.plan.as_ref().is_some_and(|plan| plan.wanted() > 0);
            if self.job.approve_automatically && !wants_people {
                self.job.approved_by = Some(self.job.created_by.clone());
                self.job.phase = Phase::Applying;
            } else if self.job.reconcile && self.by_policy && !wants_people {
                self.job.approved_by = Some(BY_POLICY.to_owned());
                self.job.phase = Phase::Applying;
            } else {
                self.job.phase = Phase::AwaitingApproval;
            }
        }
        (self.job, false)
    }
}

/// A text of at most so many bytes.
fn cut(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
