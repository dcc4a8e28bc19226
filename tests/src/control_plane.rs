//! The control plane, started as a person would, and its API as a user sees it.

use crate::clock::Clock;
use crate::https::{Answer, Client};
use crate::process::{Ended, Process, Program};
use crate::scratch::Scratch;
use crate::wait::eventually;
use crate::{archive, pki};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use shared_proto::credentials::CredentialsFile;
use shared_proto::secret::Secret;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const READY: Duration = Duration::from_secs(60);
/// A port of the kernel's choice.
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A running control plane with an empty database.
pub struct ControlPlane {
    process: Option<Process>,
    folder: Scratch,
    how: How,
    api: SocketAddr,
    runner: SocketAddr,
    admin: User,
}

/// How it is started, each time.
#[derive(Debug, Default)]
struct How {
    /// Another program than this build's.
    program: Option<PathBuf>,
    environment: Vec<(&'static str, String)>,
    under: Vec<String>,
    /// A file system of its own, that small, where the data folder is.
    small: Option<u32>,
}

/// A user, by whose token the API is asked.
#[derive(Clone)]
pub struct User {
    client: Client,
    token: String,
    /// The user's organization.
    pub organization: String,
}

/// Where a job got to when it was last looked at.
#[derive(Debug, Clone)]
pub struct Job(pub Value);

/// A certificate as the control plane has written it down.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Its serial.
    pub serial: String,
    /// The instance that it belongs to.
    pub instance: Option<String>,
    /// The serial of the one before it.
    pub renews: Option<String>,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// Phases after which nothing comes.
pub const ENDS: &[&str] = &["applied", "no_changes", "planned_only", "failed", "canceled", "discarded", "lost"];

impl ControlPlane {
    /// Starts one on ports of the kernel's choice.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start() -> Result<Self> {
        Self::with_arguments(&[]).await
    }

    /// Starts one with more arguments.
    ///
    /// # Errors
    /// It does not start.
    pub async fn with_arguments(arguments: &[&str]) -> Result<Self> {
        Self::listening(ANY, arguments).await
    }

    /// Starts one that goes by clocks that the test sets.
    ///
    /// # Errors
    /// It does not start.
    pub async fn by_clock(clock: &Clock) -> Result<Self> {
        Self::made(ANY, &[], How { environment: clock.environment().to_vec(), ..How::default() }).await
    }

