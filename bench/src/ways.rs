//! The three ways from a caller to a service: a plain TCP connection, `ssh -R`, and an operation through control plane, tunnel,
//! supervisor and worker. Each may have a wire of some length in it, at the same place: between the two sites.

use crate::service::{Kind, Services};
use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use runner_bench::serve;
use runner_bench::ssh::{Forward, wire};
use runner_control_plane::operations::{Operation, Output};
use runner_control_plane::sessions::Sessions;
use runner_tests::runner::Setup;
use runner_tests::{ControlPlane, Cutter, Runner};
use shared_proto::v1;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// What a socket is read with, bytes.
const BUFFER: usize = 256 * 1024;

/// A caller's end.
pub(crate) enum Caller {
    /// Of a socket.
    Socket(TcpStream, Vec<u8>),
    /// Of an operation.
    Operation(Box<Operation>),
}

/// A plain connection, through a wire.
pub(crate) struct Raw {
    services: Services,
    wires: Option<[Cutter; 3]>,
}

/// `ssh -R` between an sshd and a client of the benchmark's own.
pub(crate) struct Ssh(Forward);

/// The product: the control plane in this process, the runner a real one.
pub(crate) struct Ours {
    sessions: Sessions,
    services: Services,
    organization: String,
    runner_id: String,
    /// The runner's processes.
    pub(crate) runner: Runner,
    stop: CancellationToken,
    _wire: Option<Cutter>,
    _data: ControlPlane,
}

const KINDS: [Kind; 3] = [Kind::Source, Kind::Echo, Kind::Hello];

fn index(kind: Kind) -> usize {
    match kind {
        Kind::Source => 0,
        Kind::Echo => 1,
        Kind::Hello => 2,
    }
}

// === impl Caller ===

impl Caller {
    async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Socket(stream, vec![0; BUFFER]))
    }
    /// Waits for bytes, and says how many came.
    pub(crate) async fn next(&mut self) -> Result<usize> {
        match self {
            Self::Socket(stream, buffer) => match stream.read(buffer).await? {
                0 => bail!("the stream ended"),
                n => Ok(n),
            },
            Self::Operation(operation) => match operation.next().await {
                Output::Data(bytes) => Ok(bytes.len()),
                Output::Head(_) => bail!("a head came unasked"),
                Output::Stderr(bytes) => bail!("{}", String::from_utf8_lossy(&bytes)),
                Output::Outcome(outcome) => bail!("the operation ended: {} {}", outcome.code, outcome.message),
            },
        }
    }
    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: &'static [u8]) -> Result<()> {
        match self {
            Self::Socket(stream, _) => Ok(stream.write_all(bytes).await?),
            Self::Operation(operation) => {
                ensure!(operation.input().stdin(Bytes::from_static(bytes)).await.is_ok(), "the operation ended");
                Ok(())
            }
        }
    }
}

// === impl Raw ===

impl Raw {
    pub(crate) async fn new(services: Services, delay: Duration) -> Result<Self> {
        let wires = if delay.is_zero() {
            None
        } else {
            let to = |kind| Cutter::with_delay(services.address(kind), delay);
            Some([to(KINDS[0]).await?, to(KINDS[1]).await?, to(KINDS[2]).await?])
        };
        Ok(Self { services, wires })
    }
    pub(crate) async fn open(&self, kind: Kind) -> Result<Caller> {
        let direct = self.services.address(kind);
        Caller::connect(self.wires.as_ref().map_or(direct, |w| w[index(kind)].address())).await
    }
}

// === impl Ssh ===

impl Ssh {
    pub(crate) async fn new(services: Services, delay: Duration) -> Result<Self> {
        let targets = KINDS.map(|kind| services.address(kind));
        Ok(Self(Forward::start(&targets, delay).await?))
    }
    pub(crate) async fn open(&self, kind: Kind) -> Result<Caller> {
        Caller::connect(self.0.addresses[index(kind)]).await
    }
}

// === impl Ours ===

impl Ours {
    /// Registers a runner with a control plane's program, takes that one's data over into this process, and starts the runner
    /// with the benchmark's worker.
    pub(crate) async fn new(services: Services, delay: Duration) -> Result<Self> {
        let mut data = ControlPlane::start().await?;
        let runner_id = data.admin().register("bench").await?;
        let organization = data.admin().organization.clone();
        let credentials = data.admin().credentials(&runner_id).await?;
        data.stop().await?;

        let stop = CancellationToken::new();
        let (sessions, address) = serve(&data.data(), stop.clone()).await?;
        let wire = wire(address, delay).await?;
        let worker = runner_tests::tools::binary("bench-worker")?;
        let mut setup = Setup::new()?
            .credentials(credentials)
            .endpoint(wire.as_ref().map_or(address, Cutter::address))
            .table("workers", &format!("ops = {:?}", worker.display().to_string()));
        // a worker is connected to its connection's target only: each service is one
        for kind in KINDS {
            setup = setup.kubernetes(&connection(services, kind), "apiVersion: v1\nkind: Config\n")?;
        }
        let runner = setup.start_as(data.admin(), &runner_id).await?;
        Ok(Self { sessions, services, organization, runner_id, runner, stop, _wire: wire, _data: data })
    }

    pub(crate) async fn open(&self, kind: Kind) -> Result<Caller> {
        let request = self.request(kind);
        let operation = self.sessions.run(&self.organization, &self.runner_id, request).await?;
        Ok(Caller::Operation(Box::new(operation)))
    }

    /// What an operation to a service says.
    pub(crate) fn request(&self, kind: Kind) -> v1::OperationRequest {
        let exec = v1::K8sExec {
            namespace: "default".into(),
            pod: "bench".into(),
            container: "bench".into(),
            command: vec!["tcp".into(), self.services.address(kind).to_string()],
            stdin: true,
            ..Default::default()
        };
        v1::OperationRequest {
            operation_id: format!("bench-{}", shared_proto::now_ms()),
            organization_id: self.organization.clone(),
            caller: Some(v1::Caller { user_id: "bench".into(), user_name: "bench".into(), ..Default::default() }),
            connection: connection(self.services, kind),
            what: Some(v1::operation_request::What::K8sExec(exec)),
            ..Default::default()
        }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The connection to a service: the worker reads its port from the name.
fn connection(services: Services, kind: Kind) -> String {
    format!("port-{}", services.address(kind).port())
}
