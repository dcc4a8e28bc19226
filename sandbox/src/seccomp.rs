//! System calls by allow-list: a profile is data (`profiles/`), compiled here to a BPF program, installed by the child before it executes.
//!
//! What is not on the list fails with EPERM, so that a program can say what it missed; clone3 with ENOSYS, since its arguments lie in memory
//! that a filter cannot read, and libc then takes clone, which it can. A call of another architecture ends the process.
//! The numbers are searched, not tried one by one: about ten steps for each call of the program's life instead of a hundred. And the program
//! is short, because the kernel translates it anew for every child, and walks it once for each number that there is: verdicts are shared.

use nix::errno::Errno;
use std::collections::{BTreeMap, HashMap};
use std::{fmt, io};

/// The kernel's limit for one program, instructions.
const PROGRAM_MAX: usize = 4096;
/// How far a conditional jump reaches, instructions.
const JUMP_MAX: usize = u8::MAX as usize;

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

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Ask,
    /// It is not on the list.
    Refuse,
    Fail(Errno),
    /// Allowed only if all checks of one of these hold.
    Check(&'static [&'static [Check]]),
}

/// How many instructions there are from one to the end of the program, itself included.
type Place = usize;

/// A program that is written from its end to its beginning: where a jump goes is known when it is written.
#[derive(Debug, Default)]
struct Backwards {
    program: Vec<libc::sock_filter>,
    /// What becomes of a call that is not on the list.
    refused: u32,
    /// The nearest of each.
    verdicts: HashMap<u32, Place>,
}

/// One comparison of a word.
#[derive(Debug, Clone, Copy)]
struct Step {
    at: u32,
    mask: u32,
    value: u32,
    equal: bool,
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

/// The same numbers with their names.
mod names {
    macro_rules! numbers {
        ($($name:ident = $number:ident),* $(,)?) => {
            pub(in crate::seccomp) const ALL: &[(libc::c_long, &str)] = &[$((libc::$number, stringify!($name))),*];
        };
    }
    include!("profiles/numbers.rs");
    #[cfg(target_arch = "x86_64")]
    pub(super) mod legacy {
        include!("profiles/numbers_x86_64.rs");
    }
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) mod legacy {
        pub(in crate::seccomp) const ALL: &[(libc::c_long, &str)] = &[];
    }
}

/// What the kernel calls the call of that number; newer ones than this program knows have no name.
pub fn name_of(number: libc::c_long) -> Option<&'static str> {
    names::ALL.iter().chain(names::legacy::ALL).find(|(n, _)| *n == number).map(|(_, name)| *name)
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}", self.argument)?;
        if self.mask != u64::MAX && self.mask != INT {
            write!(f, "&{:#x}", self.mask)?;
        }
        write!(f, "{}{:#x}", if self.equal { "=" } else { "!=" }, self.value)
    }
}

/// `name`, or `name[a0=0x0,a2=0x0|a1!=0x4]`: one of the alternatives, all checks of it; `a0` is its first argument.
impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        for (n, checks) in self.only.iter().enumerate() {
            f.write_str(if n == 0 { "[" } else { "|" })?;
            for (n, check) in checks.iter().enumerate() {
                write!(f, "{}{check}", if n == 0 { "" } else { "," })?;
            }
        }
        f.write_str(if self.only.is_empty() { "" } else { "]" })
    }
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
        self.compiled(fail(Errno::EPERM))
    }

    /// Compiles it so that whoever holds the filter's listener answers what is refused, too: to tell of it. As long as nobody answers it
    /// fails with ENOSYS once the listener is gone, and waits before.
    ///
    /// # Errors
    /// The same.
    pub fn compile_telling(&self) -> io::Result<Filter> {
        self.compiled(ASK)
    }

    /// `refused`: what becomes of a call that is not on the list.
    fn compiled(&self, refused: u32) -> io::Result<Filter> {
        let mut special: BTreeMap<u32, Action> = self
            .calls()
            .map(|call| {
                (call.number as u32, if call.only.is_empty() { Action::Allow } else { Action::Check(call.only) })
            })
            .chain(self.asks.iter().map(|number| (*number as u32, Action::Ask)))
            .collect();
        special.insert(numbers::clone3 as u32, Action::Fail(Errno::ENOSYS));
        let mut backwards = Backwards { refused, ..Backwards::default() };
        let search = backwards.search(&ranges(&special));
        // execution begins here: with the architecture, then the number
        let number = backwards.push(statement(LOAD, DATA_NUMBER), search);
        let killed = backwards.verdict(KILL);
        backwards.branch(IF_EQUAL, AUDIT_ARCH, number, killed);
        backwards.program.push(statement(LOAD, DATA_ARCH));
        let mut program = backwards.program;
        program.reverse();
        if program.len() > PROGRAM_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Filter { program })
    }
}

