//! The few ways in which a job's folder is changed. What says that it waits, has waited for the disk when it returns; the order in which
//! they are called is what docs/spool.md promises, and what the tests replay.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Makes a folder for this user alone. Its name is on disk once what it is in was waited for.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    #[cfg(test)]
    record::note(record::Change::Folder(path.to_owned()));
    Ok(())
}

/// Writes a new file and waits for its content.
pub(super) fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let file = create(path, content)?;
    file.sync_all()?;
    #[cfg(test)]
    record::note(record::Change::SyncFile(path.to_owned()));
    Ok(())
}

/// Writes a new file, and waits for nothing.
pub(super) fn create(path: &Path, content: &[u8]) -> io::Result<File> {
    let _ = std::fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    #[cfg(test)]
    record::note(record::Change::File(path.to_owned()));
    file.write_all(content)?;
    #[cfg(test)]
    record::note(record::Change::Write(path.to_owned(), 0, content.to_owned()));
    Ok(file)
}

/// Gives it that name.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    #[cfg(test)]
    record::note(record::Change::Rename(from.to_owned(), to.to_owned()));
    Ok(())
}

/// Puts a file in the place of what has that name: whoever looks finds the one or the other, whole. `sync_folder` waits for which.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    write_new(new, content)?;
    rename(new, path)
}

/// Waits for the names in a folder.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    #[cfg(test)]
    record::note(record::Change::SyncFolder(path.to_owned()));
    Ok(())
}

/// What was done, as data.
#[cfg(test)]
pub(super) mod record {
    use std::cell::RefCell;
    use std::path::PathBuf;

    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(in crate::jobs) enum Change {
        Folder(PathBuf),
        File(PathBuf),
        Write(PathBuf, u64, Vec<u8>),
        Cut(PathBuf, u64),
        Rename(PathBuf, PathBuf),
        SyncFile(PathBuf),
        SyncFolder(PathBuf),
    }

    thread_local! {
        static CHANGES: RefCell<Vec<Change>> = const { RefCell::new(Vec::new()) };
    }

    pub(in crate::jobs) fn note(change: Change) {
        CHANGES.with_borrow_mut(|changes| changes.push(change));
    }
    /// What this thread has done since it was asked last.
    pub(in crate::jobs) fn take() -> Vec<Change> {
        CHANGES.take()
    }
}
