//! The program as it is started. Being here it also has `cargo test --workspace` build the program, which the end-to-end suites
//! in `tests/` start.

use std::process::Command;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_runner"))
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

/// A configuration that names nothing but where the state is.
fn configured() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!("credentials = \"/nowhere\"\nstate_dir = \"{}\"\n", folder.path().display());
    std::fs::write(folder.path().join("runner.toml"), text).expect("writes");
    folder
}

#[test]
fn kinds_that_no_log_has_are_wrong_usage() {
    let folder = configured();
    let tail = |words: &[&str]| {
        let mut program = program();
        program.args(["audit", "tail"]).args(words).arg("--config").arg(folder.path().join("runner.toml"));
        program.output().expect("starts")
    };
    let refused = tail(&["--kind", "bogus"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(64) && said.contains("decision, end, recording"), "{said}");
    assert_eq!(tail(&["--decision", "perhaps"]).status.code(), Some(64));
    // a kind of the log's own; that there is no log is told as such
    assert_eq!(tail(&["--kind", "seal"]).status.code(), Some(66));
}

/// What is asked of `runner` with that configuration: the exit code, and what is said on standard error.
fn asked(folder: &tempfile::TempDir, words: &[&str]) -> (Option<i32>, String) {
    let config = folder.path().join("runner.toml");
    let output = program().args(words).arg("--config").arg(config).output().expect("starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_is_not_there_is_named_with_what_to_do() {
    let folder = configured();
    let (code, said) = asked(&folder, &["policy", "test"]);
    assert!(code == Some(66) && said.contains("there is no ") && said.contains("policy-tests.toml"), "{code:?} {said}");
    let (code, said) = asked(&folder, &["audit", "verify", "/nowhere/audit.log"]);
    assert!(
        code == Some(66) && said.contains("/nowhere/audit.log") && said.contains("Check the path"),
        "{code:?} {said}"
    );
    let warned = |call: &str| {
        let (code, said) = asked(&folder, &["policy", "check", "--aws", call]);
        assert_eq!(code, Some(0), "{said}");
        said.contains("no operation of AWS that this runner knows")
    };
    assert!(warned("s3:ListBucket") && !warned("s3:ListObjectsV2") && !warned("s3:"));
}

/// What cannot be written is no success.
#[test]
fn a_full_standard_output_is_told() {
    let folder = configured();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let check = program()
        .args(["policy", "check", "--config"])
        .arg(folder.path().join("runner.toml"))
        .stdout(full)
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.status.code() == Some(71) && said.contains("standard output"), "{:?} {said}", check.status);
}
