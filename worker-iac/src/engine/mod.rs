//! The engine of a job, as a program that is run: its commands in its own [`Dialect`], its output into events, its end judged.

pub(crate) mod asked;
mod beside;
pub(crate) mod choice;
mod complaint;
pub(crate) mod dialect;
pub(crate) mod environment;
pub(crate) mod followed;
pub(crate) mod imports;
mod kept_by;
mod language;
mod lock;
mod opentofu;
mod passing;
mod providers;
pub(crate) mod pulumi;
pub(crate) mod resources;
pub(crate) mod state;
mod taken;
mod terraform;

use crate::cancel::Watcher;
use crate::events;
use crate::journal::Journal;
use crate::process::{self, Asks, Environment, Heard, Line, Program};
use crate::stop::{Exit, Stop, io_failure};
use crate::store::Facts;
use crate::variables::Setting;
use complaint::Complaint;
use dialect::{Command, Dialect, Family, Options, Plan};
use followed::Followed;
use resources::Resources;
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::event::Body;
use shared_proto::v1::{EngineProgram, EngineRead, EngineStarted, Outputs};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The most bytes of a plan's rendering that are kept.
const PLAN_TEXT_MAX: usize = 512 * 1024;
/// The most bytes of what an engine says of its version.
const VERSION_MAX: usize = 64 * 1024;
/// The most bytes of outputs that are read.
const OUTPUT_MAX: usize = 16 * 1024 * 1024;
/// The most bytes of a state's document that are read.
const STATE_MAX: usize = shared_proto::states::STATE_MAX;

/// An engine, ready for one root module.
#[derive(Debug)]
pub(crate) struct Engine {
    common: Common,
    /// Where it keeps its state by itself.
    state: Option<PathBuf>,
    /// Values that are set when the working copy is made ready.
    settings: Vec<Setting>,
    grace: Duration,
    /// How often a command is tried again that has changed nothing, and failed of what passes.
    retries: u32,
    cancel: Watcher,
    journal: Journal,
}

/// What all its commands have in common.
#[derive(Debug, Clone)]
struct Common {
    dialect: &'static dyn Dialect,
    program: PathBuf,
    version: String,
    environment: Environment,
    /// What it gets besides while it fetches what the configuration names.
    fetches_with: Environment,
    options: Options,
    root: PathBuf,
    work: PathBuf,
}

// === impl Engine ===

/// What an engine is made of.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    /// Which program, as the supervisor found it.
    pub(crate) program: &'a EngineProgram,
    /// The whole environment.
    pub(crate) environment: Environment,
    /// What its commands have in common.
    pub(crate) options: Options,
    /// Values that are set when the working copy is made ready.
    pub(crate) settings: Vec<Setting>,
    /// The root module.
    pub(crate) root: PathBuf,
    /// The job's folder.
    pub(crate) work: PathBuf,
    /// Where it keeps its state by itself, where that is known already.
    pub(crate) state: Option<PathBuf>,
    /// Between asking and forcing.
    pub(crate) grace: Duration,
    /// How often a command is tried again that has changed nothing, and failed of what passes.
    pub(crate) retries: u32,
}

impl Engine {
    /// Checks that the program is there.
    ///
    /// # Errors
    /// `engine_missing`.
    pub(crate) fn new(parts: Parts<'_>, cancel: Watcher, journal: Journal) -> Result<Self, Failure> {
        let dialect = dialect::named(&parts.program.name)?;
        let program = program_at(parts.program)?;
        let Parts { environment, options, settings, root, work, state, grace, retries, .. } = parts;
        // what it may write has to be there before
        private_folder(&work.join("data"))?;
        let version = parts.program.version.clone();
        let fetches_with = Environment::new();
        let common = Common { dialect, program, version, environment, fetches_with, options, root, work };
        Ok(Self { common, state, settings, grace, retries, cancel, journal })
    }

    /// How its working copies are made ready.
    pub(crate) fn family(&self) -> Family {
        self.common.dialect.family()
    }

    /// Its root module's folder.
    pub(crate) fn root(&self) -> &Path {
        &self.common.root
    }

    /// Takes another program of the same engine, before anything but its version was asked of it.
    ///
    /// # Errors
    /// `engine_missing`.
    fn take(&mut self, program: &EngineProgram) -> Result<(), Failure> {
        self.common.program = program_at(program)?;
        self.common.version.clone_from(&program.version);
        Ok(())
    }

    /// Asks the program for its version, where the supervisor does not know it: that one runs no programs.
    pub(crate) async fn learn_version(&mut self) -> Result<(), Stop> {
        if !self.common.version.is_empty() {
            return Ok(());
        }
        let (text, _) = self.said(&Command::Version, VERSION_MAX).await?;
        self.common.version = self.common.dialect.version(&text).ok_or_else(|| {
            Code::EngineMissing.on(format!(
                "{} does not say its version as {} does",
                self.common.program.display(),
                self.common.dialect.name()
            ))
        })?;
        Ok(())
    }

