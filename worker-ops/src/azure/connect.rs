//! Where Azure's services are, how they are asked, and when they are asked again.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Uri};
use http_body_util::Full;
use serde_json::Value;
use shared_proto::address::{Address, host_and_port};
use shared_proto::azure::{Cloud, is_guid, is_vault};
use shared_proto::failure::Code;
use shared_proto::v1::AzureTarget;
use std::time::Duration;

use super::errors;
use crate::fault::Fault;
use crate::net::{Again, Client, Dialer, Endpoint, read_all};

/// The longest answer that is taken, bytes.
const ANSWER_MAX: usize = 32 * 1024 * 1024;
/// The longest wait, whoever names it: who asks for more is told of at once.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Pages of one list: a service that gives pages for ever must not be read for ever.
pub(super) const PAGES_MAX: usize = 200;

/// What the credentials reach, in one subscription or in none.
pub(super) struct Account {
    management: Service,
    logs: Result<Service, String>,
    management_token: String,
    subscription: String,
    tenant: String,
    cloud: Cloud,
}

/// A service, and the token for it.
struct Service {
    client: Client,
    token: HeaderValue,
    name: &'static str,
}

/// One Key Vault, and nothing else of Azure.
pub(super) struct KeyVault(Service);

// === impl KeyVault ===

impl KeyVault {
    /// Checks target and name; connects with the first request.
    pub(super) fn new(target: AzureTarget, vault: &str, dialer: &Dialer) -> Result<Self, Fault> {
        let wrong = |what: String| Fault::new(Code::CredentialsUnavailable, what);
        let cloud = Cloud::from_name(&target.cloud).ok_or_else(|| wrong(format!("{:?} is no cloud", target.cloud)))?;
        // it becomes part of a host's name
        if !is_vault(vault) {
            return Err(Fault::new(Code::InvalidArgument, format!("{vault:?} is no Key Vault's name")));
        }
        if target.vault_token.is_empty() {
            return Err(wrong(format!("the connection has no token for Key Vault: {}", target.vault_failure)));
        }
        let instead = Endpoint::instead(&target.endpoint_url)?;
        let host = format!("{vault}.{}", cloud.vault());
        Service::new("Key Vault", host, &target.vault_token, instead.as_ref(), dialer).map(Self)
    }
    /// What is at a path with its query.
    pub(super) async fn get(&mut self, target: &str) -> Result<Value, Fault> {
        self.0.json("GET", target, None).await
    }
}

// === impl Account ===

impl Account {
    /// Where Resource Manager is.
    pub(super) fn address(&self) -> &Address {
        self.management.address()
    }
    /// Checks target and subscription; connects with the first request.
    pub(super) fn new(target: AzureTarget, asked: &str, dialer: &Dialer) -> Result<Self, Fault> {
        let subscription = if asked.is_empty() { target.subscription } else { asked.to_owned() };
        // it becomes part of a path
        if !subscription.is_empty() && !is_guid(&subscription) {
            return Err(Fault::new(Code::InvalidArgument, format!("{subscription:?} is no subscription's id"))
                .next("Name a subscription by its id; `runnerctl` lists them as places."));
        }
        let cloud = Cloud::from_name(&target.cloud)
            .ok_or_else(|| Fault::new(Code::CredentialsUnavailable, format!("{:?} is no cloud", target.cloud)))?;
        let instead = Endpoint::instead(&target.endpoint_url)?;
        let service =
            |name, host: &str, token: &str| Service::new(name, host.to_owned(), token, instead.as_ref(), dialer);
        if target.management_token.is_empty() {
            return Err(Fault::new(Code::CredentialsUnavailable, "the connection has no token for Azure"));
        }
        let logs = match target.logs_token.as_str() {
            "" => Err(target.logs_failure),
            token => Ok(service("Log Analytics", cloud.logs(), token)?),
        };
        Ok(Self {
            management: service("Azure", cloud.management(), &target.management_token)?,
            logs,
            management_token: target.management_token,
            subscription,
            tenant: target.tenant,
            cloud,
        })
    }

    /// The subscription that is asked.
    ///
    /// # Errors
    /// `invalid_argument`: there is none.
    pub(super) fn subscription(&self) -> Result<&str, Fault> {
        match self.subscription.as_str() {
            "" => Err(Fault::new(Code::InvalidArgument, "no subscription is named and the connection has none")
                .next("Name one as the place, or give the connection's entry a subscription.")),
            id => Ok(id),
        }
    }
    /// The same where there is one.
    pub(super) fn place(&self) -> Option<&str> {
        Some(self.subscription.as_str()).filter(|id| !id.is_empty())
    }
    pub(super) fn token(&self) -> &str {
        &self.management_token
    }
    /// A resource's page in the portal.
    pub(super) fn link(&self, id: &str) -> String {
        let path = id.split('/').map(crate::net::url::encode).collect::<Vec<_>>().join("/");
        let tenant = if self.tenant.is_empty() { String::new() } else { format!("@{}/", self.tenant) };
        format!("https://{}/#{tenant}resource{path}", self.cloud.portal())
    }

