//! Capturing packets: what the kernel programs are told when they are loaded for
//! it, and what they say of each packet.
//!
//! A packet that the filter admits becomes one record: [`Head`], the frame as it
//! came, the frame as it goes on. Each frame is cut off at the same length.

use crate::wire::{Be16, Wide};

/// Bytes of a frame that are captured at most: more than any that comes in, and
/// of a super-packet that goes out the headers and more. A mask, too.
pub const MAX_SNAP: u32 = (1 << 14) - 1;
/// Terms of a filter about hosts, and about ports; targets of one term.
pub const HOSTS: usize = 4;
pub const PORTS: usize = 4;
pub const TARGETS: usize = 8;

/// The name of the constant in the kernel programs that a [`Capture`] is put in
/// the place of.
pub const CONSTANT: &str = "CAPTURE_SETTINGS";

/// Stands for no id and no reason.
pub const NONE: u32 = u32::MAX;

/// Whether to capture, and what. All terms have to hold.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capture {
    /// 1: capture. Else nothing here is looked at.
    pub on: u32,
    /// Bytes of each frame, from 1 to [`MAX_SNAP`].
    pub snap: u32,
    /// 1: also what isn't xlb's, and is passed as it came.
    pub all: u32,
    /// An IP protocol; 0 is any, and IPv4's ICMP stands for IPv6's too.
    pub protocol: u32,
    /// A listener's id; [`NONE`] is any.
    pub listener: u32,
    /// A bit for each [`Verdict`].
    pub verdicts: u32,
    /// A bit for each [`DropReason`](crate::counters::DropReason); 0 is any, and
    /// none.
    pub reasons: u64,
    /// How many of these there are. Of targets one has to be the packet's, if
    /// there are any; each of the others has to hold.
    pub targets: u32,
    pub hosts: u32,
    pub ports: u32,
    pub padding: u32,
    pub target: [Target; TARGETS],
    pub host: [Host; HOSTS],
    pub port: [Port; PORTS],
}

impl Capture {
    /// Captures nothing; or, when it is on, all that xlb does something about.
    pub const OFF: Self = Self {
        on: 0,
        snap: MAX_SNAP,
        all: 0,
        protocol: 0,
        listener: NONE,
        verdicts: u32::MAX,
        reasons: 0,
        targets: 0,
        hosts: 0,
        ports: 0,
        padding: 0,
        target: [Target {
            id: 0,
            generation: 0,
        }; TARGETS],
        host: [Host {
            address: [0; 4],
            mask: [0; 4],
            family: 0,
            ends: 0,
        }; HOSTS],
        port: [Port { port: 0, ends: 0 }; PORTS],
    };
}

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Target {
    pub id: u32,
    pub generation: u32,
}

/// Addresses of one of a packet's ends, as it came or as it goes on.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Host {
    /// Its bits outside of the mask are 0.
    pub address: Wide,
    pub mask: Wide,
    /// As in [`Ends`].
    pub family: u32,
    /// Bits: [`SOURCE`], [`DESTINATION`].
    pub ends: u32,
}

/// A port likewise.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Port {
    /// Host order.
    pub port: u32,
    pub ends: u32,
}

/// Which end a term is about.
pub const SOURCE: u32 = 0x01;
pub const DESTINATION: u32 = 0x02;

/// Where a packet was met.
pub const INGRESS: u32 = 0;
pub const EGRESS: u32 = 1;

/// How a packet went on.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// To this host's stack, or on egress out of the device.
    Pass = 0,
    Drop = 1,
    /// Out of the device that it came in by.
    Transmit = 2,
    /// Out of another one.
    Redirect = 3,
    /// By the kernel, which sends it without routing it again.
    Handoff = 4,
}

impl Verdict {
    pub const ALL: [Self; 5] = [
        Self::Pass,
        Self::Drop,
        Self::Transmit,
        Self::Redirect,
        Self::Handoff,
    ];

    /// The name in filters and comments.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Transmit => "transmit",
            Self::Redirect => "redirect",
            Self::Handoff => "handoff",
        }
    }

    #[must_use]
    pub const fn from_wire(value: u32) -> Self {
        match value {
            1 => Self::Drop,
            2 => Self::Transmit,
            3 => Self::Redirect,
            4 => Self::Handoff,
            _ => Self::Pass,
        }
    }
}

/// Both ends of a packet.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Ends {
    pub source: Wide,
    pub destination: Wide,
    pub source_port: Be16,
    pub destination_port: Be16,
    /// Linux's number of the address family; 0 if nothing is known.
    pub family: u32,
}

/// What a record begins with.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Head {
    /// CLOCK_MONOTONIC at the end of the packet's way, in nanoseconds.
    pub time: u64,
    /// Of the frame as it came, and as it goes on; captured are the first `snap`
    /// bytes of each. A packet that only came has no second frame: 0.
    pub before: u32,
    pub after: u32,
    /// [`INGRESS`] or [`EGRESS`].
    pub hook: u32,
    /// Index of the interface that the packet was met at, and of that which it
    /// leaves by; 0 if none.
    pub interface: u32,
    pub out: u32,
    /// A [`Verdict`].
    pub verdict: u32,
    /// A [`DropReason`](crate::counters::DropReason), or [`NONE`].
    pub reason: u32,
    /// An IP protocol, of a fragment that of its datagram; 0 if it isn't known.
    pub protocol: u32,
    /// A listener's id, or [`NONE`].
    pub listener: u32,
    /// A target's id and generation; that is 0 if there is none.
    pub target: u32,
    pub generation: u32,
    /// The flags of the flow's entry.
    pub flags: u32,
    /// As it came, and what its flow makes of it.
    pub ends: [Ends; 2],
}

/// Where a CPU puts a record together, one for each hook.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scratch {
    /// Records that nobody had room for.
    pub lost: u64,
    pub head: Head,
    pub before: [u8; MAX_SNAP as usize + 1],
}

/// Scratches of a CPU: for [`INGRESS`] and for [`EGRESS`].
pub const SCRATCHES: u32 = 2;

crate::map_value!(Capture, Target, Host, Port, Ends, Head, Scratch);
