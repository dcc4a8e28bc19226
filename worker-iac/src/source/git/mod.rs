//! A commit of a Git repository, by the git program. The address and the reference come from outside: they are checked, and
//! given behind `--`. Nobody's git configuration, hooks, credential helpers or filters take part, and no more of the history is fetched than
//! the commit itself.

mod lfs;
mod program;
mod repository;
mod signed;
mod submodules;

use super::{PATH_MAX, Places, links};
use crate::cancel::Watcher;
use crate::journal::Journal;
use crate::stop::Stop;
use program::Git;
use repository::Repository;
use shared_proto::bounds::{FETCHED_PACK, SOURCE_FILES_MAX, SOURCE_UNPACKED_MAX};
use shared_proto::failure::{Code, Failure};
use shared_proto::sources::{ADDRESS_MAX, Place};
use shared_proto::v1::{GitSource, SourceResolved};
use std::path::{Component, Path};
use std::time::Duration;

/// All of it together.
const DEADLINE: Duration = Duration::from_secs(600);
/// The most folders of a sparse source.
const SPARSE_MAX: usize = 64;

/// Fetches and checks out. `path`: the root module's folder.
///
/// # Errors
/// `source_refused`, `source_unavailable`, `disk_full`; cancelled.
pub(super) async fn fetch(
    wanted: &GitSource,
    path: &str,
    places: &Places<'_>,
    cancel: &mut Watcher,
    journal: &Journal,
) -> Result<SourceResolved, Stop> {
    check_address(&wanted.url, places.allow_file)?;
    check_reference(&wanted.reference)?;
    let sparse = sparse_folders(wanted, path)?;
    let mut git = Git::new(places, cancel.clone(), journal);
    let url = wanted.url.as_str();
    let bounded = async {
        let mut repository = Repository::new(url, places.source, &mut git);
        repository.only(sparse);
        let commit = repository.fetch(&wanted.reference, places.cache).await?;
        if let Some(signers) = &places.access.signers {
            signed::check(&mut repository, &commit, signers, &places.access.entry).await?;
        }
        repository.check_out(&commit).await?;
        are_there(places.source, wanted, &commit)?;
        if wanted.lfs {
            lfs::fetch(&mut repository).await?;
        }
        let left = repository.leave(&commit);
        if wanted.submodules {
            submodules::fetch(&mut repository, &commit).await?;
        } else if places.source.join(".gitmodules").exists() {
            journal.note("The repository has submodules (.gitmodules): they are not fetched.").await;
        }
        look_through(places.source, &commit).await?;
        Ok::<_, Stop>((commit, left))
    };
    let (commit, left) = match tokio::time::timeout(DEADLINE, bounded).await {
        Ok(done) => done?,
        Err(_) => {
            let message = format!("fetching {url} took longer than {} s", DEADLINE.as_secs());
            return Err(Code::SourceUnavailable.on(message).into());
        }
    };
    // for the next job that wants it; one that cannot be kept is fetched again
    if let (Some(pack), false) = (left, places.cache.as_os_str().is_empty()) {
        let _ = std::fs::rename(pack, places.work.join(format!("{FETCHED_PACK}{commit}.pack")));
    }
    git.forget();
    let reference = if wanted.reference.is_empty() { "HEAD" } else { &wanted.reference };
    Ok(SourceResolved { kind: "git".into(), revision: commit, reference: reference.into() })
}

/// What was checked out is within its bounds, and leads nowhere else.
async fn look_through(source: &Path, commit: &str) -> Result<(), Stop> {
    let top = source.to_owned();
    let looked = tokio::task::spawn_blocking(move || links::look_through(&top)).await;
    let held = looked.unwrap_or_else(|_| Err("looking through it panicked".into()));
    let held = held.map_err(|why| Code::SourceRefused.on(format!("commit {commit}: {why}")))?;
    if held.bytes > SOURCE_UNPACKED_MAX || held.entries > SOURCE_FILES_MAX {
        let message = format!("commit {commit} holds {} bytes in {} files and folders", held.bytes, held.entries);
        let limits = format!("The limits are {SOURCE_UNPACKED_MAX} bytes and {SOURCE_FILES_MAX} files and folders.");
        return Err(Code::SourceRefused.on(message).next(limits).into());
    }
    Ok(())
}

/// Whether git may be given that address.
fn check_address(url: &str, allow_file: bool) -> Result<(), Failure> {
    if allow_file && is_folder(url) {
        return Ok(());
    }
    match Place::of_git(url) {
        Ok(_) => Ok(()),
        // the address itself is not shown: it may hold a password
        Err(why) => Err(Code::SourceRefused.on(format!("the Git address {why}")).next(match url.starts_with("file:") {
            false => "Give an https:// or ssh:// address.",
            true => {
                "Give an https:// or ssh:// address. Folders of the runner's machine are sources where its configuration has sources.allow_file = true."
            }
        })),
    }
}

/// Whether it is a folder of this machine, by its address.
fn is_folder(url: &str) -> bool {
    url.starts_with("file:///") && url.len() <= ADDRESS_MAX && !url.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// Whether git may be given that reference: a commit, a branch, a tag, or nothing.
fn check_reference(reference: &str) -> Result<(), Failure> {
    let bad = reference.len() > ADDRESS_MAX
        || reference.starts_with(['-', '/', '.', '+', '^'])
        || reference.ends_with(['/', '.'])
        || reference.ends_with(".lock")
        || ["..", "//", "@{", "/."].iter().any(|part| reference.contains(part))
        || reference.chars().any(|c| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c));
    if bad {
        let message = format!("{:?} is no commit, branch or tag", reference.chars().take(100).collect::<String>());
        return Err(Code::SourceRefused.on(message));
    }
    Ok(())
}

