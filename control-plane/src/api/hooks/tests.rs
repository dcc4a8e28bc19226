//! The examples of the hosts' own documentation, without what is not read here; and signatures, of which some are documented too.

use super::*;
use http::HeaderValue;
use serde_json::json;

const SECRET: &str = "It's a Secret to Everybody";
const HELLO: &[u8] = b"Hello, World!";
/// <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>.
const OF_HELLO: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
const A: &str = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";
const B: &str = "bffeb74224043ba2feb48d137756c8a9331c449a";
const NONE: &str = "0000000000000000000000000000000000000000";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}
fn read(host: Host, event: &str, payload: &Value) -> Option<Event> {
    host.read(event, payload.to_string().as_bytes()).ok()
}
fn why(event: Option<Event>) -> String {
    match event {
        Some(Event::Nothing(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn signatures_of_the_body() {
    let upper = OF_HELLO.to_ascii_uppercase();
    for (host, name, prefix) in [
        (Host::Github, "x-hub-signature-256", "sha256="),
        (Host::Bitbucket, "x-hub-signature", "sha256="),
        (Host::Gitea, "x-gitea-signature", ""),
        (Host::Gitea, "x-forgejo-signature", ""),
    ] {
        let signed = |value: &str| host.is_signed(&headers(&[(name, value)]), HELLO, SECRET, 0);
        assert!(signed(&format!("{prefix}{OF_HELLO}")) && signed(&format!("{prefix}{upper}")), "{name}");
        for bad in [
            String::new(),
            prefix.to_owned(),
            format!("{prefix}{}", OF_HELLO.replace('7', "8")),
            format!("{prefix}{}", &OF_HELLO[1..]),
            format!("{prefix}{OF_HELLO}00"),
            format!("{prefix}{}", "0".repeat(64)),
            format!("{prefix}{}", "zz".repeat(32)),
            format!("sha1={OF_HELLO}"),
        ] {
            assert!(!signed(&bad), "{name} {bad}");
        }
        let good = format!("{prefix}{OF_HELLO}");
        let twice = headers(&[(name, &good), (name, &good)]);
        assert!(!host.is_signed(&twice, HELLO, SECRET, 0), "{name} twice");
        let once = headers(&[(name, &good)]);
        assert!(!host.is_signed(&once, b"Hello, World?", SECRET, 0), "another body");
        assert!(!host.is_signed(&once, HELLO, "another secret", 0));
        assert!(!host.is_signed(&HeaderMap::new(), HELLO, SECRET, 0), "{name} is not there");
    }
    // the weaker one of GitHub's is none, and one host's header is not another's
    assert!(!Host::Github.is_signed(&headers(&[("x-hub-signature", &format!("sha256={OF_HELLO}"))]), HELLO, SECRET, 0));
    // where Forgejo's is wrong Gitea's does not help
    let both = headers(&[("x-forgejo-signature", &"0".repeat(64)), ("x-gitea-signature", OF_HELLO)]);
    assert!(!Host::Gitea.is_signed(&both, HELLO, SECRET, 0));
}

#[test]
fn gitlab_sends_its_token_or_signs() {
    let of = |token: &str| Host::Gitlab.is_signed(&headers(&[("x-gitlab-token", token)]), HELLO, SECRET, 0);
    assert!(of(SECRET));
    for bad in ["", "It's a Secret to Everybod", "It's a Secret to Everybody!", "it's a secret to everybody"] {
        assert!(!of(bad), "{bad}");
    }
    assert!(!Host::Gitlab.is_signed(&HeaderMap::new(), HELLO, SECRET, 0));

    // <https://docs.svix.com/receiving/verifying-payloads/how-manual>
    let (secret, body) = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", br#"{"test": 2432232314}"#);
    let (id, moment) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
    let good = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    assert_eq!(signature(id, moment, body, secret), good);
    let now = 1_614_265_330_000;
    let signed = |id: &str, moment: &str, signature: &str, now: i64| {
        let pairs = [
            ("webhook-id", id),
            ("webhook-timestamp", moment),
            ("webhook-signature", signature),
            ("x-gitlab-token", secret),
        ];
        Host::Gitlab.is_signed(&headers(&pairs), body, secret, now)
    };
    assert!(signed(id, moment, good, now) && signed(id, moment, &format!("v1,AAAA {good}"), now));
    assert!(
        signed(id, moment, good, now + CLOCKS_APART_S * 1000) && signed(id, moment, good, now - CLOCKS_APART_S * 1000)
    );
    for (id, moment, signature, now) in [
        // the token does not help where a signature is wrong
        (id, moment, "v1,AAAA", now),
        (id, moment, "", now),
        (id, moment, "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", now),
        ("msg_other", moment, good, now),
        (id, "1614265331", good, now),
        (id, "", good, now),
        (id, moment, good, now + (CLOCKS_APART_S + 1) * 1000),
        (id, moment, good, now - (CLOCKS_APART_S + 1) * 1000),
    ] {
        assert!(!signed(id, moment, signature, now), "{id} {moment} {signature} {now}");
    }
    let made = Host::Gitlab.secret().expect("a secret");
    assert!(made.starts_with(STANDARD_PREFIX) && Host::Github.secret().expect("a secret").len() == 43);
}

fn github_push() -> Value {
    json!({
        "ref": "refs/heads/main", "before": A, "after": B, "created": false, "deleted": false, "forced": false,
        "repository": {
            "id": 186_853_002, "name": "Hello-World", "full_name": "Codertocat/Hello-World", "default_branch": "main",
            "html_url": "https://github.com/Codertocat/Hello-World", "ssh_url": "git@github.com:Codertocat/Hello-World.git",
            "clone_url": "https://github.com/Codertocat/Hello-World.git",
        },
        "commits": [
            { "id": A, "added": ["modules/a.tf"], "modified": [], "removed": [] },
            { "id": B, "added": [], "modified": ["README.md", "modules/a.tf"], "removed": ["old.tf"] },
        ],
    })
}

#[test]
fn github() {
    assert_eq!(read(Host::Github, "ping", &json!({ "zen": "Keep it logically awesome." })), Some(Event::Ping));
    let expected = Push {
        repository: vec![
            "https://github.com/Codertocat/Hello-World.git".into(),
            "git@github.com:Codertocat/Hello-World.git".into(),
            "https://github.com/Codertocat/Hello-World".into(),
        ],
        branch: "main".into(),
        default_branch: Some("main".into()),
        commit: B.into(),
        files: Some(vec!["README.md".into(), "modules/a.tf".into(), "old.tf".into()]),
    };
    assert_eq!(read(Host::Github, "push", &github_push()), Some(Event::Pushes(vec![expected.clone()])));
    // what has changed is not told
    for (member, value) in
        [("created", json!(true)), ("forced", json!(true)), ("commits", json!([])), ("commits", json!([{ "id": A }]))]
    {
        let mut push = github_push();
        push[member] = value;
        let unknown = Push { files: None, ..expected.clone() };
        assert_eq!(read(Host::Github, "push", &push), Some(Event::Pushes(vec![unknown])), "{member}");
    }
    for (member, value, said) in [("ref", json!("refs/tags/v1"), "no branch"), ("deleted", json!(true), "was deleted")]
    {
        let mut push = github_push();
        push[member] = value;
        assert!(why(read(Host::Github, "push", &push)).contains(said), "{member}");
    }
    for (member, value) in
        [("ref", Value::Null), ("after", json!("abc")), ("after", json!(NONE)), ("repository", Value::Null)]
    {
        let mut push = github_push();
        push[member] = value;
        assert_eq!(read(Host::Github, "push", &push), None, "{member}");
    }
    let pull_request = |action: &str, head: u64| {
        let repository = github_push()["repository"].clone();
        json!({
            "action": action, "number": 2,
            "pull_request": {
                "head": { "ref": "changes", "sha": A, "repo": { "id": head } },
                "base": { "ref": "main", "sha": B, "repo": repository },
            },
        })
    };
    for (head, own) in [(186_853_002, true), (7, false)] {
        let Some(Event::PullRequest(found)) = read(Host::Github, "pull_request", &pull_request("synchronize", head))
        else {
            panic!("no pull request")
        };
        assert_eq!((found.target.as_str(), found.head.as_str(), found.own), ("main", A, own));
    }
    // its repository was deleted
    let mut gone = pull_request("opened", 7);
    gone["pull_request"]["head"]["repo"] = Value::Null;
    assert!(matches!(
        read(Host::Github, "pull_request", &gone),
        Some(Event::PullRequest(PullRequest { own: false, .. }))
    ));
    assert!(why(read(Host::Github, "pull_request", &pull_request("closed", 7))).contains("closed"));
    assert!(why(read(Host::Github, "issues", &json!({}))).contains("issues"));
    assert_eq!(Host::Github.read("push", b"payload=%7B%7D").expect_err("a form").code, Code::InvalidArgument);
}

#[test]
fn gitlab() {
    let project = json!({
        "id": 15, "name": "Diaspora", "web_url": "http://example.com/mike/diaspora", "git_ssh_url": "git@example.com:mike/diaspora.git",
        "git_http_url": "http://example.com/mike/diaspora.git", "default_branch": "master",
    });
    let push = json!({
        "object_kind": "push", "event_name": "push", "before": A, "after": B, "ref": "refs/heads/master", "project": project,
        "commits": [{ "id": B, "added": ["CHANGELOG"], "modified": ["app/controller/application.rb"], "removed": [] }],
        "total_commits_count": 1,
    });
    let Some(Event::Pushes(found)) = read(Host::Gitlab, "Push Hook", &push) else { panic!("no push") };
    assert_eq!((found[0].branch.as_str(), found[0].commit.as_str()), ("master", B));
    assert_eq!(
        found[0].files.as_deref(),
        Some(&["CHANGELOG".to_owned(), "app/controller/application.rb".to_owned()][..])
    );
    for (member, value) in [("total_commits_count", json!(21)), ("before", json!(NONE)), ("commits", json!([]))] {
        let mut more = push.clone();
        more[member] = value;
        let Some(Event::Pushes(found)) = read(Host::Gitlab, "", &more) else { panic!("no push") };
        assert_eq!(found[0].files, None, "{member}");
    }
    let mut gone = push.clone();
    gone["after"] = json!(NONE);
    assert!(why(read(Host::Gitlab, "", &gone)).contains("deleted"));
    let merge_request = |action: &str, oldrev: Value, source: u64| {
        json!({
            "object_kind": "merge_request", "project": project,
            "object_attributes": {
                "iid": 1, "target_branch": "master", "source_branch": "ms-viewport", "source_project_id": source, "target_project_id": 15,
                "last_commit": { "id": A }, "action": action, "oldrev": oldrev,
            },
        })
    };
    for (action, oldrev, source, own) in
        [("open", Value::Null, 14, false), ("reopen", Value::Null, 15, true), ("update", json!(B), 15, true)]
    {
        let Some(Event::PullRequest(found)) = read(Host::Gitlab, "", &merge_request(action, oldrev, source)) else {
            panic!("{action}")
        };
        assert_eq!((found.target.as_str(), found.head.as_str(), found.own), ("master", A, own));
    }
    for action in ["update", "merge", "close", "approved"] {
        assert!(why(read(Host::Gitlab, "", &merge_request(action, Value::Null, 15))).contains(action));
    }
    assert!(why(read(Host::Gitlab, "", &json!({ "object_kind": "issue" }))).contains("issue"));
    assert_eq!(read(Host::Gitlab, "", &json!({})), None);
}

#[test]
fn bitbucket() {
    let repository = json!({
        "type": "repository", "full_name": "team_name/repo_name", "name": "repo_name",
        "links": { "html": { "href": "https://bitbucket.org/team_name/repo_name" } },
    });
    let branch = |name: &str, hash: &str| json!({ "type": "branch", "name": name, "target": { "type": "commit", "hash": hash } });
    let push = json!({
        "repository": repository,
        "push": { "changes": [
            { "new": branch("main", A), "old": branch("main", B) },
            { "new": Value::Null, "old": branch("gone", B), "closed": true },
            { "new": { "type": "tag", "name": "v1", "target": { "hash": A } } },
            { "new": branch("dev", B), "created": true },
        ] },
    });
    let Some(Event::Pushes(found)) = read(Host::Bitbucket, "repo:push", &push) else { panic!("no push") };
    let told: Vec<_> =
        found.iter().map(|push| (push.branch.as_str(), push.commit.as_str(), push.files.is_none())).collect();
    assert_eq!(told, [("main", A, true), ("dev", B, true)]);
    assert!(same_repository("git@bitbucket.org:team_name/repo_name.git", &found[0].repository));
    let none = json!({ "repository": repository, "push": { "changes": [] } });
    assert!(why(read(Host::Bitbucket, "repo:push", &none)).contains("no branch"));
    let pull_request = |hash: &str, source: &str| {
        json!({
            "repository": repository,
            "pullrequest": {
                "id": 1, "source": { "branch": { "name": "branch2" }, "commit": { "hash": hash }, "repository": { "full_name": source } },
                "destination": { "branch": { "name": "main" }, "commit": { "hash": "ce5965ddd289" }, "repository": { "full_name": "team_name/repo_name" } },
            },
        })
    };
    for (hash, source, head, own) in [
        ("d3022fc0ca3d", "team_name/repo_name", "refs/heads/branch2", true),
        (A, "team_name/repo_name", A, true),
        (A, "other/repo_name", A, false),
    ] {
        let Some(Event::PullRequest(found)) = read(Host::Bitbucket, "pullrequest:created", &pull_request(hash, source))
        else {
            panic!("{hash}")
        };
        assert_eq!((found.head.as_str(), found.own), (head, own));
    }
    let fork = read(Host::Bitbucket, "pullrequest:updated", &pull_request("d3022fc0ca3d", "other/repo_name"));
    assert!(why(fork).contains("few digits"));
    assert!(why(read(Host::Bitbucket, "issue:created", &json!({}))).contains("issue:created"));
}

#[test]
fn gitea() {
    let repository = json!({
        "id": 140, "full_name": "gitea/webhooks", "html_url": "http://localhost:3000/gitea/webhooks",
        "ssh_url": "ssh://gitea@localhost:2222/gitea/webhooks.git", "clone_url": "http://localhost:3000/gitea/webhooks.git",
        "default_branch": "master",
    });
    let push = json!({
        "ref": "refs/heads/develop", "before": A, "after": B, "repository": repository, "total_commits": 1,
        "commits": [{ "id": B, "message": "Webhooks Yay!", "added": [], "removed": [], "modified": ["main.tf"] }],
    });
    let Some(Event::Pushes(found)) = read(Host::Gitea, "push", &push) else { panic!("no push") };
    assert_eq!((found[0].branch.as_str(), found[0].files.as_deref()), ("develop", Some(&["main.tf".to_owned()][..])));
    // an older one tells no files, and all of them tell a few commits
    for (member, value) in [("total_commits", json!(2)), ("before", json!(NONE)), ("commits", json!([{ "id": B }]))] {
        let mut more = push.clone();
        more[member] = value;
        let Some(Event::Pushes(found)) = read(Host::Gitea, "push", &more) else { panic!("no push") };
        assert_eq!(found[0].files, None, "{member}");
    }
    let mut gone = push.clone();
    gone["after"] = json!(NONE);
    assert!(why(read(Host::Gitea, "push", &gone)).contains("deleted"));
    let pull_request = |action: &str, head: u64| {
        json!({
            "action": action, "number": 1, "repository": repository,
            "pull_request": { "head": { "ref": "x", "sha": A, "repo_id": head }, "base": { "ref": "master", "sha": B, "repo_id": 140 } },
        })
    };
    for (event, action, head, own) in
        [("pull_request", "opened", 140, true), ("pull_request_sync", "synchronized", 9, false)]
    {
        let Some(Event::PullRequest(found)) = read(Host::Gitea, event, &pull_request(action, head)) else {
            panic!("{event}")
        };
        assert_eq!((found.target.as_str(), found.head.as_str(), found.own), ("master", A, own));
    }
    assert!(why(read(Host::Gitea, "pull_request", &pull_request("closed", 9))).contains("closed"));
    assert!(why(read(Host::Gitea, "create", &json!({}))).contains("create"));
}

#[test]
fn a_payload_of_any_form_is_refused_or_nothing() {
    for host in [Host::Github, Host::Gitlab, Host::Bitbucket, Host::Gitea] {
        assert_eq!(Host::named(host.as_str()), Some(host));
        for event in ["push", "repo:push", "pull_request", "pullrequest:created", "", "x"] {
            for payload in [
                json!(null),
                json!([]),
                json!(1),
                json!({ "ref": 1 }),
                json!({ "object_kind": "push", "ref": "refs/heads/" }),
            ] {
                assert!(
                    matches!(read(host, event, &payload), None | Some(Event::Nothing(_))),
                    "{host:?} {event} {payload}"
                );
            }
        }
        let deep = "[".repeat(100_000);
        assert!(host.read("push", deep.as_bytes()).is_err());
    }
    assert_eq!(Host::named("gitHub"), None);
}
