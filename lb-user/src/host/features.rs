//! What drivers can do with XDP: the kernel's generic netlink family `netdev`
//! (Linux 6.3, Documentation/netlink/specs/netdev.yaml).

use futures_util::StreamExt as _;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use super::XdpFeatures;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// Bytes of an attribute's header, and of the one attribute of a request.
const HEADER: usize = 4;
const INDEX: usize = HEADER + size_of::<u32>();

/// A message of the family: a request has the index alone.
#[derive(Clone, Debug, Default)]
struct Device {
    index: Option<u32>,
    features: Option<u64>,
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        NETDEV_CMD_DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        if self.index.is_some() { INDEX } else { 0 }
    }

    fn emit(&self, buffer: &mut [u8]) {
        if let Some(index) = self.index {
            buffer[..2].copy_from_slice(&(INDEX as u16).to_ne_bytes());
            buffer[2..HEADER].copy_from_slice(&NETDEV_A_DEV_IFINDEX.to_ne_bytes());
            buffer[HEADER..INDEX].copy_from_slice(&index.to_ne_bytes());
        }
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(buffer: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self::default();
        for attribute in NlasIterator::new(buffer) {
            let attribute = attribute?;
            match attribute.kind() {
                NETDEV_A_DEV_IFINDEX => {
                    device.index = attribute.value().try_into().ok().map(u32::from_ne_bytes);
                }
                NETDEV_A_DEV_XDP_FEATURES => {
                    device.features = attribute.value().try_into().ok().map(u64::from_ne_bytes);
                }
                _ => {}
            }
        }
        Ok(device)
    }
}

/// The features of one device; `None` if the kernel doesn't tell.
///
/// Not all at once: the kernel doesn't mark the parts of that answer as such
/// (`NLM_F_MULTI`), and netlink-proto takes the first one for the whole.
pub(super) async fn of(handle: &mut genetlink::GenetlinkHandle, index: u32) -> Option<XdpFeatures> {
    let device = Device {
        index: Some(index),
        features: None,
    };
    let mut request = NetlinkMessage::from(GenlMessage::from_payload(device));
    request.header.flags = NLM_F_REQUEST;
    let mut answers = handle.request(request).await.ok()?;
    match answers.next().await?.ok()?.payload {
        NetlinkPayload::InnerMessage(message) => message.payload.features.map(XdpFeatures),
        _ => None,
    }
}
