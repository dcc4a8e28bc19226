//! One job from its assignment to its release. Where it is, is in its folder: a new supervisor reads it there and goes on.
//!
//! ```text
//!  not accepted ─accept─▶ plan marker? ─no─▶ start plan ─▶ watch ─▶ awaiting approval ─approve─▶ start apply ─▶ watch ─▶ ended ─release─▶ gone
//!                              └─yes─▶ adopt the worker, or end the job as crashed or lost; never start that step again
//! ```

use super::bounds::Bounds;
use super::cache::Cache;
use super::control::Control;
use super::disk::Disk;
use super::ending;
use super::evidence::{self, Evidence};
use super::folder::{Approved, Assigned, Ending, Folder, Marker, Step, Store};
use super::forecast::{self, Peaks};
use super::launch::{Launch, Worker};
use super::renewal::Renewal;
use super::service::{Held, Pause, Service};
use super::spool::{self, Tip};
use super::steady::Steady;
use super::surroundings::{Settings, Surroundings};
use super::upload::{Progress, Upload};
use crate::workers::Exit;
use nix::sys::signal::Signal;
use shared_proto::ended::Left;
use shared_proto::failure::{Code, Failure};
use shared_proto::limits;
use shared_proto::rules::{BY_POLICY, others};
use shared_proto::states;
use shared_proto::v1::{JobRequest, JobStart, job_notice};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How often a worker is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two pings.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long the first process of a job may take to end after its worker's last word.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Between two attempts to tell a worker that follows another one what to do.
const AGAIN_EVERY: Duration = Duration::from_secs(5);
/// How long a worker that is forced to end may take: it kills its engine and writes the result.
const FORCED_WITHIN: Duration = Duration::from_secs(15);
/// How long a cancel waits for the control socket before it goes as a signal.
const CANCEL_BY_SOCKET: Duration = Duration::from_secs(5);
/// How often the start of a step is tried whose spawner dies meanwhile: it may be what kills each of them.
const STARTS_MAX: u32 = 5;
/// Who wants a job to stop where the runner is stopped.
const STOPPED: &str = "the runner, because it is being stopped";
/// The most people whose approval is taken down: rules ask for fewer.
const APPROVERS_MAX: usize = 64;
/// How often it is looked whether a plan has waited too long for its approval.
const EXPIRED_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between asking and forcing, where the job does not say, seconds.
const GRACE_DEFAULT: u32 = 300;

/// What a job is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Its plan is approved.
    Approve { by: String, people: Vec<String>, plan_sha256: String },
    /// It is to stop.
    Cancel { by: String, force: bool },
    /// Its plan is refused.
    Discard { by: String },
    /// The control plane has all of it.
    Release,
}

/// One job.
pub(super) struct Job {
    pub(super) settings: Arc<Settings>,
    pub(super) surroundings: Arc<dyn Surroundings>,
    pub(super) service: Service,
    pub(super) store: Store,
    pub(super) folder: Folder,
    pub(super) assigned: Assigned,
    /// What is to be done, or why that cannot be known.
    pub(super) request: Result<JobRequest, Failure>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) progress: watch::Sender<Progress>,
    /// The control plane may have less of it than it had.
    pub(super) recalled: Arc<Notify>,
    /// One for each job that is at work.
    pub(super) slots: Arc<Semaphore>,
    /// All jobs are to stop: they would end with the runner, which is told to.
    pub(super) stops: CancellationToken,
    /// What was decided and not yet done: a decision may come while the worker is still at its last words.
    pub(super) decided: Decided,
    /// Held while something is done that must not be left in the middle.
    pub(super) steady: Steady,
    /// What its steps have taken.
    pub(super) peaks: Peaks,
}

/// What users have decided about a job.
#[derive(Debug, Default)]
pub(super) struct Decided {
    cancel: Option<Cancel>,
    approve: Option<Approved>,
    discard: Option<String>,
    /// The control plane has all that it wants: it may say so before this task has seen the worker's end.
    released: bool,
}

/// How a worker was lost sight of.
enum Gone {
    /// It ended, and somebody saw how.
    Exit(Exit),
    /// It is not there any more.
    Unknown,
    /// It does not answer.
    Silent,
    /// It took more of the disk than it may.
    Full(String),
    /// It was told to end at once, and did not.
    Defiant,
}

/// Whether somebody wants the job to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cancel {
    by: String,
    since: Instant,
    /// Since when it is to stop at once.
    forced: Option<Instant>,
}

/// The job has its ending, or its result.
struct Over;

