//! A job's life as the changes that it makes on the disk, and every disk that a power cut may leave of them: what was not waited for is lost,
//! torn at any byte or lost by sectors, names that were not waited for are there or not. The changes are recorded from the room's own
//! code; docs/spool.md says what must hold.

use super::super::durable::record::{self, Change};
use super::super::folder::{Ending, Folder, Marker, Step, Store};
use super::super::identity::ProcessIdentity;
use super::super::job::{is_untouched, may_have_begun};
use super::super::spool::{self, Events};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use shared_proto::failure::Code;
use shared_proto::spool::{SpoolFile, Writer};
use shared_proto::v1::event::Body;
use shared_proto::v1::{self, Event};
use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What the rest of the world knows from some point of the recording on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fact {
    /// The control plane was told that the request is on the disk.
    Accepted,
    /// A worker was told what to do.
    Told(Step),
    /// The worker went on because so many events were on the disk.
    Durable(u64),
    /// The control plane has so many events.
    Acknowledged(u64),
    /// The job has its end on the disk.
    Ended,
}

#[derive(Debug, Clone)]
enum Entry {
    Did(Change),
    Known(Fact),
}

// === the recording ===

/// A spool's file whose changes are noted.
#[derive(Debug)]
struct Noted {
    path: PathBuf,
    file: File,
}

impl Read for Noted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}
impl Seek for Noted {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
impl Write for Noted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let at = self.file.stream_position()?;
        let written = self.file.write(bytes)?;
        record::note(Change::Write(self.path.clone(), at, bytes[..written].to_owned()));
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
impl SpoolFile for Noted {
    fn again(&self) -> io::Result<Self> {
        Ok(Self { path: self.path.clone(), file: self.file.try_clone()? })
    }
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
    fn cut(&self, length: u64) -> io::Result<()> {
        record::note(Change::Cut(self.path.clone(), length));
        self.file.set_len(length)
    }
    fn sync(&self) -> io::Result<()> {
        record::note(Change::SyncFile(self.path.clone()));
        Ok(())
    }
}

/// Opens the spool as a worker's journal does.
fn open(folder: &Folder) -> Writer<Noted> {
    let path = folder.work().join("events");
    let is_new = !path.exists();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).expect("opens");
    if is_new {
        record::note(Change::File(path.clone()));
    }
    let (writer, _) = Writer::open(Noted { path, file }).expect("a spool");
    record::note(Change::SyncFolder(folder.work()));
    writer
}

struct Recording {
    entries: Vec<Entry>,
}

impl Recording {
    fn took(&mut self) {
        self.entries.extend(record::take().into_iter().map(Entry::Did));
    }
    fn knows(&mut self, fact: Fact) {
        self.took();
        self.entries.push(Entry::Known(fact));
    }
    fn append(&mut self, writer: &mut Writer<Noted>, body: Body, waits: bool) {
        let sequence = writer.next_sequence();
        let event = Event { sequence, time_ms: 1, engine_read: None, body: Some(body) };
        writer.append(&event.encode_to_vec()).expect("appends");
        if waits {
            writer.sync().expect("syncs");
            self.knows(Fact::Durable(sequence));
        }
    }
}

fn phase(name: &str) -> Body {
    Body::PhaseChanged(v1::PhaseChanged { phase: name.into(), ..Default::default() })
}
fn line(text: &str) -> Body {
    Body::OutputLine(v1::OutputLine { stream: "engine".into(), text: text.into() })
}
fn result() -> Body {
    Body::Result(v1::JobResult { phase: "applied".into(), code: "ok".into(), ..Default::default() })
}
fn ending() -> Ending {
    Ending {
        sequence: 7,
        time_ms: 1,
        phase: "lost".into(),
        code: "job_lost".into(),
        message: "it is gone".into(),
        next_step: "Look.".into(),
        rescued_state: String::new(),
        nothing_left: false,
        lock: None,
    }
}

