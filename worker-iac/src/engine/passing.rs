//! Errors that pass by themselves: a service that asks to slow down, is not there for a moment, or does not answer in time. What fails of such alone
//! may be tried again, where it has changed nothing. Must never take what a person has to mend for one: in doubt it is none.

use std::time::Duration;

/// Between two attempts, in turn; the last one again and again.
const PAUSES: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(20), Duration::from_secs(60)];

/// What says so, in lower case, in the words of the engines, of providers' SDKs and of Go's own libraries.
const WORDS: &[&str] = &[
    // asked to slow down
    "throttling",
    "throttled",
    "too many requests",
    "toomanyrequests",
    "rate exceeded",
    "rate limit exceeded",
    "ratelimitexceeded",
    "requestlimitexceeded",
    "provisionedthroughputexceeded",
    "slowdown: ",
    "please reduce your request rate",
    "statuscode: 429",
    "status code: 429",
    "status 429",
    // not there for a moment
    "statuscode: 500",
    "statuscode: 502",
    "statuscode: 503",
    "statuscode: 504",
    "status code: 500",
    "status code: 502",
    "status code: 503",
    "status code: 504",
    "500 internal server error",
    "502 bad gateway",
    "503 service unavailable",
    "504 gateway timeout",
    "504 gateway time-out",
    "serviceunavailable: ",
    "the server is currently unable to handle the request",
    "etcdserver: request timed out",
    "etcdserver: leader changed",
    // the network
    "connection reset by peer",
    "connection timed out",
    "tls handshake timeout",
    "i/o timeout",
    "unexpected eof",
    "net/http: timeout awaiting response headers",
    "client.timeout exceeded",
    "temporary failure in name resolution",
    "server misbehaving",
    "http2: server sent goaway",
    "stream error: stream id",
];

/// Whether an error is one, by its words.
pub(super) fn is(summary: &str, detail: &str) -> bool {
    [summary, detail].into_iter().any(|text| {
        let text = text.to_ascii_lowercase();
        WORDS.iter().any(|words| text.contains(words))
    })
}

/// How long to wait before the attempt after so many.
pub(super) fn pause(tries: u32) -> Duration {
    PAUSES[(tries as usize).min(PAUSES.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_and_what_does_not() {
        for passes in [
            "api error ThrottlingException: Rate exceeded",
            "operation error EC2: DescribeInstances, https response error StatusCode: 503, RequestID: x",
            "Get \"https://registry.opentofu.org/v1/providers/hashicorp/aws/versions\": net/http: TLS handshake timeout",
            "read tcp 10.0.0.1:3333->10.0.0.2:443: read: connection reset by peer",
            "googleapi: Error 429: Quota exceeded, rateLimitExceeded",
            "dial tcp: lookup management.azure.com: Temporary failure in name resolution",
        ] {
            assert!(is(passes, "") && is("Error", passes), "{passes}");
        }
        for stays in [
            "",
            "Invalid value for variable",
            "UnauthorizedOperation: You are not authorized to perform this operation. status code: 403",
            "Error acquiring the state lock",
            "connection refused",
            "no such host",
            "The specified bucket does not exist. StatusCode: 404",
            "LimitExceeded: you have 5 of 5 VPCs",
        ] {
            assert!(!is(stays, ""), "{stays}");
        }
        assert_eq!((pause(0), pause(2), pause(9)), (PAUSES[0], PAUSES[2], PAUSES[2]));
    }
}
