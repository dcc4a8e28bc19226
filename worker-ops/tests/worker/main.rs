//! The worker as the runner starts it: the real binary, a socketpair on descriptor 3, real targets.

mod aws;
mod aws_listing;
mod aws_logs;
mod aws_permissions;
mod aws_session;
mod azure;
mod azure_resolve;
mod azure_stand_in;
mod container;
mod exec;
mod gcp;
mod gcp_logs;
mod gcp_resolve;
mod gcp_tokens;
mod google;
mod harness;
mod kubernetes;
mod kubernetes_permissions;
mod process;
mod ready;
mod resolve;
mod secrets;
mod server;
mod source_resolve;

use runner_tests::Suite;
use std::process::ExitCode;

fn main() -> ExitCode {
    let suite = process::scenarios(Suite::new());
    let suite = kubernetes::scenarios(suite);
    let suite = exec::scenarios(suite);
    let suite = ready::scenarios(suite);
    let suite = aws::scenarios(suite);
    let suite = aws_listing::scenarios(suite);
    let suite = aws_logs::scenarios(suite);
    let suite = aws_permissions::scenarios(suite);
    let suite = aws_session::scenarios(suite);
    let suite = kubernetes_permissions::scenarios(suite);
    let suite = gcp::scenarios(suite);
    let suite = gcp_logs::scenarios(suite);
    let suite = gcp_resolve::scenarios(suite);
    let suite = azure::scenarios(suite);
    let suite = azure_resolve::scenarios(suite);
    let suite = secrets::scenarios(suite);
    let suite = source_resolve::scenarios(suite);
    resolve::scenarios(suite).run()
}