/// A job from its assignment to its end, by the code that does it. `by_itself`: whether it has an end of its own.
fn life(root: &Path, process: &ProcessIdentity, by_itself: bool) -> (Vec<Entry>, Folder) {
    record::take();
    let mut recording = Recording { entries: Vec::new() };
    let store = Store::open(root).expect("opens");
    let request = v1::JobRequest { format: 1, job_id: "j1".into(), ..Default::default() }.encode_to_vec();
    let assignment = v1::Assignment {
        job_id: "j1".into(),
        fencing_token: 3,
        request_sha256: Sha256::digest(&request).to_vec(),
        request,
        state_instance: String::new(),
        seal: vec![7; 32],
    };
    let folder = store.create(&assignment, "i1").expect("creates");
    recording.knows(Fact::Accepted);
    let mut assigned = folder.assigned().expect("reads");
    assigned.accepted = true;
    folder.assign(&assigned).expect("writes");
    for step in [Step::Plan, Step::Apply] {
        let mut marker = Marker { plan_sha256: "00".into(), told: Some(false), ..Marker::default() };
        folder.mark(step, &marker).expect("writes");
        marker.process = Some(process.clone());
        folder.mark(step, &marker).expect("writes");
        marker.told = Some(true);
        folder.mark(step, &marker).expect("writes");
        recording.knows(Fact::Told(step));
        let mut writer = open(&folder);
        if step == Step::Plan {
            recording.append(&mut writer, phase("preparing"), true);
            recording.append(&mut writer, line("some words"), false);
            recording.append(&mut writer, line(&"x".repeat(700)), false);
            // taken by the control plane before it is on the disk here
            recording.knows(Fact::Acknowledged(2));
            folder.acknowledge(2).expect("writes");
            recording.append(&mut writer, phase("awaiting_approval"), true);
            recording.knows(Fact::Acknowledged(4));
            folder.acknowledge(4).expect("writes");
        } else {
            recording.append(&mut writer, phase("applying"), true);
            recording.append(&mut writer, line("more words"), false);
            if by_itself {
                recording.append(&mut writer, result(), true);
                recording.knows(Fact::Ended);
            } else {
                folder.end(&ending()).expect("writes");
                recording.knows(Fact::Ended);
            }
        }
        assigned.phase = "another".into();
        folder.assign(&assigned).expect("writes");
    }
    recording.knows(Fact::Acknowledged(7));
    folder.acknowledge(7).expect("writes");
    recording.took();
    (recording.entries, folder)
}

// === the disk ===

#[derive(Debug, Clone)]
enum Node {
    File { kept: Vec<u8>, now: Vec<u8>, pending: Vec<(u64, Vec<u8>, Option<u64>)> },
    Folder { kept: BTreeMap<String, usize>, now: BTreeMap<String, usize>, pending: Vec<Name> },
}

#[derive(Debug, Clone)]
enum Name {
    Set(String, usize),
    Move(String, String, usize),
}

#[derive(Debug, Clone)]
struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
}

/// What a power cut left of one file or folder.
type Left = BTreeMap<usize, Node>;

