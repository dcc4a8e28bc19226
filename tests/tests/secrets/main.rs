//! Variables and secrets of stacks: sets and types, references to stores of every kind, values sealed to the runner, and that nothing secret of
//! all of it leaves the runner.

mod planted;
mod vault;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use runner_tests::ctl::Ctl;
use runner_tests::engine::newest_state;
use runner_tests::process::Ended;
use runner_tests::runner::{Setup, deploying, given};
use runner_tests::{Cluster, Component, ControlPlane, Engine, Moto, Runner, Scratch, Suite, cluster};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    Suite::new()
        .limit(600)
        .needs(&[Component::Tofu])
        .test("nothing_secret_leaves_the_runner", planted::nothing_leaves)
        .test("references_that_are_not_allowed_or_not_there_say_so", refused)
        .test("a_sealed_value_is_its_runners_stacks_and_variables_alone", sealed)
        .test("sets_and_types_are_what_they_are", sets)
        .needs(&[Component::Tofu, Component::Cluster, Component::Moto])
        .test("stores_are_asked_with_their_connections_credentials", connections)
        .run()
}

/// A control plane, and a runner of its organization.
struct World {
    control_plane: ControlPlane,
    runner: Runner,
    ctl: Ctl,
    _engine: Engine,
}

impl World {
    async fn new(more: impl FnOnce(Setup) -> Result<Setup>) -> Result<Self> {
        let control_plane = ControlPlane::start().await?;
        let (engine, runner, ctl) = deploying(&control_plane, more).await?;
        Ok(Self { control_plane, runner, ctl, _engine: engine })
    }
    /// Deploys a module; the end, and its last job.
    async fn deploy(&self, stack: &str, main: &str, options: &[&str]) -> Result<(Ended, Value)> {
        let folder = Scratch::new("module")?;
        folder.write("main.tf", main)?;
        let path = folder.path().display().to_string();
        let words = [&["deploy", &path, "--name", stack, "--auto-approve"], options].concat();
        let ended = self.ctl.run(&words).await?;
        Ok((ended, self.last_job(stack).await?))
    }
    async fn last_job(&self, stack: &str) -> Result<Value> {
        // there may be no such stack
        let Ok(list) = self.ctl.json(&["job", "list", "--stack", stack]).await else { return Ok(Value::Null) };
        match list["items"][0]["id"].as_str() {
            Some(id) => self.ctl.json(&["job", "show", id]).await,
            None => Ok(Value::Null),
        }
    }
    /// What a stack's state holds.
    async fn state(&self, stack: &str) -> Result<String> {
        let shown = self.ctl.json(&["stack", "show", stack]).await?;
        let state = newest_state(&self.runner, shown["id"].as_str().context("an id")?)?.context("a state")?;
        Ok(String::from_utf8(state)?)
    }
    /// The fingerprint that its owner sees on the runner's host.
    async fn seal_key(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.runner.ask("seal-key", arguments)?.run(SOON).await?.success()?.trim().to_owned())
    }
}

/// A store of files, with these in it.
fn files(setup: Setup, allow: &str, all: &[(&str, &str)]) -> Result<Setup> {
    let store = setup.folder().join("store");
    for (name, text) in all {
        let path = store.join(name);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(path, text)?;
    }
    let lines = format!("kind = \"file\"\ndirectory = {:?}\nallow = [{allow:?}]", store.display().to_string());
    Ok(setup.table("secrets.files", &lines))
}

const KEEPS: &str = "variable \"password\" {}\nresource \"terraform_data\" \"a\" { input = var.password }\n";

