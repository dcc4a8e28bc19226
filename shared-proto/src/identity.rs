//! Who a certificate is: the SPIFFE URI of a runner, and the facts that both ends judge a certificate by.
//!
//! A leaf carries `spiffe://<trust-domain>/org/<org>/runner/<runner>` (SPIFFE-ID, section 2). An issuing CA carries
//! `spiffe://<trust-domain>/org/<org>`: that is how an issuer is tied to its organization, since X.509 name constraints
//! cannot carry it. This module must never decide on trust: signatures are rustls' to check.

use crate::failure::{Code, Failure};
use rustls_pki_types::CertificateDer;
use std::fmt;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

/// A runner's identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RunnerIdentity {
    /// The trust domain: the control plane's.
    pub trust_domain: String,
    /// The organization.
    pub organization: String,
    /// The runner.
    pub runner: String,
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// All its URI names.
    pub uris: Vec<String>,
    /// Its serial number, lower-case hexadecimal without leading zeros.
    pub serial: String,
    /// First moment of validity, Unix seconds.
    pub not_before: i64,
    /// Last moment of validity, Unix seconds.
    pub not_after: i64,
    /// Its issuer's name.
    pub issuer: String,
    /// Its subject's name.
    pub subject: String,
    /// Whether its extended key usage allows a TLS client.
    pub client_auth: bool,
    /// Whether its extended key usage allows a TLS server.
    pub server_auth: bool,
    /// Whether it may issue others.
    pub is_ca: bool,
    /// Its public key, as SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
}

/// Why a text is not a runner's identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not spiffe://<trust-domain>/org/<org>/runner/<runner>")]
pub struct NotARunner(pub String);

// === impl RunnerIdentity ===

impl RunnerIdentity {
    /// Parses the URI, strictly: no query, no fragment, no empty or dotted segment, no percent-encoding.
    ///
    /// # Errors
    /// [`NotARunner`].
    pub fn parse(uri: &str) -> Result<Self, NotARunner> {
        let bad = || NotARunner(uri.chars().take(200).collect());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(bad)?;
        match rest.split('/').collect::<Vec<_>>()[..] {
            [domain, "org", organization, "runner", runner]
                if is_domain(domain) && is_segment(organization) && is_segment(runner) =>
            {
                Ok(Self {
                    trust_domain: domain.to_owned(),
                    organization: organization.to_owned(),
                    runner: runner.to_owned(),
                })
            }
            _ => Err(bad()),
        }
    }
    /// The URI of the issuing CA of its organization.
    pub fn issuer_uri(&self) -> String {
        issuer_uri(&self.trust_domain, &self.organization)
    }
}

impl fmt::Display for RunnerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/org/{}/runner/{}", self.trust_domain, self.organization, self.runner)
    }
}

/// The URI that an organization's issuing CA carries.
pub fn issuer_uri(trust_domain: &str, organization: &str) -> String {
    format!("spiffe://{trust_domain}/org/{organization}")
}

