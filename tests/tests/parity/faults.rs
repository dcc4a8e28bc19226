//! What goes wrong: in the configuration, in values, in the middle of an apply, in a provider.

use super::scenario::{Scenario, destroy, preview, update};
use serde_json::json;

/// Three one after the other, of which the second fails as long as it is told to.
const MIDDLE: &str = r#"
variable "code" { default = 3 }
resource "terraform_data" "first" { input = "made" }
resource "terraform_data" "second" {
  input      = "half"
  depends_on = [terraform_data.first]
  provisioner "local-exec" { command = "echo doomed >&2; exit ${var.code}" }
}
resource "terraform_data" "third" { input = terraform_data.second.output }
output "third" { value = terraform_data.third.output }
"#;

const PROVISIONERS: &str = r#"
variable "fails" { default = "false" }
resource "terraform_data" "a" {
  input = { fails = var.fails }
  provisioner "local-exec" {
    command     = "test \"$A\" = 1 && test \"$(pwd -P)\" != / && echo \"${self.input.fails}\""
    environment = { A = "1" }
  }
  provisioner "local-exec" {
    command    = "exit 7"
    on_failure = continue
  }
  provisioner "local-exec" {
    command     = "echo by another; exit 0"
    interpreter = ["/bin/sh", "-eu", "-c"]
    working_dir = "/"
    quiet       = true
  }
  provisioner "local-exec" {
    when    = destroy
    command = "! ${self.input.fails}"
  }
}
"#;

/// The provider of the second is dead by then: the first has killed it, and nobody else's.
const CRASH: &str = r#"
terraform {
  required_providers {
    time = {
      source  = "hashicorp/time"
      version = "0.14.2"
    }
  }
}
resource "terraform_data" "before" { input = "made" }
resource "time_sleep" "first" {
  create_duration = "0s"
  depends_on      = [terraform_data.before]
  provisioner "local-exec" {
    command = "cat /proc/[0-9]*/stat 2>/dev/null | awk -v engine=$PPID '$2 == \"(terraform-provi)\" && $4 == engine { print $1 }' | xargs kill -9"
  }
}
resource "time_sleep" "second" {
  create_duration = "0s"
  depends_on      = [time_sleep.first]
}
"#;

const CONDITIONS: &str = r#"
variable "size" {
  type = number
  validation {
    condition     = var.size < 100
    error_message = "It has to be less than 100, and is ${var.size}."
  }
}
resource "terraform_data" "a" {
  input = var.size
  lifecycle {
    precondition {
      condition     = var.size != 13
      error_message = "No."
    }
    postcondition {
      condition     = self.output != 14
      error_message = "Not what it was made for."
    }
  }
}
"#;

pub(super) fn all() -> Vec<Scenario> {
    let failed = |name, text: &str| Scenario::new(name, text, [update("failed")]);
    vec![
        Scenario::new(
            "an_error_in_the_middle",
            MIDDLE,
            [update("failed"), preview("planned"), update("applied").with(json!({ "code": 0 }))],
        ),
        Scenario::new("a_provider_that_crashes", CRASH, [update("failed")]),
        Scenario::new("provisioners", PROVISIONERS, [update("applied"), destroy("applied")]),
        Scenario::new(
            "a_provisioner_that_fails_at_the_end",
            PROVISIONERS,
            [update("applied").with(json!({ "fails": "true" })), destroy("failed").with(json!({ "fails": "true" }))],
        ),
        Scenario::new(
            "conditions_that_do_not_hold",
            CONDITIONS,
            [
                update("failed").with(json!({ "size": 100 })),
                update("failed").with(json!({ "size": 13 })),
                update("failed").with(json!({ "size": 14 })),
                update("failed").with(json!({ "size": "many" })),
            ],
        ),
        failed("no_language_at_all", "resource {\n"),
        failed(
            "references_to_nothing",
            "resource \"terraform_data\" \"a\" {\n  input = var.missing\n}\noutput \"b\" { value = terraform_data.c.output }\n",
        ),
        failed("a_variable_without_a_value", "variable \"wanted\" {\n  description = \"What is wanted.\"\n}\n"),
        failed(
            "a_circle",
            "resource \"terraform_data\" \"a\" { input = terraform_data.b.output }\nresource \"terraform_data\" \"b\" { input = terraform_data.a.output }\n",
        ),
        failed("the_same_name_twice", "resource \"terraform_data\" \"a\" {}\nresource \"terraform_data\" \"a\" {}\n"),
        failed(
            "a_function_that_fails",
            "output \"a\" { value = file(\"nowhere.txt\") }\noutput \"b\" { value = jsondecode(\"{\") }\n",
        ),
        failed(
            "keys_that_are_not_known_yet",
            "resource \"terraform_data\" \"a\" {}\nresource \"terraform_data\" \"b\" { for_each = toset([terraform_data.a.id]) }\n",
        ),
        failed(
            "keys_that_nobody_may_see",
            "resource \"terraform_data\" \"b\" { for_each = toset([sensitive(\"planted-key\")]) }\n",
        ),
        failed("an_attribute_that_there_is_not", "resource \"terraform_data\" \"a\" {\n  inputs = 1\n}\n"),
    ]
}
