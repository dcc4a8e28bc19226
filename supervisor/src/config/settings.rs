//! The table of settings: one line here makes a flag, a variable and a key of `runner.toml`. Their values are put one over the other, with
//! where each came from, before they are checked.

use super::ConfigError;
use std::collections::BTreeMap;
use std::ffi::OsString;
use toml::{Table, Value};

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its key in `runner.toml`, with its table. Flag and variable are made of it.
    pub key: &'static str,
    /// What kind of value it takes.
    pub kind: Kind,
    /// Its default as it is shown.
    pub default: &'static str,
    /// What it is, for `--help`.
    pub help: &'static str,
}

/// What kind of value a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number.
    Number,
    /// true or false.
    Switch,
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A flag.
    Flag,
    /// A `RUNNERD_…` variable.
    Variable,
    /// The configuration file.
    File,
    /// Another program's usual variable, such as HTTPS_PROXY.
    Environment,
    /// Nobody said anything.
    Default,
}

/// An effective value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The setting.
    pub key: String,
    /// Its value, as text; empty: none.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

const fn text(key: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, kind: Kind::Text, default, help }
}
const fn switch(key: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, kind: Kind::Switch, default, help }
}
const fn number(key: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, kind: Kind::Number, default, help }
}

/// Every setting but the connections, which only the file can have.
pub const SETTINGS: &[Setting] = &[
    text(
        "credentials",
        "/etc/runner/credentials.json",
        "The credentials file that `runnerctl runner generate-credentials` wrote",
    ),
    text("state_dir", "/var/lib/runner", "Where jobs, the instance's id and the admin socket are kept"),
    text(
        "policy",
        "",
        "What may be asked of this runner; else policy.toml beside the configuration file, if it is there",
    ),
    text(
        "audit.on_failure",
        "closed",
        "What a request does that cannot be written into the audit log: closed, it is refused; open, it goes on and is counted",
    ),
    number("audit.file_mib", "64", "The audit log's next file is begun when one is so long, MiB, 1 to 1024"),
    number("audit.keep_files", "32", "So many of its files are kept; 0: all"),
    text("audit.sink", "", "Where its lines are handed on to: file:/PATH or syslog:/dev/log"),
    text(
        "audit.recording_key",
        "",
        "The file with the public key (X25519, PEM) that recordings of terminals are encrypted to; without it what the policy has recorded is refused",
    ),
    number(
        "audit.recording_mib",
        "64",
        "A recording of a terminal ends, and its session with it, when it is so long, MiB, 1 to 1024",
    ),
    number("audit.recordings_mib", "1024", "So much of recordings is kept, MiB; the oldest go"),
    text("log_format", "text", "text or json"),
    text("log_level", "info", "error, warn, info, debug, trace, or TARGET=LEVEL,…"),
    number("max_operations", "1024", "Operations at once"),
    number("budget_mib", "32", "Memory budget of the tunnel's connection, MiB"),
    number("jobs_at_once", "2", "Jobs at once"),
    number("tunnel.backoff_first_ms", "500", "The most that the first wait after a cut takes"),
    number("tunnel.backoff_early_max_ms", "5000", "The most that a wait takes in the first two minutes of a cut"),
    number("tunnel.backoff_max_ms", "30000", "The most that a wait takes after them"),
    number("tunnel.lasted_ms", "10000", "A session that lasted this long starts the backoff again"),
    number("tunnel.drain_grace_s", "25", "What operations in flight get after SIGTERM"),
    text("proxy.url", "", "HTTP CONNECT proxy, http://host:port; else HTTPS_PROXY"),
    text("proxy.no_proxy", "", "Hosts, suffixes and networks that are reached directly; else NO_PROXY"),
    text("proxy.user", "", "The user that the proxy is told"),
    text("proxy.password_file", "", "The file with that user's password"),
    text(
        "isolation.require",
        "confined",
        "The weakest isolation with which it starts: minimal, confined or namespaces. At minimal a job can read its credentials, and of a root runner all that is root's",
    ),
    switch(
        "isolation.log_refused_calls",
        "false",
        "For development: logs by name each system call that a worker of operations or a resolver is refused, once for each worker",
    ),
    text("workers.ops", "", "The program for operations; else runner-worker-ops beside the runner"),
    text("workers.iac", "", "The program for jobs; else runner-worker-iac beside the runner"),
    number(
        "workers.warm",
        "16",
        "Workers of operations that wait for one at most, 0 to 64; as many do as were needed at once lately",
    ),
    text("engines.opentofu", "", "OpenTofu where nobody asks for another version; else `tofu` on PATH"),
    text("engines.terraform", "", "Terraform where nobody asks for another version; else `terraform` on PATH"),
    text(
        "engines.pulumi",
        "",
        "Pulumi where nobody asks for another version, with its language hosts beside it; else `pulumi` on PATH",
    ),
    text(
        "engines.directory",
        "",
        "Where engines are by version, as `runner engines install` puts them; else engines in the state directory",
    ),
    text(
        "engines.mirror",
        "",
        "What `runner engines install` gets engines from: an address, {version} in it stands for the version, or a folder; else the vendors' own",
    ),
    text(
        "engines.providers",
        "",
        "Where providers' packages are that jobs install from, as `runner providers add` puts them; else providers in the state directory",
    ),
    text(
        "engines.cli_config",
        "",
        "TF_CLI_CONFIG_FILE of the engines; it says where providers come from, engines.providers among them or not",
    ),
    text("jobs.reads", "", "Files and folders that jobs read besides, such as a mirror of providers, between colons"),
    text(
        "jobs.hosts",
        "",
        "The only hosts that jobs connect to, between commas: NAME, *.NAME, an address or a network; else all but metadata services, link-local addresses and the control plane",
    ),
    number(
        "jobs.memory_mib",
        "0",
        "A job's memory, MiB, where systemd gives it a scope; 0: three quarters of the machine's",
    ),
    number(
        "jobs.processes",
        "4096",
        "A job's processes and threads, where they can be counted: in a scope of systemd's, or where the job has a user or a user namespace of its own",
    ),
    switch(
        "jobs.take_over",
        "true",
        "Whether an engine whose worker has died goes on, attended by another one; else it is asked to stop, and the job fails",
    ),
    text(
        "jobs.at_stop",
        "auto",
        "What becomes of jobs when the runner is stopped: leave (they go on), stop (they are asked to stop), or auto: stop where the runner is the first process of a container, which ends all others with it",
    ),
    number(
        "jobs.stop_grace_s",
        "30",
        "What there is from SIGTERM to SIGKILL where jobs are stopped, seconds, as the platform was told: Kubernetes terminationGracePeriodSeconds (30 unless set), ECS stopTimeout (30; on Fargate at most 120), Cloud Run 10, Container Apps terminationGracePeriodSeconds (30; at most 600), docker stop 10",
    ),
    number("jobs.disk_mib", "10240", "What a job takes of the disk, its stack's state included, MiB; 0: no bound"),
    number("jobs.files", "1000000", "A job's files and folders, its stack's state included; 0: no bound"),
    number(
        "jobs.plan_retries",
        "2",
        "How often the init and the plan of a job are tried again that failed of what passes by itself, such as a service that asks to slow down; an apply never is",
    ),
    switch(
        "jobs.hooks",
        "false",
        "Whether jobs run the hooks of their stacks: programs of the source, before and after plan and apply; else a job with hooks is refused",
    ),
    number(
        "jobs.plan_limit_s",
        "0",
        "How long the plan of a job may take, with source and init, seconds; 0: no limit. Stacks may say less",
    ),
    number(
        "jobs.apply_limit_s",
        "0",
        "How long the apply of a job may take, seconds; 0: no limit. Stacks may say less",
    ),
    number(
        "jobs.approval_limit_s",
        "0",
        "How long a plan waits for its approval, seconds; then it is discarded. 0: no limit. Stacks may say less",
    ),
    number(
        "jobs.silence_limit_s",
        "0",
        "How long a job may say nothing while it plans or applies, seconds; 0: no limit. Stacks may say less",
    ),
    switch("sources.allow_file", "false", "Whether a job's Git source may be a folder of this machine (file://)"),
    number(
        "sources.cache_mib",
        "2048",
        "What is kept of fetched commits for the next job that wants one, MiB; 0: nothing",
    ),
];

