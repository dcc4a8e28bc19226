//! The runner's configuration: flags over `RUNNERD_…` variables over `runner.toml` over defaults, parsed once into types that cannot be
//! wrong, before anything is opened. It must never hold a secret: those are files that it names.

mod azure;
mod check;
pub use azure::{Azure, AzureSource};
pub(crate) use check::memory_kib;
pub use check::{AZURE_VARIABLES, DEFAULT_FILE};
mod gcp;
mod narrow;
mod programs;
mod secrets;
mod settings;
mod sources;
mod states;
mod template;

pub use gcp::{Gcp, GcpSource};
pub use secrets::{InCloud, STORES_MAX, Store, StoreKind, Vault};
pub use settings::{SETTINGS, Setting, Shown, Source};
pub use sources::{Access, Signature, SourceEntry, Sources, TokenFrom};
pub use states::{Bucket, States, StatesPlace};
pub use template::{Asker, Template};

use crate::audit::recording::Recipient;
use crate::audit::{OnFailure, Sink};
use crate::policy::Policy;
use serde::Deserialize;
use shared_proto::v1::TimeLimits;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The largest configuration file that is read, bytes.
pub const FILE_MAX: u64 = 1024 * 1024;
/// The most connections in it.
pub const CONNECTIONS_MAX: usize = 1024;
/// The most entries of a list in it.
pub const LIST_MAX: usize = 64;

/// What the tunnel gets beyond the operations' grace to say goodbye.
pub const GOODBYE: Duration = Duration::from_secs(4);
/// Of the time from SIGTERM to SIGKILL, what the runner's own processes keep to end in good order.
pub const STOP_RESERVE: Duration = Duration::from_secs(2);

/// All of it.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that it was read from, if there was one.
    pub file: Option<PathBuf>,
    /// The credentials file.
    pub credentials: PathBuf,
    /// Where jobs, the instance's id and the admin socket are.
    pub state_dir: PathBuf,
    /// What may be asked of the runner.
    pub policy: PolicyFile,
    /// How the audit log is kept.
    pub audit: AuditSettings,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines there are: `info`, or targets with levels as `tracing` filters them.
    pub log_level: String,
    /// Operations at once.
    pub max_operations: u32,
    /// The memory budget of the tunnel's connection, bytes.
    pub budget: u64,
    /// Jobs at once.
    pub jobs_at_once: u32,
    /// The tunnel's times.
    pub tunnel: Tunnel,
    /// The HTTP CONNECT proxy, if there is one.
    pub proxy: Proxy,
    /// The weakest isolation with which it starts.
    pub isolation_require: Isolation,
    /// The workers' programs.
    pub workers: WorkerPaths,
    /// Workers of operations that wait for one, at most.
    pub workers_warm: u32,
    /// The engines.
    pub engines: Engines,
    /// What jobs reach.
    pub jobs: Jobs,
    /// What is fetched for jobs, and with what.
    pub sources: Sources,
    /// Named targets and how to authenticate to them.
    pub connections: BTreeMap<String, Connection>,
    /// Stores that variables of jobs may refer to.
    pub secrets: BTreeMap<String, Store>,
    /// What those are for of which it is said.
    pub purposes: BTreeMap<String, Purpose>,
    /// By whose credentials jobs plan that name a connection, where it is another one's.
    pub plan_with: BTreeMap<String, String>,
    /// What of the supervisor's own environment a resolver may be given: `AWS_*`, `GCE_METADATA_HOST`, `HOME`, `PATH`, where Azure says
    /// that tokens are, and what entries of sources name.
    pub environment: BTreeMap<String, String>,
    /// Every effective value and its source, for `config show`.
    pub shown: Vec<Shown>,
}

/// How the audit log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// What becomes of a request that cannot be written down.
    pub on_failure: OnFailure,
    /// How long a file of it may become, bytes.
    pub file_max: u64,
    /// How many of its files are kept; `None`: all.
    pub keep_files: Option<u64>,
    /// Where its lines are handed on to.
    pub sink: Option<Sink>,
    /// Whom recordings of terminals are encrypted to; `None`: none can be made.
    pub recording_key: Option<RecordingKey>,
    /// How long a recording may become, bytes.
    pub recording_max: u64,
    /// How much of recordings is kept, bytes.
    pub recordings_max: u64,
}

