//! Answers as an API server gives them, and what is left of them.

use super::super::Answer;
use super::{DOCUMENT, mask};

const WRITE: Answer = Answer::Document { write: true };

/// The input with each `«…»` masked: in base64, or plain where it begins with `!`. Without the marks it is the answer.
fn holds(name: &str, answer: Answer, marked: &str) {
    let (mut input, mut want) = (String::new(), String::new());
    let mut rest = marked;
    while let Some((before, after)) = rest.split_once('«') {
        let (value, after) = after.split_once('»').expect("a mark's end");
        let (value, plain) = value.strip_prefix('!').map_or((value, false), |value| (value, true));
        input += before;
        input += value;
        want += before;
        want += if plain { "\"[masked by the runner]\"" } else { "\"W21hc2tlZCBieSB0aGUgcnVubmVyXQ==\"" };
        rest = after;
    }
    input += rest;
    want += rest;
    for sizes in [&[usize::MAX][..], &[1], &[7, 3, 64]] {
        assert_eq!(mask(answer, input.as_bytes(), sizes).as_deref(), Ok(want.as_str()), "{name}");
    }
}

const META: &str = r#""metadata":{"name":"db","namespace":"default","uid":"0a1b","resourceVersion":"812","creationTimestamp":"2026-01-02T03:04:05Z","labels":{"app":"shop"},"annotations":{"note":"for the shop"},"managedFields":[{"manager":"kubectl-create","operation":"Update","apiVersion":"v1","time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{".":{},"f:password":{}},"f:type":{}}}]}"#;
const COLUMNS: &str = r#""columnDefinitions":[{"name":"Name","type":"string","format":"name","description":"Name must be unique","priority":0},{"name":"Type","type":"string","format":"","description":"Used to","priority":0},{"name":"Data","type":"string","format":"","description":"Data contains","priority":0},{"name":"Age","type":"string","format":"","description":"","priority":0}]"#;

