//! The log as the rest of the runner has it.

use super::error::AuditError;
use super::key::PublicKey;
use super::line::Point;
use super::log::{Keep, Whose};
use super::open::{self, Found};
use super::own::Missing;
use super::record::{ID_MAX, Record, Redact};
use super::sink::{Collector, Reopen, Sink};
use super::writer::{BATCH_MAX, Command, Item, Reply, When, Writer};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// How many records may wait to be written.
pub const QUEUE_MAX: usize = 4096;
/// How many bytes of records may wait to be written.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;
/// After how many records the log is sealed.
pub const SEAL_RECORDS: u64 = 1000;
/// After what time the log is sealed, if there is something new.
pub const SEAL_AFTER: Duration = Duration::from_secs(60);
/// How long a file may become before the next one is begun, bytes, where nothing else is set.
pub const FILE_MAX: u64 = 64 << 20;
/// The least that may be set for it, bytes.
pub const FILE_MAX_LEAST: u64 = 4 << 10;
/// After what time the disk is asked to have what was written, where nobody waits for it.
const SYNC_AFTER: Duration = Duration::from_millis(200);

/// What a request does whose record cannot be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It is refused.
    #[default]
    Closed,
    /// It goes on. What is missing is counted, and the next record that can be written says how many.
    Open,
}

/// What whoever records waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// That the system has the record: it survives this process, also where it is killed. The disk has it within 200 ms.
    Written,
    /// That the disk has it: it survives a power cut.
    Disk,
}

/// What has become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// It is in the log, at that place.
    Kept(Point, Stored),
    /// It could not be written, and what it is about goes on all the same ([`OnFailure::Open`]).
    Lost,
}

/// How far a record has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The system has it.
    Written,
    /// The disk has it.
    Disk,
}

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// The runner's id: it stands in every file and is part of what is signed.
    pub runner: String,
    /// The instance's id.
    pub instance: String,
    /// The runner's version, for people.
    pub version: String,
    /// How long a file may become before the next one is begun, bytes; at least [`FILE_MAX_LEAST`].
    pub file_max: u64,
    /// How much is kept.
    pub keep: Keep,
    /// What a request does whose record cannot be written.
    pub on_failure: OnFailure,
    /// Where lines are handed on to.
    pub sink: Option<Sink>,
    /// What takes secrets out of texts.
    pub redact: Option<Redact>,
    /// After how many records the log is sealed; 1 to [`SEAL_RECORDS`].
    pub seal_records: u64,
    /// After what time the log is sealed, if there is something new; at most [`SEAL_AFTER`].
    pub seal_after: Duration,
}

/// A seal, with all that it takes to believe it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its place.
    pub at: Point,
    /// Its line, without the end.
    pub line: String,
    /// The key that signed it.
    pub key: PublicKey,
    /// The line by which the key before signed this one, where it is in the file that is written; else empty.
    pub key_line: String,
}

/// How the log is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Records since the start that are not in the log, of what went on all the same.
    pub lost: u64,
    /// Records since the start that are not in the log, of what was refused because of that.
    pub refused: u64,
    /// The last failure.
    pub last_error: Option<String>,
    /// Records that wait to be written now.
    pub waiting: usize,
}

/// The log. Cheap to clone; it is closed by [`Audit::close`], or when the last one is gone.
#[derive(Debug, Clone)]
pub struct Audit {
    commands: SyncSender<Command>,
    shared: Arc<Shared>,
    redact: Option<Redact>,
    reopen: Option<Reopen>,
    fails_open: bool,
}

/// What handle and thread both know.
#[derive(Debug)]
pub(super) struct Shared {
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// Turned away since the log told of it last: lost, refused.
    away_lost: AtomicU64,
    away_refused: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
    last_error: Mutex<Option<String>>,
    key: Mutex<PublicKey>,
    head: watch::Sender<Point>,
    seals: watch::Sender<Option<Sealed>>,
}

// === impl Options ===

impl Options {
    /// Everything else as it is where nothing is set.
    pub fn new(runner: impl Into<String>, instance: impl Into<String>) -> Self {
        Self {
            runner: runner.into(),
            instance: instance.into(),
            version: String::new(),
            file_max: FILE_MAX,
            keep: Keep::default(),
            on_failure: OnFailure::default(),
            sink: None,
            redact: None,
            seal_records: SEAL_RECORDS,
            seal_after: SEAL_AFTER,
        }
    }

