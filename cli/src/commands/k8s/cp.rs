//! `k8s cp`: files into a container and out of it, by `tar` run in it. What comes out is taken for what it is, somebody else's: no links,
//! nothing outside of the place that was named.

use super::OWN_NAMESPACE;
use super::api::Api;
use super::exec::{OUTCOME, PIECE, PROTOCOL, STDERR, STDIN, STDIN_CLOSED, STDOUT};
use super::unpack::{self, Unpacked};
use crate::client::{Socket, path};
use crate::commands::{Session, outcome};
use crate::output::{escape, progress, remark};
use crate::stop::{self, Done};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use indicatif::ProgressBar;
use serde_json::json;
use shared_proto::failure::{Code, Failure};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

/// Pieces of an archive between the network and the disk.
const QUEUE: usize = 8;
/// What the remote `tar` says that is kept, bytes.
const WORDS_MAX: usize = 4096;

/// `k8s cp`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  runnerctl k8s cp ./conf web-1:/etc/app\n  runnerctl k8s cp shop/web-1:/tmp/dump.gz . -c app\n\nThe container \
                        needs `tar`. Links are left out, both ways. A file that does not arrive here whole does not replace one that is there."
)]
pub(super) struct Cp {
    /// FILE, or POD:PATH, or NAMESPACE/POD:PATH
    from: String,
    /// The same; one of both is in a pod
    to: String,
    /// The pod's namespace; the connection's own by default
    #[arg(short, long, env = "RUNNERCTL_NAMESPACE")]
    namespace: Option<String>,
    /// The container; may be left out where there is one only
    #[arg(short, long)]
    container: Option<String>,
}

/// A place in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Remote {
    namespace: Option<String>,
    pod: String,
    path: String,
}

/// An end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Here(PathBuf),
    There(Remote),
}

/// How a remote command ended.
struct Ended {
    code: i32,
    said: String,
}

// === impl Place ===

impl Place {
    /// With a colon it is in a pod, unless it begins as a path does.
    fn read(text: &str) -> Result<Self, Failure> {
        let is_here = text.starts_with(['.', '/', '~']);
        let Some((pod, path)) = text.split_once(':').filter(|_| !is_here) else {
            return Ok(Self::Here(PathBuf::from(text)));
        };
        let (namespace, pod) = match pod.split_once('/') {
            Some((namespace, pod)) => (Some(namespace.to_owned()), pod),
            None => (None, pod),
        };
        if pod.is_empty() || pod.contains('/') || namespace.as_ref().is_some_and(String::is_empty) {
            return Err(Code::InvalidArgument
                .on(format!("{text:?} names no pod"))
                .next("Write POD:PATH or NAMESPACE/POD:PATH; a local file with a colon as ./FILE."));
        }
        let path = path.trim_end_matches('/');
        Ok(Self::There(Remote {
            namespace,
            pod: pod.to_owned(),
            path: if path.is_empty() { "/".into() } else { path.into() },
        }))
    }
}

/// `k8s cp`
pub(super) async fn run(command: Cp, api: &Api, session: &Session) -> Done {
    let note =
        "the copy was broken off; a file that had not arrived here whole is as it was, one in the pod may be cut off";
    match (Place::read(&command.from)?, Place::read(&command.to)?) {
        (Place::Here(from), Place::There(to)) => {
            session.interrupt.guard(note, upload(&command, &from, &to, api, session)).await
        }
        (Place::There(from), Place::Here(to)) => {
            session.interrupt.guard(note, download(&command, &from, &to, api, session)).await
        }
        _ => Err(Code::InvalidArgument
            .on("one end of a copy is a file here, the other one in a pod")
            .next("Write POD:PATH for one of them, and a path for the other.")
            .into()),
    }
}

