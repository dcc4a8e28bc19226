//! How a log begins, goes on after a crash, is rotated, handed over and kept.

use super::*;
use std::time::Duration;

fn notes(report: &Report) -> Vec<&Noted> {
    report.notes.iter().map(|n| &n.what).collect()
}

fn opens(folder: &Path) -> Found {
    let (audit, found) = super::opens(folder, options());
    write(&audit, decision(1));
    close(&audit);
    found
}

/// Puts the folder back as it was, with that content in that file.
fn restore(from: &Path, to: &Path, number: u64, content: &[u8]) {
    for entry in std::fs::read_dir(to).expect("lists") {
        std::fs::remove_file(entry.expect("an entry").path()).expect("removes");
    }
    for entry in std::fs::read_dir(from).expect("lists") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copies");
    }
    std::fs::write(file(to, number), content).expect("writes");
}

#[test]
fn a_log_torn_at_any_byte_goes_on_and_says_so() {
    let (saved, folder) = (super::folder(), super::folder());
    let audit = open(saved.path(), options());
    write(&audit, decision(1));
    wait(audit.rotate()).expect("rotates");
    (0..3).for_each(|n| {
        write(&audit, decision(n));
    });
    close(&audit);
    let bytes = std::fs::read(file(saved.path(), 2)).expect("reads");
    for torn in 0..bytes.len() {
        // with nothing behind, and with what was not on disk yet
        for hole in [0, 700] {
            let content = [&bytes[..torn], &vec![0; hole]].concat();
            let whole = bytes[..torn].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            restore(saved.path(), folder.path(), 2, &content);
            let found = opens(folder.path());
            let cut = (content.len() - whole) as u64;
            assert_eq!(found, Found { cut: (cut > 0).then_some(cut), ..Found::default() }, "torn at {torn}");
            let report = good(folder.path());
            let told = Noted::Cut { file: 2, offset: whole as u64, bytes: cut, kept: Some(true) };
            assert_eq!(notes(&report), if cut > 0 { vec![&told] } else { vec![] }, "torn at {torn}");
        }
    }
}

#[test]
fn a_hole_in_what_no_seal_was_waited_for_is_a_torn_end() {
    let folder = super::folder();
    let audit = open(folder.path(), options());
    (0..9).for_each(|n| {
        write(&audit, decision(n));
    });
    close(&audit);
    // the seal at its end was not waited for: as after a crash
    let bytes = std::fs::read(file(folder.path(), 1)).expect("reads");
    let starts: Vec<usize> = std::iter::once(0).chain((1..bytes.len()).filter(|at| bytes[at - 1] == b'\n')).collect();
    for (line, start) in starts.iter().enumerate().take(11).skip(2) {
        // within a line, over its end, and over several
        for length in [20, 500, 1500] {
            let mut holed = bytes.clone();
            let end = bytes.len().min(start + 200 + length);
            holed[start + 200..end].fill(0);
            std::fs::write(file(folder.path(), 1), &holed).expect("writes");
            let found = opens(folder.path());
            let cut = (bytes.len() - start) as u64;
            assert_eq!(found, Found { cut: Some(cut), ..Found::default() }, "line {}, {length} bytes", line + 1);
            good(folder.path());
        }
    }
}

