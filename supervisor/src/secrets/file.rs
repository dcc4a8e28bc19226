//! Files as secrets: regular ones below a folder of the configuration, wherever links lead inside of it, as Kubernetes mounts them.

use super::{OfStore, READ_WITHIN};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use shared_proto::secrets::{VALUE_MAX, field};
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The longest file that is read, bytes: of a JSON object one field may be meant.
const FILE_MAX: u64 = 4 * VALUE_MAX as u64;

/// Reads all of them; a failure comes with which of them it is.
pub(super) async fn read(folder: &Path, of: &OfStore<'_>) -> Result<Vec<Secret>, (usize, Failure)> {
    let mut values = Vec::with_capacity(of.reads.len());
    for (at, (_, reference)) in of.reads.iter().enumerate() {
        let (folder, path, key) = (folder.to_owned(), reference.path.clone(), reference.key.clone());
        // a file system may hang
        let reading = tokio::task::spawn_blocking(move || one(&folder, &path, &key));
        let read = match tokio::time::timeout(READ_WITHIN, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(e)) => Err(Code::Internal.on(format!("reading it: {e}"))),
            Err(_) => Err(Code::TargetUnreachable.on(format!("it was not read within {READ_WITHIN:?}"))),
        };
        values.push(read.map_err(|failure| (at, failure))?);
    }
    Ok(values)
}

fn one(folder: &Path, path: &str, key: &str) -> Result<Secret, Failure> {
    let wrong = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Code::TargetNotFound.on("there is no such file"),
        io::ErrorKind::PermissionDenied => Code::TargetForbidden
            .on("the runner's user may not read the file")
            .next("Give the runner's user the right to read it; it is to be nobody else's."),
        _ => Code::TargetFailed.on(format!("the file cannot be read: {e}")),
    };
    let found = below(folder, path).map_err(wrong)?;
    let found = found.ok_or_else(|| Code::SecretDenied.on("it leads out of the store's directory"))?;
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(found).map_err(wrong)?;
    if !file.metadata().map_err(wrong)?.is_file() {
        return Err(Code::TargetRefused.on("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Code::TooLarge.on(format!("the file is longer than {FILE_MAX} bytes")));
    }
    // whoever writes a file ends it with a line's end, which nobody means
    let meant = match bytes.strip_suffix(b"\n") {
        Some(line) if key.is_empty() => line.strip_suffix(b"\r").unwrap_or(line),
        _ => &bytes,
    };
    field(meant, key).map(Secret::new)
}

/// Where a path leads, links followed; `None`: out of the folder.
fn below(folder: &Path, path: &str) -> io::Result<Option<PathBuf>> {
    let root = std::fs::canonicalize(folder)?;
    let found = std::fs::canonicalize(root.join(path))?;
    Ok(Some(found).filter(|found| found.starts_with(&root)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_are_read_below_the_folder_and_nowhere_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["store/apps", "outside"] {
            std::fs::create_dir_all(at(name)).expect("makes");
        }
        let object = r#"{"user": "bob", "password": "hunter2-hunter2"}"#;
        for (name, text) in [
            ("store/apps/password", "hunter2-hunter2\n"),
            ("store/apps/two", "line one\r\nline two\r\n"),
            ("store/apps/object", object),
            ("outside/password", "not-for-anybody"),
        ] {
            std::fs::write(at(name), text).expect("writes");
        }
        // as Kubernetes mounts a Secret
        symlink("apps", at("store/..data")).expect("links");
        symlink("..data/password", at("store/mounted")).expect("links");
        symlink("../outside/password", at("store/way-out")).expect("links");
        symlink("../../outside", at("store/apps/folder-out")).expect("links");
        nix::unistd::mkfifo(&at("store/pipe"), nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
        let store = at("store");
        let read = |path: &str, key: &str| {
            one(&store, path, key).map(|value| value.expose().to_owned()).map_err(|failure| {
                assert!(!failure.to_string().contains("hunter2"), "{failure}");
                failure.code
            })
        };
        assert_eq!(read("apps/password", "").as_deref(), Ok("hunter2-hunter2"));
        assert_eq!(read("mounted", "").as_deref(), Ok("hunter2-hunter2"));
        assert_eq!(read("apps/two", "").as_deref(), Ok("line one\r\nline two"));
        assert_eq!(read("apps/object", "password").as_deref(), Ok("hunter2-hunter2"));
        for (path, key, code) in [
            ("apps/none", "", Code::TargetNotFound),
            ("apps/password/x", "", Code::TargetNotFound),
            ("apps/object", "none", Code::TargetNotFound),
            ("apps/password", "user", Code::TargetRefused),
            ("way-out", "", Code::SecretDenied),
            ("apps/folder-out/password", "", Code::SecretDenied),
            ("apps", "", Code::TargetRefused),
            ("pipe", "", Code::TargetRefused),
        ] {
            assert_eq!(read(path, key), Err(code), "{path} {key}");
        }
        let limit = FILE_MAX as usize;
        std::fs::write(at("store/long"), "x".repeat(VALUE_MAX)).expect("writes");
        assert!(read("long", "").is_ok());
        for length in [VALUE_MAX + 1, limit, limit + 1] {
            std::fs::write(at("store/long"), "x".repeat(length)).expect("writes");
            assert_eq!(read("long", ""), Err(Code::TooLarge), "{length}");
        }
    }
}
