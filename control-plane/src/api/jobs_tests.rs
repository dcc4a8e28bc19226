//! Stacks, jobs and archives through the API, as two organizations' users see them.

use crate::api::{
    ApiState, Deliveries, Documents, Endpoints, Ledger, Networks, StreamLimit, add_organization, new_token, router,
};
use crate::execution::{Archives, Jobs};
use crate::pki::Authority;
use crate::sessions::{Sessions, Settings, StoredRegistry};
use crate::store::{Role, Runner, Store, User, new_id};
use axum::Router;
use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared_proto::api_key::Purpose;
use shared_proto::secret::Secret;
use shared_proto::v1::{self, event};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt as _;

#[path = "automation_tests.rs"]
mod automation;

struct World {
    _data: tempfile::TempDir,
    store: Store,
    jobs: Jobs,
    state: ApiState,
    router: Router,
    ann: Secret,
    eve: Secret,
    organization: String,
    runner: String,
}

impl World {
    async fn new() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let store = Store::in_memory().await.expect("a store");
        let authority = Arc::new(Authority::open(data.path(), vec![]).expect("a CA"));
        let registry = Arc::new(StoredRegistry::new(store.clone(), authority.clone()));
        let archives = Archives::open(&data.path().join("archives")).await.expect("archives");
        let (organization, ann) = user(&store, &authority, "acme").await;
        let (_, eve) = user(&store, &authority, "evil").await;
        let runner = Runner {
            id: new_id("run"),
            organization: organization.clone(),
            name: "r".into(),
            created_at_ms: 1,
            revoked_at_ms: None,
            last_seen_ms: None,
            ended: None,
        };
        store.create_runner(&runner).await.expect("a runner");
        let jobs = Jobs::new(store.clone(), archives);
        let url = "https://localhost:1".to_owned();
        let state = ApiState {
            store: store.clone(),
            authority,
            sessions: Sessions::new(registry, Settings::default()),
            endpoints: Endpoints { tunnel: url.clone(), execution: url },
            ledger: Ledger::start(store.clone()).0,
            streams: StreamLimit::new(16),
            documents: Documents::default(),
            jobs: jobs.clone(),
            deliveries: Deliveries::default(),
            networks: Networks::default(),
            leaving: tokio_util::sync::CancellationToken::new(),
        };
        Self {
            _data: data,
            store,
            jobs,
            router: router(state.clone()),
            state,
            ann,
            eve,
            organization,
            runner: runner.id,
        }
    }

    async fn send(&self, who: &Secret, method: Method, path: &str, accept: &str, body: Body) -> http::Response<Body> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("authorization", format!("Bearer {}", who.expose()))
            .header("content-type", "application/json")
            .header("accept", accept)
            .body(body)
            .expect("a request");
        self.router.clone().oneshot(request).await.expect("answered")
    }
    async fn ask(&self, who: &Secret, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let body = body.map_or_else(Body::empty, |b| Body::from(b.to_string()));
        let response = self.send(who, method, path, "application/json", body).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask(&self.ann, Method::GET, path, None).await
    }
    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.ask(&self.ann, Method::POST, path, Some(body)).await
    }
    async fn stack(&self, name: &str) -> Value {
        let (status, stack) = self.post("/stacks", &stack_body(name)).await;
        assert_eq!(status, StatusCode::CREATED, "{stack}");
        stack
    }
    /// A job that the instance `i-1` has accepted.
    async fn accepted(&self, stack: &str) -> (String, v1::AcceptRequest) {
        self.accepted_of(stack, "update").await
    }
    /// The same, of another kind.
    async fn accepted_of(&self, stack: &str, kind: &str) -> (String, v1::AcceptRequest) {
        let (status, job) = self.post(&format!("/stacks/{stack}/jobs"), &json!({ "kind": kind })).await;
        assert_eq!(status, StatusCode::CREATED, "{job}");
        let accept = self.accept_next().await;
        (job["id"].as_str().expect("an id").to_owned(), accept)
    }
    /// Has the instance `i-1` accept what is next.
    async fn accept_next(&self) -> v1::AcceptRequest {
        let given = self.store.assign_next(&self.runner, "i-1", 4, &[]).await.expect("asked").expect("a job");
        let accept = v1::AcceptRequest {
            job_id: given.job_id,
            fencing_token: given.fencing_token,
            instance_id: "i-1".into(),
            request_sha256: given.request_sha256,
        };
        self.store.accept_job(&self.organization, &self.runner, &accept).await.expect("accepted");
        accept
    }
    async fn report(&self, of: &v1::AcceptRequest, from: u64, bodies: Vec<event::Body>) {
        self.report_at(of, from, bodies.into_iter().map(|body| (1, body)).collect()).await;
    }
    /// The same, each with its moment.
    async fn report_at(&self, of: &v1::AcceptRequest, from: u64, bodies: Vec<(i64, event::Body)>) {
        let events = (from..).zip(bodies).map(|(sequence, (time_ms, body))| v1::Event {
            sequence,
            time_ms,
            engine_read: None,
            body: Some(body),
        });
        let report = v1::ReportRequest {
            job_id: of.job_id.clone(),
            fencing_token: of.fencing_token,
            instance_id: of.instance_id.clone(),
            events: events.collect(),
        };
        let reported = self.store.report_events(&self.organization, &self.runner, &report).await.expect("taken");
        assert_eq!(reported.refused, None);
    }
}

