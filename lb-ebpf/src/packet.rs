//! The only access to packet memory.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::bpf_xdp_get_buff_len,
    programs::{TcContext, XdpContext},
};

/// No header that xlb reads begins further inside: link, the longest IP header
/// with extensions, ICMP, the IP header in it, and transport. The verifier
/// wants a bound on every offset. A mask, too.
const MAX_OFFSET: usize = 1_023;

/// A frame's bytes from its Ethernet header on, as far as they are linear.
///
/// It doesn't borrow from the context, because helpers that move the packet
/// (`bpf_xdp_adjust_head`, `bpf_l4_csum_replace`) leave it stale: take a new
/// one after such a call. The verifier refuses a program that forgets to, but of
/// calls within a global function (`outcome.rs`) older ones know nothing.
#[derive(Clone, Copy)]
pub struct Packet {
    start: usize,
    end: usize,
    frame: Frame,
}

/// What the frame is to the hook that it is met at.
#[derive(Clone, Copy)]
pub enum Frame {
    Xdp(*mut xdp_md),
    Skb(*mut __sk_buff),
}

impl Packet {
    #[inline(always)]
    pub fn of_xdp(ctx: &XdpContext) -> Self {
        let ctx = XdpContext::new(here(ctx.ctx));
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
            frame: Frame::Xdp(ctx.ctx),
        }
    }

    #[inline(always)]
    pub fn of_skb(ctx: &TcContext) -> Self {
        let ctx = TcContext::new(here(ctx.skb.skb));
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
            frame: Frame::Skb(ctx.skb.skb),
        }
    }

    #[inline(always)]
    pub fn frame(&self) -> Frame {
        self.frame
    }

    /// Bytes that can be reached.
    #[inline(always)]
    pub fn length(&self) -> usize {
        self.end - self.start
    }

    /// Bytes of the frame, those in further buffers included.
    #[inline(always)]
    pub fn whole_length(&self) -> usize {
        match self.frame {
            // SAFETY: the pointer is this program's context.
            Frame::Xdp(ctx) => unsafe { bpf_xdp_get_buff_len(ctx) as usize },
            // SAFETY: the kernel translates this read of the context.
            Frame::Skb(skb) => unsafe { (*skb).len as usize },
        }
    }

    /// Whether the frame has at least `length` bytes, in whatever buffers.
    #[inline(always)]
    pub fn holds(&self, length: usize) -> bool {
        length <= self.length() || length <= self.whole_length()
    }

    /// A pointer to a header at `offset` if it lies wholly in the packet. The
    /// header's alignment is 1 or the pointer must be used unaligned.
    #[inline(always)]
    pub fn at<T>(&self, offset: usize) -> Option<*mut T> {
        if offset > MAX_OFFSET {
            return None;
        }
        let header = self.start + offset;
        // A byte is asked for with the next one: of `header < end`, which is
        // what the compiler makes of a lone one, the verifier learns nothing.
        // No header ends in a byte of its own.
        let size = if size_of::<T>() == 1 {
            2
        } else {
            size_of::<T>()
        };
        // The verifier forbids arithmetic with the end, such as `end - 2`.
        if header + size > opaque(self.end) {
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
        Some(unsafe { load(pointer) })
    }

    /// Writes `value` at `offset`; `None` if it doesn't fit.
    #[inline(always)]
    pub fn write<T: Copy>(&self, offset: usize, value: T) -> Option<()> {
        let pointer = self.at::<T>(offset)?;
        // SAFETY: as in `read`; the kernel gives this program write access.
        unsafe { store(pointer, value) };
        Some(())
    }

    /// Replaces the value at `offset` by what `change` makes of it, with one look
    /// at the packet's bounds; `None` if it doesn't lie wholly in the packet.
    #[inline(always)]
    pub fn update<T: Copy>(&self, offset: usize, change: impl FnOnce(T) -> T) -> Option<()> {
        let pointer = self.at::<T>(offset)?;
        // SAFETY: as in `read` and `write`.
        unsafe { store(pointer, change(load(pointer))) };
        Some(())
    }
}

