//! A worker that has its target before its request: it is connected, and asks over that connection.

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use runner_tests::Suite;
use shared_proto::frame::Kind;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{K8sRequest, KubernetesTarget, Outcome, WorkerRequest};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Worker, request};

/// What should happen at once, on a machine that has other things to do.
const SOON: Duration = Duration::from_secs(30);

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[])
        .test("a_ready_worker_asks_over_the_connection_that_it_has", asks)
        .test("a_ready_worker_whose_connection_was_closed_makes_another", closed)
        .test("a_ready_worker_that_reached_nobody_says_so_once_it_is_asked", nobody)
        .test("a_ready_worker_that_nobody_needs_ends", not_needed)
}

/// A worker that is told the target alone, and what it is told later.
async fn ready(server: &str) -> Result<(Worker, Vec<u8>)> {
    let target =
        Target::Kubernetes(KubernetesTarget { server: server.into(), token: "t".into(), ..Default::default() });
    let what = What::K8sRequest(K8sRequest { method: "GET".into(), target: "/version".into(), ..Default::default() });
    let WorkerRequest { target, request, .. } = request(what, target);
    let worker = Worker::operation(&WorkerRequest { target, ready: true, ..Default::default() }).await?;
    Ok((worker, WorkerRequest { request, ..Default::default() }.encode_to_vec()))
}

async fn listen() -> Result<(TcpListener, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    Ok((listener, url))
}

async fn accept(listener: &TcpListener) -> Result<TcpStream> {
    Ok(tokio::time::timeout(SOON, listener.accept()).await.context("a connection in time")??.0)
}

/// Answers the one request that comes.
async fn answer(stream: &mut TcpStream) -> Result<String> {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(tokio::time::timeout(SOON, stream.read_u8()).await.context("a request in time")??);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").await?;
    Ok(String::from_utf8(asked)?)
}

async fn outcome(mut worker: Worker) -> Result<(Vec<u8>, Outcome)> {
    let mut data = Vec::new();
    loop {
        match worker.frame().await?.context("an outcome")? {
            (Kind::Outcome, content) => return Ok((data, Outcome::decode(content)?)),
            (Kind::Data, content) => data.extend_from_slice(&content),
            (kind, _) => ensure!(kind == Kind::Head, "{kind:?}"),
        }
    }
}

async fn asks() -> Result<()> {
    let (listener, url) = listen().await?;
    let (mut worker, rest) = ready(&url).await?;
    let mut stream = accept(&listener).await?;
    worker.send(Kind::Request, &rest).await?;
    let (answered, ended) = tokio::join!(answer(&mut stream), outcome(worker));
    let asked = answered?;
    ensure!(asked.starts_with("GET /version ") && asked.contains("authorization: Bearer t\r\n"), "{asked}");
    let (data, outcome) = ended?;
    ensure!(data == b"good" && outcome.code == "ok", "{outcome:?}");
    // there was no other
    ensure!(tokio::time::timeout(Duration::ZERO, listener.accept()).await.is_err(), "a second connection");
    Ok(())
}

async fn closed() -> Result<()> {
    // what it is closed with: an end, what nobody asked for, or an end that may come as late as the request
    for said in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        let (listener, url) = listen().await?;
        let (mut worker, rest) = ready(&url).await?;
        let mut stream = accept(&listener).await?;
        stream.write_all(said).await?;
        drop(stream);
        worker.send(Kind::Request, &rest).await?;
        let answering = async { answer(&mut accept(&listener).await?).await };
        let (answered, ended) = tokio::join!(answering, outcome(worker));
        ensure!(answered?.starts_with("GET /version "), "{said:?}");
        let (data, outcome) = ended?;
        ensure!(data == b"good" && outcome.code == "ok", "{said:?} {outcome:?}");
    }
    Ok(())
}

async fn nobody() -> Result<()> {
    let (listener, url) = listen().await?;
    drop(listener);
    let (mut worker, rest) = ready(&url).await?;
    worker.send(Kind::Request, &rest).await?;
    let (_, outcome) = outcome(worker).await?;
    ensure!(outcome.code == "target_unreachable" && !outcome.next_step.is_empty(), "{outcome:?}");
    Ok(())
}

async fn not_needed() -> Result<()> {
    let (listener, url) = listen().await?;
    let (worker, _) = ready(&url).await?;
    let mut stream = accept(&listener).await?;
    ensure!(worker.cancel().await? == Some(0), "its exit code");
    let read = tokio::time::timeout(SOON, stream.read(&mut [0])).await.context("the connection's end in time")??;
    ensure!(read == 0, "it said something");
    Ok(())
}
