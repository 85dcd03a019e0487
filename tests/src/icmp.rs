//! ICMP errors, as a UDP socket is told of them.

use std::{
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    cmsg_space, libc,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvErr, Ipv4Ttl, Ipv6RecvErr, Ipv6Ttl},
    },
};

use crate::{client::any_port, netns::Namespace, wait};

/// An error about a datagram. The kernel tells a socket only of those that
/// quote its own addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The host that the error comes from.
    pub from: IpAddr,
    pub icmp_type: u8,
    pub code: u8,
}

/// Sends a datagram that may cross `hops` hops to a server, and waits for the
/// error that comes of it.
///
/// # Errors
/// If there is none within seconds.
pub fn provoke(namespace: &Namespace, server: SocketAddr, hops: u8) -> Result<Told> {
    namespace.enter(|| {
        let socket = UdpSocket::bind(any_port(server))?;
        if server.is_ipv4() {
            setsockopt(&socket, Ipv4Ttl, &hops.into())?;
            setsockopt(&socket, Ipv4RecvErr, &true)?;
        } else {
            setsockopt(&socket, Ipv6Ttl, &hops.into())?;
            setsockopt(&socket, Ipv6RecvErr, &true)?;
        }
        // Connected: errors about other datagrams don't come here.
        socket.connect(server)?;
        let mut sent = 0;
        wait::until("an ICMP error", Duration::from_secs(4), || {
            // Again each second: the first may wait for a neighbour in vain.
            if sent % 100 == 0 {
                // It may report the error that is looked for.
                let _ = socket.send(b"who answers?");
            }
            sent += 1;
            told(&socket)
        })
    })?
}

fn told(socket: &UdpSocket) -> Result<Option<Told>> {
    let mut data = [0; 64];
    let mut parts = [IoSliceMut::new(&mut data)];
    let mut space = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let fd = socket.as_raw_fd();
    let message = match recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), flags) {
        Err(nix::errno::Errno::EAGAIN) => return Ok(None),
        message => message?,
    };
    for control in message.cmsgs()? {
        let (error, from) = match control {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                let from = from.context("an error from nowhere")?;
                let address = u32::from_be(from.sin_addr.s_addr);
                (error, Ipv4Addr::from(address).into())
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                let from = from.context("an error from nowhere")?;
                (error, Ipv6Addr::from(from.sin6_addr.s6_addr).into())
            }
            _ => continue,
        };
        return Ok(Some(Told {
            from,
            icmp_type: error.ee_type,
            code: error.ee_code,
        }));
    }
    Ok(None)
}
