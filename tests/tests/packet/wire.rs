//! Frames on real devices: where they come out, which a test run doesn't tell,
//! and what becomes of a note.

use std::{
    io,
    mem::size_of,
    net::UdpSocket,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use lb_common::{flow, settings::InterfaceEntry, wire::wide};
use lb_user::reconcile::Change;
use xlb_tests::programs;

use super::{
    builder::{ETH1_MAC, Frame, SYN, TARGET_MAC, Transport},
    lab::{CLIENT, HOST, KEEP_VIP, Lab, SOURCE, TARGET, index},
};

/// The far end of a cable.
pub struct Tap(OwnedFd);

impl Tap {
    /// It gets what comes in by this device from now on.
    pub fn new(device: u32) -> Self {
        let all = u16::to_be(libc::ETH_P_ALL as u16);
        // SAFETY: a call without pointers.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, all.into()) };
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the kernel has just made this descriptor for us.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // SAFETY: it is made of integers, for which zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = device.cast_signed();
        let length = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the address lives on, and the length is its own.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        Self(socket)
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the kernel reads the slice, no further.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The first frame like this that comes in within a while.
    pub fn gets(&self, like: impl Fn(&[u8]) -> bool, within: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + within;
        let mut buffer = [0u8; 2048];
        while Instant::now() < end {
            let flags = libc::MSG_DONTWAIT;
            // SAFETY: the kernel writes into the buffer, no further.
            let length = unsafe {
                let (at, room) = (buffer.as_mut_ptr().cast(), buffer.len());
                libc::recv(self.0.as_raw_fd(), at, room, flags)
            };
            match usize::try_from(length) {
                Ok(length) if like(&buffer[..length]) => return Some(buffer[..length].to_vec()),
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        None
    }
}

pub const A_WHILE: Duration = Duration::from_secs(5);

fn syn() -> Frame {
    Frame::new(Transport::Tcp(SYN), (CLIENT, 4000), (KEEP_VIP, 80))
}

fn sent() -> Frame {
    syn().with(|f| {
        f.destination = (TARGET, 8080);
        f.time_to_live = 63;
        f.macs = (ETH1_MAC, TARGET_MAC);
    })
}

/// Sends a frame to eth0 and sees it come out of one device only.
fn comes_out(what: &str, input: &Frame, output: &Frame, by: &str, not_by: &str) {
    let tap = |name| Tap::new(index(name));
    let (client, out, other) = (tap("peer0"), tap(by), tap(not_by));
    client.send(&input.bytes());
    let output = output.bytes();
    let same = |frame: &[u8]| frame == output;
    assert!(out.gets(same, A_WHILE).is_some(), "{what}: {by}");
    let other = other.gets(same, Duration::from_millis(50));
    assert!(other.is_none(), "{what}: {not_by}");
}

#[test]
fn a_redirected_frame_leaves_by_the_interfaces_device() {
    let mut lab = Lab::new();
    let _takers = ["peer1", "peer2"].map(|peer| programs::pass(&lab.namespace, peer).unwrap());
    comes_out("its own", &syn(), &sent(), "peer1", "peer2");

    // As a VLAN device has its parent's.
    let entry = InterfaceEntry {
        device: lab.eth2,
        flags: InterfaceEntry::REDIRECT,
        ..InterfaceEntry::default()
    };
    lab.apply(Change::SetInterface(lab.eth1, entry));
    comes_out("another", &syn(), &sent(), "peer2", "peer1");
}

#[test]
fn a_noted_frame_is_sent_by_the_kernel() {
    let mut lab = Lab::new();
    lab.interface(lab.eth1, 0, &[]);
    comes_out("no XDP", &syn(), &sent(), "peer1", "peer2");

    lab.interface(lab.eth1, InterfaceEntry::REDIRECT, &[]);
    for tags in [vec![(0x8100, 7)], vec![(0x88A8, 8), (0x8100, 7)]] {
        let tagged = syn().with(|f| f.tags = tags);
        let what = format!("{:?}", tagged.tags);
        comes_out(&what, &tagged, &sent(), "peer1", "peer2");
    }
}

/// A socket leaves the transport's sum to the device: it holds that of the
/// pseudo-header only, which a test run's packets never do.
#[test]
fn a_sockets_answer_has_the_listeners_address_in_its_sum() {
    let mut lab = Lab::new();
    lab.target(1, |t| t.address = wide(SOURCE));
    let server = UdpSocket::bind((SOURCE, 5353)).unwrap();
    server.set_read_timeout(Some(A_WHILE)).unwrap();
    let client = Tap::new(index("peer0"));
    client.send(&Frame::new(Transport::Udp, (CLIENT, 4000), (HOST, 53)).bytes());
    let (_, from) = server.recv_from(&mut [0; 64]).unwrap();
    server.send_to(b"answer", from).unwrap();
    let is_answer = |frame: &[u8]| frame.ends_with(b"answer");
    let answer = client.gets(is_answer, A_WHILE).unwrap();

    let word = |at: usize| u32::from(u16::from_be_bytes([answer[at], answer[at + 1]]));
    assert_eq!((&answer[26..30], word(34)), (&[10, 0, 1, 1][..], 53));
    let addresses: u32 = [26, 28, 30, 32].into_iter().map(word).sum();
    let sum = addresses + u32::from(flow::UDP) + word(38);
    assert_eq!(word(40), (sum & 0xFFFF) + (sum >> 16));
}
