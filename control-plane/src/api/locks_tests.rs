//! What is said of a lock, by what jobs have told, in every order of what can happen to them and to others.

use super::*;

fn started(command: &str, host: &str) -> Body {
    let (command, host) = (command.to_owned(), host.to_owned());
    Body::EngineStarted(v1::EngineStarted { command, host, ..v1::EngineStarted::default() })
}
fn progress() -> Body {
    Body::ResourceProgress(v1::ResourceProgress::default())
}
fn not_released() -> Body {
    Body::Diagnostic(v1::Diagnostic { summary: NOT_RELEASED.into(), ..v1::Diagnostic::default() })
}

/// A job that has told that, each at its moment.
fn job(id: &str, told: Vec<(i64, Body)>) -> Seen {
    let mut seen =
        Seen { id: id.into(), person: "ann".into(), runner: "r".into(), phase: "applying".into(), ..Seen::default() };
    for (time_ms, body) in told {
        seen.hear(&v1::Event { time_ms, body: Some(body), ..v1::Event::default() });
    }
    seen
}
fn ended(job: Seen, phase: &str, end: JobEnd) -> Seen {
    Seen { ended: true, reported: true, phase: phase.into(), end, ..job }
}
fn end(code: &str) -> JobEnd {
    JobEnd { code: code.into(), ..JobEnd::default() }
}
fn killed() -> JobEnd {
    JobEnd { engine_signal: "SIGKILL".into(), ..end("engine_failed") }
}
fn lock(created_ms: i64, who: &str) -> KnownLock {
    KnownLock { id: "L".into(), who: who.into(), created_ms, ..KnownLock::default() }
}
/// A job that could not have that lock.
fn finder(lock: KnownLock) -> Seen {
    ended(job("f", vec![]), "failed", JobEnd { lock: Some(lock), ..end("state_locked") })
}

#[test]
fn a_lock_is_an_engines_that_had_one_after_it_was_made_and_of_nobody_else() {
    let applies = || job("j", vec![(1_000, started("apply", "vm")), (3_000, progress()), (9_000, progress())]);
    let plans = || job("j", vec![(1_000, started("plan", "vm")), (3_000, progress())]);
    let mut waits = plans();
    waits.hear(&v1::Event { time_ms: 4_000, body: Some(started("show", "vm")), ..v1::Event::default() });
    let exit = |code| JobEnd { engine_exit_code: Some(code), ..end("engine_failed") };
    let mut kept = applies();
    kept.hear(&v1::Event { time_ms: 9_001, body: Some(not_released()), ..v1::Event::default() });
    let looked = JobEnd { nothing_left: true, ..end("job_lost") };
    let unheard = Seen { reported: false, ..ended(applies(), "lost", end("job_lost")) };
    for (what, job, created, who, expected) in [
        ("killed", ended(applies(), "failed", killed()), 2_000, "root@vm", (Verdict::Dead, true)),
        ("killed, of who does not say who", ended(applies(), "failed", killed()), 2_000, "", (Verdict::Dead, true)),
        (
            "killed, in whole seconds",
            ended(applies(), "failed", killed()),
            1_000,
            "a@vm (pid 7)",
            (Verdict::Dead, true),
        ),
        ("killed in its plan", ended(plans(), "failed", killed()), 2_000, "root@vm", (Verdict::Dead, true)),
        ("it could not let go of it", ended(kept, "failed", exit(1)), 2_000, "root@vm", (Verdict::Dead, true)),
        ("it crashed", ended(applies(), "failed", exit(11)), 2_000, "root@vm", (Verdict::Dead, true)),
        ("lost, and looked for", ended(applies(), "lost", looked), 2_000, "root@vm", (Verdict::Dead, true)),
        ("lost", ended(applies(), "lost", end("job_lost")), 2_000, "root@vm", (Verdict::CannotTell, true)),
        ("given up", unheard, 2_000, "root@vm", (Verdict::CannotTell, true)),
        ("its worker died", ended(applies(), "failed", end("worker_crashed")), 2_000, "", (Verdict::CannotTell, true)),
        ("at work", Seen { heard: true, ..applies() }, 2_000, "root@vm", (Verdict::Live, true)),
        ("at work, and not heard of", applies(), 2_000, "root@vm", (Verdict::CannotTell, true)),
        ("of another machine", ended(applies(), "failed", killed()), 2_000, "ann@laptop", (Verdict::CannotTell, false)),
        ("made before", ended(applies(), "failed", killed()), 999, "", (Verdict::CannotTell, false)),
        (
            "made after it was seen to have one",
            ended(applies(), "failed", killed()),
            3_001,
            "",
            (Verdict::CannotTell, false),
        ),
        ("it ended by itself", ended(applies(), "failed", exit(1)), 2_000, "root@vm", (Verdict::CannotTell, false)),
        (
            "its plan was discarded",
            ended(waits.clone(), "discarded", end("ok")),
            2_000,
            "",
            (Verdict::CannotTell, false),
        ),
        ("while its plan waited", ended(waits, "discarded", end("ok")), 5_000, "", (Verdict::CannotTell, false)),
        ("not said when", ended(applies(), "failed", killed()), 0, "root@vm", (Verdict::CannotTell, false)),
        (
            "it had no lock yet",
            ended(job("j", vec![(1_000, started("apply", "vm"))]), "failed", killed()),
            2_000,
            "",
            (Verdict::CannotTell, false),
        ),
    ] {
        let view = judged(&[finder(lock(created, who)), job]);
        let holder = view.holder.expect("a holder");
        assert_eq!((holder.verdict, holder.job.is_some()), expected, "{what}: {}", holder.evidence);
        assert_eq!(holder.person.is_some() && holder.runner.is_some(), expected.1, "{what}");
        assert_eq!(view.found_by.as_deref(), Some("f"), "{what}");
    }
}

