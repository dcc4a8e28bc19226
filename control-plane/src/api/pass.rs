//! The Kubernetes API of a connection, passed through: whatever a client of Kubernetes sends below a connection's `kubernetes/` goes to a
//! worker as it is, and the answer comes back as the API server gave it. What fails before there is one is told as a `Status`, which such
//! clients show.
//!
//! It must never pass on the caller's token.

use super::listener::ConnectionPlace;
use super::passing::{Feeding, answer, begun, given, head, length};
use super::running::{Running, Wanted};
use super::{ApiError, ApiState, Caller, Named, Params, Routes, account, caller};
use crate::operations::{Input, Output};
use crate::store::Provider;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use axum::{Extension, Json, Router};
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use http_body::Body as _;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use shared_proto::ahead::Pieces;
use shared_proto::api_key::Purpose;
use shared_proto::bounds::DATA_MAX;
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use shared_proto::v1::K8sRequest;
use shared_proto::v1::operation_request::What;
use std::collections::HashMap;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use utoipa::{OpenApi, ToSchema};

/// How long a token for the Kubernetes API of a connection is good.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// The longest path with its query, bytes.
const TARGET_MAX: usize = 64 * 1024;
/// How long what the API server still says is waited for once the client has said its last.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// Of the client's headers those that are for this end.
const OURS: [HeaderName; 3] = [header::AUTHORIZATION, header::COOKIE, header::HOST];

#[derive(OpenApi)]
#[openapi(paths(token))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new().add("post", "/connections/{connection}/k8s/token", token)
}

/// The routes that take any method, and a token for one cluster. They are described by the Kubernetes API's own description.
pub(super) fn passing() -> Router<ApiState> {
    let mut router = Router::new();
    for below in ["/api/v1/connections/{connection}", "/api/v1/runners/{runner}/connections/{connection}"] {
        for rest in ["/kubernetes", "/kubernetes/", "/kubernetes/{*path}"] {
            router = router.route(&format!("{below}{rest}"), any(pass));
        }
    }
    router
}

/// A token for the Kubernetes API of one connection.
#[derive(Serialize, ToSchema)]
struct ClusterToken {
    /// It is good for the Kubernetes API of this connection alone.
    token: String,
    /// Until when, Unix milliseconds.
    expires_at_ms: i64,
}

#[utoipa::path(post, path = "/api/v1/connections/{connection}/k8s/token", tag = "kubernetes",
    params(("connection" = String, Path, description = "Id or name")),
    responses((status = 201, description = "For `/api/v1/connections/{connection}/kubernetes/…`, where the Kubernetes API of the \
        connection is passed through, and for nothing else", body = ClusterToken)))]
async fn token(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    params: Params,
) -> Result<(StatusCode, Json<ClusterToken>), ApiError> {
    params.finish()?;
    let connection = state.store.connection(caller.org(), &connection).await?;
    if connection.provider != Provider::Kubernetes {
        let message = format!("connection {} is of provider {}", connection.name, connection.provider);
        return Err(Code::WrongProvider.on(message).into());
    }
    let (token, digest) = account::new_token(Purpose::Cluster)?;
    let expires_at_ms = now_ms() + i64::try_from(TOKEN_LIFE.as_millis()).unwrap_or(0);
    state.store.add_kube_token(&caller.user().id, &connection.id, &digest, expires_at_ms).await?;
    Ok((StatusCode::CREATED, Json(ClusterToken { token: token.expose().to_owned(), expires_at_ms })))
}

async fn pass(
    State(state): State<ApiState>,
    caller: Caller,
    Named(mut names): Named<HashMap<String, String>>,
    place: Option<Extension<ConnectionPlace>>,
    request: Request,
) -> Response {
    let wanted = Wanted {
        connection: names.remove("connection").unwrap_or_default(),
        runner: names.remove("runner"),
        provider: Some(Provider::Kubernetes),
        what: What::K8sRequest(K8sRequest::default()),
        unary: false,
    };
    let before = if wanted.runner.is_some() { 7 } else { 5 };
    let tell = if caller.is_of_cluster() && discovers(request.uri().path(), before) { plain } else { status };
    serve(&state, &caller, wanted, before, place, request).await.unwrap_or_else(|error| tell(&error))
}

