//! A log, of a pod or of a cloud, as it comes: plain bytes with the outcome in a trailer, or server-sent events.
//!
//! Nothing is gathered here: the next bytes are taken from the operation when the client has taken the last ones, so a slow
//! reader slows the pod's log and fills no memory.

use super::checked::{k8s_label, time};
use super::kubernetes::{PodPath, wanted};
use super::log_events::{Given, Lines, Place};
use super::outcome::OutcomeBody;
use super::running::{Running, Wanted};
use super::{ApiError, ApiState, Caller, Named, Params, Routes, StreamPlace};
use crate::operations::Output;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Version, header};
use http_body::Frame;
use http_body_util::StreamBody;
use shared_proto::failure::Code;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{K8sLogs, Outcome};
use std::time::Duration;
use utoipa::OpenApi;

/// The trailer that carries the outcome.
const OUTCOME_TRAILER: &str = "runner-outcome";
/// From when on a log of a cloud is read where nobody says it, milliseconds.
pub(super) const SINCE_DEFAULT_MS: i64 = 3_600_000;
/// The most lines of a log of a cloud that are asked for at once.
pub(super) const LINES_MAX: u32 = 1_000_000;
/// How long the answer's head waits for the first bytes, so that an early failure is an ordinary error.
const HEAD_WAIT: Duration = Duration::from_secs(3);
/// Between two signs of life on an event stream.
const SSE_ALIVE: Duration = Duration::from_secs(15);

#[derive(OpenApi)]
#[openapi(paths(logs))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new().add_stream("get", "/connections/{connection}/k8s/namespaces/{namespace}/pods/{pod}/logs", logs)
}

#[utoipa::path(get, path = "/api/v1/connections/{connection}/k8s/namespaces/{namespace}/pods/{pod}/logs", tag = "kubernetes",
    params(("connection" = String, Path, description = "Id or name"), ("namespace" = String, Path, description = "`-`: the connection's own"), ("pod" = String, Path),
        ("runner" = Option<String>, Query), ("container" = Option<String>, Query), ("all_containers" = Option<bool>, Query),
        ("follow" = Option<bool>, Query), ("previous" = Option<bool>, Query), ("timestamps" = Option<bool>, Query),
        ("tail" = Option<i64>, Query), ("since_seconds" = Option<i64>, Query),
        ("since_time" = Option<String>, Query, description = "RFC 3339; the API server begins at its whole second"),
        ("limit_bytes" = Option<i64>, Query)),
    responses((status = 200, description = "The log, with the trailer `runner-outcome`; as events, each chunk as `data:` lines, \
        at the end `event: outcome`; where it is one container's, with `id:`, and `Last-Event-ID` goes on after that", content((String = "text/plain"), (String = "text/event-stream")))))]
async fn logs(
    State(state): State<ApiState>,
    caller: Caller,
    Named(path): Named<PodPath>,
    version: Version,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let runner = params.text("runner")?;
    let container = params.text("container")?.map(|c| k8s_label("container", c)).transpose()?;
    let request = K8sLogs {
        all_containers: params.flag("all_containers")?,
        follow: params.flag("follow")?,
        previous: params.flag("previous")?,
        timestamps: params.flag("timestamps")?,
        tail_lines: params.number("tail", 0..=i64::from(i32::MAX))?,
        since_seconds: params.number("since_seconds", 1..=i64::from(i32::MAX))?,
        limit_bytes: params.number("limit_bytes", 1..=i64::MAX)?,
        since_time: params.text("since_time")?.map(|t| time("since_time", t)).transpose()?.unwrap_or_default(),
        ..Default::default()
    };
    params.finish()?;
    if request.all_containers && container.is_some() {
        return Err(Code::InvalidArgument.on("container and all_containers exclude each other").into());
    }
    if request.follow && request.previous {
        return Err(Code::InvalidArgument.on("follow and previous exclude each other").into());
    }
    if request.since_seconds.is_some() && !request.since_time.is_empty() {
        return Err(Code::InvalidArgument.on("since_seconds and since_time exclude each other").into());
    }
    let events = accepts_events(&headers);
    // of one container: several have no order among them
    let numbered = events && !request.all_containers && !request.previous && request.limit_bytes.is_none();
    let place = match headers.get("last-event-id") {
        Some(id) if events && numbered => Some(place(id)?),
        Some(_) if events => {
            return Err(Code::InvalidArgument
                .on("only what one container says now can be gone on with after an event")
                .next("Leave Last-Event-ID out, or all_containers, previous and limit_bytes.")
                .into());
        }
        _ => None,
    };
    let (lines, request) = if numbered {
        let lines = Lines::new(request.timestamps, place);
        let mut request = K8sLogs { timestamps: true, ..request };
        if let Some(begin) = place.and_then(Place::begin) {
            (request.tail_lines, request.since_seconds, request.since_time) = (None, None, begin);
        }
        (Some(lines), request)
    } else {
        (None, request)
    };
    let connection = path.connection.clone();
    let (namespace, pod) = path.checked()?;
    let what = What::K8sLogs(K8sLogs { namespace, pod, container: container.unwrap_or_default(), ..request });
    answer(
        &state,
        &caller,
        wanted(connection, runner, what, false),
        Form { events, lines, version, headers: &headers, plain: "text/plain; charset=utf-8" },
    )
    .await
}

