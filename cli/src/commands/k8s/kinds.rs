//! The kinds that a cluster knows, from its own discovery, and which of them a user means: by plural, singular, short name, kind, with or
//! without group and version, or by category.

use super::api::Api;
use crate::client::path;
use crate::commands::Session;
use crate::output::table::Widths;
use crate::stop::Done;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};

/// Discovery of all groups in one answer; Kubernetes has it since 1.26.
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                         application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
/// The kinds of a cluster that are looked at, at most: each is some hundred bytes.
const KINDS_MAX: usize = 20_000;

/// A kind of object, in the version that the API server prefers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kind {
    /// Empty for the core group.
    pub(super) group: String,
    pub(super) version: String,
    /// As it stands in paths.
    pub(super) plural: String,
    singular: String,
    /// As it stands in objects.
    pub(super) kind: String,
    pub(super) namespaced: bool,
    verbs: Vec<String>,
    short_names: Vec<String>,
    categories: Vec<String>,
    subresources: Vec<String>,
    /// The version is not the group's first: it is meant only where it is named.
    other_version: bool,
}

/// All of them, in the API server's order.
#[derive(Debug, Clone, Default)]
pub(super) struct Kinds(Vec<Kind>);

// === impl Kind ===

impl Kind {
    /// Where its objects are, or one of them, or something under that one.
    pub(super) fn path(
        &self,
        namespace: Option<&str>,
        name: Option<&str>,
        under: Option<&str>,
        query: &[(&str, &str)],
    ) -> String {
        let mut segments = if self.group.is_empty() { vec!["api"] } else { vec!["apis", &self.group] };
        segments.push(&self.version);
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            segments.extend(["namespaces", namespace]);
        }
        segments.push(&self.plural);
        segments.extend(name);
        segments.extend(under);
        path(&segments, query)
    }
    /// How it is written before a name: `pod`, `deployment.apps`.
    pub(super) fn before_name(&self) -> String {
        let kind = self.kind.to_lowercase();
        if self.group.is_empty() { kind } else { format!("{kind}.{}", self.group) }
    }
    /// As it stands in an object.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
    /// Whether the API server does that with it.
    pub(super) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
    /// Whether its objects have that below them.
    pub(super) fn has_under(&self, name: &str) -> bool {
        self.subresources.iter().any(|s| s == name)
    }
    /// Whether it is of the core group and this kind.
    pub(super) fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }
    fn is_called(&self, word: &str) -> bool {
        self.plural == word || self.singular == word || self.kind.to_lowercase() == word
    }
}

// === impl Kinds ===

impl Kinds {
    /// Asks the cluster.
    pub(super) async fn of(api: &Api) -> Result<Self, Failure> {
        let (core, groups) = tokio::try_join!(api.get("/api", DISCOVERY), api.get("/apis", DISCOVERY))?;
        let mut kinds = Self::default();
        for document in [core, groups] {
            if document["kind"] != "APIGroupDiscoveryList" {
                return Err(Code::UnsupportedVersion
                    .on("the API server does not tell all its kinds at once")
                    .next("It takes Kubernetes 1.26 or newer; `k8s pods`, `logs` and `exec` work with older ones."));
            }
            kinds.read(&document);
        }
        Ok(kinds)
    }

    fn read(&mut self, document: &Value) {
        for group in list(document, "items") {
            for (number, version) in list(group, "versions").iter().enumerate() {
                for resource in list(version, "resources") {
                    if self.0.len() < KINDS_MAX
                        && let Some(kind) = read(group, version, resource, number > 0)
                    {
                        self.0.push(kind);
                    }
                }
            }
        }
        // a resource that the first version lacks is meant in the next one that has it
        for at in 0..self.0.len() {
            let (before, rest) = self.0.split_at_mut(at);
            let one = &mut rest[0];
            if one.other_version && !before.iter().any(|k| k.group == one.group && k.plural == one.plural) {
                one.other_version = false;
            }
        }
    }

