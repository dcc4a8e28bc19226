//! Pulumi behind the runner: a program in YAML, its host and a provider whose world is files below the stack's state. What is secret is looked for
//! in everything that left the runner. `TEST_PULUMI` names another Pulumi than the one that `tests/tools/install` builds.

mod survival;

use anyhow::{Context as _, Result, ensure};
use runner_tests::control_plane::aws_environment;
use runner_tests::ctl::Ctl;
use runner_tests::engine::EngineKind;
use runner_tests::process::Ended;
use runner_tests::runner::Setup;
use runner_tests::world::Shared;
use runner_tests::{Component, ControlPlane, Engine, Moto, Runner, Scratch, Suite, archive};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// A job takes Pulumi a dozen commands, at the priority of jobs.
const JOB: Duration = Duration::from_secs(300);
/// A secret variable, and a secret inside of another.
const PLANTED: [&str; 2] = ["planted-secret-one", "planted-secret-two"];

/// What all scenarios share.
struct Usual {
    control_plane: ControlPlane,
    runner: Runner,
    ctl: Ctl,
}

static USUAL: Shared<Usual> = Shared::new();

async fn usual() -> Result<&'static Usual> {
    USUAL.get(Usual::new).await
}

fn main() -> ExitCode {
    Suite::new()
        .limit(1500)
        .needs(&[Component::Pulumi])
        .test("a_program_lives_from_its_first_preview_to_its_end", life)
        .test("what_others_have_changed_is_found_and_written_down", refresh)
        .test("nothing_secret_leaves_the_runner", secrets)
        .test("a_part_of_a_program_replaced_and_imported", parts)
        .test("a_resource_that_fails_is_named", failure)
        .test("a_plan_of_a_stack_that_has_changed_is_stale", stale)
        .test("what_a_source_may_not_say", refused)
        .test("a_state_that_was_left_is_not_gone_on_with", between_runners)
        .test("a_lock_is_told_of_and_removed", survival::lock)
        .test("a_cancelled_update_is_asked_once_and_its_state_is_whole", survival::cancel)
        .test("a_killed_worker_is_followed_by_another", survival::killed)
        .needs(&[Component::Pulumi, Component::Moto])
        .test("a_state_is_taken_to_a_backend", taken)
        .run()
}

/// A stack, and where its provider's world is.
struct Stack {
    name: &'static str,
    id: String,
    world: PathBuf,
}

impl Usual {
    async fn new() -> Result<Self> {
        let control_plane = ControlPlane::start().await?;
        let engine = Engine::new(EngineKind::Pulumi)?;
        let user = control_plane.admin();
        let runner = Setup::new()?.cold().engines(&[&engine]).start(user, "runner-1").await?;
        user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
        // its configuration stays on disk as long as the runner
        std::mem::forget(engine);
        let ctl = Ctl::new(&control_plane, user)?;
        Ok(Self { control_plane, runner, ctl })
    }
    /// A stack with nothing in it: where its state will be is known by its id.
    async fn stack(&self, name: &'static str) -> Result<Stack> {
        let user = self.control_plane.admin();
        let source =
            user.upload(archive::pack(&[archive::Entry::file("Pulumi.yaml", "name: shop\nruntime: yaml\n")])?).await?;
        let stack = user.post("/stacks", &json!({ "name": name, "engine": "pulumi", "source": source })).await?;
        let id = stack["id"].as_str().context("an id")?.to_owned();
        let world = self.runner.state().join("stacks").join(&id).join("world");
        Ok(Stack { name, id, world })
    }
    async fn run(&self, words: &[&str]) -> Result<Ended> {
        self.ctl.program(words)?.run(JOB).await
    }
    async fn text(&self, line: &str) -> Result<String> {
        self.run(&line.split(' ').collect::<Vec<_>>()).await?.success()
    }
    /// Deploys a program; the end, and the id of the job.
    async fn deploy(&self, stack: &Stack, program: &str, options: &str) -> Result<(Ended, String)> {
        let folder = Scratch::new("program")?;
        folder.write("Pulumi.yaml", program)?;
        let path = folder.path().display().to_string();
        let mut words = vec!["deploy", &path, "--name", stack.name];
        words.extend(options.split_whitespace());
        let ended = self.run(&words).await?;
        let list = self.ctl.json(&["job", "list", "--stack", stack.name]).await?;
        Ok((ended, list["items"][0]["id"].as_str().context("a job")?.to_owned()))
    }
    /// The same, to the phase in which it has to end.
    async fn done(&self, stack: &Stack, program: &str, options: &str, phase: &str) -> Result<String> {
        let (ended, job) = self.deploy(stack, program, options).await?;
        let told = self.control_plane.admin().job(&job).await?;
        ensure!(told.phase() == phase, "{}: {ended:?} {}", told.phase(), told.0);
        Ok(job)
    }
    async fn plan(&self, job: &str) -> Result<Value> {
        self.ctl.json(&["plan", "show", job]).await
    }
}

