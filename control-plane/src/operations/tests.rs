//! Operations against a runner that speaks the real protocol over a pipe.

use super::{Closed, Operation, Output};
use crate::sessions::Sessions;
use crate::sessions::fake::{FakeRunner, hello, poll_until, sessions, until};
use bytes::Bytes;
use shared_proto::failure::Code;
use shared_proto::v1;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn run(sessions: &Sessions, connection: &str) -> Operation {
    let request = v1::OperationRequest { connection: connection.into(), ..Default::default() };
    sessions.run("org_a", "run_1", request).await.expect("a session")
}
/// All its output's length, and how it ended.
async fn finish(mut operation: Operation) -> (usize, v1::Outcome) {
    let mut bytes = 0;
    loop {
        match operation.next().await {
            Output::Head(head) => panic!("{head:?}"),
            Output::Data(b) | Output::Stderr(b) => bytes += b.len(),
            Output::Outcome(outcome) => return (bytes, outcome),
        }
    }
}

#[tokio::test]
async fn stopped_readers_hold_nobody_else_up() {
    let sessions = sessions(Arc::default());
    let _runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    let mut stopped = Vec::new();
    for _ in 0..100 {
        stopped.push(run(&sessions, "flood:1000000").await);
    }
    let (bytes, outcome) = finish(run(&sessions, "flood:20000000").await).await;
    assert_eq!((bytes, outcome.code.as_str()), (20_000_000, "ok"));
    // and they go on where they stopped
    for operation in stopped {
        let (bytes, outcome) = finish(operation).await;
        assert_eq!((bytes, outcome.code.as_str()), (1_000_000, "ok"));
    }
    poll_until(|| sessions.counts() == (1, 0)).await;
}

#[tokio::test]
async fn a_runner_that_sends_more_than_it_was_granted_ends_that_operation_only() {
    let sessions = sessions(Arc::default());
    let runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    let (bytes, outcome) = finish(run(&sessions, "overrun").await).await;
    assert_eq!(outcome.code, "flow_violation");
    assert!(bytes <= 64 * 1024, "{bytes}");
    runner.idle().await;
    assert_eq!(finish(run(&sessions, "x").await).await.1.code, "ok");
}

#[tokio::test]
async fn stdin_goes_in_as_the_runner_grants_it_and_comes_back() {
    let sessions = sessions(Arc::default());
    let _runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    // a window of little more than one message
    let mut operation = run(&sessions, "echo:3000").await;
    let input = operation.input();
    let sending = tokio::spawn({
        let input = input.clone();
        async move {
            input.resize(80, 24).await?;
            input.stdin(Bytes::from(vec![b'a'; 100_000])).await?;
            input.stdin(Bytes::new()).await?;
            input.close_stdin().await?;
            input.close_stdin().await
        }
    });
    let (mut back, mut sizes) = (0, Bytes::new());
    let outcome = loop {
        match operation.next().await {
            Output::Head(head) => panic!("{head:?}"),
            Output::Stderr(bytes) => back += bytes.len(),
            Output::Data(bytes) => sizes = bytes,
            Output::Outcome(outcome) => break outcome,
        }
    };
    assert_eq!((back, sizes, outcome.exit_code), (100_000, Bytes::from("80x24"), 7));
    assert_eq!(sending.await.expect("joins"), Ok(()));
    assert_eq!(input.stdin(Bytes::from("x")).await, Err(Closed));
    assert_eq!(input.resize(1, 1).await, Err(Closed));
}

#[tokio::test]
async fn who_waits_to_put_something_in_is_told_of_the_end() {
    let sessions = sessions(Arc::default());
    let runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    let operation = run(&sessions, "hang").await;
    until(&mut runner.state.running.subscribe(), |n| *n == 1).await;
    let input = operation.input();
    let waiting = tokio::spawn(async move { input.stdin(Bytes::from("never granted")).await });
    tokio::task::yield_now().await;
    drop(operation);
    assert_eq!(waiting.await.expect("joins"), Err(Closed));
    runner.idle().await;
}

#[tokio::test]
async fn ten_thousand_cancelled_operations_leave_nothing() {
    let sessions = sessions(Arc::default());
    let runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    for round in 0..100 {
        let mut held = Vec::new();
        for n in 0..100 {
            // some are cancelled before the runner hears of them, some in the middle of output
            let mut operation = run(&sessions, if n % 2 == 0 { "hang" } else { "flood:1000000" }).await;
            if n % 4 == 1 {
                operation.next().await;
            }
            held.push(operation);
        }
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        drop(held);
        poll_until(|| sessions.counts() == (1, 0)).await;
    }
    runner.idle().await;
    assert!(runner.state.started.load(Ordering::Acquire) <= 10_000);
    assert_eq!(finish(run(&sessions, "x").await).await.1.code, "ok");
    assert_eq!(sessions.counts().0, 1);
}

#[tokio::test]
async fn each_ends_once_with_what_the_runner_said() {
    let sessions = sessions(Arc::default());
    let _runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    let denied = finish(run(&sessions, "denied").await).await.1;
    assert_eq!((denied.code.as_str(), denied.message.as_str()), ("policy_denied", "rule 3"));
    assert_eq!(finish(run(&sessions, "silent").await).await.1.code, "connection_lost");
}

#[tokio::test]
async fn one_with_a_deadline_ends_at_this_end_too() {
    let sessions = sessions(Arc::default());
    let runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    let request = v1::OperationRequest { connection: "hang".into(), deadline_ms: 1, ..Default::default() };
    let operation = sessions.run("org_a", "run_1", request).await.expect("a session");
    let (_, outcome) = tokio::time::timeout(Duration::from_secs(60), finish(operation)).await.expect("in time");
    assert_eq!(outcome.code, "deadline_exceeded");
    runner.idle().await;
}

#[tokio::test]
async fn a_request_that_is_too_large_goes_nowhere() {
    let sessions = sessions(Arc::default());
    let _runner = FakeRunner::connect(&sessions, hello("run_1", "i")).await;
    let request = v1::OperationRequest { connection: "x".repeat(300_000), ..Default::default() };
    let refused = sessions.run("org_a", "run_1", request).await.map(drop).expect_err("too large");
    assert_eq!(refused.code, Code::TooLarge);
    poll_until(|| sessions.counts() == (1, 0)).await;
}
