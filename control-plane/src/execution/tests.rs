//! The execution service through its own protocol, over a pipe.

use super::*;
use crate::sessions::fake::{FakeRunner, hello};
use crate::sessions::{Claim, Parting, Settings};
use crate::store::jobs_tests::{new_job, phase, plan, result, stack, store};
use crate::store::{JobKind, NewJob, Phase, Store};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use shared_proto::api_key::{self, Purpose};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use shared_proto::v1::execution_client::ExecutionClient;
use shared_proto::v1::work_item::Kind;
use shared_proto::v1::{self, event::Body};
use std::sync::Mutex as Lock;
use tonic::{Request, Status, Streaming};

const ORG: &str = "org_a";

/// Knows one key of runner `run_1` and one of `run_b`.
struct Keys {
    a: Secret,
    b: Secret,
    revoked: Lock<bool>,
}

struct World {
    _data: tempfile::TempDir,
    store: Store,
    jobs: Jobs,
    execution: Execution,
    sessions: Sessions,
    keys: Arc<Keys>,
    stop: CancellationToken,
}

/// One instance's connection.
struct Caller {
    client: ExecutionClient<crate::sessions::Channel>,
    key: Secret,
    instance: String,
    incarnation: String,
    _driver: crate::sessions::Driver,
}

// === impl Keys ===

impl Registry for Keys {
    fn verify(&self, claim: Claim) -> BoxFuture<'_, Result<Verified, Failure>> {
        Box::pin(async move {
            let who = |organization: &str, runner: &str| Verified {
                organization: organization.into(),
                runner: runner.into(),
                serial: "1".into(),
            };
            match claim.api_key.expose() {
                key if key == self.a.expose() => Ok(who(ORG, "run_1")),
                key if key == self.b.expose() => Ok(who("org_b", "run_b")),
                _ => Err(Code::ApiKeyInvalid.on("not known")),
            }
        })
    }
    fn standing<'a>(&'a self, _: &'a Verified) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async {
            match *self.revoked.lock().expect("whole") {
                true => Err(Code::CertificateRevoked.on("revoked")),
                false => Ok(()),
            }
        })
    }
    fn seen<'a>(&'a self, _: &'a Verified, _: Parting) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
    fn last_seen<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Option<i64>> {
        Box::pin(async { None })
    }
}

// === impl World ===

impl World {
    async fn new() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let store = store().await;
        let archives = Archives::open(data.path()).await.expect("archives");
        let jobs = Jobs::new(store.clone(), archives);
        let key = || api_key::generate(Purpose::Runner).expect("a key");
        let keys = Arc::new(Keys { a: key(), b: key(), revoked: Lock::new(false) });
        let sessions = Sessions::new(keys.clone(), Settings::default());
        let execution = Execution::new(jobs.clone(), sessions.clone(), keys.clone());
        Self { _data: data, store, jobs, execution, sessions, keys, stop: CancellationToken::new() }
    }
    async fn dial(&self, key: &Secret, instance: &str) -> Caller {
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        let (execution, stop) = (self.execution.clone(), self.stop.clone());
        tokio::spawn(async move { execution.serve(ours, Vec::new(), "pipe", stop).await });
        let (channel, driver) = crate::sessions::handshake(theirs, 8 << 20, 128).await.expect("HTTP/2");
        let client = ExecutionClient::with_origin(channel, crate::sessions::origin());
        Caller { client, key: key.clone(), instance: instance.into(), incarnation: String::new(), _driver: driver }
    }
    async fn here(&self) -> Caller {
        self.dial(&self.keys.a, "i-1").await
    }
    /// The session of instance `i-1`, held by that process.
    async fn session(&self, incarnation: &str) -> FakeRunner {
        let (incarnation, api_key) = (incarnation.to_owned(), self.keys.a.expose().to_owned());
        FakeRunner::connect(&self.sessions, v1::Hello { incarnation, api_key, ..hello("run_1", "i-1") }).await
    }
    async fn job(&self, name: &str, kind: JobKind) -> String {
        let stack = stack(&self.store, name).await;
        self.jobs.create(new_job(&stack, kind)).await.expect("a job").id
    }
}

