//! GitLab: <https://docs.gitlab.com/user/project/integrations/webhook_events/>.

use super::{Event, PullRequest, branch, commit, is_none, listed, pushed, texts};
use serde_json::Value;

/// The members of a project that have its addresses.
const ADDRESSES: [&str; 3] = ["git_http_url", "git_ssh_url", "web_url"];

/// Reads an event, which says itself what it is; `None`: it is not of the form that is documented.
pub(super) fn read(payload: &Value) -> Option<Event> {
    match payload["object_kind"].as_str()? {
        "push" => push(payload),
        "merge_request" => merge_request(payload),
        other => Some(Event::Nothing(format!("nothing is made of {other:?}"))),
    }
}

fn push(payload: &Value) -> Option<Event> {
    let deleted = payload["after"].as_str().is_some_and(is_none);
    // twenty commits are told at most
    let is_new = payload["before"].as_str().is_none_or(is_none);
    let told = !is_new && payload["total_commits_count"].as_u64().is_some_and(|all| all <= listed(payload));
    pushed(payload, (&payload["project"], &ADDRESSES), deleted, told)
}

fn merge_request(payload: &Value) -> Option<Event> {
    let of = &payload["object_attributes"];
    let action = of["action"].as_str()?;
    // an update without it is one of its words alone
    let has_moved = action == "update" && of["oldrev"].is_string();
    if !has_moved && !matches!(action, "open" | "reopen") {
        return Some(Event::Nothing(format!("the merge request had {action:?}: its head is what it was")));
    }
    Some(Event::PullRequest(PullRequest {
        repository: texts(&payload["project"], &ADDRESSES)?,
        target: branch(&of["target_branch"])?,
        default_branch: branch(&payload["project"]["default_branch"]),
        head: commit(&of["last_commit"]["id"])?,
        own: of["source_project_id"].is_u64() && of["source_project_id"] == of["target_project_id"],
    }))
}
