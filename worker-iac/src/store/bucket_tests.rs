//! Against moto, which is real HTTP with real signatures; between it and the bucket a wire that loses answers, or what conditions a request has.

use super::super::tests::state;
use super::super::{Store, Unopened, Where, Whose};
use super::*;
use runner_tests::{Component, Moto};
use shared_proto::states::{Claim, HEAD_MAX, Head, KEPT_AT, Key, LOCK, Root, SERVING, VERSIONS_MAX};
use shared_proto::v1::{JobTarget, Target};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Runtime;

const BUCKET: &str = "states";

struct World {
    runtime: Runtime,
    moto: Moto,
}

/// Moto with a bucket; none: it is not here.
fn world() -> Option<World> {
    if !Component::Moto.is_here() {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("one");
    let moto = runtime.block_on(Moto::start()).expect("moto");
    runtime.block_on(moto.bucket(BUCKET, ("of", "tests"))).expect("a bucket");
    Some(World { runtime, moto })
}

fn key() -> Key {
    Root::from_text(&"07".repeat(32)).expect("a key").of_stack("stk_1")
}
fn whose(instance: &str, job: &str) -> Whose {
    Whose { stack: "stk_1".into(), job: job.into(), instance: instance.into(), person: "ann".into() }
}
fn account(url: &str) -> AwsTarget {
    AwsTarget {
        access_key_id: "AKIAEXAMPLE".into(),
        secret_access_key: "s3cr3t-of-the-tests".into(),
        region: "eu-central-1".into(),
        endpoint_url: url.into(),
        ..AwsTarget::default()
    }
}
fn place(bucket: &str, account: AwsTarget) -> StatePlace {
    let target = Target { kind: Some(target::Kind::Aws(account)) };
    StatePlace {
        kind: Some(state_place::Kind::Bucket(StateBucket {
            name: bucket.into(),
            prefix: "of/runner".into(),
            ..StateBucket::default()
        })),
        target: Some(JobTarget { connection: "account".into(), target: Some(target), ..JobTarget::default() }),
        refused: None,
    }
}
fn at(place: StatePlace) -> Where {
    Where { place: watch::channel(Some(place)).1, environment: Environment::new() }
}
fn code<T: std::fmt::Debug>(result: Result<T, Failure>) -> Code {
    result.expect_err("refused").code
}

impl World {
    fn open_at(&self, place: StatePlace, folder: &Path, whose: Whose, removes: Option<&str>) -> Opened {
        let _in_it = self.runtime.enter();
        Store::open_elsewhere(folder, &at(place), key(), whose, "", removes)
    }
    fn open(&self, folder: &Path, whose: Whose) -> Opened {
        self.open_at(place(BUCKET, account(&self.moto.url())), folder, whose, None)
    }
    fn opened(&self, folder: &Path, job: &str) -> Store {
        self.open(folder, whose("i1", job)).expect("opens").0
    }
    fn bucket(&self, url: &str) -> Bucket {
        let place = place(BUCKET, account(url));
        let _in_it = self.runtime.enter();
        Bucket::new(of(&place).expect("one").clone(), "stk_1", at(place.clone()).place, Environment::new())
    }
    fn keys(&self) -> Vec<String> {
        self.runtime.block_on(self.moto.keys(BUCKET)).expect("lists")
    }
    fn object(&self, name: &str) -> Option<Vec<u8>> {
        self.runtime.block_on(self.moto.object(BUCKET, &format!("of/runner/stk_1/{name}"))).expect("asks")
    }
    fn put(&self, name: &str, text: &str) {
        self.runtime.block_on(self.moto.put_object(BUCKET, &format!("of/runner/stk_1/{name}"), text)).expect("puts");
    }
    fn claim(&self) -> Option<Claim> {
        serde_json::from_slice(&self.object(SERVING)?).ok()
    }
}

type Opened = Result<(Store, Vec<String>), Unopened>;

fn failure(opened: Opened) -> Failure {
    match opened.expect_err("refused") {
        Unopened::Failed(failure) => failure,
        Unopened::Served(by) => panic!("served: {}", by.failure),
    }
}
fn served(opened: Opened) -> Box<super::super::Served> {
    match opened.expect_err("refused") {
        Unopened::Served(by) => by,
        Unopened::Failed(failure) => panic!("{failure}"),
    }
}

/// A wire to moto that does something to requests.
struct Wire {
    address: SocketAddr,
    /// The answer of the next request that writes is lost, once it was done.
    loses: Arc<AtomicBool>,
    /// Requests lose their conditions.
    strips: Arc<AtomicBool>,
}

impl Wire {
    fn to(moto: &Moto) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let to: SocketAddr = moto.url().trim_start_matches("http://").parse().expect("an address");
        let wire =
            Self { address: listener.local_addr().expect("an address"), loses: Arc::default(), strips: Arc::default() };
        let (loses, strips) = (wire.loses.clone(), wire.strips.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = pass(stream, to, &loses, &strips);
            }
        });
        wire
    }
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// One request, and its answer. None: it went as it should.
fn pass(mut from: TcpStream, to: SocketAddr, loses: &AtomicBool, strips: &AtomicBool) -> Option<()> {
    let (mut all, mut piece) = (Vec::new(), [0; 16 * 1024]);
    let (head, length) = loop {
        let n = from.read(&mut piece).ok().filter(|n| *n > 0)?;
        all.extend_from_slice(&piece[..n]);
        let Some(end) = all.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&all[..end + 4]).into_owned();
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        break (head, end + 4 + length.unwrap_or(0_usize));
    };
    while all.len() < length {
        let n = from.read(&mut piece).ok().filter(|n| *n > 0)?;
        all.extend_from_slice(&piece[..n]);
    }
    let mut sent = head.clone();
    if strips.load(Ordering::SeqCst) {
        sent = sent.replace("if-none-match", "x-none-match").replace("if-match", "x-match");
    }
    let mut moto = TcpStream::connect(to).ok()?;
    moto.write_all(sent.as_bytes()).ok()?;
    moto.write_all(&all[head.len()..]).ok()?;
    // moto ends each connection with its answer
    let mut answer = Vec::new();
    moto.read_to_end(&mut answer).ok()?;
    let writes = head.starts_with("PUT");
    if !(writes && loses.swap(false, Ordering::SeqCst)) {
        from.write_all(&answer).ok()?;
    }
    None
}

