//! A Kubernetes of real parts: etcd, kube-apiserver, and kwok in the place of nodes and containers. Logs come from files that the
//! tests write, exec runs on this machine in a folder of the tests' own.
//!
//! Objects are made and read by plain HTTPS calls: what the runner gives is compared with those.

use crate::https::{Answer, Client};
use crate::process::{Process, Program};
use crate::scratch::Scratch;
use crate::wait::eventually;
use crate::{pki, tools};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The token of an administrator.
pub const ADMIN: &str = "admin-token-0123456789";
/// The token of a user who may only look at pods in the namespace `seen`.
pub const RESTRICTED: &str = "restricted-token-0123456789";
/// That user's name.
pub const RESTRICTED_USER: &str = "restricted";

/// The start of each part.
const READY: Duration = Duration::from_secs(90);

/// Of what is sent at a rate, at once.
const PIECE: usize = 64 * 1024;

/// A running cluster.
pub struct Cluster {
    // dropped in this order: kwok would complain about a missing API server
    controllers: Option<Process>,
    kwok: Process,
    api_server: Option<Process>,
    /// It, to be started again.
    api_program: Program,
    _etcd: Process,
    folder: Scratch,
    client: Client,
    address: SocketAddr,
    ca: String,
}

/// Where the lines of a pod come from.
#[derive(Debug, Clone)]
pub struct LogSource {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Its containers, each with lines of its own.
    pub containers: Vec<String>,
}

/// Ports that no system gives to whoever asks for any: what is free there stays free until somebody asks for that very one.
const OWN_PORTS: std::ops::Range<u16> = 12_000..32_000;
/// Ports that may be taken before one is free.
const PORTS_TRIED: usize = 1000;

