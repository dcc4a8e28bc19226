//! Workers of operations that are started and confined ahead of need: a request takes one, which serves it and ends like any other.
//!
//! How many wait follows what was taken lately, within the bound that the configuration gives. One that is old, or whose program or
//! configuration has changed since, is thrown away. They hold nothing of anybody: what a request is and what it may reach comes with it.
//!
//! A request must never wait here, neither for a worker nor for a lock that is held while one starts: what is not there is started cold.

use super::{Operation, Workers};
use crate::tunnel::Settings;
use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

/// The most that a configuration may ask for.
pub const WARM_MAX: u32 = 64;
/// What waits where nothing was asked for lately: enough for who comes back.
const LEAST: usize = 2;
/// One that has waited this long is thrown away.
const AGE_MAX: Duration = Duration::from_secs(600);
/// What was taken this long ago counts no more, seconds.
const REMEMBERED_S: usize = 60;
/// After one was taken, before another one is started in its place while some are left: what it was taken for goes before.
const TURN: Duration = Duration::from_millis(30);
/// Started at once: the rest of the machine is for whoever waits for an answer.
const STARTING_MAX: usize = 2;
/// How often somebody looks whether they are still good.
const LOOK: Duration = Duration::from_secs(5);
/// After a start that failed, before the next; doubled as long as they fail.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Workers that wait. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Warm {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shelf: Mutex<Shelf<Operation>>,
    settings: watch::Receiver<Arc<Settings>>,
    taken: Notify,
}

/// Which program it is: another file, or other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// What a worker was started as; what it must be to be given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Profile {
    /// Counts what was read of the configuration.
    settings: u64,
    program: Option<Version>,
}

/// Those that wait, oldest first.
#[derive(Debug)]
struct Shelf<T> {
    ready: VecDeque<Ready<T>>,
    profile: Profile,
    demand: Demand,
    /// When the first one was taken in whose place none was started yet.
    taken: Option<Instant>,
}

#[derive(Debug)]
struct Ready<T> {
    worker: T,
    since: Instant,
    profile: Profile,
}

/// How many were asked for in each of the last seconds.
#[derive(Debug)]
struct Demand {
    start: Instant,
    /// The second up to which `counts` is right.
    second: u64,
    counts: [u32; REMEMBERED_S],
}

// === impl Warm ===

impl Warm {
    /// Keeps workers ready from now on, as the settings of the moment say. Each start takes a place in `starting`, as every other does.
    pub fn start_task(workers: Workers, settings: watch::Receiver<Arc<Settings>>, starting: Arc<Semaphore>) -> Self {
        let profile = Profile { settings: 0, program: Version::of(&settings.borrow().config.workers.ops) };
        let shelf = Shelf { ready: VecDeque::new(), profile, demand: Demand::new(Instant::now()), taken: None };
        let inner = Arc::new(Inner { shelf: Mutex::new(shelf), settings: settings.clone(), taken: Notify::new() });
        tokio::spawn(keep(inner.clone(), workers, settings, starting));
        Self { inner }
    }

    /// One that waits, if there is any. It may have ended meanwhile: who takes it tries another where it does not take its request.
    pub fn take(&self) -> Option<Operation> {
        let taken = self.inner.shelf().take(Instant::now());
        self.inner.taken.notify_one();
        taken
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.inner.shelf().ready.len()
    }
}

impl Inner {
    fn shelf(&self) -> MutexGuard<'_, Shelf<Operation>> {
        // nothing in there can be left half done
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn most(&self) -> usize {
        self.settings.borrow().config.workers_warm as usize
    }
}

