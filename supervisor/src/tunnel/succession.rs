//! What the session says to the control plane about whoever is to have its place, and hears of it.

use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{self, runner_message};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long the control plane may take to note it.
const NOTED_WITHIN: Duration = Duration::from_secs(5);

/// Between the session and whoever hands over. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Succession {
    says: Arc<watch::Sender<Saying>>,
    heard: Arc<watch::Sender<Heard>>,
}

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saying {
    /// Nobody is to come.
    Nothing,
    /// Whoever shows the token with that digest.
    Announced([u8; 32]),
}

/// What the control plane has answered to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    Noted,
    HandedOver,
}

impl Default for Succession {
    fn default() -> Self {
        Self {
            says: Arc::new(watch::Sender::new(Saying::Nothing)),
            heard: Arc::new(watch::Sender::new(Heard::Nothing)),
        }
    }
}

// === impl Succession ===

impl Succession {
    /// Announces a token by its digest.
    ///
    /// # Errors
    /// The control plane does not note it: an older one does not know what this is.
    pub async fn announce(&self, digest: [u8; 32]) -> Result<(), Failure> {
        self.heard.send_replace(Heard::Nothing);
        let mut heard = self.heard.subscribe();
        self.says.send_replace(Saying::Announced(digest));
        let noted = tokio::time::timeout(NOTED_WITHIN, heard.wait_for(|heard| *heard != Heard::Nothing)).await;
        match noted {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Code::UnsupportedVersion
                .on(format!("the control plane has not noted the hand-over within {NOTED_WITHIN:?}: it is older, or not reached"))
                .next("Upgrade by a restart instead: `runner drain --wait`, then `systemctl restart runner`. Jobs go on all along.")),
        }
    }
    /// Nobody is to come any more.
    pub fn withdraw(&self) {
        self.says.send_replace(Saying::Nothing);
    }
    /// Resolves once another process has the place, and nothing that was routed to this one is in flight.
    pub async fn handed_over(&self) {
        let mut heard = self.heard.subscribe();
        // the sender is in `self`
        let _ = heard.wait_for(|heard| *heard == Heard::HandedOver).await;
    }

    pub(super) fn follow(&self) -> watch::Receiver<Saying> {
        self.says.subscribe()
    }
    pub(super) fn noted(&self) {
        self.heard.send_if_modified(|heard| std::mem::replace(heard, Heard::Noted) != Heard::Noted);
    }
    pub(super) fn was_handed_over(&self) {
        self.heard.send_replace(Heard::HandedOver);
    }
}

// === impl Saying ===

impl Saying {
    pub(super) fn message(self) -> runner_message::Kind {
        let token_sha256 = match self {
            Self::Nothing => Vec::new(),
            Self::Announced(digest) => digest.to_vec(),
        };
        runner_message::Kind::HandOver(v1::HandOver { token_sha256 })
    }
}
