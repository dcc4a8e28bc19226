use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, RANGE,
    UPGRADE, WARNING,
};
use http::{Method, StatusCode};

use super::super::{Answer, MaskError, Refused, answer_headers, request_headers};
use super::typed;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn accepted(values: &[&str]) -> Result<String, Refused> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(ACCEPT, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    request_headers(&mut headers)?;
    assert_eq!(headers.get_all(ACCEPT).iter().count(), 1);
    Ok(headers[ACCEPT].to_str().expect("text").to_owned())
}

#[test]
fn json_remains() {
    let kubectl = format!("{TABLE},application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json");
    for (asked, want) in [
        (&[][..], "application/json"),
        (&["", " , "], "application/json"),
        (&["*/*"], "application/json"),
        (&["application/*;q=0.8"], "application/json;q=0.8"),
        (&["application/json"], "application/json"),
        (&["application/vnd.kubernetes.protobuf,application/json"], "application/json"),
        (&["application/vnd.kubernetes.protobuf, */*"], "application/json"),
        (&[&kubectl], &kubectl),
        (
            &["APPLICATION/JSON ; As=Table ;V=v1;  G = meta.k8s.io ; Q=0.50,application/yaml"],
            &format!("{TABLE};q=0.50"),
        ),
        (&["application/json;stream=watch", "application/json"], "application/json;stream=watch,application/json"),
        (&["application/cbor", "application/json;charset=utf-8", "application/json"], "application/json"),
        (
            &["application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1;q=.9,application/json;q=1.0"],
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io;q=0.9,application/json;q=1",
        ),
        (&["text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"], "application/json;q=0.2"),
        (
            &["application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io,application/json"],
            "application/json",
        ),
        (&["application/json;q=0,application/json;as=Table;v=v1;g=meta.k8s.io,*/*"], TABLE),
    ] {
        assert_eq!(accepted(asked).as_deref(), Ok(want), "{asked:?}");
    }
}

#[test]
fn what_accepts_no_json_is_refused() {
    for asked in [
        &["application/vnd.kubernetes.protobuf"][..],
        &["application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", "application/cbor"],
        &["application/yaml"],
        &["application/json;q=0"],
        &["application/json;q=0.000, */*"],
        &["application/json;as=Table"],
        &["application/json;as=table;v=v1;g=meta.k8s.io"],
        &["application/json;as=Table;v=v2;g=meta.k8s.io"],
        &["application/json;stream=other"],
        &["application/jsonx"],
        &["json"],
    ] {
        let refused = accepted(asked).expect_err("no JSON");
        assert!(matches!(refused, Refused::NotAcceptable { .. }), "{asked:?}: {refused}");
        assert!(matches!(refused, Refused::NotAcceptable { .. }));
        assert!(refused.to_string().contains(asked[0]), "{refused}");
    }
    for asked in [
        &["application/json;q=2"][..],
        &["application/json;q=x"],
        &["application/json;q="],
        &["application/json;q=."],
        &["application/json;q=0.5;q=0"],
        &["application/json;as=Table;as=x;v=v1;g=meta.k8s.io"],
        &["application/json;x=\",application/vnd.kubernetes.protobuf,\""],
        &["application/json\u{e9}"],
    ] {
        assert!(matches!(accepted(asked), Err(Refused::Unreadable { .. })), "{asked:?}");
    }
}

