//! The types, in the order of shared-proto's table.

use super::{CALL, Call, Details, KIND, Kind, S3, Sent, Tags};
use crate::aws::connect::{IAM, Protocol, Service};

const ELB: Service = Service { signing: "elasticloadbalancing", protocol: Protocol::Query("2015-12-01") };
const ECS: Service = Service { signing: "ecs", protocol: Protocol::Json("1.1", "AmazonEC2ContainerServiceV20141113") };
const EKS: Service = Service { signing: "eks", protocol: Protocol::Rest };
const RDS: Service = Service { signing: "rds", protocol: Protocol::Query("2014-10-31") };
const LAMBDA: Service = Service { signing: "lambda", protocol: Protocol::Rest };
const CLOUDFORMATION: Service = Service { signing: "cloudformation", protocol: Protocol::Query("2010-05-15") };
const ROUTE53: Service = Service { signing: "route53", protocol: Protocol::Rest };
const SQS: Service = Service { signing: "sqs", protocol: Protocol::Json("1.0", "AmazonSQS") };
const SNS: Service = Service { signing: "sns", protocol: Protocol::Query("2010-03-31") };
const DYNAMODB: Service = Service { signing: "dynamodb", protocol: Protocol::Json("1.0", "DynamoDB_20120810") };
const ECR: Service =
    Service { signing: "ecr", protocol: Protocol::Json("1.1", "AmazonEC2ContainerRegistry_V20150921") };
const SECRETS: Service = Service { signing: "secretsmanager", protocol: Protocol::Json("1.1", "secretsmanager") };
const CLOUDWATCH: Service = Service { signing: "monitoring", protocol: Protocol::Query("2010-08-01") };

const ECS_CLUSTERS: Call = Call {
    operation: "ListClusters",
    with: &[("maxResults", "100")],
    next: ("nextToken", "nextToken"),
    items: "clusterArns",
    ..CALL
};
const EC2_CALL: Call = Call { with: &[("MaxResults", "200")], next: ("NextToken", "nextToken"), ..CALL };

