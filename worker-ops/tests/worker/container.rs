//! A container whose command is a process of this machine, behind the WebSocket protocol as kubelets speak it: with exit codes and with
//! the end of standard input, neither of which kwok passes on.

use anyhow::{Context as _, Result};
use futures_util::SinkExt as _;
use futures_util::stream::StreamExt as _;
use http::HeaderValue;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use serde_json::json;
use std::process::Stdio;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

/// Serves until it is dropped.
pub(crate) struct Container {
    pub(crate) url: String,
    task: JoinHandle<()>,
}

// === impl Container ===

impl Container {
    /// One that speaks this version of the protocol.
    pub(crate) async fn start(protocol: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move { serve(stream, protocol).await });
            }
        });
        Ok(Self { url, task })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, protocol: &'static str) -> Result<()> {
    let mut words = Vec::new();
    #[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
    let accept = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let query = request.uri().query().unwrap_or_default();
        words = query.split('&').filter_map(|p| p.strip_prefix("command=")).map(decoded).collect();
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        Ok(response)
    };
    let socket = accept_hdr_async(stream, accept).await?;
    let (mut sink, mut stream) = socket.split();
    let mut command = Command::new(words.first().context("a command")?);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let input = tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            let Message::Binary(content) = message else { continue };
            match (content.first(), &mut stdin) {
                (Some(0), Some(pipe)) => pipe.write_all(&content[1..]).await?,
                (Some(255), _) => stdin = None,
                _ => {}
            }
        }
        anyhow::Ok(())
    });
    let (pieces, mut waiting) = mpsc::channel::<Vec<u8>>(4);
    let readers = [
        stdout.map(|s| tokio::spawn(pump(1, s, pieces.clone()))),
        stderr.map(|s| tokio::spawn(pump(2, s, pieces.clone()))),
    ];
    drop(pieces);
    while let Some(piece) = waiting.recv().await {
        sink.send(Message::binary(piece)).await?;
    }
    for reader in readers.into_iter().flatten() {
        reader.await??;
    }
    let code = child.wait().await?.code().unwrap_or(-1);
    let status = if code == 0 {
        json!({"metadata": {}, "status": "Success"})
    } else {
        json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
               "message": format!("command terminated with non-zero exit code: {code}"),
               "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
    };
    sink.send(Message::binary([&[3], status.to_string().as_bytes()].concat())).await?;
    sink.close().await?;
    input.abort();
    Ok(())
}

async fn pump(channel: u8, mut from: impl tokio::io::AsyncRead + Unpin, to: mpsc::Sender<Vec<u8>>) -> Result<()> {
    loop {
        let mut piece = vec![channel; 32 * 1024];
        match from.read(&mut piece[1..]).await? {
            0 => return Ok(()),
            n => {
                piece.truncate(n + 1);
                to.send(piece).await?;
            }
        }
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
            bytes.push(u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).unwrap_or(b'?'));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
