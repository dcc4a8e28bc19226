//! Handing lines on.

use super::*;

#[test]
fn a_collector_gets_every_line_as_it_stands_in_the_log() {
    let folder = super::folder();
    let out = folder.path().join("out.jsonl");
    let log = folder.path().join("audit");
    let audit = open(&log, Options { sink: Some(Sink::File(out.clone())), ..options() });
    (0..50).for_each(|n| {
        write(&audit, decision(n));
    });
    wait(audit.rotate()).expect("rotates");
    audit.reopen();
    close(&audit);
    let log = [1, 2].map(|n| std::fs::read(file(&log, n)).expect("reads")).concat();
    assert_eq!(std::fs::read(out).expect("reads"), log);
}

#[test]
fn a_collector_that_is_down_is_told_of_and_holds_nobody_up() {
    let folder = super::folder();
    let sink = Some(Sink::Syslog(folder.path().join("none")));
    let audit = open(folder.path(), Options { sink, ..options() });
    (0..50).for_each(|n| {
        write(&audit, decision(n));
    });
    // it is counted on the collector's thread
    let told = (0..1000).any(|n| {
        write(&audit, decision(n));
        wait(audit.seal()).expect("seals");
        good(folder.path()).notes.iter().any(|n| matches!(n.what, Noted::Dropped { records } if records > 0))
    });
    assert!(told);
    close(&audit);
}
