//! Jobs about a part of their stack, with the real engines: targets, replacements, workspaces, imports, what a state holds, its lock.

mod common;

use common::{Job, bodies, engines, keep_states_and_answer, outputs, phases, result};
use serde_json::json;
use shared_proto::states::Held;
use shared_proto::v1::event::Body;
use shared_proto::v1::{Event, ImportedResource, JobKind, StateResource};
use std::path::Path;

const PARTS: &str = r#"
variable "secret" { 
  default   = "a-sensitive-input"
  sensitive = true
}
resource "terraform_data" "a" { input = "one" }
resource "terraform_data" "b" { input = { plain = "two", hidden = var.secret } }
module "m" { source = "./m" }
output "workspace" { value = terraform.workspace }
"#;
const MODULE: &str = r#"resource "terraform_data" "c" { 
  count = 2
  input = count.index 
}"#;

fn parts(engine: &shared_proto::v1::EngineProgram) -> Job {
    Job::new(engine, JobKind::Update, &[("main.tf", PARTS), ("m/main.tf", MODULE)])
}
fn applied(job: &Job) -> Vec<Event> {
    job.run("plan");
    let events = job.run("apply");
    assert_eq!(result(&events).phase, "applied", "{events:#?}");
    events
}
fn planned(events: &[Event]) -> Vec<(String, String)> {
    bodies(events)
        .filter_map(|body| match body {
            Body::PlannedChange(change) => Some((change.address.clone(), change.action.clone())),
            _ => None,
        })
        .collect()
}
fn resources(events: &[Event]) -> Vec<StateResource> {
    bodies(events)
        .filter_map(|body| match body {
            Body::StateResource(resource) => Some(resource.clone()),
            _ => None,
        })
        .collect()
}
fn addresses(job: &Job, targets: &[&str]) -> Vec<String> {
    let mut job = job.again(JobKind::State);
    job.request().targets = targets.iter().map(|t| (*t).to_owned()).collect();
    let events = job.run("plan");
    assert_eq!(result(&events).phase, "no_changes", "{events:#?}");
    resources(&events).into_iter().map(|resource| resource.address).collect()
}