#[test]
fn states_are_sealed_objects_and_go_back_as_in_a_folder() {
    let Some(world) = world() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = world.opened(folder.path(), "j1");
    assert_eq!(store.read().expect("reads"), None);
    assert_eq!(store.lock(br#"{"ID":"L"}"#).expect("locks"), None);
    assert_eq!(store.lock(br#"{"ID":"L"}"#).expect("its answer was lost"), None);
    let other = store.lock(br#"{"ID":"M"}"#).expect("asks").expect("somebody has it");
    assert_eq!((other.id(), other.job.as_str()), ("L", "j1"));
    for (serial, what) in [(1, "s3cret-one"), (4, "s3cret-two")] {
        store.write("L", state(serial, what)).expect("writes");
        store.write("L", state(serial, what)).expect("the same again");
    }
    assert_eq!(code(store.write("L", state(4, "another"))), Code::Conflict);
    assert_eq!(code(store.write("M", state(9, "x"))), Code::StateLocked);
    assert_eq!(store.read().expect("reads"), Some(state(4, "s3cret-two")));
    store.unlock("L").expect("unlocks");
    store.unlock("L").expect("its answer was lost");
    assert_eq!(store.held().expect("reads"), None);
    let made = store.roll_back(1, "it was right").expect("rolls back");
    assert_eq!((made.number, made.serial, made.copy_of), (3, Some(5), 1));
    let heads: Vec<Head> = store.versions().expect("lists").into_iter().map(|head| head.expect("a head")).collect();
    let seen: Vec<_> = heads.iter().map(|h| (h.number, h.serial, h.instance.as_str(), h.person.as_str())).collect();
    assert_eq!(seen, [(1, Some(1), "i1", "ann"), (2, Some(4), "i1", "ann"), (3, Some(5), "i1", "ann")]);
    let keys = world.keys();
    let of = |name: &str| format!("of/runner/stk_1/{name}");
    let expected = [of(LOCK), of(SERVING), of(&version(1)), of(&version(2)), of(&version(3))];
    assert_eq!(keys, expected);
    for key in &keys {
        let content = world.runtime.block_on(world.moto.object(BUCKET, key)).expect("asks").expect("is there");
        for plain in ["s3cret", "outputs", "s3cr3t-of-the-tests"] {
            assert!(!content.windows(plain.len()).any(|part| part == plain.as_bytes()), "{plain} is in {key}");
        }
    }
    // what was changed there does not open
    let mut whole = world.object(&version(3)).expect("is there");
    assert!(whole.len() > HEAD_MAX.min(200));
    whole.truncate(whole.len() - 1);
    world.put(&version(3), &String::from_utf8_lossy(&whole));
    store.release();
    drop(store);
    let failure = world.opened(folder.path(), "j2").read().expect_err("damaged");
    assert!(
        failure.code == Code::StateDamaged && failure.message.contains("s3://states/of/runner/stk_1/versions/"),
        "{failure}"
    );
}

#[test]
fn both_sides_of_the_bounds() {
    let Some(world) = world() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = world.opened(folder.path(), "j1");
    store.lock(br#"{"ID":"L"}"#).expect("locks");
    for serial in 1..=VERSIONS_MAX as u64 {
        store.write("L", state(serial, "a")).expect("writes");
    }
    assert_eq!(store.place.numbers().expect("lists").first(), Some(&1));
    store.write("L", state(1000, "a")).expect("writes");
    let numbers = store.place.numbers().expect("lists");
    assert_eq!((numbers.len(), numbers[0]), (VERSIONS_MAX, 2));
    let long = |bytes: usize| {
        let mut state = state(2000, "a");
        state.resize(bytes, b' ');
        state
    };
    assert_eq!(code(store.write("L", long(STATE_MAX + 1))), Code::TooLarge);
    store.write("L", long(STATE_MAX)).expect("writes");
    drop(store);
    let read = world.opened(folder.path(), "j2").read().expect("reads");
    assert_eq!(read.map(|state| state.len()), Some(STATE_MAX));
    // a note that is none keeps everybody out, and says which object that is
    let note = |bytes: usize| {
        world.put(LOCK, &"n".repeat(bytes));
        world.opened(folder.path(), "j3").held().expect_err("unreadable")
    };
    for (bytes, said) in [(NOTE_MAX, "cannot be read"), (NOTE_MAX + 1, "it is no note")] {
        let failure = note(bytes);
        assert!(failure.code == Code::StateDamaged && failure.to_string().contains(said), "{failure}");
        assert!(failure.message.contains("s3://states/of/runner/stk_1/lock.json"), "{failure}");
    }
}

#[test]
fn whoever_serves_a_stack_has_it_alone() {
    let Some(world) = world() else { return };
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let mut first = world.opened(here.path(), "j1");
    first.lock(br#"{"ID":"L"}"#).expect("locks");
    first.write("L", state(1, "a")).expect("writes");
    let claim = world.claim().expect("a claim");
    assert_eq!((claim.instance.as_str(), claim.job.as_str(), claim.person.as_str()), ("i1", "j1", "ann"));
    // of another instance nothing proves that it has ended, however long ago: its engine's lock is by what it is removed
    let by = served(world.open(there.path(), whose("i2", "j2")));
    assert_eq!((by.failure.code, by.id.as_str(), by.claim.id == claim.id), (Code::StateLocked, "L", true));
    for part in ["job j1", "instance i1", "state unlock STACK L --force"] {
        assert!(by.failure.to_string().contains(part), "{part}: {}", by.failure);
    }
    // killed: of the same instance the folder's lock proves it
    drop(first);
    let mut second = world.opened(here.path(), "j2");
    assert_ne!(world.claim().expect("a claim").id, claim.id);
    assert_eq!(second.held().expect("reads").expect("is left").job, "j1");
    second.unlock("L").expect("unlocks");
    // without a lock it is removed by its own id, and by no other
    let by = served(world.open(there.path(), whose("i2", "j3")));
    assert_eq!(by.id, world.claim().expect("a claim").id);
    let with = |id: &str| {
        let place = place(BUCKET, account(&world.moto.url()));
        world.open_at(place, there.path(), whose("i2", "j3"), Some(id))
    };
    assert_eq!(served(with("L")).id, by.id);
    let (mut third, _) = with(&by.id).expect("taken over");
    assert!(third.freed() && !second.freed());
    third.lock(br#"{"ID":"M"}"#).expect("locks");
    third.write("M", state(2, "b")).expect("writes");
    // the one before writes nothing any more, and is told who has it
    let failure = second.lock(br#"{"ID":"N"}"#).expect_err("taken over");
    assert!(failure.code == Code::StateLocked && failure.message.contains("by job j3 on the instance i2"), "{failure}");
    assert_eq!(code(second.write("M", state(3, "c"))), Code::StateLocked);
    // nor does its end end what another one has
    second.release();
    assert_eq!(world.claim().expect("a claim").instance, "i2");
    assert_eq!(third.read().expect("reads"), Some(state(2, "b")));
    third.release();
    assert_eq!(world.object(SERVING), Some(Vec::new()));
    drop((second, third));
    let fourth = world.opened(here.path(), "j4");
    assert!(!fourth.freed());
    fourth.release();
    drop(fourth);
    // a claim that is none is said
    world.put(SERVING, "nonsense");
    let damaged = super::tests::failure(world.open(here.path(), whose("i1", "j5")));
    assert!(damaged.code == Code::StateDamaged && damaged.next_step.contains("serving.json"), "{damaged}");
}

#[test]
fn of_two_that_write_at_once_one_does_and_the_other_is_told() {
    let Some(world) = world() else { return };
    let (one, two) = (world.bucket(&world.moto.url()), world.bucket(&world.moto.url()));
    one.add(1, (b"head\n", b"one")).expect("adds");
    let error = two.add(1, (b"head\n", b"two")).expect_err("is there");
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(two.read(1, 100).expect("reads").as_deref(), Some(&b"head\none"[..]));
    assert_eq!(two.read(1, 4).expect("reads").as_deref(), Some(&b"head"[..]));
    assert_eq!(two.read(2, 4).expect("reads"), None);
    let tag = one.put_note(LOCK, b"one", None).expect("writes");
    for over in [None, Some("\"another\"")] {
        let error = two.put_note(LOCK, b"two", over).expect_err("is another");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{over:?}");
    }
    let next = two.put_note(LOCK, b"two", Some(&tag)).expect("over what was read");
    assert_eq!(one.put_note(LOCK, b"one", Some(&tag)).expect_err("is another").kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(one.note(LOCK).expect("reads"), Some(Note { content: b"two".to_vec(), tag: next }));
    assert_eq!(one.put_note("none", b"x", Some(&tag)).expect_err("there is none").kind(), io::ErrorKind::AlreadyExists);
    // a store whose newest version is another's by now says so, also the next time
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    one.remove(1).expect("removes");
    one.remove(1).expect("is as good");
    one.put_note(LOCK, b"", Some(&one.note(LOCK).expect("reads").expect("one").tag)).expect("frees");
    let mut store = world.opened(here.path(), "j1");
    store.lock(br#"{"ID":"L"}"#).expect("locks");
    store.write("L", state(1, "a")).expect("writes");
    let by = place(BUCKET, account(&world.moto.url()));
    let (mut other, _) = world.open_at(by, there.path(), whose("i2", "j2"), Some("L")).expect("taken over");
    other.write("L", state(2, "b")).expect("writes");
    // as if it had looked for its claim before that was taken
    for _ in 0..2 {
        let facts = super::super::content::Facts::of(&state(3, "c")).expect("a state");
        let failure = store.add(state(3, "c"), facts, 0, String::new()).expect_err("overtaken");
        assert!(failure.code == Code::Conflict && failure.message.contains("version 2"), "{failure}");
    }
    assert_eq!(other.read().expect("reads"), Some(state(2, "b")));
}

#[test]
fn an_answer_that_was_lost_is_none_that_was_refused() {
    let Some(world) = world() else { return };
    let wire = Wire::to(&world.moto);
    let bucket = world.bucket(&wire.url());
    wire.loses.store(true, Ordering::SeqCst);
    bucket.add(1, (b"head\n", b"one")).expect("was done");
    assert!(!wire.loses.load(Ordering::SeqCst), "none was lost");
    wire.loses.store(true, Ordering::SeqCst);
    let tag = bucket.put_note(LOCK, b"one", None).expect("was done");
    wire.loses.store(true, Ordering::SeqCst);
    let next = bucket.put_note(LOCK, b"", Some(&tag)).expect("was done");
    assert_eq!(bucket.note(LOCK).expect("reads"), Some(Note { content: Vec::new(), tag: next }));
    // but what another one wrote meanwhile is another's
    wire.loses.store(true, Ordering::SeqCst);
    world.put(&version(2), "another's");
    assert_eq!(bucket.add(2, (b"head\n", b"two")).expect_err("is there").kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn a_store_that_heeds_no_conditions_is_refused() {
    let Some(world) = world() else { return };
    let wire = Wire::to(&world.moto);
    let folder = tempfile::tempdir().expect("a folder");
    let open = || world.open_at(place(BUCKET, account(&wire.url())), folder.path(), whose("i1", "j1"), None);
    wire.strips.store(true, Ordering::SeqCst);
    let failure = failure(open());
    assert!(failure.code == Code::StateUnusable && failure.message.contains("If-None-Match"), "{failure}");
    wire.strips.store(false, Ordering::SeqCst);
    open().expect("opens");
}

#[test]
fn what_is_not_there_or_not_allowed_is_said_with_what_to_do() {
    let Some(world) = world() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let open = |place: StatePlace| failure(world.open_at(place, folder.path(), whose("i1", "j1"), None));
    let none = open(place("none-such", account(&world.moto.url())));
    assert!(none.code == Code::StateUnusable && none.next_step.contains("Make the bucket none-such"), "{none}");
    // nothing listens there
    let gone = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address");
    let gone = open(place(BUCKET, account(&format!("http://{gone}"))));
    assert!(gone.code == Code::StateUnusable && gone.message.contains("s3://states/of/runner/stk_1"), "{gone}");
    let mut refused = place(BUCKET, account(&world.moto.url()));
    refused.refused = Some(shared_proto::v1::StatePlaceRefused {
        code: "credentials_unavailable".into(),
        message: "no profile".into(),
        next_step: "Name one.".into(),
    });
    let refused = open(refused);
    assert_eq!((refused.code, refused.next_step.as_str()), (Code::CredentialsUnavailable, "Name one."));
    assert!(refused.message.contains("s3://states/of/runner") && refused.message.contains("no profile"), "{refused}");
    let without = open(StatePlace { target: None, ..place(BUCKET, account(&world.moto.url())) });
    assert_eq!(without.code, Code::CredentialsUnavailable);
    let unknown = open(StatePlace::default());
    assert_eq!(unknown.code, Code::UnsupportedVersion);
    let nowhere = AwsTarget { region: String::new(), ..account("") };
    assert!(open(place(BUCKET, nowhere)).message.contains("names a region"));
    let whose = Whose { stack: "../x".into(), ..whose("i1", "j1") };
    let outside = world.open_at(place(BUCKET, account(&world.moto.url())), folder.path(), whose, None);
    assert_eq!(failure(outside).code, Code::InvalidArgument);
    assert!(world.keys().is_empty(), "nothing was written");
}

#[test]
fn signatures_are_what_s3_computes_and_policies_are_kept() {
    let Some(World { runtime, .. }) = world() else { return };
    // as many requests as there are until everything is there
    let moto = runtime.block_on(Moto::strict(5)).expect("moto");
    let (id, secret) = runtime.block_on(async {
        moto.bucket(BUCKET, ("of", "tests")).await.expect("a bucket");
        moto.iam("Action=CreateUser&UserName=runner").await.expect("a user");
        let policy = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C%22Action%22%3A%22s3%3A%2A%22%2C\
                      %22Resource%22%3A%22%2A%22%7D%5D%7D";
        moto.iam(&format!("Action=PutUserPolicy&UserName=runner&PolicyName=p&PolicyDocument={policy}")).await.expect("a policy");
        let made = moto.iam("Action=CreateAccessKey&UserName=runner").await.expect("a key");
        let between = |tag: &str| made.split(&format!("<{tag}>")).nth(1).and_then(|t| t.split('<').next()).expect(tag).to_owned();
        (between("AccessKeyId"), between("SecretAccessKey"))
    });
    let (world, folder) = (World { runtime, moto }, tempfile::tempdir().expect("a folder"));
    let right = AwsTarget { access_key_id: id, secret_access_key: secret, ..account(&world.moto.url()) };
    let open = |account: AwsTarget| world.open_at(place(BUCKET, account), folder.path(), whose("i1", "j1"), None);
    for (access, part) in [
        (account(&world.moto.url()), "InvalidAccessKeyId"),
        (AwsTarget { secret_access_key: "another".into(), ..right.clone() }, "SignatureDoesNotMatch"),
    ] {
        let failure = failure(open(access));
        assert!(failure.code == Code::TargetForbidden && failure.message.contains(part), "{failure}");
        assert!(failure.next_step.contains("the credentials of the connection account"), "{failure}");
        assert!(!failure.to_string().contains("s3cr3t-of-the-tests"), "{failure}");
    }
    // newer credentials are taken as they come, in the middle of a job
    let (told, heard) = watch::channel(Some(place(BUCKET, right.clone())));
    let at = Where { place: heard, environment: Environment::new() };
    let in_it = world.runtime.enter();
    let (mut store, _) = Store::open_elsewhere(folder.path(), &at, key(), whose("i1", "j1"), "", None).expect("opens");
    drop(in_it);
    store.lock(br#"{"ID":"L"}"#).expect("locks");
    store.write("L", state(1, "a")).expect("writes");
    told.send_replace(Some(place(BUCKET, AwsTarget { secret_access_key: "ended".into(), ..right.clone() })));
    assert_eq!(code(store.write("L", state(2, "b"))), Code::TargetForbidden);
    told.send_replace(Some(place(BUCKET, right)));
    store.write("L", state(2, "b")).expect("writes");
    assert_eq!(store.read().expect("reads"), Some(state(2, "b")));
}

#[test]
fn states_of_the_folder_are_moved_once_and_never_forgotten() {
    let Some(world) = world() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let (mut old, _) = Store::open(at, key(), whose("i1", "j1")).expect("opens");
    old.lock(br#"{"ID":"L"}"#).expect("locks");
    for serial in 1..=3 {
        old.write("L", state(serial, "a")).expect("writes");
    }
    drop(old);
    let local = at.join(states::VERSIONS);
    let second = std::fs::read(local.join(states::file_name(2))).expect("reads");
    // killed when it had moved one
    let bucket = world.bucket(&world.moto.url());
    let first = std::fs::read(local.join(states::file_name(1))).expect("reads");
    bucket.add(1, (&first, b"")).expect("adds");
    let (mut store, notes) = world.open(at, whose("i1", "j2")).expect("opens");
    assert!(notes.iter().any(|note| note.contains("were moved to s3://states/of/runner/stk_1")), "{notes:?}");
    assert_eq!(store.read().expect("reads"), Some(state(3, "a")));
    assert_eq!(world.object(&version(2)), Some(second));
    assert_eq!(store.held().expect("reads").expect("came with them").id(), "L");
    assert!(std::fs::read_dir(&local).is_ok_and(|mut left| left.next().is_none()) || !local.exists());
    assert!(!at.join(LOCK).exists());
    store.unlock("L").expect("unlocks");
    store.release();
    drop(store);
    let (store, notes) = world.open(at, whose("i1", "j3")).expect("opens");
    assert!(notes.is_empty(), "{notes:?}");
    store.release();
    drop(store);
    // whoever looks in the folder, or in another place, is not told that there is nothing
    let failure_here = Store::open(at, key(), whose("i1", "j4")).expect_err("elsewhere");
    assert!(
        failure_here.code == Code::StateElsewhere && failure_here.message.contains("s3://states/"),
        "{failure_here}"
    );
    world.runtime.block_on(world.moto.bucket("other", ("of", "tests"))).expect("a bucket");
    let to_other = || world.open_at(place("other", account(&world.moto.url())), at, whose("i1", "j4"), None);
    let failure_there = failure(to_other());
    assert!(failure_there.code == Code::StateElsewhere && failure_there.next_step.contains(KEPT_AT), "{failure_there}");
    // somebody has copied one there
    let newest = world.object(&version(3)).expect("is there");
    let copied = Bucket::new_in(&world, "other");
    copied.add(3, (&newest, b"")).expect("adds");
    let (mut store, _) = to_other().expect("opens");
    assert_eq!(store.read().expect("reads"), Some(state(3, "a")));
    drop(store);
    // and both are there, which do not follow one another
    std::fs::create_dir_all(&local).expect("makes");
    std::fs::write(local.join(states::file_name(2)), "another").expect("writes");
    let both = failure(to_other());
    assert!(both.code == Code::Conflict && both.message.contains("do not follow one another"), "{both}");
    assert!(local.join(states::file_name(2)).exists());
}

#[test]
fn a_stack_that_another_instance_had_is_not_begun_anew() {
    let Some(world) = world() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let open = || {
        let _in_it = world.runtime.enter();
        let place = at(place(BUCKET, account(&world.moto.url())));
        Store::open_elsewhere(folder.path(), &place, key(), whose("i2", "j1"), "i1", None)
    };
    let refused = failure(open());
    assert!(refused.code == Code::StateElsewhere && refused.message.contains("instance i1"), "{refused}");
    // that one has served it there, whatever came of it
    let other = tempfile::tempdir().expect("a folder");
    world.opened(other.path(), "j0").release();
    open().expect("opens");
}

impl Bucket {
    fn new_in(world: &World, bucket: &str) -> Self {
        let place = place(bucket, account(&world.moto.url()));
        let _in_it = world.runtime.enter();
        Self::new(of(&place).expect("one").clone(), "stk_1", at(place.clone()).place, Environment::new())
    }
}
