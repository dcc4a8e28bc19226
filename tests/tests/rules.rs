//! Rules for plans, from the folder on the runner and from the command line to the console of whoever approves: what they deny is not applied, what they
//! ask of people is asked of people, and what they say has nothing secret in it.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use runner_tests::ctl::Ctl;
use runner_tests::process::Ended;
use runner_tests::runner::{Setup, deploying};
use runner_tests::{Component, ControlPlane, Engine, Runner, Scratch, Suite};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// Sensitive to the engine and no variable of a job.
const PLANTED: &str = "planted-sensitive-one";

fn main() -> ExitCode {
    Suite::new()
        .limit(300)
        .needs(&[Component::Tofu])
        .test("the_runners_own_rules_hold_and_are_read_again", of_the_runner)
        .test("the_organizations_rules_ask_for_people", of_the_organization)
        .test("what_rules_say_has_nothing_secret_in_it", secrets)
        .test("rules_are_tried_before_they_are_in_force", tried)
        .run()
}

/// A control plane, and a runner of its organization with rules of its own.
struct World {
    control_plane: ControlPlane,
    runner: Runner,
    ctl: Ctl,
    _engine: Engine,
}

impl World {
    async fn new(rules: &[(&str, &str)]) -> Result<Self> {
        let control_plane = ControlPlane::start().await?;
        let with_rules = |setup: Setup| put(setup.folder(), rules).map(|()| setup);
        let (engine, runner, ctl) = deploying(&control_plane, with_rules).await?;
        Ok(Self { control_plane, runner, ctl, _engine: engine })
    }
    /// Deploys a module; the end, and its last job.
    async fn deploy(&self, stack: &str, main: &str, options: &str) -> Result<(Ended, Value)> {
        let folder = Scratch::new("module")?;
        folder.write("main.tf", main)?;
        let path = folder.path().display().to_string();
        let mut words = vec!["deploy", &path, "--name", stack];
        words.extend(options.split_whitespace());
        let ended = self.ctl.run(&words).await?;
        let list = self.ctl.json(&["job", "list", "--stack", stack]).await?;
        let id = list["items"][0]["id"].as_str().context("a job")?;
        Ok((ended, self.ctl.json(&["job", "show", id]).await?))
    }
    /// What the stack's state holds.
    async fn resources(&self, stack: &str) -> Result<usize> {
        let list = self.ctl.json(&["state", "list", stack]).await?;
        Ok(list["items"].as_array().map_or(0, Vec::len))
    }
}

/// Puts files of rules where a runner has them.
fn put(folder: &Scratch, rules: &[(&str, &str)]) -> Result<()> {
    let at = folder.join("plan-rules");
    let _ = std::fs::remove_dir_all(&at);
    std::fs::create_dir(&at)?;
    for (name, text) in rules {
        std::fs::write(at.join(name), text)?;
    }
    Ok(())
}

fn module(names: &[&str]) -> String {
    names.iter().map(|name| format!("resource \"terraform_data\" \"{name}\" {{ input = \"{name}\" }}\n")).collect()
}

async fn of_the_runner() -> Result<()> {
    let stays = "[[rule]]\nname = \"stays\"\neffect = \"deny\"\nactions = [\"delete\", \"replace\"]\n\
                 addresses = [\"terraform_data.db\"]\nmessage = \"Ask the platform team.\"\n";
    let world = World::new(&[("stays.toml", stays)]).await?;
    let (ended, _) = world.deploy("shop", &module(&["db", "web"]), "--auto-approve").await?;
    ensure!(ended.code() == 0, "{ended:?}");
    // what the rule is not about goes on
    let (ended, _) = world.deploy("shop", &module(&["db"]), "--auto-approve").await?;
    ensure!(ended.code() == 0, "{ended:?}");
    for options in ["--kind destroy --auto-approve", "--kind preview", "--auto-approve --replace terraform_data.db"] {
        let main = if options == "--kind preview" { module(&["web"]) } else { module(&["db"]) };
        let (ended, job) = world.deploy("shop", &main, options).await?;
        ensure!(ended.code() == 77 && ended.stderr.contains("plan_denied"), "{options}: {ended:?}");
        ensure!(ended.stderr.contains("Ask the platform team."), "{options}: {ended:?}");
        let finding = &job["plan"]["judgement"]["findings"][0];
        ensure!(
            finding["rule"] == "stays" && finding["source"] == "runner" && finding["address"] == "terraform_data.db",
            "{job}"
        );
        ensure!(job["result"]["code"] == "plan_denied" && job["plan"]["judgement"]["denied"] == true, "{job}");
        // the plan itself can be looked at
        let shown = world.ctl.text(&["plan", "show", job["id"].as_str().context("an id")?]).await?;
        ensure!(shown.contains("terraform_data.db"), "{shown}");
    }
    ensure!(world.resources("shop").await? == 1, "nothing was destroyed");
    // a folder that cannot be used: the runner keeps what it has
    let before = world.runner.mark();
    put(world.runner.folder(), &[("broken.toml", "[[rule]]\nnam = 1\n")])?;
    world.runner.process().signal(Signal::SIGHUP)?;
    let why = world.runner.message(before, SOON, "not reloaded, nothing has changed").await?;
    ensure!(why.to_string().contains("broken.toml"), "{why}");
    let (ended, _) = world.deploy("shop", "", "--kind destroy --auto-approve").await?;
    ensure!(ended.code() == 77, "{ended:?}");
    // and takes one that can
    let before = world.runner.mark();
    put(world.runner.folder(), &[])?;
    world.runner.process().signal(Signal::SIGHUP)?;
    world.runner.message(before, SOON, "configuration and credentials read again").await?;
    let (ended, job) = world.deploy("shop", "", "--kind destroy --auto-approve").await?;
    ensure!(ended.code() == 0 && job["plan"]["judgement"].is_null(), "{ended:?} {job}");
    Ok(())
}

