//! What there is, and then each change of it: over as many connections as it takes.

use super::api::Api;
use crate::client::job_events::{self, BACKOFF, PATIENCE};
use crate::output::{remark, table};
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use std::time::{Duration, Instant};

/// Asked to end a watch itself after this long, the API server does, and the next one goes on from there: what has been cut without
/// anybody's knowing is found then.
const WATCH_SECONDS: &str = "300";
/// The same at this end, with time for the answer to come.
const SILENCE: Duration = Duration::from_secs(330);

/// A list that is followed.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    api: &'a Api,
    accept: &'static str,
    /// From which version it goes on; none: what there is comes first.
    version: Option<String>,
    stream: Option<super::api::Documents>,
    /// What the last page of a list says is still to come.
    more: Option<String>,
    /// What there was has been given out before.
    again: bool,
}

/// What has come.
#[derive(Debug)]
pub(super) enum Change {
    /// What there is, a page of it.
    All(Value),
    /// One object, or the table of one.
    One {
        /// It is no more.
        gone: bool,
        /// It, or what it was.
        object: Value,
    },
}

/// What passes: the same may work in a while, also where it is the runner that is away.
pub(super) fn is_passing(failure: &Failure) -> bool {
    job_events::is_passing(failure) || matches!(failure.code, Code::RunnerUnavailable | Code::RunnerLeaving)
}

// === impl Watch ===

impl<'a> Watch<'a> {
    /// Of what is listed in that form.
    pub(super) fn new(api: &'a Api, accept: &'static str) -> Self {
        Self { api, accept, version: None, stream: None, more: None, again: false }
    }

    /// The next change. A connection that is lost is made anew, and what changed meanwhile comes then. `target`: where the list is, with
    /// more in its query.
    pub(super) async fn next(&mut self, target: &impl Fn(&[(&str, &str)]) -> String) -> Result<Change, Failure> {
        let (mut backoff, mut cut_since): (Duration, Option<Instant>) = (BACKOFF.0, None);
        loop {
            let failure = match self.step(target).await {
                Ok(Some(change)) => return Ok(change),
                Ok(None) => {
                    (backoff, cut_since) = (BACKOFF.0, None);
                    continue;
                }
                Err(failure) => failure,
            };
            self.stream = None;
            let begun = self.version.is_some() || self.again;
            if !begun || !is_passing(&failure) || cut_since.is_some_and(|since| since.elapsed() > PATIENCE) {
                return Err(failure);
            }
            if cut_since.is_none() {
                remark(&format!("{}: it goes on when the connection is back", failure.message));
                cut_since = Some(Instant::now());
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// One page or one change; none where another connection follows.
    async fn step(&mut self, target: &impl Fn(&[(&str, &str)]) -> String) -> Result<Option<Change>, Failure> {
        let Some(version) = &self.version else { return self.list(target).await.map(Some) };
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let query = [
                    ("watch", "true"),
                    ("resourceVersion", version.as_str()),
                    ("allowWatchBookmarks", "true"),
                    ("timeoutSeconds", WATCH_SECONDS),
                ];
                match self.api.documents(&target(&query), self.accept).await {
                    Ok(stream) => {
                        *none = Some(stream);
                        return Ok(None);
                    }
                    Err(failure) if is_too_old(&failure.message) => {
                        self.begin_again();
                        return Ok(None);
                    }
                    Err(failure) => return Err(failure),
                }
            }
        };
        let came = tokio::time::timeout(SILENCE, stream.next())
            .await
            .map_err(|_| super::api::lost("nothing came of the watch for too long"))??;
        let Some(mut event) = came else {
            self.stream = None;
            return Ok(None);
        };
        let object = event["object"].take();
        let kind = event["type"].as_str().unwrap_or_default();
        if kind == "ERROR" {
            // its place in the history is gone: all of it comes anew
            if object["code"] == 410 {
                self.begin_again();
                return Ok(None);
            }
            let failure = crate::client::status_failure(&object, 500);
            return Err(failure.unwrap_or_else(|| Code::TargetFailed.on("the API server ended the watch")));
        }
        let version = ["/metadata/resourceVersion", "/rows/0/object/metadata/resourceVersion"]
            .into_iter()
            .map(|at| table::text(&object, at))
            .find(|version| !version.is_empty());
        self.version = version.or_else(|| self.version.take());
        Ok((kind != "BOOKMARK").then(|| Change::One { gone: kind == "DELETED", object }))
    }

    fn begin_again(&mut self) {
        (self.stream, self.version, self.more, self.again) = (None, None, None, true);
    }

    async fn list(&mut self, target: &impl Fn(&[(&str, &str)]) -> String) -> Result<Change, Failure> {
        let mut query = vec![("limit", "500")];
        query.extend(self.more.as_deref().map(|more| ("continue", more)));
        let page = self.api.get(&target(&query), self.accept).await?;
        let next = table::text(&page, "/metadata/continue");
        self.more = Some(next).filter(|next| !next.is_empty());
        if self.more.is_none() {
            self.version = Some(table::text(&page, "/metadata/resourceVersion"));
        }
        Ok(Change::All(page))
    }
}

fn is_too_old(message: &str) -> bool {
    message.contains("too old resource version")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::path;
    use crate::client::tests::{answer, api};
    use crate::commands::k8s::api::JSON;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_watch_goes_on_where_it_was_and_begins_again_where_that_is_gone() {
        let count = AtomicUsize::new(0);
        let event = |kind: &str, name: &str, version: u32| {
            format!(r#"{{"type":"{kind}","object":{{"metadata":{{"name":"{name}","resourceVersion":"{version}"}}}}}}"#)
                + "\n"
        };
        let list = |name: &str, version: u32| {
            format!(r#"{{"metadata":{{"resourceVersion":"{version}"}},"items":[{{"metadata":{{"name":"{name}"}}}}]}}"#)
        };
        let client = api(move |asked| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let from = asked.path.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).map(str::to_owned);
            match (number, from.as_deref()) {
                (0, None) => answer(200, &list("a", 5)),
                (1, Some("5")) => answer(200, &(event("ADDED", "b", 6) + &event("BOOKMARK", "", 9))),
                // the runner is away for a moment
                (2, Some("9")) => answer(
                    503,
                    r#"{"kind":"Status","apiVersion":"v1","code":503,"message":"runner_unavailable: runner r (Wait.)"}"#,
                ),
                (3, Some("9")) => {
                    answer(200, "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"code\":410}}\n")
                }
                (4, None) => answer(200, &list("c", 20)),
                (5, Some("20")) => answer(200, &event("DELETED", "c", 21)),
                _ => answer(403, r#"{"kind":"Status","apiVersion":"v1","code":403,"message":"no more"}"#),
            }
        })
        .await;
        let api = Api::to(client);
        let target = |more: &[(&str, &str)]| path(&["api", "v1", "pods"], more);
        let mut watch = Watch::new(&api, JSON);
        let mut came = Vec::new();
        let failure = loop {
            match watch.next(&target).await {
                Ok(Change::All(page)) => came.push(format!("all {}", table::text(&page, "/items/0/metadata/name"))),
                Ok(Change::One { gone, object }) => {
                    came.push(format!("{gone} {}", table::text(&object, "/metadata/name")))
                }
                Err(failure) => break failure,
            }
        };
        assert_eq!(came, ["all a", "false b", "all c", "true c"]);
        assert_eq!(failure.code, Code::TargetForbidden);
    }
}