async fn refused() -> Result<()> {
    let world = World::new(|setup| {
        files(
            setup,
            "apps/*",
            &[("apps/password", "hunter2-hunter2\n"), ("apps/short", "seven-7"), ("other/password", "n0t-for-them")],
        )
    })
    .await?;
    for (reference, code, words) in [
        ("password=nothing:apps/password", "unknown_secret_store", "has no store"),
        (
            "password=files:other/password",
            "secret_denied",
            "the store files of the runner's configuration does not allow",
        ),
        ("password=files:apps/none", "target_not_found", "of the store files: there is no such file"),
        ("password=files:apps/password#user", "target_refused", "no JSON object"),
        ("password=files:apps/short", "secret_too_short", "password has 7 bytes"),
    ] {
        let (ended, job) = world.deploy("s", KEEPS, &["--secret", reference]).await?;
        let said = format!("{ended:?}{job}");
        ensure!(job["result"]["code"] == code && said.contains(words), "{reference}: {said}");
        ensure!(ended.code() != 0 && !said.contains("hunter2") && !said.contains("n0t-for"), "{reference}: {said}");
        // before anything was planned
        ensure!(!said.contains("Plan: 1 to add"), "{reference}: {said}");
    }
    // what is no reference is refused where it is made
    for reference in ["password=files:../x", "password=fi les:x"] {
        let (ended, _) = world.deploy("t", KEEPS, &["--secret", reference]).await?;
        ensure!(ended.code() == 64 && ended.stderr.contains("invalid_argument"), "{reference}: {ended:?}");
    }
    let (ended, job) = world.deploy("s", KEEPS, &["--secret", "password=files:apps/password"]).await?;
    ensure!(ended.code() == 0 && job["phase"] == "applied", "{ended:?} {job}");
    ensure!(world.state("s").await?.contains("hunter2-hunter2"), "the engine had it");
    let audit = world.runner.ask("audit", &["tail"])?.run(SOON).await?.success()?;
    ensure!(audit.contains("password=files:apps/password") && !audit.contains("hunter2"), "{audit}");
    ensure!(audit.contains("secret_denied"), "{audit}");
    // a value that is another one by the time of the approval
    let folder = Scratch::new("module")?;
    folder.write("main.tf", format!("{KEEPS}output \"o\" {{ value = 1 }}\n"))?;
    let path = folder.path().display().to_string();
    let waits = world.ctl.run(&["deploy", &path, "--name", "s"]).await?;
    ensure!(waits.code() == 75, "{waits:?}");
    std::fs::write(world.runner.folder().join("store/apps/password"), "an0ther-password")?;
    given(&world.runner.folder().join("store/apps/password")).await?;
    let id = world.last_job("s").await?["id"].as_str().context("an id")?.to_owned();
    world.ctl.text(&["job", "approve", &id]).await?;
    let ended = world.ctl.run(&["job", "watch", &id]).await?;
    ensure!(ended.code() != 0 && ended.stderr.contains("plan_stale"), "{ended:?}");
    // nor is yesterday's value told by what the plan changes, or by the state, whatever the stack is given by now
    let user = world.control_plane.admin();
    let mut seen = String::new();
    for body in [
        json!({"kind": "preview"}),
        json!({"kind": "state", "targets": ["terraform_data.a"]}),
        json!({"kind": "preview", "secrets": {}, "variables": {"password": "plain-for-now"}}),
    ] {
        let id = user.start_job("s", &body).await?;
        let job = user.job_in(&id, &["planned", "no_changes"], SOON).await?;
        let plan = user.client().get(&format!("/api/v1/jobs/{id}/plan")).await?.text();
        seen.push_str(&format!("{}{}{plan}", job.0, json!(user.events(&id).await?)));
    }
    ensure!(seen.contains("terraform_data.a") && seen.contains("[redacted]"), "{seen}");
    ensure!(!seen.contains("hunter2-hunter2") && !seen.contains("an0ther-password"), "{seen}");
    // a file that is written just now is no secret
    std::fs::write(world.runner.folder().join("store/apps/password"), "")?;
    given(&world.runner.folder().join("store/apps/password")).await?;
    let (ended, job) = world.deploy("s", KEEPS, &[]).await?;
    ensure!(job["result"]["code"] == "secret_too_short" && ended.code() != 0, "{ended:?} {job}");
    // the texts of one that is a document are taken out one by one
    let document =
        json!({"private_key": "-----BEGIN X-----\nMIIplanted-line\n-----END X-----\n", "id": "planted-key-id"});
    std::fs::write(world.runner.folder().join("store/apps/document"), format!("{document:#}"))?;
    given(&world.runner.folder().join("store/apps/document")).await?;
    let shows = "variable \"d\" {}\nresource \"terraform_data\" \"a\" { input = jsondecode(var.d) }\n";
    let (ended, job) = world.deploy("d", shows, &["--secret", "d=files:apps/document"]).await?;
    let events = json!(user.events(job["id"].as_str().context("an id")?).await?).to_string();
    let said = format!("{ended:?}{job}{events}");
    ensure!(job["phase"] == "applied" && said.contains("[redacted]") && !said.contains("planted-"), "{said}");
    Ok(())
}

