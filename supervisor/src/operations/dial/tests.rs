//! The supervisor's end, against real listeners and proxies of this file.

use super::*;
use crate::config;
use shared_proto::v1::{self, target::Kind as Target};
use std::net::TcpStream as StdTcpStream;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn kubernetes(server: &str, proxy_url: &str) -> Reach {
    let target = v1::KubernetesTarget { server: server.into(), proxy_url: proxy_url.into(), ..Default::default() };
    Reach::of(&v1::Target { kind: Some(Target::Kubernetes(target)) }, None).expect("a target")
}

fn aws() -> Reach {
    let target = v1::AwsTarget { region: "eu-central-1".into(), ..Default::default() };
    let what = v1::operation_request::What::WhoAmI(v1::WhoAmI::default());
    Reach::of(&v1::Target { kind: Some(Target::Aws(target)) }, Some(&what)).expect("a target")
}

fn no_proxy() -> config::Proxy {
    config::Proxy { url: None, no_proxy: String::new(), user: None, password_file: None }
}

async fn dial(reach: &Reach, host: &str, port: u16, own: &config::Proxy) -> Result<TcpStream, Failure> {
    way::connect(&Request::new(host, port).expect("a request"), reach, own).await
}

/// A proxy that takes one connection and answers with these bytes; its port, and what it was sent.
async fn proxy(answer: &'static [u8]) -> (u16, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        stream.write_all(answer).await.expect("answers");
        let mut seen = vec![0; 4096];
        let n = stream.read(&mut seen).await.expect("reads");
        seen.truncate(n);
        // open until the other end has read all
        let _ = stream.read(&mut [0; 1]).await;
        seen
    });
    (port, seen)
}

#[tokio::test]
async fn the_socket_is_as_a_worker_needs_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let stream = dial(&kubernetes("", ""), "127.0.0.1", port, &no_proxy()).await.expect("connects");
    assert!(stream.nodelay().expect("an option"));
    use nix::sys::socket::getsockopt;
    assert!(getsockopt(&stream, sockopt::KeepAlive).expect("an option"));
    let stream = OwnedFd::from(stream.into_std().expect("leaves the runtime"));
    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    let status = OFlag::from_bits_truncate(fcntl(&stream, FcntlArg::F_GETFL).expect("flags"));
    assert!(status.contains(OFlag::O_NONBLOCK));
    let flags = FdFlag::from_bits_truncate(fcntl(&stream, FcntlArg::F_GETFD).expect("flags"));
    assert!(flags.contains(FdFlag::FD_CLOEXEC));
}

#[tokio::test]
async fn what_is_not_reached_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").await.and_then(|l| l.local_addr()).expect("an address").port();
    let failure = dial(&kubernetes("", ""), "127.0.0.1", port, &no_proxy()).await.expect_err("nobody is there");
    assert_eq!(failure.code, Code::TargetUnreachable);
    assert!(failure.message.starts_with(&format!("127.0.0.1:{port}: Connection refused")), "{failure}");
    let failure = dial(&kubernetes("", ""), "no-such-name.invalid", 443, &no_proxy()).await.expect_err("no such name");
    assert_eq!(failure.code, Code::TargetUnreachable);
    assert!(failure.message.starts_with("no-such-name.invalid:443: "), "{failure}");
}

#[tokio::test]
async fn a_forbidden_address_is_refused_however_it_is_reached() {
    let through = |port: u16| kubernetes("", &format!("http://127.0.0.1:{port}"));
    for (reach, host, reason) in [
        (kubernetes("", ""), "169.254.169.254", "169.254.169.254 is a link-local address"),
        (kubernetes("", ""), "::ffff:169.254.169.254", "is a link-local address"),
        // as the C library reads numbers
        (kubernetes("", ""), "0xa9fea9fe", "169.254.169.254 is a link-local address"),
        (kubernetes("", ""), "0.0.0.0", "no address of a host"),
        (kubernetes("", ""), "168.63.129.16", "metadata"),
        (through(9), "169.254.169.254", "169.254.169.254 is a link-local address"),
        (kubernetes("", "socks5://169.254.1.1"), "a.example", "through the proxy 169.254.1.1:1080"),
    ] {
        let failure = dial(&reach, host, 80, &no_proxy()).await.expect_err(host);
        assert_eq!(failure.code, Code::PolicyDenied, "{failure}");
        assert!(failure.message.contains(reason) && failure.message.contains(host), "{failure}");
    }
}

