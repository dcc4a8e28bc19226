//! What verification says.

use super::key::PublicKey;
use super::line::{Digest, Point};
use serde::Serialize;
use std::fmt;

/// How many findings, and how many notes, are kept in full. More are counted.
pub const FINDINGS_MAX: usize = 200;

/// What is wrong at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In which file.
    pub file: String,
    /// At which line; 0 where it is the file, or the log, as a whole.
    pub line: u64,
    /// The number that the record there has, or would have.
    pub seq: Option<u64>,
    /// What it is.
    pub what: What,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// The line has not the form of any line of this log.
    Malformed(&'static str),
    /// The line is not what it was when it was written.
    Changed,
    /// Records are missing before this one.
    Dropped {
        /// The number that was to come.
        expected: u64,
        /// The number that is there.
        found: u64,
    },
    /// The number was there already: the record is doubled, or not in its place.
    Repeated {
        /// The number that was to come.
        expected: u64,
        /// The number that is there.
        found: u64,
    },
    /// The record does not name the hash of the one before: that one was put in, put in another's place, or written anew.
    Unchained,
    /// The last line has no end: the runner was killed while it wrote. Its next start cuts that off, and says so.
    Unfinished {
        /// How many bytes there are of it.
        bytes: u64,
    },
    /// The signature is not one of the log's key about this record: something since the last good seal was changed.
    SignatureWrong {
        /// The number of the last good seal.
        since: u64,
    },
    /// A record of a kind that is signed has no signature.
    Unsigned,
    /// There are more records without a seal than the runner ever leaves.
    Unsealed {
        /// How many.
        records: u64,
    },
    /// From here on another key signs, which the one before did not sign.
    KeyChanged {
        /// The fingerprint of the key before.
        before: Digest,
        /// And of this one.
        after: Digest,
    },
    /// The key that was given has signed nothing here.
    KeyUnknown {
        /// Its fingerprint.
        given: Digest,
    },
    /// The first record of the file does not say what file, key and runner it is.
    StartMissing,
    /// The file says that it has another number.
    WrongFile {
        /// The number that it says it has.
        says: u64,
    },
    /// Files are missing before this one.
    FilesMissing {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// The log does not start at its beginning, and does not say that what is before was removed by retention.
    BeginningMissing,
    /// The log ends before the record that was said to be in it: its end was cut off.
    EndMissing {
        /// The number that was to be in it.
        expected: u64,
        /// The last number that is.
        last: u64,
    },
    /// The record of that number is another one than was said.
    NotTheExpected {
        /// The hash that it was to have.
        expected: Digest,
        /// The hash that it has.
        found: Digest,
    },
}

/// Something that is not wrong, and that whoever relies on the log should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// In which file.
    pub file: String,
    /// At which line.
    pub line: u64,
    /// The record's number.
    pub seq: u64,
    /// What it is.
    pub what: Noted,
}

/// What notes are about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Noted {
    /// The time is before that of the record before: a clock was set back.
    TimeBack {
        /// The time of the record before.
        from: String,
        /// The time of this one.
        to: String,
    },
    /// After a crash a torn end was cut off.
    Cut {
        /// From which file, by number.
        file: u64,
        /// At which byte.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// Whether they are kept, as they were: nothing where that was not looked at.
        kept: Option<bool>,
    },
    /// Files were removed by retention.
    Removed {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
        /// The last record that was in them.
        last_seq: u64,
    },
    /// Records could not be written.
    Missing {
        /// Of what went on all the same.
        lost: u64,
        /// Of what was refused because of that.
        refused: u64,
        /// Why.
        why: String,
    },
    /// The disk did not confirm records.
    Unsynced {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
    /// A collector did not get records.
    Dropped {
        /// How many.
        records: u64,
    },
    /// The runner itself found that the log was changed.
    Damaged {
        /// The file, by number.
        file: u64,
        /// What it found.
        what: String,
    },
    /// The key was changed, and the one before signed that.
    KeyChanged {
        /// The fingerprint of the new one.
        after: Digest,
    },
    /// From here on it is another runner's log.
    Runner(String),
    /// The log was begun with a key that was there already: a log before it may have been removed as a whole.
    BegunAnew,
}

