//! Sends a job's events to the control plane: each once, in order, for ever until they are taken. What the control plane has is noted;
//! what is not noted is sent again, which is harmless. A control plane that was restored from an older back-up has less than it
//! acknowledged: the spool has all of it until the job is released, and is told again from there.

use super::folder::{Ending, Folder};
use super::service::{Held, Pause, Service};
use super::spool::Events;
use prost::Message as _;
use shared_proto::bounds::REPORT_MAX;
use shared_proto::failure::Code;
use shared_proto::v1::Event;
use shared_proto::v1::event::Body;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Events in one report, beside its bytes.
const EVENTS_MAX: usize = 1024;
/// How often the spool is looked at without word from the worker.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a report is kept back that the control plane does not take, for a reason that is not the network's.
const REFUSED_WAIT: Duration = Duration::from_secs(30);

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Progress {
    /// The newest number that was read.
    pub(super) last: u64,
    /// The newest phase that was read.
    pub(super) phase: String,
    /// The newest number that the control plane has.
    pub(super) acknowledged: u64,
    /// The job's result is taken, or does not matter to the control plane any more.
    pub(super) done: bool,
    /// The control plane says that the job is not this instance's.
    pub(super) fenced: bool,
    /// Nothing of it runs, nor will while this supervisor stops jobs.
    pub(super) rests: bool,
    /// The spool cannot be read on, and why.
    pub(super) damaged: Option<String>,
}

/// One job's uploads.
pub(super) struct Upload {
    folder: Folder,
    service: Service,
    held: Held,
    events: Events,
    /// The newest number that was read since the spool was opened.
    read: u64,
    waiting: VecDeque<Event>,
    /// The newest of `waiting` is the supervisor's own ending, whose number is checked before it is sent.
    own_ending: bool,
    progress: watch::Sender<Progress>,
    /// Changes when there may be more: a new event, an ending.
    news: watch::Receiver<u64>,
    /// The control plane may have less than it had.
    recalled: Arc<Notify>,
}

// === impl Upload ===

impl Upload {
    pub(super) fn new(
        folder: &Folder,
        service: &Service,
        held: &Held,
        progress: watch::Sender<Progress>,
        news: watch::Receiver<u64>,
        recalled: Arc<Notify>,
    ) -> Self {
        Self {
            folder: folder.clone(),
            service: service.clone(),
            held: held.clone(),
            events: Events::new(folder),
            read: 0,
            waiting: VecDeque::new(),
            own_ending: false,
            progress,
            news,
            recalled,
        }
    }

    /// Runs as long as the job is here: what was taken may be asked for again.
    pub(super) async fn run(mut self) {
        let acknowledged = self.folder.acknowledged();
        self.progress.send_modify(|p| p.acknowledged = acknowledged);
        let mut pause = Pause::new(self.service.backoff);
        loop {
            self.fill();
            if self.waiting.is_empty() {
                tokio::select! {
                    () = self.recalled.notified() => self.compare(&mut pause).await,
                    _ = tokio::time::timeout(LOOK_EVERY, self.news.changed()) => {}
                }
                continue;
            }
            if self.send(&mut pause).await {
                self.progress.send_modify(|p| p.done = true);
                self.recalled.notified().await;
                self.compare(&mut pause).await;
            }
        }
    }

    /// Asks what the control plane has; where that is less than it acknowledged, all after it is sent again.
    async fn compare(&mut self, pause: &mut Pause) {
        match self.service.report(&self.held, Vec::new()).await {
            Ok(reply) if Code::from_name(&reply.code).is_none() => {
                if reply.acknowledged < self.progress.borrow().acknowledged {
                    self.rewind(reply.acknowledged);
                }
            }
            // not known yet, or not to be had: whether it has it all is not known
            Ok(_) | Err(_) => {
                tokio::time::sleep(pause.next()).await;
                self.recalled.notify_one();
            }
        }
    }

    /// Reads the spool from its beginning, and sends what comes after that number.
    fn rewind(&mut self, acknowledged: u64) {
        tracing::warn!(
            job = self.held.job_id,
            acknowledged,
            before = self.progress.borrow().acknowledged,
            "the control plane has fewer events than it acknowledged; the others are sent again"
        );
        self.events = Events::new(&self.folder);
        self.read = 0;
        self.waiting.clear();
        self.own_ending = false;
        if let Err(e) = self.folder.acknowledge(acknowledged) {
            tracing::warn!(job = self.held.job_id, error = %e, "the acknowledged number cannot be written");
        }
        // what is damaged is found again, after what can still be read
        self.progress.send_modify(|p| (p.acknowledged, p.done, p.damaged) = (acknowledged, false, None));
    }

    /// Reads on, as far as one report goes.
    fn fill(&mut self) {
        let ending = self.folder.ending().ok().flatten();
        let mut bytes: usize = self.waiting.iter().map(Event::encoded_len).sum();
        while bytes < REPORT_MAX && self.waiting.len() < EVENTS_MAX {
            let Some(event) = self.next(ending.as_ref()) else { return };
            self.read = event.sequence;
            let (acknowledged, fenced) = {
                let progress = self.progress.borrow();
                (progress.acknowledged, progress.fenced)
            };
            self.progress.send_modify(|p| {
                // what is read a second time is no news
                if event.sequence <= p.last {
                    return;
                }
                p.last = event.sequence;
                match &event.body {
                    Some(Body::PhaseChanged(changed)) => p.phase.clone_from(&changed.phase),
                    Some(Body::Result(result)) => p.phase.clone_from(&result.phase),
                    _ => {}
                }
            });
            let result = matches!(event.body, Some(Body::Result(_)));
            // a result that was taken before is sent again: it is how this ends
            if (fenced || event.sequence <= acknowledged) && !result {
                continue;
            }
            bytes += event.encoded_len() + 8;
            self.waiting.push_back(event);
            if result {
                return;
            }
        }
    }

