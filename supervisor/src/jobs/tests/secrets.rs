//! Secrets of a job on their way through a real engine: in nothing that is told, and the same for plan and apply.

use super::*;

const VALUE: &str = "pl4nted-\"secret\"";
const CODE: &str = "variable \"password\" { default = \"\" }\nvariable \"port\" {}\n\
    resource \"terraform_data\" \"a\" { input = { p = var.password, u = urlencode(var.password), b = base64encode(\"x${var.password}\") } }\n\
    output \"o\" { value = terraform_data.a.output }\noutput \"port\" { value = tonumber(var.port) }\n";

fn secrets(plane: &Plane, password: &str) {
    let all = [("password", password), ("port", "17359042")];
    plane.update(|p| p.secrets = all.into_iter().map(|(name, value)| (name.into(), value.into())).collect());
}

/// A job with these secrets whose plan waits.
fn planned(plane: &Plane) {
    secrets(plane, VALUE);
    plane.assign(v1::JobRequest { format: 4, ..job(plane, "j1", JobKind::Update, CODE) });
    wait_for("the plan", || plane.phase("j1") == "awaiting_approval");
}

#[test]
fn a_secret_is_in_nothing_that_is_told_also_where_no_code_calls_it_one() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let _supervisor = host.supervisor(&plane);
    planned(&plane);
    plane.tell(approve("j1"));
    wait_for("the end", || plane.result("j1").is_some());
    assert_eq!(plane.result("j1").map(|r| (r.phase, r.code)), Some(("applied".into(), "ok".into())));
    assert!(host.state("s1").contains("pl4nted"), "the state has it");
    let told = plane.text("j1");
    assert!(told.contains("redacted"), "{told}");
    for form in ["pl4nted", "17359042", "cGw0bnRlZC", "BsNG50ZWQ"] {
        assert!(!told.contains(form), "{form} is in {told}");
    }
    // a format that it does not know is not taken for one that it knows
    plane.assign(v1::JobRequest { format: 6, ..job(&plane, "j2", JobKind::Preview, SMALL) });
    wait_for("the end", || plane.result("j2").is_some());
    assert_eq!(plane.result("j2").map(|r| r.code).as_deref(), Some("unsupported_version"));
}

#[test]
fn a_plan_is_not_applied_with_another_value_than_it_was_made_with() {
    let Some(host) = Host::new() else { return };
    let plane = Plane::default();
    let _supervisor = host.supervisor(&plane);
    planned(&plane);
    secrets(&plane, "an0ther-one-by-now");
    plane.tell(approve("j1"));
    wait_for("the end", || plane.result("j1").is_some());
    let result = plane.result("j1").expect("a result");
    assert_eq!((result.code.as_str(), plane.starts("j1")), ("plan_stale", (1, 0)), "{result:?}");
    let told = plane.text("j1");
    assert!(!told.contains("pl4nted") && !told.contains("an0ther"), "{told}");
}
