//! What goes to the runner on one operation's stream: the request, grants, stdin, resizes.
//!
//! Grants are summed up, not queued: however slowly the runner takes them, they cost one number. Stdin goes in pieces as its
//! credit allows; a piece that was begun is delivered or the operation has ended, also where the caller gives up waiting.

use bytes::Bytes;
use futures_util::Stream;
use futures_util::task::AtomicWaker;
use shared_proto::flow::Credit;
use shared_proto::v1::operation_input::Kind;
use shared_proto::{bounds, v1};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::sync::{Mutex, mpsc};

/// Messages that wait for HTTP/2. Those with stdin are held by their credit as well.
const QUEUED_MAX: usize = 4;

/// The operation has ended, or its input was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operation takes no more input")]
pub struct Closed;

/// The way into an operation. Cloning is cheap; clones take turns.
#[derive(Clone)]
pub struct Input {
    inner: Arc<InputInner>,
}

struct InputInner {
    queue: mpsc::Sender<Kind>,
    credit: Credit,
    feed: Arc<Feed>,
    /// Whether stdin was closed. Held while a piece is sent: pieces stay in order, and one waits for credit at a time.
    turn: Arc<Mutex<bool>>,
}

/// What the request's stream looks at beside its queue.
pub(crate) struct Feed {
    granted: AtomicU64,
    ended: AtomicBool,
    waker: AtomicWaker,
    credit: Credit,
}

/// The request's stream, as tonic reads it.
pub(crate) struct Feeding {
    first: Option<Box<v1::OperationRequest>>,
    queue: mpsc::Receiver<Kind>,
    feed: Arc<Feed>,
}

/// The three ends of one operation's input.
pub(crate) fn pair(request: v1::OperationRequest, credit: Credit) -> (Arc<Feed>, Feeding, Input) {
    let (into, queue) = mpsc::channel(QUEUED_MAX);
    let feed = Arc::new(Feed {
        granted: AtomicU64::new(0),
        ended: AtomicBool::new(false),
        waker: AtomicWaker::new(),
        credit: credit.clone(),
    });
    let feeding = Feeding { first: Some(Box::new(request)), queue, feed: feed.clone() };
    let inner = InputInner { queue: into, credit, feed: feed.clone(), turn: Arc::new(Mutex::new(false)) };
    (feed, feeding, Input { inner: Arc::new(inner) })
}

// === impl Feed ===

impl Feed {
    /// So much more output may be sent.
    pub(crate) fn grant(&self, credit: u64) {
        self.granted.fetch_add(credit, Ordering::AcqRel);
        self.waker.wake();
    }
    /// So much more stdin may be sent.
    pub(crate) fn granted_to_us(&self, credit: u64) {
        self.credit.grant(credit);
    }
    /// The operation is over: the request ends, and whoever waits to put something in is told.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.credit.close();
        self.waker.wake();
    }
    fn over(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

// === impl Feeding ===

impl Stream for Feeding {
    type Item = v1::OperationInput;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = |kind| Poll::Ready(Some(v1::OperationInput { kind: Some(kind) }));
        if let Some(request) = self.first.take() {
            return item(Kind::Request(*request));
        }
        self.feed.waker.register(cx.waker());
        if self.feed.over() {
            return Poll::Ready(None);
        }
        match self.feed.granted.swap(0, Ordering::AcqRel) {
            0 => {}
            credit => return item(Kind::Flow(v1::Flow { credit })),
        }
        match self.queue.poll_recv(cx) {
            Poll::Ready(Some(kind)) => item(kind),
            // no input is left, yet grants go on until the end
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        self.feed.end();
    }
}

// === impl Input ===

impl Input {
    /// Standard input; waits as the runner takes it.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn stdin(&self, mut bytes: Bytes) -> Result<(), Closed> {
        let inner = self.inner.clone();
        let mut sending = Box::pin(async move {
            let closed = inner.turn.clone().lock_owned().await;
            if *closed {
                return Err(Closed);
            }
            while !bytes.is_empty() {
                let payload = inner.credit.take(bytes.len().min(bounds::DATA_MAX)).await.ok_or(Closed)?;
                inner.put(Kind::Stdin(bytes.split_to(payload.min(bytes.len())))).await?;
            }
            Ok(())
        });
        // Mostly there is credit and it is done at once. What has to wait goes on in a task of its own: a caller that gives
        // up must not leave credit taken and half a piece sent.
        match futures_util::poll!(&mut sending) {
            Poll::Ready(sent) => sent,
            Poll::Pending => tokio::spawn(sending).await.unwrap_or(Err(Closed)),
        }
    }

    /// The terminal has another size.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn resize(&self, columns: u32, rows: u32) -> Result<(), Closed> {
        self.inner.put(Kind::Resize(v1::TerminalSize { columns, rows })).await
    }

    /// No more stdin will come.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn close_stdin(&self) -> Result<(), Closed> {
        let mut closed = self.inner.turn.lock().await;
        if !*closed {
            *closed = true;
            self.inner.put(Kind::StdinClosed(v1::StdinClosed {})).await?;
        }
        Ok(())
    }
}

impl InputInner {
    async fn put(&self, kind: Kind) -> Result<(), Closed> {
        if self.feed.over() {
            return Err(Closed);
        }
        self.queue.send(kind).await.map_err(|_| Closed)
    }
}
