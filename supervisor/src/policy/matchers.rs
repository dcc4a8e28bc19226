//! The matchers of a section from the file, and what can be told of them: a rule that can match nothing is a mistake, and one in an
//! allow rule is as bad to its writer as one in a deny rule is to everybody else.

use super::decision::Effect;
use super::reader::{Keys, PolicyError};
use super::request::{Section, reads};
use super::rule::{CloudMatcher, JobsMatcher, KubernetesMatcher, Patterns, ResourcePattern};
use shared_proto::glob::Glob;
use std::net::IpAddr;

/// The verbs of resources.
const VERBS: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy"];
/// The verbs of paths.
const PATH_VERBS: &[&str] = &["get", "head", "post", "put", "patch", "delete", "options"];
const READS: &[&str] = &["get", "list", "watch", "head"];
/// The keys that are of resources, and not of paths.
const OF_RESOURCES: &[&str] = &["resources", "namespaces", "names", "containers", "secrets", "record"];
/// What kinds of jobs there are, as rules name them.
pub const KINDS: [&str; 10] =
    ["preview", "update", "refresh", "destroy", "outputs", "import", "state", "unlock", "versions", "rollback"];
/// The engines of jobs.
pub const ENGINES: [&str; 3] = ["opentofu", "terraform", "pulumi"];
/// The providers of connections.
pub const PROVIDERS: [&str; 4] = ["kubernetes", "aws", "gcp", "azure"];

pub(super) fn kubernetes(keys: &Keys<'_, '_>, effect: Effect, exec: bool) -> Result<KubernetesMatcher, PolicyError> {
    let of_resources = OF_RESOURCES.iter().find(|key| keys.get(key).is_some());
    let known: Vec<&str> = match (keys.get("paths").is_some(), of_resources) {
        (true, Some(key)) => {
            let what = format!(
                "paths are of requests for no resource, {key} is of resources: nothing is both, make two rules"
            );
            return Err(keys.wrong("paths", what));
        }
        (true, None) => PATH_VERBS.to_vec(),
        (false, Some(_)) => VERBS.to_vec(),
        (false, None) => VERBS.iter().chain(PATH_VERBS).copied().collect(),
    };
    let verbs = one_of(keys, "verbs", &known)?;
    let resources = keys.patterns("resources", ResourcePattern::parse)?;
    let read_only = keys.flag("read_only")?.unwrap_or(false);
    let takes = |wanted: &[&str]| !verbs.is_given() || wanted.iter().any(|verb| verbs.matches(verb));
    if read_only && !takes(READS) {
        return Err(keys.wrong("read_only", "only get, list and watch read, and none is among the rule's verbs"));
    }
    if keys.flag("record")?.unwrap_or(false) {
        let what = "what is recorded is exec and its like, which";
        if !exec {
            return Err(
                keys.wrong("record", format!("{what} exec = false of the section denies: leave one of the two out"))
            );
        }
        if read_only {
            return Err(keys.wrong("record", format!("{what} are no reads: leave read_only or this out")));
        }
        if !takes(&["create"]) {
            return Err(keys.wrong("record", format!("{what} are create, and that is not among the rule's verbs")));
        }
    }
    if effect == Effect::Allow
        && let Some(ways) =
            resources.as_ref().and_then(|all| all.iter().map(ResourcePattern::only_way_in).collect::<Option<Vec<_>>>())
    {
        let way = ways.first().copied().unwrap_or_default();
        if !exec {
            let what =
                format!("the section has exec = false, which no rule opens again for {way}: leave one of the two out");
            return Err(keys.wrong("resources", what));
        }
        if read_only {
            return Err(keys.wrong("read_only", format!("{way} is never a read, whatever its method")));
        }
        if ways.iter().all(|way| *way != "proxy") && !takes(&["create"]) {
            return Err(keys.wrong("verbs", format!("{way} is always create, whatever its method: write that")));
        }
    }
    Ok(KubernetesMatcher {
        verbs,
        resources,
        namespaces: Patterns(keys.patterns("namespaces", |text| label(text, "namespace"))?),
        names: Patterns(keys.patterns("names", |text| match text.contains(['/', '%', ' ']) {
            true => Err(format!("{text:?} has a space, `/` or `%` in it, which no name has")),
            false => Glob::parse(text),
        })?),
        containers: Patterns(keys.patterns("containers", |text| label(text, "container"))?),
        paths: Patterns(keys.patterns("paths", |text| match text.starts_with(['/', '*']) {
            true if text.contains(' ') => Err(format!("{text:?} has a space in it, and a path with one is refused")),
            true => Glob::parse(text),
            false => Err(format!("{text:?} begins neither with `/` nor with `*`, and every path does")),
        })?),
        read_only,
    })
}

