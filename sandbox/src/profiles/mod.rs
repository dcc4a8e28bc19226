//! What each kind of worker may ask of the kernel: one file a profile, of parts that they share. A call that is not named is refused.

mod first;
mod job;
mod operation;
mod resolver;
mod supervisor;

pub use first::FIRST;
pub use job::{JOB, JOB_ASKING};
pub use operation::OPERATION;
pub use resolver::RESOLVER;
pub use supervisor::SUPERVISOR;

use crate::seccomp::{Allow, Check, Profile, has, is, is_int, is_not_int, lacks, masked};

/// Where a job in a root of its own finds its folder as well, under a name that is short: a socket's address holds 108 bytes.
pub const JOB_FOLDER: &str = "/job";

/// Every profile.
pub const ALL: &[Profile] = &[OPERATION, RESOLVER, FIRST, JOB, JOB_ASKING, SUPERVISOR];

const CLONE_THREAD: u64 = libc::CLONE_THREAD as u64;
/// Every flag of clone that makes a namespace.
const CLONE_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64
    | 0x80; // CLONE_NEWTIME
/// The terminal's own: input that looks as if it had been typed (TIOCSTI), the console's selection (TIOCLINUX), line disciplines (TIOCSETD).
const NO_TERMINAL_TRICKS: &[&[Check]] = &[&[is_not_int(1, 0x5412), is_not_int(1, 0x541C), is_not_int(1, 0x5423)]];
/// Only of the caller itself: the pid is 0.
const OWN: &[&[Check]] = &[&[is_int(0, 0)]];
/// Limits of the caller itself, and none of cores: that of one byte is what keeps the machine's own handler from being called
/// ([`crate::own::NO_CORE`]).
const OWN_LIMITS: &[&[Check]] = &[&[is_int(0, 0), is_not_int(1, libc::RLIMIT_CORE)], &[is_int(0, 0), is(2, 0)]];

/// Memory, time, signals of its own, and its end: what every program does.
const EVERYONE: &[Allow] = calls![
    read, write, readv, writev, pread64, pwrite64, close, fstat, lseek, mmap, mprotect, munmap, mremap, madvise, brk,
    rt_sigaction, rt_sigprocmask, rt_sigreturn, sigaltstack, clock_gettime, clock_getres, clock_nanosleep, nanosleep, gettimeofday,
    getpid, gettid, getppid, getuid, geteuid, getgid, getegid, exit, exit_group, futex, set_robust_list, rseq, set_tid_address,
    getrandom, sched_yield, uname, restart_syscall, membarrier, getrusage, getcpu,
    // the runtime asks for its processors
    sched_getaffinity: OWN,
];
#[cfg(target_arch = "x86_64")]
const EVERYONE_LEGACY: &[Allow] = calls![arch_prctl, getrlimit, time];
#[cfg(not(target_arch = "x86_64"))]
const EVERYONE_LEGACY: &[Allow] = &[];

/// Waiting for sockets, and using those that it has.
const SOCKETS: &[Allow] = calls![
    epoll_create1,
    epoll_ctl,
    epoll_pwait,
    epoll_pwait2,
    eventfd2,
    ppoll,
    pselect6,
    recvfrom,
    recvmsg,
    sendto,
    sendmsg,
    shutdown,
    getsockopt,
    setsockopt,
    getpeername,
    getsockname,
];
#[cfg(target_arch = "x86_64")]
const SOCKETS_LEGACY: &[Allow] = calls![epoll_create, epoll_wait, eventfd, poll, select];
#[cfg(not(target_arch = "x86_64"))]
const SOCKETS_LEGACY: &[Allow] = &[];

/// Reading files, as far as the domain lets it.
const READING: &[Allow] = calls![
    openat, readlinkat, newfstatat, statx, faccessat, faccessat2, getdents64, getcwd, statfs, fstatfs, fadvise64
];
#[cfg(target_arch = "x86_64")]
const READING_LEGACY: &[Allow] = calls![open, stat, lstat, access, readlink, getdents];
#[cfg(not(target_arch = "x86_64"))]
const READING_LEGACY: &[Allow] = &[];

