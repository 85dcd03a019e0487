//! Reading a TOML table key by key: wrong types and unknown keys become
//! diagnostics, and reading goes on.

use std::{cell::RefCell, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Alternatives, diagnostic::Diagnostic};

/// A value with the place where it stands.
#[derive(Clone, Debug)]
pub(in crate::config) struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// Where diagnostics are collected.
pub(in crate::config) type Sink = RefCell<Vec<Diagnostic>>;

/// A table, and which of its keys have been asked for.
pub(in crate::config) struct Section<'a> {
    table: &'a DeTable<'a>,
    /// Of the whole table, for what is missing in it.
    pub span: Range<usize>,
    sink: &'a Sink,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(in crate::config) fn new(
        table: &'a DeTable<'a>,
        span: Range<usize>,
        sink: &'a Sink,
    ) -> Self {
        Self {
            table,
            span,
            sink,
            known: RefCell::new(Vec::new()),
        }
    }

    pub(in crate::config) fn is_faultless(&self) -> bool {
        self.sink.borrow().is_empty()
    }

    pub(in crate::config) fn report(&self, diagnostic: Diagnostic) {
        self.sink.borrow_mut().push(diagnostic);
    }

    /// A value of whatever type.
    pub(in crate::config) fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.borrow_mut().push(key);
        self.table
            .iter()
            .find(|(name, _)| name.get_ref() == key)
            .map(|(_, value)| value)
    }

    /// Where a key's value stands, whatever it is.
    pub(in crate::config) fn place(&self, key: &'static str) -> Option<Range<usize>> {
        self.get(key).map(Spanned::span)
    }

    pub(in crate::config) fn wrong_type(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        wanted: &str,
    ) {
        let found = value.get_ref().type_str();
        self.report(Diagnostic::error(
            value.span(),
            format!("`{key}` must be {wanted}, and this is of type {found}"),
        ));
    }

    /// Reports that a required key isn't there. One of a wrong type is there,
    /// and has been reported.
    pub(in crate::config) fn missing(&self, key: &str, example: &str) {
        if self.table.iter().any(|(name, _)| name.get_ref() == key) {
            return;
        }
        self.report(
            Diagnostic::error(self.span.clone(), format!("`{key}` is missing"))
                .help(format!("write `{key} = {example}`")),
        );
    }

    pub(in crate::config) fn text(&self, key: &'static str) -> Option<At<&'a str>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(At {
                value: text,
                span: value.span(),
            }),
            _ => {
                self.wrong_type(key, value, "a text in quotes");
                None
            }
        }
    }

    pub(in crate::config) fn boolean(&self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        if value.get_ref().as_bool().is_none() {
            self.wrong_type(key, value, "`true` or `false`");
        }
        value.get_ref().as_bool()
    }

    /// A whole number from `range`; out of it is reported.
    pub(in crate::config) fn number(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<At<u32>> {
        let value = self.get(key)?;
        number(value, key, range)
            .map_err(|diagnostic| self.report(diagnostic))
            .ok()
    }

    /// One of `words`, as its index.
    pub(in crate::config) fn word(&self, key: &'static str, words: &[&str]) -> Option<usize> {
        let text = self.text(key)?;
        let found = words.iter().position(|word| *word == text.value);
        if found.is_none() {
            let message = format!("`{key}` can't be `{}`", text.value);
            let help = format!("it is {}", Alternatives(words));
            self.report(Diagnostic::error(text.span, message).help(help));
        }
        found
    }

    /// A text or a list of texts, as a list; anything else is reported.
    pub(in crate::config) fn one_or_more(&self, key: &'static str) -> Option<At<Vec<At<&'a str>>>> {
        let value = self.get(key)?;
        let value_span = value.span();
        let values: Vec<&Spanned<DeValue<'a>>> = match value.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            DeValue::String(_) => vec![value],
            _ => {
                self.wrong_type(key, value, "a text in quotes, or a list of them");
                return None;
            }
        };
        let mut texts = Vec::new();
        for value in values {
            match value.get_ref() {
                DeValue::String(text) => texts.push(At {
                    value: text.as_ref(),
                    span: value.span(),
                }),
                _ => self.wrong_type(key, value, "a list of texts in quotes"),
            }
        }
        Some(At {
            value: texts,
            span: value_span,
        })
    }

    /// The values of a list; `None` if the key isn't there or no list.
    pub(in crate::config) fn list(
        &self,
        key: &'static str,
    ) -> Option<At<Vec<&'a Spanned<DeValue<'a>>>>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Array(array) => Some(At {
                value: array.iter().collect(),
                span: value.span(),
            }),
            _ => {
                self.wrong_type(key, value, "a list in brackets");
                None
            }
        }
    }

    /// A table below this one; an empty one if it isn't there.
    pub(in crate::config) fn section(&self, key: &'static str) -> Option<Section<'a>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Section::new(table, value.span(), self.sink)),
            _ => {
                self.wrong_type(key, value, "a table");
                None
            }
        }
    }

    /// The tables of an array of tables (`[[key]]`).
    pub(in crate::config) fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(key, value, &format!("written as [[{key}]]"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for value in array.iter() {
            match value.get_ref() {
                DeValue::Table(table) => {
                    sections.push(Section::new(table, value.span(), self.sink));
                }
                _ => self.wrong_type(key, value, &format!("written as [[{key}]]")),
            }
        }
        sections
    }

    /// Reports the keys that nobody has asked for.
    pub(in crate::config) fn finish(self) {
        let known = self.known.borrow();
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let error = Diagnostic::error(key.span(), format!("unknown key `{name}`"));
            self.report(match nearest(name, known.iter().copied()) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help(format!("known here: {}", known.join(", "))),
            });
        }
    }
}

/// A whole number from `range`.
pub(in crate::config) fn number(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    range: std::ops::RangeInclusive<u32>,
) -> Result<At<u32>, Diagnostic> {
    let wrong = |found: &str| {
        let (first, last) = (range.start(), range.end());
        let message = format!("`{key}` must be a whole number from {first} to {last}, not {found}");
        Diagnostic::error(value.span(), message)
    };
    let DeValue::Integer(integer) = value.get_ref() else {
        return Err(wrong(&format!("of type {}", value.get_ref().type_str())));
    };
    match u32::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(number) if range.contains(&number) => Ok(At {
            value: number,
            span: value.span(),
        }),
        _ => Err(wrong(integer.as_str())),
    }
}

/// The likeliest of `names` that was meant by `name`.
pub(in crate::config) fn nearest<'n>(
    name: &str,
    names: impl Iterator<Item = &'n str>,
) -> Option<&'n str> {
    /// Jaro-Winkler: below this a suggestion is more of a guess.
    const LIKELY: f64 = 0.8;
    names
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|&(likeness, _)| likeness >= LIKELY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
