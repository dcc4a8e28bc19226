//! What a child is and is not given, asked of real children (`/bin/sh`).

use super::*;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

const CONFINED: Limits = Limits { descriptors: 256, file_size: 1 << 20, niceness: 1 };

/// Runs a shell script as a worker; what it wrote to descriptor 3, and how it ended.
fn run(script: &str, directory: Option<&File>) -> (String, WaitStatus) {
    let script = std::ffi::CString::new(script).expect("no zero byte");
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let inherit = [theirs.as_fd()];
    let arguments = [c"sh", c"-c", script.as_c_str()];
    let plan = Plan {
        program: c"/bin/sh",
        arguments: &arguments,
        environment: &[],
        inherit: &inherit,
        directory: directory.map(|d| d.as_fd()),
        silent: true,
        own_session: true,
        dies_with_parent: true,
        limits: Some(CONFINED),
    };
    let pid = Spawner::new().expect("a stack").spawn(&plan).expect("starts");
    drop(theirs);
    let mut text = String::new();
    ours.read_to_string(&mut text).expect("reads");
    (text, waitpid(Pid::from_raw(pid), None).expect("ends"))
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
    let script = "grep -E '^(NoNewPrivs|Umask|SigBlk|SigIgn)' /proc/self/status >&3; grep -E 'core|open files|file size' /proc/self/limits >&3";
    let (text, _) = run(script, None);
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "NoNewPrivs: 1",
        "Umask: 0077",
        "SigBlk: 0000000000000000",
        "SigIgn: 0000000000000000",
        "Max core file size 0 0",
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
        program: c"/bin/sh",
        arguments: &[c"sh", c"-c", c"sleep 1000 & sleep 1000 & echo >&3; wait"],
        environment: &[],
        inherit: &inherit,
        directory: None,
        silent: true,
        own_session: true,
        dies_with_parent: true,
        limits: Some(CONFINED),
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
        program: c"/bin/sh",
        arguments: &[c"sh", c"-c", c"echo b >&3; echo a >&4"],
        environment: &[],
        inherit: &inherit,
        directory: None,
        silent: true,
        own_session: true,
        dies_with_parent: true,
        limits: None,
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
        program: c"/nonexistent",
        arguments: &[c"x"],
        environment: &[],
        inherit: &[],
        directory: None,
        silent: true,
        own_session: true,
        dies_with_parent: false,
        limits: None,
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
            program: c"/bin/sh",
            arguments: &[c"sh", c"-c", c"echo grandchild is up; exec sleep 1000"],
            environment: &[c"PATH=/usr/bin:/bin"],
            inherit: &[],
            directory: None,
            silent: false,
            own_session: true,
            dies_with_parent: true,
            limits: None,
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
