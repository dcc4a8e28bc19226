//! States in Secrets of a Kubernetes namespace: <https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/secret-v1/>.
//! The API server itself makes a Secret once and replaces it only over the `resourceVersion` that was read.
//!
//! ```text
//!  runner-state-HASH-serving, -lock     notes                       HASH: of the stack's id
//!  runner-state-HASH-vNUMBER            a version, its first piece; made last: with it the version is there
//!  runner-state-HASH-vNUMBER-ID-N       its other pieces, where one Secret does not hold it
//! ```
//! It must never send a state that is not sealed, nor remove a piece of a version that is there.

use super::asks::{Answer, Server, Trouble, again};
use super::elsewhere::{Note, Remote};
use crate::net;
use crate::process::Environment;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared_proto::address::Address;
use shared_proto::failure::{Code, Failure};
use shared_proto::states::{self, HEAD_MAX, LOCK, SERVING, VERSIONS};
use shared_proto::v1::{KubernetesTarget, StatePlace, StateSecrets, state_place, target};
use std::io;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Of a version so many bytes are in one Secret: the API server takes 1 MiB (`MaxSecretSize`), all values together.
pub(super) const PIECE: usize = 1_000_000;
/// So many Secrets a version takes at most.
const PIECES_MAX: usize = 16;
/// What sealing adds to a state beside its head, bytes: nonce and tag.
const SEAL: usize = 28;
/// The longest answer that is read, bytes: a Secret's content is in base64 there.
const ANSWER_MAX: usize = 4 * 1024 * 1024;
/// Versions, or pieces of one, that are listed at once.
const LISTED_MAX: usize = 500;
/// Of the server's own words, characters.
const WORDS_MAX: usize = 300;
/// Bytes of a stack's hash, and of an id of pieces.
const HASH: usize = 10;
const ID: usize = 6;
/// Labels by which they are found, and annotations.
const OF_STACK: &str = "states.runner/stack";
const KIND: &str = "states.runner/kind";
const OF_VERSION: &str = "states.runner/version";
const STACK_ID: &str = "states.runner/stack-id";
const PIECES: &str = "states.runner/pieces";

/// A stack's part of a namespace.
#[derive(Debug)]
pub(super) struct Cluster {
    namespace: String,
    stack: String,
    hash: String,
    connection: String,
    /// With the credentials of now.
    place: watch::Receiver<Option<StatePlace>>,
    environment: Environment,
    runtime: Handle,
}

/// What a Secret has, as far as it is of interest.
struct Found {
    content: Vec<u8>,
    tag: String,
    /// The id of its other pieces, and how many there are.
    pieces: Option<(String, usize)>,
}

/// What is asked.
struct Asked<'a> {
    method: Method,
    /// The Secret's name; empty: all.
    name: &'a str,
    query: &'a str,
    accept: &'a str,
    content: Option<&'a Value>,
}

// === impl Cluster ===

impl Cluster {
    /// That of a stack in the place that is said, which is a namespace. On a thread of a runtime.
    pub(super) fn new(
        secrets: &StateSecrets,
        stack: &str,
        place: watch::Receiver<Option<StatePlace>>,
        environment: Environment,
    ) -> Self {
        let connection = place.borrow().as_ref().and_then(|place| Some(place.target.as_ref()?.connection.clone()));
        Self {
            namespace: secrets.namespace.clone(),
            stack: stack.to_owned(),
            hash: shared_proto::hex::encode(&Sha256::digest(stack.as_bytes())[..HASH]),
            connection: connection.unwrap_or_default(),
            place,
            environment,
            runtime: Handle::current(),
        }
    }

    fn target(&self) -> Result<KubernetesTarget, Failure> {
        let place = self.place.borrow();
        match place.as_ref().and_then(|place| place.target.as_ref()?.target.as_ref()?.kind.clone()) {
            Some(target::Kind::Kubernetes(cluster)) => Ok(cluster),
            _ => Err(Code::CredentialsUnavailable.on(format!(
                "the connection {} of jobs.states came without credentials of a cluster",
                self.connection
            ))),
        }
    }

    /// The Secret of a note or of a version, by the name that it has in a directory.
    fn secret(&self, name: &str) -> String {
        let short = match name {
            LOCK => "lock".to_owned(),
            SERVING => "serving".to_owned(),
            other => match other.strip_prefix(VERSIONS).and_then(|rest| rest.strip_prefix('/')) {
                Some(number) => format!("v{number}"),
                None => other.to_owned(),
            },
        };
        format!("runner-state-{}-{short}", self.hash)
    }
    fn version(&self, number: u64) -> String {
        self.secret(&format!("{VERSIONS}/{}", states::file_name(number)))
    }
    fn at(&self, secret: &str) -> String {
        format!("secrets://{}/{}/{secret}", self.connection, self.namespace)
    }

