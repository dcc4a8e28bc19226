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
