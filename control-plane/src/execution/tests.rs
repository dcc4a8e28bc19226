//! The execution service through its own protocol, over a pipe.

use super::*;
use crate::pki::IssuedCertificate;
use crate::sessions::Renewal;
use crate::sessions::fake::{FakeRunner, hello};
use crate::sessions::{Claim, Parting, Seal, Settings};
use crate::store::jobs_tests::{filled, new_job, phase, plan, result, stack, store};
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
                ..Verified::default()
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
    fn renew<'a>(&'a self, _: &'a Verified, _: Renewal) -> BoxFuture<'a, Result<IssuedCertificate, Failure>> {
        Box::pin(async { Err(Code::Internal.on("nobody renews here")) })
    }
    fn sealed<'a>(&'a self, _: &'a Verified, _: &'a str, _: Seal) -> BoxFuture<'a, ()> {
        Box::pin(async {})
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
        let key = || api_key::generate(Purpose::Runner).expect("a key");
        let keys = Arc::new(Keys { a: key(), b: key(), revoked: Lock::new(false) });
        Self::on(store().await, keys).await
    }
    async fn on(store: Store, keys: Arc<Keys>) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let archives = Archives::open(data.path()).await.expect("archives");
        let jobs = Jobs::new(store.clone(), archives);
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
    /// With its database in a file, of which there can be copies.
    async fn in_file() -> (Self, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = filled(Store::open(&folder.path().join("store.db")).await.expect("opens")).await;
        let Self { keys, .. } = Self::new().await;
        (Self::on(store, keys).await, folder)
    }
    /// Where it stands now, for a later [`Self::restored`].
    async fn backed_up(database: &tempfile::TempDir) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        Store::copy(&database.path().join("store.db"), &folder.path().join("copy.db")).await.expect("copied");
        folder
    }
    /// A control plane that was restored from that.
    async fn restored(&self, backup: &tempfile::TempDir) -> Self {
        let store = Store::open(&backup.path().join("copy.db")).await.expect("opens");
        store.mark_restored().await.expect("marked");
        Self::on(store, self.keys.clone()).await
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
        let events = (from..).zip(bodies).map(|(sequence, body)| v1::Event {
            sequence,
            time_ms: 1,
            engine_read: None,
            body: Some(body),
        });
        let request = self.request(v1::ReportRequest {
            job_id: a.job_id.clone(),
            fencing_token: a.fencing_token,
            instance_id: self.instance.clone(),
            events: events.collect(),
        });
        self.client.report(request).await.expect("answered").into_inner()
    }
    async fn present(&mut self, a: &v1::Assignment) -> v1::PresentReply {
        let request = self.request(v1::PresentRequest {
            job_id: a.job_id.clone(),
            fencing_token: a.fencing_token,
            instance_id: self.instance.clone(),
            request: a.request.clone(),
            seal: a.seal.clone(),
        });
        self.client.present(request).await.expect("answered").into_inner()
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
    // the state of one is at an instance that is not here now
    let apart = stack(&world.store, "apart").await;
    sqlx::query("UPDATE stacks SET last_instance = 'i-2' WHERE name = 'apart'")
        .execute(world.store.pool())
        .await
        .expect("writes");
    let apart = world.jobs.create(new_job(&apart, JobKind::Update)).await.expect("a job").id;
    assert_eq!(waits(&apart).await, Some(WaitsFor::State { instance: "i-2".into() }));
    // a stack's next one
    let stack = world.store.stack(ORG, "one").await.expect("there");
    let after = world.jobs.create(new_job(&stack, JobKind::Preview)).await.expect("a job").id;
    assert_eq!(waits(&after).await, Some(WaitsFor::Job { job: first.clone(), phase: "preparing", since_ms: None }));
    // both slots are taken
    world.job("two", JobKind::Update).await;
    assignment(&mut work).await;
    let third = world.job("three", JobKind::Update).await;
    assert_eq!(waits(&third).await, Some(WaitsFor::Slot { slots: 2 }));
    // a plan that waits for its approval leaves its slot to others
    runner.report(&given, 1, vec![plan(true), phase("planned"), phase("awaiting_approval")]).await;
    assert_eq!(waits(&third).await, None);
    let since_ms = world.store.job_events(ORG, &first, 2, 1).await.expect("events").first().map(|event| event.time_ms);
    assert!(since_ms.is_some());
    assert_eq!(waits(&after).await, Some(WaitsFor::Job { job: first, phase: "awaiting_approval", since_ms }));
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
    let given_again = given.clone();
    let held = v1::HeldJob { job_id: given.job_id, fencing_token: 1, phase: "planning".into(), last_sequence: 0 };
    let mut items = other.work(vec![held]).await.expect("work");
    assert!(matches!(next(&mut items).await, Kind::Recall(r) if r.unknown), "it is to show what nobody knows here");
    assert_eq!(other.present(&given_again).await.code, "invalid_argument", "the seal is another runner's");
    assert!(matches!(next(&mut items).await, Kind::Cancel(c) if !c.force), "it is asked to stop what is not its own");
    assert_eq!(other.report(&given_again, 1, vec![result("canceled", "cancelled")]).await.code, "not_found");
    assert!(matches!(next(&mut items).await, Kind::Release(_)), "and its folder may go");
}

