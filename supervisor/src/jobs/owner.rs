//! The one task that knows all jobs: it adopts what the folder holds, writes assignments down, and hands each decision of the control
//! plane to the job that it is for. A second task keeps the Work stream open.

use super::JobSummary;
use super::folder::{Folder, Store};
use super::forecast::{self, Room};
use super::job::{Command, Decided, Job};
use super::service::{Held, Pause, Service};
use super::steady::Steady;
use super::surroundings::{Settings, Surroundings};
use super::upload::Progress;
use crate::policy::Permit;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::event::Body;
use shared_proto::v1::work_item::Kind;
use shared_proto::v1::{Assignment, Event, HeldJob, JobKind, JobRequest, JobResult, Recall, WorkRequest};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A Work stream that is silent for so long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Decisions that wait for a job.
const COMMANDS: usize = 16;
/// The most jobs that are told to the control plane as held; what runs goes first.
const HELD_MAX: usize = 1000;
/// The most jobs that are in this instance's folder at once.
const JOBS_MAX: usize = 4096;

/// How often it is tried to tell that a job was refused.
const REFUSED_TOLD: usize = 20;

/// What the task is asked.
pub(super) enum Ask {
    /// What there is.
    Summary(oneshot::Sender<Vec<JobSummary>>),
    /// What is held, for a new Work stream.
    Held(oneshot::Sender<Vec<HeldJob>>),
    /// Stop them all; how many have not yet, or are not told.
    Stop(oneshot::Sender<usize>),
    /// What the control plane says.
    Item(Kind),
    /// A job's task has ended: its folder is gone.
    Gone(String),
    /// Let go of all jobs, as they are on the disk: another process adopts them. Answered once nothing of this one acts on them.
    LetGo(oneshot::Sender<()>),
}

struct Owner {
    settings: Arc<Settings>,
    surroundings: Arc<dyn Surroundings>,
    service: Service,
    store: Store,
    slots: Arc<Semaphore>,
    jobs: HashMap<String, Entry>,
    /// Of jobs that a rule of the policy bounds.
    permits: HashMap<String, Permit>,
    draining: watch::Receiver<bool>,
    stops: CancellationToken,
    asks: mpsc::WeakSender<Ask>,
    own: mpsc::Sender<Ask>,
    /// All that acts on a job.
    tasks: JoinSet<()>,
    steady: Steady,
}

struct Entry {
    token: u64,
    stack_id: String,
    stack: String,
    kind: &'static str,
    folder: Folder,
    commands: mpsc::Sender<Command>,
    progress: watch::Receiver<Progress>,
    recalled: Arc<Notify>,
    /// The control plane has all of it.
    released: bool,
}

/// Phases in which a job keeps neither a slot nor its stack busy.
const ENDS: [&str; 7] = ["applied", "no_changes", "planned", "failed", "canceled", "discarded", "lost"];

pub(super) fn start(
    mut settings: Settings,
    surroundings: Arc<dyn Surroundings>,
    draining: watch::Receiver<bool>,
    mut asked: mpsc::Receiver<Ask>,
) -> Result<(), Failure> {
    super::folder::private(&settings.state_dir).map_err(|e| super::folder::broken(&settings.state_dir, &e))?;
    // as /proc shows it: a worker's folder is compared with its working directory
    settings.state_dir =
        settings.state_dir.canonicalize().map_err(|e| super::folder::broken(&settings.state_dir, &e))?;
    let store = Store::open(&settings.state_dir)?.sealed_with(settings.state_key_file.clone());
    // they may be large
    let gone = store.sweep();
    tokio::task::spawn_blocking(move || {
        for path in gone {
            if let Err(e) = super::removal::remove_tree(&path) {
                tracing::warn!(path = %path.display(), error = %e, "what is left of a job stays");
            }
        }
    });
    let settings = Arc::new(settings);
    let service = Service::new(&settings, Arc::clone(&surroundings));
    let slots = Arc::new(Semaphore::new(settings.at_once.max(1) as usize));
    let (own, mut from_within) = mpsc::channel(64);
    let asks = own.downgrade();
    let folders = store.list()?;
    let followed = draining.clone();
    let stops = CancellationToken::new();
    let mut owner = Owner {
        settings,
        surroundings,
        service,
        store,
        slots,
        jobs: HashMap::new(),
        permits: HashMap::new(),
        draining,
        stops,
        asks,
        own,
        tasks: JoinSet::new(),
        steady: Steady::default(),
    };
    tokio::spawn(async move {
        for folder in folders {
            owner.adopt(folder);
        }
        let mut work =
            tokio::spawn(work(Arc::clone(&owner.settings), owner.service.clone(), followed, owner.own.clone()));
        loop {
            let ask = tokio::select! {
                ask = asked.recv() => match ask {
                    Some(ask) => ask,
                    // nobody is interested any more: the supervisor leaves, the jobs go on
                    None => break,
                },
                Some(ask) = from_within.recv() => ask,
                Some(_) = owner.tasks.join_next() => continue,
            };
            let Ask::LetGo(mut reply) = ask else {
                owner.answer(ask).await;
                continue;
            };
            // whoever asks may give up before all is at rest: then all goes on
            let Some(_rest) = owner.steady.rest(&mut reply).await else { continue };
            work.abort();
            let _ = (&mut work).await;
            owner.tasks.shutdown().await;
            drop(owner);
            // whoever is told that they were let go of asks nobody here any more
            drop(asked);
            let _ = reply.send(());
            return;
        }
        // its tasks end with the process
        owner.tasks.detach_all();
        work.abort();
    });
    Ok(())
}

