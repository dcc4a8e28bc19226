//! Sources by the protocols that people use: Git by HTTPS with a token (git's own server), Git by SSH with a key (OpenSSH's), with what a commit is
//! made of and no more; and what is sent to nobody but whom it is for.

mod common;

use common::{Job, bodies, engine, engines, result};
use runner_tests::Scratch;
use runner_tests::served::{Answer, Https, Sshd, backend, basic, git, repository};
use sha2::{Digest as _, Sha256};
use shared_proto::v1::event::Body;
use shared_proto::v1::{EngineProgram, Event, GitSource, JobKind, SourceAccess, SparseFolders};
use std::path::Path;
use std::process::Command;

const MAIN: &str = "output \"version\" { value = \"one\" }\n";
const TOKEN: &str = "planted-token-of-the-tests";

/// What an entry of the runner's configuration gives.
fn access(pattern: &str, server: &Https) -> SourceAccess {
    SourceAccess {
        entry: "shop".into(),
        pattern: pattern.into(),
        user: "robot".into(),
        password: TOKEN.into(),
        ca_pem: server.ca_pem().into(),
        modules: true,
        ..Default::default()
    }
}

fn by_ssh(pattern: &str, server: &Sshd, key: &Path) -> SourceAccess {
    SourceAccess {
        entry: "deploy".into(),
        pattern: pattern.into(),
        ssh_key: std::fs::read_to_string(key).expect("a key"),
        known_hosts: server.known_hosts().expect("a key"),
        modules: true,
        ..Default::default()
    }
}

fn job(engine: &EngineProgram, wanted: GitSource, path: &str, access: Option<SourceAccess>) -> Job {
    let mut job = Job::new(engine, JobKind::Outputs, &[]);
    job.git_source(wanted, path);
    job.start.source_access = access;
    job
}

fn of(url: &str, reference: &str) -> GitSource {
    GitSource { url: url.into(), reference: reference.into(), ..Default::default() }
}

fn revision(events: &[Event]) -> String {
    let resolved = |body: &Body| match body {
        Body::SourceResolved(resolved) => Some(resolved.revision.clone()),
        _ => None,
    };
    bodies(events).find_map(resolved).unwrap_or_default()
}

