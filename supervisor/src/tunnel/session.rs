//! The tunnel's own conversation, `Session.Open`: who we are, whether we are welcome, and whether both ends are still there.

use super::Settings;
use super::dial::PeerClock;
use super::keeper::TunnelStatus;
use super::renewal::Renewal;
use super::succession::{Saying, Succession};
use crate::audit::Sealed;
use crate::clock::Suspension;
use crate::operations::SessionOperations;
use shared_proto::bounds::{CONNECT_DEADLINE, PEER_DEAD, PING_INTERVAL};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{self, control_message as control, runner_message as runner, session_server};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Messages to the control plane that wait to be sent. Pings that find no room are left out: the next one comes.
const OUTGOING: usize = 16;
/// How long the control plane may take from Hello to its answer.
const WELCOME_DEADLINE: Duration = CONNECT_DEADLINE;
/// The bounds of the interval that the control plane may ask for.
const PING_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// A timer that fires this late means that this process had no processor: its silence says nothing about its peer.
const STOOD_STILL: Duration = Duration::from_secs(1);
/// Between two seals of the audit log that are told. They go with the next message or tick after that.
const SEALS_APART: Duration = Duration::from_secs(5);
/// What an answer may take after the network has changed: the old way may be gone without a word.
const PROBE_DEADLINE: Duration = Duration::from_secs(3);

/// The service: hands the one conversation of a connection to whoever keeps it.
#[derive(Debug, Clone)]
pub(super) struct SessionService {
    opened: Arc<AtomicBool>,
    hand_over: mpsc::Sender<Opened>,
}

/// The conversation's two directions.
#[derive(Debug)]
pub(super) struct Opened {
    incoming: Streaming<v1::ControlMessage>,
    outgoing: mpsc::Sender<Result<v1::RunnerMessage, Status>>,
}

/// How a session ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By a failure, before or after it was welcome.
    Failed(Failure),
    /// The control plane does not want us now, or never.
    Refused(Failure, Option<Duration>),
    /// The control plane left and said so.
    Left(String, Option<Duration>),
    /// We left.
    Drained,
    /// This machine was suspended for longer than the control plane waits for anybody.
    Woke(Duration),
}

/// What a conversation needs.
pub(super) struct Conversation {
    pub(super) hello: v1::Hello,
    pub(super) clock: PeerClock,
    pub(super) operations: SessionOperations,
    pub(super) status: watch::Sender<TunnelStatus>,
    /// Whether nothing new is taken, of which the Hello says what was seen last.
    pub(super) draining: watch::Receiver<bool>,
    /// Whose policy is told again when it has changed.
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    /// The audit log's newest seal, which is told.
    pub(super) seals: watch::Receiver<Option<Sealed>>,
    pub(super) drain: CancellationToken,
    pub(super) grace: Duration,
    /// The network changed: is the other end still there?
    pub(super) probe: Arc<Notify>,
    /// Renews the certificate meanwhile.
    pub(super) renewal: Renewal,
    /// Whoever is to have this one's place.
    pub(super) succession: Succession,
    /// Cancelled when what is in flight as we leave has had its grace already.
    pub(super) hurry: CancellationToken,
    /// Told when it is welcome.
    pub(super) welcomed: oneshot::Sender<Instant>,
}

// === impl SessionService ===

impl SessionService {
    pub(super) fn new() -> (Self, mpsc::Receiver<Opened>) {
        let (hand_over, opened) = mpsc::channel(1);
        (Self { opened: Arc::default(), hand_over }, opened)
    }
}

