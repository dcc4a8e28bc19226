//! `kubeconfig`: contexts for kubectl, helm and every other client of Kubernetes, that lead to a connection's API through its runner.
//!
//! It must never write a secret: a context names this program, which gives a token when it is asked for one.

use super::Session;
use crate::args::Global;
use crate::client::path;
use crate::config::{ConfigFile, Context};
use crate::output::table;
use crate::stop::{self, Done};
use base64::Engine as _;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use std::path::{Path, PathBuf};

/// The largest kubeconfig that is changed, bytes.
const FILE_MAX: u64 = 16 * 1024 * 1024;
/// What the names of our contexts, clusters and users begin with.
const PREFIX: &str = "runner-";
/// The command that a user of ours has for its token.
const TOKEN: &str = "kube-token";
/// The lists of a kubeconfig, and what each entry holds beside its name.
const LISTS: [(&str, &str); 3] = [("clusters", "cluster"), ("users", "user"), ("contexts", "context")];

/// `kubeconfig`
#[derive(Debug, clap::Args)]
pub(crate) struct Kubeconfig {
    /// The Kubernetes connections; each gets a context runner-CONNECTION
    #[arg(required_unless_present = "all")]
    connections: Vec<String>,
    /// All Kubernetes connections
    #[arg(long, conflicts_with = "connections")]
    all: bool,
    /// The file; else the first of $KUBECONFIG, else ~/.kube/config
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Make it kubectl's current context
    #[arg(long = "use", conflicts_with_all = ["all", "remove"])]
    current: bool,
    /// The context's default namespace
    #[arg(short, long, value_name = "NAME", conflicts_with = "remove")]
    namespace: Option<String>,
    /// The context's name, where it is for one connection
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    name: Option<String>,
    /// Remove them from the file
    #[arg(long)]
    remove: bool,
    /// Print the contexts as a kubeconfig of their own, and change no file
    #[arg(long, conflicts_with_all = ["file", "remove"])]
    print: bool,
}

/// `kubeconfig …`
pub(crate) async fn run(command: Kubeconfig, global: &Global, context: &Context, session: &Session) -> Done {
    if command.connections.len() > 1 && (command.name.is_some() || command.current) {
        return Err(Code::InvalidArgument.on("--name and --use are for one connection").into());
    }
    let entries =
        if command.remove && !command.all { command.connections.clone() } else { known(&command, session).await? };
    if command.print {
        let mut config = empty();
        for connection in &entries {
            add(&mut config, connection, &command, global, context)?;
        }
        return session.output.text(&written(&config)?);
    }
    let file = file(command.file.as_deref())?;
    let mut config = load(&file)?;
    for connection in &entries {
        check_ours(&config, &name(&command, connection), &file)?;
    }
    for connection in &entries {
        let name = name(&command, connection);
        if command.remove {
            if !remove(&mut config, &name) && !command.all {
                return Err(Code::NotFound
                    .on(format!("{} has no context {name}", file.display()))
                    .next("Run `kubectl config get-contexts`; nothing was removed.")
                    .into());
            }
        } else {
            add(&mut config, connection, &command, global, context)?;
            if command.current {
                config["current-context"] = name.into();
            }
        }
    }
    save(&file, &config)?;
    let names: Vec<_> = entries.iter().map(|connection| name(&command, connection)).collect();
    let done = json!({ "file": file.display().to_string(), "contexts": names, "removed": command.remove });
    session.output.document(&done, |_| {
        let (done, preposition) = if command.remove { ("Removed", "from") } else { ("Wrote", "to") };
        let mut text = String::new();
        for name in &names {
            text.push_str(&format!("{done} context {name} {preposition} {}.\n", file.display()));
        }
        match names.first() {
            Some(name) if !command.remove && !command.current => {
                text.push_str(&format!("Now: kubectl --context {name} get pods\n"));
            }
            None => text.push_str("No Kubernetes connections.\n"),
            _ => {}
        }
        text
    })
}

