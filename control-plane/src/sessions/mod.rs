//! The control plane's end of every tunnel: who is connected, whether they answer, and which session takes an operation.
//!
//! ```text
//!   connection ─▶ HTTP/2, we are its client ─▶ Session.Open ─▶ Hello ─▶ the five steps ─▶ Welcome ─▶ round trips … end
//!                                                                  └─▶ Refusal, typed            in the table meanwhile
//! ```
//!
//! It must never route by what a message says: organization and runner of a session are those of its certificate, as
//! [`Registry::verify`] judged them. It must never let a caller wait for a runner that is not there.

mod admission;
mod channel;
mod conversation;
#[cfg(test)]
pub(crate) mod fake;
mod pulse;
mod registry;
mod seals;
mod succession;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use admission::{LIST_MAX, own_instance};
pub(crate) use channel::{Channel, origin};
#[cfg(test)]
pub(crate) use channel::{Driver, handshake};
pub(crate) use conversation::CUT;
pub use pulse::Rhythm;
pub use registry::{Claim, Parting, Registry, Renewal, StoredRegistry, Verified};
pub use seals::Seal;
#[cfg(test)]
pub(crate) use seals::tests as seal_tests;
pub use table::{Entry, Instance, SessionCertificate};
pub(crate) use table::{Live, Slot};

use crate::operations::Operation;
use rustls_pki_types::CertificateDer;
use shared_proto::failure::{Code, Failure};
use shared_proto::identity::rfc3339;
use shared_proto::{bounds, v1};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use table::{Command, Table};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, broadcast};

/// The bounds of the tunnel's service.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Operations at once for a session; the runner's own limit may be lower.
    pub max_operations: u32,
    /// The memory that one connection may hold, bytes.
    pub budget: u64,
    /// Sessions at once.
    pub max_sessions: usize,
    /// The grace for operations in flight when either end leaves.
    pub drain_grace: Duration,
    /// The round trips.
    pub rhythm: Rhythm,
}

/// All sessions. Cloning is cheap.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    table: Table,
    registry: Arc<dyn Registry>,
    settings: Settings,
    places: Arc<Semaphore>,
    draining: AtomicBool,
}

/// Whether a runner is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// At least one instance takes operations.
    Connected,
    /// All that are connected have said that they leave.
    Leaving,
    /// Instances are connected and well, and have said that they take nothing new for now.
    Draining,
    /// Instances are connected and miss their round trips.
    Unhealthy,
    /// None is connected.
    Absent,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_operations: bounds::OPERATIONS_DEFAULT,
            budget: bounds::BUDGET_DEFAULT,
            max_sessions: 10_000,
            drain_grace: bounds::DRAIN_GRACE,
            rhythm: Rhythm::default(),
        }
    }
}

// === impl Sessions ===

impl Sessions {
    /// No sessions yet.
    pub fn new(registry: Arc<dyn Registry>, settings: Settings) -> Self {
        let places = Arc::new(Semaphore::new(settings.max_sessions));
        Self {
            inner: Arc::new(Inner {
                table: Table::default(),
                registry,
                settings,
                places,
                draining: AtomicBool::new(false),
            }),
        }
    }

    /// Serves one tunnel until it ends. `chain`: the peer's certificates, leaf first; `peer`: where it comes from, for the
    /// log; `handshake`: held until the session is welcome or refused.
    pub async fn serve<T, P>(&self, io: T, chain: Vec<CertificateDer<'static>>, peer: &str, handshake: P)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        P: Send,
    {
        conversation::hold(self, io, chain, peer, handshake).await;
    }

    /// Starts an operation on the runner's healthy session with the fewest. Never waits for a runner.
    ///
    /// # Errors
    /// `runner_unavailable` with the time it was last seen, `busy`, `too_large`.
    pub async fn run(
        &self,
        organization: &str,
        runner: &str,
        mut request: v1::OperationRequest,
    ) -> Result<Operation, Failure> {
        use prost::Message as _;
        let slot = match self.inner.table.choose(organization, runner) {
            Ok(slot) => slot,
            Err(none) => {
                let seen = self.inner.registry.last_seen(organization, runner).await;
                let seen =
                    seen.map_or("it was never seen".to_owned(), |ms| format!("last seen {}", rfc3339(ms / 1000)));
                return Err(none.failure(runner, &seen));
            }
        };
        // the session's own, whatever the caller put there: the supervisor checks it against its certificate
        request.organization_id.clone_from(&slot.session.who.organization);
        if request.encoded_len() + 16 > bounds::FIRST_MESSAGE_MAX {
            return Err(Code::TooLarge.on(format!(
                "the request takes {} bytes, a runner takes {}",
                request.encoded_len(),
                bounds::FIRST_MESSAGE_MAX
            )));
        }
        Ok(Operation::start(slot, request))
    }

    /// The runner's connected instances, oldest first.
    pub fn instances(&self, organization: &str, runner: &str) -> Vec<Instance> {
        self.inner.table.instances(organization, runner)
    }

    /// Which process of an instance has its session, where it has one.
    pub(crate) fn incarnation(&self, who: &Verified, instance: &str) -> Option<String> {
        self.inner.table.incarnation(who, instance)
    }

    /// Whether a runner is there at all.
    pub fn presence(&self, organization: &str, runner: &str) -> Presence {
        table::presence(&self.inner.table.of_runner(organization, runner))
    }

    /// Sessions and operations at this moment.
    pub fn counts(&self) -> (usize, u64) {
        let all = self.inner.table.all();
        (all.len(), all.iter().map(|s| u64::from(s.operations())).sum())
    }

    /// Ends sessions as their runners are revoked, for as long as the program runs. The items are runners' ids.
    pub async fn follow_revocations(self, mut revoked: broadcast::Receiver<String>) {
        loop {
            match revoked.recv().await {
                Ok(runner) => self.check_again(self.inner.table.of_runner_id(&runner)).await,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "revocations missed, checking every session again");
                    self.check_again(self.inner.table.all()).await;
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// Ends those that do not stand any more; their operations end with the same code.
    async fn check_again(&self, sessions: Vec<Arc<Live>>) {
        for session in sessions {
            if let Err(refused) = self.inner.registry.standing(&session.who).await {
                tracing::info!(
                    session = session.id,
                    code = refused.code.as_str(),
                    detail = refused.message,
                    "closing a session"
                );
                session.close(refused);
            }
        }
    }

    /// Leaves: tells every runner when to come back, takes nothing new, waits for what is in flight within the grace, and
    /// closes.
    pub async fn drain(&self, retry_after: Duration) {
        self.inner.draining.store(true, Ordering::Release);
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        let sessions = self.inner.table.all();
        for session in &sessions {
            session.leaving.store(true, Ordering::Release);
            let reason = "the control plane is shutting down".to_owned();
            // a session whose queue is full is closed below all the same
            let _ = session.commands.try_send(Command::Leave { reason, retry_after_ms });
        }
        let _ = tokio::time::timeout(self.inner.settings.drain_grace, async {
            for session in &sessions {
                session.idle().await;
            }
        })
        .await;
        for session in self.inner.table.all() {
            session.close(Code::ConnectionLost.on("the control plane shut down"));
        }
        // what is left are conversations that see the end: as many permits as there are places means that none is left
        let all = u32::try_from(self.inner.settings.max_sessions).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(Duration::from_secs(2), self.inner.places.acquire_many(all)).await;
    }
}
