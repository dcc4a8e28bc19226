//! Each kind of damage, everywhere: it is found, and named at its line.

use super::*;
use crate::audit::line::{self, Parts};
use proptest::prelude::*;

/// A log of 50 records and its lines.
fn lines() -> (tempfile::TempDir, Vec<Vec<u8>>) {
    let folder = super::folder();
    log_of(folder.path(), 50);
    let bytes = std::fs::read(file(folder.path(), 1)).expect("reads");
    let lines: Vec<Vec<u8>> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    assert_eq!(lines.len(), 50);
    good(folder.path());
    (folder, lines)
}

fn report_of(folder: &Path, lines: &[Vec<u8>]) -> Report {
    std::fs::write(file(folder, 1), lines.concat()).expect("writes");
    check(folder, Against::default())
}

fn first(report: &Report) -> (u64, &What) {
    let first = report.findings.first().unwrap_or_else(|| panic!("nothing found: {report}"));
    (first.line, &first.what)
}

/// The line with its hash as it should be.
fn rehashed(line: &[u8], prev: Option<Digest>) -> Vec<u8> {
    let text = String::from_utf8(line.to_vec()).expect("text");
    let (before, _) = text.rsplit_once(",\"hash\":\"").expect("a hash");
    let before = match prev {
        Some(prev) => {
            let at = before.find(",\"prev\":\"").expect("a hash before it") + 9;
            format!("{}{prev}{}", &before[..at], &before[at + 64..])
        }
        None => before.to_owned(),
    };
    format!("{before},\"hash\":\"{}\"}}\n", Digest::of(before.as_bytes())).into_bytes()
}

#[test]
fn every_changed_byte_is_found_at_its_line() {
    let (folder, lines) = lines();
    let bytes = lines.concat();
    let mut at = 0;
    for (n, line) in lines.iter().enumerate() {
        let number = n as u64 + 1;
        for byte in 0..line.len() {
            let mut bad = bytes.clone();
            bad[at + byte] ^= 1 << (byte % 8);
            std::fs::write(file(folder.path(), 1), &bad).expect("writes");
            let report = check(folder.path(), Against::default());
            assert_eq!(first(&report).0, number, "byte {byte}: {report}");
        }
        at += line.len();
    }
}

#[test]
fn every_record_that_is_left_out_doubled_or_swapped_is_found_at_its_line() {
    let (folder, lines) = lines();
    for n in 0..lines.len() {
        let number = n as u64 + 1;
        let mut left_out = lines.clone();
        left_out.remove(n);
        if n + 1 < lines.len() {
            let report = report_of(folder.path(), &left_out);
            let expected = What::Dropped { expected: number, found: number + 1 };
            assert_eq!(first(&report), (number, &expected), "{report}");
        }
        let mut doubled = lines.clone();
        doubled.insert(n, lines[n].clone());
        let report = report_of(folder.path(), &doubled);
        let expected = What::Repeated { expected: number + 1, found: number };
        assert_eq!(first(&report), (number + 1, &expected), "{report}");
        for other in n + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(n, other);
            let report = report_of(folder.path(), &swapped);
            let expected = What::Dropped { expected: number, found: other as u64 + 1 };
            assert_eq!(first(&report), (number, &expected), "{report}");
        }
    }
}

#[test]
fn a_record_put_in_with_a_hash_that_fits_is_found() {
    let (folder, lines) = lines();
    for n in 1..lines.len() {
        let before = line::parse(&lines[n - 1][..lines[n - 1].len() - 1]).expect("a line");
        let mut forged = Vec::new();
        let parts =
            Parts { seq: before.seq + 1, time: *before.time, kind: "decision", fields: b"", prev: &before.hash };
        line::build(&mut forged, &parts, None::<fn(u64, &Digest) -> String>);
        // put in: the next one has its number
        let mut put_in = lines.clone();
        put_in.insert(n, forged.clone());
        let report = report_of(folder.path(), &put_in);
        assert_eq!(first(&report).0, n as u64 + 2, "{report}");
        // in another one's place: the next one names another hash
        if n + 1 < lines.len() {
            let mut replaced = lines.clone();
            replaced[n] = forged;
            let report = report_of(folder.path(), &replaced);
            assert_eq!(first(&report), (n as u64 + 2, &What::Unchained), "{report}");
        }
        // something that is no line
        let mut garbage = lines.clone();
        garbage.insert(n, b"{}\n".to_vec());
        let report = report_of(folder.path(), &garbage);
        assert!(matches!(first(&report), (at, What::Malformed(_)) if at == n as u64 + 1), "{report}");
        assert_eq!(report.findings.len(), 1, "{report}");
    }
}

