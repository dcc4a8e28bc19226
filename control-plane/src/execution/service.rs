//! The calls of the execution service.

use super::Peer;
use super::archives::ArchiveHash;
use super::jobs::Jobs;
use super::streams::ITEMS_MAX;
use super::work::Work;
use crate::sessions::{Claim, Registry, Sessions, Verified, own_instance};
use crate::store::Standing;
use shared_proto::api_key::{self, Purpose};
use shared_proto::bounds::{JOBS_AT_ONCE_MAX, SOURCE_CHUNK};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use shared_proto::v1::execution_server::Execution;
use shared_proto::v1::work_item::Kind;
use shared_proto::v1::{self, event::Body};
use std::collections::{HashMap, HashSet};
use std::io::SeekFrom;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Jobs that an instance may say it holds.
pub(super) const HELD_MAX: usize = 1000;
/// When it is told that a strange job's folder may go, each after the one before.
const RELEASE_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(5), Duration::from_secs(10)];
/// Chunks of an archive on their way.
const CHUNKS: usize = 2;

/// The calls, on these jobs.
pub(super) struct Service {
    jobs: Jobs,
    sessions: Sessions,
    registry: Arc<dyn Registry>,
}

// === impl Service ===

impl Service {
    pub(super) fn new(jobs: Jobs, sessions: Sessions, registry: Arc<dyn Registry>) -> Self {
        Self { jobs, sessions, registry }
    }

    /// Who calls: the connection's certificate and the call's API key, through the five steps once for both.
    async fn caller<T>(&self, request: &Request<T>) -> Result<(Verified, Arc<Peer>), Failure> {
        let peer = request
            .extensions()
            .get::<Arc<Peer>>()
            .cloned()
            .ok_or_else(|| Code::CertificateMissing.on("the call came over no connection of a runner"))?;
        let key = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.strip_prefix("Bearer "))
            .ok_or_else(|| Code::ApiKeyInvalid.on("the metadata has no authorization: Bearer KEY"))?;
        let digest = api_key::parse(Purpose::Runner, key)
            .map_err(|e| Code::ApiKeyInvalid.on(format!("the API key is malformed: {e}")))?;
        let mut known = peer.known.lock().await;
        if let Some((of, who)) = &*known
            && *of == digest
        {
            let who = who.clone();
            drop(known);
            return Ok((who, peer));
        }
        let claim = Claim { chain: peer.chain.clone(), session_for: None, api_key: Secret::new(key) };
        match self.registry.verify(claim).await {
            Ok(who) => {
                *known = Some((digest, who.clone()));
                drop(known);
                Ok((who, peer))
            }
            Err(failure) => {
                tracing::warn!(
                    peer = peer.address,
                    code = failure.code.as_str(),
                    detail = failure.message,
                    next_step = failure.next_step,
                    "call of the execution service refused"
                );
                Err(failure)
            }
        }
    }
}

/// Whether the control plane failed, and not what was asked: then it is asked again, and nothing is decided.
const fn is_ours(code: Code) -> bool {
    matches!(code, Code::Internal | Code::DiskFull | Code::DiskUnwritable)
}

#[tonic::async_trait]
impl Execution for Service {
    type WorkStream = ReceiverStream<Result<v1::WorkItem, Status>>;
    type SourceStream = ReceiverStream<Result<v1::SourceChunk, Status>>;

    async fn work(&self, request: Request<v1::WorkRequest>) -> Result<Response<Self::WorkStream>, Status> {
        let (who, peer) = self.caller(&request).await?;
        let asked = request.into_inner();
        own_instance(&who, &asked.instance_id)?;
        if asked.held.len() > HELD_MAX {
            return Err(Code::TooLarge
                .on(format!("the instance holds {} jobs, the limit is {HELD_MAX}", asked.held.len()))
                .into());
        }
        let slots = asked.slots.min(JOBS_AT_ONCE_MAX);
        let (items, out) = mpsc::channel(ITEMS_MAX);
        let session = self.sessions.incarnation(&who, &asked.instance_id);
        let place = self
            .jobs
            .streams()
            .enter(&who.runner, &asked.instance_id, &asked.incarnation, session.as_deref(), slots, items.clone())
            .inspect_err(|failure| {
                tracing::warn!(
                    runner = who.runner,
                    instance = asked.instance_id,
                    hostname = ?asked.hostname,
                    peer = peer.address,
                    code = failure.code.as_str(),
                    detail = failure.message,
                    next_step = failure.next_step,
                    "work refused"
                );
            })?;
        tracing::info!(
            organization = who.organization,
            runner = who.runner,
            instance = asked.instance_id,
            held = asked.held.len(),
            slots,
            peer = peer.address,
            "instance asks for work"
        );
        let work = Work {
            jobs: self.jobs.clone(),
            sessions: self.sessions.clone(),
            who,
            instance: asked.instance_id,
            slots,
            items,
            place,
            closing: peer.closing.clone(),
            told: HashMap::new(),
            had: None,
            found: HashSet::new(),
        };
        tokio::spawn(work.run(asked.held));
        Ok(Response::new(ReceiverStream::new(out)))
    }

