//! Whether the runner's own policy allows an operation, and what its worker is told of that.
//!
//! It must never let anything pass that it does not know how to ask about: an operation of a new kind is asked about here, or refused.

use super::request::shown;
use crate::config::Config;
use crate::policy::{Attributes, CloudCall, Decision, Namespace, Permit, Request, Secrets, TargetError, What};
use crate::recordings;
use crate::tunnel::Settings;
use shared_proto::aws;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{self, Impersonation, Masking, operation_request::What as Asked};
use std::time::{Instant, SystemTime};

/// What the names of the headers begin with by which a client asks the API server to act as somebody.
const IMPERSONATE: &str = "impersonate-";

/// An operation that may be.
#[derive(Debug)]
pub(super) struct Permission {
    /// As whom the API server is to act, where the connection says that it is the one who asks.
    pub(super) impersonation: Option<Impersonation>,
    /// What is shown of Secrets, where the answer may have some and not all of it is.
    pub(super) masking: Option<Masking>,
    /// Whether its terminal has to be recorded.
    pub(super) record: bool,
    /// What decided, by name.
    pub(super) rule: String,
    /// Its room within the bounds of the rules that allow it.
    pub(super) permits: Vec<Permit>,
}

/// An operation that may not be, and what decided.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) failure: Failure,
    pub(super) rule: String,
}

/// Decides.
///
/// # Errors
/// `policy_denied`, which names the rule; `busy` where a bound of the rule is reached.
pub(super) fn decide(
    request: &v1::OperationRequest,
    asked: &[What],
    settings: &Settings,
) -> Result<Permission, Denied> {
    let mut rule = String::new();
    by_rules(request, asked, settings, &mut rule).map_err(|failure| Denied { failure, rule })
}

fn by_rules(
    request: &v1::OperationRequest,
    asked: &[What],
    settings: &Settings,
    rule: &mut String,
) -> Result<Permission, Failure> {
    let impersonation = impersonation(request, settings)?;
    let mut permission =
        Permission { impersonation, masking: None, record: false, rule: String::new(), permits: Vec::new() };
    let operation = request;
    for what in asked {
        let request = asks(operation, what.clone());
        let decision = settings.policy.decide(&request, SystemTime::now());
        *rule = decision.by.name();
        if !decision.is_allowed() {
            return Err(Code::PolicyDenied.on(decision.sentence));
        }
        if decision.record {
            recordable(&operation.what, &settings.config, rule)?;
            permission.record = true;
        }
        if let Some(limit) = &decision.limit {
            let permit = settings.limits.take(limit, Instant::now());
            permission.permits.push(permit.map_err(|e| Code::Busy.on(e.to_string()))?);
        }
        permission.masking = masking(&request.what, &decision);
        permission.rule.clone_from(rule);
    }
    Ok(permission)
}

/// Whether what a rule has recorded can be.
///
/// # Errors
/// `not_recorded`: there is no key for it, or nobody here reads the protocol that it is in.
fn recordable(asked: &Option<Asked>, config: &Config, rule: &str) -> Result<(), Failure> {
    if config.audit.recording_key.is_none() {
        return Err(recordings::without_key());
    }
    // what a request of the API itself switches to is the client's and the API server's own; the worker, which reads it, is not asked what
    // was in it: of what a recording is to prove it knows nothing better
    if !matches!(asked, Some(Asked::K8sExec(_))) {
        return Err(Code::NotRecorded
            .on(format!("rule {rule} of the runner's policy has terminals recorded, and this way to one cannot be"))
            .next("Use `runnerctl k8s exec`, whose terminal is recorded."));
    }
    Ok(())
}

fn asks(request: &v1::OperationRequest, what: What) -> Request {
    let caller = request.caller.clone().unwrap_or_default();
    Request {
        person: Some(caller.user_name).filter(|name| !name.is_empty()),
        groups: Some(caller.groups),
        connections: vec![request.connection.clone()],
        what,
    }
}

