//! Starts one step: source and credentials first, then the marker, then the worker. After the marker the step is never started again,
//! whatever happens.

use super::bounds::Bounds;
use super::cache::Cache;
use super::folder::{Approved, Folder, Marker, Step, Store};
use super::former;
use super::identity::ProcessIdentity;
use super::renewal::{self, Told};
use super::service::{Held, Service};
use super::source;
use super::surroundings::{Settings, Surroundings};
use crate::config::Asker;
use crate::engines::{Engine, Engines};
use crate::workers::{Exit, Reaches, Started};
use runner_sandbox::PidFd;
use shared_proto::failure::{Code, Failure};
use shared_proto::frame::{self, Kind};
use shared_proto::hooks;
use shared_proto::secret::Secret;
use shared_proto::states;
use shared_proto::v1::{
    EngineProgram, JobKind, JobRequest, JobStart, JobTarget, SourceAccess, StatePlace, source as source_kind,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The most connections of one job.
const CONNECTIONS_MAX: usize = 32;
/// The newest form of a request that this runner knows: 2 is about a part of its stack, 3 about versions of its state or has rules, 4 refers to
/// secrets, has sealed ones, limits of time, a source other than Git as it was and archives, or an untrusted one, ends with its plan or reconciles,
/// 5 has hooks.
const FORMAT: u32 = 5;
/// How often, and after how long each time, it is looked how a worker ended, until its parent has reaped it.
const REAPED_LOOKS: u32 = 20;
const REAPED_LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a new worker may take to take its request.
const TAKE_WITHIN: Duration = Duration::from_secs(10);

/// What starting a step needs.
pub(super) struct Launch {
    pub(super) settings: Arc<Settings>,
    pub(super) surroundings: Arc<dyn Surroundings>,
    pub(super) service: Service,
    pub(super) store: Store,
    pub(super) folder: Folder,
    pub(super) held: Held,
    pub(super) request: JobRequest,
    /// The instance that has the stack's state, if it has no backend; empty: none, or not known.
    pub(super) state_instance: String,
    /// What an engine gets to end by itself.
    pub(super) grace_seconds: u32,
}

/// What there is of a step's source.
#[derive(Default)]
struct Fetched {
    archive_path: String,
    access: Option<SourceAccess>,
    cache: String,
}

/// A worker that runs, or ran.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) identity: ProcessIdentity,
    /// The plan that it applies.
    pub(super) approved: Approved,
    /// Which credentials it was told; none: nobody knows.
    pub(super) told: Option<Told>,
    /// What it may have, where it has a control group of its own.
    pub(super) bounds: Option<Bounds>,
    /// How it ends, where the spawner can tell.
    pub(super) exit: Option<oneshot::Receiver<Exit>>,
    /// How it ended, where the spawner that could tell is gone, and the kernel tells.
    pub(super) process: Option<PidFd>,
}

impl Worker {
    /// How it ended that is not alive any more, where the kernel tells. Its parent has to reap it first.
    pub(super) async fn ended(&self) -> Option<Exit> {
        let process = self.process.as_ref()?;
        for _ in 0..REAPED_LOOKS {
            if let Some(status) = process.exit_status() {
                return Exit::of_status(status);
            }
            tokio::time::sleep(REAPED_LOOK_EVERY).await;
        }
        None
    }
}

