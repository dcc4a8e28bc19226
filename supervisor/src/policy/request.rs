//! What is asked of the runner, as the rules see it.

use super::kubernetes::{Attributes, Namespace};
use serde::Serialize;
use std::fmt;

/// The most of a text from outside that a sentence repeats, characters.
const SHOWN_MAX: usize = 128;

/// One kind of work, which has a section of its own in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// Requests to a Kubernetes API.
    Kubernetes,
    /// Operations of AWS.
    Aws,
    /// Operations of Google Cloud.
    Gcp,
    /// Operations of Azure.
    Azure,
    /// Jobs.
    Jobs,
    /// Tests of a connection.
    ConnectionTests,
}

/// One request: who asks, for which connections, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The user's name, as the control plane says it; `None` or empty: it says none.
    pub person: Option<String>,
    /// The user's groups, as the control plane says them; `None`: it says nothing of groups.
    pub groups: Option<Vec<String>>,
    /// The entries of the configuration that it uses: one for an operation, any number for a job.
    pub connections: Vec<String>,
    /// What is asked.
    pub what: What,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A request to a Kubernetes API.
    Kubernetes(Box<Attributes>),
    /// An operation of AWS.
    Aws(CloudCall),
    /// An operation of Google Cloud.
    Gcp(CloudCall),
    /// An operation of Azure.
    Azure(CloudCall),
    /// A job.
    Job(JobCall),
    /// A test of a connection of that provider.
    ConnectionTest {
        /// `kubernetes`, `aws`, `gcp` or `azure`.
        provider: String,
    },
}

/// One operation of a cloud.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CloudCall {
    /// The service: `s3`, `compute`, `Microsoft.Compute`.
    pub service: String,
    /// The operation in the service: AWS `GetObject`, Google `instances.list`, Azure `virtualMachines/read`. `None`: the runner cannot
    /// tell which it is.
    pub operation: Option<String>,
    /// The region; `None`: the service has none, or the runner cannot tell.
    pub region: Option<String>,
    /// Whether it only reads. For AWS see [`reads`].
    pub read_only: bool,
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobCall {
    /// `preview`, `update`, `refresh`, `destroy` or `outputs`.
    pub kind: String,
    /// `opentofu`, `terraform` or `pulumi`.
    pub engine: String,
    /// The stack's name.
    pub stack: String,
    /// Where its code comes from.
    pub source: JobSource,
    /// The stores of secrets that its variables refer to.
    pub secret_stores: Vec<String>,
}

/// Where a job's code comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobSource {
    /// From that host, by name or address, without a port.
    Host(String),
    /// An archive that was uploaded to the control plane.
    Upload,
    /// A folder or a repository on the runner's own disk.
    File,
}

// === impl Section ===

impl Section {
    /// Every section, in the order of the documentation.
    pub const ALL: [Self; 6] = [Self::Kubernetes, Self::Aws, Self::Gcp, Self::Azure, Self::Jobs, Self::ConnectionTests];

    /// Its name in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Aws => "aws",
            Self::Gcp => "gcp",
            Self::Azure => "azure",
            Self::Jobs => "jobs",
            Self::ConnectionTests => "connection_tests",
        }
    }
}
impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Request ===

impl Request {
    /// The section that decides it.
    pub const fn section(&self) -> Section {
        match self.what {
            What::Kubernetes(_) => Section::Kubernetes,
            What::Aws(_) => Section::Aws,
            What::Gcp(_) => Section::Gcp,
            What::Azure(_) => Section::Azure,
            What::Job(_) => Section::Jobs,
            What::ConnectionTest { .. } => Section::ConnectionTests,
        }
    }

    /// Whether somebody can have a terminal by it.
    pub fn opens_terminal(&self) -> bool {
        matches!(&self.what, What::Kubernetes(it) if it.opens_terminal())
    }

