//! What packets to capture, in words much like tcpdump's:
//! `tcp port 443 and host 203.0.113.0/24 and dropped`.

use std::net::IpAddr;

use lb_common::{
    capture::{self, Capture, DESTINATION, HOSTS, Host, PORTS, Port, SOURCE, TARGETS, Verdict},
    counters::DropReason,
    flow::{TCP, UDP},
    wire::wide,
};

use crate::{
    address::Prefix,
    api::Names,
    config::prefix,
    registry::{FindError, TargetName},
};

/// A filter: terms that all have to hold.
#[derive(Clone, Debug, Default)]
pub struct Filter(Vec<Term>);

#[derive(Clone, Debug)]
enum Term {
    All,
    /// As an IP header has it; IPv4's ICMP stands for both.
    Protocol(u8),
    Host(u32, Prefix),
    Port(u32, u16),
    Listener(String),
    Target(TargetName),
    Verdict(Verdict),
    Reason(DropReason),
}

/// What is wrong with a filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error(
        "`{0}` is no word of a filter: there are tcp, udp, icmp, [src|dst] host ADDRESS, [src|dst] \
         port PORT, listener NAME, target ADDRESS:PORT, verdict VERDICT, dropped, reason REASON \
         and all, with `and` between"
    )]
    Word(String),
    #[error("`{0}` isn't understood: all terms of a filter have to hold, with `and` between")]
    Operator(String),
    #[error("`{word}` needs {what} behind it")]
    Incomplete { word: String, what: &'static str },
    #[error("{0}")]
    Host(String),
    #[error("`{0}` is no port: a number up to 65535")]
    Port(String),
    #[error("`{0}` is no verdict: there are pass, drop, transmit, redirect and handoff")]
    Verdict(String),
    #[error("`{0}` is no reason: `xlb status` and the manual name those that there are")]
    Reason(String),
    #[error("no packet can be both: {0}")]
    Contradiction(&'static str),
    #[error("a filter has at most {most} terms about {what}")]
    TooMany { most: usize, what: &'static str },
    #[error("there is no listener `{0}`: `xlb status` shows all of them")]
    NoListener(String),
    #[error(transparent)]
    NoTarget(#[from] FindError),
    #[error("`target {0}` is in more than {TARGETS} target groups")]
    ManyTargets(String),
}

const PROTOCOLS: [(&str, u8); 3] = [("tcp", TCP), ("udp", UDP), ("icmp", 1)];

impl Filter {
    /// Reads a filter. Without a word it admits every packet that xlb does
    /// something about.
    ///
    /// # Errors
    /// If it makes no sense, whatever listeners and targets there are.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut words = text.split_whitespace().peekable();
        let mut terms = Vec::new();
        while let Some(word) = words.next() {
            let term = term(word, &mut words)?;
            let is_protocol = matches!(term, Term::Protocol(_));
            terms.push(term);
            match words.peek().copied() {
                Some("and" | "&&") => {
                    words.next();
                    if words.peek().is_none() {
                        return Err(incomplete("and", "a term"));
                    }
                }
                // As tcpdump's `tcp port 80`.
                Some("or" | "||" | "not" | "!") | None => {}
                Some(_) if is_protocol => {}
                Some(word) => return Err(FilterError::Operator(word.to_owned())),
            }
        }
        Ok(Self(terms))
    }

    /// The filter as the kernel programs are told it, of frames cut off at
    /// `snap` bytes.
    ///
    /// # Errors
    /// If there is no such listener or target, or the terms contradict each other.
    pub fn resolve(&self, names: &Names, snap: u32) -> Result<Capture, FilterError> {
        let mut capture = Capture {
            on: 1,
            snap: snap.clamp(1, capture::MAX_SNAP),
            ..Capture::OFF
        };
        for term in &self.0 {
            add(&mut capture, term, names)?;
        }
        Ok(capture)
    }
}

fn term<'a>(word: &'a str, words: &mut impl Iterator<Item = &'a str>) -> Result<Term, FilterError> {
    let mut next = |word: &str, what| words.next().ok_or_else(|| incomplete(word, what));
    if let Some((_, protocol)) = PROTOCOLS.iter().find(|(name, _)| *name == word) {
        return Ok(Term::Protocol(*protocol));
    }
    let (ends, word) = match word {
        "src" => (SOURCE, next(word, "`host` or `port`")?),
        "dst" => (DESTINATION, next(word, "`host` or `port`")?),
        _ => (SOURCE | DESTINATION, word),
    };
    Ok(match word {
        "host" | "net" => {
            let text = next(word, "an address or a prefix")?;
            Term::Host(ends, prefix(text).map_err(FilterError::Host)?)
        }
        "port" => {
            let text = next(word, "a port")?;
            let port = text.parse();
            Term::Port(ends, port.map_err(|_| FilterError::Port(text.to_owned()))?)
        }
        word if ends != SOURCE | DESTINATION => return Err(FilterError::Word(word.to_owned())),
        "listener" => Term::Listener(next(word, "a listener's name")?.to_owned()),
        "target" => Term::Target(TargetName::parse(next(word, "a target")?, None)?),
        "verdict" => Term::Verdict(verdict(next(word, "a verdict")?)?),
        "dropped" => Term::Verdict(Verdict::Drop),
        "reason" => Term::Reason(reason(next(word, "a reason")?)?),
        "all" => Term::All,
        "or" | "||" | "not" | "!" | "and" | "&&" => {
            return Err(FilterError::Operator(word.to_owned()));
        }
        _ => return Err(FilterError::Word(word.to_owned())),
    })
}

fn incomplete(word: &str, what: &'static str) -> FilterError {
    let word = word.to_owned();
    FilterError::Incomplete { word, what }
}

fn verdict(text: &str) -> Result<Verdict, FilterError> {
    let found = Verdict::ALL.into_iter().find(|it| it.name() == text);
    found.ok_or_else(|| FilterError::Verdict(text.to_owned()))
}

fn reason(text: &str) -> Result<DropReason, FilterError> {
    let found = DropReason::ALL.iter().find(|it| it.name() == text);
    let found = found.copied();
    found.ok_or_else(|| FilterError::Reason(text.to_owned()))
}

fn add(capture: &mut Capture, term: &Term, names: &Names) -> Result<(), FilterError> {
    let contradiction = FilterError::Contradiction;
    match term {
        Term::All => capture.all = 1,
        Term::Protocol(protocol) => {
            let protocol = u32::from(*protocol);
            if capture.protocol != 0 && capture.protocol != protocol {
                return Err(contradiction("it is of one protocol"));
            }
            capture.protocol = protocol;
        }
        Term::Host(ends, prefix) => {
            let free = push(&mut capture.host, &mut capture.hosts, "hosts", HOSTS)?;
            *free = host(*ends, *prefix);
        }
        Term::Port(ends, port) => {
            let free = push(&mut capture.port, &mut capture.ports, "ports", PORTS)?;
            let (port, ends) = (u32::from(*port), *ends);
            *free = Port { port, ends };
        }
        Term::Listener(name) => {
            let mut listeners = names.listeners.iter();
            let found = listeners.find(|(_, it)| *it == name);
            let (&id, _) = found.ok_or_else(|| FilterError::NoListener(name.clone()))?;
            if capture.listener != capture::NONE && capture.listener != id {
                return Err(contradiction("it is of one listener"));
            }
            capture.listener = id;
        }
        Term::Target(name) => add_target(capture, name, names)?,
        Term::Verdict(verdict) => {
            capture.verdicts &= 1 << *verdict as u32;
            if capture.verdicts == 0 {
                return Err(contradiction("it has one verdict"));
            }
        }
        Term::Reason(reason) => {
            let bit = 1 << *reason as u32;
            if capture.reasons != 0 && capture.reasons != bit {
                return Err(contradiction("it has one reason"));
            }
            capture.reasons = bit;
        }
    }
    Ok(())
}

/// The targets with this name, of any group.
fn add_target(capture: &mut Capture, name: &TargetName, names: &Names) -> Result<(), FilterError> {
    if capture.targets != 0 {
        return Err(FilterError::Contradiction("it has one target"));
    }
    let found = names.targets.iter().filter(|(_, key)| name.is(key));
    for (&(id, generation), key) in found {
        let free = capture.target.get_mut(capture.targets as usize);
        let free = free.ok_or_else(|| FilterError::ManyTargets(key.to_string()))?;
        *free = capture::Target { id, generation };
        capture.targets += 1;
    }
    match capture.targets {
        0 => Err(name.unknown().into()),
        _ => Ok(()),
    }
}

fn push<'a, T>(
    places: &'a mut [T],
    count: &mut u32,
    what: &'static str,
    most: usize,
) -> Result<&'a mut T, FilterError> {
    let free = places.get_mut(*count as usize);
    *count += 1;
    free.ok_or(FilterError::TooMany { most, what })
}

