//! A failure of what is between, told as AWS tells its own, so that its clients show it. The code is the failure's own name.

use crate::client::{Body, full};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use shared_proto::failure::Failure;

/// How a client wants to be told, by the protocol of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `{"__type": …}`
    Json,
    /// The same in CBOR.
    Cbor,
    /// `<ErrorResponse>`
    Query,
    /// `<Response><Errors>`
    Ec2,
    /// `<Error>`
    S3,
}

// === impl Form ===

impl Form {
    /// By headers and the service's name.
    pub(super) fn of(headers: &HeaderMap, service: &str) -> Self {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match (text("content-type"), service) {
            _ if headers.contains_key("x-amz-target") => Self::Json,
            _ if text("smithy-protocol") == "rpc-v2-cbor" => Self::Cbor,
            (_, "s3" | "s3express" | "s3-object-lambda" | "s3-outposts") => Self::S3,
            (_, "ec2") => Self::Ec2,
            (kind, _) if kind.starts_with("application/x-www-form-urlencoded") => Self::Query,
            (_, "route53" | "cloudfront" | "sts" | "iam") => Self::Query,
            _ => Self::Json,
        }
    }
}

/// The answer.
pub(super) fn answer(form: Form, failure: &Failure) -> Response<Body> {
    let code = failure.code.as_str();
    let message = match failure.next_step.as_str() {
        "" => failure.message.clone(),
        next => format!("{} ({next})", failure.message),
    };
    let (kind, body) = match form {
        Form::Json => (
            "application/x-amz-json-1.1",
            serde_json::json!({ "__type": code, "message": message }).to_string().into_bytes(),
        ),
        Form::Cbor => ("application/cbor", cbor(&[("__type", code), ("message", &message)])),
        Form::Query => (
            "text/xml",
            format!(
                "<ErrorResponse><Error><Type>Sender</Type>{}</Error><RequestId>runnerctl</RequestId></ErrorResponse>",
                xml(code, &message)
            )
            .into_bytes(),
        ),
        Form::Ec2 => (
            "text/xml",
            format!(
                "<Response><Errors><Error>{}</Error></Errors><RequestID>runnerctl</RequestID></Response>",
                xml(code, &message)
            )
            .into_bytes(),
        ),
        Form::S3 => (
            "application/xml",
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>{}<RequestId>runnerctl</RequestId></Error>",
                xml(code, &message)
            )
            .into_bytes(),
        ),
    };
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(failure.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert("x-amzn-errortype", HeaderValue::from_static(code));
    if form == Form::Cbor {
        headers.insert("smithy-protocol", HeaderValue::from_static("rpc-v2-cbor"));
    }
    response
}

fn xml(code: &str, message: &str) -> String {
    let mut text = String::new();
    for c in message.chars() {
        match c {
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '&' => text.push_str("&amp;"),
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
    format!("<Code>{code}</Code><Message>{text}</Message>")
}

/// A map of texts: RFC 8949, major types 5 and 3.
fn cbor(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![0xa0 | u8::try_from(pairs.len()).unwrap_or(0)];
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        // two bytes of length are enough for what we say
        let text = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
        out.push(0x79);
        out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(text);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use shared_proto::failure::Code;

    #[tokio::test]
    async fn each_protocol_is_told_in_its_own_words() {
        let failure = Code::PolicyDenied.on("a <b> & c").next("");
        for (form, part) in [
            (Form::Json, r#""__type":"policy_denied""#),
            (Form::Query, "<Error><Type>Sender</Type><Code>policy_denied</Code><Message>a &lt;b&gt; &amp; c</Message>"),
            (Form::Ec2, "<Errors><Error><Code>policy_denied</Code>"),
            (Form::S3, "<Error><Code>policy_denied</Code>"),
            (Form::Cbor, "policy_denied"),
        ] {
            let response = answer(form, &failure);
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            let body = response.into_body().collect().await.expect("whole").to_bytes();
            assert!(String::from_utf8_lossy(&body).contains(part), "{form:?}: {body:?}");
        }
    }

    #[test]
    fn by_which_it_is_told() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs
                .iter()
                .map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v)))
                .collect::<HeaderMap>()
        };
        let form = headers(&[("content-type", "application/x-www-form-urlencoded; charset=utf-8")]);
        for (given, service, expected) in [
            (headers(&[("x-amz-target", "A.B")]), "dynamodb", Form::Json),
            (headers(&[("smithy-protocol", "rpc-v2-cbor")]), "monitoring", Form::Cbor),
            (form.clone(), "ec2", Form::Ec2),
            (form, "rds", Form::Query),
            (headers(&[]), "s3", Form::S3),
            (headers(&[]), "route53", Form::Query),
            (headers(&[]), "lambda", Form::Json),
        ] {
            assert_eq!(Form::of(&given, service), expected, "{service}");
        }
    }
}