/// What was found once a step was over that has no end of its own.
#[derive(Default)]
struct Found {
    /// Where a state lies that the engine could not save; empty: there is none.
    rescued: String,
    /// Nothing of it runs any more.
    nothing_left: bool,
    /// The lock that its engine has left.
    lock: Option<states::Held>,
}

// === impl Job ===

impl Job {
    /// Runs to the job's release, or for ever.
    pub(super) async fn run(mut self) {
        let held = Held { job_id: self.assigned.job_id.clone(), fencing_token: self.assigned.fencing_token };
        if !self.assigned.accepted && !self.accept(&held).await {
            let (folder, acts) = (self.folder.clone(), self.steady.acts().await);
            let removing = move || {
                let _acts = acts;
                folder.remove()
            };
            let removed = tokio::task::spawn_blocking(removing).await;
            if let Err(e) = removed.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
                tracing::error!(job = held.job_id, error = %e, "the folder of a job that was not accepted stays");
            }
            return;
        }
        let (news, news_rx) = watch::channel(0);
        let upload =
            Upload::new(&self.folder, &self.service, &held, self.progress.clone(), news_rx, Arc::clone(&self.recalled));
        // ends with this task: what is not sent waits in the folder
        let upload = AbortOnDrop(tokio::spawn(upload.run()));
        let (Ok(Over) | Err(Over)) = self.live(&held, &news).await;
        news.send_modify(|n| *n = n.wrapping_add(1));
        self.note_phase();
        self.remember_peaks().await;
        self.until_released().await;
        drop(upload);
        let folder = self.folder.clone();
        let place = self.request.as_ref().ok().and_then(|request| {
            let path = request.source.as_ref().map(|source| source.path.clone()).unwrap_or_default();
            Some((self.store.stack(&request.stack_id).ok()?, path))
        });
        // a source may have many files; one that is damaged, or has a state that is nowhere else, is kept for whoever looks into it
        let acts = self.steady.acts().await;
        let damaged = self.progress.borrow().damaged.is_some()
            || matches!(folder.ending(), Ok(Some(ending)) if ending.code == Code::SpoolDamaged.as_str())
            || [Step::Plan, Step::Apply].iter().any(|step| matches!(folder.marker(*step), Ok(Some(m)) if m.damaged));
        let removing = move || {
            let _acts = acts;
            match place {
                Some((stack, path)) if !damaged && evidence::rescue(&folder, &stack, &path).is_ok() => folder.remove(),
                _ => folder.set_aside().map(drop),
            }
        };
        let done = tokio::task::spawn_blocking(removing).await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        match done {
            Ok(()) => tracing::info!(job = held.job_id, "job released"),
            Err(e) => tracing::error!(job = held.job_id, error = %e, "the folder of a released job stays"),
        }
    }

    async fn remember_peaks(&self) {
        let (peaks, state_dir) = (self.peaks, self.settings.state_dir.clone());
        let Some(stack) = self.request.as_ref().ok().map(|request| request.stack_id.clone()) else { return };
        if peaks == Peaks::default() {
            return;
        }
        let written = tokio::task::spawn_blocking(move || forecast::remember(&state_dir, &stack, peaks)).await;
        if let Err(e) = written.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
            tracing::warn!(job = self.assigned.job_id, error = %e, "what the job took is not remembered");
        }
    }

    /// Tells the control plane that the request is on the disk; `false` where the job is not ours.
    async fn accept(&mut self, held: &Held) -> bool {
        let digest = shared_proto::hex::decode(&self.assigned.request_sha256);
        let mut pause = Pause::new(self.service.backoff);
        self.rests(true);
        loop {
            match self.service.accept(held, digest.clone()).await {
                Ok(reply) if reply.accepted => break,
                Ok(reply) => {
                    tracing::info!(job = held.job_id, code = reply.code, detail = reply.message, "job not accepted");
                    return false;
                }
                Err(failure) => {
                    tracing::info!(
                        job = held.job_id,
                        code = failure.code.as_str(),
                        detail = failure.message,
                        "accept failed"
                    );
                    tokio::time::sleep(pause.next()).await;
                }
            }
        }
        self.rests(false);
        tracing::info!(job = held.job_id, token = held.fencing_token, "job accepted");
        self.assigned.accepted = true;
        self.assigned.phase = "preparing".into();
        if let Err(failure) = self.folder.assign(&self.assigned) {
            // it is asked again at the next start, which is harmless
            tracing::error!(job = held.job_id, detail = failure.message, "the acceptance is not written down");
        }
        true
    }

    async fn live(&mut self, held: &Held, news: &watch::Sender<u64>) -> Result<Over, Over> {
        let markers = (self.folder.marker(Step::Plan), self.folder.marker(Step::Apply));
        let (plan, apply) = match markers {
            (Ok(plan), Ok(apply)) => (plan, apply),
            (Err(failure), _) | (_, Err(failure)) => return Err(self.fail(&failure, "")),
        };
        if let Err(failure) = self.request.clone() {
            let mut left = Left::Nothing;
            for marker in [plan, apply].into_iter().flatten() {
                if let Some(worker) = self.adopt(marker) {
                    let _acts = self.steady.acts().await;
                    left = ending::end_session(&*self.surroundings, &worker.identity, &self.folder, self.grace()).await;
                }
            }
            return Err(self.fail(&failure, left.describe()));
        }
        let approved = match apply {
            Some(marker) if self.never_began(Step::Apply, &marker)? => {
                Some(Approved { plan_sha256: marker.plan_sha256, by: marker.approved_by })
            }
            Some(marker) => {
                let worker = self.adopt(marker);
                self.follow(held, Step::Apply, worker, news).await?;
                return Ok(Over);
            }
            None => None,
        };
        let approved = match (approved, plan) {
            (Some(approved), _) => approved,
            (None, Some(marker)) if !self.never_began(Step::Plan, &marker)? => {
                let worker = self.adopt(marker);
                let tip = self.follow(held, Step::Plan, worker, news).await?;
                self.approval(&tip).await?
            }
            (None, _) => {
                let tip = self.begin(held, Step::Plan, &Approved::default(), news).await?;
                self.approval(&tip).await?
            }
        };
        self.begin(held, Step::Apply, &approved, news).await?;
        Ok(Over)
    }

    /// The worker of a step that another supervisor started.
    fn adopt(&self, marker: Marker) -> Option<Worker> {
        let identity = marker.process?;
        let bounds = if identity.alive() { Bounds::of(identity.pid) } else { None };
        let process = identity.hold();
        let approved = Approved { plan_sha256: marker.plan_sha256, by: marker.approved_by };
        Some(Worker { identity, approved, told: None, bounds, exit: None, process })
    }

    /// Whether a step has its marker, and yet nothing was begun: the supervisor died before it told the worker what to do. What the job has
    /// written does not make it so, only the contrary: it could have cut its own events off. After a power cut nothing is sure.
    fn never_began(&mut self, step: Step, marker: &Marker) -> Result<bool, Over> {
        if may_have_begun(marker) {
            return Ok(false);
        }
        let untouched = is_untouched(step, &self.tip()?);
        if untouched {
            tracing::warn!(job = self.assigned.job_id, ?step, "the step was about to be started, and is started now");
        }
        Ok(untouched)
    }

    /// Starts a step and follows it.
    async fn begin(
        &mut self,
        held: &Held,
        step: Step,
        approved: &Approved,
        news: &watch::Sender<u64>,
    ) -> Result<Tip, Over> {
        let next = self.tip()?.last + 1;
        let slots = Arc::clone(&self.slots);
        let Ok(slot) = self.unless_cancelled(slots.acquire_owned()).await? else {
            return Err(self.fail(&Code::Internal.on("the slots of jobs are closed"), ""));
        };
        let launch = self.launch(held).map_err(|failure| self.fail(&failure, ""))?;
        let start = match self.unless_cancelled(launch.prepare(step, approved, next)).await? {
            Ok(start) => start,
            Err(failure) => return Err(self.fail(&failure, "")),
        };
        let mut tries = 0;
        let worker = loop {
            let acts = self.steady.acts().await;
            let started = launch.start(step, &start).await;
            drop(acts);
            tries += 1;
            match started {
                Ok(worker) => break worker,
                // its spawner, or itself, died before it was told anything: nothing has begun
                Err(failure) if failure.code == Code::WorkerCrashed && tries < STARTS_MAX => {
                    tracing::warn!(job = held.job_id, ?step, detail = failure.message, "the step is started again");
                }
                Err(failure) => return Err(self.fail(&failure, "")),
            }
        };
        let cache = Some(start.source_cache.clone()).filter(|folder| !folder.is_empty());
        drop(start);
        tracing::info!(job = held.job_id, ?step, pid = worker.identity.pid, "job step started");
        let followed = self.follow_with(held, step, Some(worker), news, Some(slot)).await;
        if let Some(folder) = cache {
            let (cache, work) = (Cache::of(&self.settings), self.folder.work());
            let _ = tokio::task::spawn_blocking(move || cache.keep(&work, Path::new(&folder))).await;
        }
        followed
    }

    /// What starting a step needs.
    fn launch(&self, held: &Held) -> Result<Launch, Failure> {
        Ok(Launch {
            settings: Arc::clone(&self.settings),
            surroundings: Arc::clone(&self.surroundings),
            service: self.service.clone(),
            store: self.store.clone(),
            folder: self.folder.clone(),
            held: held.clone(),
            request: self.request.clone()?,
            state_instance: self.assigned.state_instance.clone(),
            grace_seconds: u32::try_from(self.grace().as_secs()).unwrap_or(GRACE_DEFAULT),
        })
    }

    async fn follow(
        &mut self,
        held: &Held,
        step: Step,
        worker: Option<Worker>,
        news: &watch::Sender<u64>,
    ) -> Result<Tip, Over> {
        // what runs already, runs: it takes a slot if there is one
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok();
        if let Some(worker) = &worker {
            tracing::info!(job = held.job_id, ?step, pid = worker.identity.pid, "job adopted");
        }
        self.follow_with(held, step, worker, news, slot).await
    }

    /// Watches a worker to its end. Gives the tip of a plan that waits for its approval; everything else is over.
    async fn follow_with(
        &mut self,
        held: &Held,
        step: Step,
        mut worker: Option<Worker>,
        news: &watch::Sender<u64>,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Result<Tip, Over> {
        let stack = self.request.as_ref().ok().and_then(|r| self.store.stack(&r.stack_id).ok());
        let mut disk = Disk::new([self.folder.work(), stack.unwrap_or_default()], self.settings.disk);
        let gone = match &mut worker {
            Some(worker) => self.watch(held, step, worker, &mut disk, news).await,
            None => Gone::Unknown,
        };
        let memory = worker.as_ref().and_then(|worker| worker.bounds.as_ref()).map_or(0, Bounds::peak);
        self.peaks = self.peaks.or(Peaks { memory, disk: disk.peak() });
        let marker = self.folder.marker(step).ok().flatten().unwrap_or_default();
        if let Gone::Exit(exit) = &gone
            && exit.code != Some(0)
        {
            // the job's end is told once its engine has had its time
            tracing::warn!(job = held.job_id, ?step, "the job's worker {exit}");
        }
        // nothing of a step stays behind, however it ended
        let left = match &worker {
            Some(worker) => {
                let _acts = self.steady.acts().await;
                ending::end_session(&*self.surroundings, &worker.identity, &self.folder, self.grace()).await
            }
            None => Left::Nothing,
        };
        // what the kernel still waits for, such as a dead disk, may outlive all that was done about it
        let nothing_left = worker.as_ref().is_some_and(|worker| worker.identity.is_over());
        let unknown = worker.is_none() && marker.damaged;
        drop(slot);
        news.send_modify(|n| *n = n.wrapping_add(1));
        let tip = self.tip_after(if worker.is_some() { left.describe() } else { "" })?;
        if tip.ended {
            return Err(Over);
        }
        if step == Step::Plan && tip.phase.as_deref() == Some("awaiting_approval") {
            self.note_phase();
            return Ok(tip);
        }
        let (phase, failure) = match gone {
            Gone::Exit(exit) => ("failed", Code::WorkerCrashed.on(format!("the job's worker {exit} without a result"))),
            Gone::Silent => {
                let message = format!(
                    "the job's worker did not answer for {} s and was ended",
                    self.settings.silence_max.as_secs()
                );
                ("failed", Code::WorkerCrashed.on(message))
            }
            Gone::Full(what) => ("failed", Code::WorkerOutOfDisk.on(format!("the job was ended, because {what}"))),
            Gone::Defiant => {
                let message = format!(
                    "the job's worker was forced to end, had not after {} s, and was killed",
                    FORCED_WITHIN.as_secs()
                );
                ("failed", Code::WorkerCrashed.on(message))
            }
            Gone::Unknown if unknown => {
                let message = format!(
                    "what was written down of the step's process is damaged, and so is its copy: whether something of the job still \
                     runs is not known. Its folder is kept: {}",
                    self.folder.own().parent().unwrap_or(Path::new("")).display()
                );
                ("lost", Code::JobLost.on(message))
            }
            Gone::Unknown => {
                let message = "the job's worker is gone, and nothing tells how it ended".to_owned();
                ("lost", Code::JobLost.on(message))
            }
        };
        let next = "Look at the last events and at the state before you start another job.";
        tracing::warn!(
            job = held.job_id,
            code = failure.code.as_str(),
            detail = failure.message,
            left = left.describe(),
            "job ended by its supervisor"
        );
        let mut evidence = self.evidence(step, &tip, (marker.state_serial, marker.states_at)).await;
        // what may run still may hold it still, and Pulumi's engine has that folder for itself: it writes there what it likes
        if !nothing_left || self.request.as_ref().is_ok_and(|request| request.engine == "pulumi") {
            evidence.lock = None;
        }
        let left = match unknown {
            true => evidence.describe(),
            false => format!("{}. {}", left.describe(), evidence.describe()),
        };
        Err(self.end_with(
            tip.last,
            phase,
            &failure.next(next),
            &left,
            Found { rescued: evidence.rescued, nothing_left, lock: evidence.lock },
        ))
    }

    /// Until the worker is gone, or has to go.
    async fn watch(
        &mut self,
        held: &Held,
        step: Step,
        worker: &mut Worker,
        disk: &mut Disk,
        news: &watch::Sender<u64>,
    ) -> Gone {
        let mut control: Option<Control> = None;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut heard, mut pinged, mut nonce) = (Instant::now(), Instant::now(), 0);
        let (mut delivered, mut signalled) = (None::<bool>, false);
        let mut over = None::<Instant>;
        // a worker that follows another one waits for its word, and is told it then; and whether one that stood still was ended for that
        let (mut waits, mut replaced) = (None::<Instant>, false);
        let stops = self.stops.clone();
        let mut stopping = false;
        let mut progress = self.progress.subscribe();
        let mut renewal = Renewal::new(worker.told);
        let has_credentials = self.request.as_ref().is_ok_and(|request| !request.connections.is_empty())
            || !self.surroundings.states_at().is_empty();
        loop {
            tokio::select! {
                exit = ended(&mut worker.exit), if worker.exit.is_some() => {
                    worker.exit = None;
                    if let Some(exit) = exit {
                        return Gone::Exit(exit);
                    }
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.decided.note(command),
                    // the owner ends with the supervisor, and this task with it
                    None => std::future::pending().await,
                },
                () = stops.cancelled(), if !stopping => {
                    stopping = true;
                    self.decided.cancel(STOPPED.to_owned(), false);
                }
                notice = hear(&mut control), if control.is_some() => match notice {
                    // which number it says is no matter: the spool has it
                    Some(job_notice::Kind::Appended(_)) => news.send_modify(|n| *n = n.wrapping_add(1)),
                    Some(job_notice::Kind::Pong(_)) => heard = Instant::now(),
                    Some(job_notice::Kind::StepEnded(_)) => over = Some(Instant::now()),
                    Some(job_notice::Kind::Waits(does)) => waits = does.then(Instant::now),
                    None => control = None,
                },
                renewed = renewal.done() => match renewed {
                    Ok(start) => {
                        if let Some(open) = &mut control && renewal.is_news(&start) {
                            match open.tell(&start).await {
                                Ok(()) => renewal.told(&start),
                                Err(_) => control = None,
                            }
                        }
                    }
                    Err(failure) => {
                        let (code, detail) = (failure.code.as_str(), failure.message);
                        tracing::warn!(job = held.job_id, code, detail, "the credentials of a job at work are not renewed");
                    }
                },
                Ok(()) = progress.changed() => {
                    let (fenced, damaged) = {
                        let now = progress.borrow_and_update();
                        (now.fenced, now.damaged.is_some())
                    };
                    if fenced {
                        self.decided.cancel("the control plane: the job is not this instance's".into(), false);
                    }
                    if damaged {
                        // nobody knows any more what it does
                        return Gone::Unknown;
                    }
                }
                _ = look.tick() => {
                    if worker.exit.is_none() && !worker.identity.alive() {
                        return worker.ended().await.map_or(Gone::Unknown, Gone::Exit);
                    }
                    if control.is_none() && let Ok(connected) = Control::connect(&self.folder, &worker.identity).await {
                        control = Some(connected);
                        delivered = None;
                        heard = Instant::now();
                    }
                    if has_credentials && control.is_some() && waits.is_none() && renewal.is_due(self.settings.renew_every) {
                        let launch = self.launch(held);
                        renewal.begin(async move { launch?.renewed(step).await });
                    }
                    if let Some(open) = &mut control && pinged.elapsed() >= PING_EVERY.min(self.settings.silence_max / 4) {
                        pinged = Instant::now();
                        nonce += 1;
                        if open.ping(nonce).await.is_err() {
                            control = None;
                        }
                    }
                    for hit in worker.bounds.as_mut().and_then(Bounds::look).into_iter().chain(disk.look()) {
                        tracing::warn!(job = self.assigned.job_id, hit = hit.what, "the job is at its bounds");
                        if hit.asks {
                            self.decided.cancel(format!("the runner, because {}", hit.what), false);
                        }
                        if hit.ends {
                            return Gone::Full(hit.what);
                        }
                        if let Some(open) = &mut control {
                            let _ = open.bound(&hit).await;
                        }
                    }
                    if self.decided.forced().is_some_and(|since| since.elapsed() >= FORCED_WITHIN) {
                        return Gone::Defiant;
                    }
                    // the worker has said its last word, and the first process of the job does not end
                    if over.is_some_and(|over| over.elapsed() >= END_WITHIN) && worker.identity.stopped() {
                        return Gone::Silent;
                    }
                    // one without a socket is only given up where it surely stands still
                    if heard.elapsed() >= self.settings.silence_max && (control.is_some() || worker.identity.works_not()) {
                        let silent = worker.identity.worker().filter(|_| {
                            self.settings.take_over && !replaced && !worker.identity.stopped()
                        });
                        let Some(silent) = silent else { return Gone::Silent };
                        tracing::warn!(job = held.job_id, pid = silent, "the job's worker does not answer and is ended");
                        let first = &worker.identity;
                        let still = || first.worker() == Some(silent);
                        ending::signal(&*self.surroundings, silent, Signal::SIGKILL, still).await;
                        (control, replaced, heard) = (None, true, Instant::now());
                    }
                }
            }
            if let Some(open) = &mut control
                && waits.is_some_and(|due| due <= Instant::now())
            {
                waits = match self.again(held, step, &worker.approved).await {
                    Ok(start) => {
                        tracing::warn!(job = held.job_id, ?step, "another worker goes on with the job");
                        match open.tell(&start).await {
                            Ok(()) => renewal.told(&start),
                            Err(_) => control = None,
                        }
                        None
                    }
                    Err(failure) => {
                        let (code, detail) = (failure.code.as_str(), failure.message);
                        tracing::warn!(job = held.job_id, code, detail, "the next worker of the job still waits");
                        Some(Instant::now() + AGAIN_EVERY)
                    }
                };
                heard = Instant::now();
            }
            if let Some(wanted) = &self.decided.cancel {
                if let Some(open) = &mut control {
                    let force = wanted.forced.is_some();
                    if delivered.is_none_or(|forced| force && !forced) {
                        match open.cancel(&wanted.by, force).await {
                            Ok(()) => delivered = Some(force),
                            Err(_) => control = None,
                        }
                    }
                } else if !signalled && wanted.since.elapsed() >= CANCEL_BY_SOCKET && worker.identity.alive() {
                    // the same as a cancel, to the worker alone
                    signalled = true;
                    let first = &worker.identity;
                    ending::signal(&*self.surroundings, first.pid, Signal::SIGTERM, || first.alive()).await;
                }
            }
        }
    }

    /// What is left to tell what a step did that has no end of its own.
    async fn evidence(&self, step: Step, tip: &Tip, before: (Option<u64>, String)) -> Evidence {
        let request = self.request.clone().unwrap_or_default();
        let Ok(stack) = self.store.stack(&request.stack_id) else { return Evidence::default() };
        let (folder, told) = (self.folder.clone(), (tip.resource.clone(), tip.begun.clone()));
        // a state may be large
        let looking =
            move || Evidence::of(&folder, &stack, &request.source.unwrap_or_default().path, step, told, before);
        tokio::task::spawn_blocking(looking).await.unwrap_or_default()
    }

    async fn again(&self, held: &Held, step: Step, approved: &Approved) -> Result<JobStart, Failure> {
        self.launch(held)?.again(step, approved).await
    }

    /// Waits for what users decide about the plan, of whom rules may want more than one.
    async fn approval(&mut self, tip: &Tip) -> Result<Approved, Over> {
        let (automatic, created_by) = match &self.request {
            Ok(request) => (request.approve_automatically, request.created_by.clone()),
            Err(_) => (false, String::new()),
        };
        let limit = self.request.as_ref().map_or(0, |request| self.settings.limits_of(request).approval);
        let stops = self.stops.clone();
        if tip.by_policy && tip.approvals == 0 && !stops.is_cancelled() {
            let reconciles = self.request.as_ref().is_ok_and(|r| r.reconcile && self.surroundings.reconciles(r));
            if reconciles {
                return Ok(Approved { plan_sha256: tip.plan_sha256.clone(), by: vec![BY_POLICY.to_owned()] });
            }
            // it was told that it is applied: nobody is asked any more
            let failure = Code::PolicyDenied
                .on("the runner's policy let the plan be applied without asking, and does not any more");
            return Err(self.end(tip.last, "failed", &failure.next("Start a new job."), ""));
        }
        if automatic && tip.approvals == 0 && !stops.is_cancelled() {
            return Ok(Approved { plan_sha256: tip.plan_sha256.clone(), by: vec![created_by] });
        }
        loop {
            // a plan that was ready before it could be stopped may as well wait
            if let Some(cancel) = self.decided.cancel.as_ref().filter(|cancel| cancel.by != STOPPED) {
                return Err(self.cancelled(tip.last, &cancel.by));
            }
            if let Some(by) = &self.decided.discard {
                let message = format!("The plan was discarded by {by}; nothing was changed.");
                return Err(self.end_well(tip.last, "discarded", message));
            }
            match self.decided.approve.take() {
                Some(Approved { plan_sha256: plan, .. }) if !plan.is_empty() && plan != tip.plan_sha256 => {
                    let message = format!("the plan {plan} was approved, and {} is what is here", tip.plan_sha256);
                    return Err(self.end(tip.last, "failed", &Code::PlanStale.on(message), ""));
                }
                Some(Approved { by, .. }) if others(&by, &created_by) < tip.approvals => {
                    tracing::warn!(?by, wanted = tip.approvals, "too few have approved the plan: it goes on waiting");
                }
                Some(Approved { by, .. }) => return Ok(Approved { plan_sha256: tip.plan_sha256.clone(), by }),
                None => {}
            }
            if stops.is_cancelled() {
                // a decision that comes now is told again to the next supervisor
                self.rests(true);
                std::future::pending::<()>().await;
            }
            // by the clock, which goes on while no runner is there
            if limit > 0 && waited(tip) >= Duration::from_secs(limit.into()) {
                let message = format!("the plan waited for its approval for the limit of {}", limits::in_words(limit));
                return Err(self.end(tip.last, "discarded", &Code::PlanExpired.on(message), ""));
            }
            tokio::select! {
                command = self.command() => self.decided.note(command),
                () = stops.cancelled() => {}
                () = tokio::time::sleep(EXPIRED_LOOK_EVERY), if limit > 0 => {}
            }
        }
    }

    fn rests(&self, rests: bool) {
        self.progress.send_modify(|p| p.rests = rests);
    }

    /// Does it, unless the job is cancelled meanwhile: nothing runs yet.
    async fn unless_cancelled<T>(&mut self, doing: impl Future<Output = T>) -> Result<T, Over> {
        tokio::pin!(doing);
        let stops = self.stops.clone();
        loop {
            if stops.is_cancelled() {
                self.decided.cancel(STOPPED.to_owned(), false);
            }
            if let Some(by) = self.decided.stop() {
                let last = self.tip()?.last;
                return Err(self.cancelled(last, &by));
            }
            tokio::select! {
                biased;
                done = &mut doing => return Ok(done),
                command = self.command() => self.decided.note(command),
                () = stops.cancelled() => {}
            }
        }
    }

    async fn until_released(&mut self) {
        while !self.decided.released {
            let command = self.command().await;
            self.decided.note(command);
        }
    }

    async fn command(&mut self) -> Command {
        match self.commands.recv().await {
            Some(command) => command,
            None => std::future::pending().await,
        }
    }

    /// Where the spool ends; a damaged one ends the job.
    fn tip(&self) -> Result<Tip, Over> {
        self.tip_after("")
    }
    /// The same once a step is over: what became of what was left of it is told with the damage.
    fn tip_after(&self, left: &str) -> Result<Tip, Over> {
        if matches!(self.folder.ending(), Ok(Some(_))) {
            return Err(Over);
        }
        spool::tip(&self.folder).map_err(|damage| {
            let (why, tip) = *damage;
            // the upload finds the same, once it has told what comes before
            if tip.ended {
                // what comes after the result is nobody's business
                return Over;
            }
            self.end(tip.last, "failed", &why.code.on(format!("the spool of the job: {}", why.message)), left)
        })
    }

    fn grace(&self) -> Duration {
        let seconds = match &self.request {
            Ok(request) if request.cancel_grace_seconds > 0 => request.cancel_grace_seconds,
            _ => GRACE_DEFAULT,
        };
        Duration::from_secs(seconds.into())
    }

    fn fail(&self, failure: &Failure, left: &str) -> Over {
        let last = match spool::tip(&self.folder) {
            Ok(tip) => tip.last,
            Err(damage) => damage.1.last,
        };
        self.end(last, "failed", failure, left)
    }
    fn cancelled(&self, last: u64, by: &str) -> Over {
        let failure = Code::Cancelled.on(format!("cancelled by {by} before anything was changed"));
        self.end(last, "canceled", &failure, "")
    }
    fn end(&self, last: u64, phase: &str, failure: &Failure, left: &str) -> Over {
        self.end_with(last, phase, failure, left, Found::default())
    }
    fn end_with(&self, last: u64, phase: &str, failure: &Failure, left: &str, found: Found) -> Over {
        let message = match left {
            "" => failure.message.clone(),
            left => format!("{}; {left}", failure.message),
        };
        self.write(last, phase, failure.code.as_str(), message, failure.next_step.clone(), found)
    }
    fn end_well(&self, last: u64, phase: &str, message: String) -> Over {
        self.write(last, phase, "ok", message, String::new(), Found::default())
    }
    fn write(&self, last: u64, phase: &str, code: &str, message: String, next_step: String, found: Found) -> Over {
        let ending = Ending {
            // what the control plane has already counts too, where a damaged spool has lost it
            sequence: last.max(self.folder.acknowledged()) + 1,
            time_ms: shared_proto::now_ms(),
            phase: phase.to_owned(),
            code: code.to_owned(),
            message,
            next_step,
            rescued_state: found.rescued,
            nothing_left: found.nothing_left,
            lock: found.lock,
        };
        if let Err(failure) = self.folder.end(&ending) {
            // it is told all the same; a supervisor that comes before the disk is back ends it by what it then finds
            tracing::error!(
                job = self.assigned.job_id,
                detail = failure.message,
                "the job's ending is not written down"
            );
        }
        Over
    }

    /// For people who look into the folder.
    fn note_phase(&mut self) {
        let tip = spool::tip(&self.folder).unwrap_or_else(|damage| damage.1);
        let ending = self.folder.ending().ok().flatten();
        if let Some(phase) = ending.map(|e| e.phase).or(tip.phase) {
            self.assigned.phase = phase;
            let _ = self.folder.assign(&self.assigned);
        }
    }
}

