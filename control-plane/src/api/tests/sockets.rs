//! The API's port with TLS, and exec over a WebSocket through it.

use super::World;
use crate::api::{ApiListener, OPERATION_HEADER, router};
use crate::sessions::fake::{poll_until, until};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{StatusCode, header};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};
use tokio_util::sync::CancellationToken;

/// A listener with TLS, and a client's stream to it.
struct Served {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn new(world: &World, connections: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let tls = Arc::new(world.state.authority.api_tls_config().expect("TLS"));
        let api = ApiListener::new(listener, Some(tls), router(world.state.clone()), connections);
        let task = tokio::spawn(api.serve(stop.clone()));
        Self { address, stop, task }
    }
    async fn connect(&self, world: &World) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(world.state.authority.root().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let stream = TcpStream::connect(self.address).await?;
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<TcpStream>>;

async fn exec(world: &World, served: &Served, query: &str) -> Socket {
    let connection = if query.contains("hang") { "hang" } else { "echo" };
    let url = format!("ws://localhost/api/v1/connections/{connection}/k8s/namespaces/n/pods/p/exec?{query}");
    let mut request = url.into_client_request().expect("a request");
    let bearer = format!("Bearer {}", world.a.member).parse().expect("a header");
    request.headers_mut().insert(header::AUTHORIZATION, bearer);
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, "runner.exec.v1".parse().expect("a header"));
    let stream = served.connect(world).await.expect("connects");
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.expect("a WebSocket");
    assert!(response.headers().contains_key(OPERATION_HEADER));
    socket
}

/// Reads to the end: what came by kind, and the outcome.
async fn rest(socket: &mut Socket) -> (Vec<u8>, Vec<u8>, Value) {
    let (mut out, mut err, mut outcome) = (Vec::new(), Vec::new(), Value::Null);
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(bytes) = message else { continue };
        match bytes[0] {
            1 => out.extend_from_slice(&bytes[1..]),
            2 => err.extend_from_slice(&bytes[1..]),
            3 => outcome = serde_json::from_slice(&bytes[1..]).expect("JSON"),
            other => panic!("a message of kind {other}"),
        }
    }
    (out, err, outcome)
}

fn message(kind: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[kind], bytes].concat().into())
}

#[tokio::test]
async fn exec_carries_both_ways_and_ends_with_the_exit_code() {
    let world = World::new().await;
    let served = Served::new(&world, 16).await;
    let mut socket = exec(&world, &served, "command=cat&stdin=true&tty=true&columns=80&rows=24").await;
    let input: Vec<u8> = (0..500_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for chunk in input.chunks(shared_proto::bounds::DATA_MAX) {
        socket.send(message(0, chunk)).await.expect("sends");
    }
    socket.send(message(4, br#"{"columns":100,"rows":50}"#)).await.expect("sends");
    socket.send(message(5, b"")).await.expect("sends");
    let (out, err, outcome) = rest(&mut socket).await;
    assert!(err == input, "{} bytes came back", err.len());
    assert_eq!((out.as_slice(), &outcome["code"], &outcome["exit_code"]), (&b"100x50"[..], &json!("ok"), &json!(7)));
    until(&mut world.a.fake.state.running.subscribe(), |running| *running == 0).await;
}

#[tokio::test]
async fn exec_refuses_what_is_no_message_and_ends_with_its_client() {
    let world = World::new().await;
    let served = Served::new(&world, 16).await;
    for bad in [
        Message::text("hello"),
        message(9, b""),
        message(1, b"x"),
        message(4, b"{}"),
        message(4, br#"{"columns":0,"rows":1}"#),
        Message::Binary(Vec::new().into()),
    ] {
        let mut socket = exec(&world, &served, "command=hang&stdin=true").await;
        socket.send(bad.clone()).await.expect("sends");
        let (_, _, outcome) = rest(&mut socket).await;
        assert_eq!(outcome["code"], "invalid_argument", "{bad:?}");
    }
    let mut socket = exec(&world, &served, "command=hang&stdin=true").await;
    socket.send(message(0, &vec![0; 100_000])).await.expect("sends");
    while let Some(Ok(_)) = socket.next().await {}
    drop(exec(&world, &served, "command=hang").await);
    world.a.fake.idle().await;
    poll_until(|| world.state.streams.open() == 0).await;
}

/// Whoever still sends when the end comes is told why it ended.
#[tokio::test]
async fn an_outcome_is_not_lost_on_a_client_that_still_sends() {
    let world = World::new().await;
    let served = Served::new(&world, 16).await;
    for _ in 0..10 {
        let socket = exec(&world, &served, "command=hang&stdin=true").await;
        let (mut sink, mut stream) = socket.split();
        sink.send(Message::text("no message of the protocol")).await.expect("sends");
        let piece = message(0, &vec![0; shared_proto::bounds::DATA_MAX]);
        for _ in 0..16 {
            // the other side may have closed
            let _ = sink.send(piece.clone()).await;
        }
        let mut code = Value::Null;
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(bytes) = message {
                code = serde_json::from_slice::<Value>(&bytes[1..]).expect("JSON")["code"].clone();
            }
        }
        assert_eq!(code, "invalid_argument");
    }
}

#[tokio::test]
async fn the_listener_bounds_its_connections_and_drains() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::new().await;
    let served = Served::new(&world, 1).await;
    let mut first = served.connect(&world).await.expect("connects");
    assert!(served.connect(&world).await.is_err(), "one too many");
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    first.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = [0; 15];
    first.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    served.stop.cancel();
    // an idle connection does not hold the end up
    tokio::time::timeout(Duration::from_secs(60), served.task).await.expect("in time").expect("ends");
    assert_eq!(world.get("", "/openapi.json").await.status, StatusCode::OK);
}
