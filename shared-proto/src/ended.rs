//! How a job's worker died, as the first process of the job writes it down for the supervisor: one small file in the job's folder. Whatever
//! runs in the job may write there too, so it says what is told to people and decides nothing.

use serde::{Deserialize, Serialize};

/// The file, in the worker's folder.
pub const FILE: &str = "worker-ended.json";
/// The longest that is read, bytes.
pub const SIZE_MAX: u64 = 4096;

/// A worker that did not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerEnded {
    /// The signal that ended it.
    pub signal: i32,
    /// What became of what it had started.
    pub left: Left,
}

/// What became of what a worker left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Left {
    /// There was nothing.
    Nothing,
    /// Its engine ended by itself when asked.
    Asked,
    /// It had to be killed.
    Killed,
}

/// Whether these bytes are a state as OpenTofu and Terraform write it, whole: what a full disk cut off is none. An encrypted one is.
pub fn is_whole_state(bytes: &[u8]) -> bool {
    serde_json::from_slice::<std::collections::HashMap<String, serde::de::IgnoredAny>>(bytes)
        .is_ok_and(|members| !members.is_empty())
}

// === impl Left ===

impl Left {
    /// In words, after what happened to the worker.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Nothing => "nothing of it was left running",
            Self::Asked => "its engine was asked to stop, and did",
            Self::Killed => "its engine was asked to stop, did not, and was killed",
        }
    }
}