async fn keep(
    inner: Arc<Inner>,
    workers: Workers,
    mut settings: watch::Receiver<Arc<Settings>>,
    starting: Arc<Semaphore>,
) {
    let mut starts = JoinSet::new();
    let (mut pause, mut not_before) = (PAUSE, Instant::now());
    let mut looked: Option<Instant> = None;
    loop {
        if looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            let path = settings.borrow_and_update().config.workers.ops.clone();
            // one look at a file that is executed all the time; on a thread for that all the same: its file system may not answer
            let version = tokio::task::spawn_blocking(move || Version::of(&path)).await.ok().flatten();
            inner.shelf().profile.program = version;
            looked = Some(Instant::now());
        }
        let now = Instant::now();
        let (lacking, wait, profile, old) = {
            let mut shelf = inner.shelf();
            let old = shelf.remove_bad(inner.most(), now, Operation::has_ended);
            (shelf.lacking(inner.most(), starts.len(), now), shelf.turn(now), shelf.profile, old)
        };
        // they are killed where the lock is not held
        drop(old);
        let wait = wait.max(not_before.saturating_duration_since(now));
        if wait.is_zero() {
            for _ in 0..lacking.min(STARTING_MAX.saturating_sub(starts.len())) {
                let (workers, starting) = (workers.clone(), starting.clone());
                starts.spawn(async move {
                    // never closed
                    let _place = starting.acquire().await.ok();
                    (profile, workers.operation().await)
                });
            }
        }
        tokio::select! {
            Some(started) = starts.join_next() => match started {
                Ok((profile, Ok(worker))) => {
                    pause = PAUSE;
                    inner.shelf().ready.push_back(Ready { worker, since: Instant::now(), profile });
                }
                Ok((_, Err(failure))) => {
                    if pause == PAUSE {
                        tracing::warn!(code = %failure.code, detail = failure.message, "no worker can be kept ready");
                    }
                    not_before = Instant::now() + pause;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(_) => {}
            },
            () = inner.taken.notified() => {}
            changed = settings.changed() => {
                if changed.is_err() {
                    return;
                }
                inner.shelf().profile.settings += 1;
                looked = None;
            }
            () = tokio::time::sleep(if wait.is_zero() { LOOK } else { LOOK.min(wait) }) => {}
        }
    }
}

// === impl Shelf ===

impl<T> Shelf<T> {
    /// The one that has waited longest, and that it was asked for.
    fn take(&mut self, now: Instant) -> Option<T> {
        self.demand.count(now);
        self.taken.get_or_insert(now);
        let profile = self.profile;
        // the others are looked after in time; what is not good any more is not given away
        let good = self.ready.iter().position(|r| r.is_good(profile, now))?;
        self.ready.remove(good).map(|r| r.worker)
    }

    /// Takes those off that are not good any more, or too many.
    fn remove_bad(&mut self, most: usize, now: Instant, mut has_ended: impl FnMut(&mut T) -> bool) -> Vec<T> {
        let profile = self.profile;
        let wanted = self.demand.wanted(most, now);
        let mut bad = Vec::new();
        for mut ready in std::mem::take(&mut self.ready) {
            if ready.is_good(profile, now) && !has_ended(&mut ready.worker) {
                self.ready.push_back(ready);
            } else {
                bad.push(ready.worker);
            }
        }
        while self.ready.len() > wanted {
            bad.extend(self.ready.pop_front().map(|r| r.worker));
        }
        bad
    }

    /// How long it waits that another one is started: not at all where nothing is left.
    fn turn(&mut self, now: Instant) -> Duration {
        let wait = match self.taken {
            Some(taken) if !self.ready.is_empty() => TURN.saturating_sub(now.saturating_duration_since(taken)),
            _ => Duration::ZERO,
        };
        if wait.is_zero() {
            self.taken = None;
        }
        wait
    }

    /// How many more are to be started.
    fn lacking(&mut self, most: usize, starting: usize, now: Instant) -> usize {
        self.demand.wanted(most, now).saturating_sub(self.ready.len() + starting)
    }
}

impl<T> Ready<T> {
    fn is_good(&self, profile: Profile, now: Instant) -> bool {
        self.profile == profile && now.saturating_duration_since(self.since) < AGE_MAX
    }
}

// === impl Demand ===

impl Demand {
    fn new(start: Instant) -> Self {
        Self { start, second: 0, counts: [0; REMEMBERED_S] }
    }
    /// Forgets what was too long ago.
    fn at(&mut self, now: Instant) -> usize {
        let second = now.saturating_duration_since(self.start).as_secs();
        let forget = second.saturating_sub(self.second).min(REMEMBERED_S as u64);
        for past in 0..forget {
            self.counts[index(second - past)] = 0;
        }
        self.second = self.second.max(second);
        index(self.second)
    }
    fn count(&mut self, now: Instant) {
        let at = self.at(now);
        self.counts[at] = self.counts[at].saturating_add(1);
    }
    /// As many as were asked for in the busiest of the last seconds.
    fn wanted(&mut self, most: usize, now: Instant) -> usize {
        self.at(now);
        let busiest = self.counts.iter().max().map_or(0, |n| *n as usize);
        busiest.max(LEAST).min(most)
    }
}

fn index(second: u64) -> usize {
    (second % REMEMBERED_S as u64) as usize
}

// === impl Version ===

impl Version {
    /// That of the program at this path; `None`: there is none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: Profile = Profile { settings: 1, program: None };

