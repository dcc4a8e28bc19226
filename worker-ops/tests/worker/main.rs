//! The worker as the runner starts it: the real binary, a socketpair on descriptor 3, real targets.

mod aws;
mod container;
mod exec;
mod gcp;
mod gcp_logs;
mod gcp_resolve;
mod gcp_tokens;
mod google;
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
    let suite = gcp::scenarios(suite);
    let suite = gcp_logs::scenarios(suite);
    let suite = gcp_resolve::scenarios(suite);
    resolve::scenarios(suite).run()
}
