//! HTTP CONNECT. The answer is read to its last byte and not one further: the TLS bytes follow.

use crate::config::Proxy;
use base64::Engine as _;
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use std::io::Read as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest answer, bytes.
pub const ANSWER_MAX: usize = 8 * 1024;
/// The longest password file, bytes.
const PASSWORD_MAX: u64 = 4096;
/// How much of the proxy's own words is repeated, characters.
const SHOWN_MAX: usize = 100;

/// A user and a password for the proxy.
#[derive(Debug)]
pub struct Login {
    user: String,
    password: Secret,
}

// === impl Login ===

impl Login {
    /// Reads the password file, anew for each attempt: passwords are changed.
    ///
    /// # Errors
    /// `proxy_failed` where the file cannot be read.
    pub fn load(proxy: &Proxy) -> Result<Option<Self>, Failure> {
        let Some(user) = proxy.user.clone() else { return Ok(None) };
        let mut password = String::new();
        if let Some(path) = &proxy.password_file {
            let unreadable = |what: String| {
                Code::ProxyFailed
                    .on(format!("the proxy's password file {}: {what}", path.display()))
                    .next("Check proxy.password_file in the runner's configuration.")
            };
            let file = std::fs::File::open(path).map_err(|e| unreadable(e.to_string()))?;
            file.take(PASSWORD_MAX + 1).read_to_string(&mut password).map_err(|e| unreadable(e.to_string()))?;
            if password.len() as u64 > PASSWORD_MAX {
                return Err(unreadable(format!("longer than {PASSWORD_MAX} bytes")));
            }
            let end = password.trim_end_matches(['\r', '\n']).len();
            password.truncate(end);
        }
        Ok(Some(Self { user, password: Secret::new(password) }))
    }

    /// A login with that password.
    pub fn new(user: impl Into<String>, password: Secret) -> Self {
        Self { user: user.into(), password }
    }

    /// The user.
    pub fn user(&self) -> &str {
        &self.user
    }
    /// The password.
    pub fn password(&self) -> &Secret {
        &self.password
    }

    fn header(&self) -> Secret {
        let pair = Secret::new(format!("{}:{}", self.user, self.password.expose()));
        Secret::new(base64::engine::general_purpose::STANDARD.encode(pair.expose()))
    }
}

/// Asks the proxy for a connection to `authority` (`host:port`).
///
/// # Errors
/// `proxy_refused` with its status; `proxy_failed` for an answer that is none.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    authority: &str,
    login: Option<&Login>,
) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Code::ProxyFailed.on(format!("CONNECT {authority}: {e}"));
    let login = match login {
        Some(login) => format!("Proxy-Authorization: Basic {}\r\n", login.header().expose()),
        None => String::new(),
    };
    let request = Secret::new(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{login}\r\n"));
    drop(Secret::new(login));
    stream.write_all(request.expose().as_bytes()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    judge(&read_answer(stream, authority).await?, authority)
}

/// Reads up to the empty line, a byte at a time: it is done once for each connection.
async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S, authority: &str) -> Result<Vec<u8>, Failure> {
    let failed = |what: String| Code::ProxyFailed.on(format!("CONNECT {authority}: {what}"));
    let mut answer = Vec::with_capacity(256);
    let mut line = 0;
    loop {
        let mut byte = [0; 1];
        match stream.read(&mut byte).await {
            Ok(0) if answer.is_empty() => return Err(failed("it closed the connection without an answer".into())),
            Ok(0) => return Err(failed("its answer ended early".into())),
            Ok(_) => answer.push(byte[0]),
            Err(e) => return Err(failed(e.to_string())),
        }
        // what is no HTTP at all need not be waited for to its end
        let start = &answer[..answer.len().min(VERSION.len())];
        if !VERSION.starts_with(start) {
            return Err(failed(format!("its answer starts with {:?}, not with HTTP/1.", shown(start))));
        }
        if byte[0] == b'\n' {
            if matches!(&answer[line..], b"\n" | b"\r\n") {
                return Ok(answer);
            }
            line = answer.len();
        }
        if answer.len() >= ANSWER_MAX {
            return Err(failed(format!("its answer is longer than {ANSWER_MAX} bytes")));
        }
    }
}

const VERSION: &[u8] = b"HTTP/1.";

fn judge(answer: &[u8], authority: &str) -> Result<(), Failure> {
    let line = answer.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let malformed = || Code::ProxyFailed.on(format!("CONNECT {authority}: its status line is {:?}", shown(line)));
    let rest = line.strip_prefix(VERSION).ok_or_else(malformed)?;
    let (minor, rest) = rest.split_first().ok_or_else(malformed)?;
    let rest = rest.strip_prefix(b" ").filter(|_| minor.is_ascii_digit()).ok_or_else(malformed)?;
    let (code, reason) = rest.split_at_checked(3).ok_or_else(malformed)?;
    if !code.iter().all(u8::is_ascii_digit) || !matches!(reason.first(), None | Some(b' ')) {
        return Err(malformed());
    }
    match code[0] {
        b'2' => Ok(()),
        b'3'..=b'5' => {
            let refused = Code::ProxyRefused.on(format!("CONNECT {authority}: {}", shown(&line[9..])));
            Err(match code {
                b"407" => refused
                    .next("Set proxy.user and proxy.password_file in the runner's configuration, or correct them."),
                _ => refused,
            })
        }
        _ => Err(malformed()),
    }
}

