//! Time for leases: milliseconds that look like the wall clock's, and that no step of it moves while this program runs. Suspension counts.

use std::sync::OnceLock;

/// The wall clock when it was first asked, less the time since boot then.
static BEGIN: OnceLock<i64> = OnceLock::new();

/// Unix milliseconds by the wall clock as it was when this program started. To be compared with its own kind only, within one run of the
/// program: what an earlier one wrote counts anew.
pub fn steady_ms() -> i64 {
    let boot = since_boot_ms();
    BEGIN.get_or_init(|| shared_proto::now_ms().saturating_sub(boot)).saturating_add(boot)
}

fn since_boot_ms() -> i64 {
    i64::try_from(shared_proto::chance::since_boot().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_the_wall_clock_and_goes_on() {
        let first = steady_ms();
        assert!((shared_proto::now_ms() - first).abs() < 60_000);
        assert!(steady_ms() >= first);
    }
}
