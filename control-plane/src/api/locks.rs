//! Who holds the lock of a stack's state, as far as that can be proven: by what jobs of that stack have told.
//!
//! A state's lock is one at a time, and one that is there now has been there since it was made. So where an engine of ours had the lock at
//! some moment after this one was made, this one is that engine's: while it was another's, ours could not have had it. What only the lock's
//! holder can tell (a resource that is read or changed, a planned change) proves such a moment; whether that engine is still there its runner
//! has told, or has not. (Whoever removes a lock by force while its holder is at work takes that proof away.) Whatever is not proven so is somebody's of whom nothing is known here: never said to be dead. Of a lock in a
//! runner's own store that runner says it itself: it gives out each one, and serves one job of a stack at a time.

use super::{ApiError, ApiState, Caller, Named, Routes};
use crate::sessions::Presence;
use crate::store::{Job, JobEnd, JobKind, KnownLock, Phase, Stack};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use shared_proto::failure::{Code, Failure};
use shared_proto::identity::rfc3339;
use shared_proto::v1;
use shared_proto::v1::event::Body;
use utoipa::{OpenApi, ToSchema};

/// Jobs of a stack that are looked through, and of the organization's others.
const JOBS_LOOKED_AT: u32 = 50;
/// Events of a job that are read at once, and how often: what comes after proves nothing any more.
const EVENTS_AT_ONCE: u32 = 500;
const EVENTS_READ: u32 = 200;
/// Jobs of other stacks that are named.
const OTHERS_NAMED: usize = 3;
/// How an engine says that it could not let go of its lock.
const NOT_RELEASED: &str = "Error releasing the state lock";

#[derive(OpenApi)]
#[openapi(paths(lock))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new().add("get", "/stacks/{stack}/lock", lock)
}

/// The lock of a stack's state.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct LockView {
    /// None: no job has found one since a job had it. There may be one all the same: its holder's.
    lock: Option<KnownLock>,
    /// The job that could not have it, or that has left it.
    found_by: Option<String>,
    /// The job at work that has asked for it, and has told of nothing since: it has the lock by now, or waits for whoever has it. Its runner is
    /// heard of.
    asked_by: Option<String>,
    /// Absent where nothing tells of a lock.
    holder: Option<Holder>,
}
/// Who holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Holder {
    verdict: Verdict,
    /// What that is concluded from.
    evidence: String,
    /// The job of this stack whose engine made it.
    job: Option<String>,
    /// Who made that job.
    person: Option<String>,
    /// The name of the runner that has it.
    runner: Option<String>,
    /// Which instance of that.
    instance_id: Option<String>,
    /// The name of the machine on which that engine was started.
    host: Option<String>,
    /// Since when nothing was heard of it, where its runner does not answer.
    silent_since_ms: Option<i64>,
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

