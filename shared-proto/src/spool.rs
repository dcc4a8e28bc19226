//! The records of a job's spool: numbered, with length and checksum, so that a torn tail is found and cut off, and a flipped
//! bit is found and named.
//!
//! ```text
//! file    "RNSPOOL1"  record*
//! record  length u32 LE │ CRC-32C u32 LE of the rest │ sequence u64 LE │ content (an encoded Event)
//! ```
//! This module must never believe a length before its checksum fits, and never map the file: its writer may be hostile.

use crate::bounds::EVENT_MAX;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// The first bytes of a spool's events file: its format and version.
pub const MAGIC: &[u8; 8] = b"RNSPOOL1";
/// Bytes of a record before its content.
pub const RECORD_HEADER: usize = 16;

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
    /// It does not start with [`MAGIC`]: no spool, or of another version.
    #[error("the file is not a spool of version 1")]
    Version,
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

/// Appends records.
#[derive(Debug)]
pub struct Writer {
    file: File,
    next: u64,
}

/// Reads records from wherever it is in the file; may be asked again when the file has grown.
#[derive(Debug)]
pub struct Reader {
    file: File,
    offset: u64,
    last: u64,
}

// === impl Writer ===

impl Writer {
    /// Opens a spool for appending: reads what is there, cuts off a torn tail and goes on after the last good record.
    /// The second value is how many bytes were cut off.
    ///
    /// # Errors
    /// A damaged record that is not the tail; another version; the file.
    pub fn open(mut file: File) -> Result<(Self, u64), SpoolError> {
        let length = file.metadata()?.len();
        if length < MAGIC.len() as u64 {
            // new, or torn in its very first write
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(MAGIC)?;
            file.sync_data()?;
            return Ok((Self { file, next: 1 }, length));
        }
        let mut reader = Reader::new(file.try_clone()?)?;
        while reader.read()?.is_some() {}
        let (end, last) = (reader.offset, reader.last);
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        Ok((Self { file, next: last + 1 }, length - end))
    }

    /// The number that the next record will have.
    pub const fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Appends a record in one write and returns its number. It is on disk after [`Writer::sync`].
    ///
    /// # Errors
    /// Content above [`EVENT_MAX`]; the file. After a failed write the torn tail is cut off again, so that a later append is whole.
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
        let start = self.file.stream_position()?;
        if let Err(e) = self.file.write_all(&record) {
            let _ = self.file.set_len(start);
            let _ = self.file.seek(SeekFrom::Start(start));
            return Err(e.into());
        }
        self.next += 1;
        Ok(sequence)
    }

    /// Waits until what was appended is on disk.
    ///
    /// # Errors
    /// The file.
    pub fn sync(&self) -> Result<(), SpoolError> {
        Ok(self.file.sync_data()?)
    }
}

// === impl Reader ===

impl Reader {
    /// Reads from the file's first record on.
    ///
    /// # Errors
    /// Another version; the file.
    pub fn new(mut file: File) -> Result<Self, SpoolError> {
        let mut magic = [0; 8];
        file.seek(SeekFrom::Start(0))?;
        match file.read_exact(&mut magic) {
            Ok(()) if &magic == MAGIC => Ok(Self { file, offset: MAGIC.len() as u64, last: 0 }),
            Ok(()) => Err(SpoolError::Version),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(SpoolError::Version),
            Err(e) => Err(e.into()),
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

    /// The next record; `None` where the file ends, be it within a record that is still being written or was torn.
    ///
    /// # Errors
    /// A record that is whole and wrong; the file.
    pub fn read(&mut self) -> Result<Option<Record>, SpoolError> {
        let damaged = |what| SpoolError::Damaged { after: self.last, offset: self.offset, what };
        let mut header = [0; RECORD_HEADER];
        self.file.seek(SeekFrom::Start(self.offset))?;
        if !fill(&mut self.file, &mut header)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if length > EVENT_MAX {
            return Err(damaged("its length exceeds the limit"));
        }
        let mut rest = vec![0; 8 + length];
        rest[..8].copy_from_slice(&header[8..]);
        if !fill(&mut self.file, &mut rest[8..])? {
            return Ok(None);
        }
        let expected = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        if checksum([header[0], header[1], header[2], header[3]], &rest) != expected {
            return Err(damaged("its checksum does not fit"));
        }
        let sequence = u64::from_le_bytes(rest[..8].try_into().unwrap_or_default());
        if sequence != self.last + 1 {
            return Err(damaged("its number is not the next one"));
        }
        self.last = sequence;
        self.offset += (RECORD_HEADER + length) as u64;
        Ok(Some(Record { sequence, content: rest.split_off(8) }))
    }
}

/// Over the length as well: a flipped bit there must not make a reader wait for bytes that never come.
fn checksum(length: [u8; 4], rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), rest)
}

/// Fills the buffer; `false` where the file ends first.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<bool> {
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
                Err(SpoolError::Damaged { .. } | SpoolError::Version) => {}
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
        assert!(matches!(Reader::new(of(b"RNSPOOL2abc")), Err(SpoolError::Version)));
    }
}
