//! Whole jobs through this room, with the real worker and a real engine, and a control plane of the tests' own. Each supervisor
//! is a runtime of its own, so that one can die like a process does. Skipped, and said so, where worker or engine are not there.

mod crash;
mod credentials;
mod kept;
mod limits;
mod plane;
mod rules;
mod secrets;

use super::*;
use nix::sys::signal::Signal;
use plane::{Host, Known, Plane, job, wait_for};
use shared_proto::v1;
use shared_proto::v1::work_item::Kind;
use shared_proto::v1::{Approval, Cancel, Discard, JobKind, JobRelease, Recall};
use std::time::Duration;

const SMALL: &str =
    "resource \"terraform_data\" \"a\" { input = \"x\" }\noutput \"o\" { value = terraform_data.a.output }\n";
const SLOW: &str = "variable \"seconds\" { default = \"60\" }\nresource \"terraform_data\" \"first\" { input = \"done\" }\n\
    resource \"terraform_data\" \"slow\" {\n depends_on = [terraform_data.first]\n provisioner \"local-exec\" { command = \"echo sleeping; exec sleep ${var.seconds}\" }\n}\n";

fn signal(pid: i32, signal: Signal) {
    // one that has just ended is as good
    let _ = runner_sandbox::PidFd::open(pid).and_then(|process| process.signal(signal as i32));
}

fn approve(id: &str) -> Kind {
    Kind::Approval(Approval { job_id: id.into(), fencing_token: 1, by: "somebody".into(), ..Default::default() })
}
fn cancel(id: &str) -> Kind {
    Kind::Cancel(Cancel { job_id: id.into(), fencing_token: 1, by: "somebody".into(), force: false })
}
fn release(id: &str) -> Kind {
    Kind::Release(JobRelease { job_id: id.into(), fencing_token: 1 })
}

fn recall(id: &str, unknown: bool) -> Kind {
    Kind::Recall(Recall { job_id: id.into(), fencing_token: 1, unknown })
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
fn what_the_configuration_says_of_sources_counts_for_the_next_job() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let _supervisor = host.supervisor(&plane);
    let ended_as = |id: &str| {
        let mut request = job(&plane, id, JobKind::Preview, SMALL);
        let git = v1::GitSource { url: "file:///nonexistent/repository".into(), ..Default::default() };
        request.source = Some(v1::Source { kind: Some(v1::source::Kind::Git(git)), path: String::new() });
        plane.assign(request);
        wait_for("the end", || plane.result(id).is_some());
        plane.result(id).map(|result| result.code)
    };
    assert_eq!(ended_as("j1").as_deref(), Some("source_refused"));
    // read again while the runner goes on
    plane.update(|p| p.environment.insert("RUNNER_ALLOW_FILE_SOURCES".into(), "1".into()));
    assert_eq!(ended_as("j2").as_deref(), Some("source_unavailable"), "there is no such repository");
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

/// Flips a bit in the middle of a file.
fn flip(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).expect("reads");
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("writes");
}

/// What a job's folder is kept as.
fn kept_folder(host: &Host, id: &str) -> Option<std::path::PathBuf> {
    let beside = std::fs::read_dir(host.folder(id).parent().expect("a folder")).expect("reads");
    let name = format!(".damaged-{id}-");
    beside
        .flatten()
        .map(|entry| entry.path())
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&name)))
}

#[test]
fn a_job_whose_marker_is_damaged_is_known_by_the_copy_and_goes_on() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    in_mid_apply(&plane, &host, "j1", "3");
    drop(first);
    flip(&host.folder("j1").join("own/started-apply"));
    let _second = host.supervisor(&plane);
    wait_for("the end", || plane.result("j1").is_some());
    assert_eq!(plane.result("j1").map(|r| (r.phase, r.code)), Some(("applied".into(), "ok".into())));
    assert_eq!(plane.starts("j1"), (1, 1));
    plane.tell_when_open(release("j1"));
    wait_for("the release", || !host.folder("j1").exists());
    assert!(kept_folder(&host, "j1").is_some(), "somebody may look into it");
}

