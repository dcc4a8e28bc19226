//! Executes a program in a new process, with nothing of this process in it but what the plan names.
//!
//! `clone(CLONE_VM | CLONE_VFORK)` on a stack of its own: the child shares this process's memory and this process stands still until the
//! child has executed or given up. So whatever the child needs is prepared before, and in between it only makes system calls: no
//! allocation, no lock, no Rust code that could unwind. Call it from single-threaded processes only: with other threads running,
//! descriptors and signal dispositions could change under the child, and PR_SET_PDEATHSIG would follow a thread.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

/// The child's stack, bytes, and the guard page below it.
const STACK: usize = 64 * 1024;
const GUARD: usize = 4096;
/// The most descriptors that a child is given beside the standard ones.
pub const INHERIT_MAX: usize = 4;
/// The first of them in the child.
pub const FIRST: RawFd = 3;
/// The kernel's signals.
const SIGNALS: c_int = 64;
/// What is made of the child's exit before it has executed anything; never seen, because the failure is reported.
const GAVE_UP: c_int = 127;

/// What to execute, and with what.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Absolute path of the program.
    pub program: &'a CStr,
    /// Its arguments, the program's name first.
    pub arguments: &'a [&'a CStr],
    /// Its whole environment.
    pub environment: &'a [&'a CStr],
    /// The descriptors that it is given, from 3 on, in this order. Everything else but standard error is closed.
    pub inherit: &'a [BorrowedFd<'a>],
    /// Its working directory; else this process's.
    pub directory: Option<BorrowedFd<'a>>,
    /// Whether standard input and output are /dev/null; else they are this process's.
    pub silent: bool,
    /// Whether it leads a session of its own.
    pub own_session: bool,
    /// Whether it is killed when this process ends.
    pub dies_with_parent: bool,
    /// Limits, and no way to new privileges; else this process's.
    pub limits: Option<Limits>,
}

/// Limits of a confined process. It can never gain privileges by executing a program.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Descriptors.
    pub descriptors: u64,
    /// The largest file that it may write, bytes.
    pub file_size: u64,
    /// How far it stands back behind this process for the processor: 0 to 19, as nice(1) counts.
    pub niceness: i32,
}

/// Why there is no child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {errno}")]
pub struct SpawnError {
    /// The step that failed.
    pub step: &'static str,
    /// Its reason.
    pub errno: Errno,
}

/// Makes children; holds what does not change from one to the next.
#[derive(Debug)]
pub struct Spawner {
    null: File,
    stack: *mut c_void,
}

/// All that the child looks at. Lives in the parent's memory, which the child shares until it executes.
struct Prepared {
    program: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    inherit: [RawFd; INHERIT_MAX],
    inherited: usize,
    null: RawFd,
    directory: RawFd,
    silent: bool,
    own_session: bool,
    dies_with_parent: bool,
    limits: Option<Limits>,
    parent: libc::pid_t,
    empty_mask: libc::sigset_t,
    failed_step: *const &'static str,
    failed_errno: c_int,
}

// === impl Spawner ===

impl Spawner {
    /// Maps the child's stack and opens /dev/null.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let stack = unsafe {
            libc::mmap(std::ptr::null_mut(), STACK + GUARD, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if stack == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the lowest page of the mapping that was just made; nothing uses it.
        unsafe { libc::mprotect(stack, GUARD, libc::PROT_NONE) };
        Ok(Self { null, stack })
    }

    /// Executes the plan and returns the child's process id. It is a child of this process: to be reaped here.
    ///
    /// # Errors
    /// The step that failed, and its reason; there is no child then.
    pub fn spawn(&mut self, plan: &Plan<'_>) -> Result<i32, SpawnError> {
        if plan.inherit.len() > INHERIT_MAX {
            return Err(SpawnError { step: "descriptors", errno: Errno::E2BIG });
        }
        let pointers = |texts: &[&CStr]| -> Vec<*const c_char> {
            texts.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (arguments, environment) = (pointers(plan.arguments), pointers(plan.environment));
        let mut inherit = [-1; INHERIT_MAX];
        for (place, descriptor) in inherit.iter_mut().zip(plan.inherit) {
            *place = descriptor.as_raw_fd();
        }
        let mut prepared = Prepared {
            program: plan.program.as_ptr(),
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            inherit,
            inherited: plan.inherit.len(),
            null: self.null.as_raw_fd(),
            directory: plan.directory.map_or(-1, |d| d.as_raw_fd()),
            silent: plan.silent,
            own_session: plan.own_session,
            dies_with_parent: plan.dies_with_parent,
            limits: plan.limits,
            parent: nix::unistd::getpid().as_raw(),
            empty_mask: *SigSet::empty().as_ref(),
            failed_step: std::ptr::null(),
            failed_errno: 0,
        };
        // no handler of ours may run in the child: it shares our memory
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before))
            .map_err(|errno| SpawnError { step: "sigprocmask", errno })?;
        // SAFETY: the stack is ours, exclusively (`&mut self`), and its top is aligned to a page; the child has left it, by execve or
        // _exit, when clone returns (CLONE_VFORK). `prepared` and all it points at outlive that moment, being on our own stack.
        let pid = unsafe {
            libc::clone(
                child,
                self.stack.byte_add(STACK + GUARD),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                (&raw mut prepared).cast(),
            )
        };
        let errno = Errno::last();
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        if pid < 0 {
            return Err(SpawnError { step: "clone", errno });
        }
        // SAFETY: written by the child, which has stopped; volatile because the compiler cannot know that somebody else wrote them.
        let (step, errno) = unsafe {
            (
                std::ptr::read_volatile(&raw const prepared.failed_step),
                std::ptr::read_volatile(&raw const prepared.failed_errno),
            )
        };
        if step.is_null() {
            return Ok(pid);
        }
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        // SAFETY: the child stored a pointer to a static there.
        Err(SpawnError { step: unsafe { *step }, errno: Errno::from_raw(errno) })
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with that length; no child runs on it outside `spawn`.
        let _ = unsafe { libc::munmap(self.stack, STACK + GUARD) };
    }
}

