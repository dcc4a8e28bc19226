//! Recordings of terminals as the supervisor has them: begun before what they are of, written beside it, ended with it.
//!
//! ```text
//!  what passes ─▶ queue ─▶ a thread that may wait for the disk ─▶ audit/recordings/….part ─▶ the log has its digest ─▶ ….rec
//! ```
//! It must never let a session go on that is not recorded, and never hold one up for longer than [`WITHIN`].

use crate::audit::recording::{Event, Header, Recorder as Writer, RecordingError};
use crate::audit::{Digest, Kind, Record, Shelf, Shelved};
use crate::config::AuditSettings;
use crate::recorder::Recorder;
use shared_proto::failure::{Code, Failure};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// What of a session may wait to be written, bytes: what a disk that fails may cost of it.
const QUEUED_MAX: usize = 256 << 10;
/// The same in events, each of which has less than a thousand bytes beside.
const EVENTS_MAX: usize = 256;
/// How long a disk may take before its session ends.
const WITHIN: Duration = Duration::from_secs(10);

/// One that is being made. It ends when this is dropped, too.
#[derive(Debug)]
pub struct Recording {
    events: mpsc::Sender<Passed>,
    room: Arc<Semaphore>,
    failed: watch::Sender<Option<Failure>>,
    ended: oneshot::Receiver<()>,
}

/// Something that passed.
#[derive(Debug)]
struct Passed {
    at: Instant,
    event: Event,
    _room: OwnedSemaphorePermit,
}

/// What there is to know of one that is written.
struct Session {
    shelf: Shelf,
    operation: String,
    recorder: Recorder,
    failed: watch::Sender<Option<Failure>>,
    kept_max: u64,
}

// === impl Recording ===

impl Recording {
    /// Begins one of that operation.
    ///
    /// # Errors
    /// `not_recorded`.
    pub async fn begin(
        settings: &AuditSettings,
        recorder: &Recorder,
        operation: &str,
        header: Header,
    ) -> Result<Self, Failure> {
        let Some(key) = &settings.recording_key else { return Err(without_key()) };
        let shelf = Shelf::of(recorder.folder());
        let (of, to, max) = (operation.to_owned(), key.to, settings.recording_max);
        let began = {
            let shelf = shelf.clone();
            tokio::task::spawn_blocking(move || shelf.begin(&of, to, &header, max))
        };
        let writer = match tokio::time::timeout(WITHIN, began).await {
            Ok(Ok(began)) => began.map_err(|e| not_recorded(&e))?,
            Ok(Err(e)) => return Err(Code::Internal.on(format!("the recording's thread: {e}"))),
            Err(_) => return Err(too_slow()),
        };
        let (events, passed) = mpsc::channel(EVENTS_MAX);
        let (end, ended) = oneshot::channel();
        let failed = watch::Sender::new(None);
        let session = Session {
            shelf,
            operation: operation.to_owned(),
            recorder: recorder.clone(),
            failed: failed.clone(),
            kept_max: settings.recordings_max,
        };
        recorder.tasks().spawn(async move {
            session.write(writer, passed).await;
            // whoever waited may be gone
            let _ = end.send(());
        });
        Ok(Self { events, room: Arc::new(Semaphore::new(QUEUED_MAX)), failed, ended })
    }

    /// Records that; waits for room where the disk is slow. Where it has failed this never returns, and [`Self::failed`] does.
    pub async fn put(&self, event: Event) {
        let size = match &event {
            Event::Output(bytes) | Event::Stderr(bytes) | Event::Input(bytes) => bytes.len(),
            Event::Resize { .. } => 0,
        };
        let size = u32::try_from(size.clamp(1, QUEUED_MAX)).unwrap_or(u32::MAX);
        let queued = async {
            let room = self.room.clone().acquire_many_owned(size).await.ok()?;
            let place = self.events.reserve().await.ok()?;
            // now, and not before: in the order in which they are written
            place.send(Passed { at: Instant::now(), event, _room: room });
            Some(())
        };
        match tokio::time::timeout(WITHIN, queued).await {
            Ok(Some(())) => return,
            // it has said why
            Ok(None) => {}
            Err(_) => fail(&self.failed, too_slow()),
        }
        std::future::pending().await
    }

    /// Resolves once it has failed: the session has to end.
    pub async fn failed(&self) -> Failure {
        let mut failed = self.failed.subscribe();
        let said = failed.wait_for(Option::is_some).await.ok().and_then(|said| said.clone());
        // never closed: we have the other end
        said.unwrap_or_else(too_slow)
    }

    /// Ends it, and waits until it is whole on disk and in the log.
    ///
    /// # Errors
    /// `not_recorded`: it is not.
    pub async fn finish(self) -> Result<(), Failure> {
        let Self { events, failed, ended, .. } = self;
        drop(events);
        if tokio::time::timeout(WITHIN, ended).await.is_err() {
            fail(&failed, too_slow());
        }
        let said = failed.borrow().clone();
        said.map_or(Ok(()), Err)
    }
}

// === impl Session ===

