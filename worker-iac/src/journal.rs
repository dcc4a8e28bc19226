//! The job's events on their way into the spool. One thread owns the file, because waiting for the disk must not keep the control
//! socket from answering; the others send it events. What matters is on disk before the next thing happens, the rest within
//! [`SYNC_WITHIN`].

use crate::stop::is_disk_full;
use prost::Message as _;
use runner_worker_iac::redaction::Redaction;
use shared_proto::bounds::EVENT_MAX;
use shared_proto::spool::{SpoolError, Writer};
use shared_proto::v1::event::Body;
use shared_proto::v1::{Event, OutputLine};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Events that wait for the disk; a faster engine is read more slowly, never lost.
const WAITING_MAX: usize = 256;
/// What the engine's mere words may take in the spool, bytes; what comes after is left out, and counted.
const WORDS_MAX: u64 = 256 * 1024 * 1024;
/// How long an unimportant event may be in memory of the kernel only.
const SYNC_WITHIN: Duration = Duration::from_millis(200);
/// How long a full disk is waited for before the job is given up.
const FULL_WITHIN: Duration = Duration::from_secs(60);
/// Bytes kept back for the last events of a job whose disk runs full.
const RESERVE: usize = 256 * 1024;

/// Where events go. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    sender: mpsc::Sender<Message>,
    /// What is secret as far as is known now.
    redaction: watch::Receiver<Redaction>,
}

/// What the journal tells.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// The newest number in the spool.
    pub(crate) appended: watch::Receiver<u64>,
    /// Set once the spool cannot be written any more.
    pub(crate) failed: watch::Receiver<Option<String>>,
}

/// The thread, to be waited for at the end.
#[derive(Debug)]
pub(crate) struct Closing {
    done: oneshot::Receiver<Result<(), SpoolError>>,
}

enum Message {
    Event(Box<Body>),
    /// Answered when all before it is on disk.
    Flush(oneshot::Sender<()>),
}

struct Recorder {
    writer: Writer,
    reserve: PathBuf,
    appended: watch::Sender<u64>,
    /// Bytes of mere words so far, and how many events of them were left out.
    words: u64,
    left_out: u64,
    unsynced_since: Option<Instant>,
}

/// Opens the spool `events` in the working directory and starts its thread.
///
/// # Errors
/// A spool that is damaged, or that lacks events which the supervisor has seen; the file.
pub(crate) fn open(
    path: &Path,
    reserve: &Path,
    redaction: watch::Receiver<Redaction>,
    next_expected: u64,
) -> Result<(Journal, Progress, Closing), SpoolError> {
    let (writer, _torn) = Writer::open(events_file(path)?)?;
    let last = writer.next_sequence() - 1;
    if next_expected > last + 1 {
        return Err(SpoolError::Damaged { after: last, offset: 0, what: "events are missing that were there before" });
    }
    // zeros that take real blocks; without them a full disk costs the result too
    let _ = std::fs::write(reserve, vec![0; RESERVE]);
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let (appended, appended_rx) = watch::channel(last);
    let (failed, failed_rx) = watch::channel(None);
    let (done, closing) = oneshot::channel();
    let recorder =
        Recorder { writer, reserve: reserve.to_owned(), appended, words: 0, left_out: 0, unsynced_since: None };
    let handle = tokio::runtime::Handle::current();
    std::thread::Builder::new().name("journal".into()).spawn(move || {
        let result = recorder.run(&handle, receiver);
        if let Err(e) = &result {
            failed.send_replace(Some(e.to_string()));
        }
        let _ = done.send(result);
    })?;
    let journal = Journal { sender, redaction };
    Ok((journal, Progress { appended: appended_rx, failed: failed_rx }, Closing { done: closing }))
}

fn events_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
        .open(path)
}

// === impl Journal ===

