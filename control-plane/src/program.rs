//! The program: what it is built of, and how it ends.
//!
//! ```text
//!  lock ─▶ both ports bound ─▶ data folder ─▶ store, CA ─▶ first start ─▶ READY ─▶ serve
//!                                                        SIGTERM ─▶ no new connections, runners told to leave,
//!                                                                   what is in flight within the grace ─▶ end
//!                                                        again   ─▶ end at once
//! ```

use crate::api::{
    self, ApiListener, ApiState, Deliveries, Documents, Endpoints, Ledger, Networks, Notifier, StreamLimit,
};
use crate::config::Config;
use crate::execution::{Archives, Execution, Jobs};
use crate::first_start::first_start;
use crate::listener::Listener;
use crate::pki::{Authority, PkiError, ServerName};
use crate::sessions::{Sessions, Settings, StoredRegistry};
use crate::store::{Store, StoreError};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shared_proto::failure::Failure;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a wrong command line.
pub const EXIT_USAGE: u8 = 64;
/// Exit code where a port, a file or the database could not be had.
pub const EXIT_UNAVAILABLE: u8 = 69;

/// When runners come back after a shutdown: long enough for a restart.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// What the API's requests in progress get at the end, after the operations had their grace.
const API_GRACE: Duration = Duration::from_secs(5);
/// Between two times that the server certificate is made again.
const RENEW: Duration = Duration::from_secs(24 * 60 * 60);

/// Why the program ends early.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The data folder.
    #[error("data folder {path}: {source}")]
    Data {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process has the data folder.
    #[error("data folder {path} is in use by another control plane; stop it, or name another folder with --data")]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The CA.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// What the first start makes.
    #[error("first start: {0}")]
    First(Failure),
    /// A port.
    #[error("listening on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Signals or standard output.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

// === impl ProgramError ===

impl ProgramError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        EXIT_UNAVAILABLE
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`ProgramError`].
pub async fn run(config: Config) -> Result<(), ProgramError> {
    let mut signals = Signals::new()?;
    // a session holds a descriptor, and a shell gives a thousand: as many as the system allows
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    // a second control plane on one folder is told so; a new folder, with its CA and its token, is made only once both ports are ours
    let taken = if config.data.exists() { Some(take_data(&config.data)?) } else { None };
    let (api_port, api_address) = bind(config.api_listen).await?;
    let (runner_port, runner_address) = bind(config.runner_listen).await?;
    let _lock = match taken {
        Some(lock) => lock,
        None => take_data(&config.data)?,
    };
    let store = Store::open(&config.data.join(crate::backup::DATABASE)).await?;
    let authority = Authority::open(&config.data, config.names.clone())?;
    let authority = Arc::new(authority.with_certificate_life(config.certificate_seconds));
    first_start(&store, &authority, &config.data).await.map_err(ProgramError::First)?;
    store.close_operations().await.map_err(ProgramError::First)?;
    store.begin_leases().await.map_err(ProgramError::First)?;
    let restored = store.await_presentations().await.map_err(ProgramError::First)?;
    if restored > 0 {
        tracing::warn!(jobs = restored, "restored from an older back-up: instances say what became of these jobs");
    }

    let endpoints = endpoints(&config, runner_address);
    let stop = CancellationToken::new();

    let registry = Arc::new(StoredRegistry::new(store.clone(), authority.clone()));
    let sessions = Sessions::new(registry.clone(), Settings::default());
    tokio::spawn(sessions.clone().follow_revocations(store.revocations()));
    let archives = config.data.join("archives");
    let archives =
        Archives::open(&archives).await.map_err(|source| ProgramError::Data { path: archives.clone(), source })?;
    let jobs = Jobs::new(store.clone(), archives);
    let jobs_settled = jobs.clone();
    let execution = Execution::new(jobs.clone(), sessions.clone(), registry);
    let runner_tls = Arc::new(authority.runner_tls_config()?);
    let runners = Listener::new(runner_tls, sessions.clone(), execution);

    let (ledger, clerk) = Ledger::start(store.clone());
    let state = ApiState {
        store: store.clone(),
        authority: authority.clone(),
        sessions: sessions.clone(),
        endpoints,
        ledger,
        streams: StreamLimit::new(config.user_streams),
        documents: Documents::default(),
        jobs,
        deliveries: Deliveries::default(),
        networks: Networks::new(config.notify_networks.clone()),
        leaving: stop.clone(),
    };
    let notifier = Notifier::new(state.clone()).map_err(|e| std::io::Error::other(e.to_string()))?;
    let api_tls = if config.plain_http { None } else { Some(Arc::new(authority.api_tls_config()?)) };
    let api = ApiListener::new(api_port, api_tls, api::router(state.clone()), config.api_connections);

    let runners = tokio::spawn(runners.serve(runner_port, stop.clone()));
    let mut api = tokio::spawn(api.serve(stop.clone()));
    let renewal = tokio::spawn(renew(authority));
    let forgetting = config.keep_events.map(|kept| tokio::spawn(jobs_settled.clone().forget(kept)));
    let settling = tokio::spawn(jobs_settled.settle(config.job_lease));
    let schedules = tokio::spawn(api::follow_schedules(state.clone()));
    let following = tokio::spawn(api::follow_outputs(state));
    let notifying = tokio::spawn(notifier.follow());
    ready(&config, api_address, runner_address)?;

    signals.next().await;
    tracing::info!("leaving: no new connections, operations in flight have their grace");
    stop.cancel();
    let drained = async {
        sessions.drain(RETRY_AFTER).await;
        let _ = tokio::time::timeout(API_GRACE, &mut api).await;
    };
    tokio::select! {
        () = drained => tracing::info!("left"),
        () = signals.next() => tracing::info!("second signal: ending at once"),
    }
    renewal.abort();
    settling.abort();
    if let Some(forgetting) = forgetting {
        forgetting.abort();
    }
    schedules.abort();
    following.abort();
    notifying.abort();
    api.abort();
    runners.abort();
    // every handle of the ledger is in a request; those that are left end with the runtime and are closed at the next start
    let _ = tokio::time::timeout(Duration::from_millis(500), clerk).await;
    let _ = tokio::time::timeout(Duration::from_secs(2), store.close()).await;
    Ok(())
}

