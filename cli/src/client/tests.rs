//! The client against an API in this process that behaves, and one that does not.

use super::job_events::JobEvents;
use super::*;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

/// What a handler sees of a request.
pub(crate) struct Asked {
    number: usize,
    pub(crate) method: Method,
    pub(crate) path: String,
    headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

/// An API on loopback whose answers are the handler's; it ends with the test's runtime.
pub(crate) async fn api(answer: impl Fn(Asked) -> Response<Body> + Send + Sync + 'static) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
            let service = service_fn(move |request: Request<Incoming>| {
                let (answer, number) = (Arc::clone(&answer), count.fetch_add(1, Ordering::SeqCst));
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                    let path = head.uri.to_string();
                    Ok::<_, io::Error>(answer(Asked { number, method: head.method, path, headers: head.headers, body }))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
        }
    });
    let token = shared_proto::api_key::generate(shared_proto::api_key::Purpose::User).expect("randomness");
    Client::new(&Context { endpoint, ca: None, token }).expect("a loopback endpoint")
}

pub(crate) fn answer(status: u16, text: &str) -> Response<Body> {
    let mut response = Response::new(full(text.as_bytes().to_vec()));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

/// A body of which nothing ever comes.
pub(crate) fn silent() -> Response<Body> {
    Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::pending::<io::Result<Frame<Bytes>>>())))
}

/// A body that is sent piece by piece.
fn pieces(texts: &[&str]) -> Response<Body> {
    let all: Vec<io::Result<Frame<Bytes>>> =
        texts.iter().map(|t| Ok(Frame::data(Bytes::from((*t).to_owned())))).collect();
    Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(all))))
}

fn event(number: u64) -> String {
    format!(
        "id: {number}\ndata: {{\"sequence\":{number},\"time_ms\":5,\"body\":{{\"phase_changed\":{{\"phase\":\"planning\",\"detail\":\"\"}}}}}}\n\n"
    )
}

#[tokio::test]
async fn documents_and_failures() {
    let client = api(|asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("GET", "/api/v1/whoami") => {
            assert!(asked.headers["authorization"].to_str().expect("text").starts_with("Bearer rnt_"));
            answer(200, "{\"ok\":1}")
        }
        ("POST", "/api/v1/echo") => answer(201, std::str::from_utf8(&asked.body).expect("text")),
        ("DELETE", "/api/v1/x") => answer(204, ""),
        ("GET", "/api/v1/html") => answer(200, "<html>"),
        _ => answer(404, r#"{"error":{"code":"not_found","message":"there is no x","next_step":"Look."}}"#),
    })
    .await;
    assert_eq!(client.get("/whoami").await, Ok(serde_json::json!({"ok": 1})));
    let body = serde_json::json!({"a": "ü"});
    assert_eq!(client.post("/echo", &body).await, Ok(body));
    assert_eq!(client.delete("/x").await, Ok(Value::Null));
    assert_eq!(client.get("/html").await.map_err(|f| f.code), Err(Code::Internal));
    assert_eq!(client.get("/x").await, Err(Code::NotFound.on("there is no x").next("Look.")));
    assert_eq!(client.find("/x").await, Ok(None));
    for names in [&["stacks", ""][..], &["stacks", "", "jobs"]] {
        let failure = client.get(&path(names, &[("a", "b//")])).await.expect_err("a name is empty");
        assert_eq!((failure.code, failure.message.as_str()), (Code::InvalidArgument, "a name is empty"));
    }
    assert_eq!(client.get(&path(&["whoami"], &[("a", "/")])).await.map_err(|f| f.code), Err(Code::NotFound));
    assert_eq!(client.exists("/x").await, Ok(false));
}

#[tokio::test]
async fn an_upload_arrives_whole() {
    use std::io::{Seek as _, Write as _};
    let content: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let expected = content.clone();
    let client = api(move |asked| {
        assert_eq!(asked.headers["content-length"], expected.len().to_string().as_str());
        answer(if asked.body[..] == expected[..] { 201 } else { 400 }, "")
    })
    .await;
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&content).expect("writes");
    file.rewind().expect("rewinds");
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let body = file_body(file, move |n| {
        counted.fetch_add(n as usize, Ordering::SeqCst);
    });
    client.upload("/archives/x", content.len() as u64, body).await.expect("is taken");
    assert_eq!(sent.load(Ordering::SeqCst), content.len());
}

