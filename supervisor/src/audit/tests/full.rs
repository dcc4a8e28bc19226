//! A disk that is full: what cannot be written refuses what it is about, or is counted.

use super::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::process::Command;

const HOW: &str = "AUDIT_TEST_FULL";
const ENDS: &str = "AUDIT_TEST_FULL_ENDS";

/// Writes until the disk is full, has room made, and looks at what the log says.
/// `dies`: another process goes on, which the full disk keeps from it for a while.
fn until_full(folder: &Path, on_failure: OnFailure, dies: bool, fill: impl FnOnce(&Path), make_room: impl FnOnce()) {
    let mut audit = open(folder, Options { on_failure, ..options() });
    write(&audit, decision(0));
    fill(folder);
    let (mut written, mut refused, mut lost) = (0, 0, 0);
    while refused + lost < 5 {
        let command = Some("x".repeat(1000));
        match audit.record_blocking(Record { command, ..decision(written) }, Wait::Written) {
            Ok(Receipt::Kept(..)) => written += 1,
            Ok(Receipt::Lost) => lost += 1,
            Err(AuditError::Write(..)) => refused += 1,
            Err(e) => panic!("{e}"),
        }
        assert!(written < 10_000, "the disk is never full");
    }
    // nobody waits for it: it is lost, whatever the policy
    audit.note(Record { command: Some("x".repeat(4000)), kind: Kind::End, ..decision(0) });
    while audit.health().lost + audit.health().refused < 6 {
        std::thread::yield_now();
    }
    let (lost, refused) = (lost + 1, refused);
    let health = audit.health();
    assert_eq!((health.lost, health.refused), (lost, refused));
    assert!(health.last_error.is_some());
    assert_eq!((lost, refused), if on_failure == OnFailure::Open { (6, 0) } else { (1, 5) });
    if dies {
        // not one byte more, that it is told at its end
        limit_files(std::fs::metadata(file(folder, 1)).expect("there").len());
        drop(audit);
        loop {
            match Audit::open(folder, Options { on_failure, ..options() }) {
                Err(AuditError::Held(_)) => std::thread::yield_now(),
                Err(AuditError::Write(..)) => break,
                other => panic!("{other:?}"),
            }
        }
        make_room();
        audit = open(folder, Options { on_failure, ..options() });
    } else {
        make_room();
    }
    let point = write(&audit, decision(1));
    close(&audit);
    let report = check(folder, Against { expected: Some(point), ..Against::default() });
    assert!(report.is_good() && report.expected_found, "{report}");
    let told = report.notes.iter().filter_map(|n| match n.what {
        Noted::Missing { lost, refused, .. } => Some((n.seq, lost, refused)),
        _ => None,
    });
    // right before the next one
    assert_eq!(told.collect::<Vec<_>>(), [(point.seq - 1, lost, refused)], "{report}");
}

/// How large a file of this process may become, bytes.
fn limit_files(bytes: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("gets");
    setrlimit(Resource::RLIMIT_FSIZE, bytes.min(hard), hard).expect("sets");
}

/// In a process of its own, as the limit is a process's.
#[test]
#[ignore = "is started by a_full_disk_refuses_or_is_counted"]
fn child() {
    let Some(how) = std::env::var_os(HOW) else { return };
    let on_failure = if how == "open" { OnFailure::Open } else { OnFailure::Closed };
    let folder = super::folder();
    let fill = |folder: &Path| {
        let length = std::fs::metadata(file(folder, 1)).expect("there").len();
        // not at the end of a record
        limit_files(length + 10_007);
    };
    until_full(folder.path(), on_failure, how_it_ends() == "dies", fill, || limit_files(u64::MAX));
}

fn how_it_ends() -> String {
    std::env::var(ENDS).unwrap_or_default()
}

#[test]
fn a_full_disk_refuses_or_is_counted() {
    let test = module_path!().split_once("::").expect("a path").1;
    for (how, ends) in [("open", "lives"), ("closed", "lives"), ("open", "dies"), ("closed", "dies")] {
        // the signal that goes with the limit must not end it
        let done = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
            .arg(std::env::current_exe().expect("a path"))
            .args(["--exact", &format!("{test}::child"), "--ignored", "--nocapture", "--test-threads=1"])
            .env(HOW, how)
            .env(ENDS, ends)
            .output()
            .expect("runs");
        let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success() && out.contains("1 passed"), "{how}: {out}{error}");
    }
}

#[test]
fn a_small_file_system_that_is_full() {
    for on_failure in [OnFailure::Open, OnFailure::Closed] {
        let folder = super::folder();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(folder.path()).output();
        if !mount.as_ref().is_ok_and(|m| m.status.success()) {
            println!("skipped: no file system can be mounted here: {mount:?}");
            return;
        }
        let ballast = folder.path().join("ballast");
        let fill = |_: &Path| {
            use std::io::Write as _;
            let mut file = std::fs::File::create(&ballast).expect("makes");
            while file.write_all(&[1; 4096]).is_ok() {}
        };
        let log = folder.path().join("audit");
        let done = std::panic::catch_unwind(|| {
            until_full(&log, on_failure, false, fill, || std::fs::remove_file(&ballast).expect("removes"));
        });
        let unmount = Command::new("umount").arg("-l").arg(folder.path()).status();
        assert!(done.is_ok() && unmount.is_ok_and(|s| s.success()), "{on_failure:?}");
    }
}
