//! One line of the log, byte for byte; docs/audit.md gives the same for people.
//!
//! ```text
//! {"seq":N,"time":"T","kind":"K" FIELDS ,"prev":"P" [,"sig":"S"] ,"hash":"H"} "\n"
//!                                                  │            └ H is SHA-256 of all that stands before it in the line
//!                                                  └ S signs the SHA-256 of all that stands before it in the line
//! ```
//! Where everything is, is found from both ends of the line, so that checking one is hashing it and comparing bytes. JSON escapes every
//! quotation mark within a text: what looks like these members is these members.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::Write as _;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest line, bytes with its end. A record with every text at its limit and every character escaped is shorter.
pub const LINE_MAX: usize = 128 << 10;
/// Bytes of a time, as `2026-01-02T03:04:05.678Z`.
pub(super) const TIME: usize = 24;
/// Bytes of a hash as text.
const HASH: usize = 64;
/// Bytes of a signature as text.
const SIGNATURE: usize = 88;
/// The longest kind, bytes.
const KIND_MAX: usize = 32;

const SEQ: &[u8] = b"{\"seq\":";
const AT: &[u8] = b",\"time\":\"";
const KIND: &[u8] = b"\",\"kind\":\"";
const PREV: &[u8] = b",\"prev\":\"";
const SIG: &[u8] = b",\"sig\":\"";
const OWN: &[u8] = b",\"hash\":\"";
const END: &[u8] = b"\"}";

/// A SHA-256, kept as the 64 lower-case hexadecimal digits that stand in the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; HASH]);

/// A place in the chain: a record's number and its hash. Whoever knows one elsewhere can tell that nothing up to it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// The record's number; the first is 1.
    pub seq: u64,
    /// Its hash.
    pub hash: Digest,
}

/// A line taken apart. Nothing of it has been checked but where its members stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parsed<'a> {
    pub(super) seq: u64,
    pub(super) time: &'a [u8; TIME],
    pub(super) kind: &'a [u8],
    pub(super) prev: Digest,
    pub(super) signature: Option<&'a [u8; SIGNATURE]>,
    pub(super) hash: Digest,
    /// What the signature is about.
    pub(super) signed: &'a [u8],
    /// What the hash is about.
    pub(super) hashed: &'a [u8],
}

/// What a line is made of.
pub(super) struct Parts<'a> {
    pub(super) seq: u64,
    pub(super) time: [u8; TIME],
    pub(super) kind: &'a str,
    /// The members between kind and prev, each with a comma before it.
    pub(super) fields: &'a [u8],
    pub(super) prev: &'a Digest,
}

// === impl Digest ===

