//! The configuration: flags and `RUNNER_CP_…` variables, parsed once into types that cannot be wrong.
//!
//! It must never hold a secret: those are in files of the data folder.

use crate::pki::{DAYS_DEFAULT, DAYS_MAX, ServerName};
use clap::{Parser, Subcommand, ValueEnum};
use shared_proto::address::HostPattern;
use shared_proto::credentials::Endpoint;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// How long a runner's certificate is good for where nobody says, seconds; and the bounds of that: a runner asks for the next one at two
/// thirds, and has the last third to be answered.
const CERTIFICATE_SECONDS: u32 = DAYS_DEFAULT * 86_400;
const CERTIFICATE_SECONDS_RANGE: std::ops::RangeInclusive<i64> = 20..=DAYS_MAX as i64 * 86_400;

/// How long an instance may be away before its jobs are taken for lost, seconds, where nobody says; and the bounds of that.
const JOB_LEASE_SECONDS: u32 = 3600;
const JOB_LEASE_SECONDS_RANGE: std::ops::RangeInclusive<i64> = 2..=30 * 86_400;

/// How long events are kept where nobody says, days.
const KEEP_EVENTS_DAYS: u32 = 365;

/// What the command line and the environment say.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "runner-control-plane",
    version,
    about = "The control plane: CA, tunnel service, execution service, API"
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Folder of the database, the CA and the archives; made where there is none
    #[arg(long, global = true, env = "RUNNER_CP_DATA", default_value = "control-plane-data")]
    data: PathBuf,
    /// Address of the API; port 0: any
    #[arg(long, env = "RUNNER_CP_API_LISTEN", default_value = "127.0.0.1:8443")]
    api_listen: SocketAddr,
    /// Address that runners dial; port 0: any
    #[arg(long, env = "RUNNER_CP_RUNNER_LISTEN", default_value = "127.0.0.1:8444")]
    runner_listen: SocketAddr,
    /// DNS name or address that the server certificate is for, beside localhost; may be given several times
    #[arg(long = "name", env = "RUNNER_CP_NAME", value_delimiter = ',')]
    names: Vec<ServerName>,
    /// https://HOST:PORT of the tunnel as runners reach it; default: the first --name and the port listened on
    #[arg(long, env = "RUNNER_CP_TUNNEL_ENDPOINT", value_parser = endpoint)]
    tunnel_endpoint: Option<String>,
    /// https://HOST:PORT of the execution service as runners reach it; default: the tunnel's
    #[arg(long, env = "RUNNER_CP_EXECUTION_ENDPOINT", value_parser = endpoint)]
    execution_endpoint: Option<String>,
    /// Serve the API without TLS; on a loopback address only
    #[arg(long, env = "RUNNER_CP_PLAIN_HTTP", default_value_t = false)]
    plain_http: bool,
    /// API connections at once
    #[arg(long, env = "RUNNER_CP_API_CONNECTIONS", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    api_connections: u32,
    /// Streams that one user may have open at once: followed logs, exec, job events
    #[arg(long, env = "RUNNER_CP_USER_STREAMS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    user_streams: u32,
    /// How long a runner's certificate is good for whose request names no days, seconds: 20 to 71280000. Short ones are for tests
    #[arg(long, env = "RUNNER_CP_CERTIFICATE_SECONDS", default_value_t = CERTIFICATE_SECONDS, value_parser = clap::value_parser!(u32).range(CERTIFICATE_SECONDS_RANGE))]
    certificate_seconds: u32,
    /// How long an instance of a runner may be away before its jobs that are at work are taken for lost, seconds: 2 to 2592000. One that comes back
    /// with its job tells what became of it all the same. Short ones are for tests
    #[arg(long, env = "RUNNER_CP_JOB_LEASE_SECONDS", default_value_t = JOB_LEASE_SECONDS, value_parser = clap::value_parser!(u32).range(JOB_LEASE_SECONDS_RANGE))]
    job_lease_seconds: u32,
    /// How long the events and plans of a job are kept that has ended, days; 0: for ever. What a job was and how it ended is, always, and all of the
    /// last job of a stack
    #[arg(long, env = "RUNNER_CP_KEEP_EVENTS_DAYS", default_value_t = KEEP_EVENTS_DAYS, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    keep_events_days: u32,
    /// A network, such as 10.0.0.0/8 or 127.0.0.1, where notifications may go beside the public ones; may be given several times
    #[arg(long = "notify-network", env = "RUNNER_CP_NOTIFY_NETWORK", value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    notify_networks: Vec<HostPattern>,
    /// How logs are written
    #[arg(long, env = "RUNNER_CP_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged: a level, or TARGET=LEVEL, comma-separated
    #[arg(long, env = "RUNNER_CP_LOG", default_value = "info")]
    log: String,
}

