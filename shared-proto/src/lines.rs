//! Bytes that come in pieces, cut into lines. Never more than a line of the longest length is held.

/// Cuts bytes into lines. One that is longer than the limit comes in pieces of that length, of which the last one has the line's end.
#[derive(Debug)]
pub struct Cutter {
    limit: usize,
    /// What has come of a line whose end has not.
    partial: Vec<u8>,
}

// === impl Cutter ===

impl Cutter {
    /// With that limit, bytes.
    pub const fn new(limit: usize) -> Self {
        Self { limit, partial: Vec::new() }
    }

    /// Gives out what is whole with these bytes.
    pub fn add(&mut self, bytes: &[u8], mut take: impl FnMut(Vec<u8>)) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let mut piece = piece;
            // at the same place however the bytes come
            while self.partial.len() + piece.len() > self.limit {
                let (now, later) = piece.split_at(self.limit - self.partial.len());
                self.partial.extend_from_slice(now);
                take(std::mem::take(&mut self.partial));
                piece = later;
            }
            self.partial.extend_from_slice(piece);
            if self.partial.ends_with(b"\n") {
                take(std::mem::take(&mut self.partial));
            }
        }
    }

    /// What is left of a last line without an end; nothing where there is none.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.partial)).filter(|rest| !rest.is_empty())
    }

    /// How much of a line is held, bytes.
    pub fn held(&self) -> usize {
        self.partial.len()
    }
}