impl Stack {
    fn of_state(&self, usual: &Usual, path: &str) -> PathBuf {
        usual.runner.state().join("stacks").join(&self.id).join(path)
    }
    fn thing(&self, name: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.world.join(name))?)
    }
}

/// A thing of a program: its name, its file's name and its content, and what else it has.
struct Thing<'a>(&'a str, &'a str, &'a str, &'a str);

fn program(world: &Path, things: &[Thing<'_>], rest: &str) -> String {
    let mut text = "name: shop\nruntime: yaml\nresources:\n".to_owned();
    for Thing(name, file, content, more) in things {
        let path = world.join(file).display().to_string();
        text.push_str(&format!(
            "  {name}:\n    type: world:index:Thing\n    properties: {{ path: {path:?}, content: {content:?}{more} }}\n"
        ));
    }
    text + rest
}

fn code(ended: &Ended, expected: i32) -> Result<()> {
    ensure!(ended.code() == expected, "not {expected}: {ended:?}");
    Ok(())
}

async fn life() -> Result<()> {
    let usual = usual().await?;
    let stack = usual.stack("life").await?;
    let rest = |greeting: &str| {
        format!(
            "config:\n  greeting: {{ type: string, default: {greeting} }}\n  ports: {{ type: array, items: {{ type: integer }}, default: [80] }}\noutputs:\n  greeting: ${{greeting}}\n  ports: ${{ports}}\n"
        )
    };
    let first =
        program(&stack.world, &[Thing("one", "one", "${greeting}", ""), Thing("two", "two", "2", "")], &rest("hello"));
    let (ended, preview) = usual.deploy(&stack, &first, "--kind preview --exit-code").await?;
    code(&ended, 2)?;
    ensure!(!stack.world.exists(), "a preview makes nothing");
    let plan = usual.plan(&preview).await?;
    ensure!(
        plan["engine"]["name"] == "pulumi" && plan["summary"]["create"] == 3 && plan["summary"]["outputs"] == 2,
        "{plan}"
    );
    ensure!(plan["resources"][1]["address"].as_str().is_some_and(|a| a.starts_with("world:index:Thing::")), "{plan}");
    // the plan waits, and is then applied
    let (ended, job) = usual.deploy(&stack, &first, "--exit-code").await?;
    code(&ended, 75)?;
    ensure!(
        ended.stdout.contains("+ world:index:Thing: (create)") && ended.stdout.contains("+ 3 to create"),
        "{ended:?}"
    );
    usual.text(&format!("job approve {job}")).await?;
    let applied = usual.control_plane.admin().job_in(&job, &["applied"], JOB).await?;
    ensure!(applied.0["outputs"]["greeting"]["value"] == "hello", "{}", applied.0);
    ensure!(stack.thing("one")? == "hello" && stack.thing("two")? == "2");
    let shown = serde_json::to_string(&usual.control_plane.admin().events(&job).await?)?;
    for expected in
        ["+ world:index:Thing one create: complete", "Resources: 3 created", "state is kept in the runner's"]
    {
        ensure!(shown.contains(expected), "{expected}: {shown}");
    }
    let job = usual.done(&stack, &first, "--auto-approve --exit-code", "no_changes").await?;
    ensure!(usual.plan(&job).await?["has_changes"] == false);
    // a variable, by name and piece by piece; one is changed, one replaced, one new, one gone
    let second = program(
        &stack.world,
        &[Thing("one", "eins", "${greeting}", ""), Thing("three", "three", "3", "")],
        &rest("hello"),
    );
    let job =
        usual.done(&stack, &second, "--auto-approve --var greeting=bye --var ports=[443,8443]", "applied").await?;
    let plan = usual.plan(&job).await?;
    ensure!(
        plan["summary"]["replace"] == 1 && plan["summary"]["create"] == 1 && plan["summary"]["delete"] == 1,
        "{plan}"
    );
    let table = usual.text(&format!("plan show {job}")).await?;
    for expected in ["world:index:Thing::two", "# forces replacement", "\"hello\" → \"bye\""] {
        ensure!(table.contains(expected), "{expected}: {table}");
    }
    ensure!(stack.thing("eins")? == "bye" && !stack.world.join("two").exists());
    // an output alone is a change, too
    let third = second.replace("outputs:\n", "outputs:\n  more: yes-more\n");
    let job = usual.done(&stack, &third, "--auto-approve", "applied").await?;
    let plan = usual.plan(&job).await?;
    ensure!(plan["summary"]["outputs"] == 1 && plan["outputs"][0]["name"] == "more", "{plan}");
    let outputs = usual.text("state outputs life").await?;
    ensure!(outputs.contains("yes-more") && outputs.contains("8443"), "{outputs}");
    let list = usual.text("state list life").await?;
    ensure!(list.contains("world:index:Thing::one") && list.contains("pulumi:pulumi:Stack::shop-life"), "{list}");
    let show = usual.text("state show life world:index:Thing::one").await?;
    ensure!(show.contains("\"content\"") || show.contains("content"), "{show}");
    let compared = usual.text(&format!("plan compare {preview} {job}")).await?;
    ensure!(compared.contains("world:index:Thing::two"), "{compared}");
    // the end of everything
    let (ended, job) = usual.deploy(&stack, &third, "--kind destroy --exit-code").await?;
    code(&ended, 75)?;
    ensure!(usual.plan(&job).await?["summary"]["delete"] == 3, "{}", usual.plan(&job).await?);
    ensure!(stack.thing("eins").is_ok());
    usual.text(&format!("job approve {job}")).await?;
    usual.control_plane.admin().job_in(&job, &["applied"], JOB).await?;
    ensure!(!stack.world.join("eins").exists() && !stack.world.join("three").exists());
    usual.done(&stack, &third, "--kind destroy --auto-approve", "no_changes").await?;
    Ok(())
}

async fn refresh() -> Result<()> {
    let usual = usual().await?;
    let stack = usual.stack("drifts").await?;
    let text = program(&stack.world, &[Thing("one", "one", "1", ""), Thing("two", "two", "2", "")], "");
    usual.done(&stack, &text, "--auto-approve", "applied").await?;
    usual.done(&stack, &text, "--kind refresh --auto-approve", "no_changes").await?;
    std::fs::write(stack.world.join("one"), "by hand")?;
    std::fs::remove_file(stack.world.join("two"))?;
    // a look alone finds it, and changes nothing
    let ended = usual.run(&["drift", "check", "drifts", "--exit-code"]).await?;
    code(&ended, 2)?;
    let found = usual.text("drift show drifts").await?;
    ensure!(found.contains("by hand") && found.contains("world:index:Thing::two"), "{found}");
    ensure!(usual.ctl.json(&["drift"]).await?["items"][0]["resources"] == 2);
    let (ended, job) = usual.deploy(&stack, &text, "--kind refresh --exit-code").await?;
    code(&ended, 75)?;
    let plan = usual.plan(&job).await?;
    ensure!(plan["kind"] == "refresh" && plan["summary"]["drift"] == 2 && plan["summary"]["update"] == 0, "{plan}");
    // what is found when it is applied is something else than was approved
    std::fs::write(stack.world.join("one"), "by another hand")?;
    usual.text(&format!("job approve {job}")).await?;
    let failed = usual.control_plane.admin().job_in(&job, &["failed"], JOB).await?;
    ensure!(failed.code() == "plan_stale", "{}", failed.0);
    usual.done(&stack, &text, "--kind refresh --auto-approve", "applied").await?;
    let show = usual.text("state show drifts world:index:Thing::one").await?;
    ensure!(show.contains("by another hand"), "{show}");
    // and the next update sets it right
    usual.done(&stack, &text, "--auto-approve", "applied").await?;
    ensure!(usual.ctl.json(&["drift"]).await?["items"][0]["since_ms"].is_null(), "it is gone");
    ensure!(stack.thing("one")? == "1" && stack.thing("two")? == "2");
    Ok(())
}

async fn secrets() -> Result<()> {
    let usual = usual().await?;
    let stack = usual.stack("hides").await?;
    let rest = "config:\n  password: { type: string, secret: true }\n  logins: { type: array, items: { type: string }, secret: true }\n\
        outputs:\n  hidden: ${password}\n  length: ${one.size}\n";
    let text = |more: &str| {
        let content = format!("{more} ${{password}} ${{logins[0]}}");
        program(&stack.world, &[Thing("one", "one", &content, "")], rest)
    };
    let variables = format!("--var password={} --var logins=[\"{}\"]", PLANTED[0], PLANTED[1]);
    let mut jobs = Vec::new();
    let options = format!("--auto-approve {variables}");
    jobs.push(usual.done(&stack, &text("a"), &options, "applied").await?);
    ensure!(stack.thing("one")? == format!("a {} {}", PLANTED[0], PLANTED[1]));
    jobs.push(usual.done(&stack, &text("b"), &options, "applied").await?);
    jobs.push(usual.done(&stack, &text("b"), &format!("--kind refresh {options}"), "no_changes").await?);
    let undeclared = format!("--var other=planted-secret-undeclared {options}");
    jobs.push(usual.done(&stack, &text("b"), &undeclared, "no_changes").await?);
    let mut all = String::new();
    for job in &jobs {
        let user = usual.control_plane.admin();
        let events = serde_json::to_string(&user.events(job).await?)?;
        ensure!(job != &jobs[3] || events.contains("Set as secret, because the project does not declare"), "{events}");
        all.push_str(&events);
        all.push_str(&user.job(job).await?.0.to_string());
        all.push_str(&usual.plan(job).await?.to_string());
        for line in ["plan show", "plan render", "plan show --text", "job show"] {
            all.push_str(&usual.text(&format!("{line} {job}")).await?);
        }
    }
    for line in
        ["state outputs hides", "state list hides", "state show hides world:index:Thing::one", "plan compare hides"]
    {
        all.push_str(&usual.text(line).await?);
    }
    all.push_str(&std::fs::read_to_string(usual.runner.folder().join("runner.log")).unwrap_or_default());
    let passphrase = std::fs::read_to_string(stack.of_state(usual, "pulumi-passphrase"))?;
    for secret in PLANTED.into_iter().chain(["planted-secret-undeclared", &passphrase]) {
        if let Some(at) = all.find(secret) {
            anyhow::bail!("{secret}: …{}…", &all[at.saturating_sub(300)..(at + 100).min(all.len())]);
        }
    }
    ensure!(all.contains("(sensitive)"), "{all}");
    // nor is it in the state
    let kept = std::fs::read_to_string(stack.of_state(usual, "pulumi/.pulumi/stacks/shop/hides.json"))?;
    ensure!(!PLANTED.iter().any(|planted| kept.contains(planted)), "{kept}");
    Ok(())
}

async fn parts() -> Result<()> {
    let usual = usual().await?;
    let stack = usual.stack("parts").await?;
    let both = [Thing("one", "one", "1", ""), Thing("two", "two", "2", "")];
    let text = program(&stack.world, &both, "");
    usual.done(&stack, &text, "--auto-approve --target world:index:Thing::one", "applied").await?;
    ensure!(stack.thing("one").is_ok() && !stack.world.join("two").exists());
    let job = usual
        .done(
            &stack,
            &text,
            "--auto-approve --target world:index:Thing::one --replace world:index:Thing::one",
            "applied",
        )
        .await?;
    ensure!(usual.plan(&job).await?["summary"]["replace"] == 1);
    // a replacement is made first, and what it replaces is the same file: it is gone
    usual.done(&stack, &text, "--kind refresh --auto-approve", "applied").await?;
    usual.done(&stack, &text, "--auto-approve", "applied").await?;
    ensure!(stack.thing("one")? == "1" && stack.thing("two")? == "2");
    // what is there already is taken in, once that is approved
    let three = stack.world.join("three");
    std::fs::write(&three, "3")?;
    let with = program(&stack.world, &[both[0].again(), both[1].again(), Thing("three", "three", "3", "")], "");
    usual.done(&stack, &with, "--kind preview", "planned").await?;
    let (ended, job) = usual.import(&stack, &with, "world:index:Thing::three", &three.display().to_string()).await?;
    ensure!(usual.plan(&job).await?["summary"]["import"] == 1, "{ended:?} {}", usual.plan(&job).await?);
    usual.text(&format!("job approve {job}")).await?;
    usual.control_plane.admin().job_in(&job, &["applied"], JOB).await?;
    let list = usual.text("state list parts").await?;
    ensure!(list.contains("world:index:Thing::three"), "{list}");
    usual.done(&stack, &with, "--auto-approve", "no_changes").await?;
    Ok(())
}

impl Thing<'_> {
    fn again(&self) -> Self {
        Thing(self.0, self.1, self.2, self.3)
    }
}

