//! The one task that knows all jobs: it adopts what the folder holds, writes assignments down, and hands each decision of the control
//! plane to the job that it is for. A second task keeps the Work stream open.

use super::JobSummary;
use super::folder::{Folder, Store};
use super::job::{Command, Decided, Job};
use super::service::{Pause, Service};
use super::surroundings::{Settings, Surroundings};
use super::upload::Progress;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::work_item::Kind;
use shared_proto::v1::{Assignment, HeldJob, JobKind, JobRequest, WorkRequest};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// A Work stream that is silent for so long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Decisions that wait for a job.
const COMMANDS: usize = 16;
/// The most jobs that are told to the control plane as held; what runs goes first.
const HELD_MAX: usize = 1000;
/// The most jobs that are in this instance's folder at once.
const JOBS_MAX: usize = 4096;

/// What the task is asked.
pub(super) enum Ask {
    /// What there is.
    Summary(oneshot::Sender<Vec<JobSummary>>),
    /// What is held, for a new Work stream.
    Held(oneshot::Sender<Vec<HeldJob>>),
    /// What the control plane says.
    Item(Kind),
    /// A job's task has ended: its folder is gone.
    Gone(String),
}

struct Owner {
    settings: Arc<Settings>,
    surroundings: Arc<dyn Surroundings>,
    service: Service,
    store: Store,
    slots: Arc<Semaphore>,
    jobs: HashMap<String, Entry>,
    asks: mpsc::WeakSender<Ask>,
    own: mpsc::Sender<Ask>,
}

struct Entry {
    token: u64,
    stack_id: String,
    stack: String,
    kind: &'static str,
    commands: mpsc::Sender<Command>,
    progress: watch::Receiver<Progress>,
}

/// Phases in which a job keeps neither a slot nor its stack busy.
const ENDS: [&str; 7] = ["applied", "no_changes", "planned", "failed", "canceled", "discarded", "lost"];

pub(super) fn start(
    mut settings: Settings,
    surroundings: Arc<dyn Surroundings>,
    mut asked: mpsc::Receiver<Ask>,
) -> Result<(), Failure> {
    super::folder::private(&settings.state_dir).map_err(|e| super::folder::broken(&settings.state_dir, &e))?;
    // as /proc shows it: a worker's folder is compared with its working directory
    settings.state_dir =
        settings.state_dir.canonicalize().map_err(|e| super::folder::broken(&settings.state_dir, &e))?;
    let store = Store::open(&settings.state_dir)?;
    store.sweep();
    let settings = Arc::new(settings);
    let service = Service::new(&settings, Arc::clone(&surroundings));
    let slots = Arc::new(Semaphore::new(settings.at_once.max(1) as usize));
    let (own, mut from_within) = mpsc::channel(64);
    let asks = own.downgrade();
    let folders = store.list()?;
    let mut owner = Owner { settings, surroundings, service, store, slots, jobs: HashMap::new(), asks, own };
    tokio::spawn(async move {
        for folder in folders {
            owner.adopt(folder);
        }
        let work = tokio::spawn(work(Arc::clone(&owner.settings), owner.service.clone(), owner.own.clone()));
        loop {
            let ask = tokio::select! {
                ask = asked.recv() => match ask {
                    Some(ask) => ask,
                    // nobody is interested any more: the supervisor leaves, the jobs go on
                    None => break,
                },
                Some(ask) = from_within.recv() => ask,
            };
            owner.answer(ask).await;
        }
        work.abort();
    });
    Ok(())
}

