//! The identity that Azure gives what runs in it. A web app or container app is told where by IDENTITY_ENDPOINT and IDENTITY_HEADER; a
//! machine asks the metadata service.
//!
//! <https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference>,
//! <https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>

use bytes::Bytes;
use http_body_util::Full;
use shared_proto::v1::ResolveAzure;

use super::{Audience, Token, address, said, unavailable, variable};
use crate::fault::{Fault, words};
use crate::net::{Dialer, url};
use crate::resolve::http::exchange;

/// The metadata service of a machine.
const METADATA: &str = "http://169.254.169.254";
const METADATA_PATH: &str = "/metadata/identity/oauth2/token";

pub(super) async fn token(how: &ResolveAzure, audience: Audience) -> Result<Token, Fault> {
    // as a scope without its end: Azure compares it as a text
    let resource = format!("https://{}", audience.0);
    let mut query = vec![("resource", resource.as_str())];
    let (base, path, header) = match (variable(how, "IDENTITY_ENDPOINT"), variable(how, "IDENTITY_HEADER")) {
        (Some(url), Some(header)) => {
            query.insert(0, ("api-version", "2019-08-01"));
            (url, "", ("x-identity-header", header))
        }
        _ => {
            query.insert(0, ("api-version", "2018-02-01"));
            // for what stands in for the service, as Azure's own SDKs have it
            let base = variable(how, "AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or(METADATA);
            (base, METADATA_PATH, ("metadata", "true"))
        }
    };
    if !how.client_id.is_empty() {
        query.push(("client_id", &how.client_id));
    }
    let address = address(base, "the address of the managed identity")?;
    let internal = |_| unavailable("the managed identity cannot be asked: IDENTITY_HEADER is no header");
    let request = http::Request::get(format!("{}{path}?{}", address.prefix, url::form(query)))
        .header(header.0, header.1)
        .body(Full::new(Bytes::new()))
        .map_err(internal)?;
    let failed = |why: &str| {
        unavailable(format!("the managed identity: {}", words(why)))
            .next("Give the machine, web app or container app a managed identity, and the entry its client_id where a user has assigned it.")
    };
    let answer = exchange(&Dialer::direct(), &address, request).await.map_err(|e| failed(&e))?;
    let at = |why: &str| failed(&format!("{}: {why}", address.shown()));
    let said = said(&answer).map_err(|e| at(&e))?;
    if !answer.status.is_success() {
        // the metadata service has error_description, web apps have message
        let words = ["error_description", "message"].iter().find_map(|name| said[*name].as_str());
        return Err(at(&format!("it answered {}: {}", answer.status, words.unwrap_or("it says nothing more"))));
    }
    Token::read(&said).map_err(at)
}
