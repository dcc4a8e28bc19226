//! A log's lines as events that can be gone on with: each event's id says how far it is, so that a client that sends it again as
//! `Last-Event-ID` gets what comes after it, none twice, as far as the container's log still holds it.
//!
//! Lines come with their times. An id is the latest of them, how many lines were given since the moment at which another connection would begin, and a
//! digest of the last one: a container's log only grows at its end, so that many lines are what the client has. Nothing is remembered here
//! between two connections, and no line is held back that is whole.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use shared_proto::lines::Cutter;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How far behind the newest line another one may have come late, nanoseconds: standard output and standard error are stamped by two writers.
const LATE: i128 = 1_000_000_000;
/// The API server begins at a whole second.
const SECOND: i128 = 1_000_000_000;
/// The longest line that is kept together, bytes. A longer one comes in pieces, and an id is told at its end only.
const LINE_MAX: usize = 256 * 1024;
/// The most lines that one id counts; where more came within two seconds an event has none.
const COUNTED_MAX: usize = 1 << 18;
/// The longest time, bytes: RFC 3339 with nanoseconds and an offset.
const TIME_MAX: usize = 35;

/// How far a log was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    newest: i128,
    count: usize,
    last: u64,
}

/// Whole lines, and the id of their last one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) text: Bytes,
    pub(super) id: Option<String>,
}

/// A log on its way.
#[derive(Debug)]
pub(super) struct Lines {
    /// Whether the times are given out.
    timestamps: bool,
    cutter: Cutter,
    /// A line that is too long has begun: whether its pieces are given out.
    long: Option<bool>,
    newest: Option<i128>,
    /// Where another connection would begin, and the times of what was given from there on.
    begin: i128,
    given: Vec<i128>,
    counts: bool,
    last: u64,
    skip: Skip,
}

/// What a client has already.
#[derive(Debug, PartialEq, Eq)]
enum Skip {
    Nothing,
    /// So many lines, counted from where this connection begins.
    Count {
        place: Place,
        seen: usize,
    },
    /// What is not later than that: the log is not the one that was counted.
    Until(i128),
}

// === impl Place ===

impl Place {
    /// From an id.
    pub(super) fn parse(id: &str) -> Option<Self> {
        let mut parts = id.split('.');
        let newest = parts.next()?.parse().ok().filter(|newest: &i128| (0..1_i128 << 63).contains(newest))?;
        let count = parts.next()?.parse().ok().filter(|count| (1..=COUNTED_MAX).contains(count))?;
        let last = parts.next().filter(|hex| hex.len() == 16).and_then(|hex| u64::from_str_radix(hex, 16).ok())?;
        parts.next().is_none().then_some(Self { newest, count, last })
    }
    /// Where the connection begins that goes on, in RFC 3339.
    pub(super) fn begin(self) -> Option<String> {
        OffsetDateTime::from_unix_timestamp_nanos(begin(self.newest)).ok()?.format(&Rfc3339).ok()
    }
}

fn begin(newest: i128) -> i128 {
    (newest - LATE).div_euclid(SECOND) * SECOND
}

fn digest(line: &[u8]) -> u64 {
    let hash = Sha256::digest(line);
    hash.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

// === impl Lines ===

impl Lines {
    /// For a log whose lines come with their times, after what a client has.
    pub(super) fn new(timestamps: bool, after: Option<Place>) -> Self {
        let skip = after.map_or(Skip::Nothing, |place| Skip::Count { place, seen: 0 });
        Self {
            timestamps,
            cutter: Cutter::new(LINE_MAX),
            long: None,
            newest: None,
            begin: i128::MIN,
            given: Vec::new(),
            counts: true,
            last: 0,
            skip,
        }
    }

    /// What of these bytes is to be given out: whole lines, or pieces of one that is too long.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Given {
        let mut out = Vec::new();
        let mut pieces = Vec::new();
        self.cutter.add(bytes, |piece| pieces.push(piece));
        for piece in pieces {
            self.flush(&piece, &mut out);
        }
        let id = if out.is_empty() { None } else { self.id() };
        Given { text: out.into(), id }
    }

    /// The log has ended: what is left of it.
    pub(super) fn rest(&mut self) -> Bytes {
        let mut out = Vec::new();
        if let Some(rest) = self.cutter.rest() {
            self.flush(&rest, &mut out);
        }
        out.into()
    }

    /// How far it is; nothing in the middle of a long line, or where more is to be counted than is.
    fn id(&self) -> Option<String> {
        let newest = self.newest.filter(|_| self.long.is_none() && self.counts)?;
        Some(format!("{newest}.{}.{:016x}", self.given.len(), self.last))
    }

    fn flush(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let ends = line.ends_with(b"\n");
        let gives = match self.long {
            Some(gives) => {
                out.extend_from_slice(if gives { line } else { b"" });
                gives
            }
            None => self.line(line, out),
        };
        self.long = (!ends).then_some(gives);
    }

    /// Takes a line, or the beginning of a long one; whether it is given out.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some((time, text)) = timed(line) else {
            // a remark of the API server's: it is of no place in the log
            out.extend_from_slice(line);
            return true;
        };
        let last = digest(line);
        let gives = self.wanted(time, last);
        let newest = self.newest.map_or(time, |newest| newest.max(time));
        (self.newest, self.last) = (Some(newest), last);
        if begin(newest) != self.begin {
            self.begin = begin(newest);
            self.given.retain(|time| *time >= self.begin);
            // what was not counted is older than that by now, where nothing of it is left
            self.counts |= self.given.is_empty();
        }
        // those that another connection brings: each that is not older, wherever it stands
        if time >= self.begin {
            self.given.push(time);
        }
        if self.given.len() > COUNTED_MAX {
            self.given.clear();
            self.counts = false;
        }
        if gives {
            out.extend_from_slice(if self.timestamps { line } else { text });
        }
        gives
    }

    /// Whether a client has that line not yet.
    fn wanted(&mut self, time: i128, last: u64) -> bool {
        match &mut self.skip {
            Skip::Nothing => true,
            Skip::Count { place, seen } => {
                if time < begin(place.newest) {
                    return false;
                }
                // none that was given is later than that: some of them have gone from the container's log
                if time > place.newest {
                    self.skip = Skip::Nothing;
                    return true;
                }
                *seen += 1;
                if *seen < place.count {
                    return false;
                }
                self.skip = if last == place.last { Skip::Nothing } else { Skip::Until(place.newest) };
                false
            }
            Skip::Until(newest) if time <= *newest => false,
            Skip::Until(_) => {
                self.skip = Skip::Nothing;
                true
            }
        }
    }
}

