//! The only access to packet memory.

use aya_ebpf::programs::{TcContext, XdpContext};

/// Headers that the parser may reach: Ethernet, two tags, the longest IPv4
/// header and a TCP header. The verifier wants a bound on every offset.
const MAX_OFFSET: usize = 14 + 2 * 4 + 60 + 20;

/// A frame's bytes from its Ethernet header on, as far as they are linear.
///
/// It doesn't borrow from the context, because helpers that move the packet
/// (`bpf_xdp_adjust_meta`, `bpf_l4_csum_replace`) leave it stale: take a new
/// one after such a call. The verifier refuses a program that forgets to.
#[derive(Clone, Copy)]
pub struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    #[inline(always)]
    pub fn of_xdp(ctx: &XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    #[inline(always)]
    pub fn of_skb(ctx: &TcContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    /// Bytes that can be reached.
    #[inline(always)]
    pub fn length(&self) -> usize {
        self.end - self.start
    }

    /// A pointer to a header at `offset` if it lies wholly in the packet. The
    /// header's alignment is 1 or the pointer must be used unaligned.
    #[inline(always)]
    pub fn at<T>(&self, offset: usize) -> Option<*mut T> {
        if offset > MAX_OFFSET {
            return None;
        }
        let header = self.start + offset;
        if header + size_of::<T>() > self.end {
            return None;
        }
        Some(header as *mut T)
    }

    /// The value at `offset`, whatever its alignment.
    #[inline(always)]
    pub fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        let pointer = self.at::<T>(offset)?;
        // SAFETY: `at` has checked that all of T lies in the packet, and every
        // T that is read here is made of integers, valid for any bits.
        Some(unsafe { pointer.read_unaligned() })
    }

    /// Writes `value` at `offset`; `None` if it doesn't fit.
    #[inline(always)]
    pub fn write<T: Copy>(&self, offset: usize, value: T) -> Option<()> {
        let pointer = self.at::<T>(offset)?;
        // SAFETY: as in `read`; the kernel gives this program write access.
        unsafe { pointer.write_unaligned(value) };
        Some(())
    }
}