/// All of them.
pub(in crate::aws) const KINDS: &[Kind] = &[
    Kind {
        name: "AWS::EC2::Instance",
        list: Call {
            operation: "DescribeInstances",
            items: "reservationSet/item",
            within: "instancesSet/item",
            ..EC2_CALL
        },
        id: "arn:{partition}:ec2:{region}:{ownerId}:instance/{instanceId}",
        identifier: "{instanceId}",
        title: "instanceId",
        state: "instanceState/name",
        created: "launchTime",
        tags: Tags::At("tagSet/item"),
        link: "ec2/home?region={region}#InstanceDetails:instanceId={instanceId}",
        ..KIND
    },
    Kind {
        name: "AWS::EC2::VPC",
        list: Call { operation: "DescribeVpcs", items: "vpcSet/item", ..EC2_CALL },
        id: "arn:{partition}:ec2:{region}:{ownerId}:vpc/{vpcId}",
        identifier: "{vpcId}",
        title: "vpcId",
        state: "state",
        tags: Tags::At("tagSet/item"),
        link: "vpcconsole/home?region={region}#VpcDetails:VpcId={vpcId}",
        ..KIND
    },
    Kind {
        name: "AWS::EC2::Subnet",
        list: Call { operation: "DescribeSubnets", items: "subnetSet/item", ..EC2_CALL },
        id: "arn:{partition}:ec2:{region}:{ownerId}:subnet/{subnetId}",
        identifier: "{subnetId}",
        title: "subnetId",
        state: "state",
        tags: Tags::At("tagSet/item"),
        link: "vpcconsole/home?region={region}#SubnetDetails:subnetId={subnetId}",
        ..KIND
    },
    Kind {
        name: "AWS::EC2::SecurityGroup",
        list: Call { operation: "DescribeSecurityGroups", items: "securityGroupInfo/item", ..EC2_CALL },
        id: "arn:{partition}:ec2:{region}:{ownerId}:security-group/{groupId}",
        identifier: "{groupId}",
        title: "groupName",
        tags: Tags::At("tagSet/item"),
        link: "ec2/home?region={region}#SecurityGroup:groupId={groupId}",
        ..KIND
    },
    Kind {
        name: "AWS::ElasticLoadBalancingV2::LoadBalancer",
        service: ELB,
        list: Call {
            operation: "DescribeLoadBalancers",
            with: &[("PageSize", "100")],
            next: ("Marker", "DescribeLoadBalancersResult/NextMarker"),
            items: "DescribeLoadBalancersResult/LoadBalancers/member",
            ..CALL
        },
        id: "{LoadBalancerArn}",
        title: "LoadBalancerName",
        state: "State/Code",
        created: "CreatedTime",
        tags: Tags::Tagging("elasticloadbalancing:loadbalancer"),
        link: "ec2/home?region={region}#LoadBalancer:loadBalancerArn={LoadBalancerArn}",
        ..KIND
    },
    Kind {
        name: "AWS::ECS::Cluster",
        service: ECS,
        list: ECS_CLUSTERS,
        details: Details::Batch(
            Call { operation: "DescribeClusters", items: "clusters", ..CALL },
            Sent { name: "clusters", from: "" },
            100,
        ),
        id: "{clusterArn}",
        identifier: "{clusterName}",
        title: "clusterName",
        state: "status",
        tags: Tags::At("tags"),
        link: "ecs/v2/clusters/{clusterName}/services?region={region}",
        ..KIND
    },
    Kind {
        name: "AWS::ECS::Service",
        service: ECS,
        parents: Some((ECS_CLUSTERS, Sent { name: "cluster", from: "" })),
        list: Call {
            operation: "ListServices",
            with: &[("maxResults", "100")],
            next: ("nextToken", "nextToken"),
            items: "serviceArns",
            ..CALL
        },
        details: Details::Batch(
            Call { operation: "DescribeServices", items: "services", ..CALL },
            Sent { name: "services", from: "" },
            10,
        ),
        id: "{serviceArn}",
        identifier: "{serviceArn}|{clusterArn}",
        title: "serviceName",
        state: "status",
        created: "createdAt",
        tags: Tags::At("tags"),
        link: "ecs/v2/clusters/{last:clusterArn}/services/{serviceName}/health?region={region}",
    },
    Kind {
        name: "AWS::EKS::Cluster",
        service: EKS,
        list: Call {
            operation: "ListClusters",
            path: "/clusters",
            with: &[("maxResults", "100")],
            next: ("nextToken", "nextToken"),
            items: "clusters",
            ..CALL
        },
        details: Details::Each(
            Call { operation: "DescribeCluster", path: "/clusters/{}", items: "cluster", ..CALL },
            Sent { name: "", from: "" },
        ),
        id: "{arn}",
        identifier: "{name}",
        title: "name",
        state: "status",
        created: "createdAt",
        tags: Tags::At("tags"),
        link: "eks/home?region={region}#/clusters/{name}",
        ..KIND
    },
    Kind {
        name: "AWS::RDS::DBInstance",
        service: RDS,
        list: Call {
            operation: "DescribeDBInstances",
            with: &[("MaxRecords", "100")],
            next: ("Marker", "DescribeDBInstancesResult/Marker"),
            items: "DescribeDBInstancesResult/DBInstances/DBInstance",
            ..CALL
        },
        id: "{DBInstanceArn}",
        identifier: "{DBInstanceIdentifier}",
        title: "DBInstanceIdentifier",
        state: "DBInstanceStatus",
        created: "InstanceCreateTime",
        tags: Tags::At("TagList/Tag"),
        link: "rds/home?region={region}#database:id={DBInstanceIdentifier};is-cluster=false",
        ..KIND
    },
    Kind {
        name: "AWS::RDS::DBCluster",
        service: RDS,
        list: Call {
            operation: "DescribeDBClusters",
            with: &[("MaxRecords", "100")],
            next: ("Marker", "DescribeDBClustersResult/Marker"),
            items: "DescribeDBClustersResult/DBClusters/DBCluster",
            ..CALL
        },
        id: "{DBClusterArn}",
        identifier: "{DBClusterIdentifier}",
        title: "DBClusterIdentifier",
        state: "Status",
        created: "ClusterCreateTime",
        tags: Tags::At("TagList/Tag"),
        link: "rds/home?region={region}#database:id={DBClusterIdentifier};is-cluster=true",
        ..KIND
    },
    Kind {
        name: "AWS::Lambda::Function",
        service: LAMBDA,
        list: Call {
            operation: "ListFunctions",
            path: "/2015-03-31/functions",
            with: &[("MaxItems", "50")],
            next: ("Marker", "NextMarker"),
            items: "Functions",
            ..CALL
        },
        id: "{FunctionArn}",
        identifier: "{FunctionName}",
        title: "FunctionName",
        state: "State",
        tags: Tags::Tagging("lambda:function"),
        link: "lambda/home?region={region}#/functions/{FunctionName}",
        ..KIND
    },
    Kind {
        name: "AWS::S3::Bucket",
        service: S3,
        list: Call {
            operation: "ListBuckets",
            path: "/",
            with: &[("max-buckets", "1000"), ("bucket-region", "{region}")],
            next: ("continuation-token", "ContinuationToken"),
            items: "Buckets/Bucket",
            ..CALL
        },
        id: "arn:{partition}:s3:::{Name}",
        identifier: "{Name}",
        title: "Name",
        created: "CreationDate",
        tags: Tags::Tagging("s3"),
        link: "s3/buckets/{Name}?region={region}",
        ..KIND
    },
    Kind {
        name: "AWS::IAM::Role",
        service: IAM,
        list: Call {
            operation: "ListRoles",
            with: &[("MaxItems", "200")],
            next: ("Marker", "ListRolesResult/Marker"),
            items: "ListRolesResult/Roles/member",
            ..CALL
        },
        id: "{Arn}",
        identifier: "{RoleName}",
        title: "RoleName",
        created: "CreateDate",
        tags: Tags::Each(
            Call { operation: "ListRoleTags", items: "ListRoleTagsResult/Tags/member", ..CALL },
            Sent { name: "RoleName", from: "RoleName" },
        ),
        link: "iam/home#/roles/details/{RoleName}",
        ..KIND
    },
    Kind {
        name: "AWS::IAM::User",
        service: IAM,
        list: Call {
            operation: "ListUsers",
            with: &[("MaxItems", "200")],
            next: ("Marker", "ListUsersResult/Marker"),
            items: "ListUsersResult/Users/member",
            ..CALL
        },
        id: "{Arn}",
        identifier: "{UserName}",
        title: "UserName",
        created: "CreateDate",
        tags: Tags::Each(
            Call { operation: "ListUserTags", items: "ListUserTagsResult/Tags/member", ..CALL },
            Sent { name: "UserName", from: "UserName" },
        ),
        link: "iam/home#/users/details/{UserName}",
        ..KIND
    },
    Kind {
        name: "AWS::CloudFormation::Stack",
        service: CLOUDFORMATION,
        list: Call {
            operation: "DescribeStacks",
            next: ("NextToken", "DescribeStacksResult/NextToken"),
            items: "DescribeStacksResult/Stacks/member",
            ..CALL
        },
        id: "{StackId}",
        title: "StackName",
        state: "StackStatus",
        created: "CreationTime",
        tags: Tags::At("Tags/member"),
        link: "cloudformation/home?region={region}#/stacks/stackinfo?stackId={StackId}",
        ..KIND
    },
    Kind {
        name: "AWS::Route53::HostedZone",
        service: ROUTE53,
        list: Call {
            operation: "ListHostedZones",
            path: "/2013-04-01/hostedzone",
            with: &[("maxitems", "100")],
            next: ("marker", "NextMarker"),
            items: "HostedZones/HostedZone",
            ..CALL
        },
        id: "arn:{partition}:route53:::hostedzone/{last:Id}",
        identifier: "{last:Id}",
        title: "Name",
        tags: Tags::Each(
            Call {
                operation: "ListTagsForResource",
                path: "/2013-04-01/tags/hostedzone/{}",
                items: "ResourceTagSet/Tags/Tag",
                ..CALL
            },
            Sent { name: "", from: "last:Id" },
        ),
        link: "route53/v2/hostedzones#ListRecordSets/{last:Id}",
        ..KIND
    },
    Kind {
        name: "AWS::SQS::Queue",
        service: SQS,
        list: Call {
            operation: "ListQueues",
            with: &[("MaxResults", "1000")],
            next: ("NextToken", "NextToken"),
            items: "QueueUrls",
            ..CALL
        },
        id: "arn:{partition}:sqs:{region}:{before:}:{last:}",
        identifier: "{}",
        title: "last:",
        tags: Tags::Tagging("sqs"),
        link: "sqs/v3/home?region={region}#/queues/{}",
        ..KIND
    },
    Kind {
        name: "AWS::SNS::Topic",
        service: SNS,
        list: Call {
            operation: "ListTopics",
            next: ("NextToken", "ListTopicsResult/NextToken"),
            items: "ListTopicsResult/Topics/member",
            ..CALL
        },
        id: "{TopicArn}",
        title: "last:TopicArn",
        tags: Tags::Tagging("sns"),
        link: "sns/v3/home?region={region}#/topic/{TopicArn}",
        ..KIND
    },
    Kind {
        name: "AWS::DynamoDB::Table",
        service: DYNAMODB,
        list: Call {
            operation: "ListTables",
            with: &[("Limit", "100")],
            next: ("ExclusiveStartTableName", "LastEvaluatedTableName"),
            items: "TableNames",
            ..CALL
        },
        details: Details::Each(
            Call { operation: "DescribeTable", items: "Table", ..CALL },
            Sent { name: "TableName", from: "" },
        ),
        id: "{TableArn}",
        identifier: "{TableName}",
        title: "TableName",
        state: "TableStatus",
        created: "CreationDateTime",
        tags: Tags::Tagging("dynamodb:table"),
        link: "dynamodbv2/home?region={region}#table?name={TableName}",
        ..KIND
    },
    Kind {
        name: "AWS::ECR::Repository",
        service: ECR,
        list: Call {
            operation: "DescribeRepositories",
            with: &[("maxResults", "500")],
            next: ("nextToken", "nextToken"),
            items: "repositories",
            ..CALL
        },
        id: "{repositoryArn}",
        identifier: "{repositoryName}",
        title: "repositoryName",
        created: "createdAt",
        tags: Tags::Tagging("ecr:repository"),
        link: "ecr/repositories/private/{registryId}/{repositoryName}?region={region}",
        ..KIND
    },
    Kind {
        name: "AWS::SecretsManager::Secret",
        service: SECRETS,
        list: Call {
            operation: "ListSecrets",
            with: &[("MaxResults", "100")],
            next: ("NextToken", "NextToken"),
            items: "SecretList",
            ..CALL
        },
        id: "{ARN}",
        title: "Name",
        created: "CreatedDate",
        tags: Tags::At("Tags"),
        link: "secretsmanager/secret?name={Name}&region={region}",
        ..KIND
    },
    Kind {
        name: "AWS::CloudWatch::Alarm",
        service: CLOUDWATCH,
        list: Call {
            operation: "DescribeAlarms",
            with: &[("MaxRecords", "100")],
            next: ("NextToken", "DescribeAlarmsResult/NextToken"),
            items: "DescribeAlarmsResult/MetricAlarms/member",
            ..CALL
        },
        id: "{AlarmArn}",
        identifier: "{AlarmName}",
        title: "AlarmName",
        state: "StateValue",
        tags: Tags::Tagging("cloudwatch:alarm"),
        link: "cloudwatch/home?region={region}#alarmsV2:alarm/{AlarmName}",
        ..KIND
    },
];
