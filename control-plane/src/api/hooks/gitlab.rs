//! GitLab: <https://docs.gitlab.com/user/project/integrations/webhook_events/>.

use super::{Event, PullRequest, Push, branch, commit, files, is_none, texts};
use serde_json::Value;

/// Reads an event, which says itself what it is; `None`: it is not of the form that is documented.
pub(super) fn read(payload: &Value) -> Option<Event> {
    match payload["object_kind"].as_str()? {
        "push" => push(payload),
        "merge_request" => merge_request(payload),
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
    // twenty commits are told at most
    let is_new = payload["before"].as_str().is_none_or(is_none);
    let listed = payload["commits"].as_array().map_or(0, Vec::len) as u64;
    let told = !is_new && payload["total_commits_count"].as_u64().is_some_and(|all| all <= listed);
    Some(Event::Pushes(vec![Push {
        repository: project(&payload["project"])?,
        branch: branch(&Value::from(name))?,
        default_branch: branch(&payload["project"]["default_branch"]),
        commit: commit(&payload["after"])?,
        files: told.then(|| files(&payload["commits"])).flatten(),
    }]))
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
        repository: project(&payload["project"])?,
        target: branch(&of["target_branch"])?,
        default_branch: branch(&payload["project"]["default_branch"]),
        head: commit(&of["last_commit"]["id"])?,
        own: of["source_project_id"].is_u64() && of["source_project_id"] == of["target_project_id"],
    }))
}

fn project(of: &Value) -> Option<Vec<String>> {
    Some(texts(of, &["git_http_url", "git_ssh_url", "web_url"])).filter(|all| !all.is_empty())
}
