//! `k8s get`: objects of any kind, in the API server's own columns or as they are, once or followed.

use super::api::{Api, JSON, TABLE};
use super::columns::{Columns, Look};
use super::kinds::{Kind, Kinds};
use super::watch::{Change, Watch};
use super::words::{Name, Place, Selectors, Wanted, name_of, objects};
use crate::commands::Session;
use crate::output::table::Widths;
use crate::output::{Format, yaml};
use crate::stop::{self, Done};
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};

/// `k8s get`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  runnerctl k8s get pods,services -n shop\n  runnerctl k8s get deployments.apps web -o yaml\n  \
                        runnerctl k8s get pod 'web-*' -w\n  runnerctl k8s get all -A"
)]
pub(super) struct Get {
    /// KIND[,KIND…] [NAME…], or KIND/NAME…; a star at the end of a name stands for any rest
    #[arg(required = true, value_name = "KIND [NAME]")]
    words: Vec<String>,
    #[command(flatten)]
    pub(super) place: Place,
    #[command(flatten)]
    selectors: Selectors,
    /// Go on with what changes
    #[arg(short, long)]
    watch: bool,
    /// With each object's labels
    #[arg(long)]
    show_labels: bool,
    /// Without the line of the columns' names
    #[arg(long)]
    no_headers: bool,
    /// With who set which field, in JSON and YAML
    #[arg(long)]
    show_managed_fields: bool,
}

/// What is asked for of one kind.
struct Asked<'a> {
    kind: &'a Kind,
    /// None: in all of them, or it has none.
    namespace: Option<String>,
    names: Vec<String>,
}

/// `k8s get`
pub(super) async fn run(command: Get, api: &Api, session: &Session) -> Done {
    let wanted = Wanted::read(&command.words)?;
    if wanted.iter().any(|w| !w.names.is_empty()) && !command.selectors.is_empty() {
        return Err(Code::InvalidArgument.on("names and selectors are both given").next("Take either.").into());
    }
    let preparing = async {
        let kinds = Kinds::of(api).await?;
        let mut namespace: Option<String> = None;
        let mut asked = Vec::new();
        for one in &wanted {
            for kind in kinds.several(&one.kinds)? {
                if kind.namespaced && !command.place.all_namespaces && namespace.is_none() {
                    namespace = Some(api.namespace(command.place.namespace.as_deref()).await?);
                }
                let namespace = namespace.clone().filter(|_| kind.namespaced);
                asked.push((kind.clone(), namespace, one.names.clone()));
            }
        }
        Ok(asked)
    };
    let found = session.wait("asking what there is", preparing).await?;
    let asked: Vec<_> = found
        .iter()
        .map(|(kind, namespace, names)| Asked { kind, namespace: namespace.clone(), names: names.clone() })
        .collect();
    if let Some(one) = asked.iter().find(|one| one.kind.namespaced && one.namespace.is_none() && !one.names.is_empty())
    {
        return Err(Code::InvalidArgument
            .on(format!("one of the {} is named, which may be in several namespaces", one.kind.plural))
            .next("Name its namespace with -n.")
            .into());
    }
    if command.watch {
        let [one] = &asked[..] else {
            return Err(Code::InvalidArgument.on("several kinds cannot be watched at once").next("Name one.").into());
        };
        let note = "it is no longer watched; nothing goes on";
        return session.interrupt.guard(note, follow(&command, one, api, session)).await;
    }
    match session.output.format {
        Format::Table | Format::Wide => tables(&command, &asked, api, session).await,
        Format::Json | Format::Yaml | Format::Name => documents(&command, &asked, api, session).await,
    }
}

/// Whether a refusal is of that kind or object alone: the others are shown all the same.
pub(super) const fn is_of_one(code: Code) -> bool {
    matches!(code, Code::TargetNotFound | Code::TargetForbidden | Code::PolicyDenied)
}

/// What is found of one kind; where it is one of several, what is refused of it goes to `failures`.
fn or_others<T: Default>(found: Result<T, Failure>, several: bool, failures: &mut Vec<Failure>) -> Result<T, Failure> {
    match found {
        Err(failure) if several && is_of_one(failure.code) => {
            failures.push(failure);
            Ok(T::default())
        }
        found => found,
    }
}

// === impl Asked ===

