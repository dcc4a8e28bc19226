//! Puts a version of an engine into the directory, and takes it out again: whole or not at all, whoever is killed meanwhile.
//!
//! ```text
//! DIRECTORY/opentofu/1.9.0/tofu        mode 0555
//! DIRECTORY/opentofu/1.9.0/installed   who vouched for it, and its SHA-256
//! ```

use super::release::{Place, Release, Word};
use super::turn::{Turn, make_folder, sync, unusable};
use super::{Installed, Shelf, unpack};
use crate::config::Config;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::hex;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Beside a program: what is known of it.
const RECORD: &str = "installed";
/// The longest of those that is read, bytes.
const RECORD_MAX: u64 = 4096;

/// What is known of a program that was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its SHA-256.
    pub sha256: String,
    /// That of the archive that it came in.
    pub archive_sha256: String,
    /// Who vouched for that.
    pub verified: String,
}

/// What came of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// It is there now.
    Installed(PathBuf, Record),
    /// It was there, the same.
    Already(PathBuf, Record),
}

/// How a program in the directory stands to what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Its SHA-256.
    pub sha256: String,
    /// What was written down when it was installed; `None`: somebody put it there by hand.
    pub record: Option<Record>,
}

// === impl Looked ===

impl Looked {
    /// Looks at a program that is in the directory: all of it is read.
    ///
    /// # Errors
    /// The file system's.
    pub fn at(installed: &Installed) -> io::Result<Self> {
        let sha256 = hex::encode(hash_of(&mut File::open(&installed.path)?)?);
        let record = installed.path.parent().and_then(record_in);
        Ok(Self { sha256, record })
    }
    /// Whether it is another than was installed.
    pub fn is_changed(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.sha256 != self.sha256)
    }
}

/// Installs a release from a place. `named`: the SHA-256 that its archive has to have.
///
/// # Errors
/// What is not verified is `source_refused`; `conflict` where another program is there by that version; `source_unavailable`, `too_large`,
/// `state_unusable`. Nothing has changed then.
pub async fn install(
    config: &Config,
    release: &Release,
    place: &Place,
    named: Option<[u8; 32]>,
) -> Result<Done, Failure> {
    let shelf = Shelf::new(&config.engines.directory);
    let turn = Turn::begin(config, shelf.folder())?;
    let (digest, word) = release.checksum(config, place, named).await?;
    let at = shelf.place(release.engine, &release.version);
    if let Some(record) = there(&at, release, &digest)? {
        return Ok(Done::Already(at.join(release.engine.program()), record));
    }
    let made = fill(turn.made(), config, release, place, &digest, &word).await?;
    put(turn.made(), &at)?;
    Ok(Done::Installed(at.join(release.engine.program()), made))
}

/// Takes a version out. What runs of it goes on; a plan that it made can be applied no more.
///
/// # Errors
/// `not_found`, `state_unusable`.
pub fn remove(config: &Config, release: &Release) -> Result<PathBuf, Failure> {
    let shelf = Shelf::new(&config.engines.directory);
    let at = shelf.place(release.engine, &release.version);
    let turn = Turn::begin(config, shelf.folder())?;
    match std::fs::rename(&at, turn.removed()) {
        Ok(()) => {
            sync(&at).map_err(|e| unusable(&at, &e))?;
            drop(turn);
            Ok(at)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Code::NotFound
            .on(format!("{} {} is not in {}", release.engine, release.version, shelf.folder().display()))
            .next("List what there is: `runner engines list`.")),
        Err(e) => Err(unusable(&at, &e)),
    }
}

