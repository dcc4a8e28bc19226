//! System calls by allow-list: a profile is data (`profiles/`), compiled here to a BPF program, installed by the child before it executes.
//!
//! What is not on the list fails with EPERM, so that a program can say what it missed; clone3 with ENOSYS, since its arguments lie in memory
//! that a filter cannot read, and libc then takes clone, which it can. A call of another architecture ends the process.
//! The numbers are searched, not tried one by one: about ten steps for each call of the program's life instead of a hundred.

use nix::errno::Errno;
use std::io;

/// The kernel's limit for one program, instructions.
const PROGRAM_MAX: usize = 4096;
/// Ranges at this end of the search are compared one after the other.
const LEAF: usize = 2;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xC000_00B7;
/// x86-64 numbers from here on are another calling convention, under which the same calls have other numbers.
const X32: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`.
const DATA_NUMBER: u32 = 0;
const DATA_ARCH: u32 = 4;
const DATA_ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// The call goes on.
const ALLOW: u32 = 0x7fff_0000;
/// The call fails with the number in the low half.
const FAIL: u32 = 0x0005_0000;
/// The process ends.
const KILL: u32 = 0x8000_0000;
/// Whoever holds the filter's listener answers the call.
const ASK: u32 = 0x7fc0_0000;

/// One comparison of an argument: whether `argument & mask == value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Which argument, from 0.
    pub argument: u8,
    /// Its bits that count.
    pub mask: u64,
    /// What they are compared with.
    pub value: u64,
    /// Whether they must be that, or must not. The second only for masks of 32 bits.
    pub equal: bool,
}

/// A call that is allowed.
#[derive(Debug, Clone, Copy)]
pub struct Allow {
    /// Its number.
    pub number: libc::c_long,
    /// Its name, for people.
    pub name: &'static str,
    /// Where not empty: only if all checks of one of these hold.
    pub only: &'static [&'static [Check]],
}

/// An allow-list.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// What it allows with other profiles.
    pub shared: &'static [&'static [Allow]],
    /// What it allows besides.
    pub own: &'static [&'static [Allow]],
    /// Of these, what whoever holds the filter's listener answers ([`crate::notify`]) instead of the kernel.
    pub asks: &'static [libc::c_long],
}

/// A compiled profile.
#[derive(Debug, Clone)]
pub struct Filter {
    program: Vec<libc::sock_filter>,
}

/// The bits of an argument that the kernel takes as `int`.
const INT: u64 = 0xffff_ffff;

/// An argument of 64 bits must be exactly that.
pub const fn is(argument: u8, value: u64) -> Check {
    Check { argument, mask: u64::MAX, value, equal: true }
}
/// An argument that the kernel takes as 32 bits (`int`, `pid_t`) must be exactly that.
pub const fn is_int(argument: u8, value: u32) -> Check {
    Check { argument, mask: INT, value: value as u64, equal: true }
}
/// An argument that the kernel takes as 32 bits must be anything but that.
pub const fn is_not_int(argument: u8, value: u32) -> Check {
    Check { argument, mask: INT, value: value as u64, equal: false }
}
/// Some bits of an argument must be exactly that.
pub const fn masked(argument: u8, mask: u64, value: u64) -> Check {
    Check { argument, mask, value, equal: true }
}
/// An argument must have these bits.
pub const fn has(argument: u8, bits: u64) -> Check {
    Check { argument, mask: bits, value: bits, equal: true }
}
/// An argument must have none of these bits.
pub const fn lacks(argument: u8, bits: u64) -> Check {
    Check { argument, mask: bits, value: 0, equal: true }
}

/// Rows of a profile: a call's name after `SYS_`, and after a colon what its arguments must be.
#[macro_export]
macro_rules! calls {
    ($($name:ident $(: $only:expr)?),* $(,)?) => {
        &[$($crate::seccomp::Allow {
            number: $crate::seccomp::numbers::$name,
            name: stringify!($name),
            only: calls!(@only $($only)?),
        }),*]
    };
    (@only) => { &[] };
    (@only $only:expr) => { $only };
}

