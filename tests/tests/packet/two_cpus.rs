//! Packets of one flow on two CPUs at the same moment.

use std::{
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_user::config::Capacity;

use super::{
    builder::{ACK, SYN},
    flows::tcp,
    lab::{self, CAPACITY, Hook, Lab, Verdict},
    net::NETS,
};

const FLOWS: u16 = 20_000;
/// The client's port of the nth flow.
const FIRST: u16 = 10_000;

/// The client's first data comes while its ACK moves the flow from one table to
/// the other: it belongs to that flow in whatever order the tables are read.
#[test]
fn a_flow_that_is_being_promoted_is_found() {
    for net in NETS {
        let mut lab = Lab::with_capacity(Capacity {
            flows: FLOWS.into(),
            half_open_flows: FLOWS.into(),
            ..CAPACITY
        });
        let id = net.base + 4;
        let (eth0, eth1) = (lab.eth0, lab.eth1);
        let forward = |flags, n| tcp(flags, (net.client, FIRST + n), (net.keep_vip, 80));
        let reply = |n| tcp(SYN | ACK, (net.target, 8080), (net.client, FIRST + n));
        let program = &*lab.dataplane.ingress().unwrap();
        let (established, answered) = (AtomicU16::new(0), AtomicU16::new(0));
        let reach = |what: &AtomicU16, n| {
            let limit = Instant::now() + Duration::from_secs(10);
            while what.load(Ordering::Acquire) < n {
                assert!(Instant::now() < limit, "the other thread has ended");
                thread::yield_now();
            }
        };
        let sent = thread::scope(|scope| {
            let other = scope.spawn(|| {
                for n in 1..=FLOWS {
                    let data = forward(ACK, n);
                    reach(&established, n);
                    for _ in 0..3 {
                        let (verdict, _) = lab::run(program, eth0, &data);
                        assert_eq!(verdict, Verdict::Redirect);
                    }
                    answered.store(n, Ordering::Release);
                }
            });
            for n in 1..=FLOWS {
                lab::run(program, eth0, &forward(SYN, n));
                lab::run(program, eth1, &reply(n));
                let ack = forward(ACK, n);
                established.store(n, Ordering::Release);
                lab::run(program, eth0, &ack);
                if other.is_finished() {
                    break;
                }
                reach(&answered, n);
            }
            other.join()
        });
        sent.unwrap();
        let traffic = lab.dataplane.listener_traffic(id).unwrap();
        assert_eq!(traffic.new_flows, u64::from(FLOWS), "{}", net.name);
        assert_eq!(lab.flows(net), (0, 2 * usize::from(FLOWS)), "{}", net.name);
        // Each was counted once: there is room for one more.
        lab.target(id, |target| target.max_flows = u32::from(FLOWS) + 1);
        let (verdict, _) = lab.run(Hook::Eth0, &forward(SYN, 0));
        assert_eq!(verdict, Verdict::Redirect, "{}", net.name);
    }
}