#[tokio::test]
async fn an_archive_goes_to_the_instance_that_has_the_job_only() {
    let world = World::new().await;
    let content: Vec<u8> = (0..600_000u32).map(|i| (i % 251) as u8).collect();
    let sha256 = shared_proto::hex::encode(Sha256::digest(&content));
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

/// Waits until the control plane has seen that no instance asks for work.
async fn all_away(world: &World) {
    let away = async {
        while !world.jobs.streams().present("run_1").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), away).await.expect("in time");
}

#[tokio::test]
async fn what_is_at_work_on_an_instance_that_is_away_for_too_long_is_lost() {
    const LEASE: Duration = Duration::from_secs(3600);
    let world = World::new().await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let (running, waiting, approved) = (
        world.job("running", JobKind::Update).await,
        world.job("waiting", JobKind::Update).await,
        world.job("approved", JobKind::Update).await,
    );
    let mut given = Vec::new();
    for _ in 0..3 {
        let next = assignment(&mut work).await;
        assert!(runner.accept(&next).await.accepted);
        let events = vec![phase("planning"), plan(true), phase("planned"), phase("awaiting_approval")];
        let events = if next.job_id == running { vec![phase("planning")] } else { events };
        assert_eq!(runner.report(&next, 1, events).await.code, "ok");
        given.push(next);
    }
    let of = |id: &str| given.iter().find(|g| g.job_id == id).expect("was given").clone();
    let at = async |id: &str| world.store.job(ORG, id).await.expect("a job").phase;
    // as long as it is here no time is too long
    world.jobs.lapse(LEASE, 0).await;
    world.jobs.lapse(LEASE, i64::MAX).await;
    assert_eq!(at(&running).await, Phase::Planning);
    drop((work, runner));
    all_away(&world).await;
    world.jobs.approve(ORG, &approved, "bob", None).await.expect("approved");
    // it counts from when it was first missed; both sides of the bound
    world.jobs.lapse(LEASE, 1_000).await;
    world.jobs.lapse(LEASE, 3_600_999).await;
    assert_eq!(at(&running).await, Phase::Planning);
    world.jobs.lapse(LEASE, 3_601_000).await;
    let job = world.store.job(ORG, &running).await.expect("a job");
    assert_eq!(job.phase, Phase::Lost);
    assert!(job.result.as_ref().is_some_and(|r| r.contains("not been heard of for 3600 s")), "{:?}", job.result);
    // nothing runs of a plan that waits
    assert_eq!((at(&waiting).await, at(&approved).await), (Phase::AwaitingApproval, Phase::Lost));

    // it was only cut off: what runs goes on and tells its end, what was not begun is not begun
    let mut runner = world.here().await;
    let held = |id: &str, phase: &str| v1::HeldJob {
        job_id: id.into(),
        fencing_token: of(id).fencing_token,
        phase: phase.into(),
        last_sequence: 1,
    };
    let held =
        vec![held(&running, "planning"), held(&approved, "awaiting_approval"), held(&waiting, "awaiting_approval")];
    let mut work = runner.work(held).await.expect("work");
    let mut told = std::collections::BTreeSet::new();
    while told.len() < 2 {
        match next(&mut work).await {
            Kind::Discard(d) => drop(told.insert(d.job_id)),
            other => panic!("{other:?}"),
        }
    }
    assert!(told.contains(&running) && told.contains(&approved), "{told:?}");
    let late = runner.report(&of(&running), 2, vec![result("no_changes", "ok")]).await;
    assert_eq!((late.code.as_str(), late.has_result), ("ok", true));
    assert_eq!(at(&running).await, Phase::NoChanges);
    assert_eq!(runner.report(&of(&approved), 5, vec![result("discarded", "ok")]).await.code, "ok");
    assert_eq!(at(&approved).await, Phase::Discarded);
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

fn held(given: &v1::Assignment, phase: &str, last_sequence: u64) -> v1::HeldJob {
    let (job_id, fencing_token) = (given.job_id.clone(), given.fencing_token);
    v1::HeldJob { job_id, fencing_token, phase: phase.into(), last_sequence }
}

#[tokio::test]
async fn a_job_that_is_about_to_be_accepted_is_not_cancelled_by_a_new_stream() {
    let world = World::new().await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let id = world.job("s", JobKind::Update).await;
    let given = assignment(&mut work).await;
    drop((work, runner));
    // it is on the runner's disk, and its Accept is on its way
    let mut runner = world.here().await;
    let mut work = runner.work(vec![held(&given, "assigned", 0)]).await.expect("work");
    assert!(matches!(next(&mut work).await, Kind::Recall(r) if r.unknown), "only asked whether it was accepted");
    let again = loop {
        match next(&mut work).await {
            Kind::Assignment(again) => break again,
            Kind::Recall(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(again.job_id == id && again.fencing_token > 1, "{again:?}");
    assert_eq!(runner.accept(&given).await.code, "fenced");
    assert!(runner.accept(&again).await.accepted);
    assert_eq!(world.store.job(ORG, &id).await.expect("a job").canceled_by, None);
}

#[tokio::test]
async fn a_job_that_its_instance_does_not_have_is_lost_unless_it_reports_after_all() {
    let world = World::new().await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let [one, two] = [world.job("one", JobKind::Update).await, world.job("two", JobKind::Update).await];
    let [first, second] = [assignment(&mut work).await, assignment(&mut work).await];
    assert!(runner.accept(&first).await.accepted && runner.accept(&second).await.accepted);
    drop((work, runner));
    let mut runner = world.here().await;
    let mut work = runner.work(vec![held(&second, "preparing", 0)]).await.expect("work");
    let after = world.job("three", JobKind::Update).await;
    assert_eq!(assignment(&mut work).await.job_id, after, "its place is free");
    let job = world.store.job(ORG, &one).await.expect("a job");
    assert_eq!((job.phase, job.fencing_token), (Phase::Lost, 1));
    assert!(job.result.expect("a result").contains("job_lost"));
    assert_eq!(world.store.job(ORG, &two).await.expect("a job").phase, Phase::Preparing);
    // another process of its state directory has it, say
    assert_eq!(runner.report(&first, 1, vec![phase("applying"), result("applied", "ok")]).await.code, "ok");
    assert_eq!(world.store.job(ORG, &one).await.expect("a job").phase, Phase::Applied);
    assert!(matches!(next(&mut work).await, Kind::Release(r) if r.job_id == one));
}

#[tokio::test]
async fn a_restored_copy_learns_what_was_assigned_after_the_back_up_and_runs_nothing_again() {
    let (world, database) = World::in_file().await;
    let pending = world.job("known", JobKind::Update).await;
    let copy = World::backed_up(&database).await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let given = assignment(&mut work).await;
    assert_eq!(given.job_id, pending);
    let new = world.job("made-since", JobKind::Update).await;
    let unknown = assignment(&mut work).await;
    for a in [&given, &unknown] {
        assert!(runner.accept(a).await.accepted);
        assert_eq!(runner.report(a, 1, vec![phase("planning"), plan(true), phase("planned")]).await.acknowledged, 3);
    }
    drop((work, runner));

    let world = world.restored(&copy).await;
    let mut other = world.dial(&world.keys.a, "i-2").await;
    let mut others = other.work(vec![]).await.expect("work");
    let job = world.store.job(ORG, &pending).await.expect("known");
    assert_eq!(world.jobs.waiting(ORG, &[job]).await.expect("looked at").remove(&pending), Some(WaitsFor::Restored));
    let mut runner = world.here().await;
    // it has ended while nobody was there
    let mut work = runner.work(vec![held(&given, "applied", 5), held(&unknown, "planned", 3)]).await.expect("work");
    for _ in 0..2 {
        assert!(matches!(next(&mut work).await, Kind::Recall(r) if r.unknown));
    }
    for a in [&given, &unknown] {
        let early = runner.report(a, 4, vec![phase("applying"), result("applied", "ok")]).await;
        assert_eq!((early.acknowledged, early.code.as_str()), (0, "not_found"));
        let mut forged = a.clone();
        forged.fencing_token += 1;
        assert_eq!(runner.present(&forged).await.code, "invalid_argument");
        assert!(matches!(next(&mut work).await, Kind::Release(_) | Kind::Cancel(_)), "what is forged is not wanted");
        assert!(runner.present(a).await.known && runner.present(a).await.known, "and again");
        let gap = runner.report(a, 4, vec![phase("applying"), result("applied", "ok")]).await;
        assert_eq!((gap.acknowledged, gap.code.as_str()), (0, "invalid_argument"));
        let events = vec![phase("planning"), plan(true), phase("planned"), phase("applying"), result("applied", "ok")];
        let all = runner.report(a, 1, events).await;
        assert_eq!((all.acknowledged, all.code.as_str(), all.has_result), (5, "ok", true));
        let job = world.store.job(ORG, &a.job_id).await.expect("known");
        assert_eq!((job.phase, job.instance.as_deref(), job.fencing_token), (Phase::Applied, Some("i-1"), 1));
        assert!(matches!(next(&mut work).await, Kind::Release(r) if r.job_id == a.job_id));
    }
    let stack = world.store.stack(ORG, "made-since").await.expect("known again");
    assert_eq!(world.store.job(ORG, &new).await.expect("known").stack, stack.id);
    // what comes new is given out as ever
    let fresh = world.job("fresh", JobKind::Preview).await;
    let given = tokio::select! {
        given = assignment(&mut others) => given,
        given = assignment(&mut work) => given,
    };
    assert_eq!(given.job_id, fresh);
}

#[tokio::test]
async fn what_was_restored_is_accepted_under_no_older_token_and_ends_lost_where_nobody_has_it() {
    let (world, database) = World::in_file().await;
    let id = world.job("s", JobKind::Update).await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let given = assignment(&mut work).await;
    // assigned, and not accepted: a back-up of just then
    let copy = World::backed_up(&database).await;
    drop((work, runner));
    let mut second = world.dial(&world.keys.a, "i-2").await;
    let mut others = second.work(vec![]).await.expect("work");
    let newer = assignment(&mut others).await;
    assert!(second.accept(&newer).await.accepted);
    drop((others, second));

    let world = world.restored(&copy).await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![held(&given, "assigned", 0)]).await.expect("work");
    assert!(matches!(next(&mut work).await, Kind::Recall(_)));
    assert_eq!(runner.accept(&given).await.code, "fenced", "the other one has it");
    assert_eq!(world.store.give_up_restored(shared_proto::now_ms() - 60_000).await.expect("looked"), [], "not yet");
    world.store.give_up_restored(shared_proto::now_ms()).await.expect("given up");
    let job = world.store.job(ORG, &id).await.expect("a job");
    assert_eq!((job.phase, job.accepted), (Phase::Lost, false));
    // whoever has it comes late, and counts all the same
    let mut second = world.dial(&world.keys.a, "i-2").await;
    let _others = second.work(vec![held(&newer, "applying", 1)]).await.expect("work");
    assert!(second.present(&newer).await.known);
    assert_eq!(second.report(&newer, 1, vec![result("applied", "ok")]).await.code, "ok");
    assert_eq!(world.store.job(ORG, &id).await.expect("a job").phase, Phase::Applied);
}

#[tokio::test]
async fn what_ended_after_the_back_up_leaves_its_stack_to_the_next() {
    let (world, database) = World::in_file().await;
    let stack = stack(&world.store, "s").await;
    let first = world.jobs.create(new_job(&stack, JobKind::Update)).await.expect("a job").id;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let given = assignment(&mut work).await;
    assert!(runner.accept(&given).await.accepted);
    runner.report(&given, 1, vec![plan(true), phase("planned"), phase("awaiting_approval")]).await;
    let copy = World::backed_up(&database).await;
    world.jobs.approve(ORG, &first, "bob", None).await.expect("approved");
    runner.report(&given, 4, vec![phase("applying"), result("applied", "ok")]).await;
    world.jobs.create(new_job(&stack, JobKind::Update)).await.expect("a job");
    drop((work, runner));
    let mut second = world.dial(&world.keys.a, "i-2").await;
    sqlx::query("UPDATE jobs SET created_at_ms = 1").execute(world.store.pool()).await.expect("time passes");
    let mut work = second.work(vec![]).await.expect("work");
    let next_one = assignment(&mut work).await;
    assert!(second.accept(&next_one).await.accepted);
    drop((work, second));

    let world = world.restored(&copy).await;
    // what its instance may have done with it meanwhile is not known
    let refused = world.jobs.discard(ORG, &first, "bob").await.expect_err("refused");
    assert_eq!(refused.code, Code::Conflict);
    let mut second = world.dial(&world.keys.a, "i-2").await;
    let mut work = second.work(vec![held(&next_one, "planning", 1)]).await.expect("work");
    assert!(matches!(next(&mut work).await, Kind::Recall(r) if r.unknown));
    assert!(second.present(&next_one).await.known);
    let job = world.store.job(ORG, &first).await.expect("a job");
    assert_eq!((job.phase, job.reported), (Phase::Lost, false));
    // an instance that has nothing says so too
    let _work = world.here().await.work(vec![]).await.expect("work");
    assert_eq!(second.report(&next_one, 1, vec![phase("planning")]).await.code, "ok");
}

#[tokio::test]
async fn events_that_a_restored_copy_lacks_are_asked_for() {
    let (world, database) = World::in_file().await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let id = world.job("s", JobKind::Update).await;
    let given = assignment(&mut work).await;
    assert!(runner.accept(&given).await.accepted);
    runner.report(&given, 1, vec![phase("planning")]).await;
    let copy = World::backed_up(&database).await;
    runner.report(&given, 2, vec![plan(true), phase("planned"), phase("awaiting_approval")]).await;
    drop((work, runner));
    let world = world.restored(&copy).await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![held(&given, "awaiting_approval", 4)]).await.expect("work");
    assert!(matches!(next(&mut work).await, Kind::Recall(r) if !r.unknown && r.job_id == id));
    let reply = runner.report(&given, 2, vec![plan(true), phase("planned"), phase("awaiting_approval")]).await;
    assert_eq!((reply.acknowledged, reply.code.as_str(), reply.has_result), (4, "ok", false));
    let job = world.store.job(ORG, &id).await.expect("a job");
    assert_eq!((job.phase, job.restored_at_ms), (Phase::AwaitingApproval, None));
}

/// Each state of the job's row, in the order in which they were written: of the real service and the real store.
async fn recorded(store: &Store) -> Vec<super::model::Seen> {
    use sqlx::Row as _;
    let rows = sqlx::query("SELECT phase, accepted, reported, restored FROM trace ORDER BY id")
        .fetch_all(store.pool())
        .await
        .expect("the record");
    let seen = rows.iter().map(|row| super::model::Seen {
        phase: Phase::from_name(row.get::<&str, _>(0)).expect("a phase"),
        accepted: row.get(1),
        reported: row.get(2),
        restored: row.get(3),
    });
    seen.collect()
}

/// Has the database write down each change of a job's row.
async fn record(store: &Store) {
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS trace (id INTEGER PRIMARY KEY, phase TEXT, accepted BOOLEAN, reported BOOLEAN, \
         restored BOOLEAN)",
    )
    .execute(store.pool())
    .await
    .expect("a table");
    for (name, when) in [("made", "INSERT"), ("changed", "UPDATE")] {
        let text = format!(
            "CREATE TRIGGER IF NOT EXISTS {name} AFTER {when} ON jobs BEGIN INSERT INTO trace (phase, accepted, reported, \
             restored) VALUES (NEW.phase, NEW.accepted, NEW.reported, NEW.restored_at_ms IS NOT NULL); END"
        );
        sqlx::query(sqlx::AssertSqlSafe(text)).execute(store.pool()).await.expect("a trigger");
    }
}

#[tokio::test]
async fn what_the_real_one_does_is_a_way_of_the_model() {
    let (world, database) = World::in_file().await;
    record(&world.store).await;
    let id = world.job("s", JobKind::Update).await;
    let mut runner = world.here().await;
    let mut work = runner.work(vec![]).await.expect("work");
    let given = assignment(&mut work).await;
    // the stream breaks before it is accepted; then it is given out again
    drop((work, runner));
    let mut runner = world.here().await;
    let mut work = runner.work(vec![held(&given, "assigned", 0)]).await.expect("work");
    let given = loop {
        if let Kind::Assignment(given) = next(&mut work).await {
            break given;
        }
    };
    let copy = World::backed_up(&database).await;
    let at_the_back_up = recorded(&world.store).await.len();
    assert!(runner.accept(&given).await.accepted);
    runner.report(&given, 1, vec![phase("planning")]).await;
    runner.report(&given, 2, vec![plan(true), phase("awaiting_approval")]).await;
    world.jobs.approve(ORG, &id, "bob", None).await.expect("approved");
    let before = recorded(&world.store).await;
    super::model::follows(&before).expect("a way of the model");
    drop((work, runner));
    // restored, and presented
    let world = world.restored(&copy).await;
    let mut runner = world.here().await;
    let _work = runner.work(vec![held(&given, "applied", 5)]).await.expect("work");
    assert!(runner.present(&given).await.known);
    let events =
        [phase("planning"), plan(true), phase("awaiting_approval"), phase("applying"), result("applied", "ok")];
    runner.report(&given, 1, events.to_vec()).await;
    let after = recorded(&world.store).await;
    let all = [&before[..], &after[at_the_back_up..]].concat();
    println!("{} states of the row: {all:?}", all.len());
    assert!(all.last().is_some_and(|last| last.phase == Phase::Applied && last.reported));
    assert!(all.iter().any(|seen| seen.restored), "the restore is among them");
    super::model::follows(&all).expect("a way of the model");
    // and the check can fail: a phase that comes from nowhere
    let mut wrong = all.clone();
    wrong.insert(2, super::model::Seen { phase: Phase::Applied, accepted: true, reported: true, restored: false });
    super::model::follows(&wrong).expect_err("no way");
}
