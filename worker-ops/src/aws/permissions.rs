//! What the connection's credentials may do of all that it is for, found out without changing anything: IAM is asked to simulate it, and where it
//! does not, the very calls are made, as dry runs or about something that is not there.
//!
//! It must never make a call that changes anything, nor take a refusal for what it is not: what cannot be told is unknown.

use futures_util::stream::{StreamExt as _, iter};
use serde_json::{Value, json};
use shared_proto::documents::{LeastPolicy, Permission, PermissionReport};
use shared_proto::failure::Code;
use shared_proto::inventory::{self, Call as Asked};
use shared_proto::v1::{Outcome, ProbePermissions};
use std::collections::BTreeMap;

use super::connect::{Account, CLOUD_CONTROL, EC2, IAM, LOGS, Service, TAGGING};
use super::kinds::{self, Call, Details, KINDS, Kind, Sent, Tags};
use super::request::identity;
use super::{arn, tree};
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::net::url;
use crate::socket::Output;

/// The name of what is not there.
const NOTHING: &str = "runner-permission-probe";
/// Calls at once.
const AT_ONCE: usize = 6;
/// Pages of a simulation: it says something of each action, and there are few.
const PAGES_MAX: u32 = 20;

/// A call that shows whether it is allowed.
struct Probe {
    action: String,
    service: Service,
    operation: &'static str,
    path: String,
    parameters: Vec<(&'static str, Value)>,
    /// Its refusals may be another service's, and are its own only where they name the action.
    through: bool,
}

/// Finds out.
pub(crate) async fn probe(account: &Account, asked: &ProbePermissions, output: &mut Output) -> Result<Outcome, Fault> {
    // whoever is not let in at all may do nothing, and is told that
    let who = identity(account).await?.principal;
    let actions = inventory::aws_actions(&asked.purpose);
    let simulated = if asked.narrowed { None } else { simulate(account, &who, &actions).await? };
    let items = match simulated {
        Some(decisions) => {
            let how = format!("simulated by IAM for {}", arn::principal(&who));
            let item = |action: String| {
                let (allowed, how) = match decisions.get(&action.to_ascii_lowercase()).map(String::as_str) {
                    Some("allowed") => ("yes", how.clone()),
                    Some(decision) => ("no", format!("{how}: {decision}")),
                    None => ("unknown", "IAM said nothing of it".to_owned()),
                };
                Permission { action, allowed: allowed.to_owned(), how }
            };
            actions.iter().cloned().map(item).collect()
        }
        None => {
            let mut probes: BTreeMap<_, _> = probes().into_iter().map(|probe| (probe.action.clone(), probe)).collect();
            let asked = actions.iter().map(|action| (action.clone(), probes.remove(action)));
            let asked: Vec<_> = asked.collect();
            let one = |(action, probe): (String, Option<Probe>)| async move {
                match probe {
                    Some(probe) => probe.run(account).await,
                    None if action == "sts:GetCallerIdentity" => {
                        Ok(Permission { action, allowed: "yes".to_owned(), how: "called".to_owned() })
                    }
                    None => {
                        let how = "no call shows it without a resource of its own".to_owned();
                        Ok(Permission { action, allowed: "unknown".to_owned(), how })
                    }
                }
            };
            let found: Vec<_> = iter(asked).map(one).buffered(AT_ONCE).collect().await;
            found.into_iter().collect::<Result<_, Fault>>()?
        }
    };
    let text = least_policy(&asked.purpose)?;
    let least_policy = LeastPolicy { format: "iam_policy".to_owned(), text };
    let report = PermissionReport { purpose: asked.purpose.clone(), items, least_policy };
    Document::whole(output, &report).await?;
    Ok(done())
}

/// Decisions by action in lower case; `None` where it is not allowed to ask, or cannot be asked of such a caller.
async fn simulate(
    account: &Account,
    who: &str,
    actions: &std::collections::BTreeSet<String>,
) -> Result<Option<BTreeMap<String, String>>, Fault> {
    let principal = arn::principal(who);
    let mut asking = account.ask(IAM)?;
    let names: Vec<_> = (1..=actions.len()).map(|n| format!("ActionNames.member.{n}")).collect();
    let (mut decisions, mut mark) = (BTreeMap::new(), String::new());
    for _ in 0..PAGES_MAX {
        let mut parameters = vec![("PolicySourceArn", json!(principal)), ("MaxItems", json!("100"))];
        parameters.extend(names.iter().zip(actions).map(|(name, action)| (name.as_str(), json!(action))));
        if !mark.is_empty() {
            parameters.push(("Marker", json!(mark)));
        }
        let answer = match asking.call("SimulatePrincipalPolicy", "", parameters).await {
            Ok(answer) => answer,
            Err(fault) if fault.code() == Code::CredentialsExpired => return Err(fault),
            // not allowed, or not for such a principal: the root user, a role with a path that its session does not tell
            Err(_) => return Ok(None),
        };
        for result in tree::at(&answer, "SimulatePrincipalPolicyResult/EvaluationResults/member") {
            let action = tree::text(result, "EvalActionName").to_ascii_lowercase();
            decisions.insert(action, tree::text(result, "EvalDecision"));
        }
        mark = tree::text(&answer, "SimulatePrincipalPolicyResult/Marker");
        if mark.is_empty() {
            break;
        }
    }
    Ok(Some(decisions))
}

/// The least policy of IAM for a purpose.
fn least_policy(purpose: &str) -> Result<String, Fault> {
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Sid": if purpose == "logs" { "RunnerLogs" } else { "RunnerBrowse" },
            "Effect": "Allow",
            "Action": inventory::aws_actions(purpose),
            "Resource": "*",
        }],
    });
    serde_json::to_string_pretty(&policy).map_err(|e| Fault::new(Code::Internal, e.to_string()))
}

