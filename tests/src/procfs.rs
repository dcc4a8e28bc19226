//! What /proc says of processes: the counts that must come back to where they were.

use anyhow::{Context as _, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A line of /proc/PID/stat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The process.
    pub pid: i32,
    /// The file's name, cut at 15 characters.
    pub comm: String,
    /// R, S, D, T, Z …
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Clock ticks since boot: with the pid, which process it is.
    pub started: u64,
}

impl Stat {
    /// Whether it has ended, and is waited for or about to be gone.
    pub fn ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// What a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Children, dead ones that were not waited for included.
    pub children: usize,
}

/// Reads a process's line; `None` where it is gone.
pub fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = (text.find('(')?, text.rfind(')')?);
    let rest: Vec<&str> = text[tail + 1..].split_whitespace().collect();
    Some(Stat {
        pid,
        comm: text[head + 1..tail].to_owned(),
        state: rest.first()?.chars().next()?,
        parent: rest.get(1)?.parse().ok()?,
        group: rest.get(2)?.parse().ok()?,
        session: rest.get(3)?.parse().ok()?,
        started: rest.get(19)?.parse().ok()?,
    })
}

/// Every process of the machine.
pub fn all() -> Vec<Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).filter_map(stat).collect()
}

/// The user that a process runs as; `None` where it is gone.
pub fn user(pid: i32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

/// The numbers of a process, from that in this pid namespace to that in its own; empty where it is gone.
pub fn numbers(pid: i32) -> Vec<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect()
}

/// The processes below one, itself not included.
pub fn descendants(root: i32) -> Vec<Stat> {
    let all = all();
    let mut known = HashSet::from([root]);
    let mut found = Vec::new();
    loop {
        let before = known.len();
        for process in &all {
            if known.contains(&process.parent) && known.insert(process.pid) {
                found.push(process.clone());
            }
        }
        if known.len() == before {
            return found;
        }
    }
}

/// The processes whose working directory is in a folder.
pub fn working_in(folder: &Path) -> Vec<Stat> {
    let mine = i32::try_from(std::process::id()).unwrap_or(-1);
    all()
        .into_iter()
        .filter(|p| p.pid != mine)
        .filter(|p| std::fs::read_link(format!("/proc/{}/cwd", p.pid)).is_ok_and(|cwd| cwd.starts_with(folder)))
        .collect()
}

/// The processes whose environment, as they were started with it, has that text.
pub fn with_environment(text: &str) -> Vec<Stat> {
    let read = |p: &Stat| std::fs::read(format!("/proc/{}/environ", p.pid)).unwrap_or_default();
    let has = |e: &[u8]| e.split(|b| *b == 0).any(|v| v.starts_with(text.as_bytes()));
    let (mut found, mut empty) = (Vec::new(), Vec::new());
    for process in all().into_iter().filter(|p| !p.ended()) {
        match read(&process) {
            environment if environment.is_empty() => empty.push(process),
            environment if has(&environment) => found.push(process),
            _ => {}
        }
    }
    // one in the middle of an exec has none for a moment
    std::thread::sleep(std::time::Duration::from_millis(2));
    found.extend(empty.into_iter().filter(|p| has(&read(p))));
    found
}

/// The words that a process was started with.
pub fn command_line(pid: i32) -> Vec<String> {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .unwrap_or_default()
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(|w| String::from_utf8_lossy(w).into_owned())
        .collect()
}

/// The file that a process runs.
pub fn executable(pid: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// A process's counts.
///
/// # Errors
/// It is gone.
pub fn counts(pid: i32) -> Result<Counts> {
    let entries = |what: &str| -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{pid}/{what}")).with_context(|| format!("process {pid}"))?.count())
    };
    Ok(Counts {
        descriptors: entries("fd")?,
        threads: entries("task")?,
        children: all().iter().filter(|p| p.parent == pid).count(),
    })
}

/// A figure of /proc/PID/status in bytes, such as `VmRSS` or `VmHWM`.
///
/// # Errors
/// It is gone, or has no such figure.
pub fn status_bytes(pid: i32, field: &str) -> Result<u64> {
    kib_line(&format!("/proc/{pid}/status"), field)
}

/// The processor time that a process has taken so far, all its threads together.
///
/// # Errors
/// It is gone.
pub fn processor(pid: i32) -> Result<std::time::Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let rest: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| rest.get(at).and_then(|t| t.parse::<u64>().ok()).context("a figure of /proc/PID/stat");
    let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("ticks a second")?;
    Ok(std::time::Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / u64::try_from(a_second)?))
}

/// What a process has written so far, bytes.
///
/// # Errors
/// It is gone.
pub fn written(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).with_context(|| format!("process {pid}"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("wchar: ")?.parse().ok());
    line.with_context(|| format!("/proc/{pid}/io has no wchar"))
}

/// The proportional set size, bytes.
///
/// # Errors
/// It is gone.
pub fn pss(pid: i32) -> Result<u64> {
    kib_line(&format!("/proc/{pid}/smaps_rollup"), "Pss")
}

fn kib_line(path: &str, field: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    text.lines()
        .find_map(|l| l.strip_prefix(field)?.strip_prefix(':')?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .with_context(|| format!("{path} has no {field}"))
}

/// Whether that very process has ended.
pub fn gone(process: &Stat) -> bool {
    stat(process.pid).is_none_or(|s| s.started != process.started || s.ended())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let me = i32::try_from(std::process::id()).expect("a pid");
        let mine = stat(me).expect("alive");
        assert!(mine.parent > 0 && mine.session >= 0 && mine.started > 0);
        assert!(status_bytes(me, "VmRSS").expect("figures") > 100_000);
        assert!(pss(me).expect("figures") > 0);
        assert!(counts(me).expect("alive").descriptors >= 3);
        assert!(stat(i32::MAX).is_none());
    }
}
