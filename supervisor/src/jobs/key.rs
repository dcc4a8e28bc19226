//! The key with which the states of stacks are sealed that have no backend: made once, at first need, in the state directory. A job's worker is
//! told that of its own stack, which is made of it; nobody else is told anything.

use super::durable;
use super::folder::{broken, read};
use shared_proto::failure::{Code, Failure};
use shared_proto::states::{Key, ROOT, Root};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The most that is read of its file, bytes.
const FILE_MAX: u64 = 256;

/// The key of a stack's states.
///
/// # Errors
/// `state_unusable`: what is there is no key; the file system.
pub(super) fn of_stack(state_dir: &Path, stack_id: &str) -> Result<Key, Failure> {
    let path = state_dir.join(ROOT);
    let failed = |e: io::Error| broken(&path, &e);
    if !path.exists() {
        make(state_dir, &path).map_err(failed)?;
    }
    let text = read(&path, FILE_MAX).map_err(failed)?.unwrap_or_default();
    let root = std::str::from_utf8(&text).ok().and_then(Root::from_text).ok_or_else(|| {
        let next = format!("Put the file back from a back-up of the state directory: what is sealed opens with no other. Where there is none, remove {ROOT}, and with it all states in stacks/.");
        Code::StateUnusable.on(format!("{} is no key", path.display())).next(next)
    })?;
    Ok(root.of_stack(stack_id))
}

/// Makes one, unless another job of this process has meanwhile. Another process has none: of two supervisors one acts on jobs.
fn make(state_dir: &Path, path: &Path) -> io::Result<()> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if path.exists() {
        return Ok(());
    }
    let root = Root::make().map_err(|e| io::Error::other(e.to_string()))?;
    durable::replace(path, format!("{}\n", root.text().expose()).as_bytes())?;
    durable::sync_folder(state_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn one_is_made_once_whoever_comes_first_and_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| of_stack(folder.path(), "s1").expect("a key").bytes().to_vec()))
                .collect();
            all.into_iter().map(|one| one.join().expect("ends")).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "each has the same");
        let path = folder.path().join(ROOT);
        assert_eq!(std::fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 1, "nothing else is left");
        assert_ne!(of_stack(folder.path(), "s2").expect("a key").bytes(), keys[0]);
        let whole = std::fs::read_to_string(&path).expect("reads");
        for wrong in ["", "nonsense", &whole[1..]] {
            std::fs::write(&path, wrong).expect("writes");
            let failure = of_stack(folder.path(), "s1").expect_err("no key");
            assert!(failure.code == Code::StateUnusable && failure.message.contains(ROOT), "{failure}");
            assert!(!failure.to_string().contains(&whole[1..60]), "{failure}");
        }
    }
}
