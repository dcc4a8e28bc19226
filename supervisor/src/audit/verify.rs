//! Looking whether a log is what was written. It works on bytes: what a later version writes into a record is verified as well.
//!
//! One line is wrong once: where its own bytes do not fit, nothing is said of what follows from that.

use super::error::AuditError;
use super::files::{self, Lines, Raw};
use super::key::PublicKey;
use super::line::{self, Digest, Parsed, Point, TIME};
use super::own::{Cut, Damaged, Dropped, FileStart, KeyChange, Missing, Removed, Unsynced, kind};
use super::report::{Before, Finding, Note, Noted, Report, What};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many records the runner leaves without a seal at most: its 1,000, and what may be written at once with the last of them.
const UNSEALED_MAX: u64 = 3000;
/// How long the end of a line may take to come where the runner writes just now, and how often that is looked at.
const FINISHED_AFTER: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often a log is begun anew whose files are removed meanwhile.
const TRIES_MAX: u32 = 3;
/// How much of a file is read at once, bytes.
const READ: usize = 256 << 10;

/// What is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A log as a whole, by its folder.
    Folder(PathBuf),
    /// Some of its files.
    Files(Vec<PathBuf>),
}

/// What it is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Against {
    /// A key that the log must have been signed by. Without one, the log's own word is taken for its key.
    pub key: Option<PublicKey>,
    /// A record that must be in it: the last one that is known elsewhere. Without one, nobody can tell whether the end was cut off.
    pub expected: Option<Point>,
}

struct Verifier {
    against: Against,
    folder: Option<PathBuf>,
    report: Report,
    /// The file that is read: its name and the runner that it names.
    file: String,
    runner: Option<String>,
    /// The line before: as it names itself, and what its bytes give.
    before: Option<(Point, Digest)>,
    /// Lines since then that are none.
    none: u64,
    key: Option<PublicKey>,
    /// The record before the first one that is here.
    start: Option<Point>,
    time: [u8; TIME],
    unsealed_told: bool,
}

/// Verifies a log, file by file, in bounded memory.
///
/// # Errors
/// A file cannot be read, or there is none. What is wrong with the log is no error: it is in the report.
pub fn verify(target: &Target, against: Against) -> Result<Report, AuditError> {
    let mut tries = 0;
    loop {
        match verify_once(target, against) {
            // removed by retention between listing and reading: once more, without it
            Err(AuditError::File(_, e)) if e.kind() == io::ErrorKind::NotFound && tries < TRIES_MAX => tries += 1,
            done => return done,
        }
    }
}

fn verify_once(target: &Target, against: Against) -> Result<Report, AuditError> {
    let (paths, folder) = match target {
        Target::Folder(folder) => {
            let numbers = files::list_of_log(folder)?;
            (numbers.iter().map(|n| files::path_of(folder, *n)).collect(), Some(folder.clone()))
        }
        Target::Files(paths) => {
            let mut paths = paths.clone();
            paths.sort_by_key(|path| (files::number_of(path), path.clone()));
            (paths, None)
        }
    };
    let Some(first) = paths.first() else {
        return Err(AuditError::NoLog(folder.unwrap_or_default()));
    };
    let number = files::number_of(first);
    let mut verifier = Verifier::new(against, folder);
    let mut before = None;
    for (at, path) in paths.iter().enumerate() {
        verifier.file = files::shown(path);
        let number = files::number_of(path);
        if let (Some(before), Some(number)) = (before, number)
            && number > before + 1
        {
            verifier.find(0, None, What::FilesMissing { first: before + 1, last: number - 1 });
        }
        before = number;
        verifier.read(path, number, at + 1 == paths.len())?;
    }
    let report = verifier.end(number);
    // the first record is written before anything else is: whoever has emptied the log has left none
    if report.records == 0 && report.findings.is_empty() {
        return Err(AuditError::NoLog(first.clone()));
    }
    Ok(report)
}

// === impl Verifier ===

impl Verifier {
    fn new(against: Against, folder: Option<PathBuf>) -> Self {
        Self {
            against,
            folder,
            report: Report::default(),
            file: String::new(),
            runner: None,
            before: None,
            none: 0,
            key: None,
            start: None,
            time: [0; TIME],
            unsealed_told: false,
        }
    }