/// What a program that starts others needs: resolvers with their plug-ins, and jobs.
const PROCESSES: &[Allow] = calls![
    execve, execveat, wait4, waitid, kill, tkill, tgkill, pidfd_open, pidfd_send_signal, setpgid, setsid, getpgid, getsid,
    getgroups, getresuid, getresgid, dup, dup3, pipe2, umask, chdir, fchdir, close_range, rt_sigpending, rt_sigtimedwait,
    rt_sigsuspend, signalfd4, timerfd_create, timerfd_settime, timerfd_gettime, sysinfo, times, getitimer, setitimer,
    timer_create, timer_settime, timer_gettime, timer_getoverrun, timer_delete, sched_getscheduler, sched_getparam,
    sched_get_priority_max, sched_get_priority_min, getpriority, capget, flock, mincore, get_robust_list,
    // its own priority, and only that
    setpriority: &[&[is_int(0, 0), is_int(1, 0)]],
    sched_setaffinity: OWN,
    // limits of others are not its business: a limit of processor time kills. Its own it may lower, that of cores too: gpg does, and gives
    // up where it may not
    prlimit64: OWN,
    ioctl: NO_TERMINAL_TRICKS,
    // leases, signals to others and notification belong to nobody here; locks, pipes' sizes and seals do no harm
    fcntl: &[&[is_not_int(1, 8), is_not_int(1, 10), is_not_int(1, 15), is_not_int(1, 1024), is_not_int(1, 1026)]],
    // everything but to be spared the death of its parent, to be traced, and what changes what the filter relies on
    prctl: &[&[is_not_int(0, 1), is_not_int(0, 0x5961_6d61), is_not_int(0, 22), is_not_int(0, 35)]],
];
/// Processes and threads, but no namespaces: capabilities in one of its own would be where a sandbox is left from.
const FORKING: &[Allow] = calls![clone: &[&[lacks(0, CLONE_NAMESPACES)]]];
#[cfg(target_arch = "x86_64")]
const PROCESSES_LEGACY: &[Allow] = calls![fork, vfork, pipe, dup2, getpgrp, alarm, pause, signalfd, setrlimit];
#[cfg(not(target_arch = "x86_64"))]
const PROCESSES_LEGACY: &[Allow] = &[];

/// Making connections of the usual kinds. No raw sockets, no AF_ALG, no AF_VSOCK, no AF_PACKET; netlink only to ask for routes and
/// addresses, as libc and Go do.
const CONNECTING: &[Allow] = calls![
    connect, bind, listen, accept, accept4, socketpair, recvmmsg, sendmmsg,
    socket: &[
        &[is_int(0, libc::AF_UNIX as u32)],
        &[is_int(0, libc::AF_INET as u32), masked(1, 0xf, libc::SOCK_STREAM as u64)],
        &[is_int(0, libc::AF_INET as u32), masked(1, 0xf, libc::SOCK_DGRAM as u64)],
        &[is_int(0, libc::AF_INET6 as u32), masked(1, 0xf, libc::SOCK_STREAM as u64)],
        &[is_int(0, libc::AF_INET6 as u32), masked(1, 0xf, libc::SOCK_DGRAM as u64)],
        &[is_int(0, libc::AF_NETLINK as u32), is_int(2, 0)],
    ],
];

/// What every program that starts others may do.
const PROGRAM: &[&[Allow]] = &[
    EVERYONE,
    EVERYONE_LEGACY,
    SOCKETS,
    SOCKETS_LEGACY,
    READING,
    READING_LEGACY,
    PROCESSES,
    PROCESSES_LEGACY,
    CONNECTING,
];

/// Threads, and no process.
const THREAD: Check = has(0, CLONE_THREAD);
const THREADS: &[Allow] = calls![clone: &[&[THREAD, lacks(0, CLONE_NAMESPACES)]]];

#[cfg(test)]
mod tests {
    use super::*;

    /// What nobody but a job may do, whatever is added to a list.
    #[test]
    fn the_supervisor_starts_nothing_and_looks_into_nobody() {
        let calls: Vec<_> = SUPERVISOR.calls().map(|c| c.name).collect();
        for name in [
            "execve",
            "execveat",
            "fork",
            "vfork",
            "ptrace",
            "process_vm_readv",
            "pidfd_getfd",
            "seccomp",
            "landlock_restrict_self",
            "capset",
            "mount",
            "bpf",
            "keyctl",
            "setuid",
            "fchown",
            "chown",
            "linkat",
            "memfd_create",
        ] {
            assert!(!calls.contains(&name), "{name}");
        }
        // threads only
        assert!(SUPERVISOR.calls().all(|c| c.name != "clone" || c.only.iter().all(|all| all.contains(&THREAD))));
    }
}
