//! Resources of many connections and many of their places at once, one JSON object a line as they come: `{"resource"}`, `{"failure"}`, and at the
//! end one `{"end"}`.
//!
//! ```text
//!   connections ─▶ their places, where all are asked for ─▶ one operation each, some at a time ─▶ lines ─▶ end
//! ```
//! What fails for one is told beside what others gave. It must never hold more of the answers than [`AT_ONCE`] documents, and must not go on
//! for a client that has left.

use super::checked;
use super::running::{Running, Wanted};
use super::{ApiError, ApiState, Caller, Params, Routes};
use crate::store::{Connection, Provider};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderValue, header};
use serde_json::{Map, Value, json};
use shared_proto::documents::{Places, ResourceFailure, Resources};
use shared_proto::failure::{Code, Failure};
use shared_proto::inventory::{self, LIMIT_MAX, TYPES_MAX};
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{ListPlaces, ListResources};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::mpsc;
use utoipa::OpenApi;

/// Operations of one request at a time.
const AT_ONCE: usize = 12;
/// Places of one connection.
const PLACES_MAX: usize = 200;
/// Operations of one request altogether.
const OPERATIONS_MAX: usize = 2000;
/// Lines that wait for the client.
const WAITING: usize = 64;
/// Every place that there is.
const EVERY: &str = "*";

#[derive(OpenApi)]
#[openapi(paths(resources))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new().add_stream("get", "/resources", resources)
}

/// What is looked for, and where.
#[derive(Debug)]
struct Search {
    runner: Option<String>,
    /// The provider's types; absent: it is not asked. None at all: each is asked for all that it knows.
    types: HashMap<&'static str, Vec<String>>,
    places: Vec<String>,
    tags: HashMap<String, String>,
    text: String,
    limit: u32,
}

/// One operation to come.
struct Step {
    connection: Arc<Connection>,
    place: String,
}

/// Counts for the end.
#[derive(Default)]
struct Counts {
    asked: u64,
    resources: u64,
    failures: u64,
    truncated: bool,
}

#[utoipa::path(get, path = "/api/v1/resources", tag = "clouds",
    params(("connection" = Option<Vec<String>>, Query, description = "Id or name, may be there several times; absent: all"),
        ("provider" = Option<Vec<String>>, Query, description = "May be there several times"),
        ("place" = Option<Vec<String>>, Query, description = "Regions, projects, subscriptions, namespaces; `*`: all; absent: each connection's own"),
        ("type" = Option<Vec<String>>, Query, description = "As the providers name them; absent: what each lists by itself"),
        ("tag" = Option<Vec<String>>, Query, description = "KEY=VALUE, or KEY alone; all must be there"),
        ("text" = Option<String>, Query, description = "In the name, the id, or a tag, whatever the case"),
        ("limit" = Option<u32>, Query, description = "Of each place; 1,000 where absent"), ("runner" = Option<String>, Query)),
    responses((status = 200, description = "One JSON object a line: `{resource}`, `{failure}`, and at the end `{end}`",
        content((String = "application/x-ndjson")))))]