impl Asked<'_> {
    /// Its objects; what was not found or refused by its name goes to `failures`.
    async fn objects(&self, command: &Get, api: &Api, failures: &mut Vec<Failure>) -> Result<Vec<Value>, Failure> {
        let namespace = self.namespace.as_deref();
        if self.names.is_empty() {
            return objects(api, self.kind, namespace, &command.selectors).await;
        }
        let mut all = Vec::new();
        for name in &self.names {
            match Name::read(name) {
                Name::Whole(name) => match api.get(&self.kind.path(namespace, Some(name), None, &[]), JSON).await {
                    Ok(object) => all.push(object),
                    Err(failure) if is_of_one(failure.code) => failures.push(failure),
                    Err(failure) => return Err(failure),
                },
                Name::Beginning(beginning) => {
                    let found = objects(api, self.kind, namespace, &command.selectors).await?;
                    all.extend(found.into_iter().filter(|o| name_of(o).starts_with(beginning)));
                }
            }
        }
        Ok(all)
    }

    /// The same as a table.
    async fn columns(&self, command: &Get, api: &Api, failures: &mut Vec<Failure>) -> Result<Columns, Failure> {
        let mut all = Columns::default();
        let mut beginnings = Vec::new();
        for name in &self.names {
            match Name::read(name) {
                Name::Whole(name) => {
                    let at = self.kind.path(self.namespace.as_deref(), Some(name), None, &[]);
                    match api.get(&at, TABLE).await {
                        Ok(table) => all.add(Columns::read(&table)),
                        Err(failure) if is_of_one(failure.code) => failures.push(failure),
                        Err(failure) => return Err(failure),
                    }
                }
                Name::Beginning(beginning) => beginnings.push(beginning),
            }
        }
        if self.names.is_empty() || !beginnings.is_empty() {
            let selected = command.selectors.query();
            let target = |page: &[(&str, &str)]| {
                self.kind.path(self.namespace.as_deref(), None, None, &[&selected, page].concat())
            };
            let mut listed = Columns::default();
            api.pages(target, TABLE, |page| listed.add(Columns::read(&page))).await?;
            if !beginnings.is_empty() {
                listed.keep(|name| beginnings.iter().any(|b| name.starts_with(b)));
            }
            all.add(listed);
        }
        Ok(all)
    }
}

/// How objects of a kind are shown.
fn look(command: &Get, one: &Asked<'_>, several: bool, session: &Session) -> Look {
    Look {
        wide: session.output.format == Format::Wide,
        namespaces: command.place.all_namespaces && one.kind.namespaced,
        labels: command.show_labels,
        no_headers: command.no_headers,
        kind: several.then(|| one.kind.before_name()),
    }
}

/// What to say where there is nothing.
fn nothing(one: &Asked<'_>) -> String {
    match &one.namespace {
        Some(namespace) => format!("No resources found in {namespace} namespace."),
        None => "No resources found".to_owned(),
    }
}

async fn tables(command: &Get, asked: &[Asked<'_>], api: &Api, session: &Session) -> Done {
    let mut failures = Vec::new();
    let mut text = String::new();
    let several = asked.len() > 1;
    let reading = async {
        let mut all = Vec::new();
        for one in asked {
            let found = one.columns(command, api, &mut failures).await;
            all.push(or_others(found, several, &mut failures)?);
        }
        Ok(all)
    };
    let all = session.wait("listing", reading).await?;
    for (one, columns) in asked.iter().zip(&all).filter(|(_, columns)| !columns.is_empty()) {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&columns.lines(&look(command, one, several, session), &mut Widths::default(), true));
    }
    if let (true, true, Some(one)) = (text.is_empty(), failures.is_empty(), asked.first()) {
        eprintln!("{}", crate::output::escape::line(&nothing(one)));
    }
    session.output.text(&text)?;
    refused(failures)
}

