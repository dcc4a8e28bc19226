//! The programs that the demonstration starts: found beside its own, logged into its folder, and ended with all that they
//! started. A subreaper sees to it that nothing of theirs can slip away.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long a program may take to be ready.
const READY: Duration = Duration::from_secs(20);
/// How long a program may take to leave after SIGTERM.
const LEAVE: Duration = Duration::from_secs(6);
/// How long what is left over may take to be gone after SIGKILL.
const GONE: Duration = Duration::from_secs(3);

/// The binaries, all beside this one.
#[derive(Debug)]
pub(super) struct Binaries {
    folder: PathBuf,
}

/// What runs.
#[derive(Debug, Default)]
pub(super) struct Programs {
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

// === impl Binaries ===

impl Binaries {
    /// Those that the demonstration needs.
    const NEEDED: [&'static str; 4] = ["runner-control-plane", "runner", "runner-worker-ops", "runner-worker-iac"];

    /// Finds them.
    ///
    /// # Errors
    /// Which are missing.
    pub(super) fn find() -> Result<Self, Failure> {
        let own = std::env::current_exe()
            .map_err(|e| Code::Internal.on(format!("where this program is cannot be found out: {e}")))?;
        let folder = own.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        let missing: Vec<&str> = Self::NEEDED.into_iter().filter(|name| !folder.join(name).is_file()).collect();
        if missing.is_empty() {
            return Ok(Self { folder });
        }
        Err(Code::NotFound
            .on(format!("{} is not beside runnerctl, in {}", missing.join(", "), folder.display()))
            .next("Build all of it first: cargo build --release"))
    }
    /// The path of one.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

// === impl Programs ===

impl Programs {
    /// Makes this process the one that orphans come to.
    pub(super) fn adopt_orphans() -> Result<(), Failure> {
        nix::sys::prctl::set_child_subreaper(true)
            .map_err(|e| Code::Internal.on(format!("this process cannot become a subreaper: {e}")))
    }
    /// Starts a program with a clean environment; its words go into a log in the folder.
    pub(super) fn start(
        &mut self,
        name: &'static str,
        program: &Path,
        arguments: &[&str],
        folder: &Path,
    ) -> Result<(), Failure> {
        let failed =
            |e: std::io::Error| Code::Internal.on(format!("{name} did not start ({}): {e}", program.display()));
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).map_err(failed)?;
        let child = Command::new(program)
            .args(arguments)
            // nothing of the user's environment: no credentials, no settings of another installation
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()))
            .env("HOME", folder)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file.as_fd().try_clone_to_owned().map_err(failed)?)
            // Ctrl-C is for the demonstration, which ends the others in order
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        self.running.push(Running { name, child, log });
        Ok(())
    }
    /// Waits for the last started program's line that begins with this word; gives the JSON behind it.
    pub(super) async fn ready(&mut self, word: &str) -> Result<Value, Failure> {
        let Some(last) = self.running.last_mut() else { return Err(Code::Internal.on("nothing was started")) };
        let name = last.name;
        let Some(stdout) = last.child.stdout.take() else {
            return Err(Code::Internal.on(format!("{name} has no standard output")));
        };
        let mut lines = BufReader::new(stdout).lines();
        let found = tokio::time::timeout(READY, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(rest) = line.strip_prefix(word) {
                    return serde_json::from_str(rest).ok();
                }
            }
            None
        })
        .await;
        // what comes later is read and dropped, so that the program never waits for us
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        match found {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(Code::Internal.on(format!("{name} ended before it was ready"))),
            Err(_) => Err(Code::Internal.on(format!("{name} was not ready within {} s", READY.as_secs()))),
        }
    }
    /// A program that ended though nobody asked it to.
    pub(super) fn ended(&mut self) -> Option<&'static str> {
        self.running.iter_mut().find_map(|r| matches!(r.child.try_wait(), Ok(Some(_))).then_some(r.name))
    }
    /// The last lines of each log.
    pub(super) fn tails(&self, lines: usize) -> String {
        let mut text = String::new();
        for running in &self.running {
            let log = std::fs::read(&running.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let all: Vec<&str> = log.lines().collect();
            text.push_str(&format!("--- {}, last lines of its log\n", running.name));
            for line in &all[all.len().saturating_sub(lines)..] {
                text.push_str(&format!("{}\n", crate::output::escape::line(line)));
            }
        }
        text
    }
    /// Ends all: the last started first, asked, then forced; then whatever they left.
    pub(super) async fn stop(&mut self) {
        while let Some(mut running) = self.running.pop() {
            if let Some(pid) = running.child.id().and_then(|id| i32::try_from(id).ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                if tokio::time::timeout(LEAVE, running.child.wait()).await.is_err() {
                    let _ = running.child.kill().await;
                }
            }
        }
        let _ = tokio::task::spawn_blocking(kill_descendants).await;
    }
}

/// Ends everything below this process, at once; blocking, bounded.
pub(super) fn kill_descendants() {
    let own = Pid::this();
    let start = Instant::now();
    while start.elapsed() < GONE {
        let below = descendants(own.as_raw());
        if below.is_empty() {
            return;
        }
        for (pid, parent) in below {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            if parent == own.as_raw() {
                let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The engine's process below this one, if it runs.
pub(super) fn engine_process(engine: &Path) -> Option<i32> {
    let engine = engine.canonicalize().ok()?;
    descendants(Pid::this().as_raw())
        .into_iter()
        .map(|(pid, _)| pid)
        .find(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == engine))
}

/// All processes below one, each with its parent.
fn descendants(root: i32) -> Vec<(i32, i32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let all: Vec<(i32, i32)> = entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| Some((pid, parent_of(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    let mut below: Vec<(i32, i32)> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for &(pid, of) in all.iter().filter(|(_, of)| *of == parent) {
            below.push((pid, of));
            parents.push(pid);
        }
    }
    below
}

/// The parent in a line of /proc/PID/stat: the second field may hold anything, so from its last bracket on.
fn parent_of(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_whatever_the_name() {
        assert_eq!(parent_of("12 (a) b) (c)) S 7 12 12 0"), Some(7));
        assert_eq!(parent_of("12 (a"), None);
    }

    #[test]
    fn children_and_theirs_are_found() {
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 600 & wait"]).spawn().expect("starts");
        let id = i32::try_from(child.id()).expect("a pid");
        let below = |root: i32| descendants(root).into_iter().map(|(pid, _)| pid).collect::<Vec<_>>();
        // the shell's own child comes in a moment; its start is waited for, not guessed
        let grandchild = loop {
            if let [only] = below(id)[..] {
                break only;
            }
            std::thread::yield_now();
        };
        assert!(below(Pid::this().as_raw()).contains(&grandchild));
        let _ = kill(Pid::from_raw(grandchild), Signal::SIGKILL);
        let _ = child.kill();
        let _ = child.wait();
    }
}
