//! The engine: OpenTofu or Terraform. Both take the same commands; what differs is in [`Kind`].

mod beside;
pub(crate) mod environment;
pub(crate) mod followed;
pub(crate) mod state;

use crate::cancel::Watcher;
use crate::events;
use crate::journal::Journal;
use crate::process::{self, Environment, Heard, Line, Orphan, Program};
use crate::stop::{Exit, Stop, io_failure};
use followed::Followed;
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::event::Body;
use shared_proto::v1::{EngineProgram, EngineRead, EngineStarted, JobKind, Outputs};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the engine waits for a lock of the state that somebody else holds.
const LOCK_TIMEOUT: &str = "-lock-timeout=60s";
/// The most bytes of a plan's rendering that are kept.
const PLAN_TEXT_MAX: usize = 512 * 1024;
/// The most bytes of `output -json` that are read.
const OUTPUT_MAX: u64 = 16 * 1024 * 1024;

/// Which engine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// OpenTofu.
    OpenTofu,
    /// Terraform.
    Terraform,
}

/// An engine, ready for one root module.
#[derive(Debug)]
pub(crate) struct Engine {
    /// Which one.
    pub(crate) kind: Kind,
    program: PathBuf,
    version: String,
    environment: Environment,
    /// Arguments that name the files with the job's variables.
    variables: Vec<String>,
    root: PathBuf,
    work: PathBuf,
    state: PathBuf,
    grace: Duration,
    cancel: Watcher,
    journal: Journal,
}

/// What is said of a command's end.
#[derive(Debug, Default)]
struct Complaint {
    /// The first error, in the engine's own words.
    first: Option<String>,
    stale: bool,
    disk_full: bool,
    /// It said what it has applied, which comes last.
    applied: bool,
}

// === impl Kind ===

impl Kind {
    /// By its name in a job.
    ///
    /// # Errors
    /// `engine_missing` for any other.
    pub(crate) fn from_name(name: &str) -> Result<Self, Failure> {
        match name {
            "opentofu" => Ok(Self::OpenTofu),
            "terraform" => Ok(Self::Terraform),
            other => Err(Code::EngineMissing.on(format!("there is no engine {other:?}"))),
        }
    }
    /// Its name in events.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::OpenTofu => "opentofu",
            Self::Terraform => "terraform",
        }
    }
    /// What its configuration's files end in.
    pub(crate) const fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::OpenTofu => &[".tf", ".tf.json", ".tofu", ".tofu.json"],
            Self::Terraform => &[".tf", ".tf.json"],
        }
    }
    /// Whether its `init` takes `-json`.
    fn init_has_json(self, version: &str) -> bool {
        match self {
            Self::OpenTofu => at_least(version, (1, 8)),
            Self::Terraform => at_least(version, (1, 9)),
        }
    }
    /// Whether a command takes files with variables.
    fn takes_variables(self, command: &str, version: &str) -> bool {
        match (self, command) {
            (_, "plan") => true,
            // for what is ephemeral, and so in no plan
            (Self::Terraform, "apply") => at_least(version, (1, 10)),
            // for backends and sources of modules that are made of variables; its apply compares them with the plan's
            (Self::OpenTofu, "init" | "apply" | "show" | "output") => at_least(version, (1, 8)),
            _ => false,
        }
    }
}

/// Whether a version is that one or a later one; what is no version is none.
fn at_least(version: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = version.trim_start_matches('v').split(['.', '-']).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= wanted)
}

// === impl Engine ===

/// What an engine is made of.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    /// Which program, as the supervisor found it.
    pub(crate) program: &'a EngineProgram,
    /// The whole environment.
    pub(crate) environment: Environment,
    /// Arguments that name the files with the job's variables.
    pub(crate) variables: Vec<String>,
    /// The root module.
    pub(crate) root: PathBuf,
    /// The job's folder.
    pub(crate) work: PathBuf,
    /// Where a state without a backend is.
    pub(crate) state: PathBuf,
    /// Between asking and forcing.
    pub(crate) grace: Duration,
}

