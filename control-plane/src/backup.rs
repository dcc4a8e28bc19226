//! Back-up and restore of the data folder.
//!
//! ```text
//! BACKUP/backup.json        what is in it, each file with its digest; written last
//! BACKUP/data/…             the data folder: a copy of the database as it was at one moment, then CA, keys, token and archives
//! ```
//! The database comes first: an archive is whole on the disk before a job names it, and none is removed, so what the copy names is there. A
//! folder is either whole under its name or not there. All of it is secret: the CA's keys are in it.

use crate::store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared_proto::failure::Failure;
use shared_proto::now_ms;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

/// The database's file.
pub const DATABASE: &str = "control-plane.db";
/// What says what is in a back-up.
const MANIFEST: &str = "backup.json";
/// The largest one that is read, bytes: a million files.
const MANIFEST_MAX: u64 = 256 * 1024 * 1024;
const DATA: &str = "data";
/// What is of one process, or the database's and in its copy already.
const LEFT_OUT: [&str; 4] = ["lock", DATABASE, "control-plane.db-wal", "control-plane.db-shm"];

/// Why there is no back-up, or no data folder.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is something already.
    #[error("{0} is there already, and not empty; name a folder that is not")]
    Taken(PathBuf),
    /// It is no back-up, or not as it was written.
    #[error("{path} is not a whole back-up: {what}")]
    NotWhole {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The database.
    #[error(transparent)]
    Database(#[from] Failure),
    /// The restored database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    what: &'static str,
    folder: PathBuf,
    files: usize,
    bytes: u64,
    taken_at_ms: i64,
    /// Restored: jobs that had not ended.
    open: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    version: String,
    taken_at_ms: i64,
    files: Vec<Entry>,
}
#[derive(Serialize, Deserialize)]
struct Entry {
    /// Inside of `data`.
    path: String,
    size: u64,
    sha256: String,
}

/// A folder that is not whole yet; removed unless it becomes whole.
struct Partial(PathBuf);

// === impl Done ===

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, folder, files, bytes, taken_at_ms, open } = self;
        write!(f, "{what} {} ({files} files, {bytes} bytes, as of {taken_at_ms} ms)", folder.display())?;
        match open {
            None => Ok(()),
            Some(open) => write!(
                f,
                "; {open} jobs had not ended: their instances say what became of them; what was not begun then is not begun now"
            ),
        }
    }
}

/// Copies a data folder, of a control plane that runs or does not, into a new folder.
///
/// # Errors
/// [`BackupError`]; nothing is left then.
pub async fn back_up(data: &Path, to: &Path) -> Result<Done, BackupError> {
    vacant(to)?;
    let database = data.join(DATABASE);
    if !database.is_file() {
        let what = io::Error::new(io::ErrorKind::NotFound, "there is no database of a control plane");
        return Err(failed(&database)(what));
    }
    let partial = Partial::beside(to)?;
    let kept = partial.0.join(DATA);
    private(&kept)?;
    let taken_at_ms = now_ms();
    Store::copy(&database, &kept.join(DATABASE)).await?;
    let mut files = vec![Entry::of(&kept, Path::new(DATABASE))?];
    for path in inside(data)? {
        files.push(copy(data, &kept, &path)?);
    }
    let manifest = Manifest { format: 1, version: shared_proto::VERSION.to_owned(), taken_at_ms, files };
    let path = partial.0.join(MANIFEST);
    let text = serde_json::to_vec(&manifest).map_err(|e| failed(&path)(e.into()))?;
    write(&path, &mut text.as_slice()).map_err(failed(&path))?;
    let bytes = manifest.files.iter().map(|f| f.size).sum();
    partial.becomes(to)?;
    Ok(Done { what: "backed up to", folder: to.into(), files: manifest.files.len(), bytes, taken_at_ms, open: None })
}

