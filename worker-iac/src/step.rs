//! One step of a job from top to bottom: plan (source, init, plan, show), apply (that very plan, outputs), outputs. How it ends is
//! in the spool: a result, or `awaiting_approval`, after which another process goes on.

use crate::cancel::{self, Cancel, Watcher};
use crate::control;
use crate::engine::asked::Asked;
use crate::engine::choice::Choice;
use crate::engine::dialect::{self, Family, Place, Plan};
use crate::engine::followed::Followed;
use crate::engine::{Engine, Parts, environment, imports, plan_in, private_folder, pulumi, state};
use crate::first;
use crate::hooks::{Applied, Call, Hooks};
use crate::journal::{self, Journal, cut};
use crate::limits::Limits;
use crate::masks::Masks;
use crate::plan::{Judged, Shown};
use crate::process::{self, Environment};
use crate::rules::{Job, Rules};
use crate::secrets::Secrets;
use crate::source::access::{self, Access};
use crate::source::{self, Places};
use crate::stop::{Exit, Stop, Stopped, io_failure};
use crate::store::keeper::Keeper;
use crate::store::server::Serving;
use crate::variables::{self, Given};
use runner_worker_iac::redaction::Redaction;
use sha2::{Digest as _, Sha256};
use shared_proto::begun::Begun;
use shared_proto::failure::{Code, Failure};
use shared_proto::hooks::Hook;
use shared_proto::rules::{BY_POLICY, Judgement, others};
use shared_proto::secret::Secret;
use shared_proto::spool::SpoolError;
use shared_proto::states::{Held, Key, left_in_words, unlock_in_words};
use shared_proto::v1::event::Body;
use shared_proto::v1::{
    EngineRead, JobBound, JobKind, JobRequest, JobResult, JobStart, PhaseChanged, PlanJudged, PlanSaved, Redacted,
    StateLock, StatePlace, StateVersion,
};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// What a job of an untrusted source is not given is named so far, and the rest is counted: a note stays one line.
const NAMED_MAX: usize = 100;
/// Between asking and forcing, where the job does not say.
const GRACE_DEFAULT: Duration = Duration::from_secs(300);
/// The most of a plan's rendering that stands in its event; the whole of a longer one goes before it, line by line.
const PLAN_TEXT_IN_EVENT: usize = 56 * 1024;
/// A piece of a longer rendering, bytes.
const PLAN_TEXT_PIECE: usize = 32 * 1024;
/// What is read of the refused connections, bytes.
const REFUSALS_MAX: u64 = 8192;
/// The largest state that is rescued, bytes.
const RESCUED_MAX: u64 = shared_proto::states::STATE_MAX as u64;
/// How long the last notices may take to reach who is connected.
const GOODBYE: Duration = Duration::from_millis(200);

