//! eBPF programs that decide which devices a cgroup of version 2 may use: loading, attaching, asking what is attached.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_GET_FD_BY_ID: u32 = 13;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const PROG_QUERY: u32 = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
/// More programs than this at one group are not ours to understand.
const MAX_PROGRAMS: usize = 64;
/// Only functions that we do not call are for certain licences.
const LICENCE: &std::ffi::CStr = c"Apache-2.0";

/// What the kernel knows a program by: a hash of its instructions.
pub(crate) type Tag = [u8; 8];

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Info {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of the kernel's `bpf_prog_info`; what follows is not asked for.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: Tag,
}

fn bpf<T>(command: u32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: `attributes` is the structure of the command, lives until the call returns, and its size goes along; the
    // addresses in it are of buffers that its maker keeps as long.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

fn descriptor(number: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn number(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

fn address<T>(buffer: &[T]) -> u64 {
    buffer.as_ptr().addr() as u64
}

/// Hands a program of device rules to the kernel, which checks it.
pub(crate) fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..15].copy_from_slice(b"coracle_devices");
    let mut load = Load {
        kind: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: address(instructions),
        licence: LICENCE.as_ptr().addr() as u64,
        name,
        ..Load::default()
    };
    Ok(descriptor(bpf(PROG_LOAD, &mut load)?))
}

/// Attaches a program to a group, beside those that are there: each must agree to a use. It stays as long as the group.
pub(crate) fn attach_device_program(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attach = Attach {
        target: number(group)?,
        program: number(program)?,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
        ..Attach::default()
    };
    bpf(PROG_ATTACH, &mut attach).map(drop)
}

pub(crate) fn tag(program: BorrowedFd<'_>) -> io::Result<Tag> {
    let mut about = [ProgramInfo::default()];
    let mut info = Info {
        fd: number(program)?,
        length: u32::try_from(size_of::<ProgramInfo>()).map_err(io::Error::other)?,
        info: about.as_mut_ptr().addr() as u64,
    };
    // The address must be known to be written through.
    std::hint::black_box(&mut about);
    bpf(OBJ_GET_INFO_BY_FD, &mut info)?;
    Ok(std::hint::black_box(about)[0].tag)
}

/// The tags of the device programs attached to a group itself.
pub(crate) fn attached_device_programs(group: BorrowedFd<'_>) -> io::Result<Vec<Tag>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut query = Query {
        target: number(group)?,
        kind: ATTACH_CGROUP_DEVICE,
        ids: ids.as_mut_ptr().addr() as u64,
        count: u32::try_from(MAX_PROGRAMS).map_err(io::Error::other)?,
        ..Query::default()
    };
    std::hint::black_box(&mut ids);
    bpf(PROG_QUERY, &mut query)?;
    let ids = std::hint::black_box(ids);
    let count = usize::try_from(query.count).map_err(io::Error::other)?.min(MAX_PROGRAMS);
    let one = |id: &u32| {
        let program = descriptor(bpf(PROG_GET_FD_BY_ID, &mut ById { id: *id, ..ById::default() })?);
        tag(std::os::fd::AsFd::as_fd(&program))
    };
    ids[..count].iter().map(one).collect()
}
