//! An archive of somebody else's, taken apart: only files and folders, only below the place that was named, through no link, and one file
//! replaces another only once it has come whole.

use crate::stop;
use shared_proto::failure::{Code, Failure};
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use tempfile::NamedTempFile;

/// Entries of one archive, at most.
const ENTRIES_MAX: u64 = 1_000_000;
/// Names of what was left out that are told, at most.
const TOLD_MAX: usize = 20;

/// What has come of it.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) files: u64,
    /// What is no file and no folder, with why.
    pub(super) left_out: Vec<String>,
}

/// What has come of it, where a single file is not yet in its place.
#[derive(Debug)]
pub(super) struct Pending {
    unpacked: Unpacked,
    last: Option<(NamedTempFile, PathBuf)>,
}

// === impl Pending ===

impl Pending {
    /// Puts a single file in its place: the other end has said that it is whole.
    pub(super) fn keep(self) -> Result<Unpacked, Failure> {
        if let Some((file, target)) = self.last {
            file.persist(&target).map_err(|e| stop::file(&target, &e.error))?;
        }
        Ok(self.unpacked)
    }
}

/// Takes an archive apart in which all is called `name`, or is below that. `target`: what that becomes here.
pub(super) fn unpack(archive: &mut impl Read, name: &str, target: &Path) -> Result<Pending, Failure> {
    let broken = |e: std::io::Error| {
        Code::TargetLost
            .on(format!("what came is not a whole archive: {e}"))
            .next("Check that it is there, and copy it again.")
    };
    let mut archive = tar::Archive::new(archive);
    let mut pending = Pending { unpacked: Unpacked { files: 0, left_out: Vec::new() }, last: None };
    let mut entries = 0;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        entries += 1;
        if entries > ENTRIES_MAX {
            return Err(Code::TooLarge.on(format!("the archive has more than {ENTRIES_MAX} entries")));
        }
        let inside = entry.path().map_err(broken)?.into_owned();
        let below = below(&inside, name)?;
        let place = below.iter().fold(target.to_owned(), |place, part| place.join(part));
        match entry.header().entry_type() {
            tar::EntryType::Directory => make_folder(target, &below)?,
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                if let Some((_, parents)) = below.split_last() {
                    make_folder(target, parents)?;
                }
                let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
                let file = write_file(&mut entry, &place, mode)?;
                pending.unpacked.files += 1;
                if below.is_empty() {
                    pending.last = Some((file, place));
                } else {
                    file.persist(&place).map_err(|e| stop::file(&place, &e.error))?;
                }
            }
            tar::EntryType::XGlobalHeader | tar::EntryType::XHeader => {}
            kind => {
                let what = match kind {
                    tar::EntryType::Symlink | tar::EntryType::Link => "a link",
                    _ => "neither a file nor a folder",
                };
                if pending.unpacked.left_out.len() < TOLD_MAX {
                    pending.unpacked.left_out.push(format!("{} ({what})", inside.display()));
                }
            }
        }
    }
    if entries == 0 {
        return Err(Code::TargetLost.on("nothing came").next("Check that it is there, and copy it again."));
    }
    Ok(pending)
}

/// What of a name is below the one that all have; refused where it leads elsewhere.
fn below(inside: &Path, name: &str) -> Result<Vec<PathBuf>, Failure> {
    let refused = || {
        Code::TargetRefused
            .on(format!("the archive holds {:?}, which is not below {name:?}", inside.display().to_string()))
            .next("Do not trust that container; nothing was written for it.")
    };
    let mut parts = Vec::new();
    for part in inside.components() {
        match part {
            Component::Normal(part) => parts.push(PathBuf::from(part)),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(refused()),
        }
    }
    if parts.first().is_none_or(|first| first.as_os_str() != OsStr::new(name)) {
        return Err(refused());
    }
    parts.remove(0);
    Ok(parts)
}

/// Makes a folder below the target, and through no link: one that is there may lead anywhere.
fn make_folder(target: &Path, below: &[PathBuf]) -> Result<(), Failure> {
    let mut place = target.to_owned();
    for part in std::iter::once(None).chain(below.iter().map(Some)) {
        if let Some(part) = part {
            place.push(part);
        }
        match std::fs::symlink_metadata(&place) {
            // what was named by the user may be a link
            Ok(kind) if kind.is_dir() || (part.is_none() && place.is_dir()) => {}
            Ok(_) => {
                return Err(Code::TargetRefused
                    .on(format!("{} is there and is no folder", place.display()))
                    .next("Move it out of the way, or copy to another place."));
            }
            Err(_) => std::fs::create_dir(&place).map_err(|e| stop::file(&place, &e))?,
        }
    }
    Ok(())
}

