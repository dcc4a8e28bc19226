//! The API against a runner that speaks the real protocol over a pipe.

mod sockets;

use super::*;
use crate::execution::Archives;
use crate::sessions::fake::{FakeRunner, ListRegistry, hello, sessions};
use crate::store::{Connection, Organization, Provider, Role, Runner, User, new_id};
use axum::body::Body as HttpBody;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use shared_proto::api_key::{self, Purpose};
use shared_proto::now_ms;
use shared_proto::v1;
use tower::ServiceExt as _;

/// An organization with an owner and a member, a connected runner, and connections that name what the runner does.
struct Org {
    organization: Organization,
    owner: String,
    member: String,
    runner: Runner,
    fake: FakeRunner,
}

struct World {
    data: tempfile::TempDir,
    state: ApiState,
    admin: String,
    a: Org,
    b: Org,
}

/// One answer, read to its end.
#[derive(Debug, PartialEq)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

// === impl World ===

impl World {
    async fn new() -> Self {
        Self::with_streams(64).await
    }
    async fn with_streams(user_streams: usize) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let store = Store::in_memory().await.expect("a store");
        let authority =
            Arc::new(Authority::open(data.path(), vec!["localhost".parse().expect("a name")]).expect("a CA"));
        let sessions = sessions(Arc::new(ListRegistry::default()));
        let archives = Archives::open(&data.path().join("archives")).await.expect("a folder");
        let (ledger, _) = Ledger::start(store.clone());
        let state = ApiState {
            jobs: Jobs::new(store.clone(), archives),
            store,
            authority,
            sessions,
            endpoints: Endpoints { tunnel: "https://t:1".into(), execution: "https://e:2".into() },
            ledger,
            streams: StreamLimit::new(user_streams),
            documents: Documents::default(),
            deliveries: Deliveries::default(),
            networks: Networks::default(),
            leaving: CancellationToken::new(),
        };
        let a = Org::new(&state, "a").await;
        let b = Org::new(&state, "b").await;
        let admin = token(&state, &a.organization, "root", Role::Admin).await;
        Self { data, state, admin, a, b }
    }

    async fn call(&self, token: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send(token, method, path, body, &[]).await
    }
    async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(token, Method::GET, path, None, &[]).await
    }
    async fn send(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(header::HeaderName, &str)],
    ) -> Answer {
        read(self.begin(token, method, path, body, headers).await).await.expect("a whole body")
    }
    async fn begin(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(header::HeaderName, &str)],
    ) -> http::Response<HttpBody> {
        let mut request = http::Request::builder().method(method).uri(format!("/api/v1{path}"));
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = match body {
            Some(body) => {
                request.header(header::CONTENT_TYPE, "application/json").body(HttpBody::from(body.to_string()))
            }
            None => request.body(HttpBody::empty()),
        };
        router(self.state.clone()).oneshot(request.expect("a request")).await.expect("infallible")
    }
}

async fn read(response: http::Response<HttpBody>) -> Result<Answer, axum::Error> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    Ok(Answer { status: parts.status, headers: parts.headers, body: collected.to_bytes().to_vec(), trailers })
}

// === impl Org ===

