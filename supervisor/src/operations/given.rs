//! The worker of an operation, which has its request: one that is ready for whoever asks, a warm one, or one that starts now, in its turn.

use super::dial::{self, Reach};
use super::ready::For;
use super::{Failed, Inner, Operations};
use crate::tunnel::Settings;
use crate::workers::{Mortal, Operation};
use shared_proto::frame::{self, Kind};
use shared_proto::v1;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::UnixStream;
use tokio::sync::{SemaphorePermit, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

/// A worker at work, or about to be.
#[derive(Debug)]
pub(super) struct Given<'a> {
    pub(super) worker: Mortal,
    pub(super) socket: UnixStream,
    /// Its place among those that start, until it has said something.
    pub(super) starting: Option<SemaphorePermit<'a>>,
    /// What connects it to its target.
    pub(super) dialling: Option<AbortOnDropHandle<()>>,
}

impl Inner {
    /// `reach`: what it may be connected to. `whom`: for whom one may be ready.
    pub(super) async fn given(
        &self,
        message: v1::WorkerRequest,
        reach: Arc<Reach>,
        whom: Option<&For>,
    ) -> Result<Given<'_>, Failed> {
        if let Some(mut given) = whom.and_then(|whom| self.ready.take(whom)) {
            // it has its target
            let rest = v1::WorkerRequest { target: None, ..message.clone() };
            if frame::write_message(&mut given.socket, Kind::Request, &rest).await.is_ok() {
                self.started_warm.fetch_add(1, Ordering::Relaxed);
                tracing::debug!("its worker was ready");
                return Ok(given);
            }
        }
        if let Some(mut operation) = self.warm.take()
            // it may have ended while it waited; whoever ended it had nothing of this request
            && frame::write_message(&mut operation.socket, Kind::Request, &message).await.is_ok()
        {
            self.started_warm.fetch_add(1, Ordering::Relaxed);
            return Ok(with(operation, reach, &self.settings, None));
        }
        // never closed
        let place = self.starting.acquire().await.ok();
        let mut operation = self.workers.operation().await?;
        match frame::write_message(&mut operation.socket, Kind::Request, &message).await {
            Ok(()) => Ok(with(operation, reach, &self.settings, place)),
            Err(e) => {
                let what = format!("its socket ended before it had its request: {e}");
                Err(Failed::crashed(&mut operation.worker, what).await)
            }
        }
    }
}

impl Operations {
    /// Makes a warm worker ready for the next request of the same, where they seem to have more than one. `reach`: what that one may be
    /// connected to.
    pub(super) fn make_ready(&self, whom: For, reach: Arc<Reach>) {
        if !self.inner.ready.wants(&whom) {
            return;
        }
        let inner = self.inner.clone();
        tokio::spawn(async move {
            // none is started for that: it is a guess
            let Some(mut operation) = inner.warm.take() else { return };
            let message = v1::WorkerRequest { target: Some(whom.target()), ready: true, ..Default::default() };
            if frame::write_message(&mut operation.socket, Kind::Request, &message).await.is_ok() {
                inner.ready.put(whom, with(operation, reach, &inner.settings, None));
            }
        });
    }
}

/// The worker, for which somebody connects from now on.
fn with<'a>(
    Operation { worker, socket, dial }: Operation,
    reach: Arc<Reach>,
    settings: &watch::Receiver<Arc<Settings>>,
    starting: Option<SemaphorePermit<'a>>,
) -> Given<'a> {
    let settings = settings.clone();
    let dialling = dial.map(|end| {
        let dialling = async move { dial::serve(end, &reach, || settings.borrow().config.proxy.clone()).await };
        AbortOnDropHandle::new(tokio::spawn(dialling.in_current_span()))
    });
    Given { worker, socket, starting, dialling }
}
