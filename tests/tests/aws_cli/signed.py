"""Requests whose signatures are easily made wrong; each must come through the one who checks them."""
import io
import os
import ssl
import urllib.request
import zipfile

import boto3
from botocore.config import Config

KEYS = ["plain", "a b", "a+b", "a=b&c", "ü/ö", "a//b", "/lead", "trail/", "~tilde", "per%20cent", "quote'\"", "(a)!*", "a;b:c@d,e$f", "日本"]

for style in ("virtual", "path"):
    s3 = boto3.client("s3", config=Config(s3={"addressing_style": style}))
    for key in KEYS:
        s3.put_object(Bucket="bucket", Key=key, Body=b"abc", Metadata={"my_key": "a  b", "x": "y"})
        s3.head_object(Bucket="bucket", Key=key)
    s3.list_objects_v2(Bucket="bucket", Prefix="a b+c/ü=&", Delimiter="/", StartAfter="~")
    s3.put_object(Bucket="bucket", Key="unsigned", Body=io.BytesIO(b"x" * 200_000))
    s3.put_object(Bucket="bucket", Key="empty", Body=b"")
    signed = boto3.client("s3", config=Config(s3={"addressing_style": style, "payload_signing_enabled": True}, request_checksum_calculation="when_required"))
    signed.put_object(Bucket="bucket", Key="signed", Body=b"x" * 200_000)
    # an URL that was signed ahead, taken by a client that knows nothing of AWS
    context = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])
    for key in KEYS:
        url = s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": key, "ResponseContentType": "a/b"})
        assert urllib.request.urlopen(url, context=context).read() == b"content", key
# in a region where botocore signs ahead by an older version, and for a host of no region, unless it is told otherwise
told = Config(signature_version="s3v4", s3={"addressing_style": "virtual"})
url = boto3.client("s3", region_name="eu-west-1", config=told).generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "plain"})
assert ".s3.eu-west-1.amazonaws.com/" in url, url
assert urllib.request.urlopen(url, context=ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])).read() == b"content"
boto3.client("iam").list_users(PathPrefix="/a b+c/")
boto3.client("eks").list_clusters()
boto3.client("lambda").get_function(FunctionName="arn:aws:lambda:eu-central-1:123456789012:function:a", Qualifier="1")
boto3.client("lambda").list_tags(Resource="arn:aws:lambda:eu-central-1:123456789012:function:a")
boto3.client("apigateway").get_tags(resourceArn="arn:aws:apigateway:eu-central-1::/restapis/a b+c")
boto3.client("secretsmanager").get_secret_value(SecretId="ü")
packed = io.BytesIO()
with zipfile.ZipFile(packed, "w") as archive:
    archive.writestr("code", os.urandom(6 * 1024 * 1024))
boto3.client("lambda").update_function_code(FunctionName="a", ZipFile=packed.getvalue())
print("all signed")
