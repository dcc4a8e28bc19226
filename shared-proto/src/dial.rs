//! How an operation's worker asks the supervisor for a connection, over [`DESCRIPTOR`]: one end of a `SOCK_SEQPACKET` pair.
//!
//! ```text
//! request   port (two bytes, big endian), host (1 to 253 bytes of printable ASCII without a space)
//! reply     0, and with it exactly one descriptor: the connected TCP socket, non-blocking
//!           1, then an encoded `DialFailure`, and no descriptor
//! ```
//! Each is one datagram. Questions are answered one at a time, in their order; the next one comes after the answer. There are at most
//! [`DIALS_MAX`] of them in an operation. Whatever else is sent ends the dialling.

use crate::failure::Failure;
use crate::v1::DialFailure;
use prost::Message as _;

/// The descriptor that an operation's worker is born with for it.
pub const DESCRIPTOR: i32 = 4;
/// Connections that a worker may ask for.
pub const DIALS_MAX: u32 = 256;
/// The longest host: the longest name in DNS, bytes.
pub const HOST_MAX: usize = 253;
/// The longest request, bytes.
pub const REQUEST_MAX: usize = 2 + HOST_MAX;
/// The longest reply, bytes.
pub const REPLY_MAX: usize = 4 * 1024;
/// The longest message, and the longest next step, in a failure, bytes: longer ones are cut.
const TEXT_MAX: usize = 1900;

const CONNECTED: u8 = 0;
const FAILED: u8 = 1;

/// What a worker asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    host: String,
    port: u16,
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The connection is the descriptor that came along.
    Connected,
    /// There is none.
    Failed(Failure),
}

/// What nobody sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A host that is none.
    #[error("a host is 1 to {HOST_MAX} printable ASCII characters without a space")]
    Host,
    /// No port.
    #[error("the port is missing or 0")]
    Port,
    /// Neither kind of reply, or with more or fewer descriptors than belong to it.
    #[error("it is no reply, or another number of descriptors came with it")]
    Reply,
}

// === impl Request ===

impl Request {
    /// Asks for that.
    ///
    /// # Errors
    /// No host, or no port.
    pub fn new(host: &str, port: u16) -> Result<Self, Malformed> {
        if !(1..=HOST_MAX).contains(&host.len()) || !host.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Malformed::Host);
        }
        if port == 0 {
            return Err(Malformed::Port);
        }
        Ok(Self { host: host.to_owned(), port })
    }
    /// A name, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
    /// host:port.
    pub fn shown(&self) -> String {
        crate::address::host_port(&self.host, self.port)
    }
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut datagram = self.port.to_be_bytes().to_vec();
        datagram.extend_from_slice(self.host.as_bytes());
        datagram
    }
    /// As it was received.
    ///
    /// # Errors
    /// As [`Request::new`].
    pub fn decode(datagram: &[u8]) -> Result<Self, Malformed> {
        let (port, host) = datagram.split_first_chunk().ok_or(Malformed::Port)?;
        Self::new(std::str::from_utf8(host).map_err(|_| Malformed::Host)?, u16::from_be_bytes(*port))
    }
}

// === impl Reply ===

