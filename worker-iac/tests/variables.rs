//! The job's variables with the real engines: they win over what the source says, arrive as what they are declared to be, and only
//! the sensitive ones are kept from sight.

mod common;

use common::{Job, bodies, engines, outputs, phases, result};
use shared_proto::v1::event::Body;
use shared_proto::v1::{Event, JobKind};

const MAIN: &str = r##"
# variable "comment" { sensitive = true }
variable "bucket" {}
variable "text" {
  type        = string
  description = "looks like } something else"
}
variable "amount" { type = number }
variable "enabled" { type = bool }
variable "list" { type = list(number) }
variable "tags" { type = map(string) }
variable "native" { type = object({ a = number, b = list(string) }) }
variable "anything" { type = any }
variable "secret" {
  type      = string
  sensitive = true
}
variable "secrets" {
  type      = map(string)
  sensitive = true
}
variable "passing" {
  type      = string
  ephemeral = true
}
resource "terraform_data" "a" {
  input = { bucket = var.bucket, text = var.text, amount = var.amount + 1, enabled = !var.enabled, list = var.list,
    tags = var.tags, native = var.native, anything = var.anything }
}
# what the engine no longer knows to be sensitive is still taken out, by value
resource "terraform_data" "b" {
  input = "${nonsensitive(var.secret)} ${nonsensitive(var.secrets["one"])}"
  provisioner "local-exec" { command = "echo has ${nonsensitive(var.secret)}; env | grep -c ^TF_VAR_ || true" }
}
output "all" { value = terraform_data.a.output }
output "shown" { value = terraform_data.b.output }
"##;
/// What the engine reads by itself, and what the job's variables are to win over.
const TFVARS: &str = r#"
bucket = "bucket-of-the-source"
tags   = { of = "the-source" }
native = { a = 0, b = [] }
list   = [0]
"#;

