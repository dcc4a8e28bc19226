//! Every bound that both ends must know, with its unit. A bound of one program alone stands where it is used.

use std::time::Duration;

/// The largest HTTP/2 frame on the tunnel, bytes.
pub const FRAME_MAX: u32 = 64 * 1024;
/// The largest first message of an operation, bytes, encoded.
pub const FIRST_MESSAGE_MAX: usize = 256 * 1024;
/// The largest later message of an operation, bytes, encoded.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// The most payload that one data, stderr or stdin message carries, bytes: with its tags it stays under [`MESSAGE_MAX`].
pub const DATA_MAX: usize = MESSAGE_MAX - 16;
/// The most that the head of an answer takes which is passed on, bytes, encoded. Go's own servers and clients stop at 1 MiB; API servers send 1 KiB.
pub const HEAD_MAX: usize = 48 * 1024;
/// What a runner says of its policy, bytes of JSON.
pub const POLICY_SUMMARY_MAX: usize = 32 * 1024;
/// Operations at once for a session, by default.
pub const OPERATIONS_DEFAULT: u32 = 1024;
/// The memory budget of a connection at each end, send buffers included, by default, bytes.
pub const BUDGET_DEFAULT: u64 = 32 * 1024 * 1024;
/// The deadline of an operation that gives one document.
pub const UNARY_DEADLINE: Duration = Duration::from_secs(30);
/// Connecting and the TLS handshake together.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Between two round trips of a session.
pub const PING_INTERVAL: Duration = Duration::from_secs(3);
/// A session that has not answered a ping for this long gets nothing new.
pub const PING_MISSED: Duration = Duration::from_secs(3);
/// A session that has not been heard of for this long is closed. With one interval before it this stays under the promised 15 s.
pub const PEER_DEAD: Duration = Duration::from_secs(10);
/// The grace for operations in flight when either end leaves on purpose.
pub const DRAIN_GRACE: Duration = Duration::from_secs(25);
/// Jobs at once of an instance, at most: each has an engine and its plug-ins, which take some 100 MiB.
pub const JOBS_AT_ONCE_MAX: u32 = 256;
/// The largest encoded job request, bytes.
pub const JOB_REQUEST_MAX: usize = 1024 * 1024;
/// The largest encoded event, bytes; what is longer is cut and says so.
pub const EVENT_MAX: usize = 64 * 1024;
/// A plan as a document, bytes of JSON; what does not fit is left out and counted in it.
pub const PLAN_DOCUMENT_MAX: usize = 2 * 1024 * 1024;
/// A part of it in one event, bytes: with what JSON and protobuf add it stays under [`EVENT_MAX`].
pub const PLAN_PART: usize = 48 * 1024;
/// The most bytes of events in one report.
pub const REPORT_MAX: usize = 256 * 1024;
/// A packed source archive, bytes.
pub const ARCHIVE_PACKED_MAX: u64 = 512 * 1024 * 1024;
/// What the file in a job's folder begins with that a worker leaves of a commit that it had to fetch, for the next job that wants it.
pub const FETCHED_PACK: &str = "fetched-";
/// An unpacked source, bytes.
pub const SOURCE_UNPACKED_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Files and folders in an unpacked source.
pub const SOURCE_FILES_MAX: u64 = 100_000;
/// A chunk of an archive on its way to the runner, bytes.
pub const SOURCE_CHUNK: usize = 256 * 1024;
