//! What one operation's worker may be connected to: read out of its connection's target, before the worker is started.

use crate::net::proxy::Proxy;
use shared_proto::address::Address;
use shared_proto::aws::{Endpoint, Host, is_region};
use shared_proto::azure::{Cloud, is_vault};
use shared_proto::dial::Request;
use shared_proto::failure::{Code, Failure};
use shared_proto::inventory::{self, gcp};
use shared_proto::v1;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::target::Kind as Target;

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
    /// Any: a resolver has a network of its own as well, and asks here for those that are behind the runner's proxy.
    Any,
    /// These, by HTTPS: services of AWS, where the operation asks them.
    Some(Vec<String>),
    /// Services of Google Cloud, which have no regions in their hosts.
    Google(&'static [&'static str]),
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
    /// What the target says, and for AWS what is asked: a request's own host, which was found to be one of AWS' services, or the hosts of the
    /// services that an operation of ours asks, in its region.
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
                        Some(what) => of_operation(what, &target.region),
                        None => Hosts::None,
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
            Some(Target::Gcp(_)) => Ok(Self { hosts: Hosts::Google(of_google(what)), through: Through::Ours }),
            Some(Target::Azure(target)) => {
                let hosts = Cloud::from_name(&target.cloud).map_or(Hosts::None, Hosts::Azure);
                Ok(Self { hosts, through: Through::Ours })
            }
            None => Err(wrong("the connection has no target".to_owned())),
        }
    }

    /// Whatever a resolver asks on behalf of an entry of the runner's own configuration.
    pub(crate) fn of_resolver() -> Self {
        Self { hosts: Hosts::Any, through: Through::Ours }
    }

    /// What a store of secrets says: its service at the connection's target, or the Vault, whose address is the configuration's own.
    ///
    /// # Errors
    /// As of [`Self::of`].
    pub(crate) fn of_store(reads: &v1::SecretReads, target: Option<&v1::Target>) -> Result<Self, Failure> {
        let ours = |hosts| Self { hosts, through: Through::Ours };
        if let Some(vault) = &reads.vault {
            let hosts = match Address::parse(&vault.address) {
                Ok(Address { host, port, .. }) => Hosts::One { host, port },
                Err(_) => Hosts::None,
            };
            return Ok(ours(hosts));
        }
        let target = target.ok_or_else(|| Code::CredentialsUnavailable.on("the store has no target"))?;
        let region = |target: &v1::AwsTarget| match reads.place.as_str() {
            "" => target.region.clone(),
            place => place.to_owned(),
        };
        match (&target.kind, reads.kind.as_str()) {
            (Some(Target::Aws(of)), kind) if of.endpoint_url.is_empty() => {
                let service = match kind {
                    "aws-secrets-manager" => "secretsmanager",
                    "aws-ssm" => "ssm",
                    _ => return Ok(ours(Hosts::None)),
                };
                let region = region(of);
                // the worker says better what is wrong with it
                let host = is_region(&region).then(|| Endpoint::of(service, &region).host);
                Ok(ours(host.map_or(Hosts::None, |host| Hosts::Some(vec![host]))))
            }
            (Some(Target::Gcp(of)), "gcp") if of.endpoint_url.is_empty() => Ok(ours(Hosts::Google(&["secretmanager"]))),
            (Some(Target::Azure(of)), "azure") if of.endpoint_url.is_empty() => {
                let cloud = Cloud::from_name(&of.cloud).filter(|_| is_vault(&reads.vault_name));
                let host = cloud.map(|cloud| format!("{}.{}", reads.vault_name, cloud.vault()));
                Ok(ours(host.map_or(Hosts::None, |host| Hosts::Some(vec![host]))))
            }
            _ => Self::of(target, None),
        }
    }

    /// Whether that may be connected to.
    pub(super) fn allows(&self, request: &Request) -> bool {
        match &self.hosts {
            Hosts::None => false,
            Hosts::Any => true,
            Hosts::One { host, port } => request.host() == host && request.port() == *port,
            Hosts::Some(hosts) => request.port() == 443 && hosts.iter().any(|host| host == request.host()),
            Hosts::Google(services) => {
                let service = request.host().strip_suffix(".googleapis.com");
                request.port() == 443 && service.is_some_and(|s| services.contains(&s))
            }
            Hosts::Azure(cloud) => {
                request.port() == 443 && [cloud.management(), cloud.logs()].contains(&request.host())
            }
        }
    }
}

fn of_operation(what: &What, of_connection: &str) -> Hosts {
    let region = match inventory::place(what) {
        "" => of_connection,
        place => place,
    };
    // the worker says better what is wrong with it
    if !is_region(region) {
        return Hosts::None;
    }
    Hosts::Some(inventory::aws_asked(what, region).into_iter().map(|endpoint| endpoint.host).collect())
}

