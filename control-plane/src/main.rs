//! The life of the control plane: read configuration, start logging, build, serve, drain, exit code.
#![forbid(unsafe_code)]

use runner_control_plane::config::{Config, ConfigError};
use runner_control_plane::{logging, program};
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
    let code = match runtime.block_on(program::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    };
    // what still runs was told to end and had its time
    runtime.shutdown_background();
    code
}
