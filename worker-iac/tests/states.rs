//! The runner's own store of states, with the real engines and the worker alone: what a job's programs reach of it, and a plan that another
//! job has overtaken.

mod common;

use common::{Job, bodies, engines, result};
use shared_proto::v1::JobKind;
use shared_proto::v1::event::Body;

/// Asks for the state as a provisioner can: with what it finds in its environment, and without.
const ASKS: &str = r#"
resource "terraform_data" "asks" {
  provisioner "local-exec" {
    interpreter = ["bash", "-c"]
    command     = <<-EOT
      port=$${TF_HTTP_ADDRESS##*:}; port=$${port%/}
      ask() { exec 5<>/dev/tcp/127.0.0.1/$port; printf 'GET / HTTP/1.1\r\nHost: x\r\n%s\r\n' "$1" >&5; cat <&5 | head -1; }
      echo "without: $(ask '')"
      token=$(printf '%s:%s' "$TF_HTTP_USERNAME" "$TF_HTTP_PASSWORD" | base64 -w0)
      echo "with: $(ask "Authorization: Basic $token"$'\r\n')"
      echo "shown: $TF_HTTP_PASSWORD $token"
    EOT
  }
}
"#;

#[test]
fn a_provisioner_reaches_the_state_by_the_jobs_token_alone() {
    for engine in engines() {
        let job = Job::new(&engine, JobKind::Update, &[("main.tf", ASKS)]);
        job.run("plan");
        let events = job.run("apply");
        assert_eq!(result(&events).phase, "applied", "{events:#?}");
        let all = format!("{events:?}");
        assert!(all.contains("without: HTTP/1.1 401"), "{events:#?}");
        // there is none yet, and it is told so
        assert!(all.contains("with: HTTP/1.1 404"), "{events:#?}");
        assert!(all.contains("shown: [redacted] c3RhdGU6[redacted]"), "{events:#?}");
        let token = common::key().token("j1");
        for file in ["events", "engine.err", "source/runner_backend_override.tf.json", "data/terraform.tfstate"] {
            let content = std::fs::read(job.work().join(file)).unwrap_or_default();
            let has = content.windows(64).any(|part| part == token.expose().as_bytes());
            assert!(!has, "the token is in {file}");
        }
    }
}

const ONE: &str = "variable \"n\" { default = \"1\" }\nresource \"terraform_data\" \"one\" { input = var.n }\n";

#[test]
fn a_plan_that_another_job_has_overtaken_is_stale() {
    for engine in engines() {
        let first = Job::new(&engine, JobKind::Update, &[("main.tf", ONE)]);
        let of = |id: &str, n: &str| {
            let mut job = first.again(JobKind::Update);
            job.request().job_id = id.into();
            job.request().variables.insert("n".into(), n.into());
            job
        };
        let (early, late) = (of("early", "2"), of("late", "3"));
        first.run("plan");
        assert_eq!(result(&first.run("apply")).phase, "applied");
        early.run("plan");
        late.run("plan");
        assert_eq!(result(&late.run("apply")).phase, "applied");
        let end = result(&early.run("apply"));
        assert_eq!((end.phase.as_str(), end.code.as_str()), ("failed", "plan_stale"), "{end:?}");
        let jobs: Vec<_> = first.versions().into_iter().map(|number| first.version(number).0.job).collect();
        assert_eq!(jobs, ["j1", "late"]);
    }
}

#[test]
fn a_version_is_gone_back_to_and_versions_are_told() {
    for engine in engines() {
        let first = Job::new(&engine, JobKind::Update, &[("main.tf", ONE)]);
        first.run("plan");
        first.run("apply");
        let mut second = first.again(JobKind::Update);
        second.request().variables.insert("n".into(), "2".into());
        second.run("plan");
        second.run("apply");
        let back = |number: u64| {
            let mut job = first.again(JobKind::Rollback);
            job.request().state_version = number;
            job.request().reason = "it was right".into();
            result(&job.run("plan"))
        };
        assert_eq!(back(7).code, "not_found");
        assert_eq!(back(1).phase, "applied");
        let told = first.again(JobKind::Versions).run("plan");
        let versions: Vec<_> = bodies(&told)
            .filter_map(|body| match body {
                Body::StateVersion(version) => Some((version.number, version.copy_of, version.reason.as_str())),
                _ => None,
            })
            .collect();
        assert_eq!(versions, [(1, 0, ""), (2, 0, ""), (3, 1, "it was right")], "{told:#?}");
        assert_eq!(first.state()["resources"][0]["instances"][0]["attributes"]["input"]["value"], "1");
        // the engine takes it as it takes its own
        let preview = second.again(JobKind::Preview).run("plan");
        assert_eq!(result(&preview).phase, "planned", "{preview:#?}");
        // one whose state is elsewhere has no versions here
        let other = "terraform {\n backend \"inmem\" {}\n}\n";
        let mut job = Job::new(&engine, JobKind::Versions, &[("main.tf", other)]);
        job.request().reason.clear();
        assert_eq!(result(&job.run("plan")).code, "conflict");
    }
}

#[test]
fn a_damaged_state_is_said_before_anything_is_done() {
    for engine in engines() {
        let job = Job::new(&engine, JobKind::Update, &[("main.tf", ONE)]);
        job.run("plan");
        job.run("apply");
        let file = std::path::Path::new(&job.start.state_directory).join("versions/000000000001");
        let mut content = std::fs::read(&file).expect("reads");
        let last = content.len() - 1;
        content[last] ^= 1;
        std::fs::write(&file, content).expect("writes");
        let end = result(&job.again(JobKind::Preview).run("plan"));
        assert_eq!((end.phase.as_str(), end.code.as_str()), ("failed", "state_damaged"), "{end:?}");
        assert!(end.message.contains("000000000001") && end.next_step.contains("rollback"), "{end:?}");
        // the way out does not go by what is damaged
        let told = job.again(JobKind::Versions).run("plan");
        assert_eq!(result(&told).phase, "no_changes", "{told:#?}");
        let mut back = job.again(JobKind::Rollback);
        (back.request().state_version, back.request().reason) = (1, "a test".into());
        assert_eq!(result(&back.run("plan")).code, "state_damaged", "itself it is nothing to go back to");
    }
}
