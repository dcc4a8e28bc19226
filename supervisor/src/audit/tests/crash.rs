//! A process that records is killed at any moment, a hundred times: what it was told is written is in the log, and the log is good.

use super::*;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};

const FOLDER: &str = "AUDIT_TEST_FOLDER";
const ROUNDS: u32 = 100;

fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

/// What the rounds kill.
#[test]
#[ignore = "is started by a_process_killed_at_any_moment_leaves_a_good_log"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let keep = Keep { files: Some(8), bytes: None };
    let options = Options { file_max: 512 << 10, keep, ..options() };
    let audit = open(Path::new(&folder), options);
    std::thread::scope(|scope| {
        // much at once, for a kill to come in the middle of
        scope.spawn(|| {
            for n in 0.. {
                while audit.health().waiting > 200 {
                    std::thread::yield_now();
                }
                audit.note(Record { command: Some("y".repeat(COMMAND_MAX)), kind: Kind::End, ..decision(n) });
            }
        });
        for thread in 0..3_u64 {
            let audit = &audit;
            scope.spawn(move || {
                for n in 0.. {
                    let command = Some("x".repeat((n * 37 % 4096) as usize));
                    let how = if (n + thread) % 16 == 0 { Wait::Disk } else { Wait::Written };
                    let receipt = audit.record_blocking(Record { command, ..decision(n) }, how).expect("records");
                    let Receipt::Kept(point, _) = receipt else { panic!("lost") };
                    let line = format!("ack {point}\n");
                    std::io::stdout().write_all(line.as_bytes()).expect("prints");
                }
            });
        }
    });
}

fn start(folder: &Path) -> Child {
    let test = module_path!().split_once("::").expect("a path").1;
    Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", &format!("{test}::child"), "--ignored", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts")
}

#[test]
fn a_process_killed_at_any_moment_leaves_a_good_log() {
    let folder = super::folder();
    let mut torn = 0;
    for round in 0..ROUNDS {
        let mut child = start(folder.path());
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let (mut last, mut left, mut line) = (None::<Point>, random(150), String::new());
        let mut ack = |line: &str| {
            let point =
                line.strip_suffix('\n').and_then(|l| l.strip_prefix("ack ")).and_then(|p| p.parse::<Point>().ok());
            if let Some(point) = point {
                last = last.filter(|l| l.seq > point.seq).or(Some(point));
            }
            point.is_some()
        };
        while left > 0 && out.read_line(&mut line).expect("reads") > 0 {
            left -= u64::from(ack(&line));
            line.clear();
        }
        // anywhere between two lines of it
        (0..random(20_000)).for_each(|_| std::hint::spin_loop());
        child.kill().expect("kills");
        child.wait().expect("ends");
        let mut rest = String::new();
        out.read_to_string(&mut rest).expect("reads");
        for line in rest.split_inclusive('\n') {
            ack(line);
        }

        // it was killed before it had written anything
        if std::fs::metadata(file(folder.path(), 1)).map_or(0, |of| of.len()) == 0
            && files::list(folder.path()).map_or(0, |l| l.len()) <= 1
        {
            continue;
        }
        let before = check(folder.path(), Against { expected: last, ..Against::default() });
        let only_torn = before.findings.iter().all(|f| matches!(f.what, What::Unfinished { .. }));
        assert!(only_torn, "round {round}: {before}");
        let (audit, found) = opens(folder.path(), options());
        assert!(found.damaged_line.is_none() && !found.key_lost, "round {round}: {found:?}");
        assert_eq!(found.cut.is_some(), !before.is_good(), "round {round}: {before}");
        close(&audit);
        let after = check(folder.path(), Against { expected: last, ..Against::default() });
        assert!(after.is_good() && (last.is_none() || after.expected_found), "round {round}: {after}");
        if let Some(cut) = found.cut {
            torn += 1;
            let told = after
                .notes
                .iter()
                .any(|n| matches!(n.what, Noted::Cut { bytes, kept: Some(true), .. } if bytes == cut));
            assert!(told, "round {round}: {after}");
        }
    }
    println!("{torn} of {ROUNDS} kills tore a line");
}
