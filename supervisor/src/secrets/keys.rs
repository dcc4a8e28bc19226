//! The keys that variables are sealed to: made once, at first need, in the state directory, as text that the runner's user alone reads.
//! Older ones stay to open with. They must never be told to anybody; the public half of the newest is.

use shared_proto::failure::{Code, Failure};
use shared_proto::file::write_whole;
use shared_proto::sealed::{FILE, FILE_MAX, Keys, SealKey};
use shared_proto::secret::Secret;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// What came of a new key.
#[derive(Debug)]
pub struct Rotation {
    /// The one before; `None`: there was none.
    pub before: Option<SealKey>,
    /// The one that is told from now on.
    pub now: SealKey,
}

/// The keys; made where there are none.
///
/// # Errors
/// `state_unusable`: what is there is no file of keys; the file system.
pub(super) fn read(state_dir: &Path) -> Result<Keys, Failure> {
    match found(state_dir)? {
        Some(keys) => Ok(keys),
        None => with(state_dir, |found| match found {
            // another process was first
            Some(keys) => Ok((keys, false)),
            None => Ok((Keys::make()?, true)),
        }),
    }
}

/// The public half of the newest, which is made where there is none.
///
/// # Errors
/// As of [`read`].
pub fn public(state_dir: &Path) -> Result<SealKey, Failure> {
    read(state_dir)?.newest().ok_or_else(|| unusable(state_dir))
}

/// The public halves of those that there are, the newest last; makes none.
///
/// # Errors
/// As of [`read`].
pub fn existing(state_dir: &Path) -> Result<Vec<SealKey>, Failure> {
    Ok(found(state_dir)?.map(|keys| keys.public()).unwrap_or_default())
}

/// Makes a new one; those before stay to open with.
///
/// # Errors
/// As of [`read`].
pub fn rotate(state_dir: &Path) -> Result<Rotation, Failure> {
    let mut before = None;
    let keys = with(state_dir, |found| {
        before = found.as_ref().and_then(Keys::newest);
        let keys = match found {
            Some(keys) => keys.rotated()?,
            None => Keys::make()?,
        };
        Ok((keys, true))
    })?;
    Ok(Rotation { before, now: keys.newest().ok_or_else(|| unusable(state_dir))? })
}

/// Reads them, and writes them where they have changed; one process at a time.
fn with(
    state_dir: &Path,
    change: impl FnOnce(Option<Keys>) -> Result<(Keys, bool), getrandom::Error>,
) -> Result<Keys, Failure> {
    let path = state_dir.join(FILE);
    let failed = |e: io::Error| Code::StateUnusable.on(format!("{}: {e}", path.display()));
    // the file itself is replaced whole: its folder is what stays
    let folder = File::open(state_dir).map_err(failed)?;
    folder.lock().map_err(failed)?;
    let (keys, changed) = change(found(state_dir)?).map_err(|e| failed(io::Error::other(e.to_string())))?;
    if changed {
        write_whole(&path, keys.text().expose().as_bytes(), 0o600).map_err(failed)?;
    }
    Ok(keys)
}

fn found(state_dir: &Path) -> Result<Option<Keys>, Failure> {
    let path = state_dir.join(FILE);
    let mut text = String::new();
    let opened = OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits()).open(&path);
    let read = opened.and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text));
    // wiped with it
    let text = Secret::new(text);
    match read {
        Ok(_) => Keys::from_text(text.expose()).map(Some).ok_or_else(|| unusable(state_dir)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(unusable(state_dir)),
        Err(e) => Err(Code::StateUnusable.on(format!("{}: {e}", path.display()))),
    }
}

fn unusable(state_dir: &Path) -> Failure {
    let path = state_dir.join(FILE);
    let next = format!(
        "Put {FILE} back from a back-up of the state directory: what is sealed opens with no other. Where there is none, remove it, and seal \
         the variables again."
    );
    Code::StateUnusable.on(format!("{} holds no keys", path.display())).next(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn they_are_made_once_whoever_comes_first_and_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(existing(folder.path()), Ok(Vec::new()));
        let keys: Vec<SealKey> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| public(folder.path()).expect("a key"))).collect();
            all.into_iter().map(|one| one.join().expect("ends")).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "each has the same");
        assert_eq!(existing(folder.path()), Ok(vec![keys[0]]));
        let path = folder.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 1, "nothing else is left");
        let Rotation { before, now } = rotate(folder.path()).expect("rotates");
        assert!(before == Some(keys[0]) && now != keys[0] && public(folder.path()).expect("a key") == now);
        assert_eq!(read(folder.path()).expect("reads").public(), [keys[0], now]);
        let whole = std::fs::read_to_string(&path).expect("reads");
        for wrong in ["", "nonsense", &whole[1..]] {
            std::fs::write(&path, wrong).expect("writes");
            let failure = public(folder.path()).expect_err("no key");
            assert!(failure.code == Code::StateUnusable && failure.message.contains(FILE), "{failure}");
            assert!(!failure.to_string().contains(&whole[1..60]), "{failure}");
        }
    }
}
