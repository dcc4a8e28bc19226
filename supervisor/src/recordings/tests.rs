use super::*;
use crate::audit::recording::{Decrypted, RecipientKey, decrypt};
use crate::audit::{Filter, Options, tail};
use crate::config::{Config, RecordingKey};
use bytes::Bytes;
use std::path::PathBuf;

struct Place {
    folder: tempfile::TempDir,
    settings: AuditSettings,
    recorder: Recorder,
    key: RecipientKey,
}

impl Place {
    /// `max`: of a recording, bytes.
    fn new(max: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = RecipientKey::generate().expect("makes");
        let config = Config::load(None, &Default::default(), &Default::default()).expect("loads");
        let recording_key = Some(RecordingKey { file: PathBuf::new(), to: key.recipient().expect("public") });
        let settings = AuditSettings { recording_key, recording_max: max, ..config.audit };
        let recorder = Recorder::start(folder.path(), options(), false);
        Self { folder, settings, recorder, key }
    }
    async fn begin(&self, operation: &str) -> Recording {
        let header = Header { width: 80, height: 24, ..Header::default() };
        Recording::begin(&self.settings, &self.recorder, operation, header).await.expect("begins")
    }
    fn log(&self) -> PathBuf {
        self.folder.path().join(crate::recorder::FOLDER)
    }
    /// What the log says, once all is written.
    async fn told(&self, kind: &str) -> Vec<Record> {
        self.recorder.written().await;
        self.recorder.give().await;
        let filter = Filter { kind: Some(kind.to_owned()), ..Filter::default() };
        let lines = tail(&self.log(), 100, false, filter).expect("reads");
        lines.map(|line| line.expect("reads").record().expect("a record")).collect()
    }
    fn shelf(&self) -> Vec<Shelved> {
        Shelf::of(&self.log()).list().expect("lists")
    }
    fn read(&self, one: &Shelved) -> (Decrypted, String) {
        let mut cast = Vec::new();
        let file = std::fs::File::open(&one.path).expect("opens");
        let decrypted = decrypt(file, &mut cast, &self.key).expect("decrypts");
        (decrypted, String::from_utf8(cast).expect("text"))
    }
}

fn options() -> Options {
    Options::new("run_1", "instance-1")
}

fn output(text: &[u8]) -> Event {
    Event::Output(Bytes::copy_from_slice(text))
}

#[tokio::test]
async fn what_passes_is_recorded_in_its_order_and_the_log_has_its_digest() {
    let place = Place::new(1 << 20);
    let recording = place.begin("op_1").await;
    recording.put(output(b"$ ")).await;
    recording.put(Event::Input(Bytes::from_static(b"ls\r"))).await;
    recording.put(Event::Resize { width: 100, height: 50 }).await;
    // the halves of a character, with what came by the other stream between them
    recording.put(output(b"\xc3")).await;
    recording.put(Event::Stderr(Bytes::from_static(b"oh"))).await;
    recording.put(output(b"\xa9")).await;
    recording.finish().await.expect("ends");
    let all = place.shelf();
    let [one] = &all[..] else { panic!("{all:?}") };
    assert!(one.has_ended && one.operation == "op_1");
    let (decrypted, cast) = place.read(one);
    let events: Vec<_> = cast.lines().skip(1).map(|line| line.split_once(',').expect("an event").1).collect();
    let expected = ["\"o\",\"$ \"]", "\"i\",\"ls\\r\"]", "\"r\",\"100x50\"]", "\"o\",\"oh\"]", "\"o\",\"é\"]"];
    assert_eq!(events, expected);
    assert!(decrypted.is_whole);
    let told = place.told("recording").await;
    let [record] = &told[..] else { panic!("{told:?}") };
    assert_eq!((record.file.as_ref(), record.operation.as_deref()), (Some(&one.name), Some("op_1")));
    assert_eq!(record.digest, Some(decrypted.sha256.to_string()));
    assert!(record.ms.is_some() && record.detail.is_none());
}

#[tokio::test]
async fn one_that_is_dropped_ends_as_well() {
    let place = Place::new(1 << 20);
    let recording = place.begin("op_1").await;
    recording.put(output(b"x")).await;
    drop(recording);
    assert_eq!(place.told("recording").await.len(), 1);
    let all = place.shelf();
    assert!(all.len() == 1 && place.read(&all[0]).0.is_whole, "{all:?}");
}

#[tokio::test]
async fn at_its_bound_it_fails_and_the_log_says_so() {
    for (length, fits) in [(3000, true), (4000, false)] {
        let place = Place::new(4000);
        let recording = place.begin("op_1").await;
        recording.put(output(&vec![b'x'; length])).await;
        if fits {
            recording.finish().await.expect("ends");
            continue;
        }
        let failure = recording.failed().await;
        assert_eq!(failure.code, Code::NotRecorded);
        assert!(failure.message.contains("limit of 4000 bytes") && failure.next_step.contains("audit.recording_mib"));
        // what comes later is never let through
        let late = tokio::time::timeout(Duration::from_millis(50), async {
            loop {
                recording.put(output(&[b'y'; 64 << 10])).await;
            }
        });
        assert!(late.await.is_err());
        assert_eq!(recording.finish().await.expect_err("is not whole").code, Code::NotRecorded);
        let told = place.told("recording").await;
        assert!(told[0].detail.as_ref().is_some_and(|detail| detail.contains("limit")), "{told:?}");
    }
}

