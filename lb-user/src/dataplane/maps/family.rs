//! The maps that each address family has of its own.

use std::collections::BTreeMap;

use aya::{
    Ebpf, Pod,
    maps::{HashMap, LpmTrie, MapData, lpm_trie::Key},
};
use lb_common::{
    Be16,
    listener::{ListenerEntry, ListenerKey, VipEntry},
    security_group::{GROUP_BITS, Rule, SourceKey},
};

use super::{observe::unread, open, removed, written};
use crate::{
    address::Prefix,
    config,
    dataplane::{error::MapError, family::Keyed},
    reconcile::{Block, MapState, Place, PlacePorts},
};

/// One family's maps that the agent writes.
pub(super) struct FamilyMaps<A> {
    listeners: HashMap<MapData, ListenerKey<A>, ListenerEntry>,
    ranges: LpmTrie<MapData, ListenerKey<A>, ListenerEntry>,
    vips: HashMap<MapData, A, VipEntry>,
    security: LpmTrie<MapData, SourceKey<A>, u32>,
}

impl<A: Keyed> FamilyMaps<A>
where
    ListenerKey<A>: Pod,
    SourceKey<A>: Pod,
{
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            listeners: open(ebpf, A::NAMES.listeners)?,
            ranges: open(ebpf, A::NAMES.ranges)?,
            vips: open(ebpf, A::NAMES.vips)?,
            security: open(ebpf, A::NAMES.security)?,
        })
    }

    /// Adds what these maps hold to `state`, and the rules by security group to
    /// `rules`.
    pub(super) fn observe(
        &self,
        state: &mut MapState,
        rules: &mut BTreeMap<u32, Vec<(Prefix, config::Rule)>>,
    ) -> Result<(), MapError> {
        for entry in self.listeners.iter() {
            let (key, entry) = entry.map_err(unread(A::NAMES.listeners))?;
            let ports = PlacePorts::One(key.port.get());
            state.listeners.insert(place(key, ports), entry);
        }
        for entry in self.ranges.iter() {
            let (prefix, entry) = entry.map_err(unread(A::NAMES.ranges))?;
            let key = prefix.data();
            let open_bits = ListenerKey::<A>::BITS.saturating_sub(prefix.prefix_len());
            let block = Block {
                first: key.port.get(),
                open_bits: open_bits as u8,
            };
            state
                .listeners
                .insert(place(key, PlacePorts::Block(block)), entry);
        }
        for entry in self.vips.iter() {
            let (address, entry) = entry.map_err(unread(A::NAMES.vips))?;
            state.vips.insert(address.to_ip(), entry);
        }
        for entry in self.security.iter() {
            let (key, rule) = entry.map_err(unread(A::NAMES.security))?;
            let SourceKey { group, address } = key.data();
            let length = key.prefix_len().saturating_sub(GROUP_BITS) as u8;
            let prefix = Prefix::around(address.to_ip(), length);
            let rule = match rule == Rule::Allow as u32 {
                true => Rule::Allow,
                false => Rule::Deny,
            };
            let rules: &mut Vec<_> = rules.entry(group).or_default();
            rules.extend(prefix.map(|prefix| (prefix, rule)));
        }
        Ok(())
    }

    pub(super) fn set_listener(
        &mut self,
        address: A,
        place: &Place,
        entry: &ListenerEntry,
    ) -> Result<(), MapError> {
        match place.ports {
            PlacePorts::One(port) => written(
                A::NAMES.listeners,
                "fewer listeners without an address",
                self.listeners.insert(key(address, place, port), entry, 0),
            ),
            PlacePorts::Block(block) => written(
                A::NAMES.ranges,
                "fewer port ranges without an address",
                self.ranges
                    .insert(&block_key(address, place, block), entry, 0),
            ),
        }
    }

    pub(super) fn remove_listener(&mut self, address: A, place: &Place) -> Result<(), MapError> {
        match place.ports {
            PlacePorts::One(port) => removed(
                A::NAMES.listeners,
                self.listeners.remove(&key(address, place, port)),
            ),
            PlacePorts::Block(block) => removed(
                A::NAMES.ranges,
                self.ranges.remove(&block_key(address, place, block)),
            ),
        }
    }

    pub(super) fn set_vip(&mut self, address: A, entry: &VipEntry) -> Result<(), MapError> {
        written(
            A::NAMES.vips,
            "fewer listeners without an address",
            self.vips.insert(address, entry, 0),
        )
    }

    pub(super) fn remove_vip(&mut self, address: A) -> Result<(), MapError> {
        removed(A::NAMES.vips, self.vips.remove(&address))
    }

    pub(super) fn set_rule(
        &mut self,
        group: u32,
        address: A,
        length: u8,
        rule: Rule,
    ) -> Result<(), MapError> {
        written(
            A::NAMES.security,
            "fewer prefixes of security groups",
            self.security
                .insert(&source_key(group, address, length), rule as u32, 0),
        )
    }

    pub(super) fn remove_rule(
        &mut self,
        group: u32,
        address: A,
        length: u8,
    ) -> Result<(), MapError> {
        removed(
            A::NAMES.security,
            self.security.remove(&source_key(group, address, length)),
        )
    }
}