    async fn accept(&self, request: Request<v1::AcceptRequest>) -> Result<Response<v1::AcceptReply>, Status> {
        let (who, _) = self.caller(&request).await?;
        let request = request.into_inner();
        own_instance(&who, &request.instance_id)?;
        let reply = match self.jobs.store().accept_job(&who.organization, &who.runner, &request).await {
            Ok(job) => {
                tracing::info!(job = job.id, instance = request.instance_id, token = job.fencing_token, "job accepted");
                self.jobs.changed(&who.runner, &job.id);
                v1::AcceptReply { accepted: true, code: "ok".into(), message: String::new() }
            }
            // not the runner's fault: it asks again
            Err(failure) if is_ours(failure.code) => return Err(failure.into()),
            Err(failure) => {
                v1::AcceptReply { accepted: false, code: failure.code.as_str().into(), message: failure.message }
            }
        };
        Ok(Response::new(reply))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportReply>, Status> {
        let (who, _) = self.caller(&request).await?;
        let report = request.into_inner();
        own_instance(&who, &report.instance_id)?;
        let reply = match self.jobs.store().report_events(&who.organization, &who.runner, &report).await {
            Ok(reported) => {
                if reported.news {
                    if reported.job.ended() {
                        tracing::info!(job = reported.job.id, phase = reported.job.phase.as_str(), "job ended");
                    }
                    self.jobs.changed(&who.runner, &reported.job.id);
                }
                let (code, message) = match reported.refused {
                    None => ("ok".to_owned(), String::new()),
                    Some(failure) => (failure.code.as_str().to_owned(), failure.message),
                };
                let has_result = reported.job.reported;
                v1::ReportReply { acknowledged: reported.acknowledged, code, message, has_result }
            }
            Err(failure) if is_ours(failure.code) => return Err(failure.into()),
            Err(failure) => {
                // nothing of it counts here; once it has ended there, nothing needs its folder
                let ended = report.events.iter().any(|e| matches!(e.body, Some(Body::Result(_))));
                let streams = self.jobs.streams();
                let unwanted = match failure.code {
                    Code::Fenced => true,
                    // one that is not known may yet be presented
                    Code::NotFound => streams.refuses(&who.runner, &report.instance_id, &report.job_id),
                    _ => false,
                };
                if ended && unwanted {
                    let (job_id, fencing_token) = (report.job_id.clone(), report.fencing_token);
                    let release = v1::JobRelease { job_id, fencing_token };
                    let (jobs, runner, instance) = (self.jobs.clone(), who.runner, report.instance_id);
                    // again after a while: the job's process may just be ending and miss the first
                    tokio::spawn(async move {
                        for pause in RELEASE_PAUSES {
                            tokio::time::sleep(pause).await;
                            jobs.streams().tell(&runner, &instance, Kind::Release(release.clone()));
                        }
                    });
                }
                v1::ReportReply {
                    code: failure.code.as_str().into(),
                    message: failure.message,
                    ..v1::ReportReply::default()
                }
            }
        };
        Ok(Response::new(reply))
    }

    async fn present(&self, request: Request<v1::PresentRequest>) -> Result<Response<v1::PresentReply>, Status> {
        let (who, _) = self.caller(&request).await?;
        let presented = request.into_inner();
        own_instance(&who, &presented.instance_id)?;
        let reply = match self.jobs.store().present_job(&who.organization, &who.runner, &presented).await {
            Ok(job) => {
                tracing::warn!(
                    job = job.id,
                    instance = presented.instance_id,
                    token = job.fencing_token,
                    "a job that was assigned after the back-up is known again"
                );
                self.jobs.changed(&who.runner, &job.id);
                v1::PresentReply { known: true, code: "ok".into(), message: String::new() }
            }
            Err(failure) if is_ours(failure.code) => return Err(failure.into()),
            Err(failure) => {
                tracing::warn!(
                    job = ?presented.job_id,
                    instance = presented.instance_id,
                    code = failure.code.as_str(),
                    detail = failure.message,
                    "a job that an instance presents is not taken"
                );
                if failure.code != Code::Busy {
                    self.jobs.streams().refuse(&who.runner, &presented.instance_id, &presented.job_id);
                    self.jobs.changed(&who.runner, "");
                }
                v1::PresentReply { known: false, code: failure.code.as_str().into(), message: failure.message }
            }
        };
        Ok(Response::new(reply))
    }

    async fn source(&self, request: Request<v1::SourceRequest>) -> Result<Response<Self::SourceStream>, Status> {
        let (who, _) = self.caller(&request).await?;
        let asked = request.into_inner();
        own_instance(&who, &asked.instance_id)?;
        let hash = ArchiveHash::parse(&asked.sha256)?;
        let store = self.jobs.store();
        let standing = store
            .standing(&who.organization, &who.runner, &asked.instance_id, &asked.job_id, asked.fencing_token)
            .await?;
        let missing = || Code::NotFound.on(format!("job {} of this instance has no such archive", asked.job_id));
        match standing {
            Standing::Held(job) if job.archive.as_deref() == Some(hash.as_str()) => {}
            Standing::Held(_) | Standing::Unknown => return Err(missing().into()),
            Standing::Fenced(job) => {
                return Err(Code::Fenced.on(format!("job {} is not this instance's now", job.id)).into());
            }
        }
        let mut file = self.jobs.archives().read(&who.organization, &hash).await?;
        let failed = |e: std::io::Error| Code::Internal.on(format!("reading archive {}: {e}", hash.as_str()));
        file.seek(SeekFrom::Start(asked.offset)).await.map_err(failed)?;
        let (chunks, out) = mpsc::channel(CHUNKS);
        tokio::spawn(async move {
            loop {
                let mut data = Vec::with_capacity(SOURCE_CHUNK);
                // a full chunk, or the rest
                let read = (&mut file).take(SOURCE_CHUNK as u64).read_to_end(&mut data).await;
                let item = match read {
                    Ok(0) => return,
                    Ok(_) => Ok(v1::SourceChunk { data: data.into() }),
                    Err(e) => Err(Code::Internal.on(format!("reading an archive: {e}")).into()),
                };
                let failed = item.is_err();
                if chunks.send(item).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }
}
