//! Rounds: in each, every case of every measurement once.

use std::fmt;

use anyhow::{Context as _, Result};
use xlb_tests::interrupt;

use super::{measurement::Measurement, rig::Case, rows::Samples};

/// How often a measurement may fail before no other round is begun. What fails
/// is the rig now and then, on a machine that does other things too.
const ATTEMPTS: u32 = 3;

/// A measurement, of some of its cases.
pub struct Chosen {
    pub measurement: &'static Measurement,
    pub cases: Vec<Case>,
}

/// What complete rounds gave.
pub struct Rounds {
    /// Of each measurement.
    pub samples: Vec<Samples>,
    pub complete: u32,
    /// Measurements in them, and how often one was made again.
    pub measurements: u32,
    pub repeats: u32,
    /// Why there aren't as many rounds as there were to be.
    pub failure: Option<anyhow::Error>,
}

/// In a round, of each measurement, of each case, the values.
type Round = Vec<Vec<Vec<f64>>>;

impl Rounds {
    /// Measures, until it is through or one measurement fails too often.
    pub fn run(
        chosen: &[Chosen],
        rounds: u32,
        run: impl Fn(&Measurement, Case) -> Result<Vec<f64>>,
    ) -> Self {
        let none = |it: &Chosen| vec![Vec::new(); it.cases.len()];
        let mut found = Self {
            samples: chosen.iter().map(none).collect(),
            complete: 0,
            measurements: 0,
            repeats: 0,
            failure: None,
        };
        for number in 1..=rounds {
            let mut repeats = 0;
            match round(chosen, &run, &mut repeats) {
                Ok(round) => found.add(round, repeats),
                Err(error) => {
                    found.failure = Some(error);
                    break;
                }
            }
            eprintln!("round {number} of {rounds}");
        }
        found
    }

    fn add(&mut self, round: Round, repeats: u32) {
        self.complete += 1;
        self.repeats += repeats;
        for (samples, cases) in self.samples.iter_mut().zip(round) {
            for (samples, values) in samples.iter_mut().zip(cases) {
                samples.push(values);
                self.measurements += 1;
            }
        }
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            complete,
            measurements,
            repeats,
            ..
        } = self;
        write!(
            f,
            "{complete} rounds of {measurements} measurements in all, {repeats} made again"
        )
    }
}

fn round(
    chosen: &[Chosen],
    run: impl Fn(&Measurement, Case) -> Result<Vec<f64>>,
    repeats: &mut u32,
) -> Result<Round> {
    let mut round = Vec::new();
    for Chosen { measurement, cases } in chosen {
        let mut values = Vec::new();
        for case in cases {
            let what = || format!("{} of {}", measurement.name, case.name());
            let once = || run(measurement, *case).with_context(what);
            values.push(attempt(once, repeats)?);
        }
        round.push(values);
    }
    Ok(round)
}

fn attempt(run: impl Fn() -> Result<Vec<f64>>, repeats: &mut u32) -> Result<Vec<f64>> {
    for left in (0..ATTEMPTS).rev() {
        interrupt::check()?;
        match run() {
            Err(error) if left > 0 => {
                eprintln!("once more: {error:#}");
                *repeats += 1;
            }
            outcome => return outcome,
        }
    }
    unreachable!("the last attempt's outcome is returned")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::{Result, bail};

    use super::{Chosen, Rounds};
    use crate::network::{
        measurement::{ALL, Measurement},
        rig::Case,
    };

    /// Rounds of which certain calls fail, counted from 1.
    fn rounds(failing: &[u32]) -> Rounds {
        let chosen = [Chosen {
            measurement: &ALL[0],
            cases: vec![Case::Direct, Case::Routed],
        }];
        let calls = Cell::new(0);
        let run = |_: &Measurement, _| -> Result<Vec<f64>> {
            calls.set(calls.get() + 1);
            if failing.contains(&calls.get()) {
                bail!("call {}", calls.get());
            }
            Ok(vec![f64::from(calls.get())])
        };
        Rounds::run(&chosen, 2, run)
    }

    #[test]
    fn what_fails_is_measured_again() {
        let found = rounds(&[2, 3]);
        assert!(found.failure.is_none());
        assert_eq!(
            (found.complete, found.measurements, found.repeats),
            (2, 4, 2)
        );
        let expected = [vec![vec![1.0], vec![5.0]], vec![vec![4.0], vec![6.0]]];
        assert_eq!(found.samples, [expected]);
    }

    #[test]
    fn complete_rounds_are_kept() {
        let found = rounds(&[4, 5, 6]);
        let failure = format!("{:#}", found.failure.unwrap());
        assert!(failure.ends_with("of routed: call 6"), "{failure}");
        assert_eq!(
            (found.complete, found.measurements, found.repeats),
            (1, 2, 0)
        );
        assert_eq!(found.samples, [[[[1.0]], [[2.0]]]]);
    }
}
