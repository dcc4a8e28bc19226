//! The credentials of a job, step by step, with a real engine: those of another connection while it plans, and newer ones while it applies.

use super::*;

/// Made once the token of the job's connection is the second one; then it is printed.
const UNTIL_RENEWED: &str = r#"
resource "terraform_data" "a" {
  provisioner "local-exec" {
    command = "token=$(dirname $KUBECONFIG)/kube-token-0; echo waiting for it; until grep -q both-2 $token; do sleep 0.1; done; cat $token; echo ' was seen'"
  }
}
"#;

#[test]
fn a_plan_has_those_for_reading_and_an_apply_gets_newer_ones() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    plane.update(|p| p.token = 1);
    let supervisor = host.supervisor(&plane);
    let mut request = job(&plane, "j1", JobKind::Update, UNTIL_RENEWED);
    request.connections = vec!["both".into()];
    plane.assign(request);
    wait_for("the plan", || plane.phase("j1") == "awaiting_approval");
    let note = "In the place of the connection both the plan has the credentials of reading.";
    assert!(plane.text("j1").contains(note), "{}", plane.text("j1"));
    let resolved = plane.update(|p| std::mem::take(&mut p.resolved));
    assert!(!resolved.is_empty() && resolved.iter().all(|name| name == "reading"), "{resolved:?}");
    plane.tell(approve("j1"));
    wait_for("the apply", || plane.text("j1").contains("waiting for it"));
    // of the plan one may have been looked for at its very end
    plane.update(|p| p.resolved.clear());
    // one that takes over does not know which credentials the job has
    drop(supervisor);
    plane.update(|p| p.token = 2);
    let _second = host.supervisor(&plane);
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("applied", "ok"), "{result:?}");
    let resolved = plane.update(|p| std::mem::take(&mut p.resolved));
    assert!(resolved.iter().all(|name| name == "both"), "{resolved:?}");
    // it was shown, and taken out
    assert!(plane.text("j1").contains("was seen"));
    assert!(!plane.text("j1").contains("token-of-both"), "{}", plane.text("j1"));
}

#[test]
fn newer_ones_reach_a_job_whose_supervisor_stays() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    plane.update(|p| p.token = 1);
    let _supervisor = host.supervisor(&plane);
    let mut request = job(&plane, "j1", JobKind::Update, UNTIL_RENEWED);
    request.connections = vec!["both".into()];
    request.approve_automatically = true;
    plane.assign(request);
    wait_for("the apply", || plane.text("j1").contains("waiting for it"));
    plane.update(|p| p.token = 2);
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!((result.phase.as_str(), result.code.as_str()), ("applied", "ok"), "{result:?}");
    assert!(!plane.text("j1").contains("token-of-both"), "{}", plane.text("j1"));
}