impl Usual {
    /// Imports a resource into a stack whose source is the program from then on.
    async fn import(&self, stack: &Stack, text: &str, address: &str, id: &str) -> Result<(Ended, String)> {
        let user = self.control_plane.admin();
        let source = user.upload(archive::pack(&[archive::Entry::file("Pulumi.yaml", text)])?).await?;
        let body = json!({ "kind": "import", "source": source, "imports": [{ "address": address, "id": id }] });
        let job = user.start_job(stack.name, &body).await?;
        user.job_in(&job, &["awaiting_approval"], JOB).await?;
        let ended = self.ctl.run(&["job", "show", &job]).await?;
        Ok((ended, job))
    }
}

async fn failure() -> Result<()> {
    let usual = usual().await?;
    let stack = usual.stack("fails").await?;
    let text =
        program(&stack.world, &[Thing("one", "one", "1", ""), Thing("bad", "bad", "2", ", fail: no such luck")], "");
    let job = usual.done(&stack, &text, "--auto-approve", "failed").await?;
    let told = usual.control_plane.admin().job(&job).await?;
    ensure!(told.code() == "engine_failed", "{}", told.0);
    let said = told.0["result"]["message"].as_str().unwrap_or_default();
    ensure!(said.contains("no such luck (world:index:Thing::bad)"), "{said}");
    let progress = usual.control_plane.admin().events_of(&job, "resource_progress").await?;
    ensure!(
        progress.iter().any(|p| p["address"] == "world:index:Thing::bad" && p["state"] == "failed"),
        "{progress:?}"
    );
    // what was made is known
    ensure!(usual.text("state list fails").await?.contains("world:index:Thing::one"));
    let broken = usual
        .done(
            &stack,
            "name: shop\nruntime: yaml\nresources:\n  x: { type: \"nothing:of:This\" }\n",
            "--kind preview",
            "failed",
        )
        .await?;
    ensure!(usual.control_plane.admin().job(&broken).await?.code() == "engine_failed");
    Ok(())
}

