//! The assignment protocol as a model that is explored exhaustively within bounds: one job, two processes that ask for work, a control
//! plane that crashes, is backed up and restored, and whoever else may fail. Names are those of the code: [`Phase`] is the store's own
//! enum, items are those of `work_item::Kind`, calls those of the service, commands and steps those of the supervisor; `tests` fails when
//! the code has one that is not here.
//!
//! ```text
//!  user ── create approve cancel discard ──▶ row (the store's) ◀── back up, restore, crash
//!                                             │ items, in order          ▲ calls, in any order, late, lost
//!                                             ▼                          │
//!                                            supervisor ── folder (token, markers, spool) ── worker
//! ```
//! What is written to a disk is written at once here: that the order of writes is kept is the folder's and SQLite's matter, and tested there.

mod checker;
mod tests;

use crate::store::Phase;
use checker::{Model, Next};
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};

/// What a restore adds to tokens here: more than the bounds allow to be given.
const TOKENS: u8 = 10;
/// Processes that ask for work.
const PROCESSES: usize = 2;

/// A rule of the protocol; a mutation takes one away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The marker is on the disk before the step is started.
    MarkerFirst,
    /// A step that has begun is never started again.
    NeverAgain,
    /// A report counts under the newest token only.
    TokenOfReport,
    /// An accept counts under the newest token only.
    TokenOfAccept,
    /// A restored job that nobody accepted is not given out.
    RestoredStay,
    /// A restore raises the tokens of jobs that nobody accepted.
    TokensRaised,
    /// A job that is not known is not released.
    UnknownIsNotUnwanted,
    /// Events that a restored copy lacks are told again.
    ToldFromThere,
    /// A job that is not known is presented.
    Presented,
    /// A job that its instance does not have is lost.
    AbsentIsLost,
    /// That it does not have it is believed once its stream has lasted.
    AbsentConfirmed,
    /// What is not accepted goes back.
    TakenBack,
    /// A decision is told until its effect is seen.
    ToldAgain,
    /// What is acknowledged is stored before.
    StoredFirst,
    /// A job that is about to be accepted is not cancelled by its instance's new stream.
    AcceptDecides,
    /// The result of a job that was only thought to be lost counts.
    LateResultCounts,
    /// What nobody presents after a restore ends.
    GivenUp,
    /// What is at work on an instance that is away for too long is lost.
    Lapses,
    /// What is lost is not begun by an instance that has it after all.
    LostIsNotBegun,
}

/// Bounds of one exploration.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Faults altogether; each kind comes once for each process at most.
    faults: u8,
    /// Whether the control plane is backed up and restored.
    restore: bool,
    /// Whether the second process has a copy of the first one's instance id.
    copied: bool,
    /// Whether a user cancels or discards.
    wishes: bool,
    /// Whether there is one process only.
    alone: bool,
}

/// The model with its bounds, and without one of its rules.
#[derive(Debug, Clone, Copy)]
struct Protocol {
    bounds: Bounds,
    without: Option<Rule>,
}

/// An event of the job, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Event {
    PhaseChanged(Phase),
    Result(Phase),
}

/// A step with a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    Plan,
    Apply,
}

/// What goes over a Work stream, but heartbeats and refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Item {
    Assignment { token: u8 },
    Approval { token: u8 },
    Cancel { token: u8 },
    Discard { token: u8 },
    Release { token: u8 },
    Recall { token: u8, unknown: bool },
}

/// A call that is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Call {
    Accept { token: u8 },
    Report { token: u8, from: u8, events: Vec<Event> },
    Present { token: u8 },
}

/// An answer that is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Reply {
    Accept { token: u8, accepted: bool },
    Report { token: u8, acknowledged: u8, fenced: bool },
}

/// The job's row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Row {
    phase: Phase,
    token: u8,
    instance: Option<u8>,
    accepted: bool,
    reported: bool,
    restored: bool,
    last: u8,
    approved: bool,
    canceled: bool,
    /// What a user made of it, for good.
    user_ended: Option<Phase>,
    /// That a decision was told, where it is told once.
    told: bool,
}

/// A Work stream at the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Stream {
    /// Its other end reads.
    alive: bool,
    /// The instance named the job, or was given it on this stream.
    had: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Folder {
    token: u8,
    accepted: bool,
    plan: bool,
    apply: bool,
    spool: Vec<Event>,
    acknowledged: u8,
}

/// What the supervisor knows of decisions: gone with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Decided {
    approve: bool,
    cancel: bool,
    discard: bool,
    released: bool,
    fenced: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Worker {
    step: Step,
    begun: bool,
}

/// Where a process stands with its Work stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Work {
    Closed,
    Asked,
    Open,
}

