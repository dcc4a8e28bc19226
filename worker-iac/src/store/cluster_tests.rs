//! Against a real API server.

use super::super::tests::state;
use super::super::{Store, Unopened, Where, Whose};
use super::*;
use runner_tests::{Cluster as ApiServer, Component, cluster};
use shared_proto::states::{Key, Root, VERSIONS_MAX};
use shared_proto::v1::{JobTarget, Target};
use std::path::Path;
use tokio::runtime::Runtime;

struct World {
    runtime: Runtime,
    server: ApiServer,
}

/// An API server with nothing in it; none: it is not here.
fn world() -> Option<World> {
    if !Component::Cluster.is_here() {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("one");
    let server = runtime.block_on(ApiServer::start()).expect("an API server");
    Some(World { runtime, server })
}

fn key() -> Key {
    Root::from_text(&"07".repeat(32)).expect("a key").of_stack("stk_1")
}
fn whose(instance: &str, job: &str) -> Whose {
    Whose { stack: "stk_1".into(), job: job.into(), instance: instance.into(), person: "ann".into() }
}
fn failure(opened: Result<(Store, Vec<String>), Unopened>) -> Failure {
    match opened.expect_err("refused") {
        Unopened::Failed(failure) => failure,
        Unopened::Served(by) => by.failure,
    }
}

impl World {
    fn place(&self, token: &str, namespace: &str) -> StatePlace {
        let cluster = KubernetesTarget {
            server: format!("https://{}", self.server.address()),
            certificate_authority_pem: self.server.ca().to_owned(),
            token: token.into(),
            ..KubernetesTarget::default()
        };
        let target = Target { kind: Some(target::Kind::Kubernetes(cluster)) };
        StatePlace {
            kind: Some(state_place::Kind::Secrets(StateSecrets { namespace: namespace.into() })),
            target: Some(JobTarget { connection: "keeps".into(), target: Some(target), ..JobTarget::default() }),
            refused: None,
        }
    }
    fn open_at(&self, place: StatePlace, folder: &Path, whose: Whose) -> Result<(Store, Vec<String>), Unopened> {
        let _in_it = self.runtime.enter();
        let at = Where { place: watch::channel(Some(place)).1, environment: Environment::new() };
        Store::open_elsewhere(folder, &at, key(), whose, "", None)
    }
    fn opened(&self, folder: &Path, job: &str) -> Store {
        self.open_at(self.place(cluster::ADMIN, "default"), folder, whose("i1", job)).expect("opens").0
    }
    fn remote(&self) -> Cluster {
        let _in_it = self.runtime.enter();
        let place = self.place(cluster::ADMIN, "default");
        let secrets = of(&place).expect("one").clone();
        Cluster::new(&secrets, "stk_1", watch::channel(Some(place)).1, Environment::new())
    }
    /// The names of the Secrets that are there, without what all have.
    fn names(&self) -> Vec<String> {
        let list = self.runtime.block_on(self.server.read("/api/v1/namespaces/default/secrets")).expect("lists");
        let names = list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str());
        names.filter_map(|name| Some(name.strip_prefix("runner-state-")?.split_once('-')?.1.to_owned())).collect()
    }
}

