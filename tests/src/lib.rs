//! Builders of the end-to-end suites: one for each real component (a Kubernetes API server with kwok, moto, an engine, a proxy,
//! a wire that can be cut) and one for each of our own programs. A suite puts them together and waits on events.
//!
//! Nothing here leaves the machine: every listener is on loopback, on a port that the kernel chose. Whatever a builder starts it
//! ends, with all that came of it, when it is dropped; [`suite::Suite`] ends the rest when the test binary ends.
#![forbid(unsafe_code)]

pub mod archive;
pub mod clock;
pub mod cluster;
pub mod compare;
pub mod control_plane;
pub mod ctl;
pub mod cutter;
pub mod dial;
pub mod dice;
pub mod engine;
pub mod false_control_plane;
pub mod https;
pub mod light;
pub mod moto;
pub mod pki;
pub mod postgres;
pub mod process;
pub mod procfs;
pub mod proxy;
pub mod recorder;
pub mod runner;
pub mod scratch;
pub mod screens;
pub mod served;
pub mod storm;
pub mod suite;
pub mod tools;
pub mod wait;
pub mod web;
pub mod world;

pub use anyhow::{Context, Result, bail, ensure};
pub use cluster::Cluster;
pub use control_plane::ControlPlane;
pub use cutter::{Cutter, Wire};
pub use engine::{Engine, EngineKind};
pub use moto::Moto;
pub use postgres::Postgres;
pub use process::Process;
pub use proxy::HttpProxy;
pub use runner::Runner;
pub use scratch::Scratch;
pub use suite::Suite;
pub use tools::Component;
pub use wait::eventually;
pub use web::Web;
