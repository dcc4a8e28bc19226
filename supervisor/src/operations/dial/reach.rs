//! What one operation's worker may be connected to: read out of its connection's target, before the worker is started.

use crate::net::proxy::Proxy;
use shared_proto::address::Address;
use shared_proto::aws::Host;
use shared_proto::azure::Cloud;
use shared_proto::dial::Request;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::target::Kind as Target;

/// The services of AWS that operations ask, by the names in their hosts.
const SERVICES: [&str; 4] = ["sts", "ec2", "cloudcontrolapi", "tagging"];
/// The domains of AWS' partitions, as the worker has them by region.
const DOMAINS: [&str; 7] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "c2s.ic.gov",
    "sc2s.sgov.gov",
    "csp.hci.ic.gov",
    "cloud.adc-e.uk",
];
/// The longest name of a region.
const REGION_MAX: usize = 32;

/// Where to, and on which way.
#[derive(Debug)]
pub(crate) struct Reach {
    hosts: Hosts,
    pub(super) through: Through,
}

#[derive(Debug)]
enum Hosts {
    /// Nothing: the target's address is none, which the worker says better.
    None,
    /// This one.
    One { host: String, port: u16 },
    /// A service of AWS, in any region: a request may name another one than the connection's.
    Aws,
    /// Resource Manager and the Log Analytics API of a cloud.
    Azure(Cloud),
}

/// The way.
#[derive(Debug)]
pub(super) enum Through {
    /// Directly.
    Nothing,
    /// Through the proxy that the target's own entry names.
    Its(Proxy),
    /// Through the runner's own proxy, where there is one for that host.
    Ours,
}

// === impl Reach ===

impl Reach {
    /// What the target says, and for a request to AWS the request, whose host was found to be one of AWS' services.
    ///
    /// # Errors
    /// `credentials_unavailable`: a proxy that is none, or no target at all.
    pub(crate) fn of(target: &v1::Target, what: Option<&What>) -> Result<Self, Failure> {
        let wrong = |what: String| Code::CredentialsUnavailable.on(what);
        let one = |url: &str, through| match Address::parse(url) {
            Ok(Address { host, port, .. }) => Self { hosts: Hosts::One { host, port }, through },
            Err(_) => Self { hosts: Hosts::None, through },
        };
        match &target.kind {
            Some(Target::Kubernetes(target)) => {
                let through = match target.proxy_url.as_str() {
                    "" => Through::Nothing,
                    url => Through::Its(Proxy::parse(url).map_err(|e| wrong(format!("the URL of the proxy: {e}")))?),
                };
                Ok(one(&target.server, through))
            }
            Some(Target::Aws(target)) => match target.endpoint_url.as_str() {
                "" => {
                    let hosts = match what {
                        Some(What::AwsRequest(request)) => match Host::parse(&request.host) {
                            Ok(_) => Hosts::One { host: request.host.clone(), port: 443 },
                            Err(_) => Hosts::None,
                        },
                        _ => Hosts::Aws,
                    };
                    Ok(Self { hosts, through: Through::Ours })
                }
                url => Ok(one(url, Through::Nothing)),
            },
            Some(Target::Gcp(v1::GcpTarget { endpoint_url: url, .. }))
            | Some(Target::Azure(v1::AzureTarget { endpoint_url: url, .. }))
                if !url.is_empty() =>
            {
                Ok(one(url, Through::Nothing))
            }
            Some(Target::Gcp(_)) => Ok(Self { hosts: Hosts::None, through: Through::Ours }),
            Some(Target::Azure(target)) => {
                let hosts = Cloud::from_name(&target.cloud).map_or(Hosts::None, Hosts::Azure);
                Ok(Self { hosts, through: Through::Ours })
            }
            None => Err(wrong("the connection has no target".to_owned())),
        }
    }

    /// Whether that may be connected to.
    pub(super) fn allows(&self, request: &Request) -> bool {
        match &self.hosts {
            Hosts::None => false,
            Hosts::One { host, port } => request.host() == host && request.port() == *port,
            Hosts::Aws => request.port() == 443 && is_aws(request.host()),
            Hosts::Azure(cloud) => {
                request.port() == 443 && [cloud.management(), cloud.logs()].contains(&request.host())
            }
        }
    }
}

