//! The mode `operation`: one request, one outcome.
//!
//! The end of the inherited socket is the caller's cancel: whatever runs is dropped, and with it every connection to the target.

use shared_proto::dial::DESCRIPTOR;
use shared_proto::failure::Code;
use shared_proto::frame::FrameError;
use shared_proto::v1::resolve_reply::Kind as Reply;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{
    self, BoundToken, KubernetesTarget, Masking, OperationRequest, Outcome, ResolveReply, WorkerRequest,
};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

use crate::fault::Fault;
use crate::net::{Dialer, Stream};
use crate::socket::{self, Input, Output};
use crate::steps::Steps;
use crate::{aws, azure, gcp, kubernetes, resolve, secrets};

/// What a worker is born with.
pub(crate) struct Inherited {
    pub(crate) socket: UnixStream,
    /// What it asks for connections with.
    pub(crate) dial: OwnedFd,
}

/// Takes it over, before anything else opens a descriptor of such a number.
///
/// # Errors
/// Something is missing.
pub(crate) fn inherit() -> io::Result<Inherited> {
    let socket = runner_sandbox::inherited_socket()?;
    Ok(Inherited { socket, dial: runner_sandbox::inherited_descriptor(DESCRIPTOR)? })
}

/// Serves the request that comes over the socket.
pub(crate) async fn run(inherited: Inherited) -> Result<(), FrameError> {
    let (mut input, mut output, hangup) = socket::open(inherited.socket)?;
    let dialer = Dialer::start(inherited.dial)?;
    tokio::select! {
        biased;
        () = hangup.gone() => Ok(()),
        ended = async {
            let mut request: WorkerRequest = input.request().await?;
            let mut connection = None;
            if request.ready {
                (request, connection) = ready(request, &dialer, &mut input).await?;
            }
            if let Some(reads) = request.secrets {
                return secrets::serve(reads, request.target, &dialer, &mut output).await;
            }
            if let Some(wanted) = request.bound_token {
                return output.last(&bound(wanted, request.target, &dialer).await).await;
            }
            let outcome = serve(request, connection, &dialer, &mut input, &mut output).await;
            output.outcome(&outcome).await?;
            Ok(())
        } => ended,
    }
}

/// What the supervisor asks for itself: a narrower credential in the place of the target's own.
async fn bound(wanted: BoundToken, target: Option<v1::Target>, dialer: &Dialer) -> ResolveReply {
    let narrowed = async {
        let Some(Target::Kubernetes(target)) = target.and_then(|t| t.kind) else {
            return Err(Fault::new(Code::WrongProvider, "a service account is of a cluster"));
        };
        let (token, expiry_ms) = kubernetes::bound(wanted, target, dialer).await?;
        let target = KubernetesTarget { token, ..Default::default() };
        let target = v1::Target { kind: Some(Target::Kubernetes(target)) };
        Ok(ResolveReply {
            kind: Some(Reply::Target(target)),
            valid_until_ms: resolve::valid_until(expiry_ms)?,
            ..Default::default()
        })
    };
    narrowed
        .await
        .unwrap_or_else(|fault| ResolveReply { kind: Some(Reply::Failure(fault.outcome())), ..Default::default() })
}

/// Connects to the target while the request is not there yet. What cannot be connected to is tried again by the request, which tells why.
async fn ready(
    first: WorkerRequest,
    dialer: &Dialer,
    input: &mut Input,
) -> Result<(WorkerRequest, Option<Stream>), FrameError> {
    let target = first.target.clone().and_then(|target| target.kind);
    let connecting = async {
        match target {
            Some(Target::Kubernetes(target)) => kubernetes::connection(target, dialer).await.ok(),
            _ => None,
        }
    };
    // one future to the end: a frame that was begun must not be lost in between
    let mut coming = pin!(input.request::<WorkerRequest>());
    let mut connecting = pin!(connecting);
    let (request, connection) = tokio::select! {
        request = &mut coming => (request?, connecting.await),
        mut connection = &mut connecting => {
            let request = tokio::select! {
                request = &mut coming => request?,
                // an API server says nothing unasked: it has closed it, or is none
                () = spoken(&mut connection) => {
                    connection = None;
                    coming.await?
                }
            };
            (request, connection)
        }
    };
    Ok((WorkerRequest { target: first.target, ..request }, connection))
}

/// Resolves once there is something to read, the end included; never where there is no connection.
async fn spoken(connection: &mut Option<Stream>) {
    match connection {
        Some(stream) => drop(stream.read(&mut [0]).await),
        None => std::future::pending().await,
    }
}

async fn serve(
    request: WorkerRequest,
    connection: Option<Stream>,
    dialer: &Dialer,
    input: &mut Input,
    output: &mut Output,
) -> Outcome {
    let WorkerRequest { request: Some(request), target: Some(target), masking, steps, again, .. } = request else {
        return Fault::new(Code::Internal, "the request came without an operation or without a target").outcome();
    };
    let deadline = request.deadline_ms;
    let told = (masking, Steps::after(steps), again);
    let work = dispatch(request, (target.kind, connection), told, dialer, input, output);
    let ended = if deadline == 0 {
        work.await
    } else {
        let timeout = tokio::time::timeout(Duration::from_millis(u64::from(deadline)), work);
        timeout.await.unwrap_or_else(|_| {
            Err(Fault::new(Code::DeadlineExceeded, format!("the target did not answer all of it within {deadline} ms")))
        })
    };
    ended.unwrap_or_else(|fault| fault.outcome())
}

async fn dispatch(
    request: OperationRequest,
    (target, connection): (Option<Target>, Option<Stream>),
    (masking, steps, again): (Option<Masking>, Steps, bool),
    dialer: &Dialer,
    input: &mut Input,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let Some(what) = request.what else {
        return Err(Fault::new(Code::UnsupportedVersion, "this runner does not know the operation that was asked for"));
    };
    match target {
        Some(Target::Kubernetes(target)) => {
            kubernetes::serve(what, (target, connection), masking, steps, dialer, input, output).await
        }
        Some(Target::Aws(target)) => aws::serve(what, target, (steps, again), dialer, input, output).await,
        Some(Target::Gcp(target)) => gcp::serve(what, target, steps, dialer, output).await,
        Some(Target::Azure(target)) => azure::serve(what, target, steps, dialer, output).await,
        None => Err(Fault::new(Code::Internal, "the request came without a target")),
    }
}
