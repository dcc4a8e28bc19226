//! Which guarantees hold for workers on this machine. So far every worker gets the same: what the spawner does to each.

use crate::config::Isolation;
use shared_proto::failure::{Code, Failure};

/// What holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarantees {
    /// The name for it.
    pub level: Isolation,
    /// What does not.
    pub missing: Vec<&'static str>,
}

/// What is not enforced for workers.
const MISSING: &[&str] = &[
    "credentials_unreadable",
    "neighbours_unreadable",
    "files_unreachable",
    "addresses_enforced",
    "memory_bounded",
    "processes_bounded",
];

impl Guarantees {
    /// What holds here: no new privileges, limits, a clean environment, closed descriptors, an own session.
    pub fn here() -> Self {
        Self { level: Isolation::Minimal, missing: MISSING.to_vec() }
    }

    /// Whether that is what the configuration requires.
    ///
    /// # Errors
    /// `isolation_too_weak`.
    pub fn suffice(&self, require: Isolation) -> Result<(), Failure> {
        if self.level >= require {
            return Ok(());
        }
        Err(Code::IsolationTooWeak.on(format!(
            "isolation.require is {}, workers get {}; missing: {}",
            require.as_str(),
            self.level.as_str(),
            self.missing.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_floor_above_what_there_is_refuses_to_start() {
        let here = Guarantees::here();
        assert_eq!(here.suffice(Isolation::Minimal), Ok(()));
        for floor in [Isolation::Confined, Isolation::Namespaces] {
            assert_eq!(here.suffice(floor).map_err(|f| f.code), Err(Code::IsolationTooWeak));
        }
    }
}
