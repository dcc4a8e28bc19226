//! Secrets Manager and the parameters of Systems Manager, for variables that refer to them.
//!
//! <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html>,
//! <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameter.html>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use shared_proto::failure::Code;
use shared_proto::secrets::field;
use shared_proto::v1::{AwsTarget, SecretRead};

use super::connect::{Account, Protocol, Service, malformed};
use crate::fault::Fault;
use crate::net::Dialer;

const SECRETS_MANAGER: Service =
    Service { signing: "secretsmanager", protocol: Protocol::Json("1.1", "secretsmanager") };
const SSM: Service = Service { signing: "ssm", protocol: Protocol::Json("1.1", "AmazonSSM") };

/// Those of an account in one region.
pub(crate) struct Secrets(Account);

// === impl Secrets ===

impl Secrets {
    /// Checks target and region; connects with the first request.
    pub(crate) fn new(target: AwsTarget, region: &str, dialer: &Dialer) -> Result<Self, Fault> {
        let account = Account::new(target, region, dialer);
        account.map(Self).map_err(|fault| match fault.code() {
            Code::InvalidArgument => fault.next("Give the store's entry, or its connection's, a region."),
            _ => fault,
        })
    }

    /// One of Secrets Manager, by name or ARN.
    pub(crate) async fn secret(&self, read: &SecretRead) -> Result<String, Fault> {
        let asked = vec![("SecretId", json!(read.path))];
        let answer = self.0.ask(SECRETS_MANAGER)?.call("GetSecretValue", "", asked).await?;
        let value = match (&answer["SecretString"], &answer["SecretBinary"]) {
            (Value::String(text), _) => text.clone().into_bytes(),
            (_, Value::String(base64)) => {
                STANDARD.decode(base64).map_err(|_| malformed("secretsmanager", "its bytes are not in base64"))?
            }
            _ => return Err(malformed("secretsmanager", "it has no value")),
        };
        Ok(field(&value, &read.key)?)
    }

    /// One of Systems Manager, decrypted where it is encrypted.
    pub(crate) async fn parameter(&self, read: &SecretRead) -> Result<String, Fault> {
        let asked = vec![("Name", json!(read.path)), ("WithDecryption", json!(true))];
        let answer = self.0.ask(SSM)?.call("GetParameter", "", asked).await?;
        let value = answer.pointer("/Parameter/Value").and_then(Value::as_str);
        Ok(field(value.ok_or_else(|| malformed("ssm", "it has no value"))?.as_bytes(), &read.key)?)
    }
}
