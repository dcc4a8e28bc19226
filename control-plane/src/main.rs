//! The life of the control plane: read configuration, start logging, build, serve, drain, exit code.
#![forbid(unsafe_code)]

use runner_control_plane::config::{Config, ConfigError, Task};
use runner_control_plane::{backup, logging, program};
use std::process::ExitCode;

fn main() -> ExitCode {
    let config = match Config::read(std::env::args_os()) {
        Ok(config) => config,
        Err(ConfigError::Usage(error)) if !error.use_stderr() => {
            // help or the version was asked for
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(program::EXIT_USAGE);
        }
    };
    if let Err(error) = logging::start(&config) {
        eprintln!("{error}");
        return ExitCode::from(program::EXIT_USAGE);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the runtime did not start: {error}");
            return ExitCode::from(program::EXIT_UNAVAILABLE);
        }
    };
    let done = match &config.task {
        Task::Serve => runtime.block_on(program::run(config)).map_err(|e| (e.to_string(), e.exit_code())),
        Task::BackUp(to) => said(runtime.block_on(backup::back_up(&config.data, to))),
        Task::Restore(from) => said(runtime.block_on(backup::restore(from, &config.data))),
    };
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((error, code)) => {
            tracing::error!("{error}");
            ExitCode::from(code)
        }
    };
    // what still runs was told to end and had its time
    runtime.shutdown_background();
    code
}

/// What a command has done, on standard output.
fn said(done: Result<backup::Done, backup::BackupError>) -> Result<(), (String, u8)> {
    match done {
        Ok(done) => {
            println!("{done}");
            Ok(())
        }
        Err(error) => Err((error.to_string(), program::EXIT_UNAVAILABLE)),
    }
}
