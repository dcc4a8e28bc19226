//! What jobs need from the rest of the supervisor, as one seam: so that nothing here knows how a tunnel is dialled or how credentials
//! are resolved, and tests put their own in its place.

use crate::config::Asker;
use crate::engines::Engines;
use crate::policy::Permit;
use crate::workers::{Reaches, Started};
use nix::sys::signal::Signal;
use runner_sandbox::PidFd;
use shared_proto::failure::Failure;
use shared_proto::limits;
use shared_proto::secret::Secret;
use shared_proto::v1::{JobFirst, JobRequest, JobTarget, Source, SourceAccess, StatePlace, Target, TimeLimits};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// What a connection is read from and written to.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub use crate::tunnel::dial::Refusal;

/// A connection to the execution service.
pub struct Connection {
    /// After its handshake.
    pub stream: Box<dyn Stream>,
    /// With TLS 1.3 the other end's refusal of our certificate comes only now, as an error of the stream.
    pub refusal: Refusal,
}

/// What jobs need from the rest of the supervisor.
#[tonic::async_trait]
pub trait Surroundings: Send + Sync + 'static {
    /// Connects to the execution service.
    ///
    /// # Errors
    /// Why it cannot be reached.
    async fn connect(&self) -> Result<Connection, Failure>;
    /// The runner's API key.
    fn api_key(&self) -> Secret;
    /// Resolves the credentials of a connection of the runner's own configuration.
    ///
    /// # Errors
    /// `unknown_connection`, `credentials_unavailable` and the like.
    async fn resolve(&self, connection: &str, asker: Asker<'_>) -> Result<Target, Failure>;
    /// The connection whose credentials a job has while it plans, in the place of those of this one; none: its own.
    fn plans_with(&self, connection: &str) -> Option<String>;
    /// The values of the variables that a job refers to or that were sealed for it, by name.
    ///
    /// # Errors
    /// Why one cannot be had, with its store and path; never a value.
    async fn secrets(&self, request: &JobRequest) -> Result<HashMap<String, String>, Failure>;
    /// What the source of a job is fetched with; none: no entry of the runner's own configuration is for its address.
    ///
    /// # Errors
    /// `credentials_unavailable` and the like.
    async fn source_access(&self, source: &Source) -> Result<Option<SourceAccess>, Failure>;
    /// Whether the runner's own policy allows a job. `takes`: it is about to be taken, and counts within the bounds of the rule that allows it
    /// until what is given back is dropped.
    ///
    /// # Errors
    /// `policy_denied`, `secret_denied`, `hooks_refused` and the like: what it refers to may not be asked for; `busy` where a bound of the rule is reached, and it is only not taken now.
    async fn allows(&self, request: &JobRequest, takes: bool) -> Result<Option<Permit>, Failure>;
    /// What the programs of a job's worker get, and what it may by the configuration: PATH, proxy settings, TF_CLI_CONFIG_FILE, sources of this
    /// machine.
    fn environment(&self) -> HashMap<String, String>;
    /// Whether the runner's own policy lets the plan of a job that reconciles be applied without asking.
    fn reconciles(&self, request: &JobRequest) -> bool;
    /// The runner's own set of rules for plans, as JSON; empty: it has none.
    fn plan_rules(&self) -> String;
    /// A job has ended in this phase, and the control plane has all of it.
    fn ended(&self, job: &str, phase: &str);
    /// Where the states of stacks without a backend are; empty: in their folders, in the state directory.
    fn states_at(&self) -> String;
    /// The same as a worker is told, with credentials, or why there are none; none: in their folders.
    async fn state_place(&self, asker: Asker<'_>) -> Option<StatePlace>;
    /// What the first process of a job is told before its worker is: how it connects for a job with these connections, whose source is
    /// fetched with that, and whose states are there.
    async fn first_word(
        &self,
        targets: &[JobTarget],
        source: Option<&SourceAccess>,
        states: Option<&StatePlace>,
    ) -> JobFirst;
    /// Starts a job's first process in its folder; it reaches these files besides what every job does.
    ///
    /// # Errors
    /// It cannot be executed.
    async fn start_worker(&self, directory: OwnedFd, reaches: Reaches) -> Result<Started, Failure>;
    /// Has a signal sent to one process of a job, soon.
    async fn signal(&self, process: PidFd, signal: Signal);
}

/// What of the configuration matters to jobs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where jobs and states are.
    pub state_dir: PathBuf,
    /// The file with the key of states; `None`: the one in the state directory.
    pub state_key_file: Option<PathBuf>,
    /// This instance's id.
    pub instance_id: String,
    /// This process's, by which the execution service tells it from another one that has a copy of the instance's id.
    pub incarnation: String,
    /// Jobs at once.
    pub at_once: u32,
    /// The host's name.
    pub hostname: String,
    /// How jobs' workers are isolated: for their own events.
    pub isolation: &'static str,
    /// The engines that there are.
    pub engines: Engines,
    /// The git program.
    pub git: PathBuf,
    /// The most that a first wait after a failure takes, and any.
    pub backoff: (Duration, Duration),
    /// Whether a job's worker that has died is followed by another one.
    pub take_over: bool,
    /// Whether each job gets a control group of its own.
    pub job_cgroup: bool,
    /// What each job may take of the disk.
    pub disk: super::DiskLimits,
    /// How long each may take and wait.
    pub limits: TimeLimits,
    /// How often a plan is tried again that failed of what passes by itself.
    pub plan_retries: u32,
    /// How often it is looked whether the credentials of a job at work are others by now.
    pub renew_every: Duration,
    /// How much is kept of what was fetched, bytes; 0: nothing.
    pub source_cache: u64,
    /// A worker that has not answered for so long is ended.
    pub silence_max: Duration,
}

/// How often it is looked whether a job's credentials are others by now: they are renewed minutes before they end.
pub const RENEW_EVERY: Duration = Duration::from_secs(60);
/// A job's worker answers within this, on any machine that still works.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

// === impl Settings ===

impl Settings {
    /// The limits of time that hold for a job: of the runner's and its own the lower ones.
    pub(super) fn limits_of(&self, request: &JobRequest) -> TimeLimits {
        limits::lower(&self.limits, &request.limits.unwrap_or_default())
    }
}
