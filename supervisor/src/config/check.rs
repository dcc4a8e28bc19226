//! From the merged table to types that cannot be wrong. Every message names the key, and what would be right.

use super::azure::FileAzure;
use super::gcp::FileGcp;
use super::narrow::{FileAccount, FileSession};
use super::secrets::{FileStore, STORES_MAX};
use super::settings::{self, Shown, Source};
use super::sources::{FileSources, Sources};
use super::states::{FileStates, States};
use super::{
    AtStop, AuditSettings, AwsRole, AwsSource, CONNECTIONS_MAX, Config, ConfigError, Connection, Engines, FILE_MAX,
    Isolation, Jobs, LIST_MAX, LogFormat, PolicyFile, Proxy, ProxyUrl, Purpose, RecordingKey, SETTINGS, ServiceAccount,
    Tunnel, WorkerPaths,
};
use crate::audit::recording::Recipient;
use crate::audit::{OnFailure, Sink};
use crate::engines::release::parse_sha256;
use crate::workers::WARM_MAX;
use serde::Deserialize;
use shared_proto::address::HostPattern;
use shared_proto::bounds::JOBS_AT_ONCE_MAX;
use shared_proto::limits;
use shared_proto::v1::TimeLimits;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file that is read where nobody names one, if it is there.
pub const DEFAULT_FILE: &str = "/etc/runner/runner.toml";
/// By which Azure tells what runs in it where tokens are.
pub const AZURE_VARIABLES: [&str; 4] =
    ["AZURE_FEDERATED_TOKEN_FILE", "AZURE_POD_IDENTITY_AUTHORITY_HOST", "IDENTITY_ENDPOINT", "IDENTITY_HEADER"];