/// All calls that show what they need.
fn probes() -> Vec<Probe> {
    let mut probes = Vec::new();
    for kind in KINDS {
        let mut add = |service: Service, call: &'static Call, sent: Option<&Sent>, parent: Option<&Sent>| {
            probes.extend(of_call(kind, service, call, sent, parent));
        };
        let parent = kind.parents.as_ref().map(|(_, sent)| sent);
        add(kind.service, &kind.list, None, parent);
        if let Some((call, _)) = &kind.parents {
            add(kind.service, call, None, None);
        }
        match &kind.details {
            Details::None => {}
            Details::Each(call, sent) | Details::Batch(call, sent, _) => add(kind.service, call, Some(sent), parent),
        }
        match &kind.tags {
            Tags::At(_) => {}
            Tags::Tagging(_) => add(TAGGING, &kinds::TAGGED, None, None),
            Tags::Each(call, sent) => add(kind.service, call, Some(sent), None),
        }
    }
    let own = |service: &str, operation: &'static str| Asked {
        service: service.to_owned(),
        operation: Some(operation.to_owned()),
    };
    let mut one = |prefix: &str, service, operation, parameters: Vec<(&'static str, Value)>| {
        let (action, path) = (inventory::aws_action(&own(prefix, operation)), String::new());
        let through = service == CLOUD_CONTROL;
        probes.push(Probe { action, service, operation, path, parameters, through });
    };
    one("ec2", EC2, "DescribeRegions", vec![("DryRun", json!("true"))]);
    one("logs", LOGS, "DescribeLogGroups", vec![("limit", json!(1))]);
    one("logs", LOGS, "DescribeLogStreams", vec![("logGroupName", json!(NOTHING)), ("limit", json!(1))]);
    one("logs", LOGS, "FilterLogEvents", vec![("logGroupName", json!(NOTHING)), ("limit", json!(1))]);
    let of_topics = ("TypeName", json!("AWS::SNS::Topic"));
    one("cloudformation", CLOUD_CONTROL, "ListResources", vec![of_topics.clone(), ("MaxResults", json!(1))]);
    one("cloudformation", CLOUD_CONTROL, "GetResource", vec![of_topics, ("Identifier", json!(NOTHING))]);
    probes
}

