//! Secrets of one store, for the supervisor: read one after the other, each told as it is there, until one cannot be had.
//!
//! It must never put a value, or a part of an answer that may hold one, into a failure.

use serde_json::{Map, Value};
use shared_proto::failure::{Code, Failure};
use shared_proto::frame::FrameError;
use shared_proto::secrets::{self, missing, text_of};
use shared_proto::v1::secret_reply::Kind as Reply;
use shared_proto::v1::target::Kind as Kinds;
use shared_proto::v1::{SecretRead, SecretReads, SecretReply, Target};
use std::time::Duration;

use crate::fault::Fault;
use crate::net::Dialer;
use crate::socket::Output;
use crate::vault::Vault;
use crate::{aws, azure, gcp, kubernetes};

/// What one may take.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Reads all of them; what cannot be begun fails the first.
pub(crate) async fn serve(
    reads: SecretReads,
    target: Option<Target>,
    dialer: &Dialer,
    output: &mut Output,
) -> Result<(), FrameError> {
    let SecretReads { kind, reads, vault, vault_name, place } = reads;
    let begun = match (kind.as_str(), target.and_then(|target| target.kind), vault) {
        ("kubernetes", Some(Kinds::Kubernetes(target)), _) => match kubernetes::Secrets::new(target, dialer) {
            Ok(mut store) => return each(&reads, output, async |read| store.read(read).await).await,
            Err(fault) => fault,
        },
        ("aws-secrets-manager" | "aws-ssm", Some(Kinds::Aws(target)), _) => {
            match aws::Secrets::new(target, &place, dialer) {
                Ok(store) if kind == "aws-ssm" => {
                    return each(&reads, output, async |read| store.parameter(read).await).await;
                }
                Ok(store) => return each(&reads, output, async |read| store.secret(read).await).await,
                Err(fault) => fault,
            }
        }
        ("gcp", Some(Kinds::Gcp(target)), _) => match gcp::Secrets::new(target, &place, dialer) {
            Ok(mut store) => return each(&reads, output, async |read| store.read(read).await).await,
            Err(fault) => fault,
        },
        ("azure", Some(Kinds::Azure(target)), _) => match azure::Secrets::new(target, &vault_name, dialer) {
            Ok(mut store) => return each(&reads, output, async |read| store.read(read).await).await,
            Err(fault) => fault,
        },
        ("vault", _, Some(target)) => match Vault::new(target, dialer) {
            Ok(mut store) => return each(&reads, output, async |read| store.read(read).await).await,
            Err(fault) => fault,
        },
        _ => Fault::new(Code::Internal, "the secrets came without the target of their store"),
    };
    output.last(&reply(Err(begun))).await
}

async fn each(
    reads: &[SecretRead],
    output: &mut Output,
    mut one: impl AsyncFnMut(&SecretRead) -> Result<String, Fault>,
) -> Result<(), FrameError> {
    for read in reads {
        let value = tokio::time::timeout(READ_WITHIN, one(read)).await.unwrap_or_else(|_| {
            let seconds = READ_WITHIN.as_secs();
            Err(Fault::new(Code::TargetUnreachable, format!("the store did not answer within {seconds} s")))
        });
        let ends = value.is_err();
        output.last(&reply(value)).await?;
        if ends {
            break;
        }
    }
    Ok(())
}

fn reply(value: Result<String, Fault>) -> SecretReply {
    let kind = match value {
        Ok(value) => Reply::Value(value.into_bytes()),
        Err(fault) => Reply::Failure(fault.outcome()),
    };
    SecretReply { kind: Some(kind) }
}

/// What is meant of fields that have texts: one, or all of them as an object.
///
/// # Errors
/// There is no such field, or it is too long for a variable.
pub(crate) fn of_fields(mut fields: Map<String, Value>, key: &str) -> Result<String, Failure> {
    let text = match key {
        "" => Value::Object(fields).to_string(),
        key => text_of(fields.remove(key).ok_or_else(|| missing(key))?),
    };
    secrets::checked(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_or_all_of_them() {
        let fields = || json!({"user": "bob", "port": 5432}).as_object().cloned().unwrap_or_default();
        assert_eq!(of_fields(fields(), "user").as_deref(), Ok("bob"));
        assert_eq!(of_fields(fields(), "port").as_deref(), Ok("5432"));
        assert_eq!(of_fields(fields(), "").as_deref(), Ok(r#"{"port":5432,"user":"bob"}"#));
        assert_eq!(of_fields(fields(), "none").expect_err("none").code, Code::TargetNotFound);
    }
}
