//! From values to rows.

use super::{
    measurement::{Against, Quantity},
    rig::Case,
};
use crate::report::{self, Better, Row};

/// Of each case, in each round, the values of a measurement.
pub type Samples = Vec<Vec<Vec<f64>>>;

/// A row for each comparison of each case; `index` is the quantity's.
pub fn of(cases: &[Case], quantity: &Quantity, index: usize, samples: &Samples) -> Vec<Row> {
    let of_case = |rounds: &Vec<Vec<f64>>| rounds.iter().map(|values| values[index]).collect();
    let table = Values {
        cases,
        better: quantity.better,
        values: samples.iter().map(of_case).collect(),
    };
    let mut rows = Vec::new();
    for (case, values) in cases.iter().zip(&table.values) {
        let row = |against, goal| table.row(*case, values, against, goal, quantity.unit);
        match case {
            Case::Xlb(_) => {
                let goals = quantity.goals.iter();
                rows.extend(goals.filter_map(|(against, goal)| row(*against, Some(*goal))));
            }
            _ => rows.extend(row(Against::Case(quantity.base), None)),
        }
    }
    rows
}

/// A quantity of all cases, in each round.
struct Values<'a> {
    cases: &'a [Case],
    better: Better,
    values: Vec<Vec<f64>>,
}

impl Values<'_> {
    /// None if that wasn't measured.
    fn row(
        &self,
        case: Case,
        values: &[f64],
        against: Against,
        goal: Option<f64>,
        unit: &str,
    ) -> Option<Row> {
        let (floor, others) = match against {
            Against::Case(other) => (other.name(), self.of(other)?.to_vec()),
            Against::BestOther => ("best other", self.best_others(values.len())?),
        };
        let ratios = values
            .iter()
            .zip(&others)
            .map(|(value, other)| value / other);
        let ratios: Vec<f64> = ratios.collect();
        let ratio = report::median(&ratios);
        Some(Row {
            case: case.name().into(),
            unit: unit.into(),
            better: self.better,
            min: report::minimum(values),
            median: report::median(values),
            max: report::maximum(values),
            floor: floor.into(),
            ratio,
            ratios: Some([report::minimum(&ratios), report::maximum(&ratios)]),
            goal,
            met: goal.map(|goal| self.better.meets(ratio, goal)),
        })
    }

    fn of(&self, case: Case) -> Option<&[f64]> {
        let position = self.cases.iter().position(|other| *other == case)?;
        Some(&self.values[position])
    }

    /// Of each round the best value of those balancers that aren't xlb.
    fn best_others(&self, rounds: usize) -> Option<Vec<f64>> {
        let is_other = |case: &Case| matches!(case, Case::Other(_));
        let others = self.cases.iter().zip(&self.values);
        let others = others.filter(|(case, _)| is_other(case));
        let others: Vec<_> = others.map(|(_, values)| values).collect();
        let best = |round| {
            let values: Vec<f64> = others.iter().map(|values| values[round]).collect();
            match self.better {
                Better::Lower => report::minimum(&values),
                Better::Higher => report::maximum(&values),
            }
        };
        (!others.is_empty()).then(|| (0..rounds).map(best).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{Samples, of};
    use crate::{
        network::{
            measurement::{Against, Quantity},
            rig::{Case, Mode},
        },
        report::Better,
    };

    const CASES: [Case; 4] = [
        Case::Direct,
        Case::NFTABLES,
        Case::HAPROXY,
        Case::Xlb(Mode::Keep),
    ];
    const QUANTITY: Quantity = Quantity {
        title: "",
        about: "",
        unit: "k/s",
        better: Better::Higher,
        base: Case::Direct,
        goals: &[
            (Against::Case(Case::NFTABLES), 1.25),
            (Against::Case(Case::NGINX), 1.0),
            (Against::BestOther, 1.2),
        ],
    };

    /// The second of two quantities, in three rounds.
    fn samples() -> Samples {
        let rounds = |values: [f64; 3]| values.map(|value| vec![0.0, value]).to_vec();
        vec![
            rounds([20.0, 40.0, 30.0]),
            rounds([10.0, 20.0, 15.0]),
            rounds([5.0, 30.0, 6.0]),
            rounds([15.0, 36.0, 15.0]),
        ]
    }

    #[test]
    fn ratios_are_of_each_round() {
        let rows = of(&CASES, &QUANTITY, 1, &samples());
        let found: Vec<_> = rows
            .iter()
            .map(|row| (row.case.as_str(), row.floor.as_str(), row.ratio, row.met))
            .collect();
        // What wasn't measured (nginx) is compared with nothing.
        let expected = [
            ("direct", "direct", 1.0, None),
            ("nftables", "direct", 0.5, None),
            ("HAProxy", "direct", 0.25, None),
            ("xlb nat, client kept", "nftables", 1.5, Some(true)),
            ("xlb nat, client kept", "best other", 1.2, Some(true)),
        ];
        assert_eq!(found, expected);
        assert_eq!(rows[3].ratios, Some([1.0, 1.8]));
        assert_eq!(
            [rows[3].min, rows[3].median, rows[3].max],
            [15.0, 15.0, 36.0]
        );
    }
}
