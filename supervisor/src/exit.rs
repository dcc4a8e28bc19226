//! Exit codes, as `sysexits.h` has them.

/// What was looked at is not as it should be.
pub const GENERAL: i32 = 1;
/// The command line is wrong.
pub const USAGE: i32 = 64;
/// Something that is named is not there.
pub const NO_INPUT: i32 = 66;
/// No runner runs here.
pub const UNAVAILABLE: i32 = 69;
/// Something failed that should not.
pub const SOFTWARE: i32 = 70;
/// The system refuses what is needed.
pub const OS_ERROR: i32 = 71;
/// Not now.
pub const TEMPFAIL: i32 = 75;
/// It may not.
pub const NO_PERMISSION: i32 = 77;
/// The configuration or the credentials file is wrong.
pub const CONFIG: i32 = 78;
