//! The worker as the runner starts it: the real binary, a socketpair on descriptor 3, real targets.

mod aws;
mod azure;
mod azure_resolve;
mod azure_stand_in;
mod container;
mod exec;
mod harness;
mod kubernetes;
mod process;
mod resolve;
mod server;

use runner_tests::Suite;
use std::process::ExitCode;

fn main() -> ExitCode {
    let suite = process::scenarios(Suite::new());
    let suite = kubernetes::scenarios(suite);
    let suite = exec::scenarios(suite);
    let suite = aws::scenarios(suite);
    let suite = azure::scenarios(suite);
    let suite = azure_resolve::scenarios(suite);
    resolve::scenarios(suite).run()
}
