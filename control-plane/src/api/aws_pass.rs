//! Requests of AWS' own clients, passed through to a runner that signs them with the connection's credentials. The request stands in the
//! headers that `shared_proto::aws::headers` names; method and body are its own. The answer is AWS' own and says so; without that it is a
//! failure of what is between, as every route tells it.
//!
//! It must never pass on the caller's token: of the headers only those that are marked as AWS' go on.

use super::passing::{Feeding, answer, begun, given, head, length};
use super::running::{Running, Wanted};
use super::{ApiError, ApiState, Caller, Named, Params};
use crate::store::Provider;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use http::header::HeaderValue;
use http::{HeaderMap, Method};
use http_body::Body as _;
use shared_proto::aws;
use shared_proto::aws::headers as names;
use shared_proto::failure::{Code, Failure};
use shared_proto::v1::AwsRequest;
use shared_proto::v1::operation_request::What;

/// The route, which takes any method. It is described by AWS' own documentation, and by `docs/aws.md`.
pub(super) fn passing() -> Router<ApiState> {
    Router::new().route("/api/v1/connections/{connection}/aws/request", any(pass))
}

async fn pass(
    State(state): State<ApiState>,
    caller: Caller,
    Named(connection): Named<String>,
    mut params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    let runner = params.text("runner")?;
    params.finish()?;
    let what = What::AwsRequest(asked(&request)?);
    let wanted = Wanted { connection, runner, provider: Some(Provider::Aws), what, unary: false };
    let head_only = request.method() == Method::HEAD;
    // each may last as long as both ends like
    let place = state.streams.take(&caller.user().id)?;
    let mut running = Running::start(&state, &caller, wanted).await?;
    let feeding = Feeding::start(request.into_body(), &running.input());
    let head = head(&mut running).await?;
    let mut response = begun(head, &running)?;
    response.headers_mut().insert(names::ANSWER, HeaderValue::from_static(names::OF_AWS));
    let length = if head_only { Some(0) } else { length(&response) };
    *response.body_mut() = answer(running, feeding, place, length);
    Ok(response)
}

/// The request as the runner gets it. It is read here too: what nobody would sign needs no runner.
fn asked(request: &Request) -> Result<AwsRequest, Failure> {
    let headers = request.headers();
    let own = headers.iter().filter_map(|(name, value)| Some((name.as_str().strip_prefix(names::PREFIX)?, value)));
    let body = !request.body().is_end_stream();
    let asked = AwsRequest {
        method: request.method().to_string(),
        host: one(headers, names::HOST)?.unwrap_or_default(),
        target: one(headers, names::TARGET)?.unwrap_or_default(),
        headers: given(own)?,
        body,
        body_length: if body { request.body().size_hint().exact() } else { None },
        action: one(headers, names::ACTION)?.unwrap_or_default(),
    };
    aws::read(&asked)?;
    Ok(asked)
}

fn one(headers: &HeaderMap, name: &str) -> Result<Option<String>, Failure> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(Code::InvalidArgument.on(format!("the header {name} is no text"))),
        },
        _ => Err(Code::InvalidArgument.on(format!("the header {name} stands in the request twice"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    const SCOPE: &str =
        "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=0";

    #[test]
    fn only_what_is_marked_as_aws_goes_on() {
        let request = Request::builder()
            .method("PUT")
            .uri("/api/v1/connections/c/aws/request?runner=r")
            .header("authorization", "Bearer t0ken")
            .header("cookie", "a=b")
            .header("content-length", "3")
            .header("aws-host", "b.s3.eu-west-1.amazonaws.com")
            .header("aws-target", "/a//b%2Fc?x-id=PutObject")
            .header("aws-header-authorization", SCOPE)
            .header("aws-header-x-amz-meta-a", "1")
            .body(Body::from("abc"))
            .expect("a request");
        let asked = asked(&request).expect("reads");
        assert_eq!((asked.method.as_str(), asked.target.as_str()), ("PUT", "/a//b%2Fc?x-id=PutObject"));
        assert_eq!((asked.body, asked.body_length), (true, Some(3)));
        let names: Vec<_> = asked.headers.iter().map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["authorization", "x-amz-meta-a"]);
        assert_eq!(asked.headers[0].value, SCOPE.as_bytes());
    }

    #[test]
    fn what_is_no_request_to_aws_needs_no_runner() {
        for headers in [
            &[][..],
            &[("aws-host", "b.s3.eu-west-1.amazonaws.com"), ("aws-target", "/")],
            &[("aws-host", "evil.example"), ("aws-target", "/"), ("aws-header-authorization", SCOPE)],
            &[("aws-host", "sts.eu-west-1.amazonaws.com"), ("aws-target", "/"), ("aws-header-authorization", SCOPE)],
            &[
                ("aws-host", "s3.eu-west-1.amazonaws.com"),
                ("aws-host", "s3.eu-west-1.amazonaws.com"),
                ("aws-target", "/"),
                ("aws-header-authorization", SCOPE),
            ],
        ] {
            let mut request = Request::builder().uri("/api/v1/connections/c/aws/request");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Body::empty()).expect("a request");
            assert_eq!(asked(&request).expect_err("refused").code, Code::InvalidArgument, "{headers:?}");
        }
    }
}
