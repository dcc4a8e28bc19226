//! Executes a program in a new process, with nothing of this process in it but what the plan names.
//!
//! `clone(CLONE_VM | CLONE_VFORK)` on a stack of its own: the child shares this process's memory and this process stands still until the
//! child has executed or given up. So whatever the child needs is prepared before, and in between it only makes system calls: no
//! allocation, no lock, no Rust code that could unwind. Call it from single-threaded processes only: with other threads running,
//! descriptors and signal dispositions could change under the child, and PR_SET_PDEATHSIG would follow a thread.

use crate::confine::{Confinement, Limits, ROOT_OPTIONS, Root, RootStep, SCAFFOLD, User};
use crate::landlock;
use crate::mapped;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};

/// The child's stack, bytes, and the guard page below it.
const STACK: usize = 64 * 1024;
/// By how much the oom_score_adj of what is confined is above its parent's, and what it is at least.
const OOM_SCORE_MORE: i32 = 300;
const GUARD: usize = 4096;
/// The most descriptors that a child is given beside the standard ones.
pub const INHERIT_MAX: usize = 4;
/// The first of them in the child.
pub const FIRST: RawFd = 3;
/// The kernel's signals.
const SIGNALS: c_int = 64;
/// The kernel's `struct sigaction` (handler, flags, restorer, mask), all zeros: the default action. Straight to the kernel, because libc keeps
/// two real-time signals to itself, and a parent may have ignored even those.
const DEFAULT_ACTION: [u64; 4] = [0; 4];
/// Everything but user and network namespace, which are made or not.
const NAMESPACES: c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
const SECCOMP_SET_MODE_FILTER: libc::c_ulong = 1;
const SECCOMP_FILTER_FLAG_NEW_LISTENER: libc::c_ulong = 1 << 3;
const SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_ulong = 1;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const AT_RECURSIVE: libc::c_ulong = 0x8000;
/// What is made of the child's exit before it has executed anything; never seen, because the failure is reported.
const GAVE_UP: c_int = 127;

/// What is executed.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// The file of that absolute path.
    Path(&'a CStr),
    /// An open file, whatever stands under its name by now, or where the child has no names.
    File(BorrowedFd<'a>),
}

/// What to execute, and with what.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The program.
    pub program: Program<'a>,
    /// Its arguments, the program's name first.
    pub arguments: &'a [&'a CStr],
    /// Its whole environment.
    pub environment: &'a [&'a CStr],
    /// The descriptors that it is given, from 3 on, in this order. Everything else but standard error is closed.
    pub inherit: &'a [BorrowedFd<'a>],
    /// Its working directory; else this process's. A root of its own says itself where its process starts.
    pub directory: Option<BorrowedFd<'a>>,
    /// Whether standard input and output are /dev/null; else they are this process's.
    pub silent: bool,
    /// Whether it leads a session of its own.
    pub own_session: bool,
    /// Whether it is killed when this process ends.
    pub dies_with_parent: bool,
    /// What it is confined with; else it may what this process may.
    pub confine: Option<&'a Confinement<'a>>,
    /// A connected socket to this process, over which the child hands over what only it can make: see [`Handed`].
    pub handover: Option<BorrowedFd<'a>>,
}

/// Descriptors that a child hands over before it executes, in one message of one byte, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handed;

impl Handed {
    /// The byte, where all is there: a UDP socket on port 53 of the loopback of its own network namespace, then the listener of its filter.
    pub const STUB_AND_LISTENER: u8 = b'D';
    /// The byte, where it has no network namespace of its own: the listener of its filter alone.
    pub const LISTENER: u8 = b'L';
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
    /// This process's user and group, each as itself.
    maps: [CString; 2],
    /// What a child that is confined tells the kernel that looks for a process to kill.
    oom_score: CString,
    /// The signals that this process ignores, by their bits: only these are not what a new program expects.
    ignored: u64,
    /// Whether this process's bounding set is empty: so is that of a child in the same user namespace.
    bounded: bool,
    stack: *mut c_void,
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// All that the child looks at. Lives in the parent's memory, which the child shares until it executes.
struct Prepared<'a> {
    program: *const c_char,
    /// Instead of a path; -1: none.
    file: RawFd,
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
    /// Where it has a root of its own.
    root: Option<&'a Root>,
    /// What that root made itself and the domain is to have: paths, rights to folders, rights to files.
    made: &'a [(*const c_char, u64, u64)],
    /// Where it is a user with a name in a user namespace of its own: the maps of its user and its group.
    maps: Option<&'a [CString; 2]>,
    /// What it tells the kernel that looks for a process to kill.
    oom_score: &'a CStr,
    network: RawFd,
    standing: RawFd,
    /// Whether it has a loopback to bring up.
    loopback: bool,
    handover: RawFd,
    own: Option<(libc::uid_t, libc::gid_t)>,
    files_as: RawFd,
    /// Whether it has a bounding set to give up.
    bounds: bool,
    domain: RawFd,
    filter: *const libc::sock_fprog,
    parent: libc::pid_t,
    ignored: u64,
    empty_mask: libc::sigset_t,
    failed_step: *const &'static str,
    failed_errno: c_int,
}

