//! Executes a program on a machine that seems to lack something: `refuse WHAT[,WHAT…] -- PROGRAM ARGUMENTS…`. WHAT is `namespaces` (as
//! Docker's default profile refuses them), `mount` (user namespaces are made and then good for nothing, as on Ubuntu) or `landlock`.

#![allow(unsafe_code)] // an example of this crate, the only one where it may be

use std::os::unix::process::CommandExt as _;

/// clone's flags for namespaces.
const NAMESPACES: u32 = 0x7e02_0000;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let what = arguments.next().and_then(|w| w.into_string().ok()).unwrap_or_default();
    let arguments: Vec<_> = arguments.skip_while(|a| a == "--").collect();
    let (Some(program), false) = (arguments.first(), what.is_empty()) else {
        eprintln!("usage: refuse WHAT[,WHAT…] -- PROGRAM ARGUMENTS…");
        std::process::exit(64);
    };
    let filter = program_for(&what);
    let filter = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: prctl on integers; the filter's memory lives through the call, and the kernel copies it.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) == 0
    };
    if !installed {
        eprintln!("refuse: {}", std::io::Error::last_os_error());
        std::process::exit(71);
    }
    let error = std::process::Command::new(program).args(&arguments[1..]).exec();
    eprintln!("refuse: {}: {error}", program.display());
    std::process::exit(127);
}

fn program_for(what: &str) -> Vec<libc::sock_filter> {
    let statement = |code: u16, k: u32| libc::sock_filter { code, jt: 0, jf: 0, k };
    let fails = |errno: i32| 0x0005_0000 | errno as u32;
    let mut program = vec![statement(0x20, 0)];
    let mut refuse = |call: libc::c_long, errno: i32| {
        program.push(libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: call as u32 });
        program.push(statement(0x06, fails(errno)));
    };
    for word in what.split(',') {
        match word {
            "namespaces" => {
                for call in
                    [libc::SYS_unshare, libc::SYS_setns, libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root]
                {
                    refuse(call, libc::EPERM);
                }
            }
            "mount" => {
                for call in [libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_mount_setattr] {
                    refuse(call, libc::EPERM);
                }
            }
            "landlock" => refuse(libc::SYS_landlock_create_ruleset, libc::ENOSYS),
            _ => {
                eprintln!("refuse: {word:?} is none of namespaces, mount, landlock");
                std::process::exit(64);
            }
        }
    }
    // its arguments lie in memory: as the profiles of containers do
    refuse(libc::SYS_clone3, libc::ENOSYS);
    if what.split(',').any(|w| w == "namespaces") {
        program.push(libc::sock_filter { code: 0x15, jt: 0, jf: 4, k: libc::SYS_clone as u32 });
        program.push(statement(0x20, 16));
        program.push(libc::sock_filter { code: 0x45, jt: 0, jf: 1, k: NAMESPACES });
        program.push(statement(0x06, fails(libc::EPERM)));
        program.push(statement(0x06, 0x7fff_0000));
    }
    program.push(statement(0x06, 0x7fff_0000));
    program
}
