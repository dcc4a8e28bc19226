//! The certificate that the next connection shows: the credentials file's, or a newer one that this instance has renewed and keeps in its
//! state directory.
//!
//! The credentials file is never written: it may be a read-only mount, and other instances read it too.

use super::dial::PeerClock;
use shared_proto::credentials::{Credentials, Leaf, RenewedFile};
use shared_proto::failure::{Code, Failure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The renewed certificate's name in the state directory.
pub const FILE: &str = "certificate.json";

/// The certificates that there are. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Leaves {
    path: Arc<Path>,
    instance: Arc<str>,
    clock: PeerClock,
    own: Arc<Mutex<Own>>,
}

#[derive(Debug, Default)]
struct Own {
    renewed: Option<Arc<Leaf>>,
    /// What is not on the disk yet.
    unwritten: Option<Arc<RenewedFile>>,
    /// Serials that the control plane refused while there was another one to try.
    refused: BTreeSet<String>,
    /// What was wrong with the file, or is with writing it.
    trouble: Option<Failure>,
}

// === impl Leaves ===

impl Leaves {
    /// Reads the state directory. What is damaged there is said, and is as if it were not there.
    pub fn open(state_dir: &Path, instance: Arc<str>, credentials: &Credentials, clock: PeerClock) -> Self {
        let path = state_dir.join(FILE);
        let mut own = Own::default();
        match RenewedFile::load(&path, credentials, &instance) {
            Ok(renewed) => own.renewed = renewed.map(Arc::new),
            Err(failure) => {
                let failure = failure.next(
                    "Nothing to do while the credentials file is valid: it is used, and another certificate asked for.",
                );
                tracing::warn!(
                    code = %failure.code, detail = failure.message, next_step = failure.next_step,
                    "the renewed certificate cannot be used, the credentials file's is"
                );
                own.trouble = Some(failure);
            }
        }
        Self { path: path.into(), instance, clock, own: Arc::new(Mutex::new(own)) }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        // nothing panics while holding it
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one to show now.
    pub fn current(&self, credentials: &Credentials) -> Arc<Leaf> {
        let own = self.own();
        let renewed = own
            .renewed
            .as_ref()
            // the credentials file may have been replaced by another runner's
            .filter(|leaf| leaf.facts.uris == credentials.leaf.facts.uris)
            .filter(|leaf| !own.refused.contains(&leaf.facts.serial));
        let now_ms = self.clock.now_ms().unwrap_or_else(shared_proto::now_ms);
        match renewed {
            Some(renewed) => newest(&credentials.leaf, renewed, now_ms).clone(),
            None => credentials.leaf.clone(),
        }
    }

    /// The control plane does not take that one. Where there is another one that is tried next, and then this one again: it may be the
    /// control plane that has forgotten something.
    pub(super) fn refused(&self, leaf: &Leaf, credentials: &Credentials, why: &Failure) {
        let of_the_certificate = matches!(
            why.code,
            Code::CertificateInvalid | Code::CertificateExpired | Code::CertificateRevoked | Code::UnknownCa
        );
        let mut own = self.own();
        let again = own.refused.remove(&leaf.facts.serial) || !leaf.renewed;
        if again || !of_the_certificate || leaf.facts.serial == credentials.leaf.facts.serial {
            own.refused.clear();
            return;
        }
        tracing::warn!(
            serial = leaf.facts.serial,
            code = %why.code,
            "the renewed certificate was refused, the credentials file's is tried"
        );
        own.refused.insert(leaf.facts.serial.clone());
    }

    /// Has a renewed one used from the next connection on, and written down. Where that fails it is used all the same, and the failure given.
    ///
    /// # Errors
    /// `state_unusable`.
    pub(super) async fn take(&self, leaf: Leaf, file: RenewedFile) -> Result<(), Failure> {
        {
            let mut own = self.own();
            own.renewed = Some(Arc::new(leaf));
            own.refused.clear();
            own.unwritten = Some(Arc::new(file));
        }
        self.write().await
    }

    /// Writes what is not written yet.
    ///
    /// # Errors
    /// `state_unusable`.
    pub(super) async fn write(&self) -> Result<(), Failure> {
        let Some(file) = self.own().unwritten.clone() else { return Ok(()) };
        let (path, to_write) = (self.path.clone(), file.clone());
        let written = tokio::task::spawn_blocking(move || to_write.write(&path)).await;
        let written = written.unwrap_or_else(|e| Err(std::io::Error::other(e.to_string())));
        let mut own = self.own();
        own.trouble = written.err().map(|e| {
            Code::StateUnusable
                .on(format!("{}: {e}: the renewed certificate lasts until the runner ends", self.path.display()))
                .next("Make room in the state directory, and let the runner's user write there: it is tried again.")
        });
        match &own.trouble {
            Some(failure) => Err(failure.clone()),
            None => {
                own.unwritten.take_if(|newest| Arc::ptr_eq(newest, &file));
                Ok(())
            }
        }
    }

    /// Whether something waits to be written.
    pub(super) fn unwritten(&self) -> bool {
        self.own().unwritten.is_some()
    }
    /// What is wrong with the renewed one, if anything is.
    pub fn trouble(&self) -> Option<Failure> {
        self.own().trouble.clone()
    }
    /// Where the renewed one is kept.
    pub fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }
    /// Whose they are.
    pub(super) fn instance(&self) -> &str {
        &self.instance
    }
}

