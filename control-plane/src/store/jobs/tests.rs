//! A job's way through the store, step by step, and every step that is refused.

mod plans;

use super::*;
use crate::clock::steady_ms;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use shared_proto::v1::event::Body;

const ORG: &str = "org_a";
const RUNNER: &str = "run_1";
const HERE: &str = "i-1";

/// An organization `org_a` with runner `run_1`, another organization `org_b` with `run_b`.
pub(crate) async fn store() -> Store {
    filled(Store::in_memory().await.expect("a store")).await
}
/// The same in a store of its own.
pub(crate) async fn filled(store: Store) -> Store {
    for (organization, runner) in [(ORG, RUNNER), ("org_b", "run_b")] {
        sqlx::query("INSERT INTO organizations (id, name, created_at_ms) VALUES ($1, $1, 1)")
            .bind(organization)
            .execute(store.pool())
            .await
            .expect("an organization");
        sqlx::query("INSERT INTO runners (id, organization, name, created_at_ms) VALUES ($1, $2, $1, 1)")
            .bind(runner)
            .bind(organization)
            .execute(store.pool())
            .await
            .expect("a runner");
    }
    store
}

pub(crate) async fn stack(store: &Store, name: &str) -> Stack {
    let new = NewStack {
        name: name.into(),
        engine: "opentofu".into(),
        runner: None,
        source: "{}".into(),
        variables: "{}".into(),
        not_redacted: "[]".into(),
        engine_version: None,
        limits: "{}".into(),
        hooks: "{}".into(),
        connections: "[]".into(),
        secrets: "{}".into(),
        sealed: "{}".into(),
        variable_sets: "[]".into(),
        inputs: "{}".into(),
        follows: false,
    };
    store.create_stack(ORG, &new).await.expect("a stack")
}

pub(crate) fn new_job(stack: &Stack, kind: JobKind) -> NewJob {
    NewJob {
        limits: v1::TimeLimits::default(),
        hooks: None,
        manner: Manner::default(),
        scope: Scope::default(),
        stack: stack.clone(),
        runner: RUNNER.into(),
        kind,
        approve_automatically: false,
        source: v1::Source::default(),
        variables: [("password".to_owned(), "s3cr3t".to_owned())].into(),
        typed: vec![],
        secrets: Default::default(),
        sealed: vec![],
        not_redacted: vec![],
        left_out: vec![],
        connections: vec![],
        created_by: "ann".into(),
        groups: Vec::new(),
        idempotency: None,
    }
}

async fn job(store: &Store, stack: &Stack, kind: JobKind) -> Job {
    store.create_job(new_job(stack, kind)).await.expect("a job")
}
async fn assign(store: &Store, instance: &str, present: &[&str]) -> Option<Given> {
    let present: Vec<String> = present.iter().map(|i| (*i).to_owned()).collect();
    store.assign_next(RUNNER, instance, 4, &present).await.expect("asked")
}
fn accept(given: &Given, instance: &str) -> v1::AcceptRequest {
    v1::AcceptRequest {
        job_id: given.job_id.clone(),
        fencing_token: given.fencing_token,
        instance_id: instance.into(),
        request_sha256: given.request_sha256.clone(),
    }
}
/// A job that the instance has accepted.
async fn accepted(store: &Store, stack: &Stack, kind: JobKind) -> Given {
    job(store, stack, kind).await;
    let given = assign(store, HERE, &[HERE]).await.expect("a job");
    store.accept_job(ORG, RUNNER, &accept(&given, HERE)).await.expect("accepted");
    given
}
fn report(given: &Given, from: u64, bodies: Vec<Body>) -> v1::ReportRequest {
    let events = (from..).zip(bodies).map(|(sequence, body)| v1::Event {
        sequence,
        time_ms: 1,
        engine_read: None,
        body: Some(body),
    });
    v1::ReportRequest {
        job_id: given.job_id.clone(),
        fencing_token: given.fencing_token,
        instance_id: HERE.into(),
        events: events.collect(),
    }
}
async fn tell(store: &Store, given: &Given, from: u64, bodies: Vec<Body>) -> Reported {
    store.report_events(ORG, RUNNER, &report(given, from, bodies)).await.expect("taken")
}
pub(crate) fn phase(phase: &str) -> Body {
    Body::PhaseChanged(v1::PhaseChanged { phase: phase.into(), ..Default::default() })
}
pub(crate) fn plan(has_changes: bool) -> Body {
    Body::PlanSaved(v1::PlanSaved { sha256: "p1".into(), has_changes, text: "Plan: 1 to add".into() })
}
pub(crate) fn result(phase: &str, code: &str) -> Body {
    Body::Result(v1::JobResult { phase: phase.into(), code: code.into(), ..Default::default() })
}
fn line(text: &str) -> Body {
    Body::OutputLine(v1::OutputLine { stream: "stdout".into(), text: text.into() })
}
/// Events 1 to 5, after which it waits for its approval.
async fn awaiting(store: &Store, stack: &Stack) -> Given {
    let given = accepted(store, stack, JobKind::Update).await;
    let summary = v1::ChangeSummary { add: 1, operation: "plan".into(), ..Default::default() };
    let events =
        vec![phase("planning"), Body::ChangeSummary(summary), plan(true), phase("planned"), phase("awaiting_approval")];
    assert_eq!(tell(store, &given, 1, events).await.job.phase, Phase::AwaitingApproval);
    given
}
/// What a worker says of itself when a phase begins.
fn isolated(phase: &str, level: &str) -> Body {
    Body::PhaseChanged(v1::PhaseChanged { phase: phase.into(), isolation_level: level.into(), ..Default::default() })
}
async fn now(store: &Store, given: &Given) -> Job {
    store.job(ORG, &given.job_id).await.expect("a job")
}
fn code<T: std::fmt::Debug>(result: Result<T, Failure>) -> Code {
    result.expect_err("refused").code
}