    /// What Resource Manager has at a path with its query.
    pub(super) async fn get(&mut self, target: &str) -> Result<Value, Fault> {
        self.management.json("GET", target, None).await
    }
    /// What Resource Graph answers.
    pub(super) async fn post(&mut self, target: &str, body: &Value) -> Result<Value, Fault> {
        self.management.json("POST", target, Some(body)).await
    }
    /// What Log Analytics answers.
    pub(super) async fn query(&mut self, target: &str, body: &Value) -> Result<Value, Fault> {
        match &mut self.logs {
            Ok(service) => service.json("POST", target, Some(body)).await,
            Err(why) => {
                let message = format!("the connection has no token for Log Analytics: {why}");
                Err(Fault::new(Code::CredentialsUnavailable, message)
                    .next("See that the connection's identity may have tokens of the Log Analytics API."))
            }
        }
    }

    /// One page of a list, and where the next one is.
    ///
    /// # Errors
    /// `target_failed`: it is said to be somewhere else.
    pub(super) async fn page(&mut self, target: &str) -> Result<(Vec<Value>, Option<String>), Fault> {
        let mut page = self.get(target).await?;
        let items = match page.get_mut("value").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => return Err(Fault::new(Code::TargetFailed, "Azure: an answer that should be a list is none")),
        };
        let next = page["nextLink"].as_str().filter(|link| !link.is_empty());
        let next = next.map(|link| following(link, self.management.address(), target)).transpose()?;
        Ok((items, next))
    }
}

// === impl Service ===

impl Service {
    fn new(
        name: &'static str,
        host: String,
        token: &str,
        instead: Option<&Address>,
        dialer: &Dialer,
    ) -> Result<Self, Fault> {
        let endpoint = Endpoint::of_service(host, instead, dialer.clone())?;
        let mut token = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Fault::new(Code::CredentialsUnavailable, "the connection's token is none"))?;
        token.set_sensitive(true);
        Ok(Self { client: Client::new(endpoint), token, name })
    }
    fn address(&self) -> &Address {
        &self.client.endpoint().address
    }

    /// Sends until there is an answer that stays: every call here reads, so sending one twice does no harm.
    async fn json(&mut self, method: &str, target: &str, body: Option<&Value>) -> Result<Value, Fault> {
        let mut again = Again::new(WAIT_MAX);
        loop {
            match self.attempt(method, target, body).await {
                Ok(answer) => return Ok(answer),
                Err((fault, asks)) => again.after(fault, asks).await?,
            }
        }
    }

    /// Once; a failure comes with how long the service asks to be left alone.
    async fn attempt(
        &mut self,
        method: &str,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Value, (Fault, Option<Duration>)> {
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut builder = http::Request::builder()
            .method(method)
            .uri(format!("{}{target}", self.address().prefix))
            .header(AUTHORIZATION, self.token.clone())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("runner/", env!("CARGO_PKG_VERSION")));
        if body.is_some() {
            builder = builder.header(CONTENT_TYPE, "application/json");
        }
        let request = builder
            .body(Full::new(bytes))
            .map_err(|e| (Fault::new(Code::Internal, format!("{}: a request cannot be made: {e}", self.name)), None))?;
        let answer = self.client.send(request).await.map_err(|fault| (fault, None))?;
        let (status, wait) = (answer.status(), retry_after(answer.headers()));
        let endpoint = self.client.endpoint();
        let read = read_all(endpoint, answer.into_body(), ANSWER_MAX).await.map_err(|fault| (fault, None))?;
        let body = read.ok_or_else(|| {
            let message = format!("{}: an answer is longer than {ANSWER_MAX} bytes", endpoint.shown());
            (Fault::new(Code::TooLarge, message).next("Ask for less at once."), None)
        })?;
        if !status.is_success() {
            return Err((errors::refusal(self.name, status, &body), wait));
        }
        serde_json::from_slice(&body).map_err(|e| {
            let message = format!("{}: an answer is not the JSON that Azure sends: {e}", self.name);
            (Fault::new(Code::TargetRefused, message).next("Check that the address is Azure's own."), None)
        })
    }
}

