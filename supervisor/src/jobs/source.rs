//! Fetches a job's source archive into `own/source.tar.gz`, by its hash, going on where a cut left it.

use super::folder::{Folder, broken};
use super::service::{Held, Pause, Service};
use sha2::{Digest as _, Sha256};
use shared_proto::bounds::ARCHIVE_PACKED_MAX;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::ArchiveSource;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

/// How long it is tried: the control plane may be away for a while.
const TRY_FOR: Duration = Duration::from_secs(60 * 60);
/// How long a stream may pause.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Fetches it. Dropped in the middle, a later call goes on from there.
///
/// # Errors
/// `source_unavailable`, `source_refused` for another content, `disk_full`.
pub(super) async fn fetch(
    service: &Service,
    held: &Held,
    folder: &Folder,
    wanted: &ArchiveSource,
) -> Result<PathBuf, Failure> {
    let path = folder.own().join("source.tar.gz");
    if wanted.size > ARCHIVE_PACKED_MAX {
        return Err(Code::SourceRefused.on(format!("the archive is larger than {ARCHIVE_PACKED_MAX} bytes")));
    }
    if hash_of(&path).await.is_some_and(|(_, hash)| hash == wanted.sha256) {
        return Ok(path);
    }
    let partial = folder.own().join("source.tar.gz.partial");
    let end = Instant::now() + TRY_FOR;
    let mut pause = Pause::new(service.backoff);
    let mut fresh = false;
    loop {
        let again = match pass(service, held, &partial, wanted, &mut pause).await {
            Ok(()) => {
                let Some((size, hash)) = hash_of(&partial).await else {
                    return Err(Code::Internal.on("the fetched archive cannot be read"));
                };
                if hash == wanted.sha256 && size == wanted.size {
                    tokio::fs::rename(&partial, &path).await.map_err(|e| broken(&path, &e))?;
                    return Ok(path);
                }
                let message = format!("the archive that came has {size} bytes and the SHA-256 {hash}");
                let refused = Code::SourceRefused.on(message);
                // what was there from before may have been damaged: once from the start
                let _ = tokio::fs::remove_file(&partial).await;
                if std::mem::replace(&mut fresh, true) {
                    return Err(refused);
                }
                refused
            }
            Err(failure) => match failure.code {
                Code::NotFound | Code::InvalidArgument | Code::Fenced => {
                    return Err(Code::SourceUnavailable.on(format!("the archive: {}", failure.message)));
                }
                Code::DiskFull => return Err(failure),
                _ => failure,
            },
        };
        if Instant::now() > end {
            return Err(Code::SourceUnavailable.on(format!("the archive: {}", again.message)));
        }
        tracing::info!(job = held.job_id, code = again.code.as_str(), detail = again.message, "source not fetched yet");
        tokio::time::sleep(pause.next()).await;
    }
}

/// One stream, from where the file ends.
async fn pass(
    service: &Service,
    held: &Held,
    partial: &Path,
    wanted: &ArchiveSource,
    pause: &mut Pause,
) -> Result<(), Failure> {
    let mut file = open(partial).await.map_err(|e| broken(partial, &e))?;
    let mut have = file.metadata().await.map_err(|e| broken(partial, &e))?.len();
    if have >= wanted.size {
        return Ok(());
    }
    let mut stream = service.source(held, &wanted.sha256, have).await?;
    loop {
        let chunk = match tokio::time::timeout(PAUSE_MAX, stream.message()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => break,
            Ok(Err(status)) => return Err(service.failure(&status)),
            Err(_) => return Err(Code::DeadlineExceeded.on("the archive's stream paused")),
        };
        have += chunk.data.len() as u64;
        if have > wanted.size {
            // its hash cannot fit any more
            break;
        }
        file.write_all(&chunk.data).await.map_err(|e| broken(partial, &e))?;
        pause.reset();
    }
    file.sync_all().await.map_err(|e| broken(partial, &e))
}

async fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).await
}

/// Size and hash of a file, if it can be read.
async fn hash_of(path: &Path) -> Option<(u64, String)> {
    let mut file = File::open(path).await.ok()?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer).await.ok()? {
            0 => return Some((size, shared_proto::hex::encode(hash.finalize()))),
            n => {
                size += n as u64;
                hash.update(&buffer[..n]);
            }
        }
    }
}