#[test]
fn a_job_whose_marker_and_copy_are_damaged_is_not_said_to_have_left_nothing() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    in_mid_apply(&plane, &host, "j1", "600");
    let worker = host.worker("j1", "started-apply").expect("a worker");
    drop(first);
    for file in ["own/started-apply", "own/started-apply.copy"] {
        flip(&host.folder("j1").join(file));
    }
    let _second = host.supervisor(&plane);
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("lost", "job_lost"));
    assert!(result.message.contains("still runs is not known"), "{}", result.message);
    assert!(!result.message.contains("nothing of it was left"), "{}", result.message);
    plane.tell_when_open(release("j1"));
    wait_for("the release", || !host.folder("j1").exists());
    assert!(kept_folder(&host, "j1").is_some_and(|kept| kept.join("work/events").exists()), "its engine works in it");
    for pid in runner_sandbox::sessions::members(worker) {
        signal(pid, Signal::SIGKILL);
    }
    wait_for("its end", || runner_sandbox::sessions::members(worker).is_empty());
}

#[test]
fn a_spool_that_is_damaged_is_kept_and_what_became_of_its_engine_is_told() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    in_mid_apply(&plane, &host, "j1", "600");
    drop(first);
    flip(&host.folder("j1").join("work/events"));
    let _second = host.supervisor(&plane);
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!(result.code, "spool_damaged", "{result:?}");
    assert!(result.message.contains("asked to stop, and did"), "{}", result.message);
    plane.tell_when_open(release("j1"));
    wait_for("the release", || !host.folder("j1").exists());
    assert!(kept_folder(&host, "j1").is_some_and(|kept| kept.join("work/events").exists()));
}

#[test]
fn jobs_that_were_let_go_are_nobodys_until_they_are_adopted() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    in_mid_apply(&plane, &host, "j1", "3");
    first.let_go();
    wait_for("the end of the worker", || host.ended("j1"));
    assert!(plane.result("j1").is_none(), "somebody spoke for it");
    first.adopt_again();
    wait_for("the end", || plane.result("j1").is_some());
    // and by another process, while the first one lives on
    first.let_go();
    let second = host.supervisor(&plane);
    plane.tell_when_open(release("j1"));
    wait_for("the release", || !host.folder("j1").exists());
    assert_eq!(plane.result("j1").map(|r| r.phase), Some("applied".into()));
    assert_eq!(plane.starts("j1"), (1, 1));
    drop(second);
}

#[test]
fn a_job_that_is_let_go_and_adopted_at_any_moment_ends_as_it_would() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let supervisor = host.supervisor(&plane);
    let mut request = job(&plane, "j1", JobKind::Update, SMALL);
    request.approve_automatically = true;
    plane.assign(request);
    wait_for("its folder", || host.folder("j1").exists());
    let mut times = 0;
    while plane.result("j1").is_none() {
        supervisor.let_go();
        supervisor.adopt_again();
        times += 1;
        // a little further each time
        std::thread::sleep(Duration::from_millis(times % 40));
    }
    println!("let go {times} times");
    assert_eq!(plane.result("j1").map(|r| (r.phase, r.code)), Some(("applied".into(), "ok".into())));
    assert_eq!(plane.starts("j1"), (1, 1), "no step is started twice");
}

#[test]
fn whoever_asks_as_the_jobs_are_let_go_of_gets_an_answer() {
    let Some(host) = Host::new() else { return };
    let supervisor = host.supervisor(&Plane::default());
    for _ in 0..500 {
        supervisor.asked_while_it_lets_go(Duration::from_secs(10));
        supervisor.adopt_again();
    }
}

