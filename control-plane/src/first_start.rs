//! The first start makes what the control plane needs to be used: an organization, its CA, an administrator and the one token
//! that is ever written to a file.

use crate::api;
use crate::pki::Authority;
use crate::store::{Role, Store, User, new_id};
use shared_proto::api_key::Purpose;
use shared_proto::failure::{Code, Failure};
use shared_proto::file::write_whole;
use shared_proto::now_ms;
use std::path::Path;

/// The file of the administrator's token.
pub const TOKEN_FILE: &str = "admin-token";
/// The organization that the first start makes.
pub const ORGANIZATION: &str = "default";
const ADMINISTRATOR: &str = "admin";

/// Makes what is missing. The token is made together with the administrator and never again.
///
/// # Errors
/// The store's, the CA's; `internal` where the token's file cannot be written.
pub async fn first_start(store: &Store, authority: &Authority, data: &Path) -> Result<(), Failure> {
    let organization = match store.organization(ORGANIZATION).await {
        Ok(organization) => organization,
        Err(failure) if failure.code == Code::NotFound => {
            api::add_organization(store, authority, ORGANIZATION.to_owned()).await?
        }
        Err(failure) => return Err(failure),
    };
    if !store.users(&organization.id, 1).await?.is_empty() {
        return Ok(());
    }
    // the file first: an administrator whose token nobody has would be worse than a token that nobody knows
    let (token, digest) = api::new_token(Purpose::User)?;
    let path = data.join(TOKEN_FILE);
    write_whole(&path, format!("{}\n", token.expose()).as_bytes(), 0o600)
        .map_err(|e| Code::Internal.on(format!("{}: {e}", path.display())))?;
    let user = User {
        id: new_id("usr"),
        organization: organization.id,
        name: ADMINISTRATOR.to_owned(),
        role: Role::Admin,
        created_at_ms: now_ms(),
        member_of: String::new(),
    };
    store.create_user(&user, &digest).await?;
    tracing::info!(file = %path.display(), "first start: the administrator's token was written");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::api_key;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn one_token_is_written_once() {
        let data = tempfile::tempdir().expect("a folder");
        let store = Store::in_memory().await.expect("a store");
        let authority = Authority::open(data.path(), vec![]).expect("a CA");
        first_start(&store, &authority, data.path()).await.expect("the first start");
        let path = data.path().join(TOKEN_FILE);
        assert_eq!(std::fs::metadata(&path).expect("the file").permissions().mode() & 0o7777, 0o600);
        let token = std::fs::read_to_string(&path).expect("the file");
        let digest = api_key::parse(Purpose::User, token.trim()).expect("a token");
        let user = store.user_by_token(&digest).await.expect("looks up").expect("the administrator");
        assert_eq!((user.role, user.name.as_str()), (Role::Admin, "admin"));
        std::fs::remove_file(&path).expect("removes");
        first_start(&store, &authority, data.path()).await.expect("a later start");
        assert!(!path.exists(), "a second token was written");
    }
}
