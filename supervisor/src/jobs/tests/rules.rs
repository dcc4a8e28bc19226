//! Nothing is applied that rules forbid, whatever a control plane says: plans are made by a real engine, judged by the real worker, and approved in
//! every way that there is.

use super::*;

/// How a set says that.
const DENY: &str = r#"{"rule":[{"name":"no","effect":"deny","actions":["create"],"types":["terraform_data"]}]}"#;
const DENY_REGO: &str = r#"{"rego":[{"name":"no.rego","text":"package runner.plan\ndeny contains c.address if { some c in input.resource_changes; c.change.actions == [\"create\"] }"}]}"#;
const TWO: &str = r#"{"rule":[{"name":"two","effect":"approve","approvals":2}]}"#;
const TWO_REGO: &str = r#"{"rego":[{"name":"two.rego","text":"package runner.plan\napprove contains 2 if count(input.resource_changes) > 0"}]}"#;
const WARN: &str = r#"{"rule":[{"name":"look","effect":"warn"}]}"#;
const ELSEWHERE: &str = r#"{"rule":[{"name":"no","effect":"deny","stacks":["prod-*"]}]}"#;
/// None of them can be used.
const BROKEN: [&str; 4] = [
    "{",
    r#"{"rule":[{"name":"a","typs":[]}]}"#,
    r#"{"rego":[{"name":"a.rego","text":"package runner.plan\ndeny contains"}]}"#,
    r#"{"rego":[{"name":"a.rego","text":"package elsewhere"}]}"#,
];

/// Jobs at once: each has a moment for its plan.
const SIDE_BY_SIDE: usize = 4;
/// Who made each of the jobs.
const MADE_BY: &str = "ada";

