//! Which layout the maps have, and tests that pin it: both programs must see the
//! same bytes, and so must the next agent, which adopts the maps of the last.

/// To be raised with every change of what a key or a value means, or a packet's
/// note between the programs: an agent adopts only maps of its own version.
/// Sizes needn't be looked after; the agent compares those itself.
pub const VERSION: u64 = 2;

#[cfg(test)]
mod tests {
    use crate::{
        Ipv4, Ipv6, capture::*, counters::*, flow::*, fragment::*, listener::*, note::*,
        security_group::*, settings::*, target::*,
    };
    use core::mem::{offset_of, size_of};

    #[test]
    fn sizes() {
        assert_eq!(size_of::<FlowKey4>(), 16);
        assert_eq!(size_of::<FlowEntry4>(), 28);
        assert_eq!(size_of::<FlowKey6>(), 40);
        assert_eq!(size_of::<FlowEntry6>(), 52);
        assert_eq!(size_of::<FragmentKey<Ipv4>>(), 16);
        assert_eq!(size_of::<FragmentKey<Ipv6>>(), 40);
        assert_eq!(size_of::<FragmentEntry>(), 12);
        assert_eq!(size_of::<SourceKey<Ipv4>>(), 8);
        assert_eq!(size_of::<SourceKey<Ipv6>>(), 20);
        assert_eq!(size_of::<ListenerKey4>(), 8);
        assert_eq!(size_of::<ListenerKey6>(), 20);
        assert_eq!(size_of::<ListenerLimits>(), 16);
        assert_eq!(size_of::<Window>(), 8);
        assert_eq!(size_of::<SourceRateKey>(), 20);
        assert_eq!(size_of::<VipEntry>(), 4);
        assert_eq!(size_of::<ListenerEntry>(), 16);
        assert_eq!(size_of::<TargetEntry>(), 64);
        assert_eq!(size_of::<Settings>(), 32);
        assert_eq!(size_of::<InterfaceEntry>(), 16);
        assert_eq!(size_of::<Traffic>(), 40);
        assert_eq!(size_of::<Note>(), 32);
        assert_eq!(size_of::<Capture>(), 304);
        assert_eq!(size_of::<Head>(), 136);
        assert_eq!(size_of::<Scratch>(), 8 + 136 + 16_384);
    }

    #[test]
    fn offsets() {
        assert_eq!(offset_of!(FlowKey4, protocol), 12);
        assert_eq!(offset_of!(FlowEntry4, target), 12);
        assert_eq!(offset_of!(FlowEntry4, last_seen), 20);
        assert_eq!(offset_of!(FlowEntry4, flags), 27);
        assert_eq!(offset_of!(TargetEntry, generation), 36);
        assert_eq!(offset_of!(TargetEntry, max_flows), 44);
        assert_eq!(offset_of!(TargetEntry, encapsulation), 56);
        assert_eq!(offset_of!(TargetEntry, padding), 58);
        assert_eq!(offset_of!(ListenerKey4, port), 6);
        assert_eq!(offset_of!(ListenerKey6, port), 18);
        assert_eq!(offset_of!(Capture, reasons), 24);
        assert_eq!(offset_of!(Head, ends), 56);
        // The frame follows the head at once.
        assert_eq!(offset_of!(Scratch, before), 8 + size_of::<Head>());
    }

    #[test]
    fn reasons_index_their_counters() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(DropReason::from_number(index as u32), *reason);
        }
        for beyond in [DropReason::COUNT, u32::MAX] {
            assert_eq!(DropReason::from_number(beyond), DropReason::Internal);
        }
        assert_eq!(DropReason::COUNT as usize, DropReason::ALL.len());
        // A capture's filter has a bit for each.
        const { assert!(DropReason::COUNT <= u64::BITS) };
    }
}