    fn check(&self) -> Result<(), AuditError> {
        let is_id = |id: &str| {
            (1..=ID_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/@".contains(&b))
        };
        for id in [&self.runner, &self.instance] {
            if !is_id(id) {
                return Err(AuditError::Id(id.chars().take(ID_MAX).collect()));
            }
        }
        if self.version.len() > ID_MAX {
            return Err(AuditError::Setting("the version's text is too long"));
        }
        if self.file_max < FILE_MAX_LEAST {
            return Err(AuditError::Setting("a file of the audit log may have 4096 bytes or more"));
        }
        if self.keep.files == Some(0) {
            return Err(AuditError::Setting("of the audit log at least one file is kept"));
        }
        if !(1..=SEAL_RECORDS).contains(&self.seal_records) || self.seal_after > SEAL_AFTER {
            return Err(AuditError::Setting("the audit log is sealed after at most 1000 records and 60 s"));
        }
        Ok(())
    }
}

// === impl Audit ===

impl Audit {
    /// Opens the log in that folder, or begins it; cuts off a torn end, and says so in it. The second value is what was found.
    ///
    /// # Errors
    /// Another process has it ([`AuditError::Held`]: at a hand-over, until that one has closed it); the disk; the key; a bad setting.
    pub fn open(folder: &Path, options: Options) -> Result<(Self, Found), AuditError> {
        options.check()?;
        let collector = options.sink.map(Collector::start).transpose()?;
        let reopen = collector.as_ref().map(Collector::reopener);
        let whose = Whose { runner: options.runner, instance: options.instance, version: options.version };
        let (log, found) = open::open(folder, whose, collector)?;
        let fails_open = options.on_failure == OnFailure::Open;
        let when = When {
            file_max: options.file_max,
            keep: options.keep,
            seal_records: options.seal_records,
            seal_after: options.seal_after,
            sync_after: SYNC_AFTER,
            fails_open,
        };
        let (commands, waiting) = sync_channel(QUEUE_MAX);
        let shared = Arc::new(Shared::new(log.public_key(), log.head));
        let writer = Writer::new(log, when, waiting, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer.run()).map_err(|e| AuditError::Thread(Arc::new(e)))?;
        Ok((Self { commands, shared, redact: options.redact, reopen, fails_open }, found))
    }

    /// Writes a record, and waits for that. May be dropped at any time: the record is written all the same. It does not look at any
    /// clock: where the disk hangs, this does until the caller's deadline.
    ///
    /// # Errors
    /// It is not in the log, or not on the disk that was waited for. With [`OnFailure::Closed`] what it is about is to be refused;
    /// with [`OnFailure::Open`] the one error is a log that is closed.
    pub async fn record(&self, record: Record, wait: Wait) -> Result<Receipt, AuditError> {
        let (reply, answer) = oneshot::channel();
        match self.put(record, wait, Some(reply))? {
            Some(receipt) => Ok(receipt),
            None => answer.await.map_err(|_| AuditError::Closed)?,
        }
    }

    /// The same for a thread that may wait; never to be called from a task.
    ///
    /// # Errors
    /// As [`Audit::record`].
    pub fn record_blocking(&self, record: Record, wait: Wait) -> Result<Receipt, AuditError> {
        let (reply, answer) = oneshot::channel();
        match self.put(record, wait, Some(reply))? {
            Some(receipt) => Ok(receipt),
            None => answer.blocking_recv().map_err(|_| AuditError::Closed)?,
        }
    }

    /// Writes a record of what cannot be refused any more, and waits for nothing. Where it cannot be written, it is counted as lost.
    pub fn note(&self, record: Record) {
        let _ = self.put(record, Wait::Written, None);
    }

    /// Has the log say what is missing that never came here, while it could not be opened. Gives it back where that cannot be taken now.
    ///
    /// # Errors
    /// The queue is full, or the log is closed.
    pub fn missed(&self, missing: Missing) -> Result<(), Missing> {
        self.commands.try_send(Command::Missed(missing)).map_err(|e| match e {
            TrySendError::Full(Command::Missed(missing)) | TrySendError::Disconnected(Command::Missed(missing)) => {
                missing
            }
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Missing::default(),
        })
    }

    /// Gives a receipt where it is decided at once.
    fn put(&self, record: Record, wait: Wait, reply: Option<Reply<Receipt>>) -> Result<Option<Receipt>, AuditError> {
        let kind = record.kind.as_str();
        let fields = record.fields(self.redact.as_ref());
        let (length, refusable) = (fields.len(), reply.is_some() && !self.fails_open);
        let item = Item { kind, fields, wait, reply };
        let sent = if self.shared.coming(length) {
            self.commands.try_send(Command::Record(item)).inspect_err(|_| self.shared.taken(length, 1))
        } else {
            Err(TrySendError::Full(Command::Record(item)))
        };
        match sent {
            Ok(()) => Ok(None),
            Err(TrySendError::Disconnected(_)) => Err(AuditError::Closed),
            Err(TrySendError::Full(_)) => {
                self.shared.turn_away(refusable);
                if refusable { Err(AuditError::Busy) } else { Ok(Some(Receipt::Lost)) }
            }
        }
    }

