//! The body of an answer, masked as it comes.
//!
//! A document is held until it ends or until its list begins; a list is held one element at a time:
//!
//! ```text
//!  Between ─ { ─► Fields ─ "items":[ ─► Elements ─ ] ─► After ─ , ─► Fields (the rest)
//!     ▲              │ }                                   │ }
//!     └──────────────┴─────────────────────────────────────┘
//! ```
//!
//! This level only finds where something ends. What it cuts out is then read as JSON; what is none is refused.

use bytes::Bytes;
use serde::de::IgnoredAny;
use shared_proto::glob::Glob;
use thiserror::Error;

use super::edit::{Edit, NotJson};
use super::headers::Answer;
use super::object::{Place, Walk};
use super::table::{Columns, row};
use super::{ELEMENT_MAX, MASK};

/// Masks the body of one answer about Secrets.
///
/// It holds at most [`ELEMENT_MAX`] bytes. What one [`push`](Self::push) gives is at most six times what it was given and what was held: an
/// empty value becomes a mask. After an error it gives no more; what it gave before has no value in it.
pub(crate) struct Masker {
    answer: Answer,
    shown_types: Vec<Glob>,
    columns: Columns,
    state: State,
    /// What is not yet whole.
    held: Vec<u8>,
    scan: Scan,
    /// How many bytes of the answer are behind `held`.
    at: u64,
    held_max: usize,
    failed: Option<MaskError>,
}

/// Why an answer is not passed on. None says what the answer has: that could be a value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum MaskError {
    /// The answer is no JSON by its Content-Type.
    #[error("the API server answered about secrets in `{found}`, in which nothing can be masked")]
    ContentType {
        /// What it is; `none` where it does not say.
        found: String,
    },
    /// The answer is packed.
    #[error("the API server answered about secrets in the encoding `{found}`, in which nothing can be masked")]
    ContentEncoding {
        /// The encoding.
        found: String,
    },
    /// The answer leaves HTTP.
    #[error("the API server switched protocols on a request for secrets")]
    Switched,
    /// An answer that has no body has one.
    #[error("the API server sent a body with an answer about secrets that has none")]
    Body,
    /// A Secret, or what is around a list, is too long.
    #[error("a secret in the API server's answer is longer than {max} bytes (at byte {at} of the answer)")]
    TooLarge {
        /// The bound.
        max: usize,
        /// Where it begins.
        at: u64,
    },
    /// The answer is not the JSON that an API server sends.
    #[error("the API server's answer about secrets is not JSON as it should be (after byte {at})")]
    Malformed {
        /// Where what cannot be read begins.
        at: u64,
    },
    /// The answer ended in its middle.
    #[error("the API server's answer about secrets ended before it was whole (after {at} bytes)")]
    Truncated {
        /// How much had come.
        at: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a document.
    Between,
    /// In a document, at its fields. `rest`: its list is behind, and the brace that begins `held` is ours.
    Fields { rest: bool },
    /// In the array of a list.
    Elements { list: List, first: bool },
    /// Behind the array of a list.
    After,
    /// Behind the only document.
    Ended,
}

/// What the elements of a list are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Items,
    Rows,
}

/// Where in a JSON text the scan is.
#[derive(Debug, Default)]
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Where in `held` the last string among the fields of the document begins and ends.
    string: (usize, usize),
    /// That string is the key of the value that comes.
    key: bool,
}

// === impl MaskError ===

impl MaskError {
    /// What to do next.
    pub(crate) fn next_step(&self) -> &'static str {
        match self {
            Self::ContentType { .. } | Self::ContentEncoding { .. } => {
                "Ask for application/json without compression; if that was asked for, look at what is between the runner and the API server."
            }
            Self::Switched => "Watch over plain HTTP.",
            Self::Body | Self::Malformed { .. } => {
                "Look at what is between the runner and the API server, and whether the API server is one that Kubernetes supports."
            }
            Self::TooLarge { .. } => "Find it by its size with a request for its metadata only, and make it smaller.",
            Self::Truncated { .. } => "Try again.",
        }
    }
}