// === impl Spawner ===

impl Spawner {
    /// Maps the child's stack, opens /dev/null, and looks at what children inherit of this process and must not: the signals that it ignores
    /// and its bounding set. These must be what they will be.
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
        let map = |id: u32| CString::new(format!("{id} {id} 1")).unwrap_or_default();
        let maps = [map(nix::unistd::geteuid().as_raw()), map(nix::unistd::getegid().as_raw())];
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|t| t.trim().parse::<i32>().ok());
        let oom_score = CString::new(oom_score_of_workers(own.unwrap_or(0)).to_string()).unwrap_or_default();
        Ok(Self { null, maps, oom_score, ignored: ignored(), bounded: is_bounded(), stack })
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
        let confine = plan.confine;
        let namespaces = confine.and_then(|c| c.namespaces);
        let filter = confine.and_then(|c| c.filter).map(|f| f.as_program());
        let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let root = namespaces.and_then(|n| n.root.as_ref());
        let standing = confine.and_then(|c| c.standing).filter(|_| root.is_some());
        if let Some(namespaces) = namespaces {
            flags |= if root.is_some() { NAMESPACES } else { 0 };
            // a copy of another one is had afterwards
            flags &= if standing.is_some() { !libc::CLONE_NEWNS } else { !0 };
            flags |= if namespaces.user == User::Shared { 0 } else { libc::CLONE_NEWUSER };
            flags |= if namespaces.network { libc::CLONE_NEWNET } else { 0 };
        }
        let made: Vec<_> = root
            .map_or(&[][..], |r| &r.made)
            .iter()
            .map(|(path, access)| (path.as_ptr(), landlock::rights(*access, true), landlock::rights(*access, false)))
            .collect();
        let mut prepared = Prepared {
            program: match plan.program {
                Program::Path(path) => path.as_ptr(),
                Program::File(_) => c"".as_ptr(),
            },
            file: match plan.program {
                Program::Path(_) => -1,
                Program::File(file) => file.as_raw_fd(),
            },
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            inherit,
            inherited: plan.inherit.len(),
            null: self.null.as_raw_fd(),
            directory: plan.directory.map_or(-1, |d| d.as_raw_fd()),
            silent: plan.silent,
            own_session: plan.own_session,
            dies_with_parent: plan.dies_with_parent,
            limits: confine.map(|c| c.limits),
            root,
            made: &made,
            maps: namespaces.filter(|n| n.user == User::Same).map(|_| &self.maps),
            oom_score: &self.oom_score,
            network: confine.and_then(|c| c.network).map_or(-1, |n| n.as_raw_fd()),
            standing: standing.map_or(-1, |n| n.as_raw_fd()),
            loopback: plan.handover.is_some() && namespaces.is_some_and(|n| n.network),
            handover: plan.handover.map_or(-1, |h| h.as_raw_fd()),
            own: confine.and_then(|c| c.own).map(|o| (o.uid, o.gid)),
            files_as: confine.and_then(|c| c.files_as).map_or(-1, |m| m.as_fd().as_raw_fd()),
            // in a new user namespace everything is to be had again
            bounds: !self.bounded || flags & libc::CLONE_NEWUSER != 0,
            domain: confine.and_then(|c| c.domain).map_or(-1, |d| d.as_fd().as_raw_fd()),
            filter: filter.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
            parent: nix::unistd::getpid().as_raw(),
            ignored: self.ignored,
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
        let pid = unsafe { libc::clone(child, self.stack.byte_add(STACK + GUARD), flags, (&raw mut prepared).cast()) };
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

/// When memory is short the kernel takes a worker before it takes whoever has this score: raising it takes no right.
const fn oom_score_of_workers(own: i32) -> i32 {
    let more = own + OOM_SCORE_MORE;
    if more < OOM_SCORE_MORE {
        OOM_SCORE_MORE
    } else if more > 1000 {
        1000
    } else {
        more
    }
}

/// What the child does between clone and execve. Only system calls.
extern "C" fn child(prepared: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its `Prepared` and stands still meanwhile; nobody else touches it.
    let prepared = unsafe { &mut *prepared.cast::<Prepared<'_>>() };
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
unsafe fn steps(p: &Prepared<'_>) -> Result<(), &'static &'static str> {
    // SAFETY: plain system calls on integers and on the prepared, null-terminated arrays; none allocates or takes a lock.
    unsafe {
        // 1. who it is in its own user namespace: itself, and nobody else
        if let Some([uid_map, gid_map]) = p.maps {
            tell(c"/proc/self/setgroups", c"deny", &"setgroups")?;
            tell(c"/proc/self/uid_map", uid_map, &"uid_map")?;
            tell(c"/proc/self/gid_map", gid_map, &"gid_map")?;
        }
        if p.limits.is_some() {
            // where there is no /proc it is as likely to be killed as who started it
            let _ = tell(c"/proc/self/oom_score_adj", p.oom_score, &"oom_score_adj");
        }
        if p.network >= 0 {
            done(libc::setns(p.network, libc::CLONE_NEWNET), &"network namespace")?;
        }
        let mut stub = -1;
        if p.loopback {
            stub = loopback()?;
        }
        // 2. a session of its own: no terminal's signals, and one name for all that it starts
        if p.own_session {
            done(libc::setsid(), &"setsid")?;
        }
        // 3. the working directory, while its descriptor is open. In a root of its own it would be a way out
        if p.directory >= 0 && p.root.is_none() {
            done(libc::fchdir(p.directory), &"fchdir")?;
        }
        // 4. a root of its own
        match p.root {
            Some(root) if p.standing >= 0 => enter_standing_root(root, p.standing)?,
            Some(root) => enter_root(root, p.files_as)?,
            None => {}
        }
        // 5. limits
        if let Some(limits) = &p.limits {
            // where the limit is 0 already, and may not be raised
            if limit(libc::RLIMIT_CORE, crate::own::NO_CORE).is_err() {
                limit(libc::RLIMIT_CORE, 0)?;
            }
            limit(libc::RLIMIT_FSIZE, limits.file_size)?;
            limit(libc::RLIMIT_DATA, limits.memory)?;
            limit(libc::RLIMIT_NPROC, limits.processes)?;
            // the kernel's own answer is 20 less the niceness
            let present = 20 - libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) as c_int;
            let niceness = (present + limits.niceness).min(19);
            done(libc::setpriority(libc::PRIO_PROCESS, 0, niceness), &"setpriority")?;
            libc::umask(0o077);
        }
        // 6. a user of its own, no capabilities, no keys of ours
        if p.limits.is_some() && p.bounds {
            drop_bounds();
        }
        if let Some((uid, gid)) = p.own {
            done(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()), &"setgroups")?;
            done(libc::syscall(libc::SYS_setresgid, gid, gid, gid), &"setresgid")?;
            done(libc::syscall(libc::SYS_setresuid, uid, uid, uid), &"setresuid")?;
        }
        if p.limits.is_some() {
            // a kernel without keyrings has none to share
            libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<c_char>());
            drop_capabilities()?;
        }
        // 7. it dies with us (after the change of user, which takes that back); and if we died before that was said, it ends here. In a
        // pid namespace of its own it cannot see us: its socket's end tells it
        if p.dies_with_parent {
            done(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0), &"PR_SET_PDEATHSIG")?;
            if p.root.is_none() && libc::getppid() != p.parent {
                libc::_exit(GAVE_UP);
            }
        }
        // 8. no way to more privileges, and no file outside of the domain
        if p.limits.is_some() {
            done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), &"PR_SET_NO_NEW_PRIVS")?;
        }
        if p.domain >= 0 {
            for (path, of_folders, of_files) in p.made {
                allow_made(p.domain, *path, *of_folders, *of_files)?;
            }
            done(libc::syscall(libc::SYS_landlock_restrict_self, p.domain, 0), &"landlock_restrict_self")?;
        }
        // 9. descriptors: first out of the way of the places that they are to have, then into them
        if p.silent {
            done(libc::dup2(p.null, 0), &"standard input")?;
            done(libc::dup2(p.null, 1), &"standard output")?;
        }
        let mut moved = [-1; INHERIT_MAX];
        // beyond them, the program's file and the two of the handover
        let above = FIRST + INHERIT_MAX as RawFd + 3;
        for (place, descriptor) in moved.iter_mut().zip(&p.inherit[..p.inherited]) {
            *place = libc::fcntl(*descriptor, libc::F_DUPFD_CLOEXEC, above);
            done(*place, &"fcntl")?;
        }
        let (mut handover, mut listener) = (p.handover, -1);
        for kept in [&mut handover, &mut stub] {
            if *kept >= 0 {
                *kept = libc::fcntl(*kept, libc::F_DUPFD_CLOEXEC, above);
                done(*kept, &"fcntl")?;
            }
        }
        let mut file = p.file;
        if file >= 0 {
            file = libc::fcntl(p.file, libc::F_DUPFD_CLOEXEC, above);
            done(file, &"fcntl")?;
        }
        let mut next = FIRST;
        for descriptor in &moved[..p.inherited] {
            done(libc::dup2(*descriptor, next), &"dup2")?;
            next += 1;
        }
        if file >= 0 {
            // closed by the execution itself
            done(libc::dup3(file, next, libc::O_CLOEXEC), &"dup3")?;
            file = next;
            next += 1;
        }
        for kept in [&mut handover, &mut stub] {
            if *kept >= 0 {
                done(libc::dup3(*kept, next, libc::O_CLOEXEC), &"dup3")?;
                *kept = next;
                next += 1;
            }
        }
        done(libc::syscall(libc::SYS_close_range, next as libc::c_uint, libc::c_uint::MAX, 0), &"close_range")?;
        // 10. signals as a new program expects them: execution itself makes those that are handled default, and not those that are ignored. The
        // mask last, so that a handler of ours never runs here
        for signal in (1..=SIGNALS).filter(|signal| p.ignored & bit(*signal) != 0) {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT_ACTION.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            );
        }
        done(libc::sigprocmask(libc::SIG_SETMASK, &raw const p.empty_mask, std::ptr::null_mut()), &"sigprocmask")?;
        // 11. no other system calls than these from here on
        if !p.filter.is_null() {
            // once an asked call was taken, only what kills its caller interrupts it: it would be made twice. Before Linux 5.19 it is
            let with = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
            for flags in if handover >= 0 { [with, SECCOMP_FILTER_FLAG_NEW_LISTENER] } else { [0, 0] } {
                listener = libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, p.filter) as c_int;
                if listener >= 0 || Errno::last_raw() != libc::EINVAL {
                    break;
                }
            }
            done(listener, &"seccomp")?;
        }
        if handover >= 0 {
            hand_over(handover, stub, listener)?;
        }
        // 12. so many descriptors: as late as that, because how many may be on their way for this user goes by the sender's limit
        if let Some(limits) = &p.limits {
            limit(libc::RLIMIT_NOFILE, limits.descriptors)?;
        }
        // 13. the program
        if file >= 0 {
            libc::syscall(libc::SYS_execveat, file, p.program, p.arguments, p.environment, libc::AT_EMPTY_PATH);
        } else {
            libc::execve(p.program, p.arguments, p.environment);
        }
    }
    Err(&"execve")
}