    /// Starts one with more arguments, and with variables of its environment.
    ///
    /// # Errors
    /// It does not start.
    pub async fn with_environment(arguments: &[&str], environment: Vec<(&'static str, String)>) -> Result<Self> {
        Self::made(ANY, arguments, How { environment, ..How::default() }).await
    }

    /// Starts one that is given so many descriptors, and may take more.
    ///
    /// # Errors
    /// It does not start.
    pub async fn with_descriptors(count: u64) -> Result<Self> {
        let under = vec!["prlimit".to_owned(), format!("--nofile={count}:"), "--".to_owned()];
        Self::made(ANY, &[], How { under, ..How::default() }).await
    }

    /// Starts one whose runners dial that address, with more arguments.
    ///
    /// # Errors
    /// It does not start.
    pub async fn listening(runner: SocketAddr, arguments: &[&str]) -> Result<Self> {
        Self::made(runner, arguments, How::default()).await
    }

    /// Starts one whose data folder is a file system of so many MiB, which nobody else sees: see [`ControlPlane::data`]. It goes with the
    /// process.
    ///
    /// # Errors
    /// It does not start, or only root may mount.
    pub async fn on_small_disk(mib: u32) -> Result<Self> {
        Self::made(ANY, &[], How { small: Some(mib), ..How::default() }).await
    }

    /// Starts one of another version.
    ///
    /// # Errors
    /// It does not start.
    pub async fn by_program(program: &Path) -> Result<Self> {
        Self::made(ANY, &[], How { program: Some(program.to_owned()), ..How::default() }).await
    }

    async fn made(runner: SocketAddr, arguments: &[&str], how: How) -> Result<Self> {
        let folder = Scratch::new("control-plane")?;
        let (process, api, runner) = launch(&folder, (ANY, runner), arguments, &how).await?;
        let data = seen_by(&process, &folder, how.small);
        let token = std::fs::read_to_string(data.join("admin-token")).context("the administrator's token")?;
        let ca = std::fs::read_to_string(data.join("ca.pem")).context("the CA")?;
        let token = token.trim().to_owned();
        let client = Client::new(api, &ca)?.with_token(&token);
        let organization = client.get("/api/v1/whoami").await?.ok()?["organization"]["id"]
            .as_str()
            .context("whoami names no organization")?
            .to_owned();
        Ok(Self { process: Some(process), folder, how, api, runner, admin: User { client, token, organization } })
    }

    /// The administrator whose token it printed to a file.
    pub fn admin(&self) -> &User {
        &self.admin
    }
    /// Where the API is.
    pub fn api(&self) -> SocketAddr {
        self.api
    }
    /// Where runners dial.
    pub fn runner_address(&self) -> SocketAddr {
        self.runner
    }
    /// Its data folder.
    ///
    /// # Panics
    /// It is a file system of its own, and its process is not there.
    pub fn data(&self) -> PathBuf {
        match self.how.small {
            None => self.folder.join("data"),
            Some(_) => seen_by(self.process(), &self.folder, self.how.small),
        }
    }
    /// Runs one of its commands to its end, on its data folder.
    ///
    /// # Errors
    /// It does not start or does not end.
    pub async fn command(&self, arguments: &[&str]) -> Result<Ended> {
        Program::own("runner-control-plane")?
            .args(arguments.iter().copied())
            .arg("--data")
            .arg(self.data().display().to_string())
            .folder(self.folder.path())
            .run(READY)
            .await
    }
    /// A place beside its data folder.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
    /// The program; it must be running.
    ///
    /// # Panics
    /// It was killed and not started again.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the control plane was killed and not started again")
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.admin.client.forget_connections();
        if let Some(process) = self.process.take() {
            process.end();
        }
    }
    /// Asks it to leave, and waits until it has.
    ///
    /// # Errors
    /// It stays.
    pub async fn stop(&mut self) -> Result<()> {
        self.admin.client.forget_connections();
        if let Some(process) = self.process.take() {
            process.signal(Signal::SIGTERM)?;
            process.ended(Duration::from_secs(60)).await?;
        }
        Ok(())
    }
    /// Starts it again on the same data and ports.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_again(&mut self) -> Result<()> {
        self.kill();
        let (process, ..) = launch(&self.folder, (self.api, self.runner), &[], &self.how).await?;
        self.process = Some(process);
        Ok(())
    }
    /// It is of another version the next time that it is started.
    pub fn replace(&mut self, program: &Path) {
        self.how.program = Some(program.to_owned());
    }

    /// A new organization with an owner.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn organization(&self, name: &str) -> Result<User> {
        let made = self.admin.post("/organizations", &json!({ "name": name })).await?;
        let organization = made["id"].as_str().context("an organization has an id")?.to_owned();
        self.user(&organization, "owner", "owner").await
    }
    /// A new user of an organization.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn user(&self, organization: &str, name: &str, role: &str) -> Result<User> {
        self.user_in(organization, name, role, &[]).await
    }
    /// A new user of an organization, in these groups.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn user_in(&self, organization: &str, name: &str, role: &str, groups: &[&str]) -> Result<User> {
        let path = format!("/organizations/{organization}/users");
        let made = self.admin.post(&path, &json!({ "name": name, "role": role, "groups": groups })).await?;
        let token = made["token"].as_str().context("a new user has a token")?.to_owned();
        Ok(User { client: self.admin.client.with_token(&token), token, organization: organization.to_owned() })
    }

    /// A value of its database, which a test may read to forge what only the CA could make.
    ///
    /// # Errors
    /// The database.
    pub async fn issuer_of(&self, organization: &str) -> Result<pki::Authority> {
        use sqlx::{Connection as _, Row as _};
        let path = self.data().join("control-plane.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).read_only(true);
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await?;
        let row = sqlx::query(
            "SELECT certificate, private_key FROM issuers WHERE organization = $1 AND retired_at_ms IS NULL",
        )
        .bind(organization)
        .fetch_one(&mut connection)
        .await
        .context("the organization's issuer")?;
        pki::Authority::from_pem(&row.try_get::<String, _>(0)?, &row.try_get::<String, _>(1)?)
    }
    /// What its database knows of a runner's certificates, oldest first.
    ///
    /// # Errors
    /// The database.
    pub async fn certificates(&self, runner: &str) -> Result<Vec<Certificate>> {
        use sqlx::{Connection as _, Row as _};
        let path = self.data().join("control-plane.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).read_only(true);
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await?;
        let rows = sqlx::query(
            "SELECT serial, instance, renews, revoked_at_ms IS NOT NULL FROM certificates WHERE runner = $1 ORDER BY rowid",
        )
        .bind(runner)
        .fetch_all(&mut connection)
        .await?;
        let read = |row: &sqlx::sqlite::SqliteRow| -> Result<Certificate, sqlx::Error> {
            Ok(Certificate {
                serial: row.try_get(0)?,
                instance: row.try_get(1)?,
                renews: row.try_get(2)?,
                revoked: row.try_get(3)?,
            })
        };
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }
    /// Its root, with which a test makes server certificates.
    ///
    /// # Errors
    /// The files.
    pub fn root(&self) -> Result<pki::Authority> {
        let read = |name: &str| std::fs::read_to_string(self.data().join(name)).with_context(|| name.to_owned());
        pki::Authority::from_pem(&read("ca.pem")?, &read("ca-key.pem")?)
    }
}

/// The data folder as this process reaches it.
fn seen_by(process: &Process, folder: &Scratch, small: Option<u32>) -> PathBuf {
    let data = folder.join("data");
    match small {
        None => data,
        Some(_) => PathBuf::from(format!("/proc/{}/root{}", process.pid(), data.display())),
    }
}

async fn launch(
    folder: &Scratch,
    (api, runner): (SocketAddr, SocketAddr),
    arguments: &[&str],
    how: &How,
) -> Result<(Process, SocketAddr, SocketAddr)> {
    let data = folder.join("data").display().to_string();
    let mut under = how.under.clone();
    if let Some(mib) = how.small {
        std::fs::create_dir_all(&data)?;
        let script = format!("mount -t tmpfs -o size={mib}m,mode=700 tmpfs {data} && exec \"$0\" \"$@\"");
        under.extend(["unshare", "--mount", "sh", "-c", &script].map(str::to_owned));
    }
    let program = match &how.program {
        Some(path) => Program::new(path),
        None => Program::own("runner-control-plane")?,
    };
    let mut program = program
        .named("control plane")
        .args(["--data", &data])
        .args(["--api-listen", &api.to_string(), "--runner-listen", &runner.to_string()])
        .args(["--name", "127.0.0.1", "--name", "localhost", "--log-format", "json"])
        .args(arguments.iter().copied())
        .folder(folder.path())
        .under(under);
    for (name, value) in &how.environment {
        program = program.env(name, value.clone());
    }
    let process = program.start()?;
    let line = process.ready(READY, "the control plane is ready", |l| l.starts_with("READY ")).await?;
    let ready: Value = serde_json::from_str(line.trim_start_matches("READY ")).with_context(|| line.clone())?;
    let address = |name: &str| -> Result<SocketAddr> {
        let url = ready[name].as_str().with_context(|| format!("{line} has no {name}"))?;
        url.split("//").nth(1).and_then(|a| a.parse().ok()).with_context(|| format!("{url} has no address"))
    };
    Ok((process, address("api")?, address("runner")?))
}

// === impl User ===

impl User {
    /// Plain requests.
    pub fn client(&self) -> &Client {
        &self.client
    }
    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }
    /// Asks anything; any answer will do.
    ///
    /// # Errors
    /// No answer.
    pub async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Answer> {
        let path = format!("/api/v1{path}");
        if body.is_null() {
            self.client.request(method, &path, &[], Bytes::new()).await
        } else {
            self.client.request(method, &path, &[("content-type", "application/json")], body.to_string()).await
        }
    }
    /// GET of a document.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, &Value::Null).await?.ok().with_context(|| format!("GET {path}"))
    }
    /// POST.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.ask(Method::POST, path, body).await?.ok().with_context(|| format!("POST {path}"))
    }
    /// What code and status a GET is refused with.
    ///
    /// # Errors
    /// No answer, or a good one.
    pub async fn refused(&self, path: &str) -> Result<(u16, String)> {
        let answer = self.ask(Method::GET, path, &Value::Null).await?;
        ensure!(!answer.status.is_success(), "GET {path} was not refused: {}", answer.text());
        Ok((answer.status.as_u16(), answer.code()))
    }

    /// Registers a runner; gives its id.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn register(&self, name: &str) -> Result<String> {
        let made = self.post("/runners", &json!({ "name": name })).await?;
        Ok(made["id"].as_str().context("a runner has an id")?.to_owned())
    }

    /// Generates credentials as `runnerctl` does: the key never leaves the caller.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn credentials(&self, runner: &str) -> Result<CredentialsFile> {
        let key = pki::new_key()?;
        let body = json!({ "csr": pki::request(&key)? });
        let given = self.post(&format!("/runners/{runner}/credentials"), &body).await?;
        let text = |name: &str| -> Result<String> {
            Ok(given[name].as_str().with_context(|| format!("credentials without {name}"))?.to_owned())
        };
        Ok(CredentialsFile {
            version: shared_proto::credentials::VERSION,
            organization: text("organization")?,
            runner: text("runner")?,
            tunnel_endpoint: text("tunnel_endpoint")?,
            execution_endpoint: text("execution_endpoint")?,
            ca: text("ca")?,
            certificate: text("certificate")?,
            private_key: Secret::new(key.serialize_pem()),
            api_key: Secret::new(text("api_key")?),
        })
    }

    /// Makes a connection whose entry has the same name.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn connection(&self, name: &str, provider: &str, runner: Option<&str>) -> Result<Value> {
        self.post("/connections", &json!({ "name": name, "provider": provider, "runner": runner })).await
    }

    /// Uploads an archive; gives its source.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn upload(&self, archive: Vec<u8>) -> Result<Value> {
        let (digest, size) = (archive::sha256(&archive), archive.len());
        let path = format!("/api/v1/archives/{digest}");
        let headers = [("content-type", "application/gzip")];
        self.client.request(Method::PUT, &path, &headers, archive).await?.ok().context("uploading an archive")?;
        Ok(json!({ "archive": { "sha256": digest, "size": size } }))
    }

    /// Makes a stack of a root module of one file.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn stack(&self, name: &str, engine: &str, main_tf: &str) -> Result<Value> {
        let source = self.upload(archive::module(main_tf)?).await?;
        self.post("/stacks", &json!({ "name": name, "engine": engine, "source": source })).await
    }

    /// Changes a stack as a user does: all of it is sent, with one member that is another; gives that member as it was.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn change_stack(&self, stack: &str, member: &str, value: &Value) -> Result<Value> {
        let path = format!("/stacks/{stack}");
        let mut whole = self.get(&path).await?;
        for name in ["id", "last_instance", "created_at_ms", "last_job", "revision"] {
            whole.as_object_mut().context("a stack")?.remove(name);
        }
        let before = std::mem::replace(&mut whole[member], value.clone());
        self.ask(Method::PUT, &path, &whole).await?.ok().with_context(|| format!("PUT {path}"))?;
        Ok(before)
    }

    /// Starts a job of a stack; gives its id.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn start_job(&self, stack: &str, body: &Value) -> Result<String> {
        let job = self.post(&format!("/stacks/{stack}/jobs"), body).await?;
        Ok(job["id"].as_str().context("a job has an id")?.to_owned())
    }
    /// The job now.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn job(&self, id: &str) -> Result<Job> {
        Ok(Job(self.get(&format!("/jobs/{id}")).await?))
    }
    /// Waits until a job is in one of those phases; fails at once where it ends in another one.
    ///
    /// # Errors
    /// It does not come there.
    pub async fn job_in(&self, id: &str, phases: &[&str], deadline: Duration) -> Result<Job> {
        let last = std::cell::RefCell::new(None);
        let found = eventually(deadline, &format!("job {id} to be in {phases:?}"), || async {
            let job = self.job(id).await?;
            let there = phases.contains(&job.phase()) || job.ended();
            let answer = there.then(|| job.clone());
            *last.borrow_mut() = Some(job);
            Ok(answer)
        })
        .await
        .with_context(|| format!("last seen as {:?}", last.borrow().as_ref().map(|j| j.0.to_string())))?;
        ensure!(phases.contains(&found.phase()), "job {id} ended otherwise: {}", found.0);
        Ok(found)
    }
    /// All events of a job, checked: numbers 1 to n, each once.
    ///
    /// # Errors
    /// The API refuses, or a number is missing or stands twice.
    pub async fn events(&self, id: &str) -> Result<Vec<Value>> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let page = self.get(&format!("/jobs/{id}/events?after={}&limit=500", all.len())).await?;
            let items = page["items"].as_array().context("a list of events")?.clone();
            if items.is_empty() {
                break;
            }
            all.extend(items);
        }
        for (event, number) in all.iter().zip(1u64..) {
            ensure!(event["sequence"] == json!(number), "event {number} has the number {}", event["sequence"]);
        }
        Ok(all)
    }
    /// The bodies of a kind among a job's events.
    ///
    /// # Errors
    /// As [`User::events`].
    pub async fn events_of(&self, id: &str, kind: &str) -> Result<Vec<Value>> {
        Ok(self.events(id).await?.iter().filter_map(|e| body_of(e, kind)).collect())
    }

    /// Starts a job whose apply takes so many seconds, and waits until it is in the middle of it; its id. `deadlines`: for it to apply, and
    /// then for its slow resource to be in the making.
    ///
    /// # Errors
    /// It does not come there.
    pub async fn applying(&self, stack: &str, seconds: u32, deadlines: (Duration, Duration)) -> Result<String> {
        self.stack(stack, "opentofu", &crate::engine::slow_module(seconds)).await?;
        let id = self.start_job(stack, &json!({ "kind": "update", "approve_automatically": true })).await?;
        self.job_in(&id, &["applying"], deadlines.0).await?;
        eventually(deadlines.1, "the slow resource to be in the making", || async {
            let progress = self.events_of(&id, "resource_progress").await?;
            Ok(progress.iter().any(|p| p["state"] == "started").then_some(()))
        })
        .await?;
        Ok(id)
    }
    /// Whether the engine was started once for that command.
    ///
    /// # Errors
    /// It was not.
    pub async fn started_once(&self, id: &str, command: &str) -> Result<()> {
        let started = self.events_of(id, "engine_started").await?;
        ensure!(started.iter().filter(|e| e["command"] == command).count() == 1, "{command}: {started:?}");
        Ok(())
    }
    /// Whether its events are 1 to n, each once, and the job knows of as many.
    ///
    /// # Errors
    /// They are not.
    pub async fn whole(&self, id: &str) -> Result<()> {
        let (job, events) = (self.job(id).await?, self.events(id).await?);
        ensure!(job.0["last_sequence"] == json!(events.len()), "{} of {}", events.len(), job.0["last_sequence"]);
        Ok(())
    }

    /// Follows a log; the body comes as it is read.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn follow(
        &self,
        connection: &str,
        namespace: &str,
        pod: &str,
        query: &str,
    ) -> Result<crate::https::Streaming> {
        let path = format!("/api/v1/connections/{connection}/k8s/namespaces/{namespace}/pods/{pod}/logs?{query}");
        let mut stream = self.client.stream(&path, &[]).await?;
        if !stream.status.is_success() {
            let status = stream.status;
            anyhow::bail!("{status} {}", String::from_utf8_lossy(&stream.rest().await?));
        }
        Ok(stream)
    }

    /// Opens a terminal or a plain exec.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn exec(
        &self,
        connection: &str,
        namespace: &str,
        pod: &str,
        command: &[&str],
        query: &str,
    ) -> Result<crate::https::Socket> {
        let command: String = command.iter().map(|c| format!("&command={}", percent(c))).collect();
        let path =
            format!("/api/v1/connections/{connection}/k8s/namespaces/{namespace}/pods/{pod}/exec?{query}{command}");
        self.client.socket(&path, "runner.exec.v1").await
    }

    /// Runs a command to its end, with what it reads.
    ///
    /// # Errors
    /// The API refuses or the connection fails.
    pub async fn exec_to_end(
        &self,
        connection: &str,
        namespace: &str,
        pod: &str,
        command: &[&str],
        input: Option<&[u8]>,
    ) -> Result<Executed> {
        let query = if input.is_some() { "stdin=true" } else { "" };
        let mut socket = self.exec(connection, namespace, pod, command, query).await?;
        if let Some(input) = input {
            for piece in input.chunks(32 * 1024) {
                socket.send(0, piece).await?;
            }
            socket.send(5, b"").await?;
        }
        Executed::read(&mut socket).await
    }
}