/// Where each range of numbers begins, and what becomes of it: from 0 to the last number that there is.
fn ranges(special: &BTreeMap<u32, Action>) -> Vec<(u32, Action)> {
    let mut ranges = vec![(0, Action::Refuse)];
    let mut begin = |first, action: Action| match ranges.last_mut() {
        Some((_, last)) if *last == action => {}
        Some((at, last)) if *at == first => *last = action,
        _ => ranges.push((first, action)),
    };
    let mut next = 0;
    for (number, action) in special {
        if *number > next {
            begin(next, Action::Refuse);
        }
        begin(*number, *action);
        next = number + 1;
    }
    begin(next, Action::Refuse);
    begin(X32, Action::Fail(Errno::ENOSYS));
    ranges
}

// === impl Backwards ===

impl Backwards {
    /// A verdict that can be jumped to from the next instruction.
    fn verdict(&mut self, verdict: u32) -> Place {
        match self.verdicts.get(&verdict) {
            Some(place) if self.program.len() - place <= JUMP_MAX => *place,
            _ => {
                self.program.push(statement(RETURN, verdict));
                self.verdicts.insert(verdict, self.program.len());
                self.program.len()
            }
        }
    }

    /// An instruction that goes on at `then`, which may have to be jumped to.
    fn push(&mut self, instruction: libc::sock_filter, then: Place) -> Place {
        let distance = self.program.len() - then;
        if distance > 0 {
            self.program.push(statement(JUMP, distance as u32));
        }
        self.program.push(instruction);
        self.program.len()
    }

    /// A place from which `place` is reached, itself if it is near enough for the next two instructions.
    fn near(&mut self, place: Place) -> Place {
        let distance = self.program.len() - place;
        if distance < JUMP_MAX {
            return place;
        }
        self.program.push(statement(JUMP, distance as u32));
        self.program.len()
    }

    fn branch(&mut self, code: u16, value: u32, holds: Place, fails: Place) -> Place {
        let (holds, fails) = (self.near(holds), self.near(fails));
        // each is at most `JUMP_MAX`: what `near` has added for the other one is one instruction
        let short = |place: Place| u8::try_from(self.program.len() - place).unwrap_or(u8::MAX);
        let instruction = jump(code, value, short(holds), short(fails));
        self.program.push(instruction);
        self.program.len()
    }