impl Disk {
    fn new(root: &Path) -> Self {
        let (kept, now) = (BTreeMap::new(), BTreeMap::new());
        Self { root: root.to_owned(), nodes: vec![Node::Folder { kept, now, pending: Vec::new() }] }
    }
    fn find(&self, path: &Path) -> Option<usize> {
        path.strip_prefix(&self.root).expect("inside").iter().try_fold(0, |at, name| match &self.nodes[at] {
            Node::Folder { now, .. } => now.get(name.to_str()?).copied(),
            Node::File { .. } => None,
        })
    }
    fn name(path: &Path) -> String {
        path.file_name().and_then(|n| n.to_str()).expect("a name").to_owned()
    }
    fn put(&mut self, path: &Path, node: Node) {
        self.nodes.push(node);
        let (id, name) = (self.nodes.len() - 1, Self::name(path));
        let parent = self.find(path.parent().expect("a parent")).expect("is there");
        let Node::Folder { now, pending, .. } = &mut self.nodes[parent] else { panic!("a folder") };
        now.insert(name.clone(), id);
        pending.push(Name::Set(name, id));
    }
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Folder(path) => {
                if self.find(path).is_none() {
                    let (kept, now) = (BTreeMap::new(), BTreeMap::new());
                    self.put(path, Node::Folder { kept, now, pending: Vec::new() });
                }
            }
            Change::File(path) => {
                self.put(path, Node::File { kept: Vec::new(), now: Vec::new(), pending: Vec::new() });
            }
            Change::Write(path, at, bytes) => self.write(path, *at, bytes.clone(), None),
            Change::Cut(path, length) => self.write(path, 0, Vec::new(), Some(*length)),
            Change::Rename(from, to) => {
                let parent = self.find(from.parent().expect("a parent"));
                let (from, to) = (Self::name(from), Self::name(to));
                let Node::Folder { now, pending, .. } = &mut self.nodes[parent.expect("is there")] else {
                    panic!("a folder")
                };
                let id = now.remove(&from).expect("is there");
                now.insert(to.clone(), id);
                pending.push(Name::Move(from, to, id));
            }
            Change::SyncFile(path) | Change::SyncFolder(path) => {
                let id = self.find(path).expect("is there");
                match &mut self.nodes[id] {
                    Node::File { kept, now, pending } => {
                        kept.clone_from(now);
                        pending.clear();
                    }
                    Node::Folder { kept, now, pending } => {
                        kept.clone_from(now);
                        pending.clear();
                    }
                }
            }
        }
    }
    fn write(&mut self, path: &Path, at: u64, bytes: Vec<u8>, cut: Option<u64>) {
        let id = self.find(path).expect("is there");
        let Node::File { now, pending, .. } = &mut self.nodes[id] else { panic!("a file") };
        pending.push((at, bytes, cut));
        let (at, bytes, cut) = &pending[pending.len() - 1];
        put(now, *at, bytes, *cut);
    }

    /// Everything that the disk may be now after a power cut: for each file and folder what it may be, the others as kept or as they are.
    fn states(&self) -> Vec<Left> {
        let mut states = Vec::new();
        for others in [false, true] {
            let base: Left = (0..self.nodes.len()).map(|id| (id, self.extreme(id, others))).collect();
            for id in 0..self.nodes.len() {
                for node in self.variants(id) {
                    let mut state = base.clone();
                    state.insert(id, node);
                    states.push(state);
                }
            }
            states.push(base);
        }
        // and each set of names with contents that came late, or early
        let folders: Vec<usize> =
            (0..self.nodes.len()).filter(|id| matches!(&self.nodes[*id], Node::Folder { .. })).collect();
        for contents in [false, true] {
            let mut all: Vec<Left> = vec![(0..self.nodes.len()).map(|id| (id, self.extreme(id, contents))).collect()];
            for id in &folders {
                let variants = self.variants(*id);
                all = all
                    .iter()
                    .flat_map(|state| {
                        let each = variants.iter().map(|node| {
                            let mut state = state.clone();
                            state.insert(*id, node.clone());
                            state
                        });
                        each.chain([state.clone()]).collect::<Vec<_>>()
                    })
                    .collect();
            }
            states.extend(all);
        }
        states
    }
    fn extreme(&self, id: usize, all: bool) -> Node {
        let mut node = self.nodes[id].clone();
        match &mut node {
            Node::File { kept, now, .. } if all => kept.clone_from(now),
            Node::Folder { kept, now, .. } if all => kept.clone_from(now),
            _ => {}
        }
        node
    }
    fn variants(&self, id: usize) -> Vec<Node> {
        match &self.nodes[id] {
            Node::Folder { kept, pending, .. } => {
                assert!(pending.len() <= 8, "names that were never waited for: {pending:?}");
                let sets = 1_u32..1 << pending.len();
                let of = |set: u32| {
                    let mut names = kept.clone();
                    for name in pending.iter().enumerate().filter(|(n, _)| set & 1 << n != 0).map(|(_, name)| name) {
                        match name {
                            Name::Set(name, id) => drop(names.insert(name.clone(), *id)),
                            Name::Move(from, to, id) => {
                                if names.get(from) == Some(id) {
                                    names.remove(from);
                                }
                                names.insert(to.clone(), *id);
                            }
                        }
                    }
                    Node::Folder { now: names.clone(), kept: names, pending: Vec::new() }
                };
                sets.map(of).collect()
            }
            Node::File { kept, pending, now } => {
                let mut contents = Vec::new();
                let mut before = kept.clone();
                for (at, bytes, cut) in pending {
                    for length in 0..=bytes.len() {
                        let mut content = before.clone();
                        put(&mut content, *at, &bytes[..length], *cut);
                        contents.push(content);
                    }
                    put(&mut before, *at, bytes, *cut);
                }
                // the file has grown, and some of its sectors are as they were
                let changed: Vec<usize> = (0..now.len().div_ceil(512))
                    .filter(|n| {
                        let range = n * 512..now.len().min((n + 1) * 512);
                        kept.get(range.clone()) != Some(&now[range])
                    })
                    .collect();
                for lost in 1_u32..1 << changed.len().min(8) {
                    let mut content = now.clone();
                    for sector in
                        changed.iter().enumerate().filter(|(n, _)| lost & 1 << n != 0).map(|(_, sector)| sector)
                    {
                        let start = sector * 512;
                        let end = now.len().min(start + 512);
                        for (n, byte) in content[start..end].iter_mut().enumerate() {
                            *byte = kept.get(start + n).copied().unwrap_or(0);
                        }
                    }
                    contents.push(content);
                }
                contents.sort();
                contents.dedup();
                let node = |kept: Vec<u8>| Node::File { now: kept.clone(), kept, pending: Vec::new() };
                contents.into_iter().map(node).collect()
            }
        }
    }
}

