//! Whole jobs through this room, with the real worker and a real engine, and a control plane of the tests' own. Each supervisor
//! is a runtime of its own, so that one can die like a process does. Skipped, and said so, where worker or engine are not there.

mod plane;

use super::*;
use plane::{Host, Plane, job, wait_for};
use shared_proto::v1::work_item::Kind;
use shared_proto::v1::{Approval, Cancel, Discard, JobKind, JobRelease};
use std::time::Duration;

const SMALL: &str =
    "resource \"terraform_data\" \"a\" { input = \"x\" }\noutput \"o\" { value = terraform_data.a.output }\n";
const SLOW: &str = "variable \"seconds\" { default = \"60\" }\nresource \"terraform_data\" \"first\" { input = \"done\" }\n\
    resource \"terraform_data\" \"slow\" {\n depends_on = [terraform_data.first]\n provisioner \"local-exec\" { command = \"echo sleeping; exec sleep ${var.seconds}\" }\n}\n";

fn approve(id: &str) -> Kind {
    Kind::Approval(Approval { job_id: id.into(), fencing_token: 1, by: "somebody".into(), plan_sha256: String::new() })
}
fn cancel(id: &str) -> Kind {
    Kind::Cancel(Cancel { job_id: id.into(), fencing_token: 1, by: "somebody".into(), force: false })
}
fn release(id: &str) -> Kind {
    Kind::Release(JobRelease { job_id: id.into(), fencing_token: 1 })
}

/// A job in mid-apply.
fn in_mid_apply(plane: &Plane, host: &Host, id: &str, seconds: &str) {
    let mut request = job(plane, id, JobKind::Update, SLOW);
    request.variables.insert("seconds".into(), seconds.into());
    request.approve_automatically = true;
    plane.assign(request);
    wait_for("the slow resource", || plane.text(id).contains("sleeping"));
    assert!(host.worker(id, "started-apply").is_some());
}

#[test]
fn a_job_from_its_assignment_to_its_release() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    // the archive's stream breaks once, and every second report's answer is lost
    plane.update(|p| (p.cut_source_after, p.lose_replies) = (Some(100), true));
    let supervisor = host.supervisor(&plane);
    let mut request = job(&plane, "j1", JobKind::Update, SMALL);
    request.connections = vec!["prod".into()];
    plane.assign(request);
    wait_for("the plan", || plane.phase("j1") == "awaiting_approval");
    assert!(plane.text("j1").contains("Plan: 1 to add"));
    let summary = supervisor.summary();
    assert_eq!(
        (summary.len(), summary[0].phase.as_str(), summary[0].kind.as_str()),
        (1, "awaiting_approval", "update")
    );
    plane.tell(approve("j1"));
    wait_for("the end", || plane.result("j1").is_some());
    assert_eq!(plane.result("j1").map(|r| (r.phase, r.code)), Some(("applied".into(), "ok".into())));
    assert!(host.state("s1").contains("terraform_data"));
    plane.tell(release("j1"));
    wait_for("the release", || !host.folder("j1").exists());
    wait_for("nothing held", || supervisor.summary().is_empty());
    assert_eq!(plane.starts("j1"), (1, 1));
}

#[test]
fn a_supervisor_that_dies_is_followed_by_one_that_goes_on() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    in_mid_apply(&plane, &host, "j1", "3");
    let before = host.worker("j1", "started-apply").expect("a worker");
    drop(first);
    // the control plane is away as well while the job goes on
    plane.update(|p| p.unreachable = true);
    let second = host.supervisor(&plane);
    assert_eq!(host.worker("j1", "started-apply"), Some(before));
    wait_for("the end of the worker", || host.ended("j1"));
    plane.update(|p| p.unreachable = false);
    wait_for("the end", || plane.result("j1").is_some());
    assert_eq!(plane.result("j1").map(|r| r.phase), Some("applied".into()));
    assert_eq!(plane.starts("j1"), (1, 1), "no step is started twice");
    assert!(plane.held().iter().any(|h| h.job_id == "j1"));
    // and once more, with everything done
    drop(second);
    let _third = host.supervisor(&plane);
    plane.tell_when_open(release("j1"));
    wait_for("the release", || !host.folder("j1").exists());
}