/// What is done instead of serving.
#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Copies the data folder as it is at one moment, CA and keys included, while the control plane goes on
    Backup {
        /// The folder that is made for the copy
        #[arg(long)]
        to: PathBuf,
    },
    /// Makes a data folder of a back-up; what the back-up does not know of jobs their instances tell
    Restore {
        /// The back-up's folder
        #[arg(long)]
        from: PathBuf,
    },
}

/// What the program is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Serve.
    Serve,
    /// Back the data folder up into a new folder.
    BackUp(PathBuf),
    /// Make the data folder of that back-up.
    Restore(PathBuf),
}

/// How logs are written, to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// What to do.
    pub task: Task,
    /// The data folder.
    pub data: PathBuf,
    /// Where the API listens.
    pub api_listen: SocketAddr,
    /// Where runners dial.
    pub runner_listen: SocketAddr,
    /// What the server certificate is for; never empty.
    pub names: Vec<ServerName>,
    /// The name that endpoints use where none is given.
    pub public_name: ServerName,
    /// The tunnel as runners reach it, if given.
    pub tunnel_endpoint: Option<String>,
    /// The execution service as runners reach it, if given.
    pub execution_endpoint: Option<String>,
    /// Whether the API is served without TLS; only ever with a loopback address.
    pub plain_http: bool,
    /// API connections at once.
    pub api_connections: usize,
    /// Streams that one user may have open at once.
    pub user_streams: usize,
    /// How long a runner's certificate is good for whose request does not say, seconds.
    pub certificate_seconds: u32,
    /// How long an instance may be away before its jobs are taken for lost.
    pub job_lease: Duration,
    /// How long events of jobs that have ended are kept; none: for ever.
    pub keep_events: Option<Duration>,
    /// Networks where notifications may go beside the public ones.
    pub notify_networks: Vec<HostPattern>,
    /// How logs are written.
    pub log_format: LogFormat,
    /// What is logged.
    pub log: String,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The command line is wrong, or asks for help or the version.
    Usage(clap::Error),
    /// Values that do not go together.
    Wrong(String),
}

// === impl ConfigError ===

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(f),
            Self::Wrong(what) => write!(f, "error: {what}"),
        }
    }
}
impl std::error::Error for ConfigError {}

// === impl Config ===