#[test]
fn a_killed_worker_ends_its_job_and_the_state_is_written() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let supervisor = host.supervisor(&plane);
    in_mid_apply(&plane, &host, "j1", "600");
    let worker = host.worker("j1", "started-apply").expect("a worker");
    signal(Host::inner(worker), Signal::SIGKILL);
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("failed", "worker_crashed"), "{result:?}");
    assert!(result.nothing_left, "{result:?}");
    assert!(
        result.message.contains("SIGKILL") && result.message.contains("asked to stop, and did"),
        "{}",
        result.message
    );
    // nobody serves the stack's states any more: what the engine could not save there is kept beside them
    let rescued = std::fs::read_to_string(&result.rescued_state).expect("a state that was rescued");
    assert!(rescued.contains("\"first\""));
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
    signal(Host::inner(worker), Signal::SIGSTOP);
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
    // there is a state before
    let mut request = job(&plane, "j0", JobKind::Update, SMALL);
    request.approve_automatically = true;
    plane.assign(request);
    wait_for("the end", || plane.result("j0").is_some());
    plane.tell(release("j0"));
    wait_for("the release", || !host.folder("j0").exists());
    let serial = || serde_json::from_str::<serde_json::Value>(&host.state("s1")).expect("a state")["serial"].clone();
    let before = serial();
    in_mid_apply(&plane, &host, "j1", "600");
    let worker = host.worker("j1", "started-apply").expect("a worker");
    drop(first);
    for pid in runner_sandbox::sessions::members(worker) {
        signal(pid, Signal::SIGKILL);
    }
    wait_for("its end", || runner_sandbox::sessions::members(worker).is_empty());
    let lock = std::fs::read(host.stack("s1").join(shared_proto::states::LOCK)).expect("a lock is left");
    let lock: shared_proto::states::Held = serde_json::from_slice(&lock).expect("a lock");
    // what an engine writes there that cannot save its state
    std::fs::write(host.folder("j1").join("work/source/errored.tfstate"), r#"{"serial":9}"#).expect("writes");
    let _second = host.supervisor(&plane);
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("lost", "job_lost"));
    assert!(result.nothing_left, "{result:?}");
    let kept = host.stack("s1").join("errored-j1.tfstate");
    for part in [
        // the end of the resource of the state before is told before or after the beginning of the slow one
        "The last that it told of a resource: terraform_data.".to_owned(),
        "Begun, and not told to be done: terraform_data.".to_owned(),
        format!("serial was {before} before and is {} now", serial()),
        format!("has left the lock of the state (lock {})", lock.id()),
        format!("kept on the runner: {}", kept.display()),
    ] {
        assert!(result.message.contains(&part), "{part}: {}", result.message);
    }
    assert_eq!(result.rescued_state, kept.display().to_string());
    let told = result.lock.clone().expect("the lock that it has left");
    assert_eq!((told.id.as_str(), told.job.as_str(), told.holder_gone), (lock.id(), "j1", true));
    plane.tell_when_open(release("j1"));
    wait_for("the release", || !host.folder("j1").exists());
    assert_eq!(std::fs::read(&kept).expect("outlives the job"), br#"{"serial":9}"#);
    assert_eq!(plane.starts("j1"), (1, 1));
}

#[test]
fn a_process_of_a_containers_life_before_is_not_taken_for_a_living_one() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    in_mid_apply(&plane, &host, "j1", "600");
    let worker = host.worker("j1", "started-apply").expect("a worker");
    drop(first);
    // the number, the start time and the boot are those of a process that lives; only the life is another one
    let path = host.folder("j1").join("own/started-apply");
    let text = std::fs::read(&path).expect("reads");
    let mut marker: serde_json::Value = serde_json::from_slice(&text).expect("a marker");
    marker.as_object_mut().expect("an object").remove("crc32c");
    assert!(marker["process"]["container"].is_null(), "{marker}");
    marker["process"]["container"] = "another life".into();
    std::fs::write(&path, marker.to_string()).expect("writes");
    let _second = host.supervisor(&plane);
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("lost", "job_lost"), "{result:?}");
    assert!(result.message.contains("nothing of it was left running"), "{}", result.message);
    // whoever has that number now is a stranger, and was let alone
    let stranger = runner_sandbox::stat(Host::inner(worker)).expect("lives");
    assert!(!stranger.dead() && stranger.state != b'T');
    assert_eq!(plane.starts("j1"), (1, 1));
}

