//! The program as it is started. Being here it also has `cargo test --workspace` build the program, which the end-to-end suites
//! in `tests/` start.

use std::process::Command;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_runnerctl"))
}

#[test]
fn it_says_its_version() {
    let output = program().arg("--version").output().expect("starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains(env!("CARGO_PKG_VERSION")), "{output:?}");
}

#[test]
fn a_wrong_flag_is_wrong_usage_and_named() {
    let output = program().arg("--no-such-flag").output().expect("starts");
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--no-such-flag"), "{output:?}");
}

#[test]
fn where_nobody_can_be_told_anything_it_ends_and_does_not_panic() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("opens");
    let home = tempfile::tempdir().expect("a folder");
    let mut command = program();
    // there is no control plane to ask, which is said
    command.args(["job", "list"]).env_clear().env("HOME", home.path()).stderr(full);
    let status = command.status().expect("starts");
    assert_eq!(status.code(), Some(70), "{status:?}");
}
