//! `control.sock`: how supervisors, one after another, talk to a job. Pings are answered, a cancel is passed on, and each new
//! event's number is told, so that the reader of the spool wakes at once.
//!
//! Whoever connects may die or stop reading at any time: a connection that cannot be written is dropped, never waited for.

use crate::cancel::Asker;
use prost::Message as _;
use shared_proto::frame::{self, Kind};
use shared_proto::v1::{JobControl, JobNotice, JobPing, JobStart, job_control, job_notice};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

/// Where it stands. Relative: a socket's address holds 108 bytes, and a state directory may be deeper.
pub(crate) const PATH: &str = "control.sock";
/// Connections at once; one supervisor has one, a second one may be taking over.
const CONNECTIONS_MAX: usize = 8;
/// How long a connection may take to accept a notice before it is dropped.
const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// What is told to everyone who is connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Set once the step has ended; the process exits next.
    pub(crate) step_ended: Option<String>,
    /// Set while it waits to be told what the worker before it was told.
    pub(crate) waits: bool,
}

/// What is passed on.
#[derive(Debug, Clone)]
pub(crate) struct Passed {
    /// Who is asked to stop.
    pub(crate) asker: Asker,
    /// Where what a worker before this one was told goes, and newer credentials.
    pub(crate) starts: mpsc::Sender<Box<JobStart>>,
}

/// Listens. A socket that an earlier step of this job left is replaced; anything else of that name is not.
///
/// # Errors
/// The path is taken; the file system.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    UnixListener::bind(path)
}

/// Serves until it is dropped.
pub(crate) async fn serve(
    listener: UnixListener,
    passed: Passed,
    appended: watch::Receiver<u64>,
    told: watch::Receiver<Told>,
) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let us = nix::unistd::geteuid().as_raw();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // out of descriptors, most likely: others may free some
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // only the runner's own user may steer a job, whatever the folder's mode says
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == us || peer.uid() == 0) {
            continue;
        }
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (passed, appended, told) = (passed.clone(), appended.clone(), told.clone());
        tokio::spawn(async move {
            let _ = converse(stream, passed, appended, told).await;
            drop(slot);
        });
    }
}

async fn converse(
    mut stream: UnixStream,
    passed: Passed,
    mut appended: watch::Receiver<u64>,
    mut told: watch::Receiver<Told>,
) -> Result<(), frame::FrameError> {
    let (reader, mut writer) = stream.split();
    let mut reader = tokio::io::BufReader::new(reader);
    // the present number first: whoever connects knows how far the spool goes
    appended.mark_changed();
    told.mark_changed();
    let (pongs, mut pongs_due) = tokio::sync::mpsc::channel::<u64>(4);
    let reading = async {
        while let Some((kind, content)) = frame::read(&mut reader).await? {
            let asker = &passed.asker;
            match kind {
                Kind::Control => {}
                // what does not fit comes again
                Kind::Request => {
                    let _ = passed.starts.try_send(Box::new(JobStart::decode(content)?));
                    continue;
                }
                found => return Err(frame::FrameError::Unexpected { expected: Kind::Control, found }),
            }
            match JobControl::decode(content)?.kind {
                Some(job_control::Kind::Cancel(cancel)) => asker.ask(&cancel.by, cancel.force),
                // a peer that pings without reading the answers is dropped by the writer's deadline
                Some(job_control::Kind::Bound(bound)) => asker.ran_into(bound),
                Some(job_control::Kind::Ping(ping)) => drop(pongs.send(ping.nonce).await),
                None => {}
            }
        }
        Ok(())
    };
    let writing = async {
        loop {
            let notice = tokio::select! {
                Some(nonce) = pongs_due.recv() => job_notice::Kind::Pong(JobPing { nonce }),
                Ok(()) = appended.changed() => job_notice::Kind::Appended(*appended.borrow_and_update()),
                Ok(()) = told.changed() => match told.borrow_and_update().clone() {
                    Told { step_ended: Some(step), .. } => job_notice::Kind::StepEnded(step),
                    Told { waits: true, .. } => job_notice::Kind::Waits(true),
                    Told { .. } => continue,
                },
                else => std::future::pending().await,
            };
            let notice = JobNotice { kind: Some(notice) };
            match tokio::time::timeout(WRITE_WITHIN, frame::write_message(&mut writer, Kind::Control, &notice)).await {
                Ok(Ok(())) => {}
                // whoever said something and went is still heard: the reader finds the end
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => return Ok(()),
            }
        }
    };
    tokio::select! { end = reading => end, end = writing => end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::{self, Cancel};
    use shared_proto::v1::JobCancel;

    async fn say(stream: &mut UnixStream, kind: job_control::Kind) {
        frame::write_message(stream, Kind::Control, &JobControl { kind: Some(kind) }).await.expect("writes");
    }
    async fn hear(stream: &mut UnixStream) -> job_notice::Kind {
        let notice: JobNotice = frame::read_message(stream, Kind::Control).await.expect("reads").expect("a notice");
        notice.kind.expect("a kind")
    }

    #[tokio::test]
    async fn several_supervisors_in_succession_are_told_answered_and_heard() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let (asker, mut watcher) = cancel::pair();
        let (appended, appended_rx) = watch::channel(3);
        let (told, told_rx) = watch::channel(Told::default());
        let listener = listen(&path).expect("listens");
        let (starts, mut started) = mpsc::channel(1);
        let server = tokio::spawn(serve(listener, Passed { asker, starts: starts.clone() }, appended_rx, told_rx));
        for round in 0..3 {
            let mut stream = UnixStream::connect(&path).await.expect("connects");
            assert_eq!(hear(&mut stream).await, job_notice::Kind::Appended(3 + round));
            say(&mut stream, job_control::Kind::Ping(JobPing { nonce: round })).await;
            assert_eq!(hear(&mut stream).await, job_notice::Kind::Pong(JobPing { nonce: round }));
            appended.send_replace(4 + round);
            assert_eq!(hear(&mut stream).await, job_notice::Kind::Appended(4 + round));
        }
        let mut stream = UnixStream::connect(&path).await.expect("connects");
        assert_eq!(hear(&mut stream).await, job_notice::Kind::Appended(6));
        say(&mut stream, job_control::Kind::Cancel(JobCancel { by: "u".into(), force: false })).await;
        assert_eq!(watcher.asked().await, Cancel::Asked("u".into()));
        told.send_modify(|t| t.waits = true);
        assert_eq!(hear(&mut stream).await, job_notice::Kind::Waits(true));
        let start = JobStart { step: "apply".into(), ..Default::default() };
        frame::write_message(&mut stream, Kind::Request, &start).await.expect("writes");
        assert_eq!(started.recv().await.map(|s| s.step), Some("apply".into()));
        told.send_replace(Told { step_ended: Some("plan".into()), waits: false });
        assert_eq!(hear(&mut stream).await, job_notice::Kind::StepEnded("plan".into()));
        // one that asks and goes at once is heard as well
        let (asker, mut watcher) = cancel::pair();
        let (mut theirs, ours) = UnixStream::pair().expect("a pair");
        say(&mut theirs, job_control::Kind::Cancel(JobCancel { by: "u".into(), force: true })).await;
        drop(theirs);
        let _ = converse(ours, Passed { asker, starts }, appended.subscribe(), told.subscribe()).await;
        assert_eq!(watcher.asked().await, Cancel::Forced("u".into()));
        server.abort();
        assert!(listen(&path).is_ok(), "a socket that was left is replaced");
        let file = folder.path().join("f");
        std::fs::write(&file, "mine").expect("writes");
        assert!(listen(&file).is_err(), "another file is not");
    }
}