/// The kernel's numbers by the calls' own names.
#[allow(non_upper_case_globals, missing_docs)] // they are the kernel's names, which its manual explains
pub mod numbers {
    macro_rules! numbers {
        ($($name:ident = $number:ident),* $(,)?) => { $(pub const $name: libc::c_long = libc::$number;)* };
    }
    include!("profiles/numbers.rs");
    #[cfg(target_arch = "x86_64")]
    mod legacy {
        include!("profiles/numbers_x86_64.rs");
    }
    #[cfg(target_arch = "x86_64")]
    pub use legacy::*;
}

// === impl Profile ===

impl Profile {
    /// Every call that it allows.
    pub fn calls(&self) -> impl Iterator<Item = &'static Allow> {
        self.shared.iter().chain(self.own).flat_map(|part| part.iter())
    }

    /// Compiles it.
    ///
    /// # Errors
    /// `InvalidInput` for one that is larger than the kernel takes; a test compiles them all.
    pub fn compile(&self) -> io::Result<Filter> {
        let asked = |number: libc::c_long| self.asks.contains(&number);
        let plain = self.calls().filter(|c| c.only.is_empty() && !asked(c.number));
        let mut plain: Vec<u32> = plain.map(|c| c.number as u32).collect();
        plain.sort_unstable();
        plain.dedup();
        let mut program = vec![
            statement(LOAD, DATA_ARCH),
            jump(IF_EQUAL, AUDIT_ARCH, 1, 0),
            statement(RETURN, KILL),
            statement(LOAD, DATA_NUMBER),
            jump(IF_AT_LEAST, X32, 0, 1),
            statement(RETURN, fail(Errno::ENOSYS)),
            jump(IF_EQUAL, numbers::clone3 as u32, 0, 1),
            statement(RETURN, fail(Errno::ENOSYS)),
        ];
        for number in self.asks {
            program.push(jump(IF_EQUAL, *number as u32, 0, 1));
            program.push(statement(RETURN, ASK));
        }
        for call in self.calls().filter(|c| !c.only.is_empty()) {
            let block = conditions(call.only);
            program.push(jump(IF_EQUAL, call.number as u32, 0, short(block.len())?));
            program.extend(block);
        }
        search(&ranges(&plain), &mut program)?;
        if program.len() > PROGRAM_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Filter { program })
    }
}

/// Neighbouring numbers in one range, both ends included.
fn ranges(sorted: &[u32]) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in sorted {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    ranges
}

