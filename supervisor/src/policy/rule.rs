//! One rule, and whether it matches a request.
//!
//! A request does not always say all that a rule asks for: a list across namespaces names none, a create has its name in the body, exec
//! may leave the container to the server. So a matcher has three answers. An allow rule takes only [`Match::Yes`]; a deny rule takes
//! [`Match::May`] too, for what is denied must not be had by asking for more at once or by saying less.

use super::decision::{Effect, Secrets};
use super::kubernetes::{Attributes, Namespace, WayIn};
use super::limits::Limit;
use super::request::{CloudCall, JobCall, JobSource, Request, Section, What};
use super::window::Window;
use shared_proto::glob::Glob;
use std::sync::Arc;
use std::time::SystemTime;

/// How a matcher and a request stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    Yes,
    /// It covers what is meant, or it is not known whether it is what is meant.
    May,
    No,
}

/// A rule of one section.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) name: Arc<str>,
    pub(super) effect: Effect,
    /// Its keys as the file has them, in the file's words.
    pub(super) keys: Vec<(&'static str, Vec<String>)>,
    pub(super) people: Patterns,
    pub(super) groups: Patterns,
    pub(super) connections: Patterns,
    pub(super) window: Option<Window>,
    pub(super) matcher: Matcher,
    pub(super) secrets: Option<Secrets>,
    /// Of Kubernetes: whether terminals that it lets open are recorded.
    pub(super) record: bool,
    /// Of jobs: whether updates that reconcile and that it allows are applied without asking.
    pub(super) reconcile: bool,
    pub(super) limit: Option<Limit>,
}

/// A key of a rule that was not met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unmet {
    pub(super) key: &'static str,
    /// It may be meant, which is not enough to allow.
    pub(super) may: bool,
}

/// A list of patterns; none: anything.
#[derive(Debug, Clone, Default)]
pub(super) struct Patterns(pub(super) Option<Vec<Glob>>);

/// What a rule asks of a request beside who and when.
#[derive(Debug, Clone)]
pub(super) enum Matcher {
    Kubernetes(KubernetesMatcher),
    Cloud(CloudMatcher),
    Jobs(JobsMatcher),
    ConnectionTests { providers: Patterns },
}
#[derive(Debug, Clone, Default)]
pub(super) struct KubernetesMatcher {
    pub(super) verbs: Patterns,
    pub(super) resources: Option<Vec<ResourcePattern>>,
    pub(super) namespaces: Patterns,
    pub(super) names: Patterns,
    pub(super) containers: Patterns,
    pub(super) paths: Patterns,
    pub(super) read_only: bool,
}
/// Its patterns are in lower case: clouds do not tell cases apart.
#[derive(Debug, Clone, Default)]
pub(super) struct CloudMatcher {
    pub(super) services: Patterns,
    pub(super) operations: Patterns,
    pub(super) regions: Patterns,
    pub(super) read_only: bool,
}
#[derive(Debug, Clone, Default)]
pub(super) struct JobsMatcher {
    pub(super) kinds: Patterns,
    pub(super) engines: Patterns,
    pub(super) stacks: Patterns,
    pub(super) source_hosts: Patterns,
    pub(super) secret_stores: Patterns,
}

/// `RESOURCE[.GROUP][/SUBRESOURCE]`.
#[derive(Debug, Clone)]
pub(super) struct ResourcePattern {
    /// `*` alone: every resource with every subresource.
    all: bool,
    resource: Glob,
    /// `None`: of any group.
    group: Option<Group>,
    /// `None`: the resource itself.
    subresource: Option<Glob>,
}
#[derive(Debug, Clone)]
enum Group {
    Core,
    Named(Glob),
}

// === impl Patterns ===

impl Patterns {
    pub(super) fn is_given(&self) -> bool {
        self.0.is_some()
    }
    pub(super) fn globs(&self) -> &[Glob] {
        self.0.as_deref().unwrap_or_default()
    }
    pub(super) fn matches(&self, text: &str) -> bool {
        self.globs().iter().any(|glob| glob.matches(text))
    }
    /// Whether one of them is `*`, which is met by what is not said too.
    fn takes_all(&self) -> bool {
        self.globs().iter().any(Glob::is_all)
    }
    /// `None`: it is not known, or not said.
    fn check(&self, value: Option<&str>) -> Match {
        match value {
            _ if !self.is_given() => Match::Yes,
            Some(value) => Match::when(self.matches(value)),
            None => self.of_any(),
        }
    }
    /// Of several, of which some may match; `none`: where there are none.
    fn check_all(&self, names: &[String], none: Match) -> Match {
        let matching = names.iter().filter(|name| self.matches(name)).count();
        match (names.len(), matching) {
            _ if !self.is_given() => Match::Yes,
            (0, _) => none,
            (all, matching) if all == matching => Match::Yes,
            (_, 0) => Match::No,
            _ => Match::May,
        }
    }
    /// Of all at once, or any of them.
    fn of_any(&self) -> Match {
        if self.takes_all() { Match::Yes } else { Match::May }
    }
}

