//! The stand-in cluster: an honest little API server for the demonstration, with a few pods that are nothing but names. It speaks
//! real HTTPS, checks a bearer token, and answers what `runnerctl k8s` asks (also kubectl's `get`, `logs` and `exec`). It lives
//! only inside the demo's process, listens on loopback, and runs no program: the commands it knows are written here.

use super::standin_exec;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Connections at once.
const CONNECTIONS: usize = 256;
/// A followed log gets a line each.
const BEAT: Duration = Duration::from_millis(200);
/// The lines that were there before.
const HISTORY: usize = 5;

/// Its pods: namespace, name, node, containers.
const PODS: [(&str, &str, &str, &[&str]); 4] = [
    ("demo", "web-7d4b9c-x2x", "node-a", &["web"]),
    ("demo", "worker-0", "node-b", &["worker", "sidecar"]),
    ("demo", "worker-1", "node-a", &["worker", "sidecar"]),
    ("kube-system", "dns-5f6c-9kq", "node-b", &["dns"]),
];

type Body = BoxBody<Bytes, io::Error>;

/// A running stand-in; dropping it ends it.
#[derive(Debug)]
pub(super) struct StandIn {
    address: SocketAddr,
    token: String,
    ca: String,
    task: JoinHandle<()>,
}

// === impl StandIn ===

impl StandIn {
    /// Starts it on a free loopback port, with a token and a certificate of its own.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        let certificate = params.self_signed(&key)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )?;
        // WebSockets are HTTP/1.1's
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let token = random_token()?;
        let expected: Arc<str> = format!("Bearer {token}").into();
        let task = tokio::spawn(async move {
            let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                let Ok((tcp, _)) = listener.accept().await else { continue };
                while connections.try_join_next().is_some() {}
                let (acceptor, expected) = (acceptor.clone(), Arc::clone(&expected));
                connections.spawn(async move {
                    let _slot = slot;
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |request| answer(request, Arc::clone(&expected)));
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(tls), service).with_upgrades().await;
                });
            }
        });
        Ok(Self { address, token, ca: certificate.pem(), task })
    }
    /// A kubeconfig for it.
    pub(super) fn kubeconfig(&self) -> String {
        use base64::Engine as _;
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.ca);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: stand-in\nclusters:\n- name: stand-in\n  cluster:\n    server: \
             https://{}\n    certificate-authority-data: {ca}\nusers:\n- name: demo\n  user:\n    token: {}\ncontexts:\n- \
             name: stand-in\n  context:\n    cluster: stand-in\n    user: demo\n    namespace: demo\n",
            self.address, self.token
        )
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A token of the stand-in's own: nobody else on this machine may use it.
fn random_token() -> anyhow::Result<String> {
    let secret = shared_proto::api_key::generate(shared_proto::api_key::Purpose::User)?;
    Ok(secret.expose().replace("rnt_", "standin-"))
}

async fn answer(request: Request<Incoming>, expected: Arc<str>) -> Result<Response<Body>, Infallible> {
    let authorized = request.headers().get(header::AUTHORIZATION).is_some_and(|v| v.as_bytes() == expected.as_bytes());
    if !authorized {
        return Ok(status(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized"));
    }
    let path = request.uri().path().trim_end_matches('/').to_owned();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    Ok(match (request.method(), &segments[..]) {
        (_, ["version"]) => json_of(&json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0-stand-in", "gitCommit": "", "platform": "linux/amd64"
        })),
        (_, ["api"]) => json_of(&json!({ "kind": "APIVersions", "versions": ["v1"] })),
        (_, ["apis"]) => json_of(&json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] })),
        (_, ["api", "v1"]) => json_of(&resources()),
        (&Method::POST, ["apis", "authentication.k8s.io", "v1", "selfsubjectreviews"]) => json_of(&json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {},
            "status": { "userInfo": { "username": "demo", "uid": "demo", "groups": ["system:authenticated"] } }
        })),
        (&Method::GET, ["api", "v1", "namespaces"]) => {
            let names = ["default", "demo", "kube-system"];
            list("NamespaceList", names.map(namespace).into())
        }
        (&Method::GET, ["api", "v1", "namespaces", name]) if ["default", "demo", "kube-system"].contains(name) => {
            json_of(&namespace(name))
        }
        (&Method::GET, ["api", "v1", "pods"]) => list("PodList", pods(None, &query)),
        (&Method::GET, ["api", "v1", "namespaces", ns, "pods"]) => list("PodList", pods(Some(ns), &query)),
        (&Method::GET, ["api", "v1", "events"] | ["api", "v1", "namespaces", _, "events"]) => {
            list("EventList", events(&query))
        }
        (_, ["api", "v1", "namespaces", ns, "pods", name, rest @ ..]) => {
            match PODS.iter().find(|p| p.0 == *ns && p.1 == *name) {
                None => missing("pods", name),
                Some(found) => match (request.method().clone(), rest) {
                    (Method::GET, []) => json_of(&pod(found)),
                    (Method::GET, ["log"]) => log(found, &query),
                    (Method::GET | Method::POST, ["exec"]) => exec(request, found, &query),
                    _ => missing("subresources", rest.first().unwrap_or(&"")),
                },
            }
        }
        _ => missing("paths", &path),
    })
}

