//! `runnerctl`: what people type. It talks to the control plane's HTTP API and to nothing else; `runnerctl demo` also starts
//! the other programs. It must never print a secret, and never write a terminal's escape sequences that came from outside.
#![forbid(unsafe_code)]

mod archive;
mod args;
mod client;
mod commands;
mod config;
mod demo;
mod interrupt;
mod output;
mod stop;
mod terminal;

use clap::Parser as _;
use std::io::Write as _;

fn main() {
    terminal::restore_on_panic();
    let arguments = match args::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => std::process::exit(stop::usage(&error)),
    };
    // with two providers in a tree rustls could not choose; named here once
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime did not start: {error} [internal]");
            std::process::exit(stop::SOFTWARE);
        }
    };
    let code = match runtime.block_on(commands::run(arguments)) {
        Ok(()) => 0,
        Err(stop) => stop.report(),
    };
    terminal::restore();
    let _ = std::io::stdout().flush();
    // a blocked read of standard input must not hold the end
    runtime.shutdown_background();
    std::process::exit(code);
}