/// A log of another kind, whose lines have no numbers.
///
/// # Errors
/// As of any operation, where it fails at once.
pub(super) async fn stream(
    state: &ApiState,
    caller: &Caller,
    wanted: Wanted,
    headers: &HeaderMap,
    version: Version,
    plain: &'static str,
) -> Result<Response, ApiError> {
    answer(state, caller, wanted, Form { events: accepts_events(headers), lines: None, version, headers, plain }).await
}

/// In which form a log goes on.
struct Form<'a> {
    events: bool,
    /// What numbers its events.
    lines: Option<Lines>,
    version: Version,
    headers: &'a HeaderMap,
    /// The content type where it goes on as it is.
    plain: &'static str,
}

async fn answer(state: &ApiState, caller: &Caller, wanted: Wanted, form: Form<'_>) -> Result<Response, ApiError> {
    let Form { events, lines, version, headers, plain } = form;
    let place = state.streams.take(&caller.user().id)?;
    let mut running = Running::start(state, caller, wanted).await?;

    let first = tokio::time::timeout(HEAD_WAIT, running.next()).await.ok();
    if let Some(Output::Outcome(outcome)) = &first
        && outcome.code != "ok"
    {
        return Err(ApiError::from_outcome(outcome).of_operation(running.id()));
    }
    let operation = running.header();
    let log = Log { running, first, place: Some(place) };
    let mut response = if events {
        let mut response = Response::new(log.events(lines));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response
    } else {
        let trailers = version == Version::HTTP_2 || says_trailers(headers);
        let mut response = Response::new(log.plain(trailers));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(plain));
        response.headers_mut().insert(header::TRAILER, HeaderValue::from_static(OUTCOME_TRAILER));
        response
    };
    response.headers_mut().insert(super::OPERATION_HEADER, operation);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// Where a client goes on.
fn place(id: &HeaderValue) -> Result<Place, ApiError> {
    let parsed = id.to_str().ok().and_then(Place::parse);
    parsed.ok_or_else(|| Code::InvalidArgument.on("Last-Event-ID is no event's of a log").into())
}

/// A log on its way.
struct Log {
    running: Running,
    first: Option<Output>,
    /// Taken out with the outcome: there is nothing after it.
    place: Option<StreamPlace>,
}

// === impl Log ===

impl Log {
    async fn next(&mut self) -> Output {
        match self.first.take() {
            Some(first) => first,
            None => self.running.next().await,
        }
    }

    /// The bytes as they are. A client that takes no trailers learns of a failure by a body that does not end properly.
    fn plain(self, trailers: bool) -> Body {
        Body::new(StreamBody::new(stream::unfold(self, move |mut log| async move {
            log.place.as_ref()?;
            let frame = match log.next().await {
                Output::Head(_) => Ok(Frame::data(Bytes::new())),
                Output::Data(bytes) | Output::Stderr(bytes) => Ok(Frame::data(bytes)),
                Output::Outcome(outcome) => {
                    log.place = None;
                    end(&outcome, trailers)
                }
            };
            Some((frame, log))
        })))
    }

