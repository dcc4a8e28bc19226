//! Starting an operation and holding it to its end: whose connection, which runner, the record, the deadline, the cancel.

use super::ledger::Line;
use super::{ApiError, ApiState, Caller};
use crate::operations::{Input, Operation, Output};
use crate::store::{OperationRecord, Provider, Runner, new_id};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};
use shared_proto::bounds::UNARY_DEADLINE;
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{OperationRequest, Outcome};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The largest document that is collected, bytes.
const DOCUMENT_MAX: usize = 32 * 1024 * 1024;
/// All documents that are being collected, together, in units of [`UNIT`].
const DOCUMENTS_MAX: usize = 512 * 1024 * 1024 / UNIT;
/// The unit in which documents are counted, bytes.
const UNIT: usize = 64 * 1024;
/// The runner's own deadline comes first; this much later the control plane ends it.
const DEADLINE_SLACK: Duration = Duration::from_secs(2);

/// The memory of all documents that are being collected. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Documents(Arc<Semaphore>);

/// What a request asks for.
pub(crate) struct Wanted {
    /// The connection, by id or name.
    pub(crate) connection: String,
    /// The runner that the request names, by id or name.
    pub(crate) runner: Option<String>,
    /// What the connection must be; `None`: anything.
    pub(crate) provider: Option<Provider>,
    /// What to do.
    pub(crate) what: What,
    /// Whether it gives one document within the deadline, or is a stream.
    pub(crate) unary: bool,
}

/// An operation that runs. Dropping it cancels, and its record ends as `cancelled`.
pub(crate) struct Running {
    line: Line,
    runner: Runner,
    cancel: CancellationToken,
    input: Input,
    /// How its worker is isolated, once it has one; `None` when that was written down.
    isolation: Option<watch::Receiver<Option<&'static str>>>,
    /// Shared with a task that ends it on a cancel, also while its caller does not read. Nobody else waits for the lock.
    operation: Arc<Mutex<Option<Operation>>>,
    /// Ends that task.
    _watched: DropGuard,
}

// === impl Documents ===

impl Default for Documents {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(DOCUMENTS_MAX)))
    }
}

/// A message of the sessions, which know a runner by its id only, with its name.
fn named(message: &str, runner: &Runner) -> String {
    message.replace(&runner.id, &runner.name)
}

// === impl Running ===

impl Running {
    /// Finds connection and runner within the caller's organization and starts the operation there.
    ///
    /// # Errors
    /// `not_found`, `wrong_provider`, `no_runner`, `runner_unavailable`, `busy`, `too_large`.
    pub(crate) async fn start(state: &ApiState, caller: &Caller, wanted: Wanted) -> Result<Self, ApiError> {
        let connection = state.store.connection(caller.org(), &wanted.connection).await?;
        caller.may_use(&connection)?;
        if let Some(provider) = wanted.provider
            && provider != connection.provider
        {
            return Err(Code::WrongProvider
                .on(format!(
                    "connection {} is of provider {}, this needs {provider}",
                    connection.name, connection.provider
                ))
                .into());
        }
        let runner = choose(state, caller, wanted.runner.as_deref(), connection.runner.as_deref()).await?;
        let kind = kind(&wanted.what);
        let record = OperationRecord {
            id: new_id("op"),
            organization: caller.org().to_owned(),
            kind: kind.to_owned(),
            connection: connection.id,
            connection_name: connection.name,
            entry: Some(connection.entry.clone()),
            runner: runner.id.clone(),
            runner_name: runner.name.clone(),
            user_id: caller.user().id.clone(),
            user_name: caller.user().name.clone(),
            started_at_ms: now_ms(),
            ended_at_ms: None,
            code: None,
            isolation_level: None,
        };
        let request = OperationRequest {
            operation_id: record.id.clone(),
            organization_id: caller.org().to_owned(),
            caller: Some(caller.wire()),
            connection: connection.entry,
            provider: connection.provider.to_string(),
            deadline_ms: if wanted.unary { u32::try_from(UNARY_DEADLINE.as_millis()).unwrap_or(u32::MAX) } else { 0 },
            output_credit: 0,
            what: Some(wanted.what),
        };
        let mut line = state.ledger.started(record).await;
        tracing::debug!(operation = line.id(), kind, runner = runner.id, user = caller.user().id, "operation starts");
        match state.sessions.run(caller.org(), &runner.id, request).await {
            Ok(operation) => Ok(Self::watched(line, runner, operation)),
            Err(failure) => {
                line.end(failure.code.as_str());
                let message = named(&failure.message, &runner);
                Err(ApiError::from(Failure { message, ..failure }).of_operation(line.id()))
            }
        }
    }

