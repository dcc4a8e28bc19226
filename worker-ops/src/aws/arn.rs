//! What an ARN says of the resource that it names: `arn:partition:service:region:account:resource`,
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html>.

use shared_proto::aws::Partition;
use shared_proto::documents::Resource;
use std::collections::BTreeMap;

/// Who IAM knows a caller as: of a session of a role the role. Its path is not in the session's ARN.
pub(super) fn principal(caller: &str) -> String {
    let session = caller.split_once(":sts::").and_then(|(partition, rest)| {
        let (account, role) = rest.split_once(":assumed-role/")?;
        Some(format!("{partition}:iam::{account}:role/{}", role.split('/').next()?))
    });
    session.unwrap_or_else(|| caller.to_owned())
}

/// By what a type's resource is known to `GetResource`, of what stands in its ARN.
#[derive(Clone, Copy)]
enum Known {
    /// All of it.
    Arn,
    /// What stands behind the kind.
    Rest,
    /// What stands last.
    Last,
    /// A queue's URL.
    Queue,
}

/// Services and kinds with the types of the table that they are.
const TYPES: [(&str, &str, &str, Known); 22] = [
    ("ec2", "instance", "AWS::EC2::Instance", Known::Rest),
    ("ec2", "vpc", "AWS::EC2::VPC", Known::Rest),
    ("ec2", "subnet", "AWS::EC2::Subnet", Known::Rest),
    ("ec2", "security-group", "AWS::EC2::SecurityGroup", Known::Rest),
    ("elasticloadbalancing", "loadbalancer", "AWS::ElasticLoadBalancingV2::LoadBalancer", Known::Arn),
    ("ecs", "cluster", "AWS::ECS::Cluster", Known::Rest),
    ("ecs", "service", "AWS::ECS::Service", Known::Arn),
    ("eks", "cluster", "AWS::EKS::Cluster", Known::Rest),
    ("rds", "db", "AWS::RDS::DBInstance", Known::Rest),
    ("rds", "cluster", "AWS::RDS::DBCluster", Known::Rest),
    ("lambda", "function", "AWS::Lambda::Function", Known::Rest),
    ("s3", "", "AWS::S3::Bucket", Known::Rest),
    ("iam", "role", "AWS::IAM::Role", Known::Last),
    ("iam", "user", "AWS::IAM::User", Known::Last),
    ("cloudformation", "stack", "AWS::CloudFormation::Stack", Known::Arn),
    ("route53", "hostedzone", "AWS::Route53::HostedZone", Known::Rest),
    ("sqs", "", "AWS::SQS::Queue", Known::Queue),
    ("sns", "", "AWS::SNS::Topic", Known::Arn),
    ("dynamodb", "table", "AWS::DynamoDB::Table", Known::Rest),
    ("ecr", "repository", "AWS::ECR::Repository", Known::Rest),
    ("secretsmanager", "secret", "AWS::SecretsManager::Secret", Known::Arn),
    ("cloudwatch", "alarm", "AWS::CloudWatch::Alarm", Known::Rest),
];

/// An ARN; of what is none, all is the resource.
#[derive(Debug, Default)]
pub(super) struct Arn<'a> {
    whole: &'a str,
    service: &'a str,
    region: &'a str,
    account: &'a str,
    /// Empty: its service has none.
    kind: &'a str,
    /// What stands behind the kind.
    rest: &'a str,
}

// === impl Arn ===

