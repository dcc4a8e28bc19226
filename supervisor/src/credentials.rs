//! Cloud credentials of the runner's connections: resolved by a process of its own, remembered until they say, never written anywhere.
//!
//! One task owns what is known. Whoever asks for a connection that is just being resolved waits for that same resolver: a burst of
//! operations after a start runs one. It must never link an SDK, and never resolve anything but an entry of the runner's own configuration.

mod known;
mod sources;

pub use sources::of_source;

use self::known::{Key, Known};
use crate::clock::since_boot;
use crate::config::{
    AZURE_VARIABLES, Asker, AwsRole, AwsSession, AzureSource, Config, Connection, Gcp, Proxy, ServiceAccount,
};
use crate::operations::dial::{self, Reach};
use crate::tunnel::Settings;
use crate::workers::{Operation, Program, Workers};
use shared_proto::failure::{Code, Failure};
use shared_proto::frame::{self, Kind};
use shared_proto::v1::target::Kind::Kubernetes;
use shared_proto::v1::{self, resolve_reply, resolve_request::How};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

/// What a resolver gets: longer than a plug-in that asks its cloud, shorter than a unary operation's deadline.
const DEADLINE: Duration = Duration::from_secs(20);
/// What a resolver that has ended gets until its end is reported.
const EXIT_GRACE: Duration = Duration::from_secs(2);
/// Questions that wait for the task at once.
const QUESTIONS: usize = 256;
/// A failure is remembered this long, so that a broken entry does not start a resolver for each operation of a burst.
const FAILURE_KEPT: Duration = Duration::from_secs(1);

/// Resolved credentials of one connection. Secret as a whole.
pub type Resolved = Result<Arc<v1::Target>, Failure>;

/// With how they were got.
#[derive(Debug, Clone)]
pub struct Tested {
    /// Themselves.
    pub resolved: Resolved,
    /// What went well on the way to them.
    pub steps: Arc<[v1::Step]>,
}

/// Asks for credentials. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Resolver {
    questions: mpsc::Sender<Question>,
}

#[derive(Debug)]
enum Question {
    Resolve { whose: Whose, anew: bool, reply: oneshot::Sender<Tested> },
    Forget { whose: Whose, refused: Arc<v1::Target> },
    Done { key: Key, tested: Tested, until: Duration, generation: u64 },
}

/// What a resolver gave.
struct Got {
    target: v1::Target,
    until_ms: i64,
    steps: Vec<v1::Step>,
}

/// A connection, and who asks for it: a person's name and the id of an operation.
#[derive(Debug, Clone)]
struct Whose {
    connection: String,
    person: String,
    operation: String,
}

struct Task {
    settings: watch::Receiver<Arc<Settings>>,
    workers: Workers,
    questions: mpsc::Sender<Question>,
    known: Known,
    waiting: HashMap<Key, Vec<oneshot::Sender<Tested>>>,
    /// Grows when the configuration is read again: an answer of before is for whoever asked before, and not kept.
    generation: u64,
}

// === impl Resolver ===

impl Resolver {
    /// Starts the task.
    pub fn start(settings: watch::Receiver<Arc<Settings>>, workers: Workers) -> Self {
        let (questions, received) = mpsc::channel(QUESTIONS);
        let task = Task {
            settings,
            workers,
            questions: questions.clone(),
            known: Known::default(),
            waiting: HashMap::new(),
            generation: 0,
        };
        tokio::spawn(task.run(received));
        Self { questions }
    }

    /// The credentials of a connection of the runner's own configuration, for whoever asks.
    ///
    /// # Errors
    /// `unknown_connection`; what the resolver says; `worker_crashed`.
    pub async fn resolve(&self, connection: &str, asker: Asker<'_>) -> Resolved {
        self.ask(Whose::of(connection, asker), false).await.resolved
    }

    /// The same got anew, whatever is known, with how.
    pub async fn test(&self, connection: &str, asker: Asker<'_>) -> Tested {
        self.ask(Whose::of(connection, asker), true).await
    }