// ---- objects

fn pod((namespace, name, node, containers): &(&str, &str, &str, &[&str])) -> Value {
    let started = "2026-01-01T08:00:00Z";
    let app = name.split('-').next().unwrap_or(name);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("00000000-stand-in-{name}"), "creationTimestamp": started,
            "resourceVersion": "1", "labels": { "app": app },
        },
        "spec": {
            "nodeName": node,
            "containers": containers.iter().map(|c| json!({ "name": c, "image": format!("stand-in/{c}:1.0") })).collect::<Vec<_>>(),
        },
        "status": {
            "phase": "Running", "podIP": format!("10.244.0.{}", 10 + name.len()), "startTime": started,
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": containers.iter().map(|c| json!({
                "name": c, "ready": true, "restartCount": 0, "image": format!("stand-in/{c}:1.0"), "imageID": "",
                "state": { "running": { "startedAt": started } },
            })).collect::<Vec<_>>(),
        },
    })
}

fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace", "status": { "phase": "Active" },
        "metadata": { "name": name, "creationTimestamp": "2026-01-01T08:00:00Z", "labels": { "kubernetes.io/metadata.name": name } },
    })
}

fn pods(namespace: Option<&str>, query: &Query) -> Vec<Value> {
    let of = |selector: &str, at: fn(&Value, &str) -> String| {
        let terms: Vec<(String, bool, String)> = selector
            .split(',')
            .filter_map(|term| {
                let (key, value, equal) = match term.split_once("!=") {
                    Some((key, value)) => (key, value, false),
                    None => term.split_once('=').map(|(key, value)| (key, value.trim_start_matches('='), true))?,
                };
                Some((key.trim().to_owned(), equal, value.trim().to_owned()))
            })
            .collect();
        move |pod: &Value| terms.iter().all(|(key, equal, value)| (at(pod, key) == *value) == *equal)
    };
    let labels = of(query.get("labelSelector"), |pod, key| {
        pod["metadata"]["labels"][key].as_str().unwrap_or_default().to_owned()
    });
    let fields = of(query.get("fieldSelector"), |pod, key| {
        let pointer = format!("/{}", key.replace('.', "/"));
        pod.pointer(&pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    });
    PODS.iter()
        .filter(|p| namespace.is_none_or(|ns| p.0 == ns))
        .map(pod)
        .filter(|pod| labels(pod) && fields(pod))
        .collect()
}

fn events(query: &Query) -> Vec<Value> {
    let selector = query.get("fieldSelector");
    PODS.iter()
        .filter(|p| {
            !selector.contains("involvedObject.name=") || selector.contains(&format!("involvedObject.name={}", p.1))
        })
        .map(|(namespace, name, node, _)| {
            json!({
                "apiVersion": "v1", "kind": "Event", "type": "Normal", "reason": "Scheduled", "count": 1,
                "message": format!("Successfully assigned {namespace}/{name} to {node}"),
                "metadata": { "name": format!("{name}.1"), "namespace": namespace },
                "involvedObject": { "kind": "Pod", "name": name, "namespace": namespace },
                "source": { "component": "stand-in-scheduler" },
                "firstTimestamp": "2026-01-01T08:00:00Z", "lastTimestamp": "2026-01-01T08:00:00Z",
            })
        })
        .collect()
}

fn resources() -> Value {
    let resource = |name: &str, kind: &str, namespaced: bool, verbs: &[&str]| json!({ "name": name, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": verbs });
    json!({
        "kind": "APIResourceList", "groupVersion": "v1",
        "resources": [
            resource("namespaces", "Namespace", false, &["get", "list"]),
            resource("pods", "Pod", true, &["get", "list"]),
            resource("pods/log", "Pod", true, &["get"]),
            resource("pods/exec", "PodExecOptions", true, &["create", "get"]),
            resource("events", "Event", true, &["list"]),
        ],
    })
}

// ---- logs

fn log(pod: &(&str, &str, &str, &[&str]), query: &Query) -> Response<Body> {
    let container = match container(pod, query) {
        Ok(container) => container.to_owned(),
        Err(refused) => return *refused,
    };
    if query.is("previous") {
        let message = format!("previous terminated container {container:?} in pod {:?} not found", pod.1);
        return status(StatusCode::BAD_REQUEST, "BadRequest", &message);
    }
    let tail = query.get("tailLines").parse::<usize>().unwrap_or(HISTORY).min(HISTORY);
    let (follow, timestamps, name) = (query.is("follow"), query.is("timestamps"), pod.1.to_owned());
    let line = move |number: usize| {
        let stamp = if timestamps { format!("{} ", now()) } else { String::new() };
        format!("{stamp}{name}/{container}: request {number} served in {} ms\n", 3 + number * 7 % 11)
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for number in HISTORY - tail.. {
            if number >= HISTORY {
                if !follow {
                    return;
                }
                tokio::time::sleep(BEAT).await;
            }
            // whoever read it is gone: the log ends
            if sender.send(Ok::<_, io::Error>(Frame::data(Bytes::from(line(number))))).await.is_err() {
                return;
            }
        }
    });
    let lines = futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|frame| (frame, receiver))
    });
    let mut response = Response::new(BoxBody::new(StreamBody::new(Box::pin(lines))));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