async fn stale() -> Result<()> {
    let usual = usual().await?;
    let stack = usual.stack("stale").await?;
    let user = usual.control_plane.admin();
    let one = program(&stack.world, &[Thing("one", "one", "1", "")], "");
    usual.done(&stack, &one, "--auto-approve", "applied").await?;
    let two = program(&stack.world, &[Thing("one", "one", "2", "")], "");
    for options in ["", "--kind destroy"] {
        let (ended, job) = usual.deploy(&stack, &two, &format!("{options} --exit-code")).await?;
        code(&ended, 75)?;
        // somebody writes into the state beside the runner
        let state = stack.of_state(usual, "pulumi/.pulumi/stacks/shop/stale.json");
        let before = std::fs::read_to_string(&state)?;
        let mut kept: Value = serde_json::from_str(&before)?;
        kept["checkpoint"]["latest"]["manifest"]["time"] = json!("2026-01-01T00:00:00Z");
        std::fs::write(&state, kept.to_string())?;
        usual.text(&format!("job approve {job}")).await?;
        let failed = user.job_in(&job, &["failed"], JOB).await?;
        ensure!(failed.code() == "plan_stale", "{}", failed.0);
        ensure!(stack.thing("one")? == "1");
        std::fs::write(&state, before)?;
    }
    Ok(())
}

