"""What the proxy and runnerctl refuse; prints each with its answer. Nothing of it leaves the machine."""
import base64
import os
import socket
import ssl
from urllib.parse import urlsplit

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import ClientError

proxy = urlsplit(os.environ["HTTPS_PROXY"])
GOOD = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()


def ask(text, through=None):
    """Sends text to the proxy, or into a tunnel to a host, and gives the answer."""
    with socket.create_connection((proxy.hostname, proxy.port), timeout=30) as stream:
        if through:
            stream.sendall(f"CONNECT {through}:443 HTTP/1.1\r\nHost: {through}:443\r\nProxy-Authorization: Basic {GOOD}\r\n\r\n".encode())
            assert stream.recv(4096).startswith(b"HTTP/1.1 200")
            stream = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"]).wrap_socket(stream, server_hostname=through)
        stream.sendall(text.encode())
        whole = b""
        while b"\r\n\r\n" not in whole and (piece := stream.recv(65536)):
            whole += piece
        head, _, body = whole.partition(b"\r\n\r\n")
        length = next((int(l.split(b":")[1]) for l in head.split(b"\r\n") if l.lower().startswith(b"content-length:")), 0)
        while len(body) < length and (piece := stream.recv(65536)):
            body += piece
        return head.split(b"\r\n")[0].split(b" ")[1].decode(), body.decode(errors="replace").strip().replace("\n", " ")


def connect(host, credentials=GOOD):
    line = f"Proxy-Authorization: Basic {credentials}\r\n" if credentials else ""
    return ask(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{line}\r\n")


for host in ["example.org:443", "169.254.169.254:443", "169.254.169.254:80", "127.0.0.1:443", "[::1]:443", "sts.eu-central-1.amazonaws.com:80",
             "sts.eu-central-1.amazonaws.com.example.org:443", "x.eu-central-1.elb.amazonaws.com:443", "metadata.google.internal:443"]:
    print("connect", host, *connect(host))
STS = "sts.eu-central-1.amazonaws.com"
print("password none", *connect(STS + ":443", None))
print("password wrong", *connect(STS + ":443", base64.b64encode(b"runner:x").decode()))
print("plain", *ask(f"GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\nProxy-Authorization: Basic {GOOD}\r\n\r\n"))

KEY = os.environ["AWS_ACCESS_KEY_ID"]
SIGNED = f"Authorization: AWS4-HMAC-SHA256 Credential={KEY}/20260101/eu-central-1/sts/aws4_request, SignedHeaders=host, Signature=00\r\n"
FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
BODY = "Action=GetCallerIdentity&Version=2011-06-15"
for name, text in {
    "unsigned": f"GET / HTTP/1.1\r\nHost: {STS}\r\n\r\n",
    "twice signed": f"GET / HTTP/1.1\r\nHost: {STS}\r\n{SIGNED}{SIGNED}\r\n",
    "other host": f"GET / HTTP/1.1\r\nHost: iam.amazonaws.com\r\n{SIGNED}\r\n",
    "two hosts": f"GET / HTTP/1.1\r\nHost: {STS}\r\nHost: iam.amazonaws.com\r\n{SIGNED}\r\n",
    "absolute": f"GET https://iam.amazonaws.com/ HTTP/1.1\r\nHost: {STS}\r\n{SIGNED}\r\n",
    "other region": f"GET / HTTP/1.1\r\nHost: {STS}\r\n{SIGNED.replace('eu-central-1', 'us-east-1')}\r\n",
    "other service": f"GET / HTTP/1.1\r\nHost: {STS}\r\n{SIGNED.replace('/sts/', '/iam/')}\r\n",
    "other key": f"GET / HTTP/1.1\r\nHost: {STS}\r\n{SIGNED.replace(KEY, 'AKIAOTHER')}\r\n",
    "two lengths": f"POST / HTTP/1.1\r\nHost: {STS}\r\n{SIGNED}{FORM}Content-Length: 1\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}",
    "override": f"GET / HTTP/1.1\r\nHost: {STS}\r\n{SIGNED}X-HTTP-Method-Override: DELETE\r\n\r\n",
    "streamed signatures": f"PUT / HTTP/1.1\r\nHost: {STS}\r\n{SIGNED}x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\n\r\n",
}.items():
    print(name, *ask(text, STS))


def told(name, client, operation, **arguments):
    try:
        getattr(client, operation)(**arguments)
        print(name, "done")
    except ClientError as error:
        print(name, error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"], error.response["Error"]["Message"])


told("boto unsigned", boto3.client("s3", config=Config(signature_version=botocore.UNSIGNED)), "list_objects_v2", Bucket="b")
other = {"aws_access_key_id": "AKIAOTHER", "aws_secret_access_key": "x"}
for service, operation in [("sts", "get_caller_identity"), ("ec2", "describe_regions"), ("s3", "list_buckets"), ("dynamodb", "list_tables"), ("lambda", "list_functions"), ("cloudwatch", "list_metrics")]:
    told("boto other key " + service, boto3.client(service, **other), operation)
