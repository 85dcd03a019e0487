//! What drivers can do with XDP: the kernel's generic netlink family `netdev`
//! (Linux 6.3, Documentation/netlink/specs/netdev.yaml).

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use super::XdpFeatures;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// A message of the family: empty as a request, one device as an answer.
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
        0
    }

    fn emit(&self, _buffer: &mut [u8]) {}
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

/// The features of every device, by interface index; empty if the kernel
/// doesn't tell.
pub(super) async fn all(handle: &mut genetlink::GenetlinkHandle) -> BTreeMap<u32, XdpFeatures> {
    let mut all = BTreeMap::new();
    let mut request = NetlinkMessage::from(GenlMessage::from_payload(Device::default()));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let Ok(mut answers) = handle.request(request).await else {
        return all;
    };
    while let Some(answer) = answers.next().await {
        if let Ok(NetlinkMessage {
            payload: NetlinkPayload::InnerMessage(message),
            ..
        }) = answer
            && let Device {
                index: Some(index),
                features: Some(features),
            } = message.payload
        {
            all.insert(index, XdpFeatures(features));
        }
    }
    all
}