/// All that an operation does, as rules see it: each has to be allowed. The last one is what it is about.
///
/// # Errors
/// `invalid_argument`: it cannot be read in one way only.
pub(super) fn asked(request: &v1::OperationRequest, settings: &Settings) -> Result<Vec<What>, Failure> {
    let kubernetes = |verb: &str, resource: &str, namespace: &str, name: &str| {
        // the connection's own default, which is known where its credentials are
        let namespace = if namespace.is_empty() { Namespace::Unknown } else { Namespace::Named(namespace.to_owned()) };
        Attributes::of_operation(verb, resource, namespace, name)
    };
    let one = |attributes: Attributes| vec![What::Kubernetes(Box::new(attributes))];
    let of_aws = |service: &str, operation: &str, region: &str| {
        let region = Some(region).filter(|region| !region.is_empty());
        vec![What::Aws(CloudCall::aws(service, Some(operation), region))]
    };
    // there is one: that was looked at before
    let Some(what) = &request.what else { return Ok(Vec::new()) };
    Ok(match what {
        Asked::ConnectionTest(_) => {
            let provider = settings.config.connections.get(&request.connection).map(|c| c.provider());
            vec![What::ConnectionTest { provider: provider.unwrap_or_default().to_owned() }]
        }
        Asked::K8sListNamespaces(_) => one(Attributes::of_operation("list", "namespaces", Namespace::None, "")),
        Asked::K8sListPods(list) if list.all_namespaces => {
            one(Attributes::of_operation("list", "pods", Namespace::All, ""))
        }
        Asked::K8sListPods(list) => one(kubernetes("list", "pods", &list.namespace, "")),
        Asked::K8sDescribePod(pod) => [
            one(kubernetes("get", "pods", &pod.namespace, &pod.pod)),
            one(kubernetes("list", "events", &pod.namespace, "")),
        ]
        .concat(),
        Asked::K8sLogs(logs) => {
            let mut attributes = kubernetes("get", "pods/log", &logs.namespace, &logs.pod);
            attributes.container = Some(logs.container.clone()).filter(|container| !container.is_empty());
            one(attributes)
        }
        Asked::K8sExec(exec) => {
            let mut attributes = kubernetes("create", "pods/exec", &exec.namespace, &exec.pod);
            attributes.container = Some(exec.container.clone()).filter(|container| !container.is_empty());
            attributes.command.clone_from(&exec.command);
            one(attributes)
        }
        Asked::K8sRequest(asked) => {
            let mut all = one(Attributes::parse(&asked.method, asked.target.as_bytes()).map_err(unreadable)?);
            // last, so that what the request itself may be shown is not theirs
            let somebody_else = impersonated(asked)?;
            all.splice(0..0, somebody_else.into_iter().map(|a| What::Kubernetes(Box::new(a))));
            all
        }
        Asked::AwsCallerIdentity(asked) => of_aws("sts", "GetCallerIdentity", &asked.region),
        Asked::AwsListRegions(asked) => of_aws("ec2", "DescribeRegions", &asked.region),
        Asked::AwsListResources(asked) if asked.type_name.is_empty() => of_aws("tag", "GetResources", &asked.region),
        // Cloud Control's own actions are of this service
        Asked::AwsListResources(asked) => of_aws("cloudformation", "ListResources", &asked.region),
        Asked::AwsGetResource(asked) => of_aws("cloudformation", "GetResource", &asked.region),
        Asked::AwsRequest(asked) => {
            let asked = aws::read(asked)?;
            vec![What::Aws(CloudCall::aws(asked.prefix(), asked.operation, asked.region.as_deref()))]
        }
    })
}

/// As whom a client asks the API server to act, as Kubernetes' own rules see it: the verb impersonate.
fn impersonated(request: &v1::K8sRequest) -> Result<Vec<Attributes>, Failure> {
    let mut found = Vec::new();
    for header in &request.headers {
        let name = header.name.to_ascii_lowercase();
        let Some(kind) = name.strip_prefix(IMPERSONATE) else { continue };
        let value = std::str::from_utf8(&header.value)
            .map_err(|_| Code::InvalidArgument.on(format!("the header {} is no text", shown(&name))))?;
        let (resource, value) = match kind {
            "user" => match value.strip_prefix("system:serviceaccount:") {
                Some(account) => ("serviceaccounts", account),
                None => ("users", value),
            },
            "group" => ("groups", value),
            "uid" => ("uids", value),
            _ if kind.starts_with("extra-") => ("userextras", value),
            _ => return Err(Code::InvalidArgument.on(format!("there is no header {}", shown(&name)))),
        };
        found.push(Attributes::of_operation("impersonate", resource, Namespace::None, value));
    }
    Ok(found)
}

/// Who asks, as the cluster is to know them.
fn impersonation(request: &v1::OperationRequest, settings: &Settings) -> Result<Option<Impersonation>, Failure> {
    let connection = settings.config.connections.get(&request.connection);
    let Some(prefix) = connection.and_then(|connection| connection.impersonate()) else { return Ok(None) };
    if let Some(Asked::K8sRequest(asked)) = &request.what
        && !impersonated(asked)?.is_empty()
    {
        return Err(Code::PolicyDenied
            .on("the connection acts as whoever asks, and so not as somebody else")
            .next("Leave --as, --as-group and --as-uid out."));
    }
    let caller = request.caller.clone().unwrap_or_default();
    let named = |name: &str| {
        let whole = format!("{prefix}{name}");
        // the cluster's own: no control plane may say that somebody is one of them
        let good = !name.is_empty() && !whole.starts_with("system:") && !whole.chars().any(char::is_control);
        if good { Ok(whole) } else { Err(Code::PolicyDenied.on(format!("nobody is {:?} in the cluster", shown(name)))) }
    };
    let groups = caller.groups.iter().map(|group| named(group)).collect::<Result<_, _>>()?;
    Ok(Some(Impersonation { user: named(&caller.user_name)?, groups }))
}

fn unreadable(error: TargetError) -> Failure {
    Code::InvalidArgument
        .on(error.to_string())
        .next("Send the path as the Kubernetes API documents it, each part once.")
}

fn masking(what: &What, decision: &Decision) -> Option<Masking> {
    let What::Kubernetes(attributes) = what else { return None };
    if !attributes.carries_secrets() {
        return None;
    }
    let shown_types = match &decision.secrets {
        Secrets::Shown => return None,
        Secrets::Masked => Vec::new(),
        Secrets::ShownTypes(types) => types.iter().map(|shown| shown.as_str().to_owned()).collect(),
    };
    Some(Masking { shown_types, watch: attributes.is_watch() })
}
