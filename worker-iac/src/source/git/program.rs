//! One git command after the other: what it is told, what it may write, what it said.

use crate::cancel::Watcher;
use crate::journal::Journal;
use crate::process::{self, Asks, Environment, Heard, Program};
use crate::source::Places;
use crate::stop::{Exit, Stop, io_failure};
use shared_proto::failure::{Code, Failure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between asking git to stop and killing it: it has nothing to lose.
const GRACE: Duration = Duration::from_secs(5);
/// The most bytes of git's output that are kept.
const OUTPUT_MAX: usize = 256 * 1024;
/// What each command is told, beside what its environment says.
const FIXED: [&str; 20] = [
    "-c",
    "submodule.recurse=false",
    "-c",
    "fetch.unpackLimit=1",
    "-c",
    "transfer.fsckObjects=true",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
    "-c",
    "advice.detachedHead=false",
    "-c",
    "core.symlinks=true",
    "-c",
    "core.quotePath=true",
    "-c",
    "init.defaultBranch=main",
    "--literal-pathspecs",
    "--no-pager",
];

/// The git program of a job.
pub(super) struct Git<'a> {
    pub(super) places: &'a Places<'a>,
    pub(super) journal: &'a Journal,
    environment: Environment,
    cancel: Watcher,
    /// Repositories that were made.
    made: u32,
}

/// What one command said.
pub(super) struct Said {
    pub(super) ok: bool,
    pub(super) out: String,
    /// Its last line of standard error that says something.
    complaint: String,
    /// What is wrong with an object that came.
    broken: Option<String>,
}

// === impl Git ===

impl<'a> Git<'a> {
    pub(super) fn new(places: &'a Places<'a>, cancel: Watcher, journal: &'a Journal) -> Self {
        let mut environment = places.environment.clone();
        environment.extend(places.access.of_source());
        for (name, value) in [("GIT_LFS_SKIP_SMUDGE", "1"), ("LC_ALL", "C")] {
            environment.insert(name.into(), value.into());
        }
        Self { places, journal, environment, cancel, made: 0 }
    }

    /// Below which all repositories are.
    pub(super) fn folder(&self) -> PathBuf {
        self.places.tmp.join("git")
    }

    /// Where the next repository goes: not in the work tree, so that what the engine sees is the source alone.
    pub(super) fn another(&mut self) -> PathBuf {
        self.made += 1;
        self.folder().join(self.made.to_string())
    }

    /// Removes the repositories: what was wanted of them is checked out.
    pub(super) fn forget(&self) {
        let _ = std::fs::remove_dir_all(self.folder());
    }

    /// One command, of the repository in that folder with that work tree; it may read a file as its standard input.
    pub(super) async fn run(
        &mut self,
        (git_dir, work_tree): (&Path, &Path),
        arguments: &[&str],
        input: Option<PathBuf>,
    ) -> Result<Said, Stop> {
        let mut environment = self.environment.clone();
        environment.insert("GIT_DIR".into(), git_dir.into());
        environment.insert("GIT_WORK_TREE".into(), work_tree.into());
        let program = self.places.git.to_owned();
        let arguments = FIXED.iter().chain(arguments).map(OsString::from).collect();
        self.program(&program, arguments, &environment, work_tree, input).await
    }

    /// Another program than git, which keeps what it has in a folder of its own.
    pub(super) async fn other(
        &mut self,
        program: &Path,
        arguments: &[&str],
        home: (&str, &Path),
    ) -> Result<Said, Stop> {
        let mut environment = self.places.environment.clone();
        environment.insert(home.0.into(), home.1.into());
        environment.insert("LC_ALL".into(), "C".into());
        let (arguments, folder) = (arguments.iter().map(OsString::from).collect(), self.places.tmp);
        self.program(program, arguments, &environment, folder, None).await
    }

