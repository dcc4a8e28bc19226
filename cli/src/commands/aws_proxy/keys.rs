//! What the clients of one run are given in the place of real credentials: made now, good for the proxy of this run alone, gone with it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;

/// Letters of an access key's id.
const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// The user in the proxy's URL.
pub(super) const USER: &str = "runner";

/// Credentials that open nothing but the proxy.
#[derive(Debug)]
pub(super) struct Keys {
    /// As AWS' own look, so that clients take it.
    pub(super) access_key_id: String,
    /// What clients sign with. Nobody checks it: whoever can reach the proxy has its password, which stands in the same environment.
    pub(super) secret_access_key: Secret,
    /// Without it the proxy answers nobody: other users of the machine can connect to it too.
    pub(super) password: Secret,
}

// === impl Keys ===

impl Keys {
    /// New ones.
    ///
    /// # Errors
    /// `internal`: the system has no randomness.
    pub(super) fn new() -> Result<Self, Failure> {
        let mut id = String::from("AKIA");
        for byte in random::<16>()? {
            id.push(char::from(LETTERS[usize::from(byte % 32)]));
        }
        Ok(Self {
            access_key_id: id,
            secret_access_key: Secret::new(STANDARD.encode(random::<30>()?)),
            password: Secret::new(URL_SAFE_NO_PAD.encode(random::<24>()?)),
        })
    }

    /// Whether a `proxy-authorization` is ours. Digests are compared, so that how long it takes tells nothing.
    pub(super) fn admits(&self, given: Option<&[u8]>) -> bool {
        let own = format!("{USER}:{}", self.password.expose());
        let sent = given
            .and_then(|v| std::str::from_utf8(v).ok())
            .and_then(|v| v.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .and_then(|(_, encoded)| STANDARD.decode(encoded.trim()).ok());
        sent.is_some_and(|sent| Sha256::digest(sent) == Sha256::digest(own))
    }
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Code::Internal.on(format!("no randomness: {e}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_look_like_aws_and_admit_nobody_else() {
        let (one, other) = (Keys::new().expect("random"), Keys::new().expect("random"));
        assert_eq!((one.access_key_id.len(), one.secret_access_key.expose().len()), (20, 40));
        assert_ne!(one.access_key_id, other.access_key_id);
        let header = |keys: &Keys| format!("Basic {}", STANDARD.encode(format!("{USER}:{}", keys.password.expose())));
        assert!(one.admits(Some(header(&one).as_bytes())));
        for bad in
            [header(&other), String::new(), "Basic".into(), "Basic !".into(), header(&one).replace("Basic", "Bearer")]
        {
            assert!(!one.admits(Some(bad.as_bytes())), "{bad}");
        }
        assert!(!one.admits(None));
        assert!(!format!("{one:?}").contains(one.password.expose()));
    }
}
