//! Reading the end of a log, and what is written to it meanwhile. A line that is being written is given when it is whole; a file that is
//! rotated away is read to its end first.

use super::error::AuditError;
use super::files::{self, Lines};
use super::line;
use super::record::{Decision, Kind, Record};
use serde::Deserialize;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many lines can be asked for from the end; with a greater number everything that is there is given.
pub const TAIL_MAX: usize = 1_000_000;
/// How often it is looked for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Which records are given. What is `None` holds for every record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The user's id or name.
    pub user: Option<String>,
    /// The connection.
    pub connection: Option<String>,
    /// The decision.
    pub decision: Option<Decision>,
    /// The kind, as it stands in the log.
    pub kind: Option<String>,
    /// The operation's or job's id.
    pub operation: Option<String>,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The record's number.
    pub seq: u64,
    /// Its time.
    pub time: String,
    /// Its kind.
    pub kind: String,
    /// The line as it stands there, without its end: JSON.
    pub text: String,
}

/// Gives lines, oldest first. As an iterator that follows it waits for more and never ends; [`Tail::ready`] does not wait. An error comes
/// again each time: it is for the caller to stop there.
#[derive(Debug)]
pub struct Tail {
    folder: PathBuf,
    filter: Filter,
    follow: bool,
    /// The file that is read, and the line that is next.
    number: u64,
    offset: u64,
    open: Option<Lines<BufReader<File>>>,
}

/// What a filter looks at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Seen {
    user: Option<String>,
    user_name: Option<String>,
    connection: Option<String>,
    decision: Option<Decision>,
    operation: Option<String>,
    job: Option<String>,
}

/// The last `n` lines of a log that the filter lets through, and with `follow` each one that comes.
///
/// # Errors
/// There is no log, or it cannot be read.
pub fn tail(folder: &Path, n: usize, follow: bool, filter: Filter) -> Result<Tail, AuditError> {
    let numbers = files::list_of_log(folder)?;
    let Some(last) = numbers.last().copied() else { return Err(AuditError::NoLog(folder.to_owned())) };
    let mut tail = Tail { folder: folder.to_owned(), filter, follow, number: last, offset: 0, open: None };
    let mut left = n;
    for number in numbers.iter().rev() {
        let (start, found) = match tail.find(*number, left) {
            // removed by retention while this was read
            Err(AuditError::File(_, e)) if e.kind() == io::ErrorKind::NotFound && *number != last => break,
            found => found?,
        };
        (tail.number, tail.offset) = (*number, start);
        left -= found;
        if left == 0 {
            break;
        }
    }
    Ok(tail)
}

/// The lines of one file, such as a copy, to its end.
///
/// # Errors
/// It cannot be read; so too what is given later.
pub fn lines_of(path: &Path) -> Result<impl Iterator<Item = Result<Line, AuditError>>, AuditError> {
    let path = path.to_owned();
    let mut lines = open_at(&path, 0).map_err(AuditError::file(&path))?;
    let all = Filter::default();
    Ok(std::iter::from_fn(move || {
        loop {
            match lines.next() {
                Ok(Some(raw)) if raw.whole => {
                    if let Some(line) = all.lets(raw.bytes) {
                        return Some(Ok(line));
                    }
                }
                Ok(_) => return None,
                Err(e) => return Some(Err(AuditError::file(&path)(e))),
            }
        }
    }))
}

// === impl Tail ===

impl Tail {
    /// Where the last `n` matching lines of a file start, and how many there are.
    fn find(&self, number: u64, n: usize) -> Result<(u64, usize), AuditError> {
        let path = files::path_of(&self.folder, number);
        let file = File::open(&path).map_err(AuditError::file(&path))?;
        let mut lines = Lines::new(BufReader::with_capacity(256 << 10, file), 0);
        let (mut starts, mut end) = (VecDeque::new(), 0);
        while let Some(raw) = lines.next().map_err(AuditError::file(&path))? {
            let (offset, whole) = (raw.offset, raw.whole);
            let is_wanted = n > 0 && whole && self.filter.lets(raw.bytes).is_some();
            end = if whole { lines.offset() } else { offset };
            if !is_wanted {
                continue;
            }
            if starts.len() == n && n <= TAIL_MAX {
                starts.pop_front();
            }
            // of all that there are, only the first place is needed
            if n <= TAIL_MAX || starts.is_empty() {
                starts.push_back(offset);
            }
        }
        let found = starts.len();
        Ok((starts.front().copied().unwrap_or(end), found))
    }

