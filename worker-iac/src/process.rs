//! Runs one program (an engine, git) in a process group of its own, with its output going to files, so that nobody's death but its
//! own ends it. Cancelling asks it once, waits, then kills the group: never a second SIGINT, which makes engines drop their state.

mod left;
mod tail;

use crate::cancel::{Cancel, Watcher};
use crate::first;
use crate::journal::Journal;
use crate::stop::{Exit, Stop, io_failure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use runner_sandbox::landlock::{self, Access, Ruleset, Scope};
use runner_sandbox::nested;
use shared_proto::failure::Code;
use shared_proto::v1::event::Body;
use shared_proto::v1::{CancelProgress, EngineRead};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tail::Tail;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use left::{Left, forget, note_reaped};
pub(crate) use tail::Line;

/// The whole environment of a program: nothing else is in it.
pub(crate) type Environment = BTreeMap<String, OsString>;

/// A program to run.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// Its path.
    pub(crate) path: &'a Path,
    /// Its arguments; no secret ever.
    pub(crate) arguments: Vec<OsString>,
    /// Its working directory.
    pub(crate) folder: &'a Path,
    /// Its environment.
    pub(crate) environment: &'a Environment,
    /// The file that it reads as its standard input; none: there is nothing to read.
    pub(crate) input: Option<PathBuf>,
    /// Where standard output and standard error go; appended to.
    pub(crate) output: (&'a Path, &'a Path),
    /// Below what it writes, makes and removes; beside that it is kept from all that, and from looking into this process.
    pub(crate) writes: Vec<&'a Path>,
    /// Whether it writes below [`TMP`] as well.
    pub(crate) writes_tmp: bool,
    /// Who of it is asked to stop.
    pub(crate) asks: Asks,
}

/// Who of a program is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// The program alone, which gives its children what it decides to give them.
    Itself,
    /// All of its process group, as a terminal does: a shell first waits for what it has started.
    Group,
}

/// At which number programs find the job's temporary folder, where its path is too long for what they make in it.
pub(crate) const TMP_DESCRIPTOR: i32 = 199;
/// Its name in the job's folder, which is this process's working directory.
const TMP_FOLDER: &str = "tmp";
/// How often what was left behind is ended, and how long each time may take to be gone.
const LEFT_ROUNDS: u32 = 500;
const LEFT_EVERY: Duration = Duration::from_millis(10);
/// For what forgets the usual place of temporary files.
pub(crate) const TMP: &str = "/tmp";

/// What happened while a program ran, for whoever reads its output.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A line of standard output.
    Out(Line),
    /// A line of standard error.
    Err(Line),
}

/// Runs the program to its end and hands over each line of its output.
///
/// # Errors
/// It cannot be started; it was cancelled before or while it ran.
pub(crate) async fn run<F: AsyncFnMut(Heard)>(
    program: Program<'_>,
    cancel: &mut Watcher,
    grace: Duration,
    journal: &Journal,
    hear: F,
) -> Result<Exit, Stop> {
    if cancel.now() != Cancel::No {
        return Err(Stop::Canceled { forced: false, exit: None });
    }
    let shown = program.path.display();
    let failed = |e: &io::Error| broken(program.path, e);
    let out = Tail::open(program.output.0, None).map_err(|e| failed(&e))?;
    let err = Tail::open(program.output.1, None).map_err(|e| failed(&e))?;
    // without these nobody could take over
    let _ = left::note_start(program.path);
    let died = signal(SignalKind::child()).map_err(|e| failed(&e))?;
    let asks = program.asks;
    let child = spawn(&program).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            Code::EngineMissing.on(format!("cannot run {shown}: {e}")).into()
        }
        _ => failed(&e),
    })?;
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ = left::note(pid);
    }
    let running = Running::Child { child, died };
    attend((program.path, asks), running, (out, err), false, cancel, grace, journal, hear).await
}

/// Runs a program that only looks at something, beside another one: nothing is told of it, nobody takes it over, and a cancel ends it at once.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_beside(program: Program<'_>, cancel: &mut Watcher) -> Result<Exit, Stop> {
    let mut child = spawn(&program).map_err(|e| broken(program.path, &e))?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let ended = tokio::select! {
        status = child.wait() => Some(status.map(Exit::from).map_err(|e| broken(program.path, &e))),
        _ = cancel.asked() => None,
    };
    // with what it has started
    if let Some(pid) = pid {
        let _ = killpg(pid, Signal::SIGKILL);
    }
    match ended {
        Some(ended) => ended,
        None => {
            let exit = child.wait().await.ok().map(Exit::from);
            Err(Stop::Canceled { forced: true, exit })
        }
    }
}

