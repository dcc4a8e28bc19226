//! The environment of what runs behind the proxy: the throw-away credentials, the way to the proxy, and nothing by which a client of AWS
//! would find others.

use super::keys::{Keys, USER};
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::Path;

/// Variables of AWS' clients that say how and not as whom: they stay. All others that begin with `AWS_` go.
const STAY: &[&str] = &[
    "AWS_PAGER",
    "AWS_DEFAULT_OUTPUT",
    "AWS_CLI_AUTO_PROMPT",
    "AWS_CLI_FILE_ENCODING",
    "AWS_CLI_HISTORY_FILE",
    "AWS_MAX_ATTEMPTS",
    "AWS_RETRY_MODE",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
];
/// Ends of AWS' hosts: what names them in NO_PROXY would lead past the proxy.
const DOMAINS: [&str; 13] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "api.aws",
    "api.amazonwebservices.com.cn",
    "api.amazonwebservices.eu",
    "c2s.ic.gov",
    "sc2s.sgov.gov",
    "csp.hci.ic.gov",
    "cloud.adc-e.uk",
    "api.aws.ic.gov",
    "api.aws.scloud",
    "api.cloud-aws.adc-e.uk",
];

/// What is taken away and what is set, for the environment that runnerctl has.
pub(super) fn changes(
    own: impl Iterator<Item = (OsString, OsString)>,
    keys: &Keys,
    proxy: SocketAddr,
    ca: &Path,
    region: Option<&str>,
) -> (Vec<OsString>, Vec<(&'static str, OsString)>) {
    let (mut away, mut past) = (Vec::new(), String::new());
    for (name, value) in own {
        let Some(text) = name.to_str() else { continue };
        if text.starts_with("AWS_") && !STAY.contains(&text) {
            away.push(name);
        } else if text.eq_ignore_ascii_case("no_proxy") {
            let kept = past_the_proxy(&value.to_string_lossy());
            past = if past.is_empty() || past == kept { kept } else { format!("{past},{kept}") };
        }
    }
    let url = OsString::from(format!("http://{USER}:{}@{proxy}", keys.password.expose()));
    let mut set = vec![
        ("AWS_ACCESS_KEY_ID", OsString::from(&keys.access_key_id)),
        ("AWS_SECRET_ACCESS_KEY", OsString::from(keys.secret_access_key.expose())),
        ("AWS_CA_BUNDLE", ca.as_os_str().to_owned()),
        // no other credentials, no other endpoints, no role to be assumed
        ("AWS_SHARED_CREDENTIALS_FILE", OsString::from("/dev/null")),
        ("AWS_CONFIG_FILE", OsString::from("/dev/null")),
        ("AWS_EC2_METADATA_DISABLED", OsString::from("true")),
        // some programs look at the one, some at the other
        ("HTTPS_PROXY", url.clone()),
        ("https_proxy", url),
        ("NO_PROXY", OsString::from(&past)),
        ("no_proxy", OsString::from(&past)),
    ];
    if let Some(region) = region {
        set.extend([("AWS_REGION", OsString::from(region)), ("AWS_DEFAULT_REGION", OsString::from(region))]);
    }
    (away, set)
}

/// A NO_PROXY without what would take requests to AWS past the proxy, where they would have no credentials.
fn past_the_proxy(given: &str) -> String {
    let kept = given.split(',').map(str::trim).filter(|entry| {
        let host = entry.trim_start_matches('*').trim_start_matches('.').split(':').next().unwrap_or_default();
        let host = host.to_ascii_lowercase();
        // an entry is the end of hosts' names, so that `com` is one of all of AWS'
        let leads = |domain: &str| domain.ends_with(&host) || host.ends_with(domain);
        !host.is_empty() && !DOMAINS.iter().any(|domain| leads(domain))
    });
    kept.collect::<Vec<_>>().join(",")
}

/// The program of a shell.
pub(super) fn shell() -> OsString {
    std::env::var_os("SHELL").filter(|s| !s.is_empty()).unwrap_or_else(|| OsStr::new("/bin/sh").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_other_credentials_stays() {
        let keys = Keys::new().expect("random");
        let own = [
            ("AWS_PROFILE", "prod"),
            ("AWS_SESSION_TOKEN", "x"),
            ("AWS_ENDPOINT_URL_S3", "http://evil.example"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"),
            ("AWS_PAGER", ""),
            ("HOME", "/h"),
            ("NO_PROXY", "localhost,.amazonaws.com,registry.example"),
        ];
        let own = own.into_iter().map(|(n, v)| (OsString::from(n), OsString::from(v)));
        let proxy = "127.0.0.1:4000".parse().expect("an address");
        let (away, set) = changes(own, &keys, proxy, Path::new("/tmp/ca.pem"), Some("eu-west-1"));
        assert_eq!(away, ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_WEB_IDENTITY_TOKEN_FILE"]);
        let value = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string_lossy().into_owned());
        assert_eq!(value("NO_PROXY").as_deref(), Some("localhost,registry.example"));
        assert_eq!(value("AWS_REGION"), value("AWS_DEFAULT_REGION"));
        assert!(
            value("HTTPS_PROXY").is_some_and(|v| v.starts_with("http://runner:") && v.ends_with("@127.0.0.1:4000"))
        );
        assert_eq!(value("SSL_CERT_FILE"), None);
    }

    #[test]
    fn what_may_go_past_the_proxy() {
        for (given, kept) in [
            ("", ""),
            ("*", ""),
            ("com, localhost", "localhost"),
            ("amazonaws.com,.AMAZONAWS.com,*.amazonaws.com", ""),
            ("s3.eu-west-1.amazonaws.com:443", ""),
            ("127.0.0.1,10.0.0.0/8,.corp.example", "127.0.0.1,10.0.0.0/8,.corp.example"),
            ("notamazon.example", "notamazon.example"),
        ] {
            assert_eq!(past_the_proxy(given), kept, "{given}");
        }
    }
}
