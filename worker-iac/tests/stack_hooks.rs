//! Hooks of a stack, with the real engines: in their order, with what each is given, and what is so where one fails, is cancelled or takes too long.

mod common;

use common::{Job, Running, bodies, engines, events, follow, outputs, phases, result, session_of};
use runner_sandbox::landlock;
use shared_proto::v1::event::Body;
use shared_proto::v1::{
    EngineProgram, Event, Hooks, JobKind, JobTarget, KubernetesTarget, OutputLine, Target, TimeLimits, target,
};

const MAIN: &str =
    "resource \"terraform_data\" \"a\" { input = \"one\" }\noutput \"o\" { value = terraform_data.a.output }\n";
/// Where jobs' folders are: below /tmp, where other programs may write, and elsewhere.
const PARENTS: [&str; 2] = ["/var/tmp", "/tmp"];
const FAILS: &str = "#!/bin/sh\necho about to fail\nexit 3\n";
/// Says that it has begun, and then nothing for long: the shell waits for another program.
const WAITS: &str = "#!/bin/sh\necho begun\nsleep 600\necho went on\n";

/// A job whose source has these files beside its module.
fn job(engine: &EngineProgram, kind: JobKind, files: &[(&str, &str)], hooks: Hooks) -> Job {
    job_in(PARENTS[0], engine, kind, files, hooks)
}
fn job_in(parent: &str, engine: &EngineProgram, kind: JobKind, files: &[(&str, &str)], hooks: Hooks) -> Job {
    let folder = tempfile::tempdir_in(parent).expect("a folder");
    let files: Vec<_> = [("main.tf", MAIN)].iter().chain(files).copied().collect();
    let mut job = Job::within(folder, engine, kind, &files);
    job.request().stack_name = "shop".into();
    job.request().hooks = Some(hooks);
    job
}
/// All four, each that program.
fn all(path: &str) -> Hooks {
    Hooks { before_plan: path.into(), after_plan: path.into(), before_apply: path.into(), after_apply: path.into() }
}
fn said<'a>(events: &'a [Event], hook: &str) -> Vec<&'a str> {
    bodies(events)
        .filter_map(|b| match b {
            Body::OutputLine(OutputLine { stream, text }) if stream == hook => Some(text.as_str()),
            _ => None,
        })
        .collect()
}
/// What was done, one after the other.
fn done(events: &[Event]) -> Vec<String> {
    bodies(events)
        .filter_map(|b| match b {
            Body::HookStarted(hook) => Some(format!("hook {} {}", hook.hook, hook.program)),
            Body::EngineStarted(engine) if ["init", "plan", "apply"].contains(&engine.command.as_str()) => {
                Some(engine.command.clone())
            }
            Body::PlanSaved(_) => Some("saved".to_owned()),
            Body::Outputs(_) => Some("outputs".to_owned()),
            _ => None,
        })
        .collect()
}
fn begun(running: &Running, hook: &str) {
    running.until(hook, |b| matches!(b, Body::OutputLine(line) if line.stream == hook && line.text == "begun"));
}

/// And waits for its `sleep`: a shell that is just about to start one may pass a signal over to nobody.
fn sleeps(running: &Running, hook: &str) {
    begun(running, hook);
    let first = i32::try_from(running.child.id()).expect("a pid");
    let is_sleep = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    running.until_true("its sleep", || session_of(first).iter().any(is_sleep));
}