// === impl Masker ===

impl Masker {
    /// For an answer of this form. Secrets whose `type` is among these keep their values.
    pub(crate) fn new(answer: Answer, shown_types: Vec<Glob>) -> Self {
        Self {
            answer,
            shown_types,
            columns: Columns::default(),
            state: State::Between,
            held: Vec::new(),
            scan: Scan::default(),
            at: 0,
            held_max: 0,
            failed: None,
        }
    }

    /// Takes a piece of the body and gives what of the answer is whole and masked by now, which may be nothing.
    ///
    /// # Errors
    /// What cannot be masked. The answer must be broken off then: each further call gives the same error.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<Bytes, MaskError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let mut out = Vec::new();
        let mut rest = piece;
        while !rest.is_empty() {
            let used = match self.state {
                State::Between | State::Ended | State::After => self.outside(rest, &mut out),
                State::Fields { rest: behind } => self.fields(rest, behind, &mut out),
                State::Elements { list, first } => self.elements(rest, list, first, &mut out),
            };
            match used {
                Ok(used) => rest = rest.get(used..).unwrap_or_default(),
                Err(error) => {
                    self.held = Vec::new();
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            }
        }
        Ok(out.into())
    }

    /// Says whether the answer was whole, at the end of its body.
    ///
    /// # Errors
    /// It was not, or an earlier error. What is held is let go, unseen.
    pub(crate) fn finish(self) -> Result<(), MaskError> {
        let at = self.at.saturating_add(self.held.len() as u64);
        match (self.failed, self.answer, self.state) {
            (Some(failed), ..) => Err(failed),
            (_, Answer::Nothing, _) | (_, Answer::Watch, State::Between) | (_, _, State::Ended) => Ok(()),
            _ => Err(MaskError::Truncated { at }),
        }
    }

    /// The most bytes that were held at once.
    #[cfg(test)]
    pub(crate) fn held_max(&self) -> usize {
        self.held_max
    }

