//! What `xlb_ingress` tells `xlb_handoff` about a packet that it can't send.

use crate::{map_value, wire::Wide};

/// A note in front of a frame, in its metadata, which ends where the frame
/// begins. Packets can't forge it: what lies there comes from this host only.
/// 32 bytes are the most that older kernels allow.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Note {
    /// [`Note::MAGIC`].
    pub magic: u32,
    /// Index of the interface to send by.
    pub interface: u32,
    /// VLAN tags to take off.
    pub tags: u32,
    /// Address family of the next hop, a Linux number; 0: the packet's
    /// destination leads there.
    pub family: u32,
    pub next_hop: Wide,
}

map_value!(Note);

impl Note {
    /// "xlb" and the note's version.
    pub const MAGIC: u32 = 0x786C_6202;

    pub const WORDS: usize = size_of::<Self>() / size_of::<u32>();

    #[must_use]
    pub const fn words(&self) -> [u32; Self::WORDS] {
        let [a, b, c, d] = self.next_hop;
        [
            self.magic,
            self.interface,
            self.tags,
            self.family,
            a,
            b,
            c,
            d,
        ]
    }

    /// The note in a frame's metadata, if that has one.
    #[cfg(feature = "user")]
    #[must_use]
    pub fn of(metadata: &[u8]) -> Option<Self> {
        let start = metadata.len().checked_sub(size_of::<Self>())?;
        let note: Self = bytemuck::pod_read_unaligned(&metadata[start..]);
        (note.magic == Self::MAGIC).then_some(note)
    }
}
