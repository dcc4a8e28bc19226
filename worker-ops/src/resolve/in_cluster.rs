//! The service account of the pod that the runner runs in.

use shared_proto::v1::KubernetesTarget;
use shared_proto::v1::target::Kind;
use std::path::Path;

use super::{Resolved, file, files_valid, step};
use crate::fault::Fault;

/// Where Kubernetes mounts it.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The API server's name in every cluster, and in its certificate.
const SERVER: &str = "https://kubernetes.default.svc:443";

/// Reads the token again each time: the kubelet renews it.
pub(super) fn resolve() -> Result<Resolved, Fault> {
    from(Path::new(MOUNT))
}

fn from(mount: &Path) -> Result<Resolved, Fault> {
    let read = |what, name| {
        file::read(what, &mount.join(name))
            .map_err(|f| f.next("Run the runner in a pod with automountServiceAccountToken, or use a kubeconfig."))
    };
    let target = KubernetesTarget {
        server: SERVER.to_owned(),
        token: read("the service account's token", "token")?.trim().to_owned(),
        certificate_authority_pem: read("the cluster's certificate authority", "ca.crt")?,
        namespace: read("the pod's namespace", "namespace").map(|n| n.trim().to_owned()).unwrap_or_default(),
        ..Default::default()
    };
    let steps = vec![step("credentials", "the pod's own service account".to_owned())];
    Ok(Resolved { target: Kind::Kubernetes(target), valid_until_ms: files_valid(), steps })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_used() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(from(folder.path()).expect_err("no token").failure.message.contains("service account's token"));
        for (name, text) in [("token", "t0ken\n"), ("ca.crt", "PEM")] {
            std::fs::write(folder.path().join(name), text).expect("written");
        }
        let Kind::Kubernetes(target) = from(folder.path()).expect("resolves").target else { panic!("not kubernetes") };
        assert_eq!((target.token.as_str(), target.namespace.as_str()), ("t0ken", ""));
    }
}
