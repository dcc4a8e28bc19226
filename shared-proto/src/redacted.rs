//! Debug for the messages that carry a secret: what identifies them, never what is in them.

use crate::v1;
use std::fmt;

macro_rules! redact {
    ($($name:path { $($field:ident),* }),* $(,)?) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))$(.field(stringify!($field), &self.$field))*.finish_non_exhaustive()
            }
        }
    )*};
}
macro_rules! redact_kind {
    ($($name:path),* $(,)?) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "[secret]"))
            }
        }
    )*};
}

redact! {
    v1::Hello { protocol, version, organization_id, runner_id, instance_id },
    v1::WorkerRequest { request },
    v1::K8sRequest { method, body },
    v1::AwsRequest { method, host, body, action },
    v1::HttpHeader { name },
    v1::Target {},
    v1::KubernetesTarget { server, namespace },
    v1::AwsTarget { region, endpoint_url, expires_ms },
    v1::GcpTarget { project, principal, endpoint_url },
    v1::AzureTarget { subscription, tenant, cloud, endpoint_url },
    v1::ResolveRequest { connection },
    v1::ResolveKubeconfig { path, context },
    v1::ResolveAws { source, profile, region },
    v1::AwsRole { role_arn },
    v1::ResolveAzure { source, tenant, client_id, subscription, cloud, endpoint_url },
    v1::AwsSession { role_arn, session_name },
    v1::ResolveSource { pattern, kind },
    v1::SourceAccess { entry, pattern },
    v1::ResolveReply { valid_until_ms },
    v1::JobStart { step, next_sequence },
    v1::JobTarget { connection, with },
    v1::JobRequest { job_id, stack_name, kind, engine },
    v1::VaultTarget { address, mount, version },
    v1::SecretReads { kind, vault_name },
    v1::SecretReply {},
    v1::PresentRequest { job_id, fencing_token, instance_id },
}
redact_kind!(v1::target::Kind, v1::resolve_request::How, v1::resolve_reply::Kind, v1::secret_reply::Kind);

#[cfg(test)]
mod tests {
    use crate::v1;
    #[test]
    fn debug_prints_no_secret() {
        let secret = "s3cr3t-value";
        let target = v1::Target {
            kind: Some(v1::target::Kind::Kubernetes(v1::KubernetesTarget {
                server: "https://k".into(),
                token: secret.into(),
                client_key_pem: secret.into(),
                ..Default::default()
            })),
        };
        let aws =
            v1::AwsTarget { secret_access_key: secret.into(), session_token: secret.into(), ..Default::default() };
        let hello = v1::Hello { api_key: secret.into(), hand_over_token: secret.into(), ..Default::default() };
        let kind = Some(v1::resolve_reply::Kind::Target(target.clone()));
        let reply = v1::ResolveReply { kind, valid_until_ms: 1, ..Default::default() };
        let place = v1::StatePlace {
            target: Some(v1::JobTarget { target: Some(target.clone()), ..Default::default() }),
            ..Default::default()
        };
        let start = v1::JobStart {
            targets: vec![v1::JobTarget { connection: "c".into(), target: Some(target.clone()), ..Default::default() }],
            state_place: Some(place.clone()),
            environment: [("A".to_owned(), secret.to_owned())].into(),
            state_key: vec![7; 32],
            secrets: [("A".to_owned(), secret.to_owned())].into(),
            ..Default::default()
        };
        let access = v1::SourceAccess {
            entry: "e".into(),
            user: secret.into(),
            password: secret.into(),
            ssh_key: secret.into(),
            ..Default::default()
        };
        let source = v1::ResolveSource { token: secret.into(), ..Default::default() };
        let job =
            v1::JobRequest { variables: [("password".to_owned(), secret.to_owned())].into(), ..Default::default() };
        let shown = format!(
            "{target:?} {aws:?} {:?} {reply:?} {start:?} {place:?} {job:?} {access:?} {source:?} {:?}",
            v1::RunnerMessage { kind: Some(v1::runner_message::Kind::Hello(hello)) },
            v1::WorkerRequest { request: None, target: Some(target.clone()), ..Default::default() }
        );
        assert!(!shown.contains(secret) && !shown.contains("7, 7"), "{shown}");
    }
}
