//! The engine of the demonstration: OpenTofu or Terraform from PATH, or else OpenTofu fetched at a pinned version. The pinned
//! checksum is what is trusted, not where the bytes come from.

use flate2::read::GzDecoder;
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// The pinned release, for Linux on x86-64.
const VERSION: &str = "1.12.6";
const URL: &str = "https://github.com/opentofu/opentofu/releases/download/v1.12.6/tofu_1.12.6_linux_amd64.tar.gz";
const SHA256: &str = "50a6106fa4de523d09c87af85f3db1dd47535fc005727fdca6852146476b88ec";
/// The largest archive that is taken, bytes; the pinned one has 34,646,566.
const ARCHIVE_MAX: u64 = 64 * 1024 * 1024;
/// The largest program that is unpacked, bytes.
const PROGRAM_MAX: u64 = 512 * 1024 * 1024;
/// How long fetching may take.
const FETCH: Duration = Duration::from_secs(120);

/// An engine that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Engine {
    /// opentofu or terraform, as stacks name it.
    pub(super) name: &'static str,
    /// Its program.
    pub(super) path: PathBuf,
    /// Where it came from, in words.
    pub(super) from: String,
}

/// Finds or fetches one.
///
/// # Errors
/// `engine_missing`.
pub(super) async fn find(folder: &Path) -> Result<Engine, Failure> {
    if let Some(engine) = on_path(std::env::var_os("PATH").as_deref()) {
        return Ok(engine);
    }
    let missing = |why: String| {
        Code::EngineMissing
            .on(format!("neither tofu nor terraform is on PATH, and OpenTofu {VERSION} could not be fetched: {why}"))
            .next("Install OpenTofu (https://opentofu.org/docs/intro/install/) or Terraform, and start the demo again.")
    };
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(missing("there is a pinned release for Linux on x86-64 only".into()));
    }
    let archive = folder.join("engine.tar.gz");
    fetch(&archive).await.map_err(missing)?;
    let path = folder.join("tofu");
    let to = path.clone();
    let unpacked = tokio::task::spawn_blocking(move || unpack(&archive, &to, SHA256)).await;
    unpacked.map_err(|e| e.to_string()).and_then(|done| done).map_err(missing)?;
    Ok(Engine { name: "opentofu", path, from: format!("OpenTofu {VERSION}, fetched, checksum verified") })
}

/// The first engine on this PATH; OpenTofu is preferred.
fn on_path(path: Option<&OsStr>) -> Option<Engine> {
    let folders: Vec<PathBuf> = std::env::split_paths(path?).filter(|p| p.is_absolute()).collect();
    [("opentofu", "tofu"), ("terraform", "terraform")].into_iter().find_map(|(name, program)| {
        let path = folders
            .iter()
            .map(|folder| folder.join(program))
            .find(|p| p.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))?;
        let from = format!("{program} on PATH ({})", path.display());
        Some(Engine { name, path, from })
    })
}

/// Fetches the pinned archive with curl, which has the roots and the proxy settings of this machine.
async fn fetch(archive: &Path) -> Result<(), String> {
    let status = Command::new("curl")
        .args(["--fail", "--silent", "--show-error", "--location", "--proto", "=https", "--proto-redir", "=https"])
        .args(["--max-time", &FETCH.as_secs().to_string(), "--max-filesize", &ARCHIVE_MAX.to_string()])
        .arg("--output")
        .arg(archive)
        .arg(URL)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| format!("curl: {e}"))?;
    if status.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&status.stderr);
    Err(format!("{} ({})", said.lines().next_back().unwrap_or("curl failed"), URL))
}

/// Checks the archive's digest before anything of it is looked at, then takes the one program out of it.
fn unpack(archive: &Path, to: &Path, sha256: &str) -> Result<(), String> {
    let said = |e: std::io::Error| format!("{}: {e}", archive.display());
    let mut bytes = Vec::new();
    std::fs::File::open(archive).and_then(|f| f.take(ARCHIVE_MAX + 1).read_to_end(&mut bytes)).map_err(said)?;
    let digest = shared_proto::hex::encode(Sha256::digest(&bytes));
    if digest != sha256 {
        return Err(format!("what was fetched has the checksum {digest}, and not the pinned {sha256}"));
    }
    let mut tar = tar::Archive::new(GzDecoder::new(&bytes[..]));
    for entry in tar.entries().map_err(said)? {
        let entry = entry.map_err(said)?;
        if entry.path().is_ok_and(|p| *p == *Path::new("tofu")) && entry.header().entry_type().is_file() {
            let mut program =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(to).map_err(said)?;
            std::io::copy(&mut entry.take(PROGRAM_MAX), &mut program).map_err(said)?;
            program.flush().map_err(said)?;
            let _ = std::fs::remove_file(archive);
            return Ok(());
        }
    }
    Err("the archive holds no tofu".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opentofu_is_preferred_and_only_programs_count() {
        let dir = tempfile::tempdir().expect("a folder");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for folder in [&a, &b] {
            std::fs::create_dir(folder).expect("a folder");
        }
        let write = |path: PathBuf, mode: u32| {
            std::fs::write(&path, "x").expect("writes");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        };
        let path = std::env::join_paths([&a, &b]).expect("a PATH");
        let found = || on_path(Some(&path)).map(|e| (e.name, e.path));
        write(a.join("tofu"), 0o644);
        assert_eq!(found(), None);
        write(a.join("terraform"), 0o755);
        assert_eq!(found(), Some(("terraform", a.join("terraform"))));
        write(b.join("tofu"), 0o755);
        assert_eq!(found(), Some(("opentofu", b.join("tofu"))));
        assert_eq!(on_path(None), None);
    }

    #[test]
    fn only_the_pinned_bytes_are_unpacked() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(7);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, "tofu", &b"program"[..]).expect("appends");
        let bytes = tar.into_inner().and_then(flate2::write::GzEncoder::finish).expect("finishes");
        let digest = shared_proto::hex::encode(Sha256::digest(&bytes));
        let (archive, to) = (dir.path().join("a.tar.gz"), dir.path().join("tofu"));
        std::fs::write(&archive, &bytes).expect("writes");
        assert!(unpack(&archive, &to, SHA256).expect_err("another checksum").contains("pinned"));
        assert!(!to.exists());
        unpack(&archive, &to, &digest).expect("unpacks");
        assert_eq!(std::fs::read(&to).expect("reads"), b"program");
        assert_eq!(to.metadata().expect("is there").permissions().mode() & 0o777, 0o755);
    }
}
