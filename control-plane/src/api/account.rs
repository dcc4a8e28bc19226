//! Who am I, organizations, and their users.

use super::checked;
use super::{ApiError, ApiState, Body, Caller, Named, Params, Routes};
use crate::store::{Organization, Role, Store, User, new_id};
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use shared_proto::api_key::{self, Purpose};
use shared_proto::failure::{Code, Failure};
use shared_proto::now_ms;
use utoipa::{OpenApi, ToSchema};

/// Organizations of one control plane.
const ORGANIZATIONS_MAX: usize = 1000;
/// Groups of one user.
const GROUPS_MAX: usize = 32;
/// Users of one organization.
const USERS_MAX: usize = 1000;

#[derive(OpenApi)]
#[openapi(paths(whoami, create_organization, list_organizations, create_user, list_users))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new()
        .add("get", "/whoami", whoami)
        .add("post", "/organizations", create_organization)
        .add("get", "/organizations", list_organizations)
        .add("post", "/organizations/{organization}/users", create_user)
        .add("get", "/organizations/{organization}/users", list_users)
}

/// Who asks, where, and what answers.
#[derive(Serialize, ToSchema)]
struct WhoAmI {
    user: UserView,
    organization: OrganizationShort,
    control_plane: ControlPlane,
}
/// An organization by id and name.
#[derive(Serialize, ToSchema)]
struct OrganizationShort {
    id: String,
    name: String,
}
/// The program that answers.
#[derive(Serialize, ToSchema)]
struct ControlPlane {
    version: String,
    /// Its clock, Unix milliseconds.
    time_ms: i64,
}
/// A user.
#[derive(Serialize, ToSchema)]
struct UserView {
    id: String,
    name: String,
    role: Role,
    /// The groups that it is in, as runners are told them.
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at_ms: Option<i64>,
    /// Shown once, when the user is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}
/// An organization.
#[derive(Serialize, ToSchema)]
struct OrganizationView {
    id: String,
    name: String,
    created_at_ms: i64,
}
/// A list of organizations.
#[derive(Serialize, ToSchema)]
struct OrganizationList {
    items: Vec<OrganizationView>,
}
/// A list of users.
#[derive(Serialize, ToSchema)]
struct UserList {
    items: Vec<UserView>,
}
/// A new organization.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewOrganization {
    /// Like a DNS label, at most 63 characters.
    name: String,
}
/// A new user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewUser {
    /// Like a DNS label, at most 63 characters.
    name: String,
    role: Role,
    /// The groups that it is in, as runners are told them: each like a DNS label, at most 32.
    #[serde(default)]
    groups: Vec<String>,
}

#[utoipa::path(get, path = "/api/v1/whoami", tag = "account", responses((status = 200, body = WhoAmI)))]
async fn whoami(caller: Caller) -> Json<WhoAmI> {
    let (user, organization) = (caller.user(), caller.organization());
    Json(WhoAmI {
        user: UserView { created_at_ms: None, ..UserView::from(user.clone()) },
        organization: OrganizationShort { id: organization.id.clone(), name: organization.name.clone() },
        control_plane: ControlPlane { version: shared_proto::VERSION.to_owned(), time_ms: now_ms() },
    })
}

#[utoipa::path(post, path = "/api/v1/organizations", tag = "account", request_body = NewOrganization,
    responses((status = 201, body = OrganizationView)))]
async fn create_organization(
    State(state): State<ApiState>,
    caller: Caller,
    Body(new): Body<NewOrganization>,
) -> Result<(StatusCode, Json<OrganizationView>), ApiError> {
    caller.require(Role::Admin)?;
    let name = checked::name("name", &new.name)?;
    if state.store.organizations(ORGANIZATIONS_MAX as u32).await?.len() >= ORGANIZATIONS_MAX {
        return Err(Code::Busy.on(format!("there are {ORGANIZATIONS_MAX} organizations, which is the limit")).into());
    }
    let organization = add_organization(&state.store, &state.authority, name).await?;
    tracing::info!(organization = organization.id, name = organization.name, "organization made");
    Ok((StatusCode::CREATED, Json(organization.into())))
}

#[utoipa::path(get, path = "/api/v1/organizations", tag = "account", params(("limit" = Option<u32>, Query)),
    responses((status = 200, body = OrganizationList)))]
