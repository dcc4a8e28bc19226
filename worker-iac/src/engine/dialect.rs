//! What differs between engines: how a command of ours is said to each, and how its answer is read. A dialect starts nothing and knows
//! no job: [`super::Engine`] runs what it says.

use super::opentofu::OPENTOFU;
use super::terraform::TERRAFORM;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::JobKind;
use shared_proto::v1::event::Body;
use std::fmt::Debug;
use std::path::Path;

/// A command of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Command<'a> {
    /// Which version it is.
    Version,
    /// Makes the working copy ready. `again`: after its backend was changed.
    Init { again: bool },
    /// Chooses a workspace, which is made where there is none.
    Workspace(&'a str),
    /// Makes a plan and saves it.
    Plan { what: &'a Plan<'a>, out: &'a Path },
    /// The saved plan, as the engine shows it to people.
    Show(&'a Path),
    /// The same, as a document.
    ShowDocument(&'a Path),
    /// The resources of the state, as a document.
    State,
    /// Applies the saved plan.
    Apply(&'a Path),
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
}

/// An engine's own way.
pub(crate) trait Dialect: Debug + Send + Sync {
    /// Its name in jobs and events.
    fn name(&self) -> &'static str;
    /// What the files of a root module end in.
    fn extensions(&self) -> &'static [&'static str];
    /// The file that says in a source which version of it is to be taken.
    fn version_file(&self) -> &'static str;
    /// The arguments that say this to that version. `variables`: the options that name the job's, where the command takes them. Never a
    /// secret: arguments can be read.
    fn arguments(&self, command: &Command<'_>, version: &str, variables: &[String]) -> Vec<String>;
    /// The version in the answer to [`Command::Version`].
    fn version(&self, said: &str) -> Option<String>;
    /// What a line says of a command whose output is events; `None`: nothing.
    fn event(&self, line: &str) -> Option<Body>;
    /// The exit code with which a plan ends that has changes, where that is not zero.
    fn planned_changes(&self) -> i32;
}

/// The dialect of an engine, by its name in a job.
///
/// # Errors
/// `engine_missing` for any other.
pub(crate) fn named(name: &str) -> Result<&'static dyn Dialect, Failure> {
    let known: [&'static dyn Dialect; 2] = [&OPENTOFU, &TERRAFORM];
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
            Self::Plan { .. } => "plan",
            Self::Show(_) => "show",
            Self::ShowDocument(_) => "show-json",
            Self::State => "state",
            Self::Apply(_) => "apply",
            Self::Output => "output",
            Self::Unlock(_) => "unlock",
        }
    }
}
