//! The small worker: this very test binary, executed by a script. What it does is the pod's name.

use shared_proto::frame::{self, Kind};
use shared_proto::v1::{self, operation_request::What, resolve_reply, target};
use tokio::net::UnixStream;

/// What `flood` sends, bytes.
pub(crate) const FLOOD: usize = 16 << 20;

/// The script in the place of the program: its environment is empty, so it says by a variable that this is no test run.
pub(crate) fn script() -> String {
    let me = std::env::current_exe().expect("a path");
    format!(
        "#!/bin/sh\nRUNNER_TEST_WORKER=$1 exec '{}' --exact worker::as_a_worker --nocapture --test-threads=1\n",
        me.display()
    )
}

#[test]
fn as_a_worker() {
    let Ok(mode) = std::env::var("RUNNER_TEST_WORKER") else { return };
    let socket = runner_sandbox::inherited_socket().expect("the spawner's");
    socket.set_nonblocking(true).expect("a socket");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut socket = UnixStream::from_std(socket).expect("a socket");
        match mode.as_str() {
            "resolve" => resolve(&mut socket).await,
            _ => operation(&mut socket).await,
        }
    });
    std::process::exit(0);
}

async fn resolve(socket: &mut UnixStream) {
    let _: Option<v1::ResolveRequest> = frame::read_message(socket, Kind::Request).await.expect("a request");
    let target = v1::Target { kind: Some(target::Kind::Kubernetes(Default::default())) };
    let reply = v1::ResolveReply {
        kind: Some(resolve_reply::Kind::Target(target)),
        valid_until_ms: shared_proto::now_ms() + 60_000,
    };
    frame::write_message(socket, Kind::Outcome, &reply).await.expect("writes");
}

async fn operation(socket: &mut UnixStream) {
    let request: v1::WorkerRequest =
        frame::read_message(socket, Kind::Request).await.expect("reads").expect("a request");
    assert!(request.target.is_some());
    let pod = match request.request.and_then(|r| r.what) {
        Some(What::K8sExec(e)) => e.pod,
        Some(What::K8sDescribePod(d)) => d.pod,
        _ => String::new(),
    };
    let mut exit_code = 0;
    match pod.as_str() {
        "hello" => frame::write(socket, Kind::Data, b"hello").await.expect("writes"),
        "flood" => {
            let piece = vec![7; shared_proto::bounds::DATA_MAX];
            let mut left = FLOOD;
            while left > 0 {
                let now = left.min(piece.len());
                // whoever reads may stop for good
                if frame::write(socket, Kind::Data, &piece[..now]).await.is_err() {
                    return;
                }
                left -= now;
            }
        }
        "echo" => {
            frame::write(socket, Kind::Stderr, b"up").await.expect("writes");
            let (reader, mut writer) = socket.split();
            let mut reader = tokio::io::BufReader::new(reader);
            while let Some((kind, content)) = frame::read(&mut reader).await.expect("reads") {
                match kind {
                    Kind::Data => frame::write(&mut writer, Kind::Data, &content).await.expect("writes"),
                    _ => break,
                }
            }
            exit_code = 7;
        }
        "family" => {
            let children: Vec<_> = (0..2)
                .map(|_| std::process::Command::new("/bin/sleep").arg("1000").spawn().expect("starts").id())
                .collect();
            let text = format!("{} {} {}", std::process::id(), children[0], children[1]);
            frame::write(socket, Kind::Data, text.as_bytes()).await.expect("writes");
            std::future::pending::<()>().await;
        }
        "hang" => {
            frame::write(socket, Kind::Stderr, b"up").await.expect("writes");
            std::future::pending::<()>().await;
        }
        "abort" => {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGABRT).expect("dies");
        }
        "kill" => {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).expect("dies");
        }
        "exit" => std::process::exit(3),
        "garbage" => {
            use tokio::io::AsyncWriteExt as _;
            socket.write_all(b"garbage!").await.expect("writes");
            std::future::pending::<()>().await;
        }
        other => panic!("no such pod: {other}"),
    }
    let outcome = v1::Outcome { code: "ok".into(), exit_code, ..Default::default() };
    frame::write_message(socket, Kind::Outcome, &outcome).await.expect("writes");
}
