//! One repository: which commit a reference names, its objects and no history, and what is checked out of it.

use super::is_commit;
use super::program::{Git, Said};
use crate::engine::private_folder;
use crate::stop::{Stop, io_failure};
use shared_proto::bounds::ARCHIVE_PACKED_MAX;
use shared_proto::failure::{Code, Failure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the size of what was fetched is looked at.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// How many commits behind its branches and tags a commit is looked for where a server gives none by its name.
const DEPTHS: [&str; 3] = ["64", "1024", "16384"];
/// The name by which a server is asked again for what is left out at first.
const REMOTE: &str = "origin";

/// A repository on its way.
pub(super) struct Repository<'g, 'a> {
    pub(super) git: &'g mut Git<'a>,
    pub(super) url: String,
    /// Where it is checked out.
    pub(super) tree: PathBuf,
    folder: PathBuf,
    /// The folders that are wanted; empty: all.
    sparse: Vec<String>,
    /// It is a commit that was kept by an earlier job.
    was_kept: bool,
}

impl<'g, 'a> Repository<'g, 'a> {
    pub(super) fn new(url: &str, tree: &Path, git: &'g mut Git<'a>) -> Self {
        let folder = git.another();
        Self { git, url: url.to_owned(), tree: tree.to_owned(), folder, sparse: Vec::new(), was_kept: false }
    }

    /// Only these folders, and the files beside the folders on the way to them.
    pub(super) fn only(&mut self, folders: Vec<String>) {
        self.sparse = folders;
    }

    /// Fetches what the reference names and says which commit that is. `kept`: the folder with commits that were fetched before.
    pub(super) async fn fetch(&mut self, reference: &str, kept: &Path) -> Result<String, Stop> {
        let url = self.url.clone();
        self.make(reference.len() == 64 && is_commit(reference)).await?;
        if is_commit(reference) {
            let wanted = reference.to_ascii_lowercase();
            if !self.take_kept(&wanted, kept).await? {
                self.fetch_commit(&wanted).await?;
            }
            return Ok(wanted);
        }
        let (name, object, commit) = self.look_up(reference).await?;
        if object.len() == 64 {
            self.make(true).await?;
        }
        if self.take_kept(&commit, kept).await? {
            return Ok(commit);
        }
        let said = self.get(&["--depth=1"], &[&name]).await?;
        said.must(Code::SourceUnavailable, &format!("fetch {name} of {url}"))?;
        let said = self.run(&["rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}"]).await?;
        said.must(Code::SourceRefused, &format!("find a commit in {name} of {url}"))?;
        Ok(said.out.trim().to_owned())
    }

    /// An empty repository.
    async fn make(&mut self, sha256: bool) -> Result<(), Stop> {
        let _ = std::fs::remove_dir_all(&self.folder);
        private_folder(&self.folder)?;
        let format = format!("--object-format={}", if sha256 { "sha256" } else { "sha1" });
        let said = self.run(&["init", "--quiet", "--template=", &format]).await?;
        said.must(Code::SourceUnavailable, "prepare a repository")
    }

    async fn fetch_commit(&mut self, wanted: &str) -> Result<(), Stop> {
        let url = self.url.clone();
        // most servers give a commit by its name; others only what a branch or tag leads to
        if self.get(&["--depth=1"], &[wanted]).await?.ok && self.has(wanted).await? {
            return Ok(());
        }
        for depth in DEPTHS {
            // not where a branch of its own would be
            let all = ["+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*"];
            let said = self.get(&[&format!("--depth={depth}")], &all).await?;
            said.must(Code::SourceUnavailable, &format!("fetch {url}"))?;
            if self.has(wanted).await? {
                return Ok(());
            }
            if !self.folder.join("shallow").exists() {
                // that was all of the history
                break;
            }
        }
        let message = format!("{url} has no commit {wanted}, or not in the newest {} of a branch or tag", DEPTHS[2]);
        Err(Code::SourceUnavailable
            .on(message)
            .next("Name a branch or tag that leads to it, or a newer commit.")
            .into())
    }

    async fn has(&mut self, commit: &str) -> Result<bool, Stop> {
        let name = format!("{commit}^{{commit}}");
        Ok(self.run(&["rev-parse", "--verify", "--quiet", "--end-of-options", &name]).await?.ok)
    }

    /// The full name of a branch or a tag, the object that it names, and the commit that this leads to; a tag goes first, as git itself has it.
    async fn look_up(&mut self, reference: &str) -> Result<(String, String, String), Stop> {
        let url = self.url.clone();
        let names = match reference {
            "" => vec!["HEAD".to_owned()],
            whole if whole.starts_with("refs/") => vec![whole.to_owned()],
            short => vec![format!("refs/tags/{short}"), format!("refs/heads/{short}")],
        };
        let peeled: Vec<_> = names.iter().map(|name| format!("{name}^{{}}")).collect();
        let mut arguments = vec!["ls-remote", "--quiet", "--", url.as_str()];
        arguments.extend(names.iter().chain(&peeled).map(String::as_str));
        let said = self.run(&arguments).await?;
        said.must(Code::SourceUnavailable, &format!("reach {url}"))?;
        let object = |name: &str| {
            let found = said.out.lines().filter_map(|line| line.split_once('\t')).find(|(_, found)| *found == name)?;
            is_commit(found.0).then(|| found.0.to_ascii_lowercase())
        };
        for (name, peeled) in names.iter().zip(&peeled) {
            if let Some(named) = object(name) {
                let commit = object(peeled).unwrap_or_else(|| named.clone());
                return Ok((name.clone(), named, commit));
            }
        }
        Err(no_such(&url, reference).into())
    }

    /// Takes a commit that was fetched before, where git makes that very commit of it. Whether it did.
    async fn take_kept(&mut self, commit: &str, kept: &Path) -> Result<bool, Stop> {
        let pack = kept.join(format!("{commit}.pack"));
        if kept.as_os_str().is_empty() || !self.sparse.is_empty() || !pack.is_file() {
            return Ok(false);
        }
        // its history is not there: without that git would miss it
        std::fs::write(self.folder.join("shallow"), format!("{commit}\n"))
            .map_err(|e| io_failure(Code::Internal, "the repository", &e))?;
        // each object is named by its hash, and none that one of them names is missing
        let said = self.input(&["index-pack", "--stdin", "--strict"], pack).await?;
        if said.ok && self.has(commit).await? {
            self.was_kept = true;
            self.git.journal.note(format!("Commit {commit} was fetched by an earlier job, and kept.")).await;
            return Ok(true);
        }
        self.git
            .journal
            .note(format!("What was kept of commit {commit} is not that commit: it is fetched anew."))
            .await;
        self.make(commit.len() == 64).await?;
        Ok(false)
    }

    /// Fetches these names.
    async fn get(&mut self, options: &[&str], names: &[&str]) -> Result<Said, Stop> {
        let (url, of_all) = (self.url.clone(), self.git.folder());
        let told = self.of_remote();
        let mut arguments: Vec<&str> = told.iter().map(String::as_str).collect();
        arguments.extend(["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-commit-graph"]);
        arguments.extend(options);
        if self.sparse.is_empty() {
            arguments.extend(["--", url.as_str()]);
        } else {
            // what is not checked out is not fetched, where the server can leave it out
            arguments.extend(["--filter=blob:none", "--", REMOTE]);
        }
        arguments.extend(names);
        // a pack has no size before it is there: it is measured while it grows
        let measured = grown_beyond(of_all, ARCHIVE_PACKED_MAX);
        tokio::select! {
            said = self.run(&arguments) => said,
            () = measured => {
                Err(Code::SourceRefused.on(format!("{url} is larger than {ARCHIVE_PACKED_MAX} bytes packed")).into())
            }
        }
    }

    /// What git is told of the server that has what was left out.
    fn of_remote(&self) -> Vec<String> {
        if self.sparse.is_empty() {
            return Vec::new();
        }
        let url = &self.url;
        let told = [format!("url={url}"), "promisor=true".into(), "partialclonefilter=blob:none".into()];
        told.into_iter().flat_map(|one| ["-c".to_owned(), format!("remote.{REMOTE}.{one}")]).collect()
    }

    pub(super) async fn check_out(&mut self, commit: &str) -> Result<(), Stop> {
        let (of_all, url) = (self.git.folder(), self.url.clone());
        let told = self.of_remote();
        let mut arguments: Vec<&str> = told.iter().map(String::as_str).collect();
        if !self.sparse.is_empty() {
            let folders = self.sparse.clone();
            let mut set = vec!["sparse-checkout", "set", "--cone", "--no-sparse-index"];
            set.extend(folders.iter().map(String::as_str));
            self.run(&set).await?.must(Code::SourceRefused, "choose the folders of the source")?;
        }
        arguments.extend(["checkout", "--quiet", "--force", "--detach", commit, "--"]);
        let measured = grown_beyond(of_all, ARCHIVE_PACKED_MAX);
        let said = tokio::select! {
            said = self.run(&arguments) => said?,
            () = measured => {
                let message = format!("{url} is larger than {ARCHIVE_PACKED_MAX} bytes packed");
                return Err(Code::SourceRefused.on(message).into());
            }
        };
        // where all of it is there, it is what it holds that git does not take
        let code = if self.sparse.is_empty() { Code::SourceRefused } else { Code::SourceUnavailable };
        said.must(code, &format!("check out commit {commit} of {url}"))
    }

    /// The one pack with all of a commit and nothing else, where there is such a one that is not kept yet.
    pub(super) fn leave(&self, commit: &str) -> Option<PathBuf> {
        if self.was_kept {
            return None;
        }
        let shallow = std::fs::read_to_string(self.folder.join("shallow")).ok()?;
        let packs = std::fs::read_dir(self.folder.join("objects/pack")).ok()?.flatten().map(|entry| entry.path());
        let mut packs: Vec<_> = packs.filter(|path| path.extension().is_some_and(|end| end == "pack")).collect();
        let one = packs.pop().filter(|_| packs.is_empty() && self.sparse.is_empty());
        one.filter(|_| shallow.trim() == commit)
    }

    pub(super) async fn run(&mut self, arguments: &[&str]) -> Result<Said, Stop> {
        self.git.run((&self.folder, &self.tree), arguments, None).await
    }

    async fn input(&mut self, arguments: &[&str], input: PathBuf) -> Result<Said, Stop> {
        self.git.run((&self.folder, &self.tree), arguments, Some(input)).await
    }
}

/// A reference that the server does not have. The beginning of a commit's name is one by no server.
fn no_such(url: &str, reference: &str) -> Failure {
    let failure = Code::SourceUnavailable.on(format!("{url} has no branch or tag {reference}"));
    let is_short = (4..40).contains(&reference.len()) && reference.bytes().all(|b| b.is_ascii_hexdigit());
    match is_short {
        true => {
            failure.next(format!("A commit is named by its whole name, of 40 digits: `git rev-parse {reference}`."))
        }
        false => failure,
    }
}

/// Ends once that folder has more bytes in it.
async fn grown_beyond(folder: PathBuf, most: u64) {
    loop {
        tokio::time::sleep(MEASURE_EVERY).await;
        let folder = folder.clone();
        let size = tokio::task::spawn_blocking(move || size_of(&folder)).await.unwrap_or(0);
        if size > most {
            return;
        }
    }
}

fn size_of(folder: &Path) -> u64 {
    let mut total = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => total += found.len(),
                Err(_) => {}
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_commits_name_is_told_from_a_branch_that_is_not_there() {
        for (reference, short) in [("bffeb74", true), ("BFFEB742", true), ("abc", false), ("main", false), ("", false)]
        {
            let failure = no_such("https://h/x", reference);
            assert_eq!(failure.next_step.contains("40 digits"), short, "{reference}: {failure}");
        }
        assert!(!no_such("https://h/x", &"a".repeat(40)).next_step.contains("40 digits"));
    }
}
