//! Repositories that somebody made to get out, to have something run, or to have credentials sent where they are not for. Each is refused by its
//! code, nothing runs, and nothing outside changes. Hostile archives are in `source::archive`'s own tests, hostile registries in `registries`.

mod common;

use common::{Job, bodies, engine, result};
use runner_tests::Scratch;
use runner_tests::served::{Answer, Https, backend, git, git_with, repository};
use shared_proto::v1::event::Body;
use shared_proto::v1::{GitSource, JobKind, SourceAccess};
use std::path::Path;

const MAIN: &str = "output \"version\" { value = \"one\" }\n";
const TOKEN: &str = "planted-token-of-the-tests";

/// A commit of a tree as it is written, whatever git thinks of it.
fn raw_tree(at: &Path, entries: &[(&str, &str, &str)]) -> String {
    let mut tree = Vec::new();
    for (mode, name, object) in entries {
        tree.extend_from_slice(format!("{mode} {name}\0").as_bytes());
        tree.extend((0..object.len()).step_by(2).map(|i| u8::from_str_radix(&object[i..i + 2], 16).expect("hex")));
    }
    let tree = git_with(at, &["hash-object", "-t", "tree", "--literally", "-w", "--stdin"], &tree).expect("makes");
    git(at, &["commit-tree", "-m", "raw", &tree]).expect("commits")
}

fn blob(at: &Path, content: &str) -> String {
    git_with(at, &["hash-object", "-w", "--stdin"], content.as_bytes()).expect("makes")
}

/// One way to do harm: makes a branch of that name in the repository.
struct Attempt {
    name: &'static str,
    code: &'static str,
    submodules: bool,
}

const fn attempt(name: &'static str, code: &'static str, submodules: bool) -> Attempt {
    Attempt { name, code, submodules }
}

