//! What the log lacks and could not say yet, in a file beside it whose place on the disk is taken while there is room: it is written over where
//! it is, so that neither a full disk nor the end of the process takes the count as well. It must never be taken for the log: nobody signs it,
//! and what it says counts until the log itself has said it. Where a kill comes between the two, the log says it twice.

use super::own::Missing;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The file, in the log's folder.
const FILE: &str = "untold";
/// Its length, bytes: JSON, and spaces behind it.
const LENGTH: usize = 1024;

/// The file. None: it could not be had, and what is missing is known until the process ends.
#[derive(Debug)]
pub(super) struct Untold {
    file: Option<File>,
    /// Whether something stands in it.
    noted: bool,
}

// === impl Untold ===

impl Untold {
    /// Opens it, with what stands in it. The log has to be this process's.
    pub(super) fn open(folder: &Path) -> (Self, Missing) {
        let taken = || -> io::Result<(File, Missing)> {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
                .open(folder.join(FILE))?;
            let mut text = vec![0; LENGTH];
            let read = file.read_at(&mut text, 0)?;
            if read < LENGTH {
                file.write_all_at(&[b' '; LENGTH], 0)?;
                file.sync_all()?;
            }
            // what is no such text says nothing
            Ok((file, serde_json::from_slice(&text[..read]).unwrap_or_default()))
        };
        let (file, missing) = taken().map_or((None, Missing::default()), |(file, missing)| (Some(file), missing));
        (Self { file, noted: !missing.is_nothing() }, missing)
    }

    /// Writes down what is missing by now.
    pub(super) fn note(&mut self, missing: &Missing) {
        // of numbers and texts: nothing there could fail
        let json = |missing: &Missing| serde_json::to_vec(missing).unwrap_or_default();
        let mut text = json(missing);
        if text.len() > LENGTH {
            text = json(&Missing { why: String::new(), ..missing.clone() });
        }
        text.resize(LENGTH, b' ');
        self.put(&text);
        self.noted = true;
    }

    /// The log says it.
    pub(super) fn told(&mut self) {
        if std::mem::take(&mut self.noted) {
            self.put(&[b' '; LENGTH]);
        }
    }

    fn put(&self, text: &[u8]) {
        // what the disk does not take either is known until the process ends
        let _ = self.file.as_ref().map(|file| file.write_all_at(text, 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_there_until_it_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut untold, before) = Untold::open(folder.path());
        assert!(before.is_nothing());
        let mut missing = Missing::default();
        missing.add(2, 0, &"a disk");
        untold.note(&missing);
        // a reason that does not fit is left out, and the count is not
        missing.add(1, 3, &"\u{1}".repeat(512));
        untold.note(&missing);
        let (mut next, before) = Untold::open(folder.path());
        assert_eq!((before.lost, before.refused, before.since.as_str()), (3, 3, missing.since.as_str()));
        next.told();
        assert!(Untold::open(folder.path()).1.is_nothing());
        assert_eq!(std::fs::metadata(folder.path().join(FILE)).expect("there").len(), LENGTH as u64);
    }

    #[test]
    fn what_somebody_wrote_there_says_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        for text in ["", "no JSON", "{\"lost\":-1}", &"x".repeat(3 * LENGTH)] {
            std::fs::write(folder.path().join(FILE), text).expect("writes");
            assert!(Untold::open(folder.path()).1.is_nothing(), "{text}");
        }
        std::fs::remove_file(folder.path().join(FILE)).expect("removes");
        let another = folder.path().join("another");
        std::fs::write(&another, "kept").expect("writes");
        std::os::unix::fs::symlink(&another, folder.path().join(FILE)).expect("links");
        let (mut untold, _) = Untold::open(folder.path());
        untold.note(&Missing { lost: 1, ..Missing::default() });
        assert_eq!(std::fs::read(&another).expect("reads"), b"kept");
    }
}
