//! Who has the lock of a state, in the words in which an engine says that it could not have it:
//! <https://developer.hashicorp.com/terraform/language/state/locking>. They are somebody's own: of any length, and of no proof.

use crate::journal::cut;
use shared_proto::v1::StateLock;

/// The summary of that diagnostic.
const SUMMARY: &str = "Error acquiring the state lock";
/// Of each part, bytes.
const PART_MAX: usize = 1024;

/// The lock that a diagnostic tells of; one without an id is known to be there, and no more.
pub(super) fn in_diagnostic(summary: &str, detail: &str) -> Option<StateLock> {
    if summary != SUMMARY {
        return None;
    }
    let mut lock = StateLock::default();
    let info = detail.split_once("Lock Info:").map_or("", |(_, info)| info);
    for line in info.lines().skip(1).take_while(|line| line.starts_with("  ")) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let mut value = value.trim().to_owned();
        cut(&mut value, PART_MAX);
        match name.trim() {
            "ID" => lock.id = value,
            "Path" => lock.path = value,
            "Operation" => lock.operation = value,
            "Who" => lock.who = value,
            "Version" => lock.version = value,
            "Created" => (lock.created_ms, lock.created) = (moment_ms(&value).unwrap_or(0), value),
            _ => {}
        }
    }
    Some(lock)
}

/// A moment as Go prints one in UTC: `2026-01-31 10:00:00.123456 +0000 UTC`.
fn moment_ms(text: &str) -> Option<i64> {
    let mut words = text.split(' ');
    let (date, clock, offset) = (words.next()?, words.next()?, words.next()?);
    let numbers = |text: &str, by: char| -> Option<Vec<i64>> { text.split(by).map(|n| n.parse().ok()).collect() };
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let (date, clock) = (numbers(date, '-')?, numbers(whole, ':')?);
    let (&[year, month, day], &[hour, minute, second]) = (date.as_slice(), clock.as_slice()) else { return None };
    let valid = (1970..10_000).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if offset != "+0000" || !valid || hour > 23 || minute > 59 || second > 60 || !fraction.is_ascii() {
        return None;
    }
    // https://howardhinnant.github.io/date_algorithms.html#days_from_civil, for years from 1970 on
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let millis: i64 = format!("{:0<3.3}", fraction).parse().ok()?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DETAIL: &str = "Error message: resource temporarily unavailable\nLock Info:\n  ID:        5c1d-1\n  Path:      b/k.tfstate\n  \
        Operation: OperationTypeApply\n  Who:       ann@laptop\n  Version:   1.11.4\n  Created:   2026-11-28 14:00:01.5 +0000 UTC\n  \
        Info:      \n\n\nOpenTofu acquires a state lock to protect the state:\n  ID: another";

    #[test]
    fn the_holder_of_a_lock_is_read() {
        let lock = in_diagnostic(SUMMARY, DETAIL).expect("a lock");
        assert_eq!((lock.id.as_str(), lock.path.as_str(), lock.who.as_str()), ("5c1d-1", "b/k.tfstate", "ann@laptop"));
        assert_eq!((lock.operation.as_str(), lock.version.as_str()), ("OperationTypeApply", "1.11.4"));
        assert_eq!(lock.created_ms, 1_795_874_401_500);
        assert_eq!(in_diagnostic("Error releasing the state lock", DETAIL), None);
        assert_eq!(in_diagnostic(SUMMARY, "no more is said"), Some(StateLock::default()));
        let long = format!("Lock Info:\n  Who: {}\n", "x".repeat(PART_MAX + 1));
        assert!(
            in_diagnostic(SUMMARY, &long).is_some_and(|lock| lock.who.len() <= PART_MAX && lock.who.contains("[cut"))
        );
    }

    #[test]
    fn moments_are_read_as_they_are_printed() {
        for (text, expected) in [
            ("1970-01-01 00:00:00 +0000 UTC", Some(0)),
            ("2000-02-29 12:00:00.123456789 +0000 UTC", Some(951_825_600_123)),
            ("2026-03-01 00:00:00.05 +0000 UTC", Some(1_772_323_200_050)),
            ("2026-03-01 00:00:00 +0100 CET", None),
            ("2026-13-01 00:00:00 +0000 UTC", None),
            ("2026-03-01", None),
            ("", None),
        ] {
            assert_eq!(moment_ms(text), expected, "{text}");
        }
    }
}
