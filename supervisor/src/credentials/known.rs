//! Credentials that are remembered: one for each connection, and where its sessions say who asks one for each that was asked for. However many
//! people there are, no more than a bound of them.

use super::Tested;
use crate::config::CONNECTIONS_MAX;
use shared_proto::v1;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What is remembered at once, beside one for each connection: those of connections whose sessions say who asks.
const PEOPLE_MAX: usize = 1024;
const MOST: usize = CONNECTIONS_MAX + PEOPLE_MAX;

/// Whose credentials: a connection's, and where its sessions say who asks, what they say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) connection: String,
    pub(super) said: Vec<String>,
}

/// With the time since boot until which each is good: a step of the clock makes nothing last longer.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<Key, (Tested, Duration)>);

// === impl Known ===

impl Known {
    /// What is good still.
    pub(super) fn get(&self, key: &Key, now: Duration) -> Option<&Tested> {
        self.0.get(key).filter(|(_, until)| *until > now).map(|(tested, _)| tested)
    }

    /// Remembers it; where there is no room, what is good no more goes, else what ends first.
    pub(super) fn keep(&mut self, key: Key, tested: Tested, until: Duration, now: Duration) {
        if self.0.len() >= MOST {
            self.0.retain(|_, (_, until)| *until > now);
        }
        if self.0.len() >= MOST
            && let Some(first) = self.0.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| key.clone())
        {
            self.0.remove(&first);
        }
        self.0.insert(key, (tested, until));
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// The target did not accept these: they are forgotten, unless others have taken their place.
    pub(super) fn forget(&mut self, key: &Key, refused: &Arc<v1::Target>) {
        let same = |(tested, _): &(Tested, _)| tested.resolved.as_ref().is_ok_and(|t| Arc::ptr_eq(t, refused));
        if self.0.get(key).is_some_and(same) {
            self.0.remove(key);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(person: usize) -> Key {
        Key { connection: "prod".into(), said: vec![person.to_string()] }
    }
    fn tested() -> (Tested, Arc<v1::Target>) {
        let target = Arc::new(v1::Target::default());
        (Tested { resolved: Ok(target.clone()), steps: Arc::new([]) }, target)
    }
    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_known_is_good_until_it_says_and_for_nobody_else() {
        let mut known = Known::default();
        known.keep(key(1), tested().0, at(10), at(0));
        assert!(known.get(&key(1), at(9)).is_some() && known.get(&key(1), at(10)).is_none());
        assert!(known.get(&key(2), at(9)).is_none());
    }

    #[test]
    fn only_what_was_refused_is_forgotten() {
        let mut known = Known::default();
        let ((old, refused), (new, _)) = (tested(), tested());
        known.keep(key(1), old, at(10), at(0));
        known.keep(key(1), new, at(10), at(0));
        // somebody else has got others already
        known.forget(&key(1), &refused);
        assert!(known.get(&key(1), at(0)).is_some());
        let (again, refused) = tested();
        known.keep(key(1), again, at(10), at(0));
        known.forget(&key(1), &refused);
        assert!(known.get(&key(1), at(0)).is_none());
    }

    #[test]
    fn what_ends_first_makes_room() {
        let mut known = Known::default();
        for n in 0..MOST {
            known.keep(key(n), tested().0, at(100 + n as u64), at(0));
        }
        assert_eq!(known.0.len(), MOST);
        known.keep(key(MOST), tested().0, at(100_000), at(0));
        assert!(known.0.len() == MOST && known.get(&key(0), at(0)).is_none() && known.get(&key(1), at(0)).is_some());
        // what is good no more goes before anything else
        known.keep(key(MOST + 1), tested().0, at(100_000), at(200));
        assert!(known.0.len() == MOST - 99 && known.get(&key(101), at(200)).is_some(), "{}", known.0.len());
    }
}
