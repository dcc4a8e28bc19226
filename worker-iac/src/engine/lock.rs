//! Who has the lock of a state, in the words in which an engine says that it could not have it:
//! <https://developer.hashicorp.com/terraform/language/state/locking>. They are somebody's own: of any length, and of no proof.

use crate::journal::cut;
use shared_proto::v1::StateLock;
use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

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
    const FORM: &[BorrowedFormatItem<'_>] =
        format_description!(version = 2, "[year]-[month]-[day] [hour]:[minute]:[second][optional [.[subsecond]]]");
    let (moment, _) = text.split_once(" +0000")?;
    let moment = PrimitiveDateTime::parse(moment, &FORM).ok()?.assume_utc();
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
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
            ("2026-03-01 -9223372036854775808:00:00 +0000 UTC", None),
            ("2026-03-01 00:9223372036854775807:00 +0000 UTC", None),
            ("", None),
        ] {
            assert_eq!(moment_ms(text), expected, "{text}");
        }
    }
}
