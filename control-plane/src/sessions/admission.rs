//! From a Hello to a session, or to a typed refusal: versions, the five steps, the instance's id, the bounds.

use super::channel::Channel;
use super::registry::{Claim, Verified};
use super::table::{About, Command, Entry, INSTANCES_MAX, Live, NewLive, Taken};
use super::{Inner, Sessions};
use rustls_pki_types::CertificateDer;
use shared_proto::failure::{Code, Failure};
use shared_proto::sealed::SealKey;
use shared_proto::secret::Secret;
use shared_proto::{PROTOCOL, flow, v1};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How long an older session with the same instance id may take to prove that it lives.
const PROBE: Duration = Duration::from_secs(1);
/// Other sessions with the same instance id that are looked at, one after the other.
const RIVALS_MAX: usize = 3;
/// Minor versions that the two ends may be apart.
const MINORS_APART: u64 = 2;
/// Lists that a Hello carries, items.
pub(crate) const LIST_MAX: usize = 1000;
/// Texts that a Hello carries, characters.
const TEXT_MAX: usize = 255;

/// A session that is welcome.
pub(super) struct Admitted {
    pub(super) live: Arc<Live>,
    pub(super) commands: mpsc::Receiver<Command>,
    /// Something to tell the operator.
    pub(super) notice: String,
}

/// Judges a Hello. What it gives is in the table.
pub(super) async fn admit(
    sessions: &Sessions,
    channel: Channel,
    chain: Vec<CertificateDer<'static>>,
    hello: v1::Hello,
) -> Result<Admitted, Failure> {
    let inner = &*sessions.inner;
    if inner.draining.load(Ordering::Acquire) {
        return Err(Code::Busy.on("the control plane is shutting down"));
    }
    if hello.protocol != PROTOCOL {
        return Err(Code::UnsupportedVersion
            .on(format!("the runner speaks protocol {}, the control plane {PROTOCOL}", hello.protocol)));
    }
    let claim = Claim {
        chain,
        session_for: Some((hello.organization_id.clone(), hello.runner_id.clone())),
        api_key: Secret::new(hello.api_key.clone()),
    };
    // who it is comes first: nothing below is told to a stranger
    let who = inner.registry.verify(claim).await?;
    own_instance(&who, &hello.instance_id)?;
    let notice = versions(&hello.version)?;
    let max_operations = inner.settings.max_operations.min(hello.max_operations);
    if max_operations == 0 {
        return Err(Code::InvalidArgument.on("the runner takes no operations at once: max_operations is 0"));
    }
    let draining = hello.draining;
    let token = hello.hand_over_token.clone();
    let about = about(hello);
    let (commands_in, commands) = mpsc::channel(16);
    let live = Live::new(NewLive {
        id: format!("ses_{}", uuid::Uuid::now_v7().simple()),
        who,
        about,
        max_operations,
        draining,
        channel,
        shares: flow::Shares::control_plane(inner.settings.budget),
        commands: commands_in,
    });
    enter(inner, &live, &token).await?;
    // a revocation between the first look and the table would have found nothing to close
    if let Err(refused) = inner.registry.standing(&live.who).await {
        inner.table.remove(&live);
        return Err(refused);
    }
    Ok(Admitted { live, commands, notice })
}

/// Puts the session into the table. An older one with the same instance id has a second to prove that it lives: after a silent
/// cut it is a ghost, and the runner must not be locked out by it. With the token that it has announced it gives its place at once.
async fn enter(inner: &Inner, live: &Arc<Live>, token: &[u8]) -> Result<(), Failure> {
    for _ in 0..RIVALS_MAX {
        let rival = match inner.table.insert(live, token, Instant::now()) {
            Ok(None) => return Ok(()),
            Ok(Some(predecessor)) => {
                tracing::info!(session = predecessor.id, by = live.id, "a session gives its place to another process");
                return Ok(());
            }
            Err(Taken::Token) => {
                return Err(Code::InstanceConflict
                    .on("the hand-over token is not known: nobody has announced it, it was used, or it is too old")
                    .next("Nothing to do: the process before it goes on. Try the upgrade again."));
            }
            Err(Taken::Full) => {
                return Err(Code::Busy.on(format!("the runner has {INSTANCES_MAX} instances connected already")));
            }
            Err(Taken::Instance(rival)) => rival,
        };
        if answers(&rival).await {
            return Err(Code::InstanceConflict.on(format!(
                "instance {} is connected already, from {} since {}",
                live.about.instance_id,
                rival.about.hostname,
                shared_proto::identity::rfc3339(rival.connected_at_ms / 1000)
            )));
        }
        tracing::info!(session = rival.id, by = live.id, "a session that does not answer is replaced");
        rival.close(Code::ConnectionLost.on("the runner connected anew"));
        inner.table.remove(&rival);
    }
    Err(Code::InstanceConflict.on(format!("instance {} keeps connecting", live.about.instance_id)))
}

/// Whether a session's runner answers a ping now.
async fn answers(rival: &Live) -> bool {
    if rival.ended.borrow().is_some() {
        return false;
    }
    let (answer, answered) = oneshot::channel();
    let probe = async {
        rival.commands.send(Command::Probe(answer)).await.ok()?;
        answered.await.ok()
    };
    tokio::select! {
        answered = tokio::time::timeout(PROBE, probe) => matches!(answered, Ok(Some(()))),
        _ = rival.ended() => false,
    }
}

