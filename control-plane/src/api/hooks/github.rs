//! GitHub: <https://docs.github.com/en/webhooks/webhook-events-and-payloads>.

use super::{Event, PullRequest, Push, branch, commit, files, texts};
use serde_json::Value;

/// As many commits of a push are told; of one with more not all.
const COMMITS_TOLD: usize = 2048;

/// Reads an event of that name; `None`: it is not of the form that is documented.
pub(super) fn read(event: &str, payload: &Value) -> Option<Event> {
    match event {
        "ping" => Some(Event::Ping),
        "push" => push(payload),
        "pull_request" => pull_request(payload),
        other => Some(Event::Nothing(format!("nothing is made of {other:?}"))),
    }
}

fn push(payload: &Value) -> Option<Event> {
    let Some(name) = payload["ref"].as_str()?.strip_prefix("refs/heads/") else {
        return Some(Event::Nothing("it is no branch that was pushed".into()));
    };
    if payload["deleted"] == true {
        return Some(Event::Nothing(format!("the branch {name} was deleted")));
    }
    // of a branch that is new, or was made to be another one, they are not what has changed since
    let told = payload["created"] != true
        && payload["forced"] != true
        && payload["commits"].as_array().is_some_and(|commits| commits.len() < COMMITS_TOLD);
    Some(Event::Pushes(vec![Push {
        repository: repository(&payload["repository"])?,
        branch: branch(&Value::from(name))?,
        default_branch: branch(&payload["repository"]["default_branch"]),
        commit: commit(&payload["after"])?,
        files: told.then(|| files(&payload["commits"])).flatten(),
    }]))
}

fn pull_request(payload: &Value) -> Option<Event> {
    let action = payload["action"].as_str()?;
    if !matches!(action, "opened" | "reopened" | "synchronize" | "ready_for_review") {
        return Some(Event::Nothing(format!("the pull request was {action:?}: its head is what it was")));
    }
    let (head, base) = (&payload["pull_request"]["head"], &payload["pull_request"]["base"]);
    Some(Event::PullRequest(PullRequest {
        repository: repository(&base["repo"])?,
        target: branch(&base["ref"])?,
        default_branch: branch(&base["repo"]["default_branch"]),
        head: commit(&head["sha"])?,
        own: head["repo"]["id"].is_u64() && head["repo"]["id"] == base["repo"]["id"],
    }))
}

fn repository(of: &Value) -> Option<Vec<String>> {
    Some(texts(of, &["clone_url", "ssh_url", "html_url"])).filter(|all| !all.is_empty())
}
