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
/// By which a program gets the credentials that are in a file.
const CAT: &str = "/bin/cat";
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

/// For hooks of the stack: as for the engine, with the same credentials, and without what is the engine's own: its settings, the job's variables,
/// what opens its state. Home and temporary folder are in that folder, which is the hooks' own.
///
/// # Errors
/// As of [`for_engine`].
pub(crate) fn for_hooks(start: &JobStart, folders: &Folders<'_>, own: &str) -> Result<Environment, Failure> {
    let mut environment = common(start, folders);
    copy(start, PASSED_TO_ENGINE, &mut environment);
    let home = folders.tmp.join(own).join("home");
    private_folder(&home)?;
    environment.insert("HOME".into(), home.into());
    environment.insert("TMPDIR".into(), short_tmp(folders.tmp).join(own).into());
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
        target::Kind::Kubernetes(k) => [k.token.as_str(), k.client_key_pem.as_str(), ""],
        target::Kind::Aws(a) => [a.secret_access_key.as_str(), a.session_token.as_str(), ""],
        target::Kind::Gcp(g) => [g.access_token.as_str(), "", ""],
        target::Kind::Azure(a) => [a.management_token.as_str(), a.logs_token.as_str(), a.vault_token.as_str()],
    })
}

/// The connections of which a secret is too short to be taken out of what is recorded, as their record calls them. No cloud makes such
/// secrets; stand-ins do.
pub(crate) fn not_redacted(targets: &[JobTarget]) -> impl Iterator<Item = String> {
    let short = |target: &&JobTarget| secrets(std::slice::from_ref(*target)).any(|s| (1..SHORTEST).contains(&s.len()));
    targets.iter().filter(short).map(|target| format!("connection {}", target.connection))
}

/// Puts newer credentials of the same connections where the programs at work look for them.
///
/// # Errors
/// As of [`for_engine`].
pub(crate) fn renew(targets: &[JobTarget], tmp: &Path) -> Result<(), Failure> {
    credentials(targets, tmp, &mut Environment::new())
}

/// Who plans with whose credentials, as a user is told.
pub(crate) fn plans_with(targets: &[JobTarget]) -> impl Iterator<Item = String> {
    let others = targets.iter().filter(|target| !target.with.is_empty());
    others.map(|target| {
        format!("In the place of the connection {} the plan has the credentials of {}.", target.connection, target.with)
    })
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
        private_file(&path, kubeconfig(&clusters, tmp)?.to_string().as_bytes())?;
        environment.insert("KUBECONFIG".into(), path.clone().into());
        environment.insert("KUBE_CONFIG_PATH".into(), path.into());
    }
    if let Some(of) = projects {
        // https://registry.terraform.io/providers/hashicorp/google/latest/docs/guides/provider_reference
        environment.insert("GOOGLE_OAUTH_ACCESS_TOKEN".into(), of.access_token.clone().into());
        environment.insert("GOOGLE_PROJECT".into(), of.project.clone().into());
    }
    if let Some((name, first)) = accounts.first() {
        for (name, value) in aws_variables(name, first) {
            environment.insert(name.into(), value.into());
        }
        let (shared, config) = aws_files(&accounts, tmp)?;
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

/// Credentials that end are found by the profile: a variable cannot be renewed.
fn aws_variables(name: &str, account: &AwsTarget) -> Vec<(&'static str, String)> {
    let own = [
        ("AWS_ACCESS_KEY_ID", &account.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", &account.secret_access_key),
        ("AWS_SESSION_TOKEN", &account.session_token),
    ];
    let (name, load) = (name.to_owned(), "1".to_owned());
    // the second is for programs of the AWS SDK's first version, which read the file only then
    let profile = [("AWS_PROFILE", &name), ("AWS_SDK_LOAD_CONFIG", &load)];
    let credentials = if account.expires_ms > 0 { profile.to_vec() } else { own.to_vec() };
    let everybodys = [
        ("AWS_REGION", &account.region),
        ("AWS_DEFAULT_REGION", &account.region),
        ("AWS_ENDPOINT_URL", &account.endpoint_url),
    ];
    let all = credentials.into_iter().chain(everybodys).filter(|(_, value)| !value.is_empty());
    all.map(|(name, value)| (name, value.clone())).collect()
}

/// The shared credentials file and the configuration file, a profile for each connection. Those that end are in files of their own, which are
/// replaced before they do, and given by a program that the SDKs ask anew by then
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html>).
fn aws_files(accounts: &[(&str, &AwsTarget)], tmp: &Path) -> Result<(String, String), Failure> {
    let (mut shared, mut config) = (String::new(), String::new());
    for (number, (name, account)) in accounts.iter().enumerate() {
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
        if let Some(expires) = expiry(account.expires_ms) {
            let path = tmp.join(format!("aws-{number}.json"));
            let process = json!({
                "Version": 1, "AccessKeyId": account.access_key_id, "SecretAccessKey": account.secret_access_key,
                "SessionToken": account.session_token, "Expiration": expires,
            });
            private_file(&path, process.to_string().as_bytes())?;
            line(&mut config, "credential_process", &format!("{CAT} \"{}\"", path.display()));
        } else {
            line(&mut shared, "aws_access_key_id", &account.access_key_id);
            line(&mut shared, "aws_secret_access_key", &account.secret_access_key);
            line(&mut shared, "aws_session_token", &account.session_token);
        }
        line(&mut config, "region", &account.region);
        line(&mut config, "endpoint_url", &account.endpoint_url);
    }
    Ok((shared, config))
}

/// A moment as the SDKs read it; none: the credentials do not end.
fn expiry(ms: i64) -> Option<String> {
    let at = time::OffsetDateTime::from_unix_timestamp(ms / 1000).ok().filter(|_| ms > 0)?;
    at.format(&time::format_description::well_known::Rfc3339).ok()
}

/// A token is in a file of its own, which is replaced by the next one: clients read it again every minute.
fn kubeconfig(clusters: &[(&str, &KubernetesTarget)], tmp: &Path) -> Result<Value, Failure> {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let put = |map: &mut Value, key: &str, value: &str, encoded: bool| {
        if !value.is_empty() {
            map[key] = if encoded { encode(value) } else { value.to_owned() }.into();
        }
    };
    let (mut all, mut users, mut contexts) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (name, target)) in clusters.iter().enumerate() {
        let mut cluster = json!({ "server": target.server });
        put(&mut cluster, "certificate-authority-data", &target.certificate_authority_pem, true);
        put(&mut cluster, "tls-server-name", &target.tls_server_name, false);
        put(&mut cluster, "proxy-url", &target.proxy_url, false);
        if target.insecure_skip_tls_verify {
            cluster["insecure-skip-tls-verify"] = true.into();
        }
        let mut user = json!({});
        if !target.token.is_empty() {
            let path = tmp.join(format!("kube-token-{number}"));
            private_file(&path, target.token.as_bytes())?;
            user["tokenFile"] = path.display().to_string().into();
        }
        put(&mut user, "client-certificate-data", &target.client_certificate_pem, true);
        put(&mut user, "client-key-data", &target.client_key_pem, true);
        let mut context = json!({ "cluster": name, "user": name });
        put(&mut context, "namespace", &target.namespace, false);
        all.push(json!({ "name": name, "cluster": cluster }));
        users.push(json!({ "name": name, "user": user }));
        contexts.push(json!({ "name": name, "context": context }));
    }
    Ok(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": clusters.first().map(|c| c.0),
        "clusters": all, "users": users, "contexts": contexts,
    }))
}