/// One job of the stack, as far as it tells of locks.
#[derive(Debug, Clone, Default)]
struct Seen {
    id: String,
    person: String,
    runner: String,
    instance: String,
    phase: String,
    ended: bool,
    /// It ended as one whose engine had the lock and let go of it, or as one that removed what was there.
    had_it: bool,
    /// Its runner has told its end.
    reported: bool,
    end: JobEnd,
    /// Its runner asks for work now.
    heard: bool,
    /// When something was heard of it last.
    last_ms: i64,
    /// When it began to tell, by its runner's own clock: the one that the lock's holder had, if it was that.
    begun_ms: Option<i64>,
    commands: Vec<Command>,
}
/// One start of an engine that asks for the lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Command {
    name: String,
    host: String,
    from_ms: i64,
    /// When it told what only whoever has the lock can, first.
    had_ms: Option<i64>,
    /// What came after it: it has ended by itself.
    over: bool,
    /// It has said that it could not let go of its lock.
    kept: bool,
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
    const SURE: &str = "Make sure that nobody is at work on the state, then say so: --force, with the reason.";
    const ASK: &str = "Start a job of the stack: where the state is locked it says by which lock, and whose that is.";
    let known = known(state, stack).await?;
    let wait = |holder: &Holder| {
        let job = holder.job.as_deref().unwrap_or("JOB");
        format!("Wait for it, or stop it: `runnerctl job cancel {job}`.")
    };
    let (what, next) = match (&known.lock, &known.holder) {
        (Some(lock), Some(holder)) if lock.id == id => match holder.verdict {
            Verdict::Dead => return Ok(()),
            Verdict::Live => (format!("its holder is at work: {}", holder.evidence), wait(holder)),
            Verdict::CannotTell => {
                (format!("nothing proves that its holder has ended: {}", holder.evidence), SURE.to_owned())
            }
        },
        // what is named is not there: force would not make it so
        (Some(lock), _) => (
            format!("the lock that is known is another one, {}", lock.id),
            format!("Look whose that is, `runnerctl state lock {}`, and name it if it is meant.", stack.name),
        ),
        (None, Some(holder)) => match (holder.verdict, &known.asked_by) {
            (_, Some(job)) => (holder.evidence.clone(), format!("Wait until job {job} has it, or says whose it is.")),
            (Verdict::Live, None) => (format!("whoever has the lock is at work: {}", holder.evidence), wait(holder)),
            (Verdict::CannotTell, None) => (holder.evidence.clone(), SURE.to_owned()),
            (Verdict::Dead, None) => (holder.evidence.clone(), ASK.to_owned()),
        },
        (None, None) => ("no job has found the state locked since one had the lock".to_owned(), ASK.to_owned()),
    };
    Err(Code::Conflict.on(format!("the lock {id} is not removed: {what}")).next(next))
}

/// What the stack's jobs tell of its lock.
async fn known(state: &ApiState, stack: &Stack) -> Result<LockView, Failure> {
    let jobs = state.store.jobs(&stack.organization, Some(&stack.id), JOBS_LOOKED_AT).await?;
    let (mut seen, mut made_ms) = (Vec::new(), None);
    // an untrusted preview gets no lock where the state is the runner's, and reaches no other
    for job in jobs.iter().filter(|job| job.accepted && !reads(job.kind) && !job.untrusted) {
        let one = Seen::of(state, job).await?;
        // one that could not have it says which it is; who made it comes before
        let is_enough = match (made_ms, &one.end.lock) {
            (None, Some(lock)) => lock.created_ms == 0,
            (None, None) => one.had_it || one.has_had_it(),
            (Some(made_ms), _) => one.begun_ms.is_some_and(|begun| begun <= made_ms),
        };
        made_ms = made_ms.or(one.end.lock.as_ref().map(|lock| lock.created_ms));
        seen.push(one);
        if is_enough {
            break;
        }
    }
    let mut view = judged(&seen);
    if let (Some(lock), Some(holder)) = (&view.lock, &mut view.holder)
        && holder.job.is_none()
    {
        holder.evidence.push_str(&others(state, stack, lock.created_ms).await?);
    }
    Ok(view)
}

/// Whether it asks for no lock: what only reads a state.
const fn reads(kind: JobKind) -> bool {
    matches!(kind, JobKind::Outputs | JobKind::State | JobKind::Versions)
}

/// Which jobs of other stacks were at work when it was made: theirs may be the same state.
async fn others(state: &ApiState, stack: &Stack, made_ms: i64) -> Result<String, Failure> {
    let jobs = state.store.jobs(&stack.organization, None, JOBS_LOOKED_AT).await?;
    let was_at_work = |job: &&Job| {
        let from = job.started_at_ms.is_some_and(|from| from <= made_ms);
        made_ms > 0 && from && job.ended_at_ms.is_none_or(|until| made_ms <= until)
    };
    let all: Vec<_> = jobs
        .iter()
        .filter(|job| job.stack != stack.id && !reads(job.kind))
        .filter(was_at_work)
        .take(OTHERS_NAMED)
        .map(|job| format!("job {} of the stack {}, by {}", job.id, job.stack_name, job.created_by))
        .collect();
    if all.is_empty() {
        return Ok(String::new());
    }
    Ok(format!(" Of other stacks, which may have the same state, were at work then: {}.", all.join("; ")))
}