/// Makes a data folder of a back-up, and marks its open jobs: they may have gone on after it.
///
/// # Errors
/// [`BackupError`]; nothing is left then.
pub async fn restore(from: &Path, data: &Path) -> Result<Done, BackupError> {
    vacant(data)?;
    let not_whole = |what: String| BackupError::NotWhole { path: from.into(), what };
    let path = from.join(MANIFEST);
    let mut text = Vec::new();
    let file = File::open(&path).map_err(failed(&path))?;
    file.take(MANIFEST_MAX).read_to_end(&mut text).map_err(failed(&path))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| not_whole(format!("{MANIFEST}: {e}")))?;
    if manifest.format != 1 {
        return Err(not_whole(format!("it is of format {}, written by version {}", manifest.format, manifest.version)));
    }
    if !manifest.files.iter().any(|f| f.path == DATABASE) {
        return Err(not_whole("it has no database".into()));
    }
    let partial = Partial::beside(data)?;
    for entry in &manifest.files {
        let path = Path::new(&entry.path);
        if !path.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(not_whole(format!("it names {:?}", entry.path)));
        }
        let copied = copy(&from.join(DATA), &partial.0, path)?;
        if (copied.size, &copied.sha256) != (entry.size, &entry.sha256) {
            return Err(not_whole(format!("{} is not as it was written", entry.path)));
        }
    }
    let store = Store::open(&partial.0.join(DATABASE)).await?;
    let open = store.mark_restored().await?;
    store.close().await;
    let bytes = manifest.files.iter().map(|f| f.size).sum();
    partial.becomes(data)?;
    Ok(Done {
        what: "restored to",
        folder: data.into(),
        files: manifest.files.len(),
        bytes,
        taken_at_ms: manifest.taken_at_ms,
        open: Some(open),
    })
}

// === impl Entry ===

impl Entry {
    fn of(folder: &Path, path: &Path) -> Result<Self, BackupError> {
        let file = folder.join(path);
        let mut content = File::open(&file).map_err(failed(&file))?;
        let (size, sha256) = pass(&mut content, &mut io::sink()).map_err(failed(&file))?;
        Ok(Self { path: path.display().to_string(), size, sha256 })
    }
}

// === impl Partial ===

impl Partial {
    /// Where `whole` is to be, on the same file system.
    fn beside(whole: &Path) -> Result<Self, BackupError> {
        let name = whole.file_name().unwrap_or_default().to_string_lossy();
        let path = whole.with_file_name(format!(".{name}.partial-{}", uuid::Uuid::now_v7().simple()));
        private(&path)?;
        Ok(Self(path))
    }
    fn becomes(self, whole: &Path) -> Result<(), BackupError> {
        for folder in folders(&self.0)? {
            File::open(&folder).and_then(|f| f.sync_all()).map_err(failed(&folder))?;
        }
        std::fs::rename(&self.0, whole).map_err(failed(whole))?;
        let parent = whole.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|f| f.sync_all()).map_err(failed(parent))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // where it has become whole there is nothing
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> BackupError {
    move |source| BackupError::File { path: path.to_owned(), source }
}

/// Refuses a place where something is; an empty folder is nothing.
fn vacant(path: &Path) -> Result<(), BackupError> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(BackupError::Taken(path.into())),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(BackupError::Taken(path.into())),
        Err(e) => Err(failed(path)(e)),
    }
}

fn private(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))
}