    /// What is asked, in a few words; what comes from outside is shortened, and has no control character.
    pub fn shown(&self) -> String {
        match &self.what {
            What::Kubernetes(it) if it.is_resource => {
                let mut text =
                    format!("{} {}", if it.verb.is_empty() { "OPTIONS" } else { &it.verb }, it.resource_name());
                if !it.name.is_empty() {
                    text.push_str(&format!(" {:?}", it.name));
                }
                match &it.namespace {
                    Namespace::Named(name) => text.push_str(&format!(" in namespace {name:?}")),
                    Namespace::All => text.push_str(" in every namespace"),
                    Namespace::Unknown => text.push_str(" in the connection's own namespace"),
                    Namespace::None => {}
                }
                tame(&text, 4 * SHOWN_MAX)
            }
            What::Kubernetes(it) => tame(&format!("{} {}", it.verb, it.path), SHOWN_MAX),
            What::Aws(call) => tame(&call.shown(Section::Aws), SHOWN_MAX),
            What::Gcp(call) => tame(&call.shown(Section::Gcp), SHOWN_MAX),
            What::Azure(call) => tame(&call.shown(Section::Azure), SHOWN_MAX),
            What::Job(job) => {
                let mut text = format!("{} of stack {:?} with {}", job.kind, job.stack, job.engine);
                match &job.source {
                    JobSource::Host(host) => text.push_str(&format!(" from {host:?}")),
                    JobSource::Upload => text.push_str(" from an upload (@upload)"),
                    JobSource::File => text.push_str(" from the runner's own disk (@file)"),
                }
                if !job.secret_stores.is_empty() {
                    text.push_str(&format!(", with secrets of {}", job.secret_stores.join(", ")));
                }
                tame(&text, 4 * SHOWN_MAX)
            }
            What::ConnectionTest { provider } => tame(&format!("a test of a {provider} connection"), SHOWN_MAX),
        }
    }

    /// What is asked, by the keys of the rules; for [`super::Decision::explain`].
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let unknown = || "(not known)".to_owned();
        let shown = |text: &str| tame(&format!("{text:?}"), SHOWN_MAX);
        let list = |values: &[String]| tame(&format!("{values:?}"), SHOWN_MAX);
        let mut facts = vec![
            ("people", self.person.as_deref().filter(|p| !p.is_empty()).map_or_else(unknown, shown)),
            ("groups", self.groups.as_deref().map_or_else(unknown, list)),
            ("connections", list(&self.connections)),
        ];
        match &self.what {
            What::Kubernetes(it) => {
                let namespace = match &it.namespace {
                    Namespace::Named(name) => shown(name),
                    Namespace::None => "(none)".to_owned(),
                    Namespace::All => "(every one)".to_owned(),
                    Namespace::Unknown => unknown(),
                };
                facts.extend([
                    ("verbs", shown(&it.verb)),
                    ("resources", if it.is_resource { shown(&it.resource_name()) } else { "(a path)".to_owned() }),
                    ("namespaces", namespace),
                    ("names", if it.name.is_empty() { "(none said)".to_owned() } else { shown(&it.name) }),
                    ("containers", it.container.as_deref().map_or_else(|| "(none said)".to_owned(), shown)),
                    ("paths", if it.is_resource { "(a resource)".to_owned() } else { shown(&it.path) }),
                    ("read_only", it.is_read().to_string()),
                ]);
            }
            What::Aws(call) | What::Gcp(call) | What::Azure(call) => {
                let operation = call.name(self.section()).as_deref().map_or_else(unknown, shown);
                facts.extend([
                    ("services", shown(&call.service)),
                    ("actions", operation.clone()),
                    ("methods", operation),
                    ("regions", call.region.as_deref().map_or_else(unknown, shown)),
                    ("read_only", call.read_only.to_string()),
                ]);
            }
            What::Job(job) => facts.extend([
                ("kinds", shown(&job.kind)),
                ("engines", shown(&job.engine)),
                ("stacks", shown(&job.stack)),
                ("source_hosts", shown(job.source.as_str())),
                ("secret_stores", list(&job.secret_stores)),
            ]),
            What::ConnectionTest { provider } => facts.push(("providers", shown(provider))),
        }
        facts
    }
}

// === impl CloudCall ===

impl CloudCall {
    /// An operation of AWS; whether it reads follows from its name.
    pub fn aws(service: &str, operation: Option<&str>, region: Option<&str>) -> Self {
        Self {
            service: service.to_owned(),
            operation: operation.map(str::to_owned),
            region: region.map(str::to_owned),
            read_only: operation.is_some_and(reads),
        }
    }

