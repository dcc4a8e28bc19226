//! What starting a confined process costs: from asking for it to its first byte, beside a plain execution, unshare(1), bwrap and runc, in
//! interleaved runs; then a request to a confined process that waits for it, beside one to a process that is not confined and stays; and how
//! many are started, answered and reaped in a second. What goes through a supervisor is what `bench-operations` measures. Build with
//! `--release`; run as root, as the spawner of a service is, or as a user.
//!
//! ```text
//! bench-spawn [RUNS]     200 unless given. Needs cc; leaves out of unshare, bwrap and runc what is not here
//! ```
//! The process is a static one of a few lines, so that what is added can be told from what its own start takes; the real worker's figure
//! stands beside it.
#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, bail, ensure};
use runner_sandbox::confine::{Confinement, Limits, Namespaces, Own, Root, User};
use runner_sandbox::landlock::{Access, Ruleset, Scope};
use runner_sandbox::{profiles, spawn};
use runner_tests::scratch::Scratch;
use shared_proto::frame::{Header, Kind};
use std::ffi::CStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Says one byte; where it serves, one for each that it is told. Without a C library, whose start asks the processor for its features: in
/// virtual machines that takes longer than all the rest.
const CHILD: &str = r#"
#if defined(__x86_64__)
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
static long sys(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
enum { READ = 0, WRITE = 1, EXIT = 231 };
#elif defined(__aarch64__)
__asm__(".globl _start\n_start: mov x0, sp\n bl begin\n");
static long sys(long n, long a, long b, long c) {
    register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}
enum { READ = 63, WRITE = 64, EXIT = 94 };
#endif
void begin(long *stack) {
    char c = 'x', **argv = (char **)(stack + 1);
    char mode = stack[0] > 1 ? argv[1][0] : 0;
    int fd = mode == 'o' ? 1 : 3;
    if (mode == 's') {
        while (sys(READ, fd, (long)&c, 1) == 1 && sys(WRITE, fd, (long)&c, 1) == 1);
        sys(EXIT, 0, 0, 0);
    }
    sys(EXIT, sys(WRITE, fd, (long)&c, 1) != 1, 0, 0);
}
"#;
const LIMITS: Limits =
    Limits { descriptors: 1024, file_size: 64 << 20, memory: 512 << 20, processes: u64::MAX, niceness: 0 };
/// What an operation's worker sees.
const ROOT: &[&str] = &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/ssl/certs"];
/// Workers that wait at once, where memory is measured.
const POOL: u64 = 16;
/// For how long starts are counted.
const COUNTED: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    let runs: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200);
    let result = Bench::new().and_then(|mut bench| bench.run(runs));
    runner_tests::scratch::remove_root();
    result
}

struct Bench {
    folder: Scratch,
    child: File,
    worker: Option<File>,
    domain: Option<Ruleset>,
    filter: runner_sandbox::seccomp::Filter,
    namespaces: Namespaces,
    with_network: Namespaces,
    own: Option<Own>,
    /// Where it is root: what its children's root stands in, as that of operations does.
    standing: Option<File>,
    spawner: Option<spawn::Spawner>,
}

