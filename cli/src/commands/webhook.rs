//! `webhook`: hooks by which Git hosts tell of pushes and pull requests.

use super::Session;
use crate::client::path;
use crate::output::{escape, table};
use crate::stop::Done;
use serde_json::{Value, json};

/// The kinds of hosts.
const HOSTS: [&str; 4] = ["github", "gitlab", "bitbucket", "gitea"];

/// `webhook`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum WebhookCommand {
    /// Make one: its address and its secret are shown this once. Its jobs are made for whoever makes it
    Create {
        /// The kind of host
        #[arg(value_parser = HOSTS)]
        host: String,
        /// A stack that it is about; may be given several times, and each has the same branches, paths and rules
        #[arg(long = "stack", value_name = "NAME", required = true)]
        stacks: Vec<String>,
        /// Only this branch, as a pattern; the stack's own reference by default
        #[arg(long = "branch", value_name = "PATTERN")]
        branches: Vec<String>,
        /// Only where a file like this was changed, such as 'modules/*': `*` stands for anything, slashes too
        #[arg(long = "path", value_name = "PATTERN")]
        paths: Vec<String>,
        /// What a push is made into
        #[arg(long, value_parser = ["update", "preview"], default_value = "update")]
        kind: String,
        /// What becomes of pull requests: previewed without secrets and credentials; those from branches of the repository like any preview; nothing
        #[arg(long, value_parser = ["untrusted", "trust-own", "off"], default_value = "untrusted")]
        pull_requests: String,
        /// A variable of the stack that previews without secrets get
        #[arg(long = "variable", value_name = "NAME")]
        variables: Vec<String>,
    },
    /// All webhooks
    List,
    /// Remove one; its jobs stay
    Remove {
        /// Its id
        id: String,
    },
    /// What came by one, and what was made of it, newest first
    Deliveries {
        /// Its id
        id: String,
        /// At most so many
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        limit: u32,
    },
}

/// `webhook …`, at the API that is there.
pub(crate) async fn run(command: WebhookCommand, endpoint: &str, session: &Session) -> Done {
    let client = &session.client;
    match command {
        WebhookCommand::Create { host, stacks, branches, paths, kind, pull_requests, variables } => {
            let routes: Vec<_> = stacks
                .iter()
                .map(|stack| {
                    json!({ "stack": stack, "branches": branches, "paths": paths, "kind": kind,
                        "pull_requests": pull_requests.replace('-', "_"), "variables": variables })
                })
                .collect();
            let body = json!({ "host": host, "routes": routes });
            let mut made = session.wait("making a webhook", client.post("/webhooks", &body)).await?;
            made["url"] = format!("{}{}", endpoint.trim_end_matches('/'), table::text(&made, "/path")).into();
            session.output.document(&made, created)
        }
        WebhookCommand::List => {
            let list = session.wait("listing webhooks", client.get("/webhooks")).await?;
            session.output.document(&list, listed)
        }
        WebhookCommand::Remove { id } => {
            session.wait("removing the webhook", client.delete(&path(&["webhooks", &id], &[]))).await?;
            session.output.document(&Value::Null, |_| format!("Webhook {} is removed.\n", escape::line(&id)))
        }
        WebhookCommand::Deliveries { id, limit } => {
            let at = path(&["webhooks", &id, "deliveries"], &[("limit", &limit.to_string())]);
            let list = session.wait("asking", client.get(&at)).await?;
            session.output.document(&list, deliveries)
        }
    }
}

fn created(made: &Value) -> String {
    let fields = table::fields([
        ("id", table::text(made, "/id")),
        ("url", table::text(made, "/url")),
        ("content type", "application/json".to_owned()),
        ("secret", table::text(made, "/secret")),
    ]);
    format!("{fields}\nThe secret is not shown again. Set both up at the Git host: docs/webhooks.md says where.\n")
}

fn listed(list: &Value) -> String {
    let rows = table::items(list).iter().flat_map(|hook| {
        let routes = hook["routes"].as_array().map_or(&[][..], Vec::as_slice);
        routes.iter().map(move |route| {
            let patterns = |name: &str, none: &str| match route[name].as_array() {
                Some(all) if !all.is_empty() => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
                _ => none.to_owned(),
            };
            vec![
                table::text(hook, "/id"),
                table::text(hook, "/host"),
                table::text(route, "/name"),
                patterns("branches", "its own"),
                patterns("paths", "any"),
                table::text(route, "/kind"),
                table::text(route, "/pull_requests"),
                table::text(hook, "/user"),
            ]
        })
    });
    let header = ["ID", "HOST", "STACK", "BRANCHES", "PATHS", "KIND", "PULL REQUESTS", "FOR"];
    table::rows(&header, rows, "No webhooks.")
}

fn deliveries(list: &Value) -> String {
    let rows = table::items(list).iter().map(|one| {
        let each = |at: &str, what: &str| {
            let all = one.pointer(at).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            all.iter().map(|of| format!("{}: {}", table::text(of, "/stack"), table::text(of, what))).collect::<Vec<_>>()
        };
        let mut made = each("/answer/jobs", "/job");
        made.extend(each("/answer/skipped", "/why"));
        made.extend(one.pointer("/answer/said").and_then(Value::as_str).map(str::to_owned));
        let event = [table::text(one, "/event"), table::text(one, "/delivery")].join(" ");
        vec![table::moment(one, "/received_at_ms"), table::text(one, "/times"), event, made.join("; ")]
    });
    table::rows(&["RECEIVED", "TIMES", "EVENT", "WHAT BECAME OF IT"], rows, "Nothing came by it.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_webhooks() {
        let made = json!({ "id": "whk_1", "url": "https://cp/api/v1/hooks/whk_1", "secret": "s3cr3t" });
        assert!(created(&made).contains("https://cp/api/v1/hooks/whk_1") && created(&made).contains("s3cr3t"));
        let list = json!({ "items": [{ "id": "whk_1", "host": "github", "user": "ann", "routes": [
            { "name": "web", "branches": [], "paths": ["modules/*"], "kind": "update", "pull_requests": "untrusted" },
        ] }] });
        let text = listed(&list);
        assert!(text.contains("its own") && text.contains("modules/*"), "{text}");
        let came = json!({ "items": [{ "received_at_ms": 1, "times": 2, "event": "push", "delivery": "d", "answer": {
            "jobs": [{ "stack": "web", "job": "job_1" }], "skipped": [{ "stack": "db", "why": "it is of another branch" }],
        } }] });
        let text = deliveries(&came);
        assert!(text.contains("web: job_1") && text.contains("db: it is of another branch"), "{text}");
    }
}
