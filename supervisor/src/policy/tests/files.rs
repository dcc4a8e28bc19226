//! Files that are no policy, and what is said of them.

use super::*;

fn wrong(text: &str) -> String {
    match Policy::parse(text) {
        Err(e) => e.to_string(),
        Ok(_) => panic!("it was taken:\n{text}"),
    }
}

#[test]
fn what_is_wrong_is_said_with_line_rule_and_key() {
    let kubernetes = |keys: &str| {
        format!("version = 1\n[kubernetes]\n[[kubernetes.rule]]\nname = \"r\"\neffect = \"allow\"\n{keys}\n")
    };
    let aws = |keys: &str| format!("version = 1\n[aws]\n[[aws.rule]]\nname = \"r\"\neffect = \"allow\"\n{keys}\n");
    let jobs = |keys: &str| format!("version = 1\n[jobs]\n[[jobs.rule]]\nname = \"r\"\neffect = \"allow\"\n{keys}\n");
    let k = "line 6: [kubernetes] rule \"r\", key ";
    for (text, expected) in [
        ("version = ", "line 1: ".to_owned()),
        ("version = 1\n[kubernetes\n", "line 2: ".to_owned()),
        ("version = 1\nversion = 1\n", "line 2: ".to_owned()),
        ("version = 2\n", "line 1: key version: this runner knows version 1".to_owned()),
        ("version = \"1\"\n", "line 1: key version: it is a text, it must be a whole number".to_owned()),
        ("[kubernetes]\n", "key version: the file needs `version = 1`".to_owned()),
        (
            "version = 1\n[kubernets]\n",
            "line 2: key \"kubernets\": there is no such key here; there are version, kubernetes".to_owned(),
        ),
        (
            "version = 1\n[[kubernetes]]\nname = 'x'\n",
            "line 2: [kubernetes]: the section is a table: write [kubernetes]".to_owned(),
        ),
        ("version = 1\nkubernetes = 1\n", "line 2: [kubernetes]: it is a number, it must be a table".to_owned()),
        (
            "version = 1\n[kubernetes]\nexec = 0\n",
            "line 3: [kubernetes], key exec: it is a number, it must be true or false".to_owned(),
        ),
        (
            "version = 1\n[jobs]\nexec = false\n",
            "line 3: [jobs], key \"exec\": there is no such key here; there are rule".to_owned(),
        ),
        (
            "version = 1\n[jobs]\nrule = 1\n",
            "line 3: [jobs], key rule: it is a number, it must be a list of tables".to_owned(),
        ),
        (
            "version = 1\n[jobs]\n[[jobs.rule]]\neffect = 'allow'\n",
            "line 3: [jobs] a rule, key name: the rule has no name".to_owned(),
        ),
        (
            "version = 1\n[jobs]\n[[jobs.rule]]\nname = ''\neffect = 'allow'\n",
            "line 4: [jobs] rule \"\", key name: a name has letters".to_owned(),
        ),
        ("version = 1\n[jobs]\n[[jobs.rule]]\nname = 'a b'\n", "line 4: [jobs] rule \"a b\", key name: ".to_owned()),
        (
            "version = 1\n[jobs]\n[[jobs.rule]]\nname = 'a'\n",
            "line 3: [jobs] rule \"a\", key effect: it must be \"allow\" or \"deny\"".to_owned(),
        ),
        (
            "version = 1\n[jobs]\n[[jobs.rule]]\nname = 'a'\neffect = 'Allow'\n",
            "line 5: [jobs] rule \"a\", key effect: ".to_owned(),
        ),
        (
            "version = 1\n[[jobs.rule]]\nname = 'a'\neffect = 'allow'\n[[aws.rule]]\nname = 'a'\neffect = 'allow'\n",
            "line 2: [jobs] rule \"a\", key name: a rule at line 5 has that name already".to_owned(),
        ),
        (
            "version = 1\n[[jobs.rule]]\nname = 'a'\neffect = 'deny'\nrate = '1/hour'\n",
            "line 5: [jobs] rule \"a\", key rate: it bounds what a rule allows, and this one denies".to_owned(),
        ),
        (
            "version = 1\n[[kubernetes.rule]]\nname = 'a'\neffect = 'deny'\nread_only = true\n",
            "line 5: [kubernetes] rule \"a\", key read_only: ".to_owned(),
        ),
        (
            &kubernetes("kinds = ['update']"),
            format!("{k}\"kinds\": there is no such key here; there are name, effect, people"),
        ),
        (&kubernetes("verbs = 'get'"), format!("{k}verbs: it is a text, it must be a list of texts")),
        (
            &kubernetes("verbs = ['get',\n\n 1]"),
            "line 8: [kubernetes] rule \"r\", key verbs: it is a number, it must be a text".to_owned(),
        ),
        (&kubernetes("verbs = []"), format!("{k}verbs: the list is empty, so that the rule cannot match")),
        (
            &kubernetes("verbs = ['get',\n'lits']"),
            "line 7: [kubernetes] rule \"r\", key verbs: \"lits\" cannot match: there are get, list".to_owned(),
        ),
        (&kubernetes("verbs = ['GET']"), format!("{k}verbs: \"GET\" cannot match")),
        (&kubernetes("people = ['']"), format!("{k}people: a pattern is empty")),
        (&kubernetes("people = ['a ']"), format!("{k}people: \"a \" begins or ends with a space")),
        (&kubernetes("resources = ['Pods']"), format!("{k}resources: \"Pods\" has a character")),
        (&kubernetes("resources = ['pods/']"), format!("{k}resources: \"pods/\" is no resource")),
        (&kubernetes("resources = ['/exec']"), format!("{k}resources: \"/exec\" is no resource")),
        (&kubernetes("resources = ['a/b/c']"), format!("{k}resources: \"a/b/c\" is no resource")),
        (&kubernetes("resources = ['pods/exec.apps']"), format!("{k}resources: ")),
        (&kubernetes("resources = ['.apps']"), format!("{k}resources: ")),
        (&kubernetes("namespaces = ['Web']"), format!("{k}namespaces: \"Web\" cannot match")),
        (&kubernetes("namespaces = ['a.b']"), format!("{k}namespaces: ")),
        (&kubernetes("names = ['a/b']"), format!("{k}names: ")),
        (&kubernetes("names = ['a b']"), format!("{k}names: \"a b\" has a space, `/` or `%`")),
        (&kubernetes("paths = ['/a b']"), format!("{k}paths: \"/a b\" has a space")),
        (&kubernetes("containers = ['A']"), format!("{k}containers: ")),
        (&kubernetes("paths = ['version']"), format!("{k}paths: \"version\" begins neither")),
        (
            &kubernetes("paths = ['/version']\nnames = ['a']"),
            format!("{k}paths: paths are of requests for no resource, names is of resources"),
        ),
        (
            &kubernetes("paths = ['/version']\nverbs = ['list']"),
            "line 7: [kubernetes] rule \"r\", key verbs: \"list\" cannot match".to_owned(),
        ),
        (
            &kubernetes("resources = ['pods']\nverbs = ['head']"),
            "line 7: [kubernetes] rule \"r\", key verbs: \"head\" cannot match".to_owned(),
        ),
        (&kubernetes("read_only = true\nverbs = ['create']"), format!("{k}read_only: only get, list and watch read")),
        (&kubernetes("read_only = true\nresources = ['pods/exec']"), format!("{k}read_only: exec is never a read")),
        (
            &kubernetes("resources = ['pods/exec', 'pods/attach']\nverbs = ['get']"),
            "line 7: [kubernetes] rule \"r\", key verbs: exec is always create".to_owned(),
        ),
        (
            "version = 1\n[kubernetes]\nexec = false\n[[kubernetes.rule]]\nname = 'r'\neffect = 'allow'\nresources = ['pods/exec']\n",
            "line 7: [kubernetes] rule \"r\", key resources: the section has exec = false, which no rule opens again"
                .to_owned(),
        ),
        (&kubernetes("secrets = 'all'"), format!("{k}secrets: it must be \"masked\", \"shown\" or")),
        (&kubernetes("secrets = true"), format!("{k}secrets: it is true or false, it must be")),
        (&kubernetes("secrets = {}"), format!("{k}secrets: it must be")),
        (
            &kubernetes("secrets = { shown_types = [] }"),
            "line 6: [kubernetes] rule \"r\" secrets, key shown_types: the list is empty".to_owned(),
        ),
        (
            &kubernetes("secrets = { types = ['a'] }"),
            "line 6: [kubernetes] rule \"r\" secrets, key \"types\": ".to_owned(),
        ),
        (&kubernetes("hours = '8-18'"), format!("{k}hours: \"8-18\" is no window")),
        (&kubernetes("days = ['monday']"), format!("{k}days: \"monday\" is no day")),
        (&kubernetes("utc_offset = '+01:00'"), format!("{k}utc_offset: it moves hours and days")),
        (
            &kubernetes("days = ['mon']\nutc_offset = 'CET'"),
            "line 7: [kubernetes] rule \"r\", key utc_offset: ".to_owned(),
        ),
        (&kubernetes("concurrency = 0"), format!("{k}concurrency: it must be from 1 to 65536")),
        (&kubernetes("concurrency = -1"), format!("{k}concurrency: ")),
        (&kubernetes("concurrency = 99999999999999999999"), format!("{k}concurrency: ")),
        (&kubernetes("concurrency = 1.5"), format!("{k}concurrency: it is a number, it must be a whole number")),
        (&kubernetes("rate = '5/day'"), format!("{k}rate: \"5/day\" is no rate")),
        (
            &aws("actions = ['GetObject']"),
            "line 6: [aws] rule \"r\", key actions: \"GetObject\" has no `:`: write it like s3:GetObject".to_owned(),
        ),
        (
            &aws("services = ['ec2']\nactions = ['s3:*']"),
            "line 7: [aws] rule \"r\", key actions: \"s3:*\" is of none of the rule's services".to_owned(),
        ),
        (
            &aws("read_only = true\nactions = ['s3:PutObject']"),
            "line 6: [aws] rule \"r\", key read_only: none of the rule's actions only reads".to_owned(),
        ),
        (&aws("methods = ['a.b']"), "line 6: [aws] rule \"r\", key \"methods\": ".to_owned()),
        (
            &jobs("kinds = ['apply']"),
            "line 6: [jobs] rule \"r\", key kinds: \"apply\" cannot match: there are preview, update".to_owned(),
        ),
        (
            &jobs("engines = ['tofu']"),
            "line 6: [jobs] rule \"r\", key engines: \"tofu\" cannot match: there are opentofu".to_owned(),
        ),
        (
            &jobs("source_hosts = ['https://github.com']"),
            "line 6: [jobs] rule \"r\", key source_hosts: \"https://github.com\" is more than a host".to_owned(),
        ),
        (&jobs("source_hosts = ['github.com:22']"), "line 6: [jobs] rule \"r\", key source_hosts: ".to_owned()),
        (
            &jobs("source_hosts = ['@disk']"),
            "line 6: [jobs] rule \"r\", key source_hosts: \"@disk\" is no source".to_owned(),
        ),
        (
            "version = 1\n[[connection_tests.rule]]\nname = 'r'\neffect = 'allow'\nproviders = ['k8s']\n",
            "line 5: [connection_tests] rule \"r\", key providers: \"k8s\" cannot match: there are kubernetes, aws"
                .to_owned(),
        ),
    ] {
        let said = wrong(text);
        assert!(said.contains(&expected), "{text}\n expected {expected}\n said     {said}");
    }
}

