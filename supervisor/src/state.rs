//! The state directory: whose it is, and the id of this instance.

use nix::fcntl::{Flock, FlockArg};
use shared_proto::failure::{Code, Failure};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

/// The state directory, held by this supervisor as long as this lives.
#[derive(Debug)]
pub struct State {
    /// The instance's id.
    pub instance: Arc<str>,
    /// New at each start: tells this process from another one that has a copy of the instance's id.
    pub incarnation: Arc<str>,
    _lock: Flock<File>,
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
        let file = private().create(true).open(path.join("lock")).map_err(unusable)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(Code::InstanceConflict.on(format!("another runner uses the state directory {shown}")));
            }
            Err((_, e)) => return Err(unusable(e.into())),
        };
        let instance = instance(path).map_err(unusable)?;
        let incarnation = random_id().map_err(unusable)?;
        Ok(Self { instance: instance.into(), incarnation: incarnation.into(), _lock: lock })
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

fn private() -> std::fs::OpenOptions {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Reads the id, or makes one; whole on disk or not there.
fn instance(folder: &Path) -> io::Result<String> {
    let path = folder.join("instance");
    match File::open(&path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(256).read_to_string(&mut text)?;
            let id = text.trim();
            uuid::Uuid::try_parse(id).map_err(|_| {
                io::Error::other(format!("{} does not hold an instance's id; remove it", path.display()))
            })?;
            Ok(id.to_owned())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let id = random_id()?;
            let partial = folder.join("instance.new");
            let mut file = private().create(true).truncate(true).open(&partial)?;
            file.write_all(format!("{id}\n").as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&partial, &path)?;
            File::open(folder)?.sync_all()?;
            Ok(id)
        }
        Err(e) => Err(e),
    }
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
}
