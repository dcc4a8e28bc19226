//! One cloud operation, or one resolution of credentials, in a process of its own: the request comes over the inherited socket, the
//! answer goes back over it, and the process ends.
//!
//! It must never read the runner's own files, take a path, a variable or a command from what the control plane sent, or print
//! what is secret. argv carries the mode and nothing else.
#![forbid(unsafe_code)]

mod aws;
mod azure;
mod document;
mod fault;
mod found;
mod gcp;
mod kubernetes;
mod net;
mod operation;
mod resolve;
mod secrets;
mod socket;
mod steps;
mod vault;

use shared_proto::dial::DESCRIPTOR;
use shared_proto::frame::FrameError;
use std::process::ExitCode;

/// Ended as it should, whatever the outcome that went over the socket.
const DONE: u8 = 0;
/// Called in a way that no runner calls it.
const USAGE: u8 = 64;
/// The socket is not what it should be, or what came over it is not.
const PROTOCOL: u8 = 76;

fn main() -> ExitCode {
    // where it cannot be, a fault is only named less well
    let _ = runner_sandbox::process::end_by_signals();
    let mode = std::env::args().nth(1).unwrap_or_default();
    let ended = match mode.as_str() {
        "operation" => operation::inherit().map_err(FrameError::from).and_then(|given| live(operation::run(given))),
        "resolve" => operation::inherit().map_err(FrameError::from).and_then(|given| live(resolve::run(given))),
        // the second half of a resolution: the same program once more, with the environment that the request gave
        "resolve-aws" => runner_sandbox::inherited_descriptor(DESCRIPTOR)
            .map_err(FrameError::from)
            .and_then(|dial| live(resolve::run_aws(dial))),
        _ => return complain(USAGE, "started by the runner only: runner-worker-ops operation|resolve"),
    };
    match ended {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => complain(PROTOCOL, &error.to_string()),
    }
}

fn live(work: impl Future<Output = Result<(), FrameError>>) -> Result<(), FrameError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(work);
    // a resolver's look-up of a name may still run on a thread of its own: nobody waits for it
    runtime.shutdown_background();
    ended
}

fn complain(code: u8, what: &str) -> ExitCode {
    eprintln!("runner-worker-ops: {what}");
    ExitCode::from(code)
}