/// What an exec gave.
#[derive(Debug, Default)]
pub struct Executed {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub outcome: Value,
}

// === impl Executed ===

impl Executed {
    /// Reads a socket to its outcome.
    ///
    /// # Errors
    /// The connection ended without one.
    pub async fn read(socket: &mut crate::https::Socket) -> Result<Self> {
        let mut executed = Self::default();
        while let Some((kind, bytes)) = socket.next().await? {
            match kind {
                1 => executed.stdout.extend_from_slice(&bytes),
                2 => executed.stderr.extend_from_slice(&bytes),
                3 => {
                    executed.outcome = serde_json::from_slice(&bytes)?;
                    return Ok(executed);
                }
                other => anyhow::bail!("a message that starts with {other}"),
            }
        }
        anyhow::bail!("the socket closed without an outcome")
    }
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

// === impl Job ===

impl Job {
    /// Its id.
    ///
    /// # Errors
    /// It has none.
    pub fn id(&self) -> Result<String> {
        Ok(self.0["id"].as_str().context("a job has an id")?.to_owned())
    }
    /// Its phase.
    pub fn phase(&self) -> &str {
        self.0["phase"].as_str().unwrap_or_default()
    }
    /// Whether nothing comes any more.
    pub fn ended(&self) -> bool {
        self.0["ended_at_ms"].is_i64() || self.0["result"]["code"].as_str().is_some_and(|c| !c.is_empty())
    }
    /// The code of its result.
    pub fn code(&self) -> &str {
        self.0["result"]["code"].as_str().unwrap_or_default()
    }
}

/// The body of an event, where it is of that kind. The JSON form of a oneof is not pinned: both usual ones are understood.
pub fn body_of(event: &Value, kind: &str) -> Option<Value> {
    [&event["body"][kind], &event[kind]].into_iter().find(|v| !v.is_null()).cloned()
}

/// Percent-encodes everything but letters, digits and a few harmless signs.
pub fn percent(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => (b as char).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// Variables of an AWS environment with made-up keys.
pub fn aws_environment() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ])
}

/// A folder's path as text.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}