impl Digest {
    /// What the first record of all names as the hash before it.
    pub const NONE: Self = Self([b'0'; HASH]);

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_bytes(&Sha256::digest(bytes).into())
    }

    /// The digest that has these bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; HASH];
        for (two, byte) in text.chunks_exact_mut(2).zip(bytes) {
            two[0] = DIGITS[usize::from(byte >> 4)];
            two[1] = DIGITS[usize::from(byte & 15)];
        }
        Self(text)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        // digits alone, whoever made it
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    fn of_text(text: &[u8; HASH]) -> Option<Self> {
        text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(*text))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Digest {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes().try_into().map_err(|_| "a hash has 64 hexadecimal digits")?;
        Self::of_text(digits).ok_or("a hash has lower-case hexadecimal digits alone")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

// === impl Point ===

impl Point {
    /// Before the first record.
    pub const START: Self = Self { seq: 0, hash: Digest::NONE };
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl FromStr for Point {
    type Err = &'static str;
    /// From `NUMBER:HASH`, as it is shown.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (seq, hash) = text.split_once(':').ok_or("a place in the log is NUMBER:HASH")?;
        Ok(Self { seq: seq.parse().map_err(|_| "the number before the colon is no record's")?, hash: hash.parse()? })
    }
}

// === lines ===

/// Appends a line and gives its hash. `sign` is asked for the signature of a digest, for the kinds that have one.
pub(super) fn build<F>(out: &mut Vec<u8>, parts: &Parts<'_>, sign: Option<F>) -> Digest
where
    F: FnOnce(u64, &Digest) -> String,
{
    let start = out.len();
    out.extend_from_slice(SEQ);
    // into a Vec: there is nothing that could fail
    let _ = write!(out, "{}", parts.seq);
    for piece in [AT, &parts.time, KIND, parts.kind.as_bytes(), b"\"", parts.fields, PREV, &parts.prev.0, b"\""] {
        out.extend_from_slice(piece);
    }
    if let Some(sign) = sign {
        let signature = sign(parts.seq, &Digest::of(&out[start..]));
        for piece in [SIG, signature.as_bytes(), b"\""] {
            out.extend_from_slice(piece);
        }
    }
    let hash = Digest::of(&out[start..]);
    for piece in [OWN, &hash.0, END, b"\n"] {
        out.extend_from_slice(piece);
    }
    hash
}

/// Takes a line apart that is given without its end; or says what is not as in any line of this log.
pub(super) fn parse(line: &[u8]) -> Result<Parsed<'_>, &'static str> {
    let rest = line.strip_prefix(SEQ).ok_or("it does not start with its number")?;
    let digits = rest.iter().take(20).take_while(|b| b.is_ascii_digit()).count();
    let (number, rest) = rest.split_at(digits);
    if number.first() == Some(&b'0') {
        return Err("its number is none");
    }
    let seq = std::str::from_utf8(number).ok().and_then(|n| n.parse().ok()).ok_or("its number is none")?;
    let rest = rest.strip_prefix(AT).ok_or("its time is missing")?;
    let (time, rest) = rest.split_first_chunk::<TIME>().filter(|(t, _)| is_time(t)).ok_or("its time is none")?;
    let rest = rest.strip_prefix(KIND).ok_or("its kind is missing")?;
    let end = rest.iter().take(KIND_MAX + 1).position(|b| !matches!(b, b'a'..=b'z' | b'_'));
    let kind = end.filter(|end| *end > 0 && rest[*end] == b'"').map(|end| &rest[..end]).ok_or("its kind is none")?;
    let fields = line.len() - rest.len() + kind.len() + 1;

    let before = line.strip_suffix(END).ok_or("it does not end with its hash")?;
    let (before, hash) = text_at_end::<HASH>(before, OWN).ok_or("it does not end with its hash")?;
    let hash = Digest::of_text(hash).ok_or("its hash is none")?;
    let hashed = before;
    let signature = hashed.strip_suffix(b"\"").and_then(|h| text_at_end::<SIGNATURE>(h, SIG));
    let (signed, signature) = signature.map_or((hashed, None), |(signed, signature)| (signed, Some(signature)));
    let prev = signed.strip_suffix(b"\"").and_then(|p| text_at_end::<HASH>(p, PREV));
    let (before, prev) = prev.ok_or("the hash before it is missing")?;
    let prev = Digest::of_text(prev).ok_or("the hash before it is none")?;
    if before.len() < fields {
        return Err("its members overlap");
    }
    Ok(Parsed { seq, time, kind, prev, signature, hash, signed, hashed })
}

/// The text of that length at the end, and what is before the name of its member.
fn text_at_end<'a, const N: usize>(bytes: &'a [u8], name: &[u8]) -> Option<(&'a [u8], &'a [u8; N])> {
    let (before, text) = bytes.split_last_chunk::<N>()?;
    Some((before.strip_suffix(name)?, text)).filter(|(_, text)| !text.contains(&b'"'))
}

fn is_time(time: &[u8; TIME]) -> bool {
    time.iter().zip(b"0000-00-00T00:00:00.000Z").all(|(is, like)| match like {
        b'0' => is.is_ascii_digit(),
        _ => is == like,
    })
}

/// A time as it stands in the log: UTC, milliseconds. What is before 1970 or after 9999 is shown as the nearest that is not.
pub(super) fn time_text(at: SystemTime) -> [u8; TIME] {
    const LATEST: u64 = 253_402_300_799;
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().min(LATEST);
    let at = time::OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let numbers = [
        (0, 4, at.year().unsigned_abs()),
        (5, 2, u32::from(u8::from(at.month()))),
        (8, 2, u32::from(at.day())),
        (11, 2, u32::from(at.hour())),
        (14, 2, u32::from(at.minute())),
        (17, 2, u32::from(at.second())),
        (20, 3, since.subsec_millis()),
    ];
    for (start, width, mut number) in numbers {
        for digit in text[start..start + width].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
    text
}

/// That time, now.
pub(super) fn now() -> [u8; TIME] {
    time_text(SystemTime::now())
}

/// A time of the log as text.
pub(super) fn show(time: &[u8; TIME]) -> String {
    String::from_utf8_lossy(time).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    type Sign = fn(u64, &Digest) -> String;

    fn line(fields: &str, sign: Option<Sign>) -> Vec<u8> {
        let mut out = Vec::new();
        let parts = Parts { seq: 7, time: now(), kind: "decision", fields: fields.as_bytes(), prev: &Digest::NONE };
        build(&mut out, &parts, sign);
        assert_eq!(out.pop(), Some(b'\n'));
        out
    }

    #[test]
    fn a_line_is_taken_apart_as_it_was_put_together() {
        let sign: Sign = |_, _| "A".repeat(SIGNATURE);
        for fields in ["", ",\"a\":1", ",\"a\":\"\\\",\\\"sig\\\":\\\"\""] {
            for sign in [None, Some(sign)] {
                let line = line(fields, sign);
                let parsed = parse(&line).expect("parses");
                assert_eq!((parsed.seq, parsed.kind, parsed.prev), (7, &b"decision"[..], Digest::NONE));
                assert_eq!(parsed.signature.is_some(), sign.is_some());
                assert_eq!(Digest::of(parsed.hashed), parsed.hash);
                let text = String::from_utf8(line).expect("text");
                assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
            }
        }
    }

    #[test]
    fn what_is_not_such_a_line_is_refused() {
        let good = String::from_utf8(line(",\"a\":1", None)).expect("text");
        assert!(parse(good.as_bytes()).is_ok());
        for (from, to) in [
            ("{\"seq\":7", "{\"seq\":07"),
            ("{\"seq\":7", "{\"seq\":"),
            ("{\"seq\":7", "{\"seq\":99999999999999999999"),
            ("{\"seq\"", "{\"Seq\""),
            ("\"kind\":\"decision\"", "\"kind\":\"\""),
            ("\"kind\":\"decision\"", "\"kind\":\"Decision\""),
            ("Z\"", "z\""),
            ("\"prev\":\"0", "\"prev\":\"g"),
            ("\"}", "\" }"),
        ] {
            assert!(parse(good.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
        }
        for cut in 0..good.len() {
            assert!(parse(&good.as_bytes()[..cut]).is_err() && parse(&good.as_bytes()[good.len() - cut..]).is_err());
        }
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        let text = |seconds, millis: u32| show(&time_text(UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000)));
        assert_eq!(text(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(1_709_210_096, 7), "2024-02-29T12:34:56.007Z");
        assert_eq!(text(253_402_300_799, 999), "9999-12-31T23:59:59.999Z");
        assert_eq!(text(253_402_300_800, 1), "9999-12-31T23:59:59.001Z");
        assert_eq!(show(&time_text(UNIX_EPOCH - Duration::from_secs(1))), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_place_reads_back_as_it_is_shown() {
        let point = Point { seq: 12, hash: Digest::of(b"x") };
        assert_eq!(point.to_string().parse(), Ok(point));
        for bad in ["", "1", "1:", ":00", "x:00", "1:0G"] {
            assert!(bad.parse::<Point>().is_err(), "{bad}");
        }
        assert!("A".repeat(64).parse::<Digest>().is_err());
    }
}
