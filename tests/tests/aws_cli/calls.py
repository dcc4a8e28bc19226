"""What boto3 is asked, on both ways; prints what came of it."""
import hashlib
import json
import sys

import boto3
from botocore.exceptions import ClientError


def plain(value):
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in ("ResponseMetadata", "HostId", "RequestId")}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "read"):
        return hashlib.sha256(value.read()).hexdigest()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def call(service, operation, **arguments):
    client = boto3.client(service)
    try:
        told = plain(getattr(client, operation)(**arguments))
    except ClientError as error:
        told = {"error": error.response["Error"]["Code"], "message": error.response["Error"]["Message"],
                "status": error.response["ResponseMetadata"]["HTTPStatusCode"]}
    print(json.dumps([service, operation, told], sort_keys=True))


if "change" in sys.argv:
    call("s3", "create_bucket", Bucket="by-boto", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    call("s3", "put_object", Bucket="by-boto", Key="a/b c/ü+%41", Body=b"abc" * 1000, Metadata={"a": "b"})
    call("s3", "put_object", Bucket="by-boto", Key="empty", Body=b"")
    call("s3", "put_object", Bucket="by-boto", Key="summed", Body=b"abc", ChecksumAlgorithm="SHA256")
    call("s3", "put_object", Bucket="by-boto", Key="stored", Body=b"abc", ContentMD5="kAFQmDzST7DWlj99KOF/cg==")
    call("s3", "put_bucket_policy", Bucket="by-boto", Policy=json.dumps({"Version": "2012-10-17", "Statement": []}))
    call("s3", "delete_objects", Bucket="by-boto", Delete={"Objects": [{"Key": "stored"}]})
    call("sqs", "create_queue", QueueName="by-boto")
    call("dynamodb", "create_table", TableName="by-boto", BillingMode="PAY_PER_REQUEST",
         AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}], KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}])
    call("cloudwatch", "put_metric_data", Namespace="n", MetricData=[{"MetricName": "m", "Value": 1.0}] * 300)
    call("iam", "create_policy", PolicyName="by-boto", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}))
    call("kinesis", "create_stream", StreamName="by-boto", ShardCount=1)
    sys.exit()

call("sts", "get_caller_identity")
call("s3", "list_objects_v2", Bucket="by-boto")
call("s3", "get_object", Bucket="by-boto", Key="a/b c/ü+%41")
call("s3", "get_object", Bucket="by-boto", Key="empty")
call("s3", "get_object", Bucket="by-boto", Key="summed", ChecksumMode="ENABLED")
call("s3", "get_object", Bucket="by-boto", Key="nothing")
call("s3", "head_object", Bucket="by-boto", Key="nothing")
call("s3", "get_bucket_policy", Bucket="by-boto")
call("ec2", "describe_availability_zones")
call("ec2", "describe_instances", InstanceIds=["i-0123456789abcdef0"])
call("iam", "list_policies", Scope="Local")
call("iam", "get_user", UserName="nobody-at-all")
call("sqs", "list_queues")
call("sqs", "get_queue_url", QueueName="nobody")
call("dynamodb", "describe_table", TableName="by-boto")
call("dynamodb", "list_tables")
call("cloudwatch", "list_metrics")
call("kinesis", "describe_stream_summary", StreamName="by-boto")
call("route53", "list_hosted_zones")
call("lambda", "list_functions")
call("lambda", "get_function", FunctionName="nobody")
call("ecs", "list_clusters")
call("rds", "describe_db_instances")
call("cloudformation", "list_stacks")