async fn taken() -> Result<()> {
    let (control_plane, moto) = (ControlPlane::start().await?, Moto::start().await?);
    moto.bucket("states", ("of", "tests")).await?;
    let engine = Engine::new(EngineKind::Pulumi)?;
    let setup = Setup::new()?.cold().engines(&[&engine]).aws("account", &moto);
    let user = control_plane.admin();
    let runner = setup.start(user, "runner-1").await?;
    user.post(&format!("/runners/{}/default", runner.id), &json!({})).await?;
    let ctl = Ctl::new(&control_plane, user)?;
    let usual = Usual { control_plane, runner, ctl };
    let user = usual.control_plane.admin();
    let stack = usual.stack("moves").await?;
    let bucket = format!("s3://states?region=eu-central-1&endpoint={}&use_path_style=true", moto.url());
    let backend = format!("backend: {{ url: {bucket:?} }}\n");
    let of = |content: &str, rest: &str| program(&stack.world, &[Thing("one", "one", content, "")], rest);
    let update = async |content: &str, rest: &str, phase: &str| -> Result<Value> {
        let job = usual.done(&stack, &of(content, rest), "--auto-approve --connection account", phase).await?;
        Ok(user.job(&job).await?.0)
    };
    update("1", "", "applied").await?;

    // nothing is made a second time, and what to do is said
    let refused = update("1", &backend, "failed").await?;
    ensure!(refused["result"]["code"] == "state_elsewhere", "{refused}");
    let next = refused["result"]["next_step"].as_str().unwrap_or_default();
    ensure!(next.contains("`pulumi stack export` with file://") && next.contains("`pulumi stack import`"), "{next}");

    // which is done
    let hand = Scratch::new("by-hand")?;
    hand.write("Pulumi.yaml", of("1", ""))?;
    let by_hand = async |url: &str, words: &[&str]| {
        let home = hand.join("home").display().to_string();
        let secret = stack.of_state(&usual, "pulumi-passphrase").display().to_string();
        let own = [("PULUMI_HOME", &home), ("HOME", &home), ("PULUMI_CONFIG_PASSPHRASE_FILE", &secret)];
        let own = own.into_iter().map(|(name, value)| (name, value.clone()));
        let account = aws_environment().into_iter().map(|(name, value)| (name, value.to_owned()));
        let all = own.chain(account).chain([("PULUMI_BACKEND_URL", url.to_owned())]);
        let program = engine.program(hand.path(), words).env("PULUMI_SKIP_UPDATE_CHECK", "true");
        all.fold(program, |program, (name, value)| program.env(name, value)).run(JOB).await?.success()
    };
    let here = format!("file://{}", stack.of_state(&usual, "pulumi").display());
    let file = hand.join("exported.json").display().to_string();
    by_hand(&here, &["stack", "export", "--stack", "moves", "--file", &file]).await?;
    by_hand(&bucket, &["stack", "select", "--create", "moves"]).await?;
    by_hand(&bucket, &["stack", "import", "--stack", "moves", "--file", &file]).await?;
    update("1", &backend, "no_changes").await?;
    ensure!(std::fs::read_to_string(stack.of_state(&usual, "kept-at"))?.contains("own backend (s3)"));
    update("2", &backend, "applied").await?;

    // nor in another backend, which has nothing
    let refused = update("2", &backend.replace("states?", "states/others?"), "failed").await?;
    ensure!(refused["result"]["code"] == "state_elsewhere", "{refused}");
    ensure!(
        refused["result"]["message"].as_str().unwrap_or_default().contains("another one, which has none"),
        "{refused}"
    );

    // and what the runner still has is not gone on with
    let refused = update("2", "", "failed").await?;
    ensure!(refused["result"]["code"] == "state_elsewhere", "{refused}");
    ensure!(refused["result"]["next_step"].as_str().unwrap_or_default().contains("kept-at"), "{refused}");
    Ok(())
}

