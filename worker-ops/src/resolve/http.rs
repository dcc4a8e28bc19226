//! What a resolver itself asks over HTTP: one request on one connection of its own, the answer whole and bounded, no redirect followed.
//!
//! It must never be used by an operation's worker, which makes no connection, and never say more of an address than host and port.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use shared_proto::address::Address;
use shared_proto::failure::Code;
use std::time::Duration;

use crate::fault::Fault;
use crate::net::{Client, Dialer, Endpoint, Request, read_all, tls};

/// The longest answer that is taken, bytes: tokens have a few thousand.
const ANSWER_MAX: usize = 256 * 1024;
/// How long one request may take, all in all.
const DEADLINE: Duration = Duration::from_secs(10);

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Sends it; its URI is a path and perhaps a query.
///
/// # Errors
/// Why there is no answer, with the address.
pub(super) async fn exchange(dialer: &Dialer, address: &Address, request: Request) -> Result<Answer, String> {
    exchange_with(dialer, address, "", request).await
}

/// The same with these certificate authorities in the place of the machine's, PEM; empty: those.
///
/// # Errors
/// As of [`exchange`].
pub(super) async fn exchange_with(
    dialer: &Dialer,
    address: &Address,
    ca_pem: &str,
    request: Request,
) -> Result<Answer, String> {
    let exchanging = async {
        let mut endpoint = Endpoint::new(address.clone(), dialer.clone());
        if address.https && !ca_pem.is_empty() {
            let wrong = |e| Fault::new(Code::TargetUnreachable, format!("{}: {e}", address.shown()));
            let config = tls::client(&tls::Trust::Pem(ca_pem), None).map_err(wrong)?;
            let name = tls::server_name(&address.host).map_err(wrong)?;
            endpoint = Ok(Endpoint { address: address.clone(), tls: Some((config, name)), dialer: dialer.clone() });
        }
        let mut client = Client::new(endpoint?);
        let (head, body) = client.send(request).await?.into_parts();
        let body = read_all(client.endpoint(), body, ANSWER_MAX).await?.ok_or_else(|| {
            let message = format!("{}: the answer has more than {ANSWER_MAX} bytes", address.shown());
            Fault::new(Code::TargetFailed, message)
        })?;
        Ok::<_, Fault>(Answer { status: head.status, headers: head.headers, body })
    };
    match tokio::time::timeout(DEADLINE, exchanging).await {
        Ok(answer) => answer.map_err(|fault| fault.failure.message),
        Err(_) => Err(format!("{}: no answer within {} s", address.shown(), DEADLINE.as_secs())),
    }
}
