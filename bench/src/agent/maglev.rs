//! Maglev tables: how long one takes to build, and how much of it moves when a
//! target goes or comes.

use std::{hint::black_box, time::Instant};

use anyhow::{Result, ensure};
use lb_common::limits::DEFAULT_TABLE_SIZE;
use lb_user::maglev::{Member, build, identity};

use super::Rig;
use crate::report::Row;

const MEMBERS: u16 = 1_000;
const SEED: u64 = 7;
/// Members that go, one at a time.
const LEAVERS: u16 = 100;
/// Milliseconds.
const BUILD: f64 = 5.0;
/// Slots may move: so much of the fewest that must, and of the table.
const MOVED: f64 = 1.05;
const OF_TABLE: f64 = 0.02;

pub fn measure(rig: &Rig) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (weights, greatest) in [("equal weights", 1), ("weights of 1 to 256", 256)] {
        let members: Vec<Member> = (0..MEMBERS).map(|id| member(id, greatest)).collect();
        let times: Vec<f64> = (0..rig.rounds).map(|_| time(&members)).collect();
        let case = format!("Maglev table of {MEMBERS} targets, {weights}");
        rows.push(Row::limited(case, "ms", &times, BUILD));
        rows.push(moved(&members, weights)?);
    }
    Ok(rows)
}

fn member(id: u16, greatest: u16) -> Member {
    Member {
        identity: identity(Some([10, 1, (id >> 8) as u8, id as u8].into()), 8_080),
        id,
        // Any order that isn't the ids'.
        weight: (u32::from(id) * 7_919 % u32::from(greatest)) as u16 + 1,
    }
}

/// Milliseconds.
fn time(members: &[Member]) -> f64 {
    let begin = Instant::now();
    black_box(build(black_box(members), DEFAULT_TABLE_SIZE, SEED));
    begin.elapsed().as_secs_f64() * 1e3
}

/// The slots that move, in parts of the most that may: what one who leaves had
/// must, and whoever comes takes as many back.
fn moved(members: &[Member], weights: &str) -> Result<Row> {
    let before = build(members, DEFAULT_TABLE_SIZE, SEED);
    let mut shares = Vec::new();
    for leaver in (0..MEMBERS).step_by(usize::from(MEMBERS / LEAVERS)) {
        let rest: Vec<Member> = members
            .iter()
            .copied()
            .filter(|it| it.id != leaver)
            .collect();
        let after = build(&rest, DEFAULT_TABLE_SIZE, SEED);
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count() as f64;
        let least = before.iter().filter(|&&id| id == leaver).count() as f64;
        ensure!(moved >= least, "slots name a target that has left");
        let most = MOVED * least + OF_TABLE * f64::from(DEFAULT_TABLE_SIZE);
        shares.push(moved / most);
    }
    let case = format!("slots moved as one target of {MEMBERS} goes, of those that may; {weights}");
    Ok(Row::limited(case, "ratio", &shares, 1.0))
}
