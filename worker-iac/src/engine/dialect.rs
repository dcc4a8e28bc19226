//! What differs between engines: how a command of ours is said to each, and how its answer is read. A dialect starts nothing and knows
//! no job: [`super::Engine`] runs what it says.

use super::opentofu::OPENTOFU;
use super::pulumi::PULUMI;
use super::resources::Resources;
use super::terraform::TERRAFORM;
use crate::engine::environment::Folders;
use crate::process::Environment;
use crate::variables::{Given, Setting, Variables};
use runner_worker_iac::redaction::Redaction;
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::event::Body;
use shared_proto::v1::{ImportedResource, JobKind, JobRequest, JobStart, Outputs, StateLock};
use shared_proto::version::Constraint;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

/// A command of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Command<'a> {
    /// Which version it is.
    Version,
    /// Makes the working copy ready. `again`: after its backend was changed.
    Init { again: bool },
    /// Chooses a workspace, which is made where there is none.
    Workspace(&'a str),
    /// Sets a value of the configuration, which it reads from its standard input.
    Set(&'a Setting),
    /// Makes a plan and saves it.
    Plan { what: &'a Plan<'a>, out: &'a Path },
    /// The saved plan, as the engine shows it to people.
    Show { what: &'a Plan<'a>, plan: &'a Path },
    /// The same, as a document.
    ShowDocument(&'a Path),
    /// The resources of the state, as a document.
    State,
    /// The state as the backend has it; nothing where it has none.
    Pull,
    /// Applies the saved plan.
    Apply { what: &'a Plan<'a>, plan: &'a Path },
    /// The outputs of the state, as a document.
    Output,
    /// Removes the lock of that id.
    Unlock(&'a str),
}

/// What is to be planned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// For which kind of job.
    pub(crate) kind: JobKind,
    /// Only these resources and modules, by address; empty: all.
    pub(crate) targets: &'a [String],
    /// Resources that are made anew, by address.
    pub(crate) replace: &'a [String],
    /// What is taken into the state.
    pub(crate) imports: &'a [ImportedResource],
}

/// What the commands of a job have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Arguments of all that takes them: files of variables, a stack.
    pub(crate) arguments: Vec<String>,
    /// What the engine's own addresses have before ours.
    pub(crate) prefix: String,
}

/// Where a job is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// What it was told.
    pub(crate) start: &'a JobStart,
    /// Its folders.
    pub(crate) folders: &'a Folders<'a>,
    /// Its root module.
    pub(crate) root: &'a Path,
}

/// How a working copy is made ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// By `init`, and plans are the engine's own, whole and bound to a state.
    Language,
    /// By a stack with its values, and only some plans are the engine's own.
    Pulumi,
}

/// An engine's own way.
pub(crate) trait Dialect: Debug + Send + Sync {
    /// Its name in jobs and events.
    fn name(&self) -> &'static str;
    /// How its working copies are made ready.
    fn family(&self) -> Family;
    /// What the files of a root module end in.
    fn extensions(&self) -> &'static [&'static str];
    /// The file that says in a source which version of it is to be taken, where it has such a file.
    fn version_file(&self) -> Option<&'static str>;
    /// What the root module itself asks for, and where it does. What is not understood is left to the engine.
    fn required(&self, root: &Path) -> Vec<(String, Constraint)>;
    /// The job's variables as its root module takes them.
    ///
    /// # Errors
    /// A variable that no engine can have; `secret_too_short`; `source_refused`.
    fn variables(&self, given: &Given<'_>, request: &JobRequest, root: &Path) -> Result<Variables, Failure>;
    /// What its commands have in common beside the variables.
    ///
    /// # Errors
    /// `source_refused`: the root module cannot be read.
    fn options(&self, request: &JobRequest, root: &Path) -> Result<Options, Failure>;
    /// What it finds in its environment beside what every engine does; may write into the job's folders, and makes what it names.
    ///
    /// # Errors
    /// The file system; what the root module may not say of where things are.
    fn environment(&self, place: &Place<'_>) -> Result<Environment, Failure>;
    /// The arguments that say this to that version. Never a secret: arguments can be read.
    fn arguments(&self, command: &Command<'_>, version: &str, options: &Options) -> Vec<String>;
    /// The version in the answer to [`Command::Version`].
    fn version(&self, said: &str) -> Option<String>;
    /// What a line says of a command whose output is events; `None`: nothing.
    fn event(&self, line: &str) -> Option<Body>;
    /// The lock of which a line of its output or a diagnostic says that the command could not have it.
    fn lock(&self, body: &Body) -> Option<StateLock>;
    /// Whether an error says that the saved plan is not what would be applied.
    fn stale(&self, summary: &str) -> bool;
    /// The exit code with which a plan ends that has changes; `None`: what it has planned says it.
    fn planned_changes(&self) -> Option<i32>;
    /// Where a plan's document is once it is made; `None`: the engine is asked for it.
    fn document(&self, plan: &Path) -> Option<PathBuf>;
    /// The outputs in the answer to [`Command::Output`], the sensitive ones nulled; `None`: it is of another form.
    fn outputs(&self, said: &Value) -> Option<Outputs>;
    /// The resources in the answer to [`Command::State`]; where addresses are named, only those at them or below, with what they hold.
    /// `of_job`: the job's secrets.
    fn resources(&self, state: &Value, addresses: &[String], of_job: Redaction) -> Resources;
}

/// The dialect of an engine, by its name in a job.
///
/// # Errors
/// `engine_missing` for any other.
pub(crate) fn named(name: &str) -> Result<&'static dyn Dialect, Failure> {
    let known: [&'static dyn Dialect; 3] = [&OPENTOFU, &TERRAFORM, &PULUMI];
    known
        .into_iter()
        .find(|dialect| dialect.name() == name)
        .ok_or_else(|| Code::EngineMissing.on(format!("there is no engine {name:?}")))
}

impl Command<'_> {
    /// Its name in events, messages and the names of files.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Init { .. } => "init",
            Self::Workspace(_) => "workspace",
            Self::Set(_) => "set",
            Self::Plan { .. } => "plan",
            Self::Show { .. } => "show",
            Self::ShowDocument(_) => "show-json",
            Self::State => "state",
            Self::Pull => "state-pull",
            Self::Apply { .. } => "apply",
            Self::Output => "output",
            Self::Unlock(_) => "unlock",
        }
    }
}

impl<'a> Plan<'a> {
    /// What a job asks for.
    pub(crate) fn of(request: &'a JobRequest) -> Self {
        let (targets, replace, imports) = (&request.targets, &request.replace, &request.imports);
        Self { kind: request.kind(), targets, replace, imports }
    }
}
