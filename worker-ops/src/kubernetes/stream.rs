//! Logs: passed on as they come, in the memory of one frame, however long they are. A followed log may be silent for ever; what tells
//! a silent log from a dead API server is TCP's keepalive.

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use shared_proto::bounds::DATA_MAX;
use shared_proto::failure::Code;
use shared_proto::lines::Cutter;
use shared_proto::v1::{K8sLogs, Outcome};
use tokio::sync::mpsc;

use super::connect::{Cluster, segment};
use crate::fault::{Fault, done};
use crate::net::Endpoint;
use crate::net::http::lost;
use crate::net::url;
use crate::socket::Output;

/// Whom to take where nobody says which container.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Containers of one pod that are followed at once.
const CONTAINERS_MAX: usize = 64;
/// The longest line that is kept whole beside the lines of other containers, bytes; a longer one goes on in pieces of this length.
const LINE_MAX: usize = 256 * 1024;
/// Pieces that wait for the socket where several containers are followed.
const PIECES_WAITING: usize = 4;

/// Logs of one container, or of all of a pod's.
pub(crate) async fn logs(cluster: &mut Cluster, request: &K8sLogs, output: &mut Output) -> Result<Outcome, Fault> {
    let namespace = segment("namespace", cluster.namespace(&request.namespace))?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{}", segment("pod", &request.pod)?);
    if request.all_containers {
        if !request.container.is_empty() {
            return Err(Fault::new(Code::InvalidArgument, "a container and all containers are asked for at once"));
        }
        return all(cluster, request, &path, output).await;
    }
    let container = container(cluster, &path, &request.container).await?;
    let body = open(cluster, &path, request, container.as_deref()).await?;
    pass_on(cluster.endpoint(), body, output).await?;
    Ok(done())
}

/// The container to use: the one that is named, the pod's annotated one, or its only one. `None`: these credentials may not look at the
/// pod, the API server decides.
pub(crate) async fn container(cluster: &mut Cluster, path: &str, named: &str) -> Result<Option<String>, Fault> {
    if !named.is_empty() {
        return Ok(Some(named.to_owned()));
    }
    match cluster.get::<Pod>(path).await {
        Ok(pod) => choose(&pod).map(Some),
        Err(fault) if fault.code() == Code::TargetForbidden => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn choose(pod: &Pod) -> Result<String, Fault> {
    let names = names(pod);
    let annotated = pod.metadata.annotations.as_ref().and_then(|a| a.get(DEFAULT_CONTAINER));
    if let Some(name) = annotated.filter(|n| names.contains(n)) {
        return Ok(name.clone());
    }
    match pod.spec.as_ref().map(|s| s.containers.as_slice()) {
        Some([only]) => Ok(only.name.clone()),
        _ => {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            let message = format!("a container must be named for the pod {pod}, it has {}", names.join(", "));
            Err(Fault::new(Code::InvalidArgument, message).next("Name one of them with --container."))
        }
    }
}

/// All containers' names, in the order in which `kubectl logs --all-containers` reads them.
fn names(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|c| c.name.clone());
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.name.clone());
    init.chain(spec.containers.iter().map(|c| c.name.clone())).chain(ephemeral).collect()
}

async fn open(
    cluster: &mut Cluster,
    path: &str,
    request: &K8sLogs,
    container: Option<&str>,
) -> Result<Incoming, Fault> {
    let query = query(request, container);
    let request = cluster.request(Method::GET, &format!("{path}/log?{query}"), Bytes::new())?;
    Ok(cluster.send(request).await?.into_body())
}

fn query(request: &K8sLogs, container: Option<&str>) -> String {
    let number = |n: Option<i64>| n.map(|n| n.to_string()).unwrap_or_default();
    let (tail, since) = (number(request.tail_lines), number(request.since_seconds));
    let limit = number(request.limit_bytes);
    let flag = |on: bool| if on { "true" } else { "" };
    let pairs = [
        ("container", container.unwrap_or_default()),
        ("follow", flag(request.follow)),
        ("previous", flag(request.previous)),
        ("timestamps", flag(request.timestamps)),
        ("tailLines", &tail),
        ("sinceSeconds", &since),
        ("sinceTime", &request.since_time),
        ("limitBytes", &limit),
    ];
    url::form(pairs.into_iter().filter(|(_, value)| !value.is_empty()))
}

