//! Which symbolic links of a source stay inside of it.

use super::{DEPTH_MAX, PATH_MAX};
use std::path::Path;

/// Whether a link in a folder `depth` folders below the top, whose way there goes through real folders only, stays inside.
///
/// `..` is counted where it leads, and refused after a name: that name may be another link, and `..` then goes up from wherever
/// that one leads. So no chain of links that are each accepted can leave.
pub(super) fn stays_inside(depth: usize, target: &[u8]) -> bool {
    if target.is_empty() || target.len() >= PATH_MAX || target[0] == b'/' || target.contains(&0) {
        return false;
    }
    let (mut up, mut down) = (0, 0);
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if down > 0 => return false,
            b".." => up += 1,
            _ => down += 1,
        }
    }
    up <= depth && depth - up + down <= DEPTH_MAX
}

/// What a folder that somebody else filled holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Files, links and folders.
    pub(super) entries: u64,
    /// Bytes of the files.
    pub(super) bytes: u64,
}

/// Looks through a folder without following a link.
///
/// # Errors
/// In words: a link that leaves, or something that is neither file, folder nor link; the file system.
pub(super) fn look_through(top: &Path) -> Result<Held, String> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut held = Held::default();
    let mut folders = vec![(top.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for entry in entries {
            let entry = entry.map_err(|e| format!("{}: {e}", folder.display()))?;
            let path = entry.path();
            let shown = path.strip_prefix(top).unwrap_or(&path).display().to_string();
            let found = std::fs::symlink_metadata(&path).map_err(|e| format!("{shown}: {e}"))?;
            held.entries += 1;
            if found.is_dir() {
                if depth + 1 > DEPTH_MAX {
                    return Err(format!("{shown} is deeper than {DEPTH_MAX} folders"));
                }
                folders.push((path, depth + 1));
            } else if found.is_symlink() {
                let target = std::fs::read_link(&path).map_err(|e| format!("{shown}: {e}"))?;
                if !stays_inside(depth, target.as_os_str().as_bytes()) {
                    return Err(format!("the link {shown} leads out of the source"));
                }
            } else if found.is_file() {
                held.bytes += found.len();
            } else {
                return Err(format!("{shown} is neither a file, a folder nor a link"));
            }
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_and_out() {
        for (depth, target, inside) in [
            (0, "a", true),
            (0, "./a/b", true),
            (1, "../a", true),
            (2, "../../a", true),
            (1, "..", true),
            (0, "..", false),
            (1, "../../a", false),
            (0, "/etc/passwd", false),
            (0, "", false),
            (0, "a/../b", false),
            (3, "a/..", false),
            (0, "a\0", false),
        ] {
            assert_eq!(stays_inside(depth, target.as_bytes()), inside, "{depth} {target:?}");
        }
        assert!(!stays_inside(0, "a/".repeat(DEPTH_MAX + 1).as_bytes()));
        assert!(!stays_inside(0, &[b'a'; PATH_MAX]));
    }
}
