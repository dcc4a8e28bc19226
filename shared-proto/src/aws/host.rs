//! Which service answers at a host of AWS, and of which region it is.

use super::operations::{self, Service};
use crate::failure::{Code, Failure};

/// Partitions: how their regions begin, and the domains of their hosts, for IPv4 and for both.
const PARTITIONS: [(&[&str], &str, &str); 7] = [
    (&["cn-"], "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    (&["us-isob-"], "sc2s.sgov.gov", "api.aws.scloud"),
    (&["us-isof-"], "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    (&["us-iso-"], "c2s.ic.gov", "api.aws.ic.gov"),
    (&["eu-isoe-"], "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    (&["eusc-"], "amazonaws.eu", "api.amazonwebservices.eu"),
    // with us-gov-
    (&["us-", "eu-", "ap-", "sa-", "ca-", "me-", "af-", "il-", "mx-"], "amazonaws.com", "api.aws"),
];
/// The longest name of a region.
const REGION_MAX: usize = 32;
/// The longest name of a host, as DNS has it.
const HOST_MAX: usize = 253;

/// A host of AWS.
#[derive(Debug)]
pub struct Host<'a> {
    pub(super) services: Vec<&'static Service>,
    /// For what its requests are signed, where the table does not say it.
    signing: Option<&'static str>,
    /// Where it is.
    pub place: Place,
    /// The bucket or access point of S3 that stands in it.
    pub bucket: Option<&'a str>,
}

/// Where a host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In that region.
    Region(String),
    /// In none; its requests are signed for that one.
    Global(String),
    /// In none; its requests are signed for whichever region what they ask for is in.
    Anywhere,
}

// === impl Host ===

impl<'a> Host<'a> {
    /// From its name: lower case, without a port.
    ///
    /// # Errors
    /// `invalid_argument`: it is none of AWS' services, or one that is not passed on to.
    pub fn parse(name: &'a str) -> Result<Self, Failure> {
        Self::of(name).ok_or_else(|| {
            let is_below = |domain: &str| name.strip_suffix(domain).is_some_and(|front| front.ends_with('.'));
            let is_of_aws = PARTITIONS.iter().any(|(_, domain, dual)| is_below(domain) || is_below(dual));
            Code::InvalidArgument
                .on(format!("{:?} is no host of an AWS service", name.chars().take(HOST_MAX).collect::<String>()))
                .next(match is_of_aws {
                    true => "Check the region and the service in it; a host of your own there goes into NO_PROXY.",
                    false => "Only AWS' own endpoints are passed on to; put other hosts into NO_PROXY.",
                })
        })
    }

    fn of(name: &'a str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        if name.len() > HOST_MAX || !name.bytes().all(plain) || name.split('.').any(str::is_empty) {
            return None;
        }
        // the longer one first: amazonaws.com is no end of amazonaws.com.cn, and api.aws none of api.aws.ic.gov
        let (prefixes, front, dual) = PARTITIONS.iter().find_map(|(regions, domain, dual)| {
            let below = |domain: &str| name.strip_suffix(domain)?.strip_suffix('.');
            below(domain).map(|f| (regions, f, false)).or_else(|| below(dual).map(|f| (regions, f, true)))
        })?;
        let in_partition = |region: &str| is_region(region) && prefixes.iter().any(|p| region.starts_with(p));
        if let Some((front, region)) = front.rsplit_once('.')
            && in_partition(region)
        {
            if let Some(host) = s3(front, Place::Region(region.to_owned())).filter(|_| !dual) {
                return Some(host);
            }
            if let Some(id) = front.strip_suffix(".execute-api")
                && !id.contains('.')
            {
                let services = operations::services().iter().filter(|s| s.name == "apigatewaymanagementapi");
                return Some(Self {
                    services: services.collect(),
                    signing: Some("execute-api"),
                    place: Place::Region(region.to_owned()),
                    bucket: None,
                });
            }
            let services: Vec<_> = operations::services().iter().filter(|s| s.begins(front)).collect();
            if !services.is_empty() {
                return Some(Self { services, signing: None, place: Place::Region(region.to_owned()), bucket: None });
            }
        }
        if let Some((region, name)) = front.split_once('.')
            && in_partition(region)
            && !dual
        {
            let services: Vec<_> = operations::services().iter().filter(|s| s.older(name)).collect();
            if !services.is_empty() {
                return Some(Self { services, signing: None, place: Place::Region(region.to_owned()), bucket: None });
            }
        }
        if let Some(host) = s3_without_region(front).filter(|_| !dual && name.ends_with(".amazonaws.com")) {
            return Some(host);
        }
        let fixed = operations::services().iter().filter_map(|s| Some((s, s.fixed(name)?)));
        let (services, regions): (Vec<_>, Vec<_>) = fixed.unzip();
        let region = (*regions.first()?).to_owned();
        Some(Self { services, signing: None, place: Place::Global(region), bucket: None })
    }

    /// The service, by the name that its requests are signed for; the first where there are more.
    pub fn service(&self) -> &'static str {
        self.signing.or_else(|| self.services.first().map(|s| s.signing)).unwrap_or_default()
    }

    /// Whether requests to it are signed for that service.
    pub(super) fn signs(&self, service: &str) -> bool {
        self.signing == Some(service) || (self.signing.is_none() && self.services.iter().any(|s| s.signing == service))
    }

    /// Whether requests to it are signed for that region.
    pub(super) fn is_in(&self, region: &str) -> bool {
        match &self.place {
            Place::Region(own) | Place::Global(own) => own == region,
            Place::Anywhere => is_region(region),
        }
    }

    /// Services and region, for a sentence.
    pub(super) fn shown(&self) -> String {
        let mut names: Vec<_> = match self.signing {
            Some(signing) => vec![signing],
            None => self.services.iter().map(|s| s.signing).collect(),
        };
        names.dedup();
        let region = match &self.place {
            Place::Region(region) | Place::Global(region) => region.as_str(),
            Place::Anywhere => "any region",
        };
        format!("{} in {region}", names.join(" or "))
    }
}

