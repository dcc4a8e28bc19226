//! A step by hand: `init`, `plan -out`, `apply` of that plan, in a folder that stays, as a person does it.

use super::scenario::{Files, Kind, Place, Scenario, Step, Words};
use super::seen::{Plain, Seen};
use super::world::World;
use anyhow::{Context as _, Result};
use runner_tests::process::{Ended, Program};
use runner_tests::{Engine, EngineKind, Scratch};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(180);

/// A person at work on one scenario.
pub(super) struct ByHand<'a> {
    world: &'a World,
    engine: &'a Engine,
    scenario: &'a Scenario,
    words: Words,
    plain: Plain,
    folder: Scratch,
    /// What was written for the step before.
    written: Vec<PathBuf>,
}

impl<'a> ByHand<'a> {
    pub(super) fn new(world: &'a World, kind: EngineKind, scenario: &'a Scenario, key: String) -> Result<Self> {
        let (engine, folder) = (world.engine(kind)?, Scratch::new("by-hand")?);
        let own = [format!("{}/", folder.join("source").display()), key.clone(), key.replace('-', "_")];
        let (words, plain) = (world.words(key), Plain::new(own)?);
        Ok(Self { world, engine, scenario, words, plain, folder, written: Vec::new() })
    }

    /// The folder of the root module.
    fn root(&self) -> PathBuf {
        self.folder.join("source").join(self.scenario.path)
    }

    /// Does a step.
    ///
    /// # Errors
    /// What is no answer of the engine.
    pub(super) async fn step(&mut self, step: &Step, files: &Files) -> Result<Seen> {
        for path in self.written.drain(..) {
            std::fs::remove_file(path)?;
        }
        // a job's working copy is a new one: what init has written down of providers stays with the source that has it
        let _ = std::fs::remove_file(self.root().join(".terraform.lock.hcl"));
        for (path, text) in files {
            let path = Path::new("source").join(path);
            self.written.push(self.folder.write(path, self.words.fill(text))?);
        }
        let variables =
            self.folder.write("variables.tfvars.json", self.words.fill_value(&step.variables).to_string())?;
        let variables = format!("-var-file={}", variables.display());
        let mut seen = Seen::default();
        self.work(step, &variables, &mut seen).await?;
        seen.state = match self.scenario.place {
            Place::Here(file) => match std::fs::read(self.root().join(file)) {
                Ok(state) => self.plain.state(&state)?,
                Err(_) => Value::Null,
            },
            Place::Own => pull(self.world, self.engine, self.scenario, &self.words, &self.plain).await?,
            Place::Nowhere => Value::Null,
        };
        Ok(seen)
    }

    async fn work(&self, step: &Step, variables: &str, seen: &mut Seen) -> Result<()> {
        // OpenTofu takes variables wherever it reads the configuration
        let at_init: &[&str] = if self.engine.kind() == EngineKind::OpenTofu { &[variables] } else { &[] };
        let init = [&["init", "-input=false", "-no-color", "-json"], at_init].concat();
        if self.command(&init, seen).await? != 0 {
            return Ok(());
        }
        if !self.scenario.workspace.is_empty() {
            let select = ["workspace", "select", "-or-create=true", self.scenario.workspace];
            self.run(&[&select[..3], at_init, &select[3..]].concat()).await?.success()?;
        }
        let mut plan = vec!["plan", "-input=false", "-no-color", "-json", "-detailed-exitcode", "-out=the.plan"];
        match step.kind {
            Kind::Refresh => plan.push("-refresh-only"),
            Kind::Destroy => plan.push("-destroy"),
            Kind::Update | Kind::Preview => {}
        }
        plan.push(variables);
        let scope = |option: &str, all: &[&str]| -> Vec<String> {
            all.iter().map(|address| format!("-{option}={address}")).collect()
        };
        let (targets, replace) = (scope("target", step.targets), scope("replace", step.replace));
        plan.extend(targets.iter().chain(&replace).map(String::as_str));
        match (self.command(&plan, seen).await?, step.kind) {
            (0, _) => seen.end = "no_changes".to_owned(),
            (2, Kind::Preview) => seen.end = "planned".to_owned(),
            (2, _) => {
                let apply = ["apply", "-input=false", "-no-color", "-json", variables, "the.plan"];
                if self.command(&apply, seen).await? == 0 {
                    seen.end = "applied".to_owned();
                }
            }
            _ => {}
        }
        if ["no_changes", "applied"].contains(&seen.end.as_str()) {
            let said = self.run(&[&["output", "-no-color", "-json"], at_init].concat()).await?.success()?;
            let mut outputs: Value = serde_json::from_str(&said).context("outputs")?;
            for output in outputs.as_object_mut().into_iter().flatten().map(|(_, output)| output) {
                if output["sensitive"] == true {
                    output["value"] = Value::Null;
                }
            }
            seen.outputs = self.plain.value(&outputs);
        }
        Ok(())
    }

    /// A command that tells by events, heard; its exit code. `init`, `plan` or `apply`, by its first word.
    async fn command(&self, arguments: &[&str], seen: &mut Seen) -> Result<i32> {
        let ended = self.run(arguments).await?;
        for line in ended.stdout.lines() {
            if let Ok(line) = serde_json::from_str::<Value>(line) {
                seen.line(&line, &self.plain);
            }
        }
        let (name, code) = (arguments.first().copied().unwrap_or_default(), ended.code());
        if code != 0 && (name, code) != ("plan", 2) {
            seen.end = "failed".to_owned();
            seen.failed = Some((name.to_owned(), code.into()));
        }
        Ok(code)
    }

    async fn run(&self, arguments: &[&str]) -> Result<Ended> {
        let program = self.engine.program(&self.root(), arguments);
        with_credentials(self.world, self.scenario, program).run(LONG).await
    }
}

fn with_credentials(world: &World, scenario: &Scenario, program: Program) -> Program {
    let all = world.credentials(scenario.connections);
    all.into_iter().fold(program, |program, (name, value)| program.env(name, value))
}

/// What the configuration's own backend has for whoever has that key: by the engine, with the files that the scenario begins with.
///
/// # Errors
/// The engine refuses.
pub(super) async fn pull(
    world: &World,
    engine: &Engine,
    scenario: &Scenario,
    words: &Words,
    plain: &Plain,
) -> Result<Value> {
    let folder = Scratch::new("pull")?;
    for (path, text) in &scenario.files {
        folder.write(path, words.fill(text))?;
    }
    let none = json!({});
    let variables = words.fill_value(scenario.steps.first().map_or(&none, |step| &step.variables));
    let file = folder.write("beside/variables.tfvars.json", variables.to_string())?;
    let variables: Vec<_> =
        (engine.kind() == EngineKind::OpenTofu).then(|| format!("-var-file={}", file.display())).into_iter().collect();
    let run = async |words: &[&str], last: &[&str]| -> Result<String> {
        let words = words.iter().copied().chain(variables.iter().map(String::as_str)).chain(last.iter().copied());
        let program = engine.program(&folder.join(scenario.path), &words.collect::<Vec<_>>());
        with_credentials(world, scenario, program).run(LONG).await?.success()
    };
    run(&["init", "-input=false"], &[]).await?;
    if !scenario.workspace.is_empty() {
        run(&["workspace", "select", "-or-create=true"], &[scenario.workspace]).await?;
    }
    let state = run(&["state", "pull"], &[]).await?;
    if state.trim().is_empty() { Ok(Value::Null) } else { plain.state(state.as_bytes()) }
}
