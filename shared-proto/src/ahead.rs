//! Taking in one piece what has come. rustls asks its socket for at most 4 KiB at a time, five times a record, and gives out one record at a
//! time: where much comes, the system calls, the messages and the wake-ups cost more than the cipher. [`ReadAhead`] takes what the socket has
//! below TLS; [`Pieces`] takes what TLS has, to pass it on.
//!
//! Neither must ever keep memory for a connection on which nothing comes, as there may be thousands, or wait for more once there is something.

use bytes::{Buf as _, BufMut as _, BytesMut};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that is taken at once, bytes: four records of TLS.
pub const AHEAD_MAX: usize = 64 * 1024;

/// A stream that is read ahead of. What is written passes through.
#[derive(Debug)]
pub struct ReadAhead<T> {
    inner: T,
    /// What was taken and is not given out yet. Without room of its own where nothing came.
    taken: BytesMut,
}

// === impl ReadAhead ===

impl<T> ReadAhead<T> {
    /// Reads ahead of a stream from here on.
    pub fn new(inner: T) -> Self {
        Self { inner, taken: BytesMut::new() }
    }

    /// The stream itself, to look at: reading from it would miss what was taken.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken.is_empty() {
            if into.remaining() >= AHEAD_MAX {
                return Pin::new(&mut this.inner).poll_read(cx, into);
            }
            // of what it had the room is had again where nobody else has a part of it, and here nobody does
            this.taken.reserve(AHEAD_MAX);
            let read = tokio_util::io::poll_read_buf(Pin::new(&mut this.inner), cx, &mut this.taken);
            if !matches!(read, Poll::Ready(Ok(n)) if n > 0) {
                this.taken = BytesMut::new();
            }
            ready!(read)?;
        }
        let now = this.taken.len().min(into.remaining());
        into.put_slice(&this.taken[..now]);
        this.taken.advance(now);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Reads a stream in pieces as large as what is there.
#[derive(Debug)]
pub struct Pieces<R> {
    from: R,
    most: usize,
    /// What came after the last piece: the end, or why there is none.
    after: Option<io::Result<()>>,
}

// === impl Pieces ===

impl<R: AsyncRead + Unpin> Pieces<R> {
    /// Of a stream, each of at most so many bytes.
    pub fn new(from: R, most: usize) -> Self {
        Self { from, most, after: None }
    }

    /// The next piece into an empty buffer: waits for the first byte of it, and for no other. No bytes: the end. When dropped before it is
    /// ready, nothing is lost.
    ///
    /// # Errors
    /// The stream's own, after the last byte before it was given out.
    pub async fn next(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        into.clear();
        if let Some(after) = self.after.take() {
            return after.map(|()| 0);
        }
        poll_fn(|cx| {
            while into.len() < self.most {
                let left = self.most - into.len();
                let mut room = (&mut *into).limit(left);
                match tokio_util::io::poll_read_buf(Pin::new(&mut self.from), cx, &mut room) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Pending if into.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                    Poll::Ready(after) if into.is_empty() => return Poll::Ready(after),
                    Poll::Ready(after) => {
                        self.after = Some(after.map(drop));
                        break;
                    }
                }
            }
            Poll::Ready(Ok(into.len()))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Counts what is asked of the stream in it.
    struct Counted<T> {
        inner: T,
        reads: usize,
    }

    impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.reads += 1;
            Pin::new(&mut self.inner).poll_read(cx, into)
        }
    }

    #[tokio::test]
    async fn many_small_reads_are_few_of_the_stream() {
        let sent: Vec<u8> = (0..3 * AHEAD_MAX + 7).map(|n| n as u8).collect();
        let mut ahead = ReadAhead::new(Counted { inner: &sent[..], reads: 0 });
        let (mut got, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match ahead.read(&mut piece).await.expect("reads") {
                0 => break,
                n => got.extend_from_slice(&piece[..n]),
            }
        }
        assert!(got == sent);
        // four with something in them, and the end
        assert_eq!(ahead.get_ref().reads, 5);
    }

    #[tokio::test]
    async fn a_large_read_goes_past_it() {
        let sent = vec![7; AHEAD_MAX];
        let mut ahead = ReadAhead::new(&sent[..]);
        let mut got = vec![0; AHEAD_MAX];
        assert_eq!(ahead.read(&mut got).await.expect("reads"), AHEAD_MAX);
        assert_eq!(ahead.taken.capacity(), 0);
    }

    #[tokio::test]
    async fn what_waits_has_no_memory_and_the_end_is_an_end() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut ahead = ReadAhead::new(near);
        let mut piece = [0; 8];
        far.write_all(b"0123456789").await.expect("written");
        assert_eq!(ahead.read(&mut piece).await.expect("reads"), 8);
        assert_eq!(ahead.read(&mut piece).await.expect("reads"), 2);
        tokio::select! {
            biased;
            read = ahead.read(&mut piece) => panic!("there is nothing: {read:?}"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(ahead.taken.capacity(), 0);
        ahead.write_all(b"back").await.expect("written");
        let mut back = [0; 4];
        far.read_exact(&mut back).await.expect("reads");
        assert_eq!(&back, b"back");
        drop(far);
        assert_eq!(ahead.read(&mut piece).await.expect("reads"), 0);
        assert_eq!(ahead.taken.capacity(), 0);
    }

    #[tokio::test]
    async fn a_piece_is_what_is_there_and_no_more_than_it_may_be() {
        let (near, mut far) = tokio::io::duplex(64);
        // a record at a time, as TLS gives them out
        let mut pieces = Pieces::new(Slowly(near), 10);
        let mut piece = BytesMut::with_capacity(1);
        far.write_all(b"0123456789abc").await.expect("written");
        assert_eq!(pieces.next(&mut piece).await.expect("reads"), 10);
        assert_eq!(&piece[..], b"0123456789");
        assert_eq!(pieces.next(&mut piece).await.expect("reads"), 3);
        tokio::select! {
            biased;
            read = pieces.next(&mut piece) => panic!("there is nothing: {read:?}"),
            () = std::future::ready(()) => {}
        }
        far.write_all(b"de").await.expect("written");
        drop(far);
        assert_eq!(pieces.next(&mut piece).await.expect("reads"), 2);
        assert_eq!(&piece[..], b"de");
        assert_eq!(pieces.next(&mut piece).await.expect("reads"), 0);
    }

    #[tokio::test]
    async fn what_fails_does_so_after_what_came_before() {
        let broken = tokio::io::AsyncReadExt::chain(&b"before"[..], Broken);
        let mut pieces = Pieces::new(broken, 100);
        let mut piece = BytesMut::new();
        assert_eq!(pieces.next(&mut piece).await.expect("reads"), 6);
        assert_eq!(pieces.next(&mut piece).await.expect_err("fails").kind(), io::ErrorKind::ConnectionReset);
    }

    /// Four bytes at a time.
    struct Slowly<T>(T);

    impl<T: AsyncRead + Unpin> AsyncRead for Slowly<T> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let mut few = [0; 4];
            let mut few = ReadBuf::new(&mut few[..into.remaining().min(4)]);
            ready!(Pin::new(&mut self.0).poll_read(cx, &mut few))?;
            into.put_slice(few.filled());
            Poll::Ready(Ok(()))
        }
    }

    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }
}
