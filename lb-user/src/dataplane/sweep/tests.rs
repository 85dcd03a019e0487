use std::cell::{Cell, RefCell};

use lb_common::{
    Be16, Ipv4,
    flow::{Endpoints, FlowEntry4, FlowKey4, TCP, UDP},
};

use super::*;

const NOW: u32 = 10_000;
const OPEN: u8 = State::REPLIED | State::CONFIRMED;

fn judge() -> Judge {
    let settings = Settings {
        half_open_timeout: 60,
        established_timeout: 350,
        closing_timeout: 30,
        udp_timeout: 120,
        ..Settings::default()
    };
    Judge { settings, now: NOW }
}

/// A table, and one target whose id is 0.
#[derive(Default)]
struct Table {
    entries: RefCell<Vec<(FlowKey4, FlowEntry4)>>,
    target: Cell<TargetEntry>,
    /// What the data path makes of it just before an entry is taken.
    meanwhile: Cell<Option<fn(&Table)>>,
}

impl Table {
    fn with(flows: &[(FlowKey4, FlowEntry4)], generation: u32, flags: u16) -> Self {
        let table = Self::default();
        let both = flows
            .iter()
            .flat_map(|(key, entry)| [(*key, *entry), entry.peer(key)]);
        table.entries.borrow_mut().extend(both);
        table.set_target(generation, flags);
        table
    }

    fn set_target(&self, generation: u32, flags: u16) {
        self.target.set(TargetEntry {
            generation,
            flags,
            ..TargetEntry::default()
        });
    }

    fn change(&self, key: &FlowKey4, change: impl Fn(&mut FlowEntry4)) {
        let mut entries = self.entries.borrow_mut();
        let found = entries.iter_mut().filter(|(other, _)| other == key);
        found.for_each(|(_, entry)| change(entry));
    }

    fn keys(&self) -> Vec<FlowKey4> {
        self.entries.borrow().iter().map(|(key, _)| *key).collect()
    }
}

impl Present<Ipv4> for Table {
    fn flow(&self, key: &FlowKey4) -> io::Result<Option<FlowEntry4>> {
        let entries = self.entries.borrow();
        let found = entries.iter().find(|(other, _)| other == key);
        Ok(found.map(|(_, entry)| *entry))
    }

    fn target(&self, id: u32) -> io::Result<Option<TargetEntry>> {
        Ok((id == 0).then(|| self.target.get()))
    }

    fn take(&self, key: &FlowKey4) -> io::Result<Option<FlowEntry4>> {
        if let Some(happens) = self.meanwhile.take() {
            happens(self);
        }
        let mut entries = self.entries.borrow_mut();
        let found = entries.iter().position(|(other, _)| other == key);
        Ok(found.map(|at| entries.remove(at).1))
    }

    fn put_back(&self, key: &FlowKey4, entry: &FlowEntry4) -> io::Result<()> {
        if self.flow(key)?.is_none() {
            self.entries.borrow_mut().push((*key, *entry));
        }
        Ok(())
    }
}

/// The forward direction of a flow of generation 1 that has been idle for so
/// many seconds.
fn flow(protocol: u8, state: u8, idle: u32) -> (FlowKey4, FlowEntry4) {
    let ends = |from: [u8; 4], to: [u8; 4], port: u16| Endpoints {
        source: Ipv4::from(std::net::Ipv4Addr::from(from)),
        destination: Ipv4::from(std::net::Ipv4Addr::from(to)),
        source_port: Be16::new(port),
        destination_port: Be16::new(80),
    };
    let entry = FlowEntry {
        rewrite: ends([10, 0, 0, 1], [10, 0, 0, 9], 2_000),
        generation: 1,
        last_seen: NOW - idle,
        state,
        ..FlowEntry::default()
    };
    let key = FlowKey::new(ends([192, 0, 2, 1], [10, 0, 0, 1], 4_000), protocol);
    (key, entry)
}

#[test]
fn a_flow_is_over_when_it_is_idle_or_has_no_target() {
    let closed = OPEN | State::RESET;
    // (protocol, state, seconds that it may be idle with a target, without one)
    let cases = [
        (TCP, 0, 60, None),
        (TCP, OPEN, 350 + TOLD, Some(TOLD)),
        (TCP, closed, 30, None),
        (UDP, 0, 120, None),
        (UDP, OPEN, 120, None),
    ];
    for (protocol, state, with, without) in cases {
        for (flags, may) in [(TargetEntry::KEEPS, Some(with)), (0, without)] {
            let case = format!("{protocol} {state:#x} {flags}");
            let table = Table::with(&[], 1, flags);
            let target = Some(table.target.get());
            let over = |idle| judge().is_over(protocol, &flow(protocol, state, idle).1, target);
            assert_eq!(over(may.unwrap_or(0)), may.is_none(), "{case}");
            assert!(may.is_none_or(|may| over(may + 1)), "{case}");
        }
    }
}

