//! Engines with what they install from on this machine: nothing is fetched.

use crate::control_plane::User;
use crate::process::{Ended, Program};
use crate::{Runner, Scratch, tools};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shared_proto::states;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// OpenTofu.
    OpenTofu,
    /// Terraform.
    Terraform,
    /// Pulumi.
    Pulumi,
}

/// An engine on this machine and its configuration.
#[derive(Debug)]
pub struct Engine {
    kind: EngineKind,
    path: PathBuf,
    config: PathBuf,
    /// What the program starts, where it is one that counts.
    counts: Option<PathBuf>,
    folder: Scratch,
}

/// What [`Engine::counting`] says of each SIGINT.
pub const SENT: &str = "the engine is sent SIGINT";
/// Starts the engine, which sees SIGINT as it came, says what it is sent, and passes that on.
const COUNTING: &str = r#"#!/bin/sh
sent=0
pass() {
  sent=$((sent + 1))
  echo "the engine is sent SIG$1" >&2
  kill "-$1" "$child" 2>/dev/null
}
trap 'pass INT' INT
trap 'pass TERM' TERM
# what a shell has in the background ignores the first of them, unless it is told not to, and reads nothing
env --default-signal=INT,QUIT 'ENGINE' "$@" <&0 &
child=$!
while :; do
  before=$sent
  wait "$child"
  code=$?
  [ "$sent" = "$before" ] && exit "$code"
done
"#;

impl EngineKind {
    /// As the API names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenTofu => "opentofu",
            Self::Terraform => "terraform",
            Self::Pulumi => "pulumi",
        }
    }
}

impl Engine {
    /// The engine as it is here.
    ///
    /// # Errors
    /// It is not here.
    pub fn new(kind: EngineKind) -> Result<Self> {
        let program = match kind {
            EngineKind::OpenTofu => "tofu",
            EngineKind::Terraform => "terraform",
            EngineKind::Pulumi => "pulumi",
        };
        let path = tools::engine(program).with_context(|| format!("{program} is not here"))?;
        let folder = Scratch::new("engine")?;
        let mirror = tools::folder().join("mirror");
        let config = folder.write(
            "engine.tfrc",
            format!(
                "disable_checkpoint = true\nprovider_installation {{\n  filesystem_mirror {{\n    path = {:?}\n  }}\n}}\n",
                mirror.display().to_string()
            ),
        )?;
        Ok(Self { kind, path, config, counts: None, folder })
    }
    /// One that says on its standard error what it is sent ([`SENT`]), before the engine is.
    ///
    /// # Errors
    /// It is not here; the file system's.
    pub fn counting(kind: EngineKind) -> Result<Self> {
        let engine = Self::new(kind)?;
        let script = COUNTING.replace("ENGINE", &engine.path.display().to_string());
        let path = engine.folder.write(format!("counting/{}", kind.name()), script)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { counts: Some(engine.path.clone()), path, ..engine })
    }
    /// Which it is.
    pub fn kind(&self) -> EngineKind {
        self.kind
    }
    /// The program.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// What else a job has to reach to run it: the engine that it counts for, of Pulumi with what lies beside that.
    pub fn started(&self) -> Option<&Path> {
        let counted = self.counts.as_deref()?;
        if self.kind == EngineKind::Pulumi { counted.parent() } else { Some(counted) }
    }
    /// Its CLI configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }
    /// It in a folder with its configuration, as a person starts it.
    pub fn program(&self, folder: &Path, arguments: &[&str]) -> Program {
        Program::new(&self.path)
            .args(arguments.iter().copied())
            .folder(folder)
            .env("TF_CLI_CONFIG_FILE", self.config.display().to_string())
            .env("CHECKPOINT_DISABLE", "1")
            .env("TF_IN_AUTOMATION", "1")
    }
    /// Runs it by hand in a folder: the reference that the runner's own runs are compared with.
    ///
    /// # Errors
    /// It does not start or hangs.
    pub async fn run(&self, folder: &Path, arguments: &[&str]) -> Result<Ended> {
        self.program(folder, arguments).run(Duration::from_secs(120)).await
    }
    /// Whether the engine's own plan says the same of a job's state as its events: what they say is made is there, and is to be left as it
    /// is; where the job was applied, nothing is to be done. An engine saves its state every 20 s and at its end: what one had made since that was
    /// killed nobody knows but its events.
    ///
    /// # Errors
    /// It does not, or does not run.
    pub async fn agrees(&self, runner: &Runner, user: &User, job: &str, module: &str) -> Result<()> {
        let told = user.job(job).await?;
        let stack = told.0["stack"]["id"].as_str().context("a stack")?;
        let state = newest_state(runner, stack)?;
        let folder = Scratch::new("agrees")?;
        folder.write("main.tf", module)?;
        let has_state = state.is_some();
        if let Some(state) = state {
            std::fs::write(folder.join("terraform.tfstate"), state)?;
        }
        self.run(folder.path(), &["init", "-input=false", "-no-color"]).await?.success()?;
        let planned = self.run(folder.path(), &["plan", "-input=false", "-detailed-exitcode", "-json"]).await?;
        ensure!([0, 2].contains(&planned.code()), "{planned:?}");
        let lines = planned.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let to_do: BTreeSet<_> = lines
            .filter(|line| line["type"] == "planned_change")
            .filter_map(|line| Some(line["change"]["resource"]["addr"].as_str()?.to_owned()))
            .collect();
        let progress = user.events_of(job, "resource_progress").await?;
        let made: BTreeSet<_> = progress
            .iter()
            .filter(|p| p["state"] == "complete" && p["action"] == "create")
            .filter_map(|p| Some(p["address"].as_str()?.to_owned()))
            .collect();
        let result = &told.0["result"];
        let forced = user.events_of(job, "cancel_progress").await?.iter().any(|progress| progress["step"] == "forced");
        if told.phase() == "lost"
            || forced
            || result["engine_signal"] == "SIGKILL"
            || result["code"] == "worker_crashed"
        {
            return Ok(());
        }
        let again: Vec<_> = to_do.intersection(&made).collect();
        ensure!(again.is_empty(), "made, by its events, and to be made again: {again:?}");
        let listed =
            if has_state { self.run(folder.path(), &["state", "list"]).await?.success()? } else { String::new() };
        let missing: Vec<_> = made.iter().filter(|address| !listed.lines().any(|line| line == *address)).collect();
        ensure!(missing.is_empty(), "made, by its events, and not in its state: {missing:?}");
        if told.phase() == "applied" {
            ensure!(planned.code() == 0, "applied, and there is something to do: {}", planned.stdout);
        }
        Ok(())
    }
}

