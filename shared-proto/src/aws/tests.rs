use super::*;
use crate::failure::Code;
use crate::glob::Glob;
use crate::v1::{AwsRequest, HttpHeader};

fn headers(given: &[(&str, &str)]) -> Vec<HttpHeader> {
    given.iter().map(|(n, v)| HttpHeader { name: (*n).to_owned(), value: v.as_bytes().to_vec() }).collect()
}

fn authorization(service: &str, region: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260101/{region}/{service}/aws4_request, SignedHeaders=host;x-amz-date, Signature=00"
    )
}

/// A request, signed for that.
fn request(method: &str, host: &str, target: &str, service: &str, region: &str, more: &[(&str, &str)]) -> AwsRequest {
    let authorization = authorization(service, region);
    let mut all = vec![("authorization", authorization.as_str()), ("x-amz-date", "20260101T000000Z")];
    all.extend_from_slice(more);
    AwsRequest {
        method: method.to_owned(),
        host: host.to_owned(),
        target: target.to_owned(),
        headers: headers(&all),
        ..Default::default()
    }
}

#[test]
fn hosts_their_services_and_regions() {
    // host, service, region of the signature, region, bucket
    for (host, service, scope, region, bucket) in [
        ("sts.eu-central-1.amazonaws.com", "sts", "eu-central-1", "eu-central-1", ""),
        ("sts.amazonaws.com", "sts", "us-east-1", "-", ""),
        ("sts-fips.us-gov-west-1.amazonaws.com", "sts", "us-gov-west-1", "us-gov-west-1", ""),
        ("iam.amazonaws.com", "iam", "us-east-1", "-", ""),
        ("iam.us-gov.amazonaws.com", "iam", "us-gov-west-1", "-", ""),
        ("iam.cn-north-1.amazonaws.com.cn", "iam", "cn-north-1", "-", ""),
        ("route53.amazonaws.com", "route53", "us-east-1", "-", ""),
        ("cloudfront.amazonaws.com", "cloudfront", "us-east-1", "-", ""),
        ("organizations.us-east-1.amazonaws.com", "organizations", "us-east-1", "-", ""),
        ("ec2.ap-southeast-2.amazonaws.com", "ec2", "ap-southeast-2", "ap-southeast-2", ""),
        ("ec2.eu-west-1.api.aws", "ec2", "eu-west-1", "eu-west-1", ""),
        ("ec2.cn-north-1.amazonaws.com.cn", "ec2", "cn-north-1", "cn-north-1", ""),
        ("ec2.us-iso-east-1.c2s.ic.gov", "ec2", "us-iso-east-1", "us-iso-east-1", ""),
        ("ec2.eusc-de-east-1.amazonaws.eu", "ec2", "eusc-de-east-1", "eusc-de-east-1", ""),
        ("monitoring.eu-west-1.amazonaws.com", "monitoring", "eu-west-1", "eu-west-1", ""),
        ("email.eu-west-1.amazonaws.com", "ses", "eu-west-1", "eu-west-1", ""),
        ("api.ecr.eu-west-1.amazonaws.com", "ecr", "eu-west-1", "eu-west-1", ""),
        ("states.eu-west-1.amazonaws.com", "states", "eu-west-1", "eu-west-1", ""),
        ("sync-states.eu-west-1.amazonaws.com", "states", "eu-west-1", "eu-west-1", ""),
        ("streams.dynamodb.eu-west-1.amazonaws.com", "dynamodb", "eu-west-1", "eu-west-1", ""),
        ("123456789012.ddb.eu-west-1.amazonaws.com", "dynamodb", "eu-west-1", "eu-west-1", ""),
        ("eu-west-1.queue.amazonaws.com", "sqs", "eu-west-1", "eu-west-1", ""),
        ("queue.amazonaws.com", "sqs", "us-east-1", "-", ""),
        ("rds.eu-west-1.amazonaws.com", "rds", "eu-west-1", "eu-west-1", ""),
        ("bedrock-runtime.us-west-2.amazonaws.com", "bedrock", "us-west-2", "us-west-2", ""),
        ("a1b2c3.execute-api.eu-west-1.amazonaws.com", "execute-api", "eu-west-1", "eu-west-1", ""),
        ("s3.eu-west-1.amazonaws.com", "s3", "eu-west-1", "eu-west-1", ""),
        ("s3.amazonaws.com", "s3", "us-east-1", "us-east-1", ""),
        ("s3-eu-west-1.amazonaws.com", "s3", "eu-west-1", "eu-west-1", ""),
        ("s3-external-1.amazonaws.com", "s3", "us-east-1", "us-east-1", ""),
        ("b.s3.amazonaws.com", "s3", "us-east-1", "us-east-1", "b"),
        ("my.bucket.s3.eu-west-1.amazonaws.com", "s3", "eu-west-1", "eu-west-1", "my.bucket"),
        ("b.s3.dualstack.eu-west-1.amazonaws.com", "s3", "eu-west-1", "eu-west-1", "b"),
        ("b.s3-fips.us-east-2.amazonaws.com", "s3", "us-east-2", "us-east-2", "b"),
        ("b.s3-fips.dualstack.us-east-2.amazonaws.com", "s3", "us-east-2", "us-east-2", "b"),
        ("b.s3-accelerate.amazonaws.com", "s3", "eu-west-1", "eu-west-1", "b"),
        ("b.s3-accelerate.dualstack.amazonaws.com", "s3", "ap-south-1", "ap-south-1", "b"),
        ("123456789012.s3-control.eu-west-1.amazonaws.com", "s3", "eu-west-1", "eu-west-1", ""),
        ("123456789012.s3-control.dualstack.eu-west-1.amazonaws.com", "s3", "eu-west-1", "eu-west-1", ""),
        ("ap-123456789012.s3-accesspoint.eu-west-1.amazonaws.com", "s3", "eu-west-1", "eu-west-1", "ap-123456789012"),
        ("b.s3.cn-north-1.amazonaws.com.cn", "s3", "cn-north-1", "cn-north-1", "b"),
        ("x.s3-object-lambda.eu-west-1.amazonaws.com", "s3-object-lambda", "eu-west-1", "eu-west-1", "x"),
        // a bucket called like a host
        ("s3.eu-west-1.s3.us-east-2.amazonaws.com", "s3", "us-east-2", "us-east-2", "s3.eu-west-1"),
    ] {
        let parsed = Host::parse(host).expect(host);
        assert_eq!(parsed.bucket.unwrap_or_default(), bucket, "{host}");
        let asked = read(&request("GET", host, "/", service, scope, &[])).expect(host);
        assert_eq!((asked.service.as_str(), asked.region.as_deref().unwrap_or("-")), (service, region), "{host}");
    }
}

