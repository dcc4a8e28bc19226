//! States that are in no folder of the runner's: in a bucket that speaks S3, or in Secrets of a Kubernetes namespace. What supervisor and worker
//! must read the same out of the runner's configuration: the one says where a job may connect to, the other connects.

use crate::address::Address;
use crate::aws::{Endpoint, is_region};
use crate::v1::{AwsTarget, StateBucket, StatePlace, state_place};
use serde::{Deserialize, Serialize};

/// As requests for a bucket are signed.
pub const S3: &str = "s3";
/// The longest name of a bucket: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>.
const BUCKET_MAX: usize = 63;
/// The longest prefix, bytes: a key has 1024, and the rest of it is a stack's id and a version's name.
const PREFIX_MAX: usize = 512;
/// The longest name of a namespace: a label of DNS.
const NAMESPACE_MAX: usize = 63;

/// Who serves the states of a stack. Another one of its id is another time of serving, also by the same job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its id.
    pub id: String,
    /// The instance of the runner.
    pub instance: String,
    /// The job.
    pub job: String,
    /// Who made that job.
    #[serde(default)]
    pub person: String,
    /// When it was made, by the runner's clock.
    #[serde(default)]
    pub time_ms: i64,
}

/// The region that requests for a bucket are signed for.
///
/// # Errors
/// What is wrong with it, in words.
pub fn region_of<'a>(bucket: &'a StateBucket, account: &'a AwsTarget) -> Result<&'a str, &'static str> {
    let region = if bucket.region.is_empty() { &account.region } else { &bucket.region };
    match region.as_str() {
        "" => Err("neither jobs.states nor its connection names a region"),
        region if is_region(region) => Ok(region),
        _ => Err("its region cannot be one"),
    }
}

/// Where a bucket is asked for: by its path, whatever host that is.
///
/// # Errors
/// What is wrong with it, in words.
pub fn bucket_address(bucket: &StateBucket, account: &AwsTarget) -> Result<Address, &'static str> {
    let given = [&bucket.endpoint_url, &account.endpoint_url].into_iter().find(|url| !url.is_empty());
    match given {
        Some(url) => Address::parse(url),
        None => Address::parse(&format!("https://{}", Endpoint::of(S3, region_of(bucket, account)?).host)),
    }
}

/// Lower case letters, digits, dots and dashes.
pub fn is_bucket(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (3..=BUCKET_MAX).contains(&name.len())
        && name.bytes().all(plain)
        && name.starts_with(ends)
        && name.ends_with(ends)
        && !name.contains("..")
}

/// Names between slashes, none first or last, or nothing: no byte of it is written otherwise in a path or in XML.
pub fn is_prefix(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
    text.is_empty() || (text.len() <= PREFIX_MAX && text.split('/').all(part))
}

/// A label of DNS.
pub fn is_namespace(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=NAMESPACE_MAX).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// What a place is called to people; empty: it is none.
pub fn shown(place: &StatePlace) -> String {
    match &place.kind {
        Some(state_place::Kind::Bucket(bucket)) if bucket.prefix.is_empty() => format!("s3://{}", bucket.name),
        Some(state_place::Kind::Bucket(bucket)) => format!("s3://{}/{}", bucket.name, bucket.prefix),
        Some(state_place::Kind::Secrets(secrets)) => {
            let connection = place.target.as_ref().map(|target| target.connection.as_str()).unwrap_or_default();
            format!("secrets://{connection}/{}", secrets.namespace)
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_can_be_one() {
        let long = "a".repeat(BUCKET_MAX + 1);
        for (name, is_one) in [
            ("states", true),
            ("my.states-1", true),
            (&long[1..], true),
            (&long, false),
            ("ab", false),
            ("States", false),
            ("a..b", false),
            ("-ab", false),
            ("ab-", false),
            ("a/b", false),
            ("a?b", false),
        ] {
            assert_eq!(is_bucket(name), is_one, "{name}");
        }
        let long = format!("a/{}", "b".repeat(PREFIX_MAX - 1));
        for (prefix, is_one) in [
            ("", true),
            ("runner", true),
            ("a/b_c.d-E", true),
            (&long[..PREFIX_MAX], true),
            (&long, false),
            ("/a", false),
            ("a/", false),
            ("a//b", false),
            ("a/../b", false),
            ("a b", false),
            ("a%2fb", false),
            ("a&b", false),
        ] {
            assert_eq!(is_prefix(prefix), is_one, "{prefix}");
        }
        let long = "n".repeat(NAMESPACE_MAX + 1);
        for (name, is_one) in [
            ("runner-states", true),
            (&long[1..], true),
            (&long, false),
            ("", false),
            ("A", false),
            ("-a", false),
            ("a-", false),
            ("a/b", false),
        ] {
            assert_eq!(is_namespace(name), is_one, "{name}");
        }
    }

    #[test]
    fn where_a_bucket_is_asked_for() {
        let at = |own: &str, of_connection: &str, regions: (&str, &str)| {
            let bucket = StateBucket {
                name: "states".into(),
                endpoint_url: own.into(),
                region: regions.0.into(),
                ..StateBucket::default()
            };
            let account =
                AwsTarget { endpoint_url: of_connection.into(), region: regions.1.into(), ..AwsTarget::default() };
            let address = bucket_address(&bucket, &account).map(|address| address.shown());
            (address, region_of(&bucket, &account).map(str::to_owned))
        };
        let eu = || Ok("eu-central-1".to_owned());
        let aws = Ok("s3.eu-central-1.amazonaws.com:443".to_owned());
        assert_eq!(at("", "", ("eu-central-1", "us-east-1")), (aws.clone(), eu()));
        assert_eq!(at("", "", ("", "eu-central-1")), (aws, eu()));
        assert_eq!(at("", "http://moto:5000", ("eu-central-1", "")), (Ok("moto:5000".to_owned()), eu()));
        assert_eq!(at("https://minio", "http://moto:5000", ("eu-central-1", "")), (Ok("minio:443".to_owned()), eu()));
        assert!(at("", "", ("", "")).0.is_err() && at("", "", ("x/y", "")).1.is_err());
        assert!(at("https://u:p@minio", "", ("eu-central-1", "")).0.is_err());
    }

    #[test]
    fn what_places_are_called() {
        let bucket = |prefix: &str| StatePlace {
            kind: Some(state_place::Kind::Bucket(StateBucket {
                name: "states".into(),
                prefix: prefix.into(),
                ..StateBucket::default()
            })),
            ..StatePlace::default()
        };
        assert_eq!((shown(&bucket("")), shown(&bucket("a/b"))), ("s3://states".into(), "s3://states/a/b".into()));
        assert_eq!(shown(&StatePlace::default()), "");
    }
}
