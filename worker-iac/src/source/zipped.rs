//! Unpacks a zip, as modules are packed in OCI registries and by servers of archives. Its directory says what it holds and how much; what an
//! entry's content is beyond that is not written.

use super::unpacked::{Entry, Limits, Target, shown};
use shared_proto::failure::{Code, Failure};
use std::fs::File;
use std::io::{Empty, Read as _};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use zip::ZipArchive;

/// What a link leads to is a path, bytes.
const LINK_MAX: u64 = 4096;
/// The kinds of files among the bits of a mode. <https://man7.org/linux/man-pages/man7/inode.7.html>
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const FOLDER: u32 = 0o040_000;

/// # Errors
/// `source_refused` naming the entry; `disk_full`; cancelled.
pub(super) fn unpack(file: File, folder: &Path, limits: Limits, stop: &AtomicBool) -> Result<(), Failure> {
    let malformed = |e: &dyn std::fmt::Display| Code::SourceRefused.on(format!("the archive is not a whole zip: {e}"));
    let mut target = Target::open(folder, limits, stop)?;
    let mut archive = ZipArchive::new(file).map_err(|e| malformed(&e))?;
    if archive.len() as u64 > limits.entries {
        return Err(Code::SourceRefused.on(format!("the archive has more than {} files and folders", limits.entries)));
    }
    for n in 0..archive.len() {
        let mut entry = archive.by_index(n).map_err(|e| malformed(&e))?;
        let path = entry.name_raw().to_vec();
        if path.contains(&b'\\') {
            // a separator to some programs and none to others
            let message = format!("the archive's entry {}: a backslash in its path", shown(&path));
            return Err(Code::SourceRefused.on(message));
        }
        let mode = entry.unix_mode().unwrap_or(0);
        let (size, executable) = (entry.size(), mode & 0o111 != 0);
        match mode & KIND {
            _ if path.ends_with(b"/") => target.make::<Empty>(&path, Entry::Folder)?,
            FOLDER => target.make::<Empty>(&path, Entry::Folder)?,
            LINK => {
                let mut to = Vec::new();
                (&mut entry).take(LINK_MAX).read_to_end(&mut to).map_err(|e| malformed(&e))?;
                target.make::<Empty>(&path, Entry::Link(&to))?;
            }
            REGULAR | 0 => target.make(&path, Entry::File { size, executable, content: &mut entry })?,
            _ => target.make::<Empty>(&path, Entry::Refused("neither a file, a folder nor a link"))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::unpacked::LIMITS;
    use std::io::{Seek as _, SeekFrom, Write as _};
    use std::os::unix::fs::PermissionsExt as _;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    fn zipped(write: impl FnOnce(&mut ZipWriter<&mut File>)) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        let mut writer = ZipWriter::new(&mut file);
        write(&mut writer);
        writer.finish().expect("packs");
        file.seek(SeekFrom::Start(0)).expect("seeks");
        file
    }
    fn run(file: File, limits: Limits) -> (tempfile::TempDir, Result<(), Failure>) {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("source");
        std::fs::create_dir(&target).expect("a folder");
        let result = unpack(file, &target, limits, &AtomicBool::new(false));
        (folder, result)
    }
    fn one(path: &str, content: &[u8]) -> File {
        zipped(|zip| {
            zip.start_file(path, SimpleFileOptions::default()).expect("starts");
            zip.write_all(content).expect("packs");
        })
    }

    #[test]
    fn a_good_one_is_unpacked() {
        let packed = zipped(|zip| {
            let options = SimpleFileOptions::default();
            zip.add_directory("modules/net/", options).expect("adds");
            zip.start_file("main.tf", options.unix_permissions(0o644)).expect("starts");
            zip.write_all(b"main").expect("packs");
            zip.start_file("bin/run", options.unix_permissions(0o4755)).expect("starts");
            zip.add_symlink("link", "main.tf", options).expect("adds");
        });
        let (folder, result) = run(packed, LIMITS);
        result.expect("unpacks");
        let at = |path: &str| folder.path().join("source").join(path);
        assert_eq!(std::fs::read_to_string(at("link")).expect("reads"), "main");
        assert!(at("modules/net").is_dir());
        let mode = std::fs::metadata(at("bin/run")).expect("is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }

    #[test]
    fn hostile_ones_are_refused_by_name_and_nothing_outside_changes() {
        let link =
            |path: &str, to: &str| zipped(|zip| zip.add_symlink(path, to, SimpleFileOptions::default()).expect("adds"));
        let through = zipped(|zip| {
            let options = SimpleFileOptions::default();
            zip.add_directory("a", options).expect("adds");
            zip.add_symlink("l", "a", options).expect("adds");
            zip.start_file("l/x", options).expect("starts");
        });
        let deep = "d/".repeat(70) + "x";
        for (name, packed, says) in [
            ("dots", one("../x", b"x"), "`..`"),
            ("dots inside", one("a/../../x", b"x"), "`..`"),
            ("absolute", one("/tmp/x", b"x"), "absolute"),
            ("backslash", one("..\\x", b"x"), "backslash"),
            ("deep", one(&deep, b"x"), "too deep"),
            ("long", one(&"a".repeat(300), b"x"), "too long"),
            ("link whole", link("l", "/etc/passwd"), "leads out"),
            ("link up", link("l", "../x"), "leads out"),
            ("through a link", through, "no folder"),
        ] {
            let (folder, result) = run(packed, LIMITS);
            let failure = result.expect_err(name);
            assert_eq!(failure.code, Code::SourceRefused, "{name}: {failure}");
            assert!(failure.message.contains(says), "{name}: {failure}");
            let names: Vec<_> =
                std::fs::read_dir(folder.path()).expect("reads").flatten().map(|e| e.file_name()).collect();
            assert_eq!(names, ["source"], "{name}");
        }
        let mut text = tempfile::tempfile().expect("a file");
        text.write_all(b"no zip at all").expect("writes");
        assert_eq!(run(text, LIMITS).1.expect_err("no zip").code, Code::SourceRefused);
    }

    #[test]
    fn both_sides_of_the_limits_and_a_lie_about_a_size() {
        let two = || {
            zipped(|zip| {
                for name in ["a", "b"] {
                    zip.start_file(name, SimpleFileOptions::default()).expect("starts");
                    zip.write_all(b"12345").expect("packs");
                }
            })
        };
        assert!(run(two(), Limits { bytes: 10, entries: 2 }).1.is_ok());
        assert!(run(two(), Limits { bytes: 9, entries: 2 }).1.is_err());
        assert!(run(two(), Limits { bytes: 10, entries: 1 }).1.is_err());
        // a bomb that says it is small: its directory's size is changed to one byte
        let mut bomb = one("bomb", &vec![0; 4 << 20]);
        let mut bytes = Vec::new();
        bomb.read_to_end(&mut bytes).expect("reads");
        let directory = bytes.windows(4).rposition(|w| w == b"PK\x01\x02").expect("a directory");
        bytes[directory + 24..directory + 28].copy_from_slice(&1_u32.to_le_bytes());
        let mut lying = tempfile::tempfile().expect("a file");
        lying.write_all(&bytes).expect("writes");
        let (folder, result) = run(lying, LIMITS);
        assert_eq!(result.expect_err("refused").code, Code::SourceRefused);
        let written = std::fs::metadata(folder.path().join("source/bomb")).map_or(0, |found| found.len());
        assert!(written <= 1, "{written} bytes of it");
    }
}
