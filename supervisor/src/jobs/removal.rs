//! Removes what a job has left, whatever it has made of it: folders without any permission, folders in folders by the ten thousands, links.
//!
//! It goes no deeper than two folders: what lies further down is moved up first, so that neither the stack nor the descriptors can run out.
//! It must never follow a link.

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Removes a folder with all that is in it; that there is none is as good.
///
/// # Errors
/// The system's; what is left then can be removed by another call.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let above = match path.parent().map(std::fs::File::open) {
        Some(above) => OwnedFd::from(above?),
        None => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let name = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(name))?;
    let top = match open_up(above.as_fd(), &name) {
        Err(Errno::ENOENT) => return Ok(()),
        top => top?,
    };
    let mut moved = 0_u64;
    // what a pass moves up, the next one empties; each pass removes all that the one before has left
    while !pass(&top, &mut moved)? {}
    Ok(unlinkat(above.as_fd(), name.as_c_str(), UnlinkatFlags::RemoveDir)?)
}

/// Removes the files of a folder and the files of its folders, and moves up the folders of those; `true`: there was nothing.
fn pass(top: &OwnedFd, moved: &mut u64) -> io::Result<bool> {
    let mut none = true;
    for (name, is_folder) in entries(top)? {
        none = false;
        if !is_folder {
            unlinkat(top.as_fd(), name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
            continue;
        }
        let folder = open_up(top.as_fd(), &name)?;
        for (inner, is_folder) in entries(&folder)? {
            if is_folder {
                // it is moved with its own `..` in it, which takes the right to write it
                drop(open_up(folder.as_fd(), &inner)?);
                move_up(&folder, &inner, top, moved)?;
            } else {
                unlinkat(folder.as_fd(), inner.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
            }
        }
        match unlinkat(top.as_fd(), name.as_c_str(), UnlinkatFlags::RemoveDir) {
            // more than one look shows
            Ok(()) | Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(none)
}

fn move_up(from: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let new = CString::new(format!(".moved-{moved}"))?;
        match renameat(from.as_fd(), name, top.as_fd(), new.as_c_str()) {
            // somebody has used the name, for something that is not an empty folder
            Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
            other => return Ok(other?),
        }
    }
}

/// The names in a folder, so many at a time, and which of them are folders.
fn entries(folder: &OwnedFd) -> io::Result<Vec<(CString, bool)>> {
    const AT_ONCE: usize = 1024;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listed = Dir::openat(folder.as_fd(), ".", flags, Mode::empty())?;
    let mut entries = Vec::new();
    for entry in listed.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_folder = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => is_folder(folder.as_fd(), name)?,
        };
        entries.push((name.to_owned(), is_folder));
        if entries.len() == AT_ONCE {
            break;
        }
    }
    Ok(entries)
}

fn is_folder(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    use nix::sys::stat::{SFlag, fstatat};
    let found = fstatat(folder, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

/// Opens a folder, with all rights of its owner whatever it had; never by way of a link.
fn open_up(folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let usual = |flags| openat(folder, name, flags, Mode::empty());
    let named = usual(flags | OFlag::O_PATH)?;
    let mode = nix::sys::stat::fstat(&named)?.st_mode & 0o777;
    if mode & 0o700 != 0o700 {
        // by the very folder that was opened, and not by its name
        let path = format!("/proc/self/fd/{}", named.as_raw_fd());
        let changed = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
        changed.map_err(|e| e.raw_os_error().map_or(Errno::EACCES, Errno::from_raw))?;
    }
    usual(flags | OFlag::O_RDONLY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mkdirat;

    #[test]
    fn what_a_job_has_made_of_its_folder_is_removed_and_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let top = at("job");
        std::fs::create_dir_all(top.join("closed/inner")).expect("makes");
        std::fs::create_dir_all(top.join(".moved-1/x")).expect("makes");
        std::fs::write(top.join(".moved-2"), "a name in the way").expect("writes");
        std::fs::write(top.join("closed/inner/file"), "x").expect("writes");
        std::fs::create_dir_all(at("beside/deep")).expect("makes");
        std::fs::write(at("beside/deep/file"), "stays").expect("writes");
        for (name, to) in [("link", "beside"), ("closed/link", "beside/deep")] {
            std::os::unix::fs::symlink(at(to), top.join(name)).expect("links");
        }
        for n in 0..3000 {
            std::fs::write(top.join(format!("closed/{n}")), "").expect("writes");
        }
        // deeper than any stack or any path
        let mut deep = OwnedFd::from(std::fs::File::open(&top).expect("opens"));
        for _ in 0..5_000 {
            mkdirat(&deep, "d", Mode::S_IRWXU).expect("makes");
            deep = openat(&deep, "d", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).expect("opens");
        }
        for closed in ["closed/inner", "closed"] {
            std::fs::set_permissions(top.join(closed), std::fs::Permissions::from_mode(0o0)).expect("sets");
        }
        let removing = std::thread::Builder::new().stack_size(256 << 10).spawn(move || remove_tree(&top));
        removing.expect("starts").join().expect("ends").expect("removes");
        assert!(!at("job").exists());
        assert_eq!(std::fs::read_to_string(at("beside/deep/file")).expect("stays"), "stays");
        remove_tree(&at("job")).expect("nothing is as good");
    }
}