/// Writes a text to a file of /proc.
///
/// # Safety
/// As [`steps`].
unsafe fn tell(path: &'static CStr, text: &CStr, step: &'static &'static str) -> Result<(), &'static &'static str> {
    // SAFETY: system calls on a static path, and on a text with the length that it has.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        done(file, step)?;
        let written = libc::write(file, text.as_ptr().cast(), text.count_bytes());
        done(written as i64, step)?;
        done(libc::close(file), step)
    }
}

/// Brings up the loopback of this network namespace, and opens the socket of a name server on it.
///
/// # Safety
/// As [`steps`], in a network namespace of its own.
unsafe fn loopback() -> Result<RawFd, &'static &'static str> {
    // SAFETY: system calls on locals in the kernel's layouts, all of whose bytes are set.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        done(socket, &"socket")?;
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as c_char;
        request.ifr_name[1] = b'o' as c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        done(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw mut request), &"loopback")?;
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = 53_u16.to_be();
        address.sin_addr.s_addr = 0x7f00_0001_u32.to_be();
        let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        done(libc::bind(socket, (&raw const address).cast(), length), &"name server's socket")?;
        Ok(socket)
    }
}

/// Room for the header of a control message and two descriptors, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Rights([u8; 32]);

/// Sends the descriptors that only this process could make.
///
/// # Safety
/// As [`steps`].
unsafe fn hand_over(socket: RawFd, stub: RawFd, listener: RawFd) -> Result<(), &'static &'static str> {
    let byte = if stub >= 0 { Handed::STUB_AND_LISTENER } else { Handed::LISTENER };
    let descriptors = [if stub >= 0 { stub } else { listener }, listener];
    let count = if stub >= 0 { 2 } else { 1 };
    let mut rights = Rights([0; 32]);
    // SAFETY: `rights` has room for a header and two descriptors; everything that the message points at is a local that outlives the call.
    unsafe {
        let bytes = (count * size_of::<RawFd>()) as libc::c_uint;
        let mut part = libc::iovec { iov_base: (&raw const byte).cast_mut().cast(), iov_len: 1 };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut rights).cast();
        message.msg_controllen = libc::CMSG_SPACE(bytes) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(bytes) as _;
        for (n, descriptor) in descriptors.iter().take(count).enumerate() {
            libc::CMSG_DATA(header).cast::<RawFd>().add(n).write_unaligned(*descriptor);
        }
        let sent = libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT);
        done(sent as i64, &"handover")
    }
}

