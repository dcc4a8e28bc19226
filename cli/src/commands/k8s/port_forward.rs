//! `k8s port-forward`: ports of this machine's loopback that lead to a pod's.
//!
//! ```text
//!   a TCP connection ── a WebSocket of its own ── API server ── kubelet ── the pod's port
//!   nobody           ── a WebSocket that is only asked whether it is there: when it ends, the way is lost
//! ```
//! It must never look as if it forwarded where the way is gone: then it ends, and says so.

use super::api::{Api, JSON, lost};
use super::kinds::Kinds;
use super::spdy::{Came, Receiving, Sending};
use super::targets;
use super::words;
use crate::client::{Socket, path};
use crate::commands::Session;
use crate::output::{remark, table};
use crate::stop::Done;
use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use shared_proto::failure::{Code, Failure};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::AbortOnDropHandle;

/// SPDY/3.1 through a WebSocket, which API servers tunnel to the kubelet since Kubernetes 1.30.
const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// TCP connections that are forwarded at once; others wait until one ends.
const CONNECTIONS_MAX: usize = 128;
/// Read at once of a TCP connection, bytes.
const PIECE: usize = 32 * 1024;
/// The longest that a kubelet says about a port that cannot be forwarded, bytes.
const WORDS_MAX: usize = 4096;
/// Between two questions whether the way is there.
const ASK: Duration = Duration::from_secs(5);
/// How long the answer may take: the tunnel itself is found dead within this at both ends.
const ANSWER: Duration = Duration::from_secs(15);
/// How long what the kubelet says of a port is waited for, once the port has said all.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long the reason for which the way is lost is looked for.
const WHY: Duration = Duration::from_secs(5);
/// The streams of one connection.
const ERROR: u32 = 1;
const DATA: u32 = 3;

/// `k8s port-forward`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  runnerctl k8s port-forward web-1 8080:80\n  runnerctl k8s port-forward service/shop 0:http\n\
                        \nOnly this machine's 127.0.0.1 listens. It forwards up to 128 connections at once; more wait. Ctrl-C ends it with 130. \
                        Where the way to the pod is lost it ends with 69 and says so (connection_lost, or target_lost where the pod is gone)."
)]
pub(super) struct PortForward {
    /// A pod, or what has pods: deployment/NAME, service/NAME; a star at the end of a name stands for any rest
    target: String,
    /// [LOCAL:]REMOTE; LOCAL 0 takes any free one; REMOTE by number or name
    #[arg(required = true, value_name = "PORT", value_parser = Ports::parse)]
    ports: Vec<Ports>,
    /// Its namespace; the connection's own by default
    #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
    namespace: Option<String>,
}

/// From which to which.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ports {
    /// None: as the other.
    local: Option<u16>,
    remote: String,
}

/// A pod's ports, and the way there.
#[derive(Debug)]
struct Way {
    api: Api,
    namespace: String,
    pod: String,
}

/// How a TCP connection is closed: by a reset, unless it has ended well.
#[derive(Debug)]
struct Ending(OwnedFd);

// === impl Ending ===

impl Ending {
    fn of(stream: &TcpStream) -> Result<Self, Failure> {
        let same = stream.as_fd().try_clone_to_owned();
        let ending = Self(same.map_err(|e| Code::Internal.on(format!("a connection's descriptor: {e}")))?);
        ending.set(1);
        Ok(ending)
    }
    fn is_good(&self) {
        self.set(0);
    }
    fn set(&self, reset: i32) {
        let linger = nix::libc::linger { l_onoff: reset, l_linger: 0 };
        let _ = nix::sys::socket::setsockopt(&self.0, nix::sys::socket::sockopt::Linger, &linger);
    }
}

// === impl Ports ===

impl Ports {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not [LOCAL:]REMOTE, such as 8080:80");
        let (local, remote) = match text.split_once(':') {
            Some(("", remote)) => (Some(0), remote),
            Some((local, remote)) => (Some(local.parse().map_err(|_| wrong())?), remote),
            None => (None, text),
        };
        let is_port = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if remote.is_empty() || !remote.chars().all(is_port) {
            return Err(wrong());
        }
        Ok(Self { local, remote: remote.to_owned() })
    }
}

