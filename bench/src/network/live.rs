//! Frames that the kernel itself sends and counts (bench/ebpf, `live.rs`): from
//! the client's device, as if it transmitted them, on one CPU.

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, PerCpuArray},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, xdp::XdpMode},
};
use bytemuck::{Pod, Zeroable};
use etherparse::PacketBuilder;
use nix::net::if_::if_nametoindex;
use xlb_tests::{netns::Namespace, topology::Topology};

/// As bench/ebpf has it: the shortest frame of Ethernet.
const FRAME: usize = 64;
const PAYLOAD: usize = FRAME - 14 - 20 - 8;
/// What the kernel sends before it lets the frames arrive: what a network
/// card's driver takes at once.
const BATCH: u32 = 64;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Template {
    flows: u32,
    port: u16,
    balance: u16,
    bytes: [u8; FRAME],
}

// SAFETY: it is `Pod`: any bits are valid, and no byte is padding.
unsafe impl aya::Pod for Template {}

/// As bench/ebpf has it.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Way {
    interface: u32,
    macs: [[u8; 6]; 2],
}

// SAFETY: it is `Pod`: any bits are valid, and no byte is padding.
unsafe impl aya::Pod for Way {}

/// What is sent: UDP from so many ports of one address.
#[derive(Clone, Copy, Debug)]
pub struct Flows {
    pub count: u32,
    /// The first one's.
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    /// Of the device that sends, and of who is to take it.
    pub macs: [[u8; 6]; 2],
}

pub struct Live(Ebpf);

impl Live {
    pub fn load() -> Result<Self> {
        static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xlb-live"));
        let mut ebpf = Ebpf::load(OBJECT).context("the frame generator")?;
        for (name, program) in ebpf.programs_mut() {
            let program: &mut Xdp = program.try_into()?;
            let loaded = program.load();
            loaded.with_context(|| format!("the generator's program {name}"))?;
        }
        Ok(Self(ebpf))
    }

    /// Lets frames that come by a device be counted, as long as this lives.
    pub fn receive(&mut self, namespace: &Namespace, device: &str) -> Result<()> {
        self.attach("receive", namespace, device)
    }

    /// Lets a device send each frame back at once.
    pub fn reflect(&mut self, namespace: &Namespace, device: &str) -> Result<()> {
        self.attach("reflect", namespace, device)
    }

    /// Lets the balancer send what comes from the client to the target, and
    /// back, as it is.
    pub fn forward(&mut self, topology: &Topology) -> Result<()> {
        let Topology {
            client, balancer, ..
        } = topology;
        let target = &topology.targets[0].namespace;
        for (from, to, host) in [("eth0", "eth1", target), ("eth1", "eth0", client)] {
            let index = |device: &'static str| balancer.enter(move || if_nametoindex(device));
            let (from, interface) = (index(from)??, index(to)??);
            let macs = [host.mac("eth0")?, balancer.mac(to)?];
            let way = Way { interface, macs };
            let map = self.0.map_mut("WAYS").context("WAYS")?;
            Array::<_, Way>::try_from(map)?.set(from, way, 0)?;
        }
        self.attach("forward", balancer, "eth0")?;
        self.attach("forward", balancer, "eth1")
    }

    fn attach(&mut self, name: &str, namespace: &Namespace, device: &str) -> Result<()> {
        let program = self.program(name)?;
        let attached = namespace.enter(|| program.attach(device, XdpMode::Driver))?;
        attached.with_context(|| format!("{name} on {device} of {}", namespace.name()))?;
        Ok(())
    }

    fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.0.program_mut(name);
        Ok(program
            .with_context(|| format!("the generator has no {name}"))?
            .try_into()?)
    }

    /// From now on frames are counted where they arrive and end there, or none
    /// are.
    pub fn count(&mut self, whether: bool) -> Result<()> {
        self.set("COUNTING", u32::from(whether))
    }

    /// Frames that have arrived, by the CPU that took them.
    pub fn received(&self) -> Result<Vec<u64>> {
        let map = self.0.map("RECEIVED").context("RECEIVED")?;
        let counts = PerCpuArray::<_, u64>::try_from(map)?.get(&0, 0)?;
        Ok(counts.to_vec())
    }

    /// Sends so many frames out of a namespace's `eth0`, the flows in turn, on the
    /// calling thread's CPU, and tells how long that took.
    pub fn send(&mut self, namespace: &Namespace, flows: &Flows, frames: u32) -> Result<Duration> {
        let (template, frame) = template(flows)?;
        self.set("TEMPLATE", template)?;
        self.set("NEXT", 0_u32)?;
        let program = self.program("generate")?;
        namespace.enter(|| {
            let interface = if_nametoindex("eth0")?;
            // struct xdp_md: data, data_end, data_meta, ingress_ifindex, queue, egress.
            let context = [0, frame.len() as u32, 0, interface, 0, 0];
            let begin = Instant::now();
            let sent = program.test_run(TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(bytemuck::cast_slice(&context)),
                repeat: frames,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            });
            sent.context("the kernel sends no live frames (Linux 5.18 has them)")?;
            Ok(begin.elapsed())
        })?
    }

    fn set<T: aya::Pod>(&mut self, name: &str, value: T) -> Result<()> {
        let map = self.0.map_mut(name).with_context(|| name.to_owned())?;
        Ok(Array::<_, T>::try_from(map)?.set(0, value, 0)?)
    }
}

/// The first flow's frame, and how the others differ from it.
fn template(flows: &Flows) -> Result<(Template, Vec<u8>)> {
    let Flows {
        count,
        from,
        to,
        macs,
    } = *flows;
    ensure!(
        count > 0 && u32::from(from.port()) + count <= 1 << 16,
        "{count} flows from port {} on",
        from.port()
    );
    // What the ports add to the checksum, the payload's first bytes take away;
    // they can't fall below zero.
    let balance = u16::MAX;
    let mut payload = [0; PAYLOAD];
    payload[..2].copy_from_slice(&balance.to_be_bytes());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs[0], macs[1])
        .ipv4(from.ip().octets(), to.ip().octets(), 64)
        .udp(from.port(), to.port())
        .write(&mut frame, &payload)?;
    let mut template = Template {
        flows: count,
        port: from.port(),
        balance,
        bytes: [0; FRAME],
    };
    template.bytes.copy_from_slice(&frame);
    Ok((template, frame))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::{Flows, template};

    #[test]
    fn every_flow_has_the_first_ones_checksum() {
        let flows = Flows {
            count: 1000,
            from: SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 2), 20_000),
            to: SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 15), 80),
            macs: [[2; 6], [4; 6]],
        };
        let (template, first) = template(&flows).unwrap();
        for flow in [0, 1, 999] {
            let mut frame = first.clone();
            frame[34..36].copy_from_slice(&(template.port + flow).to_be_bytes());
            frame[42..44].copy_from_slice(&(template.balance - flow).to_be_bytes());
            let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else {
                panic!("no IPv4");
            };
            let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else {
                panic!("no UDP");
            };
            let sum = udp
                .to_header()
                .calc_checksum_ipv4(&ip.header().to_header(), udp.payload());
            assert_eq!(sum.unwrap(), udp.checksum());
            assert_eq!(udp.source_port(), 20_000 + flow);
        }
    }

    #[test]
    fn ports_end_somewhere() {
        let flows = Flows {
            count: 1000,
            from: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 65_000),
            to: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80),
            macs: [[2; 6], [4; 6]],
        };
        assert!(template(&flows).is_err());
    }
}
