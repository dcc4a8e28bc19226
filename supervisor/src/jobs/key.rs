//! The key with which the states of stacks are sealed that have no backend: made once, at first need, in the state directory; or that of a file
//! which the configuration names, and which is never made here. A job's worker is told that of its own stack, which is made of it; nobody else
//! is told anything.

use super::durable;
use super::folder::{broken, read};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use shared_proto::states::{Key, ROOT, Root};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The most that is read of its file, bytes.
const FILE_MAX: u64 = 256;

/// The key of a stack's states. `named`: the file that the configuration names, if it names one.
///
/// # Errors
/// `state_unusable`: what is there is no key; the file system.
pub(super) fn of_stack(state_dir: &Path, named: Option<&Path>, stack_id: &str) -> Result<Key, Failure> {
    let path = state_dir.join(ROOT);
    if named.is_none() && !path.exists() {
        make(state_dir, &path).map_err(|e| broken(&path, &e))?;
    }
    existing(state_dir, named, stack_id)
}

/// The same, where there is one: none is made.
///
/// # Errors
/// Those of [`of_stack`].
pub(super) fn existing(state_dir: &Path, named: Option<&Path>, stack_id: &str) -> Result<Key, Failure> {
    if let Some(path) = named {
        return of_file(path).map(|root| root.of_stack(stack_id));
    }
    let path = state_dir.join(ROOT);
    let failed = |e: io::Error| broken(&path, &e);
    let text = read(&path, FILE_MAX).map_err(failed)?.unwrap_or_default();
    let root = std::str::from_utf8(&text).ok().and_then(Root::from_text).ok_or_else(|| {
        let next = format!("Put the file back from a back-up of the state directory: what is sealed opens with no other. Where there is none, remove {ROOT}, and with it all states in stacks/.");
        Code::StateUnusable.on(format!("{} is no key", path.display())).next(next)
    })?;
    Ok(root.of_stack(stack_id))
}

/// The key of a file that somebody else keeps: it may be a link, as those of Kubernetes' volumes are.
fn of_file(path: &Path) -> Result<Root, Failure> {
    let failed = |what: &dyn std::fmt::Display| {
        Code::StateUnusable
            .on(format!("jobs.states.key_file: {}: {what}", path.display()))
            .next("Have the file there that all instances have which serve these states: 64 hexadecimal digits.")
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|e| failed(&e))?;
    let text = Secret::new(text);
    Root::from_text(text.expose()).ok_or_else(|| failed(&"it is no key"))
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
                .map(|_| scope.spawn(|| of_stack(folder.path(), None, "s1").expect("a key").bytes().to_vec()))
                .collect();
            all.into_iter().map(|one| one.join().expect("ends")).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "each has the same");
        let path = folder.path().join(ROOT);
        assert_eq!(std::fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 1, "nothing else is left");
        assert_ne!(of_stack(folder.path(), None, "s2").expect("a key").bytes(), keys[0]);
        let whole = std::fs::read_to_string(&path).expect("reads");
        for wrong in ["", "nonsense", &whole[1..]] {
            std::fs::write(&path, wrong).expect("writes");
            let failure = of_stack(folder.path(), None, "s1").expect_err("no key");
            assert!(failure.code == Code::StateUnusable && failure.message.contains(ROOT), "{failure}");
            assert!(!failure.to_string().contains(&whole[1..60]), "{failure}");
        }
    }

    #[test]
    fn one_that_is_named_is_taken_and_never_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, link) = (folder.path().join("key"), folder.path().join("link"));
        std::os::unix::fs::symlink(&path, &link).expect("links");
        let of = || of_stack(folder.path(), Some(&link), "s1");
        let failure = of().expect_err("there is none");
        assert!(failure.code == Code::StateUnusable && failure.message.contains("jobs.states.key_file"), "{failure}");
        assert!(!path.exists() && !folder.path().join(ROOT).exists());
        std::fs::write(&path, format!("{}\n", "0b".repeat(32))).expect("writes");
        let expected = Root::from_text(&"0b".repeat(32)).expect("a key").of_stack("s1");
        assert_eq!(of().expect("a key").bytes(), expected.bytes());
        std::fs::write(&path, "0b".repeat(31)).expect("writes");
        assert!(!of().expect_err("too short").to_string().contains("0b0b"));
        assert!(!folder.path().join(ROOT).exists(), "none is made beside it");
    }
}
