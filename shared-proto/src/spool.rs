//! The records of a job's spool: numbered, with length and checksum, so that a torn tail is found and cut off, and a flipped
//! bit is found and named. The whole of a spool is described in docs/spool.md.
//!
//! ```text
//! file    "RNSPOOL1"  record*
//! record  length u32 LE │ CRC-32C u32 LE of the rest │ sequence u64 LE │ content (an encoded Event)
//! ```
//! This module must never believe a length before its checksum fits, and never map the file: its writer may be hostile.

use crate::bounds::EVENT_MAX;
use crate::failure::Code;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// The first bytes of a spool's events file: its format and version.
pub const MAGIC: &[u8; 8] = b"RNSPOOL1";
/// What the first bytes are of every version.
const FAMILY: &[u8; 7] = b"RNSPOOL";
/// Bytes of a record before its content.
pub const RECORD_HEADER: usize = 16;
/// What a disk writes whole or not at all, bytes.
const SECTOR: u64 = 512;
/// The most that a file may have behind a hole, bytes: more is not written between two waits for the disk, and no power cut's doing.
const TAIL_MAX: u64 = 64 << 20;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number; the first is 1, and there are no gaps.
    pub sequence: u64,
    /// Its content, at most [`EVENT_MAX`] bytes.
    pub content: Vec<u8>,
}