impl Cp {
    async fn start(&self, api: &Api, session: &Session, there: &Remote, words: &[&str]) -> Result<Socket, Failure> {
        let namespace = there.namespace.as_deref().or(self.namespace.as_deref()).unwrap_or(OWN_NAMESPACE);
        let own = [("container", self.container.as_deref()), ("stdin", Some("true"))];
        let query = session.query(own.into_iter().chain(words.iter().map(|word| ("command", Some(*word)))));
        let at =
            path(&["connections", &api.connection, "k8s", "namespaces", namespace, "pods", &there.pod, "exec"], &query);
        api.client.websocket(&at, PROTOCOL).await
    }

    /// Runs a command there that is given an archive, or gives one.
    async fn converse(
        &self,
        socket: Socket,
        mut given: mpsc::Receiver<Vec<u8>>,
        got: Option<mpsc::Sender<Vec<u8>>>,
    ) -> Result<Ended, Failure> {
        let (mut sink, mut source) = socket.split();
        let lost = || Code::ConnectionLost.on("the connection was cut while the file was copied");
        let send = async {
            while let Some(piece) = given.recv().await {
                let mut message = vec![STDIN];
                message.extend(piece);
                sink.send(Message::Binary(Bytes::from(message))).await.map_err(|_| lost())?;
            }
            sink.send(Message::Binary(Bytes::from_static(&[STDIN_CLOSED]))).await.map_err(|_| lost())?;
            std::future::pending::<Result<Ended, Failure>>().await
        };
        let receive = async {
            let mut said = Vec::new();
            let mut got = got;
            while let Some(message) = source.next().await {
                let Message::Binary(data) = message.map_err(|_| lost())? else { continue };
                match data.split_first() {
                    Some((&STDOUT, data)) => {
                        if let Some(to) = &got
                            && to.send(data.to_vec()).await.is_err()
                        {
                            // who takes it apart has seen enough, and says why
                            got = None;
                        }
                    }
                    Some((&STDERR, data)) if said.len() < WORDS_MAX => said.extend_from_slice(data),
                    Some((&OUTCOME, json)) => {
                        let said = String::from_utf8_lossy(&said).trim().to_owned();
                        return Ok(Ended { code: outcome::read(json)?, said });
                    }
                    _ => {}
                }
            }
            Err(outcome::missing())
        };
        // a command that has ended takes nothing more: what it ended with counts, and not that nobody reads
        tokio::pin!(receive);
        tokio::select! {
            ended = &mut receive => ended,
            failed = send => match failed {
                Err(_) => receive.await,
                done => done,
            },
        }
    }

    /// Whether there is a folder of that name.
    async fn is_folder(&self, api: &Api, session: &Session, there: &Remote) -> Result<bool, Failure> {
        let socket = self.start(api, session, there, &["test", "-d", &there.path]).await?;
        let (close, given) = mpsc::channel(1);
        drop(close);
        Ok(self.converse(socket, given, None).await?.code == 0)
    }
}

async fn upload(command: &Cp, from: &Path, to: &Remote, api: &Api, session: &Session) -> Done {
    let kind = std::fs::symlink_metadata(from).map_err(|e| stop::file(from, &e))?;
    // a link that is named itself means what it leads to
    let kind = if kind.is_symlink() { std::fs::metadata(from).map_err(|e| stop::file(from, &e))? } else { kind };
    let own_name = from.canonicalize().map_err(|e| stop::file(from, &e))?;
    let own_name = own_name.file_name().map(|n| n.to_string_lossy().into_owned());
    let (folder, name) = if command.is_folder(api, session, to).await? {
        (to.path.clone(), own_name.ok_or_else(|| Code::InvalidArgument.on(format!("{} has no name", from.display())))?)
    } else {
        let (folder, name) = parts(&to.path)?;
        (folder, name)
    };
    let bar = progress::bytes(if kind.is_file() { kind.len() } else { 0 }, "copying");
    let socket = command.start(api, session, to, &["tar", "-x", "-m", "-f", "-", "-C", &folder]).await?;
    let (pieces, given) = mpsc::channel(QUEUE);
    let packing = tokio::task::spawn_blocking({
        let (from, bar) = (from.to_owned(), bar.clone());
        move || pack(&from, &name, pieces, &bar)
    });
    let ended = command.converse(socket, given, None).await;
    let packed = packing.await.map_err(|_| Code::Internal.on("the archive was not made"));
    bar.finish_and_clear();
    // what went wrong here is why the other end had no whole archive
    let files = match (packed?, &ended) {
        (Err(e), _) if e.kind() != std::io::ErrorKind::BrokenPipe => return Err(stop::file(from, &e).into()),
        (Err(_), Ok(ended)) if ended.code == 0 => return Err(Code::TargetRefused.on("tar took only a part").into()),
        (packed, _) => packed.unwrap_or(0),
    };
    succeeded(ended?, to)?;
    let text = format!("{} copied to {}:{}", count(files), to.pod, to.path);
    session.output.document(&json!({ "files": files }), |_| format!("{text}\n"))
}

