//! What is asked of an engine while it does something else: it reads a saved plan only, is told of in no event, and nobody takes it over.

use super::dialect::Command;
use super::{Common, Engine};
use crate::cancel::Watcher;
use crate::process;
use crate::stop::{Exit, Stop};
use shared_proto::plan;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What is read of what it says is wrong, bytes.
const SAID_MAX: u64 = 64 * 1024;

/// An engine, for one question.
#[derive(Debug)]
pub(crate) struct Beside {
    common: Common,
    cancel: Watcher,
}

impl Engine {
    /// The same engine once more.
    pub(crate) fn beside(&self) -> Beside {
        Beside { common: self.common.clone(), cancel: self.cancel.clone() }
    }
    /// Its name and version.
    pub(crate) fn called(&self) -> plan::Engine {
        plan::Engine { name: self.common.dialect.name().to_owned(), version: self.common.version.clone() }
    }
}

// === impl Beside ===

impl Beside {
    /// A saved plan as a document: as it was kept, or as the engine says it (`show -json`), whose file is gone once it is closed.
    ///
    /// # Errors
    /// Why it is not there, in words.
    pub(crate) async fn document(mut self, plan: &Path) -> Result<File, String> {
        if let Some(kept) = self.common.dialect.document(plan) {
            return opened(&kept).map_err(|e| e.to_string());
        }
        let command = Command::ShowDocument(plan);
        // what is sensitive is in its output as it is
        let (out, err) = process::scratch(&self.common.work.join("tmp"), command.name());
        let forget = || [&out, &err].map(std::fs::remove_file);
        // of a worker before this one
        let _ = forget();
        // a provider may write where it does for the others
        let writes = self.common.writes();
        let program = self.common.program(&command, (&out, &err), writes.iter().map(PathBuf::as_path).collect());
        let ended = process::run_beside(program, &mut self.cancel).await;
        let (file, said) = (opened(&out), first_error(&err));
        let _ = forget();
        match ended {
            Ok(Exit::Code(0)) => file.map_err(|e| e.to_string()),
            Ok(exit) => Err(format!("show -json ended with {}{said}", exit.describe())),
            Err(Stop::Failed(failure, _) | Stop::Locked(failure, ..)) => Err(failure.message),
            Err(Stop::Canceled { .. }) => Err("it was cancelled".to_owned()),
            // this is none
            Err(Stop::Hook(stopped)) => Err(stopped.failure.message),
        }
    }
}

/// What the engine may write where it stands is believed as far as it is a file.
fn opened(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Its first error, in its own words.
fn first_error(err: &Path) -> String {
    let mut said = Vec::new();
    let _ = opened(err).and_then(|file| file.take(SAID_MAX).read_to_end(&mut said));
    let said = String::from_utf8_lossy(&said);
    let words = said.lines().map(|line| line.trim_start_matches(['│', '╷', ' ']));
    let first = words.into_iter().find(|line| line.starts_with("Error: "));
    first.map(|first| format!(": {}", first.chars().take(500).collect::<String>())).unwrap_or_default()
}
