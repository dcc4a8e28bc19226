//! The thread that writes: it takes what waits, writes it at once, waits for the disk once for all who asked for it, and seals in between.

use super::error::AuditError;
use super::handle::{FILE_MAX_LEAST, Receipt, Sealed, Shared, Stored, Wait};
use super::key::PublicKey;
use super::line::Point;
use super::log::{Keep, Log};
use super::own::{self, Damaged, Dropped, Missing, Unsynced, kind};
use super::record::fields;
use super::sink::Collector;
use super::untold::Untold;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How many bytes of records are written at once, and are handed on at once.
pub(super) const BATCH_MAX: usize = 256 << 10;
/// How long the thread waits where nothing is due.
const IDLE: Duration = Duration::from_secs(3600);
/// How long nothing is tried again that has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What the thread is asked for.
pub(super) enum Command {
    /// To write a record.
    Record(Item),
    /// To say what is missing that never came here.
    Missed(Missing),
    /// To seal what there is.
    Seal(Reply<Point>),
    /// To begin the next file.
    Rotate(Reply<()>),
    /// To change the key.
    ChangeKey(Reply<PublicKey>),
    /// To end.
    Close(Reply<()>),
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, AuditError>>;

/// A record that is to be written.
pub(super) struct Item {
    pub(super) kind: &'static str,
    pub(super) fields: Vec<u8>,
    pub(super) wait: Wait,
    /// Whoever waits. Nobody: what it is about goes on without it.
    pub(super) reply: Option<Reply<Receipt>>,
}

/// When the log is sealed, waited for, rotated.
#[derive(Debug, Clone)]
pub(super) struct When {
    pub(super) file_max: u64,
    pub(super) keep: Keep,
    pub(super) seal_records: u64,
    pub(super) seal_after: Duration,
    pub(super) sync_after: Duration,
    pub(super) fails_open: bool,
}

/// The thread's own.
pub(super) struct Writer {
    pub(super) log: Log,
    pub(super) when: When,
    pub(super) commands: Receiver<Command>,
    pub(super) shared: Arc<Shared>,
    missing: Missing,
    untold: Untold,
    unsynced: Option<Unsynced>,
    /// The last record that the disk confirmed.
    synced: u64,
    /// Since when there is what the disk has not confirmed.
    dirty: Option<Instant>,
    /// Since when there is what is not sealed, apart from the log's own.
    news: Option<Instant>,
    rotate_not_before: Option<Instant>,
    /// Somebody did this to the file, and no other one could be begun yet.
    adrift: Option<&'static str>,
    dropped_told: u64,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(log: Log, when: When, commands: Receiver<Command>, shared: Arc<Shared>) -> Self {
        let (untold, missing) = Untold::open(&log.folder);
        Self {
            synced: log.head.seq,
            log,
            when,
            commands,
            shared,
            missing,
            untold,
            unsynced: None,
            dirty: None,
            // that it has started
            news: Some(Instant::now()),
            rotate_not_before: None,
            adrift: None,
            dropped_told: 0,
        }
    }

    /// Until everybody has let go of the log, or it is closed.
    pub(super) fn run(mut self) {
        self.shared.publish(self.log.head);
        self.tell_seal();
        let mut held = None;
        loop {
            let command = match held.take() {
                Some(command) => command,
                None => match self.commands.recv_timeout(self.due()) {
                    Ok(command) => command,
                    Err(RecvTimeoutError::Timeout) => {
                        self.tend();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return drop(self.finish()),
                },
            };
            match command {
                Command::Record(item) => held = self.batch(item),
                Command::Missed(missing) => self.missed(missing),
                Command::Seal(reply) => drop(reply.send(self.seal("asked"))),
                Command::Rotate(reply) => drop(reply.send(self.rotate("asked"))),
                Command::ChangeKey(reply) => drop(reply.send(self.change_key())),
                Command::Close(reply) => {
                    let done = self.finish();
                    return drop(reply.send(done));
                }
            }
            self.tend();
        }
    }

    /// How long until something has to be done.
    fn due(&self) -> Duration {
        let seal = self.news.map(|since| since + self.when.seal_after);
        let sync = self.dirty.map(|since| since + self.when.sync_after);
        let next = seal.into_iter().chain(sync).min();
        next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now()))
    }

