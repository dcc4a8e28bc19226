//! Renews the certificate over the session: at two thirds of its life a new key is made here and its public half certified there.
//!
//! ```text
//!   not due ──▶ due: a key, its signing request ──▶ Renewal ══▶ Renewed: checked ──▶ state directory, fsync ──▶ shown from the next connection on
//!                ▲                                    │ refused, not answered, another runner's
//!                └──────────── a while later ◀────────┘
//! ```
//! The session goes on as it is, and the certificate before stays good to its end. A key leaves this process into that file alone.

use super::Settings;
use super::dial::PeerClock;
use super::leaf::Leaves;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use shared_proto::credentials::{Leaf, RenewedFile, VERSION};
use shared_proto::failure::{Code, Failure};
use shared_proto::secret::Secret;
use shared_proto::v1::{self, runner_message as runner};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// How long the control plane may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// The longest wait without a look at the clocks: either may be set, and the machine may be suspended.
const LOOK: Duration = Duration::from_secs(60);
/// Between two attempts: a thirtieth of the certificate's life within these bounds, and up to half of it more, by chance.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3600));
const AGAIN_PART: i64 = 30;

/// Renews, as long as a session lasts.
pub(super) struct Renewal {
    pub(super) leaves: Leaves,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) clock: PeerClock,
}

/// Where a session's messages go.
pub(super) type Outgoing = mpsc::Sender<Result<v1::RunnerMessage, Status>>;

// === impl Renewal ===

impl Renewal {
    /// Goes on until it is dropped. `answers`: what the control plane says to it.
    pub(super) async fn keep(self, outgoing: Outgoing, mut answers: mpsc::Receiver<v1::Renewed>) -> Infallible {
        loop {
            let leaf = self.leaves.current(&self.settings.borrow().credentials);
            let wait = if self.leaves.unwritten() { Duration::ZERO } else { self.until_due(&leaf) };
            if !wait.is_zero() {
                tokio::time::sleep(wait.min(LOOK)).await;
                continue;
            }
            let done = if self.leaves.unwritten() {
                self.leaves.write().await
            } else {
                self.renew(&leaf, &outgoing, &mut answers).await
            };
            if let Err(failure) = done {
                let again = again(&leaf, super::backoff::random());
                tracing::warn!(
                    code = %failure.code, detail = failure.message, next_step = failure.next_step, serial = leaf.facts.serial,
                    not_after = shared_proto::identity::rfc3339(leaf.facts.not_after), again_in_s = again.as_secs(),
                    "certificate not renewed"
                );
                tokio::time::sleep(again).await;
            }
        }
    }

    /// By the control plane's clock: it is the one that will judge.
    fn until_due(&self, leaf: &Leaf) -> Duration {
        let now_ms = self.clock.now_ms().unwrap_or_else(shared_proto::now_ms);
        let left = leaf.facts.renewal_due().saturating_mul(1000).saturating_sub(now_ms);
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }

    async fn renew(
        &self,
        leaf: &Leaf,
        outgoing: &Outgoing,
        answers: &mut mpsc::Receiver<v1::Renewed>,
    ) -> Result<(), Failure> {
        let (organization, runner) = {
            let settings = self.settings.borrow();
            (settings.credentials.organization.clone(), settings.credentials.runner.clone())
        };
        let (csr, private_key) = request(&leaf.facts.uris, &runner)?;
        // an answer that came too late was for another key
        while answers.try_recv().is_ok() {}
        let message = v1::RunnerMessage { kind: Some(runner::Kind::Renewal(v1::Renewal { csr })) };
        outgoing.try_send(Ok(message)).map_err(|_| {
            Code::ConnectionLost.on("the session takes no messages").next("Nothing to do: it is tried again.")
        })?;
        let answer = match tokio::time::timeout(ANSWER, answers.recv()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                return Err(Code::ConnectionLost.on("the session ended").next("Nothing to do: it is tried again."));
            }
            Err(_) => {
                return Err(Code::DeadlineExceeded
                    .on(format!("the control plane did not answer within {ANSWER:?}"))
                    .next("Upgrade the control plane if it is older than the runner; else look at its log."));
            }
        };
        if answer.certificate.is_empty() {
            return Err(Failure::from_wire(&answer.code, &answer.message, ""));
        }
        let renewed = Leaf::of(&answer.certificate, &private_key, (&organization, &runner), true)?;
        if renewed.facts.uris != leaf.facts.uris || renewed.facts.is_ca || !renewed.facts.client_auth {
            return Err(
                Code::CertificatePurpose.on("the control plane answered with a certificate that is not this runner's")
            );
        }
        let (serial, not_after) = (renewed.facts.serial.clone(), renewed.facts.not_after);
        let file = RenewedFile {
            version: VERSION,
            organization,
            runner,
            instance: self.leaves.instance().to_owned(),
            certificate: answer.certificate,
            private_key,
        };
        let written = self.leaves.take(renewed, file).await;
        tracing::info!(
            serial,
            renews = leaf.facts.serial,
            not_after = shared_proto::identity::rfc3339(not_after),
            "certificate renewed"
        );
        written
    }
}

/// A new key and the request to certify it, both PEM.
fn request(uris: &[String], runner: &str) -> Result<(String, Secret), Failure> {
    let failed = |e: rcgen::Error| Code::Internal.on(format!("the key or its request could not be made: {e}"));
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, runner);
    for uri in uris {
        params.subject_alt_names.push(SanType::URI(uri.clone().try_into().map_err(failed)?));
    }
    let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(failed)?;
    Ok((csr, crate::own::keep(&Secret::new(key.serialize_pem()))))
}

