//! Servers of sources on loopback: HTTPS that answers as it is told, Git by HTTPS (git's own `http-backend`, with a password), and Git by SSH
//! (OpenSSH's server). Each tells what it was asked and how much it sent.

use crate::{Scratch, pki};
use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// How long a server may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// GET and the like.
    pub method: String,
    /// Its path.
    pub path: String,
    /// What stands behind a question mark.
    pub query: String,
    /// Names, in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Its content.
    pub body: Vec<u8>,
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub body: Vec<u8>,
}

/// A server by HTTPS on 127.0.0.1.
pub struct Https {
    address: SocketAddr,
    ca_pem: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    sent: Arc<AtomicU64>,
    runtime: Option<Runtime>,
}

/// OpenSSH's server on 127.0.0.1, which lets one key in.
pub struct Sshd {
    address: SocketAddr,
    folder: Scratch,
    server: Child,
}

// === impl Asked ===

impl Asked {
    /// A header; empty: it was not sent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }
}

// === impl Answer ===

impl Answer {
    /// With a content of that type.
    pub fn of(kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, headers: vec![("content-type".into(), kind.into())], body: body.into() }
    }
    /// Nothing but a status.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }
    /// With another header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

// === impl Https ===

impl Https {
    /// Starts one that answers so.
    ///
    /// # Errors
    /// The system's.
    pub fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Result<Self> {
        let (config, ca_pem) = pki::server_tls()?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (asked, sent) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (answer, seen, counted) = (Arc::new(answer), Arc::clone(&asked), Arc::clone(&sent));
        runtime.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                let (answer, seen, counted) = (Arc::clone(&answer), Arc::clone(&seen), Arc::clone(&counted));
                tokio::spawn(async move {
                    // a client that does not trust it goes away
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        serve(request, Arc::clone(&answer), Arc::clone(&seen), Arc::clone(&counted))
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self { address, ca_pem, asked, sent, runtime: Some(runtime) })
    }

    /// Git's own server of the repositories below that folder, which asks for that user and password; none: it lets everybody in.
    ///
    /// # Errors
    /// The system's.
    pub fn git(root: &Path, password: Option<(&str, &str)>) -> Result<Self> {
        let expected = password.map(|(user, password)| basic(user, password));
        let root = root.to_owned();
        Self::start(move |asked| {
            if expected.as_ref().is_some_and(|expected| asked.header("authorization") != expected) {
                return Answer::status(401).header("www-authenticate", "Basic realm=\"git\"");
            }
            backend(&root, asked, true).unwrap_or_else(|e| Answer::of("text/plain", e.to_string()).with_status(500))
        })
    }

    /// 127.0.0.1 and its port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// `https://127.0.0.1:PORT/path`.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.address)
    }
    /// Who has issued its certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }
    /// What it was asked, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Forgets that.
    pub fn forget(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.sent.store(0, Ordering::Relaxed);
    }
    /// Bytes of content that it has sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The header by which a user and a password are shown.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

async fn serve<F: Fn(&Asked) -> Answer + Send + Sync + 'static>(
    request: Request<Incoming>,
    answer: Arc<F>,
    seen: Arc<Mutex<Vec<Asked>>>,
    sent: Arc<AtomicU64>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let asked = Asked {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers.iter().map(header).collect(),
        body,
    };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    let answer = tokio::task::spawn_blocking(move || answer(&asked)).await.unwrap_or_else(|_| Answer::status(500));
    sent.fetch_add(answer.body.len() as u64, Ordering::Relaxed);
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(Bytes::from(answer.body))).unwrap_or_else(|_| Response::new(Full::default())))
}

/// What git's own server answers, by CGI. `by_name`: it is told which version of the protocol is asked for; by the oldest it gives no commit by
/// its name.
///
/// # Errors
/// It cannot be run.
pub fn backend(root: &Path, asked: &Asked, by_name: bool) -> Result<Answer> {
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("PATH_INFO", &asked.path)
        .env("QUERY_STRING", &asked.query)
        .env("REQUEST_METHOD", &asked.method)
        .env("CONTENT_TYPE", asked.header("content-type"))
        .env("CONTENT_LENGTH", asked.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", asked.header("content-encoding"))
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if by_name {
        command.env("GIT_PROTOCOL", asked.header("git-protocol"));
    }
    let mut child = command.spawn()?;
    let (mut input, body) = (child.stdin.take().context("its input")?, asked.body.clone());
    let writing = std::thread::spawn(move || input.write_all(&body));
    let said = child.wait_with_output()?.stdout;
    // it need not read all
    let _ = writing.join();
    let (head, length) = [&b"\r\n\r\n"[..], b"\n\n"]
        .into_iter()
        .find_map(|end| said.windows(end.len()).position(|w| w == end).map(|at| (at, end.len())))
        .context("no head in what git http-backend says")?;
    let mut answer = Answer { status: 200, headers: Vec::new(), body: said[head + length..].to_vec() };
    for line in String::from_utf8_lossy(&said[..head]).lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "status" => answer.status = value.trim().split(' ').next().unwrap_or_default().parse()?,
            name => answer.headers.push((name.to_owned(), value.trim().to_owned())),
        }
    }
    Ok(answer)
}