#[test]
fn what_is_taken() {
    for rules in [
        "resources = ['pods', 'pods.', 'deployments.apps', 'deployments.apps/scale', '*/status', '*', '*.example.com', 'pods/*']",
        "resources = ['pods/exec']\nverbs = ['get', 'create']",
        "resources = ['services/proxy']\nverbs = ['get']",
        "read_only = true\nverbs = ['*']",
        "read_only = false",
        "paths = ['/api', '/api/*', '*']\nverbs = ['get', 'head']",
        "secrets = 'shown'",
        "secrets = { shown_types = ['helm.sh/*'] }",
        "names = ['system:node']",
        "people = ['Ann Smith', '*@example.com']\ngroups = ['Domain Users']",
    ] {
        let text = format!("version = 1\n[kubernetes]\n[[kubernetes.rule]]\nname = 'r'\neffect = 'allow'\n{rules}\n");
        assert!(Policy::parse(&text).is_ok(), "{rules}");
    }
    let jobs = "version = 0x1\n[[jobs.rule]]\nname = 'r'\neffect = 'allow'\nsource_hosts = ['::1', '10.0.0.*', 'Git.Example.com.', '@file']\n";
    assert!(Policy::parse(jobs).is_ok());
    let aws = "version = 1\n[[aws.rule]]\nname = 'r'\neffect = 'allow'\nread_only = true\nactions = ['s3:getobject']\n";
    assert!(Policy::parse(aws).is_ok());
}

