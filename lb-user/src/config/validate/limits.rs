//! What a listener admits.

use crate::{
    address::Family,
    config::{
        Limits,
        diagnostic::Diagnostic,
        reader::{At, Section},
    },
};

pub(super) fn limits(section: &Section<'_>) -> Option<Limits> {
    let per_source = "max_new_flows_per_source";
    let number = |key, range| section.number(key, range);
    let rate = |key| number(key, 1..=u32::MAX).map(|rate| rate.value);
    let (new_flows, new_flows_per_source) = (rate("max_new_flows"), rate(per_source));
    let prefix = |key, family: Family, default| {
        let Some(At { value, span }) = number(key, 1..=family.bits().into()) else {
            return default;
        };
        if section.place(per_source).is_none() {
            let message = format!("`{key}` goes with `{per_source}` only");
            section.report(Diagnostic::error(span, message));
        }
        value as u8
    };
    let limits = Limits {
        new_flows,
        new_flows_per_source,
        source_prefix_v4: prefix("source_prefix_v4", Family::V4, 32),
        source_prefix_v6: prefix("source_prefix_v6", Family::V6, 64),
    };
    (new_flows.is_some() || new_flows_per_source.is_some()).then_some(limits)
}
