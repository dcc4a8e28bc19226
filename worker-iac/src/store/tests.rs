use super::*;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

fn key() -> Key {
    shared_proto::states::Root::from_text(&"07".repeat(32)).expect("a key").of_stack("s1")
}
fn whose(job: &str) -> Whose {
    Whose { stack: "s1".into(), job: job.into(), instance: "i1".into(), person: "ann".into() }
}
fn opened(folder: &Path) -> Store {
    Store::open(folder, key(), whose("j1")).expect("opens").0
}
/// A state, as an engine writes it.
pub(super) fn state(serial: u64, what: &str) -> Vec<u8> {
    let value = serde_json::json!({ "version": 4, "serial": serial, "lineage": "l", "outputs": what, "resources": [] });
    value.to_string().into_bytes()
}
fn code<T>(result: Result<T, Failure>) -> Option<Code> {
    result.err().map(|failure| failure.code)
}
/// A store whose lock is `L`.
fn locked(folder: &Path) -> Store {
    let mut store = opened(folder);
    assert_eq!(store.lock(br#"{"ID":"L"}"#).expect("locks"), None);
    store
}
fn file(folder: &Path, number: u64) -> PathBuf {
    folder.join(states::VERSIONS).join(states::file_name(number))
}

#[test]
fn a_state_follows_the_newest_one_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = locked(folder.path());
    assert_eq!(store.read().expect("reads"), None);
    store.write("L", state(1, "a")).expect("writes");
    // its answer was lost
    store.write("L", state(1, "a")).expect("the same again");
    store.write("L", state(4, "b")).expect("writes");
    for (other, expected) in [
        (state(4, "c"), Code::Conflict),
        (state(3, "c"), Code::Conflict),
        (br#"{"serial":9,"lineage":"another"}"#.to_vec(), Code::Conflict),
        (br#"{"serial":9}"#.to_vec(), Code::Conflict),
        (b"{\"serial\":9".to_vec(), Code::InvalidArgument),
        (Vec::new(), Code::InvalidArgument),
    ] {
        assert_eq!(code(store.write("L", other)), Some(expected));
    }
    assert_eq!(store.read().expect("reads"), Some(state(4, "b")));
    let heads: Vec<_> = store.versions().expect("lists").into_iter().map(|head| head.expect("a head")).collect();
    let seen: Vec<_> = heads.iter().map(|h| (h.number, h.serial, h.job.as_str(), h.person.as_str())).collect();
    assert_eq!(seen, [(1, Some(1), "j1", "ann"), (2, Some(4), "j1", "ann")]);
    // another worker finds the same
    drop(store);
    let mut store = opened(folder.path());
    assert_eq!(store.read().expect("reads"), Some(state(4, "b")));
    store.write("L", state(4, "b")).expect("the same again, of another worker");
    assert_eq!(store.versions().expect("lists").len(), 2);
    let mode = std::fs::metadata(file(folder.path(), 1)).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let raw = std::fs::read(file(folder.path(), 2)).expect("reads");
    assert!(!raw.windows(9).any(|part| part == b"resources".as_slice() && raw.starts_with(b"{")), "it is sealed");
}

#[test]
fn nobody_writes_without_the_lock_and_whoever_has_it_gets_it_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = opened(folder.path());
    assert_eq!(code(store.write("L", state(1, "a"))), Some(Code::StateLocked), "there is none");
    assert_eq!(code(store.write("", state(1, "a"))), Some(Code::StateLocked));
    for wrong in ["", "[]", "{}", r#"{"ID":""}"#, r#"{"ID":7}"#] {
        assert_eq!(code(store.lock(wrong.as_bytes())), Some(Code::InvalidArgument), "{wrong}");
    }
    assert_eq!(store.lock(br#"{"ID":"L","Who":"w"}"#).expect("locks"), None);
    assert_eq!(store.lock(br#"{"ID":"L","Who":"w"}"#).expect("its answer was lost"), None);
    let held = store.lock(br#"{"ID":"M"}"#).expect("asks").expect("somebody has it");
    assert_eq!((held.id(), held.job.as_str(), held.person.as_str()), ("L", "j1", "ann"));
    for wrong in ["", "M"] {
        assert_eq!(code(store.write(wrong, state(1, "a"))), Some(Code::StateLocked));
        assert_eq!(code(store.unlock(wrong)), Some(Code::Conflict));
    }
    store.write("L", state(1, "a")).expect("writes");
    store.unlock("L").expect("unlocks");
    store.unlock("L").expect("its answer was lost");
    assert_eq!(store.held().expect("reads"), None);
    assert_eq!(code(store.write("L", state(2, "a"))), Some(Code::StateLocked), "it was taken away");
    // what is no note keeps everybody out, and says which file that is
    std::fs::write(folder.path().join(states::LOCK), "{").expect("writes");
    let failure = store.lock(br#"{"ID":"M"}"#).expect_err("unreadable");
    assert!(failure.code == Code::StateDamaged && failure.next_step.contains(states::LOCK), "{failure}");
}

#[test]
fn both_sides_of_the_bounds() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = locked(folder.path());
    for serial in 1..=VERSIONS_MAX as u64 {
        store.write("L", state(serial, "a")).expect("writes");
    }
    assert_eq!(store.numbers().expect("lists").first(), Some(&1));
    store.write("L", state(1000, "a")).expect("writes");
    let numbers = store.numbers().expect("lists");
    assert_eq!((numbers.len(), numbers[0]), (VERSIONS_MAX, 2));
    let long = |bytes: usize| {
        let mut state = state(2000, "a");
        state.resize(bytes, b' ');
        state
    };
    let failure = store.write("L", long(STATE_MAX + 1)).expect_err("too large");
    assert!(failure.code == Code::TooLarge && failure.message.contains("67108865"), "{failure}");
    store.write("L", long(STATE_MAX)).expect("writes");
    assert_eq!(store.read().expect("reads").map(|state| state.len()), Some(STATE_MAX));
    store.unlock("L").expect("unlocks");
    let info = |bytes: usize| {
        let empty = serde_json::json!({ "ID": "M", "Info": "" }).to_string().len();
        serde_json::json!({ "ID": "M", "Info": "i".repeat(bytes - empty) }).to_string()
    };
    assert_eq!(code(store.lock(info(LOCK_MAX).as_bytes())), Some(Code::TooLarge), "with what we say of it");
    store.lock(info(LOCK_MAX - 200).as_bytes()).expect("locks");
}

#[test]
fn what_was_changed_cut_exchanged_or_sealed_otherwise_is_said_and_not_given() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let mut store = locked(at);
    for serial in 1..=3 {
        store.write("L", state(serial, "s3cret-value")).expect("writes");
    }
    drop(store);
    let whole = std::fs::read(file(at, 3)).expect("reads");
    let other = std::fs::read(file(at, 2)).expect("reads");
    let mut flipped = whole.clone();
    *flipped.last_mut().expect("a byte") ^= 1;
    for (what, content) in
        [("flipped", flipped), ("cut", whole[..whole.len() - 1].to_vec()), ("empty", Vec::new()), ("exchanged", other)]
    {
        std::fs::write(file(at, 3), content).expect("writes");
        let failure = opened(at).read().expect_err(what);
        assert_eq!(failure.code, Code::StateDamaged, "{what}");
        assert!(
            failure.message.contains("000000000003") && failure.next_step.contains("rollback"),
            "{what}: {failure}"
        );
        assert!(!failure.to_string().contains("s3cret"), "{what}");
    }
    std::fs::write(file(at, 3), &whole).expect("writes");
    let another = shared_proto::states::Root::make().expect("a key").of_stack("s1");
    let failure = Store::open(at, another, whose("j1")).expect("opens").0.read().expect_err("another key");
    assert!(failure.code == Code::StateDamaged && failure.next_step.contains(states::ROOT), "{failure}");
    // one that is another stack's does not open here
    let mut of_other = Store::open(at, key(), Whose { stack: "s2".into(), ..whose("j1") }).expect("opens").0;
    assert_eq!(code(of_other.read()), Some(Code::StateDamaged));
    drop(of_other);
    // from what is damaged an earlier one leads back
    std::fs::write(file(at, 3), "nonsense").expect("writes");
    let mut store = opened(at);
    assert_eq!(store.versions().expect("lists").last(), Some(&Err(3)));
    store.unlock("L").expect("unlocks");
    store.roll_back(2, "the newest is damaged").expect("rolls back");
    assert!(store.read().expect("reads").is_some());
}

#[test]
fn an_earlier_version_becomes_the_newest_with_the_next_serial() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = locked(folder.path());
    for (serial, what) in [(1, "a"), (2, "b"), (7, "c")] {
        store.write("L", state(serial, what)).expect("writes");
    }
    assert_eq!(code(store.roll_back(1, "r")), Some(Code::StateLocked));
    store.unlock("L").expect("unlocks");
    for none in [0, 4, u64::MAX] {
        assert_eq!(code(store.roll_back(none, "r")), Some(Code::NotFound));
    }
    let made = store.roll_back(1, "it was right").expect("rolls back");
    assert_eq!((made.number, made.serial, made.copy_of, made.reason.as_str()), (4, Some(8), 1, "it was right"));
    let now: serde_json::Value = serde_json::from_slice(&store.read().expect("reads").expect("one")).expect("JSON");
    assert_eq!((&now["serial"], &now["outputs"], &now["lineage"]), (&8.into(), &"a".into(), &"l".into()));
    assert_eq!(store.numbers().expect("lists"), [1, 2, 3, 4], "none is gone");
    // what the engine itself has encrypted has its serial in what cannot be changed
    store.lock(br#"{"ID":"L"}"#).expect("locks");
    store.write("L", br#"{"serial":9,"lineage":"l","encrypted_data":"x"}"#.to_vec()).expect("writes");
    store.unlock("L").expect("unlocks");
    assert_eq!(code(store.roll_back(5, "r")), Some(Code::Conflict));
}

#[test]
fn a_plain_state_becomes_a_version_where_it_follows() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let plain = at.join(PLAIN);
    assert!(!Store::is_at(at));
    std::fs::write(&plain, "").expect("writes");
    let (store, note) = Store::open(at, key(), whose("j1")).expect("an empty one is none");
    assert!(note.is_none() && store.numbers().expect("lists").is_empty() && plain.exists() && Store::is_at(at));
    drop(store);
    std::fs::write(&plain, "{\"serial\":").expect("writes");
    assert_eq!(code(Store::open(at, key(), whose("j1"))), Some(Code::StateDamaged));
    std::fs::write(&plain, state(5, "old")).expect("writes");
    let (mut store, note) = Store::open(at, key(), whose("j1")).expect("opens");
    assert!(note.expect("a note").contains(IMPORTED) && !plain.exists());
    assert_eq!(store.read().expect("reads"), Some(state(5, "old")));
    assert_eq!(std::fs::read(at.join(IMPORTED)).expect("is kept"), state(5, "old"));
    drop(store);
    // killed before it was renamed: it is there already
    std::fs::write(&plain, state(5, "old")).expect("writes");
    let (store, _) = Store::open(at, key(), whose("j1")).expect("opens");
    assert!(!plain.exists() && store.numbers().expect("lists") == [1]);
    drop(store);
    // one that an engine could not save, put there by hand
    std::fs::write(&plain, state(6, "rescued")).expect("writes");
    let (store, _) = Store::open(at, key(), whose("j1")).expect("opens");
    assert_eq!(store.numbers().expect("lists"), [1, 2]);
    drop(store);
    std::fs::write(&plain, state(6, "another")).expect("writes");
    let failure = Store::open(at, key(), whose("j1")).expect_err("does not follow");
    assert!(failure.code == Code::Conflict && failure.message.contains(PLAIN) && plain.exists(), "{failure}");
}

#[test]
fn what_was_taken_to_a_backend_is_gone_on_with_only_when_it_came_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let left = || Store::left(at, None, key(), whose("j1"), "").expect("looks");
    assert_eq!(left(), None);
    locked(at).write("L", state(5, "before")).expect("writes");
    assert_eq!(left(), Some(state(5, "before")));
    Store::taken_to(at, &Backend::new("s3", "{}")).expect("writes");
    assert_eq!(left(), None);
    let failure = Store::open(at, key(), whose("j1")).expect_err("it is elsewhere");
    assert!(failure.code == Code::StateElsewhere && failure.message.contains("own backend (s3)"), "{failure}");
    assert!(failure.next_step.contains(PLAIN), "{failure}");
    // which one it is; what stands there is a name, whatever it was read from
    let taken = Store::taken_from(at).expect("reads").expect("it is said");
    assert!(
        !taken.is_another_than(&Backend::new("s3", "{}")) && taken.is_another_than(&Backend::new("s3", "{\"a\":1}"))
    );
    Store::taken_to(at, &Backend::new(&format!("s3)\n{}", "x".repeat(10_000)), "{}")).expect("writes");
    let taken = Store::taken_from(at).expect("reads").expect("it is said");
    assert!(!taken.is_another_than(&Backend::new("s3", "{}")), "{taken:?}");
    assert_eq!(taken.at, format!("{OWN_BACKEND} (s3{})", "x".repeat(KIND_MAX - 2)));
    // one of an earlier version says no more than the kind
    std::fs::write(at.join(KEPT_AT), format!("{OWN_BACKEND} (s3)\n")).expect("writes");
    let taken = Store::taken_from(at).expect("reads").expect("it is said");
    assert!(!taken.is_another_than(&Backend::new("pg", "{}")));
    // an empty file is none
    std::fs::write(at.join(PLAIN), "").expect("writes");
    assert_eq!(code(Store::open(at, key(), whose("j1"))), Some(Code::StateElsewhere));
    // of the same lineage it has to be a newer one
    std::fs::write(at.join(PLAIN), state(4, "older")).expect("writes");
    assert_eq!(code(Store::open(at, key(), whose("j1"))), Some(Code::Conflict));
    assert!(at.join(KEPT_AT).exists(), "and it is elsewhere still");
    // a backend may have given it one of its own
    let other = br#"{"version":4,"serial":1,"lineage":"m","resources":[]}"#.to_vec();
    std::fs::write(at.join(PLAIN), &other).expect("writes");
    let mut store = opened(at);
    assert_eq!(store.read().expect("reads"), Some(other.clone()));
    assert!(!at.join(KEPT_AT).exists() && !at.join(PLAIN).exists());
    drop(store);
    // killed before its file was renamed: it is there already
    std::fs::write(at.join(PLAIN), &other).expect("writes");
    Store::taken_to(at, &Backend::new("s3", "{}")).expect("writes");
    assert_eq!(opened(at).numbers().expect("lists"), [1, 2]);
    assert!(!at.join(KEPT_AT).exists() && !at.join(PLAIN).exists());
    assert!(Store::was_put(at).expect("looks"));
    locked(at).write("L", br#"{"version":4,"serial":2,"lineage":"m","resources":[]}"#.to_vec()).expect("writes");
    assert!(!Store::was_put(at).expect("looks"), "a job has written since");
    // whoever puts another one there that came from nowhere is told
    std::fs::write(at.join(PLAIN), state(9, "another")).expect("writes");
    assert_eq!(code(Store::open(at, key(), whose("j1"))), Some(Code::Conflict));
}

#[test]
fn a_store_is_one_workers_and_what_it_left_half_done_is_not_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().to_owned();
    let mut store = locked(&at);
    store.write("L", state(1, "a")).expect("writes");
    let waiting = std::thread::spawn({
        let at = at.clone();
        move || Store::open(&at, key(), whose("j2")).map(drop)
    });
    // killed in the middle of the next one
    let half = at.join(states::VERSIONS).join(format!(".{}.new", states::file_name(2)));
    std::fs::write(&half, "half").expect("writes");
    assert_eq!(store.numbers().expect("lists"), [1]);
    drop(store);
    waiting.join().expect("ends").expect("has it then");
    opened(&at).write("L", state(2, "b")).expect("writes over it");
    assert!(!half.exists());
    // and with a link in its place nothing beside the folder is read or written
    let outside = at.join("outside");
    std::fs::write(&outside, "outside").expect("writes");
    std::os::unix::fs::symlink(&outside, file(&at, 3)).expect("links");
    assert!(opened(&at).read().is_err());
    assert_eq!(std::fs::read(&outside).expect("reads"), b"outside");
}