/// The connections that are meant, as the control plane calls them.
async fn known(command: &Kubeconfig, session: &Session) -> Done<Vec<String>> {
    let list = session.wait("asking for the connections", session.client.get("/connections")).await?;
    let all: Vec<_> =
        table::items(&list).iter().map(|c| (table::text(c, "/name"), table::text(c, "/provider"))).collect();
    if command.all {
        return Ok(all.into_iter().filter(|(_, provider)| provider == "kubernetes").map(|(name, _)| name).collect());
    }
    for wanted in &command.connections {
        match all.iter().find(|(name, _)| name == wanted) {
            Some((_, provider)) if provider == "kubernetes" => {}
            Some((_, provider)) => {
                return Err(Code::WrongProvider.on(format!("connection {wanted} is of provider {provider}")).into());
            }
            None => {
                return Err(Code::NotFound
                    .on(format!("there is no connection {wanted:?}"))
                    .next("Run `runnerctl connection list`.")
                    .into());
            }
        }
    }
    Ok(command.connections.clone())
}

fn name(command: &Kubeconfig, connection: &str) -> String {
    command.name.clone().unwrap_or_else(|| format!("{PREFIX}{connection}"))
}

fn empty() -> Value {
    json!({ "apiVersion": "v1", "kind": "Config", "preferences": {}, "clusters": [], "users": [], "contexts": [], "current-context": "" })
}

/// Where the file is that kubectl changes.
fn file(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    let list = std::env::var_os("KUBECONFIG").unwrap_or_default();
    if let Some(first) = std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty()) {
        return Ok(first);
    }
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(|home| PathBuf::from(home).join(".kube").join("config"))
        .ok_or_else(|| Code::InvalidArgument.on("HOME is not set").next("Name the file with --file."))
}

fn load(path: &Path) -> Result<Value, Failure> {
    use std::io::Read as _;
    let mut text = String::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|e| stop::file(path, &e))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(empty()),
        Err(e) => return Err(stop::file(path, &e)),
    };
    if text.len() as u64 > FILE_MAX {
        return Err(Code::TooLarge.on(format!("{} is larger than {FILE_MAX} bytes", path.display())));
    }
    if text.trim().is_empty() {
        return Ok(empty());
    }
    // the parser's own message may quote what is secret
    let wrong = || {
        Code::InvalidArgument
            .on(format!("{} is not a kubeconfig", path.display()))
            .next("Correct it, or name another file with --file.")
    };
    let config: Value = serde_saphyr::from_str(&text).map_err(|_| wrong())?;
    let lists = LISTS.iter().all(|(list, _)| matches!(config.get(*list), None | Some(Value::Null | Value::Array(_))));
    if config.is_object() && lists { Ok(config) } else { Err(wrong()) }
}

fn written(config: &Value) -> Result<String, Failure> {
    serde_saphyr::to_string(config).map_err(|e| Code::Internal.on(format!("the kubeconfig cannot be written: {e}")))
}

/// Whole or not at all, and readable by its owner alone: what else is in it may be secret.
fn save(path: &Path, config: &Value) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let text = written(config)?;
    // a link stays one
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| stop::file(folder, &e))?;
    }
    shared_proto::file::write_whole(&target, text.as_bytes(), 0o600).map_err(|e| stop::file(path, &e))
}

/// Refuses a name that an entry has which is not ours: whoever made it may have its certificate nowhere else.
fn check_ours(config: &Value, name: &str, file: &Path) -> Result<(), Failure> {
    let foreign: Vec<_> = LISTS
        .into_iter()
        .filter(|(list, what)| named(config, list, name).any(|entry| !is_ours(config, what, &entry[*what])))
        .map(|(_, what)| what)
        .collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let (what, file) = (foreign.join(", "), file.display());
    let by_hand: Vec<_> = foreign.iter().map(|what| format!("`kubectl config delete-{what} {name}`")).collect();
    Err(Code::Conflict
        .on(format!("{file} has a {what} {name} that runnerctl has not made; nothing was changed"))
        .next(format!("Take another name with --name, or remove it yourself: {}.", by_hand.join(", "))))
}

/// The entries of a list that have this name.
fn named<'a>(config: &'a Value, list: &str, name: &'a str) -> impl Iterator<Item = &'a Value> {
    config[list].as_array().into_iter().flatten().filter(move |entry| entry["name"] == name)
}