#[test]
fn a_job_changes_what_it_names_alone() {
    for engine in engines() {
        let mut job = parts(&engine);
        job.request().targets = vec!["module.m".into(), "terraform_data.a".into()];
        applied(&job);
        let here = ["terraform_data.a", "module.m.terraform_data.c[0]", "module.m.terraform_data.c[1]"];
        assert_eq!(addresses(&job, &[]), here);

        let mut job = job.again(JobKind::Update);
        job.request().replace = vec!["terraform_data.a".into()];
        let events = job.run("plan");
        let mut changes = planned(&events);
        changes.sort();
        let expected = [("terraform_data.a", "replace"), ("terraform_data.b", "create")];
        assert_eq!(changes, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        job.run("apply");

        let mut destroy = job.again(JobKind::Destroy);
        destroy.request().targets = vec!["module.m.terraform_data.c[1]".into()];
        applied(&destroy);
        let here = ["terraform_data.a", "terraform_data.b", "module.m.terraform_data.c[0]"];
        assert_eq!(addresses(&job, &[]), here);
    }
}

#[test]
fn a_state_tells_what_it_holds_and_nothing_sensitive() {
    for engine in engines() {
        let job = parts(&engine);
        applied(&job);
        assert_eq!(addresses(&job, &["module.m"]).len(), 2);
        let mut read = job.again(JobKind::State);
        read.request().targets = vec!["terraform_data.b".into()];
        let events = read.run("plan");
        let found = resources(&events);
        assert!(found.len() == 1 && !found[0].id.is_empty() && found[0].r#type == "terraform_data", "{found:?}");
        // terraform_data marks its whole input where a part of it is sensitive
        assert!(found[0].attributes.contains("(sensitive)"), "{found:?}");
        assert!(!format!("{events:?}").contains("a-sensitive-input"), "{events:#?}");
        // names alone, where nothing is named
        assert!(resources(&job.again(JobKind::State).run("plan")).iter().all(|r| r.attributes.is_empty()));

        let mut none = job.again(JobKind::State);
        none.request().targets = vec!["terraform_data.z".into()];
        let end = result(&none.run("plan"));
        assert_eq!((end.phase.as_str(), end.code.as_str()), ("failed", "not_found"), "{end:?}");
    }
}

#[test]
fn a_workspace_has_a_state_of_its_own() {
    for engine in engines() {
        let mut job = parts(&engine);
        let first = applied(&job);
        assert_eq!(outputs(&first)["workspace"]["value"], "default");
        job.request().workspace = "blue".into();
        let mut blue = job.again(JobKind::Update);
        blue.request().workspace = "blue".into();
        let events = applied(&blue);
        assert_eq!(outputs(&events)["workspace"]["value"], "blue", "{events:#?}");
        let state = Path::new(&job.start.state_directory);
        assert!(state.join("workspaces/blue/terraform.tfstate").is_file() && job.versions() == [1]);
        let mut versions = blue.again(JobKind::Versions);
        versions.request().workspace = "blue".into();
        assert_eq!(result(&versions.run("plan")).code, "conflict", "the store has none of it");
        // it is there the next time
        let mut again = blue.again(JobKind::Preview);
        again.request().workspace = "blue".into();
        assert_eq!(result(&again.run("plan")).phase, "no_changes");
        assert_eq!(result(&blue.again(JobKind::Preview).run("plan")).phase, "no_changes", "the default one");
    }
}

#[test]
fn an_import_is_planned_approved_and_applied() {
    for engine in engines() {
        let mut job = parts(&engine);
        job.request().kind = JobKind::Import.into();
        let id = "not-${a}-template";
        job.request().imports = vec![ImportedResource { address: "terraform_data.a".into(), id: id.into() }];
        let events = job.run("plan");
        assert_eq!(phases(&events), ["preparing", "planning", "planned", "awaiting_approval"], "{events:#?}");
        assert!(planned(&events).iter().all(|(address, _)| address == "terraform_data.a"), "{events:#?}");
        let imports = |operation: &str, events: &[Event]| {
            bodies(events).any(|b| matches!(b, Body::ChangeSummary(s) if s.operation == operation && s.import == 1))
        };
        assert!(imports("plan", &events), "{events:#?}");
        let events = job.run("apply");
        assert!(result(&events).phase == "applied" && imports("apply", &events), "{events:#?}");
        let mut read = job.again(JobKind::State);
        read.request().targets = vec!["terraform_data.a".into()];
        let found = resources(&read.run("plan"));
        assert!(found.len() == 1 && found[0].id == id, "{found:?}");

        // what the configuration does not have cannot be taken in
        let mut job = job.again(JobKind::Import);
        job.request().imports = vec![ImportedResource { address: "terraform_data.none".into(), id: "x".into() }];
        let end = result(&job.run("plan"));
        assert_eq!((end.phase.as_str(), end.code.as_str()), ("failed", "engine_failed"), "{end:?}");
    }
}

#[test]
fn a_lock_is_removed_by_its_id_and_by_no_other() {
    for engine in engines() {
        let made = parts(&engine);
        applied(&made);
        let unlock = |id: &str| {
            let mut job = made.again(JobKind::Unlock);
            job.request().lock_id = id.into();
            job.request().reason = "the host is gone".into();
            job.run("plan")
        };
        assert_eq!(result(&unlock("some-id")).code, "conflict", "there is none");
        // an engine that was killed has left it
        let held = Held { info: json!({ "ID": "some-id", "Who": "x@y" }), job: "j0".into(), ..Held::default() };
        let note = Path::new(&made.start.state_directory).join(shared_proto::states::LOCK);
        std::fs::write(&note, serde_json::to_vec(&held).expect("JSON")).expect("writes");
        // what is to have it is told so at once; what only reads goes on
        let end = result(&made.again(JobKind::Preview).run("plan"));
        assert_eq!((end.phase.as_str(), end.code.as_str()), ("failed", "state_locked"), "{end:?}");
        assert!(end.next_step.contains("state unlock STACK some-id"), "{end:?}");
        let lock = end.lock.expect("a lock");
        assert_eq!((lock.id.as_str(), lock.job.as_str(), lock.holder_gone), ("some-id", "j0", true));
        assert_eq!(result(&made.again(JobKind::Outputs).run("plan")).phase, "no_changes");

        let end = result(&unlock("another-id"));
        assert_eq!((end.phase.as_str(), end.code.as_str()), ("failed", "conflict"), "{end:?}");
        assert!(note.exists() && end.message.contains("some-id"), "{end:?}");
        let events = unlock("some-id");
        assert_eq!(result(&events).phase, "applied", "{events:#?}");
        let noted = |b: &Body| matches!(b, Body::OutputLine(l) if l.text.contains("removes the lock some-id: the host is gone"));
        assert!(bodies(&events).any(noted) && !note.exists(), "{events:#?}");
        assert_eq!(result(&made.again(JobKind::Preview).run("plan")).phase, "no_changes");
        assert_eq!(result(&unlock("-force")).code, "invalid_argument");
    }
}

/// Holds the lock of a state as an engine does (a record lock of the file, and who it is beside it), until its end.
fn hold(state: &Path, info: &serde_json::Value) -> std::fs::File {
    std::fs::create_dir_all(state).expect("a folder");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(state.join("terraform.tfstate"));
    let file = file.expect("opens");
    let lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETLK(&lock)).expect("locks");
    std::fs::write(state.join(".terraform.tfstate.lock.info"), info.to_string()).expect("writes");
    file
}

#[test]
fn who_holds_a_lock_is_told() {
    // the engine waits a minute for it
    for engine in engines().into_iter().take(1) {
        // where the engine keeps the state by itself: in the store nobody holds one that is not served
        let mut job = parts(&engine);
        job.request().workspace = "blue".into();
        let info = json!({
            "ID": "5c1d-1", "Operation": "OperationTypeApply", "Info": "", "Who": "ann@laptop", "Version": "1.11.4",
            "Created": "2026-11-28T14:00:01.5Z", "Path": "terraform.tfstate",
        });
        let held = hold(&Path::new(&job.start.state_directory).join("workspaces/blue"), &info);
        let end = result(&job.run("plan"));
        drop(held);
        assert_eq!((end.phase.as_str(), end.code.as_str()), ("failed", "state_locked"), "{end:?}");
        assert!(end.message.contains("ann@laptop") && end.message.contains("5c1d-1"), "{end:?}");
        let lock = end.lock.expect("a lock");
        assert_eq!((lock.id.as_str(), lock.who.as_str(), lock.created_ms), ("5c1d-1", "ann@laptop", 1_795_874_401_500));
        // nobody holds it any more
        let mut again = job.again(JobKind::Preview);
        again.request().workspace = "blue".into();
        assert_eq!(result(&again.run("plan")).phase, "planned");
    }
}

#[test]
fn a_backend_that_refuses_a_lock_tells_of_none() {
    const LOCKED: &str = r#"{"ID":"5c1d-2","Who":"carol@laptop","Operation":"OperationTypePlan"}"#;
    for engine in engines() {
        for (status, body, code, words) in [
            ("403 Forbidden", "", "engine_failed", "invalid auth"),
            ("500 Internal Server Error", "", "engine_failed", "LOCK"),
            ("423 Locked", LOCKED, "state_locked", "carol@laptop"),
        ] {
            let at = format!("http://{}/state", keep_states_and_answer(Default::default(), Some((status, body))));
            let main = format!(
                "terraform {{\n  backend \"http\" {{\n    address = \"{at}\"\n    lock_address = \"{at}\"\n    retry_max = 0\n  }}\n}}\n\
                 resource \"terraform_data\" \"a\" {{}}\n"
            );
            // the engine waits a minute for one that is somebody's
            if code == "state_locked" && engine.name != "opentofu" {
                continue;
            }
            let job = Job::new(&engine, JobKind::Preview, &[("main.tf", &main)]);
            let end = result(&job.run_here("plan"));
            assert_eq!((end.phase.as_str(), end.code.as_str()), ("failed", code), "{status}: {end:?}");
            assert!(end.message.contains(words), "{status}: {end:?}");
            assert_eq!(end.lock.map(|lock| lock.id).as_deref(), (code == "state_locked").then_some("5c1d-2"));
        }
    }
}