fn notes(events: &[Event]) -> String {
    let lines = bodies(events).filter_map(|body| match body {
        Body::OutputLine(line) => Some(line.text.clone()),
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Nothing secret is in what was recorded, nor left in the job's folder.
fn no_secret(job: &Job, events: &[Event]) {
    let said = format!("{events:?}");
    for secret in [TOKEN, &basic("robot", TOKEN)[6..], "OPENSSH PRIVATE KEY"] {
        assert!(!said.contains(secret), "{secret}");
        let found = Command::new("grep").args(["-rlF", "--", secret]).arg(job.work()).output().expect("greps");
        assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    }
}

#[test]
fn by_https_with_a_token() {
    let Some(engine) = engine() else { return };
    let root = Scratch::new("git").expect("a folder");
    let at = root.join("org/app");
    let first = repository(&at, &[("main.tf", MAIN)]).expect("a repository");
    git(&at, &["tag", "-a", "v1", "-m", "v1"]).expect("tags");
    let second = repository(&at, &[("more.tf", "")]).expect("a commit");
    let server = Https::git(root.path(), Some(("robot", TOKEN))).expect("starts");
    let url = server.url("org/app");
    let pattern = server.url("org/*");
    for (reference, expected) in
        [("", &second), ("main", &second), ("v1", &first), (&first as &str, &first), ("refs/heads/main", &second)]
    {
        let job = job(&engine, of(&url, reference), "", Some(access(&pattern, &server)));
        let ended = job.run_here("plan");
        assert_eq!(result(&ended).code, "ok", "{reference}: {ended:#?}");
        assert_eq!(revision(&ended), *expected, "{reference}");
        no_secret(&job, &ended);
    }
    // whoever has no entry, another one's, or a wrong token
    let wrong = SourceAccess { password: "planted-but-wrong".into(), ..access(&pattern, &server) };
    let elsewhere = access(&server.url("other/*"), &server);
    for (access, sends) in [(elsewhere, ""), (wrong, "Basic")] {
        server.forget();
        let ended = job(&engine, of(&url, ""), "", Some(access)).run_here("plan");
        assert_eq!(result(&ended).code, "source_unavailable", "{ended:#?}");
        assert!(result(&ended).next_step.contains("[sources]"), "{ended:#?}");
        assert!(server.asked().iter().all(|asked| asked.header("authorization").starts_with(sends)));
        assert!(sends.is_empty() == server.asked().iter().all(|asked| asked.header("authorization").is_empty()));
    }
}

#[test]
fn a_commit_that_its_server_gives_by_no_name() {
    let Some(engine) = engine() else { return };
    let root = Scratch::new("git").expect("a folder");
    let at = root.join("app");
    let first = repository(&at, &[("main.tf", MAIN)]).expect("a repository");
    for n in 0..80 {
        repository(&at, &[("n.txt", &n.to_string())]).expect("a commit");
    }
    git(&at, &["config", "uploadpack.allowAnySHA1InWant", "false"]).expect("sets");
    let served = root.path().to_owned();
    let server = Https::start(move |asked| backend(&served, asked, false).expect("answers")).expect("starts");
    let pattern = server.url("*");
    let access = || Some(access(&pattern, &server));
    let ended = job(&engine, of(&server.url("app"), &first), "", access()).run_here("plan");
    assert_eq!((result(&ended).code.as_str(), revision(&ended)), ("ok", first), "{ended:#?}");
    let none = "1".repeat(40);
    let ended = job(&engine, of(&server.url("app"), &none), "", access()).run_here("plan");
    assert_eq!(result(&ended).code, "source_unavailable", "{ended:#?}");
    assert!(result(&ended).message.contains("has no commit"), "{ended:#?}");
}

#[test]
fn by_ssh_with_a_deploy_key_and_a_pinned_host() {
    let Some(engine) = engine() else { return };
    let root = Scratch::new("git").expect("a folder");
    let commit = repository(&root.join("org/app"), &[("main.tf", MAIN)]).expect("a repository");
    repository(&root.join("other"), &[("main.tf", MAIN)]).expect("a repository");
    let server = Sshd::start().expect("starts");
    let url = server.url(&root.join("org/app")).expect("an address");
    let pattern = server.url(&root.join("org")).expect("an address") + "/*";
    let good = by_ssh(&pattern, &server, &server.key());
    let job_of = |access: &SourceAccess| job(&engine, of(&url, ""), "", Some(access.clone()));
    let done = job_of(&good);
    let ended = done.run_here("plan");
    assert_eq!((result(&ended).code.as_str(), revision(&ended)), ("ok", commit), "{ended:#?}\n{}", server.log());
    no_secret(&done, &ended);
    // a key that is not let in, a host that shows another key, one that is not known, and a path that the entry is not for
    let other_host = good.known_hosts.replace("AAAA", "AAAB");
    for (access, says, next) in [
        (by_ssh(&pattern, &server, &server.other_key()), "Permission denied", "[sources]"),
        (SourceAccess { known_hosts: other_host, ..good.clone() }, "", "known_hosts_file"),
        (
            SourceAccess { known_hosts: "other.example ssh-ed25519 AAAA\n".into(), ..good.clone() },
            "",
            "known_hosts_file",
        ),
        (
            SourceAccess { pattern: server.url(&root.join("other")).expect("an address"), ..good.clone() },
            "",
            "[sources]",
        ),
    ] {
        let ended = job_of(&access).run_here("plan");
        let end = result(&ended);
        assert_eq!(end.code, "source_unavailable", "{ended:#?}");
        assert!(end.message.contains(says) && end.next_step.contains(next), "{end:?}\n{}", server.log());
    }
    // without any entry nobody's key is shown, and no host is believed
    let ended = job(&engine, of(&url, ""), "", None).run_here("plan");
    assert!(
        result(&ended).code == "source_unavailable" && result(&ended).next_step.contains("known_hosts"),
        "{ended:#?}"
    );
}

#[test]
fn modules_get_the_same_credentials_at_the_same_addresses_and_no_other() {
    let root = Scratch::new("git").expect("a folder");
    for engine in engines() {
        let at = |name: &str| root.join(format!("{}/{name}", engine.name));
        repository(&at("org/net"), &[("main.tf", "output \"net\" { value = \"of-the-module\" }\n")]).expect("a module");
        let server = Https::git(root.path(), Some(("robot", TOKEN))).expect("starts");
        let open_root = root.path().to_owned();
        let open = Https::start(move |asked| backend(&open_root, asked, true).expect("answers")).expect("starts");
        let module = server.url(&format!("{}/org/net", engine.name));
        let main =
            format!("module \"net\" {{ source = \"git::{module}\" }}\noutput \"net\" {{ value = module.net.net }}\n");
        repository(&at("org/app"), &[("main.tf", &main)]).expect("a repository");
        let url = server.url(&format!("{}/org/app", engine.name));
        let entry = access(&server.url(&format!("{}/org/*", engine.name)), &server);
        let done = job(&engine, of(&url, ""), "", Some(entry.clone()));
        let ended = done.run_here("plan");
        assert_eq!(result(&ended).code, "ok", "{ended:#?}");
        assert!(server.asked().iter().any(|asked| asked.path.contains("/net/")), "the module was fetched");
        no_secret(&done, &ended);
        // not where the entry is for the source alone, nor at another address
        let alone = SourceAccess { modules: false, ..entry.clone() };
        let narrow = SourceAccess { pattern: url.clone(), ..entry.clone() };
        for access in [alone, narrow] {
            server.forget();
            let ended = job(&engine, of(&url, ""), "", Some(access)).run_here("plan");
            assert_eq!(result(&ended).code, "engine_failed", "{ended:#?}");
            let asked = server.asked();
            let of_module: Vec<_> = asked.iter().filter(|asked| asked.path.contains("/net/")).collect();
            assert!(of_module.iter().all(|asked| asked.header("authorization").is_empty()), "{of_module:#?}");
        }
        // a module of another server gets nothing, though that one asks for it
        let elsewhere = open.url(&format!("{}/org/net", engine.name));
        let main = format!("module \"net\" {{ source = \"git::{elsewhere}\" }}\n");
        repository(&at("org/app"), &[("main.tf", &main)]).expect("a commit");
        let ended = job(&engine, of(&url, ""), "", Some(entry)).run_here("plan");
        assert!(open.asked().iter().all(|asked| asked.header("authorization").is_empty()));
        assert_eq!(result(&ended).code, "engine_failed", "its certificate is not trusted: {ended:#?}");
    }
}

#[test]
fn submodules_where_they_are_asked_for() {
    let Some(engine) = engine() else { return };
    let root = Scratch::new("git").expect("a folder");
    let server = Https::git(root.path(), Some(("robot", TOKEN))).expect("starts");
    repository(&root.join("org/deep"), &[("deep.txt", "deep")]).expect("a repository");
    let add = |at: &Path, url: &str, path: &str, from: &str| {
        let commit = git(&root.join(from), &["rev-parse", "HEAD"]).expect("a commit");
        std::fs::write(at.join(".gitmodules"), format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n"))
            .expect("writes");
        git(at, &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")]).expect("adds");
        git(at, &["add", ".gitmodules"]).expect("adds");
        git(at, &["commit", "-q", "-m", "a submodule"]).expect("commits");
    };
    repository(&root.join("org/net"), &[("net.tf", "output \"net\" { value = 1 }\n")]).expect("a repository");
    add(&root.join("org/net"), "../deep", "vendor/deep", "org/deep");
    let main = "module \"net\" { source = \"./modules/net\" }\noutput \"net\" { value = module.net.net }\n";
    repository(&root.join("org/app"), &[("main.tf", main)]).expect("a repository");
    add(&root.join("org/app"), "../net", "modules/net", "org/net");
    let url = server.url("org/app");
    let entry = access(&server.url("org/*"), &server);
    let with = GitSource { submodules: true, ..of(&url, "") };
    let done = job(&engine, with.clone(), "", Some(entry.clone()));
    let ended = done.run_here("plan");
    assert_eq!(result(&ended).code, "ok", "{ended:#?}");
    let deep = std::fs::read_to_string(done.work().join("source/modules/net/vendor/deep/deep.txt"));
    assert_eq!(deep.expect("is there"), "deep");
    assert!(notes(&ended).contains("Submodule modules/net is"), "{}", notes(&ended));
    no_secret(&done, &ended);
    let ended = job(&engine, of(&url, ""), "", Some(entry.clone())).run_here("plan");
    assert!(notes(&ended).contains("they are not fetched"), "{ended:#?}");
    // where the entry is for the source alone, its submodules' server gets nothing
    server.forget();
    let ended = job(&engine, with, "", Some(SourceAccess { pattern: url, ..entry })).run_here("plan");
    assert_eq!(result(&ended).code, "source_unavailable", "{ended:#?}");
    let of_net = |asked: &runner_tests::served::Asked| asked.path.contains("/org/net");
    assert!(server.asked().iter().filter(|asked| of_net(asked)).all(|asked| asked.header("authorization").is_empty()));
}

#[test]
fn a_part_of_a_source_and_no_more_of_it() {
    let Some(engine) = engine() else { return };
    let root = Scratch::new("git").expect("a folder");
    let random = || {
        let mut bytes = vec![0; 200_000];
        getrandom::fill(&mut bytes).expect("random bytes");
        shared_proto::hex::encode(bytes)
    };
    let main = "module \"net\" { source = \"../../modules/net\" }\noutput \"net\" { value = module.net.net }\n";
    let (large, larger) = (random(), random());
    let files = [
        ("infra/prod/main.tf", main),
        ("infra/beside.txt", "x"),
        ("modules/net/main.tf", "output \"net\" { value = 1 }\n"),
        ("other/large.bin", &large),
        ("infra/test/large.bin", &larger),
    ];
    repository(&root.join("app"), &files).expect("a repository");
    let server = Https::git(root.path(), None).expect("starts");
    let entry = || Some(access(&server.url("*"), &server));
    let sparse = SparseFolders { folders: vec!["modules/net".into()] };
    let wanted = GitSource { sparse: Some(sparse), ..of(&server.url("app"), "") };
    let done = job(&engine, wanted, "infra/prod", entry());
    let ended = done.run_here("plan");
    assert_eq!(result(&ended).code, "ok", "{ended:#?}");
    let is = |path: &str| done.work().join("source").join(path).exists();
    assert!(is("infra/prod/main.tf") && is("modules/net/main.tf") && is("infra/beside.txt"));
    assert!(!is("other") && !is("infra/test"));
    let part = server.sent();
    server.forget();
    let ended = job(&engine, of(&server.url("app"), ""), "infra/prod", entry()).run_here("plan");
    assert_eq!(result(&ended).code, "ok", "{ended:#?}");
    assert!(part * 4 < server.sent(), "{part} bytes of {}", server.sent());
}

#[test]
fn what_was_fetched_once_is_used_again_where_it_is_that_commit() {
    let Some(engine) = engine() else { return };
    let root = Scratch::new("git").expect("a folder");
    let commit = repository(&root.join("app"), &[("main.tf", MAIN)]).expect("a repository");
    let other = repository(&root.join("other"), &[("main.tf", "output \"other\" { value = 1 }\n")]).expect("another");
    let server = Https::git(root.path(), None).expect("starts");
    let kept = Scratch::new("kept").expect("a folder");
    let run = |reference: &str| {
        let mut job = job(&engine, of(&server.url("app"), reference), "", Some(access(&server.url("*"), &server)));
        job.start.source_cache = kept.path().display().to_string();
        server.forget();
        let ended = job.run_here("plan");
        assert_eq!((result(&ended).code.as_str(), revision(&ended)), ("ok", commit.clone()), "{ended:#?}");
        assert!(std::fs::read_to_string(job.work().join("source/main.tf")).expect("reads").contains("version"));
        let left = job.work().join(format!("fetched-{commit}.pack"));
        (left.exists().then(|| std::fs::read(left).expect("reads")), server.asked().len(), notes(&ended))
    };
    let (pack, _, _) = run("main");
    let pack = pack.expect("it is left for the next job");
    let path = kept.join(format!("{commit}.pack"));
    std::fs::write(&path, &pack).expect("writes");
    for (reference, asks) in [("main", true), (&commit as &str, false)] {
        let (again, asked, notes) = run(reference);
        assert!(again.is_none() && notes.contains("and kept"), "{notes}");
        // what a branch is now, its server alone knows
        assert_eq!(asked > 0, asks, "{reference}");
        let posts =
            server.asked().iter().filter(|a| a.method == "POST" && a.body.windows(4).any(|w| w == b"want")).count();
        assert_eq!(posts, 0, "no objects were asked for");
    }
    // another commit under its name, a part of it, and what is none
    let fetched = root.join("pack");
    std::fs::create_dir(&fetched).expect("a folder");
    git(&fetched, &["clone", "-q", "--bare", "--depth=1", &format!("file://{}", root.join("other").display()), "x"])
        .expect("clones");
    let packs = std::fs::read_dir(fetched.join("x/objects/pack")).expect("reads").flatten().map(|e| e.path());
    let foreign = packs.into_iter().find(|path| path.extension().is_some_and(|e| e == "pack")).expect("a pack");
    let mut damaged = pack.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for bad in [
        std::fs::read(foreign).expect("reads"),
        damaged,
        pack[..pack.len() / 2].to_vec(),
        b"no pack".to_vec(),
        Vec::new(),
    ] {
        std::fs::write(&path, bad).expect("writes");
        let (again, asked, notes) = run(&commit);
        assert!(again.is_some() && asked > 0 && notes.contains("is not that commit"), "{notes}");
    }
    assert_ne!(commit, other);
}

#[test]
fn a_commit_has_to_be_signed_where_the_entry_says_so() {
    let Some(engine) = engine() else { return };
    let root = Scratch::new("git").expect("a folder");
    let at = root.join("app");
    let unsigned = repository(&at, &[("main.tf", MAIN)]).expect("a repository");
    let keygen = |name: &str| {
        let path = root.join(name);
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status();
        assert!(made.expect("runs").success());
        (path.display().to_string(), std::fs::read_to_string(path.with_extension("pub")).expect("reads"))
    };
    let ((good, public), (bad, _)) = (keygen("good"), keygen("bad"));
    let sign = |key: &str, branch: &str| {
        let key = format!("user.signingkey={key}");
        let arguments = ["-c", "gpg.format=ssh", "-c", &key, "commit", "-q", "-S", "--allow-empty", "-m", branch];
        git(&at, &["checkout", "-q", "-b", branch, &unsigned]).expect("branches");
        git(&at, &arguments).expect("signs");
    };
    sign(&good, "signed");
    sign(&bad, "by-another");
    // the signature of another commit
    let signed = git(&at, &["cat-file", "commit", "signed"]).expect("reads") + "\n";
    let forged = signed.replace("t <t@t>", "u <u@u>");
    let forged =
        runner_tests::served::git_with(&at, &["hash-object", "-t", "commit", "-w", "--stdin"], forged.as_bytes());
    git(&at, &["branch", "forged", &forged.expect("makes")]).expect("branches");
    let server = Https::git(root.path(), None).expect("starts");
    let signers = SourceAccess { allowed_signers: format!("t@t {public}"), ..access(&server.url("*"), &server) };
    for (reference, code) in [
        ("signed", "ok"),
        ("main", "source_refused"),
        ("by-another", "source_refused"),
        ("forged", "source_refused"),
        (&unsigned as &str, "source_refused"),
    ] {
        let job = job(&engine, of(&server.url("app"), reference), "", Some(signers.clone()));
        let ended = job.run_here("plan");
        assert_eq!(result(&ended).code, code, "{reference}: {ended:#?}");
        if code == "source_refused" {
            let end = result(&ended);
            assert!(end.message.contains("sources.shop") && end.next_step.contains("Sign the commit"), "{end:?}");
            assert!(!job.work().join("source/main.tf").exists(), "nothing of it is there");
        }
    }
}

#[test]
fn openpgp_signatures_count_as_well() {
    let Some(engine) = engine() else { return };
    if Command::new("gpg").arg("--version").output().is_err() {
        println!("SKIPPED: no gpg here");
        return;
    }
    let root = Scratch::new("git").expect("a folder");
    // the sockets of its agent have short names only
    let home = tempfile::Builder::new().prefix("g").tempdir_in("/tmp").expect("a folder");
    let gpg = |arguments: &[&str]| {
        let said = Command::new("gpg")
            .args(["--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""])
            .args(arguments)
            .env("GNUPGHOME", home.path())
            .output()
            .expect("runs");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        said.stdout
    };
    for name in ["good@t", "bad@t"] {
        gpg(&["--quick-generate-key", name, "ed25519", "sign", "never"]);
    }
    let keyring = gpg(&["--export", "good@t"]);
    let at = root.join("app");
    let unsigned = repository(&at, &[("main.tf", MAIN)]).expect("a repository");
    for (branch, key) in [("signed", "good@t"), ("by-another", "bad@t")] {
        git(&at, &["checkout", "-q", "-b", branch, &unsigned]).expect("branches");
        let made = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--allow-empty", "-m", branch])
            .arg(format!("-S{key}"))
            .current_dir(&at)
            .env("GNUPGHOME", home.path())
            .output()
            .expect("runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let server = Https::git(root.path(), None).expect("starts");
    let keys = SourceAccess { keyring, ..access(&server.url("*"), &server) };
    for (reference, code) in [("signed", "ok"), ("main", "source_refused"), ("by-another", "source_refused")] {
        let ended = job(&engine, of(&server.url("app"), reference), "", Some(keys.clone())).run_here("plan");
        assert_eq!(result(&ended).code, code, "{reference}: {ended:#?}");
    }
    let none = SourceAccess { keyring: b"no keys".to_vec(), ..keys };
    let ended = job(&engine, of(&server.url("app"), "signed"), "", Some(none)).run_here("plan");
    assert_eq!(result(&ended).code, "credentials_unavailable", "{ended:#?}");
    let _ = Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", home.path()).status();
}

/// A repository `app` with a file that Git LFS keeps, whose content is elsewhere: a pointer, and a configuration that names another server.
fn with_large_file(root: &Scratch, content: &str, other: &str) -> String {
    let oid = shared_proto::hex::encode(Sha256::digest(content));
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {}\n", content.len());
    let files = [
        ("main.tf", "output \"version\" { value = file(\"${path.module}/large.txt\") }\n"),
        (".gitattributes", "large.txt filter=lfs diff=lfs merge=lfs -text\n"),
        (".lfsconfig", &format!("[lfs]\n\turl = {other}\n\tfetchexclude = *\n")),
        ("large.txt", &pointer),
    ];
    repository(&root.join("app"), &files).expect("a repository");
    oid
}

/// Git's own server, and beside it one of Git LFS as its documents have it
/// (<https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md>), whose objects are below `at` and have that content.
fn lfs_server(root: &Scratch, at: Option<String>, content: &'static str) -> Https {
    let (root, expected) = (root.path().to_owned(), basic("robot", TOKEN));
    Https::start(move |asked| {
        if asked.header("authorization") != expected {
            return Answer::status(401)
                .header("www-authenticate", "Basic realm=\"git\"")
                .header("lfs-authenticate", "Basic realm=\"Git LFS\"");
        }
        if asked.path == "/app.git/info/lfs/objects/batch" {
            let wanted: serde_json::Value = serde_json::from_slice(&asked.body).expect("JSON");
            let at = at.clone().unwrap_or_else(|| format!("https://{}/objects", asked.header("host")));
            let objects = wanted["objects"].as_array().expect("objects").iter().map(|object| {
                let href = format!("{at}/{}", object["oid"].as_str().expect("an oid"));
                serde_json::json!({ "oid": object["oid"], "size": object["size"], "actions": { "download": { "href": href } } })
            });
            let answer = serde_json::json!({ "transfer": "basic", "objects": objects.collect::<Vec<_>>() });
            return Answer::of("application/vnd.git-lfs+json", answer.to_string());
        }
        if asked.path.starts_with("/objects/") {
            return Answer::of("application/octet-stream", content);
        }
        backend(&root, asked, true).unwrap_or_else(|e| Answer::of("text/plain", e.to_string()).with_status(500))
    })
    .expect("starts")
}

#[test]
fn what_git_lfs_keeps_comes_from_the_repositorys_own_server() {
    let Some(engine) = engine() else { return };
    if !Command::new("git").args(["lfs", "version"]).output().is_ok_and(|said| said.status.success()) {
        assert!(std::env::var_os("REQUIRE_COMPONENTS").is_none(), "git-lfs is not here");
        println!("SKIPPED: no git-lfs here");
        return;
    }
    const CONTENT: &str = "what is too large for a repository";
    let root = Scratch::new("git").expect("a folder");
    let other = Https::start(|_| Answer::of("application/octet-stream", CONTENT)).expect("starts");
    let oid = with_large_file(&root, CONTENT, &other.url("app.git/info/lfs"));
    let server = lfs_server(&root, None, CONTENT);
    let fetched = |server: &Https, lfs: bool| {
        let wanted = GitSource { lfs, ..of(&server.url("app"), "") };
        let mut entry = access(&server.url("*"), server);
        entry.ca_pem.push_str(other.ca_pem());
        let job = job(&engine, wanted, "", Some(entry));
        let ended = job.run_here("plan");
        no_secret(&job, &ended);
        (result(&ended), std::fs::read_to_string(job.work().join("source/large.txt")).unwrap_or_default())
    };
    let (end, large) = fetched(&server, true);
    assert_eq!((end.code.as_str(), large.as_str()), ("ok", CONTENT), "{end:?}");
    assert!(other.asked().is_empty(), "whatever its .lfsconfig says: {:?}", other.asked());
    // not asked for, it stays a pointer
    let (end, large) = fetched(&server, false);
    assert!(end.code == "ok" && large.contains(&oid), "{end:?}: {large}");
    // objects may lie elsewhere, as those of most hosts do: what an entry gives, its authorities among it, is not for there
    let elsewhere = lfs_server(&root, Some(other.url("objects")), CONTENT);
    let (end, large) = fetched(&elsewhere, true);
    assert!(end.code == "source_unavailable" && large.contains(&oid), "{end:?}: {large}");
    assert!(other.asked().is_empty(), "{:?}", other.asked());
    // another content than its name says
    let (end, large) = fetched(&lfs_server(&root, None, "what was put in its place by somebody"), true);
    assert!(end.code == "source_unavailable" && !large.contains("somebody"), "{end:?}: {large}");
}

#[test]
fn what_a_source_cannot_do_is_told() {
    let Some(engine) = engine() else { return };
    let mut job = Job::new(
        &engine,
        JobKind::Outputs,
        &[
            ("main.tf", MAIN),
            (".terraformrc", "provider_installation { filesystem_mirror { path = \"/tmp\" } }"),
            (".terraform/providers/x", "x"),
            ("terraform.d/plugins/x", "x"),
            (".git/hooks/post-checkout", "#!/bin/sh\ntouch /tmp/x\n"),
            (".netrc", "machine h login l password p"),
            (".env", "TF_CLI_ARGS=-destroy"),
            ("x_override.tf", ""),
        ],
    );
    job.start.environment.insert("TF_CLI_ARGS".into(), "-must-not-come-through".into());
    let ended = job.run_here("plan");
    assert_eq!(result(&ended).code, "ok", "{ended:#?}");
    let notes = notes(&ended);
    for said in [
        ".terraformrc of the source is not read",
        ".terraform of the source was set aside",
        "terraform.d/plugins of the source was set aside",
        ".git of the source was set aside",
        ".netrc of the source is not read",
        ".env of the source is not read",
    ] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    assert!(!job.work().join("source/.terraform").exists() && job.work().join("source/x_override.tf").exists());
}

#[test]
fn a_server_that_sends_elsewhere_sends_nothing_there() {
    let Some(engine) = engine() else { return };
    let other = Https::start(|_| Answer::status(404)).expect("starts");
    let to = other.url("org/app");
    for status in [301, 302, 307, 308] {
        let to = to.clone();
        let server = Https::start(move |asked| {
            Answer::status(status)
                .header("location", format!("{to}{}?{}", asked.path.replace("/org/app", ""), asked.query))
        })
        .expect("starts");
        let mut entry = access(&server.url("org/*"), &server);
        entry.ca_pem.push_str(other.ca_pem());
        let ended = job(&engine, of(&server.url("org/app"), ""), "", Some(entry)).run_here("plan");
        let end = result(&ended);
        assert_eq!(end.code, "source_unavailable", "{status}: {ended:#?}");
        assert!(end.next_step.contains("not followed"), "{status}: {end:?}");
        assert!(!server.asked().is_empty() && other.asked().is_empty(), "{status}: {:?}", other.asked());
    }
}