impl Owner {
    async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Summary(reply) => drop(reply.send(self.summary())),
            Ask::Held(reply) => drop(reply.send(self.held())),
            Ask::Stop(reply) => {
                self.stops.cancel();
                let left = |job: &&Entry| {
                    let progress = job.progress.borrow();
                    !progress.done && !progress.rests
                };
                let _ = reply.send(self.jobs.values().filter(left).count());
            }
            Ask::Gone(id) => drop(self.jobs.remove(&id)),
            Ask::LetGo(_) => {}
            Ask::Item(Kind::Assignment(assignment)) => self.assignment(assignment).await,
            Ask::Item(Kind::Recall(recall)) => self.recall(&recall),
            Ask::Item(kind) => {
                let (id, token, command) = match kind {
                    Kind::Approval(a) => (
                        a.job_id,
                        a.fencing_token,
                        Command::Approve { by: a.by, people: a.people, plan_sha256: a.plan_sha256 },
                    ),
                    Kind::Cancel(c) => (c.job_id, c.fencing_token, Command::Cancel { by: c.by, force: c.force }),
                    Kind::Discard(d) => (d.job_id, d.fencing_token, Command::Discard { by: d.by }),
                    Kind::Release(r) => (r.job_id, r.fencing_token, Command::Release),
                    Kind::Assignment(_) | Kind::Recall(_) | Kind::Heartbeat(_) | Kind::Refusal(_) => return,
                };
                self.tell(&id, token, command);
            }
        }
    }

    fn tell(&mut self, id: &str, token: u64, command: Command) {
        let Some(entry) = self.jobs.get_mut(id) else {
            tracing::debug!(job = id, ?command, "a decision on a job that is not here");
            return;
        };
        if entry.token != token {
            tracing::warn!(job = id, token, ours = entry.token, "a decision under another fencing token");
            return;
        }
        // from here on it is as good as gone: a control plane to which it is told as held would wait for it
        if command == Command::Release && !std::mem::replace(&mut entry.released, true) {
            self.surroundings.ended(id, &entry.phase());
        }
        if let Err(e) = entry.commands.try_send(command) {
            // it comes again on the next stream
            tracing::warn!(job = id, error = %e, "a decision did not reach its job");
        }
    }

    /// The control plane was restored from an older back-up: what it lacks of a job is told again, the job itself first.
    fn recall(&mut self, recall: &Recall) {
        let Some(entry) = self.jobs.get(&recall.job_id) else { return };
        if entry.token != recall.fencing_token {
            return;
        }
        tracing::info!(job = recall.job_id, unknown = recall.unknown, "the control plane asks for a job again");
        let recalled = Arc::clone(&entry.recalled);
        if !recall.unknown {
            return recalled.notify_one();
        }
        let (service, folder) = (self.service.clone(), entry.folder.clone());
        let held = Held { job_id: recall.job_id.clone(), fencing_token: recall.fencing_token };
        self.tasks.spawn(async move {
            // one that fails is asked for again
            match present(&service, &folder, &held).await {
                Ok(()) => recalled.notify_one(),
                Err(failure) => tracing::warn!(
                    job = held.job_id,
                    code = failure.code.as_str(),
                    detail = failure.message,
                    "a job was not presented"
                ),
            }
        });
    }

    async fn assignment(&mut self, assignment: Assignment) {
        let id = assignment.job_id.clone();
        if let Some(entry) = self.jobs.get(&id) {
            // the same again is being accepted already; another token waits until the first one is known to be void
            tracing::info!(job = id, token = assignment.fencing_token, ours = entry.token, "job assigned again");
            return;
        }
        use sha2::Digest as _;
        if sha2::Sha256::digest(&assignment.request)[..] != assignment.request_sha256[..] {
            tracing::error!(job = id, "an assignment whose request does not have its digest");
            return;
        }
        let request: JobRequest = match prost::Message::decode(assignment.request.as_slice()) {
            Ok(request) => request,
            Err(e) => {
                tracing::error!(job = id, error = %e, "an assignment whose request is malformed");
                return;
            }
        };
        let at_work: Vec<_> = self.jobs.values().filter(|job| !ENDS.contains(&job.phase().as_str())).collect();
        let busy = at_work.iter().filter(|job| job.phase() != "awaiting_approval").count();
        let of_stack = at_work.iter().any(|job| job.stack_id == request.stack_id);
        let draining = *self.draining.borrow() || self.stops.is_cancelled();
        if draining || busy >= self.settings.at_once as usize || of_stack || self.jobs.len() >= JOBS_MAX {
            // not accepted, it goes back to the queue by itself
            tracing::info!(job = id, busy, of_stack, draining, "job not taken now");
            return;
        }
        let (token, digest) = (assignment.fencing_token, assignment.request_sha256.clone());
        // room of jobs that are over
        let jobs = &self.jobs;
        self.permits.retain(|id, _| jobs.get(id).is_some_and(|job| !ENDS.contains(&job.phase().as_str())));
        let state_dir = self.settings.state_dir.clone();
        let stack_id = request.stack_id.clone();
        let fitting = move || forecast::of_stack(&state_dir, &stack_id).fit(Room::now(&state_dir, busy > 0));
        let allowed = match tokio::task::spawn_blocking(fitting).await {
            Ok(Err(failure)) => Err(failure),
            // a forecast that there is none of keeps nobody waiting
            Ok(Ok(())) | Err(_) => self.surroundings.allows(&request, true).await,
        };
        match allowed {
            Ok(permit) => self.permits.extend(permit.map(|permit| (id.clone(), permit))),
            Err(failure) if failure.code == Code::Busy => {
                tracing::info!(job = id, detail = failure.message, "job not taken now");
                return;
            }
            Err(failure) => {
                tracing::warn!(job = id, code = failure.code.as_str(), detail = failure.message, "job refused");
                let held = Held { job_id: id, fencing_token: token };
                self.tasks.spawn(refuse(self.service.clone(), held, digest, failure));
                return;
            }
        }
        let (store, instance) = (self.store.clone(), self.settings.instance_id.clone());
        let making = move || {
            store.has_room()?;
            store.create(&assignment, &instance)
        };
        let made = tokio::task::spawn_blocking(making).await;
        match made {
            Ok(Ok(folder)) => self.adopt(folder),
            Ok(Err(failure)) if matches!(failure.code, Code::DiskFull | Code::StateUnusable) => {
                tracing::error!(job = id, code = failure.code.as_str(), detail = failure.message, "job refused");
                let held = Held { job_id: id, fencing_token: token };
                self.tasks.spawn(refuse(self.service.clone(), held, digest, failure));
            }
            Ok(Err(failure)) => {
                tracing::error!(job = id, code = failure.code.as_str(), detail = failure.message, "job not taken");
            }
            Err(_) => tracing::error!(job = id, "writing an assignment down panicked"),
        }
    }

    /// Takes a folder over, be it new or another supervisor's. One that is damaged does not keep the others waiting.
    fn adopt(&mut self, folder: Folder) {
        let assigned = match folder.assigned() {
            Ok(assigned) if assigned.instance_id == self.settings.instance_id => assigned,
            Ok(assigned) => {
                let message = format!("it is of the instance {}", assigned.instance_id);
                return set_aside(&folder, &Code::SpoolDamaged.on(message));
            }
            Err(failure) if failure.code == Code::UnsupportedVersion => {
                // another version's, which goes on with it once it is back
                tracing::error!(
                    job = folder.name(),
                    code = failure.code.as_str(),
                    detail = failure.message,
                    next_step = failure.next_step,
                    "a job is of another version and stays as it is"
                );
                return;
            }
            Err(failure) => return set_aside(&folder, &failure),
        };
        let request = folder.request(&assigned);
        let known = request.clone().unwrap_or_default();
        let (commands, received) = mpsc::channel(COMMANDS);
        let recalled = Arc::new(Notify::new());
        let (progress, progress_rx) = watch::channel(Progress { phase: assigned.phase.clone(), ..Progress::default() });
        let id = assigned.job_id.clone();
        let entry = Entry {
            token: assigned.fencing_token,
            stack_id: known.stack_id.clone(),
            stack: known.stack_name.clone(),
            kind: kind_name(known.kind()),
            folder: folder.clone(),
            commands,
            progress: progress_rx,
            recalled: Arc::clone(&recalled),
            released: false,
        };
        let job = Job {
            settings: Arc::clone(&self.settings),
            surroundings: Arc::clone(&self.surroundings),
            service: self.service.clone(),
            store: self.store.clone(),
            folder,
            assigned,
            request,
            commands: received,
            progress,
            recalled,
            slots: Arc::clone(&self.slots),
            stops: self.stops.clone(),
            decided: Decided::default(),
            steady: self.steady.clone(),
            peaks: forecast::Peaks::default(),
        };
        self.jobs.insert(id.clone(), entry);
        let asks = self.asks.clone();
        self.tasks.spawn(async move {
            job.run().await;
            if let Some(asks) = asks.upgrade() {
                let _ = asks.send(Ask::Gone(id)).await;
            }
        });
    }

    fn summary(&self) -> Vec<JobSummary> {
        let mut all: Vec<_> = self
            .jobs
            .iter()
            .map(|(id, job)| {
                let progress = job.progress.borrow();
                JobSummary {
                    job_id: id.clone(),
                    stack: job.stack.clone(),
                    kind: job.kind.to_owned(),
                    phase: progress.phase.clone(),
                    last_sequence: progress.last,
                    acknowledged: progress.acknowledged,
                    done: progress.done,
                }
            })
            .collect();
        all.sort_by(|a, b| a.job_id.cmp(&b.job_id));
        all
    }

    fn held(&self) -> Vec<HeldJob> {
        let mut held: Vec<_> = self
            .jobs
            .iter()
            .filter(|(_, job)| !job.released)
            .map(|(id, job)| {
                let progress = job.progress.borrow();
                let (job_id, phase) = (id.clone(), progress.phase.clone());
                HeldJob { job_id, fencing_token: job.token, phase, last_sequence: progress.last }
            })
            .collect();
        held.sort_by_key(|job| (ENDS.contains(&job.phase.as_str()), job.job_id.clone()));
        held.truncate(HELD_MAX);
        held
    }
}

