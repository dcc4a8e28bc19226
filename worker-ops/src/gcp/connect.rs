//! Where Google's services are, what a request carries, and when it is sent again.

use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http_body_util::Full;
use serde_json::Value;
use shared_proto::address::Address;
use shared_proto::failure::Code;
use shared_proto::inventory::gcp::is_project;
use shared_proto::v1::GcpTarget;
use std::time::Duration;

use super::errors;
use crate::fault::Fault;
use crate::net::url::form;
use crate::net::{Again, Client, Dialer, Endpoint, Request, read_all};

/// The longest answer that is taken, bytes.
pub(super) const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// The longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// What the credentials may see, and the project that is asked.
pub(super) struct Projects {
    authorization: HeaderValue,
    /// Who is billed for requests; `None`: whose the resource is.
    quota_project: Option<HeaderValue>,
    principal: String,
    project: String,
    /// A stand-in or private endpoint, for every service.
    endpoint_url: Option<Address>,
    client: Option<(&'static str, Client)>,
    dialer: Dialer,
}

// === impl Projects ===

impl Projects {
    /// Checks target and project; connects with the first request.
    pub(super) fn new(target: GcpTarget, asked: &str, dialer: &Dialer) -> Result<Self, Fault> {
        let project = if asked.is_empty() { target.project } else { asked.to_owned() };
        // it becomes part of a path
        if !project.is_empty() && !is_project(&project) {
            return Err(Fault::new(Code::InvalidArgument, format!("{project:?} is no project's id or number")));
        }
        let wrong = |what: String| Fault::new(Code::CredentialsUnavailable, what);
        let endpoint_url = Endpoint::instead(&target.endpoint_url)?;
        if target.access_token.is_empty() {
            return Err(wrong("the connection has no access token".to_owned()));
        }
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", target.access_token))
            .map_err(|_| wrong("the connection's access token cannot be sent in a header".to_owned()))?;
        authorization.set_sensitive(true);
        let quota_project = match target.quota_project.as_str() {
            "" => None,
            name => Some(
                HeaderValue::from_str(name)
                    .map_err(|_| wrong("the connection's quota_project is no project".to_owned()))?,
            ),
        };
        let principal = target.principal;
        Ok(Self {
            authorization,
            quota_project,
            principal,
            project,
            endpoint_url,
            client: None,
            dialer: dialer.clone(),
        })
    }

    /// Who the source of the credentials says they are; empty: it says nothing.
    pub(super) fn principal(&self) -> &str {
        &self.principal
    }
    /// Empty: none is named, and the connection has none.
    pub(super) fn name(&self) -> &str {
        &self.project
    }
    /// The project that is asked.
    ///
    /// # Errors
    /// `invalid_argument`: there is none.
    pub(super) fn project(&self) -> Result<&str, Fault> {
        if self.project.is_empty() {
            return Err(Fault::new(Code::InvalidArgument, "no project is named and the connection has none")
                .next("Name one as the place, or give the connection's entry a project."));
        }
        Ok(&self.project)
    }

    /// Reads; the query's values are encoded here.
    pub(super) async fn get(
        &mut self,
        service: &'static str,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Value, Fault> {
        let query = form(query.iter().copied());
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        self.call(service, Method::GET, &target, None).await
    }

    /// Reads by a method that takes what is asked as a document; `None`: as nothing.
    pub(super) async fn post(
        &mut self,
        service: &'static str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Fault> {
        self.call(service, Method::POST, path, body).await
    }

    /// Sends until there is an answer that stays: every call here reads, so sending one twice does no harm.
    async fn call(
        &mut self,
        service: &'static str,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Value, Fault> {
        let mut again = Again::new(WAIT_MAX);
        loop {
            match self.attempt(service, &method, target, body).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => again.after(fault, None).await?,
            }
        }
    }

    async fn attempt(
        &mut self,
        service: &'static str,
        method: &Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Value, Fault> {
        let client = match &mut self.client {
            Some((of, client)) if *of == service => client,
            other => {
                let (host, instead) = (format!("{service}.googleapis.com"), self.endpoint_url.as_ref());
                let endpoint = Endpoint::of_service(host, instead, self.dialer.clone())?;
                &mut other.insert((service, Client::new(endpoint))).1
            }
        };
        let internal =
            |e: http::Error| Fault::new(Code::Internal, format!("a request to {service} cannot be made: {e}"));
        let mut builder = http::Request::builder()
            .method(method)
            .uri(format!("{}{target}", client.endpoint().address.prefix))
            .header(USER_AGENT, concat!("runner/", env!("CARGO_PKG_VERSION")))
            .header(AUTHORIZATION, &self.authorization);
        if let Some(project) = &self.quota_project {
            builder = builder.header("x-goog-user-project", project);
        }
        let body = match body {
            Some(document) => {
                builder = builder.header(CONTENT_TYPE, "application/json");
                Full::new(document.to_string().into())
            }
            None => Full::default(),
        };
        let request: Request = builder.body(body).map_err(internal)?;
        let answer = client.send(request).await?;
        let status = answer.status();
        let body = read_all(client.endpoint(), answer.into_body(), ANSWER_MAX).await?;
        // not tried again: it would be as long
        let body = body.ok_or_else(|| {
            Fault::new(Code::TooLarge, format!("{service}: an answer is longer than {ANSWER_MAX} bytes"))
        })?;
        if !status.is_success() {
            return Err(errors::refusal(service, status, &body));
        }
        let document: Option<Value> = serde_json::from_slice(&body).ok().filter(Value::is_object);
        document.ok_or_else(|| {
            Fault::new(Code::TargetRefused, format!("{service}: an answer is not the JSON document that Google sends"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_cannot_lead_elsewhere() {
        let new = |asked: &str| {
            let target = GcpTarget { access_token: "t0ken".into(), ..Default::default() };
            Projects::new(target, asked, &Dialer::none())
        };
        for bad in ["../x", "a/b", "a?b", "a b", "%2e", "A"] {
            assert_eq!(new(bad).err().expect(bad).code(), Code::InvalidArgument, "{bad}");
        }
        assert_eq!(new("shop-1").expect("a project").project().expect("named"), "shop-1");
        assert_eq!(new("").expect("none").project().expect_err("none").code(), Code::InvalidArgument);
    }

    #[test]
    fn what_is_no_token_is_not_sent_and_not_told() {
        for bad in ["", "s3cr3t\ntoken"] {
            let target = GcpTarget { access_token: bad.into(), ..Default::default() };
            let fault = Projects::new(target, "", &Dialer::none()).err().expect(bad);
            assert!(fault.code() == Code::CredentialsUnavailable && !fault.failure.message.contains("s3cr3t"));
        }
    }
}
