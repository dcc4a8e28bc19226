//! Where states are: every backend of the engines that can be had here, whole, in parts, and broken.

use super::scenario::{Place, Scenario, destroy, update};
use runner_tests::Component;
use serde_json::json;

/// A stack whose state is in that backend.
fn of(backend: &str) -> String {
    format!(
        r#"
terraform {{
  backend {backend}
}}
variable "text" {{ default = "one" }}
resource "terraform_data" "a" {{ input = "${{terraform.workspace}} ${{var.text}}" }}
output "text" {{ value = terraform_data.a.output }}
"#
    )
}

const HTTP: &str = "\"http\" {\n    address        = \"%WEB%/states/%KEY%\"\n    lock_address   = \"%WEB%/states/%KEY%\"\n    unlock_address = \"%WEB%/states/%KEY%\"\n  }";
const POSTGRES: &str = "\"pg\" {\n    conn_str    = \"%POSTGRES%\"\n    schema_name = \"%NAME%\"\n  }";
/// The rest is in the environment: whose cluster it is.
const KUBERNETES: &str = "\"kubernetes\" {\n    secret_suffix = \"%KEY%\"\n  }";
const S3: &str = r#""s3" {
    bucket                      = "states"
    key                         = "%KEY%"
    region                      = "eu-central-1"
    use_path_style              = true
    use_lockfile                = true
    skip_credentials_validation = true
    skip_requesting_account_id  = true
    skip_metadata_api_check     = true
    endpoints                   = { s3 = "%MOTO%" }
  }"#;
/// The rest is in the environment: region, address, keys.
const S3_IN_PARTS: &str = r#""s3" {
    bucket                      = "states"
    key                         = "%KEY%"
    use_path_style              = true
    skip_credentials_validation = true
    skip_requesting_account_id  = true
  }"#;

pub(super) fn all() -> Vec<Scenario> {
    let changed = || update("applied").with(json!({ "text": "two" }));
    let life = || [update("applied"), changed(), destroy("applied")];
    let own = |name, backend: &str, connection, needs| {
        Scenario::new(name, of(backend), life()).place(Place::Own).connection(connection, needs)
    };
    let none = |name, backend: &str| {
        Scenario::new(name, of(backend), [update("failed")]).place(Place::Nowhere).connection(&["web"], &[])
    };
    let cluster: &[Component] = &[Component::Cluster];
    vec![
        Scenario::new("a_local_backend", of("\"local\" {\n    path = \"own.tfstate\"\n  }"), life())
            .place(Place::Here("own.tfstate")),
        own("an_http_backend", HTTP, &["web"], &[]),
        own("a_postgresql_backend", POSTGRES, &["database"], &[Component::Postgres]),
        own("a_kubernetes_backend", KUBERNETES, &["cluster"], cluster),
        own("an_s3_backend", S3, &["account"], &[Component::Moto]),
        own("an_s3_backend_that_the_connection_completes", S3_IN_PARTS, &["account"], &[Component::Moto]),
        own("a_workspace_in_a_backend", POSTGRES, &["database"], &[Component::Postgres]).in_workspace("blue"),
        Scenario::new(
            "a_backend_of_variables",
            format!("variable \"address\" {{}}\n{}", of("\"http\" {\n    address = var.address\n  }")),
            [update("applied").with(json!({ "address": "%WEB%/states/%KEY%" }))],
        )
        .place(Place::Own)
        .connection(&["web"], &[])
        .of_opentofu(),
        Scenario::new(
            "the_outputs_of_another_state",
            r#"
data "terraform_remote_state" "other" {
  backend = "http"
  config  = { address = "%WEB%/other.tfstate" }
}
output "said" { value = data.terraform_remote_state.other.outputs.said }
"#,
            [update("applied")],
        )
        .connection(&["web"], &[]),
        none("a_backend_that_nothing_completes", "\"http\" {}"),
        none("a_backend_that_refuses", "\"http\" {\n    address = \"%WEB%/forbidden\"\n  }"),
        none("a_backend_that_there_is_not", "\"nowhere\" {}"),
    ]
}
