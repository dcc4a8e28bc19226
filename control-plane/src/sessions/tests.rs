//! Sessions against a runner that speaks the real protocol over a pipe.

use super::fake::{FakeRunner, ListRegistry, SHORT, hello, poll_until, sessions, until};
use super::{Parting, Presence, Sessions, Settings};
use crate::operations::{Operation, Output};
use shared_proto::failure::Code;
use shared_proto::v1::{self, control_message::Kind as FromControl, runner_message::Kind as ToControl};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn run(sessions: &Sessions, connection: &str) -> Operation {
    sessions.run("org_a", "run_1", request(connection)).await.expect("a session")
}
fn request(connection: &str) -> v1::OperationRequest {
    v1::OperationRequest { connection: connection.into(), ..Default::default() }
}
async fn outcome(mut operation: Operation) -> v1::Outcome {
    loop {
        if let Output::Outcome(outcome) = operation.next().await {
            return outcome;
        }
    }
}
fn impatient(registry: &Arc<ListRegistry>) -> Sessions {
    Sessions::new(registry.clone(), Settings { rhythm: SHORT, ..Settings::default() })
}
fn partings(registry: &ListRegistry) -> Vec<Parting> {
    registry.seen.lock().expect("whole").iter().map(|(_, p)| *p).collect()
}

#[tokio::test]
async fn an_operation_goes_to_the_organizations_own_runner_only() {
    let sessions = sessions(Arc::default());
    let _runner = FakeRunner::connect(&sessions, hello("run_1", "i-1")).await;
    let mut operation = sessions
        .run("org_a", "run_1", v1::OperationRequest { organization_id: "org_b".into(), ..request("x") })
        .await
        .expect("a session");
    assert_eq!(operation.runner_instance(), "i-1");
    assert_eq!(operation.next().await, Output::Data("org_a/x".into()));
    assert!(matches!(operation.next().await, Output::Outcome(o) if o.code == "ok"));
    assert!(matches!(operation.next().await, Output::Outcome(o) if o.code == "ok"));
    let refused = sessions.run("org_b", "run_1", request("x")).await.map(drop).expect_err("another organization's");
    assert_eq!(refused.code, Code::RunnerUnavailable);
    assert!(refused.message.contains("last seen 2023-11-14T22:13:20Z"), "{}", refused.message);
    assert_eq!(sessions.presence("org_b", "run_1"), Presence::Absent);
    assert_eq!(sessions.presence("org_a", "run_1"), Presence::Connected);
}

#[tokio::test]
async fn what_is_not_welcome_is_refused_with_its_code() {
    let sessions = sessions(Arc::default());
    let cases = [
        (v1::Hello { api_key: "bad".into(), ..hello("run_1", "i") }, Code::ApiKeyInvalid),
        (v1::Hello { protocol: 99, ..hello("run_1", "i") }, Code::UnsupportedVersion),
        (v1::Hello { version: "99.0.0".into(), ..hello("run_1", "i") }, Code::UnsupportedVersion),
        (v1::Hello { instance_id: "../i".into(), ..hello("run_1", "i") }, Code::InvalidArgument),
        (v1::Hello { max_operations: 0, ..hello("run_1", "i") }, Code::InvalidArgument),
    ];
    for (hello, code) in cases {
        let runner = FakeRunner::dial(&sessions, hello);
        assert_eq!(runner.refused().await, code.as_str());
    }
    assert_eq!(sessions.counts(), (0, 0));
}

#[tokio::test]
async fn the_session_with_the_fewest_operations_takes_the_next() {
    let sessions = sessions(Arc::default());
    let first = FakeRunner::connect(&sessions, hello("run_1", "i-1")).await;
    let second = FakeRunner::connect(&sessions, hello("run_1", "i-2")).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(run(&sessions, "hang").await);
    }
    let on = |instance: &str| held.iter().filter(|o| o.runner_instance() == instance).count();
    assert_eq!((on("i-1"), on("i-2")), (5, 5));
    until(&mut first.state.running.subscribe(), |n| *n == 5).await;
    until(&mut second.state.running.subscribe(), |n| *n == 5).await;
    held.retain(|o| o.runner_instance() == "i-1");
    second.idle().await;
    poll_until(|| sessions.counts() == (2, 5)).await;
    for _ in 0..5 {
        held.push(run(&sessions, "hang").await);
    }
    assert_eq!(sessions.instances("org_a", "run_1").iter().map(|i| i.operations).collect::<Vec<_>>(), [5, 5]);
}