#[tokio::test]
async fn an_update_goes_its_whole_way() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let given = awaiting(&store, &stack).await;
    let request = v1::JobRequest::decode(&given.request[..]).expect("a request");
    assert_eq!((request.job_id.as_str(), request.organization_id.as_str()), (given.job_id.as_str(), ORG));
    assert_eq!(Sha256::digest(&given.request)[..], given.request_sha256[..]);
    let job = store.approve_job(ORG, &given.job_id, "bob", Some("p1")).await.expect("approved");
    assert_eq!((job.phase, job.approved_by.as_deref()), (Phase::Applying, Some("bob")));
    let plan = job.plan().expect("a plan");
    assert_eq!((plan.add, plan.sha256.as_str(), plan.has_changes), (1, "p1", true));
    // what was on its way when it was approved does not send it back
    assert_eq!(tell(&store, &given, 6, vec![phase("awaiting_approval")]).await.job.phase, Phase::Applying);
    let end = tell(
        &store,
        &given,
        7,
        vec![phase("applying"), Body::Outputs(v1::Outputs { json: "{}".into() }), result("applied", "ok")],
    )
    .await;
    assert_eq!((end.acknowledged, end.refused, end.job.phase), (9, None, Phase::Applied));
    assert!(end.job.ended() && end.job.reported);
    assert_eq!(store.stack(ORG, "s").await.expect("there").last_instance.as_deref(), Some(HERE));
    let events = store.job_events(ORG, &given.job_id, 2, 3).await.expect("events");
    assert_eq!(events.iter().map(|e| e.sequence).collect::<Vec<_>>(), [3, 4, 5]);
}

#[tokio::test]
async fn what_is_another_organizations_is_not_there() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let given = awaiting(&store, &stack).await;
    let id = given.job_id.as_str();
    assert_eq!(code(store.stack("org_b", &stack.id).await), Code::NotFound);
    assert_eq!(code(store.delete_stack("org_b", &stack.id, true).await), Code::NotFound);
    assert_eq!(code(store.job("org_b", id).await), Code::NotFound);
    assert_eq!(code(store.job_events("org_b", id, 0, 10).await), Code::NotFound);
    assert_eq!(code(store.approve_job("org_b", id, "eve", None).await), Code::NotFound);
    assert_eq!(code(store.discard_job("org_b", id, "eve").await), Code::NotFound);
    assert_eq!(code(store.cancel_job("org_b", id, "eve", true, |_| true).await), Code::NotFound);
    assert_eq!(code(store.accept_job("org_b", "run_b", &accept(&given, HERE)).await), Code::NotFound);
    assert_eq!(code(store.accept_job(ORG, "run_2", &accept(&given, HERE)).await), Code::NotFound);
    assert_eq!(code(store.report_events("org_b", "run_b", &report(&given, 6, vec![line("x")])).await), Code::NotFound);
    assert_eq!(store.standing("org_b", "run_b", HERE, id, 1).await, Ok(Standing::Unknown));
    assert_eq!(store.assign_next("run_b", HERE, 4, &[]).await, Ok(None));
    assert!(store.jobs("org_b", None, 10).await.expect("a list").is_empty());
    let elsewhere =
        NewJob { stack: Stack { organization: "org_b".into(), ..stack.clone() }, ..new_job(&stack, JobKind::Preview) };
    assert_eq!(code(store.create_job(elsewhere).await), Code::NotFound);
}

#[tokio::test]
async fn a_request_that_is_sent_again_makes_no_other_job() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let asked = |by: &str, key: &str, asked: u8| NewJob {
        created_by: by.into(),
        groups: Vec::new(),
        idempotency: Some(Idempotency { key: key.into(), asked_sha256: vec![asked; 32] }),
        ..new_job(&stack, JobKind::Update)
    };
    let first = store.create_job(asked("ann", "k1", 1)).await.expect("a job");
    assert_eq!(store.create_job(asked("ann", "k1", 1)).await.expect("the same").id, first.id);
    let (one, two) = tokio::join!(store.create_job(asked("ann", "k2", 1)), store.create_job(asked("ann", "k2", 1)));
    assert_eq!(one.expect("a job").id, two.expect("the same").id, "both at once");
    assert_eq!(code(store.create_job(asked("ann", "k1", 2)).await), Code::Conflict, "other words");
    assert_ne!(store.create_job(asked("eve", "k1", 1)).await.expect("another's").id, first.id);
    for _ in 0..2 {
        assert_ne!(store.create_job(new_job(&stack, JobKind::Update)).await.expect("no key").id, first.id);
    }
    assert_eq!(store.jobs(ORG, None, 10).await.expect("a list").len(), 5);
    // it is known however many wait, and however it ended
    store.cancel_job(ORG, &first.id, "ann", false, |_| true).await.expect("canceled");
    let again = store.create_job(asked("ann", "k1", 1)).await.expect("the same");
    assert_eq!((again.id, again.phase), (first.id, Phase::Canceled));
}

