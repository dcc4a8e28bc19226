//! Whether the runner's own policy allows an operation, and what its worker is told of that.
//!
//! It must never let anything pass that it does not know how to ask about: an operation of a new kind is asked about here, or refused.

use super::inventory::{self, OfType};
use super::request::shown;
use crate::config::Config;
use crate::policy::{Attributes, CloudCall, Decision, Limit, Namespace, Permit, Request, Secrets, TargetError, What};
use crate::recordings;
use crate::tunnel::Settings;
use shared_proto::aws;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::{self, Impersonation, Masking, operation_request::What as Asked};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

/// What the names of the headers begin with by which a client asks the API server to act as somebody.
const IMPERSONATE: &str = "impersonate-";

/// An operation that may be.
#[derive(Debug)]
pub(super) struct Permission {
    /// As whom the API server is to act, where the connection says that it is the one who asks.
    pub(super) impersonation: Option<Impersonation>,
    /// The list of resources without the types that may not be listed.
    pub(super) narrowed: Option<Asked>,
    /// What is shown of Secrets, where the answer may have some and not all of it is.
    pub(super) masking: Option<Masking>,
    /// How long it may go on, and the rule whose time window ends then.
    pub(super) left: Option<(Duration, String)>,
    /// Whether its terminal has to be recorded.
    pub(super) record: bool,
    /// What decided, by name.
    pub(super) rule: String,
    /// Its room within the bounds of the rules that allow it.
    pub(super) permits: Vec<Permit>,
}

// === impl Permission ===

impl Permission {
    /// It may go on no longer than what allows it.
    fn ends_with(&mut self, decision: &Decision) {
        if let Some(left) = decision.left
            && self.left.as_ref().is_none_or(|(earlier, _)| left < *earlier)
        {
            self.left = Some((left, decision.by.name()));
        }
    }
}

/// An operation that may not be, and what decided.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) failure: Failure,
    pub(super) rule: String,
}

/// All that an operation does, as rules see it.
#[derive(Debug)]
pub(super) enum AskedFor {
    /// Each of these has to be allowed. The last one is what it is about.
    All(Vec<What>),
    /// Resources of these types: those that may not be listed are left out, and that is said in the answer. The last is by what they are all
    /// found at once, and need not be allowed.
    Types(Box<v1::ListResources>, Vec<OfType>, Option<What>),
}

// === impl AskedFor ===

impl AskedFor {
    /// One after the other.
    pub(super) fn calls(&self) -> Cow<'_, [What]> {
        match self {
            Self::All(calls) => calls.into(),
            Self::Types(_, types, search) => {
                search.iter().cloned().chain(types.iter().flat_map(|(_, calls)| calls.clone())).collect()
            }
        }
    }
}

/// Decides.
///
/// # Errors
/// `policy_denied`, which names the rule; `busy` where a bound of the rule is reached.
pub(super) fn decide(
    request: &v1::OperationRequest,
    asked: AskedFor,
    settings: &Settings,
) -> Result<Permission, Denied> {
    let mut rule = String::new();
    by_rules(request, asked, settings, &mut rule).map_err(|failure| Denied { failure, rule })
}

fn by_rules(
    request: &v1::OperationRequest,
    asked: AskedFor,
    settings: &Settings,
    rule: &mut String,
) -> Result<Permission, Failure> {
    let impersonation = impersonation(request, settings)?;
    let mut permission = Permission {
        impersonation,
        narrowed: None,
        masking: None,
        left: None,
        record: false,
        rule: String::new(),
        permits: Vec::new(),
    };
    match asked {
        AskedFor::All(calls) => {
            for what in calls {
                let (what, decision) = by_rule(request, what, settings, rule)?;
                if decision.record {
                    recordable(&request.what, &settings.config, rule)?;
                    permission.record = true;
                }
                if let Some(limit) = &decision.limit {
                    permission.permits.push(permit(limit, settings)?);
                }
                permission.masking = masking(&what, &decision);
                permission.ends_with(&decision);
                permission.rule.clone_from(rule);
            }
        }
        AskedFor::Types(list, types, search) => {
            let (mut listed, mut refused, mut limits) = (Vec::new(), Vec::new(), BTreeMap::new());
            let mut first = None;
            for (type_name, calls) in types {
                let decided: Result<Vec<_>, _> =
                    calls.into_iter().map(|what| by_rule(request, what, settings, rule)).collect();
                match decided {
                    Ok(decisions) => {
                        permission.rule.clone_from(rule);
                        decisions.iter().for_each(|(_, decision)| permission.ends_with(decision));
                        limits.extend(decisions.into_iter().filter_map(|(_, d)| Some((d.by.name(), d.limit?))));
                        listed.push(type_name);
                    }
                    Err(failure) => {
                        refused.push(v1::TypeRefused { type_name, message: failure.message.clone() });
                        first.get_or_insert((failure, rule.clone()));
                    }
                }
            }
            if let Some((failure, by)) = first.filter(|_| listed.is_empty()) {
                *rule = by;
                return Err(failure);
            }
            let mut by_search = String::new();
            let search = search.and_then(|what| by_rule(request, what, settings, &mut by_search).ok());
            let may_search = search.is_some();
            limits.extend(search.and_then(|(_, d)| Some((d.by.name(), d.limit?))));
            // one list is one request to a rule, however many types of its it has
            for limit in limits.values() {
                permission.permits.push(permit(limit, settings)?);
            }
            permission.narrowed =
                Some(Asked::ListResources(v1::ListResources { types: listed, refused, search: may_search, ..*list }));
        }
    }
    Ok(permission)
}

