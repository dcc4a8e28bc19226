//! The lines of a followed log over more than one connection: each once, in the order in which they came.
//!
//! Every line comes with its time, as the kubelet writes it, and is known by container, time and text. What was given out is remembered for
//! as long as a new connection may bring it again. Times need not rise from line to line: standard output and standard error are stamped
//! by two writers. This module must never hold back a line that was not given out yet, nor give one out twice that it still knows.

use shared_proto::lines::Cutter;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How far behind a container's newest line another one may have come late, nanoseconds.
const LATE: i128 = 1_000_000_000;
/// A connection begins anew at a whole second.
const SECOND: i128 = 1_000_000_000;
/// Lines of one container that are remembered, at most.
const REMEMBERED_MAX: usize = 1 << 18;
/// The longest line that is given out whole, bytes. A longer one comes in pieces, and from its start again where it is cut in the middle.
const LINE_MAX: usize = 1024 * 1024;
/// The longest time, bytes: RFC 3339 with nanoseconds and an offset.
const TIME_MAX: usize = 35;

/// A log that is followed.
#[derive(Debug)]
pub(crate) struct Lines {
    /// Lines carry their container's name in brackets before their time.
    prefixed: bool,
    /// Whether the time is given out.
    timestamps: bool,
    cutter: Cutter,
    /// The beginning of that line was given out, or held back, already.
    decided: Option<bool>,
    containers: HashMap<Vec<u8>, Container>,
}

/// One container's lines.
#[derive(Debug, Default)]
struct Container {
    /// The latest time of what was given out.
    newest: Option<i128>,
    /// Time and hash, in the order in which they were given out.
    given: VecDeque<(i128, u64)>,
    /// What a new connection brings again, and how often, until it has; and how many those are together.
    again: HashMap<u64, u32>,
    again_all: usize,
    /// What became of its last line, for what follows without a time.
    gives: bool,
}

// === impl Lines ===

impl Lines {
    /// For a log whose lines come with their times; `prefixed`: and with `[pod/POD/CONTAINER] ` before those. `timestamps`: whether the times
    /// are given out.
    pub(crate) fn new(prefixed: bool, timestamps: bool) -> Self {
        Self { prefixed, timestamps, cutter: Cutter::new(LINE_MAX), decided: None, containers: HashMap::new() }
    }

    /// What is to be given out of these bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut pieces = Vec::new();
        self.cutter.add(bytes, |piece| pieces.push(piece));
        for piece in pieces {
            self.flush(&piece, &mut out);
        }
        out
    }

    /// The log has ended: what is left of it.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(rest) = self.cutter.rest() {
            self.flush(&rest, &mut out);
        }
        out
    }

    /// Another connection follows: what it brings again is held back. Gives the time from which it is to begin, in RFC 3339; none where no
    /// line has come yet.
    pub(crate) fn resume(&mut self) -> Option<String> {
        // half a line comes again
        let _ = self.cutter.rest();
        // a long one that was cut in the middle comes again from its start; only a log without prefixes has such
        if self.decided.take() == Some(true)
            && let Some(only) = self.containers.get_mut(&b""[..])
        {
            only.given.pop_back();
        }
        let from = self.containers.values().filter_map(|c| c.newest.map(begin)).min()?;
        for container in self.containers.values_mut() {
            container.again.clear();
            for (_, hash) in container.given.iter().filter(|(time, _)| *time >= from) {
                *container.again.entry(*hash).or_default() += 1;
            }
            container.again_all = container.again.values().map(|count| *count as usize).sum();
        }
        OffsetDateTime::from_unix_timestamp_nanos(from).ok()?.format(&Rfc3339).ok()
    }

    fn flush(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let gives = match self.decided {
            Some(gives) => {
                out.extend_from_slice(if gives { line } else { b"" });
                gives
            }
            None => self.line(line, out),
        };
        self.decided = (!line.ends_with(b"\n")).then_some(gives);
    }

    /// Takes a line, or the beginning of a long one; whether it is given out.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let (prefix, rest) = match line.iter().position(|b| *b == b' ') {
            Some(at) if self.prefixed && line.starts_with(b"[") => line.split_at(at + 1),
            _ => (&line[..0], line),
        };
        if !self.containers.contains_key(prefix) {
            self.containers.insert(prefix.to_vec(), Container { gives: true, ..Container::default() });
        }
        let Some(container) = self.containers.get_mut(prefix) else { return true };
        match timed(rest) {
            // a remark, or what belongs to the line before
            None => out.extend_from_slice(if container.gives { line } else { b"" }),
            Some((time, text)) => {
                container.gives = container.take(time, rest);
                if container.gives {
                    out.extend_from_slice(prefix);
                    out.extend_from_slice(if self.timestamps { rest } else { text });
                }
            }
        }
        container.gives
    }
}

// === impl Container ===

impl Container {
    /// Whether a line of that time is to be given out; it is remembered then.
    fn take(&mut self, time: i128, line: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        line.hash(&mut hasher);
        let hash = hasher.finish();
        if self.again_all > 0 {
            if let Some(count) = self.again.get_mut(&hash).filter(|count| **count > 0) {
                (*count, self.again_all) = (*count - 1, self.again_all - 1);
                return false;
            }
            // a log only grows at its end: what comes before one that was given out was not wanted, or is not remembered
            if self.newest.is_some_and(|newest| time <= newest) {
                return false;
            }
            // what is missing has gone from the container's log
            self.again.clear();
            self.again_all = 0;
        }
        let newest = self.newest.map_or(time, |newest| newest.max(time));
        self.newest = Some(newest);
        self.given.push_back((time, hash));
        while self.given.len() > REMEMBERED_MAX || self.given.front().is_some_and(|(time, _)| *time < begin(newest)) {
            self.given.pop_front();
        }
        true
    }
}

