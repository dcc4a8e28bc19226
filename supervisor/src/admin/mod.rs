//! The admin socket, `STATE/admin.sock`, mode 0600: how the runner is. One question a connection: a line in, one JSON document out.
//!
//! It must never tell a secret, and never be a port.

pub mod client;
mod status;

pub use status::{Certificate, Counts, Isolation, Named, Status};

use shared_proto::failure::{Code, Failure};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// The socket's name in the state directory.
pub const SOCKET: &str = "admin.sock";
/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 16;
/// The longest question, bytes.
const QUESTION_MAX: u64 = 256;
/// What one question may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// The socket while it is answered on. It goes when this is dropped, which must be before the state directory is anybody else's.
#[derive(Debug)]
pub struct Answering {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.task.abort();
        // one that stays is removed at the next start
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers on the socket until that is dropped.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(state_dir: &Path, facts: status::Facts) -> Result<Answering, Failure> {
    let path = state_dir.join(SOCKET);
    let unusable = |e: std::io::Error| {
        Code::Conflict
            .on(format!("admin socket {}: {e}", path.display()))
            .next("Choose a shorter state_dir, on a local file system.")
    };
    // what is left there is an earlier supervisor's: the lock is ours. Our umask makes the new one 0600
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(unusable(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(unusable)?;
    let facts = Arc::new(facts);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let task = tokio::spawn(async move {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((connection, _)) = listener.accept().await else {
                // out of descriptors, most likely
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let facts = facts.clone();
            if let Some(worker) = asks_from_below(&connection) {
                tracing::warn!(pid = worker, "a worker's process asked the admin socket, and was not answered");
                continue;
            }
            tokio::spawn(async move {
                let _ = tokio::time::timeout(DEADLINE, answer(connection, &facts)).await;
                drop(place);
            });
        }
    });
    Ok(Answering { path, task })
}

/// The process at the other end, if a worker started it: everything below the launcher is a worker's but the supervisor. A job's domain
/// does not keep it from a socket that has a path.
fn asks_from_below(connection: &UnixStream) -> Option<i32> {
    let asking = connection.peer_cred().ok()?.pid()?;
    let launcher = nix::unistd::getppid().as_raw();
    let mut pid = asking;
    // a chain of parents is not longer than there are processes
    for _ in 0..65_536 {
        pid = runner_sandbox::stat(pid)?.parent;
        match pid {
            // the first process of a container has the launcher's place, and also whoever looks into that container from outside has none above
            0 => return None,
            pid if pid == launcher => return Some(asking),
            1 => return None,
            _ => {}
        }
    }
    Some(asking)
}

async fn answer(mut connection: UnixStream, facts: &status::Facts) -> std::io::Result<()> {
    let mut question = String::new();
    let (reader, mut writer) = connection.split();
    reader.take(QUESTION_MAX).read_to_string(&mut question).await?;
    let document = match question.trim() {
        "status" => serde_json::to_vec(&facts.status().await)?,
        _ => br#"{"error":"the questions are: status"}"#.to_vec(),
    };
    writer.write_all(&document).await?;
    writer.shutdown().await
}

pub use status::Facts;