    /// The next event of the spool; at its end the supervisor's own ending, if there is one.
    fn next(&mut self, ending: Option<&Ending>) -> Option<Event> {
        let (last, damaged) = (self.read, self.progress.borrow().damaged.is_some());
        // what stands before the ending is told first, and what stands in its place is not
        if !damaged && ending.is_none_or(|e| last + 1 < e.sequence) {
            match self.events.next() {
                Ok(Some(event)) => return Some(event),
                Ok(None) => {}
                Err(why) => self.progress.send_modify(|p| p.damaged = Some(why.message)),
            }
        }
        // the spool may have been cut since it was read, and ends wherever it ends
        let ending = ending.filter(|_| !self.own_ending)?;
        self.own_ending = true;
        let sequence = ending.sequence.max(last + 1);
        let body = Some(Body::Result(ending.result()));
        Some(Event { sequence, time_ms: ending.time_ms, engine_read: None, body })
    }

    /// Sends what waits; `true` when the job's result is taken.
    async fn send(&mut self, pause: &mut Pause) -> bool {
        let mut bytes = 0;
        let fits = |event: &&Event| {
            bytes += event.encoded_len() + 8;
            bytes <= REPORT_MAX
        };
        let mut batch: Vec<_> = self.waiting.iter().take_while(fits).cloned().collect();
        if batch.is_empty() {
            // one that is larger than a report cannot be, by the spool's own limit
            batch.extend(self.waiting.front().cloned());
        }
        let ends = batch.last().is_some_and(|e| matches!(e.body, Some(Body::Result(_))));
        if ends && self.own_ending && !self.renumber(&mut batch, pause).await {
            return false;
        }
        let newest = batch.last().map_or(0, |e| e.sequence);
        let reply = match self.service.report(&self.held, batch).await {
            Ok(reply) => reply,
            Err(failure) => {
                tracing::debug!(
                    job = self.held.job_id,
                    code = failure.code.as_str(),
                    detail = failure.message,
                    "report failed"
                );
                tokio::time::sleep(pause.next()).await;
                return false;
            }
        };
        let (known, fenced) = (Code::from_name(&reply.code) != Some(Code::NotFound), self.progress.borrow().fenced);
        if !known && !fenced {
            // restored from an older back-up, it will ask for the job itself; one that does not want it says so
            tracing::info!(job = self.held.job_id, detail = reply.message, "the control plane does not know the job");
            tokio::time::sleep(pause.next()).await;
            return false;
        }
        pause.reset();
        if ends && reply.has_result {
            return true;
        }
        match Code::from_name(&reply.code) {
            None if reply.code.is_empty() || reply.code == "ok" => {}
            Some(Code::Fenced | Code::NotFound) => {
                // nothing that this job still says counts; its result is sent for the release that answers it
                tracing::warn!(
                    job = self.held.job_id,
                    code = reply.code,
                    detail = reply.message,
                    "the job is not this instance's"
                );
                self.waiting.retain(|e| matches!(e.body, Some(Body::Result(_))));
                self.progress.send_modify(|p| p.fenced = true);
                return ends;
            }
            _ => {
                tracing::error!(
                    job = self.held.job_id,
                    code = reply.code,
                    detail = reply.message,
                    "a report was refused"
                );
                // a gap: it had more of it before
                if reply.acknowledged < self.progress.borrow().acknowledged {
                    self.rewind(reply.acknowledged);
                    return false;
                }
                // nothing of it was taken, as where the control plane has a result that comes first
                if reply.acknowledged == self.progress.borrow().acknowledged {
                    tokio::time::sleep(REFUSED_WAIT).await;
                }
            }
        }
        // never more than was sent: the other side's number may be of a folder that was restored from a backup
        let acknowledged = reply.acknowledged.min(newest);
        while self.waiting.front().is_some_and(|e| e.sequence <= acknowledged) {
            self.waiting.pop_front();
        }
        if acknowledged > self.progress.borrow().acknowledged {
            if let Err(e) = self.folder.acknowledge(acknowledged) {
                tracing::warn!(job = self.held.job_id, error = %e, "the acknowledged number cannot be written");
            }
            self.progress.send_modify(|p| p.acknowledged = acknowledged);
        }
        ends && acknowledged >= newest
    }

    /// Gives our own ending the number after the newest one before it, which the control plane has or gets with it: the spool may have
    /// lost, or the noted number may lag behind, what was taken. `false`: it cannot be asked now, or has less than it had.
    async fn renumber(&mut self, batch: &mut [Event], pause: &mut Pause) -> bool {
        let reply = match self.service.report(&self.held, Vec::new()).await {
            Ok(reply) => reply,
            Err(_) => {
                tokio::time::sleep(pause.next()).await;
                return false;
            }
        };
        if Code::from_name(&reply.code).is_some() {
            // what it is, is told once more by the answer to the ending itself
            return true;
        }
        if reply.acknowledged < self.progress.borrow().acknowledged {
            self.rewind(reply.acknowledged);
            return false;
        }
        let before = batch.iter().rev().nth(1).map_or(0, |e| e.sequence).max(reply.acknowledged);
        if let (Some(ending), Some(waiting)) = (batch.last_mut(), self.waiting.back_mut()) {
            ending.sequence = before + 1;
            waiting.sequence = ending.sequence;
        }
        true
    }
}
