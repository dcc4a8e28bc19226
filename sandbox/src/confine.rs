//! What a child is confined with: a value that one can print, made once for many children. The steps themselves are the child's
//! (`spawn`), in an order in which none of them takes away what a later one needs.

use crate::landlock::Ruleset;
use crate::seccomp::Filter;
use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Where the new root is put together: a folder that exists everywhere. The mount is the child's own and covers nothing for anybody else.
pub(crate) const SCAFFOLD: &CStr = c"/proc";
/// The options of the new root's own file system. What it holds is a few folders and empty files to mount upon.
pub(crate) const ROOT_OPTIONS: &CStr = c"size=256k,nr_inodes=1k,mode=755";

/// Limits of a confined process. It can never gain privileges by executing a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors.
    pub descriptors: u64,
    /// The largest file that it may write, bytes.
    pub file_size: u64,
    /// Its private writable memory, bytes (RLIMIT_DATA).
    pub memory: u64,
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

/// Namespaces of its own: mount, pid, ipc, uts and cgroup.
#[derive(Debug, Clone)]
pub struct Namespaces {
    /// Whether a user namespace comes first, in which it is the same user as before: what makes the others possible without privileges.
    pub user: bool,
    /// Whether it has a network namespace of its own, which is empty, too; else it is in this process's. Making one takes longer than all the
    /// rest, so whoever can be in an empty one itself has its children share that.
    pub network: bool,
    /// What its root consists of.
    pub root: Root,
}

/// A root of named parts of this machine, read-only, on a small file system of its own.
#[derive(Debug, Clone, Default)]
pub struct Root {
    pub(crate) steps: Vec<RootStep>,
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
    },
    Link {
        to: CString,
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
    /// A user of its own; only where this process is root.
    pub own: Option<Own>,
    /// A Landlock domain.
    pub domain: Option<&'a Ruleset>,
    /// The system calls that it may make. They must include what executes its program.
    pub filter: Option<&'a Filter>,
}

// === impl Root ===

impl Root {
    /// Shows a file or a folder of this machine under its own path. What is not there is left out; a symbolic link is made anew, and what it
    /// points at shown as well.
    #[must_use]
    pub fn show(mut self, path: &Path) -> Self {
        self.add(path, 0);
        self
    }

    fn add(&mut self, path: &Path, depth: u32) {
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
            let target = path.parent().unwrap_or(Path::new("/")).join(target);
            if let Ok(target) = std::path::absolute(&target)
                && !self.shows(&target)
            {
                self.add(&target, depth + 1);
            }
            return;
        }
        let Ok(from) = CString::new(path.as_os_str().as_bytes()) else { return };
        if found.is_dir() {
            self.push(RootStep::Folder(at.clone()));
        } else {
            self.push(RootStep::File(at.clone()));
        }
        self.push(RootStep::Mount { from, to: at });
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
        std::os::unix::fs::symlink("real/file", folder.join("link")).expect("links");
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
