//! The binary `runner`. One of three processes, decided by the first argument before anything else is done: launcher and spawner must stay
//! small, so they never come near the command line's parser.
#![forbid(unsafe_code)]

use runner_supervisor::{cli, exit, launcher, spawner, supervisor};
use std::ffi::OsString;

fn main() {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    std::process::exit(life(arguments));
}

fn life(mut arguments: Vec<OsString>) -> i32 {
    let role = arguments.first().and_then(|a| a.to_str()).unwrap_or_default().to_owned();
    let asks_for_help = arguments.iter().any(|a| a == "--help" || a == "-h");
    match role.as_str() {
        "run" if !asks_for_help => launcher::run(arguments.split_off(1)),
        "resume" => launcher::resume(arguments.split_off(1)),
        "spawner" => match runner_sandbox::inherited_descriptor(3) {
            Ok(supervisor) => {
                // the supervisor's memory may be locked without a bound, its workers' may not
                let _ = runner_sandbox::own::bound_locked_memory();
                spawner::run(
                    supervisor,
                    arguments.get(1).is_some_and(|a| a.as_encoded_bytes() == launcher::SECOND.to_bytes()),
                )
            }
            Err(e) => {
                eprintln!("runner spawner: {e}; the launcher (`runner run`) starts it");
                exit::USAGE
            }
        },
        "trial" => spawner::sandboxes::try_it(),
        "trial-job" => spawner::sandboxes::try_job(),
        "trial-wait" => spawner::scopes::wait(),
        "trial-inside" => spawner::sandboxes::try_to_connect(),
        "supervisor" => match cli::settings(arguments.split_off(1)) {
            Ok(flags) => supervisor::run(&flags),
            Err(code) => code,
        },
        _ => cli::run(arguments),
    }
}
