//! Terraform, as far as it differs from its sibling.

use super::dialect::{Command, Dialect, at_least};
use super::language::{self, Takes};
use crate::events;
use shared_proto::v1::event::Body;

/// Terraform.
#[derive(Debug)]
pub(super) struct Terraform;

impl Dialect for Terraform {
    fn name(&self) -> &'static str {
        "terraform"
    }
    fn extensions(&self) -> &'static [&'static str] {
        &[".tf", ".tf.json"]
    }
    fn version_file(&self) -> &'static str {
        ".terraform-version"
    }
    fn arguments(&self, command: &Command<'_>, version: &str, variables: &[String]) -> Vec<String> {
        let takes = Takes { init_json: at_least(version, (1, 9)), variables: takes_variables(command, version) };
        language::arguments(command, takes, variables)
    }
    fn version(&self, said: &str) -> Option<String> {
        language::version(said)
    }
    fn event(&self, line: &str) -> Option<Body> {
        events::of_line(line)
    }
    fn planned_changes(&self) -> i32 {
        2
    }
}

/// Its plan does, and since 1.10 its apply: for what is ephemeral, and so in no plan.
fn takes_variables(command: &Command<'_>, version: &str) -> bool {
    match command {
        Command::Plan { .. } => true,
        Command::Apply(_) => at_least(version, (1, 10)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::dialect::Plan;
    use super::*;
    use shared_proto::v1::JobKind;
    use std::path::Path;

    #[test]
    fn variables_and_json_go_where_they_are_taken() {
        let plan = Plan { kind: JobKind::Update, targets: &[], replace: &[] };
        let says = |command: &Command<'_>, version, word: &str| {
            Terraform.arguments(command, version, &["-var-file=v".into()]).iter().any(|said| said == word)
        };
        let (init, apply) = (Command::Init { again: false }, Command::Apply(Path::new("p")));
        for (version, json, applies) in
            [("1.11.4", true, true), ("1.9.0", true, false), ("1.8.5", false, false), ("", false, false)]
        {
            assert_eq!(says(&init, version, "-json"), json, "{version}");
            assert_eq!(says(&apply, version, "-var-file=v"), applies, "{version}");
            assert!(!says(&init, version, "-var-file=v"), "{version}");
            assert!(says(&Command::Plan { what: &plan, out: Path::new("p") }, version, "-var-file=v"), "{version}");
        }
    }
}
