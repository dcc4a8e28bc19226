//! A PostgreSQL server with nothing in it: one of the places where engines keep states.

use crate::cluster::free_port;
use crate::process::{Process, Program};
use crate::scratch::Scratch;
use crate::tools;
use anyhow::{Context as _, Result};
use std::time::Duration;

const READY: Duration = Duration::from_secs(60);
/// It refuses to be root's.
const NOBODY: [&str; 5] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];

/// A running server, which lets in whoever comes by loopback.
pub struct Postgres {
    _process: Process,
    _folder: Scratch,
    port: u16,
}

impl Postgres {
    /// Starts one.
    ///
    /// # Errors
    /// It is not here, or does not start.
    pub async fn start() -> Result<Self> {
        let folder = Scratch::new("postgres")?;
        let shown = folder.path().display().to_string();
        let root = nix::unistd::geteuid().is_root();
        if root {
            Program::new("chown").args(["65534:65534", &shown]).run(READY).await?.success()?;
        }
        let program = |name: &str| -> Result<Program> {
            let path = tools::postgres(name).with_context(|| format!("{name} is not here: run tests/tools/install"))?;
            let under = NOBODY.into_iter().filter(|_| root);
            Ok(Program::new(path).under(under).folder(folder.path()).env("LC_ALL", "C"))
        };
        let data = folder.join("data").display().to_string();
        program("initdb")?
            .args(["--pgdata", &data, "--username=tests", "--auth=trust", "--no-sync", "--encoding=UTF8"])
            .run(READY)
            .await?
            .success()?;
        let port = free_port()?;
        let process = program("postgres")?
            .args(["-D", &data, "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            // the data go with the test: nothing is gained by waiting for the disk
            .args(["-c", "unix_socket_directories=", "-c", "fsync=off"])
            .start()?;
        process.ready(READY, "PostgreSQL serves", |l| l.contains("ready to accept connections")).await?;
        Ok(Self { _process: process, _folder: folder, port })
    }
    /// As engines name it.
    pub fn url(&self) -> String {
        format!("postgres://tests@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }
    /// What a connection's entry names as its address, so that jobs reach it.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}
