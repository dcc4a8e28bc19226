//! The process itself: what it makes of a bad socket, and how it ends.

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use runner_tests::Suite;
use shared_proto::frame::{Header, Kind};
use shared_proto::v1::operation_request::What;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{
    AwsRequest, AwsTarget, ConnectionTest, K8sListNamespaces, KubernetesTarget, OperationRequest, WorkerRequest,
};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::harness::{Worker, operation, request};

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[])
        .test("bad_first_frames_end_the_process", bad_first_frames)
        .test("a_closed_socket_ends_every_mode", closed_socket)
        .test("no_socket_and_no_mode_are_refused", no_socket)
        .test("cancel_ends_an_operation_that_waits", cancel_while_waiting)
        .test("the_deadline_ends_an_operation_that_waits", deadline)
        .test("requests_that_fit_no_target_are_refused", wrong_provider)
        .test("an_address_where_nobody_is_is_named", unreachable)
}

fn nowhere() -> Target {
    Target::Kubernetes(KubernetesTarget { server: "http://127.0.0.1:9".into(), ..Default::default() })
}

async fn bad_first_frames() -> Result<()> {
    let long = [Kind::Request as u8, 0xff, 0xff, 0xff];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an unknown kind", vec![99, 0, 0, 0]),
        ("another kind", Header::new(Kind::Data, 0)?.encode().to_vec()),
        ("too long", long.to_vec()),
        ("no message", [&Header::new(Kind::Request, 3)?.encode()[..], b"\xff\xff\xff"].concat()),
        ("cut off", Header::new(Kind::Request, 10)?.encode()[..2].to_vec()),
    ];
    for mode in ["operation", "resolve"] {
        for (what, bytes) in &cases {
            let mut worker = Worker::start(mode).await?;
            worker.socket.write_all(bytes).await?;
            if *what == "cut off" {
                // the other end going is the cancel, whatever came before
                ensure!(worker.cancel().await? == Some(0), "{mode}: {what}");
            } else {
                ensure!(worker.frame().await?.is_none(), "{mode}: {what}: an answer");
                ensure!(worker.ended().await? == Some(76), "{mode}: {what}");
            }
        }
    }
    Ok(())
}

async fn closed_socket() -> Result<()> {
    for mode in ["operation", "resolve"] {
        ensure!(Worker::start(mode).await?.cancel().await? == Some(0), "{mode}");
    }
    Ok(())
}

async fn no_socket() -> Result<()> {
    for (arguments, code) in [(&["operation"][..], 76), (&["resolve"], 76), (&["nonsense"], 64), (&[], 64)] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_runner-worker-ops"));
        let output = command.args(arguments).stdin(std::process::Stdio::null()).output().await?;
        ensure!(output.status.code() == Some(code), "{arguments:?}: {:?}", output.status);
        ensure!(output.stderr.starts_with(b"runner-worker-ops: "), "{arguments:?}: {:?}", output.stderr);
    }
    // with the first of an operation's two
    let (_ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let mut command = tokio::process::Command::new("/bin/sh");
    command.args(["-c", r#"exec "$0" operation 3<&0 4<&-"#, env!("CARGO_BIN_EXE_runner-worker-ops")]);
    let output = command.stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(theirs))).output().await?;
    ensure!(output.status.code() == Some(76), "{output:?}");
    Ok(())
}

/// A target that takes connections and says nothing.
async fn silent() -> Result<(TcpListener, Target)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = format!("http://{}", listener.local_addr()?);
    Ok((listener, Target::Kubernetes(KubernetesTarget { server, ..Default::default() })))
}

async fn cancel_while_waiting() -> Result<()> {
    let (listener, target) = silent().await?;
    let mut worker = Worker::operation(&request(What::K8sListNamespaces(K8sListNamespaces {}), target)).await?;
    // input that nobody reads must not hide the end
    worker.send(Kind::Data, b"unread").await?;
    let (connection, _) = listener.accept().await?;
    let before = Instant::now();
    ensure!(worker.cancel().await? == Some(0), "the exit code");
    ensure!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    // and the target sees it
    connection.readable().await?;
    Ok(())
}

async fn deadline() -> Result<()> {
    let (_listener, target) = silent().await?;
    let mut request = request(What::K8sListNamespaces(K8sListNamespaces {}), target);
    request.request.as_mut().context("a request")?.deadline_ms = 300;
    let given = Worker::operation(&request).await?.rest().await?;
    given.failed("deadline_exceeded", "300 ms")
}

async fn wrong_provider() -> Result<()> {
    let aws = Target::Aws(AwsTarget::default());
    operation(What::K8sListNamespaces(K8sListNamespaces {}), aws).await?.failed("wrong_provider", "aws")?;
    let identity = What::AwsRequest(AwsRequest::default());
    operation(identity, nowhere()).await?.failed("wrong_provider", "kubernetes")?;
    for incomplete in [
        WorkerRequest::default(),
        WorkerRequest { request: Some(OperationRequest::default()), target: None, ..Default::default() },
        WorkerRequest {
            request: Some(OperationRequest::default()),
            target: Some(Default::default()),
            ..Default::default()
        },
    ] {
        let mut worker = Worker::start("operation").await?;
        worker.send(Kind::Request, &incomplete.encode_to_vec()).await?;
        let outcome = worker.rest().await?.outcome;
        ensure!(["internal", "unsupported_version"].contains(&outcome.code.as_str()), "{outcome:?}");
    }
    Ok(())
}

async fn unreachable() -> Result<()> {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        listener.local_addr()?.port()
    };
    let address = format!("127.0.0.1:{port}");
    let target = |url: String| Target::Kubernetes(KubernetesTarget { server: url, ..Default::default() });
    let given = operation(What::ConnectionTest(ConnectionTest {}), target(format!("http://{address}"))).await?;
    given.failed("target_unreachable", &address)?;
    given.failed("target_unreachable", "refused")?;
    let given = operation(What::ConnectionTest(ConnectionTest {}), target("nonsense".into())).await?;
    given.failed("credentials_unavailable", "API server's URL")
}
