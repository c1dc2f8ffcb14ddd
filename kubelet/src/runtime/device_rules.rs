//! Which devices a container may use: one table for both versions of cgroups. Pure.
//!
//! Version 1 takes the rules as text; version 2 takes a program, which is assembled here.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Char,
    Block,
}

/// What is allowed; everything else is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Allowed {
    pub(crate) kind: Kind,
    /// `None`: any.
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) access: Access,
}

/// May be opened for reading, for writing, and made by `mknod`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) make: bool,
}

const ALL: Access = Access { read: true, write: true, make: true };
const MAKE: Access = Access { read: false, write: false, make: true };

/// Every device, or only those listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Devices {
    Any,
    Only(Vec<Allowed>),
}

const fn char(major: u32, minor: Option<u32>) -> Allowed {
    Allowed { kind: Kind::Char, major: Some(major), minor, access: ALL }
}

/// What every container has: nodes may be made, since opening them is what counts, and the harmless devices be used
/// (null, zero, full, random, urandom, tty, console, ptmx, and terminals).
const OF_ALL: [Allowed; 11] = [
    Allowed { kind: Kind::Char, major: None, minor: None, access: MAKE },
    Allowed { kind: Kind::Block, major: None, minor: None, access: MAKE },
    char(1, Some(3)),
    char(1, Some(5)),
    char(1, Some(7)),
    char(1, Some(8)),
    char(1, Some(9)),
    char(5, Some(0)),
    char(5, Some(1)),
    char(5, Some(2)),
    char(136, None),
];

// === impl Devices ===

impl Devices {
    pub(crate) fn of_container(privileged: bool) -> Devices {
        if privileged { Devices::Any } else { Devices::Only(OF_ALL.to_vec()) }
    }

    /// The lines of `devices.list` on version 1; `devices.allow` takes the same.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Devices::Any => vec!["a *:* rwm".to_owned()],
            Devices::Only(allowed) => allowed.iter().map(Allowed::line).collect(),
        }
    }

    /// The program of version 2: its answer is 1 for what is allowed.
    pub(crate) fn program(&self) -> Vec<u64> {
        let Devices::Only(allowed) = self else { return vec![set(0, 1), EXIT] };
        // The context: kind and wanted access in one word, then major and minor.
        let mut code =
            vec![load(2, 0), copy(3, 2), keep(2, 0xffff), shift_right(3, 16), load(4, 4), load(5, 8)];
        for one in allowed {
            one.assemble(&mut code);
        }
        code.extend([set(0, 0), EXIT]);
        code
    }
}

// === impl Allowed ===

impl Allowed {
    fn line(&self) -> String {
        let kind = match self.kind {
            Kind::Char => 'c',
            Kind::Block => 'b',
        };
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let Access { read, write, make } = self.access;
        let access: String = [(read, 'r'), (write, 'w'), (make, 'm')]
            .into_iter()
            .filter(|(on, _)| *on)
            .map(|(_, c)| c)
            .collect();
        format!("{kind} {}:{} {access}", number(self.major), number(self.minor))
    }

    /// Answers 1 when all tests hold, else goes on behind itself.
    fn assemble(&self, code: &mut Vec<u64>) {
        let kind = match self.kind {
            Kind::Block => 1,
            Kind::Char => 2,
        };
        let mut tests = vec![Test::Is(2, kind)];
        if self.access != ALL {
            tests.push(Test::Within(self.access.bits()));
        }
        tests.extend(self.major.map(|major| Test::Is(4, major)));
        tests.extend(self.minor.map(|minor| Test::Is(5, minor)));
        let mut rest: usize = tests.iter().map(Test::length).sum();
        for test in tests {
            rest -= test.length();
            // Over the remaining tests and the answer, which is two instructions.
            test.assemble(rest + 2, code);
        }
        code.extend([set(0, 1), EXIT]);
    }
}

impl Access {
    fn bits(self) -> u32 {
        u32::from(self.make) | u32::from(self.read) << 1 | u32::from(self.write) << 2
    }
}

enum Test {
    Is(u8, u32),
    /// The wanted access is part of this one.
    Within(u32),
}

impl Test {
    fn length(&self) -> usize {
        match self {
            Test::Is(..) => 1,
            Test::Within(_) => 3,
        }
    }

    fn assemble(&self, otherwise: usize, code: &mut Vec<u64>) {
        match self {
            Test::Is(register, value) => code.push(jump_unless(*register, *value, otherwise)),
            Test::Within(bits) => {
                code.extend([copy(1, 3), keep(1, *bits), instruction(JUMP_UNLESS_SAME, 1, 3, otherwise, 0)])
            }
        }
    }
}

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const SET: u8 = 0xb4;
const COPY: u8 = 0xbc;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_UNLESS_SAME: u8 = 0x5d;
const EXIT: u64 = 0x95;