impl Config {
    /// Reads the command line and the environment.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read<I, T>(arguments: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        Self::check(Arguments::try_parse_from(arguments).map_err(ConfigError::Usage)?)
    }

    fn check(a: Arguments) -> Result<Self, ConfigError> {
        if a.plain_http && !a.api_listen.ip().is_loopback() {
            return Err(ConfigError::Wrong(format!(
                "--plain-http is for loopback addresses only, --api-listen is {}",
                a.api_listen
            )));
        }
        if a.data.as_os_str().is_empty() {
            return Err(ConfigError::Wrong("--data is empty".into()));
        }
        let public_name = a.names.first().cloned().unwrap_or_else(|| match a.runner_listen.ip() {
            ip if ip.is_unspecified() => ServerName::Dns("localhost".into()),
            ip => ServerName::Ip(ip),
        });
        let mut names = a.names;
        for name in [
            public_name.clone(),
            ServerName::Dns("localhost".into()),
            ServerName::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            ServerName::Ip(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let task = match a.command {
            None => Task::Serve,
            Some(Command::Backup { to }) => Task::BackUp(to),
            Some(Command::Restore { from }) => Task::Restore(from),
        };
        Ok(Self {
            task,
            data: a.data,
            api_listen: a.api_listen,
            runner_listen: a.runner_listen,
            names,
            public_name,
            execution_endpoint: a.execution_endpoint.or_else(|| a.tunnel_endpoint.clone()),
            tunnel_endpoint: a.tunnel_endpoint,
            plain_http: a.plain_http,
            api_connections: a.api_connections as usize,
            user_streams: a.user_streams as usize,
            certificate_seconds: a.certificate_seconds,
            job_lease: Duration::from_secs(a.job_lease_seconds.into()),
            keep_events: (a.keep_events_days > 0).then(|| Duration::from_secs(u64::from(a.keep_events_days) * 86_400)),
            notify_networks: a.notify_networks,
            log_format: a.log_format,
            log: a.log,
        })
    }
}

fn network(text: &str) -> Result<HostPattern, String> {
    let found = HostPattern::parse(text).filter(|pattern| matches!(pattern, HostPattern::Network { .. }));
    found.ok_or_else(|| "it is no network: write an address, or ADDRESS/BITS".to_owned())
}

fn endpoint(text: &str) -> Result<String, String> {
    Endpoint::parse(text).map(|e| format!("https://{}", e.authority()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Config, ConfigError> {
        Config::read(std::iter::once("runner-control-plane").chain(arguments.iter().copied()))
    }

    #[test]
    fn names_always_include_this_machine() {
        let config = read(&["--name", "cp.example", "--runner-listen", "0.0.0.0:0"]).expect("parses");
        assert_eq!(config.public_name, ServerName::Dns("cp.example".into()));
        assert!(config.names.contains(&ServerName::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST))), "{:?}", config.names);
    }

    #[test]
    fn certificates_are_good_for_ninety_days_unless_it_is_said() {
        assert_eq!(read(&[]).expect("parses").certificate_seconds, 90 * 86_400);
        for good in [20, 71_280_000] {
            let config = read(&["--certificate-seconds", &good.to_string()]).expect("parses");
            assert_eq!(config.certificate_seconds, good);
        }
    }

    #[test]
    fn an_instance_may_be_away_for_an_hour_unless_it_is_said() {
        assert_eq!(read(&[]).expect("parses").job_lease, Duration::from_secs(3600));
        for good in [2, 2_592_000] {
            let config = read(&["--job-lease-seconds", &good.to_string()]).expect("parses");
            assert_eq!(config.job_lease, Duration::from_secs(good));
        }
    }

    #[test]
    fn events_are_kept_for_a_year_unless_it_is_said() {
        let kept = |days: &[&str]| read(days).expect("parses").keep_events.map(|kept| kept.as_secs() / 86_400);
        assert_eq!(kept(&[]), Some(365));
        assert_eq!(kept(&["--keep-events-days", "0"]), None);
        assert_eq!(kept(&["--keep-events-days", "36500"]), Some(36_500));
        assert!(read(&["--keep-events-days", "36501"]).is_err());
    }

    #[test]
    fn a_wrong_value_is_refused() {
        for bad in [
            &["--plain-http", "--api-listen", "0.0.0.0:1"][..],
            &["--api-listen", "localhost"],
            &["--name", "a b"],
            &["--name", "-a.example"],
            &["--tunnel-endpoint", "http://a"],
            &["--execution-endpoint", "https://a/b"],
            &["--user-streams", "0"],
            &["--certificate-seconds", "19"],
            &["--certificate-seconds", "71280001"],
            &["--job-lease-seconds", "1"],
            &["--job-lease-seconds", "2592001"],
            &["--notify-network", "localhost"],
            &["--notify-network", "10.0.0.0/33"],
            &["--data", ""],
            &["--nonsense"],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
