//! A job's events, followed: each number once and in order, over as many connections as it takes.

use super::sse::Parser;
use super::{Client, cut, path};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A stream on which nothing at all comes for this long, no comment either, is opened anew.
const SILENCE: Duration = Duration::from_secs(60);
/// Between two attempts: from the first to the last.
pub(crate) const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long an unreachable control plane is waited for; the job goes on without us.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// One numbered record, as it came and as this version reads it.
#[derive(Debug, Clone)]
pub(crate) struct JobEvent {
    /// Its number.
    pub(crate) sequence: u64,
    /// As it came.
    pub(crate) json: Value,
    /// As this version knows it; a newer kind is none.
    pub(crate) body: Option<v1::event::Body>,
}

/// The events of one job.
#[derive(Debug)]
pub(crate) struct JobEvents {
    client: Client,
    job: String,
    last: u64,
    stream: Option<(Incoming, Parser)>,
    ready: VecDeque<JobEvent>,
    ended: bool,
}

// === impl JobEvent ===

impl JobEvent {
    /// Reads one; none if it has no number.
    pub(crate) fn read(json: Value) -> Option<Self> {
        let sequence = json.get("sequence").and_then(Value::as_u64)?;
        let body = serde_json::from_value::<v1::Event>(json.clone()).ok().and_then(|event| event.body);
        Some(Self { sequence, json, body })
    }
    /// When it was written, milliseconds since the epoch.
    pub(crate) fn time_ms(&self) -> i64 {
        self.json.get("time_ms").and_then(Value::as_i64).unwrap_or_default()
    }
}

// === impl JobEvents ===

impl JobEvents {
    /// From after this number.
    pub(crate) fn after(client: &Client, job: &str, last: u64) -> Self {
        Self { client: client.clone(), job: job.to_owned(), last, stream: None, ready: VecDeque::new(), ended: false }
    }
    /// The next event; none when the job has ended and all were seen. `waiting` hears of an unreachable control plane, once a cut.
    pub(crate) async fn next(&mut self, mut waiting: impl FnMut(&Failure)) -> Result<Option<JobEvent>, Failure> {
        let mut backoff = BACKOFF.0;
        let mut since: Option<Instant> = None;
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            match self.read().await {
                Ok(()) => {
                    since = None;
                    backoff = BACKOFF.0;
                }
                Err(failure) if is_passing(&failure) => {
                    self.stream = None;
                    let first = since.is_none();
                    let start = *since.get_or_insert_with(Instant::now);
                    // one failed attempt is an ordinary end of a connection, and nothing to speak of
                    if !first && backoff > BACKOFF.0 && backoff <= BACKOFF.0 * 2 {
                        waiting(&failure);
                    }
                    if start.elapsed() > PATIENCE {
                        return Err(failure.next(format!(
                            "The job goes on; run `runnerctl job watch {}` when the control plane is back.",
                            self.job
                        )));
                    }
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Reads one chunk, opening the stream first where there is none.
    async fn read(&mut self) -> Result<(), Failure> {
        let (body, parser) = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let last = self.last.to_string();
                let path = path(&["jobs", &self.job, "events"], &[("after", &last)]);
                let headers = [("accept", "text/event-stream"), ("last-event-id", last.as_str())];
                none.insert((self.client.stream(&path, &headers).await?.into_body(), Parser::default()))
            }
        };
        let ended = |what: &str| Code::DialFailed.on(format!("the stream of events ended early: {what}"));
        let chunk = match tokio::time::timeout(SILENCE, body.frame()).await {
            Err(_) => return Err(ended("nothing came for too long")),
            Ok(None) => return Err(ended("the connection was closed")),
            Ok(Some(Err(e))) => return Err(cut(&self.client.endpoint, &e)),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => data,
                Err(_trailers) => return Ok(()),
            },
        };
        for event in parser.push(&chunk).map_err(|e| Code::TooLarge.on(e.to_string()))? {
            match event.kind.as_str() {
                "end" => self.ended = true,
                "error" => {
                    return Err(super::error_of(http::StatusCode::INTERNAL_SERVER_ERROR, event.data.as_bytes()));
                }
                _ => {
                    let Some(event) = serde_json::from_str(&event.data).ok().and_then(JobEvent::read) else { continue };
                    // what was seen on an earlier connection comes again at most here
                    if event.sequence <= self.last {
                        continue;
                    }
                    if event.sequence != self.last + 1 {
                        return Err(Code::Internal.on(format!(
                            "event {} of job {} came after event {}",
                            event.sequence, self.job, self.last
                        )));
                    }
                    self.last = event.sequence;
                    self.ready.push_back(event);
                }
            }
        }
        Ok(())
    }
}

/// Whether another attempt can help.
pub(crate) fn is_passing(failure: &Failure) -> bool {
    matches!(failure.code, Code::DialFailed | Code::DeadlineExceeded | Code::Busy | Code::ConnectionLost)
}