/// A path that is none of ours. With a token for one cluster it is that one's: `kubectl proxy` and others leave the path out that a
/// kubeconfig has for its server.
pub(super) async fn elsewhere(
    State(state): State<ApiState>,
    place: Option<Extension<ConnectionPlace>>,
    request: Request,
) -> Response {
    let (caller, connection) = match caller::of_cluster(&state, request.headers()).await {
        Some(Ok(found)) => found,
        Some(Err(failure)) => return status(&failure.into()),
        None => return ApiError::from(Code::NotFound.on("there is no such path")).into_response(),
    };
    let what = What::K8sRequest(K8sRequest::default());
    let wanted = Wanted { connection, runner: None, provider: Some(Provider::Kubernetes), what, unary: false };
    let tell = if discovers(request.uri().path(), 0) { plain } else { status };
    serve(&state, &caller, wanted, 0, place, request).await.unwrap_or_else(|error| tell(&error))
}

async fn serve(
    state: &ApiState,
    caller: &Caller,
    mut wanted: Wanted,
    before: usize,
    connection_place: Option<Extension<ConnectionPlace>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let upgrade =
        request.headers().contains_key(header::UPGRADE).then(|| request.extensions_mut().remove::<OnUpgrade>());
    // each may last as long as both ends like
    let place = state.streams.take(&caller.user().id)?;
    wanted.what = What::K8sRequest(asked(&request, before)?);
    let head_only = request.method() == Method::HEAD;
    let mut running = Running::start(state, caller, wanted).await?;
    let (input, body) = (running.input(), request.into_body());
    let feeding = if upgrade.is_some() { None } else { Feeding::start(body, &input) };
    let head = head(&mut running).await?;
    let mut response = begun(head, &running)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let on_upgrade =
            upgrade.flatten().ok_or_else(|| Code::InvalidArgument.on("this connection cannot be upgraded"))?;
        tokio::spawn(async move {
            if let Ok(upgraded) = on_upgrade.await {
                switched(upgraded, running, input).await;
            }
            drop((place, connection_place));
        });
        return Ok(response);
    }
    let length = if head_only { Some(0) } else { length(&response) };
    *response.body_mut() = answer(running, feeding, place, length);
    Ok(response)
}

/// The request as the runner gets it. `before`: so many segments of the path are ours.
fn asked(request: &Request, before: usize) -> Result<K8sRequest, Failure> {
    let whole = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let target = whole.match_indices(['/', '?']).nth(before).map_or("/", |(at, _)| &whole[at..]);
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    if target.len() > TARGET_MAX {
        return Err(
            Code::TooLarge.on(format!("the path with its query has {} bytes, the limit is {TARGET_MAX}", target.len()))
        );
    }
    let body = !request.body().is_end_stream();
    let own = request.headers().iter().filter(|(name, _)| !OURS.contains(name));
    let headers = given(own.map(|(name, value)| (name.as_str(), value)))?;
    Ok(K8sRequest {
        method: request.method().to_string(),
        target,
        headers,
        body,
        body_length: if body { request.body().size_hint().exact() } else { None },
    })
}

/// Passes on what both sides say in the protocol that they switched to.
async fn switched(upgraded: Upgraded, mut running: Running, input: Input) {
    let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
    let to_client = async {
        loop {
            match running.next().await {
                Output::Data(bytes) => {
                    if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                        return;
                    }
                }
                Output::Head(_) | Output::Stderr(_) => {}
                Output::Outcome(outcome) => {
                    if outcome.code == "ok" {
                        let _ = to.shutdown().await;
                    }
                    return;
                }
            }
        }
    };
    let from_client = async {
        // messages as large as they may be where much comes
        let (mut from, mut buffer) = (Pieces::new(&mut from, DATA_MAX), BytesMut::new());
        loop {
            match from.next(&mut buffer).await {
                Ok(n) if n > 0 => {
                    if input.stdin(buffer.split().freeze()).await.is_err() {
                        // how it ended comes on the other way
                        return std::future::pending().await;
                    }
                }
                Ok(_) => break,
                Err(_) => return,
            }
        }
        let _ = input.close_stdin().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        () = to_client => {}
        () = from_client => {}
    }
}

/// Whether somebody asks what the cluster knows, below so many segments of a path of ours: kubectl and helm do, before anything else.
fn discovers(path: &str, before: usize) -> bool {
    let below: Vec<_> = path.split('/').skip(1 + before).collect();
    matches!(below[..], ["api" | "apis" | "version"] | ["api" | "apis", _] | ["apis", _, _] | ["openapi", ..])
}

/// A failure as kubectl and helm take it while they discover what there is. They do not read a [`status`] then: of an answer that is text they show
/// the text, unless its code is one of those for which they have words of their own (client-go, rest/request.go, `newUnstructuredResponseError`;
/// apimachinery, api/errors, `NewGenericServerResponse`).
fn plain(error: &ApiError) -> Response {
    let mut response = status(error);
    if response.status().is_server_error() {
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        *response.body_mut() = Body::from(words(error.failure()));
    }
    response
}

