//! How long it takes from asking for a confined process to its first byte, by what confines it: the median of interleaved runs, µs.
//!
//! The process is this program itself in another mode, so that what is added can be told from what its own start takes.

use runner_sandbox::confine::{Confinement, Limits, Namespaces, Own, Root, User};
use runner_sandbox::landlock::{Access, Ruleset, Scope};
use runner_sandbox::{profiles, spawn};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const ROOT: &[&str] = &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/ssl/certs"];
const LIMITS: Limits = Limits { descriptors: 64, file_size: 1 << 20, memory: 1 << 30, niceness: 0 };

fn main() {
    if std::env::args().nth(1).is_some_and(|a| a == "child") {
        if let Ok(mut socket) = runner_sandbox::inherited_socket() {
            let _ = socket.write_all(b"x");
        }
        return;
    }
    let runs: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200);
    let program = File::open("/proc/self/exe").expect("this program");
    let domain = Ruleset::new(Scope { no_tcp: true, own_signals_and_sockets: true }).ok();
    if let Some(domain) = &domain {
        for path in ROOT {
            domain.allow_path(Path::new(path), Access::Read).expect("a rule");
        }
        domain.allow(&program, Access::Read).expect("a rule");
    }
    let filter = profiles::OPERATION.compile().expect("compiles");
    let shown = ROOT.iter().fold(Root::default(), |root, path| root.show(Path::new(path)));
    let is_root = nix::unistd::geteuid().is_root();
    let user = if is_root { User::Shared } else { User::Same };
    let namespaces = Namespaces { user, network: false, root: Some(shown.clone()) };
    let with_network = Namespaces { user, network: true, root: Some(shown) };
    let bare = Confinement { limits: LIMITS, namespaces: None, network: None, own: None, domain: None, filter: None };
    let own = is_root.then_some(Own { uid: 1_900_000_000, gid: 1_900_000_000 });
    let kinds = [
        ("nothing", None),
        ("limits, no capabilities", Some(bare)),
        ("and a Landlock domain", Some(Confinement { domain: domain.as_ref(), ..bare })),
        ("and a filter", Some(Confinement { domain: domain.as_ref(), filter: Some(&filter), ..bare })),
        ("namespaces and a root", Some(Confinement { namespaces: Some(&namespaces), ..bare })),
        ("and a network namespace", Some(Confinement { namespaces: Some(&with_network), ..bare })),
        (
            "all of it",
            Some(Confinement {
                namespaces: Some(&namespaces),
                own,
                domain: domain.as_ref(),
                filter: Some(&filter),
                ..bare
            }),
        ),
    ];
    let mut spawner = spawn::Spawner::new().expect("a stack");
    let mut times = vec![Vec::with_capacity(runs); kinds.len()];
    for _ in 0..runs {
        for ((name, confine), times) in kinds.iter().zip(&mut times) {
            let (mut ours, theirs) = UnixStream::pair().expect("a pair");
            let start = Instant::now();
            let plan = spawn::Plan {
                program: spawn::Program::File(program.as_fd()),
                arguments: &[c"spawn_time", c"child"],
                environment: &[],
                inherit: &[theirs.as_fd()],
                directory: None,
                silent: true,
                own_session: true,
                dies_with_parent: true,
                confine: confine.as_ref(),
                handover: None,
            };
            let pid = match spawner.spawn(&plan) {
                Ok(pid) => pid,
                Err(e) => {
                    eprintln!("{name}: {e}");
                    continue;
                }
            };
            drop(theirs);
            if ours.read_exact(&mut [0; 1]).is_ok() {
                times.push(start.elapsed());
            }
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        }
    }
    for ((name, _), times) in kinds.iter().zip(&mut times) {
        times.sort();
        let at = |part: usize| times.get(times.len() * part / 100).map_or(0, Duration::as_micros);
        println!("{name:<28} p50 {:>6} µs   p99 {:>6} µs", at(50), at(99));
    }
}
