//! The request of a job, from the descriptor that the spawner left open. The descriptor is closed as soon as the request is
//! read: it would be inherited by the engine otherwise, and a job has nothing more to do with whoever started it.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use prost::Message as _;
use shared_proto::frame::{FrameError, Header, Kind};
use shared_proto::v1::JobStart;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

/// A socket that may be non-blocking, read as if it were not.
struct Waiting<'a>(&'a mut UnixStream);

impl Read for Waiting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
                }
                result => return result,
            }
        }
    }
}

/// Reads the one frame that a job's worker gets and closes the descriptor.
///
/// # Errors
/// No socket there; a frame that is not a request; a request that is not a `JobStart`.
pub(crate) fn read_inherited() -> Result<JobStart, FrameError> {
    let mut socket = runner_sandbox::inherited_socket()?;
    Ok(JobStart::decode(read(&mut socket)?.as_slice())?)
}

/// Reads one request, and not a byte beyond it.
///
/// # Errors
/// A frame that is not a request.
pub(crate) fn read(socket: &mut UnixStream) -> Result<Vec<u8>, FrameError> {
    read_from(&mut Waiting(socket))
}

fn read_from(reader: &mut impl Read) -> Result<Vec<u8>, FrameError> {
    let mut header = [0; Header::SIZE];
    reader.read_exact(&mut header)?;
    let header = Header::decode(header)?;
    if header.kind != Kind::Request {
        return Err(FrameError::Unexpected { expected: Kind::Request, found: header.kind });
    }
    // bounded by the kind's limit, which `decode` has checked
    let mut content = vec![0; header.length];
    reader.read_exact(&mut content)?;
    Ok(content)
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
        let content = read_from(&mut good.as_slice()).expect("reads");
        assert_eq!(JobStart::decode(content.as_slice()).expect("a start").step, "plan");
        for cut in 0..good.len() {
            assert!(matches!(read_from(&mut &good[..cut]), Err(FrameError::Io(_))), "cut at {cut}");
        }
        assert!(matches!(read_from(&mut frame(Kind::Data, b"x").as_slice()), Err(FrameError::Unexpected { .. })));
    }
}
