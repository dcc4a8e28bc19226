//! `runner policy`: what the policy says of a request, and whether it says what its own cases expect. Needs no running runner.

use super::{failed, out, plan_rules};
use crate::config::Config;
use crate::exit;
use crate::policy::{
    Attributes, Cases, CloudCall, ENGINES, JobCall, JobSource, KINDS, PROVIDERS, Policy, Request, What,
    plan_rules_folder,
};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use serde_json::json;
use shared_proto::failure::Code;
use shared_proto::glob::Glob;
use std::path::PathBuf;
use std::time::SystemTime;

/// The cases where nobody names a file, beside the policy.
const CASES_FILE: &str = "policy-tests.toml";

/// The subcommand.
pub(super) fn command(with_settings: impl Fn(Command) -> Command, output: impl Fn() -> Arg) -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let check = Command::new("check")
        .about("Whether a request is allowed, and by which rule; without a request, whether the file can be used")
        .after_help(
            "Exits 0 when it is allowed, 77 when it is denied or would have to be recorded and cannot be, 64 when the request cannot be read in one way only, 78 when the file cannot be used, or needs a key for recordings that there is not.",
        )
        .arg(text("request", "METHOD PATH", "A request to a Kubernetes API: GET '/api/v1/namespaces/shop/pods?watch=true'").num_args(2))
        .arg(text("aws", "SERVICE:ACTION", "An operation of AWS: s3:GetObject; s3: where the operation is not known"))
        .arg(text("gcp", "SERVICE.METHOD", "An operation of Google Cloud that reads: compute.instances.list"))
        .arg(text("azure", "SERVICE/OPERATION", "An operation of Azure that reads: Microsoft.Compute/virtualMachines/read"))
        .arg(text("region", "REGION", "The operation's region").requires("aws"))
        .arg(text("job", "KIND", "A job of that kind").value_parser(KINDS))
        .arg(text("engine", "NAME", "The job's engine").requires("job").default_value("opentofu").value_parser(ENGINES))
        .arg(text("stack", "NAME", "The job's stack").requires("job").default_value("stack"))
        .arg(text("source", "HOST", "The host that the job's code comes from; @upload or @file").requires("job").default_value("@upload"))
        .arg(text("secret-store", "NAME", "A store of secrets that the job refers to; more than once for more").requires("job").action(ArgAction::Append))
        .arg(text("connection-test", "PROVIDER", "A test of a connection of that provider").value_parser(PROVIDERS))
        .group(ArgGroup::new("what").args(["request", "aws", "gcp", "azure", "job", "connection-test"]))
        .arg(text("person", "NAME", "Who asks"))
        .arg(text("group", "NAME", "A group of whoever asks; more than once for more").action(ArgAction::Append))
        .arg(text("connection", "NAME", "The connection; more than once for a job with more").action(ArgAction::Append))
        .arg(output());
    let test = Command::new("test")
        .about("Whether the policy, and the rules for plans, decide as their cases expect")
        .after_help("Exits 0 when it does, 1 when it does not, 78 when a file cannot be used.")
        .arg(
            Arg::new("cases")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("The policy's cases; else policy-tests.toml beside it. Those of rules for plans are tests.toml in their folder"),
        )
        .arg(output());
    Command::new("policy")
        .about("What may be asked of this runner")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(check))
        .subcommand(with_settings(test))
}

/// Runs it; the exit code.
pub(super) fn run(config: &Config, name: &str, matches: &ArgMatches, as_json: bool) -> i32 {
    let path = &config.policy.path;
    if config.policy.named && !path.exists() {
        let what = format!("{}: there is no such file, and the configuration names it", path.display());
        return unusable(what);
    }
    let policy = match Policy::load(path) {
        Ok(policy) => policy,
        Err(e) => return unusable(e.to_string()),
    };
    for warning in policy.warnings() {
        eprintln!("runner: {}: warning: {warning}", path.display());
    }
    if name == "test" {
        let named = matches.get_one::<PathBuf>("cases").cloned();
        return test(config, &policy, named, as_json);
    }
    match request(matches) {
        Ok(Some(request)) => {
            if let Some(unknown) = matches.get_one::<String>("aws").filter(|call| is_unknown(call)) {
                eprintln!(
                    "runner: warning: no operation of AWS that this runner knows is called {unknown}: requests are named as the API names \
                     them, not as IAM does (listing a bucket is s3:ListObjectsV2)"
                );
            }
            check(config, &policy, &request, as_json)
        }
        Ok(None) => {
            if let Some(lacks) = config.lacks_for(&policy) {
                return unusable(format!("{}: {lacks}", path.display()));
            }
            let there = path.exists();
            out(&if as_json {
                json!({ "file": path, "there": there, "policy": policy.summary(), "warnings": policy.warnings() })
                    .to_string()
            } else if there {
                format!("{} can be used", path.display())
            } else {
                format!("there is no {}: everything is allowed, with the values of secrets masked", path.display())
            })
        }
        Err(message) => {
            failed(&Code::InvalidArgument.on(message).next("`runner policy check --help` has an example of each."))
        }
    }
}

/// Whether it names an operation of AWS, and none that is known.
fn is_unknown(call: &str) -> bool {
    let names_one = call.split_once(':').is_some_and(|(_, operation)| !operation.is_empty());
    names_one && Glob::parse_lower(call).is_ok_and(|glob| !shared_proto::aws::is_of_an_operation(&glob))
}

