//! `exec` of the stand-in cluster: Kubernetes' WebSocket protocol (v5 and v4 of channel.k8s.io) over a few commands that are
//! written here. No program is run.

use super::standin::now;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;
/// A line that is typed is at most this long, bytes.
const LINE_MAX: usize = 4096;
/// After the end, the other side gets this long to close as well.
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);

/// What is to be run, where.
#[derive(Debug)]
pub(super) struct Run {
    /// The pod's name.
    pub(super) pod: String,
    /// The container's.
    pub(super) container: String,
    /// The command's words.
    pub(super) command: Vec<String>,
    /// With standard input.
    pub(super) stdin: bool,
    /// With a terminal.
    pub(super) tty: bool,
}

/// What a command wrote and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ran {
    stdout: String,
    stderr: String,
    code: i32,
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The subprotocol to speak and the handshake's answer, if the request is a WebSocket's.
pub(super) fn negotiate(headers: &HeaderMap) -> Option<(&'static str, String)> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let offered: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .collect();
    let protocol = ["v5.channel.k8s.io", "v4.channel.k8s.io"].into_iter().find(|p| offered.contains(p))?;
    Some((protocol, derive_accept_key(key.as_bytes())))
}

/// Runs it over the upgraded connection.
pub(super) async fn serve(upgraded: Upgraded, run: Run) {
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let code = match run.command.first().map(String::as_str) {
        Some("sh" | "bash" | "/bin/sh" | "/bin/bash") if run.command.len() == 1 && run.stdin => {
            shell(&mut socket, &run).await
        }
        Some("cat") if run.command.len() == 1 && run.stdin => cat(&mut socket, &run).await,
        _ => {
            let ran = execute(&run.command, &run.pod);
            let _ = say(&mut socket, &run, STDOUT, &ran.stdout).await;
            let _ = say(&mut socket, &run, STDERR, &ran.stderr).await;
            Some(ran.code)
        }
    };
    // none: the caller left
    if let Some(code) = code {
        let status = status_of(code).to_string();
        let _ = send(&mut socket, STATUS, status.as_bytes()).await;
        // kubectl takes any other close for a broken connection; what it still sends is read, or TCP would reset what we sent
        let _ = socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await;
        let _ = tokio::time::timeout(LINGER, async { while let Some(Ok(_)) = socket.next().await {} }).await;
    }
}