/// Hosts of S3 with a region behind them: the service's own, with a bucket before them, and those of accounts and access points.
fn s3(front: &str, place: Place) -> Option<Host<'_>> {
    let bare = front.strip_suffix(".dualstack").unwrap_or(front);
    let (before, last) = bare.rsplit_once('.').map_or((None, bare), |(before, last)| (Some(before), last));
    let kind = last.strip_suffix("-fips").unwrap_or(last);
    let (name, signing) = match (kind, before) {
        ("s3", _) => ("s3", "s3"),
        ("s3-accesspoint", Some(_)) => ("s3", "s3"),
        ("s3-control", _) => ("s3control", "s3"),
        ("s3-object-lambda", _) => ("s3", "s3-object-lambda"),
        ("s3-outposts", Some(_)) => ("s3", "s3-outposts"),
        _ => return None,
    };
    let services = operations::services().iter().filter(|s| s.name == name).collect();
    // an account is in a header of such requests too
    let bucket = if name == "s3control" { None } else { before };
    Some(Host { services, signing: Some(signing), place, bucket })
}

/// S3's oldest hosts.
fn s3_without_region(front: &str) -> Option<Host<'_>> {
    let bare = front.strip_suffix(".dualstack").unwrap_or(front);
    let (before, last) = bare.rsplit_once('.').map_or((None, bare), |(before, last)| (Some(before), last));
    let place = match last {
        "s3" | "s3-external-1" if bare == front => Place::Region("us-east-1".to_owned()),
        "s3-accelerate" if before.is_some() => Place::Anywhere,
        last => Place::Region(last.strip_prefix("s3-").filter(|r| is_region(r) && bare == front)?.to_owned()),
    };
    let services = operations::services().iter().filter(|s| s.name == "s3").collect();
    Some(Host { services, signing: Some("s3"), place, bucket: before })
}

/// `eu-central-1`, `us-gov-west-1`.
fn is_region(text: &str) -> bool {
    let mut parts = text.rsplit('-');
    let number = parts.next().is_some_and(|n| !n.is_empty() && n.len() <= 2 && n.bytes().all(|b| b.is_ascii_digit()));
    let mut words = 0;
    for part in parts {
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_lowercase()) {
            return false;
        }
        words += 1;
    }
    let known = PARTITIONS.iter().any(|(prefixes, ..)| prefixes.iter().any(|p| text.starts_with(p)));
    number && words >= 2 && known && text.len() <= REGION_MAX
}
