//! `k8s delete`, `k8s scale` and `k8s apply`: what changes objects.

use super::FIELD_MANAGER;
use super::api::{Api, JSON};
use super::get;
use super::kinds::{Kind, Kinds};
use super::watch::{Change, Watch};
use super::words::{self, Found, Name, Selectors, Wanted, name_of, objects};
use crate::args::seconds;
use crate::commands::Session;
use crate::output::{Format, remark};
use crate::stop::{self, Done};
use http::Method;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

/// The largest file that is applied, bytes: an API server takes objects of some mebibytes.
const FILE_MAX: u64 = 16 * 1024 * 1024;
/// The environment's namespace.
const NAMESPACE: &str = "RUNNERCTL_NAMESPACE";
/// A patch that is merged field by field.
const MERGE: &str = "application/merge-patch+json";
/// An object as one who manages some of its fields wants it.
const APPLY: &str = "application/apply-patch+yaml";

/// `k8s delete`
#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// KIND NAME…, KIND/NAME…, or KIND with -l; a star at the end of a name stands for any rest
    #[arg(required = true, value_name = "KIND NAME")]
    words: Vec<String>,
    /// In this namespace; the connection's own by default
    #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
    pub(super) namespace: Option<String>,
    #[command(flatten)]
    selectors: Selectors,
    /// Wait until they are gone
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this: 30s, 5m
    #[arg(long, value_parser = seconds, default_value = "5m", value_name = "DURATION", requires = "wait")]
    timeout: u64,
    /// Seconds that pods get to end; 0 does not wait for the kubelet
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// Let the API server check it, and delete nothing
    #[arg(long)]
    dry_run: bool,
}

/// `k8s scale`
#[derive(Debug, clap::Args)]
pub(super) struct Scale {
    /// KIND NAME or KIND/NAME
    #[arg(required = true, num_args = 1..=2, value_name = "KIND NAME")]
    words: Vec<String>,
    /// How many there are to be
    #[arg(long, value_name = "COUNT")]
    replicas: u32,
    /// Its namespace; the connection's own by default
    #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
    namespace: Option<String>,
}

