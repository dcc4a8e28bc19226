use super::super::{Store, Whose};
use super::*;
use shared_proto::states::{Key, Root};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn key() -> Key {
    Root::from_text(&"07".repeat(32)).expect("a key").of_stack("s1")
}
/// A store in that folder, served.
fn served(folder: &std::path::Path, removes: Option<&str>) -> Serving {
    served_for(folder, Serves { removes: removes.map(str::to_owned), reads_only: false })
}
fn served_for(folder: &std::path::Path, serves: Serves) -> Serving {
    let whose = Whose { stack: "s1".into(), job: "j1".into(), ..Whose::default() };
    let (store, _) = Store::open(folder, key(), whose).expect("opens");
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.set_nonblocking(true).expect("sets");
    Serving::start(store, key().token("j1"), vec![listener], serves).expect("serves")
}
fn state(serial: u64) -> String {
    format!("{{\"version\":4,\"serial\":{serial},\"lineage\":\"l\",\"resources\":[]}}")
}

/// Sends a request as it is, and gives status and content of the answer.
async fn send(serving: &Serving, head: &str, content: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(serving.address).await.expect("connects");
    let whole = format!("{head} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", content.len());
    let whole = if head.contains("\r\n") { head.to_owned() } else { whole };
    stream.write_all(whole.as_bytes()).await.expect("writes");
    stream.write_all(authorization(serving).as_bytes()).await.expect("writes");
    // who is refused early is not read to the end
    let _ = stream.write_all(content).await;
    answer(stream).await
}
fn authorization(serving: &Serving) -> String {
    format!("Authorization: {}\r\n\r\n", serving.shared.authorization.expose())
}
async fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    let text = String::from_utf8_lossy(&all).into_owned();
    let status = text.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    (status, text.split_once("\r\n\r\n").map(|(_, content)| content.to_owned()).unwrap_or_default())
}

#[tokio::test]
async fn a_state_that_is_there_to_be_read_is_not_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let serving = served(folder.path(), None);
    let info = br#"{"ID":"L-1","Who":"w"}"#;
    assert_eq!(send(&serving, "LOCK /", info).await.0, 200);
    assert_eq!(send(&serving, "POST /?ID=L-1", state(1).as_bytes()).await.0, 200);
    assert_eq!(send(&serving, "UNLOCK /", info).await.0, 200);
    serving.close().await;
    let serving = served_for(folder.path(), Serves { removes: None, reads_only: true });
    assert_eq!(send(&serving, "LOCK /", info).await.0, 200);
    assert!(serving.with(|store| store.held()).await.expect("reads").is_none(), "it is no lock");
    for query in ["", "?ID=L-1"] {
        assert_eq!(send(&serving, &format!("POST /{query}"), state(2).as_bytes()).await.0, 422, "{query}");
    }
    assert_eq!(serving.told().refused.expect("told").code, Code::SourceRefused);
    assert_eq!(send(&serving, "UNLOCK /", info).await.0, 200);
    assert_eq!(send(&serving, "GET /", b"").await, (200, state(1)));
}

