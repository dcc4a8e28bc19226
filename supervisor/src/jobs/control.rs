//! The supervisor's end of a job's control socket: cancels, pings, and word of new events. The socket lies in the worker's folder,
//! so whoever answers there must be the worker itself, by the kernel's word.

use super::bounds::Hit;
use super::folder::Folder;
use super::identity::ProcessIdentity;
use runner_sandbox::channel;
use shared_proto::frame::{self, FrameError, Kind};
use shared_proto::v1::{JobBound, JobCancel, JobControl, JobNotice, JobPing, JobStart, job_control, job_notice};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// How long the worker may take to take a message.
const WRITE_WITHIN: Duration = Duration::from_secs(5);
/// Notices that wait to be looked at.
const NOTICES: usize = 16;

/// A connection to a worker.
#[derive(Debug)]
pub(super) struct Control {
    writer: OwnedWriteHalf,
    notices: mpsc::Receiver<job_notice::Kind>,
}

// === impl Control ===

impl Control {
    /// Connects to the worker of that step.
    ///
    /// # Errors
    /// It does not listen (yet), or somebody else does.
    pub(super) async fn connect(folder: &Folder, first: &ProcessIdentity) -> io::Result<Self> {
        let socket = folder.open_control()?;
        // by way of what was looked at: neither through a link, nor to what was put in its place meanwhile
        let stream = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await?;
        channel::take_no_descriptors(stream.as_fd());
        let peer = stream.peer_cred()?.pid();
        if peer.is_none() || peer != first.worker() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "another process answers on the control socket",
            ));
        }
        let (reader, writer) = stream.into_split();
        let (sender, notices) = mpsc::channel(NOTICES);
        // a read is not to be cut in the middle of a frame: it has a task of its own, which ends with the socket or with us
        tokio::spawn(read(reader, sender));
        Ok(Self { writer, notices })
    }

    /// Asks it to stop.
    pub(super) async fn cancel(&mut self, by: &str, force: bool) -> Result<(), FrameError> {
        self.say(job_control::Kind::Cancel(JobCancel { by: by.to_owned(), force })).await
    }
    /// Tells a worker that follows another one what that one was told, and one at work its newer credentials.
    pub(super) async fn tell(&mut self, start: &JobStart) -> Result<(), FrameError> {
        let writing = frame::write_message(&mut self.writer, Kind::Request, start);
        tokio::time::timeout(WRITE_WITHIN, writing)
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    }
    /// Tells it what bound it has run into.
    pub(super) async fn bound(&mut self, hit: &Hit) -> Result<(), FrameError> {
        self.say(job_control::Kind::Bound(JobBound {
            what: hit.what.clone(),
            memory: hit.memory,
            disk: hit.disk,
            time: false,
        }))
        .await
    }
    /// Asks whether it lives.
    pub(super) async fn ping(&mut self, nonce: u64) -> Result<(), FrameError> {
        self.say(job_control::Kind::Ping(JobPing { nonce })).await
    }
    /// What it says next; `None` at the end. May be dropped and asked again.
    pub(super) async fn hear(&mut self) -> Option<job_notice::Kind> {
        self.notices.recv().await
    }

    async fn say(&mut self, kind: job_control::Kind) -> Result<(), FrameError> {
        let message = JobControl { kind: Some(kind) };
        let writing = frame::write_message(&mut self.writer, Kind::Control, &message);
        tokio::time::timeout(WRITE_WITHIN, writing)
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    }
}

async fn read(reader: OwnedReadHalf, notices: mpsc::Sender<job_notice::Kind>) {
    let mut reader = tokio::io::BufReader::new(reader);
    while let Ok(Some(notice)) = frame::read_message::<JobNotice, _>(&mut reader, Kind::Control).await {
        let Some(kind) = notice.kind else { continue };
        if notices.send(kind).await.is_err() {
            return;
        }
    }
}