async fn of_the_organization() -> Result<()> {
    let world = World::new(&[]).await?;
    let rules = Scratch::new("rules")?;
    rules.write(
        "people.toml",
        "[[rule]]\nname = \"two-eyes\"\neffect = \"approve\"\napprovals = 2\nstacks = [\"prod-*\"]\n\
         [[rule]]\nname = \"look\"\neffect = \"warn\"\nmessage = \"Is that so?\"\n",
    )?;
    let path = rules.path().display().to_string();
    // nobody but an owner
    let organization = &world.control_plane.admin().organization;
    let bob = Ctl::new(&world.control_plane, &world.control_plane.user_in(organization, "bob", "member", &[]).await?)?;
    let eve = Ctl::new(&world.control_plane, &world.control_plane.user_in(organization, "eve", "member", &[]).await?)?;
    ensure!(bob.run(&["rules", "set", &path]).await?.stderr.contains("permission_denied"), "a member");
    let shown = world.ctl.text(&["rules", "set", &path]).await?;
    ensure!(shown.contains("two-eyes") && shown.contains("approve 2"), "{shown}");
    ensure!(bob.text(&["rules", "show"]).await?.contains("Is that so?"), "a member may look");
    // another stack: a word, and nothing else
    let (ended, job) = world.deploy("dev-shop", &module(&["a"]), "--auto-approve").await?;
    ensure!(ended.code() == 0 && ended.stderr.contains("rule look of the organization"), "{ended:?}");
    ensure!(job["plan"]["judgement"]["approvals"] == 0, "{job}");
    // two people, whoever made it not among them
    let (ended, job) = world.deploy("prod-shop", &module(&["a"]), "--auto-approve").await?;
    let id = job["id"].as_str().context("an id")?.to_owned();
    ensure!(ended.code() == 75 && ended.stderr.contains("0 of 2"), "{ended:?}");
    let own = world.ctl.run(&["job", "approve", &id]).await?;
    ensure!(own.code() == 77 && own.stderr.contains("plan_denied"), "{own:?}");
    for _ in 0..2 {
        let once = bob.text(&["job", "approve", &id]).await?;
        ensure!(once.contains("1 of 2 (bob)"), "{once}");
    }
    let shown = world.ctl.text(&["job", "show", &id]).await?;
    ensure!(shown.contains("1 of 2 (bob)") && shown.contains("two-eyes"), "{shown}");
    ensure!(world.ctl.json(&["job", "show", &id]).await?["phase"] == "awaiting_approval", "it waits");
    let twice = eve.text(&["job", "approve", &id]).await?;
    ensure!(twice.contains("approved"), "{twice}");
    let ended = world.ctl.run(&["job", "watch", &id]).await?;
    ensure!(ended.code() == 0, "{ended:?}");
    ensure!(world.resources("prod-shop").await? == 1, "it is applied");
    // without them nobody is asked for
    world.ctl.text(&["rules", "remove"]).await?;
    let (ended, _) = world.deploy("prod-shop", &module(&["a", "b"]), "--auto-approve").await?;
    ensure!(ended.code() == 0, "{ended:?}");
    // and one that nobody can read is not taken
    for (rule, words) in [
        ("[[rule]]\nname = \"a\"\nactions = [\"destroy\"]\n", "no action"),
        ("[[rules]]\nname = \"a\"\n", "unknown field"),
        ("", "there are no rules"),
    ] {
        rules.write("people.toml", rule)?;
        let ended = world.ctl.run(&["rules", "set", &path]).await?;
        ensure!(ended.code() == 64 && ended.stderr.contains(words), "{rule}: {ended:?}");
    }
    rules.write("people.toml", "[[rule]]\nname = \"look\"\neffect = \"warn\"\nmessage = \"m\"\n")?;
    rules.write("slip.rego", "package runner.plan\n\ndeny contains \"m\" if { x > }\n")?;
    let ended = world.ctl.run(&["rules", "set", &path]).await?;
    ensure!(ended.code() == 64 && ended.stderr.contains("slip.rego:3:"), "{ended:?}");
    ensure!(world.ctl.text(&["rules", "show"]).await?.contains("no rules"), "nothing of it is in place");
    let raw =
        world.control_plane.admin().client().put("/api/v1/rules", &json!({ "rule": [{ "name": "a b" }] })).await?;
    let said = String::from_utf8_lossy(&raw.body);
    ensure!(raw.status == 400 && said.contains("a name has"), "{} {said}", raw.status);
    Ok(())
}