/// What jobs of a stack tell of its lock, the newest first.
fn judged(jobs: &[Seen]) -> LockView {
    // one that may have it, where nothing else is known, and one that may only wait for it
    let (mut maybe, mut asks) = (None, None);
    for (at, job) in jobs.iter().enumerate() {
        if let Some(lock) = &job.end.lock {
            // one that it has left itself is its own
            let before = if lock.job == job.id { &jobs[at..] } else { &jobs[at + 1..] };
            let holder = Some(holder(before, lock));
            let asked_by = asks.as_ref().and_then(asker);
            return LockView { lock: Some(lock.clone()), found_by: Some(job.id.clone()), asked_by, holder };
        }
        maybe = maybe.or_else(|| job.holds());
        asks = asks.or_else(|| job.asks());
        // one that was found before it is gone by then
        if job.had_it || job.has_had_it() {
            break;
        }
    }
    let asked_by = asks.as_ref().and_then(asker);
    let holder = match (maybe, asks) {
        // whoever had it before may have it still, or it is that one's by now
        (Some(before), Some(asks)) => {
            let evidence = format!("{}; before it {}", asks.evidence, before.evidence);
            Some(Holder { verdict: Verdict::CannotTell, evidence, ..before })
        }
        (before, asks) => before.or(asks),
    };
    LockView { holder, asked_by, ..LockView::default() }
}

/// The job of whoever asks, where it can be waited for.
fn asker(asks: &Holder) -> Option<String> {
    asks.job.clone().filter(|_| asks.silent_since_ms.is_none())
}

/// Whose a lock is that a job could not have, by the jobs before that one.
fn holder(before: &[Seen], lock: &KnownLock) -> Holder {
    if lock.holder_gone {
        let evidence = format!(
            "the runner's own store gave it to the engine of job {}, and nobody serves that job any more",
            lock.job
        );
        return match before.iter().find(|job| job.id == lock.job) {
            Some(job) => Holder { evidence, verdict: Verdict::Dead, silent_since_ms: None, ..job.holder(None) },
            None => Holder { job: Some(lock.job.clone()), ..Holder::nobody(Verdict::Dead, evidence) },
        };
    }
    // the runner's own store, where that is in no folder, says who serves it
    if let Some(job) = before.iter().find(|job| job.id == lock.job) {
        return job.judged(None, &format!("the runner's own store is claimed by job {} of this stack", job.id));
    }
    if lock.created_ms == 0 {
        return Holder::nobody(Verdict::CannotTell, "the engine did not say when it was made".into());
    }
    for job in before {
        let Some(command) = job.commands.iter().find(|command| job.had(command, lock)) else { continue };
        return job.made(command, "made it: it has told since of what only whoever has the lock can");
    }
    let by = if lock.who.is_empty() { String::new() } else { format!(" It says that it is of {}.", lock.who) };
    let at_work = before.iter().find(|job| {
        let until = if job.ended { job.last_ms } else { i64::MAX };
        job.begun_ms.is_some_and(|begun| begun <= lock.created_ms && lock.created_ms <= until)
    });
    let evidence = match at_work {
        Some(job) => format!(
            "job {} of this stack was at work when it was made ({}), and nothing that it told proves that its engine had the lock.{by}",
            job.id, lock.created
        ),
        None => format!("no job of this stack was at work when it was made ({}).{by}", lock.created),
    };
    Holder::nobody(Verdict::CannotTell, evidence)
}

// === impl Holder ===

