//! Plans as documents, of the real engines: what the worker records beside the engine's own words.

mod common;

use common::{Job, bodies, engines, phases, result};
use shared_proto::bounds::{EVENT_MAX, PLAN_DOCUMENT_MAX};
use shared_proto::plan::{Action, AttributeChange, Document, Order, ResourceChange};
use shared_proto::v1::event::Body;
use shared_proto::v1::{Event, JobKind};

/// The last document that was recorded.
fn document(events: &[Event]) -> Document {
    let mut text = String::new();
    for part in bodies(events).filter_map(|b| if let Body::PlanPart(part) = b { Some(part) } else { None }) {
        if part.number == 1 {
            text.clear();
        }
        text.push_str(&part.json);
    }
    Document::read(&text).unwrap_or_else(|e| panic!("{e}: {events:#?}"))
}
fn resource<'a>(of: &'a Document, address: &str) -> &'a ResourceChange {
    of.resources.iter().find(|r| r.address == address).unwrap_or_else(|| panic!("no {address}: {of:#?}"))
}
fn attribute<'a>(of: &'a ResourceChange, path: &str) -> &'a AttributeChange {
    of.attributes.iter().find(|a| a.path == path).unwrap_or_else(|| panic!("no {path}: {of:#?}"))
}

const FIRST: &str = r#"
variable "secret" { sensitive = true }
variable "size" { type = number }
resource "terraform_data" "kept" { input = "same" }
resource "terraform_data" "sized" {
  triggers_replace = { size = var.size }
  lifecycle { create_before_destroy = true }
}
resource "terraform_data" "small" { triggers_replace = [var.size] }
resource "terraform_data" "login" { input = { name = "app-${var.size}", password = var.secret } }
resource "terraform_data" "old" { input = "moves" }
resource "terraform_data" "gone" { input = terraform_data.small.id }
module "many" {
  source = "./many"
  count_of = var.size
}
output "size" { value = var.size }
output "secret" {
  value     = var.secret
  sensitive = true
}
"#;
const MANY: &str = r#"
variable "count_of" {}
resource "terraform_data" "one" {
  count = var.count_of
  input = { n = count.index }
}
"#;

#[test]
fn a_plan_is_recorded_as_a_document_before_it_is_saved() {
    for engine in engines() {
        let files = |main: &'static str| [("main.tf", main), ("many/main.tf", MANY)];
        let mut job = Job::new(&engine, JobKind::Update, &files(FIRST));
        let secret = "planted-secret-value";
        job.request().variables = [("secret", secret), ("size", "1")].map(|(k, v)| (k.into(), v.into())).into();
        let planned = job.run("plan");
        assert_eq!(phases(&planned).last(), Some(&"awaiting_approval"), "{planned:#?}");
        let made = document(&planned);
        assert_eq!((made.version, made.kind.as_str(), made.engine.name.as_str()), (1, "update", engine.name.as_str()));
        assert!(!made.engine.version.is_empty() && made.has_changes && made.complete && !made.errored, "{made:#?}");
        assert_eq!((made.summary.create, made.summary.outputs), (7, 2), "{made:#?}");
        assert_eq!(resource(&made, "module.many.terraform_data.one[0]").module, "module.many");
        let id = attribute(resource(&made, "terraform_data.gone"), "id");
        assert!(id.unknown && id.after.is_none(), "{id:?}");
        let kinds: Vec<_> = bodies(&planned)
            .filter_map(|body| match body {
                Body::PlanPart(_) => Some("part"),
                Body::PlanSaved(_) => Some("saved"),
                _ => None,
            })
            .collect();
        assert_eq!(kinds, ["part", "saved"]);
        job.run("apply");

        let second = FIRST
            .replace("\"terraform_data\" \"old\"", "\"terraform_data\" \"new\"")
            .replace("resource \"terraform_data\" \"gone\" { input = terraform_data.small.id }", "")
            + "moved {\n from = terraform_data.old\n to = terraform_data.new\n}\n";
        let mut next = job.again(JobKind::Preview);
        next.source(&[("main.tf", second.as_str()), ("many/main.tf", MANY)]);
        next.request().variables.insert("size".into(), "2".into());
        let planned = next.run("plan");
        assert_eq!(result(&planned).phase, "planned", "{planned:#?}");
        let of = document(&planned);
        assert_eq!(of.kind, "preview");
        let actions: Vec<_> = of.resources.iter().map(|r| (r.address.as_str(), r.action, r.order)).collect();
        assert_eq!(
            actions,
            [
                ("terraform_data.gone", Action::Delete, None),
                ("terraform_data.sized", Action::Replace, Some(Order::CreateFirst)),
                ("terraform_data.small", Action::Replace, Some(Order::DeleteFirst)),
                ("terraform_data.login", Action::Update, None),
                ("module.many.terraform_data.one[1]", Action::Create, None),
                ("terraform_data.new", Action::NoOp, None),
            ]
        );
        assert_eq!(resource(&of, "terraform_data.new").moved_from.as_deref(), Some("terraform_data.old"));
        let forces = attribute(resource(&of, "terraform_data.sized"), "triggers_replace.size");
        assert_eq!(
            (&forces.before, &forces.after, forces.forces_replacement),
            (&Some(1.into()), &Some(2.into()), true)
        );
        let name = attribute(resource(&of, "terraform_data.login"), "input.name");
        assert_eq!((&name.before, &name.after), (&Some("app-1".into()), &Some("app-2".into())));
        let spool = std::fs::read(next.work().join("events")).expect("a spool");
        assert!(!String::from_utf8_lossy(&spool).contains(secret));
        // another secret is told of, and not shown
        let mut other = job.again(JobKind::Preview);
        other.request().variables.insert("secret".into(), "another-planted-value".into());
        let of = document(&other.run("plan"));
        let password = attribute(resource(&of, "terraform_data.login"), "input.password");
        assert!(password.sensitive && password.before.is_none() && password.after.is_none(), "{password:?}");
        assert!(of.outputs.iter().any(|o| o.name == "secret" && o.attributes.iter().all(|a| a.sensitive)), "{of:#?}");
        let text = serde_json::to_string(&of).expect("JSON");
        assert!(!text.contains("planted"), "{text}");

        let destroyed = document(&job.again(JobKind::Destroy).run("plan"));
        assert_eq!((destroyed.kind.as_str(), destroyed.summary.delete), ("destroy", 7));
        let nothing = document(&job.again(JobKind::Update).run("plan"));
        assert!(!nothing.has_changes && nothing.resources.is_empty() && nothing.summary.unchanged == 7, "{nothing:#?}");
    }
}