/// How a step ended that was not stopped.
enum End {
    /// With the job's result.
    Result(&'static str, String),
    /// The plan waits for its approval.
    Waiting,
}

/// What a step has at hand.
struct Step {
    start: JobStart,
    request: JobRequest,
    work: PathBuf,
    tmp: PathBuf,
    journal: Journal,
    cancel: Watcher,
    /// What is taken out of the events.
    masks: Masks,
    /// What is secret and cannot be taken out of them.
    not_redacted: Vec<String>,
    /// What a worker before this one has started.
    followed: Option<Followed>,
    /// What has a listener outlive this process.
    keeper: Option<Keeper>,
    /// The state, where that is in the runner's own store.
    serving: Option<Serving>,
    /// What its engine has left of its lock, as a sentence at the end of what is told of the job.
    lock_left: String,
    /// That one, where it is in the runner's own store.
    lock: Option<StateLock>,
    /// Where that store is, if not in the stack's folder; with the credentials of now.
    place: watch::Receiver<Option<StatePlace>>,
    /// The hooks of the stack, where it has some that this step is to run.
    hooks: Option<Hooks>,
}

/// How a worker begins.
#[derive(Debug)]
pub(crate) enum Begin {
    /// It was told what to do.
    Told(Box<JobStart>),
    /// It follows one that was ended by this signal, and is told what that one was told once a supervisor is there.
    Follows(i32, Box<Followed>),
}

/// Runs the step that the request asks for, in the working directory.
///
/// # Errors
/// Only what keeps its end from being written down; everything else is in the spool.
pub(crate) async fn run(begin: Begin, keeper: Option<Keeper>) -> Result<(), SpoolError> {
    let work = std::env::current_dir()?;
    let tmp = work.join("tmp");
    let private = private_folder(&tmp);
    let (next, read) = match &begin {
        Begin::Told(start) => {
            process::forget();
            (start.next_sequence, EngineRead::default())
        }
        // all that there is was written by workers before it
        Begin::Follows(_, followed) => (1, followed.read),
    };
    let (redaction, secret) = watch::channel(Redaction::default());
    let (journal, progress, closing) = journal::open(Path::new("events"), &tmp.join("reserve"), secret, next, read)?;
    let (asker, mut cancel) = cancel::pair();
    let waits = matches!(begin, Begin::Follows(..));
    let (told, told_rx) = watch::channel(control::Told { waits, step_ended: None });
    let (starts, mut started) = mpsc::channel(1);

    let server = match control::listen(Path::new(control::PATH)) {
        Ok(listener) => {
            let passed = control::Passed { asker: asker.clone(), starts };
            let serving = control::serve(listener, passed, progress.appended.clone(), told_rx);
            Some(tokio::spawn(serving))
        }
        Err(e) => {
            // the job goes on: it is read from its spool, and stopped by SIGTERM
            journal.note(format!("The control socket cannot be opened: {e}")).await;
            None
        }
    };
    let signals = tokio::spawn(stop_on_signal(asker.clone()));
    let mut failed = progress.failed.clone();
    let limited = asker.clone();
    let full = tokio::spawn(async move {
        // what cannot be written down must not go on
        if failed.wait_for(Option::is_some).await.is_ok() {
            asker.ask("the spool cannot be written", false);
        }
    });

    let (start, followed, by) = match begin {
        Begin::Told(start) => (*start, None, 0),
        Begin::Follows(by, mut followed) => {
            let start = wait_for_start(&mut started, &mut cancel, &mut followed).await;
            told.send_modify(|t| t.waits = false);
            (*start, Some(*followed), by)
        }
    };
    let (request, step_name) = (start.request.clone().unwrap_or_default(), start.step.clone());
    let limits = match &followed {
        Some(_) => Limits::since(&start.limits.unwrap_or_default(), &step_name, Path::new("events")),
        None => Limits::from_now(&start.limits.unwrap_or_default(), &step_name),
    };
    let limits = tokio::spawn(limits.keep(progress.appended.clone(), limited));
    let masks = Masks::new(redaction);
    masks.set(variables::all(&start, &request).chain(beside_variables(&start)));
    let (places, place) = watch::channel(start.state_place.clone());
    let renewing = tokio::spawn(renewals(started, masks.clone(), tmp.clone(), journal.clone(), places));
    if followed.is_some() {
        let by = Exit::Signal(by).signal_name();
        journal
            .note(format!("The job's worker was ended by {by}; another one goes on with what it had started."))
            .await;
    }
    let not_redacted = environment::not_redacted(&start.targets).collect();
    let (tmp_too, journal_too) = (tmp.clone(), journal.clone());
    let mut step = Step {
        start,
        request,
        work,
        tmp: tmp_too,
        journal: journal_too,
        cancel,
        masks,
        not_redacted,
        followed,
        keeper,
        serving: None,
        lock_left: String::new(),
        lock: None,
        place,
        hooks: None,
    };
    let ended = match private {
        Ok(()) => step.perform().await,
        Err(failure) => Err(failure.into()),
    };
    limits.abort();
    renewing.abort();
    let ended = step.leave_state(ended).await;
    step.record_end(ended).await;
    drop(step);
    // credentials and what else was there for a while
    let _ = std::fs::remove_dir_all(&tmp);
    drop(journal);
    full.abort();
    let written = closing.wait().await;
    told.send_replace(control::Told { step_ended: Some(step_name), waits: false });
    if server.is_some() {
        tokio::time::sleep(GOODBYE).await;
    }
    for task in server.into_iter().chain([signals]) {
        task.abort();
    }
    written
}

/// The secrets of a step that are in none of its variables.
fn beside_variables(start: &JobStart) -> impl Iterator<Item = &str> {
    let of_connections = environment::secrets(&start.targets).chain(secrets_of(start.state_place.as_ref()));
    of_connections.chain(access::secrets(start)).chain(start.former.iter().map(String::as_str))
}

/// The secrets of the place of states.
fn secrets_of(place: Option<&StatePlace>) -> impl Iterator<Item = &str> {
    place.into_iter().flat_map(|place| environment::secrets(place.target.as_slice()))
}

/// Waits for what the worker before this one was told. Meanwhile its engine goes on; whoever asks for its end gets that.
async fn wait_for_start(
    started: &mut mpsc::Receiver<Box<JobStart>>,
    cancel: &mut Watcher,
    followed: &mut Followed,
) -> Box<JobStart> {
    let mut asked = false;
    loop {
        tokio::select! {
            start = started.recv() => match start {
                Some(start) if start.renewal => {}
                Some(start) => return start,
                // there is no socket: it is ended by whoever misses it
                None => std::future::pending().await,
            },
            _ = cancel.asked(), if !asked => {
                asked = true;
                followed.ask();
            }
        }
    }
}

/// Takes newer credentials of the job's connections as they come, until it is dropped.
async fn renewals(
    mut started: mpsc::Receiver<Box<JobStart>>,
    masks: Masks,
    tmp: PathBuf,
    journal: Journal,
    places: watch::Sender<Option<StatePlace>>,
) {
    while let Some(start) = started.recv().await {
        if !start.renewal {
            continue;
        }
        // before anything can have seen one
        masks.add(environment::secrets(&start.targets).chain(secrets_of(start.state_place.as_ref())));
        // only the credentials are others: where the job's states are is said once
        let newer =
            start.state_place.iter().find(|place| place.refused.is_none()).and_then(|place| place.target.clone());
        places.send_if_modified(|place| match (place, newer) {
            (Some(place), Some(newer)) => {
                place.target = Some(newer);
                true
            }
            _ => false,
        });
        if let Err(failure) = environment::renew(&start.targets, &tmp) {
            journal
                .note(format!("The credentials of the job's connections are not renewed: {}", failure.message))
                .await;
        }
    }
}

async fn stop_on_signal(asker: cancel::Asker) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return;
    };
    loop {
        tokio::select! {
            _ = term.recv() => asker.ask("SIGTERM", false),
            _ = int.recv() => asker.ask("SIGINT", false),
        }
    }
}

impl Step {
    async fn perform(&mut self) -> Result<End, Stop> {
        if self.start.request.is_none() {
            return Err(Code::InvalidArgument.on("the step came without its job").into());
        }
        let followed = self.followed.take();
        match self.start.step.as_str() {
            "plan" => match self.request.kind() {
                JobKind::Outputs => self.outputs().await,
                JobKind::State => self.state().await,
                JobKind::Unlock => self.unlock().await,
                JobKind::Versions => self.versions().await,
                JobKind::Rollback => self.roll_back().await,
                _ => self.plan(followed).await,
            },
            "apply" => self.apply(followed).await,
            other => Err(Code::InvalidArgument.on(format!("there is no step {other:?}")).into()),
        }
    }