/// One process that asks for work, with its disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Process {
    up: bool,
    gone: bool,
    work: Work,
    folder: Option<Folder>,
    decided: Decided,
    worker: Option<Worker>,
    items: Vec<Item>,
    calls: BTreeSet<Call>,
    /// Calls that nobody waits for any more, and that may still arrive.
    late: BTreeSet<Call>,
    replies: BTreeSet<Reply>,
    /// A Work request that is on its way, with what it names as held.
    asked: Option<Option<Held>>,
    /// One that nobody waits for any more, and that may still arrive.
    asked_before: Option<Option<Held>>,
    stream: Option<Stream>,
    crashed: bool,
    cut: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Held {
    token: u8,
    ended: bool,
    last: u8,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    created: bool,
    row: Option<Row>,
    /// Before the newest report, where reports are answered before they are stored.
    unsaved: Option<Row>,
    backup: Option<Option<Row>>,
    restored: bool,
    crashed: bool,
    died: bool,
    set_aside: bool,
    faults: u8,
    /// An assignment was taken back that was still on its way.
    hurried: bool,
    processes: [Process; PROCESSES],
    wished: bool,
    /// How often each step's engine was started.
    starts: (u8, u8),
    /// The result was acknowledged by a control plane of which an older copy was restored.
    excused: bool,
    /// A rule that was seen to be broken on the way.
    broken: Option<&'static str>,
}

const ONCE: &str = "a step's engine is started once at most";
const KEPT: &str = "no result is lost";
const FENCED: &str = "what was fenced off or ended by a user overwrites nothing";
const UNASKED: &str = "a job that nobody cancelled is not cancelled";
const LOST: &str = "a job that its instance has is not lost";

/// Whether a phase is an end. A phase that the store has and this does not know does not compile.
const fn is_end(phase: Phase) -> bool {
    match phase {
        Phase::Pending | Phase::Assigned | Phase::Preparing | Phase::Planning => false,
        // an end of jobs that only plan, else passed on the way to an approval
        Phase::Planned | Phase::AwaitingApproval | Phase::Applying => false,
        Phase::Applied | Phase::NoChanges | Phase::Failed | Phase::Canceled | Phase::Discarded | Phase::Lost => true,
    }
}

/// What can be seen of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    pub(super) phase: Phase,
    pub(super) accepted: bool,
    pub(super) reported: bool,
    pub(super) restored: bool,
}

/// Whether what was seen, one state of the row after the other, is a way of the model: without faults but a back-up and its restore, between
/// two of them any steps that leave the row as it looks.
///
/// # Errors
/// How far it is one.
pub(super) fn follows(seen: &[Seen]) -> Result<(), String> {
    let bounds = Bounds { faults: 1, restore: true, copied: false, wishes: false, alone: true };
    let model = Protocol { bounds, without: None };
    let mut here = HashSet::from([model.first()]);
    let mut last = None;
    for (n, wanted) in seen.iter().enumerate() {
        if last == Some(*wanted) {
            continue;
        }
        last = Some(*wanted);
        let (mut done, mut queue, mut there) = (HashSet::new(), Vec::from_iter(here), HashSet::new());
        while let Some(state) = queue.pop() {
            for next in model.next(&state).into_iter().map(|next| next.to) {
                // the trace is of one job and one process
                if next.processes[1] != state.processes[1] || next.broken.is_some() {
                    continue;
                }
                match next.seen() {
                    now if now == Some(*wanted) => drop(there.insert(next)),
                    now if now == state.seen() && done.insert(next.clone()) => queue.push(next),
                    _ => {}
                }
            }
        }
        if there.is_empty() {
            return Err(format!("state {n} of the row, {wanted:?}, does not follow in the model"));
        }
        here = there;
    }
    Ok(())
}

// === impl Item ===

impl Item {
    fn token(&mut self) -> &mut u8 {
        match self {
            Self::Assignment { token }
            | Self::Approval { token }
            | Self::Cancel { token }
            | Self::Discard { token }
            | Self::Release { token }
            | Self::Recall { token, .. } => token,
        }
    }
    const fn name(self) -> &'static str {
        match self {
            Self::Assignment { .. } => "Assignment is sent",
            Self::Approval { .. } => "Approval is sent",
            Self::Cancel { .. } => "Cancel is sent",
            Self::Discard { .. } => "Discard is sent",
            Self::Release { .. } => "Release is sent",
            Self::Recall { .. } => "Recall is sent",
        }
    }
}

// === impl Call ===

impl Call {
    fn token(&mut self) -> &mut u8 {
        match self {
            Self::Accept { token } | Self::Report { token, .. } | Self::Present { token } => token,
        }
    }
    const fn name(&self) -> &'static str {
        match self {
            Self::Accept { .. } => "Accept arrives",
            Self::Report { .. } => "Report arrives",
            Self::Present { .. } => "Present arrives",
        }
    }
}

// === impl Row ===

impl Row {
    fn new() -> Self {
        Self {
            phase: Phase::Pending,
            token: 0,
            instance: None,
            accepted: false,
            reported: false,
            restored: false,
            last: 0,
            approved: false,
            canceled: false,
            user_ended: None,
            told: false,
        }
    }
    fn ended(&self) -> bool {
        is_end(self.phase)
    }
    fn end(&mut self, phase: Phase) {
        self.phase = phase;
    }
    fn take(&mut self, event: Event, late_counts: bool) {
        match event {
            Event::PhaseChanged(phase) if !self.ended() && phase > self.phase => self.phase = phase,
            Event::PhaseChanged(_) => {}
            Event::Result(phase) => {
                self.reported = true;
                let thought_lost = self.phase == Phase::Lost && late_counts;
                if !self.ended() || thought_lost {
                    self.phase = phase;
                }
            }
        }
    }
}

// === impl Folder ===

