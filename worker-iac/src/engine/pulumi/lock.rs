//! Who has the lock of a stack, in the words in which Pulumi says that it could not have it: a line about all of them, then one for each.
//! They are somebody's own: of any length, and of no proof.

use crate::journal::cut;
use shared_proto::v1::StateLock;
use shared_proto::v1::event::Body;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How that begins.
const LOCKED: &str = "the stack is currently locked by ";
/// Of each part, bytes.
const PART_MAX: usize = 1024;

/// The lock that a line tells of; one without an id is known to be there, and no more.
pub(super) fn of(body: &Body) -> Option<StateLock> {
    let text = match body {
        Body::OutputLine(line) => &line.text,
        Body::Diagnostic(said) => &said.summary,
        _ => return None,
    };
    if text.contains(LOCKED) {
        return Some(StateLock::default());
    }
    let (path, rest) = text.trim_start().split_once(": created by ")?;
    let (who, created) = rest.rsplit_once(" at ")?;
    let path = path.split('?').next().unwrap_or_default();
    let id = path.rsplit('/').next()?.strip_suffix(".json")?;
    let part = |text: &str| {
        let mut text = text.to_owned();
        cut(&mut text, PART_MAX);
        text
    };
    Some(StateLock {
        id: part(id),
        path: part(path),
        who: part(who),
        created: part(created),
        created_ms: moment_ms(created).unwrap_or(0),
        ..StateLock::default()
    })
}

fn moment_ms(text: &str) -> Option<i64> {
    let moment = OffsetDateTime::parse(text.trim(), &Rfc3339).ok()?;
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::output;

    #[test]
    fn the_holder_of_a_lock_is_read() {
        let first = "error: the stack is currently locked by 1 lock(s). Either wait for the other process(es) to end or delete the lock file with `pulumi cancel`.";
        assert_eq!(of(&output("stderr", first)), Some(StateLock::default()));
        let second = "  file:///s/.pulumi/locks/organization/shop/dev/c3089115-c042.json?no_tmp_dir=true: created by root@vm (pid 8885) at 2026-11-28T17:38:22Z";
        let lock = of(&output("stderr", second)).expect("a lock");
        assert_eq!((lock.id.as_str(), lock.who.as_str()), ("c3089115-c042", "root@vm (pid 8885)"));
        assert_eq!(lock.path, "file:///s/.pulumi/locks/organization/shop/dev/c3089115-c042.json");
        assert_eq!(lock.created_ms, 1_795_887_502_000);
        for other in ["", "x: created by y", "x: created by y at z", "error: the stack is locked"] {
            assert_eq!(of(&output("stderr", other)), None, "{other}");
        }
        let long = second.replace("root@vm", &"x".repeat(PART_MAX));
        assert!(of(&output("stderr", &long)).is_some_and(|lock| lock.who.len() <= PART_MAX));
    }
}
