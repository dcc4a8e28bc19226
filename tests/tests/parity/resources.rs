//! What becomes of resources: made, changed, replaced, destroyed, renamed, taken in, forgotten.

use super::scenario::{Scenario, destroy, preview, refresh, update};
use runner_tests::suite::scale;
use serde_json::json;

/// One resource that is what a variable says, and an output of it.
const SAID: &str = r#"
variable "text" { default = "one" }
resource "terraform_data" "a" { input = var.text }
output "text" { value = terraform_data.a.output }
"#;

/// A resource of which a variable makes another one, and what stands on it.
fn replaced(first: bool) -> String {
    format!(
        r#"
variable "text" {{ default = "one" }}
resource "terraform_data" "a" {{
  input            = var.text
  triggers_replace = {{ text = var.text }}
  lifecycle {{ create_before_destroy = {first} }}
}}
resource "terraform_data" "on_it" {{ input = terraform_data.a.id }}
"#
    )
}

/// As many resources, by name, and their number.
fn many(count: u32) -> String {
    format!(
        r#"
locals {{ names = toset([for n in range({count}) : format("name-%03d", n)]) }}
resource "terraform_data" "one" {{
  for_each = local.names
  input    = {{ name = each.key, of = length(local.names) }}
}}
output "count" {{ value = length(terraform_data.one) }}
"#
    )
}

fn counted(count: u32) -> String {
    format!(
        r#"
resource "terraform_data" "n" {{
  count = {count}
  input = count.index
}}
output "all" {{ value = terraform_data.n[*].output }}
"#
    )
}

pub(super) fn all() -> Vec<Scenario> {
    let two = || json!({ "text": "two" });
    let count = if scale() < 100 { 50 } else { 500 };
    let module = "variable \"name\" {}\nresource \"terraform_data\" \"inside\" { input = var.name }\n";
    vec![
        Scenario::new("made_and_then_nothing", SAID, [update("applied"), update("no_changes")]),
        Scenario::new("a_change", SAID, [update("applied"), update("applied").with(two())]),
        Scenario::new("a_replacement", replaced(false), [update("applied"), update("applied").with(two())]),
        Scenario::new("a_replacement_made_first", replaced(true), [update("applied"), update("applied").with(two())]),
        Scenario::new("the_end_of_everything", SAID, [update("applied"), destroy("applied"), destroy("no_changes")]),
        Scenario::new(
            "one_that_the_configuration_has_no_more",
            format!("{SAID}resource \"terraform_data\" \"gone\" {{ input = \"goes\" }}\n"),
            [update("applied"), update("applied").module(SAID)],
        ),
        Scenario::new("previews_change_nothing", SAID, [preview("planned"), update("applied"), preview("no_changes")]),
        Scenario::new(
            "a_refresh",
            SAID,
            [
                update("applied"),
                refresh("no_changes"),
                refresh("applied").module(format!("{SAID}output \"more\" {{ value = \"only said\" }}\n")),
            ],
        ),
        Scenario::new(
            "for_each_of_many",
            many(count),
            [update("applied"), update("applied").module(many(count / 2)), destroy("applied")],
        ),
        Scenario::new(
            "count_up_and_down",
            counted(3),
            [update("applied"), update("applied").module(counted(1)), update("applied").module(counted(4))],
        ),
        Scenario::new(
            "moved_to_other_names",
            "resource \"terraform_data\" \"old\" { input = \"stays\" }\nresource \"terraform_data\" \"n\" { count = 2 }\n",
            [
                update("applied"),
                update("applied").module(
                    r#"
resource "terraform_data" "new" { input = "stays" }
resource "terraform_data" "n" { for_each = toset(["a", "b"]) }
moved {
  from = terraform_data.old
  to   = terraform_data.new
}
moved {
  from = terraform_data.n[0]
  to   = terraform_data.n["a"]
}
moved {
  from = terraform_data.n[1]
  to   = terraform_data.n["b"]
}
"#,
                ),
            ],
        ),
        Scenario::new(
            "moved_into_a_module",
            "resource \"terraform_data\" \"a\" { input = \"moves\" }\n",
            [
                update("applied"),
                update("applied")
                    .module(
                        "module \"m\" {\n  source = \"./m\"\n  name   = \"moves\"\n}\nmoved {\n  from = terraform_data.a\n  to   = module.m.terraform_data.inside\n}\n",
                    )
                    .file("m/main.tf", module),
            ],
        ),
        Scenario::new(
            "forgotten_by_a_removed_block",
            format!("{SAID}resource \"terraform_data\" \"gone\" {{ input = \"stays there\" }}\n"),
            [
                update("applied"),
                update("applied").module(format!(
                    "{SAID}removed {{\n  from = terraform_data.gone\n  lifecycle {{ destroy = false }}\n}}\n"
                )),
            ],
        ),
        Scenario::new(
            "taken_in_by_import_blocks",
            r#"
import {
  to = terraform_data.one
  id = "known-one"
}
import {
  for_each = { a = "known-a", b = "known-b" }
  to       = terraform_data.each[each.key]
  id       = each.value
}
resource "terraform_data" "one" {}
resource "terraform_data" "each" { for_each = toset(["a", "b"]) }
"#,
            [preview("planned"), update("applied"), update("no_changes")],
        ),
        Scenario::new(
            "one_that_must_not_be_destroyed",
            "resource \"terraform_data\" \"a\" {\n  lifecycle { prevent_destroy = true }\n}\n",
            [update("applied"), destroy("failed")],
        ),
        Scenario::new(
            "changes_that_are_ignored",
            r#"
variable "text" { default = "one" }
resource "terraform_data" "a" {
  input = var.text
  lifecycle { ignore_changes = [input] }
}
resource "terraform_data" "b" {
  input = "same"
  lifecycle { replace_triggered_by = [terraform_data.c.output] }
}
resource "terraform_data" "c" { input = var.text }
"#,
            [update("applied"), update("applied").with(two())],
        ),
        Scenario::new(
            "a_part_of_it",
            format!("{SAID}resource \"terraform_data\" \"b\" {{ count = 2 }}\n"),
            [
                update("applied").only(&["terraform_data.b[1]"]),
                update("applied"),
                update("applied").anew(&["terraform_data.a"]),
                destroy("applied").only(&["terraform_data.b"]),
            ],
        ),
    ]
}
