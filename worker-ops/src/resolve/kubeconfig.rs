//! A kubeconfig's context as a target: the same rules as kubectl's, less what would need a person or would do more than is said.

use base64::Engine as _;
use serde::Deserialize;
use shared_proto::v1::target::Kind;
use shared_proto::v1::{KubernetesTarget, ResolveKubeconfig};
use std::path::{Path, PathBuf};

use super::plugin::{self, ExecConfig};
use super::{Resolved, file, files_valid, unavailable};
use crate::fault::Fault;

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Kubeconfig {
    current_context: Option<String>,
    contexts: Option<Vec<NamedContext>>,
    clusters: Option<Vec<NamedCluster>>,
    users: Option<Vec<NamedUser>>,
}
#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Option<Context>,
}
#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Option<Cluster>,
}
#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: Option<User>,
}
#[derive(Deserialize, Clone, Default)]
#[serde(default)]
struct Context {
    cluster: Option<String>,
    user: Option<String>,
    namespace: Option<String>,
}
/// A cluster, as kubectl writes it.
#[derive(Deserialize, Clone, Default)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Cluster {
    pub(super) server: Option<String>,
    pub(super) certificate_authority: Option<String>,
    pub(super) certificate_authority_data: Option<String>,
    pub(super) tls_server_name: Option<String>,
    pub(super) insecure_skip_tls_verify: Option<bool>,
    pub(super) proxy_url: Option<String>,
}
#[derive(Deserialize, Clone, Default)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    username: Option<String>,
    auth_provider: Option<serde_json::Value>,
    exec: Option<ExecConfig>,
    #[serde(rename = "as")]
    impersonate: Option<String>,
    as_groups: Option<Vec<String>>,
    as_uid: Option<String>,
    as_user_extra: Option<serde_json::Value>,
}

/// Reads the file and what it refers to, and runs the plug-in that it names, if the configuration names it too.
pub(super) async fn resolve(how: ResolveKubeconfig) -> Result<Resolved, Fault> {
    let path = Path::new(&how.path);
    if !path.is_absolute() {
        return Err(unavailable(format!("the kubeconfig {}: its path is not absolute", path.display())));
    }
    let text = file::read("the kubeconfig", path)?;
    let wrong = |why: String| unavailable(format!("the kubeconfig {}: {why}", path.display()));
    // the parser's own words quote the file
    let config: Kubeconfig = serde_saphyr::from_str(&text).map_err(|e| {
        let place = e.location().map(|l| format!(" at line {}", l.line())).unwrap_or_default();
        wrong(format!("it cannot be read as a kubeconfig{place}"))
    })?;
    let (context, cluster, user) = choose(&config, &how.context).map_err(wrong)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut target = cluster_part(&cluster, folder)?;
    target.namespace = context.namespace.unwrap_or_default();

    for (what, there) in [
        ("as", user.impersonate.is_some()),
        ("as-groups", user.as_groups.as_ref().is_some_and(|g| !g.is_empty())),
        ("as-uid", user.as_uid.is_some()),
        ("as-user-extra", user.as_user_extra.as_ref().is_some_and(|e| !e.is_null())),
    ] {
        // leaving it out would give more rights than the file means to
        if there {
            return Err(wrong(format!("its user has {what}; impersonation is not supported")));
        }
    }
    if user.auth_provider.as_ref().is_some_and(|p| !p.is_null()) {
        return Err(wrong("its user has an auth-provider, which Kubernetes removed in 1.26".to_owned())
            .next("Use an exec plug-in, a token or a client certificate instead."));
    }
    if user.username.as_deref().is_some_and(|u| !u.is_empty()) {
        return Err(wrong("its user has a username and a password, which Kubernetes removed in 1.19".to_owned())
            .next("Use an exec plug-in, a token or a client certificate instead."));
    }

    let mut valid_until_ms = files_valid();
    user_part(&user, folder, &mut target)?;
    if let Some(exec) = &user.exec {
        let mut credential = plugin::run(exec, &cluster, &target, folder, &how).await?;
        if !credential.token.is_empty() {
            target.token = std::mem::take(&mut credential.token);
        }
        if !credential.certificate.is_empty() {
            target.client_certificate_pem = std::mem::take(&mut credential.certificate);
            target.client_key_pem = std::mem::take(&mut credential.key);
        }
        valid_until_ms = credential.valid_until_ms;
    }
    Ok(Resolved { target: Kind::Kubernetes(target), valid_until_ms })
}

