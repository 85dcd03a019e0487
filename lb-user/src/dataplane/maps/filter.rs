//! The address filter: which addresses packets of ours can have.

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use lb_common::{
    filter::{Filter, bit},
    target::TargetEntry,
    wire::Wide,
};

use super::{MapError, observe::unread, open, written};

/// What the map holds. Bits are only ever added: a flow outlives its listener
/// and its target's place in the configuration, and a bit too many costs a
/// packet that isn't ours a look-up.
pub struct AddressFilter {
    map: Array<MapData, Filter>,
    bits: Box<Filter>,
}

impl AddressFilter {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        let map: Array<MapData, Filter> = open(ebpf, "FILTER")?;
        let bits = Box::new(map.get(&0, 0).map_err(unread("FILTER"))?);
        Ok(Self { map, bits })
    }

    /// Lets packets with these addresses through. To be called before the data
    /// path is told what to do with them.
    pub fn add(&mut self, addresses: impl IntoIterator<Item = Wide>) -> Result<(), MapError> {
        let mut new = false;
        for (word, mask) in addresses.into_iter().map(bit) {
            new |= self.bits[word] & mask == 0;
            self.bits[word] |= mask;
        }
        if !new {
            return Ok(());
        }
        written("FILTER", "", self.map.set(0, *self.bits, 0))
    }
}

/// The addresses that replies of a target can have: its own as their source, or
/// the one that source NAT writes as their destination. Of a target of this
/// host none comes in, and of a `dsr` target none comes by.
pub fn of_target(target: &TargetEntry) -> Option<Wide> {
    let replies_come_in = !target.has(TargetEntry::LOCAL) && !target.has(TargetEntry::DSR);
    replies_come_in.then_some(if target.has(TargetEntry::SOURCE_NAT) {
        target.source
    } else {
        target.address
    })
}

#[cfg(test)]
mod tests {
    use super::{TargetEntry, of_target};

    #[test]
    fn where_replies_come_from_or_go_to() {
        let target = |flags| TargetEntry {
            flags,
            address: [1, 0, 0, 0],
            source: [2, 0, 0, 0],
            ..TargetEntry::default()
        };
        assert_eq!(of_target(&target(0)), Some([1, 0, 0, 0]));
        assert_eq!(
            of_target(&target(TargetEntry::SOURCE_NAT)),
            Some([2, 0, 0, 0])
        );
        assert_eq!(of_target(&target(TargetEntry::LOCAL)), None);
        assert_eq!(of_target(&target(TargetEntry::DSR)), None);
    }
}