#[test]
fn jobs_that_are_stopped_are_asked_once_and_told_and_plans_that_wait_are_left() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    plane.assign(job(&plane, "j1", JobKind::Update, SMALL));
    wait_for("the plan", || plane.phase("j1") == "awaiting_approval");
    let mut request = job(&plane, "j2", JobKind::Update, SLOW);
    (request.stack_id, request.approve_automatically) = ("s2".into(), true);
    request.variables.insert("seconds".into(), "600".into());
    plane.assign(request);
    wait_for("the slow resource", || plane.text("j2").contains("sleeping"));
    // the control plane is away at first: they are waited for until it has all of them
    plane.update(|p| p.unreachable = true);
    std::thread::scope(|scope| {
        let stops = scope.spawn(|| first.stop());
        wait_for("the end of the worker", || host.ended("j2"));
        assert!(!stops.is_finished() && plane.result("j2").is_none());
        plane.update(|p| p.unreachable = false);
        stops.join().expect("stops");
    });
    let result = plane.result("j2").expect("told before the supervisor goes");
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("canceled", "cancelled"), "{result:?}");
    assert_eq!(plane.asked("j2"), ["the runner, because it is being stopped"], "asked once");
    assert!(host.state("s2").contains("\"first\""), "the state was saved");
    assert!(!host.stack("s2").join(shared_proto::states::LOCK).exists(), "no lock is left");
    // nothing new is taken, and an approval waits for the next supervisor
    let mut late = job(&plane, "j3", JobKind::Update, SMALL);
    late.stack_id = "s3".into();
    plane.assign(late);
    plane.tell(approve("j1"));
    first.stop();
    assert!(!host.folder("j3").exists());
    assert_eq!((plane.phase("j1").as_str(), plane.starts("j1")), ("awaiting_approval", (1, 0)));
    drop(first);
    let _second = host.supervisor(&plane);
    plane.tell_when_open(approve("j1"));
    wait_for("the end", || plane.result("j1").is_some());
    assert_eq!(plane.result("j1").map(|r| r.phase), Some("applied".into()));
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
fn a_step_whose_spawner_dies_as_it_is_started_is_started_by_the_next_one() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let _supervisor = host.supervisor(&plane);
    plane.update(|p| p.spawner_dies = 2);
    plane.assign(job(&plane, "j1", JobKind::Update, SMALL));
    wait_for("the plan", || plane.phase("j1") == "awaiting_approval");
    plane.update(|p| p.spawner_dies = 1);
    plane.tell(approve("j1"));
    wait_for("the end", || plane.result("j1").is_some());
    assert_eq!(plane.result("j1").map(|r| r.phase), Some("applied".into()));
    assert_eq!(plane.starts("j1"), (1, 1));

    // not for ever: it may be what kills each of them
    plane.update(|p| p.spawner_dies = usize::MAX);
    plane.assign(job(&plane, "j2", JobKind::Update, SMALL));
    wait_for("the end", || plane.result("j2").is_some());
    let ended = plane.result("j2").expect("it has ended");
    assert_eq!((ended.phase.as_str(), ended.code.as_str()), ("failed", "worker_crashed"));
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
    // what is here is from before another instance had the stack
    plane.assign_with(job(&plane, "j3", JobKind::Update, SMALL), "another");
    wait_for("the end", || plane.result("j3").is_some());
    let result = plane.result("j3").expect("a result");
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("failed", "state_elsewhere"), "{result:?}");
    assert!(result.message.contains("what this instance has of it is from before that"), "{}", result.message);
    plane.tell(release("j3"));
    wait_for("the release", || !host.folder("j3").exists());
    // unless somebody has put it there
    std::fs::write(host.stack("s1").join("terraform.tfstate"), host.state("s1")).expect("writes");
    plane.assign_with(job(&plane, "j4", JobKind::Update, SMALL), "another");
    wait_for("the end", || plane.result("j4").is_some());
    assert_eq!(plane.result("j4").map(|r| r.phase), Some("no_changes".into()));
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

#[test]
fn what_comes_before_a_damage_is_told_whoever_finds_it() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    in_mid_apply(&plane, &host, "j1", "600");
    let worker = host.worker("j1", "started-apply").expect("a worker");
    drop(first);
    for pid in runner_sandbox::sessions::members(worker) {
        signal(pid, Signal::SIGKILL);
    }
    wait_for("its end", || runner_sandbox::sessions::members(worker).is_empty());
    let mut events = std::fs::read(host.folder("j1").join("work/events")).expect("reads");
    let end = events.len() - 1;
    events[end] ^= 1;
    std::fs::write(host.folder("j1").join("work/events"), events).expect("writes");
    // one that has heard nothing of this job yet
    std::fs::remove_file(host.folder("j1").join("own/acknowledged")).expect("removes");
    plane.update(Known::forget);
    let _second = host.supervisor(&plane);
    wait_for("the end", || plane.result("j1").is_some());
    assert_eq!(plane.result("j1").map(|r| (r.phase, r.code)), Some(("failed".into(), "spool_damaged".into())));
    // the plan's own words: what the apply said may be the very record that was damaged
    assert!(plane.text("j1").contains("Plan: "), "{}", plane.text("j1"));
}

