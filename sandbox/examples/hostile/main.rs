//! A hostile program in the place of a worker: tries what an attacker would, and reports of each attempt whether it succeeded.
//!
//! It is told its targets in the request that every worker gets: the token of a Kubernetes target, or the variables of a job, as
//! `name=value;name=value`; as an engine in the first line of the module, after `# `. As an operation's worker it writes its report to its
//! socket; as a job's worker into its folder; as an engine among its data. No attempt does harm where it succeeds, and none sends a packet
//! anywhere but to this machine itself.

//!
//! With `conduct=NAME` among its targets it does that one thing instead: what ends its operation or its job (`conduct`).

#![allow(unsafe_code)] // an example of this crate, the only one where it may be: attackers do not use safe wrappers

mod conduct;

use prost::Message as _;
use shared_proto::frame::{Header, Kind};
use shared_proto::v1::{JobStart, Outcome, WorkerRequest, target};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What it is told.
type Targets = BTreeMap<String, String>;
/// What became of an attempt: how it succeeded, or what stopped it.
type Tried = Result<String, String>;

fn main() {
    let mode = std::env::args().nth(1).unwrap_or_default();
    // these parts are played by the real ones, which lie beside. The first process of a job starts this program as the job's worker
    let real = match mode.as_str() {
        "job" | "follow" => Some("real-worker-iac"),
        mode if mode.starts_with("resolve") => Some("real-worker-ops"),
        _ => None,
    };
    if let Some(real) = real {
        let beside = std::env::current_exe().unwrap_or_default().with_file_name(real);
        let error = std::process::Command::new(&beside).args(std::env::args().skip(1)).exec();
        eprintln!("{}: {error}", beside.display());
        return;
    }
    if !["operation", "step"].contains(&mode.as_str()) {
        let module = std::fs::read_to_string("main.tf").unwrap_or_default();
        let mut targets = parse(module.lines().next().unwrap_or_default().trim_start_matches("# "));
        targets.insert("spool".to_owned(), "..".to_owned());
        report_to(&PathBuf::from(std::env::var_os("TF_DATA_DIR").unwrap_or_default()), &tried(&targets));
        return;
    }
    let job = mode == "step";
    let Ok(mut socket) = runner_sandbox::inherited_socket() else { return };
    let mut header = [0; Header::SIZE];
    if socket.read_exact(&mut header).is_err() {
        return;
    }
    let length = usize::from(header[1]) | usize::from(header[2]) << 8 | usize::from(header[3]) << 16;
    let mut content = vec![0; length];
    if socket.read_exact(&mut content).is_err() {
        return;
    }
    let start = JobStart::decode(&content[..]).unwrap_or_default();
    let targets = if job { of_job(&start) } else { of_operation(&content) };
    match targets.get("conduct") {
        Some(name) if job => {
            let foreign = |name: &str| targets.get(name).map(PathBuf::from).unwrap_or_default();
            let (state, foreign, foreign_socket) =
                (PathBuf::from(&start.state_directory), foreign("credentials"), foreign("admin"));
            let id = start.request.map(|r| r.job_id).unwrap_or_default();
            let own = targets.get("state").map(|state| Path::new(state).join("jobs").join(id).join("own"));
            let (own, bystander) = (own.unwrap_or_default(), targets.get("bystander").cloned().unwrap_or_default());
            return conduct::job(name, &conduct::Job { foreign, foreign_socket, state, own, bystander });
        }
        Some(name) => return conduct::operation(name, &socket),
        None => {}
    }
    let report = tried(&targets);
    if job {
        report_to(Path::new(""), &report);
        return;
    }
    let mut say = |kind: Kind, content: &[u8]| {
        if let Ok(header) = Header::new(kind, content.len()) {
            let _ = socket.write_all(&header.encode()).and_then(|()| socket.write_all(content));
        }
    };
    for piece in report.as_bytes().chunks(32 * 1024) {
        say(Kind::Data, piece);
    }
    say(Kind::Outcome, &Outcome { code: "ok".into(), ..Default::default() }.encode_to_vec());
    // whoever reads it ends this process
    let _ = socket.read(&mut [0; 1]);
}

/// Every attempt, one a line.
fn tried(targets: &Targets) -> String {
    let mut report = String::new();
    for (name, attempt) in ATTEMPTS {
        let line = match attempt(targets) {
            Ok(how) => format!("{name}\tSUCCEEDED\t{how}\n"),
            Err(why) => format!("{name}\tstopped\t{why}\n"),
        };
        report.push_str(&line);
    }
    report
}

