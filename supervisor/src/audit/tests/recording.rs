//! Recordings: what goes in comes out for the one who has the key, and for nobody else.

use super::*;
use crate::audit::recording::{
    CHUNK_MAX, Decrypted, Event, Header, Recipient, RecipientKey, Recorded, Recorder, RecordingError, decrypt,
};
use bytes::Bytes;
use std::time::Instant;

const HEADER: u64 = 72;

fn record(folder: &Path, to: Recipient, fill: impl FnOnce(&mut Recorder)) -> Recorded {
    let path = folder.join("session.cast.enc");
    let _ = std::fs::remove_file(&path);
    let header = Header { width: 80, height: 24, title: Some("exec".to_owned()), command: None };
    let mut recorder = Recorder::create(&path, to, &header, u64::MAX).expect("begins");
    fill(&mut recorder);
    recorder.finish().expect("ends")
}

fn read(bytes: &[u8], key: &RecipientKey) -> Result<(Decrypted, Vec<u8>), RecordingError> {
    let mut out = Vec::new();
    decrypt(bytes, &mut out, key).map(|d| (d, out))
}

fn output(bytes: &[u8]) -> Event {
    Event::Output(Bytes::copy_from_slice(bytes))
}

/// Everything of that kind of event, joined.
fn events(cast: &[u8], kind: &str) -> String {
    let text = std::str::from_utf8(cast).expect("text");
    let mut joined = String::new();
    let mut last = 0.0;
    for line in text.lines().skip(1) {
        let (at, is, data): (f64, String, String) = serde_json::from_str(line).expect("an event");
        assert!(at >= last);
        last = at;
        if is == kind {
            joined.push_str(&data);
        }
    }
    joined
}

#[test]
fn what_goes_in_comes_out() {
    let folder = super::folder();
    let key = RecipientKey::generate().expect("makes");
    let text = "é😀 \u{1b}[1mbold\r\n".repeat(10_000);
    let recorded = record(folder.path(), key.recipient().expect("public"), |recorder| {
        // in pieces that split characters
        text.as_bytes().chunks(7).for_each(|piece| recorder.put(Instant::now(), &output(piece)).expect("records"));
        recorder.put(Instant::now(), &output(b"\xff\xc3")).expect("records");
        recorder.put(Instant::now(), &Event::Input(Bytes::from_static(b"ls\r"))).expect("records");
        recorder.put(Instant::now(), &Event::Resize { width: 100, height: 50 }).expect("records");
        recorder.flush().expect("flushes");
        recorder.put(Instant::now(), &output(&vec![b'x'; 3 * CHUNK_MAX])).expect("records");
    });
    let bytes = std::fs::read(&recorded.path).expect("reads");
    assert_eq!((recorded.bytes, recorded.sha256), (bytes.len() as u64, Digest::of(&bytes)));
    assert!(!bytes.windows(4).any(|w| w == b"bold"));
    let (decrypted, cast) = read(&bytes, &key).expect("decrypts");
    assert!(decrypted.is_whole && decrypted.sha256 == recorded.sha256 && decrypted.bytes == cast.len() as u64);
    let first: serde_json::Value =
        serde_json::from_slice(cast.split(|b| *b == b'\n').next().expect("a line")).expect("JSON");
    assert_eq!((&first["version"], &first["width"], &first["title"]), (&2.into(), &80.into(), &"exec".into()));
    // the start of a character before something else is none
    let expected = format!("{text}\u{fffd}\u{fffd}{}", "x".repeat(3 * CHUNK_MAX));
    assert_eq!(events(&cast, "o"), expected);
    assert_eq!((events(&cast, "i").as_str(), events(&cast, "r").as_str()), ("ls\r", "100x50"));
}

#[test]
fn every_change_is_found_and_a_recording_that_was_cut_gives_what_there_is() {
    let folder = super::folder();
    let key = RecipientKey::generate().expect("makes");
    let mut ends = vec![HEADER];
    let recorded = record(folder.path(), key.recipient().expect("public"), |recorder| {
        for n in 0..3 {
            recorder.put(Instant::now(), &output(format!("{n}\n").as_bytes())).expect("records");
            recorder.flush().expect("flushes");
        }
    });
    let bytes = std::fs::read(recorded.path).expect("reads");
    while let Some(length) = bytes.get(ends[ends.len() - 1] as usize..).and_then(|rest| rest.first_chunk::<4>()) {
        ends.push(ends[ends.len() - 1] + 4 + u64::from(u32::from_le_bytes(*length)));
    }
    assert_eq!((ends.len(), ends.last()), (6, Some(&(bytes.len() as u64))));
    let (_, whole) = read(&bytes, &key).expect("decrypts");
    for byte in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[byte] ^= 1;
        match read(&bad, &key) {
            Err(_) => {}
            // a length that grew beyond the end looks like one that was cut
            Ok((decrypted, cast)) => assert!(!decrypted.is_whole && whole.starts_with(&cast), "byte {byte}"),
        }
        match read(&bytes[..byte], &key) {
            Err(e) => assert!(byte < HEADER as usize && matches!(e, RecordingError::NotOne), "{byte}: {e}"),
            Ok((decrypted, cast)) => {
                let chunks = ends.iter().filter(|end| **end <= byte as u64).count() - 1;
                assert!(!decrypted.is_whole && whole.starts_with(&cast) && (chunks == 0) == cast.is_empty(), "{byte}");
            }
        }
    }
    // chunks left out, doubled, exchanged, and something behind the last one
    let chunk = |n: usize| &bytes[ends[n] as usize..ends[n + 1] as usize];
    let head = &bytes[..HEADER as usize];
    for order in [&[1, 2, 3, 4][..], &[0, 0, 1, 2, 3, 4], &[0, 2, 1, 3, 4], &[0, 4], &[0, 1, 2, 3, 4, 4]] {
        let parts: Vec<u8> = head.iter().chain(order.iter().flat_map(|n| chunk(*n))).copied().collect();
        assert!(matches!(read(&parts, &key), Err(RecordingError::Damaged { .. })), "{order:?}");
    }
}