async fn user(store: &Store, authority: &Authority, organization: &str) -> (String, Secret) {
    let organization = add_organization(store, authority, organization.into()).await.expect("an organization").id;
    let (token, digest) = new_token(Purpose::User).expect("a token");
    let user = User {
        id: new_id("usr"),
        organization: organization.clone(),
        name: "u".into(),
        role: Role::Member,
        created_at_ms: 1,
        member_of: String::new(),
    };
    store.create_user(&user, &digest).await.expect("a user");
    (organization, token)
}

fn stack_body(name: &str) -> Value {
    json!({
        "name": name, "engine": "opentofu", "runner": "r", "path": "infra",
        "source": {"git": {"url": "https://example.com/a.git", "reference": "main"}},
        "variables": {"region": "eu", "count": 2}, "connections": ["prod"],
    })
}
fn phase(phase: &str) -> event::Body {
    event::Body::PhaseChanged(v1::PhaseChanged { phase: phase.into(), ..Default::default() })
}
fn code(answer: &(StatusCode, Value)) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["error"]["code"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn a_stack_is_made_shown_changed_and_deleted() {
    let world = World::new().await;
    let made = world.stack("s").await;
    assert_eq!(made["runner"], "r");
    assert_eq!(made["path"], "infra");
    assert_eq!(made["variables"], json!({"region": "eu", "count": 2}));
    assert_eq!(made["source"]["git"]["reference"], "main");
    assert_eq!((&made["not_redacted"], &made["engine_version"]), (&json!([]), &Value::Null));
    assert_eq!(code(&world.post("/stacks", &stack_body("s")).await), (409, "conflict"));
    let mut body = stack_body("s");
    body["engine"] = "terraform".into();
    body["not_redacted"] = json!(["pin"]);
    body["engine_version"] = " ~> 1.9.0".into();
    body["runner"] = Value::Null;
    let (status, changed) = world.ask(&world.ann, Method::PUT, "/stacks/s", Some(&body)).await;
    assert_eq!((status, &changed["engine"], &changed["runner"]), (StatusCode::OK, &"terraform".into(), &Value::Null));
    assert_eq!((&changed["not_redacted"], &changed["engine_version"]), (&json!(["pin"]), &"~> 1.9.0".into()));
    // neither the stack nor the organization names a runner now
    assert_eq!(code(&world.post("/stacks/s/jobs", &json!({"kind": "update"})).await), (409, "no_runner"));
    let (_, list) = world.get("/stacks").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    let (status, gone) = world.ask(&world.ann, Method::DELETE, "/stacks/s", None).await;
    assert_eq!((status, &gone["name"], &gone["state"]), (StatusCode::OK, &"s".into(), &Value::Null));
    assert_eq!(code(&world.get("/stacks/s").await), (404, "not_found"));
}

#[tokio::test]
async fn a_job_is_made_of_the_stack_as_whoever_asks_for_it_knows_it() {
    let world = World::new().await;
    let first = world.stack("s").await["revision"].clone();
    assert_eq!(world.get("/stacks/s").await.1["revision"], first, "nothing has changed it");
    let job = |revision: &Value| json!({ "kind": "update", "approve_automatically": true, "stack_revision": revision });
    let keyed = async |revision: &Value| {
        let request = Request::post("/api/v1/stacks/s/jobs")
            .header("authorization", format!("Bearer {}", world.ann.expose()))
            .header("content-type", "application/json")
            .header("Idempotency-Key", "one");
        let request = request.body(Body::from(job(revision).to_string())).expect("a request");
        let response = world.router.clone().oneshot(request).await.expect("answered");
        let status = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice::<Value>(&bytes).expect("JSON"))
    };
    let (status, made) = keyed(&first).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    // somebody else makes it another one before the job is asked for
    let mut body = stack_body("s");
    body["variables"] = json!({"region": "us", "count": 2});
    let (_, changed) = world.ask(&world.ann, Method::PUT, "/stacks/s", Some(&body)).await;
    assert_ne!(changed["revision"], first);
    let (status, refused) = world.post("/stacks/s/jobs", &job(&first)).await;
    assert_eq!((status.as_u16(), &refused["error"]["code"]), (409, &"conflict".into()), "{refused}");
    assert_eq!(world.post("/stacks/s/jobs", &job(&changed["revision"])).await.0, StatusCode::CREATED);
    // what was asked once before is answered as it was then
    let (status, again) = keyed(&first).await;
    assert_eq!((status, &again["id"]), (StatusCode::CREATED, &made["id"]), "{again}");
    // who says no revision means whatever the stack is
    assert_eq!(world.post("/stacks/s/jobs", &json!({"kind": "preview"})).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_request_for_a_job_that_is_sent_again_under_its_key_is_answered_with_that_job() {
    let world = World::new().await;
    world.stack("s").await;
    world.stack("other").await;
    let start = |stack: &'static str, keys: &'static [&'static str], body: Value| {
        let mut request = Request::post(format!("/api/v1/stacks/{stack}/jobs"))
            .header("authorization", format!("Bearer {}", world.ann.expose()))
            .header("content-type", "application/json");
        for key in keys {
            request = request.header("Idempotency-Key", *key);
        }
        let answered = world.router.clone().oneshot(request.body(Body::from(body.to_string())).expect("a request"));
        async move {
            let response = answered.await.expect("answered");
            let status = response.status();
            let bytes = response.into_body().collect().await.expect("a body").to_bytes();
            (status, serde_json::from_slice::<Value>(&bytes).expect("JSON"))
        }
    };
    let update = || json!({"kind": "update", "variables": {"a": 1, "b": 2}});
    let (status, first) = start("s", &["k-1"], update()).await;
    assert_eq!(status, StatusCode::CREATED, "{first}");
    // in other order, and quoted, as the header's own grammar has it
    let (status, again) = start("s", &["\"k-1\""], json!({"variables": {"b": 2, "a": 1}, "kind": "update"})).await;
    assert_eq!((status, &again["id"]), (StatusCode::CREATED, &first["id"]), "{again}");
    for (stack, body) in [("s", json!({"kind": "destroy"})), ("s", json!({"kind": "update"})), ("other", update())] {
        assert_eq!(code(&start(stack, &["k-1"], body).await), (409, "conflict"));
    }
    for keys in
        [&[""][..], &["a b"], &["a", "b"], &["a234567890123456789012345678901234567890123456789012345678901234"]]
    {
        assert_eq!(code(&start("s", keys, update()).await), (400, "invalid_argument"), "{keys:?}");
    }
    let (_, list) = world.get("/jobs").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
}

#[tokio::test]
async fn a_stack_that_made_something_is_deleted_by_force_and_says_where_its_state_stays() {
    let world = World::new().await;
    let stack = world.stack("s").await;
    let (id, given) = world.accepted("s").await;
    let saved = v1::PlanSaved { sha256: "p1".into(), has_changes: true, text: "a plan".into() };
    world.report(&given, 1, vec![event::Body::PlanSaved(saved), phase("awaiting_approval")]).await;
    assert_eq!(world.post(&format!("/jobs/{id}/approve"), &json!({})).await.0, StatusCode::OK);
    let end = v1::JobResult { phase: "applied".into(), code: "ok".into(), ..Default::default() };
    world.report(&given, 3, vec![phase("applying"), event::Body::Result(end)]).await;
    let delete = |body: Value| {
        let world = &world;
        async move { world.ask(&world.ann, Method::DELETE, "/stacks/s", Some(&body)).await }
    };
    for body in [json!({}), json!({"force": false})] {
        assert_eq!(code(&delete(body).await), (409, "stack_not_empty"));
    }
    assert_eq!(code(&delete(json!({"froce": true})).await), (400, "invalid_argument"));
    let (status, gone) = delete(json!({"force": true})).await;
    let folder = format!("stacks/{}", stack["id"].as_str().expect("an id"));
    assert_eq!(
        (status, &gone["state"]),
        (StatusCode::OK, &json!({"instance_id": "i-1", "runner": "r", "folder": folder}))
    );
}

#[tokio::test]
async fn what_is_not_well_formed_is_refused() {
    let world = World::new().await;
    world.stack("s").await;
    let with = |field: &str, value: Value| {
        let mut body = stack_body("t");
        body[field] = value;
        body
    };
    let cases = [
        with("name", "Not A Label".into()),
        with("engine", "ansible".into()),
        with("source", json!({})),
        with("source", json!({"git": {"url": "ext::sh -c id"}})),
        with("source", json!({"git": {"url": "https://e.com/a", "reference": "--upload-pack=id"}})),
        with("source", json!({"git": {"url": "https://e.com/a"}, "archive": {"sha256": "0"}})),
        with("source", json!({"archive": {"sha256": "../x"}})),
        with("path", "../..".into()),
        with("variables", json!({"a b": 1})),
        with("connections", json!(["../x"])),
        with("not_redacted", json!(["a b"])),
        with("engine_version", "latest".into()),
        with("engine_version", "".into()),
        with("surprise", 1.into()),
        json!([]),
        json!({"name": "t"}),
    ];
    for body in cases {
        assert_eq!(code(&world.post("/stacks", &body).await), (400, "invalid_argument"), "{body}");
    }
    assert_eq!(code(&world.post("/stacks", &with("runner", "none".into())).await), (404, "not_found"));
    let missing = with("source", json!({"archive": {"sha256": "0".repeat(64), "size": 1}}));
    assert_eq!(code(&world.post("/stacks", &missing).await), (404, "not_found"));
    for body in [json!({"kind": "explode"}), json!({}), json!({"kind": "update", "x": 1})] {
        assert_eq!(code(&world.post("/stacks/s/jobs", &body).await), (400, "invalid_argument"), "{body}");
    }
    assert_eq!(code(&world.get("/jobs?limit=0").await), (400, "invalid_argument"));
    assert_eq!(code(&world.get("/jobs?stakc=s").await), (400, "invalid_argument"));
    assert_eq!(world.get("/jobs?stack=s").await.0, StatusCode::OK);
}

#[tokio::test]
async fn an_archive_is_kept_by_its_hash_for_its_own_organization() {
    let world = World::new().await;
    let content = b"not really a tar".as_slice();
    let path = format!("/archives/{}", shared_proto::hex::encode(Sha256::digest(content)));
    let put = |who: &Secret, path: &str, body: &'static [u8]| {
        let (who, path) = (who.clone(), path.to_owned());
        let world = &world;
        async move { world.send(&who, Method::PUT, &path, "*/*", Body::from(body)).await.status().as_u16() }
    };
    let head = |who: &Secret| {
        let (who, path) = (who.clone(), path.clone());
        let world = &world;
        async move { world.send(&who, Method::HEAD, &path, "*/*", Body::empty()).await.status().as_u16() }
    };
    assert_eq!(head(&world.ann).await, 404);
    assert_eq!(put(&world.ann, &path, b"something else").await, 400);
    assert_eq!(head(&world.ann).await, 404);
    assert_eq!(put(&world.ann, &path, content).await, 201);
    assert_eq!(head(&world.ann).await, 200);
    assert_eq!(head(&world.eve).await, 404);
    assert_eq!(put(&world.ann, "/archives/..%2f..%2fx", content).await, 400);
    let sha256 = path.trim_start_matches("/archives/");
    let mut body = stack_body("s");
    body["source"] = json!({"archive": {"sha256": sha256}});
    let (status, stack) = world.post("/stacks", &body).await;
    assert_eq!((status, &stack["source"]["archive"]["size"]), (StatusCode::CREATED, &json!(content.len())));
    body["runner"] = Value::Null;
    assert_eq!(code(&world.ask(&world.eve, Method::POST, "/stacks", Some(&body)).await), (404, "not_found"));
}

#[tokio::test]
async fn a_job_is_followed_decided_on_and_ends() {
    let world = World::new().await;
    world.stack("s").await;
    let (id, given) = world.accepted("s").await;
    let (_, job) = world.get(&format!("/jobs/{id}")).await;
    assert_eq!((&job["phase"], &job["runner"], &job["instance_id"]), (&"preparing".into(), &"r".into(), &"i-1".into()));
    assert_eq!(job["stack"]["name"], "s");
    let saved = v1::PlanSaved { sha256: "p1".into(), has_changes: true, text: "a plan".into() };
    world.report(&given, 1, vec![event::Body::PlanSaved(saved), phase("awaiting_approval")]).await;
    let approve = |body: Value| {
        let (world, path) = (&world, format!("/jobs/{id}/approve"));
        async move { world.post(&path, &body).await }
    };
    assert_eq!(code(&approve(json!({"plan_sha256": "p0"})).await), (409, "plan_stale"));
    let (_, job) = approve(json!({"plan_sha256": "p1"})).await;
    assert_eq!(
        (&job["phase"], &job["plan"]["text"], &job["approved_by"]),
        (&"applying".into(), &"a plan".into(), &"u".into())
    );
    assert_eq!(code(&world.post(&format!("/jobs/{id}/discard"), &json!({})).await), (409, "conflict"));
    let outputs = v1::Outputs { json: r#"{"a":{"value":1}}"#.into() };
    let result = v1::JobResult { phase: "applied".into(), code: "ok".into(), ..Default::default() };
    world.report(&given, 3, vec![event::Body::Outputs(outputs), event::Body::Result(result)]).await;
    let (_, job) = world.get(&format!("/jobs/{id}")).await;
    assert_eq!(
        (&job["phase"], &job["result"]["code"], &job["outputs"]["a"]["value"]),
        (&"applied".into(), &"ok".into(), &1.into())
    );
    assert_eq!(job["last_sequence"], 4);
    let (_, events) = world.get(&format!("/jobs/{id}/events?after=1&limit=2")).await;
    let events: Vec<v1::Event> = serde_json::from_value(events["items"].clone()).expect("events");
    assert_eq!(events.iter().map(|e| e.sequence).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(events[0].body, Some(phase("awaiting_approval")));
    assert_eq!(world.get("/stacks/s").await.1["last_job"]["id"], id.as_str());
    assert_eq!(world.get("/jobs?stack=s&limit=1").await.1["items"][0]["id"], id.as_str());
}

#[tokio::test]
async fn events_are_followed_to_the_end_and_taken_up_again() {
    let world = World::new().await;
    world.stack("s").await;
    let (id, given) = world.accepted("s").await;
    world.report(&given, 1, vec![phase("planning"), phase("planned")]).await;
    let path = format!("/jobs/{id}/events");
    let response = world.send(&world.ann, Method::GET, &path, "text/event-stream", Body::empty()).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut text = String::new();
    let mut read = async |text: &mut String, wanted: &str| {
        while !text.contains(wanted) {
            let frame = tokio::time::timeout(Duration::from_secs(60), body.frame()).await.expect("in time");
            let frame = frame.expect("goes on").expect("whole");
            text.push_str(&String::from_utf8_lossy(frame.data_ref().expect("data")));
        }
    };
    read(&mut text, "id: 2\n").await;
    let result = v1::JobResult { phase: "failed".into(), code: "engine_failed".into(), ..Default::default() };
    world.report(&given, 3, vec![event::Body::Result(result)]).await;
    world.jobs.changed(&world.runner, &id);
    read(&mut text, "event: end\n").await;
    assert_eq!(text.matches("\nid: ").count() + usize::from(text.starts_with("id: ")), 3, "{text}");
    assert!(text.contains("data: {\"phase\":\"failed\"}"), "{text}");
    assert!(body.frame().await.is_none());
    let request = Request::get(format!("/api/v1{path}"))
        .header("authorization", format!("Bearer {}", world.ann.expose()))
        .header("accept", "text/event-stream")
        .header("last-event-id", "2")
        .body(Body::empty())
        .expect("a request");
    let response = world.router.clone().oneshot(request).await.expect("answered");
    let rest = response.into_body().collect().await.expect("ends").to_bytes();
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.starts_with("id: 3\n") && rest.ends_with("event: end\ndata: {\"phase\":\"failed\"}\n\n"), "{rest}");
}

#[tokio::test]
async fn another_organizations_user_finds_nothing() {
    let world = World::new().await;
    let stack = world.stack("s").await;
    let (id, _) = world.accepted("s").await;
    let stack = stack["id"].as_str().expect("an id").to_owned();
    let cases = [
        (Method::GET, format!("/stacks/{stack}"), None),
        (
            Method::PUT,
            format!("/stacks/{stack}"),
            Some({
                let mut body = stack_body("s");
                body["runner"] = Value::Null;
                body
            }),
        ),
        (Method::DELETE, format!("/stacks/{stack}"), None),
        (Method::POST, format!("/stacks/{stack}/jobs"), Some(json!({"kind": "preview"}))),
        (Method::GET, format!("/jobs/{id}"), None),
        (Method::GET, format!("/jobs/{id}/events"), None),
        (Method::GET, format!("/jobs?stack={stack}"), None),
        (Method::POST, format!("/jobs/{id}/approve"), Some(json!({}))),
        (Method::POST, format!("/jobs/{id}/discard"), Some(json!({}))),
        (Method::POST, format!("/jobs/{id}/cancel"), Some(json!({"force": true}))),
    ];
    for (method, path, body) in cases {
        let answer = world.ask(&world.eve, method.clone(), &path, body.as_ref()).await;
        assert_eq!(code(&answer), (404, "not_found"), "{method} {path}");
        let unknown = path.replace(&id, "job_0").replace(&stack, "stk_0");
        let same = world.ask(&world.eve, method.clone(), &unknown, body.as_ref()).await;
        let words = |a: &Value| a.to_string().replace(&id, "job_0").replace(&stack, "stk_0");
        assert_eq!((answer.0, words(&answer.1)), (same.0, words(&same.1)), "{method} {path}");
    }
    let path = format!("/jobs/{id}/events");
    let follow = world.send(&world.eve, Method::GET, &path, "text/event-stream", Body::empty()).await;
    assert_eq!(follow.status(), StatusCode::NOT_FOUND);
    assert_eq!(world.ask(&world.eve, Method::GET, "/stacks", None).await.1["items"], json!([]));
    assert_eq!(world.ask(&world.eve, Method::GET, "/jobs", None).await.1["items"], json!([]));
}

#[tokio::test]
async fn a_decision_needs_no_body() {
    let world = World::new().await;
    let post = async |path: String, kind: Option<&str>, body: &'static str| {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("/api/v1{path}"))
            .header("authorization", format!("Bearer {}", world.ann.expose()));
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let response =
            world.router.clone().oneshot(request.body(Body::from(body)).expect("a request")).await.expect("answered");
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice::<Value>(&bytes).expect("JSON"))
    };
    for (number, (decision, phase)) in
        [("approve", "applying"), ("discard", "discarded"), ("cancel", "canceled")].into_iter().enumerate()
    {
        let stack = format!("s{number}");
        world.stack(&stack).await;
        let (id, given) = world.accepted(&stack).await;
        let saved = v1::PlanSaved { sha256: "p1".into(), has_changes: true, text: String::new() };
        world.report(&given, 1, vec![event::Body::PlanSaved(saved), self::phase("awaiting_approval")]).await;
        let path = format!("/jobs/{id}/{decision}");
        // what is there is still held against its form
        assert_eq!(post(path.clone(), Some("application/json"), r#"{"x":1}"#).await.0, 400, "{decision}");
        assert_eq!(post(path.clone(), None, "{}").await.0, 400, "{decision}");
        // `curl -X POST`, and `curl -d ''`
        let form = (number == 1).then_some("application/x-www-form-urlencoded");
        let (status, job) = post(path, form, "").await;
        assert_eq!((status, job["phase"].as_str()), (200, Some(phase)), "{decision}: {job}");
    }
}

/// A job of the stack that is at work from one moment to another, and ends so; `None`: it is at work still.
async fn at_work(world: &World, from: i64, until: i64, end: Option<v1::JobResult>) -> String {
    let (id, given) = world.accepted("s").await;
    let started = v1::EngineStarted { command: "apply".into(), host: "vm".into(), ..Default::default() };
    let mut told = vec![(from, phase("planning"))];
    // one that could not have the lock tells of nothing that it did
    if end.as_ref().is_none_or(|end| end.lock.is_none()) {
        let progress = event::Body::ResourceProgress(v1::ResourceProgress::default());
        told.extend([(from, event::Body::EngineStarted(started)), (until, progress)]);
    }
    told.push((until, end.map_or_else(|| phase("applying"), event::Body::Result)));
    world.report_at(&given, 1, told).await;
    id
}
fn ended(phase: &str, code: &str) -> Option<v1::JobResult> {
    Some(v1::JobResult { phase: phase.into(), code: code.into(), ..Default::default() })
}
fn locked(created_ms: i64) -> Option<v1::JobResult> {
    let lock = v1::StateLock { id: "L1".into(), who: "root@vm".into(), created_ms, ..Default::default() };
    Some(v1::JobResult { lock: Some(lock), ..ended("failed", "state_locked")? })
}

#[tokio::test]
async fn a_lock_is_dead_where_its_holder_is_known_to_have_ended_and_nowhere_else() {
    for (end, created, verdict, holder) in [
        // made while the job was at work, of which its runner told the end
        (ended("failed", "engine_failed"), 7_000, "dead", true),
        (ended("canceled", "cancelled"), 6_000, "dead", true),
        // nobody saw its end
        (ended("lost", "job_lost"), 7_000, "cannot_tell", true),
        (ended("failed", "worker_crashed"), 7_000, "cannot_tell", true),
        // made between two jobs, after both, before both: somebody else's
        (ended("failed", "engine_failed"), 5_500, "cannot_tell", false),
        (ended("failed", "engine_failed"), 9_500, "cannot_tell", false),
        (ended("failed", "engine_failed"), 500, "cannot_tell", false),
        (ended("failed", "engine_failed"), 0, "cannot_tell", false),
        // it could not have the lock itself
        (locked(7_000), 7_000, "cannot_tell", false),
    ] {
        let world = World::new().await;
        world.stack("s").await;
        assert_eq!(world.get("/stacks/s/lock").await.1["lock"], Value::Null);
        at_work(&world, 1_000, 5_000, ended("applied", "ok")).await;
        let what = format!("{end:?} {created}");
        let before = at_work(&world, 6_000, 9_000, end).await;
        let found_by = at_work(&world, 10_000, 11_000, locked(created)).await;
        let (_, known) = world.get("/stacks/s/lock").await;
        assert_eq!((&known["lock"]["id"], &known["found_by"]), (&"L1".into(), &found_by.into()), "{what}");
        assert_eq!(known["holder"]["verdict"], verdict, "{what}: {known}");
        assert_eq!(known["holder"]["job"] == before.as_str(), holder, "{what}: {known}");

        let unlock =
            |id: &str, force: bool| json!({ "kind": "unlock", "lock": { "id": id, "reason": "r", "force": force } });
        let (asked, forced) = (unlock("L1", false), unlock("L1", true));
        // another one is not there, and force would not make it so
        let (status, refused) = world.post("/stacks/s/jobs", &unlock("L2", false)).await;
        assert_eq!((status.as_u16(), &refused["error"]["code"]), (409, &"conflict".into()), "{what}");
        let said = refused["error"].to_string();
        assert!(said.contains("L1") && said.contains("state lock s") && !said.contains("--force"), "{said}");
        let answer = world.post("/stacks/s/jobs", if verdict == "dead" { &asked } else { &forced }).await;
        assert_eq!(answer.0, StatusCode::CREATED, "{what}: {}", answer.1);
        if verdict != "dead" {
            let (_, refused) = world.post("/stacks/s/jobs", &asked).await;
            assert_eq!(refused["error"]["code"], "conflict", "{what}");
            assert!(refused["error"].to_string().contains("--force"), "{refused}");
        }
    }
}

#[tokio::test]
async fn a_lock_in_a_runners_own_store_is_dead_where_its_runner_says_so() {
    let world = World::new().await;
    world.stack("s").await;
    let lock = v1::StateLock { id: "L1".into(), job: "job_x".into(), holder_gone: true, ..Default::default() };
    let end = ended("failed", "state_locked").map(|end| v1::JobResult { lock: Some(lock), ..end });
    at_work(&world, 1_000, 2_000, end).await;
    let (_, known) = world.get("/stacks/s/lock").await;
    assert_eq!((&known["holder"]["verdict"], &known["holder"]["job"]), (&"dead".into(), &"job_x".into()), "{known}");
    let unlock = json!({ "kind": "unlock", "lock": { "id": "L1", "reason": "r" } });
    assert_eq!(world.post("/stacks/s/jobs", &unlock).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_lock_that_a_job_has_left_is_known_by_its_own_end() {
    let world = World::new().await;
    world.stack("s").await;
    let (_, given) = world.accepted_of("s", "update").await;
    let job = given.job_id.clone();
    let lock = v1::StateLock { id: "L1".into(), job: job.clone(), holder_gone: true, ..Default::default() };
    let end = ended("lost", "job_lost").map(|end| v1::JobResult { lock: Some(lock), ..end });
    world.report_at(&given, 1, vec![(1_000, event::Body::Result(end.unwrap_or_default()))]).await;
    let (_, known) = world.get("/stacks/s/lock").await;
    assert_eq!((&known["lock"]["id"], &known["found_by"]), (&"L1".into(), &job.as_str().into()), "{known}");
    let of = ["verdict", "job", "person", "runner"].map(|part| &known["holder"][part]);
    assert_eq!(of, ["dead", &job, "u", "r"].map(Value::from).each_ref(), "{known}");
    let unlock = json!({ "kind": "unlock", "lock": { "id": "L1", "reason": "r" } });
    assert_eq!(world.post("/stacks/s/jobs", &unlock).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_lock_that_was_had_since_is_none_and_what_reads_has_none() {
    let world = World::new().await;
    world.stack("s").await;
    let holder = at_work(&world, 6_000, 9_000, ended("failed", "engine_failed")).await;
    // before anybody has found it
    let (_, known) = world.get("/stacks/s/lock").await;
    assert_eq!((&known["lock"], &known["holder"]["job"]), (&Value::Null, &holder.into()), "{known}");
    let unlock = json!({ "kind": "unlock", "lock": { "id": "L1", "reason": "r" } });
    let (_, refused) = world.post("/stacks/s/jobs", &unlock).await;
    assert!(refused["error"]["next_step"].as_str().is_some_and(|next| next.contains("Start a job")), "{refused}");
    at_work(&world, 10_000, 11_000, locked(7_000)).await;
    let (_, known) = world.get("/stacks/s/lock").await;
    assert_eq!(known["holder"]["verdict"], "dead", "{known}");
    let of = ["person", "runner", "instance_id", "host"].map(|part| &known["holder"][part]);
    assert_eq!(of, ["u", "r", "i-1", "vm"].map(Value::from).each_ref(), "{known}");
    // what reads asks for no lock
    let (_, given) = world.accepted_of("s", "state").await;
    let end = event::Body::Result(ended("no_changes", "ok").unwrap_or_default());
    world.report_at(&given, 1, vec![(12_000, end)]).await;
    assert_eq!(world.get("/stacks/s/lock").await.1["holder"]["verdict"], "dead");
    at_work(&world, 13_000, 14_000, ended("applied", "ok")).await;
    assert_eq!(world.get("/stacks/s/lock").await.1["lock"], Value::Null);
}

#[tokio::test]
async fn a_jobs_plan_is_given_as_it_came_and_its_summary_with_the_job() {
    let world = World::new().await;
    world.stack("s").await;
    let (id, given) = world.accepted("s").await;
    assert_eq!(code(&world.get(&format!("/jobs/{id}/plan")).await), (404, "not_found"));
    let document = shared_proto::plan::Document {
        version: shared_proto::plan::VERSION,
        summary: shared_proto::plan::Summary { replace: 2, ..Default::default() },
        ..Default::default()
    };
    let mut json = serde_json::to_value(&document).expect("JSON");
    // of a later version
    json["brand_new"] = json!({"is": "kept"});
    let part = v1::PlanPart { number: 1, of: 1, json: json.to_string() };
    world.report(&given, 1, vec![event::Body::PlanPart(part)]).await;
    let (status, found) = world.get(&format!("/jobs/{id}/plan")).await;
    assert_eq!((status, found), (StatusCode::OK, json));
    let (_, list) = world.get("/jobs").await;
    assert_eq!(list["items"][0]["plan"]["summary"]["replace"], 2, "{list}");
    let (_, events) = world.get(&format!("/jobs/{id}/events")).await;
    assert_eq!(events["items"][0]["body"]["plan_part"], json!({"number": 1, "of": 1, "json": ""}), "{events}");
    let others = world.ask(&world.eve, Method::GET, &format!("/jobs/{id}/plan"), None).await;
    assert_eq!(code(&others), (404, "not_found"));
}

#[tokio::test]
async fn variables_of_sets_stack_and_job_lie_over_each_other_and_a_runner_is_told_names() {
    use prost::Message as _;
    let world = World::new().await;
    let put = async |set: &str, body: Value| {
        world.ask(&world.ann, Method::PUT, &format!("/variable-sets/{set}"), Some(&body)).await
    };
    let reference = json!({"from": "vault", "path": "apps/shop", "key": "password"});
    assert_eq!(put("base", json!({"variables": {"a": "base", "b": [1], "c": 1}})).await.0, StatusCode::OK);
    let team = json!({"variables": {"a": "team"}, "secrets": {"c": reference}});
    assert_eq!(put("team", team.clone()).await.1["secrets"]["c"], reference);
    let mut body = stack_body("s");
    body["variable_sets"] = json!(["base", "none"]);
    assert_eq!(code(&world.post("/stacks", &body).await), (404, "not_found"));
    body["variable_sets"] = json!(["base", "team"]);
    body["variables"] = json!({"b": "stack", "port": 5432, "on": true});
    body["secrets"] = json!({"d": {"from": "files", "path": "apps/d"}, "port": {"from": "files", "path": "p"}});
    assert_eq!(code(&world.post("/stacks", &body).await), (400, "invalid_argument"), "of two kinds");
    body["secrets"] = json!({"d": {"from": "files", "path": "apps/d"}});
    let form = json!({"key": "ab".repeat(32), "encapsulated": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=", "ciphertext": "BwcHBwcHBwcHBwcHBwcHBw=="});
    body["sealed"] = json!({"e": [form]});
    let (status, made) = world.post("/stacks", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!((&made["sealed"], &made["variable_sets"]), (&body["sealed"], &json!(["base", "team"])));
    let (status, job) =
        world.post("/stacks/s/jobs", &json!({"kind": "update", "variables": {"d": "of-the-job"}})).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    let given = world.store.assign_next(&world.runner, "i-1", 4, &[]).await.expect("asked").expect("a job");
    let request = v1::JobRequest::decode(given.request.as_slice()).expect("a request");
    let mut values: Vec<_> = request.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    values.sort();
    assert_eq!(values, ["a=team", "b=stack", "d=of-the-job", "on=true", "port=5432"]);
    let mut typed = request.typed;
    typed.sort();
    assert_eq!((request.format, typed), (4, vec!["on".to_owned(), "port".to_owned()]));
    let wire = v1::SecretReference { from: "vault".into(), path: "apps/shop".into(), key: "password".into() };
    assert_eq!(request.secrets, [("c".to_owned(), wire)].into());
    let sealed: Vec<_> =
        request.sealed.iter().map(|s| (s.variable.as_str(), s.encapsulated.len(), s.ciphertext.len())).collect();
    assert_eq!(sealed, [("e", 32, 16)]);
    // what a stack has stays, and nobody else sees it
    let gone = world.ask(&world.ann, Method::DELETE, "/variable-sets/team", None).await;
    assert_eq!(code(&gone), (409, "conflict"));
    assert!(gone.1["error"]["message"].as_str().is_some_and(|m| m.contains("used by s")), "{gone:?}");
    assert_eq!(code(&world.ask(&world.eve, Method::GET, "/variable-sets/team", None).await), (404, "not_found"));
    let (_, list) = world.get("/variable-sets").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2), "{list}");
    body["variable_sets"] = json!([]);
    assert_eq!(world.ask(&world.ann, Method::PUT, "/stacks/s", Some(&body)).await.0, StatusCode::OK);
    assert_eq!(world.ask(&world.ann, Method::DELETE, "/variable-sets/team", None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(code(&world.get("/variable-sets/team").await), (404, "not_found"));
    assert_eq!(code(&put("A%20b", team).await), (400, "invalid_argument"));
}

#[tokio::test]
async fn hooks_of_a_stack_are_paths_and_only_jobs_that_plan_are_told_of_them() {
    use prost::Message as _;
    let world = World::new().await;
    let mut body = stack_body("s");
    for bad in [json!({"before_plan": "/bin/sh"}), json!({"before_plan": ""}), json!({"before_init": "a.sh"})] {
        body["hooks"] = bad;
        let refused = world.post("/stacks", &body).await;
        assert_eq!(code(&refused), (400, "invalid_argument"), "{refused:?}");
    }
    body["hooks"] = json!({"before_plan": "scripts/generate.sh", "after_apply": "scripts/tell.sh"});
    let (status, made) = world.post("/stacks", &body).await;
    assert_eq!((status, &made["hooks"]), (StatusCode::CREATED, &body["hooks"]), "{made}");
    body["name"] = "t".into();
    assert_eq!(world.post("/stacks", &body).await.0, StatusCode::CREATED);
    let told = async |stack: &str, kind: &str| {
        let made = world.post(&format!("/stacks/{stack}/jobs"), &json!({ "kind": kind })).await;
        assert_eq!(made.0, StatusCode::CREATED, "{made:?}");
        let given = world.store.assign_next(&world.runner, "i-1", 4, &[]).await.expect("asked").expect("a job");
        v1::JobRequest::decode(given.request.as_slice()).expect("a request")
    };
    let request = told("s", "preview").await;
    let hooks = v1::Hooks {
        before_plan: "scripts/generate.sh".into(),
        after_apply: "scripts/tell.sh".into(),
        ..Default::default()
    };
    assert_eq!((request.format, request.hooks), (5, Some(hooks)));
    let request = told("t", "state").await;
    assert_eq!((request.format, request.hooks), (1, None));
    // taken back
    body["hooks"] = json!({});
    let (_, changed) = world.ask(&world.ann, Method::PUT, "/stacks/t", Some(&body)).await;
    assert_eq!(changed["hooks"], json!({}), "{changed}");
}