fn host(ends: u32, prefix: Prefix) -> Host {
    let address = prefix.address();
    let bits = u32::from(prefix.length());
    // What an IPv4 address leaves of the words is 0 in packets too.
    let mask = match address {
        IpAddr::V4(_) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            [mask.to_be(), u32::MAX, u32::MAX, u32::MAX]
        }
        IpAddr::V6(_) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            wide(IpAddr::V6(mask.into()))
        }
    };
    Host {
        address: wide(address),
        mask,
        family: match address {
            IpAddr::V4(_) => libc::AF_INET as u32,
            IpAddr::V6(_) => libc::AF_INET6 as u32,
        },
        ends,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::reconcile::TargetKey;

    use super::*;

    fn names() -> Names {
        let key = |group: &str| TargetKey {
            group: group.to_owned(),
            address: Some(IpAddr::from([10, 0, 2, 21])),
            port: 8080,
        };
        Names {
            listeners: HashMap::from([(3, "web".to_owned()), (4, "dns".to_owned())]),
            targets: HashMap::from([((7, 2), key("a")), ((9, 5), key("b"))]),
        }
    }

    fn resolved(text: &str) -> Result<Capture, String> {
        let filter = Filter::parse(text).map_err(|error| error.to_string())?;
        let resolved = filter.resolve(&names(), 100);
        resolved.map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_admits_all_that_is_ours() {
        let on = Capture {
            on: 1,
            snap: 100,
            ..Capture::OFF
        };
        assert_eq!(resolved(""), Ok(on));
        assert_eq!(resolved(" all "), Ok(Capture { all: 1, ..on }));
    }

    #[test]
    fn words_become_terms() {
        let text = "tcp port 443 and src host 203.0.113.0/24 && dst host 2001:db8::1 \
                    and listener web and target 10.0.2.21:8080 and dropped and reason denied";
        let capture = resolved(text).unwrap();
        assert_eq!((capture.protocol, capture.listener), (6, 3));
        let [port, ..] = capture.port;
        assert_eq!(
            (capture.ports, port.port, port.ends),
            (1, 443, SOURCE | DESTINATION)
        );
        let [v4, v6, ..] = capture.host;
        let word = |bytes| u32::from_ne_bytes(bytes);
        assert_eq!((capture.hosts, v4.ends, v6.ends), (2, SOURCE, DESTINATION));
        assert_eq!(v4.address, [word([203, 0, 113, 0]), 0, 0, 0]);
        assert_eq!(
            v4.mask,
            [word([255, 255, 255, 0]), u32::MAX, u32::MAX, u32::MAX]
        );
        assert_eq!(
            v6.address,
            [word([0x20, 1, 0x0D, 0xB8]), 0, 0, word([0, 0, 0, 1])]
        );
        assert_eq!((v6.mask, v6.family), ([u32::MAX; 4], 10));
        let mut targets = capture.target[..capture.targets as usize].to_vec();
        targets.sort_by_key(|it| it.id);
        let target = |id, generation| capture::Target { id, generation };
        assert_eq!(targets, [target(7, 2), target(9, 5)]);
        assert_eq!(capture.verdicts, 1 << Verdict::Drop as u32);
        assert_eq!(capture.reasons, 1 << DropReason::Denied as u32);
        assert_eq!(resolved("host ::/0").unwrap().host[0].mask, [0; 4]);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (text, words) in [
            ("tpc", "`tpc` is no word of a filter"),
            ("tcp or udp", "`or` isn't understood"),
            ("not tcp", "`not` isn't understood"),
            ("port 80 host 10.0.0.1", "`host` isn't understood"),
            ("port", "`port` needs a port behind it"),
            ("port 65536", "`65536` is no port"),
            ("src", "`src` needs `host` or `port` behind it"),
            ("src listener web", "`listener` is no word"),
            ("host 10.0.0", "10.0.0"),
            ("host 10.0.0.1/33", "10.0.0.1/33"),
            ("port 80 and", "`and` needs a term behind it"),
            ("and port 80", "`and` isn't understood"),
            ("tcp and udp", "it is of one protocol"),
            ("dropped and verdict pass", "it has one verdict"),
            ("verdict lost", "`lost` is no verdict"),
            ("reason because", "`because` is no reason"),
            ("reason denied and reason no_target", "it has one reason"),
            ("listener web and listener dns", "it is of one listener"),
            ("listener mail", "no listener `mail`"),
            ("target 10.0.2.22:8080", "10.0.2.22:8080"),
            ("target 10.0.2.21", "10.0.2.21"),
            (
                "port 1 and port 2 and port 3 and port 4 and port 5",
                "at most 4 terms about ports",
            ),
        ] {
            let said = resolved(text).expect_err(text);
            assert!(said.contains(words), "{text}: {said}");
        }
    }
}
