//! Time and chance as the system has them, and, on a thread that says so, as a simulation has them: the same program then runs under times
//! and numbers that a seed decides. A program that does not simulate never does say so.

use nix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::time::Duration;

/// What a simulation says, on its own thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Simulated {
    /// Unix milliseconds: a step moves it.
    pub wall_ms: i64,
    /// Since the machine started: no step moves it.
    pub since_boot: Duration,
    /// From which the next random number is made.
    pub seed: u64,
}

thread_local! {
    static SIMULATED: Cell<Option<Simulated>> = const { Cell::new(None) };
}

/// Has this thread live in a simulation from now on, or not any more.
pub fn simulate(simulated: Option<Simulated>) {
    SIMULATED.set(simulated);
}

/// What this thread lives in.
pub fn simulated() -> Option<Simulated> {
    SIMULATED.get()
}

/// The number of milliseconds since the Unix epoch, by this machine's clock; 0 before it.
pub fn now_ms() -> i64 {
    if let Some(simulated) = SIMULATED.get() {
        return simulated.wall_ms;
    }
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Since the machine started, suspension included.
pub fn since_boot() -> Duration {
    if let Some(simulated) = SIMULATED.get() {
        return simulated.since_boot;
    }
    // there is no Linux without this clock; where it is refused nobody is suspended either
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or_else(|_| Duration::ZERO, Duration::from)
}

/// A random number for waits in 0.0 ..= 1.0, and for nothing that must not be guessed; the middle where the system has no randomness to give.
pub fn random() -> f64 {
    let Some(mut simulated) = SIMULATED.get() else {
        return getrandom::u32().map_or(0.5, |n| f64::from(n) / f64::from(u32::MAX));
    };
    // SplitMix64
    simulated.seed = simulated.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    SIMULATED.set(Some(simulated));
    let mut z = simulated.seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_simulates_has_its_own_time_and_chance() {
        let real = (now_ms(), since_boot());
        assert!(real.0 > 1_600_000_000_000 && real.1 > Duration::ZERO);
        let begin = Simulated { wall_ms: 5, since_boot: Duration::from_secs(7), seed: 1 };
        let numbers = || {
            simulate(Some(begin));
            assert_eq!((now_ms(), since_boot()), (5, Duration::from_secs(7)));
            let numbers: Vec<_> = (0..1000).map(|_| random()).collect();
            simulate(None);
            numbers
        };
        let first = numbers();
        assert_eq!(first, numbers());
        assert!(first.iter().all(|n| (0.0..=1.0).contains(n)));
        assert!(first.iter().any(|n| *n < 0.1) && first.iter().any(|n| *n > 0.9));
        assert!(now_ms() >= real.0 && since_boot() >= real.1);
        // another thread is not in it
        simulate(Some(begin));
        let elsewhere = std::thread::spawn(now_ms).join().expect("ends");
        simulate(None);
        assert!(elsewhere >= real.0);
    }
}
