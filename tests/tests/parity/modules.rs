//! Modules and providers: of the source, of a repository, of a web server, and those that are not to be had.

use super::scenario::{Scenario, destroy, update};
use runner_tests::Component;

const TIME: &str = "terraform {\n  required_providers {\n    time = {\n      source  = \"hashicorp/time\"\n      version = \"0.14.2\"\n    }\n  }\n}\n";

const NESTED: &str = r#"
variable "names" { default = ["a", "b"] }
module "each" {
  source   = "./outer"
  for_each = toset(var.names)
  name     = each.key
}
module "counted" {
  source     = "./outer"
  count      = 2
  name       = "n${count.index}"
  depends_on = [module.each]
}
output "all" { value = merge({ for key, one in module.each : key => one.said }, { n = module.counted[1].said }) }
"#;

fn of_git(reference: &str) -> String {
    format!(
        "module \"m\" {{\n  source = \"git::%WEB%/module.git//part?ref={reference}\"\n  name   = \"by git\"\n}}\noutput \"said\" {{ value = module.m.said }}\n"
    )
}

pub(super) fn all() -> Vec<Scenario> {
    let git: &[Component] = &[Component::Git];
    vec![
        Scenario::new(
            "modules_in_modules",
            NESTED,
            [update("applied"), update("applied").with(serde_json::json!({ "names": ["b", "c"] })), destroy("applied")],
        )
        .file(
            "outer/main.tf",
            "variable \"name\" {}\nmodule \"inner\" {\n  source = \"./inner\"\n  name   = var.name\n}\noutput \"said\" { value = module.inner.said }\n",
        )
        .file(
            "outer/inner/main.tf",
            "variable \"name\" {}\nresource \"terraform_data\" \"this\" { input = var.name }\noutput \"said\" { value = \"inner ${terraform_data.this.output}\" }\n",
        ),
        Scenario::new("a_module_of_a_repository", of_git("v1"), [update("applied"), update("applied").module(of_git("v2"))])
            .connection(&["web"], git),
        Scenario::new("a_commit_that_a_repository_does_not_have", of_git("v3"), [update("failed")])
            .connection(&["web"], git),
        Scenario::new(
            "a_module_that_is_not_there",
            "module \"m\" { source = \"./nowhere\" }\n",
            [update("failed")],
        ),
        Scenario::new(
            "a_web_server_without_the_module",
            "module \"m\" { source = \"%WEB%/nowhere.zip\" }\n",
            [update("failed")],
        )
        .connection(&["web"], &[]),
        Scenario::new(
            "a_provider_of_the_mirror",
            format!(
                "{TIME}resource \"time_sleep\" \"a\" {{\n  create_duration  = \"0s\"\n  destroy_duration = \"0s\"\n  triggers = {{ of = \"one\" }}\n}}\nresource \"terraform_data\" \"b\" {{ input = time_sleep.a.triggers }}\n"
            ),
            [update("applied"), update("no_changes"), destroy("applied")],
        ),
        Scenario::new(
            "a_provider_that_is_nowhere",
            "terraform {\n  required_providers {\n    none = { source = \"nobody/none\" }\n  }\n}\nresource \"none_thing\" \"a\" {}\n",
            [update("failed")],
        ),
        Scenario::new(
            "a_version_of_a_provider_that_is_nowhere",
            "terraform {\n  required_providers {\n    time = {\n      source  = \"hashicorp/time\"\n      version = \"~> 99.0\"\n    }\n  }\n}\nresource \"time_sleep\" \"a\" {}\n",
            [update("failed")],
        ),
        Scenario::new(
            "a_lock_file_that_knows_another_provider",
            format!("{TIME}resource \"time_sleep\" \"a\" {{ create_duration = \"0s\" }}\n"),
            [update("failed")],
        )
        .file(".terraform.lock.hcl", lock("registry.opentofu.org") + &lock("registry.terraform.io")),
        Scenario::new(
            "what_an_engine_warns_of",
            format!(
                "{TIME}provider \"time\" {{ version = \"0.14.2\" }}\nresource \"time_sleep\" \"a\" {{\n  create_duration = \"0s\"\n  lifecycle {{ ignore_changes = [id] }}\n}}\n"
            ),
            [update("applied")],
        ),
    ]
}

fn lock(registry: &str) -> String {
    format!(
        "provider \"{registry}/hashicorp/time\" {{\n  version = \"0.14.2\"\n  hashes = [\n    \"h1:{}=\",\n  ]\n}}\n",
        "A".repeat(43)
    )
}