    /// What it gets besides, from now on, while it makes the working copy ready.
    pub(crate) fn fetches_with(&mut self, environment: Environment) {
        self.common.fetches_with = environment;
    }

    /// Makes the working copy ready. `again`: after its backend was changed.
    pub(crate) async fn init(&mut self, again: bool) -> Result<(), Stop> {
        self.command(&Command::Init { again }).await.map(drop)
    }

    /// Chooses a workspace, which is made where there is none.
    pub(crate) async fn workspace(&mut self, name: &str) -> Result<(), Stop> {
        self.command(&Command::Workspace(name)).await.map(drop)
    }

    /// Sets a value of the configuration.
    async fn set(&mut self, setting: &Setting) -> Result<(), Stop> {
        environment::private_file(&self.common.input(), setting.value.as_bytes())?;
        let done = self.command(&Command::Set(setting)).await;
        let _ = std::fs::remove_file(self.common.input());
        done.map(drop)
    }

    /// Makes a plan, saved to the file. Whether there is anything to change.
    pub(crate) async fn plan(&mut self, what: &Plan<'_>, out: &Path) -> Result<bool, Stop> {
        if self.common.dialect.family() == Family::Pulumi {
            pulumi::remember_state(self, out).await?;
        }
        self.command(&Command::Plan { what, out }).await
    }

    /// Makes the plan of something else than what is to be approved: nobody is told of it.
    async fn look_again(&mut self, what: &Plan<'_>, out: &Path) -> Result<(), Stop> {
        self.said(&Command::Plan { what, out }, 0).await.map(drop)
    }

    /// Keeps what is approved, where that is not the engine's own plan alone.
    ///
    /// # Errors
    /// The file system; `too_large`.
    pub(crate) fn keep(&self, plan: &Path) -> Result<(), Failure> {
        match self.common.dialect.family() {
            Family::Pulumi => pulumi::keep(plan),
            Family::Language => Ok(()),
        }
    }

    /// The plan as the engine shows it to people.
    pub(crate) async fn show(&mut self, what: &Plan<'_>, plan: &Path) -> Result<String, Stop> {
        let (mut text, left_out) = self.said(&Command::Show { what, plan }, PLAN_TEXT_MAX).await?;
        if left_out > 0 {
            text.push_str(&format!("… [cut: {left_out} more bytes left out]\n"));
        }
        self.journal.redact_line(&mut text, false);
        Ok(text.trim_matches('\n').to_owned())
    }

    /// Attends a command that a worker before this one has started, to its end. Whether a plan has changes.
    pub(crate) async fn take_over(&mut self, followed: Followed) -> Result<bool, Stop> {
        let (out, err) = (self.common.work.join("engine.log"), self.common.work.join("engine.err"));
        let program = self.common.program.clone();
        let orphan = followed.orphan(&program, (&out, &err), Asks::Itself);
        let (journal, dialect) = (self.journal.clone(), self.common.dialect);
        let Followed { command, mut complaint, .. } = followed;
        let exit = process::take_over(orphan, &mut self.cancel, self.grace, &self.journal, async |heard| {
            heard_of_command(&journal, dialect, &mut complaint, heard).await;
        })
        .await?;
        complaint.judge(&command, dialect, exit)
    }

    /// Applies a saved plan.
    pub(crate) async fn apply(&mut self, what: &Plan<'_>, plan: &Path) -> Result<(), Stop> {
        if self.common.dialect.family() == Family::Pulumi {
            pulumi::check(self, what, plan).await?;
        }
        self.command(&Command::Apply { what, plan }).await.map(drop)
    }

    /// Removes the lock of that id from the state.
    pub(crate) async fn unlock(&mut self, lock: &str) -> Result<(), Stop> {
        self.command(&Command::Unlock(lock)).await.map(drop)
    }

    /// The outputs of the state, the sensitive ones nulled.
    pub(crate) async fn output(&mut self) -> Result<Outputs, Stop> {
        let value = self.document(&Command::Output, OUTPUT_MAX).await?;
        self.common
            .dialect
            .outputs(&value)
            .ok_or_else(|| Code::EngineFailed.on("the engine's outputs are of another form").into())
    }

    /// The resources of the state; where addresses are named, only those, with what they hold.
    pub(crate) async fn resources(&mut self, addresses: &[String]) -> Result<Resources, Stop> {
        let state = self.state().await?;
        Ok(self.common.dialect.resources(&state, addresses, self.journal.redaction()))
    }

    /// The state as the engine gives it, with what is sensitive.
    async fn state(&mut self) -> Result<Value, Stop> {
        self.document(&Command::State, STATE_MAX).await
    }