impl Engine {
    /// Checks that the program is there.
    ///
    /// # Errors
    /// `engine_missing`.
    pub(crate) fn new(parts: Parts<'_>, cancel: Watcher, journal: Journal) -> Result<Self, Failure> {
        let kind = Kind::from_name(&parts.program.name)?;
        let program = PathBuf::from(&parts.program.path);
        if !program.is_absolute() || !program.is_file() {
            let message = format!("{} is not at {:?}", kind.name(), parts.program.path);
            return Err(Code::EngineMissing.on(message));
        }
        let Parts { environment, variables, root, work, state, grace, .. } = parts;
        // what it may write has to be there before
        private_folder(&work.join("data"))?;
        let version = parts.program.version.clone();
        Ok(Self { kind, program, version, environment, variables, root, work, state, grace, cancel, journal })
    }

    /// Asks the program for its version, where the supervisor does not know it: that one runs no programs.
    pub(crate) async fn learn_version(&mut self) -> Result<(), Stop> {
        if !self.version.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        self.capture("version", &["version", "-json"], async |line: Line| {
            if text.len() < 64 * 1024 {
                text.push_str(&line.text);
                text.push('\n');
            }
        })
        .await?;
        let value: Value = serde_json::from_str(&text[text.find('{').unwrap_or(0)..]).unwrap_or_default();
        let version = value["terraform_version"].as_str().ok_or_else(|| {
            Code::EngineMissing.on(format!(
                "{} does not say its version as {} does",
                self.program.display(),
                self.kind.name()
            ))
        })?;
        self.version = version.to_owned();
        Ok(())
    }

    /// `init`.
    pub(crate) async fn init(&mut self, again: bool) -> Result<(), Stop> {
        let mut arguments = vec!["init", "-input=false", "-no-color", LOCK_TIMEOUT];
        if self.kind.init_has_json(&self.version) {
            arguments.push("-json");
        }
        if again {
            arguments.push("-reconfigure");
        }
        self.command("init", &arguments).await.map(drop)
    }

    /// `plan`, saved to the file. Whether there is anything to change.
    pub(crate) async fn plan(&mut self, kind: JobKind, plan: &Path) -> Result<bool, Stop> {
        let out = format!("-out={}", plan.display());
        let mut arguments =
            vec!["plan", "-input=false", "-no-color", "-json", "-detailed-exitcode", LOCK_TIMEOUT, &out];
        match kind {
            JobKind::Refresh => arguments.push("-refresh-only"),
            JobKind::Destroy => arguments.push("-destroy"),
            _ => {}
        }
        Ok(self.command("plan", &arguments).await? == Exit::Code(2))
    }

    /// The plan as the engine shows it to people.
    pub(crate) async fn show(&mut self, plan: &Path) -> Result<String, Stop> {
        let mut text = String::new();
        let mut left_out = 0;
        self.capture("show", &["show", "-no-color", &plan.display().to_string()], async |line: Line| {
            if text.len() + line.text.len() > PLAN_TEXT_MAX {
                left_out += line.text.len() + line.left_out + 1;
            } else {
                text.push_str(&line.text);
                text.push('\n');
            }
        })
        .await?;
        if left_out > 0 {
            text.push_str(&format!("… [cut: {left_out} more bytes left out]\n"));
        }
        self.journal.redact_line(&mut text, false);
        Ok(text.trim_matches('\n').to_owned())
    }

    /// Attends a command that a worker before this one has started, to its end.
    pub(crate) async fn take_over(&mut self, followed: Followed) -> Result<Exit, Stop> {
        let Followed { command, left, read, asked, complaint, .. } = followed;
        let (out, err) = (self.work.join("engine.log"), self.work.join("engine.err"));
        let program = self.program.clone();
        let orphan = Orphan { path: &program, left, output: (&out, &err), read, asked };
        let (journal, mut complaint) = (self.journal.clone(), complaint);
        let exit = process::take_over(orphan, &mut self.cancel, self.grace, &self.journal, async |heard| {
            heard_of_command(&journal, &mut complaint, heard).await;
        })
        .await?;
        complaint.judge(&command, self.kind, exit, command == "plan")
    }

    /// `apply` of a saved plan.
    pub(crate) async fn apply(&mut self, plan: &Path) -> Result<(), Stop> {
        let plan = plan.display().to_string();
        self.command("apply", &["apply", "-input=false", "-no-color", "-json", LOCK_TIMEOUT, &plan]).await.map(drop)
    }