fn put(content: &mut Vec<u8>, at: u64, bytes: &[u8], cut: Option<u64>) {
    if let Some(length) = cut {
        content.truncate(length as usize);
    }
    let at = at as usize;
    content.resize(content.len().max(at + bytes.len()), 0);
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Makes a disk of it.
fn make(state: &Left, id: usize, path: &Path) {
    match &state[&id] {
        Node::File { kept, .. } => std::fs::write(path, kept).expect("writes"),
        Node::Folder { kept, .. } => {
            std::fs::create_dir_all(path).expect("makes");
            for (name, id) in kept {
                make(state, *id, &path.join(name));
            }
        }
    }
}

/// What of it can be seen.
fn shape(state: &Left, id: usize, into: &mut Vec<u8>) {
    match &state[&id] {
        Node::File { kept, .. } => {
            into.extend_from_slice(&(kept.len() as u64).to_le_bytes());
            into.extend_from_slice(kept);
        }
        Node::Folder { kept, .. } => {
            into.push(b'{');
            for (name, id) in kept {
                into.extend_from_slice(name.as_bytes());
                into.push(0);
                shape(state, *id, into);
            }
            into.push(b'}');
        }
    }
}

// === what must hold ===

fn starts(folder: &Folder, step: Step) -> bool {
    let tip = spool::tip(folder).unwrap_or_else(|damage| damage.1);
    match folder.marker(step) {
        Ok(None) => true,
        Ok(Some(marker)) => !may_have_begun(&marker) && is_untouched(step, &tip),
        Err(_) => false,
    }
}

/// Goes on with such a disk as a new supervisor does.
fn check(root: &Path, known: &[Fact], whole: &[Event]) {
    let store = Store::open(root).expect("opens");
    store.sweep();
    let folders = store.list().expect("lists");
    let Some(folder) = folders.first() else {
        assert!(known.is_empty(), "the job is gone, and {known:?}");
        return;
    };
    let assigned = folder.assigned().expect("an assignment is whole or not there");
    assert_eq!((assigned.fencing_token, assigned.instance_id.as_str()), (3, "i1"));
    folder.request(&assigned).expect("a request is whole or not there");
    let tip = spool::tip(folder).map_err(|damage| damage.0).expect("a spool can be read on after a power cut");
    let mut events = Events::new(folder);
    for event in whole.iter().take(tip.last as usize) {
        assert_eq!(events.next().expect("reads").as_ref(), Some(event));
    }
    let (mut has, mut told) = (0, Vec::new());
    for fact in known {
        match fact {
            Fact::Told(step) => told.push(*step),
            Fact::Durable(sequence) => assert!(tip.last >= *sequence, "{} of {sequence} events", tip.last),
            Fact::Acknowledged(sequence) => has = *sequence,
            Fact::Ended => assert!(tip.ended || folder.ending().expect("reads").is_some(), "it has lost its end"),
            Fact::Accepted => {}
        }
    }
    for step in told {
        assert!(!starts(folder, step), "{step:?} would be started a second time");
    }
    assert!(folder.acknowledged() <= has, "{} would not be sent", folder.acknowledged());
    // and whoever appends to it goes on after what is there
    let path = folder.work().join("events");
    if path.exists() {
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("opens");
        let (mut writer, _) = Writer::open(file).expect("a spool that can be gone on with");
        assert_eq!(writer.next_sequence(), tip.last + 1);
        let next = Event { sequence: tip.last + 1, time_ms: 2, engine_read: None, body: Some(line("after")) };
        writer.append(&next.encode_to_vec()).expect("appends");
        assert!(spool::tip(folder).is_ok_and(|after| after.last == tip.last + 1 || tip.ended));
    }
}

/// Memory, where there is some: thousands of small folders.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

fn before_this_boot() -> ProcessIdentity {
    ProcessIdentity { pid: 4_000_000, start_time: 1, boot_id: "before".into(), unique: None, container: String::new() }
}
/// It has died, and the machine goes on.
fn of_this_boot() -> ProcessIdentity {
    let own = ProcessIdentity::of(i32::try_from(std::process::id()).expect("a pid")).expect("is there");
    ProcessIdentity { start_time: own.start_time + 1, ..own }
}

fn all_events(folder: &Folder) -> Vec<Event> {
    let mut events = Events::new(folder);
    std::iter::from_fn(|| events.next().expect("reads")).collect()
}

#[test]
fn every_disk_that_a_power_cut_may_leave_is_gone_on_with() {
    let mut states = 0;
    for (process, by_itself) in [(before_this_boot(), true), (of_this_boot(), true), (before_this_boot(), false)] {
        let place = scratch();
        let root = place.path().join("state");
        std::fs::create_dir(&root).expect("makes");
        let (entries, folder) = life(&root, &process, by_itself);
        let whole = all_events(&folder);
        assert_eq!(whole.len(), if by_itself { 7 } else { 6 });
        let (mut disk, mut known) = (Disk::new(&root), Vec::new());
        // the same disk is looked at once with what is known
        let mut seen = HashSet::new();
        for (n, entry) in entries.iter().enumerate() {
            match entry {
                Entry::Did(change) => disk.apply(change),
                Entry::Known(fact) => {
                    known.push(*fact);
                    seen.clear();
                }
            }
            for (m, state) in disk.states().into_iter().enumerate() {
                let mut bytes = Vec::new();
                shape(&state, 0, &mut bytes);
                if !seen.insert(Sha256::digest(&bytes)) {
                    continue;
                }
                let at = place.path().join(format!("{n}-{m}"));
                make(&state, 0, &at);
                let checked = std::panic::catch_unwind(|| check(&at, &known, &whole));
                assert!(checked.is_ok(), "after entry {n}, state {m}: {known:?}");
                std::fs::remove_dir_all(&at).expect("removes");
                states += 1;
            }
        }
    }
    println!("{states} disks");
    assert!(states > 3000, "{states}");
}

/// The recording itself: without one of its waits some disk loses what must not be lost.
#[test]
fn without_any_one_of_the_waits_something_would_be_lost() {
    let place = scratch();
    let root = place.path().join("state");
    std::fs::create_dir(&root).expect("makes");
    let (entries, folder) = life(&root, &before_this_boot(), true);
    let whole = all_events(&folder);
    // the waits for the files and folders of these names, each of them left out in its turn everywhere
    for left_out in ["request.bin", "assignment.json.new", "own", ".new-j1", "jobs", "events", "work", "state"] {
        let (mut disk, mut known) = (Disk::new(&root), Vec::new());
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let found = entries.iter().enumerate().any(|(n, entry)| {
            match entry {
                Entry::Did(Change::SyncFile(path) | Change::SyncFolder(path)) if Disk::name(path) == left_out => {}
                Entry::Did(change) => disk.apply(change),
                Entry::Known(fact) => known.push(*fact),
            }
            // with more and more names that nobody waited for, the two ends are enough
            let ends = [false, true].map(|all| (0..disk.nodes.len()).map(|id| (id, disk.extreme(id, all))).collect());
            let content_late = (0..disk.nodes.len())
                .map(|id| (id, disk.extreme(id, matches!(&disk.nodes[id], Node::Folder { .. }))))
                .collect::<Left>();
            ends.into_iter().chain([content_late]).enumerate().any(|(m, state): (usize, Left)| {
                let at = place.path().join(format!("{n}-{m}"));
                make(&state, 0, &at);
                let broken = std::panic::catch_unwind(|| check(&at, &known, &whole)).is_err();
                std::fs::remove_dir_all(&at).expect("removes");
                broken
            })
        });
        std::panic::set_hook(hook);
        assert!(found, "nothing is lost without waiting for {left_out}");
    }
}

#[test]
fn flipped_and_torn_bytes_at_every_offset_of_a_small_spool() {
    let place = scratch();
    let root = place.path().join("state");
    std::fs::create_dir(&root).expect("makes");
    let (_, folder) = life(&root, &before_this_boot(), true);
    folder.end(&ending()).expect("writes");
    let whole = all_events(&folder);
    let assigned = folder.assigned().expect("reads");
    let request = folder.request(&assigned).expect("reads");
    let markers = [Step::Plan, Step::Apply].map(|step| folder.marker(step).expect("reads").expect("is there"));
    let (acknowledged, ended) = (folder.acknowledged(), folder.ending().expect("reads"));
    let mut tried = 0;
    let mut look = |path: &Path, bad: &[u8]| {
        std::fs::write(path, bad).expect("writes");
        let named = |code: Code| assert!(matches!(code, Code::SpoolDamaged | Code::UnsupportedVersion), "{code}");
        match folder.assigned() {
            Ok(read) => {
                assert_eq!(read, assigned);
                match folder.request(&read) {
                    Ok(read) => assert_eq!(read, request),
                    Err(e) => named(e.code),
                }
            }
            Err(e) => named(e.code),
        }
        for (step, marker) in [Step::Plan, Step::Apply].into_iter().zip(&markers) {
            let read = folder.marker(step).expect("is told as damaged").expect("is there");
            assert_eq!(Marker { damaged: false, ..read.clone() }, *marker, "its process is known by the copy");
            assert!(!starts(&folder, step), "{step:?} would be started a second time");
        }
        assert!([0, acknowledged].contains(&folder.acknowledged()));
        assert!(folder.ending().is_err() || folder.ending().is_ok_and(|read| read == ended));
        let mut events = Events::new(&folder);
        let mut read = Vec::new();
        loop {
            match events.next() {
                Ok(Some(event)) => read.push(event),
                Ok(None) => break,
                Err(e) => {
                    named(e.code);
                    break;
                }
            }
        }
        assert!(whole.starts_with(&read), "{read:?}");
        tried += 1;
    };
    for name in [
        "own/request.bin",
        "own/assignment.json",
        "own/started-plan",
        "own/started-apply",
        "own/started-plan.copy",
        "own/started-apply.copy",
        "own/acknowledged",
        "own/result.json",
        "work/events",
    ] {
        let path = root.join("jobs/j1").join(name);
        let good = std::fs::read(&path).expect("reads");
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                look(&path, &bad);
            }
            look(&path, &good[..at]);
        }
        std::fs::write(&path, &good).expect("writes");
    }
    println!("{tried} spools");
    assert!(tried > 9000, "{tried}");
}
