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
///
/// It is read in the memory that it has: what ran in the job has written it, and nothing of it is kept.
pub fn is_whole_state(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct State {
        serial: Option<serde::de::IgnoredAny>,
        encrypted_data: Option<serde::de::IgnoredAny>,
    }
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    is_object && serde_json::from_slice::<State>(bytes).is_ok_and(|s| s.serial.is_some() || s.encrypted_data.is_some())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_off_is_no_state() {
        for whole in [
            &br#"{"version":4,"serial":7,"resources":[{"a":[1,{}]}]}"#[..],
            b" {\"meta\":{},\"encrypted_data\":\"x\"}\n",
        ] {
            assert!(is_whole_state(whole));
            for cut in 0..whole.trim_ascii_end().len() {
                assert!(!is_whole_state(&whole[..cut]), "cut at {cut}");
            }
        }
        for other in ["{}", "[1,2]", "7", "null", r#"{"version":4}"#] {
            assert!(!is_whole_state(other.as_bytes()), "{other}");
        }
        // many members cost nothing but the time to read them
        let many: String = (0..100_000).map(|n| format!("\"{n}\":0,")).collect();
        assert!(is_whole_state(format!("{{{many}\"serial\":1}}").as_bytes()));
    }
}