/// `k8s apply`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What is applied is a server-side apply: the API server merges it, and keeps who set which field (runnerctl). A field that \
                        somebody else set otherwise is a conflict, which --force-conflicts takes over."
)]
pub(super) struct Apply {
    /// Files with objects in YAML or JSON, several in one with --- between; - is standard input
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The namespace of those that name none; the connection's own by default
    #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
    namespace: Option<String>,
    /// Take over fields that somebody else set otherwise
    #[arg(long)]
    force_conflicts: bool,
    /// Let the API server check it, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// `k8s delete`
pub(super) async fn delete(command: Delete, api: &Api, session: &Session) -> Done {
    let wanted = Wanted::read(&command.words)?;
    if wanted.iter().any(|w| w.names.is_empty()) == command.selectors.is_empty() {
        return Err(Code::InvalidArgument
            .on("what is to be deleted is named either by its names or by a selector")
            .next("Write KIND NAME, or KIND -l SELECTOR.")
            .into());
    }
    let (found, failures) = session.wait("looking for it", to_delete(&command, &wanted, api)).await?;
    let mut options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background" });
    if let Some(seconds) = command.grace_period {
        options["gracePeriodSeconds"] = seconds.into();
    }
    if command.dry_run {
        // beside a body the query is not read
        options["dryRun"] = json!(["All"]);
    }
    let mut done = Vec::new();
    for one in &found {
        // the very one that was found, and none that has its name by now
        options["preconditions"] = json!({ "uid": one.object["metadata"]["uid"] });
        let at = one.path(None, &[]);
        let work = api.send(Method::DELETE, &at, JSON, &options);
        session.wait(&format!("deleting {}", one.title()), work).await?;
        done.push(one.title());
        if session.output.format == Format::Table {
            let place = one.namespace().map_or_else(String::new, |n| format!(" from {n} namespace"));
            let dry = if command.dry_run { " (dry run)" } else { "" };
            session.output.line(&format!("{} {:?} deleted{place}{dry}", one.kind.before_name(), one.name()))?;
        }
    }
    if command.wait && !command.dry_run {
        let gone = async {
            for one in &found {
                gone(one, api).await?;
            }
            Ok(())
        };
        let waiting = session.wait("waiting until it is gone", gone);
        tokio::time::timeout(Duration::from_secs(command.timeout), waiting).await.unwrap_or_else(|_| {
            Err(Code::DeadlineExceeded
                .on(format!("not all of it was gone within {} s", command.timeout))
                .next("It is being deleted; look again.")
                .into())
        })?;
    }
    match session.output.format {
        Format::Table => {
            if found.is_empty() && failures.is_empty() {
                eprintln!("No resources found");
            }
        }
        _ => session.output.document(&json!({ "deleted": done }), |_| String::new())?,
    }
    let mut failures = failures;
    let Some(last) = failures.pop() else { return Ok(()) };
    failures.iter().for_each(stop::say);
    Err(last.into())
}

async fn to_delete(command: &Delete, wanted: &[Wanted], api: &Api) -> Result<(Vec<Found>, Vec<Failure>), Failure> {
    let kinds = Kinds::of(api).await?;
    let (mut found, mut failures, mut namespace) = (Vec::new(), Vec::new(), None);
    for one in wanted {
        for kind in kinds.several(&one.kinds)? {
            if kind.namespaced && namespace.is_none() {
                namespace = Some(api.namespace(command.namespace.as_deref()).await?);
            }
            let place = namespace.as_deref().filter(|_| kind.namespaced);
            let mut add = |object: Value| found.push(Found { kind: kind.clone(), object });
            if one.names.is_empty() {
                objects(api, kind, place, &command.selectors).await?.into_iter().for_each(&mut add);
            }
            for name in &one.names {
                match Name::read(name) {
                    Name::Whole(name) => match api.get(&kind.path(place, Some(name), None, &[]), JSON).await {
                        Ok(object) => add(object),
                        Err(failure) if failure.code == Code::TargetNotFound => failures.push(failure),
                        Err(failure) => return Err(failure),
                    },
                    // all of a kind is asked for by a selector, and not by a slip of the finger
                    Name::Beginning("") => {
                        return Err(Code::InvalidArgument
                            .on("a star alone would delete all of them")
                            .next("Write the beginning of their names."));
                    }
                    Name::Beginning(beginning) => {
                        let all = objects(api, kind, place, &Selectors::default()).await?;
                        all.into_iter().filter(|o| name_of(o).starts_with(beginning)).for_each(&mut add);
                    }
                }
            }
        }
    }
    Ok((found, failures))
}

/// Waits until an object is gone, or another one has its name.
async fn gone(one: &Found, api: &Api) -> Result<(), Failure> {
    let field = format!("metadata.name={}", one.name());
    let target = |more: &[(&str, &str)]| {
        one.kind.path(one.namespace(), None, None, &[&[("fieldSelector", field.as_str())], more].concat())
    };
    let uid = &one.object["metadata"]["uid"];
    let mut watch = Watch::new(api, JSON);
    loop {
        match watch.next(&target).await? {
            Change::All(page) => {
                let is_there = page["items"].as_array().into_iter().flatten().any(|o| &o["metadata"]["uid"] == uid);
                if !is_there {
                    return Ok(());
                }
            }
            Change::One { gone: true, object } if &object["metadata"]["uid"] == uid => return Ok(()),
            Change::One { .. } => {}
        }
    }
}

/// `k8s scale`
pub(super) async fn scale(command: Scale, api: &Api, session: &Session) -> Done {
    let scaling = async {
        let (kind, name) = words::one(&command.words, None)?;
        let kinds = Kinds::of(api).await?;
        let found = words::find(api, &kinds, (&kind, &name), command.namespace.as_deref()).await?;
        if !found.kind.has_under("scale") {
            return Err(Code::InvalidArgument
                .on(format!("{} cannot be scaled", found.title()))
                .next("Name a deployment, a statefulset or a replicaset."));
        }
        let patch = json!({ "spec": { "replicas": command.replicas } });
        api.send(Method::PATCH, &found.path(Some("scale"), &[("fieldManager", FIELD_MANAGER)]), MERGE, &patch).await?;
        Ok(found)
    };
    let found = session.wait("scaling", scaling).await?;
    let done = json!({ "scaled": found.title(), "replicas": command.replicas });
    session.output.document(&done, |_| format!("{} scaled\n", found.title()))
}

/// `k8s apply`
pub(super) async fn apply(command: Apply, api: &Api, session: &Session) -> Done {
    let mut all = Vec::new();
    for file in &command.files {
        all.extend(documents(file)?);
    }
    if all.is_empty() {
        return Err(Code::InvalidArgument
            .on("no object is in the files")
            .next("Name a file with at least one.")
            .into());
    }
    let kinds = session.wait("asking what there is", Kinds::of(api)).await?;
    // before anything is changed
    let mut prepared = Vec::new();
    for object in all {
        prepared.push((kind_of(&kinds, &object)?.clone(), object));
    }
    if let Some(namespace) = enforced(command.namespace.as_deref(), std::env::var(NAMESPACE).ok().as_deref()) {
        stays_in(namespace, &prepared)?;
    }
    let needs_namespace =
        |kind: &Kind, object: &Value| kind.namespaced && object.pointer("/metadata/namespace").is_none();
    let mut own = None;
    if prepared.iter().any(|(kind, object)| needs_namespace(kind, object)) {
        own = Some(session.wait("asking what there is", api.namespace(command.namespace.as_deref())).await?);
    }
    let mut query = vec![("fieldManager", FIELD_MANAGER)];
    query.push(("force", if command.force_conflicts { "true" } else { "false" }));
    if command.dry_run {
        query.push(("dryRun", "All"));
    }
    let (count, mut done, mut refused) = (prepared.len(), Vec::new(), Vec::new());
    for (kind, mut object) in prepared {
        if let Some(own) = own.as_ref().filter(|_| needs_namespace(&kind, &object)) {
            object["metadata"]["namespace"] = own.as_str().into();
        }
        let found = Found { kind, object };
        let title = found.title();
        let at = found.path(None, &query);
        let work = api.send(Method::PATCH, &at, APPLY, &found.object);
        match session.wait(&format!("applying {title}"), work).await {
            Ok(answer) => {
                if session.output.format == Format::Table {
                    let dry = if command.dry_run { " (dry run)" } else { "" };
                    session.output.line(&format!("{title} serverside-applied{dry}"))?;
                }
                done.push(answer);
            }
            // the others may be taken all the same
            Err(stop::Stop::Failure(failure)) if is_of_one(failure.code) => refused.push(of_object(&title, *failure)),
            Err(stop) => return Err(stop),
        }
    }
    if session.output.format != Format::Table {
        session.output.document(&json!({ "apiVersion": "v1", "kind": "List", "items": done }), |_| String::new())?;
    }
    not_applied(refused, count).map_or(Ok(()), |failure| Err(failure.into()))
}

/// The namespace that was named with -n. The environment's is for objects that name none, as a context's is with kubectl.
fn enforced<'a>(named: Option<&'a str>, of_environment: Option<&str>) -> Option<&'a str> {
    named.filter(|named| of_environment != Some(*named))
}