/// The proxy's words as they may stand in a log line.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(SHOWN_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    /// Answers one CONNECT with these bytes; what the request was, how we judged it, and what of `answer` was left for TLS.
    async fn ask(answer: Vec<u8>, login: Option<Login>) -> (String, Result<(), Failure>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("accepts");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(socket.read_u8().await.expect("reads"));
            }
            let _ = socket.write_all(&answer).await;
            let _ = socket.shutdown().await;
            String::from_utf8(request).expect("ascii")
        });
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let verdict = connect(&mut stream, "cp.example:443", login.as_ref()).await;
        let mut rest = Vec::new();
        if verdict.is_ok() {
            stream.read_to_end(&mut rest).await.expect("reads");
        }
        drop(stream);
        (server.await.expect("ends"), verdict, rest)
    }

    #[tokio::test]
    async fn good_and_bad_answers() {
        use Code::{ProxyFailed, ProxyRefused};
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(ANSWER_MAX));
        let endless = format!("HTTP/1.1 200 {}", "x".repeat(2 * ANSWER_MAX));
        let just_fits = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(ANSWER_MAX - 25));
        let cases: &[(&[u8], Option<Code>)] = &[
            (b"HTTP/1.1 200 Connection established\r\n\r\n", None),
            (b"HTTP/1.0 200 OK\r\nVia: x\r\nProxy-Agent: y\r\n\r\n", None),
            (b"HTTP/1.1 200\r\n\r\n", None),
            (b"HTTP/1.1 204 No Content\r\n\r\n", None),
            (b"HTTP/1.1 200 OK\n\n", None),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", None),
            (just_fits.as_bytes(), None),
            (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", Some(ProxyRefused)),
            (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nforbidden", Some(ProxyRefused)),
            (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", Some(ProxyRefused)),
            (b"HTTP/1.1 302 Found\r\nLocation: http://login\r\n\r\n", Some(ProxyRefused)),
            (b"HTTP/1.1 503 \x1b[31mred\r\n\r\n", Some(ProxyRefused)),
            (b"", Some(ProxyFailed)),
            (b"HTTP/1.1 200 OK\r\n", Some(ProxyFailed)),
            (b"HTTP/1.1 200 OK\r\nX: y", Some(ProxyFailed)),
            (b"HTTP/1.1 20", Some(ProxyFailed)),
            (b"HTTP/1.1 2000 OK\r\n\r\n", Some(ProxyFailed)),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Some(ProxyFailed)),
            (b"HTTP/1.1 abc OK\r\n\r\n", Some(ProxyFailed)),
            (b"HTTP/1.1\r\n\r\n", Some(ProxyFailed)),
            (b"HTTP/2 200\r\n\r\n", Some(ProxyFailed)),
            (b"HTTP/1.x 200 OK\r\n\r\n", Some(ProxyFailed)),
            (b"SSH-2.0-OpenSSH_9\r\n\r\n", Some(ProxyFailed)),
            (b"\x15\x03\x01\x00\x02\x02\x46", Some(ProxyFailed)),
            (b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Some(ProxyFailed)),
            (long.as_bytes(), Some(ProxyFailed)),
            (endless.as_bytes(), Some(ProxyFailed)),
        ];
        for (answer, expected) in cases {
            let (request, verdict, rest) = ask(answer.to_vec(), None).await;
            let name = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
            assert_eq!(request, "CONNECT cp.example:443 HTTP/1.1\r\nHost: cp.example:443\r\n\r\n");
            if let Err(failure) = &verdict {
                assert!(!failure.message.chars().any(char::is_control), "{name:?}: {failure}");
            }
            assert_eq!(verdict.err().map(|f| f.code), *expected, "{name:?}");
            assert!(rest.is_empty(), "{name:?}");
        }
    }

    #[tokio::test]
    async fn the_bytes_after_the_answer_are_not_touched() {
        let (_, verdict, rest) = ask(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n\x16\x03\x01tls".to_vec(), None).await;
        assert_eq!((verdict, &rest[..]), (Ok(()), &b"\x16\x03\x01tls"[..]));
    }

    #[tokio::test]
    async fn a_login_is_sent_and_never_shown() {
        let login = Login::new("user", Secret::new("pa:ss"));
        assert!(!format!("{login:?}").contains("pa:ss"));
        let (request, verdict, _) = ask(b"HTTP/1.1 407 no\r\n\r\n".to_vec(), Some(login)).await;
        assert!(request.contains("\r\nProxy-Authorization: Basic dXNlcjpwYTpzcw==\r\n"), "{request}");
        let failure = verdict.expect_err("refused");
        assert!(!failure.to_string().contains("dXNlcjp") && failure.next_step.contains("proxy.user"), "{failure}");
    }
}
