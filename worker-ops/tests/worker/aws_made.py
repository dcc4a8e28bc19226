"""Makes one of each type that a runner lists, and some more, and prints what boto3's plain calls say of them."""
import io
import json
import sys
import zipfile

import boto3

MORE = int(sys.argv[1])
TAGS = {"team": "blue"}
CAPITAL = [{"Key": "team", "Value": "blue"}]
told = {}


def say(kind, id, name, tags=None, state="", identifier=""):
    told.setdefault(kind, []).append(
        {"id": id, "name": name, "tags": tags or {}, "state": state, "identifier": identifier or id})


def pairs(tags):
    return {(t.get("Key") or t.get("key")): (t.get("Value") or t.get("value") or "") for t in tags or []}


def pages(client, operation, key, **arguments):
    for page in client.get_paginator(operation).paginate(**arguments):
        yield from page.get(key) or []


ec2, elb, ecs, eks, rds, lambdas, s3, iam, cfn, route53, sqs, sns, dynamodb, ecr, secrets, cloudwatch = (
    boto3.client(service) for service in (
        "ec2", "elbv2", "ecs", "eks", "rds", "lambda", "s3", "iam", "cloudformation", "route53", "sqs", "sns", "dynamodb",
        "ecr", "secretsmanager", "cloudwatch"))
account = boto3.client("sts").get_caller_identity()["Account"]
region = ec2.meta.region_name
images = ec2.describe_images(Owners=["amazon"])["Images"]


def ec2_tags(kind, name="named"):
    return [{"ResourceType": kind, "Tags": CAPITAL + [{"Key": "Name", "Value": name}]}]


vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16", TagSpecifications=ec2_tags("vpc"))["Vpc"]["VpcId"]
subnets = [ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.9.{n}.0/24", AvailabilityZone=region + zone,
                             TagSpecifications=ec2_tags("subnet"))["Subnet"]["SubnetId"]
           for n, zone in enumerate("ab")]
group = ec2.create_security_group(GroupName="by-boto", Description="x", VpcId=vpc,
                                  TagSpecifications=ec2_tags("security-group", ""))["GroupId"]
ec2.run_instances(ImageId=images[0]["ImageId"], MinCount=2, MaxCount=2, SubnetId=subnets[0],
                  TagSpecifications=ec2_tags("instance"))
for balancer in ("one", "two"):
    elb.create_load_balancer(Name=balancer, Subnets=subnets, Tags=CAPITAL)
for cluster in ("web", "batch"):
    ecs.create_cluster(clusterName=cluster, tags=[{"key": "team", "value": "blue"}])
task = ecs.register_task_definition(family="t", containerDefinitions=[{"name": "c", "image": "i", "memory": 8, "cpu": 8}])
for n in range(12):
    ecs.create_service(cluster="web", serviceName=f"s-{n}", desiredCount=0,
                       taskDefinition=task["taskDefinition"]["taskDefinitionArn"],
                       tags=[{"key": "team", "value": "blue"}])
ecs.create_service(cluster="batch", serviceName="nightly", desiredCount=0,
                   taskDefinition=task["taskDefinition"]["taskDefinitionArn"])
trust = json.dumps({"Version": "2012-10-17", "Statement": []})
role = iam.create_role(RoleName="worker", Path="/service/", AssumeRolePolicyDocument=trust, Tags=CAPITAL)["Role"]["Arn"]
iam.create_user(UserName="jo", Tags=CAPITAL)
eks.create_cluster(name="prod", roleArn=role, resourcesVpcConfig={"subnetIds": subnets}, tags=TAGS)
rds.create_db_instance(DBInstanceIdentifier="db-1", DBInstanceClass="db.t3.micro", Engine="postgres", Tags=CAPITAL,
                       MasterUsername="root", MasterUserPassword="s3cr3t-word", AllocatedStorage=10)
rds.create_db_cluster(DBClusterIdentifier="cluster-1", Engine="aurora-postgresql", Tags=CAPITAL,
                      MasterUsername="root", MasterUserPassword="s3cr3t-word")
