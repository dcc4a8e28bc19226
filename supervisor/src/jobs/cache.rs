//! Commits that were fetched, kept for the next job that wants one: `STATE/sources/PLACE/COMMIT.pack`, a pack as git sent it. PLACE is made of the
//! address and of the entry of `[sources]` that it was fetched with: what came with credentials is given to no job that would not get them.
//!
//! Jobs read it. What is kept is a job's word and is never believed: whoever uses a pack has git make the commit's own hash of it.

use super::surroundings::Settings;
use sha2::{Digest as _, Sha256};
use shared_proto::bounds::{ARCHIVE_PACKED_MAX, FETCHED_PACK};
use shared_proto::v1::{Source, source};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// In the state directory.
const FOLDER: &str = "sources";
/// What packs are called after their commits.
const PACK: &str = ".pack";
/// The most packs that are looked at, of all places.
const PACKS_MAX: usize = 65_536;

/// What is kept.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    folder: PathBuf,
    /// Of all packs, bytes.
    most: u64,
}

// === impl Cache ===

impl Cache {
    pub(super) fn of(settings: &Settings) -> Self {
        Self { folder: settings.state_dir.join(FOLDER), most: settings.source_cache }
    }

    /// The folder with the commits of that source, made where there is none; none where nothing of it is kept.
    pub(super) fn place(&self, source: &Source, entry: &str) -> Option<PathBuf> {
        let source::Kind::Git(git) = source.kind.as_ref()? else { return None };
        // of a part of a commit nothing can be proven, and a folder of this machine is near enough
        if self.most == 0 || git.sparse.is_some() || git.url.starts_with("file:") {
            return None;
        }
        let place = self.folder.join(shared_proto::hex::encode(Sha256::digest(format!("{entry}\0{}", git.url))));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&place).ok()?;
        Some(place)
    }

    /// Takes what a job's worker has left of a commit that was not there. What fails is no job's business.
    pub(super) fn keep(&self, work: &Path, place: &Path) {
        if let Err(e) = take(work, place).and_then(|()| self.make_room()) {
            tracing::warn!(error = %e, "a fetched commit is not kept");
        }
    }

    /// The oldest go until the others are within the bound.
    fn make_room(&self) -> io::Result<()> {
        let mut packs: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        let places = std::fs::read_dir(&self.folder)?.flatten();
        let all = places.flat_map(|place| std::fs::read_dir(place.path()).into_iter().flatten().flatten());
        for pack in all.take(PACKS_MAX) {
            let Ok(found) = pack.metadata() else { continue };
            packs.push((found.modified()?, found.len(), pack.path()));
        }
        packs.sort();
        let mut left: u64 = packs.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in packs {
            if left <= self.most {
                break;
            }
            std::fs::remove_file(&path)?;
            // a place without commits is made again when it is needed
            let _ = path.parent().map(std::fs::remove_dir);
            left -= size;
        }
        Ok(())
    }
}

fn take(work: &Path, place: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(work)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let Some(commit) = name.strip_prefix(FETCHED_PACK).and_then(|rest| rest.strip_suffix(PACK)) else { continue };
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let found = std::fs::symlink_metadata(entry.path())?;
        let good = matches!(commit.len(), 40 | 64) && commit.bytes().all(hex) && found.is_file() && found.nlink() == 1;
        if good && found.len() <= ARCHIVE_PACKED_MAX {
            std::fs::rename(entry.path(), place.join(format!("{commit}{PACK}")))?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::v1;

    fn git(url: &str) -> Source {
        let git = v1::GitSource { url: url.into(), ..Default::default() };
        Source { kind: Some(source::Kind::Git(git)), path: String::new() }
    }

    #[test]
    fn what_was_fetched_is_kept_by_address_and_entry_within_its_bound() {
        let state = tempfile::tempdir().expect("a folder");
        let mut cache = Cache { folder: state.path().join(FOLDER), most: 25 };
        let at = |url: &str, entry: &str| cache.place(&git(url), entry).expect("a folder");
        let own = at("https://h/a", "e");
        assert_eq!(own, at("https://h/a", "e"));
        for other in [at("https://h/a", ""), at("https://h/a", "f"), at("https://h/b", "e")] {
            assert_ne!(own, other);
        }
        assert!(cache.place(&git("file:///srv/x"), "").is_none() && cache.place(&Source::default(), "").is_none());
        let work = tempfile::tempdir().expect("a folder");
        let commit = |n: u8| format!("{n:x}").repeat(40);
        for n in 1..=3 {
            let file = work.path().join(format!("{FETCHED_PACK}{}{PACK}", commit(n)));
            std::fs::write(&file, [n; 10]).expect("writes");
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n.into());
            std::fs::File::options().write(true).open(&file).and_then(|f| f.set_modified(time)).expect("sets");
            cache.keep(work.path(), &own);
            assert!(!file.exists());
        }
        let kept = |n: u8| own.join(format!("{}{PACK}", commit(n))).exists();
        assert_eq!((kept(1), kept(2), kept(3)), (false, true, true), "the oldest has gone");
        // what is none is not taken
        let secret = state.path().join("secret");
        std::fs::write(&secret, "x").expect("writes");
        let named = |name: &str| work.path().join(format!("{FETCHED_PACK}{name}{PACK}"));
        std::os::unix::fs::symlink(&secret, named(&commit(4))).expect("links");
        std::fs::hard_link(&secret, named(&commit(5))).expect("links");
        std::fs::write(named("nothing"), "x").expect("writes");
        cache.keep(work.path(), &own);
        assert_eq!(std::fs::read_dir(work.path()).expect("reads").count(), 0);
        assert!(!kept(4) && !kept(5) && secret.exists());
        cache.most = 0;
        assert!(cache.place(&git("https://h/a"), "").is_none());
    }
}
