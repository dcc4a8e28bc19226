//! A kubeconfig's exec plug-in: run only where the runner's own configuration names the very binary, with nothing of our own
//! environment, for a bounded time, and with all that it started gone when it is done.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::json;
use shared_proto::v1::{KubernetesTarget, ResolveKubeconfig};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

use super::kubeconfig::{Cluster, resolve_path};
use super::{FILES_VALID, millis, unavailable, valid_until};
use crate::fault::Fault;

/// For all of it.
const DEADLINE: Duration = Duration::from_secs(20);
/// The longest answer, bytes.
const OUTPUT_MAX: u64 = 1024 * 1024;
/// Where a bare name is looked for, unless the configuration gives a PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The `exec` of a kubeconfig's user.
#[derive(Deserialize, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ExecConfig {
    api_version: String,
    command: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    provide_cluster_info: bool,
    interactive_mode: Option<String>,
}
#[derive(Deserialize, Clone)]
struct Variable {
    name: String,
    value: String,
}

/// What a plug-in gave.
pub(super) struct Credential {
    pub(super) token: String,
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) valid_until_ms: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: String,
    kind: String,
    status: Option<Status>,
}
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<String>,
}

/// Kills the plug-in and what it started, however this ends.
struct Group(Pid);

// === impl Group ===

impl Drop for Group {
    fn drop(&mut self) {
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

/// Runs the plug-in.
pub(super) async fn run(
    exec: &ExecConfig,
    cluster: &Cluster,
    target: &KubernetesTarget,
    folder: &Path,
    how: &ResolveKubeconfig,
) -> Result<Credential, Fault> {
    let environment: BTreeMap<&str, &str> = how.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let path = environment.get("PATH").copied().unwrap_or(PATH);
    let program = find(&exec.command, folder, path)?;
    let named = program.to_str().is_some_and(|p| how.exec_plugins.iter().any(|allowed| allowed == p));
    if !named {
        let message = format!(
            "the kubeconfig asks for the exec plug-in {}, which the configuration does not name",
            program.display()
        );
        return Err(
            unavailable(message).next("Add its path to exec_plugins in the connection's entry, if it may be run.")
        );
    }
    let shown = program.display();
    if !matches!(exec.api_version.as_str(), "client.authentication.k8s.io/v1" | "client.authentication.k8s.io/v1beta1")
    {
        let message =
            format!("the exec plug-in {shown}: its apiVersion {:?} is neither v1 nor v1beta1", exec.api_version);
        return Err(unavailable(message));
    }
    if exec.interactive_mode.as_deref() == Some("Always") {
        return Err(unavailable(format!("the exec plug-in {shown} needs a terminal, and there is none")));
    }
    let mut command = tokio::process::Command::new(&program);
    command.args(exec.args.iter().flatten()).env_clear().env("PATH", path).env("HOME", "/");
    command.envs(&environment);
    for variable in exec.env.iter().flatten() {
        // the configuration names the program that runs: the kubeconfig must not put another's code into it
        if variable.name.starts_with("LD_") {
            return Err(unavailable(format!("the exec plug-in {shown}: the kubeconfig sets {}", variable.name)));
        }
        command.env(&variable.name, &variable.value);
    }
    command.env("KUBERNETES_EXEC_INFO", info(exec, cluster, target));
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0);
    let failed = |why: String| unavailable(format!("the exec plug-in {shown}: {why}"));
    let output = tokio::time::timeout(DEADLINE, output(command))
        .await
        .map_err(|_| failed(format!("it was not done within {} s", DEADLINE.as_secs())))?
        .map_err(failed)?;
    credential(&output, &exec.api_version).map_err(|e| match e {
        Wrong::Words(why) => failed(why.to_owned()),
        Wrong::Fault(fault) => fault,
    })
}

/// The absolute path of the binary that a command means.
fn find(command: &str, folder: &Path, path: &str) -> Result<PathBuf, Fault> {
    if command.is_empty() {
        return Err(unavailable("the kubeconfig's exec plug-in has no command"));
    }
    if command.contains('/') {
        return Ok(resolve_path(command, folder));
    }
    let runs = |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let folders = path.split(':').filter(|f| f.starts_with('/'));
    folders
        .map(|f| Path::new(f).join(command))
        .find(runs)
        .ok_or_else(|| unavailable(format!("the kubeconfig's exec plug-in {command:?} is in none of {path}")))
}

fn info(exec: &ExecConfig, cluster: &Cluster, target: &KubernetesTarget) -> String {
    use base64::Engine as _;
    let mut info = json!({"apiVersion": exec.api_version, "kind": "ExecCredential", "spec": {"interactive": false}});
    if exec.provide_cluster_info {
        let mut about = json!({"server": target.server, "config": null});
        let mut put = |name: &str, value: &str| {
            if !value.is_empty() {
                about[name] = json!(value);
            }
        };
        let ca = base64::engine::general_purpose::STANDARD.encode(&target.certificate_authority_pem);
        put("certificate-authority-data", &ca);
        put("tls-server-name", &target.tls_server_name);
        put("proxy-url", cluster.proxy_url.as_deref().unwrap_or_default());
        if target.insecure_skip_tls_verify {
            about["insecure-skip-tls-verify"] = json!(true);
        }
        info["spec"]["cluster"] = about;
    }
    info.to_string()
}

async fn output(mut command: tokio::process::Command) -> Result<Vec<u8>, String> {
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let _group = child.id().and_then(|id| i32::try_from(id).ok()).map(|id| Group(Pid::from_raw(id)));
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT_MAX + 1).read_to_end(&mut output).await.map_err(|e| e.to_string())?;
    }
    if output.len() as u64 > OUTPUT_MAX {
        return Err("its answer is longer than 1 MiB".to_owned());
    }
    let status = child.wait().await.map_err(|e| e.to_string())?;
    // its own words went to the runner's standard error: they may hold a secret
    if status.success() {
        Ok(output)
    } else {
        Err(format!("it ended with {status}; its words are in the runner's log"))
    }
}

