//! Flow control of the tunnel's operations: credit, shared out under one budget for a connection.
//!
//! HTTP/2's own windows cannot do it. Unread bytes of stopped readers hold the *connection's* window, so enough of them stall
//! everybody, unless it exceeds streams × stream window; and windows that are large enough for a long path, times many
//! streams, are unbounded memory. So here the receiver of a direction drains HTTP/2 always and at once, and a sender may
//! only send what it was granted: HTTP/2's windows never bind, and what a receiver holds is what it granted.
//!
//! ```text
//!   sender                                  receiver
//!   Credit::take(n)  ── data ──▶  Window::received(n)   (more than granted: the operation ends, flow_violation)
//!                                 … the reader takes it …
//!   Credit::grant(m) ◀─ Flow m ── Window::consumed(n)
//! ```
//!
//! Each operation has a small window of its own, always: `share / 2 / operations`. The other half of the share is a pool. A
//! window whose reader keeps up with a sender that runs out of credit grows out of the pool, up to a quarter of
//! what is free there and of what its reader has taken so far: streams that move get much, stalled ones little. What a reader that
//! stopped seemed to take went into the socket buffers behind it, and that is not much; one that grew and then stopped leaves three
//! quarters for the next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What a message costs beside its payload, so that a flood of tiny messages is bounded too: about what holding one takes.
pub const MESSAGE_COST: u64 = 128;
/// No window is smaller than this, so that a message of some payload always fits.
pub const WINDOW_MIN: u64 = 2 * 1024;
/// No window is larger than this: HTTP/2's own stream window must not bind before it.
pub const WINDOW_MAX: u64 = 4 * 1024 * 1024;
/// A window is at most this fraction of what has been consumed through it: a reader that never reads looks like a quick one until the socket
/// buffers behind it are full, a few hundred KiB, and a hundred of them must not take the whole pool by that.
const PROOF: u64 = 4;
/// Grants are gathered until they are worth a message: a quarter of the window.
const GRANT_FRACTION: u64 = 4;

/// What a message with that much payload costs.
pub const fn cost(payload: usize) -> u64 {
    payload as u64 + MESSAGE_COST
}

/// The shares of one connection's memory budget, at the end that holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// For what this end receives.
    pub receive: u64,
    /// For what this end has sent and the other has not yet consumed.
    pub send: u64,
}

/// The receiving share of one connection: gives windows to operations.
#[derive(Debug, Clone)]
pub struct Budget {
    inner: Arc<BudgetInner>,
}

#[derive(Debug)]
struct BudgetInner {
    base: u64,
    pool: Mutex<u64>,
    round_trip: Mutex<Duration>,
}

/// The receiving side of one direction of one operation.
#[derive(Debug)]
pub struct Window {
    budget: Budget,
    size: u64,
    granted: u64,
    received: u64,
    consumed: u64,
    /// Consumed since `since`: when it reaches the size, the window has turned over once.
    turned: u64,
    since: Instant,
}

/// More came than was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent {excess} more than it was granted")]
pub struct Overrun {
    /// By how much, in cost units.
    pub excess: u64,
}

/// The sending side of one direction of one operation.
#[derive(Debug, Clone)]
pub struct Credit {
    inner: Arc<CreditInner>,
}

#[derive(Debug)]
struct CreditInner {
    state: Mutex<CreditState>,
    changed: Notify,
    share: Option<SendShare>,
}

#[derive(Debug, Default)]
struct CreditState {
    available: u64,
    /// Sent and not granted back: what may still be in our own send buffers.
    outstanding: u64,
    closed: bool,
}

