//! What a job uses of the memory and the processes that its control group allows, where it has one: looked at while it runs, because the
//! group goes with the job.

use runner_sandbox::cgroup::{self, Group};
use std::time::{Duration, Instant};

/// Of its memory, in hundredths: from here on a job is asked to end, while its engine can still write its state.
const SOFT: u64 = 85;
const MIB: u64 = 1 << 20;
/// How long it may take until a new job is in its group.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);

/// A job's bounds.
#[derive(Debug)]
pub(super) struct Bounds {
    group: Group,
    memory: u64,
    oom_kills: u64,
    refused: u64,
    asked: bool,
    peak: u64,
}

/// Something that a job ran into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    /// What, with the limit and what was used.
    pub(super) what: String,
    /// Whether it is to be asked to end.
    pub(super) asks: bool,
    /// Whether it is ended at once.
    pub(super) ends: bool,
    /// Whether it is a bound of memory.
    pub(super) memory: bool,
    /// Whether it is a bound of the disk.
    pub(super) disk: bool,
}

// === impl Bounds ===

impl Bounds {
    /// Of the job whose first process that is.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let group = cgroup::of_job(pid)?;
        let memory = group.number("memory.max")?;
        Some(Self { group, memory, oom_kills: 0, refused: 0, asked: false, peak: 0 })
    }

    /// The same for one that was just started; `None` where it does not come to be in a group.
    pub(super) async fn settled(pid: i32) -> Option<Self> {
        let end = Instant::now() + SETTLED_WITHIN;
        loop {
            match Self::of(pid) {
                None if Instant::now() < end => tokio::time::sleep(Duration::from_millis(5)).await,
                found => return found,
            }
        }
    }

    /// What it took of memory at its most, bytes, when it was last looked at; 0: not known.
    pub(super) fn peak(&self) -> u64 {
        self.peak
    }
    /// What it has run into since it was last looked at.
    pub(super) fn look(&mut self) -> Option<Hit> {
        self.peak = self.group.number("memory.peak").unwrap_or(self.peak);
        let kills = self.group.entry("memory.events", "oom_kill").unwrap_or(0);
        if kills > self.oom_kills {
            self.oom_kills = kills;
            let peak = self.group.number("memory.peak").map(|p| format!(", {} MiB at its most", p / MIB));
            let what = format!(
                "the kernel ended a process of it: it ran out of its {} MiB of memory{}",
                self.memory / MIB,
                peak.unwrap_or_default()
            );
            return Some(Hit { what, asks: false, ends: false, memory: true, disk: false });
        }
        let refused = self.group.entry("pids.events", "max").unwrap_or(0);
        if refused > self.refused {
            // said once
            let first = self.refused == 0;
            self.refused = refused;
            let most = self.group.number("pids.max").unwrap_or(0);
            let what = format!("it had as many processes as it may have, {most}");
            return first.then_some(Hit { what, asks: false, ends: false, memory: false, disk: false });
        }
        // not what the kernel would give back: files that were read
        let used = self.group.entry("memory.stat", "anon").unwrap_or(0);
        if !self.asked && used >= self.memory / 100 * SOFT {
            self.asked = true;
            let what = format!("it uses {} MiB of its {} MiB of memory", used / MIB, self.memory / MIB);
            return Some(Hit { what, asks: true, ends: false, memory: true, disk: false });
        }
        None
    }
}