/// Path and query of the next page: of the same host and the same list, whatever the answer says.
fn following(link: &str, address: &Address, target: &str) -> Result<String, Fault> {
    let elsewhere = || Fault::new(Code::TargetRefused, "Azure: the next page of a list is said to be somewhere else");
    let uri: Uri = link.parse().map_err(|_| elsewhere())?;
    let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(elsewhere)?;
    let (https, default) = match uri.scheme_str() {
        Some("https") => (true, 443),
        Some("http") => (false, 80),
        _ => return Err(elsewhere()),
    };
    let (host, port) = host_and_port(authority, default).map_err(|_| elsewhere())?;
    let path = uri.path().strip_prefix(address.prefix.as_str()).ok_or_else(elsewhere)?;
    let same = https == address.https && host.eq_ignore_ascii_case(&address.host) && port == address.port;
    let first = target.split('?').next().unwrap_or_default();
    // ids of groups and resources are the same whatever their case
    if !same || !path.eq_ignore_ascii_case(first) {
        return Err(elsewhere());
    }
    Ok(uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")))
}

/// Seconds, as Azure writes them; anything else is not known here.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> AzureTarget {
        AzureTarget { management_token: "t0ken".into(), ..Default::default() }
    }

    #[tokio::test]
    async fn a_place_is_a_subscriptions_id() {
        for bad in ["x", "../x", "0b1f6471-1bf0-4dda-aec3-cb9272f09590/x", "0b1f6471-1bf0-4dda-aec3-cb9272f0959%"] {
            assert_eq!(Account::new(target(), bad, &Dialer::none()).err().expect(bad).code(), Code::InvalidArgument);
        }
        let account = Account::new(target(), "", &Dialer::none()).expect("fine");
        assert!(account.subscription().is_err() && account.place().is_none());
        let empty = AzureTarget::default();
        assert_eq!(
            Account::new(empty, "", &Dialer::none()).err().expect("no token").code(),
            Code::CredentialsUnavailable
        );
        let forged = AzureTarget { management_token: "a\r\nX: b".into(), ..Default::default() };
        let fault = Account::new(forged, "", &Dialer::none()).err().expect("no header");
        assert!(!fault.failure.to_string().contains("X: b"), "{}", fault.failure);
    }

    #[test]
    fn the_next_page_is_on_the_same_host_and_of_the_same_list() {
        let azure = Address::parse("https://management.azure.com").expect("a URL");
        let first = "/subscriptions/S/resources?api-version=1";
        for good in [
            "https://management.azure.com/subscriptions/S/resources?$skiptoken=x",
            "https://management.azure.com:443/subscriptions/s/RESOURCES?$skiptoken=x%2F",
            "https://MANAGEMENT.azure.com/subscriptions/S/resources",
        ] {
            assert!(
                following(good, &azure, first).expect(good).to_lowercase().starts_with("/subscriptions/s/resources")
            );
        }
        for bad in [
            "https://evil.example/subscriptions/S/resources?x",
            "http://management.azure.com/subscriptions/S/resources?x",
            "https://management.azure.com:8443/subscriptions/S/resources?x",
            "https://management.azure.com@evil.example/subscriptions/S/resources?x",
            "https://u@management.azure.com/subscriptions/S/resources?x",
            "https://management.azure.com.evil.example/subscriptions/S/resources?x",
            "https://management.azure.com/subscriptions/S/providers?x",
            "https://management.azure.com/subscriptions/S/resources/../../T?x",
            "/subscriptions/S/resources?x",
            "//evil.example/subscriptions/S/resources",
            "nonsense \u{e9}",
        ] {
            assert_eq!(following(bad, &azure, first).expect_err(bad).code(), Code::TargetRefused, "{bad}");
        }
        let prefixed = Address::parse("http://127.0.0.1:5000/arm").expect("a URL");
        assert_eq!(
            following("http://127.0.0.1:5000/arm/subscriptions/S/resources?a", &prefixed, first).expect("fine"),
            "/subscriptions/S/resources?a"
        );
        assert!(following("http://127.0.0.1:5000/subscriptions/S/resources?a", &prefixed, first).is_err());
    }

    #[tokio::test]
    async fn links_are_of_the_clouds_own_portal() {
        let link = |cloud: &str, tenant: &str| {
            let target = AzureTarget { cloud: cloud.into(), tenant: tenant.into(), ..target() };
            Account::new(target, "", &Dialer::none()).expect("fine").link("/subscriptions/S/x y\"<")
        };
        assert_eq!(link("", "a.b"), "https://portal.azure.com/#@a.b/resource/subscriptions/S/x%20y%22%3C");
        assert_eq!(link("usgovernment", ""), "https://portal.azure.us/#resource/subscriptions/S/x%20y%22%3C");
        assert!(link("china", "").starts_with("https://portal.azure.cn/"));
    }
}
