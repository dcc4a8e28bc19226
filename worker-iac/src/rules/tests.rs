//! Rules of both kinds on changes of every kind, and what they must never see.

use super::*;
use shared_proto::rules::Effect;

fn job() -> Job {
    Job {
        kind: "update".into(),
        stack: "prod-shop".into(),
        engine: "opentofu".into(),
        created_by: "ada".into(),
        ..Job::default()
    }
}
fn change(address: &str, action: Action) -> Change {
    let (kind, name) = address.split_once('.').expect("an address");
    Change {
        address: address.into(),
        kind: kind.into(),
        name: name.into(),
        mode: "managed".into(),
        provider: "registry.opentofu.org/hashicorp/aws".into(),
        action,
        actions: vec![action.as_str().into()],
        after: json!({ "size": 3, "region": "eu-west-1" }),
        ..Change::default()
    }
}
fn judged_by(runner: &Value, organization: &Value, changes: &[Change]) -> Result<Judgement, String> {
    let text = |set: &Value| if set.is_null() { String::new() } else { set.to_string() };
    let rules = Rules::new(&text(runner), &text(organization))?;
    let mut judge = rules.judge(&job(), Regions::default());
    for change in changes {
        judge.change(change);
    }
    judge.finish(&Secrets::default())
}
fn by_rule(rule: &Value, changes: &[Change]) -> Vec<String> {
    let judgement = judged_by(&json!({ "rule": [rule] }), &Value::Null, changes).expect("a judgement");
    judgement.findings.into_iter().map(|finding| finding.address).collect()
}
fn rego(text: &str) -> Value {
    json!({ "rego": [{ "name": "a.rego", "text": text }] })
}
fn by_rego(text: &str, changes: &[Change]) -> Result<Judgement, String> {
    judged_by(&rego(text), &Value::Null, changes)
}

#[test]
fn patterns_are_met_by_what_they_mean_and_by_what_may_be_meant() {
    let all = [
        ("aws_db.create", Action::Create),
        ("aws_db.update", Action::Update),
        ("aws_db.replace", Action::Replace),
        ("aws_db.delete", Action::Delete),
        ("aws_db.forget", Action::Forget),
        ("aws_db.read", Action::Read),
        ("aws_db.same", Action::NoOp),
        ("aws_db.unknown", Action::Other),
        ("aws_s3.delete", Action::Delete),
    ]
    .map(|(address, action)| change(address, action));
    for (rule, expected) in [
        (json!({ "name": "a" }), "create update replace delete forget unknown s3"),
        (json!({ "name": "a", "actions": ["delete", "replace"] }), "replace delete unknown s3"),
        (json!({ "name": "a", "actions": ["read"] }), "read unknown"),
        (json!({ "name": "a", "actions": ["delete"], "types": ["aws_db"] }), "delete unknown"),
        (json!({ "name": "a", "types_other_than": ["aws_d*"] }), "s3"),
        (json!({ "name": "a", "addresses": ["aws_db.up*"] }), "update"),
        (json!({ "name": "a", "actions": ["delete"], "stacks": ["prod-*"] }), "delete unknown s3"),
        (json!({ "name": "a", "stacks": ["dev-*"] }), ""),
        (json!({ "name": "a", "actions": ["delete"], "workspaces": ["default"] }), "delete unknown s3"),
        (json!({ "name": "a", "workspaces": ["blue"] }), ""),
        (json!({ "name": "a", "actions": ["create"], "kinds": ["update"] }), "create unknown"),
        (json!({ "name": "a", "kinds": ["destroy"] }), ""),
        (json!({ "name": "a", "regions_other_than": ["eu-*"] }), ""),
        (json!({ "name": "a", "actions": ["create"], "regions_other_than": ["us-*"] }), "create unknown"),
    ] {
        let mut found: Vec<_> = by_rule(&rule, &all)
            .into_iter()
            .map(|address| match address.split_once('.') {
                Some(("aws_s3", _)) => "s3".to_owned(),
                Some((_, name)) => name.to_owned(),
                None => address,
            })
            .collect();
        let mut expected: Vec<_> = expected.split_whitespace().collect();
        found.sort();
        expected.sort_unstable();
        assert_eq!(found, expected, "{rule}");
    }
}

#[test]
fn no_set_weakens_another() {
    let deny = json!({ "rule": [{ "name": "no", "effect": "deny", "actions": ["delete"] }] });
    let warn = json!({ "rule": [{ "name": "no", "effect": "warn" }] });
    let two = json!({ "rule": [{ "name": "two", "effect": "approve", "approvals": 2 }] });
    let one = json!({ "rule": [{ "name": "one", "effect": "approve" }] });
    let changes = [change("aws_db.a", Action::Delete)];
    for (runner, organization, denied, approvals) in [
        (&deny, &warn, true, 0),
        (&warn, &deny, true, 0),
        (&two, &one, false, 2),
        (&one, &two, false, 2),
        (&deny, &two, true, 2),
        (&warn, &Value::Null, false, 0),
        (&Value::Null, &Value::Null, false, 0),
    ] {
        let judgement = judged_by(runner, organization, &changes).expect("a judgement");
        assert_eq!((judgement.denied, judgement.approvals), (denied, approvals), "{runner} {organization}");
    }
    let judgement = judged_by(&deny, &two, &changes).expect("a judgement");
    assert_eq!((judgement.findings[0].source.as_str(), judgement.findings[0].effect), (RUNNER, Effect::Deny));
    // another set has another digest, wherever it is
    let of = |runner: &str, organization: &str| Rules::new(runner, organization).expect("rules").digest().to_owned();
    let (deny, warn) = (deny.to_string(), warn.to_string());
    let digests = [of(&deny, &warn), of(&warn, &deny), of(&deny, ""), of("", &deny), of("", "")];
    for (n, digest) in digests.iter().enumerate() {
        assert!(!digests[..n].contains(digest), "{n}");
    }
}