#[test]
fn hosts_that_are_no_service_of_aws() {
    for host in [
        "",
        "localhost",
        "169.254.169.254",
        "169.254.170.2",
        "fd00:ec2::254",
        "metadata.google.internal",
        "instance-data.eu-west-1.compute.internal",
        "amazonaws.com",
        ".amazonaws.com",
        "eu-west-1.amazonaws.com",
        "sts.eu-west-1.amazonaws.com.",
        "sts.eu-west-1.amazonaws.com.evil.example",
        "sts.eu-west-1.evilamazonaws.com",
        "evil.example",
        "sts..amazonaws.com",
        "STS.eu-west-1.amazonaws.com",
        "sts.eu-west-1.amazonaws.com:443",
        "sts.eu-west-1.amazonaws.com/x",
        "user@sts.eu-west-1.amazonaws.com",
        "x.sts.eu-west-1.amazonaws.com",
        "sts.nowhere.amazonaws.com",
        "sts.cn-north-1.amazonaws.com",
        "sts.eu-west-1.amazonaws.com.cn",
        "nosuchservice.eu-west-1.amazonaws.com",
        "eu-west-1.nosuchservice.amazonaws.com",
        "eu-west-1.x.queue.amazonaws.com",
        // what customers run under AWS' domains
        "my-balancer-123.eu-west-1.elb.amazonaws.com",
        "ec2-1-2-3-4.eu-west-1.compute.amazonaws.com",
        "db.abc.eu-west-1.rds.amazonaws.com",
        "search-x.eu-west-1.es.amazonaws.com",
        "b.s3-website.eu-west-1.amazonaws.com",
        "b.s3-website-eu-west-1.amazonaws.com",
        "x.lambda-url.eu-west-1.on.aws",
        "a.b.execute-api.eu-west-1.amazonaws.com",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "mrap.accesspoint.s3-global.amazonaws.com",
        "s3-accelerate.amazonaws.com",
        &format!("{}.s3.eu-west-1.amazonaws.com", "a".repeat(254)),
    ] {
        assert_eq!(Host::parse(host).expect_err(host).code, Code::InvalidArgument);
    }
    // a region that was mistyped is none of a customer's hosts
    for (host, is_of_aws) in
        [("s3.eu-central1.amazonaws.com", true), ("evil.example", false), ("evilamazonaws.com", false)]
    {
        let next = Host::parse(host).expect_err(host).next_step;
        assert_eq!(next.starts_with("Check the region"), is_of_aws, "{host}: {next}");
    }
}

