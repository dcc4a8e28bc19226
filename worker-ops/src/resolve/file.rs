//! Reading the files that the configuration names: regular files, of a bounded size, each look at its own moment.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::unavailable;
use crate::fault::Fault;

/// The largest file that is read, bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// Reads a text; `what` says what it should have been.
pub(super) fn read(what: &str, path: &Path) -> Result<String, Fault> {
    String::from_utf8(read_bytes(what, path)?)
        .map_err(|_| unavailable(format!("{what} {}: it is no text", path.display())))
}

/// The same of what need not be a text.
pub(super) fn read_bytes(what: &str, path: &Path) -> Result<Vec<u8>, Fault> {
    let failed = |why: &str| unavailable(format!("{what} {}: {why}", path.display()));
    let file = open(path).map_err(|e| failed(&e.to_string()))?;
    let metadata = file.metadata().map_err(|e| failed(&e.to_string()))?;
    if !metadata.is_file() {
        return Err(failed("it is no regular file"));
    }
    let mut text = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut text).map_err(|e| failed(&e.to_string()))?;
    if text.len() as u64 > FILE_MAX {
        return Err(failed("it is larger than 1 MiB"));
    }
    Ok(text)
}

fn open(path: &Path) -> std::io::Result<File> {
    // a pipe or a device must not be waited for: it is refused by its kind
    OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_sane_size() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        let message = |path: &Path| read("the file", path).expect_err("refused").failure.message;
        assert!(message(&path).contains("No such file"));
        assert!(message(folder.path()).contains("no regular file"));
        assert!(message(Path::new("/dev/null")).contains("no regular file"));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
        assert!(message(&path).contains("no regular file"));
        let path = folder.path().join("g");
        std::fs::write(&path, vec![b'x'; 1024 * 1024]).expect("written");
        assert_eq!(read("the file", &path).expect("at the limit").len(), 1024 * 1024);
        std::fs::write(&path, vec![b'x'; 1024 * 1024 + 1]).expect("written");
        assert!(message(&path).contains("larger than 1 MiB"));
        std::fs::write(&path, b"\xff").expect("written");
        assert!(message(&path).contains("no text"));
    }
}