#[test]
fn a_spool_that_was_cut_after_it_was_read_keeps_no_job_from_its_end() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    plane.update(|p| p.unreachable = true);
    let supervisor = host.supervisor(&plane);
    let mut request = job(&plane, "j1", JobKind::Update, SLOW);
    request.approve_automatically = true;
    plane.assign(request);
    // nobody has taken any of it
    wait_for("events", || supervisor.summary().iter().any(|job| job.last_sequence >= 3));
    let worker = host.worker("j1", "started-plan").expect("a worker");
    for pid in runner_sandbox::sessions::members(worker) {
        signal(pid, Signal::SIGKILL);
    }
    let file = std::fs::OpenOptions::new().write(true).open(host.folder("j1").join("work/events")).expect("opens");
    file.set_len(8).expect("cuts");
    plane.update(|p| p.unreachable = false);
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("failed", "worker_crashed"), "{result:?}");
}

#[test]
fn what_an_older_copy_of_the_control_plane_lacks_is_told_again() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    plane.assign(job(&plane, "j1", JobKind::Update, SMALL));
    wait_for("the plan", || plane.phase("j1") == "awaiting_approval");
    let all = plane.text("j1");
    // nothing new will come by itself: it waits for its approval
    for kept in [0, 1, 3] {
        plane.restore("j1", Some(kept));
        plane.tell(recall("j1", false));
        wait_for("all of it again", || plane.text("j1") == all);
    }
    // a report whose first event is too new shows it as well
    plane.restore("j1", Some(2));
    plane.tell(approve("j1"));
    wait_for("the end", || plane.result("j1").is_some());
    let all = plane.text("j1");
    assert_eq!(plane.result("j1").map(|r| r.phase), Some("applied".into()));
    // and its result was taken already
    plane.restore("j1", Some(4));
    plane.tell(recall("j1", false));
    wait_for("the end again", || plane.text("j1") == all);
    drop(first);
    plane.restore("j1", Some(1));
    let _second = host.supervisor(&plane);
    wait_for("the end once more", || plane.text("j1") == all);
    assert_eq!(plane.starts("j1"), (1, 1), "no step is started twice");
    plane.tell_when_open(release("j1"));
    wait_for("the release", || !host.folder("j1").exists());
}

#[test]
fn a_job_that_an_older_copy_does_not_know_is_presented_and_goes_on() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let supervisor = host.supervisor(&plane);
    in_mid_apply(&plane, &host, "j1", "3");
    plane.restore("j1", None);
    wait_for("the end of the worker", || host.ended("j1"));
    // whoever does not know the job has not said that it is not wanted
    assert_eq!((plane.result("j1"), plane.presented().len()), (None, 0));
    plane.tell(Kind::Recall(Recall { job_id: "j1".into(), fencing_token: 2, unknown: true }));
    plane.tell(recall("j1", true));
    wait_for("the end", || plane.result("j1").is_some());
    assert_eq!(plane.result("j1").map(|r| r.phase), Some("applied".into()));
    assert_eq!(plane.starts("j1"), (1, 1), "no step is started twice");
    let presented = plane.presented();
    assert_eq!((presented.len(), presented[0].fencing_token, &presented[0].seal[..]), (1, 1, &b"seal"[..]));
    assert!(!presented[0].request.is_empty());
    plane.tell(release("j1"));
    wait_for("the release", || !host.folder("j1").exists());
    drop(supervisor);
}

#[test]
fn a_damaged_spool_is_told_again_as_far_as_it_goes() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let first = host.supervisor(&plane);
    plane.assign(job(&plane, "j1", JobKind::Update, SMALL));
    wait_for("the plan", || plane.phase("j1") == "awaiting_approval");
    drop(first);
    let path = host.folder("j1").join("work/events");
    let mut events = std::fs::read(&path).expect("reads");
    let end = events.len() - 1;
    events[end] ^= 1;
    std::fs::write(path, events).expect("writes");
    plane.restore("j1", Some(2));
    let _second = host.supervisor(&plane);
    wait_for("the end", || plane.result("j1").is_some());
    assert_eq!(plane.result("j1").map(|r| r.code), Some("spool_damaged".into()));
    // sent once more, it is the same: the next supervisor knows that it was taken
    let all = plane.text("j1");
    drop(_second);
    let _third = host.supervisor(&plane);
    plane.tell_when_open(release("j1"));
    wait_for("the release", || !host.folder("j1").exists());
    assert_eq!(plane.text("j1"), all);
}
