//! Everyone comes back at once: thousands of light sessions with real mutual TLS from this process, whose control plane is killed and
//! started again, beside one ordinary runner whose operations are counted meanwhile. Build with `--release`.
//!
//! ```text
//! bench-storm [SESSIONS]           2000 unless given; three times; exit 1 where not all are back within 30 s
//! ```
#![forbid(unsafe_code)]

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use runner_tests::storm::storm;
use runner_tests::world::usual_cluster;
use std::process::ExitCode;
use std::time::Duration;

const BACK: Duration = Duration::from_secs(30);
const ROUNDS: usize = 3;

fn main() -> ExitCode {
    let sessions: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(2000);
    let code = match run(sessions.max(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-storm: {error:?}");
            ExitCode::FAILURE
        }
    };
    runner_tests::process::end_all();
    runner_tests::scratch::remove_root();
    code
}

fn run(sessions: usize) -> Result<()> {
    // a descriptor a session
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let cluster = usual_cluster().await?;
        for _ in 0..ROUNDS {
            println!("{}", storm(&cluster, sessions, BACK).await?);
        }
        Ok(())
    })
}
