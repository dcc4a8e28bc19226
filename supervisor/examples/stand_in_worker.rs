//! In the place of `runner-worker-ops` in this crate's tests.
#![forbid(unsafe_code)]

#[path = "../tests/runner/worker.rs"]
#[allow(dead_code)] // the tests' side of it
mod worker;

fn main() {
    worker::run();
}
