//! `runner-worker-iac job`: one step (plan, apply, outputs) of one infrastructure job, in processes of its own: the first (`first`), and the
//! worker that it starts as `runner-worker-iac step`, or as `follow` after one that has died. `judge` is for people who try their rules.
//!
//! The worker reads what to do from descriptor 3, runs the engine, and appends what happens to the spool in its working directory. It goes
//! on whoever else dies: it must never write to a supervisor's socket in a way that can block or fail the job, never put a secret
//! into argv, an event or a file that others can read, and never send an engine a second SIGINT.
#![forbid(unsafe_code)]

mod cancel;
mod configuration;
mod control;
mod engine;
mod events;
mod first;
mod hooks;
mod journal;
mod limits;
mod masked;
mod masks;
mod net;
mod plan;
mod process;
mod rules;
mod secrets;
mod source;
mod start;
mod step;
mod stop;
mod store;
mod variables;

use engine::followed::Followed;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use step::Begin;
use store::keeper::Keeper;

/// Where the job's first process puts the pair of its keeper: behind the socket with the request, and where there is none.
const KEEPER: i32 = 4;
const KEEPER_OF_FOLLOWER: i32 = 3;

/// The longest question about a plan, bytes: a set of rules as a text in JSON.
const QUESTION_MAX: u64 = 4 * 1024 * 1024;

/// Exit codes, beside 0 for a step that ended as its events say: they are for the log only, the spool has the result.
mod exit {
    /// The command line is wrong (`EX_USAGE`).
    pub(crate) const USAGE: u8 = 64;
    /// The request on descriptor 3 is wrong (`EX_DATAERR`).
    pub(crate) const DATA: u8 = 65;
    /// The spool cannot be written (`EX_IOERR`): the supervisor writes the result in this process' place.
    pub(crate) const SPOOL: u8 = 74;
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("job"), None) => match first::run() {
            Ok(code) => ExitCode::from(code),
            Err(e) => {
                eprintln!("runner-worker-iac: {e}");
                ExitCode::from(exit::DATA)
            }
        },
        (Some("step"), None) => step(),
        (Some("judge"), None) => judge(),
        (Some("follow"), Some(signal)) => follow(signal.parse().unwrap_or(0)),
        _ => {
            eprintln!("usage: runner-worker-iac job (started by the runner, with its request on descriptor 3)");
            ExitCode::from(exit::USAGE)
        }
    }
}

/// Goes on with what a worker has left that was ended by this signal.
fn follow(signal: i32) -> ExitCode {
    let _ = runner_sandbox::process::end_by_signals();
    let keeper = Keeper::inherited(KEEPER_OF_FOLLOWER);
    match Followed::find(Path::new("events")) {
        Some(followed) => work(Begin::Follows(signal, Box::new(followed)), keeper),
        None => ExitCode::from(first::NOTHING_TO_FOLLOW),
    }
}

fn step() -> ExitCode {
    // where it cannot be, a fault is only named less well
    let _ = runner_sandbox::process::end_by_signals();
    let keeper = Keeper::inherited(KEEPER);
    match start::read_inherited() {
        Ok(start) => work(Begin::Told(Box::new(start)), keeper),
        Err(e) => {
            eprintln!("runner-worker-iac: the request on descriptor 3: {e}");
            ExitCode::from(exit::DATA)
        }
    }
}

/// For `runner policy test`: a question on standard input, a judgement on standard output.
fn judge() -> ExitCode {
    let asked = std::io::read_to_string(std::io::stdin().take(QUESTION_MAX)).map_err(|e| e.to_string());
    let asked = asked.and_then(|text| serde_json::from_str(&text).map_err(|e| format!("its question: {e}")));
    let said = asked.and_then(plan::judge_file);
    match said.and_then(|judgement| serde_json::to_string(&judgement).map_err(|e| e.to_string())) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("{what}");
            ExitCode::from(exit::DATA)
        }
    }
}

fn work(begin: Begin, keeper: Option<Keeper>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("runner-worker-iac: cannot start: {e}");
            return ExitCode::from(exit::SPOOL);
        }
    };
    let ended = runtime.block_on(step::run(begin, keeper));
    // an unpacking thread that was cancelled may still be at its last file
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("runner-worker-iac: the spool: {e}");
            ExitCode::from(exit::SPOOL)
        }
    }
}
