//! One tunnel from its first byte to its last: Session.Open, Hello, Welcome or Refusal, round trips, leaving, end.

use super::Sessions;
use super::admission::{self, Admitted};
use super::channel::{self, Channel, Driver, origin};
use super::pulse::{Due, Pulse};
use super::registry::{Parting, Renewal, Verified};
use super::seals::Seal;
use super::table::{Command, Live, SessionCertificate};
use crate::pki::IssuedCertificate;
use rustls_pki_types::CertificateDer;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::control_message::Kind as ToRunner;
use shared_proto::v1::runner_message::Kind as FromRunner;
use shared_proto::{now_ms, v1};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// HTTP/2's start, and then the Hello, each.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// The largest message of a runner in this conversation, bytes.
const MESSAGE_MAX: usize = 256 * 1024;
/// How long the last word may take to reach the runner before the connection is cut.
const LAST_WORD: Duration = Duration::from_millis(500);
/// How often a live session is written down as seen.
const SEEN_INTERVAL: Duration = Duration::from_secs(30);
/// Between two renewals of one session: whoever asks more often has no use for them.
const RENEWALS_APART: Duration = Duration::from_secs(1);
/// Between two seals of one session that are written down: runners leave more.
const SEALS_APART: Duration = Duration::from_secs(1);
/// When a runner that finds us full should come back.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Messages on their way to the runner.
const OUTBOUND: usize = 16;

/// The conversation's two directions.
struct Line {
    to: mpsc::Sender<v1::ControlMessage>,
    from: Streaming<v1::RunnerMessage>,
}

/// A session's own task.
struct Session<'a> {
    sessions: &'a Sessions,
    live: Arc<Live>,
    commands: mpsc::Receiver<Command>,
    line: Line,
    driver: Driver,
    pulse: Pulse,
    /// Who waits for an answer to a ping of at least that number. As many as there are rivals at once.
    probes: Vec<(u64, oneshot::Sender<()>)>,
    deregistered: bool,
    /// It was told that another process has its place and nothing of its own is in flight.
    told_succeeded: bool,
    seen: tokio::task::JoinSet<()>,
    seen_next: Instant,
    /// A seal that is being written down.
    seals: tokio::task::JoinSet<()>,
    seal_next: Instant,
    /// The renewal that is under way, if one is.
    renewals: tokio::task::JoinSet<Result<IssuedCertificate, Failure>>,
    renewal_next: Instant,
}

/// How a session ended.
enum End {
    /// The runner said that it leaves, and then did.
    Left,
    /// Anything else.
    Lost(Failure),
}

/// Holds one connection until it ends.
pub(super) async fn hold<T, P>(
    sessions: &Sessions,
    io: T,
    chain: Vec<CertificateDer<'static>>,
    peer: &str,
    handshake: P,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Send,
{
    let settings = &sessions.inner.settings;
    let place = sessions.inner.places.clone().try_acquire_owned();
    let started = timeout(HELLO_DEADLINE, channel::handshake(io, settings.budget, settings.max_operations)).await;
    let (channel, mut driver) = match started {
        Ok(Ok(started)) => started,
        Ok(Err(error)) => return tracing::info!(peer, %error, "not HTTP/2 on a tunnel connection"),
        Err(_) => return tracing::info!(peer, "no HTTP/2 on a tunnel connection within the deadline"),
    };
    let (line, hello) = match open(channel.clone(), &mut driver).await {
        Ok(opened) => opened,
        Err(why) => return tracing::info!(peer, why, "a tunnel connection said no Hello"),
    };
    let (organization, runner) = (hello.organization_id.clone(), hello.runner_id.clone());
    let instance = hello.instance_id.clone();
    let admitted = match &place {
        Ok(_) => admission::admit(sessions, channel, chain, hello).await,
        Err(_) => Err(Code::Busy.on(format!("the control plane has {} sessions already", settings.max_sessions))),
    };
    match admitted {
        Ok(admitted) => {
            drop(handshake);
            let session = Session::new(sessions, admitted, line, driver);
            session.live_on(peer).await;
        }
        Err(failure) => {
            tracing::warn!(
                peer, organization = ?organization, runner = ?runner, instance = ?instance,
                code = failure.code.as_str(), detail = failure.message, next_step = failure.next_step,
                "session refused"
            );
            refuse(line, &failure).await;
        }
    }
}

/// Opens the conversation and waits for the Hello.
async fn open(channel: Channel, driver: &mut Driver) -> Result<(Line, v1::Hello), String> {
    let (to, outbound) = mpsc::channel(OUTBOUND);
    let mut client = v1::session_client::SessionClient::with_origin(channel, origin())
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let opening = async {
        let mut from = client.open(ReceiverStream::new(outbound)).await?.into_inner();
        let first = from.message().await?;
        Ok::<_, tonic::Status>((from, first))
    };
    let opened = tokio::select! {
        opened = timeout(HELLO_DEADLINE, opening) => opened,
        why = driver.gone() => return Err(why),
    };
    match opened {
        Err(_) => Err("none within the deadline".to_owned()),
        Ok(Err(status)) => Err(format!("Session.Open failed: {}", status.message())),
        Ok(Ok((from, Some(v1::RunnerMessage { kind: Some(FromRunner::Hello(hello)) })))) => {
            Ok((Line { to, from }, hello))
        }
        Ok(Ok(_)) => Err("its first message is another".to_owned()),
    }
}

/// The last word, typed; then time for it to arrive.
async fn refuse(line: Line, failure: &Failure) {
    let Line { to, mut from } = line;
    let retry_after = if failure.code == Code::Busy { RETRY_AFTER } else { Duration::ZERO };
    let _ = to.try_send(message(ToRunner::Refusal(v1::Refusal {
        code: failure.code.as_str().to_owned(),
        message: failure.message.clone(),
        control_plane_time_ms: now_ms(),
        retry_after_ms: u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX),
    })));
    drop(to);
    let _ = timeout(LAST_WORD, async { while let Ok(Some(_)) = from.message().await {} }).await;
}

