//! What an entry of `[sources]` names: files are read, and an app of GitHub's is given a token for its installation.
//! <https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-an-installation-access-token-for-a-github-app>

use http::Method;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http_body_util::Full;
use prost::Message as _;
use serde_json::{Value, json};
use shared_proto::address::Address;
use shared_proto::failure::Code;
use shared_proto::v1::{ResolveSource, SourceAccess};
use std::path::Path;

use super::http::{Answer, exchange_with};
use super::{file, signed, unavailable};
use crate::fault::{Fault, words};
use crate::net::Dialer;

/// As whom a token of an installation is shown.
/// <https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/authenticating-as-a-github-app-installation>
const USER: &str = "x-access-token";
/// The API's version that this is written to.
const VERSION: (&str, &str) = ("x-github-api-version", "2022-11-28");
/// How long what the app signs is good for, seconds, and how far its clock may be ahead: at most ten minutes are taken.
const SIGNED_SECONDS: i64 = 540;
const AHEAD_SECONDS: i64 = 60;
/// All that an entry gives, bytes: it goes back in one frame of 256 KiB.
const ACCESS_MAX: usize = 192 * 1024;
/// A token that is longer is none, bytes.
const TOKEN_MAX: usize = 16 * 1024;

/// What the entry gives.
///
/// # Errors
/// `credentials_unavailable`, never with what a file holds.
pub(super) async fn resolve(entry: &str, how: &ResolveSource, dialer: &Dialer) -> Result<SourceAccess, Fault> {
    let read = |what: &str, path: &str| match path {
        "" => Ok(String::new()),
        path => file::read(what, Path::new(path)),
    };
    let mut access = SourceAccess {
        entry: entry.to_owned(),
        pattern: how.pattern.clone(),
        modules: how.modules,
        ca_pem: read("the certificate authorities", &how.ca_file)?,
        allowed_signers: read("the allowed signers", &how.allowed_signers_file)?,
        ..SourceAccess::default()
    };
    if !how.keyring_file.is_empty() {
        access.keyring = file::read_bytes("the keyring", Path::new(&how.keyring_file))?;
    }
    match how.kind.as_str() {
        "none" => {}
        "token" => {
            access.user.clone_from(&how.user);
            access.password = match how.token_file.as_str() {
                "" => token("the variable that token_variable names", &how.token)?,
                path => token(&format!("the token {path}"), &file::read("the token", Path::new(path))?)?,
            };
        }
        "ssh" => {
            access.ssh_key = file::read("the key", Path::new(&how.key_file))?;
            if !access.ssh_key.contains("PRIVATE KEY") {
                return Err(unavailable(format!("the key {}: it is no private key", how.key_file)));
            }
            access.known_hosts = file::read("the known hosts", Path::new(&how.known_hosts_file))?;
            if access.known_hosts.trim().is_empty() {
                return Err(unavailable(format!("the known hosts {}: there are none", how.known_hosts_file)));
            }
        }
        "github-app" => {
            access.user = USER.to_owned();
            access.password = of_installation(how, &access.ca_pem, dialer).await?;
        }
        _ => return Err(Fault::new(Code::UnsupportedVersion, "this runner does not know that kind of source")),
    }
    if access.encoded_len() > ACCESS_MAX {
        let what = format!("the files that it names have more than {ACCESS_MAX} bytes together");
        return Err(unavailable(what).next("Name files with those authorities, hosts and keys alone that it is for."));
    }
    Ok(access)
}

/// A token as a file or a variable has it: one word.
fn token(shown: &str, text: &str) -> Result<String, Fault> {
    match text.trim() {
        "" => Err(unavailable(format!("{shown} is empty or not there"))),
        word if word.len() <= TOKEN_MAX && word.bytes().all(|b| b.is_ascii_graphic()) => Ok(word.to_owned()),
        _ => Err(unavailable(format!("{shown} is no token: it is longer than {TOKEN_MAX} bytes, or not one word"))),
    }
}