code = io.BytesIO()
with zipfile.ZipFile(code, "w") as archive:
    archive.writestr("f.py", "def f(e, c): pass")
for name in ("f-1", "f-2"):
    lambdas.create_function(FunctionName=name, Runtime="python3.11", Role=role, Handler="f.f",
                            Code={"ZipFile": code.getvalue()}, Tags=TAGS)
here = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
s3.create_bucket(Bucket=f"here-{region}", **here)
s3.put_bucket_tagging(Bucket=f"here-{region}", Tagging={"TagSet": CAPITAL})
elsewhere = "us-west-2" if region != "us-west-2" else "eu-west-1"
boto3.client("s3", region_name=elsewhere).create_bucket(
    Bucket="elsewhere", CreateBucketConfiguration={"LocationConstraint": elsewhere})
cfn.create_stack(StackName="stack", TemplateBody=json.dumps(
    {"Resources": {"Topic": {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": "of-stack"}}}}), Tags=CAPITAL)
zone = route53.create_hosted_zone(Name="example.test.", CallerReference="1")["HostedZone"]["Id"].split("/")[-1]
route53.change_tags_for_resource(ResourceType="hostedzone", ResourceId=zone, AddTags=CAPITAL)
for n in range(MORE):
    sqs.create_queue(QueueName=f"q-{n}", tags=TAGS if n % 2 else {})
    sns.create_topic(Name=f"t-{n}", Tags=CAPITAL if n % 2 else [])
    dynamodb.create_table(TableName=f"table-{n}", BillingMode="PAY_PER_REQUEST", Tags=CAPITAL,
                          AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
                          KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}])
    secrets.create_secret(Name=f"app/secret-{n}", SecretString="s3cr3t-value", Tags=CAPITAL)
    ecr.create_repository(repositoryName=f"team/app-{n}", tags=CAPITAL)
    cloudwatch.put_metric_alarm(AlarmName=f"a/{n}", MetricName="m", Namespace="n", Period=60, EvaluationPeriods=1,
                                Threshold=1, ComparisonOperator="GreaterThanThreshold", Statistic="Sum", Tags=CAPITAL)

arn = f"arn:aws:ec2:{region}:"
for reservation in pages(ec2, "describe_instances", "Reservations"):
    for i in reservation["Instances"]:
        say("AWS::EC2::Instance", f"{arn}{reservation['OwnerId']}:instance/{i['InstanceId']}", "named", pairs(i["Tags"]),
            i["State"]["Name"], i["InstanceId"])
for kind, operation, key, id, short in (
        ("AWS::EC2::VPC", "describe_vpcs", "Vpcs", "VpcId", "vpc"),
        ("AWS::EC2::Subnet", "describe_subnets", "Subnets", "SubnetId", "subnet"),
        ("AWS::EC2::SecurityGroup", "describe_security_groups", "SecurityGroups", "GroupId", "security-group")):
    for r in pages(ec2, operation, key):
        tags = pairs(r.get("Tags"))
        say(kind, f"{arn}{r['OwnerId']}:{short}/{r[id]}", tags.get("Name") or r.get("GroupName") or r[id], tags,
            r.get("State", ""), r[id])
for r in pages(elb, "describe_load_balancers", "LoadBalancers"):
    say("AWS::ElasticLoadBalancingV2::LoadBalancer", r["LoadBalancerArn"], r["LoadBalancerName"], TAGS, r["State"]["Code"])
for cluster in pages(ecs, "list_clusters", "clusterArns"):
    r = ecs.describe_clusters(clusters=[cluster], include=["TAGS"])["clusters"][0]
    say("AWS::ECS::Cluster", cluster, r["clusterName"], pairs(r["tags"]), r["status"], r["clusterName"])
    for service in pages(ecs, "list_services", "serviceArns", cluster=cluster):
        r = ecs.describe_services(cluster=cluster, services=[service], include=["TAGS"])["services"][0]
        say("AWS::ECS::Service", service, r["serviceName"], pairs(r["tags"]), r["status"], f"{service}|{cluster}")
for name in pages(eks, "list_clusters", "clusters"):
    r = eks.describe_cluster(name=name)["cluster"]
    say("AWS::EKS::Cluster", r["arn"], name, r["tags"], r["status"], name)
for r in pages(rds, "describe_db_instances", "DBInstances"):
    name = r["DBInstanceIdentifier"]
    say("AWS::RDS::DBInstance", r["DBInstanceArn"], name, pairs(r["TagList"]), r["DBInstanceStatus"], name)
for r in pages(rds, "describe_db_clusters", "DBClusters"):
    name = r["DBClusterIdentifier"]
    say("AWS::RDS::DBCluster", r["DBClusterArn"], name, pairs(r["TagList"]), r["Status"], name)
for r in pages(lambdas, "list_functions", "Functions"):
    name = r["FunctionName"]
    say("AWS::Lambda::Function", r["FunctionArn"], name, lambdas.list_tags(Resource=r["FunctionArn"])["Tags"],
        r.get("State", ""), name)
for r in s3.list_buckets()["Buckets"]:
    if (s3.get_bucket_location(Bucket=r["Name"])["LocationConstraint"] or "us-east-1") == region:
        say("AWS::S3::Bucket", f"arn:aws:s3:::{r['Name']}", r["Name"],
            pairs(s3.get_bucket_tagging(Bucket=r["Name"])["TagSet"]), "", r["Name"])
for r in pages(iam, "list_roles", "Roles"):
    say("AWS::IAM::Role", r["Arn"], r["RoleName"], pairs(iam.list_role_tags(RoleName=r["RoleName"])["Tags"]), "", r["RoleName"])
for r in pages(iam, "list_users", "Users"):
    say("AWS::IAM::User", r["Arn"], r["UserName"], pairs(iam.list_user_tags(UserName=r["UserName"])["Tags"]), "", r["UserName"])
for r in pages(cfn, "describe_stacks", "Stacks"):
    say("AWS::CloudFormation::Stack", r["StackId"], r["StackName"], pairs(r["Tags"]), r["StackStatus"])
for r in pages(route53, "list_hosted_zones", "HostedZones"):
    id = r["Id"].split("/")[-1]
    say("AWS::Route53::HostedZone", f"arn:aws:route53:::hostedzone/{id}", r["Name"], TAGS, "", id)
for url in pages(sqs, "list_queues", "QueueUrls"):
    name = url.rsplit("/")[-1]
    say("AWS::SQS::Queue", f"arn:aws:sqs:{region}:{account}:{name}", name,
        sqs.list_queue_tags(QueueUrl=url).get("Tags"), "", url)
for r in pages(sns, "list_topics", "Topics"):
    topic = r["TopicArn"]
    say("AWS::SNS::Topic", topic, topic.rsplit(":")[-1], pairs(sns.list_tags_for_resource(ResourceArn=topic)["Tags"]))
for name in pages(dynamodb, "list_tables", "TableNames"):
    r = dynamodb.describe_table(TableName=name)["Table"]
    say("AWS::DynamoDB::Table", r["TableArn"], name,
        pairs(dynamodb.list_tags_of_resource(ResourceArn=r["TableArn"])["Tags"]), r["TableStatus"], name)
for r in pages(ecr, "describe_repositories", "repositories"):
    name = r["repositoryName"]
    say("AWS::ECR::Repository", r["repositoryArn"], name,
        pairs(ecr.list_tags_for_resource(resourceArn=r["repositoryArn"])["tags"]), "", name)
for r in pages(secrets, "list_secrets", "SecretList"):
    say("AWS::SecretsManager::Secret", r["ARN"], r["Name"], pairs(r["Tags"]))
for r in pages(cloudwatch, "describe_alarms", "MetricAlarms"):
    say("AWS::CloudWatch::Alarm", r["AlarmArn"], r["AlarmName"],
        pairs(cloudwatch.list_tags_for_resource(ResourceARN=r["AlarmArn"])["Tags"]), r["StateValue"], r["AlarmName"])
print(json.dumps(told))
