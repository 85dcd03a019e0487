//! The far end of a tunnel: it takes encapsulated packets off the network and
//! gives what is inside to the host's own stack, through a TUN device. A
//! kernel's tunnel devices do the same, where a kernel has them.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{netns::Namespace, topology::Family};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    Ipip,
    Gue,
    Geneve,
}

impl Encapsulation {
    /// The UDP port that packets come to unless another is agreed on; 0 without
    /// UDP.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Ipip => 0,
            Self::Gue => 6080,
            Self::Geneve => 6081,
        }
    }
}

/// How packets come.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    pub encapsulation: Encapsulation,
    /// UDP's.
    pub port: u16,
    /// Of Geneve.
    pub virtual_network: u32,
    pub outer: Family,
    pub inner: Family,
}

/// A running decapsulator, stopped when it is dropped.
#[derive(Debug)]
pub struct Tunnel {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    packets: AtomicU64,
    sources: Mutex<HashSet<IpAddr>>,
    /// The first packet that wasn't as it should be.
    fault: Mutex<Option<String>>,
}

impl Tunnel {
    /// Decapsulates what comes to the namespace.
    ///
    /// # Errors
    /// If there is no TUN device, or a socket can't be had.
    pub fn start(namespace: &Namespace, ways: Ways) -> Result<Self> {
        namespace.ip("tuntap add tunnel0 mode tun")?;
        namespace.ip("link set tunnel0 up")?;
        // What comes out of it has clients' addresses.
        for device in ["all", "tunnel0"] {
            namespace.sysctl(&format!("ipv4/conf/{device}/rp_filter"), "0")?;
        }
        let (mut tun, socket) = namespace.enter(|| {
            let tun = open_tun("tunnel0").context("TUN device")?;
            Ok::<_, anyhow::Error>((tun, open_socket(ways)?))
        })??;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while !theirs.stopped.load(Ordering::Relaxed) {
                match pass_one(&socket, &mut tun, ways) {
                    Ok(Some(source)) => {
                        theirs.packets.fetch_add(1, Ordering::Relaxed);
                        locked(&theirs.sources).insert(source);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        locked(&theirs.fault).get_or_insert(format!("{error:#}"));
                    }
                }
            }
        });
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The outer sources that packets had.
    #[must_use]
    pub fn sources(&self) -> HashSet<IpAddr> {
        locked(&self.shared.sources).clone()
    }

    /// How many packets came through.
    ///
    /// # Errors
    /// If any was malformed.
    pub fn packets(&self) -> Result<u64> {
        match &*locked(&self.shared.fault) {
            Some(fault) => bail!("a bad tunnel packet: {fault}"),
            None => Ok(self.shared.packets.load(Ordering::Relaxed)),
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It can't panic, and there would be nothing to do if it had.
            let _ = thread.join();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes one packet: its outer source; `None` if none came for a while.
fn pass_one(socket: &UdpSocket, tun: &mut File, ways: Ways) -> Result<Option<IpAddr>> {
    let mut buffer = [0; 9_216];
    let (length, source) = match socket.recv_from(&mut buffer) {
        Ok(received) => received,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error.into()),
            };
        }
    };
    let packet = unwrap(&buffer[..length], ways)?;
    tun.write_all(packet).context("TUN device")?;
    Ok(Some(source.ip()))
}

/// Checks the headers outside, and gives the packet inside.
fn unwrap(received: &[u8], ways: Ways) -> Result<&[u8]> {
    let packet = match (ways.encapsulation, ways.outer) {
        // A raw socket of IPv4 gives the header too, one of IPv6 doesn't.
        (Encapsulation::Ipip, Family::V4) => &received[20..],
        // GUE's variant 1: IP follows at once, by its version.
        (Encapsulation::Ipip, Family::V6) | (Encapsulation::Gue, _) => received,
        (Encapsulation::Geneve, _) => geneve(received, ways)?,
    };
    let version = match ways.inner {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    ensure!(
        packet.first().is_some_and(|first| first >> 4 == version),
        "no IPv{version} inside: {packet:02x?}"
    );
    Ok(packet)
}

/// RFC 8926, section 3.4: no options, and the packet's EtherType.
fn geneve(received: &[u8], ways: Ways) -> Result<&[u8]> {
    let ethertype: u16 = match ways.inner {
        Family::V4 => 0x0800,
        Family::V6 => 0x86DD,
    };
    let (header, packet) = received.split_at_checked(8).context("no Geneve header")?;
    let network = (ways.virtual_network << 8).to_be_bytes();
    let expected = [&[0, 0], &ethertype.to_be_bytes()[..], &network].concat();
    ensure!(
        header == expected,
        "a Geneve header {header:02x?}, not {expected:02x?}"
    );
    Ok(packet)
}

fn open_socket(ways: Ways) -> Result<UdpSocket> {
    let any: IpAddr = match ways.outer {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = match ways.encapsulation {
        // It is read like one of UDP.
        Encapsulation::Ipip => raw_socket(ways.outer, ways.inner)?.into(),
        Encapsulation::Gue | Encapsulation::Geneve => {
            UdpSocket::bind(SocketAddr::new(any, ways.port))?
        }
    };
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let room = 8 << 20;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &room)?;
    if ways.encapsulation != Encapsulation::Ipip && ways.outer == Family::V6 {
        // linux/udp.h, UDP_NO_CHECK6_RX: without a checksum too (RFC 6935).
        set_option(&socket, libc::SOL_UDP, 102, &1)?;
    }
    Ok(socket)
}

fn raw_socket(outer: Family, inner: Family) -> io::Result<OwnedFd> {
    let family = match outer {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let protocol = match inner {
        Family::V4 => libc::IPPROTO_IPIP,
        Family::V6 => libc::IPPROTO_IPV6,
    };
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn set_option<T>(socket: &impl AsRawFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Attaches to a TUN device of the thread's namespace: IP packets, nothing
/// around them.
fn open_tun(name: &str) -> io::Result<File> {
    const NAME: usize = 16;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // `struct ifreq`: the name, and a union of which the flags are the first.
    let mut request = [0u8; 40];
    request[..name.len().min(NAME - 1)].copy_from_slice(name.as_bytes());
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as u16;
    request[NAME..NAME + 2].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the request is as long as `struct ifreq`.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}