impl<'a> Arn<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let parts: Vec<_> = text.splitn(6, ':').collect();
        let ["arn", _, service, region, account, resource] = parts.as_slice() else {
            return Self { whole: text, rest: text, ..Self::default() };
        };
        // buckets, queues and topics have no kind before their names
        let (kind, rest) = match resource.split_once(['/', ':']) {
            Some((kind, rest)) if !matches!(*service, "s3" | "sqs" | "sns") && !kind.is_empty() => (kind, rest),
            _ => ("", *resource),
        };
        Self { whole: text, service, region, account, kind, rest }
    }

    /// What stands last in it.
    pub(super) fn last(&self) -> &'a str {
        if self.service.is_empty() { self.whole } else { self.rest.rsplit(['/', ':']).next().unwrap_or_default() }
    }

    /// What people call it: some services put ids of their own behind that.
    fn name(&self) -> &'a str {
        let name = match (self.service, self.kind) {
            ("elasticloadbalancing", "loadbalancer") => self.rest.split('/').nth(1),
            ("cloudformation", "stack") => self.rest.split('/').next(),
            // a dash and six characters
            ("secretsmanager", "secret") => self.rest.rsplit_once('-').map(|(name, _)| name),
            _ => None,
        };
        name.unwrap_or_else(|| self.last())
    }

    /// The resource, as far as its ARN and its tags say it. A type that is in no table is named by service and kind.
    pub(super) fn resource(&self, tags: BTreeMap<String, String>) -> Resource {
        // a load balancer of before has nothing but its name there
        let older = self.service == "elasticloadbalancing" && !self.rest.contains('/');
        let known = TYPES.iter().find(|(service, kind, ..)| (*service, *kind) == (self.service, self.kind) && !older);
        let type_name = match known {
            Some((_, _, name, _)) => (*name).to_owned(),
            None if self.kind.is_empty() => self.service.to_owned(),
            None => format!("{}:{}", self.service, self.kind),
        };
        let identifier = match known.map(|(.., known)| *known) {
            Some(Known::Rest) => self.rest.to_owned(),
            Some(Known::Last) => self.last().to_owned(),
            Some(Known::Queue) => {
                let (region, domain) = (self.region, Partition::of(self.region).domain);
                format!("https://sqs.{region}.{domain}/{}/{}", self.account, self.rest)
            }
            Some(Known::Arn) | None => String::new(),
        };
        let named = tags.get("Name").filter(|name| self.service == "ec2" && !name.is_empty());
        let name = match (named, known) {
            (Some(name), _) => name,
            (None, Some((.., Known::Rest))) => self.rest,
            _ => self.name(),
        };
        Resource {
            type_name,
            id: self.whole.to_owned(),
            name: name.to_owned(),
            location: self.region.to_owned(),
            identifier,
            tags,
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::kinds::KINDS;

    #[test]
    fn what_an_arn_says() {
        for (arn, type_name, name, region, identifier) in [
            ("arn:aws:s3:::b.x", "AWS::S3::Bucket", "b.x", "", "b.x"),
            ("arn:aws:ec2:eu-west-1:1:instance/i-1", "AWS::EC2::Instance", "i-1", "eu-west-1", "i-1"),
            ("arn:aws:ec2:eu-west-1:1:volume/vol-1", "ec2:volume", "vol-1", "eu-west-1", ""),
            ("arn:aws:rds:eu-west-1:1:db:x", "AWS::RDS::DBInstance", "x", "eu-west-1", "x"),
            (
                "arn:aws-cn:sqs:cn-north-1:1:q",
                "AWS::SQS::Queue",
                "q",
                "cn-north-1",
                "https://sqs.cn-north-1.amazonaws.com.cn/1/q",
            ),
            ("arn:aws:sns:eu-west-1:1:t", "AWS::SNS::Topic", "t", "eu-west-1", ""),
            ("arn:aws:iam::1:role/service/r", "AWS::IAM::Role", "r", "", "r"),
            (
                "arn:aws:ecr:eu-west-1:1:repository/team/app",
                "AWS::ECR::Repository",
                "team/app",
                "eu-west-1",
                "team/app",
            ),
            ("arn:aws:cloudwatch:eu-west-1:1:alarm:a/b", "AWS::CloudWatch::Alarm", "a/b", "eu-west-1", "a/b"),
            (
                "arn:aws:elasticloadbalancing:eu-west-1:1:loadbalancer/classic",
                "elasticloadbalancing:loadbalancer",
                "classic",
                "eu-west-1",
                "",
            ),
            (
                "arn:aws:elasticloadbalancing:eu-west-1:1:loadbalancer/app/web/50dc6c495c0c9188",
                "AWS::ElasticLoadBalancingV2::LoadBalancer",
                "web",
                "eu-west-1",
                "",
            ),
            ("arn:aws:cloudformation:eu-west-1:1:stack/s/1-2", "AWS::CloudFormation::Stack", "s", "eu-west-1", ""),
            (
                "arn:aws:secretsmanager:eu-west-1:1:secret:app/x-y-AbCdEf",
                "AWS::SecretsManager::Secret",
                "app/x-y",
                "eu-west-1",
                "",
            ),
            ("nonsense", "", "nonsense", "", ""),
        ] {
            let got = Arn::parse(arn).resource(BTreeMap::new());
            assert_eq!(
                (got.type_name.as_str(), got.name.as_str(), got.location.as_str(), got.identifier.as_str()),
                (type_name, name, region, identifier),
                "{arn}"
            );
        }
        let tags = BTreeMap::from([("Name".to_owned(), "web".to_owned())]);
        assert_eq!(Arn::parse("arn:aws:ec2:eu-west-1:1:instance/i-1").resource(tags).name, "web");
    }

    #[test]
    fn whoever_has_a_session_is_its_role() {
        for (caller, known) in [
            ("arn:aws:sts::1:assumed-role/runner/jo@example.com", "arn:aws:iam::1:role/runner"),
            ("arn:aws-cn:sts::1:assumed-role/r/s", "arn:aws-cn:iam::1:role/r"),
            ("arn:aws:iam::1:user/team/jo", "arn:aws:iam::1:user/team/jo"),
            ("arn:aws:sts::1:federated-user/jo", "arn:aws:sts::1:federated-user/jo"),
        ] {
            assert_eq!(principal(caller), known);
        }
    }

    #[test]
    fn every_type_of_the_table_has_its_arn() {
        let known: Vec<_> = TYPES.iter().map(|(_, _, name, _)| *name).collect();
        assert_eq!(known, KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>());
    }
}
