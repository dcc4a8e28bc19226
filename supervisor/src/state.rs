//! The state directory: whose it is, and the id of this instance.

use shared_proto::failure::{Code, Failure};
use shared_proto::file::write_whole;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one that has handed the lock on, or was killed, may take to let go of it; and how often that is looked at.
const LOCKED_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The state directory, held by this supervisor as long as this lives.
#[derive(Debug)]
pub struct State {
    /// The instance's id.
    pub instance: Arc<str>,
    /// New at each start: tells this process from another one that has a copy of the instance's id.
    pub incarnation: Arc<str>,
    /// Held as long as this lives, and as long as whoever it was handed on to has it. Nothing where the one before has it still.
    lock: Option<File>,
}

impl State {
    /// Makes it where it is missing, takes its lock, and reads or makes the instance's id.
    ///
    /// # Errors
    /// It cannot be used, or another supervisor uses it.
    pub fn take(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let unusable = |e: io::Error| Code::StateUnusable.on(format!("state directory {shown}: {e}"));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let lock = lock(path)?;
        let instance = instance(path).map_err(unusable)?;
        if made_elsewhere(path).map_err(unusable)? {
            return Err(copied(path, &instance));
        }
        let incarnation = random_id().map_err(unusable)?;
        Ok(Self { instance: instance.into(), incarnation: incarnation.into(), lock: Some(lock) })
    }

    /// The same where another process has the lock, and is going to hand it on: nothing is made or changed.
    ///
    /// # Errors
    /// It is not the state directory of an instance.
    pub fn follow(path: &Path) -> Result<Self, Failure> {
        let unusable = |e: io::Error| Code::StateUnusable.on(format!("state directory {}: {e}", path.display()));
        let instance = read_instance(path).map_err(unusable)?;
        let incarnation = random_id().map_err(unusable)?;
        Ok(Self { instance: instance.into(), incarnation: incarnation.into(), lock: None })
    }

    /// Which instance and directory this is, for who follows to compare: a copy has the same instance.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn whose(&self, path: &Path) -> Result<String, Failure> {
        let lock = match &self.lock {
            Some(lock) => lock.metadata(),
            None => std::fs::metadata(path.join("lock")),
        };
        let lock = lock.map_err(|e| Code::StateUnusable.on(format!("state directory {}: {e}", path.display())))?;
        Ok(format!("{} {} {}", self.instance, lock.dev(), lock.ino()))
    }

    /// Takes the lock that the process before has handed on.
    ///
    /// # Errors
    /// It is another directory's.
    pub fn take_over(&mut self, path: &Path, lock: File) -> Result<(), Failure> {
        let unusable = |e: io::Error| Code::StateUnusable.on(format!("state directory {}: {e}", path.display()));
        let (ours, theirs) =
            (std::fs::metadata(path.join("lock")).map_err(unusable)?, lock.metadata().map_err(unusable)?);
        if (ours.dev(), ours.ino()) != (theirs.dev(), theirs.ino()) {
            return Err(Code::InstanceConflict.on("state_dir is another one than that of the process before"));
        }
        self.lock = Some(lock);
        Ok(())
    }

    /// The lock, to hand it on.
    pub fn lock(&self) -> Option<BorrowedFd<'_>> {
        self.lock.as_ref().map(AsFd::as_fd)
    }

    /// Whether it can be used without the rights that only root has.
    ///
    /// # Errors
    /// It belongs to somebody else.
    pub fn is_ours(path: &Path) -> Result<(), Failure> {
        use nix::unistd::{AccessFlags, access};
        access(path, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).map_err(|e| {
            Code::StateUnusable.on(format!("state directory {}: {}", path.display(), io::Error::from(e))).next(
                "It must belong to the user that the runner runs as, with all that is in it, also where that is root.",
            )
        })
    }
}

/// Takes the lock of a state directory.
///
/// # Errors
/// Another process has it, and does not let go of it.
pub fn lock(path: &Path) -> Result<File, Failure> {
    let shown = path.display();
    let unusable = |e: io::Error| Code::StateUnusable.on(format!("state directory {shown}: {e}"));
    let file = private().create(true).open(path.join("lock")).map_err(unusable)?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCKED_MAX => std::thread::sleep(LOOK_EVERY),
            Err(TryLockError::WouldBlock) => {
                return Err(Code::InstanceConflict.on(format!("another runner uses the state directory {shown}")));
            }
            Err(TryLockError::Error(e)) => return Err(unusable(e)),
        }
    }
}

fn private() -> std::fs::OpenOptions {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn read_instance(folder: &Path) -> io::Result<String> {
    let path = folder.join("instance");
    let mut text = String::new();
    File::open(&path)?.take(256).read_to_string(&mut text)?;
    let id = text.trim();
    uuid::Uuid::try_parse(id)
        .map_err(|_| io::Error::other(format!("{} does not hold an instance's id; remove it", path.display())))?;
    Ok(id.to_owned())
}

/// Reads the id, or makes one; whole on disk or not there.
fn instance(folder: &Path) -> io::Result<String> {
    match read_instance(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let id = random_id()?;
            write_whole(&folder.join("instance"), format!("{id}\n").as_bytes(), 0o600)?;
            Ok(id)
        }
        read => read,
    }
}

