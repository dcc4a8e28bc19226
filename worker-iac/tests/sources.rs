//! Sources through the whole worker: a Git repository at a commit, a branch and a tag, and what is refused.

mod common;

use common::{Job, bodies, engine, result};
use shared_proto::v1::JobKind;
use shared_proto::v1::event::Body;
use std::path::Path;

const MAIN: &str = "output \"version\" { value = \"VERSION\" }\n";

fn git(folder: &Path, arguments: &[&str]) -> String {
    runner_tests::served::git(folder, arguments).expect("git runs")
}

fn commit(folder: &Path, version: &str) -> String {
    std::fs::write(folder.join("main.tf"), MAIN.replace("VERSION", version)).expect("writes");
    git(folder, &["add", "."]);
    git(folder, &["commit", "-q", "-m", version]);
    git(folder, &["rev-parse", "HEAD"])
}

#[test]
fn a_repository_at_a_commit_a_branch_and_a_tag() {
    let Some(engine) = engine() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let repository = folder.path().join("repository");
    std::fs::create_dir(&repository).expect("a folder");
    git(&repository, &["init", "-q"]);
    let first = commit(&repository, "one");
    git(&repository, &["tag", "-a", "v1", "-m", "v1"]);
    let second = commit(&repository, "two");
    git(&repository, &["checkout", "-q", "-b", "feature/x"]);
    let third = commit(&repository, "three");
    git(&repository, &["checkout", "-q", "main"]);
    let url = format!("file://{}", repository.display());
    for (reference, revision) in [
        ("", &second),
        ("main", &second),
        ("feature/x", &third),
        ("v1", &first),
        ("refs/heads/main", &second),
        (&first, &first),
    ] {
        let mut job = Job::new(&engine, JobKind::Outputs, &[]);
        job.git(&url, reference);
        job.start.environment.insert("RUNNER_ALLOW_FILE_SOURCES".into(), "1".into());
        let ended = job.run("plan");
        assert_eq!(result(&ended).code, "ok", "{reference}: {ended:#?}");
        let resolved = bodies(&ended).find_map(|b| match b {
            Body::SourceResolved(resolved) => Some(resolved),
            _ => None,
        });
        assert_eq!(resolved.map(|r| &r.revision), Some(revision), "{reference}");
        assert!(!job.work().join("source/.git").exists());
    }
    for (reference, code) in [
        ("nothing", "source_unavailable"),
        (&"0".repeat(40) as &str, "source_unavailable"),
        ("--upload-pack=x", "source_refused"),
    ] {
        let mut job = Job::new(&engine, JobKind::Outputs, &[]);
        job.git(&url, reference);
        job.start.environment.insert("RUNNER_ALLOW_FILE_SOURCES".into(), "1".into());
        assert_eq!(result(&job.run("plan")).code, code, "{reference}");
    }
}

#[test]
fn a_repository_whose_links_leave_or_whose_hooks_would_run() {
    let Some(engine) = engine() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let repository = folder.path().join("repository");
    std::fs::create_dir(&repository).expect("a folder");
    git(&repository, &["init", "-q"]);
    let marker = folder.path().join("ran");
    let hook = repository.join(".git/hooks/post-checkout");
    std::fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", marker.display())).expect("writes");
    std::fs::write(repository.join(".gitmodules"), "[submodule \"x\"]\n\tpath = x\n\turl = ext::touch /tmp/x\n")
        .expect("writes");
    commit(&repository, "good");
    std::os::unix::fs::symlink("../../outside", repository.join("out")).expect("links");
    git(&repository, &["checkout", "-q", "-b", "bad"]);
    commit(&repository, "bad");
    git(&repository, &["checkout", "-q", "main"]);
    let url = format!("file://{}", repository.display());
    for (reference, code) in [("main", "ok"), ("bad", "source_refused")] {
        let mut job = Job::new(&engine, JobKind::Outputs, &[]);
        job.git(&url, reference);
        job.start.environment.insert("RUNNER_ALLOW_FILE_SOURCES".into(), "1".into());
        let ended = job.run("plan");
        assert_eq!(result(&ended).code, code, "{reference}: {ended:#?}");
        if code == "ok" {
            assert!(bodies(&ended).any(|b| matches!(b, Body::OutputLine(l) if l.text.contains("submodules"))));
        }
    }
    assert!(!marker.exists(), "no hook ran");
}

#[test]
fn bad_sources_are_refused_and_nothing_else_happens() {
    let Some(engine) = engine() else { return };
    for url in [
        "ext::sh -c touch% /tmp/x",
        "--upload-pack=touch /tmp/x",
        "file:///etc",
        "/etc",
        "http://127.0.0.1:1/x",
        "https://u:p@127.0.0.1/x",
    ] {
        let mut job = Job::new(&engine, JobKind::Update, &[]);
        job.git(url, "");
        let ended = job.run("plan");
        assert_eq!(
            (result(&ended).phase.as_str(), result(&ended).code.as_str()),
            ("failed", "source_refused"),
            "{url}"
        );
        assert!(!bodies(&ended).any(|b| matches!(b, Body::EngineStarted(_))));
    }
    let mut job = Job::new(&engine, JobKind::Update, &[]);
    job.git("https://127.0.0.1:1/x.git", "");
    let ended = job.run("plan");
    assert_eq!(result(&ended).code, "source_unavailable", "{ended:#?}");
    let mut job = Job::new(&engine, JobKind::Update, &[]);
    job.archive(b"not an archive");
    assert_eq!(result(&job.run("plan")).code, "source_refused");
    let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", MAIN)]);
    std::fs::write(&job.start.archive_path, "changed").expect("writes");
    assert_eq!(result(&job.run("plan")).code, "source_refused");
    job.request().source = None;
    std::fs::remove_dir_all(job.work()).expect("removes");
    std::fs::create_dir(job.work()).expect("a folder");
    assert_eq!(result(&job.run("plan")).code, "source_refused");
}