impl Org {
    async fn new(state: &ApiState, name: &str) -> Self {
        let organization =
            add_organization(&state.store, &state.authority, name.into()).await.expect("an organization");
        let owner = token(state, &organization, "owner", Role::Owner).await;
        let member = token(state, &organization, "member", Role::Member).await;
        let runner = Runner {
            id: new_id("run"),
            organization: organization.id.clone(),
            name: format!("runner-{name}"),
            created_at_ms: now_ms(),
            revoked_at_ms: None,
            last_seen_ms: None,
            ended: None,
        };
        state.store.create_runner(&runner).await.expect("a runner");
        for (name, entry, provider) in [
            ("says", "says", Provider::Kubernetes),
            ("flood", "flood:3000000", Provider::Kubernetes),
            ("endless", "flood:1000000000000", Provider::Kubernetes),
            ("echo", "echo", Provider::Kubernetes),
            ("hang", "hang", Provider::Kubernetes),
            ("denied", "denied", Provider::Kubernetes),
            ("silent", "silent", Provider::Kubernetes),
            ("account", "says", Provider::Aws),
        ] {
            let connection = Connection {
                id: new_id("con"),
                organization: organization.id.clone(),
                name: name.into(),
                provider,
                runner: Some(runner.id.clone()),
                entry: entry.into(),
                created_at_ms: now_ms(),
            };
            state.store.create_connection(&connection).await.expect("a connection");
        }
        let hello =
            v1::Hello { organization_id: organization.id.clone(), ..hello(&runner.id, &format!("instance-{name}")) };
        let fake = FakeRunner::connect(&state.sessions, hello).await;
        Self { organization, owner, member, runner, fake }
    }
}

async fn token(state: &ApiState, organization: &Organization, name: &str, role: Role) -> String {
    let (token, digest) = new_token(Purpose::User).expect("random");
    let user = User {
        id: new_id("usr"),
        organization: organization.id.clone(),
        name: name.into(),
        role,
        created_at_ms: now_ms(),
        member_of: String::new(),
    };
    state.store.create_user(&user, &digest).await.expect("a user");
    token.expose().to_owned()
}

// === impl Answer ===

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }
    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
    fn operation(&self) -> String {
        self.headers.get(OPERATION_HEADER).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    }
}

const LOGS: &str = "k8s/namespaces/n/pods/p/logs";

#[test]
fn every_route_is_in_the_description_and_nothing_else_is() {
    let document = serde_json::to_value(document::openapi()).expect("JSON");
    let mut described: Vec<(String, String)> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            if !["get", "put", "post", "delete", "head"].contains(&method.as_str()) {
                continue;
            }
            described.push((method.clone(), path.clone()));
            let name = operation["operationId"].as_str().expect("an operation id").to_owned();
            assert!(names.insert(name.clone()), "{name} stands twice");
            assert!(operation["responses"]["default"].is_object(), "{path} has no error");
            // every segment in braces is a parameter
            let declared: Vec<&str> = operation["parameters"]
                .as_array()
                .map(|p| p.iter().filter(|p| p["in"] == "path").filter_map(|p| p["name"].as_str()).collect())
                .unwrap_or_default();
            let named: Vec<&str> = path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')).collect();
            assert_eq!(declared, named, "{method} {path}");
        }
    }
    let mut routed: Vec<_> = routes().listed.into_iter().map(|(m, p)| (m.to_owned(), p)).collect();
    described.sort();
    routed.sort();
    assert_eq!(routed, described);
    // what is referred to is there
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap_or_default();
        assert!(document["components"]["schemas"][name].is_object(), "{name} is missing");
    }
}

#[tokio::test]
async fn a_client_of_kubernetes_whose_token_nobody_knows_is_told_in_its_own_form() {
    let world = World::new().await;
    for path in ["/api/v1/connections/c/kubernetes/api", "/api/v1/runners/r/connections/c/kubernetes/api"] {
        let answer = world.get("rnc_unknown", path).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        let said: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(
            (&said["kind"], &said["reason"], &said["code"]),
            (&json!("Status"), &json!("Unauthorized"), &json!(401))
        );
        let words = said["message"].as_str().unwrap_or_default();
        assert!(words.starts_with("unauthenticated: ") && words.ends_with(')'), "{words}");
    }
}

