//! Memory for a secret: pages of its own, which are not written to swap or into dumps, do not reach a forked child, and are wiped at the end.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// The longest secret, bytes.
pub const LENGTH_MAX: usize = 256 * 1024;

/// Bytes in memory of their own. They never change.
pub struct Locked {
    start: NonNull<u8>,
    length: usize,
    mapped: NonZeroUsize,
    locked: bool,
}

// SAFETY: the memory belongs to this value alone, and nothing writes to it between its making and its end.
unsafe impl Send for Locked {}
// SAFETY: as above: shared references only read.
unsafe impl Sync for Locked {}

// === impl Locked ===

impl Locked {
    /// Copies these bytes into memory of their own. Where the limit of locked memory does not allow it, that memory is not locked:
    /// [`Locked::is_locked`] says so.
    ///
    /// # Errors
    /// `InvalidInput` for more than [`LENGTH_MAX`], or the system's.
    pub fn new(bytes: &[u8]) -> io::Result<Self> {
        if bytes.len() > LENGTH_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let page = 4096;
        let mapped = NonZeroUsize::new(bytes.len().next_multiple_of(page)).unwrap_or(NonZeroUsize::MIN);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping of its own, at no address that is asked for.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), mapped.get(), libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: the range is the mapping just made, which is at least as long as `bytes`. The advice concerns no one else's memory, and a
        // kernel that does not know it leaves things as they are. Locked before there is anything in it.
        let locked = unsafe {
            let locked = libc::mlock(start.as_ptr().cast(), mapped.get()) == 0;
            libc::madvise(start.as_ptr().cast(), mapped.get(), libc::MADV_DONTDUMP);
            libc::madvise(start.as_ptr().cast(), mapped.get(), libc::MADV_WIPEONFORK);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.as_ptr(), bytes.len());
            libc::mprotect(start.as_ptr().cast(), mapped.get(), libc::PROT_READ);
            locked
        };
        Ok(Self { start, length: bytes.len(), mapped, locked })
    }
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: so many were written there, nothing writes to them while this lives, and they live as long as this.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
    /// Whether the limit of locked memory allowed it.
    pub fn is_locked(&self) -> bool {
        self.locked
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: the range is this value's own mapping, to which there is no reference any more; it is written only if it could be made
        // writable. The writes are volatile: nobody reads them, and they must happen.
        unsafe {
            let start = self.start.as_ptr();
            if libc::mprotect(start.cast(), self.mapped.get(), libc::PROT_READ | libc::PROT_WRITE) == 0 {
                for at in 0..self.length {
                    start.add(at).write_volatile(0);
                }
            }
            libc::munmap(start.cast(), self.mapped.get());
        }
    }
}

impl std::fmt::Debug for Locked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[locked]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags of the mapping that has that address, as the kernel tells them.
    fn flags(address: *const u8) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("reads");
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let number = |text: &str| usize::from_str_radix(text, 16).ok();
            if let Some((from, to)) = range.and_then(|(from, to)| Some((number(from)?, number(to)?))) {
                inside = (from..to).contains(&(address as usize));
            }
            if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
                return flags.to_owned();
            }
        }
        String::new()
    }

    #[test]
    fn a_secret_is_locked_left_out_of_dumps_and_gone_afterwards() {
        let secret = Locked::new(b"correct horse battery staple").expect("maps");
        assert_eq!(secret.bytes(), b"correct horse battery staple");
        assert!(!format!("{secret:?}").contains("horse"));
        let at = secret.bytes().as_ptr();
        let has = |flag: &str| flags(at).split_whitespace().any(|f| f == flag);
        assert!(has("dd") && has("wf"), "{}", flags(at));
        assert!(!has("wr"), "it can be written: {}", flags(at));
        assert!(!secret.is_locked() || has("lo"), "{}", flags(at));
        drop(secret);
        assert_eq!(Locked::new(b"").expect("maps").bytes(), b"");
        let long = vec![7; LENGTH_MAX];
        assert_eq!(Locked::new(&long).expect("maps").bytes(), long);
        let refused = Locked::new(&vec![7; LENGTH_MAX + 1]).expect_err("too long");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