/// The sending share of one connection: however much a peer grants, no more than this is on its way at once.
#[derive(Debug, Clone)]
pub struct SendShare {
    inner: Arc<(Mutex<u64>, Notify)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // nothing panics while holding one of these
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Shares ===

impl Shares {
    /// At the control plane: output comes in and is most of the traffic.
    pub const fn control_plane(budget: u64) -> Self {
        Self { receive: budget / 4 * 3, send: budget / 4 }
    }
    /// At the runner: the mirror image.
    pub const fn runner(budget: u64) -> Self {
        Self { receive: budget / 4, send: budget / 4 * 3 }
    }
}

// === impl Budget ===

impl Budget {
    /// A share of that many bytes for that many operations at once.
    pub fn new(share: u64, operations: u32) -> Self {
        let base = (share / 2 / u64::from(operations.max(1))).clamp(WINDOW_MIN, 64 * 1024);
        let pool = share.saturating_sub(base * u64::from(operations));
        Self {
            inner: Arc::new(BudgetInner {
                base,
                pool: Mutex::new(pool),
                round_trip: Mutex::new(Duration::from_millis(1)),
            }),
        }
    }
    /// A window for one operation, and the credit with which it starts.
    pub fn window(&self) -> (Window, u64) {
        let base = self.inner.base;
        (
            Window {
                budget: self.clone(),
                size: base,
                granted: base,
                received: 0,
                consumed: 0,
                turned: 0,
                since: Instant::now(),
            },
            base,
        )
    }
    /// The session's newest round trip: how fast a window can turn over at all.
    pub fn set_round_trip(&self, round_trip: Duration) {
        *lock(&self.inner.round_trip) = round_trip;
    }
    /// What is left in the pool, bytes.
    pub fn free(&self) -> u64 {
        *lock(&self.inner.pool)
    }
    /// Takes up to `want` out of the pool, and no more than a quarter of it together with what the window has already.
    fn take(&self, want: u64, has: u64) -> u64 {
        let mut pool = lock(&self.inner.pool);
        let most = ((*pool + has) / 4).min(WINDOW_MAX).saturating_sub(has);
        let taken = want.min(most);
        *pool -= taken;
        taken
    }
    fn give_back(&self, bytes: u64) {
        *lock(&self.inner.pool) += bytes;
    }
}

// === impl Window ===

impl Window {
    /// Something of that cost came in.
    ///
    /// # Errors
    /// [`Overrun`] where it was not granted: end the operation.
    pub fn received(&mut self, cost: u64) -> Result<(), Overrun> {
        self.received += cost;
        if self.received > self.granted {
            return Err(Overrun { excess: self.received - self.granted });
        }
        Ok(())
    }

    /// The reader took something of that cost. Returns the credit to grant now, 0 for none yet.
    #[must_use]
    pub fn consumed(&mut self, cost: u64) -> u64 {
        self.consumed += cost;
        self.turned += cost;
        let outstanding = self.granted - self.consumed;
        let due = self.size.saturating_sub(outstanding);
        if due < self.size / GRANT_FRACTION {
            return 0;
        }
        if self.turned >= self.size {
            self.turned_over(due);
        }
        let grant = self.size.saturating_sub(outstanding);
        self.granted += grant;
        grant
    }

    /// A whole window has gone through. That this end has granted more says nothing: grants are on their way for half a round trip.
    /// What says that the window is the limit is that it turned over in about one round trip.
    fn turned_over(&mut self, due: u64) {
        let elapsed = self.since.elapsed();
        let round_trip = *lock(&self.budget.inner.round_trip);
        let unread = self.received - self.consumed;
        if unread <= self.size / 2 && elapsed < 2 * round_trip + Duration::from_millis(2) {
            // the reader is faster than the window turns over: let it grow
            let want = self.size.min((self.consumed / PROOF).saturating_sub(self.size));
            self.size += self.budget.take(want, self.size - self.budget.inner.base);
        } else if self.size > self.budget.inner.base && elapsed > 20 * round_trip + Duration::from_secs(1) {
            // it does not need so much any more
            let less = (self.size - self.budget.inner.base).div_ceil(2).min(due);
            self.size -= less;
            self.budget.give_back(less);
        }
        self.since = Instant::now();
        self.turned = 0;
    }

    /// The window's present size, cost units.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.budget.give_back(self.size - self.budget.inner.base);
    }
}

// === impl Credit ===

impl Credit {
    /// Starts with what the first message granted.
    pub fn new(initial: u64, share: Option<SendShare>) -> Self {
        let state = Mutex::new(CreditState { available: initial.min(WINDOW_MAX), ..Default::default() });
        Self { inner: Arc::new(CreditInner { state, changed: Notify::new(), share }) }
    }

    /// The receiver consumed some and grants it again.
    pub fn grant(&self, credit: u64) {
        let returned = {
            let mut state = lock(&self.inner.state);
            // a peer that grants without end gains nothing: a window is never larger than this
            state.available = state.available.saturating_add(credit).min(WINDOW_MAX);
            let returned = credit.min(state.outstanding);
            state.outstanding -= returned;
            returned
        };
        if let Some(share) = &self.inner.share {
            share.give_back(returned);
        }
        self.inner.changed.notify_one();
    }

