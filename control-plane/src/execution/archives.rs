//! Uploaded source archives, by content hash, each organization's apart: that a hash is there says nothing to another one.
//!
//! ```text
//! ROOT/ORGANIZATION/SHA256          whole, checked, fsynced
//! ROOT/ORGANIZATION/.partial-…      on its way in; what a crash leaves is removed at the next start
//! ```

use crate::store::ArchivesInUse;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use shared_proto::bounds::ARCHIVE_PACKED_MAX;
use shared_proto::failure::{Code, Failure};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Mutex, Semaphore};

/// Uploads at once.
const UPLOADS_MAX: usize = 16;
/// What one organization may keep, bytes.
const ORGANIZATION_MAX: u64 = 32 * 1024 * 1024 * 1024;
/// How long an upload may pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Names of files on their way in.
const PARTIAL: &str = ".partial-";

/// The archives' folder. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Archives {
    root: Arc<Path>,
    uploads: Arc<Semaphore>,
    /// Held while one is removed, and while one is asked for: what somebody was told is there stays.
    removing: Arc<Mutex<()>>,
}

/// The hash of an archive: 64 lower-case hexadecimal digits. It is a file's name, so nothing else passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveHash(String);

/// Removes a file that was not kept.
struct Partial(Option<PathBuf>);

// === impl ArchiveHash ===

impl ArchiveHash {
    /// Checks a text.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Code::InvalidArgument.on("an archive's hash is 64 lower-case hexadecimal digits (SHA-256)"))
        }
    }
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl Archives ===

impl Archives {
    /// Opens the folder, makes it where there is none, and removes what was not finished.
    ///
    /// # Errors
    /// The file system's.
    pub async fn open(root: &Path) -> std::io::Result<Self> {
        tokio::fs::create_dir_all(root).await?;
        let mut organizations = tokio::fs::read_dir(root).await?;
        while let Some(organization) = organizations.next_entry().await? {
            if !organization.file_type().await?.is_dir() {
                continue;
            }
            let mut files = tokio::fs::read_dir(organization.path()).await?;
            while let Some(file) = files.next_entry().await? {
                if file.file_name().to_string_lossy().starts_with(PARTIAL) {
                    tokio::fs::remove_file(file.path()).await?;
                }
            }
        }
        Ok(Self { root: root.into(), uploads: Arc::new(Semaphore::new(UPLOADS_MAX)), removing: Arc::default() })
    }

    /// The size of an organization's archive, bytes; none: it has no such archive. Whoever asks is about to use it: it counts as new.
    pub async fn size(&self, organization: &str, hash: &ArchiveHash) -> Option<u64> {
        let path = self.folder(organization).join(hash.as_str());
        let _held = self.removing.lock().await;
        let facts = tokio::fs::metadata(&path).await.ok().filter(std::fs::Metadata::is_file)?;
        touch(path).await.map_err(|e| broken("marking", &e)).ok()?;
        Some(facts.len())
    }