/// A root module with a slow resource: `time_sleep` takes so long to be made, and what depends on it comes after.
pub fn slow_module(seconds: u32) -> String {
    format!(
        r#"terraform {{
  required_providers {{
    time = {{
      source  = "hashicorp/time"
      version = "0.14.2"
    }}
  }}
}}
variable "greeting" {{
  type    = string
  default = "hello"
}}
resource "time_sleep" "wait" {{
  create_duration = "{seconds}s"
}}
resource "terraform_data" "after" {{
  input      = var.greeting
  depends_on = [time_sleep.wait]
}}
output "greeting" {{
  value = terraform_data.after.output
}}
"#
    )
}

/// A root module without providers to fetch: quick.
pub fn quick_module() -> &'static str {
    r#"variable "greeting" {
  type    = string
  default = "hello"
}
variable "secret" {
  type      = string
  default   = "s3cr3t-value"
  sensitive = true
}
resource "terraform_data" "one" {
  input = var.greeting
}
resource "terraform_data" "two" {
  input = terraform_data.one.output
}
output "greeting" {
  value = terraform_data.two.output
}
output "hidden" {
  value     = var.secret
  sensitive = true
}
"#
}

/// The numbers of the versions of a stack's state in a runner's store, in order.
///
/// # Errors
/// The file system's.
pub fn versions_of(runner: &Runner, stack: &str) -> Result<Vec<u64>> {
    let folder = runner.state().join("stacks").join(stack).join(states::VERSIONS);
    let names = match std::fs::read_dir(&folder) {
        Ok(names) => names,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).context("the versions"),
    };
    let names = names.flatten().map(|entry| entry.file_name());
    let numbers: BTreeSet<_> = names.filter_map(|name| states::number_of(name.to_str()?)).collect();
    Ok(numbers.into_iter().collect())
}

/// The newest state of a stack in a runner's store, opened with the runner's own key.
///
/// # Errors
/// It does not open.
pub fn newest_state(runner: &Runner, stack: &str) -> Result<Option<Vec<u8>>> {
    let Some(newest) = versions_of(runner, stack)?.pop() else { return Ok(None) };
    let folder = runner.state().join("stacks").join(stack).join(states::VERSIONS);
    let key = std::fs::read_to_string(runner.state().join(states::ROOT)).context("the key")?;
    let key = states::Root::from_text(&key).context("the key")?.of_stack(stack);
    let (_, state) = key.open(stack, newest, std::fs::read(folder.join(states::file_name(newest)))?)?;
    Ok(Some(state))
}
