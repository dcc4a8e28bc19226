//! What a child is confined with: a value that one can print, made once for many children. The steps themselves are the child's
//! (`spawn`), in an order in which none of them takes away what a later one needs.

use crate::landlock::{Access, Ruleset};
use crate::mapped::Mapping;
use crate::seccomp::Filter;
use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// Where the new root is put together: a folder that exists everywhere. The mount is the child's own and covers nothing for anybody else.
pub(crate) const SCAFFOLD: &CStr = c"/proc";
/// The options of the new root's own file system. What it holds is a few folders and empty files to mount upon.
pub(crate) const ROOT_OPTIONS: &CStr = c"size=256k,nr_inodes=1k,mode=755";
/// The longest text of a file in a root, bytes.
const TEXT_MAX: usize = 4096;

/// Limits of a confined process. It can never gain privileges by executing a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors.
    pub descriptors: u64,
    /// The largest file that it may write, bytes.
    pub file_size: u64,
    /// Its private writable memory, bytes (RLIMIT_DATA).
    pub memory: u64,
    /// Its processes and threads together with those that it starts (RLIMIT_NPROC). The kernel counts them by user and user namespace, so it is
    /// a bound of this child alone only where it has a user namespace of its own, and never for root itself.
    pub processes: u64,
    /// How far it stands back behind this process for the processor: 0 to 19, as nice(1) counts.
    pub niceness: i32,
}

/// A user that no other process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Its user id.
    pub uid: u32,
    /// Its group id, the only one.
    pub gid: u32,
}

/// Namespaces of its own.
#[derive(Debug, Clone)]
pub struct Namespaces {
    /// Whether a user namespace comes first: what makes the others possible without privileges.
    pub user: User,
    /// Whether it has a network namespace of its own, which is empty but for a loopback that is down (up, where its filter's listener is handed
    /// over: see [`crate::spawn::Plan::handover`]). Else it is in this process's. Making one takes longer than all the rest, so whoever can be
    /// in an empty one itself has its children share that.
    pub network: bool,
    /// Mount, pid, ipc, uts and cgroup namespaces, with what its root consists of; else it is in this process's.
    pub root: Option<Root>,
}

/// Who a child is in a user namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// There is none: it is in this process's.
    Shared,
    /// The same user as before.
    Same,
    /// A user without a name there. Its files are its own as before, and nothing can give it another user. Needs no /proc.
    Nameless,
}

/// A root of named parts of this machine, on a small file system of its own; read-only but for the parts that are said to be written.
#[derive(Debug, Clone, Default)]
pub struct Root {
    pub(crate) steps: Vec<RootStep>,
    /// What this root makes itself, so that no domain made elsewhere can name it: the child adds these to its domain.
    pub(crate) made: Vec<(CString, Access)>,
    /// Where it starts; else in the root.
    pub(crate) directory: Option<CString>,
}

/// One part of a root. Paths in the new root lie below [`SCAFFOLD`] until it is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RootStep {
    Folder(CString),
    /// An empty file, to mount another upon.
    File(CString),
    Mount {
        from: CString,
        to: CString,
        /// Whether its files are shown as the process's own, where it is another user: see [`Confinement::files_as`].
        own: bool,
    },
    Link {
        to: CString,
        at: CString,
    },
    /// A file system in memory.
    Memory {
        at: CString,
        options: CString,
    },
    /// The processes of its pid namespace; left out where the kernel refuses it (parts of this machine's own are hidden).
    Processes {
        at: CString,
    },
    /// A file with that text.
    Text {
        at: CString,
        text: Vec<u8>,
    },
    /// A mount that is written, as far as its files allow it.
    Writable {
        at: CString,
    },
}

/// All that confines a child.
#[derive(Debug, Clone, Copy)]
pub struct Confinement<'a> {
    /// Limits, and no way to new privileges; always.
    pub limits: Limits,
    /// Namespaces.
    pub namespaces: Option<&'a Namespaces>,
    /// The network namespace that it is to be in; else this process's. Only where this process may enter it.
    pub network: Option<BorrowedFd<'a>>,
    /// A mount namespace in which the root of `namespaces` stands already: another child's, who has put it together ([`root_of`]). It enters a
    /// copy of that. Only where this process may enter it, and with [`User::Shared`].
    pub standing: Option<BorrowedFd<'a>>,
    /// A user of its own; only where this process is root.
    pub own: Option<Own>,
    /// That user's mapping: what its root shows as its own is this process's user's, and shown as it is where the file system cannot do that.
    pub files_as: Option<&'a Mapping>,
    /// A Landlock domain.
    pub domain: Option<&'a Ruleset>,
    /// The system calls that it may make. They must include what executes its program.
    pub filter: Option<&'a Filter>,
}

/// The mount namespace of a child, for [`Confinement::standing`]: it stays as long as this is open, whatever becomes of the child.
///
/// # Errors
/// The system's: it has ended, or this process may not look into it.
pub fn root_of(pid: i32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/ns/mnt"))
}

// === impl Root ===

impl Root {
    /// Shows a file or a folder of this machine under its own path. What is not there is left out; a symbolic link is made anew, and what it
    /// points at shown as well.
    #[must_use]
    pub fn show(mut self, path: &Path) -> Self {
        self.add(path, false, 0);
        self
    }

    /// The same for what is this process's user's and is to be the child's own, where that one is another: see [`Confinement::files_as`].
    #[must_use]
    pub fn show_as_own(mut self, path: &Path) -> Self {
        self.add(path, true, 0);
        self
    }

    /// The same, and written as well, as far as its files allow it: a folder, not by way of a link.
    #[must_use]
    pub fn write(self, path: &Path) -> Self {
        self.write_as(path, path)
    }

