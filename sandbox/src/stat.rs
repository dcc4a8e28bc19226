//! What /proc/PID/stat says of a process.

use std::fs;

/// A process, as it was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// R, S, D, T, Z …
    pub state: u8,
    /// Its parent; 0: none that this process can see.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Clock ticks after boot.
    pub start_time: u64,
}

/// Looks at a process; `None` where it is gone.
pub fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(line: &[u8]) -> Option<Stat> {
    // the name stands in parentheses and may hold anything, those and bytes that are no text included
    let rest = std::str::from_utf8(&line[line.iter().rposition(|b| *b == b')')? + 1..]).ok()?;
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
    })
}

impl Stat {
    /// Whether it has ended, and only waits to be reaped.
    pub const fn dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_name_does_not_confuse() {
        let line = b"7 (a) b) (c\xff) S 1 2 3 0 -1 4 5 6 7 8 9 10 11 12 20 0 1 0 4242 99";
        let expected = Stat { state: b'S', parent: 1, group: 2, session: 3, start_time: 4242 };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(b"7 (a"), None);
        assert_eq!(parse(b""), None);
    }
}