    /// Removes what nothing refers to and nobody has asked for since so long; gives how many that were. What cannot be removed is tried again at
    /// the next look.
    pub(super) async fn forget(&self, used: &ArchivesInUse, kept: Duration) -> usize {
        let used: HashSet<PathBuf> =
            used.iter().map(|(organization, sha256)| self.folder(organization).join(sha256)).collect();
        let mut removed = 0;
        for path in found(&self.root).await.unwrap_or_default() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if used.contains(&path) || ArchiveHash::parse(name).is_err() {
                continue;
            }
            let _held = self.removing.lock().await;
            if is_older(&path, kept).await {
                match tokio::fs::remove_file(&path).await {
                    Ok(()) => removed += 1,
                    Err(error) => tracing::warn!(path = %path.display(), %error, "an old archive cannot be removed"),
                }
            }
        }
        removed
    }

    /// Opens an organization's archive.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn read(&self, organization: &str, hash: &ArchiveHash) -> Result<File, Failure> {
        File::open(self.folder(organization).join(hash.as_str())).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Code::NotFound.on(format!("there is no archive {}", hash.as_str())),
            _ => broken("opening", &e),
        })
    }

    /// Keeps an archive if its content has the hash, whole or not at all.
    ///
    /// # Errors
    /// `invalid_argument` where the hash is another one or the upload broke off, `too_large`, `busy`, `disk_full`.
    pub async fn keep<S, E>(&self, organization: &str, hash: &ArchiveHash, body: S) -> Result<u64, Failure>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::fmt::Display,
    {
        let _place = self
            .uploads
            .try_acquire()
            .map_err(|_| Code::Busy.on(format!("{UPLOADS_MAX} archives are being uploaded already")))?;
        let folder = self.folder(organization);
        tokio::fs::create_dir_all(&folder).await.map_err(|e| broken("making the folder of", &e))?;
        let most = ORGANIZATION_MAX.saturating_sub(used(&folder).await.map_err(|e| broken("measuring", &e))?);
        let path = folder.join(format!("{PARTIAL}{}", uuid::Uuid::now_v7().simple()));
        let mut partial = Partial(Some(path.clone()));
        let mut file = File::create_new(&path).await.map_err(|e| broken("writing", &e))?;
        let (size, digest) = receive(&mut file, body, most).await?;
        if digest != hash.as_str() {
            return Err(Code::InvalidArgument
                .on(format!("the archive's SHA-256 is {digest}, not {}: nothing was kept", hash.as_str())));
        }
        let kept = async {
            file.sync_all().await?;
            drop(file);
            tokio::fs::rename(&path, folder.join(hash.as_str())).await?;
            File::open(&folder).await?.sync_all().await
        };
        kept.await.map_err(|e| broken("keeping", &e))?;
        partial.0 = None;
        Ok(size)
    }

    /// An organization's id is this program's own: no name of a user reaches the file system.
    fn folder(&self, organization: &str) -> PathBuf {
        let safe: String =
            organization.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).collect();
        self.root.join(safe)
    }
}

async fn receive<S, E>(file: &mut File, body: S, most: u64) -> Result<(u64, String), Failure>
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: std::fmt::Display,
{
    tokio::pin!(body);
    let (mut size, mut digest) = (0u64, Sha256::new());
    loop {
        let chunk = match tokio::time::timeout(PAUSE_MAX, body.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(e))) => {
                return Err(Code::InvalidArgument.on(format!("the upload broke off after {size} bytes: {e}")));
            }
            Ok(None) => break,
            Err(_) => return Err(Code::DeadlineExceeded.on(format!("the upload paused for {} s", PAUSE_MAX.as_secs()))),
        };
        size += chunk.len() as u64;
        if size > ARCHIVE_PACKED_MAX {
            return Err(Code::TooLarge.on(format!("the archive is larger than {ARCHIVE_PACKED_MAX} bytes")));
        }
        if size > most {
            return Err(
                Code::DiskFull.on(format!("the organization's archives take more than {ORGANIZATION_MAX} bytes"))
            );
        }
        digest.update(&chunk);
        file.write_all(&chunk).await.map_err(|e| broken("writing", &e))?;
    }
    file.flush().await.map_err(|e| broken("writing", &e))?;
    Ok((size, shared_proto::hex::encode(digest.finalize())))
}

/// Every file of every organization.
async fn found(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut organizations, mut paths) = (tokio::fs::read_dir(root).await?, Vec::new());
    while let Some(organization) = organizations.next_entry().await? {
        if organization.file_type().await?.is_dir() {
            let mut files = tokio::fs::read_dir(organization.path()).await?;
            while let Some(file) = files.next_entry().await? {
                paths.push(file.path());
            }
        }
    }
    Ok(paths)
}

/// Whether it was changed, or asked for, longer ago. What cannot be told of is not.
async fn is_older(path: &Path, than: Duration) -> bool {
    let changed = tokio::fs::metadata(path).await.and_then(|facts| facts.modified());
    changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > than))
}

/// Sets when it was changed to now.
async fn touch(path: PathBuf) -> std::io::Result<()> {
    let file = File::options().append(true).open(path).await?.into_std().await;
    file.set_modified(SystemTime::now())
}

async fn used(folder: &Path) -> std::io::Result<u64> {
    let mut files = tokio::fs::read_dir(folder).await?;
    let mut bytes = 0;
    while let Some(file) = files.next_entry().await? {
        // one that goes meanwhile takes nothing
        bytes += file.metadata().await.map_or(0, |m| m.len());
    }
    Ok(bytes)
}