#[tokio::test]
async fn a_target_behind_a_proxy_is_asked_of_it_with_the_entrys_login() {
    for (kind, answer) in [
        ("http", &b"HTTP/1.1 200 Fine\r\nA: b\r\n\r\nhello"[..]),
        ("socks5", b"\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50hello"),
    ] {
        let (port, seen) = proxy(answer).await;
        let reach = kubernetes("", &format!("{kind}://user:pw@127.0.0.1:{port}"));
        let mut stream = dial(&reach, "target.example", 6443, &no_proxy()).await.expect("connects");
        let mut rest = [0; 5];
        stream.read_exact(&mut rest).await.expect("what follows is the target's");
        assert_eq!(&rest, b"hello");
        drop(stream);
        let seen = String::from_utf8_lossy(&seen.await.expect("ends")).into_owned();
        if kind == "http" {
            assert!(seen.starts_with("CONNECT target.example:6443 HTTP/1.1\r\n"), "{seen}");
            assert!(seen.contains("Proxy-Authorization: Basic dXNlcjpwdw==\r\n"), "{seen}");
        }
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_its_words() {
    for (kind, answer, words) in [
        ("http", &b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..], "407 Proxy Authentication Required"),
        ("http", b"SSH-2.0-x\r\n\r\n", "not with HTTP/1."),
        ("socks5", b"\x05\xff", "way of logging in"),
        ("socks5", b"\x05\x02\x01\x01", "refused user and password"),
    ] {
        let (port, _seen) = proxy(answer).await;
        let reach = kubernetes("", &format!("{kind}://user:s3cr3t@127.0.0.1:{port}"));
        let failure = dial(&reach, "target.example", 6443, &no_proxy()).await.expect_err("refused");
        assert_eq!(failure.code, Code::TargetUnreachable);
        let named = format!("target.example:6443: through the proxy 127.0.0.1:{port}: ");
        assert!(failure.message.starts_with(&named) && failure.message.contains(words), "{failure}");
        assert!(!failure.to_string().contains("s3cr3t") && failure.next_step.contains("kubeconfig"), "{failure}");
    }
    let port = TcpListener::bind("127.0.0.1:0").await.and_then(|l| l.local_addr()).expect("an address").port();
    let reach = kubernetes("", &format!("http://127.0.0.1:{port}"));
    let failure = dial(&reach, "target.example", 6443, &no_proxy()).await.expect_err("nobody is there");
    let named = format!("through the proxy 127.0.0.1:{port}, which is not reachable: Connection refused");
    assert!(failure.code == Code::TargetUnreachable && failure.message.contains(&named), "{failure}");
}

#[tokio::test]
async fn aws_is_reached_through_the_runners_own_proxy() {
    let host = "sts.eu-central-1.amazonaws.com";
    let (port, seen) = proxy(b"HTTP/1.1 200 OK\r\n\r\n").await;
    let url = config::ProxyUrl { host: "127.0.0.1".into(), port };
    let own = config::Proxy { url: Some(url), ..no_proxy() };
    drop(dial(&aws(), host, 443, &own).await.expect("connects"));
    let seen = String::from_utf8(seen.await.expect("ends")).expect("text");
    assert!(seen.starts_with(&format!("CONNECT {host}:443 HTTP/1.1\r\n")), "{seen}");
    // a cluster's kubeconfig says itself whether there is a proxy
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let direct = listener.local_addr().expect("an address").port();
    assert!(dial(&kubernetes("", ""), "127.0.0.1", direct, &own).await.is_ok());
    let unreadable =
        config::Proxy { user: Some("u".into()), password_file: Some(PathBuf::from("/nonexistent")), ..own };
    let failure = dial(&aws(), host, 443, &unreadable).await.expect_err("no password");
    assert_eq!(failure.code, Code::ProxyFailed, "{failure}");
}

/// The worker's end: says these bytes, with these descriptors, and gets what is answered; `None`: the dialling has ended.
async fn ask(end: &AsyncFd<OwnedFd>, datagram: &[u8], with: &[&OwnedFd]) -> Option<(Reply, Option<StdTcpStream>)> {
    let descriptors: Vec<_> = with.iter().map(|d| d.as_fd()).collect();
    channel::send(end.get_ref().as_fd(), datagram, &descriptors).ok()?;
    let mut buffer = [0; REPLY_MAX];
    let received = end.async_io(Interest::READABLE, |e| channel::receive(e.as_fd(), &mut buffer)).await.ok()?;
    if received.length == 0 {
        return None;
    }
    let reply = Reply::decode(&buffer[..received.length], received.descriptors.len()).expect("a reply");
    Some((reply, received.descriptors.into_iter().next().map(StdTcpStream::from)))
}

/// A worker's end, and the task that answers it.
fn answered(reach: Reach) -> (AsyncFd<OwnedFd>, tokio::task::JoinHandle<()>) {
    let (ours, theirs) = channel::pair().expect("a pair");
    let answering = tokio::spawn(async move { serve(ours, &reach, no_proxy).await });
    (crate::descriptor::watch(theirs).expect("joins the runtime"), answering)
}

fn request(host: &str, port: u16) -> Vec<u8> {
    Request::new(host, port).expect("a request").encode()
}

#[tokio::test]
async fn a_worker_gets_its_target_and_is_refused_all_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let (worker, answering) = answered(kubernetes(&format!("http://127.0.0.1:{port}"), ""));
    for (host, to) in [("127.0.0.2", port), ("localhost", port), ("127.0.0.1", port ^ 1)] {
        let (reply, socket) = ask(&worker, &request(host, to), &[]).await.expect("an answer");
        let Reply::Failed(failure) = reply else { panic!("{host}:{to} was connected") };
        assert!(failure.code == Code::PolicyDenied && socket.is_none(), "{failure}");
        assert!(failure.message.contains("not the connection's target"), "{failure}");
    }
    let (reply, socket) = ask(&worker, &request("127.0.0.1", port), &[]).await.expect("an answer");
    assert_eq!(reply, Reply::Connected);
    let (_, peer) = listener.accept().await.expect("accepts");
    assert_eq!(socket.expect("a socket").local_addr().expect("an address"), peer);
    drop(worker);
    answering.await.expect("ends");
}