/// The file that holds the id is known by what no copy of it has: its number and when it was made. Both, because some file systems give
/// others a new number with each mount; where one tells no such time, copies are not found out.
const PLACE: &str = "instance.place";

/// Whether the id was made in another folder than this, of which this is a copy: its processes are not ours, and may be another runner's.
/// Folders that were moved keep both, and so do copies of whole disks: of two of those the control plane takes one.
fn made_elsewhere(folder: &Path) -> io::Result<bool> {
    let file = std::fs::metadata(folder.join("instance"))?;
    let Ok(made) = file.created() else { return Ok(false) };
    let made = made.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let (number, made) = (file.ino().to_string(), made.to_string());
    let path = folder.join(PLACE);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let mut noted = text.split_whitespace();
            Ok(noted.next().is_some_and(|n| n != number) && noted.next().is_some_and(|m| m != made))
        }
        // new, or of a version that did not note it
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            write_whole(&path, format!("{number} {made}\n").as_bytes(), 0o600)?;
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

fn copied(folder: &Path, instance: &str) -> Failure {
    let shown = folder.display();
    Code::StateUnusable
        .on(format!(
            "state directory {shown} is a copy of that of instance {instance}: with both in use, a job could be run twice"
        ))
        .next(format!(
            "Where the original is used no more, remove {shown}/{PLACE}: this one goes on in its place. \
             Otherwise start with an empty state directory."
        ))
}

fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_supervisor_at_a_time_and_the_same_instance_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a/b");
        let first = State::take(&path).expect("takes");
        assert_eq!(State::take(&path).map_err(|f| f.code).err(), Some(Code::InstanceConflict));
        let (id, incarnation) = (first.instance.clone(), first.incarnation.clone());
        drop(first);
        let second = State::take(&path).expect("takes");
        assert_eq!(second.instance, id);
        assert_ne!(second.incarnation, incarnation);
        drop(second);
        std::fs::write(path.join("instance"), "nonsense").expect("writes");
        assert!(State::take(&path).is_err());
    }

    #[test]
    fn a_copy_is_refused_until_somebody_says_that_it_is_the_one_and_a_folder_that_was_moved_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved, copy) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        let id = State::take(&path).expect("takes").instance;
        if std::fs::metadata(path.join("instance")).expect("is there").created().is_err() {
            eprintln!("this file system does not say when a file was made: nothing can be told here");
            return;
        }
        std::fs::rename(&path, &moved).expect("moves");
        assert_eq!(State::take(&moved).expect("takes").instance, id);
        std::fs::create_dir(&copy).expect("makes");
        let made =
            |folder: &Path| std::fs::metadata(folder.join("instance")).and_then(|f| f.created()).expect("is told");
        // the kernel's time of files goes by its ticks: until it is another one
        while !copy.join("instance").exists() || made(&copy) == made(&moved) {
            let _ = std::fs::remove_file(copy.join("instance"));
            std::fs::copy(moved.join("instance"), copy.join("instance")).expect("copies");
        }
        std::fs::copy(moved.join(PLACE), copy.join(PLACE)).expect("copies");
        let refused = State::take(&copy).expect_err("a copy");
        assert!(refused.code == Code::StateUnusable && refused.next_step.contains(PLACE), "{refused}");
        assert_eq!(State::take(&moved).expect("takes").instance, id);
        std::fs::remove_file(copy.join(PLACE)).expect("removes");
        for _ in 0..2 {
            assert_eq!(State::take(&copy).expect("takes").instance, id);
        }
        // what an earlier version left, or somebody wrote, keeps nobody out
        std::fs::write(copy.join(PLACE), "").expect("writes");
        assert_eq!(State::take(&copy).expect("takes").instance, id);
    }

    #[test]
    fn who_follows_has_the_lock_once_it_is_handed_on() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(State::follow(folder.path()).is_err() && !folder.path().join("instance").exists());
        let first = State::take(folder.path()).expect("takes");
        let mut second = State::follow(folder.path()).expect("follows");
        assert!(
            second.instance == first.instance && second.incarnation != first.incarnation && second.lock().is_none()
        );
        assert_eq!(second.whose(folder.path()).expect("there"), first.whose(folder.path()).expect("there"));
        let handed = |state: &State| File::from(state.lock().expect("held").try_clone_to_owned().expect("a copy"));
        let elsewhere = tempfile::tempdir().expect("a folder");
        let other = State::take(elsewhere.path()).expect("takes");
        std::fs::copy(folder.path().join("instance"), elsewhere.path().join("instance")).expect("a copy");
        let copy = State::follow(elsewhere.path()).expect("follows");
        assert_ne!(copy.whose(elsewhere.path()).expect("there"), first.whose(folder.path()).expect("there"));
        let refused = second.take_over(folder.path(), handed(&other)).expect_err("another one's");
        assert_eq!(refused.code, Code::InstanceConflict);
        second.take_over(folder.path(), handed(&first)).expect("handed on");
        drop(first);
        assert!(State::take(folder.path()).is_err(), "it was free");
        drop(second);
        State::take(folder.path()).expect("free");
    }
}