    fn find(&mut self, line: u64, seq: Option<u64>, what: What) {
        self.report.find(Finding { file: self.file.clone(), line, seq, what });
    }

    fn note(&mut self, line: u64, seq: u64, what: Noted) {
        self.report.note(Note { file: self.file.clone(), line, seq, what });
    }

    fn read(&mut self, path: &Path, number: Option<u64>, is_last: bool) -> Result<(), AuditError> {
        self.report.files += 1;
        let mut file = File::open(path).map_err(AuditError::file(path))?;
        let mut lines = Lines::new(BufReader::with_capacity(READ, &mut file), 0);
        let mut unfinished = None;
        while let Some(raw) = lines.next().map_err(AuditError::file(path))? {
            if raw.whole {
                self.line(&raw, number);
            } else {
                unfinished = Some((raw.offset, raw.number));
            }
        }
        let end = lines.offset();
        self.report.bytes += end;
        let Some((offset, number)) = unfinished else { return Ok(()) };
        let (line, bytes) =
            if is_last { finished(path, offset) } else { rest(path, offset) }.map_err(AuditError::file(path))?;
        if line {
            // written while it was read: it counts next time
            self.report.bytes -= end - offset;
        } else {
            self.find(number, self.before.map(|(point, _)| point.seq + 1), What::Unfinished { bytes });
        }
        Ok(())
    }

    fn line(&mut self, raw: &Raw<'_>, number: Option<u64>) {
        let line = match line::parse(raw.bytes) {
            Ok(line) => line,
            Err(why) => {
                self.none += 1;
                let seq = self.before.map(|(point, _)| point.seq + self.none);
                return self.find(raw.number, seq, What::Malformed(why));
            }
        };
        let is = Digest::of(line.hashed);
        let wrong = self.chain(&line, is, number);
        if let Some(what) = &wrong {
            self.find(raw.number, Some(line.seq), what.clone());
        }
        let mut fine = wrong.is_none();
        self.before = Some((Point { seq: line.seq, hash: line.hash }, is));
        self.none = 0;
        self.report.records += 1;
        self.report.unsigned += 1;
        self.report.first.get_or_insert_with(|| (line.seq, line::show(line.time)));
        if *line.time < self.time {
            let (from, to) = (line::show(&self.time), line::show(line.time));
            self.note(raw.number, line.seq, Noted::TimeBack { from, to });
        }
        self.time = *line.time;
        if raw.number == 1 {
            fine &= self.begin(&line, raw, number, fine);
        }
        let signed = fine && self.signature(&line, raw.number);
        if !matches!(line.kind, b"decision" | b"end" | b"seal") && fine {
            self.own(&line, raw, signed);
        }
        self.expected(&line, raw.number, fine);
        if self.report.unsigned > UNSEALED_MAX && !self.unsealed_told {
            self.unsealed_told = true;
            self.find(raw.number, Some(line.seq), What::Unsealed { records: self.report.unsigned });
        }
    }

    /// What is wrong with the line's own bytes, or with what it follows.
    fn chain(&mut self, line: &Parsed<'_>, is: Digest, file: Option<u64>) -> Option<What> {
        let changed = (is != line.hash).then_some(What::Changed);
        let Some((before, before_is)) = self.before else {
            return self.start_of_chain(line, changed, file);
        };
        if changed.is_some() {
            return changed;
        }
        let expected = before.seq + 1;
        // a line that is none may be one that was changed, or one that was put in
        if line.seq == expected + self.none && self.none > 0 {
            return None;
        }
        if line.seq > expected {
            return Some(What::Dropped { expected, found: line.seq });
        }
        if line.seq < expected {
            return Some(What::Repeated { expected, found: line.seq });
        }
        (line.prev != before.hash && line.prev != before_is).then_some(What::Unchained)
    }