/// Neither would ever have gone on: the one not taken here because of the other, the other not taken there because of the one.
#[tokio::test]
async fn a_job_that_is_presented_goes_before_one_that_nobody_accepted() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let first = job(&store, &stack, JobKind::Update).await;
    let given = assign(&store, HERE, &[HERE]).await.expect("the first");
    // restored from a back-up of before it was accepted; a user ends it, and the stack's next one is given out
    store.mark_restored().await.expect("marked");
    store.cancel_job(ORG, &first.id, "ann", false, |_| true).await.expect("canceled");
    let second = job(&store, &stack, JobKind::Update).await;
    let next = assign(&store, HERE, &[HERE]).await.expect("the second");
    assert_eq!(next.job_id, second.id);
    let presented = v1::PresentRequest {
        job_id: given.job_id.clone(),
        fencing_token: given.fencing_token,
        instance_id: HERE.into(),
        request: given.request.clone(),
        seal: given.seal.clone(),
    };
    let taken = store.present_job(ORG, RUNNER, &presented).await.expect("taken");
    assert_eq!((taken.id.as_str(), taken.accepted), (first.id.as_str(), true));
    assert_eq!(store.job(ORG, &second.id).await.expect("there").phase, Phase::Pending);
    assert_eq!(code(store.accept_job(ORG, RUNNER, &accept(&next, HERE)).await), Code::Fenced);
    tell(&store, &given, 1, vec![result("no_changes", "ok")]).await;
    assert_eq!(assign(&store, HERE, &[HERE]).await.expect("its turn").job_id, second.id);
}

#[tokio::test]
async fn a_stack_has_one_job_at_a_time_and_an_instance_its_slots() {
    let store = store().await;
    let (one, two) = (stack(&store, "one").await, stack(&store, "two").await);
    let first = job(&store, &one, JobKind::Preview).await;
    let second = job(&store, &one, JobKind::Preview).await;
    let other = job(&store, &two, JobKind::Preview).await;
    let given = assign(&store, HERE, &[HERE]).await.expect("the first");
    assert_eq!((given.job_id.as_str(), given.fencing_token), (first.id.as_str(), 1));
    assert_eq!(store.assign_next(RUNNER, HERE, 1, &[]).await, Ok(None), "its one slot is taken");
    assert_eq!(assign(&store, HERE, &[HERE]).await.expect("the other stack's").job_id, other.id);
    assert_eq!(assign(&store, HERE, &[HERE]).await, None, "the first stack has one already");
    store.accept_job(ORG, RUNNER, &accept(&given, HERE)).await.expect("accepted");
    tell(&store, &given, 1, vec![result("planned", "ok")]).await;
    assert_eq!(now(&store, &given).await.phase, Phase::Planned);
    assert_eq!(assign(&store, HERE, &[HERE]).await.expect("its turn").job_id, second.id);
}

#[tokio::test]
async fn what_is_not_accepted_goes_to_another_under_a_new_token() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    job(&store, &stack, JobKind::Update).await;
    let first = assign(&store, HERE, &[]).await.expect("a job");
    assert_eq!(store.take_back(RUNNER, None, 0).await, Ok(0), "not yet");
    assert_eq!(store.take_back(RUNNER, Some("i-9"), i64::MAX).await, Ok(0), "not that instance's");
    assert_eq!(store.take_back(RUNNER, None, i64::MAX).await, Ok(1));
    let second = assign(&store, "i-2", &[]).await.expect("again");
    assert_eq!((second.job_id.as_str(), second.fencing_token), (first.job_id.as_str(), 2));
    assert_eq!(code(store.accept_job(ORG, RUNNER, &accept(&first, HERE)).await), Code::Fenced);
    store.accept_job(ORG, RUNNER, &accept(&second, "i-2")).await.expect("accepted");
    assert_eq!(store.take_back(RUNNER, None, i64::MAX).await, Ok(0), "accepted is bound");
    assert_eq!(code(store.report_events(ORG, RUNNER, &report(&first, 1, vec![line("x")])).await), Code::Fenced);
}

#[tokio::test]
async fn a_late_accept_is_good_until_another_has_the_job_or_the_stack() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    job(&store, &stack, JobKind::Update).await;
    let given = assign(&store, HERE, &[]).await.expect("a job");
    store.take_back(RUNNER, None, i64::MAX).await.expect("taken back");
    assert_eq!(code(store.accept_job(ORG, RUNNER, &accept(&given, "i-2")).await), Code::Fenced);
    let wrong = v1::AcceptRequest { request_sha256: vec![0; 32], ..accept(&given, HERE) };
    assert_eq!(code(store.accept_job(ORG, RUNNER, &wrong).await), Code::InvalidArgument);
    let job = store.accept_job(ORG, RUNNER, &accept(&given, HERE)).await.expect("late, and good");
    assert_eq!(job.phase, Phase::Preparing);
    assert_eq!(store.accept_job(ORG, RUNNER, &accept(&given, HERE)).await.expect("again"), job);
    let request: Vec<u8> = sqlx::query_scalar("SELECT request FROM jobs").fetch_one(store.pool()).await.expect("a row");
    assert!(request.is_empty(), "the variables are not kept where they are not needed");
}

