//! What a shell offers after the words that are typed: names of connections, kinds, namespaces and objects. It asks the cluster, so it has
//! little time; where it fails it says nothing, since nobody has asked yet.

use super::api::Api;
use super::kinds::Kinds;
use crate::args::Global;
use crate::client::path;
use crate::commands::Session;
use crate::interrupt::Interrupt;
use crate::output::table;
use crate::stop::Done;
use serde_json::Value;
use shared_proto::failure::Failure;
use std::time::Duration;

/// A shell that waits longer is a nuisance.
const LIMIT: Duration = Duration::from_secs(2);
/// Names that are offered, at most: the first page of a list.
const NAMES_MAX: &str = "500";
/// Only what every object has.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
/// Options that take the word after them.
const WITH_VALUE: &[&str] = &[
    "-C",
    "--connection",
    "-n",
    "--namespace",
    "-l",
    "--selector",
    "--field-selector",
    "-o",
    "--output",
    "-c",
    "--container",
    "--context",
    "--endpoint",
    "--ca-file",
    "--ca",
    "--token-file",
    "--runner",
    "--since",
    "--since-time",
    "--tail",
    "--limit-bytes",
    "--max-streams",
    "--for",
    "--types",
    "--timeout",
    "--grace-period",
    "--replicas",
    "-f",
    "--filename",
];

/// What the shell appends to a script that completes by what it knows itself.
pub(crate) fn appended(shell: clap_complete::Shell) -> &'static str {
    match shell {
        clap_complete::Shell::Bash => BASH,
        clap_complete::Shell::Zsh => ZSH,
        _ => "",
    }
}