#[test]
fn each_is_run_in_its_order_with_what_it_is_given() {
    let tells = "#!/bin/sh\necho \"$RUNNER_HOOK $RUNNER_STACK $RUNNER_JOB $RUNNER_JOB_KIND $RUNNER_WORKSPACE $RUNNER_RESULT\"\n\
        ls main.tf; env | sed 's/=.*//' | grep -E '^(TF|PULUMI|GIT)_' || echo nothing of the engine\n\
        grep -o 'https://127.0.0.1:1' \"$KUBECONFIG\"\n\
        touch \"$TMPDIR/mine\" \"$HOME/mine\" && echo writes\n\
        [ -z \"$RUNNER_PLAN_JSON\" ] || grep -o '\"resource_changes\"' \"$RUNNER_PLAN_JSON\"\n";
    for engine in engines() {
        let mut job = job(&engine, JobKind::Update, &[("scripts/tell.sh", tells)], all("scripts/tell.sh"));
        let kubernetes = KubernetesTarget { server: "https://127.0.0.1:1".into(), ..Default::default() };
        let target = Some(Target { kind: Some(target::Kind::Kubernetes(kubernetes)) });
        job.start.targets.push(JobTarget { connection: "prod".into(), target, ..Default::default() });
        let planned = job.run("plan");
        assert_eq!(phases(&planned), ["preparing", "planning", "planned", "awaiting_approval"], "{planned:#?}");
        let ended = job.run("apply");
        assert_eq!(result(&ended).phase, "applied", "{ended:#?}");
        assert!(!result(&ended).applied, "the phase says it");
        // the engine tells of its outputs by itself as well
        let mut order = done(&ended);
        order.dedup();
        let expected = [
            "hook before-plan scripts/tell.sh",
            "init",
            "plan",
            "saved",
            "hook after-plan scripts/tell.sh",
            "hook before-apply scripts/tell.sh",
            "apply",
            "outputs",
            "hook after-apply scripts/tell.sh",
        ];
        assert_eq!(order, expected);
        let common = ["main.tf", "nothing of the engine", "https://127.0.0.1:1", "writes"];
        for (hook, end, more) in [
            ("before-plan", "", None),
            ("after-plan", "", Some("\"resource_changes\"")),
            ("before-apply", "", None),
            ("after-apply", "ok", None),
        ] {
            let first = format!("{hook} shop j1 update default {end}");
            let expected: Vec<_> = [first.as_str()].into_iter().chain(common).chain(more).collect();
            assert_eq!(said(&ended, hook), expected);
        }
        assert!(!job.work().join("tmp").exists(), "what was theirs is gone");
        // with nothing to change there is nothing before or after an apply
        let mut same = job.again(JobKind::Update);
        (same.request().stack_name, same.request().hooks) = ("shop".into(), Some(all("scripts/tell.sh")));
        same.start.targets.clone_from(&job.start.targets);
        let ended = same.run("plan");
        assert_eq!(result(&ended).phase, "no_changes", "{ended:#?}");
        assert_eq!(done(&ended).iter().filter(|what| what.starts_with("hook")).count(), 2);
    }
}

#[test]
fn where_one_fails_it_is_said_what_was_changed() {
    for engine in engines() {
        for (hook, changed) in
            [("before-plan", false), ("after-plan", false), ("before-apply", false), ("after-apply", true)]
        {
            let fails = |name: &str| if hook == name { "fails.sh".to_owned() } else { String::new() };
            let hooks = Hooks {
                before_plan: fails("before-plan"),
                after_plan: fails("after-plan"),
                before_apply: fails("before-apply"),
                after_apply: fails("after-apply"),
            };
            let job = job(&engine, JobKind::Update, &[("fails.sh", FAILS)], hooks);
            let mut ended = job.run("plan");
            if hook.ends_with("apply") {
                assert_eq!(phases(&ended).last(), Some(&"awaiting_approval"), "{ended:#?}");
                ended = job.run("apply");
            }
            let end = result(&ended);
            assert_eq!((end.phase.as_str(), end.code.as_str()), ("failed", "hook_failed"), "{end:?}");
            assert!(end.message.contains(&format!("the hook {hook} (fails.sh) ended with exit code 3")), "{end:?}");
            assert_eq!(said(&ended, hook), ["about to fail"]);
            assert_eq!(end.applied, changed, "{end:?}");
            assert_eq!(job.versions().is_empty(), !changed, "{hook}");
            let words = if changed { "The plan is applied" } else { "Nothing was changed" };
            assert!(end.message.contains(words), "{end:?}");
            // it is the hook's, and not the engine's
            assert_eq!(end.engine_exit_code, None);
            let applies = bodies(&ended).any(|b| matches!(b, Body::EngineStarted(e) if e.command == "apply"));
            assert_eq!(applies, changed, "{hook}");
            let plans = bodies(&ended).any(|b| matches!(b, Body::PlanSaved(_)));
            assert_eq!(plans, hook != "before-plan", "{hook}");
            if changed {
                assert_eq!(outputs(&ended)["o"]["value"], "one");
            }
        }
    }
}

#[test]
fn after_an_apply_that_failed_it_is_told_so_and_the_job_fails_of_the_apply() {
    let failing = "resource \"terraform_data\" \"b\" {\n provisioner \"local-exec\" { command = \"exit 3\" }\n}\n";
    let tells = "#!/bin/sh\necho \"result $RUNNER_RESULT\"\nexit 7\n";
    for engine in engines() {
        let hooks = Hooks { after_apply: "tell.sh".into(), ..Default::default() };
        let job = job(&engine, JobKind::Update, &[("b.tf", failing), ("tell.sh", tells)], hooks);
        job.run("plan");
        let ended = job.run("apply");
        let end = result(&ended);
        assert_eq!((end.phase.as_str(), end.code.as_str(), end.applied), ("failed", "engine_failed", false), "{end:?}");
        assert_eq!(said(&ended, "after-apply"), ["result engine_failed"]);
        let noted = said(&ended, "runner").iter().any(|line| line.contains("(tell.sh) ended with exit code 7"));
        assert!(noted, "{ended:#?}");
    }
}