    /// Does what is due by now.
    fn tend(&mut self) {
        let now = Instant::now();
        if self.log.unsealed >= self.when.seal_records {
            let _ = self.seal("count");
        } else if self.news.is_some_and(|since| now >= since + self.when.seal_after) {
            let _ = self.seal("time");
        } else if self.dirty.is_some_and(|since| now >= since + self.when.sync_after) {
            let _ = self.look().and_then(|()| self.sync());
        }
    }

    /// Writes that record and those that wait behind it; gives back what is not one.
    fn batch(&mut self, first: Item) -> Option<Command> {
        let (mut length, mut items, mut other) = (first.fields.len(), vec![first], None);
        while length < BATCH_MAX && (items.len() as u64) < self.when.seal_records {
            match self.commands.try_recv() {
                Ok(Command::Record(item)) => {
                    length += item.fields.len();
                    items.push(item);
                }
                Ok(command) => {
                    other = Some(command);
                    break;
                }
                Err(_) => break,
            }
        }
        self.shared.taken(length, items.len());
        self.write(items, length);
        other
    }

    fn write(&mut self, items: Vec<Item>, length: usize) {
        if self.adrift.is_some()
            && let Err(e) = self.look()
        {
            self.lose(items, &e);
            return;
        }
        // a file that has little more than its first record does not become better by another one
        let full = self.log.end + length as u64 > self.when.file_max && self.log.end >= FILE_MAX_LEAST / 2;
        if full && self.rotate_not_before.is_none_or(|at| Instant::now() >= at) {
            let _ = self.rotate("size");
        }
        self.push_failures();
        let places: Vec<Point> = items.iter().map(|item| self.log.push(item.kind, &item.fields)).collect();
        if let Err(e) = self.log.commit() {
            self.shared.failed(&e);
            self.lose(items, &e);
            return;
        }
        self.wrote();
        self.news.get_or_insert_with(Instant::now);
        let mut waiting = Vec::new();
        for (item, place) in items.into_iter().zip(places) {
            match (item.reply, item.wait) {
                (Some(reply), Wait::Disk) => waiting.push((reply, place)),
                (Some(reply), Wait::Written) => drop(reply.send(Ok(Receipt::Kept(place, Stored::Written)))),
                (None, _) => {}
            }
        }
        if waiting.is_empty() {
            return;
        }
        let synced = self.sync();
        for (reply, place) in waiting {
            let receipt = match &synced {
                Ok(()) => Ok(Receipt::Kept(place, Stored::Disk)),
                Err(_) if self.when.fails_open => Ok(Receipt::Kept(place, Stored::Written)),
                Err(e) => Err(e.clone()),
            };
            let _ = reply.send(receipt);
        }
    }

    /// What is written has no failures before it that are not told.
    fn wrote(&mut self) {
        (self.missing, self.unsynced) = (Missing::default(), None);
        self.untold.told();
        self.dirty.get_or_insert_with(Instant::now);
        self.shared.publish(self.log.head);
    }

    /// Records are not there: what each is about goes on, or is refused.
    fn lose(&mut self, items: Vec<Item>, e: &AuditError) {
        let fails_open = self.when.fails_open;
        let refused = items.iter().filter(|item| !fails_open && item.reply.is_some()).count() as u64;
        let lost = items.len() as u64 - refused;
        self.missing.add(lost, refused, e);
        self.untold.note(&self.missing);
        self.shared.lost(lost, refused);
        for reply in items.into_iter().filter_map(|item| item.reply) {
            let _ = reply.send(if fails_open { Ok(Receipt::Lost) } else { Err(e.clone()) });
        }
    }

    fn missed(&mut self, missing: Missing) {
        self.missing.merge(missing);
        self.untold.note(&self.missing);
        self.news.get_or_insert_with(Instant::now);
    }

    /// Puts what could not be written or confirmed into lines, before what comes next.
    fn push_failures(&mut self) {
        let (lost, refused) = self.shared.turned_away();
        if lost + refused > 0 {
            self.missing.add(lost, refused, &AuditError::Busy);
            self.untold.note(&self.missing);
        }
        if !self.missing.is_nothing() {
            self.log.push(kind::MISSING, &fields(&self.missing));
        }
        if let Some(unsynced) = &self.unsynced {
            self.log.push(kind::UNSYNCED, &fields(unsynced));
        }
    }