    /// The next line that is there now.
    pub fn ready(&mut self) -> Option<Result<Line, AuditError>> {
        loop {
            match self.step() {
                Ok(Step::Line(line)) => return Some(Ok(line)),
                Ok(Step::Passed) => {}
                Ok(Step::End) => return None,
                Err(e) => return Some(Err(e)),
            }
        }
    }

    fn step(&mut self) -> Result<Step, AuditError> {
        let path = files::path_of(&self.folder, self.number);
        let lines = match &mut self.open {
            Some(lines) => lines,
            none => match open_at(&path, self.offset) {
                Ok(lines) => none.insert(lines),
                // removed by retention: go on with the oldest that is there
                Err(e) if e.kind() == io::ErrorKind::NotFound => return self.next_file(),
                Err(e) => return Err(AuditError::file(&path)(e)),
            },
        };
        if let Some(raw) = lines.next().map_err(AuditError::file(&path))?.filter(|raw| raw.whole) {
            let line = self.filter.lets(raw.bytes);
            self.offset = lines.offset();
            return Ok(line.map_or(Step::Passed, Step::Line));
        }
        // the end, or a line that is not whole: read again from its start, as the file may be cut there
        self.open = None;
        self.next_file()
    }

    /// Goes on with the next file, once this one has no more.
    fn next_file(&mut self) -> Result<Step, AuditError> {
        let next = files::list(&self.folder)?.into_iter().find(|number| *number > self.number);
        let path = files::path_of(&self.folder, self.number);
        let length = match std::fs::metadata(&path) {
            Ok(file) => file.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(AuditError::file(&path)(e)),
        };
        // cut off behind a crash, below what was read: zeros of a power cut that looked like a line
        self.offset = self.offset.min(length);
        let Some(next) = next else { return Ok(Step::End) };
        // whoever begins a file has written the one before to its end
        if length > self.offset && self.rest_is_whole(&path)? {
            return Ok(Step::Passed);
        }
        (self.number, self.offset) = (next, 0);
        Ok(Step::Passed)
    }

    fn rest_is_whole(&self, path: &Path) -> Result<bool, AuditError> {
        let mut lines = open_at(path, self.offset).map_err(AuditError::file(path))?;
        Ok(lines.next().map_err(AuditError::file(path))?.is_some_and(|raw| raw.whole))
    }
}

enum Step {
    Line(Line),
    Passed,
    End,
}

fn open_at(path: &Path, offset: u64) -> io::Result<Lines<BufReader<File>>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(Lines::new(BufReader::new(file), offset))
}

impl Iterator for Tail {
    type Item = Result<Line, AuditError>;
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let ready = self.ready();
            if ready.is_some() || !self.follow {
                return ready;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

// === impl Filter ===

impl Filter {
    /// The line, where it is one and is let through. One that is none is shown nobody: it is verification's to find.
    fn lets(&self, bytes: &[u8]) -> Option<Line> {
        let parsed = line::parse(bytes).ok()?;
        let kind = std::str::from_utf8(parsed.kind).ok()?;
        if self.kind.as_ref().is_some_and(|k| k != kind) {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let looks = [&self.user, &self.connection, &self.operation].iter().any(|f| f.is_some());
        if looks || self.decision.is_some() {
            let seen: Seen = serde_json::from_str(text).ok()?;
            let is = |wanted: &Option<String>, found: &[&Option<String>]| wanted.is_none() || found.contains(&wanted);
            let fits = is(&self.user, &[&seen.user, &seen.user_name])
                && is(&self.connection, &[&seen.connection])
                && is(&self.operation, &[&seen.operation, &seen.job])
                && (self.decision.is_none() || self.decision == seen.decision);
            if !fits {
                return None;
            }
        }
        let (kind, text) = (kind.to_owned(), text.to_owned());
        Some(Line { seq: parsed.seq, time: line::show(parsed.time), kind, text })
    }
}

// === impl Line ===

impl Line {
    /// What it says, where it is no record of the log's own.
    pub fn record(&self) -> Option<Record> {
        let kind = Kind::from_name(&self.kind)?;
        let record: Record = serde_json::from_str(&self.text).ok()?;
        Some(Record { kind, ..record })
    }
}