fn is_domain(s: &str) -> bool {
    !s.is_empty()
        && s.len() <= 255
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b))
}
fn is_segment(s: &str) -> bool {
    !s.is_empty()
        && s.len() <= 128
        && s != "."
        && s != ".."
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

// === impl CertificateFacts ===

impl CertificateFacts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// `certificate_invalid` where it is not one.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, Failure> {
        let (rest, certificate) = X509Certificate::from_der(der)
            .map_err(|e| Code::CertificateInvalid.on(format!("not an X.509 certificate: {e}")))?;
        if !rest.is_empty() {
            return Err(Code::CertificateInvalid.on("bytes follow the certificate"));
        }
        let mut facts = Self {
            uris: Vec::new(),
            serial: serial(certificate.raw_serial()),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            issuer: certificate.issuer().to_string(),
            subject: certificate.subject().to_string(),
            client_auth: false,
            server_auth: false,
            is_ca: false,
            public_key: certificate.public_key().raw.to_vec(),
        };
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    facts.uris.extend(names.general_names.iter().filter_map(|n| match n {
                        GeneralName::URI(uri) => Some((*uri).to_owned()),
                        _ => None,
                    }));
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    facts.client_auth = usage.client_auth;
                    facts.server_auth = usage.server_auth;
                }
                ParsedExtension::BasicConstraints(constraints) => facts.is_ca = constraints.ca,
                _ => {}
            }
        }
        Ok(facts)
    }

    /// Whose certificate it is: it must carry one URI, and that must be a runner's.
    ///
    /// # Errors
    /// `certificate_invalid`.
    pub fn runner(&self) -> Result<RunnerIdentity, Failure> {
        match &self.uris[..] {
            [uri] => RunnerIdentity::parse(uri).map_err(|e| Code::CertificateInvalid.on(e.to_string())),
            uris => Err(Code::CertificateInvalid
                .on(format!("the certificate has {} URI names, a runner's has one", uris.len()))),
        }
    }

    /// When it is to be renewed, Unix seconds: at two thirds of its life.
    pub fn renewal_due(&self) -> i64 {
        let life = self.not_after.saturating_sub(self.not_before);
        self.not_before.saturating_add(life - life / 3)
    }

    /// Judges the dates by a clock, Unix milliseconds; both clocks where the other end's is known.
    ///
    /// # Errors
    /// `certificate_expired`, `certificate_not_yet_valid`; `clock_skew` where the other end's clock says that the dates are good.
    pub fn check_dates(&self, own_ms: i64, other_ms: Option<i64>) -> Result<(), Failure> {
        let within = |ms: i64| (self.not_before..=self.not_after).contains(&(ms / 1000));
        if within(own_ms) {
            return Ok(());
        }
        let dates = format!(
            "this machine's clock says {}, the certificate is valid from {} to {}",
            rfc3339(own_ms / 1000),
            rfc3339(self.not_before),
            rfc3339(self.not_after)
        );
        let dates = match other_ms {
            Some(ms) => format!("{dates}, the control plane's clock said {}", rfc3339(ms / 1000)),
            None => dates,
        };
        Err(match other_ms {
            Some(ms) if within(ms) => Code::ClockSkew.on(dates),
            _ if own_ms / 1000 < self.not_before => Code::CertificateNotYetValid.on(dates),
            _ => Code::CertificateExpired.on(dates),
        })
    }
}

/// A moment in Unix seconds as people and logs read it.
pub fn rfc3339(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| format!("@{seconds}"))
}

/// Lower-case hexadecimal, without the leading zero bytes that DER adds.
fn serial(bytes: &[u8]) -> String {
    let text = crate::hex::encode(bytes);
    let trimmed = text.trim_start_matches('0');
    if trimmed.is_empty() { "0".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_comes_back_and_nothing_else_is_one() {
        let uri = "spiffe://runner.example/org/acme/runner/r-1";
        assert_eq!(RunnerIdentity::parse(uri).expect("parses").to_string(), uri);
        for bad in [
            "",
            "spiffe://",
            "spiffe://d/org/a/runner",
            "spiffe://d/org/a/runner/",
            "spiffe://d/org//runner/r",
            "spiffe://d/org/a/runner/r/",
            "spiffe://d/org/a/runner/r?x=1",
            "spiffe://d/org/a/runner/r#f",
            "spiffe://d/org/../runner/r",
            "spiffe://D/org/a/runner/r",
            "spiffe://d:1/org/a/runner/r",
            "https://d/org/a/runner/r",
            "spiffe://d/org/a%2fb/runner/r",
            "spiffe:///org/a/runner/r",
            "spiffe://d/org/a/runner/r/x",
            "SPIFFE://d/org/a/runner/r",
            "spiffe://d/runner/r/org/a",
            "spiffe://u@d/org/a/runner/r",
        ] {
            assert!(RunnerIdentity::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn dates_are_judged_by_both_clocks() {
        let facts = CertificateFacts {
            uris: vec![],
            serial: "1".into(),
            not_before: 1000,
            not_after: 2000,
            issuer: String::new(),
            subject: String::new(),
            client_auth: true,
            server_auth: false,
            is_ca: false,
            public_key: vec![],
        };
        let code =
            |own: i64, other: Option<i64>| facts.check_dates(own * 1000, other.map(|s| s * 1000)).err().map(|f| f.code);
        assert_eq!(code(1000, None), None);
        assert_eq!(code(2000, None), None);
        assert_eq!(code(999, None), Some(Code::CertificateNotYetValid));
        assert_eq!(code(2001, None), Some(Code::CertificateExpired));
        assert_eq!(facts.renewal_due(), 1667);
        assert_eq!(code(999, Some(1500)), Some(Code::ClockSkew));
        assert_eq!(code(2001, Some(2002)), Some(Code::CertificateExpired));
    }
}