// === impl Caller ===

impl Caller {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let text = format!("Bearer {}", self.key.expose());
        request.metadata_mut().insert("authorization", text.parse().expect("ASCII"));
        request
    }
    async fn work(&mut self, held: Vec<v1::HeldJob>) -> Result<Streaming<v1::WorkItem>, Status> {
        let (instance_id, incarnation) = (self.instance.clone(), self.incarnation.clone());
        let request = self.request(v1::WorkRequest { instance_id, incarnation, held, slots: 2, ..Default::default() });
        self.client.work(request).await.map(tonic::Response::into_inner)
    }
    async fn accept(&mut self, a: &v1::Assignment) -> v1::AcceptReply {
        let request = self.request(v1::AcceptRequest {
            job_id: a.job_id.clone(),
            fencing_token: a.fencing_token,
            instance_id: self.instance.clone(),
            request_sha256: a.request_sha256.clone(),
        });
        self.client.accept(request).await.expect("answered").into_inner()
    }
    async fn report(&mut self, a: &v1::Assignment, from: u64, bodies: Vec<Body>) -> v1::ReportReply {
        let events = (from..).zip(bodies).map(|(sequence, body)| v1::Event { sequence, time_ms: 1, body: Some(body) });
        let request = self.request(v1::ReportRequest {
            job_id: a.job_id.clone(),
            fencing_token: a.fencing_token,
            instance_id: self.instance.clone(),
            events: events.collect(),
        });
        self.client.report(request).await.expect("answered").into_inner()
    }
    async fn source(&mut self, a: &v1::Assignment, sha256: &str, offset: u64) -> Result<Vec<u8>, Status> {
        let request = self.request(v1::SourceRequest {
            job_id: a.job_id.clone(),
            fencing_token: a.fencing_token,
            instance_id: self.instance.clone(),
            sha256: sha256.into(),
            offset,
        });
        let mut chunks = self.client.source(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            assert!(chunk.data.len() <= shared_proto::bounds::SOURCE_CHUNK);
            bytes.extend_from_slice(&chunk.data);
        }
        Ok(bytes)
    }
}

