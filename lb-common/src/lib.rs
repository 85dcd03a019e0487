//! What xlb's kernel programs and its agent share: the map layouts and the
//! pure logic that both sides must agree on.
//!
//! **Byte order.** A value that stands on the wire is big-endian in memory and
//! has a type of its own ([`Be16`], [`Ipv4`]); a bare integer is always in the
//! host's order. Nothing here converts implicitly.
//!
//! **Layouts.** Every struct that is a map's key or value is `repr(C)` with
//! explicit padding, so that both sides see the same bytes and no padding byte
//! is ever uninitialised; `layout` tests pin sizes and offsets.

#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod capture;
pub mod checksum;
pub mod counters;
pub mod filter;
pub mod flow;
pub mod fragment;
pub mod hash;
pub mod layout;
pub mod limits;
pub mod listener;
pub mod note;
pub mod security_group;
pub mod settings;
pub mod target;
pub mod tcp;
pub mod wire;

pub use wire::{Address, Be16, Ipv4, Ipv6};

/// Implements the marker that lets the agent hand a value to the kernel.
macro_rules! map_value {
    ($($name:ty),+ $(,)?) => {$(
        // Named without the feature too.
        const _: usize = size_of::<$name>();
        // SAFETY: the type is repr(C), holds only integers, and its padding is
        // explicit (pinned by the `layout` tests), so any bit pattern is valid
        // and no byte is uninitialised.
        #[cfg(feature = "user")]
        unsafe impl bytemuck::Zeroable for $name {}
        // SAFETY: as above.
        #[cfg(feature = "user")]
        unsafe impl bytemuck::Pod for $name {}
        // SAFETY: as above.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    )+};
}
pub(crate) use map_value;