async fn download(command: &Cp, from: &Remote, to: &Path, api: &Api, session: &Session) -> Done {
    let (folder, name) = parts(&from.path)?;
    let target = if to.is_dir() { to.join(&name) } else { to.to_owned() };
    let bar = progress::bytes(0, "copying");
    let member = format!("./{name}");
    let socket = command.start(api, session, from, &["tar", "-c", "-f", "-", "-C", &folder, &member]).await?;
    let (close, given) = mpsc::channel(1);
    drop(close);
    let (got, pieces) = mpsc::channel(QUEUE);
    let unpacking = tokio::task::spawn_blocking({
        let (name, bar) = (name.clone(), bar.clone());
        move || {
            let mut archive = Pieces { queue: pieces, piece: Vec::new(), at: 0, bar };
            unpack::unpack(&mut archive, &name, &target)
        }
    });
    let ended = command.converse(socket, given, Some(got)).await;
    let unpacked = unpacking.await.map_err(|_| Code::Internal.on("the archive was not taken apart"))?;
    bar.finish_and_clear();
    // without the other end's last word nothing is whole; with it what it says counts first
    let ended = ended?;
    let unpacked = match unpacked {
        Ok(unpacked) => {
            succeeded(ended, from)?;
            unpacked
        }
        Err(failure) if failure.code == Code::TargetLost => {
            succeeded(ended, from)?;
            return Err(failure.into());
        }
        Err(failure) => return Err(failure.into()),
    };
    let Unpacked { files, left_out } = unpacked.keep()?;
    for one in &left_out {
        remark(&format!("{one} is left out"));
    }
    let text = format!("{} copied from {}:{}", count(files), from.pod, from.path);
    session.output.document(&json!({ "files": files, "left_out": left_out.len() }), |_| format!("{text}\n"))
}

fn count(files: u64) -> String {
    if files == 1 { "1 file".into() } else { format!("{files} files") }
}

/// The remote `tar` did what it was to do.
fn succeeded(ended: Ended, there: &Remote) -> Result<(), Failure> {
    match ended.code {
        0 => Ok(()),
        127 => Err(Code::TargetRefused
            .on(format!("the container has no tar: {}", escape::line(&ended.said)))
            .next("Copy by way of a container that has it, or through `k8s exec -i … -- sh -c 'cat > FILE'`.")),
        code => {
            Err(Code::TargetRefused
                .on(format!("tar at {}:{} ended with {code}: {}", there.pod, there.path, ended.said)))
        }
    }
}

/// Folder and name of a remote path.
fn parts(path: &str) -> Result<(String, String), Failure> {
    let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
    let folder = if folder.is_empty() { "/" } else { folder };
    match name {
        "" | "." | ".." => Err(Code::InvalidArgument
            .on(format!("{path:?} names no file"))
            .next("Name the file or folder itself, with its own name at the end.")),
        name => Ok((folder.to_owned(), name.to_owned())),
    }
}