/// Makes the version's folder, on disk before it has its name.
async fn fill(
    new: &Path,
    config: &Config,
    release: &Release,
    place: &Place,
    digest: &[u8; 32],
    word: &Word,
) -> Result<Record, Failure> {
    let failed = |e: io::Error| unusable(new, &e);
    make_folder(new).map_err(failed)?;
    let path = new.join("archive");
    let mut archive = OpenOptions::new().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
    release.fetch(config, place, *digest, &mut archive).await?;
    archive.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut program =
        OpenOptions::new().write(true).create_new(true).open(new.join(release.engine.program())).map_err(failed)?;
    let sha256 = unpack::program(&mut archive, release.engine, &mut program)?;
    std::fs::remove_file(&path).map_err(failed)?;
    program.set_permissions(Permissions::from_mode(0o555)).and_then(|()| program.sync_all()).map_err(failed)?;
    let record =
        Record { sha256: hex::encode(sha256), archive_sha256: hex::encode(digest), verified: word.to_string() };
    let text = serde_json::to_vec(&record).map_err(|e| failed(e.into()))?;
    shared_proto::file::write_whole(&new.join(RECORD), &text, 0o444).map_err(failed)?;
    // a mask on modes may have taken what others need to read it
    std::fs::set_permissions(new.join(RECORD), Permissions::from_mode(0o444)).map_err(failed)?;
    File::open(new).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(record)
}

/// What is there by that version, if it is of that archive.
fn there(at: &Path, release: &Release, digest: &[u8; 32]) -> Result<Option<Record>, Failure> {
    if !at.try_exists().map_err(|e| unusable(at, &e))? {
        return Ok(None);
    }
    let installed = Installed { version: release.version.clone(), path: at.join(release.engine.program()) };
    let looked = Looked::at(&installed).ok();
    match looked.filter(|looked| !looked.is_changed()).and_then(|looked| looked.record) {
        Some(record) if record.archive_sha256 == hex::encode(digest) => Ok(Some(record)),
        _ => Err(Code::Conflict
            .on(format!("{} is there already, and is not what would be installed", at.display()))
            .next(format!("Remove it first: `runner engines remove {} {}`.", release.engine, release.version))),
    }
}

/// Gives what was made its name.
fn put(new: &Path, at: &Path) -> Result<(), Failure> {
    let parent = at.parent().unwrap_or(at);
    make_folder(parent)
        .and_then(|()| sync(parent))
        .and_then(|()| std::fs::rename(new, at))
        .and_then(|()| sync(at))
        .map_err(|e| unusable(at, &e))
}

fn record_in(folder: &Path) -> Option<Record> {
    let mut text = String::new();
    let length = File::open(folder.join(RECORD)).ok()?.take(RECORD_MAX + 1).read_to_string(&mut text).ok()?;
    if length as u64 > RECORD_MAX {
        return None;
    }
    serde_json::from_str(&text).ok()
}

