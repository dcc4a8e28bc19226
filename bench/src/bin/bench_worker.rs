//! In the place of `runner-worker-ops` in benchmarks: connects the operation's stream to a local TCP service, so that what is
//! measured is the way there and back. It speaks the same frames over the same inherited socket.
//!
//! ```text
//! bench-worker operation           the socket on descriptor 3, connections by descriptor 4; the request's command is `tcp HOST:PORT`
//! bench-worker operation --stdin   the socket on descriptor 0, connections by itself: to be executed plainly, for comparison
//! bench-worker resolve             says that the connection `port-N` is a cluster at that port of this machine, without credentials
//! ```
#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, bail};
use runner_tests::dial::Dial;
use shared_proto::dial::DESCRIPTOR;
use shared_proto::frame::{self, Kind};
use shared_proto::v1::{self, operation_request::What};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UnixStream};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (socket, dial) = match words[..] {
        [_, "--stdin"] => (StdUnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?), None),
        ["operation"] => (runner_sandbox::inherited_socket()?, Some(runner_sandbox::inherited_descriptor(DESCRIPTOR)?)),
        _ => (runner_sandbox::inherited_socket()?, None),
    };
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = UnixStream::from_std(socket)?;
        match words.first().copied() {
            Some("operation") => operation(socket, dial.map(Dial::new).transpose()?).await,
            Some("resolve") => resolve(socket).await,
            other => bail!("no mode is called {other:?}"),
        }
    })
}

async fn resolve(mut socket: UnixStream) -> Result<()> {
    let request: v1::ResolveRequest = frame::read_message(&mut socket, Kind::Request).await?.context("a request")?;
    let port = request.connection.strip_prefix("port-").context("the connection is not called port-N")?;
    let target = v1::KubernetesTarget { server: format!("https://127.0.0.1:{port}"), ..Default::default() };
    let reply = v1::ResolveReply {
        kind: Some(v1::resolve_reply::Kind::Target(v1::Target { kind: Some(v1::target::Kind::Kubernetes(target)) })),
        valid_until_ms: shared_proto::now_ms() + 3_600_000,
        ..Default::default()
    };
    frame::write_message(&mut socket, Kind::Outcome, &reply).await?;
    Ok(socket.shutdown().await?)
}

async fn operation(socket: UnixStream, dial: Option<Dial>) -> Result<()> {
    let (input, mut output) = socket.into_split();
    let mut input = BufReader::with_capacity(128 * 1024, input);
    let request: v1::WorkerRequest = frame::read_message(&mut input, Kind::Request).await?.context("a request")?;
    let Some(What::K8sExec(exec)) = request.request.and_then(|r| r.what) else { bail!("the request is no exec") };
    let [_, address] = &exec.command[..] else { bail!("the command is not `tcp HOST:PORT`") };
    let address: SocketAddr = address.parse()?;
    let service = match &dial {
        Some(dial) => dial.connect(&address.ip().to_string(), address.port()).await,
        None => TcpStream::connect(address).await.map_err(Into::into),
    };
    let service = service.with_context(|| format!("dialling {address}"))?;
    service.set_nodelay(true)?;
    let (mut from_service, mut to_service) = service.into_split();
    let up = async {
        while let Some((kind, content)) = frame::read(&mut input).await? {
            match kind {
                Kind::Data => to_service.write_all(&content).await?,
                Kind::StdinClosed => to_service.shutdown().await?,
                _ => {}
            }
        }
        // the supervisor is gone: so are we
        Ok::<_, anyhow::Error>(())
    };
    let down = async {
        let mut buffer = vec![0; shared_proto::bounds::DATA_MAX];
        loop {
            match from_service.read(&mut buffer).await? {
                0 => break,
                n => frame::write(&mut output, Kind::Data, &buffer[..n]).await?,
            }
        }
        frame::write_message(&mut output, Kind::Outcome, &v1::Outcome { code: "ok".into(), ..Default::default() })
            .await?;
        output.shutdown().await?;
        Ok::<_, anyhow::Error>(())
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}
