//! One Work stream: what an instance is to do, now and later.
//!
//! Nothing is kept here that a cut could lose: each round looks at the store and sends what this stream has not sent yet. So a
//! decision that was on its way when the stream broke is sent again on the next one.

use super::jobs::Jobs;
use super::service::HELD_MAX;
use super::streams::Place;
use crate::clock::steady_ms;
use crate::sessions::{Sessions, Verified};
use crate::store::{Job, Phase, Standing};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::work_item::Kind;
use shared_proto::{now_ms, v1};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long an instance may take to accept.
const ACCEPT_MS: i64 = 30_000;
/// After this a decision is told again whose effect has not been seen: a job's process that was just ending may have missed it.
const AGAIN: Duration = Duration::from_secs(4);
/// How often it is told that a strange job's folder may go, and asked for a job that is not known.
const PARTINGS: u32 = 6;
/// After so many heartbeats the stream is surely the instance's present one: a request that came late, on a connection that is gone, has been
/// found out by then. Only then what it did not name is lost.
const BEATS_SURE: u32 = 3;
/// How long the stream may take to take an item: by then the runner has long given it up.
const SEND_MAX: Duration = Duration::from_secs(15);

/// One stream, as its task holds it.
pub(super) struct Work {
    pub(super) jobs: Jobs,
    pub(super) sessions: Sessions,
    pub(super) who: Verified,
    pub(super) instance: String,
    pub(super) slots: u32,
    pub(super) items: mpsc::Sender<Result<v1::WorkItem, Status>>,
    pub(super) place: Place,
    /// The connection ends: the control plane shuts down, or the runner was revoked.
    pub(super) closing: CancellationToken,
    /// What was sent on this stream of each job.
    pub(super) told: HashMap<String, Told>,
    /// The jobs that the instance had when it asked for work, and those that it was given since; none: it may have others.
    pub(super) had: Option<HashSet<String>>,
    /// The jobs that it has after all, and that were taken for lost.
    pub(super) found: HashSet<String>,
}

/// What an instance was told of a job on this stream, and when.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    approved: Option<Instant>,
    asked: Option<Instant>,
    forced: Option<Instant>,
    discarded: Option<Instant>,
    released: Option<Instant>,
}

/// The folder of a job that is none of this instance's may go: told a few times.
struct Parting {
    release: v1::JobRelease,
    left: u32,
}

/// A job that the instance has and that is not known here: asked for a few times.
struct Asked {
    held: v1::HeldJob,
    left: u32,
}

/// What is to be done about a job that an instance says it holds.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Nothing: it is as it should be, or cannot be known now.
    Fine,
    /// It is told that.
    Tell(Kind),
    /// It is to present the job.
    Unknown,
}

/// The stream does not take anything any more.
struct Gone;

// === impl Work ===

impl Work {
    /// Serves the stream until either end lets go.
    pub(super) async fn run(mut self, held: Vec<v1::HeldJob>) {
        let mut changes = self.jobs.changes();
        let why = self.serve(held, &mut changes).await;
        if let Some(failure) = why {
            let refusal = v1::Refusal {
                code: failure.code.as_str().to_owned(),
                message: failure.message,
                control_plane_time_ms: now_ms(),
                retry_after_ms: 0,
            };
            let _ = self.items.try_send(Ok(item(Kind::Refusal(refusal))));
        }
        // what it has not accepted may go to another instance; a newer stream of the same one sees to it itself
        if self.place.leave()
            && let Ok(1..) = self.jobs.store().take_back(&self.who.runner, Some(&self.instance), i64::MAX).await
        {
            self.jobs.changed(&self.who.runner, "");
        }
    }

