//! UDP frames a second, as many as one CPU can send, balance and count.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use xlb_tests::topology::{CLIENT, Peers, Topology};

use super::{
    cpu,
    live::{Flows, Live},
    losses::Counters,
    rig::{self, Case, Mode, Rig, Service, WEB},
};

const SERVICE: Service = Service {
    protocol: "udp",
    port: WEB,
};
/// The first flow's source port.
const FIRST_PORT: u16 = 20_000;
/// Frames before it counts, which tell how fast it goes about.
const WARM_UP: u32 = 1 << 17;
/// A measurement lasts about so long. A call that sends few frames would be
/// measured with what it takes to set up.
const TIME: f64 = 0.6;
const FEWEST: u32 = 1 << 18;
const MOST: u32 = 1 << 22;
/// Of the frames that are sent, so many must arrive, and on the one CPU.
const ARRIVE: f64 = 0.99;

/// Frames a second that arrive, in millions.
///
/// A veth's frames are received on the CPU that sends, unless something else
/// was sent there from another CPU just then: that one goes on receiving as
/// long as there are frames. It would be two CPUs' work that is measured, and
/// the one that only sends is faster than the other, so that the 256 places of
/// the veth's queue overflow. So whatever runs here shares the one CPU.
pub fn measure(case: Case, flows: u32) -> Result<f64> {
    cpu::pin(cpu::MEASURED)?;
    let (topology, past) = rig::network(case, Peers::Plain)?;
    let mut live = Live::load()?;
    live.receive(&topology.client, "eth0")?;
    live.receive(&topology.targets[0].namespace, "eth0")?;
    if case == Case::Reflect {
        live.reflect(&topology.balancer, "eth0")?;
    }
    let mut rig = Rig::start(case, SERVICE, topology, past, false)?;
    let flows = Flows {
        count: flows,
        from: SocketAddrV4::new(CLIENT, FIRST_PORT),
        to: rig.address_v4()?,
        macs: macs(&rig.topology)?,
    };
    if answers(case) {
        converse(&rig.topology, &flows)?;
    }
    live.count(true)?;
    let rate = run(&mut live, &rig, &flows);
    live.count(false)?;
    // What the balancer says of frames that didn't arrive comes first.
    rig.check()?;
    let rate = rate?;
    if let Some(xlb) = &rig.xlb {
        let traffic = xlb.status()?.listeners[0].traffic;
        ensure!(
            traffic.new_flows == u64::from(flows.count),
            "{} flows are meant: {traffic:?}",
            flows.count
        );
    }
    Ok(rate / 1e6)
}

fn run(live: &mut Live, rig: &Rig, flows: &Flows) -> Result<f64> {
    let client = &rig.topology.client;
    let time = live.send(client, flows, WARM_UP)?;
    let expected = f64::from(WARM_UP) / time.as_secs_f64() * TIME;
    let frames = (expected as u32).clamp(FEWEST, MOST);
    let (counters, before) = (Counters::read(&rig.topology)?, live.received()?);
    let time = live.send(client, flows, frames)?;
    let after = live.received()?;
    let by_cpu: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    let arrived = by_cpu[cpu::MEASURED] as f64;
    ensure!(
        arrived >= f64::from(frames) * ARRIVE && arrived <= f64::from(frames),
        "of {frames} frames these arrived, by CPU: {by_cpu:?}; meanwhile {}",
        Counters::read(&rig.topology)?.since(&counters)
    );
    Ok(arrived / time.as_secs_f64())
}

/// The client's link-layer address, and the balancer's.
fn macs(topology: &Topology) -> Result<[[u8; 6]; 2]> {
    Ok([topology.client.mac("eth0")?, topology.balancer.mac("eth0")?])
}

/// Whether a target's answer comes back by the balancer, and the client is told.
fn answers(case: Case) -> bool {
    match case {
        Case::Reflect | Case::Forward => false,
        Case::Xlb(Mode::Dsr | Mode::Tunnel(_)) => false,
        Case::Direct | Case::Routed | Case::Other(_) => true,
        Case::Xlb(Mode::SourceNat | Mode::Keep) => true,
    }
}

/// On each flow a datagram, its answer, and another: so whoever keeps flows has
/// seen both sides of it.
fn converse(topology: &Topology, flows: &Flows) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let target = &topology.targets[0].namespace;
    let ended = AtomicBool::new(false);
    let server = target.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SERVICE.port)))??;
    server.set_read_timeout(Some(Duration::from_millis(50)))?;
    thread::scope(|scope| {
        scope.spawn(|| echo(&server, &ended));
        let outcome = topology.client.enter(|| {
            for port in (flows.from.port()..).take(flows.count as usize) {
                let socket = UdpSocket::bind(SocketAddrV4::new(*flows.from.ip(), port))?;
                socket.connect(flows.to)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                for word in [b"one", b"two"] {
                    socket.send(word)?;
                    let mut answer = [0; 8];
                    let length = socket.recv(&mut answer);
                    let length = length.with_context(|| format!("no answer to port {port}"))?;
                    if answer[..length] != word[..] {
                        bail!("another answer than what was sent from port {port}");
                    }
                }
            }
            Ok(())
        });
        ended.store(true, Ordering::Relaxed);
        outcome?
    })
}

fn echo(socket: &UdpSocket, ended: &AtomicBool) {
    let mut datagram = [0; 64];
    while !ended.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut datagram) {
            // Who sent it tells if no answer comes.
            let _ = socket.send_to(&datagram[..length], from);
        }
    }
}
