//! A service account's own word, signed with its key, for which Google gives a token.
//! <https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests>

use super::super::signed;
use serde_json::json;

/// How long it is good for, seconds: the most that Google takes.
const SECONDS: i64 = 3600;

/// What it says.
pub(super) struct Claims<'a> {
    pub(super) account: &'a str,
    /// The key's id; empty: none.
    pub(super) key_id: &'a str,
    /// Where it goes to, as the file has it.
    pub(super) audience: &'a str,
    pub(super) scopes: &'a [String],
    /// Unix seconds.
    pub(super) now: i64,
}

/// Signs it with a key in PEM.
///
/// # Errors
/// What is wrong with the key, without it.
pub(super) fn signed(claims: &Claims<'_>, key: &str) -> Result<String, &'static str> {
    let mut head = json!({"alg": "RS256", "typ": "JWT"});
    if !claims.key_id.is_empty() {
        head["kid"] = json!(claims.key_id);
    }
    let body = json!({
        "iss": claims.account,
        "scope": claims.scopes.join(" "),
        "aud": claims.audience,
        "iat": claims.now,
        "exp": claims.now + SECONDS,
    });
    signed::rs256(&head, &body, key)
}