    async fn serve(
        &mut self,
        held: Vec<v1::HeldJob>,
        changes: &mut broadcast::Receiver<super::Change>,
    ) -> Option<Failure> {
        let (mut partings, mut asked) = match self.begin(held).await {
            Ok(begun) => begun,
            Err(Gone) => return None,
        };
        let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = 0;
        loop {
            match self.round().await {
                Ok(Ok(())) => {}
                Ok(Err(Gone)) => return None,
                // the store has logged it; the next heartbeat tries again
                Err(_) => {}
            }
            loop {
                tokio::select! {
                    () = self.items.closed() => return None,
                    () = self.place.replaced.cancelled() => {
                        return Some(Code::InstanceConflict.on(format!("instance {} asked for work anew", self.instance)));
                    }
                    () = self.closing.cancelled() => return self.refused().await,
                    _ = heartbeat.tick() => {
                        let session = self.sessions.incarnation(&self.who, &self.instance);
                        if let Err(conflict) = self.place.stands(session.as_deref()) {
                            return Some(conflict);
                        }
                        let beat = Kind::Heartbeat(v1::Heartbeat { control_plane_time_ms: now_ms() });
                        if self.send(beat).await.is_err() {
                            return None;
                        }
                        for parting in &mut partings {
                            if self.send(Kind::Release(parting.release.clone())).await.is_err() {
                                return None;
                            }
                            parting.left -= 1;
                        }
                        partings.retain(|p| p.left > 0);
                        for job in &mut asked {
                            job.left = job.left.saturating_sub(1);
                        }
                        let Ok(rest) = self.ask(asked).await else { return None };
                        asked = rest;
                        beats += 1;
                        if beats >= BEATS_SURE {
                            self.lose_absent().await;
                        }
                        let before = steady_ms() - ACCEPT_MS;
                        if let Ok(1..) = self.jobs.store().take_back(&self.who.runner, None, before).await {
                            self.jobs.changed(&self.who.runner, "");
                        }
                        break;
                    }
                    change = changes.recv() => match change {
                        Ok(change) if change.runner == self.who.runner => {
                            let Ok(rest) = self.unwanted(asked).await else { return None };
                            asked = rest;
                            break;
                        }
                        Ok(_) => {}
                        Err(broadcast::error::RecvError::Lagged(_)) => break,
                        Err(broadcast::error::RecvError::Closed) => return None,
                    }
                }
            }
        }
    }

    /// Why the connection closes, if it is this runner's matter.
    async fn refused(&self) -> Option<Failure> {
        let runner = self.jobs.store().runner(&self.who.organization, &self.who.runner).await.ok()?;
        let revoked = runner.revoked_at_ms.is_some();
        revoked.then(|| Code::CertificateRevoked.on(format!("runner {} was revoked", runner.name)))
    }

    /// A sign of life at once, and a verdict on what the instance says that it holds, and on what it does not.
    async fn begin(&mut self, held: Vec<v1::HeldJob>) -> Result<(Vec<Parting>, Vec<Asked>), Gone> {
        let (mut partings, mut unknown) = (Vec::new(), Vec::new());
        self.send(Kind::Heartbeat(v1::Heartbeat { control_plane_time_ms: now_ms() })).await?;
        // an assignment of an earlier stream may never have arrived
        let _ = self.jobs.store().take_back(&self.who.runner, Some(&self.instance), i64::MAX).await;
        // where it names as many as it may, it may have more
        self.had = (held.len() < HELD_MAX).then(|| held.iter().map(|job| job.job_id.clone()).collect());
        for job in held {
            let standing = self.standing(&job).await;
            if let Ok(Standing::Held(known)) = &standing {
                // the store has logged why; what is not confirmed now is at the next report
                let _ = self.jobs.store().confirm_job(known).await;
                if known.phase == Phase::Lost && !known.reported {
                    self.found.insert(known.id.clone());
                }
            }
            match verdict(&job, standing) {
                Verdict::Fine => {}
                Verdict::Tell(kind) => {
                    if let Kind::Release(release) = &kind {
                        partings.push(Parting { release: release.clone(), left: PARTINGS });
                    }
                    self.send(kind).await?;
                }
                Verdict::Unknown => unknown.push(Asked { held: job, left: PARTINGS }),
            }
        }
        Ok((partings, self.ask(unknown).await?))
    }

    /// Ends as lost what is the instance's, and what it neither named nor was given on this stream: what it accepts is in its folder until it
    /// is released. An Accept of before may come late, so it is looked at again and again.
    async fn lose_absent(&self) {
        let Some(had) = &self.had else { return };
        let store = self.jobs.store();
        let absent = store.absent_jobs(&self.who.runner, &self.instance, had).await.unwrap_or_default();
        if absent.is_empty() {
            return;
        }
        let lost = store.lose_jobs(&self.who.runner, &self.instance, &absent).await;
        for job in lost.unwrap_or_default() {
            tracing::warn!(job = job.id, instance = self.instance, "job lost: its instance does not have it");
            self.jobs.changed(&self.who.runner, &job.id);
        }
    }