#[tokio::test]
async fn without_a_key_or_a_folder_nothing_is_begun() {
    let mut place = Place::new(1 << 20);
    std::fs::create_dir_all(place.log()).expect("makes");
    std::fs::write(place.log().join("recordings"), "").expect("writes");
    let begin = |settings: AuditSettings| {
        let recorder = place.recorder.clone();
        async move { Recording::begin(&settings, &recorder, "op_1", Header::default()).await.map(drop) }
    };
    assert_eq!(begin(place.settings.clone()).await.expect_err("no folder").code, Code::NotRecorded);
    place.settings.recording_key = None;
    let failure = begin(place.settings.clone()).await.expect_err("no key");
    assert!(failure.code == Code::NotRecorded && failure.next_step.contains("audit.recording_key"));
}

/// The one thread that may wait for the disk is taken, as by a disk that hangs.
#[test]
fn a_disk_that_hangs_ends_the_session_in_time() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.expect("a runtime").block_on(async {
        let place = Place::new(1 << 20);
        let recording = place.begin("op_1").await;
        place.recorder.record(Record::default()).await.expect("is open");
        let (go, hung) = std::sync::mpsc::channel::<()>();
        let disk = tokio::task::spawn_blocking(move || hung.recv());
        tokio::time::pause();
        // as much as may wait, and then no more
        recording.put(output(&[b'x'; QUEUED_MAX])).await;
        // time does not go on by itself while a thread is at work
        let late = async {
            tokio::time::advance(WITHIN + Duration::from_millis(1)).await;
            std::future::pending().await
        };
        let failure = tokio::select! {
            biased;
            () = recording.put(output(b"y")) => panic!("it was let through"),
            failure = recording.failed() => failure,
            () = late => panic!("it is pending"),
        };
        assert!(failure.code == Code::NotRecorded && failure.message.contains("disk"), "{failure}");
        tokio::time::resume();
        drop(go);
        disk.await.expect("joins").expect_err("is told by the end");
        assert!(recording.finish().await.is_err());
        // what had come by then is there
        assert_eq!(place.told("recording").await.len(), 1);
    });
}

#[tokio::test]
async fn what_a_killed_runner_left_is_told_at_the_next_start_and_what_another_writes_is_not() {
    let place = Place::new(1 << 20);
    place.recorder.give().await;
    let shelf = Shelf::of(&place.log());
    let to = place.key.recipient().expect("public");
    let begin = |operation: &str| shelf.begin(operation, to, &Header::default(), 1 << 20).expect("begins");
    let mut left = begin("op_left");
    left.put(Instant::now(), &output(b"$ ")).expect("records");
    left.flush().expect("writes");
    let path = left.path().to_owned();
    drop(left);
    // a test beside that starts a program has that hold every descriptor for a moment
    while std::fs::File::open(&path).expect("opens").try_lock().is_err() {
        std::thread::yield_now();
    }
    let _written = begin("op_written");
    let next = Place { recorder: Recorder::start(place.folder.path(), options(), false), ..place };
    next.recorder.record(Record::default()).await.expect("is open");
    let told = next.told("recording").await;
    let [record] = &told[..] else { panic!("{told:?}") };
    assert_eq!(record.operation.as_deref(), Some("op_left"));
    assert!(record.detail.as_ref().is_some_and(|detail| detail.contains("not whole")), "{record:?}");
    let all = next.shelf();
    let ended: Vec<_> = all.iter().map(|one| (one.operation.as_str(), one.has_ended)).collect();
    assert!(ended.contains(&("op_left", true)) && ended.contains(&("op_written", false)), "{ended:?}");
    let left = all.iter().find(|one| one.has_ended).expect("there");
    let (decrypted, cast) = next.read(left);
    assert!(!decrypted.is_whole && cast.contains("$ ") && record.digest == Some(decrypted.sha256.to_string()));
}

#[tokio::test]
async fn the_oldest_go_and_the_log_says_which() {
    let mut place = Place::new(1 << 20);
    for operation in ["op_1", "op_2", "op_3"] {
        let recording = place.begin(operation).await;
        recording.put(output(&[b'x'; 1000])).await;
        recording.finish().await.expect("ends");
    }
    // all three fit to the byte, and a byte less does not
    let total: u64 = place.shelf().iter().map(|one| one.bytes).sum();
    let names = |place: &Place| place.shelf().iter().map(|one| one.operation.clone()).collect::<Vec<_>>();
    let shelf = Shelf::of(&place.log());
    shelf.prune(total, |_| panic!("nothing has to go")).expect("prunes");
    assert_eq!(names(&place), ["op_1", "op_2", "op_3"]);
    place.settings.recordings_max = total;
    place.begin("op_4").await.finish().await.expect("ends");
    assert_eq!(names(&place), ["op_2", "op_3", "op_4"]);
    let told = place.told("recording_removed").await;
    let removed: Vec<_> = told.iter().map(|record| record.operation.as_deref()).collect();
    assert_eq!(removed, [Some("op_1")]);
}
