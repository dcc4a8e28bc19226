//! Executes a program in a new process, with nothing of this process in it but what the plan names.
//!
//! `clone(CLONE_VM | CLONE_VFORK)` on a stack of its own: the child shares this process's memory and this process stands still until the
//! child has executed or given up. So whatever the child needs is prepared before, and in between it only makes system calls: no
//! allocation, no lock, no Rust code that could unwind. Call it from single-threaded processes only: with other threads running,
//! descriptors and signal dispositions could change under the child, and PR_SET_PDEATHSIG would follow a thread.

use crate::confine::{Confinement, Limits, ROOT_OPTIONS, RootStep, SCAFFOLD};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
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
/// Everything but user and network namespace, which are made or not.
const NAMESPACES: c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
const SECCOMP_SET_MODE_FILTER: libc::c_ulong = 1;
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_ulong = 1;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
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
    /// Its working directory; else this process's.
    pub directory: Option<BorrowedFd<'a>>,
    /// Whether standard input and output are /dev/null; else they are this process's.
    pub silent: bool,
    /// Whether it leads a session of its own.
    pub own_session: bool,
    /// Whether it is killed when this process ends.
    pub dies_with_parent: bool,
    /// What it is confined with; else it may what this process may.
    pub confine: Option<&'a Confinement<'a>>,
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
    /// Where it has namespaces of its own.
    root: Option<&'a [RootStep]>,
    /// Where it has a user namespace of its own: the maps of its user and its group.
    maps: Option<&'a [CString; 2]>,
    network: RawFd,
    own: Option<(libc::uid_t, libc::gid_t)>,
    domain: RawFd,
    filter: *const libc::sock_fprog,
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
        let map = |id: u32| CString::new(format!("{id} {id} 1")).unwrap_or_default();
        let maps = [map(nix::unistd::geteuid().as_raw()), map(nix::unistd::getegid().as_raw())];
        Ok(Self { null, maps, stack })
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
        if let Some(namespaces) = namespaces {
            flags |= NAMESPACES;
            flags |= if namespaces.user { libc::CLONE_NEWUSER } else { 0 };
            flags |= if namespaces.network { libc::CLONE_NEWNET } else { 0 };
        }
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
            root: namespaces.map(|n| n.root.steps.as_slice()),
            maps: namespaces.filter(|n| n.user).map(|_| &self.maps),
            network: confine.and_then(|c| c.network).map_or(-1, |n| n.as_raw_fd()),
            own: confine.and_then(|c| c.own).map(|o| (o.uid, o.gid)),
            domain: confine.and_then(|c| c.domain).map_or(-1, |d| d.as_fd().as_raw_fd()),
            filter: filter.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
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
        if p.network >= 0 {
            done(libc::setns(p.network, libc::CLONE_NEWNET), &"network namespace")?;
        }
        // 2. a session of its own: no terminal's signals, and one name for all that it starts
        if p.own_session {
            done(libc::setsid(), &"setsid")?;
        }
        // 3. the working directory, while its descriptor is open. A root of its own has no place for it
        if p.directory >= 0 {
            done(libc::fchdir(p.directory), &"fchdir")?;
        }
        // 4. a root of its own
        if let Some(root) = p.root {
            enter_root(root)?;
        }
        // 5. limits
        if let Some(limits) = &p.limits {
            limit(libc::RLIMIT_CORE, 0)?;
            limit(libc::RLIMIT_NOFILE, limits.descriptors)?;
            limit(libc::RLIMIT_FSIZE, limits.file_size)?;
            limit(libc::RLIMIT_DATA, limits.memory)?;
            // the kernel's own answer is 20 less the niceness
            let present = 20 - libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) as c_int;
            let niceness = (present + limits.niceness).min(19);
            done(libc::setpriority(libc::PRIO_PROCESS, 0, niceness), &"setpriority")?;
            libc::umask(0o077);
        }
        // 6. a user of its own, no capabilities, no keys of ours
        if p.limits.is_some() {
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
            done(libc::syscall(libc::SYS_landlock_restrict_self, p.domain, 0), &"landlock_restrict_self")?;
        }
        // 9. descriptors: first out of the way of the places that they are to have, then into them
        if p.silent {
            done(libc::dup2(p.null, 0), &"standard input")?;
            done(libc::dup2(p.null, 1), &"standard output")?;
        }
        let mut moved = [-1; INHERIT_MAX];
        let above = FIRST + INHERIT_MAX as RawFd + 1;
        for (place, descriptor) in moved.iter_mut().zip(&p.inherit[..p.inherited]) {
            *place = libc::fcntl(*descriptor, libc::F_DUPFD_CLOEXEC, above);
            done(*place, &"fcntl")?;
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
        done(libc::syscall(libc::SYS_close_range, next as libc::c_uint, libc::c_uint::MAX, 0), &"close_range")?;
        // 10. signals as a new program expects them; the mask last, so that a handler of ours never runs here
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
        // 11. no other system calls than these from here on
        if !p.filter.is_null() {
            done(libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, p.filter), &"seccomp")?;
        }
        // 12. the program
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

/// Puts the root together on a file system of its own, makes it read-only and the only one.
///
/// # Safety
/// As [`steps`], in a mount namespace of its own.
unsafe fn enter_root(root: &[RootStep]) -> Result<(), &'static &'static str> {
    let none = std::ptr::null::<c_char>();
    // SAFETY: system calls on static and prepared paths; the mounts are this namespace's own.
    unsafe {
        // what is mounted here from now on is seen by nobody else
        done(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()), &"private mounts")?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        let tmpfs = c"tmpfs".as_ptr();
        done(libc::mount(tmpfs, SCAFFOLD.as_ptr(), tmpfs, flags, ROOT_OPTIONS.as_ptr().cast()), &"root file system")?;
        for step in root {
            match step {
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
                RootStep::Mount { from, to } => {
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
        done(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()), &"pivot_root")?;
        done(libc::umount2(c".".as_ptr(), libc::MNT_DETACH), &"the old root")?;
        done(libc::chdir(c"/".as_ptr()), &"chdir")
    }
}

/// None to be had by executing: while it still may say so. Without CAP_SETPCAP the bounding set stays, and no_new_privs makes it meaningless.
///
/// # Safety
/// As [`steps`].
unsafe fn drop_bounds() {
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

/// None in any set.
///
/// # Safety
/// As [`steps`].
unsafe fn drop_capabilities() -> Result<(), &'static &'static str> {
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