#[test]
fn a_cancel_reaches_all_of_a_hook_and_says_what_was_changed() {
    for engine in engines() {
        let waits = [("waits.sh", WAITS)];
        let job = job(&engine, JobKind::Update, &waits, Hooks { before_plan: "waits.sh".into(), ..Default::default() });
        let mut running = job.begin("plan");
        sleeps(&running, "before-plan");
        running.control().cancel("somebody", false);
        assert!(running.wait().success());
        let ended = events(&job.work());
        let end = result(&ended);
        assert_eq!((end.phase.as_str(), end.code.as_str()), ("canceled", "cancelled"), "{end:?}");
        assert!(end.message.contains("before-plan (waits.sh) was asked to stop, and did"), "{end:?}");
        assert!(end.message.contains("Nothing was changed") && !end.applied, "{end:?}");
        assert!(!bodies(&ended).any(|b| matches!(b, Body::CancelProgress(c) if c.step == "forced")), "{ended:#?}");
        assert!(session_of(i32::try_from(running.child.id()).expect("a pid")).is_empty(), "nothing is left");

        // behind an apply, and one that does not stop
        let stubborn = "#!/bin/sh\ntrap '' INT\necho begun\nsleep 600 & wait\nwait\n";
        let hooks = Hooks { after_apply: "stubborn.sh".into(), ..Default::default() };
        let mut job = self::job(&engine, JobKind::Update, &[("stubborn.sh", stubborn)], hooks);
        job.request().cancel_grace_seconds = 1;
        job.run("plan");
        let mut running = job.begin("apply");
        begun(&running, "after-apply");
        running.control().cancel("somebody", false);
        assert!(running.wait().success());
        let end = result(&events(&job.work()));
        assert_eq!((end.phase.as_str(), end.applied), ("canceled", true), "{end:?}");
        assert!(end.message.contains("did not, and was killed (SIGKILL)"), "{end:?}");
        assert!(end.message.contains("The plan is applied"), "{end:?}");
        assert_eq!(job.versions().len(), 1);
    }
}

#[test]
fn a_hook_counts_to_the_limits_of_its_step() {
    for engine in engines() {
        let hooks = Hooks { before_plan: "waits.sh".into(), ..Default::default() };
        let mut job = job(&engine, JobKind::Update, &[("waits.sh", WAITS)], hooks);
        // nothing before the hook takes so long without a word
        job.start.limits = Some(TimeLimits { silence: 5, ..TimeLimits::default() });
        let ended = job.run("plan");
        let end = result(&ended);
        assert_eq!((end.phase.as_str(), end.code.as_str()), ("failed", "time_limit"), "{end:?}");
        assert!(end.message.contains("nothing was said for the limit of 5 s"), "{end:?}");
        assert!(end.message.contains("the hook before-plan (waits.sh) was asked to stop"), "{end:?}");
    }
}

#[test]
fn what_is_no_program_of_the_source_is_refused_before_anything_is_planned() {
    let links = "#!/bin/sh\nln -s /bin/true out.sh\n";
    for engine in engines() {
        for (path, says) in [
            ("missing.sh", "No such file"),
            ("scripts", "no file"),
            ("main.tf", "not executable"),
            ("out.sh", "out of the source"),
            ("../../bin/sh", "no path inside"),
        ] {
            // by way of a hook, as a source that has such a link is none
            let hooks = Hooks { before_plan: "link.sh".into(), after_apply: path.into(), ..Default::default() };
            let job = job(&engine, JobKind::Update, &[("link.sh", links), ("scripts/x", "")], hooks);
            let ended = job.run("plan");
            let end = result(&ended);
            assert_eq!((end.phase.as_str(), end.code.as_str()), ("failed", "source_refused"), "{path}: {end:?}");
            assert!(end.message.contains("after-apply") && end.message.contains(says), "{path}: {end:?}");
            assert!(!bodies(&ended).any(|b| matches!(b, Body::EngineStarted(_))), "{path}: {ended:#?}");
        }
        // there and not to be run: its interpreter is missing
        let hooks = Hooks { before_plan: "odd.sh".into(), ..Default::default() };
        let end = result(&job(&engine, JobKind::Update, &[("odd.sh", "#!/no/such/thing\n")], hooks).run("plan"));
        assert_eq!(end.code, "hook_failed", "{end:?}");
        assert!(end.message.contains("cannot be run") && end.message.contains("#!/bin/sh"), "{end:?}");
    }
}

