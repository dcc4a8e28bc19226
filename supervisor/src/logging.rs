//! Log lines on standard error: text for people, or one JSON object a line. Secrets have no way in: what holds one cannot print itself.

use crate::config::{ConfigError, LogFormat};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Starts logging. Once for each process.
///
/// # Errors
/// A filter that is none.
pub fn start(format: LogFormat, level: &str) -> Result<(), ConfigError> {
    let filter = EnvFilter::builder().parse(level).map_err(|e| {
        ConfigError(format!("log_level {level:?}: {e}; it is error, warn, info, debug or trace, or TARGET=LEVEL,…"))
    })?;
    // a reader of the log that goes away must not end the program: the default complains on the same broken pipe, and panics
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = match format {
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            builder.with_ansi(colour).with_target(false).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    started.map_err(|e| ConfigError(format!("logging: {e}")))
}
