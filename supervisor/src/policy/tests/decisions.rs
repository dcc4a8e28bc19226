//! Requests and rules.

use super::*;
use proptest::prelude::*;

const TEAM: &str = include_str!("../testdata/team.policy.toml");
const TEAM_CASES: &str = include_str!("../testdata/team.cases.toml");

fn policy(text: &str) -> Policy {
    Policy::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}
/// One section of Kubernetes with these rules.
fn kubernetes(rules: &str) -> Policy {
    policy(&format!("version = 1\n[kubernetes]\n{rules}"))
}
fn rule(name: &str, effect: &str, rest: &str) -> String {
    format!("[[kubernetes.rule]]\nname = '{name}'\neffect = '{effect}'\n{rest}\n")
}
fn by(policy: &Policy, method: &str, target: &str) -> String {
    let decision = policy.decide(&asked(method, target), noon());
    format!("{} {}", decision.effect.as_str(), decision.by.name())
}

#[test]
fn the_table() {
    let cases = Cases::parse(TEAM_CASES).unwrap();
    let results = cases.run(&policy(TEAM));
    assert!(results.len() > 150);
    let failed: Vec<&str> = results.iter().filter(|r| !r.passed).map(|r| r.shown.as_str()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn what_holds_without_rules() {
    let request = asked("DELETE", "/api/v1/namespaces/web");
    let decide = |policy: &Policy| {
        let decision = policy.decide(&request, noon());
        assert!(!decision.secrets.shows("Opaque") && decision.limit.is_none());
        (decision.effect, decision.by)
    };
    let section = Section::Kubernetes;
    assert_eq!(decide(&Policy::absent()), (Effect::Allow, By::NoPolicy));
    assert_eq!(decide(&policy("version = 1")), (Effect::Allow, By::NoSection(section)));
    assert!(Policy::parse("# nothing\n").is_err());
    assert_eq!(decide(&policy("version = 1\n[jobs]\n")), (Effect::Allow, By::NoSection(section)));
    assert_eq!(decide(&policy("version = 1\n[kubernetes]\n")), (Effect::Deny, By::Default(section)));
    let broken = Policy::broken("line 3: it is\nnot");
    assert_eq!(decide(&broken), (Effect::Deny, By::Broken));
    let sentence = broken.decide(&request, noon()).sentence;
    assert!(sentence.contains("line 3: it is?not") && sentence.contains("delete namespaces \"web\""), "{sentence}");
}

#[test]
fn the_first_rule_that_matches_decides() {
    let (allow, deny) = (rule("a", "allow", "verbs = ['get']"), rule("d", "deny", "namespaces = ['web']"));
    assert_eq!(by(&kubernetes(&format!("{allow}{deny}")), "GET", "/api/v1/namespaces/web/pods/a"), "allow a");
    assert_eq!(by(&kubernetes(&format!("{deny}{allow}")), "GET", "/api/v1/namespaces/web/pods/a"), "deny d");
}

#[test]
fn no_rule_opens_exec_again() {
    let all = rule("all", "allow", "");
    let closed = kubernetes(&format!("exec = false\n{all}"));
    for (method, target) in [
        ("GET", "/api/v1/namespaces/a/pods/b/exec?command=tar"),
        ("POST", "/api/v1/namespaces/a/pods/b/exec"),
        ("POST", "/api/v1/namespaces/a/pods/b/attach"),
        ("GET", "/api/v1/namespaces/a/pods/b/portforward"),
        ("GET", "/api/v1/namespaces/a/pods/b/proxy/"),
        ("GET", "/api/v1/namespaces/a/services/b/proxy/"),
        ("GET", "/api/v1/nodes/b/proxy/run/a/b/c"),
        ("GET", "/api/v1/proxy/nodes/b"),
        ("GET", "/api/v1/watch/namespaces/a/pods/b/exec"),
        ("PATCH", "/api/v1/namespaces/a/pods/b/ephemeralcontainers"),
    ] {
        assert_eq!(by(&closed, method, target), "deny (exec = false of section kubernetes)", "{target}");
        assert_eq!(by(&kubernetes(&all), method, target), "allow all", "{target}");
    }
    for target in ["/api/v1/namespaces/a/pods/b/log", "/api/v1/namespaces/a/pods/b/ephemeralcontainers", "/exec"] {
        assert_eq!(by(&closed, "GET", target), "allow all", "{target}");
    }
}

#[test]
fn what_is_not_known_is_not_allowed_and_may_be_denied() {
    let unknown = Request {
        person: None,
        groups: None,
        connections: vec!["prod".to_owned()],
        what: What::Kubernetes(Box::new(Attributes::of_operation("list", "pods", Namespace::Unknown, ""))),
    };
    for keys in ["people = ['ann']", "groups = ['x']", "namespaces = ['web']", "names = ['a']"] {
        let decide = |effect| {
            kubernetes(&format!("{}{}", rule("r", effect, keys), rule("z", "allow", ""))).decide(&unknown, noon())
        };
        assert_eq!(decide("deny").by, By::Rule("r".into()), "{keys}");
        assert_eq!(decide("allow").by, By::Rule("z".into()), "{keys}");
    }
    // with `*` nothing has to be known
    let any = kubernetes(&rule("r", "allow", "people = ['*']\nnamespaces = ['*']\nnames = ['*']"));
    assert_eq!(any.decide(&unknown, noon()).by, By::Rule("r".into()));
}

#[test]
fn a_denial_covers_more_than_it_names() {
    let services = "resources = ['services']";
    for (keys, method, target, expected) in [
        ("containers = ['a']", "GET", "/api/v1/namespaces/web/pods/b/portforward", true),
        ("containers = ['a']", "GET", "/api/v1/nodes/b/proxy/run/web/b/a", true),
        ("containers = ['a']", "PATCH", "/api/v1/namespaces/web/pods/b/ephemeralcontainers", true),
        ("containers = ['a']", "GET", "/api/v1/namespaces/web/pods/b", false),
        (services, "GET", "/api/v1/proxy/namespaces/web/services/b/x", true),
        (services, "GET", "/api/v1/namespaces/web/services/b/proxy/x", false),
        ("resources = ['pods.*']", "GET", "/api/v1/namespaces/web/pods/b", false),
        ("resources = ['pods.']", "GET", "/apis/metrics.k8s.io/v1beta1/namespaces/web/pods/b", false),
        ("resources = ['pods']", "GET", "/apis/metrics.k8s.io/v1beta1/namespaces/web/pods/b", true),
    ] {
        let policy = kubernetes(&format!("{}{}", rule("d", "deny", keys), rule("a", "allow", "")));
        let expected = if expected { "deny d" } else { "allow a" };
        assert_eq!(by(&policy, method, target), expected, "{keys} {target}");
    }
    // what is covered is not what is certain: no allow rule goes that far
    let policy = kubernetes(&rule("a", "allow", services));
    assert_eq!(by(&policy, "GET", "/api/v1/proxy/namespaces/web/services/b/x"), "deny (default of section kubernetes)");
}

#[test]
fn the_stores_that_a_job_refers_to_are_all_allowed_or_any_is_denied() {
    let request = |stores: &[&str]| {
        let secret_stores = stores.iter().map(|name| (*name).to_owned()).collect();
        let (kind, engine, stack) = ("update".to_owned(), "opentofu".to_owned(), "s".to_owned());
        let job = JobCall { kind, engine, stack, source: JobSource::Upload, secret_stores };
        Request { person: None, groups: None, connections: Vec::new(), what: What::Job(job) }
    };
    let allowed = |effect: &str, stores: &[&str]| {
        let mut rules = format!(
            "version = 1\n[[jobs.rule]]\nname = 'r'\neffect = '{effect}'\nsecret_stores = ['team-*', 'files']\n"
        );
        if effect == "deny" {
            rules.push_str("[[jobs.rule]]\nname = 'rest'\neffect = 'allow'\n");
        }
        policy(&rules).decide(&request(stores), noon()).is_allowed()
    };
    for (stores, by_allow, by_deny) in [
        (&[][..], true, true),
        (&["files"], true, false),
        (&["files", "team-a"], true, false),
        (&["files", "other"], false, false),
        (&["other"], false, true),
    ] {
        assert_eq!((allowed("allow", stores), allowed("deny", stores)), (by_allow, by_deny), "{stores:?}");
    }
}

#[test]
fn an_empty_word_is_none_that_is_known() {
    let mut request = asked("POST", "/api/v1/namespaces/web/pods/b/exec");
    if let What::Kubernetes(it) = &mut request.what {
        it.namespace = Namespace::Named(String::new());
        it.container = Some(String::new());
    }
    for keys in ["namespaces = ['web']", "containers = ['a']"] {
        assert!(!kubernetes(&rule("a", "allow", keys)).decide(&request, noon()).is_allowed());
        let denied = kubernetes(&format!("{}{}", rule("d", "deny", keys), rule("a", "allow", "")));
        assert_eq!(denied.decide(&request, noon()).by, By::Rule("d".into()), "{keys}");
    }
    let words = |text: &str| text.to_owned();
    let source = JobSource::Host(String::new());
    let job = JobCall {
        kind: words("update"),
        engine: words("opentofu"),
        stack: words("s"),
        source,
        secret_stores: Vec::new(),
    };
    let request = Request { person: Some(String::new()), groups: None, connections: Vec::new(), what: What::Job(job) };
    for keys in ["source_hosts = ['*']", "people = ['a']"] {
        let of = |effect| policy(&format!("version = 1\n[[jobs.rule]]\nname = 'r'\neffect = '{effect}'\n{keys}\n"));
        assert_eq!(of("allow").decide(&request, noon()).by, By::Default(Section::Jobs), "{keys}");
        assert_eq!(of("deny").decide(&request, noon()).by, By::Rule("r".into()), "{keys}");
    }
}

#[test]
fn an_operation_of_a_cloud_that_is_not_known() {
    let request = |operation| Request {
        person: Some("ann".to_owned()),
        groups: None,
        connections: vec!["acc".to_owned()],
        what: What::Aws(CloudCall::aws("s3", operation, Some("eu-west-1"))),
    };
    let of = |rules: &str| policy(&format!("version = 1\n[aws]\n{rules}"));
    let all = "[[aws.rule]]\nname = 'all'\neffect = 'allow'\n";
    let read = "[[aws.rule]]\nname = 'read'\neffect = 'allow'\nread_only = true\n";
    let named = "[[aws.rule]]\nname = 'named'\neffect = 'deny'\nactions = ['ec2:*']\n";
    assert_eq!(of(all).decide(&request(None), noon()).by, By::Rule("all".into()));
    assert_eq!(of(read).decide(&request(None), noon()).by, By::Default(Section::Aws));
    // wherever the rule stands
    assert_eq!(of(&format!("{all}{named}")).decide(&request(None), noon()).by, By::UnknownOperation(Section::Aws));
    assert_eq!(of(&format!("{named}{all}")).decide(&request(Some("PutObject")), noon()).by, By::Rule("all".into()));
    let star = "[[aws.rule]]\nname = 'star'\neffect = 'allow'\nactions = ['*']\n";
    assert!(!of(star).decide(&request(None), noon()).is_allowed());
}

#[test]
fn actions_that_no_operation_is_called_are_warned_of() {
    let policy = |actions: &str| {
        let text = format!("version = 1\n[aws]\n[[aws.rule]]\nname = 'r'\neffect = 'deny'\nactions = {actions}\n");
        Policy::parse(&text).unwrap()
    };
    assert!(policy("['s3:ListObjectsV2', 'ec2:*', 'S3:GETOBJECT']").warnings().is_empty());
    let warnings = policy("['s3:ListBucket', 's3:GetObject', 'iam:PassRole']").warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("rule r: ") && warnings[0].contains("called s3:ListBucket, so"), "{warnings:?}");
    assert!(Policy::absent().warnings().is_empty() && Policy::broken("x").warnings().is_empty());
}

#[test]
fn it_explains_itself() {
    let policy = kubernetes(
        &[
            rule("people", "allow", "people = ['bob', 'eve*']"),
            rule("across", "allow", "namespaces = ['web']\nresources = ['pods']"),
            rule("night", "allow", "hours = '22:00-06:00'"),
            rule("stop", "deny", "namespaces = ['web']"),
            rule("never", "allow", ""),
        ]
        .concat(),
    );
    let decision = policy.decide(&asked("GET", "/api/v1/pods"), noon());
    assert_eq!(
        decision.explain(),
        [
            "rule people (allow): people = [bob, eve*] does not match: asked is \"ann\"",
            "rule across (allow): namespaces = [web] cannot be told to match: asked is (every one)",
            "rule night (allow): hours = [22:00-06:00] does not match now",
            "rule stop (deny): matches",
            "deny: rule stop of the runner's policy denies list pods in every namespace",
        ]
    );
}

#[test]
fn bounds_come_with_what_is_allowed() {
    let policy = kubernetes(&rule("few", "allow", "concurrency = 1\nrate = '2/hour'"));
    let decision = policy.decide(&asked("GET", "/version"), noon());
    let limit = decision.limit.unwrap();
    let (limits, now) = (Limits::default(), std::time::Instant::now());
    let permit = limits.take(&limit, now).unwrap();
    let refused = limits.take(&limit, now).unwrap_err().to_string();
    assert!(refused.contains("rule \"few\"") && refused.contains("1 at once"), "{refused}");
    drop(permit);
    assert!(policy.has_rule("few") && !policy.has_rule("many"));
}

#[test]
fn a_case_that_fails_says_how() {
    let cases = Cases::parse(
        "[[case]]\nname = 'shell'\nkubernetes = 'GET /api/v1/namespaces/a/pods/b/exec'\nexpect = 'allow'\nrule = 'x'\n",
    )
    .unwrap();
    let results = cases.run(&policy("version = 1\n[kubernetes]\n"));
    assert_eq!(
        results[0].shown,
        "FAIL  shell (line 1): expected allow by x, got deny by (default of section kubernetes): no rule of section \
         kubernetes of the runner's policy allows create pods/exec \"b\" in namespace \"a\""
    );
    assert!(!results[0].passed);
}

/// Some rule of Kubernetes.
fn some_rule() -> impl Strategy<Value = (bool, String)> {
    let pick = |key: &'static str, values: &'static [&'static str]| {
        proptest::option::of(proptest::sample::select(values))
            .prop_map(move |value| value.map(|value| format!("{key} = ['{value}']\n")).unwrap_or_default())
    };
    (
        any::<bool>(),
        pick("people", &["ann", "b*", "*"]),
        pick("groups", &["developers", "x"]),
        pick("verbs", &["get", "list", "create", "*"]),
        pick("resources", &["pods", "pods/exec", "secrets", "*", "*/log"]),
        pick("namespaces", &["web", "*", "kube-*"]),
        pick("names", &["a", "b*", "*"]),
    )
        .prop_map(|(allow, people, groups, verbs, resources, namespaces, names)| {
            (allow, [people, groups, verbs, resources, namespaces, names].concat())
        })
}
fn some_request() -> impl Strategy<Value = Request> {
    let method = proptest::sample::select(vec!["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]);
    let target =
        "/api/v1(/namespaces/(web|kube-system))?/(pods|secrets|nodes)(/(a|bb)(/(exec|log|proxy/x))?)?(\\?watch=1)?";
    let person = proptest::option::of(proptest::sample::select(vec!["ann", "bob"]));
    let groups = proptest::option::of(proptest::collection::vec("developers|y", 0..2));
    (method, target, person, groups).prop_map(|(method, target, person, groups)| Request {
        person: person.map(str::to_owned),
        groups,
        ..asked(method, &target)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_allowed_without_a_rule_that_allows_it(
        rules in proptest::collection::vec(some_rule(), 0..6),
        exec in any::<bool>(),
        request in some_request(),
    ) {
        // rules that can match nothing are refused when they are read
        let rules: Vec<(String, bool, String)> = rules.into_iter().enumerate()
            .map(|(at, (allow, keys))| (format!("r{at}"), allow, keys))
            .filter(|(name, allow, keys)| {
                let text = format!("version = 1\n[kubernetes]\nexec = {exec}\n{}", rule(name, if *allow { "allow" } else { "deny" }, keys));
                Policy::parse(&text).is_ok()
            })
            .collect();
        let write = |keep: &dyn Fn(&str, bool) -> bool| {
            let kept = rules.iter().filter(|(name, allow, _)| keep(name, *allow));
            let text: String = kept.map(|(name, allow, keys)| rule(name, if *allow { "allow" } else { "deny" }, keys)).collect();
            kubernetes(&format!("exec = {exec}\n{text}"))
        };
        let decision = write(&|_, _| true).decide(&request, noon());
        match &decision.by {
            By::Rule(by) => {
                // alone it decides the same
                let alone = write(&|name, _| name == &**by).decide(&request, noon());
                prop_assert_eq!(&alone.by, &decision.by);
                // and no denial stands before an allowance
                let denials = write(&|_, allow| !allow).decide(&request, noon());
                let first = |name: &str| rules.iter().position(|(n, ..)| n == name);
                if let (Effect::Allow, By::Rule(denial)) = (decision.effect, &denials.by) {
                    prop_assert!(first(denial) > first(by));
                }
            }
            by => {
                prop_assert!(matches!(by, By::Default(_) | By::Exec));
                prop_assert_eq!(decision.effect, Effect::Deny);
            }
        }
        // fewer allowances allow no more, whatever is denied
        if decision.effect == Effect::Deny {
            prop_assert!(!write(&|name, allow| !allow || name.ends_with(['1', '3'])).decide(&request, noon()).is_allowed());
        }
        prop_assert!(!write(&|_, allow| !allow).decide(&request, noon()).is_allowed());
        // with exec = false no way in is open
        if let What::Kubernetes(it) = &request.what && !exec && it.way_in().is_some() {
            prop_assert_eq!(decision.by, By::Exec);
        }
    }

    #[test]
    fn who_says_less_is_allowed_no_more(rules in proptest::collection::vec(some_rule(), 0..5), request in some_request()) {
        let text: String = rules.iter().enumerate()
            .map(|(at, (allow, keys))| rule(&format!("r{at}"), if *allow { "allow" } else { "deny" }, keys))
            .collect();
        let Ok(policy) = Policy::parse(&format!("version = 1\n[kubernetes]\n{text}")) else { return Ok(()) };
        let less = Request { person: None, groups: None, ..request.clone() };
        if policy.decide(&less, noon()).is_allowed() {
            // every way to say more is allowed then
            for person in ["ann", "bob"] {
                for groups in [vec![], vec!["developers".to_owned()]] {
                    let more = Request { person: Some(person.to_owned()), groups: Some(groups), ..request.clone() };
                    prop_assert!(policy.decide(&more, noon()).is_allowed());
                }
            }
        }
    }
}

/// What has a terminal is recorded where the rule says so, and nothing else is; a rule that could record nothing is a mistake.
#[test]
fn terminals_are_recorded_where_a_rule_says_so() {
    let rule = |keys: &str| {
        format!("version = 1\n[kubernetes]\n[[kubernetes.rule]]\nname = \"r\"\neffect = \"allow\"\n{keys}\n")
    };
    let policy = Policy::parse(&rule("record = true")).unwrap();
    let pod = "/api/v1/namespaces/web/pods/a";
    for (method, target, recorded) in [
        ("GET", format!("{pod}/exec?command=sh"), true),
        ("POST", format!("{pod}/exec?command=sh"), true),
        ("POST", format!("{pod}/attach"), true),
        ("GET", "/apis/subresources.kubevirt.io/v1/namespaces/web/virtualmachineinstances/a/console".to_owned(), true),
        ("GET", "/api/v1/nodes/n/proxy/exec/web/a/app?command=sh".to_owned(), true),
        ("GET", format!("{pod}/proxy/"), false),
        ("POST", format!("{pod}/portforward"), false),
        ("PATCH", format!("{pod}/ephemeralcontainers"), false),
        ("GET", format!("{pod}/log"), false),
        ("GET", pod.to_owned(), false),
    ] {
        let decision = policy.decide(&asked(method, &target), noon());
        assert!(decision.is_allowed() && decision.record == recorded, "{method} {target}");
        let says = decision.explain().iter().any(|line| line.starts_with("recorded"));
        assert_eq!(says, recorded, "{method} {target}");
    }
    let without = Policy::parse(&rule("record = false")).unwrap();
    assert!(!without.decide(&asked("POST", &format!("{pod}/exec")), noon()).record);
    assert_eq!((policy.recording_rules().len(), without.recording_rules().len()), (1, 0));
    for (text, says) in [
        (rule("record = true\nread_only = true"), "no reads"),
        (rule("record = true\nverbs = [\"get\"]"), "create"),
        (rule("record = true\npaths = [\"/x\"]"), "paths"),
        (rule("record = 1"), "true or false"),
        (rule("record = true").replace("[kubernetes]\n", "[kubernetes]\nexec = false\n"), "exec = false"),
        (rule("record = true").replace("allow", "deny"), "leave it out"),
        (rule("record = true").replace("kubernetes", "aws"), "no such key"),
    ] {
        let said = Policy::parse(&text).unwrap_err().to_string();
        assert!(said.contains(says), "{text}: {said}");
    }
    let case = |record: bool| {
        let text =
            format!("[[case]]\nname = 'c'\nexpect = 'allow'\nkubernetes = 'POST {pod}/exec'\nrecord = {record}\n");
        Cases::parse(&text).unwrap().run(&policy).remove(0)
    };
    assert!(case(true).passed);
    let wrong = case(false);
    assert!(
        !wrong.passed && wrong.shown.contains("expected allow not recorded, got allow by r recorded"),
        "{}",
        wrong.shown
    );
}

#[test]
fn what_reconciles_is_applied_without_asking_by_a_rule_alone() {
    let job = |stack: &str| Request {
        person: Some("ann".into()),
        groups: Some(Vec::new()),
        connections: Vec::new(),
        what: What::Job(JobCall {
            kind: "update".into(),
            engine: "opentofu".into(),
            stack: stack.into(),
            source: JobSource::Upload,
            secret_stores: Vec::new(),
        }),
    };
    let policy = Policy::parse(
        "version = 1\n[jobs]\n[[jobs.rule]]\nname = \"web\"\neffect = \"allow\"\nstacks = [\"web-*\"]\nreconcile = true\n\
         [[jobs.rule]]\nname = \"rest\"\neffect = \"allow\"\n",
    )
    .unwrap();
    assert!(policy.decide(&job("web-1"), noon()).reconcile);
    assert!(!policy.decide(&job("db"), noon()).reconcile);
    for none in [
        "version = 1\n",
        "version = 1\n[jobs]\n",
        "version = 1\n[jobs]\n[[jobs.rule]]\nname = \"a\"\neffect = \"allow\"\n",
    ] {
        assert!(!Policy::parse(none).unwrap().decide(&job("web-1"), noon()).reconcile, "{none}");
    }
    let denies = "version = 1\n[jobs]\n[[jobs.rule]]\nname = \"a\"\neffect = \"deny\"\nreconcile = true\n";
    assert!(Policy::parse(denies).is_err());
}
