//! Plans as people see them, and such as want to be more than that.

use super::*;
use lines::{Line, Tone};
use shared_proto::plan::{Action, AttributeChange, Check, LeftOut, Order, OutputChange, ResourceChange, Summary};
use shared_proto::rules::Finding;

fn attribute(path: &str, before: Value, after: Value) -> AttributeChange {
    let side = |value: Value| Some(value).filter(|value| !value.is_null());
    AttributeChange { path: path.into(), before: side(before), after: side(after), ..Default::default() }
}
fn resource(address: &str, action: Action, attributes: Vec<AttributeChange>) -> ResourceChange {
    let module = match address.rsplit_once(".t.") {
        Some((module, _)) => module.to_owned(),
        None => String::new(),
    };
    ResourceChange { address: address.into(), module, action, attributes, ..Default::default() }
}

/// One of everything.
fn everything() -> Document {
    let replaced = ResourceChange {
        order: Some(Order::CreateFirst),
        reason: "replace_because_cannot_update".into(),
        ..resource(
            "module.net[\"a.module.b\"].module.deep.t.r",
            Action::Replace,
            vec![
                AttributeChange { unknown: true, ..attribute("id", json!("r-1"), Value::Null) },
                AttributeChange { forces_replacement: true, ..attribute("size", json!(1), json!(2)) },
            ],
        )
    };
    let moved = ResourceChange {
        moved_from: Some("t.old".into()),
        imported_id: Some("i-1".into()),
        ..resource("t.kept", Action::NoOp, vec![])
    };
    let hidden = AttributeChange { path: "password".into(), sensitive: true, ..Default::default() };
    let script = attribute("script", json!("one\ntwo\nthree\n"), json!("one\nzwei\nthree\n"));
    let policy = attribute("policy", json!("{\"a\":1,\"b\":2}"), json!("{\"b\":3,\"a\":1}"));
    Document {
        version: 1,
        engine: shared_proto::plan::Engine { name: "opentofu".into(), version: "1.2.3".into() },
        kind: "update".into(),
        has_changes: true,
        complete: true,
        errored: false,
        summary: Summary { replace: 1, delete: 1, create: 2, update: 1, drift: 1, outputs: 1, ..Default::default() },
        resources: vec![
            replaced,
            ResourceChange {
                reason: "delete_because_no_resource_config".into(),
                ..resource("t.gone", Action::Delete, vec![attribute("input", json!("x"), Value::Null)])
            },
            resource("module.net[\"a.module.b\"].t.changed", Action::Update, vec![hidden, script, policy]),
            resource("t.new", Action::Create, vec![attribute("tags.team", Value::Null, json!("blue"))]),
            resource("module.net[\"a.module.b\"].module.deep.t.new", Action::Create, vec![]),
            moved,
        ],
        outputs: vec![OutputChange {
            name: "text".into(),
            action: Action::Update,
            attributes: vec![attribute("", json!("a"), json!("b"))],
            ..Default::default()
        }],
        drift: vec![resource("t.new", Action::Update, vec![attribute("input", json!(1), json!(2))])],
        checks: vec![
            Check { address: "check.health".into(), status: "fail".into(), problems: vec!["it is down".into()] },
            Check { address: "check.good".into(), status: "pass".into(), problems: vec![] },
        ],
        left_out: LeftOut::default(),
    }
}
fn plan(document: Document) -> Plan {
    let (judgement, approvers) = (Judgement::default(), Vec::new());
    Plan { job: "job_1".into(), stack: "shop".into(), json: Value::Null, document, judgement, approvers }
}
/// What rules may say of one, with such texts.
fn judged(text: &str, count: usize) -> Judgement {
    let finding = Finding { rule: text.into(), message: text.into(), address: text.into(), ..Finding::default() };
    Judgement { findings: vec![Finding { source: "runner".into(), ..finding }; count], ..Judgement::default() }
}
/// One whose every text is that.
fn hostile(text: &str) -> Document {
    let mut document = everything();
    let all = |attributes: &mut Vec<AttributeChange>| {
        for attribute in attributes {
            attribute.path = text.into();
            attribute.before = attribute.before.as_ref().map(|_| text.into());
            attribute.after = attribute.after.as_ref().map(|_| text.into());
        }
    };
    for resource in document.resources.iter_mut().chain(&mut document.drift) {
        let texts = [&mut resource.address, &mut resource.module, &mut resource.reason];
        texts.into_iter().for_each(|field| *field = text.into());
        (resource.moved_from, resource.imported_id, resource.deposed) =
            (Some(text.into()), Some(text.into()), Some(text.into()));
        all(&mut resource.attributes);
    }
    for output in &mut document.outputs {
        output.name = text.into();
        all(&mut output.attributes);
    }
    document.checks = vec![Check { address: text.into(), status: text.into(), problems: vec![text.into()] }];
    document.engine = shared_proto::plan::Engine { name: text.into(), version: text.into() };
    document.kind = text.into();
    document
}