#[test]
fn what_comes_before_the_plan_may_make_the_module_and_nothing_that_no_source_has() {
    let generates = "#!/bin/sh\nset -e\nprintf 'resource \"terraform_data\" \"made\" { input = \"by the hook\" }\\n' >made.tf\n\
        mkdir -p .terraform/modules && echo '{}' >.terraform/modules/modules.json\nln -s /usr/bin/env tool\n";
    for engine in engines() {
        let hooks = Hooks { before_plan: "generate.sh".into(), ..Default::default() };
        let folder = tempfile::tempdir_in(PARENTS[0]).expect("a folder");
        let mut job = Job::within(folder, &engine, JobKind::Update, &[("generate.sh", generates)]);
        assert_eq!(result(&job.run("plan")).code, "source_refused", "there is no module");
        std::fs::remove_dir_all(job.work()).expect("removes");
        std::fs::create_dir(job.work()).expect("makes");
        job.request().hooks = Some(hooks.clone());
        let planned = job.run("plan");
        assert_eq!(phases(&planned).last(), Some(&"awaiting_approval"), "{planned:#?}");
        let planned_it =
            bodies(&planned).any(|b| matches!(b, Body::PlannedChange(c) if c.address == "terraform_data.made"));
        let set_aside =
            said(&planned, "runner").iter().any(|line| line.starts_with(".terraform of the source was set aside"));
        assert!(planned_it && set_aside, "{planned:#?}");
        assert_eq!(result(&job.run("apply")).phase, "applied");

        for (makes, says) in [
            ("mkfifo pipe.tf", "pipe.tf is neither a file"),
            ("ln -s /etc/passwd out.tf", "out.tf, as the hook has left it, is no file of the source"),
        ] {
            let makes = format!("#!/bin/sh\n{makes}\n");
            let ended = self::job(&engine, JobKind::Update, &[("generate.sh", &makes)], hooks.clone()).run("plan");
            let end = result(&ended);
            assert!(end.code == "source_refused" && end.message.contains(says), "{end:?}");
        }
    }
}

#[test]
fn none_is_run_of_a_source_that_nobody_vouches_for_and_none_for_what_reads() {
    for engine in engines() {
        let mut job = job(&engine, JobKind::Preview, &[("fails.sh", FAILS)], all("fails.sh"));
        job.request().untrusted = true;
        let ended = job.run("plan");
        assert_eq!(result(&ended).phase, "planned", "{ended:#?}");
        assert!(!bodies(&ended).any(|b| matches!(b, Body::HookStarted(_))), "{ended:#?}");
        let mut reads = job.again(JobKind::Outputs);
        reads.request().hooks = Some(all("fails.sh"));
        assert_eq!(result(&reads.run("plan")).phase, "no_changes");
    }
}

#[test]
fn what_is_applied_is_what_was_planned_whatever_hooks_do() {
    let writes = "#!/bin/sh\nfor file in ../data/plan.bin main.tf ../events ../tmp/engine.tfrc; do\n\
        if echo changed >>$file; then echo wrote $file; fi\ndone 2>/dev/null\necho tried\n";
    for (engine, parent) in engines().iter().flat_map(|engine| PARENTS.map(|parent| (engine, parent))) {
        if landlock::abi() == 0 {
            println!("SKIPPED: no Landlock here: a plan that a hook has changed is not applied");
        }
        let hooks = Hooks { after_plan: "write.sh".into(), before_apply: "write.sh".into(), ..Default::default() };
        let mut job = job_in(parent, engine, JobKind::Update, &[("write.sh", writes)], hooks);
        let planned = job.run("plan");
        let plan =
            bodies(&planned).find_map(|b| if let Body::PlanSaved(plan) = b { Some(plan.sha256.clone()) } else { None });
        job.start.plan_sha256 = plan.expect("a plan");
        let ended = job.run("apply");
        if landlock::abi() == 0 {
            assert_eq!(result(&ended).code, "plan_stale");
            continue;
        }
        for hook in ["after-plan", "before-apply"] {
            assert_eq!(said(&ended, hook), ["tried"]);
        }
        assert_eq!(result(&ended).phase, "applied", "{ended:#?}");
        assert_eq!(outputs(&ended)["o"]["value"], "one");
    }
}