// === impl Entry ===

impl Entry {
    fn phase(&self) -> String {
        self.progress.borrow().phase.clone()
    }
}

/// Ends a job that cannot be written down, or that the policy does not allow, instead of leaving it to come back for ever. It is accepted for that alone: nothing of it is ever
/// started here, and where this is not told to its end, the control plane finds that nobody has the job.
async fn refuse(service: Service, held: Held, digest: Vec<u8>, failure: Failure) {
    if !service.accept(&held, digest).await.is_ok_and(|reply| reply.accepted) {
        return;
    }
    let result = JobResult {
        phase: "failed".into(),
        code: failure.code.as_str().into(),
        message: format!("the runner did not take the job: {}", failure.message),
        next_step: failure.next_step,
        ..JobResult::default()
    };
    let body = Some(Body::Result(result));
    let event = Event { sequence: 1, time_ms: shared_proto::now_ms(), engine_read: None, body };
    let mut pause = Pause::new(service.backoff);
    for _ in 0..REFUSED_TOLD {
        match service.report(&held, vec![event.clone()]).await {
            Ok(_) => return,
            Err(e) => tracing::warn!(job = held.job_id, code = e.code.as_str(), "a refusal was not told"),
        }
        tokio::time::sleep(pause.next()).await;
    }
}

