use super::*;

const MINUTE: i64 = 60_000;

fn kept(n: i64, code: &str) -> KeptOperation {
    KeptOperation {
        id: format!("op_{n}"),
        kind: "k8s_exec".to_owned(),
        entry: Some("prod".to_owned()),
        user: "anna".to_owned(),
        started_at_ms: n * MINUTE,
        code: Some(code.to_owned()),
        ..KeptOperation::default()
    }
}
fn logged(n: i64, code: &str) -> (String, Logged) {
    let logged = Logged {
        user: "anna".to_owned(),
        kind: "k8s_exec".to_owned(),
        connection: "prod".to_owned(),
        at_ms: n * MINUTE,
        code: Some(code.to_owned()),
        decisions: 1,
    };
    (format!("op_{n}"), logged)
}
/// Ten operations, a minute apart, that both have.
fn sides() -> Sides {
    Sides {
        log: (0..10).map(|n| logged(n, "ok")).collect(),
        span: Some((0, 9 * MINUTE)),
        kept: Kept { items: (0..10).map(|n| kept(n, "ok")).collect(), at_ms: Some(10 * MINUTE) },
    }
}
fn found(sides: &Sides) -> Vec<(String, What)> {
    let outcome = sides.compare(MINUTE);
    outcome.differences.into_iter().map(|d| (d.operation, d.what)).collect()
}

#[test]
fn what_one_side_lacks_counts_within_the_time_that_both_reach_over() {
    assert_eq!(sides().compare(MINUTE).to_string().lines().last(), Some("they agree"));
    // 0 and 9 are within the margin of an end
    for (n, counts) in [(0, false), (1, true), (8, true), (9, false)] {
        let mut without = sides();
        without.log.remove(&format!("op_{n}"));
        let lacks = found(&without);
        assert_eq!(lacks.len(), usize::from(counts), "{n}: {lacks:?}");
        assert!(lacks.iter().all(|(_, what)| matches!(what, What::NotInTheLog { .. })));
        let mut without = sides();
        without.kept.items.retain(|one| one.id != format!("op_{n}"));
        let lacks = found(&without);
        assert_eq!(lacks.len(), usize::from(counts), "{n}: {lacks:?}");
        assert!(lacks.iter().all(|(_, what)| matches!(what, What::NotKept { .. })));
    }
    let none = Sides { kept: Kept::default(), ..sides() };
    assert_eq!((found(&none).len(), none.compare(MINUTE).between_ms), (0, None));
}

#[test]
fn what_never_came_to_the_runner_is_in_no_log() {
    for (code, level, counts) in [
        ("runner_unavailable", None, false),
        ("connection_lost", None, false),
        ("connection_lost", Some("confined"), true),
        ("policy_denied", None, true),
        ("ok", None, true),
    ] {
        let mut sides = sides();
        sides.log.remove("op_5");
        sides.kept.items[5] = KeptOperation { isolation_level: level.map(str::to_owned), ..kept(5, code) };
        assert_eq!(found(&sides).len(), usize::from(counts), "{code} {level:?}");
    }
}

#[test]
fn what_the_two_tell_differently_is_named() {
    type Change = fn(&mut Sides);
    for (of, change) in [
        ("user", (|s| s.kept.items[5].user = "eve".to_owned()) as Change),
        ("kind", |s| s.kept.items[5].kind = "k8s_logs".to_owned()),
        ("connection", |s| s.kept.items[5].entry = Some("stage".to_owned())),
        ("code", |s| s.kept.items[5].code = Some("target_failed".to_owned())),
    ] {
        let mut sides = sides();
        change(&mut sides);
        let differences = found(&sides);
        let [(operation, What::Differs { of: found, .. })] = &differences[..] else { panic!("{differences:?}") };
        assert_eq!((operation.as_str(), *found), ("op_5", of));
    }
    let mut again = sides();
    again.log.get_mut("op_5").expect("there").decisions = 2;
    assert_eq!(found(&again), [("op_5".to_owned(), What::AskedAgain { times: 2 })]);
    // of what was cut on its way each end saw another end, and of one that was killed with its runner there is none
    let mut cut = sides();
    cut.kept.items[5].code = Some("connection_lost".to_owned());
    cut.log.get_mut("op_6").expect("there").code = None;
    let outcome = cut.compare(MINUTE);
    assert!(outcome.differences.is_empty() && outcome.notes.len() == 2, "{outcome}");
}

#[test]
fn both_sides_of_what_is_told_in_full() {
    for (n, told, more) in [(TOLD_MAX, TOLD_MAX, 0), (TOLD_MAX + 1, TOLD_MAX, 1)] {
        let mut sides = sides();
        sides
            .log
            .extend((0..n).map(|n| (format!("x{n}"), Logged { at_ms: 5 * MINUTE, decisions: 1, ..Logged::default() })));
        let outcome = sides.compare(MINUTE);
        assert_eq!((outcome.differences.len(), outcome.more_differences), (told, more));
    }
}

#[test]
fn a_time_of_the_log_is_read() {
    assert_eq!(millis("1970-01-01T00:01:00.123Z"), Some(60_123));
    assert_eq!(millis("nonsense"), None);
}