/// A way to start the process.
#[derive(Clone, Copy)]
enum Way {
    /// By this crate's spawner, confined so.
    Ours(Confined),
    /// The real worker of operations, confined with everything but a network namespace, to the end of a request that it refuses.
    Worker,
    /// By another program.
    Other(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Confined {
    Not,
    Limits,
    Domain,
    Filter,
    All,
    AllWithNetwork,
}

impl Bench {
    fn new() -> Result<Self> {
        let folder = Scratch::new("bench-spawn")?;
        let (source, program) = (folder.join("child.c"), folder.join("root/child"));
        std::fs::create_dir_all(folder.join("root"))?;
        std::fs::write(&source, CHILD)?;
        let built = Command::new("cc")
            .args(["-O2", "-static", "-nostdlib", "-fno-stack-protector", "-o"])
            .arg(&program)
            .arg(&source)
            .status();
        ensure!(built.context("cc")?.success(), "cc cannot build a static program");
        let child = File::open(&program)?;
        let own_folder = std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default();
        let worker = File::open(own_folder.join("runner-worker-ops")).ok();
        let domain = Ruleset::new(Scope { no_tcp: true, own_signals_and_sockets: true }).ok();
        if let Some(domain) = &domain {
            for path in ROOT {
                domain.allow_path(Path::new(path), Access::Read)?;
            }
            for program in [Some(&child), worker.as_ref()].into_iter().flatten() {
                domain.allow(program, Access::Read)?;
            }
        }
        let root = nix::unistd::geteuid().is_root();
        if root {
            // as the spawner does: a child that is not confined is what it was
            runner_sandbox::own::bound_children()?;
        }
        let shown = ROOT.iter().fold(Root::default(), |root, path| root.show(Path::new(path)));
        let user = if root { User::Shared } else { User::Same };
        let mut bench = Self {
            folder,
            child,
            worker,
            domain,
            filter: profiles::OPERATION.compile()?,
            namespaces: Namespaces { user, network: false, root: Some(shown.clone()) },
            with_network: Namespaces { user, network: true, root: Some(shown) },
            own: root.then_some(Own { uid: 1_900_000_000, gid: 1_900_000_000 }),
            standing: None,
            spawner: Some(spawn::Spawner::new()?),
        };
        if root {
            bench.stand()?;
        }
        Ok(bench)
    }

    /// Has the root put together once.
    fn stand(&mut self) -> Result<()> {
        let own = self.own.take();
        let (pid, socket) = self.start(Confined::All, c"child", Some(c"serve"))?;
        self.standing = Some(runner_sandbox::confine::root_of(pid)?);
        self.own = own;
        drop(socket);
        reap(pid)
    }

    fn run(&mut self, runs: usize) -> Result<()> {
        let mut ways = vec![
            ("plain execution", Way::Ours(Confined::Not)),
            ("limits, no capabilities", Way::Ours(Confined::Limits)),
            ("and a Landlock domain", Way::Ours(Confined::Domain)),
            ("and a filter", Way::Ours(Confined::Filter)),
            ("all, in a shared empty network", Way::Ours(Confined::All)),
            ("all, with a network of its own", Way::Ours(Confined::AllWithNetwork)),
        ];
        if self.worker.is_some() {
            ways.push(("the real worker, all, shared network", Way::Worker));
        }
        for (name, way) in [
            ("unshare(1), no filter, no domain", Way::Other("unshare")),
            ("bwrap --unshare-all, no filter", Way::Other("bwrap")),
            ("runc run", Way::Other("runc")),
        ] {
            match self.once(way) {
                Ok(_) => ways.push((name, way)),
                Err(e) => println!("{name}: not to be had here ({e:#})"),
            }
        }
        let mut times = vec![Vec::with_capacity(runs); ways.len()];
        for _ in 0..runs {
            for ((_, way), times) in ways.iter().zip(&mut times) {
                times.push(self.once(*way)?);
            }
        }
        println!("from asking for it to its first byte, µs, {runs} interleaved runs:");
        let mut medians = Vec::new();
        for ((name, _), times) in ways.iter().zip(&mut times) {
            let (median, p99) = percentiles(times);
            println!("  {name:<38} p50 {median:>6}   p99 {p99:>6}");
            medians.push((*name, median));
        }
        let of = |start: &str| medians.iter().find(|(name, _)| name.starts_with(start)).map(|(_, m)| *m as f64);
        if let (Some(bwrap), Some(own), Some(shared)) = (of("bwrap"), of("all, with"), of("all, in")) {
            println!(
                "of bwrap's: {:.2} with a network of its own (promised: 0.33), {:.2} in a shared one (0.17)",
                own / bwrap,
                shared / bwrap
            );
        }
        self.warm(runs)?;
        self.memory()?;
        self.rate()
    }

    /// What each of a pool of real workers takes, with what they share divided among them.
    fn memory(&mut self) -> Result<()> {
        if self.worker.is_none() {
            return Ok(());
        }
        let mut pool = Vec::new();
        for _ in 0..POOL {
            pool.push(self.start(Confined::All, c"runner-worker-ops", Some(c"operation"))?);
        }
        // they have had their time to come to wait
        std::thread::sleep(Duration::from_millis(200));
        let mut kib = 0;
        for (pid, _) in &pool {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let pss =
                text.lines().find_map(|l| l.strip_prefix("Pss:")?.split_ascii_whitespace().next()?.parse::<u64>().ok());
            kib += pss.context("no PSS")?;
        }
        println!("{POOL} real workers that wait: {} KiB each (PSS)", kib / POOL);
        for (pid, socket) in pool {
            drop(socket);
            reap(pid)?;
        }
        Ok(())
    }

    fn confine(&self, confined: Confined) -> Option<Confinement<'_>> {
        let bare = Confinement {
            limits: LIMITS,
            namespaces: None,
            network: None,
            standing: None,
            own: None,
            files_as: None,
            domain: None,
            filter: None,
        };
        let domain = self.domain.as_ref();
        let filter = Some(&self.filter);
        let standing = self.standing.as_ref().map(|s| s.as_fd());
        let all = Confinement { namespaces: Some(&self.namespaces), standing, own: self.own, domain, filter, ..bare };
        match confined {
            Confined::Not => None,
            Confined::Limits => Some(bare),
            Confined::Domain => Some(Confinement { domain, ..bare }),
            Confined::Filter => Some(Confinement { domain, filter, ..bare }),
            Confined::All => Some(all),
            Confined::AllWithNetwork => Some(Confinement { namespaces: Some(&self.with_network), ..all }),
        }
    }

    /// One start, to the first byte; reaped afterwards.
    fn once(&mut self, way: Way) -> Result<Duration> {
        let start = Instant::now();
        match way {
            Way::Ours(confined) => {
                let (pid, mut socket) = self.start(confined, c"child", None)?;
                socket.read_exact(&mut [0; 1])?;
                let took = start.elapsed();
                reap(pid)?;
                Ok(took)
            }
            Way::Worker => {
                let (pid, mut socket) = self.start(Confined::All, c"runner-worker-ops", Some(c"operation"))?;
                ask(&mut socket)?;
                let took = start.elapsed();
                drop(socket);
                reap(pid)?;
                Ok(took)
            }
            Way::Other(name) => self.other(name, start),
        }
    }

    fn start(&mut self, confined: Confined, name: &CStr, argument: Option<&CStr>) -> Result<(i32, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        // a worker of operations has a second one, to ask for connections
        let (_asks, second) = UnixStream::pair()?;
        let arguments: Vec<&CStr> = [name].into_iter().chain(argument).collect();
        let program = if name == c"child" { Some(&self.child) } else { self.worker.as_ref() };
        let program = program.context("no worker")?.try_clone()?;
        // it cannot be borrowed beside what confines
        let mut spawner = self.spawner.take().context("a spawner")?;
        let confine = self.confine(confined);
        let started = spawner.spawn(&spawn::Plan {
            program: spawn::Program::File(program.as_fd()),
            arguments: &arguments,
            environment: &[],
            inherit: &[theirs.as_fd(), second.as_fd()],
            directory: None,
            silent: true,
            own_session: true,
            dies_with_parent: true,
            confine: confine.as_ref(),
            handover: None,
        });
        self.spawner = Some(spawner);
        Ok((started?, ours))
    }

    fn other(&self, name: &str, start: Instant) -> Result<Duration> {
        let root = self.folder.join("root");
        let mut command = Command::new(name);
        match name {
            "unshare" => {
                command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--net", "--ipc", "--uts"]);
                command.arg("--cgroup").arg(root.join("child")).arg("out");
            }
            "bwrap" => {
                command
                    .args(["--unshare-all", "--die-with-parent", "--ro-bind"])
                    .arg(&root)
                    .args(["/", "/child", "out"]);
            }
            "runc" => {
                let bundle = self.folder.path();
                if !bundle.join("config.json").exists() {
                    let made = Command::new("runc").arg("spec").current_dir(bundle).status()?;
                    ensure!(made.success(), "runc spec");
                    let text = std::fs::read_to_string(bundle.join("config.json"))?;
                    let mut spec: serde_json::Value = serde_json::from_str(&text)?;
                    spec["process"]["terminal"] = false.into();
                    spec["process"]["args"] = serde_json::json!(["/child", "out"]);
                    spec["root"] = serde_json::json!({ "path": root, "readonly": true });
                    std::fs::write(bundle.join("config.json"), spec.to_string())?;
                }
                command.args(["run", "--bundle"]).arg(bundle).arg(format!("bench-{}", std::process::id()));
            }
            other => bail!("{other}"),
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut byte = [0; 1];
        let read = child.stdout.take().context("its output")?.read_exact(&mut byte);
        let took = start.elapsed();
        let status = child.wait()?;
        ensure!(read.is_ok() && byte == *b"x", "it says nothing, {status}");
        Ok(took)
    }

    /// A byte there and back.
    fn warm(&mut self, runs: usize) -> Result<()> {
        let (stays, mut with_it) = self.start(Confined::Not, c"child", Some(c"serve"))?;
        let (mut waiting, mut staying) = (Vec::new(), Vec::new());
        for run in 0..runs {
            let (pid, mut fresh) = self.start(Confined::All, c"child", Some(c"serve"))?;
            // it has had its time to come to wait
            std::thread::sleep(Duration::from_millis(3));
            let mut both = [(&mut fresh, &mut waiting), (&mut with_it, &mut staying)];
            // whoever is asked first after the pause wakes a processor that rests: each in its turn
            both.rotate_left(run % 2);
            for (socket, times) in both {
                let start = Instant::now();
                socket.write_all(b"x")?;
                socket.read_exact(&mut [0; 1])?;
                times.push(start.elapsed());
            }
            drop(fresh);
            reap(pid)?;
        }
        drop(with_it);
        reap(stays)?;
        let ((fresh, fresh_99), (stayed, stayed_99)) = (percentiles(&mut waiting), percentiles(&mut staying));
        println!("a request and its answer, µs:");
        println!("  confined, waits for its one request    p50 {fresh:>6}   p99 {fresh_99:>6}");
        println!("  not confined, stays                    p50 {stayed:>6}   p99 {stayed_99:>6}");
        println!("the first of the second: {:.2} (promised: 1.5)", fresh as f64 / stayed as f64);
        Ok(())
    }

    /// Started, answered and reaped, one after the other.
    fn rate(&mut self) -> Result<()> {
        println!("started, answered and reaped in a second, one after the other:");
        let all = [
            ("plain execution", Way::Ours(Confined::Not)),
            ("all, in a shared empty network", Way::Ours(Confined::All)),
            ("all, with a network of its own", Way::Ours(Confined::AllWithNetwork)),
            ("the real worker, all, shared network", Way::Worker),
        ];
        let has_worker = self.worker.is_some();
        for (name, way) in all.into_iter().filter(|(_, way)| has_worker || !matches!(way, Way::Worker)) {
            let (start, mut count) = (Instant::now(), 0);
            while start.elapsed() < COUNTED {
                self.once(way)?;
                count += 1;
            }
            println!("  {name:<38} {:>6.0}", f64::from(count) / start.elapsed().as_secs_f64());
        }
        Ok(())
    }
}

/// A request that the worker refuses at once, and the first byte of what it says.
fn ask(socket: &mut UnixStream) -> Result<()> {
    let header = Header::new(Kind::Request, 0)?;
    socket.write_all(&header.encode())?;
    socket.read_exact(&mut [0; 1])?;
    Ok(())
}

fn reap(pid: i32) -> Result<()> {
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)?;
    Ok(())
}

/// The median and the 99th of a hundred, µs.
fn percentiles(times: &mut [Duration]) -> (u128, u128) {
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).map_or(0, Duration::as_micros);
    (at(50), at(99))
}