#[tokio::test]
async fn what_takes_effect_once_is_sent_again_under_its_key_where_its_answer_was_lost() {
    let keys = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&keys);
    let client = api(move |asked| {
        let key = asked.headers["idempotency-key"].to_str().expect("text").to_owned();
        assert_eq!((asked.method, &asked.body[..]), (Method::POST, &b"{\"kind\":\"update\"}"[..]));
        seen.lock().expect("not poisoned").push(key);
        match asked.number {
            // the connection ends in the middle of the answer
            0 => {
                let broken = [Ok(Frame::data(Bytes::from("{\"id\":"))), Err(io::Error::other("cut"))];
                Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(broken))))
            }
            1 => answer(201, r#"{"id":"job_1"}"#),
            _ => answer(409, r#"{"error":{"code":"conflict","message":"no"}}"#),
        }
    })
    .await;
    let body = serde_json::json!({ "kind": "update" });
    assert_eq!(client.post_once("/stacks/s/jobs", &body).await.expect("made")["id"], "job_1");
    // what is refused is refused, and another request has another key
    assert_eq!(client.post_once("/stacks/s/jobs", &body).await.expect_err("refused").code, Code::Conflict);
    let keys = keys.lock().expect("not poisoned");
    assert!(keys.len() == 3 && keys[0] == keys[1] && keys[1] != keys[2] && keys[0].len() == 32, "{keys:?}");
}

#[tokio::test]
async fn events_come_once_and_in_order_over_cuts() {
    let client = api(|asked| {
        let last = asked.headers["last-event-id"].to_str().expect("text").to_owned();
        match (asked.number, last.as_str()) {
            // ends in the middle of the third
            (0, "0") => pieces(&[": hello\n\n", &event(1), &event(2)[..20], &event(2)[20..], &event(3)[..30]]),
            (1, "2") => answer(503, r#"{"error":{"code":"busy","message":"too many streams"}}"#),
            // one that was seen comes again
            (2, "2") => pieces(&[&event(2), &event(3)]),
            (3, "3") => pieces(&["event: end\ndata: {}\n\n"]),
            // a refusal, which ends the following: the test fails and does not wait
            _ => answer(400, ""),
        }
    })
    .await;
    let mut events = JobEvents::after(&client, "j", 0);
    let mut numbers = Vec::new();
    while let Some(event) = events.next(|_| {}).await.expect("goes on") {
        assert!(event.body.is_some() && event.time_ms() == 5);
        numbers.push(event.sequence);
    }
    assert_eq!(numbers, [1, 2, 3]);
}

#[tokio::test]
async fn a_gap_in_the_events_is_a_failure() {
    let client = api(|_| pieces(&[&event(1), &event(3)])).await;
    let mut events = JobEvents::after(&client, "j", 0);
    let failure = loop {
        match events.next(|_| {}).await {
            Ok(Some(event)) => assert_eq!(event.sequence, 1),
            Ok(None) => panic!("it did not end"),
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure.code, Code::Internal);
}

#[tokio::test]
async fn a_refusal_ends_the_following_at_once() {
    let client = api(|_| answer(404, r#"{"error":{"code":"not_found","message":"there is no job j"}}"#)).await;
    let failure = JobEvents::after(&client, "j", 0).next(|_| {}).await.expect_err("refused");
    assert_eq!(failure.code, Code::NotFound);
}

#[tokio::test]
async fn nobody_there_is_dial_failed() {
    // bound and dropped: nothing listens there
    let address = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("an address");
    let token = shared_proto::api_key::generate(shared_proto::api_key::Purpose::User).expect("randomness");
    let client = Client::new(&Context { endpoint: format!("http://{address}"), ca: None, token }).expect("loopback");
    assert_eq!(client.get("/whoami").await.map_err(|f| f.code), Err(Code::DialFailed));
}

#[test]
fn paths_are_encoded() {
    assert_eq!(path(&["stacks", "a/b c"], &[("x", "k=v&ü"), ("y", "")]), "/stacks/a%2Fb%20c?x=k%3Dv%26%C3%BC&y=");
    assert_eq!(path(&["runners", "..", "a.b"], &[]), "/runners/%2E%2E/a.b");
}

#[test]
fn errors_keep_their_code_and_words() {
    let body =
        br#"{"error":{"code":"runner_unavailable","message":"runner r1 was last seen 5 s ago","next_step":"Wait."}}"#;
    let failure = error_of(StatusCode::SERVICE_UNAVAILABLE, body);
    assert_eq!((failure.code, failure.next_step.as_str()), (Code::RunnerUnavailable, "Wait."));
    assert_eq!(error_of(StatusCode::NOT_FOUND, b"<html>").code, Code::NotFound);
    assert_eq!(error_of(StatusCode::BAD_GATEWAY, b"").code, Code::Internal);
    assert_eq!(error_of(StatusCode::IM_A_TEAPOT, b"{\"error\":{}}").code, Code::Internal);
}
