//! What a driver says of its device (linux/ethtool.h), by ioctl: what xlb wants
//! to know is older than ethtool's netlink, and some of it isn't there.

use std::{ffi::c_char, io, mem, net::UdpSocket, os::fd::AsRawFd as _};

/// As far as the driver tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) driver: Option<String>,
    /// Large receive offload, in the driver or the card.
    pub(super) lro: Option<bool>,
    /// Generic receive offload, in the kernel.
    pub(super) gro: Option<bool>,
    pub(super) channels: Option<Channels>,
    /// Whether the ports of UDP over IPv4 help to choose the queue.
    pub(super) udp_ports_hashed: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channels {
    pub(super) receive: u32,
    pub(super) most_receive: u32,
}

const GDRVINFO: u32 = 0x03;
const GFLAGS: u32 = 0x25;
const GRXFH: u32 = 0x29;
const GGRO: u32 = 0x2B;
const GCHANNELS: u32 = 0x3C;

/// `ETH_FLAG_LRO`.
const FLAG_LRO: u32 = 1 << 15;
/// `UDP_V4_FLOW`.
const UDP_V4: u32 = 0x02;
/// `RXH_L4_B_0_1` and `RXH_L4_B_2_3`: both ports.
const HASH_PORTS: u32 = 1 << 6 | 1 << 7;

/// Words of the largest answer, `struct ethtool_rxnfc`, and more.
const WORDS: usize = 64;
type Message = [u32; WORDS];

pub(super) fn ask(interface: &str) -> Device {
    // Any socket will do.
    let Ok(socket) = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0")) else {
        return Device::default();
    };
    let ask = |command, argument| call(&socket, interface, command, argument).ok();
    Device {
        driver: ask(GDRVINFO, 0).map(|answer| text(&answer[1..9])),
        lro: ask(GFLAGS, 0).map(|answer| answer[1] & FLAG_LRO != 0),
        gro: ask(GGRO, 0).map(|answer| answer[1] != 0),
        channels: ask(GCHANNELS, 0).map(|answer| channels(&answer)),
        // A u64 behind both words; the bits are in its lower half.
        udp_ports_hashed: ask(GRXFH, UDP_V4).map(|answer| {
            let hashed = u64::from(answer[2]) | u64::from(answer[3]) << 32;
            hashed as u32 & HASH_PORTS == HASH_PORTS
        }),
    }
}

fn call(socket: &UdpSocket, interface: &str, command: u32, argument: u32) -> io::Result<Message> {
    // SAFETY: zeros are a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    if interface.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as c_char;
    }
    let mut message: Message = [0; WORDS];
    message[0] = command;
    message[1] = argument;
    request.ifr_ifru.ifru_data = message.as_mut_ptr().cast();
    // SAFETY: `request` is a live ifreq, whose data has room for the answer to
    // every command of this module.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } {
        0 => Ok(message),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct ethtool_channels`: the maxima of receive, transmit, other and
/// combined channels, then how many there are.
fn channels(answer: &Message) -> Channels {
    Channels {
        most_receive: answer[1] + answer[4],
        receive: answer[5] + answer[8],
    }
}

/// Up to the first zero.
fn text(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
    let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_tells_and_a_missing_one_doesnt() {
        let loopback = ask("lo");
        assert_eq!(loopback.gro, Some(true), "{loopback:?}");
        assert_eq!(loopback.channels, None, "{loopback:?}");
        assert_eq!(ask("no-such-device"), Device::default());
        assert_eq!(ask("a-name-that-is-too-long"), Device::default());
    }

    #[test]
    fn answers_are_read_as_the_kernel_lays_them_out() {
        let mut answer: Message = [0; WORDS];
        answer[1..9].copy_from_slice(&[1, 2, 0, 8, 1, 1, 0, 4]);
        let channels = channels(&answer);
        assert_eq!((channels.receive, channels.most_receive), (5, 9));
        let name = [u32::from_ne_bytes(*b"virt"), u32::from_ne_bytes(*b"io\0x")];
        assert_eq!(text(&name), "virtio");
    }
}
