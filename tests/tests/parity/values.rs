//! What goes in and comes out: variables, sensitive and ephemeral values, outputs, and the forms in which a configuration is written.

use super::scenario::{Scenario, destroy, preview, update};
use serde_json::json;

const TYPED: &str = r#"
variable "number" { type = number }
variable "yes" { type = bool }
variable "list" { type = list(string) }
variable "object" {
  type = object({ name = string, ports = optional(list(number), [80]), more = optional(map(string)) })
}
variable "any" {}
variable "nothing" { default = null }
resource "terraform_data" "a" {
  input = { number = var.number, yes = var.yes, list = var.list, object = var.object, any = var.any, nothing = var.nothing }
}
output "all" { value = terraform_data.a.output }
"#;

const SENSITIVE: &str = r#"
variable "password" {
  type      = string
  sensitive = true
}
locals { keys = { a = sensitive("planted-inside") } }
resource "terraform_data" "a" { input = { user = "ann", password = var.password, inner = [local.keys] } }
output "hidden" {
  value     = terraform_data.a.output
  sensitive = true
}
output "shown" { value = nonsensitive(length(var.password)) }
output "none_of_it" { value = "plain" }
"#;

const EPHEMERAL: &str = r#"
variable "token" {
  type      = string
  ephemeral = true
}
resource "terraform_data" "uses" {
  input = ephemeralasnull(var.token)
  provisioner "local-exec" {
    command     = "test -n \"$TOKEN\""
    environment = { TOKEN = var.token }
  }
}
module "passes" {
  source = "./passes"
  token  = var.token
}
output "is_null" { value = terraform_data.uses.output == null }
"#;

const OUTPUTS: &str = r#"
output "text" { value = "ä € \"quoted\" $${not} %%{not}\n\ttab" }
output "number" { value = 12345678901234567890.5 }
output "small" { value = 0.1 }
output "yes" { value = true }
output "tuple" { value = [1, "two", [true], null] }
output "map" { value = tomap({ a = "1", b = "2" }) }
output "set" { value = toset(["z", "a"]) }
output "object" { value = { deep = { er = [{}, []] } } }
output "heredoc" {
  value = <<-EOT
  one
    two
EOT
}
output "null" { value = null }
"#;

const WORKSPACE: &str = r#"
variable "text" { default = "one" }
resource "terraform_data" "a" { input = "${terraform.workspace} ${var.text}" }
output "where" { value = terraform.workspace }
"#;

const CHECKS: &str = r#"
variable "size" { default = 3 }
resource "terraform_data" "a" { input = var.size }
check "small" {
  assert {
    condition     = terraform_data.a.output < 5
    error_message = "It is ${terraform_data.a.output}, which is not small."
  }
  assert {
    condition     = var.size > 0
    error_message = "It is nothing."
  }
}
"#;

pub(super) fn all() -> Vec<Scenario> {
    let given = |text: &str| json!({ "text": text });
    let passes =
        "variable \"token\" { ephemeral = true }\noutput \"token\" {\n  value     = var.token\n  ephemeral = true\n}\n";
    vec![
        Scenario::new(
            "variables_of_every_type",
            TYPED,
            [update("applied").with(json!({
                "number": 12_345_678_901_234_567_890_u64, "yes": false, "list": ["a", "b c", ""],
                "object": { "name": "x", "more": { "k": "v" } }, "any": { "of": [1, "2", null] },
            }))],
        ),
        Scenario::new(
            "files_of_variables_and_what_wins",
            "variable \"a\" {}\nvariable \"b\" {}\nvariable \"c\" { default = \"default\" }\noutput \"all\" { value = [var.a, var.b, var.c] }\n",
            [update("applied").with(json!({ "a": "given" }))],
        )
        .file("terraform.tfvars", "a = \"of the file\"\nb = \"of the file\"\n")
        .file("more.auto.tfvars.json", "{\"b\": \"of the automatic one\"}"),
        Scenario::new(
            "sensitive_values",
            SENSITIVE,
            [
                preview("planned").with(json!({ "password": "planted-one" })),
                update("applied").with(json!({ "password": "planted-one" })),
                update("applied").with(json!({ "password": "planted-two-longer" })),
            ],
        ),
        Scenario::new(
            "ephemeral_values",
            EPHEMERAL,
            [
                update("applied").with(json!({ "token": "planted-ephemeral" })),
                destroy("applied").with(json!({ "token": "planted-ephemeral" })),
            ],
        )
        .file("passes/main.tf", passes),
        Scenario::new(
            "outputs_of_every_type",
            OUTPUTS,
            [update("applied"), update("applied").module("output \"text\" { value = \"another\" }\n")],
        ),
        Scenario::new(
            "a_configuration_in_json",
            "",
            [update("applied")],
        )
        .at("")
        .file(
            "main.tf.json",
            r#"{"variable": {"text": {"default": "said"}}, "resource": {"terraform_data": {"a": {"input": "${var.text}"}}},
                "output": {"text": {"value": "${terraform_data.a.output}"}}}"#,
        ),
        Scenario::new(
            "files_that_override",
            "resource \"terraform_data\" \"a\" { input = \"first\" }\noutput \"text\" { value = terraform_data.a.output }\n",
            [update("applied")],
        )
        .file("override.tf", "resource \"terraform_data\" \"a\" { input = \"over it\" }\n")
        .file("more_override.tf.json", r#"{"output": {"text": {"sensitive": true}}}"#),
        Scenario::new(
            "files_that_only_opentofu_reads",
            "output \"which\" { value = \"tf\" }\n",
            [update("applied")],
        )
        .file("main.tofu", "output \"which\" { value = \"tofu\" }\n")
        .of_opentofu(),
        Scenario::new("a_module_in_a_folder", "", [update("applied")])
            .at("infra/live")
            .file("infra/live/main.tf", "module \"m\" { source = \"../modules/m\" }\noutput \"said\" { value = module.m.said }\n")
            .file("infra/modules/m/main.tf", "output \"said\" { value = file(\"${path.module}/said.txt\") }\n")
            .file("infra/modules/m/said.txt", "of a file beside it"),
        Scenario::new(
            "a_workspace",
            WORKSPACE,
            [update("applied"), update("applied").with(given("two")), destroy("applied")],
        )
        .workspace("blue", "terraform.tfstate.d/blue/terraform.tfstate"),
        Scenario::new(
            "checks_that_hold_and_do_not",
            CHECKS,
            [
                update("applied"),
                update("applied").with(json!({ "size": 9 })),
                update("no_changes").with(json!({ "size": 9 })),
                update("applied").with(json!({ "size": -1 })),
            ],
        ),
    ]
}
