//! Azure credentials: tokens for Resource Manager, for Log Analytics, and for Key Vault where a store of secrets is one, by an application's secret, its certificate, another issuer's token,
//! or the machine's own identity.
//!
//! It must never ask a metadata service unless the source says so, send a secret anywhere but to the cloud's own directory (or the entry's
//! endpoint), or have one in a message.

mod assertion;
mod entra;
mod managed;

use http::header::LOCATION;
use shared_proto::address::Address;
use shared_proto::azure::Cloud;
use shared_proto::v1::target::Kind;
use shared_proto::v1::{AzureTarget, ResolveAzure};
use std::time::Duration;

use super::http::Answer;
use super::{Resolved, millis, step, unavailable, valid_until};
use crate::fault::Fault;
use crate::net::Dialer;

/// For all tokens.
const DEADLINE: Duration = Duration::from_secs(18);
/// The longest token, bytes: it stands in a header.
const TOKEN_MAX: usize = 32 * 1024;
/// The longest life of a token that is believed, seconds: a day.
const LIFE_MAX: i64 = 86_400;

/// A token, and until when it is good.
struct Token {
    value: String,
    expiry_ms: i64,
}

/// For whom a token is.
#[derive(Clone, Copy)]
struct Audience(&'static str);

/// Asks for the tokens. That there is none for logs or vaults is no failure: who asks for these is told why.
pub(super) async fn resolve(how: &ResolveAzure, dialer: &Dialer) -> Result<Resolved, Fault> {
    match tokio::time::timeout(DEADLINE, unbounded(how, &dialer.or_direct(&how.endpoint_url))).await {
        Ok(resolved) => resolved,
        Err(_) => {
            Err(unavailable(format!("the Azure source {:?}: no answer within {} s", how.source, DEADLINE.as_secs())))
        }
    }
}

async fn unbounded(how: &ResolveAzure, dialer: &Dialer) -> Result<Resolved, Fault> {
    let cloud =
        Cloud::from_name(&how.cloud).ok_or_else(|| unavailable(format!("{:?} is no cloud of Azure", how.cloud)))?;
    let management = token(how, cloud, Audience(cloud.management()), dialer).await?;
    let (logs, logs_failure) = match token(how, cloud, Audience(cloud.logs_audience()), dialer).await {
        Ok(token) => (Some(token), String::new()),
        Err(fault) => (None, fault.failure.message),
    };
    let (vault, vault_failure) = match how.vault {
        false => (None, String::new()),
        true => match token(how, cloud, Audience(cloud.vault()), dialer).await {
            Ok(token) => (Some(token), String::new()),
            Err(fault) => (None, fault.failure.message),
        },
    };
    let all = [Some(&management), logs.as_ref(), vault.as_ref()];
    let expiry_ms = all.into_iter().flatten().map(|token| token.expiry_ms).min().unwrap_or_default();
    let target = AzureTarget {
        management_token: management.value,
        logs_token: logs.map(|logs| logs.value).unwrap_or_default(),
        logs_failure,
        vault_token: vault.map(|vault| vault.value).unwrap_or_default(),
        vault_failure,
        subscription: how.subscription.clone(),
        tenant: how.tenant.clone(),
        cloud: cloud.as_str().to_owned(),
        endpoint_url: how.endpoint_url.clone(),
    };
    let whose = if how.client_id.is_empty() { String::new() } else { format!(", client {}", how.client_id) };
    let steps = vec![step("credentials", format!("{}{whose}", how.source))];
    Ok(Resolved { target: Kind::Azure(target), valid_until_ms: valid_until(expiry_ms)?, steps })
}

async fn token(how: &ResolveAzure, cloud: Cloud, audience: Audience, dialer: &Dialer) -> Result<Token, Fault> {
    match how.source.as_str() {
        "client_secret" | "client_certificate" | "workload_identity" => {
            entra::token(how, cloud, audience, dialer).await
        }
        "managed_identity" => managed::token(how, audience).await,
        other => Err(unavailable(format!("{other:?} is no source of Azure credentials")).next(
            "Use client_secret, client_certificate, workload_identity or managed_identity in the connection's entry.",
        )),
    }
}

// === impl Token ===

impl Token {
    /// From an answer's `access_token` and either of the two ways in which its end is told, numbers or texts.
    fn read(answer: &serde_json::Value) -> Result<Self, &'static str> {
        let value = answer["access_token"].as_str().unwrap_or_default();
        if value.is_empty() || value.len() > TOKEN_MAX || !value.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("its answer has no token");
        }
        let number = |name: &str| match &answer[name] {
            serde_json::Value::String(text) => text.parse::<i64>().ok(),
            value => value.as_i64(),
        };
        let now = shared_proto::now_ms();
        let left = match (number("expires_in"), number("expires_on")) {
            (Some(seconds), _) => seconds,
            (None, Some(at)) => at.saturating_sub(now / 1000),
            (None, None) => return Err("its answer does not say how long the token lasts"),
        };
        let life = Duration::from_secs(u64::try_from(left.min(LIFE_MAX)).unwrap_or(0));
        Ok(Self { value: value.to_owned(), expiry_ms: now + millis(life) })
    }
}

/// What an answer says, whatever its status.
///
/// # Errors
/// It leads somewhere else, where nothing is sent to.
fn said(answer: &Answer) -> Result<serde_json::Value, String> {
    if answer.headers.contains_key(LOCATION) {
        return Err(format!("it answered {} and leads elsewhere, which is not followed", answer.status));
    }
    Ok(serde_json::from_slice(&answer.body).unwrap_or_default())
}

fn variable<'a>(how: &'a ResolveAzure, name: &str) -> Option<&'a str> {
    how.environment.get(name).map(String::as_str).filter(|v| !v.is_empty())
}

fn address(url: &str, what: &str) -> Result<Address, Fault> {
    Address::parse(url).map_err(|e| unavailable(format!("{what}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn how_long_a_token_lasts_is_told_in_two_ways() {
        let now = shared_proto::now_ms();
        let left =
            |answer: serde_json::Value| (Token::read(&answer).map(|t| t.expiry_ms).expect("a token") - now) / 1000;
        assert!((3599..3605).contains(&left(json!({"access_token": "t", "expires_in": 3600}))));
        assert!((3599..3605).contains(&left(json!({"access_token": "t", "expires_in": "3600"}))));
        let at = (now / 1000 + 3600).to_string();
        assert!((3598..3605).contains(&left(json!({"access_token": "t", "expires_on": at}))));
        assert!(left(json!({"access_token": "t", "expires_in": i64::MAX})) <= LIFE_MAX + 5);
        assert!(left(json!({"access_token": "t", "expires_in": -1})) <= 1);
        for bad in [
            json!({}),
            json!({"access_token": "", "expires_in": 1}),
            json!({"access_token": "a b", "expires_in": 1}),
            json!({"access_token": "a\r\nb", "expires_in": 1}),
            json!({"access_token": "t".repeat(TOKEN_MAX + 1), "expires_in": 1}),
            json!({"access_token": "t", "expires_in": "soon"}),
            json!("text"),
        ] {
            assert!(Token::read(&bad).is_err(), "{bad}");
        }
        assert!(Token::read(&json!({"access_token": "t".repeat(TOKEN_MAX), "expires_in": 1})).is_ok());
    }
}
