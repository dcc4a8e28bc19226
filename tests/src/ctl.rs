//! `runnerctl` as a person runs it.

use crate::control_plane::{ControlPlane, User, shown};
use crate::process::{Ended, Process, Program};
use crate::scratch::Scratch;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The command line of one user, with a home of its own.
pub struct Ctl {
    home: Scratch,
    endpoint: String,
    ca: PathBuf,
    token: PathBuf,
}

impl Ctl {
    /// For a user of a control plane, by environment: no login is needed.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(control_plane: &ControlPlane, user: &User) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let home = Scratch::new("home")?;
        let token = home.write("token", user.token())?;
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            home,
            endpoint: format!("https://{}", control_plane.api()),
            ca: control_plane.data().join("ca.pem"),
            token,
        })
    }
    /// Its home.
    pub fn home(&self) -> &Path {
        self.home.path()
    }
    /// The program with its environment and these arguments.
    ///
    /// # Errors
    /// It was not built.
    pub fn program(&self, arguments: &[&str]) -> Result<Program> {
        Ok(Program::own("runnerctl")?
            .named(format!("runnerctl {}", arguments.join(" ")))
            .args(arguments.iter().copied())
            .folder(self.home.path())
            .env("HOME", shown(self.home.path()))
            .env("XDG_CONFIG_HOME", shown(&self.home.join("config")))
            .env("RUNNERCTL_ENDPOINT", self.endpoint.clone())
            .env("RUNNERCTL_CA_FILE", shown(&self.ca))
            .env("RUNNERCTL_TOKEN_FILE", shown(&self.token)))
    }
    /// Starts it.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self, arguments: &[&str]) -> Result<Process> {
        self.program(arguments)?.start()
    }
    /// Runs it to its end.
    ///
    /// # Errors
    /// It does not start or does not end.
    pub async fn run(&self, arguments: &[&str]) -> Result<Ended> {
        self.program(arguments)?.run(Duration::from_secs(120)).await
    }
    /// Runs it and gives what it printed, where it ended well.
    ///
    /// # Errors
    /// It did not.
    pub async fn text(&self, arguments: &[&str]) -> Result<String> {
        self.run(arguments).await?.success().with_context(|| format!("runnerctl {}", arguments.join(" ")))
    }
    /// Runs it with `-o json` and gives what it printed, where it ended well.
    ///
    /// # Errors
    /// It did not.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        // before a `--`, after which everything is the remote command's
        let at = all.iter().position(|a| *a == "--").unwrap_or(all.len());
        all.splice(at..at, ["-o", "json"]);
        let text = self.text(&all).await?;
        serde_json::from_str(&text).with_context(|| format!("runnerctl {}: {text}", all.join(" ")))
    }
}
