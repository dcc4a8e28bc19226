//! What an apply has begun and of which nobody has told the end: what people look at first where it was stopped, or has died. Taken from the
//! events of a job, by the worker that ends it and by the supervisor that finds its worker gone. It must never be taken for the state: an
//! engine that died may have done more than it told.

use crate::v1::event::Body;

/// As many are counted, and named.
const COUNTED_MAX: usize = 1000;
const NAMED_MAX: usize = 10;
/// Of one this much is kept, bytes: a job may tell what it likes.
const NAME_MAX: usize = 256;

/// Whether an action of a resource's progress is a step of what was planned: reading, and what belongs to a step such as its provisioners, are
/// none of their own.
pub fn is_planned(action: &str) -> bool {
    !matches!(action, "read" | "refresh" | "open" | "renew" | "close") && !action.starts_with("provision:")
}

/// Resources that the engine began to make, change or destroy in an apply, and of which it told no end; in its order.
///
/// ```
/// use shared_proto::begun::Begun;
/// use shared_proto::v1::{ResourceProgress, event::Body};
///
/// let mut begun = Begun::default();
/// let of = |state: &str| ResourceProgress {
///     address: "aws_db_instance.main".into(), action: "create".into(), state: state.into(), ..Default::default()
/// };
/// begun.take(&Body::ResourceProgress(of("started")));
/// assert_eq!(begun.to_string(), "Begun, and not told to be done: aws_db_instance.main (create).");
/// begun.take(&Body::ResourceProgress(of("complete")));
/// assert_eq!(begun.to_string(), "");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begun {
    open: Vec<String>,
}

impl Begun {
    /// Takes the next event of the job. Of a plan a resource's progress is that it is read: the phase of applying begins anew.
    pub fn take(&mut self, body: &Body) {
        match body {
            Body::PhaseChanged(changed) if changed.phase == "applying" => self.open.clear(),
            Body::ResourceProgress(of) if is_planned(&of.action) => {
                let mut what = format!("{} ({})", of.address, of.action).replace(char::is_control, "");
                what.truncate(what.floor_char_boundary(NAME_MAX));
                match of.state.as_str() {
                    "started" if !self.open.contains(&what) && self.open.len() < COUNTED_MAX => self.open.push(what),
                    "complete" | "failed" => self.open.retain(|known| *known != what),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// A sentence; nothing where there are none.
impl std::fmt::Display for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.open.is_empty() {
            return Ok(());
        }
        let named = self.open.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
        write!(f, "Begun, and not told to be done: {named}")?;
        match self.open.len().saturating_sub(NAMED_MAX) {
            0 => f.write_str("."),
            more => write!(f, " and {more} more."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{PhaseChanged, ResourceProgress};

    fn of(address: &str, action: &str, state: &str) -> Body {
        let (address, action, state) = (address.to_owned(), action.to_owned(), state.to_owned());
        Body::ResourceProgress(ResourceProgress { address, action, state, ..ResourceProgress::default() })
    }

    fn all(bodies: impl IntoIterator<Item = Body>) -> Begun {
        let mut begun = Begun::default();
        bodies.into_iter().for_each(|body| begun.take(&body));
        begun
    }

    #[test]
    fn what_has_no_end_is_named_in_its_order() {
        let applying = Body::PhaseChanged(PhaseChanged { phase: "applying".into(), ..PhaseChanged::default() });
        let found = all([
            // of the plan
            of("x.read", "create", "started"),
            applying,
            of("data.x.d", "read", "started"),
            of("x.a", "delete", "started"),
            of("x.b", "create", "started"),
            of("x.c", "create", "started"),
            of("x.b", "create", "running"),
            of("x.c", "create", "failed"),
            of("x.a", "delete", "complete"),
            of("x.a", "create", "started"),
            of("x.a", "provision:local-exec", "started"),
        ]);
        assert_eq!(found.to_string(), "Begun, and not told to be done: x.b (create), x.a (create).");
        assert_eq!(Begun::default().to_string(), "");
        let many = all((0..12).map(|n| of(&n.to_string(), "update", "started"))).to_string();
        assert!(many.ends_with("8 (update), 9 (update) and 2 more."), "{many}");
    }

    #[test]
    fn what_a_job_may_tell_is_bounded() {
        let most = all((0..=COUNTED_MAX).map(|n| of(&n.to_string(), "create", "started")));
        assert_eq!(most.open.len(), COUNTED_MAX);
        let long = all([
            of(&format!("{}é", "a".repeat(NAME_MAX - 1)), "create", "started"),
            of("b\n\x1b[c", "create", "started"),
        ]);
        assert_eq!(long.open, ["a".repeat(NAME_MAX - 1), "b[c (create)".into()]);
    }
}