#[test]
fn both_sides_of_the_bounds() {
    let rules = |count: usize| {
        let rules = (0..count).map(|at| format!("[[jobs.rule]]\nname = 'r{at}'\neffect = 'allow'\n"));
        format!("version = 1\n{}", rules.collect::<String>())
    };
    assert!(Policy::parse(&rules(RULES_MAX)).is_ok());
    assert!(wrong(&rules(RULES_MAX + 1)).contains("more than 512 rules"));
    let named = |length| format!("version = 1\n[[jobs.rule]]\nname = '{}'\neffect = 'allow'\n", "a".repeat(length));
    assert!(Policy::parse(&named(NAME_MAX)).is_ok());
    assert!(wrong(&named(NAME_MAX + 1)).contains("from 1 to 64"));
    let patterns = |count, length| {
        let list = vec![format!("'{}'", "a".repeat(length)); count].join(", ");
        format!("version = 1\n[[jobs.rule]]\nname = 'r'\neffect = 'allow'\nstacks = [{list}]\n")
    };
    assert!(Policy::parse(&patterns(PATTERNS_MAX, 1)).is_ok());
    assert!(wrong(&patterns(PATTERNS_MAX + 1, 1)).contains("the most is 256"));
    assert!(Policy::parse(&patterns(1, PATTERN_MAX)).is_ok());
    assert!(wrong(&patterns(1, PATTERN_MAX + 1)).contains("the most is 512"));
    let concurrency =
        |most: u32| format!("version = 1\n[[jobs.rule]]\nname = 'r'\neffect = 'allow'\nconcurrency = {most}\n");
    assert!(Policy::parse(&concurrency(CONCURRENCY_MAX)).is_ok());
    assert!(wrong(&concurrency(CONCURRENCY_MAX + 1)).contains("from 1 to 65536"));
}