impl AuditSettings {
    /// Whether the log is written in the same way: what of it is read by a process when it begins to write, and never again.
    pub fn is_kept_as(&self, other: &Self) -> bool {
        let kept = |of: &Self| (of.on_failure, of.file_max, of.keep_files, of.sink.clone());
        kept(self) == kept(other)
    }
}

/// Whom recordings of terminals are encrypted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingKey {
    /// The file that it was read from.
    pub file: PathBuf,
    /// The key.
    pub to: Recipient,
}

/// Where the runner's own policy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    /// The file.
    pub path: PathBuf,
    /// Whether somebody named it: then it has to be there.
    pub named: bool,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Names for sets of guarantees, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// No new privileges, limits, clean environment, closed descriptors.
    Minimal,
    /// Landlock and seccomp as well.
    Confined,
    /// Own namespaces as well.
    Namespaces,
}

/// The tunnel's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// The most that the first wait of a cut takes.
    pub backoff_first: Duration,
    /// The most that a wait takes in the first two minutes of a cut.
    pub backoff_early_max: Duration,
    /// The most that a wait takes after them.
    pub backoff_max: Duration,
    /// A session that lasted this long starts the backoff again.
    pub lasted: Duration,
    /// What operations in flight get at the end.
    pub drain_grace: Duration,
}

/// The HTTP CONNECT proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    /// Where it is; `None`: direct.
    pub url: Option<ProxyUrl>,
    /// Hosts that are reached directly.
    pub no_proxy: String,
    /// The user that it is told.
    pub user: Option<String>,
    /// The file with that user's password.
    pub password_file: Option<PathBuf>,
}

/// `http://host:port` of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    /// A DNS name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The workers' programs, absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerPaths {
    /// Operations and resolvers.
    pub ops: PathBuf,
    /// Jobs.
    pub iac: PathBuf,
    /// What every job reads besides: engines, git, and what the configuration names.
    pub reads: Vec<PathBuf>,
    /// What a job may have where it has a control group of its own: memory, MiB.
    pub job_memory_mib: u32,
    /// Where they can be counted, also without one: processes and threads.
    pub job_processes: u32,
    /// Whether the system calls that operations and resolvers are refused are logged.
    pub tells_refused: bool,
}

/// The engines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Engines {
    /// OpenTofu where nobody asks for another version; `None`: found on PATH.
    pub opentofu: Option<PathBuf>,
    /// Terraform, likewise.
    pub terraform: Option<PathBuf>,
    /// Pulumi, likewise; its language hosts lie beside it.
    pub pulumi: Option<PathBuf>,
    /// Where the others are, by version.
    pub directory: PathBuf,
    /// The address or the folder that they are installed from; `None`: the vendors' own.
    pub mirror: Option<String>,
    /// Where providers' packages are that jobs install from.
    pub providers: PathBuf,
    /// SHA-256 of archives that are installed, by their names.
    pub checksums: BTreeMap<String, [u8; 32]>,
    /// TF_CLI_CONFIG_FILE.
    pub cli_config: Option<PathBuf>,
}

/// What jobs reach besides what every job does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jobs {
    /// Files and folders that they read, such as a mirror of providers; absolute.
    pub reads: Vec<PathBuf>,
    /// The only hosts that they connect to: name, `*.NAME`, address or network; empty: every one but those that none may.
    pub hosts: Vec<String>,
    /// Memory of each, MiB; 0: most of the machine's.
    pub memory_mib: u32,
    /// What each takes of the disk at most, MiB; 0: no bound.
    pub disk_mib: u32,
    /// Files and folders of each at most; 0: no bound.
    pub files: u32,
    /// How long they take at most, and wait.
    pub limits: TimeLimits,
    /// How often their plans are tried again that failed of what passes by itself.
    pub plan_retries: u32,
    /// Whether they run the hooks of their stacks.
    pub hooks: bool,
    /// Whether an engine goes on whose worker has died, and another worker with it.
    pub take_over: bool,
    /// What becomes of them when the runner is stopped.
    pub at_stop: AtStop,
    /// What there is from SIGTERM to SIGKILL where they are stopped.
    pub stop_grace: Duration,
    /// Whether they would end with the runner: it is the first process of a container.
    pub end_with_runner: bool,
    /// Where the states of those stacks are that have no backend.
    pub states: States,
}