async fn between_runners() -> Result<()> {
    let usual = usual().await?;
    let engine = Engine::new(EngineKind::Pulumi)?;
    let user = usual.control_plane.admin();
    let other = Setup::new()?.cold().engines(&[&engine]).start(user, "runner-2").await?;
    let stack = usual.stack("goes").await?;
    let give = async |runner: &Runner| user.change_stack(stack.name, "runner", &json!(runner.id)).await;
    let update = async |runner: &Runner, content: &str, phase: &str| -> Result<Value> {
        let world = runner.state().join("stacks").join(&stack.id).join("world");
        let text = program(&world, &[Thing("one", "one", content, "")], "");
        let source = user.upload(archive::pack(&[archive::Entry::file("Pulumi.yaml", text)])?).await?;
        user.change_stack(stack.name, "source", &source).await?;
        let job = user.start_job(stack.name, &json!({ "kind": "update", "approve_automatically": true })).await?;
        let job = user.job_in(&job, &["failed", "applied", "no_changes"], JOB).await?;
        ensure!(job.phase() == phase, "{}", job.0);
        Ok(job.0["result"].clone())
    };
    update(&usual.runner, "1", "applied").await?;
    give(&other).await?;
    ensure!(update(&other, "1", "failed").await?["code"] == "state_elsewhere", "nothing is there");
    other.take_stack(&usual.runner, &stack.id).await?;
    update(&other, "2", "applied").await?;
    give(&usual.runner).await?;
    let refused = update(&usual.runner, "2", "failed").await?;
    ensure!(refused["code"] == "state_elsewhere", "{refused}");
    ensure!(refused["next_step"].as_str().unwrap_or_default().contains("kept-by"), "{refused}");
    usual.runner.take_stack(&other, &stack.id).await?;
    update(&usual.runner, "3", "applied").await?;
    update(&usual.runner, "3", "no_changes").await?;
    Ok(())
}

async fn refused() -> Result<()> {
    let usual = usual().await?;
    let stack = usual.stack("refused").await?;
    let user = usual.control_plane.admin();
    for (more, expected) in [
        ("plugins:\n  providers:\n    - { name: world, path: ./bin }\n", "source_refused"),
        ("backend: { url: \"https://api.pulumi.com\" }\n", "credentials_unavailable"),
        ("requiredPulumiVersion: \"<3.0.0\"\n", "engine_version_missing"),
    ] {
        let text = program(&stack.world, &[Thing("one", "one", "1", "")], more);
        let job = usual.done(&stack, &text, "--kind preview", "failed").await?;
        let told = user.job(&job).await?;
        ensure!(told.code() == expected, "{more}: {}", told.0);
    }
    Ok(())
}