/// A port that is free at this moment, and that no outgoing connection takes meanwhile.
///
/// # Errors
/// None is free; the system's.
pub fn free_port() -> Result<u16> {
    for _ in 0..PORTS_TRIED {
        let mut random = [0; 2];
        getrandom::fill(&mut random)?;
        let port = OWN_PORTS.start + u16::from_le_bytes(random) % (OWN_PORTS.end - OWN_PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("{PORTS_TRIED} ports of {OWN_PORTS:?} are taken")
}

impl LogSource {
    /// Of a pod in a namespace.
    pub fn new(namespace: &str, pod: &str, containers: &[&str]) -> Self {
        let containers = containers.iter().map(|c| (*c).to_owned()).collect();
        Self { namespace: namespace.into(), pod: pod.into(), containers }
    }
}

impl Cluster {
    /// Starts one whose pods all share one log.
    ///
    /// # Errors
    /// A part does not start.
    pub async fn start() -> Result<Self> {
        Self::with_logs(&[]).await
    }

    /// Starts one in which those pods have logs of their own, one file a container (kwok reads its rules once, at its start).
    ///
    /// # Errors
    /// A part does not start.
    pub async fn with_logs(sources: &[LogSource]) -> Result<Self> {
        let folder = Scratch::new("cluster")?;
        let etcd = start_etcd(&folder).await?;
        let (api_program, address) = api_server(&folder, etcd.1)?;
        let api_server = api_program.clone().start()?;
        let ca = certificate(&folder, &api_server).await?;
        let client = Client::new(address, &ca)?.with_token(ADMIN);
        is_ready(&client, &api_server).await?;
        let kwok = start_kwok(&folder, address, sources).await?;
        let cluster = Self {
            controllers: None,
            kwok,
            api_server: Some(api_server),
            api_program,
            _etcd: etcd.0,
            folder,
            client,
            address,
            ca,
        };
        cluster.node("node-1").await?;
        cluster.grant_restricted().await?;
        Ok(cluster)
    }

    /// Starts the controllers that make replica sets of deployments, pods of replica sets, and clear namespaces.
    ///
    /// # Errors
    /// It does not start.
    pub async fn controllers(&mut self) -> Result<()> {
        let kubeconfig = self.folder.write("controllers.kubeconfig", self.kubeconfig(self.address, ADMIN))?;
        let port = free_port()?;
        let controllers = Program::component("kube-controller-manager")?
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .args([
                "--controllers=deployment,replicaset,namespace,garbagecollector,job,disruption",
                "--leader-elect=false",
            ])
            .args(["--bind-address=127.0.0.1", "--concurrent-gc-syncs=2"])
            .arg(format!("--secure-port={port}"))
            .arg(format!("--cert-dir={}", self.folder.join("controllers").display()))
            .start()?;
        controllers.ready(READY, "the controllers run", |l| l.contains("Proceeding to collect garbage")).await?;
        self.controllers = Some(controllers);
        Ok(())
    }

    /// Kills the API server; what it was told is in etcd.
    pub fn kill_api_server(&mut self) {
        self.client.forget_connections();
        if let Some(process) = self.api_server.take() {
            process.end();
        }
    }
    /// Starts it again, at its address and with its certificate.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_api_server_again(&mut self) -> Result<()> {
        self.kill_api_server();
        let process = self.api_program.clone().start()?;
        is_ready(&self.client, &process).await?;
        self.api_server = Some(process);
        Ok(())
    }

    /// Plain calls as the administrator.
    pub fn client(&self) -> &Client {
        &self.client
    }
    /// Where the API server is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// By which the API server is known, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }
    /// The folder in which exec runs its commands.
    pub fn work_folder(&self) -> PathBuf {
        self.folder.join("work")
    }
    /// What the API server's own audit log says of pods, a JSON object each.
    ///
    /// # Errors
    /// The file system's.
    pub fn audit_log(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.folder.join("audit.log")).unwrap_or_default();
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
    /// kwok itself, whose children are the commands that exec runs.
    pub fn kwok(&self) -> &Process {
        &self.kwok
    }

    /// A kubeconfig with a token in it, for the API server at an address (a wire's, or its own).
    pub fn kubeconfig(&self, address: SocketAddr, token: &str) -> String {
        let ca = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &self.ca);
        kubeconfig(address, &ca, &format!("token: {token}"))
    }
    /// A kubeconfig whose user is described by those lines of YAML.
    pub fn kubeconfig_with_user(&self, user: &str) -> String {
        let ca = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &self.ca);
        kubeconfig(self.address, &ca, user)
    }

    /// Makes an object.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let answer = self.client.post(path, object).await?;
        ensure!(answer.status.is_success(), "creating at {path}: {} {}", answer.status, answer.text());
        answer.json()
    }
    /// Reads one.
    ///
    /// # Errors
    /// There is none.
    pub async fn read(&self, path: &str) -> Result<Value> {
        self.client.get(path).await?.ok()
    }
    /// Changes the status of one by a merge patch.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn patch_status(&self, path: &str, status: &Value) -> Result<()> {
        let headers = [("content-type", "application/merge-patch+json")];
        let body = json!({ "status": status }).to_string();
        let answer: Answer =
            self.client.request(Method::PATCH, &format!("{path}/status"), &headers, Bytes::from(body)).await?;
        answer.ok().map(|_| ())
    }

    /// Makes a node that kwok plays.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn node(&self, name: &str) -> Result<()> {
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "annotations": { "kwok.x-k8s.io/node": "fake" }, "labels": { "kubernetes.io/hostname": name } },
        });
        self.create("/api/v1/nodes", &object).await?;
        let path = format!("/api/v1/nodes/{name}");
        eventually(READY, "the node to be ready", || async {
            let node = self.read(&path).await?;
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            Ok(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True").then_some(()))
        })
        .await
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        self.create("/api/v1/namespaces", &object).await.map(|_| ())
    }

    /// Makes a pod without waiting for it.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn create_pod(&self, namespace: &str, name: &str, containers: &[&str], labels: &Value) -> Result<()> {
        let containers: Vec<_> = containers.iter().map(|c| json!({ "name": c, "image": "stand-in:1" })).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "labels": labels },
            "spec": { "nodeName": "node-1", "containers": containers },
        });
        self.create(&format!("/api/v1/namespaces/{namespace}/pods"), &object).await.map(|_| ())
    }

    /// Waits until a pod runs.
    ///
    /// # Errors
    /// It does not.
    pub async fn running(&self, namespace: &str, name: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        eventually(READY, &format!("pod {name} to run"), || async {
            Ok((self.read(&path).await?["status"]["phase"] == "Running").then_some(()))
        })
        .await
    }

    /// Makes a pod and waits until it runs.
    ///
    /// # Errors
    /// It does not.
    pub async fn pod(&self, namespace: &str, name: &str, containers: &[&str], labels: &Value) -> Result<()> {
        self.create_pod(namespace, name, containers, labels).await?;
        self.running(namespace, name).await
    }

    /// The file with a container's lines.
    pub fn log_file(&self, namespace: &str, pod: &str, container: &str) -> PathBuf {
        self.folder.join(format!("logs/{namespace}.{pod}.{container}"))
    }
    /// The file with the lines of every pod that was not named at the start.
    pub fn shared_log_file(&self) -> PathBuf {
        self.folder.join("logs/shared")
    }
    /// Appends a line to a file of lines, written at a moment (seconds since the epoch).
    ///
    /// # Errors
    /// The file system's.
    pub fn append_log_at(file: &Path, seconds: i64, text: &str) -> Result<()> {
        let line = format!("{} stdout F {text}\n", timestamp(seconds));
        Ok(std::fs::OpenOptions::new().append(true).create(true).open(file)?.write_all(line.as_bytes())?)
    }
    /// Appends a line as it were written now.
    ///
    /// # Errors
    /// The file system's.
    pub fn append_log(file: &Path, text: &str) -> Result<()> {
        Self::append_log_at(file, now_seconds(), text)
    }

    /// The same log by a plain call: the reference.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn log(&self, namespace: &str, pod: &str, query: &str) -> Result<String> {
        let answer = self.client.get(&format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?{query}")).await?;
        ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text());
        Ok(answer.text())
    }

    /// A service account who may look at pods in its namespace, which has the role for it.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn service_account(&self, namespace: &str, name: &str) -> Result<()> {
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } });
        self.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &account).await?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "look" },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": namespace }],
        });
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
        self.create(&path, &binding).await.map(|_| ())
    }

    async fn grant_restricted(&self) -> Result<()> {
        self.namespace("seen").await?;
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "look" },
            "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] }],
        });
        self.create("/apis/rbac.authorization.k8s.io/v1/namespaces/seen/roles", &role).await?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "look" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "look" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": RESTRICTED_USER }],
        });
        self.create("/apis/rbac.authorization.k8s.io/v1/namespaces/seen/rolebindings", &binding).await.map(|_| ())
    }
}

