//! The clocks of a program, set by a test while it runs: steps of the wall clock, and suspensions of the machine as far as clocks tell them.

use crate::control_plane::shown;
use crate::scratch::Scratch;
use crate::tools;
use anyhow::{Context as _, Result};
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// A year, milliseconds.
pub const YEAR_MS: i64 = 365 * 24 * 60 * 60 * 1000;

/// Clocks that are set.
pub struct Clock {
    file: File,
    library: String,
    folder: Scratch,
}

impl Clock {
    /// Clocks that are right.
    ///
    /// # Errors
    /// The library that makes it seem so is not built.
    pub fn new() -> Result<Self> {
        let folder = Scratch::new("clock")?;
        let path = folder.write("clock", [0; 16])?;
        let file = File::options().write(true).open(path).context("the clock's file")?;
        Ok(Self { file, library: shown(&tools::binary("examples/libclock.so")?), folder })
    }
    /// What a program is started with to go by them.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.library.clone()), ("RUNNER_TEST_CLOCK", shown(&self.folder.join("clock")))]
    }
    /// Steps the wall clock to so many milliseconds from the right time.
    ///
    /// # Errors
    /// The file system's.
    pub fn wall(&self, ms: i64) -> Result<()> {
        Ok(self.file.write_all_at(&ms.to_ne_bytes(), 0)?)
    }
    /// Has the machine have been suspended for so many milliseconds since it started.
    ///
    /// # Errors
    /// The file system's.
    pub fn suspended(&self, ms: i64) -> Result<()> {
        Ok(self.file.write_all_at(&ms.to_ne_bytes(), 8)?)
    }
}