fn place<A: Keyed>(key: ListenerKey<A>, ports: PlacePorts) -> Place {
    Place {
        address: key.address.to_ip(),
        protocol: key.protocol,
        ports,
    }
}

fn source_key<A>(group: u32, address: A, length: u8) -> Key<SourceKey<A>>
where
    SourceKey<A>: Pod,
{
    Key::new(GROUP_BITS + u32::from(length), SourceKey { group, address })
}

fn key<A>(address: A, place: &Place, port: u16) -> ListenerKey<A> {
    ListenerKey::new(address, Be16::new(port), place.protocol)
}

fn block_key<A>(address: A, place: &Place, block: Block) -> Key<ListenerKey<A>>
where
    ListenerKey<A>: Pod,
{
    let bits = ListenerKey::<A>::BITS - u32::from(block.open_bits);
    Key::new(bits, key(address, place, block.first))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use lb_common::{Ipv6, flow};

    use super::*;

    /// Whether a trie's entry is the prefix of a key.
    fn is_prefix(entry: &[u8], length: u32, key: &[u8]) -> bool {
        (0..length as usize).all(|bit| {
            let mask = 0x80 >> (bit % 8);
            entry[bit / 8] & mask == key[bit / 8] & mask
        })
    }

    #[test]
    fn a_block_is_the_prefix_of_its_ports_and_no_others() {
        let block = Block {
            first: 8000,
            open_bits: 5,
        };
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        let place = Place::port(address, 1, flow::UDP);
        let address = Ipv6::from(address);
        let entry = block_key(address, &place, block);
        assert_eq!(entry.prefix_len(), 20 * 8 - 5);
        let data = entry.data();
        for port in [0, 80, 7999, 8000, 8031, 8032, 65535] {
            let key = key(address, &place, port);
            let found = is_prefix(
                bytemuck::bytes_of(&data),
                entry.prefix_len(),
                bytemuck::bytes_of(&key),
            );
            assert_eq!(found, (8000..=8031).contains(&port), "port {port}");
        }
    }

    #[test]
    fn a_rules_prefix_is_within_its_group() {
        let address = lb_common::Ipv4::from(Ipv4Addr::new(10, 1, 0, 0));
        let entry = source_key(7, address, 16);
        assert_eq!(entry.prefix_len(), 32 + 16);
        let data = entry.data();
        let mut expected = 7u32.to_ne_bytes().to_vec();
        expected.extend([10, 1, 0, 0]);
        assert_eq!(bytemuck::bytes_of(&data), expected);
        assert_eq!(source_key(7, address, 0).prefix_len(), GROUP_BITS);
    }
}
