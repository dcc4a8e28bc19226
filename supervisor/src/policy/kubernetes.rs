//! What the Kubernetes API server decides a request by, from its method and its target alone.
//!
//! It is the server's own reading (`k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`, v1.36), step by step, and three things
//! beside it, all of them stricter:
//! - What could be read in two ways is refused with a [`TargetError`] and not cleaned.
//! - A request that runs something in a container, or opens a way into one, is `create` whatever its method. WebSocket clients ask for
//!   exec, attach and port-forward by GET (kubectl since 1.30), so the server of before 1.35 takes them for `get`, and a role that was
//!   meant to read opens a shell (kubernetes/kubernetes 78741, 133515). The server's own word stays in [`Attributes::server_verb`], so
//!   that a rule which denies `get` of them is not passed by either.
//! - A proxied request keeps its verb, which is of what is proxied, and is marked: [`Attributes::way_in`]. By GET through `nodes/proxy`
//!   the kubelet runs commands too (kubernetes/kubernetes 136550).
//!
//! Headers are not looked at. Whoever sends the request on must drop those that change who asks (`Impersonate-*`) or how it is read
//! (`X-HTTP-Method-Override`).

use super::selector::required_name;
use super::target::{Segment, Target, TargetError, shortened};

/// The namespace that a request reaches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Namespace {
    /// None: a request for something of the whole cluster, or for nothing of the API.
    #[default]
    None,
    /// That one. A request for the namespace itself too, as the server has it.
    Named(String),
    /// Every one: a collection across namespaces.
    All,
    /// The connection's own default, which the runner does not know when it decides.
    Unknown,
}

/// A way past the API, into a container or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayIn {
    /// A command in a container; `kubectl cp` is one too.
    Exec,
    /// The input and output of a container's own process.
    Attach,
    /// A container that is put into a running pod, with a command.
    Debug,
    /// A pod's ports.
    PortForward,
    /// HTTP to a pod, a service or a node's kubelet.
    Proxy,
    /// A console of a machine that some extension of the API runs.
    Console,
}

/// What a request is decided by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Whether it is for a resource of the API; else it is for a path.
    pub is_resource: bool,
    /// The decoded path.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; `proxy` of the old prefix; empty for OPTIONS on
    /// a resource. For a path the method in lower case.
    pub verb: String,
    /// The verb that the API server takes it for. Differs for exec and the like by GET, PUT and so on.
    pub server_verb: String,
    /// The API group; empty for the core one.
    pub group: String,
    /// The version of the group.
    pub version: String,
    /// The resource, such as `pods`.
    pub resource: String,
    /// The subresource, such as `log`; empty: none.
    pub subresource: String,
    /// What stands behind the subresource, of a proxied request its path.
    pub further: Vec<String>,
    /// The namespace.
    pub namespace: Namespace,
    /// The object's name: from the path, or for `list` and `watch` the one that the field selector requires. Empty: none is said there.
    pub name: String,
    /// Of exec, attach and log: the container; `None` leaves it to the server.
    pub container: Option<String>,
    /// Whether the query says `dryRun=All`. Nothing is allowed for that: the body of a DELETE overrides it.
    pub dry_run: bool,
    /// Of log: whether it is followed.
    pub follow: bool,
    /// Of exec: the command's words.
    pub command: Vec<String>,
}

/// What has no namespace, as group and resource: a list of one of these crosses none. What is not here might have one.
const OF_THE_CLUSTER: &[(&str, &str)] = &[
    ("", "namespaces"),
    ("", "nodes"),
    ("", "persistentvolumes"),
    ("", "componentstatuses"),
    ("admissionregistration.k8s.io", "*"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("authentication.k8s.io", "*"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("flowcontrol.apiserver.k8s.io", "*"),
    ("metrics.k8s.io", "nodes"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "ipaddresses"),
    ("networking.k8s.io", "servicecidrs"),
    ("node.k8s.io", "runtimeclasses"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceslices"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

// === impl Namespace ===

impl Namespace {
    /// The name, empty where there is none.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::None | Self::All | Self::Unknown => "",
        }
    }
}

// === impl WayIn ===

impl WayIn {
    /// Its name in sentences.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::Debug => "a debug container",
            Self::PortForward => "port-forward",
            Self::Proxy => "proxy",
            Self::Console => "a console",
        }
    }
}

// === impl Attributes ===