/// Writes an archive of a file or a folder, under that name; gives the number of files.
fn pack(from: &Path, name: &str, pieces: mpsc::Sender<Vec<u8>>, bar: &ProgressBar) -> std::io::Result<u64> {
    let mut archive = tar::Builder::new(Sink { queue: pieces, bar: bar.clone() });
    archive.follow_symlinks(false);
    archive.mode(tar::HeaderMode::Deterministic);
    let mut files = 0;
    let mut waiting = vec![(from.to_owned(), PathBuf::from(name), true)];
    while let Some((path, name, is_first)) = waiting.pop() {
        let kind = if is_first { std::fs::metadata(&path)? } else { std::fs::symlink_metadata(&path)? };
        if kind.is_dir() {
            archive.append_dir(&name, &path)?;
            for entry in std::fs::read_dir(&path)? {
                let entry = entry?;
                waiting.push((entry.path(), name.join(entry.file_name()), false));
            }
        } else if kind.is_file() {
            archive.append_file(&name, &mut std::fs::File::open(&path)?)?;
            files += 1;
        } else {
            remark(&format!("{} is neither a file nor a folder, and is left out", path.display()));
        }
    }
    archive.into_inner()?.flush()?;
    Ok(files)
}

/// An archive as it is written.
struct Sink {
    queue: mpsc::Sender<Vec<u8>>,
    bar: ProgressBar,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        self.queue.blocking_send(piece.to_vec()).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        self.bar.inc(piece.len() as u64);
        Ok(piece.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An archive as it comes.
struct Pieces {
    queue: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    bar: ProgressBar,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.piece.len() {
            let Some(piece) = self.queue.blocking_recv() else { return Ok(0) };
            self.bar.inc(piece.len() as u64);
            (self.piece, self.at) = (piece, 0);
        }
        let take = buffer.len().min(self.piece.len() - self.at);
        buffer[..take].copy_from_slice(&self.piece[self.at..self.at + take]);
        self.at += take;
        Ok(take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let there = |namespace: Option<&str>, pod: &str, path: &str| {
            Ok(Place::There(Remote { namespace: namespace.map(str::to_owned), pod: pod.into(), path: path.into() }))
        };
        assert_eq!(Place::read("web:/a/b/"), there(None, "web", "/a/b"));
        assert_eq!(Place::read("n/web:a"), there(Some("n"), "web", "a"));
        assert_eq!(Place::read("web:/"), there(None, "web", "/"));
        for here in ["a", "./a:b", "/a:b", "../x"] {
            assert_eq!(Place::read(here), Ok(Place::Here(here.into())), "{here}");
        }
        for wrong in [":a", "/:a/b"] {
            assert!(matches!(Place::read(wrong), Ok(Place::Here(_)) | Err(_)), "{wrong}");
        }
        assert!(Place::read("a/b/c:d").is_err() && Place::read(":a").is_err());
        assert_eq!(parts("/a/b"), Ok(("/a".into(), "b".into())));
        assert_eq!(parts("/b"), Ok(("/".into(), "b".into())));
        assert_eq!(parts("b"), Ok((".".into(), "b".into())));
        for wrong in ["/", "..", "/a/..", "."] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let folder = tempfile::tempdir().expect("a folder");
        let from = folder.path().join("from");
        std::fs::create_dir_all(from.join("inner")).expect("makes");
        std::fs::write(from.join("a"), "one").expect("writes");
        std::fs::write(from.join("inner/b"), vec![7; 100_000]).expect("writes");
        std::os::unix::fs::symlink("/etc/passwd", from.join("link")).expect("links");
        let (pieces, mut queue) = mpsc::channel(1000);
        assert_eq!(pack(&from, "name", pieces, &ProgressBar::hidden()).expect("packs"), 2);
        let mut all = Vec::new();
        while let Ok(piece) = queue.try_recv() {
            all.extend(piece);
        }
        let to = folder.path().join("to");
        let done = unpack::unpack(&mut &all[..], "name", &to).expect("unpacks").keep().expect("stays");
        assert_eq!((done.files, done.left_out.len()), (2, 0));
        assert_eq!(std::fs::read(to.join("inner/b")).expect("is there"), vec![7; 100_000]);
        assert!(!to.join("link").exists());
    }
}
