//! TCP state, followed just far enough to time a flow out right.

/// The flags byte of a TCP header (RFC 9293, section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags(pub u8);

impl Flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    #[inline(always)]
    pub const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    /// Whether the segment asks for a new connection.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the client to the target.
    Forward,
    /// From the target to the client.
    Reply,
}

/// What has been seen of a flow: a set of bits, kept in both of its entries.
/// UDP flows use only [`State::REPLIED`] and [`State::CONFIRMED`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct State(pub u8);

impl State {
    /// The target has answered.
    pub const REPLIED: u8 = 0x01;
    /// The client has answered the answer: both sides are real.
    pub const CONFIRMED: u8 = 0x02;
    pub const FORWARD_FIN: u8 = 0x04;
    pub const REPLY_FIN: u8 = 0x08;
    pub const RESET: u8 = 0x10;

    #[inline(always)]
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }

    #[inline(always)]
    pub const fn has_any(self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    /// The state after a packet; equal to `self` for nearly every packet of an
    /// established flow.
    ///
    /// A reply counts only if it isn't a reset, and a forward packet confirms
    /// only what was replied to, without SYN: a spoofed source can draw a
    /// SYN-ACK from a target but never answers it. A reset is believed until
    /// the connection goes on: nobody here knows the sequence numbers that
    /// would tell a real one (RFC 5961, section 3), and who was really reset
    /// answers whatever comes by another.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, direction: Direction, flags: Flags) -> Self {
        if flags.has(Flags::RST) {
            return Self(self.0 | Self::RESET);
        }
        let mut bits = self.0 & !Self::RESET;
        match direction {
            Direction::Reply => {
                bits |= Self::REPLIED;
                if flags.has(Flags::FIN) {
                    bits |= Self::REPLY_FIN;
                }
            }
            Direction::Forward => {
                if self.has(Self::REPLIED) && !flags.has(Flags::SYN) {
                    bits |= Self::CONFIRMED;
                }
                if flags.has(Flags::FIN) {
                    bits |= Self::FORWARD_FIN;
                }
            }
        }
        Self(bits)
    }

    /// As [`State::after`] for a flow whose replies go past us (`dsr`). Nothing
    /// shows that the target has answered but the client going on: two packets
    /// behind the SYN confirm the flow.
    #[inline(always)]
    #[must_use]
    pub const fn after_one_sided(self, flags: Flags) -> Self {
        if flags.has(Flags::RST) {
            return Self(self.0 | Self::RESET);
        }
        let mut bits = self.0 & !Self::RESET;
        if self.has(Self::REPLIED) && !flags.has(Flags::SYN) {
            bits |= Self::CONFIRMED;
        }
        if !flags.has(Flags::SYN) {
            bits |= Self::REPLIED;
        }
        if flags.has(Flags::FIN) {
            bits |= Self::FORWARD_FIN | Self::REPLY_FIN;
        }
        Self(bits)
    }

    /// Whether the connection is over: both sides have finished, or one reset it.
    #[inline(always)]
    pub const fn is_closed(self) -> bool {
        self.has(Self::FORWARD_FIN | Self::REPLY_FIN) || self.has(Self::RESET)
    }

    /// Whether the connection is over or nearly so: a new SYN on its 5-tuple
    /// is a new connection (RFC 9293, section 3.6.1 lets TIME-WAIT be reused).
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        self.has_any(Self::FORWARD_FIN | Self::REPLY_FIN | Self::RESET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Forward, Reply};

    fn run(steps: &[(Direction, u8)]) -> State {
        steps.iter().fold(State::default(), |state, &(way, flags)| {
            state.after(way, Flags(flags))
        })
    }

    #[test]
    fn handshake_confirms_only_with_the_clients_ack() {
        let (syn, ack) = (Flags::SYN, Flags::ACK);
        assert_eq!(run(&[(Forward, syn)]).0, 0);
        assert_eq!(run(&[(Forward, syn), (Reply, syn | ack)]).0, State::REPLIED);
        // A retransmitted SYN confirms nothing.
        assert_eq!(
            run(&[(Forward, syn), (Reply, syn | ack), (Forward, syn)]).0,
            State::REPLIED
        );
        let open = run(&[(Forward, syn), (Reply, syn | ack), (Forward, ack)]);
        assert_eq!(open.0, State::REPLIED | State::CONFIRMED);
        assert!(!open.is_closing());
    }

    #[test]
    fn one_sided_flows_are_confirmed_by_going_on() {
        let run = |flags: &[u8]| {
            flags.iter().fold(State::default(), |state, &flags| {
                state.after_one_sided(Flags(flags))
            })
        };
        let (syn, ack) = (Flags::SYN, Flags::ACK);
        assert!(!run(&[syn, syn, syn]).has(State::CONFIRMED));
        assert!(!run(&[syn, ack]).has(State::CONFIRMED));
        assert!(!run(&[ack]).has(State::CONFIRMED));
        assert!(run(&[syn, ack, ack]).has(State::CONFIRMED));
        assert!(run(&[syn, ack, ack, Flags::FIN | ack]).is_closed());
        assert!(run(&[syn, Flags::RST]).is_closed());
    }

    #[test]
    fn acks_alone_confirm_nothing() {
        assert_eq!(run(&[(Forward, Flags::ACK), (Forward, Flags::ACK)]).0, 0);
    }

    #[test]
    fn fin_and_reset_close() {
        assert!(run(&[(Forward, Flags::FIN | Flags::ACK)]).is_closing());
        assert!(run(&[(Reply, Flags::FIN | Flags::ACK)]).has(State::REPLY_FIN));
        let reset = run(&[(Reply, Flags::RST)]);
        assert!(reset.has(State::RESET) && !reset.has(State::REPLIED) && reset.is_closed());
        // One that goes on was not reset.
        assert!(!reset.after(Forward, Flags(Flags::ACK)).is_closed());
        // A half-closed connection may go on for long.
        let half = run(&[(Forward, Flags::FIN | Flags::ACK)]);
        assert!(!half.is_closed() && half.after(Reply, Flags(Flags::FIN)).is_closed());
    }

    #[test]
    fn only_a_bare_syn_opens() {
        for flags in 0..=255u8 {
            let bare = flags & 0x17 == Flags::SYN;
            assert_eq!(Flags(flags).opens(), bare, "{flags:#04x}");
        }
    }
}