/// Passes a body on, what is there at once in one frame.
async fn pass_on(endpoint: &Endpoint, mut body: Incoming, output: &mut Output) -> Result<(), Fault> {
    let mut gathered = BytesMut::with_capacity(DATA_MAX);
    loop {
        let frame = if gathered.is_empty() { Some(body.frame().await) } else { body.frame().now_or_never() };
        match frame {
            Some(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                if gathered.is_empty() && data.len() >= DATA_MAX {
                    output.data(&data).await?;
                    continue;
                }
                gathered.extend_from_slice(&data);
                if gathered.len() < DATA_MAX {
                    continue;
                }
                output.data(&gathered).await?;
                gathered.clear();
            }
            // nothing more at the moment
            None => {
                output.data(&gathered).await?;
                gathered.clear();
            }
            Some(end) => {
                output.data(&gathered).await?;
                return match end {
                    Some(Err(error)) => Err(lost(endpoint, &error)),
                    _ => Ok(()),
                };
            }
        }
    }
}

/// Logs of all containers, each line with `[pod/POD/CONTAINER] ` before it, as `kubectl logs --all-containers --prefix` prints them: one
/// container after the other, or, where they are followed, as the lines come.
async fn all(cluster: &mut Cluster, request: &K8sLogs, path: &str, output: &mut Output) -> Result<Outcome, Fault> {
    let pod: Pod = cluster.get(path).await?;
    let names = names(&pod);
    if names.len() > CONTAINERS_MAX {
        let message = format!("the pod {} has {} containers, the limit is {CONTAINERS_MAX}", request.pod, names.len());
        return Err(Fault::new(Code::TooLarge, message).next("Name one of them with --container."));
    }
    let (pieces, mut waiting) = mpsc::channel::<Piece>(PIECES_WAITING);
    let at_once = if request.follow { names.len() } else { 1 };
    let read = async {
        let mut readers = FuturesUnordered::new();
        let mut left = names.iter();
        let (mut gave, mut first_fault) = (0_usize, None);
        loop {
            while readers.len() < at_once.max(1) {
                let Some(name) = left.next() else { break };
                readers.push(one_of_all(cluster.another(), request, path, name, pieces.clone()));
            }
            match readers.next().await {
                None => break,
                Some(Ok(())) => gave += 1,
                Some(Err(fault)) if fault.status == 400 => first_fault = first_fault.or(Some(fault)),
                Some(Err(fault)) => return Err(fault),
            }
        }
        drop(pieces);
        match first_fault {
            Some(fault) if gave == 0 => Err(fault),
            _ => Ok(()),
        }
    };
    let write = async move {
        while let Some(piece) = waiting.recv().await {
            match piece {
                Piece::Lines(lines) => output.data(&lines).await?,
                Piece::Remark(remark) => output.stderr(remark.as_bytes()).await?,
            }
        }
        Ok::<(), Fault>(())
    };
    // a reader that fails ends all, after what came before it has gone out
    let (read, written) = tokio::join!(read, write);
    written?;
    read?;
    Ok(done())
}

/// What a reader of one container hands to the one that writes.
enum Piece {
    /// Whole lines with their prefix.
    Lines(Bytes),
    /// Why a container gives none.
    Remark(String),
}

async fn one_of_all(
    mut cluster: Cluster,
    request: &K8sLogs,
    path: &str,
    container: &str,
    pieces: mpsc::Sender<Piece>,
) -> Result<(), Fault> {
    let prefix = format!("[pod/{}/{container}] ", request.pod);
    let mut body = match open(&mut cluster, path, request, Some(container)).await {
        Ok(body) => body,
        Err(fault) => {
            // a container that has not begun, or had no earlier run, is no reason to withhold the others
            if fault.status == 400 {
                let _ = pieces.send(Piece::Remark(format!("{prefix}{}\n", fault.failure.message))).await;
            }
            return Err(fault);
        }
    };
    let mut lines = Lines::new(prefix.into_bytes());
    loop {
        let (frame, ended) = match body.frame().await {
            Some(Ok(frame)) => (frame.into_data().unwrap_or_default(), None),
            Some(Err(error)) => (Bytes::new(), Some(Err(lost(cluster.endpoint(), &error)))),
            None => (Bytes::new(), Some(Ok(()))),
        };
        let whole = if ended.is_some() { lines.rest() } else { lines.add(&frame) };
        if !whole.is_empty() && pieces.send(Piece::Lines(whole)).await.is_err() {
            return Ok(()); // the writer has failed, and says why
        }
        if let Some(end) = ended {
            return end;
        }
    }
}

