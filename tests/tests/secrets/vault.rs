//! What stands in for a Vault: its KV engine's version 2, for one token, as its API documents it. It is no Vault.

use anyhow::Result;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The token that it knows.
pub(crate) const TOKEN: &str = "hvs.of-the-tests-alone";

/// Serves until it is dropped.
pub(crate) struct Vault {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Vault {
    /// With these secrets, each a path with its field `value`.
    pub(crate) async fn start(secrets: BTreeMap<String, String>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, secrets) = (listener.local_addr()?, Arc::new(secrets));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let secrets = secrets.clone();
                tokio::spawn(async move { serve(stream, &secrets).await });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, secrets: &BTreeMap<String, String>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut path, mut token) = (None, String::new());
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                line if path.is_none() => path = line.split_whitespace().nth(1).map(str::to_owned),
                line => {
                    if let Some(("x-vault-token", value)) = line.split_once(": ") {
                        value.clone_into(&mut token);
                    }
                }
            }
        }
        let path = path.unwrap_or_default();
        let found = path.strip_prefix("/v1/secret/data/").and_then(|path| secrets.get(path));
        let (status, body) = match found {
            _ if token != TOKEN => ("403 Forbidden", json!({"errors": ["permission denied"]})),
            Some(value) => ("200 OK", json!({"data": {"data": {"value": value}, "metadata": {"version": 1}}})),
            None => ("404 Not Found", json!({"errors": []})),
        };
        let body = body.to_string();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
    }
}