#[test]
fn a_secret() {
    holds(
        "as it is",
        DOCUMENT,
        &format!(
            r#"{{"kind":"Secret","apiVersion":"v1",{META},"immutable":true,"data":{{"password":«"aHVudGVyMg=="»,"empty":«""»,"none":null}},"type":"Opaque"}}"#
        ),
    );
    holds(
        "as curl gets it",
        DOCUMENT,
        "{\n  \"kind\": \"Secret\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {\n    \"name\": \"db\",\n    \"generation\": 1.0e0\n  },\n  \"data\": {\n    \"password\" : «\"aHVudGVyMg==\"»\n  },\n  \"type\": \"Opaque\"\n}\n",
    );
    holds(
        "its metadata only",
        DOCUMENT,
        &format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1",{META}}}"#),
    );
    holds(
        "applied by the server",
        WRITE,
        &format!(r#"{{"kind":"Secret","apiVersion":"v1",{META},"data":{{"a":«"eA=="»}},"type":"Opaque"}}"#),
    );
}

#[test]
fn a_secret_of_a_type_that_is_shown() {
    let release = r#""data":{"release":"SDRzSUFBQUE="},"type":"helm.sh/release.v1""#;
    let annotations =
        r#"{"kubectl.kubernetes.io/last-applied-configuration":"{\"data\":{\"release\":\"SDRzSUFBQUE=\"}}"}"#;
    holds("shown", DOCUMENT, &format!(r#"{{"kind":"Secret","metadata":{{"annotations":{annotations}}},{release}}}"#));
    holds(
        "among others",
        DOCUMENT,
        &format!(
            r#"{{"kind":"SecretList","items":[{{{release}}},{{"data":{{"a":«"eA=="»}},"type":"Opaque"}},{{{release}}}]}}"#
        ),
    );
    // which of two types counts differs by client
    for (first, second) in [("helm.sh/release.v1", "Opaque"), ("Opaque", "helm.sh/release.v1")] {
        let two = format!(r#"{{"type":"{first}","data":{{"a":«"eA=="»}},"type":"{second}"}}"#);
        holds("of two types", DOCUMENT, &two);
    }
    holds("of no text", DOCUMENT, r#"{"type":«!["helm.sh/release.v1"]»,"data":{"a":«"eA=="»}}"#);
    // the fields around a list belong to no secret
    holds(
        "around a list",
        DOCUMENT,
        r#"{"type":"helm.sh/release.v1","data":{"a":«"eA=="»},"items":[],"data":{"a":«"eA=="»},"type":"helm.sh/release.v1"}"#,
    );
    let unknown = r#"{"type":"helm.sh/release.v1","data":{"a":"eA=="},"other":«!"x"»}"#;
    holds("with a field that nobody knows", DOCUMENT, unknown);
}

#[test]
fn a_list() {
    holds(
        "empty",
        DOCUMENT,
        r#"{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[]}"#,
    );
    holds("null", DOCUMENT, r#"{"kind":"SecretList","apiVersion":"v1","metadata":{},"items":null}"#);
    holds(
        "of two, in parts",
        DOCUMENT,
        &format!(
            "{{\"kind\":\"SecretList\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"9\",\"continue\":\"eyJ2IjoibWV0YS5rOHMuaW8vdjEifQ\",\"remainingItemCount\":7}},\"items\":[{{{META},\"data\":{{\"a\":«\"eA==\"»}},\"type\":\"Opaque\"}},{{{META},\"data\":{{\"b\":«\"eQ==\"»,\"c\":«\"eg==\"»}},\"type\":\"kubernetes.io/tls\"}}]}}\n"
        ),
    );
    holds(
        "fields behind",
        DOCUMENT,
        r#"{"items" : [ {"data":{"a":«"eA=="»}} , null ] , "kind":"SecretList","x":«!{"y":1}» }"#,
    );
    holds(
        "two lists",
        DOCUMENT,
        r#"{"items":[{"data":{"a":«"eA=="»}}],"kind":"List","items":[{"data":{"b":«"eA=="»}}],"rows":[]}"#,
    );
    holds("a key in escapes", DOCUMENT, r#"{"\u0069tems":[{"d\u0061ta":{"a":«"eA=="»}}]}"#);
    holds(
        "elements that are none",
        DOCUMENT,
        r#"{"items":[«!"c2VjcmV0"»,«!1»,«![{"data":1}]»,{"items":«![{"a":"b"}]»}]}"#,
    );
    holds(
        "one that is a status",
        DOCUMENT,
        r#"{"items":[{"kind":"Status","message":«!"c2VjcmV0"»,"reason":«!"NotFound"»}]}"#,
    );
}

#[test]
fn a_table() {
    for (include, object) in [
        ("None", "null".to_owned()),
        ("Metadata", format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1",{META}}}"#)),
        ("Object", format!(r#"{{"kind":"Secret","apiVersion":"v1",{META},"data":{{"a":«"eA=="»}},"type":"Opaque"}}"#)),
    ] {
        let table = format!(
            r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"9"}},{COLUMNS},"rows":[{{"cells":["db","Opaque",2,"3d"],"object":{object}}},{{"cells":["x","Opaque",«!"c2VjcmV0"»,"3d",«!"more"»],"conditions":«![{{"type":"x"}}]»,"object":{object}}}]}}"#
        );
        holds(include, DOCUMENT, &table);
        let none = ["null", "[]"][usize::from(include == "None")];
        let more = format!(
            r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{{}},"columnDefinitions":{none},"rows":[{{"cells":["db","Opaque",2,"3d"],"object":{object}}}]}}"#
        );
        let events =
            format!("{{\"type\":\"ADDED\",\"object\":{table}}}\n{{\"type\":\"MODIFIED\",\"object\":{more}}}\n");
        holds("watch", Answer::Watch, &events);
        // nobody said what the cells are
        holds("no columns", DOCUMENT, r#"{"kind":"Table","rows":[{"cells":[«!"db"»,«!2»,null],"object":null}]}"#);
    }
    holds(
        "a column of its own",
        DOCUMENT,
        r#"{"kind":"Table","columnDefinitions":[{"name":"Name"},{"name":"Value"},{"name":"Age","name":"Name"},«!"Name"»],"rows":[{"cells":["db",«!"c2VjcmV0"»,«!"x"»,«!"y"»]},«!"row"»,{"cells":[«!{"a":1}»]}]}"#,
    );
}

#[test]
fn a_watch() {
    holds("nothing", Answer::Watch, "");
    holds(
        "events",
        Answer::Watch,
        &format!(
            "{{\"type\":\"ADDED\",\"object\":{{\"kind\":\"Secret\",\"apiVersion\":\"v1\",{META},\"data\":{{\"a\":«\"eA==\"»}},\"type\":\"Opaque\"}}}}\n{{\"type\":\"MODIFIED\",\"object\":{{\"kind\":\"Secret\",\"data\":{{\"release\":\"eA==\"}},\"type\":\"helm.sh/release.v1\"}}}} {{\"type\":\"DELETED\",\"object\":{{\"kind\":\"PartialObjectMetadata\",{META}}}}}\n{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"Secret\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"12\",\"creationTimestamp\":null,\"annotations\":{{\"k8s.io/initial-events-end\":\"true\"}}}}}}}}\n{{\"type\":\"ERROR\",\"object\":{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"status\":\"Failure\",\"message\":\"too old resource version: 1 (812)\",\"reason\":\"Expired\",\"code\":410}}}}\n"
        ),
    );
    holds(
        "other fields",
        Answer::Watch,
        r#"{"type":"ADDED","old":«!{"data":{}}»,"object":{"data":{"a":«"eA=="»}},"object":{"data":{"a":«"eA=="»}}}"#,
    );
    holds("no event", Answer::Watch, r#"{"kind":"Status","status":"Failure","message":«!"c2VjcmV0"»,"code":500}"#);
    holds("an event that nobody asked for", DOCUMENT, r#"{"type":"ADDED","object":«!{"data":{"a":"eA=="}}»}"#);
}

#[test]
fn annotations() {
    let key = "kubectl.kubernetes.io/last-applied-configuration";
    let secret = |value: &str, masked: &str| {
        let body = |value: &str| {
            format!(r#"{{"kind":"Secret","metadata":{{"annotations":{{"a":"b","{key}":{value}}}}},"type":"Opaque"}}"#)
        };
        assert_eq!(mask(DOCUMENT, body(value).as_bytes(), &[9]).as_deref(), Ok(body(masked).as_str()));
        // as the rows of a Table have it, and the elements of a list
        let rows = |value: &str| format!(r#"{{"rows":[{{"object":{}}}],"items":[{}]}}"#, body(value), body(value));
        assert_eq!(mask(DOCUMENT, rows(value).as_bytes(), &[9]).as_deref(), Ok(rows(masked).as_str()));
    };
    let (plain, base64) = ("[masked by the runner]", "W21hc2tlZCBieSB0aGUgcnVubmVyXQ==");
    secret(
        r#""{\"apiVersion\":\"v1\",\"data\":{\"a\":\"c2VjcmV0\"},\"kind\":\"Secret\",\"metadata\":{\"annotations\":{},\"name\":\"db\"},\"stringData\":{\"b\":\"\\u003csecret\\u003e\"},\"type\":\"helm.sh/release.v1\"}\n""#,
        &format!(
            r#""{{\"apiVersion\":\"v1\",\"data\":{{\"a\":\"{base64}\"}},\"kind\":\"Secret\",\"metadata\":{{\"annotations\":{{}},\"name\":\"db\"}},\"stringData\":{{\"b\":\"{plain}\"}},\"type\":\"helm.sh/release.v1\"}}\n""#
        ),
    );
    for value in [
        r#""c2VjcmV0""#,
        r#""[{\"data\":{}}]""#,
        r#""{\"data\":{\"a\":\"c2VjcmV0\"""#,
        r#"{"data":{"a":"b"}}"#,
        "1",
        r#""\ud800""#,
    ] {
        secret(value, &format!("\"{plain}\""));
    }
    secret("null", "null");
    // one inside another: as a whole
    let nested = |value: &str| {
        let inner = serde_json::json!({"metadata": {"annotations": {key: value}}}).to_string();
        serde_json::json!(inner).to_string()
    };
    secret(&nested(r#"{"metadata":{"name":"x"}}"#), &nested(plain));
    holds(
        "others that hold an object",
        DOCUMENT,
        r#"{"metadata":{"annotations":{"x":"metadata: y","kapp.k14s.io/original":«!"{\"data\":{\"a\":\"eA==\"}}"»,"y":«!"kind: Secret\nstringData:\n  a: b\n"»,"openshift.io/token-secret.value":«!"x"»,"z":«!"{\"d\\u0061ta\":1}"»}}}"#,
    );
    holds(
        "no map",
        DOCUMENT,
        r#"{"metadata":{"annotations":«!["x"]»,"labels":«!["x"]»,"name":«!{"x":1}»,"other":«!1»}}"#,
    );
    holds("no map", DOCUMENT, r#"{"metadata":«!"x","data":«!"x"»,"stringData":«!1»,"data":{"a":«{"b":"c"}»}}"#.replace("«!\"x\",\"data\"", "«!\"x\"»,\"data\"").as_str());
}

#[test]
fn a_status() {
    holds(
        "deleted",
        WRITE,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","details":{"name":"db","kind":"secrets","uid":"0a1b"}}"#,
    );
    holds(
        "not found",
        DOCUMENT,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"secrets \"db\" not found","reason":"NotFound","details":{"name":"db","kind":"secrets","retryAfterSeconds":1},"code":404}"#,
    );
    holds(
        "a conflict of appliers",
        WRITE,
        r#"{"kind":"Status","status":"Failure","message":"Apply failed with 1 conflict: conflict with \"kubectl\" using v1: .data.a","reason":"Conflict","details":{"causes":[{"reason":"FieldManagerConflict","message":"conflict with \"kubectl\" using v1","field":".data.a"}]},"code":409}"#,
    );
    holds(
        "quotes",
        WRITE,
        r#"{"kind":"Status","data":«!{"a":"b"}»,"message":«!"|{\"data\":{\"a\":\"aHVudGVyMg==\"}}|"»,"reason":"BadRequest","details":{"other":«!1»,"causes":[{"reason":"UnexpectedServerResponse","message":«!"aHVudGVyMg=="»,"x":«!1»},«!"x"»]},"code":400}"#,
    );
    holds(
        "a webhook's",
        WRITE,
        r#"{"kind":"Status","message":"admission webhook \"w\" denied the request without explanation","reason":"Conflict","details":{"causes":[{"reason":"FieldManagerConflict","message":«!"conflict with \"x\""»,"field":"type"}]}}"#,
    );
    holds(
        "a field twice",
        DOCUMENT,
        r#"{"kind":"Status","message":«!"secrets not found"»,"reason":"NotFound","reason":"x"}"#,
    );
    holds("a message that is none", DOCUMENT, r#"{"kind":"Status","message":«!["x"]»,"reason":"NotFound"}"#);
    let causes = |first: &str| {
        format!(
            r#""details":{{"name":"db","kind":"Secret","causes":[{{"reason":"FieldValueInvalid","message":"{first}","field":"data[key]"}},{{"reason":"FieldValueForbidden","message":"Forbidden: field is immutable when `immutable` is set","field":"data"}}]}}"#
        )
    };
    let input = format!(
        r#"{{"kind":"Status","message":"Secret \"db\" is invalid: [data[key]: Invalid value: \"hunter2\", data: Forbidden]","reason":"Invalid",{}}}"#,
        causes("Invalid value: \\\"hunter2\\\"")
    );
    let want = format!(
        r#"{{"kind":"Status","message":"Secret \"db\" is invalid: [data[key]: [masked by the runner], data: Forbidden: field is immutable when `immutable` is set]","reason":"Invalid",{}}}"#,
        causes("[masked by the runner]")
    );
    assert_eq!(mask(WRITE, input.as_bytes(), &[11]).as_deref(), Ok(want.as_str()));
}
