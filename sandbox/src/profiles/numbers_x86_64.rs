// Calls that only x86-64 has; elsewhere a later one does their work.

numbers! {
    open = SYS_open, stat = SYS_stat, lstat = SYS_lstat, access = SYS_access, readlink = SYS_readlink, poll = SYS_poll, select = SYS_select,
    epoll_create = SYS_epoll_create, epoll_wait = SYS_epoll_wait, eventfd = SYS_eventfd, pipe = SYS_pipe, dup2 = SYS_dup2,
    getdents = SYS_getdents, mkdir = SYS_mkdir, rmdir = SYS_rmdir, unlink = SYS_unlink, rename = SYS_rename, link = SYS_link,
    symlink = SYS_symlink, chmod = SYS_chmod, chown = SYS_chown, lchown = SYS_lchown, fork = SYS_fork, vfork = SYS_vfork,
    arch_prctl = SYS_arch_prctl, getrlimit = SYS_getrlimit, setrlimit = SYS_setrlimit, time = SYS_time, alarm = SYS_alarm,
    pause = SYS_pause, utime = SYS_utime, utimes = SYS_utimes, futimesat = SYS_futimesat, creat = SYS_creat, getpgrp = SYS_getpgrp,
    inotify_init = SYS_inotify_init, signalfd = SYS_signalfd, mknod = SYS_mknod,
    // in no profile: for their names
    _sysctl = SYS__sysctl, afs_syscall = SYS_afs_syscall, epoll_ctl_old = SYS_epoll_ctl_old, epoll_wait_old = SYS_epoll_wait_old,
    get_thread_area = SYS_get_thread_area, getpmsg = SYS_getpmsg, ioperm = SYS_ioperm, iopl = SYS_iopl,
    kexec_file_load = SYS_kexec_file_load, modify_ldt = SYS_modify_ldt, putpmsg = SYS_putpmsg, security = SYS_security,
    set_thread_area = SYS_set_thread_area, sysfs = SYS_sysfs, tuxcall = SYS_tuxcall, uselib = SYS_uselib, ustat = SYS_ustat,
    vserver = SYS_vserver,
}