#[test]
fn a_plan_of_an_engine_that_plans_without_a_lock_proves_nothing() {
    let started = |engine: &str, command: &str| {
        let (engine, command) = (engine.to_owned(), command.to_owned());
        Body::EngineStarted(v1::EngineStarted { engine, command, ..v1::EngineStarted::default() })
    };
    for (engine, command, asks) in
        [("opentofu", "plan", true), ("pulumi", "plan", false), ("pulumi", "apply", true), ("opentofu", "init", false)]
    {
        let job = job("j", vec![(1_000, started(engine, command)), (3_000, progress())]);
        assert_eq!(job.has_had_it(), asks, "{engine} {command}");
    }
}

#[test]
fn whoever_has_it_is_told_before_anybody_has_found_it() {
    let applies = || job("j", vec![(1_000, started("apply", "vm")), (3_000, progress())]);
    let asks = job("j", vec![(1_000, started("apply", "vm"))]);
    let exit = |code| JobEnd { engine_exit_code: Some(code), ..end("engine_failed") };
    for (what, job, expected) in [
        ("at work", Seen { heard: true, ..applies() }, Some(Verdict::Live)),
        ("not heard of", applies(), Some(Verdict::CannotTell)),
        ("asks for it", Seen { heard: true, ..asks.clone() }, Some(Verdict::CannotTell)),
        ("killed", ended(applies(), "failed", killed()), Some(Verdict::Dead)),
        ("lost", ended(applies(), "lost", end("job_lost")), Some(Verdict::CannotTell)),
        ("killed as it asked", ended(asks.clone(), "failed", killed()), None),
        ("ended by itself", ended(applies(), "failed", exit(1)), None),
        ("applied", Seen { had_it: true, ..ended(applies(), "applied", end("ok")) }, None),
    ] {
        let view = judged(&[job]);
        assert_eq!(view.holder.as_ref().map(|holder| holder.verdict), expected, "{what}: {view:?}");
        assert_eq!(view.holder.and_then(|holder| holder.host), expected.map(|_| "vm".to_owned()), "{what}");
    }
    // whoever asks may wait for one that was there before, whose holder is told with what is known of its end
    let waits = Seen { heard: true, id: "w".into(), ..asks.clone() };
    let view = judged(&[waits.clone(), ended(applies(), "failed", killed())]);
    assert_eq!(view.asked_by.as_deref(), Some("w"));
    let holder = view.holder.expect("a holder");
    assert_eq!((holder.verdict, holder.job.as_deref()), (Verdict::CannotTell, Some("j")));
    assert!(
        ["job w", "waits for it", "job j", "SIGKILL"].iter().all(|part| holder.evidence.contains(part)),
        "{holder:?}"
    );
    // of one that is not heard of nobody waits
    assert_eq!(judged(&[Seen { heard: false, ..waits.clone() }]).asked_by, None);
    let alone = judged(&[waits, Seen { had_it: true, ..ended(applies(), "applied", end("ok")) }]);
    assert_eq!(alone.holder.and_then(|holder| holder.job).as_deref(), Some("w"));
    // what was found before somebody had it is gone, what somebody waits for is not
    let found = finder(lock(500, "ann@laptop"));
    assert_eq!(judged(&[ended(applies(), "failed", exit(1)), found.clone()]), LockView::default());
    let waits = job("j", vec![(1_000, started("plan", "vm"))]);
    assert_eq!(judged(&[Seen { heard: true, ..waits }, found]).lock.map(|lock| lock.id).as_deref(), Some("L"));
}

