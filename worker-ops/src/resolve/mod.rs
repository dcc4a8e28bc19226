//! The modes `resolve` and `resolve-aws`: what an entry of the runner's own configuration says becomes credentials, and they go back
//! to the supervisor and nowhere else.
//!
//! What comes in here comes from that configuration only, never from the control plane. No secret and no line of a file that may hold
//! one is ever in a message.

mod aws;
mod azure;
mod file;
mod gcp;
mod http;
mod in_cluster;
mod kubeconfig;
mod plugin;
mod signed;
mod source;

use prost::Message as _;
use shared_proto::failure::Code;
use shared_proto::frame::FrameError;
use shared_proto::v1::resolve_reply::Kind;
use shared_proto::v1::resolve_request::How;
use shared_proto::v1::target::Kind as TargetKind;
use shared_proto::v1::{ResolveReply, ResolveRequest, Step, Target};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::fault::Fault;
use crate::net::Dialer;
use crate::operation::Inherited;
use crate::socket::{self, Hangup, Output};

/// What was read from files is good for this long: files are replaced without notice.
const FILES_VALID: Duration = Duration::from_secs(10);
/// Credentials that say when they end are good until this much earlier.
const EXPIRY_MARGIN: Duration = Duration::from_secs(60);
/// Whatever they say, they are asked for again after this.
const VALID_MAX: Duration = Duration::from_secs(15 * 60);
/// The largest request in the second half of a resolution, bytes.
const REQUEST_MAX: u64 = 4 * 1024 * 1024;

/// A resolution's result. Its target prints itself without its secrets.
#[derive(Debug)]
struct Resolved {
    target: TargetKind,
    /// Unix milliseconds.
    valid_until_ms: i64,
    /// How it was got.
    steps: Vec<Step>,
}

/// Serves the request that comes over the socket.
pub(crate) async fn run(inherited: Inherited) -> Result<(), FrameError> {
    let spare = inherited.socket.try_clone()?;
    let (mut input, output, hangup) = socket::open(inherited.socket)?;
    let request: ResolveRequest = tokio::select! {
        biased;
        () = hangup.gone() => return Ok(()),
        request = input.request() => request?,
    };
    let named = match &request.how {
        Some(How::Source(_)) => format!("sources.{}", request.connection),
        _ => format!("connection {:?}", request.connection),
    };
    let resolved = async {
        let dialer = |dial| {
            Dialer::start(dial).map_err(|e| Fault::new(Code::Internal, format!("nobody connects the resolver: {e}")))
        };
        let resolved = match request.how {
            Some(How::Kubeconfig(how)) => kubeconfig::resolve(how).await,
            Some(How::InCluster(_)) => in_cluster::resolve(),
            Some(How::Aws(how)) => match aws::from_environment(&how) {
                Some(resolved) => resolved,
                // the rest is aws-config's, which reads its settings from the process's own environment
                None => Err(aws::again(&how, spare, inherited.dial)),
            },
            Some(How::Gcp(how)) => gcp::resolve(how, &dialer(inherited.dial)?).await,
            Some(How::Azure(how)) => azure::resolve(&how, &dialer(inherited.dial)?).await,
            Some(How::Source(how)) => {
                let access = source::resolve(&request.connection, &how, &dialer(inherited.dial)?).await?;
                return Ok(ResolveReply { kind: Some(Kind::Source(access)), ..Default::default() });
            }
            None => Err(Fault::new(Code::UnsupportedVersion, "this runner does not know that kind of credentials")),
        };
        resolved.map(ResolveReply::from)
    };
    finish(&named, resolved, output, &hangup).await
}

/// The second half for AWS: the request is on standard input, the socket is standard output, the environment is the request's. What it asks for
/// connections with is where it was.
pub(crate) async fn run_aws(dial: OwnedFd) -> Result<(), FrameError> {
    let dialer = Dialer::start(dial)?;
    let mut bytes = Vec::new();
    io::stdin().take(REQUEST_MAX).read_to_end(&mut bytes)?;
    let request = shared_proto::v1::ResolveAws::decode(bytes.as_slice())?;
    let (_input, output, hangup) = socket::open(UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?))?;
    let resolved = async { aws::resolve(&request, &dialer).await.map(ResolveReply::from) };
    finish("", resolved, output, &hangup).await
}

impl From<Resolved> for ResolveReply {
    fn from(Resolved { target, valid_until_ms, steps }: Resolved) -> Self {
        Self { kind: Some(Kind::Target(Target { kind: Some(target) })), valid_until_ms, steps }
    }
}

/// `named`: what failures begin with; empty: whoever is told of them knows.
async fn finish(
    named: &str,
    resolved: impl Future<Output = Result<ResolveReply, Fault>>,
    mut output: Output,
    hangup: &Hangup,
) -> Result<(), FrameError> {
    tokio::select! {
        biased;
        () = hangup.gone() => Ok(()),
        resolved = resolved => {
            let reply = match resolved {
                Ok(reply) => reply,
                Err(mut fault) => {
                    if !named.is_empty() {
                        fault.failure.message = format!("{named}: {}", fault.failure.message);
                    }
                    ResolveReply { kind: Some(Kind::Failure(fault.outcome())), ..Default::default() }
                }
            };
            output.last(&reply).await
        }
    }
}

/// Until when files are good.
fn files_valid() -> i64 {
    shared_proto::now_ms() + millis(FILES_VALID)
}

/// Until when credentials are good that end at a moment.
///
/// # Errors
/// They have ended.
pub(crate) fn valid_until(expiry_ms: i64) -> Result<i64, Fault> {
    let now = shared_proto::now_ms();
    if expiry_ms <= now {
        return Err(Fault::new(Code::CredentialsExpired, "the credentials that were given have expired already"));
    }
    // the last minute is better than none
    Ok((expiry_ms - millis(EXPIRY_MARGIN)).max(now).min(now + millis(VALID_MAX)))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Something that went well on the way to a target.
fn step(name: &str, detail: String) -> Step {
    Step { name: name.to_owned(), ok: true, detail, next_step: String::new() }
}

/// A failure of the entry in the runner's configuration.
fn unavailable(message: impl Into<String>) -> Fault {
    Fault::new(Code::CredentialsUnavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_credentials_are_good() {
        let now = shared_proto::now_ms();
        assert_eq!(valid_until(now - 1).err().map(|f| f.code()), Some(Code::CredentialsExpired));
        let within = |got: Result<i64, Fault>, seconds: i64| {
            let left = got.expect("good") - now;
            assert!((seconds * 1000..(seconds + 5) * 1000).contains(&(left + 1)) || left == seconds * 1000, "{left}");
        };
        within(valid_until(now + 30_000), 0);
        within(valid_until(now + 360_000), 300);
        within(valid_until(now + 86_400_000), 900);
    }
}