impl Holder {
    fn nobody(verdict: Verdict, evidence: String) -> Self {
        let (job, person, runner, instance_id, host) = (None, None, None, None, None);
        Self { verdict, evidence, job, person, runner, instance_id, host, silent_since_ms: None }
    }
}

// === impl Seen ===

impl Seen {
    async fn of(state: &ApiState, job: &Job) -> Result<Self, Failure> {
        let end: Option<JobEnd> = job.result.as_deref().and_then(|end| serde_json::from_str(end).ok());
        let instance = job.instance.clone().unwrap_or_default();
        let mut seen = Self {
            id: job.id.clone(),
            person: job.created_by.clone(),
            phase: job.phase.as_str().to_owned(),
            ended: job.ended(),
            had_it: job.has_applied(),
            reported: job.reported,
            end: end.unwrap_or_default(),
            heard: state.jobs.hears(&job.runner, &instance),
            instance,
            ..Self::default()
        };
        let mut last = 0;
        for _ in 0..EVENTS_READ {
            let page = state.store.job_events(&job.organization, &job.id, last, EVENTS_AT_ONCE).await?;
            let Some(newest) = page.last() else { break };
            last = newest.sequence;
            page.iter().for_each(|event| seen.hear(event));
        }
        // whose plan is its end
        let has_planned = matches!(job.phase, Phase::NoChanges | Phase::Planned) && job.ended();
        seen.had_it |= has_planned && (!seen.commands.is_empty() || job.events_removed_at_ms.is_some());
        let runner = state.store.runner(&job.organization, &job.runner).await?;
        if state.sessions.presence(&job.organization, &job.runner) == Presence::Absent {
            seen.last_ms = seen.last_ms.max(runner.last_seen_ms.unwrap_or(0));
        }
        seen.runner = runner.name;
        Ok(seen)
    }

    /// Takes what the job has told.
    fn hear(&mut self, event: &v1::Event) {
        self.begun_ms.get_or_insert(event.time_ms);
        self.last_ms = self.last_ms.max(event.time_ms);
        let command = self.commands.last_mut().filter(|command| !command.over);
        match (&event.body, command) {
            (Some(Body::EngineStarted(started)), before) => {
                if let Some(before) = before {
                    before.over = true;
                }
                // Pulumi looks at what it would do without any lock
                let asks = match started.command.as_str() {
                    "apply" => true,
                    "plan" => started.engine != "pulumi",
                    _ => false,
                };
                if asks {
                    self.commands.push(Command {
                        name: started.command.clone(),
                        host: started.host.clone(),
                        from_ms: event.time_ms,
                        ..Command::default()
                    });
                }
            }
            (Some(Body::PlanSaved(_)), Some(command)) => command.over = true,
            (Some(Body::ResourceProgress(_) | Body::PlannedChange(_) | Body::ChangeSummary(_)), Some(command)) => {
                command.had_ms.get_or_insert(event.time_ms);
            }
            (Some(Body::Diagnostic(said)), Some(command)) => command.kept |= said.summary == NOT_RELEASED,
            _ => {}
        }
    }

    /// Whether a command of its engine had the lock after that one was made, and has not let go of it by itself.
    fn had(&self, command: &Command, lock: &KnownLock) -> bool {
        // who made it said it in whole seconds
        let from = if lock.created_ms % 1000 == 0 { command.from_ms / 1000 * 1000 } else { command.from_ms };
        let is_between = command.had_ms.is_some_and(|had| from <= lock.created_ms && lock.created_ms <= had);
        let host = lock.who.rsplit_once('@').and_then(|(_, host)| host.split_whitespace().next());
        let is_elsewhere = host.is_some_and(|host| !command.host.is_empty() && host != command.host);
        is_between && !is_elsewhere && !self.let_go(command)
    }
    /// Whether a command has ended by itself, and said nothing of a lock that it could not let go of.
    fn let_go(&self, command: &Command) -> bool {
        let by_itself = command.over || (self.ended && matches!(self.end.engine_exit_code, Some(0 | 1)));
        by_itself && !command.kept
    }

