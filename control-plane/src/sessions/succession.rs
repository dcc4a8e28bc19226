//! What a session has announced about whoever is to have its place: the digest of a token that another process of its instance will show.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a hand-over token is good for.
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// At most one announcement, which is good once. The token itself is never kept.
#[derive(Debug, Default)]
pub(super) struct Announced(Mutex<Option<Token>>);

#[derive(Debug)]
struct Token {
    sha256: [u8; 32],
    until: Instant,
}

// === impl Announced ===

impl Announced {
    fn lock(&self) -> MutexGuard<'_, Option<Token>> {
        // nothing panics while holding it
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Announces the token with that digest, in the place of one before.
    pub(super) fn announce(&self, sha256: [u8; 32], now: Instant) {
        *self.lock() = Some(Token { sha256, until: now + TOKEN_LIFE });
    }
    /// Nobody is to come any more.
    pub(super) fn withdraw(&self) {
        *self.lock() = None;
    }
    /// Whether that is the token; it is no good any more then.
    pub(super) fn redeem(&self, token: &[u8], now: Instant) -> bool {
        use sha2::Digest as _;
        let sha256 = sha2::Sha256::digest(token);
        self.lock().take_if(|announced| announced.sha256[..] == sha256[..] && now < announced.until).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256(token: &str) -> [u8; 32] {
        use sha2::Digest as _;
        sha2::Sha256::digest(token).into()
    }

    #[test]
    fn a_token_is_good_once_and_for_a_minute() {
        let (announced, start) = (Announced::default(), Instant::now());
        assert!(!announced.redeem(b"a", start) && !announced.redeem(b"", start));
        for (age, good) in [(TOKEN_LIFE - Duration::from_millis(1), true), (TOKEN_LIFE, false)] {
            announced.announce(sha256("a"), start);
            assert!(!announced.redeem(b"b", start) && !announced.redeem(&sha256("a"), start));
            assert_eq!(announced.redeem(b"a", start + age), good, "{age:?}");
            assert!(!good || !announced.redeem(b"a", start), "a second time");
        }
        announced.announce(sha256("a"), start);
        announced.announce(sha256("b"), start);
        assert!(!announced.redeem(b"a", start), "the one before");
        announced.withdraw();
        assert!(!announced.redeem(b"b", start), "withdrawn");
    }
}
