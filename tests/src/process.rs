//! A program that a test started: its output line by line, and its end with all that came of it.
//!
//! Programs are started by one thread that lives as long as the test binary, through `setpriv --pdeathsig`: so that they end also
//! where the test binary is killed. Otherwise [`Process::end`] ends the program, its group, what is below it with the sessions
//! that were begun there, and what carries the mark that each program has in its environment, whoever its parent is by now.

use crate::{procfs, scratch, tools};
use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// For what a program that has ended said last.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The most lines that are kept of one stream; older ones go.
const LINES_MAX: usize = 100_000;
/// The variable that marks a program and what inherits its environment.
const MARK: &str = "RUNNER_TESTS_MARK";
/// The lines that a failed scenario shows of each process of ours, and of each component.
const LINES_SHOWN: usize = 40;
const COMPONENT_LINES_SHOWN: usize = 5;

/// A program to be started.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    path: PathBuf,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    folder: PathBuf,
    death_signal: &'static str,
    prefix: Vec<String>,
    input: Option<Vec<u8>>,
    lines_shown: usize,
}

/// A program that was started. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    pid: i32,
    /// `NAME=VALUE` in the environment of the program and of what inherits it.
    mark: String,
    stdout: Log,
    stderr: Log,
    exit: watch::Receiver<Option<ExitStatus>>,
}

/// The lines of one stream.
#[derive(Debug, Clone)]
pub struct Log {
    lines: Arc<Mutex<Lines>>,
    changed: watch::Receiver<u64>,
}

#[derive(Debug, Default)]
struct Lines {
    first: u64,
    lines: VecDeque<String>,
    ended: bool,
}

/// A place in a log: what comes after it is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark(u64);

/// What a program that ended left.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

static ALIVE: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

thread_local! {
    /// The logs of what this scenario started, for its failure.
    static LOGS: RefCell<Vec<(String, usize, Log)>> = const { RefCell::new(Vec::new()) };
}

/// A new scenario begins on this thread.
pub fn forget_logs() {
    LOGS.with_borrow_mut(Vec::clear);
}

/// The last lines of what this thread's scenario started.
pub fn recent_logs() -> String {
    LOGS.with_borrow(|logs| {
        let mut text = String::new();
        for (name, shown, log) in logs {
            let lines = lock(&log.lines);
            if !lines.lines.is_empty() {
                text.push_str(&format!("--- {name}\n"));
            }
            for line in lines.lines.iter().skip(lines.lines.len().saturating_sub(*shown)) {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    })
}

/// Ends everything that is still running: the last act of a test binary.
pub fn end_all() {
    let alive: Vec<_> = lock(&ALIVE).drain(..).filter_map(|w| w.upgrade()).collect();
    for inner in alive {
        inner.end();
    }
    let (marked, working) =
        (procfs::with_environment(&format!("{MARK}={}.", std::process::id())), procfs::working_in(scratch::root()));
    for process in marked.into_iter().chain(working) {
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
}

type Started = Result<(std::process::Child, i32)>;

/// The thread that starts every program. PR_SET_PDEATHSIG follows the thread that forked, so that thread must never end.
fn nursery() -> &'static mpsc::Sender<(Command, mpsc::Sender<Started>)> {
    static NURSERY: OnceLock<mpsc::Sender<(Command, mpsc::Sender<Started>)>> = OnceLock::new();
    NURSERY.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<(Command, mpsc::Sender<Started>)>();
        std::thread::Builder::new()
            .name("nursery".into())
            .spawn(move || {
                for (mut command, reply) in receiver {
                    let started = command.spawn().map_err(anyhow::Error::from).and_then(|child| {
                        let pid = i32::try_from(child.id()).context("a pid")?;
                        Ok((child, pid))
                    });
                    let _ = reply.send(started);
                }
            })
            .expect("the machine gives a thread");
        sender
    })
}

// === impl Program ===

