//! A flood of SYNs from sources that don't exist.

use std::{
    io,
    net::SocketAddrV4,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    interrupt,
    netns::{Namespace, mac_after},
};

/// The sources: 198.18.0.0/15, which is for measurements (RFC 2544).
const SOURCES: u32 = 0xC612_0000;
const SOURCE_BITS: u32 = 17;
const FRAME: usize = 14 + 20 + 20;
/// Frames a system call.
const BATCH: usize = 64;
/// How long a full queue takes to drain, roughly.
const DRAIN: Duration = Duration::from_millis(5);

/// Sends `count` SYNs to a listener out of the namespace's `eth0`, `rate` a
/// second unless the machine is too slow, for at most `time`, and tells how many
/// went. No two are of the same source address and port.
///
/// # Errors
/// If the namespace doesn't know the listener's link-layer address, or frames
/// can't be sent.
pub fn flood(
    namespace: &Namespace,
    listener: SocketAddrV4,
    count: u64,
    rate: u64,
    time: Duration,
) -> Result<u64> {
    let macs = macs(namespace, listener)?;
    namespace.enter(|| {
        let socket = packet_socket("eth0").context("packet socket")?;
        let start = Instant::now();
        let mut frames = [[0; FRAME]; BATCH];
        for frame in &mut frames {
            *frame = syn(macs, listener);
        }
        let mut sent = 0;
        while sent < count && start.elapsed() < time {
            interrupt::check()?;
            let due = Duration::from_micros(sent * 1_000_000 / rate);
            // Until this batch's time has come.
            thread::sleep(due.saturating_sub(start.elapsed()));
            for (frame, number) in frames.iter_mut().zip(sent..) {
                address(frame, number);
            }
            sent += send(&socket, &mut frames)?;
        }
        Ok(sent)
    })?
}

/// The listener's and the namespace's own link-layer address.
fn macs(namespace: &Namespace, listener: SocketAddrV4) -> Result<[[u8; 6]; 2]> {
    let neighbour = namespace.ip(&format!("neighbour show {} dev eth0", listener.ip()))?;
    Ok([mac_after(&neighbour, "lladdr")?, namespace.mac("eth0")?])
}

/// A SYN without source address, source port and checksums.
fn syn(macs: [[u8; 6]; 2], listener: SocketAddrV4) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&macs[0]);
    frame[6..12].copy_from_slice(&macs[1]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    // 40 bytes, don't fragment, 64 hops, TCP.
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6]);
    frame[30..34].copy_from_slice(&listener.ip().octets());
    frame[36..38].copy_from_slice(&listener.port().to_be_bytes());
    // Five words of header, SYN, a window.
    frame[46..50].copy_from_slice(&[0x50, 0x02, 0xFF, 0xFF]);
    frame
}

/// Gives the frame its source, and all that depends on it.
fn address(frame: &mut [u8; FRAME], number: u64) {
    let host = (number as u32) & ((1 << SOURCE_BITS) - 1);
    let port = 1024 + (number >> SOURCE_BITS) as u16;
    frame[26..30].copy_from_slice(&(SOURCES | host).to_be_bytes());
    frame[34..36].copy_from_slice(&port.to_be_bytes());
    frame[38..42].copy_from_slice(&(number as u32).wrapping_mul(2_654_435_761).to_be_bytes());
    for checksum in [24, 50] {
        frame[checksum..checksum + 2].fill(0);
    }
    let header = checksum(&frame[14..34], 0);
    frame[24..26].copy_from_slice(&header);
    // The pseudo-header: addresses, protocol, length.
    let transport = checksum(&frame[26..54], 6 + 20);
    frame[50..52].copy_from_slice(&transport);
}

/// RFC 1071; the length is even.
fn checksum(bytes: &[u8], initial: u32) -> [u8; 2] {
    let words = bytes.chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let mut sum = sum + initial;
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    (!(sum as u16)).to_be_bytes()
}

fn packet_socket(device: &str) -> Result<OwnedFd> {
    // Protocol 0: it receives nothing.
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(socket >= 0, io::Error::last_os_error());
    // SAFETY: the kernel has just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: it is made of integers, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = nix::net::if_::if_nametoindex(device)?.cast_signed();
    // SAFETY: the address is as long as is said.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of_val(&address) as u32,
        )
    };
    ensure!(bound == 0, io::Error::last_os_error());
    Ok(socket)
}

/// Sends frames, waiting for room, and tells how many went.
fn send(socket: &OwnedFd, frames: &mut [[u8; FRAME]; BATCH]) -> Result<u64> {
    let mut parts = frames.each_mut().map(|frame| libc::iovec {
        iov_base: frame.as_mut_ptr().cast(),
        iov_len: FRAME,
    });
    // SAFETY: it is made of integers and pointers, for which zero is valid.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    for (message, part) in messages.iter_mut().zip(&mut parts) {
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: as many messages as is said, which point to live frames.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, 0) };
    match u64::try_from(sent) {
        Ok(sent) => Ok(sent),
        Err(_) => {
            let error = io::Error::last_os_error();
            ensure!(error.raw_os_error() == Some(libc::ENOBUFS), error);
            // The queue is full. It is left to drain, for others' packets must
            // find room too.
            thread::sleep(DRAIN);
            Ok(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::{FRAME, address, checksum, syn};

    #[test]
    fn checksums_verify() {
        let listener = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 15), 80);
        let mut frame = syn([[2; 6]; 2], listener);
        address(&mut frame, 0xFEDC_BA98);
        assert_eq!(checksum(&frame[14..34], 0), [0, 0]);
        assert_eq!(checksum(&frame[26..FRAME], 26), [0, 0]);
    }
}
