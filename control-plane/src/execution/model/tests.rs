//! The exploration, its mutations, and that the model has all that the code has.

use super::checker::{STUCK, check};
use super::*;
use shared_proto::v1::work_item::Kind;

/// More states than any of the explorations has.
const STATES_MAX: usize = 2_500_000;

const NONE: Bounds = Bounds { faults: 0, restore: false, copied: false, wishes: false, alone: false };
const BOUNDS: [(&str, Bounds); 6] = [
    ("one process, two faults", Bounds { faults: 2, alone: true, ..NONE }),
    ("nothing goes wrong", NONE),
    ("a user's wish", Bounds { wishes: true, ..NONE }),
    ("a fault", Bounds { faults: 1, ..NONE }),
    ("restored from an older back-up", Bounds { restore: true, ..NONE }),
    ("a copied instance id", Bounds { copied: true, ..NONE }),
];

#[test]
fn at_most_once_nothing_lost_nothing_stuck() {
    for (what, bounds) in BOUNDS {
        let found = check(&Protocol { bounds, without: None }, STATES_MAX);
        println!("{what}: {} states, {} steps", found.states, found.steps);
        assert!(found.broken.is_none(), "{what}: {:#?}", found.broken);
    }
}

/// Each rule is there for something: without it a property does not hold, and which one.
#[test]
fn without_any_of_its_rules_it_breaks() {
    const FAULT: Bounds = Bounds { faults: 1, ..NONE };
    const RESTORE: Bounds = Bounds { restore: true, ..NONE };
    const RESTORE_ALONE: Bounds = Bounds { alone: true, ..RESTORE };
    const FAULT_ALONE: Bounds = Bounds { alone: true, ..FAULT };
    const TWO: Bounds = Bounds { faults: 2, alone: true, ..NONE };
    const WISH_AND_FAULT: Bounds = Bounds { wishes: true, ..FAULT };
    for (rule, bounds, property) in [
        (Rule::MarkerFirst, FAULT_ALONE, ONCE),
        (Rule::NeverAgain, FAULT_ALONE, ONCE),
        (Rule::TokenOfReport, WISH_AND_FAULT, FENCED),
        (Rule::TokenOfAccept, NONE, ONCE),
        (Rule::RestoredStay, RESTORE, ONCE),
        (Rule::TokensRaised, RESTORE, ONCE),
        (Rule::UnknownIsNotUnwanted, RESTORE_ALONE, UNASKED),
        (Rule::ToldFromThere, RESTORE_ALONE, STUCK),
        (Rule::Presented, RESTORE_ALONE, STUCK),
        (Rule::AbsentIsLost, RESTORE_ALONE, STUCK),
        (Rule::AbsentConfirmed, TWO, LOST),
        (Rule::TakenBack, FAULT_ALONE, STUCK),
        (Rule::ToldAgain, FAULT_ALONE, STUCK),
        (Rule::StoredFirst, FAULT_ALONE, KEPT),
        (Rule::AcceptDecides, FAULT_ALONE, UNASKED),
        (Rule::LateResultCounts, RESTORE_ALONE, KEPT),
        (Rule::GivenUp, RESTORE_ALONE, STUCK),
        (Rule::Lapses, FAULT, STUCK),
        (Rule::LostIsNotBegun, TWO, STUCK),
    ] {
        let found = check(&Protocol { bounds, without: Some(rule) }, STATES_MAX);
        let (broken, way) = found.broken.clone().unwrap_or(("nothing", Vec::new()));
        println!(
            "without {rule:?}: {broken:?} does not hold, after {} states; {} steps there",
            found.states,
            way.len()
        );
        assert_eq!(broken, property, "without {rule:?}: {way:#?}");
    }
}

/// What goes over a Work stream: one that is new does not compile here before it is in the model.
const fn modelled(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::Assignment(_) => Some("Assignment"),
        Kind::Approval(_) => Some("Approval"),
        Kind::Cancel(_) => Some("Cancel"),
        Kind::Discard(_) => Some("Discard"),
        Kind::Release(_) => Some("Release"),
        Kind::Recall(_) => Some("Recall"),
        // that the stream lives, and that it ends
        Kind::Heartbeat(_) | Kind::Refusal(_) => None,
    }
}

/// The words of a block of text that stand at the beginning of its lines, up to its end.
fn names(text: &str, block: &str, prefix: &str) -> Vec<String> {
    let (_, rest) = text.split_once(block).unwrap_or_else(|| panic!("there is no {block:?}"));
    let (inside, _) = rest.split_once("\n}").expect("it ends");
    let lines = inside.lines().filter_map(|line| line.trim().strip_prefix(prefix));
    let word = |line: &str| line.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned();
    lines.map(word).filter(|name| name.starts_with(char::is_uppercase)).collect()
}

#[test]
fn the_model_has_what_the_code_has() {
    let token = 1;
    let items = [
        Item::Assignment { token },
        Item::Approval { token },
        Item::Cancel { token },
        Item::Discard { token },
        Item::Release { token },
        Item::Recall { token, unknown: true },
    ];
    let kinds = [
        Kind::Assignment(Default::default()),
        Kind::Approval(Default::default()),
        Kind::Cancel(Default::default()),
        Kind::Discard(Default::default()),
        Kind::Release(Default::default()),
        Kind::Recall(Default::default()),
    ];
    for (item, kind) in items.iter().zip(&kinds) {
        assert_eq!(item.name().split(' ').next(), modelled(kind));
    }
    // calls: the model has Work as a request of its own, and Source changes nothing
    let proto = include_str!("../../../../shared-proto/proto/runner/v1/execution.proto");
    let calls = names(proto, "service Execution {", "rpc ");
    assert_eq!(calls, ["Work", "Accept", "Report", "Source", "Present"], "a call that the model does not know");
    // the supervisor's: decisions on a job, and steps with a marker
    let job = include_str!("../../../../supervisor/src/jobs/job.rs");
    assert_eq!(names(job, "pub(super) enum Command {", ""), ["Approve", "Cancel", "Discard", "Release"]);
    let folder = include_str!("../../../../supervisor/src/jobs/folder.rs");
    assert_eq!(names(folder, "pub(super) enum Step {", ""), ["Plan", "Apply"]);
    // the store's phases are the model's own: `is_end` does not compile without one of them
    assert!(is_end(Phase::Lost) && !is_end(Phase::Pending));
}