/// `k8s port-forward`
pub(super) async fn run(command: PortForward, api: &Api, session: &Session) -> Done {
    let finding = async {
        let (kind, name) = words::one(std::slice::from_ref(&command.target), Some("pods"))?;
        let kinds = Kinds::of(api).await?;
        let (found, pod) = targets::pod(api, &kinds, (&kind, &name), command.namespace.as_deref()).await?;
        let mut ports = Vec::new();
        for wanted in &command.ports {
            let remote = targets::port(&found, &pod, &wanted.remote)?;
            // a service's own port is what its users know it by
            let usual = wanted.remote.parse().unwrap_or(remote);
            ports.push((wanted.local.unwrap_or(usual), remote));
        }
        let way = Way {
            api: api.clone(),
            namespace: table::text(&pod, "/metadata/namespace"),
            pod: table::text(&pod, "/metadata/name"),
        };
        // before anybody hears that it forwards
        let watcher = way.open().await?;
        Ok((way, ports, watcher))
    };
    let (way, ports, watcher) = session.wait("finding the pod", finding).await?;
    let mut listeners = Vec::new();
    for (local, remote) in ports {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, local));
        let listener = TcpListener::bind(address).await.map_err(|e| {
            Code::InvalidArgument
                .on(format!("{address} cannot be listened on: {e}"))
                .next("Take another local port, or 0 for any.")
        })?;
        listeners.push((listener, remote));
    }
    for (listener, remote) in &listeners {
        let address = listener.local_addr().map_err(|e| Code::Internal.on(format!("an address: {e}")))?;
        session.output.line(&format!("Forwarding from {address} -> {remote} of pod {}", way.pod))?;
    }
    let way = Arc::new(way);
    let mut tasks = JoinSet::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for (listener, remote) in listeners {
        tasks.spawn(accept(listener, remote, Arc::clone(&way), Arc::clone(&places)));
    }
    let ended =
        session.interrupt.guard("ports are no longer forwarded", async { Err(way.watch(watcher).await.into()) });
    let done = ended.await;
    tasks.abort_all();
    done
}

/// Forwards what comes, each connection by itself.
async fn accept(listener: TcpListener, remote: u16, way: Arc<Way>, places: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    // out of descriptors, most likely: those that are open end, and then there are some again
                    remark(&format!("a connection could not be taken: {e}"));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let way = Arc::clone(&way);
        connections.spawn(async move {
            if let Err(failure) = way.forward(stream, remote).await {
                remark(&format!("port {remote}: {} [{}]", failure.message, failure.code));
            }
            drop(place);
        });
    }
}

// === impl Way ===

impl Way {
    /// A new WebSocket to the pod's ports.
    async fn open(&self) -> Result<Socket, Failure> {
        let at = self.at(Some("portforward"));
        self.api.client.websocket(&self.api.at(&at), PROTOCOL).await.map_err(|failure| match failure.code {
            Code::UnsupportedVersion => failure.next(
                "Forwarding takes Kubernetes 1.31 or newer, or 1.30 with its feature gate PortForwardWebsockets; kubectl can with older ones.",
            ),
            _ => failure,
        })
    }
    fn at(&self, under: Option<&str>) -> String {
        let mut segments = vec!["api", "v1", "namespaces", &self.namespace, "pods", &self.pod];
        segments.extend(under);
        path(&segments, &[])
    }

    /// Asks again and again whether the way is there, and says why it is not any more.
    async fn watch(&self, socket: Socket) -> Failure {
        let told = self.asked(socket).await;
        // the pod itself may be gone, and then the way to it was not lost
        let at = self.at(None);
        let asking = tokio::time::timeout(WHY, self.api.get(&at, JSON));
        match asking.await.unwrap_or_else(|_| Err(lost("nothing answers"))) {
            Err(failure) if failure.code == Code::TargetNotFound => Code::TargetLost
                .on(format!("pod {} is no more", self.pod))
                .next("Forward to the pod that took its place."),
            Ok(pod) if pod.pointer("/metadata/deletionTimestamp").is_some() => {
                Code::TargetLost.on(format!("pod {} ends", self.pod)).next("Forward to the pod that takes its place.")
            }
            Err(failure) => lost(&format!("{told}: {}", failure.message)).next(failure.next_step),
            Ok(_) => lost(told).next("Run it again."),
        }
    }

