//! The names for how a worker is isolated, as runners say them.

/// Of a worker, weakest first.
const LEVELS: [&str; 3] = ["minimal", "confined", "namespaces"];

/// The level of that name; a runner may say anything.
pub(crate) fn level(name: &str) -> Option<&'static str> {
    LEVELS.into_iter().find(|level| *level == name)
}

/// The weaker of a known level and another.
pub(crate) fn weaker(known: Option<&str>, other: &'static str) -> &'static str {
    known.and_then(level).into_iter().chain([other]).min_by_key(|l| LEVELS.iter().position(|k| k == l)).unwrap_or(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_several_workers_is_the_weakest() {
        assert_eq!((level("confined"), level("Confined"), level("")), (Some("confined"), None, None));
        for (known, other, weakest) in [
            (None, "namespaces", "namespaces"),
            (Some("confined"), "namespaces", "confined"),
            (Some("namespaces"), "minimal", "minimal"),
            (Some("nonsense"), "confined", "confined"),
        ] {
            assert_eq!(weaker(known, other), weakest);
        }
    }
}
