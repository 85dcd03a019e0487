//! Counters: per listener, per target, and one per drop reason.

/// Traffic of a listener or a target on one CPU. Bytes are IP bytes (header
/// included, link layer not), counted as the packet arrives.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// From clients.
    pub forward_packets: u64,
    pub forward_bytes: u64,
    /// From targets.
    pub reply_packets: u64,
    pub reply_bytes: u64,
    pub new_flows: u64,
}

impl core::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.forward_packets += other.forward_packets;
        self.forward_bytes += other.forward_bytes;
        self.reply_packets += other.reply_packets;
        self.reply_bytes += other.reply_bytes;
        self.new_flows += other.new_flows;
    }
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal, $dropped:literal;)+ }) => {
        $(#[$doc])*
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The one with this number; [`Self::Internal`] if there is none.
            #[inline(always)]
            pub const fn from_number(number: u32) -> Self {
                match number {
                    $(_ if number == Self::$variant as u32 => Self::$variant,)+
                    _ => Self::Internal,
                }
            }

            /// The name in metrics, in JSON and on the screen.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Whether the packet was dropped; else it was passed to the
            /// kernel as it came.
            pub const fn is_drop(self) -> bool {
                match self { $(Self::$variant => $dropped),+ }
            }
        }
    };
}

reasons! {
    /// Why the data path dropped a packet, or passed it to the kernel without
    /// balancing it. The discriminant indexes the counter array.
    DropReason {
        /// No listener has the packet's destination, and no flow its 5-tuple.
        NotOurs = "not_ours", false;
        /// The Ethernet type, after at most two VLAN tags, is not IP's.
        NotIp = "not_ip", false;
        /// The frame ends before its Ethernet, VLAN, IP or TCP/UDP header does.
        Truncated = "truncated", false;
        /// IP version and Ethernet type disagree, or IHL is below 5.
        BadIpHeader = "bad_ip_header", false;
        /// Total length is below the headers' or beyond the frame's end.
        BadTotalLength = "bad_total_length", false;
        /// Neither TCP, UDP nor an ICMP error of a flow.
        OtherProtocol = "other_protocol", false;
        /// A later IP fragment without ports, whose first has not been seen or
        /// was not ours.
        Fragment = "fragment", false;
        /// IPv6 extension headers that xlb doesn't know, or too many of them.
        ExtensionHeaders = "extension_headers", false;
        /// TCP's data offset is below 5 or beyond the packet's end.
        BadTcpHeader = "bad_tcp_header", false;
        /// UDP's length is below 8 or beyond the packet's end.
        BadUdpLength = "bad_udp_length", false;
        /// A later fragment to an address of xlb's own came before its first.
        FragmentOrder = "fragment_out_of_order", true;
        /// The listener's security group doesn't allow the source.
        Denied = "denied", true;
        /// All flows are being moved to other maps, and none begins meanwhile.
        Paused = "paused", true;
        /// The listener has had its new flows for this second.
        NewFlowLimit = "new_flow_limit", true;
        /// The source's prefix has had its new flows for this second.
        SourceLimit = "source_limit", true;
        /// Every target that was tried has as many flows as it may.
        TargetLimit = "target_limit", true;
        /// Of a flow that was idle for too long or has lost its target: who sent
        /// it by an interface got a RST.
        FlowReset = "flow_reset", true;
        /// An echo request to an address of xlb's own: it was answered.
        EchoAnswered = "echo_answered", true;
        /// The listener's group has no target that takes new flows.
        NoTarget = "no_target", true;
        /// Every source port that was tried for this target is taken.
        PortAllocation = "port_allocation_error", true;
        /// Another flow's replies already have this 5-tuple.
        FlowCollision = "flow_collision", true;
        /// The flow table took no entry.
        FlowTableFull = "flow_table_full", true;
        /// The time to live is used up, and this host would route the packet.
        TtlExpired = "ttl_expired", true;
        /// The host has no route to the next hop, or one that forbids it.
        NoRoute = "no_route", true;
        /// `ip_forward` is off on the interface that the packet came in by.
        ForwardingDisabled = "forwarding_disabled", true;
        /// The packet is larger than the MTU of the way out: the sender is told,
        /// unless too many are told already.
        TooBig = "too_big", true;
        /// The driver has no room for the note to the tc program, which would
        /// have sent the packet where XDP can't.
        NoMetadata = "no_metadata", true;
        /// The driver has no room for an outer header in front of frames.
        NoHeadroom = "no_headroom", true;
        /// A helper that can't fail failed: a bug, please report it.
        Internal = "internal_error", true;
    }
}

crate::map_value!(Traffic);
