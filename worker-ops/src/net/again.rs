//! When a request to a cloud's service is sent again: throttling, and failures of the service's own, pass.
//!
//! It must never be used for a request that changes anything: such a one may have been carried out.

use shared_proto::failure::Code;
use std::time::Duration;

use crate::fault::Fault;

/// How often a request is sent at most.
const ATTEMPTS: u32 = 5;
/// The longest wait before the second attempt where the service names none; it doubles from one to the next, and each is a random part of it.
const WAIT_FIRST: Duration = Duration::from_millis(200);

/// The attempts of one request.
pub(crate) struct Again {
    attempt: u32,
    wait_max: Duration,
}

// === impl Again ===

impl Again {
    /// With the longest wait, whoever names it: a service that asks for a longer one is told of at once.
    pub(crate) const fn new(wait_max: Duration) -> Self {
        Self { attempt: 1, wait_max }
    }

    /// Waits after an attempt that failed, as long as the service asks for where it says that.
    ///
    /// # Errors
    /// The failure, where it stays.
    pub(crate) async fn after(&mut self, fault: Fault, asks: Option<Duration>) -> Result<(), Fault> {
        let passes = matches!(fault.code(), Code::TargetThrottled | Code::TargetFailed | Code::TargetLost);
        let most = (WAIT_FIRST * 2_u32.pow(self.attempt - 1)).min(self.wait_max);
        let wait = asks.unwrap_or_else(|| random_part(most));
        if !passes || self.attempt == ATTEMPTS || wait > self.wait_max {
            return Err(match asks {
                Some(wait) => fault.next(format!("Try again in {} s.", wait.as_secs())),
                None => fault,
            });
        }
        tokio::time::sleep(wait).await;
        self.attempt += 1;
        Ok(())
    }
}

/// A random part of a time, so that those who were refused together do not come back together.
fn random_part(most: Duration) -> Duration {
    let n = getrandom::u32().unwrap_or(u32::MAX / 2);
    most.mul_f64(f64::from(n) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_passes_is_tried_so_often_and_what_stays_once() {
        let fault = |code: Code| Fault::new(code, "no");
        let mut again = Again::new(Duration::ZERO);
        for _ in 1..ATTEMPTS {
            again.after(fault(Code::TargetThrottled), None).await.expect("once more");
        }
        let last = again.after(fault(Code::TargetThrottled), None).await.expect_err("the last");
        assert_eq!(last, fault(Code::TargetThrottled));
        for stays in [Code::TargetForbidden, Code::CredentialsExpired, Code::TargetNotFound] {
            assert!(Again::new(Duration::ZERO).after(fault(stays), None).await.is_err(), "{stays}");
        }
    }

    #[tokio::test]
    async fn both_sides_of_a_wait_that_the_service_names() {
        let fault = || Fault::new(Code::TargetThrottled, "busy");
        let most = Duration::from_millis(1);
        Again::new(most).after(fault(), Some(most)).await.expect("once more");
        let longer = Again::new(most).after(fault(), Some(Duration::from_secs(6))).await.expect_err("too long");
        assert_eq!(longer.failure.next_step, "Try again in 6 s.");
    }
}