/// A binary search of the accumulator in the ranges; ends the program either way.
fn search(ranges: &[(u32, u32)], program: &mut Vec<libc::sock_filter>) -> io::Result<()> {
    if ranges.len() <= LEAF {
        for (first, last) in ranges {
            // first <= A <= last
            program.push(jump(IF_AT_LEAST, *first, 0, 2));
            program.push(jump(IF_AT_LEAST, last + 1, 1, 0));
            program.push(statement(RETURN, ALLOW));
        }
        program.push(statement(RETURN, fail(Errno::EPERM)));
        return Ok(());
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let mut below = Vec::new();
    search(low, &mut below)?;
    // the distance may exceed what a conditional jump reaches
    program.push(jump(IF_AT_LEAST, high[0].0, 0, 1));
    let distance = u32::try_from(below.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    program.push(statement(JUMP, distance));
    program.extend(below);
    search(high, program)
}

/// Tries each alternative; ends the program either way. The accumulator is not kept.
fn conditions(alternatives: &[&[Check]]) -> Vec<libc::sock_filter> {
    let mut block = Vec::new();
    for checks in alternatives {
        let mut steps: Vec<(u32, u32, u32, bool)> = Vec::new();
        for check in *checks {
            let at = DATA_ARGUMENTS + 8 * u32::from(check.argument);
            for (offset, shift) in [(low_half(), 0), (4 - low_half(), 32)] {
                let (mask, value) = ((check.mask >> shift) as u32, (check.value >> shift) as u32);
                if mask != 0 {
                    steps.push((at + offset, mask, value, check.equal));
                }
            }
        }
        for (n, (at, mask, value, equal)) in steps.iter().copied().enumerate() {
            let done = n + 1;
            // over the steps that are left and the verdict
            let over = steps[done..].iter().map(|(_, mask, ..)| length(*mask)).sum::<usize>() + 1;
            let over = u8::try_from(over).unwrap_or(u8::MAX);
            block.push(statement(LOAD, at));
            if mask != u32::MAX {
                block.push(statement(AND, mask));
            }
            block.push(if equal { jump(IF_EQUAL, value, 0, over) } else { jump(IF_EQUAL, value, over, 0) });
        }
        block.push(statement(RETURN, ALLOW));
    }
    block.push(statement(RETURN, fail(Errno::EPERM)));
    block
}

/// Instructions of one comparison: where all bits count, none has to be taken out.
const fn length(mask: u32) -> usize {
    if mask == u32::MAX { 2 } else { 3 }
}

const fn low_half() -> u32 {
    if cfg!(target_endian = "little") { 0 } else { 4 }
}

fn short(distance: usize) -> io::Result<u8> {
    u8::try_from(distance).map_err(|_| io::ErrorKind::InvalidInput.into())
}

const fn fail(errno: Errno) -> u32 {
    FAIL | errno as u32
}

const fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

// === impl Filter ===

impl Filter {
    /// As the kernel takes it. The program's memory must outlive its use, and is not written by it.
    pub(crate) fn as_program(&self) -> libc::sock_fprog {
        libc::sock_fprog {
            len: u16::try_from(self.program.len()).unwrap_or(u16::MAX),
            filter: self.program.as_ptr().cast_mut(),
        }
    }
    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.program.len()
    }
    /// Whether it has none, which no compiled one has.
    pub fn is_empty(&self) -> bool {
        self.program.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiles;

    /// What the kernel would do, and in how many steps.
    fn verdict(filter: &Filter, arch: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(0_u64.to_le_bytes());
        for argument in arguments {
            data.extend(argument.to_le_bytes());
        }
        let (mut accumulator, mut at, mut steps) = (0_u32, 0, 0);
        loop {
            let i = filter.program[at];
            steps += 1;
            at += 1;
            let go = |to: u8| at + usize::from(to);
            match i.code {
                LOAD => {
                    let k = i.k as usize;
                    accumulator = u32::from_le_bytes(data[k..k + 4].try_into().expect("four"));
                }
                AND => accumulator &= i.k,
                IF_EQUAL => at = go(if accumulator == i.k { i.jt } else { i.jf }),
                IF_AT_LEAST => at = go(if accumulator >= i.k { i.jt } else { i.jf }),
                JUMP => at += i.k as usize,
                RETURN => return (i.k, steps),
                other => panic!("{other}"),
            }
        }
    }

    fn holds(check: &Check, arguments: [u64; 6]) -> bool {
        (arguments[usize::from(check.argument)] & check.mask == check.value) == check.equal
    }

    #[test]
    fn every_profile_compiles_to_what_it_says() {
        for profile in profiles::ALL {
            let filter = profile.compile().expect(profile.name);
            let mut most = 0;
            for number in 0..1000_u32 {
                let rows: Vec<_> = profile.calls().filter(|c| c.number as u32 == number).collect();
                for arguments in
                    [[0; 6], [1; 6], [u64::MAX; 6], [0x1_0000_0000; 6], [0x5421; 6], [0x7d0f00, 0, 0, 0, 0x1000, 0]]
                {
                    let wanted = match &rows[..] {
                        _ if number == numbers::clone3 as u32 => fail(Errno::ENOSYS),
                        _ if profile.asks.contains(&libc::c_long::from(number)) => ASK,
                        [] => fail(Errno::EPERM),
                        [call] if call.only.is_empty() => ALLOW,
                        [call] if call.only.iter().any(|all| all.iter().all(|c| holds(c, arguments))) => ALLOW,
                        [_] => fail(Errno::EPERM),
                        _ => panic!("{} names call {number} twice", profile.name),
                    };
                    let (found, steps) = verdict(&filter, AUDIT_ARCH, number, arguments);
                    assert_eq!(found, wanted, "{} {number} {arguments:?}", profile.name);
                    most = most.max(steps);
                }
            }
            assert!(most < 64, "{}: {most} steps", profile.name);
            println!("{}: {} instructions", profile.name, filter.len());
            assert_eq!(verdict(&filter, AUDIT_ARCH ^ 1, 0, [0; 6]).0, KILL);
            assert_eq!(verdict(&filter, AUDIT_ARCH, X32, [0; 6]).0, fail(Errno::ENOSYS));
        }
    }
}