#[tokio::test]
async fn nothing_but_the_description_goes_without_a_token() {
    let world = World::new().await;
    let runner_key = api_key::generate(Purpose::Runner).expect("random");
    let unknown = api_key::generate(Purpose::User).expect("random");
    for (method, path) in routes().listed {
        let path = path.strip_prefix("/api/v1").expect("under /api/v1").replace(['{', '}'], "");
        let method: Method = method.to_uppercase().parse().expect("a method");
        for token in ["", "x", runner_key.expose(), unknown.expose()] {
            let answer = world.call(token, method.clone(), &path, None).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        }
    }
    assert_eq!(world.get("", "/openapi.json").await.status, StatusCode::OK);
    let basic = [(header::AUTHORIZATION, "Basic eA==")];
    let answer = world.send("", Method::GET, "/whoami", None, &basic).await;
    assert_eq!(answer.code(), "unauthenticated");
    assert!(answer.headers.contains_key(header::WWW_AUTHENTICATE));
}

#[tokio::test]
async fn roles() {
    let world = World::new().await;
    let (a, b) = (&world.a, &world.b);
    let own = format!("/organizations/{}/users", a.organization.name);
    let others = format!("/organizations/{}/users", b.organization.name);
    let user = |name: &str, role: &str| Some(json!({ "name": name, "role": role }));
    for (token, method, path, body, wanted) in [
        (&a.member, "POST", "/runners", Some(json!({"name": "x"})), 403),
        (&a.member, "POST", "/runners/runner-a/revoke", None, 403),
        (&a.member, "POST", "/runners/runner-a/default", None, 403),
        (&a.member, "POST", "/runners/runner-a/credentials", Some(json!({"csr": ""})), 403),
        (&a.member, "POST", "/connections", Some(json!({"name": "x", "provider": "aws"})), 403),
        (&a.member, "DELETE", "/connections/says", None, 403),
        (&a.member, "GET", "/organizations", None, 403),
        (&a.member, "GET", own.as_str(), None, 403),
        (&a.member, "GET", "/runners", None, 200),
        (&a.owner, "POST", "/organizations", Some(json!({"name": "c"})), 403),
        (&a.owner, "POST", own.as_str(), user("x", "admin"), 403),
        (&a.owner, "POST", own.as_str(), user("x", "owner"), 201),
        (&a.owner, "POST", own.as_str(), user("x", "member"), 409),
        (&a.owner, "GET", others.as_str(), None, 404),
        (&a.owner, "POST", others.as_str(), user("x", "member"), 404),
        (&world.admin, "POST", others.as_str(), user("x", "owner"), 201),
        (&world.admin, "POST", "/organizations", Some(json!({"name": "c"})), 201),
        (&world.admin, "POST", "/organizations", Some(json!({"name": "c"})), 409),
    ] {
        let answer = world.call(token, method.parse().expect("a method"), path, body).await;
        assert_eq!(answer.status.as_u16(), wanted, "{method} {path}: {:?}", String::from_utf8_lossy(&answer.body));
    }
}

