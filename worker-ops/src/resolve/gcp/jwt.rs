//! A service account's own word, signed with its key, for which Google gives a token.
//! <https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests>

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
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
    let pair = match PrivateKeyDer::from_pem_slice(key.as_bytes()) {
        Ok(PrivateKeyDer::Pkcs8(der)) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        Ok(PrivateKeyDer::Pkcs1(der)) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err("it is no key in PEM"),
    };
    let pair = pair.map_err(|_| "it is no RSA key of 2048 bits or more")?;
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
    let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
    let input = format!("{}.{}", encode(head.to_string()), encode(body.to_string()));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature)
        .map_err(|_| "it cannot sign")?;
    Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
