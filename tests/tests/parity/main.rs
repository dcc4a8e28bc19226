//! The same as by hand: what becomes of a stack through control plane and runner, and what becomes of it in a plain folder with the same
//! engine. The end and its exit code, diagnostics, what was planned and done, outputs and the state are equal after every step.
//!
//! Below `RUNNER_TEST_SCALE=100` every scenario runs with OpenTofu, and every third with Terraform.

mod backends;
mod by_hand;
mod by_runner;
mod faults;
mod modules;
mod resources;
mod scenario;
mod seen;
mod values;
mod world;

use anyhow::{Context as _, Result, ensure};
use by_hand::ByHand;
use by_runner::ByRunner;
use runner_tests::suite::scale;
use runner_tests::{Component, EngineKind, Suite};
use scenario::Scenario;
use std::process::ExitCode;
use std::sync::Arc;

/// Every how many scenarios one runs with Terraform.
const SPREAD: usize = 3;

fn main() -> ExitCode {
    let all = [resources::all(), values::all(), modules::all(), faults::all(), backends::all()];
    let mut suite = Suite::new().limit(400);
    for (number, scenario) in all.into_iter().flatten().enumerate() {
        let scenario = Arc::new(scenario);
        for (kind, component) in
            [(EngineKind::OpenTofu, Component::Tofu), (EngineKind::Terraform, Component::Terraform)]
        {
            let left_out = kind == EngineKind::Terraform && scale() < 100 && number % SPREAD != 0;
            if left_out || !scenario.is_of(kind) {
                continue;
            }
            let needs = [&[component][..], scenario.needs].concat();
            let (name, scenario) = (format!("{}::{}", kind.name(), scenario.name), Arc::clone(&scenario));
            suite = suite.needs(&needs).test(&name, move || same(kind, number, scenario));
        }
    }
    suite.run()
}

/// Runs it both ways, step by step.
async fn same(kind: EngineKind, number: usize, scenario: Arc<Scenario>) -> Result<()> {
    let world = world::world().await?;
    let key = |way: &str| format!("s{number}-{}-{way}", kind.name());
    let mut runner = ByRunner::new(world, kind, &scenario, key("runner"))?;
    let mut hand = ByHand::new(world, kind, &scenario, key("hand"))?;
    let mut files = scenario.files.clone();
    for (step, at) in scenario.steps.iter().zip(1..) {
        step.change(&mut files);
        let (ran, done) = tokio::try_join!(runner.step(step, &files), hand.step(step, &files))?;
        let what = || format!("step {at} ({:?} to {})", step.kind, step.end);
        ensure!(done.end == step.end, "{}: by hand it ended otherwise: {done:#?}", what());
        ran.agrees(&done).with_context(what)?;
    }
    Ok(())
}
