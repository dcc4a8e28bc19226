//! The job's events on their way into the spool. One thread owns the file, because waiting for the disk must not keep the control
//! socket from answering; the others send it events. What matters is on disk before the next thing happens, the rest within
//! [`SYNC_WITHIN`].
//!
//! Where the disk is full, the engine goes on: its words are left out and counted, and what matters goes into blocks that the spool has
//! taken beforehand. What even those do not hold, or a broken disk does not take, is kept in memory until it can be written.

use crate::stop::is_disk_full;
use prost::Message as _;
use runner_worker_iac::redaction::Redaction;
use shared_proto::begun::Begun;
use shared_proto::bounds::EVENT_MAX;
use shared_proto::spool::{Reader, SpoolError, Writer};
use shared_proto::v1::event::Body;
use shared_proto::v1::{EngineRead, Event, OutputLine};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Events that wait for the disk; a faster engine is read more slowly, never lost.
const WAITING_MAX: usize = 256;
/// What the engine's mere words may take in the spool, bytes; what comes after is left out, and counted.
const WORDS_MAX: u64 = 256 * 1024 * 1024;
/// How long an unimportant event may be in memory of the kernel only.
const SYNC_WITHIN: Duration = Duration::from_millis(200);
/// How long the job's last events are waited for, once it has ended, where the disk does not take them.
const LAST_WITHIN: Duration = Duration::from_secs(60);
/// Between two attempts to write what the disk did not take.
const AGAIN_EVERY: Duration = Duration::from_millis(200);
/// Bytes of the spool that the engine's mere words never take: for what matters.
const RESERVE: u64 = 512 * 1024;
/// Of these the part that only phases and the job's result take.
const LAST: u64 = 2 * EVENT_MAX as u64;
/// Bytes that are taken of the disk at once, beyond the reserve.
const STEP: u64 = 64 * 1024;
/// Where blocks cannot be taken beforehand there is a file instead, which is given up: its bytes.
const SPARE: usize = 256 * 1024;
/// What is kept in memory that the disk does not take, bytes of events; the job's end comes on top.
const HELD_MAX: usize = 1024 * 1024;

/// Where events go. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    sender: mpsc::Sender<Message>,
    /// What is secret as far as is known now.
    redaction: watch::Receiver<Redaction>,
    /// How far the engine's output was read: goes with each event.
    read: Arc<Mutex<EngineRead>>,
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
    Event(Box<Body>, EngineRead),
    /// Answered when all before it is on disk.
    Flush(oneshot::Sender<()>),
}

struct Recorder {
    writer: Writer,
    room: Room,
    appended: watch::Sender<u64>,
    /// Bytes of mere words so far, and how many events of them were left out.
    words: u64,
    left_out: u64,
    /// How many events are missing because the disk did not take them.
    missing: u64,
    /// What matters and is not yet written, in order, and its bytes.
    held: VecDeque<(Body, EngineRead)>,
    held_bytes: usize,
    unsynced_since: Option<Instant>,
}

/// The blocks behind the spool's end that are the spool's already.
struct Room {
    file: File,
    /// Up to there.
    until: u64,
    /// When the disk had none, last.
    refused: Option<Instant>,
    /// The file that is given up where the file system takes no blocks beforehand.
    spare: Option<PathBuf>,
}

/// How much an event matters when the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    Words,
    Facts,
    End,
}