    async fn ask(&self, whose: Whose, anew: bool) -> Tested {
        let (reply, answer) = oneshot::channel();
        let gone = || Tested::failed(Code::Internal.on("the task that resolves credentials has ended"));
        if self.questions.send(Question::Resolve { whose, anew, reply }).await.is_err() {
            return gone();
        }
        answer.await.unwrap_or_else(|_| gone())
    }

    /// The target did not accept these: ask again next time, unless somebody else has.
    pub async fn forget(&self, connection: &str, asker: Asker<'_>, refused: Arc<v1::Target>) {
        let whose = Whose::of(connection, asker);
        let _ = self.questions.send(Question::Forget { whose, refused }).await;
    }
}

// === impl Tested ===

impl Tested {
    fn failed(failure: Failure) -> Self {
        Self { resolved: Err(failure), steps: Arc::new([]) }
    }
}

// === impl Whose ===

impl Whose {
    fn of(connection: &str, asker: Asker<'_>) -> Self {
        Self {
            connection: connection.to_owned(),
            person: asker.person.to_owned(),
            operation: asker.operation.to_owned(),
        }
    }
    fn asker(&self) -> Asker<'_> {
        Asker { person: &self.person, operation: &self.operation }
    }
}

// === impl Task ===

impl Task {
    async fn run(mut self, mut received: mpsc::Receiver<Question>) {
        loop {
            tokio::select! {
                question = received.recv() => match question {
                    Some(question) => self.answer(question),
                    None => return,
                },
                changed = self.settings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.known.clear();
                    self.generation += 1;
                }
            }
        }
    }

    fn answer(&mut self, question: Question) {
        match question {
            Question::Resolve { whose, anew, reply } => {
                let key = match self.key(&whose) {
                    Ok(key) => key,
                    Err(failure) => return drop(reply.send(Tested::failed(failure))),
                };
                if anew {
                    self.known.remove(&key);
                }
                if let Some(tested) = self.known.get(&key, since_boot()) {
                    let _ = reply.send(tested.clone());
                    return;
                }
                let waiting = self.waiting.entry(key.clone()).or_default();
                waiting.push(reply);
                if waiting.len() == 1 {
                    self.ask(key, whose);
                }
            }
            Question::Forget { whose, refused } => {
                let Ok(key) = self.key(&whose) else { return };
                self.known.forget(&key, &refused);
            }
            Question::Done { key, tested, until, generation } => {
                for reply in self.waiting.remove(&key).unwrap_or_default() {
                    let _ = reply.send(tested.clone());
                }
                // what says for which operation it is, is for no other
                if generation == self.generation && !self.is_once(&key.connection) {
                    self.known.keep(key, tested, until, since_boot());
                }
            }
        }
    }

    /// # Errors
    /// `policy_denied`: its sessions say who asks, and nobody does.
    fn key(&self, whose: &Whose) -> Result<Key, Failure> {
        let settings = self.settings.borrow();
        let templates = settings.config.connections.get(&whose.connection).map(Connection::templates);
        let told = templates.unwrap_or_default().into_iter().filter(|t| t.has_person() || t.has_operation());
        let said = told.map(|template| template.fill(whose.asker())).collect::<Result<_, _>>()?;
        Ok(Key { connection: whose.connection.clone(), said })
    }

    fn is_once(&self, connection: &str) -> bool {
        let settings = self.settings.borrow();
        let entry = settings.config.connections.get(connection);
        entry.is_some_and(|entry| entry.templates().iter().any(|template| template.has_operation()))
    }

    fn ask(&self, key: Key, whose: Whose) {
        let settings = self.settings.borrow().clone();
        let (workers, questions, generation) = (self.workers.clone(), self.questions.clone(), self.generation);
        tokio::spawn(async move {
            let connection = &key.connection;
            let answer = match settings.config.connections.get(connection) {
                None => Err(unknown(connection)),
                Some(entry) => match how(entry, &settings.config, connection, whose.asker()) {
                    Err(failure) => Err(failure),
                    Ok(how) => {
                        let request = v1::ResolveRequest { connection: connection.clone(), how: Some(how) };
                        match (resolve(&workers, &settings.config.proxy, request).await, entry.account()) {
                            (Ok(got), Some(account)) => {
                                bound(&workers, &settings.config.proxy, connection, account, got).await
                            }
                            (resolved, _) => resolved,
                        }
                    }
                },
            };
            let (tested, valid) = match answer {
                Ok(Got { target, until_ms, steps }) => {
                    let left = until_ms.saturating_sub(shared_proto::now_ms());
                    let tested = Tested { resolved: Ok(Arc::new(target)), steps: steps.into() };
                    (tested, Duration::from_millis(u64::try_from(left).unwrap_or(0)))
                }
                Err(failure) => (Tested::failed(failure), FAILURE_KEPT),
            };
            let until = since_boot().saturating_add(valid);
            let _ = questions.send(Question::Done { key, tested, until, generation }).await;
        });
    }
}