/// Writes a file that nobody else can read, and never through a link. Whoever reads it has the one before or this one, whole.
pub(crate) fn private_file(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let _ = std::fs::remove_file(&new);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| std::fs::rename(&new, path))
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
            with: String::new(),
        }
    }
    fn aws(connection: &str, secret: &str) -> JobTarget {
        let target = AwsTarget {
            access_key_id: "AK".into(),
            secret_access_key: secret.into(),
            region: "r".into(),
            ..Default::default()
        };
        let target = Some(Target { kind: Some(target::Kind::Aws(target)) });
        JobTarget { connection: connection.into(), target, with: String::new() }
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
        assert_eq!(token_of(&config, 1), "t2");
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

    fn token_of(config: &Value, number: usize) -> String {
        let path = config["users"][number]["user"]["tokenFile"].as_str().expect("a file");
        std::fs::read_to_string(path).expect("reads")
    }

    #[test]
    fn credentials_that_end_are_where_they_can_be_renewed() {
        let folder = tempfile::tempdir().expect("a folder");
        let session = |secret: &str, expires_ms: i64| {
            let mut target = aws("one", secret);
            if let Some(Target { kind: Some(target::Kind::Aws(account)) }) = &mut target.target {
                (account.session_token, account.expires_ms) = ("token".into(), expires_ms);
            }
            target
        };
        let read = |file: &str| std::fs::read_to_string(folder.path().join(file)).expect("reads");
        let mut environment = Environment::new();
        let targets = [session("s1", 1_000_000_000_000), aws("two", "s2"), kubernetes("prod", "t1")];
        credentials(&targets, folder.path(), &mut environment).expect("writes");
        let get = |name: &str| environment.get(name).and_then(|v| v.to_str()).map(str::to_owned);
        assert_eq!((get("AWS_PROFILE").as_deref(), get("AWS_SECRET_ACCESS_KEY")), (Some("one"), None));
        assert!(read("aws-config").contains(&format!(
            "[profile one]\ncredential_process = /bin/cat \"{}\"\nregion = r\n",
            folder.path().join("aws-0.json").display()
        )));
        assert!(read("aws-credentials").contains("[one]\n[two]\naws_access_key_id"));
        let process = |file: &str| serde_json::from_str::<Value>(&read(file)).expect("JSON");
        assert_eq!(
            process("aws-0.json"),
            json!({"Version": 1, "AccessKeyId": "AK", "SecretAccessKey": "s1", "SessionToken": "token", "Expiration": "2001-09-09T01:46:40Z"})
        );
        let renewed = [session("s3", 1_000_000_060_000), aws("two", "s2"), kubernetes("prod", "t9")];
        renew(&renewed, folder.path()).expect("writes");
        assert_eq!(process("aws-0.json")["SecretAccessKey"], "s3");
        assert_eq!(process("aws-0.json")["Expiration"], "2001-09-09T01:47:40Z");
        let config = process("kubeconfig");
        assert_eq!(token_of(&config, 0), "t9");
        let mode = std::fs::metadata(folder.path().join("aws-0.json")).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_deep_temporary_folder_gets_a_short_name() {
        assert_eq!(short_tmp(Path::new("/short/tmp")), Path::new("/short/tmp"));
        let deep = Path::new("/").join("d".repeat(200)).join("tmp");
        assert!(short_tmp(&deep).as_os_str().len() <= TMPDIR_MAX);
    }
}