    /// The outputs of the state, the sensitive ones nulled.
    pub(crate) async fn output(&mut self) -> Result<Outputs, Stop> {
        let mut text = String::new();
        self.capture("output", &["output", "-no-color", "-json"], async |line: Line| {
            if text.len() + line.text.len() < OUTPUT_MAX as usize {
                text.push_str(&line.text);
                text.push('\n');
            }
        })
        .await?;
        // a warning may come first
        let start = text.find('{').unwrap_or(0);
        let value: Value = serde_json::from_str(&text[start..])
            .map_err(|e| Code::EngineFailed.on(format!("the engine's outputs are no JSON: {e}")))?;
        events::outputs(&value).ok_or_else(|| Code::EngineFailed.on("the engine's outputs are of another form").into())
    }

    /// Runs a command whose standard output is lines of events.
    async fn command(&mut self, name: &str, arguments: &[&str]) -> Result<Exit, Stop> {
        let (out, err) = (self.work.join("engine.log"), self.work.join("engine.err"));
        let journal = self.journal.clone();
        let mut complaint = Complaint::default();
        let exit = self
            .run(name, arguments, (&out, &err), async |heard| {
                heard_of_command(&journal, &mut complaint, heard).await;
            })
            .await?;
        complaint.judge(name, self.kind, exit, name == "plan")
    }

    /// Runs a command whose standard output is a document: it may hold secrets, and goes with the temporary folder.
    async fn capture<F: AsyncFnMut(Line)>(&mut self, name: &str, arguments: &[&str], mut hear: F) -> Result<(), Stop> {
        let (out, _) = process::scratch(&self.work.join("tmp"), name);
        let err = self.work.join("engine.err");
        let journal = self.journal.clone();
        let mut complaint = Complaint::default();
        let exit = self
            .run(name, arguments, (&out, &err), async |heard| match heard {
                Heard::Out(line) => hear(line).await,
                Heard::Err(line) => stderr(&journal, &mut complaint, line).await,
            })
            .await;
        let _ = std::fs::remove_file(&out);
        complaint.judge(name, self.kind, exit?, false).map(drop)
    }

    async fn run<F: AsyncFnMut(Heard)>(
        &mut self,
        name: &str,
        arguments: &[&str],
        output: (&Path, &Path),
        hear: F,
    ) -> Result<Exit, Stop> {
        let started =
            EngineStarted { engine: self.kind.name().into(), version: self.version.clone(), command: name.to_owned() };
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
        self.journal.has_read(EngineRead { out: length(output.0), err: length(output.1) });
        self.journal.record(Body::EngineStarted(started)).await;
        // what came before is on disk before the engine can do anything
        self.journal.flush().await;
        let mut arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        if self.kind.takes_variables(name, &self.version) {
            // options come before what they are for
            arguments.splice(1..1, self.variables.iter().map(OsString::from));
        }
        // its modules, its own data with the saved plan, and the state where that is here; not the spool
        let (source, data, tmp) = (self.work.join("source"), self.work.join("data"), self.work.join("tmp"));
        let program = Program {
            path: &self.program,
            arguments,
            folder: &self.root,
            environment: &self.environment,
            output,
            writes: vec![&source, &data, &tmp, &self.state],
        };
        process::run(program, &mut self.cancel, self.grace, &self.journal, hear).await
    }
}

/// A line of a command whose standard output is lines of events.
async fn heard_of_command(journal: &Journal, complaint: &mut Complaint, heard: Heard) {
    match heard {
        Heard::Out(mut line) => {
            journal.redact_line(&mut line.text, line.left_out > 0);
            let body = if line.left_out > 0 {
                let text = format!("{}… [cut: {} bytes left out]", line.text, line.left_out);
                Some(events::output("stdout", &text))
            } else {
                events::of_line(&line.text)
            };
            if let Some(body) = body {
                complaint.hear(&body);
                journal.record(body).await;
            }
        }
        Heard::Err(line) => stderr(journal, complaint, line).await,
    }
}

async fn stderr(journal: &Journal, complaint: &mut Complaint, line: Line) {
    if line.text.trim().is_empty() {
        return;
    }
    let Line { mut text, left_out, .. } = line;
    // what is whole is looked through when it is recorded
    if left_out > 0 {
        journal.redact_line(&mut text, true);
    }
    let body = events::output("stderr", &text);
    complaint.hear(&body);
    journal.record(body).await;
}

// === impl Complaint ===