/// Code, registers, offset and value, as the kernel lays them out on a little-endian machine.
fn instruction(code: u8, to: u8, from: u8, offset: usize, value: u32) -> u64 {
    let offset = u64::try_from(offset & 0xffff).unwrap_or(0);
    u64::from(code) | u64::from(to) << 8 | u64::from(from) << 12 | offset << 16 | u64::from(value) << 32
}

/// From the context, which register 1 points to at first.
fn load(to: u8, offset: usize) -> u64 {
    instruction(LOAD_WORD, to, 1, offset, 0)
}

fn copy(to: u8, from: u8) -> u64 {
    instruction(COPY, to, from, 0, 0)
}

fn keep(register: u8, bits: u32) -> u64 {
    instruction(AND, register, 0, 0, bits)
}

fn shift_right(register: u8, bits: u32) -> u64 {
    instruction(SHIFT_RIGHT, register, 0, 0, bits)
}

fn set(register: u8, value: u32) -> u64 {
    instruction(SET, register, 0, 0, value)
}

fn jump_unless(register: u8, value: u32, offset: usize) -> u64 {
    instruction(JUMP_UNLESS_EQUAL, register, 0, offset, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn answer(code: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let i = code[at];
            let (op, to, from) = ((i & 0xff) as u8, (i >> 8 & 15) as usize, (i >> 12 & 15) as usize);
            let (offset, value) = ((i >> 16 & 0xffff) as usize, i >> 32);
            at += 1;
            match op {
                LOAD_WORD => registers[to] = u64::from(context[offset / 4]),
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                SET => registers[to] = value,
                COPY => registers[to] = registers[from],
                JUMP_UNLESS_EQUAL => at += if registers[to] == value { 0 } else { offset },
                JUMP_UNLESS_SAME => at += if registers[to] == registers[from] { 0 } else { offset },
                0x95 => return registers[0],
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_allows_what_the_table_allows() {
        const BLOCK: u32 = 1;
        const CHAR: u32 = 2;
        const MAKE: u32 = 1;
        const READ: u32 = 2;
        const WRITE: u32 = 4;
        let (own, all) = (Devices::of_container(false).program(), Devices::of_container(true).program());
        for (kind, access, major, minor, allowed, why) in [
            (CHAR, READ | WRITE, 1, 3, 1, "null"),
            (CHAR, READ | WRITE | MAKE, 1, 5, 1, "zero"),
            (CHAR, READ, 1, 9, 1, "urandom"),
            (CHAR, READ, 1, 1, 0, "mem"),
            (CHAR, READ | WRITE, 5, 2, 1, "ptmx"),
            (CHAR, READ | WRITE, 136, 77, 1, "a terminal"),
            (CHAR, READ | WRITE, 4, 64, 0, "a serial line"),
            (CHAR, READ | WRITE, 10, 200, 0, "tun"),
            (CHAR, READ, 10, 229, 0, "fuse"),
            (BLOCK, MAKE, 254, 0, 1, "a node of a disk"),
            (BLOCK, READ, 254, 0, 0, "reading a disk"),
            (BLOCK, WRITE, 254, 0, 0, "writing a disk"),
            (BLOCK, MAKE | READ, 254, 0, 0, "more than making"),
            (BLOCK, READ, 1, 3, 0, "another kind with the same numbers"),
            (CHAR, MAKE, 1, 1, 1, "a node of mem"),
        ] {
            assert_eq!(answer(&own, kind, access, major, minor), allowed, "{why}");
            assert_eq!(answer(&all, kind, access, major, minor), 1, "{why}, privileged");
        }
    }

    #[test]
    fn lines_are_as_the_kernel_shows_them() {
        assert_eq!(Devices::of_container(true).lines(), ["a *:* rwm"]);
        let lines = Devices::of_container(false).lines();
        assert_eq!(lines[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert_eq!(lines.last().map(String::as_str), Some("c 136:* rwm"));
    }

    /// The kernel's own check, and attaching.
    #[test]
    #[cfg_attr(not(cgroups_v2), ignore = "needs root and cgroups of version 2")]
    fn the_kernel_takes_the_programs() {
        use std::os::fd::AsFd;

        use crate::sys::bpf;
        let mut tags = Vec::new();
        for privileged in [false, true] {
            let program = bpf::load_device_program(&Devices::of_container(privileged).program()).unwrap();
            tags.push(bpf::tag(program.as_fd()).unwrap());
        }
        assert_ne!(tags[0], tags[1]);
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::Path::new);
        let root = roots.iter().find(|root| root.join("cgroup.controllers").exists()).unwrap();
        let group = root.join(format!("coracle-devices-{}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        let handle = std::fs::File::open(&group).unwrap();
        let before = bpf::attached_device_programs(handle.as_fd());
        let program = bpf::load_device_program(&Devices::of_container(false).program()).unwrap();
        let attached = bpf::attach_device_program(handle.as_fd(), program.as_fd());
        let after = bpf::attached_device_programs(handle.as_fd());
        std::fs::remove_dir(&group).unwrap();
        attached.unwrap();
        assert_eq!((before.unwrap(), after.unwrap()), (vec![], vec![tags[0]]));
    }
}
