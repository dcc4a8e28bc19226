//! Runners: registered, given credentials, made the default, revoked; and who of them is connected.

use super::checked;
use super::{ApiError, ApiState, Body, Caller, Named, Params, Routes};
use crate::sessions::{Instance, Presence};
use crate::store::{Ended, NewCredentials, Role, Runner, SealRecord, new_id};
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use shared_proto::api_key::{self, Purpose};
use shared_proto::failure::Code;
use shared_proto::now_ms;
use shared_proto::sealed::SealKey;
use utoipa::{OpenApi, ToSchema};

/// Runners of one organization, revoked ones included.
const RUNNERS_MAX: usize = 1000;

#[derive(OpenApi)]
#[openapi(paths(register, list, show, audit, credentials, set_default, revoke))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new()
        .add("post", "/runners", register)
        .add("get", "/runners", list)
        .add("get", "/runners/{runner}", show)
        .add("get", "/runners/{runner}/audit", audit)
        .add("post", "/runners/{runner}/credentials", credentials)
        .add("post", "/runners/{runner}/default", set_default)
        .add("post", "/runners/{runner}/revoke", revoke)
}

/// A runner to register.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRunner {
    /// Like a DNS label, at most 63 characters.
    name: String,
}
/// A runner, with what is known of its instances.
#[derive(Serialize, ToSchema)]
struct RunnerView {
    id: String,
    name: String,
    /// Whether it takes what names no runner.
    default: bool,
    revoked: bool,
    created_at_ms: i64,
    /// When an instance was last heard of.
    last_seen_ms: Option<i64>,
    state: RunnerState,
    instances: Vec<InstanceView>,
    /// How far the audit log of each of its instances goes that told it lately; of one runner alone, not in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    audit: Vec<SealView>,
}
/// A seal of an instance's audit log: by it its owner tells later that the log's end was cut off.
#[derive(Serialize, ToSchema)]
struct SealView {
    instance_id: String,
    /// The number of the record.
    number: i64,
    /// Its hash: `runner audit verify --expected NUMBER:HASH`.
    hash: String,
    /// SHA-256 of the key that signed it, in DER form.
    fingerprint: String,
    /// That key, base64 of its DER form.
    key: String,
    /// The record, as it stands in the log.
    line: String,
    received_at_ms: i64,
    /// What does not fit to the seal before it; in a runner's view, to any that is kept of that instance: number_back, rewritten, key_changed.
    trouble: Vec<String>,
}
/// Seals, the newest first.
#[derive(Serialize, ToSchema)]
struct SealList {
    items: Vec<SealView>,
}
/// Whether a runner is there.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RunnerState {
    /// No instance ever came.
    NeverConnected,
    /// An instance takes operations.
    Connected,
    /// All connected instances finish what they have and take nothing new.
    Leaving,
    /// Connected instances take nothing new for now (`runner drain`); what they have goes on.
    Draining,
    /// Instances are connected and do not answer.
    Unhealthy,
    /// The last instance said that it leaves.
    Left,
    /// The last instance went without a word.
    Lost,
    /// It was revoked.
    Revoked,
}
/// A running supervisor.
#[derive(Serialize, ToSchema)]
struct InstanceView {
    instance_id: String,
    session_id: String,
    version: String,
    hostname: String,
    connected_at_ms: i64,
    healthy: bool,
    /// Whether it takes no new work for now.
    draining: bool,
    /// Operations that it serves at this moment.
    operations: u32,
    isolation_level: String,
    isolation_missing: Vec<String>,
    connections: Vec<EntryView>,
    engines: Vec<String>,
    /// Whom variables are sealed to for this instance, as it has told; none: it has no key. Compare it with what `runner seal-key` says there.
    seal_key: Option<SealKeyView>,
    /// What its policy comes to: `{state,reason?,cut?,sections:{kind:{default,exec?,rules:[{name,effect,secrets?,keys}]}}}`, where state is
    /// absent, broken or read. Null: it does not say.
    #[schema(value_type = Object)]
    policy: serde_json::Value,
    certificate: CertificateView,
}
/// A key that variables are sealed to.
#[derive(Serialize, ToSchema)]
struct SealKeyView {
    /// Of X25519: 64 hexadecimal digits.
    key: String,
    /// The SHA-256 of the key.
    fingerprint: String,
}
/// The newest certificate of an instance.
#[derive(Serialize, ToSchema)]
struct CertificateView {
    serial: String,
    not_after_ms: i64,
    /// Whether the instance has renewed it by itself; else it is the credentials file's.
    renewed: bool,
}
/// An entry of the runner's own configuration.
#[derive(Serialize, ToSchema)]
struct EntryView {
    name: String,
    provider: String,
}
/// A list of runners.
#[derive(Serialize, ToSchema)]
struct RunnerList {
    items: Vec<RunnerView>,
}
/// A request for credentials. The key that signs the request stays with the caller.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CredentialsRequest {
    /// A certificate signing request in PEM; only its public key is taken. ECDSA P-256 or Ed25519.
    csr: String,
    /// How long the certificate is good for; 90 where absent.
    days: Option<u32>,
}
/// What goes into the credentials file, beside the caller's own key.
#[derive(Serialize, ToSchema)]
struct CredentialsView {
    /// The runner's certificate and its issuing CA, PEM.
    certificate: String,
    /// The control plane's CA, PEM.
    ca: String,
    /// Shown once.
    api_key: String,
    tunnel_endpoint: String,
    execution_endpoint: String,
    /// The organization's id.
    organization: String,
    /// The runner's id.
    runner: String,
    serial: String,
    not_after_ms: i64,
}

