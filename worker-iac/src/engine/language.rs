//! What OpenTofu and Terraform have in common: commands, options, events.
//! <https://opentofu.org/docs/cli/commands/>, <https://developer.hashicorp.com/terraform/cli/commands>.

use super::asked;
use super::dialect::{Command, Dialect, Family, Options, Place, Plan};
use super::environment;
use super::lock;
use super::resources::{self, Resources};
use crate::events;
use crate::process::Environment;
use crate::variables::{Declarations, Given, Variables};
use runner_worker_iac::redaction::Redaction;
use serde_json::Value;
use shared_proto::failure::Failure;
use shared_proto::v1::event::Body;
use shared_proto::v1::{JobKind, JobRequest, Outputs, StateLock};
use shared_proto::version::{Constraint, Version};
use std::path::{Path, PathBuf};

/// How long the engine waits for a lock of the state that somebody else holds.
const LOCK_TIMEOUT: &str = "-lock-timeout=60s";

/// One of the two, as far as it differs from the other.
#[derive(Debug)]
pub(super) struct Language {
    pub(super) name: &'static str,
    /// What the files of a root module end in.
    pub(super) extensions: &'static [&'static str],
    /// What says in a source which version of it is to be taken.
    pub(super) version_file: &'static str,
    /// The first version whose `init` takes `-json`.
    pub(super) init_json: [u32; 3],
    /// Whether a command of a version takes options that name variables.
    pub(super) takes_variables: fn(&Command<'_>, &str) -> bool,
}

// === impl Language ===

impl Dialect for Language {
    fn name(&self) -> &'static str {
        self.name
    }
    fn extensions(&self) -> &'static [&'static str] {
        self.extensions
    }
    fn family(&self) -> Family {
        Family::Language
    }
    fn version_file(&self) -> Option<&'static str> {
        Some(self.version_file)
    }
    fn required(&self, root: &Path) -> Vec<(String, Constraint)> {
        asked::required(root, self.extensions)
    }
    fn variables(&self, given: &Given<'_>, _: &JobRequest, root: &Path) -> Result<Variables, Failure> {
        Variables::new(given, &Declarations::read(root, self.extensions))
    }
    fn options(&self, _: &JobRequest, _: &Path) -> Result<Options, Failure> {
        Ok(Options::default())
    }
    fn environment(&self, place: &Place<'_>) -> Result<Environment, Failure> {
        environment::for_language(place.start, place.folders)
    }
    fn arguments(&self, command: &Command<'_>, version: &str, options: &Options) -> Vec<String> {
        let variables = if (self.takes_variables)(command, version) { options.arguments.as_slice() } else { &[] };
        arguments(command, is_at_least(version, self.init_json), variables)
    }
    fn version(&self, said: &str) -> Option<String> {
        version(said)
    }
    fn event(&self, line: &str) -> Option<Body> {
        events::of_line(line)
    }
    fn lock(&self, body: &Body) -> Option<StateLock> {
        match body {
            Body::Diagnostic(said) => lock::in_diagnostic(&said.summary, &said.detail),
            _ => None,
        }
    }
    fn stale(&self, summary: &str) -> bool {
        summary == "Saved plan is stale"
    }
    fn planned_changes(&self) -> Option<i32> {
        Some(2)
    }
    fn document(&self, _: &Path) -> Option<PathBuf> {
        None
    }
    fn outputs(&self, said: &Value) -> Option<Outputs> {
        events::outputs(said)
    }
    fn resources(&self, state: &Value, addresses: &[String], of_job: Redaction) -> Resources {
        resources::of_state(state, addresses, of_job)
    }
}

/// Whether a version is that one, one before it or a later one; what is no version is none.
pub(super) fn is_at_least(version: &str, wanted: [u32; 3]) -> bool {
    Version::parse(version).is_ok_and(|version| version.is_at_least(wanted))
}