/// Opens the spool `events` in the working directory and starts its thread. `read`: how far the engine's output was read by the worker before
/// this one, so that what is recorded before more of it comes does not say otherwise.
///
/// # Errors
/// A spool that is damaged, or that lacks events which the supervisor has seen; the file.
pub(crate) fn open(
    path: &Path,
    reserve: &Path,
    redaction: watch::Receiver<Redaction>,
    next_expected: u64,
    read: EngineRead,
) -> Result<(Journal, Progress, Closing), SpoolError> {
    let file = events_file(path)?;
    let again = file.try_clone()?;
    let (writer, torn) = Writer::open(file)?;
    // its name as well: what is in it is told, and must be found again
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()?;
    let last = writer.next_sequence() - 1;
    if next_expected > last + 1 {
        return Err(SpoolError::Damaged { after: last, offset: 0, what: "events are missing that were there before" });
    }
    let mut room = Room { file: again, until: 0, refused: None, spare: None };
    if !room.reaches(writer.end() + RESERVE) && room.refused.is_none() {
        // zeros that take real blocks; without them a full disk costs the result too
        let _ = std::fs::write(reserve, vec![0; SPARE]);
        room.spare = Some(reserve.to_owned());
    }
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let (appended, appended_rx) = watch::channel(last);
    let (failed, failed_rx) = watch::channel(None);
    let (done, closing) = oneshot::channel();
    let mut recorder = Recorder {
        writer,
        room,
        appended,
        words: 0,
        left_out: 0,
        missing: 0,
        held: VecDeque::new(),
        held_bytes: 0,
        unsynced_since: None,
    };
    // of what a power cut has torn; the eight bytes of a new file are none of it
    if torn >= shared_proto::spool::RECORD_HEADER as u64 {
        let text = format!("The spool's last record was torn: {torn} bytes were cut off.");
        recorder.take(Body::OutputLine(OutputLine { stream: "runner".into(), text }), read)?;
    }
    let handle = tokio::runtime::Handle::current();
    std::thread::Builder::new().name("journal".into()).spawn(move || {
        let result = recorder.run(&handle, receiver);
        if let Err(e) = &result {
            failed.send_replace(Some(e.to_string()));
        }
        let _ = done.send(result);
    })?;
    let journal = Journal { sender, redaction, read: Arc::new(Mutex::new(read)) };
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
    /// Records an event. Where the spool is damaged it is dropped: [`Progress::failed`] has said so, and the job is being stopped.
    pub(crate) async fn record(&self, mut body: Body) {
        self.redact(&mut body);
        let read = *self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.sender.send(Message::Event(Box::new(body), read)).await;
    }
    /// The engine's output was read up to there, but for what is recorded next.
    pub(crate) fn has_read(&self, read: EngineRead) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = read;
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
    /// What is taken out now.
    pub(crate) fn redaction(&self) -> Redaction {
        self.redaction.borrow().clone()
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
            let due = match (self.unsynced_since, self.held.is_empty()) {
                (Some(since), true) => Some(SYNC_WITHIN.saturating_sub(since.elapsed())),
                (_, false) => Some(AGAIN_EVERY),
                (None, true) => None,
            };
            let next = match due {
                None => receiver.blocking_recv(),
                Some(due) => match handle.block_on(async { tokio::time::timeout(due, receiver.recv()).await }) {
                    Ok(next) => next,
                    Err(_) => {
                        self.write_held()?;
                        self.sync();
                        continue;
                    }
                },
            };
            match next {
                Some(Message::Event(body, read)) => self.take(*body, read)?,
                Some(Message::Flush(done)) => {
                    self.write_held()?;
                    self.sync();
                    let _ = done.send(());
                }
                None => return self.close(),
            }
        }
    }

    /// Nothing more comes: what is held gets a while.
    fn close(mut self) -> Result<(), SpoolError> {
        let since = Instant::now();
        loop {
            let failed = self.write_held()?;
            match failed {
                None => return self.writer.sync(),
                Some(why) if since.elapsed() >= LAST_WITHIN => return Err(why),
                Some(_) => std::thread::sleep(AGAIN_EVERY),
            }
        }
    }

    /// Appends it, unless it is one word too many.
    fn take(&mut self, body: Body, read: EngineRead) -> Result<(), SpoolError> {
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
                self.hold(Body::OutputLine(OutputLine { stream: "runner".into(), text }), read);
            }
            _ => {}
        }
        let weight = Weight::of(&body);
        if weight == Weight::Words && (!self.held.is_empty() || !self.has_room(&body, weight)) {
            self.missing += 1;
            return Ok(());
        }
        if self.missing > 0 && self.held.is_empty() && self.has_room(&body, Weight::Words) {
            let note = self.note_of_missing();
            self.hold(note, read);
        }
        self.hold(body, read);
        self.write_held().map(drop)
    }

    fn note_of_missing(&mut self) -> Body {
        let text = match std::mem::take(&mut self.missing) {
            1 => "One event is missing here: the disk did not take it.".to_owned(),
            n => format!("{n} events are missing here: the disk did not take them."),
        };
        Body::OutputLine(OutputLine { stream: "runner".into(), text })
    }

    /// Puts it behind what waits to be written. Beyond the bound it is counted only, unless it is the job's end.
    fn hold(&mut self, body: Body, read: EngineRead) {
        let length = body.encoded_len();
        if Weight::of(&body) == Weight::Facts && self.held_bytes + length > HELD_MAX {
            self.missing += 1;
            return;
        }
        self.held_bytes += length;
        self.held.push_back((body, read));
    }

    /// Writes what waits, as far as the disk takes it; why it does not take more.
    fn write_held(&mut self) -> Result<Option<SpoolError>, SpoolError> {
        while let Some((body, read)) = self.held.pop_front() {
            let (length, weight) = (body.encoded_len(), Weight::of(&body));
            if weight == Weight::Facts && !self.has_room(&body, weight) {
                if self.held.iter().any(|(later, _)| Weight::of(later) == Weight::End) {
                    // the end does not wait for it
                    (self.missing, self.held_bytes) = (self.missing + 1, self.held_bytes - length);
                    continue;
                }
                self.held.push_front((body, read));
                return Ok(Some(SpoolError::Io(std::io::ErrorKind::StorageFull.into())));
            }
            let noted = if weight == Weight::End && self.missing > 0 {
                let (missing, note) = (self.missing, self.note_of_missing());
                self.append(&note, read).inspect_err(|_| self.missing = missing)
            } else {
                Ok(())
            };
            let written = noted.and_then(|()| self.append(&body, read));
            match written {
                Ok(()) => self.held_bytes -= length,
                Err(why @ SpoolError::Io(_)) => {
                    self.held.push_front((body, read));
                    return Ok(Some(why));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    fn has_room(&mut self, body: &Body, weight: Weight) -> bool {
        let kept = match weight {
            Weight::Words => RESERVE,
            Weight::Facts => LAST,
            Weight::End => 0,
        };
        let own = (body.encoded_len() + 256).min(EVENT_MAX + 256) as u64;
        let end = self.writer.end();
        self.room.reaches(end + own + kept) || self.room.spare.is_some()
    }

    fn append(&mut self, body: &Body, read: EngineRead) -> Result<(), SpoolError> {
        let urgent = is_urgent(body);
        let sequence = self.writer.next_sequence();
        let body = Some(body.clone());
        let mut event = Event { sequence, time_ms: shared_proto::now_ms(), engine_read: Some(read), body };
        fit(&mut event);
        if let Err(e) = self.writer.append(&event.encode_to_vec()) {
            // cutting the torn tail off has given the blocks behind it back
            self.room.until = 0;
            if let (SpoolError::Io(why), Some(spare)) = (&e, &self.room.spare)
                && is_disk_full(why)
            {
                let _ = std::fs::remove_file(spare);
            }
            return Err(e);
        }
        self.unsynced_since.get_or_insert_with(Instant::now);
        if urgent {
            self.sync();
        }
        self.appended.send_replace(sequence);
        Ok(())
    }

    /// A disk that fails here is found by the next one who writes, and what it has lost by who reads.
    fn sync(&mut self) {
        if self.unsynced_since.take().is_some()
            && let Err(e) = self.writer.sync()
        {
            eprintln!("runner-worker-iac: the spool is not on disk: {e}");
        }
    }
}

// === impl Room ===

impl Room {
    /// Whether the spool has the blocks up to there; takes them where it has not.
    fn reaches(&mut self, end: u64) -> bool {
        if end <= self.until {
            return true;
        }
        if self.spare.is_some() || self.refused.is_some_and(|at| at.elapsed() < AGAIN_EVERY) {
            return false;
        }
        let keep = nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let length = i64::try_from(end + STEP).unwrap_or(i64::MAX);
        match nix::fcntl::fallocate(&self.file, keep, 0, length) {
            Ok(()) => {
                (self.until, self.refused) = (end + STEP, None);
                true
            }
            Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) => false,
            Err(_) => {
                self.refused = Some(Instant::now());
                false
            }
        }
    }
}

// === impl Weight ===

impl Weight {
    fn of(body: &Body) -> Self {
        match body {
            // what a provisioner says comes as that
            Body::ResourceProgress(progress) if progress.state == "running" => Self::Words,
            Body::OutputLine(_) | Body::EngineMessage(_) | Body::PlannedChange(_) | Body::PlanPart(_) => Self::Words,
            Body::Result(_) | Body::PhaseChanged(_) => Self::End,
            _ => Self::Facts,
        }
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
        Body::Diagnostic(e) => {
            let snippet = e.snippet.iter_mut();
            let of_code = snippet.flat_map(|s| [&mut s.context, &mut s.code].into_iter().chain(&mut s.values));
            [&mut e.summary, &mut e.detail, &mut e.address, &mut e.file].into_iter().chain(of_code).collect()
        }
        Body::ChangeSummary(e) => vec![&mut e.text],
        Body::PlannedChange(e) => vec![&mut e.address, &mut e.reason, &mut e.text],
        Body::Outputs(e) => vec![&mut e.json],
        Body::EngineMessage(e) => vec![&mut e.r#type, &mut e.json],
        Body::PlanSaved(e) => vec![&mut e.text],
        Body::Result(e) => vec![&mut e.message, &mut e.next_step],
        Body::EngineStarted(e) => vec![&mut e.version, &mut e.host],
        Body::HookStarted(e) => vec![&mut e.program],
        Body::CancelProgress(e) => vec![&mut e.by],
        Body::StateResource(e) => vec![&mut e.address, &mut e.name, &mut e.id, &mut e.attributes],
        Body::StateVersion(e) => vec![&mut e.person, &mut e.reason],
        // what is secret was taken out before it became JSON, which a text that is taken out of it would break
        Body::Redacted(_) | Body::PlanPart(_) | Body::PlanJudged(_) => vec![],
    }
}

/// The events that are in a spool by now, up to the first that cannot be read; one that is no event is passed over.
pub(crate) fn told(events: &Path) -> impl Iterator<Item = Event> + use<> {
    let mut reader = File::open(events).ok().and_then(|file| Reader::new(file).ok());
    let records = std::iter::from_fn(move || reader.as_mut()?.read().ok()?);
    records.filter_map(|record| Event::decode(record.content.as_slice()).ok())
}

/// What the job's apply has begun and not ended, as the spool tells.
pub(crate) fn begun(events: &Path) -> Begun {
    let mut begun = Begun::default();
    told(events).filter_map(|event| event.body).for_each(|body| begun.take(&body));
    begun
}

/// Writes a spool of these events, numbered from 1.
#[cfg(test)]
pub(crate) fn write_told(path: &Path, events: impl IntoIterator<Item = Event>) {
    let file = File::options().create_new(true).read(true).write(true).open(path).expect("opens");
    let (mut writer, _) = Writer::open(file).expect("a spool");
    for (event, sequence) in events.into_iter().zip(1..) {
        writer.append(&Event { sequence, ..event }.encode_to_vec()).expect("appends");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::v1::{Diagnostic, JobResult, PhaseChanged};

    #[tokio::test]
    async fn events_are_numbered_redacted_cut_and_on_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events");
        let reserve = folder.path().join("reserve");
        let (_secrets, redaction) = watch::channel(Redaction::new(["a-secret-value"]));
        let (journal, progress, closing) =
            open(&path, &reserve, redaction.clone(), 1, EngineRead::default()).expect("opens");
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
        assert!(open(&path, &reserve, redaction.clone(), 4, EngineRead::default()).is_ok());
        assert!(matches!(
            open(&path, &reserve, redaction, 5, EngineRead::default()),
            Err(SpoolError::Damaged { after: 3, .. })
        ));
    }

    /// A recorder whose disk gives it no more than so many bytes beyond what the reserve takes.
    fn recorder(file: &File, beyond: u64) -> Recorder {
        let (writer, _) = Writer::open(file.try_clone().expect("clones")).expect("opens");
        // no blocks are to be had of it
        let none = OpenOptions::new().write(true).open("/dev/full").expect("opens");
        let room = Room { file: none, until: writer.end() + RESERVE + beyond, refused: None, spare: None };
        Recorder {
            writer,
            room,
            appended: watch::channel(0).0,
            words: 0,
            left_out: 0,
            missing: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            unsynced_since: None,
        }
    }
    fn line(text: &str) -> Body {
        Body::OutputLine(OutputLine { stream: "stdout".into(), text: text.into() })
    }
    fn bodies(file: &File) -> Vec<Body> {
        let mut reader = Reader::new(file.try_clone().expect("clones")).expect("a spool");
        let read = std::iter::from_fn(|| reader.read().expect("reads"));
        read.filter_map(|record| Event::decode(record.content.as_slice()).expect("decodes").body).collect()
    }

    #[test]
    fn on_a_full_disk_words_are_counted_facts_held_and_the_end_is_written() {
        let file = tempfile::tempfile().expect("a file");
        let mut recorder = recorder(&file, 4096);
        let (read, until) = (EngineRead::default(), recorder.room.until);
        for _ in 0..100 {
            recorder.take(line(&"w".repeat(100)), read).expect("goes on");
        }
        let words = bodies(&file).len() as u64;
        assert!((10..40).contains(&words), "{words}");
        assert_eq!(recorder.missing, 100 - words);
        assert!(recorder.writer.end() <= until - RESERVE);
        // what matters takes of the reserve, is then kept in memory, and beyond that counted
        let fact = || Body::Diagnostic(Diagnostic { summary: "f".repeat(10_000), ..Default::default() });
        for _ in 0..200 {
            recorder.take(fact(), read).expect("goes on");
        }
        let facts = bodies(&file).len() as u64 - words;
        assert!((30..45).contains(&facts), "{facts}");
        assert!(recorder.writer.end() <= until - LAST && recorder.writer.end() > until - LAST - 11_000);
        assert!(recorder.held_bytes <= HELD_MAX && recorder.held_bytes > HELD_MAX - 11_000);
        let result = JobResult { phase: "applied".into(), code: "ok".into(), ..Default::default() };
        recorder.take(Body::Result(result.clone()), read).expect("is written");
        let all = bodies(&file);
        assert_eq!(all.last(), Some(&Body::Result(result)));
        let missing = 300 - words - facts;
        let note = format!("{missing} events are missing here: the disk did not take them.");
        assert!(format!("{:?}", all[all.len() - 2]).contains(&note), "{:?}", all[all.len() - 2]);
        assert!(recorder.writer.end() <= until && recorder.held.is_empty() && recorder.held_bytes == 0);
    }

    #[test]
    fn what_was_held_is_written_in_order_once_there_is_room() {
        let file = tempfile::tempfile().expect("a file");
        let mut recorder = recorder(&file, 0);
        let read = EngineRead::default();
        recorder.take(line("does not fit"), read).expect("goes on");
        recorder.room.until = recorder.writer.end() + LAST;
        for n in 0..3 {
            let fact = Diagnostic { summary: format!("fact {n}"), ..Default::default() };
            recorder.take(Body::Diagnostic(fact), read).expect("goes on");
        }
        assert_eq!((bodies(&file).len(), recorder.held.len(), recorder.missing), (0, 3, 1));
        recorder.room.until = recorder.writer.end() + 2 * RESERVE;
        recorder.take(line("behind them"), read).expect("goes on");
        assert_eq!(recorder.missing, 2, "words do not overtake");
        assert!(recorder.write_held().expect("writes").is_none());
        recorder.take(line("fits"), read).expect("goes on");
        let said: Vec<_> = bodies(&file).iter().map(|body| format!("{body:?}")).collect();
        for (said, expected) in said.iter().zip(["fact 0", "fact 1", "fact 2", "2 events are missing here", "fits"]) {
            assert!(said.contains(expected), "{expected}: {said}");
        }
        assert_eq!(said.len(), 5);
    }
}
