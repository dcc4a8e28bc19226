//! `k8s top`: what nodes and pods use, where the cluster measures it.

use super::api::{Api, JSON};
use super::words::{Name, Place, Selectors, name_of};
use crate::client::path;
use crate::commands::Session;
use crate::output::table::{self, Widths};
use crate::stop::Done;
use serde_json::{Value, json};
use shared_proto::failure::{Code, Failure};
use std::collections::HashMap;

/// `k8s top`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Top {
    /// Of nodes
    #[command(visible_aliases = ["node", "no"])]
    Nodes {
        /// Only this one; a star at the end stands for any rest
        name: Option<String>,
        #[command(flatten)]
        selectors: Selectors,
    },
    /// Of pods
    #[command(visible_aliases = ["pod", "po"])]
    Pods {
        /// Only this one; a star at the end stands for any rest
        name: Option<String>,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        selectors: Selectors,
        /// Each container by itself
        #[arg(long)]
        containers: bool,
    },
}

/// `k8s top`
pub(super) async fn run(command: Top, api: &Api, session: &Session) -> Done {
    match command {
        Top::Nodes { name, selectors } => {
            let reading = async {
                let used = metrics(api, &["nodes"], &selectors, name.as_deref()).await?;
                // how much there is of it
                let mut nodes = HashMap::new();
                let target = |page: &[(&str, &str)]| path(&["api", "v1", "nodes"], page);
                api.pages(target, JSON, |page| {
                    for node in table::items(&page) {
                        nodes.insert(name_of(node).to_owned(), node["status"]["allocatable"].clone());
                    }
                })
                .await?;
                Ok((used, nodes))
            };
            let (used, nodes) = session.wait("asking what is used", reading).await?;
            let list = json!({ "items": used });
            session.output.document(&list, |_| of_nodes(&used, &nodes))
        }
        Top::Pods { name, place, selectors, containers } => {
            let reading = async {
                let namespace =
                    if place.all_namespaces { None } else { Some(api.namespace(place.namespace.as_deref()).await?) };
                let segments = match &namespace {
                    Some(namespace) => vec!["namespaces", namespace, "pods"],
                    None => vec!["pods"],
                };
                metrics(api, &segments, &selectors, name.as_deref()).await
            };
            let used = session.wait("asking what is used", reading).await?;
            let list = json!({ "items": used });
            session.output.document(&list, |_| of_pods(&used, place.all_namespaces, containers))
        }
    }
}