fn choose(config: &Kubeconfig, asked: &str) -> Result<(Context, Cluster, User), String> {
    let name = match asked {
        "" => config
            .current_context
            .as_deref()
            .filter(|c| !c.is_empty())
            .ok_or("it has no current-context, and the entry names none")?,
        name => name,
    };
    let context = config.contexts.iter().flatten().find(|c| c.name == name).and_then(|c| c.context.clone());
    let context = context.ok_or_else(|| format!("it has no context {name:?}"))?;
    let wanted = context.cluster.as_deref().unwrap_or_default();
    let cluster = config.clusters.iter().flatten().find(|c| c.name == wanted).and_then(|c| c.cluster.clone());
    let cluster = cluster.ok_or_else(|| format!("it has no cluster {wanted:?}, which its context {name:?} names"))?;
    let user = match context.user.as_deref().unwrap_or_default() {
        "" => User::default(),
        wanted => config
            .users
            .iter()
            .flatten()
            .find(|u| u.name == wanted)
            .map(|u| u.user.clone().unwrap_or_default())
            .ok_or_else(|| format!("it has no user {wanted:?}, which its context {name:?} names"))?,
    };
    Ok((context, cluster, user))
}

fn cluster_part(cluster: &Cluster, folder: &Path) -> Result<KubernetesTarget, Fault> {
    let server = cluster.server.as_deref().filter(|s| !s.is_empty());
    let server = server.ok_or_else(|| unavailable("the kubeconfig's cluster has no server"))?.to_owned();
    let ca = pem("certificate-authority", &cluster.certificate_authority_data, &cluster.certificate_authority, folder)?;
    let insecure = cluster.insecure_skip_tls_verify.unwrap_or(false);
    if insecure && !ca.is_empty() {
        return Err(unavailable(
            "the kubeconfig's cluster has both a certificate-authority and insecure-skip-tls-verify",
        ));
    }
    Ok(KubernetesTarget {
        server,
        certificate_authority_pem: ca,
        tls_server_name: cluster.tls_server_name.clone().unwrap_or_default(),
        insecure_skip_tls_verify: insecure,
        proxy_url: cluster.proxy_url.clone().unwrap_or_default(),
        ..Default::default()
    })
}

fn user_part(user: &User, folder: &Path, target: &mut KubernetesTarget) -> Result<(), Fault> {
    target.client_certificate_pem =
        pem("client-certificate", &user.client_certificate_data, &user.client_certificate, folder)?;
    target.client_key_pem = pem("client-key", &user.client_key_data, &user.client_key, folder)?;
    if target.client_certificate_pem.is_empty() != target.client_key_pem.is_empty() {
        return Err(unavailable("the kubeconfig's user has only one of client-certificate and client-key"));
    }
    // a token file wins over a token, as in kubectl
    target.token = match user.token_file.as_deref().filter(|f| !f.is_empty()) {
        Some(path) => file::read("the token file", &resolve_path(path, folder))?.trim().to_owned(),
        None => user.token.clone().unwrap_or_default(),
    };
    Ok(())
}