#[tokio::test]
async fn a_full_session_says_busy_and_comes_back() {
    let sessions = sessions(Arc::default());
    let _runner = FakeRunner::connect(&sessions, v1::Hello { max_operations: 2, ..hello("run_1", "i") }).await;
    let one = run(&sessions, "hang").await;
    let _two = run(&sessions, "hang").await;
    let full = sessions.run("org_a", "run_1", request("hang")).await.map(drop).expect_err("full");
    assert_eq!(full.code, Code::Busy);
    drop(one);
    poll_until(|| sessions.counts() == (1, 1)).await;
    let _again = run(&sessions, "hang").await;
}

#[tokio::test]
async fn a_session_that_misses_a_round_trip_gets_nothing_until_it_answers() {
    let registry = Arc::<ListRegistry>::default();
    let sessions = impatient(&registry);
    let runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    runner.state.answers.store(false, Ordering::Release);
    poll_until(|| sessions.presence("org_a", "run_1") == Presence::Unhealthy).await;
    let none = sessions.run("org_a", "run_1", request("x")).await.map(drop).expect_err("unhealthy");
    assert_eq!(none.code, Code::RunnerUnavailable);
    runner.state.answers.store(true, Ordering::Release);
    poll_until(|| sessions.presence("org_a", "run_1") == Presence::Connected).await;
}

#[tokio::test]
async fn a_silent_session_is_closed_and_its_operations_end() {
    let registry = Arc::<ListRegistry>::default();
    let rhythm = super::Rhythm { dead: Duration::from_millis(400), ..SHORT };
    let sessions = Sessions::new(registry.clone(), Settings { rhythm, ..Settings::default() });
    let runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    let operation = run(&sessions, "hang").await;
    runner.state.answers.store(false, Ordering::Release);
    assert_eq!(outcome(operation).await.code, "connection_lost");
    poll_until(|| partings(&registry).last() == Some(&Parting::Lost)).await;
    assert_eq!(sessions.counts(), (0, 0));
}

#[tokio::test]
async fn a_second_session_with_the_same_instance_waits_for_the_firsts_answer() {
    let sessions = sessions(Arc::default());
    let first = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    let second = FakeRunner::dial(&sessions, hello("run_1", "i"));
    assert_eq!(second.refused().await, Code::InstanceConflict.as_str());
    assert_eq!(sessions.presence("org_a", "run_1"), Presence::Connected);
    // another runner's instance may have the same id
    let _other = FakeRunner::connect(&sessions, hello("run_2", "i")).await;
    // after a silent cut the first is a ghost
    let operation = run(&sessions, "hang").await;
    first.state.answers.store(false, Ordering::Release);
    let _third = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    assert_eq!(outcome(operation).await.code, "connection_lost");
    assert_eq!(sessions.instances("org_a", "run_1").len(), 1);
    assert_eq!(outcome(run(&sessions, "x").await).await.code, "ok");
}

#[tokio::test]
async fn a_cut_connection_ends_its_operations_and_is_replaced_at_once() {
    let registry = Arc::<ListRegistry>::default();
    let sessions = sessions(registry.clone());
    let runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    let operation = run(&sessions, "hang").await;
    until(&mut runner.state.running.subscribe(), |n| *n == 1).await;
    runner.cut();
    let lost = outcome(operation).await;
    assert_eq!((&*lost.code, &*lost.message), ("connection_lost", "runner run_1: its connection was cut"));
    poll_until(|| partings(&registry).last() == Some(&Parting::Lost)).await;
    let _again = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    assert_eq!(outcome(run(&sessions, "x").await).await.code, "ok");
}

