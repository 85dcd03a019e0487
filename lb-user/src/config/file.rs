//! A configuration file of an agent: read at the start, and again at a reload.

use std::{ops::Range, path::PathBuf};

use toml::{Spanned, de::DeTable};

use super::{
    Admin, Config, Diagnostics, Error, Parsed, TargetGroup, TcMode, XdpMode,
    diagnostic::Diagnostic, parse, read_text,
};

/// What the command line says in the configuration's stead.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides {
    pub xdp_mode: Option<XdpMode>,
    pub tc_mode: Option<TcMode>,
    pub admin: Option<Admin>,
}

impl Overrides {
    pub fn apply(self, config: &mut Config) {
        config.xdp_mode = self.xdp_mode.unwrap_or(config.xdp_mode);
        config.tc_mode = self.tc_mode.unwrap_or(config.tc_mode);
        config.admin = self.admin.or(config.admin);
    }
}

/// The file that an agent was started with.
#[derive(Clone, Debug)]
pub struct File {
    pub path: PathBuf,
    pub overrides: Overrides,
}

impl File {
    /// Reads it again, for an agent that runs with `running`.
    ///
    /// # Errors
    /// If it is no configuration, or changes what can't change while xlb runs.
    pub fn reload(&self, running: &Config) -> Result<Parsed, Error> {
        let text = read_text(&self.path)?;
        self.parse(&text, running).map_err(Error::Invalid)
    }

    fn parse(&self, text: &str, running: &Config) -> Result<Parsed, Diagnostics> {
        let file = self.path.display().to_string();
        let mut parsed = parse(text, &file)?;
        self.overrides.apply(&mut parsed.config);
        let faults = fixed(text, running, &parsed.config);
        if faults.is_empty() {
            Ok(parsed)
        } else {
            Err(Diagnostics::new(&file, text, faults))
        }
    }
}

/// The settings that maps and attachments were made with, where `new` has
/// others.
fn fixed(text: &str, running: &Config, new: &Config) -> Vec<Diagnostic> {
    let (root, _) = DeTable::parse_recoverable(text);
    let (before, after) = (&running.capacity, &new.capacity);
    let settings = [
        ("interface", running.interfaces != new.interfaces),
        ("xdp_mode", running.xdp_mode != new.xdp_mode),
        ("tc_mode", running.tc_mode != new.tc_mode),
        ("admin", running.admin != new.admin),
        ("capacity.listeners", before.listeners != after.listeners),
        ("capacity.targets", before.targets != after.targets),
        ("capacity.flows", before.flows != after.flows),
        (
            "capacity.half_open_flows",
            before.half_open_flows != after.half_open_flows,
        ),
    ];
    let changed = settings.iter().filter(|(_, changed)| *changed);
    let changed = changed.map(|(setting, _)| {
        let place = place(&root, setting).unwrap_or(0..0);
        let message = format!("`{setting}` can't change while xlb runs");
        Diagnostic::error(place, message).help("restart xlb, or set it back")
    });
    changed.chain(forwarding(&root, running, new)).collect()
}

/// Groups that go over from `nat` to `dsr` or back: their flows were begun to be
/// forwarded in one way and can't go on in the other.
fn forwarding(
    root: &Spanned<DeTable<'_>>,
    running: &Config,
    new: &Config,
) -> impl Iterator<Item = Diagnostic> {
    let mode = |group: &TargetGroup| group.forwarding.mode();
    let changed = new.target_groups.iter().filter(move |group| {
        let mut before = running.target_groups.iter();
        before.any(|before| before.name == group.name && mode(before) != mode(group))
    });
    changed.map(|group| {
        let name = &group.name;
        let place = place_of_group(root, name).unwrap_or(0..0);
        let message = format!("`forwarding` of target group `{name}` can't change while xlb runs");
        Diagnostic::error(place, message).help("give the group another name, or restart xlb")
    })
}

/// Where a group's `forwarding` is, or else the group.
fn place_of_group(root: &Spanned<DeTable<'_>>, name: &str) -> Option<Range<usize>> {
    let groups = root.get_ref().get("target_group")?.get_ref().as_array()?;
    groups.iter().find_map(|group| {
        let table = group.get_ref().as_table()?;
        let is_it = table.get("name")?.get_ref().as_str()? == name;
        let forwarding = table.get("forwarding").map(Spanned::span);
        is_it.then(|| forwarding.unwrap_or(group.span()))
    })
}

/// Where the setting is, or else the table that it is missing from.
fn place(root: &Spanned<DeTable<'_>>, setting: &str) -> Option<Range<usize>> {
    let mut table = root.get_ref();
    let mut place = None;
    for key in setting.split('.') {
        let Some(value) = table.get(key) else { break };
        place = Some(value.span());
        match value.get_ref().as_table() {
            Some(below) => table = below,
            None => break,
        }
    }
    place
}

#[cfg(test)]
mod tests;