#[tonic::async_trait]
impl session_server::Session for SessionService {
    type OpenStream = ReceiverStream<Result<v1::RunnerMessage, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<v1::ControlMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        if self.opened.swap(true, Ordering::AcqRel) {
            return Err(Code::Conflict.on("this connection has its session already").into());
        }
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let opened = Opened { incoming: request.into_inner(), outgoing };
        self.hand_over.try_send(opened).map_err(|_| Status::from(Code::RunnerLeaving.on("the session is ending")))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

// === impl Conversation ===

impl Conversation {
    /// Talks until it is over.
    pub(super) async fn run(self, mut opened: mpsc::Receiver<Opened>) -> Ended {
        let suspension = Suspension::default();
        let opened = match tokio::time::timeout(WELCOME_DEADLINE, opened.recv()).await {
            Ok(Some(opened)) => opened,
            Ok(None) => {
                return Ended::Failed(Code::ConnectionLost.on("the connection ended before a session was opened"));
            }
            Err(_) => {
                return Ended::Failed(
                    Code::DialFailed.on(format!("the control plane opened no session within {WELCOME_DEADLINE:?}")),
                );
            }
        };
        let Opened { mut incoming, outgoing } = opened;
        let hello = v1::RunnerMessage { kind: Some(runner::Kind::Hello(self.hello.clone())) };
        if outgoing.send(Ok(hello)).await.is_err() {
            return Ended::Failed(lost());
        }
        let first = match tokio::time::timeout(WELCOME_DEADLINE, incoming.message()).await {
            Ok(Ok(Some(message))) => message.kind,
            Ok(Ok(None)) => return Ended::Failed(lost()),
            Ok(Err(status)) => return Ended::Failed(failed(&status)),
            Err(_) => {
                return Ended::Failed(
                    Code::DialFailed
                        .on(format!("the control plane did not answer our Hello within {WELCOME_DEADLINE:?}")),
                );
            }
        };
        match first {
            Some(control::Kind::Welcome(welcome)) => self.talk(welcome, incoming, outgoing, suspension).await,
            Some(control::Kind::Refusal(refusal)) => {
                if refusal.control_plane_time_ms > 0 {
                    self.clock.told(refusal.control_plane_time_ms);
                }
                Ended::Refused(Failure::from_wire(&refusal.code, &refusal.message, ""), millis(refusal.retry_after_ms))
            }
            Some(control::Kind::Leaving(leaving)) => Ended::Left(leaving.reason, millis(leaving.retry_after_ms)),
            _ => Ended::Failed(
                Code::UnsupportedVersion.on("the control plane's first message is neither welcome nor refusal"),
            ),
        }
    }

