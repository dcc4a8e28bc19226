//! What takes longer than it may, with a real engine: it is asked to stop, and the job says which limit it was.

use super::*;
use shared_proto::v1::{JobResult, TimeLimits};

/// Of a job that is applied by itself and would take ten minutes: its result.
fn ended(host: &Host, limits: Option<TimeLimits>) -> JobResult {
    let plane = Plane::default();
    let _supervisor = host.supervisor(&plane);
    let mut request = job(&plane, "j1", JobKind::Update, SLOW);
    request.variables.insert("seconds".into(), "600".into());
    request.approve_automatically = true;
    request.limits = limits;
    plane.assign(request);
    wait_for("the end", || plane.result("j1").is_some());
    assert!(plane.text("j1").contains("sleeping"), "{}", plane.text("j1"));
    plane.result("j1").expect("a result")
}

#[test]
fn an_apply_that_takes_too_long_is_asked_to_stop_by_whichever_limit_is_lower() {
    let Some(mut host) = Host::new() else { return };
    host.limits = TimeLimits { apply: 4, silence: 3600, ..TimeLimits::default() };
    let result = ended(&host, Some(TimeLimits { apply: 600, plan: 600, ..TimeLimits::default() }));
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("failed", "time_limit"), "{result:?}");
    assert!(result.message.contains("the apply took longer than its limit of 4 s"), "{result:?}");
    // the engine's own end: it has written its state
    assert!(result.message.contains("the engine was asked, and stopped by itself"), "{result:?}");
}

#[test]
fn a_job_that_says_nothing_is_asked_to_stop() {
    let Some(host) = Host::new() else { return };
    // every ten seconds an engine says that it still waits
    let result = ended(&host, Some(TimeLimits { silence: 4, apply: 600, ..TimeLimits::default() }));
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("failed", "time_limit"), "{result:?}");
    assert!(result.message.contains("nothing was said for the limit of 4 s"), "{result:?}");
}

#[test]
fn a_plan_that_nobody_approves_in_time_is_discarded_also_while_nobody_was_there() {
    let Some(mut host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    plane.assign(job(&plane, "j1", JobKind::Update, SMALL));
    wait_for("the plan", || plane.phase("j1") == "awaiting_approval");
    assert!(plane.result("j1").is_none());
    drop(first);
    // one that begins to mind
    host.limits = TimeLimits { approval: 1, ..TimeLimits::default() };
    let _second = host.supervisor(&plane);
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("discarded", "plan_expired"), "{result:?}");
    assert!(result.message.contains("for the limit of 1 s"), "{result:?}");
}