#[tokio::test]
async fn what_is_anothers_answers_like_what_is_not() {
    let world = World::new().await;
    let operation = world.call(&world.b.member, Method::POST, "/connections/says/test", None).await.operation();
    let connection = world.state.store.connection(&world.b.organization.id, "says").await.expect("found").id;
    let runner = world.b.runner.id.clone();
    let logs = format!("/connections/{{}}/{LOGS}");
    for (method, path, id, body) in [
        ("GET", "/runners/{}", &runner, None),
        ("POST", "/runners/{}/default", &runner, None),
        ("POST", "/runners/{}/revoke", &runner, None),
        ("POST", "/runners/{}/credentials", &runner, Some(json!({"csr": "x"}))),
        ("GET", "/connections/{}", &connection, None),
        ("DELETE", "/connections/{}", &connection, None),
        ("POST", "/connections/{}/test", &connection, None),
        ("GET", "/connections/{}/k8s/namespaces", &connection, None),
        ("GET", "/connections/{}/identity", &connection, None),
        ("GET", logs.as_str(), &connection, None),
        ("POST", "/connections/says/test?runner={}", &runner, None),
        ("GET", "/operations/{}", &operation, None),
        ("POST", "/operations/{}/cancel", &operation, None),
        ("GET", "/organizations/{}/users", &world.b.organization.id, None),
    ] {
        let method: Method = method.parse().expect("a method");
        let theirs = world.call(&world.a.owner, method.clone(), &path.replace("{}", id), body.clone()).await;
        let unknown = id.chars().rev().collect::<String>();
        let none = world.call(&world.a.owner, method.clone(), &path.replace("{}", &unknown), body).await;
        assert_eq!(theirs.status, StatusCode::NOT_FOUND, "{method} {path}");
        let shown = |answer: &Answer, id: &str| String::from_utf8_lossy(&answer.body).replace(id, "ID");
        assert_eq!(shown(&theirs, id), shown(&none, &unknown), "{method} {path}");
        // one of them tells the failure as the body does
        let headers = |answer: &Answer, id: &str| format!("{:?}", answer.headers).replace(id, "ID");
        assert_eq!(headers(&theirs, id), headers(&none, &unknown), "{method} {path}");
    }
    let body = Some(json!({"name": "x", "provider": "aws", "runner": runner}));
    assert_eq!(world.call(&world.a.owner, Method::POST, "/connections", body).await.code(), "not_found");
    for list in ["/runners", "/connections", "/operations"] {
        let text = String::from_utf8(world.get(&world.a.owner, list).await.body).expect("text");
        assert!(![&runner, &connection, &operation].iter().any(|id| text.contains(id.as_str())), "{list}: {text}");
    }
}

#[tokio::test]
async fn a_document_passes_through_and_is_remembered() {
    let world = World::new().await;
    let answer = world.get(&world.a.member, "/connections/says/k8s/namespaces").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body, format!("{}/says", world.a.organization.id).into_bytes());
    let record = world.get(&world.a.member, &format!("/operations/{}", answer.operation())).await.json();
    assert_eq!((&record["code"], &record["kind"]), (&json!("ok"), &json!("k8s_list_namespaces")));
    assert_eq!(
        (&record["user"], &record["runner"], &record["connection"]),
        (&json!("member"), &json!("runner-a"), &json!("says"))
    );

    let large = world.get(&world.a.member, "/connections/flood/k8s/pods?all_namespaces=true").await;
    assert_eq!(large.body.len(), 3_000_000);
    let endless = world.get(&world.a.member, "/connections/endless/k8s/pods").await;
    assert_eq!(endless.code(), "too_large");
    let denied = world.get(&world.a.member, "/connections/denied/k8s/namespaces").await;
    assert_eq!((denied.status.as_u16(), denied.code().as_str()), (403, "policy_denied"));
    let record = world.get(&world.a.member, &format!("/operations/{}", denied.operation())).await.json();
    assert_eq!(record["code"], "policy_denied");
    let silent = world.get(&world.a.member, "/connections/silent/k8s/namespaces").await;
    assert_eq!(silent.code(), "connection_lost");
    let said = silent.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(said, "runner runner-a: it ended the operation without an outcome");
    assert_eq!(world.get(&world.a.member, "/connections/account/k8s/namespaces").await.code(), "wrong_provider");
    assert_eq!(world.get(&world.a.member, "/connections/account/identity").await.status, StatusCode::OK);
    world.a.fake.idle().await;
}