impl Journal {
    /// Records an event. Where the spool has failed it is dropped: [`Progress::failed`] has said so, and the job is being stopped.
    pub(crate) async fn record(&self, mut body: Body) {
        self.redact(&mut body);
        let _ = self.sender.send(Message::Event(Box::new(body))).await;
    }
    /// Records a line of the runner's own.
    pub(crate) async fn note(&self, text: impl Into<String>) {
        self.record(Body::OutputLine(OutputLine { stream: "runner".into(), text: text.into() })).await;
    }
    /// Waits until all that was recorded is on disk.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.sender.send(Message::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
    /// Takes the job's secrets out of a line before it is parsed. `cut`: something was left out at its end.
    pub(crate) fn redact_line(&self, line: &mut String, cut: bool) {
        let redaction = self.redaction.borrow();
        if cut { redaction.apply_to_cut(line) } else { redaction.apply(line) }
    }
    /// How often a secret was taken out so far.
    pub(crate) fn redacted(&self) -> u64 {
        self.redaction.borrow().found()
    }
    fn redact(&self, body: &mut Body) {
        let redaction = self.redaction.borrow();
        for text in texts(body) {
            redaction.apply(text);
        }
    }
}

// === impl Closing ===

impl Closing {
    /// Waits until the thread has written all; every [`Journal`] must be gone.
    pub(crate) async fn wait(self) -> Result<(), SpoolError> {
        self.done.await.unwrap_or_else(|_| Err(std::io::Error::other("the journal's thread panicked").into()))
    }
}

// === impl Recorder ===

impl Recorder {
    fn run(mut self, handle: &tokio::runtime::Handle, mut receiver: mpsc::Receiver<Message>) -> Result<(), SpoolError> {
        loop {
            let next = match self.unsynced_since {
                None => receiver.blocking_recv(),
                Some(since) => {
                    let left = SYNC_WITHIN.saturating_sub(since.elapsed());
                    match handle.block_on(async { tokio::time::timeout(left, receiver.recv()).await }) {
                        Ok(next) => next,
                        Err(_) => {
                            self.sync()?;
                            continue;
                        }
                    }
                }
            };
            match next {
                Some(Message::Event(body)) => self.take(*body)?,
                Some(Message::Flush(done)) => {
                    self.sync()?;
                    let _ = done.send(());
                }
                None => return self.sync(),
            }
        }
    }

    /// Appends it, unless it is one word too many.
    fn take(&mut self, body: Body) -> Result<(), SpoolError> {
        match &body {
            Body::OutputLine(_) | Body::EngineMessage(_) => {
                self.words += body.encoded_len() as u64;
                if self.words > WORDS_MAX {
                    self.left_out += 1;
                    return Ok(());
                }
            }
            Body::Result(_) | Body::PhaseChanged(_) if self.left_out > 0 => {
                let text = format!("{} lines of output were left out: there were too many.", self.left_out);
                self.left_out = 0;
                self.append(Body::OutputLine(OutputLine { stream: "runner".into(), text }))?;
            }
            _ => {}
        }
        self.append(body)
    }

    fn append(&mut self, body: Body) -> Result<(), SpoolError> {
        let urgent = is_urgent(&body);
        let sequence = self.writer.next_sequence();
        let mut event = Event { sequence, time_ms: shared_proto::now_ms(), body: Some(body) };
        fit(&mut event);
        let content = event.encode_to_vec();
        let since = Instant::now();
        loop {
            match self.writer.append(&content) {
                Ok(_) => break,
                Err(SpoolError::Io(e)) if is_disk_full(&e) && since.elapsed() < FULL_WITHIN => {
                    // the reserve makes room for the last events at least; somebody may free more
                    let _ = std::fs::remove_file(&self.reserve);
                    std::thread::sleep(Duration::from_millis(200));
                }
                Err(e) => return Err(e),
            }
        }
        self.unsynced_since.get_or_insert(since);
        if urgent {
            self.sync()?;
        }
        self.appended.send_replace(sequence);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), SpoolError> {
        if self.unsynced_since.take().is_some() {
            self.writer.sync()?;
        }
        Ok(())
    }
}