impl Owner {
    async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Summary(reply) => drop(reply.send(self.summary())),
            Ask::Held(reply) => drop(reply.send(self.held())),
            Ask::Gone(id) => drop(self.jobs.remove(&id)),
            Ask::Item(Kind::Assignment(assignment)) => self.assignment(assignment).await,
            Ask::Item(kind) => {
                let (id, token, command) = match kind {
                    Kind::Approval(a) => {
                        (a.job_id, a.fencing_token, Command::Approve { by: a.by, plan_sha256: a.plan_sha256 })
                    }
                    Kind::Cancel(c) => (c.job_id, c.fencing_token, Command::Cancel { by: c.by, force: c.force }),
                    Kind::Discard(d) => (d.job_id, d.fencing_token, Command::Discard { by: d.by }),
                    Kind::Release(r) => (r.job_id, r.fencing_token, Command::Release),
                    Kind::Assignment(_) | Kind::Heartbeat(_) | Kind::Refusal(_) => return,
                };
                self.tell(&id, token, command);
            }
        }
    }

    fn tell(&self, id: &str, token: u64, command: Command) {
        let Some(entry) = self.jobs.get(id) else {
            tracing::debug!(job = id, ?command, "a decision on a job that is not here");
            return;
        };
        if entry.token != token {
            tracing::warn!(job = id, token, ours = entry.token, "a decision under another fencing token");
            return;
        }
        if let Err(e) = entry.commands.try_send(command) {
            // it comes again on the next stream
            tracing::warn!(job = id, error = %e, "a decision did not reach its job");
        }
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
        if busy >= self.settings.at_once as usize || of_stack || self.jobs.len() >= JOBS_MAX {
            // not accepted, it goes back to the queue by itself
            tracing::info!(job = id, busy, of_stack, "job not taken now");
            return;
        }
        let (store, instance) = (self.store.clone(), self.settings.instance_id.clone());
        let made = tokio::task::spawn_blocking(move || store.create(&assignment, &instance)).await;
        match made {
            Ok(Ok(folder)) => self.adopt(folder),
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
            Err(failure) => return set_aside(&folder, &failure),
        };
        let request = folder.request(&assigned);
        let known = request.clone().unwrap_or_default();
        let (commands, received) = mpsc::channel(COMMANDS);
        let (progress, progress_rx) = watch::channel(Progress { phase: assigned.phase.clone(), ..Progress::default() });
        let id = assigned.job_id.clone();
        let entry = Entry {
            token: assigned.fencing_token,
            stack_id: known.stack_id.clone(),
            stack: known.stack_name.clone(),
            kind: kind_name(known.kind()),
            commands,
            progress: progress_rx,
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
            slots: Arc::clone(&self.slots),
            decided: Decided::default(),
        };
        self.jobs.insert(id.clone(), entry);
        let asks = self.asks.clone();
        tokio::spawn(async move {
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

const fn kind_name(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Unspecified => "unknown",
        JobKind::Preview => "preview",
        JobKind::Update => "update",
        JobKind::Refresh => "refresh",
        JobKind::Destroy => "destroy",
        JobKind::Outputs => "outputs",
    }
}

/// Keeps a Work stream open.
async fn work(settings: Arc<Settings>, service: Service, asks: mpsc::Sender<Ask>) {
    let mut pause = Pause::new(service.backoff);
    loop {
        match stream(&settings, &service, &asks, &mut pause).await {
            Some(failure) => {
                tracing::warn!(
                    code = failure.code.as_str(),
                    detail = failure.message,
                    next_step = failure.next_step,
                    "execution service not reached"
                );
            }
            // the owner is gone
            None => return,
        }
        tokio::time::sleep(pause.next()).await;
    }
}

/// One stream to its end.
async fn stream(
    settings: &Settings,
    service: &Service,
    asks: &mpsc::Sender<Ask>,
    pause: &mut Pause,
) -> Option<Failure> {
    let (reply, held) = oneshot::channel();
    asks.send(Ask::Held(reply)).await.ok()?;
    let request = WorkRequest {
        instance_id: settings.instance_id.clone(),
        version: shared_proto::VERSION.to_owned(),
        held: held.await.ok()?,
        slots: settings.at_once,
        hostname: settings.hostname.clone(),
        incarnation: settings.incarnation.clone(),
    };
    let mut items = match service.work(request).await {
        Ok(items) => items,
        Err(failure) => return Some(failure),
    };
    let mut heard = false;
    loop {
        let item = match tokio::time::timeout(SILENCE_MAX, items.message()).await {
            Ok(Ok(Some(item))) => item,
            Ok(Ok(None)) => return Some(Code::DialFailed.on("the execution service ended the stream of work")),
            Ok(Err(status)) => return Some(service.failure(&status)),
            Err(_) => {
                let message = format!("the execution service was silent for {} s", SILENCE_MAX.as_secs());
                return Some(Code::DialFailed.on(message));
            }
        };
        if !std::mem::replace(&mut heard, true) {
            pause.reset();
            tracing::info!("execution service reached");
        }
        match item.kind {
            Some(Kind::Refusal(refusal)) => {
                return Some(Failure::from_wire(&refusal.code, &refusal.message, ""));
            }
            Some(Kind::Heartbeat(_)) | None => {}
            Some(kind) => asks.send(Ask::Item(kind)).await.ok()?,
        }
    }
}
