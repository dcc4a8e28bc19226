//! Jobs that nobody asks for by hand: by schedules, by Git hosts; and what is known of drift. Through the API, as its users and senders see it.

use super::*;
use crate::api::{due, follow_ons};
use crate::store::{JobKind, Phase};
use aws_lc_rs::hmac;
use shared_proto::now_ms;

const MINUTE: i64 = 60_000;
const COMMIT: &str = "bffeb74224043ba2feb48d137756c8a9331c449a";

impl World {
    /// One whose user may set hooks up.
    async fn owned() -> Self {
        let world = World::new().await;
        sqlx::query("UPDATE users SET role = 'owner'").execute(world.store.pool()).await.expect("set");
        world
    }
    async fn put(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.ask(&self.ann, Method::PUT, path, Some(body)).await
    }
    async fn schedule(&self, stack: &str, name: &str, kind: &str) -> Value {
        let body = json!({ "kind": kind, "cron": "* * * * *", "jitter_s": 0 });
        let (status, set) = self.put(&format!("/stacks/{stack}/schedules/{name}"), &body).await;
        assert_eq!(status, StatusCode::OK, "{set}");
        set
    }
    async fn shown(&self, stack: &str, name: &str) -> Value {
        self.get(&format!("/stacks/{stack}/schedules/{name}")).await.1
    }
    async fn jobs(&self) -> Vec<crate::store::Job> {
        self.store.jobs(&self.organization, None, 100).await.expect("jobs")
    }
    /// Ends the stack's only job.
    async fn ended(&self, phase: &str, code: &str, plan: Option<event::Body>) {
        let accept = self.accept_next().await;
        let result = v1::JobResult { phase: phase.into(), code: code.into(), ..Default::default() };
        let bodies = plan.into_iter().chain([event::Body::Result(result)]).collect();
        self.report(&accept, 1, bodies).await;
    }
    async fn request_of(&self, job: &str) -> v1::JobRequest {
        use prost::Message as _;
        let row: (Vec<u8>,) = sqlx::query_as("SELECT request FROM jobs WHERE id = $1")
            .bind(job)
            .fetch_one(self.store.pool())
            .await
            .expect("a job");
        v1::JobRequest::decode(row.0.as_slice()).expect("a request")
    }
    async fn git_stack(&self, name: &str, url: &str, reference: &str) -> Value {
        let body = json!({
            "name": name, "engine": "opentofu", "runner": "r", "path": "infra", "connections": ["prod"],
            "source": { "git": { "url": url, "reference": reference } },
            "variables": { "region": "eu", "password": "hunter2-hunter2" },
        });
        let (status, stack) = self.post("/stacks", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{stack}");
        stack
    }
    async fn hook(&self, host: &str, route: Value) -> (String, String) {
        let (status, hook) = self.post("/webhooks", &json!({ "host": host, "routes": [route] })).await;
        assert_eq!(status, StatusCode::CREATED, "{hook}");
        let text = |name: &str| hook[name].as_str().expect("a text").to_owned();
        (text("path"), text("secret"))
    }
    /// Sends as GitHub does, signed by that secret.
    async fn deliver(&self, path: &str, secret: &str, event: &str, body: &[u8]) -> (StatusCode, Value) {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body);
        let request = Request::post(path)
            .header("x-github-event", event)
            .header("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
            .header("x-hub-signature-256", format!("sha256={}", shared_proto::hex::encode(tag)))
            .body(Body::from(body.to_vec()))
            .expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("answered");
        let status = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

fn due_ms(schedule: &Value) -> i64 {
    schedule["next_run_ms"].as_i64().expect("a time")
}
fn saved(has_changes: bool) -> event::Body {
    event::Body::PlanSaved(v1::PlanSaved { sha256: "p".into(), has_changes, text: String::new() })
}
fn push(commit: &str, repository: &str, branch: &str, file: &str) -> Vec<u8> {
    json!({
        "ref": format!("refs/heads/{branch}"), "after": commit, "created": false, "deleted": false, "forced": false,
        "repository": { "clone_url": repository, "default_branch": "main" },
        "commits": [{ "added": [file], "modified": [], "removed": [] }],
    })
    .to_string()
    .into_bytes()
}
fn pull_request(commit: &str, repository: &str, own: bool) -> Vec<u8> {
    let head = if own { 1 } else { 2 };
    json!({
        "action": "opened",
        "pull_request": {
            "head": { "sha": commit, "repo": { "id": head } },
            "base": { "ref": "main", "repo": { "id": 1, "clone_url": repository, "default_branch": "main" } },
        },
    })
    .to_string()
    .into_bytes()
}

#[tokio::test]
async fn a_schedule_has_its_forms_and_bounds() {
    let world = World::owned().await;
    world.stack("web").await;
    let set = world.schedule("web", "nightly", "drift").await;
    assert_eq!(
        (set["cron"].as_str(), set["utc_offset"].as_str(), set["late"].as_str()),
        (Some("* * * * *"), Some("+00:00"), Some("run"))
    );
    assert!(due_ms(&set) > now_ms() && due_ms(&set) <= now_ms() + MINUTE);
    for (body, word) in [
        (json!({ "kind": "drift", "cron": "* * * *" }), "five fields"),
        (json!({ "kind": "drift", "cron": "0 0 30 2 *" }), "no year"),
        (json!({ "kind": "drift", "cron": "* * * * *", "utc_offset": "CET" }), "utc_offset"),
        (json!({ "kind": "drift", "cron": "* * * * *", "jitter_s": 3601 }), "3600"),
        (json!({ "kind": "destroy", "cron": "* * * * *" }), "destroy"),
        (json!({ "kind": "drift", "cron": "* * * * *", "x": 1 }), "x"),
    ] {
        let (status, said) = world.put("/stacks/web/schedules/s", &body).await;
        assert!(status == StatusCode::BAD_REQUEST && said.to_string().contains(word), "{body}: {said}");
    }
    assert_eq!(
        world.put("/stacks/web/schedules/Bad_Name", &json!({ "kind": "drift", "cron": "@daily" })).await.0,
        StatusCode::BAD_REQUEST
    );
    // set again it is the same one, and there are so many of one stack
    assert_eq!(world.schedule("web", "nightly", "update").await["id"], set["id"]);
    for n in 1..20 {
        world.schedule("web", &format!("s-{n}"), "preview").await;
    }
    let (status, _) = world.put("/stacks/web/schedules/more", &json!({ "kind": "drift", "cron": "@daily" })).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(world.get("/schedules").await.1["items"].as_array().map(Vec::len), Some(20));
    // another organization sees none of it
    assert_eq!(world.ask(&world.eve, Method::GET, "/schedules", None).await.1["items"], json!([]));
    assert_eq!(
        world.ask(&world.eve, Method::DELETE, "/stacks/web/schedules/nightly", None).await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        world.ask(&world.ann, Method::DELETE, "/stacks/web/schedules/nightly", None).await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(world.get("/stacks/web/schedules/nightly").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_time_makes_one_job_however_often_it_is_looked_at() {
    let world = World::owned().await;
    world.stack("web").await;
    let due = due_ms(&world.schedule("web", "nightly", "drift").await);
    due::look(&world.state, due - 1).await;
    assert!(world.jobs().await.is_empty(), "it is not due");
    // two control planes, or one that is killed before it could note the job
    let schedule = world.store.due_schedules(due, 4, 10).await.expect("due").pop().expect("one");
    let caller =
        due::acting(&world.state, &schedule.organization, &schedule.user_id).await.expect("a look").expect("a user");
    let first = due::make(&world.state, &caller, &schedule, Some(schedule.slot_ms)).await.expect("a job");
    due::look(&world.state, due).await;
    due::look(&world.state, due).await;
    let jobs = world.jobs().await;
    assert_eq!(jobs.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), [first.id.as_str()]);
    let job = &jobs[0];
    assert_eq!((job.kind, job.preview_only, job.created_by.as_str()), (JobKind::Refresh, true, "u"));
    assert_eq!(job.origin.as_deref(), Some("schedule nightly"));
    let request = world.request_of(&job.id).await;
    assert_eq!((request.format, request.preview_only, request.approve_automatically), (4, true, false));
    let shown = world.shown("web", "nightly").await;
    assert_eq!((shown["last"]["job"].as_str(), due_ms(&shown)), (Some(job.id.as_str()), due + MINUTE));
}

#[tokio::test]
async fn a_look_is_skipped_while_a_job_of_the_stack_is_under_way() {
    let world = World::owned().await;
    world.stack("web").await;
    world.stack("other").await;
    world.post("/stacks/other/jobs", &json!({ "kind": "preview" })).await;
    let due = due_ms(&world.schedule("web", "nightly", "drift").await);
    let (_, under_way) = world.post("/stacks/web/jobs", &json!({ "kind": "update" })).await;
    due::look(&world.state, due).await;
    assert_eq!(world.jobs().await.len(), 2);
    let shown = world.shown("web", "nightly").await;
    let said = shown["last"]["said"].as_str().expect("said");
    assert!(said.contains("skipped") && said.contains(under_way["id"].as_str().expect("an id")), "{said}");
    assert_eq!((due_ms(&shown), shown["failures"].as_i64()), (due + MINUTE, Some(0)));
    // by hand it is refused, with the same words
    let (status, said) = world.post("/stacks/web/schedules/nightly/run", &json!({})).await;
    assert!(status == StatusCode::CONFLICT && said.to_string().contains("skipped"), "{said}");
    world.post(&format!("/jobs/{}/cancel", under_way["id"].as_str().expect("an id")), &json!({})).await;
    let (status, job) = world.post("/stacks/web/schedules/nightly/run", &json!({})).await;
    assert_eq!((status, job["preview_only"].as_bool()), (StatusCode::CREATED, Some(true)));
}

#[tokio::test]
async fn what_was_missed_is_made_up_for_once_or_not_at_all() {
    let world = World::owned().await;
    for (name, late) in [("run", "run"), ("skip", "skip")] {
        world.stack(name).await;
        let body = json!({ "kind": "preview", "cron": "* * * * *", "jitter_s": 0, "late": late });
        world.put(&format!("/stacks/{name}/schedules/s"), &body).await;
    }
    let due = due_ms(&world.shown("run", "s").await);
    // the control plane was down for three days
    let now = due + 3 * 24 * 60 * MINUTE;
    for _ in 0..3 {
        due::look(&world.state, now).await;
    }
    let jobs = world.jobs().await;
    assert_eq!(jobs.iter().map(|job| job.stack_name.as_str()).collect::<Vec<_>>(), ["run"]);
    let skipped = world.shown("skip", "s").await;
    assert!(skipped["last"]["said"].as_str().expect("said").contains("missed"), "{skipped}");
    for name in ["run", "skip"] {
        let next = due_ms(&world.shown(name, "s").await);
        assert!(next > now && next <= now + MINUTE, "{name}");
    }
}

#[tokio::test]
async fn five_failures_one_after_the_other_pause_it() {
    let world = World::owned().await;
    world.stack("web").await;
    let mut due = due_ms(&world.schedule("web", "s", "preview").await);
    for (name, events) in [("all", json!([])), ("drift", json!(["drift_found"]))] {
        let secret = "a secret of sixteen bytes and more";
        let body = json!({ "name": name, "url": "https://hooks.example.com/", "secret": secret, "events": events });
        assert_eq!(world.post("/notifications", &body).await.0, StatusCode::CREATED);
    }
    let told = async |name: &str| {
        let found = world.store.notification(&world.organization, name).await.expect("is there");
        let notices = world.store.notices(&found.id, 100).await.expect("notices");
        notices.into_iter().filter(|notice| notice.event == "schedule_paused").map(|n| n.body).collect::<Vec<_>>()
    };
    // what succeeds between them starts the count again
    for phase in ["failed", "failed", "planned", "failed", "failed", "failed", "failed", "failed"] {
        due::look(&world.state, due).await;
        world.ended(phase, if phase == "failed" { "engine_failed" } else { "ok" }, None).await;
        due = due_ms(&world.shown("web", "s").await);
    }
    assert_eq!(world.jobs().await.len(), 8);
    // at once, and not when its next time comes
    due::look(&world.state, due - MINUTE / 2).await;
    let shown = world.shown("web", "s").await;
    assert_eq!((world.jobs().await.len(), shown["next_run_ms"].clone()), (8, Value::Null));
    assert!(shown["paused"]["by"].as_str().expect("why").contains("5 jobs"), "{shown}");
    let [told_all] = &told("all").await[..] else { panic!("it is told once") };
    let body: Value = serde_json::from_str(told_all).expect("JSON");
    assert_eq!(
        (body["event"].as_str(), body["stack"]["name"].as_str(), body["schedule"]["name"].as_str()),
        (Some("schedule_paused"), Some("web"), Some("s"))
    );
    assert_eq!((body["schedule"]["why"].as_str(), told("drift").await.len()), (shown["paused"]["by"].as_str(), 0));
    due::look(&world.state, due + 10 * MINUTE).await;
    assert_eq!(told("all").await.len(), 1);
    assert_eq!(world.jobs().await.len(), 8, "it stays paused");
    let (_, resumed) = world.post("/stacks/web/schedules/s/resume", &json!({})).await;
    assert_eq!((resumed["paused"].clone(), resumed["failures"].as_i64()), (Value::Null, Some(0)));
    let (_, paused) = world.post("/stacks/web/schedules/s/pause", &json!({})).await;
    assert_eq!((paused["paused"]["by"].as_str(), paused["next_run_ms"].clone()), (Some("u"), Value::Null));
}

#[tokio::test]
async fn what_reconciles_is_an_update_that_nobody_but_the_runner_lets_be() {
    let world = World::owned().await;
    world.stack("web").await;
    world.schedule("web", "s", "reconcile").await;
    let (_, job) = world.post("/stacks/web/schedules/s/run", &json!({})).await;
    assert_eq!(
        (job["kind"].as_str(), job["reconcile"].as_bool(), job["approve_automatically"].as_bool()),
        (Some("update"), Some(true), Some(false))
    );
    for (body, word) in [
        (json!({ "kind": "preview", "reconcile": true }), "reconcile"),
        (json!({ "kind": "update", "reconcile": true, "approve_automatically": true }), "reconcile"),
        (json!({ "kind": "update", "preview_only": true }), "preview_only"),
        (json!({ "kind": "refresh", "preview_only": true, "approve_automatically": true }), "preview_only"),
        (json!({ "kind": "refresh", "preview_only": true, "targets": ["a.b"] }), "whole stack"),
        (json!({ "kind": "update", "untrusted": true }), "untrusted"),
    ] {
        let (status, said) = world.post("/stacks/web/jobs", &body).await;
        assert!(status == StatusCode::BAD_REQUEST && said.to_string().contains(word), "{body}: {said}");
    }
}

#[tokio::test]
async fn drift_is_known_from_a_look_to_one_that_finds_none_or_an_apply() {
    let world = World::owned().await;
    world.stack("web").await;
    world.schedule("web", "s", "drift").await;
    assert_eq!(world.get("/stacks/web/drift").await.0, StatusCode::NOT_FOUND);
    let look = async |phase: &str, code: &str, plan: Option<event::Body>| {
        let (status, job) = world.post("/stacks/web/schedules/s/run", &json!({})).await;
        assert_eq!(status, StatusCode::CREATED, "{job}");
        world.ended(phase, code, plan).await;
        world.get("/stacks/web/drift").await.1
    };
    assert_eq!(look("no_changes", "ok", Some(saved(false))).await["since_ms"], Value::Null);
    let found = look("planned", "ok", Some(saved(true))).await;
    let since = found["since_ms"].as_i64().expect("since when");
    // it stays since then, and a look that failed says nothing
    let again = look("planned", "ok", Some(saved(true))).await;
    assert_eq!(again["since_ms"].as_i64(), Some(since));
    assert_ne!(again["found_by"], found["found_by"]);
    assert_eq!(look("failed", "engine_failed", None).await["checked_by"], again["checked_by"]);
    let list = world.get("/drift").await.1;
    assert_eq!(
        (list["items"][0]["stack"]["name"].as_str(), list["items"][0]["since_ms"].as_i64()),
        (Some("web"), Some(since))
    );
    assert_eq!(look("no_changes", "ok", Some(saved(false))).await["since_ms"], Value::Null);
    // a plan that a rule denies is a plan
    assert!(look("failed", "plan_denied", Some(saved(true))).await["since_ms"].is_i64());
    // an update of a part does not say that all is well, one of the whole does
    for (body, gone) in [
        (json!({ "kind": "update", "targets": ["a.b"], "approve_automatically": true }), false),
        (json!({ "kind": "update", "approve_automatically": true }), true),
    ] {
        world.post("/stacks/web/jobs", &body).await;
        world.ended("applied", "ok", Some(saved(true))).await;
        assert_eq!(world.get("/stacks/web/drift").await.1["since_ms"].is_null(), gone, "{body}");
    }
    assert_eq!(world.ask(&world.eve, Method::GET, "/drift", None).await.1["items"], json!([]));
}

#[tokio::test]
async fn whoever_wants_to_is_told_each_thing_once() {
    let world = World::owned().await;
    world.stack("web").await;
    let of = |name: &str, events: Value| json!({ "name": name, "url": "https://hooks.example.com/secret-path", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "events": events });
    for (name, events) in [("all", json!([])), ("failed", json!(["job_failed"]))] {
        let (status, made) = world.post("/notifications", &of(name, events)).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        assert!(!made.to_string().contains("secret-path") && !made.to_string().contains("whsec"), "{made}");
    }
    assert_eq!(world.post("/notifications", &of("all", json!([]))).await.0, StatusCode::CONFLICT);
    for (member, value) in [
        ("url", json!("http://a/")),
        ("secret", json!("short")),
        ("secret", json!("whsec_!!!not-base64!!!")),
        ("events", json!(["x"])),
        ("name", json!("A B")),
    ] {
        let mut bad = of("other", json!([]));
        bad[member] = value;
        assert_eq!(world.post("/notifications", &bad).await.0, StatusCode::BAD_REQUEST, "{member}");
    }
    world.schedule("web", "s", "drift").await;
    for (phase, code, has) in [
        ("planned", "ok", true),
        ("planned", "ok", true),
        ("no_changes", "ok", false),
        ("failed", "engine_failed", false),
    ] {
        world.post("/stacks/web/schedules/s/run", &json!({})).await;
        let plan = (code == "ok").then(|| saved(has));
        world.ended(phase, code, plan).await;
    }
    world.post("/stacks/web/jobs", &json!({ "kind": "update", "approve_automatically": true })).await;
    world.ended("applied", "ok", Some(saved(true))).await;
    let events = async |name: &str| {
        let list = world.get(&format!("/notifications/{name}/notices")).await.1;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().rev().map(|n| n["event"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(events("all").await, ["drift_found", "drift_gone", "job_failed", "job_applied"]);
    assert_eq!(events("failed").await, ["job_failed"]);
    let (notice, to) = world.store.due_notices(now_ms(), 1).await.expect("due").pop().expect("one");
    let body: Value = serde_json::from_str(&notice.body).expect("JSON");
    assert_eq!(
        (body["event"].as_str(), body["stack"]["name"].as_str(), body["id"].as_str()),
        (Some("drift_found"), Some("web"), Some(notice.id.as_str()))
    );
    world.store.told(&notice, "HTTP 200", true, None).await.expect("noted");
    assert_eq!(
        world.store.notices(&to.id, 10).await.expect("notices").iter().filter(|n| n.told_at_ms.is_some()).count(),
        1
    );
    assert_eq!(world.ask(&world.eve, Method::GET, "/notifications/all/notices", None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_push_makes_a_job_of_its_stack_at_its_commit() {
    let world = World::owned().await;
    let url = "https://git.example.com/a/b.git";
    world.git_stack("web", url, "").await;
    let (path, secret) = world.hook("github", json!({ "stack": "web", "paths": ["infra/*"] })).await;
    let good = push(COMMIT, "https://git.example.com/a/b", "main", "infra/main.tf");
    // whatever is wrong with the sender, it hears the same
    let unknown = "/api/v1/hooks/whk_00000000000000000000000000000000";
    let refused = world.deliver(&path, "another secret", "push", &good).await;
    assert_eq!(refused.0, StatusCode::UNAUTHORIZED);
    for (path, secret) in [(unknown, secret.as_str()), (unknown, ""), ("/api/v1/hooks/x", &secret)] {
        assert_eq!(world.deliver(path, secret, "push", &good).await, refused, "{path}");
    }
    assert!(world.jobs().await.is_empty());
    let (status, answer) = world.deliver(&path, &secret, "push", &good).await;
    let id = answer["jobs"][0]["job"].as_str().expect("a job").to_owned();
    assert_eq!((status, answer["jobs"][0]["stack"].as_str()), (StatusCode::OK, Some("web")));
    // sent again it is the same one
    assert_eq!(world.deliver(&path, &secret, "push", &good).await.1, answer);
    let jobs = world.jobs().await;
    assert_eq!((jobs.len(), jobs[0].kind, jobs[0].phase), (1, JobKind::Update, Phase::Pending));
    assert_eq!(
        (jobs[0].origin.as_deref(), jobs[0].approve_automatically, jobs[0].untrusted),
        (Some("webhook github"), false, false)
    );
    let request = world.request_of(&id).await;
    let Some(v1::source::Kind::Git(git)) = request.source.as_ref().and_then(|s| s.kind.clone()) else {
        panic!("no Git")
    };
    // the stack's own address, whatever the payload says
    assert_eq!((git.url.as_str(), git.reference.as_str()), (url, COMMIT));
    assert_eq!(request.variables.len(), 2);
    // what could not be made is tried again when it is sent again
    sqlx::query("UPDATE runners SET revoked_at_ms = 1").execute(world.store.pool()).await.expect("set");
    let next = push(&COMMIT.replace('b', "c"), url, "main", "infra/x.tf");
    let (_, failed) = world.deliver(&path, &secret, "push", &next).await;
    assert_eq!((failed["skipped"][0]["failed"].as_bool(), world.jobs().await.len()), (Some(true), 1));
    sqlx::query("UPDATE runners SET revoked_at_ms = NULL").execute(world.store.pool()).await.expect("set");
    let (_, made) = world.deliver(&path, &secret, "push", &next).await;
    assert_eq!((made["jobs"][0]["stack"].as_str(), world.jobs().await.len()), (Some("web"), 2));
    assert_eq!(world.deliver(&path, &secret, "push", &next).await.1, made);
    for (repository, branch, file, why) in [
        ("https://git.example.com/other/b", "main", "infra/main.tf", "another repository"),
        (url, "dev", "infra/main.tf", "another branch"),
        (url, "main", "docs/x.md", "no file of its paths"),
    ] {
        let (status, answer) = world.deliver(&path, &secret, "push", &push(COMMIT, repository, branch, file)).await;
        assert_eq!(status, StatusCode::OK);
        assert!(answer["skipped"][0]["why"].as_str().expect("why").contains(why), "{answer}");
    }
    assert_eq!(world.jobs().await.len(), 2);
    // what is signed and of no form that the host documents is refused each time, and among what came
    let hook = path.rsplit('/').next().expect("an id");
    let list = async || world.get(&format!("/webhooks/{hook}/deliveries")).await.1["items"].clone();
    for (body, expected) in [(&b"{}"[..], &[1][..]), (b"{}", &[2]), (b"no JSON", &[1, 2])] {
        assert_eq!(world.deliver(&path, &secret, "push", body).await.0, StatusCode::BAD_REQUEST);
        let came = list().await;
        let why = |one: &&Value| one["answer"]["said"].as_str().is_some_and(|why| why.starts_with("refused: "));
        let refused = came.as_array().into_iter().flatten().filter(why);
        let mut times: Vec<_> = refused.filter_map(|one| one["times"].as_i64()).collect();
        times.sort_unstable();
        assert_eq!(times, expected, "{came}");
    }
    assert_eq!(world.deliver(&path, &secret, "ping", b"{}").await.0, StatusCode::OK);
    // both sides of the bound
    let padded = |bytes: usize| {
        let mut body = push(COMMIT, url, "gone", "x");
        body.resize(bytes, b' ');
        body
    };
    let max = crate::api::deliveries::DELIVERY_MAX;
    assert_eq!(world.deliver(&path, &secret, "push", &padded(max)).await.0, StatusCode::OK);
    assert_eq!(world.deliver(&path, &secret, "push", &padded(max + 1)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let came = list().await;
    let of_push =
        came.as_array().expect("a list").iter().find(|d| d["answer"]["jobs"][0]["job"] == id.as_str()).expect("it");
    assert_eq!((of_push["times"].as_i64(), of_push["event"].as_str()), (Some(2), Some("push")));
    assert!(!world.get("/webhooks").await.1.to_string().contains(&secret));
    assert_eq!(
        world.ask(&world.eve, Method::DELETE, &format!("/webhooks/{hook}"), None).await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        world.ask(&world.ann, Method::DELETE, &format!("/webhooks/{hook}"), None).await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(world.deliver(&path, &secret, "push", &good).await, refused, "it is gone");
}

#[tokio::test]
async fn what_is_too_large_by_http_2_is_answered_too() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let world = World::owned().await;
    let (near, far) = tokio::io::duplex(64 * 1024);
    let router = world.router.clone();
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        router.clone().oneshot(request.map(Body::new))
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    tokio::spawn(server.serve_connection(TokioIo::new(far), service));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.expect("connects");
    tokio::spawn(connection);
    // more than all windows together, so that it is still being sent
    let body = http_body_util::Full::new(bytes::Bytes::from(vec![b' '; 8 * crate::api::deliveries::DELIVERY_MAX]));
    let path = "http://localhost/api/v1/hooks/whk_00000000000000000000000000000000";
    let response = sender.send_request(Request::post(path).body(body).expect("a request")).await.expect("answered");
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    let said: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(said["error"]["code"], "too_large");
}

#[tokio::test]
async fn a_pull_request_gets_nothing_that_the_hook_does_not_name() {
    let world = World::owned().await;
    let url = "https://git.example.com/a/b.git";
    world.git_stack("web", url, "main").await;
    for (n, (pulls, own, untrusted, variables)) in [
        ("untrusted", false, true, vec!["region"]),
        ("untrusted", true, true, vec!["region"]),
        ("trust_own", false, true, vec!["region"]),
        ("trust_own", true, false, vec!["password", "region"]),
    ]
    .into_iter()
    .enumerate()
    {
        let route = json!({ "stack": "web", "pull_requests": pulls, "variables": ["region"] });
        let (path, secret) = world.hook("github", route).await;
        let commit = format!("{n:040x}").replace('0', "a");
        let (status, answer) = world.deliver(&path, &secret, "pull_request", &pull_request(&commit, url, own)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let id = answer["jobs"][0]["job"].as_str().expect("a job");
        let request = world.request_of(id).await;
        assert_eq!((request.kind(), request.untrusted), (v1::JobKind::Preview, untrusted), "{pulls} {own}");
        let mut names: Vec<_> = request.variables.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, variables, "{pulls} {own}");
    }
    let (path, secret) = world.hook("github", json!({ "stack": "web", "pull_requests": "off" })).await;
    let (_, answer) = world.deliver(&path, &secret, "pull_request", &pull_request(COMMIT, url, true)).await;
    assert!(
        answer["jobs"] == json!([]) && answer["skipped"][0]["why"].as_str().expect("why").contains("not previewed"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_hook_is_of_stacks_that_are_there_and_of_patterns_that_can_be() {
    let world = World::owned().await;
    world.git_stack("web", "https://git.example.com/a/b.git", "main").await;
    for (routes, status) in [
        (json!([]), StatusCode::BAD_REQUEST),
        (json!([{ "stack": "none" }]), StatusCode::NOT_FOUND),
        (json!([{ "stack": "web", "branches": [""] }]), StatusCode::BAD_REQUEST),
        (json!([{ "stack": "web", "paths": vec!["a"; 51] }]), StatusCode::PAYLOAD_TOO_LARGE),
        (json!([{ "stack": "web", "paths": vec!["a"; 50] }]), StatusCode::CREATED),
        (json!([{ "stack": "web", "variables": ["region", "no-such"] }]), StatusCode::BAD_REQUEST),
        (json!([{ "stack": "web", "variables": ["region"] }]), StatusCode::CREATED),
    ] {
        let (found, said) = world.post("/webhooks", &json!({ "host": "gitea", "routes": routes })).await;
        assert_eq!(found, status, "{said}");
    }
    sqlx::query("UPDATE users SET role = 'member'").execute(world.store.pool()).await.expect("set");
    for path in ["/webhooks", "/notifications"] {
        let body =
            json!({ "host": "gitea", "routes": [], "name": "n", "url": "https://a/", "secret": "0123456789abcdef" });
        let mut body = body.as_object().cloned().expect("an object");
        let not = if path == "/webhooks" { ["name", "url", "secret"].as_slice() } else { &["host", "routes"] };
        not.iter().for_each(|name| drop(body.remove(*name)));
        assert_eq!(world.post(path, &Value::Object(body)).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    sqlx::query("UPDATE users SET role = 'owner'").execute(world.store.pool()).await.expect("set");
    assert_eq!(
        world.post("/webhooks", &json!({ "host": "svn", "routes": [{ "stack": "web" }] })).await.0,
        StatusCode::BAD_REQUEST
    );
}

/// Ends the update of a stack with these outputs.
async fn applied(world: &World, stack: &str, outputs: Value) -> String {
    let (id, given) = world.accepted(stack).await;
    let outputs = event::Body::Outputs(v1::Outputs { json: outputs.to_string() });
    let result = v1::JobResult { phase: "applied".into(), code: "ok".into(), ..Default::default() };
    world.report(&given, 1, vec![outputs, event::Body::Result(result)]).await;
    id
}

fn told(value: &Value) -> Value {
    json!({ "id": {"sensitive": false, "type": "string", "value": value}, "key": {"sensitive": true, "type": "string", "value": null} })
}

/// A stack that takes an output of another one.
async fn on(world: &World, name: &str, under: &str, follows: bool) -> (StatusCode, Value) {
    let mut body = stack_body(name);
    body["inputs"] = json!({ "net": {"stack": under, "output": "id"} });
    body["follows"] = follows.into();
    world.post("/stacks", &body).await
}

#[tokio::test]
async fn outputs_of_one_stack_are_inputs_of_another() {
    let world = World::new().await;
    world.stack("net").await;
    assert_eq!(code(&on(&world, "app", "none", false).await), (404, "not_found"));
    let (status, app) = on(&world, "app", "net", false).await;
    assert_eq!((status, &app["inputs"]["net"]["stack"]), (StatusCode::CREATED, &json!("net")), "{app}");
    // nothing was told yet; who needs no value is asked for none
    let update = json!({ "kind": "update" });
    let missing = world.post("/stacks/app/jobs", &update).await;
    assert_eq!(code(&missing), (409, "input_missing"));
    assert!(missing.1["error"]["next_step"].as_str().is_some_and(|next| next.contains("--stack net")), "{}", missing.1);
    for body in [json!({"kind": "update", "variables": {"net": "by-hand"}}), json!({"kind": "versions"})] {
        let (status, job) = world.post("/stacks/app/jobs", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{job}");
        let id = job["id"].as_str().expect("an id");
        let own = body["variables"]["net"].as_str();
        assert_eq!(world.request_of(id).await.variables.get("net").map(String::as_str), own);
        world.ended("failed", "engine_failed", None).await;
    }
    for (value, expected) in [(json!("vpc-1"), "vpc-1"), (json!(["a", 2]), "[\"a\",2]")] {
        applied(&world, "net", told(&value)).await;
        let (_, job) = world.post("/stacks/app/jobs", &update).await;
        let request = world.request_of(job["id"].as_str().expect("an id")).await;
        assert_eq!(request.variables["net"], expected);
        assert_eq!(request.typed.contains(&"net".to_owned()), !value.is_string());
        world.ended("failed", "engine_failed", None).await;
    }
    // an untrusted source gets what its hook names, and else nothing
    let untrusted = json!({ "kind": "preview", "untrusted": true, "stack_variables": ["net"] });
    for (body, has) in [(untrusted, true), (json!({ "kind": "preview", "untrusted": true }), false)] {
        let (_, job) = world.post("/stacks/app/jobs", &body).await;
        let request = world.request_of(job["id"].as_str().expect("an id")).await;
        assert_eq!(request.variables.contains_key("net"), has);
        assert_eq!(request.left_out.iter().any(|name| name == "net"), !has, "{:?}", request.left_out);
        world.ended("failed", "engine_failed", None).await;
    }
    // what is sensitive, of two kinds, or in a circle
    let mut body = stack_body("app");
    body["inputs"] = json!({ "net": {"stack": "net", "output": "key"} });
    assert_eq!(world.put("/stacks/app", &body).await.0, StatusCode::OK);
    let answer = world.post("/stacks/app/jobs", &update).await;
    assert!(code(&answer) == (409, "input_missing") && answer.1.to_string().contains("is sensitive"), "{}", answer.1);
    body["inputs"] = json!({ "region": {"stack": "net", "output": "id"} });
    assert_eq!(code(&world.put("/stacks/app", &body).await), (400, "invalid_argument"));
    let mut net = stack_body("net");
    net["inputs"] = json!({ "x": {"stack": "app", "output": "y"} });
    let circle = world.put("/stacks/net", &net).await;
    assert!(code(&circle) == (409, "conflict") && circle.1.to_string().contains("net → app → net"), "{}", circle.1);
    let kept = world.ask(&world.ann, Method::DELETE, "/stacks/net", Some(&json!({}))).await;
    assert!(code(&kept) == (409, "conflict") && kept.1.to_string().contains("inputs of app"), "{}", kept.1);
    let (_, graph) = world.get("/stack-graph").await;
    assert_eq!(
        graph["items"],
        json!([{"stack": "net", "stands_on": [], "carries": ["app"]}, {"stack": "app", "stands_on": ["net"], "carries": []}])
    );
    assert_eq!(world.ask(&world.eve, Method::GET, "/stack-graph", None).await.1["items"], json!([]));
}

#[tokio::test]
async fn stacks_that_follow_are_planned_anew_in_order_and_once() {
    let world = World::new().await;
    world.stack("net").await;
    // app stands on both, web on net
    on(&world, "web", "net", true).await;
    let mut app = stack_body("app");
    app["inputs"] = json!({ "web": {"stack": "web", "output": "id"}, "net": {"stack": "net", "output": "id"} });
    app["follows"] = true.into();
    assert_eq!(world.post("/stacks", &app).await.0, StatusCode::CREATED);
    on(&world, "apart", "net", false).await;
    let of = |stack: &str| {
        let (world, stack) = (&world, stack.to_owned());
        async move { world.jobs().await.into_iter().filter(|job| job.stack_name == stack).count() }
    };
    let first = applied(&world, "net", told(&json!("vpc-1"))).await;
    for _ in 0..3 {
        follow_ons::look(&world.state).await;
    }
    assert_eq!((of("web").await, of("app").await, of("apart").await), (1, 0, 0), "app waits for web");
    let job = world.jobs().await.into_iter().find(|job| job.stack_name == "web").expect("a job");
    assert_eq!(job.origin.as_deref(), Some(format!("after {first}").as_str()));
    assert!(!job.approve_automatically);
    assert_eq!(world.request_of(&job.id).await.variables["net"], "vpc-1");
    let outputs = v1::Outputs { json: told(&json!("web-1")).to_string() };
    world.ended("applied", "ok", Some(event::Body::Outputs(outputs))).await;
    follow_ons::look(&world.state).await;
    follow_ons::look(&world.state).await;
    assert_eq!((of("web").await, of("app").await), (1, 1));
    let job = world.jobs().await.into_iter().find(|job| job.stack_name == "app").expect("a job");
    let request = world.request_of(&job.id).await;
    assert_eq!((request.variables["net"].as_str(), request.variables["web"].as_str()), ("vpc-1", "web-1"));
    world.ended("no_changes", "ok", None).await;
    // the same outputs again are nothing to follow
    applied(&world, "net", told(&json!("vpc-1"))).await;
    follow_ons::look(&world.state).await;
    assert_eq!((of("web").await, of("app").await), (1, 1));
    // what cannot be planned is said in the log, and not tried again and again
    app["inputs"]["web"]["output"] = "none".into();
    assert_eq!(world.put("/stacks/app", &app).await.0, StatusCode::OK);
    applied(&world, "net", told(&json!("vpc-2"))).await;
    follow_ons::look(&world.state).await;
    world.ended("no_changes", "ok", None).await;
    follow_ons::look(&world.state).await;
    assert_eq!((of("web").await, of("app").await), (2, 1));
    assert_eq!(world.store.follow_ons(10).await.expect("asked"), []);
}
