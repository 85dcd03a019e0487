//! When a group fails open: `true`, `false`, `"50%"` or `{ min_healthy = 2 }`.

use lb_common::limits::MAX_TARGETS_PER_GROUP;
use toml::de::DeValue;

use crate::config::{
    FailOpen,
    diagnostic::Diagnostic,
    reader::{At, Section},
    values,
};

const KEY: &str = "fail_open";
/// Without any healthy target.
const DEFAULT: FailOpen = FailOpen::BelowCount(1);

pub(super) fn fail_open(group: &Section<'_>, targets: usize) -> FailOpen {
    let Some(value) = group.get(KEY) else {
        return DEFAULT;
    };
    let threshold = match value.get_ref() {
        DeValue::Boolean(true) => None,
        DeValue::Boolean(false) => Some(FailOpen::Never),
        DeValue::String(_) => group.text(KEY).and_then(|text| percentage(group, text)),
        DeValue::Table(_) => group
            .section(KEY)
            .and_then(|section| min_healthy(section, targets)),
        _ => {
            let wanted = "`true`, `false`, a percentage as \"50%\", or { min_healthy = 2 }";
            group.wrong_type(KEY, value, wanted);
            None
        }
    };
    threshold.unwrap_or(DEFAULT)
}

fn percentage(group: &Section<'_>, text: At<&str>) -> Option<FailOpen> {
    values::percentage(text.value)
        .map(FailOpen::BelowPercent)
        .map_err(|error| group.report(Diagnostic::error(text.span, error)))
        .ok()
}

fn min_healthy(section: Section<'_>, targets: usize) -> Option<FailOpen> {
    let key = "min_healthy";
    let count = section.number(key, 1..=MAX_TARGETS_PER_GROUP);
    match &count {
        None => section.missing(key, "2"),
        Some(count) if count.value as usize > targets => {
            let message = format!(
                "the group has only {targets} targets, so it always sends to all of them, \
                 healthy or not"
            );
            section.report(Diagnostic::warning(count.span.clone(), message));
        }
        Some(_) => {}
    }
    section.finish();
    count.map(|count| FailOpen::BelowCount(count.value))
}