fn message(kind: ToRunner) -> v1::ControlMessage {
    v1::ControlMessage { kind: Some(kind) }
}

// === impl Session ===

impl<'a> Session<'a> {
    fn new(sessions: &'a Sessions, admitted: Admitted, line: Line, driver: Driver) -> Self {
        let Admitted { live, commands, notice } = admitted;
        let _ = line.to.try_send(message(ToRunner::Welcome(v1::Welcome {
            session_id: live.id.clone(),
            version: shared_proto::VERSION.to_owned(),
            control_plane_time_ms: now_ms(),
            ping_interval_ms: u32::try_from(sessions.inner.settings.rhythm.interval.as_millis()).unwrap_or(u32::MAX),
            notice,
        })));
        Self {
            sessions,
            live,
            commands,
            line,
            driver,
            pulse: Pulse::new(sessions.inner.settings.rhythm, Instant::now()),
            probes: Vec::new(),
            deregistered: false,
            told_succeeded: false,
            seen: tokio::task::JoinSet::new(),
            seen_next: Instant::now(),
            renewals: tokio::task::JoinSet::new(),
            renewal_next: Instant::now(),
            seals: tokio::task::JoinSet::new(),
            seal_next: Instant::now(),
        }
    }

    /// From welcome to end.
    async fn live_on(mut self, peer: &str) {
        let live = self.live.clone();
        let registry = self.sessions.inner.registry.clone();
        // whatever happens to this task, the table forgets the session and its operations see the end
        let _leaves = Leaves { sessions: self.sessions, live: &live };
        tracing::info!(
            session = live.id,
            identity = admission::shown(&live.who),
            instance = live.about.instance_id,
            version = live.about.version,
            hostname = live.about.hostname,
            peer,
            "session open"
        );
        let end = self.round().await;
        let (reason, parting) = match &end {
            End::Left => ("the runner left".to_owned(), Parting::Left),
            End::Lost(why) => (why.to_string(), Parting::Lost),
        };
        tracing::info!(session = live.id, identity = admission::shown(&live.who), reason, "session ended");
        let last = self.sessions.inner.table.remove(&live);
        live.close(match &end {
            End::Left => Code::ConnectionLost.on("it left"),
            End::Lost(why) => why.clone(),
        });
        match end {
            // a lost connection is no news to the runner; a revocation is
            End::Lost(why) if why.code != Code::ConnectionLost => refuse(self.line, &why).await,
            _ => drop(self.line),
        }
        drop(self.driver);
        self.renewals.shutdown().await;
        self.seen.shutdown().await;
        // the last one counts
        while self.seals.join_next().await.is_some() {}
        // where another one is there it tells by itself, and may be the last to by now
        if last {
            registry.seen(&live.who, parting).await;
        }
    }