#[test]
fn what_may_be_lost_comes_first_then_the_modules_and_apart_the_rest() {
    let text = shown(&plan(everything()), 80, false);
    let expected = r#"shop: 1 to replace, 1 to destroy, 1 to change, 2 to create, 1 output to change;
  1 changed by others
job job_1, update, opentofu 1.2.3

Replaced and destroyed
  +/- module.net["a.module.b"].module.deep.t.r
      (created, then the old one destroyed: cannot be changed in place)
      id: "r-1" → (known after apply)
      size: 1 → 2  # forces replacement
  -   t.gone  (no longer in the configuration)
      input: "x"

Other changes
  +   t.new
      tags.team: "blue"
      t.kept  (imported from i-1; moved from t.old)
  module.net["a.module.b"]
    ~   t.changed
        password: (sensitive)
        script:
          - two
          + zwei
        policy:
          -   "b": 2
          +   "b": 3
    module.deep
      +   t.new

Outputs
  ~   text
      "a" → "b"

Changed by others since the last job (drift), apart from this plan
  ~   t.new
      input: 1 → 2

Checks
  check.health: fail
    it is down
"#;
    assert_eq!(text, expected);
    let coloured = shown(&plan(everything()), 80, true);
    assert!(coloured.contains("\u{1b}[31m-   t.gone"), "{coloured}");
    let without = String::from_utf8(escape::text(coloured.as_bytes(), false)).expect("UTF-8");
    assert_eq!(without, text);
}

#[test]
fn what_is_long_is_broken_and_cut_and_what_is_missing_is_said() {
    let mut document = everything();
    let long = "x".repeat(500);
    document.resources = vec![resource("t.a", Action::Update, vec![attribute("input", json!(long), json!("y"))])];
    document.resources[0].attributes.extend(vec![attribute("n", json!(1), json!(2)); 60]);
    document.resources[0].attributes_left_out = 7;
    document.left_out = LeftOut { resources: 3, attributes: 7, ..Default::default() };
    let text = shown(&plan(document), 80, false);
    assert!(
        text.contains("      input:\n        - \"xxx") && text.contains("… (500 bytes)\n        + \"y\"\n"),
        "{text}"
    );
    assert!(text.contains("      … 28 attributes more\n"), "{text}");
    let end = "left out, because it is too long: 3 resources, 7 attributes\nthe engine's own words: runnerctl plan show job_1 --text\n";
    assert!(text.ends_with(end), "{text}");
    assert!(text.lines().all(|line| line.chars().count() < 200), "{text}");
}

const HOSTILE: &[&str] = &[
    "</details></code></pre><script>alert(1)</script>",
    "@everyone #1 GH-1 https://example.org www.example.org a@example.org",
    "`code` ``` ~~~ ````````",
    "| a | b |\n|---|---|\n\n# heading\n\n- item\n\n[link](javascript:alert(1)) ![image](x) *a* _b_ **c** ~~d~~",
    "<!-- comment --> &lt; &#60; \\` \\| $x$ :smile: <b>",
    "\u{1b}[2J\u{1b}]0;title\u{7}\r\n\u{202e}\u{9b}2J\0",
    "\n```\n</details>\n@everyone",
];

#[test]
fn nothing_of_a_plan_is_obeyed_by_a_terminal() {
    for text in HOSTILE {
        let shown = shown(&plan(hostile(text)), 80, false);
        assert!(!shown.chars().any(|c| c != '\n' && c.is_control()), "{shown:?}");
        assert!(!shown.contains('\u{202e}'), "{shown:?}");
        let comparison = Comparison::of(&everything(), &hostile(text));
        let compared = lines::text(&compared::lines(&comparison, "a", "b", "s", 80), false);
        assert!(!compared.chars().any(|c| c != '\n' && c.is_control()), "{compared:?}");
        // what stands at the beginning of a line is ours
        assert!(shown.lines().all(|line| !line.starts_with("@everyone") && !line.starts_with("</details>")), "{shown}");
    }
}