/// Of a job that uses none of what is listed: it keeps to any list, and uses none that is denied.
fn of_none(effect: Effect) -> Match {
    Match::when(effect == Effect::Allow)
}

// === impl Match ===

impl Match {
    fn when(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
    fn is_enough(self, effect: Effect) -> bool {
        self == Self::Yes || (self == Self::May && effect == Effect::Deny)
    }
}

// === impl Rule ===

impl Rule {
    /// The first key that the request does not meet; `None`: the rule matches.
    pub(super) fn look(&self, request: &Request, now: SystemTime) -> Option<Unmet> {
        let who = [
            ("people", self.people.check(request.person.as_deref().filter(|person| !person.is_empty()))),
            ("groups", self.of_groups(request.groups.as_deref())),
            ("connections", self.of_connections(request)),
        ];
        let when = self.window.as_ref().map_or(Match::Yes, |window| Match::when(window.holds(now)));
        let time = if self.keys.iter().any(|(key, _)| *key == "hours") { "hours" } else { "days" };
        who.into_iter()
            .chain(self.matcher.checks(&request.what, self.effect))
            .chain([(time, when)])
            .find(|(_, found)| !found.is_enough(self.effect))
            .map(|(key, found)| Unmet { key, may: found == Match::May })
    }

    /// A key as the file has it.
    pub(super) fn written(&self, key: &str) -> String {
        match self.keys.iter().find(|(name, _)| *name == key) {
            Some((_, values)) => format!("[{}]", values.join(", ")),
            None => "(not said)".to_owned(),
        }
    }

    fn of_groups(&self, groups: Option<&[String]>) -> Match {
        match groups {
            _ if !self.groups.is_given() => Match::Yes,
            Some(groups) => Match::when(groups.iter().any(|group| self.groups.matches(group))),
            None => Match::May,
        }
    }

    fn of_connections(&self, request: &Request) -> Match {
        let none = if request.section() == Section::Jobs { of_none(self.effect) } else { Match::May };
        self.connections.check_all(&request.connections, none)
    }
}

// === impl Matcher ===

impl Matcher {
    fn checks(&self, what: &What, effect: Effect) -> Vec<(&'static str, Match)> {
        match (self, what) {
            (Self::Kubernetes(it), What::Kubernetes(asked)) => it.checks(asked),
            (Self::Cloud(it), What::Aws(call)) => it.checks(Section::Aws, call),
            (Self::Cloud(it), What::Gcp(call)) => it.checks(Section::Gcp, call),
            (Self::Cloud(it), What::Azure(call)) => it.checks(Section::Azure, call),
            (Self::Jobs(it), What::Job(job)) => it.checks(job, effect),
            (Self::ConnectionTests { providers }, What::ConnectionTest { provider }) => {
                vec![("providers", providers.check(Some(provider)))]
            }
            // a section's rules are asked of its own requests only
            _ => vec![("section", Match::No)],
        }
    }
}

// === impl KubernetesMatcher ===

impl KubernetesMatcher {
    fn checks(&self, asked: &Attributes) -> Vec<(&'static str, Match)> {
        vec![
            ("verbs", self.of_verb(asked)),
            ("read_only", Match::when(!self.read_only || asked.is_read())),
            (
                "paths",
                if asked.is_resource {
                    Match::when(!self.paths.is_given())
                } else {
                    self.paths.check(Some(&asked.path))
                },
            ),
            ("resources", self.of_resource(asked)),
            ("namespaces", self.of_namespace(asked)),
            ("names", self.of_name(asked)),
            ("containers", self.of_container(asked)),
        ]
    }

    fn of_verb(&self, asked: &Attributes) -> Match {
        match self.verbs.check(Some(&asked.verb)) {
            // whoever denies `get` of pods/exec means the shell that a GET opens
            Match::No if self.verbs.matches(&asked.server_verb) => Match::May,
            found => found,
        }
    }

    fn of_resource(&self, asked: &Attributes) -> Match {
        let Some(patterns) = &self.resources else { return Match::Yes };
        let with = |subresource: &str| asked.is_resource && patterns.iter().any(|p| p.matches(asked, subresource));
        if with(asked.ruled_subresource()) {
            Match::Yes
        } else if with(&asked.subresource) {
            // by the old prefix, a service is reached that the rule names without /proxy
            Match::May
        } else {
            Match::No
        }
    }

    fn of_namespace(&self, asked: &Attributes) -> Match {
        match &asked.namespace {
            _ if !self.namespaces.is_given() => Match::Yes,
            Namespace::Named(name) if !name.is_empty() => self.namespaces.check(Some(name)),
            Namespace::Named(_) | Namespace::All | Namespace::Unknown => self.namespaces.of_any(),
            Namespace::None => Match::No,
        }
    }

