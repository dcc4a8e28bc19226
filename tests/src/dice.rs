//! Numbers that look random, the same for the same seed.

use anyhow::Result;

/// A state of them. Zero is none: it would stay.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// From `RUNNER_TEST_SEED`, or from one that nobody knows; it is printed, so that a run can be repeated.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn seeded() -> Result<Self> {
        let given = std::env::var("RUNNER_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = match given {
            Some(seed) => seed,
            None => {
                let mut bytes = [0; 8];
                getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("{e}"))?;
                u64::from_le_bytes(bytes)
            }
        } | 1;
        eprintln!("RUNNER_TEST_SEED={seed}");
        Ok(Self(seed))
    }
    /// Others, for somebody who throws beside this one: what one does then changes nothing of what the other gets.
    #[must_use]
    pub fn apart(&mut self) -> Self {
        Self(self.below(u64::MAX) | 1)
    }
    /// One below that.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
    /// One of them; `None` of none.
    pub fn of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        let n = usize::try_from(self.below(all.len() as u64)).ok()?;
        all.get(n).cloned()
    }
}