fn by_rule(
    request: &v1::OperationRequest,
    what: What,
    settings: &Settings,
    rule: &mut String,
) -> Result<(What, Decision), Failure> {
    let request = asks(request, what);
    let decision = settings.policy.decide(&request, SystemTime::now());
    *rule = decision.by.name();
    if !decision.is_allowed() {
        return Err(Code::PolicyDenied.on(decision.sentence));
    }
    Ok((request.what, decision))
}

fn permit(limit: &Limit, settings: &Settings) -> Result<Permit, Failure> {
    settings.limits.take(limit, Instant::now()).map_err(|e| Code::Busy.on(e.to_string()))
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
pub(super) fn asked(request: &v1::OperationRequest, settings: &Settings) -> Result<AskedFor, Failure> {
    let kubernetes = |verb: &str, resource: &str, namespace: &str, name: &str| {
        // the connection's own default, which is known where its credentials are
        let namespace = if namespace.is_empty() { Namespace::Unknown } else { Namespace::Named(namespace.to_owned()) };
        Attributes::of_operation(verb, resource, namespace, name)
    };
    let one = |attributes: Attributes| vec![What::Kubernetes(Box::new(attributes))];
    let entry = settings.config.connections.get(&request.connection);
    // there are both: that was looked at before
    let (Some(what), Some(entry)) = (&request.what, entry) else { return Ok(AskedFor::All(Vec::new())) };
    Ok(AskedFor::All(match what {
        Asked::ConnectionTest(_) | Asked::ProbePermissions(_) => {
            vec![What::ConnectionTest { provider: entry.provider().to_owned() }]
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
        Asked::AwsRequest(asked) => {
            let asked = aws::read(asked)?;
            vec![What::Aws(CloudCall::aws(asked.prefix(), asked.operation, asked.region.as_deref()))]
        }
        Asked::ListResources(list) => {
            let (types, search) = (inventory::by_type(list, entry)?, inventory::search(list, entry));
            return Ok(AskedFor::Types(Box::new(list.clone()), types, search));
        }
        Asked::WhoAmI(_) | Asked::ListPlaces(_) | Asked::GetResource(_) | Asked::ListLogs(_) | Asked::ReadLogs(_) => {
            inventory::asks(what, entry)?
        }
    }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::policy::{Limits, Policy};

    const INSTANCES: &str = "compute.googleapis.com/Instance";
    const SECRETS: &str = "secretmanager.googleapis.com/Secret";

    /// What becomes of a list of these two types by a policy whose section `gcp` has this.
    fn listed(rules: &str) -> Result<v1::ListResources, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runner.toml");
        std::fs::write(&path, "[connections.g]\nprovider = \"gcp\"\nsource = \"metadata\"\n").expect("writes");
        let now = shared_proto::now_ms() / 1000;
        let settings = Settings {
            config: Config::load(Some(&path), &BTreeMap::new(), &BTreeMap::new()).expect("loads"),
            credentials: crate::tunnel::leaf::tests::credentials(folder.path(), now, now + 60),
            policy: Policy::parse(&format!("version = 1\n[gcp]\n{rules}")).expect("a policy"),
            limits: Limits::default(),
        };
        let types = vec![INSTANCES.to_owned(), SECRETS.to_owned()];
        // the control plane's word is not taken for it
        let list = v1::ListResources { types, search: true, ..Default::default() };
        let what = Some(Asked::ListResources(list));
        let request = v1::OperationRequest { connection: "g".into(), what, ..Default::default() };
        let asked = asked(&request, &settings).expect("known");
        match decide(&request, asked, &settings).map_err(|denied| denied.failure.message)?.narrowed {
            Some(Asked::ListResources(list)) => Ok(list),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_search_finds_no_type_that_is_denied_and_is_made_only_where_it_is_allowed() {
        let rule = |methods: &str| format!("[[gcp.rule]]\nname = \"r\"\neffect = \"allow\"\nmethods = [{methods}]\n");
        let both = listed(&rule(r#""compute.instances.list", "secretmanager.secrets.list", "cloudasset.*""#))
            .expect("allowed");
        assert!(both.search && both.types == [INSTANCES, SECRETS] && both.refused.is_empty(), "{both:?}");
        let one = listed(&rule(r#""compute.*", "cloudasset.assets.searchAllResources""#)).expect("allowed");
        assert!(one.search && one.types == [INSTANCES] && one.refused[0].type_name == SECRETS, "{one:?}");
        let plain = listed(&rule(r#""compute.*", "secretmanager.*""#)).expect("allowed");
        assert!(!plain.search && plain.types.len() == 2, "{plain:?}");
        // to search is no way round
        assert!(listed(&rule(r#""cloudasset.*""#)).is_err());
    }
}
