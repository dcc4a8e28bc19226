//! The whole environment of an engine: a plain PATH, a home and a temporary folder of the job's own, what the runner's
//! configuration gives by name, the engine's own, and the credentials of the job's connections. Nothing is inherited: TF_CLI_ARGS
//! and its like cannot come through, and a user's `.terraformrc` is not looked at, because HOME and TF_CLI_CONFIG_FILE are ours.

use super::dialect::{Dialect, Place};
use super::{private_folder, providers};
use crate::process::{Environment, TMP_DESCRIPTOR};
use crate::stop::io_failure;
use runner_sandbox::profiles::JOB_FOLDER;
use runner_worker_iac::redaction::SHORTEST;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{AwsTarget, JobStart, JobTarget, KubernetesTarget, target};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// What the runner's configuration may set, for engine and git alike.
const PASSED: &[&str] = &[
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "LANG",
    "LC_ALL",
    "TZ",
];
/// What it may set for engines only.
const PASSED_TO_ENGINE: &[&str] = &["AWS_CA_BUNDLE"];
/// What it may set for OpenTofu and Terraform only.
const PASSED_TO_LANGUAGE: &[&str] = &["TF_CLI_CONFIG_FILE", "TF_PLUGIN_CACHE_DIR", "TF_REGISTRY_CLIENT_TIMEOUT"];
/// Where it has packages of providers.
pub(super) const PROVIDERS: &str = "RUNNER_PROVIDERS";
/// Where it allows `file:` sources.
const ALLOW_FILE: &str = "RUNNER_ALLOW_FILE_SOURCES";
/// The longest folder in which a plug-in can still make its socket (108 bytes with its own name, which has about 20).
const TMPDIR_MAX: usize = 80;

/// The folders that an environment names.
#[derive(Debug)]
pub(crate) struct Folders<'a> {
    /// The job's folder, absolute.
    pub(crate) work: &'a Path,
    /// Its temporary one.
    pub(crate) tmp: &'a Path,
}

/// Whether the runner's configuration allows `file:` sources.
pub(crate) fn allows_file(start: &JobStart) -> bool {
    start.environment.get(ALLOW_FILE).is_some_and(|value| value == "1")
}

/// Whether what the job's programs connect to may go by a proxy.
pub(crate) fn has_proxy(start: &JobStart) -> bool {
    let clusters = start.targets.iter().filter_map(|t| t.target.as_ref()?.kind.as_ref());
    let of_cluster = |kind: &target::Kind| matches!(kind, target::Kind::Kubernetes(k) if !k.proxy_url.is_empty());
    ["HTTPS_PROXY", "HTTP_PROXY"].iter().any(|name| start.environment.contains_key(*name))
        || clusters.into_iter().any(of_cluster)
}

/// What every program of the job gets.
fn common(start: &JobStart, folders: &Folders<'_>) -> Environment {
    let mut environment = Environment::new();
    environment
        .insert("PATH".into(), std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()));
    copy(start, PASSED, &mut environment);
    environment.insert("HOME".into(), folders.tmp.join("home").into());
    environment.insert("TMPDIR".into(), short_tmp(folders.tmp).into());
    environment
}

fn copy(start: &JobStart, names: &[&str], to: &mut Environment) {
    for name in names {
        if let Some(value) = start.environment.get(*name) {
            to.insert((*name).into(), value.into());
        }
    }
}

/// The temporary folder under a name short enough for a plug-in's socket: the one that a job's own root has for that, or by way of a
/// descriptor, which every program is given at that number ([`crate::process`]).
fn short_tmp(tmp: &Path) -> PathBuf {
    if tmp.as_os_str().len() <= TMPDIR_MAX {
        return tmp.to_owned();
    }
    let short = Path::new(JOB_FOLDER).join("tmp");
    let is_it = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    if std::fs::metadata(&short).is_ok_and(|a| std::fs::metadata(tmp).is_ok_and(|b| is_it(a, b))) {
        return short;
    }
    PathBuf::from(format!("/proc/self/fd/{TMP_DESCRIPTOR}"))
}

/// For what fetches the source.
pub(crate) fn for_git(start: &JobStart, folders: &Folders<'_>) -> Environment {
    common(start, folders)
}