fn hash_of(file: &mut File) -> io::Result<[u8; 32]> {
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 256 * 1024]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash.finalize().into()),
            length => hash.update(&piece[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Engine;
    use super::super::unpack::tests::archive;
    use super::*;
    use shared_proto::version::Version;
    use std::collections::BTreeMap;

    struct Set {
        folder: tempfile::TempDir,
        config: Config,
        release: Release,
    }

    impl Set {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let mut config = Config::load(None, &BTreeMap::new(), &BTreeMap::new()).expect("a configuration");
            config.engines.directory = folder.path().join("state/engines");
            let release = Release { engine: Engine::OpenTofu, version: Version::parse("1.9.0").expect("a version") };
            Self { folder, config, release }
        }
        /// Puts such an archive at its vendor's; its checksum.
        fn offer(&self, program: &[u8]) -> Option<[u8; 32]> {
            let bytes = archive(&[("LICENSE", b"x"), ("tofu", program)]);
            std::fs::write(self.folder.path().join(self.release.archive().expect("a name")), &bytes).expect("writes");
            Some(Sha256::digest(&bytes).into())
        }
        async fn install(&self, named: Option<[u8; 32]>) -> Result<Done, Failure> {
            install(&self.config, &self.release, &Place::Folder(self.folder.path().to_owned()), named).await
        }
        fn shelf(&self) -> Shelf {
            Shelf::new(&self.config.engines.directory)
        }
        /// What is in the directory besides, by name.
        fn left(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.shelf().folder()).into_iter().flatten().flatten();
            let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    #[tokio::test]
    async fn what_is_installed_is_whole_read_only_and_known() {
        let set = Set::new();
        let named = set.offer(b"#!/bin/sh\n");
        let Ok(Done::Installed(path, record)) = set.install(named).await else { panic!("is installed") };
        assert_eq!(std::fs::read(&path).expect("reads"), b"#!/bin/sh\n");
        let mode = |path: &Path| std::fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        let folder = path.parent().expect("a folder");
        assert_eq!((mode(&path), mode(folder), mode(&folder.join(RECORD))), (0o555, 0o755, 0o444));
        assert_eq!(record.sha256, hex::encode(Sha256::digest(b"#!/bin/sh\n")));
        assert_eq!(record.verified, "checksum named at its installation");
        let listed = set.shelf().list(Engine::OpenTofu);
        assert_eq!(listed.iter().map(|i| &i.path).collect::<Vec<_>>(), [&path]);
        let looked = Looked::at(&listed[0]).expect("reads");
        assert!(!looked.is_changed() && looked.record == Some(record.clone()), "{looked:?}");
        assert_eq!(set.left(), [".lock", "opentofu"]);
        // once more, and another one by its name
        assert_eq!(set.install(named).await, Ok(Done::Already(path.clone(), record)));
        let other = set.offer(b"#!/bin/false\n");
        let failure = set.install(other).await.expect_err("another");
        assert_eq!(failure.code, Code::Conflict);
        assert!(failure.next_step.contains("`runner engines remove opentofu 1.9.0`"), "{failure}");
        assert_eq!(std::fs::read(&path).expect("reads"), b"#!/bin/sh\n");
        // somebody changed it
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("sets");
        std::fs::write(&path, "other").expect("writes");
        assert!(Looked::at(&listed[0]).expect("reads").is_changed());
        assert_eq!(set.install(named).await.expect_err("changed").code, Code::Conflict);
        assert_eq!(remove(&set.config, &set.release).as_deref(), Ok(folder));
        assert!(set.shelf().list(Engine::OpenTofu).is_empty());
        assert_eq!(remove(&set.config, &set.release).expect_err("gone").code, Code::NotFound);
        assert!(matches!(set.install(other).await, Ok(Done::Installed(..))));
    }

    #[tokio::test]
    async fn what_is_not_verified_leaves_nothing() {
        let set = Set::new();
        set.offer(b"#!/bin/sh\n");
        for named in [Some([7; 32]), None] {
            let failure = set.install(named).await.expect_err("not verified");
            assert!(matches!(failure.code, Code::SourceRefused | Code::SourceUnavailable), "{failure}");
            assert!(set.shelf().list(Engine::OpenTofu).is_empty());
            assert_eq!(set.left(), [".lock"]);
        }
        // verified, and without a program
        let bytes = archive(&[("README.md", b"x")]);
        std::fs::write(set.folder.path().join(set.release.archive().expect("a name")), &bytes).expect("writes");
        let failure = set.install(Some(Sha256::digest(&bytes).into())).await.expect_err("no program");
        assert_eq!((failure.code, set.left()), (Code::SourceRefused, vec![".lock".to_owned()]));
    }

    #[tokio::test]
    async fn what_a_killed_one_left_is_nobodys_and_cleared() {
        let set = Set::new();
        let folder = set.shelf().folder().to_owned();
        for half in [".new", ".gone"] {
            std::fs::create_dir_all(folder.join(half)).expect("makes");
            std::fs::write(folder.join(half).join("tofu"), "half").expect("writes");
        }
        assert!(set.shelf().list(Engine::OpenTofu).is_empty());
        let named = set.offer(b"whole");
        assert!(matches!(set.install(named).await, Ok(Done::Installed(..))));
        assert_eq!(set.left(), [".lock", "opentofu"]);
        assert_eq!(set.shelf().list(Engine::OpenTofu).len(), 1);
    }
}