#[test]
fn a_crash_between_cutting_and_telling_has_it_told_once() {
    let (saved, folder) = (super::folder(), super::folder());
    log_of(saved.path(), 5);
    let whole = std::fs::read(file(saved.path(), 1)).expect("reads");
    let torn = [&whole[..], b"{\"seq\":"].concat();
    restore(saved.path(), folder.path(), 1, &torn);
    // 1. copied, and not cut
    files::cut(folder.path(), 1, whole.len() as u64).expect("cuts");
    std::fs::write(file(folder.path(), 1), &torn).expect("writes");
    assert_eq!(opens(folder.path()).cut, Some(7));
    let report = good(folder.path());
    assert!(matches!(notes(&report)[..], [Noted::Cut { bytes: 7, kept: Some(true), .. }]), "{report}");
    // 2. cut, and not told; in between another line was torn at the same place
    restore(saved.path(), folder.path(), 1, &torn);
    files::cut(folder.path(), 1, whole.len() as u64).expect("cuts");
    std::fs::write(file(folder.path(), 1), [&whole[..], b"{\"s"].concat()).expect("writes");
    opens(folder.path());
    let report = good(folder.path());
    assert!(matches!(notes(&report)[..], [Noted::Cut { .. }, Noted::Cut { .. }]), "{report}");
    // 3. told, and not renamed
    let kept = files::torn(folder.path(), false).expect("lists");
    for torn in &kept {
        let path = folder.path().join(&torn.name);
        std::fs::rename(&path, path.with_extension("new")).expect("renames");
    }
    opens(folder.path());
    let report = good(folder.path());
    assert!(matches!(notes(&report)[..], [Noted::Cut { .. }, Noted::Cut { .. }]), "{report}");
    assert_eq!(files::torn(folder.path(), false).expect("lists"), kept);
    // what is kept aside is looked at
    std::fs::write(folder.path().join(&kept[0].name), "else").expect("writes");
    let report = good(folder.path());
    assert_eq!(notes(&report).iter().filter(|n| matches!(n, Noted::Cut { kept: Some(false), .. })).count(), 1);
}

#[test]
fn one_process_writes_at_a_time_and_a_hand_over_passes() {
    let folder = super::folder();
    let first = open(folder.path(), options());
    let refused = Audit::open(folder.path(), options()).map(drop).expect_err("held");
    assert!(matches!(refused, AuditError::Held(_)) && !refused.next_step().is_empty());
    let copy = first.clone();
    assert_eq!(public_key(folder.path()).expect("reads"), first.public_key());
    assert!(matches!(public_key(super::folder().path()), Err(AuditError::NoLog(_))));
    write(&first, decision(1));
    close(&first);
    let second = open(folder.path(), Options { instance: "instance-2".to_owned(), ..options() });
    assert!(matches!(copy.record_blocking(decision(2), Wait::Written), Err(AuditError::Closed)));
    assert!(matches!(wait(copy.seal()), Err(AuditError::Closed)));
    copy.note(decision(2));
    write(&second, decision(3));
    // without being closed: the last one lets go
    drop(second);
    while matches!(Audit::open(folder.path(), options()).map(drop), Err(AuditError::Held(_))) {
        std::thread::yield_now();
    }
    good(folder.path());
}

#[test]
fn files_follow_one_another_by_size_and_old_ones_are_removed_as_stated() {
    let size = FILE_MAX_LEAST;
    for keep in [Keep { files: Some(3), bytes: None }, Keep { files: None, bytes: Some(3 * size) }] {
        let folder = super::folder();
        let audit = open(folder.path(), Options { file_max: size, keep, ..options() });
        let last = (0..100).fold(Point::START, |_, n| write(&audit, decision(n)));
        close(&audit);
        let numbers = files::list(folder.path()).expect("lists");
        assert!(numbers.len() <= 3 && numbers[0] > 5, "{numbers:?}");
        for number in &numbers {
            let length = std::fs::metadata(file(folder.path(), *number)).expect("there").len();
            assert!(length <= size + 4096, "{length}");
        }
        let report = check(folder.path(), Against { expected: Some(last), ..Against::default() });
        assert!(report.is_good() && report.expected_found, "{report}");
        assert!(matches!(report.before, Before::Removed(_)), "{report}");
        let old = Against { expected: Some(Point { seq: 3, hash: Digest::NONE }), ..Against::default() };
        assert!(check(folder.path(), old).expected_removed);
        // one more that nobody stated
        std::fs::remove_file(file(folder.path(), numbers[0])).expect("removes");
        let report = check(folder.path(), Against::default());
        assert_eq!(report.findings.last().map(|f| &f.what), Some(&What::BeginningMissing), "{report}");
        // and the log goes on
        opens(folder.path());
    }
}