    /// The state that the configuration's own backend has, and what it says of itself. None: it has none yet; most backends give an empty one then, which
    /// has no lineage.
    pub(crate) async fn pulled(&mut self) -> Result<Option<(String, Facts)>, Stop> {
        let text = self.whole(&Command::Pull, STATE_MAX).await?;
        let facts = Facts::of(text.as_bytes()).unwrap_or_default();
        let is_there = facts.would_be_missed() || !facts.lineage.is_empty();
        Ok(is_there.then_some((text, facts)))
    }

    /// The document that a command gives, of at most so many bytes.
    async fn document(&mut self, command: &Command<'_>, max: usize) -> Result<Value, Stop> {
        let text = self.whole(command, max).await?;
        // a warning may come first
        let start = text.find('{').unwrap_or(0);
        serde_json::from_str(&text[start..]).map_err(|e| {
            Code::EngineFailed.on(format!("what the engine gives as {} is no JSON: {e}", command.name())).into()
        })
    }

    /// All that a command says, of at most so many bytes.
    async fn whole(&mut self, command: &Command<'_>, max: usize) -> Result<String, Stop> {
        match self.said(command, max).await? {
            (text, 0) => Ok(text),
            _ => {
                let message = format!("what the engine gives as {} has more than {max} bytes", command.name());
                Err(Code::TooLarge.on(message).into())
            }
        }
    }

    /// Runs a command whose standard output is lines of events, again where it changes nothing and has failed of what passes. Whether it has
    /// planned changes.
    async fn command(&mut self, command: &Command<'_>) -> Result<bool, Stop> {
        let retries = if matches!(command, Command::Init { .. } | Command::Plan { .. }) { self.retries } else { 0 };
        for tries in 0..retries {
            let (judged, passes) = self.attempt(command).await?;
            let (Err(Stop::Failed(_, Some(Exit::Code(_)))), Some(passes)) = (&judged, passes) else { return judged };
            let pause = passing::pause(tries);
            let what = command.name();
            let note = format!(
                "The {what} failed of what may pass ({passes}): it is tried again in {} s, {} of {retries}.",
                pause.as_secs(),
                tries + 1
            );
            self.journal.note(note).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.cancel.asked() => return Err(Stop::Canceled { forced: false, exit: None }),
            }
        }
        self.attempt(command).await?.0
    }

    /// Runs it once: how it is judged, and the error that passes by itself where there was no other.
    async fn attempt(&mut self, command: &Command<'_>) -> Result<(Result<bool, Stop>, Option<String>), Stop> {
        let (out, err) = (self.common.work.join("engine.log"), self.common.work.join("engine.err"));
        let (journal, dialect) = (self.journal.clone(), self.common.dialect);
        let mut complaint = Complaint::default();
        let exit = self
            .run(command, (&out, &err), async |heard| {
                heard_of_command(&journal, dialect, &mut complaint, heard).await;
            })
            .await?;
        let passes = complaint.passes().map(str::to_owned);
        Ok((complaint.judge(command.name(), dialect, exit), passes))
    }

    /// Runs a command whose standard output is a document: it may hold secrets, and goes with the temporary folder. What it says, in whole
    /// lines up to so many bytes, and how many bytes more there are.
    async fn said(&mut self, command: &Command<'_>, max: usize) -> Result<(String, u64), Stop> {
        let (out, _) = process::scratch(&self.common.work.join("tmp"), command.name());
        let err = self.common.work.join("engine.err");
        let (journal, dialect) = (self.journal.clone(), self.common.dialect);
        let mut complaint = Complaint::default();
        let tells = matches!(command, Command::Plan { .. });
        let exit = self
            .run(command, (&out, &err), async |heard| {
                match heard {
                    Heard::Err(line) => stderr(&journal, dialect, &mut complaint, line).await,
                    // of events that nobody is told of, why it failed
                    Heard::Out(line) if tells => {
                        dialect.event(&line.text).iter().for_each(|body| complaint.hear(body, dialect))
                    }
                    Heard::Out(_) => {}
                }
            })
            .await;
        // a document may be one line, longer than what is ever heard of one
        let read = read_lines(&out, max);
        let _ = std::fs::remove_file(&out);
        complaint.judge(command.name(), dialect, exit?)?;
        Ok(read.map_err(|e| io_failure(Code::Internal, "what the engine said", &e))?)
    }

    async fn run<F: AsyncFnMut(Heard)>(
        &mut self,
        command: &Command<'_>,
        output: (&Path, &Path),
        hear: F,
    ) -> Result<Exit, Stop> {
        let started = EngineStarted {
            engine: self.common.dialect.name().into(),
            version: self.common.version.clone(),
            command: command.name().into(),
            host: nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok()).unwrap_or_default(),
        };
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
        self.journal.has_read(EngineRead { out: length(output.0), err: length(output.1) });
        self.journal.record(Body::EngineStarted(started)).await;
        // what came before is on disk before the engine can do anything
        self.journal.flush().await;
        // its modules, its own data with the saved plan, and the state where that is here; not the spool
        let writes = self.common.writes();
        let writes = writes.iter().chain(&self.state).map(PathBuf::as_path).collect();
        let mut program = self.common.program(command, output, writes);
        let with;
        if matches!(command, Command::Init { .. }) && !self.common.fetches_with.is_empty() {
            with = self.common.environment.clone().into_iter().chain(self.common.fetches_with.clone()).collect();
            program.environment = &with;
        }
        process::run(program, &mut self.cancel, self.grace, &self.journal, hear).await
    }
}

