//! WebSockets to the control plane, over the same connection and errors as any request.

use super::{Client, accepted, empty};
use http::{Method, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use shared_proto::failure::{Code, Failure};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// The largest message, bytes; the protocol's own are at most 64 KiB.
const MESSAGE_MAX: usize = 1024 * 1024;

/// An open WebSocket.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

// === impl Client ===

impl Client {
    /// Opens a WebSocket with this subprotocol, which the other end must choose.
    ///
    /// # Errors
    /// The API's own failure, or the connection's.
    pub(crate) async fn websocket(&self, path: &str, subprotocol: &'static str) -> Result<Socket, Failure> {
        let key = generate_key();
        let request = self
            .request(Method::GET, path)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .header(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
        let response = accepted(self.send(request, empty()).await?).await?;
        let said = |name: header::HeaderName| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS
            || said(header::SEC_WEBSOCKET_ACCEPT) != derive_accept_key(key.as_bytes())
            || said(header::SEC_WEBSOCKET_PROTOCOL) != subprotocol
        {
            return Err(Code::UnsupportedVersion
                .on(format!("{} did not answer as a WebSocket with {subprotocol}", self.endpoint)));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| super::cut(&self.endpoint, &e))?;
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await)
    }
}
