//! What OpenTofu and Terraform have in common: commands, options, events.
//! <https://opentofu.org/docs/cli/commands/>, <https://developer.hashicorp.com/terraform/cli/commands>.

use super::dialect::{Command, Plan};
use serde_json::Value;
use shared_proto::v1::JobKind;

/// How long the engine waits for a lock of the state that somebody else holds.
const LOCK_TIMEOUT: &str = "-lock-timeout=60s";

/// What of it one engine and version takes and another does not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Takes {
    /// `init -json`.
    pub(super) init_json: bool,
    /// Options that name variables, for the command that is said.
    pub(super) variables: bool,
}

/// The arguments that say the command.
pub(super) fn arguments(command: &Command<'_>, takes: Takes, variables: &[String]) -> Vec<String> {
    let mut said: Vec<String> = words(command).iter().map(|word| (*word).to_owned()).collect();
    match command {
        Command::Init { again } => {
            said.extend(takes.init_json.then(|| "-json".to_owned()));
            said.extend(again.then(|| "-reconfigure".to_owned()));
        }
        Command::Plan { what, out } => {
            said.push(format!("-out={}", out.display()));
            said.extend(planned(what));
        }
        _ => {}
    }
    if takes.variables {
        said.extend(variables.iter().cloned());
    }
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
pub(super) fn version(said: &str) -> Option<String> {
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
        let takes = Takes { init_json: true, variables: true };
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
            let said = arguments(&command, takes, &variables).join(" ");
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