/// What the configuration names cannot be used.
fn unusable(what: String) -> i32 {
    failed(&Code::ConfigurationUnusable.on(what))
}

fn check(config: &Config, policy: &Policy, request: &Request, as_json: bool) -> i32 {
    let decision = policy.decide(request, SystemTime::now());
    let lacks = if decision.record { config.lacks_for(policy) } else { None };
    out(&if as_json {
        json!({
            "effect": decision.effect,
            "rule": decision.by.name(),
            "sentence": decision.sentence,
            "record": decision.record,
            "explanation": decision.explain(),
        })
        .to_string()
    } else {
        decision.explain().join("\n")
    });
    if let Some(lacks) = &lacks {
        eprintln!("runner: it is refused all the same: {lacks} [{}]", Code::NotRecorded);
    }
    if decision.is_allowed() && lacks.is_none() { 0 } else { exit::NO_PERMISSION }
}

/// `named`: the file of cases that somebody named.
fn test(config: &Config, policy: &Policy, named: Option<PathBuf>, as_json: bool) -> i32 {
    let policy_path = &config.policy.path;
    let rules = plan_rules_folder(policy_path);
    let of_plans = match plan_rules::run(&rules, policy.plan_rules(), &config.workers.iac) {
        Ok(outcomes) => outcomes,
        Err(e) => return unusable(e.to_string()),
    };
    let beside = policy_path.with_file_name(CASES_FILE);
    // whoever has rules for plans alone has no others to try
    let only_of_plans = named.is_none() && !beside.exists() && !of_plans.is_empty();
    if named.is_none() && !beside.exists() && !only_of_plans {
        let next = "Write cases into it (docs/policy.md has an example), or name another file of them.";
        return failed(&Code::NotFound.on(format!("there is no {}", beside.display())).next(next));
    }
    let results = match only_of_plans {
        true => Vec::new(),
        false => match Cases::load(&named.unwrap_or(beside)) {
            Ok(cases) => cases.run(policy),
            Err(e) => return unusable(e.to_string()),
        },
    };
    let all = results.len() + of_plans.len();
    let failed = results.iter().filter(|result| !result.passed).count()
        + of_plans.iter().filter(|outcome| !outcome.passed).count();
    out(&if as_json {
        let results: Vec<_> = results
            .iter()
            .map(|r| json!({ "name": r.name, "line": r.line, "passed": r.passed, "shown": r.shown }))
            .collect();
        let of_plans: Vec<_> =
            of_plans.iter().map(|o| json!({ "name": o.name, "passed": o.passed, "shown": o.shown })).collect();
        json!({ "cases": results, "plan_cases": of_plans, "failed": failed }).to_string()
    } else {
        let mut lines: Vec<_> = results.iter().filter(|r| !r.passed).map(|r| r.shown.clone()).collect();
        lines.extend(of_plans.iter().filter(|o| !o.passed).map(|o| o.shown.clone()));
        lines.push(format!("{} of {all} cases as expected", all - failed));
        lines.join("\n")
    });
    if failed == 0 { 0 } else { exit::GENERAL }
}

/// The request that the arguments describe.
fn request(matches: &ArgMatches) -> Result<Option<Request>, String> {
    let one = |name: &str| matches.get_one::<String>(name).cloned();
    let many = |name: &str| matches.get_many::<String>(name).map(|values| values.cloned().collect::<Vec<_>>());
    let what = if let Some(words) = many("request") {
        let [method, target] = words.as_slice() else { return Err("--request takes a method and a path".to_owned()) };
        let attributes = Attributes::parse(method, target.as_bytes()).map_err(|e| e.to_string())?;
        What::Kubernetes(Box::new(attributes))
    } else if let Some(call) = one("aws") {
        let (service, operation) = call.split_once(':').unwrap_or((&call, ""));
        let operation = Some(operation).filter(|operation| !operation.is_empty());
        What::Aws(CloudCall::aws(service, operation, one("region").as_deref()))
    } else if let Some(call) = one("gcp") {
        let (service, method) = call.split_once('.').ok_or("--gcp takes SERVICE.METHOD")?;
        What::Gcp(CloudCall::reading(service, Some(method)))
    } else if let Some(call) = one("azure") {
        let (service, operation) = call.split_once('/').ok_or("--azure takes SERVICE/OPERATION")?;
        What::Azure(CloudCall::reading(service, Some(operation)))
    } else if let Some(kind) = one("job") {
        let source = match one("source").unwrap_or_default().as_str() {
            "@upload" => JobSource::Upload,
            "@file" => JobSource::File,
            host => JobSource::Host(host.to_owned()),
        };
        let (engine, stack) = (one("engine").unwrap_or_default(), one("stack").unwrap_or_default());
        What::Job(JobCall { kind, engine, stack, source, secret_stores: many("secret-store").unwrap_or_default() })
    } else if let Some(provider) = one("connection-test") {
        What::ConnectionTest { provider }
    } else {
        return Ok(None);
    };
    Ok(Some(Request {
        person: one("person"),
        groups: many("group"),
        connections: many("connection").unwrap_or_default(),
        what,
    }))
}
