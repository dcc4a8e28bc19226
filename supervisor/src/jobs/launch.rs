//! Starts one step: source and credentials first, then the marker, then the worker. After the marker the step is never started again,
//! whatever happens.

use super::bounds::Bounds;
use super::folder::{Folder, Marker, Step, Store};
use super::identity::ProcessIdentity;
use super::service::{Held, Service};
use super::source;
use super::surroundings::{Settings, Surroundings};
use crate::workers::{Exit, Reaches, Started};
use shared_proto::failure::{Code, Failure};
use shared_proto::frame::{self, Kind};
use shared_proto::v1::{EngineProgram, JobKind, JobRequest, JobStart, JobTarget, source as source_kind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The most connections of one job.
const CONNECTIONS_MAX: usize = 32;
/// How long a new worker may take to take its request.
const TAKE_WITHIN: Duration = Duration::from_secs(10);

/// What starting a step needs.
pub(super) struct Launch<'a> {
    pub(super) settings: &'a Settings,
    pub(super) surroundings: &'a Arc<dyn Surroundings>,
    pub(super) service: &'a Service,
    pub(super) store: &'a Store,
    pub(super) folder: &'a Folder,
    pub(super) held: &'a Held,
    pub(super) request: &'a JobRequest,
    /// The instance that has the stack's state, if it has no backend; empty: none, or not known.
    pub(super) state_instance: &'a str,
    /// What an engine gets to end by itself.
    pub(super) grace_seconds: u32,
}

/// A worker that runs, or ran.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) identity: ProcessIdentity,
    /// What it may have, where it has a control group of its own.
    pub(super) bounds: Option<Bounds>,
    /// How it ends, where somebody can tell.
    pub(super) exit: Option<oneshot::Receiver<Exit>>,
}

impl Launch<'_> {
    /// All that a step needs and that may fail before anything is started. May be dropped at any point.
    ///
    /// # Errors
    /// The job's failure.
    pub(super) async fn prepare(&self, step: Step, plan_sha256: &str, next_sequence: u64) -> Result<JobStart, Failure> {
        let request = self.request;
        if request.format != 1 {
            return Err(Code::UnsupportedVersion.on(format!("the job's request is of format {}", request.format)));
        }
        let Some(path) = self.settings.engines.get(&request.engine) else {
            return Err(Code::EngineMissing.on(format!("this runner has no {:?}", request.engine)));
        };
        if request.connections.len() > CONNECTIONS_MAX {
            return Err(Code::TooLarge.on(format!("the job names more than {CONNECTIONS_MAX} connections")));
        }
        let mut archive_path = String::new();
        if let (Step::Plan, Some(source_kind::Kind::Archive(wanted))) =
            (step, request.source.as_ref().and_then(|s| s.kind.as_ref()))
        {
            let path = source::fetch(self.service, self.held, self.folder, wanted).await?;
            archive_path = path.display().to_string();
        }
        // resolved anew for each step: an approval may take days
        let mut targets = Vec::with_capacity(request.connections.len());
        for connection in &request.connections {
            let target = self.surroundings.resolve(connection).await?;
            targets.push(JobTarget { connection: connection.clone(), target: Some(target) });
        }
        let outputs = request.kind() == JobKind::Outputs;
        Ok(JobStart {
            request: Some(request.clone()),
            step: match step {
                Step::Apply => "apply",
                Step::Plan if outputs => "outputs",
                Step::Plan => "plan",
            }
            .into(),
            engine: Some(EngineProgram {
                name: request.engine.clone(),
                path: path.display().to_string(),
                // the worker asks the program: the supervisor runs none
                version: String::new(),
            }),
            targets,
            state_directory: self.store.stack(&request.stack_id)?.display().to_string(),
            archive_path,
            isolation_level: self.settings.isolation.to_owned(),
            git_path: self.settings.git.display().to_string(),
            environment: self.settings.environment.clone().into_iter().collect(),
            next_sequence,
            bounded: self.settings.job_cgroup,
            plan_sha256: plan_sha256.to_owned(),
            // the worker is told of another one only
            state_instance: match self.state_instance {
                own if own == self.settings.instance_id => String::new(),
                another => another.to_owned(),
            },
        })
    }

    /// Marks the step as started and starts it. Not to be dropped in the middle.
    ///
    /// # Errors
    /// The marker cannot be written (nothing was started then), or the worker cannot be started.
    pub(super) async fn start(&self, step: Step, start: &JobStart) -> Result<Worker, Failure> {
        let marker = Marker { process: None, plan_sha256: start.plan_sha256.clone(), damaged: false };
        self.folder.mark(step, &marker)?;
        let work = self.folder.open_work().map_err(|e| super::folder::broken(&self.folder.work(), &e))?;
        // a domain can only name what is there
        let state = Path::new(&start.state_directory);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(|e| super::folder::broken(state, &e))?;
        let mut first = self.surroundings.first_word(&start.targets).await;
        first.grace_seconds = self.grace_seconds;
        let Started { pid, mut socket, exit, .. } =
            self.surroundings.start_worker(work, reaches(start, self.folder.work())).await?;
        let identity = ProcessIdentity::of(pid)
            .ok_or_else(|| Code::WorkerCrashed.on("the job's worker ended as soon as it was started"))?;
        // before it is told anything: what has no process here was never told what to do
        self.folder.mark(step, &Marker { process: Some(identity.clone()), ..marker })?;
        let bounds = if self.settings.job_cgroup { Bounds::settled(pid).await } else { None };
        if self.settings.job_cgroup && bounds.is_none() {
            tracing::warn!(job = self.held.job_id, "the job did not get its scope, and has no bounds");
        }
        let taking = async {
            frame::write_message(&mut socket, Kind::Request, &first).await?;
            frame::write_message(&mut socket, Kind::Request, start).await?;
            tokio::io::AsyncWriteExt::flush(&mut socket).await.map_err(frame::FrameError::from)
        };
        // a worker that does not take its request is noticed by how it ends, or by its silence
        match tokio::time::timeout(TAKE_WITHIN, taking).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(job = self.held.job_id, error = %e, "the worker did not take its request"),
            Err(_) => tracing::warn!(job = self.held.job_id, "the worker did not take its request in time"),
        }
        Ok(Worker { identity, bounds, exit: Some(exit) })
    }
}

/// The files of one step: what it was told to use, and its folder. Its programs are every job's.
fn reaches(start: &JobStart, work: PathBuf) -> Reaches {
    let named = |path: &str| Some(PathBuf::from(path)).filter(|p| !p.as_os_str().is_empty()).into_iter().collect();
    Reaches { work, reads: named(&start.archive_path), writes: named(&start.state_directory) }
}
