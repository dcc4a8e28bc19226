//! Time that goes on while the machine is suspended, and steps of nobody's clock move: for what happens elsewhere meanwhile.
//!
//! `Instant` is the other kind: it stands still with the machine, as timers do.

use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether the machine was suspended: as long as it may take to be noticed.
const LOOK: Duration = Duration::from_secs(1);
/// What the two clocks may differ by between two looks without that meaning anything.
const NOTICED: Duration = Duration::from_millis(500);

pub use shared_proto::chance::since_boot;

/// Notices that the machine was suspended.
#[derive(Debug)]
pub struct Suspension {
    seen: (Instant, Duration),
    next: Instant,
}

// === impl Suspension ===

impl Default for Suspension {
    fn default() -> Self {
        let now = Instant::now();
        Self { seen: (now, since_boot()), next: now + LOOK }
    }
}

impl Suspension {
    /// Waits until the machine has been suspended; for how long it was. May be dropped and asked again at any time.
    pub async fn woke(&mut self) -> Duration {
        loop {
            tokio::time::sleep_until(self.next).await;
            self.next = Instant::now() + LOOK;
            if let Some(away) = self.look(Instant::now(), since_boot()) {
                return away;
            }
        }
    }

    /// For how long it was since the last look, where it was at all.
    fn look(&mut self, now: Instant, boot: Duration) -> Option<Duration> {
        let (before, boot_before) = std::mem::replace(&mut self.seen, (now, boot));
        let away = boot.saturating_sub(boot_before).saturating_sub(now.saturating_duration_since(before));
        (away >= NOTICED).then_some(away)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_was_suspended_where_one_clock_went_on_without_the_other() {
        let (start, boot) = (Instant::now(), Duration::from_secs(1000));
        let mut suspension = Suspension { seen: (start, boot), next: start };
        let second = Duration::from_secs(1);
        // both went on, however late it was looked
        assert_eq!(suspension.look(start + second, boot + second), None);
        assert_eq!(suspension.look(start + 61 * second, boot + 61 * second), None);
        let (now, then) = (start + 62 * second, boot + 62 * second);
        assert_eq!(suspension.look(now, then + NOTICED - Duration::from_millis(1)), None);
        assert_eq!(suspension.look(now, then + 2 * NOTICED), Some(NOTICED + Duration::from_millis(1)));
        // said once
        assert_eq!(suspension.look(now + second, then + 2 * NOTICED + second), None);
        // a clock that goes back is no suspension
        assert_eq!(suspension.look(now + 2 * second, Duration::ZERO), None);
    }

    #[test]
    fn the_clock_is_there() {
        let first = since_boot();
        assert!(first > Duration::ZERO && since_boot() >= first);
    }
}