fn set_aside(folder: &Folder, failure: &Failure) {
    match folder.set_aside() {
        Ok(path) => tracing::error!(
            job = folder.name(),
            code = failure.code.as_str(),
            detail = failure.message,
            kept = %path.display(),
            "a job's folder is damaged and was set aside"
        ),
        Err(e) => {
            tracing::error!(job = folder.name(), detail = failure.message, error = %e, "a damaged job folder stays")
        }
    }
}

pub(super) const fn kind_name(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Unspecified => "unknown",
        JobKind::Preview => "preview",
        JobKind::Update => "update",
        JobKind::Refresh => "refresh",
        JobKind::Destroy => "destroy",
        JobKind::Outputs => "outputs",
        JobKind::Import => "import",
        JobKind::State => "state",
        JobKind::Unlock => "unlock",
        JobKind::Versions => "versions",
        JobKind::Rollback => "rollback",
    }
}

/// Shows a job as it was assigned: only one that was accepted, which no other instance was ever given.
async fn present(service: &Service, folder: &Folder, held: &Held) -> Result<(), Failure> {
    let read = {
        let folder = folder.clone();
        move || {
            let assigned = folder.assigned()?;
            let request = folder.request_bytes(&assigned)?;
            Ok::<_, Failure>((assigned, request))
        }
    };
    let read = tokio::task::spawn_blocking(read).await;
    let (assigned, request) = read.unwrap_or_else(|_| Err(Code::Internal.on("reading a job's folder panicked")))?;
    if !assigned.accepted {
        return Err(Code::Conflict.on("it was not accepted"));
    }
    let reply = service.present(held, request, shared_proto::hex::decode(&assigned.seal)).await?;
    if reply.known { Ok(()) } else { Err(Failure::from_wire(&reply.code, &reply.message, "")) }
}

