//! A suite of scenarios: a component that is missing shows as ignored with its reason, and fails where `REQUIRE_COMPONENTS=1`.

use crate::tools::{Component, required};
use crate::{process, scratch};
use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// A scenario that hangs fails after this long unless it says otherwise.
const LIMIT: Duration = Duration::from_secs(180);

/// Scenarios that run in one binary.
pub struct Suite {
    trials: Vec<Trial>,
    runtime: Arc<Runtime>,
    at_once: Option<usize>,
    limit: Duration,
    needs: Vec<Component>,
}

/// How far the figures of heavy scenarios go: `RUNNER_TEST_SCALE`, a percentage, 10 unless given.
pub fn scale() -> u64 {
    std::env::var("RUNNER_TEST_SCALE").ok().and_then(|v| v.parse().ok()).filter(|v| (1..=100).contains(v)).unwrap_or(10)
}

/// That much of a figure, at least one.
pub fn scaled(figure: u64) -> u64 {
    (figure * scale() / 100).max(1)
}

impl Default for Suite {
    fn default() -> Self {
        Self::new()
    }
}

impl Suite {
    /// An empty one.
    ///
    /// # Panics
    /// Where the machine gives no runtime.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("the machine gives threads");
        Self { trials: Vec::new(), runtime: Arc::new(runtime), at_once: None, limit: LIMIT, needs: Vec::new() }
    }

    /// One scenario after the other: for those that measure.
    #[must_use]
    pub fn serial(mut self) -> Self {
        self.at_once = Some(1);
        self
    }

    /// So many scenarios at once, whatever processors there are: for those that wait most of the time.
    #[must_use]
    pub fn at_once(mut self, scenarios: usize) -> Self {
        self.at_once = Some(scenarios);
        self
    }

    /// The limit of the scenarios that follow.
    #[must_use]
    pub fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// What the scenarios that follow need.
    #[must_use]
    pub fn needs(mut self, components: &[Component]) -> Self {
        self.needs = components.to_vec();
        self
    }

    /// A scenario.
    #[must_use]
    pub fn test<F, Fut>(mut self, name: &str, scenario: F) -> Self
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>>,
    {
        let (runtime, needs, limit) = (Arc::clone(&self.runtime), self.needs.clone(), self.limit);
        self.trials.push(Trial::ignorable_test(name, move || {
            let missing: Vec<_> = needs.iter().filter_map(|c| c.missing().map(|why| (*c, why))).collect();
            let required = required();
            if let Some((_, why)) = missing.iter().find(|(c, _)| required && c.can_be_installed()) {
                return Err(Failed::from(format!("REQUIRE_COMPONENTS=1 and {why}")));
            }
            if let Some((_, why)) = missing.first() {
                return Ok(Completion::ignored_with(why));
            }
            process::forget_logs();
            let outcome = runtime.block_on(async { tokio::time::timeout(limit, scenario()).await });
            match outcome {
                Ok(Ok(())) => Ok(Completion::Completed),
                Ok(Err(e)) => Err(Failed::from(format!("{e:?}\n{}", process::recent_logs()))),
                Err(_) => Err(Failed::from(format!("not done within {limit:?}\n{}", process::recent_logs()))),
            }
        }));
        self
    }

    /// Runs them as `cargo test` asks, ends what is left, and gives the exit code.
    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        if let Some(at_once) = self.at_once {
            arguments.test_threads = Some(at_once);
        }
        let conclusion = libtest_mimic::run(&arguments, self.trials);
        process::end_all();
        drop(self.runtime);
        scratch::remove_root();
        conclusion.exit_code()
    }
}