    /// Whether a command of its engine has had the lock, whatever became of it since.
    fn has_had_it(&self) -> bool {
        self.commands.iter().any(|command| command.had_ms.is_some())
    }
    /// Who has the lock, or has left it, where it is this job and nobody has found it.
    fn holds(&self) -> Option<Holder> {
        let command = self.commands.last().filter(|command| !self.had_it && !self.let_go(command))?;
        command.had_ms?;
        let since = if command.kept { "could not let go of it" } else { "has told of nothing that let go of it" };
        Some(self.made(command, &format!("has had the lock, and {since}")))
    }
    /// Who has asked for the lock, where it is this job and nothing tells whether it has got it.
    fn asks(&self) -> Option<Holder> {
        let last = self.commands.last();
        let command = last.filter(|command| !self.ended && command.had_ms.is_none() && !self.let_go(command))?;
        let asked = self.made(command, "has asked for the lock: it has it, or waits for it");
        Some(Holder { verdict: Verdict::CannotTell, ..asked })
    }

    /// Whether the holder of a lock that this command made is still there. `did`: how that is known.
    fn made(&self, command: &Command, did: &str) -> Holder {
        let on = if command.host.is_empty() { String::new() } else { format!(" on {}", command.host) };
        let who = format!("the engine ({}{on}) of job {} of this stack {did}", command.name, self.id);
        self.judged(Some(command), &who)
    }

    /// Whether this job is still there, or that command of it. `who`: what has the lock.
    fn judged(&self, command: Option<&Command>, who: &str) -> Holder {
        let holder = self.holder(command);
        let (verdict, how) = match holder.silent_since_ms {
            _ if self.ended => self.ending(),
            None => (Verdict::Live, format!("the job is at work still ({})", self.phase)),
            Some(since) => {
                let since = rfc3339(since / 1000);
                (
                    Verdict::CannotTell,
                    format!("its runner, which would tell its end, has not been heard of since {since}"),
                )
            }
        };
        Holder { verdict, evidence: format!("{who}; {how}"), ..holder }
    }

    /// What is known of the engine of a job that has ended.
    fn ending(&self) -> (Verdict, String) {
        let JobEnd { code, engine_signal, engine_exit_code, nothing_left, .. } = &self.end;
        let phase = &self.phase;
        let unseen = [Code::JobLost, Code::SpoolDamaged, Code::WorkerCrashed].iter().any(|c| c.as_str() == code);
        if self.reported && *nothing_left {
            let how = format!("its runner has looked: nothing of that job runs any more ({phase}, {code})");
            return (Verdict::Dead, how);
        }
        if !self.reported || unseen || phase == Phase::Lost.as_str() {
            return (Verdict::CannotTell, format!("nobody has seen how that engine ended ({phase}, {code})"));
        }
        let how = match (engine_signal.as_str(), engine_exit_code) {
            ("", None) => "has told its end, and that nothing of it is left".to_owned(),
            ("", Some(code)) => format!("has seen that engine end with exit code {code}"),
            (signal, _) => format!("has seen that engine ended by {signal}"),
        };
        (Verdict::Dead, format!("its runner {how} ({phase}, {code})"))
    }

    /// Who it is.
    fn holder(&self, command: Option<&Command>) -> Holder {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let command = command.or(self.commands.last());
        Holder {
            verdict: Verdict::CannotTell,
            evidence: String::new(),
            job: some(&self.id),
            person: some(&self.person),
            runner: some(&self.runner),
            instance_id: some(&self.instance),
            host: command.and_then(|command| some(&command.host)),
            silent_since_ms: (!self.ended && !self.heard).then_some(self.last_ms),
        }
    }
}

#[cfg(test)]
#[path = "locks_tests.rs"]
mod tests;
