//! What of the job's worker others measure and test by itself: how secrets are taken out of what is recorded.
#![forbid(unsafe_code)]

pub mod redaction;
