//! Submodules, each as a repository of its own at the commit that its parent names: by the same rules of addresses, with the same access where
//! the entry is for its address, within the same bounds. Of `.gitmodules` paths and addresses count, and nothing else.

use super::repository::Repository;
use super::{check_address, is_commit, is_folder};
use crate::stop::{Stop, io_failure};
use shared_proto::failure::{Code, Failure};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// The most submodules, of all levels together.
const SUBMODULES_MAX: usize = 64;
/// The most levels.
const LEVELS_MAX: usize = 4;
/// The longest `.gitmodules`, bytes.
const FILE_MAX: u64 = 64 * 1024;

/// One submodule.
struct Submodule {
    path: String,
    url: String,
    commit: String,
}

/// Fetches all of a commit that is checked out, and theirs.
pub(super) async fn fetch(top: &mut Repository<'_, '_>, commit: &str) -> Result<(), Stop> {
    let whole = top.tree.clone();
    let mut wanted: Vec<_> = of(top, commit).await?.into_iter().map(|one| (one, whole.clone(), 1)).collect();
    let mut count = 0;
    while let Some((one, parent, level)) = wanted.pop() {
        count += 1;
        if count > SUBMODULES_MAX || level > LEVELS_MAX {
            let message =
                format!("the source has more than {SUBMODULES_MAX} submodules, or more than {LEVELS_MAX} levels");
            return Err(Code::SourceRefused.on(message).into());
        }
        let tree = folder(&parent, &one.path)?;
        let mut repository = Repository::new(&one.url, &tree, top.git);
        let commit = repository.fetch(&one.commit, Path::new("")).await?;
        repository.check_out(&commit).await?;
        let below = of(&mut repository, &commit).await?;
        repository.git.journal.note(format!("Submodule {} is {} at commit {commit}.", one.path, one.url)).await;
        wanted.extend(below.into_iter().map(|one| (one, tree.clone(), level + 1)));
    }
    Ok(())
}

/// Those that a commit names, with what its own tree says of their commits.
async fn of(parent: &mut Repository<'_, '_>, commit: &str) -> Result<Vec<Submodule>, Stop> {
    let Some((mode, object)) = entry(parent, commit, ".gitmodules").await? else { return Ok(Vec::new()) };
    let refuse = |what: String| Code::SourceRefused.on(what);
    if !matches!(mode.as_str(), "100644" | "100755") {
        return Err(refuse(".gitmodules is no file".into()).into());
    }
    let said = parent.run(&["cat-file", "-s", &object]).await?;
    said.must(Code::SourceRefused, "read .gitmodules")?;
    if said.out.trim().parse::<u64>().is_ok_and(|size| size > FILE_MAX) {
        return Err(refuse(format!(".gitmodules is longer than {FILE_MAX} bytes")).into());
    }
    let said = parent.run(&["config", "--blob", &object, "--null", "--list"]).await?;
    said.must(Code::SourceRefused, "read .gitmodules")?;
    let mut found = Vec::new();
    for (name, (path, url)) in named(&said.out)? {
        let shown: String = name.chars().take(100).collect();
        if is_strange(&name) || path.starts_with('-') || !is_inside(&path) {
            return Err(refuse(format!("the submodule {shown:?} has a name or a path that is refused")).into());
        }
        let url = resolved(&parent.url, &url)
            .and_then(|url| check_address(&url, is_folder(&parent.url)).map(|()| url).map_err(|f| f.message))
            .map_err(|why| refuse(format!("the submodule {shown:?}: {why}")))?;
        // one that its parent's tree does not have is none
        match entry(parent, commit, &path).await? {
            Some((mode, commit)) if mode == "160000" => found.push(Submodule { path, url, commit }),
            _ => {}
        }
    }
    Ok(found)
}

/// The mode and the object of a path in a commit.
async fn entry(of: &mut Repository<'_, '_>, commit: &str, path: &str) -> Result<Option<(String, String)>, Stop> {
    let said = of.run(&["ls-tree", "--full-tree", commit, "--", path]).await?;
    said.must(Code::SourceRefused, "read the commit's tree")?;
    let line = said.out.lines().next().unwrap_or_default();
    let mut words = line.split_ascii_whitespace();
    let (mode, _, object) = (words.next(), words.next(), words.next());
    Ok(mode
        .zip(object)
        .filter(|(_, object)| is_commit(object))
        .map(|(mode, object)| (mode.to_owned(), object.to_owned())))
}

/// Path and address of each, by their names.
fn named(list: &str) -> Result<BTreeMap<String, (String, String)>, Failure> {
    let mut found = BTreeMap::<String, (Option<String>, Option<String>)>::new();
    for item in list.split('\0') {
        let Some((key, value)) = item.split_once('\n') else { continue };
        let Some((name, what)) = key.strip_prefix("submodule.").and_then(|rest| rest.rsplit_once('.')) else {
            continue;
        };
        let both = found.entry(name.to_owned()).or_default();
        match what {
            "path" => both.0 = Some(value.to_owned()),
            "url" => both.1 = Some(value.to_owned()),
            // git would run it
            "update" if value.starts_with('!') => {
                return Err(Code::SourceRefused.on("a submodule names a command that is to update it"));
            }
            _ => {}
        }
    }
    if found.len() > SUBMODULES_MAX {
        return Err(Code::SourceRefused.on(format!("the source has more than {SUBMODULES_MAX} submodules")));
    }
    Ok(found.into_iter().filter_map(|(name, (path, url))| Some((name, (path?, url?)))).collect())
}

