//! What variables of jobs refer to, and what was sealed for them: got at the start of each step, given to the job's worker, and kept nowhere.
//!
//! ```text
//!  references ─▶ stores of the configuration ─▶ is each path allowed? ─┬─▶ files, variables ───────────▶ values ─▶ JobStart
//!                                                                      └─▶ one worker a store: cloud, cluster, Vault ──┘
//! ```
//! It must never ask for anything before all of it was found to be allowed, say a value in a failure, or speak to a store itself: workers
//! do, with the credentials of the store's connection and no others.

mod asked;
mod file;
mod keys;

pub use keys::{Rotation, existing, public, rotate};

use crate::config::{Config, Store, StoreKind};
use crate::credentials::Resolver;
use crate::workers::Workers;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use shared_proto::failure::{Code, Failure};
use shared_proto::sealed::{self, Place};
use shared_proto::secret::Secret;
use shared_proto::secrets::{self, REFERENCES_MAX, VALUES_MAX};
use shared_proto::v1::{JobRequest, SealedVariable, SecretReference};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

/// What one reference may take.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Stores that are asked at once.
const STORES_AT_ONCE: usize = 4;

/// What a job's variables refer to in one store.
struct OfStore<'a> {
    name: &'a str,
    store: &'a Store,
    /// By variable.
    reads: Vec<(&'a str, &'a SecretReference)>,
}

/// What a job refers to, in a line for the audit log; `None`: nothing.
pub fn named(request: &JobRequest) -> Option<String> {
    let refers = request.secrets.iter().map(|(variable, SecretReference { from, path, key })| {
        let key = if key.is_empty() { String::new() } else { format!("#{key}") };
        format!("{variable}={from}:{path}{key}")
    });
    let sealed = request.sealed.iter().map(|sealed| format!("{}=sealed", sealed.variable));
    let mut all: Vec<_> = refers.chain(sealed).collect();
    all.sort();
    all.dedup();
    (!all.is_empty()).then(|| format!("secrets: {}", all.join(", ")))
}

/// Whether all that a job refers to may be asked for. Nothing was read yet.
///
/// # Errors
/// `invalid_argument`, `too_large`, `unknown_secret_store`, `secret_denied`; of the first by the variable's name.
pub fn admit(config: &Config, request: &JobRequest) -> Result<(), Failure> {
    by_store(config, request).map(drop)
}

/// What one store gave, by the variables' names.
type Read = Result<Vec<(String, Secret)>, Failure>;

/// The values of the variables that a job refers to or that were sealed for it, by the variables' names.
///
/// # Errors
/// Those of [`admit`]; why one cannot be read, with its store and path; `sealed_unreadable`.
pub async fn resolve(
    config: &Config,
    resolver: &Resolver,
    workers: &Workers,
    request: &JobRequest,
) -> Result<HashMap<String, String>, Failure> {
    let stores = by_store(config, request)?;
    let mut values = opened(config, request).await?;
    let asking = stores.into_iter().map(|of| of_store(config, resolver, workers, request, of).boxed());
    let asking: Vec<BoxFuture<'_, Read>> = asking.collect();
    let read: Vec<_> = stream::iter(asking).buffer_unordered(STORES_AT_ONCE).try_collect().await?;
    values.extend(read.into_iter().flatten());
    // what is written just now is not to be taken for what is meant
    if let Some((name, _)) = values.iter().find(|(_, value)| value.expose().is_empty()) {
        return Err(Code::SecretTooShort
            .on(format!("the secret of the variable {name} is empty"))
            .next("Look at what its store has there; what is to be empty is given as a value."));
    }
    let bytes: usize = values.values().map(|value| value.expose().len()).sum();
    if bytes > VALUES_MAX {
        return Err(Code::TooLarge.on(format!("the job's secrets take {bytes} bytes, the limit is {VALUES_MAX}")));
    }
    Ok(values.into_iter().map(|(name, value)| (name, value.expose().to_owned())).collect())
}