#[test]
fn host_and_signature_must_agree() {
    for (host, service, region) in [
        ("sts.eu-central-1.amazonaws.com", "sts", "us-east-1"),
        ("sts.eu-central-1.amazonaws.com", "iam", "eu-central-1"),
        ("sts.amazonaws.com", "sts", "eu-central-1"),
        ("iam.amazonaws.com", "iam", "eu-central-1"),
        ("iam.amazonaws.com", "sts", "us-east-1"),
        ("b.s3.eu-west-1.amazonaws.com", "s3", "eu-west-2"),
        ("b.s3.eu-west-1.amazonaws.com", "ec2", "eu-west-1"),
        ("b.s3.eu-west-1.amazonaws.com", "s3express", "eu-west-1"),
        ("s3.amazonaws.com", "s3", "eu-west-1"),
        ("123456789012.s3-control.eu-west-1.amazonaws.com", "s3", "eu-west-2"),
        ("x.s3-object-lambda.eu-west-1.amazonaws.com", "s3", "eu-west-1"),
        ("b.s3-accelerate.amazonaws.com", "s3", "nowhere"),
        ("a1b2.execute-api.eu-west-1.amazonaws.com", "apigateway", "eu-west-1"),
        ("monitoring.eu-west-1.amazonaws.com", "cloudwatch", "eu-west-1"),
        ("email.eu-west-1.amazonaws.com", "email", "eu-west-1"),
    ] {
        let failure = read(&request("GET", host, "/", service, region, &[])).expect_err(host);
        assert_eq!(failure.code, Code::InvalidArgument);
        assert!(failure.message.contains(host), "{failure}");
    }
}