#[test]
fn another_key_another_version_and_no_recording_are_told_apart() {
    let folder = super::folder();
    let (key, other) = (RecipientKey::generate().expect("makes"), RecipientKey::generate().expect("makes"));
    let recorded = record(folder.path(), key.recipient().expect("public"), |_| {});
    let mut bytes = std::fs::read(recorded.path).expect("reads");
    assert!(matches!(read(&bytes, &other), Err(RecordingError::OtherKey(..))));
    bytes[7] = b'2';
    assert!(matches!(read(&bytes, &key), Err(RecordingError::Version('2'))));
    bytes[0] = b'x';
    assert!(matches!(read(&bytes, &key), Err(RecordingError::NotOne)));
    assert!(matches!(read(b"", &key), Err(RecordingError::NotOne)));
}

#[test]
fn keys_read_back_and_a_secret_is_not_shown() {
    let key = RecipientKey::generate().expect("makes");
    let secret = key.to_secret_pem().expect("tells");
    let public = key.recipient().expect("public");
    let again = RecipientKey::from_pem(&secret).expect("reads");
    assert_eq!(again.recipient().expect("public"), public);
    assert_eq!(Recipient::from_text(&public.to_pem()).expect("reads"), public);
    assert_eq!(format!("{key:?}"), "RecipientKey");
    for bad in ["", "x", &secret] {
        assert!(matches!(Recipient::from_text(bad), Err(RecordingError::Key(_))));
    }
    for bad in ["", "x", &public.to_pem()] {
        assert!(matches!(RecipientKey::from_pem(bad), Err(RecordingError::Key(_))));
    }
    // a public key that gives every secret away
    let folder = super::folder();
    let zero = [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x03, 0x21, 0x00][..], &[0; 32]].concat();
    let weak = {
        use base64::Engine as _;
        Recipient::from_text(&base64::engine::general_purpose::STANDARD.encode(zero)).expect("reads")
    };
    let refused = Recorder::create(&folder.path().join("x"), weak, &Header::default(), u64::MAX);
    assert!(matches!(refused.map(drop), Err(RecordingError::Key(_))));
}

#[test]
fn a_recording_ends_at_its_limit_and_says_so() {
    let folder = super::folder();
    let key = RecipientKey::generate().expect("makes");
    let path = folder.path().join("limited");
    let mut recorder =
        Recorder::create(&path, key.recipient().expect("public"), &Header::default(), 1000).expect("begins");
    recorder.put(Instant::now(), &output(&[b'x'; 500])).expect("records");
    recorder.flush().expect("fits");
    recorder.put(Instant::now(), &output(&[b'y'; 500])).expect("records");
    assert!(matches!(recorder.flush(), Err(RecordingError::Full(1000))));
    let recorded = recorder.finish().expect("ends");
    let bytes = std::fs::read(recorded.path).expect("reads");
    let (decrypted, cast) = read(&bytes, &key).expect("decrypts");
    assert!(decrypted.is_whole && events(&cast, "o") == "x".repeat(500));
    // what is longer than an event may be stops behind a line, too
    let long = folder.path().join("long");
    let mut recorder =
        Recorder::create(&long, key.recipient().expect("public"), &Header::default(), 100_000).expect("begins");
    let full = (0..10).any(|_| recorder.put(Instant::now(), &output(&[b'\x01'; 20_000])).is_err());
    let (decrypted, cast) =
        read(&std::fs::read(recorder.finish().expect("ends").path).expect("reads"), &key).expect("decrypts");
    assert!(full && decrypted.is_whole && events(&cast, "o").len() > 10_000);
    // never over another one
    let there = Recorder::create(&path, key.recipient().expect("public"), &Header::default(), 1000);
    assert!(matches!(there.map(drop), Err(RecordingError::File(..))));
}