/// For the engine: with its own, and with credentials.
///
/// # Errors
/// Credentials that cannot be written down; the file system; what the engine's dialect refuses.
pub(crate) fn for_engine(place: &Place<'_>, dialect: &dyn Dialect) -> Result<Environment, Failure> {
    let Place { start, folders, .. } = *place;
    let mut environment = common(start, folders);
    copy(start, PASSED_TO_ENGINE, &mut environment);
    private_folder(&folders.tmp.join("home"))?;
    environment.extend(dialect.environment(place)?);
    credentials(&start.targets, folders.tmp, &mut environment)?;
    Ok(environment)
}

/// What OpenTofu and Terraform find there.
///
/// # Errors
/// The file system.
pub(super) fn for_language(start: &JobStart, folders: &Folders<'_>) -> Result<Environment, Failure> {
    let mut environment = Environment::new();
    copy(start, PASSED_TO_LANGUAGE, &mut environment);
    if !environment.contains_key("TF_CLI_CONFIG_FILE") {
        let packages = start.environment.get(PROVIDERS).map(Path::new);
        let text = packages.map(providers::installation).transpose()?.unwrap_or_default();
        let path = folders.tmp.join("engine.tfrc");
        private_file(&path, text.as_bytes())?;
        environment.insert("TF_CLI_CONFIG_FILE".into(), path.into());
    }
    for (name, value) in [("TF_IN_AUTOMATION", "1"), ("TF_INPUT", "0"), ("CHECKPOINT_DISABLE", "1")] {
        environment.insert(name.into(), value.into());
    }
    environment.insert("TF_DATA_DIR".into(), folders.work.join("data").into());
    Ok(environment)
}

/// The secrets among the credentials, for redaction.
pub(crate) fn secrets(targets: &[JobTarget]) -> impl Iterator<Item = &str> {
    targets.iter().filter_map(|t| t.target.as_ref()?.kind.as_ref()).flat_map(|kind| match kind {
        target::Kind::Kubernetes(k) => [k.token.as_str(), k.client_key_pem.as_str()],
        target::Kind::Aws(a) => [a.secret_access_key.as_str(), a.session_token.as_str()],
        target::Kind::Gcp(g) => [g.access_token.as_str(), ""],
        target::Kind::Azure(a) => [a.management_token.as_str(), a.logs_token.as_str()],
    })
}

/// The connections of which a secret is too short to be taken out of what is recorded, as their record calls them. No cloud makes such
/// secrets; stand-ins do.
pub(crate) fn not_redacted(targets: &[JobTarget]) -> impl Iterator<Item = String> {
    let short = |target: &&JobTarget| secrets(std::slice::from_ref(*target)).any(|s| (1..SHORTEST).contains(&s.len()));
    targets.iter().filter(short).map(|target| format!("connection {}", target.connection))
}

/// The connections' credentials: the first of a kind is the default, the others go by their connection's name (a context of the
/// kubeconfig, a profile of AWS).
fn credentials(targets: &[JobTarget], tmp: &Path, environment: &mut Environment) -> Result<(), Failure> {
    let mut clusters = Vec::new();
    let mut accounts = Vec::new();
    let mut projects = None;
    for target in targets {
        match target.target.as_ref().and_then(|t| t.kind.as_ref()) {
            Some(target::Kind::Kubernetes(cluster)) => clusters.push((target.connection.as_str(), cluster)),
            Some(target::Kind::Aws(account)) => accounts.push((target.connection.as_str(), account)),
            Some(target::Kind::Gcp(of)) => {
                projects.get_or_insert(of);
            }
            Some(target::Kind::Azure(_)) => {
                let message =
                    format!("the connection {} is of Azure, whose provider takes no token from us", target.connection);
                return Err(Code::WrongProvider.on(message).next("Leave the connection out of the stack's."));
            }
            None => {
                let message = format!("the connection {} came without credentials", target.connection);
                return Err(Code::CredentialsUnavailable.on(message));
            }
        }
    }
    if !clusters.is_empty() {
        let path = tmp.join("kubeconfig");
        private_file(&path, kubeconfig(&clusters).to_string().as_bytes())?;
        environment.insert("KUBECONFIG".into(), path.clone().into());
        environment.insert("KUBE_CONFIG_PATH".into(), path.into());
    }
    if let Some(of) = projects {
        // https://registry.terraform.io/providers/hashicorp/google/latest/docs/guides/provider_reference
        environment.insert("GOOGLE_OAUTH_ACCESS_TOKEN".into(), of.access_token.clone().into());
        environment.insert("GOOGLE_PROJECT".into(), of.project.clone().into());
    }
    if let Some((_, first)) = accounts.first() {
        for (name, value) in aws_variables(first) {
            environment.insert(name.into(), value.into());
        }
        let (shared, config) = aws_files(&accounts)?;
        for (variable, file, content) in
            [("AWS_SHARED_CREDENTIALS_FILE", "aws-credentials", shared), ("AWS_CONFIG_FILE", "aws-config", config)]
        {
            let path = tmp.join(file);
            private_file(&path, content.as_bytes())?;
            environment.insert(variable.into(), path.into());
        }
        // never the machine's own role where the connection's credentials fail
        environment.insert("AWS_EC2_METADATA_DISABLED".into(), "true".into());
    }
    Ok(())
}