/// Why a spool cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// It is a spool of another version: by the character that says which.
    #[error("it is a spool of version {0:?}, and this program knows version 1")]
    Version(char),
    /// A record is whole by length and its checksum does not fit, or its number is not the next one.
    #[error("the record after number {after}, at byte {offset}, is damaged: {what}")]
    Damaged {
        /// The last good number.
        after: u64,
        /// Where the bad record starts.
        offset: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// Content above [`EVENT_MAX`].
    #[error("a record of {0} bytes exceeds the limit")]
    TooLong(usize),
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What a spool's records are in: a file, or what a test has in its place.
pub trait SpoolFile: Read + Write + Seek + Sized {
    /// The same once more.
    ///
    /// # Errors
    /// The file's.
    fn again(&self) -> io::Result<Self>;
    /// How long it is, bytes.
    ///
    /// # Errors
    /// The file's.
    fn length(&self) -> io::Result<u64>;
    /// Cuts it there.
    ///
    /// # Errors
    /// The file's.
    fn cut(&self, length: u64) -> io::Result<()>;
    /// Waits until what was written, and how long it is, is on disk.
    ///
    /// # Errors
    /// The file's.
    fn sync(&self) -> io::Result<()>;
}

/// Appends records.
#[derive(Debug)]
pub struct Writer<F = File> {
    file: F,
    next: u64,
    end: u64,
    /// Behind the end there may be part of a record that could not be written.
    torn: bool,
}

/// Reads records from wherever it is in the file; may be asked again when the file has grown.
#[derive(Debug)]
pub struct Reader<F = File> {
    file: F,
    offset: u64,
    last: u64,
}

// === impl SpoolError ===

impl SpoolError {
    /// The failure code that it is told by.
    pub fn code(&self) -> Code {
        match self {
            Self::Version(_) => Code::UnsupportedVersion,
            Self::Damaged { .. } => Code::SpoolDamaged,
            Self::TooLong(_) => Code::TooLarge,
            Self::Io(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                Code::DiskFull
            }
            Self::Io(_) => Code::StateUnusable,
        }
    }
}

// === impl File ===

impl SpoolFile for File {
    fn again(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
    fn cut(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

// === impl Writer ===

impl<F: SpoolFile> Writer<F> {
    /// Opens a spool for appending: reads what is there, cuts off a torn tail and goes on after the last good record.
    /// The second value is how many bytes were cut off. That the file is in its folder is the caller's to have on disk.
    ///
    /// # Errors
    /// A damaged record that is not the tail; another version; the file.
    pub fn open(mut file: F) -> Result<(Self, u64), SpoolError> {
        let length = file.length()?;
        let start = MAGIC.len() as u64;
        if is_new(&file)? {
            // new, or torn in its very first write
            file.cut(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(MAGIC)?;
            file.sync()?;
            return Ok((Self { file, next: 1, end: start, torn: false }, length));
        }
        let mut reader = Reader::new(file.again()?)?;
        while reader.read()?.is_some() {}
        let (end, last) = (reader.offset, reader.last);
        if length > end {
            file.cut(end)?;
            // before anything takes its place: a shorter record with the rest of a longer one behind it would be damage
            file.sync()?;
        }
        file.seek(SeekFrom::Start(end))?;
        Ok((Self { file, next: last + 1, end, torn: false }, length - end))
    }

    /// The number that the next record will have.
    pub const fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Where the next record will start, bytes.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Appends a record in one write and returns its number. It is on disk after [`Writer::sync`].
    ///
    /// # Errors
    /// Content above [`EVENT_MAX`]; the file. After a failed write the torn tail is cut off again, now or before the next append.
    pub fn append(&mut self, content: &[u8]) -> Result<u64, SpoolError> {
        if content.len() > EVENT_MAX {
            return Err(SpoolError::TooLong(content.len()));
        }
        let sequence = self.next;
        let mut record = Vec::with_capacity(RECORD_HEADER + content.len());
        record.extend_from_slice(&(content.len() as u32).to_le_bytes());
        record.extend_from_slice(&[0; 4]);
        record.extend_from_slice(&sequence.to_le_bytes());
        record.extend_from_slice(content);
        let sum = checksum(record[..4].try_into().unwrap_or_default(), &record[8..]);
        record[4..8].copy_from_slice(&sum.to_le_bytes());
        if self.torn {
            self.mend()?;
        }
        if let Err(e) = self.file.write_all(&record) {
            self.torn = true;
            let _ = self.mend();
            return Err(e.into());
        }
        self.next += 1;
        self.end += record.len() as u64;
        Ok(sequence)
    }

    fn mend(&mut self) -> io::Result<()> {
        self.file.cut(self.end)?;
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.sync()?;
        self.torn = false;
        Ok(())
    }

    /// Waits until what was appended is on disk.
    ///
    /// # Errors
    /// The file.
    pub fn sync(&self) -> Result<(), SpoolError> {
        Ok(self.file.sync()?)
    }
}

// === impl Reader ===

impl<F: SpoolFile> Reader<F> {
    /// Reads from the file's first record on.
    ///
    /// # Errors
    /// Another version; no spool, or not yet; the file.
    pub fn new(mut file: F) -> Result<Self, SpoolError> {
        let mut magic = [0; 8];
        file.seek(SeekFrom::Start(0))?;
        if !fill(&mut file, &mut magic)? {
            return Err(SpoolError::Damaged { after: 0, offset: 0, what: "it is shorter than its first bytes" });
        }
        match magic.split_last() {
            _ if &magic == MAGIC => Ok(Self { file, offset: MAGIC.len() as u64, last: 0 }),
            Some((version, family)) if family == FAMILY => Err(SpoolError::Version(char::from(*version))),
            _ => Err(SpoolError::Damaged { after: 0, offset: 0, what: "it does not start as a spool does" }),
        }
    }

    /// The number of the last record that was read.
    pub const fn last_sequence(&self) -> u64 {
        self.last
    }

    /// Where the next record starts, bytes.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record; `None` where the file ends, be it within a record that is still being written, or was torn: by its length, or
    /// because a sector of it was never written. What comes after such a one was not on disk for sure either, and does not count.
    ///
    /// # Errors
    /// A record that is whole and wrong; the file.
    pub fn read(&mut self) -> Result<Option<Record>, SpoolError> {
        let (after, offset) = (self.last, self.offset);
        let damaged = |what| SpoolError::Damaged { after, offset, what };
        let mut header = [0; RECORD_HEADER];
        self.file.seek(SeekFrom::Start(self.offset))?;
        if !fill(&mut self.file, &mut header)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if length > EVENT_MAX {
            return if self.is_torn(&header)? { Ok(None) } else { Err(damaged("its length exceeds the limit")) };
        }
        let mut rest = vec![0; 8 + length];
        rest[..8].copy_from_slice(&header[8..]);
        if !fill(&mut self.file, &mut rest[8..])? {
            return Ok(None);
        }
        let expected = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        if checksum([header[0], header[1], header[2], header[3]], &rest) != expected {
            let whole = [&header[..8], &rest].concat();
            return if self.is_torn(&whole)? { Ok(None) } else { Err(damaged("its checksum does not fit")) };
        }
        let sequence = u64::from_le_bytes(rest[..8].try_into().unwrap_or_default());
        if sequence != self.last + 1 {
            return Err(damaged("its number is not the next one"));
        }
        self.last = sequence;
        self.offset += (RECORD_HEADER + length) as u64;
        Ok(Some(Record { sequence, content: rest.split_off(8) }))
    }

    fn is_torn(&self, record: &[u8]) -> io::Result<bool> {
        Ok(has_hole(self.offset, record) && self.file.length()? <= self.offset + TAIL_MAX)
    }
}

/// The checksum of the other files of a job's folder: the same as a record's.
pub fn checksum_of(content: &[u8]) -> u32 {
    crc32c::crc32c(content)
}

/// Whether some sector's part of what stands there is all zeros, as where a file has grown and a power cut came before what it grew by.
fn has_hole(offset: u64, mut bytes: &[u8]) -> bool {
    let mut room = (SECTOR - offset % SECTOR) as usize;
    while !bytes.is_empty() {
        let (part, rest) = bytes.split_at(room.min(bytes.len()));
        if part.iter().all(|byte| *byte == 0) {
            return true;
        }
        (bytes, room) = (rest, SECTOR as usize);
    }
    false
}

/// Whether its first bytes are not there, or were never written; whoever appends to it writes them then.
///
/// # Errors
/// The file.
pub fn is_new<F: SpoolFile>(file: &F) -> io::Result<bool> {
    let (mut file, mut first) = (file.again()?, [0; 8]);
    let length = file.length()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(length < 8 || length == 8 && fill(&mut file, &mut first)? && first == [0; 8])
}

/// Over the length as well: a flipped bit there must not make a reader wait for bytes that never come.
fn checksum(length: [u8; 4], rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), rest)
}

/// Fills the buffer; `false` where the file ends first.
fn fill<F: Read>(file: &mut F, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(contents: &[&[u8]]) -> Vec<u8> {
        let file = tempfile::tempfile().expect("a file");
        let (mut writer, _) = Writer::open(file.try_clone().expect("clones")).expect("opens");
        for content in contents {
            writer.append(content).expect("appends");
        }
        let mut bytes = Vec::new();
        let mut file = file;
        file.seek(SeekFrom::Start(0)).expect("seeks");
        file.read_to_end(&mut bytes).expect("reads");
        bytes
    }
    fn of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("writes");
        file
    }
    fn all(file: File) -> Result<Vec<Record>, SpoolError> {
        let mut reader = Reader::new(file)?;
        let mut records = Vec::new();
        while let Some(record) = reader.read()? {
            records.push(record);
        }
        Ok(records)
    }

    #[test]
    fn a_spool_cut_anywhere_gives_its_whole_records_and_can_be_continued() {
        let contents: &[&[u8]] = &[b"one", b"", b"three is longer"];
        let bytes = spool(contents);
        for cut in 0..=bytes.len() {
            let file = of(&bytes[..cut]);
            let (mut writer, torn) = Writer::open(file.try_clone().expect("clones")).expect("opens");
            let whole = writer.next_sequence() - 1;
            let last = writer.append(b"after").expect("appends");
            assert_eq!(last, whole + 1);
            let records = all(file).expect("reads");
            assert_eq!(records.len() as u64, whole + 1, "cut at {cut}, torn {torn}");
            for (record, content) in records.iter().zip(contents).take(whole as usize) {
                assert_eq!(&record.content, content);
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let bytes = spool(&[b"one", b"two"]);
        let good = all(of(&bytes)).expect("reads");
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match all(of(&bad)) {
                Err(SpoolError::Damaged { .. } | SpoolError::Version(_)) => {}
                // a length that grew looks like a tail still being written: what comes before it is whole
                Ok(records) => assert!(records.len() < good.len() && good.starts_with(&records), "bit {bit}"),
                Err(e) => panic!("bit {bit}: {e}"),
            }
        }
    }

    #[test]
    fn both_sides_of_the_limit() {
        let (mut writer, _) = Writer::open(tempfile::tempfile().expect("a file")).expect("opens");
        assert!(writer.append(&vec![0; EVENT_MAX]).is_ok());
        assert!(matches!(writer.append(&vec![0; EVENT_MAX + 1]), Err(SpoolError::TooLong(_))));
    }

    #[test]
    fn another_version_is_refused_by_name() {
        for (bytes, code) in [
            (&b"RNSPOOL2abc"[..], Code::UnsupportedVersion),
            (b"RNSPOOL0", Code::UnsupportedVersion),
            (b"RNSPOOX1", Code::SpoolDamaged),
            (b"RNSPOOL", Code::SpoolDamaged),
        ] {
            let refused = Reader::new(of(bytes)).map_err(|e| e.code());
            assert_eq!(refused.map(drop), Err(code), "{bytes:?}");
            let opened = Writer::open(of(bytes)).map_err(|e| e.code()).map(drop);
            assert_eq!(opened, if bytes.len() < 8 { Ok(()) } else { Err(code) }, "{bytes:?}");
        }
    }

    /// Each set of sectors that a power cut may have left unwritten where the file has grown already.
    #[test]
    fn sectors_that_were_never_written_are_a_torn_tail() {
        let contents: Vec<Vec<u8>> = (1..=9_u8).map(|n| vec![n; 40 * usize::from(n)]).collect();
        let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        let bytes = spool(&contents);
        let sectors = bytes.len().div_ceil(512);
        assert_eq!(sectors, 4);
        // the first one was on disk with the first bytes
        for lost in 1_u32..1 << (sectors - 1) {
            let mut cut = bytes.clone();
            for (n, sector) in cut.chunks_mut(512).enumerate().skip(1) {
                if lost & 1 << (n - 1) != 0 {
                    sector.fill(0);
                }
            }
            let file = of(&cut);
            let (mut writer, torn) = Writer::open(file.try_clone().expect("clones")).expect("opens");
            assert!(torn > 0, "lost {lost:b}");
            writer.append(b"after").expect("appends");
            let records = all(file).expect("reads");
            let (last, before) = records.split_last().expect("a record");
            assert_eq!(last.content, b"after");
            assert!(before.iter().zip(&contents).all(|(record, content)| record.content == *content));
        }
        // both sides of how much there may be behind a hole
        for (beyond, torn) in [(TAIL_MAX, true), (TAIL_MAX + 1, false)] {
            let file = of(&bytes);
            file.set_len(bytes.len() as u64 + beyond).expect("grows");
            assert_eq!(all(file).is_ok_and(|records| records.len() == contents.len()), torn, "{beyond}");
        }
        let (mut writer, torn) = Writer::open(of(&[0; 8])).expect("opens");
        assert_eq!((torn, writer.append(b"x").expect("appends")), (8, 1));
    }

    /// A disk that is full after some bytes, and may refuse to be cut or synced.
    #[derive(Debug, Clone)]
    struct Full {
        inner: std::rc::Rc<std::cell::RefCell<io::Cursor<Vec<u8>>>>,
        room: std::rc::Rc<std::cell::Cell<usize>>,
        broken: std::rc::Rc<std::cell::Cell<bool>>,
    }
    impl Full {
        fn check(&self) -> io::Result<()> {
            if self.broken.get() { Err(io::Error::other("the disk is broken")) } else { Ok(()) }
        }
    }
    impl Read for Full {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.inner.borrow_mut().read(buffer)
        }
    }
    impl Seek for Full {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.inner.borrow_mut().seek(to)
        }
    }
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room.get());
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room.set(self.room.get() - taken);
            self.inner.borrow_mut().write(&bytes[..taken])
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl SpoolFile for Full {
        fn again(&self) -> io::Result<Self> {
            Ok(self.clone())
        }
        fn length(&self) -> io::Result<u64> {
            Ok(self.inner.borrow().get_ref().len() as u64)
        }
        fn cut(&self, length: u64) -> io::Result<()> {
            self.check()?;
            self.inner.borrow_mut().get_mut().truncate(length as usize);
            Ok(())
        }
        fn sync(&self) -> io::Result<()> {
            self.check()
        }
    }

    #[test]
    fn what_did_not_fit_is_cut_off_now_or_later() {
        for broken in [false, true] {
            let full = Full {
                inner: std::rc::Rc::default(),
                room: std::rc::Rc::new(8.into()),
                broken: std::rc::Rc::new(false.into()),
            };
            let (mut writer, _) = Writer::open(full.clone()).expect("opens");
            for room in 0..RECORD_HEADER + 10 {
                full.room.set(room);
                full.broken.set(broken);
                let before = writer.end();
                assert_eq!(writer.append(&[7; 10]).map_err(|e| e.code()), Err(Code::DiskFull), "room {room}");
                assert_eq!(writer.end(), before);
                full.room.set(1000);
                if broken && room > 0 {
                    assert_eq!(writer.append(b"x").map_err(|e| e.code()), Err(Code::StateUnusable), "room {room}");
                }
                full.broken.set(false);
                let sequence = writer.append(b"x").expect("appends");
                let mut reader = Reader::new(full.clone()).expect("a spool");
                let mut last = 0;
                while let Some(record) = reader.read().expect("reads") {
                    (last, _) = (record.sequence, assert_eq!(record.content, b"x"));
                }
                assert_eq!((last, reader.offset()), (sequence, full.length().expect("a length")));
            }
        }
    }
}
