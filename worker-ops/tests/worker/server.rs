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
    pub(crate) fn header(&self, name: &str) -> &str {
        let named = |h: &&String| h.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.headers.iter().find(named).and_then(|h| h.split_once(':')).map(|(_, v)| v.trim()).unwrap_or_default()
    }
}

// === impl Answer ===

impl From<(u16, String)> for Answer {
    fn from((status, body): (u16, String)) -> Self {
        Self { status, headers: Vec::new(), body }
    }
}

// === impl Server ===

impl Server {
    pub(crate) async fn start<A: Into<Answer>>(
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
                tokio::spawn(async move { serve(stream, &*answer, &all).await });
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
        let Answer { status, headers, body } = answer(&asked, before);
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("HTTP/1.1 {status} X\r\n{TTL}{headers}Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(body.as_bytes()).await.ok()?;
    }
}