/// No such entry.
pub fn unknown(connection: &str) -> Failure {
    let shown: String = connection.chars().take(128).collect();
    Code::UnknownConnection.on(format!("the runner's configuration has no connection {shown:?}"))
}

fn how(entry: &Connection, config: &Config, connection: &str, asker: Asker<'_>) -> Result<How, Failure> {
    let environment = |wanted: fn(&str) -> bool| -> HashMap<_, _> {
        config.environment.iter().filter(|(name, _)| wanted(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
    };
    // what a program that the resolver runs finds the runner's proxy by; a login is for nobody but the supervisor
    let with_proxy = |mut environment: HashMap<String, String>| {
        if let (Some(url), None) = (&config.proxy.url, &config.proxy.user) {
            environment.insert("HTTPS_PROXY".to_owned(), url.url());
            environment.insert("NO_PROXY".to_owned(), config.proxy.no_proxy.clone());
        }
        environment
    };
    Ok(match entry {
        Connection::InCluster { .. } => How::InCluster(v1::ResolveInCluster {}),
        Connection::Kubeconfig { path, context, exec_plugins, .. } => How::Kubeconfig(v1::ResolveKubeconfig {
            path: path.display().to_string(),
            context: context.clone(),
            exec_plugins: exec_plugins.clone(),
            // a plug-in of a cloud needs that cloud's variables; without a plug-in nothing does
            environment: if exec_plugins.is_empty() {
                environment(|name| name == "HOME")
            } else {
                with_proxy(environment(|name| name.starts_with("AWS_") || matches!(name, "HOME" | "PATH")))
            },
        }),
        Connection::Aws { source, profile, region, endpoint_url, session } => How::Aws(v1::ResolveAws {
            source: source.as_str().to_owned(),
            profile: profile.clone(),
            region: region.clone(),
            endpoint_url: endpoint_url.clone(),
            environment: with_proxy(environment(|name| name.starts_with("AWS_") || matches!(name, "HOME" | "PATH"))),
            session: session.as_ref().map(|session| session_of(session, asker)).transpose()?,
        }),
        Connection::Gcp(gcp) => How::Gcp(of_google(gcp, environment(|name| name == "GCE_METADATA_HOST"))),
        Connection::Azure(azure) => {
            let file = azure.file().map(|path| path.display().to_string()).unwrap_or_default();
            let mut how = v1::ResolveAzure {
                source: azure.source.as_str().to_owned(),
                tenant: azure.tenant.clone(),
                client_id: azure.client_id.clone(),
                subscription: azure.subscription.clone(),
                cloud: azure.cloud.as_str().to_owned(),
                endpoint_url: azure.endpoint_url.clone(),
                environment: environment(|name| AZURE_VARIABLES.contains(&name)),
                vault: config.opens_a_vault(connection),
                ..Default::default()
            };
            match &azure.source {
                AzureSource::ClientSecret(_) => how.client_secret_file = file,
                AzureSource::ClientCertificate(_) => how.certificate_file = file,
                AzureSource::WorkloadIdentity(_) => how.federated_token_file = file,
                AzureSource::ManagedIdentity => {}
            }
            How::Azure(how)
        }
    })
}

fn session_of(session: &AwsSession, asker: Asker<'_>) -> Result<v1::AwsSession, Failure> {
    let role = |role: &AwsRole| v1::AwsRole { role_arn: role.role_arn.clone(), external_id: role.external_id.clone() };
    let tags = session.tags.iter().map(|(key, value)| Ok((key.clone(), value.fill(asker)?)));
    Ok(v1::AwsSession {
        role_arn: session.role_arn.clone(),
        external_id: session.external_id.clone(),
        session_name: session.session_name.fill(asker)?,
        duration_seconds: session.duration.as_secs() as u32,
        policy: session.policy.clone(),
        policy_arns: session.policy_arns.clone(),
        chain: session.chain.iter().map(role).collect(),
        tags: tags.collect::<Result<_, Failure>>()?,
        source_identity: session.source_identity.as_ref().map_or(Ok(String::new()), |name| name.fill(asker))?,
    })
}

fn of_google(gcp: &Gcp, environment: HashMap<String, String>) -> v1::ResolveGcp {
    v1::ResolveGcp {
        source: gcp.source.as_str().to_owned(),
        credentials_file: gcp.file().map(|path| path.display().to_string()).unwrap_or_default(),
        project: gcp.project.clone(),
        quota_project: gcp.quota_project.clone(),
        impersonate: gcp.impersonate.clone(),
        impersonation_seconds: gcp.impersonation.as_secs() as u32,
        scopes: gcp.scopes.clone(),
        subject_token_hosts: gcp.subject_token_hosts.clone(),
        endpoint_url: gcp.endpoint_url.clone(),
        environment,
    }
}

/// The same target with a token of that service account, and with nothing else that authenticates to it. A worker of operations asks for
/// it, because only workers speak to targets; it reaches this one and no other.
async fn bound(
    workers: &Workers,
    proxy: &Proxy,
    connection: &str,
    account: &ServiceAccount,
    Got { mut target, mut steps, .. }: Got,
) -> Result<Got, Failure> {
    let reach = Reach::of(&target, None)?;
    let mut asks = target.clone();
    if let Some(Kubernetes(cluster)) = &mut asks.kind {
        // passing the proxy is ours
        cluster.proxy_url.clear();
    }
    let wanted = v1::BoundToken {
        namespace: account.namespace.clone(),
        service_account: account.name.clone(),
        duration_seconds: account.duration.as_secs() as u32,
        audiences: account.audiences.clone(),
    };
    let request = v1::WorkerRequest { target: Some(asks), bound_token: Some(wanted), ..Default::default() };
    let Operation { mut worker, mut socket, dial } = workers.operation().await?;
    let dialling = async {
        if let Some(end) = dial {
            dial::serve(end, &reach, || proxy.clone()).await;
        }
        std::future::pending::<Infallible>().await
    };
    let talk = async {
        frame::write_message(&mut socket, Kind::Request, &request).await?;
        frame::read_message::<v1::ResolveReply, _>(&mut socket, Kind::Outcome).await
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(DEADLINE, talk) => ended,
        never = dialling => match never {},
    };
    let on = |code: Code, what: String| code.on(format!("connection {connection:?}: {what}"));
    let reply = match ended {
        Ok(Ok(Some(reply))) => reply,
        Ok(result) => {
            let why = match (worker.exit().await, result) {
                (Some(exit), _) => exit.failure().message,
                (None, Err(e)) => format!("the answer with the service account's token cannot be read: {e}"),
                (None, Ok(_)) => "the worker closed its socket without the service account's token".to_owned(),
            };
            return Err(on(Code::WorkerCrashed, why));
        }
        Err(_) => {
            let what = format!("the API server gave no token of the service account within {DEADLINE:?}");
            return Err(on(Code::CredentialsUnavailable, what));
        }
    };
    match (reply.kind, &mut target.kind) {
        (
            Some(resolve_reply::Kind::Target(v1::Target { kind: Some(Kubernetes(narrow)) })),
            Some(Kubernetes(cluster)),
        ) => {
            cluster.token = narrow.token;
            cluster.client_certificate_pem.clear();
            cluster.client_key_pem.clear();
            let detail = format!("a token of the service account {}/{}", account.namespace, account.name);
            steps.push(v1::Step { name: "role".to_owned(), ok: true, detail, next_step: String::new() });
            Ok(Got { target, until_ms: reply.valid_until_ms, steps })
        }
        (Some(resolve_reply::Kind::Failure(o)), _) => {
            Err(Failure::from_wire(&o.code, &format!("connection {connection:?}: {}", o.message), &o.next_step))
        }
        _ => Err(on(Code::CredentialsUnavailable, "the answer with the service account's token is empty".to_owned())),
    }
}

async fn resolve(workers: &Workers, proxy: &Proxy, request: v1::ResolveRequest) -> Result<Got, Failure> {
    let named = format!("connection {:?}", request.connection);
    let reply = reply(workers, proxy, &request, &named).await?;
    match reply.kind {
        Some(resolve_reply::Kind::Target(target)) => {
            Ok(Got { target, until_ms: reply.valid_until_ms, steps: reply.steps })
        }
        kind => Err(failure(kind, &named)),
    }
}

/// What an answer without credentials means.
fn failure(kind: Option<resolve_reply::Kind>, named: &str) -> Failure {
    match kind {
        Some(resolve_reply::Kind::Failure(o)) => {
            // a resolver may have named it already
            let message = if o.message.contains(named) { o.message } else { format!("{named}: {}", o.message) };
            Failure::from_wire(&o.code, &message, &o.next_step)
        }
        _ => Code::CredentialsUnavailable.on(format!("{named}: the resolver's answer is empty")),
    }
}

/// Has a process of its own answer. `named`: what its failures begin with.
async fn reply(
    workers: &Workers,
    proxy: &Proxy,
    request: &v1::ResolveRequest,
    named: &str,
) -> Result<v1::ResolveReply, Failure> {
    let mut started = workers.start(Program::Resolver).await?;
    let (dial, proxy) = (started.dial.take(), proxy.clone());
    // ends with the resolver, or when nobody waits for it any more
    let _dialling = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Some(end) = dial {
            dial::serve(end, &Reach::of_resolver(), || proxy.clone()).await;
        }
    }));
    let talk = async {
        frame::write_message(&mut started.socket, Kind::Request, request).await?;
        frame::read_message::<v1::ResolveReply, _>(&mut started.socket, Kind::Outcome).await
    };
    let reply = match tokio::time::timeout(DEADLINE, talk).await {
        Ok(Ok(Some(reply))) => reply,
        Ok(result) => {
            let mut failure = match tokio::time::timeout(EXIT_GRACE, &mut started.exit).await {
                Ok(Ok(exit)) => exit.failure(),
                _ => {
                    workers.kill(started.pid, nix::libc::SIGKILL).await;
                    Code::WorkerCrashed.on(match result {
                        Err(e) => format!("the resolver's answer cannot be read: {e}"),
                        Ok(_) => "the resolver closed its socket without an answer".to_owned(),
                    })
                }
            };
            failure.message = format!("{named}, resolving credentials: {}", failure.message);
            return Err(failure);
        }
        Err(_) => {
            workers.kill(started.pid, nix::libc::SIGKILL).await;
            return Err(Code::CredentialsUnavailable.on(format!("{named}: not resolved within {DEADLINE:?}")));
        }
    };
    // it has said all; nothing that it started stays either
    if tokio::time::timeout(EXIT_GRACE, &mut started.exit).await.is_err() {
        workers.kill(started.pid, nix::libc::SIGKILL).await;
    }
    Ok(reply)
}