/// The arguments that say the command. `variables`: options that name them.
fn arguments(command: &Command<'_>, init_json: bool, variables: &[String]) -> Vec<String> {
    let mut said: Vec<String> = words(command).iter().map(|word| (*word).to_owned()).collect();
    match command {
        Command::Init { again } => {
            said.extend(init_json.then(|| "-json".to_owned()));
            said.extend(again.then(|| "-reconfigure".to_owned()));
        }
        Command::Plan { what, out } => {
            said.push(format!("-out={}", out.display()));
            said.extend(planned(what));
        }
        _ => {}
    }
    said.extend(variables.iter().cloned());
    // what it is for comes after every option
    match command {
        Command::Show { plan, .. } | Command::ShowDocument(plan) | Command::Apply { plan, .. } => {
            said.push(plan.display().to_string())
        }
        Command::Workspace(name) | Command::Unlock(name) => said.push((*name).to_owned()),
        _ => {}
    }
    said
}

fn words(command: &Command<'_>) -> &'static [&'static str] {
    match command {
        Command::Version => &["version", "-json"],
        Command::Init { .. } => &["init", "-input=false", "-no-color", LOCK_TIMEOUT],
        Command::Workspace(_) => &["workspace", "select", "-no-color", "-or-create=true"],
        Command::Plan { .. } => &["plan", "-input=false", "-no-color", "-json", "-detailed-exitcode", LOCK_TIMEOUT],
        // its values are in files
        Command::Set(_) => &[],
        Command::Show { .. } => &["show", "-no-color"],
        Command::ShowDocument(_) | Command::State => &["show", "-no-color", "-json"],
        Command::Pull => &["state", "pull"],
        Command::Apply { .. } => &["apply", "-input=false", "-no-color", "-json", LOCK_TIMEOUT],
        Command::Output => &["output", "-no-color", "-json"],
        Command::Unlock(_) => &["force-unlock", "-no-color", "-force"],
    }
}

fn planned<'a>(what: &Plan<'a>) -> impl Iterator<Item = String> + 'a {
    let mode = match what.kind {
        JobKind::Refresh => Some("-refresh-only"),
        JobKind::Destroy => Some("-destroy"),
        _ => None,
    };
    // an import is of what it names, whatever else has changed
    let imported = what.imports.iter().map(|import| &import.address);
    let targets = what.targets.iter().chain(imported).map(|address| format!("-target={address}"));
    let replace = what.replace.iter().map(|address| format!("-replace={address}"));
    mode.map(str::to_owned).into_iter().chain(targets).chain(replace)
}

/// The version in what `version -json` says; a warning may come first.
fn version(said: &str) -> Option<String> {
    let value: Value = serde_json::from_str(said.get(said.find('{')?..)?).ok()?;
    value["terraform_version"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn options_come_before_what_they_are_for() {
        let what = Plan {
            kind: JobKind::Destroy,
            targets: &["a.b".to_owned()],
            replace: &["c.d[\"e f\"]".to_owned()],
            imports: &[],
        };
        let variables = ["-var-file=v".to_owned()];
        for (command, expected) in [
            (Command::Init { again: true }, "-json -reconfigure -var-file=v"),
            (
                Command::Plan { what: &what, out: Path::new("p") },
                "-out=p -destroy -target=a.b -replace=c.d[\"e f\"] -var-file=v",
            ),
            (Command::Apply { what: &what, plan: Path::new("p") }, "-var-file=v p"),
            (Command::Unlock("id"), "-force -var-file=v id"),
            (Command::Workspace("w"), "-or-create=true -var-file=v w"),
        ] {
            let said = arguments(&command, true, &variables).join(" ");
            assert!(said.ends_with(expected), "{said}");
        }
    }

    #[test]
    fn the_version_is_read_behind_warnings() {
        assert_eq!(version("Warning: x\n{\"terraform_version\":\"1.9.0\"}").as_deref(), Some("1.9.0"));
        for none in ["", "1.9.0", "{}", "{\"terraform_version\":1}"] {
            assert_eq!(version(none), None, "{none}");
        }
    }
}