/// What is asked of each store, where all of it is allowed.
fn by_store<'a>(config: &'a Config, request: &'a JobRequest) -> Result<Vec<OfStore<'a>>, Failure> {
    if request.secrets.len() > REFERENCES_MAX {
        let count = request.secrets.len();
        return Err(Code::TooLarge.on(format!("the job refers to {count} secrets, the limit is {REFERENCES_MAX}")));
    }
    if request.sealed.len() > sealed::SEALED_MAX {
        let (count, limit) = (request.sealed.len(), sealed::SEALED_MAX);
        return Err(Code::TooLarge.on(format!("the job has {count} sealed values, the limit is {limit}")));
    }
    let twice = |name: &str| {
        let mut found = request.sealed.iter().map(|sealed| sealed.variable.as_str());
        request.variables.contains_key(name) || (request.secrets.contains_key(name) && found.any(|one| one == name))
    };
    let mut names = request.secrets.keys().chain(request.sealed.iter().map(|sealed| &sealed.variable));
    if let Some(name) = names.find(|name| twice(name)) {
        return Err(Code::InvalidArgument.on(format!("the variable {name} has more than one value")));
    }
    // in the order of their names, so that it is always the same one that fails first
    let sorted: BTreeMap<_, _> = request.secrets.iter().collect();
    let mut stores: BTreeMap<&str, OfStore<'_>> = BTreeMap::new();
    for (variable, reference) in sorted {
        secrets::check(variable, reference)?;
        let (name, store) = config.secrets.get_key_value(&reference.from).ok_or_else(|| {
            let message =
                format!("the runner's configuration has no store {:?}, of variable {variable}", reference.from);
            Code::UnknownSecretStore.on(message)
        })?;
        store.admits(name, &reference.path).map_err(|mut failure| {
            failure.message = format!("the secret of variable {variable}: {}", failure.message);
            failure
        })?;
        let of = stores.entry(name).or_insert_with(|| OfStore { name, store, reads: Vec::new() });
        of.reads.push((variable, reference));
    }
    Ok(stores.into_values().collect())
}

/// Reads all of one store.
async fn of_store(
    config: &Config,
    resolver: &Resolver,
    workers: &Workers,
    request: &JobRequest,
    of: OfStore<'_>,
) -> Result<Vec<(String, Secret)>, Failure> {
    let failed = |at: usize, mut failure: Failure| {
        let path = of.reads.get(at).map(|(_, reference)| reference.path.as_str()).unwrap_or_default();
        failure.message = format!("the secret {path:?} of the store {}: {}", of.name, failure.message);
        failure
    };
    let values: Result<Vec<Secret>, (usize, Failure)> = match &of.store.kind {
        StoreKind::File(folder) => file::read(folder, &of).await,
        StoreKind::Environment => {
            let reading = of.reads.iter().enumerate();
            reading.map(|(at, (_, reference))| variable(reference).map_err(|failure| (at, failure))).collect()
        }
        _ => asked::read(config, resolver, workers, request, &of).await,
    };
    let values = values.map_err(|(at, failure)| failed(at, failure))?;
    Ok(of.reads.iter().map(|(name, _)| (*name).to_owned()).zip(values).collect())
}

/// A variable that this process was started with.
fn variable(reference: &SecretReference) -> Result<Secret, Failure> {
    let value = std::env::var_os(&reference.path).ok_or_else(|| {
        Code::TargetNotFound
            .on("the runner was started without this variable")
            .next("Start the runner with it, or correct the reference's path.")
    })?;
    secrets::field(value.as_bytes(), &reference.key).map(Secret::new)
}

/// What was sealed for the job, by variable.
async fn opened(config: &Config, request: &JobRequest) -> Result<BTreeMap<String, Secret>, Failure> {
    if request.sealed.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut forms: BTreeMap<&str, Vec<&SealedVariable>> = BTreeMap::new();
    for form in &request.sealed {
        forms.entry(&form.variable).or_default().push(form);
    }
    let state_dir = config.state_dir.clone();
    let reading = tokio::task::spawn_blocking(move || keys::read(&state_dir));
    let keys = reading.await.unwrap_or_else(|e| Err(Code::Internal.on(format!("reading the keys: {e}"))))?;
    let open = |(variable, forms): (&str, Vec<&SealedVariable>)| {
        let (organization, stack) = (request.organization_id.as_str(), request.stack_id.as_str());
        let opened = keys.open(&Place { organization, stack, variable }, &forms)?;
        secrets::checked(opened.expose().to_owned()).map(|value| (variable.to_owned(), Secret::new(value)))
    };
    forms.into_iter().map(open).collect()
}

#[cfg(test)]
mod tests;