impl Complaint {
    fn hear(&mut self, body: &Body) {
        match body {
            Body::Diagnostic(d) if d.severity == "error" => {
                self.stale |= d.summary == "Saved plan is stale";
                self.disk_full |=
                    d.detail.contains("no space left on device") || d.summary.contains("no space left on device");
                let place = if d.address.is_empty() { String::new() } else { format!(" ({})", d.address) };
                self.first.get_or_insert_with(|| format!("{}{place}", d.summary));
            }
            Body::ChangeSummary(summary) => self.applied |= summary.operation == "apply",
            Body::OutputLine(line) => {
                self.disk_full |= line.text.contains("no space left on device");
                let words = line.text.trim_start_matches(['│', '╷', ' ']);
                if words.starts_with("Error: ") {
                    self.first.get_or_insert_with(|| words.chars().take(500).collect());
                }
            }
            _ => {}
        }
    }

    /// Judges an exit; `plan -detailed-exitcode` says 2 where there are changes.
    fn judge(self, command: &str, kind: Kind, exit: Exit, two_is_good: bool) -> Result<Exit, Stop> {
        if exit == Exit::Code(0) || (two_is_good && exit == Exit::Code(2)) {
            return Ok(exit);
        }
        // its last word is as good, where nobody saw how it ended
        if exit == Exit::Unknown && self.applied && self.first.is_none() {
            return Ok(Exit::Code(0));
        }
        let said = self.first.map(|first| format!(": {first}")).unwrap_or_default();
        let message = format!("{} {command} ended with {}{said}", kind.name(), exit.describe());
        let code = match (self.stale, self.disk_full) {
            (true, _) => Code::PlanStale,
            (_, true) => Code::DiskFull,
            _ => Code::EngineFailed,
        };
        Err(Stop::Failed(code.on(message), Some(exit)))
    }
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
    use shared_proto::v1::Diagnostic;

    #[test]
    fn init_speaks_json_where_it_can() {
        for (kind, version, expected) in [
            (Kind::Terraform, "1.11.4", true),
            (Kind::Terraform, "1.9.0", true),
            (Kind::Terraform, "1.8.5", false),
            (Kind::OpenTofu, "1.12.6-dev", true),
            (Kind::OpenTofu, "v1.8.0", true),
            (Kind::OpenTofu, "1.7.3", false),
            (Kind::OpenTofu, "2.0.0", true),
            (Kind::OpenTofu, "", false),
            (Kind::OpenTofu, "new", false),
        ] {
            assert_eq!(kind.init_has_json(version), expected, "{kind:?} {version}");
        }
    }

    #[test]
    fn variables_go_where_they_are_taken() {
        for (kind, version, expected) in [
            (Kind::Terraform, "1.11.4", &["plan", "apply"][..]),
            (Kind::Terraform, "1.9.8", &["plan"]),
            (Kind::OpenTofu, "1.12.6-dev", &["init", "plan", "apply", "show", "output"]),
            (Kind::OpenTofu, "1.7.3", &["plan"]),
        ] {
            let commands = ["version", "init", "plan", "apply", "show", "output"];
            let found: Vec<_> = commands.into_iter().filter(|c| kind.takes_variables(c, version)).collect();
            assert_eq!(found, expected, "{kind:?} {version}");
        }
    }

    #[test]
    fn an_exit_is_judged_by_what_was_said() {
        let heard = |summary: &str| {
            let mut complaint = Complaint::default();
            let diagnostic = Diagnostic { severity: "error".into(), summary: summary.into(), ..Default::default() };
            complaint.hear(&Body::Diagnostic(diagnostic));
            complaint
        };
        for (summary, exit, two, expected) in [
            ("", Exit::Code(0), false, None),
            ("", Exit::Code(2), true, None),
            ("", Exit::Code(2), false, Some(Code::EngineFailed)),
            ("Saved plan is stale", Exit::Code(1), false, Some(Code::PlanStale)),
            ("write x: no space left on device", Exit::Code(1), false, Some(Code::DiskFull)),
            ("x", Exit::Signal(9), true, Some(Code::EngineFailed)),
        ] {
            let judged = heard(summary).judge("plan", Kind::Terraform, exit, two);
            let code = judged.err().map(|stop| match stop {
                Stop::Failed(failure, Some(found)) if found == exit => failure.code,
                other => panic!("{other:?}"),
            });
            assert_eq!(code, expected, "{summary} {exit:?}");
        }
    }
}