fn now_seconds() -> i64 {
    shared_proto::now_ms() / 1000
}

/// A moment as the container runtimes write it.
fn timestamp(seconds: i64) -> String {
    shared_proto::identity::rfc3339(seconds).replace('Z', ".000000000Z")
}

/// What every pod's ports lead to: it says again whatever it is told. One for all clusters of this process.
///
/// # Errors
/// The system's.
pub fn echo() -> Result<SocketAddr> {
    static ECHO: OnceLock<Option<SocketAddr>> = OnceLock::new();
    let start = || {
        let listener = TcpListener::bind("127.0.0.1:0").ok()?;
        let address = listener.local_addr().ok()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let (mut from, mut to) = (&stream, &stream);
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Some(address)
    };
    (*ECHO.get_or_init(start)).context("no port for the echo")
}

/// What goes to a pod's port comes back: so many bytes, equal, within two minutes.
///
/// # Errors
/// It does not, or other bytes come.
pub async fn echoes(address: SocketAddr, size: usize) -> Result<()> {
    echoes_at(address, size, None).await
}

/// The same of what is sent no faster than so many bytes a second.
pub async fn echoes_at(address: SocketAddr, size: usize, rate: Option<f64>) -> Result<()> {
    let (mut read, mut write) = TcpStream::connect(address).await?.into_split();
    let data: Vec<u8> = (0..size).map(|n| (n * 31 + n / 251) as u8).collect();
    let sent = Sha256::digest(&data);
    let writing = tokio::spawn(async move {
        let Some(rate) = rate else {
            write.write_all(&data).await?;
            return anyhow::Ok(write);
        };
        let start = tokio::time::Instant::now();
        for (n, part) in data.chunks(PIECE).enumerate() {
            tokio::time::sleep_until(start + Duration::from_secs_f64((n * PIECE) as f64 / rate)).await;
            write.write_all(part).await?;
        }
        Ok(write)
    });
    let mut back = vec![0; size];
    tokio::time::timeout(Duration::from_secs(120), read.read_exact(&mut back)).await.context("all of it")??;
    drop(writing.await??);
    ensure!(Sha256::digest(&back) == sent, "what came back is another");
    Ok(())
}

