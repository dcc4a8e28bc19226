//! What an apply has begun and of which nobody has told the end: what people look at first where it was stopped. By the job's own events.

use crate::journal;
use shared_proto::v1::event::Body;
use std::path::Path;

/// As many are counted, and named.
const COUNTED_MAX: usize = 1000;
const NAMED_MAX: usize = 10;

/// Resources that the engine began to make, change or destroy in this apply, and of which it told no end; in its order.
pub(crate) fn unfinished(events: &Path) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    for event in journal::told(events) {
        match event.body {
            // of a plan a resource's progress is that it is read
            Some(Body::PhaseChanged(changed)) if changed.phase == "applying" => open.clear(),
            Some(Body::ResourceProgress(of)) => {
                let what = format!("{} ({})", of.address, of.action);
                match of.state.as_str() {
                    "started" if !open.contains(&what) && open.len() < COUNTED_MAX => open.push(what),
                    "complete" | "failed" => open.retain(|known| *known != what),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    open
}

/// As the end of a sentence says it; empty where there are none.
pub(crate) fn in_words(unfinished: &[String]) -> String {
    if unfinished.is_empty() {
        return String::new();
    }
    let named = unfinished.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    let more = match unfinished.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(" Begun, and not told to be done: {named}{more}.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::v1::{Event, PhaseChanged, ResourceProgress};

    #[test]
    fn what_has_no_end_is_named_in_its_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events");
        let of = |address: &str, action: &str, state: &str| {
            let (address, action, state) = (address.to_owned(), action.to_owned(), state.to_owned());
            Body::ResourceProgress(ResourceProgress { address, action, state, ..ResourceProgress::default() })
        };
        let applying = Body::PhaseChanged(PhaseChanged { phase: "applying".into(), ..PhaseChanged::default() });
        let bodies = [
            // of the plan
            of("x.read", "read", "started"),
            applying,
            of("x.a", "delete", "started"),
            of("x.b", "create", "started"),
            of("x.c", "create", "started"),
            of("x.b", "create", "running"),
            of("x.c", "create", "failed"),
            of("x.a", "delete", "complete"),
            of("x.a", "create", "started"),
        ];
        journal::write_told(&path, bodies.map(|body| Event { body: Some(body), ..Event::default() }));
        let found = unfinished(&path);
        assert_eq!(found, ["x.b (create)", "x.a (create)"]);
        assert_eq!(in_words(&found), " Begun, and not told to be done: x.b (create), x.a (create).");
        assert_eq!(in_words(&[]), "");
        let many: Vec<_> = (0..12).map(|n| n.to_string()).collect();
        assert!(in_words(&many).ends_with("8, 9 and 2 more."));
    }
}