/// Leaves the report, whole or not at all. The job's end is somebody else's to see.
fn report_to(folder: &Path, report: &str) {
    let _ = std::fs::write(folder.join("hostile.report.new"), report);
    let _ = std::fs::rename(folder.join("hostile.report.new"), folder.join("hostile.report"));
    std::thread::sleep(Duration::from_secs(600));
}

fn of_operation(content: &[u8]) -> Targets {
    match WorkerRequest::decode(content).ok().and_then(|r| r.target).and_then(|t| t.kind) {
        Some(target::Kind::Kubernetes(kubernetes)) => parse(&kubernetes.token),
        _ => Targets::new(),
    }
}

fn of_job(start: &JobStart) -> Targets {
    let targets = start.request.as_ref().and_then(|r| r.variables.get("targets"));
    parse(targets.map_or("", String::as_str))
}

fn parse(text: &str) -> Targets {
    let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

// === what attempts are made of ===

fn path(targets: &Targets, name: &str) -> Result<PathBuf, String> {
    targets.get(name).map(PathBuf::from).ok_or_else(|| format!("not told {name}"))
}

fn number(targets: &Targets, name: &str) -> Result<libc::c_long, String> {
    targets.get(name).and_then(|n| n.parse().ok()).ok_or_else(|| format!("not told {name}"))
}

fn last() -> String {
    std::io::Error::last_os_error().to_string()
}

/// A system call, as it is.
fn call(number: libc::c_long, arguments: [libc::c_long; 6]) -> Result<libc::c_long, String> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: every use passes integers, or pointers to memory that lives through the call.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(last()) } else { Ok(result) }
}

fn address<T>(of: &T) -> libc::c_long {
    std::ptr::from_ref(of) as libc::c_long
}

fn read_file(path: impl AsRef<Path>) -> Tried {
    let mut bytes = vec![0; 64];
    let mut file = File::open(path.as_ref()).map_err(|e| e.to_string())?;
    let read = file.read(&mut bytes).map_err(|e| e.to_string())?;
    if read == 0 { Err("empty".to_owned()) } else { Ok(format!("read {read} bytes")) }
}

/// Of the process that started this one, and what it keeps: only for an engine, whose worker that is.
fn of_worker(targets: &Targets, file: &str) -> Result<PathBuf, String> {
    worker(targets).map(|pid| PathBuf::from(format!("/proc/{pid}/{file}")))
}

fn worker(targets: &Targets) -> Result<libc::c_long, String> {
    match targets.get("spool") {
        // SAFETY: reads a number.
        Some(_) => Ok(unsafe { libc::getppid() }.into()),
        None => Err("no engine".to_owned()),
    }
}

fn spool(targets: &Targets, name: &str) -> Result<PathBuf, String> {
    targets.get("spool").map(|spool| Path::new(spool).join(name)).ok_or_else(|| "no engine".to_owned())
}

fn granted(targets: &Targets, name: &str) -> Result<std::net::SocketAddr, String> {
    targets.get(name).and_then(|a| a.parse().ok()).ok_or_else(|| "nothing is granted".to_owned())
}

/// Changes the address between a granted and a forbidden one while it is judged.
fn race(targets: &Targets) -> Tried {
    let (std::net::SocketAddr::V4(good), std::net::SocketAddr::V4(bad)) =
        (granted(targets, "granted")?, granted(targets, "loopback")?)
    else {
        return Err("no IPv4".to_owned());
    };
    // SAFETY: all zero is a valid value of this plain struct.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as libc::sa_family_t;
    address.sin_addr.s_addr = u32::from(*good.ip()).to_be();
    let port = std::sync::atomic::AtomicU16::new(good.port().to_be());
    // the kernel and whoever judges read these bytes, whatever this program's types say
    let shared = std::ptr::from_mut(&mut address) as usize;
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut won = 0;
    std::thread::scope(|scope| {
        use std::sync::atomic::Ordering::Relaxed;
        scope.spawn(|| {
            let place = (shared + std::mem::offset_of!(libc::sockaddr_in, sin_port)) as *mut u16;
            while !done.load(Relaxed) {
                for next in [good.port(), bad.port()] {
                    port.store(next.to_be(), Relaxed);
                    // SAFETY: the address outlives this scope; that its reader may see half of a change is what is tried.
                    unsafe { place.write_volatile(port.load(Relaxed)) };
                }
            }
        });
        for _ in 0..3000 {
            let Ok(fd) = call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0, 0, 0]) else {
                continue;
            };
            // SAFETY: just made, and known to nobody else.
            let socket = std::net::TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd as i32) });
            let size = size_of::<libc::sockaddr_in>() as libc::c_long;
            let _ = call(libc::SYS_connect, [fd, shared as libc::c_long, size, 0, 0, 0]);
            if socket.peer_addr().is_ok_and(|peer| peer.port() == bad.port()) {
                won += 1;
            }
        }
        done.store(true, Relaxed);
    });
    if won > 0 { Ok(format!("{won} of 3000")) } else { Err("never".to_owned()) }
}

