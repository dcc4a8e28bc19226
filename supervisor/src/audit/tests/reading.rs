//! Reading the end of a log while it is written, rotated, cut.

use super::*;

fn seqs(tail: Tail) -> Vec<u64> {
    tail.map(|line| line.expect("reads").seq).collect()
}

fn last(folder: &Path, n: usize, filter: Filter) -> Vec<u64> {
    seqs(tail(folder, n, false, filter).expect("opens"))
}

#[test]
fn the_last_lines_come_from_as_many_files_as_needed() {
    let folder = super::folder();
    let audit = open(folder.path(), options());
    for n in 0..3 {
        (0..3).for_each(|m| {
            write(&audit, decision(n * 3 + m));
        });
        wait(audit.rotate()).expect("rotates");
    }
    close(&audit);
    let end = audit.head().seq;
    for n in [0, 1, 2, 5, 9, end as usize, end as usize + 1, TAIL_MAX, TAIL_MAX + 1, usize::MAX] {
        let expected: Vec<u64> = (1..=end).skip((end as usize).saturating_sub(n)).collect();
        assert_eq!(last(folder.path(), n, Filter::default()), expected, "{n}");
    }
}

#[test]
fn a_filter_lets_through_what_fits() {
    let folder = super::folder();
    let audit = open(folder.path(), options());
    let is = |text: &str| Some(text.to_owned());
    let anna = write(&audit, Record { user: is("u1"), user_name: is("anna"), ..decision(1) }).seq;
    let deny = write(&audit, Record { decision: Some(Decision::Deny), connection: is("test"), ..decision(2) }).seq;
    let job = write(&audit, Record { kind: Kind::End, operation: None, job: is("j1"), ..decision(3) }).seq;
    // what looks like a member in a text is none
    write(&audit, Record { name: is("\",\"connection\":\"test\",\"x\":\""), ..decision(4) });
    wait(audit.rotate()).expect("rotates");
    close(&audit);
    let none = Filter::default;
    for (filter, expected) in [
        (Filter { user: is("u1"), ..none() }, anna),
        (Filter { user: is("anna"), ..none() }, anna),
        (Filter { decision: Some(Decision::Deny), ..none() }, deny),
        (Filter { connection: is("test"), ..none() }, deny),
        (Filter { connection: is("test"), kind: is("decision"), ..none() }, deny),
        (Filter { kind: is("end"), ..none() }, job),
        (Filter { operation: is("j1"), ..none() }, job),
        (Filter { operation: is("op-000000000001"), ..none() }, anna),
    ] {
        assert_eq!(last(folder.path(), 5, filter.clone()), [expected], "{filter:?}");
    }
    assert_eq!(last(folder.path(), 5, Filter { user: is("u1"), kind: is("end"), ..none() }), [0; 0]);
    let line = tail(folder.path(), 1, false, Filter { kind: is("end"), ..none() }).expect("opens").next();
    let record = line.expect("a line").expect("reads").record().expect("a record");
    assert_eq!((record.kind, record.job.as_deref()), (Kind::End, Some("j1")));
    let own = tail(folder.path(), 1, false, Filter { kind: is("seal"), ..none() }).expect("opens").next();
    assert!(own.expect("a line").expect("reads").record().is_none());
}

#[test]
fn who_follows_gets_every_line_once_over_rotations() {
    let folder = super::folder();
    let keep = Keep { files: None, bytes: None };
    let audit = open(folder.path(), Options { file_max: FILE_MAX_LEAST, keep, ..options() });
    let mut tail = tail(folder.path(), 0, true, Filter::default()).expect("opens");
    let from = audit.head().seq;
    let writer = std::thread::spawn({
        let audit = audit.clone();
        move || {
            (0..500).for_each(|n| {
                write(&audit, decision(n));
            })
        }
    });
    let mut seen = Vec::new();
    while !writer.is_finished() {
        while let Some(line) = tail.ready() {
            seen.push(line.expect("reads").seq);
        }
    }
    writer.join().expect("ends");
    close(&audit);
    while let Some(line) = tail.ready() {
        seen.push(line.expect("reads").seq);
    }
    assert_eq!(seen, (from + 1..=audit.head().seq).collect::<Vec<_>>());
}

#[test]
fn who_is_slower_than_retention_goes_on_with_what_is_left() {
    let folder = super::folder();
    let keep = Keep { files: Some(2), bytes: None };
    let audit = open(folder.path(), Options { file_max: FILE_MAX_LEAST, keep, ..options() });
    let mut tail = tail(folder.path(), 0, true, Filter::default()).expect("opens");
    (0..100).for_each(|n| {
        write(&audit, decision(n));
    });
    close(&audit);
    let seen: Vec<u64> = std::iter::from_fn(|| tail.ready()).map(|line| line.expect("reads").seq).collect();
    assert!(seen.len() > 5 && seen.is_sorted() && seen.last() == Some(&audit.head().seq), "{seen:?}");
}

#[test]
fn a_line_that_is_half_there_comes_when_it_is_whole_or_not_at_all() {
    let folder = super::folder();
    log_of(folder.path(), 10);
    let path = file(folder.path(), 1);
    let bytes = std::fs::read(&path).expect("reads");
    let start = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').expect("a line") + 1;
    for half in start..bytes.len() {
        std::fs::write(&path, &bytes[..half]).expect("writes");
        let mut tail = tail(folder.path(), 1, true, Filter::default()).expect("opens");
        assert_eq!(tail.ready().expect("a line").expect("reads").seq, 9);
        assert!(tail.ready().is_none() && tail.ready().is_none());
        std::fs::write(&path, &bytes).expect("writes");
        assert_eq!(tail.ready().expect("a line").expect("reads").seq, 10);
        assert!(tail.ready().is_none());
    }
    // torn, cut off at the next start, and something else in its place
    std::fs::write(&path, &bytes[..start + 9]).expect("writes");
    let mut tail = tail(folder.path(), 0, true, Filter::default()).expect("opens");
    assert!(tail.ready().is_none());
    let audit = open(folder.path(), options());
    close(&audit);
    let kinds: Vec<String> = std::iter::from_fn(|| tail.ready()).map(|line| line.expect("reads").kind).collect();
    assert_eq!(kinds, ["started", "cut", "seal", "stopped", "seal"]);
}
