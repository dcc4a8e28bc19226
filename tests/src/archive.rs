//! Archives of sources, good ones and ones made to escape.

use anyhow::Result;
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// One entry, with a path that is not judged.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As it stands in the archive.
    pub path: String,
    /// What it is.
    pub kind: EntryType,
    /// Its content, or for a link nothing.
    pub content: Vec<u8>,
    /// A link's target.
    pub target: String,
    /// Its mode.
    pub mode: u32,
}

impl Entry {
    /// A file.
    pub fn file(path: &str, content: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            kind: EntryType::Regular,
            content: content.into(),
            target: String::new(),
            mode: 0o644,
        }
    }
    /// A link of some kind.
    pub fn link(kind: EntryType, path: &str, target: &str) -> Self {
        Self { path: path.into(), kind, content: Vec::new(), target: target.into(), mode: 0o777 }
    }
    /// Something without content.
    pub fn special(kind: EntryType, path: &str) -> Self {
        Self { path: path.into(), kind, content: Vec::new(), target: String::new(), mode: 0o644 }
    }
}

/// Packs entries as they are.
///
/// # Errors
/// None that depends on the entries.
pub fn pack(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for entry in entries {
        let mut header = Header::new_gnu();
        // the library's own setters refuse what these tests are about
        let name = entry.path.as_bytes();
        let field = &mut header.as_old_mut().name;
        let length = name.len().min(field.len());
        field[..length].copy_from_slice(&name[..length]);
        let target = entry.target.as_bytes();
        let field = &mut header.as_old_mut().linkname;
        let length = target.len().min(field.len());
        field[..length].copy_from_slice(&target[..length]);
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_size(entry.content.len() as u64);
        if matches!(entry.kind, EntryType::Block | EntryType::Char) {
            header.set_device_major(1)?;
            header.set_device_minor(3)?;
        }
        header.set_cksum();
        builder.append(&header, entry.content.as_slice())?;
    }
    Ok(builder.into_inner()?.finish()?)
}

/// Packs a root module of one file.
///
/// # Errors
/// None that depends on it.
pub fn module(main_tf: &str) -> Result<Vec<u8>> {
    pack(&[Entry::file("main.tf", main_tf)])
}

/// A digest as the API wants it.
pub fn sha256(bytes: &[u8]) -> String {
    shared_proto::hex::encode(Sha256::digest(bytes))
}