    fn of_name(&self, asked: &Attributes) -> Match {
        match asked.name.as_str() {
            _ if !self.names.is_given() => Match::Yes,
            _ if !asked.is_resource => Match::No,
            "" => self.names.of_any(),
            name if self.names.matches(name) => Match::Yes,
            // `web:8080` and `https:web:` reach `web`
            _ => asked.bare_name().filter(|name| self.names.matches(name)).map_or(Match::No, |_| Match::May),
        }
    }

    fn of_container(&self, asked: &Attributes) -> Match {
        match (asked.subresource.as_str(), asked.way_in()) {
            _ if !self.containers.is_given() => Match::Yes,
            _ if !asked.is_resource => Match::No,
            ("exec" | "attach" | "log", _) => {
                self.containers.check(asked.container.as_deref().filter(|c| !c.is_empty()))
            }
            // all of a pod's containers share its ports, and the kubelet serves every one
            (_, Some(WayIn::PortForward | WayIn::Proxy | WayIn::Debug | WayIn::Console)) => Match::May,
            _ => Match::No,
        }
    }
}

// === impl CloudMatcher ===

impl CloudMatcher {
    fn checks(&self, section: Section, call: &CloudCall) -> Vec<(&'static str, Match)> {
        let lower = |text: Option<&str>| text.map(str::to_ascii_lowercase);
        let name = lower(call.name(section).as_deref());
        let operations = if section == Section::Aws { "actions" } else { "methods" };
        vec![
            ("services", self.services.check(lower(Some(&call.service)).as_deref())),
            (operations, self.operations.check(name.as_deref())),
            ("regions", self.regions.check(lower(call.region.as_deref()).as_deref())),
            ("read_only", Match::when(!self.read_only || (call.read_only && call.operation.is_some()))),
        ]
    }
}

// === impl JobsMatcher ===

impl JobsMatcher {
    fn checks(&self, job: &JobCall, effect: Effect) -> Vec<(&'static str, Match)> {
        vec![
            ("kinds", self.kinds.check(Some(&job.kind))),
            ("engines", self.engines.check(Some(&job.engine))),
            ("stacks", self.stacks.check(Some(&job.stack))),
            ("source_hosts", self.of_source(&job.source)),
            ("secret_stores", self.secret_stores.check_all(&job.secret_stores, of_none(effect))),
        ]
    }

    fn of_source(&self, source: &JobSource) -> Match {
        let hosts = &self.source_hosts;
        match source {
            _ if !hosts.is_given() => Match::Yes,
            // whoever could not tell the host from the address does not know it
            JobSource::Host(host) if host.is_empty() => Match::May,
            JobSource::Host(host) => {
                let host = host.to_ascii_lowercase();
                let host = host.trim_end_matches('.');
                Match::when(hosts.globs().iter().any(|glob| !glob.as_str().starts_with('@') && glob.matches(host)))
            }
            // `*` is every host, and these are none
            JobSource::Upload | JobSource::File => {
                Match::when(hosts.globs().iter().any(|glob| glob.as_str() == source.as_str()))
            }
        }
    }
}

// === impl ResourcePattern ===

impl ResourcePattern {
    /// `RESOURCE[.GROUP][/SUBRESOURCE]`, each with `*`; `RESOURCE.` is of the core group.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let whole = Glob::parse(text)?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.*/_".contains(c);
        if !text.chars().all(plain) {
            return Err(format!("{text:?} has a character that no resource has: they are of a-z, 0-9, `-` and `.`"));
        }
        let wrong = |_| format!("{text:?} is no resource: write it like pods, pods/log, deployments.apps or */status");
        let (resource, subresource) = text.split_once('/').map_or((text, None), |(r, s)| (r, Some(s)));
        if subresource.is_some_and(|s| s.contains(['/', '.'])) {
            return Err(wrong(String::new()));
        }
        let (resource, group) = resource.split_once('.').map_or((resource, None), |(r, g)| (r, Some(g)));
        Ok(Self {
            all: whole.is_all(),
            resource: Glob::parse(resource).map_err(wrong)?,
            group: match group {
                None => None,
                Some("") => Some(Group::Core),
                Some(group) => Some(Group::Named(Glob::parse(group).map_err(wrong)?)),
            },
            subresource: subresource.map(Glob::parse).transpose().map_err(wrong)?,
        })
    }

    /// The ways in that it can only name, if it can name nothing else.
    pub(super) fn only_way_in(&self) -> Option<&str> {
        self.subresource.as_ref().map(Glob::as_str).filter(|s| {
            matches!(*s, "exec" | "attach" | "portforward" | "proxy" | "console" | "vnc" | "usbredir" | "vsock")
        })
    }

    fn matches(&self, asked: &Attributes, subresource: &str) -> bool {
        let group = || match &self.group {
            None => true,
            Some(Group::Core) => asked.group.is_empty(),
            Some(Group::Named(glob)) => !asked.group.is_empty() && glob.matches(&asked.group),
        };
        let part = || match &self.subresource {
            None => subresource.is_empty(),
            Some(glob) => !subresource.is_empty() && glob.matches(subresource),
        };
        self.all || (self.resource.matches(&asked.resource) && group() && part())
    }
}