impl Folder {
    fn ended(&self) -> bool {
        matches!(self.spool.last(), Some(Event::Result(_)))
    }
    fn length(&self) -> u8 {
        self.spool.len() as u8
    }
    fn awaits(&self) -> bool {
        self.spool.last() == Some(&Event::PhaseChanged(Phase::AwaitingApproval))
    }
}

// === impl Process ===

impl Process {
    fn new() -> Self {
        Self {
            up: true,
            gone: false,
            work: Work::Closed,
            folder: None,
            decided: Decided::default(),
            worker: None,
            items: Vec::new(),
            calls: BTreeSet::new(),
            late: BTreeSet::new(),
            replies: BTreeSet::new(),
            asked: None,
            asked_before: None,
            stream: None,
            crashed: false,
            cut: false,
        }
    }
    /// The stream breaks, at this end: what is on it is lost, a request may still arrive.
    fn hang_up(&mut self) {
        self.work = Work::Closed;
        self.items.clear();
        let calls = std::mem::take(&mut self.calls);
        self.late.extend(calls);
        self.replies.clear();
        if let Some(held) = self.asked.take() {
            self.asked_before = Some(held);
        }
        if let Some(stream) = &mut self.stream {
            stream.alive = false;
        }
    }
    /// An item for its stream, unless it is on its way.
    fn tell(&mut self, item: Item) {
        if self.stream.as_ref().is_some_and(|s| s.alive) && !self.items.contains(&item) {
            self.items.push(item);
        }
    }
    /// Whether a call of that kind, or its answer, is awaited: there is one at a time.
    fn calling(&self, call: &Call) -> bool {
        let alike = |other: &&Call| std::mem::discriminant(*other) == std::mem::discriminant(call);
        let answers = |reply: &&Reply| {
            matches!(
                (reply, call),
                (Reply::Accept { .. }, Call::Accept { .. }) | (Reply::Report { .. }, Call::Report { .. })
            )
        };
        self.calls.iter().any(|other| alike(&other)) || self.replies.iter().any(|reply| answers(&reply))
    }
    fn held(&self) -> Option<Held> {
        // one that is about to be removed it has no more
        let folder = self.folder.as_ref().filter(|_| !self.decided.released)?;
        Some(Held { token: folder.token, ended: folder.ended(), last: folder.length() })
    }
}

// === impl World ===

impl World {
    fn seen(&self) -> Option<Seen> {
        let row = self.row.as_ref()?;
        let Row { phase, accepted, reported, restored, .. } = *row;
        Some(Seen { phase, accepted, reported, restored })
    }
    /// All connections are gone, with what was on them.
    fn disconnect(&mut self) {
        for process in &mut self.processes {
            process.hang_up();
            process.stream = None;
            (process.asked, process.asked_before) = (None, None);
            process.late.clear();
        }
    }
    /// The processes by what they are, not by their numbers: nothing in the protocol goes by which of two is which. `ids`: each has an id of its own.
    fn order(&mut self, ids: bool) {
        let rows = [self.row.as_ref(), self.unsaved.as_ref(), self.backup.as_ref().and_then(Option::as_ref)];
        let now = rows.map(|row| row.and_then(|row| row.instance));
        let other = |id: Option<u8>| id.map(|id| if ids { 1 - id } else { id });
        let exchanged = match self.processes[0].cmp(&self.processes[1]) {
            Ordering::Less => false,
            Ordering::Greater => true,
            Ordering::Equal => now.map(other) < now,
        };
        if exchanged {
            self.processes.swap(0, 1);
            for row in [&mut self.row, &mut self.unsaved, self.backup.as_mut().unwrap_or(&mut None)] {
                row.iter_mut().for_each(|row| row.instance = other(row.instance));
            }
        }
    }
    /// Tokens by their order alone: which of two is newer, and whether they are one, is all that matters.
    fn number_anew(&mut self) {
        let mut all = BTreeSet::new();
        self.tokens(&mut |token| {
            all.insert(*token);
        });
        if all.iter().zip(0..).all(|(token, n)| *token == n) {
            return;
        }
        let all: Vec<_> = all.into_iter().collect();
        self.tokens(&mut |token| *token = all.binary_search(token).unwrap_or(0) as u8);
    }
    /// Every token that there is.
    fn tokens(&mut self, each: &mut dyn FnMut(&mut u8)) {
        for row in [&mut self.row, &mut self.unsaved, self.backup.as_mut().unwrap_or(&mut None)] {
            row.iter_mut().for_each(|row| each(&mut row.token));
        }
        for process in &mut self.processes {
            process.folder.iter_mut().for_each(|folder| each(&mut folder.token));
            for held in [&mut process.asked, &mut process.asked_before] {
                held.iter_mut().flatten().for_each(|held| each(&mut held.token));
            }
            for item in &mut process.items {
                each(item.token());
            }
            let changed = |calls: &mut BTreeSet<Call>, each: &mut dyn FnMut(&mut u8)| {
                *calls = std::mem::take(calls)
                    .into_iter()
                    .map(|mut call| {
                        each(call.token());
                        call
                    })
                    .collect();
            };
            changed(&mut process.calls, each);
            changed(&mut process.late, each);
            process.replies = std::mem::take(&mut process.replies)
                .into_iter()
                .map(|mut reply| {
                    match &mut reply {
                        Reply::Accept { token, .. } | Reply::Report { token, .. } => each(token),
                    }
                    reply
                })
                .collect();
        }
    }
    /// What an invariant sees.
    fn check(&mut self) {
        let broken = match &self.row {
            _ if self.starts.0 > 1 || self.starts.1 > 1 => Some(ONCE),
            Some(row) if row.user_ended.is_some_and(|phase| phase != row.phase) => Some(FENCED),
            Some(row) if row.user_ended == Some(Phase::Lost) && row.reported => Some(FENCED),
            Some(row) if row.reported && row.user_ended.is_none() && row.phase == Phase::Lost => {
                // unless that is its own result
                let said = self.processes.iter().filter_map(|p| p.folder.as_ref());
                let lost = said.clone().any(|f| f.spool.last() == Some(&Event::Result(Phase::Lost)));
                let other = said.clone().any(|f| f.ended() && f.token == row.token);
                (other && !lost).then_some(KEPT)
            }
            _ => None,
        };
        self.broken = self.broken.or(broken);
    }
}