/// What outlives a hook could read what the source is fetched with, or change what is read after it.
#[test]
fn nothing_that_a_hook_has_started_outlives_it() {
    // what looks for it does not find itself
    let leaves = "#!/bin/sh\nsetsid sleep 8765431 >/dev/null 2>&1 &\nsetsid sh -c 'sleep 8765431 & sleep 8765431' >/dev/null 2>&1 &\n\
        until [ \"$(grep -l 876543[1] /proc/[0-9]*/cmdline 2>/dev/null | wc -l)\" -ge 3 ]; do sleep 0.05; done\necho left some\n";
    let looks = "#!/bin/sh\ngrep -l 876543[1] /proc/[0-9]*/cmdline 2>/dev/null || echo none is left\n";
    for engine in engines() {
        let hooks = Hooks { before_plan: "leave.sh".into(), after_plan: "look.sh".into(), ..Default::default() };
        let files = [("leave.sh", leaves), ("look.sh", looks)];
        let ended = job(&engine, JobKind::Update, &files, hooks).run("plan");
        assert_eq!(phases(&ended).last(), Some(&"awaiting_approval"), "{ended:#?}");
        assert_eq!(
            (said(&ended, "before-plan"), said(&ended, "after-plan")),
            (vec!["left some"], vec!["none is left"])
        );
    }
}

#[test]
fn secrets_are_taken_out_of_what_hooks_say() {
    let main = "variable \"secret\" { sensitive = true }\n\
        resource \"terraform_data\" \"a\" { input = { own = sensitive(\"planted-sensitive-one\"), given = var.secret } }\n";
    let tells =
        "#!/bin/sh\ncat \"$KUBECONFIG\" \"${KUBECONFIG%/*}/kube-token-0\" \"${RUNNER_PLAN_JSON:-/dev/null}\"\necho\n";
    for engine in engines() {
        let mut job = job(&engine, JobKind::Update, &[], all("tell.sh"));
        job.source(&[("main.tf", main), ("tell.sh", tells)]);
        job.request().variables.insert("secret".into(), "hunter2-hunter2".into());
        let kubernetes = KubernetesTarget {
            server: "https://127.0.0.1:1".into(),
            token: "a-token-of-the-cluster".into(),
            ..Default::default()
        };
        let target = Some(Target { kind: Some(target::Kind::Kubernetes(kubernetes)) });
        job.start.targets.push(JobTarget { connection: "prod".into(), target, ..Default::default() });
        job.run("plan");
        let ended = job.run("apply");
        assert_eq!(result(&ended).phase, "applied", "{ended:#?}");
        let after_plan = said(&ended, "after-plan").concat();
        assert!(after_plan.contains("[redacted]") && after_plan.contains("\"resource_changes\""), "{after_plan}");
        let shown = format!("{ended:?}");
        for secret in ["hunter2", "a-token-of-the-cluster", "planted-sensitive-one"] {
            assert!(!shown.contains(secret), "{secret}");
        }
    }
}

#[test]
fn a_worker_that_dies_behind_an_apply_is_followed_and_the_hook_runs_once() {
    for engine in engines() {
        for (code, phase, result_code) in [(0, "applied", "ok"), (5, "failed", "hook_failed")] {
            let script = format!(
                "#!/bin/sh\necho begun\nuntil [ -e \"$TMPDIR/go\" ]; do sleep 0.05; done\necho went on\nexit {code}\n"
            );
            let hooks = Hooks { after_apply: "wait.sh".into(), ..Default::default() };
            let job = job(&engine, JobKind::Update, &[("wait.sh", &script)], hooks);
            job.run("plan");
            let mut running = job.begin_followed("apply");
            let worker = running.worker(None);
            begun(&running, "after-apply");
            follow(&running, &job, "apply", worker);
            std::fs::write(job.work().join("tmp/hooks/go"), "").expect("writes");
            assert!(running.wait().success());
            let ended = events(&job.work());
            let end = result(&ended);
            assert_eq!(
                (end.phase.as_str(), end.code.as_str(), end.applied),
                (phase, result_code, code != 0),
                "{end:?}"
            );
            assert_eq!(said(&ended, "after-apply"), ["begun", "went on"]);
            assert_eq!(bodies(&ended).filter(|b| matches!(b, Body::HookStarted(_))).count(), 1);
            assert_eq!(outputs(&ended)["o"]["value"], "one");
        }
    }
}