async fn resources(State(state): State<ApiState>, caller: Caller, mut params: Params) -> Result<Response, ApiError> {
    let named = params.all("connection");
    let providers: Vec<Provider> = params.all("provider").iter().map(|p| provider(p)).collect::<Result<_, _>>()?;
    let search = search(&mut params)?;
    params.finish()?;
    let connections = chosen(&state, &caller, &named, &providers, &search).await?;
    let place = state.streams.take(&caller.user().id)?;
    let (lines, received) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let _place = place;
        tokio::select! {
            // the client has left: what runs is dropped, and so cancelled
            () = lines.closed() => {}
            () = run(&state, &caller, connections, &search, &lines) => {}
        }
    });
    let body = stream::unfold(received, |mut received| async move {
        let line: Bytes = received.recv().await?;
        Some((Ok::<_, Infallible>(line), received))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn provider(text: &str) -> Result<Provider, Failure> {
    let all = [Provider::Kubernetes, Provider::Aws, Provider::Gcp, Provider::Azure];
    all.into_iter()
        .find(|p| p.to_string() == text)
        .ok_or_else(|| Code::InvalidArgument.on("provider is not one of kubernetes, aws, gcp and azure"))
}

fn search(params: &mut Params) -> Result<Search, Failure> {
    let words = |params: &mut Params, name: &str| {
        params.all(name).into_iter().map(|t| checked::word(name, t)).collect::<Result<Vec<_>, _>>()
    };
    let (named, places) = (words(params, "type")?, words(params, "place")?);
    if places.len() > PLACES_MAX {
        return Err(Code::TooLarge.on(format!("place is there {} times, the limit is {PLACES_MAX}", places.len())));
    }
    let mut types = HashMap::<_, Vec<String>>::new();
    for name in named {
        let provider = inventory::provider_of(&name);
        // rules are asked by the names as the table has them
        let name = inventory::find(provider, &name).map_or(name, |known| known.name.to_owned());
        let of = types.entry(provider).or_default();
        if !of.contains(&name) {
            of.push(name);
        }
        if of.len() > TYPES_MAX {
            return Err(Code::TooLarge.on(format!("at most {TYPES_MAX} types can be asked for at once")));
        }
    }
    Ok(Search {
        runner: params.text("runner")?,
        types,
        places,
        tags: checked::tags("tag", params.all("tag"))?,
        text: params.text("text")?.map(|t| checked::identifier("text", t)).transpose()?.unwrap_or_default(),
        limit: params.number("limit", 1..=LIMIT_MAX)?.unwrap_or(0),
    })
}

/// The connections that are asked: those that are named, of the providers that are meant.
async fn chosen(
    state: &ApiState,
    caller: &Caller,
    named: &[String],
    providers: &[Provider],
    search: &Search,
) -> Result<Vec<Arc<Connection>>, ApiError> {
    let mut all = Vec::new();
    if named.is_empty() {
        all = state.store.connections(caller.org(), super::LIST_MAX).await?;
    }
    for name in named {
        let one = state.store.connection(caller.org(), name).await?;
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all.retain(|c| {
        (providers.is_empty() || providers.contains(&c.provider))
            && (search.types.is_empty() || search.types.contains_key(c.provider.to_string().as_str()))
    });
    if all.is_empty() {
        return Err(Code::NotFound
            .on("there is no connection of that kind to look into")
            .next("Name connections, providers and types that go together; `runnerctl connection list` has them.")
            .into());
    }
    Ok(all.into_iter().map(Arc::new).collect())
}

async fn run(
    state: &ApiState,
    caller: &Caller,
    connections: Vec<Arc<Connection>>,
    search: &Search,
    lines: &mpsc::Sender<Bytes>,
) {
    let mut counts = Counts::default();
    let places = stream::iter(connections).map(|connection| places(state, caller, connection, search));
    let mut left = OPERATIONS_MAX;
    let mut steps = Box::pin(places.buffer_unordered(AT_ONCE / 2));
    let mut waiting: Vec<Step> = Vec::new();
    let mut running = stream::FuturesUnordered::new();
    let mut is_known = false;
    loop {
        while running.len() < AT_ONCE && left > 0 {
            let Some(step) = waiting.pop() else { break };
            left -= 1;
            running.push(list(state, caller, step, search));
        }
        if is_known && running.is_empty() {
            break;
        }
        tokio::select! {
            found = steps.next(), if !is_known => match found {
                Some(Ok(found)) => waiting.extend(found.into_iter().rev()),
                Some(Err((step, error))) => tell(lines, failed(&mut counts, &step, &error)).await,
                None => is_known = true,
            },
            Some((step, listed)) = running.next() => match listed {
                Ok(listed) => {
                    // where all that came is why nothing came, it has not answered
                    counts.asked += u64::from(!listed.items.is_empty() || listed.failures.is_empty());
                    give(lines, &mut counts, &step, listed).await;
                }
                Err(error) => tell(lines, failed(&mut counts, &step, &error)).await,
            },
        }
    }
    let over = waiting.len();
    if over > 0 {
        let busy =
            Code::TooLarge.on(format!("{over} places were left out: one request looks into {OPERATIONS_MAX} at most"));
        counts.truncated = true;
        let failure = json!({"failure": {"code": busy.code.as_str(), "message": busy.message, "next_step": "Name connections or places."}});
        tell(lines, failure).await;
    }
    tell(
        lines,
        json!({"end": {
            "code": "ok", "asked": counts.asked, "resources": counts.resources,
            "failures": counts.failures, "truncated": counts.truncated,
        }}),
    )
    .await;
}

/// Where a connection is to be asked.
async fn places(
    state: &ApiState,
    caller: &Caller,
    connection: Arc<Connection>,
    search: &Search,
) -> Result<Vec<Step>, (Step, ApiError)> {
    let step = |place: String| Step { connection: connection.clone(), place };
    if !search.places.iter().any(|p| p == EVERY) {
        let places = if search.places.is_empty() { vec![String::new()] } else { search.places.clone() };
        return Ok(places.into_iter().map(step).collect());
    }
    // one list of a cluster is of all its namespaces
    if connection.provider == Provider::Kubernetes {
        return Ok(vec![step(String::new())]);
    }
    let asked = async {
        let what = What::ListPlaces(ListPlaces::default());
        let bytes = start(state, caller, &connection, search, what).await?.bytes(&state.documents).await?.0;
        serde_json::from_slice::<Places>(&bytes).map_err(|e| unreadable(&e))
    };
    match asked.await {
        Ok(places) => Ok(places.items.into_iter().take(PLACES_MAX).map(|place| step(place.name)).collect()),
        Err(error) => Err((step(EVERY.to_owned()), error)),
    }
}

async fn list(state: &ApiState, caller: &Caller, step: Step, search: &Search) -> (Step, Result<Resources, ApiError>) {
    let listed = async {
        let what = What::ListResources(ListResources {
            place: step.place.clone(),
            types: search.types.get(step.connection.provider.to_string().as_str()).cloned().unwrap_or_default(),
            tags: search.tags.clone(),
            text: search.text.clone(),
            limit: search.limit,
            // what the runner's policy says, the runner says
            ..Default::default()
        });
        let bytes = start(state, caller, &step.connection, search, what).await?.bytes(&state.documents).await?.0;
        serde_json::from_slice(&bytes).map_err(|e| unreadable(&e))
    };
    let listed = listed.await;
    (step, listed)
}

async fn start(
    state: &ApiState,
    caller: &Caller,
    connection: &Connection,
    search: &Search,
    what: What,
) -> Result<Running, ApiError> {
    let wanted =
        Wanted { connection: connection.id.clone(), runner: search.runner.clone(), provider: None, what, unary: true };
    Running::start(state, caller, wanted).await
}

fn unreadable(error: &serde_json::Error) -> ApiError {
    Code::Internal.on(format!("the runner's answer is not a list of resources: {error}")).into()
}

async fn give(lines: &mpsc::Sender<Bytes>, counts: &mut Counts, step: &Step, listed: Resources) {
    counts.truncated |= listed.truncated;
    counts.resources += listed.items.len() as u64;
    for resource in listed.items {
        let Ok(Value::Object(fields)) = serde_json::to_value(resource) else { continue };
        tell(lines, json!({ "resource": of(step, fields) })).await;
    }
    for failure in listed.failures {
        counts.failures += 1;
        tell(lines, failure_of(step, &failure)).await;
    }
    if listed.truncated {
        let failure = ResourceFailure {
            type_name: String::new(),
            code: Code::TooLarge.as_str().to_owned(),
            message: "there is more here than the limit".to_owned(),
            next_step: "Raise the limit, or ask for less.".to_owned(),
        };
        tell(lines, failure_of(step, &failure)).await;
    }
}

/// What a connection or a place of it failed with.
fn failed(counts: &mut Counts, step: &Step, error: &ApiError) -> Value {
    counts.failures += 1;
    let failure = error.failure();
    let failure = ResourceFailure {
        type_name: String::new(),
        code: failure.code.as_str().to_owned(),
        message: failure.message.clone(),
        next_step: failure.next_step.clone(),
    };
    failure_of(step, &failure)
}

fn failure_of(step: &Step, failure: &ResourceFailure) -> Value {
    match serde_json::to_value(failure) {
        Ok(Value::Object(fields)) => json!({ "failure": of(step, fields) }),
        _ => Value::Null,
    }
}

/// With whose it is.
fn of(step: &Step, fields: Map<String, Value>) -> Value {
    let mut all = Map::new();
    all.insert("connection".to_owned(), step.connection.name.clone().into());
    all.insert("provider".to_owned(), step.connection.provider.to_string().into());
    all.insert("place".to_owned(), step.place.clone().into());
    all.extend(fields);
    Value::Object(all)
}

async fn tell(lines: &mpsc::Sender<Bytes>, line: Value) {
    // whoever has left is noticed where it is read
    let _ = lines.send(Bytes::from(format!("{line}\n"))).await;
}