impl Launch {
    /// All that a step needs and that may fail before anything is started. May be dropped at any point.
    ///
    /// # Errors
    /// The job's failure.
    pub(super) async fn prepare(
        &self,
        step: Step,
        approved: &Approved,
        next_sequence: u64,
    ) -> Result<JobStart, Failure> {
        // what was allowed when it came may not be any more, and a plan waits for days
        self.surroundings.allows(&self.request, false).await?;
        let mut fetched = Fetched::default();
        if let (Step::Plan, Some(source)) = (step, &self.request.source) {
            if let Some(source_kind::Kind::Archive(wanted)) = &source.kind {
                let path = source::fetch(&self.service, &self.held, &self.folder, wanted).await?;
                fetched.archive_path = path.display().to_string();
            }
            fetched.access = self.surroundings.source_access(source).await?;
            if let (true, Some(access)) = (self.request.untrusted, &mut fetched.access) {
                // it names modules as it likes, and what it starts can read them
                access.modules = false;
            }
            let entry = fetched.access.as_ref().map(|access| access.entry.as_str());
            // a job does without what cannot be kept
            let folder = Cache::of(&self.settings).place(source, entry.unwrap_or_default());
            fetched.cache = folder.map(|folder| folder.display().to_string()).unwrap_or_default();
        }
        let start = self.word(step, approved, next_sequence, fetched).await?;
        let planned = self.folder.marker(Step::Plan)?.unwrap_or_default().secrets;
        if step == Step::Apply && planned != self.digest(&start.secrets)? {
            let message = "a secret that the plan was made with has another value by now";
            return Err(Code::PlanStale.on(message).next("Start a new job: it plans with the value of today."));
        }
        Ok(start)
    }

    /// What a worker is told that follows one of this step: its source is there.
    ///
    /// # Errors
    /// The job's failure.
    pub(super) async fn again(&self, step: Step, approved: &Approved) -> Result<JobStart, Failure> {
        let start = self.word(step, approved, 1, Fetched::default()).await?;
        let path = self.request.source.as_ref().map(|source| source.path.as_str()).unwrap_or_default();
        if let Some(refused) = start.state_place.as_ref().and_then(|place| place.refused.as_ref())
            && super::evidence::keeps_state(&self.folder, path)
        {
            // the engine is at work, and waits for its state to be served
            return Err(Failure::from_wire(&refused.code, &refused.message, &refused.next_step));
        }
        // what its engine still says would be searched for other values than it may have in it
        if self.folder.marker(step)?.unwrap_or_default().secrets != self.digest(&start.secrets)? {
            return Err(Code::Conflict.on("a secret that the job's engine was given has another value by now"));
        }
        Ok(start)
    }

    /// What jobs of the stack were given before, as far as it is remembered, these included from now on.
    async fn former(&self, secrets: &HashMap<String, String>) -> Result<Vec<String>, Failure> {
        let (state_dir, stack) = (self.settings.state_dir.clone(), self.request.stack_id.clone());
        // made of the id, which is checked there
        let key = self.store.state_key(&stack)?;
        let newest: Vec<_> = secrets.values().cloned().map(Secret::new).collect();
        let remembered = tokio::task::spawn_blocking(move || {
            let newest: Vec<_> = newest.iter().map(Secret::expose).collect();
            former::with(&state_dir, &stack, &key, &newest)
        });
        let all = match remembered.await {
            Ok(remembered) => remembered.map_err(|e| {
                Code::Internal.on(format!("secrets of earlier jobs of the stack: {e}")).next(
                    "Free disk, or remove that file: what states and plans show of earlier secrets is not taken out then.",
                )
            })?,
            Err(_) => return Err(Code::Internal.on("remembering the stack's secrets panicked")),
        };
        Ok(all.iter().map(|secret| secret.expose().to_owned()).collect())
    }

