//! The program as it is started. Being here it also has `cargo test --workspace` build the program, which the end-to-end suites
//! in `tests/` start.

use std::process::Command;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_runner-control-plane"))
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
fn a_port_that_is_taken_leaves_no_new_data_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("an address").to_string();
    let data = folder.path().join("data");
    for (api, runner) in [(address.as_str(), "127.0.0.1:0"), ("127.0.0.1:0", &address)] {
        let mut program = program();
        program.arg("--data").arg(&data).args(["--api-listen", api, "--runner-listen", runner]);
        let output = program.output().expect("starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(69) && said.contains(&address), "{said}");
        assert!(!data.exists(), "nothing was made");
    }
}