/// Adds to the domain what this root made itself. What could not be made is left out.
///
/// # Safety
/// As [`steps`].
unsafe fn allow_made(
    domain: RawFd,
    path: *const c_char,
    of_folders: u64,
    of_files: u64,
) -> Result<(), &'static &'static str> {
    // SAFETY: system calls on a prepared path and on locals in the kernel's layout.
    unsafe {
        let (file, rights) = match libc::open(path, libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY) {
            folder if folder >= 0 => (folder, of_folders),
            _ => (libc::open(path, libc::O_PATH | libc::O_CLOEXEC), of_files),
        };
        if file < 0 {
            return Ok(());
        }
        let attr = landlock::PathAttr { access: rights, parent: file };
        let added = libc::syscall(libc::SYS_landlock_add_rule, domain, landlock::RULE_PATH, &raw const attr, 0);
        done(added, &"rule of the domain")?;
        done(libc::close(file), &"close")
    }
}

/// Puts the root together on a file system of its own, makes it read-only and the only one.
///
/// # Safety
/// As [`steps`], in a mount namespace of its own.
unsafe fn enter_root(root: &Root, files_as: RawFd) -> Result<(), &'static &'static str> {
    let none = std::ptr::null::<c_char>();
    // SAFETY: system calls on static and prepared paths; the mounts are this namespace's own.
    unsafe {
        // what is mounted here from now on is seen by nobody else
        done(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()), &"private mounts")?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        let tmpfs = c"tmpfs".as_ptr();
        done(libc::mount(tmpfs, SCAFFOLD.as_ptr(), tmpfs, flags, ROOT_OPTIONS.as_ptr().cast()), &"root file system")?;
        for step in &root.steps {
            match step {
                RootStep::Writable { .. } => {}
                RootStep::Memory { at, options } => {
                    let options = options.as_ptr().cast();
                    done(libc::mount(tmpfs, at.as_ptr(), tmpfs, flags, options), &"memory of the root")?;
                }
                RootStep::Processes { at } => {
                    let (proc, flags) = (c"proc".as_ptr(), flags | libc::MS_NOEXEC);
                    let mounted = libc::mount(proc, at.as_ptr(), proc, flags, none.cast());
                    if mounted < 0 && !matches!(Errno::last_raw(), libc::EPERM | libc::EACCES) {
                        return Err(&"processes of the root");
                    }
                }
                RootStep::Text { at, text } => {
                    let flags = libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY | libc::O_CLOEXEC;
                    let file = libc::open(at.as_ptr(), flags, 0o644);
                    done(file, &"text of the root")?;
                    done(libc::write(file, text.as_ptr().cast(), text.len()) as i64, &"text of the root")?;
                    libc::close(file);
                }
                RootStep::Folder(at) => {
                    if libc::mkdir(at.as_ptr(), 0o755) < 0 && Errno::last_raw() != libc::EEXIST {
                        return Err(&"folder of the root");
                    }
                }
                RootStep::File(at) => {
                    let file = libc::open(at.as_ptr(), libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC, 0o644);
                    done(file, &"file of the root")?;
                    libc::close(file);
                }
                RootStep::Mount { from, to, own } => {
                    if *own && files_as >= 0 && mapped::mount(from, to, files_as).is_ok() {
                        continue;
                    }
                    let flags = libc::MS_BIND | libc::MS_REC;
                    done(libc::mount(from.as_ptr(), to.as_ptr(), none, flags, none.cast()), &"part of the root")?;
                }
                RootStep::Link { to, at } => {
                    if libc::symlink(to.as_ptr(), at.as_ptr()) < 0 && Errno::last_raw() != libc::EEXIST {
                        return Err(&"link of the root");
                    }
                }
            }
        }
        done(libc::chdir(SCAFFOLD.as_ptr()), &"chdir")?;
        // adds to what each mount forbids already, which a plain remount would have to repeat
        let attr = MountAttr { set: MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, clear: 0, propagation: 0, userns: 0 };
        let sealed = libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c".".as_ptr(),
            AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        );
        done(sealed, &"read-only root")?;
        let attr = MountAttr { set: MOUNT_ATTR_NODEV, clear: MOUNT_ATTR_RDONLY, propagation: 0, userns: 0 };
        for step in &root.steps {
            if let RootStep::Writable { at } = step {
                let (at, size) = (at.as_ptr(), size_of::<MountAttr>());
                let opened = libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, at, 0, &raw const attr, size);
                done(opened, &"writable part of root")?;
            }
        }
        done(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()), &"pivot_root")?;
        done(libc::umount2(c".".as_ptr(), libc::MNT_DETACH), &"the old root")?;
        done(libc::chdir(root.directory.as_deref().unwrap_or(c"/").as_ptr()), &"chdir")
    }
}

