use std::io::Write as _;

use super::super::{Answer, ELEMENT_MAX, MASK_BASE64, MaskError, Masker};
use super::{DOCUMENT, helm, mask};

#[test]
fn what_is_not_json_is_refused() {
    let malformed = |body: &str| {
        for answer in [DOCUMENT, Answer::Watch] {
            for sizes in [&[usize::MAX][..], &[1]] {
                let refused = mask(answer, body.as_bytes(), sizes);
                assert!(matches!(refused, Err(MaskError::Malformed { .. })), "{body}: {refused:?}");
            }
        }
    };
    for body in [
        "x",
        "\u{feff}{}",
        "[]",
        "\"c2VjcmV0\"",
        "}",
        "{]",
        "{\"a\"}",
        "{\"a\":1,}",
        "{\"a\":\"\n\"}",
        "{\"items\":[1 2]}",
        "{\"items\":[,]}",
        "{\"items\":[1,]}",
        "{\"items\":[{}}",
        "{\"items\":[x]}",
        "{\"items\":[\u{c}1]}",
        "{\u{c}\"items\":[]}",
        "{\"items\":[{]}]}",
        "{\"items\":[]]",
        "{\"items\":[]\"x\":1}",
        "{\"items\":[],}",
        "{\"items\":[],,\"x\":1}",
        "{,\"items\":[]}",
        "{\"x\":1 \"items\":[]}",
        "{\"x\":1,,\"items\":[]}",
        "{\"x\":\"items\":[]}",
        "{\"items\" 12345 :[]}",
        "{\"items\"::[]}",
        "{\"items\":[],\"items\" 5:[]}",
        "{\"items\":[{\"data\":{\"a\":nul}}]}",
    ] {
        malformed(body);
    }
    assert!(matches!(mask(DOCUMENT, b"{} {}", &[9]), Err(MaskError::Malformed { at: 3 })));
    let mut bytes = b"{\"kind\":\"".to_vec();
    bytes.extend_from_slice(&[0xc3, 0x28, b'"', b'}']);
    assert_eq!(mask(DOCUMENT, &bytes, &[9]), Err(MaskError::Malformed { at: 0 }));
}

#[test]
fn what_is_packed_is_refused() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(br#"{"kind":"Secret","data":{"a":"eA=="}}"#).expect("written");
    let packed = packed.finish().expect("packed");
    assert_eq!(mask(DOCUMENT, &packed, &[9]), Err(MaskError::Malformed { at: 0 }));
}

#[test]
fn an_answer_without_a_body_has_none() {
    let mut masker = Masker::new(Answer::Nothing, helm());
    assert_eq!(masker.push(b"").as_deref(), Ok(&b""[..]));
    assert_eq!(masker.push(b"{}"), Err(MaskError::Body));
    assert_eq!(masker.finish(), Err(MaskError::Body));
    assert_eq!(Masker::new(Answer::Nothing, helm()).finish(), Ok(()));
}

#[test]
fn an_error_stays() {
    let mut masker = Masker::new(DOCUMENT, helm());
    let begin = masker.push(b"  {\"items\":[{\"data\":1}, x").expect("an element");
    assert_eq!(begin, "  {\"items\":[{\"data\":\"[masked by the runner]\"},");
    let failed = masker.push(b"]}").expect_err("not JSON");
    assert_eq!(failed, MaskError::Malformed { at: 23 });
    assert_eq!(masker.push(b"{}"), Err(failed.clone()));
    assert_eq!(masker.finish(), Err(failed));
}

#[test]
fn every_cut_is_an_error_and_tells_nothing() {
    let value = "c2VjcmV0dmFsdWU=";
    let secret = format!(
        r#"{{"metadata":{{"name":"n","annotations":{{"kubectl.kubernetes.io/last-applied-configuration":"{{\"data\":{{\"a\":\"{value}\"}}}}"}}}},"data":{{"a":"{value}"}},"type":"Opaque"}}"#
    );
    let list = format!(r#"{{"kind":"SecretList","items":[{secret}, {secret}],"metadata":{{}}}}"#);
    let watch = format!("{{\"type\":\"ADDED\",\"object\":{secret}}}\n");
    for (answer, body) in [(DOCUMENT, &secret), (DOCUMENT, &list), (Answer::Watch, &watch)] {
        assert!(mask(answer, body.as_bytes(), &[5]).is_ok_and(|out| out.contains(MASK_BASE64)));
        for cut in 0..body.trim_end().len() {
            let mut masker = Masker::new(answer, helm());
            let out = masker.push(&body.as_bytes()[..cut]).expect("nothing wrong as far as it goes");
            assert!(!String::from_utf8_lossy(&out).contains("c2Vj"), "{cut}");
            let ended = masker.finish();
            if answer == Answer::Watch && cut == 0 {
                assert_eq!(ended, Ok(()));
            } else {
                assert_eq!(ended, Err(MaskError::Truncated { at: cut as u64 }));
            }
        }
    }
}

#[test]
fn a_list_of_any_length_takes_the_memory_of_an_element() {
    let secret =
        format!(r#"{{"metadata":{{"name":"n"}},"data":{{"a":"{}"}},"type":"Opaque"}},"#, "QUJD".repeat(16 * 1024));
    let mut masker = Masker::new(DOCUMENT, helm());
    masker.push(br#"{"kind":"SecretList","items":["#).expect("a list");
    // 256 MiB, in pieces that end anywhere
    let piece = secret.repeat(16);
    let (mut fed, mut from) = (0, 0);
    while fed < 256 << 20 {
        let part = &piece.as_bytes()[from..];
        let part = &part[..part.len().min(777_777)];
        let out = masker.push(part).expect("secrets");
        assert!(out.len() < secret.len() + part.len());
        fed += part.len();
        from = (from + part.len()) % piece.len();
    }
    masker.push(&piece.as_bytes()[from..]).expect("secrets");
    masker.push(b"{}]}").expect("the end");
    assert!(masker.held_max() <= 2 * secret.len(), "{}", masker.held_max());
    masker.finish().expect("whole");
}

#[test]
fn what_is_too_long_is_refused() {
    let long = vec![b'x'; ELEMENT_MAX];
    for (answer, before, at) in [
        (DOCUMENT, "{\"kind\":\"", 0),
        (DOCUMENT, "{\"items\":[{},{\"data\":{\"a\":\"", 13),
        (DOCUMENT, "{\"items\":[],\"x\":\"", 11),
        (Answer::Watch, "{}\n{\"type\":\"ADDED\",\"object\":{\"data\":{\"a\":\"", 3),
    ] {
        for size in [1 << 16, usize::MAX] {
            let mut masker = Masker::new(answer, helm());
            masker.push(before.as_bytes()).expect("within");
            let failed = long.chunks(size.min(long.len())).find_map(|piece| masker.push(piece).err());
            assert_eq!(failed, Some(MaskError::TooLarge { max: ELEMENT_MAX, at }), "{before}");
            assert!(masker.held_max() <= ELEMENT_MAX);
        }
    }
    // one that just fits
    let fits = format!("{{\"type\":\"{}\"}}", "x".repeat(ELEMENT_MAX - 11));
    assert_eq!(mask(DOCUMENT, fits.as_bytes(), &[1 << 20]).as_deref(), Ok(fits.as_str()));
}
