//! One process at a time changes a directory that jobs read without asking: what it makes is somewhere else until it is whole, and has its
//! name by one rename.
//!
//! ```text
//! DIRECTORY/.lock          held by whose turn it is
//! DIRECTORY/.new, .gone    what is being made, or removed: nobody's, and cleared by the next
//! ```

use crate::config::Config;
use nix::fcntl::{Flock, FlockArg};
use shared_proto::failure::{Code, Failure};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// One process's turn.
pub(super) struct Turn {
    new: PathBuf,
    gone: PathBuf,
    _lock: Flock<File>,
}

// === impl Turn ===

impl Turn {
    /// Waits for its turn, and clears what another left that was killed.
    ///
    /// # Errors
    /// `state_unusable`.
    pub(super) fn begin(config: &Config, folder: &Path) -> Result<Self, Failure> {
        let failed = |e: io::Error| unusable(folder, &e);
        if folder.starts_with(&config.state_dir) {
            // before its first start too it is the runner's alone
            DirBuilder::new().recursive(true).mode(0o700).create(&config.state_dir).map_err(failed)?;
        }
        make_folder(folder).map_err(failed)?;
        let lock = OpenOptions::new().create(true).append(true).open(folder.join(".lock")).map_err(failed)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| failed(e.into()))?;
        let turn = Self { new: folder.join(".new"), gone: folder.join(".gone"), _lock: lock };
        turn.clear().map_err(failed)?;
        Ok(turn)
    }

    /// Where what is made is: there is nothing yet.
    pub(super) fn made(&self) -> &Path {
        &self.new
    }
    /// Where what is removed goes.
    pub(super) fn removed(&self) -> &Path {
        &self.gone
    }

    fn clear(&self) -> io::Result<()> {
        for path in [&self.new, &self.gone] {
            let removed = match path.is_dir() {
                true => std::fs::remove_dir_all(path),
                false => std::fs::remove_file(path),
            };
            match removed {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // what stays is cleared by the next
        let _ = self.clear();
    }
}

/// Waits for a name to be on disk.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// A folder that everybody may enter: jobs are other users.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// The system's refusal.
pub(super) fn unusable(path: &Path, error: &io::Error) -> Failure {
    Code::StateUnusable
        .on(format!("{}: {error}", path.display()))
        .next("Run it as the user who owns that directory, with room on its disk.")
}
