//! Maglev tables that were built before: an event changes few of them, and
//! building one takes a hundred times longer than comparing its members.

use std::{collections::BTreeMap, sync::Arc};

use super::state::Slots;
use crate::maglev::{self, Member};

/// The last table of each group, and what it was built from.
#[derive(Debug, Default)]
pub struct Tables {
    by_group: BTreeMap<u32, Built>,
}

#[derive(Debug)]
struct Built {
    members: Vec<Member>,
    seed: u64,
    slots: Slots,
}

impl Tables {
    /// The table of these members, as [`maglev::build`] makes it.
    pub(super) fn get(
        &mut self,
        group: u32,
        members: &[Member],
        table_size: u32,
        seed: u64,
    ) -> Slots {
        let known = self.by_group.get(&group).filter(|built| {
            built.seed == seed
                && built.slots.len() == table_size as usize
                && built.members == members
        });
        if let Some(built) = known {
            return Arc::clone(&built.slots);
        }
        let slots: Slots = maglev::build(members, table_size, seed).into();
        let built = Built {
            members: members.to_vec(),
            seed,
            slots: Arc::clone(&slots),
        };
        self.by_group.insert(group, built);
        slots
    }

    /// Forgets the tables of groups that aren't in `used`.
    pub(super) fn keep_only<T>(&mut self, used: &BTreeMap<u32, T>) {
        self.by_group.retain(|group, _| used.contains_key(group));
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A group, its members' weights, the table's size and the seed, out of so
    /// few that the same come again.
    fn request() -> impl Strategy<Value = (u32, Vec<u16>, u32, u64)> {
        let size = prop_oneof![Just(7u32), Just(13)];
        (0u32..2, vec(0u16..3, 0..3), size, 0u64..2)
    }

    fn members(weights: &[u16]) -> Vec<Member> {
        (0u16..)
            .zip(weights)
            .map(|(id, &weight)| Member {
                identity: id.into(),
                id,
                weight,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn a_kept_table_is_the_one_that_would_be_built(requests in vec(request(), 1..40)) {
            let mut tables = Tables::default();
            for (group, weights, size, seed) in requests {
                let members = members(&weights);
                let fresh = maglev::build(&members, size, seed);
                prop_assert_eq!(&*tables.get(group, &members, size, seed), fresh);
            }
        }
    }

    #[test]
    fn a_table_is_built_once() {
        let mut tables = Tables::default();
        let mut of = |weights: &[u16]| tables.get(0, &members(weights), 7, 0);
        let built = of(&[1, 1]);
        assert!(Arc::ptr_eq(&built, &of(&[1, 1])));
        assert!(!Arc::ptr_eq(&built, &of(&[1, 2])));
        tables.keep_only(&BTreeMap::from([(1, ())]));
        assert!(tables.by_group.is_empty());
    }
}