    /// What is wrong with the first line that is here; `none` lines before it were none.
    fn start_of_chain(&mut self, line: &Parsed<'_>, changed: Option<What>, file: Option<u64>) -> Option<What> {
        let is_first = file.map_or(line.kind == kind::KEY.as_bytes(), |file| file == 1);
        if !is_first {
            self.start = Some(Point { seq: line.seq.saturating_sub(1), hash: line.prev });
            return changed;
        }
        self.start = Some(Point::START);
        let dropped = (line.seq != 1 + self.none).then_some(What::Dropped { expected: 1, found: line.seq });
        let unchained = (self.none == 0 && line.prev != Digest::NONE).then_some(What::Unchained);
        changed.or(dropped).or(unchained)
    }

    /// The first line of a file. Gives whether it is as it should be.
    fn begin(&mut self, line: &Parsed<'_>, raw: &Raw<'_>, number: Option<u64>, fine: bool) -> bool {
        let is_start = [kind::KEY, kind::ROTATED].iter().any(|k| k.as_bytes() == line.kind);
        let start: Option<FileStart> = if is_start { read(raw) } else { None };
        let Some(start) = start else {
            // one that was changed is told already
            if fine {
                self.find(1, Some(line.seq), What::StartMissing);
            }
            return false;
        };
        if !fine {
            return false;
        }
        if self.runner.as_ref().is_some_and(|runner| *runner != start.runner) {
            self.note(1, line.seq, Noted::Runner(start.runner.clone()));
        }
        self.report.runner.clone_from(&start.runner);
        self.runner = Some(start.runner);
        if start.reason == "first_with_a_key_that_was_there" {
            self.note(1, line.seq, Noted::BegunAnew);
        }
        if number.is_some_and(|number| number != start.file) {
            self.find(1, Some(line.seq), What::WrongFile { says: start.file });
        }
        if let Ok(key) = PublicKey::from_text(&start.key) {
            self.take_key(key, 1, line.seq);
        }
        true
    }

    /// The key that a record names signs from here on, whether or not it may.
    fn take_key(&mut self, key: PublicKey, line: u64, seq: u64) {
        if let Some(before) = self.key.filter(|before| *before != key) {
            let what = What::KeyChanged { before: before.fingerprint(), after: key.fingerprint() };
            self.find(line, Some(seq), what);
        }
        self.use_key(key);
    }

    fn use_key(&mut self, key: PublicKey) {
        self.key = Some(key);
        let text = key.to_base64();
        if self.report.keys.last() != Some(&text) {
            self.report.keys.push(text);
        }
    }

    /// Whether the line is signed, and rightly.
    fn signature(&mut self, line: &Parsed<'_>, number: u64) -> bool {
        let Some(signature) = line.signature else {
            if kind::is_signed(line.kind) {
                self.find(number, Some(line.seq), What::Unsigned);
            }
            return false;
        };
        // without them nothing can be told; that they are missing is
        let (Some(key), Some(runner)) = (self.key, &self.runner) else { return false };
        if !key.has_signed(runner, line.seq, &Digest::of(line.signed), signature) {
            let since = self.report.last_signed.map_or(0, |p| p.seq);
            self.find(number, Some(line.seq), What::SignatureWrong { since });
            return false;
        }
        self.report.key_checked |= self.against.key == Some(key);
        self.report.signatures += 1;
        self.report.last_signed = Some(Point { seq: line.seq, hash: line.hash });
        self.report.unsigned = 0;
        self.unsealed_told = false;
        true
    }

