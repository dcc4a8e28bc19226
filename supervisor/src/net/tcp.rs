//! TCP to a name: its addresses, one soon after the other, until one takes the connection.

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

/// The most addresses of a name that are tried in one attempt.
const ADDRESSES_MAX: usize = 8;
/// Between the starts of two of them.
const ADDRESS_DELAY: Duration = Duration::from_millis(250);

/// What an attempt is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The name is looked up.
    Resolving,
    /// Its addresses are known.
    Connecting,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unconnected {
    /// No address of the name may be connected to; one of them, and why.
    #[error("{address} is {reason}, and nothing is connected to it")]
    Forbidden {
        /// The address.
        address: IpAddr,
        /// What it is.
        reason: &'static str,
    },
    /// The system's reason.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Connects to the first address that answers; a later one is tried when the earlier did not answer soon. An address for which `forbidden`
/// gives a reason is left out.
pub(crate) async fn connect(
    host: &str,
    port: u16,
    forbidden: fn(IpAddr) -> Option<&'static str>,
    step: impl Fn(Step),
) -> Result<TcpStream, Unconnected> {
    step(Step::Resolving);
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    let addresses = permitted(interleave(found), forbidden)?;
    step(Step::Connecting);
    // whoever named an address knows which one it was
    let named = host.parse::<IpAddr>().is_ok();
    let mut attempts: FuturesUnordered<_> = addresses
        .into_iter()
        .take(ADDRESSES_MAX)
        .zip(0..)
        .map(|(address, n): (SocketAddr, u32)| async move {
            if n > 0 {
                // a timer of no time still takes its tick, a millisecond
                tokio::time::sleep(ADDRESS_DELAY * n).await;
            }
            let connected = TcpStream::connect(address).await;
            connected.map_err(|e| if named { e } else { io::Error::new(e.kind(), format!("{address}: {e}")) })
        })
        .collect();
    let mut failed = io::Error::other("the name has no address");
    while let Some(result) = attempts.next().await {
        match result {
            Ok(stream) => return Ok(stream),
            Err(e) => failed = e,
        }
    }
    Err(failed.into())
}

/// Those that may be connected to. That none is left is worth saying, that a name has none is said elsewhere.
fn permitted(
    addresses: Vec<SocketAddr>,
    forbidden: fn(IpAddr) -> Option<&'static str>,
) -> Result<Vec<SocketAddr>, Unconnected> {
    let mut refused = None;
    let mut permitted = Vec::new();
    for address in addresses {
        match forbidden(address.ip()) {
            Some(reason) => refused = refused.or(Some((address.ip(), reason))),
            None => permitted.push(address),
        }
    }
    match refused {
        Some((address, reason)) if permitted.is_empty() => Err(Unconnected::Forbidden { address, reason }),
        _ => Ok(permitted),
    }
}

/// The resolver's order, families taking turns, so that a family without a route costs one delay and no more.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut turns = Vec::new();
    loop {
        match (same.next(), other.next()) {
            (None, None) => return turns,
            (a, b) => turns.extend(a.into_iter().chain(b)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|t| t.parse().expect("an address")).collect()
    }

    #[test]
    fn families_take_turns_in_the_resolvers_order() {
        assert_eq!(
            interleave(parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"])),
            parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"])
        );
        assert_eq!(interleave(Vec::new()), Vec::new());
    }

    #[test]
    fn forbidden_addresses_are_left_out_and_a_name_with_no_other_is_refused() {
        let forbidden = runner_sandbox::addresses::forbidden;
        let left = permitted(parse(&["169.254.169.254:80", "10.0.0.1:80", "[fe80::1]:80"]), forbidden);
        assert_eq!(left.expect("one is left"), parse(&["10.0.0.1:80"]));
        assert_eq!(permitted(Vec::new(), forbidden).expect("none was forbidden"), Vec::new());
        let refused = permitted(parse(&["169.254.169.254:80", "[fe80::1]:80"]), forbidden).expect_err("none is left");
        assert!(refused.to_string().starts_with("169.254.169.254 is a link-local address"), "{refused}");
    }
}
