//! Gitea and Forgejo: <https://docs.gitea.com/usage/repository/webhooks>.

use super::{Event, PullRequest, Push, branch, commit, files, is_none, texts};
use serde_json::Value;

/// Reads an event of that name; `None`: it is not of the form that is documented.
pub(super) fn read(event: &str, payload: &Value) -> Option<Event> {
    match event {
        "push" => push(payload),
        // a head that has moved has a name of its own in the settings of hooks, and in newer versions in the header too
        "pull_request" | "pull_request_sync" => pull_request(payload),
        other => Some(Event::Nothing(format!("nothing is made of {other:?}"))),
    }
}

fn push(payload: &Value) -> Option<Event> {
    let Some(name) = payload["ref"].as_str()?.strip_prefix("refs/heads/") else {
        return Some(Event::Nothing("it is no branch that was pushed".into()));
    };
    if payload["after"].as_str().is_some_and(is_none) {
        return Some(Event::Nothing(format!("the branch {name} was deleted")));
    }
    let is_new = payload["before"].as_str().is_none_or(is_none);
    let listed = payload["commits"].as_array().map_or(0, Vec::len) as u64;
    let told = !is_new && payload["total_commits"].as_u64().is_none_or(|all| all <= listed);
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
    if !matches!(action, "opened" | "reopened" | "synchronized") {
        return Some(Event::Nothing(format!("the pull request was {action:?}: its head is what it was")));
    }
    let (head, base) = (&payload["pull_request"]["head"], &payload["pull_request"]["base"]);
    Some(Event::PullRequest(PullRequest {
        repository: repository(&payload["repository"])?,
        target: branch(&base["ref"])?,
        default_branch: branch(&payload["repository"]["default_branch"]),
        head: commit(&head["sha"])?,
        own: head["repo_id"].is_u64() && head["repo_id"] == base["repo_id"],
    }))
}

fn repository(of: &Value) -> Option<Vec<String>> {
    Some(texts(of, &["clone_url", "ssh_url", "html_url"])).filter(|all| !all.is_empty())
}