pub(super) fn cloud(section: Section, keys: &Keys<'_, '_>) -> Result<CloudMatcher, PolicyError> {
    let (key, between, example) = match section {
        Section::Aws => ("actions", ':', "s3:GetObject"),
        Section::Azure => ("methods", '/', "Microsoft.Compute/virtualMachines/read"),
        _ => ("methods", '.', "compute.instances.list"),
    };
    let services = Patterns(keys.patterns("services", Glob::parse_lower)?);
    let operations = Patterns(keys.patterns(key, |text| {
        let glob = Glob::parse_lower(text)?;
        let Some((service, _)) = text.split_once(between) else {
            return if glob.is_all() {
                Ok(glob)
            } else {
                Err(format!("{text:?} has no `{between}`: write it like {example}"))
            };
        };
        let service = service.to_ascii_lowercase();
        if services.is_given() && !service.contains('*') && !services.matches(&service) {
            return Err(format!("{text:?} is of none of the rule's services, so that it cannot match"));
        }
        Ok(glob)
    })?);
    let read_only = keys.flag("read_only")?.unwrap_or(false);
    // by its name as AWS writes it; in another case nothing is told of it
    let writes = |glob: &Glob| {
        let operation = glob.as_str().split_once(':').map(|(_, operation)| operation);
        glob.is_plain() && operation.is_some_and(|o| o.starts_with(|c: char| c.is_ascii_uppercase()) && !reads(o))
    };
    if read_only && section == Section::Aws && operations.is_given() && operations.globs().iter().all(writes) {
        return Err(keys.wrong("read_only", "none of the rule's actions only reads, so that it cannot match"));
    }
    Ok(CloudMatcher {
        services,
        operations,
        regions: Patterns(keys.patterns("regions", Glob::parse_lower)?),
        read_only,
    })
}

pub(super) fn jobs(keys: &Keys<'_, '_>) -> Result<JobsMatcher, PolicyError> {
    let host = |text: &str| {
        if text.starts_with('@') && !matches!(text, "@upload" | "@file") {
            return Err(format!("{text:?} is no source: there are @upload and @file beside hosts"));
        }
        if text.contains('/') || (text.contains(':') && text.parse::<IpAddr>().is_err()) {
            return Err(format!("{text:?} is more than a host: write the name alone, without scheme, port and path"));
        }
        Glob::parse_lower(text.trim_end_matches('.'))
    };
    Ok(JobsMatcher {
        kinds: one_of(keys, "kinds", &KINDS)?,
        engines: one_of(keys, "engines", &ENGINES)?,
        stacks: Patterns(keys.globs("stacks")?),
        source_hosts: Patterns(keys.patterns("source_hosts", host)?),
        secret_stores: Patterns(keys.globs("secret_stores")?),
    })
}

pub(super) fn providers(keys: &Keys<'_, '_>) -> Result<Patterns, PolicyError> {
    one_of(keys, "providers", &PROVIDERS)
}

/// Patterns of which each can match one of `known`.
fn one_of(keys: &Keys<'_, '_>, key: &str, known: &[&str]) -> Result<Patterns, PolicyError> {
    let parse = |text: &str| {
        let glob = Glob::parse(text)?;
        match known.iter().any(|name| glob.matches(name)) {
            true => Ok(glob),
            false => Err(format!("{text:?} cannot match: there are {}", known.join(", "))),
        }
    };
    keys.patterns(key, parse).map(Patterns)
}

/// A pattern for a DNS label.
fn label(text: &str, what: &str) -> Result<Glob, String> {
    let glob = Glob::parse(text)?;
    let fits = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-*".contains(&b));
    if fits && text.bytes().filter(|b| *b != b'*').count() <= 63 {
        return Ok(glob);
    }
    Err(format!("{text:?} cannot match: a {what} has at most 63 of a-z, 0-9 and `-`"))
}
