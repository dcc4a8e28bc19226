//! Newer credentials for a job at work: looked for every so often, and told where they are others than those that it has. Must never keep
//! whoever watches the job waiting, nor keep credentials longer than it takes to tell them.

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::JobStart;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// What the targets of a job's start are known by.
pub(super) type Told = [u8; 32];

/// The credentials that a job has, and those that are looked for.
#[derive(Debug)]
pub(super) struct Renewal {
    told: Option<Told>,
    looked: Instant,
    looking: Option<JoinHandle<Result<JobStart, Failure>>>,
}

impl Renewal {
    /// Of a job that was told these; none: nobody knows which it has.
    pub(super) fn new(told: Option<Told>) -> Self {
        Self { told, looked: Instant::now(), looking: None }
    }
    /// Whether it is time to look.
    pub(super) fn is_due(&self, every: Duration) -> bool {
        self.looking.is_none() && (self.told.is_none() || self.looked.elapsed() >= every)
    }
    /// Looks for them meanwhile.
    pub(super) fn begin(&mut self, looking: impl Future<Output = Result<JobStart, Failure>> + Send + 'static) {
        self.looked = Instant::now();
        self.looking = Some(tokio::spawn(looking));
    }
    /// What was found; for ever where nobody looks. May be dropped and asked again.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) async fn done(&mut self) -> Result<JobStart, Failure> {
        let Some(looking) = &mut self.looking else { return std::future::pending().await };
        let found = looking.await;
        self.looking = None;
        // where they are not to be had they are looked for again as any others
        self.told.get_or_insert_default();
        found.unwrap_or_else(|e| Err(Code::Internal.on(format!("the credentials were not looked for: {e}"))))
    }
    /// Whether these are others than the job has.
    pub(super) fn is_news(&self, start: &JobStart) -> bool {
        self.told != Some(digest(start))
    }
    /// The job has these.
    pub(super) fn told(&mut self, start: &JobStart) {
        self.told = Some(digest(start));
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        if let Some(looking) = &self.looking {
            looking.abort();
        }
    }
}

/// What these are known by.
pub(super) fn digest(start: &JobStart) -> Told {
    let mut hash = Sha256::new();
    for target in start.targets.iter().chain(start.state_place.iter().filter_map(|place| place.target.as_ref())) {
        hash.update(target.encode_length_delimited_to_vec());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::v1::{AwsTarget, JobTarget, StatePlace, Target, target};

    #[test]
    fn credentials_of_the_place_of_states_are_news_too() {
        let with = |token: &str| {
            let account = AwsTarget { session_token: token.into(), ..AwsTarget::default() };
            let target = Target { kind: Some(target::Kind::Aws(account)) };
            let target = Some(JobTarget { target: Some(target), ..JobTarget::default() });
            JobStart { state_place: Some(StatePlace { target, ..StatePlace::default() }), ..JobStart::default() }
        };
        let renewal = Renewal::new(Some(digest(&with("one"))));
        assert!(!renewal.is_news(&with("one")) && renewal.is_news(&with("two")));
        assert!(renewal.is_news(&JobStart::default()));
    }
}