async fn sealed() -> Result<()> {
    let world = World::new(Ok).await?;
    let told = world.seal_key(&[]).await?;
    let shown = world.ctl.text(&["runner", "show", "runner-1"]).await?;
    ensure!(told.len() == 64 && shown.contains(&told), "{told} is not in {shown}");
    // by standard input, and by a file; the first time its key is told
    let folder = Scratch::new("module")?;
    folder.write("main.tf", KEEPS)?;
    folder.write("value", "hunter2-hunter2\n")?;
    let (path, value) = (folder.path().display().to_string(), folder.join("value").display().to_string());
    let deploy = ["deploy", &path, "--name", "s", "--auto-approve", "--sealed", "password"];
    let ended = world.ctl.program(&deploy)?.input("hunter2-hunter2\n").run(SOON).await?;
    ensure!(ended.code() == 0 && ended.stderr.contains(&told) && ended.stderr.contains("first time"), "{ended:?}");
    ensure!(world.state("s").await?.contains("hunter2-hunter2"), "the engine had it");
    let stack = world.ctl.json(&["stack", "show", "s"]).await?;
    ensure!(stack["sealed"]["password"][0]["key"] == told.as_str(), "{stack}");
    // it is of no other stack and of no other variable
    let (ended, _) = world.deploy("t", KEEPS, &["--var", "password=plain-for-now"]).await?;
    ensure!(ended.code() == 0, "{ended:?}");
    let user = world.control_plane.admin();
    user.change_stack("t", "variables", &json!({})).await?;
    user.change_stack("t", "sealed", &stack["sealed"]).await?;
    let job = user.start_job("t", &json!({ "kind": "preview" })).await?;
    let job = user.job_in(&job, &["failed"], SOON).await?;
    ensure!(job.code() == "sealed_unreadable", "{}", job.code());
    // a key that was not seen before is refused, until it is named
    let newer = world.seal_key(&["--rotate"]).await?;
    ensure!(newer != told, "{newer}");
    let before = world.runner.mark();
    world.runner.ask("upgrade", &[])?.run(SOON).await?.success()?;
    world.runner.session(before, SOON).await?;
    let seal = ["stack", "seal", "s", "password", "--file", &value];
    let ended = world.ctl.run(&seal).await?;
    ensure!(
        ended.code() == 77 && ended.stderr.contains("seal_key_unknown") && ended.stderr.contains(&newer),
        "{ended:?}"
    );
    let wrong = world.ctl.run(&[&seal[..], &["--seal-key", &told]].concat()).await?;
    ensure!(wrong.code() == 77 && wrong.stderr.contains("seal_key_unknown"), "{wrong:?}");
    // what was sealed to the one before opens still
    let ended = world.ctl.run(&["deploy", "--stack", "s", "--kind", "preview"]).await?;
    ensure!(ended.code() == 0, "{ended:?}");
    world.ctl.text(&[&seal[..], &["--seal-key", &newer]].concat()).await?;
    world.ctl.text(&seal).await?;
    let ended = world.ctl.run(&["deploy", "--stack", "s", "--kind", "preview"]).await?;
    ensure!(ended.code() == 0, "{ended:?}");
    // another instance has another key
    let World { control_plane, runner, ctl, _engine: engine } = world;
    let id = runner.id.clone();
    runner.process().end();
    let other = Setup::new()?.cold().engines(&[&engine]).start_as(control_plane.admin(), &id).await?;
    let ended = ctl.run(&["deploy", "--stack", "s", "--kind", "preview"]).await?;
    ensure!(ended.code() != 0 && ended.stderr.contains("sealed_unreadable"), "{ended:?}");
    ensure!(ended.stderr.contains("runnerctl stack seal"), "{ended:?}");
    let key = other.ask("seal-key", &[])?.run(SOON).await?.success()?;
    ctl.text(&[&seal[..], &["--seal-key", key.trim()]].concat()).await?;
    let ended = ctl.run(&["deploy", "--stack", "s", "--kind", "preview"]).await?;
    ensure!(!ended.stderr.contains("sealed_unreadable"), "{ended:?}");
    ctl.text(&["stack", "unseal", "s", "password"]).await?;
    ensure!(ctl.json(&["stack", "show", "s"]).await?["sealed"] == json!({}), "it is gone");
    Ok(())
}

