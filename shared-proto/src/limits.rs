//! How long the steps of a job may take: the limits of a stack and those of a runner, and which of them hold. Must never make a limit of the
//! runner's weaker than its configuration says.

use crate::v1::TimeLimits;

/// The lowest limit, seconds: a step takes some time however little it does.
const MIN: u32 = 10;
/// The lowest one of silence, seconds: an engine that is well says something every ten, and is sometimes late with that.
const SILENCE_MIN: u32 = 60;
/// The highest one, seconds: 90 days.
pub const MAX: u32 = 90 * 86_400;
/// Their names, as users say them.
pub const NAMES: [&str; 4] = ["plan", "apply", "approval", "silence"];

/// The lowest limit of that name, seconds.
pub fn least(name: &str) -> u32 {
    if name == "silence" { SILENCE_MIN } else { MIN }
}

/// The limits that hold where both have some: of each the lower one.
pub fn lower(one: &TimeLimits, other: &TimeLimits) -> TimeLimits {
    let lower = |a: u32, b: u32| match (a, b) {
        (0, set) | (set, 0) => set,
        (a, b) => a.min(b),
    };
    TimeLimits {
        plan: lower(one.plan, other.plan),
        apply: lower(one.apply, other.apply),
        approval: lower(one.approval, other.approval),
        silence: lower(one.silence, other.silence),
    }
}

/// A limit in words, such as `1 h 30 min`.
pub fn in_words(seconds: u32) -> String {
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let words: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}")).collect();
    if words.is_empty() { "0 s".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_one_holds_and_none_is_no_limit() {
        let limits = |plan, apply, approval, silence| TimeLimits { plan, apply, approval, silence };
        assert_eq!(lower(&limits(60, 0, 30, 0), &limits(30, 20, 0, 0)), limits(30, 20, 30, 0));
        assert_eq!(lower(&limits(30, 20, 0, 0), &limits(60, 0, 30, 0)), limits(30, 20, 30, 0));
    }

    #[test]
    fn words() {
        let table = [(0, "0 s"), (59, "59 s"), (60, "1 min"), (5400, "1 h 30 min"), (86_461, "1 d 1 min 1 s")];
        for (seconds, expected) in table {
            assert_eq!(in_words(seconds), expected);
        }
    }
}
