//! The directory of engines: what is in it, by version. Anything that is not named as it has to be is nobody's, and is passed over.

use super::Engine;
use shared_proto::version::Version;
use std::cmp::Reverse;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The most versions of one engine that are looked at; which of more is not said.
pub const VERSIONS_MAX: usize = 64;

/// A directory of engines. It need not be there.
#[derive(Debug, Clone)]
pub struct Shelf {
    folder: PathBuf,
}

/// One version of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The version that its folder is called by.
    pub version: Version,
    /// Its program.
    pub path: PathBuf,
}

// === impl Shelf ===

impl Shelf {
    /// The one in that folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }
    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
    /// Where a version of an engine is, or would be: its own folder.
    pub fn place(&self, engine: Engine, version: &Version) -> PathBuf {
        self.folder.join(engine.name()).join(version.to_string())
    }
    /// The versions of an engine, newest first.
    pub fn list(&self, engine: Engine) -> Vec<Installed> {
        let Ok(entries) = std::fs::read_dir(self.folder.join(engine.name())) else { return Vec::new() };
        let one = |entry: std::fs::DirEntry| {
            let version = Version::parse_whole(entry.file_name().to_str()?).ok()?;
            let path = entry.path().join(engine.program());
            is_program(&path).then_some(Installed { version, path })
        };
        let mut all: Vec<_> = entries.flatten().filter_map(one).take(VERSIONS_MAX).collect();
        all.sort_by_key(|installed| Reverse(installed.version.clone()));
        all
    }
}

/// By its mode: whoever runs it is another user than this process.
fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn put(shelf: &Shelf, path: &str, mode: u32) {
        let path = shelf.folder().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
        fs::write(&path, "").expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("sets");
    }

    #[test]
    fn what_is_named_as_it_has_to_be_is_listed_newest_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::new(folder.path());
        assert!(shelf.list(Engine::OpenTofu).is_empty());
        for version in ["1.9.0", "1.10.0", "1.10.0-rc1", "1.2.3"] {
            put(&shelf, &format!("opentofu/{version}/tofu"), 0o555);
        }
        for (path, mode) in [
            ("opentofu/1.9/tofu", 0o555),
            ("opentofu/v1.8.0/tofu", 0o555),
            ("opentofu/.new-1/tofu", 0o555),
            ("opentofu/1.7.0/terraform", 0o555),
            ("opentofu/1.6.0/tofu", 0o444),
            ("opentofu/1.5.0/tofu/tofu", 0o555),
            ("terraform/1.11.4/terraform", 0o755),
        ] {
            put(&shelf, path, mode);
        }
        let versions = |engine| shelf.list(engine).into_iter().map(|i| i.version.to_string()).collect::<Vec<_>>();
        assert_eq!(versions(Engine::OpenTofu), ["1.10.0", "1.10.0-rc1", "1.9.0", "1.2.3"]);
        assert_eq!(versions(Engine::Terraform), ["1.11.4"]);
        let first = &shelf.list(Engine::OpenTofu)[0];
        assert_eq!(first.path, shelf.place(Engine::OpenTofu, &first.version).join("tofu"));
    }

    #[test]
    fn no_more_versions_than_that_are_looked_at() {
        let folder = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::new(folder.path());
        for n in 0..VERSIONS_MAX {
            put(&shelf, &format!("terraform/1.0.{n}/terraform"), 0o555);
        }
        assert_eq!(shelf.list(Engine::Terraform).len(), VERSIONS_MAX);
        put(&shelf, "terraform/2.0.0/terraform", 0o555);
        assert_eq!(shelf.list(Engine::Terraform).len(), VERSIONS_MAX);
    }
}