/// The folders of a source of which not all is wanted: that of the root module, and those that are named besides.
fn sparse_folders(wanted: &GitSource, path: &str) -> Result<Vec<String>, Failure> {
    let Some(sparse) = &wanted.sparse else { return Ok(Vec::new()) };
    if sparse.folders.len() > SPARSE_MAX {
        return Err(Code::SourceRefused.on(format!("more than {SPARSE_MAX} folders of a sparse source")));
    }
    if path.is_empty() {
        let next = "Name the root module's folder, or have the whole source.";
        return Err(Code::SourceRefused.on("a sparse source needs the folder of its root module").next(next));
    }
    let mut folders = Vec::new();
    for folder in std::iter::once(path).chain(sparse.folders.iter().map(String::as_str)) {
        let plain = Path::new(folder).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        let tame = !folder.chars().any(|c| c.is_control() || "*?[\\\"!#".contains(c));
        if !plain || !tame || folder.is_empty() || folder.len() > PATH_MAX || folder.starts_with('-') {
            return Err(Code::SourceRefused.on(format!("{folder:?} is no folder inside of the source")));
        }
        folders.push(folder.trim_start_matches("./").to_owned());
    }
    Ok(folders)
}

/// Whether the folders are there of which a sparse source is made: git takes a name of none in silence.
fn are_there(source: &Path, wanted: &GitSource, commit: &str) -> Result<(), Failure> {
    let named = wanted.sparse.iter().flat_map(|sparse| &sparse.folders);
    let missing = named.into_iter().find(|folder| !source.join(folder).symlink_metadata().is_ok_and(|of| of.is_dir()));
    missing.map_or(Ok(()), |folder| {
        Err(Code::SourceRefused
            .on(format!("commit {commit} has no folder {folder:?}, which the sparse source names"))
            .next("Name folders that the commit has, with their whole path: --sparse FOLDER."))
    })
}

/// Whether it is a whole object name, SHA-1 or SHA-256.
fn is_commit(reference: &str) -> bool {
    matches!(reference.len(), 40 | 64) && reference.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::v1::SparseFolders;

    #[test]
    fn a_folder_that_the_commit_does_not_have_is_named() {
        let source = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(source.path().join("modules/net")).expect("folders");
        std::fs::write(source.path().join("file"), "").expect("writes");
        let look = |folders: &[&str]| {
            let folders = folders.iter().map(|folder| (*folder).to_owned()).collect();
            let wanted = GitSource { sparse: Some(SparseFolders { folders }), ..Default::default() };
            are_there(source.path(), &wanted, "c0ffee")
        };
        assert_eq!((look(&[]), look(&["modules/net", "./modules"])), (Ok(()), Ok(())));
        for bad in ["nosuch", "net", "file"] {
            let failure = look(&["modules", bad]).expect_err(bad);
            assert!(failure.code == Code::SourceRefused && failure.message.contains(bad), "{failure}");
        }
    }

    #[test]
    fn addresses() {
        for good in ["https://example.com/a/b.git", "git@example.com:a/b.git"] {
            assert!(check_address(good, false).is_ok(), "{good}");
        }
        for bad in ["ext::sh -c touch% /tmp/x", "file:///etc", "https://user:password@example.com/a"] {
            let failure = check_address(bad, false).expect_err(bad);
            assert_eq!(failure.code, Code::SourceRefused);
            assert!(!failure.message.contains("password@"), "{failure}");
            assert_eq!(failure.next_step.contains("sources.allow_file"), bad.starts_with("file:"), "{failure}");
        }
        assert!(check_address("file:///srv/x", true).is_ok());
        for bad in ["file://host/x", "file:///a\nb", "/srv/x"] {
            assert!(check_address(bad, true).is_err(), "{bad}");
        }
    }

    #[test]
    fn references() {
        for good in ["", "main", "v1.2.3", "feature/x_y", "refs/heads/main", &"a1".repeat(20)] {
            assert!(check_reference(good).is_ok(), "{good}");
        }
        for bad in [
            "-x",
            "--upload-pack=x",
            "a..b",
            "a b",
            "a:b",
            "+a:b",
            "^a",
            "a^",
            "a~1",
            "@{u}",
            "a/",
            "/a",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a\nb",
            "a\0",
            "a*",
            "a?",
            "[a",
            "a\\b",
            &"a".repeat(ADDRESS_MAX + 1),
        ] {
            assert_eq!(check_reference(bad).expect_err(bad).code, Code::SourceRefused, "{bad}");
        }
    }

    #[test]
    fn folders_of_a_sparse_source() {
        let folders = |path: &str, more: &[&str]| {
            let folders = more.iter().map(|folder| (*folder).to_owned()).collect();
            let wanted = GitSource { sparse: Some(SparseFolders { folders }), ..Default::default() };
            sparse_folders(&wanted, path)
        };
        assert_eq!(folders("./infra/prod", &["modules"]).expect("good"), ["infra/prod", "modules"]);
        assert!(sparse_folders(&GitSource::default(), "").expect("all of it").is_empty());
        for (path, more) in
            [("", &[][..]), ("a", &["../b"]), ("a", &["/b"]), ("a", &["-b"]), ("a", &["!b"]), ("a", &[""])]
        {
            assert_eq!(folders(path, more).expect_err(path).code, Code::SourceRefused, "{path} {more:?}");
        }
        assert!(folders("a", &["b"; SPARSE_MAX]).is_ok());
        assert!(folders("a", &["b"; SPARSE_MAX + 1]).is_err());
    }
}