/// What becomes of jobs when the runner is stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AtStop {
    /// They are asked to stop where they would end with the runner.
    #[default]
    Auto,
    /// They are asked to stop.
    Stop,
    /// They go on.
    Leave,
}

/// A named target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// A cluster, by kubeconfig.
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The context; empty: the file's current one.
        context: String,
        /// Programs that may be run for credentials, absolute.
        exec_plugins: Vec<String>,
        /// The service account whose token workers get in the place of these credentials.
        account: Option<ServiceAccount>,
        /// Every request is made as the user who asks, whose name in the cluster begins with this; `None`: as the credentials themselves.
        impersonate: Option<String>,
    },
    /// The cluster that the runner itself runs in.
    InCluster {
        /// The service account whose token workers get in the place of the pod's own.
        account: Option<ServiceAccount>,
        /// As of [`Self::Kubeconfig`].
        impersonate: Option<String>,
    },
    /// An AWS account.
    Aws {
        /// Where credentials come from.
        source: AwsSource,
        /// For [`AwsSource::Profile`].
        profile: String,
        /// The default region; empty: the source's own.
        region: String,
        /// A stand-in or a private endpoint; empty: AWS's own.
        endpoint_url: String,
        /// The session that workers get in the place of these credentials.
        session: Option<AwsSession>,
    },
    /// Projects of Google Cloud.
    Gcp(Gcp),
    /// Subscriptions of Azure.
    Azure(Azure),
}

/// A session of a role, perhaps narrowed by policies: STS' AssumeRole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSession {
    /// The role.
    pub role_arn: String,
    /// What its trust policy asks for; empty: nothing.
    pub external_id: String,
    /// Roles that are assumed before it, each with the session of the one before.
    pub chain: Vec<AwsRole>,
    /// By which it is known in CloudTrail.
    pub session_name: Template,
    /// Tags of the first session, and of all that come of it.
    pub tags: BTreeMap<String, Template>,
    /// Who is behind it, which no session that comes of it can change.
    pub source_identity: Option<Template>,
    /// How long it lasts.
    pub duration: Duration,
    /// An inline policy, JSON; empty: none.
    pub policy: String,
    /// Where it was read from.
    pub policy_file: Option<PathBuf>,
    /// Managed policies.
    pub policy_arns: Vec<String>,
}

/// A role on the way to another one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsRole {
    /// The role.
    pub role_arn: String,
    /// What its trust policy asks for; empty: nothing.
    #[serde(default)]
    pub external_id: String,
}

/// What a connection is for: what its credentials have to be allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// To see what there is.
    #[default]
    Browse,
    /// To read logs.
    Logs,
}

/// A service account of the cluster, whose bound token workers get in the place of a connection's credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How long a token lasts.
    pub duration: Duration,
    /// For whom it is; empty: the API server itself.
    pub audiences: Vec<String>,
}

/// Where AWS credentials come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AwsSource {
    /// The variables that the supervisor was started with.
    Environment,
    /// A profile of the shared configuration files.
    Profile,
    /// The machine's own role.
    InstanceRole,
}

/// Why there is no configuration. Exit code 78, or 64 for a flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

// === impl Config ===

