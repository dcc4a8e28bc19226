//! Hooks of a stack: programs of its source that a job runs before and after its plan and its apply. Whether any may run is the runner's own
//! configuration's to say. Must never name anything but a file of the source: neither a command nor a path of a machine.

use crate::v1::Hooks;
use std::path::{Component, Path};

/// The longest path of one, bytes.
pub const PATH_MAX: usize = 1024;

/// When one is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Once the source is there, before anything of it is read.
    BeforePlan,
    /// Once a plan is made, shown and judged.
    AfterPlan,
    /// Once the plan may be applied.
    BeforeApply,
    /// Once the apply has ended, however.
    AfterApply,
}

// === impl Hook ===

impl Hook {
    /// All there are, in the order in which they are run.
    pub const ALL: [Self; 4] = [Self::BeforePlan, Self::AfterPlan, Self::BeforeApply, Self::AfterApply];

    /// Its name, as users say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforePlan => "before-plan",
            Self::AfterPlan => "after-plan",
            Self::BeforeApply => "before-apply",
            Self::AfterApply => "after-apply",
        }
    }
    /// The hook of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.name() == name)
    }
    /// Its program among those of a stack: a path from the source's top.
    pub fn of(self, hooks: &Hooks) -> Option<&str> {
        let path = match self {
            Self::BeforePlan => &hooks.before_plan,
            Self::AfterPlan => &hooks.after_plan,
            Self::BeforeApply => &hooks.before_apply,
            Self::AfterApply => &hooks.after_apply,
        };
        Some(path.as_str()).filter(|path| !path.is_empty())
    }
}

/// Those that a stack has, each with its program.
pub fn of(hooks: &Hooks) -> impl Iterator<Item = (Hook, &str)> {
    Hook::ALL.into_iter().filter_map(move |hook| Some((hook, hook.of(hooks)?)))
}

/// Whether that can be a file of a source.
///
/// # Errors
/// Why not, in words.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > PATH_MAX {
        return Err("is empty or too long");
    }
    if path.chars().any(char::is_control) || path.contains('\\') || path.ends_with('/') {
        return Err("is no path of plain names to a file");
    }
    match Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        true => Ok(()),
        false => Err("is no path inside of the source"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_and_a_program_of_its_own() {
        let hooks = Hooks {
            before_plan: "1".into(),
            after_plan: "2".into(),
            before_apply: String::new(),
            after_apply: "4".into(),
        };
        let all: Vec<_> = of(&hooks).map(|(hook, path)| format!("{}={path}", hook.name())).collect();
        assert_eq!(all, ["before-plan=1", "after-plan=2", "after-apply=4"]);
        for hook in Hook::ALL {
            assert_eq!(Hook::from_name(hook.name()), Some(hook));
        }
        assert_eq!(Hook::from_name("before-init"), None);
    }

    #[test]
    fn a_path_is_one_of_plain_names_inside_of_the_source() {
        let (long, longer) = ("a".repeat(PATH_MAX), "a".repeat(PATH_MAX + 1));
        for good in ["a.sh", "scripts/a b.sh", "./none", long.as_str()] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        for bad in ["", "/bin/sh", "../a", "a/../../b", "a/", "a\n", "a\\b", "a\0", longer.as_str()] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }
}