#[test]
fn states_are_sealed_secrets_and_go_back_as_in_a_folder() {
    let Some(world) = world() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = world.opened(folder.path(), "j1");
    assert_eq!(store.read().expect("reads"), None);
    assert_eq!(store.lock(br#"{"ID":"L"}"#).expect("locks"), None);
    let other = store.lock(br#"{"ID":"M"}"#).expect("asks").expect("somebody has it");
    assert_eq!((other.id(), other.job.as_str()), ("L", "j1"));
    for (serial, what) in [(1, "s3cret-one"), (4, "s3cret-two")] {
        store.write("L", state(serial, what)).expect("writes");
        store.write("L", state(serial, what)).expect("the same again");
    }
    assert_eq!(store.read().expect("reads"), Some(state(4, "s3cret-two")));
    store.unlock("L").expect("unlocks");
    assert_eq!(store.held().expect("reads"), None);
    let made = store.roll_back(1, "it was right").expect("rolls back");
    assert_eq!((made.number, made.serial, made.copy_of), (3, Some(5), 1));
    assert_eq!(world.names(), ["lock", "serving", "v000000000001", "v000000000002", "v000000000003"]);
    let found = world
        .runtime
        .block_on(world.server.read(&format!("/api/v1/namespaces/default/secrets/{}", world.remote().version(1))));
    let found = found.expect("reads");
    assert_eq!((&found["immutable"], &found["metadata"]["annotations"][STACK_ID]), (&true.into(), &"stk_1".into()));
    let content = STANDARD.decode(found["data"]["content"].as_str().expect("a value")).expect("base64");
    assert!(!content.windows(6).any(|part| part == b"s3cret"));
    // another instance does not take it over
    let there = tempfile::tempdir().expect("a folder");
    let place = || world.place(cluster::ADMIN, "default");
    let served = failure(world.open_at(place(), there.path(), whose("i2", "j2")));
    assert!(served.code == Code::StateLocked && served.message.contains("instance i1"), "{served}");
    store.release();
    let (mut other, _) = world.open_at(place(), there.path(), whose("i2", "j2")).expect("opens");
    assert_eq!(other.read().expect("reads").map(|state| state.len()), Some(state(5, "s3cret-one").len()));
}

#[test]
fn both_sides_of_the_bounds() {
    let Some(world) = world() else { return };
    let remote = world.remote();
    let of = |bytes: usize| vec![b'x'; bytes];
    remote.add(1, (b"", &of(PIECE))).expect("adds");
    assert_eq!(world.names().len(), 1);
    remote.add(2, (b"a", &of(PIECE))).expect("adds");
    assert_eq!(world.names().len(), 3, "{:?}", world.names());
    let read = remote.read(2, 2 * PIECE).expect("reads").expect("is there");
    assert_eq!((read.len(), read[0]), (PIECE + 1, b'a'));
    assert_eq!(remote.read(2, 10).expect("reads").map(|first| first.len()), Some(10));
    assert_eq!(remote.numbers().expect("lists"), [1, 2]);
    // another one of that number, whose pieces go again
    assert_eq!(remote.add(2, (b"b", &of(PIECE))).expect_err("is there").kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(world.names().len(), 3);
    assert_eq!(remote.read(2, 1).expect("reads").as_deref(), Some(&b"a"[..]));
    remote.remove(2).expect("removes");
    remote.remove(2).expect("is as good");
    assert_eq!(world.names(), ["v000000000001"]);
    let most = PIECE * PIECES_MAX;
    remote.add(3, (b"", &of(most))).expect("adds");
    assert_eq!(remote.read(3, most + 1).expect("reads").map(|all| all.len()), Some(most));
    let error = remote.add(4, (b"", &of(most + 1))).expect_err("too large");
    assert!(error.to_string().contains("too_large"), "{error}");
    for number in [1, 3] {
        remote.remove(number).expect("removes");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = world.opened(folder.path(), "j1");
    store.lock(br#"{"ID":"L"}"#).expect("locks");
    for serial in 1..=VERSIONS_MAX as u64 + 1 {
        store.write("L", state(serial, "a")).expect("writes");
    }
    let numbers = store.place.numbers().expect("lists");
    assert_eq!((numbers.len(), numbers[0]), (VERSIONS_MAX, 2));
    let long = |bytes: usize| {
        let mut state = state(1000, "a");
        state.resize(bytes, b' ');
        state
    };
    let failure = store.write("L", long(remote.largest() + 1)).expect_err("too large");
    assert!(failure.code == Code::TooLarge && failure.message.contains(&remote.largest().to_string()), "{failure}");
    store.write("L", long(remote.largest())).expect("writes");
    assert_eq!(store.read().expect("reads").map(|state| state.len()), Some(remote.largest()));
}

#[test]
fn notes_are_replaced_over_what_was_read_alone() {
    let Some(world) = world() else { return };
    let (one, two) = (world.remote(), world.remote());
    let tag = one.put_note(LOCK, b"one", None).expect("writes");
    for over in [None, Some("1")] {
        let error = two.put_note(LOCK, b"two", over).expect_err("is another");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{over:?}");
    }
    let next = two.put_note(LOCK, b"", Some(&tag)).expect("over what was read");
    assert_eq!(one.put_note(LOCK, b"one", Some(&tag)).expect_err("is another").kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(one.note(LOCK).expect("reads"), Some(Note { content: Vec::new(), tag: next }));
    assert_eq!(one.note(SERVING).expect("reads"), None);
}

#[test]
fn what_is_not_there_or_not_allowed_is_said_with_what_to_do() {
    let Some(world) = world() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let open = |place: StatePlace| failure(world.open_at(place, folder.path(), whose("i1", "j1")));
    let none = open(world.place(cluster::ADMIN, "none-such"));
    assert!(none.code == Code::StateUnusable && none.next_step.contains("Make the namespace none-such"), "{none}");
    let nobody = open(world.place("no-such-token", "default"));
    assert!(nobody.code == Code::TargetForbidden && nobody.next_step.contains("the credentials of"), "{nobody}");
    let restricted = open(world.place(cluster::RESTRICTED, "default"));
    assert!(
        restricted.code == Code::TargetForbidden && restricted.next_step.contains("get, list, create"),
        "{restricted}"
    );
    let changed = |change: fn(&mut KubernetesTarget)| {
        let mut place = world.place(cluster::ADMIN, "default");
        let target =
            place.target.as_mut().and_then(|target| target.target.as_mut()).and_then(|target| target.kind.as_mut());
        if let Some(target::Kind::Kubernetes(cluster)) = target {
            change(cluster);
        }
        open(place)
    };
    let unchecked = changed(|cluster| cluster.insecure_skip_tls_verify = true);
    assert!(unchecked.message.contains("whose certificate nobody checks"), "{unchecked}");
    let plain = changed(|cluster| cluster.server = cluster.server.replace("https", "http"));
    assert!(plain.message.contains("whose certificate nobody checks"), "{plain}");
    let untrusted = changed(|cluster| cluster.certificate_authority_pem.clear());
    assert_eq!(untrusted.code, Code::StateUnusable, "{untrusted}");
    for failure in [&nobody, &restricted] {
        assert!(!failure.to_string().contains("token-0123456789"), "{failure}");
    }
    assert!(world.names().is_empty(), "nothing was written");
}