/// Enters a copy of the namespace in which the root stands.
///
/// # Safety
/// As [`steps`].
unsafe fn enter_standing_root(root: &Root, standing: RawFd) -> Result<(), &'static &'static str> {
    // SAFETY: system calls on a descriptor, on flags and on a prepared path.
    unsafe {
        done(libc::setns(standing, libc::CLONE_NEWNS), &"standing root")?;
        done(libc::unshare(libc::CLONE_NEWNS), &"copy of the standing root")?;
        done(libc::chdir(root.directory.as_deref().unwrap_or(c"/").as_ptr()), &"chdir")
    }
}

const fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

/// The signals that this process ignores.
fn ignored() -> u64 {
    let ignores = |signal: &c_int| {
        let mut action = DEFAULT_ACTION;
        let (none, place) = (std::ptr::null::<u64>(), action.as_mut_ptr());
        // SAFETY: writes the present action, in the kernel's layout, to a local that has room for it, and changes nothing.
        let known = unsafe { libc::syscall(libc::SYS_rt_sigaction, *signal, none, place, size_of::<u64>()) };
        known == 0 && action[0] == libc::SIG_IGN as u64
    };
    (1..=SIGNALS).filter(ignores).map(bit).fold(0, |all, one| all | one)
}

/// The capabilities of this kernel that this process's bounding set still has.
fn bounds() -> impl Iterator<Item = libc::c_ulong> {
    // SAFETY: prctl on integers, which changes nothing.
    let has = |n: &libc::c_ulong| unsafe { libc::prctl(libc::PR_CAPBSET_READ, *n, 0, 0, 0) == 1 };
    (0..64).filter(has)
}

