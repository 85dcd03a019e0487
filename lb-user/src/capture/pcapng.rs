//! pcapng (draft-ietf-opsawg-pcapng), as much of it as a capture has: a section
//! with two interfaces for each of this host's, one for frames as they came and
//! one for frames as they go on.
//!
//! In the host's byte order, which a reader tells from the section's header.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lb_common::capture::{EGRESS, Verdict};

use super::{
    CaptureNames,
    comment::{Stage, comment},
};
use crate::dataplane::Captured;

const SECTION: u32 = 0x0A0D_0D0A;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1A2B_3C4D;
/// Of frames (LINKTYPE_ETHERNET).
const ETHERNET: u16 = 1;

/// Options, by the block that they belong to.
const END: u16 = 0;
const COMMENT: u16 = 1;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const STATISTICS_RECEIVED: u16 = 4;
const STATISTICS_DROPPED: u16 = 5;
/// Timestamps count 10⁻⁹ s.
const NANOSECONDS: u8 = 9;
/// Which way a frame goes (bits 0 and 1 of the flags).
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Turns captured packets to blocks.
#[derive(Debug)]
pub struct Writer {
    names: CaptureNames,
    snap: u32,
    /// What is added to CLOCK_MONOTONIC to get the time of day.
    epoch: Duration,
    /// Those that the section has so far, in the order of their ids.
    interfaces: Vec<(u32, Stage)>,
}

impl Writer {
    /// `monotonic` is the present time of CLOCK_MONOTONIC.
    #[must_use]
    pub fn new(names: CaptureNames, snap: u32, monotonic: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            names,
            snap,
            epoch: now.unwrap_or_default().saturating_sub(monotonic),
            interfaces: Vec::new(),
        }
    }

    /// The section's beginning, with these interfaces.
    pub fn begin(&mut self, interfaces: impl IntoIterator<Item = u32>, to: &mut Vec<u8>) {
        block(SECTION, to, |body| {
            body.extend_from_slice(&BYTE_ORDER.to_ne_bytes());
            // Version 1.0, and a length that isn't known.
            body.extend_from_slice(&1u16.to_ne_bytes());
            body.extend_from_slice(&0u16.to_ne_bytes());
            body.extend_from_slice(&u64::MAX.to_ne_bytes());
            let application = concat!("xlb ", env!("CARGO_PKG_VERSION"));
            option(SECTION_APPLICATION, application.as_bytes(), body);
        });
        for index in interfaces {
            self.interface(index, Stage::Before, to);
            self.interface(index, Stage::After, to);
        }
    }

    /// A packet: a frame as it came, and if it goes on one as it does.
    pub fn packet(&mut self, captured: &Captured<'_>, to: &mut Vec<u8>) {
        let head = &captured.head;
        let before = match head.hook {
            EGRESS => OUTBOUND,
            _ => INBOUND,
        };
        let frame = (captured.before, head.before);
        self.frame(captured, Stage::Before, head.interface, before, frame, to);
        if head.after == 0 {
            return;
        }
        let (interface, after) = match (head.out, Verdict::from_wire(head.verdict)) {
            (0, _) => (head.interface, before),
            (out, _) => (out, OUTBOUND),
        };
        let frame = (captured.after, head.after);
        self.frame(captured, Stage::After, interface, after, frame, to);
    }

    /// The section's end: how many packets were captured, and how many more there
    /// were. It stands with the first interface, and is about all.
    pub fn end(&self, captured: u64, lost: u64, to: &mut Vec<u8>) {
        if self.interfaces.is_empty() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        block(STATISTICS, to, |body| {
            body.extend_from_slice(&0u32.to_ne_bytes());
            time(now.unwrap_or_default(), body);
            let text = format!("{captured} packets of all interfaces, and {lost} lost");
            option(COMMENT, text.as_bytes(), body);
            option(STATISTICS_RECEIVED, &(captured + lost).to_ne_bytes(), body);
            option(STATISTICS_DROPPED, &lost.to_ne_bytes(), body);
        });
    }

    fn frame(
        &mut self,
        captured: &Captured<'_>,
        stage: Stage,
        interface: u32,
        direction: u32,
        (bytes, length): (&[u8], u32),
        to: &mut Vec<u8>,
    ) {
        let id = self.interface(interface, stage, to);
        let comment = comment(&captured.head, stage, &self.names);
        block(PACKET, to, |body| {
            body.extend_from_slice(&id.to_ne_bytes());
            time(self.epoch + Duration::from_nanos(captured.head.time), body);
            body.extend_from_slice(&(bytes.len() as u32).to_ne_bytes());
            body.extend_from_slice(&length.to_ne_bytes());
            padded(bytes, body);
            option(COMMENT, comment.as_bytes(), body);
            option(PACKET_FLAGS, &direction.to_ne_bytes(), body);
        });
    }

    /// An interface's id; one that the section hasn't yet is described first.
    fn interface(&mut self, index: u32, stage: Stage, to: &mut Vec<u8>) -> u32 {
        let known = self.interfaces.iter().position(|it| *it == (index, stage));
        if let Some(id) = known {
            return id as u32;
        }
        let name = format!("{} {}", self.names.interface(index), stage.name());
        block(INTERFACE, to, |body| {
            body.extend_from_slice(&ETHERNET.to_ne_bytes());
            body.extend_from_slice(&0u16.to_ne_bytes());
            body.extend_from_slice(&self.snap.to_ne_bytes());
            option(INTERFACE_NAME, name.as_bytes(), body);
            option(INTERFACE_RESOLUTION, &[NANOSECONDS], body);
        });
        self.interfaces.push((index, stage));
        self.interfaces.len() as u32 - 1
    }
}

/// A block, whose options end behind its body.
fn block(kind: u32, to: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(&[0; 4]);
    body(to);
    option(END, &[], to);
    let length = (to.len() - start + 4) as u32;
    to.extend_from_slice(&length.to_ne_bytes());
    to[start + 4..start + 8].copy_from_slice(&length.to_ne_bytes());
}

fn option(code: u16, value: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(&code.to_ne_bytes());
    to.extend_from_slice(&(value.len() as u16).to_ne_bytes());
    padded(value, to);
}

/// Bytes, and zeros up to a multiple of four.
fn padded(bytes: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(bytes);
    to.resize(to.len() + bytes.len().next_multiple_of(4) - bytes.len(), 0);
}

/// In two words, the high one first.
fn time(time: Duration, to: &mut Vec<u8>) {
    let nanoseconds = time.as_nanos() as u64;
    to.extend_from_slice(&((nanoseconds >> 32) as u32).to_ne_bytes());
    to.extend_from_slice(&(nanoseconds as u32).to_ne_bytes());
}