fn broken(doing: &str, error: &std::io::Error) -> Failure {
    tracing::error!(%error, "{doing} an archive failed");
    let code = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Code::DiskFull,
        _ => Code::Internal,
    };
    code.on(format!("{doing} an archive failed in the control plane"))
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // what cannot be removed now is removed at the next start
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn body(parts: &[&'static str]) -> impl Stream<Item = Result<Bytes, String>> + Send + use<> {
        stream::iter(parts.iter().map(|p| Ok(Bytes::from_static(p.as_bytes()))).collect::<Vec<_>>())
    }
    fn hash(text: &str) -> ArchiveHash {
        ArchiveHash::parse(&shared_proto::hex::encode(Sha256::digest(text))).expect("a hash")
    }
    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).map_or(0, |d| d.count())
    }

    #[tokio::test]
    async fn what_has_its_hash_is_kept_and_is_nobody_elses() {
        let folder = tempfile::tempdir().expect("a folder");
        let archives = Archives::open(folder.path()).await.expect("opens");
        let wanted = hash("hello world");
        assert_eq!(archives.size("org_a", &wanted).await, None);
        assert_eq!(archives.keep("org_a", &wanted, body(&["hello ", "world"])).await, Ok(11));
        assert_eq!(archives.keep("org_a", &wanted, body(&["hello world"])).await, Ok(11));
        assert_eq!(archives.size("org_a", &wanted).await, Some(11));
        assert_eq!(archives.size("org_b", &wanted).await, None);
        assert_eq!(archives.read("org_b", &wanted).await.map(drop).expect_err("not its own").code, Code::NotFound);
    }

    #[tokio::test]
    async fn a_wrong_hash_or_a_broken_upload_keeps_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let archives = Archives::open(folder.path()).await.expect("opens");
        let wanted = hash("hello");
        let wrong = archives.keep("org_a", &wanted, body(&["hell"])).await.expect_err("another hash");
        assert_eq!(wrong.code, Code::InvalidArgument);
        let cut = stream::iter([Ok(Bytes::from_static(b"he")), Err("cut".to_owned())]);
        assert_eq!(archives.keep("org_a", &wanted, cut).await.expect_err("cut").code, Code::InvalidArgument);
        assert_eq!(files(&folder.path().join("org_a")), 0);
    }

    #[tokio::test]
    async fn what_a_crash_left_is_removed_at_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("org_a")).expect("made");
        std::fs::write(folder.path().join("org_a/.partial-1"), b"x").expect("written");
        Archives::open(folder.path()).await.expect("opens");
        assert_eq!(files(&folder.path().join("org_a")), 0);
    }

    #[tokio::test]
    async fn what_is_old_and_of_no_use_goes_unless_somebody_has_asked_for_it() {
        const DAY: Duration = Duration::from_secs(86_400);
        let folder = tempfile::tempdir().expect("a folder");
        let archives = Archives::open(folder.path()).await.expect("opens");
        let aged = |organization: &str, text: &'static str| {
            let (path, wanted) = (archives.folder(organization).join(hash(text).as_str()), hash(text));
            let (archives, organization) = (archives.clone(), organization.to_owned());
            async move {
                archives.keep(&organization, &wanted, body(&[text])).await.expect("kept");
                let file = std::fs::File::options().append(true).open(path).expect("opens");
                file.set_modified(SystemTime::now() - 2 * DAY).expect("aged");
                wanted
            }
        };
        let used = aged("org_a", "used").await;
        let others = aged("org_b", "used").await;
        let asked = aged("org_a", "asked for").await;
        let old = aged("org_a", "old").await;
        archives.keep("org_a", &hash("new"), body(&["new"])).await.expect("kept");
        // one that is none of ours stays
        std::fs::write(folder.path().join("org_a/notes"), "x").expect("written");
        assert!(archives.size("org_a", &asked).await.is_some());
        let in_use: ArchivesInUse = [("org_a".to_owned(), used.as_str().to_owned())].into();
        assert_eq!(archives.forget(&in_use, 3 * DAY).await, 0);
        assert_eq!(archives.forget(&in_use, DAY).await, 2);
        assert_eq!(archives.size("org_a", &old).await, None);
        assert_eq!(archives.size("org_b", &others).await, None, "in use by another organization");
        for kept in [&used, &asked, &hash("new")] {
            assert!(archives.size("org_a", kept).await.is_some());
        }
        assert_eq!(files(&folder.path().join("org_a")), 4);
    }

    #[test]
    fn only_a_hash_is_a_hash() {
        for bad in ["", "..", "../../etc/passwd", &"A".repeat(64), &"g".repeat(64), &"a".repeat(63), &"a".repeat(65)] {
            assert!(ArchiveHash::parse(bad).is_err(), "{bad:?}");
        }
    }
}