/// Why a Work stream is over.
enum Over {
    /// It failed, or was refused.
    Failed(Failure),
    /// Other words are to be said at its beginning.
    Changed,
    /// The owner is gone.
    Gone,
}

/// Keeps a Work stream open.
async fn work(settings: Arc<Settings>, service: Service, mut draining: watch::Receiver<bool>, asks: mpsc::Sender<Ask>) {
    let mut pause = Pause::new(service.backoff);
    loop {
        match stream(&settings, &service, &mut draining, &asks, &mut pause).await {
            Over::Failed(failure) => {
                tracing::warn!(
                    code = failure.code.as_str(),
                    detail = failure.message,
                    next_step = failure.next_step,
                    "execution service not reached"
                );
            }
            Over::Changed => continue,
            Over::Gone => return,
        }
        tokio::time::sleep(pause.next()).await;
    }
}

/// One stream to its end.
async fn stream(
    settings: &Settings,
    service: &Service,
    draining: &mut watch::Receiver<bool>,
    asks: &mpsc::Sender<Ask>,
    pause: &mut Pause,
) -> Over {
    let (reply, held) = oneshot::channel();
    if asks.send(Ask::Held(reply)).await.is_err() {
        return Over::Gone;
    }
    let Ok(held) = held.await else { return Over::Gone };
    let request = WorkRequest {
        instance_id: settings.instance_id.clone(),
        version: shared_proto::VERSION.to_owned(),
        held,
        // what is held is decided on all the same
        slots: if *draining.borrow_and_update() { 0 } else { settings.at_once },
        hostname: settings.hostname.clone(),
        incarnation: settings.incarnation.clone(),
    };
    let mut items = match service.work(request).await {
        Ok(items) => items,
        Err(failure) => return Over::Failed(failure),
    };
    let mut heard = false;
    loop {
        let item = tokio::select! {
            item = tokio::time::timeout(SILENCE_MAX, items.message()) => item,
            Ok(()) = draining.changed() => return Over::Changed,
        };
        let item = match item {
            Ok(Ok(Some(item))) => item,
            Ok(Ok(None)) => return Over::Failed(Code::DialFailed.on("the execution service ended the stream of work")),
            Ok(Err(status)) => return Over::Failed(service.failure(&status)),
            Err(_) => {
                let message = format!("the execution service was silent for {} s", SILENCE_MAX.as_secs());
                return Over::Failed(Code::DialFailed.on(message));
            }
        };
        if !std::mem::replace(&mut heard, true) {
            pause.reset();
            tracing::info!("execution service reached");
        }
        match item.kind {
            Some(Kind::Refusal(refusal)) => {
                return Over::Failed(Failure::from_wire(&refusal.code, &refusal.message, ""));
            }
            Some(Kind::Heartbeat(_)) | None => {}
            Some(kind) => {
                if asks.send(Ask::Item(kind)).await.is_err() {
                    return Over::Gone;
                }
            }
        }
    }
}
