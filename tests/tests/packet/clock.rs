//! The data path's clock, which ticks once a second and can't be set: a test
//! that is about time has to wait for it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use xlb_tests::wait;

/// Its present second. `bpf_ktime_get_coarse_ns` reads the same clock.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
    now.tv_sec().cast_unsigned()
}

/// Waits until it has ticked so often.
pub fn ticks(count: u64) {
    let (end, limit) = (now() + count, Duration::from_secs(count + 5));
    wait::until("the clock's ticks", limit, || {
        Ok((now() >= end).then_some(()))
    })
    .unwrap();
}

/// Does what must happen between two ticks.
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