/// What is before the first record that is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    /// Nothing: the log is here from its beginning.
    #[default]
    Nothing,
    /// What was removed by retention; the record of that number states so, signed.
    Removed(u64),
    /// Files that were not given.
    NotGiven,
}

/// What verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whose log it is, as it says.
    pub runner: String,
    /// How many files were read, and their bytes.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// How many records.
    pub records: u64,
    /// The number and time of the first record.
    pub first: Option<(u64, String)>,
    /// The last record.
    pub last: Option<Point>,
    /// Its time.
    pub last_time: Option<String>,
    /// What is before the first record.
    pub before: Before,
    /// The keys that sign, by their base64, in the order in which they did.
    pub keys: Vec<String>,
    /// A key was given, and has signed here.
    pub key_checked: bool,
    /// How many good signatures there are.
    pub signatures: u64,
    /// The last record that is signed, by itself or by a seal.
    pub last_signed: Option<Point>,
    /// How many records come after that: chained, and not signed.
    pub unsigned: u64,
    /// A place was given to compare with, and is as it should be.
    pub expected_found: bool,
    /// A place was given to compare with, and is among what was removed.
    pub expected_removed: bool,
    /// What is wrong, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many findings more there are.
    pub more_findings: u64,
    /// What should be known, at most [`FINDINGS_MAX`].
    pub notes: Vec<Note>,
    /// How many notes more there are.
    pub more_notes: u64,
}

// === impl Report ===

impl Report {
    /// Nothing is wrong.
    pub const fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    pub(super) fn find(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }

    pub(super) fn note(&mut self, note: Note) {
        if self.notes.len() < FINDINGS_MAX {
            self.notes.push(note);
        } else {
            self.more_notes += 1;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrong = self.findings.len() as u64 + self.more_findings;
        match wrong {
            0 => writeln!(f, "audit log of runner {}: good", self.runner)?,
            1 => writeln!(f, "audit log of runner {}: NOT good, 1 finding", self.runner)?,
            _ => writeln!(f, "audit log of runner {}: NOT good, {wrong} findings", self.runner)?,
        }
        writeln!(f, "  {} records in {} files, {} bytes", self.records, self.files, self.bytes)?;
        if let (Some((seq, time)), Some(last), Some(last_time)) = (&self.first, &self.last, &self.last_time) {
            writeln!(f, "  from number {seq} ({time}) to number {} ({last_time})", last.seq)?;
            writeln!(f, "  last: {last}")?;
        }
        match self.before {
            Before::Nothing => {}
            Before::Removed(seq) => {
                writeln!(f, "  what is before is not here: removed by retention, as number {seq} states")?
            }
            Before::NotGiven => writeln!(f, "  what is before is not here: not among the files that were given")?,
        }
        match self.last_signed {
            Some(signed) => writeln!(f, "  signed up to number {}", signed.seq)?,
            None => writeln!(f, "  nothing of it is signed")?,
        }
        if self.unsigned > 0 {
            writeln!(f, "  {} records after that are chained and not signed yet", self.unsigned)?;
        }
        for key in &self.keys {
            let shown = PublicKey::from_text(key).map(PublicKey::fingerprint);
            writeln!(f, "  key {}", shown.map_or_else(|e| e.to_string(), |d| d.to_string()))?;
        }
        if !self.key_checked {
            writeln!(
                f,
                "  whose key that is, only the log itself says: compare it with what `runner audit key` prints"
            )?;
        }
        if self.expected_removed {
            writeln!(f, "  the record to compare with is among what was removed")?;
        }
        for finding in &self.findings {
            writeln!(f, "  WRONG {finding}")?;
        }
        if self.more_findings > 0 {
            writeln!(f, "  WRONG and {} more", self.more_findings)?;
        }
        for note in &self.notes {
            writeln!(f, "  note {note}")?;
        }
        if self.more_notes > 0 {
            writeln!(f, "  note and {} more", self.more_notes)?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.is_empty(), self.line) {
            (true, _) => {}
            (false, 0) => write!(f, "{}: ", self.file)?,
            (false, line) => write!(f, "{} line {line}: ", self.file)?,
        }
        if let Some(seq) = self.seq {
            write!(f, "number {seq}: ")?;
        }
        write!(f, "{}", self.what)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "it is no line of this log: {why}"),
            Self::Changed => f.write_str("the line was changed: its hash does not fit"),
            Self::Dropped { expected, found } if *found == expected + 1 => {
                write!(f, "number {expected} is missing before it")
            }
            Self::Dropped { expected, found } => write!(f, "numbers {expected} to {} are missing before it", found - 1),
            Self::Repeated { expected, found } => {
                write!(f, "number {found} was there already, and {expected} was to come: doubled or not in its place")
            }
            Self::Unchained => f.write_str(
                "it does not name the hash of the line before: that one was not there when this was written",
            ),
            Self::Unfinished { bytes } => {
                write!(
                    f,
                    "the last line has no end ({bytes} bytes): the next start of the runner cuts it off and says so"
                )
            }
            Self::SignatureWrong { since } => {
                write!(f, "its signature is not one of the log's key: something after number {since} was changed")
            }
            Self::Unsigned => f.write_str("it has no signature, and records of its kind have one"),
            Self::Unsealed { records } => {
                write!(f, "{records} records without a seal: the runner never leaves that many")
            }
            Self::KeyChanged { before, after } => {
                write!(f, "the key changes from {before} to {after}, and the one before did not sign that")
            }
            Self::KeyUnknown { given } => write!(f, "the key that was given ({given}) has signed nothing here"),
            Self::StartMissing => {
                f.write_str("the first record of the file is missing: the one that names file, key and runner")
            }
            Self::WrongFile { says } => write!(f, "it says that it is file {says}"),
            Self::FilesMissing { first, last } if first == last => write!(f, "file {first} is missing before it"),
            Self::FilesMissing { first, last } => write!(f, "files {first} to {last} are missing before it"),
            Self::BeginningMissing => {
                f.write_str("what is before is not here, and nothing states that it was removed by retention")
            }
            Self::EndMissing { expected, last } => {
                write!(f, "the log ends at number {last}, and was known to have number {expected}: its end was cut off")
            }
            Self::NotTheExpected { expected, found } => {
                write!(f, "it has the hash {found}, and was known to have {expected}: the log was written anew")
            }
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}: number {}: {}", self.file, self.line, self.seq, self.what)
    }
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimeBack { from, to } => write!(f, "the time goes back from {from} to {to}"),
            Self::Cut { file, offset, bytes, kept } => {
                write!(f, "after a crash {bytes} bytes were cut off file {file} at byte {offset}")?;
                match kept {
                    Some(true) => f.write_str("; they are kept"),
                    Some(false) => f.write_str("; they are not kept, or were changed"),
                    None => Ok(()),
                }
            }
            Self::Removed { first, last, last_seq } => {
                write!(f, "files {first} to {last}, up to number {last_seq}, were removed by retention")
            }
            Self::Missing { lost, refused, why } => {
                write!(f, "{lost} records are missing of what went on, {refused} of what was refused: {why}")
            }
            Self::Unsynced { from, to } => write!(f, "the disk did not confirm numbers {from} to {to}"),
            Self::Dropped { records } => write!(f, "the collector did not get {records} records"),
            Self::Damaged { file, what } => write!(f, "the runner found file {file} changed: {what}"),
            Self::KeyChanged { after } => write!(f, "the key was changed to {after}, signed by the one before"),
            Self::Runner(runner) => write!(f, "from here on it is the log of runner {runner}"),
            Self::BegunAnew => f.write_str(
                "it was begun with a key that was there already: a log before it may have been removed as a whole",
            ),
        }
    }
}