/// Data wins over a file, as in kubectl.
fn pem(what: &str, data: &Option<String>, path: &Option<String>, folder: &Path) -> Result<String, Fault> {
    if let Some(data) = data.as_deref().filter(|d| !d.is_empty()) {
        let compact: String = data.split_whitespace().collect();
        let bytes = base64::engine::general_purpose::STANDARD.decode(compact).ok();
        return bytes
            .and_then(|b| String::from_utf8(b).ok())
            .ok_or_else(|| unavailable(format!("the kubeconfig's {what}-data is no PEM in base64")));
    }
    match path.as_deref().filter(|p| !p.is_empty()) {
        Some(path) => file::read(&format!("the kubeconfig's {what}"), &resolve_path(path, folder)),
        None => Ok(String::new()),
    }
}

/// A path in a kubeconfig is relative to its folder.
pub(super) fn resolve_path(path: &str, folder: &Path) -> PathBuf {
    folder.join(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::failure::Code;
    use std::fmt::Write as _;

    const CLUSTER: &str = "clusters:\n- name: c\n  cluster:\n    server: https://127.0.0.1:6443\n    tls-server-name: api\n    proxy-url: http://p:1\n";

    fn config(user: &str) -> String {
        let mut text = "apiVersion: v1\nkind: Config\ncurrent-context: here\n".to_owned();
        text.push_str("contexts:\n- name: here\n  context: {cluster: c, user: u, namespace: team}\n- name: lost\n  context: {cluster: gone, user: u}\n");
        text.push_str(CLUSTER);
        text.push_str("users:\n- name: u\n  user:\n");
        for line in user.lines() {
            let _ = writeln!(text, "    {line}");
        }
        text
    }

    async fn resolved(folder: &Path, text: &str, context: &str) -> Result<KubernetesTarget, Fault> {
        let path = folder.join("config");
        std::fs::write(&path, text).expect("written");
        let how =
            ResolveKubeconfig { path: path.display().to_string(), context: context.to_owned(), ..Default::default() };
        match resolve(how).await?.target {
            Kind::Kubernetes(target) => Ok(target),
            _ => panic!("not kubernetes"),
        }
    }

    #[tokio::test]
    async fn a_context_becomes_a_target() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = resolved(folder.path(), &config("token: t0ken"), "").await.expect("resolves");
        assert_eq!(target.server, "https://127.0.0.1:6443");
        assert_eq!((target.token.as_str(), target.namespace.as_str()), ("t0ken", "team"));
        assert_eq!((target.tls_server_name.as_str(), target.proxy_url.as_str()), ("api", "http://p:1"));
    }

    #[tokio::test]
    async fn a_token_file_is_read_again_each_time_and_relative_to_the_kubeconfig() {
        let folder = tempfile::tempdir().expect("a folder");
        for token in ["first", "second"] {
            std::fs::write(folder.path().join("tok"), format!("{token}\n")).expect("written");
            let target =
                resolved(folder.path(), &config("tokenFile: tok\ntoken: other"), "here").await.expect("resolves");
            assert_eq!(target.token, token);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named_and_no_secret_is_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = "s3cr3t";
        for (text, context, words) in [
            (config("token: x"), "nowhere", "no context \"nowhere\""),
            (config("token: x"), "lost", "no cluster \"gone\""),
            (config(&format!("username: admin\npassword: {secret}")), "", "username and a password"),
            (config(&format!("auth-provider: {{name: oidc, config: {{id-token: {secret}}}}}")), "", "auth-provider"),
            (config(&format!("token: {secret}\nas: root")), "", "impersonation"),
            (config(&format!("client-key-data: {secret}")), "", "client-key-data is no PEM"),
            (config("client-certificate-data: LS0t"), "", "only one of"),
            (config("tokenFile: missing"), "", "the token file"),
            (format!("users: [{{name: u, user: {{token: {secret}}}}}\n  x: ]["), "", "cannot be read as a kubeconfig"),
            ("{}".to_owned(), "", "no current-context"),
        ] {
            let fault = resolved(folder.path(), &text, context).await.expect_err(words);
            assert_eq!(fault.code(), Code::CredentialsUnavailable);
            let shown = fault.failure.to_string();
            assert!(shown.contains(words) && !shown.contains(secret), "{shown}");
        }
    }
}
