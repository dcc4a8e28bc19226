//! The terminal: raw mode for `exec -t`, put back on every way out (drop, panic, signal, exit), its size, and questions.
//! Nothing else may change the terminal's mode.

use nix::sys::termios::{self, SetArg, Termios};
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::sync::Mutex;

/// The mode to go back to, while it is changed. A process has one controlling terminal, hence one static; it is held for the
/// length of two system calls, never across an await.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode while it lives.
#[derive(Debug)]
pub(crate) struct Raw(());

// === impl Raw ===

impl Raw {
    /// Makes standard input's terminal raw.
    pub(crate) fn enter() -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        // kept before it is changed: a signal in between restores what is there already
        if let Ok(mut slot) = BEFORE.lock() {
            *slot = Some(before);
        }
        termios::tcsetattr(&stdin, SetArg::TCSADRAIN, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back if it was changed; harmless otherwise.
pub(crate) fn restore() {
    let before = match BEFORE.lock() {
        Ok(mut slot) => slot.take(),
        Err(poisoned) => poisoned.into_inner().take(),
    };
    if let Some(before) = before {
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &before);
    }
}

/// Lets a panic's message appear on a terminal that was put back. Where nobody reads standard error any more (`2>&1 | head`), or it is full, there is
/// nobody to tell anything: the standard library panics over that, which ends this program as output that cannot be written does.
pub(crate) fn restore_on_panic() {
    let inner = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        if info.payload_as_str().is_some_and(|what| what.starts_with("failed printing to std")) {
            std::process::exit(crate::stop::SOFTWARE);
        }
        inner(info);
    }));
}

/// Columns and rows of the terminal, if there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    use terminal_size::{Height, Width, terminal_size_of};
    terminal_size_of(std::io::stdout())
        .or_else(|| terminal_size_of(std::io::stdin()))
        .map(|(Width(columns), Height(rows))| (columns, rows))
}

/// Whether there is somebody to ask.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks on standard error, reads a line of standard input (at most 4 KiB). Blocking: call it on a thread of its own.
pub(crate) fn ask(question: &str) -> std::io::Result<String> {
    let mut stderr = std::io::stderr();
    write!(stderr, "{question} ")?;
    stderr.flush()?;
    let mut line = String::new();
    std::io::Read::take(std::io::stdin().lock(), 4096).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Reads a secret: from a terminal without showing it, otherwise all of standard input (at most 64 KiB).
pub(crate) fn ask_secret(question: &str) -> std::io::Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(stdin.lock(), 64 * 1024), &mut text)?;
        return Ok(text.trim().to_owned());
    }
    let before = termios::tcgetattr(&stdin)?;
    let mut quiet = before.clone();
    quiet.local_flags.remove(termios::LocalFlags::ECHO);
    if let Ok(mut slot) = BEFORE.lock() {
        *slot = Some(before);
    }
    termios::tcsetattr(&stdin, SetArg::TCSADRAIN, &quiet)?;
    let guard = Raw(());
    let answer = ask(question);
    drop(guard);
    eprintln!();
    answer
}
