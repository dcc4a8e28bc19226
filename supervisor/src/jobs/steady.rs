//! What must not be left in the middle by a process that lets go of its jobs and lives on: a step that is being started, a folder that is
//! being removed, an engine that was asked to end. (One that dies leaves them in the middle, and the next one judges by the disk; but no job
//! is to end as lost where nothing was lost.)

use std::sync::Arc;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, oneshot};

/// Many act, or all are at rest. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Steady(Arc<RwLock<()>>);

// === impl Steady ===

impl Steady {
    /// Acts, until that is dropped; not before those who rest go on.
    pub(super) async fn acts(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.0).read_owned().await
    }
    /// Waits until nobody acts; nobody does as long as that lives. `None` where nobody waits for it any more.
    pub(super) async fn rest<T>(&self, whoever_waits: &mut oneshot::Sender<T>) -> Option<OwnedRwLockWriteGuard<()>> {
        tokio::select! {
            rest = Arc::clone(&self.0).write_owned() => Some(rest),
            () = whoever_waits.closed() => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use std::pin::pin;

    #[tokio::test]
    async fn rest_comes_once_nobody_acts_and_nobody_acts_until_it_is_over() {
        let steady = Steady::default();
        let (mut waits, answer) = oneshot::channel::<()>();
        let (one, two) = (steady.acts().await, steady.acts().await);
        {
            let mut rests = pin!(steady.rest(&mut waits));
            assert!(poll!(&mut rests).is_pending());
            drop(one);
            assert!(poll!(&mut rests).is_pending());
            // who comes later does not keep it waiting
            let mut late = pin!(steady.acts());
            assert!(poll!(&mut late).is_pending());
            drop(two);
            let rest = rests.await.expect("rests");
            assert!(poll!(&mut late).is_pending(), "somebody acts");
            drop(rest);
            late.await;
        }
        // whoever waited is gone: who acts goes on, and others may
        let _acts = steady.acts().await;
        drop(answer);
        assert!(steady.rest(&mut waits).await.is_none());
        let _another = steady.acts().await;
    }
}