/// Whether an entry is one of those that are written here: a user who gets tokens of `kube-token`, a context of such a user, a cluster whose
/// server is a connection's API.
fn is_ours(config: &Value, what: &str, entry: &Value) -> bool {
    match what {
        "user" => entry["exec"]["args"][0] == TOKEN,
        "context" => {
            let user = entry["user"].as_str().unwrap_or_default();
            named(config, "users", user).any(|user| is_ours(config, "user", &user["user"]))
        }
        _ => {
            let server = entry["server"].as_str().unwrap_or_default();
            server.split_once("/api/v1/").is_some_and(|(_, at)| {
                at.ends_with("/kubernetes") && (at.starts_with("connections/") || at.starts_with("runners/"))
            })
        }
    }
}

/// Puts in cluster, user and context of this name, in the place of those that are there.
fn add(
    config: &mut Value,
    connection: &str,
    command: &Kubeconfig,
    global: &Global,
    whose: &Context,
) -> Result<(), Failure> {
    let name = name(command, connection);
    let at = match &global.runner {
        Some(runner) => path(&["runners", runner, "connections", connection, "kubernetes"], &[]),
        None => path(&["connections", connection, "kubernetes"], &[]),
    };
    let mut cluster = json!({ "server": format!("{}/api/v1{at}", whose.endpoint.trim_end_matches('/')) });
    if let Some(ca) = &whose.ca {
        cluster["certificate-authority-data"] = base64::engine::general_purpose::STANDARD.encode(ca).into();
    }
    let mut context = json!({ "cluster": name, "user": name });
    if let Some(namespace) = &command.namespace {
        context["namespace"] = namespace.as_str().into();
    }
    let mut arguments = vec![TOKEN.to_owned()];
    arguments.extend(session_arguments(global)?);
    arguments.push(connection.to_owned());
    let user = json!({ "exec": {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": program()?,
        "args": arguments,
        "interactiveMode": "Never",
        "provideClusterInfo": false,
        "installHint": "runnerctl is needed: it gives the token for this cluster's API, which a runner passes through",
    } });
    for ((list, what), entry) in LISTS.into_iter().zip([cluster, user, context]) {
        if !config[list].is_array() {
            config[list] = json!([]);
        }
        let entries = config[list].as_array_mut().ok_or_else(|| Code::Internal.on("the kubeconfig has no list"))?;
        let new = json!({ "name": name, what: entry });
        match entries.iter_mut().find(|e| e["name"] == name.as_str()) {
            Some(old) => *old = new,
            None => entries.push(new),
        }
    }
    Ok(())
}

/// Takes cluster, user and context of this name out; whether there was one of them.
fn remove(config: &mut Value, name: &str) -> bool {
    let mut was_there = false;
    for (list, _) in LISTS {
        if let Some(entries) = config[list].as_array_mut() {
            let before = entries.len();
            entries.retain(|e| e["name"] != name);
            was_there |= entries.len() < before;
        }
    }
    if config["current-context"] == name {
        config["current-context"] = "".into();
    }
    was_there
}

/// This program, by its name where that is how it is found.
fn program() -> Result<String, Failure> {
    let own = std::env::current_exe().map_err(|e| Code::Internal.on(format!("this program's own path: {e}")))?;
    let found = std::env::var_os("PATH").and_then(|paths| {
        std::env::split_paths(&paths).map(|folder| folder.join("runnerctl")).find(|program| program.is_file())
    });
    let same = found.is_some_and(|found| std::fs::canonicalize(found).ok() == std::fs::canonicalize(&own).ok());
    Ok(if same { "runnerctl".to_owned() } else { own.display().to_string() })
}