/// What of a comment is not in code: neither in `<code>` nor in a fenced block. It is all ours.
fn outside_of_code(markdown: &str) -> String {
    let (mut outside, mut fence) = (String::new(), None::<String>);
    for line in markdown.lines() {
        match &fence {
            Some(own) if line == own => fence = None,
            Some(_) => {}
            None if line.starts_with("```") => fence = Some(line.trim_end_matches("diff").to_owned()),
            None => {
                let mut rest = line;
                while let Some((before, behind)) = rest.split_once("<code>") {
                    outside.push_str(before);
                    let (inside, behind) = behind.split_once("</code>").expect("it is closed in its line");
                    let harmless = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || " -&#;".contains(c);
                    assert!(inside.chars().all(harmless), "{inside}");
                    rest = behind;
                }
                outside.push_str(rest);
                outside.push('\n');
            }
        }
    }
    assert_eq!(fence, None, "it is closed");
    outside
}

#[test]
fn nothing_of_a_plan_is_markdown() {
    let with_rules = |plan: Plan, text: &str| Plan { judgement: judged(text, 2), approvers: vec![text.into()], ..plan };
    let ours = outside_of_code(&markdown::render(&with_rules(plan(everything()), "x")));
    assert!(ours.contains("|---|---|---|") && ours.contains("<details><summary>What changes</summary>"), "{ours}");
    for text in HOSTILE {
        let of = Document { summary: everything().summary, ..hostile(text) };
        let of = Plan { job: (*text).into(), stack: (*text).into(), ..with_rules(plan(of), text) };
        let markdown = markdown::render(&of);
        // each resource says more of itself here than there: those lines differ by commas between code
        let shape = |text: &str| text.replace(", ", "").replace(['\n', ' '], "");
        assert_eq!(shape(&outside_of_code(&markdown)), shape(&ours), "{markdown}");
        assert!(!markdown.contains('\u{1b}') && !markdown.contains('\u{202e}'), "{markdown:?}");
    }
}

#[test]
fn a_comment_has_its_table_and_its_details() {
    let markdown = markdown::render(&plan(everything()));
    for expected in [
        "### <code>shop</code>: 1 to replace&#44; 1 to destroy",
        "| <code>-</code> destroy | <code>t&#46;gone</code> | <code>no longer in the configuration</code> |",
        "```diff\n# Replaced and destroyed\n",
        "-   +/- module.net[\"a.module.b\"].module.deep.t.r",
        "!       size: 1 → 2  # forces replacement",
        "\n```\n\n</details>\n",
    ] {
        assert!(markdown.contains(expected), "{expected}: {markdown}");
    }
    let nothing = markdown::render(&plan(Document { complete: true, ..Default::default() }));
    assert!(nothing.contains("nothing to do") && !nothing.contains("details"), "{nothing}");
}

#[test]
fn a_comment_is_never_longer_than_github_takes() {
    for text in ["x", "🙂", "`", "&"] {
        for (length, count) in [(1000, 300), (70_000, 2)] {
            let of = hostile(&text.repeat(length));
            let mut many = of.clone();
            many.resources = vec![of.resources[2].clone(); count];
            let judgement = judged(&text.repeat(500), 100);
            let markdown = markdown::render(&Plan { judgement, ..plan(many) });
            assert!(markdown.contains("\n- … "), "{markdown}");
            assert!(markdown.encode_utf16().count() <= 65_536, "{}", markdown.encode_utf16().count());
            outside_of_code(&markdown);
        }
    }
    let mut many = everything();
    many.resources = vec![resource("t.r", Action::Create, vec![attribute("input", Value::Null, json!("x"))]); 5000];
    let markdown = markdown::render(&plan(many));
    assert!(markdown.contains("… 4900 more") && markdown.contains(" lines more\n```\n"), "{markdown}");
    assert!(markdown.encode_utf16().count() > 60_000, "it takes what there is room for");
}