/// Whether connects that hang keep others from being made.
fn hold_connects(targets: &Targets) -> Tried {
    let (stuck, good) = (granted(targets, "stuck")?, granted(targets, "granted")?);
    for _ in 0..64 {
        std::thread::spawn(move || std::net::TcpStream::connect(stuck));
    }
    std::thread::sleep(Duration::from_millis(100));
    let start = std::time::Instant::now();
    match std::net::TcpStream::connect(good) {
        Ok(_) if start.elapsed() < Duration::from_secs(1) => Err("another was made meanwhile".to_owned()),
        other => Ok(format!("{other:?} after {:?}", start.elapsed())),
    }
}

/// Anything in the folder of a job but its own.
fn neighbours_spool(jobs: &Path) -> Tried {
    let own = std::env::current_dir().unwrap_or_default();
    let entries = std::fs::read_dir(jobs).map_err(|e| e.to_string())?;
    let others = entries.flatten().map(|e| e.path()).filter(|path| !own.starts_with(path));
    any(others.map(|path| list(path.join("work"))))
}

fn read_link(path: impl AsRef<Path>) -> Tried {
    std::fs::read_link(path).map(|to| to.display().to_string()).map_err(|e| e.to_string())
}

fn list(path: impl AsRef<Path>) -> Tried {
    let entries = std::fs::read_dir(path.as_ref()).map_err(|e| e.to_string())?;
    Ok(format!("{} entries", entries.count()))
}

/// Of the supervisor's /proc entry, and of a neighbour's.
fn of_process(targets: &Targets, who: &str, file: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(format!("/proc/{}/{file}", number(targets, who)?)))
}

fn socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> Tried {
    let fd = call(libc::SYS_socket, [family.into(), kind.into(), protocol.into(), 0, 0, 0])?;
    // SAFETY: just made, and known to nobody else.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    Ok("made".to_owned())
}

/// Whether a datagram socket can be pointed there: no packet is sent by that.
fn reach(to: &str) -> Tried {
    let to: std::net::SocketAddr = to.parse().map_err(|_| "no address".to_owned())?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = std::net::UdpSocket::bind(any).map_err(|e| e.to_string())?;
    socket.connect(to).map_err(|e| e.to_string())?;
    Ok("would send".to_owned())
}

fn connect(targets: &Targets, name: &str) -> Tried {
    let to = targets.get(name).and_then(|a| a.parse().ok()).ok_or_else(|| format!("not told {name}"))?;
    let within = std::time::Duration::from_secs(2);
    std::net::TcpStream::connect_timeout(&to, within).map(|_| "connected".to_owned()).map_err(|e| e.to_string())
}

/// Whether it could be written: nothing is.
fn written(path: &Path) -> Tried {
    OpenOptions::new().write(true).open(path).map(|_| "opened".to_owned()).map_err(|e| e.to_string())
}

/// Whether it could be moved away: it is moved back.
fn replaced(path: &Path) -> Tried {
    let away = path.with_extension("away");
    std::fs::rename(path, &away).map_err(|e| e.to_string())?;
    std::fs::rename(&away, path).map(|()| "moved".to_owned()).map_err(|e| e.to_string())
}

fn write_new(path: impl AsRef<Path>) -> Tried {
    let path = path.as_ref();
    OpenOptions::new().write(true).create_new(true).open(path).map_err(|e| e.to_string())?;
    let _ = std::fs::remove_file(path);
    Ok(format!("wrote {}", path.display()))
}

/// Succeeds if one of them does.
fn any(attempts: impl IntoIterator<Item = Tried>) -> Tried {
    let mut why = "there is none".to_owned();
    for tried in attempts {
        match tried {
            Ok(how) => return Ok(how),
            Err(e) => why = e,
        }
    }
    Err(why)
}

