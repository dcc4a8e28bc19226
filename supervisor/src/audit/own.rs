//! What the log says of itself: the members of its own kinds of records.

use super::line::{self, Digest};
use serde::{Deserialize, Serialize};

/// The version of the log's form.
pub(super) const FORMAT: u32 = 1;
/// The longest text of a reason, bytes.
const WHY_MAX: usize = 256;

/// The kinds of the log's own records.
pub(super) mod kind {
    /// The first record of the first file; elsewhere: the key changes. Signed, by the key before where there is one.
    pub(in super::super) const KEY: &str = "key";
    /// The first record of every other file. Signed.
    pub(in super::super) const ROTATED: &str = "rotated";
    /// Everything up to here is signed.
    pub(in super::super) const SEAL: &str = "seal";
    /// Old files are removed after this. Signed.
    pub(in super::super) const REMOVED: &str = "removed";
    /// A runner has begun to write.
    pub(in super::super) const STARTED: &str = "started";
    /// It has ended by itself.
    pub(in super::super) const STOPPED: &str = "stopped";
    /// A torn end was cut off.
    pub(in super::super) const CUT: &str = "cut";
    /// Records could not be written.
    pub(in super::super) const MISSING: &str = "missing";
    /// The disk did not confirm records.
    pub(in super::super) const UNSYNCED: &str = "unsynced";
    /// A collector did not get records.
    pub(in super::super) const DROPPED: &str = "dropped";
    /// Somebody changed the log.
    pub(in super::super) const DAMAGED: &str = "damaged";

    /// Every one.
    pub(in super::super) const ALL: [&str; 11] =
        [KEY, ROTATED, SEAL, REMOVED, STARTED, STOPPED, CUT, MISSING, UNSYNCED, DROPPED, DAMAGED];

    /// Whether a record of that kind must be signed.
    pub(in super::super) fn is_signed(kind: &[u8]) -> bool {
        [KEY, ROTATED, SEAL, REMOVED].iter().any(|k| k.as_bytes() == kind)
    }
}

/// The first record of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FileStart {
    pub(super) format: u32,
    /// The file's number.
    pub(super) file: u64,
    /// Why it was begun.
    pub(super) reason: String,
    /// Whose log it is.
    pub(super) runner: String,
    /// The key that signs, base64 of its DER form.
    pub(super) key: String,
    pub(super) fingerprint: Digest,
}

/// The key changes: what comes after is signed by this one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeyChange {
    pub(super) key: String,
    pub(super) fingerprint: Digest,
    /// The fingerprint of the key before, which signs this.
    pub(super) before: Digest,
}

/// Somebody has begun, or ended, to write.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Life {
    pub(super) instance: String,
    pub(super) version: String,
}

/// What is signed: this and everything before it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Seal {
    pub(super) reason: String,
    /// How many records since the seal before, this one not counted.
    pub(super) records: u64,
}

/// What was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cut {
    /// From which file, by number.
    pub(super) file: u64,
    /// At which byte.
    pub(super) offset: u64,
    /// How many bytes.
    pub(super) bytes: u64,
    /// Their SHA-256.
    pub(super) sha256: Digest,
    /// The file that they are kept in.
    pub(super) kept: String,
}

/// What is removed by retention.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Removed {
    /// The first and the last file, by number.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: u64,
    /// The last record that was in them.
    pub(super) last_seq: u64,
    pub(super) last_hash: Digest,
}

/// What could not be written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Missing {
    /// Records of what went on all the same.
    pub(super) lost: u64,
    /// Records of what was refused because of that.
    pub(super) refused: u64,
    /// When the first of them was lost.
    pub(super) since: String,
    /// Why the last one was.
    pub(super) why: String,
}

// === impl Missing ===

impl Missing {
    /// That many more, from now.
    pub fn add(&mut self, lost: u64, refused: u64, why: &impl ToString) {
        if self.is_nothing() {
            self.since = line::show(&line::now());
        }
        (self.lost, self.refused) = (self.lost.saturating_add(lost), self.refused.saturating_add(refused));
        self.why = self::why(why);
    }
    /// What was missing elsewhere.
    pub(super) fn merge(&mut self, other: Self) {
        let since = if self.is_nothing() || other.since < self.since { other.since } else { self.since.clone() };
        let (lost, refused) = (self.lost.saturating_add(other.lost), self.refused.saturating_add(other.refused));
        *self = Self { lost, refused, since, why: other.why };
    }
    /// Whether there is nothing.
    pub const fn is_nothing(&self) -> bool {
        self.lost == 0 && self.refused == 0
    }
}

/// What the disk did not confirm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Unsynced {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) why: String,
}

/// What a collector did not get.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Dropped {
    pub(super) collector: String,
    pub(super) records: u64,
}

/// What somebody changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Damaged {
    pub(super) file: u64,
    /// Which line; nothing where it is the file as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<u64>,
    pub(super) what: String,
}

/// A reason that fits into a record.
pub(super) fn why(text: &impl ToString) -> String {
    let mut text = text.to_string();
    text.truncate(text.floor_char_boundary(WHY_MAX));
    text
}