    /// Talks until there is a reason to stop.
    async fn round(&mut self) -> End {
        let live = self.live.clone();
        loop {
            let now = Instant::now();
            match self.pulse.due(now) {
                Due::Dead => return lost("nothing was heard of it for too long"),
                Due::Ping(nonce) => self.ping(nonce),
                Due::Nothing => {}
            }
            self.judge(now);
            self.write_down(now);
            tokio::select! {
                biased;
                why = live.ended() => return End::Lost(why),
                // before the connection's end: the last that it said may be that it leaves
                said = self.line.from.message() => match said {
                    Ok(Some(said)) => self.hear(said),
                    Ok(None) => return self.finish().await,
                    Err(status) => {
                        return self.cut(status.message());
                    }
                },
                why = self.driver.gone() => {
                    // what came with the end was read above, unless it came just now
                    while let Ok(Ok(Some(said))) = timeout(LAST_WORD, self.line.from.message()).await {
                        self.hear(said);
                    }
                    return self.cut(&why);
                }
                Some(command) = self.commands.recv() => self.obey(command),
                // what was routed here before counts until it has ended, also where it has not arrived yet
                () = live.idle(), if live.succeeded() && !self.told_succeeded => {
                    let told = self.line.to.try_send(message(ToRunner::HandedOver(v1::HandedOver {})));
                    self.told_succeeded = told.is_ok();
                }
                Some(done) = self.renewals.join_next() => {
                    self.renewed(done.unwrap_or_else(|_| Err(Code::Internal.on("the renewal failed"))));
                }
                () = tokio::time::sleep_until(self.pulse.next(now)) => {}
            }
        }
    }

    /// The connection is gone; a library says in its own words how, which are for the log.
    fn cut(&self, detail: &str) -> End {
        if self.deregistered {
            return End::Left;
        }
        tracing::debug!(session = self.live.id, detail, "the session's connection broke off");
        lost(CUT)
    }

    /// The runner ended the conversation. After a deregistration its operations in flight may finish.
    async fn finish(&mut self) -> End {
        if !self.deregistered {
            return lost("it ended the session without saying that it leaves");
        }
        let live = self.live.clone();
        tokio::select! {
            why = live.ended() => return End::Lost(why),
            _ = self.driver.gone() => {}
            _ = timeout(self.sessions.inner.settings.drain_grace, live.idle()) => {}
        }
        End::Left
    }

    fn ping(&self, nonce: u64) {
        // where the queue is full the runner reads nothing: its answer will be missing, which is the truth
        let _ = self.line.to.try_send(message(ToRunner::Ping(v1::Ping { nonce })));
    }

    /// Healthy or not, by the newest round trips.
    fn judge(&self, now: Instant) {
        let healthy = !self.pulse.missed(now);
        if self.live.healthy.swap(healthy, Ordering::AcqRel) != healthy {
            tracing::info!(session = self.live.id, healthy, "a session's round trips changed");
        }
    }

    /// Has it remembered that the runner was there, once in a while and one at a time.
    fn write_down(&mut self, now: Instant) {
        while self.seen.try_join_next().is_some() {}
        if now >= self.seen_next && self.seen.is_empty() {
            self.seen_next = now + SEEN_INTERVAL;
            let (registry, who): (_, Verified) = (self.sessions.inner.registry.clone(), self.live.who.clone());
            self.seen.spawn(async move { registry.seen(&who, Parting::Present).await });
        }
    }

    fn hear(&mut self, said: v1::RunnerMessage) {
        let now = Instant::now();
        self.pulse.heard(now);
        match said.kind {
            Some(FromRunner::Pong(v1::Pong { nonce })) => {
                if let Some(round_trip) = self.pulse.answered(nonce, now) {
                    self.live.budget.set_round_trip(round_trip);
                    for (asked, answer) in std::mem::take(&mut self.probes) {
                        if asked > nonce {
                            self.probes.push((asked, answer));
                        } else {
                            let _ = answer.send(());
                        }
                    }
                }
            }
            Some(FromRunner::Ping(v1::Ping { nonce })) => {
                let _ = self.line.to.try_send(message(ToRunner::Pong(v1::Pong { nonce })));
            }
            Some(FromRunner::Deregister(v1::Deregister { reason })) => {
                let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
                tracing::info!(session = self.live.id, reason, "the runner leaves");
                self.deregistered = true;
                self.live.leaving.store(true, Ordering::Release);
            }
            Some(FromRunner::Renewal(v1::Renewal { csr })) => self.renew(csr, now),
            Some(FromRunner::Draining(v1::Draining { draining })) => {
                tracing::info!(session = self.live.id, draining, "whether the runner takes new work has changed");
                self.live.draining.store(draining, Ordering::Release);
            }
            Some(FromRunner::Policy(v1::PolicySummary { json })) => {
                tracing::info!(session = self.live.id, "the runner's policy has changed");
                let policy = super::admission::policy(&json);
                *self.live.policy.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = policy;
            }
            Some(FromRunner::AuditSeal(told)) => self.sealed(&told, now),
            Some(FromRunner::HandOver(v1::HandOver { token_sha256 })) => self.hand_over(&token_sha256, now),
            // a second Hello, or something newer than this version: nothing depends on it
            Some(FromRunner::Hello(_)) | None => {}
        }
    }

