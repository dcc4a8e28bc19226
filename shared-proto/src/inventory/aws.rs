//! Types of AWS, as CloudFormation names them; what each is asked by, where, and which permission of IAM that needs.

use super::{Call, Type, calls};
use crate::aws::{Endpoint, Partition};
use crate::v1::operation_request::What;
use std::collections::BTreeSet;

/// The Tagging API, for types whose own lists do not tell their tags.
const TAGS: &str = "tag:GetResources";

/// Whatever has tags, of any type, by the Resource Groups Tagging API.
pub(super) const TAGGED: &[Type] = &[Type { name: "tagged", service: "tag", operations: &["GetResources"] }];

const fn of(name: &'static str, service: &'static str, operations: &'static [&'static str]) -> Type {
    Type { name, service, operations }
}

/// Those that are listed where none is named.
pub(super) const TYPES: &[Type] = &[
    of("AWS::EC2::Instance", "ec2", &["DescribeInstances"]),
    of("AWS::EC2::VPC", "ec2", &["DescribeVpcs"]),
    of("AWS::EC2::Subnet", "ec2", &["DescribeSubnets"]),
    of("AWS::EC2::SecurityGroup", "ec2", &["DescribeSecurityGroups"]),
    of("AWS::ElasticLoadBalancingV2::LoadBalancer", "elasticloadbalancing", &["DescribeLoadBalancers", TAGS]),
    of("AWS::ECS::Cluster", "ecs", &["ListClusters", "DescribeClusters"]),
    of("AWS::ECS::Service", "ecs", &["ListClusters", "ListServices", "DescribeServices"]),
    of("AWS::EKS::Cluster", "eks", &["ListClusters", "DescribeCluster"]),
    of("AWS::RDS::DBInstance", "rds", &["DescribeDBInstances"]),
    of("AWS::RDS::DBCluster", "rds", &["DescribeDBClusters"]),
    of("AWS::Lambda::Function", "lambda", &["ListFunctions", TAGS]),
    of("AWS::S3::Bucket", "s3", &["ListBuckets", "GetBucketLocation", TAGS]),
    of("AWS::IAM::Role", "iam", &["ListRoles", "ListRoleTags"]),
    of("AWS::IAM::User", "iam", &["ListUsers", "ListUserTags"]),
    of("AWS::CloudFormation::Stack", "cloudformation", &["DescribeStacks"]),
    of("AWS::Route53::HostedZone", "route53", &["ListHostedZones", "ListTagsForResource"]),
    of("AWS::SQS::Queue", "sqs", &["ListQueues", TAGS]),
    of("AWS::SNS::Topic", "sns", &["ListTopics", TAGS]),
    of("AWS::DynamoDB::Table", "dynamodb", &["ListTables", "DescribeTable", TAGS]),
    of("AWS::ECR::Repository", "ecr", &["DescribeRepositories", TAGS]),
    of("AWS::SecretsManager::Secret", "secretsmanager", &["ListSecrets"]),
    of("AWS::CloudWatch::Alarm", "cloudwatch", &["DescribeAlarms", TAGS]),
];

/// Those of [`TYPES`] that are in no region.
const GLOBAL: [&str; 3] = ["AWS::IAM::Role", "AWS::IAM::User", "AWS::Route53::HostedZone"];

/// What operations ask besides the lists of types: service and operation, as rules of the policy name them.
const WHO: (&str, &str) = ("sts", "GetCallerIdentity");
const REGIONS: (&str, &str) = ("ec2", "DescribeRegions");
const CLOUD_CONTROL: [&str; 2] = ["ListResources", "GetResource"];
const LOGS: [&str; 3] = ["DescribeLogGroups", "DescribeLogStreams", "FilterLogEvents"];

/// Every service that operations ask, by the names that requests to it are signed for.
pub fn services() -> BTreeSet<&'static str> {
    let asked = TYPES.iter().flat_map(|t| calls("aws", t.name));
    let mut all: BTreeSet<_> = asked.filter_map(|call| signing(&call)).collect();
    all.extend([WHO.0, REGIONS.0, "cloudcontrolapi", "tagging", "logs"]);
    all
}