#[utoipa::path(post, path = "/api/v1/runners", tag = "runners", request_body = NewRunner,
    responses((status = 201, body = RunnerView)))]
async fn register(
    State(state): State<ApiState>,
    caller: Caller,
    Body(new): Body<NewRunner>,
) -> Result<(StatusCode, Json<RunnerView>), ApiError> {
    caller.require(Role::Owner)?;
    let name = checked::name("name", &new.name)?;
    let others = state.store.runners(caller.org(), RUNNERS_MAX as u32).await?.len();
    if others >= RUNNERS_MAX {
        return Err(Code::Busy
            .on(format!("organization {} has {RUNNERS_MAX} runners, which is the limit", caller.organization().name))
            .into());
    }
    let runner = Runner {
        id: new_id("run"),
        organization: caller.org().to_owned(),
        name,
        created_at_ms: now_ms(),
        revoked_at_ms: None,
        last_seen_ms: None,
        ended: None,
    };
    state.store.create_runner(&runner).await?;
    tracing::info!(runner = runner.id, name = runner.name, organization = caller.org(), "runner registered");
    let default = caller.organization().default_runner.clone();
    Ok((StatusCode::CREATED, Json(view(&state, runner, default.as_deref()))))
}

#[utoipa::path(get, path = "/api/v1/runners", tag = "runners", params(("limit" = Option<u32>, Query)),
    responses((status = 200, body = RunnerList)))]
async fn list(State(state): State<ApiState>, caller: Caller, mut params: Params) -> Result<Json<RunnerList>, ApiError> {
    let limit = params.limit()?;
    params.finish()?;
    let default = caller.organization().default_runner.as_deref();
    let runners = state.store.runners(caller.org(), limit).await?;
    Ok(Json(RunnerList { items: runners.into_iter().map(|r| view(&state, r, default)).collect() }))
}

#[utoipa::path(get, path = "/api/v1/runners/{runner}", tag = "runners",
    params(("runner" = String, Path, description = "Id or name")), responses((status = 200, body = RunnerView)))]
