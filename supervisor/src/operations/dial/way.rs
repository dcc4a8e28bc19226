//! The connection itself: what the name leads to, directly or through a proxy, within one deadline.

use super::reach::{Reach, Through};
use crate::config;
use crate::net::proxy::Proxy;
use crate::net::tcp::{self, Unconnected};
use nix::sys::socket::{setsockopt, sockopt};
use runner_sandbox::addresses::forbidden;
use shared_proto::bounds::CONNECT_DEADLINE;
use shared_proto::dial::Request;
use shared_proto::failure::{Code, Failure};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::net::TcpStream;

/// Silence after which the kernel asks whether a target is still there, seconds. A followed log may be silent for days: this is what
/// tells a quiet target from a dead one, 60 s later.
const KEEPALIVE_IDLE_S: u32 = 30;
/// Between two such questions, seconds, and how many go unanswered.
const KEEPALIVE_INTERVAL_S: u32 = 10;
const KEEPALIVE_COUNT: u32 = 3;

/// Gives a reason where an address must not be connected to.
type Check = fn(IpAddr) -> Option<&'static str>;

/// What the attempt is at, for the message when time is up.
const STEPS: [&str; 3] = ["resolving the name", "connecting", "the proxy's answer"];

/// Connects, within [`CONNECT_DEADLINE`].
///
/// # Errors
/// `target_unreachable` with host, port and why; `policy_denied` for an address that nothing is connected to.
pub(super) async fn connect(request: &Request, reach: &Reach, own: &config::Proxy) -> Result<TcpStream, Failure> {
    let step = AtomicU8::new(0);
    match tokio::time::timeout(CONNECT_DEADLINE, attempt(request, reach, own, &step)).await {
        Ok(connected) => connected,
        Err(_) => {
            let at = STEPS[usize::from(step.load(Ordering::Relaxed)).min(STEPS.len() - 1)];
            Err(unreachable(request, &format!("no connection within {} s, it was at {at}", CONNECT_DEADLINE.as_secs())))
        }
    }
}

async fn attempt(request: &Request, reach: &Reach, own: &config::Proxy, step: &AtomicU8) -> Result<TcpStream, Failure> {
    // a proxy would connect to it as well
    if let Ok(address) = request.host().parse::<IpAddr>()
        && let Some(reason) = forbidden(address)
    {
        return Err(refused(request, "", &Unconnected::Forbidden { address, reason }));
    }
    let at = |now| step.store(if now == tcp::Step::Resolving { 0 } else { 1 }, Ordering::Relaxed);
    let runners;
    let own_proxy_anywhere: Check = |_| None;
    let (proxy, entry, check) = match &reach.through {
        Through::Nothing => (None, "", forbidden as Check),
        Through::Its(proxy) => (Some(proxy), "the connection's kubeconfig", forbidden as Check),
        Through::Ours => {
            runners = Proxy::of_runner(own, request.host(), request.port())?;
            // wherever it is: the tunnel goes through it as well
            (runners.as_ref(), "the runner's configuration", own_proxy_anywhere)
        }
    };
    let stream = match proxy {
        None => {
            tcp::connect(request.host(), request.port(), forbidden, at).await.map_err(|e| refused(request, "", &e))?
        }
        Some(proxy) => {
            let through = format!("through the proxy {}", proxy.shown());
            let mut stream = tcp::connect(&proxy.host, proxy.port, check, at).await.map_err(|e| {
                refused(request, &format!("{through}, which is not reachable: "), &e)
                    .next(format!("Check the proxy's address in {entry}."))
            })?;
            step.store(2, Ordering::Relaxed);
            proxy.pass(&mut stream, request.host(), request.port()).await.map_err(|f| {
                let next = match f.code {
                    Code::ProxyRefused => format!("Check the proxy's rules, and its user and password in {entry}."),
                    _ => format!("Check the proxy's address and kind in {entry}."),
                };
                unreachable(request, &format!("{through}: {}", f.message)).next(next)
            })?;
            stream
        }
    };
    watch_over(&stream).map_err(|e| unreachable(request, &e.to_string()))?;
    Ok(stream)
}

fn unreachable(request: &Request, why: &str) -> Failure {
    Code::TargetUnreachable.on(format!("{}: {why}", request.shown()))
}

fn refused(request: &Request, before: &str, why: &Unconnected) -> Failure {
    match why {
        Unconnected::System(e) => unreachable(request, &format!("{before}{e}")),
        Unconnected::Forbidden { .. } => {
            tracing::warn!(target = request.shown(), reason = %why, "not connected");
            Code::PolicyDenied
                .on(format!("{}: {before}{why}", request.shown()))
                .next("Correct the address in the connection's entry, or what its name resolves to.")
        }
    }
}

/// No delay for small writes, and a dead target is noticed by the kernel.
fn watch_over(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
    Ok(())
}
