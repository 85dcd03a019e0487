//! Slow start: the weight of a target that has turned healthy rises over a set
//! time, so that its caches and pools fill before the whole load comes. Pure.

use std::time::{Duration, Instant};

/// What a weight is divided into while a target of its group starts slowly: all
/// weights of the group are then counted in these parts, so that fractions of a
/// weight are whole numbers. A power of two, which leaves the Maglev table of
/// full weights as it is; and the greatest one with which the parts of the
/// greatest weight fit [`Member::weight`](crate::maglev::Member::weight).
pub const PARTS: u16 = 128;

/// The parts to begin with, a tenth: less would be too little for a small group
/// to notice that the target works.
const LEAST: u16 = 13;

/// The parts of its weight that a target has which turned healthy at `since`.
/// They rise in proportion to the time since then, and are all there once
/// `time` is over.
#[must_use]
pub fn parts(since: Instant, now: Instant, time: Duration) -> u16 {
    let passed = now.saturating_duration_since(since);
    if passed >= time {
        return PARTS;
    }
    let parts = passed.as_secs_f64() / time.as_secs_f64() * f64::from(PARTS);
    // Below `PARTS`, for less than `time` has passed.
    (parts as u16).max(LEAST)
}

#[cfg(test)]
mod tests {
    use lb_common::limits::MAX_WEIGHT;
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::maglev::{self, Member};

    #[test]
    fn the_parts_rise_with_the_time() {
        let since = Instant::now();
        let time = Duration::from_secs(30);
        for (milliseconds, expected) in [
            (0, 13),
            (3_000, 13),
            (3_300, 14),
            (7_500, 32),
            (15_000, 64),
            (29_999, 127),
            (30_000, 128),
            (300_000, 128),
        ] {
            let now = since + Duration::from_millis(milliseconds);
            assert_eq!(parts(since, now, time), expected, "{milliseconds} ms");
        }
        let before = since.checked_sub(time).unwrap();
        assert_eq!(parts(since, before, time), 13, "it turns healthy later");
    }

    #[test]
    fn the_greatest_weight_fits() {
        assert!(MAX_WEIGHT.checked_mul(PARTS).is_some());
    }

    proptest! {
        #[test]
        fn the_parts_never_fall(time in 1u64..90_000, a in 0u64..90_000, b in 0u64..90_000) {
            let since = Instant::now();
            let of = |passed| {
                let now = since + Duration::from_millis(passed);
                parts(since, now, Duration::from_millis(time))
            };
            prop_assert!(of(a.min(b)) <= of(a.max(b)));
            prop_assert!((LEAST..=PARTS).contains(&of(a)));
        }

        /// Nothing moves when the group begins to count in parts, or ends.
        #[test]
        fn full_weights_in_parts_make_the_same_table(weights in vec(1u16..=MAX_WEIGHT, 1..6)) {
            let build = |factor: u16| {
                let members: Vec<Member> = (1u16..)
                    .zip(&weights)
                    .map(|(id, weight)| Member { identity: id.into(), id, weight: weight * factor })
                    .collect();
                maglev::build(&members, 1_009, 7)
            };
            prop_assert_eq!(build(1), build(PARTS));
        }
    }
}
