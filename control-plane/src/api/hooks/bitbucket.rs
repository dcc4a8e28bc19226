//! Bitbucket Cloud: <https://support.atlassian.com/bitbucket-cloud/docs/event-payloads/>. It tells no files, and of the head of a pull request twelve
//! digits: where its branch is one of the repository itself, the branch is taken instead.

use super::{Event, PullRequest, Push, branch, commit};
use serde_json::Value;

/// Reads an event of that name; `None`: it is not of the form that is documented.
pub(super) fn read(event: &str, payload: &Value) -> Option<Event> {
    match event {
        "diagnostics:ping" => Some(Event::Ping),
        "repo:push" => push(payload),
        "pullrequest:created" | "pullrequest:updated" => pull_request(payload),
        other => Some(Event::Nothing(format!("nothing is made of {other:?}"))),
    }
}

fn push(payload: &Value) -> Option<Event> {
    let repository = repository(&payload["repository"])?;
    let mut pushes = Vec::new();
    for change in payload["push"]["changes"].as_array()? {
        let new = &change["new"];
        // one that was deleted has none
        if new["type"] != "branch" {
            continue;
        }
        pushes.push(Push {
            repository: repository.clone(),
            branch: branch(&new["name"])?,
            default_branch: None,
            commit: commit(&new["target"]["hash"])?,
            files: None,
        });
    }
    Some(match pushes.is_empty() {
        true => Event::Nothing("no branch was pushed that is there now".into()),
        false => Event::Pushes(pushes),
    })
}

fn pull_request(payload: &Value) -> Option<Event> {
    let (source, destination) = (&payload["pullrequest"]["source"], &payload["pullrequest"]["destination"]);
    let own = source["repository"]["full_name"].is_string()
        && source["repository"]["full_name"] == destination["repository"]["full_name"];
    let head = match commit(&source["commit"]["hash"]) {
        Some(commit) => commit,
        None if own => format!("refs/heads/{}", branch(&source["branch"]["name"])?),
        None => {
            let why = "Bitbucket tells the head of a pull request of another repository by a few digits, by which nobody can fetch it";
            return Some(Event::Nothing(why.into()));
        }
    };
    Some(Event::PullRequest(PullRequest {
        repository: repository(&payload["repository"])?,
        target: branch(&destination["branch"]["name"])?,
        default_branch: None,
        head,
        own,
    }))
}

fn repository(of: &Value) -> Option<Vec<String>> {
    let mut all: Vec<_> = of["links"]["html"]["href"].as_str().map(str::to_owned).into_iter().collect();
    if let Some(name) = of["full_name"].as_str() {
        all.push(format!("https://bitbucket.org/{name}"));
        all.push(format!("git@bitbucket.org:{name}.git"));
    }
    Some(all).filter(|all| !all.is_empty())
}