#[test]
fn a_set_that_cannot_be_used_ends_in_no_judgement() {
    let empty = [change("aws_db.a", Action::Create)];
    for (runner, words) in
        [("{", "the rules of the runner cannot be used"), ("{\"rule\":[{\"nam\":1}]}", "unknown field")]
    {
        assert!(Rules::new(runner, "").expect_err(words).contains(words));
        assert!(Rules::new("", runner).expect_err(words).contains(&words.replace("runner", "organization")));
    }
    for (text, words) in [
        ("package runner.plan\ndeny contains", "a.rego:2"),
        ("package other\ndeny contains \"x\" if true", "no module is of the package runner.plan"),
        ("package runner.plan\ndeny := \"x\"", "runner.plan.deny is no set"),
        ("package runner.plan\ndeny contains 1 if true", "neither a text nor an object"),
        ("package runner.plan\napprove contains 11 if true", "from 1 to 10"),
        ("package runner.plan\napprove contains {\"approvals\": \"two\"} if true", "from 1 to 10"),
        ("package runner.plan\ndeny contains \"x\" if to_number(\"abc\") == 1", "a.rego:2"),
        ("package runner.plan\ndeny contains \"x\" if http.send({\"url\": \"http://127.0.0.1\"})", "http.send"),
    ] {
        let error = by_rego(text, &empty).expect_err(words);
        assert!(error.contains(words) && error.contains("runner"), "{text}: {error}");
    }
}

#[test]
fn programs_say_what_sets_of_theirs_hold() {
    let changes = [change("aws_db.a", Action::Delete), change("aws_s3.b", Action::Create)];
    let judgement = by_rego(
        "package runner.plan\n\
         deny contains sprintf(\"%s is destroyed\", [c.address]) if { some c in input.resource_changes; \"delete\" in c.change.actions }\n\
         warn contains {\"msg\": \"large\", \"address\": c.address, \"rule\": \"size\"} if { some c in input.resource_changes; c.change.after.size > 2 }\n\
         approve contains 2 if input.job.stack == \"prod-shop\"\n\
         approve contains {\"approvals\": 3, \"message\": \"ask\"} if startswith(input.job.created_by, \"a\")\n",
        &changes,
    )
    .expect("a judgement");
    assert!(judgement.denied);
    assert_eq!((judgement.approvals, judgement.findings.len()), (3, 5));
    assert_eq!(judgement.findings[0].message, "aws_db.a is destroyed");
    let size = judgement.findings.iter().find(|finding| finding.rule == "size").expect("there");
    assert!(size.effect == Effect::Warn && size.message == "large" && size.address.starts_with("aws_"));
    // nothing is said
    let judgement = by_rego("package runner.plan\ndeny contains \"x\" if false\n", &changes).expect("a judgement");
    assert!(!judgement.denied && judgement.findings.is_empty() && !judgement.sets.is_empty());
    // a rule without words
    let judgement = by_rego("package runner.plan\ndeny if true\n", &changes).expect("a judgement");
    assert!(judgement.denied);
    assert_eq!(judgement.findings[0].message, "runner.plan.deny holds");
    // modules of one set know each other, and what is kept as data
    let set = json!({
        "rego": [
            { "name": "a.rego", "text": "package runner.plan\ndeny contains \"x\" if data.lib.bad(input.job.stack)" },
            { "name": "b.rego", "text": "package lib\nbad(name) if name in data.names" },
        ],
        "data": { "names": ["prod-shop"] },
    });
    assert!(judged_by(&set, &Value::Null, &changes).expect("a judgement").denied);
    // and those of another set do not
    let lib = json!({ "rego": [{ "name": "b.rego", "text": "package lib\nbad(name) if false" },
                               { "name": "c.rego", "text": "package runner.plan" }] });
    assert!(judged_by(&set, &lib, &changes).expect("a judgement").denied);
}

#[test]
fn a_program_that_does_not_end_is_ended() {
    let text = "package runner.plan\n\
        deny contains \"x\" if { some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); \
        some c in numbers.range(1, 3000); a + b + c == 0 }\n";
    let begun = std::time::Instant::now();
    let error = by_rego(text, &[]).expect_err("no end");
    assert!(error.contains("cannot be used") && begun.elapsed().as_secs() < 60, "{error}");
}

#[test]
fn what_a_program_says_has_no_secret_in_it() {
    use runner_worker_iac::redaction::Redaction;
    let rules =
        Rules::new(&rego("package runner.plan\ndeny contains input.resource_changes[_].address").to_string(), "");
    let rules = rules.expect("rules");
    let secrets = Secrets::new(Redaction::new(["hunter2-hunter2"]), &crate::secrets::Sensitive::default());
    let mut judge = rules.judge(&job(), Regions::default());
    judge.change(&change("aws_db.hunter2-hunter2", Action::Create));
    let judgement = judge.finish(&secrets).expect("a judgement");
    assert!(judgement.findings[0].message.contains("[redacted]"), "{judgement:?}");
}
