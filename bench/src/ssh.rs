//! `ssh -R` between an sshd and a client of the benchmark's own: what the tunnel is compared with.

use anyhow::{Context as _, Result};
use runner_tests::cluster::free_port;
use runner_tests::process::Program;
use runner_tests::{Cutter, Process, Scratch, eventually};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

const READY: Duration = Duration::from_secs(30);

/// Addresses that lead to others through ssh.
#[derive(Debug)]
pub struct Forward {
    /// One for each target, in their order.
    pub addresses: Vec<SocketAddr>,
    // dropped in this order
    _client: Process,
    _server: Process,
    _wire: Option<Cutter>,
    _folder: Scratch,
}

/// Something between two ends that takes so long each way; nothing where that is no time.
///
/// # Errors
/// There is no port for it.
pub async fn wire(target: SocketAddr, delay: Duration) -> Result<Option<Cutter>> {
    if delay.is_zero() { Ok(None) } else { Ok(Some(Cutter::with_delay(target, delay).await?)) }
}

// === impl Forward ===

impl Forward {
    /// Starts both ends with keys of their own, and waits until every address of ours leads to its target.
    ///
    /// # Errors
    /// One of the programs is not here, or does not start.
    pub async fn start(targets: &[SocketAddr], delay: Duration) -> Result<Self> {
        let folder = Scratch::new("ssh")?;
        for key in ["host", "user"] {
            let path = folder.join(key).display().to_string();
            let arguments = ["-q", "-t", "ed25519", "-N", "", "-f", path.as_str()];
            Program::component("ssh-keygen")?.args(arguments).run(READY).await?.success()?;
        }
        let public = std::fs::read_to_string(folder.join("user.pub"))?;
        let authorized = folder.write("authorized_keys", public)?;
        if nix::unistd::geteuid().is_root() {
            // where sshd puts its unprivileged half
            std::fs::create_dir_all("/run/sshd")?;
        }
        let port = free_port()?;
        let config = folder.write(
            "sshd_config",
            format!(
                "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
                 PasswordAuthentication no\nPermitRootLogin prohibit-password\nAllowTcpForwarding yes\nPidFile none\n\
                 MaxSessions 200\nMaxStartups 200\n",
                folder.join("host").display(),
                authorized.display()
            ),
        )?;
        let server = Program::component("sshd")?.args(["-D", "-e", "-f", &config.display().to_string()]).start()?;
        server.ready(READY, "sshd listens", |l| l.contains("Server listening")).await?;
        let server_address = SocketAddr::from(([127, 0, 0, 1], port));
        let wire = wire(server_address, delay).await?;
        let dial = wire.as_ref().map_or(server_address, Cutter::address);
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.context("this user has a name")?.name;
        let addresses = targets
            .iter()
            .map(|_| Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?))))
            .collect::<Result<Vec<SocketAddr>>>()?;
        let mut client = Program::component("ssh")?
            .args(["-N", "-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "ExitOnForwardFailure=yes", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-i"])
            .arg(folder.join("user").display().to_string());
        for (target, address) in targets.iter().zip(&addresses) {
            client = client.args(["-R", &format!("{address}:{target}")]);
        }
        let client = client.args(["-p", &dial.port().to_string(), "-l", &user, &dial.ip().to_string()]).start()?;
        let listening = eventually(READY, "ssh -R to listen", || async {
            let Some(last) = addresses.last() else { return Ok(Some(())) };
            Ok(TcpStream::connect(last).await.ok().map(drop))
        });
        client.unless_ended(listening).await?;
        Ok(Self { addresses, _client: client, _server: server, _wire: wire, _folder: folder })
    }
}
