//! What the view shows: the last status, the one before and the course of the
//! rates, and where the reader is. No terminal here.

use std::collections::{HashMap, VecDeque};

use crate::{
    api::{ListenerStatus, Status, TargetStatus},
    cli::rates::{Rates, Sample, Since},
};

/// Points of a course that are kept.
const COURSE: usize = 120;

pub(super) struct Model {
    now: Option<Sample>,
    rows: Rows,
    courses: HashMap<Name, VecDeque<Rates>>,
    pub(super) pane: Pane,
    /// The reader's row in each pane: it stays there when rows change places.
    chosen: HashMap<Pane, Name>,
    pub(super) sort: Sort,
    /// Why the last status isn't here.
    pub(super) error: Option<String>,
    pub(super) colours: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pane {
    Listeners,
    Targets,
    Drops,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// As configured; drop reasons by their rate.
    Configured,
    NewFlows,
    Bytes,
    /// What isn't healthy first.
    Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    By(isize),
    First,
    Last,
}

/// What a row is about, which stays the same while it changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    Listener(String),
    Target(String, String),
    Drop(String),
}

/// A row's own, and its rates: none in the first status.
#[derive(Clone, Debug)]
pub(super) struct Row<T> {
    pub(super) name: Name,
    pub(super) of: T,
    pub(super) rates: Rates,
}

#[derive(Default)]
struct Rows {
    listeners: Vec<Row<ListenerStatus>>,
    targets: Vec<Row<TargetStatus>>,
    /// Packets, in all.
    drops: Vec<Row<u64>>,
}

impl Pane {
    const ALL: [Self; 3] = [Self::Listeners, Self::Targets, Self::Drops];

    fn after(self, steps: usize) -> Self {
        let place = Self::ALL.iter().position(|&it| it == self).unwrap_or(0);
        Self::ALL[(place + steps) % Self::ALL.len()]
    }
}

impl Sort {
    const ALL: [Self; 4] = [Self::Configured, Self::NewFlows, Self::Bytes, Self::Health];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Configured => "as configured",
            Self::NewFlows => "by new flows",
            Self::Bytes => "by bytes",
            Self::Health => "by health",
        }
    }
}

impl Model {
    pub(super) fn new(colours: bool) -> Self {
        Self {
            now: None,
            rows: Rows::default(),
            courses: HashMap::new(),
            pane: Pane::Targets,
            chosen: HashMap::new(),
            sort: Sort::Configured,
            error: None,
            colours,
        }
    }

    /// Takes a status that has just come.
    pub(super) fn update(&mut self, now: Sample) {
        let since = self
            .now
            .as_ref()
            .and_then(|before| Since::new(before, &now));
        self.rows = Rows::new(&now.status, since);
        if since.is_some() {
            self.follow_courses();
        }
        self.now = Some(now);
        self.error = None;
    }

    /// No status has come; what is shown gets old.
    pub(super) fn fail(&mut self, error: String) {
        self.error = Some(error);
    }

    fn follow_courses(&mut self) {
        let mut before = std::mem::take(&mut self.courses);
        let rows = &self.rows;
        let listeners = rows.listeners.iter().map(|row| (&row.name, row.rates));
        let targets = rows.targets.iter().map(|row| (&row.name, row.rates));
        let drops = rows.drops.iter().map(|row| (&row.name, row.rates));
        // What is gone is forgotten.
        self.courses = listeners
            .chain(targets)
            .chain(drops)
            .map(|(name, rates)| {
                let mut course = before.remove(name).unwrap_or_default();
                course.push_back(rates);
                if course.len() > COURSE {
                    course.pop_front();
                }
                (name.clone(), course)
            })
            .collect();
    }

    pub(super) fn status(&self) -> Option<&Status> {
        self.now.as_ref().map(|sample| &sample.status)
    }

    /// In the order that is asked for, as the others.
    pub(super) fn listeners(&self) -> Vec<&Row<ListenerStatus>> {
        most(&self.rows.listeners, |row| match self.sort {
            Sort::Configured | Sort::Health => 0.0,
            Sort::NewFlows => row.rates.new_flows,
            Sort::Bytes => row.rates.bytes(),
        })
    }