#[tokio::test]
async fn a_stack_prefers_the_instance_that_has_its_state() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let given = awaiting(&store, &stack).await;
    store.approve_job(ORG, &given.job_id, "bob", None).await.expect("approved");
    tell(&store, &given, 6, vec![phase("applying"), result("applied", "ok")]).await;
    job(&store, &stack, JobKind::Preview).await;
    assert_eq!(assign(&store, "i-2", &[HERE, "i-2"]).await, None);
    assert_eq!(assign(&store, "i-2", &["i-2"]).await, None, "it may be back in a moment");
    sqlx::query("UPDATE jobs SET created_at_ms = 1").execute(store.pool()).await.expect("time passes");
    assert_eq!(assign(&store, "i-2", &[HERE, "i-2"]).await, None);
    let other = assign(&store, "i-2", &["i-2"]).await.expect("the other one is gone");
    assert_eq!(other.state_instance.as_deref(), Some(HERE));
    store.accept_job(ORG, RUNNER, &accept(&other, "i-2")).await.expect("accepted");
    let refused =
        v1::ReportRequest { instance_id: "i-2".into(), ..report(&other, 1, vec![result("failed", "state_elsewhere")]) };
    store.report_events(ORG, RUNNER, &refused).await.expect("taken");
    // what was refused there has made no state there
    assert_eq!(state_of(&store).await.as_deref(), Some(HERE));
    job(&store, &stack, JobKind::Preview).await;
    let back = assign(&store, HERE, &[HERE, "i-2"]).await.expect("it is back");
    assert_eq!(back.state_instance.as_deref(), Some(HERE));
}

async fn state_of(store: &Store) -> Option<String> {
    store.stack(ORG, "s").await.expect("there").last_instance
}

#[tokio::test]
async fn only_what_applies_has_the_state() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    for (kind, end) in [(JobKind::Preview, "planned"), (JobKind::Outputs, "no_changes"), (JobKind::Update, "failed")] {
        let given = accepted(&store, &stack, kind).await;
        assert_eq!(given.state_instance, None);
        tell(&store, &given, 1, vec![phase("planning"), result(end, "ok")]).await;
        assert_eq!(state_of(&store).await, None, "{kind:?}");
    }
    let given = awaiting(&store, &stack).await;
    store.approve_job(ORG, &given.job_id, "bob", None).await.expect("approved");
    assert_eq!(state_of(&store).await, None, "approved, and not begun");
    // cancelled after it began: what is made is made
    tell(&store, &given, 6, vec![phase("applying"), result("canceled", "cancelled")]).await;
    assert_eq!(state_of(&store).await.as_deref(), Some(HERE));
}

#[tokio::test]
async fn where_nobody_knows_what_was_applied_the_state_may_be_there() {
    for (automatic, begun, expected) in
        [(false, false, None), (false, true, Some(HERE)), (true, false, Some(HERE)), (true, true, Some(HERE))]
    {
        let new = |stack: &Stack| NewJob { approve_automatically: automatic, ..new_job(stack, JobKind::Update) };
        let events = || vec![plan(true), phase("planned"), phase("awaiting_approval")];
        // given up by a user
        let store = store().await;
        let stack = stack(&store, "s").await;
        store.create_job(new(&stack)).await.expect("a job");
        let given = assign(&store, HERE, &[HERE]).await.expect("a job");
        store.accept_job(ORG, RUNNER, &accept(&given, HERE)).await.expect("accepted");
        if begun {
            tell(&store, &given, 1, events()).await;
            if !automatic {
                store.approve_job(ORG, &given.job_id, "bob", None).await.expect("approved");
            }
        }
        let lost = store.cancel_job(ORG, &given.job_id, "bob", true, |_| true).await.expect("given up");
        assert!(matches!(lost, Cancelled::Ended(job) if job.phase == Phase::Lost));
        assert_eq!(state_of(&store).await.as_deref(), expected, "{automatic} {begun}");
        // lost by its runner, without a word of applying
        let store = self::store().await;
        let stack = self::stack(&store, "s").await;
        store.create_job(new(&stack)).await.expect("a job");
        let given = assign(&store, HERE, &[HERE]).await.expect("a job");
        store.accept_job(ORG, RUNNER, &accept(&given, HERE)).await.expect("accepted");
        tell(&store, &given, 1, events()).await;
        if begun && !automatic {
            store.approve_job(ORG, &given.job_id, "bob", None).await.expect("approved");
        }
        tell(&store, &given, 4, vec![result("failed", "spool_damaged")]).await;
        assert_eq!(state_of(&store).await.as_deref(), expected, "{automatic} {begun}");
    }
}

#[tokio::test]
async fn events_are_stored_once_and_in_order() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let given = accepted(&store, &stack, JobKind::Update).await;
    assert_eq!(tell(&store, &given, 1, vec![line("a"), line("b")]).await.acknowledged, 2);
    let again = tell(&store, &given, 1, vec![line("a"), line("b"), line("c")]).await;
    assert_eq!((again.acknowledged, again.refused, again.news), (3, None, true));
    let same = tell(&store, &given, 2, vec![line("b")]).await;
    assert_eq!((same.acknowledged, same.news), (3, false));
    let gap = tell(&store, &given, 5, vec![line("e")]).await;
    assert_eq!((gap.acknowledged, gap.refused.map(|f| f.code)), (3, Some(Code::InvalidArgument)));
    let large = tell(&store, &given, 4, vec![line("d"), line(&"x".repeat(100_000))]).await;
    assert_eq!((large.acknowledged, large.refused.map(|f| f.code)), (4, Some(Code::TooLarge)));
    let other = v1::ReportRequest { instance_id: "i-2".into(), ..report(&given, 5, vec![line("x")]) };
    assert_eq!(code(store.report_events(ORG, RUNNER, &other).await), Code::Fenced);
    let after = tell(&store, &given, 5, vec![result("failed", "engine_failed"), line("late")]).await;
    assert_eq!((after.acknowledged, after.refused.map(|f| f.code)), (5, Some(Code::InvalidArgument)));
    assert_eq!(after.job.phase, Phase::Failed);
    let events = store.job_events(ORG, &given.job_id, 0, 100).await.expect("events");
    assert_eq!(events.iter().map(|e| e.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn beyond_the_bound_words_are_kept_by_number_only() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let given = accepted(&store, &stack, JobKind::Update).await;
    sqlx::query("UPDATE jobs SET event_bytes = 1000000000").execute(store.pool()).await.expect("a talkative engine");
    tell(&store, &given, 1, vec![line("x"), result("failed", "engine_failed")]).await;
    let events = store.job_events(ORG, &given.job_id, 0, 10).await.expect("events");
    assert_eq!(events[0].body, None);
    assert!(matches!(events[1].body, Some(Body::Result(_))));
}

#[tokio::test]
async fn an_automatic_job_is_approved_as_soon_as_it_waits() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    store.create_job(NewJob { approve_automatically: true, ..new_job(&stack, JobKind::Destroy) }).await.expect("a job");
    let given = assign(&store, HERE, &[]).await.expect("a job");
    store.accept_job(ORG, RUNNER, &accept(&given, HERE)).await.expect("accepted");
    assert_eq!(tell(&store, &given, 1, vec![plan(true), phase("planned")]).await.job.phase, Phase::Planned);
    let job = tell(&store, &given, 3, vec![phase("awaiting_approval")]).await.job;
    assert_eq!((job.phase, job.approved_by.as_deref()), (Phase::Applying, Some("ann")));
}