impl Program {
    /// One of that path, with an environment of PATH, HOME and TMPDIR only.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let mut environment = BTreeMap::new();
        for name in ["PATH", "TMPDIR", "LLVM_PROFILE_FILE", "RUST_BACKTRACE"] {
            if let Ok(value) = std::env::var(name) {
                environment.insert(name.to_owned(), value);
            }
        }
        environment.insert("HOME".into(), scratch::root().display().to_string());
        Self {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            path,
            arguments: Vec::new(),
            environment,
            folder: scratch::root().to_path_buf(),
            death_signal: "KILL",
            prefix: Vec::new(),
            input: None,
            lines_shown: LINES_SHOWN,
        }
    }
    /// A component of that name.
    ///
    /// # Errors
    /// It is not here.
    pub fn component(name: &str) -> Result<Self> {
        let path = tools::find(name).with_context(|| format!("{name} is not here: run tests/tools/install"))?;
        Ok(Self { lines_shown: COMPONENT_LINES_SHOWN, ..Self::new(path) })
    }
    /// One of our own.
    ///
    /// # Errors
    /// It was not built.
    pub fn own(name: &str) -> Result<Self> {
        Ok(Self::new(tools::binary(name)?))
    }
    /// Another version's program, with the same arguments and environment.
    #[must_use]
    pub fn replaced(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = path.into();
        self
    }
    /// The name in logs.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }
    /// More arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }
    /// With these arguments and no others.
    #[must_use]
    pub fn only_args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.clear();
        self.args(arguments)
    }
    /// An environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }
    /// Its working directory.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        folder.clone_into(&mut self.folder);
        self
    }
    /// What is put before it, such as `nsenter --net=…`.
    #[must_use]
    pub fn under<S: Into<String>>(mut self, prefix: impl IntoIterator<Item = S>) -> Self {
        self.prefix = prefix.into_iter().map(Into::into).collect();
        self
    }
    /// The signal that it gets where the test binary dies: a program that ends its own processes wants TERM.
    #[must_use]
    pub fn death_signal(mut self, signal: &'static str) -> Self {
        self.death_signal = signal;
        self
    }
    /// What it reads on standard input, which then ends. Without this standard input is empty.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// The system's.
    pub fn start(self) -> Result<Process> {
        let mut words = self.prefix;
        if let Some(setpriv) = tools::find("setpriv") {
            words.extend([setpriv.display().to_string(), "--pdeathsig".into(), self.death_signal.into(), "--".into()]);
        }
        words.push(self.path.display().to_string());
        words.extend(self.arguments);
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}.{}.", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .envs(&self.environment)
            .env(MARK, &mark)
            .current_dir(&self.folder)
            .stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let (reply, answer) = mpsc::channel();
        nursery().send((command, reply)).map_err(|_| anyhow!("the thread that starts programs is gone"))?;
        let (mut child, pid) = answer
            .recv()
            .context("the thread that starts programs is gone")?
            .with_context(|| format!("starting {}", self.path.display()))?;
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), self.input) {
            std::thread::spawn(move || {
                let _ = pipe.write_all(&input);
            });
        }
        let stdout = Log::read(child.stdout.take().context("stdout")?);
        let stderr = Log::read(child.stderr.take().context("stderr")?);
        let (exited, exit) = watch::channel(None);
        std::thread::spawn(move || {
            let status = child.wait().ok();
            let _ = exited.send(status);
        });
        LOGS.with_borrow_mut(|logs| {
            logs.push((format!("{} ({pid}) stdout", self.name), self.lines_shown, stdout.clone()));
            logs.push((format!("{} ({pid}) stderr", self.name), self.lines_shown, stderr.clone()));
        });
        let inner = Arc::new(Inner { name: self.name, pid, mark: format!("{MARK}={mark}"), stdout, stderr, exit });
        let mut alive = lock(&ALIVE);
        alive.retain(|w| w.strong_count() > 0);
        alive.push(Arc::downgrade(&inner));
        Ok(Process { inner })
    }

    /// Starts it and waits for its end.
    ///
    /// # Errors
    /// It does not start, or does not end within the deadline.
    pub async fn run(self, deadline: Duration) -> Result<Ended> {
        let process = self.start()?;
        let status = process.ended(deadline).await?;
        process.inner.stdout.end(deadline).await?;
        process.inner.stderr.end(deadline).await?;
        Ok(Ended { status, stdout: process.inner.stdout.text(), stderr: process.inner.stderr.text() })
    }
}

// === impl Ended ===

