//! A commit of a Git repository, by the git program. The address and the reference come from outside: they are checked, and
//! given behind `--`. Nobody's git configuration, hooks, credential helpers, filters or submodules take part.

use super::{Places, links};
use crate::cancel::Watcher;
use crate::journal::Journal;
use crate::process::{self, Environment, Heard, Program};
use crate::stop::{Exit, Stop, io_failure};
use shared_proto::bounds::{ARCHIVE_PACKED_MAX, SOURCE_FILES_MAX, SOURCE_UNPACKED_MAX};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{GitSource, SourceResolved};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// All of it together.
const DEADLINE: Duration = Duration::from_secs(600);
/// Between asking git to stop and killing it: it has nothing to lose.
const GRACE: Duration = Duration::from_secs(5);
/// The longest address or reference, bytes.
const ADDRESS_MAX: usize = 2048;
/// How often the size of what was fetched is looked at.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// The most bytes of git's output that are kept.
const OUTPUT_MAX: usize = 64 * 1024;

/// A repository on its way.
struct Fetching<'a> {
    places: &'a Places<'a>,
    environment: Environment,
    folder: PathBuf,
    cancel: Watcher,
    journal: &'a Journal,
}

/// What one git command said.
struct Said {
    ok: bool,
    out: String,
    /// Its last line of standard error that says something.
    complaint: String,
}

/// Fetches and checks out.
///
/// # Errors
/// `source_refused`, `source_unavailable`, `disk_full`; cancelled.
pub(super) async fn fetch(
    wanted: &GitSource,
    places: &Places<'_>,
    cancel: &mut Watcher,
    journal: &Journal,
) -> Result<SourceResolved, Stop> {
    check_address(&wanted.url, places.allow_file)?;
    check_reference(&wanted.reference)?;
    let folder = places.tmp.join("git");
    let mut fetching =
        Fetching { places, environment: environment(places, &folder), folder, cancel: cancel.clone(), journal };
    let url = wanted.url.as_str();
    let bounded = async {
        let commit = fetching.commit(url, &wanted.reference).await?;
        fetching.check_out(&commit).await?;
        Ok::<String, Stop>(commit)
    };
    let commit = match tokio::time::timeout(DEADLINE, bounded).await {
        Ok(done) => done?,
        Err(_) => {
            let message = format!("fetching {url} took longer than {} s", DEADLINE.as_secs());
            return Err(Code::SourceUnavailable.on(message).into());
        }
    };
    if places.source.join(".gitmodules").exists() {
        journal.note("The repository has submodules (.gitmodules): they are not fetched.").await;
    }
    let reference = if wanted.reference.is_empty() { "HEAD" } else { &wanted.reference };
    Ok(SourceResolved { kind: "git".into(), revision: commit, reference: reference.into() })
}

fn environment(places: &Places<'_>, git_dir: &Path) -> Environment {
    let mut environment = places.environment.clone();
    let protocols = if places.allow_file { "https:ssh:file" } else { "https:ssh" };
    for (name, value) in [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ASKPASS", "/bin/false"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_LFS_SKIP_SMUDGE", "1"),
        ("GIT_ALLOW_PROTOCOL", protocols),
        ("LC_ALL", "C"),
    ] {
        environment.insert(name.into(), value.into());
    }
    environment.entry("GIT_SSH_COMMAND".into()).or_insert_with(|| "ssh -oBatchMode=yes".into());
    // not in the work tree: what the engine sees is the source alone
    environment.insert("GIT_DIR".into(), git_dir.into());
    environment.insert("GIT_WORK_TREE".into(), places.source.into());
    environment
}

/// Whether git may be given that address.
fn check_address(url: &str, allow_file: bool) -> Result<(), Failure> {
    let refuse = |why: &str| {
        // the address itself is not shown where it may hold a password
        Err(Code::SourceRefused.on(format!("the Git address {why}")).next("Give an https:// or ssh:// address."))
    };
    if url.is_empty() || url.len() > ADDRESS_MAX {
        return refuse("is empty or too long");
    }
    if url.starts_with('-') {
        return refuse("starts with `-`");
    }
    if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return refuse("holds a control character or a space");
    }
    if url.contains("::") {
        return refuse("names a remote helper (`::`)");
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        // scp-like: user@host:path, and nothing that git takes for a local path
        let Some((host, path)) = url.split_once(':') else { return refuse("is a local path") };
        if host.is_empty() || host.contains('/') {
            return refuse("is a local path");
        }
        return host_is_safe(host, false)
            .and_then(|()| {
                if path.is_empty() || path.starts_with('-') {
                    Err("has no path, or one that starts with `-`")
                } else {
                    Ok(())
                }
            })
            .or_else(refuse);
    };
    match scheme {
        "https" | "ssh" => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            if path.is_empty() {
                return refuse("has no path");
            }
            host_is_safe(host, scheme == "https").or_else(refuse)
        }
        "file" if allow_file => Ok(()),
        _ => refuse("is neither https:// nor ssh://"),
    }
}

