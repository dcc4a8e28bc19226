//! The runner's own audit log, on the customer's machine, that nobody can quietly change. docs/audit.md describes it for people.
//!
//! ```text
//!  record ─▶ queue ─▶ one thread ─▶ audit-000001.jsonl ─▶ audit-000002.jsonl …      verify, tail: from the files alone
//!                         │          each line names the hash of the one before; seals are signed
//!                         └────────▶ collector (a file, syslog): dropped and counted where it is down
//! ```
//! What cannot be written refuses what it is about, or is counted ([`OnFailure`]). Nothing here may change a line that was written.

mod error;
mod files;
mod handle;
mod key;
mod line;
mod log;
mod open;
mod own;
mod playback;
mod recipient;
mod record;
pub mod recording;
mod report;
mod shelf;
mod sink;
mod tail;
mod untold;
mod verify;
mod whose;
mod writer;

pub use error::AuditError;
pub use handle::{
    Audit, FILE_MAX, FILE_MAX_LEAST, Health, OnFailure, Options, QUEUE_BYTES_MAX, QUEUE_MAX, Receipt, SEAL_AFTER,
    SEAL_RECORDS, Sealed, Stored, Wait,
};
pub use key::PublicKey;
pub use line::{Digest, LINE_MAX, Point};
pub use log::Keep;
pub use open::Found;
pub use own::Missing;
pub use record::{COMMAND_MAX, DETAIL_MAX, Decision, GROUPS_MAX, ID_MAX, Kind, NAME_MAX, Record, Redact};
pub use report::{Before, FINDINGS_MAX, Finding, Note, Noted, Report, What};
pub use shelf::{Shelf, Shelved};
pub use sink::Sink;
pub use tail::{Filter, Line, TAIL_MAX, Tail, lines_of, tail};
pub use verify::{Against, Target, verify};
pub use whose::{public_key, runner_of, runner_of_file};

/// The kinds of records that a log has, by their names: those of what was asked first, then the log's own.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    Kind::ALL.into_iter().map(Kind::as_str).chain(own::kind::ALL)
}

#[cfg(test)]
mod tests;