impl Attributes {
    /// From the method and the target (path and query) exactly as they came.
    ///
    /// # Errors
    /// Why it is no request that can be decided: refuse it, as invalid and not as denied.
    pub fn parse(method: &str, target: &[u8]) -> Result<Self, TargetError> {
        let verb = match method {
            "GET" | "HEAD" => "get",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            "OPTIONS" => "",
            other => return Err(TargetError::Method(shortened(other))),
        };
        let target = Target::parse(target)?;
        let mut it = Self { path: target.path(), verb: verb.to_owned(), ..Self::default() };
        let segments = target.segments.as_slice();
        let parts = match resource_part(segments) {
            Some((prefix, parts)) => {
                it.group = prefix.group.to_owned();
                it.version = prefix.version.to_owned();
                it.is_resource = true;
                it.read_parts(parts)?
            }
            None => {
                it.verb = method.to_ascii_lowercase();
                segments.len()
            }
        };
        let (deciding, passed) = segments.split_at(parts);
        deciding.iter().try_for_each(Segment::decides)?;
        passed.iter().try_for_each(Segment::passes)?;
        it.read_query(&target)?;
        it.settle();
        Ok(it)
    }

    /// For a typed operation, which has no target: the verb, the resource as `pods` or `pods/log` of the core group, the namespace, the
    /// name (empty: none).
    pub fn of_operation(verb: &str, resource: &str, namespace: Namespace, name: &str) -> Self {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let mut it = Self {
            is_resource: true,
            verb: verb.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            namespace,
            ..Self::default()
        };
        it.settle();
        it
    }

    /// Whether the answer may carry Secret objects, so that their values are masked unless a rule shows them. Of any verb: a write's
    /// answer is the object too, and a watch's every event.
    pub fn carries_secrets(&self) -> bool {
        self.is_resource && self.group.is_empty() && self.resource == "secrets"
    }

    /// Whether it opens a way past the API, and which.
    pub fn way_in(&self) -> Option<WayIn> {
        if !self.is_resource {
            return None;
        }
        match self.subresource.as_str() {
            _ if self.server_verb == "proxy" => Some(WayIn::Proxy),
            "exec" => Some(WayIn::Exec),
            "attach" => Some(WayIn::Attach),
            "portforward" => Some(WayIn::PortForward),
            "proxy" => Some(WayIn::Proxy),
            "ephemeralcontainers" if self.verb != "get" => Some(WayIn::Debug),
            // KubeVirt's, and whoever's are named so
            "console" | "vnc" | "usbredir" | "vsock" => Some(WayIn::Console),
            _ => None,
        }
    }

    /// Whether somebody can have a terminal by it, or what is as good as one: by GET through a node's proxy the kubelet runs commands too.
    pub fn opens_terminal(&self) -> bool {
        match self.way_in() {
            Some(WayIn::Exec | WayIn::Attach | WayIn::Console) => true,
            Some(WayIn::Proxy) => self.resource == "nodes",
            Some(WayIn::PortForward | WayIn::Debug) | None => false,
        }
    }

    /// Whether it only reads, and past the API neither.
    pub fn is_read(&self) -> bool {
        let verbs: &[&str] = if self.is_resource { &["get", "list", "watch"] } else { &["get", "head"] };
        verbs.contains(&self.verb.as_str()) && self.way_in().is_none()
    }

    /// Whether it is a watch.
    pub fn is_watch(&self) -> bool {
        self.is_resource && self.verb == "watch"
    }

    /// Resource and group as a rule writes them, with the subresource: `pods/log`, `deployments.apps/scale`.
    pub fn resource_name(&self) -> String {
        let dot = if self.group.is_empty() { "" } else { "." };
        let slash = if self.subresource.is_empty() { "" } else { "/" };
        format!("{}{dot}{}{slash}{}", self.resource, self.group, self.subresource)
    }

    /// The subresource that a rule names; the old prefix is one for it.
    pub(super) fn ruled_subresource(&self) -> &str {
        if self.server_verb == "proxy" { "proxy" } else { &self.subresource }
    }

