//! Where AWS' services are asked by operations that the runner does itself: the supervisor lets a worker be connected to these hosts, the
//! worker asks there.
//!
//! Hosts and regions are those of botocore's `endpoints.json` and endpoint rule sets, <https://github.com/boto/botocore>.

/// The longest name of a region.
const REGION_MAX: usize = 32;

/// A set of regions with accounts, domain and console of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Partition {
    /// As in ARNs.
    pub name: &'static str,
    /// How its regions' names begin; empty: any other.
    regions: &'static str,
    /// Of its hosts.
    pub domain: &'static str,
    /// Where people look at it; empty: not known.
    pub console: &'static str,
    /// The region in whose list stands what is in none, such as IAM's roles: once, however many regions are listed.
    pub home: &'static str,
    /// IAM's host before the domain, and for which region it is signed.
    iam: (&'static str, &'static str),
    /// Route 53's, likewise.
    route53: (&'static str, &'static str),
}

/// All, those with longer beginnings first.
static PARTITIONS: [Partition; 8] = [
    of("aws-cn", "cn-", "amazonaws.com.cn", "console.amazonaws.cn", "cn-north-1")
        .with(("iam.cn-north-1", "cn-north-1"), ("route53", "cn-northwest-1")),
    of("aws-us-gov", "us-gov-", "amazonaws.com", "console.amazonaws-us-gov.com", "us-gov-west-1")
        .with(("iam.us-gov", "us-gov-west-1"), ("route53.us-gov", "us-gov-west-1")),
    of("aws-iso-b", "us-isob-", "sc2s.sgov.gov", "", "us-isob-east-1")
        .with(("iam.us-isob-east-1", "us-isob-east-1"), ("route53", "us-isob-east-1")),
    of("aws-iso-f", "us-isof-", "csp.hci.ic.gov", "", "us-isof-south-1")
        .with(("iam.us-isof-south-1", "us-isof-south-1"), ("route53", "us-isof-south-1")),
    of("aws-iso", "us-iso-", "c2s.ic.gov", "", "us-iso-east-1")
        .with(("iam.us-iso-east-1", "us-iso-east-1"), ("route53", "us-iso-east-1")),
    of("aws-iso-e", "eu-isoe-", "cloud.adc-e.uk", "", "eu-isoe-west-1")
        .with(("iam.eu-isoe-west-1", "eu-isoe-west-1"), ("route53", "eu-isoe-west-1")),
    of("aws-eusc", "eusc-", "amazonaws.eu", "console.amazonaws-eusc.eu", "eusc-de-east-1")
        .with(("iam.eusc-de-east-1", "eusc-de-east-1"), ("route53", "eusc-de-east-1")),
    of("aws", "", "amazonaws.com", "console.aws.amazon.com", "us-east-1")
        .with(("iam", "us-east-1"), ("route53", "us-east-1")),
];

/// One service in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its host, reached by HTTPS on 443.
    pub host: String,
    /// For which service requests are signed.
    pub signing: &'static str,
    /// And for which region.
    pub region: String,
}

const fn of(
    name: &'static str,
    regions: &'static str,
    domain: &'static str,
    console: &'static str,
    home: &'static str,
) -> Partition {
    Partition { name, regions, domain, console, home, iam: ("", ""), route53: ("", "") }
}

// === impl Partition ===

impl Partition {
    const fn with(mut self, iam: (&'static str, &'static str), route53: (&'static str, &'static str)) -> Self {
        self.iam = iam;
        self.route53 = route53;
        self
    }

    /// The one that a region is in.
    pub fn of(region: &str) -> &'static Self {
        let found = PARTITIONS.iter().find(|p| region.starts_with(p.regions));
        // the last one takes any
        found.unwrap_or(&PARTITIONS[PARTITIONS.len() - 1])
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Of a service by the name that its requests are signed for. The region is one that [`is_region`] has passed.
    pub fn of(signing: &'static str, region: &str) -> Self {
        let partition = Partition::of(region);
        let (front, region) = match signing {
            "iam" => (partition.iam.0.to_owned(), partition.iam.1),
            "route53" => (partition.route53.0.to_owned(), partition.route53.1),
            "ecr" => (format!("api.ecr.{region}"), region),
            other => (format!("{other}.{region}"), region),
        };
        Self { host: format!("{front}.{}", partition.domain), signing, region: region.to_owned() }
    }
}

/// Lower case letters, digits and dashes, as in eu-central-1: it becomes part of a host's name.
pub fn is_region(text: &str) -> bool {
    text.len() <= REGION_MAX
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::{Host, Place};

    #[test]
    fn a_region_cannot_lead_to_another_host() {
        for bad in ["", "x.evil.example/", "eu-central-1.evil", "EU", "-a", "a-", "1a", "a b", "a/b", &"a".repeat(33)] {
            assert!(!is_region(bad), "{bad}");
        }
        assert!(is_region("eu-central-1") && is_region(&"a".repeat(32)));
    }

    #[test]
    fn hosts_are_those_of_the_published_models() {
        for region in [
            "eu-central-1",
            "us-east-1",
            "cn-north-1",
            "us-gov-west-1",
            "us-iso-east-1",
            "us-isob-east-1",
            "us-isof-south-1",
            "eu-isoe-west-1",
            "eusc-de-east-1",
        ] {
            for service in crate::inventory::aws_services() {
                let endpoint = Endpoint::of(service, region);
                let host = Host::parse(&endpoint.host).unwrap_or_else(|e| panic!("{}: {e}", endpoint.host));
                assert!(host.signs(service), "{} is not {service}'s", endpoint.host);
                // what is global is signed for the region that the models say
                match host.place {
                    Place::Region(of) | Place::Global(of) => assert_eq!(of, endpoint.region, "{}", endpoint.host),
                    Place::Anywhere => panic!("{} is in no region", endpoint.host),
                }
            }
        }
    }

    #[test]
    fn partitions() {
        for (region, name, home) in [
            ("eu-central-1", "aws", "us-east-1"),
            ("us-east-1", "aws", "us-east-1"),
            ("us-gov-east-1", "aws-us-gov", "us-gov-west-1"),
            ("cn-northwest-1", "aws-cn", "cn-north-1"),
            ("us-isob-east-1", "aws-iso-b", "us-isob-east-1"),
            ("us-iso-west-1", "aws-iso", "us-iso-east-1"),
        ] {
            let partition = Partition::of(region);
            assert_eq!((partition.name, partition.home), (name, home), "{region}");
        }
    }
}
