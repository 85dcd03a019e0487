//! ICMP: errors about packets of a flow, and echo.

use lb_common::counters::DropReason;

use super::{
    super::{
        packet::{ICMP6, Key, Part, TCP, UDP, View, quoted, word},
        sums,
    },
    Flow, Model, Outcome, Refusal, Verdict,
    rewrite::Draft,
};

/// Bytes of an ICMP header.
const HEADER: usize = 8;

/// A packet that an error quotes, and the flow's direction that the error goes.
struct Quote {
    view: View,
    flow: Flow,
}

impl Model {
    pub(super) fn icmp(
        &mut self,
        interface: usize,
        bytes: &[u8],
        view: &View,
    ) -> Result<Outcome, Refusal> {
        let (kind, code) = kind(bytes, view)?;
        let request = if view.is_v6() { 128 } else { 8 };
        if (kind, code) == (request, 0) {
            let answered = self.owns(view.key.destination.0) && self.is_to_this_host(bytes);
            return Err(if answered {
                DropReason::EchoAnswered.into()
            } else {
                DropReason::NotOurs.into()
            });
        }
        let quote = match self.quote(bytes, view, kind, false) {
            Err(DropReason::NotOurs) => return self.report(interface, bytes, view, (kind, code)),
            quote => quote?,
        };
        if quote.flow.dsr {
            return self.wrap(interface, bytes, view, &quote.flow);
        }
        if quote.flow.local {
            return Ok(translate(bytes, view, &quote, 0).with(Verdict::Pass));
        }
        if view.hop_limit <= 1 {
            return Err(DropReason::TtlExpired.into());
        }
        let ends = (outer_source(view, &quote), quote.flow.to.destination.0);
        let way = self.way(interface, view, ends, view.ip_length());
        // An error is never answered by another.
        let way = way.map_err(|refusal| Refusal { mtu: 0, ..refusal })?;
        Ok(self.leave(translate(bytes, view, &quote, 1), way))
    }

    pub(super) fn icmp_out(&mut self, bytes: &[u8], view: &View) -> Result<Outcome, DropReason> {
        let (kind, _) = kind(bytes, view)?;
        let quote = self.quote(bytes, view, kind, true)?;
        Ok(translate(bytes, view, &quote, 0).with(Verdict::Pass))
    }

    fn quote(
        &self,
        bytes: &[u8],
        view: &View,
        kind: u8,
        egress: bool,
    ) -> Result<Quote, DropReason> {
        let is_error = if view.is_v6() {
            matches!(kind, 1..=4)
        } else {
            matches!(kind, 3 | 4 | 11 | 12)
        };
        let quoted = quoted(bytes, view).filter(|quoted| {
            is_error
                && quoted.key.source.0 == view.key.destination.0
                && matches!(quoted.key.protocol, TCP | UDP)
        });
        let view = quoted.ok_or(DropReason::NotOurs)?;
        let flow = self.peek(&view.key.reversed(), egress);
        let flow = flow.ok_or(DropReason::NotOurs)?;
        Ok(Quote { view, flow })
    }
}

/// Type and code.
fn kind(bytes: &[u8], view: &View) -> Result<(u8, u8), DropReason> {
    if view.part != Part::Whole {
        return Err(DropReason::Fragment);
    }
    if view.end - view.transport < HEADER {
        return Err(DropReason::NotOurs);
    }
    Ok((bytes[view.transport], bytes[view.transport + 1]))
}

/// The error as the flow's other side is to get it.
fn translate(bytes: &[u8], view: &View, quote: &Quote, hops: u8) -> Draft {
    let mut draft = Draft::of(bytes);
    let (inner, to) = (&quote.view, quote.flow.to.reversed());
    draft.set_ports(inner.transport, &to);
    draft.mend_transport(bytes, (inner.transport, inner.end), (&inner.key, &to));
    let addresses = (to.source.0, to.destination.0);
    draft.set_header(bytes, inner.ip, addresses, inner.hop_limit);

    let (source, destination) = (outer_source(view, quote), quote.flow.to.destination.0);
    let sum = |from, to, bytes: &[u8]| {
        let pseudo = view.is_v6().then_some((from, to, ICMP6));
        let length = view.end - view.transport;
        sums::segment(pseudo, length, &bytes[view.transport..view.end])
    };
    let before = sum(view.key.source.0, view.key.destination.0, bytes);
    draft.mend(view.transport + 2, before, |bytes| {
        sum(source, destination, bytes)
    });
    // Two ways to write a quoted checksum are two ways to write this one.
    if !draft.loose.is_empty() || word(bytes, view.transport + 2) == 0xFFFF {
        draft.loose.push(view.transport + 2);
    }
    let hop_limit = view.hop_limit - hops;
    draft.set_header(bytes, view.ip, (source, destination), hop_limit);
    draft
}

/// A router's stays; a host's that the flow hides doesn't.
fn outer_source(view: &View, quote: &Quote) -> std::net::IpAddr {
    let seen: Key = quote.view.key.reversed();
    let to = quote.flow.to.source.0;
    if to == seen.source.0 {
        view.key.source.0
    } else {
        to
    }
}