#[test]
fn nothing_packed_and_nothing_but_http() {
    let mut headers = HeaderMap::new();
    headers.append(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(ACCEPT_ENCODING, HeaderValue::from_static("br"));
    headers.insert(RANGE, HeaderValue::from_static("bytes=1-"));
    request_headers(&mut headers).expect("JSON");
    assert!(!headers.contains_key(ACCEPT_ENCODING) && !headers.contains_key(RANGE));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let refused = request_headers(&mut headers).expect_err("a WebSocket");
    assert_eq!((matches!(refused, Refused::Upgrade { .. }), refused.to_string().contains("websocket")), (true, true));
}

#[test]
fn forms_of_answers() {
    let of = |method: &Method, status, headers: &HeaderMap, watch| Answer::of(method, status, headers, watch);
    let (read, write) = (Answer::Document { write: false }, Answer::Document { write: true });
    for media in [
        "application/json",
        "Application/JSON; charset=UTF-8",
        TABLE,
        "application/json;stream=watch",
        "application/json;as=Table;g=meta.k8s.io;v=v1;stream=watch",
    ] {
        let headers = typed(media);
        assert_eq!(of(&Method::GET, StatusCode::OK, &headers, false), Ok(read));
        assert_eq!(of(&Method::GET, StatusCode::OK, &headers, true), Ok(Answer::Watch));
        assert_eq!(of(&Method::GET, StatusCode::GONE, &headers, true), Ok(read));
        assert_eq!(of(&Method::PATCH, StatusCode::OK, &headers, false), Ok(write));
        assert_eq!(of(&Method::DELETE, StatusCode::OK, &headers, true), Ok(write));
        assert_eq!(of(&Method::HEAD, StatusCode::OK, &headers, false), Ok(Answer::Nothing));
    }
    for media in
        ["text/plain", "application/vnd.kubernetes.protobuf", "application/yaml", "application/json; charset=utf-16"]
    {
        for status in [StatusCode::OK, StatusCode::BAD_GATEWAY] {
            let refused = of(&Method::GET, status, &typed(media), false);
            assert_eq!(refused, Err(MaskError::ContentType { found: media.to_owned() }));
        }
        assert_eq!(of(&Method::GET, StatusCode::NOT_MODIFIED, &typed(media), false), Ok(Answer::Nothing));
    }
    let none = HeaderMap::new();
    assert_eq!(of(&Method::GET, StatusCode::NO_CONTENT, &none, false), Ok(Answer::Nothing));
    assert!(matches!(of(&Method::GET, StatusCode::OK, &none, false), Err(MaskError::ContentType { .. })));
    assert_eq!(of(&Method::GET, StatusCode::SWITCHING_PROTOCOLS, &none, true), Err(MaskError::Switched));
    let mut twice = typed("application/json");
    twice.append(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    assert!(matches!(of(&Method::GET, StatusCode::OK, &twice, false), Err(MaskError::ContentType { .. })));
    let mut empty = HeaderMap::new();
    empty.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    assert_eq!(of(&Method::GET, StatusCode::NOT_FOUND, &empty, false), Ok(Answer::Nothing));
    for coding in ["gzip", "br", "identity, gzip", "x"] {
        let mut packed = typed("application/json");
        packed.append(CONTENT_ENCODING, HeaderValue::from_static("identity"));
        assert_eq!(of(&Method::GET, StatusCode::OK, &packed, false), Ok(read));
        packed.append(CONTENT_ENCODING, HeaderValue::from_static(coding));
        let refused = of(&Method::GET, StatusCode::OK, &packed, false);
        assert_eq!(refused, Err(MaskError::ContentEncoding { found: coding.to_owned() }));
    }
}

#[test]
fn headers_of_answers() {
    let mut headers = typed("application/json");
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("100"));
    headers.insert(ETAG, HeaderValue::from_static("\"x\""));
    headers.append(WARNING, HeaderValue::from_static("299 - \"unknown field \\\"dta\\\"\""));
    headers.append(WARNING, HeaderValue::from_static("299 - \"the password hunter2 is weak\""));
    answer_headers(&mut headers);
    let warnings: Vec<_> = headers.get_all(WARNING).iter().map(|w| w.to_str().expect("text")).collect();
    assert_eq!(warnings, ["299 - \"unknown field \\\"dta\\\"\"", "299 - \"[masked by the runner]\""]);
    assert_eq!(headers.len(), 3);
}
