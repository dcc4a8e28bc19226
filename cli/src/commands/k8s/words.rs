//! What a user names on the command line: kinds, and objects by name, by the beginning of a name, or all of them.

use super::api::{Api, JSON};
use super::kinds::{Kind, Kinds};
use serde_json::Value;
use shared_proto::failure::{Code, Failure};

/// Names that an error lists, at most.
const NAMES_SHOWN: usize = 8;

/// Where objects are looked for.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Place {
    /// In this namespace; the connection's own by default
    #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub(super) all_namespaces: bool,
}

/// Which of a kind's objects.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Selectors {
    /// Only with these labels, such as app=web
    #[arg(short = 'l', long = "selector", value_name = "SELECTOR")]
    pub(super) labels: Option<String>,
    /// Only with these fields, such as status.phase=Running
    #[arg(long = "field-selector", value_name = "SELECTOR")]
    pub(super) fields: Option<String>,
}

/// Kinds, and the names of those objects that are meant; no names: all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) kinds: String,
    pub(super) names: Vec<String>,
}

/// A name, or the beginning of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// `web-1`
    Whole(&'a str),
    /// `web-*`
    Beginning(&'a str),
}

// === impl Selectors ===

impl Selectors {
    /// As a list's query.
    pub(super) fn query(&self) -> Vec<(&str, &str)> {
        let own = [("labelSelector", self.labels.as_deref()), ("fieldSelector", self.fields.as_deref())];
        own.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect()
    }
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_none() && self.fields.is_none()
    }
}

// === impl Name ===

impl<'a> Name<'a> {
    /// A star at the end makes it a beginning.
    pub(super) fn read(text: &'a str) -> Self {
        match text.strip_suffix('*') {
            Some(beginning) => Self::Beginning(beginning),
            None => Self::Whole(text),
        }
    }
}

// === impl Wanted ===

impl Wanted {
    /// `KINDS [NAME…]`, or `KIND/NAME…`.
    pub(super) fn read(words: &[String]) -> Result<Vec<Self>, Failure> {
        if !words.iter().any(|w| w.contains('/')) {
            let [kinds, names @ ..] = words else {
                return Err(Code::InvalidArgument
                    .on("no kind is named")
                    .next("Name one, such as pods or deployment/web."));
            };
            return Ok(vec![Self { kinds: kinds.clone(), names: names.to_vec() }]);
        }
        let mut all: Vec<Self> = Vec::new();
        for word in words {
            match word.split_once('/') {
                Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
                    match all.last_mut() {
                        Some(last) if last.kinds == kind => last.names.push(name.to_owned()),
                        _ => all.push(Self { kinds: kind.to_owned(), names: vec![name.to_owned()] }),
                    }
                }
                _ => {
                    return Err(Code::InvalidArgument
                        .on(format!("{word:?} is not KIND/NAME, as the others are"))
                        .next("Write KIND NAME…, or KIND/NAME for each."));
                }
            }
        }
        Ok(all)
    }
}

/// The one kind and name that words mean: `KIND NAME` or `KIND/NAME`; a name alone is one of the `usual` kind.
pub(super) fn one(words: &[String], usual: Option<&str>) -> Result<(String, String), Failure> {
    let wrong =
        |said: &str| Code::InvalidArgument.on(said).next("Write KIND NAME or KIND/NAME, such as deployment/web.");
    match words {
        [word] => match (word.split_once('/'), usual) {
            (Some((kind, name)), _) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok((kind.to_owned(), name.to_owned()))
            }
            (None, Some(usual)) => Ok((usual.to_owned(), word.clone())),
            _ => Err(wrong(&format!("{word:?} does not say both kind and name"))),
        },
        [kind, name] if !kind.contains('/') && !name.contains('/') => Ok((kind.clone(), name.clone())),
        _ => Err(wrong("one object is meant, and other words are given")),
    }
}

/// An object that was found, with its kind.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) object: Value,
}

// === impl Found ===

impl Found {
    pub(super) fn name(&self) -> &str {
        name_of(&self.object)
    }
    pub(super) fn namespace(&self) -> Option<&str> {
        self.object.pointer("/metadata/namespace").and_then(Value::as_str)
    }
    /// `deployment.apps/web`
    pub(super) fn title(&self) -> String {
        format!("{}/{}", self.kind.before_name(), self.name())
    }
    /// Where it is, or what is under it.
    pub(super) fn path(&self, under: Option<&str>, query: &[(&str, &str)]) -> String {
        self.kind.path(self.namespace(), Some(self.name()), under, query)
    }
}

