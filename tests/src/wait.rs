//! Waiting for a state that announces itself by no event.

use anyhow::{Context as _, Result, anyhow};
use std::future::Future;
use std::time::{Duration, Instant};

/// Asks again and again until there is an answer, at the latest until the deadline. `what` is the end of the sentence
/// "waited … for". A failing question is asked again too: its last error is what the final one says.
///
/// # Errors
/// The deadline passed.
pub async fn eventually<T, F, Fut>(deadline: Duration, what: &str, mut question: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let last = match question().await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => anyhow!("it did not come to be"),
            Err(e) => e,
        };
        if start.elapsed() > deadline {
            return Err(last).with_context(|| format!("waited {deadline:?} for {what}"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(200));
    }
}

/// Awaits a future, at the latest until the deadline, and says for what.
///
/// # Errors
/// The deadline passed.
pub async fn within<T>(deadline: Duration, what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(deadline, future).await.map_err(|_| anyhow!("waited {deadline:?} for {what}"))
}
