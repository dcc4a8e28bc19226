//! Terraform, as far as it differs from its sibling.

use super::dialect::Command;
use super::language::{Language, is_at_least};

/// Terraform.
pub(super) const TERRAFORM: Language = Language {
    name: "terraform",
    extensions: &[".tf", ".tf.json"],
    version_file: ".terraform-version",
    init_json: [1, 9, 0],
    takes_variables,
};

/// Its plan does, and since 1.10 its apply: for what is ephemeral, and so in no plan.
fn takes_variables(command: &Command<'_>, version: &str) -> bool {
    match command {
        Command::Plan { .. } => true,
        Command::Apply { .. } => is_at_least(version, [1, 10, 0]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::dialect::{Dialect as _, Options, Plan};
    use super::*;
    use shared_proto::v1::JobKind;
    use std::path::Path;

    #[test]
    fn variables_and_json_go_where_they_are_taken() {
        let options = Options { arguments: vec!["-var-file=v".into()], ..Options::default() };
        let plan = Plan { kind: JobKind::Update, targets: &[], replace: &[], imports: &[] };
        let says = |command: &Command<'_>, version, word: &str| {
            TERRAFORM.arguments(command, version, &options).iter().any(|said| said == word)
        };
        let (init, apply) = (Command::Init { again: false }, Command::Apply { what: &plan, plan: Path::new("p") });
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
