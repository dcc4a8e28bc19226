//! Opening a log: what an earlier process left is looked through, a torn end is cut off, and all of it is said in the log.
//!
//! A torn end is what a kill or a power cut leaves: a line without its end, or one with zero bytes where the file had grown and its
//! content was not on disk yet. It cannot stand before a seal that was waited for. Everything else that does not fit is damage: it stays
//! as it is, for verification to find, and the log goes on in a new file.

use super::error::AuditError;
use super::files::{self, Lines, Raw};
use super::key::{Key, PublicKey};
use super::line::{self, Digest, Parsed, Point};
use super::log::{Log, Whose};
use super::own::{Cut, Damaged, FileStart, KeyChange, kind};
use super::record::fields;
use super::sink::Collector;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// What was found at opening.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// There was no log: it was begun.
    pub is_new: bool,
    /// A torn end was cut off: how many bytes.
    pub cut: Option<u64>,
    /// Somebody has changed the last file, at that line.
    pub damaged_line: Option<u64>,
    /// There was a log, and its key was gone: there is a new one, which nobody vouches for.
    pub key_lost: bool,
}

/// What the last file holds.
#[derive(Debug)]
struct Scan {
    /// The last good record, and where it ends.
    head: Point,
    end: u64,
    start: Option<FileStart>,
    /// The key as the file names it last.
    key: Option<PublicKey>,
    /// The record by which the one before signed it; empty where that is in no line of this file.
    key_line: String,
    /// The last seal that this key has signed, with its line.
    sealed: Option<(Point, String)>,
    cuts: Vec<Cut>,
    /// Records since the last seal.
    unsealed: u64,
    torn: Option<Torn>,
    damaged_line: Option<u64>,
}

/// Where a torn end begins.
#[derive(Debug, Clone, Copy)]
struct Torn {
    offset: u64,
    line: u64,
    /// The last record before it.
    head: Point,
    /// A seal behind it. That one was waited for if it is not the last record, and then this is no torn end.
    seal: Option<Digest>,
}

/// Opens the log of that folder, or begins it.
pub(super) fn open(folder: &Path, whose: Whose, collector: Option<Collector>) -> Result<(Log, Found), AuditError> {
    files::make_folder(folder)?;
    let lock = files::lock(folder)?;
    let numbers = files::list(folder)?;
    let (key, key_made) = Key::take(&folder.join("key"))?;
    let mut found = Found { is_new: numbers.is_empty(), key_lost: key_made && !numbers.is_empty(), ..Found::default() };
    let number = numbers.last().copied().unwrap_or(1);
    let path = files::path_of(folder, number);
    let scan = if found.is_new { Scan::nothing() } else { scan(&path)? };
    let key = finish_change(folder, key, &scan)?;

    // what is torn is kept aside before the file changes
    let (head, end) = match scan.torn {
        Some(torn) => {
            files::cut(folder, number, torn.offset)?;
            (torn.head, torn.offset)
        }
        None => (scan.head, scan.end),
    };
    let head = match numbers.iter().rev().nth(1) {
        // torn before its first record: the file before has the end of the chain
        Some(before) if end == 0 => self::scan(&files::path_of(folder, *before))?.head,
        _ => head,
    };
    let file = if found.is_new { files::create(&path)? } else { files::append_to(&path)? };
    let (unsealed, key_line) = (scan.unsealed, scan.key_line.clone());
    let (folder, buffer) = (folder.to_owned(), Vec::new());
    let mut log = Log {
        folder,
        whose,
        key,
        file,
        number,
        end,
        torn: false,
        head,
        pending: head,
        buffer,
        unsealed,
        sealed: None,
        key_line,
        collector,
        _lock: lock,
    };
    if end == 0 {
        // also where the file is there and empty: whoever empties it takes as much away as whoever removes it
        let reason = if key_made { "first" } else { "first_with_a_key_that_was_there" };
        log.begin(if head == Point::START { reason } else { "after_a_crash" })?;
        files::sync_folder(&log.folder)?;
    }
    if scan.key == Some(log.public_key()) && scan.start.as_ref().is_some_and(|start| start.runner == log.whose.runner) {
        log.sealed.clone_from(&scan.sealed);
    }
    found.damaged_line = scan.damaged_line;
    found.cut = go_on(&mut log, &scan)?;
    Ok((log, found))
}

/// Says in the log what was found, and who writes now.
fn go_on(log: &mut Log, scan: &Scan) -> Result<Option<u64>, AuditError> {
    let start = scan.start.as_ref();
    let other_key = scan.key.is_some_and(|key| key != log.public_key());
    let reason = match start {
        _ if scan.damaged_line.is_some() => Some("damaged"),
        Some(start) if start.runner != log.whose.runner => Some("another_runner"),
        _ if other_key => Some("another_key"),
        _ => None,
    };
    if let Some(reason) = reason {
        let damaged = log.number;
        log.rotate(reason)?;
        if let Some(line) = scan.damaged_line {
            let what = "it does not fit to the line before".to_owned();
            log.push(kind::DAMAGED, &fields(&Damaged { file: damaged, line: Some(line), what }));
        }
    }
    log.push_life(kind::STARTED);
    let cuts = told_cuts(log, &scan.cuts)?;
    log.commit()?;
    if !cuts.is_empty() {
        log.seal("start")?;
    }
    for cut in &cuts {
        let kept = log.folder.join(&cut.kept);
        std::fs::rename(log.folder.join(format!("{}.new", cut.kept)), &kept).map_err(AuditError::file(&kept))?;
    }
    if !cuts.is_empty() {
        files::prune_torn(&log.folder)?;
    }
    log.sync()?;
    Ok(cuts.last().map(|cut| cut.bytes))
}