fn host_is_safe(authority: &str, no_user: bool) -> Result<(), &'static str> {
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if let Some(user) = user {
        if no_user || user.contains(':') {
            return Err("holds a user and password: give access on the runner instead");
        }
        if user.is_empty()
            || user.starts_with('-')
            || !user.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        {
            return Err("holds a strange user");
        }
    }
    let fine = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
    if host.is_empty() || host.starts_with('-') || !host.bytes().all(fine) {
        return Err("holds a strange host");
    }
    Ok(())
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

/// Whether it is a whole object name, SHA-1 or SHA-256.
fn is_commit(reference: &str) -> bool {
    matches!(reference.len(), 40 | 64) && reference.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Fetching<'_> {
    /// Fetches what the reference names and says which commit that is.
    async fn commit(&mut self, url: &str, reference: &str) -> Result<String, Stop> {
        let object_format = if reference.len() == 64 && is_commit(reference) { "sha256" } else { "sha1" };
        let format = format!("--object-format={object_format}");
        self.must(&["init", "--quiet", "--template=", &format], "prepare a repository").await?;
        if is_commit(reference) {
            let wanted = reference.to_ascii_lowercase();
            // most servers give a commit by its name; others only what a branch or tag leads to
            if !self.fetch(&["--depth=1"], url, &[&wanted]).await?.ok {
                let all = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
                let said = self.fetch(&[], url, &all).await?;
                said.must(Code::SourceUnavailable, &format!("fetch {url}"))?;
            }
            let name = format!("{wanted}^{{commit}}");
            let said = self.git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &name]).await?;
            if !said.ok {
                return Err(Code::SourceUnavailable.on(format!("{url} has no commit {wanted}")).into());
            }
            return Ok(said.out.trim().to_owned());
        }
        let name = self.full_name(url, reference).await?;
        let said = self.fetch(&["--depth=1"], url, &[&name]).await?;
        said.must(Code::SourceUnavailable, &format!("fetch {name} of {url}"))?;
        let said = self.git(&["rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}"]).await?;
        said.must(Code::SourceRefused, &format!("find a commit in {name} of {url}"))?;
        Ok(said.out.trim().to_owned())
    }

    /// The full name of a branch or a tag; a tag goes first, as git itself has it.
    async fn full_name(&mut self, url: &str, reference: &str) -> Result<String, Stop> {
        if reference.is_empty() {
            return Ok("HEAD".into());
        }
        let names = if reference.starts_with("refs/") {
            vec![reference.to_owned()]
        } else {
            vec![format!("refs/tags/{reference}"), format!("refs/heads/{reference}")]
        };
        let mut arguments = vec!["ls-remote", "--quiet", "--", url];
        arguments.extend(names.iter().map(String::as_str));
        let said = self.git(&arguments).await?;
        said.must(Code::SourceUnavailable, &format!("reach {url}"))?;
        let has =
            |name: &str| said.out.lines().any(|line| line.split_once('\t').is_some_and(|(_, found)| found == name));
        names
            .iter()
            .find(|name| has(name))
            .cloned()
            .ok_or_else(|| Code::SourceUnavailable.on(format!("{url} has no branch or tag {reference}")).into())
    }

    async fn fetch(&mut self, options: &[&str], url: &str, names: &[&str]) -> Result<Said, Stop> {
        let mut arguments = vec!["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-commit-graph"];
        arguments.extend(options);
        arguments.extend(["--", url]);
        arguments.extend(names);
        let folder = self.folder.clone();
        // a pack has no size before it is there: it is measured while it grows
        let measured = async {
            loop {
                tokio::time::sleep(MEASURE_EVERY).await;
                let folder = folder.clone();
                let size = tokio::task::spawn_blocking(move || size_of(&folder)).await.unwrap_or(0);
                if size > ARCHIVE_PACKED_MAX {
                    return;
                }
            }
        };
        tokio::select! {
            said = self.git(&arguments) => said,
            () = measured => {
                Err(Code::SourceRefused.on(format!("{url} is larger than {ARCHIVE_PACKED_MAX} bytes packed")).into())
            }
        }
    }

    async fn check_out(&mut self, commit: &str) -> Result<(), Stop> {
        self.must(&["checkout", "--quiet", "--force", "--detach", commit, "--"], "check out the commit").await?;
        let top = self.places.source.to_owned();
        let looked = tokio::task::spawn_blocking(move || links::look_through(&top)).await;
        let held = looked.unwrap_or_else(|_| Err("looking through it panicked".into()));
        let held = held.map_err(|why| Code::SourceRefused.on(format!("commit {commit}: {why}")))?;
        if held.bytes > SOURCE_UNPACKED_MAX || held.entries > SOURCE_FILES_MAX {
            let message = format!("commit {commit} holds {} bytes in {} files and folders", held.bytes, held.entries);
            let limits =
                format!("The limits are {SOURCE_UNPACKED_MAX} bytes and {SOURCE_FILES_MAX} files and folders.");
            return Err(Code::SourceRefused.on(message).next(limits).into());
        }
        Ok(())
    }

    async fn must(&mut self, arguments: &[&str], what: &str) -> Result<(), Stop> {
        self.git(arguments).await?.must(Code::SourceUnavailable, what)
    }

    /// One git command.
    async fn git(&mut self, arguments: &[&str]) -> Result<Said, Stop> {
        let fixed = [
            "-c",
            "protocol.ext.allow=never",
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "core.fsmonitor=false",
            "-c",
            "credential.helper=",
            "-c",
            "fetch.unpackLimit=1",
            "-c",
            "submodule.recurse=false",
            "-c",
            "gc.auto=0",
            "-c",
            "maintenance.auto=false",
            "-c",
            "advice.detachedHead=false",
            "-c",
            "core.protectHFS=true",
            "-c",
            "core.protectNTFS=true",
        ];
        let arguments = fixed.iter().chain(arguments).map(OsString::from).collect();
        let (out_path, err_path) = process::scratch(self.places.tmp, "git");
        let program = Program {
            path: self.places.git,
            arguments,
            folder: self.places.source,
            environment: &self.environment,
            input: None,
            output: (&out_path, &err_path),
            writes: vec![self.places.source, self.places.tmp],
        };
        let (mut out, mut complaint) = (String::new(), String::new());
        let exit = process::run(program, &mut self.cancel, GRACE, self.journal, async |heard| match heard {
            Heard::Out(line) if out.len() < OUTPUT_MAX => {
                out.push_str(&line.text);
                out.push('\n');
            }
            // "fatal:" says more than what git prints after it
            Heard::Err(line) if !line.text.trim().is_empty() && !complaint.starts_with("fatal") => {
                complaint = line.text.chars().take(500).collect();
            }
            _ => {}
        })
        .await
        .map_err(of_git)?;
        Ok(Said { ok: exit == Exit::Code(0), out, complaint })
    }
}