/// Reads a T whatever its alignment, in as few loads as it has words. The
/// compiler would go byte by byte, for it takes no misaligned access to be
/// allowed on this target; to packets the kernel allows it wherever the CPU
/// does.
///
/// # Safety
/// T lies wholly in the packet, and is valid for any bits.
#[inline(always)]
unsafe fn load<T: Copy>(from: *const T) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let to: *mut u8 = value.as_mut_ptr().cast();
    let from: *const u8 = from.cast();
    let mut at = 0;
    macro_rules! pieces {
        ($word:ty, $load:literal) => {
            while at + size_of::<$word>() <= size_of::<T>() {
                let word: u64;
                // SAFETY: a load of the word at `at`, which lies in the packet;
                // and a store to it in `value`.
                unsafe {
                    asm!($load, out(reg) word, in(reg) from.add(at),
                        options(pure, readonly, nostack, preserves_flags));
                    to.add(at).cast::<$word>().write_unaligned(word as $word);
                }
                at += size_of::<$word>();
            }
        };
    }
    pieces!(u64, "{0} = *(u64 *)({1} + 0)");
    pieces!(u32, "{0} = *(u32 *)({1} + 0)");
    pieces!(u16, "{0} = *(u16 *)({1} + 0)");
    pieces!(u8, "{0} = *(u8 *)({1} + 0)");
    // SAFETY: every byte has been written.
    unsafe { value.assume_init() }
}

/// Writes a T whatever its alignment, as [`load`] reads one.
///
/// # Safety
/// T lies wholly in the packet, and has no padding.
#[inline(always)]
unsafe fn store<T: Copy>(to: *mut T, value: T) {
    let from: *const u8 = (&raw const value).cast();
    let to: *mut u8 = to.cast();
    let mut at = 0;
    macro_rules! pieces {
        ($word:ty, $store:literal) => {
            while at + size_of::<$word>() <= size_of::<T>() {
                // SAFETY: a load of the word at `at` in `value`, and a store to
                // it in the packet.
                unsafe {
                    let word = u64::from(from.add(at).cast::<$word>().read_unaligned());
                    asm!($store, in(reg) word, in(reg) to.add(at),
                        options(nostack, preserves_flags));
                }
                at += size_of::<$word>();
            }
        };
    }
    pieces!(u64, "*(u64 *)({1} + 0) = {0}");
    pieces!(u32, "*(u32 *)({1} + 0) = {0}");
    pieces!(u16, "*(u16 *)({1} + 0) = {0}");
    pieces!(u8, "*(u8 *)({1} + 0) = {0}");
}

/// Hides from the compiler where an offset comes from. Of several offsets with
/// the same variable part it would check only the largest, and of that the
/// verifier, for which each sum is a pointer of its own, concludes nothing.
#[inline(always)]
pub fn opaque(mut offset: usize) -> usize {
    // A move to itself: line info wants an instruction behind each line.
    // SAFETY: it changes nothing.
    unsafe { asm!("{0} = {0}", inout(reg) offset, options(nomem, nostack, preserves_flags)) };
    offset
}

/// An offset that is made of what lies in memory. None is ever beyond the bound,
/// which is checked again where it is used; but kernels before 6.8 forget what a
/// check has shown when the offset is loaded from the stack once more, while
/// this bound comes with it.
#[inline(always)]
pub fn bounded(offset: usize) -> usize {
    opaque(offset & MAX_OFFSET)
}

/// The context, to be read in this function. Else the compiler reads the
/// packet's bounds in the caller and hands them on in 32 bits each, in which
/// the verifier sees no packet any more.
#[inline(always)]
fn here<T>(ctx: *mut T) -> *mut T {
    opaque(ctx as usize) as *mut T
}
