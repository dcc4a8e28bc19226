//! A worker process with its socket in our hand.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use prost::Message;
use runner_tests::dial::Dial;
use shared_proto::frame::{self, Kind};
use shared_proto::v1::operation_request::What;
use shared_proto::v1::target::Kind as TargetKind;
use shared_proto::v1::{OperationRequest, Outcome, ResolveReply, ResolveRequest, Target, WorkerRequest};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// What should happen at once, on a machine that has other things to do.
const SOON: Duration = Duration::from_secs(30);

/// A worker that runs.
pub(crate) struct Worker {
    pub(crate) socket: UnixStream,
    child: Child,
}

/// What an operation gave.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) data: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) outcome: Outcome,
}

/// An operation without a deadline.
pub(crate) fn request(what: What, target: TargetKind) -> WorkerRequest {
    WorkerRequest {
        request: Some(OperationRequest { what: Some(what), connection: "test".into(), ..Default::default() }),
        target: Some(Target { kind: Some(target) }),
        ..Default::default()
    }
}

/// Does a whole operation.
pub(crate) async fn operation(what: What, target: TargetKind) -> Result<Given> {
    Worker::operation(&request(what, target)).await?.rest().await
}

/// Does a whole resolution.
pub(crate) async fn resolution(request: &ResolveRequest) -> Result<ResolveReply> {
    answered(Worker::start("resolve").await?, request).await
}

/// The same by a resolver that was started.
pub(crate) async fn answered(mut worker: Worker, request: &ResolveRequest) -> Result<ResolveReply> {
    worker.send(Kind::Request, &request.encode_to_vec()).await?;
    let (kind, content) = worker.frame().await?.context("an answer")?;
    ensure!(kind == Kind::Outcome, "{kind:?}");
    ensure!(worker.frame().await?.is_none(), "more after the answer");
    ensure!(worker.ended().await? == Some(0), "the exit code");
    Ok(ResolveReply::decode(content)?)
}

// === impl Worker ===

impl Worker {
    /// Starts one as the spawner does: nothing in the environment, the socket on descriptor 3, the end that it asks for connections with on 4,
    /// and nothing else.
    pub(crate) async fn start(mode: &str) -> Result<Self> {
        let (dial, asks) = Dial::pair()?;
        // ends with the worker
        tokio::spawn(dial.serve());
        Self::start_dialling(mode, asks)
    }

    /// The same with that end.
    pub(crate) fn start_dialling(mode: &str, asks: OwnedFd) -> Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        // only a shell puts a descriptor where it belongs without unsafe code
        let script = r#"exec "$0" "$1" 3<&0 4<&1 </dev/null >/dev/null"#;
        let child = Command::new("/bin/sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_runner-worker-ops"), mode])
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(asks))
            .kill_on_drop(true)
            .spawn()?;
        ours.set_nonblocking(true)?;
        Ok(Self { socket: UnixStream::from_std(ours)?, child })
    }

    /// Starts one and gives it its request.
    pub(crate) async fn operation(request: &WorkerRequest) -> Result<Self> {
        let mut worker = Self::start("operation").await?;
        worker.send(Kind::Request, &request.encode_to_vec()).await?;
        Ok(worker)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    pub(crate) async fn send(&mut self, kind: Kind, content: &[u8]) -> Result<()> {
        Ok(frame::write(&mut self.socket, kind, content).await?)
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn frame(&mut self) -> Result<Option<(Kind, Bytes)>> {
        Ok(tokio::time::timeout(SOON, frame::read(&mut self.socket)).await.context("a frame in time")??)
    }

    /// Reads data until there are so many bytes.
    pub(crate) async fn at_least(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        while data.len() < bytes {
            match self.frame().await?.context("more data")? {
                (Kind::Data, content) => data.extend_from_slice(&content),
                (Kind::Outcome, content) => bail!("it ended: {:?}", Outcome::decode(content)?),
                other => bail!("{other:?}"),
            }
        }
        Ok(data)
    }

    /// Reads all that comes, the outcome, and sees the process end.
    pub(crate) async fn rest(mut self) -> Result<Given> {
        let mut given = Given { data: Vec::new(), stderr: Vec::new(), outcome: Outcome::default() };
        loop {
            match self.frame().await?.context("an outcome")? {
                (Kind::Data, content) => given.data.extend_from_slice(&content),
                (Kind::Stderr, content) => given.stderr.extend_from_slice(&content),
                (Kind::Outcome, content) => {
                    given.outcome = Outcome::decode(content)?;
                    break;
                }
                other => bail!("{other:?}"),
            }
        }
        ensure!(self.frame().await?.is_none(), "more after the outcome");
        ensure!(self.ended().await? == Some(0), "the exit code");
        Ok(given)
    }

    /// Waits for the process; its exit code.
    pub(crate) async fn ended(&mut self) -> Result<Option<i32>> {
        Ok(tokio::time::timeout(SOON, self.child.wait()).await.context("the end of the process")??.code())
    }

    /// Closes our end and sees the process end.
    pub(crate) async fn cancel(mut self) -> Result<Option<i32>> {
        drop(self.socket);
        Ok(tokio::time::timeout(SOON, self.child.wait()).await.context("the end of the process")??.code())
    }
}

// === impl Given ===

impl Given {
    /// The document of an operation that went well.
    pub(crate) fn document<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        ensure!(self.outcome.code == "ok", "{:?}", self.outcome);
        Ok(serde_json::from_slice(&self.data)?)
    }
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
    /// Checks how it failed.
    pub(crate) fn failed(&self, code: &str, words: &str) -> Result<()> {
        ensure!(self.outcome.code == code && self.outcome.message.contains(words), "{:?}", self.outcome);
        ensure!(!self.outcome.next_step.is_empty(), "{:?}", self.outcome);
        Ok(())
    }
}

impl Worker {
    /// Writes standard input, piece after piece, and its end, while all that comes is read; gives it with how many pieces went.
    pub(crate) async fn feed(mut self, piece: impl Fn(usize) -> Option<Vec<u8>>) -> Result<(Given, usize)> {
        let (mut read, mut write) = self.socket.split();
        let writing = async {
            let mut n = 0;
            while let Some(content) = piece(n) {
                frame::write(&mut write, Kind::Data, &content).await?;
                n += 1;
            }
            frame::write(&mut write, Kind::StdinClosed, &[]).await?;
            anyhow::Ok(n)
        };
        let reading = async {
            let mut given = Given { data: Vec::new(), stderr: Vec::new(), outcome: Outcome::default() };
            loop {
                let next = tokio::time::timeout(SOON, frame::read(&mut read)).await.context("a frame in time")??;
                match next.context("an outcome")? {
                    (Kind::Data, content) => given.data.extend_from_slice(&content),
                    (Kind::Stderr, content) => given.stderr.extend_from_slice(&content),
                    (Kind::Outcome, content) => {
                        given.outcome = Outcome::decode(content)?;
                        return anyhow::Ok(given);
                    }
                    other => bail!("{other:?}"),
                }
            }
        };
        let (written, given) = tokio::join!(writing, reading);
        let given = given?;
        ensure!(self.ended().await? == Some(0), "the exit code");
        Ok((given, written?))
    }
}