    /// No credit will come any more: whoever waits gets `None`.
    pub fn close(&self) {
        lock(&self.inner.state).closed = true;
        self.inner.changed.notify_one();
    }

    /// Waits until a message may be sent; returns how much payload it may carry, at most `want` bytes, and takes its cost. `None` after
    /// [`Credit::close`]. One task waits at a time; it may give up.
    pub async fn take(&self, want: usize) -> Option<usize> {
        loop {
            let changed = self.inner.changed.notified();
            let payload = {
                let mut state = lock(&self.inner.state);
                if state.closed {
                    return None;
                }
                // wait for more than a crumb, or else a fast stream falls apart into tiny messages
                let useful = cost(want.min(1024));
                if state.available >= useful {
                    let payload = (want as u64).min(state.available - MESSAGE_COST) as usize;
                    state.available -= cost(payload);
                    Some(payload)
                } else {
                    None
                }
            };
            match payload {
                None => changed.await,
                Some(payload) => {
                    let undo = Undo { credit: &self.inner, cost: cost(payload) };
                    if let Some(share) = &self.inner.share {
                        share.take(cost(payload)).await;
                    }
                    std::mem::forget(undo);
                    // only now: what was not taken from the share must not be given back to it
                    lock(&self.inner.state).outstanding += cost(payload);
                    return Some(payload);
                }
            }
        }
    }
}

/// Takes a taking back that is given up while it waits for the share.
struct Undo<'a> {
    credit: &'a CreditInner,
    cost: u64,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        lock(&self.credit.state).available += self.cost;
    }
}

impl Drop for CreditInner {
    fn drop(&mut self) {
        if let Some(share) = &self.share {
            share.give_back(lock(&self.state).outstanding);
        }
    }
}

// === impl SendShare ===

impl SendShare {
    /// A share of that many bytes.
    pub fn new(bytes: u64) -> Self {
        Self { inner: Arc::new((Mutex::new(bytes), Notify::new())) }
    }
    /// What is not on its way, bytes.
    pub fn free(&self) -> u64 {
        *lock(&self.inner.0)
    }
    async fn take(&self, bytes: u64) {
        loop {
            let changed = self.inner.1.notified();
            {
                let mut free = lock(&self.inner.0);
                if *free >= bytes {
                    *free -= bytes;
                    if *free > 0 {
                        self.inner.1.notify_one();
                    }
                    return;
                }
            }
            changed.await;
        }
    }
    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            *lock(&self.inner.0) += bytes;
            self.inner.1.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHARE: u64 = 24 << 20;

    #[test]
    fn all_windows_together_stay_within_the_share() {
        let budget = Budget::new(SHARE, 1024);
        let mut windows: Vec<Window> = (0..1024).map(|_| budget.window().0).collect();
        for _ in 0..64 {
            for window in &mut windows {
                let all = window.granted - window.received;
                window.received(all).expect("granted");
                let _ = window.consumed(all);
            }
        }
        assert!(windows.iter().map(|w| w.granted - w.consumed).sum::<u64>() <= SHARE);
        assert!(windows.iter().all(|w| w.granted - w.consumed >= budget.inner.base));
        drop(windows);
        assert_eq!(budget.free(), SHARE - 1024 * budget.inner.base);
    }

    #[test]
    fn a_moving_stream_grows_beside_a_hundred_stopped_ones() {
        let budget = Budget::new(SHARE, 1024);
        let mut stopped: Vec<Window> = (0..100).map(|_| budget.window().0).collect();
        for window in &mut stopped {
            window.received(window.granted).expect("granted");
        }
        let (mut moving, credit) = budget.window();
        let mut available = credit;
        for _ in 0..60 {
            moving.received(available).expect("granted");
            available = moving.consumed(available);
        }
        assert!(moving.size() >= 2 << 20, "{}", moving.size());
    }