async fn secrets() -> Result<()> {
    // a set that tells whatever it sees
    let tells = "package runner.plan\nwarn contains json.marshal(c) if { some c in input.resource_changes }\n\
                 warn contains json.marshal(input.output_changes)\nwarn contains json.marshal(input.resource_drift)\n";
    let world = World::new(&[("tells.rego", tells)]).await?;
    let main = format!(
        "variable \"password\" {{ sensitive = true }}\nvariable \"plain\" {{}}\n\
         locals {{ own = sensitive(\"{PLANTED}\") }}\n\
         resource \"terraform_data\" \"a\" {{ input = {{ own = local.own, var = var.password, plain = var.plain }} }}\n\
         output \"o\" {{\n value = local.own\n sensitive = true\n}}\n"
    );
    let folder = Scratch::new("module")?;
    folder.write("main.tf", main)?;
    let path = folder.path().display().to_string();
    let ended = world
        .ctl
        .run(&[
            "deploy",
            &path,
            "--name",
            "s",
            "--auto-approve",
            "--var",
            "password=hunter2-hunter2",
            "--var",
            "plain=visible-word",
        ])
        .await?;
    ensure!(ended.code() == 0, "{ended:?}");
    let list = world.ctl.json(&["job", "list", "--stack", "s"]).await?;
    let id = list["items"][0]["id"].as_str().context("a job")?;
    let job = world.ctl.json(&["job", "show", id]).await?;
    let said = job["plan"]["judgement"].to_string();
    // it did tell, and of nothing that is secret
    ensure!(said.contains("terraform_data.a") && said.contains("(sensitive)"), "{said}");
    let events = world.control_plane.admin().get(&format!("/jobs/{id}/events?limit=500")).await?.to_string();
    for text in [said, ended.stdout, ended.stderr, events] {
        for secret in [PLANTED, "hunter2-hunter2"] {
            ensure!(!text.contains(secret), "{secret} in {text}");
        }
    }
    Ok(())
}

async fn tried() -> Result<()> {
    let world = World::new(&[("stays.toml", "[[rule]]\nname = \"stays\"\nactions = [\"delete\"]\n")]).await?;
    let rules = world.runner.folder().join("plan-rules");
    let change = |action: &str| {
        json!({ "format_version": "1.2", "resource_changes": [{
            "address": "aws_db_instance.a", "mode": "managed", "type": "aws_db_instance", "name": "a",
            "provider_name": "registry.opentofu.org/hashicorp/aws", "change": { "actions": [action] } }] })
    };
    std::fs::create_dir(rules.join("plans"))?;
    for action in ["delete", "create"] {
        std::fs::write(rules.join(format!("plans/{action}.json")), change(action).to_string())?;
    }
    let cases = |expected: &str| {
        format!(
            "[[case]]\nname = \"it stays\"\nplan = \"plans/delete.json\"\nexpect = \"deny\"\nrule = \"stays\"\n\
             [[case]]\nname = \"it comes\"\nplan = \"plans/create.json\"\nexpect = \"{expected}\"\n"
        )
    };
    for (expected, code, words) in [
        ("pass", 0, "2 of 2 cases as expected"),
        ("deny", 1, "FAIL  it comes: expected deny, got nothing"),
        ("deny\"\nrules = \"x", 78, "unknown field `rules`"),
    ] {
        std::fs::write(rules.join("tests.toml"), cases(expected))?;
        let ended = world.runner.ask("policy", &["test"])?.run(SOON).await?;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        ensure!(ended.code() == code && said.contains(words), "{expected}: {ended:?}");
    }
    // one whose plan is not there keeps no other from being judged
    std::fs::write(rules.join("tests.toml"), cases("pass").replace("delete.json", "gone.json"))?;
    let ended = world.runner.ask("policy", &["test"])?.run(SOON).await?;
    let is_told = ["FAIL  it stays: ", "gone.json", "1 of 2 cases"].iter().all(|part| ended.stdout.contains(part));
    ensure!(ended.code() == 1 && is_told, "{ended:?}");
    // a program that cannot be used says so
    std::fs::write(rules.join("tests.toml"), cases("pass"))?;
    std::fs::write(rules.join("bad.rego"), "package runner.plan\ndeny contains")?;
    let ended = world.runner.ask("policy", &["test"])?.run(SOON).await?;
    ensure!(ended.code() == 78 && ended.stderr.contains("bad.rego"), "{ended:?}");
    Ok(())
}
