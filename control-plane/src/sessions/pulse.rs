//! The round trips of one session, as plain arithmetic on moments: when to ask, what an answer says, when the peer counts as
//! missing and when as dead. No clock and no socket in here.

use shared_proto::bounds::{PEER_DEAD, PING_INTERVAL, PING_MISSED};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Who looks this late had no processor itself: the silence says nothing about the peer.
const STOOD_STILL: Duration = Duration::from_secs(1);
/// Unanswered pings that are remembered; a peer is dead long before there are so many.
const UNANSWERED_MAX: usize = 16;

/// How often a session's peer is asked, and for how long it may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// Between two pings.
    pub interval: Duration,
    /// An answer that is this late takes the session out of routing.
    pub missed: Duration,
    /// Silence of this length ends the session.
    pub dead: Duration,
}

/// What to do at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing.
    Nothing,
    /// Send a ping with this number.
    Ping(u64),
    /// Nothing was heard for too long: close.
    Dead,
}

/// The state of one session's round trips.
#[derive(Debug)]
pub(crate) struct Pulse {
    rhythm: Rhythm,
    nonce: u64,
    unanswered: VecDeque<(u64, Instant)>,
    heard: Instant,
    next_ping: Instant,
    looked: Instant,
}

// === impl Rhythm ===

impl Default for Rhythm {
    fn default() -> Self {
        Self { interval: PING_INTERVAL, missed: PING_MISSED, dead: PEER_DEAD }
    }
}

// === impl Pulse ===

impl Pulse {
    /// Starts at the moment of welcome, with a ping due at once: the first round trip sizes the windows.
    pub(crate) fn new(rhythm: Rhythm, now: Instant) -> Self {
        Self { rhythm, nonce: 0, unanswered: VecDeque::new(), heard: now, next_ping: now, looked: now }
    }
    /// What is due now. A ping that it gives counts as sent.
    pub(crate) fn due(&mut self, now: Instant) -> Due {
        if now.saturating_duration_since(self.looked) > self.rhythm.interval + STOOD_STILL {
            // what came meanwhile has not been read yet, and gets one interval to be
            let spared = now.checked_sub(self.rhythm.dead.saturating_sub(self.rhythm.interval));
            self.heard = spared.map_or(self.heard, |at| self.heard.max(at));
        }
        self.looked = now;
        if now >= self.heard + self.rhythm.dead {
            Due::Dead
        } else if now >= self.next_ping {
            self.next_ping = now + self.rhythm.interval;
            Due::Ping(self.ask(now))
        } else {
            Due::Nothing
        }
    }
    /// A ping out of turn; returns its number.
    pub(crate) fn ask(&mut self, now: Instant) -> u64 {
        self.nonce += 1;
        // never the oldest: it is the one that tells how long an answer has been missing
        if self.unanswered.len() >= UNANSWERED_MAX {
            self.unanswered.pop_back();
        }
        self.unanswered.push_back((self.nonce, now));
        self.nonce
    }
    /// Something came from the peer.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }
    /// A pong came; its round trip, if it answers one of ours.
    pub(crate) fn answered(&mut self, nonce: u64, now: Instant) -> Option<Duration> {
        self.heard = now;
        let at = self.unanswered.iter().position(|(n, _)| *n == nonce)?;
        let (_, sent) = self.unanswered[at];
        self.unanswered.drain(..=at);
        Some(now.saturating_duration_since(sent))
    }
    /// Whether an answer is missing for too long.
    pub(crate) fn missed(&self, now: Instant) -> bool {
        self.unanswered.front().is_some_and(|(_, sent)| now >= *sent + self.rhythm.missed)
    }
    /// When to look again.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let dead = self.heard + self.rhythm.dead;
        let missed = self.unanswered.front().map(|(_, sent)| *sent + self.rhythm.missed).filter(|at| *at > now);
        missed.map_or(dead, |at| at.min(dead)).min(self.next_ping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_falls_silent_is_missing_and_then_dead() {
        let start = Instant::now();
        let mut pulse = Pulse::new(Rhythm::default(), start);
        assert_eq!(pulse.due(start), Due::Ping(1));
        assert_eq!(pulse.answered(1, start + Duration::from_millis(20)), Some(Duration::from_millis(20)));
        let mut now = start;
        let (mut missed, mut dead) = (None, None);
        while dead.is_none() {
            now = pulse.next(now);
            if pulse.due(now) == Due::Dead {
                dead = Some(now - start);
            }
            if missed.is_none() && pulse.missed(now) {
                missed = Some(now - start);
            }
        }
        assert_eq!(missed, Some(PING_INTERVAL + PING_MISSED));
        assert_eq!(dead, Some(PEER_DEAD + Duration::from_millis(20)));
    }

    #[test]
    fn who_stood_still_itself_gives_the_peer_one_interval_more() {
        let start = Instant::now();
        let mut pulse = Pulse::new(Rhythm::default(), start);
        assert_eq!(pulse.due(start), Due::Ping(1));
        let late = start + 3 * PEER_DEAD;
        assert_eq!(pulse.due(late), Due::Ping(2));
        assert_eq!(pulse.due(late + PING_INTERVAL / 2), Due::Nothing);
        assert_eq!(pulse.due(late + PING_INTERVAL), Due::Dead);
    }

    #[test]
    fn an_answer_makes_it_whole_again_and_a_made_up_one_does_not() {
        let start = Instant::now();
        let mut pulse = Pulse::new(Rhythm::default(), start);
        assert_eq!(pulse.due(start), Due::Ping(1));
        let late = start + PING_MISSED;
        assert!(pulse.missed(late));
        assert_eq!(pulse.answered(77, late), None);
        assert!(pulse.missed(late));
        assert_eq!(pulse.due(late), Due::Ping(2));
        assert_eq!(pulse.answered(2, late), Some(Duration::ZERO));
        assert!(!pulse.missed(late + Duration::from_secs(1)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_keeps_the_oldest() {
        let start = Instant::now();
        let mut pulse = Pulse::new(Rhythm::default(), start);
        for _ in 0..1000 {
            pulse.ask(start);
        }
        assert_eq!(pulse.unanswered.len(), UNANSWERED_MAX);
        assert_eq!(pulse.unanswered.front().map(|(n, _)| *n), Some(1));
    }
}
