//! What a process says to the kernel about itself.

use std::io;

/// Makes this process not dumpable: no other process of its uid may read its memory or environment, or trace it. Lost at execve.
///
/// # Errors
/// The system's.
pub fn forbid_dumps() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Whether this process may be dumped and traced.
///
/// # Errors
/// The system's.
pub fn dumpable() -> io::Result<bool> {
    Ok(nix::sys::prctl::get_dumpable()?)
}

/// Orphans below this process become its children, and it is told of their ends.
///
/// # Errors
/// The system's.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Sends this process's parent a signal that carries a number with it (`sigqueue(3)`): it reads that as the signal's `ssi_int`.
///
/// # Errors
/// EPERM; EAGAIN where too many signals wait for processes of this user.
pub fn signal_parent(signal: nix::sys::signal::Signal, number: i32) -> io::Result<()> {
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(number.cast_unsigned() as usize) };
    // SAFETY: takes integers; the value is not looked into, its receiver takes it for a number.
    let sent = unsafe { libc::sigqueue(libc::getppid(), signal as i32, value) };
    nix::errno::Errno::result(sent)?;
    Ok(())
}

/// Sees to it that a signal that ends a process ends this one, by that name.
///
/// Takes back Rust's handlers of SIGSEGV and SIGBUS: they let the first such signal from outside pass without effect. What is lost is the
/// runtime's word on a stack overflow; the signal stays. The first process of a pid namespace is ended by no signal without a handler but
/// SIGKILL: it gets one that exits with 128 and the signal's number.
///
/// # Errors
/// The system's.
pub fn end_by_signals() -> io::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    const ENDING: [Signal; 8] = [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGABRT,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ];
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: ends the process and nothing else; may be called in a handler.
        unsafe { libc::_exit(128 + signal) }
    }
    let (handler, signals) = if nix::unistd::getpid().as_raw() == 1 {
        (SigHandler::Handler(end), &ENDING[..])
    } else {
        (SigHandler::SigDfl, &ENDING[..2])
    };
    for signal in signals {
        let action = SigAction::new(handler, SaFlags::SA_ONSTACK, SigSet::empty());
        // SAFETY: the default action runs no code of ours; the handler makes one system call that is safe in a handler.
        unsafe { sigaction(*signal, &action)? };
    }
    Ok(())
}

/// Gives back the pages of program and libraries that only the start needed (relocation tables, other roles' code): they come back from the
/// page cache if they are touched again. For processes that stay small for ever. Where /proc does not tell, nothing is given back.
pub fn shed_start() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    let mut clean = None;
    let mut anonymous = None;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match first.strip_suffix(':') {
            // a new mapping; only what is never written and comes from a file
            None => {
                let path = words.nth(3).unwrap_or_default();
                clean = range(first).filter(|_| matches!(second, "r--p" | "r-xp") && path.starts_with('/'));
                anonymous = None;
            }
            // read-only now, but the loader wrote into it before: those pages exist nowhere else
            Some("Anonymous") => anonymous = Some(second != "0"),
            Some("Swap") if second == "0" && anonymous == Some(false) => {
                if let Some((start, length)) = clean.take() {
                    // SAFETY: a private mapping of a file without a page of its own: what is dropped is read again from the file.
                    unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
                }
            }
            Some(_) => {}
        }
    }
}

fn range(text: &str) -> Option<(usize, usize)> {
    let (start, end) = text.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_that_gave_pages_back_still_works() {
        super::shed_start();
        assert_eq!(format!("{:?}", "still here".chars().rev().collect::<String>()), "\"ereh llits\"");
    }
}
