//! Which words about neighbours are news: a busy network has many that aren't.

use std::collections::HashMap;

use rtnetlink::{
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
    },
};

/// Neighbours that are remembered at most; then all are forgotten, and the next
/// change of each goes unnoticed.
const REMEMBERED: usize = 65_536;

/// The link-layer address that each neighbour had last, by interface.
#[derive(Default)]
pub struct Neighbours {
    known: HashMap<(u32, Vec<u8>), Vec<u8>>,
}

impl Neighbours {
    /// Whether a message may change how this host reaches somebody. Of a
    /// neighbour only another link-layer address does: that one is new, in use
    /// or gone is no news.
    pub fn is_news(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
        match &message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(neighbour)) => {
                self.has_moved(neighbour)
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(_)) => false,
            _ => true,
        }
    }

    fn has_moved(&mut self, neighbour: &NeighbourMessage) -> bool {
        let mut address = None;
        let mut link = None;
        for attribute in &neighbour.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(v4.octets().to_vec());
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(v6.octets().to_vec());
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => link = Some(bytes.clone()),
                _ => {}
            }
        }
        // Without an address it is a bridge's; without a link-layer one it has
        // yet to be found.
        let (Some(address), Some(link)) = (address, link) else {
            return false;
        };
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let key = (neighbour.header.ifindex, address);
        let before = self.known.insert(key, link.clone());
        before.is_some_and(|before| before != link)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn word(interface: u32, last: u8, link: Option<u8>) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut neighbour = NeighbourMessage::default();
        neighbour.header.ifindex = interface;
        let address = Ipv4Addr::new(10, 0, 0, last);
        let destination = NeighbourAttribute::Destination(NeighbourAddress::Inet(address));
        neighbour.attributes.push(destination);
        let link = link.map(|last| NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last]));
        neighbour.attributes.extend(link);
        RouteNetlinkMessage::NewNeighbour(neighbour).into()
    }

    #[test]
    fn only_another_link_layer_address_is_news() {
        let mut neighbours = Neighbours::default();
        let cases = [
            (word(1, 1, Some(1)), false, "seen for the first time"),
            (word(1, 1, Some(1)), false, "the same"),
            (word(1, 1, None), false, "looked for"),
            (word(1, 1, Some(2)), true, "another"),
            (word(1, 1, Some(2)), false, "the same again"),
            (word(1, 2, Some(1)), false, "another neighbour"),
            (word(2, 1, Some(1)), false, "on another interface"),
            (word(1, 1, Some(1)), true, "back"),
        ];
        for (message, news, what) in cases {
            assert_eq!(neighbours.is_news(&message), news, "{what}");
        }
    }
}
