//! A cluster's Secrets, for variables that refer to them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use shared_proto::failure::Code;
use shared_proto::v1::{KubernetesTarget, SecretRead};

use super::connect::{Cluster, segment};
use crate::fault::Fault;
use crate::net::Dialer;
use crate::secrets::of_fields;

/// Those of a cluster.
pub(crate) struct Secrets(Cluster);

// === impl Secrets ===

impl Secrets {
    /// Checks the target; connects with the first request.
    pub(crate) fn new(target: KubernetesTarget, dialer: &Dialer) -> Result<Self, Fault> {
        Cluster::new(target, None, dialer).map(Self)
    }

    /// One of them, `namespace/name`, of which a field may be meant.
    pub(crate) async fn read(&mut self, read: &SecretRead) -> Result<String, Fault> {
        let (namespace, name) = read.path.split_once('/').unwrap_or_default();
        let (namespace, name) = (segment("namespace", namespace)?, segment("Secret", name)?);
        // as it comes: what is wrong with a value must not be told with the value
        let secret: Value = self.0.get(&format!("/api/v1/namespaces/{namespace}/secrets/{name}")).await?;
        Ok(of_fields(decoded(&secret["data"], &read.key)?, &read.key)?)
    }
}

/// Its fields, or the one that is meant: what nobody asks for may be no text.
fn decoded(data: &Value, key: &str) -> Result<Map<String, Value>, Fault> {
    let wrong =
        |name: &str, what: &str| Fault::new(Code::TargetRefused, format!("the field {name:?} of the Secret {what}"));
    let mut fields = Map::new();
    for (name, value) in data.as_object().into_iter().flatten() {
        if !key.is_empty() && name != key {
            continue;
        }
        let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).map_err(|_| wrong(name, "is not in base64"))?;
        let text = String::from_utf8(bytes).map_err(|_| wrong(name, "is no text in UTF-8"))?;
        fields.insert(name.clone(), text.into());
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_decoded_and_what_is_no_text_is_missed_where_it_is_meant() {
        let data = json!({"user": "Ym9i", "binary": "/w==", "broken": "s3cr3t!"});
        assert_eq!(decoded(&data, "user").expect("a text")["user"], "bob");
        assert!(decoded(&data, "none").expect("nothing").is_empty());
        for key in ["binary", "broken", ""] {
            let fault = decoded(&data, key).expect_err(key);
            assert!(
                fault.code() == Code::TargetRefused && !fault.failure.message.contains("s3cr3t"),
                "{}",
                fault.failure
            );
        }
        assert!(decoded(&Value::Null, "").expect("none").is_empty());
    }
}