async fn documents(command: &Get, asked: &[Asked<'_>], api: &Api, session: &Session) -> Done {
    let mut failures = Vec::new();
    let single = matches!(asked, [one] if one.names.len() == 1 && matches!(Name::read(&one.names[0]), Name::Whole(_)));
    let reading = async {
        let mut all = Vec::new();
        for one in asked {
            let found = one.objects(command, api, &mut failures).await;
            let found = or_others(found, asked.len() > 1, &mut failures)?;
            all.extend(found.into_iter().map(|object| (one.kind, object)));
        }
        Ok(all)
    };
    let mut all = session.wait("listing", reading).await?;
    if session.output.format == Format::Name {
        let mut text = String::new();
        for (kind, object) in &all {
            text.push_str(&format!("{}/{}\n", kind.before_name(), crate::output::escape::line(name_of(object))));
        }
        session.output.text(&text)?;
        return refused(failures);
    }
    if !command.show_managed_fields {
        all.iter_mut().for_each(|(_, object)| without_managed_fields(object));
    }
    let items: Vec<Value> = all.into_iter().map(|(_, object)| object).collect();
    match (single, items) {
        // said below
        (true, items) if items.is_empty() => {}
        (true, mut items) => session.output.document(&items.swap_remove(0), |_| String::new())?,
        (false, items) => {
            let list =
                json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": items });
            session.output.document(&list, |_| String::new())?;
        }
    }
    refused(failures)
}

/// Of what was not found or refused the last is the command's own end; the others are said before it.
fn refused(mut failures: Vec<Failure>) -> Done {
    let Some(last) = failures.pop() else { return Ok(()) };
    failures.iter().for_each(stop::say);
    Err(last.into())
}

/// Takes out who set which field: nobody reads it, and it is longer than the rest.
pub(super) fn without_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// What there is, and what changes of it.
async fn follow(command: &Get, one: &Asked<'_>, api: &Api, session: &Session) -> Done {
    let is_table = matches!(session.output.format, Format::Table | Format::Wide);
    let mut selected = command.selectors.query();
    let field;
    let mut beginning = None;
    match &one.names[..] {
        [] => {}
        [name] => match Name::read(name) {
            Name::Whole(name) => {
                // one that is not there is not waited for
                api.get(&one.kind.path(one.namespace.as_deref(), Some(name), None, &[]), JSON).await?;
                field = format!("metadata.name={name}");
                selected.push(("fieldSelector", &field));
            }
            Name::Beginning(text) => beginning = Some(text),
        },
        _ => return Err(Code::InvalidArgument.on("several names cannot be watched at once").next("Name one.").into()),
    }
    let target =
        |more: &[(&str, &str)]| one.kind.path(one.namespace.as_deref(), None, None, &[&selected, more].concat());
    let (mut widths, look) = (Widths::default(), look(command, one, false, session));
    let mut watch = Watch::new(api, if is_table { TABLE } else { JSON });
    let (mut header, mut last) = (true, Columns::default());
    loop {
        let change = watch.next(&target).await?;
        if is_table {
            let mut columns = match change {
                Change::All(page) => Columns::read(&page),
                Change::One { object, .. } => Columns::read(&object),
            };
            columns = columns.with_header_of(&last);
            if let Some(beginning) = beginning {
                columns.keep(|name| name.starts_with(beginning));
            }
            if !columns.is_empty() {
                session.output.text(&columns.lines(&look, &mut widths, header))?;
                header = false;
            }
            last = columns;
            continue;
        }
        let objects = match change {
            Change::All(mut page) => page["items"].as_array_mut().map(std::mem::take).unwrap_or_default(),
            Change::One { object, .. } => vec![object],
        };
        for mut object in objects {
            if beginning.is_some_and(|beginning| !name_of(&object).starts_with(beginning)) {
                continue;
            }
            if let Some(map) = object.as_object_mut() {
                map.insert("kind".into(), one.kind.kind.clone().into());
                map.insert("apiVersion".into(), one.kind.api_version().into());
            }
            if !command.show_managed_fields {
                without_managed_fields(&mut object);
            }
            match session.output.format {
                Format::Name => session.output.line(&format!("{}/{}", one.kind.before_name(), name_of(&object)))?,
                Format::Yaml => session.output.text(&format!("---\n{}", yaml::to_string(&object)))?,
                _ => session.output.document(&object, |_| String::new())?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::tests::some;
    use super::*;
    use crate::client::tests::{answer, api};

    #[tokio::test]
    async fn what_is_refused_of_one_kind_hides_no_other() {
        let client = api(|asked| match asked.path.contains("/deployments") {
            true => answer(403, r#"{"error": {"code": "policy_denied", "message": "list deployments is denied"}}"#),
            false => answer(200, r#"{"metadata": {}, "items": [{"metadata": {"name": "web"}}]}"#),
        })
        .await;
        let (api, kinds) = (Api::to(client), some());
        let command = Get::of("deploy,po");
        let names = |several: bool| {
            let (api, kinds, command) = (&api, &kinds, &command);
            async move {
                let (mut failures, mut names) = (Vec::new(), Vec::new());
                for kind in kinds.several("deploy,po").expect("are there") {
                    let one = Asked { kind, namespace: Some("n".into()), names: Vec::new() };
                    let found = one.objects(command, api, &mut failures).await;
                    let found = or_others(found, several, &mut failures)?;
                    names.extend(found.iter().map(|object| name_of(object).to_owned()));
                }
                Ok::<_, Failure>((names, failures))
            }
        };
        let (found, failures) = names(true).await.expect("the others");
        assert_eq!(found, ["web"]);
        assert_eq!(refused(failures).expect_err("is said").report(), Code::PolicyDenied.exit());
        assert_eq!(names(false).await.map_err(|f| f.code).err(), Some(Code::PolicyDenied));
        assert!(is_of_one(Code::TargetForbidden) && !is_of_one(Code::RunnerUnavailable));
    }

    #[tokio::test]
    async fn what_is_refused_by_its_name_hides_no_other() {
        let client = api(|asked| match asked.path.ends_with("/pods/a") {
            true => answer(403, r#"{"error": {"code": "target_forbidden", "message": "no"}}"#),
            false => answer(200, r#"{"metadata": {"name": "b"}}"#),
        })
        .await;
        let kinds = some();
        let names = vec!["a".to_owned(), "b".to_owned()];
        let one = Asked { kind: kinds.one("po").expect("is there"), namespace: Some("n".into()), names };
        let mut failures = Vec::new();
        let found = one.objects(&Get::of("po"), &Api::to(client), &mut failures).await.expect("the other one");
        assert_eq!((found.len(), failures.len(), failures[0].code), (1, 1, Code::TargetForbidden));
    }

    impl Get {
        fn of(kinds: &str) -> Self {
            Self {
                words: vec![kinds.to_owned()],
                place: Place { namespace: None, all_namespaces: false },
                selectors: Selectors::default(),
                watch: false,
                show_labels: false,
                no_headers: false,
                show_managed_fields: false,
            }
        }
    }
}
