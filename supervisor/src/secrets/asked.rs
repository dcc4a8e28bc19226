//! The secrets of one store, by a worker of operations: it has the credentials of the store's connection, or the Vault's token, is connected to
//! that service alone, and ends.

use super::{OfStore, READ_WITHIN};
use crate::config::{Asker, Config, StoreKind, Vault};
use crate::credentials::Resolver;
use crate::operations::dial::{self, Reach};
use crate::workers::{Operation, Workers};
use shared_proto::failure::{Code, Failure};
use shared_proto::frame::{self, Kind};
use shared_proto::secret::Secret;
use shared_proto::v1::secret_reply::Kind as Reply;
use shared_proto::v1::{JobRequest, SecretRead, SecretReads, SecretReply, Target, VaultTarget, WorkerRequest};
use std::convert::Infallible;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a worker gets beyond what each of its reads may take.
const MORE: Duration = Duration::from_secs(5);
/// The longest file with a token or certificates of authorities, bytes.
const FILE_MAX: u64 = 256 * 1024;

/// Reads all of them; a failure comes with which of them it is.
pub(super) async fn read(
    config: &Config,
    resolver: &Resolver,
    workers: &Workers,
    request: &JobRequest,
    of: &OfStore<'_>,
) -> Result<Vec<Secret>, (usize, Failure)> {
    let asker = Asker { person: &request.created_by, operation: &request.job_id };
    let mut reads = SecretReads {
        kind: of.store.kind.as_str().to_owned(),
        reads: of.reads.iter().map(|(_, r)| SecretRead { path: r.path.clone(), key: r.key.clone() }).collect(),
        ..SecretReads::default()
    };
    match &of.store.kind {
        StoreKind::AwsSecretsManager(at) | StoreKind::AwsSsm(at) | StoreKind::Gcp(at) => {
            reads.place.clone_from(&at.place);
        }
        StoreKind::Azure { vault, .. } => reads.vault_name.clone_from(vault),
        StoreKind::Vault(vault) => reads.vault = Some(of_vault(vault).await.map_err(|failure| (0, failure))?),
        _ => {}
    }
    let Some(connection) = of.store.kind.connection() else {
        return worker(config, workers, reads, None).await;
    };
    let mut again = false;
    loop {
        let target = resolver.resolve(connection, asker).await.map_err(|failure| (0, failure))?;
        match worker(config, workers, reads.clone(), Some(&*target)).await {
            // what the target takes no more may be older than what there is by now
            Err((_, failure)) if failure.code == Code::CredentialsExpired && !again => {
                resolver.forget(connection, asker, Arc::clone(&target)).await;
                again = true;
            }
            read => return read,
        }
    }
}

/// The Vault as a worker is told of it.
async fn of_vault(vault: &Vault) -> Result<VaultTarget, Failure> {
    let of = vault.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let token = text(&of.token_file, "the Vault's token")?;
        let ca = of.ca_file.map(|path| text(&path, "the Vault's certificate authority")).transpose()?;
        Ok((token.trim().to_owned(), ca.unwrap_or_default()))
    });
    let read = reading.await.unwrap_or_else(|e| Err(Code::Internal.on(format!("reading the Vault's token: {e}"))));
    let (token, certificate_authority_pem) = read?;
    Ok(VaultTarget {
        address: vault.address.clone(),
        token,
        certificate_authority_pem,
        mount: vault.mount.clone(),
        version: vault.version,
        namespace: vault.namespace.clone(),
    })
}

fn text(path: &Path, what: &str) -> Result<String, Failure> {
    let failed = |why: String| Code::CredentialsUnavailable.on(format!("{what} in {}: {why}", path.display()));
    let mut text = String::new();
    let opened = File::open(path).map_err(|e| failed(e.to_string()))?;
    opened.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|e| failed(e.kind().to_string()))?;
    if text.len() as u64 > FILE_MAX {
        return Err(failed(format!("it is longer than {FILE_MAX} bytes")));
    }
    Ok(text)
}

async fn worker(
    config: &Config,
    workers: &Workers,
    reads: SecretReads,
    target: Option<&Target>,
) -> Result<Vec<Secret>, (usize, Failure)> {
    let reach = Reach::of_store(&reads, target).map_err(|failure| (0, failure))?;
    let count = reads.reads.len();
    let mut target = target.cloned();
    if let Some(Target { kind: Some(shared_proto::v1::target::Kind::Kubernetes(cluster)) }) = &mut target {
        // passing the proxy is ours
        cluster.proxy_url.clear();
    }
    let request = WorkerRequest { target, secrets: Some(reads), ..WorkerRequest::default() };
    let Operation { mut worker, mut socket, dial } = workers.operation().await.map_err(|failure| (0, failure))?;
    let dialling = async {
        if let Some(end) = dial {
            dial::serve(end, &reach, || config.proxy.clone()).await;
        }
        std::future::pending::<Infallible>().await
    };
    let talk = async {
        let mut values = Vec::with_capacity(count);
        if frame::write_message(&mut socket, Kind::Request, &request).await.is_err() {
            return Ok(values);
        }
        while values.len() < count {
            let reading = frame::read_message::<SecretReply, _>(&mut socket, Kind::Outcome);
            let at = values.len();
            match tokio::time::timeout(READ_WITHIN + MORE, reading).await {
                Ok(Ok(Some(SecretReply { kind: Some(Reply::Value(value)) }))) => match String::from_utf8(value) {
                    Ok(value) => values.push(Secret::new(value)),
                    Err(_) => return Err((at, Code::TargetRefused.on("the value is no text in UTF-8"))),
                },
                Ok(Ok(Some(SecretReply { kind: Some(Reply::Failure(o)) }))) => {
                    return Err((at, Failure::from_wire(&o.code, &o.message, &o.next_step)));
                }
                Ok(_) => break,
                Err(_) => {
                    let message = format!("it was not read within {} s", READ_WITHIN.as_secs());
                    return Err((at, Code::TargetUnreachable.on(message)));
                }
            }
        }
        Ok(values)
    };
    let values = tokio::select! {
        values = talk => values?,
        never = dialling => match never {},
    };
    if values.len() < count {
        let exit = worker.exit().await.map(|exit| exit.failure().message);
        let why = exit.unwrap_or_else(|| "the worker closed its socket without an answer".to_owned());
        return Err((values.len(), Code::WorkerCrashed.on(why)));
    }
    Ok(values)
}