    async fn plan(&mut self, followed: Option<Followed>) -> Result<End, Stop> {
        let kind = self.request.kind();
        if kind == JobKind::Unspecified {
            return Err(Code::InvalidArgument.on("the job is of a kind that this runner does not know").into());
        }
        self.hooks = self.ready_hooks()?;
        let plan = plan_in(&self.work);
        let (mut engine, has_changes) = if let Some(followed) = followed {
            let mut engine = self.engine_at_work(Some(&followed)).await?;
            let has_changes = engine.take_over(followed).await?;
            (engine, has_changes)
        } else {
            self.phase("preparing", "").await;
            // nothing is begun that the spool does not tell of: a step without an event may be started again
            self.journal.flush().await;
            self.note_distrust().await;
            let mut engine = self.prepare().await?;
            self.is_free().await?;
            self.phase("planning", "").await;
            let has_changes = engine.plan(&Plan::of(&self.request), &plan).await?;
            (engine, has_changes)
        };
        engine.keep(&plan)?;
        let judged = self.judged(&engine)?;
        let what = Plan::of(&self.request);
        let copy = self.hooks.as_ref().and_then(Hooks::plan);
        let shown = crate::plan::shown(&mut engine, &self.journal, &plan, &what, has_changes, judged, copy).await?;
        let Shown { text, judgement, secrets, imports } = shown;
        if let Some(judgement) = &judgement {
            self.record_judgement(judgement).await;
        }
        let sha256 = hash_of(&plan).map_err(|e| io_failure(Code::EngineFailed, "the saved plan", &e))?;
        self.plan_saved(sha256, has_changes, text).await;
        if !has_changes {
            let outputs = engine.output().await?;
            self.journal.record(Body::Outputs(outputs)).await;
        }
        // a plan that was made while the cancel came is of no use
        if self.cancel.now() != Cancel::No {
            return Err(Stop::Canceled { forced: false, exit: None });
        }
        if let Some(failure) = imports::missed(&self.request, imports).filter(|_| engine.family() == Family::Language) {
            return Err(failure.into());
        }
        if let Some(judgement) = judgement.as_ref().filter(|judgement| has_changes && judgement.denied) {
            return Err(Code::PlanDenied.on(judgement.denial()).into());
        }
        // it has the plan that people and rules have, and cannot make it another one
        self.hook(Call { hook: Hook::AfterPlan, root: engine.root(), secrets, applied: None }).await?;
        if !has_changes {
            return Ok(End::Result("no_changes", "The infrastructure is as the configuration says.".into()));
        }
        self.phase("planned", "").await;
        if kind == JobKind::Preview || self.request.preview_only || self.request.untrusted {
            return Ok(End::Result("planned", "The plan is made; a preview changes nothing.".into()));
        }
        self.last_words().await;
        // where rules ask for people, people are asked
        let by_policy = self.start.reconciles && judgement.is_none_or(|judgement| judgement.approvals == 0);
        self.phase("awaiting_approval", if by_policy { BY_POLICY } else { "" }).await;
        Ok(End::Waiting)
    }

    /// The hooks of this step.
    fn ready_hooks(&self) -> Result<Option<Hooks>, Failure> {
        Hooks::new(&self.start, &self.request, &self.folders(), self.grace())
    }

    /// Runs a hook, where the stack has that one.
    async fn hook(&mut self, call: Call<'_>) -> Result<(), Stop> {
        match &self.hooks {
            Some(hooks) => hooks.run(call, &mut self.cancel, &self.journal).await,
            None => Ok(()),
        }
    }

    async fn note_distrust(&self) {
        if !self.request.untrusted {
            return;
        }
        let withheld = match self.start.withheld.as_slice() {
            [] => "nothing that was asked for".to_owned(),
            names => match names.len().saturating_sub(NAMED_MAX) {
                0 => names.join(", "),
                more => format!("{} and {more} more", names[..NAMED_MAX].join(", ")),
            },
        };
        let note = format!(
            "The source is not trusted: the job reads the stack's state and cannot write it, and is not given {withheld}."
        );
        self.journal.note(note).await;
    }

    /// By what plans of this job are judged.
    fn judged(&self, engine: &Engine) -> Result<Judged, Failure> {
        let rules = Rules::of(&self.start).map_err(|what| {
            Code::PlanDenied.on(what).next("Correct the rules: until they can be used nothing is applied.")
        })?;
        let called = engine.called();
        let request = &self.request;
        let job = Job {
            kind: crate::plan::name(request.kind()).to_owned(),
            stack: request.stack_name.clone(),
            workspace: request.workspace.clone(),
            engine: called.name,
            engine_version: called.version,
            created_by: request.created_by.clone(),
            groups: request.groups.clone().unwrap_or_default().names,
            connections: request.connections.clone(),
        };
        Ok(Judged { rules, job })
    }

    async fn record_judgement(&self, judgement: &Judgement) {
        // texts and numbers
        let json = serde_json::to_string(judgement).unwrap_or_default();
        let Judgement { approvals, denied, sets, .. } = judgement.clone();
        self.journal.record(Body::PlanJudged(PlanJudged { json, approvals, denied, sets })).await;
    }

