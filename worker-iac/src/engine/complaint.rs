//! What a command complains of while it runs, and what its exit means by that.

use super::dialect::Dialect;
use super::{lock, passing};
use crate::stop::{Exit, Stop};
use shared_proto::failure::Code;
use shared_proto::v1::StateLock;
use shared_proto::v1::event::Body;

/// What is said of a command's end.
#[derive(Debug, Default)]
pub(super) struct Complaint {
    /// The first error, in the engine's own words.
    first: Option<String>,
    stale: bool,
    /// It could not have the lock of the state.
    lock: Option<StateLock>,
    disk_full: bool,
    /// It planned a change.
    planned: bool,
    /// It said what it has applied, which comes last.
    applied: bool,
    /// Errors, and those of them that pass by themselves.
    errors: usize,
    passing: usize,
}

// === impl Complaint ===

impl Complaint {
    /// Takes what was said.
    pub(super) fn hear(&mut self, body: &Body, dialect: &dyn Dialect) {
        // that there is one may be said before whose it is
        if self.lock.as_ref().is_none_or(|lock| lock.id.is_empty()) {
            self.lock = dialect.lock(body).or(self.lock.take());
        }
        match body {
            Body::Diagnostic(d) if d.severity == "error" => {
                self.errors += 1;
                self.passing += usize::from(passing::is(&d.summary, &d.detail));
                self.stale |= dialect.stale(&d.summary);
                self.disk_full |=
                    d.detail.contains("no space left on device") || d.summary.contains("no space left on device");
                let place = if d.address.is_empty() { String::new() } else { format!(" ({})", d.address) };
                // of this one the summary alone says nothing
                let why =
                    if lock::is_about(&d.summary) { format!(": {}", first_line(&d.detail)) } else { String::new() };
                self.first.get_or_insert_with(|| format!("{}{place}{why}", d.summary));
            }
            Body::PlannedChange(change) => self.planned |= change.reason != "drift",
            Body::ChangeSummary(summary) => self.applied |= summary.operation == "apply",
            Body::OutputLine(line) => {
                self.disk_full |= line.text.contains("no space left on device");
                let words = line.text.trim_start_matches(['│', '╷', ' ']);
                if words.starts_with("Error: ") || words.starts_with("error: ") {
                    self.errors += 1;
                    self.passing += usize::from(passing::is(words, ""));
                    self.first.get_or_insert_with(|| words.chars().take(500).collect());
                }
            }
            _ => {}
        }
    }

    /// Whether all that it failed of passes by itself: the first error, in its words.
    pub(super) fn passes(&self) -> Option<&str> {
        let first = self.first.as_deref()?;
        (self.passing == self.errors && self.lock.is_none() && !self.stale && !self.disk_full).then_some(first)
    }

    /// Judges an exit. Whether it is that of a plan that has changes.
    ///
    /// # Errors
    /// It is none of a command that has done what it was to do.
    pub(super) fn judge(self, command: &str, dialect: &dyn Dialect, exit: Exit) -> Result<bool, Stop> {
        let changes = dialect.planned_changes().map(Exit::Code);
        if command == "plan" && changes == Some(exit) {
            return Ok(true);
        }
        if exit == Exit::Code(0) {
            return Ok(changes.is_none() && self.planned);
        }
        // its last word is as good, where nobody saw how it ended
        if exit == Exit::Unknown && self.applied && self.first.is_none() {
            return Ok(false);
        }
        let said = self.first.map(|first| format!(": {first}")).unwrap_or_default();
        let message = format!("{} {command} ended with {}{said}", dialect.name(), exit.describe());
        if let Some(lock) = self.lock {
            let holder = if lock.who.is_empty() { "somebody".to_owned() } else { lock.who.clone() };
            let since = if lock.created.is_empty() { String::new() } else { format!(" since {}", lock.created) };
            let id = if lock.id.is_empty() { String::new() } else { format!(" (lock {})", lock.id) };
            let failure = Code::StateLocked.on(format!("the state is locked by {holder}{since}{id}"));
            return Err(Stop::Locked(failure, Box::new(lock), Some(exit)));
        }
        let code = match (self.stale, self.disk_full) {
            (true, _) => Code::PlanStale,
            (_, true) => Code::DiskFull,
            _ => Code::EngineFailed,
        };
        Err(Stop::Failed(code.on(message), Some(exit)))
    }
}