fn kubeconfig(address: SocketAddr, ca_base64: &str, user: &str) -> String {
    let user = user.lines().map(|l| format!("    {l}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: tests\n  cluster:\n    server: https://{address}\n    \
         certificate-authority-data: {ca_base64}\nusers:\n- name: tests\n  user:\n{user}contexts:\n- name: tests\n  context:\n    \
         cluster: tests\n    user: tests\ncurrent-context: tests\n"
    )
}

async fn start_etcd(folder: &Scratch) -> Result<(Process, u16)> {
    let (port, peers) = (free_port()?, free_port()?);
    let url = format!("http://127.0.0.1:{port}");
    let etcd = Program::component("etcd")?
        .arg("--data-dir")
        .arg(folder.join("etcd").display().to_string())
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peers}")])
        // the data go with the test: nothing is gained by waiting for the disk
        .args(["--unsafe-no-fsync"].into_iter().filter(|_| etcd_knows_no_fsync()))
        .start()?;
    etcd.ready(READY, "etcd serves", |l| {
        l.contains("ready to serve client requests") || l.contains("serving insecure client requests")
    })
    .await?;
    Ok((etcd, port))
}

fn etcd_knows_no_fsync() -> bool {
    let Some(etcd) = tools::find("etcd") else { return false };
    std::process::Command::new(etcd)
        .arg("--help")
        .output()
        .is_ok_and(|o| String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).contains("unsafe-no-fsync"))
}

async fn is_ready(client: &Client, api_server: &Process) -> Result<()> {
    let ready = eventually(READY, "the API server to be ready", || async {
        Ok(client.get("/readyz").await?.status.is_success().then_some(()))
    });
    api_server.unless_ended(ready).await
}

/// The certificate that an API server makes for itself at its first start.
async fn certificate(folder: &Scratch, api_server: &Process) -> Result<String> {
    let certificate = folder.join("certs/apiserver.crt");
    let made = eventually(READY, "the API server's certificate", || async {
        Ok(std::fs::read_to_string(&certificate).ok().filter(|t| t.trim_end().ends_with("-----END CERTIFICATE-----")))
    });
    api_server.unless_ended(made).await
}