enum Wrong {
    Words(&'static str),
    Fault(Fault),
}

fn credential(output: &[u8], api_version: &str) -> Result<Credential, Wrong> {
    let answer: Answer =
        serde_json::from_slice(output).map_err(|_| Wrong::Words("its answer is no ExecCredential in JSON"))?;
    if answer.kind != "ExecCredential" || answer.api_version != api_version {
        return Err(Wrong::Words("its answer is not an ExecCredential of the version that the kubeconfig names"));
    }
    let status = answer.status.unwrap_or_default();
    let (token, certificate, key) = (
        status.token.unwrap_or_default(),
        status.client_certificate_data.unwrap_or_default(),
        status.client_key_data.unwrap_or_default(),
    );
    if token.is_empty() && certificate.is_empty() {
        return Err(Wrong::Words("its answer holds neither a token nor a certificate"));
    }
    if certificate.is_empty() != key.is_empty() {
        return Err(Wrong::Words("its answer holds only one of certificate and key"));
    }
    let valid_until_ms = match status.expiration_timestamp.as_deref().filter(|t| !t.is_empty()) {
        // no word on it: ask again soon
        None => shared_proto::now_ms() + 6 * millis(FILES_VALID),
        Some(text) => {
            let at: k8s_openapi::jiff::Timestamp =
                text.parse().map_err(|_| Wrong::Words("its answer's expirationTimestamp is no RFC 3339 time"))?;
            valid_until(at.as_millisecond()).map_err(Wrong::Fault)?
        }
    };
    Ok(Credential { token, certificate, key, valid_until_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::failure::Code;

    const V1: &str = "client.authentication.k8s.io/v1";

    struct Case {
        folder: tempfile::TempDir,
        how: ResolveKubeconfig,
        exec: ExecConfig,
    }

    /// A plug-in that is this shell script, and a configuration that allows it.
    fn case(script: &str) -> Case {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plugin");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("made executable");
        let how = ResolveKubeconfig { exec_plugins: vec![path.display().to_string()], ..Default::default() };
        let exec = ExecConfig { api_version: V1.into(), command: "./plugin".into(), ..Default::default() };
        // ./plugin is not the plain path that the configuration names
        let exec = ExecConfig { command: path.display().to_string(), ..exec };
        Case { folder, how, exec }
    }
    async fn go(case: &Case) -> Result<Credential, Fault> {
        let target = KubernetesTarget { server: "https://k".into(), ..Default::default() };
        run(&case.exec, &Cluster::default(), &target, case.folder.path(), &case.how).await
    }
    fn answer(status: &str) -> String {
        format!(r#"echo '{{"apiVersion":"{V1}","kind":"ExecCredential","status":{status}}}'"#)
    }

    #[tokio::test]
    async fn a_plugin_that_is_named_runs_with_nothing_but_what_it_is_given() {
        let script = r#"env -u PWD -u SHLVL -u _ | sort > seen
"#
        .to_owned()
            + &answer(r#"{"token":"t0ken","expirationTimestamp":"2999-01-01T00:00:00Z"}"#);
        let mut case = case(&script);
        case.how.environment.insert("GIVEN".into(), "1".into());
        case.exec.env = Some(vec![Variable { name: "FROM_FILE".into(), value: "2".into() }]);
        case.exec.provide_cluster_info = true;
        let credential = go(&case).await.expect("runs");
        assert_eq!(credential.token, "t0ken");
        assert!(credential.valid_until_ms <= shared_proto::now_ms() + 15 * 60 * 1000);
        let seen = std::fs::read_to_string(case.folder.path().join("seen")).expect("it wrote");
        let names: Vec<&str> = seen.lines().filter_map(|l| l.split_once('=')).map(|(n, _)| n).collect();
        assert_eq!(names, ["FROM_FILE", "GIVEN", "HOME", "KUBERNETES_EXEC_INFO", "PATH"]);
        assert!(seen.contains(r#""server":"https://k""#), "{seen}");
    }

    #[tokio::test]
    async fn a_plugin_that_is_not_named_does_not_run() {
        let mut case = case("touch ran");
        for allowed in [vec![], vec![format!("{}/./plugin", case.folder.path().display())], vec!["plugin".to_owned()]] {
            case.how.exec_plugins = allowed;
            let fault = go(&case).await.err().expect("refused");
            assert!(fault.failure.message.contains("does not name"), "{}", fault.failure);
        }
        assert!(!case.folder.path().join("ran").exists());
    }

    #[tokio::test]
    async fn what_plugins_do_wrong() {
        for (script, words, code) in [
            ("exit 3".to_owned(), "exit status: 3", Code::CredentialsUnavailable),
            ("echo s3cr3t".to_owned(), "no ExecCredential", Code::CredentialsUnavailable),
            (answer("{}"), "neither a token nor a certificate", Code::CredentialsUnavailable),
            (answer(r#"{"clientCertificateData":"s3cr3t"}"#), "only one of", Code::CredentialsUnavailable),
            (answer(r#"{"token":"s3cr3t","expirationTimestamp":"soon"}"#), "RFC 3339", Code::CredentialsUnavailable),
            (
                answer(r#"{"token":"s3cr3t","expirationTimestamp":"2001-01-01T00:00:00Z"}"#),
                "expired",
                Code::CredentialsExpired,
            ),
            ("head -c 2000000 /dev/zero".to_owned(), "longer than 1 MiB", Code::CredentialsUnavailable),
        ] {
            let fault = go(&case(&script)).await.err().expect(words);
            assert_eq!(fault.code(), code);
            let shown = fault.failure.to_string();
            assert!(shown.contains(words) && !shown.contains("s3cr3t"), "{shown}");
        }
    }

    #[tokio::test]
    async fn versions_terminals_and_loader_variables() {
        let mut old = case("");
        old.exec.api_version = "client.authentication.k8s.io/v1alpha1".into();
        let mut asks = case("");
        asks.exec.interactive_mode = Some("Always".into());
        let mut loads = case("");
        loads.exec.env = Some(vec![Variable { name: "LD_PRELOAD".into(), value: "x".into() }]);
        for (case, words) in [(old, "neither v1 nor v1beta1"), (asks, "needs a terminal"), (loads, "sets LD_PRELOAD")] {
            let fault = go(&case).await.err().expect(words);
            assert!(fault.failure.message.contains(words), "{}", fault.failure);
        }
    }

    #[test]
    fn a_bare_name_is_looked_for_in_absolute_folders_only() {
        assert_eq!(find("sh", Path::new("/k"), "relative:/nowhere:/bin").expect("found"), Path::new("/bin/sh"));
        assert_eq!(find("./p", Path::new("/k"), "").expect("relative"), Path::new("/k/./p"));
        assert!(find("no-such-plug-in", Path::new("/k"), PATH).is_err() && find("", Path::new("/k"), PATH).is_err());
    }
}
