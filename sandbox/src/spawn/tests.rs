//! What a child is and is not given, asked of real children (`/bin/sh`).

use super::*;
use crate::confine::{Namespaces, Own, Root, User};
use crate::landlock::{Access, Ruleset, Scope};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io::Read as _;
use std::os::unix::net::UnixStream;

const LIMITS: Limits =
    Limits { descriptors: 256, file_size: 1 << 20, memory: 1 << 30, processes: u64::MAX, niceness: 1 };
const CONFINED: Confinement<'_> = Confinement {
    limits: LIMITS,
    namespaces: None,
    network: None,
    standing: None,
    own: None,
    files_as: None,
    domain: None,
    filter: None,
};

/// Runs a shell script as a worker; what it wrote to descriptor 3, and how it ended.
fn run(script: &str, directory: Option<&File>) -> (String, WaitStatus) {
    let script = std::ffi::CString::new(script).expect("no zero byte");
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let inherit = [theirs.as_fd()];
    let arguments = [c"sh", c"-c", script.as_c_str()];
    let plan = Plan {
        program: Program::Path(c"/bin/sh"),
        arguments: &arguments,
        environment: &[],
        inherit: &inherit,
        directory: directory.map(|d| d.as_fd()),
        silent: true,
        own_session: true,
        dies_with_parent: true,
        confine: Some(&CONFINED),
        handover: None,
    };
    let pid = Spawner::new().expect("a stack").spawn(&plan).expect("starts");
    drop(theirs);
    let mut text = String::new();
    ours.read_to_string(&mut text).expect("reads");
    (text, waitpid(Pid::from_raw(pid), None).expect("ends"))
}