/// Whether that process may have been told what to do.
pub(super) fn may_have_begun(marker: &Marker) -> bool {
    // the first versions told whatever process they had noted
    let told = marker.told.unwrap_or(marker.process.is_some());
    marker.damaged || told || marker.process.as_ref().is_some_and(|p| !p.of_this_boot() || p.alive())
}

/// Whether the job's events say nothing of that step.
pub(super) fn is_untouched(step: Step, tip: &Tip) -> bool {
    match step {
        Step::Plan => tip.last == 0,
        Step::Apply => tip.phase.as_deref() == Some("awaiting_approval") && !tip.ended,
    }
}

/// How long its plan has waited for its approval.
fn waited(tip: &Tip) -> Duration {
    let passed = shared_proto::now_ms().saturating_sub(tip.phase_ms);
    // clocks go back as well
    Duration::from_millis(passed.try_into().unwrap_or(0))
}

/// A task that goes when it is let go.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Decided ===

impl Decided {
    fn note(&mut self, command: Command) {
        match command {
            Command::Approve { by, mut people, plan_sha256 } => {
                // told again until the job has ended: worth a line once
                if self.approve.is_none() {
                    tracing::info!(by, "plan approved");
                }
                if !people.contains(&by) {
                    people.push(by);
                }
                people.truncate(APPROVERS_MAX);
                self.approve = Some(Approved { plan_sha256, by: people });
            }
            Command::Cancel { by, force } => self.cancel(by, force),
            Command::Discard { by } => drop(self.discard.get_or_insert(by)),
            Command::Release => self.released = true,
        }
    }
    /// Asks for at least that; only ever more.
    fn cancel(&mut self, by: String, force: bool) {
        match &mut self.cancel {
            None => self.cancel = Some(Cancel { by, since: Instant::now(), forced: force.then(Instant::now) }),
            Some(asked) if force && asked.forced.is_none() => (asked.by, asked.forced) = (by, Some(Instant::now())),
            Some(_) => {}
        }
    }
    /// Since when it is to stop at once.
    fn forced(&self) -> Option<Instant> {
        self.cancel.as_ref()?.forced
    }
    /// Who wants it to stop, before anything runs.
    fn stop(&self) -> Option<String> {
        self.cancel.as_ref().map(|cancel| cancel.by.clone()).or_else(|| self.discard.clone())
    }
}

async fn ended(exit: &mut Option<tokio::sync::oneshot::Receiver<Exit>>) -> Option<Exit> {
    match exit {
        Some(exit) => exit.await.ok().filter(|exit| !exit.lost),
        None => std::future::pending().await,
    }
}

async fn hear(control: &mut Option<Control>) -> Option<job_notice::Kind> {
    match control {
        Some(control) => control.hear().await,
        None => std::future::pending().await,
    }
}