/// Its state, its outputs and what it has destroyed are what they are, whatever its phase says.
#[tokio::test]
async fn what_was_applied_counts_where_the_job_failed_of_a_hook_behind_it() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let outputs = |value: &str| Body::Outputs(v1::Outputs { json: format!("{{\"o\":{{\"value\":\"{value}\"}}}}") });
    let ends = async |kind: JobKind, value: &str, applied: bool| {
        let given = accepted(&store, &stack, kind).await;
        tell(&store, &given, 1, vec![plan(true), phase("awaiting_approval")]).await;
        store.approve_job(ORG, &given.job_id, "bob", None).await.expect("approved");
        let end = v1::JobResult { phase: "failed".into(), code: "hook_failed".into(), applied, ..Default::default() };
        tell(&store, &given, 3, vec![phase("applying"), outputs(value), Body::Result(end)]).await.job
    };
    let job = ends(JobKind::Update, "one", false).await;
    assert_eq!((job.phase, job.has_applied()), (Phase::Failed, false));
    assert_eq!(store.last_outputs(&stack.id).await.expect("asked"), None);
    let job = ends(JobKind::Update, "two", true).await;
    assert_eq!((job.phase, job.has_applied()), (Phase::Failed, true));
    let end: JobEnd = serde_json::from_str(job.result.as_deref().expect("a result")).expect("reads");
    assert!(end.applied && end.code == "hook_failed", "{end:?}");
    let told = store.last_outputs(&stack.id).await.expect("asked");
    assert!(told.is_some_and(|told| told.contains("two")));
    assert_eq!(code(store.delete_stack(ORG, &stack.id, false).await), Code::StackNotEmpty);
    ends(JobKind::Destroy, "", true).await;
    store.delete_stack(ORG, &stack.id, false).await.expect("all of it was destroyed");
}

#[tokio::test]
async fn jobs_without_changes_and_previews_end_without_a_question() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let given = accepted(&store, &stack, JobKind::Update).await;
    let job = tell(&store, &given, 1, vec![plan(false), result("no_changes", "ok")]).await.job;
    assert_eq!((job.phase, job.ended()), (Phase::NoChanges, true));
    let given = accepted(&store, &stack, JobKind::Preview).await;
    let job = tell(&store, &given, 1, vec![plan(true), phase("planned")]).await.job;
    assert_eq!((job.phase, job.ended()), (Phase::Planned, false));
    let job = tell(&store, &given, 3, vec![result("planned", "ok")]).await.job;
    assert_eq!((job.phase, job.ended()), (Phase::Planned, true));
    // a result with a phase that is none fails the job, and is not made up
    let given = accepted(&store, &stack, JobKind::Outputs).await;
    assert_eq!(tell(&store, &given, 1, vec![result("preparing", "ok")]).await.job.phase, Phase::Failed);
}

#[tokio::test]
async fn only_the_plan_that_is_there_is_approved_and_only_once_it_waits() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let given = accepted(&store, &stack, JobKind::Update).await;
    let id = given.job_id.as_str();
    assert_eq!(code(store.approve_job(ORG, id, "bob", None).await), Code::Conflict);
    assert_eq!(code(store.discard_job(ORG, id, "bob").await), Code::Conflict);
    tell(&store, &given, 1, vec![plan(true), phase("awaiting_approval")]).await;
    assert_eq!(code(store.approve_job(ORG, id, "bob", Some("p0")).await), Code::PlanStale);
    store.approve_job(ORG, id, "bob", None).await.expect("approved");
    assert_eq!(store.approve_job(ORG, id, "eve", None).await.expect("again").approved_by.as_deref(), Some("bob"));
    assert_eq!(code(store.discard_job(ORG, id, "bob").await), Code::Conflict);
    tell(&store, &given, 3, vec![result("applied", "ok")]).await;
    assert_eq!(code(store.approve_job(ORG, id, "bob", None).await), Code::Conflict);
    assert_eq!(code(store.cancel_job(ORG, id, "bob", false, |_| true).await), Code::Conflict);
}

