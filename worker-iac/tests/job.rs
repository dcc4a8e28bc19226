//! Whole jobs with the real engines. Each test runs with every engine that is here, and says which one is not.

mod common;

use common::{Job, bodies, engines, events, follow, outputs, phases, result, session_of, tell};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared_proto::v1::event::Body;
use shared_proto::v1::{Event, JobKind, job_notice};
use std::os::unix::fs::PermissionsExt as _;

const SMALL: &str = r#"
variable "text" { default = "none" }
variable "list" {
  type    = list(number)
  default = []
}
resource "terraform_data" "a" {
  input = var.text
}
resource "terraform_data" "b" {
  count            = length(var.list)
  triggers_replace = var.list[count.index]
  provisioner "local-exec" { command = "echo provisioned; env | grep -c ^TF_CLI_ARGS || true; sleep 0.1" }
}
output "text" { value = terraform_data.a.output }
output "hidden" {
  value     = "a-sensitive-output"
  sensitive = true
}
"#;

/// Creates one resource that takes as long as its variable says, and one after it.
const SLOW: &str = r#"
variable "seconds" { default = "60" }
resource "terraform_data" "first" { input = "done" }
resource "terraform_data" "slow" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" { command = "echo sleeping; exec sleep ${var.seconds}" }
}
"#;

fn started(address: &str) -> impl Fn(&Body) -> bool {
    move |body| matches!(body, Body::ResourceProgress(p) if p.address == address && p.text.contains("sleeping"))
}

#[test]
fn plan_apply_change_nothing_refresh_outputs_destroy() {
    for engine in engines() {
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", SMALL)]);
        job.request().variables = [("text", "abc"), ("list", "[1, 2]")].map(|(k, v)| (k.into(), v.into())).into();
        let planned = job.run("plan");
        assert_eq!(phases(&planned), ["preparing", "planning", "planned", "awaiting_approval"]);
        let plan = bodies(&planned)
            .find_map(|b| match b {
                Body::PlanSaved(plan) => Some(plan.clone()),
                _ => None,
            })
            .expect("a plan");
        assert!(plan.has_changes && plan.text.contains("Plan: 3 to add, 0 to change, 0 to destroy."), "{}", plan.text);
        assert!(bodies(&planned).any(|b| matches!(b, Body::ChangeSummary(s) if s.add == 3 && s.operation == "plan"
            && s.text == "Plan: 3 to add, 0 to change, 0 to destroy.")));
        assert!(bodies(&planned).any(
            |b| matches!(b, Body::PlannedChange(c) if c.address == "terraform_data.b[1]" && c.action == "create")
        ));
        assert!(!job.work().join("tmp").exists(), "what was temporary is gone");

        job.start.plan_sha256 = plan.sha256;
        let applied = job.run("apply");
        assert_eq!(result(&applied).phase, "applied", "{applied:#?}");
        assert_eq!(applied[..planned.len()], planned[..], "what was written stays as it was");
        assert!(bodies(&applied).any(|b| matches!(b, Body::ResourceProgress(p)
            if p.address == "terraform_data.b[0]" && p.action == "create" && p.state == "complete" && !p.id.is_empty())));
        assert!(
            bodies(&applied).any(|b| matches!(b, Body::ResourceProgress(p)
            if p.action == "provision:local-exec" && p.text.ends_with(": 0"))),
            "TF_CLI_ARGS does not come through"
        );
        assert_eq!(outputs(&applied)["text"]["value"], "abc");
        assert_eq!(outputs(&applied)["hidden"]["sensitive"], true);
        assert!(!format!("{applied:?}").contains("a-sensitive-output"));
        assert_eq!(job.state()["resources"].as_array().map(Vec::len), Some(2));

        let again = job.again(JobKind::Update).run("plan");
        assert_eq!((result(&again).phase.as_str(), result(&again).code.as_str()), ("no_changes", "ok"));
        let preview = job.again(JobKind::Preview).run("plan");
        assert_eq!(result(&preview).phase, "no_changes");
        let mut preview = job.again(JobKind::Preview);
        preview.request().variables.insert("text".into(), "xyz".into());
        let preview = preview.run("plan");
        assert_eq!(result(&preview).phase, "planned");
        let refresh = job.again(JobKind::Refresh).run("plan");
        assert_eq!(result(&refresh).phase, "no_changes");
        let read = job.again(JobKind::Outputs).run("plan");
        assert_eq!(outputs(&read)["text"]["value"], "abc");

        let destroy = job.again(JobKind::Destroy);
        destroy.run("plan");
        let destroyed = destroy.run("apply");
        assert_eq!(result(&destroyed).phase, "applied");
        assert!(
            bodies(&destroyed).any(|b| matches!(b, Body::ChangeSummary(s) if s.operation != "plan" && s.remove == 3))
        );
        assert_eq!(job.state()["resources"].as_array().map(Vec::len), Some(0));
    }
}