    /// A proxied object's name without scheme and port: `web` of `http:web:8080`.
    pub(super) fn bare_name(&self) -> Option<&str> {
        if self.way_in() != Some(WayIn::Proxy) {
            return None;
        }
        let mut parts = self.name.split(':');
        match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            (name, Some(_), None, None) | (_, Some(name), Some(_), None) => Some(name),
            _ => None,
        }
    }

    /// Reads `[watch|proxy] [namespaces/NAMESPACE] resource/name/subresource/…`; how many segments of the whole path decide.
    fn read_parts(&mut self, parts: &[Segment<'_>]) -> Result<usize, TargetError> {
        let before = if self.group.is_empty() { 2 } else { 3 };
        let mut rest = parts;
        if let [first, behind @ ..] = rest
            && matches!(&*first.decoded, "proxy" | "watch")
        {
            if behind.is_empty() {
                return Err(TargetError::NoKind(first.decoded.to_string()));
            }
            self.verb = first.decoded.to_string();
            rest = behind;
        }
        if let [first, namespace, behind @ ..] = rest
            && first.decoded == "namespaces"
        {
            self.namespace = Namespace::Named(namespace.decoded.to_string());
            // a namespace's own subresources are told from resources in it by their names alone
            if behind.first().is_some_and(|next| !matches!(&*next.decoded, "status" | "finalize")) {
                rest = behind;
            }
        }
        let skipped = before + parts.len() - rest.len();
        let part = |at: usize| rest.get(at).map(|segment| segment.decoded.to_string()).unwrap_or_default();
        (self.resource, self.name) = (part(0), part(1));
        // the old prefix takes no subresources: what stands there is the proxied path already
        let own = if self.verb == "proxy" { 2 } else { 3 };
        if own == 3 {
            self.subresource = part(2);
        }
        self.further = rest.iter().skip(own).map(|segment| segment.decoded.to_string()).collect();
        let proxied = own == 2 || self.subresource == "proxy";
        Ok(skipped + if proxied { rest.len().min(own) } else { rest.len() })
    }

    fn read_query(&mut self, target: &Target<'_>) -> Result<(), TargetError> {
        let proxied = self.is_resource && (self.verb == "proxy" || self.subresource == "proxy");
        let parameters = target.parameters(|key| proxied || key == "command")?;
        if !self.is_resource || proxied {
            // of a proxied request the query belongs to what is proxied
            return Ok(());
        }
        let once = |name: &'static str| {
            let mut found = parameters.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
            match (found.next(), found.next()) {
                (_, Some(_)) => Err(TargetError::Repeated(name)),
                (value, None) => Ok(value),
            }
        };
        let odd =
            |parameter, value: &str, wanted| Err(TargetError::Value { parameter, value: shortened(value), wanted });
        let (watch, container, selector) = (once("watch")?, once("container")?, once("fieldSelector")?);
        let (dry_run, follow, namespace) = (once("dryRun")?, once("follow")?, once("namespace")?);
        // `watch` alone is true: the server takes anything for true that is neither 0 nor false
        let is_true = |value: Option<&str>| value.is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"));
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if is_true(watch) { "watch" } else { "list" }.to_owned();
            // Where another parameter is wrong, a label selector or a limit, the server goes on without the name. It answers 400 then.
            match required_name(selector.unwrap_or_default()) {
                Ok(name) => self.name = name.unwrap_or_default(),
                Err(wanted) => return odd("fieldSelector", selector.unwrap_or_default(), wanted),
            }
        }
        if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection".to_owned();
        }
        if let Some(value) = dry_run {
            if value != "All" {
                return odd("dryRun", value, "All is its only value");
            }
            self.dry_run = true;
        }
        // the first versions of the API had the namespace in the query
        if let Some(value) = namespace
            && value != self.namespace.as_str()
        {
            return odd("namespace", value, "the namespace is named in the path");
        }
        if matches!(self.subresource.as_str(), "exec" | "attach" | "log") {
            self.container = container.filter(|c| !c.is_empty()).map(str::to_owned);
        }
        self.follow = self.subresource == "log" && is_true(follow);
        if self.subresource == "exec" {
            self.command = parameters.into_iter().filter(|(key, _)| key == "command").map(|(_, word)| word).collect();
        }
        Ok(())
    }

    /// What follows from the rest.
    fn settle(&mut self) {
        self.server_verb = self.verb.clone();
        if matches!(self.way_in(), Some(WayIn::Exec | WayIn::Attach | WayIn::PortForward | WayIn::Console)) {
            self.verb = "create".to_owned();
        }
        let collection = matches!(self.verb.as_str(), "list" | "watch" | "deletecollection");
        let of_cluster = || {
            let same = |(group, resource): &(&str, &str)| {
                *group == self.group && (*resource == "*" || *resource == self.resource)
            };
            OF_THE_CLUSTER.iter().any(same)
        };
        if self.is_resource && self.namespace == Namespace::None && collection && !of_cluster() {
            self.namespace = Namespace::All;
        }
    }
}

struct Prefix<'a> {
    group: &'a str,
    version: &'a str,
}

/// `/api/VERSION/…` and `/apis/GROUP/VERSION/…`, if anything stands behind them.
fn resource_part<'a>(segments: &'a [Segment<'_>]) -> Option<(Prefix<'a>, &'a [Segment<'a>])> {
    match segments {
        [api, version, rest @ ..] if api.decoded == "api" && !rest.is_empty() => {
            Some((Prefix { group: "", version: &version.decoded }, rest))
        }
        [apis, group, version, rest @ ..] if apis.decoded == "apis" && !rest.is_empty() => {
            Some((Prefix { group: &group.decoded, version: &version.decoded }, rest))
        }
        _ => None,
    }
}
