//! As much of SPDY/3.1 as forwarding a port takes: an API server tunnels it through a WebSocket to the kubelet, which speaks nothing else.
//! Here a client opens streams and sends data; of what comes only data, resets, pings and the end matter. What the other end's headers say
//! is not read, so nothing is ever unpacked; our own are packed as they are.

use shared_proto::failure::{Code, Failure};

/// The largest control frame that is read, bytes.
const CONTROL_MAX: usize = 64 * 1024;
/// The bit of a control frame, and the version.
const CONTROL: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
/// A frame's flag: the sender says nothing more in the stream.
const FIN: u8 = 1;
/// What makes an unpacker give out what it has (zlib's Z_SYNC_FLUSH).
const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];
/// A frame's header, bytes.
const HEADER: usize = 8;

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// Bytes of a stream.
    Data {
        /// Which.
        stream: u32,
        /// They may be a part of what was sent at once.
        bytes: Vec<u8>,
    },
    /// The other end says nothing more in that stream.
    Fin {
        /// Which.
        stream: u32,
    },
    /// A stream is broken off.
    Reset {
        /// Which.
        stream: u32,
    },
    /// To be answered with the same number, or the answer to ours.
    Ping(u32),
    /// The other end leaves.
    Leaves,
}

/// Our half: what is sent.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// The first headers begin the packed stream that all of them share.
    begun: bool,
}

/// The other half: bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    head: Vec<u8>,
    body: Option<Body>,
}

#[derive(Debug)]
enum Body {
    Data { stream: u32, fin: bool, left: usize },
    Control { kind: u16, left: usize, held: Vec<u8> },
}

// === impl Sending ===

impl Sending {
    /// Opens a stream (an odd number, above all before it); `fin`: and says nothing in it.
    pub(super) fn open(&mut self, stream: u32, headers: &[(&str, &str)], fin: bool) -> Vec<u8> {
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        let mut block = length(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(length(text.len()));
            block.extend(text.as_bytes());
        }
        let mut payload = stream.to_be_bytes().to_vec();
        // no associated stream, no priority
        payload.extend([0; 6]);
        if !std::mem::replace(&mut self.begun, true) {
            payload.extend([0x78, 0x01]);
        }
        // a block that is stored, not packed (RFC 1951, 3.2.4); the streams' few headers are far below 64 KiB
        let size = u16::try_from(block.len()).unwrap_or(u16::MAX);
        payload.push(0);
        payload.extend(size.to_le_bytes());
        payload.extend((!size).to_le_bytes());
        payload.extend(block);
        // an empty one behind it, by which the other end knows that it has all
        payload.extend(FLUSH);
        control(SYN_STREAM, if fin { FIN } else { 0 }, &payload)
    }
    /// Bytes of a stream, at most 16 MiB; `fin`: the last.
    pub(super) fn data(stream: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
        let mut frame = stream.to_be_bytes().to_vec();
        frame.extend(flags_and_length(if fin { FIN } else { 0 }, bytes.len()));
        frame.extend(bytes);
        frame
    }
    /// Asks whether the other end is there.
    pub(super) fn ping(number: u32) -> Vec<u8> {
        control(PING, 0, &number.to_be_bytes())
    }
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = CONTROL.to_be_bytes().to_vec();
    frame.extend(kind.to_be_bytes());
    frame.extend(flags_and_length(flags, payload.len()));
    frame.extend(payload);
    frame
}

fn flags_and_length(flags: u8, length: usize) -> [u8; 4] {
    let [_, a, b, c] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [flags, a, b, c]
}

// === impl Receiving ===

impl Receiving {
    /// What these bytes bring.
    ///
    /// # Errors
    /// They are not SPDY.
    pub(super) fn add(&mut self, mut bytes: &[u8]) -> Result<Vec<Came>, Failure> {
        let mut came = Vec::new();
        loop {
            match &mut self.body {
                None => {
                    let take = bytes.len().min(HEADER - self.head.len());
                    self.head.extend_from_slice(&bytes[..take]);
                    bytes = &bytes[take..];
                    let Ok(head) = <[u8; HEADER]>::try_from(&self.head[..]) else { return Ok(came) };
                    self.head.clear();
                    self.body = Some(begin(head)?);
                }
                Some(Body::Data { stream, fin, left }) => {
                    let take = bytes.len().min(*left);
                    if take > 0 {
                        came.push(Came::Data { stream: *stream, bytes: bytes[..take].to_vec() });
                    }
                    (bytes, *left) = (&bytes[take..], *left - take);
                    if *left > 0 {
                        return Ok(came);
                    }
                    if *fin {
                        came.push(Came::Fin { stream: *stream });
                    }
                    self.body = None;
                }
                Some(Body::Control { kind, left, held }) => {
                    let take = bytes.len().min(*left);
                    held.extend_from_slice(&bytes[..take]);
                    (bytes, *left) = (&bytes[take..], *left - take);
                    if *left > 0 {
                        return Ok(came);
                    }
                    came.extend(ended(*kind, held));
                    self.body = None;
                }
            }
        }
    }
}