#[test]
fn what_fails_says_why() {
    for engine in engines() {
        let broken = "resource \"terraform_data\" \"a\" {\n  input = var.missing\n}\n";
        let ended = Job::new(&engine, JobKind::Update, &[("main.tf", broken)]).run("plan");
        let failed = result(&ended);
        assert_eq!((failed.phase.as_str(), failed.code.as_str()), ("failed", "engine_failed"), "{failed:?}");
        assert_eq!(failed.engine_exit_code, Some(1));
        assert!(failed.message.contains("Reference to undeclared input variable"), "{}", failed.message);
        assert!(bodies(&ended).any(|b| matches!(b, Body::Diagnostic(d) if d.file == "main.tf" && d.line == 2)));

        let syntax = Job::new(&engine, JobKind::Update, &[("main.tf", "resource {")]).run("plan");
        assert_eq!(result(&syntax).code, "engine_failed");

        let failing = "resource \"terraform_data\" \"a\" {\n provisioner \"local-exec\" { command = \"exit 3\" }\n}\n";
        let job = Job::new(&engine, JobKind::Update, &[("main.tf", failing)]);
        job.run("plan");
        let ended = job.run("apply");
        assert_eq!(result(&ended).code, "engine_failed");
        assert!(bodies(&ended).any(|b| matches!(b, Body::ResourceProgress(p) if p.state == "failed")));

        let mut missing = Job::new(&engine, JobKind::Update, &[("main.tf", SMALL)]);
        if let Some(program) = &mut missing.start.engine {
            program.path = "/nowhere/engine".into();
        }
        assert_eq!(result(&missing.run("plan")).code, "engine_missing");
        let mut elsewhere = Job::new(&engine, JobKind::Update, &[("a/main.tf", SMALL)]);
        assert_eq!(result(&elsewhere.run("plan")).code, "source_refused");
        if let Some(source) = &mut elsewhere.request().source {
            source.path = "a".into();
        }
        std::fs::remove_dir_all(elsewhere.work()).expect("removes");
        std::fs::create_dir(elsewhere.work()).expect("a folder");
        assert_eq!(phases(&elsewhere.run("plan")).last(), Some(&"awaiting_approval"));
    }
}

#[test]
fn only_the_plan_that_was_approved_is_applied() {
    for engine in engines() {
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", SMALL)]);
        job.run("plan");
        job.start.plan_sha256 = "0".repeat(64);
        assert_eq!(result(&job.run("apply")).code, "plan_stale");

        let job = Job::new(&engine, JobKind::Update, &[("main.tf", SMALL)]);
        job.run("plan");
        std::fs::write(job.work().join("data/plan.bin"), "another").expect("writes");
        assert_eq!(result(&job.run("apply")).code, "plan_stale");

        let job = Job::new(&engine, JobKind::Update, &[("main.tf", SMALL)]);
        job.run("plan");
        let other = job.again(JobKind::Update);
        other.run("plan");
        assert_eq!(result(&other.run("apply")).phase, "applied");
        assert_eq!(result(&job.run("apply")).code, "plan_stale", "the state has moved on");
    }
}

