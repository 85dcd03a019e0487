//! The programs once more, capturing: what the data path does about packets, as
//! `lb-ebpf/src/capture.rs` says it by a buffer for each CPU.

use std::{
    borrow::Cow,
    io,
    os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd},
};

use aya::{
    Ebpf,
    maps::{
        Map, MapData, PerfEventArray,
        perf::{PerfEvent, PerfEventArrayBuffer},
    },
    util::{nr_cpus, online_cpus},
};
use lb_common::capture::{Capture, Head, SCRATCHES, Scratch};
use tracing::debug;

use super::{
    Dataplane, Opening,
    attach::Attachment,
    error::{AttachError, LoadError, MapError, chain},
    flows::handle,
    load,
    originals::Originals,
    shape::is_kept,
    syscall,
};
use crate::config::Capacity;

pub(super) const SCRATCH: &str = "CAPTURE";
const BUFFERS: &str = "CAPTURED";
/// Pages of each CPU's buffer, a power of two: half of what the kernel lets a
/// user lock for perf without more rights (`kernel.perf_event_mlock_kb`).
const PAGES: usize = 64;
/// Of maps that are replaced at once.
const NEXT_TO_NOTHING: Capacity = Capacity {
    listeners: 1,
    targets: 1,
    flows: 64,
    half_open_flows: 64,
};

impl Dataplane {
    /// What programs that capture are loaded from.
    ///
    /// # Errors
    /// If a map can't be duplicated.
    pub fn capturing_model(&self) -> Result<CapturingModel, MapError> {
        Ok(CapturingModel::new(self.originals.again()?))
    }

    /// Has programs that capture take the place of those that are attached. They
    /// use the same maps, so no flow notices.
    ///
    /// # Errors
    /// If a program can't be replaced. All is as before then, as far as the
    /// kernel lets it.
    pub fn begin_capture(&mut self, mut capturing: Capturing) -> Result<(), AttachError> {
        let mut attachments = self.attachments.values_mut();
        let result = attachments.try_for_each(|attachment| capturing.take_over(attachment));
        self.capturing = Some(capturing);
        result.inspect_err(|_| {
            if let Err(error) = self.end_capture() {
                debug!(error = chain(&error), "nor put back");
            }
        })
    }

    /// Puts the usual programs back in their places; the first failure is
    /// returned after all have been tried.
    ///
    /// # Errors
    /// If one can't be replaced.
    pub fn end_capture(&mut self) -> Result<(), AttachError> {
        let mut result = Ok(());
        if self.capturing.take().is_some() {
            for attachment in self.attachments.values_mut() {
                let back = attachment.run(&mut self.ebpf);
                result = result.and(back);
            }
        }
        result
    }

    /// The object whose programs are attached.
    pub(super) fn running(&mut self) -> &mut Ebpf {
        match &mut self.capturing {
            Some(capturing) => capturing.object(),
            None => &mut self.ebpf,
        }
    }
}

/// What programs that capture are loaded from: handles that work on any thread.
#[derive(Debug)]
pub struct CapturingModel {
    originals: Originals,
}

/// Programs that capture, loaded and not attached.
pub struct Capturing {
    ebpf: Ebpf,
}

/// What they have captured, CPU by CPU.
pub struct Captures {
    pub buffers: Vec<Buffer>,
    pub lost: Lost,
}

/// A CPU's buffer. Its descriptor can be read from when there is something new.
pub struct Buffer {
    ring: PerfEventArrayBuffer<MapData>,
    snap: usize,
}

/// How many packets found no room.
#[derive(Debug)]
pub struct Lost {
    scratch: OwnedFd,
    count: u32,
}

/// A packet that was captured.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    pub head: Head,
    /// The frames, as far as they were captured.
    pub before: &'a [u8],
    pub after: &'a [u8],
}

impl CapturingModel {
    pub(super) fn new(originals: Originals) -> Self {
        Self { originals }
    }

