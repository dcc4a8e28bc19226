//! What a signature of version 4 says of itself: by whose key, for which day, region and service.

use crate::failure::{Code, Failure};
use crate::v1::HttpHeader;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The longest id of an access key, bytes.
const KEY_ID_MAX: usize = 128;

/// A signature's scope. Whether it is right nobody looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// By whose key.
    pub access_key_id: String,
    /// For which region.
    pub region: String,
    /// For which service.
    pub service: String,
    /// Whether it stands in the query, as of an URL that was signed ahead.
    pub in_query: bool,
}

/// What the header `x-amz-content-sha256` says of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Its digest, hex.
    Digest(String),
    /// Nothing.
    Unsigned,
    /// It comes in chunks, with checksums behind it, and no part of it is signed.
    UnsignedTrailer,
}

// === impl Signature ===

impl Signature {
    /// From headers, or from the query, decoded.
    ///
    /// # Errors
    /// `invalid_argument`: there is none, more than one, one of another version, or one that is malformed.
    pub fn of(headers: &[HttpHeader], query: &[(String, String)]) -> Result<Self, Failure> {
        let wrong = |what: &str| Code::InvalidArgument.on(what.to_owned());
        let header = super::request::single(headers, "authorization")?;
        let values = |name: &str| {
            query.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect::<Vec<_>>()
        };
        let algorithms = values("X-Amz-Algorithm");
        match (header, algorithms.as_slice()) {
            (Some(_), [_, ..]) | (None, [_, _, ..]) => Err(wrong("the request carries more than one signature")),
            (Some(header), []) => {
                let (algorithm, rest) = header.split_once(' ').unwrap_or((header, ""));
                algorithm_is_known(algorithm)?;
                let mut credential = None;
                for part in rest.split(',') {
                    if let Some(value) = part.trim().strip_prefix("Credential=")
                        && credential.replace(value).is_some()
                    {
                        return Err(wrong("the request's signature names two credentials"));
                    }
                }
                Self::scope(credential.unwrap_or_default(), false)
            }
            (None, [algorithm]) => {
                algorithm_is_known(algorithm)?;
                match values("X-Amz-Credential").as_slice() {
                    [credential] => Self::scope(credential, true),
                    _ => Err(wrong("the URL's signature does not name one credential")),
                }
            }
            (None, []) => Err(wrong("the request is not signed").next(
                "Requests without a signature need no runner: send them by another way. Those that must have one need the credentials that \
                 `runnerctl aws` gives.",
            )),
        }
    }

    fn scope(credential: &str, in_query: bool) -> Result<Self, Failure> {
        let parts: Vec<&str> = credential.split('/').collect();
        let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        match parts.as_slice() {
            [key, date, region, service, "aws4_request"]
                if (1..=KEY_ID_MAX).contains(&key.len())
                    && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                    && date.len() == 8
                    && date.bytes().all(|b| b.is_ascii_digit())
                    && word(region)
                    && word(service) =>
            {
                Ok(Self {
                    access_key_id: (*key).to_owned(),
                    region: (*region).to_owned(),
                    service: (*service).to_owned(),
                    in_query,
                })
            }
            _ => Err(Code::InvalidArgument
                .on("the request's signature names no credential as KEY/DATE/REGION/SERVICE/aws4_request")),
        }
    }
}

fn algorithm_is_known(algorithm: &str) -> Result<(), Failure> {
    if algorithm == ALGORITHM {
        return Ok(());
    }
    let shown: String = algorithm.chars().take(64).filter(|c| !c.is_control()).collect();
    Err(Code::InvalidArgument
        .on(format!("the request is signed as {shown:?}, and only {ALGORITHM} is passed on"))
        .next("Signatures for many regions (SigV4a), such as multi-region access points of S3, and bearer tokens are not passed on."))
}

// === impl Payload ===

impl Payload {
    /// From the header's value; `None` where there is none.
    ///
    /// # Errors
    /// `invalid_argument`: a kind that is not passed on, or none at all.
    pub fn of(headers: &[HttpHeader]) -> Result<Option<Self>, Failure> {
        let Some(value) = super::request::single(headers, "x-amz-content-sha256")? else { return Ok(None) };
        match value {
            "UNSIGNED-PAYLOAD" => Ok(Some(Self::Unsigned)),
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Some(Self::UnsignedTrailer)),
            digest if digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) => {
                Ok(Some(Self::Digest(digest.to_owned())))
            }
            chunked if chunked.starts_with("STREAMING-") => Err(Code::InvalidArgument
                .on(format!("a body of the kind {:?}, whose chunks are signed one by one, is not passed on", &chunked[..chunked.len().min(64)]))
                .next("Have the client send its payload unsigned: over TLS most do by default, older ones by a setting such as `payload_signing_enabled = false` or `chunkedEncodingEnabled(false)`.")),
            _ => Err(Code::InvalidArgument.on("the header x-amz-content-sha256 is neither a digest nor one of AWS' words for a body")),
        }
    }
}
