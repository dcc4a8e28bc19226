//! The small worker, an example of this crate for being a program of its own. What it does is the pod's name.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runner_sandbox::channel;
use shared_proto::address::Address;
use shared_proto::dial::{DESCRIPTOR, DIALS_MAX, REPLY_MAX, Reply};
use shared_proto::frame::{self, Kind};
use shared_proto::v1::{self, operation_request::What, resolve_reply, target};
use std::os::fd::{AsFd as _, OwnedFd};
use tokio::net::UnixStream;

/// What `flood` sends, bytes.
pub(crate) const FLOOD: usize = 16 << 20;

/// Where it is.
pub(crate) fn program() -> std::path::PathBuf {
    let me = std::env::current_exe().expect("a path");
    me.parent().and_then(std::path::Path::parent).expect("target/debug").join("examples/stand_in_worker")
}

/// What it does, by its mode.
pub(crate) fn run() {
    let mode = std::env::args().nth(1).unwrap_or_default();
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
}

async fn resolve(socket: &mut UnixStream) {
    let request: Option<v1::ResolveRequest> = frame::read_message(socket, Kind::Request).await.expect("a request");
    let connection = request.expect("a request").connection;
    let mut cluster = v1::KubernetesTarget::default();
    match connection.split_once('-') {
        Some(("port", port)) => cluster.server = format!("http://127.0.0.1:{port}"),
        Some(("proxy", port)) => {
            cluster.server = "http://target.example:6443".into();
            cluster.proxy_url = format!("http://u:s3cr3t@127.0.0.1:{port}");
        }
        Some(("metadata", _)) => cluster.server = "http://169.254.169.254".into(),
        // what its connections lead to is all that it tells
        Some(("asks", host)) => {
            let said = dial("dial", &format!("http://{host}:443")).await;
            let failure = v1::Outcome { code: "credentials_unavailable".into(), message: said, ..Default::default() };
            let kind = Some(resolve_reply::Kind::Failure(failure));
            let reply = v1::ResolveReply { kind, ..Default::default() };
            return frame::write_message(socket, Kind::Outcome, &reply).await.expect("writes");
        }
        _ => {}
    }
    let target = v1::Target { kind: Some(target::Kind::Kubernetes(cluster)) };
    let reply = v1::ResolveReply {
        kind: Some(resolve_reply::Kind::Target(target)),
        valid_until_ms: shared_proto::now_ms() + 60_000,
        ..Default::default()
    };
    frame::write_message(socket, Kind::Outcome, &reply).await.expect("writes");
}

async fn operation(socket: &mut UnixStream) {
    // it may have waited for one in vain
    let request: Option<v1::WorkerRequest> = frame::read_message(socket, Kind::Request).await.expect("reads");
    let Some(request) = request else { return };
    let Some(target::Kind::Kubernetes(cluster)) = request.target.and_then(|t| t.kind) else { panic!("no cluster") };
    // who passes the proxy is the supervisor
    assert_eq!(cluster.proxy_url, "");
    let pod = match request.request.and_then(|r| r.what) {
        Some(What::K8sExec(e)) => e.pod,
        Some(What::K8sDescribePod(d)) => d.pod,
        _ => String::new(),
    };
    let mut exit_code = 0;
    match pod.as_str() {
        "dial" | "dial-others" | "dial-many" | "dial-rubbish" => {
            let said = dial(&pod, &cluster.server).await;
            frame::write(socket, Kind::Data, said.as_bytes()).await.expect("writes");
        }
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
            let child = std::process::Command::new("/bin/sleep").arg("1000").spawn();
            let text = if child.is_err() { "alone" } else { "with a child" };
            frame::write(socket, Kind::Data, text.as_bytes()).await.expect("writes");
            std::future::pending::<()>().await;
        }
        "hang" => {
            frame::write(socket, Kind::Stderr, b"up").await.expect("writes");
            std::future::pending::<()>().await;
        }
        #[allow(clippy::disallowed_methods)] // a crash is what is wanted
        "abort" => std::process::abort(),
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

/// Asks for connections over descriptor 4; in words, what came of it.
async fn dial(pod: &str, server: &str) -> String {
    let end = runner_sandbox::inherited_descriptor(DESCRIPTOR).expect("the spawner's");
    let address = Address::parse(server).expect("an address");
    let (host, port) = (address.host.as_str(), address.port);
    let datagram = |host: &str, port: u16| [&port.to_be_bytes()[..], host.as_bytes()].concat();
    match pod {
        "dial" => ask(&end, &datagram(host, port)),
        "dial-others" => {
            let others = [("127.0.0.2", port), ("localhost", port), (host, port ^ 1), ("169.254.169.254", 80)];
            others.map(|(host, port)| ask(&end, &datagram(host, port))).join("\n")
        }
        "dial-many" => (0..DIALS_MAX + 2).map(|_| ask(&end, &datagram("a", 1)) + "\n").collect(),
        // what is good comes too late
        _ => ask(&end, b"\x01") + &ask(&end, &datagram(host, port)),
    }
}

fn ask(end: &OwnedFd, datagram: &[u8]) -> String {
    if channel::send(end.as_fd(), datagram, &[]).is_err() {
        return "ended".to_owned();
    }
    let mut buffer = [0; REPLY_MAX];
    loop {
        match channel::receive(end.as_fd(), &mut buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                let mut end = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
                poll(&mut end, PollTimeout::NONE).expect("waits");
            }
            Ok(got) if got.length > 0 => {
                let reply = Reply::decode(&buffer[..got.length], got.descriptors.len()).expect("a reply");
                let Some(socket) = got.descriptors.into_iter().next() else { return format!("{reply:?}") };
                let mut socket = std::net::TcpStream::from(socket);
                socket.set_nonblocking(false).expect("a socket");
                let mut said = String::new();
                std::io::Read::read_to_string(&mut socket, &mut said).expect("reads");
                return said;
            }
            _ => return "ended".to_owned(),
        }
    }
}
