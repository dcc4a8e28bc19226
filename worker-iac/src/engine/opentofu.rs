//! OpenTofu, as far as it differs from its sibling.

use super::dialect::Command;
use super::language::{Language, is_at_least};

/// OpenTofu.
pub(super) const OPENTOFU: Language = Language {
    name: "opentofu",
    extensions: &[".tf", ".tf.json", ".tofu", ".tofu.json"],
    version_file: ".opentofu-version",
    init_json: [1, 8, 0],
    takes_variables,
};

/// Since 1.8 all that reads the configuration takes them, for backends and sources of modules that are made of variables; its apply
/// compares them with the plan's.
fn takes_variables(command: &Command<'_>, version: &str) -> bool {
    match command {
        Command::Version => false,
        Command::Plan { .. } => true,
        _ => is_at_least(version, [1, 8, 0]),
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
            OPENTOFU.arguments(command, version, &options).iter().any(|said| said == word)
        };
        let init = Command::Init { again: false };
        for (version, json) in
            [("1.12.6-dev", true), ("v1.8.0", true), ("1.7.3", false), ("2.0.0", true), ("new", false)]
        {
            assert_eq!(says(&init, version, "-json"), json, "{version}");
            assert_eq!(says(&init, version, "-var-file=v"), json, "{version}");
            assert_eq!(
                says(&Command::Apply { what: &plan, plan: Path::new("p") }, version, "-var-file=v"),
                json,
                "{version}"
            );
            assert!(says(&Command::Plan { what: &plan, out: Path::new("p") }, version, "-var-file=v"), "{version}");
        }
        assert!(!says(&Command::Version, "1.12.6", "-var-file=v"));
    }
}
