//! Words signed with an RSA key, for which somebody gives a token: JSON Web Tokens by RS256. <https://www.rfc-editor.org/rfc/rfc7519>

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;

/// Signs head and claims with a key in PEM.
///
/// # Errors
/// What is wrong with the key, without it.
pub(super) fn rs256(head: &Value, claims: &Value, key: &str) -> Result<String, &'static str> {
    let pair = match PrivateKeyDer::from_pem_slice(key.as_bytes()) {
        Ok(PrivateKeyDer::Pkcs8(der)) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        Ok(PrivateKeyDer::Pkcs1(der)) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err("it is no key in PEM"),
    };
    let pair = pair.map_err(|_| "it is no RSA key of 2048 bits or more")?;
    let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
    let input = format!("{}.{}", encode(head.to_string()), encode(claims.to_string()));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature)
        .map_err(|_| "it cannot sign")?;
    Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