    async fn asked(&self, socket: Socket) -> &'static str {
        let (mut sink, mut source) = socket.split();
        let mut receiving = Receiving::default();
        let mut number = 1;
        loop {
            let asked = sink.send(Message::Binary(Bytes::from(Sending::ping(number)))).await;
            if asked.is_err() {
                return "the way to the pod was lost";
            }
            let answer = tokio::time::timeout(ANSWER, answered(&mut source, &mut receiving, number)).await;
            match answer {
                Ok(true) => {}
                Ok(false) => return "the way to the pod was lost",
                Err(_) => return "the way to the pod does not answer any more",
            }
            // what ends meanwhile is heard at once
            let ended = tokio::time::timeout(ASK, answered(&mut source, &mut receiving, 0)).await;
            if ended.is_ok() {
                return "the way to the pod was lost";
            }
            // ours are odd
            number = number.checked_add(2).unwrap_or(1);
        }
    }

    /// Both ways between a TCP connection and the pod's port, until the port has said all.
    async fn forward(&self, stream: TcpStream, port: u16) -> Result<(), Failure> {
        let _ = stream.set_nodelay(true);
        // until all has been said a close is a reset: whoever is connected must not take it for the end of what the pod says
        let ending = Ending::of(&stream)?;
        let (sink, mut source) = self.open().await?.split();
        let (from, mut to) = tokio::io::split(stream);
        // one writer; its queue is short, so that a slow pod slows our reading
        let (outgoing, queue) = mpsc::channel::<Vec<u8>>(4);
        let _sending = AbortOnDropHandle::new(tokio::spawn(send(sink, queue)));
        let port = port.to_string();
        let mut opening = Sending::default();
        let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
        let first = opening.open(ERROR, &headers("error"), true);
        let second = opening.open(DATA, &headers("data"), false);
        let gone = || lost("the way to the pod was lost while the connection was open");
        for frame in [first, second] {
            outgoing.send(frame).await.map_err(|_| gone())?;
        }
        let mut reading = AbortOnDropHandle::new(tokio::spawn(pass_on(from, outgoing.clone())));
        let mut receiving = Receiving::default();
        let (mut said, mut all_sent, mut data_ended, mut error_ended) = (Vec::new(), false, false, false);
        while !(data_ended && error_ended) {
            let message = tokio::select! {
                message = source.next() => message,
                whole = &mut reading, if !all_sent => match whole {
                    Ok(true) => {
                        all_sent = true;
                        continue;
                    }
                    // nobody is there any more
                    _ => return Ok(()),
                },
                () = tokio::time::sleep(LAST_WORDS), if data_ended => break,
            };
            let bytes = match message {
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Close(_)) | Err(_)) | None if data_ended => break,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(gone()),
                Some(Ok(_)) => continue,
            };
            for came in receiving.add(&bytes)? {
                match came {
                    Came::Data { stream: DATA, bytes } => match to.write_all(&bytes).await {
                        Ok(()) => {}
                        // nobody is there any more
                        Err(_) => return Ok(()),
                    },
                    Came::Data { stream: ERROR, bytes } if said.len() + bytes.len() <= WORDS_MAX => said.extend(bytes),
                    Came::Fin { stream: DATA } => data_ended = true,
                    Came::Fin { stream: ERROR } => error_ended = true,
                    Came::Ping(number) if number % 2 == 0 => {
                        let _ = outgoing.send(Sending::ping(number)).await;
                    }
                    Came::Reset { .. } | Came::Leaves if !data_ended => {
                        return Err(refused(&said).unwrap_or_else(gone));
                    }
                    Came::Reset { .. } | Came::Leaves => error_ended = true,
                    _ => {}
                }
            }
        }
        if let Some(failure) = refused(&said) {
            return Err(failure);
        }
        // only now it is an end, and no break
        ending.is_good();
        let _ = to.shutdown().await;
        Ok(())
    }
}

/// Passes on what a TCP connection says; whether that ended as it should.
async fn pass_on(mut from: ReadHalf<TcpStream>, outgoing: mpsc::Sender<Vec<u8>>) -> bool {
    let mut buffer = vec![0; PIECE];
    loop {
        let Ok(read) = from.read(&mut buffer).await else { return false };
        // where nobody sends any more, the way's end is told by what comes
        if outgoing.send(Sending::data(DATA, &buffer[..read], read == 0)).await.is_err() || read == 0 {
            return true;
        }
    }
}

/// What the kubelet says of a port that it cannot forward.
fn refused(said: &[u8]) -> Option<Failure> {
    (!said.is_empty()).then(|| Code::TargetRefused.on(String::from_utf8_lossy(said).into_owned()))
}

/// Waits for the answer to a question; false where the other end is gone before.
async fn answered(
    source: &mut futures_util::stream::SplitStream<Socket>,
    receiving: &mut Receiving,
    number: u32,
) -> bool {
    while let Some(Ok(message)) = source.next().await {
        match message {
            Message::Binary(bytes) => {
                let Ok(came) = receiving.add(&bytes) else { return false };
                if came.contains(&Came::Leaves) {
                    return false;
                }
                if came.contains(&Came::Ping(number)) {
                    return true;
                }
            }
            Message::Close(_) => return false,
            _ => {}
        }
    }
    false
}

async fn send(mut sink: SplitSink<Socket, Message>, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if sink.send(Message::Binary(Bytes::from(frame))).await.is_err() {
            return; // the receiving half says how it ended
        }
    }
    let _ = sink.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_ports() {
        let of = |text: &str| Ports::parse(text).map(|p| (p.local, p.remote));
        assert_eq!(of("80"), Ok((None, "80".into())));
        assert_eq!(of("8080:80"), Ok((Some(8080), "80".into())));
        assert_eq!(of("0:http"), Ok((Some(0), "http".into())));
        assert_eq!(of(":80"), Ok((Some(0), "80".into())));
        for wrong in ["", ":", "80:", "x:80", "65536:80", "-1:80", "1:2:3", "80/tcp"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
