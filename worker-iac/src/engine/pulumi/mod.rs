//! Pulumi. What it needs of its own: a stack with values, events of another form, and plans that it saves of updates alone.
//! <https://www.pulumi.com/docs/iac/cli/commands/>.

pub(super) mod approved;
mod events;
mod home;
mod lock;
mod project;
mod resources;
mod stack;
pub(crate) mod step;

pub(crate) use stack::{check, is_applied_to, keep, prepare, remember_state, unlock};

use super::dialect::{Command, Dialect, Family, Options, Place, Plan};
use super::resources::Resources;
use crate::process::Environment;
use crate::variables::{Given, Kept, Setting, Variables};
use approved::Files;
use project::Project;
use runner_worker_iac::redaction::Redaction;
use serde_json::Value;
use shared_proto::failure::Failure;
use shared_proto::v1::event::Body;
use shared_proto::v1::{JobKind, JobRequest, Outputs, StateLock};
use shared_proto::version::Constraint;
use std::path::{Path, PathBuf};

/// What imports are written to, beside the plan: a plan of them is applied from the same file.
const IMPORTS: &str = "imports.json";

/// Pulumi.
#[derive(Debug)]
pub(super) struct Pulumi;

pub(super) const PULUMI: Pulumi = Pulumi;

/// The stack of a project that a job is about. <https://www.pulumi.com/docs/iac/concepts/stacks/>
pub(super) fn stack_name(request: &JobRequest) -> &str {
    if request.workspace.is_empty() { &request.stack_name } else { &request.workspace }
}

// === impl Pulumi ===

impl Dialect for Pulumi {
    fn name(&self) -> &'static str {
        "pulumi"
    }
    fn family(&self) -> Family {
        Family::Pulumi
    }
    fn extensions(&self) -> &'static [&'static str] {
        project::FILES
    }
    fn version_file(&self) -> Option<&'static str> {
        None
    }
    fn required(&self, root: &Path) -> Vec<(String, Constraint)> {
        Project::read(root).ok().and_then(|project| project.required()).into_iter().collect()
    }
    fn variables(&self, given: &Given<'_>, request: &JobRequest, root: &Path) -> Result<Variables, Failure> {
        let declared = Project::read(root)?.declarations(root, stack_name(request));
        Variables::of_project(given, &declared)
    }
    fn options(&self, request: &JobRequest, root: &Path) -> Result<Options, Failure> {
        let stack = stack_name(request);
        let prefix = format!("urn:pulumi:{stack}::{}::", Project::read(root)?.name);
        Ok(Options { arguments: vec![format!("--stack={stack}")], prefix })
    }
    fn environment(&self, place: &Place<'_>) -> Result<Environment, Failure> {
        home::environment(place)
    }
    fn arguments(&self, command: &Command<'_>, _: &str, options: &Options) -> Vec<String> {
        let mut said = words(command, options);
        // what only reads a file knows no stack, and one is chosen by its name
        if !matches!(command, Command::Version | Command::Show { .. } | Command::Workspace(_)) {
            said.extend(options.arguments.iter().cloned());
        }
        said.extend(["--non-interactive", "--color=never"].map(str::to_owned));
        // what it is for comes after every option
        match command {
            Command::Workspace(name) => said.push((*name).to_owned()),
            Command::Set(setting) => said.extend(["--".to_owned(), setting.key.clone()]),
            Command::Show { what, plan } => {
                let kind = if operation(what.kind) == "up" { "update" } else { operation(what.kind) };
                said.extend([kind.to_owned(), Files(plan).events().display().to_string()]);
            }
            _ => {}
        }
        said
    }
    fn version(&self, said: &str) -> Option<String> {
        let version = said.lines().map(str::trim).find(|line| !line.is_empty())?;
        let version = version.strip_prefix('v').unwrap_or(version);
        version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
    }
    fn event(&self, line: &str) -> Option<Body> {
        events::of_line(line)
    }
    fn lock(&self, body: &Body) -> Option<StateLock> {
        lock::of(body)
    }
    fn stale(&self, summary: &str) -> bool {
        summary.contains("violates plan: ") || summary.contains(" is not allowed by the plan: ")
    }
    fn planned_changes(&self) -> Option<i32> {
        None
    }
    fn document(&self, plan: &Path) -> Option<PathBuf> {
        Some(Files(plan).events())
    }
    fn outputs(&self, said: &Value) -> Option<Outputs> {
        resources::outputs(said)
    }
    fn resources(&self, state: &Value, addresses: &[String], of_job: Redaction) -> Resources {
        resources::of_state(state, addresses, of_job)
    }
}

/// The command that does what a job of that kind does.
const fn operation(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Refresh => "refresh",
        JobKind::Destroy => "destroy",
        JobKind::Import => "import",
        _ => "up",
    }
}

fn words(command: &Command<'_>, options: &Options) -> Vec<String> {
    let plainly = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match command {
        Command::Version => plainly(&["version"]),
        // its plug-ins come as they are needed
        Command::Init { .. } | Command::ShowDocument(_) => Vec::new(),
        Command::Workspace(_) => plainly(&["stack", "select", "--create"]),
        Command::Set(setting) => set(setting),
        Command::Plan { what, out } => plan(what, Files(out), options),
        Command::Show { .. } => plainly(&["replay-events", "--preview", "--diff"]),
        Command::State | Command::Pull => plainly(&["stack", "export"]),
        Command::Apply { what, plan } => apply(what, Files(plan), options),
        Command::Output => plainly(&["stack", "output", "--json"]),
        Command::Unlock(_) => plainly(&["cancel", "--yes"]),
    }
}

