//! The runner: launcher, spawner and supervisor, three processes of one binary.
//!
//! ```text
//!  runner run = launcher ──┬── supervisor   keys, policy, tunnel, routing; this crate's rooms but two
//!                          └── spawner      executes workers; single-threaded, holds nothing
//! ```
//! No room knows the inside of another; [`supervisor`] joins them. This crate must never link a cloud SDK, an engine or SQL.
#![forbid(unsafe_code)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod credentials;
mod descriptor;
pub mod exit;
pub mod isolation;
pub mod jobs;
pub mod launcher;
pub mod logging;
pub mod operations;
pub mod spawner;
pub mod state;
pub mod supervisor;
pub mod tunnel;
pub mod workers;