/// Whether the runner's version may work with ours; what to tell its operator.
fn versions(runner: &str) -> Result<String, Failure> {
    let ours = shared_proto::VERSION;
    let (Some(theirs), Some(own)) = (major_minor(runner), major_minor(ours)) else {
        let shown: String = runner.chars().take(64).collect();
        return Err(Code::UnsupportedVersion.on(format!("{shown:?} is not a version")));
    };
    if theirs.0 != own.0 || theirs.1.abs_diff(own.1) > MINORS_APART {
        return Err(Code::UnsupportedVersion.on(format!("the runner is {runner}, the control plane {ours}")));
    }
    Ok(match theirs.1.cmp(&own.1) {
        std::cmp::Ordering::Less => format!("this runner is {runner}, the control plane {ours}: upgrade the runner"),
        _ => String::new(),
    })
}

fn major_minor(version: &str) -> Option<(u64, u64)> {
    if version.len() > 64 {
        return None;
    }
    let mut parts = version.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What a runner says of itself, cut to size.
fn about(hello: v1::Hello) -> About {
    About {
        instance_id: hello.instance_id,
        incarnation: text(hello.incarnation),
        version: text(hello.version),
        hostname: text(hello.hostname),
        isolation_level: text(hello.isolation_level),
        isolation_missing: hello.isolation_missing.into_iter().take(LIST_MAX).map(text).collect(),
        connections: hello
            .connections
            .into_iter()
            .take(LIST_MAX)
            .map(|c| Entry { name: text(c.name), provider: text(c.provider) })
            .collect(),
        engines: hello.engines.into_iter().take(LIST_MAX).map(text).collect(),
        seal_key: SealKey::from_bytes(&hello.seal_key).map(|key| key.text()).unwrap_or_default(),
        policy: policy(&hello.policy),
    }
}

/// What a runner says of its policy; null where it says nothing, or too much.
pub(crate) fn policy(text: &str) -> serde_json::Value {
    let fits = text.len() <= shared_proto::bounds::POLICY_SUMMARY_MAX;
    serde_json::from_str(text).ok().filter(|policy: &serde_json::Value| fits && policy.is_object()).unwrap_or_default()
}

/// Whether it may be an instance's id.
pub(crate) fn is_instance_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Whether an instance's id is well formed, and the one that the certificate belongs to where it belongs to one.
pub(crate) fn own_instance(who: &Verified, id: &str) -> Result<(), Failure> {
    if !is_instance_id(id) {
        return Err(Code::InvalidArgument.on("the instance's id is not 1 to 128 letters, digits, '-', '_' or '.'"));
    }
    match &who.instance {
        Some(owner) if owner != id => Err(Code::CertificateInvalid
            .on(format!("certificate {} was renewed by instance {owner} and belongs to it, this is {id}", who.serial))
            .next("Give each instance a state directory of its own, with nothing in it that another one has written.")),
        _ => Ok(()),
    }
}

/// Without what would forge a line of a log or a table.
fn text(text: String) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
}

/// Only who it is: for the log.
pub(super) fn shown(who: &Verified) -> String {
    format!("org/{}/runner/{}", who.organization, who.runner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_two_minors_apart_work_together() {
        let (major, minor) = major_minor(shared_proto::VERSION).expect("our own");
        let code = |v: &str| versions(v).err().map(|f| f.code);
        assert_eq!(versions(shared_proto::VERSION), Ok(String::new()));
        assert_eq!(code(&format!("{major}.{}.7", minor + 2)), None);
        // an earlier one is told, and works
        if let Some(earlier) = minor.checked_sub(1) {
            let told = versions(&format!("{major}.{earlier}.9")).expect("works");
            assert!(told.contains("upgrade the runner"), "{told:?}");
        }
        assert_eq!(code(&format!("{major}.{}.0-rc.1", minor + 3)), Some(Code::UnsupportedVersion));
        assert_eq!(code(&format!("{}.0.0", major + 1)), Some(Code::UnsupportedVersion));
        for bad in ["", "x", "1", ".", "99999999999999999999.1", &"1".repeat(100)] {
            assert_eq!(code(bad), Some(Code::UnsupportedVersion), "{bad}");
        }
    }

    #[test]
    fn what_a_runner_says_of_itself_is_cut_to_size() {
        let hello = v1::Hello {
            instance_id: "i-1".into(),
            hostname: format!("a\nb{}", "x".repeat(1000)),
            connections: (0..2000).map(|i| v1::ConnectionEntry { name: i.to_string(), ..Default::default() }).collect(),
            ..Default::default()
        };
        let about = about(hello);
        assert_eq!(about.connections.len(), LIST_MAX);
        assert_eq!(about.hostname.len(), TEXT_MAX);
        assert!(about.hostname.starts_with("abx"));
        for bad in ["", "a b", "../x/", "a\n", &"x".repeat(129)] {
            assert!(!is_instance_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_certificate_that_an_instance_has_renewed_is_no_other_instances() {
        let anyones = Verified::default();
        assert_eq!((own_instance(&anyones, "i-1"), own_instance(&anyones, "i-2")), (Ok(()), Ok(())));
        let its = Verified { instance: Some("i-1".into()), ..anyones };
        assert_eq!(own_instance(&its, "i-1"), Ok(()));
        let refused = own_instance(&its, "i-2").expect_err("another's");
        assert_eq!(refused.code, Code::CertificateInvalid);
        assert!(refused.message.contains("i-1") && refused.message.contains("i-2"), "{refused}");
    }
}