async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Named(runner): Named<String>,
) -> Result<Json<RunnerView>, ApiError> {
    let runner = state.store.runner(caller.org(), &runner).await?;
    let seals = state.store.seals(&runner.id).await?;
    let mut view = view(&state, runner, caller.organization().default_runner.as_deref());
    for seal in seals.into_iter().map(SealView::from) {
        match view.audit.iter_mut().find(|newest| newest.instance_id == seal.instance_id) {
            None => view.audit.push(seal),
            Some(newest) => {
                let more = seal.trouble.into_iter().filter(|word| !newest.trouble.contains(word)).collect::<Vec<_>>();
                newest.trouble.extend(more);
            }
        }
    }
    Ok(Json(view))
}

#[utoipa::path(get, path = "/api/v1/runners/{runner}/audit", tag = "runners",
    params(("runner" = String, Path, description = "Id or name")),
    responses((status = 200, description = "Seals of its audit logs, the newest first", body = SealList)))]
async fn audit(
    State(state): State<ApiState>,
    caller: Caller,
    Named(runner): Named<String>,
) -> Result<Json<SealList>, ApiError> {
    let runner = state.store.runner(caller.org(), &runner).await?;
    let items = state.store.seals(&runner.id).await?.into_iter().map(SealView::from).collect();
    Ok(Json(SealList { items }))
}

#[utoipa::path(post, path = "/api/v1/runners/{runner}/credentials", tag = "runners",
    params(("runner" = String, Path, description = "Id or name")), request_body = CredentialsRequest,
    responses((status = 201, body = CredentialsView)))]
async fn credentials(
    State(state): State<ApiState>,
    caller: Caller,
    Named(runner): Named<String>,
    Body(request): Body<CredentialsRequest>,
) -> Result<(StatusCode, Json<CredentialsView>), ApiError> {
    caller.require(Role::Owner)?;
    let runner = state.store.runner(caller.org(), &runner).await?;
    if runner.revoked_at_ms.is_some() {
        return Err(Code::Conflict
            .on(format!("runner {} was revoked", runner.name))
            .next(Code::CertificateRevoked.next_step())
            .into());
    }
    let issuer = state.store.issuer(caller.org()).await?;
    let issued = state.authority.issue_runner(&issuer, caller.org(), &runner.id, &request.csr, request.days)?;
    let key = api_key::generate(Purpose::Runner).map_err(|_| Code::Internal.on("the system has no randomness"))?;
    let digest = api_key::parse(Purpose::Runner, key.expose())
        .map_err(|e| Code::Internal.on(format!("a new API key is malformed: {e}")))?;
    state
        .store
        .keep_credentials(&NewCredentials {
            organization: caller.org(),
            runner: &runner.id,
            serial: &issued.serial,
            not_after_ms: issued.not_after_ms,
            life_s: issued.life_s,
            public_key_sha256: &issued.public_key_sha256,
            api_key: digest,
            renews: None,
        })
        .await?;
    tracing::info!(runner = runner.id, serial = issued.serial, seconds = issued.life_s, "credentials generated");
    Ok((
        StatusCode::CREATED,
        Json(CredentialsView {
            certificate: issued.chain,
            ca: state.authority.root_pem().to_owned(),
            api_key: key.expose().to_owned(),
            tunnel_endpoint: state.endpoints.tunnel.clone(),
            execution_endpoint: state.endpoints.execution.clone(),
            organization: caller.org().to_owned(),
            runner: runner.id,
            serial: issued.serial,
            not_after_ms: issued.not_after_ms,
        }),
    ))
}

#[utoipa::path(post, path = "/api/v1/runners/{runner}/default", tag = "runners",
    params(("runner" = String, Path, description = "Id or name")), responses((status = 200, body = RunnerView)))]
