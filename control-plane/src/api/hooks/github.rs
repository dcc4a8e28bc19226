//! GitHub: <https://docs.github.com/en/webhooks/webhook-events-and-payloads>.

use super::{Event, PullRequest, branch, commit, listed, pushed, texts};
use serde_json::Value;

/// As many commits of a push are told; of one with more not all.
const COMMITS_TOLD: u64 = 2048;
/// The members of a repository that have its addresses.
const ADDRESSES: [&str; 3] = ["clone_url", "ssh_url", "html_url"];

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
    // of a branch that is new, or was made to be another one, they are not what has changed since
    let told = payload["created"] != true
        && payload["forced"] != true
        && payload["commits"].is_array()
        && listed(payload) < COMMITS_TOLD;
    pushed(payload, (&payload["repository"], &ADDRESSES), payload["deleted"] == true, told)
}

fn pull_request(payload: &Value) -> Option<Event> {
    let action = payload["action"].as_str()?;
    if !matches!(action, "opened" | "reopened" | "synchronize" | "ready_for_review") {
        return Some(Event::Nothing(format!("the pull request was {action:?}: its head is what it was")));
    }
    let (head, base) = (&payload["pull_request"]["head"], &payload["pull_request"]["base"]);
    Some(Event::PullRequest(PullRequest {
        repository: texts(&base["repo"], &ADDRESSES)?,
        target: branch(&base["ref"])?,
        default_branch: branch(&base["repo"]["default_branch"]),
        head: commit(&head["sha"])?,
        own: head["repo"]["id"].is_u64() && head["repo"]["id"] == base["repo"]["id"],
    }))
}