/// `<service>.<region>.<domain>`.
fn is_aws(host: &str) -> bool {
    let parts = host.split_once('.').and_then(|(service, rest)| Some((service, rest.split_once('.')?)));
    parts.is_some_and(|(service, (region, domain))| {
        SERVICES.contains(&service) && is_region(region) && DOMAINS.contains(&domain)
    })
}

/// Lower case letters, digits and dashes, as in eu-central-1.
fn is_region(text: &str) -> bool {
    text.len() <= REGION_MAX
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubernetes(server: &str, proxy_url: &str) -> v1::Target {
        let target = v1::KubernetesTarget { server: server.into(), proxy_url: proxy_url.into(), ..Default::default() };
        v1::Target { kind: Some(Target::Kubernetes(target)) }
    }

    fn aws(endpoint_url: &str) -> v1::Target {
        v1::Target {
            kind: Some(Target::Aws(v1::AwsTarget { endpoint_url: endpoint_url.into(), ..Default::default() })),
        }
    }

    #[test]
    fn a_target_reaches_itself_and_nothing_else() {
        let cluster = kubernetes("https://api.example:6443/k8s/c-1", "");
        let v6 = kubernetes("https://[fd12::1]", "");
        let stand_in = aws("http://127.0.0.1:5000");
        let own = aws("");
        for (target, host, port, allowed) in [
            (&cluster, "api.example", 6443, true),
            (&cluster, "api.example", 443, false),
            (&cluster, "api.example", 6444, false),
            (&cluster, "api.example.", 6443, false),
            (&cluster, "other.example", 6443, false),
            (&cluster, "127.0.0.1", 6443, false),
            (&cluster, "sts.eu-central-1.amazonaws.com", 443, false),
            (&v6, "fd12::1", 443, true),
            (&v6, "[fd12::1]", 443, false),
            (&v6, "fd12::2", 443, false),
            (&stand_in, "127.0.0.1", 5000, true),
            (&stand_in, "127.0.0.1", 5001, false),
            (&stand_in, "localhost", 5000, false),
            (&stand_in, "sts.eu-central-1.amazonaws.com", 443, false),
            (&own, "sts.eu-central-1.amazonaws.com", 443, true),
            (&own, "ec2.cn-north-1.amazonaws.com.cn", 443, true),
            (&own, "cloudcontrolapi.us-gov-west-1.amazonaws.com", 443, true),
            (&own, "tagging.us-isob-east-1.sc2s.sgov.gov", 443, true),
            (&own, "ec2.us-iso-east-1.c2s.ic.gov", 443, true),
            (&own, "ec2.us-isof-south-1.csp.hci.ic.gov", 443, true),
            (&own, "ec2.eu-isoe-west-1.cloud.adc-e.uk", 443, true),
            (&own, "ec2.eusc-de-east-1.amazonaws.eu", 443, true),
            (&own, "sts.eu-central-1.amazonaws.com", 80, false),
            (&own, "s3.eu-central-1.amazonaws.com", 443, false),
            (&own, "evil.sts.eu-central-1.amazonaws.com", 443, false),
            (&own, "sts.evil.eu-central-1.amazonaws.com", 443, false),
            (&own, "sts.eu-central-1.amazonaws.com.evil.example", 443, false),
            (&own, "sts.eu-central-1.amazonaws.community", 443, false),
            (&own, "sts.eu-central-1.amazonaws.com.", 443, false),
            (&own, "sts.amazonaws.com", 443, false),
            (&own, "sts..amazonaws.com", 443, false),
            (&own, "sts.EU.amazonaws.com", 443, false),
            (&own, "sts.-a.amazonaws.com", 443, false),
            (&own, "sts.a-.amazonaws.com", 443, false),
            (&own, "sts.1a.amazonaws.com", 443, false),
            (&own, "sts.a/b.amazonaws.com", 443, false),
            (&own, "sts", 443, false),
            (&own, "169.254.169.254", 443, false),
        ] {
            let reach = Reach::of(target, None).expect("a target");
            let request = Request::new(host, port).expect("a request");
            assert_eq!(reach.allows(&request), allowed, "{host}:{port} of {reach:?}");
        }
    }

    #[test]
    fn a_subscription_reaches_the_two_hosts_of_its_own_cloud() {
        let azure = |cloud: &str, endpoint_url: &str| v1::Target {
            kind: Some(Target::Azure(v1::AzureTarget {
                cloud: cloud.into(),
                endpoint_url: endpoint_url.into(),
                ..Default::default()
            })),
        };
        let may = |target: &v1::Target, host: &str, port| {
            Reach::of(target, None).expect("a target").allows(&Request::new(host, port).expect("a request"))
        };
        for (cloud, management, logs) in [
            ("public", "management.azure.com", "api.loganalytics.azure.com"),
            ("usgovernment", "management.usgovcloudapi.net", "api.loganalytics.us"),
            ("china", "management.chinacloudapi.cn", "api.loganalytics.azure.cn"),
        ] {
            let target = azure(cloud, "");
            for host in [management, logs] {
                assert!(may(&target, host, 443) && !may(&target, host, 80), "{host}");
                assert!(!may(&azure("public", "http://127.0.0.1:5000"), host, 443), "{host}");
                assert_eq!(may(&azure("public", ""), host, 443), cloud == "public", "{host}");
                assert!(!may(&azure("mars", ""), host, 443), "{host}");
            }
            for host in [
                "login.microsoftonline.com",
                "x.management.azure.com",
                "management.azure.com.evil.example",
                "management.azure.com.",
                "vault.azure.net",
                "169.254.169.254",
                "127.0.0.1",
            ] {
                assert!(!may(&target, host, 443), "{host}");
            }
        }
        assert!(may(&azure("public", "http://127.0.0.1:5000"), "127.0.0.1", 5000));
    }

    #[test]
    fn a_request_to_aws_reaches_its_own_host_alone() {
        let what = |host: &str| What::AwsRequest(v1::AwsRequest { host: host.into(), ..Default::default() });
        let may = |target: &v1::Target, asked: &str, host: &str, port| {
            let reach = Reach::of(target, Some(&what(asked))).expect("a target");
            reach.allows(&Request::new(host, port).expect("a request"))
        };
        let (own, stand_in) = (aws(""), aws("http://127.0.0.1:5000"));
        let bucket = "b.s3.eu-central-1.amazonaws.com";
        assert!(may(&own, bucket, bucket, 443));
        for (host, port) in [
            (bucket, 80),
            ("c.s3.eu-central-1.amazonaws.com", 443),
            ("sts.eu-central-1.amazonaws.com", 443),
            ("169.254.169.254", 443),
            ("127.0.0.1", 5000),
        ] {
            assert!(!may(&own, bucket, host, port), "{host}:{port}");
        }
        for host in ["169.254.169.254", "metadata.google.internal", "x.eu-west-1.elb.amazonaws.com", "evil.example"] {
            assert!(!may(&own, host, host, 443) && !may(&own, host, host, 80), "{host}");
        }
        // the entry's own endpoint is where its requests go, whatever host they name
        assert!(may(&stand_in, bucket, "127.0.0.1", 5000) && !may(&stand_in, bucket, bucket, 443));
    }

    #[test]
    fn what_is_wrong_with_a_target_is_said_without_its_secrets() {
        let failure = Reach::of(&kubernetes("https://x", "ftp://u:s3cr3t@x"), None).expect_err("refused");
        assert_eq!(failure.code, Code::CredentialsUnavailable);
        assert!(
            failure.message.contains("the URL of the proxy") && !failure.to_string().contains("s3cr3t"),
            "{failure}"
        );
        assert!(Reach::of(&v1::Target::default(), None).is_err());
        for target in [kubernetes("nonsense", ""), kubernetes("", ""), aws("https://u:p@x")] {
            let reach = Reach::of(&target, None).expect("the worker's to name");
            assert!(!reach.allows(&Request::new("x", 443).expect("a request")), "{reach:?}");
        }
        let reach = Reach::of(&kubernetes("https://x", "http://u:s3cr3t@x"), None).expect("a target");
        assert!(!format!("{reach:?}").contains("s3cr3t"));
    }
}