/// The API server's program, and where it is to be.
fn api_server(folder: &Scratch, etcd: u16) -> Result<(Program, SocketAddr)> {
    let port = free_port()?;
    let pair = pki::new_key()?;
    let key = folder.write("sa.key", pair.serialize_pem())?;
    let public_key = folder.write("sa.pub", pair.public_key_pem())?;
    let tokens = folder
        .write("tokens.csv", format!("{ADMIN},admin,1,\"system:masters\"\n{RESTRICTED},{RESTRICTED_USER},2\n"))?;
    let audited = r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[{"level":"Metadata","resources":[{"group":"","resources":["pods"]}]},{"level":"None"}]}"#;
    let audited = folder.write("audit-policy.json", audited)?;
    let program = Program::component("kube-apiserver")?
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"))
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg(format!("--service-account-key-file={}", public_key.display()))
        .arg(format!("--service-account-signing-key-file={}", key.display()))
        .arg("--service-cluster-ip-range=10.0.0.0/24")
        .arg(format!("--token-auth-file={}", tokens.display()))
        .arg(format!("--audit-policy-file={}", audited.display()))
        .arg(format!("--audit-log-path={}", folder.join("audit.log").display()))
        .args(["--authorization-mode=RBAC", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
        .arg(format!("--secure-port={port}"))
        .arg(format!("--cert-dir={}", folder.join("certs").display()))
        .args(["--disable-admission-plugins=ServiceAccount", "--feature-gates=WatchList=false"])
        // hundreds of streams at once are what the suites are for
        .args(["--max-requests-inflight=4000", "--max-mutating-requests-inflight=2000"]);
    Ok((program, SocketAddr::from(([127, 0, 0, 1], port))))
}

async fn start_kwok(folder: &Scratch, api_server: SocketAddr, sources: &[LogSource]) -> Result<Process> {
    let port = free_port()?;
    let shared = folder.write("logs/shared", "")?;
    let previous =
        folder.write("logs/previous", "2026-01-01T00:00:00.000000000Z stdout F from the previous container\n")?;
    let work = folder.join("work");
    std::fs::create_dir_all(&work)?;
    let rule = |containers: &[String], file: &Path| json!({ "containers": containers, "logsFile": file, "previousLogsFile": previous, "follow": true });
    let mut documents = vec![
        json!({
            "apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "ClusterLogs", "metadata": { "name": "shared" },
            "spec": { "logs": [rule(&[], &shared)] },
        }),
        json!({
            "apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "ClusterExec", "metadata": { "name": "here" },
            "spec": { "execs": [{ "local": { "workDir": work } }] },
        }),
        json!({
            "apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "ClusterAttach", "metadata": { "name": "shared" },
            "spec": { "attaches": [{ "logsFile": shared }] },
        }),
        json!({
            "apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "ClusterPortForward", "metadata": { "name": "echo" },
            "spec": { "forwards": [{ "target": { "port": echo()?.port(), "address": "127.0.0.1" } }] },
        }),
    ];
    for source in sources {
        let mut rules = Vec::new();
        for container in &source.containers {
            let file = folder.write(format!("logs/{}.{}.{container}", source.namespace, source.pod), "")?;
            rules.push(rule(std::slice::from_ref(container), &file));
        }
        documents.push(json!({
            "apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Logs",
            "metadata": { "name": source.pod, "namespace": source.namespace },
            "spec": { "logs": rules },
        }));
    }
    let mut config = documents.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
    for stage in ["pod/fast", "node/fast", "node/heartbeat"] {
        let stages = tools::folder().join("kwok-stages").join(stage);
        for entry in std::fs::read_dir(&stages).with_context(|| stages.display().to_string())? {
            let path = entry?.path();
            // kustomization.yaml is the list of the others
            if path.file_name().is_some_and(|n| n != "kustomization.yaml") {
                config.push_str("\n---\n");
                config.push_str(&std::fs::read_to_string(&path)?);
            }
        }
    }
    let config = folder.write("kwok.yaml", config)?;
    let ca = std::fs::read(folder.join("certs/apiserver.crt"))?;
    let ca = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ca);
    let kubeconfig = folder.write("kwok.kubeconfig", kubeconfig(api_server, &ca, &format!("token: {ADMIN}")))?;
    let kwok = Program::component("kwok")?
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--config={}", config.display()))
        .args(["--manage-all-nodes=true", "--node-ip=127.0.0.1"])
        .arg(format!("--server-address=127.0.0.1:{port}"))
        .arg(format!("--node-port={port}"))
        .start()?;
    let health = Client::plain(SocketAddr::from(([127, 0, 0, 1], port)));
    let ready = eventually(READY, "kwok to serve", || async {
        Ok(health.get("/healthz").await?.status.is_success().then_some(()))
    });
    kwok.unless_ended(ready).await?;
    Ok(kwok)
}