    async fn standing(&self, job: &v1::HeldJob) -> Result<Standing, Failure> {
        let (who, store) = (&self.who, self.jobs.store());
        store.standing(&who.organization, &who.runner, &self.instance, &job.job_id, job.fencing_token).await
    }

    /// Asks the instance for the jobs that are still not known.
    async fn ask(&mut self, jobs: Vec<Asked>) -> Result<Vec<Asked>, Gone> {
        let mut rest = Vec::new();
        for job in self.unwanted(jobs).await? {
            let (job_id, fencing_token) = (job.held.job_id.clone(), job.held.fencing_token);
            if job.left == 0 {
                // nobody took its word for it, and it did not begin: its Accept decides, or its reports find no job
                let waits = matches!(self.standing(&job.held).await, Ok(Standing::Fenced(known)) if !known.accepted);
                if waits {
                    // nor does it have to be asked once only: another job of its stack may have been at work all the time
                    self.send(Kind::Recall(v1::Recall { job_id, fencing_token, unknown: true })).await?;
                    rest.push(job);
                    continue;
                }
                // it does not show what it has, and is of an older version or broken
                self.send(dismissal(&job.held)).await?;
                self.jobs.streams().refuse(&self.who.runner, &self.instance, &job_id);
                continue;
            }
            self.send(Kind::Recall(v1::Recall { job_id, fencing_token, unknown: true })).await?;
            rest.push(job);
        }
        Ok(rest)
    }

    /// Those that are not known yet; what was presented and is not wanted is dismissed.
    async fn unwanted(&mut self, jobs: Vec<Asked>) -> Result<Vec<Asked>, Gone> {
        let mut rest = Vec::new();
        for job in jobs {
            if self.jobs.streams().refuses(&self.who.runner, &self.instance, &job.held.job_id) {
                self.send(dismissal(&job.held)).await?;
            } else if !matches!(self.standing(&job.held).await, Ok(Standing::Held(_))) {
                rest.push(job);
            }
        }
        Ok(rest)
    }

    /// Sends what is due: decisions on the jobs that the instance has, then new jobs.
    async fn round(&mut self) -> Result<Result<(), Gone>, Failure> {
        let followed = self.jobs.store().jobs_of_instance(&self.who.runner, &self.instance).await?;
        self.told.retain(|id, _| followed.iter().any(|job| job.id == *id));
        let now = Instant::now();
        // what is lost is told to whoever has it after all, and to nobody else
        let found = &self.found;
        for job in followed.iter().filter(|job| job.phase != Phase::Lost || job.reported || found.contains(&job.id)) {
            let told = self.told.entry(job.id.clone()).or_default();
            if let Some(kind) = due(job, told, now)
                && self.send(kind).await.is_err()
            {
                return Ok(Err(Gone));
            }
        }
        for _ in 0..self.slots {
            let present = self.jobs.streams().present(&self.who.runner);
            let given = self.jobs.store().assign_next(&self.who.runner, &self.instance, self.slots, &present).await?;
            let Some(given) = given else { break };
            tracing::info!(job = given.job_id, instance = self.instance, token = given.fencing_token, "job assigned");
            let job = given.job_id.clone();
            if let Some(had) = &mut self.had {
                had.insert(job.clone());
            }
            let assignment = v1::Assignment {
                job_id: given.job_id,
                fencing_token: given.fencing_token,
                request: given.request,
                request_sha256: given.request_sha256,
                state_instance: given.state_instance.unwrap_or_default(),
                seal: given.seal,
            };
            if self.send(Kind::Assignment(assignment)).await.is_err() {
                return Ok(Err(Gone));
            }
            self.jobs.changed(&self.who.runner, &job);
        }
        Ok(Ok(()))
    }