    /// A binary search of the number, which has been loaded, in the ranges.
    fn search(&mut self, ranges: &[(u32, Action)]) -> Place {
        match ranges {
            [] => self.verdict(self.refused),
            [(_, action)] => match action {
                Action::Allow => self.verdict(ALLOW),
                Action::Ask => self.verdict(ASK),
                Action::Refuse => self.verdict(self.refused),
                Action::Fail(errno) => self.verdict(fail(*errno)),
                Action::Check(alternatives) => self.conditions(alternatives),
            },
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let (below, rest) = (self.search(low), self.search(high));
                self.branch(IF_AT_LEAST, high[0].0, rest, below)
            }
        }
    }

    /// Tries each alternative, in their order.
    fn conditions(&mut self, alternatives: &[&[Check]]) -> Place {
        let alternatives: Vec<Vec<Step>> = alternatives.iter().map(|checks| steps(checks)).collect();
        let mut otherwise = self.verdict(self.refused);
        for (n, steps) in alternatives.iter().enumerate().rev() {
            // what every failed one before it has left in the accumulator
            let before = n
                .checked_sub(1)
                .and_then(|n| alternatives[n].iter().map(Step::leaves).reduce(|a, b| if a == b { a } else { None }));
            let mut then = self.verdict(ALLOW);
            for (n, step) in steps.iter().enumerate().rev() {
                let (holds, fails) = if step.equal { (then, otherwise) } else { (otherwise, then) };
                then = self.branch(IF_EQUAL, step.value, holds, fails);
                if step.mask != u32::MAX {
                    then = self.push(statement(AND, step.mask), then);
                }
                let loaded = if n == 0 { before.flatten() } else { steps[n - 1].leaves() };
                if loaded != Some(step.at) {
                    then = self.push(statement(LOAD, step.at), then);
                }
            }
            otherwise = then;
        }
        otherwise
    }
}

// === impl Step ===

impl Step {
    /// Which word it leaves in the accumulator as it is.
    fn leaves(&self) -> Option<u32> {
        (self.mask == u32::MAX).then_some(self.at)
    }
}

/// The comparisons of 32 bits that these come down to.
fn steps(checks: &[Check]) -> Vec<Step> {
    let mut steps = Vec::new();
    for check in checks {
        let at = DATA_ARGUMENTS + 8 * u32::from(check.argument);
        for (offset, shift) in [(low_half(), 0), (4 - low_half(), 32)] {
            let (mask, value) = ((check.mask >> shift) as u32, (check.value >> shift) as u32);
            if mask != 0 {
                steps.push(Step { at: at + offset, mask, value, equal: check.equal });
            }
        }
    }
    steps
}

const fn low_half() -> u32 {
    if cfg!(target_endian = "little") { 0 } else { 4 }
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

    #[test]
    fn calls_have_names() {
        for (number, name) in [
            (libc::SYS_read, Some("read")),
            (libc::SYS_ptrace, Some("ptrace")),
            (libc::SYS_mount, Some("mount")),
            (100_000, None),
        ] {
            assert_eq!(name_of(number), name);
        }
        for call in profiles::ALL.iter().flat_map(Profile::calls) {
            assert_eq!(name_of(call.number), Some(call.name));
        }
    }

    fn holds(check: &Check, arguments: [u64; 6]) -> bool {
        (arguments[usize::from(check.argument)] & check.mask == check.value) == check.equal
    }

    #[test]
    fn every_profile_compiles_to_what_it_says() {
        let both = |p: &Profile| [(p.compile(), fail(Errno::EPERM)), (p.compile_telling(), ASK)];
        for (profile, (filter, refused)) in profiles::ALL.iter().flat_map(|p| both(p).map(|filter| (p, filter))) {
            let filter = filter.expect(profile.name);
            let mut most = 0;
            for number in 0..1000_u32 {
                let rows: Vec<_> = profile.calls().filter(|c| c.number as u32 == number).collect();
                for arguments in
                    [[0; 6], [1; 6], [u64::MAX; 6], [0x1_0000_0000; 6], [0x5421; 6], [0x7d0f00, 0, 0, 0, 0x1000, 0]]
                {
                    let wanted = match &rows[..] {
                        _ if number == numbers::clone3 as u32 => fail(Errno::ENOSYS),
                        _ if profile.asks.contains(&libc::c_long::from(number)) => ASK,
                        [] => refused,
                        [call] if call.only.is_empty() => ALLOW,
                        [call] if call.only.iter().any(|all| all.iter().all(|c| holds(c, arguments))) => ALLOW,
                        [_] => refused,
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