    /// The same as events. Text is UTF-8 here, what is not is replaced, and every line end becomes a line feed. `lines`: each has an id, after
    /// which it can be gone on with.
    fn events(self, lines: Option<Lines>) -> Body {
        let state = (self, Vec::new(), lines);
        Body::from_stream(stream::unfold(state, |(mut log, mut held, mut lines)| async move {
            log.place.as_ref()?;
            let event = loop {
                match tokio::time::timeout(SSE_ALIVE, log.next()).await {
                    Err(_) => break ": alive\n\n".to_owned(),
                    Ok(Output::Head(_)) => {}
                    Ok(Output::Data(bytes) | Output::Stderr(bytes)) => {
                        let Given { text: bytes, id } = match &mut lines {
                            Some(lines) => lines.add(&bytes),
                            None => Given { text: bytes, id: None },
                        };
                        let text = take_text(&mut held, &bytes);
                        if !text.is_empty() {
                            let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
                            break format!("{id}{}", data(&text));
                        }
                    }
                    Ok(Output::Outcome(outcome)) => {
                        log.place = None;
                        // of one that was cut off the last line may be half a one, and comes again
                        if let Some(lines) = lines.as_mut().filter(|_| outcome.code == "ok") {
                            held.extend_from_slice(&lines.rest());
                        }
                        let rest = String::from_utf8_lossy(&held).into_owned();
                        let rest = if rest.is_empty() { String::new() } else { data(&rest) };
                        break format!("{rest}event: outcome\ndata: {}\n\n", OutcomeBody::from(&outcome).json());
                    }
                }
            };
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(event)), (log, held, lines)))
        }))
    }
}

/// The last frame of a plain stream.
fn end(outcome: &Outcome, trailers: bool) -> Result<Frame<Bytes>, std::io::Error> {
    if trailers {
        let mut map = HeaderMap::new();
        map.insert(OUTCOME_TRAILER, OutcomeBody::from(outcome).header());
        return Ok(Frame::trailers(map));
    }
    if outcome.code == "ok" {
        return Ok(Frame::data(Bytes::new()));
    }
    Err(std::io::Error::other(format!("the operation ended with {}: {}", outcome.code, outcome.message)))
}

/// One event with these lines.
fn data(text: &str) -> String {
    let mut event = String::with_capacity(text.len() + 16);
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        event.push_str("data: ");
        event.push_str(line);
        event.push('\n');
    }
    event.push('\n');
    event
}

/// What of these bytes is whole text; a character that is not whole yet is held for the next ones, and so is a last CR, which a LF
/// may follow.
fn take_text(held: &mut Vec<u8>, bytes: &[u8]) -> String {
    held.extend_from_slice(bytes);
    let mut whole = held.len();
    for back in 1..=held.len().min(3) {
        let byte = held[held.len() - back];
        if byte & 0xC0 == 0x80 {
            continue;
        }
        let length = match byte {
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            _ => 1,
        };
        if length > back {
            whole = held.len() - back;
        }
        break;
    }
    if whole == held.len() && held.last() == Some(&b'\r') {
        whole -= 1;
    }
    let rest = held.split_off(whole);
    let text = String::from_utf8_lossy(held).into_owned();
    *held = rest;
    text
}

fn accepts_events(headers: &HeaderMap) -> bool {
    says(headers, header::ACCEPT, "text/event-stream")
}
fn says_trailers(headers: &HeaderMap) -> bool {
    says(headers, header::TE, "trailers")
}
fn says(headers: &HeaderMap, name: header::HeaderName, what: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|v| v.split(';').next().is_some_and(|v| v.trim().eq_ignore_ascii_case(what)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an SSE reader makes of an event's lines.
    fn read(event: &str) -> String {
        event.lines().filter_map(|l| l.strip_prefix("data: ")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn events_give_the_text_back_however_it_is_cut() {
        let text = "ä\u{1F600}x\nsecond\n\nlast\n";
        for cut in 0..=text.len() {
            let (a, b) = text.as_bytes().split_at(cut);
            let mut held = Vec::new();
            let mut seen = String::new();
            for part in [a, b] {
                let text = take_text(&mut held, part);
                if !text.is_empty() {
                    seen.push_str(&read(&data(&text)));
                }
            }
            assert_eq!(seen, text, "cut at {cut}");
            assert!(held.is_empty());
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hold_the_stream_up() {
        let mut held = Vec::new();
        assert_eq!(take_text(&mut held, b"a\xff\xffb"), "a\u{FFFD}\u{FFFD}b");
        assert_eq!(take_text(&mut held, &[0x80; 8]).chars().count(), 8);
        assert_eq!(take_text(&mut held, b"a\r"), "a");
        assert_eq!(read(&data(&take_text(&mut held, b"\nb\rc"))), "\nb\nc");
    }

    #[test]
    fn headers() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/plain, Text/Event-Stream;q=0.9"));
        assert!(accepts_events(&headers) && !says_trailers(&headers));
    }
}