    /// The same under another path.
    #[must_use]
    pub fn write_as(mut self, path: &Path, at: &Path) -> Self {
        if let (Ok(from), Some(to)) = (CString::new(path.as_os_str().as_bytes()), scaffold(at)) {
            self.folders(at);
            self.push(RootStep::Mount { from, to: to.clone(), own: true });
            self.push(RootStep::Writable { at: to });
        }
        self
    }

    /// Puts a folder there that is in memory, for this root alone, of so many bytes and files at most.
    #[must_use]
    pub fn memory(mut self, path: &Path, bytes: u64, files: u64) -> Self {
        let options = CString::new(format!("size={bytes},nr_inodes={files},mode=1777"));
        if let (Ok(options), Some(at), Ok(inside)) =
            (options, scaffold(path), CString::new(path.as_os_str().as_bytes()))
        {
            self.folders(path);
            self.push(RootStep::Memory { at: at.clone(), options });
            self.push(RootStep::Writable { at });
            self.made.push((inside, Access::Write));
        }
        self
    }

    /// Shows the processes of its own pid namespace at /proc, read-only, where the kernel allows it.
    #[must_use]
    pub fn processes(mut self) -> Self {
        let path = Path::new("/proc");
        if let Some(at) = scaffold(path) {
            self.folders(path);
            self.push(RootStep::Processes { at });
            self.made.push((c"/proc".to_owned(), Access::Read));
        }
        self
    }

    /// Puts a file with that text there, at most 4 KiB, in place of what this machine has under that name.
    #[must_use]
    pub fn text(mut self, path: &Path, text: &[u8]) -> Self {
        if let (Some(at), Ok(inside), Some(parent)) =
            (scaffold(path), CString::new(path.as_os_str().as_bytes()), path.parent())
            && text.len() <= TEXT_MAX
        {
            self.folders(parent);
            self.push(RootStep::Text { at, text: text.to_vec() });
            self.made.push((inside, Access::Read));
        }
        self
    }

    /// Makes a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &Path, to: &CStr) -> Self {
        if let (Some(at), Some(parent)) = (scaffold(path), path.parent()) {
            self.folders(parent);
            self.push(RootStep::Link { to: to.to_owned(), at });
        }
        self
    }

    /// Where its process starts.
    #[must_use]
    pub fn start_in(mut self, path: &Path) -> Self {
        self.directory = CString::new(path.as_os_str().as_bytes()).ok();
        self
    }

    fn add(&mut self, path: &Path, own: bool, depth: u32) {
        if self.shows(path) {
            return;
        }
        let Ok(found) = std::fs::symlink_metadata(path) else { return };
        // a chain of links that has no end is nobody's root
        if depth > 8 || !path.is_absolute() {
            return;
        }
        if let Some(parent) = path.parent() {
            self.folders(parent);
        }
        let Some(at) = scaffold(path) else { return };
        if found.file_type().is_symlink() {
            let Ok(target) = std::fs::read_link(path) else { return };
            let Ok(to) = CString::new(target.as_os_str().as_bytes()) else { return };
            self.push(RootStep::Link { to, at });
            self.add(&plain(&path.parent().unwrap_or(Path::new("/")).join(target)), own, depth + 1);
            return;
        }
        let Ok(from) = CString::new(path.as_os_str().as_bytes()) else { return };
        if found.is_dir() {
            self.push(RootStep::Folder(at.clone()));
        } else {
            self.push(RootStep::File(at.clone()));
        }
        self.push(RootStep::Mount { from, to: at, own });
    }

    /// Makes the folders on the way to something.
    fn folders(&mut self, path: &Path) {
        let mut so_far = PathBuf::from("/");
        for part in path.components().skip(1) {
            so_far.push(part);
            if self.shows(&so_far) {
                return;
            }
            if let Some(at) = scaffold(&so_far) {
                self.push(RootStep::Folder(at));
            }
        }
    }

    /// Whether a folder is shown already that has the path in it.
    fn shows(&self, path: &Path) -> bool {
        self.steps.iter().any(|step| match step {
            RootStep::Mount { from, .. } => path.starts_with(Path::new(std::ffi::OsStr::from_bytes(from.to_bytes()))),
            _ => false,
        })
    }

    fn push(&mut self, step: RootStep) {
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
    }
}

/// Without `.` and `..`, by the letter.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::Normal(name) => plain.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

fn scaffold(path: &Path) -> Option<CString> {
    let below = path.strip_prefix("/").ok()?;
    let mut text = SCAFFOLD.to_bytes().to_vec();
    text.push(b'/');
    text.extend(below.as_os_str().as_bytes());
    CString::new(text).ok()
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<_> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                RootStep::Mount { from, .. } => Some(from.to_string_lossy()),
                _ => None,
            })
            .collect();
        f.write_str(&shown.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_has_each_part_once_with_the_folders_on_the_way() {
        let folder = std::env::temp_dir().join(format!("runner-root-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("real/deep")).expect("makes");
        std::fs::write(folder.join("real/file"), "x").expect("writes");
        std::os::unix::fs::symlink("real/deep/../file", folder.join("link")).expect("links");
        std::os::unix::fs::symlink("loop", folder.join("loop")).expect("links");
        let root = Root::default()
            .show(&folder.join("link"))
            .show(&folder.join("real/deep"))
            .show(&folder.join("real/deep"))
            .show(&folder.join("loop"))
            .show(Path::new("/not/there"))
            .show(Path::new("relative"));
        let mounted = root.to_string();
        let expected = format!("{0}/real/file, {0}/real/deep", folder.display());
        assert_eq!(mounted, expected, "{root:?}");
        let text = format!("{root:?}");
        assert!(text.contains("Link") && !text.contains("not/there"), "{text}");
        std::fs::remove_dir_all(&folder).expect("removes");
    }
}