/// Cuts bytes into whole lines and puts a prefix before each.
struct Lines {
    prefix: Vec<u8>,
    cutter: Cutter,
}

// === impl Lines ===

impl Lines {
    fn new(prefix: Vec<u8>) -> Self {
        Self { prefix, cutter: Cutter::new(LINE_MAX) }
    }

    /// The lines that are whole with these bytes.
    fn add(&mut self, bytes: &[u8]) -> Bytes {
        let mut out = Vec::new();
        let prefix = &self.prefix;
        self.cutter.add(bytes, |line| out.extend([&prefix[..], &line].concat()));
        out.into()
    }

    /// A last line without an end.
    fn rest(&mut self) -> Bytes {
        self.cutter.rest().map(|line| [&self.prefix[..], &line].concat()).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(annotations: Value, containers: &[&str]) -> Pod {
        let named = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
        serde_json::from_value(json!({
            "metadata": {"name": "web-0", "annotations": annotations},
            "spec": {"containers": named(containers), "initContainers": named(&["setup"])}
        }))
        .expect("a pod")
    }

    #[test]
    fn the_container_that_nobody_named() {
        assert_eq!(choose(&pod(json!({}), &["a"])).expect("the only one"), "a");
        assert_eq!(choose(&pod(json!({DEFAULT_CONTAINER: "b"}), &["a", "b"])).expect("the annotated one"), "b");
        for annotations in [json!({}), json!({DEFAULT_CONTAINER: "gone"})] {
            let fault = choose(&pod(annotations, &["a", "b"])).expect_err("several");
            assert_eq!(fault.code(), Code::InvalidArgument);
            assert!(fault.failure.message.contains("web-0, it has setup, a, b"), "{}", fault.failure);
        }
    }

    #[test]
    fn only_what_was_asked_for_is_in_the_query() {
        let mut request = K8sLogs { follow: true, tail_lines: Some(0), ..Default::default() };
        assert_eq!(query(&request, Some("a")), "container=a&follow=true&tailLines=0");
        request = K8sLogs {
            previous: true,
            timestamps: true,
            since_seconds: Some(60),
            limit_bytes: Some(10),
            ..Default::default()
        };
        assert_eq!(query(&request, None), "previous=true&timestamps=true&sinceSeconds=60&limitBytes=10");
        request = K8sLogs { since_time: "2026-01-02T03:04:05+01:00".into(), ..Default::default() };
        assert_eq!(query(&request, None), "sinceTime=2026-01-02T03%3A04%3A05%2B01%3A00");
    }

    #[test]
    fn lines_are_whole_however_they_are_cut() {
        let text = b"one\n\ntwo\nthree";
        for size in 1..=text.len() {
            let mut lines = Lines::new(b"> ".to_vec());
            let mut out = Vec::new();
            for piece in text.chunks(size) {
                let whole = lines.add(piece);
                assert!(whole.is_empty() || whole.ends_with(b"\n"));
                out.extend_from_slice(&whole);
            }
            out.extend_from_slice(&lines.rest());
            assert_eq!(out, b"> one\n> \n> two\n> three");
        }
    }

    #[test]
    fn a_line_without_an_end_does_not_fill_memory() {
        let mut lines = Lines::new(Vec::new());
        let out = lines.add(&vec![b'x'; 2 * LINE_MAX + 10]);
        assert_eq!((out.len(), lines.cutter.held()), (2 * LINE_MAX, 10));
        assert_eq!(lines.add(b"\n").len(), 11);
    }
}