impl Ended {
    /// Standard output, where it ended well.
    ///
    /// # Errors
    /// It did not; the message has what it said.
    pub fn success(self) -> Result<String> {
        if self.status.success() { Ok(self.stdout) } else { bail!("{}\n{}{}", self.status, self.stdout, self.stderr) }
    }
    /// The exit code; -1 for a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

// === impl Process ===

impl Process {
    /// The process.
    pub fn pid(&self) -> i32 {
        self.inner.pid
    }
    /// Its standard output.
    pub fn stdout(&self) -> &Log {
        &self.inner.stdout
    }
    /// Its standard error.
    pub fn stderr(&self) -> &Log {
        &self.inner.stderr
    }
    /// How it ended, where it has.
    pub fn status(&self) -> Option<ExitStatus> {
        *self.inner.exit.borrow()
    }
    /// Waits for its end.
    ///
    /// # Errors
    /// The deadline passed.
    pub async fn ended(&self, deadline: Duration) -> Result<ExitStatus> {
        let mut exit = self.inner.exit.clone();
        let status = tokio::time::timeout(deadline, exit.wait_for(Option::is_some))
            .await
            .map_err(|_| anyhow!("{} was to end within {deadline:?}", self.inner.name))?
            .context("its waiter is gone")?;
        status.context("it ended")
    }
    /// Sends a signal to the program alone.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.status().is_some() {
            bail!("{} has ended", self.inner.name);
        }
        kill(Pid::from_raw(self.inner.pid), signal).with_context(|| format!("{signal} to {}", self.inner.name))
    }
    /// Waits for a line of standard output or error that says it is ready, and fails at once where the program ends instead.
    ///
    /// # Errors
    /// The deadline passed or the program ended.
    pub async fn ready(&self, deadline: Duration, what: &str, is_it: impl Fn(&str) -> bool) -> Result<String> {
        let mut exit = self.inner.exit.clone();
        tokio::select! {
            biased;
            line = self.inner.stdout.line(Mark::default(), deadline, what, &is_it) => line,
            line = self.inner.stderr.line(Mark::default(), deadline, what, &is_it) => line,
            status = exit.wait_for(Option::is_some) => {
                let status = status.ok().and_then(|s| *s);
                // what it said last may still be on its way through the pipes; a child of its own may hold them open
                let _ = tokio::join!(self.inner.stdout.end(LAST_WORDS), self.inner.stderr.end(LAST_WORDS));
                bail!(
                    "{} ended ({status:?}) before {what}:\n{}{}",
                    self.inner.name, self.inner.stdout.text(), self.inner.stderr.text()
                )
            }
        }
    }
    /// Awaits something that only comes while the program runs, and fails at once where that ends.
    ///
    /// # Errors
    /// That of what is awaited; the program ended.
    pub async fn unless_ended<T>(&self, awaited: impl Future<Output = Result<T>>) -> Result<T> {
        let mut exit = self.inner.exit.clone();
        tokio::select! {
            biased;
            result = awaited => result,
            status = exit.wait_for(Option::is_some) => bail!(
                "{} ended ({:?}):\n{}", self.inner.name, status.ok().and_then(|s| *s), self.inner.stderr.text()
            ),
        }
    }
    /// Ends it with all that came of it, and waits until that is gone.
    pub fn end(&self) {
        self.inner.end();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.inner.end();
    }
}