    #[test]
    fn a_hundred_that_fill_the_sockets_behind_them_and_stop_leave_room_for_one_that_moves() {
        let budget = Budget::new(SHARE, 1024);
        let mut stopped: Vec<(Window, u64)> = (0..100).map(|_| budget.window()).collect();
        for (window, available) in &mut stopped {
            let mut taken = 0;
            while taken < 400 * 1024 {
                window.received(*available).expect("granted");
                taken += *available;
                *available = window.consumed(*available);
            }
            window.received(*available).expect("granted");
        }
        let (mut moving, mut available) = budget.window();
        for _ in 0..60 {
            moving.received(available).expect("granted");
            available = moving.consumed(available);
        }
        assert!(moving.size() >= 512 * 1024, "{} of {}", moving.size(), budget.free());
    }

    #[test]
    fn a_window_that_turns_over_in_a_round_trip_grows_however_small_the_pieces() {
        let budget = Budget::new(SHARE, 1024);
        budget.set_round_trip(Duration::from_secs(5));
        let (mut window, credit) = budget.window();
        // a long path: what is consumed is granted at once, and yet the sender waits, since the grants are on their way
        let (mut available, mut on_their_way) = (credit, std::collections::VecDeque::new());
        for _ in 0..8000 {
            let piece = available.min(4096);
            if piece > 0 {
                available -= piece;
                window.received(piece).expect("granted");
                on_their_way.push_back(window.consumed(piece));
            }
            if piece == 0 || on_their_way.len() > 64 {
                available += on_their_way.pop_front().unwrap_or(0);
            }
        }
        assert!(window.size() >= 2 << 20, "{}", window.size());
    }

    #[test]
    fn a_slow_reader_does_not_grow() {
        let budget = Budget::new(SHARE, 1024);
        let (mut window, credit) = budget.window();
        window.received(credit).expect("granted");
        let grant = window.consumed(credit / 4); // three quarters unread
        assert_eq!((window.size(), grant), (budget.inner.base, credit / 4));
    }

    #[test]
    fn more_than_granted_is_an_overrun() {
        let (mut window, credit) = Budget::new(SHARE, 1024).window();
        assert_eq!(window.received(credit), Ok(()));
        assert_eq!(window.received(1), Err(Overrun { excess: 1 }));
    }

    #[tokio::test]
    async fn taking_waits_for_credit_and_ends_on_close() {
        let credit = Credit::new(cost(100), None);
        assert_eq!(credit.take(100).await, Some(100));
        let waiting = tokio::spawn({
            let credit = credit.clone();
            async move { (credit.take(60_000).await, credit.take(1).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        credit.grant(cost(5000));
        tokio::task::yield_now().await;
        credit.close();
        assert_eq!(waiting.await.expect("joins"), (Some(5000), None));
    }

    #[tokio::test]
    async fn a_peer_that_grants_without_end_is_held_by_the_send_share() {
        let share = SendShare::new(cost(3000));
        let credit = Credit::new(u64::MAX, Some(share.clone()));
        assert_eq!(credit.take(3000).await, Some(3000));
        assert_eq!(share.free(), 0);
        let other = Credit::new(u64::MAX, Some(share.clone()));
        let waiting = tokio::spawn(async move { other.take(10).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        credit.grant(cost(3000));
        assert_eq!(waiting.await.expect("joins"), Some(10));
        drop(credit);
        assert_eq!(share.free(), cost(3000));
    }

    #[tokio::test]
    async fn a_taking_that_is_given_up_while_it_waits_for_the_share_takes_nothing() {
        let share = SendShare::new(cost(10));
        let (first, second) =
            (Credit::new(cost(2000), Some(share.clone())), Credit::new(cost(500), Some(share.clone())));
        assert_eq!(first.take(10).await, Some(10));
        {
            let mut waiting = std::pin::pin!(second.take(500));
            std::future::poll_fn(|cx| {
                assert!(waiting.as_mut().poll(cx).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        drop(first);
        drop(second);
        assert_eq!(share.free(), cost(10));
    }

    proptest! {
        #[test]
        fn whatever_is_consumed_when_the_sender_never_waits_for_ever(steps in prop::collection::vec(1u64..9000, 1..200)) {
            let budget = Budget::new(1 << 20, 64);
            let (mut window, mut available) = budget.window();
            let mut unread = 0;
            for step in steps {
                let sent = step.min(available);
                window.received(sent).expect("granted");
                available -= sent;
                unread += sent;
                let read = unread.min(step);
                available += window.consumed(read);
                unread -= read;
                // a reader that reads all leaves the sender with a useful credit
                if unread == 0 { prop_assert!(available >= window.size() / 2); }
                prop_assert!(available + unread <= window.size());
            }
        }
    }
}