fn set(setting: &Setting) -> Vec<String> {
    // its value as it is, with a line's end
    let mut said = ["config", "set", "--raw"].map(str::to_owned).to_vec();
    said.extend(setting.is_path.then(|| "--path".to_owned()));
    said.push(match setting.kept {
        Kept::Secret => "--secret".to_owned(),
        Kept::Plain => "--plaintext".to_owned(),
        Kept::As(kind) => format!("--type={kind}"),
    });
    said
}

/// A preview. Of an update Pulumi saves what may be done; of the others it can only be seen.
fn plan(what: &Plan<'_>, files: Files<'_>, options: &Options) -> Vec<String> {
    let mut said = match operation(what.kind) {
        "up" => vec!["preview".to_owned(), format!("--save-plan={}", files.own().display())],
        other => vec![other.to_owned(), "--preview-only".to_owned()],
    };
    said.extend(["--json".to_owned(), format!("--event-log={}", files.log().display())]);
    said.extend(scope(what, files, options));
    said
}

fn apply(what: &Plan<'_>, files: Files<'_>, options: &Options) -> Vec<String> {
    let operation = operation(what.kind);
    let mut said = [operation, "--yes", "--skip-preview", "--json"].map(str::to_owned).to_vec();
    if operation == "up" {
        said.push(format!("--plan={}", files.own().display()));
    }
    said.extend(scope(what, files, options));
    said
}

/// What of a stack it is about.
fn scope(what: &Plan<'_>, files: Files<'_>, options: &Options) -> Vec<String> {
    if what.kind == JobKind::Import {
        let from = imports_beside(files.0);
        let file = format!("--file={}", from.display());
        return vec![file, "--generate-code=false".into(), "--protect=false".into()];
    }
    let whole = |address: &String| match address.starts_with("urn:") {
        true => address.clone(),
        false => format!("{}{address}", options.prefix),
    };
    let targets = what.targets.iter().map(|address| format!("--target={}", whole(address)));
    let replace = what.replace.iter().map(|address| format!("--replace={}", whole(address)));
    targets.chain(replace).collect()
}

/// The file of imports that belongs to a plan; a second look at the plan is of the same.
fn imports_beside(plan: &Path) -> PathBuf {
    plan.with_file_name(IMPORTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_as_pulumi_takes_it() {
        let options = Options { arguments: vec!["--stack=dev".into()], prefix: "urn:pulumi:dev::shop::".into() };
        let plan = Path::new("/d/plan.bin");
        let setting = Setting { key: "a[0]".into(), is_path: true, kept: Kept::Secret, value: "hidden".into() };
        let targets = ["world:index:Thing::one".to_owned(), "urn:pulumi:dev::shop::t::n".to_owned()];
        let what = |kind| Plan { kind, targets: &targets, replace: &targets[..1], imports: &[] };
        let (update, destroy, import) = (what(JobKind::Update), what(JobKind::Destroy), what(JobKind::Import));
        let scope = "--target=urn:pulumi:dev::shop::world:index:Thing::one --target=urn:pulumi:dev::shop::t::n \
            --replace=urn:pulumi:dev::shop::world:index:Thing::one";
        for (command, expected) in [
            (Command::Version, "version".to_owned()),
            (Command::Workspace("dev"), "stack select --create … dev".to_owned()),
            (Command::Set(&setting), "config set --raw --path --secret --stack=dev … -- a[0]".to_owned()),
            (
                Command::Plan { what: &update, out: plan },
                format!("preview --save-plan=/d/plan.pulumi --json --event-log=/d/plan.log {scope} --stack=dev"),
            ),
            (
                Command::Plan { what: &destroy, out: plan },
                format!("destroy --preview-only --json --event-log=/d/plan.log {scope} --stack=dev"),
            ),
            (
                Command::Apply { what: &update, plan },
                format!("up --yes --skip-preview --json --plan=/d/plan.pulumi {scope} --stack=dev"),
            ),
            (
                Command::Apply { what: &import, plan },
                "import --yes --skip-preview --json --file=/d/imports.json --generate-code=false --protect=false --stack=dev"
                    .to_owned(),
            ),
            (Command::Show { what: &update, plan }, "replay-events --preview --diff … update /d/plan.events".to_owned()),
            (Command::Unlock("id"), "cancel --yes --stack=dev".to_owned()),
        ] {
            let said = PULUMI.arguments(&command, "", &options).join(" ");
            let said = said.replace(" --non-interactive --color=never ", " … ").replace(" --non-interactive --color=never", "");
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn the_version_is_read() {
        for (said, expected) in
            [("v3.255.0\n", Some("3.255.0")), ("3.1.0", Some("3.1.0")), ("", None), ("error: x", None)]
        {
            assert_eq!(PULUMI.version(said).as_deref(), expected, "{said}");
        }
    }
}