    /// An operation of another cloud that is known to only read; `None`: one that is not known.
    pub fn reading(service: &str, operation: Option<&str>) -> Self {
        let read_only = operation.is_some();
        Self { service: service.to_owned(), operation: operation.map(str::to_owned), region: None, read_only }
    }

    /// Service and operation as a rule writes them.
    pub(super) fn name(&self, section: Section) -> Option<String> {
        let between = match section {
            Section::Aws => ':',
            Section::Azure => '/',
            _ => '.',
        };
        self.operation.as_ref().map(|operation| format!("{}{between}{operation}", self.service))
    }

    fn shown(&self, section: Section) -> String {
        let name = self.name(section).unwrap_or_else(|| format!("an unknown operation of {}", self.service));
        self.region.as_ref().map_or(name.clone(), |region| format!("{name} in {region}"))
    }
}

// === impl JobSource ===

impl JobSource {
    /// As a rule writes it. No host is called like the two that are none.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Host(host) => host,
            Self::Upload => "@upload",
            Self::File => "@file",
        }
    }
}

/// Whether an AWS operation of that name only reads, and gives no credentials away. By the verbs that AWS itself names reads with; an
/// operation that reads under another name counts as a write, which errs on the right side.
pub fn reads(operation: &str) -> bool {
    const VERBS: &[&str] =
        &["Get", "List", "Describe", "BatchGet", "BatchDescribe", "Head", "Lookup", "Search", "Filter"];
    // what is got there is a key to something
    const KEYS: &[&str] = &["Token", "Credential", "PasswordData", "SecretValue", "AccessDetails", "AuthorizationCode"];
    let by_verb = VERBS.iter().any(|verb| {
        operation.strip_prefix(verb).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
    });
    by_verb && !KEYS.iter().any(|key| operation.contains(key))
}

/// A text from outside as it may stand in a sentence.
pub(super) fn tame(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_in_aws() {
        for (service, operation, expected) in [
            ("s3", "GetObject", true),
            ("s3", "HeadBucket", true),
            ("ec2", "DescribeInstances", true),
            ("dynamodb", "BatchGetItem", true),
            ("sts", "GetCallerIdentity", true),
            ("logs", "FilterLogEvents", true),
            ("ec2", "Describe", false),
            ("ec2", "Getaway", false),
            ("s3", "PutObject", false),
            ("s3", "getObject", false),
            ("sts", "GetSessionToken", false),
            ("sts", "GetFederationToken", false),
            ("ecr", "GetAuthorizationToken", false),
            ("secretsmanager", "GetSecretValue", false),
            ("secretsmanager", "BatchGetSecretValue", false),
            ("redshift", "GetClusterCredentialsWithIAM", false),
            ("ec2", "GetPasswordData", false),
            ("sso", "GetRoleCredentials", false),
            ("lambda", "Invoke", false),
        ] {
            assert_eq!(reads(operation), expected, "{service}:{operation}");
        }
    }

    #[test]
    fn a_job_is_shown_with_its_source_and_stores() {
        let shown = |source: JobSource, stores: &[&str]| {
            let secret_stores = stores.iter().map(|store| (*store).to_owned()).collect();
            let (kind, engine, stack) = ("update".to_owned(), "opentofu".to_owned(), "shop".to_owned());
            let what = What::Job(JobCall { kind, engine, stack, source, secret_stores });
            Request { person: None, groups: None, connections: vec![], what }.shown()
        };
        let git = shown(JobSource::Host("git.example.com".to_owned()), &["vault", "files"]);
        assert_eq!(
            git,
            "update of stack \"shop\" with opentofu from \"git.example.com\", with secrets of vault, files"
        );
        assert!(shown(JobSource::Upload, &[]).ends_with("from an upload (@upload)"));
        assert!(shown(JobSource::File, &[]).ends_with("(@file)"));
    }

    #[test]
    fn what_is_shown_is_tame() {
        let attributes = Attributes { is_resource: true, name: "\u{1b}[2J".to_owned(), ..Attributes::default() };
        let what = What::Kubernetes(Box::new(attributes));
        let request = Request { person: Some("a\nb".repeat(100)), groups: None, connections: vec![], what };
        assert!(!request.shown().chars().any(char::is_control));
        assert!(request.facts().iter().all(|(_, text)| !text.chars().any(char::is_control)));
    }
}
