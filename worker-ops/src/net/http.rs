//! HTTP/1.1 on one connection at a time, kept between requests.

use bytes::{Bytes, BytesMut};
use http::header::{HOST, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use shared_proto::failure::Code;

use super::dial::Endpoint;
use crate::fault::{Fault, chain};

/// A request with its whole body.
pub(crate) type Request = http::Request<Full<Bytes>>;

/// Sends requests to one endpoint, one after the other.
pub(crate) struct Client {
    endpoint: Endpoint,
    idle: Option<SendRequest<Full<Bytes>>>,
}

// === impl Client ===

impl Client {
    /// Connects with the first request.
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: None }
    }
    /// To the same endpoint, over a connection of its own.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.endpoint.clone())
    }
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends a request whose URI is a path and a query. Any answer is a success here. The answer's body must be read to its end, or
    /// dropped, before the next request.
    pub(crate) async fn send(&mut self, mut request: Request) -> Result<http::Response<Incoming>, Fault> {
        if !request.headers().contains_key(HOST) {
            let host = HeaderValue::from_str(&self.endpoint.address.host_header())
                .map_err(|_| Fault::new(Code::TargetUnreachable, format!("{}: no host name", self.endpoint.shown())))?;
            request.headers_mut().insert(HOST, host);
        }
        let mut kept = self.idle.take();
        if let Some(sender) = &mut kept
            && sender.ready().await.is_err()
        {
            kept = None;
        }
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let answer = sender.send_request(request).await.map_err(|e| lost(&self.endpoint, &e))?;
        self.idle = Some(sender);
        Ok(answer)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Fault> {
        let stream = self.endpoint.connect().await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(&self.endpoint, &e))?;
        // ends with the sender, or with the target; what it ends with, the request that waits for it is told
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }
}

/// A connection that was there and is not any more.
pub(crate) fn lost(endpoint: &Endpoint, error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::new(Code::TargetLost, format!("{}: {}", endpoint.shown(), chain(error)))
}

/// Reads a body to its end; `None` where it is longer than the limit.
pub(crate) async fn read_all<B>(endpoint: &Endpoint, mut body: B, limit: usize) -> Result<Option<Bytes>, Fault>
where
    B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
{
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|e| lost(endpoint, &e))?.into_data() {
            if whole.len() + data.len() > limit {
                return Ok(None);
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(Some(whole.freeze()))
}
