//! The loaded programs against a model of them (`fuzz/model.rs`), on packets and
//! control events that follow from a seed: verdict, bytes, counters and flow
//! tables must be the same. They need root.

mod fuzz {
    mod build;
    mod config;
    mod control;
    mod generate;
    mod kernel;
    mod model;
    mod mutate;
    mod packet;
    mod random;
    pub mod run;
    mod sums;
    mod world;
}

use std::time::{Duration, Instant};

use xlb_tests::cpu;

/// The same in every run, so that one that fails can be repeated.
const SEED: u64 = 1;
const TIME: Duration = Duration::from_secs(30);

/// `XLB_FUZZ_SEED` and `XLB_FUZZ_SECONDS`, as `cargo xtask fuzz` sets them.
fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
    )
}

#[test]
fn fuzz() {
    // Counters of a CPU are one CPU's.
    cpu::stay().unwrap();
    let seed = setting("XLB_FUZZ_SEED").unwrap_or(SEED);
    let time = setting("XLB_FUZZ_SECONDS").map_or(TIME, Duration::from_secs);
    println!("seed {seed}");
    let fuzz = fuzz::run::Fuzz::new();
    let start = Instant::now();
    let report = fuzz.run(seed, time);
    let rate = report.packets as f64 / start.elapsed().as_secs_f64();
    println!("{report:#?}\n{rate:.0} packets a second");
    report.assert_worth();
}