/// A job, what is said of its plan, and what has to become of it.
struct Case {
    what: String,
    runner: &'static str,
    organization: &'static str,
    kind: JobKind,
    automatic: bool,
    /// It reconciles, where the policy lets it be or does not.
    reconciles: Option<bool>,
    /// As schedules and hooks ask: a refresh that ends with its plan, a preview of an untrusted source.
    preview_only: bool,
    untrusted: bool,
    /// Each an approval, by the first of them.
    approvals: Vec<Vec<&'static str>>,
    becomes: Becomes,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Becomes {
    Denied,
    Waits,
    Applied,
    Planned,
}

impl Case {
    fn new(what: &str, (runner, organization): (&'static str, &'static str), becomes: Becomes) -> Self {
        let what = format!("{what}; runner {runner:?}, organization {organization:?}");
        Self {
            what,
            runner,
            organization,
            kind: JobKind::Update,
            automatic: false,
            reconciles: None,
            preview_only: false,
            untrusted: false,
            approvals: Vec::new(),
            becomes,
        }
    }
    fn automatic(self) -> Self {
        Self { automatic: true, what: format!("automatic, {}", self.what), ..self }
    }
    fn reconciling(self, allowed: bool) -> Self {
        Self { reconciles: Some(allowed), what: format!("reconciling, allowed {allowed}, {}", self.what), ..self }
    }
    fn look(self) -> Self {
        Self { kind: JobKind::Refresh, preview_only: true, what: format!("a look at drift, {}", self.what), ..self }
    }
    fn of_a_stranger(self) -> Self {
        Self { untrusted: true, what: format!("of a stranger, {}", self.what), ..self }.preview()
    }
    fn preview(self) -> Self {
        Self { kind: JobKind::Preview, what: format!("preview, {}", self.what), ..self }
    }
    fn approved(self, approvals: &[&[&'static str]]) -> Self {
        let approvals: Vec<_> = approvals.iter().map(|names| names.to_vec()).collect();
        Self { what: format!("approved {approvals:?}, {}", self.what), approvals, ..self }
    }
}

fn cases() -> Vec<Case> {
    use Becomes::{Applied, Denied, Planned, Waits};
    let mut cases = Vec::new();
    for sets in [(DENY, ""), ("", DENY), (DENY_REGO, ""), ("", DENY_REGO)] {
        let denied = || Case::new("denied", sets, Denied);
        cases.extend([denied(), denied().automatic(), denied().preview()]);
        cases.extend([denied().reconciling(true), denied().reconciling(false), denied().of_a_stranger()]);
        cases.push(denied().approved(&[&["bob"], &["eve", "bob"]]));
    }
    for sets in [(TWO, ""), ("", TWO), (TWO_REGO, ""), ("", TWO_REGO)] {
        let two = |becomes| Case::new("two people", sets, becomes);
        cases.extend([
            two(Waits).automatic(),
            two(Waits).reconciling(true),
            two(Waits).approved(&[&[MADE_BY]]),
            two(Waits).approved(&[&["bob"], &["bob"], &["bob", "bob"]]),
            two(Waits).approved(&[&["bob", MADE_BY], &[MADE_BY, "bob"]]),
            // a control plane that says them one by one has not said that there are two
            two(Waits).approved(&[&["bob"], &["eve"]]),
            two(Applied).approved(&[&["bob", "eve"]]),
            two(Applied).approved(&[&["bob"], &["eve", "bob", MADE_BY]]),
        ]);
    }
    cases.extend([
        Case::new("the strictest counts", (TWO, DENY), Denied).automatic(),
        Case::new("the strictest counts", (WARN, DENY), Denied).automatic(),
        Case::new("the strictest counts", (DENY, WARN), Denied).automatic(),
        Case::new("the strictest counts", (WARN, TWO), Waits).automatic(),
        Case::new("a warning", (WARN, WARN), Applied).automatic(),
        Case::new("another stack", (ELSEWHERE, ELSEWHERE), Applied).automatic(),
        Case::new("no rules", ("", ""), Applied).automatic(),
        Case::new("no rules", ("", ""), Applied).reconciling(true),
        Case::new("no rules", ("", ""), Waits).reconciling(false),
        Case::new("a warning", (WARN, WARN), Applied).reconciling(true),
        // an approval that somebody claims to have is worth nothing where there is nothing to apply
        Case::new("no rules", ("", ""), Planned).of_a_stranger().approved(&[&["bob", "eve"]]),
        Case::new("no rules", ("", ""), Planned).preview().approved(&[&["bob", "eve"]]),
        Case::new("only outputs are new", ("", ""), Planned).look().approved(&[&["bob"]]),
        Case::new("two of a preview", (TWO, ""), Planned).preview(),
    ]);
    for broken in BROKEN {
        cases.push(Case::new("broken", (broken, ""), Denied).automatic());
        cases.push(Case::new("broken", ("", broken), Denied).approved(&[&["bob", "eve"]]));
    }
    cases
}

fn approval(id: &str, names: &[&str]) -> Kind {
    let people = names.iter().map(|name| (*name).to_owned()).collect();
    let by = names.first().copied().unwrap_or_default().to_owned();
    Kind::Approval(Approval { job_id: id.into(), fencing_token: 1, by, people, ..Default::default() })
}

fn assign(plane: &Plane, id: &str, case: &Case) {
    let mut request = job(plane, id, case.kind, SMALL);
    request.stack_id = format!("s-{id}");
    request.created_by = MADE_BY.into();
    request.approve_automatically = case.automatic;
    (request.rules, request.format) = (case.organization.into(), 4);
    (request.preview_only, request.untrusted) = (case.preview_only, case.untrusted);
    request.reconcile = case.reconciles.is_some();
    plane.assign(request);
}

/// It was planned, and waits or has ended.
fn is_decided(plane: &Plane, id: &str) -> bool {
    plane.result(id).is_some() || plane.phase(id) == "awaiting_approval"
}

fn check(plane: &Plane, id: &str, case: &Case) {
    let result = plane.result(id);
    let found = result.as_ref().map(|result| (result.phase.as_str(), result.code.as_str()));
    let expected = match case.becomes {
        Becomes::Denied => Some(("failed", "plan_denied")),
        Becomes::Applied => Some(("applied", "ok")),
        Becomes::Planned => Some(("planned", "ok")),
        Becomes::Waits => None,
    };
    assert_eq!(found, expected, "{}: {result:?}", case.what);
    assert_eq!(plane.starts(id), (1, usize::from(case.becomes == Becomes::Applied)), "{}", case.what);
    if let Some(result) = result.filter(|result| result.code != "ok") {
        assert!(!result.message.is_empty() && !result.next_step.is_empty(), "{}: {result:?}", case.what);
    }
}

#[test]
fn nothing_is_applied_that_rules_forbid() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let _supervisor = host.supervisor(&plane);
    let cases = cases();
    assert!(cases.len() >= 40, "{}", cases.len());
    // those with the same policy of the runner are side by side
    let mut sets: Vec<_> = cases.iter().map(|case| (case.runner, case.reconciles == Some(true))).collect();
    sets.sort_unstable();
    sets.dedup();
    for set in sets {
        plane.update(|p| (p.plan_rules, p.reconciles) = (set.0.into(), set.1));
        let these: Vec<_> = cases
            .iter()
            .enumerate()
            .filter(|(_, c)| (c.runner, c.reconciles == Some(true)) == set)
            .map(|(n, c)| (format!("j{n}"), c))
            .collect();
        for some in these.chunks(SIDE_BY_SIDE) {
            for (id, case) in some {
                assign(&plane, id, case);
            }
            for (id, case) in some {
                wait_for(&case.what, || is_decided(&plane, id));
                for names in &case.approvals {
                    plane.tell(approval(id, names));
                }
            }
            for (id, case) in some.iter().filter(|(_, case)| case.becomes == Becomes::Applied) {
                wait_for(&case.what, || plane.result(id).is_some());
            }
        }
        // whoever was told something after these has heard of these
        let last = format!("{}-last", these[0].0);
        assign(&plane, &last, &Case::new("last", ("", ""), Becomes::Planned).preview());
        wait_for("the last one", || plane.result(&last).is_some());
        for (id, case) in &these {
            check(&plane, id, case);
        }
    }
}

#[test]
fn rules_that_change_while_a_plan_waits_count_as_they_are_when_it_is_applied() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let _supervisor = host.supervisor(&plane);
    use Becomes::{Applied, Denied, Waits};
    let one: &[&str] = &["bob"];
    let two: &[&str] = &["bob", "eve"];
    for (n, (before, after, names, becomes)) in [
        ("", DENY, one, Denied),
        ("", DENY_REGO, two, Denied),
        (WARN, DENY, one, Denied),
        ("", TWO, one, Denied),
        ("", TWO, two, Applied),
        (WARN, TWO_REGO, one, Denied),
        ("", BROKEN[0], one, Denied),
        ("", BROKEN[2], one, Denied),
        ("", WARN, one, Applied),
        (WARN, "", one, Applied),
        // what was asked for then is asked for still
        (TWO, "", one, Waits),
        (TWO, WARN, two, Applied),
        (TWO, TWO, two, Applied),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("j{n}");
        let case = Case::new(&format!("then {after:?}"), (before, ""), becomes);
        plane.update(|p| p.plan_rules = before.into());
        assign(&plane, &id, &case);
        wait_for(&case.what, || plane.phase(&id) == "awaiting_approval");
        plane.update(|p| p.plan_rules = after.into());
        plane.tell(approval(&id, names));
        if becomes == Waits {
            // told again, as a control plane does that lost its connection
            plane.tell(approval(&id, names));
            plane.tell(Kind::Discard(Discard { job_id: id.clone(), fencing_token: 1, by: "eve".into() }));
            plane.tell(approval(&id, two));
            wait_for(&case.what, || plane.result(&id).is_some());
            let phase = plane.result(&id).map(|result| result.phase);
            assert_eq!((phase.as_deref(), plane.starts(&id)), (Some("discarded"), (1, 0)), "{}", case.what);
            continue;
        }
        wait_for(&case.what, || plane.result(&id).is_some());
        check(&plane, &id, &case);
    }
}