#[test]
fn a_cancel_asks_once_and_the_state_is_written() {
    for engine in engines() {
        // a shell between worker and engine that counts the signals: it gets what the engine gets
        let job = Job::new(&engine, JobKind::Update, &[("main.tf", SLOW)]);
        job.run("plan");
        let mut counted = Job { folder: job.folder, engine: engine.clone(), start: job.start };
        let wrapper = counted.folder.path().join("wrapper");
        let script = format!(
            "#!/bin/sh\ntrap 'echo INT >> {0}/signals; kill -INT $child' INT\n{1} \"$@\" &\nchild=$!\nwait $child\ncode=$?\nwhile kill -0 $child 2>/dev/null; do wait $child; code=$?; done\nexit $code\n",
            counted.folder.path().display(),
            engine.path
        );
        std::fs::write(&wrapper, script).expect("writes");
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).expect("sets");
        if let Some(program) = &mut counted.start.engine {
            program.path = wrapper.display().to_string();
        }
        let mut running = counted.begin("apply");
        running.until("slow resource", started("terraform_data.slow"));
        let mut control = running.control();
        for _ in 0..3 {
            control.cancel("somebody", false);
        }
        running.signal(Signal::SIGTERM);
        assert!(running.wait().success());
        let ended = events(&counted.work());
        let end = result(&ended);
        assert_eq!((end.phase.as_str(), end.code.as_str()), ("canceled", "cancelled"), "{end:?}");
        assert!(end.message.contains("asked"), "{}", end.message);
        assert_eq!(bodies(&ended).filter(|b| matches!(b, Body::CancelProgress(c) if c.step == "asked")).count(), 1);
        assert!(!bodies(&ended).any(|b| matches!(b, Body::CancelProgress(c) if c.step == "forced")));
        let signals = std::fs::read_to_string(counted.folder.path().join("signals")).expect("signals");
        assert_eq!(signals, "INT\n");
        let state = counted.state();
        let names: Vec<_> =
            state["resources"].as_array().expect("resources").iter().map(|r| r["name"].clone()).collect();
        assert!(names.contains(&"first".into()), "{state}");
        assert!(session_of(i32::try_from(running.child.id()).expect("a pid")).is_empty(), "nothing is left");
    }
}

