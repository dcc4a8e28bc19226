//! What gives tokens of Google Cloud, as its references document it: it checks signatures, and forms member by member.

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use crate::server::{Asked, Plain, pairs};

pub(crate) const ACCOUNT: &str = "runner@shop-prod-1.iam.gserviceaccount.com";
pub(crate) const PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
pub(crate) const AUDIENCE: &str =
    "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool/providers/ci";
pub(crate) const SUBJECT: &str = "eyJ.s3cr3t-subject.token";

pub(crate) fn key_file(pair: &KeyPair) -> Result<Value> {
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'static> = pair.as_der()?;
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
    Ok(json!({
        "type": "service_account", "project_id": "shop-prod-1", "private_key_id": "k1", "private_key": pem,
        "client_email": ACCOUNT, "client_id": "112233", "token_uri": "https://oauth2.googleapis.com/token",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth", "universe_domain": "googleapis.com",
    }))
}
pub(crate) fn given(token: &str) -> Plain {
    (200, json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}).to_string())
}
pub(crate) fn refused(word: &str, said: &str) -> Plain {
    (400, json!({"error": word, "error_description": said}).to_string())
}

/// <https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests>
pub(crate) fn by_assertion(asked: &Asked, public: &[u8], scope: &str) -> Result<Plain> {
    ensure!(asked.parts() == ("POST".to_owned(), "/token".to_owned(), Vec::new()), "{}", asked.line);
    ensure!(
        asked.header("content-type") == "application/x-www-form-urlencoded" && asked.header("authorization").is_empty()
    );
    let form: BTreeMap<_, _> = pairs(&asked.body).into_iter().collect();
    ensure!(
        form.len() == 2 && form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "{:?}",
        form.keys()
    );
    let assertion = &form["assertion"];
    let (signed, signature) = assertion.rsplit_once('.').context("three parts")?;
    let verified = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public)
        .verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature)?);
    if verified.is_err() {
        return Ok(refused("invalid_grant", "Invalid JWT Signature."));
    }
    let (head, claims) = signed.split_once('.').context("two parts")?;
    let read = |part: &str| -> Result<Value> { Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?) };
    ensure!(read(head)? == json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}), "{}", read(head)?);
    let claims = read(claims)?;
    let (iat, exp) = (claims["iat"].as_i64().context("iat")?, claims["exp"].as_i64().context("exp")?);
    let now = shared_proto::now_ms() / 1000;
    ensure!(exp - iat == 3600 && (now - 30..=now).contains(&iat), "{claims}");
    let expected =
        json!({"iss": ACCOUNT, "scope": scope, "aud": "https://oauth2.googleapis.com/token", "iat": iat, "exp": exp});
    ensure!(claims == expected, "{claims}");
    Ok(given("ya29.by-key"))
}
pub(crate) fn or_refused(answer: Result<Plain>) -> Plain {
    answer.unwrap_or_else(|e| refused("invalid_request", &format!("{e:#}")))
}

/// <https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>
pub(crate) fn exchanged(asked: &Asked, scope: &str) -> Plain {
    let form = pairs(&asked.body);
    let expected = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("audience", AUDIENCE),
        ("scope", scope),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("subject_token", SUBJECT),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()));
    if form != expected {
        return refused("invalid_request", "The form is another one");
    }
    let body = json!({"access_token": "ya29.d.federated", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "token_type": "Bearer", "expires_in": 3600});
    (200, body.to_string())
}

/// <https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken>
pub(crate) fn generated(asked: &Asked, by: &str, account: &str, body: &Value, token: &str) -> Plain {
    let path = format!("/v1/projects/-/serviceAccounts/{account}:generateAccessToken");
    let error = |status: u16, word: &str, message: &str| {
        (status, json!({"error": {"code": status, "status": word, "message": message}}).to_string())
    };
    if asked.header("authorization") != format!("Bearer {by}") {
        return error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.");
    }
    if asked.parts() != ("POST".to_owned(), path, Vec::new()) {
        return error(
            403,
            "PERMISSION_DENIED",
            "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).",
        );
    }
    if serde_json::from_str::<Value>(&asked.body).ok().as_ref() != Some(body) {
        return error(400, "INVALID_ARGUMENT", "Invalid JSON payload received.");
    }
    let expiry = k8s_openapi::jiff::Timestamp::from_second(shared_proto::now_ms() / 1000 + 400).map(|t| t.to_string());
    (200, json!({"accessToken": token, "expireTime": expiry.unwrap_or_default()}).to_string())
}

/// <https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys>
pub(crate) fn machine(asked: &Asked) -> Plain {
    let (verb, path, query) = asked.parts();
    if asked.header("metadata-flavor") != "Google" || verb != "GET" {
        return (403, "Missing required header \"Metadata-Flavor\": \"Google\"".to_owned());
    }
    match path.strip_prefix("/computeMetadata/v1/").unwrap_or_default() {
        "instance/service-accounts/default/token" if query.is_empty() => given("ya29.of-machine"),
        "instance/service-accounts/default/token" if query == [("scopes".to_owned(), PLATFORM.to_owned())] => {
            given("ya29.narrower")
        }
        "instance/service-accounts/default/email" => (200, ACCOUNT.to_owned()),
        "project/project-id" => (200, "shop-prod-1".to_owned()),
        _ => (404, "Not Found".to_owned()),
    }
}
