//! What the CA signs: issuing CAs, runner certificates, server certificates.

use super::{Authority, PkiError, ServerName};
use crate::store::IssuerRecord;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use shared_proto::identity::{CertificateFacts, RunnerIdentity, issuer_uri};
use shared_proto::secret::Secret;

/// How long an issuing CA is good for.
const ISSUER_DAYS: i64 = 10 * 365;
/// How long a server certificate is good for; it is made again at each start and each day.
const SERVER_DAYS: i64 = 90;
/// The longest that a runner certificate may be good for.
pub const DAYS_MAX: u32 = 825;
/// The largest signing request that is read, bytes.
const REQUEST_MAX: usize = 16 * 1024;
/// How long a runner certificate is good for whose request does not say, days.
pub const DAYS_DEFAULT: u32 = 90;
/// Clocks differ: a certificate is good from this much before it was made, and a short one from a tenth of its life.
const BACKDATED_S: i64 = 5 * 60;
const DAY_S: i64 = 86_400;

/// A runner's certificate, as it is handed out.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    /// Leaf, then its issuing CA, PEM.
    pub chain: String,
    /// The leaf's serial.
    pub serial: String,
    /// When the leaf expires.
    pub not_after_ms: i64,
    /// How long it is good for, seconds.
    pub life_s: i64,
    /// SHA-256 of its public key, hexadecimal.
    pub public_key_sha256: String,
}

impl Authority {
    /// Makes the issuing CA of an organization.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn make_issuer(&self, organization: &str) -> Result<IssuerRecord, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, format!("Runner issuing CA of {organization}"));
        params.subject_alt_names = vec![SanType::URI(issuer_uri(&self.trust_domain, organization).try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // holds for all below it: an issuing CA cannot make a server certificate
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, ISSUER_DAYS * DAY_S);
        params.serial_number = Some(serial()?);
        let certificate = params.signed_by(&key, &self.root)?;
        let facts = CertificateFacts::read(certificate.der()).map_err(PkiError::Read)?;
        Ok(IssuerRecord {
            public_key_sha256: shared_proto::hex::encode(Sha256::digest(&facts.public_key)),
            serial: facts.serial,
            certificate: certificate.pem(),
            private_key: Secret::new(key.serialize_pem()),
        })
    }

    /// Signs a runner's certificate. Of the request only the public key is taken.
    ///
    /// # Errors
    /// `invalid_argument` for a request that is not one, whose signature does not fit, or with a kind of key that runners do not use.
    pub fn issue_runner(
        &self,
        issuer: &IssuerRecord,
        organization: &str,
        runner: &str,
        request: &str,
        days: Option<u32>,
    ) -> Result<IssuedCertificate, Failure> {
        let life_s = match days {
            None => self.life_s,
            Some(days) if (1..=DAYS_MAX).contains(&days) => i64::from(days) * DAY_S,
            Some(days) => {
                return Err(Code::InvalidArgument.on(format!("days must be from 1 to {DAYS_MAX}, not {days}")));
            }
        };
        let request = signing_request(request)?;
        self.sign_runner(issuer, organization, runner, &request.public_key, life_s).map_err(Failure::from)
    }

    /// Signs the certificate that follows another one of a runner, and is good for as long. The request's one name must be that runner's.
    ///
    /// # Errors
    /// As [`Authority::issue_runner`]; `organization_mismatch` where the request is for another identity.
    pub fn renew_runner(
        &self,
        issuer: &IssuerRecord,
        organization: &str,
        runner: &str,
        request: &str,
        life_s: i64,
    ) -> Result<IssuedCertificate, Failure> {
        let request = signing_request(request)?;
        let identity = self.identity(organization, runner).to_string();
        match &request.params.subject_alt_names[..] {
            [SanType::URI(uri)] if uri.as_str() == identity => {}
            _ => {
                return Err(Code::OrganizationMismatch
                    .on(format!("the session is {identity}, the signing request is for another name or for several")));
            }
        }
        let life_s = life_s.clamp(1, i64::from(DAYS_MAX) * DAY_S);
        self.sign_runner(issuer, organization, runner, &request.public_key, life_s).map_err(Failure::from)
    }

    fn identity(&self, organization: &str, runner: &str) -> RunnerIdentity {
        RunnerIdentity {
            trust_domain: self.trust_domain.clone(),
            organization: organization.to_owned(),
            runner: runner.to_owned(),
        }
    }

    fn sign_runner(
        &self,
        issuer: &IssuerRecord,
        organization: &str,
        runner: &str,
        key: &rcgen::PublicKey,
        life_s: i64,
    ) -> Result<IssuedCertificate, PkiError> {
        let ca = Issuer::from_ca_cert_pem(&issuer.certificate, KeyPair::from_pem(issuer.private_key.expose())?)?;
        let identity = self.identity(organization, runner);
        let mut params = CertificateParams::default();
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, runner);
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, life_s);
        params.serial_number = Some(serial()?);
        let certificate = params.signed_by(key, &ca)?;
        let facts = CertificateFacts::read(certificate.der()).map_err(PkiError::Read)?;
        Ok(IssuedCertificate {
            chain: format!("{}{}", certificate.pem(), issuer.certificate),
            serial: facts.serial,
            not_after_ms: facts.not_after * 1000,
            life_s,
            public_key_sha256: shared_proto::hex::encode(Sha256::digest(&facts.public_key)),
        })
    }
}

/// A server certificate under the root, with a key of its own.
pub(super) fn server(root: &Issuer<'static, KeyPair>, names: &[ServerName]) -> Result<CertifiedKey, PkiError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, "Runner control plane");
    for name in names {
        params.subject_alt_names.push(match name {
            ServerName::Dns(name) => SanType::DnsName(name.clone().try_into()?),
            ServerName::Ip(ip) => SanType::IpAddress(*ip),
        });
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, SERVER_DAYS * DAY_S);
    params.serial_number = Some(serial()?);
    let certificate = params.signed_by(&key, root)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Ok(CertifiedKey::from_der(
        vec![certificate.der().clone()],
        PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        &provider,
    )?)
}

/// Reads a request, whose signature must fit its key.
fn signing_request(request: &str) -> Result<CertificateSigningRequestParams, Failure> {
    if request.len() > REQUEST_MAX {
        return Err(Code::TooLarge.on(format!("csr is {} bytes long, the limit is {REQUEST_MAX}", request.len())));
    }
    let request = CertificateSigningRequestParams::from_pem(request.trim())
        .map_err(|e| Code::InvalidArgument.on(format!("csr is not a certificate signing request in PEM: {e}")))?;
    let known = [(&rcgen::PKCS_ECDSA_P256_SHA256, 65), (&rcgen::PKCS_ED25519, 32)].iter().any(|(kind, length)| {
        request.public_key.algorithm() == *kind && request.public_key.der_bytes().len() == *length
    });
    if known { Ok(request) } else { Err(Code::InvalidArgument.on("csr: the key must be ECDSA P-256 or Ed25519")) }
}

/// From a little before now on.
pub(super) fn valid_for(params: &mut CertificateParams, seconds: i64) {
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::seconds(BACKDATED_S.min(seconds / 10));
    params.not_after = now + time::Duration::seconds(seconds);
}

/// 128 random bits. The first one is 0 and the second 1: positive and of one length as DER.
pub(super) fn serial() -> Result<SerialNumber, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