fn aws_variables(account: &AwsTarget) -> Vec<(&'static str, String)> {
    [
        ("AWS_ACCESS_KEY_ID", &account.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", &account.secret_access_key),
        ("AWS_SESSION_TOKEN", &account.session_token),
        ("AWS_REGION", &account.region),
        ("AWS_DEFAULT_REGION", &account.region),
        ("AWS_ENDPOINT_URL", &account.endpoint_url),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| (name, value.clone()))
    .collect()
}

/// The shared credentials file and the configuration file, a profile for each connection.
fn aws_files(accounts: &[(&str, &AwsTarget)]) -> Result<(String, String), Failure> {
    let (mut shared, mut config) = (String::new(), String::new());
    for (name, account) in accounts {
        let values = [
            &account.access_key_id,
            &account.secret_access_key,
            &account.session_token,
            &account.region,
            &account.endpoint_url,
        ];
        if values.iter().any(|v| v.contains(['\n', '\r'])) || name.contains(['\n', '\r', '[', ']']) {
            return Err(Code::CredentialsUnavailable.on(format!("the credentials of {name:?} hold a line's end")));
        }
        shared.push_str(&format!("[{name}]\n"));
        config.push_str(&format!("[profile {name}]\n"));
        let line = |to: &mut String, key: &str, value: &str| {
            if !value.is_empty() {
                to.push_str(&format!("{key} = {value}\n"));
            }
        };
        line(&mut shared, "aws_access_key_id", &account.access_key_id);
        line(&mut shared, "aws_secret_access_key", &account.secret_access_key);
        line(&mut shared, "aws_session_token", &account.session_token);
        line(&mut config, "region", &account.region);
        line(&mut config, "endpoint_url", &account.endpoint_url);
    }
    Ok((shared, config))
}

fn kubeconfig(clusters: &[(&str, &KubernetesTarget)]) -> Value {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let put = |map: &mut Value, key: &str, value: &str, encoded: bool| {
        if !value.is_empty() {
            map[key] = if encoded { encode(value) } else { value.to_owned() }.into();
        }
    };
    let (mut all, mut users, mut contexts) = (Vec::new(), Vec::new(), Vec::new());
    for (name, target) in clusters {
        let mut cluster = json!({ "server": target.server });
        put(&mut cluster, "certificate-authority-data", &target.certificate_authority_pem, true);
        put(&mut cluster, "tls-server-name", &target.tls_server_name, false);
        put(&mut cluster, "proxy-url", &target.proxy_url, false);
        if target.insecure_skip_tls_verify {
            cluster["insecure-skip-tls-verify"] = true.into();
        }
        let mut user = json!({});
        put(&mut user, "token", &target.token, false);
        put(&mut user, "client-certificate-data", &target.client_certificate_pem, true);
        put(&mut user, "client-key-data", &target.client_key_pem, true);
        let mut context = json!({ "cluster": name, "user": name });
        put(&mut context, "namespace", &target.namespace, false);
        all.push(json!({ "name": name, "cluster": cluster }));
        users.push(json!({ "name": name, "user": user }));
        contexts.push(json!({ "name": name, "context": context }));
    }
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": clusters.first().map(|c| c.0),
        "clusters": all, "users": users, "contexts": contexts,
    })
}

/// Writes a file that nobody else can read, and never through a link.
pub(crate) fn private_file(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let _ = std::fs::remove_file(path);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .map_err(|e| io_failure(Code::Internal, format_args!("cannot write {}", path.display()), &e))
}