    /// Between documents, and behind a list.
    fn outside(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Result<usize, MaskError> {
        if self.answer == Answer::Nothing {
            return Err(MaskError::Body);
        }
        let blanks = rest.iter().take_while(|b| is_blank(**b)).count();
        let (before, after) = rest.split_at_checked(blanks).unwrap_or((rest, &[]));
        out.extend_from_slice(before);
        self.at = self.at.saturating_add(blanks as u64);
        let Some(byte) = after.first() else { return Ok(blanks) };
        match (self.state, byte) {
            (State::Between, b'{') => {
                self.state = State::Fields { rest: false };
                self.scan = Scan { depth: 1, ..Scan::default() };
                self.hold(b"{")?;
            }
            (State::After, b'}') => {
                self.at = self.at.saturating_add(1);
                self.state = self.ended();
                out.push(b'}');
            }
            (State::After, b',') => {
                self.state = State::Fields { rest: true };
                self.scan = Scan { depth: 1, ..Scan::default() };
                // a brace in the place of the comma makes an object of the rest
                self.hold(b"{")?;
                out.push(b',');
            }
            _ => return Err(MaskError::Malformed { at: self.at }),
        }
        Ok(blanks + 1)
    }

    /// In the fields of a document.
    fn fields(&mut self, rest: &[u8], behind: bool, out: &mut Vec<u8>) -> Result<usize, MaskError> {
        let mut from = 0;
        for (i, byte) in rest.iter().enumerate() {
            let here = self.held.len() + (i - from);
            match (self.scan.step(*byte), byte) {
                (Step::StringBegins, _) if self.scan.depth == 1 => self.scan.string = (here, here),
                (Step::StringEnds, _) if self.scan.depth == 1 => self.scan.string.1 = here + 1,
                (Step::Structure, b':') if self.scan.depth == 1 => self.scan.key = true,
                (Step::Structure, b',') if self.scan.depth == 1 => self.scan.key = false,
                // the depth counts the bracket already
                (Step::Structure, b'[') if self.scan.depth == 2 && self.scan.key => {
                    self.hold(rest.get(from..i).unwrap_or_default())?;
                    from = i;
                    if let Some(list) = self.list() {
                        self.begin_list(behind, out)?;
                        out.push(b'[');
                        self.state = State::Elements { list, first: true };
                        return Ok(i + 1);
                    }
                }
                (Step::Structure, b'}' | b']') if self.scan.depth == 0 => {
                    self.hold(rest.get(from..=i).unwrap_or_default())?;
                    self.end_document(behind, out)?;
                    return Ok(i + 1);
                }
                _ => {}
            }
        }
        self.hold(rest.get(from..).unwrap_or_default())?;
        Ok(rest.len())
    }

    /// Which list begins, by the key before it.
    fn list(&self) -> Option<List> {
        match self.held.get(self.scan.string.0..self.scan.string.1)? {
            b"\"items\"" => Some(List::Items),
            b"\"rows\"" => Some(List::Rows),
            _ => None,
        }
    }

    /// Gives the fields before a list.
    fn begin_list(&mut self, behind: bool, out: &mut Vec<u8>) -> Result<(), MaskError> {
        let (at, held) = self.take();
        let malformed = MaskError::Malformed { at };
        let (before, key) = held.split_at_checked(self.scan.string.0).ok_or(malformed.clone())?;
        // what is between key and bracket goes on as it is, so it must be no more than a colon
        let colon = key.get(self.scan.string.1.saturating_sub(self.scan.string.0)..).unwrap_or_default();
        if trim(colon) != b":" {
            return Err(malformed);
        }
        let fields = trim_end(before);
        let closed = match fields {
            b"{" => b"{}".to_vec(),
            _ => {
                // without its comma and with a brace it is an object
                let mut fields = fields.strip_suffix(b",").ok_or(malformed)?.to_vec();
                if fields.len() < 2 {
                    return Err(MaskError::Malformed { at });
                }
                fields.push(b'}');
                fields
            }
        };
        let mut masked = self.masked(at, &closed, |walk, edit, text| walk.object(edit, text, Place::Part))?;
        masked.pop();
        out.extend_from_slice(masked.get(usize::from(behind)..).unwrap_or_default());
        if fields.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(before.get(fields.len()..).unwrap_or_default());
        out.extend_from_slice(key);
        self.scan = Scan::default();
        self.at = self.at.saturating_add(1);
        Ok(())
    }

    /// Gives a whole document, or the fields behind a list.
    fn end_document(&mut self, behind: bool, out: &mut Vec<u8>) -> Result<(), MaskError> {
        let (at, held) = self.take();
        let watch = matches!(self.answer, Answer::Watch);
        let masked = self.masked(at, &held, |walk, edit, text| match (behind, watch) {
            (true, _) => {
                // a comma with nothing after it
                let empty = text.get(1..).is_some_and(|text| trim(text.as_bytes()) == b"}");
                if empty { Err(NotJson) } else { walk.object(edit, text, Place::Part) }
            }
            (false, true) => walk.event(edit, text),
            (false, false) => walk.object(edit, text, Place::Document),
        })?;
        out.extend_from_slice(masked.get(usize::from(behind)..).unwrap_or_default());
        self.state = self.ended();
        Ok(())
    }

    /// In the array of a list.
    fn elements(&mut self, rest: &[u8], list: List, first: bool, out: &mut Vec<u8>) -> Result<usize, MaskError> {
        for (i, byte) in rest.iter().enumerate() {
            let before = self.scan.depth;
            if self.scan.step(*byte) != Step::Structure || before > 0 || !matches!(byte, b',' | b']' | b'}') {
                continue;
            }
            self.hold(rest.get(..i).unwrap_or_default())?;
            let (at, held) = self.take();
            let element = trim(&held);
            if *byte == b'}' || (element.is_empty() && !(first && *byte == b']')) {
                return Err(MaskError::Malformed { at });
            }
            if element.is_empty() {
                out.extend_from_slice(&held);
            } else {
                let masked = self.masked(at, &held, |walk, edit, text| {
                    let element = text.trim_matches(|c: char| c.is_ascii() && is_blank(c as u8));
                    // masked whatever it is, unless it is nothing
                    serde_json::from_str::<IgnoredAny>(element).map_err(|_| NotJson)?;
                    match list {
                        List::Items => walk.object(edit, element, Place::Element),
                        List::Rows => row(walk, edit, element),
                    }
                })?;
                out.extend_from_slice(&masked);
            }
            // the buffer is used again
            self.held = held;
            self.held.clear();
            self.at = self.at.saturating_add(1);
            self.scan = Scan::default();
            out.push(*byte);
            self.state = if *byte == b']' { State::After } else { State::Elements { list, first: false } };
            return Ok(i + 1);
        }
        self.hold(rest)?;
        Ok(rest.len())
    }

    /// Takes what is held, with its place in the answer.
    fn take(&mut self) -> (u64, Vec<u8>) {
        let at = self.at;
        let held = std::mem::take(&mut self.held);
        self.at = self.at.saturating_add(held.len() as u64);
        (at, held)
    }

    /// Masks one piece.
    fn masked(
        &mut self,
        at: u64,
        piece: &[u8],
        how: impl for<'t> FnOnce(&mut Walk<'_>, &mut Edit<'t, '_>, &'t str) -> Result<(), NotJson>,
    ) -> Result<Vec<u8>, MaskError> {
        let malformed = |_| MaskError::Malformed { at };
        let text = std::str::from_utf8(piece).map_err(|_| MaskError::Malformed { at })?;
        let mut out = Vec::with_capacity(piece.len() + MASK.len());
        let mut walk = Walk {
            shown_types: &self.shown_types,
            write: matches!(self.answer, Answer::Document { write: true }),
            columns: &mut self.columns,
        };
        let mut edit = Edit::new(text, &mut out);
        how(&mut walk, &mut edit, text).map_err(malformed)?;
        edit.finish().map_err(malformed)?;
        Ok(out)
    }

    /// Holds some more, within the bound.
    fn hold(&mut self, piece: &[u8]) -> Result<(), MaskError> {
        let len = self.held.len().saturating_add(piece.len());
        if len > ELEMENT_MAX {
            return Err(MaskError::TooLarge { max: ELEMENT_MAX, at: self.at });
        }
        if len > self.held.capacity() {
            // doubling, though never beyond the bound
            let room = self.held.capacity().saturating_mul(2).clamp(len, ELEMENT_MAX);
            self.held.reserve_exact(room.saturating_sub(self.held.len()));
        }
        self.held.extend_from_slice(piece);
        self.held_max = self.held_max.max(self.held.capacity());
        Ok(())
    }

    fn ended(&self) -> State {
        if matches!(self.answer, Answer::Watch) { State::Between } else { State::Ended }
    }
}

/// What a byte of JSON is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    StringBegins,
    StringEnds,
    /// A bracket, brace, colon or comma.
    Structure,
    Other,
}

// === impl Scan ===

impl Scan {
    fn step(&mut self, byte: u8) -> Step {
        if self.in_string {
            if self.escaped {
                self.escaped = false;
            } else if byte == b'\\' {
                self.escaped = true;
            } else if byte == b'"' {
                self.in_string = false;
                return Step::StringEnds;
            }
            return Step::Other;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                Step::StringBegins
            }
            b'{' | b'[' => {
                self.depth += 1;
                Step::Structure
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                Step::Structure
            }
            b':' | b',' => Step::Structure,
            _ => Step::Other,
        }
    }
}

/// White space of JSON, which has less than others.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn trim(text: &[u8]) -> &[u8] {
    let begin = text.iter().take_while(|b| is_blank(**b)).count();
    trim_end(text.get(begin..).unwrap_or_default())
}

fn trim_end(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|b| !is_blank(*b)).map_or(0, |last| last + 1);
    text.get(..end).unwrap_or_default()
}