/// How Kubernetes says an exit code.
fn status_of(code: i32) -> serde_json::Value {
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

/// The commands that the stand-in knows.
fn execute(command: &[String], pod: &str) -> Ran {
    let out = |text: String| Ran { stdout: format!("{text}\n"), ..Ran::default() };
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    match words[..] {
        ["hostname"] => out(pod.to_owned()),
        ["date"] => out(now()),
        ["whoami"] => out("demo".to_owned()),
        ["uname", ..] => out("Linux (a stand-in: no kernel, no container)".to_owned()),
        ["echo", ref rest @ ..] => out(rest.join(" ")),
        ["true"] | [":"] => Ran::default(),
        ["false"] => Ran { code: 1, ..Ran::default() },
        ["cat", "/etc/hostname"] => out(pod.to_owned()),
        ["ls", ..] => out("app  etc  tmp".to_owned()),
        ["sh" | "bash" | "/bin/sh" | "/bin/bash", "-c", script] => script_of(script, pod),
        [] => Ran { stderr: "no command\n".to_owned(), code: 126, ..Ran::default() },
        [name, ..] => {
            Ran { stderr: format!("{name}: the stand-in has no such command\n"), code: 127, ..Ran::default() }
        }
    }
}

/// A script of commands with `;`, `&&`, `exit N` and a redirection to standard error; a shell it is not.
fn script_of(script: &str, pod: &str) -> Ran {
    let mut all = Ran::default();
    for part in script.split(';') {
        for (i, step) in part.split("&&").enumerate() {
            if i > 0 && all.code != 0 {
                break;
            }
            let (step, to_stderr) = match step.trim().strip_suffix(">&2") {
                Some(step) => (step.trim(), true),
                None => (step.trim(), false),
            };
            if step.is_empty() {
                continue;
            }
            let words: Vec<String> = step.split_whitespace().map(|w| w.trim_matches(['\'', '"']).to_owned()).collect();
            if words[0] == "exit" {
                all.code = words.get(1).map_or(all.code, |n| n.parse().unwrap_or(2)) & 0xff;
                return all;
            }
            let ran = execute(&words, pod);
            if to_stderr {
                all.stderr.push_str(&ran.stdout);
            } else {
                all.stdout.push_str(&ran.stdout);
            }
            all.stderr.push_str(&ran.stderr);
            all.code = ran.code;
        }
    }
    all
}

/// Gives back what comes in.
async fn cat(socket: &mut Socket, run: &Run) -> Option<i32> {
    while let Some(data) = receive(socket).await? {
        if run.tty && data.contains(&4) {
            return Some(0);
        }
        send(socket, STDOUT, &data).await?;
    }
    Some(0)
}

/// Reads lines and runs them; with a terminal it echoes and knows backspace, Ctrl-C and Ctrl-D.
async fn shell(socket: &mut Socket, run: &Run) -> Option<i32> {
    let prompt = format!("{}/{} (stand-in) $ ", run.pod, run.container);
    if run.tty {
        send(socket, STDOUT, prompt.as_bytes()).await?;
    }
    let (mut line, mut code) = (Vec::new(), 0);
    while let Some(data) = receive(socket).await? {
        for byte in data {
            match byte {
                b'\r' | b'\n' => {
                    if run.tty {
                        send(socket, STDOUT, b"\r\n").await?;
                    }
                    let text = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
                    let exits = text.split_whitespace().next() == Some("exit");
                    let ran = script_of(&text, &run.pod);
                    say(socket, run, STDOUT, &ran.stdout).await?;
                    say(socket, run, STDERR, &ran.stderr).await?;
                    if !text.trim().is_empty() {
                        code = ran.code;
                    }
                    if exits {
                        return Some(code);
                    }
                    if run.tty {
                        send(socket, STDOUT, prompt.as_bytes()).await?;
                    }
                }
                3 if run.tty => {
                    line.clear();
                    send(socket, STDOUT, format!("^C\r\n{prompt}").as_bytes()).await?;
                }
                4 if run.tty && line.is_empty() => return Some(code),
                0x7f | 8 if run.tty => {
                    let answer: &[u8] = if line.pop().is_some() { b"\x08 \x08" } else { b"\x07" };
                    send(socket, STDOUT, answer).await?;
                }
                byte if line.len() < LINE_MAX => {
                    line.push(byte);
                    if run.tty && byte >= b' ' {
                        send(socket, STDOUT, &[byte]).await?;
                    }
                }
                _ => {}
            }
        }
    }
    Some(code)
}

/// The next piece of standard input: inner none at its end, outer none when the caller left.
async fn receive(socket: &mut Socket) -> Option<Option<Vec<u8>>> {
    loop {
        let data = match socket.next().await {
            Some(Ok(Message::Binary(data))) => data,
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => continue,
        };
        match data.split_first() {
            Some((&STDIN, data)) => return Some(Some(data.to_vec())),
            Some((&CLOSE, [STDIN])) => return Some(None),
            // a resize, or what the stand-in does not know
            _ => {}
        }
    }
}

/// Text to a channel; a terminal has one channel, and lines that end in carriage return and newline.
async fn say(socket: &mut Socket, run: &Run, channel: u8, text: &str) -> Option<()> {
    if text.is_empty() {
        return Some(());
    }
    if run.tty {
        send(socket, STDOUT, text.replace('\n', "\r\n").as_bytes()).await
    } else {
        send(socket, channel, text.as_bytes()).await
    }
}

async fn send(socket: &mut Socket, channel: u8, data: &[u8]) -> Option<()> {
    let mut message = Vec::with_capacity(1 + data.len());
    message.push(channel);
    message.extend_from_slice(data);
    socket.send(Message::Binary(Bytes::from(message))).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Ran {
        execute(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), "p")
    }

    #[test]
    fn the_few_commands() {
        assert_eq!(run(&["hostname"]).stdout, "p\n");
        assert_eq!(run(&["echo", "a", "b"]).stdout, "a b\n");
        assert_eq!(run(&["sh", "-c", "exit 3"]).code, 3);
        let ran = run(&["sh", "-c", "echo 'a b' >&2; hostname && false && echo no; exit 7; echo no"]);
        assert_eq!(ran, Ran { stdout: "p\n".into(), stderr: "a b\n".into(), code: 7 });
        assert_eq!((run(&["rm", "-rf"]).code, run(&["false"]).code, run(&[]).code), (127, 1, 126));
    }

    #[test]
    fn the_protocol_is_negotiated() {
        let mut headers = HeaderMap::new();
        assert_eq!(negotiate(&headers), None);
        headers.insert(header::SEC_WEBSOCKET_KEY, header::HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            header::HeaderValue::from_static("v4.channel.k8s.io, v5.channel.k8s.io"),
        );
        let expected = Some(("v5.channel.k8s.io", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned()));
        assert_eq!(negotiate(&headers), expected);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static("channel.k8s.io"));
        assert_eq!(negotiate(&headers), None);
    }
}
