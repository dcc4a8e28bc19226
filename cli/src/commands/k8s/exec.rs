//! `k8s exec`: a command in a container, with a terminal if asked. The remote exit code becomes ours; what fails on the way is
//! said on standard error and exits 125. The local terminal is put back on every way out.

use super::api::Api;
use super::kinds::Kinds;
use super::words::{self, Name, name_of};
use super::{PODS, PodName, targets, write};
use crate::client::{Client, Socket};
use crate::commands::{Session, outcome};
use crate::output::{escape::Filter, streams, table};
use crate::stop::{Done, Stop};
use crate::terminal;
use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use shared_proto::failure::{Code, Failure};
use std::io::IsTerminal as _;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

/// The subprotocol.
pub(super) const PROTOCOL: &str = "runner.exec.v1";
/// A message's first byte.
pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const OUTCOME: u8 = 3;
const RESIZE: u8 = 4;
pub(super) const STDIN_CLOSED: u8 = 5;
/// Standard input is read in pieces of this many bytes.
pub(super) const PIECE: usize = 32 * 1024;

/// `k8s exec`
#[derive(Debug, clap::Args)]
pub(crate) struct Exec {
    /// The pod, also as pod/NAME; or one of what has pods: deployment/NAME, service/NAME; a star at the end stands for any rest
    #[arg(value_name = "POD")]
    pub(super) target: String,
    /// Its namespace; the connection's own by default
    #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
    namespace: Option<String>,
    /// The container; may be left out where there is one only
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// With a terminal
    #[arg(short, long)]
    tty: bool,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Exec {
    /// The pod that is meant, without asking where it is named itself.
    async fn pod(&self, api: &Api) -> Result<PodName, Failure> {
        let (kind, name) = words::one(std::slice::from_ref(&self.target), Some(PODS[0]))?;
        if PODS.contains(&kind.as_str()) && matches!(Name::read(&name), Name::Whole(_)) {
            return Ok(PodName { pod: name, namespace: self.namespace.clone() });
        }
        let kinds = Kinds::of(api).await?;
        let (_, pod) = targets::pod(api, &kinds, (&kind, &name), self.namespace.as_deref()).await?;
        Ok(PodName { pod: name_of(&pod).to_owned(), namespace: Some(table::text(&pod, "/metadata/namespace")) })
    }
}

/// `k8s exec`
pub(crate) async fn run(command: Exec, named: Option<&str>, session: &Session) -> Done {
    if command.tty && !(command.stdin && std::io::stdin().is_terminal()) {
        eprintln!(
            "note: a terminal is asked for, but standard input is {}",
            if command.stdin { "none" } else { "not passed on (-i)" }
        );
    }
    let code = execute(&command, named, session).await.map_err(Stop::of_exec)?;
    if code == 0 { Ok(()) } else { Err(Stop::Exit(code)) }
}

async fn execute(command: &Exec, named: Option<&str>, session: &Session) -> Done<i32> {
    let size = if command.tty { terminal::size() } else { None };
    let (columns, rows) = size.map_or((None, None), |(c, r)| (Some(c.to_string()), Some(r.to_string())));
    let flag = |on: bool| on.then_some("true");
    let own = [
        ("container", command.container.as_deref()),
        ("stdin", flag(command.stdin)),
        ("tty", flag(command.tty)),
        ("columns", columns.as_deref()),
        ("rows", rows.as_deref()),
    ];
    let words = command.command.iter().map(|word| ("command", Some(word.as_str())));
    let query = session.query(own.into_iter().chain(words));
    let opening = async {
        let api = Api::of(session, named).await?;
        let pod = command.pod(&api).await?;
        Ok(session.client.websocket(&pod.path(&api.connection, Some("exec"), &query), PROTOCOL).await?)
    };
    let socket = session.interrupt.guard("the command was not started", opening).await?;
    // raw only now: what failed before is shown on an ordinary terminal
    let raw = if command.tty && command.stdin && std::io::stdin().is_terminal() {
        let enter = terminal::Raw::enter();
        Some(enter.map_err(|e| Code::InvalidArgument.on(format!("the terminal cannot be made raw: {e}")))?)
    } else {
        None
    };
    let done = converse(command, session, socket).await;
    drop(raw);
    done
}

/// Passes bytes both ways until the outcome.
async fn converse(command: &Exec, session: &Session, socket: Socket) -> Done<i32> {
    let (sink, mut source) = socket.split();
    // what goes out has one writer; its queue is short, so that a slow command slows our reading
    let (outgoing, queue) = mpsc::channel::<Vec<u8>>(4);
    let sender = tokio::spawn(send(sink, queue));
    let mut helpers = Vec::new();
    if command.stdin {
        helpers.push(tokio::spawn(read_stdin(outgoing.clone())));
    }
    if command.tty {
        helpers.push(tokio::spawn(watch_size(outgoing.clone())));
    }
    let mut stdout = streams::stdout()?;
    let mut stderr = streams::stderr()?;
    // with a terminal of its own the command draws on ours: that is what was asked for
    let mut filters = (
        (session.output.terminal && !command.tty).then(|| Filter::new(session.output.colour)),
        (std::io::stderr().is_terminal() && !command.tty).then(|| Filter::new(session.output.colour)),
    );
    let receive = async {
        loop {
            let message = match source.next().await {
                Some(Ok(message)) => message,
                Some(Err(_)) => return Err(cut().into()),
                None => return Err(outcome::missing().into()),
            };
            let data = match message {
                Message::Binary(data) => data,
                Message::Close(_) => return Err(outcome::missing().into()),
                _ => continue,
            };
            match data.split_first() {
                Some((&STDOUT, data)) => write(&mut stdout, filters.0.as_mut(), data).await?,
                Some((&STDERR, data)) => write(&mut stderr, filters.1.as_mut(), data).await?,
                Some((&OUTCOME, json)) => return Ok(outcome::read(json)?),
                _ => {}
            }
        }
    };
    let done = tokio::select! {
        done = receive => done,
        () = session.interrupt.requested() => Err(Stop::Interrupted("the connection was closed, which ends the remote command's terminal or pipes".into())),
    };
    for (filter, is_stdout) in [(&mut filters.0, true), (&mut filters.1, false)] {
        if let Some(filter) = filter {
            let rest = filter.finish();
            let _ =
                if is_stdout { write(&mut stdout, None, &rest).await } else { write(&mut stderr, None, &rest).await };
        }
    }
    helpers.iter().for_each(tokio::task::JoinHandle::abort);
    sender.abort();
    done
}

/// The way to the control plane is gone; what a library says of it says nothing to a user.
fn cut() -> Failure {
    Code::ConnectionLost.on("the connection to the control plane was cut while the command ran")
}

async fn send(mut sink: SplitSink<Socket, Message>, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(message) = queue.recv().await {
        if sink.send(Message::Binary(Bytes::from(message))).await.is_err() {
            return; // the receiving half says how it ended
        }
    }
}

async fn read_stdin(outgoing: mpsc::Sender<Vec<u8>>) {
    let Ok(mut stdin) = streams::stdin() else { return };
    loop {
        let mut message = vec![STDIN];
        message.resize(1 + PIECE, 0);
        match stdin.read(&mut message[1..]).await {
            Ok(0) | Err(_) => break,
            Ok(n) => message.truncate(1 + n),
        }
        if outgoing.send(message).await.is_err() {
            return;
        }
    }
    let _ = outgoing.send(vec![STDIN_CLOSED]).await;
}

async fn watch_size(outgoing: mpsc::Sender<Vec<u8>>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while changes.recv().await.is_some() {
        if let Some((columns, rows)) = terminal::size() {
            let mut message = vec![RESIZE];
            message.extend_from_slice(json!({ "columns": columns, "rows": rows }).to_string().as_bytes());
            if outgoing.send(message).await.is_err() {
                return;
            }
        }
    }
}

/// Runs a command without standard input and gives its output and exit code; for the demo. Output is bounded to 64 KiB.
pub(crate) async fn capture(client: &Client, at: &str) -> Result<(String, i32), Failure> {
    let mut socket = client.websocket(at, PROTOCOL).await?;
    let mut out = Vec::new();
    while let Some(message) = socket.next().await {
        let message = message.map_err(|_| cut())?;
        let Message::Binary(data) = message else { continue };
        match data.split_first() {
            Some((&(STDOUT | STDERR), data)) if out.len() < 64 * 1024 => out.extend_from_slice(data),
            Some((&OUTCOME, json)) => return Ok((String::from_utf8_lossy(&out).into_owned(), outcome::read(json)?)),
            _ => {}
        }
    }
    Err(outcome::missing())
}