/// The most checksums of engines' archives.
pub(super) const CHECKSUMS_MAX: usize = 256;
/// The directory of engines where nobody names one, in the state directory.
const ENGINES_FOLDER: &str = "engines";
/// That of providers' packages.
const PROVIDERS_FOLDER: &str = "providers";
/// The policy where nobody names one, beside the configuration file.
const POLICY_FILE: &str = "policy.toml";
/// The most of recordings that may be kept, MiB.
const RECORDINGS_MIB_MAX: u64 = 1 << 20;
/// The longest file of a public key that is read, bytes.
const KEY_FILE_MAX: u64 = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    credentials: PathBuf,
    state_dir: PathBuf,
    policy: PathBuf,
    audit: FileAudit,
    log_format: LogFormat,
    log_level: String,
    max_operations: u32,
    budget_mib: u64,
    jobs_at_once: u32,
    tunnel: FileTunnel,
    proxy: FileProxy,
    isolation: FileIsolation,
    workers: FileWorkers,
    engines: FileEngines,
    jobs: FileJobs,
    sources: FileSources,
    connections: BTreeMap<String, FileConnection>,
    secrets: BTreeMap<String, FileStore>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileAudit {
    on_failure: String,
    file_mib: u64,
    keep_files: u64,
    sink: String,
    recording_key: PathBuf,
    recording_mib: u64,
    recordings_mib: u64,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileTunnel {
    backoff_first_ms: u64,
    backoff_early_max_ms: u64,
    backoff_max_ms: u64,
    lasted_ms: u64,
    drain_grace_s: u64,
}
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct FileProxy {
    url: String,
    no_proxy: String,
    user: String,
    password_file: PathBuf,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileIsolation {
    require: Isolation,
    log_refused_calls: bool,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileWorkers {
    ops: PathBuf,
    iac: PathBuf,
    warm: u32,
}
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct FileEngines {
    opentofu: PathBuf,
    terraform: PathBuf,
    pulumi: PathBuf,
    directory: PathBuf,
    mirror: String,
    providers: PathBuf,
    checksums: BTreeMap<String, String>,
    cli_config: PathBuf,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileJobs {
    reads: String,
    hosts: String,
    memory_mib: u64,
    processes: u64,
    take_over: bool,
    at_stop: AtStop,
    stop_grace_s: u64,
    disk_mib: u64,
    files: u64,
    plan_limit_s: u64,
    apply_limit_s: u64,
    approval_limit_s: u64,
    silence_limit_s: u64,
    plan_retries: u64,
    states: FileStates,
    hooks: bool,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConnection {
    provider: String,
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    exec_plugins: Option<Vec<String>>,
    in_cluster: Option<bool>,
    source: Option<String>,
    profile: Option<String>,
    region: Option<String>,
    endpoint_url: Option<String>,
    assume_role_arn: Option<String>,
    external_id: Option<String>,
    role_chain: Option<Vec<AwsRole>>,
    session_name: Option<String>,
    session_tags: Option<BTreeMap<String, String>>,
    source_identity: Option<String>,
    session_seconds: Option<u64>,
    session_policy: Option<String>,
    session_policy_file: Option<PathBuf>,
    session_policy_arns: Option<Vec<String>>,
    tenant: Option<String>,
    client_id: Option<String>,
    client_secret_file: Option<PathBuf>,
    certificate_file: Option<PathBuf>,
    federated_token_file: Option<PathBuf>,
    subscription: Option<String>,
    cloud: Option<String>,
    service_account: Option<String>,
    token_seconds: Option<u64>,
    token_audiences: Option<Vec<String>>,
    impersonate: Option<bool>,
    impersonate_prefix: Option<String>,
    purpose: Option<Purpose>,
    plan_with: Option<String>,
    credentials_file: Option<PathBuf>,
    project: Option<String>,
    quota_project: Option<String>,
    impersonate_service_account: Option<Vec<String>>,
    impersonation_seconds: Option<u64>,
    scopes: Option<Vec<String>>,
    subject_token_hosts: Option<Vec<String>>,
}
// === impl File ===

impl Default for File {
    fn default() -> Self {
        Self {
            credentials: "/etc/runner/credentials.json".into(),
            state_dir: "/var/lib/runner".into(),
            policy: PathBuf::new(),
            audit: FileAudit::default(),
            log_format: LogFormat::Text,
            log_level: "info".into(),
            max_operations: shared_proto::bounds::OPERATIONS_DEFAULT,
            budget_mib: shared_proto::bounds::BUDGET_DEFAULT >> 20,
            jobs_at_once: 2,
            tunnel: FileTunnel::default(),
            proxy: FileProxy::default(),
            isolation: FileIsolation::default(),
            workers: FileWorkers::default(),
            engines: FileEngines::default(),
            jobs: FileJobs::default(),
            sources: FileSources::default(),
            connections: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    }
}
impl Default for FileTunnel {
    fn default() -> Self {
        Self {
            backoff_first_ms: 500,
            backoff_early_max_ms: 5000,
            backoff_max_ms: 30_000,
            lasted_ms: 10_000,
            drain_grace_s: shared_proto::bounds::DRAIN_GRACE.as_secs(),
        }
    }
}
impl Default for FileWorkers {
    fn default() -> Self {
        Self { ops: PathBuf::new(), iac: PathBuf::new(), warm: 16 }
    }
}
impl Default for FileJobs {
    fn default() -> Self {
        Self {
            reads: String::new(),
            hosts: String::new(),
            memory_mib: 0,
            processes: 4096,
            disk_mib: 10_240,
            files: 1_000_000,
            take_over: true,
            at_stop: AtStop::Auto,
            stop_grace_s: 30,
            plan_limit_s: 0,
            apply_limit_s: 0,
            approval_limit_s: 0,
            silence_limit_s: 0,
            plan_retries: 2,
            states: FileStates::default(),
            hooks: false,
        }
    }
}
impl Default for FileIsolation {
    fn default() -> Self {
        Self { require: Isolation::Confined, log_refused_calls: false }
    }
}

// === impl Config ===

impl Config {
    /// Reads the file (`--config`, else RUNNERD_CONFIG, else [`DEFAULT_FILE`] where it exists), puts variables and flags over it, and checks.
    ///
    /// # Errors
    /// One line that names the key and what would be right.
    pub fn load(
        named: Option<&Path>,
        flags: &BTreeMap<String, String>,
        variables: &BTreeMap<OsString, OsString>,
    ) -> Result<Self, ConfigError> {
        let named =
            named.map(Path::to_owned).or_else(|| variables.get(&OsString::from("RUNNERD_CONFIG")).map(PathBuf::from));
        let file = match named {
            Some(path) => Some(path),
            None => Some(PathBuf::from(DEFAULT_FILE)).filter(|p| p.exists()),
        };
        let table = match &file {
            None => toml::Table::new(),
            Some(path) => read(path)?,
        };
        let at = |message: String| match &file {
            Some(path) => ConfigError(format!("{}: {message}", path.display())),
            None => ConfigError(message),
        };
        let (table, mut sources) = settings::merge(table, flags, variables)?;
        let given = sources.clone();
        let blame = |message: String| match settings::named_otherwise(&message, &given) {
            Some(name) => ConfigError(format!("{name}: {message}")),
            None => at(message),
        };
        let mut parsed: File =
            toml::Value::Table(table).try_into().map_err(|e: toml::de::Error| blame(misshapen(&e)))?;
        from_environment(&mut parsed.proxy, &mut sources, variables)?;
        parsed.check(file.clone(), &sources, variables).map_err(|e| blame(e.0))
    }
}

fn read(path: &Path) -> Result<toml::Table, ConfigError> {
    let bad = |what: String| ConfigError(format!("{}: {what}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path)
        .map_err(|e| bad(format!("{e}; name the configuration file with --config or RUNNERD_CONFIG")))?;
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
    if text.len() as u64 > FILE_MAX {
        return Err(bad(format!("it is longer than {FILE_MAX} bytes")));
    }
    text.parse::<toml::Table>().map_err(|e| {
        let line = e.span().map_or(0, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        bad(format!("line {line}: {}", one_line(e.message())))
    })
}

/// What does not have the form of a configuration: which key, what is wrong with it, and where the keys are told.
pub(super) fn misshapen(error: &toml::de::Error) -> String {
    let whole = error.to_string();
    let key = whole.lines().find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'));
    let mut message = one_line(error.message());
    // a type's name in this program says nothing to anybody
    if let Some((found, _)) = message.split_once(", expected struct ") {
        message = format!("{found}, expected a table");
    }
    let at = key.map(|key| format!("{key}: ")).unwrap_or_default();
    format!("{at}{message}; `runner config show` lists the settings, the documentation those of connections")
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What other programs call the proxy, where our own settings say nothing. What is wrong with it is the variable's fault, not the file's.
fn from_environment(
    proxy: &mut FileProxy,
    sources: &mut BTreeMap<&'static str, Source>,
    variables: &BTreeMap<OsString, OsString>,
) -> Result<(), ConfigError> {
    let find = |names: [&'static str; 2]| {
        names.into_iter().find_map(|name| {
            let value = variables.get(&OsString::from(name))?.to_str().filter(|v| !v.is_empty())?;
            Some((name, value.to_owned()))
        })
    };
    if sources.get("proxy.url") == Some(&Source::Default)
        && let Some((name, url)) = find(["HTTPS_PROXY", "https_proxy"])
    {
        let (_, user) = ProxyUrl::parse(&url).map_err(|e| ConfigError(format!("{name}: {}", e.0)))?;
        if carries_password(user.as_deref()) {
            return Err(ConfigError(format!(
                "{name} carries a password: set proxy.url without it, and proxy.user and proxy.password_file"
            )));
        }
        proxy.url = url;
        sources.insert("proxy.url", Source::Environment);
    }
    if sources.get("proxy.no_proxy") == Some(&Source::Default)
        && let Some((_, list)) = find(["NO_PROXY", "no_proxy"])
    {
        proxy.no_proxy = list;
        sources.insert("proxy.no_proxy", Source::Environment);
    }
    Ok(())
}

/// Whether the user part of a URL is `user:password`.
fn carries_password(user: Option<&str>) -> bool {
    user.is_some_and(|user| user.contains(':'))
}

impl File {
    fn check(
        self,
        file: Option<PathBuf>,
        sources: &BTreeMap<&'static str, Source>,
        variables: &BTreeMap<OsString, OsString>,
    ) -> Result<Config, ConfigError> {
        let within = |key: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                Ok(value)
            } else {
                Err(ConfigError(format!("{key} is {value}, it must be from {least} to {most}")))
            }
        };
        let max_operations = within("max_operations", self.max_operations.into(), 1, 65_536)? as u32;
        let budget = within("budget_mib", self.budget_mib, 4, 4096)? << 20;
        let jobs_at_once = within("jobs_at_once", self.jobs_at_once.into(), 0, JOBS_AT_ONCE_MAX.into())? as u32;
        let t = &self.tunnel;
        let millis = |key, value, least| within(key, value, least, 3_600_000).map(Duration::from_millis);
        let tunnel = Tunnel {
            backoff_first: millis("tunnel.backoff_first_ms", t.backoff_first_ms, 10)?,
            backoff_early_max: millis("tunnel.backoff_early_max_ms", t.backoff_early_max_ms, t.backoff_first_ms)?,
            backoff_max: millis("tunnel.backoff_max_ms", t.backoff_max_ms, t.backoff_early_max_ms)?,
            lasted: millis("tunnel.lasted_ms", t.lasted_ms, 0)?,
            drain_grace: Duration::from_secs(within("tunnel.drain_grace_s", t.drain_grace_s, 0, 3600)?),
        };
        let proxy = proxy(&self.proxy)?;
        let beside = std::env::current_exe().ok().and_then(|p| Some(p.parent()?.to_owned())).unwrap_or_default();
        let workers = WorkerPaths {
            ops: absolute("workers.ops", self.workers.ops)?.unwrap_or_else(|| beside.join("runner-worker-ops")),
            iac: absolute("workers.iac", self.workers.iac)?.unwrap_or_else(|| beside.join("runner-worker-iac")),
            reads: Vec::new(),
            job_memory_mib: 0,
            tells_refused: self.isolation.log_refused_calls,
            job_processes: within("jobs.processes", self.jobs.processes, 16, u64::from(u32::MAX) - 1)? as u32,
        };
        let workers_warm = within("workers.warm", self.workers.warm.into(), 0, WARM_MAX.into())? as u32;
        // what a file says does not depend on where somebody was when he started the runner
        let folder = file.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let whole = |key: &str, path: &Path| match path {
            path if path.as_os_str().is_empty() => Err(ConfigError(format!("{key} must not be empty"))),
            path => {
                let path = if sources.get(key) == Some(&Source::File) { folder.join(path) } else { path.to_owned() };
                std::path::absolute(path).map_err(|e| ConfigError(format!("{key}: {e}")))
            }
        };
        let (credentials, state_dir) = (whole("credentials", &self.credentials)?, whole("state_dir", &self.state_dir)?);
        let engines = Engines {
            opentofu: absolute("engines.opentofu", self.engines.opentofu)?,
            terraform: absolute("engines.terraform", self.engines.terraform)?,
            pulumi: absolute("engines.pulumi", self.engines.pulumi)?,
            directory: absolute("engines.directory", self.engines.directory)?
                .unwrap_or_else(|| state_dir.join(ENGINES_FOLDER)),
            providers: absolute("engines.providers", self.engines.providers)?
                .unwrap_or_else(|| state_dir.join(PROVIDERS_FOLDER)),
            mirror: Some(self.engines.mirror).filter(|mirror| !mirror.is_empty()),
            checksums: checksums(self.engines.checksums)?,
            cli_config: absolute("engines.cli_config", self.engines.cli_config)?,
        };
        let memory_mib = within("jobs.memory_mib", self.jobs.memory_mib, 0, u64::from(u32::MAX) - 1)? as u32;
        let disk_mib = within("jobs.disk_mib", self.jobs.disk_mib, 0, u64::from(u32::MAX) - 1)? as u32;
        let files = within("jobs.files", self.jobs.files, 0, u64::from(u32::MAX) - 1)? as u32;
        let limit = |name: &str, value: u64| match value {
            0 => Ok(0),
            some => within(&format!("jobs.{name}_limit_s"), some, limits::least(name).into(), limits::MAX.into())
                .map(|seconds| seconds as u32),
        };
        let (reads, hosts) = (reads(&self.jobs.reads)?, hosts(&self.jobs.hosts)?);
        let mut jobs = Jobs {
            reads,
            hosts,
            memory_mib,
            disk_mib,
            files,
            limits: TimeLimits {
                plan: limit("plan", self.jobs.plan_limit_s)?,
                apply: limit("apply", self.jobs.apply_limit_s)?,
                approval: limit("approval", self.jobs.approval_limit_s)?,
                silence: limit("silence", self.jobs.silence_limit_s)?,
            },
            plan_retries: within("jobs.plan_retries", self.jobs.plan_retries, 0, 10)? as u32,
            hooks: self.jobs.hooks,
            take_over: self.jobs.take_over,
            at_stop: self.jobs.at_stop,
            stop_grace: Duration::from_secs(within("jobs.stop_grace_s", self.jobs.stop_grace_s, 5, 86_400)?),
            end_with_runner: variables.contains_key(&OsString::from(crate::container::VARIABLE)),
            states: States::default(),
        };
        if self.connections.len() > CONNECTIONS_MAX {
            return Err(ConfigError(format!("more than {CONNECTIONS_MAX} connections")));
        }
        let (mut connections, mut purposes, mut plan_with) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (name, mut entry) in self.connections {
            purposes.extend(entry.purpose.map(|purpose| (name.clone(), purpose)));
            plan_with.extend(entry.plan_with.take().map(|with| (name.clone(), with)));
            let connection = entry.check(&name)?;
            connections.insert(name, connection);
        }
        for (name, with) in &plan_with {
            let bad = |what: &str| ConfigError(format!("connections.{name}.plan_with: {what}"));
            let provider = |name: &String| connections.get(name).map(Connection::provider);
            match provider(with) {
                None => return Err(bad(&format!("there is no connection {with:?}"))),
                Some(_) if with == name => return Err(bad("names the connection itself")),
                Some(_) if plan_with.contains_key(with) => {
                    return Err(bad(&format!("the connection {with:?} has a plan_with of its own")));
                }
                found if found != provider(name) => {
                    return Err(bad(&format!("the connection {with:?} is of another provider")));
                }
                Some(_) => {}
            }
        }
        if self.secrets.len() > STORES_MAX {
            return Err(ConfigError(format!("more than {STORES_MAX} stores of secrets")));
        }
        let mut secrets = BTreeMap::new();
        for (name, entry) in self.secrets {
            let store = entry.check(&name, &connections)?;
            secrets.insert(name, store);
        }
        jobs.states = self.jobs.states.check(&connections)?;
        let fetched = self.sources.check()?;
        let policy = if self.policy.as_os_str().is_empty() {
            let beside = file.as_deref().unwrap_or(Path::new(DEFAULT_FILE)).with_file_name(POLICY_FILE);
            let path = std::path::absolute(beside).map_err(|e| ConfigError(format!("policy: {e}")))?;
            PolicyFile { path, named: false }
        } else {
            PolicyFile { path: whole("policy", &self.policy)?, named: true }
        };
        let recording_key = match &self.audit.recording_key {
            none if none.as_os_str().is_empty() => None,
            path => Some(whole("audit.recording_key", path)?),
        };
        let mut config = Config {
            file,
            credentials,
            state_dir,
            policy,
            audit: self.audit.check(recording_key)?,
            log_format: self.log_format,
            log_level: self.log_level,
            max_operations,
            budget,
            jobs_at_once,
            tunnel,
            proxy,
            isolation_require: self.isolation.require,
            workers,
            workers_warm,
            engines,
            jobs,
            environment: environment(variables, &fetched),
            sources: fetched,
            connections,
            secrets,
            purposes,
            plan_with,
            shown: Vec::new(),
        };
        config.keep_from_jobs()?;
        config.keep_from_secrets()?;
        config.workers.reads = config.job_reads();
        config.workers.job_memory_mib = match config.jobs.memory_mib {
            0 => most_of_the_memory(),
            mib => mib,
        };
        config.shown = config.show(sources);
        Ok(config)
    }
}

impl Default for FileAudit {
    fn default() -> Self {
        Self {
            on_failure: "closed".to_owned(),
            file_mib: 64,
            keep_files: 32,
            sink: String::new(),
            recording_key: PathBuf::new(),
            recording_mib: 64,
            recordings_mib: 1024,
        }
    }
}

impl FileAudit {
    /// `recording_key`: its file, whole.
    fn check(self, recording_key: Option<PathBuf>) -> Result<AuditSettings, ConfigError> {
        let bad = |what: String| Err(ConfigError(format!("audit.{what}")));
        let on_failure = match self.on_failure.as_str() {
            "closed" => OnFailure::Closed,
            "open" => OnFailure::Open,
            other => return bad(format!("on_failure: {other:?} is neither closed nor open")),
        };
        if !(1..=1024).contains(&self.file_mib) {
            return bad(format!("file_mib: {} is not from 1 to 1024", self.file_mib));
        }
        let sink = match self.sink.split_once(':') {
            None if self.sink.is_empty() => None,
            Some(("file", path)) if path.starts_with('/') => Some(Sink::File(path.into())),
            Some(("syslog", path)) if path.starts_with('/') => Some(Sink::Syslog(path.into())),
            _ => return bad(format!("sink: {:?} is neither file:/PATH nor syslog:/PATH", self.sink)),
        };
        let keep_files = Some(self.keep_files).filter(|files| *files > 0);
        let recording_key = match recording_key {
            None => None,
            Some(file) => match recipient(&file) {
                Ok(to) => Some(RecordingKey { file, to }),
                Err(why) => return bad(format!("recording_key: {}: {why}", file.display())),
            },
        };
        if !(1..=1024).contains(&self.recording_mib) {
            return bad(format!("recording_mib: {} is not from 1 to 1024", self.recording_mib));
        }
        if !(self.recording_mib..=RECORDINGS_MIB_MAX).contains(&self.recordings_mib) {
            return bad(format!(
                "recordings_mib: {} is not from {} (recording_mib) to {RECORDINGS_MIB_MAX}",
                self.recordings_mib, self.recording_mib
            ));
        }
        Ok(AuditSettings {
            on_failure,
            file_max: self.file_mib << 20,
            keep_files,
            sink,
            recording_key,
            recording_max: self.recording_mib << 20,
            recordings_max: self.recordings_mib << 20,
        })
    }
}

/// The key in that file, in which there is nothing else.
fn recipient(file: &Path) -> Result<Recipient, String> {
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(|e| e.to_string())?;
    opened.take(KEY_FILE_MAX).read_to_string(&mut text).map_err(|e| e.to_string())?;
    Recipient::from_text(&text).map_err(|e| format!("{e}; it is made by `openssl pkey -pubout` from an X25519 key"))
}

/// Three quarters of this machine's, MiB: what a job may have that nobody has said more about.
fn most_of_the_memory() -> u32 {
    u32::try_from(memory_kib("MemTotal").unwrap_or(4 << 20) / 1024 * 3 / 4).unwrap_or(u32::MAX - 1)
}

/// A line of `/proc/meminfo` (`proc_meminfo(5)`), KiB.
pub(crate) fn memory_kib(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let of_line =
        |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.split_ascii_whitespace().next()?.parse().ok();
    text.lines().find_map(of_line)
}

/// SHA-256 by the names of archives.
fn checksums(given: BTreeMap<String, String>) -> Result<BTreeMap<String, [u8; 32]>, ConfigError> {
    if given.len() > CHECKSUMS_MAX {
        return Err(ConfigError(format!("engines.checksums has more than {CHECKSUMS_MAX} entries")));
    }
    let one = |(name, digits): (String, String)| match parse_sha256(&digits) {
        Some(digest) => Ok((name, digest)),
        None => Err(ConfigError(format!("engines.checksums: that of {name:?} is no SHA-256 of 64 hexadecimal digits"))),
    };
    given.into_iter().map(one).collect()
}

/// Links are what they lead to; what is not there yet is taken by its name.
pub(super) fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Whether one of these has the other in it, or is it.
pub(super) fn nested(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Paths between colons, as in PATH.
fn reads(text: &str) -> Result<Vec<PathBuf>, ConfigError> {
    let paths: Vec<_> = text.split(':').filter(|p| !p.is_empty()).map(PathBuf::from).collect();
    match paths.iter().find(|p| !p.is_absolute()) {
        Some(path) => Err(ConfigError(format!("jobs.reads: {:?} is no absolute path", path.display().to_string()))),
        None if paths.len() > LIST_MAX => Err(ConfigError(format!("jobs.reads has more than {LIST_MAX} paths"))),
        None => Ok(paths),
    }
}

/// Hosts between commas.
fn hosts(text: &str) -> Result<Vec<String>, ConfigError> {
    let hosts: Vec<_> = text.split(',').map(str::trim).filter(|h| !h.is_empty()).map(str::to_owned).collect();
    match hosts.iter().find(|h| HostPattern::parse(h).is_none()) {
        Some(host) => Err(ConfigError(format!(
            "jobs.hosts: {host:?} is none of a name, *.NAME, an address, or a network as in 10.0.0.0/8"
        ))),
        None if hosts.len() > LIST_MAX => Err(ConfigError(format!("jobs.hosts has more than {LIST_MAX} hosts"))),
        None => Ok(hosts),
    }
}

impl Config {
    /// What jobs read must not have the runner's own files in it, nor those of connections.
    fn keep_from_jobs(&self) -> Result<(), ConfigError> {
        let of_connections = self.connections.values().filter_map(Connection::credentials_file);
        let plan_rules = crate::policy::plan_rules_folder(&self.policy.path);
        let own = [&self.credentials, &self.state_dir, &self.policy.path, &plan_rules]
            .into_iter()
            .chain(&self.proxy.password_file)
            .chain(of_connections)
            .chain(self.of_secrets().0)
            .chain(self.of_secrets().1)
            .chain(&self.jobs.states.key_file)
            .chain(self.sources.files());
        let folders = [
            ("engines.directory", &self.engines.directory, ENGINES_FOLDER),
            ("engines.providers", &self.engines.providers, PROVIDERS_FOLDER),
        ];
        // where they are by default, they are in the state directory, by themselves
        let elsewhere = folders.into_iter().filter(|(_, folder, name)| **folder != self.state_dir.join(name));
        let reads = self.jobs.reads.iter().map(|read| ("jobs.reads", read));
        let reads: Vec<_> = reads.chain(elsewhere.map(|(setting, folder, _)| (setting, folder))).collect();
        for path in own {
            let kept = real(path);
            for (setting, read) in &reads {
                let shown = real(read);
                if nested(&kept, &shown) {
                    return Err(ConfigError(format!(
                        "{setting}: {} would show jobs {}: name a folder that does not have it",
                        read.display(),
                        path.display()
                    )));
                }
            }
        }
        Ok(())
    }

    fn show(&self, sources: &BTreeMap<&'static str, Source>) -> Vec<Shown> {
        let path = |p: &Option<PathBuf>| p.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
        let value = |key: &str| -> String {
            match key {
                "credentials" => self.credentials.display().to_string(),
                "state_dir" => self.state_dir.display().to_string(),
                "audit.on_failure" => match self.audit.on_failure {
                    OnFailure::Closed => "closed".to_owned(),
                    OnFailure::Open => "open".to_owned(),
                },
                "audit.file_mib" => (self.audit.file_max >> 20).to_string(),
                "audit.keep_files" => self.audit.keep_files.unwrap_or(0).to_string(),
                "audit.sink" => match &self.audit.sink {
                    Some(Sink::File(path)) => format!("file:{}", path.display()),
                    Some(Sink::Syslog(path)) => format!("syslog:{}", path.display()),
                    None => String::new(),
                },
                "audit.recording_key" => path(&self.audit.recording_key.as_ref().map(|key| key.file.clone())),
                "audit.recording_mib" => (self.audit.recording_max >> 20).to_string(),
                "audit.recordings_mib" => (self.audit.recordings_max >> 20).to_string(),
                "policy" => self.policy.path.display().to_string(),
                "log_format" => if self.log_format == LogFormat::Json { "json" } else { "text" }.to_owned(),
                "log_level" => self.log_level.clone(),
                "max_operations" => self.max_operations.to_string(),
                "budget_mib" => (self.budget >> 20).to_string(),
                "jobs_at_once" => self.jobs_at_once.to_string(),
                "tunnel.backoff_first_ms" => self.tunnel.backoff_first.as_millis().to_string(),
                "tunnel.backoff_early_max_ms" => self.tunnel.backoff_early_max.as_millis().to_string(),
                "tunnel.backoff_max_ms" => self.tunnel.backoff_max.as_millis().to_string(),
                "tunnel.lasted_ms" => self.tunnel.lasted.as_millis().to_string(),
                "tunnel.drain_grace_s" => self.tunnel.drain_grace.as_secs().to_string(),
                "proxy.url" => self.proxy.url.as_ref().map(ProxyUrl::url).unwrap_or_default(),
                "proxy.no_proxy" => self.proxy.no_proxy.clone(),
                "proxy.user" => self.proxy.user.clone().unwrap_or_default(),
                "proxy.password_file" => path(&self.proxy.password_file),
                "isolation.require" => self.isolation_require.as_str().to_owned(),
                "isolation.log_refused_calls" => self.workers.tells_refused.to_string(),
                "workers.ops" => self.workers.ops.display().to_string(),
                "workers.warm" => self.workers_warm.to_string(),
                "workers.iac" => self.workers.iac.display().to_string(),
                "engines.opentofu" => path(&self.engines.opentofu),
                "engines.terraform" => path(&self.engines.terraform),
                "engines.pulumi" => path(&self.engines.pulumi),
                "engines.providers" => self.engines.providers.display().to_string(),
                "engines.mirror" => self.engines.mirror.clone().unwrap_or_default(),
                "engines.directory" => self.engines.directory.display().to_string(),
                "engines.cli_config" => path(&self.engines.cli_config),
                "jobs.reads" => {
                    let shown: Vec<_> = self.jobs.reads.iter().map(|p| p.display().to_string()).collect();
                    shown.join(":")
                }
                "jobs.take_over" => self.jobs.take_over.to_string(),
                "jobs.at_stop" => self.jobs.at_stop.as_str().to_owned(),
                "jobs.stop_grace_s" => self.jobs.stop_grace.as_secs().to_string(),
                "jobs.memory_mib" => self.jobs.memory_mib.to_string(),
                "jobs.disk_mib" => self.jobs.disk_mib.to_string(),
                "jobs.files" => self.jobs.files.to_string(),
                "jobs.plan_retries" => self.jobs.plan_retries.to_string(),
                "jobs.hooks" => self.jobs.hooks.to_string(),
                "jobs.plan_limit_s" => self.jobs.limits.plan.to_string(),
                "jobs.apply_limit_s" => self.jobs.limits.apply.to_string(),
                "jobs.approval_limit_s" => self.jobs.limits.approval.to_string(),
                "jobs.silence_limit_s" => self.jobs.limits.silence.to_string(),
                "jobs.processes" => self.workers.job_processes.to_string(),
                "jobs.hosts" => self.jobs.hosts.join(","),
                "sources.allow_file" => self.sources.allow_file.to_string(),
                "sources.cache_mib" => (self.sources.cache >> 20).to_string(),
                _ => String::new(),
            }
        };
        let settings = SETTINGS.iter().map(|s| Shown {
            key: s.key.to_owned(),
            value: value(s.key),
            source: sources.get(s.key).copied().unwrap_or(Source::Default),
        });
        let connections = self.connections.iter().map(|(name, connection)| Shown {
            key: format!("connections.{name}"),
            value: match connection {
                Connection::Kubeconfig { path, context, account, impersonate, .. } => {
                    format!(
                        "kubernetes {} {context} {} {}",
                        path.display(),
                        of_account(account),
                        of_caller(impersonate)
                    )
                }
                Connection::InCluster { account, impersonate } => {
                    format!("kubernetes in_cluster {} {}", of_account(account), of_caller(impersonate))
                }
                Connection::Aws { source, profile, region, endpoint_url, session } => {
                    let session = session.as_ref().map(|s| format!("as {}", s.role_arn)).unwrap_or_default();
                    format!("aws {} {profile} {region} {endpoint_url} {session}", source.as_str())
                }
                Connection::Gcp(gcp) => gcp.shown(),
                Connection::Azure(azure) => azure.shown(),
            }
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
            source: Source::File,
        });
        let secrets = self.secrets.iter().map(|(name, store)| Shown {
            key: format!("secrets.{name}"),
            value: store.shown(),
            source: Source::File,
        });
        let fetched = self.sources.entries.iter().map(|(name, entry)| Shown {
            key: format!("sources.{name}"),
            value: entry.shown(),
            source: Source::File,
        });
        let states =
            self.jobs.states.shown().map(|value| Shown { key: "jobs.states".to_owned(), value, source: Source::File });
        settings.chain(states).chain(fetched).chain(connections).chain(secrets).collect()
    }
}

fn of_account(account: &Option<ServiceAccount>) -> String {
    account.as_ref().map(|a| format!("as {}/{}", a.namespace, a.name)).unwrap_or_default()
}

fn of_caller(impersonate: &Option<String>) -> String {
    impersonate.as_ref().map(|prefix| format!("for {prefix}USER")).unwrap_or_default()
}

fn absolute(key: &str, path: PathBuf) -> Result<Option<PathBuf>, ConfigError> {
    match path {
        p if p.as_os_str().is_empty() => Ok(None),
        p if p.is_absolute() => Ok(Some(p)),
        p => Err(ConfigError(format!("{key}: {} is not an absolute path", p.display()))),
    }
}

fn proxy(file: &FileProxy) -> Result<Proxy, ConfigError> {
    let (url, in_url) = match file.url.as_str() {
        "" => (None, None),
        text => {
            let (url, user) = ProxyUrl::parse(text).map_err(|e| ConfigError(format!("proxy.url: {}", e.0)))?;
            (Some(url), user)
        }
    };
    if carries_password(in_url.as_deref()) {
        return Err(ConfigError(
            "proxy.url carries a password: put its user into proxy.user and the password into proxy.password_file"
                .into(),
        ));
    }
    let user = Some(file.user.clone()).filter(|u| !u.is_empty()).or(in_url);
    if user.as_ref().is_some_and(|u| u.contains(':') || u.chars().any(char::is_control)) {
        return Err(ConfigError("proxy.user must have no colon and no control character".into()));
    }
    let password_file = Some(file.password_file.clone()).filter(|p| !p.as_os_str().is_empty());
    if password_file.is_some() && user.is_none() {
        return Err(ConfigError("proxy.password_file needs proxy.user: set both, or neither".into()));
    }
    Ok(Proxy { url, no_proxy: file.no_proxy.clone(), user, password_file })
}

impl ProxyUrl {
    /// Parses `http://[user@]host:port`, the scheme being optional as in HTTPS_PROXY.
    ///
    /// # Errors
    /// What is wrong with it; never its user part, which may be a password.
    pub fn parse(text: &str) -> Result<(Self, Option<String>), ConfigError> {
        let bad = |what: &str| ConfigError(format!("the proxy's URL {what}; it must be http://host:port"));
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(bad("is not an http:// one")),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, host) = match rest.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, rest),
        };
        let authority: http::uri::Authority = host.parse().map_err(|_| bad("has no valid host"))?;
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        if name.is_empty() {
            return Err(bad("has no host"));
        }
        Ok((Self { host: name.to_owned(), port: authority.port_u16().unwrap_or(3128) }, user))
    }
    /// As other programs take it: `http://host:port`, without a login.
    pub fn url(&self) -> String {
        format!("http://{}", self.authority())
    }
    /// `host:port`, an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FileConnection {
    fn check(self, name: &str) -> Result<Connection, ConfigError> {
        let bad = |what: &str| ConfigError(format!("connections.{name}: {what}"));
        if name.is_empty()
            || name.len() > 128
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        {
            return Err(bad("a name has letters, digits, '-', '.' and '_', at most 128"));
        }
        let account = FileAccount {
            service_account: self.service_account,
            token_seconds: self.token_seconds,
            token_audiences: self.token_audiences,
        };
        let session = FileSession {
            assume_role_arn: self.assume_role_arn,
            external_id: self.external_id,
            role_chain: self.role_chain,
            session_name: self.session_name,
            session_tags: self.session_tags,
            source_identity: self.source_identity,
            session_seconds: self.session_seconds,
            session_policy: self.session_policy,
            session_policy_file: self.session_policy_file,
            session_policy_arns: self.session_policy_arns,
        };
        let gcp = FileGcp {
            credentials_file: self.credentials_file,
            project: self.project,
            quota_project: self.quota_project,
            impersonate_service_account: self.impersonate_service_account,
            impersonation_seconds: self.impersonation_seconds,
            scopes: self.scopes,
            subject_token_hosts: self.subject_token_hosts,
        };
        let azure = FileAzure {
            tenant: self.tenant,
            client_id: self.client_id,
            client_secret_file: self.client_secret_file,
            certificate_file: self.certificate_file,
            federated_token_file: self.federated_token_file,
            subscription: self.subscription,
            cloud: self.cloud,
        };
        let kubernetes = self.kubeconfig.is_some()
            || self.context.is_some()
            || self.exec_plugins.is_some()
            || self.in_cluster.is_some()
            || self.impersonate.is_some()
            || self.impersonate_prefix.is_some()
            || account.is_given();
        let prefix = self.impersonate_prefix.unwrap_or_default();
        let impersonate = match self.impersonate {
            Some(true) if prefix.len() > 64 || !prefix.bytes().all(|b| b.is_ascii_graphic()) => {
                return Err(bad("impersonate_prefix has at most 64 characters, and no space"));
            }
            Some(true) if prefix.starts_with("system:") => {
                return Err(bad(
                    "impersonate_prefix makes users of the cluster's own kind: begin it with something else than system:",
                ));
            }
            Some(true) => Some(prefix),
            _ if !prefix.is_empty() => return Err(bad("impersonate_prefix needs impersonate = true")),
            _ => None,
        };
        let aws = self.profile.is_some() || self.region.is_some() || session.is_given();
        let cloud = self.source.is_some() || self.endpoint_url.is_some();
        let endpoint_url = self.endpoint_url.unwrap_or_default();
        if !endpoint_url.is_empty() && !endpoint_url.starts_with("https://") && !endpoint_url.starts_with("http://") {
            return Err(bad("endpoint_url must start with https:// or http://"));
        }
        match self.provider.as_str() {
            "kubernetes" if cloud => Err(bad("source and endpoint_url belong to a cloud's provider, such as \"aws\"")),
            "aws" | "azure" | "kubernetes" if gcp.is_given() => Err(bad(
                "credentials_file, project, quota_project, impersonate_service_account, impersonation_seconds, scopes and subject_token_hosts belong to provider \"gcp\"",
            )),
            "aws" | "gcp" | "kubernetes" if azure.is_given() => Err(bad(
                "tenant, client_id, client_secret_file, certificate_file, federated_token_file, subscription and cloud belong to provider \"azure\"",
            )),
            "azure" | "gcp" | "kubernetes" if aws => Err(bad(
                "profile, region, assume_role_arn, role_chain, external_id, source_identity and session_… belong to provider \"aws\"",
            )),
            "kubernetes" => match (self.in_cluster.unwrap_or(false), self.kubeconfig) {
                (true, None) if self.context.is_none() && self.exec_plugins.is_none() => {
                    Ok(Connection::InCluster { account: account.check(name)?, impersonate })
                }
                (true, _) => Err(bad("in_cluster takes neither kubeconfig nor context nor exec_plugins")),
                (false, None) => Err(bad("needs kubeconfig = \"/path\" or in_cluster = true")),
                (false, Some(path)) => {
                    let path = absolute(&format!("connections.{name}.kubeconfig"), path)?
                        .ok_or_else(|| bad("kubeconfig is empty"))?;
                    let exec_plugins = self.exec_plugins.unwrap_or_default();
                    if let Some(plugin) = exec_plugins.iter().find(|p| !Path::new(p).is_absolute()) {
                        return Err(bad(&format!("exec_plugins: {plugin:?} is not an absolute path")));
                    }
                    let (context, account) = (self.context.unwrap_or_default(), account.check(name)?);
                    Ok(Connection::Kubeconfig { path, context, exec_plugins, account, impersonate })
                }
            },
            "aws" | "azure" | "gcp" if kubernetes => Err(bad(
                "kubeconfig, context, exec_plugins, in_cluster, service_account, token_… and impersonate… belong to provider \"kubernetes\"",
            )),
            "aws" => {
                let source = source_of::<AwsSource>(name, self.source)?
                    .ok_or_else(|| bad("needs source = \"environment\", \"profile\" or \"instance_role\""))?;
                let profile = self.profile.unwrap_or_default();
                if (source == AwsSource::Profile) == profile.is_empty() {
                    return Err(bad("profile belongs to source = \"profile\", which needs it"));
                }
                let (region, session) = (self.region.unwrap_or_default(), session.check(name)?);
                Ok(Connection::Aws { source, profile, region, endpoint_url, session })
            }
            "gcp" => {
                let source = source_of(name, self.source)?;
                Ok(Connection::Gcp(gcp.check(name, source, endpoint_url)?))
            }
            "azure" => {
                let source = source_of(name, self.source)?;
                Ok(Connection::Azure(azure.check(name, source, endpoint_url)?))
            }
            other => Err(bad(&format!("provider {other:?} is not one: kubernetes, aws, gcp, azure"))),
        }
    }
}

/// One of a provider's sources of credentials.
fn source_of<T: serde::de::DeserializeOwned>(name: &str, source: Option<String>) -> Result<Option<T>, ConfigError> {
    let wrong = |e: toml::de::Error| ConfigError(format!("connections.{name}.source: {}", one_line(e.message())));
    source.map(|source| toml::Value::String(source).try_into()).transpose().map_err(wrong)
}

/// The part of the supervisor's own environment that a resolver may be given.
fn environment(variables: &BTreeMap<OsString, OsString>, sources: &Sources) -> BTreeMap<String, String> {
    let named_by_sources: Vec<_> = sources.variables().collect();
    variables
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)))
        .filter(|(name, _)| {
            let named = matches!(*name, "GCE_METADATA_HOST" | "HOME" | "PATH") || AZURE_VARIABLES.contains(name);
            name.starts_with("AWS_") || named || named_by_sources.contains(name)
        })
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