async fn metrics(api: &Api, below: &[&str], selectors: &Selectors, name: Option<&str>) -> Result<Vec<Value>, Failure> {
    let segments = [&["apis", "metrics.k8s.io", "v1beta1"], below].concat();
    let selected = selectors.query();
    let mut all = Vec::new();
    let target = |page: &[(&str, &str)]| path(&segments, &[&selected, page].concat());
    let listed = api
        .pages(target, JSON, |mut page| {
            all.extend(page["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
        })
        .await;
    listed.map_err(|failure| match failure.code {
        Code::TargetNotFound | Code::TargetFailed => Code::TargetNotFound
            .on(format!(
                "the cluster does not measure what is used: its metrics API is not available ({})",
                failure.message
            ))
            .next("Have metrics-server, or another provider of metrics.k8s.io, installed in the cluster."),
        _ => failure,
    })?;
    if let Some(name) = name {
        all.retain(|one| match Name::read(name) {
            Name::Whole(name) => name_of(one) == name,
            Name::Beginning(beginning) => name_of(one).starts_with(beginning),
        });
        if all.is_empty() {
            return Err(Code::TargetNotFound.on(format!("nothing called {name:?} is measured")));
        }
    }
    all.sort_by_key(|one| (table::text(one, "/metadata/namespace"), name_of(one).to_owned()));
    Ok(all)
}

fn of_nodes(used: &[Value], nodes: &HashMap<String, Value>) -> String {
    let mut lines = vec![["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"].map(str::to_owned).to_vec()];
    for one in used {
        let there = nodes.get(name_of(one)).unwrap_or(&Value::Null);
        let share = |what: &str| match (amount(&one["usage"][what]), amount(&there[what])) {
            (used, all) if all > 0.0 => format!("{}%", (used * 100.0 / all) as u64),
            _ => "<unknown>".to_owned(),
        };
        let (cpu, memory) = (cores(amount(&one["usage"]["cpu"])), mebibytes(amount(&one["usage"]["memory"])));
        lines.push(vec![name_of(one).to_owned(), cpu, share("cpu"), memory, share("memory")]);
    }
    Widths::default().set(&lines)
}

fn of_pods(used: &[Value], namespaces: bool, each: bool) -> String {
    let mut header = vec!["NAME", "CPU(cores)", "MEMORY(bytes)"];
    if each {
        header = vec!["POD", "NAME", "CPU(cores)", "MEMORY(bytes)"];
    }
    if namespaces {
        header.insert(0, "NAMESPACE");
    }
    let mut lines = vec![header.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for pod in used {
        let containers = pod["containers"].as_array().map_or(&[][..], Vec::as_slice);
        let mut add = |name: Option<String>, which: &[Value]| {
            let sum = |what: &str| which.iter().map(|c| amount(&c["usage"][what])).sum::<f64>();
            let mut line = vec![name_of(pod).to_owned()];
            line.extend(name);
            line.extend([cores(sum("cpu")), mebibytes(sum("memory"))]);
            if namespaces {
                line.insert(0, table::text(pod, "/metadata/namespace"));
            }
            lines.push(line);
        };
        if each {
            containers.iter().for_each(|c| add(Some(table::text(c, "/name")), std::slice::from_ref(c)));
        } else {
            add(None, containers);
        }
    }
    if lines.len() == 1 { "Nothing is measured.\n".into() } else { Widths::default().set(&lines) }
}

fn cores(amount: f64) -> String {
    format!("{}m", (amount * 1000.0).ceil() as u64)
}

fn mebibytes(amount: f64) -> String {
    format!("{}Mi", (amount / (1024.0 * 1024.0)) as u64)
}

/// A quantity of Kubernetes: `250m`, `1500000n`, `128Mi`, `2`; zero where it is none.
fn amount(value: &Value) -> f64 {
    let text = match value {
        Value::String(text) => text.as_str(),
        Value::Number(number) => return number.as_f64().unwrap_or(0.0),
        _ => return 0.0,
    };
    let at = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        exponent if exponent.starts_with(['e', 'E']) => return text.parse().unwrap_or(0.0),
        _ => return 0.0,
    };
    number.parse::<f64>().unwrap_or(0.0) * factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used() {
        for (text, expected) in
            [("250m", 0.25), ("2", 2.0), ("1500000n", 0.0015), ("1Ki", 1024.0), ("1e3", 1000.0), ("x", 0.0), ("", 0.0)]
        {
            assert!((amount(&json!(text)) - expected).abs() < 1e-9, "{text}");
        }
        let used = [json!({"metadata": {"name": "n"}, "usage": {"cpu": "150m", "memory": "524288Ki"}})];
        let nodes = HashMap::from([("n".to_owned(), json!({"cpu": "1", "memory": "1Gi"}))]);
        assert_eq!(
            of_nodes(&used, &nodes),
            "NAME   CPU(cores)   CPU(%)   MEMORY(bytes)   MEMORY(%)\nn      150m         15%      512Mi           50%\n"
        );
        let pod = [json!({"metadata": {"name": "p", "namespace": "n"}, "containers": [
            {"name": "a", "usage": {"cpu": "1m", "memory": "1Mi"}}, {"name": "b", "usage": {"cpu": "2m", "memory": "2Mi"}}]})];
        assert_eq!(
            of_pods(&pod, true, false),
            "NAMESPACE   NAME   CPU(cores)   MEMORY(bytes)\nn           p      3m           3Mi\n"
        );
        assert_eq!(of_pods(&pod, false, true).lines().count(), 3);
    }
}