#[test]
fn what_others_do_to_the_file_is_said_and_does_not_lose_what_comes() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 3] = [
        ("removed", |path| std::fs::remove_file(path).expect("removes")),
        ("cut off", |path| {
            let file = std::fs::OpenOptions::new().write(true).open(path).expect("opens");
            file.set_len(100).expect("cuts");
        }),
        ("appended", |path| {
            use std::io::Write as _;
            std::fs::OpenOptions::new().append(true).open(path).expect("opens").write_all(b"x").expect("writes");
        }),
    ];
    for (what, damage) in damages {
        let folder = super::folder();
        let audit = open(folder.path(), options());
        write(&audit, decision(1));
        damage(&file(folder.path(), 1));
        wait(audit.seal()).expect("seals");
        let point = write(&audit, decision(2));
        close(&audit);
        let report = check(folder.path(), Against { expected: Some(point), ..Against::default() });
        assert!(!report.is_good() && report.expected_found, "{what}: {report}");
        assert!(
            report.notes.iter().any(|n| matches!(&n.what, Noted::Damaged { file: 1, what: w } if w.contains(what)))
        );
    }
}

#[test]
fn a_log_whose_folder_is_gone_refuses_and_goes_on_when_it_is_back() {
    let folder = super::folder();
    let (path, away) = (folder.path().join("audit"), folder.path().join("away"));
    let audit = open(&path, options());
    std::fs::rename(&path, &away).expect("moves");
    assert!(wait(audit.seal()).is_err());
    assert!(matches!(audit.record_blocking(decision(1), Wait::Written), Err(AuditError::File(..))));
    assert!(audit.health().last_error.is_some());
    std::fs::rename(&away, &path).expect("moves");
    write(&audit, decision(2));
    close(&audit);
    let report = good(&path);
    assert!(notes(&report).iter().any(|n| matches!(n, Noted::Missing { lost: 0, refused: 1, .. })), "{report}");
}

#[test]
fn damage_is_left_as_it_is_and_said_at_the_next_start() {
    let folder = super::folder();
    log_of(folder.path(), 30);
    let text = std::fs::read_to_string(file(folder.path(), 1)).expect("reads");
    let lines: Vec<&str> = text.lines().collect();
    let mut changed = lines.clone();
    let bad = changed[6].replace("anna", "emma");
    changed[6] = &bad;
    std::fs::write(file(folder.path(), 1), changed.join("\n") + "\n").expect("writes");
    assert_eq!(opens(folder.path()), Found { damaged_line: Some(7), ..Found::default() });
    // once
    assert_eq!(opens(folder.path()), Found::default());
    let report = check(folder.path(), Against::default());
    assert_eq!(report.findings.len(), 1, "{report}");
    assert!(matches!(&report.findings[0], Finding { line: 7, what: What::Changed, .. }), "{report}");
    assert!(matches!(notes(&report)[..], [Noted::Damaged { file: 1, .. }]), "{report}");
    // zeros before a seal are no crash's doing
    let zeros = text.replacen("anna", "\0\0\0\0", 1);
    let other = super::folder();
    std::fs::copy(folder.path().join("key"), other.path().join("key")).expect("copies");
    std::fs::write(file(other.path(), 1), zeros).expect("writes");
    assert_eq!(opens(other.path()), Found { damaged_line: Some(3), ..Found::default() });
}

#[test]
fn another_runner_begins_a_file_of_its_own() {
    let folder = super::folder();
    log_of(folder.path(), 5);
    let audit = open(folder.path(), Options { runner: "runner-2".to_owned(), ..options() });
    write(&audit, decision(1));
    close(&audit);
    let report = good(folder.path());
    assert_eq!((report.files, notes(&report)), (2, vec![&Noted::Runner("runner-2".to_owned())]));
}

