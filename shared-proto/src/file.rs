//! Files that are there as a whole or not at all, whenever a process or the machine dies.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Writes a file in the place of the one before, with that mode, and waits for the disk. A link in its place is replaced, not followed.
///
/// # Errors
/// The file system's; what was there is there still.
pub fn write_whole(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let name = path.file_name().ok_or_else(|| std::io::Error::other("the path names no file"))?.to_string_lossy();
    let partial = folder.join(format!(".{name}.{}", std::process::id()));
    // one that an earlier process of the same number left behind
    let _ = std::fs::remove_file(&partial);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&partial)
        .and_then(|mut f| f.write_all(content).and_then(|()| f.sync_all()))
        .and_then(|()| std::fs::rename(&partial, path))
        .and_then(|()| std::fs::File::open(folder)?.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written
}
