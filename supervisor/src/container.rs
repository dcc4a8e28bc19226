//! Whether this runner is the first process of a container, and which life of that container this is.
//!
//! With the first process of a pid namespace everything ends that is in it, so a container that is started again has none of the processes of
//! before, and has their numbers again from 1 on: on the same boot of the same machine, and where start times count from the container's own
//! start (gVisor, time namespaces) perhaps with the same start times. So a launcher that is such a first process draws a number for its life,
//! and what is written down of a process names it.

use std::ffi::CString;
use std::io;
use std::sync::OnceLock;

/// The variable by which the launcher tells its supervisors, and whoever is executed in its place. Nobody else's is believed: it takes it out.
pub const VARIABLE: &str = "RUNNER_CONTAINER_LIFE";

/// Draws the number of this life, where this process is the first of its pid namespace; as the variable that tells it.
///
/// # Errors
/// The system has no random numbers.
pub fn begin() -> io::Result<Option<CString>> {
    if nix::unistd::getpid().as_raw() != 1 {
        return Ok(None);
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(CString::new(format!("{VARIABLE}={}", shared_proto::hex::encode(bytes))).ok())
}

/// The variable as the launcher that executed this program in its own place has left it: it is the same life.
pub fn resumed() -> Option<CString> {
    let life = std::env::var(VARIABLE).ok().filter(|_| nix::unistd::getpid().as_raw() == 1)?;
    CString::new(format!("{VARIABLE}={life}")).ok()
}

/// The number of the container's life that this process is in; empty: its launcher is no container's first process.
pub fn life() -> &'static str {
    static LIFE: OnceLock<String> = OnceLock::new();
    LIFE.get_or_init(|| std::env::var(VARIABLE).unwrap_or_default())
}