/// Of two, the one that was made last, unless that alone is over; of two that are over, the one that ended last. One that is not valid yet
/// counts as valid: it is this clock that is behind then.
fn newest<'a>(of_file: &'a Arc<Leaf>, renewed: &'a Arc<Leaf>, now_ms: i64) -> &'a Arc<Leaf> {
    let (file, own) = (&of_file.facts, &renewed.facts);
    let over = |not_after: i64| not_after < now_ms / 1000;
    let renewed_wins = match (over(file.not_after), over(own.not_after)) {
        (true, false) => true,
        (false, true) => false,
        (false, false) => own.not_before >= file.not_before,
        (true, true) => own.not_after >= file.not_after,
    };
    if renewed_wins { renewed } else { of_file }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};
    use shared_proto::credentials::{CredentialsFile, VERSION};
    use shared_proto::secret::Secret;

    const NOW: i64 = 1_800_000_000;

    fn pair(from: i64, until: i64) -> (String, Secret) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://d/org/o/runner/r".try_into().expect("ascii"))];
        let at = |seconds: i64| std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds as u64);
        params.not_before = at(from).into();
        params.not_after = at(until).into();
        (params.self_signed(&key).expect("signs").pem(), Secret::new(key.serialize_pem()))
    }
    fn leaf(from: i64, until: i64, renewed: bool) -> Leaf {
        let (certificate, key) = pair(from, until);
        Leaf::of(&certificate, &key, ("o", "r"), renewed).expect("a leaf")
    }
    fn file(from: i64, until: i64) -> (RenewedFile, Leaf) {
        let (certificate, private_key) = pair(from, until);
        let leaf = Leaf::of(&certificate, &private_key, ("o", "r"), true).expect("a leaf");
        let of = |text: &str| text.to_owned();
        let (organization, runner, instance) = (of("o"), of("r"), of("i"));
        (RenewedFile { version: VERSION, organization, runner, instance, certificate, private_key }, leaf)
    }
    pub(crate) fn credentials(folder: &Path, from: i64, until: i64) -> Credentials {
        let (certificate, private_key) = pair(from, until);
        let path = folder.join("credentials.json");
        let file = CredentialsFile {
            version: VERSION,
            organization: "o".into(),
            runner: "r".into(),
            tunnel_endpoint: "https://localhost:1".into(),
            execution_endpoint: "https://localhost:1".into(),
            ca: certificate.clone(),
            certificate,
            private_key,
            api_key: shared_proto::api_key::generate(shared_proto::api_key::Purpose::Runner).expect("random"),
        };
        file.write(&path).expect("writes");
        Credentials::load(&path).expect("loads")
    }

    #[test]
    fn the_newest_that_is_not_over_is_shown() {
        for (of_file, renewed, wins) in [
            ((NOW - 90, NOW + 10), (NOW - 10, NOW + 90), true),
            ((NOW - 10, NOW + 90), (NOW - 90, NOW + 10), false),
            ((NOW - 90, NOW - 1), (NOW - 10, NOW), true),
            ((NOW - 90, NOW), (NOW - 10, NOW - 1), false),
            ((NOW - 90, NOW - 2), (NOW - 80, NOW - 1), true),
            ((NOW - 80, NOW - 1), (NOW - 90, NOW - 2), false),
            // by a clock that is behind, neither is valid yet
            ((NOW + 10, NOW + 90), (NOW + 50, NOW + 130), true),
        ] {
            let (a, b) = (Arc::new(leaf(of_file.0, of_file.1, false)), Arc::new(leaf(renewed.0, renewed.1, true)));
            assert_eq!(newest(&a, &b, NOW * 1000).renewed, wins, "{of_file:?} {renewed:?}");
        }
    }

    #[tokio::test]
    async fn what_was_renewed_is_there_after_a_restart_and_the_credentials_file_is_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = shared_proto::now_ms() / 1000;
        let credentials = credentials(folder.path(), now - 100, now + 100);
        let before = std::fs::read(&credentials.path).expect("reads");
        let open = || Leaves::open(folder.path(), "i".into(), &credentials, PeerClock::default());
        let leaves = open();
        assert!(!leaves.current(&credentials).renewed);
        let (renewed, leaf) = file(now - 1, now + 200);
        let serial = leaf.facts.serial.clone();
        leaves.take(leaf, renewed).await.expect("writes");
        assert!(!leaves.unwritten() && leaves.trouble().is_none());
        for leaves in [leaves, open()] {
            assert_eq!(leaves.current(&credentials).facts.serial, serial);
        }
        assert_eq!(std::fs::read(&credentials.path).expect("reads"), before);
        // another instance, with a copy of the folder, has nothing of it
        let other = Leaves::open(folder.path(), "another".into(), &credentials, PeerClock::default());
        assert!(!other.current(&credentials).renewed);
        assert_eq!(other.trouble().map(|f| f.code), Some(Code::CredentialsMismatch));
        std::fs::write(folder.path().join(FILE), "{").expect("writes");
        let damaged = open();
        assert!(!damaged.current(&credentials).renewed);
        assert_eq!(damaged.trouble().map(|f| f.code), Some(Code::CredentialsMalformed));
    }

    #[tokio::test]
    async fn one_that_cannot_be_written_is_used_and_written_later() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = shared_proto::now_ms() / 1000;
        let credentials = credentials(folder.path(), now - 100, now + 100);
        let missing = folder.path().join("gone");
        let leaves = Leaves::open(&missing, "i".into(), &credentials, PeerClock::default());
        let (renewed, leaf) = file(now - 1, now + 200);
        assert_eq!(leaves.take(leaf, renewed).await.map_err(|f| f.code), Err(Code::StateUnusable));
        assert!(leaves.current(&credentials).renewed && leaves.unwritten());
        std::fs::create_dir(&missing).expect("a folder");
        leaves.write().await.expect("writes");
        assert!(!leaves.unwritten() && leaves.trouble().is_none() && missing.join(FILE).exists());
    }

    #[tokio::test]
    async fn one_that_is_refused_makes_way_for_the_credentials_files_and_is_tried_again_after_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = shared_proto::now_ms() / 1000;
        let credentials = credentials(folder.path(), now - 100, now + 100);
        let leaves = Leaves::open(folder.path(), "i".into(), &credentials, PeerClock::default());
        let (renewed, leaf) = file(now - 1, now + 200);
        leaves.take(leaf, renewed).await.expect("writes");
        let refuse = |code: Code| {
            let shown = leaves.current(&credentials);
            leaves.refused(&shown, &credentials, &code.on("no"));
            leaves.current(&credentials).renewed
        };
        // no matter of the certificate
        assert!(refuse(Code::ApiKeyInvalid));
        assert!(!refuse(Code::CertificateInvalid));
        assert!(refuse(Code::CertificateInvalid));
        assert!(!refuse(Code::CertificateRevoked));
    }
}
