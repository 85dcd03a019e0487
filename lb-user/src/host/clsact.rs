//! The clsact qdisc of an interface, and the filters in it. Unlike links they
//! outlive the process that made them.

use futures_util::StreamExt as _;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
};

use super::{
    HostError, Netlink,
    netlink::{is_gone, unanswered},
};

/// A filter of a clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What names it to the kernel.
    header: TcHeader,
    /// The name that its BPF program was given here, if it is one.
    pub program: Option<String>,
}

impl Filter {
    /// Whether it sees what goes out, and not what comes in.
    #[must_use]
    pub fn is_egress(&self) -> bool {
        self.header.parent.minor == TcHandle::MIN_EGRESS
    }

    /// Its place among the filters.
    #[must_use]
    pub fn priority(&self) -> u16 {
        (self.header.info >> 16) as u16
    }

    /// What names it among those of its priority: major and minor number.
    #[must_use]
    pub fn handle(&self) -> (u16, u16) {
        let TcHandle { major, minor } = self.header.handle;
        (major, minor)
    }
}

impl Netlink {
    /// The filters in an interface's clsact qdisc; `None` if it has none.
    ///
    /// # Errors
    /// If the kernel doesn't answer.
    pub async fn clsact(&self, index: u32) -> Result<Option<Vec<Filter>>, HostError> {
        let index = index.cast_signed();
        let qdiscs = self.dump(|| self.routes.qdisc().get().index(index).execute());
        let qdiscs: Vec<TcMessage> = match qdiscs.await {
            // A kernel without traffic control has no qdisc.
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EOPNOTSUPP => {
                return Ok(None);
            }
            qdiscs => qdiscs.map_err(unanswered("qdiscs"))?,
        };
        let is_clsact = |qdisc: &TcMessage| {
            let kind = TcAttribute::Kind("clsact".to_owned());
            qdisc.header.index == index && qdisc.attributes.contains(&kind)
        };
        if !qdiscs.iter().any(is_clsact) {
            return Ok(None);
        }
        let get = || self.routes.traffic_filter(index).get();
        let ingress = self.dump(|| get().ingress().execute()).await;
        let egress = self.dump(|| get().egress().execute()).await;
        let mut filters = ingress.map_err(unanswered("filters"))?;
        filters.extend(egress.map_err(unanswered("filters"))?);
        // A classifier with filters is told once for itself, too.
        let is_one = |message: &TcMessage| message.header.handle != TcHandle::default();
        let filters = filters.into_iter().filter(is_one).map(filter).collect();
        Ok(Some(filters))
    }

    /// Removes a filter.
    ///
    /// # Errors
    /// If the kernel refuses. One that is gone is no error.
    pub async fn remove_filter(&self, filter: Filter) -> Result<(), HostError> {
        let mut message = TcMessage::default();
        message.header = filter.header;
        message.attributes = vec![TcAttribute::Kind("bpf".to_owned())];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelTrafficFilter(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut answers = self
            .routes
            .clone()
            .request(request)
            .map_err(HostError::Filter)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
                && !is_gone(error.raw_code())
            {
                return Err(HostError::Filter(rtnetlink::Error::NetlinkError(error)));
            }
        }
        Ok(())
    }

    /// Removes the clsact qdisc of an interface, unless there are filters in it.
    ///
    /// # Errors
    /// If the kernel refuses. An interface that is gone, or has none, is no
    /// error.
    pub async fn remove_empty_clsact(&self, index: u32) -> Result<(), HostError> {
        if self.clsact(index).await? != Some(Vec::new()) {
            return Ok(());
        }
        let mut request = self.routes.qdisc().del(index.cast_signed());
        let header = &mut request.message_mut().header;
        header.parent = TcHandle::CLSACT;
        // By convention the clsact qdisc's handle is its parent's major number.
        header.handle = TcHandle {
            major: TcHandle::CLSACT.major,
            minor: 0,
        };
        match request.execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if is_gone(error.raw_code()) => Ok(()),
            removed => removed.map_err(HostError::Qdisc),
        }
    }
}

fn filter(message: TcMessage) -> Filter {
    let options = message.attributes.into_iter().find_map(|attribute| {
        let TcAttribute::Options(options) = attribute else {
            return None;
        };
        Some(options)
    });
    let mut options = options.into_iter().flatten();
    let program = options.find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name),
        _ => None,
    });
    Filter {
        header: message.header,
        program,
    }
}
