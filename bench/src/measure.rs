//! What is measured, the same on every way.

use crate::service::Kind;
use crate::ways::{Caller, Ours, Raw, Ssh};
use anyhow::{Context as _, Result, ensure};
use runner_bench::median;
use shared_proto::frame;
use shared_proto::v1;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// Before a throughput is counted: windows have grown by then.
const WARM_UP: Duration = Duration::from_millis(1000);
/// How long it is counted.
const COUNTED: Duration = Duration::from_millis(3000);
/// A stream that says nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(20);

/// A way.
pub(crate) enum Way {
    Raw(Box<Raw>),
    Ssh(Box<Ssh>),
    Ours(Box<Ours>),
}

// === impl Way ===

impl Way {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Raw(_) => "raw",
            Self::Ssh(_) => "ssh",
            Self::Ours(_) => "runner",
        }
    }
    pub(crate) async fn open(&self, kind: Kind) -> Result<Caller> {
        match self {
            Self::Raw(way) => way.open(kind).await,
            Self::Ssh(way) => way.open(kind).await,
            Self::Ours(way) => way.open(kind).await,
        }
        .with_context(|| format!("{} to {kind:?}", self.name()))
    }

    /// Bytes a second of one stream, from the service to the caller.
    pub(crate) async fn throughput(&self) -> Result<f64> {
        let mut caller = self.open(Kind::Source).await?;
        let begun = Instant::now();
        while begun.elapsed() < WARM_UP {
            next(&mut caller).await?;
        }
        let (start, mut bytes) = (Instant::now(), 0);
        while start.elapsed() < COUNTED {
            bytes += next(&mut caller).await?;
        }
        Ok(bytes as f64 / start.elapsed().as_secs_f64())
    }

    /// Streams whose callers take nothing.
    pub(crate) async fn stalled(&self, count: usize) -> Result<Vec<Caller>> {
        let mut stalled = Vec::with_capacity(count);
        for _ in 0..count {
            let mut caller = self.open(Kind::Source).await?;
            // it is really there
            next(&mut caller).await?;
            stalled.push(caller);
        }
        Ok(stalled)
    }

    /// The time of one byte there and back on an open stream, each of many.
    pub(crate) async fn round_trips(&self, count: usize) -> Result<Vec<Duration>> {
        let mut caller = self.open(Kind::Echo).await?;
        let mut took = Vec::with_capacity(count);
        for n in 0..count + count / 10 + 5 {
            let start = Instant::now();
            caller.send(&[7]).await?;
            ensure!(next(&mut caller).await? == 1, "more than was sent came back");
            // the first ones warm it up
            if n >= count / 10 + 5 {
                took.push(start.elapsed());
            }
        }
        Ok(took)
    }

    /// From the decision to open a stream to its first byte, each of many.
    pub(crate) async fn first_bytes(&self, count: usize) -> Result<Vec<Duration>> {
        let mut took = Vec::with_capacity(count);
        for n in 0..count + 5 {
            let start = Instant::now();
            let mut caller = self.open(Kind::Hello).await?;
            next(&mut caller).await?;
            if n >= 5 {
                took.push(start.elapsed());
            }
        }
        Ok(took)
    }
}

async fn next(caller: &mut Caller) -> Result<usize> {
    tokio::time::timeout(STUCK, caller.next()).await.context("the stream is stuck")?
}

/// The same worker executed plainly, with the same request: from the decision to its first byte, each of many.
pub(crate) async fn plain_exec(worker: &Path, request: &v1::OperationRequest, count: usize) -> Result<Vec<Duration>> {
    let request = v1::WorkerRequest { request: Some(request.clone()), ..Default::default() };
    let mut took = Vec::with_capacity(count);
    for n in 0..count + 5 {
        let start = Instant::now();
        let (ours, theirs) = StdUnixStream::pair()?;
        let mut child = std::process::Command::new(worker)
            .args(["operation", "--stdin"])
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .spawn()?;
        ours.set_nonblocking(true)?;
        let mut socket = UnixStream::from_std(ours)?;
        frame::write_message(&mut socket, frame::Kind::Request, &request).await?;
        let first = tokio::time::timeout(STUCK, frame::read(&mut socket)).await.context("the worker is stuck")??;
        ensure!(first.is_some_and(|(kind, bytes)| kind == frame::Kind::Data && bytes.len() == 1), "no first byte");
        if n >= 5 {
            took.push(start.elapsed());
        }
        drop(socket);
        tokio::task::spawn_blocking(move || child.wait()).await??;
    }
    Ok(took)
}

/// The middle of some times, milliseconds.
pub(crate) fn median_ms(times: &[Duration]) -> f64 {
    median(times.iter().map(|t| t.as_secs_f64() * 1000.0).collect())
}