impl Config {
    /// What a connection is for.
    pub fn purpose(&self, connection: &str) -> Purpose {
        self.purposes.get(connection).copied().unwrap_or_default()
    }
    /// What jobs get to stop when the runner is stopped; `None`: they are left.
    pub fn jobs_stop_within(&self) -> Option<Duration> {
        let stops = match self.jobs.at_stop {
            AtStop::Auto => self.jobs.end_with_runner,
            AtStop::Stop => true,
            AtStop::Leave => false,
        };
        stops.then(|| self.jobs.stop_grace.saturating_sub(STOP_RESERVE))
    }
    /// What the configuration lacks for the policy to be kept, so that some of what that allows is refused.
    pub fn lacks_for(&self, policy: &Policy) -> Option<String> {
        let rules = policy.recording_rules();
        if rules.is_empty() || self.audit.recording_key.is_some() {
            return None;
        }
        Some(format!(
            "audit.recording_key names no public key, and without one nothing can be recorded as the policy has it: record = true of rule {}",
            rules.join(", ")
        ))
    }
    /// What operations in flight get at the end, which is no more than what there is.
    pub fn drain_grace(&self) -> Duration {
        let most = self.jobs_stop_within().map(|within| within.saturating_sub(GOODBYE));
        most.map_or(self.tunnel.drain_grace, |most| self.tunnel.drain_grace.min(most))
    }
}

// === impl AtStop ===

impl AtStop {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Stop => "stop",
            Self::Leave => "leave",
        }
    }
}

// === impl Connection ===

impl Connection {
    /// The provider's name.
    pub const fn provider(&self) -> &'static str {
        match self {
            Self::Kubeconfig { .. } | Self::InCluster { .. } => "kubernetes",
            Self::Aws { .. } => "aws",
            Self::Gcp(_) => "gcp",
            Self::Azure(_) => "azure",
        }
    }
    /// Where its resources are unless a request says otherwise; empty: that is known where its credentials are.
    pub fn place(&self) -> &str {
        match self {
            Self::Kubeconfig { .. } | Self::InCluster { .. } => "",
            Self::Aws { region, .. } => region,
            Self::Gcp(gcp) => &gcp.project,
            Self::Azure(azure) => &azure.subscription,
        }
    }
    /// The file that its credentials are in, where the configuration names one.
    pub fn credentials_file(&self) -> Option<&PathBuf> {
        match self {
            Self::Kubeconfig { path, .. } => Some(path),
            Self::Gcp(gcp) => gcp.file(),
            Self::Azure(azure) => azure.file(),
            _ => None,
        }
    }
    /// What the sessions of an AWS connection say of whoever asks: each template of it.
    pub fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Aws { session: Some(session), .. } => std::iter::once(&session.session_name)
                .chain(session.tags.values())
                .chain(&session.source_identity)
                .collect(),
            _ => Vec::new(),
        }
    }
    /// The file that its session's policy was read from.
    pub fn policy_file(&self) -> Option<&PathBuf> {
        match self {
            Self::Aws { session: Some(session), .. } => session.policy_file.as_ref(),
            _ => None,
        }
    }
    /// What the names of the users begin with as whom requests are made; `None`: they are made as the credentials themselves.
    pub fn impersonate(&self) -> Option<&str> {
        match self {
            Self::Kubeconfig { impersonate, .. } | Self::InCluster { impersonate, .. } => impersonate.as_deref(),
            Self::Aws { .. } | Self::Gcp(_) | Self::Azure(_) => None,
        }
    }
    /// The service account whose token workers get.
    pub fn account(&self) -> Option<&ServiceAccount> {
        match self {
            Self::Kubeconfig { account, .. } | Self::InCluster { account, .. } => account.as_ref(),
            Self::Aws { .. } | Self::Gcp(_) | Self::Azure(_) => None,
        }
    }
}

// === impl Purpose ===

impl Purpose {
    /// As it is written and sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Browse => "browse",
            Self::Logs => "logs",
        }
    }
}

// === impl AwsSource ===

impl AwsSource {
    /// As it is written and sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::Profile => "profile",
            Self::InstanceRole => "instance_role",
        }
    }
}

// === impl Isolation ===

impl Isolation {
    /// As it is written and sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Confined => "confined",
            Self::Namespaces => "namespaces",
        }
    }
}

#[cfg(test)]
mod tests;