fn fork(then: impl FnOnce()) -> Tried {
    // SAFETY: this process has one thread; the child only does what is handed in and ends.
    match unsafe { libc::fork() } {
        -1 => Err(last()),
        0 => {
            then();
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        pid => {
            // SAFETY: reaps the child, without its status.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            Ok("forked".to_owned())
        }
    }
}

type Attempt = fn(&Targets) -> Tried;

/// Every attempt by its name.
const ATTEMPTS: &[(&str, Attempt)] = &[
    // the runner's identity
    ("credentials_by_path", |t| read_file(path(t, "credentials")?)),
    ("credentials_by_dots", |t| {
        read_file(Path::new("/usr/lib/../..").join(path(t, "credentials")?.strip_prefix("/").unwrap_or(Path::new("x"))))
    }),
    ("credentials_by_symbolic_link", |t| {
        let link = PathBuf::from("link-to-credentials");
        std::os::unix::fs::symlink(path(t, "credentials")?, &link).map_err(|e| e.to_string())?;
        let tried = read_file(&link);
        let _ = std::fs::remove_file(&link);
        tried
    }),
    ("credentials_by_hard_link", |t| {
        let link = PathBuf::from("hard-link-to-credentials");
        std::fs::hard_link(path(t, "credentials")?, &link).map_err(|e| e.to_string())?;
        let tried = read_file(&link);
        let _ = std::fs::remove_file(&link);
        tried
    }),
    ("credentials_by_proc_root", |t| {
        read_file(of_process(t, "supervisor", &format!("root{}", path(t, "credentials")?.display()))?)
    }),
    ("credentials_by_own_root", |t| read_file(format!("/proc/self/root{}", path(t, "credentials")?.display()))),
    ("credentials_by_cwd_of_launcher", |t| list(of_process(t, "launcher", "cwd/")?)),
    ("credentials_chmod", |t| {
        let file = path(t, "credentials")?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))
            .map(|()| "changed".to_owned())
            .map_err(|e| e.to_string())
    }),
    ("credentials_utimes", |t| {
        let file = CString::new(path(t, "credentials")?.display().to_string()).map_err(|e| e.to_string())?;
        call(libc::SYS_utimensat, [libc::AT_FDCWD.into(), file.as_ptr() as libc::c_long, 0, 0, 0, 0])
            .map(|_| "touched".to_owned())
    }),
    ("credentials_inotify", |t| {
        let file = CString::new(path(t, "credentials")?.display().to_string()).map_err(|e| e.to_string())?;
        let fd = call(libc::SYS_inotify_init1, [0; 6])?;
        call(libc::SYS_inotify_add_watch, [fd, file.as_ptr() as libc::c_long, libc::IN_MODIFY.into(), 0, 0, 0])
            .map(|_| "watches".to_owned())
    }),
    ("state_directory", |t| list(path(t, "state")?)),
    ("neighbours_spool", |t| neighbours_spool(&path(t, "state")?.join("jobs"))),
    ("other_connections_file", |t| read_file(path(t, "other_connection")?)),
    // what its neighbours read and execute: a mirror of providers, an engine
    ("provider_mirror_written", |t| written(&path(t, "mirror")?.join("provider"))),
    ("provider_mirror_added_to", |t| write_new(path(t, "mirror")?.join("x"))),
    ("provider_mirror_replaced", |t| replaced(&path(t, "mirror")?.join("provider"))),
    ("engine_written", |t| written(&path(t, "engine")?)),
    ("engine_replaced", |t| replaced(&path(t, "engine")?)),
    // an engine's own worker
    ("worker_environ", |t| read_file(of_worker(t, "environ")?)),
    ("worker_memory", |t| File::open(of_worker(t, "mem")?).map(|_| "opened".to_owned()).map_err(|e| e.to_string())),
    // whoever started this: a job's first process, or the worker
    ("parent_memory", |_| {
        // SAFETY: reads a number.
        let parent = unsafe { libc::getppid() };
        let memory = OpenOptions::new().write(true).open(format!("/proc/{parent}/mem"));
        memory.map(|_| "opened".to_owned()).map_err(|e| e.to_string())
    }),
    ("worker_descriptors", |t| list(of_worker(t, "fd")?).and_then(|_| read_link(of_worker(t, "fd/0")?))),
    ("worker_signal", |t| call(libc::SYS_kill, [worker(t)?, 0, 0, 0, 0, 0]).map(|_| "may".to_owned())),
    ("worker_ptrace", |t| call(libc::SYS_ptrace, [0x4206, worker(t)?, 0, 0, 0, 0]).map(|_| "seized".to_owned())),
    ("first_signal", |t| worker(t).and_then(|_| call(libc::SYS_kill, [1, 0, 0, 0, 0, 0])).map(|_| "may".to_owned())),
    ("spool_written", |t| {
        let events = OpenOptions::new().append(true).open(spool(t, "events")?);
        events.map(|_| "opened".to_owned()).map_err(|e| e.to_string())
    }),
    ("spool_replaced", |t| {
        let (old, new) = (spool(t, "control.sock")?, spool(t, "control.moved")?);
        std::fs::rename(&old, &new).map_err(|e| e.to_string())?;
        std::fs::rename(&new, &old).map(|()| "moved".to_owned()).map_err(|e| e.to_string())
    }),
    ("spool_added_to", |t| write_new(spool(t, "x")?)),
    ("spool_linked", |t| {
        std::fs::hard_link(spool(t, "events")?, "linked").map(|()| "linked".to_owned()).map_err(|e| e.to_string())
    }),
    // what is connected for it
    ("granted_port", |t| {
        let connected = std::net::TcpStream::connect_timeout(&granted(t, "granted")?, Duration::from_secs(2));
        connected.map(|_| "connected".to_owned()).map_err(|e| e.to_string())
    }),
    ("connect_race", race),
    ("connects_that_hang", hold_connects),
    ("datagram", |t| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
        let sent = socket.send_to(b"x", granted(t, "datagrams")?).map_err(|e| e.to_string())?;
        // whether it arrives is for whoever waits for it to say
        Err(format!("{sent} bytes on their way"))
    }),
    ("configuration", |t| write_new(path(t, "state")?.join("x"))),
    // the supervisor's memory
    ("supervisor_environ", |t| read_file(of_process(t, "supervisor", "environ")?)),
    ("supervisor_memory", |t| {
        File::open(of_process(t, "supervisor", "mem")?).map(|_| "opened".to_owned()).map_err(|e| e.to_string())
    }),
    ("supervisor_maps", |t| read_file(of_process(t, "supervisor", "maps")?)),
    ("supervisor_descriptors", |t| list(of_process(t, "supervisor", "fd")?)),
    ("supervisor_ptrace", |t| {
        call(libc::SYS_ptrace, [0x4206, number(t, "supervisor")?, 0, 0, 0, 0]).map(|_| "seized".to_owned())
    }),
    ("supervisor_vm_read", |t| {
        let mut bytes = [0_u8; 8];
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 8 };
        let remote = libc::iovec { iov_base: 0x1000 as *mut libc::c_void, iov_len: 8 };
        match call(libc::SYS_process_vm_readv, [number(t, "supervisor")?, address(&local), 1, address(&remote), 1, 0]) {
            // it was let through, and there is nothing at that address
            Err(e) if e.contains("Bad address") => Ok(e),
            tried => tried.map(|_| "read".to_owned()),
        }
    }),
    ("supervisor_pidfd_getfd", |t| {
        let pidfd = call(libc::SYS_pidfd_open, [number(t, "supervisor")?, 0, 0, 0, 0, 0])?;
        any((0..32).map(|fd| call(libc::SYS_pidfd_getfd, [pidfd, fd, 0, 0, 0, 0]).map(|_| format!("took {fd}"))))
    }),
    ("spawner_memory", |t| {
        File::open(of_process(t, "spawner", "mem")?).map(|_| "opened".to_owned()).map_err(|e| e.to_string())
    }),
    ("neighbour_environ", |t| read_file(of_process(t, "neighbour", "environ")?)),
    ("neighbour_memory", |t| {
        File::open(of_process(t, "neighbour", "mem")?).map(|_| "opened".to_owned()).map_err(|e| e.to_string())
    }),
    ("processes_are_seen", |t| read_file(of_process(t, "supervisor", "stat")?)),
    // other processes
    ("supervisor_signal", |t| {
        call(libc::SYS_kill, [number(t, "supervisor")?, 0, 0, 0, 0, 0]).map(|_| "may".to_owned())
    }),
    ("supervisor_pidfd_signal", |t| {
        let pidfd = call(libc::SYS_pidfd_open, [number(t, "supervisor")?, 0, 0, 0, 0, 0])?;
        call(libc::SYS_pidfd_send_signal, [pidfd, 0, 0, 0, 0, 0]).map(|_| "may".to_owned())
    }),
    ("spawner_signal", |t| call(libc::SYS_kill, [number(t, "spawner")?, 0, 0, 0, 0, 0]).map(|_| "may".to_owned())),
    ("neighbour_signal", |t| call(libc::SYS_kill, [number(t, "neighbour")?, 0, 0, 0, 0, 0]).map(|_| "may".to_owned())),
    ("supervisor_renice", |t| {
        call(libc::SYS_setpriority, [0, number(t, "supervisor")?, 19, 0, 0, 0]).map(|_| "reniced".to_owned())
    }),
    ("supervisor_limits", |t| {
        let limit = [0_u64; 2];
        call(libc::SYS_prlimit64, [number(t, "supervisor")?, libc::RLIMIT_CPU.into(), 0, address(&limit), 0, 0])
            .map(|_| "may".to_owned())
    }),
    ("supervisor_affinity", |t| {
        let mask = [u64::MAX; 16];
        call(libc::SYS_sched_setaffinity, [number(t, "supervisor")?, 128, address(&mask), 0, 0, 0])
            .map(|_| "set".to_owned())
    }),
    ("supervisor_scheduler", |t| {
        let zero = 0_i32;
        call(libc::SYS_sched_setscheduler, [number(t, "supervisor")?, libc::SCHED_IDLE.into(), address(&zero), 0, 0, 0])
            .map(|_| "idle".to_owned())
    }),
    ("supervisor_io_priority", |t| {
        call(libc::SYS_ioprio_set, [1, number(t, "supervisor")?, 3 << 13, 0, 0, 0]).map(|_| "idle".to_owned())
    }),
    ("supervisor_oom_score", |t| {
        OpenOptions::new()
            .write(true)
            .open(of_process(t, "supervisor", "oom_score_adj")?)
            .map(|_| "opened".to_owned())
            .map_err(|e| e.to_string())
    }),
    ("own_priority_raised", |_| call(libc::SYS_setpriority, [0, 0, -20, 0, 0, 0]).map(|_| "raised".to_owned())),
    ("realtime_scheduler", |_| {
        let one = 1_i32;
        call(libc::SYS_sched_setscheduler, [0, libc::SCHED_FIFO.into(), address(&one), 0, 0, 0])
            .map(|_| "real time".to_owned())
    }),
    // the network
    ("admin_socket", |t| {
        let mut socket = UnixStream::connect(path(t, "admin")?).map_err(|e| e.to_string())?;
        let mut answer = String::new();
        socket
            .write_all(b"status\n")
            .and_then(|()| socket.shutdown(std::net::Shutdown::Write))
            .map_err(|e| e.to_string())?;
        socket.read_to_string(&mut answer).map_err(|e| e.to_string())?;
        if answer.contains("isolation") { Ok("asked for its status".to_owned()) } else { Err("no answer".to_owned()) }
    }),
    ("abstract_socket", |t| {
        let name = t.get("abstract").ok_or("not told abstract")?;
        let to = SocketAddr::from_abstract_name(name).map_err(|e| e.to_string())?;
        UnixStream::connect_addr(&to).map(|_| "connected".to_owned()).map_err(|e| e.to_string())
    }),
    ("loopback_port", |t| connect(t, "loopback")),
    ("control_plane", |t| connect(t, "control_plane")),
    ("metadata_aws", |_| reach("169.254.169.254:80")),
    ("metadata_ecs", |_| reach("169.254.170.2:80")),
    ("metadata_eks", |_| reach("169.254.170.23:80")),
    ("metadata_azure", |_| reach("168.63.129.16:80")),
    ("metadata_v6", |_| any(["[fd00:ec2::254]:80", "[fd00:ec2::23]:80", "[::ffff:169.254.169.254]:80"].map(reach))),
    ("socket_tcp", |_| socket(libc::AF_INET, libc::SOCK_STREAM, 0)),
    ("socket_raw", |_| socket(libc::AF_INET, libc::SOCK_RAW, 1)),
    ("socket_packet", |_| socket(libc::AF_PACKET, libc::SOCK_RAW, 0)),
    ("socket_vsock", |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ("socket_alg", |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    ("socket_netlink_audit", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, 9)),
    ("socket_unix", |_| socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)),
    // files
    ("read_passwd", |_| read_file("/etc/passwd")),
    ("read_home", |_| any(["/root", "/home"].map(list))),
    ("list_var", |_| list("/var")),
    ("write_tmp", |_| write_new("/tmp/h")),
    ("write_outside", |_| any(["/var/tmp/h", "/dev/shm/h", "/run/h", "/usr/lib/h", "/h"].map(write_new))),
    ("devices", |_| any(["/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/kvm", "/dev/fuse"].map(read_file))),
    ("overwrite_own_program", |_| {
        OpenOptions::new().write(true).open("/proc/self/exe").map(|_| "opened".to_owned()).map_err(|e| e.to_string())
    }),
    ("core_pattern", |_| {
        OpenOptions::new()
            .write(true)
            .open("/proc/sys/kernel/core_pattern")
            .map(|_| "opened".to_owned())
            .map_err(|e| e.to_string())
    }),
    ("device_node", |_| {
        let name = c"a-device";
        call(
            libc::SYS_mknodat,
            [libc::AT_FDCWD.into(), name.as_ptr() as libc::c_long, (libc::S_IFCHR | 0o600).into(), 0x0101, 0, 0],
        )
        .map(|_| "made".to_owned())
    }),
    ("open_by_handle", |_| {
        let handle = [0_u8; 136];
        match call(libc::SYS_open_by_handle_at, [libc::AT_FDCWD.into(), address(&handle), 0, 0, 0, 0]) {
            Err(e) if e.contains("Invalid") || e.contains("Stale") => Ok(e),
            tried => tried.map(|_| "opened".to_owned()),
        }
    }),
    ("lease", |_| {
        let file = File::open("/usr/lib/os-release")
            .or_else(|_| File::open("/lib/ld-linux.so.2"))
            .or_else(|_| File::create("own"))
            .map_err(|e| e.to_string())?;
        call(libc::SYS_fcntl, [file.as_raw_fd().into(), 1024, libc::F_RDLCK.into(), 0, 0, 0])
            .map(|_| "leased".to_owned())
    }),
    // privileges
    ("setuid", |_| {
        call(libc::SYS_setresuid, [0; 6])
            .and_then(|_| {
                if std::env::args().count() > 9 {
                    Ok(0)
                } else {
                    call(libc::SYS_setresuid, [12345, 12345, 12345, 0, 0, 0])
                }
            })
            .map(|_| "became another".to_owned())
    }),
    ("mount", |_| {
        call(libc::SYS_mount, [c"x".as_ptr() as i64, c"/tmp".as_ptr() as i64, c"tmpfs".as_ptr() as i64, 0, 0, 0])
            .map(|_| "mounted".to_owned())
    }),
    ("new_mount_api", |_| {
        call(libc::SYS_fsopen, [c"tmpfs".as_ptr() as i64, 0, 0, 0, 0, 0]).map(|_| "opened".to_owned())
    }),
    ("umount", |_| call(libc::SYS_umount2, [c"/".as_ptr() as i64, 2, 0, 0, 0, 0]).map(|_| "unmounted".to_owned())),
    ("pivot_root", |_| {
        call(libc::SYS_pivot_root, [c".".as_ptr() as i64, c".".as_ptr() as i64, 0, 0, 0, 0])
            .map(|_| "pivoted".to_owned())
    }),
    ("chroot", |_| call(libc::SYS_chroot, [c".".as_ptr() as i64, 0, 0, 0, 0, 0]).map(|_| "changed".to_owned())),
    ("unshare_user", |_| {
        call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0, 0]).map(|_| "unshared".to_owned())
    }),
    ("unshare_network", |_| {
        call(libc::SYS_unshare, [libc::CLONE_NEWNET.into(), 0, 0, 0, 0, 0]).map(|_| "unshared".to_owned())
    }),
    ("clone_user", |_| {
        call(libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::SIGCHLD).into(), 0, 0, 0, 0, 0]).map(|pid| {
            if pid == 0 {
                std::process::exit(0)
            }
            "cloned".to_owned()
        })
    }),
    ("setns", |t| {
        let file = File::open(of_process(t, "supervisor", "ns/mnt")?).map_err(|e| e.to_string())?;
        call(libc::SYS_setns, [file.as_raw_fd().into(), 0, 0, 0, 0, 0]).map(|_| "entered".to_owned())
    }),
    ("capabilities", |_| {
        let text = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
        let some = text
            .lines()
            .any(|l| (l.starts_with("CapEff") || l.starts_with("CapPrm")) && !l.ends_with("0000000000000000"));
        if some { Ok("has some".to_owned()) } else { Err("has none".to_owned()) }
    }),
    ("keyring_add", |_| {
        call(libc::SYS_add_key, [c"user".as_ptr() as i64, c"h".as_ptr() as i64, c"x".as_ptr() as i64, 1, -3, 0])
            .map(|_| "added".to_owned())
    }),
    ("keyctl", |_| call(libc::SYS_keyctl, [0, -3, 0, 0, 0, 0]).map(|_| "has a session's keys".to_owned())),
    ("bpf", |_| {
        call(libc::SYS_bpf, [0, 0, 0, 0, 0, 0])
            .map(|_| "called".to_owned())
            .or_else(|e| if e.contains("not permitted") || e.contains("not implemented") { Err(e) } else { Ok(e) })
    }),
    ("perf", |_| {
        let attr = [0_u8; 128];
        call(libc::SYS_perf_event_open, [address(&attr), 0, -1, -1, 0, 0]).map(|_| "opened".to_owned()).or_else(|e| {
            if e.contains("not permitted") || e.contains("denied") || e.contains("implemented") {
                Err(e)
            } else {
                Ok(e)
            }
        })
    }),
    ("userfaultfd", |_| call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]).map(|_| "made".to_owned())),
    ("io_uring", |_| {
        let params = [0_u8; 120];
        call(libc::SYS_io_uring_setup, [8, address(&params), 0, 0, 0, 0]).map(|_| "made".to_owned())
    }),
    ("kexec", |_| call(libc::SYS_kexec_load, [0; 6]).map(|_| "called".to_owned())),
    ("modules", |_| {
        call(libc::SYS_init_module, [0, 0, c"".as_ptr() as i64, 0, 0, 0])
            .map(|_| "called".to_owned())
            .or_else(|e| if e.contains("not permitted") { Err(e) } else { Ok(e) })
    }),
    ("reboot_disabled", |_| {
        call(libc::SYS_reboot, [0; 6])
            .map(|_| "called".to_owned())
            .or_else(|e| if e.contains("not permitted") { Err(e) } else { Ok(e) })
    }),
    ("host_name", |_| call(libc::SYS_sethostname, [c"h".as_ptr() as i64, 1, 0, 0, 0, 0]).map(|_| "set".to_owned())),
    ("kernel_log", |_| call(libc::SYS_syslog, [10, 0, 0, 0, 0, 0]).map(|_| "asked".to_owned())),
    ("terminal_input", |_| {
        call(libc::SYS_ioctl, [0, 0x5412, c"x".as_ptr() as i64, 0, 0, 0])
            .map(|_| "typed".to_owned())
            .or_else(|e| if e.contains("not permitted") { Err(e) } else { Ok(e) })
    }),
    ("personality", |_| call(libc::SYS_personality, [0x0040000, 0, 0, 0, 0, 0]).map(|_| "set".to_owned())),
    ("death_signal_cleared", |_| call(libc::SYS_prctl, [1, 0, 0, 0, 0, 0]).map(|_| "cleared".to_owned())),
    ("core_dumps", |_| {
        let limit = [u64::MAX; 2];
        call(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE.into(), address(&limit), 0, 0, 0]).map(|_| "allowed".to_owned())
    }),
    // what is shared beside files
    ("system_v_memory", |_| {
        call(libc::SYS_shmget, [0x1234, 4096, 0o1666, 0, 0, 0]).map(|id| {
            let _ = call(libc::SYS_shmctl, [id, 0, 0, 0, 0, 0]);
            "made".to_owned()
        })
    }),
    ("system_v_semaphores", |_| {
        call(libc::SYS_semget, [0x1234, 1, 0o1666, 0, 0, 0]).map(|id| {
            let _ = call(libc::SYS_semctl, [id, 0, 0, 0, 0, 0]);
            "made".to_owned()
        })
    }),
    ("system_v_messages", |_| {
        call(libc::SYS_msgget, [0x1234, 0o1666, 0, 0, 0, 0]).map(|id| {
            let _ = call(libc::SYS_msgctl, [id, 0, 0, 0, 0, 0]);
            "made".to_owned()
        })
    }),
    ("posix_queue", |_| {
        call(libc::SYS_mq_open, [c"h".as_ptr() as i64, 0o102, 0o600, 0, 0, 0]).map(|_| "opened".to_owned())
    }),
    // processes and what they may take
    ("child_process", |_| fork(|| ())),
    ("another_program", |_| {
        let status =
            std::process::Command::new("/bin/sh").arg("-c").arg("exit 0").status().map_err(|e| e.to_string())?;
        Ok(format!("{status}"))
    }),
    ("memory_without_end", |_| {
        let size = 2_usize << 30;
        // SAFETY: a new private mapping; nothing is touched.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(last());
        }
        // SAFETY: the mapping that was just made.
        unsafe { libc::munmap(map, size) };
        Ok("2 GiB".to_owned())
    }),
    ("descriptors_without_end", |_| {
        let mut kept = Vec::new();
        for n in 0..100_000 {
            // SAFETY: copies descriptor 3, which stays open; the copy is owned here.
            match unsafe { libc::fcntl(3, libc::F_DUPFD_CLOEXEC, 10) } {
                -1 => return Err(format!("after {n}: {}", last())),
                // SAFETY: just made.
                fd => kept.push(unsafe { OwnedFd::from_raw_fd(fd) }),
            }
        }
        Ok(format!("{} descriptors", kept.len()))
    }),
    ("memory_file", |_| call(libc::SYS_memfd_create, [c"h".as_ptr() as i64, 0, 0, 0, 0, 0]).map(|_| "made".to_owned())),
    // last: it may leave something behind
    ("process_left_behind", |_| {
        fork(|| {
            // SAFETY: in the child; it becomes a daemon and sleeps.
            unsafe {
                if libc::fork() == 0 {
                    libc::setsid();
                    libc::execl(
                        c"/bin/sleep".as_ptr(),
                        c"left-by-a-worker".as_ptr(),
                        c"300".as_ptr(),
                        std::ptr::null::<libc::c_char>(),
                    );
                }
            }
        })
    }),
];