/// Tells of the torn ends that the log does not tell of yet. A crash between telling and renaming must not have one told twice.
fn told_cuts(log: &mut Log, told: &[Cut]) -> Result<Vec<Cut>, AuditError> {
    let mut cuts = Vec::new();
    for torn in files::torn(&log.folder, true)? {
        let (bytes, sha256) = files::digest(&log.folder.join(format!("{}.new", torn.name)), 0)?;
        let cut = Cut { file: torn.file, offset: torn.offset, bytes, sha256, kept: torn.name };
        if !told.contains(&cut) {
            log.push(kind::CUT, &fields(&cut));
        }
        cuts.push(cut);
    }
    Ok(cuts)
}

/// A key that was being changed when the process died: the log says whether it was.
fn finish_change(folder: &Path, key: Key, scan: &Scan) -> Result<Key, AuditError> {
    let (new, path) = (folder.join("key.new"), folder.join("key"));
    match Key::read(&new) {
        Ok(next) if scan.key == Some(next.public()) => {
            std::fs::rename(&new, &path).map_err(AuditError::file(&path))?;
            files::sync_folder(folder)?;
            Ok(next)
        }
        _ => {
            files::remove(&new)?;
            Ok(key)
        }
    }
}

fn scan(path: &Path) -> Result<Scan, AuditError> {
    let file = File::open(path).map_err(AuditError::file(path))?;
    let mut lines = Lines::new(BufReader::with_capacity(256 << 10, file), 0);
    let mut scan = Scan::nothing();
    while let Some(raw) = lines.next().map_err(AuditError::file(path))? {
        scan.see(&raw);
    }
    scan.end = lines.offset();
    Ok(scan)
}

// === impl Scan ===

impl Scan {
    const fn nothing() -> Self {
        Self {
            head: Point::START,
            end: 0,
            start: None,
            key: None,
            key_line: String::new(),
            sealed: None,
            cuts: Vec::new(),
            unsealed: 0,
            torn: None,
            damaged_line: None,
        }
    }

    fn see(&mut self, raw: &Raw<'_>) {
        let parsed = if raw.whole { line::parse(raw.bytes).ok() } else { None };
        let fits = parsed.is_some_and(|line| Digest::of(line.hashed) == line.hash);
        if !fits && (!raw.whole || raw.has_zero || raw.bytes.contains(&0)) {
            let torn = Torn { offset: raw.offset, line: raw.number, head: self.head, seal: None };
            self.torn.get_or_insert(torn);
            return;
        }
        let Some(line) = parsed else {
            // behind a torn place nothing was on disk for sure
            if self.torn.is_none() {
                self.damaged_line.get_or_insert(raw.number);
            }
            return;
        };
        let first = raw.number == 1;
        let follows = first || (line.prev == self.head.hash && line.seq == self.head.seq + 1);
        if let Some(torn) = &mut self.torn {
            if !fits || torn.seal != Some(line.prev) {
                torn.seal = (fits && line.kind == kind::SEAL.as_bytes()).then_some(line.hash).or(torn.seal);
                return;
            }
            self.damaged_line.get_or_insert(torn.line);
            self.torn = None;
        } else if !(fits && follows) {
            self.damaged_line.get_or_insert(raw.number);
        }
        self.head = Point { seq: line.seq, hash: line.hash };
        self.unsealed = if kind::is_signed(line.kind) { 0 } else { self.unsealed + 1 };
        self.learn(first, &line, raw.bytes);
    }

    fn learn(&mut self, first: bool, line: &Parsed<'_>, bytes: &[u8]) {
        let is = |kind: &str| line.kind == kind.as_bytes();
        if first && (is(kind::KEY) || is(kind::ROTATED)) {
            self.start = serde_json::from_slice(bytes).ok();
            self.key = self.start.as_ref().and_then(|s: &FileStart| PublicKey::from_text(&s.key).ok());
        } else if first {
            self.damaged_line.get_or_insert(1);
        } else if is(kind::KEY) {
            let change: Option<KeyChange> = serde_json::from_slice(bytes).ok();
            self.key = change.and_then(|c| PublicKey::from_text(&c.key).ok()).or(self.key);
            (self.key_line, self.sealed) = (String::from_utf8_lossy(bytes).into_owned(), None);
        } else if is(kind::SEAL) {
            self.sealed = Some((self.head, String::from_utf8_lossy(bytes).into_owned()));
        } else if is(kind::CUT) {
            self.cuts.extend(serde_json::from_slice::<Cut>(bytes).ok());
        }
    }
}