/// Finds the one object that is meant: by its name, or the only one whose name begins so.
pub(super) async fn find(
    api: &Api,
    kinds: &Kinds,
    (kind, name): (&str, &str),
    namespace: Option<&str>,
) -> Result<Found, Failure> {
    let kind = kinds.one(kind)?;
    let namespace = if kind.namespaced { Some(api.namespace(namespace).await?) } else { None };
    let namespace = namespace.as_deref();
    let name = match Name::read(name) {
        Name::Whole(name) => name.to_owned(),
        Name::Beginning(beginning) => {
            let mut names = Vec::new();
            let selectors = Selectors::default();
            for object in objects(api, kind, namespace, &selectors).await? {
                if name_of(&object).starts_with(beginning) {
                    names.push(name_of(&object).to_owned());
                }
            }
            only(names, kind, beginning, namespace)?
        }
    };
    let object = api.get(&kind.path(namespace, Some(&name), None, &[]), JSON).await?;
    Ok(Found { kind: kind.clone(), object })
}

/// The only one of the names that begin so.
fn only(mut names: Vec<String>, kind: &Kind, beginning: &str, namespace: Option<&str>) -> Result<String, Failure> {
    let place = namespace.map_or_else(String::new, |n| format!(" in namespace {n}"));
    let plural = &kind.plural;
    match names.len() {
        1 => Ok(names.remove(0)),
        0 => Err(Code::TargetNotFound.on(format!("no name of the {plural}{place} begins with {beginning:?}"))),
        count => {
            names.truncate(NAMES_SHOWN);
            let more = if count > NAMES_SHOWN { ", …" } else { "" };
            let message =
                format!("{count} of the {plural}{place} begin with {beginning:?}: {}{more}", names.join(", "));
            Err(Code::InvalidArgument.on(message).next("Write more of the name."))
        }
    }
}

/// All objects of a kind that are selected, each with its kind in it.
pub(super) async fn objects(
    api: &Api,
    kind: &Kind,
    namespace: Option<&str>,
    selectors: &Selectors,
) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    let target = |page: &[(&str, &str)]| kind.path(namespace, None, None, &[&selectors.query(), page].concat());
    api.pages(target, JSON, |mut page| {
        if let Some(items) = page["items"].as_array_mut() {
            all.extend(items.drain(..).map(|mut item| {
                // in a list they are left out
                if let Some(object) = item.as_object_mut() {
                    object.insert("kind".into(), kind.kind.clone().into());
                    object.insert("apiVersion".into(), kind.api_version().into());
                }
                item
            }));
        }
    })
    .await?;
    Ok(all)
}

/// An object's name.
pub(super) fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_named() {
        let read = |line: &str| {
            Wanted::read(&words(line)).map_err(|f| f.code).map(|all| {
                all.into_iter().map(|w| format!("{}:{}", w.kinds, w.names.join("+"))).collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(read("pods"), Ok("pods:".into()));
        assert_eq!(read("po,svc"), Ok("po,svc:".into()));
        assert_eq!(read("pod a b*"), Ok("pod:a+b*".into()));
        assert_eq!(read("pod/a pod/b svc/c"), Ok("pod:a+b svc:c".into()));
        for line in ["", "pod/a b", "pod/", "/a", "pod/a/b"] {
            assert_eq!(read(line), Err(Code::InvalidArgument), "{line}");
        }
        let one = |line: &str, usual| one(&words(line), usual).map_err(|f| f.code);
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(one("deploy/web", None), pair("deploy", "web"));
        assert_eq!(one("deploy web", None), pair("deploy", "web"));
        assert_eq!(one("web", Some("pods")), pair("pods", "web"));
        for line in ["web", "a/b/c", "a/", "a b c", "a/b c", ""] {
            assert_eq!(one(line, None), Err(Code::InvalidArgument), "{line}");
        }
    }

    #[test]
    fn a_beginning_means_one() {
        let kinds = super::super::kinds::tests::some();
        let pods = kinds.one("pods").expect("is there");
        let of = |names: &[&str]| only(names.iter().map(|n| (*n).to_owned()).collect(), pods, "web-", Some("n"));
        assert_eq!(of(&["web-1"]), Ok("web-1".into()));
        assert_eq!(of(&[]).map_err(|f| f.code), Err(Code::TargetNotFound));
        let many = of(&["web-1", "web-2"]).expect_err("two");
        assert!(many.code == Code::InvalidArgument && many.message.contains("web-1, web-2"), "{many}");
        assert_eq!((Name::read("a*"), Name::read("a")), (Name::Beginning("a"), Name::Whole("a")));
    }
}