async fn set_default(
    State(state): State<ApiState>,
    caller: Caller,
    Named(runner): Named<String>,
) -> Result<Json<RunnerView>, ApiError> {
    caller.require(Role::Owner)?;
    let runner = state.store.runner(caller.org(), &runner).await?;
    if runner.revoked_at_ms.is_some() {
        return Err(Code::Conflict
            .on(format!("runner {} was revoked", runner.name))
            .next("Name another runner.")
            .into());
    }
    state.store.set_default_runner(caller.org(), &runner.id).await?;
    let id = runner.id.clone();
    Ok(Json(view(&state, runner, Some(&id))))
}

#[utoipa::path(post, path = "/api/v1/runners/{runner}/revoke", tag = "runners",
    params(("runner" = String, Path, description = "Id or name")), responses((status = 200, body = RunnerView)))]
async fn revoke(
    State(state): State<ApiState>,
    caller: Caller,
    Named(runner): Named<String>,
) -> Result<Json<RunnerView>, ApiError> {
    caller.require(Role::Owner)?;
    let runner = state.store.runner(caller.org(), &runner).await?;
    state.store.revoke_runner(caller.org(), &runner.id).await?;
    tracing::info!(runner = runner.id, name = runner.name, user = caller.user().id, "runner revoked");
    let runner = state.store.runner(caller.org(), &runner.id).await?;
    Ok(Json(view(&state, runner, None)))
}

fn view(state: &ApiState, runner: Runner, default: Option<&str>) -> RunnerView {
    let instances = state.sessions.instances(&runner.organization, &runner.id);
    let presence = state.sessions.presence(&runner.organization, &runner.id);
    RunnerView {
        state: match (runner.revoked_at_ms, presence, runner.ended) {
            (Some(_), ..) => RunnerState::Revoked,
            (None, Presence::Connected, _) => RunnerState::Connected,
            (None, Presence::Leaving, _) => RunnerState::Leaving,
            (None, Presence::Draining, _) => RunnerState::Draining,
            (None, Presence::Unhealthy, _) => RunnerState::Unhealthy,
            (None, Presence::Absent, Some(Ended::Left)) => RunnerState::Left,
            (None, Presence::Absent, _) if runner.last_seen_ms.is_some() => RunnerState::Lost,
            (None, Presence::Absent, _) => RunnerState::NeverConnected,
        },
        // what is written down is as old as the session's beginning
        last_seen_ms: match presence {
            Presence::Connected | Presence::Draining => Some(now_ms()),
            _ => runner.last_seen_ms,
        },
        default: default == Some(runner.id.as_str()),
        revoked: runner.revoked_at_ms.is_some(),
        created_at_ms: runner.created_at_ms,
        id: runner.id,
        name: runner.name,
        instances: instances.into_iter().map(InstanceView::from).collect(),
        audit: Vec::new(),
    }
}

impl From<SealRecord> for SealView {
    fn from(seal: SealRecord) -> Self {
        Self {
            instance_id: seal.instance,
            number: seal.number,
            hash: seal.hash,
            fingerprint: seal.fingerprint,
            key: seal.signing_key,
            line: seal.line,
            received_at_ms: seal.received_at_ms,
            trouble: seal.trouble.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
        }
    }
}

impl From<Instance> for InstanceView {
    fn from(i: Instance) -> Self {
        Self {
            instance_id: i.instance_id,
            session_id: i.session_id,
            version: i.version,
            hostname: i.hostname,
            connected_at_ms: i.connected_at_ms,
            healthy: i.healthy,
            draining: i.draining,
            operations: i.operations,
            isolation_level: i.isolation_level,
            isolation_missing: i.isolation_missing,
            connections: i.connections.into_iter().map(|c| EntryView { name: c.name, provider: c.provider }).collect(),
            engines: i.engines,
            seal_key: SealKey::from_text(&i.seal_key)
                .map(|key| SealKeyView { key: key.text(), fingerprint: key.fingerprint() }),
            policy: i.policy,
            certificate: CertificateView {
                serial: i.certificate.serial,
                not_after_ms: i.certificate.not_after_ms,
                renewed: i.certificate.renewed,
            },
        }
    }
}