    async fn talk(
        self,
        welcome: v1::Welcome,
        mut incoming: Streaming<v1::ControlMessage>,
        outgoing: mpsc::Sender<Result<v1::RunnerMessage, Status>>,
        mut suspension: Suspension,
    ) -> Ended {
        self.clock.told(welcome.control_plane_time_ms);
        let interval = match welcome.ping_interval_ms {
            0 => PING_INTERVAL,
            ms => Duration::from_millis(ms.into()).clamp(PING_INTERVAL_MIN, PING_INTERVAL),
        };
        self.operations.open();
        tracing::info!(session = welcome.session_id, control_plane = welcome.version, "session open");
        if !welcome.notice.is_empty() {
            tracing::warn!(notice = welcome.notice, "notice from the control plane");
        }
        self.status.send_modify(|s| s.opened(&welcome));
        let _ = self.welcomed.send(Instant::now());

        let send = |kind| outgoing.try_send(Ok(v1::RunnerMessage { kind: Some(kind) })).is_ok();
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut heard, mut asked) = (Instant::now(), None);
        let mut probed: Option<Instant> = None;
        let mut nonce = 0_u64;
        let mut left: Option<(String, Option<Duration>)> = None;
        let drained = drained(&self.drain, &self.operations, self.grace, &self.hurry);
        tokio::pin!(drained);
        let mut deregistered = false;
        let (answers, answered) = mpsc::channel(1);
        let renewing = self.renewal.keep(outgoing.clone(), answered);
        tokio::pin!(renewing);
        let mut draining = self.draining.clone();
        let mut told = self.hello.draining;
        let mut settings = self.settings.clone();
        // what was read between the hello and now counts too
        let (mut policy, mut unsaid, mut reread) = (self.hello.policy.clone(), false, true);
        let (mut seals, mut sealed_told) = (self.seals.clone(), None);
        seals.mark_changed();
        let mut saying = self.succession.follow();
        // an announcement was for the session that made it
        let mut said = *saying.borrow_and_update();
        loop {
            let now = *draining.borrow_and_update();
            if now != told && send(runner::Kind::Draining(v1::Draining { draining: now })) {
                told = now;
            }
            if std::mem::take(&mut reread) {
                let now = settings.borrow_and_update().policy.summary_text();
                unsaid |= now != policy;
                policy = now;
            }
            if unsaid && send(runner::Kind::Policy(v1::PolicySummary { json: policy.clone() })) {
                unsaid = false;
            }
            // seals come with every thousand records: the newest one says all that those before it did
            let due = sealed_told.is_none_or(|at: Instant| at.elapsed() >= SEALS_APART);
            if due && seals.has_changed().unwrap_or(false) {
                let told = seals.borrow_and_update().as_ref().map(|sealed| send(audit_seal(sealed)));
                match told {
                    Some(true) => sealed_told = Some(Instant::now()),
                    // there was no room for it
                    Some(false) => seals.mark_changed(),
                    None => {}
                }
            }
            let now = *saying.borrow_and_update();
            if now != said && send(now.message()) {
                said = now;
            }
            tokio::select! {
                message = incoming.message() => {
                    let kind = match (message, &left) {
                        (Ok(Some(message)), _) => message.kind,
                        (_, Some((reason, after))) => return Ended::Left(reason.clone(), *after),
                        (_, None) if deregistered => {
                            // the other end lets us go; what is in flight may still finish
                            (&mut drained).await;
                            return Ended::Drained;
                        }
                        (Ok(None), None) => return Ended::Failed(lost()),
                        (Err(status), None) => return Ended::Failed(failed(&status)),
                    };
                    heard = Instant::now();
                    probed = None;
                    match kind {
                        Some(control::Kind::Ping(ping)) => {
                            send(runner::Kind::Pong(v1::Pong { nonce: ping.nonce }));
                        }
                        Some(control::Kind::Pong(pong)) => {
                            if let Some((_, sent)) = asked.take_if(|(n, _)| *n == pong.nonce) {
                                let round_trip: Duration = heard.duration_since(sent);
                                self.operations.set_round_trip(round_trip);
                                self.status.send_modify(|s| s.answered(round_trip));
                            }
                        }
                        Some(control::Kind::Leaving(leaving)) => {
                            self.operations.close();
                            left = Some((leaving.reason, millis(leaving.retry_after_ms)));
                        }
                        Some(control::Kind::Refusal(refusal)) => {
                            // revoked while it was open
                            return Ended::Refused(
                                Failure::from_wire(&refusal.code, &refusal.message, ""),
                                millis(refusal.retry_after_ms),
                            );
                        }
                        Some(control::Kind::Renewed(renewed)) => {
                            // where one waits already nobody has asked for this one
                            let _ = answers.try_send(renewed);
                        }
                        Some(control::Kind::HandOverNoted(_)) => self.succession.noted(),
                        Some(control::Kind::HandedOver(_)) => self.succession.was_handed_over(),
                        Some(control::Kind::Welcome(_)) | None => {}
                    }
                }
                due = ticks.tick() => {
                    if due.elapsed() > STOOD_STILL {
                        // it was us: what came meanwhile has not been read yet, and gets one interval to be
                        heard = heard.max(Instant::now() - (PEER_DEAD - PING_INTERVAL));
                    }
                    if heard.elapsed() >= PEER_DEAD {
                        return Ended::Failed(
                            Code::ConnectionLost.on(format!("nothing was heard from the control plane for {PEER_DEAD:?}")),
                        );
                    }
                    nonce += 1;
                    if send(runner::Kind::Ping(v1::Ping { nonce })) && asked.is_none() {
                        asked = Some((nonce, Instant::now()));
                    }
                }
                // while another process is to have the place, the next certificate is that one's to ask for
                never = &mut renewing, if said == Saying::Nothing => match never {},
                away = suspension.woke() => {
                    if away >= PEER_DEAD {
                        return Ended::Woke(away);
                    }
                    self.probe.notify_one();
                }
                () = self.probe.notified(), if probed.is_none() => {
                    nonce += 1;
                    send(runner::Kind::Ping(v1::Ping { nonce }));
                    probed = Some(Instant::now());
                }
                () = until(probed.map(|at| at + PROBE_DEADLINE)) => {
                    return Ended::Failed(Code::ConnectionLost.on(format!(
                        "the network changed, and nothing was heard from the control plane for {PROBE_DEADLINE:?}"
                    )));
                }
                // told above; where there was no room for it, with the next message or tick
                Ok(()) = draining.changed() => {}
                Ok(()) = settings.changed() => reread = true,
                Ok(()) = saying.changed() => {}
                () = self.drain.cancelled(), if !deregistered => {
                    deregistered = true;
                    self.operations.close();
                    send(runner::Kind::Deregister(v1::Deregister { reason: "the runner is stopping".to_owned() }));
                }
                // never before goodbye was said: with nothing in flight both are ready at once
                () = &mut drained, if deregistered => return Ended::Drained,
            }
        }
    }
}

fn audit_seal(sealed: &Sealed) -> runner::Kind {
    let Sealed { line, key, key_line, .. } = sealed.clone();
    runner::Kind::AuditSeal(v1::AuditSeal { line, key: key.to_base64(), key_line })
}

/// Resolves once we leave and nothing is in flight any more, or its grace is over.
async fn drained(
    drain: &CancellationToken,
    operations: &SessionOperations,
    grace: Duration,
    hurry: &CancellationToken,
) {
    drain.cancelled().await;
    let _ = tokio::time::timeout(grace, hurry.run_until_cancelled(operations.idle())).await;
}

/// Resolves then; never where there is no such time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn millis(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}

fn lost() -> Failure {
    Code::ConnectionLost.on("the control plane closed the session").next("Nothing to do: the runner dials again.")
}

fn failed(status: &Status) -> Failure {
    Failure::from_status(status).unwrap_or_else(|| {
        let first = status.message().lines().next().unwrap_or_default().to_owned();
        Code::ConnectionLost.on(first).next("Nothing to do: the runner dials again.")
    })
}