/// What makes `kube-token` find the same control plane and user, whatever the current context is then.
fn session_arguments(global: &Global) -> Result<Vec<String>, Failure> {
    let mut arguments = Vec::new();
    let saved = ConfigFile::path().and_then(|path| ConfigFile::load(&path)).unwrap_or_default();
    if let Some(name) = global.context.clone().or(saved.current) {
        arguments.extend(["--context".to_owned(), name]);
    }
    if let Some(endpoint) = &global.endpoint {
        arguments.extend(["--endpoint".to_owned(), endpoint.clone()]);
    }
    for (flag, file) in [("--ca-file", &global.ca_file), ("--token-file", &global.token_file)] {
        if let Some(file) = file {
            let whole = std::path::absolute(file).map_err(|e| stop::file(file, &e))?;
            arguments.extend([flag.to_owned(), whole.display().to_string()]);
        }
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_others_stays_and_a_link_stays_a_link() {
        let folder = tempfile::tempdir().expect("a folder");
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        let text = "apiVersion: v1\nkind: Config\nclusters:\n- {name: a, cluster: {server: 'https://a', extra: \"0123\"}}\n\
                    users:\n- name: a\n  user: {token: \"yes\", n: '1e3', nl: \"a\\nb\"}\ncontexts: null\ncurrent-context: a\n";
        std::fs::write(&real, text).expect("writes");
        std::os::unix::fs::symlink(&real, &link).expect("links");
        let mut config = load(&link).expect("a kubeconfig");
        assert!(!remove(&mut config, "not-there"));
        save(&link, &config).expect("saves");
        assert!(std::fs::symlink_metadata(&link).expect("there").is_symlink());
        let back = load(&real).expect("still one");
        assert_eq!(back, config);
        assert_eq!(back["users"][0]["user"], json!({ "token": "yes", "n": "1e3", "nl": "a\nb" }));
        assert_eq!(back["clusters"][0]["cluster"]["extra"], "0123");
        assert!(remove(&mut config, "a"));
        assert_eq!((&config["clusters"], &config["current-context"]), (&json!([]), &json!("")));
    }

    #[test]
    fn what_somebody_else_made_under_that_name_is_neither_replaced_nor_removed() {
        let user = json!({ "exec": { "command": "runnerctl", "args": ["kube-token", "c"] } });
        let cluster = json!({ "server": "https://runner.example/api/v1/connections/c/kubernetes" });
        let context = json!({ "cluster": "x", "user": "x" });
        let ours = json!({
            "clusters": [{ "name": "x", "cluster": cluster }],
            "users": [{ "name": "x", "user": user }, { "name": "own", "user": { "client-key-data": "a2V5" } }],
            "contexts": [{ "name": "x", "context": context }],
        });
        let file = Path::new("config");
        let said = |config: &Value, name: &str| check_ours(config, name, file).expect_err("is somebody else's");
        assert_eq!(check_ours(&ours, "x", file), Ok(()));
        assert_eq!(check_ours(&ours, "new", file), Ok(()));
        assert_eq!(check_ours(&empty(), "x", file), Ok(()));
        let failure = said(&ours, "own");
        assert_eq!((failure.code, failure.message.starts_with("config has a user own that")), (Code::Conflict, true));
        assert!(failure.next_step.contains("--name") && failure.next_step.contains("delete-user own"), "{failure}");
        for (list, what, entry) in [
            ("users", "user", json!({ "client-certificate-data": "Y2VydA==" })),
            ("users", "user", json!({ "exec": { "command": "aws", "args": ["eks", "get-token"] } })),
            ("clusters", "cluster", json!({ "server": "https://192.168.49.2:8443" })),
            ("contexts", "context", json!({ "cluster": "x", "user": "own" })),
            ("contexts", "context", json!({ "cluster": "x", "user": "gone" })),
        ] {
            let mut config = ours.clone();
            config[list][0][what] = entry;
            assert!(said(&config, "x").message.contains(what), "{config}");
        }
        let whole = json!({
            "clusters": [{ "name": "minikube", "cluster": { "server": "https://192.168.49.2:8443" } }],
            "users": [{ "name": "minikube", "user": { "client-certificate": "/a" } }],
            "contexts": [{ "name": "minikube", "context": { "cluster": "minikube", "user": "minikube" } }],
        });
        assert!(said(&whole, "minikube").message.starts_with("config has a cluster, user, context minikube that"));
    }

    #[test]
    fn what_is_no_kubeconfig_is_not_overwritten_and_not_quoted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        for bad in ["[secret", "- secret", "clusters: secret", "secret"] {
            std::fs::write(&path, bad).expect("writes");
            let failure = load(&path).expect_err(bad);
            assert!(failure.code == Code::InvalidArgument && !failure.to_string().contains("secret"), "{failure}");
        }
        for none in ["", " \n"] {
            std::fs::write(&path, none).expect("writes");
            assert_eq!(load(&path).expect("an empty one"), empty());
        }
    }
}
