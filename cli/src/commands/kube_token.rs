//! `kube-token`: what kubectl runs for the token of a context that [`super::kubeconfig`] wrote: a credential plug-in
//! (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins).
//!
//! The token is good for one connection's Kubernetes API and an hour. It is kept in a file of the user's own, so that kubectl does not wait for
//! the control plane each time; and no longer than minutes, as a control plane that was restored may not know it, of which kubectl tells nobody here.

use crate::client::{Client, path};
use crate::config::Context;
use crate::stop::{self, Done};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A token is got anew so long before its end, milliseconds: whoever gets it has some time to use it.
const BEFORE_END_MS: i64 = 5 * 60 * 1000;
/// How long one that is kept is handed out, milliseconds.
const HANDED_OUT_MS: i64 = 5 * 60 * 1000;
/// The largest kept token's file, bytes.
const FILE_MAX: u64 = 4096;

/// `kube-token`
#[derive(Debug, clap::Args)]
pub(crate) struct KubeToken {
    /// The connection
    connection: String,
}

/// A token as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    token: Secret,
    expires_at_ms: i64,
    /// When it was got; one of before that was written down is old.
    #[serde(default)]
    got_at_ms: i64,
}

// === impl Kept ===

impl Kept {
    /// Whether it may be handed out once more. One from the future is of another clock.
    fn is_fresh(&self, now_ms: i64) -> bool {
        self.expires_at_ms - now_ms > BEFORE_END_MS && (0..HANDED_OUT_MS).contains(&(now_ms - self.got_at_ms))
    }
}

/// `kube-token …`: prints an ExecCredential.
pub(crate) async fn run(command: KubeToken, context: &Context) -> Done {
    let kept = file(context, &command.connection);
    let kept_one = kept.as_deref().and_then(load).filter(|kept| kept.is_fresh(shared_proto::now_ms()));
    let token = match kept_one {
        Some(token) => token,
        None => {
            let got = get(context, &command.connection).await?;
            if let Some(path) = &kept {
                // without it kubectl only waits longer
                let _ = save(path, &got);
            }
            got
        }
    };
    let until = OffsetDateTime::from_unix_timestamp((token.expires_at_ms - BEFORE_END_MS) / 1000)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .ok_or_else(|| Code::Internal.on("the token's end is no moment"))?;
    let credential = serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": { "expirationTimestamp": until, "token": token.token.expose() },
    });
    // whoever runs it reads it, whatever -o says
    println!("{credential}");
    Ok(())
}

async fn get(context: &Context, connection: &str) -> Result<Kept, Failure> {
    let at = path(&["connections", connection, "k8s", "token"], &[]);
    let answer = Client::new(context)?.post(&at, &serde_json::json!({})).await?;
    let got: Kept =
        serde_json::from_value(answer).map_err(|_| Code::Internal.on("the control plane's answer holds no token"))?;
    Ok(Kept { got_at_ms: shared_proto::now_ms(), ..got })
}

/// Where the token for this control plane, user and connection is kept.
fn file(context: &Context, connection: &str) -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME")
        .filter(|p| p.is_absolute())
        .or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    let mut whose = Sha256::new();
    for part in [context.endpoint.as_str(), context.token.expose(), connection] {
        whose.update((part.len() as u64).to_le_bytes());
        whose.update(part);
    }
    Some(cache.join("runnerctl").join("kube-tokens").join(shared_proto::hex::encode(&whose.finalize()[..16])))
}

/// One that others can read, or that is not whole, is none.
fn load(path: &Path) -> Option<Kept> {
    let file = std::fs::File::open(path).ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() || meta.mode() & 0o077 != 0 || meta.uid() != nix::unistd::geteuid().as_raw() {
        return None;
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn save(path: &Path, token: &Kept) -> Result<(), Failure> {
    let failed = |e: std::io::Error| stop::file(path, &e);
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let text = serde_json::to_vec(token).map_err(|e| failed(e.into()))?;
    shared_proto::file::write_whole(path, &text, 0o600).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_token_is_handed_out_for_minutes_and_not_near_its_end() {
        let fresh = |expires_at_ms: i64, got_at_ms: i64| {
            Kept { token: Secret::new("t"), expires_at_ms, got_at_ms }.is_fresh(10_000_000)
        };
        let ends = 10_000_000 + BEFORE_END_MS;
        assert!(fresh(ends + 1, 10_000_000) && !fresh(ends, 10_000_000));
        assert!(fresh(ends + 1, 10_000_001 - HANDED_OUT_MS) && !fresh(ends + 1, 10_000_000 - HANDED_OUT_MS));
        assert!(!fresh(ends + 1, 10_000_001), "of another clock");
        let old: Kept = serde_json::from_str(r#"{"token": "t", "expires_at_ms": 99999999999}"#).expect("reads");
        assert!(!old.is_fresh(10_000_000), "written by an earlier one");
    }

    #[test]
    fn a_kept_token_is_its_owners_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a/b");
        save(&path, &Kept { token: Secret::new("t"), expires_at_ms: 7, got_at_ms: 1 }).expect("saves");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert_eq!(load(&path).map(|kept| kept.expires_at_ms), Some(7));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("changes");
        assert!(load(&path).is_none());
    }
}
