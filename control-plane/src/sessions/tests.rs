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
async fn a_runner_that_drains_gets_nothing_new_until_it_takes_work_again() {
    let sessions = sessions(Arc::default());
    let runner = FakeRunner::connect(&sessions, hello("run_1", "i-1")).await;
    let mut operation = run(&sessions, "echo").await;
    until(&mut runner.state.running.subscribe(), |n| *n == 1).await;
    runner.say(ToControl::Draining(v1::Draining { draining: true })).await;
    poll_until(|| sessions.presence("org_a", "run_1") == Presence::Draining).await;
    let none = sessions.run("org_a", "run_1", request("x")).await.map(drop).expect_err("draining");
    assert_eq!(none.code, Code::RunnerLeaving);
    assert!(none.message.contains("drained"), "{}", none.message);
    let shown = sessions.instances("org_a", "run_1");
    assert!(shown[0].draining && shown[0].healthy && !shown[0].leaving, "{shown:?}");
    // another instance takes it all; one that comes draining takes none of it
    let second = FakeRunner::connect(&sessions, hello("run_1", "i-2")).await;
    let _third = FakeRunner::connect(&sessions, v1::Hello { draining: true, ..hello("run_1", "i-3") }).await;
    for _ in 0..5 {
        assert_eq!(run(&sessions, "x").await.runner_instance(), "i-2");
    }
    assert_eq!(sessions.presence("org_a", "run_1"), Presence::Connected);
    second.cut();
    poll_until(|| sessions.presence("org_a", "run_1") == Presence::Draining).await;
    // what was in flight goes on
    operation.input().close_stdin().await.expect("open");
    while !matches!(operation.next().await, Output::Outcome(o) if o.code == "ok") {}
    runner.say(ToControl::Draining(v1::Draining { draining: false })).await;
    poll_until(|| sessions.presence("org_a", "run_1") == Presence::Connected).await;
    assert_eq!(run(&sessions, "x").await.runner_instance(), "i-1");
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

#[tokio::test]
async fn a_session_renews_its_certificate_once_at_a_time_and_shows_the_newest() {
    let registry = Arc::new(ListRegistry::default());
    let sessions = sessions(registry.clone());
    let runner = FakeRunner::connect(&sessions, hello("run_1", "i-1")).await;
    let shown = || sessions.instances("org_a", "run_1")[0].certificate.clone();
    assert_eq!((shown().serial.as_str(), shown().renewed), ("1", false));
    let answers = |heard: &[FromControl]| {
        let renewed = heard.iter().filter_map(|k| match k {
            FromControl::Renewed(renewed) => Some(renewed.clone()),
            _ => None,
        });
        renewed.collect::<Vec<_>>()
    };
    let mut heard = runner.state.heard.subscribe();
    let ask = || runner.say(ToControl::Renewal(v1::Renewal { csr: "a request".into() }));
    ask().await;
    until(&mut heard, |heard| answers(heard).len() == 1).await;
    let first = answers(&heard.borrow())[0].clone();
    assert_eq!((first.code.as_str(), first.certificate.as_str()), ("ok", "a request after 1 of i-1"));
    poll_until(|| shown().renewed).await;
    assert_eq!(shown().serial, "renewed-1");
    // at once again is too soon
    ask().await;
    until(&mut heard, |heard| answers(heard).len() == 2).await;
    let second = answers(&heard.borrow())[1].clone();
    assert_eq!((second.code.as_str(), second.certificate.as_str()), ("busy", ""));
    assert_eq!(registry.renewed.load(Ordering::Acquire), 1);
    assert_eq!(sessions.presence("org_a", "run_1"), Presence::Connected);
}

#[tokio::test]
async fn of_two_sessions_only_the_last_one_says_how_the_runner_left() {
    let registry = Arc::new(ListRegistry::default());
    let sessions = sessions(registry.clone());
    let first = FakeRunner::connect(&sessions, hello("run_1", "i-1")).await;
    let second = FakeRunner::connect(&sessions, hello("run_1", "i-2")).await;
    let there = || partings(&registry).iter().filter(|p| **p == Parting::Present).count();
    second.cut();
    poll_until(|| sessions.counts().0 == 1).await;
    let before = there();
    // what it said now could come after the other one's last word
    first.say(ToControl::Deregister(v1::Deregister { reason: "test".into() })).await;
    poll_until(|| sessions.presence("org_a", "run_1") == Presence::Leaving).await;
    first.cut();
    poll_until(|| partings(&registry).last() == Some(&Parting::Left)).await;
    assert_eq!(there(), before);
}

fn announced(token: &str) -> ToControl {
    use sha2::Digest as _;
    ToControl::HandOver(v1::HandOver { token_sha256: sha2::Sha256::digest(token).to_vec() })
}
fn with_token(token: &str) -> v1::Hello {
    v1::Hello { hand_over_token: token.to_owned().into(), incarnation: "second".into(), ..hello("run_1", "i-1") }
}
fn is_noted(heard: &[FromControl]) -> bool {
    heard.iter().any(|k| matches!(k, FromControl::HandOverNoted(_)))
}
fn is_handed_over(heard: &[FromControl]) -> bool {
    heard.iter().any(|k| matches!(k, FromControl::HandedOver(_)))
}
async fn announces(runner: &FakeRunner, token: &str) {
    runner.say(announced(token)).await;
    until(&mut runner.state.heard.subscribe(), |heard| is_noted(heard)).await;
}

#[tokio::test]
async fn a_session_gives_its_place_to_whoever_shows_its_token_and_finishes_what_it_has() {
    let sessions = sessions(Arc::default());
    let first =
        FakeRunner::connect(&sessions, v1::Hello { incarnation: "first".into(), ..hello("run_1", "i-1") }).await;
    let mut operation = run(&sessions, "echo").await;
    until(&mut first.state.running.subscribe(), |n| *n == 1).await;
    announces(&first, "a token").await;
    let who = super::Verified { organization: "org_a".into(), runner: "run_1".into(), ..Default::default() };
    assert_eq!(sessions.incarnation(&who, "i-1").as_deref(), Some("first"));
    let second = FakeRunner::connect(&sessions, with_token("a token")).await;
    assert_eq!(sessions.incarnation(&who, "i-1").as_deref(), Some("second"));
    // all that is new is the second one's, however many it has
    let _held = [run(&sessions, "hang").await, run(&sessions, "hang").await, run(&sessions, "hang").await];
    until(&mut second.state.running.subscribe(), |n| *n == 3).await;
    assert_eq!(*first.state.running.borrow(), 1);
    let shown = sessions.instances("org_a", "run_1");
    assert_eq!(shown.iter().map(|i| (i.leaving, i.operations)).collect::<Vec<_>>(), [(true, 1), (false, 3)]);
    // while it has something in flight it is not told to go
    assert!(!is_handed_over(&first.state.heard.borrow()));
    operation.input().close_stdin().await.expect("open");
    while !matches!(operation.next().await, Output::Outcome(o) if o.code == "ok") {}
    drop(operation);
    until(&mut first.state.heard.subscribe(), |heard| is_handed_over(heard)).await;
    // the successor comes back after a cut while the first is still there, and needs no token for it
    second.cut();
    poll_until(|| sessions.counts().0 == 1).await;
    let _again = FakeRunner::connect(&sessions, hello("run_1", "i-1")).await;
    first.cut();
    poll_until(|| sessions.counts().0 == 1).await;
    assert_eq!(outcome(run(&sessions, "x").await).await.code, "ok");
}

#[tokio::test]
async fn a_token_that_is_wrong_used_withdrawn_or_anothers_gives_no_place() {
    let sessions = sessions(Arc::default());
    let refused = async |hello: v1::Hello| FakeRunner::dial(&sessions, hello).refused().await;
    let conflict = Code::InstanceConflict.as_str();
    // nobody is there who could have announced it
    assert_eq!(refused(with_token("a token")).await, conflict);
    let first = FakeRunner::connect(&sessions, hello("run_1", "i-1")).await;
    let _other = FakeRunner::connect(&sessions, hello("run_2", "i-1")).await;
    // nothing was announced, another one was, and a digest is no token
    assert_eq!(refused(with_token("a token")).await, conflict);
    announces(&first, "a token").await;
    assert_eq!(refused(with_token("another")).await, conflict);
    assert_eq!(refused(v1::Hello { runner_id: "run_2".into(), ..with_token("a token") }).await, conflict);
    assert_eq!(refused(v1::Hello { instance_id: "i-2".into(), ..with_token("a token") }).await, conflict);
    assert_eq!(refused(hello("run_1", "i-1")).await, conflict);
    let second = FakeRunner::connect(&sessions, with_token("a token")).await;
    assert_eq!(refused(with_token("a token")).await, conflict);
    // a second time it is good for nothing, also where its session is gone again
    second.cut();
    poll_until(|| sessions.counts().0 == 2).await;
    assert_eq!(refused(with_token("a token")).await, conflict);
    // meanwhile what comes is for the first, which then has its place back
    assert_eq!(outcome(run(&sessions, "x").await).await.code, "ok");
    first.say(ToControl::HandOver(v1::HandOver::default())).await;
    poll_until(|| !sessions.instances("org_a", "run_1")[0].leaving).await;
    assert_eq!(refused(hello("run_1", "i-1")).await, conflict);
    // one that was withdrawn, and one that is no digest
    announces(&first, "the next").await;
    first.say(ToControl::HandOver(v1::HandOver::default())).await;
    first.say(ToControl::HandOver(v1::HandOver { token_sha256: vec![0; 31] })).await;
    first.say(ToControl::Ping(v1::Ping { nonce: 77 })).await;
    let is_answered =
        |heard: &Vec<FromControl>| heard.iter().any(|k| matches!(k, FromControl::Pong(p) if p.nonce == 77));
    until(&mut first.state.heard.subscribe(), is_answered).await;
    assert_eq!(refused(with_token("the next")).await, conflict);
}

#[tokio::test]
async fn who_has_a_place_that_is_taken_back_finishes_what_it_has() {
    let sessions = sessions(Arc::default());
    let first = FakeRunner::connect(&sessions, hello("run_1", "i-1")).await;
    announces(&first, "a token").await;
    let second = FakeRunner::connect(&sessions, with_token("a token")).await;
    let mut operation = run(&sessions, "echo").await;
    until(&mut second.state.running.subscribe(), |n| *n == 1).await;
    first.say(ToControl::HandOver(v1::HandOver::default())).await;
    poll_until(|| !sessions.instances("org_a", "run_1")[0].leaving).await;
    let _held = run(&sessions, "hang").await;
    until(&mut first.state.running.subscribe(), |n| *n == 1).await;
    operation.input().close_stdin().await.expect("open");
    while !matches!(operation.next().await, Output::Outcome(o) if o.code == "ok") {}
    drop(operation);
    until(&mut second.state.heard.subscribe(), |heard| is_handed_over(heard)).await;
    // and so as often as it takes
    announces(&first, "another").await;
    let third = FakeRunner::connect(&sessions, with_token("another")).await;
    let _on_the_third = run(&sessions, "hang").await;
    until(&mut third.state.running.subscribe(), |n| *n == 1).await;
}
