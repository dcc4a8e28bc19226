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

/// How backends say that there is a lock of which they know nothing: that of HTTP by its status alone, the local one by the system's word, others
/// in a sentence. Whatever else keeps an engine from a lock (a refusal, an outage) is no lock.
const THERE_IS_ONE: [&str; 6] = [
    "already locked",
    "is locked",
    "resource temporarily unavailable",
    "because it is being used by another process",
    // S3, where who has it cannot be read: of its lock file, of DynamoDB
    "preconditionfailed",
    "conditionalcheckfailed",
];

/// Whether a diagnostic is of an engine that asked for the lock and did not get it.
pub(super) fn is_about(summary: &str) -> bool {
    summary == SUMMARY
}

/// The lock that a diagnostic tells of; one without an id is known to be there, and no more.
pub(super) fn in_diagnostic(summary: &str, detail: &str) -> Option<StateLock> {
    if !is_about(summary) {
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
    let message = detail.split("Lock Info:").next().unwrap_or_default().to_lowercase();
    let is_one = !lock.id.is_empty() || THERE_IS_ONE.iter().any(|words| message.contains(words));
    is_one.then_some(lock)
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
        for (says, is_one) in [
            ("Error message: HTTP remote state already locked, failed to unmarshal body", true),
            ("Error message: resource temporarily unavailable\n\nOpenTofu acquires a state lock", true),
            ("Error message: workspace is locked", true),
            ("Error message: operation error S3: PutObject, api error PreconditionFailed: At least one", true),
            ("Error message: operation error DynamoDB: PutItem, ConditionalCheckFailedException: The", true),
            // what is no lock at all
            ("Error message: HTTP remote state endpoint invalid auth\n\nOpenTofu acquires a state lock", false),
            ("Error message: Failed to lock: LOCK http://h/s giving up after 1 attempt(s)", false),
            ("Error message: operation error S3: PutObject, connection refused\nLock Info:\n", false),
            ("", false),
        ] {
            assert_eq!(in_diagnostic(SUMMARY, says), is_one.then(StateLock::default), "{says}");
        }
        let long = format!("Lock Info:\n  ID: 1\n  Who: {}\n", "x".repeat(PART_MAX + 1));
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
