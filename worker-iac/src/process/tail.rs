//! Reads a file's lines while another process appends to it. Woken by inotify; where the kernel gives none, it looks often.

use super::appending;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The longest line that is kept whole, bytes: engines put a whole document on one line. What is longer is cut there.
const LINE_MAX: usize = 1024 * 1024;
/// What was read is given back to the disk in pieces of so many bytes: an engine that talks for days must not fill it. The newest
/// such piece stays, for whoever looks into the file.
const KEEP: u64 = 64 * 1024 * 1024;
/// What is taken of the disk before the program writes, bytes.
const RESERVE: i64 = 256 * 1024;
/// How often the file is looked at without inotify.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it is looked at beside inotify, which may lose an event where its queue is full.
const LOOK_ANYWAY: Duration = Duration::from_secs(1);

/// One line, without its end. What is not UTF-8 is replaced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its text.
    pub(crate) text: String,
    /// How many bytes were left out of it.
    pub(crate) left_out: usize,
    /// Where in the file the next one begins.
    pub(crate) end: u64,
}

/// A file that grows.
#[derive(Debug)]
pub(super) struct Tail {
    file: File,
    /// Read and not yet given out; at most a line and a read.
    pending: Vec<u8>,
    /// Where in `pending` no line's end was found yet.
    searched: usize,
    left_out: usize,
    finished: bool,
    /// How far its lines were given out, how far it was read, and up to where it was given back.
    given: u64,
    offset: u64,
    freed: u64,
    watch: Option<AsyncFd<Watch>>,
}

#[derive(Debug)]
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

// === impl Tail ===

impl Tail {
    /// From there on, or from the file's present end; the file is made if there is none.
    pub(super) fn open(path: &Path, from: Option<u64>) -> io::Result<Self> {
        appending(path)?;
        let mut file = File::options().read(true).write(true).open(path)?;
        let offset = file.seek(from.map_or(SeekFrom::End(0), SeekFrom::Start))?;
        // where the disk runs full, the program's last words fit all the same
        if let Ok(end) = i64::try_from(offset) {
            let _ = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, end, RESERVE);
        }
        let (pending, watch) = (Vec::new(), watch(path));
        Ok(Self { file, pending, searched: 0, left_out: 0, finished: false, given: offset, offset, freed: 0, watch })
    }

    /// How far its lines were given out.
    pub(super) const fn given(&self) -> u64 {
        self.given
    }

    /// The writer is gone: what comes after the last line's end is a line too.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// The next line; `None` where there is none yet.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(at) = self.pending[self.searched..].iter().position(|b| *b == b'\n') {
                let end = self.searched + at;
                return Ok(Some(self.take(end, end + 1)));
            }
            self.searched = self.pending.len();
            if self.pending.len() > LINE_MAX {
                self.left_out += self.pending.len() - LINE_MAX;
                self.pending.truncate(LINE_MAX);
                self.searched = LINE_MAX;
            }
            let mut buffer = [0; 32 * 1024];
            match self.file.read(&mut buffer)? {
                0 if self.finished && !self.pending.is_empty() => {
                    let end = self.pending.len();
                    return Ok(Some(self.take(end, end)));
                }
                0 => return Ok(None),
                n => {
                    self.pending.extend_from_slice(&buffer[..n]);
                    self.offset += n as u64;
                    self.give_back();
                }
            }
        }
    }

    /// Frees what was read long ago; where the file system cannot do that, it stays.
    fn give_back(&mut self) {
        if self.offset < self.freed + 2 * KEEP {
            return;
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let until = self.offset - KEEP;
        if let (Ok(from), Ok(length)) = (i64::try_from(self.freed), i64::try_from(until - self.freed)) {
            let _ = fallocate(&self.file, flags, from, length);
        }
        self.freed = until;
    }

    fn take(&mut self, end: usize, next: usize) -> Line {
        let kept = end.min(LINE_MAX);
        let text = String::from_utf8_lossy(&self.pending[..kept]).trim_end_matches('\r').to_owned();
        let left_out = self.left_out + (end - kept);
        // what was left out stands no more in `pending`
        self.given += (next + self.left_out) as u64;
        self.pending.drain(..next);
        (self.searched, self.left_out) = (0, 0);
        Line { text, left_out, end: self.given }
    }

    /// Waits until the file may have grown.
    pub(super) async fn grown(&self) {
        match &self.watch {
            None => tokio::time::sleep(LOOK_EVERY).await,
            Some(watch) => {
                if let Ok(Ok(mut ready)) = tokio::time::timeout(LOOK_ANYWAY, watch.readable()).await {
                    // the events say no more than that: drain them
                    while watch.get_ref().0.read_events().is_ok() {}
                    ready.clear_ready();
                }
            }
        }
    }
}

#[expect(deprecated, reason = "the successor is unsafe, and this crate has no unsafe code")]
fn watch(path: &Path) -> Option<AsyncFd<Watch>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
    inotify.add_watch(path, AddWatchFlags::IN_MODIFY).ok()?;
    AsyncFd::with_interest(Watch(inotify), Interest::READABLE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn line(text: &str, end: u64) -> Option<Line> {
        Some(Line { text: text.into(), left_out: 0, end: EARLIER.len() as u64 + end })
    }
    const EARLIER: &str = "of an earlier command\n";

    #[tokio::test]
    async fn lines_come_whole_however_they_are_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let mut writer = appending(&path).expect("opens");
        writer.write_all(EARLIER.as_bytes()).expect("writes");
        let mut tail = Tail::open(&path, None).expect("opens");
        assert_eq!(tail.next().expect("reads"), None);
        writer.write_all(b"on").expect("writes");
        tail.grown().await;
        assert_eq!(tail.next().expect("reads"), None);
        writer.write_all(b"e\r\n\ntw\xffo\nrest").expect("writes");
        tail.grown().await;
        assert_eq!(tail.next().expect("reads"), line("one", 5));
        assert_eq!(tail.next().expect("reads"), line("", 6));
        assert_eq!(tail.next().expect("reads"), line("tw\u{fffd}o", 11));
        assert_eq!(tail.next().expect("reads"), None);
        tail.finish();
        assert_eq!(tail.next().expect("reads"), line("rest", 15));
        assert_eq!(tail.next().expect("reads"), None);
        // another one reads on from where a line has ended
        let mut next = Tail::open(&path, Some(EARLIER.len() as u64 + 6)).expect("opens");
        assert_eq!(next.next().expect("reads"), line("tw\u{fffd}o", 11));
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut_and_says_how_much() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let mut tail = Tail::open(&path, None).expect("opens");
        let mut writer = appending(&path).expect("opens");
        let long = vec![b'x'; LINE_MAX + 300_000];
        writer.write_all(&long).expect("writes");
        writer.write_all(b"\nnext\n").expect("writes");
        let cut = tail.next().expect("reads").expect("a line");
        let end = long.len() as u64 + 1;
        assert_eq!((cut.text.len(), cut.left_out, cut.end), (LINE_MAX, 300_000, end));
        let next = tail.next().expect("reads").expect("a line");
        assert_eq!((next.text.as_str(), next.end), ("next", end + 5));
        assert!(tail.pending.capacity() < 4 * LINE_MAX);
    }
}