/// The first line of a diagnostic's detail that says something, without the words that it begins with.
fn first_line(detail: &str) -> String {
    let lines = detail.lines().map(|line| line.trim().trim_start_matches("Error message: ").trim_start_matches("* "));
    // of several a heading says how many
    let mut lines = lines.filter(|line| !line.is_empty() && !line.ends_with("errors occurred:"));
    lines.next().unwrap_or_default().chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::super::pulumi::PULUMI;
    use super::super::terraform::TERRAFORM;
    use super::*;
    use shared_proto::v1::{Diagnostic, PlannedChange};

    #[test]
    fn an_exit_is_judged_by_what_was_said() {
        let heard = |summary: &str| {
            let mut complaint = Complaint::default();
            let (summary, detail) = summary.split_once('|').unwrap_or((summary, ""));
            let (severity, summary, detail) = ("error".into(), summary.into(), detail.into());
            let diagnostic = Diagnostic { severity, summary, detail, ..Default::default() };
            complaint.hear(&Body::Diagnostic(diagnostic), &TERRAFORM);
            complaint
        };
        assert_eq!(
            first_line("Error message: 2 errors occurred:\n\t* operation error S3: 403\n\t* x\n"),
            "operation error S3: 403"
        );
        assert_eq!(first_line(""), "");
        // a backend that fails is no lock, and says why
        let refused =
            heard("Error acquiring the state lock|\nError message: invalid auth\n\nOpenTofu acquires a state lock");
        let Err(Stop::Failed(failure, _)) = refused.judge("plan", &TERRAFORM, Exit::Code(1)) else {
            panic!("no failure")
        };
        assert_eq!(failure.code, Code::EngineFailed);
        assert!(failure.message.ends_with("exit code 1: Error acquiring the state lock: invalid auth"), "{failure}");
        for (summary, exit, command, expected) in [
            ("", Exit::Code(0), "apply", None),
            ("", Exit::Code(2), "plan", None),
            ("", Exit::Code(2), "apply", Some(Code::EngineFailed)),
            ("Saved plan is stale", Exit::Code(1), "apply", Some(Code::PlanStale)),
            ("write x: no space left on device", Exit::Code(1), "apply", Some(Code::DiskFull)),
            ("x", Exit::Signal(9), "plan", Some(Code::EngineFailed)),
        ] {
            let judged = heard(summary).judge(command, &TERRAFORM, exit);
            let code = judged.err().map(|stop| match stop {
                Stop::Failed(failure, Some(found)) if found == exit => failure.code,
                other => panic!("{other:?}"),
            });
            assert_eq!(code, expected, "{summary} {exit:?}");
        }
        let violates = "resource urn:pulumi:dev::shop::t::n violates plan: properties changed: ++content";
        let stop = {
            let mut complaint = Complaint::default();
            let said = Diagnostic { severity: "error".into(), summary: violates.into(), ..Default::default() };
            complaint.hear(&Body::Diagnostic(said), &PULUMI);
            complaint.judge("apply", &PULUMI, Exit::Code(1)).expect_err("stale")
        };
        assert!(matches!(stop, Stop::Failed(failure, _) if failure.code == Code::PlanStale));
    }

    #[test]
    fn a_plan_has_changes_by_its_exit_or_by_what_it_planned() {
        let planned = |dialect: &dyn Dialect, reason: &str, exit: i32| {
            let mut complaint = Complaint::default();
            let change = PlannedChange { reason: reason.into(), ..Default::default() };
            complaint.hear(&Body::PlannedChange(change), dialect);
            complaint.judge("plan", dialect, Exit::Code(exit)).expect("a plan")
        };
        for (reason, exit, expected) in [("drift", 0, false), ("", 0, false), ("", 2, true)] {
            assert_eq!(planned(&TERRAFORM, reason, exit), expected, "{reason} {exit}");
        }
        assert!(planned(&PULUMI, "outputs", 0));
        assert!(!Complaint::default().judge("plan", &PULUMI, Exit::Code(0)).expect("a plan"));
    }
}