#[test]
fn a_killed_worker_ends_its_job_and_the_state_is_written() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let supervisor = host.supervisor(&plane);
    in_mid_apply(&plane, &host, "j1", "600");
    let worker = host.worker("j1", "started-apply").expect("a worker");
    ending::signal(Host::inner(worker), nix::sys::signal::Signal::SIGKILL);
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("failed", "worker_crashed"), "{result:?}");
    assert!(
        result.message.contains("SIGKILL") && result.message.contains("asked to stop, and did"),
        "{}",
        result.message
    );
    assert!(host.state("s1").contains("\"first\""));
    assert!(runner_sandbox::sessions::members(worker).is_empty(), "nothing is left");
    drop(supervisor);
}

#[test]
fn a_worker_that_stands_still_is_ended() {
    let Some(mut host) = Host::new() else { return };
    host.silence_max = Duration::from_secs(6);
    let plane = Plane::default();
    let _supervisor = host.supervisor(&plane);
    in_mid_apply(&plane, &host, "j1", "600");
    let worker = host.worker("j1", "started-apply").expect("a worker");
    ending::signal(Host::inner(worker), nix::sys::signal::Signal::SIGSTOP);
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!(result.code, "worker_crashed");
    assert!(result.message.contains("did not answer"), "{}", result.message);
    assert!(runner_sandbox::sessions::members(worker).is_empty(), "nothing is left");
}

#[test]
fn a_worker_that_died_while_nobody_looked_is_lost_and_not_started_again() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    in_mid_apply(&plane, &host, "j1", "600");
    let worker = host.worker("j1", "started-apply").expect("a worker");
    drop(first);
    for pid in runner_sandbox::sessions::members(worker) {
        ending::signal(pid, nix::sys::signal::Signal::SIGKILL);
    }
    wait_for("its end", || runner_sandbox::sessions::members(worker).is_empty());
    let _second = host.supervisor(&plane);
    wait_for("the end", || plane.result("j1").is_some());
    assert_eq!(plane.result("j1").map(|r| (r.phase, r.code)), Some(("lost".into(), "job_lost".into())));
    assert_eq!(plane.starts("j1"), (1, 1));
}

#[test]
fn a_step_that_was_marked_and_never_told_what_to_do_is_started_by_the_next_supervisor() {
    for (id, step) in [("j1", "started-plan"), ("j2", "started-apply")] {
        let Some(host) = Host::new() else { return };
        let plane = Plane::default();
        let first = host.supervisor(&plane);
        if step == "started-plan" {
            plane.update(|p| p.no_worker = true);
        }
        plane.assign(job(&plane, id, JobKind::Update, SMALL));
        if step == "started-apply" {
            wait_for("the plan", || plane.phase(id) == "awaiting_approval");
            plane.update(|p| p.no_worker = true);
            plane.tell(approve(id));
        }
        wait_for("the marker", || host.folder(id).join("own").join(step).exists());
        drop(first);
        assert!(host.worker(id, step).is_none(), "no process was noted");
        plane.update(|p| p.no_worker = false);
        let _second = host.supervisor(&plane);
        plane.tell_when_open(approve(id));
        wait_for("the end", || plane.result(id).is_some());
        let phase = plane.result(id).map(|r| r.phase);
        assert!(matches!(phase.as_deref(), Some("applied" | "no_changes")), "{phase:?}");
        assert_eq!(plane.starts(id).0, 1, "no step is started twice");
    }
}

#[test]
fn cancelled_and_discarded_jobs() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let _supervisor = host.supervisor(&plane);
    for (id, decision, phase) in [
        ("j1", cancel("j1"), "canceled"),
        ("j2", Kind::Discard(Discard { job_id: "j2".into(), fencing_token: 1, by: "somebody".into() }), "discarded"),
    ] {
        plane.assign(job(&plane, id, JobKind::Update, SMALL));
        wait_for("the plan", || plane.phase(id) == "awaiting_approval");
        // under another fencing token nothing is believed
        plane.tell(Kind::Approval(Approval { job_id: id.into(), fencing_token: 9, ..Default::default() }));
        plane.tell(decision);
        wait_for("the end", || plane.result(id).is_some());
        assert_eq!(plane.result(id).map(|r| r.phase), Some(phase.into()));
        plane.tell(release(id));
        wait_for("the release", || !host.folder(id).exists());
        assert_eq!(plane.starts(id), (1, 0));
    }
    in_mid_apply(&plane, &host, "j3", "600");
    plane.tell(cancel("j3"));
    wait_for("the end", || plane.result("j3").is_some());
    assert_eq!(plane.result("j3").map(|r| (r.phase, r.code)), Some(("canceled".into(), "cancelled".into())));
    assert!(host.state("s1").contains("\"first\""));
}