/// A branch with a `.gitmodules` of that content and a submodule at that path.
fn with_gitmodules(at: &Path, branch: &str, content: &str, path: &str) {
    let commit = git(at, &["rev-parse", "main"]).expect("a commit");
    git(at, &["checkout", "-q", "-f", "-b", branch, "main"]).expect("branches");
    std::fs::write(at.join(".gitmodules"), content).expect("writes");
    git(at, &["add", ".gitmodules"]).expect("adds");
    git(at, &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")]).expect("adds");
    git(at, &["commit", "-q", "-m", branch]).expect("commits");
    git(at, &["checkout", "-q", "-f", "main"]).expect("back");
}

fn module(name: &str, path: &str, url: &str, more: &str) -> String {
    format!("[submodule \"{name}\"]\n\tpath = {path}\n\turl = {url}\n{more}")
}

#[test]
fn hostile_repositories() {
    let Some(engine) = engine() else { return };
    let root = Scratch::new("git").expect("a folder");
    let at = root.join("org/app");
    repository(&at, &[("main.tf", MAIN)]).expect("a repository");
    let main = git(&at, &["rev-parse", "main:main.tf"]).expect("a blob");
    let marker = root.join("ran");
    let touch = format!("touch {}", marker.display());
    // another server, which must hear of no token
    let thief = Https::start(|_| Answer::status(401).header("www-authenticate", "Basic realm=\"x\"")).expect("starts");
    let served = root.path().to_owned();
    let expected = runner_tests::served::basic("robot", TOKEN);
    let server = Https::start(move |asked| match asked.header("authorization") == expected {
        true => backend(&served, asked, true).expect("answers"),
        false => Answer::status(401).header("www-authenticate", "Basic realm=\"git\""),
    })
    .expect("starts");

    for (branch, url) in [
        ("helper", format!("ext::sh -c {touch}")),
        ("helper-fd", "fd::17".into()),
        ("option", format!("--upload-pack={touch}")),
        ("option-ssh", "ssh://-oProxyCommand=x/y".into()),
        ("option-scp", "-x@host:path".into()),
        ("folder", format!("file://{}", at.display())),
        ("path", at.display().to_string()),
        ("plain-http", "http://127.0.0.1:1/x".into()),
        ("plain-git", "git://127.0.0.1/x".into()),
        ("above", "../../../../../../x".into()),
        ("with-password", "https://user:password@127.0.0.1/x".into()),
        ("of-a-thief", thief.url("org/app")),
    ] {
        with_gitmodules(&at, branch, &module("m", "m", &format!("\"{url}\""), ""), "m");
    }
    with_gitmodules(&at, "command", &module("m", "m", "../app", &format!("\tupdate = !{touch}\n")), "m");
    with_gitmodules(&at, "name-out", &module("../../m", "m", "../app", ""), "m");
    with_gitmodules(&at, "path-option", &module("m", "-m", "../app", ""), "-m");
    let many: String = (0..70).map(|n| module(&format!("m{n}"), &format!("m{n}"), "../app", "")).collect();
    with_gitmodules(&at, "many", &many, "m0");
    with_gitmodules(&at, "long", &format!("{}{}", module("m", "m", "../app", ""), "# x\n".repeat(20_000)), "m");
    // links
    for (branch, to) in [("link-up", "../../outside"), ("link-whole", "/etc/passwd"), ("link-far", "a/../../b")] {
        git(&at, &["checkout", "-q", "-f", "-b", branch, "main"]).expect("branches");
        std::os::unix::fs::symlink(to, at.join("out")).expect("links");
        repository(&at, &[]).expect("commits");
        git(&at, &["checkout", "-q", "-f", "main"]).expect("back");
    }
    let branch = |name: &str, commit: &str| drop(git(&at, &["branch", name, commit]).expect("branches"));
    let link = blob(&at, "main.tf");
    branch("linked-gitmodules", &raw_tree(&at, &[("120000", ".gitmodules", &link), ("100644", "main.tf", &main)]));
    // trees that no git makes
    let hook = blob(&at, &format!("#!/bin/sh\n{touch}\n"));
    let hooks = git_with(&at, &["mktree"], format!("100755 blob {hook}\tpost-checkout\n").as_bytes()).expect("makes");
    let inside = git_with(&at, &["mktree"], format!("040000 tree {hooks}\thooks\n").as_bytes()).expect("makes");
    for (name, entry) in
        [("dot-git", ".git"), ("dot-git-mac", ".g\u{200c}it"), ("dot-git-case", ".GIT"), ("dot-git-short", "git~1")]
    {
        branch(name, &raw_tree(&at, &[("40000", entry, &inside), ("100644", "main.tf", &main)]));
    }
    branch("dot-dot", &raw_tree(&at, &[("40000", "..", &inside), ("100644", "main.tf", &main)]));
    branch("slash", &raw_tree(&at, &[("100644", "a/../../x", &main), ("100644", "main.tf", &main)]));
    branch("twice", &raw_tree(&at, &[("100644", "main.tf", &main), ("100644", "main.tf", &link)]));
    let deep = (0..70).fold(inside.clone(), |tree, _| {
        git_with(&at, &["mktree"], format!("040000 tree {tree}\td\n").as_bytes()).expect("makes")
    });
    branch("deep", &raw_tree(&at, &[("40000", "d", &deep), ("100644", "main.tf", &main)]));
    // a reference that leads to no commit
    git(&at, &["tag", "a-blob", &main]).expect("tags");

    for Attempt { name, code, submodules } in [
        attempt("helper", "source_refused", true),
        attempt("helper-fd", "source_refused", true),
        attempt("option", "source_refused", false),
        attempt("option-ssh", "source_refused", true),
        attempt("option-scp", "source_refused", false),
        attempt("folder", "source_refused", true),
        attempt("path", "source_refused", true),
        attempt("plain-http", "source_refused", true),
        attempt("plain-git", "source_refused", true),
        attempt("above", "source_refused", true),
        attempt("with-password", "source_refused", true),
        attempt("of-a-thief", "source_unavailable", true),
        attempt("command", "source_refused", true),
        attempt("name-out", "source_refused", false),
        attempt("path-option", "source_refused", false),
        attempt("many", "source_refused", true),
        attempt("long", "source_refused", true),
        attempt("link-up", "source_refused", false),
        attempt("link-whole", "source_refused", false),
        attempt("link-far", "source_refused", false),
        attempt("linked-gitmodules", "source_refused", false),
        attempt("dot-git", "source_refused", false),
        attempt("dot-git-mac", "source_refused", false),
        attempt("dot-git-case", "source_refused", false),
        attempt("dot-git-short", "source_refused", false),
        attempt("dot-dot", "source_refused", false),
        attempt("slash", "source_refused", false),
        attempt("twice", "source_refused", false),
        attempt("deep", "source_refused", false),
        attempt("a-blob", "source_refused", false),
    ] {
        let mut job = Job::new(&engine, JobKind::Outputs, &[]);
        let wanted = GitSource { url: server.url("org/app"), reference: name.into(), submodules, ..Default::default() };
        job.git_source(wanted, "");
        job.start.source_access = Some(SourceAccess {
            entry: "shop".into(),
            pattern: server.url("org/*"),
            user: "robot".into(),
            password: TOKEN.into(),
            ca_pem: format!("{}{}", server.ca_pem(), thief.ca_pem()),
            modules: true,
            ..Default::default()
        });
        let ended = job.run_here("plan");
        assert_eq!(result(&ended).code, code, "{name}: {ended:#?}");
        assert!(!bodies(&ended).any(|b| matches!(b, Body::EngineStarted(_))), "{name}");
        assert!(!marker.exists(), "{name}: something ran");
        assert!(!format!("{ended:?}").contains(TOKEN), "{name}");
        assert!(!format!("{ended:?}").contains("password@"), "{name}");
        let beside: Vec<_> =
            std::fs::read_dir(job.folder.path()).expect("reads").flatten().map(|e| e.file_name()).collect();
        assert!(
            beside.iter().all(|name| ["work", "stacks", "source.tar.gz"].iter().any(|known| name == known)),
            "{name}: {beside:?}"
        );
    }
    assert!(thief.asked().iter().all(|asked| asked.header("authorization").is_empty()), "{:?}", thief.asked());
}

#[test]
fn filters_hooks_and_attributes_of_a_source_run_nothing() {
    let Some(engine) = engine() else { return };
    let root = Scratch::new("git").expect("a folder");
    let marker = root.join("ran");
    let at = root.join("app");
    repository(&at, &[("main.tf", MAIN)]).expect("a repository");
    for hook in ["post-checkout", "post-upload-pack", "reference-transaction"] {
        let path = at.join(".git/hooks").join(hook);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
        std::fs::write(&path, format!("#!/bin/sh\ntouch {}\n", marker.display())).expect("writes");
    }
    let attributes = "* filter=lfs diff=x merge=x working-tree-encoding=UTF-8\n*.tf filter=run ident\n";
    let config = format!("[filter \"run\"]\n\tsmudge = touch {}\n", marker.display());
    repository(
        &at,
        &[
            (".gitattributes", attributes),
            (".gitconfig", &config),
            (".lfsconfig", "[lfs]\n\turl = https://127.0.0.1:1/\n"),
        ],
    )
    .expect("a commit");
    let server = Https::git(root.path(), None).expect("starts");
    let mut job = Job::new(&engine, JobKind::Outputs, &[]);
    job.git(&server.url("app"), "");
    job.start.source_access = Some(SourceAccess {
        entry: "shop".into(),
        pattern: server.url("*"),
        ca_pem: server.ca_pem().into(),
        ..Default::default()
    });
    let ended = job.run_here("plan");
    assert_eq!(result(&ended).code, "ok", "{ended:#?}");
    assert!(!marker.exists());
}

#[test]
fn servers_that_are_none_or_have_no_end() {
    let Some(engine) = engine() else { return };
    let advertise = "application/x-git-upload-pack-advertisement";
    let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
    let endless = {
        // more references than anybody has: what is not asked for is not kept
        let mut text = line("# service=git-upload-pack\n") + "0000";
        for n in 0..50_000 {
            text.push_str(&line(&format!(
                "{:040x} refs/heads/b{n}{}\n",
                n + 1,
                if n == 0 { "\0side-band-64k" } else { "" }
            )));
        }
        text + "0000"
    };
    let answers: Vec<(&str, Answer)> = vec![
        ("nothing", Answer::status(404)),
        ("broken", Answer::status(500)),
        ("a page", Answer::of("text/html", "<html>sign in</html>")),
        ("no pack lines", Answer::of(advertise, "zzzz")),
        ("a cut line", Answer::of(advertise, "001e# service=git-upl")),
        ("only old files", Answer::of("text/plain", format!("{}\trefs/heads/main\n", "1".repeat(40)))),
        ("many references", Answer::of(advertise, endless)),
    ];
    for (name, answer) in answers {
        let server = Https::start(move |_| answer.clone()).expect("starts");
        let mut job = Job::new(&engine, JobKind::Outputs, &[]);
        job.git(&server.url("app"), "main");
        job.start.source_access = Some(SourceAccess {
            entry: "shop".into(),
            pattern: server.url("*"),
            ca_pem: server.ca_pem().into(),
            ..Default::default()
        });
        let ended = job.run_here("plan");
        assert_eq!(result(&ended).code, "source_unavailable", "{name}: {ended:#?}");
    }
}
