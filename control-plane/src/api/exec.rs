//! A command in a container, over a WebSocket of the subprotocol `runner.exec.v1`: binary messages whose first byte says what
//! they are. Both directions run on their own: output goes on while input waits for credit.

use super::checked::{self, k8s_label};
use super::kubernetes::{PodPath, wanted};
use super::listener::ConnectionPlace;
use super::outcome::OutcomeBody;
use super::running::Running;
use super::{ApiError, ApiState, Caller, Named, Params, Routes, StreamPlace};
use crate::operations::{Input, Output};
use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use shared_proto::bounds::DATA_MAX;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{K8sExec, TerminalSize};
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use utoipa::OpenApi;

/// The subprotocol.
const PROTOCOL: &str = "runner.exec.v1";
/// The largest message from the client, bytes.
const MESSAGE_MAX: usize = DATA_MAX + 1;
/// What may wait to be written to the client, bytes: one message is written at a time.
const WRITE_MAX: usize = 4 * DATA_MAX;
/// Between two pings, by which a client that is gone is found.
const PING: Duration = Duration::from_secs(15);
/// How long the client may take to take the last message, and to close.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// The first byte of each message.
mod kind {
    pub(super) const STDIN: u8 = 0;
    pub(super) const STDOUT: u8 = 1;
    pub(super) const STDERR: u8 = 2;
    pub(super) const OUTCOME: u8 = 3;
    pub(super) const RESIZE: u8 = 4;
    pub(super) const STDIN_CLOSED: u8 = 5;
}

#[derive(OpenApi)]
#[openapi(paths(exec))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new().add_stream("get", "/connections/{connection}/k8s/namespaces/{namespace}/pods/{pod}/exec", exec)
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/k8s/namespaces/{namespace}/pods/{pod}/exec", tag = "kubernetes",
    params(("connection" = String, Path, description = "Id or name"), ("namespace" = String, Path, description = "`-`: the connection's own"), ("pod" = String, Path),
        ("runner" = Option<String>, Query), ("container" = Option<String>, Query),
        ("command" = Vec<String>, Query, description = "Once for the program and once for each argument"),
        ("stdin" = Option<bool>, Query), ("tty" = Option<bool>, Query), ("columns" = Option<u32>, Query),
        ("rows" = Option<u32>, Query)),
    responses((status = 101, description = "A WebSocket of the subprotocol `runner.exec.v1`. Binary messages, first byte: \
        0 stdin, 1 stdout, 2 stderr, 3 outcome (JSON, the last), 4 resize (JSON {columns,rows}), 5 stdin closed")))]
async fn exec(
    State(state): State<ApiState>,
    caller: Caller,
    Named(path): Named<PodPath>,
    mut params: Params,
    connection_place: Option<Extension<ConnectionPlace>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let runner = params.text("runner")?;
    let container = params.text("container")?.map(|c| k8s_label("container", c)).transpose()?;
    let command = checked::command(params.all("command"))?;
    let (stdin, tty) = (params.flag("stdin")?, params.flag("tty")?);
    let columns = params.number("columns", 1..=checked::TERMINAL_MAX)?;
    let rows = params.number("rows", 1..=checked::TERMINAL_MAX)?;
    params.finish()?;
    let size = match (columns, rows) {
        (Some(columns), Some(rows)) => Some(TerminalSize { columns, rows }),
        (None, None) => None,
        _ => return Err(Code::InvalidArgument.on("columns and rows go together").into()),
    };
    if size.is_some() && !tty {
        return Err(Code::InvalidArgument.on("columns and rows are for a terminal: tty is missing").into());
    }
    let connection = path.connection.clone();
    let (namespace, pod) = path.checked()?;
    let upgrade = upgrade
        .map_err(|_| {
            Code::InvalidArgument
                .on(format!("this route is a WebSocket of the subprotocol {PROTOCOL}, over HTTP/1.1"))
                .next("Open it with a WebSocket client.")
        })?
        .protocols([PROTOCOL])
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_MAX);
    if upgrade.selected_protocol().is_none() {
        return Err(Code::InvalidArgument.on(format!("the WebSocket must offer the subprotocol {PROTOCOL}")).into());
    }
    let container = container.unwrap_or_default();
    let what = What::K8sExec(K8sExec { namespace, pod, container, command, stdin, tty, size });
    let place = state.streams.take(&caller.user().id)?;
    let running = Running::start(&state, &caller, wanted(connection, runner, what, false)).await?;
    let operation = running.header();
    let mut response = upgrade.on_upgrade(move |socket| async move {
        serve(socket, running, place).await;
        drop(connection_place);
    });
    response.headers_mut().insert(super::OPERATION_HEADER, operation);
    Ok(response)
}