    /// Has it remembered how far the instance's audit log goes, one at a time: the newest says what those before it did.
    fn sealed(&mut self, told: &v1::AuditSeal, now: Instant) {
        while self.seals.try_join_next().is_some() {}
        if !self.seals.is_empty() || now < self.seal_next {
            return;
        }
        self.seal_next = now + SEALS_APART;
        match Seal::read(&self.live.who.runner, told) {
            Ok(seal) => {
                let (registry, who) = (self.sessions.inner.registry.clone(), self.live.who.clone());
                let instance = self.live.about.instance_id.clone();
                self.seals.spawn(async move { registry.sealed(&who, &instance, seal).await });
            }
            Err(why) => tracing::warn!(session = self.live.id, why, "a seal of the runner's audit log is not believed"),
        }
    }

    /// Another process of the instance is to come, or is not to come any more.
    fn hand_over(&mut self, token_sha256: &[u8], now: Instant) {
        if token_sha256.is_empty() {
            tracing::info!(session = self.live.id, "the session keeps its place");
            self.sessions.inner.table.take_back(&self.live);
            self.told_succeeded = false;
        } else if let Ok(digest) = token_sha256.try_into() {
            tracing::info!(session = self.live.id, "the session hands its place over");
            self.live.announce(digest, now);
            let _ = self.line.to.try_send(message(ToRunner::HandOverNoted(v1::HandOverNoted {})));
        }
    }

    /// Has a new key certified, one at a time.
    fn renew(&mut self, request: String, now: Instant) {
        if !self.renewals.is_empty() || now < self.renewal_next {
            return self.renewed(Err(Code::Busy.on(format!("renewals of a session are {RENEWALS_APART:?} apart"))));
        }
        self.renewal_next = now + RENEWALS_APART;
        let (registry, who) = (self.sessions.inner.registry.clone(), self.live.who.clone());
        let renewal =
            Renewal { serial: self.live.certificate().serial, instance: self.live.about.instance_id.clone(), request };
        self.renewals.spawn(async move { registry.renew(&who, renewal).await });
    }

    /// Says what came of it.
    fn renewed(&self, issued: Result<IssuedCertificate, Failure>) {
        let live = &self.live;
        let answer = match issued {
            Ok(issued) => {
                tracing::info!(
                    session = live.id,
                    identity = admission::shown(&live.who),
                    instance = live.about.instance_id,
                    serial = issued.serial,
                    renews = live.certificate().serial,
                    not_after = shared_proto::identity::rfc3339(issued.not_after_ms / 1000),
                    "certificate renewed"
                );
                let IssuedCertificate { serial, not_after_ms, chain: certificate, .. } = issued;
                live.renewed(SessionCertificate { serial, not_after_ms, renewed: true });
                v1::Renewed { certificate, code: "ok".to_owned(), message: String::new() }
            }
            Err(failure) => {
                tracing::warn!(
                    session = live.id,
                    identity = admission::shown(&live.who),
                    code = failure.code.as_str(),
                    detail = failure.message,
                    "certificate not renewed"
                );
                let code = failure.code.as_str().to_owned();
                v1::Renewed { certificate: String::new(), code, message: failure.message }
            }
        };
        // where the queue is full the runner reads nothing: it asks again
        let _ = self.line.to.try_send(message(ToRunner::Renewed(answer)));
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Probe(answer) => {
                let nonce = self.pulse.ask(Instant::now());
                self.probes.retain(|(_, waiting)| !waiting.is_closed());
                self.probes.push((nonce, answer));
                self.ping(nonce);
            }
            // by the session itself, which is looked at in each round
            Command::Succeeded => {}
            Command::Leave { reason, retry_after_ms } => {
                let _ = self.line.to.try_send(message(ToRunner::Leaving(v1::Leaving { reason, retry_after_ms })));
            }
        }
    }
}

/// How it is said that a runner's connection went without a word.
pub(crate) const CUT: &str = "its connection was cut";

fn lost(why: &str) -> End {
    End::Lost(Code::ConnectionLost.on(why))
}

/// Sees to it that a session leaves the table, whatever ends its task.
struct Leaves<'a> {
    sessions: &'a Sessions,
    live: &'a Live,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.sessions.inner.table.remove(self.live);
        self.live.close(Code::ConnectionLost.on("the session's task ended"));
    }
}
