//! Serves a store to the engines of a job by their HTTP backend: <https://opentofu.org/docs/language/settings/backends/http/>,
//! <https://developer.hashicorp.com/terraform/language/backend/http>. On a loopback, to whoever has the job's token; to nobody else anything.
//!
//! An engine tries again what was cut off, and what was answered with a 5xx: so each request may come twice, and the second time changes
//! nothing. What is refused it reports by its number alone: what there is to say is kept for whoever judges how it ended.

use super::{Store, md5, too_large};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use shared_proto::states::{Held, LOCK_MAX, STATE_MAX};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as Turn, Semaphore};
use tokio::task::JoinSet;

/// The name that goes with the token. With its colon it is of six bytes: what base64 makes of the token behind it is redacted like the token.
const USER: &str = "state";
/// Connections at once.
const CONNECTIONS_MAX: usize = 16;
/// How long the head of a request may take, and all of it.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
const BODY_WITHIN: Duration = Duration::from_secs(60);
/// The longest head of a request, bytes.
const HEAD_MAX: usize = 16 * 1024;
/// What is read of a state that is too large before it is refused: who has not sent all of it does not read the answer.
const READ_MAX: usize = 4 * STATE_MAX;
/// How often an engine tries again what was cut off, and how long it waits before it does, seconds: as often as workers follow one another that
/// do not live, and more.
const RETRIES: &str = "10";
const RETRY_WAIT: &str = "1";

/// A store that is served, until this goes.
#[derive(Debug)]
pub(crate) struct Serving {
    address: SocketAddr,
    token: Secret,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    /// The whole value of the header `Authorization`.
    authorization: Secret,
    store: Arc<Turn<Store>>,
    serves: Serves,
    told: Mutex<Told>,
}

/// What it is there for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Serves {
    /// The lock that is to be removed: Terraform's `force-unlock` names none.
    pub(crate) removes: Option<String>,
    /// To be read alone: nothing is written, and a lock is given that is none. Jobs of a stack come one after the other.
    pub(crate) reads_only: bool,
}

/// What was refused last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// A state that was not taken or given, or a lock that was not removed.
    pub(crate) refused: Option<Failure>,
    /// Who has the lock that was not given.
    pub(crate) locked: Option<Held>,
}

// === impl Serving ===

impl Serving {
    /// Serves on these listeners, of which the first is that of the engines to come.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn start(
        store: Store,
        token: Secret,
        listeners: Vec<TcpListener>,
        serves: Serves,
    ) -> std::io::Result<Self> {
        let authorization = Secret::new(format!("Basic {}", STANDARD.encode(format!("{USER}:{}", token.expose()))));
        let store = Arc::new(Turn::new(store));
        let shared = Arc::new(Shared { authorization, store, serves, told: Mutex::default() });
        let first = listeners.first().ok_or(std::io::ErrorKind::InvalidInput)?;
        let address = first.local_addr()?;
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut tasks = JoinSet::new();
        for listener in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn(accept(listener, slots.clone(), shared.clone()));
        }
        Ok(Self { address, token, shared, tasks })
    }

    /// What an engine's environment has for it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 8] {
        let address = format!("http://{}/", self.address);
        [
            ("TF_HTTP_ADDRESS", address.clone()),
            ("TF_HTTP_LOCK_ADDRESS", address.clone()),
            ("TF_HTTP_UNLOCK_ADDRESS", address),
            ("TF_HTTP_USERNAME", USER.to_owned()),
            ("TF_HTTP_PASSWORD", self.token.expose().to_owned()),
            ("TF_HTTP_RETRY_MAX", RETRIES.to_owned()),
            ("TF_HTTP_RETRY_WAIT_MIN", RETRY_WAIT.to_owned()),
            ("TF_HTTP_RETRY_WAIT_MAX", RETRY_WAIT.to_owned()),
        ]
    }

    /// What was refused last, to be told with how the engine ended.
    pub(crate) fn told(&self) -> Told {
        self.shared.told().clone()
    }

    /// Does something with the store between two requests.
    ///
    /// # Errors
    /// What it fails with.
    pub(crate) async fn with<R: Send + 'static>(
        &self,
        does: impl FnOnce(&mut Store) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        self.shared.with(does).await
    }

    /// Serves no more, and lets go of the store: whoever comes next finds it free.
    pub(crate) async fn close(mut self) {
        self.tasks.shutdown().await;
        // what is being written is written
        let released = self.shared.with(|store| {
            store.release();
            Ok(())
        });
        let _ = released.await;
    }
}

async fn accept(listener: tokio::net::TcpListener, slots: Arc<Semaphore>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            // as they end
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, _)) = stream else {
            // out of descriptors, most likely: others may free some
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(|request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            // each request over a connection of its own: one that waits for the next holds a slot
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .max_buf_size(HEAD_MAX)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // who has gone, or sends something else, gets no answer
            let _ = connection.await;
            drop(slot);
        });
    }
}

// === impl Shared ===

