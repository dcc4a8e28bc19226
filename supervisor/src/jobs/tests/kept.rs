//! Jobs' folders as earlier versions have written them, each below its commit in `supervisor/kept/`: today's code goes on with them.
//! How they are made, and how those of a new version are added, is in docs/spool.md.

use super::plane::{Host, Plane, wait_for};
use crate::jobs::folder::{Assigned, Store};
use prost::Message as _;
use shared_proto::spool::{Reader, Writer};
use shared_proto::v1::event::Body;
use shared_proto::v1::work_item::Kind;
use shared_proto::v1::{Discard, Event, JobRelease};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// One version's jobs, by their stacks' names, on a host of their own.
struct Kept {
    commit: String,
    jobs: BTreeMap<String, Assigned>,
    host: Host,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes");
    for entry in std::fs::read_dir(from).expect("reads").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).expect("copies");
        }
    }
}

fn versions() -> Vec<PathBuf> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("kept");
    let mut all: Vec<_> = std::fs::read_dir(kept).expect("reads").flatten().map(|entry| entry.path()).collect();
    all.sort();
    assert!(all.len() >= 2, "{all:?}");
    all
}

// === impl Kept ===

impl Kept {
    fn of(version: &Path) -> Self {
        let mut host = Host::bare();
        copy(version, &host.state_dir().join("jobs"));
        let store = Store::open(host.state_dir()).expect("opens");
        let mut jobs = BTreeMap::new();
        for folder in store.list().expect("lists") {
            let assigned = folder.assigned().expect("reads");
            let request = folder.request(&assigned).expect("reads");
            host.instance.clone_from(&assigned.instance_id);
            jobs.insert(request.stack_name, assigned);
        }
        assert_eq!(jobs.keys().collect::<Vec<_>>(), ["dies", "ends", "waits"]);
        let commit = version.file_name().expect("a name").to_string_lossy().into_owned();
        Self { commit, jobs, host }
    }
    fn id(&self, stack: &str) -> &str {
        &self.jobs[stack].job_id
    }
    fn release(&self, stack: &str) -> Kind {
        let Assigned { job_id, fencing_token, .. } = self.jobs[stack].clone();
        Kind::Release(JobRelease { job_id, fencing_token })
    }
}

/// The job's end, as phase and code.
fn end(plane: &Plane, id: &str) -> (String, String) {
    wait_for("the end", || plane.result(id).is_some());
    let numbers: Vec<_> = plane.events(id).iter().map(|e| e.sequence).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{id}");
    plane.result(id).map(|result| (result.phase, result.code)).expect("a result")
}

#[test]
fn folders_of_earlier_versions_are_gone_on_with() {
    for version in versions() {
        let kept = Kept::of(&version);
        let (plane, of) = (Plane::default(), &kept.commit);
        let supervisor = kept.host.supervisor(&plane);
        // what has ended and was not told is told
        assert_eq!(end(&plane, kept.id("ends")), ("applied".into(), "ok".into()), "{of}");
        assert_eq!(plane.starts(kept.id("ends")), (1, 1), "{of}");
        // what died is lost, and is not started again
        let dies = kept.id("dies");
        assert_eq!(end(&plane, dies), ("lost".into(), "job_lost".into()), "{of}");
        assert_eq!(plane.starts(dies), (1, 1), "{of}");
        let message = plane.result(dies).expect("a result").message;
        assert!(message.contains("time_sleep.wait"), "{of}: {message}");
        // what waits, waits, and can be decided on
        let waits = kept.id("waits");
        wait_for("the plan", || {
            supervisor.summary().iter().any(|job| job.job_id == waits && job.phase == "awaiting_approval")
        });
        let Assigned { job_id, fencing_token, .. } = kept.jobs["waits"].clone();
        plane.tell_when_open(Kind::Discard(Discard { job_id, fencing_token, by: "somebody".into() }));
        assert_eq!(end(&plane, waits), ("discarded".into(), "ok".into()), "{of}");
        assert_eq!(plane.starts(waits), (1, 0), "{of}");
        assert!(plane.text(waits).contains("PlanSaved"), "{of}");
        for stack in kept.jobs.keys() {
            plane.tell(kept.release(stack));
            wait_for("the release", || !kept.host.folder(kept.id(stack)).exists());
        }
        wait_for("nothing held", || supervisor.summary().is_empty());
    }
}

/// Leaves what was told before a job applied: as somebody who runs in it can.
fn cut_before_applying(events: &Path) {
    let mut reader = Reader::new(File::open(events).expect("opens")).expect("reads");
    let mut before = Vec::new();
    while let Some(record) = reader.read().expect("reads") {
        let event = Event::decode(record.content.as_slice()).expect("an event");
        if matches!(&event.body, Some(Body::PhaseChanged(changed)) if changed.phase == "applying") {
            break;
        }
        before.push(record.content);
    }
    std::fs::remove_file(events).expect("removes");
    let file = File::options().read(true).write(true).create_new(true).open(events).expect("opens");
    let mut writer = Writer::open(file).expect("opens").0;
    for content in before {
        writer.append(&content).expect("appends");
    }
    writer.sync().expect("waits");
}

#[test]
fn what_an_earlier_version_may_have_told_to_apply_is_not_told_again() {
    for version in versions() {
        let kept = Kept::of(&version);
        let id = kept.id("dies");
        for other in ["ends", "waits"] {
            std::fs::remove_dir_all(kept.host.folder(kept.id(other))).expect("removes");
        }
        // all of it is dead since this very boot, and what is left of its events says that it was never begun
        cut_before_applying(&kept.host.folder(id).join("work/events"));
        let _ = std::fs::remove_file(kept.host.folder(id).join("own/acknowledged"));
        let path = kept.host.folder(id).join("own/started-apply");
        let mut marker: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("a marker");
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("reads");
        marker["process"]["boot_id"] = boot.trim().into();
        marker["process"]["start_time"] = 1.into();
        marker.as_object_mut().expect("an object").remove("crc32c");
        std::fs::write(&path, marker.to_string()).expect("writes");
        let plane = Plane::default();
        plane.update(|p| p.no_worker = true);
        let _supervisor = kept.host.supervisor(&plane);
        assert_eq!(end(&plane, id), ("lost".into(), "job_lost".into()), "{}", kept.commit);
        assert_eq!(plane.starts(id), (1, 0), "{}", kept.commit);
    }
}