/// SIGTERM and SIGINT.
struct Signals {
    term: Signal,
    int: Signal,
}

// === impl Signals ===

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }
    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Makes the data folder where there is none, its owner's alone, and locks it.
fn take_data(path: &Path) -> Result<Flock<File>, ProgramError> {
    let failed = |source| ProgramError::Data { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path.join("lock")).map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => ProgramError::InUse { path: path.to_owned() },
        errno => failed(errno.into()),
    })
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ProgramError> {
    let failed = |source| ProgramError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn endpoints(config: &Config, runner_address: SocketAddr) -> Endpoints {
    let host = match &config.public_name {
        ServerName::Dns(name) => name.clone(),
        ServerName::Ip(ip) if ip.is_ipv6() => format!("[{ip}]"),
        ServerName::Ip(ip) => ip.to_string(),
    };
    let own = format!("https://{host}:{}", runner_address.port());
    let tunnel = config.tunnel_endpoint.clone().unwrap_or_else(|| own.clone());
    Endpoints { execution: config.execution_endpoint.clone().unwrap_or_else(|| tunnel.clone()), tunnel }
}

/// The one line on standard output.
fn ready(config: &Config, api: SocketAddr, runner: SocketAddr) -> std::io::Result<()> {
    use std::io::Write as _;
    let scheme = if config.plain_http { "http" } else { "https" };
    let line = serde_json::json!({ "api": format!("{scheme}://{api}"), "runner": format!("https://{runner}") });
    let mut out = std::io::stdout().lock();
    writeln!(out, "READY {line}")?;
    out.flush()
}

async fn renew(authority: Arc<Authority>) {
    loop {
        tokio::time::sleep(RENEW).await;
        if let Err(error) = authority.renew_server_certificate() {
            tracing::error!(%error, "the server certificate was not made again");
        }
    }
}