#[test]
fn a_flow_that_is_over_goes_whole() {
    let (key, entry) = flow(UDP, OPEN, 121);
    let (peer_key, peer) = entry.peer(&key);
    for (key, entry) in [(key, entry), (peer_key, peer)] {
        let table = Table::with(&[flow(UDP, OPEN, 121)], 1, TargetEntry::KEEPS);
        assert_eq!(judge().end(&table, &key, &entry).unwrap(), Some(2));
        assert_eq!(table.keys(), []);
        // Its other entry was read before that.
        assert_eq!(judge().end(&table, &key, &entry).unwrap(), Some(0));
    }
}

#[test]
fn a_flow_goes_on_whose_other_direction_does() {
    let (key, entry) = flow(UDP, OPEN, 121);
    let table = Table::with(&[(key, entry)], 1, TargetEntry::KEEPS);
    table.change(&entry.peer_key(UDP), |peer| peer.last_seen = NOW);
    assert_eq!(judge().end(&table, &key, &entry).unwrap(), None);
    // What is there may be another flow's.
    table.change(&entry.peer_key(UDP), |peer| peer.generation = 2);
    assert_eq!(judge().end(&table, &key, &entry).unwrap(), Some(1));
    assert_eq!(table.keys(), [entry.peer_key(UDP)]);
}

/// Its target was unhealthy when the sweep began.
#[test]
fn a_flow_goes_on_whose_target_has_come_back() {
    for (protocol, state) in [(TCP, 0), (UDP, 0), (UDP, OPEN)] {
        for dsr in [false, true] {
            let (key, mut entry) = flow(protocol, state, 1);
            let table = Table::with(&[(key, entry)], 1, 0);
            if dsr {
                entry.flags = FlowEntry4::DSR;
                table.change(&key, |there| there.flags = FlowEntry4::DSR);
            }
            assert!(judge().is_over(protocol, &entry, Some(table.target.get())));
            table.set_target(1, TargetEntry::KEEPS);
            assert_eq!(judge().end(&table, &key, &entry).unwrap(), None);
            table.set_target(2, TargetEntry::KEEPS);
            let entries = if dsr { 1 } else { 2 };
            assert_eq!(judge().end(&table, &key, &entry).unwrap(), Some(entries));
        }
    }
}

/// The data path has opened it anew since its entries were read.
#[test]
fn a_flow_that_was_opened_anew_goes_on() {
    let (key, entry) = flow(TCP, OPEN | State::RESET, 31);
    type Change = fn(&mut FlowEntry4);
    let changes: [Change; 3] = [
        |entry| entry.last_seen += 1,
        |entry| entry.state = 0,
        |entry| entry.generation = 2,
    ];
    for change in changes {
        let table = Table::with(&[(key, entry)], 1, TargetEntry::KEEPS);
        assert!(judge().is_over(TCP, &entry, Some(table.target.get())));
        table.change(&key, change);
        assert_eq!(judge().end(&table, &key, &entry).unwrap(), None);
        assert_eq!(table.keys().len(), 2);
    }
}

/// It does so between the last look and the removal.
#[test]
fn a_flow_that_is_opened_anew_at_that_moment_goes_on() {
    let (key, entry) = flow(TCP, OPEN | State::RESET, 31);
    let (reply_key, reply) = entry.peer(&key);
    let reopens: fn(&Table) = |table| {
        let (key, _) = flow(TCP, 0, 0);
        table.change(&key, |entry| entry.state = 0);
    };
    let answers: fn(&Table) = |table| {
        let (_, entry) = flow(TCP, 0, 0);
        table.change(&entry.peer_key(TCP), |reply| reply.state = State::REPLIED);
    };
    // (given, what changes, what is left)
    let cases = [
        (
            (key, entry),
            reopens,
            vec![(key, 0), (reply_key, reply.state)],
        ),
        (
            (key, entry),
            answers,
            vec![(key, entry.state), (reply_key, State::REPLIED)],
        ),
        (
            (reply_key, reply),
            reopens,
            vec![(key, 0), (reply_key, reply.state)],
        ),
    ];
    for (n, ((key, entry), happens, left)) in cases.into_iter().enumerate() {
        let table = Table::with(&[flow(TCP, OPEN | State::RESET, 31)], 1, TargetEntry::KEEPS);
        table.meanwhile.set(Some(happens));
        assert_eq!(judge().end(&table, &key, &entry).unwrap(), None, "{n}");
        for (key, state) in &left {
            assert_eq!(
                table.flow(key).unwrap().map(|it| it.state),
                Some(*state),
                "{n}"
            );
        }
        assert_eq!(table.keys().len(), left.len(), "{n}");
    }
}

#[test]
fn counts_that_move_are_left_alone_unless_far_off() {
    let cases = [
        ((3, 3, 3), None),
        ((3, 3, 2), Some(2)),
        ((0, 0, 5), Some(5)),
        ((2, 3, 2), None),
        ((2, 3, 11), None),
        ((2, 3, 12), Some(12)),
        ((1_000, 1_001, 1_070), None),
        ((1_000, 1_001, 1_100), Some(1_100)),
    ];
    for ((before, now, flows), right) in cases {
        assert_eq!(
            corrected(before, now, flows),
            right,
            "{before} {now} {flows}"
        );
    }
}
