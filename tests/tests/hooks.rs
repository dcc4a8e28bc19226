//! Hooks of stacks, from the command line to the runner and back: where the runner's own configuration lets them they run in the job's sandbox, and nowhere
//! else; what they say is seen by whoever follows the job.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::ctl::Ctl;
use runner_tests::process::Ended;
use runner_tests::runner::{Setup, deploying};
use runner_tests::{Component, ControlPlane, Engine, Runner, Scratch, Suite};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// In the environment of the runner.
const PLANTED: &str = "planted-in-the-runners-environment";
const MAIN: &str = "resource \"terraform_data\" \"a\" { input = file(\"${path.module}/generated.txt\") }\n\
    output \"o\" { value = terraform_data.a.output }\n";
/// Makes what the module reads, and tries what a job must not do.
const GENERATE: &str = "#!/bin/sh\nset -e\nprintf generated >generated.txt\necho made for $RUNNER_STACK\n\
    env | grep -c planted || echo nothing of the runner\n\
    cat /proc/1/environ >/dev/null 2>&1 && echo sees the first process || true\n\
    setsid sleep 7654321 >/dev/null 2>&1 &\n";
/// Looks at the plan, and tries to make it another one.
const LOOK: &str = "#!/bin/sh\ngrep -o '\"terraform_data.a\"' \"$RUNNER_PLAN_JSON\" | head -1\n\
    grep -l 765432[1] /proc/[0-9]*/cmdline 2>/dev/null || echo nothing is left\n\
    echo other 2>/dev/null >generated.txt || echo the source stays\n";
const TELL: &str = "#!/bin/sh\necho $RUNNER_HOOK: $RUNNER_RESULT\n[ ! -e fail ]\n";

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .needs(&[Component::Tofu])
        .test("hooks_run_where_the_runner_lets_them_and_are_seen", run_and_are_seen)
        .run()
}

struct World {
    runner: Runner,
    ctl: Ctl,
    folder: Scratch,
    _control_plane: ControlPlane,
    _engine: Engine,
}

impl World {
    async fn new() -> Result<Self> {
        let control_plane = ControlPlane::start().await?;
        let with = |setup: Setup| Ok(setup.env("PLANTED", PLANTED));
        let (engine, runner, ctl) = deploying(&control_plane, with).await?;
        let folder = Scratch::new("module")?;
        folder.write("main.tf", MAIN)?;
        for (name, script) in [("generate.sh", GENERATE), ("look.sh", LOOK), ("tell.sh", TELL)] {
            let path = folder.write(format!("scripts/{name}"), script)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { runner, ctl, folder, _control_plane: control_plane, _engine: engine })
    }
    /// Deploys it; the end, and its last job.
    async fn deploy(&self, options: &[&str]) -> Result<(Ended, Value)> {
        let path = self.folder.path().display().to_string();
        let words: Vec<_> = ["deploy", &path, "--name", "shop"].iter().chain(options).copied().collect();
        let ended = self.ctl.run(&words).await?;
        let list = self.ctl.json(&["job", "list", "--stack", "shop"]).await?;
        let id = list["items"][0]["id"].as_str().context("a job")?;
        Ok((ended, self.ctl.json(&["job", "show", id]).await?))
    }
    /// Writes the switch of the runner's own configuration, and has it read.
    async fn let_hooks_run(&self, run: bool) -> Result<()> {
        let path = self.runner.folder().join("runner.toml");
        let text = std::fs::read_to_string(&path)?;
        let text: String =
            text.lines().filter(|line| !line.starts_with("hooks = ")).map(|line| format!("{line}\n")).collect();
        let with = format!("[jobs]\nhooks = {run}\n");
        let text = if text.contains("[jobs]\n") { text.replace("[jobs]\n", &with) } else { format!("{text}{with}") };
        let before = self.runner.mark();
        std::fs::write(&path, text)?;
        self.runner.process().signal(Signal::SIGHUP)?;
        self.runner.message(before, SOON, "configuration and credentials read again").await?;
        Ok(())
    }
}