fn job(engine: &shared_proto::v1::EngineProgram, kind: JobKind) -> Job {
    let mut job = Job::new(engine, kind, &[("main.tf", MAIN), ("terraform.tfvars", TFVARS), ("x.auto.tfvars", TFVARS)]);
    job.request().variables = [
        ("bucket", "bucket-of-the-job"),
        ("text", "{\"looks\": [\"like JSON\", \"${and.more}\"]}"),
        ("amount", "41"),
        ("enabled", "false"),
        ("list", "[1, 2]"),
        ("tags", "{\"team\": \"blue-and-green\"}"),
        ("native", "{\n a = 7 # so\n b = [\"x-long-enough\"]\n}"),
        ("anything", "[{\"deep\": true}]"),
        ("secret", "hunter2-hunter2"),
        ("secrets", "{\"one\": \"password-number-one\"}"),
        ("passing", "passing-secret"),
        ("typo", "value-of-a-typo"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    job
}

fn spool(job: &Job) -> String {
    String::from_utf8_lossy(&std::fs::read(job.work().join("events")).expect("a spool")).into_owned()
}

/// What each step so far says that it took out, and could not.
fn redacted(events: &[Event]) -> Vec<(u64, String)> {
    let told = bodies(events).filter_map(|b| if let Body::Redacted(r) = b { Some(r) } else { None });
    told.map(|r| (r.count, r.not_redacted.join(","))).collect()
}

#[test]
fn a_short_secret_is_refused_before_the_engine_starts_unless_it_is_marked() {
    for engine in engines() {
        let refused = |mut job: Job| {
            let secret = "pin-777";
            job.request().variables.insert("secret".into(), secret.into());
            let ended = job.run("plan");
            assert_eq!(result(&ended).code, "secret_too_short", "{ended:#?}");
            assert!(result(&ended).message.contains("secret has 7 bytes"), "{ended:#?}");
            assert!(!bodies(&ended).any(|b| matches!(b, Body::EngineStarted(_))), "{ended:#?}");
            assert!(!spool(&job).contains(secret));
        };
        refused(job(&engine, JobKind::Preview));
        // another variable's mark is none
        let mut other = job(&engine, JobKind::Preview);
        other.request().not_redacted = vec!["secrets".into()];
        refused(other);
        for (value, marked, left) in [("pin-7777", false, false), ("pin-777", true, true), ("pin-7777", true, false)] {
            let mut job = job(&engine, JobKind::Preview);
            job.request().variables.insert("secret".into(), value.into());
            job.request().not_redacted = if marked { vec!["secret".into()] } else { vec![] };
            let ended = job.run("plan");
            assert_eq!(result(&ended).phase, "planned", "{ended:#?}");
            let told = redacted(&ended);
            assert!(matches!(told.as_slice(), [(_, names)] if names == if left { "secret" } else { "" }), "{told:?}");
            let said = |text: &str| {
                bodies(&ended)
                    .any(|b| matches!(b, Body::OutputLine(l) if l.stream == "runner" && l.text.contains(text)))
            };
            assert_eq!(said("not redacted: secret"), left, "{ended:#?}");
            assert_eq!(spool(&job).contains(value), left, "{value}");
        }
    }
}

#[test]
fn they_win_arrive_as_declared_and_only_sensitive_ones_are_hidden() {
    for engine in engines() {
        let job = job(&engine, JobKind::Update);
        let planned = job.run("plan");
        assert_eq!(phases(&planned).last(), Some(&"awaiting_approval"), "{planned:#?}");
        let text = bodies(&planned)
            .find_map(|b| if let Body::PlanSaved(plan) = b { Some(plan.text.clone()) } else { None })
            .expect("a plan");
        for readable in ["\"bucket-of-the-job\"", "blue-and-green", "x-long-enough", "looks"] {
            assert!(text.contains(readable), "{readable}: {text}");
        }
        let notes: Vec<_> = bodies(&planned)
            .filter_map(|b| match b {
                Body::OutputLine(line) if line.stream == "runner" && line.text.contains("Not passed") => {
                    Some(&line.text)
                }
                _ => None,
            })
            .collect();
        assert!(notes.len() == 1 && notes[0].ends_with(": typo"), "{notes:?}");

        let applied = job.run("apply");
        assert_eq!(result(&applied).phase, "applied", "{applied:#?}");
        let all = &outputs(&applied)["all"]["value"];
        let expected = serde_json::json!({
            "bucket": "bucket-of-the-job", "text": "{\"looks\": [\"like JSON\", \"${and.more}\"]}", "amount": 42,
            "enabled": true, "list": [1, 2], "tags": {"team": "blue-and-green"},
            "native": {"a": 7, "b": ["x-long-enough"]}, "anything": [{"deep": true}],
        });
        assert_eq!(*all, expected);
        assert_eq!(outputs(&applied)["shown"]["value"], "[redacted] [redacted]");
        assert!(
            bodies(&applied).any(|b| matches!(b, Body::ResourceProgress(p) if p.text.ends_with("has [redacted]"))),
            "{applied:#?}"
        );
        assert!(
            bodies(&applied).any(|b| matches!(b, Body::ResourceProgress(p) if p.text.ends_with(": 0"))),
            "no variable is in an environment"
        );
        let told = redacted(&applied);
        assert!(told.len() == 2 && told.iter().all(|(n, names)| *n > 0 && names.is_empty()), "{told:?}");
        let spool = spool(&job);
        for hidden in ["hunter2", "password-number-one", "passing-secret", "value-of-a-typo"] {
            assert!(!spool.contains(hidden), "{hidden}");
        }
        for gone in ["tmp", "tmp/variables.tfvars.json"] {
            assert!(!job.work().join(gone).exists(), "{gone}");
        }

        // the other kinds take them alike
        let again = job.again(JobKind::Refresh).run("plan");
        assert_eq!(result(&again).phase, "no_changes", "{again:#?}");
        let destroy = job.again(JobKind::Destroy);
        destroy.run("plan");
        assert_eq!(result(&destroy.run("apply")).phase, "applied");
    }
}

#[test]
fn a_value_of_the_wrong_type_fails_the_plan() {
    for engine in engines() {
        let mut job = job(&engine, JobKind::Update);
        job.request().variables.insert("list".into(), "{ not closed".into());
        let ended = job.run("plan");
        assert_eq!(result(&ended).code, "engine_failed", "{ended:#?}");
        let mut job = self::job(&engine, JobKind::Update);
        job.request().variables.insert("amount".into(), "many".into());
        assert_eq!(result(&job.run("plan")).code, "engine_failed");
        let mut job = self::job(&engine, JobKind::Update);
        job.request().variables.insert("a b".into(), "x".into());
        assert_eq!(result(&job.run("plan")).code, "invalid_argument");
    }
}

#[test]
fn declarations_in_json_count_too() {
    for engine in engines() {
        let json = r#"{"variable": {"name": {"type": "string"}, "key": {"sensitive": true}, "list": {"type": "list(string)"}},
            "resource": {"terraform_data": {"a": {"input": "${var.name} ${nonsensitive(var.key)} ${var.list[0]}"}}}}"#;
        let mut job =
            Job::new(&engine, JobKind::Update, &[("main.tf.json", json), ("terraform.tfvars", "name = \"x\"")]);
        job.request().variables = [("name", "name-of-the-job"), ("key", "secret-of-the-job"), ("list", "[\"item\"]")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let planned = job.run("plan");
        let found = bodies(&planned)
            .any(|b| matches!(b, Body::PlanSaved(plan) if plan.text.contains("\"name-of-the-job [redacted] item\"")));
        assert!(found, "{planned:#?}");
        assert!(!spool(&job).contains("secret-of-the-job"));
    }
}

#[test]
fn opentofu_takes_them_for_sources_of_modules() {
    for engine in engines().into_iter().filter(|engine| engine.name == "opentofu") {
        let main = "variable \"part\" { type = string }\nmodule \"m\" {\n source = \"./${var.part}\"\n}\noutput \"o\" { value = module.m.o }\n";
        let part = "resource \"terraform_data\" \"a\" { input = \"made\" }\noutput \"o\" { value = terraform_data.a.output }\n";
        let mut job = Job::new(&engine, JobKind::Update, &[("main.tf", main), ("one/main.tf", part)]);
        job.request().variables.insert("part".into(), "one".into());
        let planned = job.run("plan");
        assert_eq!(phases(&planned).last(), Some(&"awaiting_approval"), "{planned:#?}");
        let applied = job.run("apply");
        assert_eq!(outputs(&applied)["o"]["value"], "made", "{applied:#?}");
    }
}