#[test]
fn what_rules_say_of_a_plan_comes_first() {
    let judgement = Judgement { denied: true, ..judged("stays", 1) };
    let denied = Plan { judgement, ..plan(everything()) };
    assert!(denied.status().starts_with("denied by rules; 1 to replace, 1 to destroy"), "{}", denied.status());
    let text = markdown::render(&denied);
    let head = "### <code>shop</code>: denied by rules&#59; 1 to replace&#44; ";
    let rules = "\n\n- <code>Rules deny it&#58; nothing of it is applied&#46;</code>\n\
                 - <code>denied by rule stays of the runner&#58; stays&#58; stays</code>\n\nJob <code>";
    assert!(text.starts_with(head) && text.contains(rules), "{text}");
    assert!(shown(&denied, 80, false).contains("\nRules deny it: nothing of it is applied.\n"));
    let judgement = Judgement { approvals: 2, ..Judgement::default() };
    let wanted = Plan { judgement, approvers: vec!["bob".into()], ..plan(everything()) };
    assert!(wanted.status().starts_with("2 approvals wanted by rules, 1 given; 1 to replace"), "{}", wanted.status());
    for text in [markdown::render(&wanted), shown(&wanted, 80, false)] {
        assert!(text.contains("Rules want the approval of 2 other people before it is applied"), "{text}");
    }
    // counts of ten digits, and what rules say before them
    let n = u32::MAX;
    let summary = Summary { replace: n, delete: n, update: n, create: n, import: n, moved: n, ..Default::default() };
    let long = Plan { document: Document { summary, ..everything() }, ..denied };
    assert!(long.status().chars().count() == words::STATUS_MAX && long.status().ends_with('…'), "{}", long.status());
}

#[test]
fn the_document_has_what_rules_say() {
    let judgement = json!({ "denied": true, "approvals": 0, "findings": [] });
    let mut json = json!({ "version": 1 });
    with_judgement(&mut json, &json!({ "plan": { "judgement": judgement, "approvers": ["bob"] } }));
    assert_eq!(json, json!({ "version": 1, "judgement": judgement, "approvers": ["bob"] }));
    let mut json = json!({ "version": 1 });
    with_judgement(&mut json, &json!({ "plan": { "judgement": null, "approvers": [] } }));
    with_judgement(&mut json, &json!({}));
    assert_eq!(json, json!({ "version": 1 }));
}

#[test]
fn plans_are_compared_side_by_side() {
    let (before, mut now) = (everything(), everything());
    now.resources.remove(1);
    now.resources.push(resource("t.another", Action::Delete, vec![]));
    now.outputs[0].attributes[0].after = Some(json!("c"));
    now.resources[2].action = Action::Update;
    let comparison = Comparison::of(&before, &now);
    let text = lines::text(&compared::lines(&comparison, "job_1", "job_2", "shop", 80), false);
    let expected = r#"shop: 1 new, 1 gone, 2 changed, 4 the same
job job_2 beside job job_1

New
  -   t.another  (destroy)

Gone: no longer planned
  -   t.gone  (destroy)
      input: "x"

Changed
  ~   t.new  (create before, change now)
  ~   output.text  (change)
      before: "a" → "b"
      now: "a" → "c"
"#;
    assert_eq!(text, expected);
}

#[test]
fn lines_have_their_tones() {
    let line = |tone| lines::text(&[Line::new(tone, 1, "x".into())], true);
    assert_eq!(line(Tone::Plain), "  x\n");
    assert_eq!(line(Tone::Add), "  \u{1b}[32mx\u{1b}[0m\n");
    assert_eq!(lines::text(&[Line::blank()], true), "\n");
}

#[test]
fn what_rules_have_said_of_a_plan_stands_above_it() {
    let mut judged = plan(everything());
    assert!(!shown(&judged, 80, false).contains("Rules"));
    judged.judgement = serde_json::from_value(json!({ "denied": true, "findings": [
        { "source": "runner", "rule": "stays", "effect": "deny", "message": "it is destroyed\u{1b}[2J", "address": "t.gone" },
    ] }))
    .expect("a judgement");
    let text = shown(&judged, 80, false);
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(at("Rules deny it: nothing of it is applied.") < at("denied by rule stays of the runner: t.gone: it is"));
    assert!(at("denied by rule stays") < at("t.new") && !text.contains('\u{1b}'), "{text}");
}