    fn shelf(start: Instant, ready: &[(u32, Instant)]) -> Shelf<u32> {
        let ready = ready.iter().map(|(worker, since)| Ready { worker: *worker, since: *since, profile: PROFILE });
        Shelf { ready: ready.collect(), profile: PROFILE, demand: Demand::new(start), taken: None }
    }

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_oldest_that_is_good_goes_first_and_each_once() {
        let start = Instant::now();
        let mut shelf = shelf(start, &[(1, start), (2, after(start, 1.0)), (3, after(start, 2.0))]);
        assert_eq!(shelf.take(after(start, 599.9)), Some(1));
        // both sides of the age
        assert_eq!(shelf.take(after(start, 601.0)), Some(3));
        assert_eq!(shelf.take(after(start, 601.0)), None);
        assert_eq!(shelf.remove_bad(64, after(start, 601.0), |_| false), [2]);
    }

    #[test]
    fn what_one_was_taken_for_goes_before_the_next_start_while_some_are_left() {
        let start = Instant::now();
        let mut shelf = shelf(start, &[(1, start), (2, start), (3, start)]);
        assert_eq!(shelf.turn(start), Duration::ZERO);
        assert_eq!(shelf.take(after(start, 1.0)), Some(1));
        assert_eq!(shelf.turn(after(start, 1.0)), TURN);
        // those who go on taking do not put it off
        assert_eq!(shelf.take(after(start, 1.02)), Some(2));
        assert!(shelf.turn(after(start, 1.02)) <= Duration::from_millis(10));
        assert_eq!(shelf.turn(after(start, 1.03)), Duration::ZERO);
        // nothing is left
        assert_eq!(shelf.take(after(start, 1.025)), Some(3));
        assert_eq!(shelf.turn(after(start, 1.025)), Duration::ZERO);
    }

    #[test]
    fn what_was_started_as_something_else_is_thrown_away() {
        let start = Instant::now();
        for change in [
            |p: &mut Profile| p.settings += 1,
            |p: &mut Profile| p.program = Some(Version { device: 1, inode: 2, size: 3, changed: (4, 5) }),
        ] {
            let mut shelf = shelf(start, &[(1, start), (2, start)]);
            change(&mut shelf.profile);
            assert_eq!(shelf.take(start), None);
            assert_eq!(shelf.remove_bad(64, start, |_| false), [1, 2]);
            assert_eq!(shelf.lacking(64, 0, start), LEAST);
        }
    }

    #[test]
    fn what_has_ended_is_thrown_away() {
        let start = Instant::now();
        let mut shelf = shelf(start, &[(1, start), (2, start)]);
        assert_eq!(shelf.remove_bad(64, start, |worker| *worker == 1), [1]);
        assert_eq!(shelf.lacking(64, 0, start), 1);
        assert_eq!(shelf.lacking(64, 1, start), 0);
    }

    #[test]
    fn as_many_wait_as_the_busiest_second_took_within_the_bound() {
        let start = Instant::now();
        let mut shelf = shelf(start, &[]);
        assert_eq!(shelf.lacking(64, 0, start), LEAST);
        assert_eq!((shelf.lacking(1, 0, start), shelf.lacking(0, 0, start)), (1, 0));
        for n in 0..10 {
            assert_eq!(shelf.take(after(start, 5.0 + f64::from(n) / 20.0)), None);
        }
        assert_eq!((shelf.lacking(64, 0, after(start, 6.0)), shelf.lacking(8, 0, after(start, 6.0))), (10, 8));
        // it counts for a minute and no longer
        assert_eq!(shelf.lacking(64, 0, after(start, 64.9)), 10);
        assert_eq!(shelf.lacking(64, 0, after(start, 65.0)), LEAST);
        assert_eq!(shelf.lacking(64, 0, after(start, 100_000.0)), LEAST);
    }

    #[test]
    fn what_is_too_many_goes_oldest_first() {
        let start = Instant::now();
        let mut shelf = shelf(start, &[(1, start), (2, start), (3, start)]);
        assert_eq!(shelf.remove_bad(64, start, |_| false), [1]);
        assert_eq!(shelf.remove_bad(0, start, |_| false), [2, 3]);
    }

    #[test]
    fn another_program_is_another_version() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("program");
        assert_eq!(Version::of(&path), None);
        std::fs::write(&path, "one").expect("writes");
        let first = Version::of(&path);
        assert!(first.is_some() && first == Version::of(&path));
        // put in its place, as an upgrade does
        std::fs::write(folder.path().join("new"), "two").expect("writes");
        std::fs::rename(folder.path().join("new"), &path).expect("renames");
        assert_ne!(Version::of(&path), first);
    }
}