#[tokio::test]
async fn an_engine_locks_writes_reads_and_unlocks_each_as_often_as_it_likes() {
    let folder = tempfile::tempdir().expect("a folder");
    let serving = served(folder.path(), None);
    assert_eq!(send(&serving, "GET /", b"").await.0, 404, "there is none yet");
    let info = br#"{"ID":"L-1","Who":"w"}"#;
    for _ in 0..2 {
        assert_eq!(send(&serving, "LOCK /", info).await.0, 200);
    }
    for _ in 0..2 {
        assert_eq!(send(&serving, "POST /?ID=L%2d1", state(1).as_bytes()).await.0, 200);
    }
    assert_eq!(send(&serving, "GET /", b"").await, (200, state(1)));
    let (status, holder) = send(&serving, "LOCK /", br#"{"ID":"M"}"#).await;
    assert!(status == 423 && holder.contains("L-1"), "{status} {holder}");
    assert_eq!(serving.told().locked.expect("told").id(), "L-1");
    for query in ["", "?ID=", "?ID=M", "?id=L-1"] {
        assert_eq!(send(&serving, &format!("POST /{query}"), state(2).as_bytes()).await.0, 409, "{query}");
    }
    let (status, why) = send(&serving, "POST /?ID=L-1", state(1).replace("[]", "[ ]").as_bytes()).await;
    assert!(status == 409 && why.contains("serial"), "{status} {why}");
    assert_eq!(serving.told().refused.map(|f| f.code), Some(Code::Conflict));
    assert_eq!(send(&serving, "POST /?x=y&ID=L-1", state(2).as_bytes()).await.0, 200);
    assert!(serving.told().refused.is_none(), "what came after it counts");
    assert_eq!(send(&serving, "UNLOCK /", br#"{"ID":"M"}"#).await.0, 409);
    assert_eq!(send(&serving, "UNLOCK /", b"").await.0, 400, "it does not say which");
    for _ in 0..2 {
        assert_eq!(send(&serving, "UNLOCK /", info).await.0, 200);
    }
    assert_eq!(serving.with(|store| Ok(store.versions()?.len())).await.expect("lists"), 2);
    for (head, expected) in [("GET /other", 404), ("DELETE /", 405), ("PUT /", 405)] {
        assert_eq!(send(&serving, head, b"").await.0, expected, "{head}");
    }
}

#[tokio::test]
async fn who_has_no_token_learns_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let serving = served(folder.path(), None);
    send(&serving, "LOCK /", br#"{"ID":"L"}"#).await;
    send(&serving, "POST /?ID=L", state(1).as_bytes()).await;
    let other = STANDARD.encode(format!("{USER}:{}", key().token("j2").expose()));
    let own = STANDARD.encode(format!("someone:{}", key().token("j1").expose()));
    let shown = [String::new(), format!("Authorization: Basic {other}\r\n"), format!("Authorization: Basic {own}\r\n")];
    for head in ["GET /", "POST /?ID=L", "LOCK /", "UNLOCK /", "GET /other", "DELETE /"] {
        for shown in &shown {
            let mut stream = TcpStream::connect(serving.address).await.expect("connects");
            let whole = format!("{head} HTTP/1.1\r\nHost: x\r\n{shown}Content-Length: 0\r\n\r\n");
            stream.write_all(whole.as_bytes()).await.expect("writes");
            assert_eq!(answer(stream).await, (401, String::new()), "{head} {shown}");
        }
    }
    assert!(!format!("{serving:?}").contains(key().token("j1").expose()));
    assert_eq!(send(&serving, "GET /", b"").await, (200, state(1)), "nothing was changed");
}

#[tokio::test]
async fn what_does_not_come_as_it_was_sent_is_not_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let serving = served(folder.path(), None);
    send(&serving, "LOCK /", br#"{"ID":"L"}"#).await;
    let content = state(1);
    let with = |digest: &str, length: usize| {
        format!("POST /?ID=L HTTP/1.1\r\nHost: x\r\nContent-MD5: {digest}\r\nContent-Length: {length}\r\n")
    };
    let right = STANDARD.encode(md5::digest(content.as_bytes()));
    let wrong = STANDARD.encode(md5::digest(b"another"));
    assert_eq!(send(&serving, &with(&wrong, content.len()), content.as_bytes()).await.0, 400);
    // it breaks off
    let mut stream = TcpStream::connect(serving.address).await.expect("connects");
    stream.write_all(with(&right, content.len() + 1).as_bytes()).await.expect("writes");
    stream.write_all(authorization(&serving).as_bytes()).await.expect("writes");
    stream.write_all(content.as_bytes()).await.expect("writes");
    stream.shutdown().await.expect("ends");
    let _ = answer(stream).await;
    assert_eq!(serving.with(|store| Ok(store.versions()?.len())).await.expect("lists"), 0);
    assert_eq!(send(&serving, &with(&right, content.len()), content.as_bytes()).await.0, 200);
    assert_eq!(send(&serving, "GET /", b"").await, (200, content));
}

#[tokio::test]
async fn both_sides_of_the_largest_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let serving = served(folder.path(), None);
    send(&serving, "LOCK /", br#"{"ID":"L"}"#).await;
    let of = |bytes: usize| {
        let mut content = state(1).into_bytes();
        content.resize(bytes, b' ');
        content
    };
    let (status, why) = send(&serving, "POST /?ID=L", &of(STATE_MAX + 1)).await;
    assert!(status == 413 && why.contains("67108864"), "{status} {why}");
    assert_eq!(send(&serving, "POST /?ID=L", &of(STATE_MAX)).await.0, 200);
    let long = format!("{{\"ID\":\"{}\"}}", "i".repeat(LOCK_MAX));
    assert_eq!(send(&serving, "LOCK /", long.as_bytes()).await.0, 413);
    let header = "x".repeat(HEAD_MAX);
    assert_eq!(send(&serving, &format!("GET /?{header}"), b"").await.0, 431);
}

#[tokio::test]
async fn the_lock_that_a_job_removes_is_the_one_that_it_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let serving = served(folder.path(), None);
    send(&serving, "LOCK /", br#"{"ID":"L"}"#).await;
    serving.close().await;
    // Terraform's force-unlock says no id, OpenTofu's does
    let serving = served(folder.path(), Some("M"));
    for (said, expected) in [(&b""[..], 409), (br#"{"ID":"L"}"#, 400), (br#"{"ID":"M"}"#, 409)] {
        assert_eq!(send(&serving, "UNLOCK /", said).await.0, expected);
    }
    serving.close().await;
    let serving = served(folder.path(), Some("L"));
    assert_eq!(send(&serving, "UNLOCK /", b"").await.0, 200);
    assert_eq!(send(&serving, "UNLOCK /", b"").await.0, 409, "it is gone");
}

#[tokio::test]
async fn a_token_is_redacted_in_whatever_an_engine_makes_of_it() {
    let token = key().token("j1");
    let redaction = runner_worker_iac::redaction::Redaction::new([token.expose()]);
    let mut text = format!("{} {}", token.expose(), STANDARD.encode(format!("{USER}:{}", token.expose())));
    redaction.apply(&mut text);
    assert_eq!(text.matches("[redacted]").count(), 2, "{text}");
    assert_eq!(format!("{USER}:").len() % 3, 0);
}