#[test]
fn a_large_plan_comes_in_parts_that_fit_and_a_larger_one_says_what_is_missing() {
    for engine in engines() {
        for (count, length, whole) in [(500, 100, true), (400, 4000, false)] {
            let module = format!(
                "resource \"terraform_data\" \"many\" {{\n  for_each = toset([for n in range({count}) : tostring(n)])\n  input = {:?}\n}}\n",
                "x".repeat(length)
            );
            let planned = Job::new(&engine, JobKind::Preview, &[("main.tf", &module)]).run("plan");
            let of = document(&planned);
            assert_eq!((of.summary.create, of.resources.len()), (count, count as usize));
            assert_eq!(!of.is_partial(), whole, "{:?}", of.left_out);
            let parts: Vec<_> =
                bodies(&planned).filter_map(|b| if let Body::PlanPart(part) = b { Some(part) } else { None }).collect();
            assert!(parts.len() > 2 && parts.iter().all(|p| p.json.len() < EVENT_MAX && p.of as usize == parts.len()));
            assert!(parts.iter().map(|p| p.json.len()).sum::<usize>() <= PLAN_DOCUMENT_MAX);
        }
    }
}

#[test]
fn where_the_engine_gives_no_json_the_job_goes_on_with_its_words() {
    use std::os::unix::fs::PermissionsExt as _;
    for engine in engines() {
        let module = "resource \"terraform_data\" \"a\" { input = 1 }\n";
        for (answer, expected) in [
            ("echo 'Error: nothing for programs' >&2; exit 3", "ended with exit code 3: Error: nothing for programs"),
            ("echo '{\"format_version\": \"7.0\"}'", "its JSON cannot be read"),
            ("echo nothing", "its JSON cannot be read"),
            ("head -c 67108865 /dev/zero", "the limit is 67108864"),
        ] {
            let mut job = Job::new(&engine, JobKind::Preview, &[("main.tf", module)]);
            let script = job.folder.path().join("engine");
            let real = &engine.path;
            let text =
                format!("#!/bin/sh\ncase \"$1 $*\" in show*-json*) {answer}; exit;; esac\nexec {real:?} \"$@\"\n");
            std::fs::write(&script, text).expect("writes");
            std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("sets");
            if let Some(program) = &mut job.start.engine {
                program.path = script.display().to_string();
            }
            let planned = job.run("plan");
            assert_eq!(result(&planned).phase, "planned", "{planned:#?}");
            let notes: Vec<_> = bodies(&planned)
                .filter_map(|b| match b {
                    Body::OutputLine(line) if line.text.contains("as the engine shows it only") => Some(&line.text),
                    _ => None,
                })
                .collect();
            assert!(notes.len() == 1 && notes[0].contains(expected), "{expected}: {notes:?}");
            assert!(!bodies(&planned).any(|b| matches!(b, Body::PlanPart(_))), "{planned:#?}");
            assert!(
                bodies(&planned).any(|b| matches!(b, Body::PlanSaved(plan) if plan.text.contains("terraform_data.a")))
            );
        }
    }
}
