//! The five steps of identity, as one function that both listeners use. The third and the fourth of them: the certificate's
//! issuer is a CA of ours, and the organization in the certificate's URI is that issuer's and the one that the session is for;
//! with them the registry's word (known, not revoked) and the API key.
//!
//! What TLS itself checks (a chain to the root) rustls has checked before. This module must never trust a name: an issuer is
//! known by its public key, and its signature under the leaf is checked here again, against that very key.

use crate::pki::Authority;
use crate::store::{Signer, Store};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use shared_proto::api_key::{self, KeyDigest, Purpose};
use shared_proto::failure::{Code, Failure};
use shared_proto::identity::CertificateFacts;
use shared_proto::now_ms;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Certificates of one chain that are looked at.
const CHAIN_MAX: usize = 4;

/// A runner whose session passed all checks. Routing uses this and nothing that a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRunner {
    /// The organization's id.
    pub organization: String,
    /// The runner's id.
    pub runner: String,
    /// The runner's name, for people.
    pub name: String,
    /// The serial of the certificate of this session.
    pub serial: String,
    /// When that certificate expires.
    pub not_after_ms: i64,
    /// The instance that the certificate belongs to, where one has renewed it by itself.
    pub instance: Option<String>,
    /// SHA-256 of its public key, hexadecimal.
    pub public_key_sha256: String,
    /// Of the API key.
    pub api_key: KeyDigest,
}