/// A line's time, and its text.
fn timed(line: &[u8]) -> Option<(i128, &[u8])> {
    let at = line.iter().take(TIME_MAX + 1).position(|b| *b == b' ')?;
    let (time, text) = line.split_at(at);
    let time = OffsetDateTime::parse(std::str::from_utf8(time).ok()?, &Rfc3339).ok()?;
    Some((time.unix_timestamp_nanos(), &text[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(count: u64) -> Vec<String> {
        // two and a half lines a millisecond, some late, some at one moment, some equal
        let time = |n: u64| n * 400_000 - if n % 7 == 3 { n.min(3) * 400_000 } else { 0 };
        (0..count)
            .map(|n| {
                let (seconds, nanos) = (time(n) / 1_000_000_000, time(n) % 1_000_000_000);
                format!("2026-01-02T03:04:{seconds:02}.{nanos:09}Z line {}\n", n / 2)
            })
            .collect()
    }
    /// What the API server gives from that moment on.
    fn since(log: &[String], place: Place) -> String {
        let begin = place.begin().expect("a moment");
        let begin = OffsetDateTime::parse(&begin, &Rfc3339).expect("a moment").unix_timestamp_nanos();
        log.iter().filter(|line| timed(line.as_bytes()).is_some_and(|(time, _)| time >= begin)).cloned().collect()
    }

    #[test]
    fn each_line_comes_once_wherever_it_was_cut() {
        let log = log(6000);
        let whole: String = log.iter().map(|line| line.split_once(' ').expect("a time").1).collect();
        for step in [1, 37, 1000, 5999] {
            let (mut place, mut all, mut sent) = (None, String::new(), 0);
            while sent < log.len() {
                let mut lines = Lines::new(false, place);
                let text = match place {
                    None => log.concat(),
                    Some(place) => since(&log, place),
                };
                // so many lines that are new, then the connection is gone
                let mut fresh = 0;
                for line in text.split_inclusive('\n') {
                    let given = lines.add(line.as_bytes());
                    if !given.text.is_empty() {
                        all.push_str(std::str::from_utf8(&given.text).expect("text"));
                        place = given.id.as_deref().map(|id| Place::parse(id).expect("an id"));
                        fresh += 1;
                        sent += 1;
                    }
                    if fresh == step {
                        break;
                    }
                }
                assert!(fresh > 0, "nothing new after {sent}");
                if sent > 300 && step == 1 {
                    break;
                }
            }
            assert!(whole.starts_with(&all) && (step == 1 || all == whole), "{step}");
        }
    }

    #[test]
    fn a_log_that_was_turned_over_goes_on_by_time() {
        let log = log(200);
        let mut lines = Lines::new(true, None);
        let given = lines.add(log[..100].concat().as_bytes());
        let place = Place::parse(&given.id.expect("an id")).expect("an id");
        // the first fifty are gone
        let mut next = Lines::new(true, Some(place));
        let text = next.add(log[50..].concat().as_bytes()).text;
        let newest = place.newest;
        let expected: String =
            log[100..].iter().skip_while(|l| timed(l.as_bytes()).is_some_and(|(t, _)| t <= newest)).cloned().collect();
        assert_eq!(std::str::from_utf8(&text).expect("text"), expected);
    }

    #[test]
    fn what_is_no_id_is_none() {
        let good = "1767323045123456789.12.00000000000000ff";
        assert!(Place::parse(good).is_some());
        for bad in [
            "",
            "x",
            "1.2",
            "1.0.00000000000000ff",
            "-1.1.00000000000000ff",
            "1.1.ff",
            "1.1.00000000000000fg",
            "1.1.00000000000000ff.1",
        ] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_line_without_end_does_not_fill_memory_and_has_no_id_before_its_end() {
        let mut lines = Lines::new(false, None);
        let begin = lines.add(b"2026-01-02T03:04:05.000000000Z ");
        assert_eq!((begin.text.len(), begin.id), (0, None));
        let long = lines.add(&vec![b'x'; 3 * LINE_MAX]);
        assert!(long.text.len() > 2 * LINE_MAX && long.id.is_none() && lines.cutter.held() <= LINE_MAX);
        let end = lines.add(b"\n");
        assert!(end.text.ends_with(b"x\n") && end.id.is_some());
    }
}