    fn sync(&mut self) -> Result<(), AuditError> {
        let done = self.log.sync();
        self.confirmed(&done);
        done
    }

    fn confirmed<T>(&mut self, done: &Result<T, AuditError>) {
        let head = self.log.head.seq;
        self.dirty = None;
        match done {
            Ok(_) => self.synced = head,
            Err(e) => {
                self.shared.failed(e);
                let from = self.unsynced.as_ref().map_or(self.synced + 1, |u| u.from);
                self.unsynced = Some(Unsynced { from, to: head, why: own::why(e) });
                // not confirmed, and never going to be: the system forgets what it could not write
                self.synced = head;
            }
        }
    }

    fn seal(&mut self, reason: &str) -> Result<Point, AuditError> {
        self.look()?;
        self.push_failures();
        let dropped = self.log.collector.as_ref().map_or(0, Collector::dropped);
        if let Some(collector) = self.log.collector.as_ref().filter(|_| dropped > self.dropped_told) {
            let (collector, records) = (collector.name().to_owned(), dropped - self.dropped_told);
            self.log.push(kind::DROPPED, &fields(&Dropped { collector, records }));
        }
        let before = self.log.head;
        let sealed = self.log.seal(reason);
        if self.log.head != before {
            self.dropped_told = dropped;
            self.wrote();
            self.confirmed(&sealed);
        } else if let Err(e) = &sealed {
            self.shared.failed(e);
        }
        match &sealed {
            Ok(_) => {
                self.news = None;
                self.tell_seal();
            }
            // again after the same time
            Err(_) => self.news = self.news.map(|_| Instant::now()),
        }
        sealed
    }

    /// Tells whoever follows of the last seal.
    fn tell_seal(&self) {
        let Some((at, line)) = self.log.sealed.clone() else { return };
        self.shared.sealed(Sealed { at, line, key: self.log.public_key(), key_line: self.log.key_line.clone() });
    }

    /// Looks whether the file is still what was written: if not, the log says so and goes on in another one.
    fn look(&mut self) -> Result<(), AuditError> {
        let Some(what) = self.adrift.or_else(|| self.log.changed_by_others()) else { return Ok(()) };
        let file = self.log.number;
        self.adrift = Some(what);
        self.log.rotate("damaged").inspect_err(|e| self.shared.failed(e))?;
        self.adrift = None;
        self.log.push(kind::DAMAGED, &fields(&Damaged { file, line: None, what: what.to_owned() }));
        Ok(())
    }

    fn rotate(&mut self, reason: &str) -> Result<(), AuditError> {
        let done = self.seal("rotation").and_then(|_| {
            self.log.rotate(reason)?;
            self.wrote();
            self.log.retain(self.when.keep)
        });
        self.rotate_not_before = done.as_ref().err().map(|_| Instant::now() + PAUSE);
        if let Err(e) = &done {
            self.shared.failed(e);
        }
        self.shared.publish(self.log.head);
        done
    }

    fn change_key(&mut self) -> Result<PublicKey, AuditError> {
        // the new key is told by a record of its own, before which nothing of this stands
        if !self.missing.is_nothing() || self.unsynced.is_some() {
            self.seal("asked")?;
        }
        let key = self.log.change_key()?;
        self.shared.key_changed(key);
        self.wrote();
        self.seal("key").map(|_| key)
    }

    /// Says that this is the end, seals it, hands on what is left. The lock goes with the log.
    fn finish(mut self) -> Result<(), AuditError> {
        // what came while the end was asked for
        while let Ok(command) = self.commands.try_recv() {
            let mut next = Some(command);
            while let Some(command) = next.take() {
                match command {
                    Command::Record(item) => next = self.batch(item),
                    Command::Missed(missing) => self.missed(missing),
                    _ => {}
                }
            }
        }
        self.log.push_life(kind::STOPPED);
        let done = self.seal("end").map(drop);
        if let Some(collector) = self.log.collector.take() {
            collector.end();
        }
        done
    }
}