/// Refuses objects that name another namespace than the one that was named.
fn stays_in(namespace: &str, prepared: &[(Kind, Value)]) -> Result<(), Failure> {
    let of = |object: &Value| object.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
    let elsewhere = prepared.iter().filter(|(kind, _)| kind.namespaced).find_map(|(kind, object)| {
        of(object)
            .filter(|own| own != namespace)
            .map(|own| (format!("{}/{}", kind.before_name(), name_of(object)), own))
    });
    let Some((title, own)) = elsewhere else { return Ok(()) };
    Err(Code::InvalidArgument
        .on(format!(
            "{title}: the namespace from the object, {own:?}, does not match -n {namespace}; nothing was changed"
        ))
        .next(format!("Apply it with -n {own}, or leave -n out.")))
}

/// Whether a refusal of a write is of that object, and says nothing of others.
const fn is_of_one(code: Code) -> bool {
    get::is_of_one(code) || matches!(code, Code::TargetRefused | Code::MaskedWrite | Code::TooLarge)
}

/// A refusal, with the object that it is of.
fn of_object(title: &str, failure: Failure) -> Failure {
    let is_conflict = failure.message.contains("conflict");
    let failure = Failure { message: format!("{title}: {}", failure.message), ..failure };
    match is_conflict {
        true => failure.next("Leave those fields out, or take them over with --force-conflicts."),
        false => failure,
    }
}

/// What a command ends with of whose objects some were refused: the one refusal, or how many they are, each told before.
fn not_applied(mut refused: Vec<Failure>, count: usize) -> Option<Failure> {
    match refused.len() {
        0 | 1 => refused.pop(),
        several => {
            for failure in &refused {
                remark(&format!("{} [{}]", failure.message, failure.code));
            }
            let Failure { code, next_step, .. } = refused.swap_remove(0);
            Some(code.on(format!("{several} of {count} objects were not applied")).next(next_step))
        }
    }
}

/// The objects of a file.
fn documents(file: &PathBuf) -> Result<Vec<Value>, Failure> {
    let mut text = String::new();
    let failed = |e: std::io::Error| stop::file(file, &e);
    let read = if file.as_os_str() == "-" {
        std::io::stdin().lock().take(FILE_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|f| f.take(FILE_MAX + 1).read_to_string(&mut text))
    };
    if read.map_err(failed)? as u64 > FILE_MAX {
        return Err(Code::TooLarge.on(format!("{} is larger than {FILE_MAX} bytes", file.display())));
    }
    // what stands there may be secret: of a parser's message only the place is shown
    let all: Vec<Value> = serde_saphyr::from_multiple(&text).map_err(|e| {
        let place = e.location().map_or_else(String::new, |l| format!(" (line {}, column {})", l.line(), l.column()));
        Code::InvalidArgument.on(format!("{} is neither YAML nor JSON{place}", file.display())).next("Correct it.")
    })?;
    let mut objects = Vec::new();
    for mut document in all {
        if document.is_null() {
            continue;
        }
        match document.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take) {
            Some(items) if document["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                objects.extend(items)
            }
            _ => objects.push(document),
        }
    }
    Ok(objects)
}

