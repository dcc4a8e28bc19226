//! The calls of the execution service, over one HTTP/2 connection that is dialled again when it is gone.

use super::surroundings::{Refusal, Settings, Surroundings};
use hyper_util::rt::TokioIo;
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use shared_proto::v1::execution_client::ExecutionClient;
use shared_proto::v1::{
    AcceptReply, AcceptRequest, Event, PresentReply, PresentRequest, ReportReply, ReportRequest, SourceChunk,
    SourceRequest, WorkItem, WorkRequest,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// Between two PINGs, and how long one may go unanswered.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(8));
/// A unary call.
const CALL: Duration = Duration::from_secs(30);
/// The largest message that is taken: an assignment with its request.
const MESSAGE_MAX: usize = 4 * 1024 * 1024;

/// One job under one fencing token, as calls name it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) job_id: String,
    pub(super) fencing_token: u64,
}

/// The execution service. Cheap to clone.
#[derive(Clone)]
pub(super) struct Service {
    client: ExecutionClient<InterceptedService<Channel, Bearer>>,
    instance_id: String,
    /// Why the newest connection was refused, once that is known.
    refusal: Arc<Mutex<Option<Refusal>>>,
    /// How long the first wait after a failure takes at most, and any.
    pub(super) backoff: (Duration, Duration),
}

#[derive(Clone)]
struct Bearer(Arc<dyn Surroundings>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let key: Secret = self.0.api_key();
        let text = Secret::new(format!("Bearer {}", key.expose()));
        let mut value: MetadataValue<_> =
            text.expose().parse().map_err(|_| Status::from(Code::ApiKeyInvalid.on("the API key is malformed")))?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

// === impl Service ===

impl Service {
    pub(super) fn new(settings: &Settings, surroundings: Arc<dyn Surroundings>) -> Self {
        // the name is the certificate's matter, which the dialler has checked; http: because the stream is encrypted already
        let endpoint = Endpoint::from_static("http://execution.runner")
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1024 * 1024)
            .initial_connection_window_size(2 * 1024 * 1024);
        let dialler = Arc::clone(&surroundings);
        let refusal: Arc<Mutex<Option<Refusal>>> = Arc::default();
        let newest = Arc::clone(&refusal);
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let (dialler, newest) = (Arc::clone(&dialler), Arc::clone(&newest));
            async move {
                let connected = dialler.connect().await?;
                *newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected.refusal);
                Ok::<_, Failure>(TokioIo::new(connected.stream))
            }
        }));
        let client = ExecutionClient::with_interceptor(channel, Bearer(surroundings))
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        Self { client, instance_id: settings.instance_id.clone(), refusal, backoff: settings.backoff }
    }

    /// A status in our words: a typed one as it is; where the connection broke because the other end refused it, that refusal.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        if let Some(failure) = Failure::from_status(status) {
            return failure;
        }
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        refusal.and_then(|told| told()).unwrap_or_else(|| untyped(status))
    }

    async fn bounded<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Failure> {
        match tokio::time::timeout(CALL, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(&status)),
            Err(_) => Err(Code::DeadlineExceeded.on("the execution service does not answer")),
        }
    }

    pub(super) async fn work(&self, request: WorkRequest) -> Result<Streaming<WorkItem>, Failure> {
        self.bounded(self.client.clone().work(request)).await
    }

    pub(super) async fn accept(&self, held: &Held, digest: Vec<u8>) -> Result<AcceptReply, Failure> {
        let request = AcceptRequest {
            job_id: held.job_id.clone(),
            fencing_token: held.fencing_token,
            instance_id: self.instance_id.clone(),
            request_sha256: digest,
        };
        self.bounded(self.client.clone().accept(request)).await
    }

    pub(super) async fn report(&self, held: &Held, events: Vec<Event>) -> Result<ReportReply, Failure> {
        let request = ReportRequest {
            job_id: held.job_id.clone(),
            fencing_token: held.fencing_token,
            instance_id: self.instance_id.clone(),
            events,
        };
        self.bounded(self.client.clone().report(request)).await
    }

    pub(super) async fn present(&self, held: &Held, request: Vec<u8>, seal: Vec<u8>) -> Result<PresentReply, Failure> {
        let request = PresentRequest {
            job_id: held.job_id.clone(),
            fencing_token: held.fencing_token,
            instance_id: self.instance_id.clone(),
            request,
            seal,
        };
        self.bounded(self.client.clone().present(request)).await
    }

    pub(super) async fn source(
        &self,
        held: &Held,
        sha256: &str,
        offset: u64,
    ) -> Result<Streaming<SourceChunk>, Failure> {
        let request = SourceRequest {
            job_id: held.job_id.clone(),
            fencing_token: held.fencing_token,
            instance_id: self.instance_id.clone(),
            sha256: sha256.to_owned(),
            offset,
        };
        self.bounded(self.client.clone().source(request)).await
    }
}

/// A status that the other end did not type.
fn untyped(status: &Status) -> Failure {
    // what the dialler says is at the end of the chain
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = source {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return failure.clone();
        }
        source = error.source();
    }
    let code = match status.code() {
        tonic::Code::Unauthenticated => Code::Unauthenticated,
        tonic::Code::PermissionDenied => Code::PermissionDenied,
        tonic::Code::NotFound => Code::NotFound,
        tonic::Code::DeadlineExceeded => Code::DeadlineExceeded,
        _ => Code::DialFailed,
    };
    code.on(format!("the execution service: {}", status.message()))
}

/// Waits between attempts: at random up to a bound that doubles.
#[derive(Debug)]
pub(super) struct Pause {
    first: Duration,
    most: Duration,
    next: Duration,
}

// === impl Pause ===

impl Pause {
    pub(super) fn new((first, most): (Duration, Duration)) -> Self {
        Self { first, most, next: first }
    }
    /// It went well: the next failure waits as the first.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
    /// How long to wait now.
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.next.mul_f64(crate::tunnel::backoff::random());
        self.next = (self.next * 2).min(self.most);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_again() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut pause = Pause::new((first, most));
        assert!(pause.next() <= first);
        for _ in 0..50 {
            assert!(pause.next() <= most);
        }
        assert_eq!(pause.next, most);
        pause.reset();
        assert!(pause.next() <= first);
    }
}