/// Ends with the operation's outcome, or when the client leaves, which cancels the operation.
async fn serve(socket: WebSocket, mut running: Running, place: StreamPlace) {
    let (mut sink, mut stream) = socket.split();
    let input = running.input();
    let outcome = tokio::select! {
        outcome = output(&mut running, &mut sink) => outcome,
        failure = take_input(&mut stream, input) => {
            failure.map(|failure| OutcomeBody::from(&running.give_up(&failure)))
        }
    };
    if let Some(outcome) = outcome {
        let send = async {
            sink.send(message(kind::OUTCOME, outcome.json().as_bytes())).await?;
            sink.send(Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }))).await?;
            sink.flush().await
        };
        // a connection that is closed while bytes wait there to be read is reset, and what was sent is lost with it: the client's last words are
        // read, until it closes as well
        let hear = async { while let Some(Ok(_)) = stream.next().await {} };
        let _ = tokio::time::timeout(CLOSE_WAIT, futures_util::future::join(send, hear)).await;
    }
    drop(place);
}

/// Passes output on; gives the outcome, or nothing when the client is gone.
async fn output(running: &mut Running, sink: &mut SplitSink<WebSocket, Message>) -> Option<OutcomeBody> {
    let mut pings = tokio::time::interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            output = running.next() => match output {
                Output::Data(bytes) => message(kind::STDOUT, &bytes),
                Output::Stderr(bytes) => message(kind::STDERR, &bytes),
                Output::Head(_) => continue,
                Output::Outcome(outcome) => return Some(OutcomeBody::from(&outcome)),
            },
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        sink.send(message).await.ok()?;
    }
}

/// Passes input on until the client leaves (nothing) or sends what is no message of the protocol (the failure). An operation
/// that takes no more input is no reason to end: its outcome comes.
async fn take_input(stream: &mut SplitStream<WebSocket>, input: Input) -> Option<Failure> {
    loop {
        let bytes = match stream.next().await? {
            Ok(Message::Binary(bytes)) => bytes,
            Ok(Message::Ping(_) | Message::Pong(_)) => continue,
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(Message::Text(_)) => {
                return Some(Code::InvalidArgument.on("a text message came; all messages are binary"));
            }
        };
        match bytes.first() {
            Some(&kind::STDIN) if bytes.len() > 1 => {
                let _ = input.stdin(bytes.slice(1..)).await;
            }
            Some(&kind::STDIN) => {}
            Some(&kind::RESIZE) => match size(&bytes[1..]) {
                Ok(size) => {
                    let _ = input.resize(size.columns, size.rows).await;
                }
                Err(failure) => return Some(failure),
            },
            Some(&kind::STDIN_CLOSED) => {
                let _ = input.close_stdin().await;
            }
            Some(other) => {
                return Some(Code::InvalidArgument.on(format!("there is no message of kind {other} from a client")));
            }
            None => return Some(Code::InvalidArgument.on("an empty message came")),
        }
    }
}

fn size(json: &[u8]) -> Result<TerminalSize, Failure> {
    #[derive(serde::Deserialize)]
    struct Size {
        columns: u32,
        rows: u32,
    }
    let Size { columns, rows } =
        serde_json::from_slice(json).map_err(|e| Code::InvalidArgument.on(format!("a resize message: {e}")))?;
    let good = 1..=checked::TERMINAL_MAX;
    if good.contains(&columns) && good.contains(&rows) {
        return Ok(TerminalSize { columns, rows });
    }
    Err(Code::InvalidArgument
        .on(format!("columns and rows must be from 1 to {}, not {columns} and {rows}", checked::TERMINAL_MAX)))
}

fn message(kind: u8, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(kind);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sizes() {
        assert!(size(br#"{"columns":80,"rows":24}"#).is_ok());
        for bad in
            [&b""[..], b"{}", br#"{"columns":0,"rows":24}"#, br#"{"columns":80,"rows":1001}"#, b"[80,24,1]", b"\xff"]
        {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }
}