impl Inner {
    fn end(&self) {
        let mut victims: Vec<procfs::Stat> = Vec::new();
        let give_up = Instant::now() + Duration::from_secs(5);
        loop {
            let mut found = procfs::with_environment(&self.mark);
            // until it is waited for its number is its own
            let ended = self.exit.borrow().is_some();
            if !ended {
                found.extend(procfs::descendants(self.pid));
                let sessions: HashSet<i32> = found.iter().filter(|p| p.session == p.pid).map(|p| p.session).collect();
                found
                    .extend(procfs::all().into_iter().filter(|p| p.group == self.pid || sessions.contains(&p.session)));
            }
            for process in found {
                if !victims.iter().any(|v| (v.pid, v.started) == (process.pid, process.started)) {
                    victims.push(process);
                }
            }
            if !ended {
                let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
            }
            let mut alive = 0;
            for victim in &victims {
                if !procfs::gone(victim) {
                    alive += 1;
                    let _ = kill(Pid::from_raw(victim.pid), Signal::SIGKILL);
                }
            }
            if (alive == 0 && self.exit.borrow().is_some()) || Instant::now() > give_up {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

// === impl Log ===

impl Log {
    fn read(stream: impl Read + Send + 'static) -> Self {
        let (announce, changed) = watch::channel(0);
        let lines = Arc::new(Mutex::new(Lines::default()));
        let log = Self { lines: Arc::clone(&lines), changed };
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            loop {
                line.clear();
                let ended = !matches!(stream.read_until(b'\n', &mut line), Ok(n) if n > 0);
                let mut lines = lock(&lines);
                if ended {
                    lines.ended = true;
                } else {
                    let text = String::from_utf8_lossy(&line);
                    lines.lines.push_back(text.strip_suffix('\n').unwrap_or(&text).to_owned());
                    if lines.lines.len() > LINES_MAX {
                        lines.lines.pop_front();
                        lines.first += 1;
                    }
                }
                drop(lines);
                announce.send_modify(|n| *n += 1);
                if ended {
                    return;
                }
            }
        });
        log
    }

    /// The present end of the log.
    pub fn mark(&self) -> Mark {
        let lines = lock(&self.lines);
        Mark(lines.first + lines.lines.len() as u64)
    }

    /// What was written after a mark.
    pub fn since(&self, mark: Mark) -> Vec<String> {
        let lines = lock(&self.lines);
        let skip = usize::try_from(mark.0.saturating_sub(lines.first)).unwrap_or(usize::MAX);
        lines.lines.iter().skip(skip).cloned().collect()
    }

    /// All of it, with line ends.
    pub fn text(&self) -> String {
        self.since(Mark::default()).iter().fold(String::new(), |text, line| text + line + "\n")
    }

    /// The first line after a mark that fits, now or when it comes.
    ///
    /// # Errors
    /// The deadline passed, or the stream ended without it.
    pub async fn line(
        &self,
        after: Mark,
        deadline: Duration,
        what: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let wait = async {
            let mut changed = self.changed.clone();
            let mut next = after.0;
            loop {
                changed.mark_unchanged();
                let ended = {
                    let lines = lock(&self.lines);
                    next = next.max(lines.first);
                    while let Some(line) = lines.lines.get(usize::try_from(next - lines.first).unwrap_or(usize::MAX)) {
                        if fits(line) {
                            return Some(line.clone());
                        }
                        next += 1;
                    }
                    lines.ended
                };
                if ended {
                    // another stream of the process, or its end, may still answer
                    std::future::pending::<()>().await;
                }
                if changed.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout(deadline, wait).await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => bail!("the stream ended before {what}"),
            Err(_) => bail!("waited {deadline:?} for {what}"),
        }
    }

    /// The first JSON log message after a mark with that text and, if it says so, those fields.
    ///
    /// # Errors
    /// The deadline passed, or the stream ended without it.
    pub async fn message(
        &self,
        after: Mark,
        deadline: Duration,
        message: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let parse = |line: &str| serde_json::from_str::<Value>(line).ok();
        let line = self
            .line(after, deadline, &format!("the log message {message:?}"), |line| {
                line.contains(message) && parse(line).is_some_and(|v| v["message"] == message && fits(&v))
            })
            .await?;
        parse(&line).context("it was parsed before")
    }

    /// Waits for the stream's end.
    ///
    /// # Errors
    /// The deadline passed.
    pub async fn end(&self, deadline: Duration) -> Result<()> {
        let mut changed = self.changed.clone();
        let wait = async {
            while !lock(&self.lines).ended {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(deadline, wait).await.map_err(|_| anyhow!("the stream was to end within {deadline:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn lines_are_awaited_and_the_end_takes_all_with_it() {
        let script = "echo one; (setsid sleep 1000 & echo below $!); exec sleep 1000";
        let process = Program::new("/bin/sh").args(["-c", script]).start().expect("starts");
        let line = process.ready(SECONDS, "a line", |l| l.starts_with("below")).await.expect("comes");
        let below: i32 = line["below ".len()..].parse().expect("a pid");
        assert!(procfs::stat(below).is_some());
        let pid = process.pid();
        drop(process);
        assert!(procfs::stat(pid).is_none());
        assert!(procfs::stat(below).is_none_or(|s| s.ended()));
    }

    #[tokio::test]
    async fn a_program_that_ends_instead_is_told() {
        let process = Program::new("/bin/sh").args(["-c", "echo no >&2; exit 3"]).start().expect("starts");
        let error = process.ready(SECONDS, "readiness", |l| l == "yes").await.expect_err("ends");
        assert!(error.to_string().contains("no"), "{error}");
        let ended = Program::new("/bin/cat").input("abc\n").run(SECONDS).await.expect("runs");
        assert_eq!((ended.code(), ended.stdout.as_str()), (0, "abc\n"));
    }
}