    async fn program(
        &mut self,
        path: &Path,
        arguments: Vec<OsString>,
        environment: &Environment,
        folder: &Path,
        input: Option<PathBuf>,
    ) -> Result<Said, Stop> {
        let (out_path, err_path) = process::scratch(self.places.tmp, "git");
        let program = Program {
            path,
            arguments,
            folder,
            environment,
            input,
            output: (&out_path, &err_path),
            writes: vec![self.places.source, self.places.tmp],
            writes_tmp: true,
            asks: Asks::Itself,
        };
        let (mut out, mut complaint, mut broken, mut error) = (String::new(), String::new(), None, String::new());
        let mut said_all = false;
        let exit = process::run(program, &mut self.cancel, GRACE, self.journal, async |heard| match heard {
            Heard::Out(line) if out.len() < OUTPUT_MAX => {
                out.push_str(&line.text);
                out.push('\n');
            }
            Heard::Err(line) => {
                let text: String = line.text.trim().chars().take(500).collect();
                if text.starts_with("error: object") {
                    error.clone_from(&text);
                }
                if text.contains("fsck error") {
                    broken = Some(if error.is_empty() { text.clone() } else { error.clone() });
                }
                // "fatal:" says more than what git prints after it; where it only says that SSH failed, that one has said why
                let fatal = text.starts_with("fatal");
                let says_more = complaint.is_empty() || !text.contains("Could not read from remote");
                if !text.is_empty() && !said_all && says_more {
                    complaint = text;
                }
                said_all |= fatal;
            }
            Heard::Out(_) => {}
        })
        .await
        .map_err(of_git)?;
        Ok(Said { ok: exit == Exit::Code(0), out, complaint, broken })
    }
}

/// A git that cannot be run is no missing engine, and one that was cancelled has changed nothing.
fn of_git(stop: Stop) -> Stop {
    match stop {
        Stop::Canceled { forced, .. } => Stop::Canceled { forced, exit: None },
        Stop::Failed(failure, exit) if failure.code == Code::EngineMissing => Stop::Failed(
            Code::SourceUnavailable
                .on(failure.message)
                .next("Install it on the runner's machine, or deploy an archive."),
            exit,
        ),
        other => other,
    }
}

// === impl Said ===

impl Said {
    /// # Errors
    /// The code given; `source_refused` where what came is broken; `disk_full`.
    pub(super) fn must(&self, code: Code, what: &str) -> Result<(), Stop> {
        if self.ok { Ok(()) } else { Err(self.failure(code, what).into()) }
    }

    /// Why it failed.
    fn failure(&self, code: Code, what: &str) -> Failure {
        if let Some(broken) = &self.broken {
            return Code::SourceRefused.on(format!("git cannot {what}: {broken}"));
        }
        if self.complaint.contains("No space left") {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return io_failure(code, format_args!("git cannot {what}"), &full);
        }
        let failure = code.on(format!("git cannot {what}: {}", self.complaint));
        let says = |words: &[&str]| words.iter().any(|word| self.complaint.contains(word));
        if what.contains(" file://") {
            // what every job is shown is written down
            failure.next(
                "Give a folder that is a Git repository; where it is one, name it under jobs.reads in the runner's configuration.",
            )
        } else if says(&["error: 301", "error: 302", "error: 303", "error: 307", "error: 308"]) {
            failure.next("The server sends to another address, which is not followed: give that one.")
        } else if says(&[
            "could not read Username",
            "Authentication failed",
            "Permission denied",
            "error: 401",
            "error: 403",
        ]) {
            failure.next("Name an entry under [sources] in the runner's configuration that is for this address, or correct what it names.")
        } else if says(&["certificate verif", "certificate problem"]) {
            failure.next("Name whom to trust as its host in ca_file of an entry under [sources] in the runner's configuration that is for this address.")
        } else if says(&["Host key verification failed"]) {
            failure
                .next("Name the host's key in known_hosts_file of the entry under [sources] that is for this address.")
        } else {
            failure
        }
    }

    /// What it complained of.
    pub(super) fn complaint(&self) -> &str {
        &self.complaint
    }
}