#[tokio::test]
async fn a_runner_that_deregisters_finishes_and_has_left() {
    let registry = Arc::<ListRegistry>::default();
    let sessions = sessions(registry.clone());
    let runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    let mut operation = run(&sessions, "echo").await;
    until(&mut runner.state.running.subscribe(), |n| *n == 1).await;
    runner.say(ToControl::Deregister(v1::Deregister { reason: "SIGTERM".into() })).await;
    poll_until(|| sessions.presence("org_a", "run_1") == Presence::Leaving).await;
    let none = sessions.run("org_a", "run_1", request("x")).await.map(drop).expect_err("leaving");
    assert_eq!(none.code, Code::RunnerLeaving);
    operation.input().close_stdin().await.expect("open");
    while !matches!(operation.next().await, Output::Outcome(o) if o.code == "ok") {}
    runner.cut();
    poll_until(|| partings(&registry).last() == Some(&Parting::Left)).await;
    assert_eq!(sessions.presence("org_a", "run_1"), Presence::Absent);
}

#[tokio::test]
async fn a_runner_that_deregisters_and_is_gone_in_one_breath_has_left() {
    let registry = Arc::<ListRegistry>::default();
    let sessions = sessions(registry.clone());
    for n in 0..50 {
        let runner = FakeRunner::connect(&sessions, hello("run_1", &format!("i-{n}"))).await;
        runner.say(ToControl::Deregister(v1::Deregister { reason: "SIGTERM".into() })).await;
        runner.leave().await;
        poll_until(|| partings(&registry).iter().filter(|p| **p != Parting::Present).count() == n + 1).await;
        assert_eq!(partings(&registry).last(), Some(&Parting::Left), "{n}");
    }
}

#[tokio::test]
async fn a_revocation_ends_the_session_and_its_operations() {
    let registry = Arc::<ListRegistry>::default();
    let sessions = sessions(registry.clone());
    let (tell, revocations) = tokio::sync::broadcast::channel(4);
    let following = tokio::spawn(sessions.clone().follow_revocations(revocations));
    let runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    let _other = FakeRunner::connect(&sessions, hello("run_2", "i")).await;
    let operation = run(&sessions, "hang").await;
    registry.revoked.lock().expect("whole").insert("run_1".into());
    tell.send("run_1".into()).expect("followed");
    assert_eq!(outcome(operation).await.code, "certificate_revoked");
    assert_eq!(runner.refused().await, "certificate_revoked");
    poll_until(|| sessions.presence("org_a", "run_1") == Presence::Absent).await;
    assert_eq!(sessions.presence("org_a", "run_2"), Presence::Connected);
    let again = FakeRunner::dial(&sessions, hello("run_1", "i"));
    assert_eq!(again.refused().await, "certificate_revoked");
    following.abort();
}

#[tokio::test]
async fn draining_tells_every_runner_and_lets_operations_finish() {
    let sessions = sessions(Arc::default());
    let runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    let operation = run(&sessions, "echo").await;
    until(&mut runner.state.running.subscribe(), |n| *n == 1).await;
    let draining = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.drain(Duration::from_secs(3)).await }
    });
    until(&mut runner.state.heard.subscribe(), |heard| {
        heard.iter().any(|k| matches!(k, FromControl::Leaving(l) if l.retry_after_ms == 3000))
    })
    .await;
    assert!(sessions.run("org_a", "run_1", request("x")).await.is_err());
    let late = FakeRunner::dial(&sessions, hello("run_2", "i"));
    assert_eq!(late.refused().await, Code::Busy.as_str());
    assert!(!draining.is_finished());
    operation.input().close_stdin().await.expect("open");
    assert_eq!(outcome(operation).await.exit_code, 7);
    draining.await.expect("drained");
    assert_eq!(sessions.counts(), (0, 0));
}

#[tokio::test]
async fn what_is_no_tunnel_ends_without_a_trace() {
    use tokio::io::AsyncWriteExt as _;
    let sessions = sessions(Arc::default());
    let (ours, mut theirs) = tokio::io::duplex(1024);
    let serving = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.serve(ours, Vec::new(), "pipe", ()).await }
    });
    theirs.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    serving.await.expect("ended");
    assert_eq!(sessions.counts(), (0, 0));
}