/// Runs a shell script with that confinement; what it wrote to descriptor 3, or the step that could not be done.
fn confined(script: &str, confine: &Confinement<'_>) -> Result<(String, WaitStatus), SpawnError> {
    let script = std::ffi::CString::new(script).expect("no zero byte");
    let shell = File::open("/bin/sh").expect("a shell");
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let plan = Plan {
        program: Program::File(shell.as_fd()),
        arguments: &[c"sh", c"-c", script.as_c_str()],
        environment: &[c"PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        inherit: &[theirs.as_fd()],
        directory: None,
        silent: true,
        own_session: true,
        dies_with_parent: true,
        confine: Some(confine),
        handover: None,
    };
    let pid = Spawner::new().expect("a stack").spawn(&plan)?;
    drop(theirs);
    let mut text = String::new();
    ours.read_to_string(&mut text).expect("reads");
    Ok((text, waitpid(Pid::from_raw(pid), None).expect("ends")))
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn usual_root() -> Root {
    ["/usr", "/bin", "/sbin", "/lib", "/lib64"].iter().fold(Root::default(), |root, path| root.show(path.as_ref()))
}

#[test]
fn in_namespaces_it_sees_the_root_that_it_is_given_and_nobody_else() {
    let script = "exec 2>&3; echo pid $$ >&3; echo root /* >&3; echo x >/usr/x; echo x >/x; mkdir /y; ls /etc /proc; \
                  echo host $(uname -n) >&3; kill -0 2 || echo alone >&3; id -u >&3";
    let (mut tried, mut made) = (0, 0);
    for user in [User::Shared, User::Same] {
        if user == User::Shared && !is_root() {
            continue;
        }
        let namespaces = Namespaces { user, network: true, root: Some(usual_root()) };
        tried += 1;
        match confined(script, &Confinement { namespaces: Some(&namespaces), ..CONFINED }) {
            // what this machine forbids is no failure of ours, if the step is named
            Err(e) => {
                eprintln!("user namespace {user:?}: {e}");
                assert!(matches!(e.errno, Errno::EPERM | Errno::ENOSPC | Errno::ENOSYS | Errno::EACCES), "{e}");
            }
            Ok((text, ended)) => {
                made += 1;
                assert!(matches!(ended, WaitStatus::Exited(..)), "{ended:?} {text}");
                assert!(text.contains("pid 1\n") && text.contains("alone"), "{text}");
                let root = text.lines().find(|l| l.starts_with("root ")).expect("its root");
                assert!(!root.contains("/etc") && !root.contains("/proc") && root.contains("/usr"), "{root}");
                assert_eq!(text.matches("Read-only file system").count(), 3, "{text}");
                assert_eq!(text.matches("No such file").count(), 2, "{text}");
            }
        }
    }
    assert!(tried > 0);
    eprintln!("{made} of {tried} kinds of namespaces are to be had here");
}

/// What a shell reports of its root and itself, in a root that it has put together or that stood before.
fn in_root(standing: Option<&File>, own: Option<Own>) -> Result<String, SpawnError> {
    let script = "exec 2>&3; echo pid $$ >&3; echo root /* >&3; pwd >&3; echo x >/usr/x; echo x >/x; mkdir /y; ls /etc /proc; \
                  umount /usr || echo stays >&3; mount -t tmpfs x /usr || echo stays >&3";
    let namespaces = Namespaces { user: User::Shared, network: false, root: Some(usual_root()) };
    let standing = standing.map(|s| s.as_fd());
    Ok(confined(script, &Confinement { namespaces: Some(&namespaces), standing, own, ..CONFINED })?.0)
}

#[test]
fn a_root_that_stands_is_as_good_as_one_that_it_puts_together() {
    if !is_root() {
        return;
    }
    let namespaces = Namespaces { user: User::Shared, network: false, root: Some(usual_root()) };
    let confine = Confinement { namespaces: Some(&namespaces), ..CONFINED };
    let shell = File::open("/bin/sh").expect("a shell");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let plan = Plan {
        program: Program::File(shell.as_fd()),
        arguments: &[c"sh", c"-c", c"read -r line <&3"],
        environment: &[],
        inherit: &[theirs.as_fd()],
        directory: None,
        silent: true,
        own_session: true,
        dies_with_parent: true,
        confine: Some(&confine),
        handover: None,
    };
    let pid = match Spawner::new().expect("a stack").spawn(&plan) {
        Ok(pid) => pid,
        // what this machine forbids is no failure of ours
        Err(e) => return assert_eq!(e.errno, Errno::EPERM, "{e}"),
    };
    let standing = crate::confine::root_of(pid).expect("its namespace");
    drop((ours, theirs));
    waitpid(Pid::from_raw(pid), None).expect("ends");
    for own in [None, Some(Own { uid: 1_900_000_007, gid: 1_900_000_007 })] {
        let alone = in_root(None, own).expect("starts");
        assert!(alone.contains("pid 1\n") && alone.contains("/usr") && alone.matches("stays").count() == 2, "{alone}");
        assert_eq!(alone.matches("Read-only file system").count(), 3, "{alone}");
        // its first process has ended; each has a copy of its own, and leaves the next one's alone
        for _ in 0..2 {
            assert_eq!(in_root(Some(&standing), own).expect("starts"), alone);
        }
    }
    let machines = File::open("/dev/null").expect("opens");
    let refused = in_root(Some(&machines), None).expect_err("it is no namespace");
    assert_eq!((refused.step, refused.errno), ("standing root", Errno::EINVAL));
}

#[test]
fn what_a_child_can_gain_is_taken_from_all_of_them_at_once() {
    if !is_root() {
        return;
    }
    const SETS: &str = "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status >&3";
    let (_, before) = sets();
    // of a thread and its children alone
    std::thread::scope(|scope| {
        scope.spawn(|| {
            crate::own::bound_children().expect("this process is root");
            let none = "0000000000000000";
            let (bounds, all) = sets();
            // not confined: what root had before
            assert_eq!((bounds.as_str(), all.as_str()), (none, before.as_str()));
            let (text, _) = confined(SETS, &CONFINED).expect("starts");
            assert_eq!(text.matches(none).count(), 5, "{text}");
            let own = Some(Own { uid: 1_900_000_007, gid: 1_900_000_007 });
            let (text, _) = confined(SETS, &Confinement { own, ..CONFINED }).expect("starts");
            assert_eq!(text.matches(none).count(), 5, "{text}");
            // a user namespace gives all of them anew
            let namespaces = Namespaces { user: User::Same, network: false, root: None };
            if let Ok((text, _)) = confined(SETS, &Confinement { namespaces: Some(&namespaces), ..CONFINED }) {
                assert_eq!(text.matches(none).count(), 5, "{text}");
            }
        });
    });
}

/// The bounding set of a child that is not confined, and what it may.
fn sets() -> (String, String) {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let plan = Plan {
        program: Program::Path(c"/bin/sh"),
        arguments: &[c"sh", c"-c", c"exec grep -E '^Cap(Bnd|Eff)' /proc/self/status >&3"],
        environment: &[c"PATH=/usr/bin:/bin"],
        inherit: &[theirs.as_fd()],
        directory: None,
        silent: true,
        own_session: true,
        dies_with_parent: true,
        confine: None,
        handover: None,
    };
    let pid = Spawner::new().expect("a stack").spawn(&plan).expect("starts");
    drop(theirs);
    let mut text = String::new();
    ours.read_to_string(&mut text).expect("reads");
    waitpid(Pid::from_raw(pid), None).expect("ends");
    let set = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        line.trim().to_owned()
    };
    (set("CapBnd:"), set("CapEff:"))
}

#[test]
fn in_a_domain_it_reaches_what_the_domain_names() {
    let Ok(ruleset) = Ruleset::new(Scope { no_tcp: true, own_signals_and_sockets: true }) else {
        return assert_eq!(crate::landlock::abi(), 0);
    };
    for path in ["/usr", "/bin", "/lib", "/lib64"] {
        ruleset.allow_path(path.as_ref(), Access::Read).expect("a rule");
    }
    let folder = std::env::temp_dir().join(format!("runner-domain-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("makes");
    ruleset.allow_path(&folder, Access::Write).expect("a rule");
    let script = format!(
        "exec 2>&3; cat /etc/hostname /proc/self/environ; echo x >/tmp/runner-domain-x; mount -t tmpfs x {0}; \
         kill -0 {1} || echo unreachable >&3; echo kept >{0}/file; cat {0}/file >&3",
        folder.display(),
        std::process::id()
    );
    let (text, _) = confined(&script, &Confinement { domain: Some(&ruleset), ..CONFINED }).expect("starts");
    assert!(text.contains("kept"), "{text}");
    assert!(text.matches("ermission denied").count() >= 3, "{text}");
    if crate::landlock::abi() >= 6 {
        assert!(text.contains("unreachable"), "{text}");
    }
    std::fs::remove_dir_all(&folder).expect("removes");
}

#[test]
fn under_a_filter_it_makes_the_calls_that_the_filter_names() {
    let job = crate::profiles::JOB.compile().expect("compiles");
    let script = "exec 2>&3; unshare -U true; mount -t tmpfs x /tmp; ls / >/dev/null && echo works >&3; \
                  renice -n 5 -p 1; chrt -p 1; (setsid sleep 0) && echo starts >&3; renice -n 10 -p $$ >/dev/null";
    let (text, ended) = confined(script, &Confinement { filter: Some(&job), ..CONFINED }).expect("starts");
    assert!(matches!(ended, WaitStatus::Exited(..)), "{ended:?} {text}");
    assert!(text.contains("works") && text.contains("starts"), "{text}");
    assert!(text.contains("unshare failed: Operation not permitted"), "{text}");
    assert!(text.contains("renice: failed to set priority for 1"), "{text}");

    let operation = crate::profiles::OPERATION.compile().expect("compiles");
    let confine = Confinement { filter: Some(&operation), ..CONFINED };
    // neither a process, nor another program, nor a socket's copy in a place of its choice
    for (script, code) in [("exit 7", 7), ("(true); exit 7", 2), ("exec /bin/true", 126), ("exec 2>&3; exit 7", 2)] {
        let (_, ended) = confined(script, &confine).expect("starts");
        assert!(matches!(ended, WaitStatus::Exited(_, found) if found == code), "{script}: {ended:?}");
    }
}

#[test]
fn as_a_user_of_its_own_it_is_nobody_else() {
    if !is_root() {
        return;
    }
    let own = Own { uid: 1_900_000_007, gid: 1_900_000_007 };
    let script =
        "id -u >&3; id -G >&3; grep -E '^Cap(Prm|Eff|Bnd|Amb)|^Groups' /proc/self/status >&3; cat /etc/shadow 2>&3";
    match confined(script, &Confinement { own: Some(own), ..CONFINED }) {
        Err(e) => assert_eq!(e.errno, Errno::EINVAL, "{e}"),
        Ok((text, _)) => {
            assert!(text.starts_with("1900000007\n1900000007\n"), "{text}");
            assert_eq!(text.matches("0000000000000000").count(), 4, "{text}");
            assert!(text.contains("ermission denied"), "{text}");
        }
    }
}

#[test]
fn what_is_shown_as_its_own_is_its_own_and_stays_ours() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    if !is_root() {
        return;
    }
    let own = Own { uid: 1_900_000_008, gid: 1_900_000_009 };
    let folder = std::env::temp_dir().join(format!("runner-mapped-{}", std::process::id()));
    let at = |name: &str| folder.join(name);
    for name in ["work", "reads", "plain"] {
        std::fs::create_dir_all(at(name)).expect("makes");
        std::fs::write(at(name).join("file"), name).expect("writes");
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(at(name).join("file"), private).expect("sets");
    }
    std::fs::write(at("work/strangers"), "x").expect("writes");
    std::os::unix::fs::chown(at("work/strangers"), Some(65_534), None).expect("gives");
    std::fs::set_permissions(at("work/strangers"), std::fs::Permissions::from_mode(0o600)).expect("sets");
    let mapping = crate::mapped::Mapping::new(own).expect("root may");
    let shows = |path: &std::path::Path| mapping.can_show(File::open(path).expect("opens").as_fd());
    // no file system that the kernel makes up can do it
    assert!(!shows("/proc/self".as_ref()));
    if !shows(&folder) {
        return eprintln!("{} is on a file system that cannot show files as another user's", folder.display());
    }
    let root = usual_root().write(&at("work")).show_as_own(&at("reads")).show(&at("plain"));
    let namespaces = Namespaces { user: User::Shared, network: true, root: Some(root) };
    let script = format!(
        "exec 2>&3; cd {0}; id -u >&3; for f in work reads plain; do stat -c '%u:%g' $f/file >&3; cat $f/file >&3; echo >&3; done; \
         echo more >>work/file; mkdir -m 700 work/new; echo new >work/new/file; chmod 600 work/new/file; echo x >reads/file; \
         cat work/strangers",
        folder.display()
    );
    let confine = Confinement { namespaces: Some(&namespaces), own: Some(own), files_as: Some(&mapping), ..CONFINED };
    let (text, _) = confined(&script, &confine).expect("starts");
    let ids = "1900000008:1900000009";
    assert!(text.starts_with(&format!("1900000008\n{ids}\nwork\n{ids}\nreads\n0:0\n")), "{text}");
    // what is not shown so, what cannot be written there, and what is somebody else's
    assert_eq!(text.matches("ermission denied").count(), 2, "{text}");
    assert_eq!(text.matches("ead-only file system").count(), 1, "{text}");
    assert_eq!(std::fs::read_to_string(at("work/file")).expect("reads"), "workmore\n");
    for made in ["work/new", "work/new/file"] {
        let found = std::fs::metadata(at(made)).expect("is there");
        assert_eq!((found.uid(), found.gid()), (0, 0), "{made}");
    }
    std::fs::remove_dir_all(&folder).expect("removes");
}

#[test]
fn it_has_its_socket_and_no_other_descriptor_and_no_variable() {
    let _open = File::open("/dev/zero").expect("opens");
    // `ls` itself opens the folder that it lists: one more
    let (text, _) = run("ls /proc/self/fd >&3; cat /proc/$$/environ >&3", None);
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3", "4"], "{text}");
}

#[test]
fn it_is_confined() {
    let script = "grep -E '^(NoNewPrivs|Umask|SigBlk|SigIgn)' /proc/self/status >&3; grep -E 'core|open files|file size' /proc/self/limits >&3; \
                  echo OOM $(cat /proc/self/oom_score_adj). >&3";
    let (text, _) = run(script, None);
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").expect("reads").trim().parse().expect("a number");
    assert_eq!([-1000, 0, 500, 900].map(oom_score_of_workers), [300, 300, 800, 1000]);
    for expected in [
        "NoNewPrivs: 1",
        "Umask: 0077",
        "SigBlk: 0000000000000000",
        "SigIgn: 0000000000000000",
        "Max core file size 1 1",
        &format!("OOM {}.", oom_score_of_workers(own)),
        "Max open files 256 256",
        "Max file size 1048576 1048576",
    ] {
        assert!(words.contains(expected), "{expected} in {words}");
    }
}

#[test]
fn it_leads_a_session_and_the_whole_session_is_killed() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let inherit = [theirs.as_fd()];
    let plan = Plan {
        program: Program::Path(c"/bin/sh"),
        arguments: &[c"sh", c"-c", c"sleep 1000 & sleep 1000 & echo >&3; wait"],
        environment: &[],
        inherit: &inherit,
        directory: None,
        silent: true,
        own_session: true,
        dies_with_parent: true,
        confine: Some(&CONFINED),
        handover: None,
    };
    let pid = Spawner::new().expect("a stack").spawn(&plan).expect("starts");
    drop(theirs);
    (&ours).read_exact(&mut [0; 1]).expect("is up");
    let members = crate::sessions::members(pid);
    assert!(members.contains(&pid) && members.len() == 3, "{members:?}");
    assert_eq!(crate::sessions::kill(pid), 3);
    assert!(matches!(waitpid(Pid::from_raw(pid), None), Ok(WaitStatus::Signaled(..))));
    // every holder of the socket is gone
    assert_eq!((&ours).read(&mut [0; 1]).expect("an end"), 0);
}

#[test]
fn its_working_directory_is_the_one_given() {
    let folder = File::open("/usr/bin").expect("opens");
    let (text, _) = run("pwd >&3", Some(&folder));
    assert_eq!(text.trim(), "/usr/bin");
}

#[test]
fn a_descriptor_that_stands_in_the_place_of_another_is_not_lost() {
    // two in the order opposite to their numbers
    let (mut a, a_given) = UnixStream::pair().expect("a pair");
    let (mut b, b_given) = UnixStream::pair().expect("a pair");
    let inherit = [b_given.as_fd(), a_given.as_fd()];
    let plan = Plan {
        program: Program::Path(c"/bin/sh"),
        arguments: &[c"sh", c"-c", c"echo b >&3; echo a >&4"],
        environment: &[],
        inherit: &inherit,
        directory: None,
        silent: true,
        own_session: true,
        dies_with_parent: true,
        confine: None,
        handover: None,
    };
    let pid = Pid::from_raw(Spawner::new().expect("a stack").spawn(&plan).expect("starts"));
    assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 0)));
    drop((a_given, b_given));
    let (mut text_a, mut text_b) = (String::new(), String::new());
    a.read_to_string(&mut text_a).expect("reads");
    b.read_to_string(&mut text_b).expect("reads");
    assert_eq!((text_a.trim(), text_b.trim()), ("a", "b"));
}

