//! To whom git and SSH show what an entry gives: by their own words.

use super::*;
use std::process::Command;

fn start(access: SourceAccess) -> JobStart {
    JobStart { source_access: Some(access), ..Default::default() }
}
fn token(pattern: &str) -> SourceAccess {
    SourceAccess {
        entry: "e".into(),
        pattern: pattern.into(),
        user: "u".into(),
        password: "s3cr3t-token".into(),
        ca_pem: "-----BEGIN CERTIFICATE-----".into(),
        modules: true,
        ..Default::default()
    }
}

/// What git itself says that it would be told for an address.
fn of_git(environment: &Environment, key: &str, url: &str) -> String {
    let said = Command::new("git")
        .args(["config", "--get-urlmatch", key, url])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .envs(environment)
        .current_dir("/")
        .output()
        .expect("git runs");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

#[test]
fn git_gives_a_token_to_the_patterns_addresses_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = start(token("https://h.example:8443/org/*"));
    let access = Access::write(&start, folder.path(), false).expect("writes");
    let expected = format!("Authorization: Basic {}", STANDARD.encode("u:s3cr3t-token"));
    for environment in [access.of_source(), access.of_modules()] {
        for (url, given) in [
            ("https://h.example:8443/org/a.git", true),
            ("https://h.example:8443/org/a/b", true),
            ("https://h.example:8443/organ/a.git", false),
            ("https://h.example:8443/org/../other/a.git", false),
            ("https://h.example:8443/org/%2e%2e/other/a.git", false),
            ("https://h.example/org/a.git", false),
            ("http://h.example:8443/org/a.git", false),
            ("https://h.example.evil:8443/org/a.git", false),
            ("https://x@evil.example/h.example:8443/org/a.git", false),
        ] {
            let header = of_git(&environment, "http.extraHeader", url);
            assert_eq!(header == expected, given, "{url}: {header}");
            assert!(header.is_empty() || given, "{url}");
        }
        let redirects = of_git(&environment, "http.followRedirects", "https://h.example:8443/org/a.git");
        assert_eq!(redirects, "false");
    }
    assert_eq!(of_git(&access.of_source(), "http.followRedirects", "https://other/x"), "false");
    assert_eq!(of_git(&access.of_modules(), "http.followRedirects", "https://other/x"), "");
    // not where modules are to have none
    let without = start_without_modules();
    let access = Access::write(&without, folder.path(), false).expect("writes");
    assert!(!format!("{:?}", access.of_modules()).contains("Authorization"));
    assert!(format!("{:?}", access.of_source()).contains("Authorization"));
    access.forget();
    assert!(!folder.path().join(FOLDER).exists());
}

fn start_without_modules() -> JobStart {
    start(SourceAccess { modules: false, ..token("https://h/*") })
}

#[test]
fn what_cannot_be_sent_is_refused_and_files_are_private() {
    let folder = tempfile::tempdir().expect("a folder");
    for bad in [
        SourceAccess { password: "a\nb".into(), ..token("https://h/*") },
        SourceAccess { user: "a:b".into(), ..token("https://h/*") },
        SourceAccess { user: "a\r".into(), ..token("https://h/*") },
        token("https://h/../*"),
    ] {
        let failure = Access::write(&start(bad), folder.path(), false).expect_err("refused");
        assert!(failure.code == Code::CredentialsUnavailable && failure.message.contains("sources.e"), "{failure}");
    }
    let access = SourceAccess { ssh_key: "KEY".into(), known_hosts: "h k".into(), ..token("git@h:org/*") };
    Access::write(&start(access), folder.path(), false).expect("writes");
    for (file, expected) in [("key", 0o600), ("known_hosts", 0o600), ("ca.pem", 0o600), ("ssh", 0o700)] {
        let path = folder.path().join(FOLDER).join(file);
        let mode = std::fs::metadata(path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, expected, "{file}");
    }
}

/// The key that the program names when git asks like that.
fn key_shown(pattern: &str, words: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let (key, known) = (folder.path().join("the key's"), folder.path().join("known"));
    let program = folder.path().join("program");
    std::fs::write(&program, script(&Pattern::parse(pattern).expect(pattern), &key, &known)).expect("writes");
    let ssh = folder.path().join("ssh");
    std::fs::write(&ssh, "#!/bin/sh\nfor w; do case $w in -oIdentityFile=*) printf %s \"${w#*=}\";; esac; done\n")
        .expect("writes");
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o700)).expect("sets");
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let said = Command::new("sh").arg(&program).args(words).env_clear().env("PATH", path).output().expect("runs");
    assert!(said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    let shown = String::from_utf8_lossy(&said.stdout).into_owned();
    if shown == key.display().to_string() { "key".into() } else { shown }
}

#[test]
fn a_key_is_shown_to_the_patterns_place_alone() {
    let own = "git@h.example:org/*";
    for (pattern, words, expected) in [
        (own, &["git@h.example", "git-upload-pack 'org/a.git'"][..], "key"),
        (own, &["-o", "SendEnv=GIT_PROTOCOL", "git@h.example", "git-upload-pack '/org/a.git'"], "key"),
        (own, &["-p", "22", "git@h.example", "git-upload-pack '/org/a.git'"], "key"),
        (own, &["-p", "2222", "git@h.example", "git-upload-pack '/org/a.git'"], "none"),
        (own, &["git@evil.example", "git-upload-pack 'org/a.git'"], "none"),
        (own, &["root@h.example", "git-upload-pack 'org/a.git'"], "none"),
        (own, &["git@h.example", "git-upload-pack 'other/a.git'"], "none"),
        (own, &["git@h.example", "git-upload-pack 'organ/a.git'"], "none"),
        (own, &["git@h.example", "git-upload-pack 'org/../other.git'"], "none"),
        (own, &["git@h.example", "git-receive-pack 'org/a.git'"], "none"),
        (own, &["git@h.example", "x; git-upload-pack 'org/a.git'"], "none"),
        (own, &["git@h.example"], "none"),
        (own, &[], "none"),
        ("git@h.example:org/a", &["git@h.example", "git-upload-pack 'org/a'"], "key"),
        ("git@h.example:org/a", &["git@h.example", "git-upload-pack '/org/a.git'"], "key"),
        ("git@h.example:org/a", &["git@h.example", "git-upload-pack 'org/ab'"], "none"),
        ("git@h.example:org/a", &["git@h.example", "git-upload-pack 'org/a/b'"], "none"),
        ("git@h.example:*", &["git@h.example", "git-upload-pack 'any'"], "key"),
        ("ssh://h.example:2222/*", &["-p", "2222", "h.example", "git-upload-pack '/any'"], "key"),
        ("ssh://h.example:2222/*", &["h.example", "git-upload-pack '/any'"], "none"),
    ] {
        assert_eq!(key_shown(pattern, words), expected, "{pattern} {words:?}");
    }
}
