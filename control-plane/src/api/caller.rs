//! Who asks: the bearer token, its user and its role. Every route under `/api/v1` but the description itself is behind this.

use super::{ApiError, ApiState};
use crate::store::{Connection, Organization, Role, User};
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderMap, header};
use shared_proto::api_key::{self, Purpose};
use shared_proto::failure::{Code, Failure};
use shared_proto::v1;
use std::sync::Arc;

/// The user that a request comes from, with the organization that it acts in. As an extractor it is there on every route that
/// needs a token.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Who>);

#[derive(Debug)]
struct Who {
    user: User,
    organization: Organization,
    /// The id of the only connection that the token is for, and its Kubernetes API alone.
    cluster: Option<String>,
}

// === impl Caller ===

impl Caller {
    /// For what a user has set up to be done later, as that user.
    pub(super) fn acting(user: User, organization: Organization) -> Self {
        Self(Arc::new(Who { user, organization, cluster: None }))
    }
    /// The user.
    pub fn user(&self) -> &User {
        &self.0.user
    }
    /// The organization, as of the beginning of the request.
    pub fn organization(&self) -> &Organization {
        &self.0.organization
    }
    /// The organization's id: what every query is for.
    pub fn org(&self) -> &str {
        &self.0.organization.id
    }
    /// Refuses whoever is not at least that.
    ///
    /// # Errors
    /// `permission_denied`.
    pub fn require(&self, role: Role) -> Result<(), Failure> {
        if self.0.user.role >= role {
            return Ok(());
        }
        Err(Code::PermissionDenied.on(format!(
            "user {} is {} of organization {}, this needs {role}",
            self.0.user.name, self.0.user.role, self.0.organization.name
        )))
    }
    /// As a runner is told who asks.
    pub fn wire(&self) -> v1::Caller {
        v1::Caller {
            user_id: self.0.user.id.clone(),
            user_name: self.0.user.name.clone(),
            groups: self.0.user.groups().map(str::to_owned).collect(),
        }
    }
    /// Whether it is a client of Kubernetes, by the token that those have.
    pub(super) fn is_of_cluster(&self) -> bool {
        self.0.cluster.is_some()
    }
    /// Refuses where the token is for another connection.
    ///
    /// # Errors
    /// `permission_denied`.
    pub fn may_use(&self, connection: &Connection) -> Result<(), Failure> {
        match &self.0.cluster {
            Some(only) if *only != connection.id => Err(Code::PermissionDenied
                .on(format!("the token is not for the connection {}", connection.name))
                .next("Get one with `runnerctl kube-token`.")),
            _ => Ok(()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // only a route that was added outside the token's middleware gets here without one
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Code::Unauthenticated.on("no token was sent").into())
    }
}

/// Looks the token up before anything of the request is read.
pub(super) async fn authenticate(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    match identify(&state, request.headers(), &[Purpose::User]).await {
        Ok(caller) => go_on(caller, request, next).await,
        Err(failure) => ApiError::from(failure).into_response(),
    }
}

/// The same where a token for one cluster is good too, for clients of Kubernetes: kubectl shows nothing but a `Status`.
pub(super) async fn authenticate_cluster(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    match identify(&state, request.headers(), &[Purpose::Cluster, Purpose::User]).await {
        Ok(caller) => go_on(caller, request, next).await,
        Err(failure) => super::pass::status(&failure.into()),
    }
}

/// Whose token for one cluster a request has, with that connection's id; nothing where it has another kind of token, or none.
pub(super) async fn of_cluster(state: &ApiState, headers: &HeaderMap) -> Option<Result<(Caller, String), Failure>> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (_, token) = text.split_once(' ')?;
    if !token.trim().starts_with(Purpose::Cluster.prefix()) {
        return None;
    }
    let caller = identify(state, headers, &[Purpose::Cluster]).await;
    Some(caller.map(|caller| {
        let only = caller.0.cluster.clone().unwrap_or_default();
        (caller, only)
    }))
}

async fn go_on(caller: Caller, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(caller);
    next.run(request).await
}

async fn identify(state: &ApiState, headers: &HeaderMap, purposes: &[Purpose]) -> Result<Caller, Failure> {
    let header = headers
        .get(header::AUTHORIZATION)
        .ok_or_else(|| Code::Unauthenticated.on("no token was sent: the header `authorization` is missing"))?;
    let token = header
        .to_str()
        .ok()
        .and_then(|h| h.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| Code::Unauthenticated.on("the header `authorization` is not `Bearer TOKEN`"))?;
    // of what form it is to be, where it is of none
    let purpose = purposes.iter().copied().find(|p| token.starts_with(p.prefix())).unwrap_or(Purpose::User);
    let digest =
        api_key::parse(purpose, token).map_err(|e| Code::Unauthenticated.on(format!("the token is malformed: {e}")))?;
    let known = match purpose {
        Purpose::Cluster => state.store.user_by_kube_token(&digest).await?.map(|(user, only)| (user, Some(only))),
        _ => state.store.user_by_token(&digest).await?.map(|user| (user, None)),
    };
    let unknown = || Code::Unauthenticated.on("the token is not known to this control plane, or is over");
    let (user, cluster) = known.ok_or_else(unknown)?;
    let organization = state.store.organization(&user.organization).await?;
    Ok(Caller(Arc::new(Who { user, organization, cluster })))
}