async fn run_and_are_seen() -> Result<()> {
    let world = World::new().await?;
    let hooks = ["--hook", "before-plan=scripts/generate.sh", "--hook", "after-plan=scripts/look.sh"];
    let more = ["--hook", "before-apply=scripts/tell.sh", "--hook", "after-apply=scripts/tell.sh", "--auto-approve"];
    let all: Vec<_> = hooks.iter().chain(&more).copied().collect();
    // the runner's owner has not said that any may run
    let (ended, job) = world.deploy(&all).await?;
    ensure!(ended.code() == 77 && ended.stderr.contains("hooks_refused"), "{ended:?}");
    ensure!(ended.stderr.contains("`hooks = true` under [jobs]"), "{ended:?}");
    ensure!(job["phase"] == "failed" && job["result"]["code"] == "hooks_refused" && job["plan"].is_null(), "{job}");
    let shown = world.ctl.text(&["stack", "show", "shop"]).await?;
    ensure!(shown.contains("before-plan=scripts/generate.sh, after-plan=scripts/look.sh"), "{shown}");
    let stack = world.ctl.json(&["stack", "show", "shop"]).await?;
    ensure!(stack["hooks"]["after_apply"] == "scripts/tell.sh", "{stack}");

    world.let_hooks_run(true).await?;
    let (ended, job) = world.deploy(&["--auto-approve"]).await?;
    ensure!(ended.code() == 0 && job["phase"] == "applied", "{ended:?} {job}");
    ensure!(job["outputs"]["o"]["value"] == "generated", "{job}");
    for line in [
        "· hook before-plan: scripts/generate.sh",
        "before-plan: made for shop",
        "before-plan: nothing of the runner",
        "after-plan: \"terraform_data.a\"",
        "after-plan: nothing is left",
        "after-plan: the source stays",
        "before-apply: before-apply:",
        "after-apply: after-apply: ok",
    ] {
        ensure!(ended.stderr.contains(line), "{line}: {ended:?}");
    }
    ensure!(!ended.stderr.contains("sees the first process") && !ended.stderr.contains(PLANTED), "{ended:?}");

    // what was applied is applied, and the job says that its hook failed
    world.ctl.text(&["stack", "update", "shop", "--hook", "before-apply=none"]).await?;
    world.folder.write("fail", "")?;
    world.folder.write("more.tf", "resource \"terraform_data\" \"b\" {}\n")?;
    let (ended, job) = world.deploy(&["--auto-approve"]).await?;
    ensure!(ended.code() == 1 && ended.stderr.contains("hook_failed"), "{ended:?}");
    let end = &job["result"];
    ensure!(job["phase"] == "failed" && end["code"] == "hook_failed" && end["applied"] == true, "{job}");
    ensure!(end["message"].as_str().is_some_and(|text| text.contains("The plan is applied")), "{job}");
    ensure!(job["outputs"]["o"]["value"] == "generated", "{job}");
    let state = world.ctl.json(&["state", "list", "shop"]).await?;
    ensure!(state["items"].as_array().map(Vec::len) == Some(2), "{state}");

    // and it is taken back while the runner works
    world.let_hooks_run(false).await?;
    let (ended, _) = world.deploy(&["--auto-approve"]).await?;
    ensure!(ended.stderr.contains("hooks_refused"), "{ended:?}");
    let none = ["before-plan", "after-plan", "after-apply"].map(|name| format!("--hook={name}=none"));
    let words: Vec<_> = ["stack", "update", "shop"].into_iter().chain(none.iter().map(String::as_str)).collect();
    world.ctl.text(&words).await?;
    let stack = world.ctl.json(&["stack", "show", "shop"]).await?;
    ensure!(stack["hooks"] == json!({}), "{stack}");
    world.folder.write("generated.txt", "generated")?;
    let (ended, _) = world.deploy(&["--auto-approve"]).await?;
    ensure!(ended.code() == 0, "{ended:?}");
    world.runner.audit_verifies().await
}