    /// Whether the plan may be applied by the rules that are in force now: those by which it was judged may have changed since, and who has
    /// approved it may be fewer than they ask for.
    async fn allowed(&self, engine: &Engine, plan: &Path) -> Result<(), Failure> {
        let judged = self.judged(engine)?;
        let before = last_judgement(Path::new("events")).unwrap_or_default();
        let (approvals, denied) = if before.sets == judged.rules.digest() {
            (before.approvals, before.denied)
        } else if judged.rules.is_empty() {
            return Ok(());
        } else {
            self.journal.note("The rules have changed since the plan was made: it is judged again.").await;
            let judgement = crate::plan::judge(engine, &self.journal, plan, self.request.kind(), judged).await?;
            self.record_judgement(&judgement).await;
            if judgement.denied {
                return Err(Code::PlanDenied.on(judgement.denial()));
            }
            (judgement.approvals, false)
        };
        let others = others(&self.start.approved_by, &self.request.created_by);
        match (denied, approvals) {
            (true, _) => Err(Code::PlanDenied.on("a rule denies the plan")),
            (false, wanted) if others < wanted => Err(Code::PlanDenied
                .on(format!(
                    "rules ask for {wanted} people beside {} who approve the plan, and {others} did",
                    self.request.created_by
                ))
                .next("Start a new job, and have its plan approved by as many.")),
            _ => Ok(()),
        }
    }

    /// The plan's event, last; a long rendering goes before it in pieces.
    async fn plan_saved(&self, sha256: String, has_changes: bool, mut text: String) {
        if text.len() > PLAN_TEXT_IN_EVENT {
            let mut piece = String::new();
            for line in text.split_inclusive('\n') {
                if piece.len() + line.len() > PLAN_TEXT_PIECE && !piece.is_empty() {
                    self.journal.record(crate::events::output("plan", &std::mem::take(&mut piece))).await;
                }
                piece.push_str(line);
            }
            self.journal.record(crate::events::output("plan", &piece)).await;
            cut(&mut text, PLAN_TEXT_IN_EVENT);
            text.push_str("\n[the whole plan is in the job's output, stream \"plan\"]");
        }
        self.journal.record(Body::PlanSaved(PlanSaved { sha256, has_changes, text })).await;
    }

    async fn apply(&mut self, followed: Option<Followed>) -> Result<End, Stop> {
        if self.request.preview_only || self.request.untrusted {
            return Err(Code::InvalidArgument.on("the job is a preview: nothing of it is applied").into());
        }
        self.hooks = self.ready_hooks()?;
        if let Some(followed) = followed {
            if followed.is_hook() {
                return self.after_apply(&followed).await;
            }
            let mut engine = self.engine_at_work(Some(&followed)).await?;
            let applied = if followed.command == "apply" {
                engine.take_over(followed).await.map(drop)
            } else {
                // only its outputs were missing
                followed.end();
                Ok(())
            };
            return self.applied(engine, applied).await;
        }
        self.phase("applying", "").await;
        self.journal.flush().await;
        let plan = plan_in(&self.work);
        self.is_approved(&plan)?;
        let mut engine = self.engine_at_work(None).await?;
        self.is_free().await?;
        self.allowed(&engine, &plan).await?;
        match dialect::named(&self.request.engine)?.family() {
            Family::Language => state::is_applied_to(&engine, &self.here())?,
            Family::Pulumi => pulumi::is_applied_to(&engine, &self.start)?,
        }
        let (root, secrets) = (engine.root(), Secrets::default());
        self.hook(Call { hook: Hook::BeforeApply, root, secrets, applied: None }).await?;
        // still, where nothing keeps a hook from writing it
        self.is_approved(&plan)?;
        let applied = engine.apply(&Plan::of(&self.request), &plan).await;
        self.applied(engine, applied).await
    }

    /// Whether the saved plan is the one that was approved.
    fn is_approved(&self, plan: &Path) -> Result<(), Failure> {
        let saved = saved_plan(Path::new("events"));
        let found = hash_of(plan).map_err(|e| io_failure(Code::PlanStale, "the saved plan", &e))?;
        let approved = &self.start.plan_sha256;
        if saved.as_deref() != Some(found.as_str()) || (!approved.is_empty() && *approved != found) {
            return Err(Code::PlanStale.on(format!("the saved plan's SHA-256 is {found}, and another was approved")));
        }
        Ok(())
    }

    /// Puts a state that the engine could not save beside the stack's own one: the working copy goes with the job.
    fn rescue(&self) -> Option<String> {
        let dialect = dialect::named(&self.request.engine).ok()?;
        let path = self.request.source.clone().unwrap_or_default().path;
        let root = source::root_module(&self.work.join("source"), &path, dialect.extensions()).ok()?;
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(flags).open(root.join("errored.tfstate")).ok()?;
        let mut state = Vec::new();
        if !file.metadata().ok()?.is_file() || file.take(RESCUED_MAX + 1).read_to_end(&mut state).is_err() {
            return None;
        }
        if state.len() as u64 > RESCUED_MAX {
            // a part of a state is none: the whole folder is kept instead
            return None;
        }
        if !shared_proto::ended::is_whole_state(&state) {
            // as where the disk was full
            return None;
        }
        let folder = Path::new(&self.start.state_directory);
        private_folder(folder).ok()?;
        let at = folder.join(format!("errored-{}.tfstate", self.request.job_id));
        match environment::private_file(&at, &state) {
            Ok(()) if File::open(&at).is_ok_and(|file| file.sync_all().is_ok()) => Some(at.display().to_string()),
            // it stays where it is, and whoever removes the working copy looks for it
            _ => None,
        }
    }

    /// The engine that made the plan, in the source that is there. `followed`: one of its commands that is at work.
    async fn engine_at_work(&mut self, followed: Option<&Followed>) -> Result<Engine, Stop> {
        let dialect = dialect::named(&self.request.engine)?;
        let choice = match followed {
            Some(followed) => Choice::at_work(&self.start, dialect, &followed.version)?,
            None => Choice::as_planned(&self.start, dialect, Path::new("events")),
        };
        let path = self.request.source.clone().unwrap_or_default().path;
        let root = source::root_module(&self.work.join("source"), &path, dialect.extensions())?;
        // what there is to say was said when the job began
        let (mut engine, _) = self.engine(root, &choice).await?;
        if dialect.family() == Family::Language {
            let here = self.here();
            self.serving = state::again(&mut engine, &here).await?;
        }
        Ok(engine)
    }