/// Checks who a session is. `claimed` is the organization and the runner that the session says it is for, where it says so.
///
/// # Errors
/// One code for each refusal: `certificate_missing`, `certificate_invalid`, `unknown_ca`, `certificate_purpose`,
/// `certificate_organization`, `organization_mismatch`, `certificate_expired`, `certificate_not_yet_valid`, `unknown_runner`,
/// `certificate_revoked`, `api_key_invalid`, `api_key_other_runner`.
pub async fn verify_session(
    chain: &[CertificateDer<'_>],
    claimed: Option<(&str, &str)>,
    api_key: Option<&str>,
    store: &Store,
    authority: &Authority,
) -> Result<VerifiedRunner, Failure> {
    // 1. a certificate is presented
    let leaf = chain.first().ok_or_else(|| Code::CertificateMissing.on("the TLS client presented no certificate"))?;
    if chain.len() > CHAIN_MAX {
        return Err(Code::CertificateInvalid
            .on(format!("the chain has {} certificates, the limit is {CHAIN_MAX}", chain.len())));
    }
    let facts = CertificateFacts::read(leaf)?;

    // 2. its issuer is a CA of ours
    let signer = signer(leaf, &chain[1..], &facts, store).await?;
    if facts.is_ca || !facts.client_auth {
        return Err(Code::CertificatePurpose
            .on(format!("certificate {} was not issued to authenticate a runner as a TLS client", facts.serial)));
    }

    // 3. its URI's organization is that issuer's, and the one that the session is for
    let identity = facts.runner()?;
    if identity.trust_domain != authority.trust_domain() {
        return Err(Code::CertificateOrganization.on(format!(
            "the certificate is of trust domain {}, this control plane's is {}",
            identity.trust_domain,
            authority.trust_domain()
        )));
    }
    if identity.organization != signer.organization {
        return Err(Code::CertificateOrganization.on(format!(
            "the certificate names organization {}, its issuer is of organization {}",
            identity.organization, signer.organization
        )));
    }
    if let Some((organization, runner)) = claimed
        && (organization, runner) != (identity.organization.as_str(), identity.runner.as_str())
    {
        return Err(Code::OrganizationMismatch.on(format!(
            "the session is for {}/{}, the certificate is of {}/{}",
            short(organization),
            short(runner),
            identity.organization,
            identity.runner
        )));
    }
    facts.check_dates(now_ms(), None)?;

    // 4. the registry knows runner and certificate, and revoked neither
    let runner = match store.runner(&identity.organization, &identity.runner).await {
        Ok(runner) if runner.id == identity.runner => runner,
        Ok(_) => return Err(unknown_runner(&identity.runner)),
        Err(failure) if failure.code == Code::NotFound => return Err(unknown_runner(&identity.runner)),
        Err(failure) => return Err(failure),
    };
    if runner.revoked_at_ms.is_some() {
        return Err(Code::CertificateRevoked.on(format!("runner {} ({}) was revoked", runner.name, runner.id)));
    }
    let certificate = store
        .certificate(&identity.organization, &facts.serial)
        .await?
        .filter(|c| c.runner == runner.id)
        .ok_or_else(|| {
            Code::CertificateInvalid.on(format!("certificate {} is not in this control plane's registry", facts.serial))
        })?;
    if certificate.revoked_at_ms.is_some() {
        return Err(certificate_revoked(&facts.serial, &runner.name));
    }

    // 5. the API key is this very runner's
    let key = api_key
        .filter(|k| !k.is_empty())
        .ok_or_else(|| Code::ApiKeyInvalid.on(format!("runner {} sent no API key", runner.name)))?;
    let digest = api_key::parse(Purpose::Runner, key)
        .map_err(|e| Code::ApiKeyInvalid.on(format!("the API key of runner {} is malformed: {e}", runner.name)))?;
    let owner = store
        .api_key(&digest)
        .await?
        .ok_or_else(|| Code::ApiKeyInvalid.on(format!("the API key that runner {} sent is not known", runner.name)))?;
    if (owner.organization.as_str(), owner.runner.as_str()) != (runner.organization.as_str(), runner.id.as_str()) {
        return Err(
            Code::ApiKeyOtherRunner.on(format!("the API key that runner {} sent is another runner's", runner.name))
        );
    }
    if owner.revoked_at_ms.is_some() {
        return Err(Code::ApiKeyInvalid.on(format!("the API key that runner {} sent was revoked", runner.name)));
    }
    Ok(VerifiedRunner {
        organization: runner.organization,
        runner: runner.id,
        name: runner.name,
        serial: facts.serial,
        not_after_ms: facts.not_after.saturating_mul(1000),
        instance: certificate.instance,
        public_key_sha256: shared_proto::hex::encode(Sha256::digest(&facts.public_key)),
        api_key: digest,
    })
}

/// The issuing CA of ours whose key signed the leaf: one of those presented with it, else the one of the organization that the
/// leaf names. Presented certificates are only a hint for the look-up; what counts is the stored key.
async fn signer(
    leaf: &CertificateDer<'_>,
    presented: &[CertificateDer<'_>],
    facts: &CertificateFacts,
    store: &Store,
) -> Result<Signer, Failure> {
    let mut candidates = Vec::with_capacity(CHAIN_MAX);
    for certificate in presented {
        let key = shared_proto::hex::encode(Sha256::digest(&CertificateFacts::read(certificate)?.public_key));
        candidates.extend(store.signer_by_key(&key).await?);
    }
    if let Ok(identity) = facts.runner() {
        candidates.extend(store.signers_of(&identity.organization).await?);
    }
    for candidate in candidates {
        if signed_by(leaf, &candidate)? {
            return Ok(candidate);
        }
    }
    Err(Code::UnknownCa.on(format!(
        "certificate {} was issued by {}, which is no CA of this control plane",
        facts.serial, facts.issuer
    )))
}

/// Whether the leaf's signature is this issuing CA's. They are all ECDSA P-256 with SHA-256: [`Authority`] made them.
fn signed_by(leaf: &CertificateDer<'_>, signer: &Signer) -> Result<bool, Failure> {
    let damaged =
        |what: &str| Code::Internal.on(format!("the issuing CA of {} in the database {what}", signer.organization));
    let ca = CertificateDer::from_pem_slice(signer.certificate.as_bytes()).map_err(|_| damaged("is not PEM"))?;
    let (_, ca) = X509Certificate::from_der(&ca).map_err(|_| damaged("is no certificate"))?;
    let (_, leaf) = X509Certificate::from_der(leaf)
        .map_err(|e| Code::CertificateInvalid.on(format!("not an X.509 certificate: {e}")))?;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &ca.public_key().subject_public_key.data);
    Ok(key.verify(leaf.tbs_certificate.as_ref(), &leaf.signature_value.data).is_ok())
}

/// One certificate was revoked, its runner was not: another one helps.
pub(crate) fn certificate_revoked(serial: &str, runner: &str) -> Failure {
    Code::CertificateRevoked
        .on(format!("certificate {serial} of runner {runner} was revoked"))
        .next(Code::CertificateInvalid.next_step())
}

fn unknown_runner(id: &str) -> Failure {
    Code::UnknownRunner.on(format!("runner {id} is not registered here"))
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

#[cfg(test)]
mod tests;
