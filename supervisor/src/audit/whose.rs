//! Whose a log is, by what lies there: no runner is needed for it, and nothing is made.

use super::error::AuditError;
use super::files::{self, Lines};
use super::key::{Key, PublicKey};
use super::own::FileStart;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

/// The public half of the key of the log in that folder, whether or not a runner writes it now.
///
/// # Errors
/// There is no log; the key cannot be read.
pub fn public_key(folder: &Path) -> Result<PublicKey, AuditError> {
    last(folder)?;
    Key::read(&folder.join("key")).map(|key| key.public())
}

/// The id of the runner whose log that is, as its last file has it.
///
/// # Errors
/// There is no log; it cannot be read, or does not begin as one does.
pub fn runner_of(folder: &Path) -> Result<String, AuditError> {
    runner_of_file(&files::path_of(folder, last(folder)?))
}

/// The same of a file.
///
/// # Errors
/// It cannot be read, or does not begin as one of a log does.
pub fn runner_of_file(path: &Path) -> Result<String, AuditError> {
    let file = File::open(path).map_err(AuditError::file(path))?;
    let mut lines = Lines::new(BufReader::new(file), 0);
    let first = lines.next().map_err(AuditError::file(path))?;
    let start: Option<FileStart> = first.and_then(|raw| serde_json::from_slice(raw.bytes).ok());
    let none = || AuditError::file(path)(io::Error::other("its first record does not say whose log it is"));
    start.map(|start| start.runner).ok_or_else(none)
}

fn last(folder: &Path) -> Result<u64, AuditError> {
    files::list_of_log(folder)?.last().copied().ok_or_else(|| AuditError::NoLog(folder.to_owned()))
}
