//! Google Secret Manager, for variables that refer to it.
//!
//! <https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/access>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use shared_proto::failure::Code;
use shared_proto::secrets::field;
use shared_proto::v1::{GcpTarget, SecretRead};

use super::connect::Projects;
use crate::fault::Fault;
use crate::net::{Dialer, url};

/// The service, by the first label of its host.
const SERVICE: &str = "secretmanager";
/// The version where none is named.
const LATEST: &str = "latest";

/// Those of a project.
pub(crate) struct Secrets(Projects);

// === impl Secrets ===

impl Secrets {
    /// Checks target and project; connects with the first request.
    pub(crate) fn new(target: GcpTarget, project: &str, dialer: &Dialer) -> Result<Self, Fault> {
        Projects::new(target, project, dialer).map(Self)
    }

    /// One of them, `name` or `name/versions/3`.
    pub(crate) async fn read(&mut self, read: &SecretRead) -> Result<String, Fault> {
        let (name, version) = read.path.split_once("/versions/").unwrap_or((&read.path, LATEST));
        let project =
            self.0.project().map_err(|fault| fault.next("Give the store's entry, or its connection's, a project."));
        let path =
            format!("/v1/projects/{}/secrets/{}/versions/{}:access", project?, url::encode(name), url::encode(version));
        let answer = self.0.get(SERVICE, &path, &[]).await.map_err(|fault| match fault.code() {
            Code::TargetForbidden => {
                fault.next("Give the connection's account the role Secret Manager Secret Accessor for the secret.")
            }
            _ => fault,
        })?;
        let data = answer.pointer("/payload/data").and_then(Value::as_str);
        let value = data.and_then(|data| STANDARD.decode(data).ok());
        let malformed = || Fault::new(Code::TargetFailed, "secretmanager: an answer has no payload in base64");
        Ok(field(&value.ok_or_else(malformed)?, &read.key)?)
    }
}