fn is_bounded() -> bool {
    bounds().next().is_none()
}

/// None to be had by executing: while it still may say so. Without CAP_SETPCAP the bounding set stays, and no_new_privs makes it meaningless.
///
/// # Safety
/// As [`steps`].
pub(crate) unsafe fn drop_bounds() {
    // SAFETY: prctl on integers.
    unsafe {
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) < 0 {
                break;
            }
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0);
    }
}

/// What this process may is inherited by a program that it executes as root, whatever the bounding set.
///
/// # Safety
/// As [`steps`].
pub(crate) unsafe fn inherit_capabilities() -> Result<(), &'static &'static str> {
    let header = [CAPABILITY_VERSION_3, 0];
    // effective, permitted and inheritable, of 32 capabilities and then of the others
    let mut sets = [0_u32; 6];
    // SAFETY: writes to and reads locals in the kernel's layout.
    unsafe {
        done(libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()), &"capget")?;
        (sets[2], sets[5]) = (sets[1], sets[4]);
        done(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()), &"capset")
    }
}

/// None in any set.
///
/// # Safety
/// As [`steps`].
pub(crate) unsafe fn drop_capabilities() -> Result<(), &'static &'static str> {
    let header = [CAPABILITY_VERSION_3, 0];
    let none = [0_u32; 6];
    // SAFETY: reads two locals in the kernel's layout.
    unsafe { done(libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()), &"capset") }
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
