//! What is said of a captured frame, in one line.

use lb_common::{
    Ipv4,
    capture::{EGRESS, Head, NONE, Verdict},
    counters::DropReason,
    flow::FlowEntry,
};

use super::CaptureNames;

/// Which of a packet's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Before,
    After,
}

impl Stage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// As `after; ingress eth0; transmit by eth0; listener web; target 10.0.2.21:8080
/// of api; to the target`.
pub(super) fn comment(head: &Head, stage: Stage, names: &CaptureNames) -> String {
    let hook = match head.hook {
        EGRESS => "egress",
        _ => "ingress",
    };
    let mut text = format!(
        "{}; {hook} {}; {}",
        stage.name(),
        names.interface(head.interface),
        verdict(head, names)
    );
    let mut add = |words: String| text += &format!("; {words}");
    if head.listener != NONE {
        let listener = names.names.listeners.get(&head.listener);
        add(format!(
            "listener {}",
            listener.map_or("gone", String::as_str)
        ));
    }
    if head.generation != 0 {
        match names.names.targets.get(&(head.target, head.generation)) {
            Some(target) => add(format!("target {target} of {}", target.group)),
            None => add("target gone".to_owned()),
        }
        let is_reply = head.flags & u32::from(FlowEntry::<Ipv4>::REPLY) != 0;
        add(if is_reply {
            "to the client"
        } else {
            "to the target"
        }
        .to_owned());
    }
    text
}

fn verdict(head: &Head, names: &CaptureNames) -> String {
    let verdict = Verdict::from_wire(head.verdict);
    let reason = DropReason::ALL.get(head.reason as usize);
    let mut text = verdict.name().to_owned();
    if head.out != 0 {
        text += &format!(" by {}", names.interface(head.out));
    }
    match (verdict, reason) {
        (_, None) => {}
        (Verdict::Drop, Some(reason)) => text += &format!(": {}", reason.name()),
        (Verdict::Pass, Some(reason)) if !reason.is_drop() => {
            text += &format!(" as it came: {}", reason.name());
        }
        (_, Some(reason)) => text += &format!(", an answer: {}", reason.name()),
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::IpAddr};

    use crate::{api::Names, reconcile::TargetKey};

    use super::*;

    #[test]
    fn a_frame_is_described() {
        let target = TargetKey {
            group: "api".to_owned(),
            address: Some(IpAddr::from([10, 0, 2, 21])),
            port: 8080,
        };
        let names = CaptureNames {
            names: Names {
                listeners: HashMap::from([(3, "web".to_owned())]),
                targets: HashMap::from([((7, 2), target)]),
            },
            interfaces: HashMap::from([(1, "eth0".to_owned())]),
        };
        let flow = Head {
            interface: 1,
            reason: NONE,
            listener: 3,
            target: 7,
            generation: 2,
            ..Head::default()
        };
        let none = Head {
            listener: NONE,
            generation: 0,
            ..flow
        };
        for (head, stage, text) in [
            (
                Head {
                    verdict: Verdict::Redirect as u32,
                    out: 9,
                    ..flow
                },
                Stage::After,
                "after; ingress eth0; redirect by interface 9; listener web; target \
                 10.0.2.21:8080 of api; to the target",
            ),
            (
                Head {
                    hook: EGRESS,
                    out: 1,
                    flags: 1,
                    generation: 1,
                    listener: 8,
                    ..flow
                },
                Stage::Before,
                "before; egress eth0; pass by eth0; listener gone; target gone; to the client",
            ),
            (
                Head {
                    verdict: Verdict::Drop as u32,
                    reason: DropReason::Denied as u32,
                    generation: 0,
                    ..flow
                },
                Stage::Before,
                "before; ingress eth0; drop: denied; listener web",
            ),
            (
                Head {
                    reason: DropReason::NotOurs as u32,
                    ..none
                },
                Stage::Before,
                "before; ingress eth0; pass as it came: not_ours",
            ),
            (
                Head {
                    verdict: Verdict::Transmit as u32,
                    out: 1,
                    reason: DropReason::EchoAnswered as u32,
                    ..none
                },
                Stage::After,
                "after; ingress eth0; transmit by eth0, an answer: echo_answered",
            ),
        ] {
            assert_eq!(comment(&head, stage, &names), text);
        }
    }
}