#[test]
fn what_cannot_be_run_ends_before_a_worker_starts() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let _supervisor = host.supervisor(&plane);
    let mut unknown = job(&plane, "j1", JobKind::Update, SMALL);
    unknown.connections = vec!["nobody".into()];
    let mut engine = job(&plane, "j2", JobKind::Update, SMALL);
    engine.engine = "pulumi".into();
    let mut archive = job(&plane, "j3", JobKind::Update, SMALL);
    archive.source = Some(plane::archive_source("0", 1));
    for (id, request, code) in
        [("j1", unknown, "unknown_connection"), ("j2", engine, "engine_missing"), ("j3", archive, "source_unavailable")]
    {
        plane.assign(request);
        wait_for("the end", || plane.result(id).is_some());
        assert_eq!(plane.result(id).map(|r| (r.phase, r.code)), Some(("failed".into(), code.into())));
        assert_eq!(host.worker(id, "started-plan"), None);
        plane.tell(release(id));
        wait_for("the release", || !host.folder(id).exists());
    }
    plane.update(|p| p.refuse_accept = true);
    plane.assign(job(&plane, "j4", JobKind::Update, SMALL));
    wait_for("the refusal", || plane.refused() == 1);
    wait_for("the folder", || !host.folder("j4").exists());
}

#[test]
fn a_state_on_another_instance_is_not_made_anew() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    plane.assign_with(job(&plane, "j1", JobKind::Update, SMALL), "an-instance-that-is-gone");
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("failed", "state_elsewhere"), "{result:?}");
    assert!(result.message.contains("an-instance-that-is-gone"), "{}", result.message);
    assert_eq!(plane.starts("j1"), (0, 0), "nothing is planned");
    assert_eq!(host.state("s1"), "");
    plane.tell(release("j1"));
    wait_for("the release", || !host.folder("j1").exists());
    // this instance is none other
    plane.assign_with(job(&plane, "j2", JobKind::Update, SMALL), "i1");
    wait_for("the plan", || plane.phase("j2") == "awaiting_approval");
    // another supervisor knows it from the folder
    drop(first);
    let text = std::fs::read_to_string(host.folder("j2").join("own/assignment.json")).expect("reads");
    assert!(text.contains("\"state_instance\":\"i1\""), "{text}");
    let _second = host.supervisor(&plane);
    plane.tell_when_open(approve("j2"));
    wait_for("the end", || plane.result("j2").is_some());
    assert_eq!(plane.result("j2").map(|r| r.phase), Some("applied".into()));
    plane.tell(release("j2"));
    wait_for("the release", || !host.folder("j2").exists());
    // a state that is here goes on, whatever is said of another
    plane.assign_with(job(&plane, "j3", JobKind::Update, SMALL), "another");
    wait_for("the end", || plane.result("j3").is_some());
    assert_eq!(plane.result("j3").map(|r| r.phase), Some("no_changes".into()));
}

#[test]
fn damaged_folders_are_told_and_keep_nobody_waiting() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    for (id, stack) in [("j1", "s1"), ("j2", "s2"), ("j3", "s3"), ("j4", "s4")] {
        let mut request = job(&plane, id, JobKind::Update, SMALL);
        request.stack_id = stack.into();
        plane.assign(request);
        wait_for("the plan", || plane.phase(id) == "awaiting_approval");
    }
    drop(first);
    std::fs::write(host.folder("j1").join("own/request.bin"), "changed").expect("writes");
    std::fs::write(host.folder("j2").join("own/assignment.json"), "{").expect("writes");
    // the worker's part is anybody's who ran in the job
    let mut events = std::fs::read(host.folder("j3").join("work/events")).expect("reads");
    let end = events.len() - 1;
    events[end] ^= 1;
    std::fs::write(host.folder("j3").join("work/events"), events).expect("writes");
    let _second = host.supervisor(&plane);
    for id in ["j1", "j3"] {
        wait_for("the end", || plane.result(id).is_some());
        assert_eq!(
            plane.result(id).map(|r| (r.phase, r.code)),
            Some(("failed".into(), "spool_damaged".into())),
            "{id}"
        );
    }
    assert!(!host.folder("j2").exists());
    plane.tell_when_open(approve("j4"));
    wait_for("the end", || plane.result("j4").is_some());
    assert_eq!(plane.result("j4").map(|r| r.phase), Some("applied".into()));
}