    fn watched(line: Line, runner: Runner, operation: Operation) -> Self {
        let (cancel, input, isolation) = (line.cancelled(), operation.input(), Some(operation.isolation()));
        let operation = Arc::new(Mutex::new(Some(operation)));
        let watched = CancellationToken::new();
        let (shared, cancelled, gone) = (operation.clone(), cancel.clone(), watched.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = cancelled.cancelled() => drop(shared.lock().await.take()),
                () = gone.cancelled() => {}
            }
        });
        Self { line, runner, cancel, input, isolation, operation, _watched: watched.drop_guard() }
    }

    /// The operation's id.
    pub(crate) fn id(&self) -> &str {
        self.line.id()
    }
    /// As the value of the header `runner-operation`.
    pub(crate) fn header(&self) -> HeaderValue {
        HeaderValue::from_str(self.line.id()).unwrap_or(HeaderValue::from_static(""))
    }
    /// What may be put into it; nothing once it was cancelled.
    pub(crate) fn input(&self) -> Input {
        self.input.clone()
    }

    /// What comes next. The last is the outcome, which is written down; a cancel by a user makes one.
    pub(crate) async fn next(&mut self) -> Output {
        let output = loop {
            let next = async {
                match &mut *self.operation.lock().await {
                    Some(operation) => Some(operation.next().await),
                    None => None,
                }
            };
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => break None,
                // said before anything that the worker says
                level = isolated(&mut self.isolation) => {
                    self.isolation = None;
                    if let Some(level) = level {
                        self.line.isolated(level);
                    }
                }
                output = next => break output,
            }
        };
        let mut output = output.unwrap_or_else(|| {
            Output::Outcome(Code::Cancelled.on(format!("operation {} was cancelled", self.line.id())).outcome())
        });
        if let Output::Outcome(outcome) = &mut output {
            // both may have come at once
            if let Some(level) = self.isolation.take().and_then(|told| *told.borrow()) {
                self.line.isolated(level);
            }
            self.line.end(&outcome.code);
            if outcome.code == Code::ConnectionLost.as_str() {
                outcome.message = named(&outcome.message, &self.runner);
            }
        }
        output
    }

    /// Ends it from this side, with this failure.
    pub(crate) fn give_up(&mut self, failure: &Failure) -> Outcome {
        self.cancel.cancel();
        self.line.end(failure.code.as_str());
        failure.outcome()
    }

    /// Collects its one document and passes it through as it is.
    ///
    /// # Errors
    /// What the outcome says; `too_large`, `busy`, `deadline_exceeded` where this side ends it.
    pub(crate) async fn document(self, documents: &Documents) -> Result<Response, ApiError> {
        let operation = self.header();
        let (bytes, truncated) = self.bytes(documents).await?;
        let mut response = ([(header::CONTENT_TYPE, "application/json")], bytes).into_response();
        response.headers_mut().insert(super::OPERATION_HEADER, operation);
        if truncated {
            response.headers_mut().insert(super::TRUNCATED_HEADER, HeaderValue::from_static("true"));
        }
        Ok(response)
    }

    /// Collects its one document, and says whether it was cut at a limit.
    ///
    /// # Errors
    /// As of [`Self::document`].
    pub(crate) async fn bytes(mut self, documents: &Documents) -> Result<(Bytes, bool), ApiError> {
        let collected = tokio::time::timeout(UNARY_DEADLINE + DEADLINE_SLACK, self.collect(documents)).await;
        let (bytes, outcome) = collected.unwrap_or_else(|_| {
            let late = Code::DeadlineExceeded.on(format!(
                "operation {} was not done within {} s",
                self.line.id(),
                UNARY_DEADLINE.as_secs()
            ));
            (Bytes::new(), self.give_up(&late))
        });
        if outcome.code != "ok" {
            return Err(ApiError::from_outcome(&outcome).of_operation(self.line.id()));
        }
        Ok((bytes, outcome.truncated))
    }

    async fn collect(&mut self, documents: &Documents) -> (Bytes, Outcome) {
        let mut document = BytesMut::new();
        let mut held: Option<OwnedSemaphorePermit> = None;
        let mut room = 0;
        loop {
            match self.next().await {
                Output::Outcome(outcome) => return (document.freeze(), outcome),
                // a document has no second stream, and no head
                Output::Stderr(_) | Output::Head(_) => {}
                Output::Data(bytes) => {
                    if document.len() + bytes.len() > DOCUMENT_MAX {
                        let failure = Code::TooLarge
                            .on(format!("the document is larger than {DOCUMENT_MAX} bytes"))
                            .next("Ask for less: name a namespace, a selector or a limit.");
                        return (Bytes::new(), self.give_up(&failure));
                    }
                    while document.len() + bytes.len() > room {
                        let Ok(permit) = documents.0.clone().try_acquire_owned() else {
                            let failure = Code::Busy.on("too many large documents are being collected at once");
                            return (Bytes::new(), self.give_up(&failure));
                        };
                        match &mut held {
                            Some(held) => held.merge(permit),
                            None => held = Some(permit),
                        }
                        room += UNIT;
                    }
                    document.extend_from_slice(&bytes);
                }
            }
        }
    }
}