#[test]
fn signatures_that_are_not_passed_on() {
    let host = "s3.eu-west-1.amazonaws.com";
    let good = authorization("s3", "eu-west-1");
    let with = |headers_: &[(&str, &str)], target: &str| {
        let request = AwsRequest {
            method: "GET".into(),
            host: host.into(),
            target: target.into(),
            headers: headers(headers_),
            ..Default::default()
        };
        read(&request)
    };
    let ahead = "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAEXAMPLE%2F20260101%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Date=20260101T000000Z\
                 &X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00&x-id=GetObject";
    assert!(with(&[("authorization", &good)], "/").is_ok());
    let asked = with(&[], ahead).expect("signed ahead");
    assert!(asked.signature.in_query && asked.operation == Some("GetObject"), "{asked:?}");
    assert_eq!(without_signature(ahead), "/b/k?x-id=GetObject");
    assert_eq!(without_signature("/b?X-Amz-Signature=0&x%2damz-date=1"), "/b");
    for (given, target) in [
        (vec![], "/"),
        (vec![("authorization", good.as_str()), ("Authorization", good.as_str())], "/"),
        (vec![("authorization", good.as_str())], ahead),
        (vec![], &format!("{ahead}&x-amz-algorithm=AWS4-HMAC-SHA256")),
        (vec![], &ahead.replace("X-Amz-Credential", "X-Amz-Nothing")),
        (vec![("authorization", "Bearer x")], "/"),
        (vec![("authorization", "Basic eDp5")], "/"),
        (vec![("authorization", "AWS AKIA:sig")], "/"),
        (vec![("authorization", &good.replace("HMAC", "ECDSA-P256"))], "/"),
        (vec![("authorization", &good.replace("aws4_request", "aws5_request"))], "/"),
        (vec![("authorization", &format!("{good}, Credential=X/20260101/eu-west-1/s3/aws4_request"))], "/"),
        (vec![("authorization", &good.replace("20260101/", "2026/"))], "/"),
        (vec![("authorization", &good.replace("AKIAEXAMPLE", ""))], "/"),
        (vec![("authorization", &good), ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")], "/"),
        (vec![("authorization", &good), ("x-amz-content-sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD")], "/"),
        (vec![("authorization", &good), ("x-amz-content-sha256", "ABC")], "/"),
    ] {
        assert_eq!(with(&given, target).expect_err(target).code, Code::InvalidArgument, "{given:?}");
    }
}

#[test]
fn requests_that_could_be_read_in_two_ways() {
    let host = "ec2.eu-west-1.amazonaws.com";
    let plain = |more: &[(&str, &str)]| request("POST", host, "/", "ec2", "eu-west-1", more);
    assert!(read(&plain(&[("host", host), ("content-length", "4")])).is_ok());
    assert!(read(&plain(&[("host", "EC2.eu-west-1.amazonaws.com:443")])).is_ok());
    for more in [
        &[("host", "iam.amazonaws.com")][..],
        &[("host", host), ("Host", host)],
        &[("host", "ec2.eu-west-1.amazonaws.com:80")],
        &[("content-length", "4"), ("transfer-encoding", "chunked")],
        &[("content-length", "4"), ("content-length", "5")],
        &[("content-length", "-1")],
        &[("content-length", "4, 4")],
        &[("transfer-encoding", "chunked"), ("Transfer-Encoding", "identity")],
        &[("x-amz-target", "A.B"), ("X-Amz-Target", "A.C")],
        &[("content-type", "a/b"), ("content-type", "application/x-www-form-urlencoded")],
        &[("x-http-method-override", "DELETE")],
        &[("x_amz_target", "A.B")],
        &[("a b", "c")],
        &[("a", "b\r\nauthorization: x")],
        &[("x-amz-target", "A.B"), ("content-type", "application/x-www-form-urlencoded")],
    ] {
        assert_eq!(read(&plain(more)).expect_err("refused").code, Code::InvalidArgument, "{more:?}");
    }
    for target in
        ["", "*", "http://iam.amazonaws.com/", "//iam.amazonaws.com\u{e9}/", "/a b", "/a#b", "/?%zz", "/?a=%f"]
    {
        let request = request("GET", host, target, "ec2", "eu-west-1", &[]);
        assert_eq!(read(&request).expect_err(target).code, Code::InvalidArgument);
    }
    for method in ["", "get", "CONNECT", "POST /", "AAAAAAAAAAAAAAAAA"] {
        let request = request(method, host, "/", "ec2", "eu-west-1", &[]);
        assert_eq!(read(&request).expect_err(method).code, Code::InvalidArgument);
    }
    let other = AwsRequest { body_length: Some(5), ..plain(&[("content-length", "4")]) };
    assert_eq!(read(&other).expect_err("lengths").code, Code::InvalidArgument);
}

#[test]
fn sessions_are_out_of_scope() {
    for (service, target, out) in [
        ("ecs", "AmazonEC2ContainerServiceV20141113.ExecuteCommand", true),
        ("ecs", "AmazonEC2ContainerServiceV20141113.ListClusters", false),
        ("ssm", "AmazonSSM.StartSession", true),
        ("ssm", "AmazonSSM.GetParameter", false),
    ] {
        let more = [("x-amz-target", target), ("content-type", "application/x-amz-json-1.1")];
        let host = format!("{service}.eu-west-1.amazonaws.com");
        let read = read(&request("POST", &host, "/", service, "eu-west-1", &more));
        assert_eq!(
            read.is_err_and(|failure| failure.message.contains("does not go through a runner")),
            out,
            "{target}"
        );
    }
}

#[test]
fn both_sides_of_the_bounds() {
    let host = "s3.eu-west-1.amazonaws.com";
    let long = |n: usize| request("GET", host, &format!("/b/{}", "a".repeat(n - 3)), "s3", "eu-west-1", &[]);
    assert!(read(&long(TARGET_MAX)).is_ok());
    assert_eq!(read(&long(TARGET_MAX + 1)).expect_err("too long").code, Code::TooLarge);
    let own: usize = long(3).headers.iter().map(|h| h.name.len() + h.value.len()).sum();
    let wide =
        |n: usize| request("GET", host, "/b/k", "s3", "eu-west-1", &[("x-amz-meta-a", &"a".repeat(n - own - 12))]);
    assert!(read(&wide(HEADERS_MAX)).is_ok());
    assert_eq!(read(&wide(HEADERS_MAX + 1)).expect_err("too large").code, Code::TooLarge);
    let many = |n: usize| request("GET", host, "/b/k", "s3", "eu-west-1", &vec![("x-a", "b"); n - 2]);
    assert!(read(&many(128)).is_ok());
    assert_eq!(read(&many(129)).expect_err("too many").code, Code::TooLarge);
}

#[test]
fn operations_of_rest_services() {
    for (method, host, target, more, operation) in [
        ("GET", "s3.eu-west-1", "/", "", "ListBuckets"),
        ("GET", "b.s3.eu-west-1", "/", "", "ListObjects"),
        ("GET", "b.s3.eu-west-1", "/?list-type=2&prefix=a%2F&x-id=ListObjectsV2", "", "ListObjectsV2"),
        ("GET", "s3.eu-west-1", "/b?list-type=2", "", "ListObjectsV2"),
        ("GET", "s3.eu-west-1", "/b/", "", "ListObjects"),
        ("HEAD", "b.s3.eu-west-1", "/", "", "HeadBucket"),
        ("HEAD", "b.s3.eu-west-1", "/k", "", "HeadObject"),
        ("GET", "b.s3.eu-west-1", "/a/b%20c/d", "", "GetObject"),
        ("GET", "b.s3.eu-west-1", "/k?versionId=1", "", "GetObject"),
        ("GET", "b.s3.eu-west-1", "/k?uploadId=1", "", "ListParts"),
        ("GET", "b.s3.eu-west-1", "/k?acl", "", "GetObjectAcl"),
        ("GET", "b.s3.eu-west-1", "/?acl", "", "GetBucketAcl"),
        ("GET", "b.s3.eu-west-1", "/?policy", "", "GetBucketPolicy"),
        ("PUT", "b.s3.eu-west-1", "/?policy", "", "PutBucketPolicy"),
        ("PUT", "b.s3.eu-west-1", "/", "", "CreateBucket"),
        ("PUT", "b.s3.eu-west-1", "/k", "", "PutObject"),
        ("PUT", "b.s3.eu-west-1", "/k", "x-amz-copy-source", "CopyObject"),
        ("PUT", "b.s3.eu-west-1", "/k?partNumber=1&uploadId=x", "", "UploadPart"),
        ("PUT", "b.s3.eu-west-1", "/k?partNumber=1&uploadId=x", "x-amz-copy-source", "UploadPartCopy"),
        ("POST", "b.s3.eu-west-1", "/k?uploads", "", "CreateMultipartUpload"),
        ("POST", "b.s3.eu-west-1", "/k?uploadId=x", "", "CompleteMultipartUpload"),
        ("DELETE", "b.s3.eu-west-1", "/k?uploadId=x", "", "AbortMultipartUpload"),
        ("DELETE", "b.s3.eu-west-1", "/k", "", "DeleteObject"),
        ("POST", "b.s3.eu-west-1", "/?delete", "", "DeleteObjects"),
        ("PUT", "b.s3.eu-west-1", "/?lifecycle", "", "PutBucketLifecycleConfiguration"),
        ("GET", "1.s3-control.eu-west-1", "/v20180820/accesspoint/a", "", "GetAccessPoint"),
        ("GET", "lambda.eu-west-1", "/2015-03-31/functions", "", "ListFunctions"),
        ("GET", "lambda.eu-west-1", "/2015-03-31/functions/", "", "ListFunctions"),
        ("POST", "lambda.eu-west-1", "/2015-03-31/functions/f/invocations", "", "Invoke"),
        ("GET", "lambda.eu-west-1", "/2015-03-31/functions/f?Qualifier=1", "", "GetFunction"),
        ("GET", "eks.eu-west-1", "/clusters/c", "", "DescribeCluster"),
        ("GET", "eks.eu-west-1", "/clusters/c/node-groups/n", "", "DescribeNodegroup"),
        ("DELETE", "apigateway.eu-west-1", "/restapis/a", "", "DeleteRestApi"),
        ("GET", "apigateway.eu-west-1", "/tags/arn%3Aaws%3Aapigateway%3Aeu-west-1%3A%3A%2Frestapis%2Fa", "", "GetTags"),
        // not certain: not known
        ("GET", "b.s3.eu-west-1", "/?policy&acl", "", "-"),
        ("GET", "b.s3.eu-west-1", "/?acl&acl", "", "-"),
        ("GET", "b.s3.eu-west-1", "/?brand-new", "", "-"),
        ("GET", "b.s3.eu-west-1", "/k?a=1", "", "-"),
        ("GET", "b.s3.eu-west-1", "/a/../b", "", "-"),
        ("POST", "b.s3.eu-west-1", "/", "", "-"),
        ("GET", "lambda.eu-west-1", "/2015-03-31/func%74ions/f", "", "-"),
        ("GET", "lambda.eu-west-1", "/2015-03-31/functions/./f", "", "-"),
        ("GET", "lambda.eu-west-1", "/2015-03-31/functions//f", "", "-"),
        ("GET", "lambda.eu-west-1", "/2015-03-31/functions/f", "x-amz-target", "-"),
        ("PATCH", "lambda.eu-west-1", "/2015-03-31/functions/f", "", "-"),
    ] {
        let service = ["s3", "lambda", "eks", "apigateway"].into_iter().find(|s| host.contains(s)).expect("one");
        let mut headers = Vec::new();
        if !more.is_empty() {
            headers.push((more, "x"));
        }
        let request = request(method, &format!("{host}.amazonaws.com"), target, service, "eu-west-1", &headers);
        let asked = read(&request).expect(target);
        assert_eq!(asked.operation.unwrap_or("-"), operation, "{method} {host} {target} {more}");
    }
    let route53 =
        request("POST", "route53.amazonaws.com", "/2013-04-01/hostedzone/Z/rrset/", "route53", "us-east-1", &[]);
    assert_eq!(read(&route53).expect("reads").operation, Some("ChangeResourceRecordSets"));
}

#[test]
fn patterns_that_are_of_an_operation_and_of_none() {
    let is = |text: &str| is_of_an_operation(&Glob::parse_lower(text).expect("a pattern"));
    for pattern in [
        "s3:ListObjectsV2",
        "S3:getobject",
        "ec2:Describe*",
        "*",
        "cloudwatch:PutMetricData",
        "*:Get*",
        "iam:CreateUser",
    ] {
        assert!(is(pattern), "{pattern}");
    }
    // IAM's own, one of no service, and what stands before operations in the table
    for pattern in
        ["s3:ListBucket", "s3:ListAllMyBuckets", "iam:PassRole", "monitoring:*", "nowhere:*", "s3:GET", "s3:@*"]
    {
        assert!(!is(pattern), "{pattern}");
    }
}

#[test]
fn operations_that_requests_name() {
    let json = |service: &str, target: &str| {
        let host = format!("{service}.eu-west-1.amazonaws.com");
        let more = [("x-amz-target", target), ("content-type", "application/x-amz-json-1.0")];
        read(&request("POST", &host, "/", service, "eu-west-1", &more)).expect(target).operation
    };
    assert_eq!(json("dynamodb", "DynamoDB_20120810.GetItem"), Some("GetItem"));
    assert_eq!(json("sqs", "AmazonSQS.SendMessage"), Some("SendMessage"));
    assert_eq!(json("dynamodb", "DynamoDBStreams_20120810.GetItem"), None);
    assert_eq!(json("dynamodb", "DynamoDB_20120810.BrandNew"), None);
    assert_eq!(json("dynamodb", "GetItem"), None);
    assert_eq!(json("ec2", "AmazonEC2.DescribeInstances"), None);

    let form = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
    let plain = request("POST", "ec2.eu-west-1.amazonaws.com", "/", "ec2", "eu-west-1", &form);
    let asked = read(&plain).expect("a form");
    assert!(asked.form && asked.operation.is_none());
    let claimed = AwsRequest { action: "RunInstances".into(), body: true, ..plain.clone() };
    assert_eq!(read(&claimed).expect("a form").operation, Some("RunInstances"));
    let unknown = AwsRequest { action: "BrandNew".into(), ..plain.clone() };
    assert_eq!(read(&unknown).expect("a form").operation, None);
    let elsewhere = AwsRequest { target: "/other".into(), action: "RunInstances".into(), ..plain.clone() };
    assert_eq!(read(&elsewhere).expect("a form").operation, None);
    for (bad, why) in [
        (AwsRequest { action: "Run Instances".into(), ..plain.clone() }, "no name"),
        (AwsRequest { action: "a".repeat(129), ..plain.clone() }, "too long"),
        (
            AwsRequest { target: "/?Action=DescribeInstances".into(), action: "RunInstances".into(), ..plain.clone() },
            "two",
        ),
        (AwsRequest { target: "/?Action=DescribeInstances".into(), ..plain.clone() }, "two"),
        (AwsRequest { method: "GET".into(), action: "RunInstances".into(), ..plain }, "no form"),
    ] {
        assert_eq!(read(&bad).expect_err(why).code, Code::InvalidArgument);
    }
    let get = |target: &str, body: bool| {
        let request = request("GET", "sts.amazonaws.com", target, "sts", "us-east-1", &[]);
        read(&AwsRequest { body, ..request }).expect(target).operation
    };
    assert_eq!(get("/?Action=GetCallerIdentity&Version=2011-06-15", false), Some("GetCallerIdentity"));
    assert_eq!(get("/?Action=GetCallerIdentity&Version=2011-06-15", true), None);
    assert_eq!(get("/?Action=GetCallerIdentity&Action=AssumeRole", false), None);
    let cbor = |path: &str| {
        read(&request("POST", "monitoring.eu-west-1.amazonaws.com", path, "monitoring", "eu-west-1", &[]))
            .expect(path)
            .operation
    };
    assert_eq!(cbor("/service/GraniteServiceVersion20100801/operation/PutMetricData"), Some("PutMetricData"));
    assert_eq!(cbor("/service/Other/operation/PutMetricData"), None);
    assert_eq!(operation_of("s3", "GetObject"), Some("GetObject"));
    assert_eq!(operation_of("s3", "RunInstances"), None);
}

#[test]
fn the_action_of_a_form() {
    for (form, expected) in [
        ("Action=RunInstances&Version=2016-11-15", Some("RunInstances")),
        ("Version=1&Action=Get%43allerIdentity", Some("GetCallerIdentity")),
        ("A%63tion=RunInstances", Some("RunInstances")),
        ("", None),
        ("Version=1", None),
        ("Action=", None),
        ("Action=A&Action=A", None),
        ("Action=A&action=B", None),
        ("Action=A&+Action=B", None),
        ("Action=A&A%63tion=B", None),
        ("Action=A%", None),
        ("Action=A%00", None),
        ("Action=A B", None),
        ("Action=A&%ff=1", None),
    ] {
        assert_eq!(action(form.as_bytes()).as_deref(), expected, "{form}");
    }
    assert_eq!(action(&[0x1f, 0x8b, 0xff]), None);
}