// === impl Common ===

impl Common {
    /// What every command may write: the modules, the engine's own data, temporary files.
    fn writes(&self) -> [PathBuf; 3] {
        ["source", "data", "tmp"].map(|folder| self.work.join(folder))
    }

    /// The program that does a command.
    fn program<'a>(
        &'a self,
        command: &Command<'_>,
        output: (&'a Path, &'a Path),
        writes: Vec<&'a Path>,
    ) -> Program<'a> {
        let arguments = self.dialect.arguments(command, &self.version, &self.options);
        Program {
            path: &self.program,
            arguments: arguments.into_iter().map(OsString::from).collect(),
            folder: &self.root,
            environment: &self.environment,
            input: matches!(command, Command::Set(_)).then(|| self.input()),
            output,
            writes,
            writes_tmp: true,
            asks: Asks::Itself,
        }
    }

    /// What a command reads that is told something.
    fn input(&self) -> PathBuf {
        self.work.join("tmp").join("engine.in")
    }
}

/// The beginning of a file of text, and how many bytes are left out: it ends with a line where it is not whole.
fn read_lines(path: &Path, max: usize) -> std::io::Result<(String, u64)> {
    use std::io::Read as _;
    let file = std::fs::File::open(path)?;
    let whole = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.take(max as u64).read_to_end(&mut bytes)?;
    if whole > bytes.len() as u64 {
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
    }
    let left_out = whole.saturating_sub(bytes.len() as u64);
    Ok((String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()), left_out))
}

/// Where a program is.
///
/// # Errors
/// `engine_missing`: it is not there.
fn program_at(program: &EngineProgram) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(&program.path);
    if path.is_absolute() && path.is_file() {
        return Ok(path);
    }
    Err(Code::EngineMissing.on(format!("{} is not at {:?}", program.name, program.path)))
}

/// A line of a command whose standard output is lines of events.
async fn heard_of_command(journal: &Journal, dialect: &dyn Dialect, complaint: &mut Complaint, heard: Heard) {
    match heard {
        Heard::Out(mut line) => {
            journal.redact_line(&mut line.text, line.left_out > 0);
            let body = if line.left_out > 0 {
                let text = format!("{}… [cut: {} bytes left out]", line.text, line.left_out);
                Some(events::output("stdout", &text))
            } else {
                dialect.event(&line.text)
            };
            if let Some(body) = body {
                complaint.hear(&body, dialect);
                journal.record(body).await;
            }
        }
        Heard::Err(line) => stderr(journal, dialect, complaint, line).await,
    }
}

async fn stderr(journal: &Journal, dialect: &dyn Dialect, complaint: &mut Complaint, line: Line) {
    if line.text.trim().is_empty() {
        return;
    }
    let Line { mut text, left_out, .. } = line;
    // what is whole is looked through when it is recorded
    if left_out > 0 {
        journal.redact_line(&mut text, true);
    }
    let body = events::output("stderr", &text);
    complaint.hear(&body, dialect);
    journal.record(body).await;
}

/// Where the plan of a job is: among the engine's own data, which it may write.
pub(crate) fn plan_in(work: &Path) -> PathBuf {
    work.join("data").join("plan.bin")
}

/// Makes a folder that nobody else can enter; one that is there stays.
pub(crate) fn private_folder(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| io_failure(Code::Internal, format_args!("cannot make {}", path.display()), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_whole_or_by_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("said");
        for (content, max, expected) in [
            ("one\ntwo\n", 8, ("one\ntwo\n", 0)),
            ("one\ntwo\n", 7, ("one\n", 4)),
            ("{}", 2, ("{}", 0)),
            ("{ }", 2, ("", 3)),
            ("", 2, ("", 0)),
        ] {
            std::fs::write(&path, content).expect("writes");
            let (text, left_out) = read_lines(&path, max).expect("reads");
            assert_eq!((text.as_str(), left_out), expected, "{content:?} {max}");
        }
    }
}