#[tokio::test]
async fn a_discarded_job_stays_discarded_and_its_stack_waits_for_the_instance() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let given = awaiting(&store, &stack).await;
    let job = store.discard_job(ORG, &given.job_id, "bob").await.expect("discarded");
    assert_eq!((job.phase, job.ended()), (Phase::Discarded, true));
    assert_eq!(store.discard_job(ORG, &given.job_id, "bob").await.expect("again"), job);
    self::job(&store, &stack, JobKind::Preview).await;
    assert_eq!(assign(&store, HERE, &[HERE]).await, None, "the instance has not done with the last one");
    let told = tell(&store, &given, 6, vec![result("discarded", "ok")]).await;
    assert_eq!((told.job.phase, told.job.reported), (Phase::Discarded, true));
    assert!(told.job.result.expect("a result").contains("discarded by bob"));
    assert!(assign(&store, HERE, &[HERE]).await.is_some());
}

#[tokio::test]
async fn a_cancel_ends_at_once_what_nobody_started() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let pending = job(&store, &stack, JobKind::Update).await;
    let cancelled = store.cancel_job(ORG, &pending.id, "bob", false, |_| false).await.expect("cancelled");
    assert!(matches!(cancelled, Cancelled::Ended(job) if job.phase == Phase::Canceled));
    job(&store, &stack, JobKind::Update).await;
    let given = assign(&store, HERE, &[]).await.expect("a job");
    store.cancel_job(ORG, &given.job_id, "bob", false, |_| false).await.expect("cancelled");
    assert_eq!(code(store.accept_job(ORG, RUNNER, &accept(&given, HERE)).await), Code::Cancelled);
    let given = awaiting(&store, &stack).await;
    store.cancel_job(ORG, &given.job_id, "bob", false, |_| false).await.expect("cancelled");
    assert_eq!(now(&store, &given).await.phase, Phase::Canceled);
}

#[tokio::test]
async fn a_cancel_asks_what_runs_and_force_gives_up_what_is_gone() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let given = accepted(&store, &stack, JobKind::Update).await;
    tell(&store, &given, 1, vec![phase("planning")]).await;
    let asked = store.cancel_job(ORG, &given.job_id, "bob", false, |_| true).await.expect("asked");
    assert!(matches!(asked, Cancelled::Asked(job) if job.phase == Phase::Planning && !job.cancel_force));
    let forced = store.cancel_job(ORG, &given.job_id, "eve", true, |_| false).await.expect("forced");
    assert!(matches!(forced, Cancelled::Asked(job) if job.cancel_force && job.canceled_by.as_deref() == Some("bob")));
    let lost = store.cancel_job(ORG, &given.job_id, "bob", true, |i| i == HERE).await.expect("given up");
    assert!(matches!(lost, Cancelled::Ended(job) if job.phase == Phase::Lost));
    assert_eq!(code(store.report_events(ORG, RUNNER, &report(&given, 2, vec![line("x")])).await), Code::Fenced);
    job(&store, &stack, JobKind::Update).await;
    assert!(assign(&store, HERE, &[HERE]).await.is_some(), "the stack is free");
}

#[tokio::test]
async fn stacks_have_names_of_their_own_and_go_when_nothing_runs() {
    let store = store().await;
    let first = stack(&store, "s").await;
    let same = NewStack {
        name: "s".into(),
        engine: "terraform".into(),
        runner: Some(RUNNER.into()),
        source: "{}".into(),
        variables: "{}".into(),
        not_redacted: "[]".into(),
        engine_version: None,
        limits: "{}".into(),
        hooks: "{}".into(),
        connections: "[]".into(),
        secrets: "{}".into(),
        sealed: "{}".into(),
        variable_sets: "[]".into(),
        inputs: "{}".into(),
        follows: false,
    };
    assert_eq!(code(store.create_stack(ORG, &same).await), Code::Conflict);
    let changed = store.update_stack(ORG, &first.id, &same).await.expect("changed");
    assert_eq!((changed.engine.as_str(), changed.runner.as_deref()), ("terraform", Some(RUNNER)));
    let waiting = job(&store, &changed, JobKind::Preview).await;
    assert_eq!(code(store.delete_stack(ORG, &first.id, true).await), Code::Conflict);
    store.cancel_job(ORG, &waiting.id, "bob", false, |_| true).await.expect("cancelled");
    store.delete_stack(ORG, &first.id, false).await.expect("deleted");
    assert_eq!(code(store.stack(ORG, "s").await), Code::NotFound);
    assert_eq!(store.job(ORG, &waiting.id).await.expect("still to be read").stack_name, "s");
    stack(&store, "s").await;
}

/// Its steps may run on another day, on a machine that was set up anew: what is said of the job holds for all of them.
#[tokio::test]
async fn a_job_is_isolated_as_the_weakest_of_its_workers() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let given = accepted(&store, &stack, JobKind::Update).await;
    assert_eq!(now(&store, &given).await.isolation_level, None);
    let events = vec![isolated("preparing", "namespaces"), isolated("planning", "made up"), phase("planned")];
    tell(&store, &given, 1, events).await;
    assert_eq!(now(&store, &given).await.isolation_level.as_deref(), Some("namespaces"));
    tell(&store, &given, 4, vec![isolated("applying", "confined"), isolated("applying", "namespaces")]).await;
    assert_eq!(now(&store, &given).await.isolation_level.as_deref(), Some("confined"));
}

