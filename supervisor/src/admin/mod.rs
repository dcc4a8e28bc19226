//! The admin socket, `STATE/admin.sock`, mode 0600: how the runner is, whether it takes new work, and whether another process of it is to be
//! in charge. One question a connection: a line in, one JSON document out, which is how the runner is after it, or why that was not done.
//!
//! It must never tell a secret, and never be a port.

pub mod client;
mod status;

pub use status::{Certificate, Counts, Isolation, Named, ReloadRefused, Status};

use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};

/// The socket's name in the state directory.
pub const SOCKET: &str = "admin.sock";
/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 16;
/// The longest question, bytes.
const QUESTION_MAX: u64 = 256;
/// What one question may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a question may take that is about a hand-over: the new process has its time, and what the old one has to end first.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(60);

/// A hand-over that is asked for, and where to say what came of it.
pub type Upgrade = oneshot::Sender<Result<Upgraded, Refusal>>;

/// Another process is in charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The version of the process before.
    pub from: String,
    /// That process.
    pub from_pid: u32,
}

/// The process that was asked is still in charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub failure: Failure,
    /// What the new process exited with, where that is what went wrong.
    pub exit: Option<i32>,
}

/// The socket while it is answered on. It goes when this is dropped, which must be before the state directory is anybody else's.
#[derive(Debug)]
pub struct Answering {
    path: Option<PathBuf>,
    listener: StdUnixListener,
    facts: Arc<Facts>,
    places: Arc<Semaphore>,
    /// None: questions wait.
    task: Option<tokio::task::JoinHandle<()>>,
}

// === impl Answering ===

impl Answering {
    /// On a socket that is bound.
    fn on(listener: StdUnixListener, path: PathBuf, facts: Facts) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (facts, places) = (Arc::new(facts), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        let mut answering = Self { path: Some(path), listener, facts, places, task: None };
        answering.go_on()?;
        Ok(answering)
    }
    /// Takes no more questions: they wait for whoever answers next, here or in another process. Those that were taken are answered.
    pub fn pause(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
    /// Answers again.
    ///
    /// # Errors
    /// The system's.
    pub fn go_on(&mut self) -> std::io::Result<()> {
        self.pause();
        // whoever had it meanwhile may have removed it as it ended
        if let Some(path) = self.path.as_ref().filter(|path| !path.exists()) {
            self.listener = StdUnixListener::bind(path)?;
            self.listener.set_nonblocking(true)?;
        }
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        self.task = Some(tokio::spawn(answer_all(listener, self.facts.clone(), self.places.clone())));
        Ok(())
    }
    /// The socket, to hand it on.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
    /// It is another process's: it stays, and what was taken here is answered.
    pub async fn hand_on(mut self) {
        self.path = None;
        self.pause();
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(DEADLINE, self.places.acquire_many(all)).await;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.pause();
        if let Some(path) = &self.path {
            // one that stays is removed at the next start
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Answers on the socket until that is dropped.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(state_dir: &Path, facts: Facts) -> Result<Answering, Failure> {
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
    let listener = StdUnixListener::bind(&path).map_err(unusable)?;
    Answering::on(listener, path.clone(), facts).map_err(unusable)
}

/// The same on the socket that the process before has handed on.
///
/// # Errors
/// It cannot be used.
pub fn serve_on(listener: StdUnixListener, state_dir: &Path, facts: Facts) -> Result<Answering, Failure> {
    let path = state_dir.join(SOCKET);
    Answering::on(listener, path.clone(), facts)
        .map_err(|e| Code::Conflict.on(format!("admin socket {}: {e}", path.display())))
}

async fn answer_all(listener: UnixListener, facts: Arc<Facts>, places: Arc<Semaphore>) {
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
            answer(connection, &facts).await;
            drop(place);
        });
    }
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

/// One question and its answer, each within its time.
async fn answer(mut connection: UnixStream, facts: &Facts) {
    let (reader, mut writer) = connection.split();
    let mut question = String::new();
    let mut reader = reader.take(QUESTION_MAX);
    let Ok(Ok(_)) = tokio::time::timeout(DEADLINE, reader.read_to_string(&mut question)).await else { return };
    let question = question.trim();
    let within = if question == "upgrade" { UPGRADE_DEADLINE } else { DEADLINE };
    let Ok(Ok(document)) = tokio::time::timeout(within, document(question, facts)).await else { return };
    let _ = tokio::time::timeout(DEADLINE, async {
        writer.write_all(&document).await?;
        writer.shutdown().await
    })
    .await;
}

async fn document(question: &str, facts: &Facts) -> serde_json::Result<Vec<u8>> {
    match question {
        "status" => facts.document(Ok(())).await,
        "drain" => facts.document(facts.intake.drain()).await,
        "resume" => facts.document(facts.intake.resume()).await,
        "upgrade" => facts.upgraded().await,
        "rotate_audit_key" => facts.audit_key_rotated().await,
        _ => Ok(br#"{"error":"the questions are: status, drain, resume, upgrade, rotate_audit_key"}"#.to_vec()),
    }
}

pub use status::Facts;