    /// Loads the programs, which takes as long as at the start, and opens their
    /// buffers.
    ///
    /// # Errors
    /// If the kernel refuses something.
    pub fn load(self, capture: &Capture) -> Result<(Capturing, Captures), LoadError> {
        let mut ebpf = Opening {
            capture: Some(capture),
            ..Opening::new(&NEXT_TO_NOTHING)
        }
        .open()?;
        self.originals.lend(&ebpf, is_kept)?;
        load(&mut ebpf)?;
        let captures = Captures::open(&mut ebpf, capture.snap)?;
        Ok((Capturing { ebpf }, captures))
    }
}

impl Capturing {
    pub(super) fn take_over(&mut self, attachment: &mut Attachment) -> Result<(), AttachError> {
        attachment.run(&mut self.ebpf)
    }

    pub(super) fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

impl Captures {
    fn open(ebpf: &mut Ebpf, snap: u32) -> Result<Self, LoadError> {
        let missing = MapError::Missing { name: BUFFERS };
        let map: Map = ebpf.take_map(BUFFERS).ok_or(missing)?;
        let failed = |source| MapError::Access {
            action: "open",
            name: BUFFERS,
            source,
        };
        let mut rings = PerfEventArray::<MapData>::try_from(map).map_err(failed)?;
        let cpus = online_cpus().map_err(|(_, error)| LoadError::Cpus(error))?;
        let open = |cpu| {
            let ring = rings.open(cpu, Some(PAGES));
            let ring = ring.map_err(|source| LoadError::Buffer { cpu, source })?;
            let snap = snap as usize;
            Ok(Buffer { ring, snap })
        };
        Ok(Self {
            buffers: cpus
                .into_iter()
                .map(open)
                .collect::<Result<_, LoadError>>()?,
            lost: Lost {
                scratch: handle(ebpf, SCRATCH)?,
                count: scratches()?,
            },
        })
    }
}

impl Buffer {
    /// Hands over all that is there.
    pub fn read(&mut self, mut each: impl FnMut(&Captured<'_>)) {
        let snap = self.snap;
        self.ring.for_each(|event| {
            // The programs count what is lost, and that is told of in time.
            let PerfEvent::Sample { head, tail } = event else {
                return;
            };
            let record = match tail {
                [] => Cow::Borrowed(head),
                _ => Cow::Owned([head, tail].concat()),
            };
            if let Some(captured) = Captured::parse(&record, snap) {
                each(&captured);
            }
        });
    }
}

impl AsRawFd for Buffer {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl Lost {
    /// # Errors
    /// If the map can't be read.
    pub fn count(&self) -> io::Result<u64> {
        let scratch = |index| syscall::look_up::<u32, Scratch>(self.scratch.as_fd(), &index);
        let lost = |index| Ok(scratch(index)?.map_or(0, |it| it.lost));
        (0..self.count).map(lost).sum()
    }
}

impl<'a> Captured<'a> {
    /// Reads a record, behind which there may be padding.
    fn parse(record: &'a [u8], snap: usize) -> Option<Self> {
        let (head, frames) = record.split_at_checked(size_of::<Head>())?;
        let head: Head = bytemuck::pod_read_unaligned(head);
        let (before, rest) = frames.split_at_checked(snap.min(head.before as usize))?;
        let after = rest.get(..snap.min(head.after as usize))?;
        Some(Self {
            head,
            before,
            after,
        })
    }
}

/// Elements of the map of scratches: one for each hook of each CPU that there
/// may ever be.
pub(super) fn scratches() -> Result<u32, LoadError> {
    let cpus = nr_cpus().map_err(|(_, error)| LoadError::Cpus(error))?;
    Ok(cpus as u32 * SCRATCHES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_taken_apart() {
        let head = Head {
            before: 3,
            after: 60,
            interface: 7,
            ..Head::default()
        };
        let mut record = bytemuck::bytes_of(&head).to_vec();
        record.extend_from_slice(b"abcDEFGHIJKpadding");
        let captured = Captured::parse(&record, 8).unwrap();
        assert_eq!(captured.head, head);
        assert_eq!(
            (captured.before, captured.after),
            (&b"abc"[..], &b"DEFGHIJK"[..])
        );
        assert!(Captured::parse(&record[..size_of::<Head>() + 10], 8).is_none());
        assert!(Captured::parse(&record[..20], 8).is_none());
    }
}
