//! Security groups: prefixes that are written in the configuration, or in files
//! of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::Path,
};

use lb_common::limits::{MAX_SECURITY_GROUPS, MAX_SECURITY_PREFIXES};

use super::names;
use crate::{
    address::{Family, Prefix},
    config::{
        Rule, SecurityGroup,
        diagnostic::Diagnostic,
        reader::{At, Section},
        values,
    },
};

/// Room for every prefix that fits the maps, with a comment each.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
/// Faults of one file that are worth reading.
const SHOWN: usize = 5;

/// `folder` is where the files' paths begin.
pub(super) fn security_groups(root: &Section<'_>, folder: &Path) -> Vec<At<SecurityGroup>> {
    let sections = root.sections("security_group");
    if let Some(first) = sections.get(MAX_SECURITY_GROUPS as usize) {
        let message = format!("more than {MAX_SECURITY_GROUPS} security groups");
        root.report(Diagnostic::error(first.span.clone(), message));
    }
    let mut seen = BTreeSet::new();
    let groups: Vec<_> = sections
        .into_iter()
        .map(|section| {
            let span = section.span.clone();
            let value = security_group(section, folder, &mut seen);
            At { value, span }
        })
        .collect();
    for family in Family::BOTH {
        check_count(root, &groups, family);
    }
    groups
}

fn check_count(root: &Section<'_>, groups: &[At<SecurityGroup>], family: Family) {
    let mut count = 0;
    let of_family = |(prefix, _): &&(Prefix, Rule)| Family::of(prefix.address()) == family;
    let full = groups.iter().find(|group| {
        count += group.value.rules.iter().filter(of_family).count();
        count > MAX_SECURITY_PREFIXES as usize
    });
    if let Some(group) = full {
        let message = format!(
            "more than {MAX_SECURITY_PREFIXES} {family} prefixes in all security groups together"
        );
        root.report(Diagnostic::error(group.span.clone(), message));
    }
}

fn security_group(
    section: Section<'_>,
    folder: &Path,
    seen: &mut BTreeSet<String>,
) -> SecurityGroup {
    let name = names::unique(&section, "security group", "\"office\"", seen);
    let mut rules = Rules::default();
    let mut empty = true;
    // Whoever allows some denies the others, even if the list turns out empty.
    let mut default = Rule::Allow;
    for (rule, list, file) in [
        (Rule::Allow, "allow", "allow_file"),
        (Rule::Deny, "deny", "deny_file"),
    ] {
        if section.place(list).or(section.place(file)).is_some() {
            empty = false;
            if rule == Rule::Allow {
                default = Rule::Deny;
            }
        }
        let (list, file) = (section.one_or_more(list), section.text(file));
        for text in list.into_iter().flat_map(|list| list.value) {
            if let Err(error) = rules.add(text.value, rule) {
                section.report(Diagnostic::error(text.span, error));
            }
        }
        if let Some(file) = file {
            rules.read(&section, folder, &file, rule);
        }
    }
    if empty {
        let error = Diagnostic::error(section.span.clone(), "the security group has no rules");
        section.report(error.help("write `allow = [\"10.0.0.0/8\"]`, or `deny`"));
    }
    section.finish();
    let rules = rules.finish(default);
    SecurityGroup { name, rules }
}

#[derive(Default)]
struct Rules(BTreeMap<Prefix, Rule>);

impl Rules {
    fn add(&mut self, text: &str, rule: Rule) -> Result<(), String> {
        let prefix = values::prefix(text)?;
        match self.0.insert(prefix, rule) {
            Some(other) if other != rule => Err(format!("`{prefix}` is both allowed and denied")),
            _ => Ok(()),
        }
    }

    /// Adds the prefixes of a file, one a line. What is wrong in it is said
    /// where the configuration names it.
    fn read(&mut self, section: &Section<'_>, folder: &Path, file: &At<&str>, rule: Rule) {
        let At { value: name, span } = file;
        let report =
            |message: String| section.report(Diagnostic::error(Range::clone(span), message));
        let text = match read(&folder.join(name)) {
            Ok(text) => text,
            Err(error) => return report(format!("{name}: {error}")),
        };
        let mut faults = 0;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            if let Err(error) = self.add(line, rule) {
                faults += 1;
                if faults <= SHOWN {
                    report(format!("{name}:{number}: {error}"));
                }
            }
        }
        if faults > SHOWN {
            report(format!("{name}: and {} more faults", faults - SHOWN));
        }
    }

    /// With the default for the families that have no rule for all of theirs.
    fn finish(mut self, default: Rule) -> crate::config::Rules {
        for family in Family::BOTH {
            if let Some(all) = Prefix::around(family.unspecified(), 0) {
                self.0.entry(all).or_insert(default);
            }
        }
        self.0.into_iter().collect()
    }
}

fn read(path: &Path) -> Result<String, String> {
    let unread = |error: std::io::Error| format!("could not be read: {error}");
    let bytes = fs::metadata(path).map_err(unread)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(format!(
            "too large for a list of prefixes: {bytes} bytes, at most {MAX_FILE_BYTES}"
        ));
    }
    fs::read_to_string(path).map_err(unread)
}
