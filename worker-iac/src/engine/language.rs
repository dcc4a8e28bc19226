//! What OpenTofu and Terraform have in common: commands, options, events.
//! <https://opentofu.org/docs/cli/commands/>, <https://developer.hashicorp.com/terraform/cli/commands>.

use super::dialect::{Command, Dialect, Plan};
use crate::events;
use serde_json::Value;
use shared_proto::v1::JobKind;
use shared_proto::v1::event::Body;
use shared_proto::version::Version;

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
    fn version_file(&self) -> &'static str {
        self.version_file
    }
    fn arguments(&self, command: &Command<'_>, version: &str, variables: &[String]) -> Vec<String> {
        let variables = if (self.takes_variables)(command, version) { variables } else { &[] };
        arguments(command, is_at_least(version, self.init_json), variables)
    }
    fn version(&self, said: &str) -> Option<String> {
        version(said)
    }
    fn event(&self, line: &str) -> Option<Body> {
        events::of_line(line)
    }
    fn planned_changes(&self) -> i32 {
        2
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
        Command::Show(plan) | Command::ShowDocument(plan) | Command::Apply(plan) => {
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
        Command::Show(_) => &["show", "-no-color"],
        Command::ShowDocument(_) | Command::State => &["show", "-no-color", "-json"],
        Command::Apply(_) => &["apply", "-input=false", "-no-color", "-json", LOCK_TIMEOUT],
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
    let targets = what.targets.iter().map(|address| format!("-target={address}"));
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
        let what = Plan { kind: JobKind::Destroy, targets: &["a.b".to_owned()], replace: &["c.d[\"e f\"]".to_owned()] };
        let variables = ["-var-file=v".to_owned()];
        for (command, expected) in [
            (Command::Init { again: true }, "-json -reconfigure -var-file=v"),
            (
                Command::Plan { what: &what, out: Path::new("p") },
                "-out=p -destroy -target=a.b -replace=c.d[\"e f\"] -var-file=v",
            ),
            (Command::Apply(Path::new("p")), "-var-file=v p"),
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