/// The services that an operation asks, by the first labels of their hosts.
fn of_google(what: Option<&What>) -> &'static [&'static str] {
    match what {
        Some(What::ConnectionTest(_)) => &["oauth2", "cloudresourcemanager"],
        Some(What::WhoAmI(_)) => &["oauth2"],
        Some(What::ListPlaces(_)) => &["cloudresourcemanager"],
        Some(What::ListResources(_) | What::GetResource(_)) => gcp::SERVICES,
        Some(What::ListLogs(_) | What::ReadLogs(_)) => &["logging"],
        _ => &[],
    }
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
            (&own, "sts.eu-central-1.amazonaws.com", 443, false),
            (&own, "169.254.169.254", 443, false),
        ] {
            let reach = Reach::of(target, None).expect("a target");
            let request = Request::new(host, port).expect("a request");
            assert_eq!(reach.allows(&request), allowed, "{host}:{port} of {reach:?}");
        }
    }

    #[test]
    fn an_operation_on_aws_reaches_the_services_that_it_asks_and_no_others() {
        let list = |types: &[&str], place: &str| {
            let types = types.iter().map(|t| (*t).to_owned()).collect();
            What::ListResources(v1::ListResources { types, place: place.into(), ..Default::default() })
        };
        let who = |place: &str| What::WhoAmI(v1::WhoAmI { place: place.into() });
        let places = What::ListPlaces(v1::ListPlaces::default());
        let get = What::GetResource(v1::GetResource { place: "us-gov-west-1".into(), ..Default::default() });
        let logs = What::ReadLogs(v1::ReadLogs { place: "cn-north-1".into(), ..Default::default() });
        let kinds = list(&["AWS::EC2::VPC", "AWS::SQS::Queue"], "");
        let home = list(&["AWS::IAM::Role", "AWS::Route53::HostedZone"], "us-east-1");
        for (what, host, port, allowed) in [
            (&who(""), "sts.eu-central-1.amazonaws.com", 443, true),
            (&who("eu-west-1"), "sts.eu-west-1.amazonaws.com", 443, true),
            (&who("eu-west-1"), "sts.eu-central-1.amazonaws.com", 443, false),
            (&who(""), "sts.eu-central-1.amazonaws.com", 80, false),
            (&who(""), "ec2.eu-central-1.amazonaws.com", 443, false),
            (&who(""), "sts.amazonaws.com", 443, false),
            (&who(""), "sts.eu-central-1.amazonaws.com.", 443, false),
            (&who(""), "sts.eu-central-1.amazonaws.com.evil.example", 443, false),
            (&who(""), "169.254.169.254", 443, false),
            (&who("x.evil.example/"), "sts.x.evil.example/.amazonaws.com", 443, false),
            (&who("EU"), "sts.EU.amazonaws.com", 443, false),
            (&places, "ec2.eu-central-1.amazonaws.com", 443, true),
            (&places, "sts.eu-central-1.amazonaws.com", 443, false),
            (&get, "cloudcontrolapi.us-gov-west-1.amazonaws.com", 443, true),
            (&logs, "logs.cn-north-1.amazonaws.com.cn", 443, true),
            (&logs, "ec2.cn-north-1.amazonaws.com.cn", 443, false),
            (&kinds, "ec2.eu-central-1.amazonaws.com", 443, true),
            (&kinds, "sqs.eu-central-1.amazonaws.com", 443, true),
            (&kinds, "tagging.eu-central-1.amazonaws.com", 443, true),
            (&kinds, "sns.eu-central-1.amazonaws.com", 443, false),
            (&kinds, "iam.amazonaws.com", 443, false),
            (&home, "iam.amazonaws.com", 443, true),
            (&home, "route53.amazonaws.com", 443, true),
            (&home, "ec2.us-east-1.amazonaws.com", 443, false),
            (&list(&["AWS::IAM::Role"], "eu-central-1"), "iam.amazonaws.com", 443, false),
            (&What::ConnectionTest(v1::ConnectionTest {}), "sts.eu-central-1.amazonaws.com", 443, true),
        ] {
            let target = v1::AwsTarget { region: "eu-central-1".into(), ..Default::default() };
            let target = v1::Target { kind: Some(Target::Aws(target)) };
            let reach = Reach::of(&target, Some(what)).expect("a target");
            // what no request to dial can name, nobody is connected to
            let reached = Request::new(host, port).is_ok_and(|request| reach.allows(&request));
            assert_eq!(reached, allowed, "{host}:{port} of {reach:?}");
        }
        // a stand-in is all of them
        let reach = Reach::of(&aws("http://127.0.0.1:5000"), Some(&kinds)).expect("a target");
        assert!(reach.allows(&Request::new("127.0.0.1", 5000).expect("a request")));
        assert!(!reach.allows(&Request::new("ec2.eu-central-1.amazonaws.com", 443).expect("a request")));
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
    fn an_operation_on_google_cloud_reaches_the_services_that_it_asks_and_no_other() {
        let google = |endpoint_url: &str| v1::Target {
            kind: Some(Target::Gcp(v1::GcpTarget { endpoint_url: endpoint_url.into(), ..Default::default() })),
        };
        let (own, stand_in) = (google(""), google("http://127.0.0.1:5000"));
        let may = |target: &v1::Target, what: Option<&What>, host: &str, port| {
            let reach = Reach::of(target, what).expect("a target");
            reach.allows(&Request::new(host, port).expect("a request"))
        };
        let operations = [
            What::ConnectionTest(Default::default()),
            What::WhoAmI(Default::default()),
            What::ListPlaces(Default::default()),
            What::ListResources(Default::default()),
            What::GetResource(Default::default()),
            What::ListLogs(Default::default()),
            What::ReadLogs(Default::default()),
        ];
        for (host, allowed) in [
            ("oauth2.googleapis.com", [true, true, false, false, false, false, false]),
            ("cloudresourcemanager.googleapis.com", [true, false, true, false, false, false, false]),
            ("cloudasset.googleapis.com", [false, false, false, true, true, false, false]),
            ("compute.googleapis.com", [false, false, false, true, true, false, false]),
            ("spanner.googleapis.com", [false, false, false, true, true, false, false]),
            ("logging.googleapis.com", [false, false, false, true, true, true, true]),
            // what gives tokens is the resolver's to ask
            ("sts.googleapis.com", [false; 7]),
            ("iamcredentials.googleapis.com", [false; 7]),
            ("compute.googleapis.com.", [false; 7]),
            ("x.compute.googleapis.com", [false; 7]),
            ("compute.googleapis.com.evil.example", [false; 7]),
            ("computexgoogleapis.com", [false; 7]),
            (".googleapis.com", [false; 7]),
            ("googleapis.com", [false; 7]),
            ("Compute.googleapis.com", [false; 7]),
            ("metadata.google.internal", [false; 7]),
            ("169.254.169.254", [false; 7]),
        ] {
            for (what, allowed) in operations.iter().zip(allowed) {
                assert_eq!(may(&own, Some(what), host, 443), allowed, "{host} for {what:?}");
                assert!(!may(&own, Some(what), host, 80) && !may(&stand_in, Some(what), host, 443), "{host}");
            }
            assert!(!may(&own, None, host, 443), "{host}");
        }
        assert!(may(&stand_in, Some(&operations[3]), "127.0.0.1", 5000) && !may(&stand_in, None, "127.0.0.1", 5001));
    }

    #[test]
    fn a_store_reaches_its_own_service_and_nothing_else() {
        let reads = |kind: &str, place: &str, vault_name: &str| v1::SecretReads {
            kind: kind.into(),
            place: place.into(),
            vault_name: vault_name.into(),
            ..Default::default()
        };
        let vault = v1::VaultTarget { address: "https://vault.example:8200".into(), ..Default::default() };
        let vault = v1::SecretReads { vault: Some(vault), ..reads("vault", "", "") };
        let own = v1::AwsTarget { region: "eu-central-1".into(), ..Default::default() };
        let own = v1::Target { kind: Some(Target::Aws(own)) };
        let stand_in = aws("http://127.0.0.1:5000");
        let google = v1::Target { kind: Some(Target::Gcp(v1::GcpTarget::default())) };
        let azure = v1::Target { kind: Some(Target::Azure(v1::AzureTarget::default())) };
        let cluster = kubernetes("https://api.example:6443", "");
        for (reads, target, host, port, allowed) in [
            (&vault, None, "vault.example", 8200, true),
            (&vault, None, "vault.example", 443, false),
            (&vault, None, "169.254.169.254", 80, false),
            (&reads("aws-ssm", "", ""), Some(&own), "ssm.eu-central-1.amazonaws.com", 443, true),
            (&reads("aws-ssm", "eu-west-1", ""), Some(&own), "ssm.eu-west-1.amazonaws.com", 443, true),
            (&reads("aws-ssm", "", ""), Some(&own), "secretsmanager.eu-central-1.amazonaws.com", 443, false),
            (&reads("aws-ssm", "", ""), Some(&own), "sts.eu-central-1.amazonaws.com", 443, false),
            (&reads("aws-secrets-manager", "", ""), Some(&own), "secretsmanager.eu-central-1.amazonaws.com", 443, true),
            (&reads("aws-secrets-manager", "", ""), Some(&stand_in), "127.0.0.1", 5000, true),
            (&reads("kubernetes", "", ""), Some(&own), "ssm.eu-central-1.amazonaws.com", 443, false),
            (&reads("gcp", "", ""), Some(&google), "secretmanager.googleapis.com", 443, true),
            (&reads("gcp", "", ""), Some(&google), "compute.googleapis.com", 443, false),
            (&reads("azure", "", "shop"), Some(&azure), "shop.vault.azure.net", 443, true),
            (&reads("azure", "", "shop"), Some(&azure), "other.vault.azure.net", 443, false),
            (&reads("azure", "", "shop"), Some(&azure), "management.azure.com", 443, false),
            (&reads("azure", "", "x.evil"), Some(&azure), "x.evil.vault.azure.net", 443, false),
            (&reads("kubernetes", "", ""), Some(&cluster), "api.example", 6443, true),
            (&reads("kubernetes", "", ""), Some(&cluster), "api.example", 443, false),
        ] {
            let reach = Reach::of_store(reads, target).expect("a target");
            let request = Request::new(host, port).expect("a request");
            assert_eq!(reach.allows(&request), allowed, "{host}:{port} of {reach:?}");
        }
        assert!(Reach::of_store(&reads("gcp", "", ""), None).is_err());
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