impl Answer {
    /// The same with another status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }
}

// === impl Sshd ===

impl Sshd {
    /// Starts one.
    ///
    /// # Errors
    /// It does not listen.
    pub fn start() -> Result<Self> {
        let folder = Scratch::new("sshd")?;
        for name in ["host", "key", "other"] {
            let path = folder.join(name);
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status()?;
            ensure!(made.success(), "ssh-keygen: {made}");
        }
        std::fs::copy(folder.join("key.pub"), folder.join("authorized"))?;
        // where it drops its privileges, if it has any
        let _ = std::fs::create_dir_all("/run/sshd");
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let at = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nLogLevel VERBOSE\n",
            at("host"),
            at("authorized")
        );
        let config = folder.write("sshd_config", config)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let server = Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(config).stderr(log).spawn()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let sshd = Self { address, folder, server };
        let end = Instant::now() + LISTENS_WITHIN;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > end {
                bail!("sshd does not listen: {}", sshd.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(sshd)
    }
    /// The address of a folder of this machine as the user that the tests run as, without its scheme: `USER@127.0.0.1:PORT/PATH`.
    ///
    /// # Errors
    /// Nobody knows that user.
    pub fn url(&self, path: &Path) -> Result<String> {
        let user = Command::new("id").arg("-un").output()?.stdout;
        let user = String::from_utf8(user)?;
        Ok(format!("ssh://{}@{}{}", user.trim(), self.address, path.display()))
    }
    /// 127.0.0.1 and its port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// The key that it lets in.
    pub fn key(&self) -> PathBuf {
        self.folder.join("key")
    }
    /// One that it does not.
    pub fn other_key(&self) -> PathBuf {
        self.folder.join("other")
    }
    /// What a client that knows it has in its `known_hosts`.
    ///
    /// # Errors
    /// The file system's.
    pub fn known_hosts(&self) -> Result<String> {
        let key = std::fs::read_to_string(self.folder.join("host.pub"))?;
        let key = key.split(' ').take(2).collect::<Vec<_>>().join(" ");
        Ok(format!("[127.0.0.1]:{} {key}\n", self.address.port()))
    }
    /// What it has to say.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Runs git in a folder as nobody in particular; what it printed.
///
/// # Errors
/// It fails.
pub fn git(folder: &Path, arguments: &[&str]) -> Result<String> {
    git_with(folder, arguments, b"")
}

/// The same with something on its standard input.
///
/// # Errors
/// It fails.
pub fn git_with(folder: &Path, arguments: &[&str], input: &[u8]) -> Result<String> {
    let mut child = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"])
        .args(["-c", "protocol.file.allow=always", "-c", "gc.auto=0"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (mut to, input) = (child.stdin.take().context("its input")?, input.to_owned());
    let writing = std::thread::spawn(move || to.write_all(&input));
    let said = child.wait_with_output()?;
    let _ = writing.join();
    ensure!(said.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// A repository in that folder, with a commit of these files; the commit.
///
/// # Errors
/// The file system's, or git's.
pub fn repository(folder: &Path, files: &[(&str, &str)]) -> Result<String> {
    std::fs::create_dir_all(folder)?;
    if !folder.join(".git").exists() {
        git(folder, &["init", "-q"])?;
        for setting in ["uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"] {
            git(folder, &["config", setting, "true"])?;
        }
    }
    for (path, content) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().context("a parent")?)?;
        std::fs::write(path, content)?;
    }
    git(folder, &["add", "-A"])?;
    git(folder, &["commit", "-q", "--allow-empty", "-m", "a commit"])?;
    git(folder, &["rev-parse", "HEAD"])
}