fn begin(head: [u8; HEADER]) -> Result<Body, Failure> {
    let [a, b, c, d, flags, x, y, z] = head;
    let left = u32::from_be_bytes([0, x, y, z]) as usize;
    if a & 0x80 == 0 {
        return Ok(Body::Data { stream: u32::from_be_bytes([a, b, c, d]), fin: flags & FIN != 0, left });
    }
    if u16::from_be_bytes([a, b]) != CONTROL || left > CONTROL_MAX {
        return Err(Code::TargetFailed.on("what comes of the forwarded port is not SPDY/3.1"));
    }
    Ok(Body::Control { kind: u16::from_be_bytes([c, d]), left, held: Vec::new() })
}

/// What a control frame means here; of the others nothing.
fn ended(kind: u16, payload: &[u8]) -> Option<Came> {
    let number = payload.first_chunk::<4>().map(|n| u32::from_be_bytes(*n));
    match kind {
        RST_STREAM => number.map(|stream| Came::Reset { stream }),
        PING => number.map(Came::Ping),
        GOAWAY => Some(Came::Leaves),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent() {
        let mut sending = Sending::default();
        let first = sending.open(1, &[("port", "80")], true);
        let block = [0, 0, 0, 1, 0, 0, 0, 4, b'p', b'o', b'r', b't', 0, 0, 0, 2, b'8', b'0'];
        let mut expected = vec![
            0x80,
            3,
            0,
            1,
            1,
            0,
            0,
            10 + 2 + 5 + 18 + 5,
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            0,
            0x78,
            1,
            0,
            18,
            0,
            237,
            255,
        ];
        expected.extend(block);
        expected.extend(FLUSH);
        assert_eq!(first, expected);
        // the packed stream goes on
        let second = sending.open(3, &[("port", "80")], false);
        assert_eq!((second.len(), second[4]), (first.len() - 2, 0));
        assert_eq!(Sending::data(3, b"abc", true), [0, 0, 0, 3, 1, 0, 0, 3, b'a', b'b', b'c']);
        assert_eq!(Sending::ping(7), [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
    }

    #[test]
    fn what_comes_wherever_it_is_cut() {
        let mut all = Vec::new();
        // an answer to a stream's opening, with headers that nobody reads
        all.extend(control(2, 0, &[0, 0, 0, 1, 9, 9, 9]));
        all.extend(Sending::data(3, b"hello", false));
        all.extend(control(PING, 0, &2_u32.to_be_bytes()));
        all.extend(Sending::data(3, b"", true));
        all.extend(control(RST_STREAM, 0, &[0, 0, 0, 1, 0, 0, 0, 5]));
        all.extend(control(GOAWAY, 0, &[0; 8]));
        for size in 1..all.len() {
            let mut receiving = Receiving::default();
            let mut came = Vec::new();
            for piece in all.chunks(size) {
                came.extend(receiving.add(piece).expect("SPDY"));
            }
            let text: Vec<u8> = came
                .iter()
                .filter_map(|c| if let Came::Data { stream: 3, bytes } = c { Some(bytes.clone()) } else { None })
                .flatten()
                .collect();
            assert_eq!(text, b"hello");
            came.retain(|c| !matches!(c, Came::Data { .. }));
            assert_eq!(
                came,
                [Came::Ping(2), Came::Fin { stream: 3 }, Came::Reset { stream: 1 }, Came::Leaves],
                "{size}"
            );
        }
    }

    #[test]
    fn what_is_no_spdy_is_refused() {
        for head in [[0x80, 2, 0, 1, 0, 0, 0, 0], [0x80, 3, 0, 2, 0, 255, 255, 255], *b"\xffTTP/1.1"] {
            assert!(Receiving::default().add(&head).is_err(), "{head:?}");
        }
    }
}