impl Shared {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn with<R: Send + 'static>(
        &self,
        does: impl FnOnce(&mut Store) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        // goes on where whoever asked is gone: what was begun is done
        let mut turn = self.store.clone().lock_owned().await;
        let done = tokio::task::spawn_blocking(move || does(&mut turn)).await;
        done.unwrap_or_else(|_| Err(Code::Internal.on("the store of states panicked")))
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let given = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
        if !same(given, self.authorization.expose().as_bytes()) {
            let mut refused = plain(StatusCode::UNAUTHORIZED, "");
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Basic"));
            return refused;
        }
        if request.uri().path() != "/" {
            return plain(StatusCode::NOT_FOUND, "");
        }
        let answered = match request.method().as_str() {
            "GET" => self.get().await,
            "POST" => self.post(request).await,
            "LOCK" => self.lock(request).await,
            "UNLOCK" => self.unlock(request).await,
            _ => return plain(StatusCode::METHOD_NOT_ALLOWED, ""),
        };
        match answered {
            Ok(response) => response,
            Err(failure) => {
                let status = StatusCode::from_u16(failure.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let response = plain(status, &failure.message);
                self.told().refused = Some(failure);
                response
            }
        }
    }

    async fn get(&self) -> Result<Response<Full<Bytes>>, Failure> {
        let state = self.with(Store::read).await?;
        Ok(match state {
            None => plain(StatusCode::NOT_FOUND, ""),
            Some(state) => {
                let mut response = Response::new(Full::from(state));
                let kind = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
        })
    }

    async fn post(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Failure> {
        let lock = lock_id(request.uri().query().unwrap_or_default());
        let state = body(request, STATE_MAX, READ_MAX).await?;
        if self.serves.reads_only {
            return Err(Code::SourceRefused.on("a job whose source is not trusted wanted to write the stack's state"));
        }
        self.with(move |store| store.write(&lock, state)).await?;
        self.told().refused = None;
        Ok(plain(StatusCode::OK, ""))
    }

    async fn lock(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Failure> {
        let info = body(request, LOCK_MAX, LOCK_MAX).await?;
        if self.serves.reads_only {
            return Ok(plain(StatusCode::OK, ""));
        }
        let held = self.with(move |store| store.lock(&info)).await?;
        let response = match &held {
            None => plain(StatusCode::OK, ""),
            Some(held) => plain(StatusCode::LOCKED, &held.info.to_string()),
        };
        self.told().locked = held;
        Ok(response)
    }

    async fn unlock(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Failure> {
        let info = body(request, LOCK_MAX, LOCK_MAX).await?;
        if self.serves.reads_only {
            return Ok(plain(StatusCode::OK, ""));
        }
        let said = serde_json::from_slice(&info).unwrap_or(Value::Null);
        let id = match (said["ID"].as_str(), &self.serves.removes) {
            (Some(id), None) => id.to_owned(),
            // what is removed is what the job names, whatever the engine says of it
            (id, Some(removes)) if id.is_none_or(|id| id == removes) => removes.clone(),
            _ => return Err(Code::InvalidArgument.on("it is not said which lock is to go")),
        };
        let must_be_there = self.serves.removes.is_some();
        self.with(move |store| match store.held()? {
            None if must_be_there => Err(Code::Conflict.on(format!("there is no lock {id}: the state is not locked"))),
            _ => store.unlock(&id),
        })
        .await?;
        Ok(plain(StatusCode::OK, ""))
    }
}

/// The content of a request, of at most `max` bytes; of what is longer no more than `read` is looked at.
async fn body(request: Request<Incoming>, max: usize, read: usize) -> Result<Vec<u8>, Failure> {
    let digest = request.headers().get("content-md5").map(|value| value.as_bytes().to_vec());
    let mut body = request.into_body();
    let (mut content, mut bytes) = (Vec::new(), 0_u64);
    let taken = tokio::time::timeout(BODY_WITHIN, async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return Err(Code::InvalidArgument.on("its content broke off")) };
            let Ok(data) = frame.into_data() else { continue };
            bytes += data.len() as u64;
            match bytes {
                n if n <= max as u64 => content.extend_from_slice(&data),
                n if n <= read as u64 => content = Vec::new(),
                _ => return Ok(()),
            }
        }
        Ok(())
    });
    taken.await.unwrap_or_else(|_| Err(Code::DeadlineExceeded.on("its content did not come in time")))?;
    if bytes > max as u64 {
        return Err(too_large(bytes, max));
    }
    if let Some(digest) = digest {
        let found = STANDARD.encode(md5::digest(&content));
        if found.as_bytes() != digest {
            return Err(Code::InvalidArgument.on("its content is not what its Content-MD5 says"));
        }
    }
    Ok(content)
}

/// The lock's id in a query; empty: it has none.
fn lock_id(query: &str) -> String {
    let id = query.split('&').find_map(|part| part.strip_prefix("ID=")).unwrap_or_default();
    let (mut bytes, mut rest) = (Vec::new(), id.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        let (byte, left) = match escaped.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => (byte, &after[2..]),
            None => (if *first == b'+' { b' ' } else { *first }, after),
        };
        bytes.push(byte);
        rest = left;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_owned()));
    *response.status_mut() = status;
    response
}

/// Compares in a time that tells nothing of where they differ.
fn same(given: &[u8], expected: &[u8]) -> bool {
    use subtle::ConstantTimeEq as _;
    given.ct_eq(expected).into()
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
