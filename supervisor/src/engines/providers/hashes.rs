//! The two hashes by which lock files know packages: `zh:`, the SHA-256 of the archive, and `h1:`, one over the names and contents of what is in
//! it (<https://pkg.go.dev/golang.org/x/mod/sumdb/dirhash#Hash1>), which the unpacked package has as well.

use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use shared_proto::hex;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use zip::ZipArchive;

/// The most that is unpacked of a package to hash it, bytes: the largest of these years is a fifth of it.
const UNPACKED_MAX: u64 = 4 << 30;
/// The most files in a package.
const FILES_MAX: usize = 1024;

/// `zh:…` of a file, from its beginning.
pub(super) fn of_archive(file: &mut File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    Ok(format!("zh:{}", hex::encode(digest(file, u64::MAX)?.0)))
}

/// `h1:…` of what is in it.
pub(super) fn of_contents(file: &mut File) -> io::Result<String> {
    contents(file, UNPACKED_MAX)
}

fn contents(file: &mut File, most: u64) -> io::Result<String> {
    let mut archive = ZipArchive::new(file).map_err(io::Error::other)?;
    if archive.len() > FILES_MAX {
        return Err(io::Error::other(format!("the package has more than {FILES_MAX} files")));
    }
    let (mut lines, mut left) = (Vec::new(), most);
    for number in 0..archive.len() {
        let mut entry = archive.by_index(number).map_err(io::Error::other)?;
        let name = entry.name().to_owned();
        if name.contains('\n') {
            return Err(io::Error::other("a name in the package has a line's end in it"));
        }
        let (found, length) = digest(&mut entry, left)?;
        left -= length;
        lines.push((name, hex::encode(found)));
    }
    lines.sort();
    let text: String = lines.into_iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
    Ok(format!("h1:{}", base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text))))
}

/// The SHA-256 of what is read, and how much that was.
fn digest(from: &mut impl Read, most: u64) -> io::Result<([u8; 32], u64)> {
    let (mut hash, mut length, mut piece) = (Sha256::new(), 0, vec![0; 256 * 1024]);
    loop {
        match from.read(&mut piece)? {
            0 => return Ok((hash.finalize().into(), length)),
            n => {
                length += n as u64;
                if length > most {
                    return Err(io::Error::other("the package unpacks to more than is taken"));
                }
                hash.update(&piece[..n]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::unpack::tests::archive;
    use super::*;
    use std::io::Write as _;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("writes");
        file
    }

    #[test]
    fn both_hashes_are_the_engines_own() {
        let bytes = archive(&[("b", b"two\n"), ("a", b"one\n")]);
        let zh = of_archive(&mut file(&bytes)).expect("hashes");
        assert_eq!(zh, format!("zh:{}", hex::encode(Sha256::digest(&bytes))));
        // printf '%s  a\n%s  b\n' $(printf 'one\n' | sha256sum | cut -c-64) $(printf 'two\n' | sha256sum | cut -c-64) | sha256sum | xxd -r -p | base64
        assert_eq!(of_contents(&mut file(&bytes)).expect("hashes"), "h1:c9kx41MfEyR7vDoBCPzQwO9IAmCl51mA23+m4LxTGsQ=");
    }

    #[test]
    fn no_more_is_unpacked_than_that() {
        let bytes = archive(&[("a", &[0; 600]), ("b", &[0; 400])]);
        assert!(contents(&mut file(&bytes), 1000).is_ok());
        assert!(contents(&mut file(&bytes), 999).is_err());
        let names: Vec<_> = (0..=FILES_MAX).map(|n| n.to_string()).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        assert!(contents(&mut file(&archive(&files)), 1).is_err());
        assert!(contents(&mut file(&archive(&files[1..])), 1).is_ok());
        assert!(contents(&mut file(b"no archive"), 1).is_err());
    }
}