/// One that tells nobody where it is from.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: u64) -> u64 {
        // Knuth's constants: its upper bits are good
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// Who has the lock in truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Job(usize),
    Other { lives: bool },
}
/// What a job's runner says.
enum Said {
    Event(Box<v1::Event>),
    End(&'static str, Box<JobEnd>),
}
/// A job in truth, and as it is known.
struct Actual {
    known: Seen,
    /// Its engine.
    runs: bool,
    has_lock: bool,
    /// Nothing of its runner comes through; what it said meanwhile.
    cut: bool,
    unsaid: Vec<Said>,
    /// The machine is gone.
    gone: bool,
    /// It was given up: what it says does not count.
    fenced: bool,
    /// It has its end, whether or not that is known.
    over: bool,
}
struct Truth {
    now: i64,
    lock: Option<(KnownLock, Owner)>,
    jobs: Vec<Actual>,
    locks: u32,
}

impl Truth {
    fn say(&mut self, at: usize, said: Said) {
        let job = &mut self.jobs[at];
        match said {
            _ if job.fenced || job.gone => {}
            said if job.cut => job.unsaid.push(said),
            Said::Event(event) => job.known.hear(&event),
            Said::End(phase, end) => {
                let had_it = phase == "applied";
                let known = std::mem::take(&mut job.known);
                job.known = Seen { had_it, ..ended(known, phase, *end) };
            }
        }
    }
    fn tell(&mut self, at: usize, body: Body) {
        let event = v1::Event { time_ms: self.now, body: Some(body), ..v1::Event::default() };
        // its runner has said its last word
        if !self.jobs[at].over {
            self.say(at, Said::Event(Box::new(event)));
        }
    }
    fn end(&mut self, at: usize, phase: &'static str, end: JobEnd) {
        if std::mem::replace(&mut self.jobs[at].over, true) {
            return;
        }
        self.say(at, Said::End(phase, Box::new(end)));
    }
    fn take(&mut self, owner: Owner, who: &str) {
        self.locks += 1;
        let lock = KnownLock { id: format!("L{}", self.locks), ..lock(self.now, who) };
        self.lock = Some((lock, owner));
    }
    fn release(&mut self, at: usize) {
        self.jobs[at].has_lock = false;
        self.lock.take_if(|(_, owner)| *owner == Owner::Job(at));
    }

