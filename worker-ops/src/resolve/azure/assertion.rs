//! The assertion with which an application proves that it has its certificate's key.
//!
//! <https://learn.microsoft.com/entra/identity-platform/certificate-credentials>

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PSS_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

/// How long one is good, seconds: five to ten minutes are advised.
const LIFE: i64 = 300;

/// Signs one for the client, by the first certificate and the key in the PEM.
///
/// # Errors
/// What is wrong with the file, without anything of it.
pub(super) fn signed(pem: &str, client_id: &str, audience: &str) -> Result<String, &'static str> {
    let certificate = CertificateDer::pem_slice_iter(pem.as_bytes())
        .next()
        .and_then(Result::ok)
        .ok_or("it holds no certificate in PEM")?;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| "it holds no key in PEM; one with a password is not read")?;
    let pair = match &key {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err("its key is no RSA key, and Microsoft Entra takes no other"),
    }
    .map_err(|_| "its key is no RSA key that can be used, and Microsoft Entra takes no other")?;
    let thumbprint = BASE64.encode(digest(&SHA256, &certificate));
    let header = json!({"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint});
    let now = shared_proto::now_ms() / 1000;
    let claims = json!({
        "aud": audience, "iss": client_id, "sub": client_id, "jti": unique()?,
        "iat": now, "nbf": now, "exp": now + LIFE,
    });
    let signing = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PSS_SHA256, &SystemRandom::new(), signing.as_bytes(), &mut signature)
        .map_err(|_| "nothing can be signed with its key")?;
    Ok(format!("{signing}.{}", BASE64.encode(signature)))
}

/// An id that no other assertion has.
fn unique() -> Result<String, &'static str> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| "the system gives nothing random")?;
    Ok(shared_proto::hex::encode(bytes))
}