#[tokio::test]
async fn a_job_says_how_often_a_secret_was_taken_out() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let given = accepted(&store, &stack, JobKind::Update).await;
    assert_eq!((now(&store, &given).await.redacted, now(&store, &given).await.not_redacted), (None, None));
    let redacted = |count: u64, names: &[&str]| {
        Body::Redacted(v1::Redacted { count, not_redacted: names.iter().map(|n| (*n).to_owned()).collect() })
    };
    tell(&store, &given, 1, vec![redacted(2, &["pin"])]).await;
    tell(&store, &given, 2, vec![redacted(1, &["pin", "connection c"])]).await;
    let job = now(&store, &given).await;
    assert_eq!((job.redacted, job.not_redacted.as_deref()), (Some(3), Some(r#"["connection c","pin"]"#)));
    // what a worker makes up ends at a bound
    let many = (0..2000).map(|i| format!("v{i}")).collect();
    tell(&store, &given, 3, vec![Body::Redacted(v1::Redacted { count: u64::MAX, not_redacted: many })]).await;
    let job = now(&store, &given).await;
    let names: Vec<String> = serde_json::from_str(&job.not_redacted.expect("names")).expect("JSON");
    assert_eq!((job.redacted, names.len()), (Some(i64::MAX), 512));
}

#[tokio::test]
async fn a_stack_whose_resources_nobody_destroyed_goes_only_by_force() {
    let store = store().await;
    let refused = async |stack: &Stack| match store.delete_stack(ORG, &stack.id, false).await {
        Err(failure) => {
            assert_eq!(failure.code, Code::StackNotEmpty, "{failure}");
            assert!(failure.next_step.contains("--kind destroy") && failure.next_step.contains("--force"), "{failure}");
            true
        }
        Ok(_) => false,
    };
    let run = async |stack: &Stack, kind, from: u64, bodies| {
        let given = accepted(&store, stack, kind).await;
        tell(&store, &given, from, bodies).await;
        given
    };
    let kept = stack(&store, "kept").await;
    let given = awaiting(&store, &kept).await;
    store.approve_job(ORG, &given.job_id, "bob", None).await.expect("approved");
    tell(&store, &given, 6, vec![phase("applying"), result("applied", "ok")]).await;
    // what looks, or changes nothing more, makes no difference
    run(&kept, JobKind::Preview, 1, vec![plan(true), result("planned", "ok")]).await;
    run(&kept, JobKind::Update, 1, vec![plan(false), result("no_changes", "ok")]).await;
    run(&kept, JobKind::Destroy, 1, vec![plan(true), result("failed", "engine_failed")]).await;
    assert!(refused(&kept).await);
    run(&kept, JobKind::Destroy, 1, vec![plan(true), phase("applying"), result("applied", "ok")]).await;
    assert!(!refused(&kept).await, "all of it was destroyed");

    // an update that broke off may have made some of it
    let broken = stack(&store, "broken").await;
    let given = awaiting(&store, &broken).await;
    store.approve_job(ORG, &given.job_id, "bob", None).await.expect("approved");
    tell(&store, &given, 6, vec![phase("applying"), result("failed", "engine_failed")]).await;
    assert!(refused(&broken).await);
    let gone = store.delete_stack(ORG, &broken.id, true).await.expect("by force");
    assert_eq!(gone.last_instance.as_deref(), Some(HERE), "where its state stays");

    // one that never came to apply has not
    let planned = stack(&store, "planned").await;
    run(&planned, JobKind::Update, 1, vec![result("failed", "engine_failed")]).await;
    let given = awaiting(&store, &planned).await;
    store.discard_job(ORG, &given.job_id, "bob").await.expect("discarded");
    tell(&store, &given, 6, vec![result("discarded", "ok")]).await;
    assert!(!refused(&planned).await);
}

/// What an earlier run of the program wrote by a clock that was a year off, either way, neither holds a job nor takes it away.
#[tokio::test]
async fn a_lease_of_another_clock_counts_anew() {
    const YEAR_MS: i64 = 365 * 24 * 60 * 60 * 1000;
    let store = store().await;
    let stack = stack(&store, "s").await;
    job(&store, &stack, JobKind::Update).await;
    assign(&store, HERE, &[]).await.expect("a job");
    for off in [YEAR_MS, -YEAR_MS] {
        sqlx::query("UPDATE jobs SET assigned_at_ms = assigned_at_ms + $1")
            .bind(off)
            .execute(store.pool())
            .await
            .expect("writes");
        let before = steady_ms();
        store.begin_leases().await.expect("looks through them");
        assert_eq!(store.take_back(RUNNER, None, before - 1).await, Ok(0), "taken away: {off}");
    }
    assert_eq!(store.take_back(RUNNER, None, steady_ms()).await, Ok(1), "held");
}

/// An instance that has the state is preferred for a while; a clock that was set back since must not make that a year.
#[tokio::test]
async fn a_preference_ends_by_whichever_clock() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let job = job(&store, &stack, JobKind::Update).await;
    sqlx::query("UPDATE stacks SET last_instance = 'i-gone'").execute(store.pool()).await.expect("writes");
    assert!(assign(&store, HERE, &[HERE]).await.is_none(), "the one with the state may be back in a moment");
    sqlx::query("UPDATE jobs SET created_at_ms = created_at_ms + 1000000").execute(store.pool()).await.expect("writes");
    assert_eq!(assign(&store, HERE, &[HERE]).await.expect("its turn").job_id, job.id);
}

/// Rules of plans are those that are in force when a job is given out, however long it waited; a plan that was judged by others is not approved.
#[tokio::test]
async fn a_plan_is_judged_by_the_rules_in_force() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let rules = |given: &Given| v1::JobRequest::decode(&given.request[..]).expect("a request").rules;
    let (waits, reads) = (job(&store, &stack, JobKind::Update).await, job(&store, &stack, JobKind::Outputs).await);
    store.set_rules(ORG, Some("{\"a\":1}"), "admin").await.expect("set");
    let given = assign(&store, HERE, &[HERE]).await.expect("given");
    assert_eq!((given.job_id.as_str(), rules(&given).as_str()), (waits.id.as_str(), "{\"a\":1}"));
    assert_eq!(given.request_sha256, Sha256::digest(&given.request).to_vec());
    assert!(v1::JobRequest::decode(&given.request[..]).expect("a request").format >= WITH_RULES);
    store.accept_job(ORG, RUNNER, &accept(&given, HERE)).await.expect("accepted as it was given");
    let planned = vec![phase("planning"), plan(true), phase("planned"), phase("awaiting_approval")];
    tell(&store, &given, 1, planned.clone()).await;
    // others are in force now, or none; and the same again
    for other in [Some("{\"b\":2}"), None] {
        store.set_rules(ORG, other, "admin").await.expect("set");
        assert_eq!(code(store.approve_job(ORG, &waits.id, "bob", None).await), Code::PlanStale, "{other:?}");
    }
    store.set_rules(ORG, Some("{\"a\":1}"), "admin").await.expect("set");
    store.approve_job(ORG, &waits.id, "bob", None).await.expect("as it was judged");
    tell(&store, &given, 5, vec![phase("applying"), result("applied", "ok")]).await;
    // what plans nothing has none
    let given = assign(&store, HERE, &[HERE]).await.expect("given");
    assert_eq!((rules(&given).as_str(), given.job_id), ("", reads.id));
}