#[test]
fn what_cannot_be_executed_is_named_and_leaves_no_child() {
    let mut spawner = Spawner::new().expect("a stack");
    let plan = Plan {
        program: Program::Path(c"/nonexistent"),
        arguments: &[c"x"],
        environment: &[],
        inherit: &[],
        directory: None,
        silent: true,
        own_session: true,
        dies_with_parent: false,
        confine: None,
        handover: None,
    };
    for _ in 0..100 {
        assert_eq!(spawner.spawn(&plan), Err(SpawnError { step: "execve", errno: Errno::ENOENT }));
    }
    let bad = File::open("/dev/null").expect("opens");
    assert_eq!(
        spawner.spawn(&Plan { directory: Some(bad.as_fd()), ..plan }),
        Err(SpawnError { step: "fchdir", errno: Errno::ENOTDIR })
    );
}

#[test]
fn it_dies_with_its_parent() {
    // this very test, executed again as the parent that is killed
    if std::env::var_os("SANDBOX_TEST_PARENT").is_some() {
        let plan = Plan {
            program: Program::Path(c"/bin/sh"),
            arguments: &[c"sh", c"-c", c"echo grandchild is up; exec sleep 1000"],
            environment: &[c"PATH=/usr/bin:/bin"],
            inherit: &[],
            directory: None,
            silent: false,
            own_session: true,
            dies_with_parent: true,
            confine: None,
            handover: None,
        };
        // the signal follows the thread that forked, so this one must stay
        Spawner::new().expect("a stack").spawn(&plan).expect("starts");
        let _ = std::io::stdin().read(&mut [0; 1]);
        return;
    }
    let mut parent = std::process::Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "spawn::tests::it_dies_with_its_parent", "--nocapture", "--test-threads=1"])
        .env("SANDBOX_TEST_PARENT", "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let mut output = parent.stdout.take().expect("piped");
    // what the grandchild says; from here on it holds the pipe
    let mut seen = String::new();
    while !seen.contains("grandchild is up") {
        let mut byte = [0; 1];
        output.read_exact(&mut byte).expect("goes on");
        seen.push(byte[0].into());
    }
    parent.kill().expect("kills");
    parent.wait().expect("ends");
    // ends only when the grandchild is gone too
    output.read_to_end(&mut Vec::new()).expect("an end");
}

#[test]
fn in_a_user_namespace_of_its_own_its_processes_have_a_bound() {
    if is_root() {
        // the kernel makes an exception for root, in every user namespace that root has made
        return eprintln!("not as root");
    }
    let namespaces =
        Namespaces { user: User::Same, network: false, root: Some(usual_root().show("/dev/null".as_ref())) };
    let limits = Limits { processes: 8, ..LIMITS };
    let script = "exec 2>&3; i=0; while [ $i -lt 20 ]; do sleep 1 & i=$((i+1)); done; echo $i >&3";
    match confined(script, &Confinement { limits, namespaces: Some(&namespaces), ..CONFINED }) {
        Err(e) => eprintln!("{e}"),
        Ok((text, _)) => assert!(text.contains("fork"), "{text}"),
    }
}
