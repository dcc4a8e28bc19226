//! A small web server for what engines fetch and keep by HTTP: the files of a folder (modules, repositories by Git's plain protocol), and states
//! by the protocol of the engines' HTTP backend: <https://opentofu.org/docs/language/settings/backends/http/>.

use crate::scratch::Scratch;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The longest head of a request, bytes.
const HEAD_MAX: u64 = 16 * 1024;
/// The longest body, bytes.
const BODY_MAX: usize = 16 * 1024 * 1024;

/// A running server.
pub struct Web {
    address: SocketAddr,
    folder: Scratch,
}

/// What it keeps, by name.
type States = Mutex<BTreeMap<String, State>>;

#[derive(Debug, Default)]
struct State {
    content: Option<Vec<u8>>,
    /// What its holder says of the lock.
    lock: Option<Vec<u8>>,
}

impl Web {
    /// Starts one.
    ///
    /// # Errors
    /// The system's.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let folder = Scratch::new("web")?;
        let (root, states) = (folder.path().to_owned(), Arc::<States>::default());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (root, states) = (root.clone(), Arc::clone(&states));
                // whoever breaks off has what it wanted
                tokio::spawn(async move { serve(stream, &root, &states).await });
            }
        });
        Ok(Self { address, folder })
    }
    /// Its address. Below it `/states/NAME` is a state, `/forbidden` nobody's, and anything else a file of the folder.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
    /// The folder whose files it gives.
    pub fn folder(&self) -> &Scratch {
        &self.folder
    }
}

/// One request, after which the connection is closed.
async fn serve(stream: TcpStream, root: &Path, states: &States) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    let mut limited = (&mut stream).take(HEAD_MAX);
    loop {
        let start = head.len();
        ensure!(limited.read_line(&mut head).await? > 0, "a head without an end");
        if head[start..].trim().is_empty() {
            break;
        }
    }
    let mut words = head.split_whitespace();
    let (method, target) = words.next().zip(words.next()).context("a request")?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = head.lines().filter_map(|line| line.split_once(':'));
    let mut length = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.next().map_or(Ok(0), |(_, value)| value.trim().parse())?;
    ensure!(length <= BODY_MAX, "a body of {length} bytes");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let (status, content) = match path.strip_prefix("/states/") {
        Some(name) => {
            let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
            states.entry(name.to_owned()).or_default().answer(method, query, body)
        }
        None if path.starts_with("/forbidden") => ("403 Forbidden", Vec::new()),
        None => match file(root, path) {
            Some(content) => ("200 OK", content),
            None => ("404 Not Found", Vec::new()),
        },
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
    let mut stream = stream.into_inner();
    stream.write_all(head.as_bytes()).await?;
    Ok(stream.write_all(&content).await?)
}

fn file(root: &Path, path: &str) -> Option<Vec<u8>> {
    let path = Path::new(path.trim_start_matches('/'));
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    std::fs::read(root.join(path)).ok().filter(|_| inside)
}

// === impl State ===

impl State {
    fn answer(&mut self, method: &str, query: &str, body: Vec<u8>) -> (&'static str, Vec<u8>) {
        let done = ("200 OK", Vec::new());
        match method {
            "GET" => self.content.clone().map_or(("404 Not Found", Vec::new()), |content| ("200 OK", content)),
            "LOCK" | "POST" if self.is_held_by_another(method, query) => {
                ("423 Locked", self.lock.clone().unwrap_or_default())
            }
            "LOCK" => {
                self.lock = Some(body);
                done
            }
            "UNLOCK" => {
                self.lock = None;
                done
            }
            "POST" => {
                self.content = Some(body);
                done
            }
            "DELETE" => {
                self.content = None;
                done
            }
            _ => ("405 Method Not Allowed", Vec::new()),
        }
    }

    fn is_held_by_another(&self, method: &str, query: &str) -> bool {
        let Some(lock) = &self.lock else { return false };
        let holder: Value = serde_json::from_slice(lock).unwrap_or_default();
        let named = query.split('&').find_map(|pair| pair.strip_prefix("ID="));
        method == "LOCK" || named.is_none() || named != holder["ID"].as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_state_is_its_holders() {
        let mut state = State::default();
        assert_eq!(state.answer("GET", "", Vec::new()).0, "404 Not Found");
        assert_eq!(state.answer("LOCK", "", br#"{"ID":"one"}"#.to_vec()).0, "200 OK");
        for (method, query) in [("LOCK", ""), ("POST", ""), ("POST", "ID=two")] {
            let (status, said) = state.answer(method, query, b"x".to_vec());
            assert_eq!((status, said.as_slice()), ("423 Locked", br#"{"ID":"one"}"#.as_slice()), "{method} {query}");
        }
        assert_eq!(state.answer("POST", "ID=one", b"kept".to_vec()).0, "200 OK");
        assert_eq!(state.answer("UNLOCK", "", Vec::new()).0, "200 OK");
        assert_eq!(state.answer("GET", "", Vec::new()), ("200 OK", b"kept".to_vec()));
    }

    #[test]
    fn no_file_outside_is_given() {
        let folder = Scratch::new("files").expect("a folder");
        folder.write("inside/a", "here").expect("writes");
        folder.write("b", "there").expect("writes");
        assert_eq!(file(&folder.join("inside"), "/a").as_deref(), Some(b"here".as_slice()));
        for path in ["/../b", "/c", "/", "/./../b"] {
            assert_eq!(file(&folder.join("inside"), path), None, "{path}");
        }
    }
}
