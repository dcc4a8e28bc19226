//! Has a program executed in a narrower domain than its parent's, or with one more descriptor, by whoever starts it with the standard library.

#![allow(clippy::disallowed_methods)] // between fork and execution these closures make one system call each, and nothing that waits for a lock

use crate::landlock::Ruleset;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The program enters that domain before it is executed. Needs no_new_privs, which every worker has.
pub fn enter(command: &mut Command, domain: Ruleset) {
    let enter = move || {
        // SAFETY: the call takes integers; the descriptor lives as long as the command.
        let entered = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, domain.as_fd().as_raw_fd(), 0) };
        if entered < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and execution it makes one system call, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(enter) };
}

/// The program finds that descriptor at that number, which is beyond those that the standard library uses meanwhile: at least 100.
pub fn give(command: &mut Command, descriptor: OwnedFd, number: RawFd) {
    let number = number.max(100);
    let give = move || {
        // SAFETY: the call takes integers; the descriptor lives as long as the command. The copy is not closed by the execution.
        let given = unsafe { libc::dup2(descriptor.as_raw_fd(), number) };
        if given < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(give) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::landlock::{Access, Scope, abi};

    #[test]
    fn it_writes_where_it_may_and_reads_as_before() {
        let scope = Scope { no_tcp: false, own_signals_and_sockets: true };
        let Ok(domain) = Ruleset::of_writing(scope) else { return assert_eq!(abi(), 0) };
        let folder = std::env::temp_dir().join(format!("runner-nested-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("own")).expect("makes");
        std::fs::write(folder.join("spool"), "kept").expect("writes");
        domain.allow_path(&folder.join("own"), Access::Write).expect("a rule");
        domain.allow_path("/dev/null".as_ref(), Access::Use).expect("a rule");
        let mut command = Command::new("sh");
        // as workers are
        let script = "cat spool; echo x >own/x && echo wrote; echo y >>spool; rm spool; mv own/x spool; echo z >new; kill -0 $PPID";
        command.args(["-c", script]).current_dir(&folder);
        nix::sys::prctl::set_no_new_privs().expect("sets");
        enter(&mut command, domain);
        let output = command.output().expect("runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "keptwrote\n", "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::read_to_string(folder.join("spool")).expect("is there"), "kept");
        assert!(!folder.join("new").exists());
        // a signal out of the domain, where the kernel knows that
        assert_eq!(output.status.success(), abi() < 6);
        std::fs::remove_dir_all(&folder).expect("removes");
    }
}
