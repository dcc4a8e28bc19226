//! One program out of a vendor's archive. The archive was verified before; what is read is bounded all the same.

use super::Engine;
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use std::fs::File;
use std::io::{Read as _, Write as _};
use zip::ZipArchive;

/// The largest program that is taken, bytes: the largest of these years is a quarter of it.
const PROGRAM_MAX: u64 = 1 << 30;
/// The most entries of an archive: the vendors' have four.
const ENTRIES_MAX: usize = 64;

/// Writes the engine's program to a file; its SHA-256.
///
/// # Errors
/// `source_refused`: there is no such program in it; `too_large`; the file system's.
pub(super) fn program(archive: &mut File, engine: Engine, to: &mut File) -> Result<[u8; 32], Failure> {
    bounded(archive, engine, to, PROGRAM_MAX)
}

fn bounded(archive: &mut File, engine: Engine, to: &mut File, most: u64) -> Result<[u8; 32], Failure> {
    let refused = |what: &dyn std::fmt::Display| {
        Code::SourceRefused
            .on(format!("the archive of {engine}: {what}"))
            .next("Check that the archive is the vendor's own.")
    };
    let mut archive = ZipArchive::new(archive).map_err(|e| refused(&e))?;
    if archive.len() > ENTRIES_MAX {
        return Err(refused(&format_args!("it has more than {ENTRIES_MAX} entries")));
    }
    let mut entry =
        archive.by_name(engine.program()).map_err(|e| refused(&format_args!("{}: {e}", engine.program())))?;
    if !entry.is_file() {
        return Err(refused(&format_args!("{} is no file in it", engine.program())));
    }
    let mut hash = Sha256::new();
    let (mut left, mut piece) = (most, vec![0; 256 * 1024]);
    loop {
        let length = match entry.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(e) => return Err(refused(&e)),
        };
        left = left.checked_sub(length as u64).ok_or_else(|| {
            Code::TooLarge.on(format!("{} in its archive is larger than {most} bytes", engine.program()))
        })?;
        hash.update(&piece[..length]);
        to.write_all(&piece[..length])
            .map_err(|e| Code::StateUnusable.on(format!("writing {}: {e}", engine.program())))?;
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::{Seek as _, SeekFrom};
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    /// An archive of these files.
    pub(in crate::engines) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, content) in files {
            writer.start_file(*name, SimpleFileOptions::default()).expect("begins");
            writer.write_all(content).expect("writes");
        }
        writer.finish().expect("ends").into_inner()
    }
    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("writes");
        file.seek(SeekFrom::Start(0)).expect("seeks");
        file
    }
    fn unpacked(bytes: &[u8], most: u64) -> Result<Vec<u8>, Failure> {
        let mut to = tempfile::tempfile().expect("a file");
        let digest = bounded(&mut file(bytes), Engine::OpenTofu, &mut to, most)?;
        let mut content = Vec::new();
        to.seek(SeekFrom::Start(0)).and_then(|_| to.read_to_end(&mut content)).expect("reads");
        assert_eq!(digest[..], Sha256::digest(&content)[..]);
        Ok(content)
    }

    #[test]
    fn the_program_comes_out_and_nothing_else() {
        let program = b"a program ".repeat(10_000);
        let whole = archive(&[("LICENSE", b"x"), ("README.md", b"y"), ("tofu", &program)]);
        assert_eq!(unpacked(&whole, program.len() as u64), Ok(program.clone()));
        assert_eq!(unpacked(&whole, program.len() as u64 - 1).expect_err("too large").code, Code::TooLarge);
        for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
            assert_eq!(unpacked(&whole[..cut], 1 << 20).expect_err("cut").code, Code::SourceRefused, "{cut}");
        }
        let mut damaged = whole.clone();
        damaged[200] ^= 0xff;
        assert!(unpacked(&damaged, 1 << 20).is_err());
        for files in [&[("bin/tofu", &b"x"[..])][..], &[("../tofu", b"x")], &[("terraform", b"x")], &[("tofu/", b"")]] {
            assert_eq!(unpacked(&archive(files), 1 << 20).expect_err("none").code, Code::SourceRefused, "{files:?}");
        }
        let names: Vec<_> = (0..ENTRIES_MAX).map(|n| format!("file-{n}")).collect();
        let mut many: Vec<_> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        many.push(("tofu", b"x"));
        assert_eq!(unpacked(&archive(&many), 1 << 20).expect_err("too many").code, Code::SourceRefused);
        assert_eq!(unpacked(&archive(&many[1..]), 1 << 20), Ok(b"x".to_vec()));
    }
}