    /// Seals what there is, and gives the place of the seal: what is told elsewhere, so that a log cut short is found.
    ///
    /// # Errors
    /// The disk; the log is closed or busy.
    pub async fn seal(&self) -> Result<Point, AuditError> {
        self.ask(Command::Seal).await
    }

    /// Begins the next file, and removes what is not kept.
    ///
    /// # Errors
    /// The disk; the log is closed or busy. The log goes on in the file it has where no other can be begun.
    pub async fn rotate(&self) -> Result<(), AuditError> {
        self.ask(Command::Rotate).await
    }

    /// Makes a new key, has the old one sign it, and gives its public half. The old one is gone after this.
    ///
    /// # Errors
    /// The disk; the log is closed or busy.
    pub async fn change_key(&self) -> Result<PublicKey, AuditError> {
        self.ask(Command::ChangeKey).await
    }

    /// Ends the log: what waits is written, it is sealed, the collector gets the rest (for 2 s), and another process may have it.
    ///
    /// # Errors
    /// The end could not be sealed, or the log is closed already. The log is let go all the same.
    pub async fn close(&self) -> Result<(), AuditError> {
        self.ask(Command::Close).await
    }

    /// Has the collector's file or socket opened anew before the next line.
    pub fn reopen(&self) {
        self.reopen.iter().for_each(Reopen::ask);
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, AuditError> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(command(reply)).map_err(|e| match e {
            TrySendError::Full(_) => AuditError::Busy,
            TrySendError::Disconnected(_) => AuditError::Closed,
        })?;
        answer.await.map_err(|_| AuditError::Closed)?
    }

    /// The public half of the key that seals now.
    pub fn public_key(&self) -> PublicKey {
        *locked(&self.shared.key)
    }

    /// The last record that was written.
    pub fn head(&self) -> Point {
        *self.shared.head.borrow()
    }

    /// The last seal, and each one to come: what the control plane is told.
    pub fn seals(&self) -> watch::Receiver<Option<Sealed>> {
        self.shared.seals.subscribe()
    }

    /// How it is doing.
    pub fn health(&self) -> Health {
        let shared = &self.shared;
        Health {
            lost: shared.lost.load(Ordering::Relaxed),
            refused: shared.refused.load(Ordering::Relaxed),
            last_error: locked(&shared.last_error).clone(),
            waiting: shared.waiting.load(Ordering::Relaxed),
        }
    }
}

// === impl Shared ===

impl Shared {
    fn new(key: PublicKey, head: Point) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            away_lost: AtomicU64::new(0),
            away_refused: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            last_error: Mutex::new(None),
            key: Mutex::new(key),
            head: watch::Sender::new(head),
            seals: watch::Sender::new(None),
        }
    }

    /// Whether there is room for that many bytes, which then are counted.
    fn coming(&self, length: usize) -> bool {
        let room = |bytes: usize| (bytes + length <= QUEUE_BYTES_MAX).then_some(bytes + length);
        let taken = self.waiting_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        self.waiting.fetch_add(usize::from(taken), Ordering::Relaxed);
        taken
    }

    pub(super) fn taken(&self, length: usize, records: usize) {
        self.waiting_bytes.fetch_sub(length, Ordering::Relaxed);
        self.waiting.fetch_sub(records, Ordering::Relaxed);
    }

    fn turn_away(&self, refused: bool) {
        self.lost(u64::from(!refused), u64::from(refused));
        if refused { &self.away_refused } else { &self.away_lost }.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn turned_away(&self) -> (u64, u64) {
        (self.away_lost.swap(0, Ordering::Relaxed), self.away_refused.swap(0, Ordering::Relaxed))
    }

    pub(super) fn lost(&self, lost: u64, refused: u64) {
        self.lost.fetch_add(lost, Ordering::Relaxed);
        self.refused.fetch_add(refused, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, e: &AuditError) {
        *locked(&self.last_error) = Some(e.to_string());
    }

    pub(super) fn publish(&self, head: Point) {
        self.head.send_replace(head);
    }

    pub(super) fn sealed(&self, sealed: Sealed) {
        self.seals.send_replace(Some(sealed));
    }

    pub(super) fn key_changed(&self, key: PublicKey) {
        *locked(&self.key) = key;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One record, at its longest, is one batch.
const _: () = assert!(BATCH_MAX >= super::line::LINE_MAX && QUEUE_BYTES_MAX >= BATCH_MAX);