async fn sets() -> Result<()> {
    let world = World::new(|setup| files(setup, "*", &[("token", "of-the-files-store")])).await?;
    let main = "variable \"n\" {}\nvariable \"on\" {}\nvariable \"list\" {}\nvariable \"zip\" {}\nvariable \"who\" {}\nvariable \"token\" {}\n\
                output \"n\" { value = var.n + 1 }\noutput \"on\" { value = var.on ? \"yes\" : \"no\" }\n\
                output \"list\" { value = var.list[1] }\noutput \"zip\" { value = var.zip }\noutput \"who\" { value = var.who }\n\
                output \"token\" { value = sha256(var.token) }\n";
    let folder = Scratch::new("values")?;
    folder.write("v.json", json!({"n": 41, "on": true, "list": ["a", "b"], "who": "the set"}).to_string())?;
    let file = folder.join("v.json").display().to_string();
    world.ctl.text(&["variables", "set", "base", "--var-file", &file, "--secret", "token=files:token"]).await?;
    world.ctl.text(&["variables", "set", "team", "--var", "who=the team", "--var", "zip=0"]).await?;
    let shown = world.ctl.text(&["variables", "show", "base"]).await?;
    ensure!(shown.contains("files:token") && shown.contains("41"), "{shown}");
    let options = ["--variables-set", "base", "--variables-set", "team", "--var", "zip=01234"];
    let (ended, job) = world.deploy("s", main, &options).await?;
    ensure!(ended.code() == 0, "{ended:?} {job}");
    let outputs = &job["outputs"];
    let value = |name: &str| outputs[name]["value"].clone();
    ensure!(value("n") == 42 && value("on") == "yes" && value("list") == "b", "{outputs}");
    ensure!(value("zip") == "01234" && value("who") == "the team", "{outputs}");
    // one that is used stays
    let ended = world.ctl.run(&["variables", "remove", "team"]).await?;
    ensure!(ended.code() != 0 && ended.stderr.contains("used by s"), "{ended:?}");
    world.ctl.text(&["stack", "update", "s", "--variables-set", "none"]).await?;
    world.ctl.text(&["variables", "remove", "team", "zip"]).await?;
    ensure!(
        world.ctl.json(&["variables", "show", "team"]).await?["variables"] == json!({"who": "the team"}),
        "one is left"
    );
    world.ctl.text(&["variables", "remove", "team"]).await?;
    let list = world.ctl.text(&["variables", "list"]).await?;
    ensure!(list.contains("base") && !list.contains("team"), "{list}");
    Ok(())
}

async fn connections() -> Result<()> {
    let (cluster, moto) = (Cluster::start().await?, Moto::start().await?);
    cluster.namespace("shop").await?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"},
        "data": {"password": STANDARD.encode("of-the-cluster-1"), "user": STANDARD.encode("somebody")}});
    cluster.create("/api/v1/namespaces/shop/secrets", &secret).await?;
    let aws = async |service: &str, target: &str, body: Value| {
        let headers = [("x-amz-target", target), ("content-type", "application/x-amz-json-1.1")];
        let answer = moto.call(service, Method::POST, "/", &headers, &body.to_string()).await?;
        ensure!(answer.status.is_success(), "{target}: {}", answer.text());
        Ok(())
    };
    let object = json!({"password": "of-secrets-manager"}).to_string();
    aws("secretsmanager", "secretsmanager.CreateSecret", json!({"Name": "prod/db", "SecretString": object})).await?;
    let parameter = json!({"Name": "/prod/db", "Type": "SecureString", "Value": "of-the-parameters"});
    aws("ssm", "AmazonSSM.PutParameter", parameter).await?;
    let world = World::new(|setup| {
        Ok(setup
            .kubernetes("cluster", &cluster.kubeconfig(cluster.address(), cluster::ADMIN))?
            .kubernetes("nobody", &cluster.kubeconfig(cluster.address(), cluster::RESTRICTED))?
            .aws("account", &moto)
            .table("secrets.cluster", "kind = \"kubernetes\"\nconnection = \"cluster\"\nallow = [\"shop/*\"]")
            .table("secrets.nobody", "kind = \"kubernetes\"\nconnection = \"nobody\"\nallow = [\"*\"]")
            .table("secrets.manager", "kind = \"aws-secrets-manager\"\nconnection = \"account\"\nallow = [\"prod/*\"]")
            .table("secrets.parameters", "kind = \"aws-ssm\"\nconnection = \"account\"\nallow = [\"/prod/*\"]"))
    })
    .await?;
    let main = "variable \"k\" {}\nvariable \"m\" {}\nvariable \"p\" {}\nresource \"terraform_data\" \"a\" { input = [var.k, var.m, var.p] }\n\
                output \"o\" { value = terraform_data.a.output }\n";
    let all = [
        "--secret",
        "k=cluster:shop/db#password",
        "--secret",
        "m=manager:prod/db#password",
        "--secret",
        "p=parameters:/prod/db",
    ];
    let (ended, job) = world.deploy("s", main, &all).await?;
    ensure!(ended.code() == 0 && job["phase"] == "applied", "{ended:?} {job}");
    let state = world.state("s").await?;
    let said = format!("{ended:?}{job}");
    for value in ["of-the-cluster-1", "of-secrets-manager", "of-the-parameters"] {
        ensure!(state.contains(value) && !said.contains(value), "{value}: {said}");
    }
    for (reference, code) in [
        ("k=nobody:shop/db#password", "target_forbidden"),
        ("k=cluster:kube-system/db#password", "secret_denied"),
        ("k=cluster:shop/none#password", "target_not_found"),
        ("k=manager:prod/none", "target_not_found"),
    ] {
        let (ended, job) = world.deploy("s", main, &[&["--secret", reference], &all[2..]].concat()).await?;
        ensure!(job["result"]["code"] == code, "{reference}: {ended:?} {job}");
    }
    Ok(())
}