/// The container that is meant, as the real API server decides it.
fn container<'a>(pod: &(&str, &str, &str, &'a [&'a str]), query: &'a Query) -> Result<&'a str, Box<Response<Body>>> {
    let bad = |message: String| Err(Box::new(status(StatusCode::BAD_REQUEST, "BadRequest", &message)));
    match (query.get("container"), pod.3) {
        ("", [only]) => Ok(only),
        ("", several) => {
            bad(format!("a container name must be specified for pod {}, choose one of: [{}]", pod.1, several.join(" ")))
        }
        (named, all) if all.contains(&named) => Ok(named),
        (named, _) => bad(format!("container {named} is not valid for pod {}", pod.1)),
    }
}

// ---- exec

fn exec(mut request: Request<Incoming>, pod: &(&str, &str, &str, &[&str]), query: &Query) -> Response<Body> {
    let container = match container(pod, query) {
        Ok(container) => container.to_owned(),
        Err(refused) => return *refused,
    };
    let Some((protocol, accept)) = standin_exec::negotiate(request.headers()) else {
        return status(
            StatusCode::BAD_REQUEST,
            "BadRequest",
            "the stand-in speaks v5.channel.k8s.io and v4.channel.k8s.io only",
        );
    };
    let run = standin_exec::Run {
        pod: pod.1.to_owned(),
        container,
        command: query.all("command"),
        stdin: query.is("stdin"),
        tty: query.is("tty"),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            standin_exec::serve(upgraded, run).await;
        }
    });
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_PROTOCOL, protocol),
        (header::SEC_WEBSOCKET_ACCEPT, &accept),
    ] {
        if let Ok(value) = header::HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

// ---- answers

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}
fn json_of(value: &Value) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from(value.to_string())));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
fn list(kind: &str, items: Vec<Value>) -> Response<Body> {
    json_of(&json!({ "apiVersion": "v1", "kind": kind, "metadata": { "resourceVersion": "1" }, "items": items }))
}
fn missing(kind: &str, name: &str) -> Response<Body> {
    status(StatusCode::NOT_FOUND, "NotFound", &format!("{kind} {name:?} not found"))
}
fn status(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let mut response = json_of(&json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code.as_u16(),
    }));
    *response.status_mut() = code;
    response
}
/// The present moment, RFC 3339.
pub(super) fn now() -> String {
    time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

/// A query's values by name.
struct Query(HashMap<String, Vec<String>>);

// === impl Query ===

impl Query {
    fn parse(text: &str) -> Self {
        let mut values: HashMap<String, Vec<String>> = HashMap::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.entry(decode(name)).or_default().push(decode(value));
        }
        Self(values)
    }
    fn get(&self, name: &str) -> &str {
        self.0.get(name).and_then(|v| v.first()).map_or("", String::as_str)
    }
    fn all(&self, name: &str) -> Vec<String> {
        self.0.get(name).cloned().unwrap_or_default()
    }
    fn is(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1")
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex: String = bytes.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&hex, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_select() {
        let names = |ns: Option<&str>, query: &str| -> Vec<String> {
            pods(ns, &Query::parse(query))
                .iter()
                .map(|p| p["metadata"]["name"].as_str().unwrap_or_default().to_owned())
                .collect()
        };
        assert_eq!(names(None, "").len(), 4);
        assert_eq!(names(Some("demo"), "labelSelector=app%3Dweb"), ["web-7d4b9c-x2x"]);
        assert_eq!(names(Some("demo"), "labelSelector=app!%3Dweb").len(), 2);
        assert_eq!(names(None, "fieldSelector=spec.nodeName%3D%3Dnode-b,metadata.name%3Dworker-0"), ["worker-0"]);
        assert_eq!(names(Some("default"), ""), Vec::<String>::new());
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("command=sh&command=-c&command=exit+3%3B&stdin=1&x");
        assert_eq!(query.all("command"), ["sh", "-c", "exit 3;"]);
        assert!(query.is("stdin") && !query.is("x") && !query.is("tty"));
    }
}