#[test]
fn a_key_that_was_being_changed_is_the_one_that_the_log_says() {
    let folder = super::folder();
    let (key, new) = (folder.path().join("key"), folder.path().join("key.new"));
    let old_public = log_of(folder.path(), 5);
    let old = std::fs::read(&key).expect("reads");
    // made, and not said
    std::fs::copy(&key, &new).expect("copies");
    let audit = open(folder.path(), options());
    assert!(audit.public_key() == old_public && !new.exists());
    // said, and not in its place
    let new_public = wait(audit.change_key()).expect("changes");
    close(&audit);
    std::fs::rename(&key, &new).expect("moves");
    std::fs::write(&key, old).expect("writes");
    std::process::Command::new("chmod").arg("600").arg(&key).status().expect("runs");
    let audit = open(folder.path(), options());
    assert!(audit.public_key() == new_public && !new.exists());
    close(&audit);
    good(folder.path());
}

#[test]
fn a_log_that_was_removed_as_a_whole_is_noted_by_its_key() {
    let folder = super::folder();
    log_of(folder.path(), 5);
    std::fs::remove_file(file(folder.path(), 1)).expect("removes");
    assert!(opens(folder.path()).is_new);
    assert_eq!(notes(&good(folder.path())), [&Noted::BegunAnew]);
    // emptied in its place
    std::fs::write(file(folder.path(), 1), b"").expect("empties");
    opens(folder.path());
    assert_eq!(notes(&good(folder.path())), [&Noted::BegunAnew]);
}

#[test]
fn seals_come_by_number_and_by_time_and_not_without_news() {
    let folder = super::folder();
    let audit = open(folder.path(), Options { seal_records: 10, ..options() });
    let mut seals = audit.seals();
    (0..10).for_each(|n| {
        write(&audit, decision(n));
    });
    wait(seals.changed()).expect("a seal");
    close(&audit);
    let report = good(folder.path());
    assert_eq!((report.unsigned, report.last_signed), (0, report.last));

    let seal_after = Duration::from_millis(5);
    let sink = Some(Sink::File(folder.path().join("no/such")));
    let audit = open(folder.path(), Options { seal_after, sink, ..options() });
    let mut seals = audit.seals();
    write(&audit, decision(1));
    let sealed = wait(seals.wait_for(|s| s.as_ref().is_some_and(|s| s.at.seq > audit.head().seq - 1)))
        .expect("a seal")
        .is_some();
    assert!(sealed);
    // that the collector did not get the seal is no news
    let quiet = (0..1000).any(|_| {
        let before = audit.head();
        std::thread::sleep(10 * seal_after);
        audit.head() == before
    });
    assert!(quiet, "the log goes on without end");
}

#[test]
fn both_sides_of_each_setting() {
    let folder = super::folder();
    let tries = |options: Options| super::tries(folder.path(), options).map(|(audit, _)| close(&audit));
    let id = |length| Options { instance: "i".repeat(length), ..options() };
    assert!(tries(id(ID_MAX)).is_ok() && tries(id(1)).is_ok());
    assert!(matches!(tries(id(0)), Err(AuditError::Id(_))) && matches!(tries(id(ID_MAX + 1)), Err(AuditError::Id(_))));
    for bad in ["a b", "a\nb", "é", "a\"b"] {
        assert!(matches!(tries(Options { runner: bad.to_owned(), ..options() }), Err(AuditError::Id(_))), "{bad}");
    }
    let refused = |options| matches!(tries(options), Err(AuditError::Setting(_)));
    assert!(tries(Options { file_max: FILE_MAX_LEAST, ..options() }).is_ok());
    assert!(refused(Options { file_max: FILE_MAX_LEAST - 1, ..options() }));
    assert!(tries(Options { seal_records: 1, ..options() }).is_ok());
    assert!(refused(Options { seal_records: 0, ..options() }));
    assert!(refused(Options { seal_records: SEAL_RECORDS + 1, ..options() }));
    assert!(refused(Options { seal_after: SEAL_AFTER + Duration::from_nanos(1), ..options() }));
    assert!(refused(Options { keep: Keep { files: Some(0), bytes: None }, ..options() }));
    assert!(tries(Options { version: "v".repeat(ID_MAX), ..options() }).is_ok());
    assert!(refused(Options { version: "v".repeat(ID_MAX + 1), ..options() }));
}