    /// A Secret as it is made.
    fn made(&self, name: &str, kind: &str, content: &[u8]) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {
                "name": name,
                "labels": { "app.kubernetes.io/managed-by": "runner", OF_STACK: self.hash, KIND: kind },
                "annotations": { STACK_ID: self.stack },
            },
            "data": { "content": STANDARD.encode(content) },
        })
    }

    fn ask(&self, asked: &Asked<'_>) -> Result<Answer, Trouble> {
        let stays = |what: &dyn std::fmt::Display| {
            let message = format!("jobs.states, the connection {}: {what}", self.connection);
            Trouble::Stays(Code::StateUnusable.on(message))
        };
        let cluster = self.target().map_err(Trouble::Stays)?;
        let address = Address::parse(&cluster.server).map_err(|e| stays(&e))?;
        if cluster.insecure_skip_tls_verify || !address.https {
            return Err(stays(&"states are kept by no cluster whose certificate nobody checks"));
        }
        let identity = (cluster.client_certificate_pem.as_str(), cluster.client_key_pem.as_str());
        let tls = net::tls_as(&cluster.certificate_authority_pem, identity).map_err(|e| stays(&e))?;
        let proxy = match cluster.proxy_url.as_str() {
            "" => net::proxy(&self.environment, &address.host),
            url => match Address::parse(url) {
                Ok(proxy) if !proxy.https => Some(proxy),
                _ => return Err(stays(&"its proxy is no HTTP proxy, and states are asked for by no other")),
            },
        };
        let slash = if asked.name.is_empty() { "" } else { "/" };
        let mark = if asked.query.is_empty() { "" } else { "?" };
        let path = format!(
            "{}/api/v1/namespaces/{}/secrets{slash}{}{mark}{}",
            address.prefix, self.namespace, asked.name, asked.query
        );
        let mut request = Request::builder()
            .method(asked.method.clone())
            .uri(path)
            .header(HOST, address.host_header())
            .header(USER_AGENT, concat!("runner/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, asked.accept);
        if !cluster.token.is_empty() {
            let bearer = format!("Bearer {}", cluster.token);
            let mut bearer = HeaderValue::from_str(&bearer).map_err(|_| stays(&"its token cannot be sent"))?;
            bearer.set_sensitive(true);
            request = request.header(AUTHORIZATION, bearer);
        }
        let content = match asked.content {
            Some(content) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(content.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(content)).map_err(|e| stays(&e))?;
        let server = Server { address, proxy, tls: Some(Arc::new(tls)), tls_name: cluster.tls_server_name };
        server.ask(&self.runtime, request, ANSWER_MAX)
    }

    /// What an answer is that is none of those that were hoped for.
    fn refused(&self, what: &str, answer: &Answer) -> Trouble {
        let said: Value = serde_json::from_slice(&answer.content).unwrap_or_default();
        let words = said["message"].as_str().unwrap_or_default();
        let words: String = words.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect();
        let status = answer.status.as_u16();
        let said = format!("{what} is answered with {status}: {words}");
        let (connection, namespace) = (&self.connection, &self.namespace);
        match status {
            401 => Trouble::Stays(
                Code::TargetForbidden.on(said).next(format!("Correct the credentials of the connection {connection}.")),
            ),
            403 => Trouble::Stays(Code::TargetForbidden.on(said).next(format!(
                "Allow the identity of the connection {connection} get, list, create, update and delete of secrets in the namespace {namespace}."
            ))),
            404 => Trouble::Stays(
                Code::StateUnusable
                    .on(said)
                    .next(format!("Make the namespace {namespace}, or correct jobs.states.namespace.")),
            ),
            429 | 500.. => Trouble::Passes(
                Code::StateUnusable.on(said).next("Look at that API server; try again in a while."),
            ),
            _ => Trouble::Stays(Code::StateUnusable.on(said)),
        }
    }

    /// A Secret. None: there is none.
    fn get(&self, name: &str) -> Result<Option<Found>, Trouble> {
        let asked = Asked { method: Method::GET, name, query: "", accept: "application/json", content: None };
        let answer = self.ask(&asked)?;
        match answer.status {
            StatusCode::OK => found(&answer).map(Some).ok_or_else(|| {
                let message = format!("{} is no Secret of a runner's", self.at(name));
                Trouble::Stays(Code::StateDamaged.on(message))
            }),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refused(&format!("GET {}", self.at(name)), &answer)),
        }
    }

    /// Makes a Secret, or replaces it; its tag. None: there is one, or it is another one by now.
    fn put(&self, name: &str, content: &Value, method: Method) -> Result<Option<String>, Trouble> {
        let replaces = method == Method::PUT;
        let path = if replaces { name } else { "" };
        let asked = Asked { method, name: path, query: "", accept: "application/json", content: Some(content) };
        let answer = self.ask(&asked)?;
        match answer.status {
            StatusCode::OK | StatusCode::CREATED => found(&answer).map(|found| Some(found.tag)).ok_or_else(|| {
                let message = format!("{} was written, and what was answered is no Secret", self.at(name));
                Trouble::Stays(Code::StateUnusable.on(message))
            }),
            StatusCode::CONFLICT => Ok(None),
            StatusCode::NOT_FOUND if replaces => Ok(None),
            _ => Err(self.refused(&format!("writing {}", self.at(name)), &answer)),
        }
    }

    /// Makes a Secret that has the same content when it is tried again.
    fn make(&self, name: &str, content: &Value) -> io::Result<bool> {
        again(|first| {
            if self.put(name, content, Method::POST)?.is_some() {
                return Ok(true);
            }
            let there = if first { None } else { self.get(name)? };
            let own = content["data"]["content"].as_str().unwrap_or_default();
            Ok(there.is_some_and(|there| STANDARD.encode(there.content) == own))
        })
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        again(|_| {
            let asked = Asked { method: Method::DELETE, name, query: "", accept: "application/json", content: None };
            let answer = self.ask(&asked)?;
            match answer.status {
                StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NOT_FOUND => Ok(()),
                _ => Err(self.refused(&format!("DELETE {}", self.at(name)), &answer)),
            }
        })
    }

    /// The names of Secrets of this stack, by their labels: of the stack's states nothing comes with them.
    fn names(&self, labels: &str) -> io::Result<Vec<String>> {
        // what a query has to escape of it: '/', '=' and ','
        let selector = format!("{OF_STACK}={},{labels}", self.hash);
        let selector = selector.replace('/', "%2F").replace('=', "%3D").replace(',', "%2C");
        let query = format!("limit={LISTED_MAX}&labelSelector={selector}");
        let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
        again(|_| {
            let asked = Asked { method: Method::GET, name: "", query: &query, accept, content: None };
            let answer = self.ask(&asked)?;
            if answer.status != StatusCode::OK {
                return Err(self.refused(&format!("a list of secrets in {}", self.namespace), &answer));
            }
            let unreadable = |what: &str| {
                Trouble::Stays(Code::StateUnusable.on(format!("the list of secrets in {} {what}", self.namespace)))
            };
            let list: Value = serde_json::from_slice(&answer.content).map_err(|_| unreadable("cannot be read"))?;
            if list["metadata"]["continue"].as_str().is_some_and(|rest| !rest.is_empty()) {
                return Err(unreadable(&format!("has more than {LISTED_MAX} of one stack")));
            }
            // of none the list is null
            let items = match &list["items"] {
                Value::Array(items) => items.as_slice(),
                Value::Null if list["kind"] == "PartialObjectMetadataList" => &[],
                _ => return Err(unreadable("cannot be read")),
            };
            Ok(items.iter().filter_map(|item| item["metadata"]["name"].as_str()).map(str::to_owned).collect())
        })
    }

    fn remove_pieces(&self, number: u64, id: Option<&str>) -> io::Result<()> {
        let begin = id.map(|id| format!("{}-{id}-", self.version(number)));
        for name in self.names(&format!("{KIND}=piece,{OF_VERSION}={number}"))? {
            if begin.as_ref().is_none_or(|begin| name.starts_with(begin)) {
                self.delete(&name)?;
            }
        }
        Ok(())
    }
}

impl Remote for Cluster {
    fn shown(&self) -> String {
        self.at(&format!("runner-state-{}", self.hash))
    }
    fn called(&self, name: &str) -> String {
        self.at(&self.secret(name))
    }
    fn largest(&self) -> usize {
        PIECE * PIECES_MAX - HEAD_MAX - SEAL
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let begin = self.secret(&format!("{VERSIONS}/"));
        let names = self.names(&format!("{KIND}=version"))?;
        let mut numbers: Vec<_> =
            names.iter().filter_map(|name| states::number_of(name.strip_prefix(&begin)?)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn read(&self, number: u64, most: usize) -> io::Result<Option<Vec<u8>>> {
        let name = self.version(number);
        let Some(found) = again(|_| self.get(&name))? else { return Ok(None) };
        let mut content = found.content;
        if let Some((id, count)) = found.pieces {
            for n in 1..count {
                if content.len() >= most {
                    break;
                }
                // without one it is cut off, and does not open
                let piece = again(|_| self.get(&format!("{name}-{id}-{n}")))?;
                content.extend(piece.map(|piece| piece.content).unwrap_or_default());
            }
        }
        content.truncate(most);
        Ok(Some(content))
    }

    fn add(&self, number: u64, parts: (&[u8], &[u8])) -> io::Result<()> {
        let (name, whole) = (self.version(number), [parts.0, parts.1].concat());
        let pieces: Vec<_> = whole.chunks(PIECE).collect();
        if pieces.len() > PIECES_MAX {
            let message = format!("a version of {} bytes does not fit into {PIECES_MAX} Secrets", whole.len());
            return Err(io::Error::other(Code::TooLarge.on(message)));
        }
        let mut id = [0; ID];
        getrandom::fill(&mut id).map_err(|e| io::Error::other(e.to_string()))?;
        let id = shared_proto::hex::encode(id);
        for (n, piece) in pieces.iter().enumerate().skip(1) {
            let name = format!("{name}-{id}-{n}");
            let mut made = self.made(&name, "piece", piece);
            made["metadata"]["labels"][OF_VERSION] = number.to_string().into();
            made["immutable"] = true.into();
            self.make(&name, &made)?;
        }
        let mut made = self.made(&name, "version", pieces.first().copied().unwrap_or_default());
        made["immutable"] = true.into();
        if pieces.len() > 1 {
            made["metadata"]["annotations"][PIECES] = format!("{id} {}", pieces.len()).into();
        }
        if self.make(&name, &made)? {
            return Ok(());
        }
        // what nothing leads to; where it stays, it goes with that version
        let _ = self.remove_pieces(number, Some(&id));
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.delete(&self.version(number))?;
        self.remove_pieces(number, None)
    }

    fn note(&self, name: &str) -> io::Result<Option<Note>> {
        let name = self.secret(name);
        let found = again(|_| self.get(&name))?;
        Ok(found.map(|found| Note { content: found.content, tag: found.tag }))
    }

    fn put_note(&self, name: &str, content: &[u8], over: Option<&str>) -> io::Result<String> {
        let name = self.secret(name);
        let mut made = self.made(&name, "note", content);
        let method = if over.is_some() { Method::PUT } else { Method::POST };
        if let Some(tag) = over {
            made["metadata"]["resourceVersion"] = tag.into();
        }
        let tag = again(|first| {
            if let Some(tag) = self.put(&name, &made, method.clone())? {
                return Ok(Some(tag));
            }
            let there = if first { None } else { self.get(&name)? };
            // its answer was lost: a claim and a lock are each one's own
            Ok(there.filter(|there| there.content == content).map(|there| there.tag))
        })?;
        tag.ok_or_else(|| io::ErrorKind::AlreadyExists.into())
    }

    fn keeps_its_word(&self, _: &str, _: &Note) -> io::Result<bool> {
        // every API server does: its own controllers live by it
        Ok(true)
    }
}

fn found(answer: &Answer) -> Option<Found> {
    let secret: Value = serde_json::from_slice(&answer.content).ok()?;
    // of an empty one the API server leaves the value out, or makes it null
    let content = secret["data"]["content"].as_str().unwrap_or_default();
    let pieces = secret["metadata"]["annotations"][PIECES].as_str().and_then(|text| {
        let (id, count) = text.split_once(' ')?;
        let is_id = id.len() == 2 * ID && id.bytes().all(|b| b.is_ascii_hexdigit());
        let count = count.parse().ok().filter(|count| (2..=PIECES_MAX).contains(count))?;
        is_id.then(|| (id.to_owned(), count))
    });
    Some(Found {
        content: STANDARD.decode(content).ok()?,
        tag: secret["metadata"]["resourceVersion"].as_str()?.to_owned(),
        pieces,
    })
}

/// The namespace of a place, if it is one.
pub(super) fn of(place: &StatePlace) -> Option<&StateSecrets> {
    match &place.kind {
        Some(state_place::Kind::Secrets(secrets)) => Some(secrets),
        _ => None,
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
