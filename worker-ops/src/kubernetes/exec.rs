//! A command in a container, over WebSocket (`v5.channel.k8s.io`; `v4` for API servers before 1.30).
//!
//! ```text
//! each message: one byte for the channel, then its content
//!   to the container     0 stdin   4 resize (JSON)   255 close: the number of the channel that has ended (v5)
//!   from the container   1 stdout  2 stderr          3 how it ended: a Status, the last
//! ```
//! The two directions run independently: a command that writes while it is written to must not stop both.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt as _;
use futures_util::stream::{SplitSink, SplitStream, StreamExt as _};
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{Method, Response, StatusCode};
use hyper::body::Incoming as Body;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use shared_proto::failure::Code;
use shared_proto::v1::{K8sExec, Outcome};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, interval_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::connect::{Cluster, segment};
use super::stream;
use crate::fault::{Fault, chain, done};
use crate::net::url;
use crate::socket::{Incoming, Input, Output};

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Standard input in one message, bytes: as kubectl sends it.
const STDIN_PIECE: usize = 32 * 1024;
/// The largest message from the API server, bytes.
const MESSAGE_MAX: usize = 1024 * 1024;
/// Between two pings: load balancers between us and the API server close what is silent for a minute.
const PING_EVERY: Duration = Duration::from_secs(20);
/// The command's words altogether, bytes: they travel in the URL.
const COMMAND_MAX: usize = 64 * 1024;

type Socket = WebSocketStream<TokioIo<Upgraded>>;
type Sink = SplitSink<Socket, Message>;

/// Runs a command and gives its exit code.
pub(crate) async fn exec(
    cluster: &mut Cluster,
    request: K8sExec,
    input: &mut Input,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    if request.command.is_empty() || request.command[0].is_empty() {
        return Err(Fault::new(Code::InvalidArgument, "no command is given"));
    }
    if request.command.iter().map(String::len).sum::<usize>() > COMMAND_MAX {
        return Err(Fault::new(Code::TooLarge, format!("the command is longer than {COMMAND_MAX} bytes")));
    }
    let namespace = segment("namespace", cluster.namespace(&request.namespace))?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{}", segment("pod", &request.pod)?);
    let container = stream::container(cluster, &path, &request.container).await?;
    let (socket, closes) = open(cluster, &format!("{path}/exec?{}", query(&request, container.as_deref()))).await?;
    let (mut sink, stream) = socket.split();
    let shown = cluster.endpoint().shown();
    let lost = |error: &WsError| Fault::new(Code::TargetLost, format!("{shown}: {}", chain(error)));
    if let Some(size) = request.size.filter(|_| request.tty) {
        sink.send(resize(size.columns, size.rows)).await.map_err(|e| lost(&e))?;
    }
    let to_container = forward(sink, input, closes, &request);
    let from_container = receive(stream, output, &shown);
    tokio::select! {
        ended = from_container => ended,
        fault = to_container => Err(fault),
    }
}

fn query(request: &K8sExec, container: Option<&str>) -> String {
    let flag = |on: bool| if on { "true" } else { "false" };
    let command = request.command.iter().map(|word| ("command", word.as_str()));
    let rest = [
        ("container", container.unwrap_or_default()),
        ("stdin", flag(request.stdin)),
        ("stdout", "true"),
        // a terminal has one output
        ("stderr", flag(!request.tty)),
        ("tty", flag(request.tty)),
    ];
    url::form(command.chain(rest.into_iter().filter(|(_, value)| !value.is_empty())))
}

/// Opens the WebSocket; says whether it can tell that standard input has ended.
async fn open(cluster: &mut Cluster, path: &str) -> Result<(Socket, bool), Fault> {
    let mut request = cluster.request(Method::GET, path, Bytes::new())?;
    let key = generate_key();
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v5.channel.k8s.io, v4.channel.k8s.io"));
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    let answer = cluster.send(request).await?;
    let shown = cluster.endpoint().shown();
    let closes = accepted(&answer, &key).map_err(|what| Fault::new(Code::TargetFailed, format!("{shown}: {what}")))?;
    let upgraded = hyper::upgrade::on(answer)
        .await
        .map_err(|e| Fault::new(Code::TargetLost, format!("{shown}: {}", chain(&e))))?;
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(MESSAGE_MAX);
    config.max_frame_size = Some(MESSAGE_MAX);
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await;
    Ok((socket, closes))
}

/// Whether the answer is the one that RFC 6455 asks for, and which of the two protocols it chose: `true` is version 5.
fn accepted(answer: &Response<Body>, key: &str) -> Result<bool, &'static str> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err("the API server did not switch to WebSocket");
    }
    let header = |name| answer.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !header(UPGRADE).eq_ignore_ascii_case("websocket")
        || header(SEC_WEBSOCKET_ACCEPT) != derive_accept_key(key.as_bytes())
    {
        return Err("the answer to the WebSocket handshake is not the API server's");
    }
    match header(SEC_WEBSOCKET_PROTOCOL) {
        V5 => Ok(true),
        V4 => Ok(false),
        _ => Err("the API server speaks no version of the exec protocol that this runner knows"),
    }
}