    /// Lets go of the state, before anybody is told that the step is over; what its store has refused is why the engine failed.
    async fn leave_state(&mut self, ended: Result<End, Stop>) -> Result<End, Stop> {
        // an engine that ends by itself lets go of its lock, or says that it could not
        let killed = matches!(
            &ended,
            Err(Stop::Failed(_, Some(Exit::Signal(_) | Exit::Unknown)) | Stop::Canceled { forced: true, exit: Some(_) })
        );
        let Some(serving) = self.serving.take() else {
            if killed {
                self.lock_left = MAY_BE_LEFT.to_owned();
            }
            return ended;
        };
        if killed && let Ok(Some(held)) = serving.with(|store| store.held()).await {
            let lock = held.left();
            self.lock_left = left_in_words(&lock);
            self.lock = Some(lock);
        }
        let told = serving.told();
        serving.close().await;
        match (ended, told.refused, told.locked) {
            (Err(Stop::Locked(_, _, exit)), _, Some(held)) => Err(locked(&held, exit)),
            (Err(Stop::Failed(failure, exit)), Some(refused), _) if failure.code == Code::EngineFailed => {
                let message = format!("{}; {}", refused.message, failure.message);
                Err(Stop::Failed(refused.code.on(message).next(refused.next_step), exit))
            }
            (ended, ..) => ended,
        }
    }

    /// Whether whoever is to lock the state will have the lock: one that is there now is nobody's, because this process has the store.
    async fn is_free(&self) -> Result<(), Stop> {
        let Some(serving) = &self.serving else { return Ok(()) };
        match serving.with(|store| store.held()).await? {
            Some(held) => Err(locked(&held, None)),
            None => Ok(()),
        }
    }

    /// What comes of an apply that has ended: its outputs, and the hook after it.
    async fn applied(&mut self, mut engine: Engine, applied: Result<(), Stop>) -> Result<End, Stop> {
        let (told, ended) = match applied {
            Ok(()) => {
                let note = match engine.output().await {
                    Ok(outputs) => {
                        self.journal.record(Body::Outputs(outputs)).await;
                        ""
                    }
                    // it is applied, whatever reading the outputs says
                    Err(_) => " Its outputs could not be read.",
                };
                (Applied::Ok, Ok(End::Result("applied", format!("The plan is applied.{note}"))))
            }
            Err(stop) => match &stop {
                Stop::Failed(failure, _) | Stop::Locked(failure, ..) => {
                    (Applied::Failed(failure.code.as_str().to_owned()), Err(stop))
                }
                // nobody waits for more of it
                Stop::Canceled { .. } | Stop::Hook(_) => return Err(stop),
            },
        };
        let (root, secrets) = (engine.root(), Secrets::default());
        let hooked = self.hook(Call { hook: Hook::AfterApply, root, secrets, applied: Some(&told) }).await;
        self.with_hook(ended, hooked).await
    }

    /// The same where a worker before this one has begun the hook.
    async fn after_apply(&mut self, followed: &Followed) -> Result<End, Stop> {
        let told = Applied::from_event(&followed.result);
        let ended = match &told {
            Applied::Ok => Ok(End::Result("applied", "The plan is applied.".into())),
            // what there was to say of it was said by its worker
            Applied::Failed(code) => {
                let next = "Read its diagnostics, and look at what was changed.";
                Err(Failure::from_wire(code, "the apply failed, as its diagnostics say", next).into())
            }
        };
        let call = Call { hook: Hook::AfterApply, root: &self.work, secrets: Secrets::default(), applied: Some(&told) };
        let hooked = match &self.hooks {
            Some(hooks) => hooks.take_over(call, followed, &mut self.cancel, &self.journal).await,
            None => Ok(()),
        };
        self.with_hook(ended, hooked).await
    }

    /// How an apply ends whose hook has ended so.
    async fn with_hook(&self, ended: Result<End, Stop>, hooked: Result<(), Stop>) -> Result<End, Stop> {
        match (ended, hooked) {
            (ended, Ok(())) => ended,
            (ended, Err(Stop::Canceled { .. })) => {
                let name = Hook::AfterApply.name();
                self.journal.note(format!("The hook {name} is not run: the job was cancelled before it.")).await;
                ended
            }
            (Ok(_), Err(stop)) => Err(stop),
            // why the apply failed says more
            (Err(stop), Err(Stop::Hook(stopped))) => {
                self.journal.note(format!("And then: {}", stopped.failure.message)).await;
                Err(stop)
            }
            (Err(stop), Err(_)) => Err(stop),
        }
    }

    async fn outputs(&mut self) -> Result<End, Stop> {
        self.phase("preparing", "").await;
        let mut engine = self.prepare().await?;
        let outputs = engine.output().await?;
        self.journal.record(Body::Outputs(outputs)).await;
        Ok(End::Result("no_changes", "The outputs were read; nothing was changed.".into()))
    }

