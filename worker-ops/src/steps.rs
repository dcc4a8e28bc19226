//! What was tried on the way to a target, for whoever tests a connection.

use shared_proto::documents::{Identity, Step};
use shared_proto::v1;

use crate::fault::Fault;

/// What went well so far, in its order.
pub(crate) struct Steps(Vec<Step>);

// === impl Steps ===

impl Steps {
    /// Those before a worker had the target.
    pub(crate) fn after(before: Vec<v1::Step>) -> Self {
        let step = |s: v1::Step| Step { name: s.name, ok: s.ok, detail: s.detail, next_step: s.next_step };
        Self(before.into_iter().map(step).collect())
    }
    /// One more went well.
    pub(crate) fn ok(&mut self, name: &str, detail: impl Into<String>) {
        self.0.push(Step { name: name.to_owned(), ok: true, detail: detail.into(), next_step: String::new() });
    }
    /// The failure of the test, which says at which step it is.
    pub(crate) fn failed(&self, name: &str, mut fault: Fault) -> Fault {
        let before: Vec<_> = self.0.iter().map(|step| format!("{} ({})", step.name, step.detail)).collect();
        let before = if before.is_empty() { String::new() } else { format!("; before it: {}", before.join(", ")) };
        fault.failure.message = crate::fault::words(&format!("step {name}: {}{before}", fault.failure.message));
        fault
    }
    /// The last two: an endpoint was asked who the credentials are.
    pub(crate) fn identified(
        &mut self,
        endpoint: impl Into<String>,
        told: Result<Identity, Fault>,
    ) -> Result<Identity, Fault> {
        match told {
            Ok(identity) => {
                self.ok("endpoint", endpoint);
                self.ok("identity", identity.principal.clone());
                Ok(identity)
            }
            // it did not say it: it was not reached, or it was and refuses
            Err(fault) if fault.status == 0 => Err(self.failed("endpoint", fault)),
            Err(fault) => {
                self.ok("endpoint", endpoint);
                Err(self.failed("identity", fault))
            }
        }
    }
    /// All of them.
    pub(crate) fn into_inner(self) -> Vec<Step> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::failure::Code;

    #[test]
    fn a_failure_says_at_which_step_it_is_and_what_came_before() {
        let before = v1::Step { name: "credentials".into(), ok: true, detail: "a file".into(), ..Default::default() };
        let mut steps = Steps::after(vec![before]);
        let fault = || Fault::new(Code::TargetUnreachable, "no way").said(503, "Busy").next("Wait.");
        let failed = Steps::after(Vec::new()).failed("endpoint", fault());
        assert_eq!(failed.failure.message, "step endpoint: no way");
        steps.ok("endpoint", "x:443");
        let failed = steps.failed("identity", fault());
        assert_eq!(failed.failure.message, "step identity: no way; before it: credentials (a file), endpoint (x:443)");
        assert_eq!((failed.code(), failed.status, &*failed.failure.next_step), (Code::TargetUnreachable, 503, "Wait."));
        assert_eq!(steps.into_inner().len(), 2);
    }
}