impl Session {
    /// Writes what passes, to its end.
    async fn write(self, mut writer: Writer, mut passed: mpsc::Receiver<Passed>) {
        let (path, mut broken) = (writer.path().to_owned(), None);
        let mut batch = Vec::new();
        while passed.recv_many(&mut batch, EVENTS_MAX).await > 0 {
            let events = std::mem::take(&mut batch);
            let written = tokio::task::spawn_blocking(move || {
                let done = events.iter().try_for_each(|passed| writer.put(passed.at, &passed.event));
                (done.and_then(|()| writer.flush()), writer)
            });
            // only a panic could have taken it
            let Ok((done, back)) = written.await else {
                return fail(&self.failed, Code::Internal.on("the recording's thread failed"));
            };
            writer = back;
            if let Err(e) = done {
                fail(&self.failed, not_recorded(&e));
                broken = Some(e);
                break;
            }
        }
        drop(passed);
        let ended = blocking(move || {
            let recorded = writer.finish();
            let shelved = Shelved::at(path).ok_or_else(|| "its file's name is none of a recording".to_owned())?;
            Ok::<_, String>(match recorded {
                Ok(recorded) => {
                    let (digest, ms) = (recorded.sha256, Some(recorded.ms));
                    // locked until it has its name
                    (shelved, digest, ms, broken.map(|e| e.to_string()), Some(recorded))
                }
                Err(e) => {
                    let digest = shelved.digest().map_err(|e| e.to_string())?;
                    (shelved, digest, None, Some(format!("it is not whole: {e}")), None)
                }
            })
        });
        let told = match ended.await {
            Ok((shelved, digest, ms, detail, _locked)) => self.tell(shelved, digest, ms, detail).await,
            Err(e) => Err(Code::NotRecorded.on(format!("the recording could not be ended: {e}"))),
        };
        if let Err(failure) = told {
            tracing::error!(operation = self.operation, detail = failure.message, "a recording has not ended well");
            fail(&self.failed, failure);
        }
    }

    /// Has the log know it, then gives it its name: where one of the two fails, the next start does both.
    async fn tell(
        &self,
        shelved: Shelved,
        digest: Digest,
        ms: Option<u64>,
        detail: Option<String>,
    ) -> Result<(), Failure> {
        let whole = detail.is_none();
        self.recorder.record(record(&shelved, digest, ms, detail)).await?;
        if !whole {
            fail(&self.failed, Code::NotRecorded.on("the recording has not come to its end"));
        }
        let (shelf, most) = (self.shelf.clone(), self.kept_max);
        let recorder = self.recorder.clone();
        let ended = blocking(move || {
            shelf.end(&shelved)?;
            shelf.prune(most, |oldest| {
                recorder.note(Record {
                    kind: Kind::RecordingRemoved,
                    operation: Some(oldest.operation.clone()),
                    file: Some(oldest.name.clone()),
                    detail: Some(format!("recordings have more than {} MiB, and the oldest go", most >> 20)),
                    ..Record::default()
                });
            })
        });
        ended.await.map_err(|e| Code::NotRecorded.on(format!("the folder of recordings: {e}")))
    }
}

/// Tells of those that an earlier process was writing when it was killed.
pub async fn left_behind(recorder: Recorder) {
    let shelf = Shelf::of(recorder.folder());
    let looking = shelf.clone();
    let found = match blocking(move || looking.left_behind()).await {
        Ok(found) => found,
        Err(detail) => return tracing::error!(detail, "the folder of recordings cannot be read"),
    };
    for one in found {
        let (name, shelf) = (one.name.clone(), shelf.clone());
        match tell_left_behind(&recorder, shelf, one).await {
            Ok(()) => tracing::warn!(file = name, "a recording was not ended; the log says so"),
            Err(detail) => tracing::error!(file = name, detail, "a recording that was not ended stays so"),
        }
    }
}

async fn tell_left_behind(recorder: &Recorder, shelf: Shelf, one: Shelved) -> Result<(), String> {
    let read = one.clone();
    let digest = blocking(move || read.digest()).await?;
    let why = "the runner was killed while it was made: it is not whole".to_owned();
    let told = recorder.record(record(&one, digest, None, Some(why))).await;
    told.map_err(|failure| failure.to_string())?;
    blocking(move || shelf.end(&one)).await
}

/// What may wait for the disk, on a thread for that.
async fn blocking<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

fn record(of: &Shelved, digest: Digest, ms: Option<u64>, detail: Option<String>) -> Record {
    Record {
        kind: Kind::Recording,
        operation: Some(of.operation.clone()),
        file: Some(of.name.clone()),
        digest: Some(digest.to_string()),
        ms,
        detail,
        ..Record::default()
    }
}

/// The first failure counts.
fn fail(failed: &watch::Sender<Option<Failure>>, failure: Failure) {
    failed.send_if_modified(|said| {
        let is_first = said.is_none();
        said.get_or_insert(failure);
        is_first
    });
}

/// Of a rule that has recorded what nobody could read.
pub fn without_key() -> Failure {
    Code::NotRecorded
        .on("the policy has it recorded, and the runner has no key to encrypt recordings to")
        .next("Name the file with the public key as audit.recording_key in the runner's configuration.")
}

fn not_recorded(e: &RecordingError) -> Failure {
    let failure = Code::NotRecorded.on(e.to_string());
    match e {
        RecordingError::Full(_) => {
            failure.next("Open another session, or let recordings be longer: audit.recording_mib.")
        }
        RecordingError::Key(_) => failure.next("Give audit.recording_key another public key."),
        _ => failure,
    }
}

fn too_slow() -> Failure {
    Code::NotRecorded.on(format!("the disk did not take the recording within {WITHIN:?}"))
}

#[cfg(test)]
mod tests;