// === impl Protocol ===

impl Protocol {
    fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
    /// The instance id of a process.
    fn id(&self, process: usize) -> u8 {
        if self.bounds.copied { 0 } else { process as u8 }
    }

    /// What users do.
    fn user(&self, w: &World, to: &mut Vec<Next<World>>) {
        let mut add = |what: &'static str, progress: bool, change: &dyn Fn(&mut World)| {
            push(w, to, what, PROCESSES, progress, change)
        };
        if !w.created {
            add("create", true, &|w| (w.created, w.row) = (true, Some(Row::new())));
        }
        let Some(row) = &w.row else { return };
        if row.ended() {
            return;
        }
        let waits = row.phase == Phase::AwaitingApproval;
        if waits && !row.approved {
            add("approve", true, &|w| {
                if let Some(row) = &mut w.row {
                    (row.approved, row.phase) = (true, Phase::Applying);
                }
            });
        }
        if self.bounds.wishes && !w.wished {
            if waits && !row.restored {
                add("discard", false, &|w| {
                    w.wished = true;
                    if let Some(row) = &mut w.row {
                        row.end(Phase::Discarded);
                        row.user_ended = Some(Phase::Discarded);
                    }
                });
            }
            add("cancel", false, &|w| {
                w.wished = true;
                if let Some(row) = &mut w.row {
                    row.canceled = true;
                    if !row.accepted || (waits && !row.restored) {
                        row.end(Phase::Canceled);
                        row.user_ended = Some(Phase::Canceled);
                    }
                }
            });
        }
        let of = |n: &usize| Some(self.id(*n)) == row.instance;
        let here = (0..PROCESSES).filter(of).any(|n| w.processes[n].stream.is_some());
        let gone = (0..PROCESSES).filter(of).all(|n| w.processes[n].gone);
        if row.accepted && !here && (gone || (self.bounds.wishes && !w.wished)) {
            add("cancel with force", false, &|w| {
                w.wished = true;
                if let Some(row) = &mut w.row {
                    row.token += 1;
                    row.end(Phase::Lost);
                    row.user_ended = Some(Phase::Lost);
                }
            });
        }
    }

    /// What the control plane does by itself.
    fn control_plane(&self, w: &World, to: &mut Vec<Next<World>>) {
        if let Some(row) = &w.row {
            // after its time; once while the assignment is still on its way
            let on_its_way = w.processes.iter().any(|p| p.items.contains(&Item::Assignment { token: row.token }));
            if row.phase == Phase::Assigned && self.has(Rule::TakenBack) && !(on_its_way && w.hurried) {
                push(w, to, "take back", PROCESSES, true, &|w| {
                    w.hurried |= on_its_way;
                    set(w, |row| row.phase = Phase::Pending);
                });
            }
            if row.restored && !row.accepted && !row.ended() && self.has(Rule::GivenUp) {
                push(w, to, "give up restored", PROCESSES, true, &|w| set(w, |row| row.end(Phase::Lost)));
            }
        }
        if let Some(row) = &w.row
            && self.may_lapse(w, row)
            && (0..PROCESSES).filter(|n| Some(self.id(*n)) == row.instance).all(|n| w.processes[n].gone)
        {
            push(w, to, "lapse", PROCESSES, true, &|w| set(w, |row| row.end(Phase::Lost)));
        }
        for n in 0..PROCESSES {
            let Some(stream) = &w.processes[n].stream else { continue };
            if !stream.alive {
                push(w, to, "its stream is gone", n, true, &|w| w.processes[n].stream = None);
            }
            let Some(row) = &w.row else { continue };
            let own = row.instance == Some(self.id(n));
            if row.phase == Phase::Pending && !(row.restored && self.has(Rule::RestoredStay)) {
                push(w, to, "assign", n, true, &|w| {
                    let token = row.token + 1;
                    let instance = Some(self.id(n));
                    set(w, |row| (row.phase, row.token, row.instance) = (Phase::Assigned, token, instance));
                    if let Some(stream) = &mut w.processes[n].stream {
                        stream.had = true;
                    }
                    w.processes[n].tell(Item::Assignment { token });
                });
            }
            let sure = stream.alive || !self.has(Rule::AbsentConfirmed);
            if !stream.had && sure && own && row.accepted && !row.ended() && self.has(Rule::AbsentIsLost) {
                push(w, to, "lose absent", n, true, &|w| {
                    set(w, |row| row.end(Phase::Lost));
                    let has = |p: &Process| {
                        let kept = p.folder.as_ref().is_some_and(|f| f.accepted && f.token == row.token);
                        kept && !p.decided.released
                    };
                    if w.processes.iter().enumerate().any(|(other, p)| !(self.bounds.copied && other != n) && has(p)) {
                        w.broken = Some(LOST);
                    }
                });
            }
            if own && row.accepted && stream.alive {
                let token = row.token;
                let item = match row {
                    row if row.reported => Some(Item::Release { token }),
                    row if row.phase == Phase::Lost && !(stream.had && self.has(Rule::LostIsNotBegun)) => None,
                    row if row.phase == Phase::Lost && !row.canceled => Some(Item::Discard { token }),
                    row if row.phase == Phase::Lost => Some(Item::Cancel { token }),
                    row if row.phase == Phase::Canceled => Some(Item::Cancel { token }),
                    row if row.ended() => Some(Item::Discard { token }),
                    row if row.canceled => Some(Item::Cancel { token }),
                    row if row.approved => Some(Item::Approval { token }),
                    _ => None,
                };
                let again = self.has(Rule::ToldAgain) || !row.told;
                if let Some(item) = item.filter(|item| again && !w.processes[n].items.contains(item)) {
                    push(w, to, item.name(), n, true, &|w| {
                        w.processes[n].tell(item);
                        if !self.has(Rule::ToldAgain) {
                            set(w, |row| row.told = true);
                        }
                    });
                }
            }
        }
    }

    /// Whether the row's instance is away, and something of it is at work.
    fn may_lapse(&self, w: &World, row: &Row) -> bool {
        let here =
            (0..PROCESSES).filter(|n| Some(self.id(*n)) == row.instance).any(|n| w.processes[n].stream.is_some());
        let at_work = row.accepted && !row.ended() && row.phase != Phase::AwaitingApproval;
        at_work && !here && self.has(Rule::Lapses)
    }

    /// A Work request arrives: the stream is taken in, and what the instance holds gets its verdict.
    fn begin(&self, w: &mut World, n: usize, waits: bool) {
        let process = &mut w.processes[n];
        let asked = if waits { &mut process.asked } else { &mut process.asked_before };
        let Some(held) = asked.take() else { return };
        let id = self.id(n);
        let conflict = (0..PROCESSES).any(|o| o != n && self.id(o) == id && w.processes[o].stream.is_some());
        if conflict {
            if waits {
                w.processes[n].work = Work::Closed;
            }
            return;
        }
        if !waits {
            // late, it takes the place of a newer one
            w.processes[n].work = Work::Closed;
            w.processes[n].items.clear();
        } else {
            w.processes[n].work = Work::Open;
        }
        let own = |row: &&mut Row| row.instance == Some(id);
        if let Some(row) = w.row.as_mut().filter(own)
            && row.phase == Phase::Assigned
            && self.has(Rule::TakenBack)
        {
            row.phase = Phase::Pending;
        }
        w.processes[n].stream = Some(Stream { alive: waits, had: held.is_some() });
        let Some(held) = held else { return };
        let token = held.token;
        let dismissal = if held.ended { Item::Release { token } } else { Item::Cancel { token } };
        let unknown = Item::Recall { token, unknown: true };
        let item = match &mut w.row {
            // its Accept decides, or it presents the job
            Some(row) if !row.accepted && self.has(Rule::AcceptDecides) => Some(unknown),
            Some(row) if row.accepted && row.token == token && row.instance == Some(id) => {
                row.restored = false;
                if row.reported {
                    Some(Item::Release { token })
                } else {
                    (held.last > row.last).then_some(Item::Recall { token, unknown: false })
                }
            }
            Some(_) => Some(dismissal),
            None if !self.has(Rule::UnknownIsNotUnwanted) => Some(dismissal),
            None => Some(unknown),
        };
        if let Some(item) = item {
            w.processes[n].tell(item);
        }
    }

    /// A call arrives.
    fn call(&self, w: &mut World, n: usize, call: Call) {
        let id = self.id(n);
        match call {
            Call::Accept { token } => {
                let accepted = w.row.as_mut().is_some_and(|row| {
                    let newest = row.token == token && row.instance == Some(id);
                    let mine = newest || !self.has(Rule::TokenOfAccept);
                    let good = mine && (row.accepted || !row.ended());
                    if good && !row.accepted {
                        (row.accepted, row.phase) = (true, Phase::Preparing);
                    }
                    good
                });
                w.processes[n].replies.insert(Reply::Accept { token, accepted });
            }
            Call::Report { token, from, events } => {
                let result = matches!(events.last(), Some(Event::Result(_)));
                let row = w.row.as_mut().filter(|row| row.accepted);
                let Some(row) = row else {
                    // not found: it is asked for by the stream
                    if result && !self.has(Rule::UnknownIsNotUnwanted) {
                        w.processes[n].tell(Item::Release { token });
                    }
                    return;
                };
                if (row.token != token || row.instance != Some(id)) && self.has(Rule::TokenOfReport) {
                    if result {
                        w.processes[n].tell(Item::Release { token });
                    }
                    w.processes[n].replies.insert(Reply::Report { token, acknowledged: 0, fenced: true });
                    return;
                }
                let before = row.clone();
                if from <= row.last && !row.reported {
                    for event in events.iter().skip((row.last - from) as usize) {
                        row.take(*event, self.has(Rule::LateResultCounts));
                        row.last += 1;
                    }
                }
                row.restored = false;
                let acknowledged = row.last;
                if !self.has(Rule::StoredFirst) && *row != before {
                    w.unsaved = Some(before);
                }
                w.processes[n].replies.insert(Reply::Report { token, acknowledged, fenced: false });
            }
            Call::Present { token } => {
                let unknown = w.row.is_none();
                let row = w.row.get_or_insert_with(Row::new);
                if row.accepted {
                    if row.token != token || row.instance != Some(id) {
                        w.processes[n].tell(Item::Cancel { token });
                    }
                } else if unknown || row.restored || token > row.token {
                    let ended_by_user = row.user_ended.take().is_some();
                    row.canceled |= ended_by_user;
                    (row.accepted, row.token, row.instance) = (true, token, Some(id));
                    (row.phase, row.restored) = (Phase::Preparing, false);
                }
                // known: it compares at once
                let compare = Item::Recall { token, unknown: false };
                w.processes[n].tell(compare);
            }
        }
    }

    /// What one process does with what came.
    fn inbox(&self, w: &World, n: usize, to: &mut Vec<Next<World>>) {
        let process = &w.processes[n];
        if process.asked.is_some() {
            push(w, to, "Work arrives", n, true, &|w| self.begin(w, n, true));
        }
        if process.asked_before.is_some() {
            push(w, to, "Work arrives late", n, false, &|w| self.begin(w, n, false));
        }
        for call in &process.calls {
            push(w, to, call.name(), n, true, &|w| {
                w.processes[n].calls.remove(call);
                self.call(w, n, call.clone());
            });
        }
        for call in &process.late {
            push(w, to, "a call arrives late", n, false, &|w| {
                w.processes[n].late.remove(call);
                let replies = w.processes[n].replies.clone();
                self.call(w, n, call.clone());
                w.processes[n].replies = replies;
            });
        }
        if !process.up {
            return;
        }
        for reply in &process.replies {
            push(w, to, "an answer arrives", n, true, &|w| {
                w.processes[n].replies.remove(reply);
                self.reply(&mut w.processes[n], reply);
            });
        }
        if process.work == Work::Open && !process.items.is_empty() {
            push(w, to, "an item arrives", n, true, &|w| {
                let item = w.processes[n].items.remove(0);
                self.item(&mut w.processes[n], item);
            });
        }
    }

    fn reply(&self, process: &mut Process, reply: &Reply) {
        match reply {
            Reply::Accept { token, accepted } => {
                let Some(folder) = process.folder.as_mut().filter(|f| f.token == *token) else { return };
                if *accepted {
                    folder.accepted = true;
                } else if !folder.accepted {
                    process.folder = None;
                }
            }
            Reply::Report { token, fenced: true, .. } => {
                if process.folder.as_ref().is_some_and(|f| f.token == *token) {
                    process.decided.fenced = true;
                }
            }
            Reply::Report { token, acknowledged, fenced: false } => {
                let Some(folder) = process.folder.as_mut().filter(|f| f.token == *token) else { return };
                // less than before: all after it is told again
                if *acknowledged >= folder.acknowledged || self.has(Rule::ToldFromThere) {
                    folder.acknowledged = *acknowledged;
                }
            }
        }
    }

    fn item(&self, process: &mut Process, item: Item) {
        let ours = |token: u8| process.folder.as_ref().is_some_and(|f| f.token == token);
        match item {
            Item::Assignment { token } => {
                if process.folder.is_none() {
                    let spool = Vec::new();
                    process.decided = Decided::default();
                    process.folder =
                        Some(Folder { token, accepted: false, plan: false, apply: false, spool, acknowledged: 0 });
                }
            }
            Item::Approval { token } if ours(token) => process.decided.approve = true,
            Item::Cancel { token } if ours(token) => process.decided.cancel = true,
            Item::Discard { token } if ours(token) => process.decided.discard = true,
            Item::Release { token } if ours(token) => process.decided.released = true,
            Item::Recall { token, unknown } if ours(token) => {
                let Some(folder) = &process.folder else { return };
                if !unknown {
                    process.calls.insert(Call::Report { token, from: folder.acknowledged, events: Vec::new() });
                } else if folder.accepted && self.has(Rule::Presented) {
                    process.calls.insert(Call::Present { token });
                }
            }
            Item::Approval { .. }
            | Item::Cancel { .. }
            | Item::Discard { .. }
            | Item::Release { .. }
            | Item::Recall { .. } => {}
        }
    }

    /// What one supervisor does by itself.
    fn supervisor(&self, w: &World, n: usize, to: &mut Vec<Next<World>>) {
        let process = &w.processes[n];
        let mut add = |what: &'static str, change: &dyn Fn(&mut World)| push(w, to, what, n, true, change);
        if !process.up {
            add("starts", &|w| w.processes[n].up = true);
            return;
        }
        if process.work == Work::Closed && process.asked.is_none() {
            add("asks for work", &|w| {
                let held = w.processes[n].held();
                (w.processes[n].work, w.processes[n].asked) = (Work::Asked, Some(held));
            });
        }
        let Some(folder) = &process.folder else { return };
        let (token, decided) = (folder.token, &process.decided);
        if !folder.accepted {
            let call = Call::Accept { token };
            if !process.calling(&call) {
                add("accepts", &|w| {
                    w.processes[n].calls.insert(call.clone());
                });
            }
            return;
        }
        if folder.acknowledged < folder.length() && !decided.fenced {
            let events = folder.spool[folder.acknowledged as usize..].to_vec();
            let call = Call::Report { token, from: folder.acknowledged, events };
            if !process.calling(&call) {
                add("reports", &|w| {
                    w.processes[n].calls.insert(call.clone());
                });
            }
        }
        if decided.fenced && folder.ended() && !decided.released {
            let last = folder.length() - 1;
            let events = folder.spool[last as usize..].to_vec();
            let call = Call::Report { token, from: last, events };
            if !process.calling(&call) {
                add("reports its result for the release", &|w| {
                    w.processes[n].calls.insert(call.clone());
                });
            }
        }
        if folder.ended() {
            if decided.released && process.worker.is_none() {
                add("removes the folder", &|w| {
                    let fenced = w
                        .row
                        .as_ref()
                        .is_some_and(|r| r.accepted && (r.token != token || r.instance != Some(self.id(n))));
                    let stored = w.row.as_ref().is_some_and(|r| r.reported);
                    if !stored && !fenced && !w.excused {
                        w.broken = Some(KEPT);
                    }
                    w.processes[n].folder = None;
                    w.processes[n].decided = Decided::default();
                });
            }
            return;
        }
        let stop = decided.cancel || decided.fenced;
        let end = |w: &mut World, phase: Phase| {
            let asked = w.wished || w.row.as_ref().is_some_and(|r| r.accepted && r.token != token);
            let asked = asked || w.row.as_ref().is_some_and(|r| r.accepted && r.instance != Some(self.id(n)));
            if phase == Phase::Canceled && !asked {
                w.broken = Some(UNASKED);
            }
            if let Some(folder) = &mut w.processes[n].folder {
                folder.spool.push(Event::Result(phase));
            }
            w.processes[n].worker = None;
        };
        let start = |w: &mut World, step| w.processes[n].worker = Some(Worker { step, begun: false });
        if let Some(worker) = &process.worker {
            if stop && worker.begun {
                add("has the worker stop", &|w| end(w, Phase::Canceled));
            }
            return;
        }
        let waits = folder.awaits();
        let began = |step: Step| match step {
            Step::Plan => !folder.spool.is_empty(),
            Step::Apply => folder.apply && !waits,
        };
        if !folder.plan || (waits && !folder.apply) {
            if stop {
                return add("ends as cancelled", &|w| end(w, Phase::Canceled));
            }
            if decided.discard {
                return add("ends as discarded", &|w| end(w, Phase::Discarded));
            }
        }
        let step = if folder.apply || waits { Step::Apply } else { Step::Plan };
        match step {
            Step::Plan if !folder.plan => {
                if self.has(Rule::MarkerFirst) {
                    add("marks the plan as started", &|w| mark(w, n, Step::Plan));
                } else {
                    add("starts the plan", &|w| start(w, Step::Plan));
                }
            }
            Step::Apply if !folder.apply => {
                if decided.approve {
                    add("marks the apply as started", &|w| mark(w, n, Step::Apply));
                }
            }
            step if !began(step) => add("starts the step", &|w| start(w, step)),
            step if !self.has(Rule::NeverAgain) => add("starts the step again", &|w| start(w, step)),
            _ => add("finds the worker gone", &|w| end(w, Phase::Lost)),
        }
    }

    /// What one job's worker does, whoever else lives.
    fn worker(&self, w: &World, n: usize, to: &mut Vec<Next<World>>) {
        let Some(Worker { step, begun }) = w.processes[n].worker.clone() else { return };
        let mut add = |what: &'static str, change: &dyn Fn(&mut World)| push(w, to, what, n, true, change);
        let say = |w: &mut World, event: Event| {
            if let Some(folder) = &mut w.processes[n].folder {
                folder.spool.push(event);
            }
        };
        if !begun {
            return add("the worker begins", &|w| {
                let (phase, count) = match step {
                    Step::Plan => (Phase::Planning, &mut w.starts.0),
                    Step::Apply => (Phase::Applying, &mut w.starts.1),
                };
                *count += 1;
                say(w, Event::PhaseChanged(phase));
                if let Some(worker) = &mut w.processes[n].worker {
                    worker.begun = true;
                }
            });
        }
        let ends: &[Event] = match step {
            Step::Plan => &[Event::PhaseChanged(Phase::AwaitingApproval), Event::Result(Phase::NoChanges)],
            Step::Apply => &[Event::Result(Phase::Applied)],
        };
        for event in ends {
            add("the worker ends", &|w| {
                say(w, *event);
                w.processes[n].worker = None;
            });
        }
    }

    /// What goes wrong.
    fn faults(&self, w: &World, to: &mut Vec<Next<World>>) {
        if self.bounds.restore {
            if w.backup.is_none() && !w.restored {
                push(w, to, "back up", PROCESSES, false, &|w| w.backup = Some(w.row.clone()));
            }
            if let Some(copy) = &w.backup {
                push(w, to, "restore", PROCESSES, false, &|w| {
                    w.excused |= w.row.as_ref().is_some_and(|r| r.reported);
                    w.row.clone_from(copy);
                    if let Some(row) = w.row.as_mut().filter(|r| !r.ended()) {
                        row.restored = true;
                        if !row.accepted {
                            row.phase = Phase::Pending;
                            row.token += if self.has(Rule::TokensRaised) { TOKENS } else { 0 };
                        }
                    }
                    (w.backup, w.restored) = (None, true);
                    w.disconnect();
                });
            }
        }
        if w.faults >= self.bounds.faults {
            return;
        }
        let mut add = |what: &'static str, n: usize, change: &dyn Fn(&mut World)| {
            push(w, to, what, n, false, &|w| {
                w.faults += 1;
                change(w);
            });
        };
        if w.row.as_ref().is_some_and(|row| self.may_lapse(w, row)) {
            add("an instance is away for too long", PROCESSES, &|w| set(w, |row| row.end(Phase::Lost)));
        }
        if !w.crashed {
            add("the control plane crashes", PROCESSES, &|w| {
                w.crashed = true;
                if let Some(before) = w.unsaved.take() {
                    w.row = Some(before);
                }
                w.disconnect();
            });
        }
        for n in 0..PROCESSES {
            let process = &w.processes[n];
            if process.gone {
                continue;
            }
            if process.up && !process.crashed {
                add("the supervisor crashes", n, &|w| {
                    let process = &mut w.processes[n];
                    (process.up, process.crashed) = (false, true);
                    process.hang_up();
                    process.decided = Decided::default();
                });
            }
            if !process.cut && (process.work != Work::Closed || !process.calls.is_empty()) {
                add("the connection is cut", n, &|w| {
                    w.processes[n].cut = true;
                    w.processes[n].hang_up();
                });
                for call in &process.calls {
                    add("a call is lost", n, &|w| {
                        w.processes[n].cut = true;
                        w.processes[n].calls.remove(call);
                    });
                    add("a call arrives twice", n, &|w| {
                        w.processes[n].cut = true;
                        self.call(w, n, call.clone());
                    });
                }
            }
            if process.worker.is_some() && !w.died {
                add("the worker dies", n, &|w| {
                    w.died = true;
                    w.processes[n].worker = None;
                });
            }
            if !process.up && process.folder.is_some() && process.worker.is_none() && !w.set_aside {
                add("the folder is damaged", n, &|w| {
                    w.set_aside = true;
                    w.excused = true;
                    w.processes[n].folder = None;
                });
            }
            // one of them stays
            if w.processes.iter().all(|p| !p.gone) {
                add("gone for good", n, &|w| {
                    let stream = w.processes[n].stream.clone();
                    w.processes[n].hang_up();
                    let late = std::mem::take(&mut w.processes[n].late);
                    let stream = stream.map(|s| Stream { alive: false, ..s });
                    w.processes[n] = Process { up: false, gone: true, late, stream, ..Process::new() };
                });
            }
        }
    }
}