async fn of_installation(how: &ResolveSource, ca_pem: &str, dialer: &Dialer) -> Result<String, Fault> {
    let key = file::read("the app's private key", Path::new(&how.private_key_file))?;
    let now = shared_proto::now_ms() / 1000;
    // <https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app>
    let claims = json!({"iss": how.app_id, "iat": now - AHEAD_SECONDS, "exp": now + SIGNED_SECONDS});
    let assertion = signed::rs256(&json!({"alg": "RS256", "typ": "JWT"}), &claims, &key)
        .map_err(|why| unavailable(format!("the app's private key {}: {why}", how.private_key_file)))?;
    let address = Address::parse(&how.api_url).map_err(|why| unavailable(format!("api_url: {why}")))?;
    let wrong = |what: String| unavailable(format!("the installation's token: {what}"));
    // an installation's id is a number in the configuration
    let path = format!("{}/app/installations/{}/access_tokens", address.prefix, how.installation_id);
    let mut bearer = HeaderValue::from_str(&format!("Bearer {assertion}"))
        .map_err(|_| wrong("what is signed cannot be sent".into()))?;
    bearer.set_sensitive(true);
    let request = http::Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(ACCEPT, "application/vnd.github+json")
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("runner/", env!("CARGO_PKG_VERSION")))
        .header(HeaderName::from_static(VERSION.0), VERSION.1)
        .header(AUTHORIZATION, bearer)
        // all that the installation may do would be more than is needed
        .body(Full::from(r#"{"permissions":{"contents":"read"}}"#))
        .map_err(|_| wrong("its path is none".into()))?;
    let Answer { status, body, .. } = exchange_with(dialer, &address, ca_pem, request).await.map_err(wrong)?;
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    if !status.is_success() {
        let message = words(said["message"].as_str().unwrap_or_default());
        return Err(wrong(format!("{} answered {status}: {message}", address.shown()))
            .next("Check app_id, installation_id and the key, and that the app may read contents."));
    }
    token(&format!("the token that {} gave", address.shown()), said["token"].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(kind: &str) -> ResolveSource {
        ResolveSource { kind: kind.into(), pattern: "https://h/*".into(), modules: true, ..Default::default() }
    }

    #[tokio::test]
    async fn files_and_variables() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("writes");
            path.display().to_string()
        };
        let (token, key, hosts, empty) = (
            write("token", " secret-token\n"),
            write("key", "-----BEGIN OPENSSH PRIVATE KEY-----\n"),
            write("hosts", "h ssh-ed25519 AAAA\n"),
            write("empty", "\n"),
        );
        let by_file = ResolveSource { token_file: token.clone(), user: "u".into(), ..how("token") };
        let got = resolve("e", &by_file, &Dialer::none()).await.expect("resolves");
        assert_eq!((got.entry.as_str(), got.user.as_str(), got.password.as_str()), ("e", "u", "secret-token"));
        let by_variable = ResolveSource { token: "secret-two".into(), ..how("token") };
        assert_eq!(resolve("e", &by_variable, &Dialer::none()).await.expect("resolves").password, "secret-two");
        let ssh = ResolveSource { key_file: key, known_hosts_file: hosts, ..how("ssh") };
        let got = resolve("e", &ssh, &Dialer::none()).await.expect("resolves");
        assert!(got.known_hosts.starts_with("h ssh-ed25519") && got.password.is_empty() && got.modules);
        for (bad, says) in [
            (how("token"), "token_variable"),
            (ResolveSource { token_file: empty.clone(), ..how("token") }, "empty"),
            (ResolveSource { token: "two words".into(), ..how("token") }, "not one word"),
            (ResolveSource { token: "x".repeat(TOKEN_MAX + 1), ..how("token") }, "longer than"),
            (ResolveSource { key_file: token.clone(), ..ssh.clone() }, "no private key"),
            (ResolveSource { known_hosts_file: empty, ..ssh.clone() }, "there are none"),
            (ResolveSource { known_hosts_file: "/none".into(), ..ssh.clone() }, "No such file"),
            (
                ResolveSource { private_key_file: token, api_url: "http://127.0.0.1:1".into(), ..how("github-app") },
                "no key",
            ),
            (how("x"), "does not know"),
        ] {
            let fault = resolve("e", &bad, &Dialer::none()).await.expect_err(says);
            assert!(fault.failure.message.contains(says), "{}", fault.failure.message);
            assert!(!fault.failure.message.contains("secret-token"), "{}", fault.failure.message);
        }
    }

    #[tokio::test]
    async fn both_sides_of_what_all_files_together_may_have() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca");
        let with = |bytes: usize| {
            std::fs::write(&path, "x".repeat(bytes)).expect("writes");
            ResolveSource { ca_file: path.display().to_string(), ..how("none") }
        };
        assert!(resolve("e", &with(ACCESS_MAX - 100), &Dialer::none()).await.is_ok());
        let fault = resolve("e", &with(ACCESS_MAX), &Dialer::none()).await.expect_err("too much");
        assert!(fault.failure.message.contains("together"), "{}", fault.failure.message);
    }

    #[test]
    fn both_sides_of_a_tokens_length() {
        assert!(token("t", &"x".repeat(TOKEN_MAX)).is_ok());
        assert!(token("t", &"x".repeat(TOKEN_MAX + 1)).is_err());
    }
}
