//! An Azure Key Vault, for variables that refer to it.
//!
//! <https://learn.microsoft.com/rest/api/keyvault/secrets/get-secret/get-secret>

use shared_proto::failure::Code;
use shared_proto::secrets::field;
use shared_proto::v1::{AzureTarget, SecretRead};

use super::connect::KeyVault;
use crate::fault::Fault;
use crate::net::{Dialer, url};

/// The version of the API.
const API_VERSION: &str = "7.4";

/// Those of a vault.
pub(crate) struct Secrets(KeyVault);

// === impl Secrets ===

impl Secrets {
    /// Checks target and vault; connects with the first request.
    pub(crate) fn new(target: AzureTarget, vault: &str, dialer: &Dialer) -> Result<Self, Fault> {
        KeyVault::new(target, vault, dialer).map(Self)
    }

    /// One of them, `name` or `name/version`.
    pub(crate) async fn read(&mut self, read: &SecretRead) -> Result<String, Fault> {
        let (name, version) = read.path.split_once('/').unwrap_or((&read.path, ""));
        let target = format!("/secrets/{}/{}?api-version={API_VERSION}", url::encode(name), url::encode(version));
        let answer = self.0.get(&target).await.map_err(|fault| match fault.code() {
            Code::TargetForbidden => fault.next(
                "Give the connection's identity the role Key Vault Secrets User for the vault; it takes some minutes.",
            ),
            _ => fault,
        })?;
        let malformed = || Fault::new(Code::TargetFailed, "Key Vault: an answer has no value");
        let value = answer["value"].as_str().map(str::as_bytes);
        Ok(field(value.ok_or_else(malformed)?, &read.key)?)
    }
}
