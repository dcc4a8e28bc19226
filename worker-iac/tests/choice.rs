//! Which version of its engine a job gets, with the real engines: an older one is a program that says so of itself, and does as the real one.

mod common;

use common::{Job, bodies, engines, phases, result};
use shared_proto::v1::event::Body;
use shared_proto::v1::{EngineProgram, Event, JobKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const SMALL: &str = "resource \"terraform_data\" \"a\" {\n  input = \"x\"\n}\n";
/// No engine is of it.
const OLD: &str = "1.9.3";

/// A program that says it is of that version, and is the real one otherwise.
fn says(folder: &Path, engine: &EngineProgram, version: &str, of_folder: &str) -> EngineProgram {
    let path = folder.join(format!("{}-{of_folder}", engine.name));
    let text = format!(
        "#!/bin/sh\nif [ \"$1\" = version ]; then echo '{{\"terraform_version\": \"{version}\"}}'; else exec {} \"$@\"; fi\n",
        engine.path
    );
    std::fs::write(&path, text).expect("writes");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("sets");
    EngineProgram { name: engine.name.clone(), path: path.display().to_string(), version: of_folder.to_owned() }
}

/// A job that gets this engine where nobody asks for another, and may have those.
fn job(usual: &EngineProgram, others: Vec<EngineProgram>, files: &[(&str, &str)]) -> Job {
    let mut job = Job::new(usual, JobKind::Update, files);
    // the supervisor does not know it
    job.start.engine.as_mut().expect("an engine").version.clear();
    job.start.engines = others;
    job
}

/// The versions of those that were asked for more than that.
fn used(events: &[Event]) -> Vec<String> {
    let of = |body: &Body| match body {
        Body::EngineStarted(started) if started.command != "version" => Some(started.version.clone()),
        _ => None,
    };
    let mut used: Vec<_> = bodies(events).filter_map(of).collect();
    used.dedup();
    used
}

fn said(events: &[Event], text: &str) -> bool {
    bodies(events).any(|b| matches!(b, Body::OutputLine(line) if line.stream == "runner" && line.text.contains(text)))
}

#[test]
fn what_the_root_module_requires_is_taken() {
    for engine in engines() {
        let folder = tempfile::tempdir().expect("a folder");
        let usual = says(folder.path(), &engine, OLD, OLD);
        // the engine looks at it too, and the real one allows its own version alone
        let module = format!(
            "terraform {{\n  required_version = \"= {}\"\n}}\n{SMALL}",
            engine.version.split('-').next().expect("a release")
        );
        let job = job(&usual, vec![engine.clone()], &[("infra/main.tf", &module)]);
        let mut in_folder = job;
        in_folder.request().source.as_mut().expect("a source").path = "infra".into();
        let planned = in_folder.run("plan");
        assert_eq!(phases(&planned).last(), Some(&"awaiting_approval"), "{planned:#?}");
        assert_eq!(used(&planned), [engine.version.as_str()]);
        assert!(said(&planned, "(required_version in main.tf)"), "{planned:#?}");
        let applied = in_folder.run("apply");
        assert_eq!(result(&applied).phase, "applied", "{applied:#?}");
        assert_eq!(used(&applied), [engine.version.as_str()]);
    }
}

#[test]
fn what_the_stack_and_its_version_file_ask_for_is_taken_and_applies_its_own_plan() {
    for engine in engines() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = says(folder.path(), &engine, OLD, OLD);
        let file = if engine.name == "opentofu" { ".opentofu-version" } else { ".terraform-version" };
        for (stack, files) in
            [("~> 1.9.0", &[("main.tf", SMALL)][..]), ("", &[("main.tf", SMALL), (file, "1.9.3\n")][..])]
        {
            let mut job = job(&engine, vec![old.clone()], files);
            job.request().engine_version = stack.into();
            let planned = job.run("plan");
            assert_eq!(phases(&planned).last(), Some(&"awaiting_approval"), "{planned:#?}");
            assert_eq!(used(&planned), [OLD]);
            // a newer one has come meanwhile
            job.start.engines.push(says(folder.path(), &engine, "1.9.9", "1.9.9"));
            let applied = job.run("apply");
            assert_eq!(result(&applied).phase, "applied", "{applied:#?}");
            assert_eq!(used(&applied), [OLD]);
        }
        // and one that is gone
        let mut job = job(&engine, vec![old], &[("main.tf", SMALL)]);
        job.request().engine_version = OLD.into();
        job.run("plan");
        job.start.engines = vec![says(folder.path(), &engine, "1.9.9", "1.9.9")];
        let ended = job.run("apply");
        assert_eq!(result(&ended).code, "engine_version_missing", "{ended:#?}");
        assert!(result(&ended).message.contains("1.9.3 (the saved plan)"), "{}", result(&ended).message);
    }
}

#[test]
fn where_no_version_is_allowed_it_is_said_who_asks_what_is_there_and_what_to_do() {
    for engine in engines() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = says(folder.path(), &engine, OLD, OLD);
        let module = format!("terraform {{\n  required_version = \">= 99.1\"\n}}\n{SMALL}");
        let ended = job(&engine, vec![old], &[("main.tf", &module)]).run("plan");
        let result = result(&ended);
        assert_eq!((result.phase.as_str(), result.code.as_str()), ("failed", "engine_version_missing"));
        let expected = format!(
            "of {} this is asked for: >= 99.1 (required_version in main.tf); the runner has {} (which it takes otherwise), {OLD}",
            engine.name, engine.version
        );
        assert_eq!(result.message, expected);
        assert_eq!(
            result.next_step,
            format!("Install it on the runner: `runner engines install {} 99.1.0`.", engine.name)
        );
        assert_eq!(used(&ended), [] as [&str; 0], "nothing was begun");
        let ended = job(
            &engine,
            vec![],
            &[("main.tf", SMALL), (".opentofu-version", "latest:^1"), (".terraform-version", "min-required")],
        );
        let ended = ended.run("plan");
        assert_eq!(common::result(&ended).code, "source_refused", "{ended:#?}");
    }
}

#[test]
fn a_program_that_is_not_what_its_folder_is_called_is_not_used() {
    for engine in engines() {
        let folder = tempfile::tempdir().expect("a folder");
        let liar = says(folder.path(), &engine, OLD, "1.9.0");
        let mut job = job(&engine, vec![liar], &[("main.tf", SMALL)]);
        job.request().engine_version = "1.9.0".into();
        let ended = job.run("plan");
        assert_eq!(result(&ended).code, "engine_version_missing", "{ended:#?}");
        assert!(result(&ended).message.contains("says that it is of version 1.9.3"), "{}", result(&ended).message);
        assert_eq!(used(&ended), [] as [&str; 0]);
    }
}

#[test]
fn a_job_whose_runner_has_only_its_directory_takes_the_newest() {
    for engine in engines() {
        let folder = tempfile::tempdir().expect("a folder");
        let others = vec![says(folder.path(), &engine, OLD, OLD), says(folder.path(), &engine, "1.9.9", "1.9.9")];
        let mut job = job(&engine, others, &[("main.tf", SMALL)]);
        job.start.engine = None;
        let planned = job.run("plan");
        assert_eq!(phases(&planned).last(), Some(&"awaiting_approval"), "{planned:#?}");
        assert_eq!(used(&planned), ["1.9.9"]);
        assert!(!said(&planned, "is taken"), "nobody asked");
    }
}