    async fn state(&mut self) -> Result<End, Stop> {
        self.phase("preparing", "").await;
        let mut engine = self.prepare().await?;
        let resources = engine.resources(&self.request.targets).await?;
        let (found, left_out) = (resources.found.len(), resources.left_out);
        for resource in resources.found {
            self.journal.record(Body::StateResource(resource)).await;
        }
        if resources.not_looked_for > 0 {
            let note = format!(
                "{} sensitive values are hidden where the engine masks them, and not looked for elsewhere.",
                resources.not_looked_for
            );
            self.journal.note(note).await;
        }
        if left_out > 0 {
            self.journal.note(format!("{left_out} more resources are in the state; name what you want to see.")).await;
        }
        match (found, self.request.targets.is_empty()) {
            (0, false) => {
                let message = format!("the state has no {}", self.request.targets.join(", "));
                Err(Code::NotFound.on(message).next("Look at what there is: `runnerctl state list STACK`.").into())
            }
            _ => Ok(End::Result("no_changes", "The state was read; nothing was changed.".into())),
        }
    }

    async fn unlock(&mut self) -> Result<End, Stop> {
        self.phase("preparing", "").await;
        let lock = self.request.lock_id.clone();
        if lock.is_empty() || lock.starts_with('-') {
            return Err(Code::InvalidArgument.on("the job names no lock").into());
        }
        let mut engine = self.prepare().await?;
        self.phase("applying", "").await;
        self.journal.flush().await;
        let note = format!("{} removes the lock {lock}: {}", self.request.created_by, self.request.reason);
        self.journal.note(note).await;
        match engine.family() {
            // what was removed may have been the claim of a job that had no lock, of which the engine knows nothing
            Family::Language if self.was_freed().await? => {}
            Family::Language => engine.unlock(&lock).await?,
            Family::Pulumi => pulumi::unlock(&mut engine, &self.request, &self.start, &lock).await?,
        }
        Ok(End::Result("applied", format!("The lock {lock} is removed.")))
    }

    /// Whether the claim that the job names was removed as the states were opened, and there is no lock.
    async fn was_freed(&self) -> Result<bool, Failure> {
        match &self.serving {
            Some(serving) => serving.with(|store| Ok(store.freed() && store.held()?.is_none())).await,
            None => Ok(false),
        }
    }

    async fn versions(&mut self) -> Result<End, Stop> {
        self.phase("preparing", "").await;
        let _engine = self.prepare().await?;
        let versions = self.store()?.with(|store| store.versions()).await?;
        for version in versions {
            let told = match version {
                Ok(head) => StateVersion {
                    number: head.number,
                    serial: head.serial,
                    time_ms: head.time_ms,
                    job: head.job,
                    person: head.person,
                    bytes: head.bytes,
                    resources: head.resources,
                    copy_of: head.copy_of,
                    reason: head.reason,
                    unreadable: false,
                },
                Err(number) => StateVersion { number, unreadable: true, ..StateVersion::default() },
            };
            self.journal.record(Body::StateVersion(told)).await;
        }
        Ok(End::Result("no_changes", "The versions were read; nothing was changed.".into()))
    }

    async fn roll_back(&mut self) -> Result<End, Stop> {
        self.phase("preparing", "").await;
        let number = self.request.state_version;
        let _engine = self.prepare().await?;
        // a lock that was left is removed first, by whoever has looked what it was left of
        self.is_free().await?;
        self.phase("applying", "").await;
        self.journal.flush().await;
        let reason = self.request.reason.clone();
        let note = format!("{} goes back to version {number} of the state: {reason}", self.request.created_by);
        self.journal.note(note).await;
        let made = self.store()?.with(move |store| store.roll_back(number, &reason)).await?;
        let serial = made.serial.unwrap_or_default();
        let message =
            format!("Version {} of the state is what version {number} was, with the serial {serial}.", made.number);
        Ok(End::Result("applied", message))
    }

    /// The store that the stack's state is in.
    fn store(&self) -> Result<&Serving, Failure> {
        self.serving.as_ref().ok_or_else(|| {
            let what = match self.request.workspace.as_str() {
                "" => "the state is in the configuration's own backend".to_owned(),
                name => format!("the state of the workspace {name} is kept as the engine keeps it"),
            };
            let next = "Look at the versions that the backend itself keeps, if it does.";
            Code::Conflict.on(format!("{what}: the runner's store has no versions of it")).next(next)
        })
    }

    /// Source, environment and `init`.
    async fn prepare(&mut self) -> Result<Engine, Stop> {
        let dialect = dialect::named(&self.request.engine)?;
        let wanted = self.request.source.clone().unwrap_or_default();
        let source = self.work.join("source");
        let allow_file = environment::allows_file(&self.start);
        let mut access = Access::write(&self.start, &self.tmp, allow_file)?;
        let git_environment: Environment = environment::for_git(&self.start, &self.folders());
        let git = if self.start.git_path.is_empty() { "git" } else { &self.start.git_path };
        let places = Places {
            source: &source,
            work: &self.work,
            tmp: &self.tmp,
            archive: Path::new(&self.start.archive_path),
            git: Path::new(git),
            environment: &git_environment,
            allow_file,
            access: &access,
            cache: Path::new(&self.start.source_cache),
        };
        let (resolved, folder) = source::fetch(&wanted, &places, &mut self.cancel, &self.journal).await?;
        self.journal.record(Body::SourceResolved(resolved)).await;
        let path = match (folder.as_str(), wanted.path.as_str()) {
            ("", path) => path.to_owned(),
            (folder, "") => folder.to_owned(),
            (folder, path) => format!("{folder}/{path}"),
        };
        if let Some(hooks) = self.hooks.as_ref().filter(|hooks| hooks.has(Hook::BeforePlan)) {
            hooks.are_there(&[Hook::BeforePlan])?;
            // none of it is a hook's to see
            access.forget();
            let root = source::root_folder(&source, &path)?;
            let call = Call { hook: Hook::BeforePlan, root: &root, secrets: Secrets::default(), applied: None };
            hooks.run(call, &mut self.cancel, &self.journal).await?;
            source::look_again(&source, &root, dialect.extensions(), &self.journal).await?;
            access = Access::write(&self.start, &self.tmp, allow_file)?;
        }
        if let Some(hooks) = &self.hooks {
            // it may have made them
            hooks.are_there(&[Hook::AfterPlan, Hook::BeforeApply, Hook::AfterApply])?;
        }
        let root = source::root_module(&source, &path, dialect.extensions())?;
        let asked = Asked::read(&self.request.engine_version, &source, &root, dialect)?;
        let choice = Choice::new(&self.start, dialect, asked);
        let (mut engine, notes) = self.engine(root, &choice).await?;
        engine.fetches_with(access.of_modules());
        for note in notes.into_iter().chain(environment::plans_with(&self.start.targets)) {
            self.journal.note(note).await;
        }
        match dialect.family() {
            Family::Language => {
                state::is_free_of_ours(&engine)?;
                if !self.request.imports.is_empty() {
                    imports::write(&engine, &self.request.imports)?;
                }
                let mut serving = self.serving.take();
                let set_up = state::init(&mut engine, &self.here(), &mut serving).await;
                self.serving = serving;
                set_up?;
            }
            Family::Pulumi => pulumi::prepare(&mut engine, &self.start).await?,
        }
        // what runs from here on has no need of it
        access.forget();
        engine.fetches_with(Environment::new());
        Ok(engine)
    }

