//! Entries of sources: good ones, those that say what does not go together, and which of them is for an address.

use super::*;

fn check(text: &str) -> Result<Sources, String> {
    let file: FileSources = toml::from_str(text).map_err(|e| e.to_string())?;
    file.check().map_err(|e| e.0)
}

const TOKEN: &str = "kind = \"token\"\ntoken_file = \"/k/token\"\n";
const SSH: &str = "kind = \"ssh\"\nkey_file = \"/k/key\"\nknown_hosts_file = \"/k/hosts\"\n";
const APP: &str = "kind = \"github-app\"\napp_id = 1\ninstallation_id = 2\nprivate_key_file = \"/k/app\"\n";

fn one(pattern: &str, lines: &str) -> Result<SourceEntry, String> {
    let mut sources = check(&format!("[x]\nmatch = {pattern:?}\n{lines}"))?;
    Ok(sources.entries.remove("x").expect("the entry"))
}

#[test]
fn entries_and_what_they_say() {
    let none = check("").expect("nothing is good");
    assert_eq!((none.allow_file, none.cache, none.entries.len()), (false, CACHE_MIB_DEFAULT << 20, 0));
    let entry = one("https://h/org/*", TOKEN).expect("a token");
    let expected = Access::Token { user: USER_DEFAULT.into(), from: TokenFrom::File("/k/token".into()) };
    assert_eq!((&entry.access, entry.modules), (&expected, true));
    assert_eq!(entry.shown(), "https://h/org/* token");
    let entry = one("oci://h/org/*", "kind = \"token\"\nuser = \"u\"\ntoken_variable = \"T\"\nmodules = false\n");
    assert!(!entry.expect("a variable").modules);
    let entry = one("git@h:org/*", SSH).expect("a key");
    let files: Vec<_> = entry.files().map(|file| file.display().to_string()).collect();
    assert_eq!(files, ["/k/key", "/k/hosts"]);
    let signed = "require_signature = { ssh_allowed_signers = \"/k/signers\" }\nca_file = \"/k/ca\"\n";
    let entry = one("https://h/org/*", &format!("{APP}{signed}")).expect("an app");
    assert!(
        matches!(&entry.access, Access::GithubApp { app_id, api_url, .. } if app_id == "1" && api_url == GITHUB_API)
    );
    assert_eq!(entry.files().count(), 3);
    assert!(entry.shown().ends_with("github-app signed"));
    assert!(one("https://h/org/*", "kind = \"none\"\n").is_ok());
}

#[test]
fn what_does_not_go_together_is_named() {
    for (pattern, lines, says) in [
        ("https://h/or*", TOKEN, "match"),
        ("http://h/org/*", TOKEN, "match"),
        ("https://u:p@h/*", TOKEN, "match"),
        ("git@h:org/*", TOKEN, "not for addresses of SSH"),
        ("https://h/*", SSH, "for addresses of SSH"),
        ("git@h:org/*", APP, "https://"),
        ("https://h/*", "kind = \"token\"\n", "token_file or token_variable"),
        ("https://h/*", "kind = \"token\"\ntoken_file = \"relative\"\n", "absolute"),
        ("https://h/*", "kind = \"token\"\ntoken_file = \"/t\"\ntoken_variable = \"T\"\n", "token_file or"),
        ("https://h/*", "kind = \"token\"\ntoken_variable = \"A B\"\n", "token_variable"),
        ("https://h/*", &format!("{TOKEN}user = \"a:b\"\n"), "user"),
        ("https://h/*", &format!("{TOKEN}key_file = \"/k\"\n"), "do not belong"),
        ("git@h:*", "kind = \"ssh\"\nkey_file = \"/k\"\n", "known_hosts_file"),
        ("git@h:*", "kind = \"ssh\"\nknown_hosts_file = \"/k\"\n", "key_file"),
        ("https://h/*", &APP.replace("app_id = 1\n", ""), "app_id"),
        ("https://h/*", &APP.replace("installation_id = 2\n", ""), "installation_id"),
        ("https://h/*", &format!("{APP}api_url = \"ftp://x\"\n"), "api_url"),
        ("https://h/*", "kind = \"magic\"\n", "is not one"),
        ("https://h/*", &format!("{TOKEN}require_signature = {{}}\n"), "require_signature"),
        ("oci://h/*", &format!("{TOKEN}require_signature = {{ gpg_keyring = \"/k\" }}\n"), "commits of Git"),
        ("https://h/*", &format!("{TOKEN}other = 1\n"), "other"),
    ] {
        let said = one(pattern, lines).expect_err(says);
        assert!(said.contains(says), "{pattern} {lines}: {said}");
    }
    let twice = format!("[a]\nmatch = \"https://h/*\"\n{TOKEN}[b]\nmatch = \"https://H:443/*\"\n{TOKEN}");
    assert!(check(&twice).expect_err("twice").contains("sources.a"));
    assert!(check("[\"a b\"]\nmatch = \"https://h/*\"\nkind = \"none\"").expect_err("a name").contains("letters"));
    let many =
        |n: usize| (0..n).map(|i| format!("[e{i}]\nmatch = \"https://h{i}/*\"\nkind = \"none\"\n")).collect::<String>();
    assert!(check(&many(ENTRIES_MAX)).is_ok());
    assert!(check(&many(ENTRIES_MAX + 1)).is_err());
    assert!(check(&format!("cache_mib = {CACHE_MIB_MAX}")).is_ok());
    assert!(check(&format!("cache_mib = {}", CACHE_MIB_MAX + 1)).expect_err("too much").contains("cache_mib"));
}

#[test]
fn the_narrowest_entry_is_the_one() {
    let text = format!(
        "[all]\nmatch = \"https://h/*\"\n{TOKEN}[org]\nmatch = \"https://h/org/*\"\n{TOKEN}\
         [one]\nmatch = \"https://h/org/app\"\n{TOKEN}[ssh]\nmatch = \"git@h:org/*\"\n{SSH}"
    );
    let sources = check(&text).expect("entries");
    let entry = |url: &str| sources.entry(&Place::of_git(url).expect(url)).map(|(name, _)| name.to_owned());
    for (url, name) in [
        ("https://h/x", Some("all")),
        ("https://h/org/net", Some("org")),
        ("https://h/org/app.git", Some("one")),
        ("git@h:org/app", Some("ssh")),
        ("git@h:other/app", None),
        ("https://other/org/app", None),
        ("https://h/org/../x", None),
    ] {
        assert_eq!(entry(url).as_deref(), name, "{url}");
    }
}