#[test]
fn a_file() {
    let folder = std::env::temp_dir().join(format!("policy-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("policy.toml");
    let write = |text: &[u8]| std::fs::write(&path, text).unwrap();
    assert_eq!(Policy::load(&path).unwrap().summary().state, "absent");
    write(b"version = 1\n");
    assert_eq!(Policy::load(&path).unwrap().summary().state, "read");
    // whoever else may write there says what is allowed
    let mode = |mode| std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o666);
    assert!(Policy::load(&path).unwrap().warnings()[0].contains("may be written by others"));
    mode(0o644);
    assert!(Policy::load(&path).unwrap().warnings().is_empty());
    write(b"version = 1\nx = 1\n");
    let said = Policy::load(&path).unwrap_err().to_string();
    assert!(said.starts_with(&format!("{}: line 2: key \"x\": ", path.display())), "{said}");
    write(b"version = 1\n# \xff\n");
    assert!(matches!(Policy::load(&path), Err(PolicyError::Unreadable { .. })));
    let mut longest = b"version = 1\n".to_vec();
    longest.resize(FILE_MAX as usize, b'\n');
    write(&longest);
    assert!(Policy::load(&path).is_ok());
    write(b"");
    assert!(Policy::load(&path).unwrap_err().to_string().contains("needs `version = 1`"));
    write(&vec![b'\n'; FILE_MAX as usize + 1]);
    assert!(matches!(Policy::load(&path), Err(PolicyError::TooLong { .. })));
    assert!(matches!(Policy::load(&folder), Err(PolicyError::Unreadable { .. })));
    assert!(matches!(Cases::load(&folder.join("none")), Err(PolicyError::Unreadable { .. })));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn cases_that_are_none() {
    let case = |keys: &str| format!("[[case]]\nname = 'c'\nexpect = 'deny'\n{keys}\n");
    for (text, expected) in [
        ("[[cases]]\n".to_owned(), "line 1: key \"cases\": there is no such key here; there are case"),
        ("[[case]]\nexpect = 'deny'\n".to_owned(), "line 1: a case, key name: the case has no name"),
        ("[[case]]\nname = 'c'\n".to_owned(), "line 1: case \"c\", key expect: it must be"),
        (case(""), "the case needs one of kubernetes, aws"),
        (case("kubernetes = 'GET /'\naws = { service = 's3' }"), "and only one"),
        (case("kubernetes = 'GET'"), "key kubernetes: it must be a method, a space and a target"),
        (case("kubernetes = 'GET /'\nat = 'noon'"), "key at: it is a text, it must be a date"),
        (case("kubernetes = 'GET /'\nat = 2026-01-05"), "key at: it must be a date"),
        (case("kubernetes = 'GET /'\nat = 1969-12-31T23:59:59Z"), "since 1970"),
        (case("aws = { action = 'GetObject' }"), "key aws: it needs action as SERVICE:OPERATION"),
        (
            case("aws = { action = 's3:GetObject', read_only = true }"),
            "key read_only: of AWS it follows from the action",
        ),
        (case("job = { kind = 'update' }"), "key source: the job needs it"),
        (
            case("job = { kind = 'updates', engine = 'opentofu', stack = 's', source = '@upload' }"),
            "key kind: \"updates\" is none: there are preview, update",
        ),
    ] {
        let said = Cases::parse(&text).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains(expected), "{text}\n{said}");
    }
}

#[test]
fn times_of_cases() {
    for (written, seconds) in [
        ("1970-01-01T00:00:00Z", 0),
        ("2000-02-29T12:00:00Z", 951_825_600),
        ("2026-01-05T12:00:00Z", 1_767_614_400),
        ("2026-01-05T13:30:00+01:30", 1_767_614_400),
        ("2024-12-31T23:59:59-00:30", 1_735_691_399),
    ] {
        let text = format!("[[case]]\nname = 'c'\nexpect = 'deny'\nkubernetes = 'GET /'\nat = {written}\n");
        let at = Cases::parse(&text).unwrap().iter().next().unwrap().at;
        assert_eq!(at, UNIX_EPOCH + Duration::from_secs(seconds), "{written}");
    }
}

/// The page for users is right: its policies are taken, and its cases come out.
#[test]
fn the_documentation() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy.md")).unwrap();
    let blocks: Vec<&str> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let (cases, policies): (Vec<&str>, Vec<&str>) = blocks.iter().partition(|block| block.contains("[[case]]"));
    assert!(policies.len() >= 4 && cases.len() == 1);
    let policies: Vec<Policy> =
        policies.iter().map(|text| Policy::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))).collect();
    for result in Cases::parse(cases[0]).unwrap().run(&policies[0]) {
        assert!(result.passed, "{}", result.shown);
    }
    let explained = policies[0].decide(&asked("GET", "/api/v1/pods"), noon()).explain();
    assert!(explained.iter().all(|line| page.contains(line.as_str())), "{explained:#?}");
    // every key and every bound that there is
    for key in file::keys() {
        assert!(page.contains(&format!("`{key}`")), "{key}");
    }
}