const BASH: &str = r#"
# names of connections, kinds, namespaces and objects are asked for
_runnerctl_names() {
    _runnerctl "$@"
    local found
    mapfile -t found < <("$1" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    [[ ${#found[@]} -gt 0 ]] && COMPREPLY+=("${found[@]}")
    return 0
}
complete -F _runnerctl_names -o bashdefault -o default runnerctl
"#;

const ZSH: &str = r#"
# names of connections, kinds, namespaces and objects are asked for
_runnerctl_names() {
    local -a found
    found=("${(@f)$($words[1] complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=(${found:#})
    (( $#found )) && compadd -a found
    _runnerctl "$@"
}
compdef _runnerctl_names runnerctl
"#;

/// What is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Offer {
    Nothing,
    Connections,
    Namespaces,
    Kinds,
    /// Of this kind; the second: written as KIND/NAME.
    Names(String, bool),
    Words(&'static [&'static str]),
}

/// What the words say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Typed {
    connection: Option<String>,
    namespace: Option<String>,
    context: Option<String>,
    /// What is neither an option nor its value, without the last word.
    words: Vec<String>,
    /// The option whose value is being typed.
    option: Option<String>,
    /// What is being typed.
    last: String,
}

/// `complete`: prints what fits, a line each.
pub(crate) async fn run(words: &[String], global: &Global, interrupt: &Interrupt) -> Done {
    let typed = Typed::read(words);
    let offer = typed.offer();
    let mut global = global.clone();
    global.context = global.context.or_else(|| typed.context.clone());
    let asking = async {
        let session = Session::open(&global, interrupt).ok()?;
        offered(&typed, &offer, &session).await.ok()
    };
    let found = tokio::time::timeout(LIMIT, asking).await.ok().flatten().unwrap_or_default();
    let mut text = String::new();
    for name in found.iter().filter(|name| name.starts_with(&typed.last) && is_plain(name)) {
        text.push_str(name);
        text.push('\n');
    }
    use std::io::Write as _;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}

/// A name that a shell takes for nothing else: whoever names objects in a cluster types nothing into this shell.
fn is_plain(name: &str) -> bool {
    !name.starts_with('-') && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@".contains(c))
}

// === impl Typed ===

impl Typed {
    fn read(words: &[String]) -> Self {
        let mut typed = Self::default();
        let Some((last, before)) = words.split_last() else { return typed };
        typed.last = last.clone();
        let mut waiting: Option<String> = None;
        for word in before {
            let (option, value) = match (waiting.take(), word.split_once('=')) {
                (Some(option), _) => (option, Some(word.as_str())),
                (None, Some((option, value))) if word.starts_with("--") => (option.to_owned(), Some(value)),
                (None, _) if WITH_VALUE.contains(&word.as_str()) => {
                    waiting = Some(word.clone());
                    continue;
                }
                (None, _) if word.starts_with('-') => continue,
                (None, _) => {
                    typed.words.push(word.clone());
                    continue;
                }
            };
            match option.as_str() {
                "-C" | "--connection" => typed.connection = value.map(str::to_owned),
                "-n" | "--namespace" => typed.namespace = value.map(str::to_owned),
                "--context" => typed.context = value.map(str::to_owned),
                _ => {}
            }
        }
        typed.option = waiting;
        typed
    }

    fn offer(&self) -> Offer {
        match self.option.as_deref() {
            Some("-C" | "--connection") => return Offer::Connections,
            Some("-n" | "--namespace") => return Offer::Namespaces,
            Some("--for") => return self.kind_and_name(),
            Some(_) => return Offer::Nothing,
            None if self.last.starts_with('-') => return Offer::Nothing,
            None => {}
        }
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        match &words[..] {
            ["kubeconfig", ..] | ["connection", "show" | "test" | "delete"] => Offer::Connections,
            ["k8s", "top"] => Offer::Words(&["pods", "nodes"]),
            ["k8s", "top", kind] => Offer::Names((*kind).to_owned(), false),
            ["k8s", "logs" | "exec" | "port-forward"] if !self.last.contains('/') => Offer::Names("pods".into(), false),
            ["k8s", "logs" | "port-forward"] => self.kind_and_name(),
            ["k8s", "get" | "describe" | "delete" | "scale"] | ["k8s", "rollout", "status" | "restart"] => {
                self.kind_and_name()
            }
            ["k8s", "get" | "delete", kind, ..]
            | ["k8s", "describe" | "scale", kind]
            | ["k8s", "rollout", "status" | "restart", kind]
                if !kind.contains(['/', ',']) =>
            {
                Offer::Names((*kind).to_owned(), false)
            }
            ["k8s", "get" | "delete", ..] => self.kind_and_name(),
            _ => Offer::Nothing,
        }
    }

    fn kind_and_name(&self) -> Offer {
        match self.last.split_once('/') {
            Some((kind, _)) => Offer::Names(kind.to_owned(), true),
            None => Offer::Kinds,
        }
    }
}

async fn offered(typed: &Typed, offer: &Offer, session: &Session) -> Result<Vec<String>, Failure> {
    let named =
        typed.connection.clone().or_else(|| std::env::var("RUNNERCTL_CONNECTION").ok().filter(|c| !c.is_empty()));
    let api = async || Api::of(session, named.as_deref()).await;
    match offer {
        Offer::Nothing => Ok(Vec::new()),
        Offer::Words(words) => Ok(words.iter().map(|w| (*w).to_owned()).collect()),
        Offer::Connections => {
            let list = session.client.get("/connections").await?;
            let of_kubernetes = table::items(&list).iter().filter(|c| c["provider"] == "kubernetes");
            Ok(of_kubernetes.map(|c| table::text(c, "/name")).collect())
        }
        Offer::Namespaces => names(&api().await?, &path(&["api", "v1", "namespaces"], &[("limit", NAMES_MAX)])).await,
        Offer::Kinds => {
            let kinds = Kinds::of(&api().await?).await?;
            Ok(kinds.all().filter(|kind| kind.can("list")).map(|kind| kind.plural.clone()).collect())
        }
        Offer::Names(kind, with_kind) => {
            let api = api().await?;
            // as long as nothing else is meant the two questions go at once
            let namespace = typed.namespace.clone().or_else(|| std::env::var("RUNNERCTL_NAMESPACE").ok());
            let (kinds, namespace) = tokio::try_join!(Kinds::of(&api), api.namespace(namespace.as_deref()))?;
            let found = kinds.one(kind)?;
            let list = names(&api, &found.path(Some(&namespace), None, None, &[("limit", NAMES_MAX)])).await?;
            Ok(if *with_kind { list.iter().map(|name| format!("{kind}/{name}")).collect() } else { list })
        }
    }
}

async fn names(api: &Api, target: &str) -> Result<Vec<String>, Failure> {
    let list: Value = api.get(target, METADATA).await?;
    Ok(table::items(&list).iter().map(|o| table::text(o, "/metadata/name")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(line: &str) -> Offer {
        Typed::read(&line.split(' ').map(str::to_owned).collect::<Vec<_>>()).offer()
    }

    #[test]
    fn what_is_offered() {
        let names = |kind: &str, with: bool| Offer::Names(kind.into(), with);
        for (line, expected) in [
            ("k8s -C ", Offer::Connections),
            ("k8s --connection x", Offer::Connections),
            ("kubeconfig ", Offer::Connections),
            ("connection show ", Offer::Connections),
            ("k8s get pods -n ", Offer::Namespaces),
            ("k8s -C c get ", Offer::Kinds),
            ("k8s get pods -n seen we", names("pods", false)),
            ("k8s get pods web-1 ", names("pods", false)),
            ("k8s get pod/we", names("pod", true)),
            ("k8s get pod/web-1 svc/s", names("svc", true)),
            ("k8s describe deploy ", names("deploy", false)),
            ("k8s logs ", names("pods", false)),
            ("k8s logs deployment/", names("deployment", true)),
            ("k8s port-forward we", names("pods", false)),
            ("k8s rollout status ", Offer::Kinds),
            ("k8s top ", Offer::Words(&["pods", "nodes"])),
            ("k8s events --for pod/", names("pod", true)),
            ("k8s get pods -o ", Offer::Nothing),
            ("k8s get -", Offer::Nothing),
            ("job list", Offer::Nothing),
            ("", Offer::Nothing),
        ] {
            assert_eq!(offer(line), expected, "{line:?}");
        }
        let typed = Typed::read(&["k8s", "-C", "c", "--namespace=n", "get", "pods", "w"].map(str::to_owned));
        assert_eq!(
            (typed.connection.as_deref(), typed.namespace.as_deref(), typed.last.as_str()),
            (Some("c"), Some("n"), "w")
        );
    }

    #[test]
    fn what_a_shell_would_obey_is_not_offered() {
        for name in ["web-1", "a.b/c", "system:node@x"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["$(reboot)", "a b", "a;b", "`x`", "-x", "a\nb", "a\u{1b}", "*"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