    /// Something happens that can.
    fn step(&mut self, chance: &mut Chance) {
        self.now += 1 + i64::try_from(chance.below(700)).unwrap_or(0);
        let what = chance.below(22);
        if what < 2 && self.jobs.last().is_none_or(|job| job.known.ended) {
            let known = Seen { heard: true, ..job(&self.jobs.len().to_string(), vec![]) };
            let (runs, has_lock, cut, unsaid) = (true, false, false, Vec::new());
            self.jobs.push(Actual { known, runs, has_lock, cut, unsaid, gone: false, fenced: false, over: false });
            return self.tell(self.jobs.len() - 1, started("plan", "vm"));
        }
        match (what, self.lock.clone()) {
            (2, None) => {
                let who = if chance.below(2) == 0 { "root@vm" } else { "ann@laptop" };
                return self.take(Owner::Other { lives: true }, who);
            }
            (3 | 4, Some((_, Owner::Other { .. }))) => return self.lock = None,
            (5, Some((lock, Owner::Other { .. }))) => {
                return self.lock = Some((lock, Owner::Other { lives: false }));
            }
            // the one that it names is removed, where it is dead
            (6, Some((lock, owner))) if !self.lives(owner) => {
                self.lock.take_if(|(now, _)| now.id == lock.id);
                return;
            }
            _ => {}
        }
        if self.jobs.is_empty() {
            return;
        }
        // the newest most often, an earlier one too
        let newest = self.jobs.len() - 1;
        let at =
            if chance.below(4) == 0 { usize::try_from(chance.below(newest as u64 + 1)).unwrap_or(0) } else { newest };
        let (runs, has_lock, over) = (self.jobs[at].runs, self.jobs[at].has_lock, self.jobs[at].over);
        match what {
            // its engine has the lock as soon as nobody else has, or waits no longer
            7..=9 if runs && !has_lock => match self.lock.clone() {
                None => {
                    self.take(Owner::Job(at), "root@vm");
                    self.jobs[at].has_lock = true;
                }
                Some((lock, _)) if chance.below(3) == 0 => {
                    self.jobs[at].runs = false;
                    let end = JobEnd { lock: Some(lock), engine_exit_code: Some(1), ..end("state_locked") };
                    self.end(at, "failed", end);
                }
                Some(_) => {}
            },
            10..=12 if runs && has_lock => self.tell(at, progress()),
            13 if runs && has_lock => {
                self.release(at);
                self.tell(at, Body::PlanSaved(v1::PlanSaved::default()));
                match chance.below(3) {
                    0 => self.tell(at, started("apply", "vm")),
                    1 => {
                        self.jobs[at].runs = false;
                        self.end(at, "discarded", end("ok"));
                    }
                    // it waits, and may be lost or given up so
                    _ => self.jobs[at].runs = false,
                }
            }
            14 if runs && has_lock => {
                let keeps = chance.below(3) == 0;
                self.jobs[at].runs = false;
                if keeps {
                    self.tell(at, not_released());
                } else {
                    self.release(at);
                }
                let failed = JobEnd { engine_exit_code: Some(1), ..end("engine_failed") };
                let (phase, end) =
                    if keeps || chance.below(2) == 0 { ("failed", failed) } else { ("applied", end("ok")) };
                self.end(at, phase, end);
            }
            15 if runs => {
                self.jobs[at].runs = false;
                self.end(at, "failed", killed());
            }
            // its worker is gone, and nobody knows more; or it was looked
            16 if !over => {
                let nothing_left = chance.below(2) == 0;
                self.jobs[at].runs &= !nothing_left;
                self.end(at, "failed", JobEnd { nothing_left, ..end("worker_crashed") });
            }
            17 if !self.jobs[at].gone => {
                let cut = !self.jobs[at].cut;
                (self.jobs[at].cut, self.jobs[at].known.heard) = (cut, !cut);
                if !cut {
                    let unsaid = std::mem::take(&mut self.jobs[at].unsaid);
                    unsaid.into_iter().for_each(|said| self.say(at, said));
                }
            }
            18 => {
                let job = &mut self.jobs[at];
                (job.gone, job.runs, job.known.heard) = (true, false, false);
            }
            19 if self.jobs[at].gone => {
                let job = &mut self.jobs[at];
                (job.gone, job.cut, job.known.heard) = (false, false, true);
                let unsaid = std::mem::take(&mut job.unsaid);
                unsaid.into_iter().for_each(|said| self.say(at, said));
                if !over {
                    self.end(at, "lost", JobEnd { nothing_left: true, ..end("job_lost") });
                }
            }
            20 if !over && !runs && !self.jobs[at].gone => self.end(at, "discarded", end("ok")),
            21 if !self.jobs[at].known.heard && !self.jobs[at].known.ended => {
                let job = &mut self.jobs[at];
                // by somebody, or by the control plane, to which it may come back
                job.fenced = chance.below(2) == 0;
                let known = std::mem::take(&mut job.known);
                job.known = Seen { reported: false, ..ended(known, "lost", end("job_lost")) };
            }
            _ => {}
        }
    }

    fn lives(&self, owner: Owner) -> bool {
        match owner {
            Owner::Job(at) => self.jobs[at].runs,
            Owner::Other { lives } => lives,
        }
    }
}

#[test]
fn whatever_happens_nothing_is_said_to_be_dead_whose_holder_lives() {
    let mut said = [0; 3];
    for seed in 0..1_500 {
        let (mut chance, mut truth) = (Chance(seed), Truth { now: 1_000_001, lock: None, jobs: Vec::new(), locks: 0 });
        for step in 0..120 {
            truth.step(&mut chance);
            let known: Vec<_> = truth.jobs.iter().rev().map(|job| job.known.clone()).collect();
            let view = judged(&known);
            let Some(holder) = &view.holder else { continue };
            said[holder.verdict as usize] += 1;
            let what = || format!("seed {seed}, step {step}: {view:?}, in truth {:?}", truth.lock);
            let job = holder.job.as_ref().and_then(|id| id.parse::<usize>().ok());
            match (holder.verdict, &truth.lock) {
                (Verdict::Dead, Some((lock, owner))) => {
                    let is_meant = match &view.lock {
                        Some(known) => known.id == lock.id,
                        None => job.is_some_and(|job| *owner == Owner::Job(job)),
                    };
                    assert!(!is_meant || !truth.lives(*owner), "{}", what());
                }
                (Verdict::Live, _) => {
                    let job = job.map(|job| &truth.jobs[job].known);
                    assert!(job.is_some_and(|job| job.heard && !job.ended), "{}", what());
                }
                _ => {}
            }
        }
    }
    // each of them was there to be seen
    assert!(said.iter().all(|count| *count > 1_000), "{said:?}");
}
