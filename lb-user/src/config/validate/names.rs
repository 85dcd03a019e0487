//! Names that groups have, and that listeners call them by.

use std::collections::{BTreeSet, HashMap};

use crate::config::{
    diagnostic::Diagnostic,
    reader::{At, Section, nearest},
};

/// The name of a `kind` of thing, which no other of its kind may have.
pub(super) fn unique(
    section: &Section<'_>,
    kind: &str,
    example: &str,
    names: &mut BTreeSet<String>,
) -> String {
    let Some(name) = section.text("name") else {
        section.missing("name", example);
        return String::new();
    };
    if name.value.is_empty() {
        let message = format!("a {kind}'s name can't be empty");
        section.report(Diagnostic::error(name.span, message));
    } else if !names.insert(name.value.to_owned()) {
        let message = format!("there is another {kind} `{}`", name.value);
        section.report(Diagnostic::error(name.span, message));
    }
    name.value.to_owned()
}

/// Where things of one kind stand in their list, by name.
pub(super) struct Known<'a> {
    /// As in `[[kind]]`.
    kind: &'static str,
    indices: HashMap<&'a str, usize>,
}

impl<'a> Known<'a> {
    pub(super) fn new(kind: &'static str, names: impl Iterator<Item = &'a str>) -> Self {
        let indices = names.enumerate().map(|(index, name)| (name, index));
        Self {
            kind,
            indices: indices.collect(),
        }
    }

    /// The index of what a text names; a name of nothing is reported.
    pub(super) fn find(&self, section: &Section<'_>, text: At<&str>) -> Option<usize> {
        let name = text.value;
        let found = self.indices.get(name).copied();
        if found.is_none() {
            let kind = self.kind;
            let message = format!("there is no {} `{name}`", kind.replace('_', " "));
            let error = Diagnostic::error(text.span, message);
            section.report(match nearest(name, self.indices.keys().copied()) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help(format!("write [[{kind}]] with name = \"{name}\"")),
            });
        }
        found
    }
}
