//! One Work stream: what an instance is to do, now and later.
//!
//! Nothing is kept here that a cut could lose: each round looks at the store and sends what this stream has not sent yet. So a
//! decision that was on its way when the stream broke is sent again on the next one.

use super::jobs::Jobs;
use super::streams::Place;
use crate::sessions::{Sessions, Verified};
use crate::store::{Job, Phase, Standing};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::work_item::Kind;
use shared_proto::{now_ms, v1};
use std::collections::HashMap;
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
/// How often it is told that a strange job's folder may go.
const PARTINGS: u32 = 6;
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
        let mut partings = match self.begin(held).await {
            Ok(partings) => partings,
            Err(Gone) => return None,
        };
        let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                        let before = now_ms() - ACCEPT_MS;
                        if let Ok(1..) = self.jobs.store().take_back(&self.who.runner, None, before).await {
                            self.jobs.changed(&self.who.runner, "");
                        }
                        break;
                    }
                    change = changes.recv() => match change {
                        Ok(change) if change.runner == self.who.runner => break,
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

    /// A sign of life at once, and a verdict on what the instance says that it holds.
    async fn begin(&mut self, held: Vec<v1::HeldJob>) -> Result<Vec<Parting>, Gone> {
        let mut partings = Vec::new();
        self.send(Kind::Heartbeat(v1::Heartbeat { control_plane_time_ms: now_ms() })).await?;
        // an assignment of an earlier stream may never have arrived
        let _ = self.jobs.store().take_back(&self.who.runner, Some(&self.instance), i64::MAX).await;
        for job in held {
            let standing = self
                .jobs
                .store()
                .standing(&self.who.organization, &self.who.runner, &self.instance, &job.job_id, job.fencing_token)
                .await;
            let Some(kind) = verdict(&job, standing) else { continue };
            if let Kind::Release(release) = &kind {
                partings.push(Parting { release: release.clone(), left: PARTINGS });
            }
            self.send(kind).await?;
        }
        Ok(partings)
    }

    /// Sends what is due: decisions on the jobs that the instance has, then new jobs.
    async fn round(&mut self) -> Result<Result<(), Gone>, Failure> {
        let followed = self.jobs.store().jobs_of_instance(&self.who.runner, &self.instance).await?;
        self.told.retain(|id, _| followed.iter().any(|job| job.id == *id));
        let now = Instant::now();
        for job in &followed {
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
            let assignment = v1::Assignment {
                job_id: given.job_id,
                fencing_token: given.fencing_token,
                request: given.request,
                request_sha256: given.request_sha256,
                state_instance: given.state_instance.unwrap_or_default(),
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
/// - unknown here, or fenced off: nothing that it does counts. Where it has ended the folder may go; where it still runs it is asked
///   to stop, never cut off: the engine has to leave its state in order. Its folder goes once it reports its result
///   and is answered `fenced` or `not_found`.
fn verdict(held: &v1::HeldJob, standing: Result<Standing, Failure>) -> Option<Kind> {
    let (job_id, fencing_token) = (held.job_id.clone(), held.fencing_token);
    match standing {
        Ok(Standing::Held(job)) if job.reported => Some(Kind::Release(v1::JobRelease { job_id, fencing_token })),
        Ok(Standing::Held(_)) => None,
        Ok(Standing::Unknown | Standing::Fenced(_)) => {
            let ended = Phase::from_name(&held.phase).is_some_and(|phase| phase >= Phase::Applied);
            if ended {
                return Some(Kind::Release(v1::JobRelease { job_id, fencing_token }));
            }
            let by = "the control plane: the job is not this instance's".to_owned();
            Some(Kind::Cancel(v1::Cancel { job_id, fencing_token, by, force: false }))
        }
        // not known now: nothing is told, the next stream asks again
        Err(_) => None,
    }
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
    if job.ended() {
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
    let plan_sha256 = job.plan().unwrap_or_default().sha256;
    again(&mut told.approved).then_some(Kind::Approval(v1::Approval { job_id, fencing_token, by, plan_sha256 }))
}
