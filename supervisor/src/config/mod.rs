//! The runner's configuration: flags over `RUNNERD_…` variables over `runner.toml` over defaults, parsed once into types that cannot be
//! wrong, before anything is opened. It must never hold a secret: those are files that it names.

mod check;
pub use check::DEFAULT_FILE;
mod programs;
mod settings;

pub use settings::{SETTINGS, Setting, Shown, Source};

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The largest configuration file that is read, bytes.
pub const FILE_MAX: u64 = 1024 * 1024;
/// The most connections in it.
pub const CONNECTIONS_MAX: usize = 1024;
/// The most entries of a list in it.
pub const LIST_MAX: usize = 64;

/// All of it.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that it was read from, if there was one.
    pub file: Option<PathBuf>,
    /// The credentials file.
    pub credentials: PathBuf,
    /// Where jobs, the instance's id and the admin socket are.
    pub state_dir: PathBuf,
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
    /// Whether a job's Git source may be a folder of this machine.
    pub allow_file_sources: bool,
    /// Named targets and how to authenticate to them.
    pub connections: BTreeMap<String, Connection>,
    /// What of the supervisor's own environment a resolver may be given: `AWS_*`, `HOME`, `PATH`.
    pub environment: BTreeMap<String, String>,
    /// Every effective value and its source, for `config show`.
    pub shown: Vec<Shown>,
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
    /// And processes.
    pub job_processes: u32,
}

/// The engines; `None`: found on PATH.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Engines {
    /// OpenTofu.
    pub opentofu: Option<PathBuf>,
    /// Terraform.
    pub terraform: Option<PathBuf>,
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
    },
    /// The cluster that the runner itself runs in.
    InCluster,
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
    },
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

// === impl Connection ===

impl Connection {
    /// The provider's name.
    pub const fn provider(&self) -> &'static str {
        match self {
            Self::Kubeconfig { .. } | Self::InCluster => "kubernetes",
            Self::Aws { .. } => "aws",
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