/// Where a connection begins that goes on after that line.
fn begin(newest: i128) -> i128 {
    (newest - LATE).div_euclid(SECOND) * SECOND
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

    fn at(ms: u64) -> String {
        format!("2026-01-02T03:04:{:02}.{:03}000000Z", ms / 1000, ms % 1000)
    }
    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("text")
    }
    /// What an API server gives of the log from a time on.
    fn from(log: &[(u64, String)], since: &str) -> String {
        let since = OffsetDateTime::parse(since, &Rfc3339).expect("a time").unix_timestamp_nanos();
        let lines = log.iter().map(|(ms, text)| format!("{} {text}\n", at(*ms)));
        lines.filter(|line| timed(line.as_bytes()).expect("timed").0 >= since).collect()
    }

    #[test]
    fn each_line_comes_once_wherever_the_connection_is_cut() {
        // equal lines, equal times, times that fall back, an empty one
        let mut log = Vec::new();
        for n in 0..60_u64 {
            let ms = n * 97;
            log.push((ms, format!("line {}", n / 2)));
            log.push((ms, format!("line {}", n / 2)));
            log.push((ms.saturating_sub(400), if n % 7 == 0 { String::new() } else { format!("late {n}") }));
        }
        let expected: String = log.iter().map(|(_, text)| format!("{text}\n")).collect();
        let first = from(&log, &at(0));
        for cut in (0..first.len()).step_by(7) {
            let mut lines = Lines::new(false, false);
            let mut out = text(lines.add(&first.as_bytes()[..cut]));
            // and a second time, a little later
            let again = lines.resume().map_or_else(|| first.clone(), |since| from(&log, &since));
            out.push_str(&text(lines.add(&again.as_bytes()[..again.len().min(cut / 3)])));
            let again = lines.resume().map_or_else(|| first.clone(), |since| from(&log, &since));
            out.push_str(&text(lines.add(again.as_bytes())));
            out.push_str(&text(lines.rest()));
            assert_eq!(out, expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_was_not_wanted_at_first_does_not_come_with_a_new_connection() {
        let log: Vec<_> = (0..10).map(|n| (n * 100, format!("line {n}"))).collect();
        let mut lines = Lines::new(false, true);
        // as with --tail 1
        assert_eq!(text(lines.add(format!("{} line 6\n", at(600)).as_bytes())), format!("{} line 6\n", at(600)));
        let since = lines.resume().expect("a line has come");
        let came = text(lines.add(from(&log, &since).as_bytes()));
        assert_eq!(came, format!("{} line 7\n{} line 8\n{} line 9\n", at(700), at(800), at(900)));
    }

    #[test]
    fn what_has_gone_from_the_log_keeps_nothing_back() {
        let mut lines = Lines::new(false, false);
        lines.add(format!("{} a\n{} b\n", at(100), at(200)).as_bytes());
        lines.resume().expect("lines have come");
        assert_eq!(text(lines.add(format!("{} c\n{} d\n", at(5000), at(5000)).as_bytes())), "c\nd\n");
    }

    #[test]
    fn containers_are_told_apart() {
        let (a, b) = ("[pod/web/a] ", "[pod/web/b] ");
        let mut lines = Lines::new(true, false);
        let first = format!("{a}{} x\n{b}{} x\n[pod/web/c] is waiting\n", at(100), at(9000));
        assert_eq!(text(lines.add(first.as_bytes())), format!("{a}x\n{b}x\n[pod/web/c] is waiting\n"));
        // from the oldest of them
        assert_eq!(lines.resume().as_deref(), Some("2026-01-02T03:03:59Z"));
        let second = format!(
            "{b}{} before\n{a}{} x\n{b}{} x\n{a}{} y\n{b}{} y\n",
            at(50),
            at(100),
            at(9000),
            at(9100),
            at(9100)
        );
        assert_eq!(text(lines.add(second.as_bytes())), format!("{a}y\n{b}y\n"));
    }

    #[test]
    fn a_long_line_is_cut_at_the_same_place_and_comes_anew_where_it_was_cut() {
        let long = format!("{} {}\n", at(500), "x".repeat(2 * LINE_MAX));
        let (before, after) = (format!("{} before\n", at(400)), format!("{} after\n", at(600)));
        let all = format!("{before}{long}{after}");
        let shown = format!("before\n{}\nafter\n", "x".repeat(2 * LINE_MAX));
        let mut lines = Lines::new(false, false);
        let mut out = String::new();
        for piece in all.as_bytes().chunks(70_001) {
            out.push_str(&text(lines.add(piece)));
        }
        assert!(out == shown);
        lines.resume().expect("lines have come");
        assert_eq!(text(lines.add(all.as_bytes())), "");
        // cut in the middle of it
        let mut lines = Lines::new(false, false);
        let begun = text(lines.add(&all.as_bytes()[..before.len() + LINE_MAX + 10]));
        assert!(begun.starts_with("before\nx") && begun.len() < LINE_MAX + 10);
        lines.resume().expect("lines have come");
        assert!(text(lines.add(all.as_bytes())) == shown["before\n".len()..]);
    }
}