    async fn send(&self, kind: Kind) -> Result<(), Gone> {
        match tokio::time::timeout(SEND_MAX, self.items.send(Ok(item(kind)))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

fn item(kind: Kind) -> v1::WorkItem {
    v1::WorkItem { kind: Some(kind) }
}

/// What an instance is told of a job that it says it holds, beyond what [`due`] says of its own ones.
///
/// - its own, and its result is stored: the folder may go. The release before may have been lost.
/// - its own, and it has more of it than is here: maybe only what is on its way, maybe what was acknowledged after the back-up that this
///   control plane was restored from. It looks.
/// - not known here, or not accepted: it may have been given out after that back-up. It presents it, unless it is still about to accept it.
/// - fenced off: nothing that it does counts.
fn verdict(held: &v1::HeldJob, standing: Result<Standing, Failure>) -> Verdict {
    let (job_id, fencing_token) = (held.job_id.clone(), held.fencing_token);
    match standing {
        Ok(Standing::Held(job)) if job.reported => {
            Verdict::Tell(Kind::Release(v1::JobRelease { job_id, fencing_token }))
        }
        Ok(Standing::Held(job)) if i64::try_from(held.last_sequence).is_ok_and(|last| last > job.last_sequence) => {
            Verdict::Tell(Kind::Recall(v1::Recall { job_id, fencing_token, unknown: false }))
        }
        Ok(Standing::Held(_)) => Verdict::Fine,
        Ok(Standing::Unknown) => Verdict::Unknown,
        Ok(Standing::Fenced(job)) if !job.accepted => Verdict::Unknown,
        Ok(Standing::Fenced(_)) => Verdict::Tell(dismissal(held)),
        // not known now: nothing is told, the next stream asks again
        Err(_) => Verdict::Fine,
    }
}

/// Nothing that it does with a job counts. Where it has ended the folder may go; where it still runs it is asked to stop, never cut off: the
/// engine has to leave its state in order. Its folder goes once it reports its result and is answered `fenced` or `not_found`.
fn dismissal(held: &v1::HeldJob) -> Kind {
    let (job_id, fencing_token) = (held.job_id.clone(), held.fencing_token);
    let ended = Phase::from_name(&held.phase).is_some_and(|phase| phase >= Phase::Applied);
    if ended {
        return Kind::Release(v1::JobRelease { job_id, fencing_token });
    }
    let by = "the control plane: the job is not this instance's".to_owned();
    Kind::Cancel(v1::Cancel { job_id, fencing_token, by, force: false })
}

/// What is to be told of a job now: what this stream did not tell yet, and what had no effect in a while.
fn due(job: &Job, told: &mut Told, now: Instant) -> Option<Kind> {
    let (job_id, fencing_token) = (job.id.clone(), job.token());
    let again = |last: &mut Option<Instant>| match last {
        Some(at) if now < *at + AGAIN => false,
        _ => {
            *last = Some(now);
            true
        }
    };
    if job.reported {
        return again(&mut told.released).then_some(Kind::Release(v1::JobRelease { job_id, fencing_token }));
    }
    if job.phase == Phase::Lost && job.canceled_by.is_none() {
        // what it has not begun it does not begin any more; what runs tells its end, which counts
        let by = "the control plane, because it took the job for lost".to_owned();
        return again(&mut told.discarded).then_some(Kind::Discard(v1::Discard { job_id, fencing_token, by }));
    }
    if job.ended() && job.phase != Phase::Lost {
        // its folder ends with the word that the user was told
        if job.phase == Phase::Canceled {
            let by = job.canceled_by.clone().unwrap_or_default();
            return again(&mut told.asked).then_some(Kind::Cancel(v1::Cancel {
                job_id,
                fencing_token,
                by,
                force: false,
            }));
        }
        let by = job.discarded_by.clone().or_else(|| job.canceled_by.clone()).unwrap_or_default();
        return again(&mut told.discarded).then_some(Kind::Discard(v1::Discard { job_id, fencing_token, by }));
    }
    if let Some(by) = job.canceled_by.clone() {
        let last = if job.cancel_force { &mut told.forced } else { &mut told.asked };
        let force = job.cancel_force;
        return again(last).then_some(Kind::Cancel(v1::Cancel { job_id, fencing_token, by, force }));
    }
    let by = job.approved_by.clone()?;
    let plan = job.plan().unwrap_or_default();
    let (plan_sha256, people) = (plan.sha256, plan.approvers);
    again(&mut told.approved).then_some(Kind::Approval(v1::Approval { job_id, fencing_token, by, plan_sha256, people }))
}
