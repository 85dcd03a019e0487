//! BPF programs of a few instructions that make veth behave as real networks
//! do. They are detached when their value is dropped.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

use crate::netns::Namespace;

/// An attached program.
#[derive(Debug)]
pub struct Attached {
    _link: OwnedFd,
}

/// An XDP program that passes everything, attached in native mode. A veth takes
/// what its peer sends by `XDP_TX` only if it has a program itself; a network
/// card's link partner asks for nothing of that kind.
///
/// # Errors
/// If the device doesn't exist or takes no program.
pub fn pass(namespace: &Namespace, device: &str) -> Result<Attached> {
    attach(namespace, device, &PASS)
}

/// Makes a device's cable one with VLAN tag 10, without a VLAN device: what
/// goes out is tagged, the tag is taken off what comes in, and what comes in
/// without one is dropped.
///
/// # Errors
/// If the device doesn't exist, or the kernel is older than 6.6 (TCX).
pub fn tag(namespace: &Namespace, device: &str) -> Result<[Attached; 2]> {
    Ok([
        attach(namespace, device, &TAG)?,
        attach(namespace, device, &UNTAG)?,
    ])
}

/// Eight bytes an instruction: opcode, registers, offset (2), immediate (4).
type Instruction = [u8; 8];

struct Program {
    program_type: u32,
    attach_type: u32,
    program_flags: u32,
    link_flags: u32,
    instructions: &'static [Instruction],
}

const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const XDP: u32 = 37;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// `BPF_F_XDP_HAS_FRAGS`: takes frames of more than one buffer.
const HAS_FRAGS: u32 = 1 << 5;
/// `XDP_FLAGS_DRV_MODE`: native.
const NATIVE: u32 = 1 << 2;

const EXIT: Instruction = [0x95, 0, 0, 0, 0, 0, 0, 0];
/// `r0 = TCX_NEXT`: other programs of the device follow.
const NEXT: Instruction = [0xB7, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF];

static PASS: Program = Program {
    program_type: PROG_TYPE_XDP,
    attach_type: XDP,
    program_flags: HAS_FRAGS,
    link_flags: NATIVE,
    // r0 = XDP_PASS
    instructions: &[[0xB7, 0, 0, 0, 2, 0, 0, 0], EXIT],
};

static TAG: Program = Program {
    program_type: PROG_TYPE_SCHED_CLS,
    attach_type: TCX_EGRESS,
    program_flags: 0,
    link_flags: 0,
    instructions: &[
        [0xB7, 0x02, 0, 0, 0x81, 0x00, 0, 0], // r2 = 0x8100, in network byte order
        [0xB7, 0x03, 0, 0, 10, 0, 0, 0],      // r3 = the VLAN id
        [0x85, 0, 0, 0, 18, 0, 0, 0],         // bpf_skb_vlan_push(r1, r2, r3)
        NEXT,
        EXIT,
    ],
};

static UNTAG: Program = Program {
    program_type: PROG_TYPE_SCHED_CLS,
    attach_type: TCX_INGRESS,
    program_flags: 0,
    link_flags: 0,
    instructions: &[
        [0x61, 0x12, 20, 0, 0, 0, 0, 0], // r2 = r1->vlan_present
        [0xB7, 0, 0, 0, 2, 0, 0, 0],     // r0 = TCX_DROP
        [0x15, 0x02, 2, 0, 0, 0, 0, 0],  // if r2 == 0 skip 2
        [0x85, 0, 0, 0, 19, 0, 0, 0],    // bpf_skb_vlan_pop(r1)
        NEXT,
        EXIT,
    ],
};

fn attach(namespace: &Namespace, device: &str, program: &Program) -> Result<Attached> {
    let link = namespace
        .enter(|| {
            let index = nix::net::if_::if_nametoindex(device)?;
            link(program, &load(program)?, index)
        })?
        .with_context(|| format!("no program on {device} of {}", namespace.name()))?;
    Ok(Attached { _link: link })
}

const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` needs.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

fn load(program: &Program) -> io::Result<OwnedFd> {
    bpf(
        PROG_LOAD,
        &ProgLoad {
            prog_type: program.program_type,
            insn_cnt: program.instructions.len() as u32,
            insns: program.instructions.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: program.program_flags,
        },
    )
}

fn link(program: &Program, loaded: &OwnedFd, interface: u32) -> io::Result<OwnedFd> {
    bpf(
        LINK_CREATE,
        &LinkCreate {
            prog_fd: loaded.as_raw_fd().cast_unsigned(),
            target_ifindex: interface,
            attach_type: program.attach_type,
            flags: program.link_flags,
        },
    )
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attributes`, whose
    // pointers are to static data.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
