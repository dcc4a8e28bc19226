//! What a store of states keeps its pieces in: a directory, which is this machine's. Another kind of place is another [`Place`].

use nix::libc;
use shared_proto::failure::{Code, Failure};
use shared_proto::states::{self, LOCK, LOCK_MAX, STATE_MAX, VERSIONS};
use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Held by the worker that serves the states of a stack, as long as it lives: a lock of the file (flock).
const CLAIM: &str = "serving";
/// How long a worker that has just ended may take to let go of it; and how often that is looked at.
const CLAIMED_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where a store's versions and its lock are. Whoever calls it is the only one that does.
pub(super) trait Place: Debug + Send {
    /// What it is called to people.
    fn shown(&self) -> String;
    /// What a thing in it is called to people, of that name in a directory.
    fn called(&self, name: &str) -> String {
        format!("{}/{name}", self.shown())
    }
    /// The largest state that it takes, bytes.
    fn largest(&self) -> usize {
        STATE_MAX
    }
    /// Whether somebody else was said to be gone, who had it, and it was taken over for that.
    fn freed(&self) -> bool {
        false
    }
    /// Whether whoever calls it is still the only one; in a directory nobody else can be.
    fn is_ours(&self) -> io::Result<()> {
        Ok(())
    }
    /// Gives it back: nothing is called after it.
    fn release(&self) {}
    /// The numbers of the versions that are there, in their order.
    fn numbers(&self) -> io::Result<Vec<u64>>;
    /// The first so many bytes of a version. None: it is not there.
    fn read(&self, number: u64, most: usize) -> io::Result<Option<Vec<u8>>>;
    /// Adds a version of two parts: it is there as a whole and for good when this returns, or not at all.
    fn add(&self, number: u64, parts: (&[u8], &[u8])) -> io::Result<()>;
    /// Waits until what is there is there for good.
    fn settle(&self) -> io::Result<()>;
    /// Removes a version.
    fn remove(&self, number: u64) -> io::Result<()>;
    /// The note of the lock. None: there is no lock.
    fn lock(&self) -> io::Result<Option<Vec<u8>>>;
    /// Writes it anew, or removes it; for good when this returns.
    fn set_lock(&self, note: Option<&[u8]>) -> io::Result<()>;
}

/// A folder of the stack's own.
#[derive(Debug)]
pub(super) struct Directory {
    folder: PathBuf,
    versions: PathBuf,
    /// Let go of when this goes, however it goes.
    _claim: File,
}

// === impl Directory ===

impl Directory {
    /// Claims the folder: nobody else has it as long as this lives.
    ///
    /// # Errors
    /// `busy` where somebody has it and does not let go; the file system.
    pub(super) fn claim(folder: &Path) -> Result<Self, Failure> {
        let claim = lock_folder(folder)?;
        let versions = folder.join(VERSIONS);
        crate::engine::private_folder(&versions)?;
        Ok(Self { folder: folder.to_owned(), versions, _claim: claim })
    }

    /// Puts its versions and the note of its lock out of the way, for good when this returns: they are elsewhere.
    pub(super) fn set_aside(&self) -> io::Result<()> {
        let aside = |name: &str| self.folder.join(format!("{name}.moved-{}", shared_proto::now_ms()));
        std::fs::rename(&self.versions, aside(VERSIONS))?;
        match std::fs::rename(self.folder.join(LOCK), aside(LOCK)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => File::open(&self.folder)?.sync_all(),
        }
    }

    fn version(&self, number: u64) -> PathBuf {
        self.versions.join(states::file_name(number))
    }
}

impl Place for Directory {
    fn shown(&self) -> String {
        self.folder.display().to_string()
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        numbers_in(&self.versions)
    }

    fn read(&self, number: u64, most: usize) -> io::Result<Option<Vec<u8>>> {
        read(&self.version(number), most)
    }

    fn add(&self, number: u64, parts: (&[u8], &[u8])) -> io::Result<()> {
        let path = self.version(number);
        if path.symlink_metadata().is_ok() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let new = self.versions.join(format!(".{}.new", states::file_name(number)));
        // one that a worker left which was killed
        let _ = std::fs::remove_file(&new);
        let written = plain().write(true).create_new(true).open(&new).and_then(|mut file| {
            file.write_all(parts.0)?;
            file.write_all(parts.1)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written.and_then(|()| self.settle())
    }

    fn settle(&self) -> io::Result<()> {
        for folder in [&self.versions, &self.folder] {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        std::fs::remove_file(self.version(number))
    }

    fn lock(&self) -> io::Result<Option<Vec<u8>>> {
        read(&self.folder.join(LOCK), LOCK_MAX)
    }

    fn set_lock(&self, note: Option<&[u8]>) -> io::Result<()> {
        let path = self.folder.join(LOCK);
        if let Some(note) = note {
            return shared_proto::file::write_whole(&path, note, 0o600);
        }
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        File::open(&self.folder)?.sync_all()
    }
}

/// The numbers of the versions that are in a folder, in their order.
pub(super) fn numbers_in(versions: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(versions)? {
        numbers.extend(entry?.file_name().to_str().and_then(states::number_of));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Locks a stack's folder: no other worker of this machine has it as long as what is given back lives. A worker that was killed has it no more.
///
/// # Errors
/// `busy` where somebody has it and does not let go; the file system.
fn lock_folder(folder: &Path) -> Result<File, Failure> {
    let failed = |e: io::Error| crate::stop::io_failure(Code::StateUnusable, format_args!("{}", folder.display()), &e);
    crate::engine::private_folder(folder)?;
    let claim = plain().write(true).create(true).open(folder.join(CLAIM)).map_err(failed)?;
    let start = Instant::now();
    loop {
        match claim.try_lock() {
            Ok(()) => return Ok(claim),
            Err(TryLockError::WouldBlock) if start.elapsed() < CLAIMED_MAX => std::thread::sleep(LOOK_EVERY),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another job of this runner is at the states in {}", folder.display());
                return Err(Code::Busy.on(message));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
}

/// The first so many bytes of a plain file, through no link. None: there is none.
pub(crate) fn read(path: &Path, most: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match plain().read(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file"));
    }
    let mut content = Vec::new();
    file.take(most as u64).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// For a file of this user alone, through no link.
fn plain() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options
}