// === impl Setting ===

impl Setting {
    /// `--tunnel-drain-grace-s`.
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }
    /// `RUNNERD_TUNNEL_DRAIN_GRACE_S`.
    pub fn variable(&self) -> String {
        format!("RUNNERD_{}", self.key.replace('.', "_").to_uppercase())
    }
}

// === impl Source ===

impl Source {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Variable => "variable",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Default => "default",
        }
    }
}

/// The flag or the variable that a message is about which opens with a setting's key, where the value came from there and not from the file.
pub(super) fn named_otherwise(message: &str, sources: &BTreeMap<&'static str, Source>) -> Option<String> {
    let is_about = |key: &str| message.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', ':']));
    let setting = SETTINGS.iter().find(|s| is_about(s.key))?;
    match sources.get(setting.key)? {
        Source::Flag => Some(format!("--{}", setting.flag())),
        Source::Variable => Some(setting.variable()),
        _ => None,
    }
}

/// Puts flags and variables over what the file says. The second value tells where each setting came from.
pub(super) fn merge(
    mut file: Table,
    flags: &BTreeMap<String, String>,
    variables: &BTreeMap<OsString, OsString>,
) -> Result<(Table, BTreeMap<&'static str, Source>), ConfigError> {
    let mut sources = BTreeMap::new();
    for setting in SETTINGS {
        let variable = setting.variable();
        let (text, source, name) = match (flags.get(setting.key), variables.get(&OsString::from(&variable))) {
            (Some(value), _) => (value.clone(), Source::Flag, format!("--{}", setting.flag())),
            (None, Some(value)) => {
                let value = value.to_str().ok_or_else(|| ConfigError(format!("{variable} is not UTF-8")))?;
                (value.to_owned(), Source::Variable, variable)
            }
            (None, None) => {
                let source = if lookup(&file, setting.key).is_some() { Source::File } else { Source::Default };
                sources.insert(setting.key, source);
                continue;
            }
        };
        let value = match setting.kind {
            Kind::Text => Value::String(text),
            Kind::Switch => Value::Boolean(
                text.parse().map_err(|_| ConfigError(format!("{name}: {text:?} is neither true nor false")))?,
            ),
            Kind::Number => Value::Integer(
                text.parse().map_err(|_| ConfigError(format!("{name}: {text:?} is not a whole number")))?,
            ),
        };
        put(&mut file, setting.key, value).map_err(|e| ConfigError(format!("{name}: in the file {}", e.0)))?;
        sources.insert(setting.key, source);
    }
    // a mistyped variable must not be passed over in silence
    for name in variables.keys().filter_map(|n| n.to_str()).filter(|n| n.starts_with("RUNNERD_")) {
        if name != "RUNNERD_CONFIG" && !SETTINGS.iter().any(|s| s.variable() == name) {
            return Err(ConfigError(format!("{name} is not a setting; `runner config show` lists them")));
        }
    }
    Ok((file, sources))
}

fn lookup<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((outer, inner)) => table.get(outer)?.as_table()?.get(inner),
    }
}

fn put(table: &mut Table, key: &str, value: Value) -> Result<(), ConfigError> {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((outer, inner)) => {
            let entry = table.entry(outer).or_insert_with(|| Value::Table(Table::new()));
            let entry = entry.as_table_mut().ok_or_else(|| ConfigError(format!("{outer} is not a table")))?;
            entry.insert(inner.to_owned(), value);
        }
    }
    Ok(())
}
