//! A small HTTP server that answers as it is told: for the services that have no stand-in of their own.

use anyhow::Result;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What an instance's metadata service says beside its token.
const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n";

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

/// A status, headers and a body.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

/// Serves until it is dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

// === impl Asked ===

impl Asked {
    /// The method, the path, and the pairs of the query, decoded.
    pub(crate) fn parts(&self) -> (String, String, Vec<(String, String)>) {
        let mut words = self.line.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        (method.to_owned(), path.to_owned(), pairs(query))
    }
    pub(crate) fn header(&self, name: &str) -> &str {
        let named = |h: &&String| h.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.headers.iter().find(named).and_then(|h| h.split_once(':')).map(|(_, v)| v.trim()).unwrap_or_default()
    }
}

/// Of an answer without headers of its own: status and body.
pub(crate) type Plain = (u16, String);

// === impl Answer ===

impl From<(u16, String)> for Answer {
    fn from((status, body): (u16, String)) -> Self {
        Self { status, headers: Vec::new(), body }
    }
}

/// A query, or a form.
pub(crate) fn pairs(text: &str) -> Vec<(String, String)> {
    let decode = |t: &str| {
        let (mut out, mut bytes) = (Vec::new(), t.bytes());
        while let Some(byte) = bytes.next() {
            out.push(match byte {
                b'%' => {
                    let digits =
                        [bytes.next(), bytes.next()].map(|d| d.and_then(|d| char::from(d).to_digit(16)).unwrap_or(0));
                    (digits[0] * 16 + digits[1]) as u8
                }
                b'+' => b' ',
                other => other,
            });
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let whole = text.split('&').filter(|pair| !pair.is_empty());
    whole.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect()
}

// === impl Server ===

impl Server {
    pub(crate) async fn start<A: Into<Answer>>(
        answer: impl Fn(&Asked, usize) -> A + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::with(TTL, answer).await
    }

    /// One whose answers all have these headers, each with the end of a line behind it.
    pub(crate) async fn with<A: Into<Answer>>(
        headers: &'static str,
        answer: impl Fn(&Asked, usize) -> A + Send + Sync + 'static,
    ) -> Result<Self> {
        let answer = move |asked: &Asked, before: usize| -> Answer { answer(asked, before).into() };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (answer, asked) = (Arc::new(answer), Arc::new(Mutex::new(Vec::new())));
        let all = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, all) = (Arc::clone(&answer), Arc::clone(&all));
                tokio::spawn(async move { serve(stream, headers, &*answer, &all).await });
            }
        });
        Ok(Self { url, asked, task })
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers the requests of one connection; the second argument of `answer` is how many came before on all of them.
async fn serve(
    stream: TcpStream,
    headers: &str,
    answer: &(impl Fn(&Asked, usize) -> Answer + ?Sized),
    all: &Mutex<Vec<Asked>>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut asked = Asked::default();
        if stream.read_line(&mut asked.line).await.ok()? == 0 {
            return None;
        }
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).await.ok()?;
            if header.trim().is_empty() {
                break;
            }
            asked.headers.push(header.trim().to_owned());
        }
        let mut body = vec![0; asked.header("content-length").parse().unwrap_or(0)];
        stream.read_exact(&mut body).await.ok()?;
        asked.body = String::from_utf8_lossy(&body).into_owned();
        let before = {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(asked.clone());
            all.len() - 1
        };
        let Answer { status, headers: own, body } = answer(&asked, before);
        let own: String = own.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        // in one piece: a second one would wait until the first was acknowledged
        let whole = format!("HTTP/1.1 {status} X\r\n{headers}{own}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(whole.as_bytes()).await.ok()?;
    }
}