/// A stack that was given to another runner has its state at an instance that none of that runner's is: nobody waits for it, and whoever is
/// given the job is told where the state was.
#[tokio::test]
async fn nobody_waits_for_another_runners_instance() {
    let store = store().await;
    let before = stack(&store, "s").await;
    let given = accepted(&store, &before, JobKind::Update).await;
    tell(&store, &given, 1, vec![phase("planning"), plan(true), phase("applying"), result("applied", "ok")]).await;
    assert_eq!(state_of(&store).await.as_deref(), Some(HERE));
    sqlx::query("INSERT INTO runners (id, organization, name, created_at_ms) VALUES ('run_2', 'org_a', 'run_2', 1)")
        .execute(store.pool())
        .await
        .expect("writes");
    let next = store.create_job(NewJob { runner: "run_2".into(), ..new_job(&before, JobKind::Update) }).await;
    let next = next.expect("a job");
    assert_eq!(store.preferred_instance(&next, &["i-2".to_owned()]).await.expect("looked for"), None);
    let to = store.assign_next("run_2", "i-2", 1, &["i-2".to_owned()]).await.expect("looked at").expect("at once");
    assert_eq!((to.job_id, to.state_instance.as_deref()), (next.id, Some(HERE)));
}

#[tokio::test]
async fn old_events_go_and_what_a_job_was_stays() {
    let store = store().await;
    let (first, other) = (stack(&store, "first").await, stack(&store, "other").await);
    let mut jobs = Vec::new();
    for stack in [&first, &first, &other] {
        let given = accepted(&store, stack, JobKind::Preview).await;
        tell(&store, &given, 1, vec![phase("planning"), plan(false), result("no_changes", "ok")]).await;
        jobs.push(given.job_id);
    }
    // one that has not ended, and one whose end its runner has not told
    let at_work = accepted(&store, &first, JobKind::Preview).await;
    tell(&store, &at_work, 1, vec![phase("planning")]).await;
    // each is made from an archive of its own, and the other stack of one more
    sqlx::query("UPDATE jobs SET archive = id").execute(store.pool()).await.expect("writes");
    sqlx::query("UPDATE stacks SET source = '{\"archive\":{\"sha256\":\"of the stack\"}}' WHERE id = $1")
        .bind(&other.id)
        .execute(store.pool())
        .await
        .expect("writes");
    let in_use = async || {
        let mut used: Vec<_> = store.archives_in_use().await.expect("read").into_iter().map(|(_, sha)| sha).collect();
        used.sort();
        used
    };
    assert_eq!(in_use().await.len(), 5);
    let events = async |id: &str| store.job_events(ORG, id, 0, 10).await.expect("read").len();
    let long_ago = now_ms() - 1000;
    assert_eq!(store.forget_events(long_ago).await, Ok(0), "they are not old");
    assert_eq!(store.forget_events(now_ms() + 1000).await, Ok(1));
    assert_eq!(store.forget_events(now_ms() + 1000).await, Ok(0), "each once");
    let (old, last, last_of_other) = (&jobs[0], &jobs[1], &jobs[2]);
    let mut still = vec![last.clone(), last_of_other.clone(), at_work.job_id.clone(), "of the stack".to_owned()];
    still.sort();
    assert_eq!(in_use().await, still);
    assert_eq!((events(old).await, events(last).await, events(last_of_other).await), (0, 3, 3));
    assert_eq!(events(&at_work.job_id).await, 1);
    let old = store.job(ORG, old).await.expect("stays");
    assert!(old.events_removed_at_ms.is_some() && old.plan_text.is_none());
    assert_eq!(
        (old.phase, old.last_sequence, old.plan().map(|plan| plan.sha256)),
        (Phase::NoChanges, 3, Some("p1".into()))
    );
    assert!(store.job(ORG, last).await.expect("stays").events_removed_at_ms.is_none());
}