/// The files of a data folder, but those of the database and of a running process, and what is not whole.
fn inside(data: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let mut found = Vec::new();
    for folder in folders(data)? {
        for entry in std::fs::read_dir(&folder).map_err(failed(&folder))? {
            let entry = entry.map_err(failed(&folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let own = folder == data && LEFT_OUT.contains(&name.as_str());
            if own || name.starts_with('.') || !entry.file_type().map_err(failed(&folder))?.is_file() {
                continue;
            }
            let path = entry.path();
            found.push(path.strip_prefix(data).map_or_else(|_| path.clone(), Path::to_owned));
        }
    }
    found.sort();
    Ok(found)
}

/// A folder and those in it.
fn folders(top: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let mut all = vec![top.to_owned()];
    let mut next = 0;
    while let Some(folder) = all.get(next).cloned() {
        next += 1;
        for entry in std::fs::read_dir(&folder).map_err(failed(&folder))? {
            let entry = entry.map_err(failed(&folder))?;
            if entry.file_type().map_err(failed(&folder))?.is_dir() {
                all.push(entry.path());
            }
        }
    }
    Ok(all)
}

/// One file of a folder into another one, its owner's alone, and onto the disk.
fn copy(from: &Path, to: &Path, path: &Path) -> Result<Entry, BackupError> {
    let (source, target) = (from.join(path), to.join(path));
    if let Some(folder) = target.parent() {
        private(folder)?;
    }
    let mut content = File::open(&source).map_err(failed(&source))?;
    let (size, sha256) = write(&target, &mut content).map_err(failed(&target))?;
    Ok(Entry { path: path.display().to_string(), size, sha256 })
}

fn write(path: &Path, content: &mut impl Read) -> io::Result<(u64, String)> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = pass(content, &mut file)?;
    file.sync_all()?;
    Ok(written)
}

/// Size and digest of what passes.
fn pass(content: &mut impl Read, to: &mut impl io::Write) -> io::Result<(u64, String)> {
    let (mut size, mut digest, mut buffer) = (0, Sha256::new(), vec![0; 64 * 1024]);
    loop {
        let count = content.read(&mut buffer)?;
        if count == 0 {
            return Ok((size, shared_proto::hex::encode(digest.finalize())));
        }
        size += count as u64;
        digest.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    async fn data(folder: &Path) -> PathBuf {
        let data = folder.join("data");
        private(&data.join("archives/org_a")).expect("made");
        Store::open(&data.join(DATABASE)).await.expect("a store").close().await;
        for (name, content) in [
            ("ca-key.pem", "key"),
            ("admin-token", "token"),
            ("lock", ""),
            ("archives/org_a/abc", "archive"),
            ("archives/org_a/.partial-1", "half"),
        ] {
            std::fs::write(data.join(name), content).expect("written");
        }
        data
    }

    #[tokio::test]
    async fn a_back_up_is_whole_and_its_owners_alone_and_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = data(folder.path()).await;
        let to = folder.path().join("copy");
        let done = back_up(&data, &to).await.expect("backed up");
        assert_eq!(done.files, 4, "{done}");
        for file in [MANIFEST, "data/control-plane.db", "data/ca-key.pem", "data/archives/org_a/abc"] {
            let mode = std::fs::metadata(to.join(file)).expect(file).permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "{file}");
        }
        assert_eq!(std::fs::metadata(&to).expect("there").permissions().mode() & 0o7777, 0o700);
        assert!(matches!(back_up(&data, &to).await, Err(BackupError::Taken(_))), "twice into one");
        assert!(matches!(restore(&to, &data).await, Err(BackupError::Taken(_))), "over what is there");
        let new = folder.path().join("new");
        private(&new).expect("an empty one will do");
        let done = restore(&to, &new).await.expect("restored");
        assert_eq!((done.files, done.open), (4, Some(0)));
        assert_eq!(std::fs::read(new.join("ca-key.pem")).expect("there"), b"key");
        assert!(!new.join("lock").exists() && !new.join("archives/org_a/.partial-1").exists());
        let left = std::fs::read_dir(folder.path()).expect("lists").count();
        assert_eq!(left, 3, "data, copy and new: nothing half");
    }

    #[tokio::test]
    async fn what_is_not_as_it_was_written_is_not_restored() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = data(folder.path()).await;
        let new = folder.path().join("new");
        type Spoil = fn(&Path);
        let spoil: [(&str, Spoil); 5] = [
            ("a byte", |to| std::fs::write(to.join("data/ca-key.pem"), "kez").expect("written")),
            ("a file", |to| std::fs::remove_file(to.join("data/archives/org_a/abc")).expect("removed")),
            ("the manifest", |to| std::fs::remove_file(to.join(MANIFEST)).expect("removed")),
            ("its format", |to| change(to, "\"format\":1", "\"format\":2")),
            ("a path", |to| change(to, "\"ca-key.pem\"", "\"../ca-key.pem\"")),
        ];
        for (what, spoil) in spoil {
            let to = folder.path().join(format!("copy of {what}"));
            back_up(&data, &to).await.expect("backed up");
            spoil(&to);
            restore(&to, &new).await.expect_err(what);
            assert!(!new.exists(), "{what}");
        }
        let nothing = back_up(&folder.path().join("nowhere"), &folder.path().join("copy")).await;
        assert!(matches!(nothing, Err(BackupError::File { .. })));
    }

    fn change(to: &Path, from: &str, with: &str) {
        let text = std::fs::read_to_string(to.join(MANIFEST)).expect("there");
        assert!(text.contains(from));
        std::fs::write(to.join(MANIFEST), text.replace(from, with)).expect("written");
    }
}