#[test]
fn a_chain_written_anew_is_found_by_the_next_seal() {
    let (folder, mut lines) = lines();
    let text = String::from_utf8(lines[4].clone()).expect("text");
    lines[4] = text.replace("\"allow\"", "\"denyx\"").into_bytes();
    let mut prev = None;
    let mut seal = 0;
    for (n, line) in lines.iter_mut().enumerate().skip(4) {
        *line = rehashed(line, prev);
        prev = Some(line::parse(&line[..line.len() - 1]).expect("a line").hash);
        if seal == 0 && String::from_utf8_lossy(line).contains("\"kind\":\"seal\"") {
            seal = n as u64 + 1;
        }
    }
    let report = report_of(folder.path(), &lines);
    assert_eq!(first(&report), (seal, &What::SignatureWrong { since: 1 }), "{report}");
}

#[test]
fn a_signed_record_without_its_signature_is_found() {
    let (folder, mut lines) = lines();
    let text = String::from_utf8(lines[49].clone()).expect("text");
    let (before, rest) = text.split_once(",\"sig\":\"").expect("a signature");
    lines[49] = rehashed(format!("{before}{}", &rest[89..]).as_bytes(), None);
    let report = report_of(folder.path(), &lines);
    assert_eq!(first(&report), (50, &What::Unsigned), "{report}");
}

#[test]
fn a_cut_end_is_found_by_whoever_knows_the_last_record() {
    let (folder, lines) = lines();
    let last = good(folder.path()).last.expect("a record");
    let against = Against { expected: Some(last), ..Against::default() };
    let whole = check(folder.path(), against);
    assert!(whole.is_good() && whole.expected_found, "{whole}");
    for n in 1..lines.len() {
        std::fs::write(file(folder.path(), 1), lines[..n].concat()).expect("writes");
        let report = check(folder.path(), Against::default());
        assert!(report.is_good(), "{report}");
        let signed = report.last_signed.expect("signed").seq;
        assert_eq!(report.unsigned, n as u64 - signed);
        let report = check(folder.path(), against);
        let expected = What::EndMissing { expected: 50, last: n as u64 };
        assert!(report.findings.iter().any(|f| f.what == expected), "{report}");
        // and one of another hash
        let other = Point { seq: n as u64, hash: Digest::of(b"another") };
        let report = check(folder.path(), Against { expected: Some(other), ..Against::default() });
        assert!(matches!(first(&report), (line, What::NotTheExpected { .. }) if line == n as u64), "{report}");
    }
}

#[test]
fn the_key_that_is_given_must_have_signed() {
    let (folder, _) = lines();
    let other = super::folder();
    let stranger = log_of(other.path(), 5);
    let report = check(folder.path(), Against { key: Some(stranger), expected: None });
    assert!(matches!(first(&report), (0, What::KeyUnknown { .. })), "{report}");
    let own = PublicKey::from_text(&good(folder.path()).keys[0]).expect("a key");
    let report = check(folder.path(), Against { key: Some(own), expected: None });
    assert!(report.is_good() && report.key_checked, "{report}");
}

#[test]
fn files_that_are_missing_exchanged_or_renamed_are_found() {
    let folder = super::folder();
    let audit = open(folder.path(), options());
    for n in 0..4 {
        write(&audit, decision(n));
        wait(audit.rotate()).expect("rotates");
    }
    close(&audit);
    let whole = good(folder.path());
    assert_eq!((whole.files, whole.before), (5, Before::Nothing));
    let away = |number| std::fs::rename(file(folder.path(), number), folder.path().join("away")).expect("moves");
    let back = |number| std::fs::rename(folder.path().join("away"), file(folder.path(), number)).expect("moves");
    for number in 1..5 {
        away(number);
        let report = check(folder.path(), Against::default());
        let found: Vec<_> = report.findings.iter().map(|f| &f.what).collect();
        if number == 1 {
            assert_eq!(found, [&What::BeginningMissing], "{report}");
        } else {
            assert_eq!(found[0], &What::FilesMissing { first: number, last: number }, "{report}");
        }
        back(number);
    }
    // some files: what is before is said, and is no fault
    let report = verify(&Target::Files(vec![file(folder.path(), 4), file(folder.path(), 3)]), Against::default());
    let report = report.expect("verifies");
    assert!(report.is_good() && report.before == Before::NotGiven && report.files == 2, "{report}");
    away(2);
    std::fs::rename(file(folder.path(), 3), file(folder.path(), 2)).expect("moves");
    back(3);
    let report = check(folder.path(), Against::default());
    assert!(matches!(&report.findings[0], Finding { line: 1, what: What::Dropped { .. }, .. }), "{report}");
}