impl Reply {
    /// As it is sent, at most [`REPLY_MAX`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Connected => vec![CONNECTED],
            Self::Failed(failure) => {
                let message = DialFailure {
                    code: failure.code.as_str().to_owned(),
                    message: cut(&failure.message),
                    next_step: cut(&failure.next_step),
                };
                let mut datagram = vec![FAILED];
                datagram.extend_from_slice(&message.encode_to_vec());
                datagram
            }
        }
    }
    /// As it was received, with so many descriptors.
    ///
    /// # Errors
    /// [`Malformed::Reply`].
    pub fn decode(datagram: &[u8], descriptors: usize) -> Result<Self, Malformed> {
        match (datagram.split_first(), descriptors) {
            (Some((&CONNECTED, [])), 1) => Ok(Self::Connected),
            (Some((&FAILED, failure)), 0) if datagram.len() <= REPLY_MAX => {
                let failure = DialFailure::decode(failure).map_err(|_| Malformed::Reply)?;
                if failure.code.is_empty() {
                    return Err(Malformed::Reply);
                }
                Ok(Self::Failed(Failure::from_wire(&failure.code, &failure.message, &failure.next_step)))
            }
            _ => Err(Malformed::Reply),
        }
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Code;

    #[test]
    fn a_request_comes_back_and_so_does_each_of_its_prefixes_that_is_one() {
        let longest = "h".repeat(HOST_MAX);
        for (host, port) in [("a", 1), ("::1", 443), ("api.example", 0x0203), (longest.as_str(), u16::MAX)] {
            let request = Request::new(host, port).expect("a request");
            let datagram = request.encode();
            assert!(datagram.len() <= REQUEST_MAX);
            assert_eq!(Request::decode(&datagram), Ok(request));
            for length in 0..datagram.len() {
                let cut = Request::decode(&datagram[..length]);
                match length {
                    0 | 1 => assert_eq!(cut, Err(Malformed::Port)),
                    2 => assert_eq!(cut, Err(Malformed::Host)),
                    // a datagram has its length from the kernel: a shorter host is another host
                    _ => assert_eq!(cut.expect("a request").host(), &host[..length - 2]),
                }
            }
        }
    }

    #[test]
    fn what_no_worker_sends_is_malformed() {
        for (host, port, wrong) in [
            ("", 443, Malformed::Host),
            (&*"h".repeat(HOST_MAX + 1), 443, Malformed::Host),
            ("a b", 443, Malformed::Host),
            ("a\0", 443, Malformed::Host),
            ("a\n", 443, Malformed::Host),
            ("\u{7f}", 443, Malformed::Host),
            ("bücher.example", 443, Malformed::Host),
            ("a", 0, Malformed::Port),
        ] {
            assert_eq!(Request::new(host, port), Err(wrong), "{host:?}");
            let datagram = [&port.to_be_bytes()[..], host.as_bytes()].concat();
            assert_eq!(Request::decode(&datagram), Err(wrong), "{host:?}");
        }
        assert_eq!(Request::decode(b"\x01\xbb\xff\xfe"), Err(Malformed::Host));
    }

    #[test]
    fn a_reply_comes_back_and_none_of_its_prefixes_does() {
        assert_eq!(Reply::decode(&Reply::Connected.encode(), 1), Ok(Reply::Connected));
        let failure = Code::TargetUnreachable.on("a:1: refused").next("Look.");
        let reply = Reply::Failed(failure);
        let datagram = reply.encode();
        assert_eq!(Reply::decode(&datagram, 0), Ok(reply.clone()));
        for length in 0..datagram.len() {
            // a field that was left out whole is an empty one
            let whole = Reply::decode(&datagram[..length], 0);
            assert!(whole == Err(Malformed::Reply) || matches!(&whole, Ok(r) if *r != reply), "cut at {length}");
            assert_eq!(Reply::decode(&datagram[..length], 1), Err(Malformed::Reply), "cut at {length}");
        }
        for (datagram, descriptors) in [
            (&b""[..], 0),
            (b"", 1),
            (b"\0", 0),
            (b"\0", 2),
            (b"\0\0", 1),
            (b"\x01", 0),
            (b"\x01\xff", 0),
            (b"\x02", 1),
            (&datagram[..], 1),
            (&[&[FAILED, 0x0a, 0x01, b'x'][..], &[0; REPLY_MAX]].concat()[..], 0),
        ] {
            assert_eq!(Reply::decode(datagram, descriptors), Err(Malformed::Reply), "{datagram:?} {descriptors}");
        }
    }

    #[test]
    fn a_long_failure_is_cut_to_fit() {
        for letter in ["x", "ä", "…"] {
            let failure = Code::TargetUnreachable.on(letter.repeat(5000)).next(letter.repeat(5000));
            let datagram = Reply::Failed(failure).encode();
            assert!(datagram.len() <= REPLY_MAX, "{}", datagram.len());
            let Ok(Reply::Failed(failure)) = Reply::decode(&datagram, 0) else { panic!("no failure") };
            assert!(failure.message.len() > TEXT_MAX - 4 && failure.message.starts_with(letter));
        }
    }
}
