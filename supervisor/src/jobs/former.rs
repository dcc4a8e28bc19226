//! Secrets that jobs of a stack were given before. A state still has the values of yesterday, and a plan shows what it changes them from: whoever
//! shows either has to know them, to take them out. They lie where no job can read or write, sealed with the stack's key.
//!
//! It must never give them to anything but a worker's redaction.

use super::durable;
use super::folder::{private, read};
use shared_proto::secret::Secret;
use shared_proto::states::{Head, Key};
use std::io;
use std::path::Path;

/// The folder, in the state directory.
const FOLDER: &str = "former";
/// So many values of a stack are remembered, the newest.
pub(super) const KEPT: usize = 64;
/// One that is longer is not remembered, bytes.
const VALUE_MAX: usize = 16 * 1024;
/// All of a stack's together, bytes.
const VALUES_MAX: usize = 64 * 1024;
/// The most that is read of a file, bytes: JSON may write a byte as six.
const FILE_MAX: u64 = 8 * VALUES_MAX as u64;

/// Values of one stack, newest first.
pub(super) type Values = Vec<Secret>;

/// What is remembered of a stack, with these as its newest, which are remembered from now on.
///
/// # Errors
/// The file system; what is there was sealed with another key.
pub(super) fn with(state_dir: &Path, stack_id: &str, key: &Key, newest: &[&str]) -> io::Result<Values> {
    let path = state_dir.join(FOLDER).join(stack_id);
    let before = known(&path, stack_id, key)?;
    let all = merged(newest, &before);
    if !all.iter().map(Secret::expose).eq(before.iter().map(Secret::expose)) {
        write(&path, stack_id, key, &all)?;
    }
    Ok(all)
}

fn merged(newest: &[&str], before: &Values) -> Values {
    let mut all = Values::new();
    let mut bytes = 0;
    let mut sorted = newest.to_vec();
    // the same ones are the same file
    sorted.sort_unstable();
    for value in sorted.into_iter().chain(before.iter().map(Secret::expose)) {
        let fits = value.len() <= VALUE_MAX && bytes + value.len() <= VALUES_MAX && all.len() < KEPT;
        if !value.is_empty() && fits && !all.iter().any(|known| known.expose() == value) {
            bytes += value.len();
            all.push(Secret::new(value.to_owned()));
        }
    }
    all
}

fn known(path: &Path, stack_id: &str, key: &Key) -> io::Result<Values> {
    let Some(file) = read(path, FILE_MAX)? else { return Ok(Values::new()) };
    let (_, content) = key.open(stack_id, 0, file).map_err(|e| io::Error::other(format!("{}: {e}", path.display())))?;
    let all: Vec<String> = serde_json::from_slice(&content)?;
    Ok(all.into_iter().map(Secret::new).collect())
}

fn write(path: &Path, stack_id: &str, key: &Key, all: &Values) -> io::Result<()> {
    let content = serde_json::to_vec(&all.iter().map(Secret::expose).collect::<Vec<_>>())?;
    let head = Head { key: key.fingerprint(), bytes: content.len() as u64, ..Head::default() };
    let (mut file, sealed) =
        key.seal(stack_id, &head, content).ok_or_else(|| io::Error::other("the stack's secrets cannot be sealed"))?;
    file.extend(sealed);
    if let Some(folder) = path.parent() {
        private(folder)?;
    }
    durable::replace(path, &file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(values: &Values) -> Vec<&str> {
        values.iter().map(Secret::expose).collect()
    }

    #[test]
    fn the_newest_come_first_and_what_is_too_much_is_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = Key::from_bytes(&[7; 32]).expect("a key");
        let with = |newest: &[&str]| super::with(folder.path(), "stk_1", &key, newest).expect("remembers");
        assert!(texts(&with(&[])).is_empty());
        assert_eq!(texts(&with(&["hunter2-one", "hunter2-else"])), ["hunter2-else", "hunter2-one"]);
        assert_eq!(texts(&with(&["hunter2-two", "hunter2-else"])), ["hunter2-else", "hunter2-two", "hunter2-one"]);
        assert_eq!(texts(&with(&[])), ["hunter2-else", "hunter2-two", "hunter2-one"]);
        let long = "x".repeat(VALUE_MAX + 1);
        assert_eq!(texts(&with(&[&long, ""])).len(), 3);
        for n in 0..KEPT {
            with(&[&format!("value-{n:04}")]);
        }
        let left = with(&[]);
        assert_eq!((left.len(), left[0].expose()), (KEPT, "value-0063"));
        assert!(!texts(&left).contains(&"hunter2-one"));
        let large = "y".repeat(VALUE_MAX);
        let some: Vec<_> = (0..8).map(|n| format!("{n}{}", &large[1..])).collect();
        assert_eq!(with(&some.iter().map(String::as_str).collect::<Vec<_>>()).len(), VALUES_MAX / VALUE_MAX);
    }

    #[test]
    fn they_lie_there_sealed_with_the_stacks_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let [key, other] = [7, 8].map(|byte| Key::from_bytes(&[byte; 32]).expect("a key"));
        super::with(folder.path(), "stk_1", &key, &["hunter2-hunter2"]).expect("remembers");
        let path = folder.path().join("former/stk_1");
        let file = std::fs::read(&path).expect("is there");
        assert!(!String::from_utf8_lossy(&file).contains("hunter2"));
        assert!(super::with(folder.path(), "stk_1", &other, &[]).is_err());
        std::fs::copy(&path, folder.path().join("former/stk_2")).expect("copies");
        assert!(super::with(folder.path(), "stk_2", &key, &[]).is_err());
    }
}
