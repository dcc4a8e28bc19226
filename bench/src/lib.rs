//! What the benchmarks share.
#![forbid(unsafe_code)]

pub mod ssh;

use anyhow::Result;
use runner_control_plane::execution::{Archives, Execution, Jobs};
use runner_control_plane::listener::Listener;
use runner_control_plane::pki::{Authority, ServerName};
use runner_control_plane::sessions::{Sessions, Settings, StoredRegistry};
use runner_control_plane::store::Store;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The port that runners dial, as the control plane's program has it, on a data folder that another process made.
///
/// # Errors
/// The data folder's; a port that cannot be had.
pub async fn serve(data: &Path, stop: CancellationToken) -> Result<(Sessions, SocketAddr)> {
    let names = vec![ServerName::Ip([127, 0, 0, 1].into())];
    let authority = Arc::new(Authority::open(data, names)?);
    let store = Store::open(&data.join("control-plane.db")).await?;
    let registry = Arc::new(StoredRegistry::new(store.clone(), authority.clone()));
    let sessions = Sessions::new(registry.clone(), Settings::default());
    let archives: PathBuf = data.join("archives");
    let jobs = Jobs::new(store, Archives::open(&archives).await?);
    let listener = Listener::new(
        Arc::new(authority.runner_tls_config()?),
        sessions.clone(),
        Execution::new(jobs, sessions.clone(), registry),
    );
    let port = TcpListener::bind("127.0.0.1:0").await?;
    let address = port.local_addr()?;
    tokio::spawn(listener.serve(port, stop));
    Ok((sessions, address))
}

/// Runs a benchmark to its end, with all that it started: success where what it promises holds.
pub fn to_end(bench: impl Future<Output = Result<bool>>) -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let ended = runtime.block_on(bench);
    runner_tests::process::end_all();
    runner_tests::scratch::remove_root();
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:?}\n{}", runner_tests::process::recent_logs());
            ExitCode::FAILURE
        }
    }
}

/// The middle of some figures.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
