//! Tokens of an application, from the cloud's directory: OAuth 2.0's client credentials.
//!
//! <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
use serde_json::Value;
use shared_proto::address::Address;
use shared_proto::azure::{Cloud, is_guid, is_tenant};
use shared_proto::failure::Code;
use shared_proto::v1::ResolveAzure;
use std::path::Path;

use super::{Audience, Token, assertion, said, unavailable, variable};
use crate::fault::{Fault, words};
use crate::net::{Dialer, Endpoint, url};
use crate::resolve::file;
use crate::resolve::http::exchange;

/// What proves that an assertion is one.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The longest secret, bytes: Entra's have forty characters.
const SECRET_MAX: usize = 4096;
/// The longest token of another issuer, bytes.
const FEDERATED_MAX: usize = 32 * 1024;

/// What the application proves itself with.
enum Proof {
    Secret(String),
    Assertion(String),
}

pub(super) async fn token(
    how: &ResolveAzure,
    cloud: Cloud,
    audience: Audience,
    dialer: &Dialer,
) -> Result<Token, Fault> {
    // they become part of a URL
    if !is_tenant(&how.tenant) || !is_guid(&how.client_id) {
        return Err(unavailable("tenant and client_id of the entry are no ids of Azure's"));
    }
    let own = || Address { https: true, host: cloud.authority().to_owned(), port: 443, prefix: String::new() };
    let directory = Endpoint::instead(&how.endpoint_url)?.unwrap_or_else(own);
    let path = format!("/{}/oauth2/v2.0/token", how.tenant);
    let proof = proof(how, &format!("https://{}{path}", cloud.authority()))?;
    let scope = format!("https://{}/.default", audience.0);
    let mut form =
        vec![("grant_type", "client_credentials"), ("client_id", how.client_id.as_str()), ("scope", scope.as_str())];
    match &proof {
        Proof::Secret(secret) => form.push(("client_secret", secret)),
        Proof::Assertion(assertion) => {
            form.extend([("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion)]);
        }
    }
    let request = http::Request::post(format!("{}{path}", directory.prefix))
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(url::form(form))))
        .map_err(|e| Fault::new(Code::Internal, format!("a request to Microsoft Entra cannot be made: {e}")))?;
    let answer = exchange(dialer, &directory, request)
        .await
        .map_err(|e| unavailable(format!("Microsoft Entra at {e}")).next("Check the way from the runner to it."))?;
    let (Proof::Secret(secret) | Proof::Assertion(secret)) = &proof;
    match said(&answer) {
        Ok(said) if answer.status.is_success() => {
            Token::read(&said).map_err(|e| unavailable(format!("Microsoft Entra at {}: {e}", directory.shown())))
        }
        Ok(said) => Err(refusal(how, answer.status.as_u16(), &said, secret)),
        Err(why) => Err(unavailable(format!("Microsoft Entra at {}: {why}", directory.shown()))),
    }
}

fn proof(how: &ResolveAzure, audience: &str) -> Result<Proof, Fault> {
    match how.source.as_str() {
        "client_secret" => {
            let path = Path::new(&how.client_secret_file);
            let text = file::read("the application's secret", path)?;
            let secret = text.trim_end_matches(['\r', '\n']);
            if secret.is_empty() || secret.len() > SECRET_MAX || secret.chars().any(char::is_control) {
                return Err(unavailable(format!("the application's secret {}: it holds no secret", path.display()))
                    .next("Write the secret's value into the file, on one line."));
            }
            Ok(Proof::Secret(secret.to_owned()))
        }
        "client_certificate" => {
            let path = Path::new(&how.certificate_file);
            let pem = file::read("the application's certificate", path)?;
            let signed = assertion::signed(&pem, &how.client_id, audience)
                .map_err(|e| unavailable(format!("the application's certificate {}: {e}", path.display())))?;
            Ok(Proof::Assertion(signed))
        }
        _ => {
            let named = Some(how.federated_token_file.as_str()).filter(|path| !path.is_empty());
            let path = named.or_else(|| variable(how, "AZURE_FEDERATED_TOKEN_FILE")).ok_or_else(|| {
                unavailable("the runner was started without AZURE_FEDERATED_TOKEN_FILE").next(
                    "Run the runner with workload identity, or name federated_token_file in the connection's entry.",
                )
            })?;
            let text = file::read("the federated token", Path::new(path))?;
            let token = text.trim();
            let graphic = token.bytes().all(|b| b.is_ascii_graphic());
            if token.is_empty() || token.len() > FEDERATED_MAX || !graphic {
                return Err(unavailable(format!("the federated token {path}: it holds no token")));
            }
            Ok(Proof::Assertion(token.to_owned()))
        }
    }
}

/// Entra's refusal in its own words, without what its support wants and without what was sent.
///
/// <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>
fn refusal(how: &ResolveAzure, status: u16, answer: &Value, secret: &str) -> Fault {
    let said = answer["error_description"].as_str().unwrap_or_default();
    let said = said.split(" Trace ID:").next().unwrap_or_default().lines().next().unwrap_or_default();
    let said = words(&said.replace(secret, "…"));
    let number = answer["error_codes"][0].as_u64().unwrap_or_else(|| {
        let digits = said.strip_prefix("AADSTS").unwrap_or_default();
        digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|d| d.parse().ok()).unwrap_or(0)
    });
    let (code, next) = match number {
        7_000_222 => {
            (Code::CredentialsExpired, "Make a new secret for the application and write it into client_secret_file.")
        }
        7_000_215 => (Code::CredentialsUnavailable, "Write the secret's value, not its id, into client_secret_file."),
        700_016 | 700_038 => (
            Code::CredentialsUnavailable,
            "Check client_id, and that the application is in the entry's tenant and cloud.",
        ),
        90_002 | 900_023 | 900_021 => {
            (Code::CredentialsUnavailable, "Check tenant and cloud of the connection's entry.")
        }
        700_027 => (
            Code::CredentialsUnavailable,
            "Add the certificate of certificate_file to the application in Microsoft Entra.",
        ),
        700_024 => {
            (Code::CredentialsUnavailable, "Set this machine's clock, and see that the federated token is renewed.")
        }
        70_021 | 700_211 | 700_212 | 700_213 | 700_223 => (
            Code::CredentialsUnavailable,
            "Give the application a federated credential for the issuer, subject and audience of the token.",
        ),
        7_000_112 => (Code::CredentialsUnavailable, "Enable the application in Microsoft Entra."),
        50_057 | 53_003 => (
            Code::CredentialsUnavailable,
            "See to the tenant's conditional access and to whether the application is enabled.",
        ),
        500_011 | 650_052 => (Code::CredentialsUnavailable, "Whoever owns the tenant has to allow that service in it."),
        _ => {
            (Code::CredentialsUnavailable, "Check the connection's entry; the message has Microsoft Entra's own words.")
        }
    };
    let error = answer["error"].as_str().map(words).unwrap_or_default();
    let said = if said.is_empty() { format!("it answered {status} {error}") } else { said };
    let said = said.trim_end();
    let message = format!("Microsoft Entra gives the application {} no token ({}): {said}", how.client_id, how.source);
    Fault::new(code, message).said(status, error).next(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refusals_say_what_to_do_and_no_secret() {
        let how = ResolveAzure { source: "client_secret".into(), client_id: "app".into(), ..Default::default() };
        for (number, code, word) in [
            (7_000_215, Code::CredentialsUnavailable, "client_secret_file"),
            (7_000_222, Code::CredentialsExpired, "new secret"),
            (700_016, Code::CredentialsUnavailable, "client_id"),
            (90_002, Code::CredentialsUnavailable, "tenant"),
            (700_027, Code::CredentialsUnavailable, "certificate_file"),
            (70_021, Code::CredentialsUnavailable, "federated credential"),
            (1, Code::CredentialsUnavailable, "own words"),
        ] {
            let said = format!("AADSTS{number}: No, not s3cr3t. Trace ID: abc Correlation ID: def Timestamp: now");
            for answer in [
                json!({"error": "invalid_client", "error_description": said, "error_codes": [number]}),
                json!({"error": "invalid_client", "error_description": said}),
            ] {
                let fault = refusal(&how, 401, &answer, "s3cr3t");
                assert_eq!((fault.code(), fault.status, fault.reason.as_str()), (code, 401, "invalid_client"));
                let shown = &fault.failure.message;
                assert!(shown.contains(&format!("AADSTS{number}: No, not ….")) && !shown.contains("Trace"), "{shown}");
                assert!(fault.failure.next_step.contains(word), "{}", fault.failure.next_step);
            }
        }
        let fault = refusal(&how, 502, &Value::Null, "s3cr3t");
        assert!(fault.failure.message.ends_with("it answered 502"), "{}", fault.failure);
    }
}
