//! The Kubernetes API of a connection, as the control plane passes it through: documents, lists page by page, and streams of lines.

use crate::client::{Client, path};
use crate::commands::{Session, connection};
use crate::output::table;
use bytes::{Buf as _, BytesMut};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use shared_proto::failure::{Code, Failure};

/// Objects that are asked for at once; a list comes in pages of so many.
const PAGE: &str = "500";
/// The longest line of a stream of documents that is read, bytes: the largest object that etcd keeps is far below it.
const LINE_MAX: usize = 16 * 1024 * 1024;
/// How an answer is asked for as the object itself.
pub(super) const JSON: &str = "application/json";
/// The same as a table with the API server's own columns, or as itself from a server that makes none.
pub(super) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// What to do where the connection's own namespace stays unknown.
const NAME_ONE: &str = "Name a namespace with -n, or take all of them with -A.";

/// The API of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(super) client: Client,
    pub(super) connection: String,
    runner: Option<String>,
}

/// The lines of a stream of documents.
#[derive(Debug)]
pub(super) struct Documents {
    body: Incoming,
    held: BytesMut,
    /// Of `held` so much holds no line's end.
    seen: usize,
}

// === impl Api ===

impl Api {
    /// Of a connection `c`, for tests.
    #[cfg(test)]
    pub(super) fn to(client: Client) -> Self {
        Self { client, connection: "c".into(), runner: None }
    }
    /// Of the connection that is meant.
    pub(super) async fn of(session: &Session, named: Option<&str>) -> Result<Self, Failure> {
        let connection = connection::choose(session, named, "kubernetes").await?;
        Ok(Self { client: session.client.clone(), connection, runner: session.runner.clone() })
    }
    /// Where the control plane has a path of the API server.
    pub(super) fn at(&self, target: &str) -> String {
        let before = match &self.runner {
            Some(runner) => path(&["runners", runner, "connections", &self.connection, "kubernetes"], &[]),
            None => path(&["connections", &self.connection, "kubernetes"], &[]),
        };
        before + target
    }
    /// A document.
    pub(super) async fn get(&self, target: &str, accept: &str) -> Result<Value, Failure> {
        self.client.document(Method::GET, &self.at(target), &[("accept", accept)], None).await
    }
    /// Sends a document of a content type; gives the answer.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Value, Failure> {
        let text = serde_json::to_vec(body).map_err(|e| Code::Internal.on(format!("a document: {e}")))?;
        let headers = [("accept", JSON), ("content-type", content_type)];
        self.client.document(method, &self.at(target), &headers, Some(text)).await
    }
    /// A list, page by page.
    pub(super) async fn pages(
        &self,
        target: impl Fn(&[(&str, &str)]) -> String,
        accept: &str,
        mut page: impl FnMut(Value),
    ) -> Result<(), Failure> {
        let mut next: Option<String> = None;
        loop {
            let mut query = vec![("limit", PAGE)];
            query.extend(next.as_deref().map(|next| ("continue", next)));
            let one = self.get(&target(&query), accept).await.map_err(|failure| match next {
                // what was given out belongs to an older moment than what would follow
                Some(_) if failure.code == Code::TargetRefused => {
                    failure.next("The list took too long to read; ask again, or for less with -n or -l.")
                }
                _ => failure,
            })?;
            next =
                one.pointer("/metadata/continue").and_then(Value::as_str).filter(|c| !c.is_empty()).map(str::to_owned);
            page(one);
            if next.is_none() {
                return Ok(());
            }
        }
    }
    /// A stream of documents, one a line.
    pub(super) async fn documents(&self, target: &str, accept: &str) -> Result<Documents, Failure> {
        let body = self.client.stream(&self.at(target), &[("accept", accept)]).await?.into_body();
        Ok(Documents { body, held: BytesMut::new(), seen: 0 })
    }
    /// The namespace that is meant: the one that is named, else the connection's own, which the runner knows and tells where nothing is found
    /// in it.
    pub(super) async fn namespace(&self, named: Option<&str>) -> Result<String, Failure> {
        if let Some(name) = named {
            return Ok(name.to_owned());
        }
        let query: Vec<_> = self.runner.iter().map(|runner| ("runner", runner.as_str())).collect();
        let at = path(&["connections", &self.connection, "identity"], &query);
        match self.client.get(&at).await {
            Ok(who) => Ok(table::text(&who, "/place")),
            Err(failure) if failure.code == Code::PolicyDenied => Err(failure.next(NAME_ONE)),
            Err(failure) => Err(failure),
        }
    }
}

// === impl Documents ===

impl Documents {
    /// The next one; none where the stream has ended as it should.
    pub(super) async fn next(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            if let Some(at) = self.held[self.seen..].iter().position(|b| *b == b'\n') {
                let line = self.held.split_to(self.seen + at);
                self.held.advance(1);
                self.seen = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|_| Code::TargetFailed.on("the API server's stream holds what is not JSON"));
            }
            self.seen = self.held.len();
            if self.held.len() > LINE_MAX {
                return Err(Code::TooLarge.on(format!("an object of more than {LINE_MAX} bytes")));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(_)) => return Err(lost("the stream of documents was cut")),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// The way to the cluster is gone, somewhere between here and there.
pub(super) fn lost(what: &str) -> Failure {
    Code::ConnectionLost.on(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::{answer, api};

    #[tokio::test]
    async fn a_list_comes_in_pages_and_what_fails_in_the_middle_is_told() {
        let client = api(|asked| {
            assert!(asked.path.starts_with("/api/v1/connections/c/kubernetes/api/v1/pods?limit=500"), "{}", asked.path);
            match asked.path.split_once("continue=").map(|(_, next)| next) {
                None => answer(200, r#"{"metadata": {"continue": "a/b"}, "items": [1, 2]}"#),
                Some("a%2Fb") => answer(200, r#"{"metadata": {"continue": "c"}, "items": [3]}"#),
                Some(_) => answer(410, r#"{"kind": "Status", "apiVersion": "v1", "message": "too old", "code": 410}"#),
            }
        })
        .await;
        let mut pages = Vec::new();
        let target = |more: &[(&str, &str)]| path(&["api", "v1", "pods"], more);
        let failure =
            Api::to(client).pages(target, JSON, |page| pages.push(page["items"].clone())).await.expect_err("too old");
        assert_eq!(pages, [serde_json::json!([1, 2]), serde_json::json!([3])]);
        assert!(failure.code == Code::TargetRefused && failure.next_step.contains("ask again"), "{failure}");
    }
}