#[tokio::test]
async fn there_is_an_end_to_what_one_operation_is_connected_to() {
    let (worker, answering) = answered(kubernetes("http://127.0.0.1:9", ""));
    for n in 1..=DIALS_MAX {
        let (reply, _) = ask(&worker, &request("a", 1), &[]).await.expect("an answer");
        assert!(matches!(reply, Reply::Failed(f) if f.code == Code::PolicyDenied), "{n}");
    }
    let (reply, _) = ask(&worker, &request("127.0.0.1", 9), &[]).await.expect("an answer");
    let Reply::Failed(failure) = reply else { panic!("one too many was connected") };
    assert!(failure.code == Code::TooLarge && failure.message.contains("256"), "{failure}");
    answering.await.expect("ends");
    assert!(ask(&worker, &request("127.0.0.1", 9), &[]).await.is_none());
}

#[tokio::test]
async fn rubbish_ends_the_dialling() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let good = request("127.0.0.1", port);
    let stray = OwnedFd::from(std::fs::File::open("/dev/null").expect("opens"));
    let cases: [(&[u8], &[&OwnedFd]); 6] = [
        (b"\x01", &[]),
        (b"\x01\xbb", &[]),
        (b"\x01\xbba b", &[]),
        (b"\x00\x00a", &[]),
        (&[b'x'; REQUEST_MAX + 1], &[]),
        (&good, &[&stray]),
    ];
    for (datagram, with) in cases {
        let (worker, answering) = answered(kubernetes(&format!("http://127.0.0.1:{port}"), ""));
        assert!(ask(&worker, datagram, with).await.is_none(), "{datagram:?}");
        answering.await.expect("ends");
    }
}

#[tokio::test]
async fn a_worker_that_reads_no_answers_holds_few_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let (worker, answering) = answered(kubernetes(&format!("http://127.0.0.1:{port}"), ""));
    for _ in 0..100 {
        // its own queue may be full as well
        let _ = channel::send(worker.get_ref().as_fd(), &request("127.0.0.1", port), &[]);
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let mut waiting = 0;
    while channel::receive(worker.get_ref().as_fd(), &mut [0; REPLY_MAX]).is_ok() {
        waiting += 1;
    }
    assert!((1..64).contains(&waiting), "{waiting} sockets were in flight");
    drop(worker);
    answering.await.expect("ends");
}