/// A git that cannot be run is no missing engine, and one that was cancelled has changed nothing.
fn of_git(stop: Stop) -> Stop {
    match stop {
        Stop::Canceled { forced, .. } => Stop::Canceled { forced, exit: None },
        Stop::Failed(failure, exit) if failure.code == Code::EngineMissing => Stop::Failed(
            Code::SourceUnavailable
                .on(failure.message)
                .next("Install git on the runner's machine, or deploy an archive."),
            exit,
        ),
        other => other,
    }
}

impl Said {
    fn must(&self, code: Code, what: &str) -> Result<(), Stop> {
        if self.ok {
            return Ok(());
        }
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        if self.complaint.contains("No space left") {
            return Err(io_failure(code, format_args!("git cannot {what}"), &full).into());
        }
        let failure = code.on(format!("git cannot {what}: {}", self.complaint));
        // what every job is shown is written down
        let own_folder = what.contains(" file://");
        Err(if own_folder {
            failure.next("Name its folder under jobs.reads in the runner's configuration.")
        } else {
            failure
        }
        .into())
    }
}

fn size_of(folder: &Path) -> u64 {
    let mut total = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
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
    fn addresses() {
        for good in [
            "https://example.com/a/b.git",
            "https://example.com:8443/a",
            "https://[::1]:8443/a".replace("::", ":").as_str(),
            "ssh://git@example.com/a.git",
            "ssh://git@example.com:2222/a.git",
            "git@example.com:a/b.git",
            "example.com:a",
        ] {
            assert!(check_address(good, false).is_ok(), "{good}");
        }
        for bad in [
            "",
            "ext::sh -c touch% /tmp/x",
            "ext::/bin/true",
            "fd::3",
            "https::https://x/y",
            "--upload-pack=touch /tmp/x",
            "-oProxyCommand=x",
            "ssh://-oProxyCommand=x/y",
            "ssh://git@-oProxyCommand=x/y",
            "ssh://-x@host/y",
            "-x@host:path",
            "host:-path",
            "file:///etc",
            "/etc",
            "./x",
            "x",
            "../x:y",
            "http://example.com/a",
            "git://example.com/a",
            "ftp://example.com/a",
            "https://user:password@example.com/a",
            "https://token@example.com/a",
            "ssh://git:password@example.com/a",
            "https://",
            "https://example.com",
            "https:///a",
            "https://exa mple.com/a",
            "https://example.com/a\n",
            "https://example.com/a\0b",
            "https://$(x)/a",
            ":path",
            &format!("https://example.com/{}", "a".repeat(ADDRESS_MAX)),
        ] {
            let failure = check_address(bad, false).expect_err(bad);
            assert_eq!(failure.code, Code::SourceRefused);
            assert!(!failure.message.contains("password@"), "{failure}");
        }
        assert!(check_address("file:///srv/x", true).is_ok());
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
}
