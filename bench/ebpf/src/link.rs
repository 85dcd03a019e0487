//! The Ethernet header.

/// 14 bytes, as half words: destination, source and type.
pub type Link = [u16; 7];

/// Turns a frame around; `None` if it has no header.
#[inline(always)]
pub fn swap(start: usize, end: usize) -> Option<()> {
    if start + size_of::<Link>() > end {
        return None;
    }
    // SAFETY: just checked; half words are at even offsets.
    unsafe {
        let link = start as *mut Link;
        let [a, b, c, d, e, f, ethertype] = link.read();
        link.write([d, e, f, a, b, c, ethertype]);
    }
    Some(())
}