/// Resolves once, when it is known or will never be.
async fn isolated(told: &mut Option<watch::Receiver<Option<&'static str>>>) -> Option<&'static str> {
    match told {
        Some(told) => told.wait_for(Option::is_some).await.ok().and_then(|level| *level),
        None => std::future::pending().await,
    }
}

/// The runner that the request names, else the connection's, else the organization's default.
async fn choose(
    state: &ApiState,
    caller: &Caller,
    named: Option<&str>,
    connections: Option<&str>,
) -> Result<Runner, Failure> {
    let wanted = named.or(connections).or(caller.organization().default_runner.as_deref());
    let Some(wanted) = wanted else {
        return Err(Code::NoRunner.on(format!(
            "no runner is named, the connection has none, and organization {} has no default",
            caller.organization().name
        )));
    };
    let runner = state.store.runner(caller.org(), wanted).await?;
    if runner.revoked_at_ms.is_some() {
        return Err(Code::RunnerUnavailable
            .on(format!("runner {} was revoked", runner.name))
            .next("Name another runner, or register it again."));
    }
    Ok(runner)
}

/// What kind of operation that is, as records and lists have it.
fn kind(what: &What) -> &'static str {
    match what {
        What::ConnectionTest(_) => "connection_test",
        What::K8sListNamespaces(_) => "k8s_list_namespaces",
        What::K8sListPods(_) => "k8s_list_pods",
        What::K8sDescribePod(_) => "k8s_describe_pod",
        What::K8sLogs(_) => "k8s_logs",
        What::K8sExec(_) => "k8s_exec",
        What::K8sRequest(_) => "k8s_request",
        What::AwsRequest(_) => "aws_request",
        What::WhoAmI(_) => "who_am_i",
        What::ListPlaces(_) => "list_places",
        What::ListResources(_) => "list_resources",
        What::GetResource(_) => "get_resource",
        What::ListLogs(_) => "list_logs",
        What::ReadLogs(_) => "read_logs",
        What::ProbePermissions(_) => "probe_permissions",
    }
}
