//! A clock that tests set, for programs that do not know of it: preloaded (LD_PRELOAD), it adds to what the wall clock and the time since
//! boot say. The file that RUNNER_TEST_CLOCK names holds two signed 64-bit numbers, milliseconds: the wall clock's, the time since boot's.
//! They are looked up at each question, so a running program sees steps and suspensions.

#![allow(unsafe_code)] // an example of this crate, the only one where it may be

use std::sync::atomic::{AtomicI64, AtomicPtr, Ordering};

/// The file in memory, as soon as it is there.
static OFFSETS: AtomicPtr<AtomicI64> = AtomicPtr::new(std::ptr::null_mut());

/// Before main, and so before the program confines itself.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

extern "C" fn begin() {
    // SAFETY: the name is a C string; what is found is one, and is only read here, before there are other threads. The mapping is new, of a
    // file as long as two numbers, and stays; its numbers are read as atomics.
    unsafe {
        let path = libc::getenv(c"RUNNER_TEST_CLOCK".as_ptr());
        if path.is_null() {
            return;
        }
        let file = libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return;
        }
        let map = libc::mmap(std::ptr::null_mut(), 16, libc::PROT_READ, libc::MAP_SHARED, file, 0);
        libc::close(file);
        if map != libc::MAP_FAILED {
            OFFSETS.store(map.cast(), Ordering::Release);
        }
    }
}

/// What is added to a clock, milliseconds.
fn offset(clock: libc::clockid_t) -> i64 {
    let which = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => 0,
        libc::CLOCK_BOOTTIME => 1,
        _ => return 0,
    };
    let offsets = OFFSETS.load(Ordering::Acquire);
    if offsets.is_null() {
        return 0;
    }
    // SAFETY: `begin` has mapped two numbers there for good.
    unsafe { (*offsets.add(which)).load(Ordering::Relaxed) }
}

fn shifted(time: libc::timespec, ms: i64) -> libc::timespec {
    let nanoseconds = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec) + i128::from(ms) * 1_000_000;
    libc::timespec {
        tv_sec: nanoseconds.div_euclid(1_000_000_000) as libc::time_t,
        tv_nsec: nanoseconds.rem_euclid(1_000_000_000) as libc::c_long,
    }
}

/// As the C library's.
///
/// # Safety
/// `time` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the caller's pointer, for the system call that it is meant for; read after that has written it.
    unsafe {
        let result = libc::syscall(libc::SYS_clock_gettime, clock, time);
        if result == 0 {
            *time = shifted(*time, offset(clock));
        }
        result as libc::c_int
    }
}

/// As the C library's.
///
/// # Safety
/// `time` must be writable or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut libc::timeval, _zone: *mut libc::c_void) -> libc::c_int {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is ours; the caller's pointer is written where there is one.
    unsafe {
        let result = clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
        if result == 0 && !time.is_null() {
            *time = libc::timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1000 };
        }
        result
    }
}

/// As the C library's.
///
/// # Safety
/// `time` must be writable or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(time: *mut libc::time_t) -> libc::time_t {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above.
    unsafe {
        clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
        if !time.is_null() {
            *time = now.tv_sec;
        }
    }
    now.tv_sec
}