fn of_call(
    kind: &Kind,
    service: Service,
    call: &'static Call,
    sent: Option<&Sent>,
    parent: Option<&Sent>,
) -> Option<Probe> {
    let asked =
        inventory::calls("aws", kind.name).into_iter().find(|a| a.operation.as_deref() == Some(call.operation))?;
    let mut parameters: Vec<_> = super::listing::with(call, NOTHING);
    // a place that is none would be refused as such
    parameters.retain(|(name, _)| *name != "bucket-region");
    if let Some(sent) = sent.filter(|sent| !sent.name.is_empty()) {
        let many = matches!(&kind.details, Details::Batch(batch, ..) if batch.operation == call.operation);
        parameters.push((sent.name, if many { json!([NOTHING]) } else { json!(NOTHING) }));
    }
    parameters.extend(parent.map(|sent| (sent.name, json!(NOTHING))));
    if service == EC2 {
        parameters = vec![("DryRun", json!("true"))];
    }
    Some(Probe {
        action: inventory::aws_action(&asked),
        service,
        operation: call.operation,
        path: call.path.replace("{}", &url::encode(NOTHING)),
        parameters,
        through: false,
    })
}

// === impl Probe ===

impl Probe {
    /// # Errors
    /// The credentials are good no more.
    async fn run(self, account: &Account) -> Result<Permission, Fault> {
        let called = match account.ask(self.service) {
            Ok(mut asking) => asking.call(self.operation, &self.path, self.parameters).await,
            Err(fault) => Err(fault),
        };
        let dry = |fault: &Fault| fault.reason == "DryRunOperation";
        let (allowed, how) = match called {
            Ok(_) => ("yes", "called".to_owned()),
            Err(fault) if dry(&fault) => ("yes", "called as a dry run".to_owned()),
            Err(fault) if fault.code() == Code::TargetNotFound => ("yes", "called about what is not there".to_owned()),
            Err(fault) if fault.code() == Code::CredentialsExpired => return Err(fault),
            Err(fault) if fault.code() == Code::TargetForbidden => {
                let own = !self.through || fault.failure.message.contains(&self.action);
                (if own { "no" } else { "unknown" }, fault.failure.message)
            }
            Err(fault) => ("unknown", fault.failure.message),
        };
        Ok(Permission { action: self.action, allowed: allowed.to_owned(), how })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_permission_has_a_call_that_shows_it_or_is_known_to_have_none() {
        let probed: BTreeSet<_> = probes().into_iter().map(|probe| probe.action).collect();
        for purpose in ["browse", "logs"] {
            let needed = inventory::aws_actions(purpose);
            let without: Vec<_> = needed.difference(&probed).map(String::as_str).collect();
            let known: &[&str] = if purpose == "browse" {
                &["s3:GetBucketLocation", "sts:GetCallerIdentity"]
            } else {
                &["sts:GetCallerIdentity"]
            };
            assert_eq!(without, known, "{purpose}");
        }
    }

    #[test]
    fn no_call_changes_anything() {
        for probe in probes() {
            let reads = ["List", "Describe", "Get", "Filter"].iter().any(|verb| probe.operation.starts_with(verb));
            assert!(reads, "{}", probe.operation);
        }
    }

    #[test]
    fn the_least_policy_is_a_policy() {
        let policy: Value = serde_json::from_str(&least_policy("browse").expect("a policy")).expect("JSON");
        assert_eq!(policy["Version"], "2012-10-17");
        let actions = policy["Statement"][0]["Action"].as_array().expect("actions");
        assert!(actions.contains(&json!("s3:ListAllMyBuckets")) && !actions.contains(&json!("*")));
        assert!(least_policy("logs").expect("a policy").contains("logs:FilterLogEvents"));
    }
}