    /// The engine in that folder, and what a user is to know about its version and the variables that it gets.
    async fn engine(&mut self, root: PathBuf, choice: &Choice) -> Result<(Engine, Vec<String>), Stop> {
        let program = choice.first()?;
        let grace = self.grace();
        let dialect = dialect::named(&self.request.engine)?;
        let place = Place { start: &self.start, folders: &self.folders(), root: &root };
        let mut environment = environment::for_engine(&place, dialect)?;
        let passed = dialect.variables(&Given::of(&self.start, &self.request), &self.request, &root)?;
        self.not_redacted.extend(passed.not_redacted.iter().cloned());
        let token = Key::from_bytes(&self.start.state_key).map(|key| key.token(&self.request.job_id));
        let secrets = passed.secrets.iter().map(String::as_str).chain(token.iter().map(Secret::expose));
        self.masks.set(secrets.chain(beside_variables(&self.start)));
        let mut options = dialect.options(&self.request, &root)?;
        options.arguments.extend(passed.write(&self.tmp)?);
        let passing: Vec<_> = passed.notes().collect();
        environment.extend(passed.environment.into_iter().map(|(name, value)| (name, value.into())));
        let settings = passed.settings;
        // that of the others is in the runner's store, or is told once it is known to be elsewhere
        let state = match dialect.family() {
            Family::Language => None,
            Family::Pulumi => Some(PathBuf::from(&self.start.state_directory)),
        };
        let retries = self.start.plan_retries;
        let parts = Parts {
            program: &program,
            environment,
            options,
            settings,
            root,
            work: self.work.clone(),
            state,
            grace,
            retries,
        };
        let mut engine = Engine::new(parts, self.cancel.clone(), self.journal.clone())?;
        let chosen = engine.choose(choice).await?;
        Ok((engine, chosen.into_iter().chain(passing).collect()))
    }

    fn here(&self) -> state::Here<'_> {
        state::Here { start: &self.start, request: &self.request, keeper: self.keeper.as_ref(), place: &self.place }
    }

    /// Between asking and forcing.
    fn grace(&self) -> Duration {
        match self.request.cancel_grace_seconds {
            0 => GRACE_DEFAULT,
            seconds => Duration::from_secs(seconds.into()),
        }
    }

    fn folders(&self) -> environment::Folders<'_> {
        environment::Folders { work: &self.work, tmp: &self.tmp }
    }

    /// Records what was not checked of this step, and what was taken out of its events; it has ended but for its last.
    async fn last_words(&self) {
        if environment::has_proxy(&self.start) {
            let text =
                "Behind a proxy the addresses of hosts were not checked: the proxy looks names up, and connects.";
            self.journal.note(text).await;
        }
        let count = self.journal.redacted();
        match count {
            0 => {}
            1 => self.journal.note("One secret value was taken out of what this step recorded.").await,
            n => self.journal.note(format!("{n} secret values were taken out of what this step recorded.")).await,
        }
        if !self.not_redacted.is_empty() {
            let names = self.not_redacted.join(", ");
            self.journal.note(format!("Secret, too short to be taken out, and so not redacted: {names}.")).await;
        }
        self.journal.record(Body::Redacted(Redacted { count, not_redacted: self.not_redacted.clone() })).await;
    }

    async fn phase(&self, phase: &str, detail: &str) {
        // of this step, whatever another one had
        let isolation_level = self.start.isolation_level.clone();
        let changed = PhaseChanged { phase: phase.into(), detail: detail.into(), isolation_level };
        self.journal.record(Body::PhaseChanged(changed)).await;
    }

    async fn record_end(&mut self, ended: Result<End, Stop>) {
        // what an engine failed at, or a hook, may be a bound of its job
        let engine_failed =
            matches!(&ended, Err(Stop::Failed(_, Some(_)) | Stop::Canceled { exit: Some(_), .. } | Stop::Hook(_)));
        let bound = match engine_failed {
            true if self.start.bounded => self.cancel.bound().await,
            // of the disk it is told before it is asked to stop
            true => self.cancel.told(),
            // a limit of time ends what is no engine as well
            false if matches!(&ended, Err(Stop::Canceled { .. })) => self.cancel.told().filter(|bound| bound.time),
            false => None,
        };
        let begun = match engine_failed && self.start.step == "apply" {
            true => journal::begun(Path::new("events")),
            false => Begun::default(),
        };
        let mut result = match ended {
            Ok(End::Waiting) => return,
            Ok(End::Result(phase, message)) => {
                JobResult { phase: phase.into(), code: "ok".into(), message, ..Default::default() }
            }
            Err(Stop::Canceled { forced, exit }) => canceled(forced, exit, &self.start.step),
            Err(Stop::Failed(failure, exit)) => failed(failure, exit),
            Err(Stop::Locked(failure, lock, exit)) => JobResult { lock: Some(*lock), ..failed(failure, exit) },
            Err(Stop::Hook(stopped)) => by_hook(stopped),
        };
        if let Some(JobBound { what, memory, disk, time }) = bound {
            result.message = format!("The job was at its bounds: {what}. {}", result.message);
            if time {
                result.phase = "failed".into();
                result.code = Code::TimeLimit.as_str().into();
                result.next_step = Code::TimeLimit.next_step().into();
            }
            if memory {
                result.phase = "failed".into();
                result.code = Code::WorkerOutOfMemory.as_str().into();
                result.next_step = "Give jobs more memory (jobs.memory_mib of the runner), or do less at once.".into();
            }
            if disk {
                result.phase = "failed".into();
                result.code = Code::WorkerOutOfDisk.as_str().into();
                result.next_step = Code::WorkerOutOfDisk.next_step().into();
            }
        }
        for more in [begun.to_string(), std::mem::take(&mut self.lock_left)].iter().filter(|more| !more.is_empty()) {
            let stop = if result.message.ends_with('.') { "" } else { "." };
            result.message += &format!("{stop} {more}");
        }
        result.lock = result.lock.or_else(|| self.lock.take());
        if let Some(at) = self.rescue() {
            self.journal.note(format!("The state that the engine could not save is kept on the runner: {at}.")).await;
            result.rescued_state = at;
        }
        for refusal in refusals() {
            self.journal.note(format!("The job's policy refused a connection to {refusal}.")).await;
        }
        self.last_words().await;
        self.journal.record(Body::Result(result)).await;
    }
}