/// Writes one file beside its place.
fn write_file(entry: &mut impl Read, place: &Path, mode: u32) -> Result<NamedTempFile, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    if place.is_dir() {
        return Err(Code::TargetRefused.on(format!("{} is a folder", place.display())));
    }
    let folder = place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = NamedTempFile::new_in(folder).map_err(|e| stop::file(place, &e))?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // which end failed is told apart
        let read = entry.read(&mut buffer).map_err(|e| Code::TargetLost.on(format!("what came is cut off: {e}")))?;
        if read == 0 {
            break;
        }
        std::io::Write::write_all(&mut file, &buffer[..read]).map_err(|e| stop::file(place, &e))?;
    }
    let permissions = std::fs::Permissions::from_mode(mode | 0o600);
    file.as_file().set_permissions(permissions).map_err(|e| stop::file(place, &e))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Entry<'a> {
        File(&'a str, &'a str),
        Link(&'a str, &'a str),
        Folder(&'a str),
    }

    /// An archive with names as they are, also with those that a careful writer refuses.
    fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
        let mut all = tar::Builder::new(Vec::new());
        for entry in entries {
            let mut header = tar::Header::new_gnu();
            let (name, content) = match entry {
                Entry::File(name, content) => (name, *content),
                Entry::Link(name, to) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_link_name(to).expect("a name");
                    (name, "")
                }
                Entry::Folder(name) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    (name, "")
                }
            };
            header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_mode(0o4755);
            header.set_size(content.len() as u64);
            header.set_cksum();
            all.append(&header, content.as_bytes()).expect("writes");
        }
        all.into_inner().expect("writes")
    }

    fn done(entries: &[Entry<'_>], target: &Path) -> Result<Unpacked, Failure> {
        unpack(&mut &archive(entries)[..], "x", target)?.keep()
    }

    #[test]
    fn nothing_gets_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("to");
        for name in ["/etc/x", "x/../../y", "../x", "y", "x/a/../../../z", "./../x"] {
            let refused = done(&[Entry::File(name, "bad")], &target).expect_err(name);
            assert_eq!(refused.code, Code::TargetRefused, "{name}");
        }
        // a link, and a file through it
        let out = folder.path().join("out");
        std::fs::create_dir(&out).expect("makes");
        let entries =
            [Entry::Folder("x"), Entry::Link("x/link", &out.display().to_string()), Entry::File("x/link/f", "bad")];
        let unpacked = done(&entries, &target).expect("the link is left out");
        assert_eq!((unpacked.files, unpacked.left_out.len()), (1, 1));
        assert!(!out.join("f").exists() && target.join("link/f").is_file());
        // one that was there before
        std::os::unix::fs::symlink(&out, target.join("old")).expect("links");
        let refused = done(&[Entry::File("x/old/f", "bad")], &target).expect_err("through a link");
        assert!(refused.code == Code::TargetRefused && !out.join("f").exists(), "{refused}");
        // one in the place of a file is replaced, and not followed
        std::os::unix::fs::symlink(out.join("g"), target.join("g")).expect("links");
        done(&[Entry::File("x/g", "good")], &target).expect("replaces");
        assert!(!out.join("g").exists() && target.join("g").is_file());
    }

    #[test]
    fn a_file_that_is_cut_off_replaces_nothing() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("f");
        std::fs::write(&target, "before").expect("writes");
        let whole = archive(&[Entry::File("x", &"new".repeat(1000))]);
        for size in [0, 100, 512, 600, 3000] {
            assert_eq!(
                unpack(&mut &whole[..size], "x", &target).expect_err("is cut off").code,
                Code::TargetLost,
                "{size}"
            );
            assert_eq!(std::fs::read_to_string(&target).expect("is there"), "before");
        }
        // whole, and the other end has not said so yet
        drop(unpack(&mut &whole[..], "x", &target).expect("is whole"));
        assert_eq!(std::fs::read_to_string(&target).expect("is there"), "before");
        unpack(&mut &whole[..], "x", &target).expect("is whole").keep().expect("is kept");
        assert!(std::fs::read_to_string(&target).expect("is there").starts_with("newnew"));
        let mode = std::fs::metadata(&target).expect("is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{mode:o}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 1, "nothing is left over");
    }
}