/// Attends a program that a worker before this one has started, from where that one had read its output.
///
/// # Errors
/// It was cancelled while it ran; nothing tells how it ended.
pub(crate) async fn take_over<F: AsyncFnMut(Heard)>(
    orphan: Orphan<'_>,
    cancel: &mut Watcher,
    grace: Duration,
    journal: &Journal,
    hear: F,
) -> Result<Exit, Stop> {
    let failed = |e: &io::Error| broken(orphan.path, e);
    let out = Tail::open(orphan.output.0, Some(orphan.read.out)).map_err(|e| failed(&e))?;
    let err = Tail::open(orphan.output.1, Some(orphan.read.err)).map_err(|e| failed(&e))?;
    let running = Running::Orphan { left: orphan.left, gone: None };
    attend((orphan.path, orphan.asks), running, (out, err), orphan.asked, cancel, grace, journal, hear).await
}

/// A program that this process has not started.
#[derive(Debug)]
pub(crate) struct Orphan<'a> {
    /// Its path, for messages.
    pub(crate) path: &'a Path,
    /// Which process it is, or was.
    pub(crate) left: Left,
    /// Where its output goes.
    pub(crate) output: (&'a Path, &'a Path),
    /// How far that was read.
    pub(crate) read: EngineRead,
    /// Whether it was asked to stop.
    pub(crate) asked: bool,
    /// Who of it is.
    pub(crate) asks: Asks,
}

enum Running {
    Child { child: tokio::process::Child, died: tokio::signal::unix::Signal },
    Orphan { left: Left, gone: Option<Instant> },
}

impl Running {
    fn pid(&self) -> Option<Pid> {
        match self {
            Self::Child { child, .. } => child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw),
            Self::Orphan { left, .. } => left.alive().then_some(Pid::from_raw(left.pid)),
        }
    }
    async fn ended(&mut self) -> io::Result<Exit> {
        match self {
            Self::Child { child, died } => {
                // this process may die between that and whatever it makes of it
                if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
                    left::note_end(pid, died).await;
                }
                child.wait().await.map(Exit::from)
            }
            Self::Orphan { left, gone } => Ok(left.ended(gone).await),
        }
    }
}

fn broken(path: &Path, error: &io::Error) -> Stop {
    io_failure(Code::Internal, format_args!("cannot run {}", path.display()), error).into()
}

