//! The control plane: the CA, the listener that runners dial (tunnel and execution service), and the HTTP API.
//!
//! It must never hold a customer's cloud credentials, never send a runner a path, a variable's name or a command to run, and
//! never route by what a message says of itself: identity is that of the TLS session.
#![forbid(unsafe_code)]

pub mod api;
pub mod backup;
pub mod clock;
pub mod config;
pub mod cron;
pub mod execution;
pub mod first_start;
pub mod identity;
mod isolation;
pub mod listener;
pub mod logging;
pub mod operations;
pub mod pki;
pub mod program;
pub mod sessions;
pub mod store;