/// What the child does between clone and execve. Only system calls.
extern "C" fn child(prepared: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its `Prepared` and stands still meanwhile; nobody else touches it.
    let prepared = unsafe { &mut *prepared.cast::<Prepared>() };
    // SAFETY: as `steps` demands, this is the child of that `Prepared`.
    if let Err(step) = unsafe { steps(prepared) } {
        prepared.failed_errno = Errno::last_raw();
        prepared.failed_step = step;
    }
    // SAFETY: ends this process only, without running anything of the parent's.
    unsafe { libc::_exit(GAVE_UP) }
}

/// Fails with the step's name where the call did not succeed.
fn done(result: impl Into<i64>, step: &'static &'static str) -> Result<(), &'static &'static str> {
    if result.into() < 0 { Err(step) } else { Ok(()) }
}

/// The steps, one system call each. Comes back only when one has failed.
///
/// # Safety
/// In the child only, with pointers in `p` that are still good: it changes this process for good.
unsafe fn steps(p: &Prepared) -> Result<(), &'static &'static str> {
    // SAFETY: plain system calls on integers and on the prepared, null-terminated arrays; none allocates or takes a lock.
    unsafe {
        // 1. a session of its own: no terminal's signals, and one name for all that it starts
        if p.own_session {
            done(libc::setsid(), &"setsid")?;
        }
        // 2. it dies with us; and if we died before that was said, it ends here
        if p.dies_with_parent {
            done(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0), &"PR_SET_PDEATHSIG")?;
            if libc::getppid() != p.parent {
                libc::_exit(GAVE_UP);
            }
        }
        // 3. limits, and no way to more privileges (before anything is executed)
        if let Some(limits) = &p.limits {
            done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), &"PR_SET_NO_NEW_PRIVS")?;
            limit(libc::RLIMIT_CORE, 0)?;
            limit(libc::RLIMIT_NOFILE, limits.descriptors)?;
            limit(libc::RLIMIT_FSIZE, limits.file_size)?;
            done(libc::setpriority(libc::PRIO_PROCESS, 0, limits.niceness), &"setpriority")?;
            libc::umask(0o077);
        }
        // 4. the working directory, while its descriptor is open
        if p.directory >= 0 {
            done(libc::fchdir(p.directory), &"fchdir")?;
        }
        // 5. descriptors: first out of the way of the places that they are to have, then into them
        if p.silent {
            done(libc::dup2(p.null, 0), &"standard input")?;
            done(libc::dup2(p.null, 1), &"standard output")?;
        }
        let mut moved = [-1; INHERIT_MAX];
        let above = FIRST + INHERIT_MAX as RawFd;
        for (place, descriptor) in moved.iter_mut().zip(&p.inherit[..p.inherited]) {
            *place = libc::fcntl(*descriptor, libc::F_DUPFD_CLOEXEC, above);
            done(*place, &"fcntl")?;
        }
        let mut next = FIRST;
        for descriptor in &moved[..p.inherited] {
            done(libc::dup2(*descriptor, next), &"dup2")?;
            next += 1;
        }
        done(libc::syscall(libc::SYS_close_range, next as libc::c_uint, libc::c_uint::MAX, 0), &"close_range")?;
        // 6. signals as a new program expects them; the mask last, so that a handler of ours never runs here
        // straight to the kernel: libc keeps two real-time signals to itself, and a parent may have ignored even those. All
        // zeros is the default action in the kernel's own layout (handler, flags, restorer, mask)
        let default = [0_u64; 4];
        for signal in 1..=SIGNALS {
            // SIGKILL and SIGSTOP refuse, as they should
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            );
        }
        done(libc::sigprocmask(libc::SIG_SETMASK, &raw const p.empty_mask, std::ptr::null_mut()), &"sigprocmask")?;
        // 7. the program
        libc::execve(p.program, p.arguments, p.environment);
    }
    Err(&"execve")
}

/// Sets both limits, and no higher than the hard one allows: a lower one of the system's is as good.
///
/// # Safety
/// As [`steps`].
unsafe fn limit(resource: libc::__rlimit_resource_t, value: u64) -> Result<(), &'static &'static str> {
    let mut present = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads into and from a local of the right type.
    unsafe {
        done(libc::getrlimit(resource, &raw mut present), &"getrlimit")?;
        let value = value.min(present.rlim_max);
        done(libc::setrlimit(resource, &libc::rlimit { rlim_cur: value, rlim_max: value }), &"setrlimit")
    }
}

#[cfg(test)]
mod tests;