#[expect(clippy::too_many_arguments, reason = "the two ways to a running program share this and nothing else")]
async fn attend<F: AsyncFnMut(Heard)>(
    (path, asks): (&Path, Asks),
    mut running: Running,
    (mut out, mut err): (Tail, Tail),
    mut asked: bool,
    cancel: &mut Watcher,
    grace: Duration,
    journal: &Journal,
    mut hear: F,
) -> Result<Exit, Stop> {
    let failed = |e: &io::Error| broken(path, e);
    let pid = running.pid();
    // the one before may have been ended before it could
    if asked && let Some(pid) = pid {
        ask(pid, asks);
    }
    let mut deadline = asked.then(|| tokio::time::Instant::now() + grace);
    let mut seen = Cancel::No;
    let mut read = EngineRead { out: out.given(), err: err.given() };
    let mut forced = false;
    let status = loop {
        pass_on(&mut out, &mut err, &mut read, journal, &mut hear).await.map_err(|e| failed(&e))?;
        let force_at = async {
            match deadline {
                Some(at) if !forced => tokio::time::sleep_until(at).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            status = running.ended() => break status,
            () = out.grown() => {}
            () = err.grown() => {}
            now = cancel.beyond(&seen) => {
                if let (Cancel::Asked(by), Some(pid), false) = (&now, pid, asked) {
                    asked = true;
                    journal.record(progress("asked", by)).await;
                    // whoever takes over from here knows that it was asked
                    journal.flush().await;
                    ask(pid, asks);
                    deadline = Some(tokio::time::Instant::now() + grace);
                }
                if let Cancel::Forced(by) = &now {
                    forced = true;
                    force(pid, by, journal).await;
                }
                seen = now;
            }
            () = force_at => {
                forced = true;
                force(pid, "the grace is over", journal).await;
            }
        }
    };
    // what it left in its group ends with it
    if let Some(pid) = pid {
        let _ = killpg(pid, Signal::SIGKILL);
    }
    let exit = status.map_err(|e| failed(&e))?;
    out.finish();
    err.finish();
    pass_on(&mut out, &mut err, &mut read, journal, &mut hear).await.map_err(|e| failed(&e))?;
    // where it was done before it could heed the request: what it did, it did
    if (asked || seen != Cancel::No) && !matches!(exit, Exit::Code(0 | 2)) {
        return Err(Stop::Canceled { forced, exit: Some(exit) });
    }
    Ok(exit)
}

/// Hands over what there is, each line with where the next one begins: another worker would read on from there.
async fn pass_on<F: AsyncFnMut(Heard)>(
    out: &mut Tail,
    err: &mut Tail,
    read: &mut EngineRead,
    journal: &Journal,
    hear: &mut F,
) -> io::Result<()> {
    while let Some(line) = out.next()? {
        read.out = line.end;
        journal.has_read(*read);
        hear(Heard::Out(line)).await;
    }
    while let Some(line) = err.next()? {
        read.err = line.end;
        journal.has_read(*read);
        hear(Heard::Err(line)).await;
    }
    Ok(())
}

/// Asks a program to stop; how often is no matter. The job's first process does it, because it remembers: a worker may die before it has,
/// or behind it, and whoever follows could not know which.
pub(crate) fn ask(program: Pid, asks: Asks) {
    let number = match asks {
        Asks::Itself => program.as_raw(),
        Asks::Group => -program.as_raw(),
    };
    if let Err(e) = runner_sandbox::process::signal_parent(first::ASK, number) {
        eprintln!("runner-worker-iac: {program} is not asked to stop: {e}");
    }
}

/// Ends what programs of the job have left behind outside of their process groups: it has become the first process's child. For when none of them runs.
pub(crate) async fn end_left_behind() {
    let (first, own) = (nix::unistd::getppid(), nix::unistd::getpid());
    // whoever leads this session is the first process of this job, and of nothing else
    if nix::unistd::getsid(None) != Ok(first) {
        return;
    }
    // what one has started becomes the first process's child as that one ends
    for _ in 0..LEFT_ROUNDS {
        let left: Vec<_> =
            runner_sandbox::sessions::children(first.as_raw()).into_iter().filter(|pid| *pid != own.as_raw()).collect();
        if left.is_empty() {
            return;
        }
        for pid in left {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        tokio::time::sleep(LEFT_EVERY).await;
    }
}

async fn force(pid: Option<Pid>, by: &str, journal: &Journal) {
    journal.record(progress("forced", by)).await;
    if let Some(pid) = pid {
        let _ = killpg(pid, Signal::SIGKILL);
    }
}

fn progress(step: &str, by: &str) -> Body {
    Body::CancelProgress(CancelProgress { step: step.into(), by: by.into() })
}

fn spawn(program: &Program<'_>) -> io::Result<tokio::process::Child> {
    let mut command = std::process::Command::new(program.path);
    command
        .args(&program.arguments)
        .current_dir(program.folder)
        .env_clear()
        .envs(program.environment)
        .stdin(program.input.as_ref().map(File::open).transpose()?.map_or_else(Stdio::null, Stdio::from))
        .stdout(appending(program.output.0)?)
        .stderr(appending(program.output.1)?)
        .process_group(0);
    if program.environment.get("TMPDIR").is_some_and(|tmp| Path::new(tmp).starts_with("/proc")) {
        let flags = nix::libc::O_PATH | nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
        let tmp = OpenOptions::new().read(true).custom_flags(flags).open(TMP_FOLDER)?;
        nested::give(&mut command, tmp.into(), TMP_DESCRIPTOR);
    }
    if landlock::abi() > 0 {
        let domain = Ruleset::of_writing(Scope { no_tcp: false, own_signals_and_sockets: true })?;
        for path in program.writes.iter().copied().chain(program.writes_tmp.then_some(Path::new(TMP))) {
            domain.allow_path(path, Access::Write)?;
        }
        for device in landlock::DEVICES {
            domain.allow_path(Path::new(device), Access::Use)?;
        }
        nested::enter(&mut command, domain);
    }
    tokio::process::Command::from(command).spawn()
}

/// A file of the job's own, for appending, readable by nobody else, and never through a link.
pub(crate) fn appending(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW).open(path)
}

/// Where git and short commands put what they say: in the job's own temporary folder.
pub(crate) fn scratch(tmp: &Path, name: &str) -> (PathBuf, PathBuf) {
    (tmp.join(format!("{name}.out")), tmp.join(format!("{name}.err")))
}