/// The kind that an object says it is.
fn kind_of<'a>(kinds: &'a Kinds, object: &Value) -> Result<&'a Kind, Failure> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind, name) = (text("apiVersion"), text("kind"), name_of(object));
    if version.is_empty() || kind.is_empty() || name.is_empty() {
        return Err(Code::InvalidArgument
            .on("an object in the files lacks apiVersion, kind or metadata.name")
            .next("Give each object all three."));
    }
    kinds.of_object(version, kind).ok_or_else(|| {
        Code::TargetNotFound
            .on(format!("the cluster has no kind {kind:?} of {version:?}"))
            .next("Run `runnerctl k8s kinds`; apply the definition of a kind before its objects.")
    })
}

#[cfg(test)]
mod tests {
    use super::super::kinds::tests::some;
    use super::*;

    fn read(text: &str) -> Result<Vec<Value>, Failure> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("writes");
        documents(&file.path().to_owned())
    }

    #[test]
    fn what_was_not_applied_is_told_by_its_object() {
        let refused = |title: &str, message: &str| of_object(title, Code::TargetRefused.on(message));
        assert_eq!(not_applied(Vec::new(), 3), None);
        let one = not_applied(vec![refused("configmap/a", "conflict with \"kubectl\": .data.x")], 3).expect("one");
        assert!(
            one.message.starts_with("configmap/a: conflict with") && one.next_step.contains("--force-conflicts"),
            "{one}"
        );
        let two =
            not_applied(vec![refused("configmap/a", "too odd"), refused("configmap/b", "too odd")], 3).expect("two");
        assert_eq!((two.code, two.message.as_str()), (Code::TargetRefused, "2 of 3 objects were not applied"));
        assert!(is_of_one(Code::PolicyDenied) && !is_of_one(Code::RunnerUnavailable));
    }

    #[test]
    fn an_object_of_another_namespace_than_the_one_that_is_named_is_refused() {
        let kinds = some();
        let one = |kind: &str, namespace: Value| {
            let object = json!({"metadata": {"name": "web", "namespace": namespace}});
            (kinds.one(kind).expect("is there").clone(), object)
        };
        assert_eq!(
            stays_in("a", &[one("pods", json!("a")), one("pods", Value::Null), one("nodes", json!("b"))]),
            Ok(())
        );
        let failure = stays_in("a", &[one("pods", json!("a")), one("deploy", json!("b"))]).expect_err("is of another");
        assert_eq!(failure.code, Code::InvalidArgument);
        let said = "deployment.apps/web: the namespace from the object, \"b\", does not match -n a";
        assert!(failure.message.starts_with(said) && failure.next_step.contains("-n b"), "{failure}");
        assert_eq!((enforced(Some("a"), None), enforced(Some("a"), Some("b"))), (Some("a"), Some("a")));
        assert_eq!((enforced(Some("a"), Some("a")), enforced(None, None)), (None, None));
    }

    #[test]
    fn the_objects_of_a_file() {
        let names = |text: &str| read(text).map(|all| all.iter().map(|o| name_of(o).to_owned()).collect::<Vec<_>>());
        assert_eq!(names("metadata: {name: a}\n---\n---\nmetadata:\n  name: b\n"), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(names(r#"{"kind": "List", "items": [{"metadata": {"name": "c"}}]}"#), Ok(vec!["c".into()]));
        assert_eq!(names(""), Ok(vec![]));
        let wrong = read("password: [hunter2\n").expect_err("is no YAML");
        assert!(wrong.code == Code::InvalidArgument && !wrong.message.contains("hunter2"), "{wrong}");
    }

    #[test]
    fn the_kind_of_an_object() {
        let kinds = some();
        let of = |version: &str, kind: &str| {
            kind_of(&kinds, &json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}))
                .map(|k| k.plural.clone())
                .map_err(|f| f.code)
        };
        assert_eq!(of("v1", "Pod"), Ok("pods".into()));
        assert_eq!(of("apps/v1", "Deployment"), Ok("deployments".into()));
        assert_eq!(of("example.com/v1", "Shop"), Ok("shops".into()));
        assert_eq!(of("apps/v9", "Deployment"), Err(Code::TargetNotFound));
        assert_eq!(of("", "Pod"), Err(Code::InvalidArgument));
    }
}
