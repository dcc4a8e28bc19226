//! Uploaded source archives, by content hash, each organization's apart: that a hash is there says nothing to another one.
//!
//! ```text
//! ROOT/ORGANIZATION/SHA256          whole, checked, fsynced
//! ROOT/ORGANIZATION/.partial-…      on its way in; what a crash leaves is removed at the next start
//! ```

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use shared_proto::bounds::ARCHIVE_PACKED_MAX;
use shared_proto::failure::{Code, Failure};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;

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
        Ok(Self { root: root.into(), uploads: Arc::new(Semaphore::new(UPLOADS_MAX)) })
    }

    /// The size of an organization's archive, bytes; none: it has no such archive.
    pub async fn size(&self, organization: &str, hash: &ArchiveHash) -> Option<u64> {
        let facts = tokio::fs::metadata(self.folder(organization).join(hash.as_str())).await.ok()?;
        facts.is_file().then_some(facts.len())
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

    #[test]
    fn only_a_hash_is_a_hash() {
        for bad in ["", "..", "../../etc/passwd", &"A".repeat(64), &"g".repeat(64), &"a".repeat(63), &"a".repeat(65)] {
            assert!(ArchiveHash::parse(bad).is_err(), "{bad:?}");
        }
    }
}