/// For which service a call is signed: not always the one that policies name.
fn signing(call: &Call) -> Option<&'static str> {
    let known = ["ec2", "ecs", "eks", "elasticloadbalancing", "rds", "lambda", "s3", "iam", "route53", "sqs", "sns"];
    let operation = call.operation.as_deref().unwrap_or_default();
    Some(match call.service.as_str() {
        "cloudwatch" => "monitoring",
        "tag" => "tagging",
        "cloudformation" if CLOUD_CONTROL.contains(&operation) => "cloudcontrolapi",
        "cloudformation" => "cloudformation",
        "dynamodb" => "dynamodb",
        "ecr" => "ecr",
        "secretsmanager" => "secretsmanager",
        service => known.into_iter().find(|k| *k == service)?,
    })
}

/// Whether resources of a type are in no region.
pub fn is_global(type_name: &str) -> bool {
    GLOBAL.iter().any(|t| t.eq_ignore_ascii_case(type_name))
}

/// Whether resources of a type stand in the list of a region. What is in no region stands in that of the partition's home, and in the one
/// of a request that names no place: in a list over all regions once.
pub fn is_listed(type_name: &str, place: &str, region: &str) -> bool {
    !is_global(type_name) || place.is_empty() || Partition::of(region).home == region
}

/// Where an operation asks, in that region: these hosts and no others. Of an operation that is none of these: none.
pub fn asked(what: &What, region: &str) -> Vec<Endpoint> {
    let in_region = |services: &[&'static str]| services.iter().map(|s| Endpoint::of(s, region)).collect::<Vec<_>>();
    match what {
        What::ConnectionTest(_) | What::WhoAmI(_) => in_region(&["sts"]),
        What::ListPlaces(_) => in_region(&["ec2"]),
        What::GetResource(_) => in_region(&["cloudcontrolapi"]),
        What::ListLogs(_) | What::ReadLogs(_) => in_region(&["logs"]),
        What::ProbePermissions(probe) => {
            // IAM is asked what it allows
            let mut names: BTreeSet<_> = needed(&probe.purpose).iter().filter_map(signing).collect();
            names.insert("iam");
            in_region(&names.into_iter().collect::<Vec<_>>())
        }
        What::ListResources(list) => {
            let here = list.types.iter().filter(|t| is_listed(t, &list.place, region));
            let mut names = BTreeSet::new();
            names.extend(here.flat_map(|t| calls("aws", t)).filter_map(|call| signing(&call)));
            // a list by Cloud Control looks at each resource whose tags are asked for: one service either way
            in_region(&names.into_iter().collect::<Vec<_>>())
        }
        _ => Vec::new(),
    }
}

/// The permission of IAM that an operation needs, where it is not called like the operation.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html>
pub fn action(call: &Call) -> String {
    match (call.service.as_str(), call.operation.as_deref()) {
        ("s3", Some("ListBuckets")) => "s3:ListAllMyBuckets".to_owned(),
        (service, operation) => format!("{service}:{}", operation.unwrap_or("*")),
    }
}

/// All that is called for a purpose: `browse` is who, regions and every type's list; `logs` is to read logs.
fn needed(purpose: &str) -> Vec<Call> {
    let one = |service: &str, operation: &str| Call { service: service.into(), operation: Some(operation.into()) };
    let mut all = vec![one(WHO.0, WHO.1), one(REGIONS.0, REGIONS.1)];
    match purpose {
        "logs" => all.extend(LOGS.map(|operation| one("logs", operation))),
        _ => {
            all.extend(TYPES.iter().flat_map(|t| calls("aws", t.name)));
            all.extend(CLOUD_CONTROL.map(|operation| one("cloudformation", operation)));
        }
    }
    all
}

/// What IAM has to allow for a purpose, each once, in order.
pub fn actions(purpose: &str) -> BTreeSet<String> {
    needed(purpose).iter().map(action).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::operation_of;
    use crate::v1;

    fn hosts(what: &What, region: &str) -> Vec<String> {
        asked(what, region).into_iter().map(|e| e.host).collect()
    }
    fn list(types: &[&str], place: &str) -> What {
        let types = types.iter().map(|t| (*t).to_owned()).collect();
        What::ListResources(v1::ListResources { types, place: place.into(), ..Default::default() })
    }

    #[test]
    fn every_operation_is_one_of_the_published_models() {
        for t in TYPES.iter().chain(TAGGED) {
            for call in calls("aws", t.name) {
                let (signing, operation) = (signing(&call).expect(t.name), call.operation.expect(t.name));
                assert!(operation_of(signing, &operation).is_some(), "{signing}:{operation} of {}", t.name);
            }
        }
        for (service, operation) in LOGS.map(|o| ("logs", o)).into_iter().chain([WHO, REGIONS]) {
            assert!(operation_of(service, operation).is_some(), "{service}:{operation}");
        }
    }

    #[test]
    fn a_list_asks_where_its_types_are_and_nowhere_else() {
        assert_eq!(
            hosts(&list(&["AWS::SQS::Queue"], "eu-west-1"), "eu-west-1"),
            ["sqs.eu-west-1.amazonaws.com", "tagging.eu-west-1.amazonaws.com"]
        );
        assert_eq!(
            hosts(&list(&["AWS::EC2::VPC", "AWS::EC2::Subnet"], ""), "cn-north-1"),
            ["ec2.cn-north-1.amazonaws.com.cn"]
        );
        assert_eq!(hosts(&list(&["AWS::Glue::Job"], ""), "eu-west-1"), ["cloudcontrolapi.eu-west-1.amazonaws.com"]);
        assert_eq!(hosts(&list(&["tagged"], ""), "eu-west-1"), ["tagging.eu-west-1.amazonaws.com"]);
        assert_eq!(hosts(&list(&["AWS::ECR::Repository"], ""), "eu-west-1")[0], "api.ecr.eu-west-1.amazonaws.com");
        assert!(hosts(&list(&[], ""), "eu-west-1").is_empty());
        let logs = What::ReadLogs(v1::ReadLogs::default());
        assert_eq!(hosts(&logs, "eu-west-1"), ["logs.eu-west-1.amazonaws.com"]);
        assert!(hosts(&What::AwsRequest(v1::AwsRequest::default()), "eu-west-1").is_empty());
    }

    #[test]
    fn what_is_in_no_region_is_in_one_list() {
        for (place, region, listed) in [
            ("us-east-1", "us-east-1", true),
            ("eu-west-1", "eu-west-1", false),
            ("", "eu-west-1", true),
            ("cn-north-1", "cn-north-1", true),
            ("cn-northwest-1", "cn-northwest-1", false),
        ] {
            assert_eq!(is_listed("aws::iam::role", place, region), listed, "{place} {region}");
            assert!(is_listed("AWS::EC2::VPC", place, region));
            let got = hosts(&list(&["AWS::IAM::User"], place), region);
            assert_eq!(got.len(), usize::from(listed), "{got:?}");
        }
        let roles = list(&["AWS::IAM::Role", "AWS::Route53::HostedZone"], "");
        assert_eq!(hosts(&roles, "eu-west-1"), ["iam.amazonaws.com", "route53.amazonaws.com"]);
    }

    #[test]
    fn permissions_are_called_as_iam_calls_them() {
        let browse = actions("browse");
        for has in
            ["s3:ListAllMyBuckets", "tag:GetResources", "cloudwatch:DescribeAlarms", "cloudformation:GetResource"]
        {
            assert!(browse.contains(has), "{has}");
        }
        // nobody needs a value of a secret to see that it is there
        assert!(!browse.iter().any(|a| a == "s3:ListBuckets" || a.contains("GetSecretValue") || a.contains('*')));
        assert!(actions("logs").contains("logs:FilterLogEvents") && !actions("logs").contains("ec2:DescribeVpcs"));
    }
}