impl Model for Protocol {
    type State = World;

    fn first(&self) -> World {
        World {
            created: false,
            row: None,
            unsaved: None,
            backup: None,
            restored: false,
            crashed: false,
            died: false,
            set_aside: false,
            faults: 0,
            hurried: false,
            processes: [Process::new(), Process { up: !self.bounds.alone, gone: self.bounds.alone, ..Process::new() }],
            wished: false,
            starts: (0, 0),
            excused: false,
            broken: None,
        }
    }

    fn standing_for(&self, mut w: World) -> World {
        w.order(!self.bounds.copied);
        w
    }

    fn next(&self, w: &World) -> Vec<Next<World>> {
        let mut to = Vec::new();
        self.user(w, &mut to);
        self.control_plane(w, &mut to);
        for n in 0..PROCESSES {
            self.inbox(w, n, &mut to);
            if !w.processes[n].gone {
                self.supervisor(w, n, &mut to);
                self.worker(w, n, &mut to);
            }
        }
        self.faults(w, &mut to);
        to
    }

    fn broken(&self, w: &World) -> Option<&'static str> {
        w.broken
    }

    /// The job has its end where there is a job, and no instance has anything of it left.
    fn ended(&self, w: &World) -> bool {
        let over = w.row.as_ref().is_none_or(Row::ended);
        w.created && over && w.processes.iter().all(|p| p.gone || (p.folder.is_none() && p.worker.is_none()))
    }
}

fn push(
    w: &World,
    to: &mut Vec<Next<World>>,
    what: &'static str,
    process: usize,
    progress: bool,
    change: &dyn Fn(&mut World),
) {
    let mut next = w.clone();
    change(&mut next);
    next.check();
    next.number_anew();
    to.push(Next { what, process, progress, to: next });
}

fn set(w: &mut World, change: impl FnOnce(&mut Row)) {
    if let Some(row) = &mut w.row {
        change(row);
    }
}

fn mark(w: &mut World, n: usize, step: Step) {
    if let Some(folder) = &mut w.processes[n].folder {
        match step {
            Step::Plan => folder.plan = true,
            Step::Apply => folder.apply = true,
        }
    }
}