async fn list_organizations(
    State(state): State<ApiState>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<OrganizationList>, ApiError> {
    caller.require(Role::Admin)?;
    let limit = params.limit()?;
    params.finish()?;
    let items = state.store.organizations(limit).await?.into_iter().map(OrganizationView::from).collect();
    Ok(Json(OrganizationList { items }))
}

#[utoipa::path(post, path = "/api/v1/organizations/{organization}/users", tag = "account",
    params(("organization" = String, Path, description = "Id or name")), request_body = NewUser,
    responses((status = 201, body = UserView)))]
async fn create_user(
    State(state): State<ApiState>,
    caller: Caller,
    Named(organization): Named<String>,
    Body(new): Body<NewUser>,
) -> Result<(StatusCode, Json<UserView>), ApiError> {
    let organization = governed(&state, &caller, &organization).await?;
    // nobody gives more than they have
    caller.require(new.role)?;
    let name = checked::name("name", &new.name)?;
    if state.store.users(&organization.id, USERS_MAX as u32).await?.len() >= USERS_MAX {
        return Err(Code::Busy
            .on(format!("organization {} has {USERS_MAX} users, which is the limit", organization.name))
            .into());
    }
    let token = new_token(Purpose::User)?;
    if new.groups.len() > GROUPS_MAX {
        return Err(Code::InvalidArgument.on(format!("a user is in at most {GROUPS_MAX} groups")).into());
    }
    let groups = new.groups.iter().map(|group| checked::name("groups", group)).collect::<Result<Vec<_>, _>>()?;
    let user = User {
        id: new_id("usr"),
        organization: organization.id,
        name,
        role: new.role,
        created_at_ms: now_ms(),
        member_of: groups.join(","),
    };
    state.store.create_user(&user, &token.1).await?;
    tracing::info!(user = user.id, name = user.name, role = %user.role, organization = user.organization, "user made");
    let view = UserView { token: Some(token.0.expose().to_owned()), ..user.into() };
    Ok((StatusCode::CREATED, Json(view)))
}

#[utoipa::path(get, path = "/api/v1/organizations/{organization}/users", tag = "account",
    params(("organization" = String, Path, description = "Id or name"), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = UserList)))]
async fn list_users(
    State(state): State<ApiState>,
    caller: Caller,
    Named(organization): Named<String>,
    mut params: Params,
) -> Result<Json<UserList>, ApiError> {
    let organization = governed(&state, &caller, &organization).await?;
    let limit = params.limit()?;
    params.finish()?;
    let items = state.store.users(&organization.id, limit).await?.into_iter().map(UserView::from).collect();
    Ok(Json(UserList { items }))
}

/// The organization that the path names, if the caller governs it: an owner their own, an admin any. To others, every other
/// organization is an unknown one.
pub(super) async fn governed(state: &ApiState, caller: &Caller, id_or_name: &str) -> Result<Organization, Failure> {
    let own = caller.organization();
    if own.id == id_or_name || own.name == id_or_name {
        caller.require(Role::Owner)?;
        return Ok(own.clone());
    }
    if caller.require(Role::Admin).is_err() {
        return Err(crate::store::not_found("organization", id_or_name));
    }
    state.store.organization(id_or_name).await
}

/// Makes an organization with its issuing CA.
pub(crate) async fn add_organization(
    store: &Store,
    authority: &crate::pki::Authority,
    name: String,
) -> Result<Organization, Failure> {
    let organization = Organization { id: new_id("org"), name, default_runner: None, created_at_ms: now_ms() };
    let issuer = authority.make_issuer(&organization.id)?;
    store.create_organization(&organization, &issuer).await?;
    Ok(organization)
}

/// A token of a user's, and what is kept of it.
pub(crate) fn new_token(purpose: Purpose) -> Result<(shared_proto::secret::Secret, api_key::KeyDigest), Failure> {
    let random = |_| Code::Internal.on("the system has no randomness");
    let token = api_key::generate(purpose).map_err(random)?;
    let digest = api_key::parse(purpose, token.expose())
        .map_err(|e| Code::Internal.on(format!("a new token is malformed: {e}")))?;
    Ok((token, digest))
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        let groups = user.groups().map(str::to_owned).collect();
        Self {
            id: user.id,
            name: user.name,
            role: user.role,
            groups,
            created_at_ms: Some(user.created_at_ms),
            token: None,
        }
    }
}
impl From<Organization> for OrganizationView {
    fn from(organization: Organization) -> Self {
        Self { id: organization.id, name: organization.name, created_at_ms: organization.created_at_ms }
    }
}