/// What must be on disk before anything else happens.
fn is_urgent(body: &Body) -> bool {
    match body {
        Body::PhaseChanged(_) | Body::Result(_) | Body::PlanSaved(_) | Body::CancelProgress(_) => true,
        Body::ResourceProgress(progress) => progress.state == "complete" || progress.state == "failed",
        _ => false,
    }
}

/// Cuts an event's texts so that it fits into a record, and says so in them.
fn fit(event: &mut Event) {
    let length = event.encoded_len();
    if length <= EVENT_MAX {
        return;
    }
    let Some(body) = event.body.as_mut() else { return };
    let mut texts = texts(body);
    // each may have its share; 2 KiB for tags, numbers and the notes
    let share = (EVENT_MAX - 2048) / texts.len().max(1);
    for text in &mut texts {
        cut(text, share);
    }
}

/// Cuts a text to that many bytes, at a character, with a note of what was cut.
pub(crate) fn cut(text: &mut String, limit: usize) {
    if text.len() <= limit {
        return;
    }
    let whole = text.len();
    let mut end = limit.saturating_sub(48);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str(&format!("… [cut: {} of {whole} bytes left out]", whole - end));
}

/// Every free text of an event.
fn texts(body: &mut Body) -> Vec<&mut String> {
    match body {
        Body::PhaseChanged(e) => vec![&mut e.detail],
        Body::SourceResolved(e) => vec![&mut e.reference],
        Body::OutputLine(e) => vec![&mut e.text],
        Body::ResourceProgress(e) => vec![&mut e.address, &mut e.id, &mut e.text],
        Body::Diagnostic(e) => vec![&mut e.summary, &mut e.detail, &mut e.address, &mut e.file],
        Body::ChangeSummary(e) => vec![&mut e.text],
        Body::PlannedChange(e) => vec![&mut e.address, &mut e.reason, &mut e.text],
        Body::Outputs(e) => vec![&mut e.json],
        Body::EngineMessage(e) => vec![&mut e.r#type, &mut e.json],
        Body::PlanSaved(e) => vec![&mut e.text],
        Body::Result(e) => vec![&mut e.message, &mut e.next_step],
        Body::EngineStarted(e) => vec![&mut e.version],
        Body::CancelProgress(e) => vec![&mut e.by],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::spool::Reader;
    use shared_proto::v1::{Diagnostic, PhaseChanged};

    #[tokio::test]
    async fn events_are_numbered_redacted_cut_and_on_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events");
        let reserve = folder.path().join("reserve");
        let (_secrets, redaction) = watch::channel(Redaction::new(["a-secret-value"]));
        let (journal, progress, closing) = open(&path, &reserve, redaction.clone(), 1).expect("opens");
        journal.record(Body::PhaseChanged(PhaseChanged { phase: "preparing".into(), ..Default::default() })).await;
        journal.note("with a-secret-value in it").await;
        let long = "é".repeat(EVENT_MAX);
        let diagnostic = Diagnostic { summary: long.clone(), detail: long, ..Default::default() };
        journal.record(Body::Diagnostic(diagnostic)).await;
        journal.flush().await;
        assert_eq!(*progress.appended.borrow(), 3);
        drop(journal);
        closing.wait().await.expect("closes");
        let mut reader = Reader::new(File::open(&path).expect("opens")).expect("a spool");
        let mut texts = Vec::new();
        while let Some(record) = reader.read().expect("reads") {
            let event = Event::decode(record.content.as_slice()).expect("decodes");
            assert_eq!(event.sequence, record.sequence);
            texts.push(format!("{event:?}"));
        }
        assert!(texts[1].contains("with [redacted] in it"), "{}", texts[1]);
        assert!(texts[2].contains("bytes left out"));
        // a later process goes on; one that should have more events than there are refuses
        assert!(open(&path, &reserve, redaction.clone(), 4).is_ok());
        assert!(matches!(open(&path, &reserve, redaction, 5), Err(SpoolError::Damaged { after: 3, .. })));
    }
}