/// The next item that is no heartbeat.
async fn next(work: &mut Streaming<v1::WorkItem>) -> Kind {
    let look = async {
        loop {
            match work.message().await.expect("the stream goes on").expect("it has not ended").kind {
                Some(Kind::Heartbeat(_)) | None => {}
                Some(kind) => return kind,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.expect("in time")
}
async fn assignment(work: &mut Streaming<v1::WorkItem>) -> v1::Assignment {
    match next(work).await {
        Kind::Assignment(assignment) => assignment,
        other => panic!("not an assignment: {other:?}"),
    }
}
fn code(status: &Status) -> Code {
    Failure::from_status(status).expect("typed").code
}

#[tokio::test]
async fn what_a_job_waits_for_is_known() {
    let world = World::new().await;
    let waits = async |id: &str| {
        let job = world.store.job(ORG, id).await.expect("a job");
        world.jobs.waiting(ORG, &[job]).await.expect("looked at").remove(id)
    };
    let first = world.job("one", JobKind::Update).await;
    assert_eq!(waits(&first).await, Some(WaitsFor::Instance), "nobody asks for work");
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let given = assignment(&mut work).await;
    runner.accept(&given).await;
    assert_eq!(waits(&first).await, None, "it has begun");
    // a stack's next one
    let stack = world.store.stack(ORG, "one").await.expect("there");
    let after = world.jobs.create(new_job(&stack, JobKind::Preview)).await.expect("a job").id;
    assert_eq!(waits(&after).await, Some(WaitsFor::Job { job: first.clone(), phase: "preparing" }));
    // both slots are taken
    world.job("two", JobKind::Update).await;
    assignment(&mut work).await;
    let third = world.job("three", JobKind::Update).await;
    assert_eq!(waits(&third).await, Some(WaitsFor::Slot { slots: 2 }));
    // a plan that waits for its approval leaves its slot to others
    runner.report(&given, 1, vec![plan(true), phase("planned"), phase("awaiting_approval")]).await;
    assert_eq!(waits(&third).await, None);
    assert_eq!(waits(&after).await, Some(WaitsFor::Job { job: first, phase: "awaiting_approval" }));
}

#[tokio::test]
async fn a_job_goes_its_way_and_decisions_survive_a_cut() {
    let world = World::new().await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let id = world.job("s", JobKind::Update).await;
    let given = assignment(&mut work).await;
    assert_eq!((given.job_id.as_str(), given.fencing_token), (id.as_str(), 1));
    assert!(runner.accept(&given).await.accepted);
    assert!(runner.accept(&given).await.accepted, "again");
    let reply = runner.report(&given, 1, vec![plan(true), phase("planned"), phase("awaiting_approval")]).await;
    assert_eq!((reply.acknowledged, reply.code.as_str()), (3, "ok"));
    // cut, approved meanwhile, and back
    drop((work, runner));
    world.jobs.approve(ORG, &id, "bob", Some("p1")).await.expect("approved");
    let mut runner = world.here().await;
    let held =
        v1::HeldJob { job_id: id.clone(), fencing_token: 1, phase: "awaiting_approval".into(), last_sequence: 3 };
    let mut work = runner.work(vec![held]).await.expect("work");
    match next(&mut work).await {
        Kind::Approval(approval) => {
            assert_eq!(
                (approval.job_id.as_str(), approval.by.as_str(), approval.plan_sha256.as_str()),
                (id.as_str(), "bob", "p1")
            );
        }
        other => panic!("{other:?}"),
    }
    let reply = runner.report(&given, 4, vec![phase("applying"), result("applied", "ok")]).await;
    assert_eq!(reply.acknowledged, 5);
    assert!(matches!(next(&mut work).await, Kind::Release(r) if r.job_id == id && r.fencing_token == 1));
    assert_eq!(world.store.job(ORG, &id).await.expect("a job").phase, Phase::Applied);
    // a release that was lost comes again with the next stream
    drop(work);
    let held = v1::HeldJob { job_id: id.clone(), fencing_token: 1, phase: "applied".into(), last_sequence: 5 };
    let mut work = runner.work(vec![held]).await.expect("work");
    assert!(matches!(next(&mut work).await, Kind::Release(r) if r.job_id == id));
}

#[tokio::test]
async fn who_is_not_known_gets_nothing() {
    let world = World::new().await;
    let stranger = api_key::generate(Purpose::Runner).expect("a key");
    let mut caller = world.dial(&stranger, "i-1").await;
    assert_eq!(code(&caller.work(vec![]).await.map(drop).expect_err("refused")), Code::ApiKeyInvalid);
    caller.key = Secret::new("nonsense");
    assert_eq!(code(&caller.work(vec![]).await.map(drop).expect_err("refused")), Code::ApiKeyInvalid);
    let bare = caller.client.work(Request::new(v1::WorkRequest::default())).await;
    assert_eq!(code(&bare.map(drop).expect_err("refused")), Code::ApiKeyInvalid);
    let mut odd = world.dial(&world.keys.a, "../i").await;
    assert_eq!(code(&odd.work(vec![]).await.map(drop).expect_err("refused")), Code::InvalidArgument);
    let held = vec![v1::HeldJob::default(); 1001];
    assert_eq!(code(&world.here().await.work(held).await.map(drop).expect_err("refused")), Code::TooLarge);
}

#[tokio::test]
async fn another_organizations_runner_finds_no_job() {
    let world = World::new().await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    world.job("s", JobKind::Update).await;
    let given = assignment(&mut work).await;
    let mut other = world.dial(&world.keys.b, "i-1").await;
    assert_eq!(other.accept(&given).await.code, "not_found");
    assert!(runner.accept(&given).await.accepted);
    assert_eq!(other.report(&given, 1, vec![phase("planning")]).await.code, "not_found");
    let held = v1::HeldJob { job_id: given.job_id, fencing_token: 1, phase: "planning".into(), last_sequence: 0 };
    let mut items = other.work(vec![held]).await.expect("work");
    assert!(matches!(next(&mut items).await, Kind::Cancel(c) if !c.force), "it is asked to stop what is not its own");
}

#[tokio::test]
async fn an_archive_goes_to_the_instance_that_has_the_job_only() {
    let world = World::new().await;
    let content: Vec<u8> = (0..600_000u32).map(|i| (i % 251) as u8).collect();
    let sha256 = crate::store::hex(&Sha256::digest(&content));
    let hash = ArchiveHash::parse(&sha256).expect("a hash");
    let body = futures_util::stream::iter([Ok::<_, String>(Bytes::from(content.clone()))]);
    world.jobs.archives().keep(ORG, &hash, body).await.expect("kept");
    let stack = stack(&world.store, "s").await;
    let archive = v1::ArchiveSource { sha256: sha256.clone(), size: 600_000 };
    let source = v1::Source { kind: Some(v1::source::Kind::Archive(archive)), path: String::new() };
    world.jobs.create(NewJob { source, ..new_job(&stack, JobKind::Preview) }).await.expect("a job");
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let given = assignment(&mut work).await;
    assert_eq!(code(&runner.source(&given, &sha256, 0).await.expect_err("not accepted yet")), Code::Fenced);
    assert!(runner.accept(&given).await.accepted);
    assert_eq!(runner.source(&given, &sha256, 0).await.expect("all of it"), content);
    assert_eq!(runner.source(&given, &sha256, 500_000).await.expect("the rest"), content[500_000..]);
    assert!(runner.source(&given, &sha256, 10_000_000).await.expect("nothing").is_empty());
    assert_eq!(code(&runner.source(&given, &"0".repeat(64), 0).await.expect_err("another")), Code::NotFound);
    assert_eq!(code(&runner.source(&given, "../../etc/passwd", 0).await.expect_err("no hash")), Code::InvalidArgument);
    let mut other = world.dial(&world.keys.a, "i-2").await;
    assert_eq!(code(&other.source(&given, &sha256, 0).await.expect_err("not its job")), Code::Fenced);
    let mut stranger = world.dial(&world.keys.b, "i-1").await;
    assert_eq!(code(&stranger.source(&given, &sha256, 0).await.expect_err("not its organization")), Code::NotFound);
}

#[tokio::test]
async fn what_a_lost_stream_had_not_accepted_goes_to_the_next() {
    let world = World::new().await;
    let mut first = world.here().await;
    let mut work = first.work(vec![]).await.expect("work");
    world.job("s", JobKind::Update).await;
    let given = assignment(&mut work).await;
    drop((work, first));
    let mut second = world.dial(&world.keys.a, "i-2").await;
    let mut work = second.work(vec![]).await.expect("work");
    let again = assignment(&mut work).await;
    assert_eq!((again.job_id, again.fencing_token), (given.job_id, 2));
}

#[tokio::test]
async fn another_instance_is_told_who_has_the_state() {
    let world = World::new().await;
    let mut first = world.here().await;
    let mut work = first.work(vec![]).await.expect("work");
    let stack = stack(&world.store, "s").await;
    world.jobs.create(NewJob { approve_automatically: true, ..new_job(&stack, JobKind::Update) }).await.expect("a job");
    let given = assignment(&mut work).await;
    assert_eq!(given.state_instance, "", "nobody has one");
    assert!(first.accept(&given).await.accepted);
    let events = vec![plan(true), phase("awaiting_approval"), phase("applying"), result("applied", "ok")];
    assert_eq!(first.report(&given, 1, events).await.acknowledged, 4);
    drop((work, first));
    for _ in 0..2 {
        world.jobs.create(new_job(&stack, JobKind::Update)).await.expect("a job");
        sqlx::query("UPDATE jobs SET created_at_ms = 1").execute(world.store.pool()).await.expect("time passes");
        let mut second = world.dial(&world.keys.a, "i-2").await;
        let mut work = second.work(vec![]).await.expect("work");
        // the one before may be released first
        let given = loop {
            if let Kind::Assignment(given) = next(&mut work).await {
                break given;
            }
        };
        assert_eq!(given.state_instance, "i-1");
        assert!(second.accept(&given).await.accepted);
        assert_eq!(second.report(&given, 1, vec![result("failed", "state_elsewhere")]).await.acknowledged, 1);
        assert_eq!(world.store.stack(ORG, "s").await.expect("there").last_instance.as_deref(), Some("i-1"));
    }
}

#[tokio::test]
async fn a_second_stream_of_an_instance_ends_the_first() {
    let world = World::new().await;
    let mut runner = world.here().await;
    let mut first = runner.work(vec![]).await.expect("work");
    let mut again = world.here().await;
    let mut second = again.work(vec![]).await.expect("work");
    assert!(matches!(next(&mut first).await, Kind::Refusal(r) if r.code == "instance_conflict"));
    assert!(first.message().await.expect("ends well").is_none());
    let id = world.job("s", JobKind::Preview).await;
    assert_eq!(assignment(&mut second).await.job_id, id);
}

#[tokio::test]
async fn a_job_that_its_own_instance_has_lost_is_released_like_any_other() {
    let world = World::new().await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let id = world.job("s", JobKind::Update).await;
    let given = assignment(&mut work).await;
    assert!(runner.accept(&given).await.accepted);
    runner.report(&given, 1, vec![result("lost", "job_lost")]).await;
    assert!(matches!(next(&mut work).await, Kind::Release(r) if r.job_id == id));
}

#[tokio::test]
async fn a_second_process_of_an_instance_gets_no_work_unless_it_has_the_session() {
    let world = World::new().await;
    let [mut first, mut second] = [world.here().await, world.here().await];
    (first.incarnation, second.incarnation) = ("one".into(), "two".into());
    // no session says who is right: whoever was first
    let mut work = first.work(vec![]).await.expect("work");
    assert_eq!(code(&second.work(vec![]).await.map(drop).expect_err("refused")), Code::InstanceConflict);
    let runner = world.session("one").await;
    assert_eq!(code(&second.work(vec![]).await.map(drop).expect_err("refused")), Code::InstanceConflict);
    // the same process again takes its own place
    let mut again = first.work(vec![]).await.expect("work");
    assert!(matches!(next(&mut work).await, Kind::Refusal(r) if r.code == "instance_conflict"));
    runner.cut();
    // the session is another's now: it may take the place, and who had it is told so
    let _runner = world.session("two").await;
    let mut work = second.work(vec![]).await.expect("work");
    assert!(matches!(next(&mut again).await, Kind::Refusal(r) if r.code == "instance_conflict"));
    assert_eq!(code(&first.work(vec![]).await.map(drop).expect_err("refused")), Code::InstanceConflict);
    let id = world.job("s", JobKind::Preview).await;
    assert_eq!(assignment(&mut work).await.job_id, id);
}

#[tokio::test]
async fn a_stream_ends_once_another_process_has_the_session() {
    let world = World::new().await;
    let mut first = world.here().await;
    first.incarnation = "one".into();
    let mut work = first.work(vec![]).await.expect("work");
    let _runner = world.session("two").await;
    assert!(matches!(next(&mut work).await, Kind::Refusal(r) if r.code == "instance_conflict"));
}

#[tokio::test]
async fn cancel_and_discard_reach_the_instance() {
    let world = World::new().await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let running = world.job("one", JobKind::Update).await;
    let given = assignment(&mut work).await;
    assert!(runner.accept(&given).await.accepted);
    runner.report(&given, 1, vec![phase("planning")]).await;
    world.jobs.cancel(ORG, &running, "bob", false).await.expect("asked");
    assert!(matches!(next(&mut work).await, Kind::Cancel(c) if c.job_id == running && !c.force && c.by == "bob"));
    world.jobs.cancel(ORG, &running, "bob", true).await.expect("forced");
    assert!(matches!(next(&mut work).await, Kind::Cancel(c) if c.job_id == running && c.force));
    runner.report(&given, 2, vec![result("canceled", "cancelled")]).await;
    assert!(matches!(next(&mut work).await, Kind::Release(r) if r.job_id == running));
    let waiting = world.job("two", JobKind::Update).await;
    let given = assignment(&mut work).await;
    assert!(runner.accept(&given).await.accepted);
    runner.report(&given, 1, vec![plan(true), phase("awaiting_approval")]).await;
    world.jobs.discard(ORG, &waiting, "bob").await.expect("discarded");
    assert!(matches!(next(&mut work).await, Kind::Discard(d) if d.job_id == waiting && d.by == "bob"));
    // and one that is cancelled there ends as cancelled on the runner too
    let waiting = world.job("three", JobKind::Update).await;
    let given = assignment(&mut work).await;
    assert!(runner.accept(&given).await.accepted);
    runner.report(&given, 1, vec![plan(true), phase("awaiting_approval")]).await;
    world.jobs.cancel(ORG, &waiting, "bob", false).await.expect("cancelled");
    assert!(matches!(next(&mut work).await, Kind::Cancel(c) if c.job_id == waiting && !c.force && c.by == "bob"));
}

#[tokio::test]
async fn a_job_that_was_given_up_is_fenced_and_released_when_it_ends() {
    let world = World::new().await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let id = world.job("s", JobKind::Update).await;
    let given = assignment(&mut work).await;
    assert!(runner.accept(&given).await.accepted);
    drop((work, runner));
    // until the control plane sees that the stream is gone, force only reaches nobody
    let ended = async {
        while !world.jobs.cancel(ORG, &id, "bob", true).await.expect("taken").ended() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("in time");
    let mut runner = world.here().await;
    let held = v1::HeldJob { job_id: id.clone(), fencing_token: 1, phase: "planning".into(), last_sequence: 0 };
    let mut work = runner.work(vec![held]).await.expect("work");
    assert!(matches!(next(&mut work).await, Kind::Cancel(c) if c.fencing_token == 1 && !c.force));
    assert_eq!(runner.report(&given, 1, vec![result("canceled", "cancelled")]).await.code, "fenced");
    assert!(matches!(next(&mut work).await, Kind::Release(r) if r.job_id == id && r.fencing_token == 1));
}

#[tokio::test]
async fn a_revocation_closes_the_connection() {
    let world = World::new().await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    *world.keys.revoked.lock().expect("whole") = true;
    world.store.revoke_runner(ORG, "run_1").await.expect("revoked");
    assert!(matches!(next(&mut work).await, Kind::Refusal(r) if r.code == "certificate_revoked"));
    let closed = async { while runner.work(vec![]).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), closed).await.expect("in time");
}

#[tokio::test]
async fn what_is_not_the_service_is_refused() {
    let world = World::new().await;
    let runner = world.here().await;
    let (ours, theirs) = tokio::io::duplex(1024);
    let (execution, stop) = (world.execution.clone(), world.stop.clone());
    let serving = tokio::spawn(async move { execution.serve(ours, Vec::new(), "pipe", stop).await });
    use tokio::io::AsyncWriteExt as _;
    let mut theirs = theirs;
    theirs.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    serving.await.expect("ended");
    let _ = TokioIo::new(theirs);
    drop(runner);
}