#[cfg(test)]
mod tests {
    use super::super::opentofu::OPENTOFU;
    use super::*;
    use shared_proto::v1::Target;
    use std::os::unix::fs::PermissionsExt as _;

    fn start(environment: &[(&str, &str)], targets: Vec<JobTarget>) -> JobStart {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        JobStart { environment, targets, ..Default::default() }
    }
    fn kubernetes(connection: &str, token: &str) -> JobTarget {
        let target = KubernetesTarget { server: "https://k".into(), token: token.into(), ..Default::default() };
        JobTarget {
            connection: connection.into(),
            target: Some(Target { kind: Some(target::Kind::Kubernetes(target)) }),
        }
    }
    fn aws(connection: &str, secret: &str) -> JobTarget {
        let target = AwsTarget {
            access_key_id: "AK".into(),
            secret_access_key: secret.into(),
            region: "r".into(),
            ..Default::default()
        };
        JobTarget { connection: connection.into(), target: Some(Target { kind: Some(target::Kind::Aws(target)) }) }
    }

    #[test]
    fn only_named_things_come_through_and_credentials_are_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let folders = Folders { work: folder.path(), tmp: folder.path() };
        let given = [
            ("HTTPS_PROXY", "http://p"),
            ("TF_CLI_ARGS", "-x"),
            ("TF_CLI_ARGS_plan", "-x"),
            ("TF_LOG", "TRACE"),
            ("LD_PRELOAD", "x"),
            ("TF_VAR_a", "not this way"),
            ("GIT_SSH_COMMAND", "ssh"),
            ("RUNNER_ALLOW_FILE_SOURCES", "1"),
        ];
        let targets = vec![kubernetes("prod", "t1"), kubernetes("dev", "t2"), aws("one", "s1"), aws("two", "s2")];
        let start = start(&given, targets);
        assert!(allows_file(&start));
        let place = Place { start: &start, folders: &folders, root: folder.path() };
        let environment = for_engine(&place, &OPENTOFU).expect("an environment");
        let get = |name: &str| environment.get(name).and_then(|v| v.to_str()).unwrap_or_default().to_owned();
        for absent in [
            "TF_CLI_ARGS",
            "TF_CLI_ARGS_plan",
            "TF_LOG",
            "LD_PRELOAD",
            "TF_VAR_a",
            "GIT_SSH_COMMAND",
            "RUNNER_ALLOW_FILE_SOURCES",
        ] {
            assert!(!environment.contains_key(absent), "{absent}");
        }
        assert_eq!((get("HTTPS_PROXY"), get("AWS_SECRET_ACCESS_KEY")), ("http://p".into(), "s1".into()));
        assert_eq!(get("AWS_SESSION_TOKEN"), "");
        for file in ["kubeconfig", "aws-credentials", "aws-config", "engine.tfrc"] {
            let mode = std::fs::metadata(folder.path().join(file)).expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let text = std::fs::read_to_string(folder.path().join("kubeconfig")).expect("reads");
        let config: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(config["current-context"], "prod");
        assert_eq!(config["users"][1]["user"]["token"], "t2");
        let shared = std::fs::read_to_string(folder.path().join("aws-credentials")).expect("reads");
        assert!(shared.contains("[two]\naws_access_key_id = AK\naws_secret_access_key = s2\n"));
        assert!(!for_git(&start, &folders).contains_key("GIT_SSH_COMMAND"));
        let found: Vec<_> = secrets(&start.targets).filter(|s| !s.is_empty()).collect();
        assert_eq!(found, ["t1", "t2", "s1", "s2"]);
        let mut targets = start.targets;
        targets.truncate(1);
        targets.extend([kubernetes("seven", "seven-7"), aws("eight", "eight-88")]);
        assert_eq!(not_redacted(&targets).collect::<Vec<_>>(), ["connection prod", "connection seven"]);
    }

    #[test]
    fn a_deep_temporary_folder_gets_a_short_name() {
        assert_eq!(short_tmp(Path::new("/short/tmp")), Path::new("/short/tmp"));
        let deep = Path::new("/").join("d".repeat(200)).join("tmp");
        assert!(short_tmp(&deep).as_os_str().len() <= TMPDIR_MAX);
    }
}