    /// The one that a word means.
    pub(super) fn one(&self, word: &str) -> Result<&Kind, Failure> {
        let word = word.to_lowercase();
        let usual = || self.0.iter().filter(|k| !k.other_version);
        if let Some(found) =
            usual().find(|k| k.is_called(&word)).or_else(|| usual().find(|k| k.short_names.contains(&word)))
        {
            return Ok(found);
        }
        // deployments.apps, deployments.v1.apps, pods.v1
        if let Some((name, rest)) = word.split_once('.') {
            let (version, group) = rest.split_once('.').unwrap_or((rest, ""));
            let named = |k: &&Kind| k.is_called(name) || k.short_names.iter().any(|s| s == name);
            let found = usual()
                .filter(named)
                .find(|k| k.group == rest)
                .or_else(|| self.0.iter().filter(named).find(|k| k.version == version && k.group == group))
                // the beginning of a group is enough, as with kubectl
                .or_else(|| usual().filter(named).find(|k| !rest.is_empty() && k.group.starts_with(rest)));
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Err(Code::TargetNotFound
            .on(format!("the cluster has no kind {word:?}"))
            .next("Run `runnerctl k8s kinds` for what there is."))
    }

    /// Those that words with commas between mean; a category means several.
    pub(super) fn several(&self, words: &str) -> Result<Vec<&Kind>, Failure> {
        let mut found: Vec<&Kind> = Vec::new();
        for word in words.split(',').filter(|w| !w.is_empty()) {
            match self.one(word) {
                Ok(kind) => found.push(kind),
                Err(failure) => {
                    let of_category = self.in_category(&word.to_lowercase());
                    if of_category.is_empty() {
                        return Err(failure);
                    }
                    found.extend(of_category);
                }
            }
        }
        if found.is_empty() {
            return Err(Code::InvalidArgument
                .on("no kind is named")
                .next("Name one, such as pods or deployments.apps."));
        }
        Ok(found)
    }

    fn in_category(&self, category: &str) -> Vec<&Kind> {
        let has = |k: &&Kind| !k.other_version && k.can("list") && k.categories.iter().any(|c| c == category);
        self.0.iter().filter(has).collect()
    }

    /// The one that an object says it is.
    pub(super) fn of_object(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.0.iter().find(|k| k.kind == kind && k.api_version() == api_version)
    }

    /// All, each once.
    pub(super) fn all(&self) -> impl Iterator<Item = &Kind> {
        self.0.iter().filter(|k| !k.other_version)
    }
}

/// `k8s kinds`
pub(super) async fn table(api: &Api, session: &Session) -> Done {
    let kinds = session.wait("asking what there is", Kinds::of(api)).await?;
    let mut items: Vec<_> = kinds.all().filter(|kind| !kind.verbs.is_empty()).collect();
    items.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
    let list = json!({ "items": items.iter().map(|kind| json!({
        "name": kind.plural, "short_names": kind.short_names, "api_version": kind.api_version(),
        "namespaced": kind.namespaced, "kind": kind.kind, "verbs": kind.verbs,
    })).collect::<Vec<_>>() });
    session.output.document(&list, |_| {
        let header = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"].map(str::to_owned).to_vec();
        let rows = items.iter().map(|kind| {
            let short_names = kind.short_names.join(",");
            vec![kind.plural.clone(), short_names, kind.api_version(), kind.namespaced.to_string(), kind.kind.clone()]
        });
        Widths::default().set(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
    })
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn words(value: &Value, name: &str) -> Vec<String> {
    list(value, name).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn read(group: &Value, version: &Value, resource: &Value, other_version: bool) -> Option<Kind> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = Kind {
        group: text(&group["metadata"]["name"]),
        version: text(&version["version"]),
        plural: text(&resource["resource"]),
        singular: text(&resource["singularResource"]),
        kind: text(&resource["responseKind"]["kind"]),
        namespaced: resource["scope"] == "Namespaced",
        verbs: words(resource, "verbs"),
        short_names: words(resource, "shortNames"),
        categories: words(resource, "categories"),
        subresources: list(resource, "subresources").iter().map(|s| text(&s["subresource"])).collect(),
        other_version,
    };
    (!kind.plural.is_empty() && !kind.version.is_empty() && !kind.kind.is_empty()).then_some(kind)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    fn resource(plural: &str, singular: &str, kind: &str, scope: &str, short: &[&str], categories: &[&str]) -> Value {
        json!({"resource": plural, "singularResource": singular, "responseKind": {"kind": kind}, "scope": scope,
            "shortNames": short, "categories": categories, "verbs": ["get", "list", "watch", "delete"],
            "subresources": [{"subresource": "status"}]})
    }

    /// Some kinds as an API server tells them.
    pub(crate) fn some() -> Kinds {
        let mut kinds = Kinds::default();
        kinds.read(&json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": [
            resource("pods", "pod", "Pod", "Namespaced", &["po"], &["all"]),
            resource("nodes", "node", "Node", "Cluster", &["no"], &[]),
            resource("events", "event", "Event", "Namespaced", &["ev"], &[]),
        ]}]}]}));
        kinds.read(&json!({"items": [
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
                resource("deployments", "deployment", "Deployment", "Namespaced", &["deploy"], &["all"])]}]},
            {"metadata": {"name": "events.k8s.io"}, "versions": [{"version": "v1", "resources": [
                resource("events", "event", "Event", "Namespaced", &["ev"], &[])]}]},
            {"metadata": {"name": "example.com"}, "versions": [
                {"version": "v2", "resources": [resource("shops", "shop", "Shop", "Namespaced", &[], &[])]},
                {"version": "v1", "resources": [resource("shops", "shop", "Shop", "Namespaced", &[], &[]),
                    resource("olds", "old", "Old", "Cluster", &[], &[])]}]},
        ]}));
        kinds
    }

    #[test]
    fn a_kind_is_found_by_each_of_its_names() {
        let kinds = some();
        let path = |word: &str| kinds.one(word).map(|k| k.path(Some("n"), Some("x"), None, &[])).map_err(|f| f.code);
        for word in ["pods", "pod", "po", "Pod", "PODS", "pods.v1", "po.v1"] {
            assert_eq!(path(word), Ok("/api/v1/namespaces/n/pods/x".into()), "{word}");
        }
        for word in ["deployments", "deploy", "deployment.apps", "deployments.v1.apps", "Deployment", "deploy.apps"] {
            assert_eq!(path(word), Ok("/apis/apps/v1/namespaces/n/deployments/x".into()), "{word}");
        }
        assert_eq!(path("nodes"), Ok("/api/v1/nodes/x".into()));
        assert_eq!(path("events"), Ok("/api/v1/namespaces/n/events/x".into()));
        assert_eq!(path("events.events.k8s.io"), Ok("/apis/events.k8s.io/v1/namespaces/n/events/x".into()));
        assert_eq!(path("shops.example"), Ok("/apis/example.com/v2/namespaces/n/shops/x".into()));
        assert_eq!(path("shops.v1.example.com"), Ok("/apis/example.com/v1/namespaces/n/shops/x".into()));
        assert_eq!(path("olds"), Ok("/apis/example.com/v1/olds/x".into()));
        for word in ["nosuch", "", "pods.apps", "deploy.", "."] {
            assert_eq!(path(word), Err(Code::TargetNotFound), "{word}");
        }
    }

    #[test]
    fn several_at_once() {
        let kinds = some();
        let names = |words: &str| {
            kinds.several(words).map(|all| all.iter().map(|k| k.before_name()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(names("po,deploy"), Ok("pod deployment.apps".into()));
        assert_eq!(names("all"), Ok("pod deployment.apps".into()));
        assert_eq!(names("all,nodes"), Ok("pod deployment.apps node".into()));
        assert!(names("po,nosuch").is_err() && names(",").is_err());
        let pod = kinds.one("po").expect("is there");
        assert!(pod.can("watch") && !pod.can("create") && pod.has_under("status") && !pod.has_under("scale"));
    }
}