    /// What the log says of itself.
    fn own(&mut self, line: &Parsed<'_>, raw: &Raw<'_>, signed: bool) {
        let is = |kind: &str| line.kind == kind.as_bytes();
        let noted = if is(kind::KEY) && raw.number > 1 {
            let change: Option<KeyChange> = read(raw);
            let Some(key) = change.and_then(|c| PublicKey::from_text(&c.key).ok()) else { return };
            if !signed {
                return self.take_key(key, raw.number, line.seq);
            }
            self.use_key(key);
            Some(Noted::KeyChanged { after: key.fingerprint() })
        } else if is(kind::CUT) {
            read(raw).map(|cut: Cut| {
                let kept = self.folder.as_ref().map(|folder| is_kept(folder, &cut));
                Noted::Cut { file: cut.file, offset: cut.offset, bytes: cut.bytes, kept }
            })
        } else if is(kind::REMOVED) && signed {
            read(raw).map(|r: Removed| {
                if self.start == Some(Point { seq: r.last_seq, hash: r.last_hash }) {
                    self.report.before = Before::Removed(line.seq);
                }
                Noted::Removed { first: r.first, last: r.last, last_seq: r.last_seq }
            })
        } else if is(kind::MISSING) {
            read(raw).map(|m: Missing| Noted::Missing { lost: m.lost, refused: m.refused, why: m.why })
        } else if is(kind::UNSYNCED) {
            read(raw).map(|u: Unsynced| Noted::Unsynced { from: u.from, to: u.to })
        } else if is(kind::DROPPED) {
            read(raw).map(|d: Dropped| Noted::Dropped { records: d.records })
        } else if is(kind::DAMAGED) {
            read(raw).map(|d: Damaged| Noted::Damaged { file: d.file, what: d.what })
        } else {
            None
        };
        if let Some(noted) = noted {
            self.note(raw.number, line.seq, noted);
        }
    }

    fn expected(&mut self, line: &Parsed<'_>, number: u64, fine: bool) {
        let Some(expected) = self.against.expected.filter(|e| e.seq == line.seq) else { return };
        if expected.hash == line.hash {
            self.report.expected_found |= fine;
        } else {
            let what = What::NotTheExpected { expected: expected.hash, found: line.hash };
            self.find(number, Some(line.seq), what);
        }
    }

    /// What can be said at the end alone.
    fn end(mut self, first_file: Option<u64>) -> Report {
        self.report.last = self.before.map(|(point, _)| point);
        self.report.last_time = self.before.map(|_| line::show(&self.time));
        let start = self.start.unwrap_or(Point::START);
        let whole = start == Point::START && first_file.is_none_or(|n| n == 1);
        self.file.clear();
        if !whole && !matches!(self.report.before, Before::Removed(_)) {
            self.report.before = Before::NotGiven;
            if self.folder.is_some() {
                self.find(0, None, What::BeginningMissing);
            }
        }
        if let Some(key) = self.against.key
            && !self.report.key_checked
        {
            self.find(0, None, What::KeyUnknown { given: key.fingerprint() });
        }
        if let Some(expected) = self.against.expected {
            let last = self.report.last.map_or(0, |p| p.seq);
            if last < expected.seq {
                self.find(0, None, What::EndMissing { expected: expected.seq, last });
            }
            self.report.expected_removed = expected.seq <= start.seq;
            if expected.seq == start.seq && expected.hash != start.hash {
                let what = What::NotTheExpected { expected: expected.hash, found: start.hash };
                self.find(0, Some(start.seq), what);
            }
        }
        self.report
    }
}

fn read<T: DeserializeOwned>(raw: &Raw<'_>) -> Option<T> {
    serde_json::from_slice(raw.bytes).ok()
}

fn is_kept(folder: &Path, cut: &Cut) -> bool {
    // a name that the log gives: of a file beside it, and nothing else
    let name = Path::new(&cut.kept);
    let beside = cut.kept.starts_with("torn-") && name.file_name() == Some(name.as_os_str());
    beside && files::digest(&folder.join(name), 0).is_ok_and(|is| is == (cut.bytes, cut.sha256))
}

/// Waits a little for the end of the last line, which the runner may be writing now. Gives whether it came, and how many bytes there are.
fn finished(path: &Path, offset: u64) -> io::Result<(bool, u64)> {
    let start = Instant::now();
    loop {
        let (whole, bytes) = rest(path, offset)?;
        if whole || bytes == 0 || start.elapsed() >= FINISHED_AFTER {
            return Ok((whole || bytes == 0, bytes));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether the line there has an end, and how many bytes there are of it.
fn rest(path: &Path, offset: u64) -> io::Result<(bool, u64)> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut lines = Lines::new(BufReader::new(file), offset);
    let whole = lines.next()?.map(|raw| raw.whole);
    Ok((whole.unwrap_or(false), lines.offset() - offset))
}
