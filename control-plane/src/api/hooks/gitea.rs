//! Gitea and Forgejo: <https://docs.gitea.com/usage/repository/webhooks>.

use super::{Event, PullRequest, branch, commit, is_none, listed, pushed, texts};
use serde_json::Value;

/// The members of a repository that have its addresses.
const ADDRESSES: [&str; 3] = ["clone_url", "ssh_url", "html_url"];

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
    let deleted = payload["after"].as_str().is_some_and(is_none);
    let is_new = payload["before"].as_str().is_none_or(is_none);
    let told = !is_new && payload["total_commits"].as_u64().is_none_or(|all| all <= listed(payload));
    pushed(payload, (&payload["repository"], &ADDRESSES), deleted, told)
}

fn pull_request(payload: &Value) -> Option<Event> {
    let action = payload["action"].as_str()?;
    if !matches!(action, "opened" | "reopened" | "synchronized") {
        return Some(Event::Nothing(format!("the pull request was {action:?}: its head is what it was")));
    }
    let (head, base) = (&payload["pull_request"]["head"], &payload["pull_request"]["base"]);
    Some(Event::PullRequest(PullRequest {
        repository: texts(&payload["repository"], &ADDRESSES)?,
        target: branch(&base["ref"])?,
        default_branch: branch(&payload["repository"]["default_branch"]),
        head: commit(&head["sha"])?,
        own: head["repo_id"].is_u64() && head["repo_id"] == base["repo_id"],
    }))
}