#[test]
fn what_does_not_stop_is_forced_and_that_is_said() {
    for engine in engines() {
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", SMALL)]);
        let stubborn = job.folder.path().join("stubborn");
        std::fs::write(&stubborn, "#!/bin/sh\ntrap '' INT\necho '{\"type\":\"ready\"}'\nsleep 600 & wait\nwait\n")
            .expect("writes");
        std::fs::set_permissions(&stubborn, std::fs::Permissions::from_mode(0o755)).expect("sets");
        if let Some(program) = &mut job.start.engine {
            program.path = stubborn.display().to_string();
        }
        job.request().cancel_grace_seconds = 1;
        let mut running = job.begin("plan");
        running.until("engine", |b| matches!(b, Body::EngineMessage(m) if m.r#type == "ready"));
        running.control().cancel("somebody", false);
        assert!(running.wait().success());
        let ended = events(&job.work());
        let end = result(&ended);
        assert_eq!((end.phase.as_str(), end.engine_signal.as_str()), ("canceled", "SIGKILL"), "{end:?}");
        assert!(end.message.contains("force") && !end.message.contains("lock"), "{}", end.message);
        let steps: Vec<_> = bodies(&ended)
            .filter_map(|b| match b {
                Body::CancelProgress(c) => Some(c.step.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(steps, ["asked", "forced"]);
        assert!(session_of(i32::try_from(running.child.id()).expect("a pid")).is_empty(), "nothing is left");
    }
}

/// An engine that fails so often before it does what it is told.
fn failing(job: &mut Job, command: &str, times: u32, error: &str) {
    let wrapper = job.folder.path().join("wrapper");
    let counter = job.folder.path().join("work/data/failed");
    let said = format!(
        "{{\"@level\":\"error\",\"@message\":\"Error: {error}\",\"type\":\"diagnostic\",\"diagnostic\":{{\"severity\":\"error\",\"summary\":\"{error}\",\"detail\":\"\"}}}}"
    );
    if let Some(program) = &mut job.start.engine {
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = {command} ] && [ \"$(wc -l <{counter:?} 2>/dev/null || echo 0)\" -lt {times} ]; then\n\
             echo x >>{counter:?}; echo '{said}'; exit 1\nfi\nexec {:?} \"$@\"\n",
            program.path
        );
        std::fs::write(&wrapper, script).expect("writes");
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).expect("sets");
        program.path = wrapper.display().to_string();
    }
}

#[test]
fn what_passes_is_tried_again_at_the_plan_and_only_there() {
    for engine in engines() {
        let passes = "operation error S3: StatusCode: 503, SlowDown";
        let notes = |ended: &[Event]| {
            bodies(ended)
                .filter(|b| matches!(b, Body::OutputLine(l) if l.text.contains("it is tried again in 5 s, 1 of 1")))
                .count()
        };
        for (command, error, retries, phase, noted) in [
            ("init", passes, 1, "awaiting_approval", 1),
            ("plan", passes, 1, "awaiting_approval", 1),
            ("plan", passes, 0, "failed", 0),
            ("plan", "Invalid function argument", 1, "failed", 0),
        ] {
            let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", SMALL)]);
            job.start.plan_retries = retries;
            failing(&mut job, command, 1, error);
            assert!(job.begin("plan").wait().success());
            let ended = events(&job.work());
            let last = bodies(&ended)
                .filter_map(|b| match b {
                    Body::PhaseChanged(p) => Some(p.phase.as_str()),
                    Body::Result(r) => Some(r.phase.as_str()),
                    _ => None,
                })
                .last();
            assert_eq!((last, notes(&ended)), (Some(phase), noted), "{command} {error} {retries}");
        }
        // what an apply has done before it failed nobody knows
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", SMALL)]);
        job.start.plan_retries = 1;
        failing(&mut job, "apply", 1, passes);
        assert!(job.begin("plan").wait().success());
        assert!(job.begin("apply").wait().success());
        let ended = events(&job.work());
        assert_eq!((result(&ended).phase.as_str(), notes(&ended)), ("failed", 0));
    }
}

#[test]
fn pings_are_answered_and_new_events_are_told_under_any_path() {
    for engine in engines() {
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", SMALL)]);
        // deeper than a socket's address is long
        let deep = job.folder.path().join("d".repeat(150));
        std::fs::create_dir_all(deep.join("work")).expect("a folder");
        let inner = tempfile::TempDir::new_in(&deep).expect("a folder");
        std::fs::create_dir_all(inner.path().join("work")).expect("a folder");
        let outer = std::mem::replace(&mut job.folder, inner);
        let mut running = job.begin("plan");
        let mut control = running.control();
        control.ping(7);
        let (mut pong, mut told, mut ended) = (false, 0, None);
        while let Some(notice) = control.hear() {
            match notice {
                job_notice::Kind::Pong(p) => pong |= p.nonce == 7,
                job_notice::Kind::Appended(n) => {
                    assert!(n >= told);
                    told = n;
                }
                job_notice::Kind::StepEnded(step) => ended = Some(step),
                job_notice::Kind::Waits(_) => panic!("it was told what to do"),
            }
        }
        assert!(running.wait().success());
        assert_eq!((pong, told, ended.as_deref()), (true, events(&job.work()).len() as u64, Some("plan")));
        drop(running);
        drop(job);
        drop(outer);
    }
}

#[test]
fn a_killed_worker_leaves_a_readable_spool_and_an_engine_that_finishes() {
    for engine in engines() {
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", SLOW)]);
        job.request().variables.insert("seconds".into(), "1".into());
        job.run("plan");
        let mut running = job.begin("apply");
        running.until("slow resource", started("terraform_data.slow"));
        // the first process before it could see the other one's end
        let worker = running.worker(None);
        running.signal(Signal::SIGKILL);
        kill(Pid::from_raw(worker), Signal::SIGKILL).expect("signals");
        let status = running.child.wait().expect("waits");
        assert!(!status.success());
        let before = events(&job.work());
        assert!(!matches!(before.last().and_then(|e| e.body.as_ref()), Some(Body::Result(_))));
        // the engine goes on by itself: its output is a file, and where nobody takes its state any more that is one too
        let session = i32::try_from(running.child.id()).expect("a pid");
        let end = std::time::Instant::now() + common::LONG;
        while !session_of(session).is_empty() {
            assert!(std::time::Instant::now() < end, "the engine does not end");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let errored = std::fs::read(job.work().join("source/errored.tfstate")).expect("a state");
        let errored: serde_json::Value = serde_json::from_slice(&errored).expect("JSON");
        assert_eq!(errored["resources"].as_array().map(Vec::len), Some(2));
        // nobody goes on without it: its lock is there, and says whose it was
        let end = result(&job.again(JobKind::Preview).run("plan"));
        assert_eq!((end.code.as_str(), end.lock.map(|lock| lock.job).as_deref()), ("state_locked", Some("j1")));
    }
}

/// Says a hundred numbers, in so many seconds.
const TALKS: &str = r#"
resource "terraform_data" "first" { input = "done" }
resource "terraform_data" "talks" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" { command = "for i in $(seq 100 199); do echo says $i.; sleep 0.04; done" }
}
output "first" { value = terraform_data.first.output }
"#;

#[test]
fn workers_that_die_are_followed_and_the_job_ends_as_its_engine_does() {
    for engine in engines() {
        let job = Job::new(&engine, JobKind::Update, &[("main.tf", TALKS)]);
        job.run("plan");
        let mut running = job.begin_followed("apply");
        let mut worker = running.worker(None);
        for says in ["says 100.", "says 125.", "says 150."] {
            running.until(says, |b| matches!(b, Body::ResourceProgress(p) if p.text.contains(says)));
            worker = follow(&running, &job, "apply", worker);
        }
        assert!(running.wait().success());
        let ended = events(&job.work());
        assert_eq!(result(&ended).phase, "applied", "{ended:#?}");
        let said: Vec<_> = bodies(&ended)
            .filter_map(|b| match b {
                Body::ResourceProgress(p) => {
                    Some(p.text.split("says ").nth(1)?.split('.').next()?.parse::<u32>().ok()?)
                }
                _ => None,
            })
            .collect();
        assert_eq!(said, (100..200).collect::<Vec<_>>(), "each once and in order");
        let summaries =
            bodies(&ended).filter(|b| matches!(b, Body::ChangeSummary(s) if s.operation == "apply")).count();
        let applies = bodies(&ended).filter(|b| matches!(b, Body::EngineStarted(e) if e.command == "apply")).count();
        assert_eq!((summaries, applies), (1, 1));
        assert_eq!(outputs(&ended)["first"]["value"], "done");
        let notes =
            bodies(&ended).filter(|b| matches!(b, Body::OutputLine(l) if l.text.contains("another one goes on")));
        assert_eq!(notes.count(), 3);
        let job = job.again(JobKind::Destroy);
        job.run("plan");
        assert_eq!(result(&job.run("apply")).phase, "applied");
    }
}

/// It dies before its engine has said another word: where its output was read to is known all the same.
#[test]
fn a_worker_that_dies_as_it_takes_over_costs_no_event_and_doubles_none() {
    for engine in engines() {
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", SLOW)]);
        job.request().variables.insert("seconds".into(), "1".into());
        job.run("plan");
        let mut running = job.begin_followed("apply");
        running.until("slow resource", started("terraform_data.slow"));
        let engine = running.engine();
        kill(engine, Signal::SIGSTOP).expect("signals");
        let goes_on = |worker: i32| {
            let notes = |events: &[Event]| {
                bodies(events)
                    .filter(|b| matches!(b, Body::OutputLine(l) if l.text.contains("another one goes on")))
                    .count()
            };
            let before = notes(&events(&job.work()));
            let next = follow(&running, &job, "apply", worker);
            let end = std::time::Instant::now() + common::LONG;
            while notes(&events(&job.work())) == before {
                assert!(std::time::Instant::now() < end, "it does not go on");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            next
        };
        let worker = goes_on(running.worker(None));
        goes_on(worker);
        kill(engine, Signal::SIGCONT).expect("signals");
        assert!(running.wait().success());
        let ended = events(&job.work());
        assert_eq!(result(&ended).phase, "applied", "{ended:#?}");
        let mut done: Vec<_> = bodies(&ended)
            .filter_map(|b| match b {
                Body::ResourceProgress(p) if ["started", "complete"].contains(&p.state.as_str()) => {
                    Some(format!("{} {} {}", p.address, p.action, p.state))
                }
                _ => None,
            })
            .collect();
        let all = done.len();
        done.sort();
        done.dedup();
        assert!(all > 3 && done.len() == all, "{ended:#?}");
    }
}

/// What a process has taken of the processor, clock ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("lives");
    let fields: Vec<_> = text.rsplit(')').next().expect("fields").split_whitespace().collect();
    [11, 12].map(|at: usize| fields[at].parse::<u64>().expect("a number")).iter().sum()
}

/// Its engine has ended, and nobody tells the next worker to go on: nobody of the first one's is left who could connect.
#[test]
fn a_first_process_that_waits_for_a_supervisor_takes_no_processor() {
    for engine in engines() {
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", SLOW)]);
        job.request().variables.insert("seconds".into(), "600".into());
        job.run("plan");
        let mut running = job.begin_followed("apply");
        running.until("slow resource", started("terraform_data.slow"));
        let (worker, engine) = (running.worker(None), running.engine());
        kill(Pid::from_raw(worker), Signal::SIGKILL).expect("signals");
        running.worker(Some(worker));
        kill(engine, Signal::SIGKILL).expect("signals");
        running.until_true("end of the engine", || kill(engine, None).is_err());
        let before = ticks(running.child.id());
        // what is measured is what it takes in this time
        std::thread::sleep(std::time::Duration::from_secs(1));
        let took = ticks(running.child.id()) - before;
        assert!(took < 5, "{took} ticks of a hundred");
        tell(&running, &job, "apply");
        assert!(running.wait().success());
        let end = result(&events(&job.work()));
        assert_eq!((end.phase.as_str(), end.engine_signal.as_str()), ("failed", "SIGKILL"), "{end:?}");
        let note = std::fs::read(std::path::Path::new(&job.start.state_directory).join(shared_proto::states::LOCK))
            .expect("a lock");
        let held: shared_proto::states::Held = serde_json::from_slice(&note).expect("a lock");
        let what = format!("left the lock of the state (lock {})", held.id());
        assert!(end.message.contains(&what) && end.message.contains("state unlock STACK"), "{end:?}");
    }
}

#[test]
fn a_worker_that_follows_asks_nobody_a_second_time() {
    for engine in engines() {
        let job = Job::new(&engine, JobKind::Update, &[("main.tf", SLOW)]);
        job.run("plan");
        let mut running = job.begin_followed("apply");
        let worker = running.worker(None);
        running.until("slow resource", started("terraform_data.slow"));
        // asked, and not ended before there is another worker
        let engine = running.engine();
        kill(engine, Signal::SIGSTOP).expect("signals");
        running.control().cancel("somebody", false);
        running.until("the cancel", |b| matches!(b, Body::CancelProgress(_)));
        follow(&running, &job, "apply", worker);
        kill(engine, Signal::SIGCONT).expect("signals");
        assert!(running.wait().success());
        let ended = events(&job.work());
        let end = result(&ended);
        assert_eq!((end.phase.as_str(), end.engine_exit_code), ("canceled", Some(1)), "{ended:#?}");
        assert_eq!(bodies(&ended).filter(|b| matches!(b, Body::CancelProgress(_))).count(), 1);
        assert_eq!(job.state()["resources"][0]["name"], "first");
    }
}

/// A process that hardly gets a processor: between any two things that it does there is time to kill it.
struct Starved(std::process::Child);

impl Starved {
    fn begin(pid: i32) -> Self {
        // where it may not be, it is killed within microseconds all the same
        let run = |program: &str, arguments: &[&str]| {
            let null = std::process::Stdio::null;
            let _ = std::process::Command::new(program).args(arguments).stdout(null()).stderr(null()).status();
        };
        let pid = pid.to_string();
        let child = std::process::Command::new("chrt")
            .args(["-f", "1", "taskset", "-c", "0", "sh", "-c", "while :; do :; done"])
            .spawn();
        let starved = Self(child.expect("starts"));
        run("taskset", &["-a", "-c", "-p", "0", &pid]);
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("lives").flatten();
        for thread in threads {
            run("renice", &["-n", "19", "-p", &thread.file_name().to_string_lossy()]);
        }
        starved
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// It is killed the moment that the spool has that somebody wants the end: before or behind whatever it does about that.
#[test]
fn a_worker_that_dies_as_it_asks_has_its_engine_asked_once() {
    for engine in engines() {
        // whoever looks too late finds the job at its end: that was no hit
        let (mut hits, mut tries) = (0, 0);
        while hits < 3 {
            tries += 1;
            assert!(tries <= 60, "{hits} hits");
            let job = Job::new(&engine, JobKind::Update, &[("main.tf", SLOW)]);
            job.run("plan");
            let mut running = job.begin_followed("apply");
            let worker = running.worker(None);
            running.until("slow resource", started("terraform_data.slow"));
            let starved = Starved::begin(worker);
            running.control().cancel("somebody", false);
            running.at_once("the cancel", |b| matches!(b, Body::CancelProgress(_)));
            let killed = kill(Pid::from_raw(worker), Signal::SIGKILL).is_ok();
            drop(starved);
            let over = bodies(&events(&job.work())).any(|b| matches!(b, Body::Result(_)));
            if killed && !over {
                hits += 1;
                follow(&running, &job, "apply", worker);
            }
            assert!(running.wait().success() || over);
            let ended = events(&job.work());
            let end = result(&ended);
            assert_eq!((end.phase.as_str(), end.engine_exit_code), ("canceled", Some(1)), "{ended:#?}");
            assert_eq!(bodies(&ended).filter(|b| matches!(b, Body::CancelProgress(_))).count(), 1);
            assert!(!format!("{ended:?}").contains("Two interrupts"), "{ended:#?}");
            assert_eq!(job.state()["resources"][0]["name"], "first");
        }
    }
}

/// It is killed once it has noted how its engine ended: nobody else could say that any more.
#[test]
fn a_worker_that_dies_behind_its_engine_has_said_how_that_ended() {
    for engine in engines() {
        let (mut hits, mut tries) = (0, 0);
        while hits < 2 {
            tries += 1;
            assert!(tries <= 60, "{hits} hits");
            let job = Job::new(&engine, JobKind::Update, &[("main.tf", SLOW)]);
            job.run("plan");
            let mut running = job.begin_followed("apply");
            let worker = running.worker(None);
            running.until("slow resource", started("terraform_data.slow"));
            let starved = Starved::begin(worker);
            running.control().cancel("somebody", false);
            running.until_true("the engine's end", || {
                std::fs::metadata(job.work().join("reaped")).is_ok_and(|m| m.len() > 0)
            });
            let killed = kill(Pid::from_raw(worker), Signal::SIGKILL).is_ok();
            drop(starved);
            let over = bodies(&events(&job.work())).any(|b| matches!(b, Body::Result(_)));
            if killed && !over {
                hits += 1;
                follow(&running, &job, "apply", worker);
            }
            assert!(running.wait().success() || over);
            let ended = events(&job.work());
            let end = result(&ended);
            assert_eq!((end.phase.as_str(), end.engine_exit_code), ("canceled", Some(1)), "{ended:#?}");
        }
    }
}

#[test]
fn a_worker_that_dies_before_anything_matters_is_not_followed() {
    for engine in engines() {
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", SMALL)]);
        job.request().variables.insert("text".into(), "abc".into());
        let mut running = job.begin_followed("plan");
        let worker = running.worker(None);
        running.until("init", |b| matches!(b, Body::EngineStarted(e) if e.command == "init"));
        kill(Pid::from_raw(worker), Signal::SIGKILL).expect("signals");
        // the first process tells how, and the supervisor ends the job
        assert_eq!(running.wait().code(), Some(128 + Signal::SIGKILL as i32));
        assert!(!events(&job.work()).iter().any(|e| matches!(e.body, Some(Body::Result(_)))));
    }
}

#[test]
fn secrets_are_in_no_event() {
    for engine in engines() {
        let text = "variable \"secret\" { sensitive = true }\nresource \"terraform_data\" \"a\" {\n input = nonsensitive(var.secret)\n provisioner \"local-exec\" { command = \"echo ${nonsensitive(var.secret)}; cat $KUBECONFIG; env\" }\n}\n";
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", text)]);
        job.request().variables.insert("secret".into(), "hunter2-hunter2".into());
        let kubernetes = shared_proto::v1::KubernetesTarget {
            server: "https://127.0.0.1:1".into(),
            token: "a-token-of-the-cluster".into(),
            ..Default::default()
        };
        let kind = Some(shared_proto::v1::target::Kind::Kubernetes(kubernetes));
        let target = Some(shared_proto::v1::Target { kind });
        job.start.targets.push(shared_proto::v1::JobTarget { connection: "prod".into(), target, ..Default::default() });
        job.run("plan");
        let ended = job.run("apply");
        assert_eq!(result(&ended).phase, "applied", "{ended:#?}");
        let shown = format!("{ended:?}");
        assert!(shown.contains("[redacted]") && shown.contains("https://127.0.0.1:1"));
        assert!(!shown.contains("hunter2") && !shown.contains("a-token-of-the-cluster"));
        assert!(!job.work().join("tmp").exists());
    }
}

#[test]
fn a_state_that_another_instance_has_is_not_made_anew() {
    for engine in engines() {
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", SMALL)]);
        job.start.state_instance = "another".into();
        // the supervisor does not know the version
        job.start.engine.as_mut().expect("an engine").version.clear();
        let ended = job.run("plan");
        assert_eq!(result(&ended).code, "state_elsewhere");
        assert!(!bodies(&ended).any(|b| matches!(b, Body::EngineStarted(e) if e.command == "plan")));
        let mut job = job.again(JobKind::Update);
        std::fs::create_dir_all(&job.start.state_directory).expect("a folder");
        let plain = std::path::Path::new(&job.start.state_directory).join("terraform.tfstate");
        std::fs::write(&plain, r#"{"version":4,"serial":3,"lineage":"l","resources":[],"outputs":{}}"#)
            .expect("writes");
        job.start.state_instance = "another".into();
        let planned = job.run("plan");
        assert_eq!(phases(&planned).last(), Some(&"awaiting_approval"), "what is here goes on: {planned:#?}");
        assert_eq!(result(&job.run("apply")).phase, "applied");
        // what an older runner had left is the first version, and kept
        assert_eq!((job.versions(), job.version(1).0.serial, job.version(2).0.serial), (vec![1, 2], Some(3), Some(4)));
        assert!(!plain.exists() && plain.with_extension("tfstate.imported").is_file());
    }
}

#[test]
fn a_backend_of_the_configuration_is_kept_and_a_local_one_is_moved() {
    for engine in engines() {
        let local = format!("terraform {{\n backend \"local\" {{ path = \"in-the-copy.tfstate\" }}\n}}\n{SMALL}");
        let job = Job::new(&engine, JobKind::Update, &[("main.tf", &local)]);
        job.run("plan");
        assert_eq!(result(&job.run("apply")).phase, "applied");
        assert_eq!(job.state()["resources"].as_array().map(Vec::len), Some(1));

        let other = "terraform {\n backend \"http\" { address = \"http://127.0.0.1:1/\" }\n}\n";
        let ended = Job::new(&engine, JobKind::Update, &[("main.tf", other)]).run("plan");
        assert_eq!(result(&ended).code, "engine_failed", "it is the configuration's backend that is asked");

        // one with a backend is not refused, whoever did its last job
        let kept = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let address = common::keep_states(std::sync::Arc::clone(&kept));
        let other = format!("terraform {{\n backend \"http\" {{ address = \"http://{address}/\" }}\n}}\n{SMALL}");
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", &other)]);
        job.start.state_instance = "another".into();
        job.run_here("plan");
        let applied = job.run_here("apply");
        assert_eq!(result(&applied).phase, "applied", "{applied:#?}");
        assert!(String::from_utf8_lossy(&kept.lock().expect("whole")).contains("terraform_data"));
    }
}