    pub(super) fn targets(&self) -> Vec<&Row<TargetStatus>> {
        most(&self.rows.targets, |row| match self.sort {
            Sort::Configured => 0.0,
            Sort::NewFlows => row.rates.new_flows,
            Sort::Bytes => row.rates.bytes(),
            Sort::Health => f64::from(row.of.health != "healthy"),
        })
    }

    /// The most frequent at present first, then those that were.
    pub(super) fn drops(&self) -> Vec<&Row<u64>> {
        let mut drops = most(&self.rows.drops, |row| row.of as f64);
        drops.sort_by(|a, b| b.rates.packets().total_cmp(&a.rates.packets()));
        drops
    }

    /// The listeners' rates together.
    pub(super) fn total(&self) -> Rates {
        self.rows.listeners.iter().map(|row| row.rates).sum()
    }

    /// A row's rates, oldest first.
    pub(super) fn course(&self, name: &Name) -> impl DoubleEndedIterator<Item = Rates> {
        self.courses.get(name).into_iter().flatten().copied()
    }

    fn names(&self, pane: Pane) -> Vec<&Name> {
        match pane {
            Pane::Listeners => self.listeners().iter().map(|row| &row.name).collect(),
            Pane::Targets => self.targets().iter().map(|row| &row.name).collect(),
            Pane::Drops => self.drops().iter().map(|row| &row.name).collect(),
        }
    }

    /// The reader's place in a pane; `None` if there is no row.
    pub(super) fn place(&self, pane: Pane) -> Option<usize> {
        let names = self.names(pane);
        let chosen = self.chosen.get(&pane);
        let place = names.iter().position(|&name| Some(name) == chosen);
        (!names.is_empty()).then(|| place.unwrap_or(0))
    }

    /// What the reader looks at.
    pub(super) fn chosen(&self) -> Option<&Name> {
        let place = self.place(self.pane)?;
        self.names(self.pane).get(place).copied()
    }

    pub(super) fn step(&mut self, step: Step) {
        let names = self.names(self.pane);
        let Some(place) = self.place(self.pane) else {
            return;
        };
        let last = names.len() - 1;
        let place = match step {
            Step::By(rows) => place.saturating_add_signed(rows).min(last),
            Step::First => 0,
            Step::Last => last,
        };
        let name = names[place].clone();
        self.chosen.insert(self.pane, name);
    }

    pub(super) fn next_pane(&mut self) {
        self.pane = self.pane.after(1);
    }

    pub(super) fn previous_pane(&mut self) {
        self.pane = self.pane.after(Pane::ALL.len() - 1);
    }

    pub(super) fn sort_otherwise(&mut self) {
        let place = Sort::ALL.iter().position(|&it| it == self.sort);
        self.sort = Sort::ALL[(place.unwrap_or(0) + 1) % Sort::ALL.len()];
    }
}

impl Rows {
    fn new(status: &Status, since: Option<Since<'_>>) -> Self {
        let listeners = status.listeners.iter().map(|listener| Row {
            name: Name::Listener(listener.name.clone()),
            rates: since.map(|it| it.listener(listener)).unwrap_or_default(),
            of: listener.clone(),
        });
        let targets = status.target_groups.iter().flat_map(|group| {
            group.targets.iter().map(move |target| Row {
                name: Name::Target(group.name.clone(), target.address.clone()),
                rates: since.map(|it| it.target(group, target)).unwrap_or_default(),
                of: target.clone(),
            })
        });
        let counted = status.drops.iter().filter(|&(_, &count)| count > 0);
        let drops = counted.map(|(reason, &count)| Row {
            name: Name::Drop(reason.clone()),
            rates: Rates {
                packets_in: since.map_or(0.0, |it| it.drops(reason, count)),
                ..Rates::default()
            },
            of: count,
        });
        Self {
            listeners: listeners.collect(),
            targets: targets.collect(),
            drops: drops.collect(),
        }
    }
}

/// The rows with the most of something first, those with as much in the
/// configured order.
fn most<T>(rows: &[Row<T>], value: impl Fn(&Row<T>) -> f64) -> Vec<&Row<T>> {
    let mut rows: Vec<&Row<T>> = rows.iter().collect();
    rows.sort_by(|a, b| value(b).total_cmp(&value(a)));
    rows
}