#[tokio::test]
async fn the_runner_is_the_named_one_else_the_connections_else_the_default() {
    let world = World::new().await;
    let body = Some(json!({"name": "free", "provider": "kubernetes"}));
    let made = world.call(&world.a.owner, Method::POST, "/connections", body).await;
    assert_eq!((made.status.as_u16(), &made.json()["entry"]), (201, &json!("free")));
    let test = |query: &str| format!("/connections/free/test{query}");
    assert_eq!(world.call(&world.a.member, Method::POST, &test(""), None).await.code(), "no_runner");
    assert_eq!(world.call(&world.a.member, Method::POST, &test("?runner=runner-a"), None).await.status, StatusCode::OK);
    let default = world.call(&world.a.owner, Method::POST, "/runners/runner-a/default", None).await.json();
    assert_eq!((&default["default"], &default["state"]), (&json!(true), &json!("connected")));
    assert_eq!(default["instances"][0]["instance_id"], "instance-a");
    assert_eq!(world.call(&world.a.member, Method::POST, &test(""), None).await.status, StatusCode::OK);
    let registered = world.call(&world.a.owner, Method::POST, "/runners", Some(json!({"name": "away"}))).await.json();
    assert_eq!(registered["state"], "never_connected");
    let away = world.call(&world.a.member, Method::POST, &test("?runner=away"), None).await;
    assert_eq!((away.status.as_u16(), away.code().as_str()), (503, "runner_unavailable"));
    assert!(away.json()["error"]["message"].as_str().expect("text").contains("away"));
    let revoked = world.call(&world.a.owner, Method::POST, "/runners/runner-a/revoke", None).await.json();
    assert_eq!((&revoked["revoked"], &revoked["state"]), (&json!(true), &json!("revoked")));
    assert_eq!(
        world.call(&world.a.member, Method::POST, &test("?runner=runner-a"), None).await.code(),
        "runner_unavailable"
    );
    let csr = Some(json!({"csr": "x"}));
    let credentials = world.call(&world.a.owner, Method::POST, "/runners/runner-a/credentials", csr).await;
    assert_eq!(credentials.code(), "conflict");
}

#[tokio::test]
async fn credentials_are_whole_and_the_runners_own() {
    let world = World::new().await;
    let key = rcgen::KeyPair::generate().expect("a key");
    let csr = rcgen::CertificateParams::default().serialize_request(&key).expect("a request").pem().expect("PEM");
    let body = Some(json!({ "csr": csr, "days": 3 }));
    let answer = world.call(&world.a.owner, Method::POST, "/runners/runner-a/credentials", body).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let text = |name: &str| answer.json()[name].as_str().unwrap_or_default().to_owned();
    let file = shared_proto::credentials::CredentialsFile {
        version: shared_proto::credentials::VERSION,
        organization: text("organization"),
        runner: text("runner"),
        tunnel_endpoint: text("tunnel_endpoint"),
        execution_endpoint: text("execution_endpoint"),
        ca: text("ca"),
        certificate: text("certificate"),
        private_key: shared_proto::secret::Secret::new(key.serialize_pem()),
        api_key: shared_proto::secret::Secret::new(text("api_key")),
    };
    let path = world.data.path().join("credentials.json");
    file.write(&path).expect("writes");
    let loaded = shared_proto::credentials::Credentials::load(&path).expect("the runner takes it");
    assert_eq!(loaded.runner, world.a.runner.id);
    let verified = crate::identity::verify_session(
        &loaded.leaf.chain,
        Some((&loaded.organization, &loaded.runner)),
        Some(loaded.api_key.expose()),
        &world.state.store,
        &world.state.authority,
    )
    .await
    .expect("the control plane takes it");
    assert_eq!(verified.serial, text("serial"));
}

#[tokio::test]
async fn a_log_comes_with_its_outcome() {
    let world = World::new().await;
    let te = [(header::TE, "trailers")];
    let answer = world.send(&world.a.member, Method::GET, &format!("/connections/flood/{LOGS}"), None, &te).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 3_000_000));
    let trailers = answer.trailers.as_ref().expect("trailers");
    let outcome: Value = serde_json::from_slice(trailers["runner-outcome"].as_bytes()).expect("JSON");
    assert_eq!(outcome["code"], "ok");
    let record = world.get(&world.a.member, &format!("/operations/{}", answer.operation())).await.json();
    assert_eq!(record["code"], "ok");

    let events = [(header::ACCEPT, "text/event-stream")];
    let answer = world.send(&world.a.member, Method::GET, &format!("/connections/says/{LOGS}"), None, &events).await;
    let text = String::from_utf8(answer.body).expect("text");
    let wanted = format!("data: {}/says\n\nevent: outcome\ndata: {{\"code\":\"ok\"", world.a.organization.id);
    assert!(text.starts_with(&wanted), "{text}");
    // an early failure is an ordinary error
    let denied = world.get(&world.a.member, &format!("/connections/denied/{LOGS}")).await;
    assert_eq!(denied.code(), "policy_denied");
    assert_eq!(world.state.streams.open(), 0);
}