fn is_strange(name: &str) -> bool {
    name.is_empty() || name.starts_with('-') || name.split('/').any(|part| part == "..") || name.contains(['\\', '\0'])
}

fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.chars().any(char::is_control)
        && !path.split('/').any(|part| part.eq_ignore_ascii_case(".git"))
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

/// An address that may be relative to its parent's, as git reads it: <https://git-scm.com/docs/git-submodule#Documentation/git-submodule.txt-add>.
fn resolved(parent: &str, url: &str) -> Result<String, String> {
    if !url.starts_with("./") && !url.starts_with("../") {
        return Ok(url.to_owned());
    }
    let mut base = parent.trim_end_matches('/');
    let mut rest = url;
    loop {
        if let Some(less) = rest.strip_prefix("./") {
            rest = less;
        } else if let Some(less) = rest.strip_prefix("../") {
            rest = less;
            if base.ends_with(':') {
                return Err("its address leads above its parent's host".into());
            }
            let host = base.find("://").map_or(0, |at| at + 3);
            let up = base[host..].rfind('/').map(|at| host + at);
            // of user@host:path what stands behind the colon goes last
            let up = up.or_else(|| base[host..].rfind(':').map(|at| host + at + 1).filter(|_| host == 0));
            let up = up.ok_or("its address leads above its parent's host")?;
            base = &base[..up];
        } else {
            break;
        }
    }
    let between = if base.ends_with(':') { "" } else { "/" };
    if rest.is_empty() || rest.split('/').any(|part| part == "..") {
        return Err("its address is relative in a strange way".into());
    }
    Ok(format!("{base}{between}{rest}"))
}

/// Its folder, through real folders only.
fn folder(parent: &Path, path: &str) -> Result<PathBuf, Failure> {
    let mut at = parent.to_owned();
    for part in path.split('/') {
        at.push(part);
        match std::fs::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(
                    Code::SourceRefused.on(format!("the submodule {path} goes through something that is no folder"))
                );
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => std::fs::create_dir(&at)
                .map_err(|e| io_failure(Code::Internal, format_args!("the submodule {path}"), &e))?,
            Err(e) => return Err(io_failure(Code::SourceRefused, format_args!("the submodule {path}"), &e)),
        }
    }
    let empty = std::fs::read_dir(&at).is_ok_and(|mut entries| entries.next().is_none());
    if !empty {
        return Err(Code::SourceRefused.on(format!("the submodule {path} is where something else is")));
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_relative_to_the_parents() {
        for (parent, url, expected) in [
            ("https://h/org/a.git", "../b.git", Some("https://h/org/b.git")),
            ("https://h/org/a.git/", "../../x/b", Some("https://h/x/b")),
            ("https://h/org/a", "./sub", Some("https://h/org/a/sub")),
            ("git@h:org/a.git", "../b.git", Some("git@h:org/b.git")),
            ("git@h:a.git", "../b.git", Some("git@h:b.git")),
            ("ssh://git@h:22/org/a", "../b", Some("ssh://git@h:22/org/b")),
            ("https://h/org/a", "https://other/b", Some("https://other/b")),
            ("https://h/org/a", "ext::sh", Some("ext::sh")),
            ("https://h/org/a", "../../../b", None),
            ("git@h:a.git", "../../../b", None),
            ("https://h/org/a", "../b/../../../c", None),
            ("https://h/org/a", "../", None),
        ] {
            assert_eq!(resolved(parent, url).ok().as_deref(), expected, "{parent} {url}");
        }
    }

    #[test]
    fn what_gitmodules_says_and_what_it_must_not() {
        let found = named("submodule.a.b.path\nx/y\0submodule.a.b.url\n../b\0core.x\ny\0submodule.c.path\nz\0\n")
            .expect("good");
        assert_eq!(found, [("a.b".to_owned(), ("x/y".to_owned(), "../b".to_owned()))].into());
        assert_eq!(named("submodule.a.update\n!touch /tmp/x\0").expect_err("a command").code, Code::SourceRefused);
        let many = |n: usize| (0..n).map(|i| format!("submodule.s{i}.path\np\0")).collect::<String>();
        assert!(named(&many(SUBMODULES_MAX)).is_ok());
        assert!(named(&many(SUBMODULES_MAX + 1)).is_err());
        for bad in ["", "..", "a/..", "/a", "../a", "a/.git/x", ".GIT", "a\nb"] {
            assert!(!is_inside(bad), "{bad:?}");
        }
        assert!(is_inside("modules/a b"));
        for bad in ["", "-x", "../x", "a/../b", "a\\b"] {
            assert!(is_strange(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_submodule_goes_into_an_empty_folder_of_its_own() {
        let top = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder(top.path(), path);
        assert!(at("modules/a").is_ok() && at("modules/a").is_ok());
        std::os::unix::fs::symlink("/tmp", top.path().join("out")).expect("links");
        std::fs::write(top.path().join("file"), "").expect("writes");
        for bad in ["out/a", "out", "file", "file/a", "modules"] {
            assert_eq!(at(bad).expect_err(bad).code, Code::SourceRefused, "{bad}");
        }
    }
}
