//! The data path's clock, which ticks once a second and can't be set: a test
//! that is about time has to wait for it.

use std::{thread, time::Duration};

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime},
};

use crate::wait;

/// How old a second must be for the data path to have seen it: it looks at the
/// clock once a tick of the kernel's, which counts a tick before it moves the
/// clock on. So for as long as a tick it may go by the second before.
const SETTLED: Duration = Duration::from_millis(20);

/// `bpf_ktime_get_coarse_ns` reads the same clock.
fn read() -> TimeSpec {
    // The kernel knows this one.
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).unwrap_or_else(|error| panic!("clock: {error}"))
}

/// Its present second.
#[must_use]
pub fn now() -> u64 {
    read().tv_sec().cast_unsigned()
}

/// Its present second, once the data path sees that too.
#[must_use]
pub fn settled() -> u64 {
    loop {
        let now = read();
        let age = Duration::from_nanos(now.tv_nsec().cast_unsigned());
        if age >= SETTLED {
            return now.tv_sec().cast_unsigned();
        }
        thread::sleep(SETTLED - age);
    }
}

/// Waits until it has ticked so often.
///
/// # Panics
/// If the test is interrupted meanwhile.
pub fn ticks(count: u64) {
    let (end, limit) = (now() + count, Duration::from_secs(count + 5));
    wait::until("the clock's ticks", limit, || {
        Ok((settled() >= end).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}"));
}

/// Does what must happen between two ticks.
///
/// # Panics
/// If this machine never does it in a second.
pub fn within_a_second<T>(mut work: impl FnMut() -> T) -> T {
    for _ in 0..5 {
        ticks(1);
        let begin = now();
        let result = work();
        if now() == begin {
            return result;
        }
    }
    panic!("this machine is too slow for it");
}
