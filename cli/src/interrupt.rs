//! Ctrl-C and SIGTERM. The first asks: a command stops what it runs itself and says what goes on without it. The second ends
//! the process at once. The terminal is put back on either way.

use crate::stop::{Done, INTERRUPTED, Stop};
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a command may take to stop before it is ended.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is done before a second one ends the process: once, quickly.
type LastAct = Box<dyn FnOnce() + Send>;
static LAST_ACT: Mutex<Option<LastAct>> = Mutex::new(None);

/// Handed down to whatever can be interrupted.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(CancellationToken);

// === impl Interrupt ===

impl Interrupt {
    /// Starts listening; within a runtime.
    pub(crate) fn listen() -> Self {
        let token = CancellationToken::new();
        let first = token.clone();
        let (Ok(mut int), Ok(mut term), Ok(mut hup)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        else {
            // without handlers the signals keep their default: they end the process
            return Self(token);
        };
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! { _ = int.recv() => (), _ = term.recv() => (), _ = hup.recv() => () }
            };
            next().await;
            first.cancel();
            let _ = tokio::time::timeout(PATIENCE, next()).await;
            crate::terminal::restore();
            let act = LAST_ACT.lock().ok().and_then(|mut act| act.take());
            if let Some(act) = act {
                act();
            }
            std::process::exit(INTERRUPTED);
        });
        Self(token)
    }
    /// Listens to nothing: for a command that runs a program, to which signals belong.
    pub(crate) fn deaf() -> Self {
        Self(CancellationToken::new())
    }
    /// Waits for the first one.
    pub(crate) async fn requested(&self) {
        self.0.cancelled().await;
    }
    /// Sets what is done before a second one ends the process; it blocks, and must be short.
    pub(crate) fn at_last(act: impl FnOnce() + Send + 'static) {
        if let Ok(mut slot) = LAST_ACT.lock() {
            *slot = Some(Box::new(act));
        }
    }
    /// Runs a command; an interrupt drops it, which cancels its requests.
    pub(crate) async fn guard<T>(&self, note: &str, work: impl Future<Output = Done<T>>) -> Done<T> {
        tokio::select! {
            biased;
            () = self.requested() => Err(Stop::Interrupted(note.to_owned())),
            done = work => done,
        }
    }
}
