//! Who the connection's credentials are, and which subscriptions they see.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use shared_proto::documents::{ConnectionReport, Identity, Place, Places};
use shared_proto::failure::Code;
use shared_proto::v1::Outcome;

use super::connect::{Account, PAGES_MAX};
use super::versions::SUBSCRIPTIONS;
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::found::text;
use crate::socket::Output;
use crate::steps::Steps;

/// The most subscriptions that are listed: a tenant's own bound is far below.
const SUBSCRIPTIONS_MAX: usize = 10_000;

/// Reaches Resource Manager and says who the credentials are.
pub(super) async fn connection_test(
    account: &mut Account,
    mut steps: Steps,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let identity = identity(account).await;
    let identity = steps.identified(account.address().shown(), identity)?;
    let report = ConnectionReport {
        provider: "azure".to_owned(),
        identity: format!("{} in the tenant {}", identity.principal, identity.account),
        version: None,
        steps: steps.into_inner(),
    };
    Document::whole(output, &report).await?;
    Ok(done())
}

/// Application or managed identity, object id and tenant.
pub(super) async fn who_am_i(account: &mut Account, output: &mut Output) -> Result<Outcome, Fault> {
    let identity = identity(account).await?;
    Document::whole(output, &identity).await?;
    Ok(done())
}

/// The subscriptions in which the identity has a role: <https://learn.microsoft.com/rest/api/resources/subscriptions/list>.
pub(super) async fn list_subscriptions(account: &mut Account, output: &mut Output) -> Result<Outcome, Fault> {
    let mut target = format!("/subscriptions?api-version={SUBSCRIPTIONS}");
    let mut items = Vec::new();
    let mut whole = false;
    for _ in 0..PAGES_MAX {
        let (page, next) = account.page(&target).await?;
        items.extend(page.iter().map(|subscription| Place {
            name: text(subscription, "/subscriptionId"),
            kind: "subscription".to_owned(),
            title: text(subscription, "/displayName"),
            state: text(subscription, "/state"),
        }));
        match next {
            Some(next) if items.len() < SUBSCRIPTIONS_MAX => target = next,
            next => {
                whole = next.is_none() && items.len() <= SUBSCRIPTIONS_MAX;
                break;
            }
        }
    }
    items.truncate(SUBSCRIPTIONS_MAX);
    let count = items.len();
    Document::whole(output, &Places { items }).await?;
    let message = if whole { String::new() } else { format!("only the first {count} subscriptions are shown") };
    Ok(Outcome { truncated: !whole, message, ..done() })
}

/// The token says whose it is; that Resource Manager takes it shows that it is still good.
async fn identity(account: &mut Account) -> Result<Identity, Fault> {
    let identity = claimed(account.token()).ok_or_else(|| {
        Fault::new(Code::CredentialsUnavailable, "the token that Microsoft Entra gave does not say whose it is")
    })?;
    let place = account.place().map(str::to_owned);
    let target = match &place {
        Some(subscription) => format!("/subscriptions/{subscription}?api-version={SUBSCRIPTIONS}"),
        None => format!("/subscriptions?api-version={SUBSCRIPTIONS}"),
    };
    account.get(&target).await?;
    Ok(Identity { place, ..identity })
}

/// What a token claims. Its signature is not looked at: it is our own token, and nothing is decided by it.
///
/// <https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference>
fn claimed(token: &str) -> Option<Identity> {
    let claims = token.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?).ok()?;
    let claim = |names: &[&str]| names.iter().find_map(|name| claims[*name].as_str()).unwrap_or_default().to_owned();
    // a managed identity is known by its resource, a user by the name, an application by its id; the token's version decides what that is called
    let principal = claim(&["xms_mirid", "upn", "preferred_username", "appid", "azp"]);
    (!principal.is_empty()).then(|| Identity {
        provider: "azure".to_owned(),
        principal: crate::fault::words(&principal),
        id: claim(&["oid"]),
        account: claim(&["tid"]),
        place: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whose_a_token_is() {
        let token = |claims: Value| format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let who = claimed(&token(json!({"appid": "a", "oid": "o", "tid": "t"}))).expect("someone");
        assert_eq!((who.principal.as_str(), who.id.as_str(), who.account.as_str()), ("a", "o", "t"));
        let who = claimed(&token(json!({"azp": "a", "xms_mirid": "/subscriptions/s/m"}))).expect("someone");
        assert_eq!(who.principal, "/subscriptions/s/m");
        for bad in ["", "opaque", "a.b.c", "a.!.c", &token(json!({})), &token(json!([])), &token(json!({"appid": 1}))] {
            assert_eq!(claimed(bad), None, "{bad}");
        }
    }
}