#[tokio::test]
async fn a_log_that_is_lost_says_so_in_each_form() {
    for (headers, what) in [
        (&[(header::TE, "trailers")][..], "trailer"),
        (&[(header::ACCEPT, "text/event-stream")][..], "event"),
        (&[][..], "broken"),
    ] {
        let world = World::new().await;
        let path = format!("/connections/endless/{LOGS}");
        let response = world.begin(&world.a.member, Method::GET, &path, None, headers).await;
        assert_eq!(response.status(), StatusCode::OK);
        world.a.fake.cut();
        match (what, read(response).await) {
            ("broken", answer) => assert!(answer.is_err()),
            ("trailer", answer) => {
                let trailers = answer.expect("a body").trailers.expect("trailers");
                assert!(trailers["runner-outcome"].to_str().expect("text").contains("connection_lost"));
            }
            (_, answer) => {
                let body = String::from_utf8(answer.expect("a body").body).expect("text");
                assert!(body.contains("event: outcome\ndata: {\"code\":\"connection_lost\""));
            }
        }
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_reader_leaves_or_someone_cancels() {
    let world = World::with_streams(2).await;
    let path = format!("/connections/endless/{LOGS}");
    let left = world.begin(&world.a.member, Method::GET, &path, None, &[]).await;
    let stalled = world.begin(&world.a.member, Method::GET, &path, None, &[]).await;
    let full = world.get(&world.a.member, &path).await;
    assert_eq!((full.status.as_u16(), full.code().as_str()), (429, "busy"));
    let id = |r: &http::Response<HttpBody>| r.headers()[OPERATION_HEADER].to_str().expect("an id").to_owned();
    let (left_id, stalled_id) = (id(&left), id(&stalled));
    drop(left);
    // its reader holds it and does not read: the cancel reaches the runner all the same
    let cancel = format!("/operations/{stalled_id}/cancel");
    assert_eq!(world.call(&world.b.owner, Method::POST, &cancel, None).await.code(), "not_found");
    let cancelled = world.call(&world.a.owner, Method::POST, &cancel, None).await.json();
    assert_eq!(cancelled["code"], "cancelled");
    world.a.fake.idle().await;
    let record = world.get(&world.a.member, &format!("/operations/{left_id}")).await.json();
    assert_eq!(record["code"], "cancelled");
    assert!(read(stalled).await.is_err(), "the reader is told by a body that breaks off");
    assert_eq!(world.state.streams.open(), 0);
    // a member cancels only their own
    let others = world.begin(&world.a.owner, Method::GET, &path, None, &[]).await;
    let cancel = format!("/operations/{}/cancel", id(&others));
    assert_eq!(world.call(&world.a.member, Method::POST, &cancel, None).await.code(), "permission_denied");
}

#[tokio::test]
async fn bad_input_gets_a_clear_error_and_changes_nothing() {
    let world = World::new().await;
    let long = "x".repeat(64);
    let pod = "/connections/says/k8s/namespaces/n/pods/p";
    let many = format!("{pod}/exec?{}", "command=a&".repeat(300));
    for (method, path, body, code) in [
        ("POST", "/runners", Some(json!({"name": ""})), "invalid_argument"),
        ("POST", "/runners", Some(json!({"name": long})), "invalid_argument"),
        ("POST", "/runners", Some(json!({"name": "run_1"})), "invalid_argument"),
        ("POST", "/runners", Some(json!({"name": "../x"})), "invalid_argument"),
        ("POST", "/runners", Some(json!({"name": 1})), "invalid_argument"),
        ("POST", "/runners", Some(json!({"name": "x", "more": 1})), "invalid_argument"),
        ("POST", "/runners", Some(json!([])), "invalid_argument"),
        ("POST", "/runners", None, "invalid_argument"),
        ("POST", "/runners", Some(json!({"name": "y".repeat(2_000_000)})), "too_large"),
        ("POST", "/runners/runner-a/credentials", Some(json!({"csr": "nonsense"})), "invalid_argument"),
        ("POST", "/runners/runner-a/credentials", Some(json!({"csr": "x", "days": -1})), "invalid_argument"),
        ("POST", "/runners/runner-a/credentials", Some(json!({"csr": "x", "days": 100_000})), "invalid_argument"),
        ("POST", "/connections", Some(json!({"name": "x", "provider": "other"})), "invalid_argument"),
        (
            "POST",
            "/connections",
            Some(json!({"name": "x", "provider": "aws", "entry": "/etc/passwd"})),
            "invalid_argument",
        ),
        ("POST", "/connections", Some(json!({"name": "x", "provider": "aws", "runner": "nobody"})), "not_found"),
        ("POST", "/connections", Some(json!({"name": "says", "provider": "aws"})), "conflict"),
        ("GET", "/runners?limit=0", None, "invalid_argument"),
        ("GET", "/runners?limit=1001", None, "invalid_argument"),
        ("GET", "/runners?limit=x", None, "invalid_argument"),
        ("GET", "/runners?limit=1&limit=2", None, "invalid_argument"),
        ("GET", "/runners?nonsense=1", None, "invalid_argument"),
        ("GET", "/runners/%ff", None, "invalid_argument"),
        ("GET", "/runners/..%2f..%2fetc", None, "not_found"),
        ("GET", "/runners/a%00b", None, "not_found"),
        ("GET", "/operations/op_1'%20OR%201=1--", None, "not_found"),
        ("GET", "/connections/says/k8s/pods?namespace=A", None, "invalid_argument"),
        ("GET", "/connections/says/k8s/pods?namespace=a&all_namespaces=1", None, "invalid_argument"),
        ("GET", "/connections/says/k8s/pods?all_namespaces=perhaps", None, "invalid_argument"),
        ("GET", "/connections/says/k8s/pods?labels=%00", None, "invalid_argument"),
        ("GET", "/connections/says/k8s/namespaces/n/pods/..", None, "invalid_argument"),
        ("GET", "/connections/says/k8s/namespaces/N/pods/p", None, "invalid_argument"),
        ("GET", "/connections/says/k8s/namespaces/n/pods/p/logs?tail=-1", None, "invalid_argument"),
        ("GET", "/connections/says/k8s/namespaces/n/pods/p/logs?since_seconds=0", None, "invalid_argument"),
        ("GET", "/connections/says/k8s/namespaces/n/pods/p/logs?container=a/b", None, "invalid_argument"),
        (
            "GET",
            "/connections/says/k8s/namespaces/n/pods/p/logs?container=a&all_containers=1",
            None,
            "invalid_argument",
        ),
        ("GET", "/connections/says/k8s/namespaces/n/pods/p/logs?follow=1&previous=1", None, "invalid_argument"),
        ("GET", "/connections/says/k8s/namespaces/n/pods/p/exec", None, "invalid_argument"),
        ("GET", "/connections/says/k8s/namespaces/n/pods/p/exec?command=a%00", None, "invalid_argument"),
        ("GET", many.as_str(), None, "too_large"),
        (
            "GET",
            "/connections/says/k8s/namespaces/n/pods/p/exec?command=a&tty=1&columns=0&rows=1",
            None,
            "invalid_argument",
        ),
        (
            "GET",
            "/connections/says/k8s/namespaces/n/pods/p/exec?command=a&tty=1&columns=1&rows=1001",
            None,
            "invalid_argument",
        ),
        ("GET", "/connections/says/k8s/namespaces/n/pods/p/exec?command=a&tty=1&columns=1", None, "invalid_argument"),
        ("GET", "/connections/says/k8s/namespaces/n/pods/p/exec?command=a&columns=1&rows=1", None, "invalid_argument"),
        ("GET", "/connections/says/k8s/namespaces/n/pods/p/exec?command=a", None, "invalid_argument"),
        ("GET", "/connections/account/identity?place=e%20u", None, "invalid_argument"),
        ("GET", "/connections/account/identity?region=a", None, "invalid_argument"),
        ("GET", "/resources?provider=none", None, "invalid_argument"),
        ("GET", "/resources?tag==x", None, "invalid_argument"),
        ("GET", "/resources?limit=10001", None, "invalid_argument"),
        ("GET", "/connections/account/resource?type=AWS::S3::Bucket", None, "invalid_argument"),
        ("GET", "/connections/account/resource?identifier=x", None, "invalid_argument"),
        ("GET", "/nothing", None, "not_found"),
        ("DELETE", "/whoami", None, "method_not_allowed"),
    ] {
        let answer = world.call(&world.a.owner, method.parse().expect("a method"), path, body).await;
        let shown: String = path.chars().take(100).collect();
        assert_eq!(answer.code(), code, "{method} {shown}: {}", String::from_utf8_lossy(&answer.body));
        let text = answer.json()["error"]["message"].as_str().expect("a message").to_owned();
        assert!(!text.is_empty() && text.len() < 600, "{method} {shown}: {text}");
    }
    assert_eq!(
        world.a.fake.state.started.load(std::sync::atomic::Ordering::Acquire),
        0,
        "something reached the runner"
    );
    assert_eq!(world.get(&world.a.owner, "/connections/says/k8s/namespaces").await.status, StatusCode::OK);
    assert_eq!(world.get(&world.a.owner, "/runners").await.json()["items"].as_array().expect("a list").len(), 1);
}

#[tokio::test]
async fn a_method_that_a_path_does_not_take_is_405_with_those_that_it_takes() {
    let world = World::new().await;
    for (method, path, allow) in [
        (Method::DELETE, "/whoami", "GET,HEAD"),
        (Method::GET, "/jobs/job_1/cancel", "POST"),
        (Method::PUT, "/runners", "POST,GET,HEAD"),
        (Method::POST, "/stacks/s", "GET,HEAD,PUT,DELETE"),
        (Method::PATCH, "/openapi.json", "GET,HEAD"),
    ] {
        let answer = world.call(&world.a.owner, method.clone(), path, None).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        assert_eq!(answer.code(), "method_not_allowed");
        let sorted = |list: &str| {
            let mut methods: Vec<_> = list.split(',').map(|m| m.trim().to_owned()).collect();
            methods.sort();
            methods
        };
        let allowed = answer.headers.get(header::ALLOW).and_then(|v| v.to_str().ok()).unwrap_or_default();
        assert_eq!(sorted(allowed), sorted(allow), "{method} {path}");
    }
}

#[tokio::test]
async fn ready_says_when_it_leaves() {
    let world = World::new().await;
    let ask = |path: &'static str| {
        let request = http::Request::get(path).body(HttpBody::empty()).expect("a request");
        router(world.state.clone()).oneshot(request)
    };
    assert_eq!(ask("/readyz").await.expect("infallible").status(), StatusCode::OK);
    world.state.leaving.cancel();
    assert_eq!(ask("/readyz").await.expect("infallible").status().as_u16(), 429);
    assert_eq!(ask("/healthz").await.expect("infallible").status(), StatusCode::OK);
}