/// When to try again.
fn again(leaf: &Leaf, random: f64) -> Duration {
    let life = leaf.facts.not_after.saturating_sub(leaf.facts.not_before);
    let part = Duration::from_secs(u64::try_from(life / AGAIN_PART).unwrap_or(0)).clamp(AGAIN.0, AGAIN.1);
    part + (part / 2).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::policy::{Limits, Policy};
    use rcgen::CertificateSigningRequestParams;
    use shared_proto::chance::{self, Simulated};
    use std::collections::BTreeMap;
    use tokio::time::Instant;

    fn leaf(life: i64) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://d/org/o/runner/r".try_into().expect("ascii"))];
        params.not_before = std::time::SystemTime::UNIX_EPOCH.into();
        params.not_after = (std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(life as u64)).into();
        let pem = params.self_signed(&key).expect("signs").pem();
        Leaf::of(&pem, &Secret::new(key.serialize_pem()), ("o", "r"), false).expect("a leaf")
    }

    /// Signs like a control plane: what was asked for, for so many seconds from now.
    fn certify(csr: &str, ca: &KeyPair, life: u64) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr).expect("a request");
        let now = std::time::UNIX_EPOCH + Duration::from_millis(chance::now_ms() as u64);
        request.params.not_before = now.into();
        request.params.not_after = (now + Duration::from_secs(life)).into();
        request.params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let authority = CertificateParams::default().self_signed(ca).expect("signs");
        let issuer = rcgen::Issuer::from_ca_cert_der(authority.der(), ca).expect("an issuer");
        request.signed_by(&issuer).expect("signs").pem()
    }

    /// Its time goes by in a moment: some requests are refused, some are not answered, and at no moment is there none that is valid.
    #[tokio::test(start_paused = true)]
    async fn for_an_hour_of_lives_of_two_minutes_there_is_always_one_that_is_valid() {
        const LIFE: u64 = 120;
        let folder = tempfile::tempdir().expect("a folder");
        let begin = Simulated { wall_ms: shared_proto::now_ms(), since_boot: Duration::from_secs(1000), seed: 7 };
        let second = begin.wall_ms / 1000;
        let credentials = super::super::leaf::tests::credentials(folder.path(), second, second + LIFE as i64);
        chance::simulate(Some(begin));
        let config = folder.path().join("runner.toml");
        std::fs::write(&config, format!("state_dir = {0:?}\ncredentials = {0:?}\n", folder.path())).expect("writes");
        let config = Config::load(Some(&config), &BTreeMap::new(), &BTreeMap::new()).expect("loads");
        let clock = PeerClock::default();
        clock.told(begin.wall_ms);
        let leaves = Leaves::open(folder.path(), "i".into(), &credentials, clock.clone());
        let settings = Arc::new(Settings { config, credentials, policy: Policy::absent(), limits: Limits::default() });
        let (_settings, settings_seen) = watch::channel(settings.clone());
        let renewal = Renewal { leaves: leaves.clone(), settings: settings_seen, clock };
        let (outgoing, mut asked) = mpsc::channel(8);
        let (answering, answers) = mpsc::channel(8);
        let keeping = tokio::spawn(renewal.keep(outgoing, answers));
        let ca = KeyPair::generate().expect("a key");
        let plane = tokio::spawn(async move {
            let mut requests = 0_u32;
            while let Some(Ok(message)) = asked.recv().await {
                let Some(runner::Kind::Renewal(v1::Renewal { csr })) = message.kind else { continue };
                requests += 1;
                let answer = match requests % 4 {
                    3 => v1::Renewed { code: "busy".into(), message: "later".into(), ..Default::default() },
                    // the next one comes half a minute later
                    1 if requests % 8 == 1 => continue,
                    _ => v1::Renewed { certificate: certify(&csr, &ca, LIFE), ..Default::default() },
                };
                let _ = answering.send(answer).await;
            }
        });

        let (start, mut serials) = (Instant::now(), std::collections::BTreeSet::new());
        while start.elapsed() < Duration::from_secs(3600) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let gone = start.elapsed();
            let wall_ms = begin.wall_ms + i64::try_from(gone.as_millis()).expect("an hour");
            let seed = chance::simulated().expect("simulated").seed;
            chance::simulate(Some(Simulated { wall_ms, since_boot: begin.since_boot + gone, seed }));
            let leaf = leaves.current(&settings.credentials);
            let left = leaf.facts.not_after - wall_ms / 1000;
            assert!(left > 0 && leaf.facts.not_before <= wall_ms / 1000, "{left} s, after {gone:?}");
            serials.insert(leaf.facts.serial.clone());
        }
        // due after 80 seconds, some a little later
        assert!((36..=45).contains(&serials.len()), "{}", serials.len());
        keeping.abort();
        plane.abort();
        chance::simulate(None);
    }

    #[test]
    fn it_is_tried_again_after_a_part_of_the_life_that_leaves_room_for_more() {
        for (life, expected) in [(20, 2), (60, 2), (90, 3), (86_400, 2880), (90 * 86_400, 3600)] {
            assert_eq!(again(&leaf(life), 0.0), Duration::from_secs(expected), "{life}");
            assert_eq!(again(&leaf(life), 1.0), Duration::from_secs(expected) * 3 / 2, "{life}");
        }
    }

    #[test]
    fn each_request_has_a_key_of_its_own_and_the_sessions_name() {
        let uris = ["spiffe://d/org/o/runner/r".to_owned()];
        let (first, second) = (request(&uris, "r").expect("made"), request(&uris, "r").expect("made"));
        assert_ne!(first.1, second.1);
        assert!(!format!("{first:?}").contains("PRIVATE"));
        let read = rcgen::CertificateSigningRequestParams::from_pem(&first.0).expect("a request");
        assert!(matches!(&read.params.subject_alt_names[..], [SanType::URI(uri)] if uri.as_str() == uris[0]));
    }
}