/// A failure with its code and what to do, in one line.
fn words(failure: &Failure) -> String {
    let next = if failure.next_step.is_empty() { String::new() } else { format!(" ({})", failure.next_step) };
    format!("{}: {}{next}", failure.code, failure.message)
}

/// A failure as clients of Kubernetes take it.
pub(super) fn status(error: &ApiError) -> Response {
    let failure = error.failure();
    let code = StatusCode::from_u16(failure.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reason = match failure.code.http() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        409 => "Conflict",
        413 => "RequestEntityTooLarge",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": words(failure),
        "reason": reason, "code": code.as_u16(),
    });
    let mut response = Response::new(Body::from(Bytes::from(body.to_string())));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(id) = error.operation().and_then(|id| HeaderValue::from_str(id).ok()) {
        response.headers_mut().insert(super::OPERATION_HEADER, id);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str, before: usize) -> String {
        let request = Request::builder().uri(uri).body(Body::empty()).expect("a request");
        asked(&request, before).expect("in bounds").target
    }

    #[test]
    fn what_is_below_the_connection_goes_on_as_it_was_written() {
        for (below, target_there) in [
            ("", "/"),
            ("/", "/"),
            ("?a=/x", "/?a=/x"),
            ("/api/v1/pods?limit=500&x=%2F", "/api/v1/pods?limit=500&x=%2F"),
            ("//api", "//api"),
            ("/api/%2e%2e/x", "/api/%2e%2e/x"),
        ] {
            assert_eq!(target(&format!("/api/v1/connections/c/kubernetes{below}"), 5), target_there);
            if below.starts_with('/') {
                assert_eq!(target(below, 0), target_there);
            }
            assert_eq!(target(&format!("/api/v1/runners/r/connections/c/kubernetes{below}"), 7), target_there);
        }
    }

    #[test]
    fn both_sides_of_a_target_and_of_headers() {
        let request = |target: usize, header: usize| {
            let uri = format!("/api/v1/connections/c/kubernetes/{}", "a".repeat(target - 1));
            Request::builder().uri(uri).header("a", "x".repeat(header)).body(Body::empty()).expect("a request")
        };
        // an URI is no longer than 64 KiB
        assert!(asked(&request(TARGET_MAX - 100, 64 * 1024 - 9), 5).is_ok());
        let failure = asked(&request(1, 64 * 1024 - 8), 5).expect_err("too large");
        assert_eq!(failure.code, Code::TooLarge);
    }

    #[test]
    fn our_own_headers_do_not_go_on() {
        let request = Request::builder()
            .uri("/api/v1/connections/c/kubernetes/api")
            .header("authorization", "Bearer x")
            .header("cookie", "a=b")
            .header("host", "h")
            .header("accept", "application/json")
            .body(Body::empty())
            .expect("a request");
        let names: Vec<_> = asked(&request, 5).expect("in bounds").headers.into_iter().map(|h| h.name).collect();
        assert_eq!(names, ["accept"]);
    }

    #[test]
    fn what_clients_discover_by_is_known() {
        for path in ["/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/version", "/openapi/v3/apis/apps/v1"]
        {
            assert!(discovers(path, 0), "{path}");
            assert!(discovers(&format!("/api/v1/connections/c/kubernetes{path}"), 5), "{path}");
            assert!(discovers(&format!("/api/v1/runners/r/connections/c/kubernetes{path}"), 7), "{path}");
        }
        for path in ["/", "", "/api/v1/pods", "/apis/apps/v1/deployments", "/healthz", "/versions"] {
            assert!(!discovers(path, 0), "{path}");
        }
    }

    #[tokio::test]
    async fn whoever_discovers_is_told_in_words() {
        let response = plain(&Code::RunnerUnavailable.on("runner r").into());
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        assert!(response.headers()[header::CONTENT_TYPE].to_str().is_ok_and(|kind| kind.starts_with("text/plain")));
        let body = axum::body::to_bytes(response.into_body(), 4096).await.expect("a body");
        assert!(body.starts_with(b"runner_unavailable: runner r ("), "{body:?}");
        // for these clients have other uses: credentials are got anew
        assert_eq!(plain(&Code::Unauthenticated.on("x").into()).status(), StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn a_failure_is_a_status() {
        let response = status(&Code::RunnerUnavailable.on("runner r").into());
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = axum::body::to_bytes(response.into_body(), 4096).await.expect("a body");
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((body["kind"].as_str(), body["reason"].as_str()), (Some("Status"), Some("ServiceUnavailable")));
        assert!(body["message"].as_str().is_some_and(|m| m.starts_with("runner_unavailable: runner r")));
    }
}