/// From the caller to the container. Returns only where the caller's side is at fault; what is wrong with the other side, the one that
/// receives from it will see.
async fn forward(mut sink: Sink, input: &mut Input, closes: bool, request: &K8sExec) -> Fault {
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    let mut open = request.stdin;
    loop {
        let incoming = {
            let mut next = pin!(input.next());
            loop {
                tokio::select! {
                    incoming = &mut next => break incoming,
                    _ = ping.tick() => if sink.send(Message::Ping(Bytes::new())).await.is_err() {
                        std::future::pending::<()>().await;
                    },
                }
            }
        };
        let sent = match incoming {
            Ok(Some(Incoming::Stdin(bytes))) if open => send_stdin(&mut sink, &bytes).await,
            Ok(Some(Incoming::StdinClosed)) if open => {
                open = false;
                // without version 5 the end cannot be told but by ending all of it
                if closes { sink.send(Message::binary(vec![CLOSE, STDIN])).await } else { sink.close().await }
            }
            Ok(Some(Incoming::Resize { columns, rows })) if request.tty => sink.send(resize(columns, rows)).await,
            // input that was not asked for
            Ok(Some(_)) => Ok(()),
            // the end of the socket is the caller's cancel, and is watched elsewhere
            Ok(None) => return std::future::pending().await,
            Err(error) => return Fault::new(Code::Internal, error.to_string()),
        };
        if sent.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn send_stdin(sink: &mut Sink, bytes: &[u8]) -> Result<(), WsError> {
    for piece in bytes.chunks(STDIN_PIECE) {
        let mut message = BytesMut::with_capacity(piece.len() + 1);
        message.put_u8(STDIN);
        message.extend_from_slice(piece);
        sink.send(Message::Binary(message.freeze())).await?;
    }
    Ok(())
}

fn resize(columns: u32, rows: u32) -> Message {
    // what does not fit is no terminal's size
    let fit = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let mut message = vec![RESIZE];
    message.extend_from_slice(format!(r#"{{"Width":{},"Height":{}}}"#, fit(columns), fit(rows)).as_bytes());
    Message::binary(message)
}

/// From the container to the caller, until the container says how it ended.
async fn receive(mut stream: SplitStream<Socket>, output: &mut Output, shown: &str) -> Result<Outcome, Fault> {
    let lost = |why: &str| Fault::new(Code::TargetLost, format!("{shown}: {why}"));
    loop {
        let content = match stream.next().await {
            Some(Ok(Message::Binary(content))) => content,
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(lost(&chain(&error))),
            None => return Err(lost("the connection ended without telling how the command ended")),
        };
        match content.first() {
            Some(&STDOUT) => output.data(&content[1..]).await?,
            Some(&STDERR) => output.stderr(&content[1..]).await?,
            Some(&STATUS) if content.len() > 1 => return ended(&content[1..]),
            _ => {}
        }
    }
}

/// What the Status at the end means.
fn ended(status: &[u8]) -> Result<Outcome, Fault> {
    let status: Status = serde_json::from_slice(status)
        .map_err(|e| Fault::new(Code::TargetFailed, format!("the API server's word on how the command ended: {e}")))?;
    if status.status.as_deref() == Some("Success") {
        return Ok(done());
    }
    let reason = status.reason.unwrap_or_default();
    let causes = status.details.and_then(|d| d.causes).unwrap_or_default();
    let code = causes.iter().find(|c| c.reason.as_deref() == Some("ExitCode")).and_then(|c| c.message.as_deref());
    if let ("NonZeroExitCode", Some(Ok(exit_code))) = (reason.as_str(), code.map(str::parse)) {
        return Ok(Outcome { exit_code, ..done() });
    }
    let message = status.message.filter(|m| !m.is_empty()).unwrap_or_else(|| "the command could not be run".to_owned());
    let http = status.code.and_then(|c| u16::try_from(c).ok()).unwrap_or(0);
    Err(Fault::new(Code::TargetRefused, message).said(http, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_commands_end() {
        assert_eq!(ended(br#"{"metadata":{},"status":"Success"}"#).expect("ok"), done());
        let failure = br#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;
        let outcome = ended(failure).expect("the command ran");
        assert_eq!((outcome.code.as_str(), outcome.exit_code), ("ok", 42));
        let refused = br#"{"metadata":{},"status":"Failure","message":"executable file not found in $PATH","reason":"InternalError","code":500}"#;
        let fault = ended(refused).expect_err("it did not run");
        assert_eq!((fault.code(), fault.status, fault.reason.as_str()), (Code::TargetRefused, 500, "InternalError"));
        assert!(fault.failure.message.contains("not found in $PATH"));
        assert_eq!(ended(b"nonsense").expect_err("no status").code(), Code::TargetFailed);
    }

    #[test]
    fn the_command_is_taken_as_words() {
        let request =
            K8sExec { command: vec!["sh".into(), "-c".into(), "a & b".into()], tty: true, ..Default::default() };
        assert_eq!(
            query(&request, Some("c")),
            "command=sh&command=-c&command=a%20%26%20b&container=c&stdin=false&stdout=true&stderr=false&tty=true"
        );
    }

    #[test]
    fn a_size_that_is_none_is_bounded() {
        assert_eq!(resize(80, 70_000), Message::binary(&b"\x04{\"Width\":80,\"Height\":65535}"[..]));
    }
}
