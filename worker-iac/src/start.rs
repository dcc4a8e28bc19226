//! The request of a job, from the descriptor that the spawner left open. The descriptor is closed as soon as the request is
//! read: it would be inherited by the engine otherwise, and a job has nothing more to do with whoever started it.

use prost::Message as _;
use shared_proto::frame::{FrameError, Header, Kind};
use shared_proto::v1::JobStart;
use std::io::{self, Read};
use std::os::fd::RawFd;

/// Where the spawner puts a worker's socket.
const SOCKET: RawFd = 3;

/// Reads a socket by its number: an inherited descriptor cannot be owned without `unsafe`.
struct Inherited(RawFd);

impl Read for Inherited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match nix::sys::socket::recv(self.0, buffer, nix::sys::socket::MsgFlags::empty()) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => std::thread::sleep(std::time::Duration::from_millis(1)),
                result => return Ok(result?),
            }
        }
    }
}

/// Reads the one frame that a job gets and closes the descriptor.
///
/// # Errors
/// No socket there; a frame that is not a request; a request that is not a `JobStart`.
pub(crate) fn read_inherited() -> Result<JobStart, FrameError> {
    let start = read(&mut Inherited(SOCKET));
    // nothing else in this process knows the number; a failure here means that it was not open
    let _ = nix::unistd::close(SOCKET);
    start
}

fn read(reader: &mut impl Read) -> Result<JobStart, FrameError> {
    let mut header = [0; Header::SIZE];
    reader.read_exact(&mut header)?;
    let header = Header::decode(header)?;
    if header.kind != Kind::Request {
        return Err(FrameError::Unexpected { expected: Kind::Request, found: header.kind });
    }
    // bounded by the kind's limit, which `decode` has checked
    let mut content = vec![0; header.length];
    reader.read_exact(&mut content)?;
    Ok(JobStart::decode(content.as_slice())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, content: &[u8]) -> Vec<u8> {
        let mut bytes = Header::new(kind, content.len()).expect("short").encode().to_vec();
        bytes.extend_from_slice(content);
        bytes
    }

    #[test]
    fn a_request_is_read_and_everything_else_is_an_error() {
        let start = JobStart { step: "plan".into(), ..Default::default() };
        let good = frame(Kind::Request, &start.encode_to_vec());
        assert_eq!(read(&mut good.as_slice()).expect("reads").step, "plan");
        for cut in 0..good.len() {
            assert!(matches!(read(&mut &good[..cut]), Err(FrameError::Io(_))), "cut at {cut}");
        }
        assert!(matches!(read(&mut frame(Kind::Data, b"x").as_slice()), Err(FrameError::Unexpected { .. })));
        assert!(matches!(read(&mut frame(Kind::Request, b"\xff").as_slice()), Err(FrameError::Malformed(_))));
    }
}
