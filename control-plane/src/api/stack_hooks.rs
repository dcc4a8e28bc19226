//! Hooks of a stack, as users say them: programs of its source, which its runner runs where its own configuration lets it. Must never take anything but
//! a path inside of a source.

use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use shared_proto::hooks::{check_path, of};
use shared_proto::v1;
use utoipa::ToSchema;

/// Programs of the source, each by its path from the source's top, at most 1,024 bytes; they are executable files. The runner refuses jobs that have some
/// unless its own configuration lets them run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Hooks {
    /// Before the plan: it may change the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    before_plan: Option<String>,
    /// Once a plan is made, shown and judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    after_plan: Option<String>,
    /// Before the approved plan is applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    before_apply: Option<String>,
    /// Once the apply has ended, also where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    after_apply: Option<String>,
}

impl Hooks {
    /// The same, if each can be a file of a source.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub(super) fn checked(self) -> Result<Self, Failure> {
        let given = [&self.before_plan, &self.after_plan, &self.before_apply, &self.after_apply];
        // one that is empty is none to whoever runs them
        if given.into_iter().flatten().any(String::is_empty) {
            return Err(Code::InvalidArgument.on("a hook's path is empty"));
        }
        for (hook, path) in of(&self.wire().unwrap_or_default()) {
            check_path(path).map_err(|why| {
                let shown: String = path.chars().take(200).collect();
                Code::InvalidArgument.on(format!("the hook {}: {shown:?} {why}", hook.name()))
            })?;
        }
        Ok(self)
    }
    /// As a runner is told them; none: there are none.
    pub(super) fn wire(&self) -> Option<v1::Hooks> {
        let path = |hook: &Option<String>| hook.clone().unwrap_or_default();
        let wire = v1::Hooks {
            before_plan: path(&self.before_plan),
            after_plan: path(&self.after_plan),
            before_apply: path(&self.before_apply),
            after_apply: path(&self.after_apply),
        };
        let some = of(&wire).next().is_some();
        some.then_some(wire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_a_path_and_no_command() {
        let hooks =
            |json: &str| serde_json::from_str::<Hooks>(json).map_err(drop).and_then(|h| h.checked().map_err(drop));
        let good = hooks(r#"{"after_plan": "scripts/look.sh"}"#).expect("fine");
        assert_eq!(good.wire().map(|wire| wire.after_plan).as_deref(), Some("scripts/look.sh"));
        assert_eq!(serde_json::to_string(&good).ok().as_deref(), Some(r#"{"after_plan":"scripts/look.sh"}"#));
        assert_eq!(hooks("{}").expect("none").wire(), None);
        for bad in [
            r#"{"after_plan": ""}"#,
            r#"{"after_plan": "/bin/sh"}"#,
            r#"{"before_apply": "a/../../b"}"#,
            r#"{"before_init": "a"}"#,
        ] {
            assert!(hooks(bad).is_err(), "{bad}");
        }
    }
}