    /// By which secrets are known to be the same: nobody can try out what they might be.
    fn digest(&self, secrets: &HashMap<String, String>) -> Result<String, Failure> {
        if secrets.is_empty() {
            return Ok(String::new());
        }
        let sorted: BTreeMap<_, _> = secrets.iter().collect();
        let mut bytes = Vec::new();
        for part in sorted.into_iter().flat_map(|(name, value)| [name, value]) {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        Ok(self.store.state_key(&self.request.stack_id)?.digest(&bytes))
    }

    /// What of the request the job is given, and what it is not.
    fn given(&self) -> (JobRequest, Vec<String>) {
        given(&self.request, |connection| self.surroundings.plans_with(connection).is_some())
    }

    /// The credentials of the connections that the job is given.
    async fn targets(&self, step: Step, request: &JobRequest) -> Result<Vec<JobTarget>, Failure> {
        // resolved anew for each step: an approval may take days
        let mut targets = Vec::with_capacity(request.connections.len());
        let asker = Asker { person: &request.created_by, operation: &request.job_id };
        // what only reads has the credentials that are for reading, where there are such
        let reads = step == Step::Plan && request.kind() != JobKind::Unlock;
        for connection in &request.connections {
            let with = self.surroundings.plans_with(connection).filter(|_| reads);
            let target = self.surroundings.resolve(with.as_ref().unwrap_or(connection), asker).await?;
            let (connection, with) = (connection.clone(), with.unwrap_or_default());
            targets.push(JobTarget { connection, target: Some(target), with });
        }
        Ok(targets)
    }

    /// What a worker at work is told of newer credentials: nothing else of it is looked at.
    ///
    /// # Errors
    /// They cannot be resolved.
    pub(super) async fn renewed(&self, step: Step) -> Result<JobStart, Failure> {
        let (request, _) = self.given();
        let targets = self.targets(step, &request).await?;
        Ok(JobStart { renewal: true, targets, state_place: self.state_place().await, ..JobStart::default() })
    }

    /// Where the state is of a stack without a backend. An engine with a store of its own has no use for it.
    async fn state_place(&self) -> Option<StatePlace> {
        if self.request.engine == "pulumi" {
            return None;
        }
        let asker = Asker { person: &self.request.created_by, operation: &self.request.job_id };
        self.surroundings.state_place(asker).await
    }

    async fn word(
        &self,
        step: Step,
        approved: &Approved,
        next_sequence: u64,
        fetched: Fetched,
    ) -> Result<JobStart, Failure> {
        let request = &self.request;
        if !(1..=FORMAT).contains(&request.format) {
            return Err(Code::UnsupportedVersion.on(format!("the job's request is of format {}", request.format)));
        }
        only_previews(request, step)?;
        let (engine, engines) = engines(&self.settings.engines, &request.engine)?;
        if request.connections.len() > CONNECTIONS_MAX {
            return Err(Code::TooLarge.on(format!("the job names more than {CONNECTIONS_MAX} connections")));
        }
        let (request, withheld) = self.given();
        let targets = self.targets(step, &request).await?;
        let secrets = self.surroundings.secrets(&request).await?;
        let former = self.former(&secrets).await?;
        Ok(JobStart {
            former,
            reconciles: step == Step::Plan && request.reconcile && self.surroundings.reconciles(&request),
            withheld,
            step: match step {
                Step::Apply => "apply",
                Step::Plan => "plan",
            }
            .into(),
            engine,
            engines,
            targets,
            secrets,
            state_directory: self.store.stack(&request.stack_id)?.display().to_string(),
            state_key: self.store.state_key(&request.stack_id)?.bytes().to_vec(),
            state_place: self.state_place().await,
            request: Some(request),
            instance: self.settings.instance_id.clone(),
            archive_path: fetched.archive_path,
            source_access: fetched.access,
            source_cache: fetched.cache,
            isolation_level: self.settings.isolation.to_owned(),
            git_path: self.settings.git.display().to_string(),
            environment: self.surroundings.environment(),
            next_sequence,
            bounded: self.settings.job_cgroup,
            plan_sha256: approved.plan_sha256.clone(),
            approved_by: approved.by.clone(),
            rules: self.surroundings.plan_rules(),
            plan_retries: self.settings.plan_retries,
            renewal: false,
            limits: Some(self.settings.limits_of(&self.request)),
            // the worker is told of another one only
            state_instance: match self.state_instance.as_str() {
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
        let mut marker = Marker {
            plan_sha256: start.plan_sha256.clone(),
            approved_by: start.approved_by.clone(),
            secrets: self.digest(&start.secrets)?,
            told: Some(false),
            states_at: start.state_place.as_ref().map(states::shown).unwrap_or_default(),
            ..Marker::default()
        };
        if step == Step::Apply && marker.states_at.is_empty() {
            let state = PathBuf::from(&start.state_directory);
            let serial = tokio::task::spawn_blocking(move || super::evidence::serial(&state)).await;
            marker.state_serial = serial.ok().flatten();
        }
        self.folder.mark(step, &marker)?;
        let work = self.folder.open_work().map_err(|e| super::folder::broken(&self.folder.work(), &e))?;
        // a domain can only name what is there
        let state = Path::new(&start.state_directory);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(|e| super::folder::broken(state, &e))?;
        let states = start.state_place.as_ref();
        let mut first = self.surroundings.first_word(&start.targets, start.source_access.as_ref(), states).await;
        first.grace_seconds = self.grace_seconds;
        let Started { pid, mut socket, exit, .. } =
            self.surroundings.start_worker(work, reaches(start, self.folder.work())).await?;
        let identity = ProcessIdentity::of(pid)
            .ok_or_else(|| Code::WorkerCrashed.on("the job's worker ended as soon as it was started"))?;
        // before it is told anything: what has no process here was never told what to do
        marker.process = Some(identity.clone());
        self.folder.mark(step, &marker)?;
        let bounds = if self.settings.job_cgroup { Bounds::settled(pid).await } else { None };
        if self.settings.job_cgroup && bounds.is_none() {
            tracing::warn!(job = self.held.job_id, "the job did not get its scope, and has no bounds");
        }
        // nor is what has, until here
        marker.told = Some(true);
        self.folder.mark(step, &marker)?;
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
        let process = identity.hold();
        let approved = Approved { plan_sha256: start.plan_sha256.clone(), by: start.approved_by.clone() };
        let told = Some(renewal::digest(start));
        Ok(Worker { identity, approved, told, bounds, exit: Some(exit), process })
    }
}

/// What of a request a job is given; of an untrusted source nothing that is secret or opens more than reading does, and what that was is named.
fn given(request: &JobRequest, is_for_reading: impl Fn(&str) -> bool) -> (JobRequest, Vec<String>) {
    let mut given = request.clone();
    if !request.untrusted {
        return (given, Vec::new());
    }
    let (reads, opens): (Vec<_>, Vec<_>) = given.connections.drain(..).partition(|name| is_for_reading(name));
    given.connections = reads;
    let mut withheld: Vec<_> = opens.into_iter().map(|name| format!("connection {name}")).collect();
    let marked = std::mem::take(&mut given.not_redacted);
    let mut secrets: BTreeSet<_> = marked.into_iter().filter(|name| given.variables.remove(name).is_some()).collect();
    secrets.extend(given.secrets.drain().map(|(name, _)| name));
    secrets.extend(given.sealed.drain(..).map(|sealed| sealed.variable));
    // what the control plane has kept back already
    secrets.extend(given.left_out.drain(..));
    given.typed.retain(|name| given.variables.contains_key(name));
    withheld.extend(secrets.into_iter().map(|name| format!("variable {name}")));
    // what they would run is a stranger's
    let hooks = given.hooks.take().unwrap_or_default();
    withheld.extend(hooks::of(&hooks).map(|(hook, _)| format!("hook {}", hook.name())));
    (given, withheld)
}

/// Refuses to apply what only ever is a preview, whatever is said of its plan, and a preview that it cannot keep to be one.
fn only_previews(request: &JobRequest, step: Step) -> Result<(), Failure> {
    let kind = request.kind();
    if (request.untrusted && kind != JobKind::Preview) || (request.preview_only && kind != JobKind::Refresh) {
        return Err(
            Code::InvalidArgument.on(format!("job {} cannot be kept a preview: it is of another kind", request.job_id))
        );
    }
    if step == Step::Apply && (request.untrusted || request.preview_only || kind == JobKind::Preview) {
        return Err(Code::InvalidArgument.on(format!("job {} is a preview: nothing of it is applied", request.job_id)));
    }
    if request.untrusted && request.engine == "pulumi" {
        let message = "a source that is not trusted is not previewed with Pulumi, whose programs have the key of their stack's secrets";
        return Err(Code::SourceRefused.on(message).next("Preview it once it is merged."));
    }
    Ok(())
}

/// The programs of an engine: the one that is taken where nobody asks for another, and those by version.
fn engines(all: &Engines, name: &str) -> Result<(Option<EngineProgram>, Vec<EngineProgram>), Failure> {
    let missing = || Code::EngineMissing.on(format!("this runner has no {name:?}"));
    let engine = Engine::from_name(name).ok_or_else(missing)?;
    let program = |path: &Path, version: String| EngineProgram {
        name: name.to_owned(),
        path: path.display().to_string(),
        version,
    };
    // the worker asks it for its version: the supervisor runs no programs
    let usual = all.usual(engine).map(|path| program(path, String::new()));
    let installed: Vec<_> =
        all.installed(engine).iter().map(|one| program(&one.path, one.version.to_string())).collect();
    if usual.is_none() && installed.is_empty() {
        return Err(missing());
    }
    Ok((usual, installed))
}

/// The files of one step: what it was told to use, and its folder. Its programs are every job's.
fn reaches(start: &JobStart, work: PathBuf) -> Reaches {
    let named = |path: &str| -> Vec<_> {
        Some(PathBuf::from(path)).filter(|p| !p.as_os_str().is_empty()).into_iter().collect()
    };
    let reads: Vec<_> = [&start.archive_path, &start.source_cache].into_iter().flat_map(|path| named(path)).collect();
    Reaches { work, reads, writes: named(&start.state_directory) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::v1::{Hooks, SealedVariable, SecretReference};

    fn asked(kind: JobKind) -> JobRequest {
        JobRequest {
            kind: kind.into(),
            engine: "opentofu".into(),
            connections: vec!["prod".into(), "dev".into()],
            variables: [("region", "eu"), ("password", "hunter2-hunter2"), ("pin", "1234")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            not_redacted: vec!["pin".into(), "none".into()],
            secrets: [("token".to_owned(), SecretReference::default())].into(),
            sealed: vec![SealedVariable { variable: "key".into(), ..SealedVariable::default() }],
            typed: vec!["region".into(), "pin".into()],
            left_out: vec!["size".into(), "token".into()],
            hooks: Some(Hooks { after_plan: "scripts/look.sh".into(), ..Hooks::default() }),
            ..JobRequest::default()
        }
    }

    #[test]
    fn an_untrusted_source_is_given_nothing_that_is_secret() {
        let trusted = asked(JobKind::Preview);
        let reads = |connection: &str| connection == "dev";
        assert_eq!(given(&trusted, reads), (trusted.clone(), Vec::new()));
        let (given, withheld) = given(&JobRequest { untrusted: true, ..trusted }, reads);
        assert_eq!((given.connections, given.not_redacted.len()), (vec!["dev".to_owned()], 0));
        assert!(!given.variables.contains_key("pin") && given.variables.contains_key("region"));
        assert!(given.secrets.is_empty() && given.sealed.is_empty() && given.hooks.is_none());
        assert_eq!(given.typed, ["region"]);
        let expected =
            ["connection prod", "variable key", "variable pin", "variable size", "variable token", "hook after-plan"];
        assert_eq!(withheld, expected);
    }

    #[test]
    fn what_is_a_preview_is_never_applied() {
        use JobKind::{Destroy, Import, Preview, Refresh, Update};
        for kind in [Preview, Update, Refresh, Destroy, Import] {
            for (untrusted, preview_only) in [(false, false), (true, false), (false, true), (true, true)] {
                let request = JobRequest { untrusted, preview_only, ..asked(kind) };
                let is_kept = (!untrusted || kind == Preview) && (!preview_only || kind == Refresh);
                assert_eq!(only_previews(&request, Step::Plan).is_ok(), is_kept, "{kind:?} {untrusted} {preview_only}");
                let applies = !untrusted && !preview_only && kind != Preview;
                assert_eq!(
                    only_previews(&request, Step::Apply).is_ok(),
                    applies,
                    "{kind:?} {untrusted} {preview_only}"
                );
            }
        }
        let pulumi = JobRequest { untrusted: true, engine: "pulumi".into(), ..asked(Preview) };
        assert_eq!(only_previews(&pulumi, Step::Plan).expect_err("refused").code, Code::SourceRefused);
    }
}
