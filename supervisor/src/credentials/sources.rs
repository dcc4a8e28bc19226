//! What a job's source is fetched with: the narrowest entry of `[sources]` that is for its address, read by a resolver for that one job and
//! not remembered.

use super::{failure, reply};
use crate::config::{Access, Proxy, Signature, SourceEntry, TokenFrom};
use crate::workers::Workers;
use shared_proto::failure::Failure;
use shared_proto::v1::resolve_request::How;
use shared_proto::v1::{ResolveRequest, ResolveSource, SourceAccess, resolve_reply};
use std::collections::BTreeMap;

/// What that entry gives.
///
/// # Errors
/// `credentials_unavailable`; `worker_crashed`.
pub async fn of_source(
    workers: &Workers,
    proxy: &Proxy,
    name: &str,
    entry: &SourceEntry,
    environment: &BTreeMap<String, String>,
) -> Result<SourceAccess, Failure> {
    let request = ResolveRequest { connection: name.to_owned(), how: Some(How::Source(how(entry, environment))) };
    let named = format!("sources.{name}");
    match reply(workers, proxy, &request, &named).await?.kind {
        Some(resolve_reply::Kind::Source(access)) => Ok(access),
        kind => Err(failure(kind, &named)),
    }
}

fn how(entry: &SourceEntry, environment: &BTreeMap<String, String>) -> ResolveSource {
    let path = |path: &std::path::Path| path.display().to_string();
    let mut how = ResolveSource {
        pattern: entry.written.clone(),
        kind: entry.access.as_str().to_owned(),
        ca_file: entry.ca_file.as_deref().map(path).unwrap_or_default(),
        modules: entry.modules,
        ..ResolveSource::default()
    };
    match &entry.access {
        Access::None => {}
        Access::Token { user, from } => {
            how.user.clone_from(user);
            match from {
                TokenFrom::File(file) => how.token_file = path(file),
                TokenFrom::Variable(name) => how.token = environment.get(name).cloned().unwrap_or_default(),
            }
        }
        Access::Ssh { key_file, known_hosts_file } => {
            (how.key_file, how.known_hosts_file) = (path(key_file), path(known_hosts_file));
        }
        Access::GithubApp { app_id, installation_id, private_key_file, api_url } => {
            how.app_id.clone_from(app_id);
            how.installation_id = installation_id.to_string();
            how.private_key_file = path(private_key_file);
            how.api_url.clone_from(api_url);
        }
    }
    match &entry.signature {
        Some(Signature::AllowedSigners(file)) => how.allowed_signers_file = path(file),
        Some(Signature::Keyring(file)) => how.keyring_file = path(file),
        None => {}
    }
    how
}
