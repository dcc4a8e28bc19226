//! A step through control plane and runner.

use super::by_hand::pull;
use super::scenario::{Files, Kind, Place, Scenario, Step, Words};
use super::seen::{Plain, Seen};
use super::world::World;
use anyhow::{Context as _, Result, ensure};
use runner_tests::archive::{Entry, pack};
use runner_tests::control_plane::body_of;
use runner_tests::engine::newest_state;
use runner_tests::{EngineKind, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const JOB: Duration = Duration::from_secs(240);
/// What is heard of a job.
const HEARD: [&str; 4] = ["diagnostic", "planned_change", "change_summary", "resource_progress"];

/// The stack of one scenario.
pub(super) struct ByRunner<'a> {
    world: &'a World,
    engine: EngineKind,
    scenario: &'a Scenario,
    words: Words,
    plain: Plain,
    /// Its id, once there is one.
    stack: String,
}

impl<'a> ByRunner<'a> {
    pub(super) fn new(world: &'a World, engine: EngineKind, scenario: &'a Scenario, key: String) -> Result<Self> {
        let own = [key.clone(), key.replace('-', "_")];
        let (words, plain) = (world.words(key), Plain::new(own)?);
        Ok(Self { world, engine, scenario, words, plain, stack: String::new() })
    }

    /// Does a step.
    ///
    /// # Errors
    /// The API refuses, or the job has no end.
    pub(super) async fn step(&mut self, step: &Step, files: &Files) -> Result<Seen> {
        let (user, scenario) = (self.world.user(), self.scenario);
        let entries: Vec<_> = files.iter().map(|(path, text)| Entry::file(path, self.words.fill(text))).collect();
        let source = user.upload(pack(&entries)?).await?;
        if self.stack.is_empty() {
            let workspace = Some(scenario.workspace).filter(|name| !name.is_empty());
            let stack = json!({
                "name": self.words.key, "engine": self.engine.name(), "source": source, "path": scenario.path,
                "workspace": workspace, "connections": scenario.connections,
            });
            let made = user.post("/stacks", &stack).await?;
            made["id"].as_str().context("an id")?.clone_into(&mut self.stack);
        }
        let kind = match step.kind {
            Kind::Update => "update",
            Kind::Preview => "preview",
            Kind::Refresh => "refresh",
            Kind::Destroy => "destroy",
        };
        let body = json!({
            "kind": kind, "approve_automatically": step.kind != Kind::Preview, "source": source,
            "variables": self.words.fill_value(&step.variables), "targets": step.targets, "replace": step.replace,
        });
        let id = user.start_job(&self.stack, &body).await?;
        let job = eventually(JOB, "the job's end", || async {
            let job = user.job(&id).await?;
            Ok(job.ended().then_some(job))
        })
        .await?;
        let result = &job.0["result"];
        let mut seen = Seen::default();
        job.phase().clone_into(&mut seen.end);
        let events = user.events(&id).await?;
        for event in &events {
            for kind in HEARD {
                if let Some(body) = body_of(event, kind) {
                    seen.event(kind, &body, &self.plain);
                }
            }
        }
        if job.phase() == "failed" {
            let last = events.iter().filter_map(|event| body_of(event, "engine_started")).next_back();
            let command = last.as_ref().and_then(|started| started["command"].as_str()).unwrap_or_default();
            let code = result["engine_exit_code"].as_i64().with_context(|| format!("no exit code: {}", job.0))?;
            ensure!(job.code() == "engine_failed", "{}", job.0);
            seen.failed = Some((command.to_owned(), code));
        } else {
            ensure!(job.code() == "ok", "{}", job.0);
        }
        seen.outputs = self.plain.value(&job.0["outputs"]);
        seen.state = self.state().await?;
        Ok(seen)
    }

    async fn state(&self) -> Result<Value> {
        let runner = &self.world.runner;
        let state = match (self.scenario.place, self.scenario.workspace) {
            (Place::Here(_), "") => newest_state(runner, &self.stack)?,
            (Place::Here(_), workspace) => {
                let folder = runner.state().join("stacks").join(&self.stack).join("workspaces");
                std::fs::read(folder.join(workspace).join("terraform.tfstate")).ok()
            }
            (Place::Own, _) => {
                let engine = self.world.engine(self.engine)?;
                return pull(self.world, engine, self.scenario, &self.words, &self.plain).await;
            }
            (Place::Nowhere, _) => newest_state(runner, &self.stack)?,
        };
        state.map_or(Ok(Value::Null), |state| self.plain.state(&state))
    }
}