/// Connections that the first process of this job refused. What runs in the job may write there too: it is read as what it should be.
fn refusals() -> Vec<String> {
    let open =
        File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(first::REFUSALS);
    let mut text = String::new();
    let Ok(file) =
        open.and_then(|f| if f.metadata()?.is_file() { Ok(f) } else { Err(std::io::ErrorKind::InvalidData.into()) })
    else {
        return Vec::new();
    };
    let _ = file.take(REFUSALS_MAX).read_to_string(&mut text);
    text.lines().map(str::to_owned).collect()
}

/// Of the lock of an engine that was killed, where its state is in a backend that nobody here asks.
const MAY_BE_LEFT: &str =
    "It had no time to let go of the lock of its state: `runnerctl state lock STACK` says what is known of that.";

/// Of a lock in the runner's own store. Whoever had it is gone: who is told that has the store.
fn locked(held: &Held, exit: Option<Exit>) -> Stop {
    let lock = held.left();
    let message = format!(
        "the state is locked by the engine of job {} of {}, which is gone and has left its lock (lock {})",
        lock.job, held.person, lock.id
    );
    let next = format!("Look what that job has done, then remove the lock: {}.", unlock_in_words(&lock.id));
    Stop::Locked(Code::StateLocked.on(message).next(next), Box::new(lock), exit)
}

fn canceled(forced: bool, exit: Option<Exit>, step: &str) -> JobResult {
    let message = match (exit, forced) {
        (None, _) => "Cancelled before the engine was at it; nothing was changed.".to_owned(),
        (Some(exit), false) => format!("Cancelled: the engine was asked, and stopped by itself ({}).", exit.describe()),
        (Some(exit), true) => format!("Cancelled by force: the engine was killed ({}).", exit.describe()),
    };
    let next_step = match (step, exit, forced) {
        ("apply", Some(_), true) => {
            "Look at what was changed, and at a lock that may be left, before you start another job."
        }
        ("apply", Some(_), false) => "Look at what was changed; the state is written. Start another job to go on.",
        _ => "",
    };
    let code = Code::Cancelled.as_str().into();
    JobResult { phase: "canceled".into(), code, message, next_step: next_step.into(), ..with_exit(exit) }
}

fn failed(failure: Failure, exit: Option<Exit>) -> JobResult {
    JobResult {
        phase: "failed".into(),
        code: failure.code.as_str().into(),
        message: failure.message,
        next_step: failure.next_step,
        ..with_exit(exit)
    }
}

fn by_hook(stopped: Stopped) -> JobResult {
    let Stopped { failure, canceled, applied } = stopped;
    let phase = if canceled { "canceled" } else { "failed" };
    JobResult { phase: phase.into(), applied, ..failed(failure, None) }
}

fn with_exit(exit: Option<Exit>) -> JobResult {
    JobResult {
        engine_exit_code: match exit {
            Some(Exit::Code(code)) => Some(code),
            _ => None,
        },
        engine_signal: exit.map(Exit::signal_name).unwrap_or_default(),
        ..Default::default()
    }
}

/// The hash that the spool's last saved plan has.
fn saved_plan(events: &Path) -> Option<String> {
    let plans = journal::told(events).filter_map(|event| match event.body {
        Some(Body::PlanSaved(plan)) => Some(plan.sha256),
        _ => None,
    });
    plans.last()
}

/// What rules said of the plan that is there, last.
fn last_judgement(events: &Path) -> Option<PlanJudged> {
    let judgements = journal::told(events).filter_map(|event| match event.body {
        Some(Body::PlanJudged(judged)) => Some(judged),
        _ => None,
    });
    judgements.last()
}

fn hash_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(shared_proto::hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}
