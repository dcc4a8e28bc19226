//! Tests of the log as a whole.

mod collector;
mod crash;
mod damage;
mod full;
mod life;
mod measure;
mod outsider;
mod reading;
mod recording;

use super::*;
use std::future::Future;
use std::path::{Path, PathBuf};

/// Options whose seals come by number alone.
fn options() -> Options {
    Options { version: "1.2.3".to_owned(), ..Options::new("runner-1", "instance-1") }
}

fn open(folder: &Path, options: Options) -> Audit {
    opens(folder, options).0
}

fn opens(folder: &Path, options: Options) -> (Audit, Found) {
    tries(folder, options).expect("opens")
}

/// A test beside that starts a program has that hold every descriptor for a moment, the lock of a log that was closed as well.
fn tries(folder: &Path, options: Options) -> Result<(Audit, Found), AuditError> {
    loop {
        match Audit::open(folder, options.clone()) {
            Err(AuditError::Held(_)) => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

/// A folder in memory where there is one: most tests wait for the disk a thousand times, and ask nothing of it.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).expect("a folder")
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn close(audit: &Audit) {
    wait(audit.close()).expect("closes");
}

/// A decision as it comes, of about 600 bytes in the log.
fn decision(n: u64) -> Record {
    let is = |text: &str| Some(text.to_owned());
    Record {
        operation: Some(format!("op-{n:012}")),
        user: is("u-4711"),
        user_name: is("anna@example.com"),
        groups: vec!["platform".to_owned()],
        action: is("list"),
        verb: is("list"),
        resource: is("pods"),
        namespace: is("shop"),
        connection: is("prod"),
        provider: is("kubernetes"),
        decision: Some(Decision::Allow),
        rule: is("read-only"),
        ..Record::default()
    }
}

fn write(audit: &Audit, record: Record) -> Point {
    match audit.record_blocking(record, Wait::Written).expect("records") {
        Receipt::Kept(point, _) => point,
        Receipt::Lost => panic!("lost"),
    }
}

fn check(folder: &Path, against: Against) -> Report {
    verify(&Target::Folder(folder.to_owned()), against).expect("verifies")
}

fn good(folder: &Path) -> Report {
    let report = check(folder, Against::default());
    assert!(report.is_good(), "{report}");
    report
}

fn file(folder: &Path, number: u64) -> PathBuf {
    files::path_of(folder, number)
}

/// A log in one file, with that many records in it at least, closed.
fn log_of(folder: &Path, records: u64) -> PublicKey {
    let audit = open(folder, Options { seal_records: 10, ..options() });
    let mut n = 0;
    while audit.head().seq + 2 < records {
        write(&audit, decision(n));
        n += 1;
    }
    close(&audit);
    audit.public_key()
}
