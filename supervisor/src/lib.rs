//! The runner: launcher, spawner and supervisor, three processes of one binary.
//!
//! ```text
//!  runner run = launcher ──┬── supervisor   keys, policy, tunnel, routing; this crate's rooms but two
//!                          └── spawner      executes workers; single-threaded, holds nothing
//! ```
//! No room knows the inside of another; [`supervisor`] joins them. This crate must never link a cloud SDK, an engine or SQL.
#![forbid(unsafe_code)]

/// A line on standard error that may be lost: whoever reads it may be gone, and that must not end a process on which others depend.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        // at once: launcher, supervisor and spawner have one stream, and pieces of their lines would stand in each other's
        let line = format!("{}\n", format_args!($($text)*));
        let _ = std::io::stderr().write_all(line.as_bytes());
    }};
}
pub(crate) use say;

pub mod admin;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod container;
pub mod credentials;
mod descriptor;
pub mod domains;
pub mod engines;
pub mod exit;
pub mod hand_over;
pub mod intake;
pub mod isolation;
mod job_network;
pub mod jobs;
pub mod launcher;
pub mod logging;
pub mod net;
pub mod operations;
pub mod own;
pub mod policy;
pub mod preflight;
pub mod recorder;
pub mod recordings;
pub mod secrets;
pub mod spawner;
pub mod state;
pub mod supervisor;
pub mod tunnel;
pub mod workers;
