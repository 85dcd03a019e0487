//! The data path's clock, which ticks once a second and can't be set: a test
//! that is about time has to wait for it.

use std::{thread::sleep, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// Its present second. `bpf_ktime_get_coarse_ns` reads the same clock.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
    now.tv_sec().cast_unsigned()
}

/// Waits until it has ticked so often.
pub fn ticks(count: u64) {
    let end = now() + count;
    while now() < end {
        sleep(Duration::from_millis(10));
    }
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