#[test]
fn another_key_is_found_and_one_that_was_signed_is_not() {
    let folder = super::folder();
    let audit = open(folder.path(), options());
    let first_key = audit.public_key();
    write(&audit, decision(1));
    let second_key = wait(audit.change_key()).expect("changes");
    assert!(first_key != second_key && audit.public_key() == second_key);
    write(&audit, decision(2));
    close(&audit);
    for key in [first_key, second_key] {
        let report = check(folder.path(), Against { key: Some(key), expected: None });
        assert!(report.is_good() && report.keys.len() == 2, "{report}");
    }
    std::fs::remove_file(folder.path().join("key")).expect("removes");
    let (audit, found) = opens(folder.path(), options());
    assert!(found.key_lost);
    write(&audit, decision(3));
    close(&audit);
    let report = check(folder.path(), Against::default());
    let found = &report.findings[..];
    assert!(matches!(found, [Finding { line: 1, what: What::KeyChanged { .. }, .. }]), "{report}");
}

#[test]
fn a_clock_that_goes_back_is_noted() {
    let folder = super::folder();
    let mut out = Vec::new();
    let mut prev = Digest::NONE;
    for (n, time) in ["2026-01-01T00:00:01.000Z", "2026-01-01T00:00:00.999Z"].into_iter().enumerate() {
        let time = time.as_bytes().try_into().expect("a time");
        let parts = Parts { seq: n as u64 + 7, time, kind: "decision", fields: b",\"new\":{}", prev: &prev };
        prev = line::build(&mut out, &parts, None::<fn(u64, &Digest) -> String>);
    }
    let path = folder.path().join("part.jsonl");
    std::fs::write(&path, out).expect("writes");
    let report = verify(&Target::Files(vec![path]), Against::default()).expect("verifies");
    assert!(matches!(report.notes[..], [Note { line: 2, seq: 8, what: Noted::TimeBack { .. }, .. }]), "{report}");
}

#[test]
fn what_is_no_log_gives_a_clear_answer() {
    let folder = super::folder();
    let target = Target::Folder(folder.path().to_owned());
    assert!(matches!(verify(&target, Against::default()), Err(AuditError::NoLog(_))));
    assert!(matches!(tail(folder.path(), 1, false, Filter::default()), Err(AuditError::NoLog(_))));
    // one that somebody has emptied
    std::fs::write(file(folder.path(), 1), b"").expect("writes");
    assert!(matches!(verify(&target, Against::default()), Err(AuditError::NoLog(_))));
    for content in [&b"\n"[..], b"\n\n\n", b"nonsense", &[0; 4096], &vec![b'x'; 3 * LINE_MAX]] {
        std::fs::write(file(folder.path(), 1), content).expect("writes");
        let report = verify(&target, Against::default()).expect("verifies");
        assert!(!report.is_good(), "{report}");
    }
}

fn text() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(".{0,300}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_record_reads_back_and_verifies(
        texts in proptest::collection::vec(text(), 12),
        groups in proptest::collection::vec(".{0,140}", 0..40),
        numbers in any::<(Option<i32>, Option<u64>, Option<u64>)>(),
    ) {
        let [user, user_name, action, verb, namespace, name, container, connection, rule, command, code, detail] =
            <[_; 12]>::try_from(texts).expect("twelve");
        let (status, bytes_in, ms) = numbers;
        let record = Record {
            kind: Kind::End, user, user_name, groups, action, verb, namespace, name, container, connection, rule,
            command, code, detail, status, bytes_in, ms, ..Record::default()
        };
        let folder = super::folder();
        let audit = open(folder.path(), options());
        let point = write(&audit, record.clone());
        close(&audit);
        good(folder.path());
        let filter = Filter { kind: Some("end".to_owned()), ..Filter::default() };
        let line = tail(folder.path(), 1, false, filter).expect("reads").next().expect("a line").expect("reads");
        prop_assert_eq!(line.seq, point.seq);
        let back = line.record().expect("a record");
        if back.cut.is_empty() {
            prop_assert_eq!(back, record);
        } else {
            prop_assert!(back.user.is_none_or(|u| record.user.is_some_and(|r| r.starts_with(&u))));
        }
    }
}

proptest! {
    // an end without its line is waited for a little
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn nothing_that_a_file_holds_makes_verification_fail(bytes in proptest::collection::vec(any::<u8>(), 1..2000)) {
        let folder = super::folder();
        std::fs::write(file(folder.path(), 1), &bytes).expect("writes");
        let report = check(folder.path(), Against::default());
        prop_assert!(!report.is_good());
        // and it can be gone on with, which is said
        let (audit, _) = opens(folder.path(), options());
        write(&audit, decision(1));
        close(&audit);
    }
}
